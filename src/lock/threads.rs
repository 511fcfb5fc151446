//! What threads hold: for callers that have no session, and for items.
//!
//! A thread has a session of its own with each manager that it takes locks of in this way. Whatever names the locks are
//! taken in, it is the thread that waits: all that it holds is held up with it. So who asks with which name is for reports
//! only, and a thread that asks for what it holds already is told so, whoever it was taken for.

use super::error::LockError;
use super::manager::{Inner, LockManager};
use super::named::OwnedGuard;
use super::rwlock::Ask;
use super::session::{By, Session};
use super::wait::LockWait;
use crate::core::lockword::Mode;
use crate::job::Priority;
use crate::sync::{Arc, OnceLock};
use crate::time::Deadline;
use crate::waitgraph::{self, Hold};
use std::cell::RefCell;
use std::panic::Location;
use std::rc::Rc;
use std::thread_local;

thread_local! {
    static SESSIONS: RefCell<Vec<Rc<Session<String>>>> = const { RefCell::new(Vec::new()) };
}

/// This thread's session with a manager; a fresh one where thread-local storage is gone already.
fn session(inner: &Arc<Inner<String>>) -> Rc<Session<String>> {
    let found = SESSIONS.try_with(|sessions| {
        let mut sessions = sessions.borrow_mut();
        if let Some(session) = sessions.iter().find(|session| Arc::ptr_eq(&session.inner, inner)) {
            return (Rc::clone(session), Vec::new());
        }
        waitgraph::tell_holdings(held);
        let left: Vec<_> = sessions.extract_if(.., |session| session.is_left_over()).collect();
        let session = Rc::new(Session::of_thread(inner));
        sessions.push(Rc::clone(&session));
        (session, left)
    });
    found.map_or_else(|_| Rc::new(Session::of_thread(inner)), |(session, _left)| session)
}

/// All that this thread holds.
fn held(all: &mut Vec<Hold>) {
    // Gone: who holds something nevertheless has a session of its own, which is not known here.
    let _ = SESSIONS.try_with(|sessions| sessions.borrow().iter().for_each(|session| session.tell(all)));
}

impl LockManager<String> {
    /// Takes it for this thread.
    pub(crate) fn take_here<'a>(
        &self,
        name: (&str, Mode),
        wait: &LockWait,
        by: By<'a>,
        place: &'static Location<'static>,
    ) -> Result<OwnedGuard<'a>, LockError> {
        OwnedGuard::take(session(&self.inner), name, Ask::With(wait), by, place)
    }

    /// Gives back all that this thread holds of it: what guards were forgotten of.
    #[cold]
    pub(crate) fn release_here(&self) {
        let own = SESSIONS.try_with(|sessions| {
            let sessions = sessions.borrow();
            sessions.iter().find(|session| Arc::ptr_eq(&session.inner, &self.inner)).map(Rc::clone)
        });
        if let Ok(Some(session)) = own {
            session.release_everything();
        }
    }
}

/// The process's own named locks: of [`shared_lock`] and [`exclusive_lock`].
///
/// ```
/// use batchyard::lock::{LockError, Mode, global};
/// let _held = batchyard::exclusive_lock("the ledger", "importer")?;
/// let session = global().session();
/// assert!(matches!(session.try_lock("the ledger", Mode::Shared), Err(LockError::WouldBlock)));
/// # Ok::<(), LockError>(())
/// ```
pub fn global() -> &'static LockManager<String> {
    static GLOBAL: OnceLock<LockManager<String>> = OnceLock::new();
    GLOBAL.get_or_init(LockManager::new)
}

macro_rules! takers {
    ($($mode:ident: $plain:ident $by:ident $with:ident, $alias:literal, $what:literal;)*) => {$(
        #[doc = concat!("Takes one of the process's [own named locks](global) ", $what, ", for `owner`, waiting as long as it takes.")]
        ///
        /// The owner is a name for reports: what holds a lock is the thread that took it.
        ///
        /// ```
        #[doc = concat!("let held = batchyard::", stringify!($plain), "(\"the ledger\", \"importer\")?;")]
        /// assert_eq!(held.owner(), "importer");
        /// # Ok::<(), batchyard::lock::LockError>(())
        /// ```
        ///
        /// # Errors
        ///
        /// [`LockError::Deadlock`]: this thread and others would wait for each other; [`LockError::Recursive`]: it holds
        /// the lock already, in a way that it would wait for.
        #[doc(alias = $alias)]
        #[track_caller]
        pub fn $plain(name: impl AsRef<str>, owner: impl Into<Arc<str>>) -> Result<OwnedGuard<'static>, LockError> {
            take(name.as_ref(), Mode::$mode, owner.into(), &LockWait::new(), Location::caller())
        }

        #[doc = concat!("As [`", stringify!($plain), "`], waiting until then: a point in time, or how long from the call on.")]
        ///
        /// # Errors
        ///
        #[doc = concat!("[`LockError::TimedOut`], and as [`", stringify!($plain), "`].")]
        #[doc(alias = $alias)]
        #[track_caller]
        pub fn $by(
            name: impl AsRef<str>,
            owner: impl Into<Arc<str>>,
            deadline: impl Into<Deadline>,
        ) -> Result<OwnedGuard<'static>, LockError> {
            take(name.as_ref(), Mode::$mode, owner.into(), &LockWait::new().by(deadline), Location::caller())
        }

        #[doc = concat!("As [`", stringify!($plain), "`], waiting as `wait` says.")]
        ///
        /// # Errors
        ///
        #[doc = concat!("[`LockError::TimedOut`], [`LockError::Cancelled`], and as [`", stringify!($plain), "`].")]
        #[doc(alias = $alias)]
        #[track_caller]
        pub fn $with(
            name: impl AsRef<str>,
            owner: impl Into<Arc<str>>,
            wait: &LockWait,
        ) -> Result<OwnedGuard<'static>, LockError> {
            take(name.as_ref(), Mode::$mode, owner.into(), wait, Location::caller())
        }
    )*};
}

takers! {
    Shared: shared_lock shared_lock_by shared_lock_with, "acquire_shared_lock", "to share it with others";
    Exclusive: exclusive_lock exclusive_lock_by exclusive_lock_with, "acquire_exclusive_lock", "alone";
}

fn take(
    name: &str,
    mode: Mode,
    who: Arc<str>,
    wait: &LockWait,
    place: &'static Location<'static>,
) -> Result<OwnedGuard<'static>, LockError> {
    let by = By { who, class: Priority::Normal.class(), item: None };
    global().take_here((name, mode), wait, by, place)
}
