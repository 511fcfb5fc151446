//! Locks: shared, upgradable, exclusive; with priorities, deadlines and an order that is checked.
//!
//! [`RwLock`] and [`Mutex`] guard data. Their level, a type, places them in an [order](crate::lock_order) that a thread
//! may only climb; [`Unlevelled`] ones stand in none. A wait may have a deadline, a priority and a [`Cancel`]: see
//! [`LockWait`].

// Its macro is used below.
#[macro_use]
mod level;

mod all;
mod error;
mod guard;
mod held;
pub(crate) mod house;
mod levelled;
mod manager;
mod mutex;
mod poison;
mod rwlock;
mod stats;
mod token;
mod wait;

pub use self::all::{Peer, Peers};
#[doc(hidden)]
pub use self::all::{ToLock, ToLookAt, ToRead, ToWrite};
pub use self::error::{Deadlock, LockError, OrderViolation, Waits};
pub use self::guard::{MappedWriteGuard, ReadGuard, UpgradableGuard, UpgradeError, WriteGuard};
pub use self::level::{After, Level, Nothing, OnViolation, Order, Unlevelled};
#[doc(hidden)]
pub use self::level::{In, LevelInfo, OrderInfo};
pub(crate) use self::levelled::{Levelled, LevelledGuard, outside};
pub use self::manager::{Deadlocks, LockManager, NamedGuard, Session};
pub use self::mutex::{Mutex, MutexGuard};
pub use self::poison::{NoPoison, Poison, Poisoning};
pub use self::rwlock::RwLock;
pub use self::stats::LockStats;
pub use self::token::{ByToken, Token};
pub use self::wait::LockWait;
pub use crate::core::lockword::Mode;
pub use crate::sync::Cancel;
