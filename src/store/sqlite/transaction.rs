//! SQL of the user's that belongs to no item, in the writer's transaction.
//!
//! Blocking, under one short latch. Who asks waits for the commit and may go away before it:
//!
//! | stage | what it is | leaves by |
//! |---|---|---|
//! | `Open` | in the inbox, or rolled back with its group | the writer begins it; who asked withdraws it |
//! | `Applied` | its SQL has run in a transaction that is being committed | the commit; a rollback, back to `Open` |
//! | `Withdrawn` | its SQL will not run any more | |
//! | `Over` | there is an answer | who asked takes it |
//!
//! A withdrawal and the writer's beginning pass through the latch, so a transaction that was withdrawn has not been
//! written, and one that was begun is answered for.

use super::effects::{anew, quietly, run_theirs, savepoint};
use super::error::JournalError;
use super::journal::Journal;
use super::writer::{Op, Tx};
use crate::job::Failure;
use crate::lock::{Levelled, house};
use crate::sync::{Arc, Unparker};
use crate::time::{Clock, Timestamp, secs};
use rusqlite::Connection;
use std::time::Duration;

/// How long the SQL may take without a deadline.
const SQL_LIMIT: Duration = secs(30);

/// What became of it.
pub(crate) enum Answer<T> {
    /// It is durable.
    Made(T),
    /// Its SQL has failed: nothing is written.
    Failed(Failure),
    /// Its deadline came before it had begun, or while its SQL ran: nothing is written.
    TimedOut,
    /// The journal is.
    Lost(Arc<JournalError>),
}

enum Stage<T> {
    Open,
    Applied,
    Withdrawn,
    Over(Option<Answer<T>>),
}

/// A transaction on its way, in the hand of who asked for it.
pub(crate) struct Asked<T> {
    stage: Levelled<Stage<T>, house::AskedStage>,
    waiter: Levelled<Option<Unparker>, house::AskedWaiter>,
}

impl<T> Asked<T> {
    /// From now on this one is woken when [`answer`](Self::answer) or [`withdraw`](Self::withdraw) has become possible.
    pub(crate) fn wake(&self, waiter: Unparker) {
        *self.waiter.lock() = Some(waiter);
    }

    /// The answer, once.
    pub(crate) fn answer(&self) -> Option<Answer<T>> {
        match &mut *self.stage.lock() {
            Stage::Over(answer) => answer.take(),
            _ => None,
        }
    }

    /// Takes it back. False: it is being committed, or is over; the answer comes, or this becomes possible again.
    pub(crate) fn withdraw(&self) -> bool {
        let mut stage = self.stage.lock();
        match *stage {
            Stage::Open => *stage = Stage::Withdrawn,
            Stage::Withdrawn => {}
            Stage::Applied | Stage::Over(_) => return false,
        }
        true
    }

    fn begin(&self) -> bool {
        let mut stage = self.stage.lock();
        let open = matches!(*stage, Stage::Open);
        if open {
            *stage = Stage::Applied;
        }
        open
    }

    fn reopen(&self) {
        {
            let mut stage = self.stage.lock();
            if !matches!(*stage, Stage::Applied) {
                return;
            }
            *stage = Stage::Open;
        }
        self.notify();
    }

    fn end(&self, answer: Answer<T>) {
        {
            let mut stage = self.stage.lock();
            if matches!(*stage, Stage::Withdrawn | Stage::Over(_)) {
                return;
            }
            *stage = Stage::Over(Some(answer));
        }
        self.notify();
    }

    fn notify(&self) {
        if let Some(waiter) = &*self.waiter.lock() {
            waiter.unpark();
        }
    }
}

/// The writer's side.
struct Transaction<T, F> {
    sql: F,
    made: Option<T>,
    /// The caller's clock and deadline.
    clock: Clock,
    until: Option<Timestamp>,
    asked: Arc<Asked<T>>,
}

impl<T, F> Op for Transaction<T, F>
where
    T: Send,
    F: Fn(&Connection) -> Result<T, Failure> + Send,
{
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        if !self.asked.begin() {
            return Ok(()); // withdrawn, or it has failed and the group is applied anew without it
        }
        let limit = self.until.map_or(SQL_LIMIT, |until| until - self.clock.now());
        if limit.is_zero() {
            self.asked.end(Answer::TimedOut);
            return Ok(());
        }
        let saved = savepoint(tx.db)?;
        match run_theirs(tx, limit, |db| (self.sql)(db))? {
            Ok(made) => {
                self.made = Some(made);
                saved.keep()
            }
            Err(failure) => {
                let rolled_back = tx.db.is_autocommit();
                if !rolled_back {
                    saved.undo()?;
                }
                if tx.fence.has_interrupted() {
                    quietly(failure);
                    self.asked.end(Answer::TimedOut);
                } else {
                    self.asked.end(Answer::Failed(failure));
                }
                if rolled_back { Err(anew()) } else { Ok(()) }
            }
        }
    }

    fn rolled_back(&mut self) {
        quietly(self.made.take());
        self.asked.reopen();
    }

    fn committed(self: Box<Self>) {
        if let Some(made) = self.made {
            self.asked.end(Answer::Made(made));
        }
        quietly(self.sql);
    }

    fn lost(self: Box<Self>, why: &Arc<JournalError>) {
        self.asked.end(Answer::Lost(Arc::clone(why)));
        quietly((self.sql, self.made));
    }
}

impl Journal {
    /// Sends SQL of the user's. Does not wait: what comes of it is in what this returns.
    pub(crate) fn transact<T: Send + 'static>(
        &self,
        clock: &Clock,
        until: Option<Timestamp>,
        sql: impl Fn(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<Arc<Asked<T>>, Arc<JournalError>> {
        self.may_wait()?;
        let asked = Arc::new(Asked { stage: Levelled::new(Stage::Open), waiter: Levelled::new(None) });
        let there = Arc::clone(&asked);
        self.send(Transaction { sql, made: None, clock: clock.clone(), until, asked: there });
        Ok(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::testing::{Alone, in_the_end};
    use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use crate::time::{ManualClock, millis};

    fn send<T: Send + 'static>(
        there: &Alone,
        limit: Option<Duration>,
        sql: impl Fn(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Arc<Asked<T>> {
        let clock = Clock::os();
        let until = limit.map(|limit| clock.now() + limit);
        there.journal.transact(&clock, until, sql).expect("not the writer")
    }

    fn answer<T>(asked: &Asked<T>) -> Answer<T> {
        in_the_end("an answer", || asked.answer())
    }

    fn insert(n: i64) -> impl Fn(&Connection) -> Result<(), Failure> + Send + 'static {
        move |tx| {
            tx.prepare_cached("INSERT INTO mine VALUES (?, ?)")?
                .execute(rusqlite::params![n, "x".repeat(1_000)])?;
            Ok(())
        }
    }

    fn with_a_table(name: &str) -> Alone {
        let there = Alone::new(name);
        let made = send(&there, None, |tx| {
            Ok(tx.execute_batch("CREATE TABLE mine (n INTEGER PRIMARY KEY, t TEXT)")?)
        });
        assert!(matches!(answer(&made), Answer::Made(())));
        there
    }

    /// Interrupting a statement that writes rolls the whole group back: the others are applied anew, and count once.
    #[test]
    fn it_counts_once_when_its_group_is_rolled_back() {
        let there = with_a_table("once");
        let runs = Arc::new(AtomicU64::new(0));
        let counted = |n: i64| {
            let runs = Arc::clone(&runs);
            send(&there, None, move |tx| {
                runs.fetch_add(1, Ordering::Relaxed);
                insert(n)(tx)
            })
        };
        let held = there.hold();
        let before = counted(1);
        // By a clock that stands: it has its time from when it runs, however long it waits for its turn.
        let time = ManualClock::new();
        let until = Some(time.now() + millis(200));
        let stray = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&stray);
        let endless = there.journal.transact(&time.clock(), until, move |tx| {
            let numbers =
                "WITH RECURSIVE c(x) AS (SELECT 100 UNION ALL SELECT x + 1 FROM c) SELECT x, 'x' FROM c";
            let interrupted = tx.execute(&format!("INSERT INTO mine {numbers}"), []);
            // Outside of a transaction now: it would be committed by itself.
            let written = tx.execute("INSERT INTO mine VALUES (50, '')", []).is_ok();
            noted.store(written || !tx.is_autocommit(), Ordering::Relaxed);
            Ok(interrupted?)
        });
        let endless = endless.expect("not the writer");
        let after = counted(2);
        drop(held);
        assert!(matches!(answer(&endless), Answer::TimedOut));
        assert!(matches!((answer(&before), answer(&after)), (Answer::Made(()), Answer::Made(()))));
        assert_eq!(runs.load(Ordering::Relaxed), 3, "the first ran twice");
        assert!(!stray.load(Ordering::Relaxed), "SQL went on outside of its transaction");
        assert_eq!(there.count("SELECT count(*) FROM mine"), 2);
        assert!(there.news.lock().is_empty(), "nothing was wrong with the disk");
    }

    #[test]
    fn what_is_withdrawn_never_runs() {
        let there = with_a_table("withdrawn");
        let held = there.hold();
        let gone = send(&there, None, insert(1));
        let stays = send(&there, None, insert(2));
        assert!(gone.withdraw() && gone.withdraw());
        drop(held);
        assert!(matches!(answer(&stays), Answer::Made(())));
        assert!(!stays.withdraw(), "it is written");
        assert!(gone.answer().is_none());
        assert_eq!(there.count("SELECT sum(n) FROM mine"), 2);
    }

    /// The most pages that the file may have: more are a full disk. The op that sets it is applied first, each time.
    fn disk_of(there: &Alone, pages: &Arc<AtomicU64>) {
        let pages = Arc::clone(pages);
        there.journal.send(super::super::batch::Ask {
            write: move |tx: &mut Tx<'_>| {
                let pages = pages.load(Ordering::Relaxed);
                tx.db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
            },
            made: None,
            told: Box::new(|_: Result<(), _>| ()),
        });
    }

    /// Promise 20: a disk that is full in SQL of the user's is nobody's fault: it is waited for, and the SQL is run again.
    #[test]
    fn a_full_disk_is_not_the_sqls_fault() {
        type Sql = fn(&Connection, i64) -> rusqlite::Result<usize>;
        let ways: [(&str, Sql); 3] = [
            ("returned", |tx, n| tx.execute("INSERT INTO mine VALUES (?, hex(zeroblob(200000)))", [n])),
            // A statement that may fail half-way, so that SQLite rolls back no more than itself.
            ("by a statement of many rows", |tx, n| {
                tx.execute(
                    "INSERT INTO mine WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 200)
                     SELECT ? + x, hex(zeroblob(2000)) FROM c",
                    [n],
                )
            }),
            ("passed over", |tx, n| {
                let _ = tx.prepare_cached("INSERT INTO mine VALUES (?, hex(zeroblob(200000)))")?.execute([n]);
                Ok(0)
            }),
        ];
        for (way, sql) in ways {
            let there = with_a_table("full");
            let room = Arc::new(AtomicU64::new(60));
            let runs = Arc::new(AtomicU64::new(0));
            let held = there.hold();
            disk_of(&there, &room);
            let small = send(&there, None, insert(1));
            let large = send(&there, None, {
                let runs = Arc::clone(&runs);
                move |tx| {
                    runs.fetch_add(1, Ordering::Relaxed);
                    Ok(sql(tx, 1_000)?)
                }
            });
            drop(held);
            in_the_end("it is said, and tried again", || (runs.load(Ordering::Relaxed) > 2).then_some(()));
            assert!(there.news.lock()[0].contains("the disk is full"), "{way}: {:?}", there.news.lock());
            assert!(large.answer().is_none() && small.answer().is_none(), "{way}: the group is kept");
            room.store(1_000_000, Ordering::Relaxed);
            assert!(matches!(answer(&large), Answer::Made(_)), "{way}");
            assert!(matches!(answer(&small), Answer::Made(())), "{way}");
            assert_eq!(there.news.lock().len(), 2, "it goes on");
            assert!(there.count("SELECT sum(length(t)) FROM mine WHERE n >= 1000") >= 400_000, "{way}");
        }
    }

    /// Who waits for a transaction on a full disk may still leave.
    #[test]
    fn it_may_be_withdrawn_while_the_disk_is_full() {
        let there = with_a_table("full-leave");
        let room = Arc::new(AtomicU64::new(60));
        let held = there.hold();
        disk_of(&there, &room);
        let runs = Arc::new(AtomicU64::new(0));
        let large = send(&there, Some(millis(60_000)), {
            let runs = Arc::clone(&runs);
            move |tx| {
                runs.fetch_add(1, Ordering::Relaxed);
                Ok(tx.execute("INSERT INTO mine VALUES (1, hex(zeroblob(200000)))", [])?)
            }
        });
        let small = send(&there, None, insert(2));
        drop(held);
        in_the_end("it is tried", || (runs.load(Ordering::Relaxed) > 0).then_some(()));
        in_the_end("it is withdrawn", || large.withdraw().then_some(()));
        // Without it there is room for the others.
        assert!(matches!(answer(&small), Answer::Made(())));
        assert_eq!(there.count("SELECT sum(n) FROM mine"), 2);
    }
}
