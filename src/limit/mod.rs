//! Floor 2: limits of the world around a batch: how often, and how many at once.
//!
//! | limit | question | type |
//! |---|---|---|
//! | rate | how many calls a second, with what burst | [`RateLimiter`], set by a [`Rate`] |
//! | several rates at once | the same, all or none | [`RateLimiters`] |
//! | a rate for each key | the same, for each user or host | [`KeyedLimiter`] |
//! | a stock for each worker | the same, without touching what the workers share | [`TokenLease`], of [`RateLimiter::lease`] |
//! | a rate that is not known | the same, found out from how calls go | [`Adaptive`], which is told an [`Outcome`] |
//! | quota | how many at once | [`Quota`], which gives a [`Permit`] |
//!
//! governor's `Quota` (cells a period, a burst) is our [`Rate`]; our [`Quota`] is a semaphore.

mod adaptive;
mod builder;
mod error;
mod keyed;
mod keyed_stats;
mod lease;
mod limiter;
mod limiter_stats;
mod quota;
mod quota_builder;
mod quota_stats;
mod rate;
mod reservation;
mod several;
mod several_builder;
mod several_stats;
mod tally;
mod waiting;

pub use self::{
    adaptive::{Adaptive, Outcome},
    builder::{Order, Oversize, RateLimiterBuilder},
    error::{Denied, LimitError, QuotaError},
    keyed::KeyedLimiter,
    keyed_stats::KeyedStats,
    lease::TokenLease,
    limiter::RateLimiter,
    limiter_stats::{LimiterCounts, LimiterStats},
    quota::*,
    quota_builder::QuotaBuilder,
    quota_stats::{QuotaCounts, QuotaStats},
    rate::Rate,
    reservation::{Grant, Refund, Reservation},
    several::RateLimiters,
    several_builder::RateLimitersBuilder,
    several_stats::RateLimitersStats,
};

pub(crate) use self::quota_builder::floors;
pub(crate) use self::tally::{Count, Grants, Tally, Usable};
pub(crate) use self::waiting::Watch;
