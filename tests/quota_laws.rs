//! `limit::Quota` against a counter: whatever is taken, given back, refused or resized without waiting, the numbers
//! agree. (The laws of waiting stand beside the wait list, where no thread is needed to state them.)

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

use batchyard::Deadline;
use batchyard::limit::{Permit, Quota, QuotaError};
use proptest::prelude::*;

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
