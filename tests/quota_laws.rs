//! `limit::Quota` against a counter: whatever is taken, given back, refused or resized without waiting, the numbers
//! agree. (The laws of waiting stand beside the wait list, where no thread is needed to state them.)

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

use batchyard::limit::{Permit, Quota, QuotaError};
use batchyard::{Deadline, ManualClock, secs};
use proptest::prelude::*;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Op {
    Take(u64),
    Wait(u64),
    Give(usize),
    Limit(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..9u64).prop_map(Op::Take),
        1 => (0..9u64).prop_map(Op::Wait),
        4 => any::<usize>().prop_map(Op::Give),
        1 => (0..9u64).prop_map(Op::Limit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// How much was held for how long, and how much could have been, while permits are still held and after.
    #[test]
    fn what_was_held_for_how_long_is_counted(
        limit in 1..8u64, steps in prop::collection::vec((op(), 0..5_000_000_000u64), 1..80),
    ) {
        let time = ManualClock::new();
        time.advance(secs(7)); // what was before it was made does not count
        let quota = Quota::builder(limit).clock(time.clock()).counted().build().unwrap();
        let (mut limit, mut held, mut most) = (limit, Vec::<Permit<'_>>::new(), 0);
        let (mut used, mut usable) = (0u128, 0u128);
        for (op, nanos) in steps {
            match op {
                Op::Take(n) => held.extend(quota.try_acquire(n).ok()),
                Op::Wait(n) => held.extend(quota.acquire_by(n, Deadline::NOW).ok()),
                Op::Give(i) if !held.is_empty() => drop(held.swap_remove(i % held.len())),
                Op::Give(_) => {}
                Op::Limit(to) => limit = if quota.set_limit(to).is_ok() { to } else { limit },
            }
            let in_use = held.iter().map(Permit::n).sum::<u64>();
            most = most.max(in_use);
            time.advance(Duration::from_nanos(nanos));
            used += u128::from(in_use) * u128::from(nanos);
            usable += u128::from(limit) * u128::from(nanos);
            let counts = quota.stats().counts.unwrap();
            prop_assert_eq!((counts.used, counts.usable), (used as f64 / 1e9, usable as f64 / 1e9));
            prop_assert_eq!((counts.high_water, quota.in_use()), (most, in_use));
        }
        drop(held);
        let before = quota.stats().counts.unwrap();
        time.advance(secs(100));
        prop_assert_eq!(quota.stats().counts.unwrap().utilisation_since(&before), 0.0);
    }

    #[test]
    fn a_quota_is_a_counter(ops in prop::collection::vec(op(), 1..80), limit in 1..8u64) {
        let quota = Quota::new(limit).unwrap();
        let mut limit = limit;
        let mut held: Vec<Permit<'_>> = Vec::new();
        for op in ops {
            let free = limit as i64 - held.iter().map(|p| p.n() as i64).sum::<i64>();
            let fits = |n: u64| n == 0 || free >= n as i64;
            match op {
                Op::Take(n) => match quota.try_acquire(n) {
                    Ok(permit) => {
                        prop_assert!(fits(n));
                        held.push(permit);
                    }
                    Err(QuotaError::NeverFits { asked, limit: at }) => {
                        prop_assert!((asked, at) == (n, limit) && n > limit);
                    }
                    Err(why) => prop_assert!(why == QuotaError::Full && !fits(n) && n <= limit),
                },
                // Only what need not wait: nobody else would give anything back.
                Op::Wait(n) if fits(n) => held.push(quota.acquire(n).unwrap()),
                Op::Wait(n) if n > limit => {
                    prop_assert_eq!(quota.acquire(n).unwrap_err(), QuotaError::NeverFits { asked: n, limit });
                }
                Op::Wait(n) => {
                    let timed_out = quota.acquire_by(n, Deadline::NOW).unwrap_err();
                    prop_assert!(matches!(timed_out, QuotaError::TimedOut { .. }), "{}", timed_out);
                }
                Op::Give(i) if !held.is_empty() => {
                    let at = i % held.len();
                    drop(held.swap_remove(at));
                }
                Op::Give(_) => {}
                Op::Limit(0) => prop_assert!(quota.set_limit(0).is_err()),
                Op::Limit(n) => {
                    quota.set_limit(n).unwrap();
                    limit = n;
                }
            }
            let taken: u64 = held.iter().map(|p| p.n()).sum();
            prop_assert_eq!(quota.in_use(), taken);
            prop_assert_eq!(quota.available(), limit as i64 - taken as i64);
            prop_assert_eq!((quota.limit(), quota.waiting()), (limit, 0));
        }
    }
}
