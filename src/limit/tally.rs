//! What a quota, or one kind of a resource manager, counts of those who ask. A grant costs two RMWs on a line of its
//! own, which is why a quota counts only when it is told to; a wait takes a latch, and has cost more than that already.

use crate::meter::{Percentiles, Samples};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{CachePadded, Mutex};
use std::time::Duration;

/// What becomes of those who are not granted, or not at once.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) denied: Count,
    pub(crate) timed_out: Count,
    pub(crate) refused: Count,
    waits: Mutex<Samples>,
}

/// What each grant changes: it belongs on a line of its own.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    granted: Count,
    high_water: Count,
}

/// Both.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) grants: CachePadded<Grants>,
    pub(super) tally: Tally,
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
