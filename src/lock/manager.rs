//! [`LockManager`]: locks that are named when the program runs, and sessions that hold them.
//!
//! A lock exists for as long as somebody holds it, waits for it, or has done so not long ago: its table drops those that are
//! idle whenever it has doubled.
//!
//! | who | does | under |
//! |---|---|---|
//! | who takes or gives back | changes the lock's word | nothing, if nobody waits |
//! | who has to wait | enters itself in the graph, queues in the lock's line, sleeps; leaves the graph before it changes what it holds | the graph's latch, then the line's |
//! | whoever enters, holding something | looks for circles; marks victims and wakes them; lets past its queue who is stuck by its order alone | the graph's latch, then a line's |
//!
//! 1. *A deadlock that is found is one.* Who is entered in the graph waits, and what it holds cannot change.
//! 2. *None is missed.* The last to wait of a circle enters itself, and looks. What the order of a queue does to those who
//!    wait already may change without anybody coming: so who waits and holds something looks again, after 10 ms and then
//!    ever later.
//! 3. *A victim that is granted what it waited for meanwhile* keeps it, and hears nothing: its wait had an end.

use super::error::{Deadlock, LockError, Waits};
use super::rwlock::{Ask, unpark};
use super::wait::LockWait;
use crate::core::lockline::{Hastened, Left, RawLock};
use crate::core::lockword::{MAX_OWNER, Miss, Mode};
use crate::job::Priority;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, Parker, Unparker, with_parker};
use crate::time::{Clock, Timestamp};
use crate::waitgraph::{self, Blocked, Share};
use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::panic::Location;
use std::time::Duration;

/// A power of two: so many threads that their names fall apart are rare.
const SHARDS: usize = 64;
/// When who waits looks again for the first time, and how long it may be at the most.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LAST_LOOK: Duration = Duration::from_secs(1);
/// A shard that has fewer locks is not swept.
const FEW: usize = 64;

/// What is done about deadlocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Deadlocks {
    /// One of each circle gets [`LockError::Deadlock`].
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
    inner: Arc<Inner<K>>,
}

struct Inner<K> {
    hasher: RandomState,
    shards: Box<[Mutex<Shard<K>>]>,
    graph: Mutex<Graph<K>>,
    clock: Clock,
    deadlocks: Deadlocks,
    tickets: AtomicU64,
    found: AtomicU64,
    repaired: AtomicU64,
}

struct Shard<K> {
    locks: HashMap<K, Arc<Name<K>>>,
    sweep_at: usize,
}

/// A lock and its name.
struct Name<K> {
    key: K,
    raw: RawLock,
}

/// Who waits, and which numbers of owners are free.
struct Graph<K> {
    waiting: Vec<Waiting<K>>,
    next: u32,
    free: Vec<u32>,
    arrivals: u64,
}

/// One who waits, as others see it.
struct Waiting<K> {
    blocked: Blocked,
    name: Arc<Name<K>>,
    holds: Vec<Held<K>>,
    who: Arc<str>,
    mode: Mode,
    place: &'static Location<'static>,
    since: Timestamp,
    thread: Unparker,
    verdict: Option<Box<Deadlock>>,
    /// It was let in past the queue, and has not left yet.
    entered: bool,
}

/// What a session holds.
struct Held<K> {
    name: Arc<Name<K>>,
    mode: Mode,
    place: &'static Location<'static>,
    id: u64,
}

impl<K> Clone for Held<K> {
    fn clone(&self) -> Self {
        Held { name: Arc::clone(&self.name), ..*self }
    }
}

impl<K> Name<K> {
    fn thing(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
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

impl<K: Hash + Eq + Clone + fmt::Debug> Default for LockManager<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Hash + Eq + Clone + fmt::Debug> LockManager<K> {
    /// No locks yet. Deadlocks are [detected](Deadlocks::Detect), and time is the operating system's.
    pub fn new() -> Self {
        Self::with(Deadlocks::Detect, Clock::os())
    }

    /// No locks yet.
    pub fn with(deadlocks: Deadlocks, clock: Clock) -> Self {
        let shard = || Mutex::new(Shard { locks: HashMap::new(), sweep_at: FEW });
        let graph = Graph { waiting: Vec::new(), next: 1, free: Vec::new(), arrivals: 0 };
        let inner = Inner {
            hasher: RandomState::new(),
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            graph: Mutex::new(graph),
            clock,
            deadlocks,
            tickets: AtomicU64::new(1),
            found: AtomicU64::new(0),
            repaired: AtomicU64::new(0),
        };
        LockManager { inner: Arc::new(inner) }
    }

    /// Somebody who holds locks, with normal priority.
    pub fn session(&self) -> Session<K> {
        self.session_as("", Priority::Normal)
    }

    /// Somebody who holds locks, by a name for reports. Of those who wait for each other the one of the lowest priority gives
    /// up, and of equals the youngest; who tries again with the same session does not become younger.
    pub fn session_as(&self, name: impl Into<Arc<str>>, priority: Priority) -> Session<K> {
        let number = self.inner.graph.lock().number();
        Session {
            number,
            ticket: self.inner.tickets.fetch_add(1, Ordering::Relaxed),
            inner: Arc::clone(&self.inner),
            name: name.into(),
            priority,
            held: RefCell::default(),
            ids: Cell::new(0),
        }
    }

    /// How many locks there are now, idle ones that are not swept yet among them.
    pub fn len(&self) -> usize {
        self.inner.shards.iter().map(|shard| shard.lock().locks.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many deadlocks were found, each of which had one victim.
    pub fn deadlocks(&self) -> u64 {
        self.inner.found.load(Ordering::Relaxed)
    }

    /// How often somebody was let past a queue, because its order alone would have been a deadlock.
    pub fn repaired(&self) -> u64 {
        self.inner.repaired.load(Ordering::Relaxed)
    }
}

impl<K> Graph<K> {
    /// 0, which is nobody's, when there are sixteen million sessions.
    fn number(&mut self) -> u32 {
        if let Some(free) = self.free.pop() {
            return free;
        }
        if self.next > MAX_OWNER {
            return 0;
        }
        self.next += 1;
        self.next - 1
    }

    fn position(&self, number: u32) -> Option<usize> {
        self.waiting.iter().position(|one| one.blocked.owner == number as usize)
    }

    fn is_victim(&self, number: u32) -> bool {
        self.position(number).is_some_and(|at| self.waiting[at].verdict.is_some())
    }

    fn leave(&mut self, number: u32) -> Option<Box<Deadlock>> {
        let at = self.position(number)?;
        self.waiting.swap_remove(at).verdict
    }
}

impl<K: Hash + Eq + Clone + fmt::Debug> Inner<K> {
    fn name<Q>(&self, key: &Q) -> Arc<Name<K>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        // The upper bits: the table in the shard goes by the lower ones of the same hasher.
        let shard = (self.hasher.hash_one(key) >> 32) as usize % SHARDS;
        let mut shard = self.shards[shard].lock();
        if let Some(name) = shard.locks.get(key) {
            return Arc::clone(name);
        }
        if shard.locks.len() >= shard.sweep_at {
            // Under the latch nobody else gets hold of a lock that only the table has.
            shard.locks.retain(|_, name| Arc::strong_count(name) > 1);
            shard.sweep_at = (shard.locks.len() * 2).max(FEW);
        }
        let key = key.to_owned();
        let name = Arc::new(Name { key: key.clone(), raw: RawLock::new() });
        shard.locks.insert(key, Arc::clone(&name));
        name
    }

    /// Looks for those who wait for each other.
    fn look(&self) {
        let mut graph = self.graph.lock();
        let now = self.clock.now();
        loop {
            let all = graph.undecided();
            let left = waitgraph::stuck(&all, false);
            let circle = waitgraph::circle(&all, &left);
            let Some(victim) = waitgraph::victim(&all, &circle) else { break };
            let report = graph.report(&all, &circle, all[victim].owner, now);
            let Some(at) = graph.position(all[victim].owner as u32) else { break };
            graph.waiting[at].verdict = Some(Box::new(report));
            graph.waiting[at].thread.unpark();
            self.found.fetch_add(1, Ordering::Relaxed);
        }
        loop {
            let all = graph.undecided();
            let left = waitgraph::stuck(&all, true);
            let Some(at) = waitgraph::to_hasten(&all, &left) else { break };
            let number = all[at].owner as u32;
            let Some(at) = graph.position(number) else { break };
            match graph.waiting[at].name.raw.hasten(number, now.as_nanos(), &mut unpark) {
                Hastened::First if !graph.waiting[at].blocked.hastened => {
                    graph.waiting[at].blocked.hastened = true
                }
                Hastened::Entered => graph.waiting[at].entered = true,
                // One that is not in its line, or whose upgrade is just about to be had, is looked at again later.
                Hastened::First | Hastened::Nobody => break,
            }
            self.repaired.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<K: fmt::Debug> Graph<K> {
    /// Those who wait and are no victims.
    fn undecided(&self) -> Vec<Blocked> {
        let undecided = self.waiting.iter().filter(|one| one.verdict.is_none() && !one.entered);
        undecided.map(|one| one.blocked.clone()).collect()
    }

    fn report(&self, all: &[Blocked], circle: &[usize], victim: usize, now: Timestamp) -> Deadlock {
        let mut waits = Vec::new();
        for (nth, at) in circle.iter().enumerate() {
            let next = all[circle[(nth + 1) % circle.len()]].owner;
            let (Some(one), Some(next)) = (self.of(all[*at].owner), self.of(next)) else { continue };
            let held = next.holds.iter().find(|held| Arc::ptr_eq(&held.name, &one.name));
            waits.push(Waits {
                owner: one.who.clone(),
                wants: format!("{:?}", one.name.key),
                mode: one.mode,
                at: one.place,
                waited: now - one.since,
                held_by: next.who.clone(),
                held_mode: held.map_or(Mode::Exclusive, |held| held.mode),
                held_at: held.map_or(next.place, |held| held.place),
            });
        }
        let victim = self.of(victim).map_or_else(String::new, |one| one.who.to_string());
        Deadlock { waits, victim }
    }

    fn of(&self, owner: usize) -> Option<&Waiting<K>> {
        self.waiting.iter().find(|one| one.blocked.owner == owner)
    }
}

/// One who holds locks of a [`LockManager`]: a job, which may go from thread to thread. What it holds comes back when it
/// is dropped.
///
/// It waits for one lock at a time, so it is not shared by threads.
pub struct Session<K> {
    inner: Arc<Inner<K>>,
    number: u32,
    ticket: u64,
    name: Arc<str>,
    priority: Priority,
    held: RefCell<Vec<Held<K>>>,
    ids: Cell<u64>,
}

impl<K> fmt::Debug for Session<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("name", &self.who())
            .field("holds", &self.held.borrow().len())
            .finish_non_exhaustive()
    }
}

impl<K> Session<K> {
    fn who(&self) -> Arc<str> {
        if self.name.is_empty() { format!("session {}", self.ticket).into() } else { Arc::clone(&self.name) }
    }

    fn give_back(&self, held: &Held<K>) {
        let now = || self.inner.clock.now().as_nanos();
        held.name.raw.leave(held.mode, false, now, &mut unpark);
    }

    fn release(&self, id: u64) {
        let mut all = self.held.borrow_mut();
        let Some(at) = all.iter().rposition(|held| held.id == id) else { return };
        let held = all.remove(at);
        drop(all);
        self.give_back(&held);
    }

    /// Gives all back that it holds, [kept](NamedGuard::keep) locks among it.
    pub fn release_all(&mut self) {
        for held in self.held.take() {
            self.give_back(&held);
        }
    }
}

impl<K> Drop for Session<K> {
    fn drop(&mut self) {
        self.release_all();
        if self.number != 0 {
            self.inner.graph.lock().free.push(self.number);
        }
    }
}

impl<K: Hash + Eq + Clone + fmt::Debug> Session<K> {
    /// Takes the lock of this name, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`LockError::Deadlock`]: it and others would wait for each other; [`LockError::Recursive`]: this session holds the lock
    /// already, in a way that it would wait for; too many readers.
    #[track_caller]
    pub fn lock<Q>(&self, name: &Q, mode: Mode) -> Result<NamedGuard<'_, K>, LockError>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.take(name, mode, Ask::Wait, Location::caller())
    }

    /// Takes it if that needs no waiting.
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`], and as [`lock`](Self::lock).
    #[track_caller]
    pub fn try_lock<Q>(&self, name: &Q, mode: Mode) -> Result<NamedGuard<'_, K>, LockError>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.take(name, mode, Ask::Now, Location::caller())
    }

    /// Takes it, waiting as `wait` says. The priority of the session counts where `wait` has none above it.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`], [`LockError::Cancelled`], and as [`lock`](Self::lock).
    #[track_caller]
    pub fn lock_with<Q>(&self, name: &Q, mode: Mode, wait: &LockWait) -> Result<NamedGuard<'_, K>, LockError>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.take(name, mode, Ask::With(wait), Location::caller())
    }

    fn take<Q>(
        &self,
        name: &Q,
        mode: Mode,
        ask: Ask<'_>,
        place: &'static Location<'static>,
    ) -> Result<NamedGuard<'_, K>, LockError>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let name = self.inner.name(name);
        let class = self.class(ask);
        if let Err(miss) = name.raw.word().try_enter(mode, class, self.number) {
            self.take_slowly(&name, (mode, class), miss, ask, place)?;
        }
        let id = self.ids.get() + 1;
        self.ids.set(id);
        self.held.borrow_mut().push(Held { name, mode, place, id });
        Ok(NamedGuard { session: self, id })
    }

    fn class(&self, ask: Ask<'_>) -> usize {
        match ask {
            Ask::With(wait) => wait.priority.max(self.priority).class(),
            _ => self.priority.class(),
        }
    }

    fn holds(&self, name: &Arc<Name<K>>) -> Option<Held<K>> {
        let all = self.held.borrow();
        all.iter().filter(|held| Arc::ptr_eq(&held.name, name)).max_by_key(|held| held.mode).cloned()
    }

    #[cold]
    fn take_slowly(
        &self,
        name: &Arc<Name<K>>,
        (mode, class): (Mode, usize),
        miss: Miss,
        ask: Ask<'_>,
        place: &'static Location<'static>,
    ) -> Result<(), LockError> {
        if let Some(held) = self.holds(name) {
            return match mode {
                Mode::Shared if held.mode != Mode::Exclusive => {
                    name.raw.word().share_again().map_err(|_| LockError::TooManyReaders)
                }
                _ => Err(LockError::Recursive { held: held.mode, wanted: mode, place: held.place }),
            };
        }
        if miss == Miss::Full {
            return Err(LockError::TooManyReaders);
        }
        if matches!(ask, Ask::Now) {
            return Err(LockError::WouldBlock);
        }
        self.wait(name, (mode, class), ask, place, |parker, now, park| {
            name.raw.enter(mode, class, self.number, now, (parker, park), &mut unpark)
        })
    }

    fn upgrade(&self, id: u64, ask: Ask<'_>, place: &'static Location<'static>) -> Result<(), LockError> {
        let find = |all: &[Held<K>]| all.iter().position(|held| held.id == id);
        let (name, mode) = {
            let all = self.held.borrow();
            let Some(at) = find(&all) else { return Ok(()) };
            (Arc::clone(&all[at].name), all[at].mode)
        };
        let shares = |held: &Held<K>| Arc::ptr_eq(&held.name, &name) && held.mode == Mode::Shared;
        let shared = self.held.borrow().iter().find(|held| shares(held)).map(|held| (held.mode, held.place));
        match mode {
            Mode::Exclusive => return Ok(()),
            Mode::Upgradable if name.raw.word().try_upgrade() => {}
            // It would wait for itself.
            _ if shared.is_some() => {
                let (held, place) = shared.unwrap_or((mode, place));
                return Err(LockError::Recursive { held, wanted: Mode::Exclusive, place });
            }
            _ if matches!(ask, Ask::Now) => return Err(LockError::WouldBlock),
            _ => {
                let class = self.class(ask);
                self.wait(&name, (Mode::Exclusive, class), ask, place, |parker, now, park| {
                    name.raw.upgrade(now, parker, park, &mut unpark)
                })?;
            }
        }
        let mut all = self.held.borrow_mut();
        if let Some(at) = find(&all) {
            (all[at].mode, all[at].place) = (Mode::Exclusive, place);
        }
        Ok(())
    }

    /// Sleeps in what `enter` queues for, entered in the graph.
    fn wait(
        &self,
        name: &Arc<Name<K>>,
        (mode, class): (Mode, usize),
        ask: Ask<'_>,
        place: &'static Location<'static>,
        enter: impl FnOnce(&Parker, &dyn Fn() -> u64, &mut dyn FnMut(&Parker) -> bool) -> Result<(), Left>,
    ) -> Result<(), LockError> {
        let inner = &*self.inner;
        let (deadline, cancel) = match ask {
            Ask::With(wait) => (wait.deadline, wait.cancel.as_ref()),
            _ => (None, None),
        };
        let clock = &inner.clock;
        let until = deadline.and_then(|deadline| deadline.on(clock));
        let since = clock.now();
        // Nobody has number 0, so nobody could be told apart by it.
        let detects = inner.deadlocks == Deadlocks::Detect && self.number != 0;
        let holds_something = !self.held.borrow().is_empty();
        let (mut pause, mut look_at) = (FIRST_LOOK, (detects && holds_something).then(|| since + FIRST_LOOK));
        let mut cancelled = false;
        let (outcome, verdict) = with_parker(|parker| {
            let _cancel = cancel.map(|cancel| cancel.enter(parker.unparker()));
            if detects {
                self.enter_graph(name, (mode, class), place, since, parker.unparker());
                if holds_something {
                    inner.look();
                }
            }
            let outcome = enter(parker, &|| clock.now().as_nanos(), &mut |parker| {
                cancelled = cancel.is_some_and(|cancel| cancel.is_cancelled());
                if cancelled || detects && inner.graph.lock().is_victim(self.number) {
                    return false;
                }
                if !clock.park(parker, [until, look_at].into_iter().flatten().min()) {
                    let now = clock.now();
                    if until.is_some_and(|until| now >= until) {
                        return false;
                    }
                    if look_at.is_some_and(|at| now >= at) {
                        inner.look();
                        pause = (pause * 2).min(LAST_LOOK);
                        look_at = Some(now + pause);
                    }
                }
                true
            });
            // Before anything that it holds changes.
            let verdict = if detects { inner.graph.lock().leave(self.number) } else { None };
            (outcome, verdict)
        });
        match (outcome, verdict) {
            (Ok(()), _) => Ok(()),
            (Err(Left::Full), _) => Err(LockError::TooManyReaders),
            (Err(Left::GaveUp), _) if cancelled => Err(LockError::Cancelled),
            (Err(Left::GaveUp), Some(deadlock)) => Err(LockError::Deadlock(deadlock)),
            (Err(Left::GaveUp), None) => Err(LockError::TimedOut { waited: clock.now() - since }),
        }
    }

    fn enter_graph(
        &self,
        name: &Arc<Name<K>>,
        (mode, class): (Mode, usize),
        place: &'static Location<'static>,
        since: Timestamp,
        thread: Unparker,
    ) {
        let holds = self.held.borrow().clone();
        let mut graph = self.inner.graph.lock();
        graph.arrivals += 1;
        let blocked = Blocked {
            owner: self.number as usize,
            class: self.priority.class(),
            ticket: self.ticket,
            holds: holds.iter().map(|held| (held.name.thing(), Share::Lock(held.mode))).collect(),
            wants: (name.thing(), Share::Lock(mode)),
            // By class, then by arrival. (Who has waited long rises above that; a later look finds what follows from it.)
            place: ((Priority::Critical.class() - class) as u64) << 56 | graph.arrivals,
            hastened: false,
        };
        let (name, who) = (Arc::clone(name), self.who());
        graph.waiting.push(Waiting {
            blocked,
            name,
            who,
            mode,
            holds,
            place,
            since,
            thread,
            verdict: None,
            entered: false,
        });
    }
}

/// A named lock that is held. Gives it back when dropped.
#[must_use = "dropped at once, the lock is free again"]
pub struct NamedGuard<'s, K> {
    session: &'s Session<K>,
    id: u64,
}

impl<K> NamedGuard<'_, K> {
    /// How it is held.
    pub fn mode(&self) -> Mode {
        let all = self.session.held.borrow();
        all.iter().find(|held| held.id == self.id).map_or(Mode::Shared, |held| held.mode)
    }

    /// Leaves it to the session: held until [`Session::release_all`], or until the session is dropped.
    pub fn keep(self) {
        std::mem::forget(self);
    }

    /// To a weaker mode, with nobody in between. A mode that is not weaker changes nothing.
    pub fn downgrade(&self, to: Mode) {
        let mut all = self.session.held.borrow_mut();
        let Some(held) = all.iter_mut().find(|held| held.id == self.id && held.mode > to) else { return };
        let from = std::mem::replace(&mut held.mode, to);
        let (name, clock) = (Arc::clone(&held.name), &self.session.inner.clock);
        drop(all);
        name.raw.weaken(from, to, || clock.now().as_nanos(), &mut unpark);
    }
}

impl<K: Hash + Eq + Clone + fmt::Debug> NamedGuard<'_, K> {
    /// From upgradable to exclusive, with nobody in between who changes anything. If it fails, it is held as before.
    ///
    /// # Errors
    ///
    /// [`LockError::Deadlock`]; [`LockError::Recursive`]: it is held shared (also), and would wait for itself.
    #[track_caller]
    pub fn upgrade(&mut self) -> Result<(), LockError> {
        self.session.upgrade(self.id, Ask::Wait, Location::caller())
    }

    /// As [`upgrade`](Self::upgrade), if that needs no waiting.
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`], and as there.
    #[track_caller]
    pub fn try_upgrade(&mut self) -> Result<(), LockError> {
        self.session.upgrade(self.id, Ask::Now, Location::caller())
    }

    /// As [`upgrade`](Self::upgrade), waiting as `wait` says.
    ///
    /// # Errors
    ///
    /// [`LockError::TimedOut`], [`LockError::Cancelled`], and as there.
    #[track_caller]
    pub fn upgrade_with(&mut self, wait: &LockWait) -> Result<(), LockError> {
        self.session.upgrade(self.id, Ask::With(wait), Location::caller())
    }
}

impl<K> fmt::Debug for NamedGuard<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedGuard").field("mode", &self.mode()).finish_non_exhaustive()
    }
}

impl<K> Drop for NamedGuard<'_, K> {
    fn drop(&mut self) {
        self.session.release(self.id);
    }
}
