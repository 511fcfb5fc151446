//! The tables of a journal, and how a file is opened as one.
//!
//! An item's number in the file is `batch << 40 | seq`, a result's `batch << 40 | n` with `n` the order of completion:
//! so both trees grow at their right edge, and a batch is a range of each. Nothing is written when an item merely
//! starts: that it was claimed is told by `batch.claimed_to`, a mark that moves once a page. A row in `retry` exists
//! only for items that have something behind them.
//!
//! `sum` is a SipHash of the row's other columns (not of `item.run`, which changes with each submission; that of a
//! result takes in its item's key): a row that was damaged is named instead of being believed.
//!
//! A file of an older version is brought up to this one when its owner opens it ([`STEPS`]), in one transaction, its
//! number with it: killed in the middle of it, it is what it was. Who only reads beside an owner reads the older ones
//! as they are.

use super::error::{At, JournalError};
use crate::time::{Clock, secs};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// "byrd": what `file` and SQLite's tools show as the application id.
pub(crate) const APPLICATION_ID: i32 = 0x6279_7264;
/// The schema this version writes; kept in `user_version`.
pub(crate) const VERSION: i32 = 2;
/// What makes the next version out of each: the first step makes 2 of 1. A new file has all of it from `TABLES`.
const STEPS: [&str; VERSION as usize - 1] =
    // Processes stand beside the journal since, in its `-hand` file. Those that an owner of version 1 left when it died go
    // unread with the table; they are found by its id in their environment.
    ["CREATE INDEX result_ended ON result (kind) WHERE kind <> 'done'; DROP TABLE child"];
/// How long a connection waits for another one that writes.
pub(crate) const PATIENCE: Duration = secs(5);
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
CREATE INDEX result_ended ON result (kind) WHERE kind <> 'done'; -- costs the done nothing

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
    let at = At(path);
    let db =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)
            .map_err(at.failed("cannot be opened"))?;
    prepare(&db).map_err(at.failed("cannot be set up"))?;
    let id: i32 = pragma(&db, "application_id").map_err(at.failed("cannot be read"))?;
    let version: i32 = pragma(&db, "user_version").map_err(at.failed("cannot be read"))?;
    let tables = tables(&db).map_err(at.failed("cannot be read"))?;
    if (id, version, tables) == (0, 0, 0) {
        create(&db).map_err(at.failed("cannot be set up"))?;
    } else {
        recognise(path, id, version)?;
    }
    let mode: String = db
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(at.failed("cannot be switched to a write-ahead log"))?;
    if mode != "wal" {
        let what = format!("its file system allows no write-ahead log (journal mode stays `{mode}`)");
        return Err(JournalError::Foreign { path: path.to_owned(), what });
    }
    // The log is emptied by restarting at its head; it is cut only when it was blown up. A transaction that does not fit
    // into the cache is written as it grows, which tells how large it is.
    let pragmas = "PRAGMA journal_size_limit = 33554432; PRAGMA cache_size = -2000;";
    db.execute_batch(&format!("PRAGMA synchronous = {synchronous}; {pragmas}"))
        .map_err(at.failed("cannot be set up"))?;
    if (1..VERSION).contains(&version) {
        migrate(&db, version, &STEPS).map_err(at.failed("cannot be brought up to this version"))?;
    }
    Ok(db)
}

/// Opens a journal to read it, or to leave a request in it, beside its owner. One of an older version is read as it is:
/// what is read here was there from the first on, and what the steps add only makes it faster.
pub(crate) fn open_beside(path: &Path, write: bool) -> Result<Connection, JournalError> {
    let at = At(path);
    if length(path)?.is_none() {
        let source = io::Error::new(io::ErrorKind::NotFound, "there is no such file");
        return Err(JournalError::Io { path: path.to_owned(), doing: "cannot be read".to_owned(), source });
    }
    let open = |write: bool| {
        let flags = if write { OpenFlags::SQLITE_OPEN_READ_WRITE } else { OpenFlags::SQLITE_OPEN_READ_ONLY };
        let db = Connection::open_with_flags(path, flags).map_err(|error| cannot_be_opened(path, &error))?;
        prepare(&db).map_err(at.failed("cannot be set up"))?;
        let id = pragma(&db, "application_id");
        Ok((db, id))
    };
    let (db, id) = match open(write)? {
        // Whoever made it was killed in the middle of that: what is half done is to be rolled back before it can be read.
        (_, Err(error)) if !write && error.sqlite_error_code() == Some(ErrorCode::ReadOnly) => open(true)?,
        opened => opened,
    };
    let id: i32 = id.map_err(at.failed("cannot be read"))?;
    let version: i32 = pragma(&db, "user_version").map_err(at.failed("cannot be read"))?;
    if (id, version) == (0, 0) && tables(&db).map_err(at.failed("cannot be read"))? == 0 {
        return Err(JournalError::Foreign { path: path.to_owned(), what: "it is empty".to_owned() });
    }
    recognise(path, id, version)?;
    Ok(db)
}

fn tables(db: &Connection) -> rusqlite::Result<i64> {
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
}

/// A journal of this version, or of one that this one can read and bring up to itself.
fn recognise(path: &Path, id: i32, version: i32) -> Result<(), JournalError> {
    match (id, version) {
        (APPLICATION_ID, 1..=VERSION) => Ok(()),
        (APPLICATION_ID, newer) if newer > VERSION => {
            Err(JournalError::Newer { path: path.to_owned(), found: newer, known: VERSION })
        }
        (APPLICATION_ID, _) => Err(At(path).damaged(&format!("there is no schema version {version}"))),
        _ => Err(JournalError::Foreign {
            path: path.to_owned(),
            what: "it is a SQLite database of another application".to_owned(),
        }),
    }
}

/// Brings a file up from a version by the steps behind it, in one transaction. Rolled back, it is what it was.
fn migrate(db: &Connection, from: i32, steps: &[&str]) -> rusqlite::Result<()> {
    let tx = Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    let mut version = from;
    for step in &steps[from as usize - 1..] {
        tx.execute_batch(step)?;
        version += 1;
    }
    tx.pragma_update(None, "user_version", version)?;
    tx.commit()
}

/// Looks through the whole file for damage, indexes included: what an index does not find would run twice.
pub(crate) fn check(db: &Connection, path: &Path) -> Result<(), JournalError> {
    let verdict = verdict(db, "integrity_check").map_err(At(path).failed("cannot be checked"))?;
    if verdict == "ok" { Ok(()) } else { Err(At(path).damaged(&verdict)) }
}

/// Looks for damage in the structure of the file, in as much of it as there is time for, and at the counters.
pub(crate) fn check_structure(
    db: &mut Connection,
    path: &Path,
    limit: Option<Duration>,
) -> Result<(), JournalError> {
    let at = At(path);
    if let Some(limit) = limit {
        let clock = Clock::os();
        let until = clock.now() + limit;
        db.progress_handler(1_000, Some(move || clock.now() >= until))
            .map_err(at.failed("cannot be checked"))?;
    }
    let checked = verdict(db, "quick_check").and_then(|verdict| match verdict.as_str() {
        "ok" => super::batch::count_again(db).map(|()| None),
        _ => Ok(Some(verdict)),
    });
    db.progress_handler(0, None::<fn() -> bool>).map_err(at.failed("cannot be checked"))?;
    match checked {
        Ok(None) => Ok(()),
        Ok(Some(verdict)) => Err(at.damaged(&verdict)),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => Ok(()),
        Err(error) => Err(at.because("cannot be checked", &error)),
    }
}

fn verdict(db: &Connection, pragma: &str) -> rusqlite::Result<String> {
    db.query_row(&format!("PRAGMA {pragma}(1)"), [], |row| row.get(0))
}

fn prepare(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(PATIENCE)?;
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

/// What is no database is told before anything is made beside it. SQLite looks, not we: POSIX takes all the locks that a
/// process has on a file away when it closes any descriptor of that file, so one of ours would cost the locks of the
/// connections that this process has, and the next process that closes the journal would take itself for the last one and
/// delete the log.
pub(crate) fn check_head(path: &Path) -> Result<(), JournalError> {
    if length(path)?.is_none_or(|length| length == 0) {
        return Ok(());
    }
    let look =
        || pragma(&Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?, "application_id");
    let told = look().map_err(|error| (error.sqlite_error_code(), cannot_be_opened(path, &error)));
    match told {
        Err((Some(ErrorCode::NotADatabase), error)) | Err((_, error @ JournalError::Io { .. })) => Err(error),
        // Whatever else is wrong is told by who opens it.
        _ => Ok(()),
    }
}

/// How many bytes the file has; `None`: it is not there.
fn length(path: &Path) -> Result<Option<u64>, JournalError> {
    let found = fs::metadata(path).and_then(|meta| match meta.is_dir() {
        true => Err(io::ErrorKind::IsADirectory.into()),
        false => Ok(Some(meta.len())),
    });
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map_err(|source| JournalError::Io {
            path: path.to_owned(),
            doing: "cannot be opened".to_owned(),
            source,
        }),
    }
}

/// SQLite does not say why it cannot open a file; the system does.
fn cannot_be_opened(path: &Path, error: &rusqlite::Error) -> JournalError {
    if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) {
        match fs::File::open(path) {
            Err(source) => {
                let doing = "cannot be opened".to_owned();
                return JournalError::Io { path: path.to_owned(), doing, source };
            }
            // It is something beside the file. Not closed: see `check_head`.
            Ok(file) => std::mem::forget(file),
        }
    }
    At(path).because("cannot be opened", error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A journal of version 1, written by it.
    const VERSION_1: &str = include_str!("../../../tests/journals/version_1.sql");

    struct File(PathBuf);

    impl File {
        fn new(name: &str) -> File {
            let file =
                std::env::temp_dir().join(format!("batchyard-schema-{name}-{}.db", std::process::id()));
            let _ = fs::remove_file(&file);
            File(file)
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            for ending in ["", "-wal", "-shm"] {
                let _ = fs::remove_file(super::super::lock::beside(&self.0, ending));
            }
        }
    }

    /// Names and texts of all that there is, without comments and the blanks.
    fn schema(db: &Connection) -> Vec<(String, String)> {
        let bare = |sql: Option<String>| -> String {
            let sql = sql.unwrap_or_default();
            let lines = sql.lines().filter_map(|line| line.split("--").next());
            lines.flat_map(str::split_whitespace).collect()
        };
        db.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name")
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, bare(row.get(1)?))))
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap()
    }

    fn version(db: &Connection) -> i32 {
        pragma(db, "user_version").unwrap()
    }

    #[test]
    fn an_older_file_becomes_what_a_new_one_is() {
        let (old, new) = (File::new("old"), File::new("new"));
        Connection::open(&old.0).unwrap().execute_batch(VERSION_1).unwrap();
        let beside = open_beside(&old.0, false).expect("it is read as it is");
        let dead = crate::store::sqlite::read::dead(&beside, 1, 0, 10).unwrap().0;
        assert_eq!(dead.iter().map(|row| row.seq).collect::<Vec<_>>(), [2, 5]);
        let before = schema(&beside);
        let db = open(&old.0, "NORMAL").unwrap();
        assert_eq!(version(&db), VERSION);
        assert_ne!(schema(&db), before);
        assert_eq!(schema(&db), schema(&open(&new.0, "NORMAL").unwrap()));
        check(&db, &old.0).unwrap();
        drop(db);
        // Once.
        assert_eq!(version(&open(&old.0, "NORMAL").unwrap()), VERSION);
    }

    /// Whatever step it stops at.
    #[test]
    fn a_migration_that_fails_leaves_the_old_file() {
        let file = File::new("fails");
        let db = Connection::open(&file.0).unwrap();
        db.execute_batch(VERSION_1).unwrap();
        let before = schema(&db);
        let broken = "CREATE TABLE half (n INTEGER); CREATE TABLE owner (n INTEGER)"; // there is one
        migrate(&db, 1, &[STEPS[0], broken]).unwrap_err();
        assert!(db.is_autocommit());
        assert_eq!((version(&db), schema(&db)), (1, before.clone()));
        // A process that dies in it leaves what it has written of it without its commit.
        let dying = Connection::open(&file.0).unwrap();
        dying.execute_batch(&format!("BEGIN IMMEDIATE; {}; PRAGMA user_version = 2;", STEPS[0])).unwrap();
        assert_eq!((version(&db), schema(&db)), (1, before));
        drop(dying);
        migrate(&db, 1, &STEPS).unwrap();
        assert_eq!(version(&db), VERSION);
    }

    #[test]
    fn a_check_ends_in_time_and_says_nothing_then() {
        let file = File::new("limit");
        let mut db = open(&file.0, "NORMAL").unwrap();
        db.execute_batch(
            "CREATE TABLE n (n INTEGER PRIMARY KEY);
             INSERT INTO n WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 100000) SELECT x FROM c;",
        )
        .unwrap();
        // An item that the batches know nothing of.
        db.execute_batch(
            "INSERT INTO item (id, key, run, queued_ms, payload, sum) VALUES (1, 'k', 1, 0, '', 0)",
        )
        .unwrap();
        let wrong = check_structure(&mut db, &file.0, None).unwrap_err();
        assert!(matches!(wrong, JournalError::Damaged { .. }), "{wrong}");
        check_structure(&mut db, &file.0, Some(Duration::ZERO)).unwrap();
        // Nothing that comes after is interrupted.
        let all = "SELECT count(*) FROM n a JOIN n b ON a.n = b.n";
        assert_eq!(db.query_row(all, [], |row| row.get::<_, i64>(0)).unwrap(), 100_000);
    }

    #[test]
    fn other_versions_are_refused() {
        let file = File::new("versions");
        drop(open(&file.0, "NORMAL").unwrap());
        let set = |version: i32| {
            let db = Connection::open(&file.0).unwrap();
            db.pragma_update(None, "user_version", version).unwrap();
        };
        for wrong in [VERSION + 1, 0, -3] {
            set(wrong);
            for error in [open(&file.0, "NORMAL").unwrap_err(), open_beside(&file.0, false).unwrap_err()] {
                match error {
                    JournalError::Newer { found, known, .. } => assert_eq!((found, known), (wrong, VERSION)),
                    JournalError::Damaged { what, .. } => {
                        assert!(wrong <= 0 && what.contains("version"), "{what}")
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        set(VERSION);
        open(&file.0, "NORMAL").unwrap();
    }

    #[test]
    fn a_statement_is_compiled_once() {
        use rusqlite::StatementStatus;

        let file = File::new("compiled");
        for db in [open(&file.0, "NORMAL").unwrap(), open_beside(&file.0, false).unwrap()] {
            let mut select =
                db.prepare("SELECT id FROM item WHERE id >= ? AND id < ? ORDER BY id LIMIT ?").unwrap();
            for bound in 0..3 {
                let mut rows = select.query([bound, bound + 10, bound + 1]).unwrap();
                assert!(rows.next().unwrap().is_none());
            }
            assert_eq!(select.get_status(StatementStatus::RePrepare), 0);
        }
    }
}
