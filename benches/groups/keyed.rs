//! `KeyedLimiter::try_acquire(&key, 1)` against governor's keyed limiter on a dashmap, both with the hasher of the
//! standard library, each on its default clock, over 1,024 keys that all have an entry.

use crate::common::rounds::{Contest, Plan, hold as hold_rounds, operation};
use crate::common::row::Row;
use batchyard::Rate;
use batchyard::limit::KeyedLimiter;
use governor::clock::DefaultClock;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use std::num::NonZeroU32;

const TARGET: f64 = 1.0;
const RATE: u32 = 1_000_000_000;
const KEYS: u64 = 1024;

type Theirs = RateLimiter<u64, DashMapStateStore<u64>, DefaultClock>;

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    // A second's worth, as in the group of the plain limiter.
    let ours = KeyedLimiter::new(Rate::per_second(RATE.into()).burst(RATE.into())).expect("a valid rate");
    let theirs = Theirs::dashmap(quota(Quota::per_second, RATE));
    let ours_spent = KeyedLimiter::new(Rate::per_hour(1)).expect("a valid rate");
    let theirs_spent = Theirs::dashmap(quota(Quota::per_hour, 1));
    for key in 0..KEYS {
        assert!(ours.try_acquire(&key, 1).is_ok() && theirs.check_key(&key).is_ok());
        assert!(ours_spent.try_acquire(&key, 1).is_ok() && theirs_spent.check_key(&key).is_ok());
        assert!(ours_spent.try_acquire(&key, 1).is_err() && theirs_spent.check_key(&key).is_err());
    }
    let contests = [1, 2].into_iter().flat_map(|threads| {
        [
            Contest::new(
                "granting",
                threads,
                TARGET,
                operation(threads, || over_keys(|key| ours.try_acquire(key, 1).is_ok())),
            )
            .against("governor", operation(threads, || over_keys(|key| theirs.check_key(key).is_ok()))),
            Contest::new(
                "denying",
                threads,
                TARGET,
                operation(threads, || over_keys(|key| ours_spent.try_acquire(key, 1).is_err())),
            )
            .against(
                "governor",
                operation(threads, || over_keys(|key| theirs_spent.check_key(key).is_err())),
            ),
        ]
    });
    hold_rounds(group, plan, contests.collect())
}

fn quota(make: fn(NonZeroU32) -> Quota, units: u32) -> Quota {
    make(NonZeroU32::new(units).expect("not zero"))
}

/// One key after another, in strides that visit all of them.
fn over_keys(check: impl Fn(&u64) -> bool) -> impl FnMut() -> bool {
    let mut key = 0;
    move || {
        key = (key + 397) % KEYS;
        check(&key)
    }
}
