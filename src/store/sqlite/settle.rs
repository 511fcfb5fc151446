//! How items end, or come back: results, and what is remembered of those that are tried again. All of it is fenced:
//! an item has one result, and who writes it has the number of the attempt that the journal expects.

use super::effects::{anew, quietly, run_theirs, same, savepoint};
use super::error::JournalError;
use super::rows::{Kind, NewError, NewResult, Past, number, result_sum};
use super::writer::{Op, Tx};
use crate::job::Failure;
use crate::sync::Arc;
use crate::time::secs;
use rusqlite::{Connection, OptionalExtension, params};
use std::time::Duration;

/// Results of one chunk. They may become durable in parts, a part a transaction, unless the batch has SQL of its own over
/// them; who learns of it does when all are.
pub(crate) struct Settle {
    pub(crate) batch: i64,
    pub(crate) results: Vec<NewResult>,
    /// The batch's own SQL over those of them that are done.
    pub(crate) group: Option<Box<dyn Group>>,
    pub(crate) told: Box<dyn Settled>,
    pub(crate) marks: Marks,
}

/// How far a [`Settle`] has come.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// Results before this one are durable: it was divided.
    durable: usize,
    /// Those before this one are written.
    written: usize,
    /// By result: whether it came too late: its attempt is not the one that the journal expects.
    came_late: Vec<bool>,
    /// By result: why it is not marked after all. Stays when the group is applied anew.
    refused: Vec<Option<Failure>>,
}

/// Who learns of the commit.
pub(crate) trait Settled: Send {
    /// By result: whether it came too late; why it was refused.
    fn settled(self: Box<Self>, late: Vec<bool>, refused: Vec<Option<Failure>>);
    fn lost(self: Box<Self>, why: &Arc<JournalError>);
}

/// SQL over all items of an op that are done.
pub(crate) trait Group: Send {
    /// This item is not among them after all.
    fn leave_out(&mut self, item: i64);
    fn run(&self, db: &Connection) -> Result<(), Failure>;
}

/// How long the SQL of a group may take.
const GROUP_LIMIT: Duration = secs(30);

impl Op for Settle {
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        self.marks.refused.resize_with(self.results.len(), || None);
        self.marks.came_late.resize(self.results.len(), false);
        let Some(mut group) = self.group.take() else { return self.mark(tx, true) };
        let applied = self.mark_with_group(tx, &mut *group);
        self.group = Some(group);
        applied
    }

    fn part_committed(&mut self) {
        self.marks.durable = self.marks.written;
    }

    fn committed(self: Box<Self>) {
        let Settle { told, marks, results, group, .. } = *self;
        told.settled(marks.came_late, marks.refused);
        quietly((results, group));
    }

    fn lost(self: Box<Self>, why: &Arc<JournalError>) {
        let Settle { told, results, group, .. } = *self;
        // Of a divided one, too, whose first part is durable: the next run finds that part done.
        told.lost(why);
        quietly((results, group));
    }

    fn rows(&self) -> usize {
        self.results.len().max(1)
    }
}

impl Settle {
    fn mark_with_group(&mut self, tx: &mut Tx<'_>, group: &mut dyn Group) -> rusqlite::Result<()> {
        let book = tx.books.of(tx.db, self.batch)?.clone();
        let saved = savepoint(tx.db)?;
        self.mark(tx, false)?;
        let done = |result: &NewResult| result.kind == Kind::Done;
        let mut any = false;
        let Marks { refused, came_late, .. } = &mut self.marks;
        for ((result, refused), late) in self.results.iter().zip(&*refused).zip(&*came_late) {
            if refused.is_some() || *late {
                group.leave_out(result.item);
            } else {
                any |= done(result);
            }
        }
        if !any {
            return saved.keep();
        }
        let Err(failure) = run_theirs(tx, GROUP_LIMIT, |db| group.run(db))? else { return saved.keep() };
        for ((result, refused), late) in self.results.iter().zip(refused).zip(came_late) {
            if done(result) && refused.is_none() && !*late {
                *refused = Some(same(&failure));
            }
        }
        quietly(failure);
        if tx.db.is_autocommit() {
            return Err(anew());
        }
        saved.undo()?;
        *tx.books.of(tx.db, self.batch)? = book;
        // What is left of the op are the dead and the skipped.
        self.mark(tx, false)
    }

    /// Marks all that are not refused, from the first that is not durable. `in_parts`: as far as the transaction has room.
    fn mark(&mut self, tx: &mut Tx<'_>, in_parts: bool) -> rusqlite::Result<()> {
        let Marks { durable, written, came_late, refused } = &mut self.marks;
        *written = *durable;
        for (at, result) in self.results.iter().enumerate().skip(*durable) {
            if in_parts && at > *durable && tx.divide() {
                return Ok(());
            }
            *written = at + 1;
            let (late, refused) = (&mut came_late[at], &mut refused[at]);
            *late = false;
            if refused.is_some() {
                continue;
            }
            let Some(effects) = &result.effects else {
                *late = !mark(tx, self.batch, result)?;
                continue;
            };
            let book = tx.books.of(tx.db, self.batch)?.clone();
            let saved = savepoint(tx.db)?;
            if !mark(tx, self.batch, result)? {
                *late = true;
                saved.keep()?;
                continue;
            }
            match run_theirs(tx, effects.limit, |db| effects.with.iter().try_for_each(|with| with(db)))? {
                Ok(()) => saved.keep()?,
                Err(failure) => {
                    *refused = Some(failure);
                    if tx.db.is_autocommit() {
                        return Err(anew());
                    }
                    saved.undo()?;
                    *tx.books.of(tx.db, self.batch)? = book;
                }
            }
        }
        Ok(())
    }
}

/// Writes one result. False: it came too late.
fn mark(tx: &mut Tx<'_>, batch: i64, result: &NewResult) -> rusqlite::Result<bool> {
    let db = tx.db;
    if result.has_past && read_past(db, result.item)?.is_none_or(|past| past.epoch != result.epoch) {
        return Ok(false);
    }
    let book = tx.books.of(db, batch)?;
    let id = number(batch, book.next_result);
    let kind = result.kind.as_str();
    let times = (result.wait_us, result.run_us, tx.now_ms);
    let output = result.output.as_deref();
    let sum = result_sum(
        id,
        result.item,
        result.key_sum,
        kind,
        result.reason,
        result.epoch,
        result.attempts,
        times,
        output,
    );
    let new = db
        .prepare_cached(
            "INSERT INTO result (id, item, kind, reason, epoch, attempts, wait_us, run_us, ended_ms, output, sum)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (item) DO NOTHING",
        )?
        .execute(params![
            id,
            result.item,
            kind,
            result.reason,
            result.epoch,
            result.attempts,
            times.0,
            times.1,
            times.2,
            output,
            sum
        ])?;
    if new == 0 {
        return Ok(false);
    }
    book.next_result += 1;
    match result.kind {
        Kind::Done => book.done += 1,
        Kind::Dead => book.dead += 1,
        Kind::Skipped => book.skipped += 1,
    }
    if result.has_past {
        db.prepare_cached("DELETE FROM retry WHERE item = ?")?.execute([result.item])?;
    }
    if result.has_steps {
        db.prepare_cached("DELETE FROM step WHERE item = ?")?.execute([result.item])?;
    }
    if let Some(error) = &result.error {
        write_error(db, tx.now_ms, result.item, result.epoch, error)?;
    }
    Ok(true)
}

/// An item that will be tried again.
pub(crate) struct Again {
    pub(crate) item: i64,
    /// The attempt that failed.
    pub(crate) epoch: i64,
    /// From now on.
    pub(crate) past: Past,
    pub(crate) error: Option<NewError>,
    pub(crate) told: Option<Box<dyn FnOnce(Result<(), Arc<JournalError>>) + Send>>,
}

impl Op for Again {
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        let before = read_past(tx.db, self.item)?;
        if before.is_some_and(|before| before.epoch != self.epoch) {
            return Ok(());
        }
        let crashes = before.map_or(0, |before| before.crashes);
        write_past(tx.db, self.item, &Past { crashes, ..self.past })?;
        match &self.error {
            Some(error) => {
                write_error(tx.db, tx.now_ms, self.item, self.epoch, error)?;
                forget_errors(tx.db, self.item, self.epoch)
            }
            None => Ok(()),
        }
    }

    fn committed(mut self: Box<Self>) {
        if let Some(told) = self.told.take() {
            told(Ok(()));
        }
    }

    fn lost(mut self: Box<Self>, why: &Arc<JournalError>) {
        if let Some(told) = self.told.take() {
            told(Err(Arc::clone(why)));
        }
    }
}

/// Errors kept of one item: the first and the latest, which tell most. An item may be put off without end.
const MOST_ERRORS: i64 = 32;

fn forget_errors(db: &Connection, item: i64, epoch: i64) -> rusqlite::Result<()> {
    if epoch <= MOST_ERRORS {
        return Ok(());
    }
    db.prepare_cached(
        "DELETE FROM error WHERE item = ?1 AND epoch < ?2 AND epoch > (SELECT min(epoch) FROM error WHERE item = ?1)",
    )?
    .execute(params![item, epoch - MOST_ERRORS + 2])
    .map(drop)
}

pub(crate) fn write_error(
    db: &Connection,
    now_ms: i64,
    item: i64,
    epoch: i64,
    error: &NewError,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO error (item, epoch, attempt, kind, message, place, at_ms, sum)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        item,
        epoch,
        error.attempt,
        error.kind,
        error.message,
        error.place,
        now_ms,
        error.sum(item, epoch, now_ms)
    ])
    .map(drop)
}

/// What the item has behind it.
pub(crate) fn read_past(db: &Connection, item: i64) -> rusqlite::Result<Option<Past>> {
    let found: Option<(Past, i64)> = db
        .prepare_cached(
            "SELECT epoch, tries, lost, crashes, deferrals, due_ms, suspect, owner, sum FROM retry WHERE item = ?",
        )?
        .query_row([item], |row| {
            let past = Past {
                epoch: row.get(0)?,
                tries: row.get(1)?,
                lost: row.get(2)?,
                crashes: row.get(3)?,
                deferrals: row.get(4)?,
                due_ms: row.get(5)?,
                suspect: row.get::<_, i64>(6)? != 0,
                owner: row.get(7)?,
            };
            Ok((past, row.get(8)?))
        })
        .optional()?;
    match found {
        Some((past, sum)) if past.sum(item) != sum => Err(damaged("retry", item)),
        found => Ok(found.map(|(past, _)| past)),
    }
}

pub(crate) fn write_past(db: &Connection, item: i64, past: &Past) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO retry (item, epoch, tries, lost, crashes, deferrals, due_ms, suspect, owner, sum)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        item,
        past.epoch,
        past.tries,
        past.lost,
        past.crashes,
        past.deferrals,
        past.due_ms,
        i64::from(past.suspect),
        past.owner,
        past.sum(item)
    ])
    .map(drop)
}

/// A row whose checksum is not that of its columns, as an error of SQLite: it ends the journal as other damage does.
pub(crate) fn damaged(table: &str, id: i64) -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    rusqlite::Error::SqliteFailure(
        code,
        Some(format!("row {id} of table {table} does not match its checksum")),
    )
}
