//! The book of one kind: what happened to those who asked for it.
//!
//! A grant and what is given back are written without a latch, on a line of the book's own. The limit over time has one,
//! which is passed where a limit is set and where the book is read.

use super::kind::ResourceKind;
use super::stats::KindStats;
use crate::core::integral::Integral;
use crate::core::waitlist::Load;
use crate::limit::{Count, Grants, Tally, Usable};
use crate::sync::CachePadded;
use crate::time::Timestamp;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Book {
    line: CachePadded<Line>,
    pub(super) tally: Tally,
    pub(super) cancelled: Count,
    pub(super) deadlocks: Count,
    pub(super) expired: Count,
    pub(super) late_returns: Count,
    began: Timestamp,
    usable: Usable,
}

/// What each grant changes.
#[derive(Debug, Default)]
struct Line {
    integral: Integral,
    grants: Grants,
}

impl Book {
    pub(super) fn new(limit: u64, now: Timestamp) -> Self {
        Book {
            line: CachePadded::new(Line::default()),
            tally: Tally::default(),
            cancelled: Count::default(),
            deadlocks: Count::default(),
            expired: Count::default(),
            late_returns: Count::default(),
            began: now,
            usable: Usable::new(limit, now),
        }
    }

    /// `n` were taken; after a wait, if there was one.
    #[inline]
    pub(super) fn took(&self, n: u64, waited: Option<Duration>, now: Timestamp) {
        // By this book: what the list says, less its limit, would be torn where the limit changes meanwhile. It is entered
        // after the take and left before the put, so it is never too much.
        let held = self.line.integral.take(n, self.nanos(now));
        self.line.grants.granted(held);
        if let Some(waited) = waited {
            self.tally.waited(waited);
        }
    }

    /// `n` are given back after this.
    #[inline]
    pub(super) fn gave(&self, n: u64, now: Timestamp) {
        self.line.integral.give(n, self.nanos(now));
    }

    fn nanos(&self, now: Timestamp) -> u64 {
        now.as_nanos().saturating_sub(self.began.as_nanos())
    }

    /// `limit` is asked when nobody else sets one here.
    pub(super) fn set_limit(&self, limit: impl FnOnce() -> u64, now: Timestamp) {
        self.usable.set(limit, now);
    }

    /// The clock is asked when the integral has been read: a change that is in it came before. (After a time of before, a
    /// permit that was given back meanwhile would count as used for longer than it could have been.)
    pub(super) fn read(
        &self,
        kind: &ResourceKind,
        load: Load,
        reserved: u64,
        now: impl FnOnce() -> Timestamp,
    ) -> KindStats {
        let held = self.line.integral.read();
        let now = now();
        let used = held.until(self.nanos(now));
        let usable = self.usable.until(now);
        KindStats {
            kind: kind.clone(),
            limit: load.limit,
            reserved,
            in_use: load.in_use,
            available: load.available,
            high_water: self.line.grants.high_water(),
            waiting: load.waiters as usize,
            oldest_waiter: load.oldest.map(|since| now - Timestamp::from_nanos(since)),
            granted: self.line.grants.count(),
            denied: self.tally.denied.get(),
            timed_out: self.tally.timed_out.get(),
            cancelled: self.cancelled.get(),
            deadlocks: self.deadlocks.get(),
            refused: self.tally.refused.get(),
            expired: self.expired.get(),
            late_returns: self.late_returns.get(),
            waits: self.tally.waits(),
            used: used as f64 / 1e9,
            usable: usable as f64 / 1e9,
        }
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
        let book = Book::new(1, at(0));
        book.took(1, None, at(0));
        let load = Load { limit: 1, in_use: 1, available: 0, waiters: 0, oldest: None };
        let stats = book.read(&"gpu".into(), load, 0, || {
            book.gave(1, at(20));
            at(10)
        });
        assert_eq!((stats.used, stats.usable, stats.utilisation()), (10.0, 10.0, 1.0));
    }
}
