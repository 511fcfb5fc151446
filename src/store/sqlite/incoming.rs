//! Submitted rows on their way into the table.
//!
//! One append is on its way at a time; what is pushed meanwhile goes with the next one. So a slow trickle is written
//! row by row, and a flood in pages, without a timer.

use super::append::{Append, Appended as AppendedOp};
use super::batch::{Ask, Sealed, seal};
use super::error::JournalError;
use super::rows::{Kind, NewItem, Placed, calmly, number, seq_of};
use super::store::{JournalStore, Ready, State};
use super::writer::Tx;
use crate::job::{Duplicates, Key, Payload};
use crate::store::{AppendError, Appended, Earlier, Row, Unsealed};
use crate::sync::{Arc, Mutex};
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
    rows: Vec<(NewItem, I, Timestamp)>,
    bytes: usize,
    /// Rows of the append that is on its way; 0: none is.
    sent: usize,
    /// Keys of both, where repeated keys are told to who pushes.
    keys: HashSet<Key>,
    repeats: Arc<Mutex<HashMap<String, u64>>>,
    /// The first key that came twice and must not.
    duplicate: Option<Key>,
    resumed: u64,
}

impl<I> Incoming<I> {
    pub(super) fn new(run: i64) -> Self {
        Incoming {
            run,
            sealed: false,
            rows: Vec::new(),
            bytes: 0,
            sent: 0,
            keys: HashSet::new(),
            repeats: Arc::new(Mutex::new(HashMap::new())),
            duplicate: None,
            resumed: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len() + self.sent
    }

    pub(super) fn drop_unsent(&mut self) -> usize {
        self.bytes = 0;
        std::mem::take(&mut self.rows).len()
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
        let mut state = self.state.lock();
        if bound == usize::MAX && self.journal.may_wait().is_ok() {
            while state.incoming.rows.len() >= MOST_AHEAD || state.incoming.bytes >= MOST_BYTES {
                if state.failed.is_some() || state.stopped {
                    break;
                }
                state = self.written.wait(state);
            }
        }
        if state.incoming.sealed || state.stopped || state.failed.is_some() {
            return Err(AppendError::Sealed(item));
        }
        if state.incoming.len() >= bound {
            return Err(AppendError::Full(item));
        }
        if at_once {
            if !state.incoming.keys.insert(key.clone()) {
                return Err(AppendError::Duplicate(key, item));
            }
            let run = state.incoming.run;
            drop(state);
            // It is not among those on their way, so it is committed or was never pushed.
            let known = self.is_known(&key, run);
            state = self.state.lock();
            if known || state.incoming.sealed || state.stopped || state.failed.is_some() {
                state.incoming.keys.remove(&key);
                return Err(match known {
                    true => AppendError::Duplicate(key, item),
                    false => AppendError::Sealed(item),
                });
            }
        }
        let queued_ms = wall_ms() as i64;
        state.incoming.bytes += payload.len();
        let row = NewItem { key: key.to_string(), occurrence: 0, payload, queued_ms, parent: None };
        state.incoming.rows.push((row, item, now));
        self.send_on(&mut state, duplicates);
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
        let mut state = self.state.lock();
        if state.stopped || state.failed.is_some() {
            return Err(AppendError::Sealed(item));
        }
        if state.incoming.len() >= bound.max(MOST_AHEAD) {
            return Err(AppendError::Full(item));
        }
        if !state.incoming.keys.insert(key.clone()) {
            return Err(AppendError::Duplicate(key, item));
        }
        let run = state.incoming.run;
        drop(state);
        let known = self.parent_of(&key, run);
        let mut state = self.state.lock();
        if state.stopped || state.failed.is_some() {
            state.incoming.keys.remove(&key);
            return Err(AppendError::Sealed(item));
        }
        if let Some(there) = known {
            state.incoming.keys.remove(&key);
            return if there == Some(parent) { Ok(false) } else { Err(AppendError::Duplicate(key, item)) };
        }
        let row = NewItem {
            key: key.to_string(),
            occurrence: 0,
            payload,
            queued_ms: wall_ms() as i64,
            parent: Some(parent),
        };
        state.incoming.rows.push((row, item, now));
        self.send_on(&mut state, Duplicates::Skip);
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

    fn send_on(self: &Arc<Self>, state: &mut State<I>, duplicates: Duplicates) {
        if state.incoming.sent > 0 || state.incoming.rows.is_empty() {
            return;
        }
        let rows = std::mem::take(&mut state.incoming.rows);
        state.incoming.bytes = 0;
        state.incoming.sent = rows.len();
        let mut items = Vec::with_capacity(rows.len());
        let mut typed = Vec::with_capacity(rows.len());
        for (item, value, queued) in rows {
            items.push(item);
            typed.push((value, queued));
        }
        let placed = Vec::with_capacity(items.len());
        let told = Box::new(Told { store: Arc::clone(self), typed, duplicates });
        let (claim, repeats) = (state.claim_room(self.in_flight()), Arc::clone(&state.incoming.repeats));
        self.journal.send(Append { batch: self.batch, items, duplicates, claim, told, placed, repeats });
    }

    /// Waits until all is committed, then seals.
    pub(super) fn write_seal(self: &Arc<Self>) -> Result<Earlier, Unsealed> {
        self.journal.may_wait().map_err(Unsealed::Journal)?;
        let mut state = self.state.lock();
        state.incoming.sealed = true;
        while state.incoming.len() > 0 && state.failed.is_none() {
            state = self.written.wait(state);
        }
        if let Some(why) = &state.failed {
            return Err(Unsealed::Journal(Arc::clone(why)));
        }
        if let Some(key) = &state.incoming.duplicate {
            return Err(Unsealed::Duplicate(key.clone()));
        }
        if state.stopped {
            // What was dropped, or not taken, is not known: the submission was cut short.
            return Ok(Earlier { resumed: state.incoming.resumed, ..Earlier::default() });
        }
        let resumed = state.incoming.resumed;
        drop(state);
        let batch = self.batch;
        let (send, answer) = bounded::<Result<Sealed, Arc<JournalError>>>(1);
        self.journal.send(Ask {
            write: move |tx: &mut Tx<'_>| seal(tx, batch),
            made: None,
            told: Box::new(move |made| drop(send.send(made))),
        });
        match answer.recv() {
            Ok(Ok(sealed)) => {
                let (done, dead, skipped) = sealed.ended_children;
                let ended = done + dead + skipped;
                let children = sealed.children.len() as u64;
                if children + ended > 0 {
                    // Counted in before any of them can run.
                    let link = self.told();
                    link.joined(children + ended);
                    link.ended_before(done, dead, skipped);
                    link.settled(ended, 0);
                    let waiting = {
                        let mut state = self.state.lock();
                        sealed.children.iter().filter(|(id, past)| self.put_by(&mut state, *id, past)).count()
                    };
                    link.waiting(waiting as i64);
                }
                let resumed = resumed + ended;
                Ok(Earlier { resumed, vanished: sealed.count, vanished_keys: sealed.keys })
            }
            Ok(Err(why)) => Err(Unsealed::Journal(why)),
            Err(_) => {
                let path = self.journal.path().to_owned();
                Err(Unsealed::Journal(Arc::new(JournalError::Closed { path })))
            }
        }
    }
}

/// Learns what became of an append.
struct Told<I, O> {
    store: Arc<JournalStore<I, O>>,
    typed: Vec<(I, Timestamp)>,
    duplicates: Duplicates,
}

impl<I: Payload, O: Payload> AppendedOp for Told<I, O> {
    fn appended(self: Box<Self>, items: Vec<NewItem>, placed: Vec<Placed>) {
        let Told { store, typed, duplicates } = *self;
        let (mut done, mut dead, mut skipped, mut repeated, mut waiting) = (0, 0, 0, 0, 0);
        let mut left_out = 0;
        let mut state = store.state.lock();
        state.incoming.sent = 0;
        for ((item, (value, queued)), placed) in items.into_iter().zip(typed).zip(placed) {
            if !state.incoming.keys.is_empty() {
                state.incoming.keys.remove(&Key::from(item.key.as_str()));
            }
            let runs = matches!(placed, Placed::New { .. } | Placed::Pending { .. });
            if runs && state.stopped {
                left_out += 1;
                continue;
            }
            match placed {
                Placed::New { id, claimed: true } => {
                    let key = Key::from(&*item.full_key());
                    state.ready.push_back(Ready::Typed(Row {
                        seq: seq_of(id),
                        key,
                        queued,
                        item: value,
                        past: None,
                    }));
                }
                Placed::New { claimed: false, .. } | Placed::Pending { past: None, .. } => {
                    state.unclaimed += 1
                }
                Placed::Pending { id, past: Some(past) } => {
                    waiting += i64::from(store.put_by(&mut state, id, &past));
                }
                Placed::Ended { kind } => {
                    state.incoming.resumed += 1;
                    match kind {
                        Kind::Done => done += 1,
                        Kind::Dead => dead += 1,
                        Kind::Skipped => skipped += 1,
                    }
                }
                Placed::Duplicate => {
                    repeated += 1;
                    if duplicates == Duplicates::Error && state.incoming.duplicate.is_none() {
                        state.incoming.duplicate = Some(Key::from(item.key.as_str()));
                    }
                }
            }
        }
        store.send_on(&mut state, duplicates);
        drop(state);
        store.written.notify_all();
        let link = store.told();
        if done + dead + skipped > 0 {
            link.ended_before(done, dead, skipped);
            link.settled(done + dead + skipped, 0);
        }
        if repeated > 0 {
            link.repeated(repeated);
        }
        if left_out > 0 {
            link.cancelled(left_out);
        }
        if waiting > 0 {
            link.waiting(waiting);
            let next = crate::store::Store::due(&store, store.clock.now());
            next.into_iter().for_each(|due| link.kick_at(due));
        }
        link.kick();
    }

    fn lost(self: Box<Self>, items: usize, why: &Arc<JournalError>) {
        let store = &self.store;
        {
            let mut state = store.state.lock();
            state.incoming.sent = 0;
        }
        super::journal::Member::failed(&**store, why);
        store.told().cancelled(items as u64);
    }
}
