//! [`RateLimiter`]: the bucket of `core/bucket.rs`, a clock, and the threads that sleep until their slot.
//!
//! Taking and refusing never lock. Who must wait takes a place at once and sleeps to its own absolute slot: first
//! come, first served, no herd and no hand-over, and a late timer of one delays nobody else.

use super::error::{Denied, LimitError};
use super::rate::Rate;
use super::reservation::{Grant, Reservation};
use crate::core::bucket::{Bucket, Short, Slot, Unfit};
use crate::error::Invalid;
use crate::sync::{Arc, Mutex, Unparker, with_parker};
use crate::time::{Clock, Deadline, Scale, Timestamp};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How far a rate may be raised later when no `max_rate` is given. The bucket's resolution is spent on it.
const HEADROOM: u64 = 4;

/// A token bucket: so many tokens a second, saved up to a burst. Cheap to clone; clones share the bucket.
///
/// The law: among the grants whose stamps ([`Grant::start_at`]) lie in any window of length *t*, there are at most
/// `burst + rate · t` tokens, exactly, also with clock readings that are stale or step back. (A waiter whose place was
/// moved by a change of the settings keeps it to one tick of the clock.) A busy limiter gives out all that the rate
/// allows, but for cancelled reservations that could not be given back, and but for what falls between two ticks of
/// the clock when a demand takes the whole burst. It says nothing about when a thread, once granted, gets around to
/// acting.
///
/// Waiters are served in the order they came, and [`try_acquire`](Self::try_acquire) never overtakes them.
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
/// | `set_rate`, `set_burst`, `pause_until` | wakes every sleeper, to look again |
///
/// Source: GCRA (ATM Forum Traffic Management 4.0), counted in tokens instead of time.
#[derive(Clone)]
pub struct RateLimiter {
    inner: Arc<Inner>,
}

struct Inner {
    bucket: Bucket,
    clock: Clock,
    scale: Scale,
    /// Whether a raw tick is a nanosecond.
    nanos: bool,
    settings: Mutex<Settings>,
    sleepers: Mutex<Sleepers>,
}

struct Settings {
    rate: Rate,
    max_rate: Rate,
}

/// Who sleeps, by an entry number, to be woken when the terms change.
#[derive(Default)]
struct Sleepers {
    entered: u64,
    asleep: BTreeMap<u64, Unparker>,
}

/// A [`RateLimiter`] in the making.
#[derive(Debug, Clone)]
#[must_use]
pub struct RateLimiterBuilder {
    rate: Rate,
    max_rate: Option<Rate>,
    clock: Option<Clock>,
}

impl RateLimiterBuilder {
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

    /// The limiter, its bucket full.
    ///
    /// # Errors
    ///
    /// [`LimitError::Invalid`] names the field: `rate` or `max_rate` (zero, not finite, over eight tokens a tick of the
    /// clock, a maximum below the rate), `burst` (zero, or too large to be counted).
    pub fn build(self) -> Result<RateLimiter, LimitError> {
        self.rate.validate("rate")?;
        let burst = valid_burst(self.rate.burst_size())?;
        if let Some(max) = &self.max_rate {
            max.validate("max_rate")?;
            if !self.rate.at_most(max) {
                return Err(
                    Invalid::new("max_rate", format!("{max} is below the rate, {}", self.rate)).into()
                );
            }
        }
        let clock = self.clock.unwrap_or_default();
        let pace = self.rate.pace(&clock, 1).ok_or_else(|| too_fast("rate"))?;
        // Unless said: the headroom, or as much of it as the clock's ticks allow.
        let maxima: Vec<Rate> = match self.max_rate {
            Some(max) => vec![max],
            None => [HEADROOM, HEADROOM / 2, 1].map(|times| self.rate.times(times)).into(),
        };
        let mut built = Err(Unfit::Rate);
        let mut max_rate = self.rate;
        for max in maxima {
            let Some(pace_at_most) = max.pace(&clock, 1) else { continue };
            built = Bucket::new(clock.raw(), pace, pace_at_most, burst);
            max_rate = max;
            if !matches!(built, Err(Unfit::Rate)) {
                break;
            }
        }
        let field = if self.max_rate.is_some() { "max_rate" } else { "rate" };
        let bucket = built.map_err(|unfit| invalid(unfit, field))?;
        let (nanos, ticks) = clock.scale().nanos_per_tick();
        let settings = Mutex::new(Settings { rate: self.rate, max_rate });
        // Three ticks of such a clock are about the nanoseconds that a refusal is rounded up by anyway.
        let bucket = if nanos < ticks { bucket.tells_late() } else { bucket };
        let scale = clock.scale();
        let inner =
            Inner { bucket, clock, scale, nanos: nanos == ticks, settings, sleepers: Mutex::default() };
        Ok(RateLimiter { inner: Arc::new(inner) })
    }
}

fn valid_burst(burst: u64) -> Result<u64, Invalid> {
    (burst > 0).then_some(burst).ok_or_else(|| Invalid::new("burst", "must be at least 1"))
}

fn too_fast(field: &str) -> Invalid {
    Invalid::new(field, "is beyond eight tokens a tick of the clock, or below one in centuries")
}

fn invalid(unfit: Unfit, field: &str) -> Invalid {
    match unfit {
        Unfit::Rate => too_fast(field),
        Unfit::Burst(most) => Invalid::new("burst", format!("must be at most {most} at this rate")),
    }
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
        RateLimiterBuilder { rate, max_rate: None, clock: None }
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
            return Ok(Grant::at_once(inner.clock.raw(), inner.scale, n));
        }
        match inner.bucket.try_take(|| inner.clock.raw(), n) {
            Ok(stamp) => Ok(Grant::at_once(stamp, inner.scale, n)),
            Err(short) => Err(inner.denied(short)),
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
        let inner = &*self.inner;
        if n == 0 {
            return Ok(Grant::at_once(inner.clock.raw(), inner.scale, n));
        }
        match inner.bucket.try_take(|| inner.clock.raw(), n) {
            Ok(stamp) => Ok(Grant::at_once(stamp, inner.scale, n)),
            Err(_) => inner.acquire_slow(n, deadline.into()),
        }
    }

    /// Takes the next place for `n` tokens, however far ahead, without waiting.
    ///
    /// # Errors
    ///
    /// [`LimitError::NeverFits`]; [`LimitError::WouldMissDeadline`] for a place that the clock never reaches.
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

    /// From now on this rate; sleepers are re-timed. The burst changes only if `rate` says one.
    ///
    /// # Errors
    ///
    /// [`LimitError::Invalid`] for what is no rate or is above the `max_rate` of the builder, or a burst that does not fit.
    ///
    /// ```
    /// use batchyard::{ManualClock, Rate, RateLimiter, millis};
    /// let time = ManualClock::new();
    /// let limiter = RateLimiter::builder(Rate::per_second(1)).clock(time.clock()).build()?;
    /// limiter.acquire(1)?;
    /// let next = limiter.reserve(1)?;
    /// limiter.set_rate(Rate::per_second(4))?;
    /// assert_eq!(next.delay(), millis(250));
    /// # Ok::<(), batchyard::limit::LimitError>(())
    /// ```
    pub fn set_rate(&self, rate: Rate) -> Result<(), LimitError> {
        rate.validate("rate")?;
        if let Some(burst) = rate.said_burst() {
            valid_burst(burst)?;
        }
        let inner = &*self.inner;
        let now = || inner.clock.raw();
        let mut settings = inner.settings.lock();
        if !rate.at_most(&settings.max_rate) {
            let problem = format!("{rate} is above the max_rate, {}", settings.max_rate);
            return Err(Invalid::new("rate", problem).into());
        }
        let pace = rate.pace(&inner.clock, 1).ok_or_else(|| too_fast("rate"))?;
        // The burst first: it is the one that may not fit.
        if let Some(burst) = rate.said_burst() {
            inner.bucket.set_burst(now, burst).map_err(|unfit| invalid(unfit, "burst"))?;
        }
        let set = inner.bucket.set_pace(now, pace);
        settings.rate = rate.burst(rate.said_burst().unwrap_or(settings.rate.burst_size()));
        drop(settings);
        inner.wake_all();
        set.map_err(|unfit| invalid(unfit, "rate").into())
    }

    /// From now on this burst; sleepers are re-timed. A larger one has its additional room at once. Those who wait for
    /// more than a smaller one holds get [`LimitError::NeverFits`].
    ///
    /// # Errors
    ///
    /// [`LimitError::Invalid`] for zero, and for what is too large to be counted at this rate.
    pub fn set_burst(&self, tokens: u64) -> Result<(), LimitError> {
        valid_burst(tokens)?;
        let inner = &*self.inner;
        let mut settings = inner.settings.lock();
        inner.bucket.set_burst(|| inner.clock.raw(), tokens).map_err(|unfit| invalid(unfit, "burst"))?;
        settings.rate = settings.rate.burst(tokens);
        drop(settings);
        inner.wake_all();
        Ok(())
    }

    /// Nobody passes before `until`; then they go one by one from an empty bucket, the first after one period, and
    /// those who sleep already keep their order. For a `Retry-After`. A pause is never shortened by another.
    ///
    /// ```
    /// use batchyard::{ManualClock, Rate, RateLimiter, secs};
    /// let time = ManualClock::new();
    /// let limiter = RateLimiter::builder(Rate::per_second(1).burst(9)).clock(time.clock()).build()?;
    /// limiter.pause_until(secs(30));
    /// assert_eq!(limiter.try_acquire(1).unwrap_err().ready_in, secs(31));
    /// # Ok::<(), batchyard::limit::LimitError>(())
    /// ```
    pub fn pause_until(&self, until: impl Into<Deadline>) {
        let inner = &*self.inner;
        let until = until.into().on(&inner.clock).map_or(u64::MAX, |until| inner.clock.raw_at(until));
        inner.bucket.pause(|| inner.clock.raw(), until);
        inner.wake_all();
    }

    /// The rate that is set.
    pub fn rate(&self) -> Rate {
        self.inner.settings.lock().rate
    }

    /// The burst that is set.
    pub fn burst(&self) -> u64 {
        self.inner.settings.lock().rate.burst_size()
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
        match self.inner.bucket.try_take(|| raw_now, n) {
            Ok(_) => Ok(()),
            Err(Short::Until { tick: Some(tick), .. }) => Err(tick.saturating_sub(raw_now).max(1)),
            Err(Short::Until { tick: None, .. } | Short::NeverFits { .. }) => Err(u64::MAX),
        }
    }

    /// As [`reserve`](Self::reserve): a reservation holds its limiter.
    pub(crate) fn reserve_owned(&self, n: u64) -> Result<Reservation, LimitError> {
        let inner = &*self.inner;
        let slot = inner
            .bucket
            .reserve(|| inner.clock.raw(), n, u64::MAX)
            .map_err(|short| inner.refused(short, n))?;
        Ok(Reservation::new(self.clone(), slot, n))
    }

    /// Whether raw readings of `clock` are good for [`try_acquire_at`](Self::try_acquire_at).
    pub(crate) fn uses_clock(&self, clock: &Clock) -> bool {
        self.inner.clock.same(clock)
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
    #[cold]
    fn acquire_slow(&self, n: u64, deadline: Deadline) -> Result<Grant<'_>, LimitError> {
        let asked = self.clock.now();
        let latest = deadline.on(&self.clock).map_or(u64::MAX, |deadline| self.clock.raw_at(deadline));
        let mut slot =
            self.bucket.reserve(|| self.clock.raw(), n, latest).map_err(|short| self.refused(short, n))?;
        match self.sleep_until(&mut slot, n, latest) {
            Ok(()) => Ok(Grant::after(asked, self.slot_time(&slot), n)),
            Err(error) => {
                self.bucket.cancel(&slot);
                Err(error)
            }
        }
    }

    fn sleep_until(&self, slot: &mut Slot, n: u64, latest: u64) -> Result<(), LimitError> {
        if slot.start <= self.clock.raw() && self.bucket.retime(slot) && slot.start <= self.clock.raw() {
            return Ok(());
        }
        with_parker(|parker| {
            // Entered first, then the terms are read: a change before the entry is seen here, a later one wakes us.
            let _entry = Entry::new(self, parker.unparker());
            loop {
                if !self.bucket.retime(slot) {
                    return Err(LimitError::NeverFits {
                        asked: n,
                        burst: self.settings.lock().rate.burst_size(),
                    });
                }
                if slot.start <= self.clock.raw() {
                    return Ok(());
                }
                if slot.start > latest {
                    let tick = (slot.start < u64::MAX).then_some(slot.start);
                    return Err(LimitError::WouldMissDeadline {
                        ready_in: self.ready_in(tick, self.clock.raw()),
                    });
                }
                self.clock.park(parker, Some(self.slot_time(slot)));
            }
        })
    }

    fn slot_time(&self, slot: &Slot) -> Timestamp {
        match slot.start {
            u64::MAX => Timestamp::MAX,
            start if slot.at_once() => self.clock.at_raw(start),
            start => self.time_of(start),
        }
    }

    fn time_of(&self, tick: u64) -> Timestamp {
        // A reading is rounded down to its nanosecond, so the next one is safely behind a tick that is none.
        self.clock.at_raw(tick) + Duration::from_nanos(u64::from(!self.nanos))
    }

    #[inline(always)]
    fn ready_in(&self, tick: Option<u64>, now: u64) -> Duration {
        let Some(tick) = tick else { return Duration::MAX };
        // The ticks are rounded down to nanoseconds, and so is the reading that the caller adds them to.
        let round = if self.nanos { 0 } else { 2 };
        Duration::from_nanos(self.scale.at(tick.saturating_sub(now)).as_nanos().saturating_add(round))
    }

    #[inline(always)]
    fn denied(&self, short: Short) -> Denied {
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
    fn refused(&self, short: Short, asked: u64) -> LimitError {
        match short {
            Short::NeverFits { .. } => {
                LimitError::NeverFits { asked, burst: self.settings.lock().rate.burst_size() }
            }
            Short::Until { tick, now, .. } => {
                LimitError::WouldMissDeadline { ready_in: self.ready_in(tick, now) }
            }
        }
    }

    /// After the terms have changed.
    fn wake_all(&self) {
        let asleep: Vec<Unparker> = self.sleepers.lock().asleep.values().cloned().collect();
        for sleeper in asleep {
            sleeper.unpark();
        }
    }
}

/// A sleeper's place in the list; leaves it when dropped.
struct Entry<'a> {
    inner: &'a Inner,
    number: u64,
}

impl<'a> Entry<'a> {
    fn new(inner: &'a Inner, unparker: Unparker) -> Self {
        let mut sleepers = inner.sleepers.lock();
        sleepers.entered += 1;
        let number = sleepers.entered;
        sleepers.asleep.insert(number, unparker);
        Entry { inner, number }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.inner.sleepers.lock().asleep.remove(&self.number);
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
