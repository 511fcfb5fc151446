//! One batch's rows in a journal, typed: what is claimed, what is next.
//!
//! Blocking, under two short latches, one at a time, held over no call to the outside: what is submitted and not
//! committed ([`incoming`](super::incoming)), and all that comes after ([`Claims`], with the table of the places a row
//! can be in). What is on its way to the table (appends, claims, outcomes, retries) is with the writer, and comes back
//! by what is called after its commit.

use super::batch::Opened;
use super::claim::{Claim as ClaimOp, Claimed};
use super::error::JournalError;
use super::incoming::Incoming;
use super::journal::{Journal, Member, Snapshot};
use super::rows::{Past as RowFate, RawItem, calmly, number, seq_of};
use crate::core::claims::{Asker, Claims, Kind, Limits, Next};
use crate::core::turns::Side;
use crate::job::{AttemptError, AttemptKind, Dead, DeadItem, DeadReason, Duplicates, Key, Payload};
use crate::lock::{Levelled, house};
use crate::store::{
    AppendError, Appended, Claim, Earlier, Kept, Link, Order, Past, Reader, Retried, Row, RowPast, Settled,
    Store, Unsealed, WriteWith,
};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Arc, Condvar, OnceLock};
use crate::time::{Clock, Timestamp, millis, wall_ms};
use std::any::Any;
use std::marker::PhantomData;
use std::time::Duration;

/// Rows that are claimed and not settled: beyond this nothing more is claimed.
const MOST_OUT: usize = 8_192;
/// And their bytes, about: with payloads or outputs that are large, fewer rows are out.
const MOST_BYTES_OUT: usize = 64 << 20;
/// Rows after which a larger one before them is half forgotten.
const REMEMBERED: usize = 256;
/// Rows of one claim at the most.
const MOST_CLAIMED: usize = 1_024;
/// How soon who was refused looks again whose turn it is.
const LOOK_AGAIN: Duration = millis(5);

/// One batch of an open journal.
pub(crate) struct JournalStore<I, O> {
    pub(super) journal: Arc<Journal>,
    pub(super) batch: i64,
    pub(super) opening: u64,
    pub(super) clock: Clock,
    pub(super) link: OnceLock<Arc<dyn Link>>,
    pub(super) incoming: Levelled<Incoming<I>, house::Incoming>,
    /// Woken when what was submitted has been written.
    pub(super) written: Condvar,
    pub(super) claims: Claims<Ready<I>>,
    pub(super) closed: AtomicBool,
    pub(super) steps: Levelled<std::collections::HashSet<u64>, house::Stepped>,
    pub(super) group: OnceLock<WriteWith<O>>,
    /// Rows that could not be read, on their way to the writer.
    buried: Levelled<Vec<Settled<O>>, house::Buried>,
    /// Bytes of a payload, and of an output, as they were of late.
    mean_bytes: [AtomicUsize; 2],
    /// However large the rows are: every worker has one, and one before it.
    least_out: usize,
    /// When the next look comes whose turn it is.
    looks: Levelled<Timestamp, house::Looks>,
    out: PhantomData<fn() -> O>,
}

/// A claimed row: as it was submitted just now, or as it lies in the table.
pub(super) enum Ready<I> {
    Typed(Row<I>),
    Raw(RawItem),
}

impl<I: Payload, O: Payload> JournalStore<I, O> {
    pub(crate) fn new(journal: &Arc<Journal>, opened: &Opened, workers: usize, clock: &Clock) -> Arc<Self> {
        let limits = Limits { page: workers.max(2), most_page: MOST_CLAIMED, most_out: MOST_OUT };
        let store = Arc::new(JournalStore {
            journal: Arc::clone(journal),
            batch: opened.id,
            opening: opened.opening,
            clock: clock.clone(),
            link: OnceLock::new(),
            incoming: Levelled::new(Incoming::new(opened.run)),
            written: Condvar::new(),
            claims: Claims::new(limits, opened.unclaimed),
            closed: AtomicBool::new(false),
            steps: Levelled::new(std::collections::HashSet::new()),
            group: OnceLock::new(),
            buried: Levelled::new(Vec::new()),
            mean_bytes: [AtomicUsize::new(0), AtomicUsize::new(0)],
            least_out: workers.max(1) * 2,
            looks: Levelled::new(Timestamp::ZERO),
            out: PhantomData,
        });
        let member: Arc<dyn Member> = Arc::clone(&store) as _;
        journal.enter(&member);
        store
    }

    /// From now on the engine is told. Items of earlier runs may be claimed then.
    pub(crate) fn link(self: &Arc<Self>, link: Arc<dyn Link>, again: &[(i64, RowFate)]) {
        let _ = self.link.set(link);
        // Whoever failed the store before found no link.
        if let Some(why) = self.failed() {
            self.told().failed(&why);
        }
        self.wait_by_name(again);
        self.told().kick();
        if let Some(due) = self.look_what_is_due(self.clock.now()) {
            self.told().kick_at(due);
        }
    }

    /// Why nothing is written any more.
    pub(crate) fn failed(&self) -> Option<Arc<JournalError>> {
        self.incoming.lock().failed.clone()
    }

    pub(super) fn told(&self) -> &dyn Link {
        &**self.link.get().expect("a store is linked before anything is claimed or submitted")
    }

    /// Puts items that have something behind them where they wait.
    pub(super) fn wait_by_name(&self, items: &[(i64, RowFate)]) {
        let mut stopped = 0;
        for (id, past) in items {
            let put = if past.suspect {
                self.claims.suspect(*id, self.journal.turns())
            } else {
                // The wall clock of another time: a wait that has grown longer than a day is one that it jumped over.
                let left = past.due_ms.saturating_sub(wall_ms() as i64).clamp(0, 86_400_000) as u64;
                self.put_off(self.clock.now() + Duration::from_millis(left), *id)
            };
            stopped += u64::from(put.is_err());
        }
        if stopped > 0 {
            self.told().cancelled(stopped);
        }
    }

    /// An item waits for its time. It is counted as waiting before it can be claimed.
    pub(super) fn put_off(&self, due: Timestamp, id: i64) -> Result<(), ()> {
        self.told().waiting(1);
        let put = self.claims.put_off(due.as_nanos(), id);
        if put.is_err() {
            self.told().waiting(-1);
        }
        put
    }

    pub(super) fn look_what_is_due(self: &Arc<Self>, now: Timestamp) -> Option<Timestamp> {
        let mut buried = std::mem::take(&mut *self.buried.lock());
        if !buried.is_empty() {
            self.settle_rows(&mut buried);
        }
        let (next, ask) = self.claims.due(now.as_nanos(), &self.asker());
        self.go_on(ask);
        next.map(Timestamp::from_nanos)
    }

    fn stands_still(&self) -> bool {
        self.link.get().is_some_and(|link| link.stands_still())
    }

    fn asker(&self) -> Asker<'_, Snapshot> {
        Asker { turns: self.journal.turns(), sides: self.journal.sides(), still: self.stands_still() }
    }

    /// Does what a call to the claims left to do.
    fn go_on(self: &Arc<Self>, next: Next) {
        match next {
            Next::Nothing => {}
            Next::LookAgain => {
                let (now, mut looks) = (self.clock.now(), self.looks.lock());
                // One look is on its way at a time.
                if *looks <= now {
                    *looks = now + LOOK_AGAIN;
                    self.told().kick_at(*looks);
                }
            }
            Next::Send(ask) => self.journal.send(ClaimOp {
                batch: self.batch,
                opening: self.opening,
                owner: self.journal.owner(),
                ids: ask.names,
                max: ask.max,
                suspect: ask.suspect,
                told: Arc::clone(self) as _,
                found: Vec::new(),
                more: false,
            }),
        }
    }

    /// Rows whose outcome is committed, or that were given back. `suspects` of them had their turn.
    pub(super) fn landed(self: &Arc<Self>, rows: usize, suspects: usize) {
        if suspects > 0 {
            self.journal.turns().done(self.claims.side(), suspects as u64);
        }
        let next = self.claims.landed(rows, &self.asker());
        self.go_on(next);
        if suspects > 0 {
            self.journal.kick_all();
        }
    }

    /// So many rows of so many bytes were read, or will be written, or (`out`) have come out: how many may be out follows
    /// from the sum of both.
    pub(super) fn weigh(&self, out: bool, rows: usize, bytes: usize) {
        if rows == 0 {
            return;
        }
        let (there, other) = (&self.mean_bytes[usize::from(out)], &self.mean_bytes[usize::from(!out)]);
        let (mean, known) = (bytes / rows, there.load(Ordering::Relaxed));
        // Up at once; down by and by: what is out already was let out under the old mean.
        let less = (known.saturating_sub(mean)).saturating_mul(rows).div_ceil(rows + REMEMBERED);
        let now = if mean > known { mean } else { known - less };
        if now != known {
            there.store(now, Ordering::Relaxed);
            let both = now.saturating_add(other.load(Ordering::Relaxed)).max(1);
            self.claims.bound((MOST_BYTES_OUT / both).clamp(self.least_out, MOST_OUT));
        }
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
        // Whoever claims may hold the lane's latches: it is sent soon, not here.
        self.buried.lock().push(settled);
        self.told().kick_at(self.clock.now());
    }
}

impl<I: Payload, O: Payload> Claimed for JournalStore<I, O> {
    fn claimed(self: Arc<Self>, items: Vec<RawItem>, max: usize, more: bool, suspect: bool) {
        let suspects = usize::from(suspect);
        let by_name = items.iter().filter(|raw| raw.past.is_some()).count() - suspects.min(items.len());
        self.weigh(false, items.len(), items.iter().map(|raw| raw.payload.len()).sum());
        let kind = |raw: &RawItem| match &raw.past {
            None => Kind::Plain,
            Some(past) if past.suspect => Kind::Suspect,
            Some(_) => Kind::Named,
        };
        let rows = items.into_iter().map(|raw| (kind(&raw), Ready::Raw(raw))).collect();
        match self.claims.claimed(rows, max, more) {
            Ok(()) => {
                self.told().waiting(-(by_name as i64));
                self.told().kick();
            }
            // All of it was counted by who stopped the batch.
            Err(_) => self.landed(suspects, suspects),
        }
    }

    fn lost(self: Arc<Self>, suspect: bool, why: &Arc<JournalError>) {
        // The engine stops the batch, which counts these rows.
        Member::failed(&*self, why);
        if suspect {
            self.landed(1, 1);
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
        self.incoming.lock().has_room(bound)
    }

    fn seal(&self) {
        self.incoming.lock().sealed = true;
    }

    fn sealed(&self) -> Result<Earlier, Unsealed> {
        self.write_seal()
    }

    fn claim(&self, max: usize) -> Claim<I> {
        loop {
            let mut taken = Vec::new();
            let (found, next) = self.claims.take(max, &self.asker(), &mut taken);
            self.go_on(next);
            let Some(found) = found else { return Claim::Empty };
            let mut page = Vec::with_capacity(taken.len());
            for ready in taken {
                match self.typed(ready) {
                    Ok(row) => page.push(row),
                    Err((id, key, past, why)) => self.bury(id, key, past, why),
                }
            }
            if !page.is_empty() {
                return Claim::Page { page: Arc::new(page), more: found.more };
            }
        }
    }

    fn in_hand(&self, worker: usize, first: u64, last: u64) {
        let id = |seq: u64| number(self.batch, seq as i64);
        self.claims.side().take_in_hand();
        self.journal.note_in_hand(worker, id(first), id(last));
    }

    fn off_hand(&self, worker: usize) {
        self.journal.note_off_hand(worker);
        self.claims.side().off_hand();
    }

    fn given_up(&self, back: bool) {
        self.journal.note_given_up(if back { -1 } else { 1 });
    }

    fn unclaim(&self, rows: usize, suspect: bool) {
        self.landed(rows, usize::from(suspect));
    }

    fn waiting(&self) -> usize {
        self.claims.waiting()
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
        self.look_what_is_due(now)
    }

    fn end(&self, status: &str) -> bool {
        self.write_end(status);
        true
    }

    fn close(&self) {
        // ORDERING: Release: who reads the end finds what was settled before it.
        self.closed.store(true, Ordering::Release);
    }

    fn own_reader(&self, order: Order, from: u64) -> Option<Box<dyn Reader<O>>> {
        Some(Box::new(super::reader::JournalReader::new(Arc::clone(self), order, from)))
    }

    fn dead(&self) -> Result<Vec<DeadItem>, Arc<JournalError>> {
        self.read_dead()
    }

    fn discard_unread(&self) -> Vec<Settled<O>> {
        Vec::new()
    }

    fn drop_waiting(&self) -> (usize, Box<dyn Any + Send>) {
        let dropped = self.claims.stop();
        let incoming = self.incoming.lock().stop();
        // Nobody settles them any more: they are found again by the next run.
        let buried = std::mem::take(&mut *self.buried.lock());
        self.written.notify_all();
        if let Some(link) = self.link.get() {
            link.waiting(-(dropped.backing_off as i64));
        }
        self.journal.turns().done(self.claims.side(), dropped.suspects as u64);
        let had_turns = dropped.ready.iter().filter(|(kind, _)| *kind == Kind::Suspect).count()
            + buried.iter().filter(|row| row.past.is_some_and(|past| past.suspect)).count();
        let ready = dropped.ready.iter().filter(|(kind, _)| *kind == Kind::Suspect).count();
        if buried.len() + ready > 0 {
            self.landed(buried.len() + ready, had_turns);
        }
        if dropped.suspects > 0 {
            self.journal.kick_all();
        }
        let in_line = dropped.ready.len() + dropped.unclaimed as usize + dropped.backing_off;
        let suspects = dropped.suspects + usize::from(dropped.asked_suspect);
        (in_line + suspects + incoming.len() + buried.len(), Box::new((dropped.ready, incoming, buried)))
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
        self.incoming.lock().failed.get_or_insert_with(|| Arc::clone(why));
        self.claims.over();
        self.written.notify_all();
    }

    fn batch(&self) -> i64 {
        self.batch
    }

    fn side(&self) -> (&Side, bool) {
        (self.claims.side(), self.stands_still())
    }

    fn stalled(&self, stalled: bool) {
        if let Some(link) = self.link.get() {
            link.stalled(stalled);
        }
    }

    fn failed(&self, why: &Arc<JournalError>) {
        let first = self.incoming.lock().failed.replace(Arc::clone(why)).is_none();
        self.claims.over();
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
