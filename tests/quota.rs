//! `limit::Quota` with real threads: deadlines on a manual clock, hand-over, close, limits, and storms that end at
//! quiescence with nothing lost.

// What a user of the crate holds; the house rules on clocks and threads are for `src/`.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use batchyard::limit::{OwnedPermit, Quota, QuotaError};
use batchyard::{Clock, Deadline, ManualClock, Priority, millis, secs};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Waits until so many calls wait.
fn wait_for(quota: &Quota, waiting: usize) {
    let start = Instant::now();
    while quota.waiting() != waiting {
        assert!(start.elapsed() < secs(20), "{} wait, not {waiting}", quota.waiting());
        thread::yield_now();
    }
}

#[test]
fn limits_are_checked() {
    for bad in [0, (1 << 38) + 1, u64::MAX] {
        assert_eq!(Quota::new(bad).unwrap_err().field, "limit");
        assert_eq!(Quota::new(1).unwrap().set_limit(bad).unwrap_err().field, "limit");
    }
    assert_eq!(Quota::new(1 << 38).unwrap().available(), 1 << 38);
}

#[test]
fn handles_and_permits_cross_threads() {
    fn is<T: Send + Sync + 'static>() {}
    is::<Quota>();
    is::<OwnedPermit>();
    is::<QuotaError>();
    let quota = Quota::new(2).unwrap();
    let (tx, rx) = mpsc::channel();
    tx.send(quota.acquire_owned(2).unwrap()).unwrap();
    thread::spawn(move || drop(rx.recv())).join().unwrap();
    assert_eq!(quota.clone().available(), 2);
}

#[test]
fn nothing_is_always_to_be_had_until_closed() {
    let quota = Quota::new(1).unwrap();
    let _all = quota.acquire(1).unwrap();
    assert_eq!(quota.acquire(0).unwrap().n(), 0);
    assert_eq!(quota.try_acquire(0).unwrap().n(), 0);
    quota.close();
    assert_eq!(quota.try_acquire(0).unwrap_err(), QuotaError::Closed);
    assert_eq!(quota.acquire(0).unwrap_err(), QuotaError::Closed);
    assert!(quota.is_closed());
}

#[test]
fn a_deadline_ends_the_wait_and_not_before() {
    let time = ManualClock::new();
    let quota = Quota::with_clock(1, time.clock()).unwrap();
    let held = quota.acquire(1).unwrap();
    thread::scope(|s| {
        let waiter = s.spawn(|| quota.acquire_by(1, secs(3)).map(|p| p.n()));
        time.wait_for_sleepers(1);
        time.advance(secs(2));
        assert_eq!((quota.waiting(), time.sleepers()), (1, 1));
        time.advance(secs(1));
        assert_eq!(waiter.join().unwrap(), Err(QuotaError::TimedOut { waited: secs(3) }));
    });
    assert_eq!(quota.waiting(), 0);
    assert!(matches!(quota.acquire_by(1, Deadline::NOW), Err(QuotaError::TimedOut { .. })));
    drop(held);
    assert_eq!(quota.available(), 1);
}

#[test]
fn who_waits_is_served_by_priority_then_by_arrival_and_rises() {
    let time = ManualClock::new();
    let quota = Quota::with_clock(1, time.clock()).unwrap();
    let order = |arrivals: &[(Priority, u64)]| {
        let (tx, rx) = mpsc::channel();
        let mut held = Some(quota.acquire(1).unwrap());
        thread::scope(|s| {
            for (i, (priority, then)) in arrivals.iter().copied().enumerate() {
                let (tx, quota) = (tx.clone(), &quota);
                s.spawn(move || {
                    let permit = quota.acquire_with(1, priority, Deadline::NEVER).unwrap();
                    tx.send(i).unwrap();
                    drop(permit);
                });
                wait_for(quota, i + 1);
                time.advance(secs(then));
            }
            held.take();
        });
        rx.try_iter().collect::<Vec<_>>()
    };
    use Priority::{Critical, High, Low, Normal};
    assert_eq!(order(&[(Low, 0), (Normal, 0), (High, 0), (Normal, 0), (Critical, 0)]), [4, 2, 1, 3, 0]);
    // After 10 s the first counts as Normal, and came first.
    assert_eq!(order(&[(Low, 10), (Normal, 0), (High, 0)]), [2, 0, 1]);
}

#[test]
fn a_limit_raised_serves_and_lowered_refuses() {
    let quota = Quota::new(2).unwrap();
    let one = quota.acquire(1).unwrap();
    thread::scope(|s| {
        let big = s.spawn(|| quota.acquire(2).map(|p| p.n()));
        wait_for(&quota, 1);
        quota.set_limit(3).unwrap();
        assert_eq!(big.join().unwrap(), Ok(2));
        let bigger = s.spawn(|| quota.acquire(3).map(|p| p.n()));
        wait_for(&quota, 1);
        quota.set_limit(1).unwrap();
        assert_eq!(bigger.join().unwrap(), Err(QuotaError::NeverFits { asked: 3, limit: 1 }));
    });
    drop(one);
    assert_eq!((quota.available(), quota.limit()), (1, 1));
}

#[test]
fn close_refuses_all_who_wait() {
    let quota = Quota::new(1).unwrap();
    let held = quota.acquire(1).unwrap();
    thread::scope(|s| {
        let waiters: Vec<_> = (0..20).map(|_| s.spawn(|| quota.acquire(1).map(|p| p.n()))).collect();
        wait_for(&quota, 20);
        quota.close();
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap(), Err(QuotaError::Closed));
        }
    });
    drop(held);
    assert_eq!((quota.in_use(), quota.waiting()), (0, 0));
}

#[test]
fn a_big_request_is_not_starved_by_small_ones() {
    let quota = Quota::new(4).unwrap();
    let together = std::sync::Barrier::new(4);
    thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                together.wait();
                let start = Instant::now();
                while start.elapsed() < millis(300) {
                    let _one = quota.acquire(1).unwrap();
                    thread::yield_now();
                }
            });
        }
        together.wait();
        for _ in 0..5 {
            assert_eq!(quota.acquire_by(4, secs(20)).unwrap().n(), 4);
        }
    });
    assert_eq!(quota.available(), 4);
}

/// Timeouts as long as the usual wait, so that they race the grants, while the limit moves.
#[test]
fn a_storm_of_timeouts_loses_no_permit() {
    let quota = Quota::new(3).unwrap();
    let served: u64 = thread::scope(|s| {
        let threads: Vec<_> = (1..=6u64)
            .map(|seed| {
                let quota = &quota;
                s.spawn(move || {
                    let (start, mut served, mut x) = (Instant::now(), 0, seed);
                    while start.elapsed() < millis(400) {
                        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let patience = Duration::from_nanos((x >> 33) % 60_000);
                        let priority =
                            [Priority::Low, Priority::Normal, Priority::High][(x >> 20) as usize % 3];
                        match quota.acquire_with(1 + (x >> 40) % 3, priority, patience) {
                            Ok(permit) => {
                                assert!(quota.in_use() <= 3);
                                served += permit.n();
                            }
                            Err(QuotaError::TimedOut { .. }) => {}
                            Err(QuotaError::NeverFits { asked, limit }) => assert!(asked > limit),
                            Err(other) => panic!("{other}"),
                        }
                    }
                    served
                })
            })
            .collect();
        for limit in [2, 1, 3, 2, 3].into_iter().cycle().take(200) {
            quota.set_limit(limit).unwrap();
            thread::yield_now();
        }
        quota.set_limit(3).unwrap();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert!(served > 0);
    assert_eq!((quota.available(), quota.in_use(), quota.waiting()), (3, 0, 0));
}

#[test]
fn a_reserve_is_the_high_ones_with_or_without_waiting() {
    let time = ManualClock::new();
    let quota = Quota::builder(3).reserve_for(Priority::High, 1).clock(time.clock()).build().unwrap();
    assert_eq!(quota.acquire(3).unwrap_err(), QuotaError::NeverFits { asked: 3, limit: 2 });
    assert_eq!(quota.try_acquire(3).unwrap_err(), QuotaError::NeverFits { asked: 3, limit: 2 });
    let normal = quota.acquire(2).unwrap();
    assert_eq!(quota.try_acquire(1).unwrap_err(), QuotaError::Full);
    thread::scope(|s| {
        let low = s.spawn(|| quota.acquire_with(1, Priority::Low, Deadline::NEVER).map(|p| p.n()));
        wait_for(&quota, 1);
        // It holds back, and has aged beyond every class: the reserve is not its.
        time.advance(secs(100));
        let high = quota.acquire_with(1, Priority::High, Deadline::NEVER).unwrap();
        assert_eq!((quota.available(), quota.waiting()), (0, 1));
        drop(high);
        assert_eq!(quota.waiting(), 1, "what came back is the reserve");
        drop(quota.try_acquire_as(1, Priority::Critical).unwrap());
        drop(normal);
        assert_eq!(low.join().unwrap(), Ok(1));
    });
    // Below the reserve, only the high ones are left with something.
    quota.set_limit(1).unwrap();
    assert_eq!(quota.try_acquire(1).unwrap_err(), QuotaError::NeverFits { asked: 1, limit: 0 });
    assert!(quota.try_acquire_as(1, Priority::High).is_ok());
}

#[test]
fn a_limit_that_falls_to_the_reserve_refuses_who_waits_for_the_rest() {
    let quota = Quota::builder(3).reserve_for(Priority::High, 1).build().unwrap();
    let _all = quota.acquire(2).unwrap();
    thread::scope(|s| {
        let low = s.spawn(|| quota.acquire(2).map(|p| p.n()));
        wait_for(&quota, 1);
        quota.set_limit(2).unwrap();
        assert_eq!(low.join().unwrap(), Err(QuotaError::NeverFits { asked: 2, limit: 1 }));
    });
}

#[test]
fn reserves_are_checked_and_add_up() {
    let field = |b: batchyard::limit::QuotaBuilder| b.build().unwrap_err().field;
    assert_eq!(field(Quota::builder(0)), "limit");
    assert_eq!(field(Quota::builder(2).reserve_for(Priority::High, 2)), "reserve");
    let twice = Quota::builder(4).reserve_for(Priority::Critical, u64::MAX).reserve_for(Priority::High, 1);
    assert_eq!(field(twice), "reserve");
    let quota = Quota::builder(4)
        .reserve_for(Priority::Critical, 1)
        .reserve_for(Priority::High, 2)
        .reserve_for(Priority::Low, 99)
        .build()
        .unwrap();
    assert_eq!(quota.stats().reserved, 3);
    let fits = |p: Priority| (1..=5).filter(|n| quota.try_acquire_as(*n, p).is_ok()).count();
    assert_eq!([Priority::Low, Priority::Normal, Priority::High, Priority::Critical].map(fits), [1, 1, 3, 4]);
}

#[test]
fn what_happens_is_counted() {
    let time = ManualClock::new();
    let quota = Quota::builder(2).clock(time.clock()).counted().build().unwrap();
    assert!(Quota::new(1).unwrap().stats().counts.is_none());
    let held = quota.acquire(2).unwrap();
    assert!(quota.try_acquire(1).is_err() && quota.try_acquire(3).is_err());
    thread::scope(|s| {
        let late = s.spawn(|| quota.acquire_by(1, secs(3)).is_err());
        wait_for(&quota, 1);
        time.advance(secs(2));
        let stats = quota.stats();
        assert_eq!((stats.waiting, stats.oldest_waiter), (1, Some(secs(2))));
        assert_eq!((stats.in_use, stats.available, stats.limit), (2, 0, 2));
        time.wait_for_sleepers(1);
        time.advance(secs(1));
        assert!(late.join().unwrap());
        let served = s.spawn(|| quota.acquire(1).map(|p| p.n()));
        wait_for(&quota, 1);
        time.advance(secs(5));
        drop(held);
        assert_eq!(served.join().unwrap(), Ok(1));
    });
    quota.close();
    assert!(quota.try_acquire(1).is_err() && quota.acquire(1).is_err());
    let stats = quota.stats();
    assert_eq!((stats.in_use, stats.oldest_waiter), (0, None));
    let counts = stats.counts.unwrap();
    assert_eq!((counts.granted, counts.denied, counts.timed_out, counts.refused), (2, 1, 1, 3));
    assert_eq!((counts.high_water, counts.waits.count, counts.waits.max), (2, 1, secs(5)));
    // Two for eight seconds, then one for none.
    assert_eq!((counts.used, counts.usable, counts.utilisation()), (16.0, 16.0, 1.0));
}

/// Who takes and gives beside others leaves nothing behind in the sum, and a look in between is never below one before.
#[test]
fn what_is_held_is_counted_beside_others() {
    let quota = Quota::builder(3).clock(Clock::os()).counted().build().unwrap();
    thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| (0..5_000).for_each(|_| drop(quota.acquire(2).unwrap())));
        }
        let mut before = 0.0;
        for _ in 0..2_000 {
            let used = quota.stats().counts.unwrap().used;
            // A thread whose reading of the clock is older than this one's takes a little back.
            assert!(used + 1.0 >= before, "{used} after {before}");
            before = used;
        }
    });
    let counts = quota.stats().counts.unwrap();
    assert_eq!((counts.granted, counts.high_water, quota.in_use()), (15_000, 2, 0));
    assert_eq!(quota.stats().counts.unwrap().used, counts.used);
    assert!(counts.used > 0.0 && counts.used <= counts.usable);
}
