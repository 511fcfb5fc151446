//! `RateLimiter::stats` and `RateLimiters::stats`: what can be told at any time, and what a counted limiter has counted.
//! (That of a `KeyedLimiter`: `keyed_limiter_changes.rs`.)

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads of tests are plain ones

use batchyard::limit::{Adaptive, LimitError, LimiterCounts, Order, RateLimiterBuilder, RateLimiters};
use batchyard::{Deadline, ManualClock, Priority, Rate, RateLimiter, Ticker, millis, secs};
use std::thread;

fn builder(time: &ManualClock, rate: Rate) -> RateLimiterBuilder {
    RateLimiter::builder(rate).clock(time.clock())
}

fn counts(limiter: &RateLimiter) -> LimiterCounts {
    limiter.stats().counts.expect("it is counted")
}

#[test]
fn what_is_not_counted_tells_its_level() {
    let time = ManualClock::new();
    let limiter = builder(&time, Rate::per_second(2).burst(10)).build().unwrap();
    let before = limiter.stats();
    assert_eq!((before.rate, before.burst), (Rate::per_second(2).burst(10), 10));
    assert_eq!((before.remaining, before.accrued, before.waiting), (10, 0, 0));
    assert_eq!((before.paused_for, before.oldest_waiter, &before.counts), (None, None, &None));
    limiter.acquire(7).unwrap();
    time.advance(secs(1));
    limiter.set_burst(20).unwrap();
    limiter.set_rate(Rate::per_second(1)).unwrap();
    limiter.pause_until(secs(6));
    time.advance(secs(2));
    let stats = limiter.stats();
    assert_eq!((stats.rate, stats.burst), (Rate::per_second(1).burst(20), 20));
    assert_eq!((stats.remaining, stats.accrued), (0, 2), "nothing comes in a pause");
    assert!(stats.paused_for.is_some_and(|left| left <= secs(6) && left > secs(3)), "{stats:?}");
    assert_eq!(stats.used_since(&before), None);
}

#[test]
fn grants_and_denials_are_counted_by_call_and_by_token() {
    let time = ManualClock::new();
    let limiter = builder(&time, Rate::per_second(1).burst(5)).counted().build().unwrap();
    limiter.try_acquire(2).unwrap();
    limiter.acquire(1).unwrap();
    limiter.try_acquire(0).unwrap();
    limiter.acquire(0).unwrap();
    limiter.try_acquire(3).unwrap_err();
    assert!(matches!(limiter.acquire(9), Err(LimitError::NeverFits { .. })));
    assert!(matches!(limiter.acquire_by(3, Deadline::NOW), Err(LimitError::WouldMissDeadline { .. })));
    let counts = counts(&limiter);
    assert_eq!((counts.granted, counts.units, counts.denied), (2, 3, 1));
    assert_eq!((counts.refused, counts.timed_out, counts.cancelled), (1, 1, 0));
    assert_eq!(counts.waits.count, 0);
}

#[test]
fn counting_changes_no_answer() {
    let time = ManualClock::new();
    let rate = Rate::per_second(3).burst(4);
    let plain = builder(&time, rate).build().unwrap();
    let counted = builder(&time, rate).counted().build().unwrap();
    let learning = Adaptive::between(Rate::per_second(1), Rate::per_second(3));
    let learns =
        builder(&time, rate).max_rate(Rate::per_second(12)).adaptive(learning).counted().build().unwrap();
    for n in [1, 2, 0, 5, 2, 1, 3, 1, 1, 4, 2, 1] {
        let answer = plain.try_acquire(n);
        assert_eq!(counted.try_acquire(n), answer);
        assert_eq!(learns.try_acquire(n), answer);
        time.advance(millis(170));
    }
    assert_eq!(counts(&counted), counts(&learns));
    assert_eq!(counted.stats().remaining, plain.stats().remaining);
}

#[test]
fn who_waits_is_seen_and_its_wait_is_counted() {
    for order in [Order::Fifo, Order::Priority] {
        let time = ManualClock::new();
        let limiter = builder(&time, Rate::per_second(1)).order(order).counted().build().unwrap();
        limiter.acquire(1).unwrap();
        thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| limiter.acquire_with(1, Priority::Normal, Deadline::NEVER).unwrap());
            }
            // In order of priority one of them sleeps by the clock for all, so its sleepers do not tell.
            while counts(&limiter).longest_queue < 3 {
                thread::yield_now();
            }
            let stats = limiter.stats();
            assert_eq!((stats.waiting, stats.oldest_waiter), (3, Some(secs(0))), "{order:?}");
            time.advance(millis(400));
            assert_eq!(limiter.stats().oldest_waiter, Some(millis(400)), "{order:?}");
            time.advance(secs(3));
        });
        let stats = limiter.stats();
        assert_eq!((stats.waiting, stats.oldest_waiter), (0, None), "{order:?}");
        let counts = stats.counts.unwrap();
        assert_eq!((counts.granted, counts.units, counts.longest_queue), (4, 4, 3), "{order:?}");
        assert_eq!((counts.waits.count, counts.waits.max), (3, secs(3)), "{order:?}");
        assert_eq!(counts.waits.mean, secs(2), "{order:?}");
    }
}

#[test]
fn what_is_given_back_is_told_from_what_is_lost() {
    let time = ManualClock::new();
    let limiter = builder(&time, Rate::per_second(1)).counted().build().unwrap();
    let first = limiter.reserve(1).unwrap();
    let middle = limiter.reserve(1).unwrap();
    let last = limiter.reserve(1).unwrap();
    drop(middle); // lost: one is behind it
    last.cancel();
    first.wait().unwrap();
    let counts = counts(&limiter);
    assert_eq!((counts.granted, counts.units, counts.cancelled), (1, 1, 2));
    assert_eq!((counts.refunded, counts.dropped), (1, 1));
}

#[test]
fn a_lease_counts_its_pieces() {
    let time = ManualClock::new();
    let limiter = builder(&time, Rate::per_second(1).burst(10)).counted().build().unwrap();
    let ticker = Ticker::new(limiter.clock());
    let mut lease = limiter.lease(6, &ticker).unwrap();
    for _ in 0..4 {
        lease.try_acquire(1).unwrap();
    }
    drop(lease);
    let counts = counts(&limiter);
    assert_eq!((counts.granted, counts.units, counts.refunded, counts.dropped), (1, 6, 2, 0));
    assert_eq!(limiter.stats().remaining, 6);
}

#[test]
fn used_is_what_was_taken_of_what_was_to_be_had() {
    let time = ManualClock::new();
    let limiter = builder(&time, Rate::per_second(4).burst(4)).counted().build().unwrap();
    let mut before = limiter.stats();
    assert_eq!(before.used_since(&before), Some(0.0));
    limiter.acquire(4).unwrap();
    assert_eq!(limiter.stats().used_since(&before), Some(1.0));
    before = limiter.stats();
    assert_eq!(before.used_since(&before), None, "there was nothing to be had");
    time.advance(secs(2)); // eight come, four find the bucket full
    limiter.acquire(2).unwrap();
    assert_eq!(limiter.stats().used_since(&before), Some(0.25));
}

fn several(time: &ManualClock, rates: [Rate; 2]) -> RateLimiters {
    RateLimiters::builder(rates).counted().clock(time.clock()).build().unwrap()
}

#[test]
fn several_rates_tell_the_level_of_each_and_count_once() {
    let time = ManualClock::new();
    let both = several(&time, [Rate::per_second(2).burst(4), Rate::per_second(1).burst(6)]);
    both.try_acquire(3).unwrap();
    both.acquire(1).unwrap();
    both.try_acquire(0).unwrap();
    both.acquire(0).unwrap();
    both.try_acquire(1).unwrap_err();
    assert!(matches!(both.acquire(5), Err(LimitError::NeverFits { asked: 5, burst: 4 })));
    assert!(matches!(both.acquire_by(3, Deadline::NOW), Err(LimitError::WouldMissDeadline { .. })));
    let stats = both.stats();
    assert_eq!((stats.remaining, stats.rates[0].remaining, stats.rates[1].remaining), (0, 0, 2));
    let counts = stats.counts.unwrap();
    assert_eq!((counts.granted, counts.units, counts.denied), (2, 4, 1));
    assert_eq!((counts.refused, counts.timed_out, counts.waits.count), (1, 1, 0));
    time.advance(secs(3));
    both.set_rate(1, Rate::per_second(2)).unwrap();
    both.pause_until(secs(7));
    time.advance(secs(3));
    let stats = both.stats();
    let levels = stats.rates.iter().map(|rate| (rate.rate, rate.remaining, rate.accrued, rate.paused_for));
    assert_eq!(
        levels.collect::<Vec<_>>(),
        [
            (Rate::per_second(2).burst(4), 0, 6, Some(secs(4))),
            (Rate::per_second(2).burst(6), 0, 3, Some(secs(4))),
        ]
    );
    assert!(stats.rates.iter().all(|rate| rate.counts.is_none() && rate.waiting == 0));
    assert_eq!((stats.remaining, stats.waiting, stats.oldest_waiter), (0, 0, None));
    both.resume();
    time.advance(secs(1));
    let stats = both.stats();
    assert_eq!((stats.remaining, stats.rates[0].paused_for, stats.rates[1].accrued), (2, None, 5));
}

#[test]
fn who_waits_for_several_rates_is_seen_and_its_wait_is_counted() {
    let time = ManualClock::new();
    let both = several(&time, [Rate::per_second(1), Rate::per_second(5)]);
    both.acquire(1).unwrap();
    let mut seen = None;
    thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| both.acquire(1).unwrap());
        }
        while both.stats().counts.unwrap().longest_queue < 3 {
            thread::yield_now();
        }
        time.advance(millis(400));
        seen = Some(both.stats());
        time.advance(secs(3));
    });
    let seen = seen.unwrap();
    assert_eq!((seen.waiting, seen.oldest_waiter), (3, Some(millis(400))));
    let stats = both.stats();
    assert_eq!((stats.waiting, stats.oldest_waiter), (0, None));
    let counts = stats.counts.unwrap();
    assert_eq!((counts.granted, counts.units, counts.longest_queue), (4, 4, 3));
    assert_eq!((counts.waits.count, counts.waits.mean, counts.waits.max), (3, secs(2), secs(3)));
}

#[test]
fn several_rates_that_are_not_counted_tell_their_levels() {
    let time = ManualClock::new();
    let both = RateLimiters::with_clock([Rate::per_second(1), Rate::per_hour(1)], time.clock()).unwrap();
    both.acquire(1).unwrap();
    let stats = both.stats();
    assert_eq!((stats.remaining, &stats.counts, stats.used_since(&stats)), (0, &None, None));
}
