//! What a quota, or one kind of a resource manager, counts of those who ask. A grant costs some RMWs on a line of its own,
//! which is why a quota counts only when it is told to; a wait takes a latch, and has cost more than that already.

use super::quota_stats::QuotaCounts;
use crate::core::integral::Integral;
use crate::lock::{Levelled, house};
use crate::meter::{Percentiles, Samples};
use crate::sync::CachePadded;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::time::Timestamp;
use std::time::Duration;

/// What becomes of those who are not granted, or not at once.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) denied: Count,
    pub(crate) timed_out: Count,
    pub(crate) refused: Count,
    waits: Levelled<Samples, house::QuotaWaits>,
}

/// What each grant changes: it belongs on a line of its own.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    granted: Count,
    high_water: Count,
}

/// A limit over time: how much could have been held. One latch, passed where a limit is set and where somebody looks.
#[derive(Debug)]
pub(crate) struct Usable(Levelled<Piece, house::QuotaUsable>);

/// Up to a change, and what has stood since.
#[derive(Debug)]
struct Piece {
    limit: u64,
    since: Timestamp,
    /// Unit-nanoseconds until then.
    sum: u128,
}

/// All that a quota counts.
#[derive(Debug)]
pub(super) struct Counted {
    line: CachePadded<Line>,
    pub(super) tally: Tally,
    began: Timestamp,
    pub(super) usable: Usable,
}

/// What each grant changes.
#[derive(Debug, Default)]
struct Line {
    grants: Grants,
    /// How much is held for how long.
    integral: Integral,
}

/// A count that any thread raises. Nothing is ordered by it.
#[derive(Debug)]
pub(crate) struct Count(AtomicU64);

impl Default for Count {
    fn default() -> Self {
        Count(AtomicU64::new(0))
    }
}

impl Count {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// A load first: a mark rarely moves.
    pub(crate) fn raise(&self, to: u64) {
        if self.get() < to {
            self.0.fetch_max(to, Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Usable {
    pub(crate) fn new(limit: u64, now: Timestamp) -> Self {
        Usable(Levelled::new(Piece { limit, since: now, sum: 0 }))
    }

    /// `limit` is asked under the latch, so that what was set last is what stands here last.
    pub(crate) fn set(&self, limit: impl FnOnce() -> u64, now: Timestamp) {
        let mut piece = self.0.lock();
        *piece = Piece { sum: piece.until(now), since: piece.since.max(now), limit: limit() };
    }

    /// Unit-nanoseconds.
    pub(crate) fn until(&self, now: Timestamp) -> u128 {
        self.0.lock().until(now)
    }
}

impl Piece {
    fn until(&self, now: Timestamp) -> u128 {
        // Another thread's reading may be older than the last one: no time has passed then.
        self.sum + u128::from(self.limit) * (now - self.since).as_nanos()
    }
}

impl Counted {
    pub(super) fn new(limit: u64, now: Timestamp) -> Self {
        Counted {
            line: CachePadded::new(Line::default()),
            tally: Tally::default(),
            began: now,
            usable: Usable::new(limit, now),
        }
    }

    /// `n` were taken before this.
    #[inline]
    pub(super) fn took(&self, n: u64, now: Timestamp) {
        let held = self.line.integral.take(n, self.nanos(now));
        self.line.grants.granted(held);
    }

    /// `n` are given back after this.
    #[inline]
    pub(super) fn gives(&self, n: u64, now: Timestamp) {
        self.line.integral.give(n, self.nanos(now));
    }

    /// The clock is asked when the integral has been read: a change that is in it came before. (After a time of before, a
    /// permit that was given back meanwhile would count as used for longer than it could have been.)
    pub(super) fn look(&self, now: impl FnOnce() -> Timestamp) -> QuotaCounts {
        let Counted { line, tally, usable, .. } = self;
        let held = line.integral.read();
        let now = now();
        QuotaCounts {
            high_water: line.grants.high_water(),
            granted: line.grants.count(),
            denied: tally.denied.get(),
            timed_out: tally.timed_out.get(),
            refused: tally.refused.get(),
            waits: tally.waits(),
            used: held.until(self.nanos(now)) as f64 / 1e9,
            usable: usable.until(now) as f64 / 1e9,
        }
    }

    fn nanos(&self, now: Timestamp) -> u64 {
        now.as_nanos().saturating_sub(self.began.as_nanos())
    }
}

impl Grants {
    /// A grant after which so much was in use.
    #[inline]
    pub(crate) fn granted(&self, in_use: u64) {
        self.granted.add(1);
        self.high_water.raise(in_use);
    }

    pub(crate) fn count(&self) -> u64 {
        self.granted.get()
    }

    pub(crate) fn high_water(&self) -> u64 {
        self.high_water.get()
    }
}

impl Tally {
    /// How long somebody waited for a grant.
    pub(crate) fn waited(&self, time: Duration) {
        self.waits.lock().record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), 1);
    }

    pub(crate) fn waits(&self) -> Percentiles {
        self.waits.lock().percentiles()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::secs;

    /// The permit is given back between the two readings.
    #[test]
    fn no_more_was_used_than_the_window_holds() {
        let at = |s| Timestamp::ZERO + secs(s);
        let counted = Counted::new(1, at(0));
        counted.took(1, at(0));
        let counts = counted.look(|| {
            counted.gives(1, at(20));
            at(10)
        });
        assert_eq!((counts.used, counts.usable, counts.utilisation()), (10.0, 10.0, 1.0));
    }
}
