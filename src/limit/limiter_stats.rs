//! What a limiter tells of itself, and what a counted one counts. The counts cost who needs no second look at the bucket
//! nothing: a counted limiter is an attended one (`core/bucket.rs`), which is looked after off the fast path.

use super::error::LimitError;
use super::limiter::{Inner, RateLimiter};
use super::rate::Rate;
use super::reservation::Refund;
use super::tally::Count;
use crate::lock::{Levelled, house};
use crate::meter::{Percentiles, Samples};
use crate::time::Timestamp;
use serde::Serialize;
use std::time::Duration;

/// A [`RateLimiter`] at one moment. From [`RateLimiter::stats`].
///
/// ```
/// use batchyard::{ManualClock, Rate, RateLimiter, secs};
/// let time = ManualClock::new();
/// let rate = Rate::per_second(10).burst(20);
/// let limiter = RateLimiter::builder(rate).counted().clock(time.clock()).build()?;
/// let before = limiter.stats();
/// limiter.acquire(15)?;
/// time.advance(secs(1));
/// let stats = limiter.stats();
/// assert_eq!((stats.remaining, stats.waiting), (15, 0));
/// // 15 of the 20 that were there and the 10 that came.
/// assert_eq!(stats.used_since(&before), Some(0.5));
/// let counts = stats.counts.expect("it is counted");
/// assert_eq!((counts.granted, counts.units), (1, 15));
/// # Ok::<(), batchyard::limit::LimitError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LimiterStats {
    /// The rate in force.
    pub rate: Rate,
    /// The burst in force.
    pub burst: u64,
    /// How many tokens are there.
    pub remaining: u64,
    /// How many tokens the rate has brought in since the limiter was made, also those that found the bucket full.
    pub accrued: u64,
    /// How long a [pause](RateLimiter::pause_until) lasts still.
    pub paused_for: Option<Duration>,
    /// How many calls wait.
    pub waiting: usize,
    /// How long the one of them waits that waits longest.
    pub oldest_waiter: Option<Duration>,
    /// What was counted since it was made, if it is [counted](super::RateLimiterBuilder::counted).
    pub counts: Option<LimiterCounts>,
}

impl LimiterStats {
    /// How much was used of what could have been since an earlier look at the same limiter, from 0 to 1: the tokens granted
    /// over those that were there then and those that came. `None` if it is not counted, or there were none to be had.
    ///
    /// Who waited counts when it wakes, and a piece of a lease when it is taken: over windows that are not much longer than
    /// a burst takes to fill, it may be above 1.
    pub fn used_since(&self, earlier: &LimiterStats) -> Option<f64> {
        let units = self.counts.as_ref()?.units.saturating_sub(earlier.counts.as_ref()?.units);
        self.share_since(earlier, units)
    }

    pub(super) fn share_since(&self, earlier: &LimiterStats, units: u64) -> Option<f64> {
        let there = earlier.remaining + self.accrued.saturating_sub(earlier.accrued);
        (there > 0).then(|| units as f64 / there as f64)
    }
}

/// What a counted limiter has counted since it was made. Demands of zero are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LimiterCounts {
    /// Calls that got their tokens, reservations that were waited for, and pieces taken by a lease.
    pub granted: u64,
    /// The tokens of these.
    pub units: u64,
    /// Calls without waiting that found too few. (What an engine asks for an item is not among them: it waits then.)
    pub denied: u64,
    /// Calls whose deadline came first, or would have.
    pub timed_out: u64,
    /// Calls that asked for more than fits.
    pub refused: u64,
    /// Reservations that were cancelled or dropped.
    pub cancelled: u64,
    /// Tokens that were given back, as if they had never been asked for.
    pub refunded: u64,
    /// Tokens that could not be given back, as somebody had a place behind them.
    pub dropped: u64,
    /// The most calls that waited at a time, as those saw it who came to wait.
    pub longest_queue: u64,
    /// How long those waited that waited and got their tokens.
    pub waits: Percentiles,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    granted: Count,
    units: Count,
    denied: Count,
    timed_out: Count,
    refused: Count,
    cancelled: Count,
    refunded: Count,
    dropped: Count,
    longest_queue: Count,
    waits: Levelled<Samples, house::RateWaits>,
}

impl Counts {
    pub(super) fn granted(&self, n: u64) {
        self.granted.add(1);
        self.units.add(n);
    }

    pub(super) fn granted_after(&self, n: u64, waited: Duration) {
        self.granted(n);
        if !waited.is_zero() {
            self.waits.lock().record(u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX), 1);
        }
    }

    pub(super) fn denied(&self) {
        self.denied.add(1);
    }

    pub(super) fn failed(&self, error: &LimitError) {
        match error {
            LimitError::WouldMissDeadline { .. } | LimitError::TimedOut { .. } => self.timed_out.add(1),
            LimitError::NeverFits { .. } | LimitError::Invalid(_) => self.refused.add(1),
        }
    }

    pub(super) fn cancelled(&self) {
        self.cancelled.add(1);
    }

    /// What became of `n` tokens that were taken and are not needed.
    pub(super) fn given_back(&self, n: u64, refund: Refund) {
        match refund {
            Refund::Exact => self.refunded.add(n),
            Refund::Dropped(n) => self.dropped.add(n),
        }
    }

    pub(super) fn queued(&self, waiting: u64) {
        self.longest_queue.raise(waiting);
    }

    fn look(&self) -> LimiterCounts {
        LimiterCounts {
            granted: self.granted.get(),
            units: self.units.get(),
            denied: self.denied.get(),
            timed_out: self.timed_out.get(),
            refused: self.refused.get(),
            cancelled: self.cancelled.get(),
            refunded: self.refunded.get(),
            dropped: self.dropped.get(),
            longest_queue: self.longest_queue.get(),
            waits: self.waits.lock().percentiles(),
        }
    }
}

impl RateLimiter {
    /// What can be told of it now. Costs who takes tokens nothing; it takes the latch of those who wait.
    pub fn stats(&self) -> LimiterStats {
        let inner = self.inner();
        inner.stats()
    }
}

impl Inner {
    fn stats(&self) -> LimiterStats {
        let (waiting, oldest) = match &self.line {
            Some(line) => (line.waiting() as usize, line.oldest()),
            None => (self.sleepers.waiting(), self.sleepers.oldest()),
        };
        let oldest = oldest.map(Timestamp::from_nanos);
        let now = self.clock.now();
        LimiterStats {
            waiting,
            oldest_waiter: oldest.map(|since| now - since),
            counts: self.counted(),
            ..self.level_at(self.clock.raw())
        }
    }

    /// What it has counted, if it counts.
    pub(super) fn counted(&self) -> Option<LimiterCounts> {
        self.counts.as_deref().map(Counts::look)
    }

    /// Of its bucket and settings alone.
    pub(super) fn level_at(&self, raw_now: u64) -> LimiterStats {
        let rate = self.settings.lock().rate;
        let level = self.bucket.level(|| raw_now);
        LimiterStats {
            rate,
            burst: rate.burst_size(),
            remaining: level.left,
            accrued: level.accrued,
            paused_for: level.paused_until.map(|until| match until {
                u64::MAX => Duration::MAX,
                until => self.time_of(until) - self.clock.at_raw(raw_now),
            }),
            waiting: 0,
            oldest_waiter: None,
            counts: None,
        }
    }
}
