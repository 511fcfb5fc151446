//! SQL of the user's in the journal's file, outside of items.

use super::Engine;
use crate::engine::worker::{on_worker_of, with_current};
use crate::engine::{Context, Error};
use crate::error::Invalid;
use crate::job::Failure;
use crate::store::sqlite::{Answer, Asked};
use crate::sync::with_parker;
use crate::time::{Clock, Deadline, Timestamp};

impl Engine {
    /// Runs SQL of yours in a transaction of the journal and returns when it is durable, with what it made: for tables
    /// of yours in the journal's file that have to do with a batch but not with one of its items. What belongs to an
    /// item goes with the item's mark: [`Context::commit_with`], [`BatchBuilder::write_with`](crate::BatchBuilder::write_with).
    ///
    /// It runs on the journal's own connection, between what the journal writes itself, in a savepoint, and all or
    /// nothing of it is written. It may run more than once, when SQLite rolls a transaction back or the disk is full for
    /// a time; only the last run counts. It is interrupted after 30 s. It may not end the transaction, ATTACH, use a
    /// PRAGMA, or touch the journal's own tables. While it runs nothing else is written: keep it short, and wait for
    /// nothing in it.
    ///
    /// Inside an item it obeys the item's deadline and cancellation, but it is no part of the attempt: an item that is
    /// tried again runs it again.
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("batchyard-transaction-{}", std::process::id()));
    /// # std::fs::create_dir_all(&dir)?;
    /// # let path = dir.join("work.db");
    /// use batchyard::Engine;
    /// let engine = Engine::builder().workers(2).journal(&path).open()?;
    /// engine.transaction(|tx| Ok(tx.execute_batch("CREATE TABLE customer (name TEXT, orders INTEGER)")?))?;
    /// let name = "Ada".to_owned();
    /// let customers = engine.transaction(move |tx| {
    ///     tx.execute("INSERT INTO customer VALUES (?, 0)", [&name])?;
    ///     Ok(tx.query_row("SELECT count(*) FROM customer", [], |row| row.get::<_, i64>(0))?)
    /// })?;
    /// assert_eq!(customers, 1);
    /// # engine.shutdown(batchyard::secs(1))?;
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Nothing of it is written then. [`Error::Transaction`] with what the closure returned, with its panic, or when the
    /// item that it was called from shall stop; [`Error::TimedOut`] when it was interrupted; [`Error::Invalid`] for an
    /// engine without a journal; [`Error::Journal`] when the journal is lost or closed, and with
    /// [`WouldBlockWriter`](crate::JournalError::WouldBlockWriter) on the journal's own thread: in a listener that it
    /// has called, or in other SQL; [`Error::WouldBlockWorker`] in a listener on another thread of the engine's.
    #[doc(alias = "managed_transaction")]
    pub fn transaction<T: Send + 'static>(
        &self,
        sql: impl Fn(&rusqlite::Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Error> {
        self.transaction_by(Deadline::NEVER, sql)
    }

    /// As [`transaction`](Engine::transaction), with a deadline for all of it: to wait for its turn, and to run.
    ///
    /// # Errors
    ///
    /// As [`transaction`](Engine::transaction), and [`Error::TimedOut`] when the deadline comes before its turn, or
    /// while its SQL runs. Once the SQL has run, its commit is waited for.
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("batchyard-transaction-by-{}", std::process::id()));
    /// # std::fs::create_dir_all(&dir)?;
    /// use batchyard::{Engine, Error, millis};
    /// let engine = Engine::builder().workers(2).journal(dir.join("work.db")).open()?;
    /// let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    /// let late = engine.transaction_by(millis(20), move |tx| Ok(tx.query_row(endless, [], |row| row.get::<_, i64>(0))?));
    /// assert!(matches!(late, Err(Error::TimedOut { .. })));
    /// # engine.shutdown(batchyard::secs(1))?;
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn transaction_by<T: Send + 'static>(
        &self,
        deadline: impl Into<Deadline>,
        sql: impl Fn(&rusqlite::Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = self.shared();
        let Some(journal) = &shared.journal else {
            return Err(Invalid::new("transaction", "needs a journal: there is none in memory").into());
        };
        let clock = &shared.clock;
        let began = clock.now();
        let until = deadline.into().on(clock);
        let run = |item: Option<&Context>| {
            let until = [until, item.and_then(Context::deadline)].into_iter().flatten().min();
            let asked = journal.transact(clock, until, sql)?;
            Ok(wait(&asked, clock, until, item))
        };
        let mut run = Some(run);
        let mut run = |item: Option<&Context>| run.take().expect("it runs once, in an item or not")(item);
        let answer: Result<_, Error> = match with_current(shared, |item| run(Some(item))) {
            Some(answer) => answer,
            // In a listener: timers and other lanes wait for this thread.
            None if on_worker_of(shared) => return Err(Error::WouldBlockWorker),
            None => run(None),
        };
        match answer? {
            Answer::Made(made) => Ok(made),
            Answer::Failed(failure) => Err(Error::Transaction(failure)),
            Answer::TimedOut => Err(Error::TimedOut { waited: clock.now() - began }),
            Answer::Lost(why) => Err(why.into()),
        }
    }
}

/// Waits for the answer. Until the SQL has run it can be withdrawn: at the deadline, or when the item that waits shall
/// stop.
fn wait<T>(asked: &Asked<T>, clock: &Clock, until: Option<Timestamp>, item: Option<&Context>) -> Answer<T> {
    with_parker(|parker| {
        let me = parker.unparker();
        asked.wake(me.clone());
        let answer = loop {
            if let Some(item) = item {
                item.slot.sleep_entered(&me);
            }
            if let Some(answer) = asked.answer() {
                break answer;
            }
            let stop = item.and_then(|item| item.check().err());
            let late = until.is_some_and(|until| clock.now() >= until);
            if (stop.is_some() || late) && asked.withdraw() {
                break stop.map_or(Answer::TimedOut, Answer::Failed);
            }
            // Past its time it is being committed: only the writer wakes it then.
            clock.park(parker, until.filter(|_| !late));
        };
        if let Some(item) = item {
            item.slot.sleep_left(&me);
        }
        answer
    })
}
