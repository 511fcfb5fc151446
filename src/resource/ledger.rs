//! The book of one kind: what happened to those who asked for it.

use super::kind::ResourceKind;
use super::stats::{KindStats, Meter};
use crate::core::waitlist::Load;
use crate::limit::{Count, Tally};
use crate::sync::Mutex;
use crate::time::Timestamp;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Book {
    pub(super) tally: Tally,
    pub(super) cancelled: Count,
    pub(super) expired: Count,
    pub(super) late_returns: Count,
    meter: Mutex<Meter>,
}

impl Book {
    pub(super) fn new(limit: u64, now: Timestamp) -> Self {
        Book {
            tally: Tally::default(),
            cancelled: Count::default(),
            expired: Count::default(),
            late_returns: Count::default(),
            meter: Mutex::new(Meter::new(limit, now)),
        }
    }

    /// `n` were taken; after a wait, if there was one.
    pub(super) fn took(&self, n: u64, waited: Option<Duration>, now: Timestamp) {
        // By this book: what the list says, less its limit, would be torn where the limit changes meanwhile. It is entered
        // after the take and left before the put, so it is never too much.
        let held = self.meter.lock().take(n, now);
        self.tally.granted(held);
        if let Some(waited) = waited {
            self.tally.waited(waited);
        }
    }

    pub(super) fn gave(&self, n: u64, now: Timestamp) {
        self.meter.lock().give(n, now);
    }

    /// `limit` is asked under the meter's latch, so that what was set last is what the meter has last.
    pub(super) fn set_limit(&self, limit: impl FnOnce() -> u64, now: Timestamp) {
        let mut meter = self.meter.lock();
        meter.set_limit(limit(), now);
    }

    pub(super) fn read(&self, kind: &ResourceKind, load: Load, reserved: u64, now: Timestamp) -> KindStats {
        let (used, usable) = self.meter.lock().read(now);
        KindStats {
            kind: kind.clone(),
            limit: load.limit,
            reserved,
            in_use: load.in_use,
            available: load.available,
            high_water: self.tally.high_water(),
            waiting: load.waiters as usize,
            oldest_waiter: load.oldest.map(|since| now - Timestamp::from_nanos(since)),
            granted: self.tally.grants(),
            denied: self.tally.denied.get(),
            timed_out: self.tally.timed_out.get(),
            cancelled: self.cancelled.get(),
            refused: self.tally.refused.get(),
            expired: self.expired.get(),
            late_returns: self.late_returns.get(),
            waits: self.tally.waits(),
            used,
            usable,
        }
    }
}
