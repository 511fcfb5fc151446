//! Submitted rows on their way into the table.
//!
//! One append is on its way at a time; what is pushed meanwhile goes with the next one. So a slow trickle is written
//! row by row, and a flood in pages, without a timer. What an item submits goes at once, by itself: it is with the writer
//! before its parent can be settled.

use super::append::{Append, Appended as AppendedOp, Repeats};
use super::batch::{Ask, Sealed, seal};
use super::error::JournalError;
use super::rows::{Kind, NewItem, Placed, calmly, number, seq_of};
use super::store::{JournalStore, Ready};
use super::writer::Tx;
use crate::job::{Duplicates, Key, Payload};
use crate::lock::{Levelled, LevelledGuard};
use crate::store::drop_quietly;
use crate::store::{AppendError, Appended, Earlier, Row, Unsealed};
use crate::sync::Arc;
use crate::time::{Timestamp, wall_ms};
use crossbeam::channel::bounded;
use rusqlite::OptionalExtension;
use std::collections::{HashMap, HashSet};

/// Rows that a submission may be ahead of the writer, and their bytes.
const MOST_AHEAD: usize = 8_192;
const MOST_BYTES: usize = 32 << 20;

/// What is submitted and not committed.
pub(super) struct Incoming<I> {
    pub(super) run: i64,
    pub(super) sealed: bool,
    /// Nothing more is taken: the batch ends.
    stopped: bool,
    /// Nothing more is written, and why.
    pub(super) failed: Option<Arc<JournalError>>,
    rows: Vec<(NewItem, I, Timestamp)>,
    bytes: usize,
    /// Rows of the append that is on its way; 0: none is.
    sent: usize,
    sent_bytes: usize,
    /// Rows that items have submitted, on their way.
    children: usize,
    /// Keys of both, where repeated keys are told to who pushes.
    keys: HashSet<Key>,
    repeats: Repeats,
    /// The first key that came twice and must not.
    duplicate: Option<Key>,
    resumed: u64,
}

impl<I> Incoming<I> {
    pub(super) fn new(run: i64) -> Self {
        Incoming {
            run,
            sealed: false,
            stopped: false,
            failed: None,
            rows: Vec::new(),
            bytes: 0,
            sent: 0,
            sent_bytes: 0,
            children: 0,
            keys: HashSet::new(),
            repeats: Arc::new(Levelled::new(HashMap::new())),
            duplicate: None,
            resumed: 0,
        }
    }

    /// An append is written, or lost.
    fn landed(&mut self, is_child: bool) {
        if is_child {
            self.children -= 1;
        } else {
            (self.sent, self.sent_bytes) = (0, 0);
        }
    }

    fn push(&mut self, row: NewItem, item: I, now: Timestamp) {
        self.bytes += row.payload.len();
        self.rows.push((row, item, now));
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len() + self.sent + self.children
    }

    /// Takes nothing more. What has not been sent comes back, to be dropped with no latch held.
    pub(super) fn stop(&mut self) -> Vec<(NewItem, I, Timestamp)> {
        self.stopped = true;
        self.bytes = 0;
        std::mem::take(&mut self.rows)
    }

    /// Room, or nothing to wait for.
    pub(super) fn has_room(&self, bound: usize) -> bool {
        !self.is_full(bound) || self.failed.is_some()
    }

    fn is_shut(&self) -> bool {
        self.stopped || self.failed.is_some()
    }

    /// No room: in rows, of which a bound of the caller's stands, or in bytes.
    fn is_full(&self, bound: usize) -> bool {
        self.len() >= bound || (self.bytes + self.sent_bytes >= MOST_BYTES)
    }
}

impl<I: Payload, O: Payload> JournalStore<I, O> {
    pub(super) fn take_in(
        self: &Arc<Self>,
        key: Key,
        item: I,
        bound: usize,
        duplicates: Duplicates,
        now: Timestamp,
    ) -> Result<Appended, AppendError<I>> {
        let payload = match calmly(|| item.encode()) {
            Ok(payload) => payload,
            Err(why) => return Err(AppendError::Unwritable(why, item)),
        };
        // Who pushes one by one is told at once; a whole submission when it is sealed.
        let at_once = duplicates == Duplicates::Error && bound != usize::MAX;
        let mut incoming = self.incoming.lock();
        if bound == usize::MAX && self.journal.may_wait().is_ok() {
            while (incoming.rows.len() >= MOST_AHEAD || incoming.bytes >= MOST_BYTES) && !incoming.is_shut() {
                incoming = incoming.wait(&self.written);
            }
        }
        if incoming.sealed || incoming.is_shut() {
            return Err(AppendError::Sealed(item));
        }
        if bound != usize::MAX && incoming.is_full(bound) {
            return Err(AppendError::Full(item));
        }
        if at_once {
            if !incoming.keys.insert(key.clone()) {
                return Err(AppendError::Duplicate(key, item));
            }
            let run = incoming.run;
            drop(incoming);
            // It is not among those on their way, so it is committed or was never pushed.
            let known = self.is_known(&key, run);
            incoming = self.incoming.lock();
            if known || incoming.sealed || incoming.is_shut() {
                incoming.keys.remove(&key);
                return Err(match known {
                    true => AppendError::Duplicate(key, item),
                    false => AppendError::Sealed(item),
                });
            }
        }
        let queued_ms = wall_ms() as i64;
        let row = NewItem { key: key.to_string(), occurrence: 0, payload, queued_ms, parent: None };
        incoming.push(row, item, now);
        self.send_on(incoming, duplicates);
        Ok(Appended { rows: 1, skipped: 0 })
    }

    /// As [`take_in`](Self::take_in), for an item that an item submits.
    pub(super) fn take_in_child(
        self: &Arc<Self>,
        key: Key,
        item: I,
        bound: usize,
        parent: u64,
        now: Timestamp,
    ) -> Result<bool, AppendError<I>> {
        let payload = match calmly(|| item.encode()) {
            Ok(payload) => payload,
            Err(why) => return Err(AppendError::Unwritable(why, item)),
        };
        let parent = number(self.batch, parent as i64);
        let mut incoming = self.incoming.lock();
        if incoming.is_shut() {
            return Err(AppendError::Sealed(item));
        }
        if incoming.is_full(bound.max(MOST_AHEAD)) {
            return Err(AppendError::Full(item));
        }
        if !incoming.keys.insert(key.clone()) {
            return Err(AppendError::Duplicate(key, item));
        }
        let run = incoming.run;
        drop(incoming);
        let known = self.parent_of(&key, run);
        let mut incoming = self.incoming.lock();
        if incoming.is_shut() {
            incoming.keys.remove(&key);
            return Err(AppendError::Sealed(item));
        }
        if let Some(there) = known {
            incoming.keys.remove(&key);
            return if there == Some(parent) { Ok(false) } else { Err(AppendError::Duplicate(key, item)) };
        }
        let queued_ms = wall_ms() as i64;
        let row = NewItem { key: key.to_string(), occurrence: 0, payload, queued_ms, parent: Some(parent) };
        incoming.children += 1;
        drop(incoming);
        self.weigh(false, 1, row.payload.len());
        self.send_rows(vec![(row, item, now)], Duplicates::Skip, true);
        Ok(true)
    }

    /// The item of this run that has the key: who submitted it.
    fn parent_of(&self, key: &Key, run: i64) -> Option<Option<i64>> {
        let (batch, key) = (self.batch, key.to_string());
        let found = self.journal.readers.read(|db| {
            db.prepare_cached("SELECT parent FROM item WHERE batch = ? AND key = ? AND run = ?")?
                .query_row(rusqlite::params![batch, key, run], |row| row.get(0))
                .optional()
        });
        // What cannot be read now is found when it is written.
        found.unwrap_or_default()
    }

    fn is_known(&self, key: &Key, run: i64) -> bool {
        let (batch, key) = (self.batch, key.to_string());
        let known = self.journal.readers.read(|db| {
            db.prepare_cached("SELECT 1 FROM item WHERE batch = ? AND key = ? AND run = ?")?
                .exists(rusqlite::params![batch, key, run])
        });
        // What cannot be read now is found when it is written.
        known.unwrap_or(false)
    }

    /// Sends what has gathered, unless an append is on its way: when that is back, this is called again.
    fn send_on(self: &Arc<Self>, mut incoming: LevelledGuard<'_, Incoming<I>>, duplicates: Duplicates) {
        if incoming.sent > 0 || incoming.rows.is_empty() {
            return;
        }
        let rows = std::mem::take(&mut incoming.rows);
        incoming.sent_bytes = std::mem::take(&mut incoming.bytes);
        incoming.sent = rows.len();
        let bytes = incoming.sent_bytes;
        drop(incoming);
        self.weigh(false, rows.len(), bytes);
        self.send_rows(rows, duplicates, false);
    }

    fn send_rows(
        self: &Arc<Self>,
        rows: Vec<(NewItem, I, Timestamp)>,
        duplicates: Duplicates,
        is_child: bool,
    ) {
        let mut items = Vec::with_capacity(rows.len());
        let mut typed = Vec::with_capacity(rows.len());
        for (item, value, queued) in rows {
            items.push(item);
            typed.push((value, queued));
        }
        let repeats = Arc::clone(&self.incoming.lock().repeats);
        let placed = Vec::with_capacity(items.len());
        let told = Box::new(Told { store: Arc::clone(self), typed, duplicates, is_child });
        let claim = self.claims.room();
        self.journal.send(Append { batch: self.batch, items, duplicates, claim, told, placed, repeats });
    }

    /// Waits until all is committed, then seals.
    pub(super) fn write_seal(self: &Arc<Self>) -> Result<Earlier, Unsealed> {
        self.journal.may_wait().map_err(Unsealed::Journal)?;
        let mut incoming = self.incoming.lock();
        incoming.sealed = true;
        while incoming.len() > 0 && incoming.failed.is_none() {
            incoming = incoming.wait(&self.written);
        }
        if let Some(why) = &incoming.failed {
            return Err(Unsealed::Journal(Arc::clone(why)));
        }
        if let Some(key) = &incoming.duplicate {
            return Err(Unsealed::Duplicate(key.clone()));
        }
        let resumed = incoming.resumed;
        if incoming.stopped {
            // What was dropped, or not taken, is not known: the submission was cut short.
            return Ok(Earlier { resumed, ..Earlier::default() });
        }
        drop(incoming);
        let (batch, opening) = (self.batch, self.opening);
        let (send, answer) = bounded::<Result<Sealed, Arc<JournalError>>>(1);
        let store = Arc::clone(self);
        self.journal.send(Ask {
            write: move |tx: &mut Tx<'_>| seal(tx, batch, opening),
            made: None,
            told: Box::new(move |made| {
                // Here, before the writer tells anybody of what comes later: a retry may take one of them back.
                made.iter().for_each(|sealed| store.children_came(sealed));
                drop(send.send(made));
            }),
        });
        match answer.recv() {
            Ok(Ok(sealed)) => {
                let (done, dead, skipped) = sealed.ended_children;
                let resumed = resumed + done + dead + skipped;
                Ok(Earlier { resumed, vanished: sealed.count, vanished_keys: sealed.keys })
            }
            Ok(Err(why)) => Err(Unsealed::Journal(why)),
            Err(_) => {
                let path = self.journal.path().to_owned();
                Err(Unsealed::Journal(Arc::new(JournalError::Closed { path })))
            }
        }
    }

    /// Items that items of this run had submitted in earlier ones belong to it, too.
    fn children_came(&self, sealed: &Sealed) {
        let (done, dead, skipped) = sealed.ended_children;
        let ended = done + dead + skipped;
        let children = sealed.children.len() as u64;
        if children + ended > 0 {
            // Counted in before any of them can run.
            let link = self.told();
            link.joined(children + ended);
            link.ended_before(done, dead, skipped);
            link.settled(ended, 0);
            self.wait_by_name(&sealed.children);
        }
    }
}

/// Learns what became of an append.
struct Told<I, O> {
    store: Arc<JournalStore<I, O>>,
    typed: Vec<(I, Timestamp)>,
    duplicates: Duplicates,
    /// One row, which an item has submitted.
    is_child: bool,
}

impl<I: Payload, O: Payload> AppendedOp for Told<I, O> {
    fn appended(self: Box<Self>, items: Vec<NewItem>, placed: Vec<Placed>) {
        let Told { store, typed, duplicates, is_child } = *self;
        let (mut done, mut dead, mut skipped, mut repeated) = (0, 0, 0, 0);
        let (mut ready, mut unclaimed, mut by_name) = (Vec::new(), 0, Vec::new());
        let mut twice = None;
        // Values of the user's that are not needed, whose `Drop` may panic.
        let mut left = Vec::new();
        for ((item, (value, queued)), placed) in items.iter().zip(typed).zip(placed) {
            match placed {
                Placed::New { id, claimed: true } => {
                    let key = Key::from(&*item.full_key());
                    let row = Row { seq: seq_of(id), key, queued, item: value, past: None };
                    ready.push(Ready::Typed(row));
                    continue;
                }
                Placed::New { claimed: false, .. } | Placed::Pending { past: None, .. } => unclaimed += 1,
                Placed::Pending { id, past: Some(past) } => by_name.push((id, past)),
                Placed::Ended { kind: Kind::Done } => done += 1,
                Placed::Ended { kind: Kind::Dead } => dead += 1,
                Placed::Ended { kind: Kind::Skipped } => skipped += 1,
                Placed::Duplicate => {
                    repeated += 1;
                    if duplicates == Duplicates::Error && twice.is_none() {
                        twice = Some(Key::from(item.key.as_str()));
                    }
                }
            }
            left.push(value);
        }
        let ended = done + dead + skipped;
        // Before the next append is sent: its rows come after these.
        let count = ready.len() as u64 + unclaimed;
        let (left_out, stopped) = match store.claims.arrived(ready, unclaimed) {
            Ok(()) => (0, Vec::new()),
            Err(rows) => (count, rows),
        };
        {
            let mut incoming = store.incoming.lock();
            incoming.landed(is_child);
            if !incoming.keys.is_empty() {
                for item in &items {
                    incoming.keys.remove(&Key::from(item.key.as_str()));
                }
            }
            incoming.resumed += ended;
            if incoming.duplicate.is_none() {
                incoming.duplicate = twice;
            }
            if !is_child {
                store.send_on(incoming, duplicates);
            }
        }
        store.written.notify_all();
        drop_quietly((left, stopped));
        let link = store.told();
        if ended > 0 {
            link.ended_before(done, dead, skipped);
            link.settled(ended, 0);
        }
        if repeated > 0 {
            link.repeated(repeated);
        }
        if left_out > 0 {
            link.cancelled(left_out);
        }
        if !by_name.is_empty() {
            store.wait_by_name(&by_name);
            let next = store.look_what_is_due(store.clock.now());
            next.into_iter().for_each(|due| link.kick_at(due));
        }
        link.kick();
    }

    fn lost(self: Box<Self>, items: usize, why: &Arc<JournalError>) {
        let store = &self.store;
        {
            store.incoming.lock().landed(self.is_child);
        }
        super::journal::Member::failed(&**store, why);
        store.told().cancelled(items as u64);
    }
}
