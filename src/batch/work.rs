//! A submitted batch as its lane sees it: rows from the store, the user's closure, outcomes to the store.

use super::readers::Readers;
use crate::engine::Context;
use crate::engine::body::{Ended, Work};
use crate::engine::lane::Ending;
use crate::engine::signal::Signal;
use crate::job::{Dead, Failure, Key, Report};
use crate::store::{Claim, Page, Settled, Store};
use crate::sync::{Arc, Mutex};
use crate::time::Timestamp;
use std::ops::Range;

/// What batch, readers and lane share.
pub(crate) struct Rows<I, O> {
    pub(crate) store: Box<dyn Store<I, O>>,
    /// Woken when results were published or the batch has ended.
    pub(crate) published: Signal,
    /// Woken when rows were claimed: there is room to push.
    pub(crate) room: Signal,
    pub(crate) readers: Mutex<Readers>,
}

/// The batch's work.
pub(crate) struct BatchWork<I, O, F> {
    pub(crate) rows: Arc<Rows<I, O>>,
    pub(crate) run: F,
    /// Outcomes by worker, until they are published.
    pub(crate) outboxes: Box<[Mutex<Vec<Settled<O>>>]>,
}

impl<I, O, F> Work for BatchWork<I, O, F>
where
    I: Send + Sync,
    O: Send,
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
        let row = &page[at as usize];
        self.outboxes[seat].lock().push(Settled {
            seq: row.seq,
            key: row.key.clone(),
            outcome,
            attempts: ended.attempts,
            run_time: ended.run_time,
            queued_time: ended.queued_time,
        });
    }

    fn publish(&self, seat: usize) {
        let mut outbox = self.outboxes[seat].lock();
        if outbox.is_empty() {
            return;
        }
        self.rows.store.settle(&mut outbox);
        drop(outbox);
        self.rows.published.notify();
    }

    fn drop_unclaimed(&self, _ending: &Ending) -> usize {
        let dropped = self.rows.store.drop_waiting();
        self.rows.room.notify();
        dropped
    }

    fn cancelled(&self, _page: &Page<I>, _range: Range<u32>, _ending: &Ending) {}

    fn ended(&self, _report: &Report) {
        self.rows.store.close();
        self.rows.published.notify();
        self.rows.room.notify();
    }
}
