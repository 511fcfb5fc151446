//! The line that turns clock ticks into virtual tokens, and back: plain arithmetic, exact, total.
//!
//! A bucket counts in *grains*, a fixed number of them to the token. The line is
//! `V(x) = v0 + (x - t0) · pace`, `pace = num/den` grains a tick, and a decision needs `floor V` and `ceil V`,
//! exactly. No division: with `whole` the integer part of the pace and `part/den` the rest, and `recip = floor(part · 2^64 / den)`,
//!
//! ```text
//! q = dt · whole + high half of (dt · recip)   is floor(dt · pace), or one less, for every 64-bit dt
//! r = dt · num - q · den  (mod 2^64)           lies in [0, 2 · den), so with den < 2^63 the low halves tell it
//!                                              exactly; r >= den: q was one too small
//! ```
//!
//! because `dt · part/den - dt · recip/2^64 < dt/2^64 < 1`. `floor V` and `ceil V` differ iff a remainder is left.
//!
//! | saturation | what happens |
//! |---|---|
//! | `x < t0` (a pause, a clock that steps back, a stale reading) | `V = v0`, as at `t0` |
//! | `x` beyond `span` | `V` stands still below [`END`]: a bucket stops that has gone at its highest rate for 2^60 ticks, or 2^58 where a finer token makes the pace whole: 36 and 9 years of nanoseconds, 12 and 3 of a counter at 3 GHz |

/// No position on the line is at or beyond it, so sums of a position, a burst and a cost fit 64 bits.
pub(super) const END: u64 = 1 << 63;
/// Grains a tick at the highest rate, so that [`END`] is 2^60 ticks away (36 years of nanoseconds).
const FAST: u64 = 8;
/// As [`FAST`], where a finer token makes the pace whole: 9 years at the highest rate, 36 at a quarter of it.
const FAST_AND_WHOLE: u64 = 32;

/// An exact fraction, units a tick. Both halves are positive and below 2^63.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    num: u64,
    den: u64,
}

impl Pace {
    const LIMIT: u64 = (1 << 63) - 1;

    /// The fraction `num / den`, exact where its lowest terms fit, else the nearest one below that does (so an
    /// inexact limiter is slow, never fast). `None` when nothing above zero is left, or it is beyond all bounds.
    pub fn new(num: u128, den: u128) -> Option<Pace> {
        let (num, den) = fraction_below(num, den, Self::LIMIT)?;
        (num > 0).then_some(Pace { num, den })
    }

    /// This pace times a whole number.
    fn times(self, unit: u64) -> Option<Pace> {
        Pace::new(u128::from(self.num) * u128::from(unit), u128::from(self.den))
    }

    /// Whether this is at most `units` a tick.
    pub fn at_most(self, units: u64) -> bool {
        u128::from(self.num) <= u128::from(self.den) * u128::from(units)
    }

    /// How many grains make a token at this pace: a number that makes it whole over a tick (no rounding at all), else
    /// over a thousand, a million, a billion of them (none at times as people and tests write them, when a tick is a
    /// nanosecond), as fine as range allows. `None`: the highest rate leaves no room for one grain.
    pub(super) fn grains(self, max: Pace, room: u64) -> Option<u64> {
        let fine = max.fits_into(FAST).min(room);
        let whole = max.fits_into(FAST_AND_WHOLE).min(room);
        let exact = [1, 1_000, 1_000_000, 1_000_000_000]
            .into_iter()
            .map(|ticks| self.whole_over(ticks))
            .find(|grains| *grains <= whole)
            .map(|grains| grains * (fine / grains).max(1));
        (fine > 0).then(|| exact.unwrap_or(fine))
    }

    /// The largest whole number that, multiplied by this pace, is at most `units`.
    fn fits_into(self, units: u64) -> u64 {
        let fits = u128::from(units) * u128::from(self.den) / u128::from(self.num);
        u64::try_from(fits).unwrap_or(u64::MAX)
    }

    /// The smallest whole number that makes this pace, multiplied by it, whole over `ticks` ticks.
    fn whole_over(self, ticks: u64) -> u64 {
        self.den / gcd(u128::from(self.den), u128::from(ticks)) as u64
    }
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// `num / den` in lowest terms, or the last continued-fraction convergent below it with both terms within `limit`.
/// `None` for a zero denominator and for what is above `limit` itself.
pub fn fraction_below(num: u128, den: u128, limit: u64) -> Option<(u64, u64)> {
    let limit = u128::from(limit);
    let divisor = gcd(num, den).max(1);
    let (mut a, mut b) = (num / divisor, den / divisor);
    if b == 0 || a / b > limit {
        return None;
    }
    // Convergents h/k; those of even index approach from below, the first is the integer part.
    let (mut h0, mut k0, mut h1, mut k1) = (0u128, 1u128, 1u128, 0u128);
    let mut below = (0, 1);
    let mut even = true;
    while b != 0 {
        let digit = a / b;
        let next = |one: u128, zero: u128| one.checked_mul(digit)?.checked_add(zero).filter(|v| *v <= limit);
        let (Some(h), Some(k)) = (next(h1, h0), next(k1, k0)) else { return Some(below) };
        (h0, k0, h1, k1) = (h1, k1, h, k);
        (a, b) = (b, a % b);
        // The last convergent is the fraction itself, whatever its index.
        if even || b == 0 {
            below = (h as u64, k as u64);
        }
        even = !even;
    }
    Some(below)
}

/// `V`, see the head of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) t0: u64,
    pub(super) v0: u64,
    /// The largest distance from `t0` at which `V` is still below [`END`].
    pub(super) span: u64,
    pub(super) whole: u64,
    pub(super) recip: u64,
    pub(super) num: u64,
    pub(super) den: u64,
    /// Ticks a grain in 2^-61, rounded down; 0 when a grain takes four ticks or more.
    pub(super) ticks: u64,
}

/// A point of the line: the tick it stands for (`t0` for every tick before it) and `V = floor + rest/den`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) tick: u64,
    pub(super) floor: u64,
    pub(super) rest: u64,
    /// `rest/den` in 2^-64, rounded up, to within a 2^-64 for each tick since `t0`.
    pub(super) about: u64,
}

impl Point {
    #[inline(always)]
    pub(super) fn ceil(self) -> u64 {
        self.floor + u64::from(self.rest != 0)
    }
}

impl Line {
    const TICKS_SHIFT: u32 = 61;
    /// What [`least_ticks_until`](Self::least_ticks_until) is short by, at the most.
    pub(super) const LOSS: u64 = 3;

    /// A line through `(t0, v0)` at `pace` units a tick, `grains` to the unit. `None`: too steep to be told.
    pub(super) fn new(t0: u64, v0: u64, pace: Pace, grains: u64) -> Option<Line> {
        let Pace { num, den } = pace.times(grains)?;
        let (whole, part) = (num / den, num % den);
        // part < den, so the quotient fits 64 bits.
        let recip = ((u128::from(part) << 64) / u128::from(den)) as u64;
        let ticks = (u128::from(den) << Self::TICKS_SHIFT) / u128::from(num);
        let ticks = if den / num < 4 { ticks as u64 } else { 0 };
        Some(Line { t0, v0, span: 0, whole, recip, num, den, ticks }.through(t0, v0))
    }

    /// The same line from another point on.
    pub(super) fn through(self, t0: u64, v0: u64) -> Line {
        let room = u128::from((END - 1).saturating_sub(v0));
        let span = u64::try_from(room * u128::from(self.den) / u128::from(self.num)).unwrap_or(u64::MAX);
        Line { t0, v0, span, ..self }
    }

    /// Where the line is at this tick.
    #[inline(always)]
    pub(super) fn at(&self, tick: u64) -> Point {
        let dt = tick.saturating_sub(self.t0).min(self.span);
        let product = u128::from(dt) * u128::from(self.recip);
        let mut q = dt * self.whole + (product >> 64) as u64;
        let mut rest = dt.wrapping_mul(self.num).wrapping_sub(q.wrapping_mul(self.den));
        let mut about = (product as u64).saturating_add(dt);
        if rest >= self.den {
            q += 1;
            rest -= self.den;
            about = (product as u64).wrapping_add(dt);
        }
        Point { tick: self.t0 + dt, floor: self.v0 + q, rest, about }
    }

    /// How many ticks after `point` the line reaches `position`, which is above the point's floor: the least `w` with
    /// `rest + w · num >= (position - floor) · den`.
    ///
    /// No loop and nothing that can fail: who does not look at the result does not pay for it.
    #[inline(always)]
    pub(super) fn ticks_until(&self, point: Point, position: u64) -> u64 {
        let w = self.least_ticks_until(point, position);
        let num = u128::from(self.num);
        // Three exact steps, all tried at once.
        let (missing, step) =
            (self.climb(point, position) as i128 - (u128::from(w) * num) as i128, num as i128);
        let steps = u64::from(missing > 0) + u64::from(missing > step) + u64::from(missing > 2 * step);
        w.saturating_add(steps)
    }

    /// A lower bound of [`ticks_until`](Self::ticks_until), at half its cost.
    #[inline(always)]
    pub(super) fn least_ticks_until(&self, point: Point, position: u64) -> u64 {
        if self.ticks == 0 {
            let num = u128::from(self.num);
            let climb = self.climb(point, position);
            return climb.saturating_add(num - 1).checked_div(num).unwrap_or(0).min(u64::MAX.into()) as u64;
        }
        // Both factors are rounded down, what is taken off is rounded up; the roundings lose under a tick each.
        let gap = u128::from(position.wrapping_sub(point.floor));
        let rest = (u128::from(point.about) * u128::from(self.ticks)) >> 64;
        let least = (gap * u128::from(self.ticks)).wrapping_sub(rest + 1) >> Self::TICKS_SHIFT;
        u64::try_from(least).unwrap_or(u64::MAX)
    }

    /// From the point to the position, in 1/den of a grain.
    #[inline(always)]
    fn climb(&self, point: Point, position: u64) -> u128 {
        let gap = u128::from(position.wrapping_sub(point.floor));
        (gap * u128::from(self.den)).wrapping_sub(u128::from(point.rest))
    }

    /// The first tick, not before `t0`, at which the line has reached `position`. `None`: never.
    pub(super) fn reaches(&self, position: u64) -> Option<u64> {
        let climb = u128::from(position.saturating_sub(self.v0));
        let dt = (climb * u128::from(self.den)).div_ceil(u128::from(self.num));
        u64::try_from(dt).ok().filter(|dt| *dt <= self.span)?.checked_add(self.t0)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::core::bucket::{Bucket, Short};
    use proptest::prelude::*;

    #[test]
    fn fractions_that_fit_are_exact() {
        assert_eq!(fraction_below(6, 4, 100), Some((3, 2)));
        assert_eq!(fraction_below(0, 4, 100), Some((0, 1)));
        assert_eq!(fraction_below(1, 0, 100), None);
        assert_eq!(fraction_below(101, 1, 100), None);
        assert_eq!(fraction_below(100, 1, 100), Some((100, 1)));
    }

    proptest! {
        #[test]
        fn fractions_that_do_not_fit_are_below_and_near(num in 1u128..1 << 80, den in 1u128..1 << 60) {
            if let Some((h, k)) = fraction_below(num, den, Pace::LIMIT) {
                let (h, k) = (u128::from(h), u128::from(k));
                // num/den - h/k in [0, 2^-40 of it), by the integer parts and the remainders.
                let (whole, rest) = (num / den, num % den);
                prop_assert!(h / k == whole);
                prop_assert!((h % k) * den <= rest * k);
                prop_assert!(rest * k - (h % k) * den <= (den * k) >> 15);
            }
        }

        #[test]
        fn the_line_is_the_exact_floor_and_ceiling(
            num in 1u64..1 << 63, den in 1u64..1 << 63, t0: u64, dt: u64, small in 0u64..1 << 40, v0 in 0u64..1 << 62,
        ) {
            for dt in [dt, small] {
                let Some(pace) = Pace::new(u128::from(num), u128::from(den)) else { continue };
                let Some(line) = Line::new(t0, v0, pace, 1) else { continue };
                let dt = dt.min(u64::MAX - t0);
                let point = line.at(t0 + dt);
                let dt = dt.min(line.span);
                let exact = u128::from(dt) * u128::from(num);
                let floor = u128::from(v0) + exact / u128::from(den);
                prop_assert_eq!(u128::from(point.floor), floor);
                prop_assert_eq!(point.ceil() - point.floor, u64::from(exact % u128::from(den) != 0));
                prop_assert!(point.floor < END);
                prop_assert_eq!(point.tick, t0 + dt);
                prop_assert_eq!(line.at(t0.saturating_sub(dt)).floor, v0);
            }
        }

        /// Far from `t0`, where the reciprocal is mostly off by one, and at positions just ahead.
        #[test]
        fn waiting_is_exact_after_centuries(
            num in 1u64..1 << 40, ratio in 0.3f64..4.5, dt in 0u64..1 << 62, multiple in any::<bool>(), gap in 1u64..300,
        ) {
            let den = ((num as f64 * ratio) as u64).max(1);
            let line = Line::new(0, 0, Pace::new(num.into(), den.into()).unwrap(), 1).unwrap();
            let dt = if multiple { dt - dt % line.den } else { dt };
            let point = line.at(dt.min(line.span / 2));
            let w = u128::from(line.ticks_until(point, point.floor + gap));
            let climb = |w| u128::from(point.rest) + w * u128::from(line.num) >= u128::from(gap) * u128::from(line.den);
            prop_assert!(climb(w) && !climb(w - 1));
            let least = u128::from(line.least_ticks_until(point, point.floor + gap));
            prop_assert!(least <= w && w <= least + u128::from(Line::LOSS));
        }

        #[test]
        fn a_refusal_that_tells_late_is_never_early(
            num in 1u64..1 << 30, den in 1u64..1 << 30, n in 1u64..9, taken in 1u64..9, now in 0u64..1 << 40,
        ) {
            let pace = Pace::new(num.into(), den.into()).unwrap();
            let bucket = || Bucket::new(0, pace, pace, 8).ok();
            let (Some(exact), Some(late)) = (bucket(), bucket().map(Bucket::tells_late)) else { return Ok(()) };
            let taken = taken.max(9 - n);
            for bucket in [&exact, &late] {
                prop_assert_eq!(bucket.try_take(|| now, taken), Ok(now));
            }
            let Err(Short::Until { tick: Some(tick), left, .. }) = exact.try_take(|| now, n) else { panic!("granted") };
            let Err(Short::Until { tick: Some(told), left: same, .. }) = late.try_take(|| now, n) else { panic!("granted") };
            prop_assert!(tick <= told && told <= tick + Line::LOSS);
            prop_assert_eq!(left, same);
            let slots = [exact, late].map(|bucket| bucket.reserve(|| now, n, u64::MAX).map(|slot| slot.start));
            prop_assert_eq!(slots, [Ok(tick); 2]);
        }

        #[test]
        fn reaching_is_the_inverse_rounded_up(
            num in 1u64..1 << 40, den in 1u64..1 << 40, near in 0u64..9, t0 in 0u64..1 << 62, v0 in 0u64..1 << 40,
            climb in 0u64..1 << 50,
        ) {
            // A pace of any size, or one of a few ticks a grain.
            let den = if near > 4 { den } else { (num * near / 2).max(1) + den % num };
            let pace = Pace::new(u128::from(num), u128::from(den)).unwrap();
            let line = Line::new(t0, v0, pace, 1).unwrap();
            if let Some(tick) = line.reaches(v0 + climb) {
                prop_assert!(line.at(tick).floor >= v0 + climb);
                prop_assert!(tick == t0 || line.at(tick - 1).floor < v0 + climb);
                let from = line.at(t0 + (tick - t0) / 3);
                if from.floor < v0 + climb {
                    prop_assert_eq!(from.tick + line.ticks_until(from, v0 + climb), tick);
                }
            }
        }
    }
}
