//! A worker's public place: what it runs, since when, until when, and whether it shall stop.
//!
//! Written by its own thread with plain stores, read by the supervisor, by contexts and by statistics. What races is
//! the attempt's word, `core::attempt`: the worker settles the attempt in hand or the supervisor abandons it, and
//! until then it lets effects into the journal.

use crate::core::attempt::{Abandon, Attempt, Epoch, Refused};
use crate::lock::{Levelled, house};
use crate::meter::{Reader, WorkerCounters};
use crate::resource::OwnerId;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{CachePadded, Unparker, thread};

/// No deadline, nothing in hand.
pub(crate) const NONE: u64 = 0;
/// No attempt was told to stop: no epoch has this number.
const NOBODY: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) id: usize,
    /// No other slot of the process has this number.
    number: u64,
    hot: CachePadded<Hot>,
    /// The attempt that shall stop.
    cancelled: AtomicU64,
    /// The last attempt that had a victim of a deadlock among the items inside it, and how many there were of all.
    victim: AtomicU64,
    victims: AtomicU64,
    /// The attempt that was taken from this worker, and whether for a hang: those who abandon do so one at a time.
    pub(crate) taken: Levelled<Option<(Epoch, bool)>, house::Taken>,
    heartbeat: AtomicU64,
    paused: AtomicBool,
    pub(crate) latency: Reader,
    pub(crate) counters: WorkerCounters,
    sleepers: Levelled<Vec<Unparker>, house::SlotSleepers>,
}

#[derive(Debug)]
struct Hot {
    attempt: Attempt,
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
    pub(crate) attempt: Epoch,
    /// Taken from its worker, and an effect of it was still on its way.
    pub(crate) abandoned: bool,
    pub(crate) since: u64,
    pub(crate) deadline: u64,
    pub(crate) at: u32,
    pub(crate) lane: usize,
    pub(crate) heartbeat: u64,
}

impl Slot {
    pub(crate) fn new(id: usize, latency: Reader) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self {
            id,
            number: LAST.fetch_add(1, Ordering::Relaxed),
            hot: CachePadded::new(Hot {
                attempt: Attempt::new(),
                since: AtomicU64::new(NONE),
                deadline: AtomicU64::new(NONE),
                at: AtomicU32::new(0),
                lane: AtomicU32::new(0),
                several: AtomicBool::new(false),
            }),
            cancelled: AtomicU64::new(NOBODY),
            victim: AtomicU64::new(Epoch::default().get()),
            victims: AtomicU64::new(0),
            taken: Levelled::new(None),
            heartbeat: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            latency,
            counters: WorkerCounters::new(),
            sleepers: Levelled::new(Vec::new()),
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

    /// Starts an item: its attempt. What may not be abandoned has no effects.
    #[inline]
    pub(crate) fn begin(&self, at: u32, now: u64, deadline: u64, may_abandon: bool) -> Epoch {
        let hot = &*self.hot;
        hot.at.store(at, Ordering::Relaxed);
        hot.since.store(now.max(1), Ordering::Relaxed);
        hot.deadline.store(deadline, Ordering::Relaxed);
        if may_abandon { hot.attempt.begin() } else { hot.attempt.begin_pinned() }
    }

    /// Ends an item that nobody may abandon.
    #[inline]
    pub(crate) fn end(&self, attempt: Epoch) {
        self.hot.attempt.end(attempt);
    }

    /// Ends an item that the supervisor may abandon. False: it did.
    #[inline]
    pub(crate) fn settle(&self, attempt: Epoch) -> bool {
        self.hot.attempt.settle(attempt)
    }

    /// As whose this attempt's permits are known.
    pub(crate) fn owner(&self, attempt: Epoch) -> OwnerId {
        OwnerId::Attempt(self.number, attempt.get())
    }

    /// Raw reading at the start of the item last begun.
    pub(crate) fn since(&self) -> u64 {
        self.hot.since.load(Ordering::Relaxed)
    }

    /// Whether the item last begun was told to stop by the supervisor.
    pub(crate) fn was_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) == self.hot.attempt.last().get()
    }

    /// The item last begun.
    pub(crate) fn last(&self) -> Epoch {
        self.hot.attempt.last()
    }

    // ---- the supervisor's side ---------------------------------------------------------------------------

    /// Takes the item away from a worker that does not return. `Done`: the caller owns it now.
    pub(crate) fn abandon(&self, attempt: Epoch) -> Abandon {
        self.hot.attempt.abandon(attempt)
    }

    /// The item in hand, if any.
    pub(crate) fn look(&self) -> Option<Look> {
        let hot = &*self.hot;
        let in_hand = hot.attempt.in_hand()?;
        let lane = hot.lane.load(Ordering::Relaxed);
        (lane != 0).then(|| Look {
            attempt: in_hand.epoch,
            abandoned: in_hand.abandoned,
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
    pub(crate) fn cancel(&self, attempt: Epoch) {
        // ORDERING: Release pairs with the Acquire in `is_cancelled`.
        self.cancelled.store(attempt.get(), Ordering::Release);
        self.wake_sleepers();
    }

    pub(crate) fn wake_sleepers(&self) {
        let woken = std::mem::take(&mut *self.sleepers.lock());
        for sleeper in woken {
            sleeper.unpark();
        }
    }

    // ---- the context's side ------------------------------------------------------------------------------

    pub(crate) fn is_cancelled(&self, attempt: Epoch) -> bool {
        // ORDERING: Acquire pairs with the Release in `cancel`. Where a later attempt was told since, this one is over.
        self.cancelled.load(Ordering::Acquire) == attempt.get() || !self.hot.attempt.is_current(attempt)
    }

    /// An effect of the attempt goes into the journal while this is held, which shall be as long as a push takes. None:
    /// the attempt is over, and the effect is not to be.
    pub(crate) fn enter_effect(&self, attempt: Epoch) -> Option<Effect<'_>> {
        loop {
            match self.hot.attempt.enter(attempt) {
                Ok(()) => return Some(Effect(&self.hot.attempt)),
                Err(Refused::Stale) => return None,
                // A thousand threads of one item are ahead, for as long as a push takes.
                Err(Refused::Full) => thread::yield_now(),
            }
        }
    }

    /// Whether this attempt is the one in hand.
    pub(crate) fn is_in_hand(&self, attempt: Epoch) -> bool {
        self.hot.attempt.is_current(attempt)
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
    }

    pub(crate) fn beat(&self, now: u64) {
        // At a clock's very first reading, too, it is not before the start.
        self.heartbeat.store(now.max(1), Ordering::Relaxed);
    }

    /// An item inside this attempt gave up in a deadlock. An earlier attempt, whose thread still runs, does not overwrite a
    /// later one's note.
    ///
    /// ORDERING: none needed: who looks runs after it, on this thread or on one that has waited for it.
    pub(crate) fn note_victim(&self, attempt: Epoch) {
        self.victim.fetch_max(attempt.get(), Ordering::Relaxed);
        self.victims.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether one did inside this attempt. (No attempt has the first epoch's number.)
    pub(crate) fn has_victim(&self, attempt: Epoch) -> bool {
        self.victim.load(Ordering::Relaxed) == attempt.get()
    }

    /// So many did: what tells whether one does meanwhile.
    pub(crate) fn victims(&self) -> u64 {
        self.victims.load(Ordering::Relaxed)
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

/// An effect of an attempt on its way into the journal.
#[derive(Debug)]
#[must_use = "the effect has arrived when this is dropped"]
pub(crate) struct Effect<'a>(&'a Attempt);

impl Drop for Effect<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Recorder;

    fn slot() -> Slot {
        Slot::new(0, Recorder::switched(false).reader())
    }

    #[test]
    fn effects_are_fenced() {
        let slot = slot();
        slot.enter_chunk(0, false, 1);
        let attempt = slot.begin(0, 1, NONE, true);
        let effect = slot.enter_effect(attempt).expect("it is in hand");
        assert_eq!(slot.abandon(attempt), Abandon::Busy);
        assert!(slot.look().expect("an effect is on its way").abandoned);
        assert!(slot.enter_effect(attempt).is_none() && slot.is_cancelled(attempt));
        assert!(!slot.settle(attempt));
        drop(effect);
        assert_eq!(slot.abandon(attempt), Abandon::Done);
        assert!(slot.look().is_none());
        let next = slot.begin(0, 2, NONE, true);
        assert!(slot.enter_effect(attempt).is_none() && slot.enter_effect(next).is_some());
        assert!(slot.settle(next));
    }

    #[test]
    fn effects_leave_in_a_panic() {
        let slot = slot();
        let attempt = slot.begin(0, 1, NONE, true);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _effect = slot.enter_effect(attempt);
            panic!("while it is handed in");
        }));
        assert!(panicked.is_err());
        assert_eq!(slot.abandon(attempt), Abandon::Done);
    }

    #[test]
    fn cancelling_names_one_attempt() {
        let slot = slot();
        let first = slot.begin(0, 1, NONE, false);
        assert!(!slot.is_cancelled(first) && !slot.was_cancelled());
        slot.cancel(first);
        assert!(slot.is_cancelled(first) && slot.was_cancelled());
        assert_eq!(slot.abandon(first), Abandon::NotCurrent, "nobody may");
        slot.end(first);
        assert!(slot.was_cancelled());
        let second = slot.begin(0, 2, NONE, false);
        assert!(slot.is_cancelled(first) && !slot.is_cancelled(second) && !slot.was_cancelled());
    }
}
