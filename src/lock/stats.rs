//! How a lock has been waited for, and held.

use super::house;
use super::level::Level;
use super::levelled::Levelled;
use crate::core::lockline::Tally;
use crate::meter::{Percentiles, Samples};
use crate::sync::atomic::{AtomicU64, Ordering};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// How a lock, or all of a [`LockManager`](super::LockManager), has been waited for. What needed no waiting is not counted,
/// but for exclusive holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LockStats {
    /// How often it was held exclusively, upgrades among it; exact once the holders are gone.
    pub exclusive: u64,
    /// How often somebody had to queue.
    pub waits: u64,
    /// Of them, how often the lock was handed over.
    pub handed_over: u64,
    /// How often a waiter was woken and found that a newcomer had been faster.
    pub barged: u64,
    /// How often a deadline ended a wait.
    pub timed_out: u64,
    /// How often a [`Cancel`](super::Cancel) did.
    pub cancelled: u64,
    /// How often a deadlock did. Never, where nobody looks for them.
    pub deadlocks: u64,
    /// How often somebody was let past a queue, because its order alone would have been a deadlock.
    pub repaired: u64,
    /// How long those waited who queued and slept, whatever the end of it was: the longest is `max`.
    pub waited: Percentiles,
    /// How long it was held, each time; `None`, unless that was asked for.
    pub held: Option<Percentiles>,
}

impl fmt::Display for LockStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} exclusive, {} waits", self.exclusive, self.waits)?;
        for (count, what) in [
            (self.handed_over, "handed over"),
            (self.barged, "barged"),
            (self.timed_out, "timed out"),
            (self.cancelled, "cancelled"),
            (self.deadlocks, "deadlocks"),
            (self.repaired, "let past"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        write!(f, "; waited: {}", self.waited)?;
        if let Some(held) = &self.held {
            write!(f, "; held: {held}")?;
        }
        Ok(())
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Entered,
    TimedOut,
    Cancelled,
    Deadlock,
}

/// What is counted of those who waited. A wait takes its latch, and has cost more than that already.
#[derive(Debug)]
pub(super) struct Book {
    waited: Levelled<Samples, house::LockWaits>,
    timed_out: AtomicU64,
    cancelled: AtomicU64,
    deadlocks: AtomicU64,
}

impl Default for Book {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Book { waited: Levelled::default(), timed_out: zero(), cancelled: zero(), deadlocks: zero() }
    }
}

impl Book {
    pub(super) fn waited(&self, time: Duration, end: End) {
        record(&self.waited, time);
        let counter = match end {
            End::Entered => return,
            End::TimedOut => &self.timed_out,
            End::Cancelled => &self.cancelled,
            End::Deadlock => &self.deadlocks,
        };
        // Relaxed: nothing is ordered by it.
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds what it knows.
    pub(super) fn tell(&self, stats: &mut LockStats) {
        stats.timed_out += self.timed_out.load(Ordering::Relaxed);
        stats.cancelled += self.cancelled.load(Ordering::Relaxed);
        stats.deadlocks += self.deadlocks.load(Ordering::Relaxed);
        stats.waited = self.waited.lock().percentiles();
    }
}

/// Adds a time to those that there are.
pub(super) fn record<L: Level>(samples: &Levelled<Samples, L>, time: Duration) {
    samples.lock().record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), 1);
}

impl LockStats {
    pub(super) fn add(&mut self, exclusive: u64, tally: &Tally) {
        let Tally { waits, handed, barged, gave_up: _ } = *tally;
        self.exclusive += exclusive;
        self.waits += waits;
        self.handed_over += handed;
        self.barged += barged;
    }
}
