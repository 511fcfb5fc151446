//! `RateLimiter` by example: on a manual clock to the nanosecond, and on the real clock with margins that a loaded
//! machine cannot break.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

use batchyard::limit::{LimitError, Refund};
use batchyard::{Clock, Deadline, ManualClock, Rate, RateLimiter, Timestamp, millis, secs};
use std::thread;
use std::time::Duration;

const NS: Duration = Duration::from_nanos(1);

fn manual(rate: Rate) -> (ManualClock, RateLimiter) {
    let time = ManualClock::new();
    let limiter = RateLimiter::builder(rate).clock(time.clock()).build().unwrap();
    (time, limiter)
}

fn at(t: Duration) -> Timestamp {
    Timestamp::ZERO + t
}

/// Granted at 0, at exactly `n · period` again, and not a nanosecond before.
fn ticks_exactly(rate: Rate, period: Duration) {
    let (time, limiter) = manual(rate);
    for k in 0..500u32 {
        time.set(at(period * k));
        limiter.try_acquire(1).unwrap();
        time.advance(period - NS);
        assert_eq!(limiter.try_acquire(1).unwrap_err().ready_in, NS, "{rate}");
    }
}

#[test]
fn periods_are_exact() {
    ticks_exactly(Rate::per_second(1), secs(1));
    ticks_exactly(Rate::per_second(2), millis(500));
    ticks_exactly(Rate::per_second_f64(2.5), millis(400));
    ticks_exactly(Rate::per_second(8), millis(125));
    ticks_exactly(Rate::per_second(1_000_000), Duration::from_micros(1));
    ticks_exactly(Rate::per_minute(100), millis(600));
    ticks_exactly(Rate::per_hour(10), secs(360));
    ticks_exactly(Rate::per(1, secs(86_400 * 365)), secs(86_400 * 365));
}

#[test]
fn periods_that_no_nanosecond_holds_are_not_truncated() {
    for per_second in [3, 7, 11, 13, 300, 1_000_003, 300_000_000] {
        let (time, limiter) = manual(Rate::per_second(per_second).burst(per_second));
        // An odd time to start from, in milliseconds.
        time.advance(millis(317));
        limiter.try_acquire(per_second).unwrap();
        for _ in 0..50 {
            time.advance(secs(1) - NS);
            assert!(limiter.try_acquire(per_second).is_err());
            time.advance(NS);
            limiter.try_acquire(per_second).unwrap();
        }
    }
    let (time, limiter) = manual(Rate::per_second(3));
    limiter.try_acquire(1).unwrap();
    time.advance(Duration::from_nanos(333_333_333));
    assert_eq!(limiter.try_acquire(1).unwrap_err().ready_in, NS);
    time.advance(NS);
    limiter.try_acquire(1).unwrap();
}

#[test]
fn idling_fills_the_burst_and_no_more() {
    for idle in [secs(10), secs(86_400 * 365), secs(86_400 * 365 * 100), secs(86_400 * 365 * 580)] {
        let (time, limiter) = manual(Rate::per_second(2).burst(5));
        limiter.try_acquire(5).unwrap();
        time.advance(idle);
        assert_eq!(limiter.remaining(), 5);
        for left in (0..5).rev() {
            limiter.try_acquire(1).unwrap();
            assert_eq!(limiter.remaining(), left);
        }
        assert!(limiter.try_acquire(1).is_err());
    }
}

#[test]
fn a_full_burst_is_granted_at_any_odd_time() {
    for rate in [
        Rate::per_second(3),
        Rate::per_second(999_999_937),
        Rate::per_second_f64(0.7),
        Rate::per(13, secs(7)),
    ] {
        let (time, limiter) = manual(rate.burst(4));
        for odd in [1u64, 7, 123_456_789, 3_600_000_000_001] {
            time.advance(secs(100) + Duration::from_nanos(odd));
            limiter.try_acquire(4).unwrap();
        }
    }
}

#[test]
fn a_refusal_changes_nothing() {
    let (time, limiter) = manual(Rate::per_second(1).burst(3));
    limiter.try_acquire(2).unwrap();
    for _ in 0..100 {
        let denied = limiter.try_acquire(2).unwrap_err();
        assert_eq!((denied.ready_in, denied.remaining, denied.never_fits()), (secs(1), 1, false));
        let never = limiter.try_acquire(4).unwrap_err();
        assert!(never.never_fits() && never.ready_in == Duration::MAX && never.remaining == 1);
        assert!(limiter.try_acquire(u64::MAX).unwrap_err().never_fits());
        assert_eq!(
            limiter.acquire_by(2, millis(999)).unwrap_err(),
            LimitError::WouldMissDeadline { ready_in: secs(1) }
        );
        assert_eq!(limiter.reserve(4).unwrap_err(), LimitError::NeverFits { asked: 4, burst: 3 });
    }
    limiter.try_acquire(1).unwrap();
    time.advance(secs(3));
    limiter.try_acquire(3).unwrap();
}

#[test]
fn zero_tokens_are_always_there() {
    let (_, limiter) = manual(Rate::per_second(1));
    limiter.try_acquire(1).unwrap();
    limiter.pause_until(Deadline::NEVER);
    assert_eq!(limiter.try_acquire(0).unwrap().n(), 0);
    assert_eq!(limiter.acquire(0).unwrap().waited(), Duration::ZERO);
    let nothing = limiter.reserve(0).unwrap();
    assert_eq!(nothing.delay(), Duration::ZERO);
    assert_eq!(nothing.cancel(), Refund::Exact);
}

#[test]
fn bad_settings_name_their_field() {
    let field = |made: Result<RateLimiter, LimitError>| match made {
        Err(LimitError::Invalid(invalid)) => invalid.field,
        other => panic!("{other:?}"),
    };
    let ok = Rate::per_second(1);
    let build = |rate: Rate| RateLimiter::builder(rate).clock(Clock::os()).build();
    for wrong in [
        Rate::per_second(0),
        Rate::per_second_f64(f64::NAN),
        Rate::per_second_f64(f64::INFINITY),
        Rate::per_second_f64(-2.0),
        Rate::per(1, Duration::ZERO),
        Rate::per(1, Duration::MAX),
        Rate::per_second(u64::MAX),
        Rate::per(u64::MAX, NS),
    ] {
        assert_eq!(field(build(wrong)), "rate", "{wrong}");
    }
    assert_eq!(field(build(ok.burst(0))), "burst");
    assert_eq!(field(build(ok.burst(u64::MAX))), "burst");
    let max = |max| field(RateLimiter::builder(ok).max_rate(max).clock(Clock::os()).build());
    assert_eq!(max(Rate::per_minute(59)), "max_rate");
    assert_eq!(max(Rate::per_second(0)), "max_rate");
    assert_eq!(max(Rate::per_second(u64::MAX)), "max_rate");

    let limiter = build(ok).unwrap();
    for wrong in [
        limiter.set_rate(Rate::per_second(5)),
        limiter.set_rate(Rate::per_second(0)),
        limiter.set_rate(ok.burst(0)),
        limiter.set_burst(0),
        limiter.set_burst(u64::MAX),
    ] {
        assert!(matches!(wrong, Err(LimitError::Invalid(_))));
    }
    assert_eq!((limiter.rate(), limiter.burst()), (ok, 1));
}

#[test]
fn high_rates_work() {
    // Eight tokens a nanosecond: bytes of a fast link.
    let (time, limiter) = manual(Rate::per_second(8_000_000_000).burst(1 << 20));
    limiter.try_acquire(1 << 20).unwrap();
    time.advance(NS);
    limiter.try_acquire(8).unwrap();
    assert!(limiter.try_acquire(1).is_err());
    let (time, limiter) = manual(Rate::per_second(1).burst(1 << 60));
    limiter.try_acquire(1 << 60).unwrap();
    time.advance(secs(3));
    limiter.try_acquire(3).unwrap();
}

#[test]
fn reservations_come_in_order_and_on_time() {
    let (time, limiter) = manual(Rate::per_second(4).burst(2));
    let places: Vec<_> = (0..6).map(|_| limiter.reserve(1).unwrap()).collect();
    let delays: Vec<_> = places.iter().map(|place| place.delay().as_millis()).collect();
    assert_eq!(delays, [0, 0, 250, 500, 750, 1000]);
    assert!(limiter.try_acquire(1).is_err(), "nobody overtakes a reservation");
    time.advance(secs(1));
    assert!(limiter.try_acquire(1).is_err());
    for (place, expected) in places.into_iter().zip(delays) {
        let grant = place.wait().unwrap();
        assert_eq!(grant.start_at(), at(Duration::from_millis(expected as u64)));
    }
}

#[test]
fn cancelling_is_exact_at_the_tail_only() {
    let (_, limiter) = manual(Rate::per_second(1));
    limiter.try_acquire(1).unwrap();
    let [a, b, c] = [(); 3].map(|()| limiter.reserve(1).unwrap());
    assert_eq!(b.cancel(), Refund::Dropped(1));
    assert_eq!(c.cancel(), Refund::Exact);
    // The middle one stays lost, the last one is free again.
    assert_eq!(limiter.reserve(1).unwrap().delay(), secs(3));
    assert_eq!(a.cancel(), Refund::Dropped(1));
}

#[test]
fn cancelling_backwards_restores_everything() {
    let (_, limiter) = manual(Rate::per_second(7).burst(5));
    let mut places: Vec<_> = (1..=5).map(|n| limiter.reserve(n).unwrap()).collect();
    while let Some(place) = places.pop() {
        assert_eq!(place.cancel(), Refund::Exact);
    }
    assert_eq!(limiter.remaining(), 5);
}

#[test]
fn dropping_a_reservation_cancels_it() {
    let (_, limiter) = manual(Rate::per_second(1));
    drop(limiter.reserve(1).unwrap());
    limiter.try_acquire(1).unwrap();
}

#[test]
fn sleepers_wake_at_their_own_slots() {
    let (time, limiter) = manual(Rate::per_second(1));
    limiter.try_acquire(1).unwrap();
    let waiters: Vec<_> = (0..4)
        .map(|_| {
            let limiter = limiter.clone();
            thread::spawn(move || limiter.acquire(1).unwrap().start_at())
        })
        .collect();
    for awake in 1..=4 {
        time.wait_for_sleepers(5 - awake);
        assert_eq!(time.next_deadline(), Some(at(secs(awake as u64))));
        time.advance(secs(1));
    }
    let mut starts: Vec<_> = waiters.into_iter().map(|w| w.join().unwrap()).collect();
    starts.sort();
    assert_eq!(starts, [1, 2, 3, 4].map(|s| at(secs(s))));
}

/// One thread asleep for the next token, one hour ahead; `change` at half an hour; when does it start?
fn asleep_while(rate: Rate, change: impl Fn(&RateLimiter)) -> Result<Timestamp, LimitError> {
    let time = ManualClock::new();
    let limiter =
        RateLimiter::builder(rate).max_rate(Rate::per_second(1)).clock(time.clock()).build().unwrap();
    let n = limiter.burst();
    limiter.try_acquire(n).unwrap();
    thread::scope(|s| {
        let sleeper = s.spawn(|| limiter.acquire_by(n, at(secs(10 * 3600))).map(|grant| grant.start_at()));
        time.wait_for_sleepers(1);
        time.advance(secs(1800));
        let before = time.next_deadline();
        change(&limiter);
        // Until it sleeps for another time, or has ended.
        while !sleeper.is_finished() && (time.next_deadline() == before || time.sleepers() == 0) {
            thread::yield_now();
        }
        if let Some(until) = time.next_deadline() {
            time.set(until);
        }
        sleeper.join().unwrap()
    })
}

#[test]
fn a_change_re_times_who_sleeps() {
    let hourly = Rate::per_hour(1);
    let start = asleep_while(hourly, |limiter| limiter.set_rate(Rate::per_hour(2)).unwrap());
    assert_eq!(start, Ok(at(secs(1800 + 900))));
    let start = asleep_while(hourly, |limiter| limiter.set_rate("1/2h".parse().unwrap()).unwrap());
    assert_eq!(start, Ok(at(secs(1800 + 3600))));
    let start = asleep_while(hourly, |limiter| limiter.set_burst(2).unwrap());
    assert_eq!(start, Ok(at(secs(1800))));
    let start = asleep_while(hourly, |limiter| limiter.pause_until(at(secs(7200))));
    assert_eq!(start, Ok(at(secs(7200 + 1800))));
}

#[test]
fn a_change_that_leaves_no_chance_ends_the_sleep() {
    let late = asleep_while(Rate::per_hour(1), |limiter| limiter.pause_until(Deadline::NEVER));
    assert_eq!(late, Err(LimitError::WouldMissDeadline { ready_in: Duration::MAX }));
    let late = asleep_while(Rate::per_hour(1), |limiter| limiter.pause_until(secs(10 * 3600)));
    assert_eq!(late, Err(LimitError::WouldMissDeadline { ready_in: secs(10 * 3600 + 1800) }));
    let never = asleep_while(Rate::per_hour(2).burst(2), |limiter| limiter.set_burst(1).unwrap());
    assert_eq!(never, Err(LimitError::NeverFits { asked: 2, burst: 1 }));
}

#[test]
fn after_a_pause_they_go_one_by_one() {
    let (time, limiter) = manual(Rate::per_second(2).burst(10));
    limiter.pause_until(secs(60));
    limiter.pause_until(secs(1)); // a shorter one is within it
    time.set(at(secs(60)));
    assert_eq!(limiter.remaining(), 0);
    for k in 1..20 {
        assert!(limiter.try_acquire(1).is_err());
        time.set(at(secs(60) + millis(500) * k));
        limiter.try_acquire(1).unwrap();
    }
}

#[test]
fn a_resume_ends_a_pause_and_fills_no_bucket() {
    let (time, limiter) = manual(Rate::per_second(2).burst(10));
    limiter.try_acquire(3).unwrap();
    limiter.resume(); // there is no pause: nothing changes
    assert_eq!(limiter.remaining(), 7);
    limiter.pause_until(secs(1));
    limiter.resume();
    assert_eq!(limiter.try_acquire(1).unwrap_err().ready_in, millis(500));
    limiter.pause_until(Deadline::NEVER);
    thread::scope(|s| {
        // Nobody can wait for a pause without an end; one with an end is there to be waited for.
        assert!(matches!(limiter.acquire(1), Err(LimitError::WouldMissDeadline { ready_in: Duration::MAX })));
        limiter.resume();
        limiter.pause_until(secs(3600));
        let sleeper = s.spawn(|| limiter.acquire(1).unwrap().start_at());
        time.wait_for_sleepers(1);
        time.set(at(secs(10)));
        limiter.resume();
        while time.next_deadline() != Some(at(millis(10_500))) {
            thread::yield_now();
        }
        assert_eq!((limiter.remaining(), limiter.stats().paused_for), (0, None));
        time.set(at(millis(10_500)));
        assert_eq!(sleeper.join().unwrap(), at(millis(10_500)));
    });
    time.set(at(secs(11)));
    assert_eq!(limiter.remaining(), 1);
}

#[test]
fn cancelling_does_not_open_a_pause() {
    let (_, limiter) = manual(Rate::per_second(1));
    let (now, later) = (limiter.reserve(1).unwrap(), limiter.reserve(1).unwrap());
    limiter.pause_until(secs(60));
    assert_eq!((later.cancel(), now.cancel()), (Refund::Exact, Refund::Exact));
    assert_eq!(limiter.try_acquire(1).unwrap_err().ready_in, secs(61));
    // Nor does a larger burst.
    limiter.set_burst(5).unwrap();
    assert_eq!(limiter.try_acquire(1).unwrap_err().ready_in, secs(61));
}

#[test]
fn what_has_started_is_not_re_timed() {
    let (time, limiter) = manual(Rate::per_second(1));
    let (now, next) = (limiter.reserve(1).unwrap(), limiter.reserve(1).unwrap());
    time.advance(secs(5));
    limiter.set_rate(Rate::per_minute(1)).unwrap();
    assert_eq!((now.start_at(), next.start_at()), (at(secs(0)), at(secs(1))));
    assert_eq!(next.wait().unwrap().waited(), secs(1));
}

#[test]
fn what_no_longer_fits_is_lost_for_good() {
    let (time, limiter) = manual(Rate::per_second(1).burst(2));
    limiter.try_acquire(1).unwrap();
    let two = limiter.reserve(2).unwrap();
    limiter.set_burst(1).unwrap();
    assert_eq!(two.start_at(), Timestamp::MAX);
    limiter.set_burst(2).unwrap();
    time.advance(secs(9));
    assert_eq!(two.wait().unwrap_err(), LimitError::NeverFits { asked: 2, burst: 2 });
    assert_eq!(limiter.remaining(), 2);
}

#[test]
fn a_slower_rate_keeps_what_was_saved() {
    let (time, limiter) = manual(Rate::per_second(4).burst(8));
    limiter.try_acquire(8).unwrap();
    time.advance(secs(1));
    limiter.set_rate(Rate::per_second(1)).unwrap();
    assert_eq!(limiter.remaining(), 4);
    time.advance(secs(1));
    assert_eq!(limiter.remaining(), 5);
    limiter.set_rate(Rate::per_second(2).burst(3)).unwrap();
    assert_eq!((limiter.remaining(), limiter.burst()), (0, 3));
}

#[test]
fn a_clock_that_steps_back_grants_nothing_twice() {
    let (time, limiter) = manual(Rate::per_second(1).burst(2));
    time.set(at(secs(100)));
    limiter.try_acquire(2).unwrap();
    time.set(at(secs(50)));
    assert!(limiter.try_acquire(1).is_err());
    time.set(at(secs(101)));
    limiter.try_acquire(1).unwrap();
    assert!(limiter.try_acquire(1).is_err());
}

#[test]
fn real_clocks_give_the_burst_then_the_rate() {
    for clock in [Clock::os(), Clock::fast()] {
        let limiter =
            RateLimiter::builder(Rate::per_second(100).burst(5)).clock(clock.clone()).build().unwrap();
        let t0 = clock.now();
        for _ in 0..25 {
            let grant = limiter.acquire(1).unwrap();
            assert!(clock.now() >= grant.start_at(), "never early");
        }
        // 20 tokens beyond the burst take 200 ms, less the time between building and t0. No upper bound.
        assert!(clock.now() - t0 >= millis(199), "{:?}", clock.now() - t0);
    }
}

#[test]
fn real_clocks_do_not_save_more_than_the_burst() {
    for clock in [Clock::os(), Clock::fast()] {
        let limiter =
            RateLimiter::builder(Rate::per_second(1000).burst(5)).clock(clock.clone()).build().unwrap();
        thread::sleep(millis(60)); // sixty periods
        let t0 = clock.now();
        let granted = (0..200).filter(|_| limiter.try_acquire(1).is_ok()).count() as u128;
        let most = 5 + (clock.now() - t0).as_nanos() / 1_000_000 + 1;
        assert!((5..=most).contains(&granted), "{granted} of {most}");
    }
}

#[test]
fn threads_share_one_bucket() {
    let limiter = RateLimiter::builder(Rate::per_hour(1).burst(10_000)).clock(Clock::os()).build().unwrap();
    let granted: usize = thread::scope(|s| {
        let taken: Vec<_> = (0..4)
            .map(|_| s.spawn(|| (0..5_000).filter(|_| limiter.try_acquire(1).is_ok()).count()))
            .collect();
        taken.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(granted, 10_000);
}
