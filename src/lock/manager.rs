//! [`LockManager`]: locks that are named when the program runs.
//!
//! Which lock has which name is in `names`. Who holds them is a [`Session`]. How a session waits, and what becomes of those that
//! wait for each other, is there and in `waitgraph`.

use super::house;
use super::levelled::Levelled;
use super::names::Names;
use super::session::Session;
use super::stats::{Book, LockStats, record};
use crate::core::lockword::MAX_OWNER;
use crate::job::Priority;
use crate::meter::Samples;
use crate::sync::Arc;
use crate::time::Clock;
use crate::waitgraph::WaitGraph;
use std::fmt;
use std::hash::Hash;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

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
/// A name is dropped when nobody has used it for some time. What a lock takes beside it, about 256 bytes, is used again for other names,
/// and freed with the manager: for about twice as many locks as were ever in use at once, and some thousands.
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

const _: () = {
    const fn goes_from_thread_to_thread<T: Send + UnwindSafe>() {}
    const fn is_shared<T: Send + Sync + UnwindSafe + RefUnwindSafe>() {}
    goes_from_thread_to_thread::<Session<String>>();
    is_shared::<LockManager<String>>();
};

/// How a [`LockManager`] is to be.
#[derive(Clone, Debug)]
#[must_use]
pub struct LockManagerBuilder {
    deadlocks: Deadlocks,
    clock: Clock,
    hold_times: bool,
}

pub(super) struct Inner<K> {
    pub(super) names: Names<K>,
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

impl<K: LockName> Inner<K> {
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
        let inner = Inner {
            names: Names::new(self.clock.clone()),
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

    /// How many locks have a name now, idle ones that are not swept yet among them.
    pub fn len(&self) -> usize {
        self.inner.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What can be told of all its locks now, and of the names that they had before.
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
        self.inner.names.tell(&mut stats);
        self.inner.book.tell(&mut stats);
        stats.held = self.inner.holds.as_ref().map(|held| held.lock().percentiles());
        stats
    }
}
