//! One batch's rows in a journal, typed: what is claimed, what is next.
//!
//! Blocking, under one short latch that is never held over a call to the outside. Every row is in exactly one place:
//!
//! | where | what it is | leaves by |
//! |---|---|---|
//! | `incoming`, then the writer | submitted, not committed | [`appended`](super::incoming) |
//! | the table, counted in `unclaimed` | nobody has claimed it | a claim by the order of submission |
//! | `later`, `due` | waits for its next attempt's time; the time has come | a claim by name |
//! | `suspects` | was in hand when a process died | a claim by name, one at a time for the whole journal |
//! | `ready` | its claim is committed | [`Store::claim`], to the engine |
//! | the engine, counted in `in_flight` | claimed, not settled | a committed outcome or retry; `unclaim` |
//!
//! A page of claims is asked for as soon as fewer than half of the last one are left, so that a worker does not wait
//! for a commit. How large a page is follows from how often they did: it doubles when somebody found nothing.

use super::batch::Opened;
use super::claim::{Claim as ClaimOp, Claimed};
use super::error::JournalError;
use super::incoming::Incoming;
use super::journal::{Journal, Member, Turn};
use super::rows::{Past as RowFate, RawItem, calmly, number, seq_of};
use crate::job::{AttemptError, AttemptKind, Dead, DeadItem, DeadReason, Duplicates, Key, Payload};
use crate::store::{
    AppendError, Appended, Claim, Earlier, Kept, Link, Order, Past, Reader, Retried, Row, RowPast, Settled,
    Store, Unsealed, WriteWith,
};
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, Condvar, Mutex, OnceLock};
use crate::time::{Clock, Timestamp, millis, wall_ms};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::marker::PhantomData;
use std::time::Duration;

/// Claimed rows that are not settled: beyond this nothing more is claimed.
const MOST_IN_FLIGHT: usize = 8_192;
/// Rows of one claim at the most.
const MOST_CLAIMED: usize = 1_024;
/// How soon a suspect looks again whether it has the journal to itself.
const LOOK_AGAIN: Duration = millis(5);

/// One batch of an open journal.
pub(crate) struct JournalStore<I, O> {
    pub(super) journal: Arc<Journal>,
    pub(super) batch: i64,
    pub(super) opening: u64,
    pub(super) clock: Clock,
    pub(super) link: OnceLock<Arc<dyn Link>>,
    pub(super) state: Mutex<State<I>>,
    /// Woken when what was submitted has been written.
    pub(super) written: Condvar,
    pub(super) steps: Mutex<std::collections::HashSet<u64>>,
    pub(super) group: OnceLock<WriteWith<O>>,
    /// Rows that the engine has claimed and whose outcome is not committed.
    pub(super) in_flight: AtomicUsize,
    /// Workers that have a chunk of it in hand.
    in_hand: AtomicUsize,
    /// Suspects of this batch that have not ended.
    suspects_left: AtomicU64,
    out: PhantomData<fn() -> O>,
}

/// See the head of the file.
pub(super) struct State<I> {
    pub(super) incoming: Incoming<I>,
    pub(super) unclaimed: u64,
    pub(super) later: BinaryHeap<Reverse<(Timestamp, i64)>>,
    pub(super) due: Vec<i64>,
    pub(super) suspects: VecDeque<i64>,
    pub(super) ready: VecDeque<Ready<I>>,
    /// A claim is on its way.
    claiming: bool,
    page: usize,
    /// Nothing more is claimed.
    pub(super) stopped: bool,
    pub(super) closed: bool,
    pub(super) failed: Option<Arc<JournalError>>,
}

/// A claimed row: as it was submitted just now, or as it lies in the table.
pub(super) enum Ready<I> {
    Typed(Row<I>),
    Raw(RawItem),
}

impl<I> Ready<I> {
    fn is_suspect(&self) -> bool {
        matches!(self, Ready::Raw(raw) if raw.is_suspect())
    }

    fn has_past(&self) -> bool {
        matches!(self, Ready::Raw(raw) if raw.past.is_some())
    }
}

impl<I> State<I> {
    /// How many more rows may be claimed with their writing, since nothing waits before them.
    pub(super) fn claim_room(&self, in_flight: usize) -> usize {
        let nothing_waits = self.unclaimed == 0 && self.due.is_empty() && self.suspects.is_empty();
        let open = !self.stopped && !self.claiming && in_flight + self.ready.len() < MOST_IN_FLIGHT;
        if nothing_waits && open { (self.page * 2).saturating_sub(self.ready.len()) } else { 0 }
    }
}

impl<I: Payload, O: Payload> JournalStore<I, O> {
    pub(crate) fn new(journal: &Arc<Journal>, opened: &Opened, workers: usize, clock: &Clock) -> Arc<Self> {
        let store = Arc::new(JournalStore {
            journal: Arc::clone(journal),
            batch: opened.id,
            opening: opened.opening,
            clock: clock.clone(),
            link: OnceLock::new(),
            state: Mutex::new(State {
                incoming: Incoming::new(opened.run),
                unclaimed: opened.unclaimed,
                later: BinaryHeap::new(),
                due: Vec::new(),
                suspects: VecDeque::new(),
                ready: VecDeque::new(),
                claiming: false,
                page: workers.max(2),
                stopped: false,
                closed: false,
                failed: None,
            }),
            written: Condvar::new(),
            steps: Mutex::new(std::collections::HashSet::new()),
            group: OnceLock::new(),
            in_flight: AtomicUsize::new(0),
            in_hand: AtomicUsize::new(0),
            suspects_left: AtomicU64::new(0),
            out: PhantomData,
        });
        let member: Arc<dyn Member> = Arc::clone(&store) as _;
        journal.enter(&member);
        store
    }

    /// From now on the engine is told. Items of earlier runs may be claimed then.
    pub(crate) fn link(self: &Arc<Self>, link: Arc<dyn Link>, again: &[(i64, RowFate)]) {
        let _ = self.link.set(link);
        let waiting = {
            let mut state = self.state.lock();
            again.iter().filter(|(id, past)| self.put_by(&mut state, *id, past)).count()
        };
        self.told().waiting(waiting as i64);
        self.told().kick();
        if let Some(due) = self.due(self.clock.now()) {
            self.told().kick_at(due);
        }
    }

    pub(super) fn told(&self) -> &dyn Link {
        &**self.link.get().expect("a store is linked before anything is claimed or submitted")
    }

    /// Puts an item that has something behind it where it waits. True: it waits for its time.
    pub(super) fn put_by(&self, state: &mut State<I>, id: i64, past: &RowFate) -> bool {
        if past.suspect {
            state.suspects.push_back(id);
            self.suspects_left.fetch_add(1, Ordering::AcqRel);
            self.journal.suspect(1);
            return false;
        }
        // The wall clock of another time: a wait that has grown longer than a day is one that it jumped over.
        let left = past.due_ms.saturating_sub(wall_ms() as i64).clamp(0, 86_400_000) as u64;
        state.later.push(Reverse((self.clock.now() + Duration::from_millis(left), id)));
        true
    }

    /// Asks for more claims, if there is a reason to.
    pub(super) fn top_up(self: &Arc<Self>, state: &mut State<I>) {
        if state.claiming || state.stopped || state.failed.is_some() {
            return;
        }
        let mut claim = ClaimOp {
            batch: self.batch,
            owner: self.journal.owner(),
            ids: Vec::new(),
            max: 0,
            told: Arc::clone(self) as _,
            found: Vec::new(),
            more: false,
        };
        if let Some(id) = state.suspects.front() {
            match self.journal.turn(self.batch, self.link.get().is_some_and(|link| link.stands_still())) {
                Turn::Yours => {
                    claim.ids.push(*id);
                    state.suspects.pop_front();
                    state.claiming = true;
                    self.journal.send(claim);
                }
                Turn::Taken => {}
                Turn::Later => self.told().kick_at(self.clock.now() + LOOK_AGAIN),
            }
            return;
        }
        let enough =
            state.ready.len() * 2 > state.page || self.in_flight() + state.ready.len() >= MOST_IN_FLIGHT;
        if enough || (state.unclaimed == 0 && state.due.is_empty()) {
            return;
        }
        let due = state.due.len().min(state.page);
        claim.ids.extend(state.due.drain(..due));
        claim.max = if state.unclaimed > 0 { state.page } else { 0 };
        state.claiming = true;
        self.journal.send(claim);
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// A suspect that had its turn has ended, or will not run.
    pub(super) fn suspect_goes(&self) {
        less(&self.suspects_left, 1);
        self.journal.suspect_done();
    }

    /// Suspects that have not had their turn will not run.
    fn suspects_go(&self, fewer: u64) {
        less(&self.suspects_left, fewer);
        self.journal.unsuspect(fewer);
    }

    /// Rows whose outcome is committed, or that were given back.
    pub(super) fn landed(&self, rows: usize) {
        // ORDERING: AcqRel: see `Journal::hand_out`.
        self.in_flight.fetch_sub(rows, Ordering::AcqRel);
    }

    fn typed(&self, ready: Ready<I>) -> Result<Row<I>, (i64, Key, Option<RowFate>, String)> {
        let raw = match ready {
            Ready::Typed(row) => return Ok(row),
            Ready::Raw(raw) => raw,
        };
        let key = Key::from(raw.key.as_str());
        if !raw.is_whole() {
            let why = format!("row {} of table item does not match its checksum", raw.id);
            return Err((raw.id, key, raw.past, why));
        }
        let item = match calmly(|| I::decode(&raw.payload)) {
            Ok(item) => item,
            Err(why) => return Err((raw.id, key, raw.past, why)),
        };
        let age = (wall_ms() as i64).saturating_sub(raw.queued_ms).max(0) as u64;
        let now = self.clock.now().as_nanos();
        let count = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
        let past = raw.past.map(|past| {
            Box::new(RowPast {
                epoch: count(past.epoch),
                tries: count(past.tries),
                lost: count(past.lost),
                deferrals: count(past.deferrals),
                suspect: past.suspect,
                errors: raw.errors,
            })
        });
        Ok(Row {
            seq: seq_of(raw.id),
            key,
            queued: Timestamp::from_nanos(now.saturating_sub(age.saturating_mul(1_000_000))),
            item,
            past,
        })
    }

    /// A row that cannot be read ends: dead, and the error names it.
    fn bury(self: &Arc<Self>, id: i64, key: Key, past: Option<RowFate>, why: String) {
        let error = AttemptError::new(0, AttemptKind::Fatal, why);
        let dead = Dead::new(DeadReason::Unreadable, 0, vec![error]);
        self.told().ended_before(0, 1, 0);
        let past = past
            .map(|past| Past { epoch: u32::try_from(past.epoch).unwrap_or(u32::MAX), suspect: past.suspect });
        let settled: Settled<O> = Settled {
            seq: seq_of(id),
            past,
            key,
            outcome: Err(dead),
            attempts: 0,
            run_time: Duration::ZERO,
            queued_time: Duration::ZERO,
            effects: None,
            origin: None,
        };
        self.settle_rows(&mut vec![settled]);
    }
}

impl<I: Payload, O: Payload> Claimed for JournalStore<I, O> {
    fn claimed(&self, items: Vec<RawItem>, more: bool) {
        let suspects = items.iter().filter(|raw| raw.is_suspect()).count();
        let by_name = items.iter().filter(|raw| raw.past.is_some()).count() - suspects;
        let count = items.len();
        let stopped = {
            let mut state = self.state.lock();
            state.claiming = false;
            let in_order = (count - by_name - suspects) as u64;
            state.unclaimed =
                if more || in_order == 0 { state.unclaimed.saturating_sub(in_order) } else { 0 };
            if !state.stopped {
                for raw in items {
                    if raw.is_suspect() {
                        state.ready.push_front(Ready::Raw(raw));
                    } else {
                        state.ready.push_back(Ready::Raw(raw));
                    }
                }
            }
            state.stopped
        };
        self.told().waiting(-(by_name as i64));
        if stopped {
            if suspects > 0 {
                self.suspect_goes();
            }
            // Those in order were counted as claimable when the batch was stopped; these were in no line then.
            self.told().cancelled((by_name + suspects) as u64);
            return;
        }
        self.told().kick();
    }

    fn lost(&self, named: usize, why: &Arc<JournalError>) {
        Member::failed(self, why);
        if named > 0 {
            self.told().cancelled(named as u64);
        }
    }
}

impl<I: Payload, O: Payload> Store<I, O> for Arc<JournalStore<I, O>> {
    fn append(
        &self,
        key: Key,
        item: I,
        bound: usize,
        duplicates: Duplicates,
        now: Timestamp,
    ) -> Result<Appended, AppendError<I>> {
        self.take_in(key, item, bound, duplicates, now)
    }

    fn append_child(
        &self,
        key: Key,
        item: I,
        bound: usize,
        parent: u64,
        now: Timestamp,
    ) -> Result<bool, AppendError<I>> {
        self.take_in_child(key, item, bound, parent, now)
    }

    fn has_room(&self, bound: usize) -> bool {
        let state = self.state.lock();
        state.incoming.len() < bound || state.failed.is_some()
    }

    fn seal(&self) {
        self.state.lock().incoming.sealed = true;
    }

    fn sealed(&self) -> Result<Earlier, Unsealed> {
        self.write_seal()
    }

    fn claim(&self, max: usize) -> Claim<I> {
        loop {
            let mut state = self.state.lock();
            let count = match state.ready.front() {
                Some(front) if front.has_past() => 1,
                _ => state.ready.iter().take(max.max(1)).take_while(|row| !row.has_past()).count(),
            };
            let free = !state.stopped
                && match state.ready.front() {
                    Some(front) if front.is_suspect() => {
                        // Its turn was decided when it was claimed.
                        self.in_flight.fetch_add(1, Ordering::AcqRel);
                        true
                    }
                    Some(_) => self.journal.hand_out(count, &self.in_flight),
                    None => false,
                };
            if !free {
                if state.ready.is_empty() && state.unclaimed > 0 {
                    // Somebody waits for a commit.
                    state.page = (state.page * 2).min(MOST_CLAIMED);
                }
                self.top_up(&mut state);
                return Claim::Empty;
            }
            let taken: Vec<Ready<I>> = state.ready.drain(..count).collect();
            let more = !state.ready.is_empty();
            self.top_up(&mut state);
            drop(state);
            let mut page = Vec::with_capacity(count);
            for ready in taken {
                match self.typed(ready) {
                    Ok(row) => page.push(row),
                    Err((id, key, past, why)) => self.bury(id, key, past, why),
                }
            }
            if !page.is_empty() {
                return Claim::Page { page: Arc::new(page), more };
            }
        }
    }

    fn in_hand(&self, worker: usize, first: u64, last: u64) {
        let id = |seq: u64| number(self.batch, seq as i64);
        // ORDERING: AcqRel: see `Journal::hand_out`.
        self.in_hand.fetch_add(1, Ordering::AcqRel);
        self.journal.note_in_hand(worker, id(first), id(last));
    }

    fn off_hand(&self, worker: usize) {
        self.journal.note_off_hand(worker);
        self.in_hand.fetch_sub(1, Ordering::AcqRel);
    }

    fn unclaim(&self, rows: usize, suspect: bool) {
        self.landed(rows);
        if suspect {
            self.suspect_goes();
        }
    }

    fn waiting(&self) -> usize {
        let state = self.state.lock();
        state.ready.len() + state.unclaimed as usize + state.due.len() + state.suspects.len()
    }

    fn settles_later(&self) -> bool {
        true
    }

    fn write_with(&self, write: WriteWith<O>) {
        let _ = self.group.set(write);
    }

    fn may_refuse(&self) -> bool {
        self.group.get().is_some()
    }

    fn settle(&self, settled: &mut Vec<Settled<O>>) {
        self.settle_rows(settled);
    }

    fn again(&self, item: &Retried) -> bool {
        self.put_again(item);
        true
    }

    fn due(&self, now: Timestamp) -> Option<Timestamp> {
        let mut state = self.state.lock();
        while state.later.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            if let Some(Reverse((_, id))) = state.later.pop() {
                state.due.push(id);
            }
        }
        self.top_up(&mut state);
        state.later.peek().map(|Reverse((due, _))| *due)
    }

    fn end(&self, status: &str) -> bool {
        self.write_end(status);
        true
    }

    fn close(&self) {
        self.state.lock().closed = true;
    }

    fn own_reader(&self, order: Order, from: u64) -> Option<Box<dyn Reader<O>>> {
        Some(Box::new(super::reader::JournalReader::new(Arc::clone(self), order, from)))
    }

    fn dead(&self) -> Result<Vec<DeadItem>, Arc<JournalError>> {
        self.read_dead()
    }

    fn discard_unread(&self) {}

    fn drop_waiting(&self) -> usize {
        let (count, suspects, suspect_ready, backing_off) = {
            let mut state = self.state.lock();
            state.stopped = true;
            let incoming = state.incoming.drop_unsent();
            let ready = state.ready.len();
            let suspect_ready = state.ready.iter().filter(|row| row.is_suspect()).count();
            state.ready.clear();
            let waiting =
                state.unclaimed as usize + state.later.len() + state.due.len() + state.suspects.len();
            let suspects = state.suspects.len();
            let backing_off = state.later.len() + state.due.len();
            state.unclaimed = 0;
            state.later.clear();
            state.due.clear();
            state.suspects.clear();
            (incoming + ready + waiting, suspects, suspect_ready, backing_off)
        };
        self.written.notify_all();
        if let Some(link) = self.link.get() {
            link.waiting(-(backing_off as i64));
        }
        self.suspects_go(suspects as u64);
        // Claimed, so it had its turn.
        (0..suspect_ready).for_each(|_| self.suspect_goes());
        count
    }

    #[cfg(feature = "cli")]
    fn number(&self, seq: u64) -> Option<i64> {
        Some(number(self.batch, seq as i64))
    }

    fn step(&self, seq: u64, name: &str) -> Option<Result<Option<String>, Arc<JournalError>>> {
        Some(self.read_step(seq, name))
    }

    fn keep_step(&self, seq: u64, epoch: u32, name: &str, output: &str) -> Kept {
        self.write_step(seq, epoch, name, output)
    }
}

impl<I: Payload, O: Payload> Member for JournalStore<I, O> {
    fn kick_soon(&self) {
        if let Some(link) = self.link.get() {
            link.kick_at(self.clock.now());
        }
    }

    fn closed(&self, why: &Arc<JournalError>) {
        self.state.lock().failed.get_or_insert_with(|| Arc::clone(why));
        self.written.notify_all();
    }

    fn batch(&self) -> i64 {
        self.batch
    }

    fn has_suspects_to_run(&self) -> bool {
        let stands_still = || self.link.get().is_some_and(|link| link.stands_still());
        self.suspects_left.load(Ordering::Acquire) > 0 && !stands_still()
    }

    fn is_busy(&self) -> bool {
        // What a lane that stands still has claimed does not start before it goes on.
        let stands_still = || self.link.get().is_some_and(|link| link.stands_still());
        self.in_hand.load(Ordering::Acquire) > 0 || (self.in_flight() > 0 && !stands_still())
    }

    fn stalled(&self, stalled: bool) {
        if let Some(link) = self.link.get() {
            link.stalled(stalled);
        }
    }

    fn failed(&self, why: &Arc<JournalError>) {
        let first = {
            let mut state = self.state.lock();
            state.claiming = false;
            state.failed.replace(Arc::clone(why)).is_none()
        };
        self.written.notify_all();
        if first && let Some(link) = self.link.get() {
            link.failed(why);
        }
    }

    fn link(&self) -> Option<Arc<dyn Link>> {
        self.link.get().cloned()
    }

    fn come_back(&self, items: &[(i64, RowFate)]) {
        self.take_back(items);
    }

    fn control(&self, batch: i64, verb: &str) -> Option<String> {
        let link = self.link.get().filter(|_| batch == self.batch)?;
        Some(link.control(verb))
    }
}

/// Subtracts, and stops at zero.
fn less(count: &AtomicU64, by: u64) {
    let mut now = count.load(Ordering::Relaxed);
    while let Err(seen) =
        count.compare_exchange_weak(now, now.saturating_sub(by), Ordering::AcqRel, Ordering::Relaxed)
    {
        now = seen;
    }
}
