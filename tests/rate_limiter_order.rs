//! `RateLimiter` in order of priority, with threads on a manual clock.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

use batchyard::limit::{LimitError, Order, RateLimiters};
use batchyard::{Deadline, ManualClock, Priority, Rate, RateLimiter, Timestamp, millis, secs};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

fn by_priority(rate: Rate) -> (ManualClock, RateLimiter) {
    let time = ManualClock::new();
    let limiter = RateLimiter::builder(rate).order(Order::Priority).clock(time.clock()).build().unwrap();
    (time, limiter)
}

fn at(t: Duration) -> Timestamp {
    Timestamp::ZERO + t
}

/// So far that nobody waits for it: with a deadline a waiter is seen asleep on the manual clock.
fn far() -> Deadline {
    Deadline::at(at(secs(1_000_000)))
}

/// Waits until the leader sleeps for `t`.
fn leader_sleeps_for(time: &ManualClock, t: Duration) {
    while time.next_deadline() != Some(at(t)) {
        thread::yield_now();
    }
}

#[test]
fn higher_classes_go_first_and_within_a_class_who_came_first() {
    let (time, limiter) = by_priority(Rate::per_second(1));
    limiter.try_acquire(1).unwrap();
    let (tell, told) = mpsc::channel();
    thread::scope(|s| {
        for (id, priority) in
            [Priority::Low, Priority::Normal, Priority::Critical, Priority::Normal].into_iter().enumerate()
        {
            let (tell, limiter) = (tell.clone(), &limiter);
            s.spawn(move || {
                let grant = limiter.acquire_with(1, priority, far()).unwrap();
                tell.send((id, grant.start_at(), grant.waited())).unwrap();
            });
            time.wait_for_sleepers(id + 1);
        }
        for (second, id) in [(1, 2), (2, 1), (3, 3), (4, 0)] {
            leader_sleeps_for(&time, secs(second));
            time.set(at(secs(second)));
            assert_eq!(told.recv().unwrap(), (id, at(secs(second)), secs(second)));
        }
    });
}

#[test]
fn ten_seconds_are_worth_a_class() {
    let (time, limiter) = by_priority(Rate::per(1, secs(15)));
    limiter.try_acquire(1).unwrap();
    let (tell, told) = mpsc::channel();
    thread::scope(|s| {
        let spawn = |id: u32, priority| {
            let (tell, limiter) = (tell.clone(), &limiter);
            s.spawn(move || {
                limiter.acquire_with(1, priority, far()).unwrap();
                tell.send(id).unwrap();
            });
        };
        spawn(0, Priority::Low);
        time.wait_for_sleepers(1);
        time.set(at(secs(12)));
        spawn(1, Priority::Normal);
        time.wait_for_sleepers(2);
        // At 15 s the first has waited for more than ten seconds, and came first.
        while told.try_recv().map(|id| assert_eq!(id, 0)).is_err() {
            time.set(at(secs(15)));
            thread::yield_now();
        }
        leader_sleeps_for(&time, secs(30));
        while told.try_recv().map(|id| assert_eq!(id, 1)).is_err() {
            time.set(at(secs(30)));
            thread::yield_now();
        }
    });
}

#[test]
fn who_does_not_wait_overtakes_nobody() {
    let (time, limiter) = by_priority(Rate::per_second(1).burst(5));
    limiter.try_acquire(5).unwrap();
    thread::scope(|s| {
        let waiter = s.spawn(|| limiter.acquire_with(5, Priority::Low, far()).unwrap().start_at());
        time.wait_for_sleepers(1);
        time.advance(secs(3));
        let denied = limiter.try_acquire(2).unwrap_err();
        // Three are there, the waiter takes them and two more; two further ones are there at 7 s.
        assert_eq!((denied.remaining, denied.ready_in, denied.never_fits()), (3, secs(4), false));
        assert!(limiter.try_acquire(6).unwrap_err().never_fits());
        leader_sleeps_for(&time, secs(5));
        time.set(at(secs(5)));
        assert_eq!(waiter.join().unwrap(), at(secs(5)));
    });
    time.set(at(secs(7)));
    limiter.try_acquire(2).unwrap();
}

#[test]
fn deadlines_cost_nobody_anything() {
    let (time, limiter) = by_priority(Rate::per_second(1));
    limiter.try_acquire(1).unwrap();
    // As the next one it is known at once.
    assert_eq!(
        limiter.acquire_by(1, millis(999)).unwrap_err(),
        LimitError::WouldMissDeadline { ready_in: secs(1) }
    );
    thread::scope(|s| {
        let leader = s.spawn(|| limiter.acquire_with(1, Priority::High, at(secs(1))).map(|g| g.start_at()));
        time.wait_for_sleepers(1);
        let follower = s.spawn(|| limiter.acquire_with(1, Priority::Low, at(millis(600))).map(|g| g.n()));
        time.wait_for_sleepers(2);
        time.set(at(millis(600)));
        assert_eq!(follower.join().unwrap(), Err(LimitError::TimedOut { waited: millis(600) }));
        leader_sleeps_for(&time, secs(1));
        time.set(at(secs(1)));
        // A deadline at the very time is met.
        assert_eq!(leader.join().unwrap(), Ok(at(secs(1))));
    });
    assert_eq!(limiter.try_acquire(1).unwrap_err().ready_in, secs(1), "what the others gave up is there");
}

#[test]
fn a_leader_whose_chance_is_gone_hands_over() {
    let (time, limiter) = by_priority(Rate::per_second(1));
    limiter.try_acquire(1).unwrap();
    thread::scope(|s| {
        let leader = s.spawn(|| limiter.acquire_with(1, Priority::High, at(secs(9))).map(|g| g.start_at()));
        time.wait_for_sleepers(1);
        let follower = s.spawn(|| limiter.acquire_with(1, Priority::Low, far()).map(|g| g.start_at()));
        time.wait_for_sleepers(2);
        limiter.pause_until(secs(20));
        assert_eq!(leader.join().unwrap(), Err(LimitError::WouldMissDeadline { ready_in: secs(21) }));
        time.wait_for_sleepers(1);
        while !follower.is_finished() {
            time.set(time.next_deadline().unwrap_or_default().min(at(secs(21))).max(time.now()));
            thread::yield_now();
        }
        assert_eq!(follower.join().unwrap(), Ok(at(secs(21))));
    });
}

#[test]
fn changes_are_told_to_who_leads() {
    for (change, start) in [
        (
            Box::new(|l: &RateLimiter| l.set_rate(Rate::per_hour(2)).unwrap()) as Box<dyn Fn(&RateLimiter)>,
            2700,
        ),
        (Box::new(|l: &RateLimiter| l.set_burst(2).unwrap()), 1800),
        // From an empty bucket: nobody had a place in it.
        (Box::new(|l: &RateLimiter| l.pause_until(at(secs(7200)))), 10_800),
    ] {
        let time = ManualClock::new();
        let limiter = RateLimiter::builder(Rate::per_hour(1))
            .max_rate(Rate::per_second(1))
            .order(Order::Priority)
            .clock(time.clock())
            .build()
            .unwrap();
        limiter.try_acquire(1).unwrap();
        thread::scope(|s| {
            let waiter = s.spawn(|| limiter.acquire(1).unwrap().start_at());
            leader_sleeps_for(&time, secs(3600));
            time.set(at(secs(1800)));
            change(&limiter);
            if start > 1800 {
                leader_sleeps_for(&time, secs(start));
                time.set(at(secs(start)));
            }
            assert_eq!(waiter.join().unwrap(), at(secs(start)));
        });
    }
}

#[test]
fn a_lower_burst_refuses_who_asks_for_more_wherever_it_stands() {
    let (time, limiter) = by_priority(Rate::per_second(1).burst(3));
    limiter.try_acquire(3).unwrap();
    thread::scope(|s| {
        let first = s.spawn(|| limiter.acquire_with(1, Priority::High, far()).map(|g| g.start_at()));
        time.wait_for_sleepers(1);
        let big = s.spawn(|| limiter.acquire_with(3, Priority::Low, far()).map(|g| g.n()));
        time.wait_for_sleepers(2);
        limiter.set_burst(2).unwrap();
        assert_eq!(big.join().unwrap(), Err(LimitError::NeverFits { asked: 3, burst: 2 }));
        leader_sleeps_for(&time, secs(2)); // a smaller burst keeps the debt of the larger
        time.set(at(secs(2)));
        assert_eq!(first.join().unwrap(), Ok(at(secs(2))));
    });
}

/// Who leads in a pause without an end sleeps until it is told of its end.
#[test]
fn a_pause_without_an_end_is_slept_through() {
    let (time, limiter) = by_priority(Rate::per_second(1));
    limiter.try_acquire(1).unwrap();
    thread::scope(|s| {
        let waiter = s.spawn(|| limiter.acquire(1).map(|g| g.start_at()));
        leader_sleeps_for(&time, secs(1));
        limiter.pause_until(Deadline::NEVER);
        let newcomer = s.spawn(|| limiter.acquire(1).map(|g| g.start_at()));
        while limiter.stats().waiting < 2 && !newcomer.is_finished() {
            thread::yield_now();
        }
        while time.next_deadline().is_some() {
            thread::yield_now();
        }
        time.set(at(secs(100)));
        limiter.resume();
        for (second, thread) in [(101, waiter), (102, newcomer)] {
            while time.next_deadline() != Some(at(secs(second))) && !thread.is_finished() {
                thread::yield_now();
            }
            time.set(at(secs(second)));
            assert_eq!(thread.join().unwrap(), Ok(at(secs(second))));
        }
    });
}

#[test]
fn a_pause_without_an_end_is_slept_through_at_several_rates() {
    let time = ManualClock::new();
    let rates = [Rate::per_second(1), Rate::per_hour(3600)];
    let limiter = RateLimiters::with_clock(rates, time.clock()).unwrap();
    limiter.pause_until(Deadline::NEVER);
    thread::scope(|s| {
        let waiter = s.spawn(|| limiter.acquire(1).map(|g| g.start_at()));
        while limiter.stats().waiting == 0 && !waiter.is_finished() {
            thread::yield_now();
        }
        limiter.resume();
        while time.next_deadline() != Some(at(secs(1))) && !waiter.is_finished() {
            thread::yield_now();
        }
        time.set(at(secs(1)));
        assert_eq!(waiter.join().unwrap(), Ok(at(secs(1))));
    });
}

/// No deadline is met by a pause that has no end.
#[test]
fn a_deadline_does_not_wait_for_a_pause_without_an_end() {
    let (time, limiter) = by_priority(Rate::per_second(1));
    limiter.try_acquire(1).unwrap();
    thread::scope(|s| {
        let waiter = s.spawn(|| limiter.acquire_by(1, far()).map(|g| g.start_at()));
        leader_sleeps_for(&time, secs(1));
        limiter.pause_until(Deadline::NEVER);
        let missed = Err(LimitError::WouldMissDeadline { ready_in: Duration::MAX });
        assert_eq!(waiter.join().unwrap(), missed);
        assert_eq!(limiter.acquire_by(1, far()).map(|g| g.start_at()), missed);
    });
}

/// Who joins behind others is not left to find out as the head.
#[test]
fn what_never_fits_is_refused_at_once_wherever_it_would_stand() {
    let (time, limiter) = by_priority(Rate::per_second(1).burst(3));
    let several =
        RateLimiters::with_clock([Rate::per_second(1).burst(3), Rate::per_hour(9).burst(9)], time.clock())
            .unwrap();
    limiter.try_acquire(3).unwrap();
    several.try_acquire(3).unwrap();
    let never = Err(LimitError::NeverFits { asked: 4, burst: 3 });
    thread::scope(|s| {
        let first = s.spawn(|| limiter.acquire_with(1, Priority::High, far()).unwrap().n());
        let other = s.spawn(|| several.acquire_with(1, Priority::High, far()).unwrap().n());
        time.wait_for_sleepers(2);
        let refused = [
            limiter.acquire_with(4, Priority::Low, Deadline::NOW).map(|g| g.n()),
            several.acquire_with(4, Priority::Low, Deadline::NOW).map(|g| g.n()),
        ];
        time.advance(secs(400));
        assert_eq!((first.join().unwrap(), other.join().unwrap()), (1, 1));
        assert_eq!(refused, [never.clone(), never]);
    });
}

#[test]
fn the_disciplines_do_not_mix() {
    let (_, limiter) = by_priority(Rate::per_second(1));
    assert_eq!(limiter.order(), Order::Priority);
    let refused = limiter.reserve(1).unwrap_err();
    assert!(matches!(refused, LimitError::Invalid(invalid) if invalid.field == "order"));
    let fifo = RateLimiter::builder(Rate::per_second(1)).clock(ManualClock::new().clock()).build().unwrap();
    assert_eq!(fifo.order(), Order::Fifo);
    // In the order of arrival the class is nothing.
    assert!(fifo.acquire_with(1, Priority::Critical, Deadline::NOW).is_ok());
}

#[test]
fn many_threads_are_all_served() {
    let limiter = RateLimiter::builder(Rate::per_second(20_000)).order(Order::Priority).build().unwrap();
    thread::scope(|s| {
        for id in 0..8u64 {
            let limiter = &limiter;
            s.spawn(move || {
                for k in 0..50 {
                    let priority = Priority::ALL[((id + k) % 4) as usize];
                    let short = (id + k) % 3 == 0;
                    let deadline = if short { Deadline::within(millis(1)) } else { Deadline::NEVER };
                    let got = limiter.acquire_with(1, priority, deadline);
                    assert!(got.is_ok() || short, "{got:?}");
                }
            });
        }
    });
}
