//! [`LockManager`]: locks that are named when the program runs.
//!
//! A lock exists for as long as somebody holds it, waits for it, or has done so not long ago: its part of the table drops
//! those that are idle whenever it has doubled. The table is in parts, each under a short latch, and goes by the hash of a
//! name, which is taken once a call.
//!
//! *Who holds a lock keeps it in the table*, and needs no count for that: a lock is taken under the latch of its part, and the
//! sweep, which has that latch, drops none that is not [at rest](LockWord::is_at_rest). Who gives a lock back is done with it
//! in the step in which it comes to rest; where somebody waits, or may, it takes a count first, for as long as it still
//! holds the lock. Who waits has a count.
//!
//! Who holds them is a [`Session`]. How a session waits, and what becomes of those that wait for each other, is there and in
//! `waitgraph`.

use super::house;
use super::levelled::Levelled;
use super::session::Session;
use super::stats::{Book, LockStats, record};
use crate::core::lockline::{Hastened, RawLock};
#[cfg(doc)]
use crate::core::lockword::LockWord;
use crate::core::lockword::{MAX_OWNER, Miss, Mode};
use crate::core::waitlist::Waiter;
use crate::job::Priority;
use crate::meter::Samples;
use crate::seeds::Seeds;
use crate::sync::atomic::{AtomicU64, Ordering, fence};
use crate::sync::{Arc, CachePadded, Unparker};
use crate::time::Clock;
use crate::waitgraph::{Sleeper, Thing, WaitGraph};
use hashbrown::HashTable;
use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::ptr::NonNull;
use std::time::Duration;

/// A power of two: so many threads that their names fall into one part are rare.
const SHARDS: usize = 64;
/// A part that has fewer locks is not swept.
const FEW: usize = 64;
/// Of a longer name no more than this is printed.
const LONGEST_LABEL: usize = 80;

/// What a lock can be called: any plain value. It is printed by its `Debug`.
pub trait LockName: Hash + Eq + Clone + fmt::Debug + Send + Sync + 'static {}

impl<K: Hash + Eq + Clone + fmt::Debug + Send + Sync + 'static> LockName for K {}

/// What is done about deadlocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Deadlocks {
    /// One of each circle gets [`LockError::Deadlock`](super::LockError::Deadlock).
    #[default]
    Detect,
    /// Nothing: a wait has its deadline, or lasts for ever.
    Off,
}

/// Locks that are named when the program runs.
///
/// What takes them is a [`Session`]: a job, not a thread. Sessions that wait for each other are found at once, and one of
/// them, of the lowest priority and the youngest of these, is told who held what.
///
/// A clone is another handle to the same locks.
///
/// ```
/// use batchyard::lock::{LockError, LockManager, Mode};
/// let locks: LockManager<String> = LockManager::new();
/// let job = locks.session();
/// let held = job.lock("account 7", Mode::Exclusive)?;
/// let other = locks.session();
/// assert!(matches!(other.try_lock("account 7", Mode::Shared), Err(LockError::WouldBlock)));
/// drop(held);
/// assert!(other.try_lock("account 7", Mode::Shared).is_ok());
/// # Ok::<(), LockError>(())
/// ```
pub struct LockManager<K> {
    pub(super) inner: Arc<Inner<K>>,
}

/// How a [`LockManager`] is to be.
#[derive(Clone, Debug)]
#[must_use]
pub struct LockManagerBuilder {
    deadlocks: Deadlocks,
    clock: Clock,
    hold_times: bool,
}

pub(super) struct Inner<K> {
    seeds: Seeds,
    shards: Box<[CachePadded<Levelled<Shard<K>, house::LockNames>>]>,
    /// Which numbers sessions have had, and have no more.
    numbers: Levelled<Numbers, house::LockNumbers>,
    pub(super) clock: Clock,
    pub(super) deadlocks: Deadlocks,
    pub(super) book: Book,
    holds: Option<Levelled<Samples, house::LockHolds>>,
}

#[derive(Default)]
struct Numbers {
    made: u32,
    free: Vec<u32>,
}

/// The table is of pointers, so that it is small: what it points to is needed anyway. It comes first, next to the latch.
#[repr(C)]
struct Shard<K> {
    names: HashTable<Arc<Name<K>>>,
    sweep_at: usize,
    /// Of those that were dropped.
    gone: LockStats,
}

/// A lock and its name. What each take needs lies together.
#[repr(C, align(64))]
pub(super) struct Name<K> {
    hash: u64,
    pub(super) key: K,
    /// How often it was held exclusively: written by who holds it so.
    exclusive: AtomicU64,
    /// Begins with the word.
    pub(super) raw: RawLock,
    /// How often somebody was let past its line.
    repaired: AtomicU64,
}

/// A lock that is held by whoever has this: so it is in the table.
pub(super) struct Pinned<K>(NonNull<Name<K>>);

/// A lock that is held now, or which one it is.
type Entered<K> = Result<Pinned<K>, (Arc<Name<K>>, Miss)>;

// SAFETY: it is a shared reference to a `Name<K>`, of which an `Arc` may be made.
unsafe impl<K: Send + Sync> Send for Pinned<K> {}

impl<K> Clone for Pinned<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Pinned<K> {}

impl<K> Pinned<K> {
    /// # Safety
    ///
    /// This lock is in the table, and the caller holds it. The value is not used when it has given it back.
    pub(super) unsafe fn new(name: &Arc<Name<K>>) -> Self {
        // SAFETY: no `Arc` points to null.
        Pinned(unsafe { NonNull::new_unchecked(Arc::as_ptr(name).cast_mut()) })
    }

    pub(super) fn name(&self) -> &Name<K> {
        // SAFETY: it is held, so the table has its `Arc` (the promise of `new`).
        unsafe { self.0.as_ref() }
    }

    pub(super) fn address(&self) -> usize {
        self.0.addr().get()
    }

    pub(super) fn is(&self, name: &Arc<Name<K>>) -> bool {
        self.0.as_ptr().cast_const() == Arc::as_ptr(name)
    }

    /// With a count.
    pub(super) fn arc(&self) -> Arc<Name<K>> {
        let name = self.0.as_ptr().cast_const();
        // SAFETY: as above: the pointer is that of an `Arc` that lives now. The count is the new one's.
        unsafe {
            Arc::increment_strong_count(name);
            Arc::from_raw(name)
        }
    }

    /// Gives back what was held in this mode.
    #[inline]
    pub(super) fn leave(self, mode: Mode, now: impl FnOnce() -> u64) {
        if !self.name().raw.word().try_leave_quietly(mode) {
            // It is held still.
            let name = self.arc();
            name.raw.leave(mode, false, now, &mut super::body::unpark);
        }
    }
}

impl<K> Name<K> {
    /// It has come to be held exclusively.
    #[inline]
    pub(super) fn count(&self) {
        // Relaxed: only who holds the lock exclusively writes it.
        self.exclusive.store(self.exclusive.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

impl<K> Name<K> {
    fn new(hash: u64, key: K) -> Self {
        let zero = || AtomicU64::new(0);
        Name { raw: RawLock::new(), hash, key, exclusive: zero(), repaired: zero() }
    }

    /// Under the latch of its part of the table.
    #[inline]
    fn enter_as(self: &Arc<Self>, (mode, class): (Mode, usize), owner: u32) -> Entered<K> {
        match self.raw.word().try_enter(mode, class, owner) {
            // SAFETY: it is in the table, and held from now on.
            Ok(()) => Ok(unsafe { Pinned::new(self) }),
            Err(miss) => Err((Arc::clone(self), miss)),
        }
    }

    fn tell(&self, stats: &mut LockStats) {
        stats.add(self.exclusive.load(Ordering::Relaxed), &self.raw.tally());
        stats.repaired += self.repaired.load(Ordering::Relaxed);
    }
}

impl<K: LockName> Thing for Name<K> {
    fn number(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn label(&self) -> String {
        let mut label = Cut { text: String::new(), left: LONGEST_LABEL };
        let cut = fmt::write(&mut label, format_args!("{:?}", self.key)).is_err();
        label.text + if cut { "…" } else { "" }
    }

    fn queue(&self, now: u64) -> Vec<Unparker> {
        self.raw.queue(now)
    }

    fn hasten(&self, who: &Sleeper, now: u64, wake: &mut dyn FnMut(&Waiter)) -> Hastened {
        let hastened = self.raw.hasten(who.owner, now, &mut |waiter| wake(waiter));
        if hastened != Hastened::Nobody {
            self.repaired.fetch_add(1, Ordering::Relaxed);
        }
        hastened
    }

    fn tell(&self, waiter: &Waiter) {
        super::body::unpark(waiter);
    }
}

/// As much of a text as there is room for.
struct Cut {
    text: String,
    left: usize,
}

impl fmt::Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
            self.text.push(char);
        }
        Ok(())
    }
}

impl<K> Shard<K> {
    fn new() -> Self {
        Shard { names: HashTable::new(), sweep_at: FEW, gone: LockStats::default() }
    }

    #[inline]
    fn find<Q: Eq + ?Sized>(&self, hash: u64, key: &Q) -> Option<&Arc<Name<K>>>
    where
        K: Borrow<Q>,
    {
        self.names.find(hash, |name| name.hash == hash && name.key.borrow() == key)
    }

    /// Adds one that is not there. What is idle comes back.
    #[cold]
    fn add(&mut self, name: &Arc<Name<K>>) -> Vec<Arc<Name<K>>> {
        let idle = if self.names.len() >= self.sweep_at { self.sweep() } else { Vec::new() };
        self.names.insert_unique(name.hash, Arc::clone(name), |name| name.hash);
        idle
    }

    /// Takes out those that nobody holds or waits for: under the latch nobody else gets hold of one. To be dropped behind it, for
    /// their names are the user's.
    fn sweep(&mut self) -> Vec<Arc<Name<K>>> {
        let is_idle = |name: &mut Arc<Name<K>>| {
            if Arc::strong_count(name) > 1 {
                return false;
            }
            // ORDERING: Acquire pairs with the Release of who gave its count up: it held the lock then, and that is
            // seen below.
            fence(Ordering::Acquire);
            name.raw.word().is_at_rest()
        };
        let idle: Vec<_> = self.names.extract_if(is_idle).collect();
        for name in &idle {
            name.tell(&mut self.gone);
        }
        self.sweep_at = (self.names.len() * 2).max(FEW);
        self.names.shrink_to(self.sweep_at, |name| name.hash);
        idle
    }
}

impl<K: LockName> Inner<K> {
    /// Takes the lock of this name, if that needs no waiting; else tells which it is.
    pub(super) fn enter<Q>(&self, key: &Q, (mode, class): (Mode, usize), owner: u32) -> Entered<K>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let hash = self.seeds.hash(key);
        // Bits from the middle: the table in the shard goes by the lowest, and by the topmost.
        let shard = &self.shards[(hash >> 32) as usize % SHARDS];
        if let Some(name) = shard.lock().find(hash, key) {
            return name.enter_as((mode, class), owner);
        }
        // The user's, so it is made and dropped under no latch. Another may have been faster.
        let name = Arc::new(Name::new(hash, key.to_owned()));
        let mut there = shard.lock();
        if let Some(name) = there.find(hash, key) {
            return name.enter_as((mode, class), owner);
        }
        let idle = there.add(&name);
        let entered = name.enter_as((mode, class), owner);
        drop(there);
        drop(idle);
        entered
    }

    /// 0, which is nobody's, when there are sixteen million sessions.
    pub(super) fn new_number(&self) -> u32 {
        let mut numbers = self.numbers.lock();
        if let Some(free) = numbers.free.pop() {
            return free;
        }
        if numbers.made == MAX_OWNER {
            return 0;
        }
        numbers.made += 1;
        numbers.made
    }
}

impl<K> Inner<K> {
    pub(super) fn free_number(&self, number: u32) {
        if number != 0 {
            self.numbers.lock().free.push(number);
        }
    }

    /// Whether somebody has asked how long locks are held.
    pub(super) fn times_holds(&self) -> bool {
        self.holds.is_some()
    }

    pub(super) fn held_for(&self, time: Duration) {
        if let Some(samples) = &self.holds {
            record(samples, time);
        }
    }
}

impl<K> Clone for LockManager<K> {
    fn clone(&self) -> Self {
        LockManager { inner: Arc::clone(&self.inner) }
    }
}

impl<K> fmt::Debug for LockManager<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockManager").field("deadlocks", &self.inner.deadlocks).finish_non_exhaustive()
    }
}

impl<K: LockName> Default for LockManager<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for LockManagerBuilder {
    fn default() -> Self {
        LockManagerBuilder { deadlocks: Deadlocks::Detect, clock: Clock::os(), hold_times: false }
    }
}

impl LockManagerBuilder {
    /// What is done about deadlocks; [`Detect`](Deadlocks::Detect), unless said.
    pub fn deadlocks(mut self, then: Deadlocks) -> Self {
        self.deadlocks = then;
        self
    }

    /// By which clock deadlines, ages and times go; the operating system's, unless said.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Whether it is measured how long locks are held: two readings of the clock and a latch for each. Not, unless said.
    pub fn hold_times(mut self, measured: bool) -> Self {
        self.hold_times = measured;
        self
    }

    /// No locks yet.
    pub fn build<K: LockName>(self) -> LockManager<K> {
        let shards = std::iter::repeat_with(|| CachePadded::new(Levelled::new(Shard::new())));
        let inner = Inner {
            seeds: Seeds::random(),
            shards: shards.take(SHARDS).collect(),
            numbers: Levelled::default(),
            clock: self.clock,
            deadlocks: self.deadlocks,
            book: Book::default(),
            holds: self.hold_times.then(Levelled::default),
        };
        LockManager { inner: Arc::new(inner) }
    }
}

impl<K: LockName> LockManager<K> {
    /// No locks yet. Deadlocks are [detected](Deadlocks::Detect), and time is the operating system's.
    pub fn new() -> Self {
        LockManagerBuilder::default().build()
    }

    /// Somebody who holds locks, with normal priority.
    pub fn session(&self) -> Session<K> {
        self.session_as("", Priority::Normal)
    }

    /// Somebody who holds locks, by a name for reports. Of those who wait for each other the one of the lowest priority gives
    /// up, and of equals the youngest; who tries again with the same session does not become younger.
    pub fn session_as(&self, name: impl Into<Arc<str>>, priority: Priority) -> Session<K> {
        Session::new(&self.inner, name.into(), priority, WaitGraph::ticket())
    }

    /// How many locks there are now, idle ones that are not swept yet among them.
    pub fn len(&self) -> usize {
        self.inner.shards.iter().map(|shard| shard.lock().names.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What can be told of all its locks now, those that were dropped included.
    ///
    /// ```
    /// use batchyard::lock::{LockError, LockManager, LockManagerBuilder, Mode};
    /// let locks: LockManager<u64> = LockManagerBuilder::default().hold_times(true).build();
    /// drop(locks.session().lock(&7, Mode::Exclusive)?);
    /// let stats = locks.stats();
    /// assert_eq!((stats.exclusive, stats.waits), (1, 0));
    /// assert_eq!(stats.held.map(|held| held.count), Some(1));
    /// # Ok::<(), LockError>(())
    /// ```
    pub fn stats(&self) -> LockStats {
        let mut stats = LockStats::default();
        for shard in &self.inner.shards {
            let shard = shard.lock();
            for name in &shard.names {
                name.tell(&mut stats);
            }
            stats.add_gone(&shard.gone);
        }
        self.inner.book.tell(&mut stats);
        stats.held = self.inner.holds.as_ref().map(|held| held.lock().percentiles());
        stats
    }
}
