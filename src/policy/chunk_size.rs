//! How many items a worker takes at once: as many as fill 100 µs by what the lane's items have cost so far.
//!
//! 100 µs is where handing over stops to matter (a wake-up costs 27 µs in all) and where an item still does not wait
//! noticeably for its neighbours. Costs are smoothed (an exponential average, 1/8 for the newest chunk) and a chunk
//! grows at most fourfold a step, so a lane of unknown cost starts at 1 and a few cheap items do not commit a worker
//! to 64 dear ones.

/// The work that a chunk should hold.
pub(crate) const AIM_NS: u64 = 100_000;
/// The largest chunk.
pub(crate) const MAX: u32 = 64;
/// How fast chunks grow.
const GROWTH: u32 = 4;
/// The newest sample counts for 1/8: 2^3.
const SMOOTHING: u32 = 3;

/// The predicted cost of an item in nanoseconds after a chunk of `items` items took `took_ns` in all; `known` is the
/// prediction before it, 0 when there is none. Never 0.
#[inline]
pub(crate) fn learn(known: u64, took_ns: u64, items: u32) -> u64 {
    let sample = (took_ns / u64::from(items.max(1))).max(1);
    if known == 0 {
        return sample;
    }
    // Rounded away from `known`, so that the average reaches a steady sample instead of stopping 7 short of it.
    if sample > known {
        known + (sample - known).div_ceil(1 << SMOOTHING)
    } else {
        known - (known - sample).div_ceil(1 << SMOOTHING)
    }
}

/// The size of the next chunk, 1 to [`MAX`], after one of `last` items (0: the first) when an item is predicted to
/// cost `cost_ns` (0: unknown).
#[inline]
pub(crate) fn next(last: u32, cost_ns: u64) -> u32 {
    if cost_ns == 0 || last == 0 {
        return 1;
    }
    let fits = u32::try_from(AIM_NS / cost_ns).unwrap_or(MAX);
    fits.min(last.saturating_mul(GROWTH)).clamp(1, MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_starts_at_one_and_grows_fourfold() {
        let (mut size, mut cost, mut sizes) = (0, 0, Vec::new());
        for _ in 0..5 {
            size = next(size, cost);
            sizes.push(size);
            cost = learn(cost, 100 * u64::from(size), size);
        }
        assert_eq!(sizes, [1, 4, 16, 64, 64]);
    }

    #[test]
    fn dear_items_come_alone() {
        assert_eq!(next(64, 1_000_000), 1);
        assert_eq!(next(64, 50_000), 2);
        assert_eq!(next(64, u64::MAX), 1);
        assert_eq!(next(u32::MAX, 1), 64);
    }

    proptest! {
        #[test]
        fn a_chunk_is_never_predicted_above_the_aim(last in 0_u32..100, cost in 1_u64..1 << 40) {
            let size = next(last, cost);
            prop_assert!((1..=MAX).contains(&size));
            prop_assert!(size == 1 || u64::from(size) * cost <= AIM_NS);
            prop_assert!(size <= last.max(1) * GROWTH);
        }

        #[test]
        fn a_steady_cost_is_learnt_exactly(start in 0_u64..1 << 32, cost in 1_u64..1 << 32) {
            let learnt = (0..300).fold(start, |known, _| learn(known, cost * 10, 10));
            prop_assert_eq!(learnt, cost);
        }

        #[test]
        fn the_prediction_stays_between_old_and_new(known in 1_u64.., took: u64, items in 0_u32..100) {
            let sample = (took / u64::from(items.max(1))).max(1);
            let learnt = learn(known, took, items);
            prop_assert!((known.min(sample)..=known.max(sample)).contains(&learnt));
        }
    }
}
