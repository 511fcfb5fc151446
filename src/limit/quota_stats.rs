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
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
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

/// What a counted quota has counted since it was made. To read it waits for who is writing down a grant or a return: two
/// or three instructions, but as long as that thread is kept from its processor between them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct QuotaCounts {
    /// The most permits that were held just after somebody took, by a book that is entered after the take and left before the
    /// return: never more than were held. It may be less where takes and returns cross. (Who waited holds them from when it
    /// wakes.)
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
    /// How much was held for how long, in permit-seconds.
    pub used: f64,
    /// How much could have been held: the limit over time, in permit-seconds.
    pub usable: f64,
}

impl QuotaCounts {
    /// The share of the limit that was in use, on average, since `earlier`: 0 to 1, above after a limit was lowered. As
    /// [`KindStats::utilisation_since`](crate::resource::KindStats::utilisation_since).
    ///
    /// ```
    /// use batchyard::{ManualClock, limit::Quota, secs};
    /// let time = ManualClock::new();
    /// let quota = Quota::builder(2).clock(time.clock()).counted().build()?;
    /// let before = quota.stats().counts.expect("it is counted");
    /// let one = quota.acquire(1)?;
    /// time.advance(secs(3));
    /// drop(one);
    /// time.advance(secs(3));
    /// let after = quota.stats().counts.expect("it is counted");
    /// assert_eq!((after.used, after.utilisation_since(&before)), (3.0, 0.25));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn utilisation_since(&self, earlier: &QuotaCounts) -> f64 {
        let usable = self.usable - earlier.usable;
        if usable > 0.0 { ((self.used - earlier.used) / usable).max(0.0) } else { 0.0 }
    }

    /// As [`utilisation_since`](Self::utilisation_since) the quota was made.
    pub fn utilisation(&self) -> f64 {
        self.utilisation_since(&QuotaCounts::default())
    }
}
