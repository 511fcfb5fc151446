//! Limits of the world around a batch: how often, and how many at once.
//!
//! | limit | question | type |
//! |---|---|---|
//! | rate | how many calls a second, with what burst | [`RateLimiter`], set by a [`Rate`] |
//!
//! governor's `Quota` (cells a period, a burst) is our [`Rate`].

mod error;
mod limiter;
mod rate;
mod reservation;

pub use self::{
    error::{Denied, LimitError},
    limiter::{RateLimiter, RateLimiterBuilder},
    rate::Rate,
    reservation::{Grant, Refund, Reservation},
};
