//! Why a lock was not had.

use super::level::LevelInfo;
use crate::core::lockword::Mode;
use crate::sync::Arc;
use std::fmt;
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

/// A deadlock that happened: who waited for whom in a circle.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub struct Deadlock {
    /// Each waits for the next one, and the last for the first.
    pub waits: Vec<Waits>,
    /// Who was told to give up.
    pub victim: String,
}

/// One who waits in a circle.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Waits {
    /// Who.
    pub owner: Arc<str>,
    /// The name of the lock that it waits for.
    pub wants: String,
    /// How it wants it.
    pub mode: Mode,
    /// Where it asked for it.
    pub at: &'static Location<'static>,
    /// How long it had waited.
    pub waited: Duration,
    /// Who holds that lock.
    pub held_by: Arc<str>,
    /// How.
    pub held_mode: Mode,
    /// Where that was taken.
    pub held_at: &'static Location<'static>,
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a deadlock of {}, in which `{}` gives up:", self.waits.len(), self.victim)?;
        for wait in &self.waits {
            let Waits { owner, wants, mode, at, waited, held_by, held_mode, held_at } = wait;
            write!(f, " `{owner}` waits for {wants} ({mode}, {waited:?}, at {at}),")?;
            write!(f, " which `{held_by}` holds ({held_mode}, taken at {held_at});")?;
        }
        Ok(())
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Shared => "shared",
            Mode::Upgradable => "upgradable",
            Mode::Exclusive => "exclusive",
        })
    }
}
