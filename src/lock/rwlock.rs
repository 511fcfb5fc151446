//! [`RwLock`].

use super::body::{Ask, Body, Want, unpark};
use super::error::LockError;
use super::guard::{HeldAs, Hold, ReadGuard, UpgradableGuard, WriteGuard};
use super::held::{self, Entry};
use super::level::{self, Level, Unlevelled};
use super::levelled::Levelled;
use super::poison::{NoPoison, Poison};
use super::stats::LockStats;
use super::wait::LockWait;
use crate::core::lockword::Mode;
use crate::job::Priority;
use crate::sync::atomic::Ordering;
use crate::time::{Clock, Deadline};
use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;

/// A lock that many may share, that one may hold with the right to [upgrade](UpgradableGuard::upgrade), or one alone.
///
/// - Without waiters, taking it is one read-modify-write of one word, and giving it back is another.
/// - Who waits does so in four classes, and rises by one for each 10 ms; within a class it is first come, first served.
///   Who wants the lock alone may take it, when it is free, before one of its class that was woken for it, up to three times or for
///   1 ms; then it is handed over. Who gives it back yields the processor, once in 50 µs, if one that was woken has not come: it may
///   wait for that. By others, a waiter that wants it alone, or to be the one that may upgrade, is passed only while
///   their class is above what it has risen to: for `(3 - p) · 10 ms` at the most, if p is its class and 3 the highest.
/// - Readers wait behind a writer that waits, unless their class is above it; after a writer, all readers that wait enter
///   together. Neither starves the other. Who holds the lock already, and reads it again, does not wait: it would wait for
///   itself.
/// - `L` is its level: see [`lock_order!`](crate::lock_order). `P` is whether it remembers a panic: [`NoPoison`] does not.
/// - A guard stays on its thread.
///
/// ```
/// use batchyard::lock::{LockError, RwLock};
/// let lock = RwLock::new(vec![1]);
/// assert_eq!(lock.read()?.len(), 1);
/// let look = lock.upgradable()?;
/// if !look.contains(&2) {
///     look.upgrade().map_err(|error| error.why)?.push(2);
/// }
/// assert_eq!(*lock.read()?, [1, 2]);
/// # Ok::<(), LockError>(())
/// ```
pub struct RwLock<T: ?Sized, L: Level = Unlevelled, P: Poison = NoPoison> {
    body: Body,
    kind: PhantomData<fn() -> (L, P)>,
    data: UnsafeCell<T>,
}

// SAFETY: the lock owns the value, and gives it to one thread at a time, or shares it. All else in it is `Send` and `Sync` (see
// `Body`).
unsafe impl<T: ?Sized + Send, L: Level, P: Poison> Send for RwLock<T, L, P> {}
// SAFETY: as above: `Send`, for an exclusive holder has the value for itself; `Sync`, for it is shared.
unsafe impl<T: ?Sized + Send + Sync, L: Level, P: Poison> Sync for RwLock<T, L, P> {}

impl<T> RwLock<T> {
    /// A free one, in no order. Its deadlines go by the operating system's clock.
    pub const fn new(value: T) -> Self {
        Self::of(value)
    }
}

impl<T, L: Level, P: Poison> RwLock<T, L, P> {
    /// A free one with the level and the poisoning of its type.
    ///
    /// ```
    /// use batchyard::lock::{LockError, RwLock};
    /// batchyard::lock_order! { House: Door < Safe }
    /// static SAFE: RwLock<u32, Safe> = RwLock::of(7);
    /// assert_eq!(*SAFE.read()?, 7);
    /// # Ok::<(), LockError>(())
    /// ```
    pub const fn of(value: T) -> Self {
        RwLock { body: Body::new(), kind: PhantomData, data: UnsafeCell::new(value) }
    }

    /// The same, going by this clock.
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.body.more().clock = clock;
        self
    }

    /// The same, measuring how long each hold lasts, from the take to the last guard made of it: two readings of the clock and
    /// a latch for each. See [`LockStats::held`].
    ///
    /// ```
    /// use batchyard::lock::{LockError, RwLock};
    /// let lock = RwLock::new(1).with_hold_times();
    /// *lock.write()? += 1;
    /// assert_eq!(*lock.read()?, 2);
    /// assert_eq!(lock.stats().held.map(|held| held.count), Some(2));
    /// # Ok::<(), LockError>(())
    /// ```
    pub fn with_hold_times(mut self) -> Self {
        self.body.more().holds = Some(Levelled::default());
        self
    }

    /// The value. Whether a holder panicked does not matter any more.
    pub fn into_inner(self) -> T {
        self.data.into_inner()
    }
}

macro_rules! ways {
    ($($guard:ident $(<$poison:ident>)?: $plain:ident $try:ident $by:ident $with:ident, $what:literal;)*) => {$(
        #[doc = concat!("Takes it ", $what, ", waiting as long as it takes.")]
        ///
        /// # Errors
        ///
        /// [`LockError`]: against the order of locks; this thread would wait for itself; poisoned; too many readers.
        #[track_caller]
        #[inline]
        pub fn $plain(&self) -> Result<$guard<'_, T $(, $poison)?>, LockError> {
            let hold = self.take(Ask::Wait, Location::caller())?;
            // SAFETY: it has just been taken so.
            Ok(unsafe { $guard::new(hold, &self.data) })
        }

        #[doc = concat!("Takes it ", $what, " if that needs no waiting.")]
        ///
        /// # Errors
        ///
        /// [`LockError::WouldBlock`], and as the one that waits.
        #[track_caller]
        #[inline]
        pub fn $try(&self) -> Result<$guard<'_, T $(, $poison)?>, LockError> {
            let hold = self.take(Ask::Now, Location::caller())?;
            // SAFETY: it has just been taken so.
            Ok(unsafe { $guard::new(hold, &self.data) })
        }

        #[doc = concat!("Takes it ", $what, ", waiting until then: a point in time, or how long from the call on.")]
        ///
        /// # Errors
        ///
        /// [`LockError::TimedOut`], and as the one that waits.
        #[track_caller]
        pub fn $by(&self, deadline: impl Into<Deadline>) -> Result<$guard<'_, T $(, $poison)?>, LockError> {
            let hold = self.take(Ask::By(deadline.into()), Location::caller())?;
            // SAFETY: it has just been taken so.
            Ok(unsafe { $guard::new(hold, &self.data) })
        }

        #[doc = concat!("Takes it ", $what, ", waiting as `wait` says.")]
        ///
        /// # Errors
        ///
        /// [`LockError::TimedOut`], [`LockError::Cancelled`], and as the one that waits.
        #[track_caller]
        pub fn $with(&self, wait: &LockWait) -> Result<$guard<'_, T $(, $poison)?>, LockError> {
            let hold = self.take(Ask::With(wait), Location::caller())?;
            // SAFETY: it has just been taken so.
            Ok(unsafe { $guard::new(hold, &self.data) })
        }
    )*};
}

impl<T: ?Sized, L: Level, P: Poison> RwLock<T, L, P> {
    ways! {
        ReadGuard: read try_read read_by read_with, "to share it with others";
        UpgradableGuard<P>: upgradable try_upgradable upgradable_by upgradable_with,
            "to share it with others, as the one that may upgrade";
        WriteGuard<P>: write try_write write_by write_with, "alone";
    }

    #[inline(always)] // with what it calls: see `Body::enter`
    fn take<M: HeldAs>(
        &self,
        ask: Ask<'_>,
        place: &'static Location<'static>,
    ) -> Result<Hold<'_, M>, LockError> {
        self.sound(self.hold(level::ALONE, ask, place)?)
    }

    /// As one of several of its level, which this thread began to take at this depth of its stack.
    pub(super) fn take_peer<M: HeldAs>(
        &self,
        peers: usize,
        place: &'static Location<'static>,
    ) -> Result<Hold<'_, M>, LockError> {
        self.sound(self.hold(peers, Ask::Wait, place)?)
    }

    #[inline(always)]
    fn hold<M: HeldAs>(
        &self,
        peers: usize,
        ask: Ask<'_>,
        place: &'static Location<'static>,
    ) -> Result<Hold<'_, M>, LockError> {
        let tag = self.body.enter(Want { mode: M::MODE, level: L::INFO, peers, ask, place })?;
        Ok(Hold::new::<P>(&self.body, tag))
    }

    /// What was taken goes back if it is poisoned.
    #[inline(always)]
    fn sound<'a, M: HeldAs>(&self, hold: Hold<'a, M>) -> Result<Hold<'a, M>, LockError> {
        if P::REMEMBERS && self.body.raw.word().look().poisoned() {
            Err(LockError::Poisoned)
        } else {
            Ok(hold)
        }
    }

    pub(super) fn address(&self) -> usize {
        self.body.id()
    }

    /// Where the value lies.
    pub(super) fn data(&self) -> &UnsafeCell<T> {
        &self.data
    }

    /// The value, without locking: nobody else can have it.
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }

    /// Whether a holder panicked while it held the lock alone. Never, unless `P` is
    /// [`Poisoning`](super::Poisoning).
    pub fn is_poisoned(&self) -> bool {
        P::REMEMBERS && self.body.raw.word().look().poisoned()
    }

    /// Makes good what a panic left: takes the lock alone, poisoned or not, and if `mend` returns it is not poisoned any
    /// more.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write), but for [`LockError::Poisoned`].
    ///
    /// ```
    /// use batchyard::lock::{LockError, Poisoning, RwLock, Unlevelled};
    /// let lock: RwLock<u32, Unlevelled, Poisoning> = RwLock::of(1);
    /// std::thread::scope(|scope| {
    ///     let dies = scope.spawn(|| {
    ///         let _held = lock.write();
    ///         panic!("with the lock in hand");
    ///     });
    ///     assert!(dies.join().is_err());
    /// });
    /// assert!(matches!(lock.read(), Err(LockError::Poisoned)));
    /// lock.recover(|value| *value = 0)?;
    /// assert_eq!(*lock.read()?, 0);
    /// # Ok::<(), LockError>(())
    /// ```
    #[track_caller]
    pub fn recover<R>(&self, mend: impl FnOnce(&mut T) -> R) -> Result<R, LockError> {
        let hold = self.hold(level::ALONE, Ask::Wait, Location::caller())?;
        // SAFETY: it has just been taken so.
        let mut guard: WriteGuard<'_, T, P> = unsafe { WriteGuard::new(hold, &self.data) };
        let mended = mend(&mut guard);
        self.body.raw.word().clear_poison();
        Ok(mended)
    }

    /// In what mode somebody holds it now; `None`: it is free. Old when it is read.
    pub fn mode(&self) -> Option<Mode> {
        self.body.raw.word().look().mode()
    }

    /// What can be told of it now.
    pub fn stats(&self) -> LockStats {
        let mut stats = LockStats::default();
        stats.add(self.body.exclusive.load(Ordering::Relaxed), &self.body.raw.tally());
        if let Some(book) = self.body.book.get() {
            book.tell(&mut stats);
        }
        let holds = self.body.more.as_ref().and_then(|more| more.holds.as_ref());
        stats.held = holds.map(|holds| holds.lock().percentiles());
        stats
    }
}

impl<T: Default, L: Level, P: Poison> Default for RwLock<T, L, P> {
    fn default() -> Self {
        Self::of(T::default())
    }
}

impl<T, L: Level, P: Poison> From<T> for RwLock<T, L, P> {
    fn from(value: T) -> Self {
        Self::of(value)
    }
}

impl<T: ?Sized + fmt::Debug, L: Level, P: Poison> fmt::Debug for RwLock<T, L, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("RwLock");
        match self.look(Mode::Shared) {
            Some(value) => f.field("data", &&*value),
            None => f.field("data", &format_args!("<locked>")),
        };
        f.field("poisoned", &self.is_poisoned()).finish_non_exhaustive()
    }
}

/// A hold for a look at the value, for whoever prints it. It does not wait, so its order is not checked; what the value takes while
/// it is printed is.
pub(super) struct Seen<'a, T: ?Sized> {
    body: &'a Body,
    mode: Mode,
    value: &'a T,
}

impl<T: ?Sized, L: Level, P: Poison> RwLock<T, L, P> {
    fn look(&self, mode: Mode) -> Option<Seen<'_, T>> {
        self.body.raw.word().try_enter(mode, Priority::Normal.class(), 0).ok()?;
        held::push(Entry::new(self.body.id(), mode, L::INFO, Location::caller()));
        // SAFETY: it is held until the value is dropped; where it is shared, the caller has `&RwLock`, which is `Sync` if
        // it is shared by threads.
        Some(Seen { body: &self.body, mode, value: unsafe { &*self.data.get() } })
    }

    /// For a value that must not be shared.
    pub(super) fn look_alone(&self) -> Option<Seen<'_, T>> {
        self.look(Mode::Exclusive)
    }
}

impl<T: ?Sized> std::ops::Deref for Seen<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value
    }
}

impl<T: ?Sized> Drop for Seen<'_, T> {
    fn drop(&mut self) {
        held::pop(self.body.id(), self.mode);
        self.body.raw.leave(self.mode, false, || self.body.now(), &mut unpark);
    }
}
