//! `RateLimiterBuilder::adaptive`: what a limiter learns from how its grants went.

use batchyard::limit::{Adaptive, LimitError, Order, Outcome};
use batchyard::{ManualClock, Rate, RateLimiter, Timestamp, millis, secs};
use std::time::Duration;

const THROTTLED: Outcome = Outcome::Throttled { retry_after: None };

/// 100 a second, from 10 to 200, by steps of 10.
fn learning(order: Order) -> (ManualClock, RateLimiter) {
    let time = ManualClock::new();
    let adaptive = Adaptive::between(Rate::per_second(10), Rate::per_second(200)).step(Rate::per_second(10));
    let limiter = RateLimiter::builder(Rate::per_second(100).burst(200))
        .adaptive(adaptive)
        .order(order)
        .clock(time.clock())
        .build()
        .unwrap();
    // What is granted in the nanosecond of the making counts as before it.
    time.advance(secs(1));
    (time, limiter)
}

fn rate(limiter: &RateLimiter) -> f64 {
    limiter.rate().as_per_second_f64()
}

/// A second in which so many calls go well.
fn a_second_of(time: &ManualClock, limiter: &RateLimiter, calls: u64) {
    let grant = limiter.try_acquire(calls).unwrap();
    time.advance(secs(1));
    grant.complete(Outcome::Success);
}

#[test]
fn those_sent_before_a_cut_do_not_cut_again() {
    for order in [Order::Fifo, Order::Priority] {
        let (time, limiter) = learning(order);
        let sent: Vec<_> = (0..20).map(|_| limiter.acquire(1).unwrap()).collect();
        time.advance(millis(50));
        for grant in sent {
            grant.complete(THROTTLED);
        }
        assert_eq!(rate(&limiter), 70.0);
        // Those sent after it do, once more.
        time.advance(millis(50));
        let sent: Vec<_> = (0..5).map(|_| limiter.acquire(1).unwrap()).collect();
        time.advance(millis(50));
        for grant in sent {
            grant.complete(THROTTLED);
        }
        assert_eq!(rate(&limiter), 49.0);
        assert_eq!(limiter.burst(), 200);
    }
}

#[test]
fn it_does_not_fall_below_the_floor() {
    let (time, limiter) = learning(Order::Fifo);
    for _ in 0..30 {
        time.advance(secs(10));
        limiter.acquire(1).unwrap().complete(THROTTLED);
    }
    assert_eq!(rate(&limiter), 10.0);
}

/// What was sent under the rate before an operator's does not speak of that one.
#[test]
fn those_sent_before_a_rate_was_set_do_not_cut_it() {
    for order in [Order::Fifo, Order::Priority] {
        let (time, limiter) = learning(order);
        let sent: Vec<_> = (0..3).map(|_| limiter.acquire(1).unwrap()).collect();
        time.advance(millis(50));
        limiter.set_rate(Rate::per_second(50)).unwrap();
        time.advance(millis(50));
        sent.into_iter().for_each(|grant| grant.complete(THROTTLED));
        assert_eq!(rate(&limiter), 50.0);
        limiter.acquire(1).unwrap().complete(THROTTLED);
        assert_eq!(rate(&limiter), 35.0);
        // One that is refused begins nothing.
        time.advance(millis(50));
        let sent = limiter.acquire(1).unwrap();
        time.advance(millis(50));
        limiter.set_rate(Rate::per_second(201)).unwrap_err();
        sent.complete(THROTTLED);
        assert_eq!(rate(&limiter), 24.5);
    }
}

/// Neither does what went well under it: the window begins anew.
#[test]
fn what_went_well_before_a_rate_was_set_does_not_raise_it() {
    let (time, limiter) = learning(Order::Fifo);
    limiter.acquire(1).unwrap().complete(Outcome::Success); // ends the first window
    time.advance(millis(500));
    limiter.acquire(100).unwrap().complete(Outcome::Success);
    limiter.set_rate(Rate::per_second(20)).unwrap();
    time.advance(secs(1));
    limiter.acquire(1).unwrap().complete(Outcome::Success);
    assert_eq!(rate(&limiter), 20.0);
}

/// Growth takes nobody's word away: who was refused under the lower rate is above the higher one, too.
#[test]
fn those_sent_before_it_grew_cut_it() {
    let (time, limiter) = learning(Order::Fifo);
    let sent = limiter.acquire(1).unwrap();
    a_second_of(&time, &limiter, 150);
    assert_eq!(rate(&limiter), 110.0);
    sent.complete(THROTTLED);
    assert_eq!(rate(&limiter), 77.0);
}

#[test]
fn a_rate_set_below_the_floor_stays_there_until_it_is_used() {
    let (time, limiter) = learning(Order::Fifo);
    limiter.set_rate(Rate::per_second(4)).unwrap();
    time.advance(millis(10));
    limiter.acquire(1).unwrap().complete(THROTTLED);
    assert_eq!(rate(&limiter), 4.0);
    a_second_of(&time, &limiter, 9);
    assert_eq!(rate(&limiter), 14.0);
}

#[test]
fn it_grows_with_use_up_to_the_ceiling_and_not_without() {
    let (time, limiter) = learning(Order::Fifo);
    a_second_of(&time, &limiter, 100); // the first window is two seconds long here
    assert_eq!(rate(&limiter), 110.0);
    a_second_of(&time, &limiter, 54); // less than half of 110
    assert_eq!(rate(&limiter), 110.0);
    for _ in 0..20 {
        a_second_of(&time, &limiter, 110);
    }
    assert_eq!(rate(&limiter), 200.0);
    // A trickle proves nothing, however long it lasts.
    limiter.acquire(1).unwrap().complete(THROTTLED);
    for _ in 0..100 {
        a_second_of(&time, &limiter, 1);
    }
    assert_eq!(rate(&limiter), 140.0);
}

#[test]
fn what_says_nothing_changes_nothing() {
    let (time, limiter) = learning(Order::Fifo);
    for outcome in [Outcome::Failed, Outcome::Ignored] {
        let grant = limiter.acquire(100).unwrap();
        time.advance(secs(2));
        grant.complete(outcome);
        let _unsaid = limiter.acquire(1).unwrap();
        time.advance(secs(2));
        assert_eq!(rate(&limiter), 100.0);
    }
}

#[test]
fn retry_after_pauses_and_then_they_go_one_by_one() {
    let (time, limiter) = learning(Order::Fifo);
    let (one, late) = (limiter.acquire(1).unwrap(), limiter.acquire(1).unwrap());
    time.advance(millis(1));
    one.complete(Outcome::Throttled { retry_after: Some(secs(30)) });
    // Sent before the cut: it does not cut, but it prolongs the pause; and a pause has its longest.
    late.complete(Outcome::Throttled { retry_after: Some(secs(100_000)) });
    assert_eq!(rate(&limiter), 70.0);
    let resumed = secs(1) + millis(1) + secs(300);
    let places: Vec<_> = (0..5).map(|_| limiter.reserve(1).unwrap()).collect();
    for (k, place) in (1u64..).zip(&places) {
        let due = Timestamp::ZERO + resumed + Duration::from_nanos((k * 1_000_000_000).div_ceil(70));
        assert!(place.start_at() >= due && place.start_at() - due <= Duration::from_nanos(1), "{k}");
    }
    // A reservation reports, too.
    time.set(places[0].start_at());
    let first = places.into_iter().next().unwrap().wait().unwrap();
    time.advance(secs(1));
    limiter.complete(first, THROTTLED);
    assert_eq!(rate(&limiter), 49.0);
}

#[test]
fn bad_bounds_name_their_field() {
    let per = Rate::per_second;
    for (adaptive, field) in [
        (Adaptive::between(per(0), per(9)), "floor"),
        (Adaptive::between(per(6), per(9)), "floor"),
        (Adaptive::between(per(1), per(4)), "ceiling"),
        (Adaptive::between(per(1), Rate::per_second_f64(f64::NAN)), "ceiling"),
        (Adaptive::between(per(1), per(21)), "ceiling"),
        (Adaptive::between(per(1), per(9)).step(per(0)), "step"),
        (Adaptive::between("1/2000000s".parse().unwrap(), per(9)), "floor"),
    ] {
        let time = ManualClock::new();
        let made =
            RateLimiter::builder(per(5)).max_rate(per(20)).adaptive(adaptive).clock(time.clock()).build();
        assert!(
            matches!(&made, Err(LimitError::Invalid(wrong)) if wrong.field == field),
            "{made:?}, not {field}"
        );
    }
}
