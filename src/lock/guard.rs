//! What a holder has in hand.

use super::body::{Ask, Body};
use super::error::LockError;
use super::poison::{NoPoison, Poison};
use super::wait::LockWait;
use crate::core::lockword::{MAX_OWNER, Mode};
use crate::time::Deadline;
use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::ptr::NonNull;

/// A lock that is shared, or a part of what it guards. Gives it back when dropped.
/// It stays on its thread:
///
/// ```compile_fail,E0277
/// let lock = batchyard::lock::RwLock::new(1);
/// let guard = lock.read().unwrap();
/// std::thread::scope(|scope| {
///     scope.spawn(move || drop(guard)); // not `Send`
/// });
/// ```
#[must_use = "dropped at once, the lock is free again"]
pub struct ReadGuard<'a, T: ?Sized> {
    hold: Hold<'a, Sharing>,
    data: NonNull<T>,
    kind: PhantomData<&'a T>,
}

/// A lock that is shared, by the one who may upgrade. Gives it back when dropped.
/// It stays on its thread:
///
/// ```compile_fail,E0277
/// let lock = batchyard::lock::RwLock::new(1);
/// let guard = lock.upgradable().unwrap();
/// std::thread::scope(|scope| {
///     scope.spawn(move || drop(guard)); // not `Send`
/// });
/// ```
#[must_use = "dropped at once, the lock is free again"]
pub struct UpgradableGuard<'a, T: ?Sized, P: Poison = NoPoison> {
    hold: Hold<'a, Looking>,
    data: NonNull<T>,
    kind: PhantomData<(&'a mut T, P)>,
}

/// A lock that is held alone. Gives it back when dropped.
/// It stays on its thread:
///
/// ```compile_fail,E0277
/// let lock = batchyard::lock::RwLock::new(1);
/// let guard = lock.write().unwrap();
/// std::thread::scope(|scope| {
///     scope.spawn(move || drop(guard)); // not `Send`
/// });
/// ```
#[must_use = "dropped at once, the lock is free again"]
pub struct WriteGuard<'a, T: ?Sized, P: Poison = NoPoison> {
    hold: Hold<'a, Alone>,
    data: NonNull<T>,
    kind: PhantomData<(&'a mut T, P)>,
}

/// A part of what a lock guards, that is held alone. It cannot be downgraded: who shares the lock might see more than that part,
/// and change it through a cell that the part was taken out of.
#[must_use = "dropped at once, the lock is free again"]
pub struct MappedWriteGuard<'a, T: ?Sized, P: Poison = NoPoison> {
    hold: Hold<'a, Alone>,
    data: NonNull<T>,
    kind: PhantomData<(&'a mut T, P)>,
}

/// In what mode a hold is one.
pub(super) trait HeldAs {
    const MODE: Mode;
}

/// [`Mode::Shared`].
pub(super) enum Sharing {}
/// [`Mode::Upgradable`].
pub(super) enum Looking {}
/// [`Mode::Exclusive`].
pub(super) enum Alone {}

impl HeldAs for Sharing {
    const MODE: Mode = Mode::Shared;
}
impl HeldAs for Looking {
    const MODE: Mode = Mode::Upgradable;
}
impl HeldAs for Alone {
    const MODE: Mode = Mode::Exclusive;
}

/// What a hold is given back with: the thread's number in the lock's word, where that has it; where it was entered in the
/// thread's stack, if it was; and what is to be done besides.
///
/// ```text
///     31       30      29      28    24  23    0
/// [ poisons | timed | first | above | 0 | owner ]
/// ```
#[derive(Clone, Copy)]
pub(super) struct Tag(u32);

impl Tag {
    /// A panic that comes while it is held leaves the lock poisoned.
    const POISONS: u32 = 1 << 31;
    /// Somebody has asked how long it is held.
    const TIMED: u32 = 1 << 30;
    /// It is entered first in the stack.
    const FIRST: u32 = 1 << 29;
    /// It is entered elsewhere in the stack.
    const ABOVE: u32 = 1 << 28;

    #[inline]
    pub(super) fn new(owner: u32) -> Self {
        debug_assert!(owner <= MAX_OWNER, "{owner}");
        Tag(owner)
    }

    /// The same, entered: what [`push`](super::held::push) said.
    #[inline]
    pub(super) fn entered(self, first: bool) -> Self {
        Tag(self.0 | if first { Self::FIRST } else { Self::ABOVE })
    }

    #[inline]
    pub(super) fn owner(self) -> u32 {
        self.0 & MAX_OWNER
    }

    /// Whether there is no more to do than to give the lock back, and to clear the first entry if that is its own.
    #[inline]
    pub(super) fn is_plain(self) -> bool {
        self.0 & (Self::POISONS | Self::TIMED | Self::ABOVE) == 0
    }

    #[inline]
    pub(super) fn is_first(self) -> bool {
        self.0 & Self::FIRST != 0
    }

    #[inline]
    pub(super) fn is_entered(self) -> bool {
        self.0 & (Self::FIRST | Self::ABOVE) != 0
    }

    /// The same; `poisons`: and a panic poisons the lock from now on, or does not.
    #[inline]
    fn poisoning(self, poisons: bool) -> Self {
        Tag(self.0 & !Self::POISONS | if poisons { Self::POISONS } else { 0 })
    }

    /// The same, timed.
    pub(super) fn timed(self) -> Self {
        Tag(self.0 | Self::TIMED)
    }

    #[inline]
    pub(super) fn is_timed(self) -> bool {
        self.0 & Self::TIMED != 0
    }

    #[inline]
    pub(super) fn poisons(self) -> bool {
        self.0 & Self::POISONS != 0
    }
}

/// A hold of a lock, by this thread. Not `Send`, by its pointer: it stands in the thread's stack.
pub(super) struct Hold<'a, M: HeldAs> {
    body: &'a Body,
    tag: Tag,
    thread: PhantomData<(*const (), M)>,
}

impl<'a, M: HeldAs> Hold<'a, M> {
    /// It has just been taken so.
    #[inline]
    pub(super) fn new<P: Poison>(body: &'a Body, tag: Tag) -> Self {
        let poisons = P::REMEMBERS && M::MODE == Mode::Exclusive && !std::thread::panicking();
        Hold { body, tag: tag.poisoning(poisons), thread: PhantomData }
    }

    /// The same hold; the word says already that it is of this mode, and the tag how it is entered.
    #[inline]
    fn turned<P: Poison, N: HeldAs>(self, tag: Tag) -> Hold<'a, N> {
        let this = ManuallyDrop::new(self);
        Hold::new::<P>(this.body, tag)
    }

    /// In a weaker mode.
    #[inline]
    fn weakened<P: Poison, N: HeldAs>(self) -> Hold<'a, N> {
        let tag = self.body.weaken(M::MODE, N::MODE, self.tag);
        self.turned::<P, N>(tag)
    }
}

impl<M: HeldAs> Drop for Hold<'_, M> {
    #[inline(always)]
    fn drop(&mut self) {
        self.body.leave(M::MODE, self.tag);
    }
}

// SAFETY: a guard that is shared gives `&T` to other threads, no more.
unsafe impl<T: ?Sized + Sync> Sync for ReadGuard<'_, T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Sync, P: Poison> Sync for UpgradableGuard<'_, T, P> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Sync, P: Poison> Sync for WriteGuard<'_, T, P> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Sync, P: Poison> Sync for MappedWriteGuard<'_, T, P> {}

/// Why an upgrade did not come about. The guard is as it was.
#[derive(thiserror::Error)]
#[error("{why}")]
#[non_exhaustive]
pub struct UpgradeError<G> {
    /// The lock is shared as before.
    pub guard: G,
    /// Why.
    #[source]
    pub why: LockError,
}

impl<G> fmt::Debug for UpgradeError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradeError").field("why", &self.why).finish_non_exhaustive()
    }
}

impl<'a, T: ?Sized> ReadGuard<'a, T> {
    /// # Safety
    ///
    /// The hold is one of the lock that guards this value.
    #[inline]
    pub(super) unsafe fn new(hold: Hold<'a, Sharing>, data: &'a UnsafeCell<T>) -> Self {
        let data = value(std::ptr::from_ref(data).cast_mut());
        ReadGuard { hold, data, kind: PhantomData }
    }

    /// A guard of a part. Not a method: `T` may have one of that name.
    ///
    /// ```
    /// use batchyard::lock::{LockError, ReadGuard, RwLock};
    /// let lock = RwLock::new((1, "one"));
    /// let name = ReadGuard::map(lock.read()?, |pair| pair.1);
    /// assert_eq!(&*name, "one");
    /// # Ok::<(), LockError>(())
    /// ```
    pub fn map<U: ?Sized>(this: Self, part: impl FnOnce(&T) -> &U) -> ReadGuard<'a, U> {
        let data = NonNull::from(part(&this));
        ReadGuard { hold: this.hold, data, kind: PhantomData }
    }

    /// A guard of a part, if there is one.
    ///
    /// # Errors
    ///
    /// There is none; the guard comes back.
    pub fn try_map<U: ?Sized>(
        this: Self,
        part: impl FnOnce(&T) -> Option<&U>,
    ) -> Result<ReadGuard<'a, U>, Self> {
        match part(&this).map(NonNull::from) {
            Some(data) => Ok(ReadGuard { hold: this.hold, data, kind: PhantomData }),
            None => Err(this),
        }
    }
}

fn value<T: ?Sized>(cell: *mut UnsafeCell<T>) -> NonNull<T> {
    // SAFETY: it came from a reference, so it is not null; `raw_get` makes none.
    unsafe { NonNull::new_unchecked(UnsafeCell::raw_get(cell)) }
}

impl<'a, T: ?Sized, P: Poison> UpgradableGuard<'a, T, P> {
    /// # Safety
    ///
    /// As for [`ReadGuard::new`].
    #[inline]
    pub(super) unsafe fn new(hold: Hold<'a, Looking>, data: &'a UnsafeCell<T>) -> Self {
        let data = value(std::ptr::from_ref(data).cast_mut());
        UpgradableGuard { hold, data, kind: PhantomData }
    }

    /// Waits for those who share the lock, and has it alone then. Nobody changes the value in between.
    ///
    /// # Errors
    ///
    /// [`LockError::Recursive`]: this thread shares the lock once more, and would wait for itself. [`LockError::Order`]: it has
    /// taken a lock since that is not to be held when this one is taken; so it is, too, if nobody shares this one. The guard
    /// comes back.
    #[track_caller]
    #[inline]
    pub fn upgrade(self) -> Result<WriteGuard<'a, T, P>, UpgradeError<Self>> {
        self.upgrade_as(Ask::Wait, Location::caller())
    }

    /// Has the lock alone if nobody else shares it.
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`], and as [`upgrade`](Self::upgrade).
    #[track_caller]
    #[inline]
    pub fn try_upgrade(self) -> Result<WriteGuard<'a, T, P>, UpgradeError<Self>> {
        self.upgrade_as(Ask::Now, Location::caller())
    }

    /// As [`upgrade`](Self::upgrade), until then.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`], and as [`upgrade`](Self::upgrade).
    #[track_caller]
    pub fn upgrade_by(
        self,
        deadline: impl Into<Deadline>,
    ) -> Result<WriteGuard<'a, T, P>, UpgradeError<Self>> {
        self.upgrade_as(Ask::By(deadline.into()), Location::caller())
    }

    /// As [`upgrade`](Self::upgrade), waiting as `wait` says. The priority is no matter: there is one who may upgrade.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`], [`LockError::Cancelled`], and as [`upgrade`](Self::upgrade).
    #[track_caller]
    pub fn upgrade_with(self, wait: &LockWait) -> Result<WriteGuard<'a, T, P>, UpgradeError<Self>> {
        self.upgrade_as(Ask::With(wait), Location::caller())
    }

    #[inline]
    pub(super) fn upgrade_as(
        self,
        ask: Ask<'_>,
        place: &'static Location<'static>,
    ) -> Result<WriteGuard<'a, T, P>, UpgradeError<Self>> {
        let tag = self.hold.tag;
        match self.hold.body.upgrade(tag, ask, place) {
            Ok(()) => {
                Ok(WriteGuard { hold: self.hold.turned::<P, _>(tag), data: self.data, kind: PhantomData })
            }
            Err(why) => Err(UpgradeError { guard: self, why }),
        }
    }

    /// Shares the lock like any other; another may have the right to upgrade.
    #[inline]
    pub fn downgrade(self) -> ReadGuard<'a, T> {
        ReadGuard { hold: self.hold.weakened::<P, _>(), data: self.data, kind: PhantomData }
    }
}

impl<'a, T: ?Sized, P: Poison> WriteGuard<'a, T, P> {
    /// # Safety
    ///
    /// As for [`ReadGuard::new`].
    #[inline]
    pub(super) unsafe fn new(hold: Hold<'a, Alone>, data: &'a UnsafeCell<T>) -> Self {
        let data = value(std::ptr::from_ref(data).cast_mut());
        WriteGuard { hold, data, kind: PhantomData }
    }

    /// Shares the lock from now on, with nobody in between; those who wait to share it enter.
    ///
    /// ```
    /// use batchyard::lock::{LockError, RwLock};
    /// let lock = RwLock::new(1);
    /// let mut write = lock.write()?;
    /// *write += 1;
    /// let read = write.downgrade();
    /// assert_eq!((*read, *lock.read()?), (2, 2));
    /// # Ok::<(), LockError>(())
    /// ```
    #[inline]
    pub fn downgrade(self) -> ReadGuard<'a, T> {
        ReadGuard { hold: self.hold.weakened::<P, _>(), data: self.data, kind: PhantomData }
    }

    /// Shares the lock from now on, with the right to upgrade again.
    #[inline]
    pub fn downgrade_to_upgradable(self) -> UpgradableGuard<'a, T, P> {
        UpgradableGuard { hold: self.hold.weakened::<P, _>(), data: self.data, kind: PhantomData }
    }

    /// A guard of a part. Not a method: `T` may have one of that name.
    pub fn map<U: ?Sized>(mut this: Self, part: impl FnOnce(&mut T) -> &mut U) -> MappedWriteGuard<'a, U, P> {
        let data = NonNull::from(part(&mut this));
        MappedWriteGuard { hold: this.hold, data, kind: PhantomData }
    }

    /// A guard of a part, if there is one.
    ///
    /// # Errors
    ///
    /// There is none; the guard comes back.
    pub fn try_map<U: ?Sized>(
        mut this: Self,
        part: impl FnOnce(&mut T) -> Option<&mut U>,
    ) -> Result<MappedWriteGuard<'a, U, P>, Self> {
        match part(&mut this).map(NonNull::from) {
            Some(data) => Ok(MappedWriteGuard { hold: this.hold, data, kind: PhantomData }),
            None => Err(this),
        }
    }
}

impl<'a, T: ?Sized, P: Poison> MappedWriteGuard<'a, T, P> {
    /// A guard of a part of the part.
    pub fn map<U: ?Sized>(mut this: Self, part: impl FnOnce(&mut T) -> &mut U) -> MappedWriteGuard<'a, U, P> {
        let data = NonNull::from(part(&mut this));
        MappedWriteGuard { hold: this.hold, data, kind: PhantomData }
    }
}

macro_rules! derefs {
    ($($guard:ident <$($poison:ident)?> $($mutable:ident)?;)*) => {$(
        impl<T: ?Sized $(, $poison: Poison)?> Deref for $guard<'_, T $(, $poison)?> {
            type Target = T;

            #[inline]
            fn deref(&self) -> &T {
                // SAFETY: the lock is held, so nobody has the value for itself.
                unsafe { self.data.as_ref() }
            }
        }

        $(derefs!(@$mutable $guard);)?

        impl<T: ?Sized + fmt::Debug $(, $poison: Poison)?> fmt::Debug for $guard<'_, T $(, $poison)?> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                (**self).fmt(f)
            }
        }

        impl<T: ?Sized + fmt::Display $(, $poison: Poison)?> fmt::Display for $guard<'_, T $(, $poison)?> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                (**self).fmt(f)
            }
        }
    )*};
    (@mutable $guard:ident) => {
        impl<T: ?Sized, P: Poison> DerefMut for $guard<'_, T, P> {
            #[inline]
            fn deref_mut(&mut self) -> &mut T {
                // SAFETY: the lock is held alone.
                unsafe { self.data.as_mut() }
            }
        }
    };
}

derefs! {
    ReadGuard<>;
    UpgradableGuard<P>;
    WriteGuard<P> mutable;
    MappedWriteGuard<P> mutable;
}
