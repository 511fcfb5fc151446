//! What a quota tells of itself.

use crate::meter::Percentiles;
use serde::Serialize;
use std::time::Duration;

/// A [`Quota`](crate::limit::Quota) at one moment. From [`Quota::stats`](crate::limit::Quota::stats).
///
/// ```
/// use batchyard::limit::{Quota, QuotaError};
/// let quota = Quota::builder(2).counted().build()?;
/// let held = quota.acquire(2)?;
/// assert_eq!(quota.try_acquire(1).unwrap_err(), QuotaError::Full);
/// let stats = quota.stats();
/// assert_eq!((stats.in_use, stats.available, stats.waiting), (2, 0, 0));
/// let counts = stats.counts.expect("it is counted");
/// assert_eq!((counts.high_water, counts.granted, counts.denied), (2, 1, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QuotaStats {
    /// The limit in force.
    pub limit: u64,
    /// How much of it the lowest class leaves to the higher ones.
    pub reserved: u64,
    /// Permits that are taken: exact.
    pub in_use: u64,
    /// Permits that are free; negative in debt.
    pub available: i64,
    /// How many calls wait.
    pub waiting: usize,
    /// How long the one of them waits that waits longest.
    pub oldest_waiter: Option<Duration>,
    /// What was counted since it was made, if it is [counted](crate::limit::QuotaBuilder::counted).
    pub counts: Option<QuotaCounts>,
}

/// What a counted quota has counted since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QuotaCounts {
    /// The most permits in use that a taker saw just after its own take. (Of those who waited, each looks when it
    /// wakes: what others gave back between its grant and its look is not seen.)
    pub high_water: u64,
    /// Calls that got their permits.
    pub granted: u64,
    /// Calls without waiting that found too few.
    pub denied: u64,
    /// Calls whose deadline came first.
    pub timed_out: u64,
    /// Calls that could not be served by waiting: the quota was closed, or the limit below what they asked for.
    pub refused: u64,
    /// How long those waited that waited and got their permits.
    pub waits: Percentiles,
}
