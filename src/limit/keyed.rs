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
use crate::core::bucket::Short;
use crate::sync::{CachePadded, Mutex, MutexGuard, thread, with_parker};
use crate::time::{Clock, Deadline};
use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};

/// Shards for each processor: few enough threads meet in one.
const SHARDS_PER_CPU: usize = 4;
/// A shard is not swept before it has this many keys.
const SWEEP_FROM: usize = 32;

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
    shards: Box<[CachePadded<Mutex<Shard<K>>>]>,
    hasher: RandomState,
}

struct Shard<K> {
    /// The words of the buckets.
    entries: HashMap<Hashed<K>, u64, BuildHasherDefault<AsItIs>>,
    /// What a key without an entry starts from. See the head of the file.
    dropped_at: u64,
    sweep_at: usize,
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
        let shard = || Shard { entries: HashMap::default(), dropped_at: 0, sweep_at: SWEEP_FROM };
        let shards = (0..shards).map(|_| CachePadded::new(Mutex::new(shard()))).collect();
        Ok(KeyedLimiter { terms, shards, hasher: RandomState::new() })
    }

    /// Takes `n` tokens of a key if they are there now. Never waits; zero tokens are always there.
    ///
    /// # Errors
    ///
    /// [`Denied`]; a refusal changes nothing.
    #[inline]
    pub fn try_acquire(&self, key: &K, n: u64) -> Result<Grant<'_>, Denied> {
        let inner = self.terms.inner();
        let view = inner.bucket.view(&|| inner.clock.raw());
        let taken = self.with_word(
            key,
            |word| match n {
                0 => Ok((inner.clock.raw(), word)),
                _ => view.take(word, n),
            },
            &view,
        );
        match taken {
            Ok(stamp) => Ok(Grant::at_once(stamp, inner.scale, n)),
            Err(short) => Err(inner.denied(short)),
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
        let asked = inner.clock.now();
        let latest =
            deadline.into().on(&inner.clock).map_or(u64::MAX, |deadline| inner.clock.raw_at(deadline));
        let view = inner.bucket.view(&|| inner.clock.raw());
        let start = self.with_word(
            key,
            |word| match n {
                0 => Ok((inner.clock.raw(), word)),
                _ => view.first(word, n, latest),
            },
            &view,
        );
        let start = start.map_err(|short| inner.refused(short, n))?;
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
        self.shards.iter().map(|shard| shard.lock().entries.len()).sum()
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
        let position = inner.bucket.view(&|| inner.clock.raw()).position();
        self.shards.iter().map(|shard| shard.lock().sweep(position)).sum()
    }

    /// The rate of each key.
    pub fn rate(&self) -> Rate {
        self.terms.rate()
    }

    /// Lets `decide` move the word of a key's bucket.
    #[inline(always)]
    fn with_word(
        &self,
        key: &K,
        decide: impl FnOnce(u64) -> Result<(u64, u64), Short>,
        view: &crate::core::bucket::View,
    ) -> Result<u64, Short> {
        let hash = self.hasher.hash_one(key);
        let mut shard = self.shard(hash);
        if let Some(word) = shard.entries.get_mut(&(hash, key) as &dyn Sought<K>) {
            let (stamp, end) = decide(*word)?;
            *word = end;
            return Ok(stamp);
        }
        let (stamp, end) = decide(shard.dropped_at)?;
        shard.insert(Hashed { hash, key: key.clone() }, end, view.position());
        Ok(stamp)
    }

    /// By the middle of the hash: a table goes by both its ends.
    #[inline(always)]
    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard<K>> {
        self.shards[(hash >> 32) as usize & (self.shards.len() - 1)].lock()
    }
}

impl<K: Eq> Shard<K> {
    #[cold]
    #[inline(never)]
    fn insert(&mut self, key: Hashed<K>, word: u64, position: u64) {
        if self.entries.len() >= self.sweep_at {
            self.sweep(position);
        }
        self.entries.insert(key, word);
    }

    fn sweep(&mut self, position: u64) -> usize {
        let before = self.entries.len();
        self.entries.retain(|_, word| *word > position);
        let after = self.entries.len();
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

/// A key with its hash, which is computed once for the shard and the table.
struct Hashed<K> {
    hash: u64,
    key: K,
}

/// What a table is searched by: a key that it has, or a borrowed one.
trait Sought<K> {
    fn hashed(&self) -> u64;
    fn key(&self) -> &K;
}

impl<K> Sought<K> for Hashed<K> {
    fn hashed(&self) -> u64 {
        self.hash
    }
    fn key(&self) -> &K {
        &self.key
    }
}

impl<K> Sought<K> for (u64, &K) {
    fn hashed(&self) -> u64 {
        self.0
    }
    fn key(&self) -> &K {
        self.1
    }
}

impl<'a, K: 'a> Borrow<dyn Sought<K> + 'a> for Hashed<K> {
    fn borrow(&self) -> &(dyn Sought<K> + 'a) {
        self
    }
}

impl<K> Hash for dyn Sought<K> + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hashed());
    }
}

impl<K: Eq> PartialEq for dyn Sought<K> + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.hashed() == other.hashed() && self.key() == other.key()
    }
}

impl<K: Eq> Eq for dyn Sought<K> + '_ {}

impl<K> Hash for Hashed<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl<K: Eq> PartialEq for Hashed<K> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<K: Eq> Eq for Hashed<K> {}

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
        // Never called: the keys of the table write one u64.
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }
}
