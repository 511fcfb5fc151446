//! A journal without the types of its items: what tools read, beside its owner if it has one, and what they ask of it.
//!
//! Reading takes short statements, a few hundred rows at a time. What writes needs the lock: who wants to write and finds
//! an owner leaves a request in the table `control`, which the owner looks at ten times a second ([`ask_owner`]).

use super::error::{At, JournalError};
use super::journal::{Journal, Options};
pub(crate) use super::moment::utc;
use super::owner::{Orphans, boot};
pub(crate) use super::read::RawResult;
pub(crate) use super::revive::{Pick, Revived};
pub(crate) use super::rows::Kind;
use super::rows::{number, seq_of};
use super::schema::open_beside;
use super::writer::Tx;
use super::{piece, read, revive};
use crate::job::{AttemptError, Durability};
use crate::lock::{Levelled, house};
use crate::sync::Arc;
use crate::time::{secs, wall_ms};
use rusqlite::{Connection, OptionalExtension, params};
use std::path::{Path, PathBuf};

/// Rows of one statement.
pub(crate) const PAGE: usize = 256;
/// Items that one statement passes over.
const SPAN: u64 = 10_000;

/// A connection that only reads.
#[derive(Debug)]
pub(crate) struct Reading {
    path: PathBuf,
    db: Levelled<Connection, house::AdminDb>,
}

/// Who holds the journal, or held it when it died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnerRow {
    pub(crate) pid: u32,
    pub(crate) since_ms: u64,
    pub(crate) lives: bool,
}

/// A batch as its row has it.
#[derive(Debug, Clone, Default)]
pub(crate) struct BatchRow {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) parameters: String,
    pub(crate) processor: String,
    pub(crate) version: String,
    pub(crate) run: u64,
    pub(crate) sealed: bool,
    pub(crate) total: u64,
    pub(crate) done: u64,
    pub(crate) dead: u64,
    pub(crate) skipped: u64,
    /// Items that wait for another attempt.
    pub(crate) again: u64,
    pub(crate) paused: bool,
    /// How its last run ended, as JSON; `None`: it has not, or its process died.
    pub(crate) status: Option<String>,
    pub(crate) created_ms: u64,
    pub(crate) ended_ms: Option<u64>,
}

impl BatchRow {
    /// Items that have not ended.
    pub(crate) fn open(&self) -> u64 {
        self.total.saturating_sub(self.done + self.dead + self.skipped)
    }
}

impl Reading {
    /// # Errors
    ///
    /// It is not there, not a journal, or of a newer version.
    pub(crate) fn open(path: &Path) -> Result<Reading, JournalError> {
        Ok(Reading { path: path.to_owned(), db: Levelled::new(open_beside(path, false)?) })
    }

    fn read<R>(&self, f: impl FnOnce(&Connection) -> rusqlite::Result<R>) -> Result<R, JournalError> {
        f(&self.db.lock()).map_err(At(&self.path).failed("cannot be read"))
    }

    /// The last owner, unless it has ended in an orderly way.
    pub(crate) fn owner(&self) -> Result<Option<OwnerRow>, JournalError> {
        self.read(|db| {
            db.prepare_cached(
                "SELECT pid, started_ms, boot FROM owner WHERE ended_ms IS NULL ORDER BY id DESC LIMIT 1",
            )?
            .query_row([], |row| {
                let (pid, since_ms): (u32, i64) = (row.get(0)?, row.get(1)?);
                let lives = row.get::<_, String>(2)? == boot() && lives(pid);
                Ok(OwnerRow { pid, since_ms: since_ms as u64, lives })
            })
            .optional()
        })
    }

    /// All batches, the oldest first.
    pub(crate) fn batches(&self) -> Result<Vec<BatchRow>, JournalError> {
        self.read(|db| {
            let rows: Vec<BatchRow> = db
                .prepare_cached(
                    "SELECT id, name, parameters, processor, version, run, sealed, total, done, dead, skipped, paused,
                     status, created_ms, ended_ms FROM batch ORDER BY id",
                )?
                .query_map([], |row| {
                    let count = |column: usize| row.get::<_, i64>(column).map(|n| n as u64);
                    Ok(BatchRow {
                        id: row.get(0)?,
                        name: row.get(1)?,
                        parameters: row.get(2)?,
                        processor: row.get(3)?,
                        version: row.get(4)?,
                        run: count(5)?,
                        sealed: row.get(6)?,
                        total: count(7)?,
                        done: count(8)?,
                        dead: count(9)?,
                        skipped: count(10)?,
                        again: 0,
                        paused: row.get(11)?,
                        status: row.get(12)?,
                        created_ms: count(13)?,
                        ended_ms: row.get::<_, Option<i64>>(14)?.map(|ms| ms as u64),
                    })
                })?
                .collect::<rusqlite::Result<_>>()?;
            let again = |row: BatchRow| Ok(BatchRow { again: read::tried_before(db, row.id)?, ..row });
            rows.into_iter().map(again).collect()
        })
    }

    /// Results behind a cursor, in the order of completion.
    pub(crate) fn results(&self, batch: i64, cursor: u64) -> Result<Vec<RawResult>, JournalError> {
        self.read(|db| read::by_completion(db, batch, cursor, PAGE))
    }

    /// The dead behind a cursor, in the order in which they died, and the cursor behind them; `None`: those were all.
    pub(crate) fn dead(
        &self,
        batch: i64,
        cursor: u64,
    ) -> Result<(Vec<RawResult>, Option<u64>), JournalError> {
        self.read(|db| read::dead(db, batch, cursor, PAGE))
    }

    /// Results from an item on, in the order of submission, up to the first that is to come. `gaps`: none is.
    pub(crate) fn results_in_order(
        &self,
        batch: i64,
        from: u64,
        gaps: bool,
    ) -> Result<Vec<RawResult>, JournalError> {
        self.read(|db| read::by_input(db, batch, from, PAGE, gaps))
    }

    /// How many results there are: the cursor behind the last.
    pub(crate) fn ended(&self, batch: i64) -> Result<u64, JournalError> {
        Ok(self.read(|db| Ok(super::batch::last_of(db, "result", batch)? + 1))? as u64)
    }

    /// Results from one cursor to another whose items lie before this one, in the order of completion: a page, and the
    /// cursor behind it.
    pub(crate) fn results_behind(
        &self,
        batch: i64,
        item: u64,
        from: u64,
        to: u64,
    ) -> Result<(Vec<RawResult>, u64), JournalError> {
        let number = |n: u64| number(batch, n as i64);
        self.read(|db| {
            let found: Vec<(i64, i64)> = db
                .prepare_cached(
                    "SELECT id, item FROM result WHERE id >= ? AND id < ? AND item < ? ORDER BY id LIMIT ?",
                )?
                .query_map(params![number(from), number(to), number(item), PAGE as i64], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?
                .collect::<rusqlite::Result<_>>()?;
            let behind = found.last().filter(|_| found.len() == PAGE).map_or(to, |(id, _)| seq_of(*id) + 1);
            let mut rows = Vec::new();
            for (_, item) in found {
                // One may have been taken back since, and another one come, which is looked at in its turn.
                rows.extend(read::of_item(db, item).optional()?.filter(|row| row.cursor <= to));
            }
            Ok((rows, behind))
        })
    }

    /// The first of these items that has no result, or one beyond this number, or has died. If there is none, the number
    /// behind the last, or the end of the range.
    pub(crate) fn first_beyond(
        &self,
        batch: i64,
        (from, to): (u64, u64),
        results: u64,
    ) -> Result<u64, JournalError> {
        let items = self.read(|db| Ok(super::batch::last_of(db, "item", batch)? + 1))? as u64;
        let (mut from, to) = (from, to.min(items).max(from));
        while from < to {
            let until = (from + SPAN).min(to);
            let number = |n: u64| number(batch, n as i64);
            let found: Option<i64> = self.read(|db| {
                db.prepare_cached(
                    "SELECT i.id FROM item i LEFT JOIN result r ON r.item = i.id WHERE i.id >= ? AND i.id < ?
                     AND (r.id IS NULL OR r.id >= ? OR r.kind = 'dead') ORDER BY i.id LIMIT 1",
                )?
                .query_row([number(from), number(until), number(results)], |row| row.get(0))
                .optional()
            })?;
            match found {
                Some(found) => return Ok(seq_of(found)),
                None => from = until,
            }
        }
        Ok(from)
    }

    /// Whether a result is still there: a dead item may have been taken back.
    pub(crate) fn stands(&self, result: &RawResult) -> Result<bool, JournalError> {
        self.read(|db| {
            db.prepare_cached("SELECT 1 FROM result WHERE item = ? AND epoch = ?")?
                .exists(params![result.item, result.epoch])
        })
    }

    /// Why the attempts of an item failed.
    pub(crate) fn errors(&self, item: i64) -> Result<Vec<AttemptError>, JournalError> {
        self.read(|db| read::errors(db, item))
    }

    /// An item as it was submitted: JSON.
    pub(crate) fn payload(&self, item: i64) -> Result<String, JournalError> {
        self.read(|db| {
            db.prepare_cached("SELECT payload FROM item WHERE id = ?")?.query_row([item], |row| row.get(0))
        })
    }

    /// An item as it was submitted, by its key.
    pub(crate) fn payload_of(&self, batch: i64, key: &str) -> Result<Option<String>, JournalError> {
        self.read(|db| {
            db.prepare_cached("SELECT payload FROM item WHERE batch = ? AND key = ?")?
                .query_row(params![batch, key], |row| row.get(0))
                .optional()
        })
    }

    /// A piece of what the attempt that ended an item has left.
    pub(crate) fn piece(
        &self,
        item: i64,
        epoch: i64,
        name: &str,
        n: u64,
    ) -> Result<Option<Vec<u8>>, JournalError> {
        self.read(|db| piece::read(db, item, epoch, name, n as i64))
    }

    /// How far a reader has come.
    pub(crate) fn mark(&self, batch: i64, reader: &str) -> Result<u64, JournalError> {
        self.read(|db| {
            let at: Option<i64> = db
                .prepare_cached("SELECT at FROM mark WHERE batch = ? AND reader = ?")?
                .query_row(params![batch, reader], |row| row.get(0))
                .optional()?;
            Ok(at.unwrap_or(0) as u64)
        })
    }
}

/// Writes how far readers of a batch have come, some time soon.
pub(crate) fn send_marks(journal: &Journal, batch: i64, marks: Vec<(&'static str, u64)>) {
    journal.send_along(super::batch::Ask {
        write: move |tx: &mut Tx<'_>| {
            let mut insert =
                tx.db.prepare_cached("INSERT OR REPLACE INTO mark (batch, reader, at) VALUES (?, ?, ?)")?;
            for (reader, at) in &marks {
                insert.execute(params![batch, reader, *at as i64])?;
            }
            Ok(())
        },
        made: None,
        told: Box::new(|_: Result<(), _>| ()),
    });
}

/// Makes dead items pending, as their owner for that time: the next run of their batch tries them. Returns how many.
///
/// # Errors
///
/// [`JournalError::InUse`] names a live owner.
pub(crate) fn revive(
    path: &Path,
    kill: &mut dyn FnMut(&Orphans),
    batch: i64,
    pick: &Pick,
) -> Result<u64, Arc<JournalError>> {
    with_owner(path, kill, |journal| {
        let (mut revived, mut next) = (0, Some(0));
        while let Some(cursor) = next {
            let pick = pick.clone();
            let (more, behind) = journal.ask(move |tx| {
                let page = revive::page(tx, batch, &pick, cursor, u64::MAX)?;
                Ok((page.len(), page.next))
            })?;
            revived += more;
            next = behind;
        }
        Ok(revived)
    })
}

/// Becomes the owner for as long as `work` takes; a dead one is taken over before, as at any opening.
///
/// # Errors
///
/// [`JournalError::InUse`] names a live owner.
fn with_owner<R>(
    path: &Path,
    kill: &mut dyn FnMut(&Orphans),
    work: impl FnOnce(&Journal) -> Result<R, Arc<JournalError>>,
) -> Result<R, Arc<JournalError>> {
    // It must be one already.
    open_beside(path, false)?;
    let options = Options {
        durability: Durability::PowerLoss,
        workers: 0,
        patience: Some(secs(5)),
        kill,
        tell: Box::new(|_| ()),
    };
    let journal = Journal::open(path, options)?;
    let worked = work(&journal);
    journal.close();
    worked
}

/// Steers a batch that nobody runs, as the owner for that time.
///
/// # Errors
///
/// [`JournalError::InUse`] names a live owner.
pub(crate) fn steer(
    path: &Path,
    kill: &mut dyn FnMut(&Orphans),
    batch: i64,
    verb: &str,
) -> Result<String, Arc<JournalError>> {
    let verb = verb.to_owned();
    with_owner(path, kill, |journal| {
        journal.ask(move |tx| super::batch::steer(tx, batch, &verb).map(str::to_owned))
    })
}

/// Asks the owner; the number of the request.
pub(crate) fn ask_owner(path: &Path, batch: i64, verb: &str) -> Result<i64, JournalError> {
    let db = open_beside(path, true)?;
    db.execute(
        "INSERT INTO control (batch, verb, at_ms) VALUES (?, ?, ?)",
        params![batch, verb, wall_ms() as i64],
    )
    .map_err(At(path).failed("cannot be written"))?;
    Ok(db.last_insert_rowid())
}

/// What has become of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// With what has been done so far, of what takes its time.
    Pending(Option<String>),
    Given(String),
    /// Its owner has died.
    Gone,
}

impl Reading {
    /// Whether the owner has answered.
    pub(crate) fn answer(&self, request: i64) -> Result<Answer, JournalError> {
        let found: Option<(Option<i64>, Option<String>)> = self.read(|db| {
            db.prepare_cached("SELECT done_ms, answer FROM control WHERE id = ?")?
                .query_row([request], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })?;
        Ok(match found {
            None => Answer::Gone,
            Some((None, so_far)) => Answer::Pending(so_far),
            Some((Some(_), answer)) => Answer::Given(answer.unwrap_or_default()),
        })
    }
}

/// Whether there is a process of this number that has not ended.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}
