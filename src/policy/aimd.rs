//! How fast a limiter goes that learns from its answers: up by a step while the rate is used, down by a factor when the other
//! side says that it is too much. (Additive increase, multiplicative decrease: Chiu and Jain, 1989.)
//!
//! Rates are whole numbers of millionths of a token a second.

/// The bounds and the steps. They bound the steps, not the rate: who set one beyond them meant it, and no step brings it back
/// against its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Aimd {
    pub(crate) floor: u64,
    pub(crate) ceiling: u64,
    /// What is added.
    pub(crate) step: u64,
}

/// What is kept of a rate that was too high, in tenths.
const KEPT: u64 = 7;

impl Aimd {
    /// The rate after one that was too high: never a higher one. Below the floor it stays.
    pub(crate) fn cut(&self, rate: u64) -> u64 {
        let kept = u64::try_from(u128::from(rate) * u128::from(KEPT) / 10).unwrap_or(rate);
        kept.max(self.floor.min(rate)).min(self.ceiling)
    }

    /// The rate after `tokens` went well in `nanos`. The same, if that was less than half of what `rate` allowed: whether
    /// more would go well has not been tried.
    pub(crate) fn grow(&self, rate: u64, tokens: u64, nanos: u64) -> u64 {
        let used = u128::from(tokens).saturating_mul(2 * 1_000_000 * 1_000_000_000);
        let enough = used >= u128::from(rate) * u128::from(nanos);
        if enough && tokens > 0 { rate.saturating_add(self.step).min(self.ceiling.max(rate)) } else { rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn by_example() {
        let aimd = Aimd { floor: 2_000_000, ceiling: 12_000_000, step: 1_000_000 };
        assert_eq!(aimd.cut(10_000_000), 7_000_000);
        assert_eq!(aimd.cut(2_500_000), 2_000_000);
        // Half of ten a second is enough, less is not.
        assert_eq!(aimd.grow(10_000_000, 5, SECOND), 11_000_000);
        assert_eq!(aimd.grow(10_000_000, 4, SECOND), 10_000_000);
        assert_eq!(aimd.grow(11_500_000, 12, SECOND), 12_000_000);
    }

    #[test]
    fn a_rate_beyond_the_bounds_is_led_by_steps_not_by_them() {
        let aimd = Aimd { floor: 2_000_000, ceiling: 12_000_000, step: 1_000_000 };
        assert_eq!(aimd.cut(500_000), 500_000);
        assert_eq!(aimd.grow(500_000, 1, SECOND), 1_500_000);
        assert_eq!(aimd.cut(20_000_000), 12_000_000);
        assert_eq!(aimd.cut(13_000_000), 9_100_000);
        assert_eq!(aimd.grow(20_000_000, 20, SECOND), 20_000_000);
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(
            floor in 1u64..1 << 50, more in 0u64..1 << 50, step: u64, at in 0.0f64..=1.0,
            told in prop::collection::vec((any::<bool>(), any::<u64>(), any::<u64>()), 1..50),
        ) {
            let aimd = Aimd { floor, ceiling: floor + more, step };
            let mut rate = floor + (more as f64 * at) as u64;
            for (cut, tokens, nanos) in told {
                let before = rate;
                rate = if cut { aimd.cut(rate) } else { aimd.grow(rate, tokens, nanos) };
                prop_assert!((aimd.floor..=aimd.ceiling).contains(&rate));
                let right = if cut { rate <= before } else { rate >= before };
                prop_assert!(right, "{before} became {rate}");
            }
        }

        /// Wherever it was set: a cut goes down and not through the floor, growth goes up by a step at the most.
        #[test]
        fn no_step_goes_the_other_way(
            floor in 1u64..1 << 50, more in 0u64..1 << 50, step in 1u64..1 << 50, rate in 0u64..1 << 52,
            tokens: u64, nanos: u64,
        ) {
            let aimd = Aimd { floor, ceiling: floor + more, step };
            let cut = aimd.cut(rate);
            prop_assert!(cut <= rate && cut >= rate.min(floor) && cut <= aimd.ceiling, "{rate} cut to {cut}");
            let grown = aimd.grow(rate, tokens, nanos);
            let most = (rate + step).min(aimd.ceiling.max(rate));
            prop_assert!(grown == rate || grown == most, "{rate} grown to {grown}");
        }

        #[test]
        fn it_does_not_grow_without_demand(rate in 2u64..1 << 40, nanos in 1u64..1 << 40) {
            let aimd = Aimd { floor: 1, ceiling: u64::MAX, step: 7 };
            let half = (u128::from(rate) * u128::from(nanos)).div_ceil(2_000_000 * u128::from(SECOND)) as u64;
            prop_assert_eq!(aimd.grow(rate, half.saturating_sub(1), nanos), rate);
            prop_assert_eq!(aimd.grow(rate, half.max(1), nanos), rate + 7);
        }

        /// Under constant demand it comes back from any cut.
        #[test]
        fn it_recovers(rate in 1u64..1 << 40) {
            let aimd = Aimd { floor: 1, ceiling: rate, step: (rate / 20).max(1) };
            let mut now = aimd.cut(aimd.cut(rate));
            for _ in 0..40 {
                now = aimd.grow(now, u64::MAX, SECOND);
            }
            prop_assert_eq!(now, rate);
        }
    }
}
