//! Outcomes on their way into the table: results, retries, steps, the end.

use super::batch::{Ask, end};
use super::error::JournalError;
use super::rows::{Kind, NewError, NewResult, Past as RowFate, calmly, key_sum, number};
use super::settle::{Again, Group, Marks, Settle, Settled as SettledOp};
use super::step::Step;
use super::store::JournalStore;
use super::writer::Tx;
use crate::job::{AttemptError, AttemptKind, Dead, DeadItem, DeadReason, Failure, Key, Payload};
use crate::store::{Kept, Origin, Retried, Settled, WriteWith};
use crate::sync::Arc;
use crate::time::wall_ms;
use crossbeam::channel::bounded;
use rusqlite::Connection;
use std::time::Duration;

impl<I: Payload, O: Payload> JournalStore<I, O> {
    /// Encodes here, in the worker; the writer only writes.
    pub(super) fn settle_rows(self: &Arc<Self>, settled: &mut Vec<Settled<O>>) {
        let rows = settled.len();
        let mut results = Vec::with_capacity(rows);
        let mut bytes = 0;
        let stepped = !self.steps.lock().is_empty();
        let write_with = self.group.get();
        let mut group = Vec::new();
        let mut from = Vec::with_capacity(rows);
        for row in settled.drain(..) {
            let suspect = row.past.is_some_and(|past| past.suspect);
            let stepped_here = stepped && self.steps.lock().remove(&row.seq);
            let has_steps = row.past.is_some() || stepped_here;
            let mut buried = None;
            let (kind, reason, output, error) = match row.outcome {
                Ok(value) => match calmly(|| value.encode()) {
                    Ok(output) => {
                        bytes += output.len();
                        if write_with.is_some() {
                            group.push((number(self.batch, row.seq as i64), (row.key.clone(), value)));
                        }
                        (Kind::Done, None, Some(output), None)
                    }
                    Err(why) => {
                        let error = AttemptError::new(row.attempts, AttemptKind::Fatal, why);
                        let text = new_error(&error);
                        let dead = Dead::new(DeadReason::Unreadable, row.attempts, vec![error]);
                        buried = Some(dead);
                        (Kind::Dead, Some(DeadReason::Unreadable), None, Some(text))
                    }
                },
                Err(dead) => {
                    let kind = if dead.is_skipped() { Kind::Skipped } else { Kind::Dead };
                    let (reason, error) = (dead.reason(), dead.last_error().map(new_error));
                    // One that nobody has run: the engine does not know of it yet.
                    buried = (reason == DeadReason::Unreadable).then_some(dead);
                    (kind, Some(reason), None, error)
                }
            };
            results.push(NewResult {
                item: number(self.batch, row.seq as i64),
                key_sum: key_sum(&row.key.text()),
                epoch: row.past.map_or(1, |past| past.epoch.into()),
                has_past: row.past.is_some(),
                has_steps,
                kind,
                reason: reason.map(DeadReason::as_str),
                attempts: row.attempts.into(),
                wait_us: micros(row.queued_time),
                run_us: micros(row.run_time),
                output,
                error,
                // Of an output that cannot be kept nothing is written.
                effects: row.effects.filter(|_| kind == Kind::Done),
            });
            from.push(From { origin: row.origin, suspect, kind, seq: row.seq, buried });
        }
        self.weigh(true, rows, bytes);
        let group = write_with.filter(|_| !group.is_empty()).map(|write| {
            let (items, done) = group.into_iter().unzip();
            Box::new(WriteGroup { write: Arc::clone(write), items, done }) as Box<dyn Group>
        });
        let told = Box::new(Told { store: Arc::clone(self), from });
        self.journal.send(Settle { batch: self.batch, results, group, told, marks: Marks::default() });
    }

    /// An item that will be tried again. Nothing of it is kept in memory but its number and its time.
    pub(super) fn put_again(self: &Arc<Self>, item: &Retried) {
        let id = number(self.batch, item.seq as i64);
        let epoch = item.past.map_or(1, |past| i64::from(past.epoch));
        let wait = item.due - self.clock.now();
        let past = RowFate {
            epoch: epoch + 1,
            tries: item.tries.into(),
            lost: item.lost.into(),
            crashes: 0,
            deferrals: item.deferrals.into(),
            due_ms: wall_ms() as i64 + wait.as_millis() as i64,
            suspect: false,
            owner: 0,
        };
        let (store, due) = (Arc::clone(self), item.due);
        let suspect = item.past.is_some_and(|past| past.suspect);
        let told = move |written: Result<(), Arc<JournalError>>| {
            let put_off = written.is_ok() && store.put_off(due, id).is_ok();
            store.landed(1, usize::from(suspect));
            match put_off {
                true => store.told().kick_at(due),
                false => store.told().cancelled(1),
            }
        };
        let error = item.error.as_ref().map(new_error);
        self.journal.send(Again { item: id, epoch, past, error, told: Some(Box::new(told)) });
    }

    pub(super) fn write_end(self: &Arc<Self>, status: &str) {
        let (batch, opening) = (self.batch, self.opening);
        let (status, store) = (status.to_owned(), Arc::clone(self));
        self.journal.send(Ask {
            write: move |tx: &mut Tx<'_>| end(tx, batch, opening, &status),
            made: None,
            // Written or lost: the batch has ended.
            told: Box::new(move |_: Result<(), _>| store.told().ended()),
        });
    }

    pub(super) fn read_dead(&self) -> Result<Vec<DeadItem>, Arc<JournalError>> {
        super::read::all_dead(&self.journal.readers, self.batch).map_err(Arc::new)
    }

    pub(super) fn read_step(&self, seq: u64, name: &str) -> Result<Option<String>, Arc<JournalError>> {
        let item = number(self.batch, seq as i64);
        self.journal.readers.read(|db| super::read::step(db, item, name)).map_err(Arc::new)
    }

    /// Sends it; what it returns waits until it is durable.
    pub(super) fn write_step(&self, seq: u64, epoch: u32, name: &str, output: &str) -> Kept {
        if let Err(why) = self.journal.may_wait() {
            return Box::new(|| Err(why));
        }
        self.steps.lock().insert(seq);
        let (send, answer) = bounded(1);
        self.journal.send(Step {
            item: number(self.batch, seq as i64),
            epoch: epoch.into(),
            name: name.to_owned(),
            output: output.to_owned(),
            stale: false,
            told: Box::new(move |written| drop(send.send(written))),
        });
        let path = self.journal.path().to_owned();
        Box::new(move || answer.recv().unwrap_or_else(|_| Err(Arc::new(JournalError::Closed { path }))))
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

fn new_error(error: &AttemptError) -> NewError {
    NewError {
        attempt: error.attempt.into(),
        kind: error.kind.as_str(),
        message: error.message.clone(),
        place: error.place.clone(),
    }
}

/// Learns of the commit of some results.
struct Told<I, O> {
    store: Arc<JournalStore<I, O>>,
    from: Vec<From>,
}

/// Where one of them comes from.
struct From {
    origin: Option<Origin>,
    suspect: bool,
    kind: Kind,
    seq: u64,
    /// It is dead, and only the store knows: it could not be read, or its output not be written.
    buried: Option<Dead>,
}

/// The batch's SQL over what is done.
struct WriteGroup<O> {
    write: WriteWith<O>,
    items: Vec<i64>,
    done: Vec<(Key, O)>,
}

impl<O: Payload> Group for WriteGroup<O> {
    fn leave_out(&mut self, item: i64) {
        if let Some(at) = self.items.iter().position(|there| *there == item) {
            self.items.remove(at);
            self.done.remove(at);
        }
    }

    fn run(&self, db: &Connection) -> Result<(), Failure> {
        (self.write)(db, &self.done)
    }
}

impl<I: Payload, O: Payload> SettledOp for Told<I, O> {
    fn settled(self: Box<Self>, late: Vec<bool>, refused: Vec<Option<Failure>>) {
        let Told { store, from } = *self;
        let (mut back, mut buried) = (Vec::new(), Vec::new());
        let (mut rows, mut suspects, mut done, mut came_late) = (0, 0, 0, 0);
        for ((from, failure), late) in from.into_iter().zip(refused).zip(late) {
            match (from.origin, failure) {
                // Out, and suspect, until it comes back or ends.
                (Some(origin), Some(failure)) => back.push((origin, failure)),
                _ => {
                    rows += 1;
                    suspects += usize::from(from.suspect);
                    came_late += u64::from(late);
                    done += u64::from(from.kind == Kind::Done && !late);
                    buried.extend(from.buried.filter(|_| !late).map(|dead| (from.seq, dead)));
                }
            }
        }
        store.landed(rows, suspects);
        let link = store.told();
        if came_late > 0 {
            link.late(came_late);
        }
        for (seq, dead) in buried {
            link.gave_up(seq, &dead);
        }
        link.settled(rows as u64, done);
        for (origin, failure) in back {
            link.refused(origin, failure);
        }
    }

    fn lost(self: Box<Self>, _why: &Arc<JournalError>) {
        let Told { store, from, .. } = *self;
        store.landed(from.len(), from.iter().filter(|from| from.suspect).count());
        // The engine has counted the dead and the skipped already.
        let counted = |from: &&From| from.kind != Kind::Done && from.buried.is_none();
        let counted = from.iter().filter(counted).count();
        store.told().settled(counted as u64, 0);
        store.told().cancelled((from.len() - counted) as u64);
    }
}
