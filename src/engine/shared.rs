//! What all parts of one engine share: the lanes and their places, the ready set, the gate, the timers.

use super::cpu::Pool;
use super::error::Error;
use super::events::{Event, Listener, trace};
use super::gate::{Gate, LANES};
use super::lane::{Ending, LaneCore, Shell, paused};
use super::signal::Signal;
use super::slot::Slot;
use super::worker::{self, WorkerState};
use crate::core::laneword::{LaneWord, Reason};
use crate::core::ready::ReadySet;
use crate::core::waitlist::Waiter;
use crate::job::{BatchStatus, Dead, HaltReason, Priority, Report};
use crate::meter::Throughput;
use crate::policy;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering, fence};
use crate::sync::{Arc, CachePadded, Mutex, OnceLock, Unparker, Weak};
use crate::time::{Clock, Ticker, Timestamp};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::time::Duration;

/// Lane numbers that batches leave to `map` and `spawn`.
const RESERVED: u32 = 4;

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
    lanes: Box<[Mutex<Option<Arc<Shell>>>]>,
    /// By lane: how many lanes have had this place. A hint that is cleared after a look at one lane may have been set
    /// for its successor: see [`forget`](Shared::forget).
    seated: Box<[AtomicU64]>,
    /// Every lane stands still, also those that come. Written under the latch of the places.
    paused: AtomicBool,
    pub(crate) passes: Box<[AtomicU64]>,
    /// The pass of the lane served last, by class: who comes back starts there.
    virtual_time: [CachePadded<AtomicU64>; Priority::CLASSES],
    places: Mutex<Places>,
    pub(crate) slots: Box<[Mutex<Arc<Slot>>]>,
    /// What workers did whose threads were given up.
    pub(crate) retired: Mutex<super::snapshot::Retired>,
    pub(crate) gate: Gate,
    timers: Mutex<Timers>,
    supervisor: OnceLock<Unparker>,
    /// The supervisor watches items in hand.
    pub(crate) watching: AtomicBool,
    phase: AtomicU8,
    shutdown_deadline: AtomicU64,
    threads: Mutex<usize>,
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
    listener: Option<Listener>,
    /// Counts of lanes that have ended.
    pub(crate) past: Mutex<super::snapshot::Past>,
    pub(crate) throughput: Mutex<Throughput>,
}

/// A place among the active lanes.
#[derive(Debug)]
struct Places {
    free: u64,
    /// Batches that have a place, in the order they got it.
    active: Vec<Arc<Shell>>,
    /// Batches that wait for one; displaced ones too.
    waiting: Vec<Arc<Shell>>,
    max: usize,
}

/// A time at which a lane wants to be looked at.
struct Timer {
    due: Timestamp,
    lane: Weak<Shell>,
}

#[derive(Default)]
struct Timers {
    heap: BinaryHeap<Reverse<Timer>>,
    /// Length at which the timers of lanes that are gone are swept out: each keeps its lane's memory.
    sweep_at: usize,
}

impl Timers {
    const SWEEP: usize = 256;

    fn push(&mut self, timer: Timer) {
        if self.heap.len() >= self.sweep_at.max(Self::SWEEP) {
            self.heap.retain(|Reverse(timer)| timer.lane.strong_count() > 0);
            self.sweep_at = self.heap.len() * 2;
        }
        self.heap.push(Reverse(timer));
    }
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}
impl Eq for Timer {}
impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}

impl Shared {
    pub(crate) fn new(
        clock: Clock,
        limits: Limits,
        gate: Gate,
        pool: Pool,
        slots: Vec<Arc<Slot>>,
        listener: Option<Listener>,
    ) -> Self {
        let max = limits.max_batches;
        Self {
            ticker: Ticker::new(&clock),
            opened: clock.now(),
            ready: ReadySet::new(limits.workers),
            void: LaneWord::new(),
            lanes: (0..LANES).map(|_| Mutex::new(None)).collect(),
            seated: (0..LANES).map(|_| AtomicU64::new(0)).collect(),
            paused: AtomicBool::new(false),
            passes: (0..LANES).map(|_| AtomicU64::new(0)).collect(),
            virtual_time: std::array::from_fn(|_| CachePadded::new(AtomicU64::new(0))),
            places: Mutex::new(Places { free: u64::MAX, active: Vec::new(), waiting: Vec::new(), max }),
            slots: slots.into_iter().map(Mutex::new).collect(),
            retired: Mutex::new(super::snapshot::Retired::default()),
            gate,
            timers: Mutex::new(Timers::default()),
            supervisor: OnceLock::new(),
            watching: AtomicBool::new(false),
            phase: AtomicU8::new(phase::RUNNING),
            shutdown_deadline: AtomicU64::new(u64::MAX),
            threads: Mutex::new(0),
            stuck: AtomicU64::new(0),
            gone: Signal::new(),
            quiet: Signal::new(),
            resumed: Signal::new(),
            ended: Signal::new(),
            pool,
            listener,
            past: Mutex::new(super::snapshot::Past::default()),
            throughput: Mutex::new(Throughput::new(clock.now())),
            clock,
            limits,
        }
    }

    /// Nanoseconds of the engine's clock.
    #[inline]
    pub(crate) fn nanos(&self) -> u64 {
        self.clock.now().as_nanos()
    }

    // ---- lanes -------------------------------------------------------------------------------------------

    pub(crate) fn lane(&self, index: usize) -> Option<Arc<Shell>> {
        self.lanes[index].lock().clone()
    }

    /// Lanes that have a place.
    pub(crate) fn lanes(&self) -> Vec<Arc<Shell>> {
        self.lanes.iter().filter_map(|lane| lane.lock().clone()).collect()
    }

    /// Batches, with a place or waiting for one, in the order they came.
    pub(crate) fn batches(&self) -> Vec<Arc<Shell>> {
        let places = self.places.lock();
        places.active.iter().chain(&places.waiting).cloned().collect()
    }

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

    /// How many lanes have had this place; read before a look at the lane, for [`forget`](Self::forget).
    pub(crate) fn seated(&self, lane: usize) -> u64 {
        self.seated[lane].load(Ordering::Acquire)
    }

    /// Clears a hint after a look at the lane that had the place then. If another has it now, the hint was perhaps
    /// set for that one, whose word was not looked at: the hint stays. (It was set after the place was taken, and our
    /// clearing read it: so we see the new number here.)
    pub(crate) fn forget(&self, lane: usize, class: usize, word: &LaneWord, seated: u64) {
        self.ready.clear(lane, class, word);
        if self.seated(lane) != seated {
            self.ready.mark(lane, class);
        }
    }

    /// Uses the lane's number, if it still has one, with the place held for it.
    pub(crate) fn with_place(&self, shell: &Arc<Shell>, f: impl FnOnce(usize)) {
        if shell.core.is_placed() {
            let index = shell.core.index();
            let lane = self.lanes[index].lock();
            if lane.as_ref().is_some_and(|there| Arc::ptr_eq(there, shell)) {
                f(index);
            }
        }
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

    // ---- places ------------------------------------------------------------------------------------------

    /// Gives a lane outside the count of batches (`map`, `spawn`) its place.
    pub(crate) fn place_now(&self, shell: &Arc<Shell>) -> Result<(), Error> {
        let mut places = self.places.lock();
        self.check_open()?;
        self.join_pause(shell);
        let seated = self.seat(&mut places, shell);
        let several = places.free.count_zeros() > 1;
        drop(places);
        if several {
            self.nudge(); // lanes that wait for each other age
        }
        seated
    }

    /// A lane that comes while the engine is paused stands still too. Under the latch of the places.
    fn join_pause(&self, shell: &Arc<Shell>) {
        if self.paused.load(Ordering::Relaxed) {
            self.stand_still(shell, paused::ENGINE);
        }
    }

    /// Whether lanes that come from now on stand still. Those that are there are paused by the caller.
    pub(crate) fn set_paused(&self, paused: bool) {
        let _places = self.places.lock();
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Enters a batch: it gets a place, or waits for one.
    pub(crate) fn enter(&self, shell: &Arc<Shell>) -> Result<(), Error> {
        let mut places = self.places.lock();
        self.check_open()?;
        let name = &shell.core.name;
        if places.active.iter().chain(&places.waiting).any(|other| other.core.name == *name) {
            return Err(Error::BatchActive { name: name.clone() });
        }
        self.join_pause(shell);
        let mut displaced = None;
        // A displaced lane keeps its number. So one is only displaced while some are left, and a batch for which there
        // is none waits, like one without a place.
        let numbers = places.free.count_ones();
        if places.active.len() >= places.max || numbers == 0 {
            let newcomer = Priority::from_class(usize::from(shell.core.tunables.get().class));
            let seats: Vec<_> = places
                .active
                .iter()
                .enumerate()
                .map(|(i, active)| policy::displace::Seat {
                    priority: Priority::from_class(usize::from(active.core.tunables.get().class)),
                    since: i as u64,
                })
                .collect();
            match policy::displace::displaced(&seats, newcomer) {
                Some(lowest) if numbers > RESERVED => {
                    let shell = places.active.remove(lowest);
                    // Before anybody can give it a place again.
                    self.stand_still(&shell, paused::DISPLACED);
                    places.waiting.insert(0, Arc::clone(&shell));
                    displaced = Some(shell);
                }
                _ => {
                    places.waiting.push(Arc::clone(shell));
                    drop(places);
                    self.event(&Event::BatchStarted { batch: name });
                    return Ok(());
                }
            }
        }
        let seated = self.seat(&mut places, shell);
        if seated.is_ok() {
            places.active.push(Arc::clone(shell));
        }
        drop(places);
        if let Some(displaced) = displaced {
            self.take_hands_off(&displaced);
        }
        seated?;
        self.event(&Event::BatchStarted { batch: name });
        self.nudge();
        Ok(())
    }

    fn seat(&self, places: &mut Places, shell: &Arc<Shell>) -> Result<(), Error> {
        let core = &shell.core;
        if !core.is_placed() {
            if places.free == 0 {
                return Err(Error::TooManyLanes { limit: LANES });
            }
            // Not a number under whose cap an abandoned attempt of another lane still counts, if there is a choice.
            let index = (0..LANES)
                .filter(|index| places.free & 1 << index != 0)
                .find(|index| !self.gate.is_lane_charged(*index))
                .unwrap_or(places.free.trailing_zeros() as usize);
            places.free &= !(1 << index);
            self.seated[index].fetch_add(1, Ordering::AcqRel);
            core.place(index);
            let tunables = core.tunables.get();
            self.gate.set_lane_cap(self, index, tunables.cap);
            self.passes[index].store(
                self.virtual_time[usize::from(tunables.class)].load(Ordering::Relaxed),
                Ordering::Relaxed,
            );
            *self.lanes[index].lock() = Some(Arc::clone(shell));
        }
        self.resume_lane(shell, paused::DISPLACED);
        Ok(())
    }

    /// Takes an ended lane's place away and gives it to the next in line.
    pub(crate) fn leave(&self, shell: &Arc<Shell>) {
        let core = &shell.core;
        core.gate.withdraw(self, core);
        let mut places = self.places.lock();
        places.active.retain(|other| !Arc::ptr_eq(other, shell));
        places.waiting.retain(|other| !Arc::ptr_eq(other, shell));
        if core.is_placed() {
            let index = core.index();
            let mut lane = self.lanes[index].lock();
            if lane.as_ref().is_some_and(|there| Arc::ptr_eq(there, shell)) {
                *lane = None;
                drop(lane);
                for class in 0..Priority::CLASSES {
                    self.ready.clear(index, class, &self.void);
                }
                places.free |= 1 << index;
            }
        }
        while places.active.len() < places.max && !places.waiting.is_empty() {
            // The highest class, of those the one that waits longest.
            let next = places
                .waiting
                .iter()
                .enumerate()
                .max_by_key(|(i, shell)| (shell.core.tunables.get().class, Reverse(*i)))
                .map_or(0, |(i, _)| i);
            let next = places.waiting.remove(next);
            if self.seat(&mut places, &next).is_ok() {
                places.active.push(next);
            } else {
                places.waiting.insert(0, next);
                break;
            }
        }
        drop(places);
        self.nudge();
    }

    // ---- steering ----------------------------------------------------------------------------------------

    /// Stops the lane for this reason; what its workers have not begun goes back.
    pub(crate) fn pause_lane(&self, shell: &Arc<Shell>, why: u8) {
        self.stand_still(shell, why);
        self.take_hands_off(shell);
    }

    fn stand_still(&self, shell: &Arc<Shell>, why: u8) {
        let mut steer = shell.core.steer.lock();
        if steer.paused == 0 {
            shell.core.word.block(Reason::Paused);
        }
        steer.paused |= why;
    }

    fn take_hands_off(&self, shell: &Arc<Shell>) {
        // ORDERING: SeqCst: see `Body::run`.
        fence(Ordering::SeqCst);
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
        }
    }

    /// Ends the lane before its time. `now`: items in hand are told to stop as well.
    pub(crate) fn stop_lane(&self, shell: &Arc<Shell>, ending: Ending, now: bool) {
        {
            let mut steer = shell.core.steer.lock();
            if steer.ending.is_none() {
                steer.ending = Some(ending);
            }
        }
        shell.core.stop_dispatch();
        // ORDERING: SeqCst: see `Body::run`.
        fence(Ordering::SeqCst);
        if now {
            shell.core.cancel();
            if shell.core.spec.may_abandon {
                let at = self.clock.now() + shell.core.spec.grace;
                shell.core.set_abandon_at(at);
                self.schedule(at, shell);
            }
            for slot in &self.slots {
                slot.lock().wake_sleepers();
            }
        }
        shell.with(|body| body.clear(self, shell));
        // A batch that was still open takes no more.
        shell.core.seal();
        self.maybe_end(shell);
    }

    pub(crate) fn halt(&self, shell: &Arc<Shell>, why: HaltReason) {
        self.stop_lane(shell, Ending::Halted(why), true);
    }

    /// An item died: has the batch's halt rule had enough?
    pub(crate) fn check_halt(&self, shell: &Arc<Shell>) {
        let core = &shell.core;
        let Some(rule) = core.spec.halt else { return };
        let failed = core.counts.dead.get();
        let ended = failed + core.counts.done.get() + core.counts.skipped.get();
        if policy::halt::says_stop(&rule, failed, ended) {
            let why = HaltReason::Failures { rule, failed, ended };
            self.stop_lane(shell, Ending::Halted(why), rule.now);
        }
    }

    /// Outcomes were published: `done` of them good.
    pub(crate) fn settled(&self, shell: &Arc<Shell>, settled: u64, done: u64) {
        if done > 0 {
            shell.core.counts.done.add(done);
        }
        if settled > 0 && shell.core.counts.open.sub(settled) == 0 {
            self.maybe_end(shell);
        }
    }

    /// Ends the lane if nothing is open and nothing more will come.
    ///
    /// Two threads may come here for one lane: who brought `open` to zero, and who sealed it. Each changes its own
    /// word by a read-modify-write and then looks at the other's, `open` by a read-modify-write again: whichever
    /// change of `open` comes second sees the first, so at least one of the two finds both conditions; `end` lets
    /// one through.
    pub(crate) fn maybe_end(&self, shell: &Arc<Shell>) {
        let core = &shell.core;
        if core.counts.open.sub(0) != 0 || !core.is_sealed() || !core.end() {
            return;
        }
        let report = self.report(shell);
        {
            let mut past = self.past.lock();
            past.add(core);
            core.is_past.store(true, Ordering::Relaxed);
        }
        self.leave(shell);
        // Who has read the results to their end finds the name free.
        shell.with(|body| body.ended(&report));
        self.event(&Event::BatchEnded { batch: &core.name, status: &report.status });
        core.steer.lock().report = Some(report);
        self.ended.notify();
    }

    fn report(&self, shell: &Shell) -> Report {
        let core = &shell.core;
        let counts = &core.counts;
        let ending = core.steer.lock().ending.clone();
        let status = match ending {
            // Stopped with nothing left to stop: it is done all the same.
            Some(_)
                if counts.cancelled.get() == 0 && counts.dead.get() == 0 && counts.submitted.get() > 0 =>
            {
                BatchStatus::Completed
            }
            Some(Ending::Cancelled) => BatchStatus::Cancelled,
            Some(Ending::Halted(why)) => BatchStatus::Halted(why),
            None if counts.dead.get() > 0 => BatchStatus::CompletedWithFailures,
            None => BatchStatus::Completed,
        };
        let mut report = Report::new(core.name.clone(), status);
        report.total_items = counts.submitted.get();
        report.completed_items = counts.done.get();
        report.failed_items = counts.dead.get();
        report.skipped_items = counts.skipped.get();
        report.cancelled_items = counts.cancelled.get();
        report.retried = counts.retried.get();
        report.late_results = counts.late.get();
        report.duplicates = counts.duplicates.get();
        report.processing_time = self.clock.now() - core.started;
        let (wait, run) = (core.latency.wait(), core.latency.run());
        report.queue_wait = (wait.count() > 0).then(|| wait.percentiles());
        report.run = (run.count() > 0).then(|| run.percentiles());
        report
    }

    /// An attempt that had been abandoned has returned. Its lane may have ended.
    pub(crate) fn came_late(&self, core: &LaneCore) {
        let mut past = self.past.lock();
        core.counts.late.add(1);
        if core.is_past.load(Ordering::Relaxed) {
            past.came_late();
        }
    }

    /// An item was given up.
    pub(crate) fn dead(&self, shell: &Shell, seq: u64, dead: &Dead) {
        self.event(&Event::ItemDead { batch: &shell.core.name, seq, dead });
    }

    pub(crate) fn event(&self, event: &Event<'_>) {
        trace(event);
        if let Some(listener) = &self.listener {
            // A listener's panic is its own: it must not take a worker or a lane with it.
            let _ = worker::caught(|| listener(event));
        }
    }

    // ---- timers and the supervisor -----------------------------------------------------------------------

    pub(crate) fn set_supervisor(&self, unparker: Unparker) {
        let _ = self.supervisor.set(unparker);
    }

    /// Wakes the supervisor to look again.
    pub(crate) fn nudge(&self) {
        if let Some(supervisor) = self.supervisor.get() {
            supervisor.unpark();
        }
    }

    /// The lane wants to be looked at then.
    pub(crate) fn schedule(&self, due: Timestamp, shell: &Arc<Shell>) {
        let mut timers = self.timers.lock();
        let sooner = timers.heap.peek().is_none_or(|Reverse(first)| due < first.due);
        timers.push(Timer { due, lane: Arc::downgrade(shell) });
        drop(timers);
        if sooner {
            self.nudge();
        }
    }

    /// Lanes whose time has come, and when the next one's does.
    pub(crate) fn due(&self, now: Timestamp) -> (Vec<Arc<Shell>>, Option<Timestamp>) {
        let timers = &mut self.timers.lock().heap;
        let mut lanes: Vec<Arc<Shell>> = Vec::new();
        while timers.peek().is_some_and(|Reverse(timer)| timer.due <= now) {
            if let Some(shell) = timers.pop().and_then(|Reverse(timer)| timer.lane.upgrade())
                && !lanes.iter().any(|there| Arc::ptr_eq(there, &shell))
            {
                lanes.push(shell);
            }
        }
        (lanes, timers.peek().map(|Reverse(timer)| timer.due))
    }

    /// A chunk that wants watching is in hand. The caller has written its slot.
    pub(crate) fn watch(&self) {
        // ORDERING: SeqCst with the supervisor's fence before it looks at all slots a last time: either it sees
        // this worker's slot, or this load sees that it stopped watching.
        fence(Ordering::SeqCst);
        if !self.watching.load(Ordering::Relaxed) && !self.watching.swap(true, Ordering::AcqRel) {
            self.nudge();
        }
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
        // Under the latch of the places: who enters a batch has either been seen or sees this.
        let _places = self.places.lock();
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
