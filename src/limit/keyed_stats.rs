//! What a keyed limiter tells of itself.

use super::limiter_stats::{LimiterCounts, LimiterStats};
use super::rate::Rate;
use serde::Serialize;
use std::time::Duration;

/// A [`KeyedLimiter`](super::KeyedLimiter) at one moment, over all its keys. From
/// [`KeyedLimiter::stats`](super::KeyedLimiter::stats).
///
/// ```
/// use batchyard::{ManualClock, Rate, RateLimiter, secs};
/// let time = ManualClock::new();
/// let per_host = RateLimiter::builder(Rate::per_second(1)).counted().clock(time.clock()).build_keyed()?;
/// per_host.acquire(&"a", 1)?;
/// assert!(per_host.try_acquire(&"a", 1).is_err());
/// per_host.acquire(&"b", 1)?;
/// let stats = per_host.stats();
/// assert_eq!((stats.keys, stats.waiting, stats.paused_for), (2, 0, None));
/// let counts = stats.counts.expect("it is counted");
/// assert_eq!((counts.granted, counts.units, counts.denied), (2, 2, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct KeyedStats {
    /// The rate in force, for each key.
    pub rate: Rate,
    /// The burst in force, for each key.
    pub burst: u64,
    /// How many keys have an entry; see [`KeyedLimiter::len`](super::KeyedLimiter::len).
    pub keys: usize,
    /// How long a [pause](super::KeyedLimiter::pause_until) lasts still.
    pub paused_for: Option<Duration>,
    /// How many calls wait, for any key.
    pub waiting: usize,
    /// How long the one of them waits that waits longest.
    pub oldest_waiter: Option<Duration>,
    /// What was counted since it was made, if it is [counted](super::RateLimiterBuilder::counted).
    pub counts: Option<LimiterCounts>,
}

impl KeyedStats {
    /// `terms`: of the limiter that has the terms of all keys, and counts for all.
    pub(super) fn of(terms: LimiterStats, keys: usize) -> Self {
        let LimiterStats { rate, burst, paused_for, waiting, oldest_waiter, counts, .. } = terms;
        KeyedStats { rate, burst, keys, paused_for, waiting, oldest_waiter, counts }
    }
}
