//! An order that the compiler checks: a token says what its thread holds at most, in its type.
//!
//! A token is had once a thread and order, from [`Order::enter`]. Who takes a lock by it gives it away for as long as the guard
//! lives, and gets one in exchange that says so: with that, only levels [above](super::After) can be taken. (Typed lock
//! levels with a token are Fuchsia's `lock_order` and surelock's; there a level has one predecessor, here a chain is
//! declared in one place.)
//!
//! A token speaks for one order and one thread. Locks that are taken without it are checked when the program runs, and so
//! are those that are taken with it: another order, or another part of the program, may be in between.

use super::error::LockError;
use super::guard::{ReadGuard, UpgradableGuard, WriteGuard};
use super::held;
use super::level::{After, In, Level, Nothing, Order};
use super::mutex::{Mutex, MutexGuard};
use super::poison::Poison;
use super::rwlock::RwLock;
use crate::core::lockword::Mode;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::panic::Location;

/// What a thread may take of an order: what is above `Held`. From [`Order::enter`], and in exchange for each lock that is
/// taken by it. It stays on its thread.
#[derive(Debug)]
pub struct Token<'t, O: Order, Held = Nothing> {
    kind: PhantomData<(&'t mut (), fn() -> (O, Held), *const ())>,
}

impl<O: Order, Held> Token<'_, O, Held> {
    fn new() -> Self {
        Token { kind: PhantomData }
    }
}

/// A guard that has a token for as long as it lives.
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
