//! What can be decided by terms and a reading of the clock, once they have been read: pure arithmetic.

use super::{Level, Short, View};

impl View {
    /// The same terms at another time.
    #[inline(always)]
    pub fn at(&self, now: u64) -> View {
        View { now, point: self.terms.line.at(now), ..*self }
    }

    /// A take from a bucket that has these terms and a word of its own, `tat` (0: full): its stamp, and the word after it.
    /// `None`: [`refusal`](Self::refusal) says why.
    #[inline(always)]
    pub fn take(&self, tat: u64, n: u64) -> Option<(u64, u64)> {
        let cost = self.terms.cost(n)?;
        self.terms.decide(tat, self.point, cost).map(|end| (self.point.tick, end))
    }

    /// Why [`take`](Self::take) was refused.
    #[inline(always)]
    pub fn refusal(&self, tat: u64, n: u64) -> Short {
        match self.terms.cost(n) {
            Some(cost) => self.short(tat, cost),
            None => self.never(tat),
        }
    }

    /// The first take that is granted, at `latest` or before; as [`take`](Self::take).
    pub fn first(&self, tat: u64, n: u64, latest: u64) -> Option<(u64, u64)> {
        self.take(tat, n).or_else(|| {
            let cost = self.terms.cost(n)?;
            let ready = self.terms.ready(tat, self.point, cost, true).filter(|start| *start <= latest)?;
            self.terms.decide(tat, self.terms.line.at(ready), cost).map(|end| (ready, end))
        })
    }

    /// The reading of the clock.
    #[inline(always)]
    pub fn now(&self) -> u64 {
        self.now
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

    /// How full a bucket with this word is.
    pub(super) fn level(&self, tat: u64) -> Level {
        let View { terms, point, now, .. } = *self;
        Level {
            left: terms.left(tat, point),
            accrued: point.floor.checked_div(terms.grains).unwrap_or(0),
            paused_until: Some(terms.line.t0).filter(|t0| *t0 > now),
        }
    }
}
