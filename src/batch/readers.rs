//! Who holds iterators over a batch's results, and when they push back.
//!
//! A held, unread iterator keeps dispatch within the batch's window: whoever has it will read. Not while its own thread
//! waits for the batch, or for room to push: it would wait for itself. So for as long as a thread waits, the iterators in
//! its hands *stand aside*: to the store they have gone, so dispatch goes on and results are kept. An iterator is in
//! the hands of the thread that made it, and once it is read by another thread, in that one's.
//!
//! Blocking, under one short latch, which is taken when an iterator comes, goes or changes hands and when a thread waits;
//! never for a result.

use super::work::Rows;
use crate::engine::worker::drop_quietly;
use crate::store::Order;
use crate::sync::thread::{ThreadId, current};

/// The iterators that are held.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    held: Vec<Reader>,
    came: u64,
    /// Somebody waited for the batch without an iterator: what nobody reads is dropped.
    discard: bool,
}

#[derive(Debug)]
struct Reader {
    number: u64,
    order: Order,
    thread: ThreadId,
    aside: bool,
}

impl<I, O> Rows<I, O> {
    /// An iterator comes, in the hands of this thread; its number.
    pub(super) fn hold(&self, order: Order) -> u64 {
        let mut readers = self.readers.lock();
        readers.came += 1;
        let number = readers.came;
        readers.held.push(Reader { number, order, thread: current().id(), aside: false });
        self.store.reader(order, true);
        number
    }

    /// It is in the hands of this thread now.
    pub(super) fn take_over(&self, number: u64) {
        let mut readers = self.readers.lock();
        if let Some(reader) = readers.held.iter_mut().find(|reader| reader.number == number) {
            reader.thread = current().id();
            if std::mem::take(&mut reader.aside) {
                self.store.reader(reader.order, true);
            }
        }
    }

    /// It goes.
    pub(super) fn let_go(&self, number: u64) {
        let mut readers = self.readers.lock();
        if let Some(at) = readers.held.iter().position(|reader| reader.number == number) {
            let reader = readers.held.swap_remove(at);
            if !reader.aside {
                self.store.reader(reader.order, false);
            }
        }
        let discard = readers.discard && readers.held.is_empty();
        let unread = discard.then(|| self.store.discard_unread());
        drop(readers);
        drop_quietly(unread);
    }

    /// From now on results that nobody reads are dropped.
    pub(super) fn discard_unread(&self) {
        let mut readers = self.readers.lock();
        readers.discard = true;
        let unread = readers.held.is_empty().then(|| self.store.discard_unread());
        drop(readers);
        drop_quietly(unread);
    }

    /// This thread is about to wait: its iterators stand aside until the guard goes. The caller then refills the lane.
    pub(super) fn stand_aside(&self) -> Aside<'_, I, O> {
        let me = current().id();
        let mut readers = self.readers.lock();
        let mut any = false;
        for reader in readers.held.iter_mut().filter(|reader| reader.thread == me && !reader.aside) {
            reader.aside = true;
            any = true;
            self.store.reader(reader.order, false);
        }
        Aside { rows: self, any }
    }
}

/// A wait of a thread whose iterators stand aside.
pub(super) struct Aside<'a, I, O> {
    rows: &'a Rows<I, O>,
    /// It has some.
    pub(super) any: bool,
}

impl<I, O> Drop for Aside<'_, I, O> {
    fn drop(&mut self) {
        if !self.any {
            return;
        }
        let me = current().id();
        let mut readers = self.rows.readers.lock();
        for reader in readers.held.iter_mut().filter(|reader| reader.thread == me && reader.aside) {
            reader.aside = false;
            self.rows.store.reader(reader.order, true);
        }
    }
}
