//! The manager: all kinds in one wait list, who holds them, and what becomes of those who hold too long.

use super::builder::{ResourceManagerBuilder, checked};
use super::demand::Demand;
use super::error::{AcquireError, SetLimitError};
use super::guarded::guarded;
use super::holders::{Entry, Holders, Lapsed, OwnerId};
use super::kind::ResourceKind;
use super::lapse::{OnExpiry, begin, tick};
use super::ledger::Book;
use super::owner::Reclaim;
use super::permit::Permit;
use super::places::Rated;
use super::stats::{Holder, KindStats};
use super::wait::Wait;
use crate::core::permits::Floors;
use crate::core::waitlist::{self, Fairness, WaitList, Waiter};
use crate::limit::RateLimiter;
use crate::lock::{Levelled, house};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Arc, OnceLock, Unparker};
use crate::time::{Clock, Deadline, Timestamp};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Who is told of a lapse.
pub(super) type Lapse = Arc<dyn Fn(&Holder, bool) + Send + Sync>;

/// Resources of several kinds, and rates, given out by [`Demand`]: all of one or nothing, to threads that wait for
/// them by priority and arrival. Cheap to clone; clones share everything.
///
/// - Nobody waits while holding part of a demand, so demands cannot deadlock on each other. Who holds a permit and
///   would wait for another is refused ([`WouldHoldAndWait`](AcquireError::WouldHoldAndWait)).
/// - A demand that does not fit yet is passed by others that do, a bounded number of times; then what it needs is kept
///   for it, and others go on with what is left.
/// - What can never be had is refused at once, and when a limit falls below a demand that waits.
/// - Rates come last: tokens are spent when all permits are there. While a rate is waited for, no permits are held.
/// - A demand that need not wait, and a permit's drop, take no lock of the manager's, whoever reads its reports meanwhile;
///   with these exceptions: a lease that ends before all others' tells who sleeps until one is over, an
///   [`Owner`](crate::resource::Owner) at a second manager notes it, and rates have latches of their own where a demand
///   names several.
/// - A permit gives back what it holds when it is dropped. With a [lease](ResourceManagerBuilder::lease) it also ends by
///   itself, without a thread of ours: whoever would wait looks for what is over, and so does [`sweep`](Self::sweep).
///
/// ```
/// use batchyard::{ResourceKind, ResourceManager, resource::{AcquireError, Demand}};
/// let manager =
///     ResourceManager::builder().quota(ResourceKind::DatabaseConnection, 2).quota("gpu", 1).build()?;
/// let both = Demand::new().need(ResourceKind::DatabaseConnection, 1).need("gpu", 1);
/// let permit = manager.acquire(&both)?;
/// assert_eq!(manager.available("gpu"), Some(0));
/// assert!(matches!(manager.try_acquire(&both), Err(AcquireError::Full { kind }) if kind == "gpu".into()));
/// drop(permit);
/// assert!(manager.try_acquire(&both).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[doc(alias = "semaphore")]
pub struct ResourceManager {
    pub(super) inner: Arc<Inner>,
}

/// On lines of its own: each permit counts itself beside it, and others read it meanwhile.
#[repr(align(128))]
pub(super) struct Inner {
    pub(super) list: WaitList,
    pub(super) clock: Clock,
    /// The named kinds; their numbers in the list begin after the hidden ones'.
    kinds: Vec<ResourceKind>,
    hidden: usize,
    index: BTreeMap<ResourceKind, u16>,
    pub(super) rates: BTreeMap<ResourceKind, Rated>,
    /// As a whole. Kinds that are closed stand in the list.
    pub(super) closed: AtomicBool,
    /// Whoever takes tokens of several rates at once.
    pub(super) paying: Levelled<(), house::Paying>,
    books: Vec<Book>,
    pub(super) holders: Holders,
    /// Who sleeps until a lease is over, to be told of one that is over earlier.
    pub(super) asleep: Levelled<Vec<Unparker>, house::Asleep>,
    pub(super) waiting: AtomicUsize,
    pub(super) max_waiters: usize,
    lease: (Option<Duration>, OnExpiry),
    on_lapse: Option<Lapse>,
    pub(super) lanes: OnceLock<Box<dyn Fn(u32) + Send + Sync>>,
    /// Whether the calling thread may not queue.
    pub(super) forbidden: OnceLock<Box<dyn Fn() -> bool + Send + Sync>>,
}

impl Inner {
    #[allow(clippy::too_many_arguments)] // one caller, the builder, which has a name for each
    pub(super) fn new(
        clock: Clock,
        limits: Vec<(u64, Floors)>,
        kinds: Vec<ResourceKind>,
        index: BTreeMap<ResourceKind, u16>,
        rates: BTreeMap<ResourceKind, RateLimiter>,
        fairness: Fairness,
        max_waiters: usize,
        lease: (Option<Duration>, OnExpiry),
        on_lapse: Option<Lapse>,
    ) -> Self {
        let hidden = limits.len() - kinds.len();
        let now = clock.now();
        Inner {
            books: limits[hidden..].iter().map(|(limit, _)| Book::new(*limit, now)).collect(),
            list: WaitList::with_reserves(limits, fairness),
            clock,
            kinds,
            hidden,
            index,
            rates: rates.into_iter().map(|(name, limiter)| (name, Rated::new(limiter))).collect(),
            closed: AtomicBool::new(false),
            paying: Levelled::default(),
            holders: Holders::new(),
            asleep: Levelled::default(),
            waiting: AtomicUsize::new(0),
            max_waiters,
            lease,
            on_lapse,
            lanes: OnceLock::new(),
            forbidden: OnceLock::new(),
        }
    }

    pub(super) fn number(&self, kind: &ResourceKind) -> Option<u16> {
        self.index.get(kind).copied()
    }

    /// The kind of this number. Hidden ones have no name, and are in no demand that gets here.
    pub(super) fn kind(&self, number: u16) -> ResourceKind {
        let named = usize::from(number).checked_sub(self.hidden).and_then(|at| self.kinds.get(at));
        named.cloned().unwrap_or_else(|| ResourceKind::Custom("hidden".into()))
    }

    /// The books of a demand's kinds, with the amounts.
    pub(super) fn books<'a>(
        &'a self,
        d: &'a waitlist::Demand,
    ) -> impl Iterator<Item = (u16, u64, &'a Book)> + 'a {
        d.parts().filter_map(|(kind, n)| Some((kind, n, self.book(kind)?)))
    }

    fn book(&self, kind: u16) -> Option<&Book> {
        usize::from(kind).checked_sub(self.hidden).and_then(|at| self.books.get(at))
    }

    pub(super) fn tell(&self, waiter: &Waiter) {
        match waiter {
            Waiter::Thread(thread) => thread.unpark(),
            Waiter::Lane(lane) => {
                if let Some(tell) = self.lanes.get() {
                    tell(*lane);
                }
            }
        }
    }

    /// A permit was dropped after it had been taken back.
    pub(super) fn late(&self, d: &waitlist::Demand) {
        self.books(d).for_each(|(_, _, book)| book.late_returns.add(1));
    }

    /// Gives back what was taken and is not in the books yet.
    pub(super) fn put(&self, d: &waitlist::Demand) {
        if self.list.give(d) {
            self.list.drain(self.clock.now().as_nanos(), &mut |w| self.tell(w));
        }
    }

    /// Gives back what a permit held.
    pub(super) fn give_back(&self, d: &waitlist::Demand) {
        let now = self.clock.now();
        self.books(d).for_each(|(_, n, book)| book.gave(n, now));
        if self.list.give(d) {
            self.list.drain(now.as_nanos(), &mut |w| self.tell(w));
        }
    }

    /// Writes a grant into the books.
    pub(super) fn took(&self, d: &waitlist::Demand, waited: Option<Duration>, now: Timestamp) {
        for (_, n, book) in self.books(d) {
            book.took(n, waited, now);
        }
    }

    /// When a permit asked for so is over, and what becomes of it then.
    pub(super) fn terms(&self, wait: &Wait, now: Timestamp) -> (Option<Timestamp>, OnExpiry) {
        let then = wait.on_expiry.as_ref().unwrap_or(&self.lease.1);
        (wait.lease.or(self.lease.0).map(|time| now + time), then.clone())
    }

    /// Wakes who sleeps until a lease is over: another is over before.
    pub(super) fn wake_asleep(&self) {
        self.asleep.lock().iter().for_each(Unparker::unpark);
    }

    /// Ends what is over. How many.
    pub(super) fn sweep(&self, now: Timestamp) -> usize {
        if tick(now) < self.holders.soonest() {
            return 0;
        }
        self.settle(self.holders.lapse(now), now)
    }

    pub(super) fn settle(&self, lapsed: Vec<Lapsed>, now: Timestamp) -> usize {
        let count = lapsed.len();
        for Lapsed { entry, taken } in &lapsed {
            self.books(&entry.demand).for_each(|(_, _, book)| book.expired.add(1));
            // Before anything of the user's runs, which may be slow: what waits for nobody's word.
            if *taken && !matches!(entry.on_expiry, OnExpiry::Revoke(_)) {
                self.give_back(&entry.demand);
            }
        }
        // What they do is theirs: the sweep has to come to its end, and the permits back.
        for Lapsed { entry, taken } in &lapsed {
            if let (OnExpiry::Revoke(revoke), true) = (&entry.on_expiry, taken) {
                let _ = guarded(|| revoke(&self.holder(entry, false, now)));
                self.give_back(&entry.demand);
            }
        }
        for Lapsed { entry, taken } in lapsed {
            if let Some(tell) = &self.on_lapse {
                let _ = guarded(|| tell(&self.holder(&entry, !taken, now), taken));
            }
            // It may have the last of a function of the user's.
            let _ = guarded(|| drop(entry));
        }
        count
    }

    fn holder(&self, entry: &Entry, overdue: bool, now: Timestamp) -> Holder {
        let named = entry.demand.parts().filter(|(kind, _)| usize::from(*kind) >= self.hidden);
        let demand = named.fold(Demand::new(), |d, (kind, n)| d.need(self.kind(kind), n));
        Holder {
            owner: entry.owner.to_string(),
            demand,
            place: entry.place,
            priority: entry.priority,
            held_for: now - entry.since,
            overdue,
        }
    }
}

impl Reclaim for Inner {
    fn reclaim(&self, owner: OwnerId) {
        self.settle(self.holders.end_of_owner(owner), self.clock.now());
    }
}

impl ResourceManager {
    /// Quotas, rates and settings.
    pub fn builder() -> ResourceManagerBuilder {
        ResourceManagerBuilder::new()
    }

    pub(super) fn from_inner(inner: Inner) -> Self {
        ResourceManager { inner: Arc::new(inner) }
    }

    /// Takes all of a demand if it is there, without waiting.
    ///
    /// # Errors
    ///
    /// [`Full`](AcquireError::Full), [`Paced`](AcquireError::Paced), [`NeverFits`](AcquireError::NeverFits),
    /// [`Closed`](AcquireError::Closed), or an unknown kind or rate. Nothing was taken.
    #[track_caller]
    pub fn try_acquire(&self, demand: &Demand) -> Result<Permit, AcquireError> {
        self.try_acquire_with(demand, &Wait::new())
    }

    /// As [`try_acquire`](Self::try_acquire), in a class, for an owner, with a lease. The deadline is not looked at.
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Self::try_acquire); [`Invalid`](AcquireError::Invalid) for a lease of zero.
    #[track_caller]
    pub fn try_acquire_with(&self, demand: &Demand, wait: &Wait) -> Result<Permit, AcquireError> {
        Inner::try_acquire(&self.inner, demand, wait, std::panic::Location::caller())
    }

    /// Takes all of a demand, waiting for it as long as it takes.
    ///
    /// # Errors
    ///
    /// [`NeverFits`](AcquireError::NeverFits), [`Closed`](AcquireError::Closed), an unknown kind or rate,
    /// [`QueueFull`](AcquireError::QueueFull), [`WouldHoldAndWait`](AcquireError::WouldHoldAndWait).
    #[track_caller]
    pub fn acquire(&self, demand: &Demand) -> Result<Permit, AcquireError> {
        self.acquire_with(demand, &Wait::new())
    }

    /// Takes all of a demand, waiting for it until the deadline.
    ///
    /// ```
    /// use batchyard::{ResourceManager, resource::AcquireError, millis};
    /// let manager = ResourceManager::builder().quota("gpu", 1).build()?;
    /// let held = manager.acquire(&"gpu".into())?;
    /// let late = std::thread::scope(|s| s.spawn(|| manager.acquire_by(&"gpu".into(), millis(2))).join());
    /// assert!(matches!(late.expect("no panic"), Err(AcquireError::TimedOut { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire); [`TimedOut`](AcquireError::TimedOut); [`Paced`](AcquireError::Paced) at once when a
    /// rate's tokens will not be there in time.
    #[track_caller]
    pub fn acquire_by(&self, demand: &Demand, deadline: impl Into<Deadline>) -> Result<Permit, AcquireError> {
        self.acquire_with(demand, &Wait::new().by(deadline))
    }

    /// Takes all of a demand, as `wait` says.
    ///
    /// # Errors
    ///
    /// As [`acquire_by`](Self::acquire_by); [`Cancelled`](AcquireError::Cancelled); [`Invalid`](AcquireError::Invalid) for
    /// a lease of zero.
    #[track_caller]
    pub fn acquire_with(&self, demand: &Demand, wait: &Wait) -> Result<Permit, AcquireError> {
        Inner::acquire(&self.inner, demand, wait, None, std::panic::Location::caller())
    }

    /// Changes a kind's limit, 1 to 2^38. Raised, it serves who waits at once. Lowered below what is in use, it leaves a
    /// debt that is paid by what comes back; demands that wait and are above it now are refused. Never waits.
    ///
    /// # Errors
    ///
    /// An unknown kind, or a limit that cannot be; nothing changes.
    pub fn set_limit(&self, kind: impl Into<ResourceKind>, limit: u64) -> Result<(), SetLimitError> {
        let (kind, inner) = (kind.into(), &*self.inner);
        let Some(number) = inner.number(&kind) else { return Err(SetLimitError::UnknownKind { kind }) };
        checked(&kind, limit)?;
        let now = inner.clock.now();
        inner.list.set_limit(number, limit, now.as_nanos(), &mut |w| inner.tell(w));
        // Whoever knows of losses looks whether what is left still suffices.
        inner.wake_asleep();
        if let Some(book) = inner.book(number) {
            // What is in force, not `limit`: of two who change it at once, the one whose change the list has last may be
            // the first here. Whoever is last here has seen both.
            book.set_limit(|| inner.list.limit(number), now);
        }
        Ok(())
    }

    /// Refuses all demands from now on, those that wait included. What is held can still be given back.
    pub fn close(&self) {
        self.inner.closed.store(true, Ordering::Relaxed);
        self.inner.list.close(None, &mut |w| self.inner.tell(w));
        self.inner.wake_asleep();
    }

    /// As [`close`](Self::close), for demands that name this kind. False: there is none such.
    pub fn close_kind(&self, kind: impl Into<ResourceKind>) -> bool {
        let number = self.inner.number(&kind.into());
        if number.is_some() {
            self.inner.list.close(number, &mut |w| self.inner.tell(w));
            self.inner.wake_asleep();
        }
        number.is_some()
    }

    /// A kind's limit; `None`: there is none such.
    pub fn limit(&self, kind: impl Into<ResourceKind>) -> Option<u64> {
        Some(self.inner.list.limit(self.inner.number(&kind.into())?))
    }

    /// How much of a kind is free; negative in debt. `None`: there is none such.
    pub fn available(&self, kind: impl Into<ResourceKind>) -> Option<i64> {
        Some(self.inner.list.available(self.inner.number(&kind.into())?))
    }

    /// How much of a kind is taken, exact. `None`: there is none such.
    pub fn in_use(&self, kind: impl Into<ResourceKind>) -> Option<u64> {
        Some(self.inner.list.in_use(self.inner.number(&kind.into())?))
    }

    /// How many calls wait for a kind. `None`: there is none such.
    pub fn waiting(&self, kind: impl Into<ResourceKind>) -> Option<usize> {
        Some(self.inner.list.waiters(self.inner.number(&kind.into())?) as usize)
    }

    /// The rate of this name.
    pub fn rate(&self, name: impl Into<ResourceKind>) -> Option<&RateLimiter> {
        self.inner.rates.get(&name.into()).map(|rate| &rate.limiter)
    }

    /// The kinds there are, in the order they were given.
    pub fn kinds(&self) -> impl Iterator<Item = &ResourceKind> {
        self.inner.kinds.iter()
    }

    /// What there is to know of each kind, in the order they were given. O(waiters) a kind, under the queue's latch.
    pub fn stats(&self) -> Vec<KindStats> {
        self.kinds().filter_map(|kind| self.kind_stats(kind.clone())).collect()
    }

    /// What there is to know of one kind. `None`: there is none such. Waits for a grant that is being written down.
    pub fn kind_stats(&self, kind: impl Into<ResourceKind>) -> Option<KindStats> {
        let (kind, inner) = (kind.into(), &*self.inner);
        let number = inner.number(&kind)?;
        let reserved = inner.list.word(number)?.floor(0);
        Some(inner.book(number)?.read(&kind, inner.list.load(number), reserved, || inner.clock.now()))
    }

    /// Who holds what, where it was taken, and for how long. O(permits). What a running batch's items `need` of an engine's
    /// [resources](crate::Engine::resources) is [in use](Self::in_use), and not listed here: the engine takes it without a
    /// permit. What they take from inside is listed.
    ///
    /// ```
    /// use batchyard::{ResourceManager, resource::Wait};
    /// let manager = ResourceManager::builder().quota("gpu", 1).build()?;
    /// let _permit = manager.acquire_with(&"gpu".into(), &Wait::new().owner("renderer"))?;
    /// let holder = &manager.holders()[0];
    /// assert_eq!((&*holder.owner, holder.demand.amount("gpu")), ("renderer", 1));
    /// assert!(holder.place.line() > 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn holders(&self) -> Vec<Holder> {
        let now = self.inner.clock.now();
        let list = self.inner.holders.list();
        // Who holds nothing is none; what holds kinds without a name alone is the engine's, and nobody else's business.
        let named = |(kind, _)| usize::from(kind) >= self.inner.hidden;
        let some = list.iter().filter(|(entry, _)| entry.demand.parts().any(named));
        some.map(|(entry, overdue)| self.inner.holder(entry, *overdue, now)).collect()
    }

    /// Ends the leases that are over, as whoever would wait does. How many. O(permits) if there is any to end.
    pub fn sweep(&self) -> usize {
        self.inner.sweep(self.inner.clock.now())
    }

    /// When a sweep is worth while; `None`: nothing is leased for a time. May be early, never late: while another thread
    /// sweeps it is the clock's zero, and a sweep waits for that one.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        begin(self.inner.holders.soonest())
    }

    /// The clock it goes by.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }
}

impl fmt::Debug for ResourceManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for kind in self.kinds() {
            let number = self.inner.number(kind).unwrap_or_default();
            map.entry(kind, &self.inner.list.word(number).map(|permits| permits.look()));
        }
        map.finish()
    }
}
