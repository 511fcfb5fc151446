//! The terms of a bucket: what a decision needs, the decision itself, and the words that hold it all for readers who do
//! not lock. The protocol around the sequence word is told at the head of [`bucket`](super).

use super::MOST;
use super::line::{Line, Point};
use crate::sync::atomic::AtomicU64;
use crate::sync::ordering;
use std::hint::select_unpredictable;

/// What a decision needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) line: Line,
    pub(super) burst: u64,
    pub(super) barrier: u64,
    pub(super) grains: u64,
    /// Whether a refusal tells its tick exactly.
    pub(super) exact: bool,
    /// Whether more than the burst is let through a full bucket.
    pub(super) debt: bool,
}

/// A granted piece: `tat` goes from what it was to `end`.
pub(super) type End = u64;

impl Terms {
    #[inline(always)]
    pub(super) fn cost(&self, n: u64) -> Option<u64> {
        n.checked_mul(self.grains).filter(|cost| *cost <= self.burst)
    }

    /// The cost, also beyond the burst where that may be owed, and how much of it must be there.
    pub(super) fn cost_and_need(&self, n: u64) -> Option<(u64, u64)> {
        let cost = n.checked_mul(self.grains)?;
        let most = if self.debt { self.burst.max(MOST) } else { self.burst };
        (cost <= most).then_some((cost, cost.min(self.burst)))
    }

    /// [`decide`](Self::decide) for any of [`cost_and_need`](Self::cost_and_need).
    pub(super) fn decide_owing(&self, tat: u64, point: Point, (cost, need): (u64, u64)) -> Option<End> {
        self.decide(tat, point, need).map(|end| end + (cost - need))
    }

    /// The table at the head of the file, for a cost within the burst: who is idle has room for it.
    ///
    /// Idle and in use are told apart without a branch. A counter that ticks in strides of some nanoseconds makes a
    /// busy limiter alternate between them, and a wrong guess costs more than the decision.
    #[inline(always)]
    pub(super) fn decide(&self, tat: u64, point: Point, cost: u64) -> Option<End> {
        let t = tat.max(self.barrier);
        let from = select_unpredictable(t <= point.floor, point.ceil(), t);
        (t + cost <= point.floor + self.burst).then_some(from + cost)
    }

    /// The tick at which [`decide`](Self::decide), which has just said no, will say yes if nobody comes in between; not
    /// `exact`: or up to [`Line::LOSS`] ticks later, at half the cost.
    #[inline(always)]
    pub(super) fn ready(&self, tat: u64, point: Point, cost: u64, exact: bool) -> Option<u64> {
        let position = tat.max(self.barrier) + cost - self.burst;
        let wait = if exact {
            self.line.ticks_until(point, position)
        } else {
            self.line.least_ticks_until(point, position).saturating_add(Line::LOSS)
        };
        let ready = point.tick.checked_add(wait)?;
        (ready - self.line.t0 <= self.line.span).then_some(ready)
    }

    #[inline(always)]
    pub(super) fn left(&self, tat: u64, point: Point) -> u64 {
        let t = tat.max(self.barrier).max(point.floor);
        (point.floor + self.burst).saturating_sub(t).checked_div(self.grains).unwrap_or(0)
    }

    /// `line` continued from `now` on; where `V` stands still, in a pause or because `now` lies behind a change, it is left as
    /// it is.
    pub(super) fn rebased(mut self, now: u64) -> Terms {
        if now > self.line.t0 {
            let point = self.line.at(now);
            self.line = self.line.through(now, point.floor);
        }
        self
    }
}

/// [`Terms`] behind the sequence word.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) sequence: AtomicU64,
    pub(super) t0: AtomicU64,
    pub(super) v0: AtomicU64,
    pub(super) span: AtomicU64,
    pub(super) whole: AtomicU64,
    pub(super) recip: AtomicU64,
    pub(super) num: AtomicU64,
    pub(super) den: AtomicU64,
    pub(super) ticks: AtomicU64,
    pub(super) burst: AtomicU64,
    pub(super) barrier: AtomicU64,
    /// Grains to the token, for life: positions outlive every change of the rate.
    pub(super) grains: u64,
    /// For life, see [`Bucket::tells_late`](super::Bucket::tells_late).
    pub(super) exact: bool,
    /// For life, see [`Bucket::lets_owe`](super::Bucket::lets_owe).
    pub(super) debt: bool,
}

impl Shared {
    #[inline(always)]
    pub(super) fn load(&self) -> Terms {
        // ORDERING: Acquire pairs with the Release stores of `write`.
        let term = |word: &AtomicU64| word.load(ordering!(Acquire, mutant = "bucket_reads_relaxed"));
        let line = Line {
            t0: term(&self.t0),
            v0: term(&self.v0),
            span: term(&self.span),
            whole: term(&self.whole),
            recip: term(&self.recip),
            num: term(&self.num),
            den: term(&self.den),
            ticks: term(&self.ticks),
        };
        let (burst, barrier) = (term(&self.burst), term(&self.barrier));
        Terms { line, burst, barrier, grains: self.grains, exact: self.exact, debt: self.debt }
    }

    /// Writes what differs, in the reverse order of [`load`](Self::load): a reader that meets the new terms half-way
    /// has only new ones ahead of it, which keeps the mixtures that a model has to try few.
    pub(super) fn write(&self, old: &Terms, new: &Terms) {
        // ORDERING: Release, each of them: a reader that sees the new term (Acquire) sees the odd sequence before it.
        let put = |word: &AtomicU64, old, new| {
            if old != new {
                word.store(new, ordering!(Release, mutant = "bucket_terms_relaxed"));
            }
        };
        put(&self.barrier, old.barrier, new.barrier);
        put(&self.burst, old.burst, new.burst);
        put(&self.ticks, old.line.ticks, new.line.ticks);
        put(&self.den, old.line.den, new.line.den);
        put(&self.num, old.line.num, new.line.num);
        put(&self.recip, old.line.recip, new.line.recip);
        put(&self.whole, old.line.whole, new.line.whole);
        put(&self.span, old.line.span, new.line.span);
        put(&self.v0, old.line.v0, new.line.v0);
        put(&self.t0, old.line.t0, new.line.t0);
    }
}
