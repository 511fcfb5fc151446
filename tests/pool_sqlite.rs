//! `resource::Pool` over a real SQLite database: 64 threads on 10 connections, also when connections die and the database
//! cannot be reached for a while. The database tells what was done, the manager how many were open.

#![cfg(all(feature = "r2d2", feature = "sqlite"))]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "real threads, as a user has them")]

mod support;

use batchyard::r2d2::ManageConnection;
use batchyard::resource::Pool;
use batchyard::{rusqlite, secs};
use rusqlite::Connection;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use support::dir::Dir;

const THREADS: usize = 64;
const CONNECTIONS: u64 = 10;
const ROUNDS: usize = 25;

#[derive(Default)]
struct Counts {
    open: AtomicUsize,
    peak: AtomicUsize,
    /// So many attempts still fail.
    unreachable: AtomicUsize,
}

/// Opens connections to one file, and says no while the file cannot be reached.
struct Sqlite {
    file: PathBuf,
    counts: Arc<Counts>,
}

struct Session {
    db: Connection,
    uses_left: usize,
    counts: Arc<Counts>,
}

impl Deref for Session {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        &self.db
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.db
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, SeqCst);
    }
}

impl Sqlite {
    /// A connection dies after so many uses.
    const USES: usize = 6;
}

impl ManageConnection for Sqlite {
    type Connection = Session;
    type Error = rusqlite::Error;

    fn connect(&self) -> Result<Session, rusqlite::Error> {
        if self.counts.unreachable.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Connection::open("/nowhere/at/all").map(|_| unreachable!("no such directory"));
        }
        let db = Connection::open(&self.file)?;
        db.busy_timeout(secs(60))?;
        let open = self.counts.open.fetch_add(1, SeqCst) + 1;
        self.counts.peak.fetch_max(open, SeqCst);
        Ok(Session { db, uses_left: Self::USES, counts: self.counts.clone() })
    }

    fn is_valid(&self, session: &mut Session) -> Result<(), rusqlite::Error> {
        session.uses_left = session.uses_left.saturating_sub(1);
        let sql = if session.uses_left == 1 { "SELECT is_dead" } else { "SELECT 1" };
        session.db.query_row(sql, [], |_| Ok(()))
    }

    fn has_broken(&self, session: &mut Session) -> bool {
        !session.is_autocommit()
    }
}

fn database(dir: &Dir) -> (PathBuf, Arc<Counts>) {
    let file = dir.file("pool.db");
    let db = Connection::open(&file).unwrap();
    db.execute_batch(
        "PRAGMA journal_mode = WAL; CREATE TABLE counter (n INTEGER); INSERT INTO counter VALUES (0);",
    )
    .unwrap();
    (file, Arc::default())
}

fn count(pool: &Pool<Sqlite>) -> usize {
    let n: i64 = pool.get().unwrap().query_row("SELECT n FROM counter", [], |row| row.get(0)).unwrap();
    n as usize
}

#[test]
fn sixty_four_threads_on_ten_connections() {
    let dir = Dir::new("pool-ten");
    let (file, counts) = database(&dir);
    let pool = Pool::builder(Sqlite { file, counts: counts.clone() }).max_size(CONNECTIONS).build().unwrap();
    thread::scope(|s| {
        for _ in 0..THREADS {
            s.spawn(|| {
                for _ in 0..ROUNDS {
                    let session = pool.get_by(secs(120)).unwrap();
                    assert!(pool.stats().in_use <= CONNECTIONS);
                    session.execute("UPDATE counter SET n = n + 1", []).unwrap();
                }
            });
        }
    });
    assert_eq!(count(&pool), THREADS * ROUNDS);
    assert!(counts.peak.load(SeqCst) as u64 <= CONNECTIONS, "{} were open", counts.peak.load(SeqCst));
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.waiting, stats.timed_out), (0, 0, 0));
    assert_eq!(
        (stats.idle, pool.quota().available()),
        (stats.opened - stats.closed.total(), CONNECTIONS as i64)
    );
    pool.close();
    assert_eq!(counts.open.load(SeqCst), 0);
}

#[test]
fn connections_die_and_the_database_is_away_for_a_while() {
    let dir = Dir::new("pool-dying");
    let (file, counts) = database(&dir);
    let pool = Pool::builder(Sqlite { file, counts: counts.clone() }).max_size(CONNECTIONS).build().unwrap();
    thread::scope(|s| {
        for thread in 0..THREADS {
            let (pool, counts) = (&pool, &counts);
            s.spawn(move || {
                for round in 0..ROUNDS {
                    let session = pool.get_by(secs(120)).unwrap();
                    match (thread + round) % 16 {
                        // Left in a transaction that is never ended: has_broken.
                        0 => session.execute_batch("BEGIN").unwrap(),
                        1 => counts.unreachable.store(3, SeqCst),
                        2 => session.discard(),
                        _ => _ = session.execute("UPDATE counter SET n = n + 1", []).unwrap(),
                    }
                }
            });
        }
    });
    counts.unreachable.store(0, SeqCst);
    let done = (0..THREADS * ROUNDS).filter(|i| (i / ROUNDS + i % ROUNDS) % 16 > 2).count();
    assert_eq!(count(&pool), done);
    assert!(counts.peak.load(SeqCst) as u64 <= CONNECTIONS, "{} were open", counts.peak.load(SeqCst));
    let stats = pool.stats();
    assert!(stats.closed.broken > 0 && stats.closed.discarded > 0 && stats.closed.invalid > 0, "{stats:?}");
    assert!(stats.failed_to_open > 0 && stats.last_error.is_some(), "{stats:?}");
    assert_eq!((stats.in_use, pool.quota().available()), (0, CONNECTIONS as i64));
    drop(pool);
    assert_eq!(counts.open.load(SeqCst), 0);
}
