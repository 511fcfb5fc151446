//! `spawn`: single closures, on one lane that all of them share.

use super::engine::plain_core;
use crate::core::waitlist::Demand;
use crate::engine::lane::{LaneBody, Shell};
use crate::engine::shared::Shared;
use crate::engine::signal::Signal;
use crate::engine::worker::{Fate, WorkerState, caught, drop_quietly, on_worker_of, with_item};
use crate::engine::{Context, Error};
use crate::job::{AttemptError, AttemptKind, Dead, DeadReason, Key, Report, Retry};
use crate::lock::{Levelled, house};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use crate::time::{Deadline, Timestamp};
use std::collections::VecDeque;
use std::fmt;

/// The result to come of a spawned closure.
///
/// Dropping a ticket lets the closure run on its own.
#[must_use = "the result comes by .join(); to let it run on its own, drop the ticket by name"]
pub struct Ticket<O> {
    shared: Arc<Shared>,
    cell: Arc<Cell<O>>,
}

/// What can go wrong with a [`Ticket`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The closure panicked, was cancelled before it began, or the engine was shut down.
    #[error("{0}")]
    Dead(#[from] Dead),
    /// The wait itself could not be.
    #[error("{0}")]
    Engine(#[from] Error),
}

/// Where a result is handed over.
///
/// | `begun` | meaning |
/// |---|---|
/// | `WAITING` | nobody has taken the closure yet |
/// | `BEGUN` | a worker has: it will settle |
/// | `CANCELLED` | the ticket's owner did: the worker drops it unrun |
struct Cell<O> {
    begun: AtomicU8,
    over: AtomicBool,
    outcome: Levelled<Option<Result<O, Dead>>, house::TicketOutcome>,
    settled: Signal,
}

const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const CANCELLED: u8 = 2;

impl<O> Cell<O> {
    /// The first outcome is the one.
    fn settle(&self, outcome: Result<O, Dead>) {
        let mut place = self.outcome.lock();
        if self.over.load(Ordering::Relaxed) {
            drop(place);
            drop(outcome);
            return;
        }
        *place = Some(outcome);
        self.over.store(true, Ordering::Release);
        drop(place);
        self.settled.notify();
    }

    fn begin(&self) -> bool {
        self.begun.compare_exchange(WAITING, BEGUN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn cancel(&self) -> bool {
        let won =
            self.begun.compare_exchange(WAITING, CANCELLED, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if won {
            self.settle(Err(Dead::new(DeadReason::Cancelled, 0, Vec::new())));
        }
        won
    }
}

impl<O> Ticket<O> {
    /// Waits for the result.
    ///
    /// # Errors
    ///
    /// [`JoinError::Dead`] when the closure panicked or will never run; [`Error::WouldBlockWorker`] inside an item
    /// of the same engine, unless the result is there.
    pub fn join(self) -> Result<O, JoinError> {
        self.join_by(Deadline::NEVER).map_err(|(error, _)| error)
    }

    /// Waits for the result until a deadline. The ticket comes back when it is not there.
    ///
    /// # Errors
    ///
    /// As [`join`](Ticket::join), and [`Error::TimedOut`]; with the ticket where the result may still come.
    ///
    /// ```
    /// use batchyard::{Engine, millis};
    /// let engine = Engine::builder().workers(1).in_memory().open()?;
    /// let (go, wait) = std::sync::mpsc::channel::<()>();
    /// let ticket = engine.spawn(move || wait.recv().is_ok());
    /// let (error, ticket) = ticket.join_by(millis(1)).unwrap_err();
    /// assert!(error.to_string().contains("not done"));
    /// go.send(()).unwrap();
    /// assert!(ticket.unwrap().join()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn join_by(self, deadline: impl Into<Deadline>) -> Result<O, (JoinError, Option<Ticket<O>>)> {
        let clock = &self.shared.clock;
        let take = || self.cell.outcome.lock().take();
        if let Some(outcome) = take() {
            return outcome.map_err(|dead| (dead.into(), None));
        }
        if on_worker_of(&self.shared) {
            return Err((Error::WouldBlockWorker.into(), Some(self)));
        }
        let began = clock.now();
        match self.cell.settled.wait(clock, deadline.into().on(clock), take) {
            Some(outcome) => outcome.map_err(|dead| (dead.into(), None)),
            None => {
                let waited = clock.now() - began;
                Err((Error::TimedOut { waited }.into(), Some(self)))
            }
        }
    }

    /// Whether the result is there.
    pub fn is_done(&self) -> bool {
        self.cell.over.load(Ordering::Acquire)
    }

    /// Takes the closure back if no worker has begun it. True: it will not run.
    pub fn cancel(&self) -> bool {
        self.cell.cancel()
    }
}

impl<O> fmt::Debug for Ticket<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("done", &self.is_done()).finish_non_exhaustive()
    }
}

/// A spawned closure, its type forgotten.
trait Job: Send {
    fn run(self: Box<Self>) -> Ran;
    fn cancel(&self);
    /// What settles the ticket in the worker's stead.
    fn cell(&self) -> Arc<dyn Abandon>;
}

/// What became of a spawned closure.
enum Ran {
    Done,
    Panicked,
    /// Its ticket had been cancelled.
    Cancelled,
}

/// A ticket whose closure does not return.
trait Abandon: Send + Sync {
    fn abandon(&self);
}

impl<O: Send> Abandon for Cell<O> {
    fn abandon(&self) {
        self.settle(Err(Dead::because(
            DeadReason::Cancelled,
            &"the engine was shut down, and it did not return",
        )));
    }
}

struct Spawned<O, F> {
    f: Option<F>,
    cell: Arc<Cell<O>>,
}

impl<O: Send + 'static, F: FnOnce() -> O + Send> Job for Spawned<O, F> {
    fn run(mut self: Box<Self>) -> Ran {
        let Some(f) = self.f.take() else { return Ran::Cancelled };
        if !self.cell.begin() {
            drop_quietly(f);
            return Ran::Cancelled;
        }
        match caught(f) {
            Ok(out) => {
                self.cell.settle(Ok(out));
                Ran::Done
            }
            Err((message, place)) => {
                let error = AttemptError::new(1, AttemptKind::Panicked, format!("panicked: {message}"));
                let error = match place {
                    Some(place) => error.at(place.to_string()),
                    None => error,
                };
                self.cell.settle(Err(Dead::new(DeadReason::Panicked, 1, vec![error])));
                Ran::Panicked
            }
        }
    }

    fn cell(&self) -> Arc<dyn Abandon> {
        Arc::clone(&self.cell) as Arc<dyn Abandon>
    }

    fn cancel(&self) {
        self.cell.cancel();
    }
}

/// The lane of all spawned closures.
#[derive(Debug, Clone)]
pub(super) struct Spawns {
    queue: Arc<Queue>,
    shell: Option<Arc<Shell>>,
}

#[derive(Default)]
struct Queue(Levelled<VecDeque<Box<dyn Job>>, house::SpawnQueue>);

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl Spawns {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let queue = Arc::new(Queue::default());
        let mut core = plain_core(shared, "spawn", Retry::none());
        core.spec.may_abandon = true; // by the shutdown
        let hands = (0..shared.limits.workers).map(|_| Levelled::new(None)).collect();
        let shell = Shell::owned(core, Box::new(SpawnBody { queue: Arc::clone(&queue), hands }));
        let placed = shared.place_now(&shell).is_ok();
        Self { queue, shell: placed.then_some(shell) }
    }

    pub(super) fn is_placed(&self) -> bool {
        self.shell.is_some()
    }

    pub(super) fn spawn<O: Send + 'static>(
        &self,
        shared: &Arc<Shared>,
        f: impl FnOnce() -> O + Send + 'static,
    ) -> Ticket<O> {
        let cell = Arc::new(Cell {
            begun: AtomicU8::new(WAITING),
            over: AtomicBool::new(false),
            outcome: Levelled::new(None),
            settled: Signal::new(),
        });
        let ticket = Ticket { shared: Arc::clone(shared), cell: Arc::clone(&cell) };
        let open =
            self.shell.as_ref().filter(|shell| shared.check_open().is_ok() && !shell.core.is_stopping());
        let Some(shell) = open else {
            cell.cancel();
            return ticket;
        };
        shell.core.counts.submitted.add(1);
        shell.core.counts.open.add(1);
        self.queue.0.lock().push_back(Box::new(Spawned { f: Some(f), cell }));
        shared.add(shell, 1);
        if shell.core.may_have_missed_a_stop() {
            // The shutdown may have cleared the lane just before.
            shell.with(|body| body.clear(shared, shell));
        }
        ticket
    }
}

struct SpawnBody {
    queue: Arc<Queue>,
    /// By worker: what it runs, and what that holds.
    hands: Box<[Levelled<Option<Hand>, house::Hand>]>,
}

struct Hand {
    cell: Arc<dyn Abandon>,
    demand: Demand,
}

impl LaneBody for SpawnBody {
    fn serve(&self, shared: &Arc<Shared>, shell: &Arc<Shell>, me: &mut WorkerState) -> Fate {
        let job = self.queue.0.lock().pop_front();
        let Some(job) = job else { return Fate::GoOn };
        let clock = &shared.clock;
        let core = &shell.core;
        let start = clock.raw();
        let demand = core.gate.demand(core);
        if !core.gate.is_open(&demand) {
            use crate::engine::{feedback::Bill, gate::Admission};
            // A closure without a `Failure` has nothing to say of how its call went.
            let mut unheard = Bill::default();
            match core.gate.admit(shared, shell, &demand, &mut me.held, &mut unheard, start) {
                Admission::Go => {}
                Admission::Blocked | Admission::Never(_) => {
                    self.queue.0.lock().push_front(job);
                    shared.add(shell, 1);
                    if core.may_have_missed_a_stop() {
                        self.clear(shared, shell);
                    }
                    return Fate::GoOn;
                }
            }
        }
        me.slot.enter_chunk(core.index(), false, start);
        let hand = &self.hands[me.slot.id];
        *hand.lock() = Some(Hand { cell: job.cell(), demand });
        let attempt = me.slot.begin(0, start, 0, true);
        // What the closure owned is dropped in here too.
        let ctx = Context {
            shared: Arc::clone(shared),
            slot: Arc::clone(&me.slot),
            shell: Arc::clone(shell),
            run: attempt,
            seq: 0,
            outer: None,
            key: None,
            tries: 0,
            lost: 0,
            deferrals: 0,
            epoch: 1,
            effects: Levelled::new(Vec::new()),
            has_locked: AtomicBool::new(false),
            bill: Levelled::default(),
            deadline_raw: 0,
        };
        // With a context, so that a `map` inside runs inline.
        let ran = caught(|| with_item(&ctx, || job.run())).unwrap_or(Ran::Panicked);
        ctx.give_back_locks();
        if !me.slot.settle(attempt) {
            shared.came_late(core);
            shared.gate.returned(&me.slot, &mut me.held);
            return Fate::Abandoned;
        }
        // It may hold the last handle on the user's value: that is dropped with no latch of ours held.
        let in_hand = hand.lock().take();
        drop_quietly(in_hand);
        me.slot.leave_chunk();
        me.held.release(shared);
        let took = clock.at_raw(clock.raw().saturating_sub(start));
        me.recorder.record_run(took.as_nanos());
        me.recorder.pour_also(&core.latency);
        shared.charge(core, 1);
        me.slot.counters.busy_ns.add(took.as_nanos());
        match ran {
            Ran::Done => me.slot.counters.completed.add(1),
            Ran::Panicked => {
                me.slot.counters.panicked.add(1);
                me.slot.counters.failed.add(1);
                core.counts.dead.add(1);
            }
            Ran::Cancelled => core.counts.cancelled.add(1),
        }
        shared.settled(shell, 1, u64::from(matches!(ran, Ran::Done)));
        if matches!(ran, Ran::Panicked) { Fate::Replace } else { Fate::GoOn }
    }

    fn refill(&self, _shared: &Shared, _shell: &Arc<Shell>) {}

    fn take_back(&self, _shared: &Shared, _shell: &Arc<Shell>, _before: u64) {}

    fn take_back_from(&self, _shared: &Shared, _shell: &Arc<Shell>, _worker: usize) {}

    fn due(&self, _shared: &Shared, _shell: &Arc<Shell>, _now: Timestamp) {}

    fn clear(&self, shared: &Shared, shell: &Arc<Shell>) {
        let mut gone = 0;
        let mut dropped = Vec::new();
        while shell.core.word.take_any() {
            let job = self.queue.0.lock().pop_front();
            if let Some(job) = job {
                job.cancel();
                dropped.push(job);
                gone += 1;
            }
        }
        shell.core.counts.cancelled.add(gone);
        shared.settled(shell, gone, 0);
        drop_quietly(dropped);
    }

    fn abandon(
        &self,
        shared: &Arc<Shared>,
        shell: &Arc<Shell>,
        slot: &Arc<crate::engine::Slot>,
        _at: u32,
        _hung: bool,
    ) {
        let Some(hand) = self.hands[slot.id].lock().take() else { return };
        hand.cell.abandon();
        shell.core.counts.cancelled.add(1);
        shared.settled(shell, 1, 0);
    }

    fn demand_in_hand(&self, worker: usize) -> Demand {
        self.hands[worker].lock().as_ref().map_or(Demand::new(), |hand| hand.demand)
    }

    fn key_in_hand(&self, _worker: usize, _at: u32) -> Option<Key> {
        None
    }

    fn ended(&self, _report: &Report) {}
}
