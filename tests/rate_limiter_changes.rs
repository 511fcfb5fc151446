//! Places that come due between changes of the settings while nobody looks at them: each keeps the time at which its tokens
//! were there.

use batchyard::limit::{Adaptive, LimitError, Outcome, Oversize, Reservation};
use batchyard::{ManualClock, Rate, RateLimiter, Timestamp, millis, secs};
use proptest::prelude::*;
use std::time::Duration;

fn manual(rate: Rate) -> (ManualClock, RateLimiter) {
    let time = ManualClock::new();
    let limiter =
        RateLimiter::builder(rate).max_rate(Rate::per_second(100)).clock(time.clock()).build().unwrap();
    (time, limiter)
}

fn starts(places: &[Reservation]) -> Vec<u64> {
    places.iter().map(|place| place.start_at().as_nanos() / 1_000_000).collect()
}

/// One token a second; five places from the first second on.
fn five_places() -> (ManualClock, RateLimiter, Vec<Reservation>) {
    let (time, limiter) = manual(Rate::per_second(1));
    limiter.acquire(1).unwrap();
    let places = (0..5).map(|_| limiter.reserve(1).unwrap()).collect();
    (time, limiter, places)
}

#[test]
fn a_rate_with_a_burst_leaves_what_has_started() {
    let (time, limiter, places) = five_places();
    time.advance(secs(10));
    limiter.set_rate(Rate::per_second(1).burst(1)).unwrap();
    assert_eq!(starts(&places), [1000, 2000, 3000, 4000, 5000]);
}

#[test]
fn a_pause_and_a_slower_rate_leave_what_has_started() {
    let (time, limiter, places) = five_places();
    time.advance(millis(3500));
    limiter.pause_until(secs(30));
    limiter.set_rate(Rate::per_second(2)).unwrap();
    assert_eq!(starts(&places), [1000, 2000, 3000, 33_750, 34_250]);
}

/// Between two changes it comes due by the terms of that time, not by those it was made with.
#[test]
fn what_comes_due_between_two_changes_has_the_time_between() {
    let (time, limiter, places) = five_places();
    time.advance(millis(1500));
    limiter.set_rate(Rate::per(1, secs(10))).unwrap(); // half a token is missing to the second
    time.advance(secs(100));
    limiter.set_rate(Rate::per_second(1)).unwrap();
    limiter.pause_until(Timestamp::ZERO + secs(1000));
    assert_eq!(starts(&places), [1000, 6500, 16_500, 26_500, 36_500]);
}

/// More room lets all of it through at once; that nobody looked changes nothing.
#[test]
fn what_a_larger_burst_lets_through_starts_with_it() {
    let (time, limiter, places) = five_places();
    time.advance(millis(1500));
    limiter.set_burst(3).unwrap();
    time.advance(secs(10));
    limiter.set_burst(1).unwrap();
    limiter.pause_until(Timestamp::ZERO + secs(1000));
    assert_eq!(starts(&places), [1000, 1500, 1500, 2000, 3000]);
}

#[test]
fn a_smaller_burst_does_not_refuse_what_has_started() {
    let (time, limiter) = manual(Rate::per_second(1).burst(2));
    limiter.acquire(2).unwrap();
    let (started, ahead) = (limiter.reserve(2).unwrap(), limiter.reserve(2).unwrap());
    time.advance(secs(3));
    limiter.set_rate(Rate::per_second(1).burst(1)).unwrap();
    assert_eq!(started.wait().unwrap().start_at(), Timestamp::ZERO + secs(2));
    assert!(matches!(ahead.wait(), Err(LimitError::NeverFits { asked: 2, burst: 1 })));
}

/// Refusals that ask to come later, while nobody looks at the places that have come.
#[test]
fn retry_after_is_no_herd_of_those_who_were_due() {
    let time = ManualClock::new();
    let limiter = RateLimiter::builder(Rate::per_second(10))
        .adaptive(Adaptive::between(Rate::per_second(1), Rate::per_second(10)))
        .clock(time.clock())
        .build()
        .unwrap();
    time.advance(secs(1));
    let first = limiter.acquire(1).unwrap();
    let places: Vec<_> = (0..5).map(|_| limiter.reserve(1).unwrap()).collect();
    time.advance(millis(350));
    first.complete(Outcome::Throttled { retry_after: Some(secs(30)) });
    assert_eq!(limiter.rate(), Rate::per_second(7).burst(1));
    let starts: Vec<u64> = places.iter().map(|place| place.start_at().as_nanos() / 1000).collect();
    let resumed = 31_350_000;
    // Half a token of the fourth was there already.
    assert_eq!(starts, [1_100_000, 1_200_000, 1_300_000, resumed + 500_000 / 7, resumed + 1_500_000 / 7]);
}

/// A reading behind the last change is no pause: the tokens that were saved stay.
#[test]
fn a_clock_behind_a_change_pauses_nothing() {
    let (time, limiter) = manual(Rate::per_second(1).burst(3));
    time.advance(secs(10));
    limiter.set_rate(Rate::per_second(2)).unwrap();
    time.set(Timestamp::ZERO + secs(9));
    limiter.set_burst(4).unwrap();
    assert_eq!(limiter.remaining(), 4);
    // A pause that ends behind that change is one all the same.
    limiter.pause_until(Timestamp::ZERO + millis(9500));
    assert_eq!(limiter.remaining(), 0);
    // And what is no pause cannot be ended, nor time pass twice by it.
    time.set(Timestamp::ZERO + secs(10));
    assert_eq!(limiter.try_acquire(1).unwrap_err().ready_in, millis(500));
    time.advance(secs(10));
    limiter.set_rate(Rate::per_second(1)).unwrap();
    limiter.acquire(4).unwrap();
    time.set(Timestamp::ZERO + secs(15));
    limiter.resume();
    time.set(Timestamp::ZERO + secs(20));
    assert_eq!(limiter.remaining(), 0);
    limiter.pause_until(Timestamp::ZERO + secs(30));
    time.set(Timestamp::ZERO + secs(15));
    limiter.resume();
    time.set(Timestamp::ZERO + secs(20));
    assert_eq!(limiter.remaining(), 0);
}

#[test]
fn a_rate_and_a_burst_are_set_together_or_not_at_all() {
    let (_, limiter) = manual(Rate::per_second(1).burst(3));
    for wrong in
        [Rate::per_second(101).burst(5), Rate::per_second(5).burst(u64::MAX), Rate::per_second(0).burst(5)]
    {
        limiter.set_rate(wrong).unwrap_err();
        assert_eq!((limiter.rate(), limiter.remaining()), (Rate::per_second(1).burst(3), 3));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Reserve(u64),
    SetRate(u64),
    SetBurst(u64),
    SetBoth(u64, u64),
    Pause(u64),
    Resume,
}

/// Fewer changes than are remembered.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (1u64..3_000_000_000).prop_map(Step::Pass),
        5 => (1u64..6).prop_map(Step::Reserve),
        2 => (1u64..50).prop_map(Step::SetRate),
        2 => (1u64..6).prop_map(Step::SetBurst),
        2 => (1u64..50, 1u64..6).prop_map(|(rate, burst)| Step::SetBoth(rate, burst)),
        2 => (1u64..5_000_000_000).prop_map(Step::Pause),
        1 => Just(Step::Resume),
    ];
    prop::collection::vec(step, 1..32)
}

fn play(steps: &[Step], owes: bool, look: impl Fn(usize) -> bool) -> Vec<Timestamp> {
    let time = ManualClock::new();
    let limiter = RateLimiter::builder(Rate::per_second(3).burst(3))
        .max_rate(Rate::per_second(50))
        .oversize(if owes { Oversize::Debt } else { Oversize::Reject })
        .clock(time.clock())
        .build()
        .unwrap();
    let mut places = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        match *step {
            Step::Pass(nanos) => time.advance(Duration::from_nanos(nanos)),
            Step::Reserve(n) => places.extend(limiter.reserve(n).ok()),
            Step::SetRate(rate) => limiter.set_rate(Rate::per_second(rate)).unwrap(),
            Step::SetBurst(burst) => limiter.set_burst(burst).unwrap(),
            Step::SetBoth(rate, burst) => limiter.set_rate(Rate::per_second(rate).burst(burst)).unwrap(),
            Step::Pause(nanos) => limiter.pause_until(Duration::from_nanos(nanos)),
            Step::Resume => limiter.resume(),
        }
        if look(i) {
            places.iter().for_each(|place| {
                place.start_at();
            });
        }
    }
    places.iter().map(Reservation::start_at).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Where a place stands does not depend on who looked at it when.
    #[test]
    fn looking_changes_nothing(steps in steps(), owes: bool, odd in 2usize..5) {
        let always = play(&steps, owes, |_| true);
        prop_assert_eq!(&play(&steps, owes, |_| false), &always);
        prop_assert_eq!(&play(&steps, owes, |i| i % odd == 0), &always);
    }
}
