//! Results are read, not pushed.

use super::work::Rows;
use crate::engine::{Error, shared::Shared};
use crate::job::ItemResult;
use crate::lock::{Levelled, house};
use crate::store::{Order, Read, Reader, Settled};
use crate::sync::Arc;
use crate::sync::thread::{ThreadId, current};
use std::fmt;

/// Iterates over a batch's results, waiting for each. It ends when the batch has ended and all was read.
///
/// Every item it yields is committed. While it is held, the engine runs at most `result_window` results ahead of it,
/// but for the time that the thread which has it waits in [`Batch::wait`](crate::Batch::wait) or
/// [`Batch::push`](crate::Batch::push).
/// In memory each result is handed out once, to whichever iterator asks first.
///
/// An item that has been given up may be driven again while the batch runs (`batchyard retry`). Then it is yielded a second
/// time, with its new outcome; in the order of submission once, as it was when its turn came.
///
/// An `Err` is about the wait, not about an item: [`Error::WouldBlockWorker`] when an item of the same engine would
/// have to wait, [`Error::Journal`] when the journal cannot be read. The iterator ends after it.
pub struct Results<I, O> {
    pub(super) shared: Arc<Shared>,
    pub(super) rows: Arc<Rows<I, O>>,
    pub(super) refill: Box<dyn Fn() + Send + Sync>,
    pub(super) order: Order,
    pub(super) over: bool,
    /// Results before this cursor are passed over.
    pub(super) from: u64,
    pub(super) cursor: u64,
    /// A place of its own in a journal's results.
    own: Option<Levelled<Box<dyn Reader<O>>, house::OwnReader>>,
    /// Its number among the iterators that are held, and the thread that has it.
    number: u64,
    thread: ThreadId,
}

impl<I, O> Results<I, O> {
    pub(super) fn new(
        shared: Arc<Shared>,
        rows: Arc<Rows<I, O>>,
        refill: Box<dyn Fn() + Send + Sync>,
        order: Order,
        from: u64,
    ) -> Self {
        let number = rows.hold(order);
        let own = rows.store.own_reader(order, from).map(Levelled::new);
        let thread = current().id();
        Self { shared, rows, refill, order, over: false, from, cursor: from, own, number, thread }
    }

    fn read(&self) -> Read<O> {
        match &self.own {
            Some(own) => own.lock().read(),
            None => self.rows.store.read(self.order),
        }
    }

    /// It may have been handed to this thread.
    fn in_hand(&mut self) {
        let me = current().id();
        if self.thread != me {
            self.thread = me;
            self.rows.take_over(self.number);
        }
    }

    /// The next result if it is there already.
    pub fn try_next(&mut self) -> Option<ItemResult<O>> {
        self.in_hand();
        loop {
            match self.read() {
                Read::Row(row, cursor) => {
                    (self.refill)();
                    if cursor > self.from {
                        self.cursor = cursor;
                        return Some(item(row));
                    }
                }
                Read::Pending | Read::End | Read::Failed(_) => return None,
            }
        }
    }

    /// The cursor behind the last result that was yielded: where [`Batch::results_from`](crate::Batch::results_from)
    /// goes on.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }
}

impl<I, O> Iterator for Results<I, O> {
    type Item = Result<ItemResult<O>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        self.in_hand();
        loop {
            let read = || match self.read() {
                Read::Pending => None,
                found => Some(found),
            };
            let found = match read() {
                Some(found) => found,
                None if self.shared.must_not_wait() => {
                    self.over = true;
                    return Some(Err(Error::WouldBlockWorker));
                }
                None => self.rows.published.wait(&self.shared.clock, None, read)?,
            };
            match found {
                Read::Row(row, cursor) => {
                    // A place in the window is free: more may be claimed.
                    (self.refill)();
                    if cursor > self.from {
                        self.cursor = cursor;
                        return Some(Ok(item(row)));
                    }
                }
                Read::Pending | Read::End => {
                    self.over = true;
                    return None;
                }
                Read::Failed(why) => {
                    self.over = true;
                    return Some(Err(Error::Journal(why)));
                }
            }
        }
    }
}

fn item<O>(row: Settled<O>) -> ItemResult<O> {
    let mut item = ItemResult::new(row.seq, row.key, row.outcome, row.attempts);
    item.run_time = row.run_time;
    item.queued_time = row.queued_time;
    item
}

impl<I, O> Drop for Results<I, O> {
    fn drop(&mut self) {
        self.rows.let_go(self.number);
        (self.refill)();
    }
}

impl<I, O> fmt::Debug for Results<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Results").field("order", &self.order).finish_non_exhaustive()
    }
}
