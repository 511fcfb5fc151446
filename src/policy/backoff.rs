//! How long an item waits before its next attempt: exponential with full jitter, `random(0, min(cap, base·2ⁿ))`.
//! Source: Marc Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.

use crate::job::Retry;
use crate::policy::rng::scale;
use std::time::Duration;

/// The wait after `failures` failed attempts (at least 1), with `random` uniform over all `u64`.
pub(crate) fn delay(retry: &Retry, failures: u32, random: u64) -> Duration {
    let waits = retry.waits();
    let nominal = nominal(waits.start, waits.end, failures);
    if !retry.is_jittered() {
        return nominal;
    }
    let nanos = u64::try_from(nominal.as_nanos()).unwrap_or(u64::MAX);
    // One more than the nominal wait, so that the wait itself can be drawn too.
    Duration::from_nanos(scale(random, nanos.saturating_add(1)))
}

/// The wait without jitter: `min(cap, base·2ⁿ)`, n counted from 0 at the first failure.
fn nominal(base: Duration, cap: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1);
    let factor = 1_u32.checked_shl(doublings);
    factor.and_then(|f| base.checked_mul(f)).map_or(cap, |wait| wait.min(cap))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::rng::Rng;
    use proptest::prelude::*;

    #[test]
    fn it_doubles_up_to_its_cap() {
        let ms = Duration::from_millis;
        let retry = Retry::exponential(ms(200)..ms(1500)).jitter(false);
        let waits: Vec<_> = (1..=5).map(|n| delay(&retry, n, 0).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1500, 1500]);
        assert_eq!(delay(&retry, u32::MAX, 0), ms(1500));
        assert_eq!(delay(&Retry::fixed(ms(70)), 9, u64::MAX), ms(70));
        assert_eq!(delay(&Retry::none(), 1, u64::MAX), Duration::ZERO);
    }

    #[test]
    fn jitter_is_uniform() {
        let retry = Retry::exponential(Duration::from_secs(1)..Duration::from_secs(64));
        let mut rng = Rng::seeded(7);
        let mean = (0..10_000).map(|_| delay(&retry, 3, rng.next_u64()).as_secs_f64()).sum::<f64>() / 1e4;
        assert!((1.95..2.05).contains(&mean), "{mean}");
    }

    proptest! {
        #[test]
        fn never_above_the_nominal_wait(base in 0_u64..1 << 40, cap: u64, failures in 1_u32..200, random: u64) {
            let (base, cap) = (Duration::from_nanos(base), Duration::from_nanos(cap));
            let retry = Retry::exponential(base..cap);
            let wait = delay(&retry, failures, random);
            prop_assert!(wait <= cap);
            let factor = 2_f64.powi(failures as i32 - 1);
            prop_assert!(wait.as_secs_f64() <= base.as_secs_f64() * factor * 1.000_001 + 1e-9);
        }

        #[test]
        fn the_extremes_are_drawn(base in 1_u64..1 << 30, failures in 1_u32..20) {
            let base = Duration::from_nanos(base);
            let retry = Retry::exponential(base..Duration::from_secs(3600));
            prop_assert_eq!(delay(&retry, failures, 0), Duration::ZERO);
            prop_assert_eq!(delay(&retry, failures, u64::MAX), delay(&retry.jitter(false), failures, 0));
        }
    }
}
