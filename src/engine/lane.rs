//! A lane: one active batch as the workers see it.
//!
//! [`LaneCore`] is the part that does not know the batch's types: its word (pending entries and reasons), its place
//! in the stride order, its gate, its counts. [`LaneBody`] is the typed part behind a vtable that is entered once a
//! chunk. [`Shell`] joins the two and lets a body that borrows from its caller's stack be taken away: every entry
//! passes the shell's life cycle, and [`Shell::close`] returns when nobody is inside and nobody can enter again.
//!
//! Counting. `open` is the number of items that are submitted and not settled. Who settles adds the results to the
//! store first and takes them from `open` then; the lane ends when `open` is zero and the lane is sealed, and
//! exactly one thread sees that (`ended`).

use super::gate::LaneGate;
use super::shared::Shared;
use super::slot::Slot;
use super::tunables::Tunables;
use super::work::ChildError;
use super::worker::{Fate, WorkerState};
use crate::core::laneword::{LaneWord, Reason};
use crate::core::lifecycle::{Lifecycle, Phase};
use crate::core::seat::Stop;
use crate::core::waitlist::Demand;
use crate::job::{Failure, HaltReason, HaltRule, Key, Report, Retry};
use crate::lock::{Levelled, house};
use crate::meter::LaneLatency;
use crate::store::{Earlier, JournalError, Kept};
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::thread::{ThreadId, current};
use crate::sync::{Arc, CachePadded};
use crate::time::Timestamp;
use crate::waitgraph::WaitGraph;
use std::any::Any;
use std::fmt;
use std::time::Duration;

/// A lane without a place among the workers yet.
pub(crate) const UNPLACED: u32 = u32::MAX;

/// What a batch asks of the engine.
#[derive(Debug, Clone)]
pub(crate) struct LaneSpec {
    pub(crate) retry: Retry,
    pub(crate) item_timeout: Option<Duration>,
    pub(crate) grace: Duration,
    pub(crate) hang_after: Option<Duration>,
    pub(crate) halt: Option<HaltRule>,
    /// An item that ignores its cancellation may be abandoned and its thread replaced.
    pub(crate) may_abandon: bool,
    /// Its rows are in a journal.
    pub(crate) in_journal: bool,
    pub(crate) max_abandoned: u32,
}

/// Why a lane stands still besides its own word.
pub(crate) mod paused {
    /// The user paused the batch.
    pub(crate) const BATCH: u8 = 1;
    /// The engine is paused.
    pub(crate) const ENGINE: u8 = 2;
    /// A batch of a higher class has its place.
    pub(crate) const DISPLACED: u8 = 4;
    /// The engine shuts down.
    pub(crate) const SHUTDOWN: u8 = 8;
    /// The journal cannot be written for the time being.
    pub(crate) const JOURNAL: u8 = 16;
}

/// How a lane ended, or is ending.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ending {
    Cancelled,
    Halted(HaltReason),
}

/// The untyped part of a lane.
#[derive(Debug)]
pub(crate) struct LaneCore {
    pub(crate) name: String,
    index: AtomicU32,
    pub(crate) spec: LaneSpec,
    pub(crate) word: LaneWord,
    pub(crate) tunables: Tunables,
    pub(crate) gate: LaneGate,
    /// Predicted nanoseconds an item; 0: unknown.
    pub(crate) predicted: AtomicU64,
    /// Nanoseconds of the engine's clock when the lane was last served.
    pub(crate) served: AtomicU64,
    pub(crate) counts: CachePadded<Counts>,
    /// Nothing more is taken from the lane.
    stop: Stop,
    /// Items in hand shall stop.
    cancelled: AtomicBool,
    sealed: AtomicBool,
    ended: AtomicBool,
    /// Nanoseconds of the batch's deadline; `u64::MAX`: none.
    deadline: AtomicU64,
    /// Nanoseconds of `abandon_at`; `u64::MAX`: not cancelled, or nothing may be abandoned.
    abandon_at: AtomicU64,
    /// Its counts are in the sums of the lanes that have ended. Under the latch of those.
    pub(crate) is_past: AtomicBool,
    pub(crate) latency: LaneLatency,
    /// Items of the last chunk.
    pub(crate) last_chunk: AtomicU32,
    pub(crate) steer: Levelled<Steer, house::Steer>,
    pub(crate) started: Timestamp,
    /// How old its items are where items wait for each other.
    pub(crate) ticket: u64,
}

/// What is counted of a lane. Added to once a chunk.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) open: Count,
    pub(crate) submitted: Count,
    pub(crate) done: Count,
    pub(crate) dead: Count,
    pub(crate) skipped: Count,
    pub(crate) cancelled: Count,
    pub(crate) retried: Count,
    pub(crate) duplicates: Count,
    pub(crate) late: Count,
    pub(crate) abandoned: Count,
    pub(crate) waiting_retry: Count,
    pub(crate) timed_out: Count,
}

/// One counter.
#[derive(Debug)]
pub(crate) struct Count(AtomicU64);

impl Default for Count {
    fn default() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl Count {
    pub(crate) fn add(&self, n: u64) {
        // ORDERING: Acquire pairs with `sub`: whoever counts into a lane that has just ended sees that it was sealed.
        self.0.fetch_add(n, Ordering::Acquire);
    }
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    /// Adds one if what is counted so far allows it.
    pub(crate) fn add_if(&self, allows: impl Fn(u64) -> bool) -> bool {
        let mut counted = self.get();
        while allows(counted) {
            match self.0.compare_exchange_weak(counted, counted + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => counted = now,
            }
        }
        false
    }
    /// Subtracts; what is left.
    pub(crate) fn sub(&self, n: u64) -> u64 {
        // ORDERING: AcqRel: who brings `open` to zero sees all that was settled before.
        self.0.fetch_sub(n, Ordering::AcqRel) - n
    }
}

/// What is steered under the lane's latch.
#[derive(Debug, Default)]
pub(crate) struct Steer {
    pub(crate) paused: u8,
    pub(crate) ending: Option<Ending>,
    pub(crate) report: Option<Report>,
    /// The report of a lane that has ended and waits for its end to be written.
    pub(crate) ended: Option<Report>,
    /// What earlier runs of the batch have to do with it.
    pub(crate) earlier: Earlier,
    /// A listener has been told of the lane's start. (Not of those of `map` and `spawn`: they are no batches.)
    pub(crate) announced: bool,
    /// The thread that is telling it of the end.
    pub(crate) telling: Option<ThreadId>,
}

impl LaneCore {
    pub(crate) fn new(
        name: String,
        spec: LaneSpec,
        tunables: Tunables,
        gate: LaneGate,
        deadline: Option<Timestamp>,
        now: Timestamp,
    ) -> Self {
        Self {
            name,
            index: AtomicU32::new(UNPLACED),
            spec,
            word: LaneWord::new(),
            tunables,
            gate,
            predicted: AtomicU64::new(0),
            served: AtomicU64::new(now.as_nanos()),
            counts: CachePadded::new(Counts::default()),
            stop: Stop::new(),
            cancelled: AtomicBool::new(false),
            sealed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            abandon_at: AtomicU64::new(u64::MAX),
            is_past: AtomicBool::new(false),
            deadline: AtomicU64::new(deadline.map_or(u64::MAX, Timestamp::as_nanos)),
            latency: LaneLatency::new(),
            last_chunk: AtomicU32::new(0),
            steer: Levelled::new(Steer::default()),
            started: now,
            ticket: WaitGraph::ticket(),
        }
    }

    /// Its priority class, 0 to 3.
    #[inline]
    pub(crate) fn class(&self) -> usize {
        usize::from(self.tunables.get().class)
    }

    /// The lane's number. Valid once it is placed.
    pub(crate) fn index(&self) -> usize {
        self.index.load(Ordering::Relaxed) as usize
    }

    pub(crate) fn is_placed(&self) -> bool {
        self.index.load(Ordering::Relaxed) != UNPLACED
    }

    pub(crate) fn place(&self, index: usize) {
        self.index.store(index as u32, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        // ORDERING: Acquire pairs with the Release in `cancel`.
        self.cancelled.load(Ordering::Acquire)
    }

    /// Whether the lane ends before its time: no chunk is claimed, nothing is retried.
    #[inline]
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_set()
    }

    /// Whether nothing of a chunk just taken may begin.
    #[inline]
    pub(crate) fn is_held_back(&self) -> bool {
        self.is_stopping() || self.word.blocked_by(Reason::Paused)
    }

    /// When items that ignore the lane's cancellation are abandoned.
    pub(crate) fn abandon_at(&self) -> Option<Timestamp> {
        let nanos = self.abandon_at.load(Ordering::Acquire);
        (nanos != u64::MAX).then(|| Timestamp::from_nanos(nanos))
    }

    pub(crate) fn set_abandon_at(&self, at: Timestamp) {
        self.abandon_at.fetch_min(at.as_nanos(), Ordering::AcqRel);
    }

    /// Whoever calls this clears the lane after it.
    pub(crate) fn stop_dispatch(&self) {
        self.stop.set();
    }

    /// Asked by whoever has put something into the lane: true, it clears the lane (again).
    #[must_use = "true: clear the lane"]
    pub(crate) fn may_have_missed_a_stop(&self) -> bool {
        self.stop.may_have_missed()
    }

    /// Raises the token of the whole lane.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    pub(crate) fn seal(&self) {
        // ORDERING: AcqRel: see `Shared::maybe_end`.
        self.sealed.swap(true, Ordering::AcqRel);
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// True for the one caller that finds the lane over first.
    pub(crate) fn end(&self) -> bool {
        !self.ended.swap(true, Ordering::AcqRel)
    }

    /// The lane's report, if it is there.
    pub(crate) fn report(&self) -> Option<Report> {
        self.steer.lock().report.clone()
    }

    /// The lane's report once the listener has heard of the end; inside the listener, at once.
    pub(crate) fn report_told(&self) -> Option<Report> {
        let steer = self.steer.lock();
        let told = steer.telling.is_none_or(|thread| thread == current().id());
        told.then(|| steer.report.clone()).flatten()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        let nanos = self.deadline.load(Ordering::Relaxed);
        (nanos != u64::MAX).then(|| Timestamp::from_nanos(nanos))
    }
}

/// The typed part of a lane.
pub(crate) trait LaneBody: Send + Sync {
    /// Runs the entry that the caller holds a ticket for.
    fn serve(&self, shared: &Arc<Shared>, shell: &Arc<Shell>, me: &mut WorkerState) -> Fate;

    /// Fills the lane's channel from the store.
    fn refill(&self, shared: &Shared, shell: &Arc<Shell>);

    /// Takes the rest of the chunks back that workers have had in hand since before this raw reading, and publishes
    /// what they have settled.
    fn take_back(&self, shared: &Shared, shell: &Arc<Shell>, before: u64);

    /// Takes the rest of one worker's chunk back.
    fn take_back_from(&self, shared: &Shared, shell: &Arc<Shell>, worker: usize);

    /// Moves the items whose backoff is over back into the lane.
    fn due(&self, shared: &Shared, shell: &Arc<Shell>, now: Timestamp);

    /// Claims something if nothing waits to be taken.
    fn kick(&self, _shared: &Shared, _shell: &Arc<Shell>) {}

    /// Has the end written down; `true`: [`Shared::conclude`] follows when it is.
    fn end(&self, _status: &str) -> bool {
        false
    }

    /// Takes an item that an item of the lane submits.
    fn submit_child(
        &self,
        _shared: &Shared,
        _shell: &Arc<Shell>,
        item: Box<dyn Any>,
        _parent: u64,
    ) -> Result<(), ChildError> {
        Err(ChildError::Other("only the items of a batch can submit others".to_owned(), item))
    }

    /// SQL that belongs to an outcome failed: so did its item.
    fn refused(&self, _shared: &Shared, _shell: &Arc<Shell>, _origin: &(dyn Any + Send), _failure: Failure) {}

    /// The number of an item in the journal, if there is one.
    #[cfg(feature = "cli")]
    fn number(&self, _seq: u64) -> Option<i64> {
        None
    }

    /// What an earlier attempt at an item has kept under this name.
    fn step(&self, _seq: u64, _name: &str) -> Result<Option<String>, Arc<JournalError>> {
        Ok(None)
    }

    /// Keeps a step. Does not wait: what it returns does.
    fn keep_step(&self, _seq: u64, _epoch: u32, _name: &str, _output: &str) -> Kept {
        Box::new(|| Ok(true))
    }

    /// The lane was cancelled: settles everything that waits.
    fn clear(&self, shared: &Shared, shell: &Arc<Shell>);

    /// A worker does not return from this attempt and it was taken from it: settles the item.
    fn abandon(&self, shared: &Arc<Shared>, shell: &Arc<Shell>, slot: &Arc<Slot>, at: u32, hung: bool);

    /// What the item in hand of this worker holds. Right as long as the item stays in hand.
    fn demand_in_hand(&self, worker: usize) -> Demand;

    /// The key of an item that a worker has in hand, where it has one of its own.
    fn key_in_hand(&self, worker: usize, at: u32) -> Option<Key>;

    /// The lane has ended with this report.
    fn ended(&self, report: &Report);
}

/// Who owns the body.
enum Body {
    Owned(Box<dyn LaneBody>),
    /// On the stack of a caller that waits in [`Shell::close`].
    Borrowed(*const dyn LaneBody),
}

// SAFETY: `LaneBody` is `Send + Sync`; the pointer is only followed inside the life cycle (see `Shell::with`).
unsafe impl Send for Body {}
// SAFETY: as above.
unsafe impl Sync for Body {}

/// A lane with its body.
pub(crate) struct Shell {
    pub(crate) core: LaneCore,
    life: Lifecycle,
    left: super::signal::Signal,
    body: Body,
}

impl Shell {
    pub(crate) fn owned(core: LaneCore, body: Box<dyn LaneBody>) -> Arc<Shell> {
        Arc::new(Shell {
            core,
            life: Lifecycle::new(),
            left: super::signal::Signal::new(),
            body: Body::Owned(body),
        })
    }

    /// A shell around a body that its caller keeps.
    ///
    /// # Safety
    ///
    /// The caller calls [`close`](Shell::close) before the body's borrows end, and does not move the body until then.
    pub(crate) unsafe fn borrowed<'a>(core: LaneCore, body: &'a (dyn LaneBody + 'a)) -> Arc<Shell> {
        let body: *const (dyn LaneBody + 'a) = body;
        // SAFETY: only the lifetime changes; the pointer is followed inside the life cycle, which the caller closes
        // before `'a` ends.
        let body: *const (dyn LaneBody + 'static) = unsafe { std::mem::transmute(body) };
        Arc::new(Shell {
            core,
            life: Lifecycle::new(),
            left: super::signal::Signal::new(),
            body: Body::Borrowed(body),
        })
    }

    /// Uses the body, unless it was taken away.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&dyn LaneBody) -> R) -> Option<R> {
        struct Leave<'a>(&'a Shell);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                if self.0.life.leave() {
                    self.0.left.notify();
                }
            }
        }
        if !self.life.enter() {
            return None;
        }
        let _leave = Leave(self);
        let body = match &self.body {
            Body::Owned(body) => &**body,
            // SAFETY: we are inside the life cycle: `close` has not returned, so the body is still there.
            Body::Borrowed(body) => unsafe { &**body },
        };
        Some(f(body))
    }

    /// Lets nobody in any more and waits until nobody is inside.
    pub(crate) fn close(&self, shared: &Shared) {
        if !self.life.close(Phase::Stopped) {
            self.left.wait(&shared.clock, None, || (self.life.in_flight() == 0).then_some(()));
        }
    }
}

impl fmt::Debug for Shell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shell").field("core", &self.core).finish_non_exhaustive()
    }
}
