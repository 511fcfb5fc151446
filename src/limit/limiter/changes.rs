//! What may change while a limiter is in use: its rate and its burst, under the latch of the settings that say them, and a pause,
//! which is the bucket's alone. Who waits is told after that.

use super::{Inner, RateLimiter, Settings};
use crate::error::Invalid;
use crate::limit::builder::{invalid, too_fast, valid_burst};
use crate::limit::error::LimitError;
use crate::limit::rate::Rate;
use crate::time::Deadline;

impl RateLimiter {
    /// From now on this rate; sleepers are re-timed. The burst changes only if `rate` says one. An
    /// [adaptive](crate::limit::Adaptive) limiter goes on from it.
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
        self.inner.set_rate(rate)
    }

    /// From now on this burst; sleepers are re-timed. A larger one has its additional room at once. In a pause nobody
    /// has it but those who sleep already ([`Order::Fifo`](crate::limit::Order::Fifo)), at the end of the pause: as many of
    /// them as it holds more start together then. Those who wait for more than a smaller one holds get
    /// [`LimitError::NeverFits`].
    ///
    /// # Errors
    ///
    /// [`LimitError::Invalid`] for zero, and for what is too large to be counted at this rate.
    pub fn set_burst(&self, tokens: u64) -> Result<(), LimitError> {
        let inner = &*self.inner;
        inner.put_burst(tokens)?;
        inner.refuse_above_burst();
        inner.wake_all();
        Ok(())
    }

    /// Nobody passes before `until`; then they go one by one from an empty bucket, the first after one period, and
    /// those who sleep already keep their order. For a `Retry-After`. A pause is never shortened by another, and what
    /// prolongs none wakes nobody. Whose time had come before keeps that, also if nobody has looked since.
    ///
    /// One without an end ([`Deadline::NEVER`]) is [`resume`](Self::resume)'s to end: who waits sleeps until then, or hears
    /// [`LimitError::WouldMissDeadline`] if it has a deadline. So does, in order of arrival, whoever comes meanwhile, as there
    /// is no place for it; by priority it waits.
    ///
    /// ```
    /// use batchyard::{ManualClock, Rate, RateLimiter, secs};
    /// let time = ManualClock::new();
    /// let limiter = RateLimiter::builder(Rate::per_second(1).burst(9)).clock(time.clock()).build()?;
    /// limiter.pause_until(secs(30));
    /// assert_eq!(limiter.try_acquire(1).unwrap_err().ready_in, secs(31));
    /// # Ok::<(), batchyard::limit::LimitError>(())
    /// ```
    #[doc(alias = "pause_for")]
    pub fn pause_until(&self, until: impl Into<Deadline>) {
        self.inner.pause_until(until.into());
    }

    /// Ends a pause now, whoever made it: they go one by one from an empty bucket, the first after one period; sleepers are
    /// re-timed. Without a pause nothing changes.
    ///
    /// ```
    /// use batchyard::{Deadline, ManualClock, Rate, RateLimiter, secs};
    /// let time = ManualClock::new();
    /// let limiter = RateLimiter::builder(Rate::per_second(1).burst(9)).clock(time.clock()).build()?;
    /// limiter.pause_until(Deadline::NEVER);
    /// limiter.resume();
    /// assert_eq!(limiter.try_acquire(1).unwrap_err().ready_in, secs(1));
    /// # Ok::<(), batchyard::limit::LimitError>(())
    /// ```
    pub fn resume(&self) {
        if self.inner.put_resume() {
            self.inner.wake_all();
        }
    }
}

impl Inner {
    fn set_rate(&self, rate: Rate) -> Result<(), LimitError> {
        match &self.adapting {
            Some(adapting) => self.put_operators_rate(adapting, rate)?,
            None => drop(self.put_rate(rate)?),
        }
        if rate.said_burst().is_some() {
            self.refuse_above_burst();
        }
        self.wake_all();
        Ok(())
    }

    /// As [`set_rate`](Self::set_rate), and nobody who waits is told yet; the raw reading from which on it stands.
    pub(in crate::limit) fn put_rate(&self, rate: Rate) -> Result<u64, LimitError> {
        rate.validate("rate")?;
        if let Some(burst) = rate.said_burst() {
            valid_burst(burst)?;
        }
        self.put(&mut self.settings.lock(), rate)
    }

    /// To the rate that `next` makes of the present one, while nobody else sets one; its burst stays. The raw reading from
    /// which on it stands; `None`: `next` leaves it as it is.
    pub(in crate::limit) fn step_rate(
        &self,
        next: impl FnOnce(Rate) -> Option<Rate>,
    ) -> Result<Option<u64>, LimitError> {
        let since = {
            let mut settings = self.settings.lock();
            let Some(rate) = next(settings.rate) else { return Ok(None) };
            self.put(&mut settings, rate)?
        };
        self.wake_all();
        Ok(Some(since))
    }

    /// Of a rate that has been validated.
    fn put(&self, settings: &mut Settings, rate: Rate) -> Result<u64, LimitError> {
        if !rate.at_most(&settings.max_rate) {
            let problem = format!("{rate} is above the max_rate, {}", settings.max_rate);
            return Err(Invalid::new("rate", problem).into());
        }
        let pace = rate.pace(&self.clock, 1).ok_or_else(|| too_fast("rate"))?;
        let burst = rate.said_burst();
        let since = self
            .bucket
            .set(|| self.clock.raw(), Some(pace), burst)
            .map_err(|unfit| invalid(unfit, "rate"))?;
        settings.rate = rate.burst(burst.unwrap_or(settings.rate.burst_size()));
        Ok(since)
    }

    pub(in crate::limit) fn put_burst(&self, tokens: u64) -> Result<(), LimitError> {
        valid_burst(tokens)?;
        let mut settings = self.settings.lock();
        self.bucket.set_burst(|| self.clock.raw(), tokens).map_err(|unfit| invalid(unfit, "burst"))?;
        settings.rate = settings.rate.burst(tokens);
        Ok(())
    }

    pub(in crate::limit) fn pause_until(&self, until: Deadline) {
        // What prolongs nothing moves nobody.
        if self.put_pause(until) {
            self.wake_all();
        }
    }

    /// As [`pause_until`](Self::pause_until), and nobody who waits is told yet; whether it prolongs anything.
    pub(in crate::limit) fn put_pause(&self, until: Deadline) -> bool {
        let until = until.on(&self.clock).map_or(u64::MAX, |until| self.clock.raw_at(until));
        self.bucket.pause(|| self.clock.raw(), until)
    }

    /// Whether there was a pause to be ended.
    pub(in crate::limit) fn put_resume(&self) -> bool {
        self.bucket.resume(|| self.clock.raw())
    }
}
