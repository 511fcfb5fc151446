//! [`KeyedLimiter`]: one bucket a key, all of one rate.
//!
//! Blocking, for as long as a decision takes: the table is split into shards, each under a short latch. A key's whole state
//! is the word of its bucket (`core/bucket.rs`); the terms are shared by all.
//!
//! **Dropping the idle.** A bucket whose word lies at or below `V` is full: it decides like one that was never used, at
//! any reading from then on. A reading that was made *before* the entry was dropped (its thread stalled) would find a
//! bucket fuller than it was at that time; so a shard remembers the highest `V` at which it dropped anything, and who has
//! no entry starts from there.

use super::error::{Denied, LimitError};
use super::limiter::RateLimiter;
use super::rate::Rate;
use super::reservation::Grant;
use crate::core::bucket::View;
use crate::sync::{CachePadded, Mutex, MutexGuard, thread, with_parker};
use crate::time::{Clock, Deadline};
use std::collections::{HashMap, hash_map};
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};

/// Shards for each processor: few enough threads meet in one.
const SHARDS_PER_CPU: usize = 4;
/// A shard is not swept before it has this many keys: a sweep drops also those that will come again in a moment, and
/// costs each of them a new entry. All shards of a small machine together keep 4,096 idle keys at the most.
const SWEEP_FROM: usize = 256;

/// A rate for each key: each user, host or tenant has a bucket of its own. Cheap where keys are many: a key costs its own
/// size and two words, and an entry whose bucket is full again is dropped, for it is as if it had never been.
///
/// Each key obeys the law of [`RateLimiter`]. Keys are hashed by SipHash with random seeds.
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
pub struct KeyedLimiter<K> {
    /// Its terms, clock and arithmetic; nobody takes from its own bucket.
    terms: RateLimiter,
    /// The same terms, at hand: they never change.
    view: View,
    shards: Box<[CachePadded<Mutex<Shard<K>>>]>,
    hasher: RandomState,
}

struct Shard<K> {
    /// By the hash of the key, which is computed once for the shard and the table.
    entries: HashMap<u64, Entry<K>, BuildHasherDefault<AsItIs>>,
    /// Keys whose whole hash another key had when they came. With a `Hash` worth its name there are none, ever.
    twins: Vec<Entry<K>>,
    /// What a key without an entry starts from. See the head of the file.
    dropped_at: u64,
    sweep_at: usize,
}

/// What a refusal is told by: its reading of the clock, and the word that it met.
struct Refused {
    now: u64,
    word: u64,
}

struct Entry<K> {
    key: K,
    /// Of its bucket.
    word: u64,
}

impl<K: Hash + Eq + Clone> KeyedLimiter<K> {
    /// On the [fast](Clock::fast) clock.
    ///
    /// # Errors
    ///
    /// [`LimitError::Invalid`] as for [`RateLimiter::new`].
    pub fn new(rate: Rate) -> Result<Self, LimitError> {
        Self::with_clock(rate, Clock::default())
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
        // Its rate does not change: the bucket's resolution need not be spent on a higher one.
        let terms = RateLimiter::builder(rate).max_rate(rate).clock(clock).build()?;
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let shards = (cpus * SHARDS_PER_CPU).next_power_of_two().max(16);
        let shard =
            || Shard { entries: HashMap::default(), twins: Vec::new(), dropped_at: 0, sweep_at: SWEEP_FROM };
        let shards = (0..shards).map(|_| CachePadded::new(Mutex::new(shard()))).collect();
        let inner = terms.inner();
        let view = inner.bucket.view(&|| inner.clock.raw());
        Ok(KeyedLimiter { terms, view, shards, hasher: RandomState::new() })
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
        if n == 0 {
            return Ok(Grant::at_once(inner.clock.raw(), inner.scale, n));
        }
        match self.take(key, n) {
            Ok(stamp) => Ok(Grant::at_once(stamp, inner.scale, n)),
            Err(Refused { now, word }) => Err(inner.denied(self.view.at(now).refusal(word, n))),
        }
    }

    /// Takes `n` tokens of a key, sleeping until its turn: those who wait for one key are served in the order they came.
    ///
    /// # Errors
    ///
    /// [`LimitError::NeverFits`].
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

    /// As [`acquire`](Self::acquire), if its turn comes before the deadline.
    ///
    /// # Errors
    ///
    /// [`LimitError::WouldMissDeadline`] at once when it does not: nothing has changed then. [`LimitError::NeverFits`].
    pub fn acquire_by(
        &self,
        key: &K,
        n: u64,
        deadline: impl Into<Deadline>,
    ) -> Result<Grant<'_>, LimitError> {
        let inner = self.terms.inner();
        if n == 0 {
            return Ok(Grant::at_once(inner.clock.raw(), inner.scale, n));
        }
        let asked = inner.clock.now();
        let latest =
            deadline.into().on(&inner.clock).map_or(u64::MAX, |deadline| inner.clock.raw_at(deadline));
        let view = self.view.at(inner.clock.raw());
        let start = self
            .with_word(key, &view, |word| view.first(word, n, latest))
            .map_err(|refused| inner.refused(view.refusal(refused.word, n), n))?;
        if start <= inner.clock.raw() {
            return Ok(Grant::after(asked, inner.clock.at_raw(start).max(asked), n));
        }
        with_parker(|parker| {
            while inner.clock.raw() < start {
                inner.clock.park(parker, Some(inner.time_of(start)));
            }
        });
        Ok(Grant::after(asked, inner.time_of(start), n))
    }

    /// How many keys have an entry: those whose bucket is not full, and those that have not been swept since it was.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
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
        let inner = self.terms.inner();
        let position = self.view.at(inner.clock.raw()).position();
        self.shards.iter().map(|shard| shard.lock().sweep(position)).sum()
    }

    /// The rate of each key.
    pub fn rate(&self) -> Rate {
        self.terms.rate()
    }

    #[inline]
    fn take(&self, key: &K, n: u64) -> Result<u64, Refused> {
        let view = self.view.at(self.terms.inner().clock.raw());
        self.with_word(key, &view, |word| view.take(word, n))
    }

    /// Lets `decide` move the word of a key's bucket.
    #[inline(always)]
    fn with_word(
        &self,
        key: &K,
        view: &View,
        decide: impl FnOnce(u64) -> Option<(u64, u64)>,
    ) -> Result<u64, Refused> {
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shard(hash);
        let Shard { entries, twins, dropped_at, .. } = &mut *shard;
        let known = match entries.get_mut(&hash) {
            Some(entry) if entry.key == *key => Some(entry),
            _ if twins.is_empty() => None,
            _ => twins.iter_mut().find(|twin| twin.key == *key),
        };
        let word = known.as_ref().map_or(*dropped_at, |entry| entry.word);
        let Some((stamp, word)) = decide(word) else { return Err(Refused { now: view.now(), word }) };
        match known {
            Some(entry) => entry.word = word,
            None => shard.insert(hash, Entry { key: key.clone(), word }, view.position()),
        }
        Ok(stamp)
    }

    /// By the middle of the hash: a table goes by both its ends.
    #[inline(always)]
    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard<K>> {
        self.shards[(hash >> 32) as usize & (self.shards.len() - 1)].lock()
    }
}

impl<K> Shard<K> {
    fn len(&self) -> usize {
        self.entries.len() + self.twins.len()
    }

    /// Of a key that has no entry.
    #[cold]
    #[inline(never)]
    fn insert(&mut self, hash: u64, entry: Entry<K>, position: u64) {
        if self.len() >= self.sweep_at {
            self.sweep(position);
        }
        match self.entries.entry(hash) {
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(entry);
            }
            hash_map::Entry::Occupied(_) => self.twins.push(entry),
        }
    }

    fn sweep(&mut self, position: u64) -> usize {
        let before = self.len();
        self.entries.retain(|_, entry| entry.word > position);
        self.twins.retain(|twin| twin.word > position);
        let after = self.len();
        if after < before {
            self.dropped_at = self.dropped_at.max(position);
        }
        self.sweep_at = (2 * after).max(SWEEP_FROM);
        if self.entries.capacity() > 4 * self.sweep_at {
            self.entries.shrink_to(self.sweep_at);
        }
        before - after
    }
}

impl<K: Hash + Eq + Clone> fmt::Debug for KeyedLimiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedLimiter").field("rate", &self.rate()).field("len", &self.len()).finish()
    }
}

/// Hands a hash through.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
    fn write(&mut self, bytes: &[u8]) {
        // Never called: the table's keys are hashes, and write one u64.
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }
}
