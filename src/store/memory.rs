//! The store behind `in_memory()`: one batch's rows and results, typed, in two queues under short locks.
//!
//! Bounds. Rows wait in `waiting` up to the bound that each append names. Results wait in `log` until read. While
//! an iterator of results is held, claims stop as soon as claimed-but-unread rows reach the window, so a slow
//! reader pushes back on dispatch; without a reader they are kept for one that may come, until
//! [`discard_unread`](Store::discard_unread) (a `wait` without a reader) lets them go, and again when one has come. With a reader in input order
//! the window counts from the oldest unread row, so the head of the order always has its place.

use super::{AppendError, Appended, Claim, JournalError, Order, Read, Row, Settled, Store};
use crate::job::{DeadItem, Duplicates, Key};
use crate::lock::{Levelled, house};
use crate::sync::Arc;
use crate::time::Timestamp;
use std::any::Any;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Rows and results of one batch in memory.
#[derive(Debug)]
pub(crate) struct MemoryStore<I, O> {
    rows: Levelled<Rows<I>, house::MemoryRows>,
    log: Levelled<Log<O>, house::MemoryLog>,
    window: usize,
}

#[derive(Debug)]
struct Rows<I> {
    waiting: VecDeque<Row<I>>,
    next_seq: u64,
    sealed: bool,
    /// Keys seen, and how often.
    seen: HashMap<Key, u64>,
    /// Rows that other rows' items submitted: by whom.
    children: HashMap<Key, u64>,
    claimed: u64,
}

#[derive(Debug)]
struct Log<O> {
    /// Settled and unread, in order of settling.
    done: VecDeque<Settled<O>>,
    /// Settled and unread, by position: filled while somebody reads in input order.
    by_seq: BTreeMap<u64, Settled<O>>,
    /// The first position that was neither read nor dropped.
    head: u64,
    /// Ranges of positions behind the head that were: start to end. Fewer than there are rows in hand.
    ahead: BTreeMap<u64, u64>,
    readers: usize,
    ordered_readers: usize,
    discard: bool,
    closed: bool,
    /// Rows read or dropped.
    taken: u64,
    /// Items given up: kept for the batch's life, read or not.
    dead: Vec<DeadItem>,
}

impl<I, O> MemoryStore<I, O> {
    pub(crate) fn new(window: usize) -> Self {
        Self {
            rows: Levelled::new(Rows {
                waiting: VecDeque::new(),
                next_seq: 0,
                sealed: false,
                seen: HashMap::new(),
                children: HashMap::new(),
                claimed: 0,
            }),
            log: Levelled::new(Log {
                done: VecDeque::new(),
                by_seq: BTreeMap::new(),
                head: 0,
                ahead: BTreeMap::new(),
                readers: 0,
                ordered_readers: 0,
                discard: false,
                closed: false,
                taken: 0,
                dead: Vec::new(),
            }),
            window: window.max(1),
        }
    }

    /// How many more rows may be claimed while a reader is held.
    fn room(&self, claimed: u64) -> usize {
        let log = self.log.lock();
        if log.readers == 0 {
            return usize::MAX;
        }
        // For a reader in input order too: rows are claimed in that order, so the oldest unread one is among these.
        let out = claimed.saturating_sub(log.taken);
        self.window.saturating_sub(usize::try_from(out).unwrap_or(usize::MAX))
    }
}

impl<O> Log<O> {
    /// The row at this position was read or dropped.
    fn take(&mut self, seq: u64) {
        self.taken += 1;
        let (mut start, mut end) = (seq, seq + 1);
        if let Some((&from, &to)) = self.ahead.range(..seq).next_back()
            && to == seq
        {
            start = from;
        }
        if let Some(to) = self.ahead.remove(&end) {
            end = to;
        }
        if start == self.head {
            self.head = end;
        } else {
            self.ahead.insert(start, end);
        }
    }
}

impl<I: Send + Sync + 'static, O: Send> Store<I, O> for MemoryStore<I, O> {
    fn append(
        &self,
        key: Key,
        item: I,
        bound: usize,
        duplicates: Duplicates,
        now: Timestamp,
    ) -> Result<Appended, AppendError<I>> {
        let mut rows = self.rows.lock();
        if rows.sealed {
            return Err(AppendError::Sealed(item));
        }
        if rows.waiting.len() >= bound {
            return Err(AppendError::Full(item));
        }
        let times = rows.seen.entry(key.clone()).or_default();
        let key = match duplicates {
            _ if *times == 0 => key,
            Duplicates::Allow => key.occurrence(*times),
            Duplicates::Skip => return Ok(Appended { rows: 0, skipped: 1 }),
            Duplicates::Error => return Err(AppendError::Duplicate(key, item)),
        };
        *times += 1;
        let seq = rows.next_seq;
        rows.next_seq += 1;
        rows.waiting.push_back(Row { seq, key, queued: now, item, past: None });
        Ok(Appended { rows: 1, skipped: 0 })
    }

    fn append_child(
        &self,
        key: Key,
        item: I,
        bound: usize,
        parent: u64,
        now: Timestamp,
    ) -> Result<bool, AppendError<I>> {
        let mut guard = self.rows.lock();
        let rows = &mut *guard;
        if rows.waiting.len() >= bound {
            return Err(AppendError::Full(item));
        }
        match rows.children.get(&key) {
            Some(there) if *there == parent => return Ok(false),
            _ if rows.seen.contains_key(&key) => return Err(AppendError::Duplicate(key, item)),
            _ => {}
        }
        rows.seen.insert(key.clone(), 1);
        rows.children.insert(key.clone(), parent);
        let seq = rows.next_seq;
        rows.next_seq += 1;
        rows.waiting.push_back(Row { seq, key, queued: now, item, past: None });
        Ok(true)
    }

    fn seal(&self) {
        self.rows.lock().sealed = true;
    }

    fn claim(&self, max: usize) -> Claim<I> {
        let mut rows = self.rows.lock();
        let room = self.room(rows.claimed);
        let count = rows.waiting.len().min(max).min(room);
        if count == 0 {
            return Claim::Empty;
        }
        rows.claimed += count as u64;
        let page: Vec<Row<I>> = rows.waiting.drain(..count).collect();
        let more = !rows.waiting.is_empty();
        Claim::Page { page: Arc::new(page), more }
    }

    fn waiting(&self) -> usize {
        self.rows.lock().waiting.len()
    }

    fn settle(&self, settled: &mut Vec<Settled<O>>) {
        let mut log = self.log.lock();
        for row in settled.iter() {
            if let Err(dead) = &row.outcome
                && !dead.is_skipped()
            {
                log.dead.push(DeadItem::new(row.seq, row.key.clone(), dead.clone()));
            }
        }
        if log.discard && log.readers == 0 {
            settled.iter().for_each(|row| log.take(row.seq));
        } else if log.ordered_readers > 0 {
            for row in settled.drain(..) {
                log.by_seq.insert(row.seq, row);
            }
        } else {
            log.done.extend(settled.drain(..));
        }
    }

    fn close(&self) {
        self.log.lock().closed = true;
    }

    fn read(&self, order: Order) -> Read<O> {
        let mut guard = self.log.lock();
        let log = &mut *guard;
        let row = match order {
            Order::Completion => log.done.pop_front().or_else(|| log.by_seq.pop_first().map(|(_, row)| row)),
            // Once the log is closed a missing position stays missing: the order has gaps then.
            Order::Input => match log.by_seq.first_key_value() {
                Some((&seq, _)) if seq <= log.head || log.closed => {
                    log.by_seq.pop_first().map(|(_, row)| row)
                }
                _ => None,
            },
        };
        match row {
            Some(row) => {
                log.take(row.seq);
                Read::Row(row, log.taken)
            }
            None if log.closed => Read::End,
            None => Read::Pending,
        }
    }

    fn dead(&self) -> Result<Vec<DeadItem>, Arc<JournalError>> {
        Ok(self.log.lock().dead.clone())
    }

    fn reader(&self, order: Order, present: bool) {
        let mut guard = self.log.lock();
        let log = &mut *guard;
        let step = |count: &mut usize| *count = if present { *count + 1 } else { *count - 1 };
        step(&mut log.readers);
        log.discard &= !present;
        if order == Order::Input {
            step(&mut log.ordered_readers);
            if present {
                log.by_seq.extend(log.done.drain(..).map(|row| (row.seq, row)));
            }
        }
    }

    fn discard_unread(&self) -> Vec<Settled<O>> {
        let mut guard = self.log.lock();
        let log = &mut *guard;
        log.discard = true;
        if log.readers > 0 {
            return Vec::new();
        }
        let mut unread: Vec<_> = log.done.drain(..).collect();
        unread.extend(std::mem::take(&mut log.by_seq).into_values());
        unread.iter().for_each(|row| log.take(row.seq));
        unread
    }

    fn drop_waiting(&self) -> (usize, Box<dyn Any + Send>) {
        let dropped = std::mem::take(&mut self.rows.lock().waiting);
        (dropped.len(), Box::new(dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn settled(seq: u64) -> Settled<u64> {
        Settled {
            seq,
            past: None,
            key: Key::from(seq),
            outcome: Ok(seq),
            attempts: 1,
            run_time: Duration::ZERO,
            queued_time: Duration::ZERO,
            effects: None,
            origin: None,
        }
    }

    fn filled(window: usize, n: u64) -> MemoryStore<u64, u64> {
        let store = MemoryStore::new(window);
        for i in 0..n {
            store.append(Key::from(i), i, usize::MAX, Duplicates::Error, Timestamp::ZERO).unwrap();
        }
        store
    }

    fn claimed(store: &MemoryStore<u64, u64>, max: usize) -> Vec<u64> {
        match store.claim(max) {
            Claim::Page { page, .. } => page.iter().map(|row| row.item).collect(),
            Claim::Empty => vec![],
        }
    }

    fn read(store: &MemoryStore<u64, u64>, order: Order) -> Option<u64> {
        match Store::<u64, u64>::read(store, order) {
            Read::Row(row, _) => Some(row.seq),
            _ => None,
        }
    }

    #[test]
    fn append_gives_the_item_back() {
        let store: MemoryStore<u64, u64> = MemoryStore::new(8);
        let append =
            |item, bound| store.append(Key::from(item), item, bound, Duplicates::Error, Timestamp::ZERO);
        append(7, 1).unwrap();
        assert!(matches!(append(8, 1), Err(AppendError::Full(8))));
        assert!(matches!(append(7, 9), Err(AppendError::Duplicate(_, 7))));
        store.seal();
        assert!(matches!(append(9, 9), Err(AppendError::Sealed(9))));
    }

    #[test]
    fn claims_in_order_and_says_whether_there_is_more() {
        let store = filled(8, 5);
        assert!(matches!(store.claim(3), Claim::Page { more: true, .. }));
        assert_eq!(claimed(&store, 3), [3, 4]);
        assert!(matches!(store.claim(3), Claim::Empty));
    }

    #[test]
    fn a_held_reader_pushes_back() {
        let store = filled(3, 10);
        store.reader(Order::Completion, true);
        assert_eq!(claimed(&store, 10), [0, 1, 2]);
        store.settle(&mut vec![settled(1), settled(0), settled(2)]);
        assert_eq!(claimed(&store, 10), [] as [u64; 0]);
        assert_eq!(read(&store, Order::Completion), Some(1));
        assert_eq!(claimed(&store, 10), [3]);
        store.reader(Order::Completion, false);
        assert_eq!(claimed(&store, 10).len(), 6);
    }

    #[test]
    fn input_order_waits_for_its_head_and_skips_gaps_at_the_end() {
        let store = filled(3, 10);
        store.settle(&mut vec![settled(1)]);
        store.reader(Order::Input, true);
        assert_eq!(read(&store, Order::Input), None);
        assert_eq!(claimed(&store, 10), [0, 1, 2]);
        store.settle(&mut vec![settled(0)]);
        assert_eq!(read(&store, Order::Input), Some(0));
        assert_eq!(read(&store, Order::Input), Some(1));
        store.settle(&mut vec![settled(4)]);
        assert_eq!(read(&store, Order::Input), None);
        Store::<u64, u64>::close(&store);
        assert_eq!(read(&store, Order::Input), Some(4));
        assert!(matches!(Store::<u64, u64>::read(&store, Order::Input), Read::End));
    }

    #[test]
    fn input_order_goes_on_behind_what_others_took() {
        let store = filled(3, 10);
        assert_eq!(claimed(&store, 6).len(), 6);
        Store::<u64, u64>::discard_unread(&store);
        store.settle(&mut vec![settled(0), settled(2), settled(3)]);
        store.reader(Order::Input, true);
        assert_eq!(claimed(&store, 10), [] as [u64; 0], "1, 4 and 5 are out");
        store.settle(&mut vec![settled(5), settled(4)]);
        assert_eq!(read(&store, Order::Input), None, "1 comes first");
        store.settle(&mut vec![settled(1)]);
        for seq in [1, 4, 5] {
            assert_eq!(read(&store, Order::Input), Some(seq));
        }
        assert_eq!(claimed(&store, 10), [6, 7, 8]);
        let log = store.log.lock();
        assert_eq!((log.head, log.ahead.len()), (6, 0));
    }

    #[test]
    fn unread_results_are_kept_until_discarded() {
        let store = filled(2, 10);
        assert_eq!(claimed(&store, 10).len(), 10);
        store.settle(&mut vec![settled(0), settled(1)]);
        Store::<u64, u64>::discard_unread(&store);
        store.settle(&mut vec![settled(2)]);
        Store::<u64, u64>::close(&store);
        assert!(matches!(Store::<u64, u64>::read(&store, Order::Completion), Read::End));
    }
}
