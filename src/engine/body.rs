//! The typed part of a lane: what a batch's work is to it, and the loop that runs a chunk.
//!
//! What waits in the lane is in `entries`, what becomes of a failed item in `verdict`.
//!
//! A worker's *seat* in the lane holds the chunk it has in hand. Its word (`next | end | epoch`) is where the owner
//! takes the next item and others take back the rest; the seat's latch is held while the word is armed and while
//! somebody takes back, so whoever takes back knows the chunk that the word speaks of.

use super::context::Context;
use super::entries::{Entry, Later};
use super::gate::Admission;
use super::lane::{Ending, LaneBody, Shell};
use super::shared::Shared;
use super::slot::Slot;
use super::verdict::{History, Verdict};
use super::worker::{Fate, WorkerState, caught, drop_quietly, with_item};
use crate::core::attempt::Epoch;
use crate::core::chunk::Chunk as ChunkWord;
use crate::core::waitlist::Demand;
use crate::job::{Dead, Failure, HaltReason, Key, Report};
use crate::policy;
use crate::sync::atomic::{AtomicU64, Ordering, fence};
use crate::sync::{Arc, Mutex};
use crate::time::{Timestamp, millis, secs};
use crossbeam::channel::{Receiver, Sender, bounded};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;
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

/// What an ended item leaves behind besides its outcome.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) attempts: u32,
    pub(crate) run_time: Duration,
    pub(crate) queued_time: Duration,
}

/// The batch as its lane needs it: where chunks come from, what runs an item, where outcomes go.
pub(crate) trait Work: Send + Sync {
    /// A handle on the items of one chunk.
    type Chunk: Clone + Send;
    type Out: Send;
    /// Fresh entries come through a channel that is refilled from a store. Otherwise a ticket claims directly.
    const REFILLED: bool;

    /// Takes up to `max` items, in order: the chunk, their number, and whether there are more.
    fn claim(&self, max: usize) -> Option<(Self::Chunk, u32, bool)>;
    /// Items that wait to be claimed.
    fn unclaimed(&self) -> usize;
    /// Runs one item.
    fn call(&self, chunk: &Self::Chunk, at: u32, ctx: &Context) -> Result<Self::Out, Failure>;
    fn seq(&self, chunk: &Self::Chunk, at: u32) -> u64;
    /// The item's key, where it has one of its own.
    fn key(&self, chunk: &Self::Chunk, at: u32) -> Option<Key>;
    /// When it was submitted, where that is known.
    fn queued(&self, chunk: &Self::Chunk, at: u32) -> Option<Timestamp>;
    /// Takes an outcome of this seat; it need not be visible before [`publish`](Work::publish).
    fn keep(&self, seat: usize, chunk: &Self::Chunk, at: u32, outcome: Result<Self::Out, Dead>, ended: Ended);
    /// Makes the seat's outcomes visible.
    fn publish(&self, seat: usize);
    /// Drops what waits to be claimed; how many items that were.
    fn drop_unclaimed(&self, reason: &Ending) -> usize;
    /// The lane was cancelled before these items ran (`map` owes its caller a result for each).
    fn cancelled(&self, chunk: &Self::Chunk, range: Range<u32>, reason: &Ending);
    fn ended(&self, report: &Report);
}

pub(super) struct Seat<C> {
    word: ChunkWord,
    hand: Mutex<Option<Hand<C>>>,
    tally: Tally,
}

/// What the worker has settled of the chunk in hand and not told the lane yet: written before every item that may be
/// abandoned, so that whoever takes the item away can tell the lane in the worker's stead.
struct Tally {
    settled: AtomicU64,
    done: AtomicU64,
}

impl Tally {
    fn new() -> Self {
        Self { settled: AtomicU64::new(0), done: AtomicU64::new(0) }
    }

    /// Published with the attempt, by the Release in `Slot::begin`.
    #[inline(always)]
    fn note(&self, settled: u64, done: u64) {
        self.settled.store(settled, Ordering::Relaxed);
        self.done.store(done, Ordering::Relaxed);
    }

    fn read(&self) -> (u64, u64) {
        (self.settled.load(Ordering::Relaxed), self.done.load(Ordering::Relaxed))
    }
}

/// What a worker has in hand.
struct Hand<C> {
    chunk: C,
    since: u64,
    /// What each of its items holds while it runs.
    demand: Demand,
    history: Option<Box<History>>,
}

/// The typed part of a lane.
pub(crate) struct Body<W: Work> {
    pub(crate) work: W,
    pub(super) fresh: Option<(Sender<Entry<W::Chunk>>, Receiver<Entry<W::Chunk>>)>,
    pub(super) refilling: Mutex<()>,
    pub(super) returned: Mutex<VecDeque<Entry<W::Chunk>>>,
    pub(super) backoff: Mutex<BinaryHeap<Reverse<Later<W::Chunk>>>>,
    pub(super) seats: Box<[Seat<W::Chunk>]>,
    pub(super) workers: usize,
}

impl<W: Work> Body<W> {
    pub(crate) fn new(work: W, workers: usize) -> Self {
        Self {
            work,
            fresh: W::REFILLED.then(|| bounded(workers * READY_PER_WORKER + 2)),
            refilling: Mutex::new(()),
            returned: Mutex::new(VecDeque::new()),
            backoff: Mutex::new(BinaryHeap::new()),
            seats: (0..workers)
                .map(|_| Seat { word: ChunkWord::new(), hand: Mutex::new(None), tally: Tally::new() })
                .collect(),
            workers,
        }
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

        let start = clock.raw();
        let demand = core.gate.demand(core);
        let epoch = {
            let mut hand = seat.hand.lock();
            *hand = Some(Hand { chunk: chunk.clone(), since: start, demand, history });
            seat.word.arm(range.start, range.end)
        };
        slot.enter_chunk(core.index(), several, start);
        if several {
            shared.watch();
        }

        // ORDERING: SeqCst with the fence in `Shared::take_hands_off`: either it finds this chunk in hand, or we see here that
        // the lane was paused or stopped after we took the ticket.
        fence(Ordering::SeqCst);
        if core.is_held_back() {
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
            key: None,
            tries: 0,
            deferrals: 0,
            deadline_raw: 0,
        };
        let mut fate = Fate::GoOn;
        let mut now = start;
        let mut ran: u64 = 0;
        let mut settled: u64 = 0;
        let mut done: u64 = 0;
        let mut failures: u64 = 0;
        let mut untimed: u32 = 0;
        let mut published = start;
        let publish_after = clock.raw_at(Timestamp::ZERO + PUBLISH_AFTER);

        while let Some(at) = seat.word.next(epoch) {
            if gated {
                match core.gate.admit(shared, shell, &demand, &mut me.held, now) {
                    Admission::Go => {}
                    Admission::Blocked => {
                        self.put_off(shared, shell, seat, &chunk, at);
                        break;
                    }
                    Admission::Never(why) => {
                        self.put_off(shared, shell, seat, &chunk, at);
                        shared.halt(shell, HaltReason::Impossible { demand: why });
                        break;
                    }
                }
            }
            if came_back
                && let Some(history) = seat.hand.lock().as_ref().and_then(|hand| hand.history.as_ref())
            {
                ctx.tries = history.tries;
                ctx.deferrals = history.deferrals;
            }
            ctx.seq = self.work.seq(&chunk, at);
            ctx.key = self.work.key(&chunk, at);
            ctx.deadline_raw = if timeout == 0 { 0 } else { now + timeout };
            if W::REFILLED
                && let Some(queued) = self.work.queued(&chunk, at)
            {
                me.recorder.record_wait((clock.at_raw(now) - queued).as_nanos() as u64);
            }
            if may_abandon {
                seat.tally.note(settled, done);
            }
            ctx.run = slot.begin(at, now, ctx.deadline_raw, may_abandon);
            let result = caught(|| with_item(&ctx, || self.work.call(&chunk, at, &ctx)));
            if !may_abandon {
                slot.end(ctx.run);
            } else if !slot.settle(ctx.run) {
                // The supervisor has the item, the seat with its tally and a successor for this thread. What came is
                // dropped; the permits were charged until now.
                shared.came_late(core);
                shared.gate.returned(shared, &slot, &mut me.held);
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
            match result {
                Ok(Ok(out)) => {
                    let ended = self.ended_item(shared, &chunk, at, ctx.tries + 1, slot.since(), now);
                    self.work.keep(id, &chunk, at, Ok(out), ended);
                    settled += 1;
                    done += 1;
                }
                Ok(Err(failure)) => {
                    let history = take_history(seat);
                    settled += self.failed(
                        shared,
                        shell,
                        me,
                        id,
                        &chunk,
                        at,
                        history,
                        Verdict::Failed(failure),
                        now,
                    );
                }
                Err((message, place)) => {
                    let history = take_history(seat);
                    let verdict = Verdict::Panicked { message, place };
                    settled += self.failed(shared, shell, me, id, &chunk, at, history, verdict, now);
                    // Its thread-locals may be in any state: the rest goes back, a new thread takes the place.
                    self.take_back_seat(shared, shell, seat, u64::MAX);
                    fate = Fate::Replace;
                    break;
                }
            }
            if came_back {
                came_back = false;
                ctx.tries = 0;
                ctx.deferrals = 0;
            }
            if W::REFILLED && now - published > publish_after {
                self.work.publish(id);
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
        seat.hand.lock().take();
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
    fn put_off(&self, shared: &Shared, shell: &Arc<Shell>, seat: &Seat<W::Chunk>, chunk: &W::Chunk, at: u32) {
        let history = take_history(seat);
        self.take_back_seat(shared, shell, seat, u64::MAX);
        self.give_back(shared, shell, [Entry { chunk: chunk.clone(), range: at..at + 1, history }]);
    }

    pub(super) fn take_back_seat(
        &self,
        shared: &Shared,
        shell: &Arc<Shell>,
        seat: &Seat<W::Chunk>,
        before: u64,
    ) {
        let mut hand = seat.hand.lock();
        let Some(in_hand) = hand.as_mut().filter(|hand| hand.since <= before) else { return };
        let Some((_, range)) = seat.word.take_back() else { return };
        // An item with a history is alone in its chunk: taken back, it has not begun, and keeps what it has behind it.
        let entry = Entry { chunk: in_hand.chunk.clone(), range, history: in_hand.history.take() };
        drop(hand);
        self.give_back(shared, shell, [entry]);
    }
}

fn take_history<C>(seat: &Seat<C>) -> Option<Box<History>> {
    seat.hand.lock().as_mut().and_then(|hand| hand.history.take())
}

impl<W: Work> LaneBody for Body<W> {
    fn serve(&self, shared: &Arc<Shared>, shell: &Arc<Shell>, me: &mut WorkerState) -> Fate {
        let Some(entry) = self.pop(shared, shell) else {
            me.held.release(shared);
            return Fate::GoOn;
        };
        self.fill(shared, shell);
        self.run(shared, shell, me, entry)
    }

    fn refill(&self, shared: &Shared, shell: &Arc<Shell>) {
        self.fill(shared, shell);
    }

    fn take_back(&self, shared: &Shared, shell: &Arc<Shell>, before: u64) {
        for (id, seat) in self.seats.iter().enumerate() {
            if seat.word.remaining() > 0 {
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
    }

    fn clear(&self, shared: &Shared, shell: &Arc<Shell>) {
        self.drop_all(shared, shell);
    }

    fn abandon(&self, shared: &Arc<Shared>, shell: &Arc<Shell>, slot: &Arc<Slot>, at: u32, hung: bool) {
        let worker = slot.id;
        let seat = &self.seats[worker];
        self.take_back_seat(shared, shell, seat, u64::MAX);
        let Some(hand) = seat.hand.lock().take() else { return };
        let (before, done) = seat.tally.read();
        let mut me = WorkerState::stand_in(slot, shared.nanos());
        let now = shared.clock.raw();
        let settled = self.failed(
            shared,
            shell,
            &mut me,
            worker,
            &hand.chunk,
            at,
            hand.history,
            Verdict::Abandoned { hung },
            now,
        );
        self.work.publish(worker);
        shared.settled(shell, before + settled, done);
    }

    fn demand_in_hand(&self, worker: usize) -> Demand {
        self.seats[worker].hand.lock().as_ref().map_or(Demand::new(), |hand| hand.demand)
    }

    fn key_in_hand(&self, worker: usize, at: u32) -> Option<Key> {
        let hand = self.seats[worker].hand.lock();
        hand.as_ref().and_then(|hand| self.work.key(&hand.chunk, at))
    }

    fn ended(&self, report: &Report) {
        self.work.ended(report);
    }
}
