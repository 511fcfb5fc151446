//! What can be decided by terms and a reading of the clock, once they have been read: pure arithmetic.

use super::{Level, Short, Slot, View};

impl View {
    /// The same terms at another time.
    #[inline(always)]
    pub fn at(&self, now: u64) -> View {
        View { now, point: self.terms.line.at(now), ..*self }
    }

    /// A take from a bucket that has these terms and a word of its own, `tat` (0: full): its stamp, and the word after it.
    /// `None`: it is for more than the burst, which [`reserve`](Self::reserve) looks into.
    #[inline(always)]
    pub fn take(&self, tat: u64, n: u64) -> Option<Result<(u64, u64), Short>> {
        let cost = self.terms.cost(n)?;
        let end = self.terms.decide(tat, self.point, cost);
        Some(end.map(|end| (self.point.tick, end)).ok_or_else(|| self.short(tat, cost)))
    }

    /// The first take that is granted, at `latest` or before, or now: a piece of the bucket with the word `tat`.
    ///
    /// # Errors
    ///
    /// [`Short`]: there is none.
    pub fn reserve(&self, tat: u64, n: u64, latest: u64) -> Result<Slot, Short> {
        let View { terms, point, epoch, .. } = *self;
        let price = terms.cost_and_need(n).ok_or_else(|| self.never(tat))?;
        let (start, end, at_once) = match terms.decide_owing(tat, point, price) {
            Some(end) => (point.tick, end, true),
            None => {
                let in_time = terms.ready(tat, point, price.1, true).filter(|start| *start <= latest);
                let Some(start) = in_time else { return Err(self.short(tat, price.1)) };
                let end = terms.decide_owing(tat, terms.line.at(start), price);
                (start, end.expect("`ready` is a tick at which `decide` says yes"), false)
            }
        };
        Ok(Slot { start, at_once, own: false, end, before: tat, epoch, n })
    }

    /// Where `V` is: who has a word at or below it is full.
    pub fn position(&self) -> u64 {
        self.point.floor
    }

    #[inline(always)]
    pub(super) fn never(&self, tat: u64) -> Short {
        Short::NeverFits { left: self.terms.left(tat, self.point) }
    }

    /// Pure arithmetic, inlined: who asks only whether it was granted does not pay for it.
    #[inline(always)]
    pub(super) fn short(&self, tat: u64, cost: u64) -> Short {
        let View { terms, point, now, .. } = *self;
        // Less than the asked cost is left, so with one token asked there is no need to divide.
        let left = if cost == terms.grains { 0 } else { terms.left(tat, point) };
        let tick = terms.ready(tat, point, cost, terms.exact);
        Short::Until { tick, now, left }
    }

    /// How full a bucket with this word is; `paused`: until when the last pause of its terms lasts. (`V` stands still also
    /// where the reading lies behind a change.)
    pub(super) fn level(&self, tat: u64, paused: u64) -> Level {
        let View { terms, point, now, .. } = *self;
        Level {
            left: terms.left(tat, point),
            accrued: point.floor.checked_div(terms.grains).unwrap_or(0),
            paused_until: (now < paused && terms.line.t0 == paused).then_some(paused),
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use crate::core::bucket::{Bucket, Pace};

    #[test]
    fn a_reading_behind_a_change_is_no_pause() {
        let pace = Pace::new(1, 1).unwrap();
        let bucket = Bucket::new(0, pace, pace, 1).unwrap();
        let paused = |now| bucket.level(|| now).paused_until;
        bucket.set_pace(|| 100, pace).unwrap();
        assert_eq!((paused(90), paused(100)), (None, None));
        bucket.pause(|| 110, 200);
        bucket.set_burst(|| 120, 2).unwrap();
        assert_eq!((paused(90), paused(199), paused(200)), (Some(200), Some(200), None));
        bucket.resume(|| 150);
        assert_eq!((paused(140), paused(160)), (None, None));
    }
}
