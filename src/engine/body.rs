//! The typed part of a lane: what a batch's work is to it, and the loop that runs a chunk.
//!
//! What waits in the lane is in `entries`, what becomes of a failed item in `verdict`.
//!
//! A worker's *seat* in the lane holds the chunk it has in hand: see [`core::seat`](crate::core::seat).

use super::context::Context;
use super::entries::{Entry, Later};
use super::gate::Admission;
use super::lane::{LaneBody, Shell};
use super::recovery::InHand;
use super::shared::Shared;
use super::slot::Slot;
use super::verdict::{FailedAttempt, History, Verdict};
use super::work::{ChildError, Ended, Work};
use super::worker::{Fate, WorkerState, caught, drop_quietly, with_item};
use crate::core::attempt::Epoch;
use crate::core::seat as core;
use crate::core::waitlist::Demand;
use crate::job::{Failure, HaltReason, Key, Report};
use crate::lock::{Levelled, house};
use crate::meter::Counter;
use crate::policy;
use crate::store::{JournalError, Kept};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::time::{Timestamp, millis, secs};
use crossbeam::channel::{Receiver, Sender, bounded};
use std::any::Any;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

/// A clock reading costs 10 ns, so items that are predicted to be fast are timed a stride at a time: as many as should
/// take this long, at most a chunk. The time of an item's start is then late by what the items before it in the stride
/// took: two microseconds by prediction, and a few milliseconds if the prediction was wrong, since the supervisor's
/// ticker, which moves every millisecond while a chunk is in hand, ends a stride early.
const STRIDE_NANOS: u64 = 2_000;
/// Items with a limit below this are always timed one by one: for them milliseconds count.
const STRIDE_LIMIT: Duration = secs(1);
/// Outcomes wait this long for company before they are published.
const PUBLISH_AFTER: Duration = millis(1);
/// Entries in the channel per worker.
const READY_PER_WORKER: usize = 2;

pub(super) struct Seat<C> {
    pub(super) seat: core::Seat<Hand<C>>,
    pub(super) tally: Tally,
    /// Items begun here for the first time: what the retry budget is a share of. Written by the seat's worker alone.
    begun: Counter,
}

/// What the worker has settled of the chunk in hand and not told the lane yet: written after every item, so that
/// whoever takes the next one away, or clears up after a panic, can tell the lane in the worker's stead.
pub(super) struct Tally {
    settled: AtomicU64,
    done: AtomicU64,
}

impl Tally {
    fn new() -> Self {
        Self { settled: AtomicU64::new(0), done: AtomicU64::new(0) }
    }

    /// Published with the attempt, by the Release in `Slot::begin`.
    #[inline(always)]
    pub(super) fn note(&self, settled: u64, done: u64) {
        self.settled.store(settled, Ordering::Relaxed);
        self.done.store(done, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> (u64, u64) {
        (self.settled.load(Ordering::Relaxed), self.done.load(Ordering::Relaxed))
    }
}

/// What a worker has in hand.
pub(super) struct Hand<C> {
    pub(super) chunk: C,
    since: u64,
    /// What each of its items holds while it runs.
    demand: Demand,
    pub(super) history: Option<Box<History>>,
}

/// The typed part of a lane.
pub(crate) struct Body<W: Work> {
    pub(crate) work: W,
    pub(super) fresh: Option<(Sender<Entry<W::Chunk>>, Receiver<Entry<W::Chunk>>)>,
    pub(super) refilling: Levelled<(), house::Refilling>,
    pub(super) returned: Levelled<VecDeque<Entry<W::Chunk>>, house::Returned>,
    pub(super) backoff: Levelled<BinaryHeap<Reverse<Later<W::Chunk>>>, house::Backoff>,
    pub(super) seats: Box<[Seat<W::Chunk>]>,
    pub(super) workers: usize,
    /// What attempts have kept in steps, by item, where no journal keeps it.
    steps: Levelled<HashMap<u64, HashMap<String, String>>, house::Steps>,
    has_steps: AtomicBool,
}

impl<W: Work> Body<W> {
    pub(crate) fn new(work: W, workers: usize) -> Self {
        Self {
            work,
            fresh: W::REFILLED.then(|| bounded(workers * READY_PER_WORKER + 2)),
            refilling: Levelled::new(()),
            returned: Levelled::new(VecDeque::new()),
            backoff: Levelled::new(BinaryHeap::new()),
            seats: (0..workers)
                .map(|_| Seat { seat: core::Seat::new(), tally: Tally::new(), begun: Counter::new() })
                .collect(),
            workers,
            steps: Levelled::new(HashMap::new()),
            has_steps: AtomicBool::new(false),
        }
    }

    /// The item has ended: its steps have served.
    #[inline]
    pub(super) fn forget_steps(&self, seq: u64) {
        if self.has_steps.load(Ordering::Relaxed) {
            self.steps.lock().remove(&seq);
        }
    }

    /// Items that have begun, each counted once however often it was tried.
    pub(super) fn begun(&self) -> u64 {
        self.seats.iter().map(|seat| seat.begun.get()).sum()
    }

    /// The loop. Takes items from the seat's word until it is empty, and settles each.
    fn run(
        &self,
        shared: &Arc<Shared>,
        shell: &Arc<Shell>,
        me: &mut WorkerState,
        entry: Entry<W::Chunk>,
    ) -> Fate {
        let core = &shell.core;
        let clock = &shared.clock;
        let slot = Arc::clone(&me.slot);
        let id = slot.id;
        let seat = &self.seats[id];
        let Entry { chunk, range, history } = entry;
        let several = range.len() > 1;
        let mut came_back = history.is_some();
        // What earlier processes lost is no try of this one.
        let is_first = history.as_ref().is_none_or(|history| history.is_first());

        let start = clock.raw();
        let demand = core.gate.demand(core);
        me.in_hand = InHand::First;
        seat.tally.note(0, 0);
        let hand = Hand { chunk: chunk.clone(), since: start, demand, history };
        let epoch = seat.seat.arm(hand, range.clone());
        slot.enter_chunk(core.index(), several, start);
        self.work.in_hand(id, &chunk, &range);
        if several {
            shared.watch();
        }

        // Paused or stopped after we took the ticket: either who did it finds this chunk in hand, or we see it here.
        if seat.seat.look_again(|| core.is_held_back()) {
            self.take_back_seat(shared, shell, seat, u64::MAX);
        }

        let gated = !core.gate.is_open(&demand);
        me.held.fit(shared, &demand);
        let timeout = core.spec.item_timeout.map_or(0, |t| clock.raw_at(Timestamp::ZERO + t).max(1));
        let watched = timeout != 0 || core.spec.hang_after.is_some();
        if watched {
            shared.watch();
        }
        let may_abandon = core.spec.may_abandon;
        let budgeted = core.spec.retry.budget_share().is_some();
        let roomy =
            [core.spec.item_timeout, core.spec.hang_after].iter().flatten().all(|t| *t >= STRIDE_LIMIT);
        let stride = match core.predicted.load(Ordering::Relaxed) {
            predicted @ 1..STRIDE_NANOS if roomy => (STRIDE_NANOS / predicted) as u32,
            _ => 1,
        };
        let mut ticked = shared.ticker.recent();

        let mut ctx = Context {
            shared: Arc::clone(shared),
            slot: Arc::clone(&slot),
            shell: Arc::clone(shell),
            run: Epoch::default(),
            seq: 0,
            outer: None,
            key: None,
            tries: 0,
            lost: 0,
            deferrals: 0,
            epoch: 1,
            deadline_raw: 0,
            effects: Levelled::new(Vec::new()),
            has_locked: AtomicBool::new(false),
            bill: Levelled::default(),
        };
        // What is counted later is not counted here.
        let counted = u64::from(!self.work.settles_later());
        let refusable = self.work.may_refuse();
        let mut fate = Fate::GoOn;
        let mut now = start;
        let mut ran: u64 = 0;
        let mut settled: u64 = 0;
        let mut done: u64 = 0;
        let mut failures: u64 = 0;
        let mut untimed: u32 = 0;
        let mut published = start;
        let publish_after = clock.raw_at(Timestamp::ZERO + PUBLISH_AFTER);

        while let Some(at) = seat.seat.next(epoch) {
            me.in_hand = InHand::Item(at);
            if gated {
                match core.gate.admit(shared, shell, &demand, &mut me.held, ctx.bill.get_mut(), now) {
                    Admission::Go => {}
                    Admission::Blocked => {
                        self.put_off(shared, shell, me, &chunk, at);
                        break;
                    }
                    Admission::Never(why) => {
                        self.put_off(shared, shell, me, &chunk, at);
                        shared.halt(shell, HaltReason::Impossible { demand: why });
                        break;
                    }
                }
            }
            if came_back
                && let Some(history) = seat.seat.hand().as_ref().and_then(|hand| hand.history.as_ref())
            {
                ctx.tries = history.tries + history.lost;
                ctx.lost = history.lost;
                ctx.deferrals = history.deferrals;
                ctx.epoch = history.epoch;
            }
            ctx.seq = self.work.seq(&chunk, at);
            ctx.key = self.work.key(&chunk, at);
            ctx.deadline_raw = if timeout == 0 { 0 } else { now.saturating_add(timeout) };
            if W::REFILLED
                && let Some(queued) = self.work.queued(&chunk, at)
            {
                me.recorder.record_wait((clock.at_raw(now) - queued).as_nanos() as u64);
            }
            if budgeted && (is_first || !came_back) {
                seat.begun.add(1);
            }
            ctx.run = slot.begin(at, now, ctx.deadline_raw, may_abandon);
            if ctx.has_effects() {
                ctx.take_effects(); // of an attempt that failed
            }
            let result = caught(|| with_item(&ctx, || self.work.call(&chunk, at, &ctx)));
            ctx.give_back_locks();
            if !may_abandon {
                slot.end(ctx.run);
            } else if !slot.settle(ctx.run) {
                // The supervisor has the item, the seat with its tally and a successor for this thread. What came is
                // dropped; the permits were charged until now.
                me.in_hand = InHand::Lost;
                self.work.given_up(true);
                shared.came_late(core);
                shared.gate.returned(&slot, &mut me.held);
                drop_quietly(result);
                return Fate::Abandoned;
            }
            ran += 1;
            untimed += 1;
            let failed = !matches!(result, Ok(Ok(_)));
            failures += u64::from(failed);
            if untimed >= stride || failed || shared.ticker.recent() != ticked {
                let end = clock.raw();
                ticked = shared.ticker.recent();
                let nanos = clock.at_raw(end.saturating_sub(now)).as_nanos();
                me.recorder.record_run_many(nanos / u64::from(untimed), u64::from(untimed));
                now = end;
                untimed = 0;
            }
            ctx.tell_rates(&result);
            match result {
                Ok(Ok(out)) => {
                    let ended = self.ended_item(shared, &chunk, at, ctx.tries + 1, slot.since(), now);
                    if refusable || ctx.has_effects() {
                        self.work.keep_with(id, &chunk, at, out, ended, ctx.take_effects());
                    } else {
                        self.work.keep(id, &chunk, at, Ok(out), ended);
                    }
                    self.forget_steps(ctx.seq);
                    settled += counted;
                    done += counted;
                }
                Ok(Err(failure)) => {
                    let (history, verdict) = (take_history(seat), Verdict::Failed(failure));
                    let attempt = FailedAttempt { seat: id, chunk: &chunk, at, history, verdict, now };
                    settled += self.failed(shared, shell, me, attempt);
                }
                Err((message, place)) => {
                    let (history, verdict) = (take_history(seat), Verdict::Panicked { message, place });
                    let attempt = FailedAttempt { seat: id, chunk: &chunk, at, history, verdict, now };
                    settled += self.failed(shared, shell, me, attempt);
                    // Its thread-locals may be in any state: the rest goes back, a new thread takes the place.
                    self.take_back_seat(shared, shell, seat, u64::MAX);
                    fate = Fate::Replace;
                    break;
                }
            }
            me.in_hand = InHand::Between;
            seat.tally.note(settled, done);
            if came_back {
                came_back = false;
                ctx.tries = 0;
                ctx.lost = 0;
                ctx.deferrals = 0;
                ctx.epoch = 1;
            }
            if W::REFILLED && now - published > publish_after {
                self.work.publish(id);
                seat.tally.note(0, 0);
                shared.settled(shell, settled, done);
                (settled, done, published) = (0, 0, now);
            }
        }

        if untimed > 0 {
            let end = clock.raw();
            let nanos = clock.at_raw(end.saturating_sub(now)).as_nanos();
            me.recorder.record_run_many(nanos / u64::from(untimed), u64::from(untimed));
            now = end;
        }
        seat.seat.leave();
        self.work.off_hand(id);
        slot.leave_chunk();
        me.held.release(shared);
        if ran > 0 {
            let took = clock.at_raw(now.saturating_sub(start));
            let known = core.predicted.load(Ordering::Relaxed);
            let items = u32::try_from(ran).unwrap_or(u32::MAX);
            core.predicted.store(policy::chunk_size::learn(known, took.as_nanos(), items), Ordering::Relaxed);
            shared.charge(core, ran);
            slot.counters.chunks.add(1);
            slot.counters.completed.add(ran - failures);
            slot.counters.busy_ns.add(took.as_nanos());
            core.served.store(clock.at_raw(now).as_nanos(), Ordering::Relaxed);
        }
        me.recorder.pour_also(&core.latency);
        self.work.publish(id);
        me.in_hand = InHand::Between;
        seat.tally.note(0, 0);
        shared.settled(shell, settled, done);
        fate
    }

    pub(super) fn ended_item(
        &self,
        shared: &Shared,
        chunk: &W::Chunk,
        at: u32,
        attempts: u32,
        since: u64,
        now: u64,
    ) -> Ended {
        if !W::REFILLED {
            return Ended { attempts, run_time: Duration::ZERO, queued_time: Duration::ZERO };
        }
        let began = shared.clock.at_raw(since);
        let queued_time = self.work.queued(chunk, at).map_or(Duration::ZERO, |queued| began - queued);
        Ended { attempts, run_time: shared.clock.at_raw(now) - began, queued_time }
    }

    /// The gate held an item up: it and the rest of its chunk go back, the item first.
    #[cold]
    fn put_off(&self, shared: &Shared, shell: &Arc<Shell>, me: &mut WorkerState, chunk: &W::Chunk, at: u32) {
        let seat = &self.seats[me.slot.id];
        let history = take_history(seat);
        self.take_back_seat(shared, shell, seat, u64::MAX);
        me.in_hand = InHand::Between;
        self.give_back(shared, shell, [Entry { chunk: chunk.clone(), range: at..at + 1, history }]);
    }

    pub(super) fn take_back_seat(
        &self,
        shared: &Shared,
        shell: &Arc<Shell>,
        seat: &Seat<W::Chunk>,
        before: u64,
    ) {
        // An item with a history is alone in its chunk: taken back, it has not begun, and keeps what it has behind it.
        let taken = seat
            .seat
            .take_back(|hand| hand.since <= before, |hand| (hand.chunk.clone(), hand.history.take()));
        let Some(((chunk, history), range)) = taken else { return };
        let entry = Entry { chunk, range, history };
        self.give_back(shared, shell, [entry]);
    }
}

fn take_history<C>(seat: &Seat<C>) -> Option<Box<History>> {
    seat.seat.hand().as_mut().and_then(|hand| hand.history.take())
}

impl<W: Work> LaneBody for Body<W> {
    fn serve(&self, shared: &Arc<Shared>, shell: &Arc<Shell>, me: &mut WorkerState) -> Fate {
        let Some(entry) = self.pop(shared, shell) else {
            me.held.release(shared);
            return Fate::GoOn;
        };
        let mut entry = Some(entry);
        let served = caught(|| {
            self.fill(shared, shell);
            entry.take().map(|entry| self.run(shared, shell, me, entry))
        });
        match served {
            Ok(fate) => fate.unwrap_or(Fate::GoOn),
            Err(panic) => self.recover(shared, shell, me, entry, panic),
        }
    }

    fn refill(&self, shared: &Shared, shell: &Arc<Shell>) {
        self.fill(shared, shell);
    }

    fn take_back(&self, shared: &Shared, shell: &Arc<Shell>, before: u64) {
        for (id, seat) in self.seats.iter().enumerate() {
            if seat.seat.glance() {
                self.take_back_seat(shared, shell, seat, before);
            }
            self.work.publish(id);
        }
    }

    fn take_back_from(&self, shared: &Shared, shell: &Arc<Shell>, worker: usize) {
        self.take_back_seat(shared, shell, &self.seats[worker], u64::MAX);
    }

    fn due(&self, shared: &Shared, shell: &Arc<Shell>, now: Timestamp) {
        self.take_due(shared, shell, now);
        if let Some(next) = self.work.due(now) {
            shared.schedule(next, shell);
        }
        if self.work.settles_later() {
            self.fill_one(shared, shell);
        }
    }

    fn kick(&self, shared: &Shared, shell: &Arc<Shell>) {
        self.fill_one(shared, shell);
    }

    fn end(&self, status: &str) -> bool {
        self.work.end(status)
    }

    fn submit_child(
        &self,
        shared: &Shared,
        shell: &Arc<Shell>,
        item: Box<dyn Any>,
        parent: u64,
    ) -> Result<(), ChildError> {
        let core = &shell.core;
        // Its parent is open: the lane does not end before this is counted.
        core.counts.open.add(1);
        core.counts.submitted.add(1);
        let taken = self.work.append_child(item, parent);
        if !matches!(taken, Ok(true)) {
            core.counts.submitted.sub(1);
            shared.settled(shell, 1, 0);
        } else if core.may_have_missed_a_stop() {
            self.drop_all(shared, shell);
        } else {
            self.fill(shared, shell);
        }
        taken.map(drop)
    }

    fn refused(&self, shared: &Shared, shell: &Arc<Shell>, origin: &(dyn Any + Send), failure: Failure) {
        let Some((chunk, at)) = self.work.chunk_of(origin) else { return };
        let history = self.work.past(&chunk).map(|past| Box::new(History::of(past)));
        // No worker has it in hand: any place serves to settle it from.
        let slot = Arc::clone(&shared.slots[0].lock());
        let mut me = WorkerState::stand_in(&slot, shared.nanos());
        let now = shared.clock.raw();
        let verdict = Verdict::Refused(failure);
        let attempt = FailedAttempt { seat: 0, chunk: &chunk, at, history, verdict, now };
        let settled = self.failed(shared, shell, &mut me, attempt);
        self.work.publish(0);
        shared.settled(shell, settled, 0);
    }

    #[cfg(feature = "cli")]
    fn number(&self, seq: u64) -> Option<i64> {
        self.work.number(seq)
    }

    fn step(&self, seq: u64, name: &str) -> Result<Option<String>, Arc<JournalError>> {
        match self.work.step(seq, name) {
            Some(found) => found,
            None => Ok(self.steps.lock().get(&seq).and_then(|steps| steps.get(name).cloned())),
        }
    }

    fn keep_step(&self, seq: u64, epoch: u32, name: &str, output: &str) -> Kept {
        if self.work.step(seq, name).is_some() {
            return self.work.keep_step(seq, epoch, name, output);
        }
        self.has_steps.store(true, Ordering::Relaxed);
        self.steps.lock().entry(seq).or_default().insert(name.to_owned(), output.to_owned());
        Box::new(|| Ok(true))
    }

    fn clear(&self, shared: &Shared, shell: &Arc<Shell>) {
        self.drop_all(shared, shell);
    }

    fn abandon(&self, shared: &Arc<Shared>, shell: &Arc<Shell>, slot: &Arc<Slot>, at: u32, hung: bool) {
        let worker = slot.id;
        let seat = &self.seats[worker];
        self.take_back_seat(shared, shell, seat, u64::MAX);
        let Some((Hand { chunk, history, .. }, _)) = seat.seat.lose() else { return };
        // First: it is not alone in hand, who is in hand beside it.
        self.work.given_up(false);
        self.work.off_hand(worker);
        let (before, done) = seat.tally.read();
        let mut me = WorkerState::stand_in(slot, shared.nanos());
        let attempt = FailedAttempt {
            seat: worker,
            chunk: &chunk,
            at,
            history,
            verdict: Verdict::Abandoned { hung },
            now: shared.clock.raw(),
        };
        let settled = self.failed(shared, shell, &mut me, attempt);
        self.work.publish(worker);
        shared.settled(shell, before + settled, done);
        // The worker may have come back meanwhile: then this is the last hold on the user's items.
        drop_quietly(chunk);
    }

    fn demand_in_hand(&self, worker: usize) -> Demand {
        self.seats[worker].seat.hand().as_ref().map_or(Demand::new(), |hand| hand.demand)
    }

    fn key_in_hand(&self, worker: usize, at: u32) -> Option<Key> {
        let hand = self.seats[worker].seat.hand();
        hand.as_ref().and_then(|hand| self.work.key(&hand.chunk, at))
    }

    fn ended(&self, report: &Report) {
        self.work.ended(report);
    }
}
