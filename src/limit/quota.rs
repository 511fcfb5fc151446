//! A concurrency limit: at most so many at once.
//!
//! The fast path is one CAS to take and one `fetch_add` to give back, without a lock and without a clock reading;
//! who has to wait does so in [`core::waitlist`](crate::core::waitlist), in order of priority and arrival, and is
//! handed its permits. (The core is lock-free, waiting is blocking.)

use super::error::QuotaError;
use super::quota_builder::QuotaBuilder;
use super::quota_stats::QuotaStats;
use super::tally::Counted;
use crate::core::permits::{CLASSES, Floors, MAX_LIMIT, Miss, Permits};
use crate::core::waitlist::{Demand, Fairness, Unmet, WaitList, Waiter};
use crate::error::Invalid;
use crate::job::Priority;
use crate::sync::{Arc, Parker, with_parker};
use crate::time::{Clock, Deadline, Timestamp};
use std::fmt;

/// The one kind of a quota's wait list.
const KIND: u16 = 0;
/// The class of who does not say one.
const NORMAL: usize = Priority::Normal.class();

/// How many may hold a permit at the same time: a counting semaphore for threads.
///
/// Not governor's `Quota`, which says how many per second: that is our [`Rate`](crate::Rate). A clone is another
/// handle to the same permits.
///
/// - Waiters are served by [`Priority`], then first come, first served, and rise by one class for each 10 s they
///   wait. A request that fits may pass a bigger one that does not yet, at most 16 times or until the bigger one has
///   waited for 50 ms; then what is given back is kept for it.
/// - What is given back while somebody waits is handed over: nobody barges in between. (Who comes and finds too few free
///   looks a few times more, for some microseconds, before it waits; others that come meanwhile may be quicker. High and
///   critical requests wait at once.)
/// - The [limit](Quota::set_limit) may change at any time. Below what is in use it leaves a debt, which the next
///   permits given back pay; it never waits.
/// - Some of it may be [reserved](QuotaBuilder::reserve_for) for high priorities.
/// - A request above the limit is refused at once, and so is a waiting one when the limit falls below it.
///
/// ```
/// use batchyard::limit::{Quota, QuotaError};
/// let connections = Quota::new(10)?;
/// let four = connections.acquire(4)?;
/// assert_eq!((connections.available(), connections.in_use()), (6, 4));
/// assert_eq!(connections.try_acquire(7).unwrap_err(), QuotaError::Full);
/// assert_eq!(connections.acquire(11).unwrap_err(), QuotaError::NeverFits { asked: 11, limit: 10 });
/// drop(four);
/// assert!(connections.try_acquire(7).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Quota {
    inner: Arc<Inner>,
}

struct Inner {
    list: WaitList,
    clock: Clock,
    /// What is counted, if it is.
    counted: Option<Box<Counted>>,
}

impl Quota {
    /// A quota of `limit` permits, 1 to 2^38. Deadlines are on the [OS clock](Clock::os), which is not read unless a
    /// call has to wait, or it is counted.
    ///
    /// ```
    /// assert_eq!(batchyard::limit::Quota::new(3)?.available(), 3);
    /// assert_eq!(batchyard::limit::Quota::new(0).unwrap_err().field, "limit");
    /// # Ok::<(), batchyard::Invalid>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The limit is zero or above 2^38.
    pub fn new(limit: u64) -> Result<Quota, Invalid> {
        Self::with_clock(limit, Clock::os())
    }

    /// As [`new`](Self::new), with another clock for deadlines and ageing.
    ///
    /// ```
    /// use batchyard::{ManualClock, limit::Quota};
    /// let time = ManualClock::new();
    /// let quota = Quota::with_clock(1, time.clock())?;
    /// # assert_eq!(quota.limit(), 1);
    /// # Ok::<(), batchyard::Invalid>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The limit is zero or above 2^38.
    pub fn with_clock(limit: u64, clock: Clock) -> Result<Quota, Invalid> {
        Ok(Self::from_parts(checked(limit)?, [0; CLASSES], clock, false))
    }

    /// Settings beyond the limit: reserves for high priorities, another clock, counts.
    ///
    /// ```
    /// use batchyard::{Priority, limit::Quota};
    /// let quota = Quota::builder(10).reserve_for(Priority::Critical, 1).counted().build()?;
    /// assert_eq!(quota.stats().reserved, 1);
    /// let all = Quota::builder(2).reserve_for(Priority::High, 2).build();
    /// assert_eq!(all.unwrap_err().field, "reserve");
    /// # Ok::<(), batchyard::Invalid>(())
    /// ```
    pub fn builder(limit: u64) -> QuotaBuilder {
        QuotaBuilder::new(limit)
    }

    pub(super) fn from_parts(limit: u64, floors: Floors, clock: Clock, counted: bool) -> Quota {
        let list = WaitList::with_reserves([(limit, floors)], Fairness::default());
        let counted = counted.then(|| Box::new(Counted::new(limit, clock.now())));
        Quota { inner: Arc::new(Inner { list, clock, counted }) }
    }

    /// Takes `n` permits if they are free, without waiting.
    ///
    /// ```
    /// let quota = batchyard::limit::Quota::new(2)?;
    /// let one = quota.try_acquire(1)?;
    /// assert_eq!(one.n(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Full`](QuotaError::Full), [`NeverFits`](QuotaError::NeverFits) or [`Closed`](QuotaError::Closed). Nothing
    /// was taken.
    #[inline]
    pub fn try_acquire(&self, n: u64) -> Result<Permit<'_>, QuotaError> {
        self.try_acquire_as(n, Priority::Normal)
    }

    /// Takes `n` permits in a priority class if they are free, without waiting.
    ///
    /// ```
    /// use batchyard::{Priority, limit::Quota};
    /// let quota = Quota::builder(2).reserve_for(Priority::High, 1).build()?;
    /// assert!(quota.try_acquire_as(2, Priority::Low).is_err());
    /// assert!(quota.try_acquire_as(2, Priority::High).is_ok());
    /// # Ok::<(), batchyard::Invalid>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Self::try_acquire).
    #[inline]
    pub fn try_acquire_as(&self, n: u64, priority: Priority) -> Result<Permit<'_>, QuotaError> {
        let word = self.inner.try_take(n, priority.class())?;
        Ok(Permit { inner: &self.inner, word, n })
    }

    /// Takes `n` permits, waiting for them as long as it takes.
    ///
    /// ```
    /// let quota = batchyard::limit::Quota::new(2)?;
    /// std::thread::scope(|s| {
    ///     for _ in 0..4 {
    ///         s.spawn(|| {
    ///             let _permit = quota.acquire(1).expect("neither closed nor too much");
    ///             assert!(quota.in_use() <= 2);
    ///         });
    ///     }
    /// });
    /// # Ok::<(), batchyard::Invalid>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`NeverFits`](QuotaError::NeverFits) or [`Closed`](QuotaError::Closed).
    #[inline]
    pub fn acquire(&self, n: u64) -> Result<Permit<'_>, QuotaError> {
        self.acquire_with(n, Priority::Normal, Deadline::NEVER)
    }

    /// Takes `n` permits, waiting for them until the deadline.
    ///
    /// ```
    /// use batchyard::{limit::{Quota, QuotaError}, millis};
    /// let quota = Quota::new(1)?;
    /// let held = quota.acquire_by(1, millis(10))?;
    /// assert!(matches!(quota.acquire_by(1, millis(1)), Err(QuotaError::TimedOut { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`TimedOut`](QuotaError::TimedOut), [`NeverFits`](QuotaError::NeverFits) or [`Closed`](QuotaError::Closed);
    /// [`Full`](QuotaError::Full) if 262,143 wait already.
    #[inline]
    pub fn acquire_by(&self, n: u64, deadline: impl Into<Deadline>) -> Result<Permit<'_>, QuotaError> {
        self.acquire_with(n, Priority::Normal, deadline)
    }

    /// Takes `n` permits in a priority class, waiting for them until the deadline.
    ///
    /// ```
    /// use batchyard::{Deadline, Priority, limit::Quota};
    /// let quota = Quota::new(1)?;
    /// let permit = quota.acquire_with(1, Priority::Critical, Deadline::NEVER)?;
    /// # drop(permit);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`acquire_by`](Self::acquire_by).
    #[inline]
    pub fn acquire_with(
        &self,
        n: u64,
        priority: Priority,
        deadline: impl Into<Deadline>,
    ) -> Result<Permit<'_>, QuotaError> {
        let word = self.inner.take(n, priority, deadline)?;
        Ok(Permit { inner: &self.inner, word, n })
    }

    /// As [`try_acquire`](Self::try_acquire); the permit keeps a handle of its own and can go anywhere.
    ///
    /// ```
    /// let quota = batchyard::limit::Quota::new(1)?;
    /// let permit = quota.try_acquire_owned(1)?;
    /// std::thread::spawn(move || drop(permit)).join().expect("no panic");
    /// assert_eq!(quota.available(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Self::try_acquire).
    pub fn try_acquire_owned(&self, n: u64) -> Result<OwnedPermit, QuotaError> {
        self.inner.try_take(n, NORMAL)?;
        Ok(OwnedPermit { quota: self.clone(), n })
    }

    /// As [`acquire`](Self::acquire); the permit keeps a handle of its own and can go anywhere.
    ///
    /// ```
    /// let quota = batchyard::limit::Quota::new(1)?;
    /// assert_eq!(quota.acquire_owned(1)?.n(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_owned(&self, n: u64) -> Result<OwnedPermit, QuotaError> {
        self.acquire_owned_with(n, Priority::Normal, Deadline::NEVER)
    }

    /// As [`acquire_with`](Self::acquire_with); the permit keeps a handle of its own and can go anywhere.
    ///
    /// ```
    /// use batchyard::{Priority, limit::Quota, secs};
    /// let quota = Quota::new(1)?;
    /// assert_eq!(quota.acquire_owned_with(1, Priority::High, secs(1))?.n(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`acquire_with`](Self::acquire_with).
    pub fn acquire_owned_with(
        &self,
        n: u64,
        priority: Priority,
        deadline: impl Into<Deadline>,
    ) -> Result<OwnedPermit, QuotaError> {
        self.inner.take(n, priority, deadline)?;
        Ok(OwnedPermit { quota: self.clone(), n })
    }

    /// Changes the limit, 1 to 2^38. Raised, it serves waiters at once. Lowered below what is in use, it leaves a
    /// debt: nobody is interrupted, and permits that come back pay it first. Waiting requests that are now above
    /// the limit get [`NeverFits`](QuotaError::NeverFits). Never waits.
    ///
    /// ```
    /// let quota = batchyard::limit::Quota::new(5)?;
    /// let held = quota.acquire(4)?;
    /// quota.set_limit(2)?;
    /// assert_eq!((quota.available(), quota.in_use()), (-2, 4));
    /// drop(held);
    /// assert_eq!(quota.available(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The limit is zero or above 2^38; nothing changes.
    pub fn set_limit(&self, limit: u64) -> Result<(), Invalid> {
        let limit = checked(limit)?;
        let now = self.inner.clock.now();
        self.inner.list.set_limit(KIND, limit, now.as_nanos(), &mut tell);
        if let Some(counted) = &self.inner.counted {
            counted.usable.set(|| self.limit(), now);
        }
        Ok(())
    }

    /// The limit in force.
    pub fn limit(&self) -> u64 {
        self.inner.list.limit(KIND)
    }

    /// The most that one request of this class can have.
    #[cfg(feature = "r2d2")]
    pub(crate) fn most(&self, priority: Priority) -> u64 {
        self.limit().saturating_sub(self.inner.word().floor(priority.class()))
    }

    /// Permits that are free. Negative when the limit was lowered below what is in use.
    pub fn available(&self) -> i64 {
        self.inner.list.available(KIND)
    }

    /// Permits that are taken, those granted to waiters that have not woken yet included.
    pub fn in_use(&self) -> u64 {
        self.inner.list.in_use(KIND)
    }

    /// How many calls wait.
    pub fn waiting(&self) -> usize {
        self.inner.list.waiters(KIND) as usize
    }

    /// Refuses all requests from now on, those that wait included. What is taken can still be given back.
    ///
    /// ```
    /// use batchyard::limit::{Quota, QuotaError};
    /// let quota = Quota::new(1)?;
    /// quota.close();
    /// assert_eq!(quota.acquire(1).unwrap_err(), QuotaError::Closed);
    /// # Ok::<(), batchyard::Invalid>(())
    /// ```
    pub fn close(&self) {
        self.inner.list.close(None, &mut tell);
    }

    /// Whether it was [closed](Self::close).
    pub fn is_closed(&self) -> bool {
        self.inner.list.is_closed(KIND)
    }

    /// What there is to know of it now. Looks through the queue: O(waiters), under its latch.
    pub fn stats(&self) -> QuotaStats {
        let Inner { list, counted, .. } = &*self.inner;
        let load = list.load(KIND);
        QuotaStats {
            limit: load.limit,
            reserved: self.inner.word().floor(0),
            in_use: load.in_use,
            available: load.available,
            waiting: load.waiters as usize,
            oldest_waiter: load.oldest.map(|since| self.inner.clock.now() - Timestamp::from_nanos(since)),
            counts: counted.as_deref().map(|counted| counted.look(|| self.inner.clock.now())),
        }
    }
}

pub(super) fn checked(limit: u64) -> Result<u64, Invalid> {
    match limit {
        0 => Err(Invalid::new("limit", "must be at least 1; a quota of none would never give a permit")),
        1..=MAX_LIMIT => Ok(limit),
        _ => Err(Invalid::new("limit", format!("{limit} is above the greatest quota, {MAX_LIMIT}"))),
    }
}

fn tell(waiter: &Waiter) {
    match waiter {
        Waiter::Thread(thread) => thread.unpark(),
        Waiter::Lane(_) => {} // lanes are the engine's; none queues here
    }
}

impl Inner {
    /// The word of the only kind. A permit keeps it, so that giving back need not look for it again.
    #[inline]
    fn word(&self) -> &Permits {
        self.list.word(KIND).expect("a quota's list is made with one kind")
    }

    #[inline]
    fn try_take(&self, n: u64, class: usize) -> Result<&Permits, QuotaError> {
        let word = self.word();
        match word.try_take_as(n, class) {
            Ok(_) => self.count(n),
            Err(miss) => self.missed(n, class, miss)?,
        }
        Ok(word)
    }

    /// After a take.
    #[inline]
    fn count(&self, n: u64) {
        if let Some(counted) = &self.counted {
            counted.took(n, self.clock.now());
        }
    }

    #[cold]
    fn missed(&self, n: u64, class: usize, miss: Miss) -> Result<(), QuotaError> {
        let outcome = match miss {
            Miss::Closed => Err(QuotaError::Closed),
            Miss::Short | Miss::Gated => {
                self.list.try_take_as(&Demand::of(KIND, n), class, &mut tell).map_err(QuotaError::from)
            }
        };
        if let Some(Counted { tally, .. }) = self.counted.as_deref() {
            match outcome {
                Ok(()) => self.count(n),
                Err(QuotaError::Full) => tally.denied.add(1),
                Err(_) => tally.refused.add(1),
            }
        }
        outcome
    }

    #[inline]
    fn take(
        &self,
        n: u64,
        priority: Priority,
        deadline: impl Into<Deadline>,
    ) -> Result<&Permits, QuotaError> {
        let word = self.word();
        match word.try_take_as(n, priority.class()) {
            Ok(_) => self.count(n),
            Err(_) => self.wait(n, priority, deadline.into())?,
        }
        Ok(word)
    }

    #[cold]
    fn wait(&self, n: u64, priority: Priority, deadline: Deadline) -> Result<(), QuotaError> {
        if n == 0 && self.list.is_closed(KIND) {
            return Err(QuotaError::Closed); // to a list, a demand for nothing is one for no kind
        }
        let start = self.clock.now();
        let until = deadline.on(&self.clock);
        let outcome = with_parker(|parker| {
            self.list.acquire(
                &Demand::of(KIND, n),
                priority.class(),
                start.as_nanos(),
                parker,
                (
                    || until.is_some_and(|until| self.clock.now() >= until),
                    |parker: &Parker| self.clock.park(parker, until),
                ),
                &mut tell,
            )
        });
        let outcome = match outcome {
            Ok(()) => Ok(()),
            Err(Unmet::TimedOut) => Err(QuotaError::TimedOut { waited: self.clock.now() - start }),
            Err(Unmet::Refused(refused)) => Err(refused.into()),
        };
        if let Some(Counted { tally, .. }) = self.counted.as_deref() {
            match outcome {
                Ok(()) => {
                    self.count(n);
                    tally.waited(self.clock.now() - start);
                }
                Err(QuotaError::TimedOut { .. }) => tally.timed_out.add(1),
                Err(_) => tally.refused.add(1),
            }
        }
        outcome
    }

    #[inline]
    fn give(&self, word: &Permits, n: u64) {
        if let Some(counted) = &self.counted {
            counted.gives(n, self.clock.now());
        }
        if word.put(n) {
            self.hand_over();
        }
    }

    #[cold]
    fn hand_over(&self) {
        self.list.drain(self.now(), &mut tell);
    }

    fn now(&self) -> u64 {
        self.clock.now().as_nanos()
    }
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quota")
            .field("limit", &self.limit())
            .field("available", &self.available())
            .field("waiting", &self.waiting())
            .finish()
    }
}

/// Permits held; dropping gives them back. From [`Quota::acquire`] and its kin.
///
/// ```
/// let quota = batchyard::limit::Quota::new(2)?;
/// {
///     let permit = quota.acquire(2)?;
///     assert_eq!((permit.n(), quota.available()), (2, 0));
/// }
/// assert_eq!(quota.available(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping a permit gives it back"]
pub struct Permit<'a> {
    inner: &'a Inner,
    word: &'a Permits,
    n: u64,
}

impl Permit<'_> {
    /// How many permits this is.
    pub fn n(&self) -> u64 {
        self.n
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        self.inner.give(self.word, self.n);
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("n", &self.n).finish_non_exhaustive()
    }
}

/// Permits held, with a handle of its own to the quota; dropping gives them back. From
/// [`Quota::acquire_owned`] and its kin.
///
/// ```
/// let permit = batchyard::limit::Quota::new(2)?.acquire_owned(2)?;
/// assert_eq!(permit.n(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping a permit gives it back"]
pub struct OwnedPermit {
    quota: Quota,
    n: u64,
}

impl OwnedPermit {
    /// How many permits this is.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// The quota it belongs to.
    pub fn quota(&self) -> &Quota {
        &self.quota
    }
}

impl Drop for OwnedPermit {
    fn drop(&mut self) {
        self.quota.inner.give(self.quota.inner.word(), self.n);
    }
}
