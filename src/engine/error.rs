//! What can go wrong between an engine and its user.

use crate::error::Invalid;
use crate::job::{Failure, Key};
use crate::limit::LimitError;
use crate::store::JournalError;
use crate::sync::Arc;
use std::fmt;
use std::time::Duration;

/// An engine, a batch or a wait could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that cannot be; it names the field.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// A rate or a quota that cannot be.
    #[error("{0}")]
    Limit(#[from] LimitError),
    /// `paced_by` names a rate that the engine does not have.
    #[error("no rate named `{name}`: give the engine one with .rate(\"{name}\", …); it has {known}")]
    UnknownRate {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// `needs` names a resource that the engine has no quota for.
    #[error("no quota for `{kind}`: give the engine one with .quota({kind}, …); it has {known}")]
    UnknownQuota {
        /// The kind asked for.
        kind: String,
        /// The kinds there are.
        known: String,
    },
    /// A demand that the quota can never meet.
    #[error("an item needs {asked} of `{kind}`, whose limit is {limit}: it could never run")]
    NeverFits {
        /// The kind at fault.
        kind: String,
        /// Units asked for an item.
        asked: u64,
        /// Units there are.
        limit: u64,
    },
    /// A batch of this name is under way.
    #[error("a batch named `{name}` is under way: wait for it, cancel it, or use another name")]
    BatchActive {
        /// The name.
        name: String,
    },
    /// Two items of a batch have the same key.
    #[error(
        "two items of batch `{batch}` have the key {key}: make keys distinct, or use .duplicates(Duplicates::Skip | Allow)"
    )]
    DuplicateKey {
        /// The batch.
        batch: String,
        /// The key.
        key: Key,
    },
    /// The engine has 64 lanes and all are taken.
    #[error(
        "all {limit} lanes of the engine are taken: wait for a batch to end, or lower max_concurrent_batches"
    )]
    TooManyLanes {
        /// How many there are.
        limit: usize,
    },
    /// The engine shuts down or has.
    #[error("the engine is shut down")]
    Closed,
    /// A wait on the engine from inside one of its own items: the item would hold the worker it waits for.
    #[error("an item may not wait for its own engine: it would hold the worker that it waits for")]
    WouldBlockWorker,
    /// The deadline of a wait passed.
    #[error("not done within {waited:?}")]
    TimedOut {
        /// How long the wait was.
        waited: Duration,
    },
    /// An item's key could not be made from its payload.
    #[error("the key of an item of batch `{batch}` cannot be made: {why}")]
    Key {
        /// The batch.
        batch: String,
        /// What serde said.
        why: String,
    },
    /// The journal cannot be opened, read or written.
    #[error("{0}")]
    Journal(#[source] Arc<JournalError>),
    /// The SQL of a [`transaction`](crate::Engine::transaction) has failed: nothing of it is written.
    #[error("the transaction has failed: {}", .0.message())]
    Transaction(Failure),
    /// The system gave no thread.
    #[error("the system gave no thread for a worker: {0}")]
    Thread(#[source] std::io::Error),
}

impl From<JournalError> for Error {
    fn from(error: JournalError) -> Self {
        Error::Journal(Arc::new(error))
    }
}

impl From<Arc<JournalError>> for Error {
    fn from(error: Arc<JournalError>) -> Self {
        Error::Journal(error)
    }
}

/// An item was not taken; it comes back.
#[non_exhaustive]
pub enum PushError<I> {
    /// As many items wait as may.
    Full(I),
    /// The batch is sealed, has ended, or the engine shuts down.
    Closed(I),
    /// The deadline passed while the batch was full.
    TimedOut(I),
    /// The batch is full and the caller is an item of the same engine, which would wait for itself.
    WouldBlockWorker(I),
    /// The key was pushed before.
    Duplicate(Key, I),
    /// The key cannot be made from the payload, or the payload cannot be written as JSON: the reason.
    Key(String, I),
}

impl<I> PushError<I> {
    /// The item that was not taken.
    ///
    /// ```
    /// let back = batchyard::PushError::Full(7).into_inner();
    /// assert_eq!(back, 7);
    /// ```
    pub fn into_inner(self) -> I {
        match self {
            PushError::Full(item)
            | PushError::Closed(item)
            | PushError::TimedOut(item)
            | PushError::WouldBlockWorker(item)
            | PushError::Duplicate(_, item)
            | PushError::Key(_, item) => item,
        }
    }
}

impl<I> fmt::Display for PushError<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PushError::Full(_) => f.write_str("the batch is full"),
            PushError::Closed(_) => f.write_str("the batch takes no more items"),
            PushError::TimedOut(_) => f.write_str("the batch stayed full until the deadline"),
            PushError::WouldBlockWorker(_) => {
                f.write_str("the batch is full and an item may not wait for its own engine")
            }
            PushError::Duplicate(key, _) => write!(f, "the key {key} was pushed before"),
            PushError::Key(why, _) => write!(f, "the key of the item cannot be made: {why}"),
        }
    }
}

impl<I> fmt::Debug for PushError<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PushError({self})")
    }
}

impl<I> std::error::Error for PushError<I> {}
