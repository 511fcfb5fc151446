//! Leases and owners: what ends by itself, who is told, and what a stale permit may still do.

// What a user of the crate holds; the house rules on clocks and threads are for `src/`.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use batchyard::resource::{AcquireError, Demand, OnExpiry, Owner, PermitError, Wait};
use batchyard::{ManualClock, Rate, RateLimiter, ResourceManager, Timestamp, millis, secs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

fn manager(time: &ManualClock, then: OnExpiry) -> ResourceManager {
    ResourceManager::builder().quota("gpu", 2).lease(secs(60), then).clock(time.clock()).build().unwrap()
}

/// Waits until somebody sleeps, and until then.
fn wait_for_deadline(time: &ManualClock, at: Duration) {
    let start = Instant::now();
    while time.next_deadline() != Some(Timestamp::ZERO + at) {
        assert!(start.elapsed() < secs(20), "{:?} is slept for, not {at:?}", time.next_deadline());
        thread::yield_now();
    }
}

fn gpu() -> Demand {
    "gpu".into()
}

fn expired(result: Result<(), PermitError>) -> bool {
    matches!(result, Err(PermitError::Expired { owner }) if owner == "worker")
}

fn worker() -> Wait {
    Wait::new().owner("worker")
}

#[test]
fn reclaimed_is_given_to_others_and_the_old_permit_is_inert() {
    let time = ManualClock::new();
    let manager = manager(&time, OnExpiry::Reclaim);
    let mut old = manager.acquire_with(&Demand::new().need("gpu", 2), &worker()).unwrap();
    assert!(old.is_leased());
    assert_eq!(manager.next_expiry(), Some(Timestamp::ZERO + secs(60)));
    time.advance(secs(60) - millis(1));
    assert_eq!((manager.sweep(), old.check()), (0, Ok(())));
    time.advance(millis(1));
    // Who would find too little looks for what is over.
    let new = manager.try_acquire(&Demand::new().need("gpu", 2)).unwrap();
    assert!(expired(old.check()) && expired(old.renew(secs(9))) && expired(old.shrink("gpu", 1)));
    assert!(expired(old.split(&gpu()).map(drop)));
    manager.set_limit("gpu", 3).unwrap();
    assert!(expired(old.extend(&gpu())));
    manager.set_limit("gpu", 2).unwrap();
    drop(old);
    assert_eq!((manager.in_use("gpu"), manager.available("gpu")), (Some(2), Some(0)));
    assert_eq!(new.check(), Ok(()));
    let stats = manager.kind_stats("gpu").unwrap();
    assert_eq!((stats.expired, stats.late_returns, manager.holders().len()), (1, 1, 1));
    drop(new);
    assert_eq!(manager.available("gpu"), Some(2));
}

#[test]
fn reported_stays_with_its_holder_and_is_told_once() {
    let time = ManualClock::new();
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let manager = ResourceManager::builder()
        .quota("gpu", 2)
        .on_lapse(move |holder, taken| tell.lock().unwrap().send((holder.clone(), taken)).unwrap())
        .clock(time.clock())
        .build()
        .unwrap();
    let (line, permit) = (line!(), manager.acquire_with(&gpu(), &worker().lease(secs(1))).unwrap());
    time.advance(secs(5));
    assert_eq!((manager.sweep(), manager.sweep()), (1, 0));
    let (holder, taken) = told.try_recv().unwrap();
    assert_eq!((&*holder.owner, taken, holder.overdue, holder.held_for), ("worker", false, true, secs(5)));
    assert!(holder.place.file().ends_with("resource_leases.rs") && holder.place.line() == line);
    assert_eq!(holder.demand, gpu());
    assert!(told.try_recv().is_err());
    assert!(matches!(permit.check(), Err(PermitError::Overdue { .. })));
    assert!(manager.holders()[0].overdue);
    assert_eq!(manager.in_use("gpu"), Some(1));
    // Renewed it stands again, and is told again when it is over again.
    permit.renew(secs(10)).unwrap();
    assert_eq!(permit.check(), Ok(()));
    time.advance(secs(10));
    assert_eq!(manager.sweep(), 1);
    drop(permit);
    let stats = manager.kind_stats("gpu").unwrap();
    assert_eq!((stats.expired, stats.late_returns, stats.in_use), (2, 0, 0));
    assert_eq!(manager.next_expiry(), None);
}

#[test]
fn revoked_is_closed_first_and_given_on_after_that_whatever_the_closing_does() {
    let time = ManualClock::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let built = {
        let seen = Arc::clone(&seen);
        manager(
            &time,
            OnExpiry::revoke(move |holder| {
                seen.lock().unwrap().push(holder.owner.clone());
                std::panic::resume_unwind(Box::new("swallowed"));
            }),
        )
    };
    let held = built.acquire_with(&Demand::new().need("gpu", 2), &worker()).unwrap();
    time.advance(secs(61));
    assert_eq!(built.sweep(), 1);
    assert_eq!((&**seen.lock().unwrap(), built.available("gpu")), (&["worker".to_string()][..], Some(2)));
    assert!(expired(held.check()));
}

#[test]
fn who_waits_is_there_when_the_lease_is_over() {
    let time = ManualClock::new();
    let manager = manager(&time, OnExpiry::Reclaim);
    std::mem::forget(manager.acquire(&Demand::new().need("gpu", 2)).unwrap());
    thread::scope(|s| {
        let waits = s.spawn(|| manager.acquire(&gpu()).map(drop));
        time.wait_for_sleepers(1);
        assert_eq!(time.next_deadline(), Some(Timestamp::ZERO + secs(60)));
        time.advance(secs(60));
        waits.join().unwrap().unwrap();
    });
}

#[test]
fn who_sleeps_is_told_of_an_earlier_end() {
    let time = ManualClock::new();
    let manager =
        ResourceManager::builder().quota("gpu", 2).quota("cpu", 9).clock(time.clock()).build().unwrap();
    let lease = |time| Wait::new().lease(time).on_expiry(OnExpiry::Reclaim).while_holding();
    std::mem::forget(manager.acquire_with(&Demand::new().need("gpu", 1), &lease(secs(50))).unwrap());
    let renewed = manager.acquire_with(&Demand::new().need("gpu", 1), &lease(secs(60))).unwrap();
    thread::scope(|s| {
        let waits = s.spawn(|| manager.acquire(&Demand::new().need("gpu", 2)).map(drop));
        wait_for_deadline(&time, secs(50));
        std::mem::forget(manager.acquire_with(&"cpu".into(), &lease(secs(20))).unwrap());
        wait_for_deadline(&time, secs(20));
        renewed.renew(secs(10)).unwrap();
        wait_for_deadline(&time, secs(10));
        time.advance(secs(10));
        wait_for_deadline(&time, secs(20));
        time.advance(secs(40));
        waits.join().unwrap().unwrap();
    });
    drop(renewed);
    assert_eq!((manager.available("gpu"), manager.available("cpu")), (Some(2), Some(9)));
}

#[test]
fn an_owners_end_gives_all_back_and_serves_who_waits() {
    let time = ManualClock::new();
    let manager = manager(&time, OnExpiry::Report);
    let owner = Owner::new("worker");
    let of = |owner: &Owner| Wait::new().owned_by(owner).while_holding();
    let other = Owner::new("other");
    let kept = manager.acquire_with(&gpu(), &of(&other)).unwrap();
    let stale = manager.acquire_with(&gpu(), &of(&owner)).unwrap();
    let clone = owner.clone();
    thread::scope(|s| {
        let waits = s.spawn(|| manager.acquire(&gpu()).map(drop));
        time.wait_for_sleepers(1);
        drop(owner);
        assert_eq!(stale.check(), Ok(()), "its clone is there");
        drop(clone);
        waits.join().unwrap().unwrap();
    });
    assert!(expired(stale.check()));
    assert_eq!(kept.check(), Ok(()));
    drop((kept, stale));
    let stats = manager.kind_stats("gpu").unwrap();
    assert_eq!((stats.available, stats.expired, stats.late_returns), (2, 1, 1));
}

/// Slots are used again a thousand times; each old handle stays inert.
#[test]
fn a_slot_that_is_used_again_owes_nothing_to_its_last_permit() {
    let time = ManualClock::new();
    let manager = manager(&time, OnExpiry::Reclaim);
    let mut stale = manager.acquire(&gpu()).unwrap();
    for round in 0..1_000 {
        time.advance(secs(60));
        assert_eq!(manager.sweep(), 1, "round {round}");
        let next = manager.acquire(&gpu()).unwrap();
        drop(std::mem::replace(&mut stale, next));
        assert_eq!((manager.in_use("gpu"), manager.holders().len()), (Some(1), 1));
    }
}

#[test]
fn of_a_drop_and_a_sweep_one_gives_back() {
    for _ in 0..200 {
        let time = ManualClock::new();
        let manager = manager(&time, OnExpiry::Reclaim);
        let permits: Vec<_> =
            (0..2).map(|_| manager.acquire_with(&gpu(), &Wait::new().while_holding()).unwrap()).collect();
        time.advance(secs(60));
        thread::scope(|s| {
            s.spawn(|| drop(permits));
            s.spawn(|| manager.sweep());
            s.spawn(|| manager.sweep());
        });
        let stats = manager.kind_stats("gpu").unwrap();
        assert_eq!((stats.available, stats.expired), (2, stats.late_returns));
    }
}

#[test]
fn a_deadline_comes_before_a_later_lease() {
    let time = ManualClock::new();
    let manager = manager(&time, OnExpiry::Reclaim);
    std::mem::forget(manager.acquire(&Demand::new().need("gpu", 2)).unwrap());
    thread::scope(|s| {
        let late = s.spawn(|| manager.acquire_by(&gpu(), secs(5)).map(drop));
        time.wait_for_sleepers(1);
        time.advance(secs(5));
        let timed_out = AcquireError::TimedOut { kind: "gpu".into(), waited: secs(5) };
        assert_eq!(late.join().unwrap(), Err(timed_out));
    });
}

#[test]
fn a_lease_of_zero_is_refused() {
    let time = ManualClock::new();
    let manager = manager(&time, OnExpiry::Report);
    let zero = Wait::new().lease(Duration::ZERO);
    for refused in [manager.try_acquire_with(&gpu(), &zero), manager.acquire_with(&gpu(), &zero)] {
        assert!(matches!(refused, Err(AcquireError::Invalid(wrong)) if wrong.field == "lease"));
    }
    let permit = manager.acquire(&gpu()).unwrap();
    let refused = permit.renew(Duration::ZERO);
    assert!(matches!(refused, Err(PermitError::Invalid(wrong)) if wrong.field == "lease"));
    assert_eq!((permit.check(), manager.next_expiry()), (Ok(()), Some(Timestamp::ZERO + secs(60))));
}

/// Whether it was taken back before, or is by the very call, which finds too little and looks for what is over.
#[test]
fn a_permit_that_is_gone_spends_no_tokens() {
    let time = ManualClock::new();
    let rate = RateLimiter::builder(Rate::per_second(1).burst(5)).clock(time.clock()).build().unwrap();
    let manager = ResourceManager::builder()
        .quota("gpu", 2)
        .rate("api", rate)
        .lease(secs(60), OnExpiry::Reclaim)
        .clock(time.clock())
        .build()
        .unwrap();
    for swept in [true, false] {
        let mut permit = manager.acquire_with(&Demand::new().need("gpu", 2), &worker()).unwrap();
        time.advance(secs(60));
        assert!(!swept || manager.sweep() == 1);
        assert!(expired(permit.extend(&gpu().pace("api", 3))));
        assert_eq!((manager.rate("api").unwrap().remaining(), manager.in_use("gpu")), (5, Some(0)));
    }
}

#[test]
fn no_part_outlives_its_owner() {
    let manager = manager(&ManualClock::new(), OnExpiry::Report);
    let many = Demand::new().need("gpu", 2);
    for _ in 0..2_000 {
        let owner = Owner::new("worker");
        let mut permit = manager.acquire_with(&many, &Wait::new().owned_by(&owner)).unwrap();
        let start = Barrier::new(2);
        thread::scope(|s| {
            let split = s.spawn(|| {
                start.wait();
                let part = permit.split(&gpu());
                std::mem::forget((part, permit));
            });
            start.wait();
            drop(owner);
            split.join().unwrap();
        });
        assert_eq!((manager.in_use("gpu"), manager.holders().len()), (Some(0), 0));
    }
}

/// Counts itself out, whatever becomes of it: who waits for that does not wait for ever.
struct Going<'a>(&'a AtomicUsize);

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Permits come and go in every way while others look at all of them. What is seen belongs together, and in the end all
/// is back.
#[test]
fn who_looks_sees_each_permit_whole_while_they_come_and_go() {
    let manager = ResourceManager::builder().quota("gpu", 64).quota("cpu", 64).build().unwrap();
    let (going, rounds) = (AtomicUsize::new(3), 4_000);
    thread::scope(|s| {
        for i in 1..=3_u64 {
            let (manager, going) = (&manager, &going);
            s.spawn(move || {
                let _going = Going(going);
                let (name, mut owner) = (format!("{i}"), Owner::new(format!("{}", i + 10)));
                let mine = Demand::new().need("gpu", i).need("cpu", i);
                let more = Demand::new().need("gpu", i + 10);
                for round in 0..rounds {
                    let permit = manager.try_acquire_with(&mine, &Wait::new().owner(name.clone())).unwrap();
                    let other = manager.try_acquire_with(&more, &Wait::new().owned_by(&owner)).unwrap();
                    if round % 8 == 0 {
                        // Its owner's end takes it back.
                        std::mem::forget(other);
                        owner = Owner::new(owner.name().to_owned());
                    }
                    drop(permit);
                }
            });
        }
        s.spawn(|| {
            while going.load(Ordering::Relaxed) > 0 {
                for holder in manager.holders() {
                    let n: u64 = holder.owner.parse().unwrap();
                    let cpu = if n > 10 { 0 } else { n };
                    assert_eq!((holder.demand.amount("gpu"), holder.demand.amount("cpu")), (n, cpu));
                }
            }
        });
    });
    assert_eq!(manager.holders().len(), 0);
    assert_eq!((manager.available("gpu"), manager.available("cpu")), (Some(64), Some(64)));
}

/// Throws when it is dropped, also as what another panic threw.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("again"));
    }
}

/// Whatever the functions do, all comes back and all are told; nobody's function runs before what needs none is back.
#[test]
fn functions_that_panic_twice_lose_nothing() {
    let time = ManualClock::new();
    let free = Arc::new(Mutex::new((Vec::new(), None::<ResourceManager>)));
    let seen = free.clone();
    let manager = ResourceManager::builder()
        .quota("gpu", 4)
        .on_lapse(move |_, taken| {
            let mut seen = seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let free = seen.1.as_ref().and_then(|manager| manager.available("gpu"));
            assert!(taken);
            seen.0.push(free);
            drop(seen);
            std::panic::panic_any(Bomb);
        })
        .clock(time.clock())
        .build()
        .unwrap();
    free.lock().unwrap().1 = Some(manager.clone());
    for _ in 0..2 {
        for i in 0..4 {
            let then = match i % 2 {
                0 => OnExpiry::Reclaim,
                // The permit's copy of it is the last one: `wait` goes before.
                _ => {
                    let bomb = Bomb;
                    OnExpiry::revoke(move |_| {
                        let _bomb = &bomb;
                        std::panic::panic_any(Bomb)
                    })
                }
            };
            let wait = worker().lease(secs(1)).on_expiry(then).while_holding();
            std::mem::forget(manager.acquire_with(&gpu(), &wait).unwrap());
        }
        time.advance(secs(1));
        assert_eq!(manager.sweep(), 4);
        assert_eq!(std::mem::take(&mut free.lock().unwrap().0), [Some(4); 4]);
        assert_eq!(manager.available("gpu"), Some(4));
    }
}
