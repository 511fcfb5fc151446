//! [`Mutex`].

use super::error::LockError;
use super::guard::{self, Hold, MappedWriteGuard, WriteGuard};
use super::level::{Level, Unlevelled};
use super::poison::{NoPoison, Poison};
use super::rwlock::RwLock;
use super::stats::LockStats;
use super::wait::LockWait;
use crate::time::{Clock, Deadline};
use std::cell::UnsafeCell;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// A lock that one holds at a time: an [`RwLock`] that is never shared.
///
/// ```
/// use batchyard::lock::{LockError, Mutex};
/// let lock = Mutex::new(1);
/// *lock.lock()? += 1;
/// assert_eq!(lock.into_inner(), 2);
/// # Ok::<(), LockError>(())
/// ```
#[derive(Default)]
pub struct Mutex<T: ?Sized, L: Level = Unlevelled, P: Poison = NoPoison>(Alone<RwLock<T, L, P>>);

/// What is held by one at a time need not be `Sync`.
#[derive(Default)]
struct Alone<T: ?Sized>(T);

// SAFETY: the lock is only taken alone, so its value moves from thread to thread and is never shared.
unsafe impl<T: ?Sized + Send, L: Level, P: Poison> Sync for Alone<RwLock<T, L, P>> {}

/// A [`Mutex`] that is held. Gives it back when dropped.
/// It stays on its thread:
///
/// ```compile_fail,E0277
/// let lock = batchyard::lock::Mutex::new(1);
/// let guard = lock.lock().unwrap();
/// std::thread::scope(|scope| {
///     scope.spawn(move || drop(guard)); // not `Send`
/// });
/// ```
#[must_use = "dropped at once, the lock is free again"]
pub struct MutexGuard<'a, T: ?Sized, P: Poison = NoPoison>(WriteGuard<'a, T, P>);

impl<T> Mutex<T> {
    /// A free one, in no order. Its deadlines go by the operating system's clock.
    pub const fn new(value: T) -> Self {
        Self::of(value)
    }
}

impl<T, L: Level, P: Poison> Mutex<T, L, P> {
    /// A free one with the level and the poisoning of its type.
    pub const fn of(value: T) -> Self {
        Mutex(Alone(RwLock::of(value)))
    }

    /// The same, going by this clock.
    pub fn with_clock(self, clock: Clock) -> Self {
        Mutex(Alone(self.0.0.with_clock(clock)))
    }

    /// The same, measuring how long each hold lasts: see [`RwLock::with_hold_times`](super::RwLock::with_hold_times).
    pub fn with_hold_times(self) -> Self {
        Mutex(Alone(self.0.0.with_hold_times()))
    }

    /// The value. Whether a holder panicked does not matter any more.
    pub fn into_inner(self) -> T {
        self.0.0.into_inner()
    }
}

impl<T: ?Sized, L: Level, P: Poison> Mutex<T, L, P> {
    /// Takes it, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`LockError`]: against the order of locks; this thread would wait for itself; poisoned.
    #[track_caller]
    #[inline]
    pub fn lock(&self) -> Result<MutexGuard<'_, T, P>, LockError> {
        self.0.0.write().map(MutexGuard)
    }

    /// Takes it if it is free.
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`], and as [`lock`](Self::lock).
    #[track_caller]
    #[inline]
    pub fn try_lock(&self) -> Result<MutexGuard<'_, T, P>, LockError> {
        self.0.0.try_write().map(MutexGuard)
    }

    /// Takes it, waiting until then: a point in time, or how long from the call on.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`], and as [`lock`](Self::lock).
    #[track_caller]
    pub fn lock_by(&self, deadline: impl Into<Deadline>) -> Result<MutexGuard<'_, T, P>, LockError> {
        self.0.0.write_by(deadline).map(MutexGuard)
    }

    /// Takes it, waiting as `wait` says.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`], [`LockError::Cancelled`], and as [`lock`](Self::lock).
    #[track_caller]
    pub fn lock_with(&self, wait: &LockWait) -> Result<MutexGuard<'_, T, P>, LockError> {
        self.0.0.write_with(wait).map(MutexGuard)
    }

    /// The value, without locking: nobody else can have it.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.0.get_mut()
    }

    /// Whether a holder panicked while it held the lock. Never, unless `P` is [`Poisoning`](super::Poisoning).
    pub fn is_poisoned(&self) -> bool {
        self.0.0.is_poisoned()
    }

    /// Makes good what a panic left: see [`RwLock::recover`].
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock), but for [`LockError::Poisoned`].
    #[track_caller]
    pub fn recover<R>(&self, mend: impl FnOnce(&mut T) -> R) -> Result<R, LockError> {
        self.0.0.recover(mend)
    }

    /// What can be told of it now.
    pub fn stats(&self) -> LockStats {
        self.0.0.stats()
    }
}

impl<T: ?Sized, L: Level, P: Poison> Mutex<T, L, P> {
    pub(super) fn inner(&self) -> &RwLock<T, L, P> {
        &self.0.0
    }
}

impl<'a, T: ?Sized, P: Poison> MutexGuard<'a, T, P> {
    /// # Safety
    ///
    /// As for [`WriteGuard::new`].
    pub(super) unsafe fn new(hold: Hold<'a, guard::Alone>, data: &'a UnsafeCell<T>) -> Self {
        // SAFETY: the caller's promise.
        MutexGuard(unsafe { WriteGuard::new(hold, data) })
    }

    /// A guard of a part. Not a method: `T` may have one of that name.
    pub fn map<U: ?Sized>(this: Self, part: impl FnOnce(&mut T) -> &mut U) -> MappedWriteGuard<'a, U, P> {
        WriteGuard::map(this.0, part)
    }
}

impl<T, L: Level, P: Poison> From<T> for Mutex<T, L, P> {
    fn from(value: T) -> Self {
        Self::of(value)
    }
}

impl<T: ?Sized + fmt::Debug, L: Level, P: Poison> fmt::Debug for Mutex<T, L, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Mutex");
        match self.0.0.look_alone() {
            Some(value) => f.field("data", &&*value),
            None => f.field("data", &format_args!("<locked>")),
        };
        f.field("poisoned", &self.is_poisoned()).finish_non_exhaustive()
    }
}

impl<T: ?Sized, P: Poison> Deref for MutexGuard<'_, T, P> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized, P: Poison> DerefMut for MutexGuard<'_, T, P> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: ?Sized + fmt::Debug, P: Poison> fmt::Debug for MutexGuard<'_, T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: ?Sized + fmt::Display, P: Poison> fmt::Display for MutexGuard<'_, T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
