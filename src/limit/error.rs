//! Why a limit said no.

use crate::core::waitlist::Refused;
use crate::error::Invalid;
use std::time::Duration;

/// Why an acquisition, a reservation or a setting failed. What is refused at once leaves the limiter as it was. Who has
/// waited and comes back with an error has no tokens; but in order of arrival it had a place, and that is given back
/// only if it was the last one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// A setting or an argument that cannot be. Its `field` names it: `rate`, `burst`, `max_rate`, or `floor`, `ceiling`,
    /// `step` of an adaptive limiter; `order`, where places ahead or a stock would go before those who wait by priority; `k`
    /// and `ticker` of a lease; `rates` and `index` of several. Nothing has changed.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// More at once than the burst: no waiting would help. Ask for less, or raise the burst.
    #[error("{asked} tokens never fit into a burst of {burst}")]
    NeverFits {
        /// How many tokens were asked for.
        asked: u64,
        /// How many the bucket holds.
        burst: u64,
    },
    /// The tokens will not be there before the deadline (or before the clock ends: then `ready_in` is
    /// [`Duration::MAX`]). Said as soon as it is known: at once, without waiting, by the settings of then; after some sleep
    /// if a change of them, or a pause, moved the turn behind the deadline; and in order of priority when it is the next. (There,
    /// and among those who sleep already, who has no deadline waits for the end of a pause that has none.)
    #[error("would be ready in {ready_in:?}, which is after the deadline")]
    WouldMissDeadline {
        /// From now, if nobody comes in between.
        ready_in: Duration,
    },
    /// The deadline came first, while others went ahead ([`Order::Priority`](super::Order::Priority)).
    #[error("no tokens within {waited:?}")]
    TimedOut {
        /// How long the call waited.
        waited: Duration,
    },
}

/// A [`try_acquire`](crate::limit::RateLimiter::try_acquire) that found too few tokens. Nothing was taken.
///
/// ```
/// use batchyard::{ManualClock, Rate, RateLimiter, millis};
/// let time = ManualClock::new();
/// let limiter = RateLimiter::builder(Rate::per_second(4).burst(3)).clock(time.clock()).build()?;
/// limiter.try_acquire(2).unwrap();
/// let denied = limiter.try_acquire(2).unwrap_err();
/// assert_eq!((denied.ready_in, denied.remaining), (millis(250), 1));
/// assert!(!denied.never_fits());
/// assert!(limiter.try_acquire(4).unwrap_err().never_fits());
/// # Ok::<(), batchyard::limit::LimitError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
#[non_exhaustive]
pub struct Denied {
    /// When the asked tokens will be there, from now and if nobody comes in between: what a `Retry-After` header
    /// says. Never too short; exact on a clock of nanoseconds, up to five nanoseconds too long on the
    /// [fast](crate::Clock::fast) one. [`Duration::MAX`] when they [never fit](Denied::never_fits).
    pub ready_in: Duration,
    /// How many tokens are there.
    pub remaining: u64,
    pub(super) never_fits: bool,
}

impl Denied {
    /// True when more was asked for than the burst: waiting is of no use.
    pub fn never_fits(&self) -> bool {
        self.never_fits
    }

    fn sentence(&self) -> String {
        if self.never_fits {
            "more tokens were asked for than the burst ever holds".to_owned()
        } else {
            format!("{} tokens are left; ready in {:?}", self.remaining, self.ready_in)
        }
    }
}

/// Why no permit was given.
///
/// ```
/// use batchyard::{Deadline, limit::{Quota, QuotaError}, millis};
/// let quota = Quota::new(1)?;
/// let _held = quota.acquire(1)?;
/// match quota.acquire_by(1, millis(5)) {
///     Err(QuotaError::TimedOut { waited }) => assert!(waited >= millis(5)),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuotaError {
    /// Too few permits are free now, or the free ones are kept for who waits already.
    #[error("too few permits are free now")]
    Full,
    /// The deadline came first.
    #[error("no permit within {waited:?}")]
    TimedOut {
        /// How long the call waited.
        waited: Duration,
    },
    /// More than the whole quota: no waiting helps.
    #[error("{asked} permits never fit a limit of {limit}")]
    NeverFits {
        /// How many were asked for.
        asked: u64,
        /// The limit in force, less what is reserved for others.
        limit: u64,
    },
    /// The quota was [closed](super::Quota::close).
    #[error("the quota is closed")]
    Closed,
}

impl From<Refused> for QuotaError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Short { .. } => QuotaError::Full,
            Refused::Never { asked, limit, .. } => QuotaError::NeverFits { asked, limit },
            Refused::Closed { .. } => QuotaError::Closed,
        }
    }
}
