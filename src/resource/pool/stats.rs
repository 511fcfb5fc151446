//! What a pool counts. Connections are opened, closed and waited for rarely beside being used, so these are plain
//! shared counters; what is idle and in use is read off the shelf.

use crate::lock::{Levelled, house};
use crate::meter::{Percentiles, Samples};
use crate::sync::atomic::{AtomicU64, Ordering};
use serde::Serialize;
use std::time::Duration;

/// A pool at one moment. Each number is exact; two of them may be from slightly different moments.
///
/// Serialized, durations are seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PoolStats {
    /// How many connections there may be: the quota's limit.
    pub limit: u64,
    /// Open connections that nobody uses.
    pub idle: u64,
    /// Open connections that somebody uses; those that are being closed are among them.
    pub in_use: u64,
    /// Calls that wait for the quota. Where it is shared with others, theirs are among them.
    pub waiting: u64,
    /// Connections opened so far.
    pub opened: u64,
    /// Attempts to open one that failed.
    pub failed_to_open: u64,
    /// Connections closed so far, by the reason.
    pub closed: ClosedConnections,
    /// Calls whose deadline came before a connection.
    pub timed_out: u64,
    /// Connections that were out for longer than `leak_after`, each counted once for each time it was taken.
    pub leaks: u64,
    /// Those of them that came back after all.
    pub leaks_returned: u64,
    /// Panics of the manager, of a connection that was dropped, or of the leak listener.
    pub panics: u64,
    /// How long calls waited for the quota, of those that had to and got through.
    pub waits: Percentiles,
    /// What the manager said last when it failed: to connect, or about a connection that is not valid.
    pub last_error: Option<String>,
}

/// How many connections were closed, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ClosedConnections {
    /// Older than `max_lifetime`.
    pub lifetime: u64,
    /// Idle for `idle_timeout`.
    pub idle: u64,
    /// `is_valid` failed, or panicked.
    pub invalid: u64,
    /// `has_broken` said so when it came back, or panicked.
    pub broken: u64,
    /// [Discarded](super::PooledConnection::discard) by its user.
    pub discarded: u64,
    /// One too many after the quota's limit was lowered, or beyond the greatest limit that the pool was made for.
    pub surplus: u64,
    /// The pool was closed or dropped.
    pub pool_closed: u64,
}

impl ClosedConnections {
    /// All of them.
    pub fn total(&self) -> u64 {
        let Self { lifetime, idle, invalid, broken, discarded, surplus, pool_closed } = self;
        lifetime + idle + invalid + broken + discarded + surplus + pool_closed
    }
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Lifetime,
    Idle,
    Invalid,
    Broken,
    Discarded,
    Surplus,
    PoolClosed,
}

impl Why {
    const COUNT: usize = 7;
}

/// The counters behind [`PoolStats`].
#[derive(Debug, Default)]
pub(super) struct Counts {
    opened: Count,
    failed_to_open: Count,
    closed: [Count; Why::COUNT],
    pub(super) timed_out: Count,
    pub(super) leaks: Count,
    pub(super) leaks_returned: Count,
    panics: Count,
    waits: Levelled<Samples, house::PoolWaits>,
    last_error: Levelled<Option<String>, house::PoolError>,
}

#[derive(Debug)]
pub(super) struct Count(AtomicU64);

impl Default for Count {
    fn default() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl Count {
    pub(super) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counts {
    pub(super) fn opened(&self) {
        self.opened.add_one();
    }

    pub(super) fn failed_to_open(&self, why: String) {
        self.failed_to_open.add_one();
        self.failed(why);
    }

    /// To be called when it is gone.
    pub(super) fn closed(&self, why: Why) {
        self.closed[why as usize].add_one();
    }

    pub(super) fn panicked(&self, message: String) {
        self.panics.add_one();
        self.failed(message);
    }

    pub(super) fn failed(&self, what: String) {
        *self.last_error.lock() = Some(what);
    }

    pub(super) fn waited(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.waits.lock().record(ns, 1);
    }

    /// Connections that are open.
    pub(super) fn open(&self) -> u64 {
        // In this order too few are seen rather than too many: one more would have an idle connection closed as surplus.
        let opened = self.opened.get();
        opened.saturating_sub(self.closed.iter().map(Count::get).sum())
    }

    /// All but what the quota and the shelf know.
    pub(super) fn read(&self) -> PoolStats {
        let closed = |why: Why| self.closed[why as usize].get();
        // One after the other: what is locked in an expression stays so to its end.
        let waits = self.waits.lock().percentiles();
        let last_error = self.last_error.lock().clone();
        PoolStats {
            closed: ClosedConnections {
                lifetime: closed(Why::Lifetime),
                idle: closed(Why::Idle),
                invalid: closed(Why::Invalid),
                broken: closed(Why::Broken),
                discarded: closed(Why::Discarded),
                surplus: closed(Why::Surplus),
                pool_closed: closed(Why::PoolClosed),
            },
            opened: self.opened.get(),
            failed_to_open: self.failed_to_open.get(),
            timed_out: self.timed_out.get(),
            leaks: self.leaks.get(),
            leaks_returned: self.leaks_returned.get(),
            panics: self.panics.get(),
            waits,
            last_error,
            ..PoolStats::default()
        }
    }
}
