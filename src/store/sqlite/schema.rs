//! The tables of a journal, and how a file is opened as one.
//!
//! An item's number in the file is `batch << 40 | seq`, a result's `batch << 40 | n` with `n` the order of completion:
//! so both trees grow at their right edge, and a batch is a range of each. Nothing is written when an item merely
//! starts: that it was claimed is told by `batch.claimed_to`, a mark that moves once a page. A row in `retry` exists
//! only for items that have something behind them.
//!
//! `sum` is a SipHash of the row's other columns (not of `item.run`, which changes with each submission; that of a
//! result takes in its item's key): a row that was damaged is named instead of being believed.

use super::error::{At, JournalError};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// "byrd": what `file` and SQLite's tools show as the application id.
pub(crate) const APPLICATION_ID: i32 = 0x6279_7264;
/// The schema this version writes; kept in `user_version`.
pub(crate) const VERSION: i32 = 1;
/// How far the batch's number is shifted in the numbers of items and results.
pub(crate) const BATCH_SHIFT: u32 = 40;
/// Items a batch can have: 10^12.
pub(crate) const MOST_ITEMS: i64 = 1 << BATCH_SHIFT;

const TABLES: &str = "
CREATE TABLE owner (            -- a process that held the journal
  id         INTEGER PRIMARY KEY,
  uid        TEXT NOT NULL UNIQUE, -- random; in the environment of its children
  pid        INTEGER NOT NULL,
  boot       TEXT NOT NULL,        -- which start of the machine
  started_ms INTEGER NOT NULL,
  ended_ms   INTEGER               -- null: it holds it still, or died
) STRICT;

CREATE TABLE batch (
  id          INTEGER PRIMARY KEY,
  name        TEXT NOT NULL,
  parameters  TEXT NOT NULL,
  processor   TEXT NOT NULL,       -- what runs its items, with its version: another one is refused
  version     TEXT NOT NULL,
  run         INTEGER NOT NULL,    -- how often it was submitted
  sealed      INTEGER NOT NULL,    -- 0: the submission is under way, or was killed
  next_seq    INTEGER NOT NULL,
  next_result INTEGER NOT NULL,
  claimed_to  INTEGER NOT NULL,    -- items of this run below this number may have been started
  total       INTEGER NOT NULL,
  done        INTEGER NOT NULL,
  dead        INTEGER NOT NULL,
  skipped     INTEGER NOT NULL,
  paused      INTEGER NOT NULL,
  status      TEXT,                -- how its last run ended; null: it has not
  created_ms  INTEGER NOT NULL,
  ended_ms    INTEGER,
  sum         INTEGER NOT NULL,    -- of all up to `skipped`
  UNIQUE (name, parameters)
) STRICT;

CREATE TABLE item (
  id        INTEGER PRIMARY KEY,   -- batch << 40 | seq
  batch     INTEGER GENERATED ALWAYS AS (id >> 40) VIRTUAL,
  seq       INTEGER GENERATED ALWAYS AS (id & 1099511627775) VIRTUAL,
  key       TEXT NOT NULL,
  run       INTEGER NOT NULL,      -- the submission that named it last
  queued_ms INTEGER NOT NULL,
  parent    INTEGER,               -- the item that submitted it
  payload   TEXT NOT NULL,         -- JSON
  sum       INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX item_key ON item (batch, key);
CREATE INDEX item_parent ON item (parent) WHERE parent IS NOT NULL;

CREATE TABLE retry (               -- items with something behind them that have not ended
  item      INTEGER PRIMARY KEY,
  epoch     INTEGER NOT NULL,      -- number of the next attempt, written before it starts
  tries     INTEGER NOT NULL,      -- failures that count
  lost      INTEGER NOT NULL,      -- attempts whose process died
  crashes   INTEGER NOT NULL,      -- those of them that had the process to themselves
  deferrals INTEGER NOT NULL,
  due_ms    INTEGER NOT NULL,
  suspect   INTEGER NOT NULL,      -- 1: in hand when a process died; runs alone
  owner     INTEGER NOT NULL,      -- who has claimed it, written before it starts; 0: nobody
  sum       INTEGER NOT NULL
) STRICT;

CREATE TABLE error (               -- why attempts failed
  item    INTEGER NOT NULL,
  epoch   INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  kind    TEXT NOT NULL,
  message TEXT NOT NULL,
  place   TEXT,
  at_ms   INTEGER NOT NULL,
  sum     INTEGER NOT NULL,
  PRIMARY KEY (item, epoch)
) STRICT, WITHOUT ROWID;

CREATE TABLE result (
  id       INTEGER PRIMARY KEY,    -- batch << 40 | n, in the order of completion
  item     INTEGER NOT NULL UNIQUE,
  kind     TEXT NOT NULL,          -- done, dead, skipped
  reason   TEXT,                   -- of the dead
  epoch    INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  wait_us  INTEGER NOT NULL,
  run_us   INTEGER NOT NULL,
  ended_ms INTEGER NOT NULL,
  output   TEXT,                   -- JSON, of the done
  sum      INTEGER NOT NULL
) STRICT;

CREATE TABLE step (                -- what attempts of open items have achieved
  item   INTEGER NOT NULL,
  name   TEXT NOT NULL,
  output TEXT NOT NULL,            -- JSON
  sum    INTEGER NOT NULL,
  PRIMARY KEY (item, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE piece (               -- what attempts have left besides their result: large, or of a failed one
  id    INTEGER PRIMARY KEY,
  item  INTEGER NOT NULL,
  name  TEXT NOT NULL,
  n     INTEGER NOT NULL,          -- pieces of one name follow one another
  epoch INTEGER NOT NULL,          -- the attempt
  bytes BLOB NOT NULL,
  sum   INTEGER NOT NULL,
  UNIQUE (item, name, n)
) STRICT;

CREATE TABLE mark (                -- how far a reader has come
  batch  INTEGER NOT NULL,
  reader TEXT NOT NULL,
  at     INTEGER NOT NULL,
  PRIMARY KEY (batch, reader)
) STRICT, WITHOUT ROWID;

CREATE TABLE control (             -- what other processes ask of the owner
  id      INTEGER PRIMARY KEY,
  batch   INTEGER NOT NULL,
  verb    TEXT NOT NULL,
  at_ms   INTEGER NOT NULL,
  done_ms INTEGER,
  answer  TEXT
) STRICT;

CREATE VIEW items AS               -- for people: one row an item, with its state
SELECT b.name AS batch, i.seq, i.key, i.payload,
       CASE WHEN r.kind IS NOT NULL THEN r.kind WHEN t.item IS NOT NULL THEN 'again'
            WHEN i.seq < b.claimed_to AND i.run = b.run THEN 'claimed' ELSE 'pending' END AS state,
       coalesce(r.attempts, t.epoch - 1, 0) AS attempts, r.reason, r.output,
       datetime(r.ended_ms / 1000.0, 'unixepoch') AS ended
FROM item i JOIN batch b ON b.id = i.batch LEFT JOIN result r ON r.item = i.id LEFT JOIN retry t ON t.item = i.id;
";

/// Opens the file as a journal for its owner, who holds the lock; a file that is not there, or empty, becomes one.
pub(crate) fn open(path: &Path, synchronous: &str) -> Result<Connection, JournalError> {
    check_head(path)?;
    let at = At(path);
    let db =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)
            .map_err(at.failed("cannot be opened"))?;
    prepare(&db).map_err(at.failed("cannot be set up"))?;
    let id: i32 = pragma(&db, "application_id").map_err(at.failed("cannot be read"))?;
    let version: i32 = pragma(&db, "user_version").map_err(at.failed("cannot be read"))?;
    let tables: i64 = db
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(at.failed("cannot be read"))?;
    match (id, version) {
        (0, 0) if tables == 0 => create(&db).map_err(at.failed("cannot be set up"))?,
        (APPLICATION_ID, VERSION) => {}
        (APPLICATION_ID, newer) if newer > VERSION => {
            return Err(JournalError::Newer { path: path.to_owned(), found: newer, known: VERSION });
        }
        (APPLICATION_ID, _) => return Err(at.damaged("its schema version is unknown")),
        _ => {
            let what = "it is a SQLite database of another application";
            return Err(JournalError::Foreign { path: path.to_owned(), what: what.to_owned() });
        }
    }
    let mode: String = db
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(at.failed("cannot be switched to a write-ahead log"))?;
    if mode != "wal" {
        let what = format!("its file system allows no write-ahead log (journal mode stays `{mode}`)");
        return Err(JournalError::Foreign { path: path.to_owned(), what });
    }
    // The log is emptied by restarting at its head; it is cut only when it was blown up.
    db.execute_batch(&format!("PRAGMA synchronous = {synchronous}; PRAGMA journal_size_limit = 67108864;"))
        .map_err(at.failed("cannot be set up"))?;
    Ok(db)
}

/// Opens a journal to read it, or to leave a request in it, beside its owner.
pub(crate) fn open_beside(path: &Path, write: bool) -> Result<Connection, JournalError> {
    let at = At(path);
    if let Err(source) = fs::metadata(path) {
        return Err(JournalError::Io { path: path.to_owned(), doing: "cannot be read".to_owned(), source });
    }
    check_head(path)?;
    let flags = if write { OpenFlags::SQLITE_OPEN_READ_WRITE } else { OpenFlags::SQLITE_OPEN_READ_ONLY };
    let db = Connection::open_with_flags(path, flags).map_err(at.failed("cannot be opened"))?;
    prepare(&db).map_err(at.failed("cannot be set up"))?;
    let id: i32 = pragma(&db, "application_id").map_err(at.failed("cannot be read"))?;
    let version: i32 = pragma(&db, "user_version").map_err(at.failed("cannot be read"))?;
    match (id, version) {
        (APPLICATION_ID, VERSION) => Ok(db),
        (APPLICATION_ID, newer) => {
            Err(JournalError::Newer { path: path.to_owned(), found: newer, known: VERSION })
        }
        _ => Err(JournalError::Foreign {
            path: path.to_owned(),
            what: "it is a SQLite database of another application".to_owned(),
        }),
    }
}

/// Looks through the whole file for damage, indexes included: what an index does not find would run twice.
pub(crate) fn check(db: &Connection, path: &Path) -> Result<(), JournalError> {
    let at = At(path);
    let verdict: String = db
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(at.failed("cannot be checked"))?;
    if verdict == "ok" { Ok(()) } else { Err(at.damaged(&verdict)) }
}

fn prepare(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(Duration::from_secs(5))?;
    db.set_prepared_statement_cache_capacity(64);
    // Without it each new bound of a range, and each LIMIT, compiles a cached statement anew: a plan of its own for
    // every value, which is the same plan here (there are no statistics).
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // A damaged schema must not run code of its own.
    db.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA foreign_keys = OFF;")
}

fn create(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(&format!(
        "BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; {TABLES} COMMIT;"
    ))
}

fn pragma(db: &Connection, name: &str) -> rusqlite::Result<i32> {
    db.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
}

/// SQLite would call a file of junk "not a database" only after it has created a log beside it.
pub(crate) fn check_head(path: &Path) -> Result<(), JournalError> {
    let mut head = [0; 16];
    let read = fs::File::open(path).and_then(|mut file| {
        if file.metadata()?.is_dir() {
            return Err(std::io::ErrorKind::IsADirectory.into());
        }
        let mut got = 0;
        while got < head.len() {
            match file.read(&mut head[got..])? {
                0 => break,
                n => got += n,
            }
        }
        Ok(got)
    });
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => {
            Err(JournalError::Io { path: path.to_owned(), doing: "cannot be opened".to_owned(), source })
        }
        Ok(0) => Ok(()),
        Ok(_) if &head == b"SQLite format 3\0" => Ok(()),
        Ok(_) => {
            Err(JournalError::Foreign { path: path.to_owned(), what: "it is no SQLite database".to_owned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::StatementStatus;

    #[test]
    fn a_statement_is_compiled_once() {
        let dir = std::env::temp_dir().join(format!("batchyard-schema-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("a.db");
        for db in [open(&path, "NORMAL").unwrap(), open_beside(&path, false).unwrap()] {
            let mut select =
                db.prepare("SELECT id FROM item WHERE id >= ? AND id < ? ORDER BY id LIMIT ?").unwrap();
            for bound in 0..3 {
                let mut rows = select.query([bound, bound + 10, bound + 1]).unwrap();
                assert!(rows.next().unwrap().is_none());
            }
            assert_eq!(select.get_status(StatementStatus::RePrepare), 0);
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
