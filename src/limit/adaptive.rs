//! Feedback: a limiter that learns its rate from how the other side answers.
//!
//! | word | who writes it |
//! |---|---|
//! | the epoch (`core/epoch.rs`): when the rate was cut last, or set, and a latch: when the window began | whoever cuts or sets the rate |
//! | `went_well`: tokens since the window began | every success adds; whoever closes the window takes |
//! | `window_ends` | the holder of the latch |
//!
//! A step reads the rate and sets the next one while nobody else can set it: what an operator sets meanwhile comes before or
//! after, and is not overwritten by a step from the rate before. What was sent under the rate before does not speak of the one
//! that the operator sets: it does not cut that one, and the window begins anew.

use super::error::LimitError;
use super::limiter::{Inner, RateLimiter};
use super::rate::Rate;
use super::reservation::Grant;
use crate::core::epoch::Epoch;
use crate::error::Invalid;
use crate::policy::aimd::Aimd;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::time::{Deadline, Timestamp, secs};
use std::time::Duration;

/// How often the rate may grow: long enough for answers to come back, short enough to recover within a minute.
const WINDOW: u64 = 1_000_000_000;
/// The longest pause that a `Retry-After` may ask for unless said.
const LONGEST_PAUSE: Duration = secs(300);

/// How the call went that a [`Grant`] was taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It was served.
    Success,
    /// The other side said that it was too much, such as an HTTP server by status 429.
    Throttled {
        /// When to come again, if it said so.
        retry_after: Option<Duration>,
    },
    /// It failed in another way: nothing is learnt of the rate.
    Failed,
    /// Nobody knows; as a grant that is dropped.
    Ignored,
}

/// Between which rates a limiter finds its own, from what it is told by [`Grant::complete`].
///
/// Throttled, it goes on at 70 % of its rate, once for all calls that were granted before that: several refusals in
/// flight say the same thing. As long as half the rate or more is used and goes well, it adds a step each second. A
/// `Retry-After` pauses it, and then they go one by one.
///
/// A rate that [`set_rate`](RateLimiter::set_rate) sets is where it goes on from, also beyond the bounds: those who were granted
/// before do not cut it, below the floor nobody does, and it grows from there by steps.
///
/// A limiter of an engine hears from items: of those that went well, that their tokens were well spent, whether they were
/// taken for the start ([`paced_by`](crate::BatchBuilder::paced_by)) or by [`Context::pace`](crate::Context::pace); of
/// [`Failure::retry_after`](crate::Failure::retry_after), that it was too much. The latter is one call's refusal, so not all rates that an
/// item has used hear it, only those of its last demand for tokens. Where that was the one for its start, and some of the rates
/// had to be waited for, it is the one whose tokens came last, which set the pace. A demand from inside an item that is for
/// several rates at once ([`Context::acquire`](crate::Context::acquire)) is told to all of them.
///
/// ```
/// use batchyard::limit::{Adaptive, Outcome, RateLimiter};
/// use batchyard::{ManualClock, Rate, secs};
/// let time = ManualClock::new();
/// let api = RateLimiter::builder(Rate::per_second(100).burst(10))
///     .adaptive(Adaptive::between(Rate::per_second(5), Rate::per_second(200)))
///     .clock(time.clock())
///     .build()?;
/// time.advance(secs(1));
/// let (one, other) = (api.acquire(1)?, api.acquire(1)?);
/// one.complete(Outcome::Throttled { retry_after: None });
/// other.complete(Outcome::Throttled { retry_after: Some(secs(30)) });
/// assert_eq!(api.rate(), Rate::per_second(70).burst(10));
/// assert!(api.try_acquire(1).unwrap_err().ready_in > secs(30));
/// # Ok::<(), batchyard::limit::LimitError>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Adaptive {
    floor: Rate,
    ceiling: Rate,
    step: Option<Rate>,
    longest_pause: Duration,
}

impl Adaptive {
    /// From `floor` to `ceiling`, bursts aside: the burst stays as it is.
    pub const fn between(floor: Rate, ceiling: Rate) -> Self {
        Adaptive { floor, ceiling, step: None, longest_pause: LONGEST_PAUSE }
    }

    /// What is added each second of use; a twentieth of the ceiling unless said.
    pub const fn step(mut self, step: Rate) -> Self {
        self.step = Some(step);
        self
    }

    /// The longest pause that a `Retry-After` may ask for; five minutes unless said.
    pub const fn longest_pause(mut self, longest: Duration) -> Self {
        self.longest_pause = longest;
        self
    }

    pub(super) fn ceiling(&self) -> Rate {
        self.ceiling
    }

    /// Checked for a limiter that starts with `rate` at `now`.
    pub(super) fn start(self, rate: &Rate, now: Timestamp) -> Result<Adapting, LimitError> {
        self.floor.validate("floor")?;
        self.ceiling.validate("ceiling")?;
        if !self.floor.at_most(rate) {
            return Err(Invalid::new("floor", format!("{} is above the rate, {rate}", self.floor)).into());
        }
        if !rate.at_most(&self.ceiling) {
            return Err(Invalid::new("ceiling", format!("{} is below the rate, {rate}", self.ceiling)).into());
        }
        let (floor, ceiling) = (self.floor.millionths(), self.ceiling.millionths());
        let step = match self.step {
            Some(step) => {
                step.validate("step")?;
                step.millionths()
            }
            None => ceiling / 20,
        };
        if floor == 0 {
            return Err(Invalid::new("floor", "must be at least one in a million seconds").into());
        }
        let now = now.as_nanos();
        Ok(Adapting {
            policy: Aimd { floor, ceiling, step: step.max(1) },
            // Also what is granted at this very moment is sent in the first epoch.
            epoch: Epoch::new(now.saturating_sub(1), now),
            went_well: AtomicU64::new(0),
            window_ends: AtomicU64::new(now.saturating_add(WINDOW)),
            longest_pause: self.longest_pause,
        })
    }
}

/// What an adaptive limiter keeps.
#[derive(Debug)]
pub(super) struct Adapting {
    policy: Aimd,
    epoch: Epoch<u64>,
    went_well: AtomicU64,
    window_ends: AtomicU64,
    longest_pause: Duration,
}

impl RateLimiter {
    /// As [`Grant::complete`], for a grant of this limiter that does not know it: that of a
    /// [`Reservation`](super::Reservation).
    ///
    /// ```
    /// use batchyard::limit::{Outcome, RateLimiter};
    /// let limiter = RateLimiter::new(batchyard::Rate::per_second(5))?;
    /// let grant = limiter.reserve(1)?.wait()?;
    /// limiter.complete(grant, Outcome::Success);
    /// # Ok::<(), batchyard::limit::LimitError>(())
    /// ```
    pub fn complete(&self, grant: Grant<'_>, outcome: Outcome) {
        self.tell(grant.start_at(), grant.n(), outcome);
    }

    /// Whether it finds its rate from what it is told.
    pub(crate) fn is_adaptive(&self) -> bool {
        self.inner().adapting.is_some()
    }

    /// Whether both are the same limiter.
    pub(crate) fn is(&self, other: &RateLimiter) -> bool {
        std::ptr::eq(self.inner(), other.inner())
    }

    /// What a call made of the tokens it was granted at `sent`, for those who have no [`Grant`] at hand. Where the limiter is
    /// not [adaptive](super::RateLimiterBuilder::adaptive), nothing happens.
    pub(crate) fn tell(&self, sent: Timestamp, n: u64, outcome: Outcome) {
        if let Some(adapting) = &self.inner().adapting {
            self.inner().learn(adapting, sent, n, outcome);
        }
    }
}

impl Grant<'_> {
    /// Says how the call went, from which an [adaptive](super::RateLimiterBuilder::adaptive) limiter learns; another one
    /// does not listen. A grant that is dropped says [`Outcome::Ignored`]. That of a [`Reservation`](super::Reservation) does
    /// not know its limiter, which has to be told: [`RateLimiter::complete`].
    ///
    /// ```
    /// use batchyard::limit::{Outcome, RateLimiter};
    /// let limiter = RateLimiter::new(batchyard::Rate::per_second(5))?;
    /// limiter.acquire(1)?.complete(Outcome::Success);
    /// # Ok::<(), batchyard::limit::LimitError>(())
    /// ```
    pub fn complete(self, outcome: Outcome) {
        if let Some((inner, adapting)) =
            self.listener().and_then(|inner| inner.adapting.as_ref().map(|a| (inner, a)))
        {
            inner.learn(adapting, self.start_at(), self.n(), outcome);
        }
    }
}

impl Inner {
    fn learn(&self, adapting: &Adapting, sent: Timestamp, n: u64, outcome: Outcome) {
        match outcome {
            Outcome::Success => {
                adapting.went_well.fetch_add(n, Ordering::Relaxed);
                if self.clock.now().as_nanos() >= adapting.window_ends.load(Ordering::Relaxed) {
                    self.close_window(adapting);
                }
            }
            Outcome::Throttled { retry_after } => {
                if let Some(wait) = retry_after {
                    let until = self.clock.now() + wait.min(adapting.longest_pause);
                    self.pause_until(Deadline::at(until));
                }
                adapting.epoch.end(sent.as_nanos(), |began| {
                    self.begin_window(adapting, began);
                    self.step_to(|rate| adapting.policy.cut(rate)).as_nanos()
                });
            }
            Outcome::Failed | Outcome::Ignored => {}
        }
    }

    /// An operator sets the rate: whoever was sent before says nothing of the new one.
    #[cold]
    pub(super) fn put_operators_rate(&self, adapting: &Adapting, rate: Rate) -> Result<(), LimitError> {
        adapting.epoch.set(|began| {
            let since = self.put_rate(rate)?;
            self.begin_window(adapting, began);
            Ok(self.time_of(since).as_nanos())
        })
    }

    #[cold]
    fn close_window(&self, adapting: &Adapting) {
        // Whoever comes while another closes it leaves that to the other.
        adapting.epoch.step(|began| {
            let now = self.clock.now().as_nanos();
            if now >= adapting.window_ends.load(Ordering::Relaxed) {
                let lasted = now.saturating_sub(*began);
                let tokens = self.begin_window(adapting, began);
                self.step_to(|rate| adapting.policy.grow(rate, tokens, lasted));
            }
        });
    }

    /// The tokens that went well in the last window. The latch is held.
    fn begin_window(&self, adapting: &Adapting, began: &mut u64) -> u64 {
        let now = self.clock.now().as_nanos();
        *began = now;
        adapting.window_ends.store(now.saturating_add(WINDOW), Ordering::Relaxed);
        adapting.went_well.swap(0, Ordering::Relaxed)
    }

    /// To the rate that `next` makes of the present one, in millionths; as of when that stands.
    fn step_to(&self, next: impl FnOnce(u64) -> u64) -> Timestamp {
        let stepped = self.step_rate(|rate| {
            let now = rate.millionths();
            Some(next(now)).filter(|next| *next != now).map(Rate::of_millionths)
        });
        match stepped {
            // As the stamps of those are told who waited: one that was due at that tick was granted before.
            Ok(Some(since)) => self.time_of(since),
            // Within the ceiling, which is within the highest rate: a refusal would leave the rate as it is.
            Ok(None) | Err(_) => self.time_of(self.clock.raw()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{thread, with_parker};
    use crate::time::{Clock, ManualClock, millis};

    #[test]
    fn what_is_told_without_a_grant_cuts_once_an_epoch() {
        let time = ManualClock::new();
        let limiter = RateLimiter::builder(Rate::per_second(10))
            .adaptive(Adaptive::between(Rate::per_second(1), Rate::per_second(10)))
            .clock(time.clock())
            .build()
            .unwrap();
        time.advance(secs(1));
        let sent = time.now();
        time.advance(secs(1));
        for _ in 0..3 {
            limiter.tell(sent, 1, Outcome::Throttled { retry_after: Some(secs(5)) });
        }
        assert_eq!(limiter.rate(), Rate::per_second(7));
        assert!(limiter.try_acquire(1).unwrap_err().ready_in > secs(5));
    }

    /// An operator lowers the rate while a step is being made: that comes before it or after it.
    #[test]
    fn a_step_does_not_overwrite_what_an_operator_sets() {
        let limiter = RateLimiter::builder(Rate::per_second(100))
            .adaptive(Adaptive::between(Rate::per_second(1), Rate::per_second(200)))
            .build()
            .unwrap();
        let clock = Clock::os();
        thread::scope(|s| {
            with_parker(|parker| {
                let (operator, me) = (&limiter, parker.unparker());
                limiter.inner().step_to(|rate| {
                    s.spawn(move || {
                        operator.set_rate(Rate::per_second(5)).unwrap();
                        me.unpark();
                    });
                    // It sets it now, if it can.
                    clock.park(parker, Some(clock.now() + millis(200)));
                    rate + 10_000_000
                });
            });
        });
        assert_eq!(limiter.rate(), Rate::per_second(5));
    }

    /// Of those who were granted by one rate one cuts it, also while another is about to.
    #[test]
    fn a_cut_that_stalls_is_not_made_twice() {
        let time = ManualClock::new();
        let limiter = RateLimiter::builder(Rate::per_second(100).burst(9))
            .adaptive(Adaptive::between(Rate::per_second(1), Rate::per_second(100)))
            .clock(time.clock())
            .build()
            .unwrap();
        let adapting = limiter.inner().adapting.as_ref().unwrap();
        time.advance(secs(1));
        let first = time.now();
        thread::scope(|s| {
            adapting.epoch.end(first.as_nanos(), |_| {
                // About to cut; the time goes on, and another is granted by the rate as it is, and throttled.
                time.advance(secs(1));
                let (late, sent) = (&limiter, limiter.acquire(1).unwrap().start_at());
                time.advance(secs(1));
                s.spawn(move || late.tell(sent, 1, Outcome::Throttled { retry_after: None }));
                limiter.inner().step_to(|rate| adapting.policy.cut(rate)).as_nanos()
            });
        });
        assert_eq!(limiter.rate(), Rate::per_second(70).burst(9));
    }
}
