//! A worker's public place: what it runs, since when, until when, and whether it shall stop.
//!
//! Written by its own thread with plain stores, read by the supervisor, by contexts and by statistics. The one word
//! that races is `attempt`:
//!
//! | `attempt` | meaning | who leaves it |
//! |---|---|---|
//! | `n << 1` | no item in hand; `n` items were started here | the worker: starts `n + 1` |
//! | `n << 1 \| 1` | item `n` is in hand | the worker: settles it; the supervisor: abandons it |
//!
//! An attempt that may be abandoned ends by a compare-exchange from `n << 1 | 1` to `n << 1`: the worker that
//! succeeds owns the outcome; the supervisor that succeeds owns the item, and the worker's late return is dropped.

use crate::meter::{Reader, WorkerCounters};
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{CachePadded, Mutex, Unparker};

/// No deadline, nothing in hand.
pub(crate) const NONE: u64 = 0;

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) id: usize,
    hot: CachePadded<Hot>,
    /// The attempt that shall stop.
    cancelled: AtomicU64,
    heartbeat: AtomicU64,
    paused: AtomicBool,
    pub(crate) latency: Reader,
    pub(crate) counters: WorkerCounters,
    sleepers: Mutex<Vec<Unparker>>,
}

#[derive(Debug)]
struct Hot {
    attempt: AtomicU64,
    /// Raw reading at the start of the item in hand.
    since: AtomicU64,
    /// Raw reading at which it shall be cancelled.
    deadline: AtomicU64,
    /// Its index in the chunk.
    at: AtomicU32,
    /// Lane of the chunk in hand, plus one.
    lane: AtomicU32,
    /// More than one item is in the chunk in hand.
    several: AtomicBool,
}

/// What the supervisor sees of a slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) attempt: u64,
    pub(crate) since: u64,
    pub(crate) deadline: u64,
    pub(crate) at: u32,
    pub(crate) lane: usize,
    pub(crate) heartbeat: u64,
}

impl Slot {
    pub(crate) fn new(id: usize, latency: Reader) -> Self {
        Self {
            id,
            hot: CachePadded::new(Hot {
                attempt: AtomicU64::new(0),
                since: AtomicU64::new(NONE),
                deadline: AtomicU64::new(NONE),
                at: AtomicU32::new(0),
                lane: AtomicU32::new(0),
                several: AtomicBool::new(false),
            }),
            cancelled: AtomicU64::new(NONE),
            heartbeat: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            latency,
            counters: WorkerCounters::new(),
            sleepers: Mutex::new(Vec::new()),
        }
    }

    // ---- the worker's side -------------------------------------------------------------------------------

    /// A chunk of this lane is in hand.
    pub(crate) fn enter_chunk(&self, lane: usize, several: bool, now: u64) {
        self.hot.since.store(now.max(1), Ordering::Relaxed);
        self.hot.lane.store(lane as u32 + 1, Ordering::Relaxed);
        self.hot.several.store(several, Ordering::Relaxed);
    }

    pub(crate) fn leave_chunk(&self) {
        self.hot.lane.store(0, Ordering::Relaxed);
        self.hot.several.store(false, Ordering::Relaxed);
    }

    /// Starts an item; its attempt number.
    #[inline]
    pub(crate) fn begin(&self, at: u32, now: u64, deadline: u64) -> u64 {
        let hot = &*self.hot;
        let attempt = (hot.attempt.load(Ordering::Relaxed) >> 1) + 1;
        hot.at.store(at, Ordering::Relaxed);
        hot.since.store(now.max(1), Ordering::Relaxed);
        hot.deadline.store(deadline, Ordering::Relaxed);
        // ORDERING: Release: who sees the attempt sees what belongs to it.
        hot.attempt.store(attempt << 1 | 1, Ordering::Release);
        attempt
    }

    /// Ends an item that nobody may abandon.
    #[inline]
    pub(crate) fn end(&self, attempt: u64) {
        self.hot.attempt.store(attempt << 1, Ordering::Release);
    }

    /// Ends an item that the supervisor may abandon. False: it did.
    #[inline]
    pub(crate) fn settle(&self, attempt: u64) -> bool {
        self.leave(attempt)
    }

    /// Raw reading at the start of the item last begun.
    pub(crate) fn since(&self) -> u64 {
        self.hot.since.load(Ordering::Relaxed)
    }

    /// Whether the item last begun was told to stop by the supervisor.
    pub(crate) fn was_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) == self.hot.attempt.load(Ordering::Relaxed) >> 1
    }

    // ---- the supervisor's side ---------------------------------------------------------------------------

    /// Takes the item away from a worker that does not return. True: the caller owns it now.
    pub(crate) fn abandon(&self, attempt: u64) -> bool {
        self.leave(attempt)
    }

    fn leave(&self, attempt: u64) -> bool {
        // ORDERING: AcqRel: of worker and supervisor one wins and sees what the other did before.
        self.hot
            .attempt
            .compare_exchange(attempt << 1 | 1, attempt << 1, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The item in hand, if any.
    pub(crate) fn look(&self) -> Option<Look> {
        let hot = &*self.hot;
        // ORDERING: Acquire pairs with the Release in `begin`.
        let word = hot.attempt.load(Ordering::Acquire);
        let lane = hot.lane.load(Ordering::Relaxed);
        (word & 1 == 1 && lane != 0).then(|| Look {
            attempt: word >> 1,
            since: hot.since.load(Ordering::Relaxed),
            deadline: hot.deadline.load(Ordering::Relaxed),
            at: hot.at.load(Ordering::Relaxed),
            lane: lane as usize - 1,
            heartbeat: self.heartbeat.load(Ordering::Relaxed),
        })
    }

    /// The lane whose chunk is in hand, and whether the chunk has several items.
    pub(crate) fn chunk(&self) -> Option<(usize, bool, u64)> {
        let hot = &*self.hot;
        let lane = hot.lane.load(Ordering::Relaxed);
        let several = hot.several.load(Ordering::Relaxed);
        (lane != 0).then(|| (lane as usize - 1, several, hot.since.load(Ordering::Relaxed)))
    }

    /// Tells the attempt to stop and wakes it where it sleeps on its context.
    pub(crate) fn cancel(&self, attempt: u64) {
        // ORDERING: Release pairs with the Acquire in `is_cancelled`.
        self.cancelled.store(attempt, Ordering::Release);
        self.wake_sleepers();
    }

    pub(crate) fn wake_sleepers(&self) {
        let woken = std::mem::take(&mut *self.sleepers.lock());
        for sleeper in woken {
            sleeper.unpark();
        }
    }

    // ---- the context's side ------------------------------------------------------------------------------

    pub(crate) fn is_cancelled(&self, attempt: u64) -> bool {
        // ORDERING: Acquire pairs with the Release in `cancel`. A later attempt's number means that this one,
        // abandoned or over, was told before.
        self.cancelled.load(Ordering::Acquire) == attempt
            || self.hot.attempt.load(Ordering::Acquire) != attempt << 1 | 1
    }

    /// Whether this attempt is the one in hand.
    pub(crate) fn is_in_hand(&self, attempt: u64) -> bool {
        self.hot.attempt.load(Ordering::Acquire) == attempt << 1 | 1
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
    }

    pub(crate) fn beat(&self, now: u64) {
        self.heartbeat.store(now, Ordering::Relaxed);
    }

    /// Enters a sleeper that a cancellation must wake. It tests for the cancellation after this.
    pub(crate) fn sleep_entered(&self, sleeper: &Unparker) {
        let mut sleepers = self.sleepers.lock();
        if !sleepers.iter().any(|there| there.same(sleeper)) {
            sleepers.push(sleeper.clone());
        }
    }

    /// Takes it out again: it has slept.
    pub(crate) fn sleep_left(&self, sleeper: &Unparker) {
        self.sleepers.lock().retain(|there| !there.same(sleeper));
    }
}
