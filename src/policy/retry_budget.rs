//! Whether a batch can afford one more retry: retries stay within a share of its first attempts, plus a few, so that
//! a service that is down is not called many times as often as one that is up. Source: Finagle's `RetryBudget`.

/// Retries that are free of the share, so that a small batch can retry at all.
pub(crate) const ALLOWANCE: u64 = 10;

/// Whether the next retry fits, after `first_attempts` items have started and `retries` retries been granted.
/// Without a share everything fits.
pub(crate) fn affords(share: Option<f64>, first_attempts: u64, retries: u64) -> bool {
    share.is_none_or(|share| retries < limit(share, first_attempts))
}

/// How many retries the share and the allowance come to.
fn limit(share: f64, first_attempts: u64) -> u64 {
    // A float's conversion saturates, and NaN becomes 0. The nudge undoes 0.1 * 1000 = 99.99….
    let earned = (share * first_attempts as f64 + 1e-6) as u64;
    earned.saturating_add(ALLOWANCE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tenth_of_a_thousand_and_ten() {
        assert!(affords(Some(0.1), 1000, 109));
        assert!(!affords(Some(0.1), 1000, 110));
        assert!(affords(Some(0.0), 0, 9));
        assert!(!affords(Some(0.0), u64::MAX, 10));
        assert!(affords(None, 0, u64::MAX));
        assert!(affords(Some(f64::MAX), u64::MAX, u64::MAX - 1));
    }

    proptest! {
        #[test]
        fn spending_until_refused_ends_at_the_limit(percent in 0_u64..300, items in 0_u64..10_000) {
            let share = percent as f64 / 100.0;
            let mut spent = 0;
            while affords(Some(share), items, spent) {
                spent += 1;
            }
            prop_assert_eq!(spent, items * percent / 100 + ALLOWANCE);
        }

        #[test]
        fn more_work_never_affords_less(share in 0.0..2.0, items in 0_u64..1 << 40, retries in 0_u64..1 << 40) {
            if affords(Some(share), items, retries) {
                prop_assert!(affords(Some(share), items + 1, retries));
            }
        }
    }
}
