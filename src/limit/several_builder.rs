//! Settings of several rates beyond the rates.

use super::error::LimitError;
use super::limiter::RateLimiter;
use super::rate::Rate;
use super::several::RateLimiters;
use crate::error::Invalid;
use crate::time::Clock;

/// A [`RateLimiters`] in the making; from [`RateLimiters::builder`].
///
/// ```
/// use batchyard::{Clock, Rate, limit::RateLimiters};
/// let api = RateLimiters::builder([Rate::per_second(10), Rate::per_hour(1000).burst(100)])
///     .clock(Clock::os())
///     .counted()
///     .build()?;
/// api.acquire(1)?;
/// assert_eq!(api.stats().counts.expect("it is counted").granted, 1);
/// # Ok::<(), batchyard::limit::LimitError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct RateLimitersBuilder {
    rates: Vec<Rate>,
    clock: Option<Clock>,
    counted: bool,
}

impl RateLimitersBuilder {
    pub(super) fn new(rates: impl IntoIterator<Item = Rate>) -> Self {
        RateLimitersBuilder { rates: rates.into_iter().collect(), clock: None, counted: false }
    }

    /// The clock to go by; [`Clock::fast`] unless said.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Counts grants, denials and waits, for [`RateLimiters::stats`]. Costs two atomic additions a grant.
    pub fn counted(mut self) -> Self {
        self.counted = true;
        self
    }

    /// The limiter, all buckets full.
    ///
    /// # Errors
    ///
    /// [`LimitError::Invalid`]: there are no rates (`rates`); or as for [`RateLimiter::new`].
    pub fn build(self) -> Result<RateLimiters, LimitError> {
        let clock = self.clock.unwrap_or_default();
        let build = |(number, rate)| {
            let builder = RateLimiter::builder(rate).clock(clock.clone());
            // The first one stands for all: it counts what all of them grant alike.
            if self.counted && number == 0 { builder.counted().build() } else { builder.build() }
        };
        let rates = self.rates.into_iter().enumerate().map(build).collect::<Result<Box<[_]>, _>>()?;
        if rates.is_empty() {
            return Err(Invalid::new("rates", "must be at least one").into());
        }
        Ok(RateLimiters::of(rates))
    }
}
