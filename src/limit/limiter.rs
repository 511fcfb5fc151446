//! [`RateLimiter`]: the bucket of `core/bucket.rs`, a clock, and the threads that sleep until their slot.
//!
//! Taking and refusing never lock. Who must wait takes a place at once and sleeps to its own absolute slot: first
//! come, first served, no herd and no hand-over, and a late timer of one delays nobody else. Or, if so built, they wait
//! in order of priority (`waiting.rs`).

mod changes;

use super::adaptive::Adapting;
use super::builder::{Order, Parts, RateLimiterBuilder};
use super::error::{Denied, LimitError};
use super::limiter_stats::Counts;
use super::rate::Rate;
use super::reservation::{Grant, Refund, Reservation};
use super::waiting::Watch;
use crate::core::bucket::{Bucket, Short, Slot};
use crate::core::leader::Leader;
use crate::core::sleepers::Sleepers;
use crate::error::Invalid;
use crate::job::Priority;
use crate::lock::{Levelled, house};
use crate::sync::{Arc, Unparker};
use crate::time::{Clock, Deadline, Scale, Timestamp};
use std::fmt;
use std::time::Duration;

/// A token bucket: so many tokens a second, saved up to a burst. Cheap to clone; clones share the bucket.
///
/// The law: among the grants whose stamps ([`Grant::start_at`]) lie in any window of length *t*, there are at most
/// `burst + rate · t` tokens, exactly, also with clock readings that are stale or step back. (A waiter whose place was
/// moved by a change of the settings keeps it to one tick of the clock.) A busy limiter gives out all that the rate
/// allows, but for cancelled reservations that could not be given back, and but for what falls between two ticks of
/// the clock when a demand takes the whole burst. It says nothing about when a thread, once granted, gets around to
/// acting.
///
/// Waiters are served in the order they came, or by priority: see [`Order`].
/// [`try_acquire`](Self::try_acquire) never overtakes them.
///
/// ```
/// use batchyard::{Rate, RateLimiter};
/// let api = RateLimiter::new(Rate::per_second(1000).burst(5))?;
/// for _call in 0..10 {
///     api.acquire(1)?; // the first five at once, then one a millisecond
/// }
/// # Ok::<(), batchyard::limit::LimitError>(())
/// ```
///
/// | | cost |
/// |---|---|
/// | `try_acquire`, granted | a clock reading, one CAS |
/// | `try_acquire`, denied | a clock reading, no write |
/// | sleeping | one entry in a map under a latch, O(log sleepers) |
/// | `set_rate`, `set_burst`, `pause_until` | wakes every sleeper, to look again (by priority, one), if it changes anything |
///
/// A demand above the burst is refused, or owed: see [`Oversize`](super::Oversize).
///
/// Source: GCRA (ATM Forum Traffic Management 4.0), counted in tokens instead of time.
#[derive(Clone)]
pub struct RateLimiter {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) bucket: Bucket,
    pub(super) clock: Clock,
    pub(super) scale: Scale,
    /// Whether a raw tick is a nanosecond.
    nanos: bool,
    pub(super) settings: Levelled<Settings, house::RateSettings>,
    /// Who sleeps to a place of its own, and who else looks at changes.
    pub(super) sleepers: Sleepers,
    /// Who waits in order of priority, if that is the order.
    pub(super) line: Option<Leader>,
    /// What it has learnt, if it learns.
    pub(super) adapting: Option<Adapting>,
    /// What it has counted, if it counts.
    pub(super) counts: Option<Box<Counts>>,
}

pub(super) struct Settings {
    pub(super) rate: Rate,
    max_rate: Rate,
}

impl RateLimiter {
    /// A limiter on the [fast](Clock::fast) clock, its bucket full.
    ///
    /// # Errors
    ///
    /// As [`RateLimiterBuilder::build`].
    ///
    /// ```
    /// use batchyard::{Rate, RateLimiter, limit::LimitError};
    /// let wrong = RateLimiter::new(Rate::per_second(0)).unwrap_err();
    /// assert!(matches!(wrong, LimitError::Invalid(invalid) if invalid.field == "rate"));
    /// ```
    pub fn new(rate: Rate) -> Result<RateLimiter, LimitError> {
        Self::builder(rate).build()
    }

    /// Settings beyond the rate.
    ///
    /// ```
    /// use batchyard::{Clock, Rate, RateLimiter};
    /// let limiter = RateLimiter::builder(Rate::per_second(10))
    ///     .burst(5)
    ///     .max_rate(Rate::per_second(100))
    ///     .clock(Clock::os())
    ///     .build()?;
    /// assert_eq!(limiter.burst(), 5);
    /// # Ok::<(), batchyard::limit::LimitError>(())
    /// ```
    pub fn builder(rate: Rate) -> RateLimiterBuilder {
        RateLimiterBuilder::new(rate)
    }

    pub(super) fn of(parts: Parts) -> RateLimiter {
        let Parts { bucket, clock, rate, max_rate, order, adapting, counted } = parts;
        let scale = clock.scale();
        let (nanos, ticks) = scale.nanos_per_tick();
        let line = (order == Order::Priority).then(Leader::new);
        let attended = line.is_some() || adapting.is_some() || counted;
        let bucket = if attended { bucket.attended() } else { bucket };
        RateLimiter {
            inner: Arc::new(Inner {
                bucket,
                clock,
                scale,
                nanos: nanos == ticks,
                settings: Levelled::new(Settings { rate, max_rate }),
                sleepers: Sleepers::default(),
                line,
                adapting,
                counts: counted.then(Box::default),
            }),
        }
    }

    /// Takes `n` tokens if they are there now. Never waits; zero tokens are always there.
    ///
    /// # Errors
    ///
    /// [`Denied`] says when they will be, how many are left, and whether so many can ever be there at once. A
    /// refusal changes nothing.
    ///
    /// ```
    /// use batchyard::{Rate, RateLimiter};
    /// let limiter = RateLimiter::new(Rate::per_hour(1))?;
    /// assert!(limiter.try_acquire(1).is_ok());
    /// let denied = limiter.try_acquire(1).unwrap_err();
    /// assert!(denied.ready_in > batchyard::secs(3590));
    /// # Ok::<(), batchyard::limit::LimitError>(())
    /// ```
    // Always: what a refusal says is computed only where somebody looks at it.
    #[inline(always)]
    pub fn try_acquire(&self, n: u64) -> Result<Grant<'_>, Denied> {
        let inner = &*self.inner;
        if n == 0 {
            return inner.try_slow(n);
        }
        match inner.bucket.take_plainly(|| inner.clock.raw(), n) {
            Some(Ok(stamp)) => Ok(Grant::at_once(stamp, inner.scale, n)),
            Some(Err(short)) => Err(inner.denied(short)),
            None => inner.try_slow(n),
        }
    }

    /// Takes `n` tokens, sleeping until its turn. Never early.
    ///
    /// # Errors
    ///
    /// [`LimitError::NeverFits`] at once, or when the burst is lowered below `n` meanwhile.
    ///
    /// ```
    /// use batchyard::{Rate, RateLimiter, millis};
    /// let limiter = RateLimiter::new(Rate::per(1, millis(5)))?;
    /// limiter.acquire(1)?;
    /// assert!(limiter.acquire(1)?.waited() <= millis(5));
    /// # Ok::<(), batchyard::limit::LimitError>(())
    /// ```
    pub fn acquire(&self, n: u64) -> Result<Grant<'_>, LimitError> {
        self.acquire_by(n, Deadline::NEVER)
    }

    /// Takes `n` tokens, sleeping until its turn, if that comes before the deadline; tokens that are there now are
    /// taken whatever the deadline.
    ///
    /// # Errors
    ///
    /// [`LimitError::WouldMissDeadline`] at once when the turn would come later: nothing has changed then. The same
    /// after some sleep when a change of the settings has moved the turn behind the deadline: its place is then
    /// given back if it was the last one, else it is lost. [`LimitError::NeverFits`] as for [`acquire`](Self::acquire).
    ///
    /// ```
    /// use batchyard::{Rate, RateLimiter, limit::LimitError, secs};
    /// let limiter = RateLimiter::new(Rate::per_hour(1))?;
    /// limiter.acquire(1)?;
    /// assert!(matches!(limiter.acquire_by(1, secs(1)), Err(LimitError::WouldMissDeadline { .. })));
    /// # Ok::<(), LimitError>(())
    /// ```
    pub fn acquire_by(&self, n: u64, deadline: impl Into<Deadline>) -> Result<Grant<'_>, LimitError> {
        self.acquire_with(n, Priority::Normal, deadline)
    }

    /// As [`acquire_by`](Self::acquire_by), in a class of priority. The class counts where the order is
    /// [`Order::Priority`]; in the order of arrival all are alike.
    ///
    /// # Errors
    ///
    /// As [`acquire_by`](Self::acquire_by). In order of priority nobody knows its turn before it is the next: only then
    /// can it hear [`LimitError::WouldMissDeadline`], and before, when the deadline is over,
    /// [`LimitError::TimedOut`]. Neither costs anybody a token or a place. [`LimitError::NeverFits`] at once, wherever it
    /// would stand.
    ///
    /// ```
    /// use batchyard::limit::{LimitError, Order, RateLimiter};
    /// use batchyard::{Priority, Rate, millis};
    /// let limiter = RateLimiter::builder(Rate::per_hour(1)).order(Order::Priority).build()?;
    /// limiter.acquire_with(1, Priority::Low, millis(5))?;
    /// let late = limiter.acquire_with(1, Priority::Critical, millis(5)).unwrap_err();
    /// assert!(matches!(late, LimitError::WouldMissDeadline { .. }));
    /// # Ok::<(), LimitError>(())
    /// ```
    pub fn acquire_with(
        &self,
        n: u64,
        priority: Priority,
        deadline: impl Into<Deadline>,
    ) -> Result<Grant<'_>, LimitError> {
        let inner = &*self.inner;
        if n != 0
            && let Some(Ok(stamp)) = inner.bucket.take_plainly(|| inner.clock.raw(), n)
        {
            return Ok(Grant::at_once(stamp, inner.scale, n));
        }
        inner.acquire_slow(n, priority, deadline.into())
    }

    /// Takes the next place for `n` tokens, however far ahead, without waiting.
    ///
    /// # Errors
    ///
    /// [`LimitError::NeverFits`]; [`LimitError::WouldMissDeadline`] for a place that the clock never reaches;
    /// [`LimitError::Invalid`] (`order`) where the order is [`Order::Priority`].
    ///
    /// ```
    /// use batchyard::{ManualClock, Rate, RateLimiter, millis, secs};
    /// let time = ManualClock::new();
    /// let limiter = RateLimiter::builder(Rate::per_second(2)).clock(time.clock()).build()?;
    /// let first = limiter.reserve(1)?;
    /// let second = limiter.reserve(1)?;
    /// assert_eq!((first.delay(), second.delay()), (secs(0), millis(500)));
    /// # Ok::<(), batchyard::limit::LimitError>(())
    /// ```
    pub fn reserve(&self, n: u64) -> Result<Reservation, LimitError> {
        self.reserve_owned(n)
    }

    /// The rate that is set.
    pub fn rate(&self) -> Rate {
        self.inner.settings.lock().rate
    }

    /// The burst that is set.
    pub fn burst(&self) -> u64 {
        self.inner.settings.lock().rate.burst_size()
    }

    /// In what order those who wait are served.
    pub fn order(&self) -> Order {
        if self.inner.line.is_some() { Order::Priority } else { Order::Fifo }
    }

    /// How many tokens are there now.
    pub fn remaining(&self) -> u64 {
        self.inner.bucket.left(|| self.inner.clock.raw())
    }

    /// The clock it goes by.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// As [`try_acquire`](Self::try_acquire) at a reading of its own clock that the caller has; a stale one keeps the
    /// law. Refused: how many raw ticks after that reading the tokens will be there, at least 1, and up to three too
    /// many where a tick is less than a nanosecond; `u64::MAX` is never.
    #[inline]
    pub(crate) fn try_acquire_at(&self, raw_now: u64, n: u64) -> Result<(), u64> {
        if n == 0 {
            return Ok(());
        }
        let inner = &*self.inner;
        let taken = inner.bucket.take_plainly(|| raw_now, n).unwrap_or_else(|| inner.take_at(raw_now, n));
        match taken {
            Ok(_) => Ok(()),
            Err(Short::Until { tick: Some(tick), .. }) => Err(tick.saturating_sub(raw_now).max(1)),
            Err(Short::Until { tick: None, .. } | Short::NeverFits { .. }) => Err(u64::MAX),
        }
    }

    /// Whether `n` tokens are there now, and if not, what [`try_acquire`](Self::try_acquire) would say. Takes nothing.
    pub(crate) fn look(&self, n: u64) -> Result<(), Denied> {
        let inner = &*self.inner;
        match inner.bucket.behind(|| inner.clock.raw(), 0, n) {
            Short::Until { tick: Some(tick), now, .. } if tick <= now => Ok(()),
            short => Err(inner.denied(short)),
        }
    }

    /// Whether it is paused now.
    pub(crate) fn is_paused(&self) -> bool {
        self.inner.bucket.level(|| self.inner.clock.raw()).paused_until.is_some()
    }

    /// As [`reserve`](Self::reserve): a reservation holds its limiter.
    pub(crate) fn reserve_owned(&self, n: u64) -> Result<Reservation, LimitError> {
        let inner = &*self.inner;
        if inner.line.is_some() {
            return Err(Invalid::new("order", "in order of priority there are no places ahead").into());
        }
        let slot = inner
            .bucket
            .reserve(|| inner.clock.raw(), n, u64::MAX)
            .map_err(|short| inner.counting_error(inner.refused(short, n)))?;
        Ok(Reservation::new(self.clone(), slot, n))
    }

    /// Whether raw readings of `clock` are good for [`try_acquire_at`](Self::try_acquire_at).
    pub(crate) fn uses_clock(&self, clock: &Clock) -> bool {
        self.inner.clock.same(clock)
    }

    /// Whether a demand above the burst is let through.
    pub(crate) fn owes(&self) -> bool {
        self.inner.bucket.owes()
    }

    /// Wakes `who` at each change of the rate, the burst or a pause, until it is dropped.
    pub(crate) fn watch(&self, who: Unparker) -> impl Sized + '_ {
        self.inner.sleepers.enter(who, None)
    }

    /// As [`watch`](Self::watch), without holding on to this handle.
    pub(crate) fn watched_by(&self, who: Unparker) -> Watch {
        Watch::new(self.clone(), who)
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.inner
    }

    pub(super) fn bucket(&self) -> &Bucket {
        &self.inner.bucket
    }

    /// Sleeps until the slot has come. The slot stays taken in any case.
    pub(super) fn sleep_until(&self, slot: &mut Slot, n: u64) -> Result<(), LimitError> {
        self.inner.sleep_until(slot, n, u64::MAX)
    }

    /// When the slot starts; never before its tick.
    pub(super) fn slot_time(&self, slot: &Slot) -> Timestamp {
        self.inner.slot_time(slot)
    }
}

impl Inner {
    /// [`RateLimiter::try_acquire`] where there is more to it than the bucket, or the bucket asks for a second look.
    #[cold]
    #[inline(never)]
    fn try_slow(&self, n: u64) -> Result<Grant<'_>, Denied> {
        let now = || self.clock.raw();
        if n == 0 {
            return Ok(Grant::at_once(now(), self.scale, n).of(self));
        }
        let line = self.line.as_ref().filter(|line| line.waiting() != 0);
        let taken = match line {
            Some(line) => Err(self.bucket.behind(now, line.units(), n)),
            None => self.bucket.try_take(now, n),
        };
        if let Some(counts) = &self.counts {
            if taken.is_ok() { counts.granted(n) } else { counts.denied() }
        }
        match taken {
            Ok(stamp) => Ok(Grant::at_once(stamp, self.scale, n).of(self)),
            Err(short) => Err(self.denied(short)),
        }
    }

    /// [`RateLimiter::try_acquire_at`], as above.
    #[cold]
    #[inline(never)]
    fn take_at(&self, raw_now: u64, n: u64) -> Result<u64, Short> {
        let taken = self.bucket.try_take(|| raw_now, n);
        if let Some(counts) = self.counts.as_ref().filter(|_| taken.is_ok()) {
            counts.granted(n);
        }
        taken
    }

    pub(super) fn counting_error(&self, error: LimitError) -> LimitError {
        if let Some(counts) = &self.counts {
            counts.failed(&error);
        }
        error
    }

    /// Gives back what was taken and is not needed.
    pub(super) fn give_back(&self, slot: &Slot, n: u64) -> Refund {
        let refund = if self.bucket.cancel(slot) { Refund::Exact } else { Refund::Dropped(n) };
        if let Some(counts) = &self.counts {
            counts.given_back(n, refund);
        }
        refund
    }

    /// Nobody whom a newcomer would overtake. (Places that are taken ahead overtake themselves.)
    pub(super) fn nobody_waits(&self) -> bool {
        self.line.as_ref().is_none_or(|line| line.waiting() == 0)
    }

    pub(super) fn never_fits(&self, asked: u64) -> LimitError {
        LimitError::NeverFits { asked, burst: self.settings.lock().rate.burst_size() }
    }

    pub(super) fn slot_time(&self, slot: &Slot) -> Timestamp {
        match slot.start {
            u64::MAX => Timestamp::MAX,
            start if slot.at_once() => self.clock.at_raw(start),
            start => self.time_of(start),
        }
    }

    pub(super) fn time_of(&self, tick: u64) -> Timestamp {
        // A reading is rounded down to its nanosecond, so the next one is safely behind a tick that is none.
        self.clock.at_raw(tick) + Duration::from_nanos(u64::from(!self.nanos))
    }

    #[inline(always)]
    pub(super) fn ready_in(&self, tick: Option<u64>, now: u64) -> Duration {
        let Some(tick) = tick else { return Duration::MAX };
        // The ticks are rounded down to nanoseconds, and so is the reading that the caller adds them to.
        let round = if self.nanos { 0 } else { 2 };
        Duration::from_nanos(self.scale.at(tick.saturating_sub(now)).as_nanos().saturating_add(round))
    }

    #[inline(always)]
    pub(super) fn denied(&self, short: Short) -> Denied {
        match short {
            Short::Until { tick, now, left } => {
                Denied { ready_in: self.ready_in(tick, now), remaining: left, never_fits: false }
            }
            Short::NeverFits { left } => {
                Denied { ready_in: Duration::MAX, remaining: left, never_fits: true }
            }
        }
    }

    #[cold]
    pub(super) fn refused(&self, short: Short, asked: u64) -> LimitError {
        match short {
            Short::NeverFits { .. } => self.never_fits(asked),
            Short::Until { tick, now, .. } => {
                LimitError::WouldMissDeadline { ready_in: self.ready_in(tick, now) }
            }
        }
    }
}

impl fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiter")
            .field("rate", &self.rate())
            .field("remaining", &self.remaining())
            .field("clock", &self.inner.clock)
            .finish()
    }
}
