//! Locks: shared, upgradable, exclusive; with priorities, deadlines and an order that is checked.
//!
//! [`RwLock`] and [`Mutex`] guard data. Their level, a type, places them in an [order](crate::lock_order) that a thread
//! may only climb; [`Unlevelled`] ones stand in none. A wait may have a deadline, a priority and a [`Cancel`]: see
//! [`LockWait`].
//!
//! A guard that is forgotten ([`std::mem::forget`]) is never given back: its thread counts as one that holds the lock for
//! good, also in the order. It can take nothing any more that is not above the lock's level, even when the lock itself is
//! gone.

// Its macro is used below.
#[macro_use]
mod level;

mod all;
mod body;
mod error;
mod guard;
mod held;
pub(crate) mod house;
mod levelled;
mod manager;
mod mutex;
mod name;
mod named;
mod names;
mod poison;
mod rwlock;
mod session;
mod stats;
mod threads;
mod times;
mod token;
mod wait;

pub use self::all::{Peer, Peers};
#[doc(hidden)]
pub use self::all::{ToLock, ToLookAt, ToRead, ToWrite};
pub use self::error::{LockError, OrderViolation};
pub use self::guard::{MappedWriteGuard, ReadGuard, UpgradableGuard, UpgradeError, WriteGuard};
pub use self::level::{After, Level, Nothing, OnViolation, Order, Unlevelled};
#[doc(hidden)]
pub use self::level::{In, LevelInfo, OrderInfo};
pub(crate) use self::levelled::{Levelled, LevelledGuard, outside};
pub use self::manager::{Deadlocks, LockManager, LockManagerBuilder, LockName};
pub use self::mutex::{Mutex, MutexGuard};
pub use self::named::{NamedGuard, OwnedGuard};
pub use self::poison::{NoPoison, Poison, Poisoning};
pub use self::rwlock::RwLock;
pub use self::session::Session;
pub use self::stats::LockStats;
pub use self::threads::{
    exclusive_lock, exclusive_lock_by, exclusive_lock_with, global, shared_lock, shared_lock_by,
    shared_lock_with,
};
pub use self::token::{ByToken, Token};
pub(crate) use self::wait::By;
pub use self::wait::LockWait;
pub use crate::core::lockword::Mode;
pub use crate::sync::Cancel;
pub use crate::waitgraph::{Deadlock, Share, Waits};
