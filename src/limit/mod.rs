//! Floor 2: limits of the world around a batch: how often, and how many at once.
//!
//! | limit | question | type |
//! |---|---|---|
//! | rate | how many calls a second, with what burst | [`RateLimiter`], set by a [`Rate`] |
//! | quota | how many at once | [`Quota`], which gives a [`Permit`] |
//!
//! governor's `Quota` (cells a period, a burst) is our [`Rate`]; our [`Quota`] is a semaphore.

mod builder;
mod error;
mod limiter;
mod quota;
mod quota_builder;
mod quota_stats;
mod rate;
mod reservation;
mod tally;
mod waiting;

pub use self::{
    builder::{Order, Oversize, RateLimiterBuilder},
    error::{Denied, LimitError},
    limiter::RateLimiter,
    quota::*,
    quota_builder::QuotaBuilder,
    quota_stats::{QuotaCounts, QuotaStats},
    rate::Rate,
    reservation::{Grant, Refund, Reservation},
};

pub(crate) use self::quota_builder::floors;
pub(crate) use self::tally::{Count, Tally};
