//! `ResourceManager`: what is had, what is refused and why, limits that move, rates, and counts.

// What a user of the crate holds; the house rules on clocks and threads are for `src/`.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use batchyard::resource::{AcquireError, Cancel, Demand, Owner, PermitError, SetLimitError, Wait};
use batchyard::{
    Deadline, ManualClock, Priority, Rate, RateLimiter, ResourceKind, ResourceManager, Timestamp, secs,
};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

const DB: ResourceKind = ResourceKind::DatabaseConnection;

fn two_kinds(time: &ManualClock) -> ResourceManager {
    ResourceManager::builder().quota(DB, 2).quota("gpu", 1).clock(time.clock()).build().unwrap()
}

fn both() -> Demand {
    Demand::new().need("gpu", 1).need(DB, 1)
}

/// Waits until so many calls wait for a kind.
fn wait_for(manager: &ResourceManager, kind: &str, waiting: usize) {
    let start = Instant::now();
    while manager.waiting(kind) != Some(waiting) {
        assert!(start.elapsed() < secs(20), "{:?} wait, not {waiting}", manager.waiting(kind));
        thread::yield_now();
    }
}

#[test]
fn handles_cross_threads() {
    fn is<T: Send + Sync + 'static>() {}
    is::<ResourceManager>();
    is::<batchyard::resource::Permit>();
    is::<Owner>();
    is::<Cancel>();
    is::<Demand>();
    is::<AcquireError>();
    let manager = two_kinds(&ManualClock::new());
    let permit = manager.clone().acquire(&both()).unwrap();
    thread::spawn(move || drop(permit)).join().unwrap();
    assert_eq!((manager.available(DB), manager.available("gpu")), (Some(2), Some(1)));
}

#[test]
fn settings_are_checked() {
    let field = |b: batchyard::resource::ResourceManagerBuilder| b.build().unwrap_err().field;
    let new = ResourceManager::builder;
    assert_eq!(field(new().quota("gpu", 0)), "quota.gpu");
    assert_eq!(field(new().quota("gpu", u64::MAX)), "quota.gpu");
    assert_eq!(field(new().quota("file_handle", 1).quota(ResourceKind::FileHandle, 1)), "quota.file_handle");
    assert_eq!(field(new().quota("gpu", 2).reserve_for("gpu", Priority::High, 2)), "reserve");
    assert_eq!(field(new().quota("gpu", 2).reserve_for("cpu", Priority::High, 1)), "reserve");
    assert_eq!(field(new().bypass(32)), "bypass");
    assert_eq!(field(new().max_waiters(0)), "max_waiters");
    assert_eq!(field(new().lease(secs(0), batchyard::resource::OnExpiry::Report)), "lease");
    let rate = RateLimiter::new(Rate::per_second(1)).unwrap();
    assert_eq!(field(new().rate("api", rate.clone()).rate("api", rate)), "rate.api");
}

#[test]
fn what_is_unknown_or_impossible_is_said_at_once() {
    let time = ManualClock::new();
    let rate = RateLimiter::builder(Rate::per_second(1).burst(3)).clock(time.clock()).build().unwrap();
    let manager = ResourceManager::builder()
        .quota("gpu", 2)
        .reserve_for("gpu", Priority::High, 1)
        .rate("api", rate)
        .clock(time.clock())
        .build()
        .unwrap();
    for wrong in [manager.acquire(&both()), manager.try_acquire(&both())] {
        assert_eq!(wrong.unwrap_err(), AcquireError::UnknownKind { kind: DB });
    }
    let paced = |name: &str, n| Demand::new().pace(name, n);
    assert_eq!(
        manager.acquire(&paced("gpu", 1)).unwrap_err(),
        AcquireError::UnknownRate { rate: "gpu".into() }
    );
    let never = |kind: &str, asked, limit| AcquireError::NeverFits { kind: kind.into(), asked, limit };
    assert_eq!(manager.acquire(&paced("api", 4)).unwrap_err(), never("api", 4, 3));
    assert_eq!(manager.acquire(&Demand::new().need("gpu", 2)).unwrap_err(), never("gpu", 2, 1));
    let nine = (0..9).fold(ResourceManager::builder(), |b, i| b.quota(format!("k{i}"), 1)).build().unwrap();
    let all = (0..9).fold(Demand::new(), |d, i| d.need(format!("k{i}"), 1));
    assert_eq!(nine.acquire(&all).unwrap_err(), AcquireError::TooManyKinds { asked: 9, most: 8 });
    assert_eq!(manager.acquire(&Demand::new()).unwrap().amount("gpu"), 0);
}

#[test]
fn all_or_nothing() {
    let manager = two_kinds(&ManualClock::new());
    let gpu = manager.acquire(&"gpu".into()).unwrap();
    assert_eq!(manager.try_acquire(&both()).unwrap_err(), AcquireError::Full { kind: "gpu".into() });
    assert_eq!(manager.available(DB), Some(2));
    thread::scope(|s| {
        let waits = s.spawn(|| manager.acquire(&both()).map(drop));
        wait_for(&manager, "gpu", 1);
        // It waits with nothing in hand, and others pass it with what it needs of the rest.
        assert_eq!(manager.available(DB), Some(2));
        drop(manager.try_acquire(&Demand::new().need(DB, 2)).unwrap());
        drop(gpu);
        waits.join().unwrap().unwrap();
    });
    assert_eq!((manager.in_use(DB), manager.in_use("gpu")), (Some(0), Some(0)));
}

#[test]
fn waits_end_by_deadline_cancel_close_and_limit() {
    let time = ManualClock::new();
    let manager = two_kinds(&time);
    let held = manager.acquire(&Demand::new().need(DB, 2).need("gpu", 1)).unwrap();
    let cancel = Cancel::new();
    thread::scope(|s| {
        let late = s.spawn(|| manager.acquire_by(&both(), secs(3)).map(drop));
        time.wait_for_sleepers(1);
        time.advance(secs(3));
        let timed_out = AcquireError::TimedOut { kind: DB, waited: secs(3) };
        assert_eq!(late.join().unwrap(), Err(timed_out));

        let cancelled =
            s.spawn(|| manager.acquire_with(&both(), &Wait::new().cancel(&cancel).by(secs(100))).map(drop));
        time.wait_for_sleepers(1);
        cancel.cancel();
        assert_eq!(cancelled.join().unwrap(), Err(AcquireError::Cancelled));

        let shrunk = s.spawn(|| manager.acquire(&Demand::new().need(DB, 2)).map(drop));
        wait_for(&manager, "database_connection", 1);
        manager.set_limit(DB, 1).unwrap();
        assert_eq!(shrunk.join().unwrap(), Err(AcquireError::NeverFits { kind: DB, asked: 2, limit: 1 }));

        let closed = s.spawn(|| manager.acquire(&both()).map(drop));
        wait_for(&manager, "gpu", 1);
        assert!(manager.close_kind("gpu") && !manager.close_kind("cpu"));
        assert_eq!(closed.join().unwrap(), Err(AcquireError::Closed { kind: "gpu".into() }));
    });
    assert_eq!(manager.available(DB), Some(-1));
    drop(held);
    assert_eq!((manager.available(DB), manager.available("gpu")), (Some(1), Some(1)));
    let stats = manager.kind_stats(DB).unwrap();
    assert_eq!((stats.timed_out, stats.cancelled, stats.refused, stats.granted), (1, 1, 2, 1));
    manager.close();
    assert_eq!(manager.try_acquire(&DB.into()).unwrap_err(), AcquireError::Closed { kind: DB });
    let unknown = manager.set_limit("cpu", 1).unwrap_err();
    assert_eq!(unknown, SetLimitError::UnknownKind { kind: "cpu".into() });
    assert!(matches!(manager.set_limit(DB, 0), Err(SetLimitError::Invalid(_))));
}

#[test]
fn who_holds_something_does_not_wait_for_more() {
    let time = ManualClock::new();
    let manager = two_kinds(&time);
    let owner = Owner::new("one");
    let gpu = manager.acquire_with(&"gpu".into(), &Wait::new().owned_by(&owner)).unwrap();
    // What is there may be had.
    let mut db = manager.acquire(&Demand::new().need(DB, 2)).unwrap();
    let refused = manager.acquire(&"gpu".into()).unwrap_err();
    let AcquireError::WouldHoldAndWait { kind, place, .. } = &refused else { panic!("{refused}") };
    assert_eq!(*kind, "gpu".into());
    assert!(place.contains("resource_manager.rs"), "{place}");
    // Another thread of the same owner.
    thread::scope(|s| {
        let wait = Wait::new().owned_by(&owner);
        let other = s.spawn(move || manager.acquire_with(&DB.into(), &wait).map(drop).unwrap_err());
        assert!(matches!(other.join().unwrap(), AcquireError::WouldHoldAndWait { .. }));
    });
    let manager = two_kinds(&time);
    drop((gpu, db));
    db = manager.acquire(&Demand::new().need(DB, 2)).unwrap();
    // Who says that it knows what it does, and whose permit was handed on.
    let known = Wait::new().while_holding().by(Deadline::NOW);
    assert!(matches!(manager.acquire_with(&DB.into(), &known), Err(AcquireError::TimedOut { .. })));
    db.unbind();
    thread::scope(|s| {
        s.spawn(|| {
            wait_for(&manager, "database_connection", 1);
            drop(db);
        });
        drop(manager.acquire(&DB.into()).unwrap());
    });
}

#[test]
fn no_more_wait_than_may() {
    let manager = ResourceManager::builder().quota("gpu", 1).max_waiters(1).build().unwrap();
    let held = manager.acquire(&"gpu".into()).unwrap();
    thread::scope(|s| {
        let first = s.spawn(|| manager.acquire(&"gpu".into()).map(drop));
        wait_for(&manager, "gpu", 1);
        let second = s.spawn(|| manager.acquire(&"gpu".into()).map(drop).unwrap_err());
        assert_eq!(second.join().unwrap(), AcquireError::QueueFull { most: 1 });
        drop(held);
        first.join().unwrap().unwrap();
    });
}

#[test]
fn rates_are_paid_last_and_nothing_is_held_meanwhile() {
    let time = ManualClock::new();
    let rate =
        |per_second| RateLimiter::builder(Rate::per_second(per_second)).clock(time.clock()).build().unwrap();
    let manager = ResourceManager::builder()
        .quota("gpu", 1)
        .rate("api", rate(1))
        .rate("slow", RateLimiter::builder(Rate::per_minute(60)).clock(time.clock()).build().unwrap())
        .clock(time.clock())
        .build()
        .unwrap();
    let demand = Demand::new().need("gpu", 1).pace("api", 1);
    let several = demand.clone().pace("slow", 1);
    drop(manager.try_acquire(&demand).unwrap());
    // No permit stays with who is refused for a rate, and no token of another rate is spent.
    for d in [&demand, &several] {
        let paced = manager.try_acquire(d).unwrap_err();
        assert_eq!(paced, AcquireError::Paced { rate: "api".into(), ready_in: secs(1) });
        assert_eq!(manager.available("gpu"), Some(1));
    }
    assert_eq!(manager.rate("slow").unwrap().remaining(), 1);
    let soon = manager.acquire_by(&demand, batchyard::millis(900)).unwrap_err();
    assert_eq!(soon, AcquireError::Paced { rate: "api".into(), ready_in: secs(1) });
    thread::scope(|s| {
        let waits = s.spawn(|| manager.acquire(&several).map(|p| p.amount("gpu")));
        time.wait_for_sleepers(1);
        assert_eq!(manager.available("gpu"), Some(1));
        // The permit is gone when the tokens come: it waits for that, too, and the tokens stay paid.
        let held = manager.try_acquire(&"gpu".into()).unwrap();
        time.advance(secs(1));
        wait_for(&manager, "gpu", 1);
        drop(held);
        assert_eq!(waits.join().unwrap(), Ok(1));
    });
    let cancel = Cancel::new();
    thread::scope(|s| {
        let waits = s.spawn(|| manager.acquire_with(&demand, &Wait::new().cancel(&cancel)).map(drop));
        time.wait_for_sleepers(1);
        cancel.cancel();
        assert_eq!(waits.join().unwrap(), Err(AcquireError::Cancelled));
    });
    time.advance(secs(1));
    drop(manager.try_acquire(&demand).unwrap());
}

/// Places whose time came while the permit was another's are not all used in one moment.
#[test]
fn tokens_that_came_while_a_permit_was_waited_for_are_no_burst() {
    const WAITERS: usize = 5;
    let time = ManualClock::new();
    let rate = RateLimiter::builder(Rate::per_second(10)).clock(time.clock()).build().unwrap();
    let manager =
        ResourceManager::builder().quota("gpu", 1).rate("api", rate).clock(time.clock()).build().unwrap();
    let demand = Demand::new().need("gpu", 1).pace("api", 1);
    drop(manager.acquire(&demand).unwrap());
    let granted = Arc::new(AtomicUsize::new(0));
    let until = |what: &str, is: &dyn Fn() -> bool| {
        let start = Instant::now();
        while !is() {
            assert!(start.elapsed() < secs(20), "never: {what}; {granted:?} were granted");
            thread::yield_now();
        }
    };
    let after = |n: usize| {
        until("so many were granted, and the others sleep for their tokens", &|| {
            (granted.load(Ordering::Relaxed), time.sleepers()) == (n, WAITERS - n)
        });
    };
    for _ in 0..WAITERS {
        let (manager, demand, granted) = (manager.clone(), demand.clone(), Arc::clone(&granted));
        thread::spawn(move || {
            drop(manager.acquire(&demand).unwrap());
            granted.fetch_add(1, Ordering::Relaxed);
        });
    }
    after(0);
    let held = manager.acquire(&"gpu".into()).unwrap();
    time.advance(secs(60));
    until("all wait for the permit", &|| manager.waiting("gpu") == Some(WAITERS));
    drop(held);
    // The one place that was late, and the burst of one.
    after(2);
    for all in 3..=WAITERS {
        time.advance(batchyard::millis(100));
        after(all);
    }
    assert_eq!(manager.available("gpu"), Some(1));
}

/// Whoever waits for a permit with its token due is waited for by nobody: the permit's holder, of whom nothing is known but
/// that it has the permit, can go on.
#[test]
fn who_had_a_token_holds_nobody_up() {
    let time = ManualClock::new();
    let rate = RateLimiter::builder(Rate::per_second(1)).clock(time.clock()).build().unwrap();
    let manager = ResourceManager::builder().quota("disk", 1).quota("net", 1).rate("api", rate);
    let manager = manager.clock(time.clock()).build().unwrap();
    manager.rate("api").unwrap().acquire(1).unwrap();
    let asks = |kind: &str| {
        let (manager, demand) = (manager.clone(), Demand::new().need(kind, 1).pace("api", 1));
        thread::spawn(move || drop(manager.acquire(&demand).unwrap()))
    };
    let first = asks("disk");
    let sleepers = |n| {
        let start = Instant::now();
        while time.sleepers() != n {
            assert!(start.elapsed() < secs(20), "{} sleep", time.sleepers());
            thread::yield_now();
        }
    };
    sleepers(1);
    let disk = manager.acquire(&"disk".into()).unwrap();
    time.advance(secs(1));
    wait_for(&manager, "disk", 1);
    // The token that has come is for whoever has the rest.
    asks("net").join().unwrap();
    drop(disk);
    sleepers(1);
    time.advance(secs(1));
    first.join().unwrap();
}

/// Places in two rates, of which one comes later: what has come of the other meanwhile is no burst either.
#[test]
fn tokens_that_came_while_another_rate_was_waited_for_are_no_burst() {
    const WAITERS: usize = 5;
    let time = ManualClock::new();
    let rate = |rate| {
        RateLimiter::builder(rate).max_rate(Rate::per_second(1_000)).clock(time.clock()).build().unwrap()
    };
    let manager = ResourceManager::builder()
        .rate("fast", rate(Rate::per_second(1)))
        .rate("slow", rate(Rate::per(1, secs(3_600))))
        .clock(time.clock())
        .build()
        .unwrap();
    manager.rate("fast").unwrap().acquire(1).unwrap();
    let slow = manager.rate("slow").unwrap();
    slow.acquire(1).unwrap();
    let granted = Arc::new(AtomicUsize::new(0));
    for _ in 0..WAITERS {
        let (manager, granted) = (manager.clone(), Arc::clone(&granted));
        thread::spawn(move || {
            drop(manager.acquire(&Demand::new().pace("fast", 1).pace("slow", 1)).unwrap());
            granted.fetch_add(1, Ordering::Relaxed);
        });
    }
    time.wait_for_sleepers(WAITERS);
    let start = Instant::now();
    // Each place of the first rate comes long before one of the second; then these come all together.
    for _ in 0..60 {
        assert_eq!(granted.load(Ordering::Relaxed), 0);
        time.advance(secs(1));
        // Whoever has its place awake has dealt with it.
        while time.sleepers() < WAITERS || time.next_deadline() <= Some(time.now()) {
            assert!(start.elapsed() < secs(20), "only {} sleep", time.sleepers());
            thread::yield_now();
        }
    }
    slow.set_rate(Rate::per_second(1_000)).unwrap();
    time.advance(secs(1));
    let mut most = 3; // one that was late, the burst, and one a second
    loop {
        let now = granted.load(Ordering::Relaxed);
        assert!(now <= most, "{now} were granted, where {most} may be");
        if now == WAITERS {
            return;
        }
        assert!(start.elapsed() < secs(20), "only {now} were granted");
        if now + time.sleepers() == WAITERS {
            most += 1;
            time.advance(secs(1));
        }
        thread::yield_now();
    }
}

/// Two disks, and a rate of one an hour whose token is gone.
fn disk_and_rate(time: &ManualClock) -> (ResourceManager, Demand) {
    let rate = RateLimiter::builder(Rate::per_hour(1)).clock(time.clock()).counted().build().unwrap();
    let manager = ResourceManager::builder().quota("disk", 2).rate("api", rate).max_waiters(1);
    let manager = manager.clock(time.clock()).build().unwrap();
    manager.rate("api").unwrap().acquire(1).unwrap();
    (manager, Demand::new().need("disk", 2).pace("api", 1))
}

#[test]
fn a_token_that_comes_too_late_is_not_asked_for() {
    let time = ManualClock::new();
    let (manager, demand) = disk_and_rate(&time);
    let late = manager.acquire_with(&demand, &Wait::new().by(secs(3_599)));
    assert!(matches!(late, Err(AcquireError::Paced { .. })), "{late:?}");
    let cancel = Cancel::new();
    cancel.cancel();
    let wait = Wait::new().cancel(&cancel);
    assert_eq!(manager.acquire_with(&demand, &wait).map(drop), Err(AcquireError::Cancelled));
    // A place would have been taken, and given back.
    assert_eq!(manager.rate("api").unwrap().stats().counts.map(|counts| counts.cancelled), Some(0));
}

/// Who sleeps for its tokens is one who waits, and hears of a close.
#[test]
fn who_sleeps_for_tokens_waits_for_the_permits_too() {
    let time = ManualClock::new();
    let (manager, demand) = disk_and_rate(&time);
    let sleeps = |what: fn(&ResourceManager)| {
        thread::scope(|scope| {
            let first = scope.spawn(|| manager.acquire(&demand).map(drop));
            time.wait_for_sleepers(1);
            assert_eq!(manager.acquire(&demand).map(drop), Err(AcquireError::QueueFull { most: 1 }));
            what(&manager);
            first.join().unwrap()
        })
    };
    let sets = |manager: &ResourceManager| manager.set_limit("disk", 1).unwrap();
    assert!(matches!(sleeps(sets), Err(AcquireError::NeverFits { asked: 2, limit: 1, .. })));
    manager.set_limit("disk", 2).unwrap();
    assert_eq!(sleeps(ResourceManager::close), Err(AcquireError::Closed { kind: "api".into() }));
    assert_eq!(manager.rate("api").unwrap().stats().counts.unwrap().cancelled, 2);
    let (manager, _) = disk_and_rate(&time);
    thread::scope(|scope| {
        let tokens = scope.spawn(|| manager.acquire(&Demand::new().pace("api", 1)).map(drop));
        time.wait_for_sleepers(1);
        manager.close();
        assert_eq!(tokens.join().unwrap(), Err(AcquireError::Closed { kind: "api".into() }));
    });
    time.advance(secs(3_600));
    assert!(manager.try_acquire(&Demand::new().pace("api", 1)).is_err());
}

/// Who has lost its tokens to others three times keeps them.
#[test]
fn nobody_goes_round_for_ever() {
    let time = ManualClock::new();
    let (manager, demand) = disk_and_rate(&time);
    let tokens = Demand::new().pace("api", 1);
    thread::scope(|scope| {
        let first = scope.spawn(|| manager.acquire(&demand).map(drop));
        for lap in 0..4 {
            time.wait_for_sleepers(1);
            let disk = manager.acquire(&"disk".into()).unwrap();
            time.advance(secs(3_600));
            wait_for(&manager, "disk", 1);
            assert_eq!(manager.try_acquire(&tokens).is_ok(), lap < 3, "in lap {lap}");
            drop(disk);
        }
        first.join().unwrap().unwrap();
    });
}

/// Who waits as long as it takes waits through a pause without an end, whatever it was waiting for when that began.
#[test]
fn a_pause_without_an_end_throws_nobody_out() {
    let time = ManualClock::new();
    let (manager, demand) = disk_and_rate(&time);
    let rate = manager.rate("api").unwrap();
    thread::scope(|scope| {
        let first = scope.spawn(|| manager.acquire(&demand).map(drop));
        time.wait_for_sleepers(1);
        let disk = manager.acquire(&"disk".into()).unwrap();
        time.advance(secs(3_600));
        wait_for(&manager, "disk", 1);
        rate.pause_until(Timestamp::MAX);
        drop(disk);
        // It has had its permits, and given them up again.
        let start = Instant::now();
        while manager.waiting("disk") != Some(0) || manager.available("disk") != Some(2) {
            assert!(start.elapsed() < secs(20) && !first.is_finished(), "it does not wait");
            thread::yield_now();
        }
        (0..10_000).for_each(|_| thread::yield_now());
        let denied = rate.stats().counts.map(|counts| counts.denied);
        rate.resume();
        first.join().unwrap().unwrap();
        // It slept: who goes round is denied each time.
        assert!(denied < Some(20), "{denied:?} times");
    });
    rate.pause_until(Timestamp::MAX);
    let late = manager.acquire_with(&demand, &Wait::new().by(secs(1)));
    assert!(matches!(late, Err(AcquireError::Paced { .. })), "{late:?}");
}

/// Tokens that have come are for whoever has the permit, and in a pause for nobody.
#[test]
fn what_one_cannot_use_another_can() {
    let time = ManualClock::new();
    let (manager, demand) = disk_and_rate(&time);
    let cancel = Cancel::new();
    thread::scope(|scope| {
        let first = scope.spawn(|| manager.acquire_with(&demand, &Wait::new().cancel(&cancel)).map(drop));
        time.wait_for_sleepers(1);
        let disk = manager.acquire(&"disk".into()).unwrap();
        time.advance(secs(3_600));
        wait_for(&manager, "disk", 1);
        cancel.cancel();
        assert_eq!(first.join().unwrap(), Err(AcquireError::Cancelled));
        drop(disk);
    });
    let rate = manager.rate("api").unwrap();
    rate.pause_until(time.now() + secs(60));
    assert!(manager.try_acquire(&demand).is_err(), "in a pause");
    rate.resume();
    drop(manager.try_acquire(&demand).unwrap());
    assert!(matches!(manager.try_acquire(&demand), Err(AcquireError::Paced { .. })), "there was one");
}

/// So many tokens that they do not run out.
const MANY: u64 = 1 << 40;

/// Two rates; of the first one there are many tokens, and hardly any come.
fn two_rates(time: &ManualClock, second: Rate) -> (ResourceManager, Demand) {
    let limiter = |rate: Rate| RateLimiter::builder(rate).clock(time.clock()).build().unwrap();
    let manager = ResourceManager::builder()
        .rate("many", limiter(Rate::per(1, secs(1_000_000)).burst(MANY)))
        .rate("few", limiter(second))
        .clock(time.clock())
        .build()
        .unwrap();
    (manager, Demand::new().pace("many", 1).pace("few", 1))
}

#[test]
fn a_demand_that_is_refused_for_one_rate_costs_the_other_nothing() {
    let time = ManualClock::new();
    let (manager, both) = two_rates(&time, Rate::per_hour(1));
    manager.rate("few").unwrap().try_acquire(1).unwrap();
    let (over, taken) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|s| {
        s.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                drop(manager.try_acquire(&Demand::new().pace("many", 1)).unwrap());
                taken.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..50_000 {
            let refused = manager.try_acquire(&both).unwrap_err();
            assert_eq!(refused, AcquireError::Paced { rate: "few".into(), ready_in: secs(3600) });
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(manager.rate("many").unwrap().remaining(), MANY - taken.load(Ordering::Relaxed) as u64);
}

#[test]
fn of_demands_over_two_rates_one_has_the_last_token_and_the_others_lose_none() {
    const ROUNDS: u64 = 1000;
    let time = ManualClock::new();
    let (manager, both) = two_rates(&time, Rate::per_second(1));
    let (round, granted) = (Barrier::new(3), AtomicUsize::new(0));
    thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                for _ in 0..ROUNDS {
                    round.wait();
                    granted.fetch_add(usize::from(manager.try_acquire(&both).is_ok()), Ordering::Relaxed);
                    if round.wait().is_leader() {
                        time.advance(secs(1));
                    }
                }
            });
        }
    });
    assert_eq!(granted.load(Ordering::Relaxed) as u64, ROUNDS);
    assert_eq!(manager.rate("many").unwrap().remaining(), MANY - ROUNDS);
}

/// A sleeper hears of a burst below its tokens, also if it is as before when it looks; and not, if it may owe.
#[test]
fn a_burst_that_falls_below_what_is_waited_for_ends_the_wait() {
    let time = ManualClock::new();
    let rate = |burst| RateLimiter::builder(Rate::per_second(1).burst(burst)).clock(time.clock());
    let manager = ResourceManager::builder()
        .rate("api", rate(5).build().unwrap())
        .rate("log", rate(9).build().unwrap())
        .clock(time.clock())
        .build()
        .unwrap();
    let api = manager.rate("api").unwrap();
    let five = Demand::new().pace("api", 5);
    for demand in [five.clone(), five.clone().pace("log", 1)] {
        api.set_burst(5).unwrap();
        while api.try_acquire(1).is_ok() {}
        let (tell, told) = std::sync::mpsc::channel();
        let sleeper = manager.clone();
        thread::spawn(move || tell.send(sleeper.acquire(&demand).map(drop)));
        let start = Instant::now();
        while time.next_deadline().is_none() {
            assert!(start.elapsed() < secs(20), "nobody sleeps");
            thread::yield_now();
        }
        api.set_burst(2).unwrap();
        let heard = told.recv_timeout(secs(20)).expect("it does not sleep for ever");
        assert_eq!(heard, Err(AcquireError::NeverFits { kind: "api".into(), asked: 5, limit: 2 }));
    }
}

#[test]
fn a_reserve_and_the_order_by_priority() {
    let manager =
        ResourceManager::builder().quota("gpu", 2).reserve_for("gpu", Priority::High, 1).build().unwrap();
    let low = manager.try_acquire(&"gpu".into()).unwrap();
    assert_eq!(manager.try_acquire(&"gpu".into()).unwrap_err(), AcquireError::Full { kind: "gpu".into() });
    let high = manager.try_acquire_with(&"gpu".into(), &Wait::new().priority(Priority::High)).unwrap();
    assert_eq!(manager.kind_stats("gpu").unwrap().reserved, 1);
    drop((low, high));
}

#[test]
fn a_permit_is_changed() {
    let manager = ResourceManager::builder().quota(DB, 10).quota("gpu", 2).build().unwrap();
    let mut permit = manager.acquire(&Demand::new().need(DB, 6)).unwrap();
    permit.shrink(DB, 2).unwrap();
    assert_eq!((permit.amount(DB), manager.available(DB)), (4, Some(6)));
    let short = PermitError::NotHeld { kind: DB, asked: 5, held: 4 };
    assert_eq!(permit.shrink(DB, 5).unwrap_err(), short);
    assert_eq!(permit.split(&Demand::new().need(DB, 5)).unwrap_err(), short);
    assert!(matches!(permit.split(&"cpu".into()), Err(PermitError::NotHeld { held: 0, .. })));
    let part = permit.split(&Demand::new().need(DB, 1)).unwrap();
    permit.extend(&Demand::new().need("gpu", 2)).unwrap();
    assert!(matches!(permit.extend(&"gpu".into()), Err(PermitError::NotNow(AcquireError::Full { .. }))));
    assert!(matches!(
        permit.extend(&"cpu".into()),
        Err(PermitError::NotNow(AcquireError::UnknownKind { .. }))
    ));
    let amounts = |p: &batchyard::resource::Permit| (p.amount(DB), p.amount("gpu"));
    assert_eq!((amounts(&permit), amounts(&part)), ((3, 2), (1, 0)));
    let holders = manager.holders();
    let all: u64 = holders.iter().map(|holder| holder.demand.amount(DB)).sum();
    assert_eq!((holders.len(), all), (2, 4));
    drop(permit);
    assert_eq!((manager.in_use(DB), manager.in_use("gpu")), (Some(1), Some(0)));
    drop(part);
    assert_eq!((manager.in_use(DB), manager.holders().len()), (Some(0), 0));
}

#[test]
fn what_happens_is_counted() {
    let time = ManualClock::new();
    let manager = two_kinds(&time);
    let before = manager.kind_stats(DB).unwrap();
    let held = manager.acquire(&Demand::new().need(DB, 2)).unwrap();
    assert!(manager.try_acquire(&both()).is_err());
    thread::scope(|s| {
        let waits = s.spawn(|| manager.acquire(&both()).map(drop));
        wait_for(&manager, "gpu", 1);
        time.advance(secs(2));
        let stats = manager.kind_stats(DB).unwrap();
        assert_eq!((stats.waiting, stats.oldest_waiter, stats.in_use), (1, Some(secs(2)), 2));
        drop(held);
        waits.join().unwrap().unwrap();
    });
    time.advance(secs(2));
    let after = manager.kind_stats(DB).unwrap();
    assert_eq!((after.granted, after.denied, after.high_water, after.in_use), (2, 1, 2, 0));
    assert_eq!((after.waits.count, after.waits.max), (1, secs(2)));
    assert_eq!((after.utilisation_since(&before), after.utilisation()), (0.5, 0.5));
    assert_eq!(manager.stats().len(), 2);
    assert!(serde_json::to_string(&manager.stats()).unwrap().contains("database_connection"));
}

/// What the report of usage counts by is the limit in force, whoever changed it last.
#[test]
fn limits_that_two_change_at_once_are_one() {
    let time = ManualClock::new();
    let manager = two_kinds(&time);
    for _ in 0..2_000 {
        let start = std::sync::Barrier::new(2);
        thread::scope(|s| {
            for limit in [1, 2] {
                let (manager, start) = (&manager, &start);
                s.spawn(move || {
                    start.wait();
                    manager.set_limit("gpu", limit).unwrap();
                });
            }
        });
        let before = manager.kind_stats("gpu").unwrap().usable;
        time.advance(secs(1));
        let stats = manager.kind_stats("gpu").unwrap();
        assert_eq!((stats.usable - before).round() as u64, stats.limit);
    }
}

/// Counts itself out, whatever becomes of it: who waits for that does not wait for ever.
struct Going<'a>(&'a AtomicUsize);

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The clock stands while others take and give, so what they hold counts for nothing: each reading is exactly what one
/// permit held, whoever is in the middle of a grant.
#[test]
fn utilisation_is_exact_beside_grants() {
    let time = ManualClock::new();
    let manager = ResourceManager::builder().quota("k", 1 << 30).clock(time.clock()).build().unwrap();
    let kept = manager.try_acquire(&Demand::new().need("k", 5)).unwrap();
    let going = AtomicUsize::new(2);
    time.advance(secs(1000));
    thread::scope(|s| {
        for n in [1, 1 << 20] {
            let (manager, going) = (&manager, &going);
            s.spawn(move || {
                let _going = Going(going);
                let demand = Demand::new().need("k", n);
                (0..20_000).for_each(|_| drop(manager.try_acquire(&demand).unwrap()));
            });
        }
        while going.load(Ordering::Relaxed) > 0 {
            let stats = manager.kind_stats("k").unwrap();
            assert_eq!(stats.used, 5000.0, "{stats:?}");
        }
    });
    drop(kept);
    time.advance(secs(1000));
    let stats = manager.kind_stats("k").unwrap();
    assert_eq!((stats.used, stats.granted, stats.in_use), (5000.0, 40_001, 0));
    assert!([5 + (1 << 20), 6 + (1 << 20)].contains(&stats.high_water), "{stats:?}");
}
