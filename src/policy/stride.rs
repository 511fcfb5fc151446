//! Which lane of a class goes next: stride scheduling (Waldspurger and Weihl, MIT TM-528, 1995).
//!
//! Each lane has a *pass*; the lane with the lowest goes, and its pass grows by `K / weight` for each item it takes.
//! So over time lanes take items in proportion to their weights, and no lane is ever more than one chunk from its
//! share. Who joins, or comes back from a wait, starts at the lowest pass of the others: it owes nothing and gains
//! no credit for the time it was away.
//!
//! Passes wrap. They compare by the sign of their difference, which is right while two lanes of one class are less
//! than 2⁶³ apart; a chunk moves a lane by at most 64·2³² = 2³⁸.

/// K: large, so that the division loses less than 2⁻¹⁶ for every weight that fits 16 bits.
const K: u64 = 1 << 32;

/// The largest weight. The smallest is 1.
pub(crate) const MAX_WEIGHT: u32 = 1 << 16;

/// The pass of a lane after it took `items` items. A weight outside 1 to [`MAX_WEIGHT`] counts as the nearest.
#[inline]
pub(crate) const fn advance(pass: u64, weight: u32, items: u32) -> u64 {
    let weight = if weight == 0 {
        1
    } else if weight > MAX_WEIGHT {
        MAX_WEIGHT
    } else {
        weight
    };
    pass.wrapping_add((K / weight as u64).wrapping_mul(items as u64))
}

/// Whether `a` goes before `b`.
#[inline]
pub(crate) const fn before(a: u64, b: u64) -> bool {
    (a.wrapping_sub(b) as i64) < 0
}

/// The pass of a lane that joins, or comes back, with the pass `own` to a class whose lowest pass is `lowest`
/// (`None`: it is alone). It keeps what it owes, and loses what it did not use.
#[inline]
pub(crate) const fn join(own: u64, lowest: Option<u64>) -> u64 {
    match lowest {
        Some(lowest) if before(own, lowest) => lowest,
        _ => own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lets lanes of these weights take `rounds` items one by one and says how many each took.
    fn run(start: u64, weights: &[u32], rounds: u32) -> Vec<u32> {
        let mut passes = vec![start; weights.len()];
        let mut taken = vec![0; weights.len()];
        for _ in 0..rounds {
            let next =
                (1..passes.len()).fold(0, |low, i| if before(passes[i], passes[low]) { i } else { low });
            passes[next] = advance(passes[next], weights[next], 1);
            taken[next] += 1;
        }
        taken
    }

    proptest! {
        #[test]
        fn shares_are_the_weights(weights in prop::collection::vec(1_u32..20, 1..8), start: u64) {
            let sum: u32 = weights.iter().sum();
            let taken = run(start, &weights, sum * 50);
            for (took, weight) in taken.iter().zip(&weights) {
                let fair = 50 * weight;
                prop_assert!(took.abs_diff(fair) <= 1 + weights.len() as u32 / 2, "{taken:?} for {weights:?}");
            }
        }

        #[test]
        fn wrapping_changes_nothing(weights in prop::collection::vec(1_u32..20, 1..8)) {
            prop_assert_eq!(run(0, &weights, 500), run(u64::MAX - (1 << 36), &weights, 500));
        }

        #[test]
        fn order_is_the_difference(a: u64, d in 1_u64..1 << 62) {
            let b = a.wrapping_add(d);
            prop_assert!(before(a, b) && !before(b, a) && !before(a, a));
            prop_assert_eq!(join(a, Some(b)), b);
            prop_assert_eq!(join(b, Some(a)), b);
            prop_assert_eq!(join(a, None), a);
        }
    }

    #[test]
    fn a_late_joiner_goes_within_a_round() {
        let mut a = 0;
        (0..100_000).for_each(|_| a = advance(a, 1, 1));
        let b = join(0, Some(a));
        assert!(!before(a, b));
        assert!(before(b, advance(a, 1, 1)));
    }

    #[test]
    fn weights_are_kept_in_range() {
        assert_eq!(advance(0, 0, 1), advance(0, 1, 1));
        assert_eq!(advance(0, u32::MAX, 1), advance(0, MAX_WEIGHT, 1));
        assert!(advance(0, MAX_WEIGHT, 1) > 0);
    }
}
