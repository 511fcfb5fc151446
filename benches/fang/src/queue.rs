//! A SQLite queue for fang's blocking worker.
//!
//! fang 0.11 declares a feature `blocking-sqlite`, but its blocking `Queue` is written for PostgreSQL alone: with that
//! feature only, the crate does not compile (`blocking.rs` takes `postgres_schema` unconditionally). What it offers is the
//! trait `Queueable`, "for different storage backends", and its SQLite schema and statements, used by its async half.
//! So the worker, its loop, the trait and the tasks' JSON are fang's, and this file is the backend it lacks: fang's
//! table with fang's indexes, and fang's statements.
//!
//! Where there was a choice it is in fang's favour:
//!
//! | choice | why it favours fang |
//! |---|---|
//! | rusqlite with prepared statements, no diesel, no pool | fang compiles each statement anew, checks each connection |
//! | a write-ahead log; `synchronous` as the caller says | the default, a rollback journal, is several times dearer |
//! | one connection under a mutex | with one each, threads wait for SQLite's lock by sleeping a millisecond and more |
//! | no `RETURNING *` where the row is known | one row less to read and decode |

use fang::{DateTime, FangTaskState, QueueError, Queueable, Runnable, Task, Utc};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use uuid::Uuid;

const TABLE: &str = "
CREATE TABLE fang_tasks (
    id BLOB NOT NULL PRIMARY KEY,
    metadata TEXT NOT NULL,
    error_message TEXT,
    state TEXT CHECK ( state IN ('new', 'in_progress', 'failed', 'finished', 'retried') ) NOT NULL DEFAULT 'new',
    task_type TEXT NOT NULL DEFAULT 'common',
    uniq_hash CHAR(64),
    retries INTEGER NOT NULL DEFAULT 0,
    scheduled_at INTEGER NOT NULL DEFAULT (unixepoch('now')),
    created_at INTEGER NOT NULL DEFAULT (unixepoch('now')),
    updated_at INTEGER NOT NULL DEFAULT (unixepoch('now'))
);
CREATE INDEX fang_tasks_state_index ON fang_tasks(state);
CREATE INDEX fang_tasks_type_index ON fang_tasks(task_type);
CREATE INDEX fang_tasks_scheduled_at_index ON fang_tasks(scheduled_at);
CREATE INDEX fang_tasks_uniq_hash ON fang_tasks(uniq_hash);";

/// A queue in a file; its clones share it.
#[derive(Clone)]
pub(crate) struct Queue(Arc<Shared>);

struct Shared {
    db: Mutex<Connection>,
    gone: Mutex<usize>,
    goes: Condvar,
}

impl Queue {
    /// A new file with fang's table.
    pub(crate) fn create(path: &Path, synchronous: &str) -> rusqlite::Result<Queue> {
        let db = Connection::open(path)?;
        db.execute_batch(&format!("PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; {TABLE}"))?;
        Ok(Queue(Arc::new(Shared { db: Mutex::new(db), gone: Mutex::new(0), goes: Condvar::new() })))
    }

    /// Waits until this many tasks have been done and removed.
    pub(crate) fn wait_until_gone(&self, tasks: usize) {
        let gone = self.0.gone.lock().expect("nobody panics with it");
        drop(self.0.goes.wait_while(gone, |gone| *gone < tasks));
    }

    /// Tasks in the table, whatever their state.
    pub(crate) fn left(&self) -> i64 {
        self.with(|db| db.query_row("SELECT count(*) FROM fang_tasks", [], |row| row.get(0)))
            .expect("the table is there")
    }

    fn with<R>(&self, f: impl FnOnce(&mut Connection) -> rusqlite::Result<R>) -> rusqlite::Result<R> {
        f(&mut self.0.db.lock().expect("nobody panics with it"))
    }
}

impl Queueable for Queue {
    fn insert_task(&self, params: &dyn Runnable) -> Result<Task, QueueError> {
        let metadata = serde_json::to_value(params).expect("a task is JSON");
        let (id, task_type, now) = (Uuid::new_v4(), params.task_type(), Utc::now());
        let text = metadata.to_string();
        let inserted = self.with(|db| {
            db.prepare_cached(
                r#"INSERT INTO "fang_tasks" ("id", "metadata", "task_type", "scheduled_at") VALUES ($1, $2, $3, $4)"#,
            )?
            .execute(params![id.as_bytes(), text, task_type, now.timestamp()])
        });
        inserted.expect("the table takes it");
        Ok(Task::builder()
            .id(id)
            .metadata(metadata)
            .error_message(None)
            .state(FangTaskState::New)
            .task_type(task_type)
            .uniq_hash(None)
            .retries(0)
            .scheduled_at(now)
            .created_at(now)
            .updated_at(now)
            .build())
    }

    fn fetch_and_touch_task(&self, task_type: String) -> Result<Option<Task>, QueueError> {
        let now = Utc::now().timestamp();
        let found = self.with(|db| {
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let found = tx
                .prepare_cached(
                    "SELECT id , metadata , error_message, state, task_type , uniq_hash, retries , scheduled_at , created_at , updated_at
                     FROM fang_tasks  WHERE task_type = $1 AND state in ('new', 'retried') AND $2 >= scheduled_at
                     ORDER BY created_at ASC, scheduled_at ASC LIMIT 1",
                )?
                .query_row(params![task_type, now], task)
                .optional()?;
            if let Some(task) = &found {
                tx.prepare_cached(r#"UPDATE "fang_tasks" SET "state" = $1 , "updated_at" = $2 WHERE id = $3"#)?
                    .execute(params!["in_progress", now, task.id.as_bytes()])?;
            }
            tx.commit()?;
            Ok(found)
        });
        Ok(found.expect("the table can be read and written"))
    }

    fn remove_task(&self, id: &Uuid) -> Result<usize, QueueError> {
        let removed = self
            .with(|db| {
                db.prepare_cached(r#"DELETE FROM "fang_tasks" WHERE id = $1"#)?.execute([id.as_bytes()])
            })
            .expect("the table can be written");
        *self.0.gone.lock().expect("nobody panics with it") += removed;
        self.0.goes.notify_one();
        Ok(removed)
    }

    // The worker asks for none of these when a task neither fails nor repeats.

    fn remove_all_tasks(&self) -> Result<usize, QueueError> {
        unreachable!("nobody gives up")
    }

    fn remove_all_scheduled_tasks(&self) -> Result<usize, QueueError> {
        unreachable!("nothing is scheduled")
    }

    fn remove_tasks_of_type(&self, _task_type: &str) -> Result<usize, QueueError> {
        unreachable!("nobody gives up")
    }

    fn remove_task_by_metadata(&self, _task: &dyn Runnable) -> Result<usize, QueueError> {
        unreachable!("tasks go by their number")
    }

    fn find_task_by_id(&self, _id: &Uuid) -> Option<Task> {
        unreachable!("nobody asks")
    }

    fn update_task_state(&self, _task: &Task, _state: FangTaskState) -> Result<Task, QueueError> {
        unreachable!("what is done is removed")
    }

    fn fail_task(&self, _task: &Task, _error: &str) -> Result<Task, QueueError> {
        unreachable!("nothing fails")
    }

    fn schedule_task(&self, _task: &dyn Runnable) -> Result<Task, QueueError> {
        unreachable!("nothing is scheduled")
    }

    fn schedule_retry(&self, _task: &Task, _backoff: u32, _error: &str) -> Result<Task, QueueError> {
        unreachable!("nothing fails")
    }
}

fn task(row: &Row<'_>) -> rusqlite::Result<Task> {
    let time = |column: usize| -> rusqlite::Result<DateTime<Utc>> {
        let seconds = row.get(column)?;
        Ok(DateTime::from_timestamp(seconds, 0).expect("a time of ours"))
    };
    let metadata: String = row.get(1)?;
    Ok(Task::builder()
        .id(Uuid::from_bytes(row.get(0)?))
        .metadata(serde_json::from_str::<serde_json::Value>(&metadata).expect("JSON of ours"))
        .error_message(row.get::<_, Option<String>>(2)?)
        .state(row.get::<_, String>(3)?)
        .task_type(row.get::<_, String>(4)?)
        .uniq_hash(row.get::<_, Option<String>>(5)?)
        .retries(row.get::<_, i32>(6)?)
        .scheduled_at(time(7)?)
        .created_at(time(8)?)
        .updated_at(time(9)?)
        .build())
}
