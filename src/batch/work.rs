//! A submitted batch as its lane sees it: rows from the store, the user's closure, outcomes to the store.

use super::key::KeyOf;
use super::readers::Readers;
use crate::engine::Context;
use crate::engine::lane::Ending;
use crate::engine::signal::Signal;
use crate::engine::work::{ChildError, Ended, Tried, Work};
use crate::engine::worker::{caught, drop_quietly};
use crate::job::{Dead, Failure, Key, Report};
use crate::lock::{Levelled, house};
use crate::store::{
    AppendError, Claim, Effects, JournalError, Kept, Origin, Page, Past, Retried, Row, RowPast, Settled,
    Store,
};
use crate::sync::Arc;
use crate::time::{Clock, Timestamp};
use std::any::Any;
use std::ops::Range;

/// What batch, readers and lane share.
pub(crate) struct Rows<I, O> {
    pub(crate) store: Box<dyn Store<I, O>>,
    /// Woken when results were published or the batch has ended.
    pub(crate) published: Signal,
    /// Woken when rows were claimed: there is room to push.
    pub(crate) room: Signal,
    pub(crate) readers: Levelled<Readers, house::Readers>,
    pub(crate) key: Box<dyn KeyOf<I>>,
    /// Rows that may wait.
    pub(crate) capacity: usize,
    pub(crate) clock: Clock,
}

/// The batch's work.
pub(crate) struct BatchWork<I, O, F> {
    pub(crate) rows: Arc<Rows<I, O>>,
    pub(crate) run: F,
    /// Outcomes by worker, until they are published.
    pub(crate) outboxes: Box<[Levelled<Vec<Settled<O>>, house::Outbox>]>,
}

impl<I, O, F> Work for BatchWork<I, O, F>
where
    I: Send + Sync + 'static,
    O: Send + 'static,
    F: Fn(&I, &Context) -> Result<O, Failure> + Send + Sync,
{
    type Chunk = Page<I>;
    type Out = O;
    const REFILLED: bool = true;

    fn claim(&self, max: usize) -> Option<(Page<I>, u32, bool)> {
        match self.rows.store.claim(max) {
            Claim::Page { page, more } => {
                self.rows.room.notify();
                let len = page.len() as u32;
                Some((page, len, more))
            }
            Claim::Empty => None,
        }
    }

    fn unclaimed(&self) -> usize {
        self.rows.store.waiting()
    }

    #[inline]
    fn call(&self, page: &Page<I>, at: u32, ctx: &Context) -> Result<O, Failure> {
        (self.run)(&page[at as usize].item, ctx)
    }

    fn seq(&self, page: &Page<I>, at: u32) -> u64 {
        page[at as usize].seq
    }

    fn key(&self, page: &Page<I>, at: u32) -> Option<Key> {
        // `stats` may ask for an index of the chunk before.
        page.get(at as usize).map(|row| row.key.clone())
    }

    fn queued(&self, page: &Page<I>, at: u32) -> Option<Timestamp> {
        Some(page[at as usize].queued)
    }

    fn keep(&self, seat: usize, page: &Page<I>, at: u32, outcome: Result<O, Dead>, ended: Ended) {
        self.put(seat, page, at, outcome, ended, None, None);
    }

    fn keep_with(
        &self,
        seat: usize,
        page: &Page<I>,
        at: u32,
        out: O,
        ended: Ended,
        effects: Option<Effects>,
    ) {
        let origin: Origin = Box::new((Arc::clone(page), at));
        self.put(seat, page, at, Ok(out), ended, effects, Some(origin));
    }

    fn may_refuse(&self) -> bool {
        self.rows.store.may_refuse()
    }

    fn chunk_of(&self, origin: &(dyn Any + Send)) -> Option<(Page<I>, u32)> {
        origin.downcast_ref::<(Page<I>, u32)>().cloned()
    }

    fn publish(&self, seat: usize) {
        let mut outbox = self.outboxes[seat].lock();
        if outbox.is_empty() {
            return;
        }
        if self.rows.store.settles_later() {
            // A journal that has failed answers at once, and that may end the batch: not under the latch.
            let mut settled = std::mem::take(&mut *outbox);
            drop(outbox);
            // Before its commit there is nothing to be seen.
            self.rows.store.settle(&mut settled);
        } else {
            self.rows.store.settle(&mut outbox);
            let unread = (!outbox.is_empty()).then(|| std::mem::take(&mut *outbox));
            drop(outbox);
            self.rows.published.notify();
            if unread.is_some() {
                drop_quietly(unread);
            }
        }
    }

    fn drop_unclaimed(&self, _ending: &Ending) -> (usize, Box<dyn Any + Send>) {
        let dropped = self.rows.store.drop_waiting();
        self.rows.room.notify();
        dropped
    }

    fn cancelled(&self, page: &Page<I>, range: Range<u32>, _ending: &Ending) {
        let suspect = past_of(&page[range.start as usize]).is_some_and(|past| past.suspect);
        self.rows.store.unclaim(range.len(), suspect);
    }

    fn settles_later(&self) -> bool {
        self.rows.store.settles_later()
    }

    fn past<'a>(&self, page: &'a Page<I>) -> Option<&'a RowPast> {
        page[0].past.as_deref()
    }

    fn in_hand(&self, worker: usize, page: &Page<I>, range: &Range<u32>) {
        let seq = |at: u32| page[at as usize].seq;
        debug_assert!(!range.is_empty(), "an entry has items");
        self.rows.store.in_hand(worker, seq(range.start), seq(range.end - 1));
    }

    fn off_hand(&self, worker: usize) {
        self.rows.store.off_hand(worker);
    }

    fn given_up(&self, back: bool) {
        self.rows.store.given_up(back);
    }

    fn again(&self, page: &Page<I>, at: u32, tried: Tried<'_>) -> bool {
        if !self.rows.store.settles_later() {
            return false;
        }
        let row = &page[at as usize];
        self.rows.store.again(&Retried {
            seq: row.seq,
            past: past_of(row),
            tries: tried.tries,
            lost: tried.lost,
            deferrals: tried.deferrals,
            due: tried.due,
            error: tried.error.cloned(),
        })
    }

    fn append_child(&self, item: Box<dyn Any>, parent: u64) -> Result<bool, ChildError> {
        let item = match item.downcast::<I>() {
            Ok(item) => *item,
            Err(other) => {
                let why = format!("the items of the batch are of the type {}", std::any::type_name::<I>());
                return Err(ChildError::Other(why, other));
            }
        };
        let key = caught(|| self.rows.key.key_of(&item))
            .unwrap_or_else(|(message, _)| Err(format!("the key function panicked: {message}")));
        let key = match key {
            Ok(key) => key,
            Err(why) => return Err(ChildError::Other(why, Box::new(item))),
        };
        let taken =
            self.rows.store.append_child(key, item, self.rows.capacity, parent, self.rows.clock.now());
        taken.map_err(|error| match error {
            AppendError::Full(item) => ChildError::Full(Box::new(item)),
            AppendError::Sealed(item) => ChildError::Closed(Box::new(item)),
            AppendError::Duplicate(key, item) => ChildError::Duplicate(key, Box::new(item)),
            AppendError::Unwritable(why, item) => ChildError::Other(why, Box::new(item)),
        })
    }

    fn due(&self, now: Timestamp) -> Option<Timestamp> {
        self.rows.store.due(now)
    }

    fn end(&self, status: &str) -> bool {
        self.rows.store.end(status)
    }

    #[cfg(feature = "cli")]
    fn number(&self, seq: u64) -> Option<i64> {
        self.rows.store.number(seq)
    }

    fn step(&self, seq: u64, name: &str) -> Option<Result<Option<String>, Arc<JournalError>>> {
        self.rows.store.step(seq, name)
    }

    fn keep_step(&self, seq: u64, epoch: u32, name: &str, output: &str) -> Kept {
        self.rows.store.keep_step(seq, epoch, name, output)
    }

    fn ended(&self, _report: &Report) {
        self.rows.store.close();
        self.rows.published.notify();
        self.rows.room.notify();
    }
}

fn past_of<I>(row: &Row<I>) -> Option<Past> {
    row.past.as_ref().map(|past| Past { epoch: past.epoch, suspect: past.suspect })
}

impl<I, O, F> BatchWork<I, O, F> {
    #[allow(clippy::too_many_arguments, reason = "the parts of one outcome")]
    fn put(
        &self,
        seat: usize,
        page: &Page<I>,
        at: u32,
        outcome: Result<O, Dead>,
        ended: Ended,
        effects: Option<Effects>,
        origin: Option<Origin>,
    ) {
        let row = &page[at as usize];
        self.outboxes[seat].lock().push(Settled {
            seq: row.seq,
            past: past_of(row),
            key: row.key.clone(),
            outcome,
            attempts: ended.attempts,
            run_time: ended.run_time,
            queued_time: ended.queued_time,
            effects,
            origin,
        });
    }
}
