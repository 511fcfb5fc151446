//! [`RateLimiters`]: several rates at once.
//!
//! Blocking: its buckets are moved under one short latch, so that a demand takes from all of them or from none.
//!
//! **Every rate's law holds, whatever happens to another.** If a waiter held a place in each bucket and started at the
//! latest, it would start later than its place in the others says, beside what they have filled up with since: a rate that
//! was held back by another would let through a burst too many. So nobody has places ahead. Who waits stands in a line
//! (`core/leader.rs`), and the head takes from all buckets as of the same moment, the first at which all have its tokens. A
//! change of one rate moves that moment, for nobody but the head, and only in what is still to come.

use super::error::{Denied, LimitError};
use super::limiter::{Inner, RateLimiter};
use super::limiter_stats::{Counts, LimiterStats};
use super::rate::Rate;
use super::reservation::Grant;
use super::several_builder::RateLimitersBuilder;
use super::several_stats::RateLimitersStats;
use crate::core::bucket::Short;
use crate::core::leader::{Claim, Leader, Take};
use crate::error::Invalid;
use crate::job::Priority;
use crate::lock::{Levelled, house};
use crate::sync::Arc;
use crate::time::{Clock, Deadline, Timestamp};
use std::fmt;

/// Several rates that all hold at once, such as ten a second and a thousand an hour. Cheap to clone; clones share the buckets.
///
/// What is granted obeys the law of [`RateLimiter`] for each of the rates, with the same stamps, also while one of them is
/// changed. Waiters are served by [`Priority`], then as they came; nobody has a place ahead, so giving up costs nobody
/// anything.
///
/// ```
/// use batchyard::{ManualClock, Rate, limit::RateLimiters, secs};
/// let time = ManualClock::new();
/// let rates = [Rate::per_second(10).burst(10), Rate::per_hour(12).burst(12)];
/// let api = RateLimiters::with_clock(rates, time.clock())?;
/// api.try_acquire(10)?;
/// assert_eq!(api.try_acquire(2).unwrap_err().ready_in, batchyard::millis(200)); // the first rate
/// time.advance(secs(1));
/// api.try_acquire(2)?;
/// assert!(api.try_acquire(1).unwrap_err().ready_in > secs(290)); // the second rate
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct RateLimiters {
    inner: Arc<Several>,
}

struct Several {
    /// Nobody else has them.
    rates: Box<[RateLimiter]>,
    /// Whoever moves a bucket or changes its terms.
    moving: Levelled<(), house::RatesMoving>,
    line: Leader,
}

impl RateLimiters {
    /// On the [fast](Clock::fast) clock, all buckets full.
    ///
    /// # Errors
    ///
    /// [`LimitError::Invalid`]: there are none (`rates`); or as for [`RateLimiter::new`].
    pub fn new(rates: impl IntoIterator<Item = Rate>) -> Result<Self, LimitError> {
        Self::builder(rates).build()
    }

    /// On a clock of yours.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_clock(rates: impl IntoIterator<Item = Rate>, clock: Clock) -> Result<Self, LimitError> {
        Self::builder(rates).clock(clock).build()
    }

    /// Settings beyond the rates: a clock, counts.
    ///
    /// ```
    /// use batchyard::{Rate, limit::RateLimiters};
    /// let api = RateLimiters::builder([Rate::per_second(10), Rate::per_hour(1000)]).counted().build()?;
    /// assert_eq!(api.stats().counts.expect("it is counted").granted, 0);
    /// # Ok::<(), batchyard::limit::LimitError>(())
    /// ```
    pub fn builder(rates: impl IntoIterator<Item = Rate>) -> RateLimitersBuilder {
        RateLimitersBuilder::new(rates)
    }

    /// At least one, on one clock, that nobody else has.
    pub(super) fn of(rates: Box<[RateLimiter]>) -> Self {
        let inner = Several { rates, moving: Levelled::default(), line: Leader::new() };
        RateLimiters { inner: Arc::new(inner) }
    }

    /// Takes `n` tokens of each rate if they are all there now and nobody waits. Never waits; zero tokens are always there.
    ///
    /// # Errors
    ///
    /// [`Denied`] says when all of them will be there, and how many can be had now; nothing was taken from any.
    pub fn try_acquire(&self, n: u64) -> Result<Grant<'_>, Denied> {
        let tried = self.inner.try_take(n);
        if let Some(counts) = self.inner.counts(n) {
            if tried.is_ok() { counts.granted(n) } else { counts.denied() }
        }
        tried
    }

    /// Takes `n` tokens of each rate, sleeping until they are there and its turn has come.
    ///
    /// # Errors
    ///
    /// [`LimitError::NeverFits`] for more than the smallest burst.
    ///
    /// ```
    /// use batchyard::{Rate, limit::RateLimiters, millis};
    /// let api = RateLimiters::new([Rate::per(1, millis(2)), Rate::per_hour(100).burst(100)])?;
    /// for _call in 0..3 {
    ///     api.acquire(1)?;
    /// }
    /// assert_eq!(api.acquire(2).unwrap_err().to_string(), "2 tokens never fit into a burst of 1");
    /// # Ok::<(), batchyard::limit::LimitError>(())
    /// ```
    pub fn acquire(&self, n: u64) -> Result<Grant<'_>, LimitError> {
        self.acquire_with(n, Priority::Normal, Deadline::NEVER)
    }

    /// As [`acquire`](Self::acquire), until a deadline.
    ///
    /// # Errors
    ///
    /// As [`acquire_with`](Self::acquire_with).
    pub fn acquire_by(&self, n: u64, deadline: impl Into<Deadline>) -> Result<Grant<'_>, LimitError> {
        self.acquire_with(n, Priority::Normal, deadline)
    }

    /// As [`acquire_by`](Self::acquire_by), in a class of priority.
    ///
    /// # Errors
    ///
    /// [`LimitError::WouldMissDeadline`] when its turn, as the next, would come later; [`LimitError::TimedOut`] when others
    /// went ahead until the deadline; [`LimitError::NeverFits`]. Nothing was taken from any rate.
    pub fn acquire_with(
        &self,
        n: u64,
        priority: Priority,
        deadline: impl Into<Deadline>,
    ) -> Result<Grant<'_>, LimitError> {
        let acquired = match self.inner.try_take(n) {
            Ok(grant) => Ok(grant),
            Err(_) => self.inner.wait(n, priority, deadline.into()),
        };
        if let Some(counts) = self.inner.counts(n) {
            match &acquired {
                Ok(grant) => counts.granted_after(n, grant.waited()),
                Err(error) => counts.failed(error),
            }
        }
        acquired
    }

    /// From now on this rate in place of the one with this number, counted from 0; the others stay as they are. Whoever
    /// waits is re-timed.
    ///
    /// # Errors
    ///
    /// [`LimitError::Invalid`]: there is no such rate (`index`); or as for [`RateLimiter::set_rate`].
    ///
    /// ```
    /// use batchyard::{ManualClock, Rate, limit::RateLimiters, secs};
    /// let time = ManualClock::new();
    /// let api = RateLimiters::with_clock([Rate::per_second(1), Rate::per_hour(1)], time.clock())?;
    /// api.try_acquire(1)?;
    /// api.set_rate(1, Rate::per_hour(4))?;
    /// assert_eq!(api.try_acquire(1).unwrap_err().ready_in, secs(900));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_rate(&self, index: usize, rate: Rate) -> Result<(), LimitError> {
        let inner = &*self.inner;
        let Some(limiter) = inner.rates.get(index) else {
            let problem =
                format!("there is no rate {index}: they are counted from 0 to {}", inner.rates.len() - 1);
            return Err(Invalid::new("index", problem).into());
        };
        let set = {
            let _moving = inner.moving.lock();
            limiter.set_rate(rate)
        };
        inner.changed();
        set
    }

    /// Nobody passes before `until`; then they go one by one, as each of the rates allows from an empty bucket. A pause is
    /// never shortened by another. One without an end is slept through, until it is [ended](Self::resume), by all who have no
    /// deadline.
    pub fn pause_until(&self, until: impl Into<Deadline>) {
        let inner = &*self.inner;
        let until = until.into();
        {
            let _moving = inner.moving.lock();
            inner.rates.iter().for_each(|limiter| limiter.pause_until(until));
        }
        inner.changed();
    }

    /// Ends a pause now: they go one by one, as each of the rates allows from an empty bucket. As [`RateLimiter::resume`].
    pub fn resume(&self) {
        let inner = &*self.inner;
        {
            let _moving = inner.moving.lock();
            inner.rates.iter().for_each(RateLimiter::resume);
        }
        inner.changed();
    }

    /// The rates that are set.
    pub fn rates(&self) -> Vec<Rate> {
        self.inner.rates.iter().map(RateLimiter::rate).collect()
    }

    /// How many tokens can be had of all rates now.
    pub fn remaining(&self) -> u64 {
        self.inner.rates.iter().map(RateLimiter::remaining).min().unwrap_or(0)
    }

    /// How many calls wait.
    pub fn waiting(&self) -> usize {
        self.inner.line.waiting() as usize
    }

    /// What can be told of it now. Takes the latch of who moves the buckets, and that of those who wait, each for a moment.
    pub fn stats(&self) -> RateLimitersStats {
        let inner = &*self.inner;
        let first = inner.first();
        let rates: Vec<LimiterStats> = {
            let _moving = inner.moving.lock();
            let now = first.clock.raw();
            inner.rates.iter().map(|limiter| limiter.inner().level_at(now)).collect()
        };
        let oldest = inner.line.oldest().map(Timestamp::from_nanos);
        RateLimitersStats {
            remaining: rates.iter().map(|rate| rate.remaining).min().unwrap_or(0),
            rates,
            waiting: self.waiting(),
            oldest_waiter: oldest.map(|since| first.clock.now() - since),
            counts: first.counted(),
        }
    }
}

impl Several {
    /// The one whose clock, arithmetic and counts stand for all: they share a clock, and grant alike.
    fn first(&self) -> &Inner {
        self.rates[0].inner()
    }

    /// Where a demand of `n` is counted, if it is.
    fn counts(&self, n: u64) -> Option<&Counts> {
        self.first().counts.as_deref().filter(|_| n > 0)
    }

    fn try_take(&self, n: u64) -> Result<Grant<'_>, Denied> {
        let first = self.first();
        if n == 0 {
            return Ok(Grant::at_once(first.clock.raw(), first.scale, n));
        }
        let ahead = if self.line.waiting() == 0 { 0 } else { self.line.units() };
        let _moving = self.moving.lock();
        // Who has waited for the latch asks as of now.
        let now = first.clock.raw();
        let short = self.ready(now, ahead, n);
        match short {
            Short::Until { tick: Some(at), .. } if ahead == 0 && at <= now => {
                self.take_all(n, at);
                Ok(Grant::at_once(at, first.scale, n))
            }
            short => Err(first.denied(short)),
        }
    }

    fn wait(&self, n: u64, priority: Priority, deadline: Deadline) -> Result<Grant<'_>, LimitError> {
        let take = |claim| self.take_for(claim);
        self.first().wait_in_line(&self.line, n, priority, deadline, || self.burst(), take)
    }

    fn burst(&self) -> u64 {
        self.rates.iter().map(RateLimiter::burst).min().unwrap_or(0)
    }

    /// When `n` tokens are there in all buckets, `ahead` others taken before, seen from `from`: what the latest and the
    /// emptiest say. The latch is held.
    fn ready(&self, from: u64, ahead: u64, n: u64) -> Short {
        let (mut ticks, mut least, mut never) = (Some(from), u64::MAX, false);
        for limiter in &self.rates {
            match limiter.bucket().behind(|| from, ahead, n) {
                Short::Until { tick, left, .. } => {
                    ticks = ticks.zip(tick).map(|(a, b)| a.max(b));
                    least = least.min(left);
                }
                Short::NeverFits { left } => (least, never) = (least.min(left), true),
            }
        }
        if never {
            Short::NeverFits { left: least }
        } else {
            Short::Until { tick: ticks, now: from, left: least }
        }
    }

    /// Takes from all, as of a moment at which all have it. The latch is held: nobody has moved or changed anything since.
    fn take_all(&self, n: u64, at: u64) {
        for limiter in &self.rates {
            let taken = limiter.bucket().reserve(|| at, n, at);
            debug_assert!(taken.is_ok_and(|slot| slot.start == at), "{taken:?} at {at}");
        }
    }

    fn take_for(&self, claim: Claim) -> Take {
        let _moving = self.moving.lock();
        let (from, now) = self.first().from(claim);
        match self.ready(from, 0, claim.n) {
            Short::NeverFits { .. } => Take::Never,
            Short::Until { tick: Some(at), .. } if at <= now => {
                self.take_all(claim.n, at);
                Take::At(at)
            }
            Short::Until { tick, .. } => Take::Until(tick.unwrap_or(u64::MAX)),
        }
    }

    /// The terms have changed.
    fn changed(&self) {
        self.line.refuse_above(self.burst(), &mut |claim| self.take_for(claim), &mut super::waiting::tell);
        self.line.kick(&mut super::waiting::tell);
    }
}

impl fmt::Debug for RateLimiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimiters")
            .field("rates", &self.rates())
            .field("waiting", &self.waiting())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::leader::Turn;
    use crate::core::waitlist::{Node, Waiter};
    use crate::sync::atomic::{AtomicU64, Ordering};
    use crate::sync::{thread, with_parker};
    use crate::time::{ManualClock, millis, secs};
    use proptest::prelude::*;
    use std::time::Duration;

    const TOKEN: u128 = 1_000_000_000;

    /// A look is one at the time at which it is made, however long it has waited for who moves the buckets.
    #[test]
    fn who_waits_for_the_latch_asks_as_of_then() {
        let time = ManualClock::new();
        let limiter = RateLimiters::with_clock([Rate::per_second(1)], time.clock()).unwrap();
        limiter.try_acquire(1).unwrap();
        let (clock, began) = (Clock::os(), AtomicU64::new(0));
        thread::scope(|s| {
            let moving = limiter.inner.moving.lock();
            let taker = s.spawn(|| {
                began.store(1, Ordering::Release);
                limiter.try_acquire(1).map(|grant| grant.start_at())
            });
            with_parker(|parker| {
                // It stands at the latch now, if it got that far.
                while began.load(Ordering::Acquire) == 0 {
                    thread::yield_now();
                }
                clock.park(parker, Some(clock.now() + millis(100)));
            });
            time.advance(secs(1));
            drop(moving);
            assert_eq!(taker.join().unwrap(), Ok(time.now()));
        });
    }

    #[derive(Clone, Debug)]
    enum Step {
        Pass(u64),
        Try(u64),
        Join(u64),
        Set(usize, u64),
        Pause(u64),
        Resume,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            5 => (1u64..2_000_000_000).prop_map(Step::Pass),
            2 => (1u64..6).prop_map(Step::Try),
            5 => (1u64..6).prop_map(Step::Join),
            1 => (0usize..2, 1u64..9).prop_map(|(which, rate)| Step::Set(which, rate)),
            1 => (1u64..4_000_000_000).prop_map(Step::Pause),
            1 => Just(Step::Resume),
        ];
        prop::collection::vec(step, 1..80)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        /// Each rate by itself, exactly, with one of them changed again and again.
        #[test]
        fn every_rate_keeps_its_law(
            rates in prop::array::uniform2((2u64..5, 5u64..9)), changes: bool, steps in steps(),
        ) {
            let time = ManualClock::new();
            let limiter = RateLimiters::with_clock(
                rates.map(|(rate, burst)| Rate::per_second(rate).burst(burst)),
                time.clock(),
            ).unwrap();
            let inner = &*limiter.inner;
            let nodes: Vec<Node> = steps.iter().map(|_| Node::new()).collect();
            let mut take = |claim: Claim| inner.take_for(claim);
            let mut wake = |_: &Waiter| {};
            let mut grants: Vec<(u64, u64)> = Vec::new();
            let mut pieces = rates.map(|(rate, _)| vec![(0u64, rate)]);
            let mut waits: Vec<(usize, u64)> = Vec::new();
            for (id, step) in steps.iter().enumerate() {
                let now = time.now().as_nanos();
                match *step {
                    Step::Pass(nanos) => time.advance(Duration::from_nanos(nanos)),
                    Step::Try(n) => {
                        let left = limiter.remaining();
                        match limiter.try_acquire(n) {
                            Ok(grant) => {
                                prop_assert!(waits.is_empty() && left >= n);
                                grants.push((grant.start_at().as_nanos(), n));
                            }
                            Err(denied) => {
                                prop_assert!(left < n || !waits.is_empty());
                                prop_assert_eq!((denied.remaining, limiter.remaining()), (left, left));
                            }
                        }
                    }
                    Step::Join(n) => {
                        // SAFETY: the nodes outlive the line's use of them, and each joins once.
                        unsafe { inner.line.join(&nodes[id], (n, 1), now, Waiter::Lane(0), &mut take, &mut wake) };
                        waits.push((id, n));
                    }
                    Step::Set(which, rate) if changes => {
                        // Never above four times the first, the highest that is allowed.
                        limiter.set_rate(which, Rate::per_second(rate)).unwrap();
                        pieces[which].push((now, rate));
                    }
                    Step::Pause(nanos) if changes => limiter.pause_until(Duration::from_nanos(nanos)),
                    Step::Resume => limiter.resume(),
                    _ => {}
                }
                waits.retain(|(id, n)| {
                    match inner.line.look(&nodes[*id], time.now().as_nanos(), &mut take, &mut wake) {
                        Turn::Granted(stamp) => grants.push((stamp, *n)),
                        Turn::Never => unreachable!("all fit"),
                        _ => return true,
                    }
                    false
                });
            }
            time.advance(secs(100_000));
            for (id, n) in waits {
                match inner.line.look(&nodes[id], time.now().as_nanos(), &mut take, &mut wake) {
                    Turn::Granted(stamp) => grants.push((stamp, n)),
                    turn => prop_assert!(false, "{turn:?} after a day"),
                }
            }
            grants.sort_unstable();
            for (pieces, (_, burst)) in pieces.iter().zip(rates) {
                for (i, &(from, _)) in grants.iter().enumerate() {
                    let mut tokens = 0u128;
                    for &(to, n) in &grants[i..] {
                        tokens += u128::from(n);
                        let ends = pieces.iter().skip(1).map(|next| next.0).chain([u64::MAX]);
                        let allowed: u128 = pieces
                            .iter()
                            .zip(ends)
                            .map(|((since, rate), end)| {
                                u128::from(to.min(end).saturating_sub(from.max(*since))) * u128::from(*rate)
                            })
                            .sum();
                        let bound = u128::from(burst) * TOKEN + allowed;
                        prop_assert!(tokens * TOKEN <= bound, "{tokens} in [{from}, {to}], allowed {bound}");
                    }
                }
            }
        }
    }
}
