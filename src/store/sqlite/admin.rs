//! A journal without the types of its items: what tools read, beside its owner if it has one, and what they ask of it.
//!
//! Reading takes short statements, a few hundred rows at a time. What writes needs the lock: who wants to write and finds
//! an owner leaves a request in the table `control`, which the owner looks at ten times a second ([`ask_owner`]).

use super::append::again;
use super::error::{At, JournalError};
use super::journal::{Journal, Options};
pub(crate) use super::moment::utc;
use super::owner::{Orphans, boot};
pub(crate) use super::read::RawResult;
pub(crate) use super::rows::Kind;
use super::rows::range_of;
use super::schema::open_beside;
use super::writer::Tx;
use super::{piece, read};
use crate::job::{AttemptError, Durability};
use crate::sync::{Arc, Mutex};
use crate::time::{secs, wall_ms};
use rusqlite::{Connection, OptionalExtension, params};
use std::path::{Path, PathBuf};

/// Rows of one statement.
pub(crate) const PAGE: usize = 256;

/// A connection that only reads.
#[derive(Debug)]
pub(crate) struct Reading {
    path: PathBuf,
    db: Mutex<Connection>,
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
        Ok(Reading { path: path.to_owned(), db: Mutex::new(open_beside(path, false)?) })
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
            rows.into_iter()
                .map(|row| {
                    let (from, to) = range_of(row.id);
                    let again: i64 = db
                        .prepare_cached("SELECT count(*) FROM retry WHERE item >= ? AND item < ?")?
                        .query_row([from, to], |row| row.get(0))?;
                    Ok(BatchRow { again: again as u64, ..row })
                })
                .collect()
        })
    }

    /// Results behind a cursor, in the order of completion.
    pub(crate) fn results(&self, batch: i64, cursor: u64) -> Result<Vec<RawResult>, JournalError> {
        self.read(|db| read::by_completion(db, batch, cursor, PAGE))
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

/// Which of the dead are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pick {
    All,
    /// The one with this key.
    Key(String),
    /// Those with this text in an error of theirs.
    Matching(String),
}

/// Makes dead items pending: the next run of their batch tries them from the start. Whatever they died of. Returns how
/// many.
pub(crate) fn revive(tx: &mut Tx<'_>, batch: i64, pick: &Pick) -> rusqlite::Result<u64> {
    let mut revived = 0;
    for row in read::dead(tx.db, batch)? {
        let meant = match pick {
            Pick::All => true,
            Pick::Key(key) => row.key.to_string() == *key,
            Pick::Matching(text) => {
                read::errors(tx.db, row.item)?.iter().any(|error| error.message.contains(text))
            }
        };
        if meant {
            again(tx.db, row.item, row.epoch)?;
            tx.books.of(tx.db, batch)?.dead -= 1;
            revived += 1;
        }
    }
    Ok(revived)
}

/// Becomes the owner for as long as `write` takes; a dead one is taken over before, as at any opening.
///
/// # Errors
///
/// [`JournalError::InUse`] names a live owner.
pub(crate) fn as_owner<R: Send + 'static>(
    path: &Path,
    kill: &mut dyn FnMut(&Orphans),
    write: impl FnMut(&mut Tx<'_>) -> rusqlite::Result<R> + Send + 'static,
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
    let written = journal.ask(write);
    journal.close();
    written
}

/// As [`as_owner`], for what can be asked of a batch that runs in another process, and of one that nobody runs.
pub(crate) fn steer(
    path: &Path,
    kill: &mut dyn FnMut(&Orphans),
    batch: i64,
    verb: &str,
) -> Result<String, Arc<JournalError>> {
    let verb = verb.to_owned();
    as_owner(path, kill, move |tx| super::batch::steer(tx, batch, &verb).map(str::to_owned))
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
    Pending,
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
            Some((None, _)) => Answer::Pending,
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
