//! Why there is no connection.

use crate::error::Invalid;
use crate::limit::QuotaError;
use std::error::Error;
use std::time::Duration;

/// Why a pool gave no connection, or was not made. `E` is the manager's error. That all connections are in use and
/// that none can be opened are different answers.
///
/// ```
/// use batchyard::resource::PoolError;
/// fn again_later(error: &PoolError<std::io::Error>) -> bool {
///     matches!(error, PoolError::Full | PoolError::TimedOut { .. } | PoolError::Connect { .. })
/// }
/// assert!(again_later(&PoolError::Full));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError<E: Error + 'static> {
    /// A setting that cannot be: names the builder's field.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// All connections are in use, or those that come back are kept for who waits already; said by
    /// [`try_get`](super::Pool::try_get), which does not wait.
    #[error("all connections are in use")]
    Full,
    /// The deadline came before a connection that is in use came back, or while those that lay idle turned out to be
    /// dead one after another.
    #[error("no connection was to be had within {waited:?}")]
    TimedOut {
        /// How long the call took.
        waited: Duration,
    },
    /// There was room for another connection, and it could not be opened in time.
    #[error("cannot connect, after {attempts} attempts in {waited:?}: {source}")]
    Connect {
        /// What the last attempt failed with.
        source: E,
        /// How often it was tried.
        attempts: u32,
        /// How long the call took.
        waited: Duration,
    },
    /// As [`Connect`](Self::Connect), and the last attempt panicked.
    #[error("cannot connect, after {attempts} attempts in {waited:?}: the manager panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
        /// How often it was tried.
        attempts: u32,
        /// How long the call took.
        waited: Duration,
    },
    /// The pool was [closed](super::Pool::close).
    #[error("the pool is closed")]
    Closed,
    /// The quota that the pool was given refused for a reason of its own, of which it says more itself.
    #[error(transparent)]
    Quota(QuotaError),
}
