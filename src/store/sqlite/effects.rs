//! SQL of the user's on the journal's own connection, and the fences around it.
//!
//! It runs in the writer, in a savepoint: if it fails, what it wrote goes, and the marks of the items that it belongs
//! to. An authorizer keeps it to its own tables and away from the transaction; a progress handler interrupts it at its
//! deadline. SQLite rolls back the *whole* transaction when it interrupts a statement that writes, and for some other
//! errors: the group is then applied anew, without the part at fault, which is why such SQL may run more than once.
//! What it goes on to do after that would be committed by itself, outside of any transaction: a commit hook refuses it.
//!
//! | what happens in it | what becomes of it |
//! |---|---|
//! | it returns an error, or panics | it has failed |
//! | its deadline | it has failed, whatever it returns |
//! | it rolls the transaction back (`INSERT OR ROLLBACK`) | it has failed, whatever it returns |
//! | the disk is full, an I/O error | nothing is said of it: the group is rolled back, and it is run again when the group is |
//!
//! The hooks are installed once and switched: setting an authorizer anew would make SQLite compile every statement
//! anew.

use super::writer::Tx;
use crate::job::{Failure, FailureKind};
use crate::lock::outside;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::time::{Clock, Deadline};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, ffi};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Instructions of SQLite's machine between two looks at the deadline: some ten microseconds.
const LOOK_EVERY: i32 = 1_000;

/// What only we may touch.
const OURS: [&str; 10] =
    ["owner", "batch", "item", "retry", "error", "result", "step", "piece", "mark", "control"];

/// Switches for the time that the user's SQL runs.
#[derive(Debug, Clone)]
pub(crate) struct Fence {
    clock: Clock,
    theirs: Arc<AtomicBool>,
    /// Nanoseconds of the clock; `u64::MAX`: none.
    deadline: Arc<AtomicU64>,
    /// What runs, or ran last, was interrupted at its deadline.
    interrupted: Arc<AtomicBool>,
}

impl Fence {
    pub(crate) fn install(db: &mut Connection, clock: &Clock) -> rusqlite::Result<Fence> {
        let fence = Fence {
            clock: clock.clone(),
            theirs: Arc::new(AtomicBool::new(false)),
            deadline: Arc::new(AtomicU64::new(u64::MAX)),
            interrupted: Arc::new(AtomicBool::new(false)),
        };
        let theirs = Arc::clone(&fence.theirs);
        db.authorizer(Some(move |asked: AuthContext<'_>| {
            if theirs.load(Ordering::Relaxed) && is_forbidden(&asked) {
                Authorization::Deny
            } else {
                Authorization::Allow
            }
        }))?;
        let (clock, deadline) = (clock.clone(), Arc::clone(&fence.deadline));
        let interrupted = Arc::clone(&fence.interrupted);
        db.progress_handler(
            LOOK_EVERY,
            Some(move || {
                let deadline = deadline.load(Ordering::Relaxed);
                let over = deadline != u64::MAX && clock.now().as_nanos() >= deadline;
                if over {
                    interrupted.store(true, Ordering::Relaxed);
                }
                over
            }),
        )?;
        let theirs = Arc::clone(&fence.theirs);
        db.commit_hook(Some(move || theirs.load(Ordering::Relaxed)))?;
        Ok(fence)
    }

    /// Runs the user's SQL. The hooks are switched back on every way out.
    fn run<R>(&self, limit: Duration, f: impl FnOnce() -> R) -> R {
        struct Back<'a>(&'a Fence);
        impl Drop for Back<'_> {
            fn drop(&mut self) {
                self.0.theirs.store(false, Ordering::Relaxed);
                self.0.deadline.store(u64::MAX, Ordering::Relaxed);
            }
        }
        let _back = Back(self);
        let until = Deadline::within(limit).on(&self.clock).map_or(u64::MAX, |until| until.as_nanos());
        self.interrupted.store(false, Ordering::Relaxed);
        self.deadline.store(until, Ordering::Relaxed);
        self.theirs.store(true, Ordering::Relaxed);
        f()
    }

    /// Whether the SQL that ran last was interrupted at its deadline.
    pub(crate) fn has_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

fn is_forbidden(asked: &AuthContext<'_>) -> bool {
    let ours = |table: &str| {
        OURS.iter().any(|name| name.eq_ignore_ascii_case(table)) || table.eq_ignore_ascii_case("items")
    };
    match asked.action {
        AuthAction::Transaction { .. }
        | AuthAction::Savepoint { .. }
        | AuthAction::Attach { .. }
        | AuthAction::Detach { .. }
        | AuthAction::Pragma { .. }
        | AuthAction::Unknown { .. } => true,
        AuthAction::Read { table_name, .. }
        | AuthAction::Insert { table_name }
        | AuthAction::Delete { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::CreateTable { table_name }
        | AuthAction::CreateIndex { table_name, .. }
        | AuthAction::CreateTrigger { table_name, .. }
        | AuthAction::CreateTempTable { table_name }
        | AuthAction::CreateTempIndex { table_name, .. }
        | AuthAction::CreateTempTrigger { table_name, .. }
        | AuthAction::AlterTable { table_name, .. }
        | AuthAction::DropTable { table_name }
        | AuthAction::DropIndex { table_name, .. }
        | AuthAction::DropTrigger { table_name, .. } => ours(table_name),
        AuthAction::CreateView { view_name }
        | AuthAction::DropView { view_name }
        | AuthAction::CreateTempView { view_name } => ours(view_name),
        _ => false,
    }
}

/// A point to go back to.
pub(crate) struct Savepoint<'a>(&'a Connection);

pub(crate) fn savepoint(db: &Connection) -> rusqlite::Result<Savepoint<'_>> {
    // Not from the cache of statements, here and in the writer: the user's SQL would find them there, authorised.
    db.execute_batch("SAVEPOINT byrd")?;
    Ok(Savepoint(db))
}

impl Savepoint<'_> {
    pub(crate) fn keep(self) -> rusqlite::Result<()> {
        self.0.execute_batch("RELEASE byrd")
    }

    pub(crate) fn undo(self) -> rusqlite::Result<()> {
        self.0.execute_batch("ROLLBACK TO byrd")?;
        self.keep()
    }
}

/// Runs SQL of the user's behind the fence, in a savepoint of the caller's. The outer error is the disk's: it is
/// nobody's fault, and the group's as a whole. After an inner one the savepoint may be gone with its transaction
/// (`is_autocommit`): then the group is applied [`anew`].
pub(crate) fn run_theirs<R>(
    tx: &Tx<'_>,
    limit: Duration,
    sql: impl FnOnce(&Connection) -> Result<R, Failure>,
) -> rusqlite::Result<Result<R, Failure>> {
    outside();
    let ran = tx.fence.run(limit, || catch_unwind(AssertUnwindSafe(|| sql(tx.db))));
    // Asked at once: what comes next on the connection overwrites it.
    let disk = disk_error(tx.db);
    let failed = match ran {
        Err(panic) => {
            let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            // The payload's own `Drop` may panic, too.
            std::mem::forget(panic);
            Failure::retry(format!("its SQL panicked: {said}"))
        }
        // SQL that has passed over its interruption has failed, whatever it returns.
        Ok(ran)
            if disk.is_none() && !tx.db.is_autocommit() && (ran.is_err() || !tx.fence.has_interrupted()) =>
        {
            return Ok(ran);
        }
        Ok(Err(failure)) => failure,
        Ok(Ok(made)) => {
            quietly(made);
            Failure::retry(match tx.fence.has_interrupted() {
                true => "its SQL was interrupted at its deadline",
                false => "its SQL has rolled the transaction back",
            })
        }
    };
    match disk {
        Some(error) => {
            quietly(failed);
            Err(error)
        }
        None => Ok(Err(failed)),
    }
}

/// The last error of this connection, if it is the disk's. What the user's SQL makes of an error is its own business
/// ([`Failure`] has no codes), so the connection is asked. One that the SQL has passed over and followed by other
/// statements is not seen, unless SQLite has rolled the transaction back for it: then the SQL has failed.
fn disk_error(db: &Connection) -> Option<rusqlite::Error> {
    // SAFETY: the connection is open, and this thread is the only one to use it.
    let code = unsafe { ffi::sqlite3_extended_errcode(db.handle()) };
    let disk = matches!(code & 0xff, ffi::SQLITE_FULL | ffi::SQLITE_IOERR);
    disk.then(|| {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some("in SQL of the user's".to_owned()))
    })
}

/// Drops a value of the user's, whose `Drop` may panic: the writer goes on.
pub(crate) fn quietly<T>(value: T) {
    outside();
    if let Err(panic) = catch_unwind(AssertUnwindSafe(move || drop(value))) {
        std::mem::forget(panic);
    }
}

/// Another failure that says the same.
pub(crate) fn same(failure: &Failure) -> Failure {
    outside();
    // To print it runs code of the user's.
    let message = catch_unwind(AssertUnwindSafe(|| failure.message()));
    let message = message.unwrap_or_else(|panic| {
        std::mem::forget(panic);
        "its error cannot be shown: a panic".to_owned()
    });
    match failure.kind() {
        FailureKind::RetryAfter(wait) => Failure::retry_after_with(message, wait),
        FailureKind::Defer(wait) => Failure::defer(wait),
        FailureKind::Fatal => Failure::fatal(message),
        FailureKind::Skip => Failure::skip(message),
        _ => Failure::retry(message),
    }
}

/// The error by which an op asks for its group to be applied anew at once.
pub(crate) fn anew() -> rusqlite::Error {
    let code = ffi::Error::new(ffi::SQLITE_ABORT);
    rusqlite::Error::SqliteFailure(code, Some("the group is applied anew".to_owned()))
}

/// Whether this is [`anew`].
pub(crate) fn is_anew(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationAborted)
}
