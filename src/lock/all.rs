//! Several locks of one level in one go.
//!
//! Peers are taken in the order of their addresses, which is the same for all who ask, so that two who want the same ones do not
//! wait for each other.

use super::error::LockError;
use super::guard::{ReadGuard, UpgradableGuard, WriteGuard};
use super::held;
use super::level::Level;
use super::mutex::{Mutex, MutexGuard};
use super::poison::Poison;
use super::rwlock::RwLock;
use crate::core::lockword::Mode;
use std::panic::Location;

/// A lock, and how it is to be taken with its peers. Made by [`lock_all!`](crate::lock_all).
pub trait Peer {
    /// What is had.
    type Guard;
    /// Where it stands.
    type Level: Level;
    #[doc(hidden)]
    fn address(&self) -> usize;
    #[doc(hidden)]
    fn mode(&self) -> Mode;
    #[doc(hidden)]
    fn take(&self, peers: usize, place: &'static Location<'static>) -> Result<Self::Guard, LockError>;
}

/// How a lock is to be taken with its peers.
#[doc(hidden)]
#[derive(Debug)]
pub struct ToRead<'a, T: ?Sized, L: Level, P: Poison>(pub &'a RwLock<T, L, P>);
#[doc(hidden)]
#[derive(Debug)]
pub struct ToLookAt<'a, T: ?Sized, L: Level, P: Poison>(pub &'a RwLock<T, L, P>);
#[doc(hidden)]
#[derive(Debug)]
pub struct ToWrite<'a, T: ?Sized, L: Level, P: Poison>(pub &'a RwLock<T, L, P>);
#[doc(hidden)]
#[derive(Debug)]
pub struct ToLock<'a, T: ?Sized, L: Level, P: Poison>(pub &'a Mutex<T, L, P>);

macro_rules! peers {
    ($($to:ident => $guard:ty, $mode:ident, |$lock:ident| $rw:expr, $new:expr;)*) => {$(
        impl<'a, T: ?Sized, L: Level, P: Poison> Peer for $to<'a, T, L, P> {
            type Guard = $guard;
            type Level = L;

            fn address(&self) -> usize {
                let $lock = self.0;
                $rw.address()
            }

            fn mode(&self) -> Mode {
                Mode::$mode
            }

            fn take(&self, peers: usize, place: &'static Location<'static>) -> Result<$guard, LockError> {
                let $lock = self.0;
                let lock: &'a RwLock<T, L, P> = $rw;
                let hold = lock.take_peer(peers, place)?;
                // SAFETY: the hold is one of this lock.
                Ok(unsafe { $new(hold, lock.data()) })
            }
        }
    )*};
}

peers! {
    ToRead => ReadGuard<'a, T>, Shared, |lock| lock, ReadGuard::new;
    ToLookAt => UpgradableGuard<'a, T, P>, Upgradable, |lock| lock, UpgradableGuard::new;
    ToWrite => WriteGuard<'a, T, P>, Exclusive, |lock| lock, WriteGuard::new;
    ToLock => MutexGuard<'a, T, P>, Exclusive, |lock| lock.inner(), MutexGuard::new;
}

/// Two to eight peers. Made by [`lock_all!`](crate::lock_all).
pub trait Peers {
    /// What is had, in the order in which it was asked for.
    type Guards;
    #[doc(hidden)]
    fn take_all(self, place: &'static Location<'static>) -> Result<Self::Guards, LockError>;
}

macro_rules! tuples {
    ($(($($peer:ident $at:tt),+);)*) => {$(
        impl<L: Level, $($peer: Peer<Level = L>),+> Peers for ($($peer,)+) {
            type Guards = ($($peer::Guard,)+);

            fn take_all(self, place: &'static Location<'static>) -> Result<Self::Guards, LockError> {
                let mut order = [$((self.$at.address(), $at)),+];
                order.sort_unstable();
                let modes = [$(self.$at.mode()),+];
                if let Some(twice) = order.windows(2).find(|two| two[0].0 == two[1].0) {
                    let (held, wanted) = (modes[twice[0].1], modes[twice[1].1]);
                    return Err(LockError::Recursive { held, wanted, place });
                }
                let mut guards = ($(None::<$peer::Guard>,)+);
                // What is taken from here on is a peer of the rest; what was held before is none.
                let peers = held::count();
                for (_, at) in order {
                    match at {
                        $($at => guards.$at = Some(self.$at.take(peers, place)?),)+
                        _ => {}
                    }
                }
                match guards {
                    ($(Some($peer),)+) => Ok(($($peer,)+)),
                    _ => Err(LockError::WouldBlock), // not reached: each was taken
                }
            }
        }
    )*};
}

#[allow(non_snake_case)] // a guard is called as its peer's type
mod tuples {
    use super::*;

    tuples! {
        (A 0, B 1);
        (A 0, B 1, C 2);
        (A 0, B 1, C 2, D 3);
        (A 0, B 1, C 2, D 3, E 4);
        (A 0, B 1, C 2, D 3, E 4, F 5);
        (A 0, B 1, C 2, D 3, E 4, F 5, G 6);
        (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
    }
}

/// Takes two to eight locks of one level in one go, each by `read`, `upgradable`, `write` or `lock`: all of them or none.
/// The guards come in the order in which they were asked for; the locks are taken in an order that is the same for all
/// who ask.
///
/// ```
/// use batchyard::lock::{LockError, RwLock};
/// batchyard::lock_order! { Bank: Account < Log }
/// let (a, b) = (RwLock::<i64, Account>::of(10), RwLock::<i64, Account>::of(0));
/// {
///     let (mut from, mut to) = batchyard::lock_all!(write &a, write &b)?;
///     (*from, *to) = (*from - 3, *to + 3);
/// }
/// assert_eq!(*a.read()?, 7);
/// assert!(matches!(batchyard::lock_all!(read &a, write &a), Err(LockError::Recursive { .. })));
/// # Ok::<(), LockError>(())
/// ```
#[macro_export]
macro_rules! lock_all {
    ($($how:ident $lock:expr),+ $(,)?) => {
        $crate::lock::Peers::take_all(
            ($($crate::__lock_peer!($how $lock),)+),
            ::core::panic::Location::caller(),
        )
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __lock_peer {
    (read $lock:expr) => {
        $crate::lock::ToRead($lock)
    };
    (upgradable $lock:expr) => {
        $crate::lock::ToLookAt($lock)
    };
    (write $lock:expr) => {
        $crate::lock::ToWrite($lock)
    };
    (lock $lock:expr) => {
        $crate::lock::ToLock($lock)
    };
}
