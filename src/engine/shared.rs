//! What all parts of one engine share: the table of lanes, the ready set, the gate, the signals, the engine's phase.
//!
//! The methods of [`Shared`] are where their subject is: places in `places`, ends in `ending`, the supervisor's timers in
//! `timers`, statistics in `snapshot`; here are lanes made ready and steered, threads and phases.

use super::cpu::Pool;
use super::error::Error;
use super::events::{Event, Listener, tell};
use super::gate::{Gate, LANES};
use super::lane::{LaneCore, Shell, paused};
use super::places::Places;
use super::signal::Signal;
use super::slot::Slot;
use super::timers::Timers;
use super::worker::{self, WorkerState};
use crate::core::laneword::{LaneWord, Reason};
use crate::core::ready::ReadySet;
use crate::core::tenancy::Tenancy;
use crate::core::waitlist::Waiter;
use crate::job::{Dead, Priority};
use crate::lock::{Deadlocks, Levelled, LockManager, LockManagerBuilder, house};
use crate::meter::Throughput;
use crate::policy;
#[cfg(feature = "sqlite")]
use crate::store::sqlite::Journal;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use crate::sync::{Arc, CachePadded, OnceLock, Unparker};
use crate::time::{Clock, Ticker, Timestamp};
use std::fmt;
use std::time::Duration;

/// How far the engine's shutdown is.
mod phase {
    pub(super) const RUNNING: u8 = 0;
    /// No new work is taken, chunks in hand end after their item.
    pub(super) const DRAINING: u8 = 1;
    /// Every item in hand was told to stop.
    pub(super) const CANCELLING: u8 = 2;
    /// Workers exit.
    pub(super) const STOPPED: u8 = 3;
}

/// The limits an engine was opened with.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) workers: usize,
    pub(crate) max_batches: usize,
    /// Items in hand per batch; `u32::MAX`: no cap below the number of workers.
    pub(crate) batch_cap: u32,
    pub(crate) total_cap: bool,
    /// Rows of an open batch that may wait.
    pub(crate) waiting_rows: usize,
    pub(crate) result_window: usize,
    pub(crate) grace: Duration,
    pub(crate) hang_after: Option<Duration>,
    pub(crate) batch_deadline: Option<Duration>,
    pub(crate) max_abandoned: u32,
    /// Quotas are kept; without them `needs` asks for nothing.
    pub(crate) throttling: bool,
    /// Rates are kept; without them `paced_by` asks for nothing.
    pub(crate) rate_limiting: bool,
    pub(crate) retry: crate::job::Retry,
    /// Waits inside items are searched for deadlocks.
    pub(crate) detection: bool,
    /// Latencies are recorded.
    pub(crate) metered: bool,
    pub(crate) seed: u64,
}

/// One engine.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) ticker: Ticker,
    pub(crate) limits: Limits,
    pub(crate) ready: ReadySet,
    /// A word that is never ready: stands for a lane that is gone.
    pub(crate) void: LaneWord,
    #[cfg(feature = "sqlite")]
    pub(crate) journal: Option<Arc<Journal>>,
    /// Held while a batch is opened.
    pub(crate) opening: Levelled<(), house::Opening>,
    pub(super) lanes: Box<[Levelled<Option<Arc<Shell>>, house::LaneAt>]>,
    /// Whose hints a number's are.
    pub(super) tenancy: Tenancy,
    /// Every lane stands still, also those that come. Written under the latch of the places.
    pub(super) paused: AtomicBool,
    pub(crate) passes: Box<[AtomicU64]>,
    /// The pass of the lane served last, by class: who comes back starts there.
    pub(super) virtual_time: [CachePadded<AtomicU64>; Priority::CLASSES],
    pub(super) places: Levelled<Places, house::Places>,
    pub(crate) slots: Box<[Levelled<Arc<Slot>, house::SlotAt>]>,
    /// What workers did whose threads were given up.
    pub(crate) retired: Levelled<super::snapshot::Retired, house::Retired>,
    pub(crate) gate: Gate,
    /// The locks that items take by name.
    pub(crate) locks: LockManager<String>,
    pub(super) timers: Levelled<Timers, house::Timers>,
    pub(super) supervisor: OnceLock<Unparker>,
    /// The supervisor watches items in hand.
    pub(crate) watching: AtomicBool,
    phase: AtomicU8,
    shutdown_deadline: AtomicU64,
    threads: Levelled<usize, house::Threads>,
    /// Threads that were given up and have not returned.
    pub(crate) stuck: AtomicU64,
    /// Woken when a thread has ended.
    pub(crate) gone: Signal,
    /// Woken when a chunk has ended during shutdown.
    pub(crate) quiet: Signal,
    /// Woken when a worker may go on.
    pub(crate) resumed: Signal,
    /// Woken when a lane has ended.
    pub(crate) ended: Signal,
    pub(crate) pool: Pool,
    pub(crate) opened: Timestamp,
    listener: Option<Arc<Listener>>,
    /// Counts of lanes that have ended.
    pub(crate) past: Levelled<super::snapshot::Past, house::Past>,
    /// Lanes that have ended and whose end is being written.
    pub(super) ending: Levelled<Vec<Arc<Shell>>, house::EndsWritten>,
    pub(crate) throughput: Levelled<Throughput, house::Throughput>,
    #[cfg(test)]
    pub(crate) planted: Planted,
}

/// A bug of ours, planted by a test: so many looks of workers panic with a ticket in hand.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Planted(pub(crate) crate::sync::Mutex<u64>);

#[cfg(test)]
impl Planted {
    pub(crate) fn strike(&self) {
        let mut left = self.0.lock();
        if *left > 0 {
            *left -= 1;
            drop(left);
            panic!("planted: in a look for work");
        }
    }
}

impl Shared {
    pub(crate) fn new(
        clock: Clock,
        limits: Limits,
        gate: Gate,
        pool: Pool,
        slots: Vec<Arc<Slot>>,
        #[cfg(feature = "sqlite")] journal: Option<Arc<Journal>>,
        listener: Option<Arc<Listener>>,
    ) -> Self {
        let max = limits.max_batches;
        Self {
            #[cfg(feature = "sqlite")]
            journal,
            opening: Levelled::new(()),
            ticker: Ticker::new(&clock),
            opened: clock.now(),
            ready: ReadySet::new(limits.workers),
            void: LaneWord::new(),
            lanes: (0..LANES).map(|_| Levelled::new(None)).collect(),
            tenancy: Tenancy::new(),
            paused: AtomicBool::new(false),
            passes: (0..LANES).map(|_| AtomicU64::new(0)).collect(),
            virtual_time: std::array::from_fn(|_| CachePadded::new(AtomicU64::new(0))),
            places: Levelled::new(Places { free: u64::MAX, active: Vec::new(), waiting: Vec::new(), max }),
            slots: slots.into_iter().map(Levelled::new).collect(),
            retired: Levelled::new(super::snapshot::Retired::default()),
            gate,
            locks: LockManagerBuilder::default()
                .clock(clock.clone())
                .deadlocks(if limits.detection { Deadlocks::Detect } else { Deadlocks::Off })
                .build(),
            timers: Levelled::new(Timers::default()),
            supervisor: OnceLock::new(),
            watching: AtomicBool::new(false),
            phase: AtomicU8::new(phase::RUNNING),
            shutdown_deadline: AtomicU64::new(u64::MAX),
            threads: Levelled::new(0),
            stuck: AtomicU64::new(0),
            gone: Signal::new(),
            quiet: Signal::new(),
            resumed: Signal::new(),
            ended: Signal::new(),
            pool,
            listener,
            past: Levelled::new(super::snapshot::Past::default()),
            ending: Levelled::new(Vec::new()),
            throughput: Levelled::new(Throughput::new(clock.now())),
            #[cfg(test)]
            planted: Planted::default(),
            clock,
            limits,
        }
    }

    /// Whether this thread is one of the engine's own: it would wait for itself. So would the journal's, in a listener.
    pub(crate) fn must_not_wait(self: &Arc<Self>) -> bool {
        #[cfg(feature = "sqlite")]
        if self.journal.as_ref().is_some_and(|journal| journal.may_wait().is_err()) {
            return true;
        }
        worker::on_worker_of(self)
    }

    /// Whether batches are kept in a journal.
    pub(crate) fn has_journal(&self) -> bool {
        #[cfg(feature = "sqlite")]
        return self.journal.is_some();
        #[cfg(not(feature = "sqlite"))]
        false
    }

    /// Nanoseconds of the engine's clock.
    #[inline]
    pub(crate) fn nanos(&self) -> u64 {
        self.clock.now().as_nanos()
    }

    // ---- lanes -------------------------------------------------------------------------------------------

    /// Entries were inserted into the lane: counts them and tells a worker.
    pub(crate) fn add(&self, shell: &Shell, entries: u32) {
        if shell.core.word.add(entries) {
            self.mark(&shell.core);
        }
    }

    /// A cause has passed.
    pub(crate) fn unblock(&self, core: &LaneCore, reason: Reason) {
        if core.word.unblock(reason) {
            self.mark(core);
        }
    }

    /// The lane's word became ready. A lane without a place is paused, so it has one here.
    fn mark(&self, core: &LaneCore) {
        let (lane, class) = (core.index(), usize::from(core.tunables.get().class));
        // Who was away gains no credit for it.
        let now = self.virtual_time[class].load(Ordering::Relaxed);
        let own = self.passes[lane].load(Ordering::Relaxed);
        self.passes[lane].store(policy::stride::join(own, Some(now)), Ordering::Relaxed);
        // It has waited from now on, not from its last turn.
        core.served.store(self.nanos(), Ordering::Relaxed);
        self.ready.mark(lane, class);
    }

    /// The lane moved to another class.
    pub(crate) fn reclass(&self, shell: &Arc<Shell>, from: usize, to: usize) {
        self.with_place(shell, |lane| self.reclass_at(lane, &shell.core, from, to));
    }

    fn reclass_at(&self, lane: usize, core: &LaneCore, from: usize, to: usize) {
        let now = self.virtual_time[to].load(Ordering::Relaxed);
        self.passes[lane].store(now, Ordering::Relaxed);
        self.ready.mark(lane, to);
        self.ready.clear(lane, from, &self.void);
        self.ready.clear(lane, to, &core.word);
    }

    /// The lane was served these items.
    pub(crate) fn charge(&self, core: &LaneCore, items: u64) {
        let tunables = core.tunables.get();
        let pass = &self.passes[core.index()];
        let before = pass.load(Ordering::Relaxed);
        let items = u32::try_from(items).unwrap_or(u32::MAX);
        // Relaxed and racy: two chunks that end together may be charged as one.
        pass.store(policy::stride::advance(before, u32::from(tunables.weight), items), Ordering::Relaxed);
        self.virtual_time[usize::from(tunables.class)].store(before, Ordering::Relaxed);
    }

    /// Whoever the granter chose is told.
    pub(crate) fn wake(&self, waiter: &Waiter) {
        match waiter {
            Waiter::Thread(thread) => thread.unpark(),
            Waiter::Lane(lane) => self.ready.admit(*lane as usize),
        }
    }

    // ---- steering ----------------------------------------------------------------------------------------

    /// Stops the lane for this reason; what its workers have not begun goes back.
    pub(crate) fn pause_lane(&self, shell: &Arc<Shell>, why: u8) {
        self.stand_still(shell, why);
        self.take_hands_off(shell);
    }

    pub(super) fn stand_still(&self, shell: &Arc<Shell>, why: u8) {
        let mut steer = shell.core.steer.lock();
        if steer.paused == 0 {
            shell.core.word.block(Reason::Paused);
        }
        steer.paused |= why;
    }

    pub(crate) fn take_hands_off(&self, shell: &Arc<Shell>) {
        shell.with(|body| body.take_back(self, shell, u64::MAX));
        shell.core.gate.withdraw(self, &shell.core);
    }

    /// Takes this reason away; the lane goes on when none is left.
    pub(crate) fn resume_lane(&self, shell: &Arc<Shell>, why: u8) {
        let mut steer = shell.core.steer.lock();
        let was = steer.paused;
        steer.paused &= !why;
        if was != 0 && steer.paused == 0 {
            self.unblock(&shell.core, Reason::Paused);
            if shell.core.spec.in_journal {
                // What waited for its turn in the journal did not look while the lane stood still.
                self.schedule(self.clock.now(), shell);
            }
        }
    }

    /// An item was given up.
    pub(crate) fn dead(&self, shell: &Shell, seq: u64, dead: &Dead) {
        self.event(&Event::ItemDead { batch: &shell.core.name, seq, dead });
    }

    pub(crate) fn event(&self, event: &Event<'_>) {
        tell(self.listener.as_deref(), event);
    }

    // ---- threads and phases ------------------------------------------------------------------------------

    pub(crate) fn thread_started(&self) {
        *self.threads.lock() += 1;
    }

    pub(crate) fn thread_ended(&self) {
        *self.threads.lock() -= 1;
        self.gone.notify();
        self.quiet.notify();
    }

    pub(crate) fn threads(&self) -> usize {
        *self.threads.lock()
    }

    /// Threads whose attempt was abandoned and has not returned.
    pub(crate) fn lost_threads(&self) -> usize {
        self.stuck.load(Ordering::Acquire) as usize
    }

    pub(crate) fn worker_lost(&self, worker: usize, error: &std::io::Error) {
        self.event(&Event::WorkerLost { worker, error });
    }

    /// Puts a new thread in the place of one that does not return.
    pub(crate) fn replace(self: &Arc<Self>, id: usize) {
        let state = WorkerState::new(id, self.limits.seed, self.limits.metered);
        let old = {
            let mut slot = self.slots[id].lock();
            state.slot.set_paused(slot.is_paused());
            std::mem::replace(&mut *slot, Arc::clone(&state.slot))
        };
        self.retired.lock().add(&old);
        // The place is not busy any more; the thread that was, may have ended before it was given away.
        self.quiet.notify();
        self.event(&Event::WorkerReplaced { worker: id, why: "does not return from its item" });
        if let Err(error) = worker::start(self, state) {
            self.worker_lost(id, &error);
        }
    }

    pub(crate) fn check_open(&self) -> Result<(), Error> {
        if self.phase.load(Ordering::Acquire) == phase::RUNNING { Ok(()) } else { Err(Error::Closed) }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.phase.load(Ordering::Acquire) >= phase::DRAINING
    }

    #[inline]
    pub(crate) fn is_cancelling(&self) -> bool {
        self.phase.load(Ordering::Acquire) >= phase::CANCELLING
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.phase.load(Ordering::Acquire) >= phase::STOPPED
    }

    pub(crate) fn begin_drain(&self, deadline: Timestamp) -> bool {
        self.shutdown_deadline.fetch_min(deadline.as_nanos(), Ordering::Relaxed);
        // Under the latch of the places: who enters a batch has either been seen, and stands still, or sees this. So whoever
        // finds the engine closed finds that nothing begins any more.
        let places = self.places.lock();
        for shell in self.lanes().iter().chain(&places.active).chain(&places.waiting) {
            self.stand_still(shell, paused::SHUTDOWN);
        }
        self.phase
            .compare_exchange(phase::RUNNING, phase::DRAINING, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    pub(crate) fn begin_cancel(&self) {
        self.phase.fetch_max(phase::CANCELLING, Ordering::AcqRel);
        for slot in &self.slots {
            slot.lock().wake_sleepers();
        }
    }

    pub(crate) fn stop(&self) {
        self.phase.fetch_max(phase::STOPPED, Ordering::AcqRel);
        self.ready.notify_all();
        self.resumed.notify();
        self.nudge();
    }

    pub(crate) fn shutdown_deadline(&self) -> Option<Timestamp> {
        let nanos = self.shutdown_deadline.load(Ordering::Relaxed);
        (nanos != u64::MAX).then(|| Timestamp::from_nanos(nanos))
    }

    /// Whether a worker has an item in hand.
    pub(crate) fn is_busy(&self) -> bool {
        self.slots.iter().any(|slot| slot.lock().chunk().is_some())
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("limits", &self.limits).finish_non_exhaustive()
    }
}
