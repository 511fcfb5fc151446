//! An order that the compiler checks: a token says what its thread holds at most, in its type.
//!
//! A token is had once a thread and order, from [`Order::enter`]. Who takes a lock by it gives it away for as long as the guard
//! lives, and gets one in exchange that says so: with that, only levels [above](super::After) can be taken. (Typed lock
//! levels with a token are Fuchsia's `lock_order` and surelock's; there a level has one predecessor, here a chain is
//! declared in one place.)
//!
//! A token speaks for one order and one thread. Locks that are taken without it are checked when the program runs, and so
//! are those that are taken with it: another order, or another part of the program, may be in between.

use super::body::Ask;
use super::error::LockError;
use super::guard::{ReadGuard, UpgradableGuard, UpgradeError, WriteGuard};
use super::held;
use super::level::{After, In, Level, Nothing, Order};
use super::mutex::{Mutex, MutexGuard};
use super::poison::Poison;
use super::rwlock::RwLock;
use super::wait::LockWait;
use crate::core::lockword::Mode;
use crate::time::Deadline;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::panic::Location;

/// What a thread may take of an order: what is above `Held`. From [`Order::enter`], and in exchange for each lock that is
/// taken by it. It stays on its thread:
///
/// ```compile_fail,E0277
/// use batchyard::lock::Order;
/// batchyard::lock_order! { Shop: Catalogue < Journal }
/// let _ = Shop::enter(|token| {
///     std::thread::scope(|scope| {
///         scope.spawn(move || drop(token)); // not `Send`
///     });
/// });
/// ```
#[derive(Debug)]
pub struct Token<'t, O: Order, Held = Nothing> {
    kind: PhantomData<(&'t mut (), fn() -> (O, Held), *const ())>,
}

impl<O: Order, Held> Token<'_, O, Held> {
    fn new() -> Self {
        Token { kind: PhantomData }
    }
}

/// A guard that has a token for as long as it lives. It turns into another one, which has the token then, as a guard without a
/// token does.
#[derive(Debug)]
#[must_use = "dropped at once, the lock is free again"]
pub struct ByToken<'t, G> {
    guard: G,
    token: PhantomData<&'t mut ()>,
}

impl<G: Deref> Deref for ByToken<'_, G> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        &self.guard
    }
}

impl<G: DerefMut> DerefMut for ByToken<'_, G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.guard
    }
}

impl<'t, G> ByToken<'t, G> {
    /// The same hold by another guard.
    fn with<H>(guard: H) -> ByToken<'t, H> {
        ByToken { guard, token: PhantomData }
    }
}

impl<'t, 'a, T: ?Sized, P: Poison> ByToken<'t, UpgradableGuard<'a, T, P>> {
    /// As [`UpgradableGuard::upgrade`]. What has been taken since by the token it gave is looked for when it is called, not
    /// by the compiler.
    ///
    /// # Errors
    ///
    /// As there. The guard comes back, and has the token as before.
    ///
    /// ```
    /// use batchyard::lock::{LockError, Order, RwLock};
    /// batchyard::lock_order! { Shop: Catalogue < Journal }
    /// let (catalogue, journal) = (RwLock::<_, Catalogue>::of(1), RwLock::<_, Journal>::of(0));
    /// Shop::enter(|mut token| {
    ///     let (look, mut above) = catalogue.upgradable_in(&mut token)?;
    ///     let (wrote, _) = journal.write_in(&mut above)?;
    ///     let error = look.upgrade().unwrap_err();
    ///     assert!(matches!(error.why, LockError::Order(_)), "who reads the catalogue may wait for the journal");
    ///     drop(wrote);
    ///     let mut write = error.guard.upgrade().map_err(|error| error.why)?;
    ///     *write += 1;
    ///     let read = write.downgrade();
    ///     assert_eq!((*read, *journal.write_in(&mut above)?.0), (2, 0));
    ///     Ok::<(), LockError>(())
    /// })??;
    /// # Ok::<(), LockError>(())
    /// ```
    #[track_caller]
    pub fn upgrade(self) -> Result<ByToken<'t, WriteGuard<'a, T, P>>, UpgradeError<Self>> {
        self.upgrade_as(Ask::Wait, Location::caller())
    }

    /// As [`UpgradableGuard::try_upgrade`].
    ///
    /// # Errors
    ///
    /// As there.
    #[track_caller]
    pub fn try_upgrade(self) -> Result<ByToken<'t, WriteGuard<'a, T, P>>, UpgradeError<Self>> {
        self.upgrade_as(Ask::Now, Location::caller())
    }

    /// As [`UpgradableGuard::upgrade_by`].
    ///
    /// # Errors
    ///
    /// As there.
    #[track_caller]
    pub fn upgrade_by(
        self,
        deadline: impl Into<Deadline>,
    ) -> Result<ByToken<'t, WriteGuard<'a, T, P>>, UpgradeError<Self>> {
        self.upgrade_as(Ask::By(deadline.into()), Location::caller())
    }

    /// As [`UpgradableGuard::upgrade_with`].
    ///
    /// # Errors
    ///
    /// As there.
    #[track_caller]
    pub fn upgrade_with(
        self,
        wait: &LockWait,
    ) -> Result<ByToken<'t, WriteGuard<'a, T, P>>, UpgradeError<Self>> {
        self.upgrade_as(Ask::With(wait), Location::caller())
    }

    fn upgrade_as(
        self,
        ask: Ask<'_>,
        place: &'static Location<'static>,
    ) -> Result<ByToken<'t, WriteGuard<'a, T, P>>, UpgradeError<Self>> {
        match self.guard.upgrade_as(ask, place) {
            Ok(guard) => Ok(Self::with(guard)),
            Err(UpgradeError { guard, why }) => Err(UpgradeError { guard: Self::with(guard), why }),
        }
    }

    /// As [`UpgradableGuard::downgrade`].
    pub fn downgrade(self) -> ByToken<'t, ReadGuard<'a, T>> {
        Self::with(self.guard.downgrade())
    }
}

impl<'t, 'a, T: ?Sized, P: Poison> ByToken<'t, WriteGuard<'a, T, P>> {
    /// As [`WriteGuard::downgrade`].
    pub fn downgrade(self) -> ByToken<'t, ReadGuard<'a, T>> {
        Self::with(self.guard.downgrade())
    }

    /// As [`WriteGuard::downgrade_to_upgradable`].
    pub fn downgrade_to_upgradable(self) -> ByToken<'t, UpgradableGuard<'a, T, P>> {
        Self::with(self.guard.downgrade_to_upgradable())
    }
}

/// The entry of a token in its thread's stack.
struct Entered(usize);

impl Drop for Entered {
    fn drop(&mut self) {
        held::pop(self.0, Mode::Shared);
    }
}

/// As [`Order::enter`].
#[track_caller]
pub(super) fn enter<O: Order, R>(f: impl FnOnce(Token<'_, O>) -> R) -> Result<R, LockError> {
    let order = std::ptr::from_ref(O::INFO).addr();
    let of_order = |entry: &held::Entry| {
        let is = entry.lock() == order || entry.level.is_some_and(|level| level.is_of(O::INFO));
        is.then_some(entry.place)
    };
    if let Some(place) = held::look(of_order) {
        return Err(LockError::Entered { order: O::INFO.name(), place });
    }
    let entry = held::Entry::new(order, Mode::Shared, None, Location::caller());
    held::push(entry);
    let _entered = Entered(order);
    Ok(f(Token::new()))
}

macro_rules! by_token {
    ($(($name:ident, $lock:ident, $guard:ty, $what:literal);)*) => {$(
        #[doc = concat!("As [`", stringify!($lock), "`](Self::", stringify!($lock), "), ", $what, ".")]
        ///
        /// # Errors
        ///
        /// As there.
        #[track_caller]
        pub fn $name<'t, O: Order, Held>(
            &'t self,
            token: &'t mut Token<'_, O, Held>,
        ) -> Result<(ByToken<'t, $guard>, Token<'t, O, L>), LockError>
        where
            L: In<O> + After<Held>,
        {
            let _ = token;
            let guard = self.$lock()?;
            Ok((ByToken { guard, token: PhantomData }, Token::new()))
        }
    )*};
}

impl<T: ?Sized, L: Level, P: Poison> RwLock<T, L, P> {
    by_token! {
        (read_in, read, ReadGuard<'t, T>, "by a token: the compiler sees to the order");
        (upgradable_in, upgradable, UpgradableGuard<'t, T, P>, "by a token: the compiler sees to the order");
        (write_in, write, WriteGuard<'t, T, P>, "by a token: the compiler sees to the order");
    }
}

impl<T: ?Sized, L: Level, P: Poison> Mutex<T, L, P> {
    by_token! {
        (lock_in, lock, MutexGuard<'t, T, P>, "by a token: the compiler sees to the order");
    }
}
