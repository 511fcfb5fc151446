//! What threads hold: for callers that have no session, and for items.
//!
//! A thread has a session of its own with each manager that it takes locks of in this way. Whatever names the locks are
//! taken in, it is the thread that waits: all that it holds is held up with it. So who asks with which name is for reports
//! only, and a thread that asks for what it holds already is told so, whoever it was taken for.

use super::body::Ask;
use super::error::LockError;
use super::manager::{Inner, LockManager};
use super::named::OwnedGuard;
use super::session::Session;
use super::wait::{By, LockWait};
use crate::core::lockword::Mode;
use crate::job::Priority;
use crate::sync::{Arc, OnceLock};
use crate::time::Deadline;
use crate::waitgraph::{self, Hold};
use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::rc::Rc;
use std::thread_local;

type Sessions = RefCell<Vec<Rc<Session<String>>>>;

thread_local! {
    static SESSIONS: Sessions = const { RefCell::new(Vec::new()) };
    /// Of a thread whose storage is being destroyed. It has no destructor, and what is there goes as soon as it holds nothing.
    static LATE: ManuallyDrop<Sessions> = const { ManuallyDrop::new(RefCell::new(Vec::new())) };
}

fn with_sessions<R>(f: impl FnOnce(&Sessions) -> R) -> R {
    let mut f = Some(f);
    let mut call = |sessions: &Sessions| f.take().map(|f| f(sessions));
    let result = SESSIONS.try_with(&mut call).unwrap_or_else(|_| LATE.with(|late| call(late)));
    result.expect("one of the two is there")
}

/// This thread's session with a manager.
fn session(inner: &Arc<Inner<String>>) -> Rc<Session<String>> {
    let (session, _left) = with_sessions(|sessions| {
        let mut sessions = sessions.borrow_mut();
        if let Some(session) = sessions.iter().find(|session| Arc::ptr_eq(&session.inner, inner)) {
            return (Rc::clone(session), Vec::new());
        }
        waitgraph::tell_locks(held);
        let left: Vec<_> = sessions.extract_if(.., |session| session.is_left_over()).collect();
        let session = Rc::new(Session::of_thread(inner));
        sessions.push(Rc::clone(&session));
        (session, left)
    });
    session
}

/// A guard of this session is gone. Where this thread's storage is gone, too, nobody else drops the session.
pub(super) fn let_go(session: &Rc<Session<String>>) {
    if session.holds_nothing() && SESSIONS.try_with(|_| ()).is_err() {
        let left = LATE.with(|late| {
            let at = late.borrow().iter().position(|there| Rc::ptr_eq(there, session));
            at.map(|at| late.borrow_mut().swap_remove(at))
        });
        drop(left);
    }
}

/// All that this thread holds.
fn held(all: &mut Vec<Hold>) {
    with_sessions(|sessions| sessions.borrow().iter().for_each(|session| session.tell(all)));
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
