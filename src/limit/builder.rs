//! How a [`RateLimiter`] is set up.

use super::adaptive::{Adapting, Adaptive};
use super::error::LimitError;
use super::limiter::RateLimiter;
use super::rate::Rate;
use crate::core::bucket::{Bucket, Unfit};
use crate::error::Invalid;
use crate::time::Clock;

/// How far a rate may be raised later when no `max_rate` is given. The bucket's resolution is spent on it.
const HEADROOM: u64 = 4;

/// In what order those who wait are served. Chosen once: a limiter keeps to one.
///
/// ```
/// use batchyard::limit::{Order, RateLimiter};
/// use batchyard::{Deadline, Priority, Rate};
/// let limiter = RateLimiter::builder(Rate::per_second(100)).order(Order::Priority).build()?;
/// limiter.acquire_with(1, Priority::High, Deadline::NEVER)?;
/// # Ok::<(), batchyard::limit::LimitError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// As they came. Each takes a place of its own at once and sleeps to it: no herd, no hand-over, and it is known
    /// at once whether a deadline can be met. A place that is given up in the middle is lost.
    #[default]
    Fifo,
    /// By [`Priority`](crate::Priority), then as they came; who waits counts a class higher for each 10 s, so that no class
    /// starves another. Nobody has a place before its tokens are there: giving up costs nobody anything. One of them
    /// watches the clock for all. There are no [reservations](RateLimiter::reserve).
    Priority,
}

/// What becomes of a demand that is larger than the burst.
///
/// ```
/// use batchyard::limit::{Oversize, RateLimiter};
/// use batchyard::{ManualClock, Rate, secs};
/// let time = ManualClock::new();
/// let bytes = RateLimiter::builder(Rate::per_second(1000).burst(500))
///     .oversize(Oversize::Debt)
///     .clock(time.clock())
///     .build()?;
/// bytes.acquire(3000)?; // the bucket was full
/// assert_eq!(bytes.try_acquire(500).unwrap_err().ready_in, secs(3));
/// # Ok::<(), batchyard::limit::LimitError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Oversize {
    /// It is refused at once, for it never fits.
    #[default]
    Reject,
    /// It is let through when the bucket is full, and those who follow pay for it by waiting. The law is weaker then: in
    /// any window of length *t* at most `max(burst, n) + rate · t` tokens, *n* the largest demand granted in it. A demand
    /// beyond what can be counted at this rate (2^60 tokens at most) is refused all the same.
    Debt,
}

/// A [`RateLimiter`] in the making.
#[derive(Debug, Clone)]
#[must_use]
pub struct RateLimiterBuilder {
    rate: Rate,
    max_rate: Option<Rate>,
    clock: Option<Clock>,
    pub(super) order: Order,
    oversize: Oversize,
    pub(super) adaptive: Option<Adaptive>,
    counted: bool,
}

/// What is beside the bucket and the clock.
pub(super) struct Parts {
    pub(super) bucket: Bucket,
    pub(super) clock: Clock,
    pub(super) rate: Rate,
    pub(super) max_rate: Rate,
    pub(super) order: Order,
    pub(super) adapting: Option<Adapting>,
    pub(super) counted: bool,
}

impl RateLimiterBuilder {
    pub(super) fn new(rate: Rate) -> Self {
        RateLimiterBuilder {
            rate,
            max_rate: None,
            clock: None,
            order: Order::Fifo,
            oversize: Oversize::Reject,
            adaptive: None,
            counted: false,
        }
    }

    /// How many tokens may go at once after a quiet time.
    pub fn burst(mut self, tokens: u64) -> Self {
        self.rate = self.rate.burst(tokens);
        self
    }

    /// The highest rate that [`set_rate`](RateLimiter::set_rate) may set later; four times the rate unless said.
    /// The nearer it is, the finer the bucket counts.
    pub fn max_rate(mut self, rate: Rate) -> Self {
        self.max_rate = Some(rate);
        self
    }

    /// The clock to go by; [`Clock::fast`] unless said.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// In what order those who wait are served; as they came unless said.
    pub fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// What becomes of a demand that is larger than the burst; refused unless said.
    pub fn oversize(mut self, oversize: Oversize) -> Self {
        self.oversize = oversize;
        self
    }

    /// Its rate follows what [`Grant::complete`](super::Grant::complete) says; [`rate`](RateLimiter::rate) tells where it
    /// is. The highest rate is then the ceiling unless said.
    pub fn adaptive(mut self, adaptive: Adaptive) -> Self {
        self.adaptive = Some(adaptive);
        self
    }

    /// Counts grants, denials and waits, for [`RateLimiter::stats`]. Costs a call, and two atomic additions a grant.
    pub fn counted(mut self) -> Self {
        self.counted = true;
        self
    }

    /// The limiter, its bucket full.
    ///
    /// # Errors
    ///
    /// [`LimitError::Invalid`] names the field: `floor`, `ceiling` or `step` of an adaptive one (not a rate, or the rate is
    /// not between them), `rate` or `max_rate` (zero, not finite, over eight tokens a tick of the
    /// clock, a maximum below the rate), `burst` (zero, or too large to be counted).
    pub fn build(self) -> Result<RateLimiter, LimitError> {
        self.rate.validate("rate")?;
        let burst = valid_burst(self.rate.burst_size())?;
        let max_rate = self.max_rate.or(self.adaptive.map(|adaptive| adaptive.ceiling()));
        let clock = self.clock.unwrap_or_default();
        let adapting = self.adaptive.map(|adaptive| adaptive.start(&self.rate, clock.now())).transpose()?;
        if let Some(max) = &max_rate {
            max.validate("max_rate")?;
            if !self.rate.at_most(max) {
                return Err(
                    Invalid::new("max_rate", format!("{max} is below the rate, {}", self.rate)).into()
                );
            }
            if let Some(adaptive) = self.adaptive.filter(|adaptive| !adaptive.ceiling().at_most(max)) {
                let problem = format!("{} is above the max_rate, {max}", adaptive.ceiling());
                return Err(Invalid::new("ceiling", problem).into());
            }
        }
        let pace = self.rate.pace(&clock, 1).ok_or_else(|| too_fast("rate"))?;
        // Unless said: the headroom, or as much of it as the clock's ticks allow.
        let maxima: Vec<Rate> = match max_rate {
            Some(max) => vec![max],
            None => [HEADROOM, HEADROOM / 2, 1].map(|times| self.rate.times(times)).into(),
        };
        let mut built = Err(Unfit::Rate);
        let field = if max_rate.is_some() { "max_rate" } else { "rate" };
        let mut max_rate = self.rate;
        for max in maxima {
            let Some(pace_at_most) = max.pace(&clock, 1) else { continue };
            built = Bucket::new(clock.raw(), pace, pace_at_most, burst);
            max_rate = max;
            if !matches!(built, Err(Unfit::Rate)) {
                break;
            }
        }
        let bucket = built.map_err(|unfit| invalid(unfit, field))?;
        let (nanos, ticks) = clock.scale().nanos_per_tick();
        // Three ticks of such a clock are about the nanoseconds that a refusal is rounded up by anyway.
        let bucket = if nanos < ticks { bucket.tells_late() } else { bucket };
        let bucket = if self.oversize == Oversize::Debt { bucket.lets_owe() } else { bucket };
        let RateLimiterBuilder { rate, order, counted, .. } = self;
        Ok(RateLimiter::of(Parts { bucket, clock, rate, max_rate, order, adapting, counted }))
    }
}

pub(super) fn valid_burst(burst: u64) -> Result<u64, Invalid> {
    (burst > 0).then_some(burst).ok_or_else(|| Invalid::new("burst", "must be at least 1"))
}

pub(super) fn too_fast(field: &str) -> Invalid {
    Invalid::new(field, "is beyond eight tokens a tick of the clock, or below one in centuries")
}

pub(super) fn invalid(unfit: Unfit, field: &str) -> Invalid {
    match unfit {
        Unfit::Rate => too_fast(field),
        Unfit::Burst(most) => Invalid::new("burst", format!("must be at most {most} at this rate")),
    }
}
