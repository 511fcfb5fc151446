//! Whether a batch that fails stops.

use crate::job::{HaltAt, HaltRule};

/// A share is not looked at before so many items have ended: the first failure is 100 % of one.
pub(crate) const MINIMUM: u64 = 20;

/// Whether `rule` says stop when `failed` of the `ended` items are dead.
#[inline]
pub(crate) fn says_stop(rule: &HaltRule, failed: u64, ended: u64) -> bool {
    match rule.fail {
        HaltAt::Count(limit) => failed >= limit,
        HaltAt::Share(share) => ended >= MINIMUM && failed as f64 > share * ended as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(text: &str) -> HaltRule {
        text.parse().unwrap()
    }

    #[test]
    fn counts_stop_at_their_number() {
        assert!(!says_stop(&rule("now,fail=3"), 2, 2));
        assert!(says_stop(&rule("now,fail=3"), 3, 1000));
    }

    #[test]
    fn shares_wait_for_their_sample() {
        let tenth = rule("soon,fail=10%");
        assert!(!says_stop(&tenth, 19, 19));
        assert!(!says_stop(&tenth, 2, 20));
        assert!(says_stop(&tenth, 3, 20));
        assert!(says_stop(&rule("soon,fail=0%"), 1, 20));
        assert!(!says_stop(&rule("soon,fail=0%"), 0, 20));
    }

    proptest! {
        #[test]
        fn one_more_failure_never_takes_it_back(percent in 0_u32..100, failed in 0_u64..1000, good in 0_u64..1000) {
            let rule = rule(&format!("now,fail={percent}%"));
            if says_stop(&rule, failed, failed + good) {
                prop_assert!(says_stop(&rule, failed + 1, failed + good + 1));
            }
        }
    }
}
