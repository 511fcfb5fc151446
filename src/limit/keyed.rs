//! [`KeyedLimiter`]: one bucket a key, all of one rate.
//!
//! Blocking, for as long as a decision takes: the table is split into shards, each under a short latch. A key's whole state
//! is the word of its bucket (`core/bucket.rs`), which lies on the axis of virtual tokens; the terms are shared by all: they are those of
//! a limiter of whose own bucket nobody takes, and each shard has a copy.
//!
//! | what | is | changed by |
//! |---|---|---|
//! | a key's word | where on the axis its next piece starts | who takes, under the latch of its shard |
//! | a shard's copy of the terms | where `V` is at which tick, the burst, a pause's barrier | a change, under the latches of all shards |
//! | the limiter's own terms | the same, and the number of the change | as above; who sleeps reads them without a latch |
//!
//! **A change touches no word.** `V` is continuous at a change of the rate and stands still in a pause, so each word keeps its
//! meaning; a pause's barrier empties every bucket at once, also of keys that have no entry. So a change costs one write a
//! shard, however many keys there are, and each key answers as a limiter of its own that was there from the start.
//!
//! **Old terms are never met with a time after the change.** Who decides has read the clock before, or under, the latch of its
//! shard. A change reads the clock while it has the latches of all:
//! 1. the decision came before it had that latch: then so did the reading, and old terms meet a time before the change;
//! 2. it came after: new terms. A reading from before the change counts as the moment of the change (`core/bucket/line.rs`, `x < t0`),
//!    and so does the stamp, however long the thread has stalled since.
//!
//! **Who sleeps** keeps its piece, not its time. It enters the limiter's list of sleepers, then reads the terms, and asks
//! again where its piece starts when it is woken (`waiting.rs`). A change that is under way at its first look wakes it.
//!
//! **Dropping the idle.** A bucket whose word lies at or below `V` is full: it decides like one that was never used, at
//! any reading from then on. A reading that was made *before* the entry was dropped (its thread stalled) would find a
//! bucket fuller than it was at that time; so a shard remembers the highest `V` at which it dropped anything, and who has
//! no entry starts from there. This is a position too, so no change touches it: `floor V` never goes back, neither with a
//! lower rate (which starts where the higher one has come to) nor with the clock (the highest counts).
//!
//! **Counting** goes another way from the start (`plain`), so that who does not count pays nothing.

mod shard;

use self::shard::{Shard, Swept};
use super::builder::{Order, RateLimiterBuilder};
use super::error::{Denied, LimitError};
use super::keyed_stats::KeyedStats;
use super::limiter::{Inner, RateLimiter};
use super::rate::Rate;
use super::reservation::{Grant, Refund};
use crate::core::bucket::{Short, Slot, View};
use crate::core::latch::{Latch, LatchGuard, Latches};
use crate::error::Invalid;
use crate::seeds::Seeds;
use crate::sync::thread;
use crate::time::{Clock, Deadline};
use std::fmt;
use std::hash::Hash;

/// Shards for each processor: few enough threads meet in one.
const SHARDS_PER_CPU: usize = 4;

/// A rate for each key: each user, host or tenant has a bucket of its own. Cheap where keys are many: a key costs its own
/// size and two words, and an entry whose bucket is full again is dropped, for it is as if it had never been.
///
/// Each key obeys the law of [`RateLimiter`], also while the [rate](Self::set_rate) is changed and through
/// [pauses](Self::pause_until), which are those of all keys. Keys are hashed by SipHash with random seeds. They are compared
/// under a latch: a key's `Eq` that calls the same limiter waits for itself, and must not.
///
/// ```
/// use batchyard::Rate;
/// use batchyard::limit::KeyedLimiter;
/// let per_user = KeyedLimiter::new(Rate::per_hour(10).burst(2))?;
/// assert!(per_user.try_acquire(&"anna", 2).is_ok());
/// assert!(per_user.try_acquire(&"anna", 1).is_err());
/// assert!(per_user.try_acquire(&"bert", 1).is_ok());
/// # Ok::<(), batchyard::limit::LimitError>(())
/// ```
///
/// | | cost |
/// |---|---|
/// | `try_acquire` | a clock reading, a hash, a look-up under the latch of its shard |
/// | sleeping | one entry in a map under a latch, O(log sleepers) |
/// | `set_rate`, `set_burst`, `pause_until`, `resume` | a write for each shard (four a processor), whatever the keys; wakes every sleeper |
///
/// [Of a builder](RateLimiterBuilder::build_keyed): a highest rate, a clock, demands above the burst, counts.
pub struct KeyedLimiter<K> {
    /// Its terms, clock, sleepers and counts; nobody takes from its own bucket.
    terms: RateLimiter,
    shards: Latches<Shard<K>>,
    seeds: Seeds,
    /// Demands from one token to so many are decided without a detour: all, or none if they are counted.
    plain: u64,
}

/// A decision that is not made yet: the latch of the key's shard, the key's hash, the reading of the clock.
struct Detour<'a, K> {
    shard: LatchGuard<'a, Shard<K>>,
    hash: u64,
    now: u64,
}

impl<K: Hash + Eq + Clone> KeyedLimiter<K> {
    /// On the [fast](Clock::fast) clock.
    ///
    /// # Errors
    ///
    /// [`LimitError::Invalid`] as for [`RateLimiter::new`].
    pub fn new(rate: Rate) -> Result<Self, LimitError> {
        RateLimiter::builder(rate).build_keyed()
    }

    /// On a clock of yours.
    ///
    /// # Errors
    ///
    /// [`LimitError::Invalid`] as for [`RateLimiter::new`].
    ///
    /// ```
    /// use batchyard::{ManualClock, Rate, limit::KeyedLimiter, secs};
    /// let time = ManualClock::new();
    /// let limiter = KeyedLimiter::with_clock(Rate::per_second(1), time.clock())?;
    /// limiter.try_acquire(&7, 1)?;
    /// assert_eq!(limiter.try_acquire(&7, 1).unwrap_err().ready_in, secs(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_clock(rate: Rate, clock: Clock) -> Result<Self, LimitError> {
        RateLimiter::builder(rate).clock(clock).build_keyed()
    }

    fn of(terms: RateLimiter) -> Self {
        let inner = terms.inner();
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let shards = (cpus * SHARDS_PER_CPU).next_power_of_two().max(16);
        let view = inner.bucket.view(&|| inner.clock.raw());
        let shards = Latches::new(shards.ilog2(), || Shard::new(view));
        let plain = if inner.counts.is_some() { 0 } else { u64::MAX };
        KeyedLimiter { terms, shards, seeds: Seeds::random(), plain }
    }

    /// Takes `n` tokens of a key if they are there now. Never waits; zero tokens are always there.
    ///
    /// # Errors
    ///
    /// [`Denied`]; a refusal changes nothing.
    // Always: what a refusal says is computed only where somebody looks at it.
    #[inline(always)]
    pub fn try_acquire(&self, key: &K, n: u64) -> Result<Grant<'_>, Denied> {
        let inner = self.terms.inner();
        if !self.is_plain(n) {
            return self.try_slow(key, n);
        }
        match self.take(key, n) {
            Ok(Ok(stamp)) => Ok(Grant::at_once(stamp, inner.scale, n)),
            Ok(Err(short)) => Err(inner.denied(short)),
            Err(detour) => self.try_detour(key, detour, n),
        }
    }

    /// Takes `n` tokens of a key, sleeping until its turn: those who wait for one key are served in the order they came.
    ///
    /// # Errors
    ///
    /// [`LimitError::NeverFits`] at once, or when the burst is lowered below `n` meanwhile.
    ///
    /// ```
    /// use batchyard::{Rate, limit::KeyedLimiter, millis};
    /// let limiter = KeyedLimiter::new(Rate::per(1, millis(2)))?;
    /// limiter.acquire(&"host", 1)?;
    /// assert!(limiter.acquire(&"host", 1)?.waited() <= millis(2));
    /// # Ok::<(), batchyard::limit::LimitError>(())
    /// ```
    pub fn acquire(&self, key: &K, n: u64) -> Result<Grant<'_>, LimitError> {
        self.acquire_by(key, n, Deadline::NEVER)
    }

    /// As [`acquire`](Self::acquire), if its turn comes before the deadline; tokens that are there now are taken whatever
    /// the deadline.
    ///
    /// # Errors
    ///
    /// [`LimitError::WouldMissDeadline`] at once when it does not: nothing has changed then. The same after some sleep when a
    /// change of the settings has moved the turn behind the deadline: its place is then given back if it was the last one of
    /// its key, else it is lost. [`LimitError::NeverFits`] as for [`acquire`](Self::acquire).
    pub fn acquire_by(
        &self,
        key: &K,
        n: u64,
        deadline: impl Into<Deadline>,
    ) -> Result<Grant<'_>, LimitError> {
        if self.is_plain(n)
            && let Ok(Ok(stamp)) = self.take(key, n)
        {
            return Ok(Grant::at_once(stamp, self.terms.inner().scale, n));
        }
        self.acquire_slow(key, n, deadline.into())
    }

    /// From now on this rate for each key; who sleeps is re-timed. The burst changes only if `rate` says one.
    ///
    /// # Errors
    ///
    /// [`LimitError::Invalid`] as for [`RateLimiter::set_rate`].
    ///
    /// ```
    /// use batchyard::{ManualClock, Rate, limit::KeyedLimiter, millis, secs};
    /// let time = ManualClock::new();
    /// let per_host = KeyedLimiter::with_clock(Rate::per_second(1), time.clock())?;
    /// per_host.try_acquire(&"a", 1)?;
    /// time.advance(millis(500));
    /// per_host.set_rate(Rate::per_second(2))?; // half a token was there
    /// assert_eq!(per_host.try_acquire(&"a", 1).unwrap_err().ready_in, millis(250));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_rate(&self, rate: Rate) -> Result<(), LimitError> {
        self.change(|terms| terms.put_rate(rate)).map(drop)
    }

    /// From now on this burst for each key; who sleeps is re-timed. As [`RateLimiter::set_burst`].
    ///
    /// # Errors
    ///
    /// [`LimitError::Invalid`] for zero, and for what is too large to be counted at this rate.
    pub fn set_burst(&self, tokens: u64) -> Result<(), LimitError> {
        self.change(|terms| terms.put_burst(tokens))
    }

    /// Nobody passes before `until`, whatever the key; then each key goes on from an empty bucket, keys that come for the
    /// first time too. As [`RateLimiter::pause_until`]: a pause is never shortened by another.
    ///
    /// ```
    /// use batchyard::{ManualClock, Rate, limit::KeyedLimiter, secs};
    /// let time = ManualClock::new();
    /// let per_host = KeyedLimiter::with_clock(Rate::per_second(1).burst(9), time.clock())?;
    /// per_host.pause_until(secs(30));
    /// assert_eq!(per_host.try_acquire(&"a", 1).unwrap_err().ready_in, secs(31));
    /// # Ok::<(), batchyard::limit::LimitError>(())
    /// ```
    #[doc(alias = "pause_for")]
    pub fn pause_until(&self, until: impl Into<Deadline>) {
        let until = until.into();
        self.change(|terms| terms.put_pause(until));
    }

    /// Ends a pause now: each key goes on from an empty bucket. As [`RateLimiter::resume`].
    ///
    /// ```
    /// use batchyard::{Deadline, ManualClock, Rate, limit::KeyedLimiter, secs};
    /// let time = ManualClock::new();
    /// let per_host = KeyedLimiter::with_clock(Rate::per_second(1), time.clock())?;
    /// per_host.pause_until(Deadline::NEVER);
    /// per_host.resume();
    /// assert_eq!(per_host.try_acquire(&"a", 1).unwrap_err().ready_in, secs(1));
    /// # Ok::<(), batchyard::limit::LimitError>(())
    /// ```
    pub fn resume(&self) {
        self.change(Inner::put_resume);
    }

    /// How many keys have an entry: those whose bucket is not full, and those that have not been swept since it was.
    pub fn len(&self) -> usize {
        self.shards.each().map(|shard| shard.len()).sum()
    }

    /// Whether no key has an entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops the entries of keys whose buckets are full, and says how many they were. Nothing changes by it but the room they
    /// take. It happens by itself as keys come: a shard is swept when it has twice the keys that were left the last time.
    ///
    /// ```
    /// use batchyard::{ManualClock, Rate, limit::KeyedLimiter, secs};
    /// let time = ManualClock::new();
    /// let limiter = KeyedLimiter::with_clock(Rate::per_second(1), time.clock())?;
    /// limiter.try_acquire(&"once", 1)?;
    /// assert_eq!((limiter.sweep_idle(), limiter.len()), (0, 1));
    /// time.advance(secs(1));
    /// assert_eq!((limiter.sweep_idle(), limiter.len()), (1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn sweep_idle(&self) -> usize {
        let now = self.terms.inner().clock.raw();
        let sweep = |mut shard: LatchGuard<'_, Shard<K>>| {
            let position = shard.view.at(now).position();
            let swept = shard.sweep(position);
            drop(shard);
            swept.count
        };
        self.shards.each().map(sweep).sum()
    }

    /// The rate of each key.
    pub fn rate(&self) -> Rate {
        self.terms.rate()
    }

    /// The burst of each key.
    pub fn burst(&self) -> u64 {
        self.terms.burst()
    }

    /// The clock it goes by.
    pub fn clock(&self) -> &Clock {
        self.terms.clock()
    }

    /// What can be told of it now, over all keys. Takes the latch of each shard for a moment, and that of those who wait.
    pub fn stats(&self) -> KeyedStats {
        KeyedStats::of(self.terms.stats(), self.len())
    }

    #[inline(always)]
    fn is_plain(&self, n: u64) -> bool {
        n.wrapping_sub(1) < self.plain
    }

    /// Decides without a detour, if there is an entry and the burst is not below the demand.
    #[inline(always)]
    fn take(&self, key: &K, n: u64) -> Result<Result<u64, Short>, Detour<'_, K>> {
        let now = self.terms.inner().clock.raw();
        let hash = self.seeds.hash(key);
        let mut shard = self.shard(hash).lock();
        let view = shard.view.at(now);
        if let Some(word) = shard.word(hash, key)
            && let Some(taken) = view.take(*word, n)
        {
            return Ok(taken.map(|(stamp, end)| {
                *word = end;
                stamp
            }));
        }
        Err(Detour { shard, hash, now })
    }

    /// By the middle of the hash: a table goes by both its ends.
    #[inline(always)]
    fn shard(&self, hash: u64) -> &Latch<Shard<K>> {
        self.shards.one((hash >> 32) as usize)
    }

    /// [`try_acquire`](Self::try_acquire) where there is more to it: nothing is asked for, or it is counted.
    #[cold]
    #[inline(never)]
    fn try_slow(&self, key: &K, n: u64) -> Result<Grant<'_>, Denied> {
        let inner = self.terms.inner();
        if n == 0 {
            return Ok(Grant::at_once(inner.clock.raw(), inner.scale, n));
        }
        let tried = self.try_detour(key, self.detour(key), n);
        if let Some(counts) = &inner.counts {
            if tried.is_ok() { counts.granted(n) } else { counts.denied() }
        }
        tried
    }

    #[cold]
    #[inline(never)]
    fn try_detour(&self, key: &K, detour: Detour<'_, K>, n: u64) -> Result<Grant<'_>, Denied> {
        let inner = self.terms.inner();
        // No tick is that early: now or not at all.
        let at_once = self.with_word(key, detour, |view, word| view.reserve(word, n, 0));
        at_once.map(|slot| Grant::at_once(slot.start, inner.scale, n)).map_err(|short| inner.denied(short))
    }

    /// All the way that a call goes that is not plain.
    fn detour(&self, key: &K) -> Detour<'_, K> {
        let now = self.terms.inner().clock.raw();
        let hash = self.seeds.hash(key);
        Detour { shard: self.shard(hash).lock(), hash, now }
    }

    #[cold]
    fn acquire_slow(&self, key: &K, n: u64, deadline: Deadline) -> Result<Grant<'_>, LimitError> {
        let inner = self.terms.inner();
        if n == 0 {
            return Ok(Grant::at_once(inner.clock.raw(), inner.scale, n));
        }
        let acquired = self.take_or_wait(key, n, deadline);
        match (&inner.counts, acquired) {
            (Some(counts), Ok(grant)) => {
                counts.granted_after(n, grant.waited());
                Ok(grant)
            }
            (_, acquired) => acquired.map_err(|error| inner.counting_error(error)),
        }
    }

    fn take_or_wait(&self, key: &K, n: u64, deadline: Deadline) -> Result<Grant<'_>, LimitError> {
        let inner = self.terms.inner();
        let asked = inner.clock.now();
        let latest = deadline.on(&inner.clock).map_or(u64::MAX, |deadline| inner.clock.raw_at(deadline));
        loop {
            let mut slot = self
                .with_word(key, self.detour(key), |view, word| view.reserve(word, n, latest))
                .map_err(|short| inner.refused(short, n))?;
            if slot.at_once() {
                return Ok(Grant::at_once(slot.start, inner.scale, n));
            }
            let slept = inner.sleep_until(&mut slot, n, latest);
            if slept.is_ok() {
                return Ok(Grant::after(asked, inner.slot_time(&slot), n));
            }
            let refund = if self.undo(key, &slot) { Refund::Exact } else { Refund::Dropped(n) };
            if let Some(counts) = &inner.counts {
                counts.given_back(n, refund);
            }
            // It slept through more changes than are remembered: a place at the end, as for any limiter.
            if !slot.is_lost() {
                slept?;
            }
        }
    }

    /// Gives a piece back if it is the last one of its key.
    fn undo(&self, key: &K, slot: &Slot) -> bool {
        let hash = self.seeds.hash(key);
        let mut shard = self.shard(hash).lock();
        // Without an entry the clock has passed it.
        let Some(word) = shard.word(hash, key) else { return false };
        let Some(before) = slot.undone(*word) else { return false };
        *word = before;
        true
    }

    /// Lets `decide` take a piece of a key's bucket, and makes an entry for a key that has none.
    fn with_word(
        &self,
        key: &K,
        Detour { shard, hash, now }: Detour<'_, K>,
        decide: impl Fn(&View, u64) -> Result<Slot, Short>,
    ) -> Result<Slot, Short> {
        // In the reverse order of this they are dropped: the latch first.
        let mut own = None;
        let mut _swept = Swept::none();
        let mut shard = shard;
        loop {
            let view = shard.view.at(now);
            let fresh = shard.fresh();
            let known = shard.word(hash, key);
            let slot = decide(&view, known.as_ref().map_or(fresh, |word| **word))?;
            match (known, own.take()) {
                (Some(word), unused) => {
                    *word = slot.end();
                    drop(shard);
                    drop(unused);
                    return Ok(slot);
                }
                (None, Some(own)) => {
                    _swept = shard.insert(hash, own, slot.end(), view.position());
                    return Ok(slot);
                }
                (None, None) => {
                    // The key's clone is the user's to make, which may do anything: not under the latch.
                    drop(shard);
                    own = Some(key.clone());
                    shard = self.shard(hash).lock();
                }
            }
        }
    }

    /// Lets `put` change the terms. See the head of the file.
    fn change<R>(&self, put: impl FnOnce(&Inner) -> R) -> R {
        let inner = self.terms.inner();
        let mut all = self.shards.all();
        let result = put(inner);
        let view = inner.bucket.view(&|| inner.clock.raw());
        all.values(|shard| shard.view = view);
        drop(all);
        inner.wake_all();
        result
    }
}

impl RateLimiterBuilder {
    /// These settings for each key of a [`KeyedLimiter`].
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build), and `order` or `adaptive` for what a keyed limiter does not do: those who wait for a key are served as
    /// they came, and the rate is set, not learnt.
    ///
    /// ```
    /// use batchyard::limit::{KeyedLimiter, RateLimiter};
    /// use batchyard::{Clock, Rate};
    /// let per_user: KeyedLimiter<String> = RateLimiter::builder(Rate::per_second(10).burst(20))
    ///     .max_rate(Rate::per_second(1000))
    ///     .clock(Clock::os())
    ///     .counted()
    ///     .build_keyed()?;
    /// per_user.try_acquire(&"anna".to_owned(), 1)?;
    /// assert_eq!(per_user.stats().counts.expect("it is counted").granted, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn build_keyed<K: Hash + Eq + Clone>(self) -> Result<KeyedLimiter<K>, LimitError> {
        if self.order != Order::Fifo {
            return Err(Invalid::new("order", "a keyed limiter serves in the order of arrival").into());
        }
        if self.adaptive.is_some() {
            return Err(Invalid::new("adaptive", "a keyed limiter does not learn its rate").into());
        }
        self.build().map(KeyedLimiter::of)
    }
}

impl<K: Hash + Eq + Clone> fmt::Debug for KeyedLimiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedLimiter").field("rate", &self.rate()).field("len", &self.len()).finish()
    }
}
