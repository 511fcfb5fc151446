//! What a limiter hands out: a [`Grant`] is spent, a [`Reservation`] is a place that may be given back.

use super::error::LimitError;
use super::limiter::{Inner, RateLimiter};
use crate::core::bucket::Slot;
use crate::lock::{Levelled, house};
use crate::time::{Scale, Timestamp};
use std::fmt;
use std::time::Duration;

/// Tokens that were taken. They are spent: dropping it gives nothing back.
///
/// ```
/// use batchyard::{Rate, RateLimiter};
/// let limiter = RateLimiter::new(Rate::per_second(1))?;
/// let grant = limiter.acquire(1)?;
/// assert_eq!((grant.n(), grant.waited()), (1, std::time::Duration::ZERO));
/// # Ok::<(), batchyard::limit::LimitError>(())
/// ```
pub struct Grant<'a> {
    /// Raw readings, converted when somebody asks: most never do.
    start: u64,
    asked: u64,
    scale: Scale,
    n: u64,
    /// Who hears how it went: nobody, unless the limiter learns from it. (A reference: a grant that had something to drop
    /// would cost every caller the work that the compiler now leaves out.)
    told: Option<&'a Inner>,
}

impl<'a> Grant<'a> {
    #[inline(always)]
    pub(super) fn at_once(now: u64, scale: Scale, n: u64) -> Self {
        Grant { start: now, asked: now, scale, n, told: None }
    }

    pub(super) fn after(asked: Timestamp, start: Timestamp, n: u64) -> Self {
        let (start, asked) = (start.as_nanos(), asked.as_nanos());
        Grant { start, asked, scale: Scale::NANOS, n, told: None }
    }

    pub(super) fn of(mut self, inner: &'a Inner) -> Self {
        if inner.adapting.is_some() {
            self.told = Some(inner);
        }
        self
    }

    pub(super) fn listener(&self) -> Option<&'a Inner> {
        self.told
    }

    /// The point of the limiter's clock from which on it held: the stamp that the limiter's law speaks of.
    pub fn start_at(&self) -> Timestamp {
        self.scale.at(self.start)
    }

    /// How long its place was ahead when it was asked for; zero when the tokens were there.
    pub fn waited(&self) -> Duration {
        self.scale.at(self.start) - self.scale.at(self.asked)
    }

    /// How many tokens.
    pub fn n(&self) -> u64 {
        self.n
    }
}

impl PartialEq for Grant<'_> {
    fn eq(&self, other: &Self) -> bool {
        (self.start_at(), self.waited(), self.n) == (other.start_at(), other.waited(), other.n)
    }
}

impl Eq for Grant<'_> {}

impl fmt::Debug for Grant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("start_at", &self.start_at())
            .field("waited", &self.waited())
            .field("n", &self.n)
            .finish()
    }
}

/// What became of a cancelled reservation's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refund {
    /// Given back: as if they had never been asked for.
    Exact,
    /// So many are lost: somebody has a place behind them already, and to move it up would break the law.
    Dropped(u64),
}

/// A place in the limiter's future. It holds its limiter; dropping it without [waiting](Self::wait) cancels it.
///
/// ```
/// use batchyard::{ManualClock, Rate, RateLimiter, limit::Refund, secs};
/// let time = ManualClock::new();
/// let limiter = RateLimiter::builder(Rate::per_second(1)).clock(time.clock()).build()?;
/// limiter.acquire(1)?;
/// let next = limiter.reserve(1)?;
/// let last = limiter.reserve(1)?;
/// assert_eq!(last.delay(), secs(2));
/// assert_eq!(last.cancel(), Refund::Exact);
/// time.advance(secs(1));
/// assert_eq!(next.wait()?.start_at(), time.now());
/// # Ok::<(), batchyard::limit::LimitError>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping a reservation cancels it"]
pub struct Reservation {
    limiter: RateLimiter,
    /// As of when it was last looked at.
    slot: Levelled<Slot, house::ReservedSlot>,
    n: u64,
    made: Timestamp,
    /// False once it is waited for or cancelled.
    held: bool,
}

/// Tokens of a reservation that have been spent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    /// The stamp of the grant.
    pub(crate) at: Timestamp,
    /// They were there when it was made.
    pub(crate) at_once: bool,
}

impl RateLimiter {
    /// As [`reserve`](RateLimiter::reserve), if its time comes within `left`; otherwise nothing has changed.
    pub(crate) fn reserve_within(&self, n: u64, left: Option<Duration>) -> Result<Reservation, LimitError> {
        let Some(left) = left else { return self.reserve(n) };
        if self.inner().line.is_some() {
            return self.reserve(n); // to hear why not
        }
        let (inner, clock) = (self.inner(), self.clock());
        let latest = clock.raw_at(clock.now() + left);
        let slot = self.bucket().reserve(|| clock.raw(), n, latest);
        let slot = slot.map_err(|short| inner.counting_error(inner.refused(short, n)))?;
        Ok(Reservation::new(self.clone(), slot, n))
    }
}

impl Reservation {
    pub(super) fn new(limiter: RateLimiter, slot: Slot, n: u64) -> Self {
        let made = limiter.clock().now();
        Reservation { limiter, slot: Levelled::new(slot), n, made, held: true }
    }

    /// When its tokens will be there, by the rate, burst and pause of now: a change of them moves it.
    /// It does not matter who looks at it when: what came due between two changes came due then. (Only if nobody looks for
    /// more than thirty changes may it have to give up its place for one at the end.)
    /// [`Timestamp::MAX`] when a pause has moved it out of the clock's reach, or the burst was lowered below its tokens.
    pub fn start_at(&self) -> Timestamp {
        let mut slot = self.slot.lock();
        self.limiter.bucket().retime(&mut slot);
        self.limiter.slot_time(&slot)
    }

    /// As [`start_at`](Self::start_at), with an answer for the reservation whose time will never come.
    ///
    /// # Errors
    ///
    /// [`LimitError::NeverFits`]: the burst was below its tokens at some time.
    pub(crate) fn due(&self) -> Result<Timestamp, LimitError> {
        let mut slot = self.slot.lock();
        if self.limiter.bucket().retime(&mut slot) {
            return Ok(self.limiter.slot_time(&slot));
        }
        drop(slot);
        Err(self.limiter.inner().never_fits(self.n))
    }

    /// The time until then; zero when it has come.
    pub fn delay(&self) -> Duration {
        self.start_at() - self.limiter.clock().now()
    }

    /// How many tokens.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Sleeps until its time has come. Never early.
    ///
    /// # Errors
    ///
    /// [`LimitError::NeverFits`] when the burst was lowered below its tokens; it is cancelled then.
    pub fn wait(mut self) -> Result<Grant<'static>, LimitError> {
        let mut slot = *self.slot.lock();
        let inner = self.limiter.inner();
        let slept = self.limiter.sleep_until(&mut slot, self.n);
        // What the sleep has given back is not given back again.
        *self.slot.lock() = slot;
        slept.map_err(|error| inner.counting_error(error))?;
        self.held = false;
        let grant = Grant::after(self.made, self.limiter.slot_time(&slot), self.n);
        if let Some(counts) = inner.counts.as_ref().filter(|_| self.n > 0) {
            counts.granted_after(self.n, grant.waited());
        }
        Ok(grant)
    }

    /// Its limiter.
    pub(crate) fn limiter(&self) -> &RateLimiter {
        &self.limiter
    }

    /// Spends its tokens if its time has come, and says that time; comes back if not, or not any more. Never sleeps: for who
    /// holds a latch.
    pub(crate) fn spend(mut self) -> Result<Spent, Reservation> {
        let mut slot = self.slot.lock();
        let has_come = self.limiter.bucket().has_come(|| self.limiter.clock().raw(), &mut slot);
        let (start, at_once) = (self.limiter.slot_time(&slot), slot.at_once());
        drop(slot);
        if has_come != Some(true) {
            return Err(self);
        }
        self.held = false;
        if let Some(counts) = self.limiter.inner().counts.as_ref().filter(|_| self.n > 0) {
            counts.granted_after(self.n, start - self.made);
        }
        Ok(Spent { at: start, at_once })
    }

    /// Gives its tokens back if it is the last reservation; no clock is involved, so neither is when.
    pub fn cancel(mut self) -> Refund {
        self.held = false;
        self.give_back()
    }

    fn give_back(&self) -> Refund {
        let inner = self.limiter.inner();
        if let Some(counts) = inner.counts.as_ref().filter(|_| self.n > 0) {
            counts.cancelled();
        }
        inner.give_back(&self.slot.lock(), self.n)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.held {
            self.give_back();
        }
    }
}
