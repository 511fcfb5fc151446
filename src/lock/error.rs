//! Why a lock was not had.

use super::level::LevelInfo;
use crate::core::lockword::Mode;
use crate::waitgraph::Deadlock;
use std::panic::Location;
use std::time::Duration;

/// Why a lock was not had. Nothing was taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// It is taken, or others wait for it: from the calls that do not wait.
    #[error("the lock is taken")]
    WouldBlock,
    /// The deadline came first.
    #[error("the lock was not had within {waited:?}")]
    TimedOut {
        /// How long the call waited.
        waited: Duration,
    },
    /// The wait was cancelled.
    #[error("the wait for the lock was cancelled")]
    Cancelled,
    /// This thread holds the lock already, in a way that the call would wait for.
    #[error(
        "this thread holds the lock already ({held}, since {place}), and would wait for itself to have it {wanted}"
    )]
    Recursive {
        /// How it is held.
        held: Mode,
        /// How it was asked for.
        wanted: Mode,
        /// Where it was taken.
        place: &'static Location<'static>,
    },
    /// This session and others waited for each other, and it was this one's turn to give up. What it holds it still holds:
    /// it should give that back, and may try again.
    #[error(transparent)]
    Deadlock(#[from] Box<Deadlock>),
    /// Against the order of locks.
    #[error(transparent)]
    Order(#[from] Box<OrderViolation>),
    /// This thread has a token of the order of locks already, or holds a lock of it.
    #[error("this thread is within the order of locks `{order}` already, since {place}")]
    Entered {
        /// The order.
        order: &'static str,
        /// Where it was entered, or the lock taken.
        place: &'static Location<'static>,
    },
    /// A thread panicked while it held the lock exclusively. [`RwLock::recover`](super::RwLock::recover) looks after that.
    #[error("a thread panicked while it changed what the lock guards; `recover` makes it good")]
    Poisoned,
    /// As many share it as can be counted, sixteen million.
    #[error("as many share the lock as can be counted")]
    TooManyReaders,
}

/// A lock was asked for against its order: a deadlock that could happen, told before it does.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{wanted}` is to be taken before `{held}`: it was asked for at {at}, while `{held}` was held, taken at {held_at}"
)]
#[non_exhaustive]
pub struct OrderViolation {
    pub(super) wanted: &'static LevelInfo,
    pub(super) at: &'static Location<'static>,
    pub(super) held: &'static LevelInfo,
    pub(super) held_at: &'static Location<'static>,
}

impl OrderViolation {
    /// The level that was asked for, as `Order::Level`.
    pub fn wanted(&self) -> String {
        self.wanted.to_string()
    }

    /// Where.
    pub fn at(&self) -> &'static Location<'static> {
        self.at
    }

    /// The level that was held, as `Order::Level`.
    pub fn held(&self) -> String {
        self.held.to_string()
    }

    /// Where that was taken.
    pub fn held_at(&self) -> &'static Location<'static> {
        self.held_at
    }
}
