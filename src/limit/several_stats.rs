//! What several rates tell of themselves.

use super::limiter_stats::{LimiterCounts, LimiterStats};
use serde::Serialize;
use std::time::Duration;

/// A [`RateLimiters`](super::RateLimiters) at one moment. From [`RateLimiters::stats`](super::RateLimiters::stats).
///
/// ```
/// use batchyard::{ManualClock, Rate, limit::RateLimiters, secs};
/// let time = ManualClock::new();
/// let rates = [Rate::per_second(10).burst(10), Rate::per_second(1).burst(40)];
/// let api = RateLimiters::builder(rates).counted().clock(time.clock()).build()?;
/// let before = api.stats();
/// api.acquire(10)?;
/// assert!(api.try_acquire(1).is_err());
/// time.advance(secs(10));
/// let stats = api.stats();
/// assert_eq!((stats.remaining, stats.waiting), (10, 0));
/// assert_eq!(stats.rates.iter().map(|rate| rate.remaining).collect::<Vec<_>>(), [10, 40]);
/// // Of the first rate 10 of 110 were used, of the second 10 of 50.
/// assert_eq!(stats.used_since(&before), Some(0.2));
/// let counts = stats.counts.expect("it is counted");
/// assert_eq!((counts.granted, counts.units, counts.denied), (1, 10, 1));
/// # Ok::<(), batchyard::limit::LimitError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RateLimitersStats {
    /// Each rate by itself, in their order, all as of one moment: what is in force, what is there, how long a pause lasts. Who
    /// waits, waits for all of them, and what is granted is granted by all: that stands beside this, and not in it.
    pub rates: Vec<LimiterStats>,
    /// How many tokens can be had of all rates.
    pub remaining: u64,
    /// How many calls wait.
    pub waiting: usize,
    /// How long the one of them waits that waits longest.
    pub oldest_waiter: Option<Duration>,
    /// What was counted since it was made, if it is [counted](super::RateLimitersBuilder::counted). Nothing is ever
    /// cancelled or given back.
    pub counts: Option<LimiterCounts>,
}

impl RateLimitersStats {
    /// How much was used of what could have been since an earlier look at the same limiter, by the rate that was used most:
    /// as [`LimiterStats::used_since`]. `None` if it is not counted, or there were no tokens to be had.
    pub fn used_since(&self, earlier: &RateLimitersStats) -> Option<f64> {
        let units = self.counts.as_ref()?.units.saturating_sub(earlier.counts.as_ref()?.units);
        let pairs = self.rates.iter().zip(&earlier.rates);
        pairs.filter_map(|(rate, earlier)| rate.share_since(earlier, units)).reduce(f64::max)
    }
}
