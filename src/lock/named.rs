//! Named locks that are held: by a session, or by a thread.

use super::body::Ask;
use super::error::LockError;
use super::manager::LockName;
use super::session::Session;
use super::threads;
use super::wait::{By, LockWait};
use crate::core::lockword::Mode;
use std::fmt;
use std::panic::Location;
use std::rc::Rc;

/// A named lock that a [`Session`] holds. Gives it back when dropped.
#[must_use = "dropped at once, the lock is free again"]
pub struct NamedGuard<'s, K> {
    session: &'s Session<K>,
    id: u64,
}

/// A named lock that a thread holds, in the name of an owner: from [`exclusive_lock`](crate::exclusive_lock),
/// [`shared_lock`](crate::shared_lock) or [`Context::lock`](crate::Context::lock). Gives it back when dropped, and stays on
/// its thread:
///
/// ```compile_fail,E0277
/// let guard = batchyard::exclusive_lock("orders", "me").unwrap();
/// std::thread::spawn(move || drop(guard)); // not `Send`
/// ```
#[must_use = "dropped at once, the lock is free again"]
pub struct OwnedGuard<'a> {
    session: Rc<Session<String>>,
    id: u64,
    by: By<'a>,
}

impl<'s, K> NamedGuard<'s, K> {
    #[inline]
    pub(super) fn new(session: &'s Session<K>, id: u64) -> Self {
        NamedGuard { session, id }
    }

    /// How it is held.
    pub fn mode(&self) -> Mode {
        self.session.mode(self.id)
    }

    /// Leaves it to the session: held until [`Session::release_all`], or until the session is dropped.
    pub fn keep(self) {
        std::mem::forget(self);
    }

    /// To a weaker mode, with nobody in between. A mode that is not weaker changes nothing.
    pub fn downgrade(&mut self, to: Mode) {
        self.session.downgrade(self.id, to);
    }
}

impl<K: LockName> NamedGuard<'_, K> {
    /// From upgradable to exclusive, with nobody in between who changes anything. If it fails, it is held as before.
    ///
    /// # Errors
    ///
    /// [`LockError::Deadlock`]; [`LockError::Recursive`]: it is held shared (also), and would wait for itself;
    /// [`LockError::Order`]: this thread holds a levelled lock that is taken inside named ones.
    #[track_caller]
    pub fn upgrade(&mut self) -> Result<(), LockError> {
        self.session.upgrade(self.id, Ask::Wait, None, Location::caller())
    }

    /// As [`upgrade`](Self::upgrade), if that needs no waiting.
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`], and as there.
    #[track_caller]
    pub fn try_upgrade(&mut self) -> Result<(), LockError> {
        self.session.upgrade(self.id, Ask::Now, None, Location::caller())
    }

    /// As [`upgrade`](Self::upgrade), waiting as `wait` says.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`], [`LockError::Cancelled`], and as there.
    #[track_caller]
    pub fn upgrade_with(&mut self, wait: &LockWait) -> Result<(), LockError> {
        self.session.upgrade(self.id, Ask::With(wait), None, Location::caller())
    }
}

impl<K> fmt::Debug for NamedGuard<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedGuard").field("mode", &self.mode()).finish_non_exhaustive()
    }
}

impl<K> Drop for NamedGuard<'_, K> {
    #[inline]
    fn drop(&mut self) {
        self.session.release(self.id);
    }
}

impl<'a> OwnedGuard<'a> {
    pub(super) fn take(
        session: Rc<Session<String>>,
        (name, mode): (&str, Mode),
        ask: Ask<'_>,
        by: By<'a>,
        place: &'static Location<'static>,
    ) -> Result<Self, LockError> {
        let id = session.take(name, mode, ask, Some(&by), place)?;
        Ok(OwnedGuard { session, id, by })
    }

    /// Who holds it.
    pub fn owner(&self) -> &str {
        &self.by.who
    }

    /// How it is held.
    pub fn mode(&self) -> Mode {
        self.session.mode(self.id)
    }

    /// To a weaker mode, with nobody in between. A mode that is not weaker changes nothing.
    pub fn downgrade(&mut self, to: Mode) {
        self.session.downgrade(self.id, to);
    }

    /// From upgradable to exclusive, with nobody in between who changes anything. If it fails, it is held as before.
    ///
    /// # Errors
    ///
    /// [`LockError::Deadlock`]; [`LockError::Recursive`]: this thread holds it shared (also), and would wait for itself;
    /// [`LockError::Order`]: it holds a levelled lock that is taken inside named ones.
    #[track_caller]
    pub fn upgrade(&mut self) -> Result<(), LockError> {
        self.upgrade_as(Ask::Wait, Location::caller())
    }

    /// As [`upgrade`](Self::upgrade), waiting as `wait` says.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`], [`LockError::Cancelled`], and as there.
    #[track_caller]
    pub fn upgrade_with(&mut self, wait: &LockWait) -> Result<(), LockError> {
        self.upgrade_as(Ask::With(wait), Location::caller())
    }

    fn upgrade_as(&mut self, ask: Ask<'_>, place: &'static Location<'static>) -> Result<(), LockError> {
        self.session.upgrade(self.id, ask, Some(&self.by), place)
    }
}

impl fmt::Debug for OwnedGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedGuard")
            .field("owner", &self.by.who)
            .field("mode", &self.mode())
            .finish_non_exhaustive()
    }
}

impl Drop for OwnedGuard<'_> {
    fn drop(&mut self) {
        self.session.release(self.id);
        threads::let_go(&self.session);
    }
}
