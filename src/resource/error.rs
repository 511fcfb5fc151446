//! Why there is no permit, and why a permit cannot do what it was asked.

use super::kind::ResourceKind;
use crate::error::Invalid;
use crate::waitgraph::Deadlock;
use std::time::Duration;

/// Why nothing was given. Whatever it was, nothing is held for the caller, and no token was spent (a place in a rate's
/// future may be, see [`Refund`](crate::limit::Refund), when a wait for it was cut short; and of several rates the tokens of
/// one, when another was paused in the instant in which they were paid).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// A setting of the [`Wait`](crate::resource::Wait) that cannot be, by its name: `lease`, of zero.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There is no quota of this kind.
    #[error("there is no quota for `{kind}`")]
    UnknownKind {
        /// The kind that was asked for.
        kind: ResourceKind,
    },
    /// There is no rate of this name.
    #[error("there is no rate `{rate}`")]
    UnknownRate {
        /// The name that was asked for.
        rate: ResourceKind,
    },
    /// A demand over too many kinds.
    #[error("a demand names at most {most} kinds, this one {asked}")]
    TooManyKinds {
        /// How many kinds it names.
        asked: usize,
        /// How many it may.
        most: usize,
    },
    /// More than there is in all, less what is reserved for higher priorities; or more tokens than a rate's burst. No
    /// waiting helps.
    #[error("{asked} of `{kind}` never fit a limit of {limit}")]
    NeverFits {
        /// The kind, or the rate.
        kind: ResourceKind,
        /// How much was asked for.
        asked: u64,
        /// The limit for this priority, or the burst.
        limit: u64,
    },
    /// Too little is free now, or kept for who waits already. From calls that do not wait.
    #[error("too little of `{kind}` is free now")]
    Full {
        /// The first kind that fell short.
        kind: ResourceKind,
    },
    /// A rate's tokens are not there now (from calls that do not wait), or not before the deadline.
    #[error("tokens of `{rate}` are there in {ready_in:?}")]
    Paced {
        /// The rate.
        rate: ResourceKind,
        /// When they are there, from now and if nobody comes in between.
        ready_in: Duration,
    },
    /// The deadline came first.
    #[error("no `{kind}` within {waited:?}")]
    TimedOut {
        /// The kind that fell short at the end.
        kind: ResourceKind,
        /// How long the call waited.
        waited: Duration,
    },
    /// The wait was [cancelled](crate::resource::Cancel::cancel).
    #[error("the wait was cancelled")]
    Cancelled,
    /// The kind, or the manager, was closed.
    #[error("`{kind}` is closed")]
    Closed {
        /// The first kind that is closed.
        kind: ResourceKind,
    },
    /// As many wait as may.
    #[error("{most} calls wait already, as many as may")]
    QueueFull {
        /// [`max_waiters`](crate::resource::ResourceManagerBuilder::max_waiters).
        most: usize,
    },
    /// The call would have to wait, in a thread of the engine whose resources these are: it might wait for a permit that
    /// only this thread can put to use. Inside an item, use [`Context::acquire`](crate::Context::acquire).
    #[error("a thread of the engine would wait for `{kind}`: inside an item, use the context's `acquire`")]
    WouldBlockWorker {
        /// The kind that falls short, or the rate.
        kind: ResourceKind,
    },
    /// The call would have to wait, and its thread or its owner holds something already: two that do so can wait for
    /// each other for ever. Ask for all in one demand, [extend](crate::resource::Permit::extend) the permit, or say
    /// [`Wait::while_holding`](crate::resource::Wait::while_holding).
    /// (Inside an item this is said only where [deadlocks are not looked
    /// for](crate::EngineConfig::enable_deadlock_detection).)
    #[error("would wait for `{kind}` while holding `{held}`, taken at {place}")]
    WouldHoldAndWait {
        /// The kind that falls short.
        kind: ResourceKind,
        /// A kind that is held.
        held: ResourceKind,
        /// Where that was taken, as `file:line:column`.
        place: String,
    },
    /// This item and others waited for each other, and it was this one's turn to give up. What it holds it still holds: it
    /// should return the error, and is then tried again with the age that it has.
    #[error(transparent)]
    Deadlock(#[from] Box<Deadlock>),
}

/// Why a permit could not be changed or renewed. It is as it was before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PermitError {
    /// Its lease is over, or its owner is gone, and what it held was taken back.
    #[error("the permit of `{owner}` is over; what it held was taken back")]
    Expired {
        /// Whose it was.
        owner: String,
    },
    /// Its lease is over, which was reported; it still holds what it holds.
    #[error("the permit of `{owner}` is overdue")]
    Overdue {
        /// Whose it is.
        owner: String,
    },
    /// It does not hold so much.
    #[error("the permit holds {held} of `{kind}`, not {asked}")]
    NotHeld {
        /// The kind.
        kind: ResourceKind,
        /// How much of it was to be given away.
        asked: u64,
        /// How much of it is held.
        held: u64,
    },
    /// A lease that cannot be: of zero.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// What it should get in addition cannot be had now.
    #[error(transparent)]
    NotNow(#[from] AcquireError),
}

/// Why a limit was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetLimitError {
    /// There is no quota of this kind.
    #[error("there is no quota for `{kind}`")]
    UnknownKind {
        /// The kind that was named.
        kind: ResourceKind,
    },
    /// A limit that cannot be.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}
