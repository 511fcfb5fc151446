//! Results by cursor: a few hundred at a time, each fetch a statement of its own, so no old state of the file is held.

use super::read::{RawResult, by_completion, by_input, errors};
use super::rows::{Kind, calmly};
use super::store::JournalStore;
use crate::job::{AttemptError, AttemptKind, Dead, DeadReason, Payload};
use crate::store::{Order, Read, Reader, Settled};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use std::collections::VecDeque;
use std::time::Duration;

/// Results of one fetch.
const FETCH: usize = 256;

/// Reads one batch's results from a cursor on.
pub(super) struct JournalReader<I, O> {
    store: Arc<JournalStore<I, O>>,
    order: Order,
    /// Where the next fetch begins: a number of results, or of items in the order of input.
    next: u64,
    /// How many were read, with those before the cursor.
    count: u64,
    fetched: VecDeque<RawResult>,
}

impl<I, O> JournalReader<I, O> {
    pub(super) fn new(store: Arc<JournalStore<I, O>>, order: Order, from: u64) -> Self {
        JournalReader { store, order, next: from, count: from, fetched: VecDeque::new() }
    }
}

impl<I: Payload, O: Payload> Reader<O> for JournalReader<I, O> {
    fn read(&mut self) -> Read<O> {
        if self.fetched.is_empty() {
            // Asked first: whatever was settled before the end is found by the fetch behind it.
            let closed = self.store.closed.load(Ordering::Acquire);
            let (batch, next) = (self.store.batch, self.next);
            let order = self.order;
            let found = self.store.journal.readers.read(|db| match order {
                Order::Completion => by_completion(db, batch, next, FETCH),
                Order::Input => by_input(db, batch, next, FETCH, closed),
            });
            match found {
                Ok(found) => self.fetched.extend(found),
                Err(why) => return Read::Failed(Arc::new(why)),
            }
            if self.fetched.is_empty() {
                return if closed { Read::End } else { Read::Pending };
            }
        }
        let Some(raw) = self.fetched.pop_front() else { return Read::Pending };
        self.count += 1;
        let cursor = match self.order {
            Order::Completion => {
                self.next = raw.cursor;
                raw.cursor
            }
            Order::Input => {
                self.next = raw.seq + 1;
                self.count
            }
        };
        match self.settled(raw) {
            Ok(settled) => Read::Row(settled, cursor),
            Err(why) => Read::Failed(why),
        }
    }
}

impl<I: Payload, O: Payload> JournalReader<I, O> {
    fn settled(&self, raw: RawResult) -> Result<Settled<O>, Arc<crate::store::JournalError>> {
        let outcome = match (raw.kind, &raw.output) {
            (Kind::Done, Some(text)) => calmly(|| O::decode(text)).map_err(|why| {
                let error = AttemptError::new(raw.attempts, AttemptKind::Fatal, why);
                Dead::new(DeadReason::Unreadable, raw.attempts, vec![error])
            }),
            _ => {
                let item = raw.item;
                let errors = self.store.journal.readers.read(|db| errors(db, item)).map_err(Arc::new)?;
                let other =
                    if raw.kind == Kind::Skipped { DeadReason::Skipped } else { DeadReason::Exhausted };
                Err(Dead::new(raw.reason.unwrap_or(other), raw.attempts, errors))
            }
        };
        Ok(Settled {
            seq: raw.seq,
            past: None,
            key: raw.key,
            outcome,
            attempts: raw.attempts,
            run_time: Duration::from_micros(raw.run_us),
            queued_time: Duration::from_micros(raw.wait_us),
            effects: None,
            origin: None,
        })
    }
}
