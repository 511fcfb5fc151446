//! `RateLimiter::try_acquire(1)` against governor's direct limiter on its default clock.
//!
//! Granting: a rate that no loop reaches. Denying: one unit an hour, and it has been taken; once only noticed, once
//! with the time after which to try again, which governor tells on demand, by another reading of its clock.
//!
//! Leased: tokens that each thread takes by 1,000 and spends one by one, on a ticker that it ticks every 10,000th time;
//! beside governor granting.

use crate::common::rounds::{Contest, Plan, hold as hold_rounds, operation};
use crate::common::row::Row;
use batchyard::limit::RateLimiter;
use batchyard::{Rate, Ticker};
use governor::clock::Clock;
use governor::{DefaultDirectRateLimiter, Quota};
use std::num::NonZeroU32;
use std::time::Duration;

/// By number of threads: more than there are processors show what a contended word costs.
const TARGETS: [(usize, f64); 4] = [(1, 1.05), (2, 1.05), (4, 1.0), (8, 1.0)];
const RATE: u32 = 1_000_000_000;
/// A second's worth: a thread that is preempted between reading the clock and taking its unit decides by an old time,
/// and would be refused while the others are ahead of that time by more than the burst.
const BURST: u32 = RATE;
/// Of governor granting.
const LEASED: f64 = 0.1;
const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    let ours = ours(Rate::per_second(RATE.into()), BURST.into());
    let theirs = governor(Quota::per_second(units(RATE)).allow_burst(units(BURST)));
    grants(&ours, &theirs);
    let ours_spent = self::ours(Rate::per_hour(1), 1);
    let theirs_spent = governor(Quota::with_period(HOUR).expect("an hour is not zero"));
    runs_out(&ours_spent, &theirs_spent);

    let ticker = Ticker::new(ours.clock());

    let contests = TARGETS.into_iter().flat_map(|(threads, target)| {
        [
            Contest::new(
                "leased",
                threads,
                LEASED,
                operation(threads, || {
                    // Nobody has moved it while the others were at it.
                    ticker.tick();
                    let mut lease = ours.lease(1_000, &ticker).expect("within the burst");
                    let (ticker, mut spent) = (&ticker, 0);
                    move || {
                        spent += 1;
                        if spent == 10_000 {
                            spent = 0;
                            ticker.tick();
                        }
                        lease.try_acquire(1).is_ok()
                    }
                }),
            )
            .against("governor", operation(threads, || || theirs.check().is_ok())),
            Contest::new("granting", threads, target, operation(threads, || || ours.try_acquire(1).is_ok()))
                .against("governor", operation(threads, || || theirs.check().is_ok())),
            Contest::new(
                "denying",
                threads,
                target,
                operation(threads, || || ours_spent.try_acquire(1).is_err()),
            )
            .against("governor", operation(threads, || || theirs_spent.check().is_err())),
            Contest::new(
                "denying, wait told",
                threads,
                target,
                operation(threads, || {
                    || ours_spent.try_acquire(1).is_err_and(|denied| denied.ready_in > MINUTE)
                }),
            )
            .against(
                "governor",
                operation(threads, || {
                    || {
                        theirs_spent
                            .check()
                            .is_err_and(|denied| denied.wait_time_from(theirs_spent.clock().now()) > MINUTE)
                    }
                }),
            ),
        ]
    });
    hold_rounds(group, plan, contests.collect())
}

fn ours(rate: Rate, burst: u64) -> RateLimiter {
    RateLimiter::builder(rate).burst(burst).build().expect("a valid rate")
}

fn governor(quota: Quota) -> DefaultDirectRateLimiter {
    DefaultDirectRateLimiter::direct(quota)
}

fn units(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("not zero")
}

fn grants(ours: &RateLimiter, theirs: &DefaultDirectRateLimiter) {
    for _ in 0..10_000 {
        assert!(ours.try_acquire(1).is_ok());
        assert!(theirs.check().is_ok());
    }
}

/// One unit, then nothing for about an hour.
fn runs_out(ours: &RateLimiter, theirs: &DefaultDirectRateLimiter) {
    assert!(ours.try_acquire(1).is_ok());
    let denied = ours.try_acquire(1).expect_err("the unit is spent");
    // Up to the rounding of their fixed points.
    let about_an_hour = HOUR - Duration::from_secs(10)..=HOUR + Duration::from_micros(1);
    assert!(about_an_hour.contains(&denied.ready_in), "{denied:?}");
    assert!(theirs.check().is_ok());
    let denied = theirs.check().expect_err("the unit is spent");
    let wait = denied.wait_time_from(theirs.clock().now());
    assert!(about_an_hour.contains(&wait), "{wait:?}");
}
