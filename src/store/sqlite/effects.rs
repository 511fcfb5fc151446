//! SQL of the user's in the transaction that marks items done, and the fences around it.
//!
//! It runs in the writer, in a savepoint: if it fails, what it wrote and the marks go, and its items have failed. An
//! authorizer keeps it to its own tables and away from the transaction; a progress handler interrupts it at its
//! deadline. SQLite rolls back the *whole* transaction when it interrupts a statement that writes: the group is then
//! applied anew at once, without the part at fault, which is why such SQL may run more than once.
//!
//! Both hooks are installed once and switched: setting an authorizer anew would make SQLite compile every statement
//! anew.

use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::time::{Clock, Deadline};
use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
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
}

impl Fence {
    pub(crate) fn install(db: &mut Connection, clock: &Clock) -> rusqlite::Result<Fence> {
        let fence = Fence {
            clock: clock.clone(),
            theirs: Arc::new(AtomicBool::new(false)),
            deadline: Arc::new(AtomicU64::new(u64::MAX)),
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
        db.progress_handler(
            LOOK_EVERY,
            Some(move || {
                let deadline = deadline.load(Ordering::Relaxed);
                deadline != u64::MAX && clock.now().as_nanos() >= deadline
            }),
        )?;
        Ok(fence)
    }

    /// Runs the user's SQL. The hooks are switched back on every way out.
    pub(crate) fn run<R>(&self, limit: Duration, f: impl FnOnce() -> R) -> R {
        struct Back<'a>(&'a Fence);
        impl Drop for Back<'_> {
            fn drop(&mut self) {
                self.0.theirs.store(false, Ordering::Relaxed);
                self.0.deadline.store(u64::MAX, Ordering::Relaxed);
            }
        }
        let _back = Back(self);
        let until = Deadline::within(limit).on(&self.clock).map_or(u64::MAX, |until| until.as_nanos());
        self.deadline.store(until, Ordering::Relaxed);
        self.theirs.store(true, Ordering::Relaxed);
        f()
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

/// The error by which an op asks for its group to be applied anew at once.
pub(crate) fn anew() -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT);
    rusqlite::Error::SqliteFailure(code, Some("the group is applied anew".to_owned()))
}

/// Whether this is [`anew`].
pub(crate) fn is_anew(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationAborted)
}
