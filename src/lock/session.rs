//! [`Session`]: who holds named locks, and how it waits for more.
//!
//! A session waits for one lock at a time. It queues in that lock's line; if it has to sleep there, it enters itself in the
//! [wait graph](crate::waitgraph) with what it holds, and leaves it before that changes.
//!
//! *Beside levelled locks.* Those are not in the graph: they are taken in their order. So named locks stand in that, too, at
//! one level of their own: whether an order's locks are taken inside named ones, or these inside those, is learned as it is
//! of any two orders, and the other way about is a violation. (That a session holds a named lock is seen of the threads'
//! own sessions only: others may go to another thread meanwhile.)

use super::body::{Ask, Park, unpark};
use super::error::LockError;
use super::held::{self, Entry};
use super::level::{self, Level, LevelInfo};
use super::manager::{Deadlocks, Inner, LockName};
use super::name::{Name, Pinned, pointer};
use super::named::NamedGuard;
use super::stats::End;
use super::wait::{By, LockWait};
use crate::core::lockline::Left;
use crate::core::lockword::{Miss, Mode};
use crate::job::Priority;
use crate::sync::{Arc, Parker, with_parker};
use crate::time::Timestamp;
use crate::waitgraph::{self, Entered, Hold, Item, Share, Sleeper, Stopped, Thing, WaitGraph};
use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::hash::Hash;
use std::panic::Location;

lock_order! {
    /// Named locks, among the orders that a thread climbs: one level, for which of them comes first nobody can say.
    NamedLocks: AnyName
}

impl AnyName {
    const LEVEL: &'static LevelInfo = match <AnyName as Level>::INFO {
        Some(level) => level,
        None => unreachable!(),
    };
}

/// One who holds locks of a [`LockManager`](super::LockManager): a job, which may go from thread to thread. What it holds
/// comes back when it is dropped.
///
/// It waits for one lock at a time, so it is not shared by threads.
pub struct Session<K> {
    pub(super) inner: Arc<Inner<K>>,
    number: u32,
    ticket: u64,
    name: Arc<str>,
    priority: Priority,
    /// It is what a thread holds, whatever that works at: see [`threads`](super::threads).
    of_thread: bool,
    /// It is not, and nobody asks how long locks are held.
    is_plain: bool,
    held: RefCell<Vec<Held<K>>>,
    ids: Cell<u64>,
    /// When what it holds was taken, by their ids, if somebody asks for that.
    since: RefCell<Vec<(u64, Timestamp)>>,
}

/// What a session holds.
pub(super) struct Held<K> {
    name: Pinned<K>,
    pub(super) mode: Mode,
    place: &'static Location<'static>,
    id: u64,
}

impl<K> Clone for Held<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Held<K> {}

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

    #[inline]
    fn give_back(&self, name: Pinned<K>, mode: Mode, id: u64) {
        if !self.is_plain {
            self.forget(name, mode, id);
        }
        name.leave(mode, || self.inner.clock.now().as_nanos());
    }

    #[inline(never)]
    fn forget(&self, name: Pinned<K>, mode: Mode, id: u64) {
        if self.of_thread {
            held::pop(name.address(), mode);
        }
        if self.inner.times_holds() {
            self.end_time(id);
        }
    }

    #[cold]
    fn begin_time(&self, id: u64) {
        self.since.borrow_mut().push((id, self.inner.clock.now()));
    }

    #[cold]
    fn end_time(&self, id: u64) {
        let mut all = self.since.borrow_mut();
        let Some(at) = all.iter().rposition(|(of, _)| *of == id) else { return };
        let (_, since) = all.remove(at);
        drop(all);
        self.inner.held_for(self.inner.clock.now() - since);
    }

    #[inline]
    pub(super) fn release(&self, id: u64) {
        let mut all = self.held.borrow_mut();
        let last = all.len().wrapping_sub(1);
        let at = match all.last() {
            Some(held) if held.id == id => last,
            _ => match all.iter().rposition(|held| held.id == id) {
                Some(at) => at,
                None => return,
            },
        };
        // Part by part: it was written so a moment ago, and is not yet there as a whole.
        let (name, mode) = (all[at].name, all[at].mode);
        if at == last {
            all.truncate(last);
        } else {
            all.remove(at);
        }
        drop(all);
        self.give_back(name, mode, id);
    }

    /// Gives all back that it holds, [kept](NamedGuard::keep) locks among it.
    pub fn release_all(&mut self) {
        self.release_everything();
    }

    /// The same, where guards may still know of it: what they release then is nothing.
    pub(super) fn release_everything(&self) {
        for held in self.held.take() {
            self.give_back(held.name, held.mode, held.id);
        }
    }

    /// How it is held.
    pub(super) fn mode(&self, id: u64) -> Mode {
        let all = self.held.borrow();
        all.iter().find(|held| held.id == id).map_or(Mode::Shared, |held| held.mode)
    }

    pub(super) fn downgrade(&self, id: u64, to: Mode) {
        let mut all = self.held.borrow_mut();
        let Some(held) = all.iter_mut().find(|held| held.id == id && held.mode > to) else { return };
        let from = std::mem::replace(&mut held.mode, to);
        let name = held.name;
        drop(all);
        if self.of_thread && to == Mode::Shared {
            held::share(name.address());
        }
        name.name().raw().weaken(from, to, || self.inner.clock.now().as_nanos(), &mut unpark);
    }

    /// Whether it holds nothing.
    pub(super) fn holds_nothing(&self) -> bool {
        self.held.borrow().is_empty()
    }

    /// Whether it holds nothing, and its manager is gone but for it.
    pub(super) fn is_left_over(&self) -> bool {
        self.holds_nothing() && Arc::strong_count(&self.inner) == 1
    }
}

impl<K> Drop for Session<K> {
    fn drop(&mut self) {
        self.release_all();
        self.inner.free_number(self.number);
    }
}

impl<K: LockName> Session<K> {
    pub(super) fn new(inner: &Arc<Inner<K>>, name: Arc<str>, priority: Priority, ticket: u64) -> Self {
        Session {
            number: inner.new_number(),
            ticket,
            inner: Arc::clone(inner),
            name,
            priority,
            of_thread: false,
            is_plain: !inner.times_holds(),
            held: RefCell::default(),
            ids: Cell::new(0),
            since: RefCell::default(),
        }
    }

    /// What a thread holds.
    pub(super) fn of_thread(inner: &Arc<Inner<K>>) -> Self {
        let mut session = Self::new(inner, Arc::from(""), Priority::Normal, WaitGraph::ticket());
        (session.of_thread, session.is_plain) = (true, false);
        session
    }

    /// Takes the lock of this name, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`LockError::Deadlock`]: it and others would wait for each other; [`LockError::Recursive`]: this session holds the lock
    /// already, in a way that it would wait for; too many readers.
    #[track_caller]
    #[inline]
    pub fn lock<Q>(&self, name: &Q, mode: Mode) -> Result<NamedGuard<'_, K>, LockError>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let place = Location::caller();
        let id = match self.take_at_once(name, mode, place) {
            Some(id) => id,
            None => self.take(name, mode, Ask::Wait, None, place)?,
        };
        Ok(NamedGuard::new(self, id))
    }

    /// Takes it if that needs no waiting.
    ///
    /// # Errors
    ///
    /// [`LockError::WouldBlock`], and as [`lock`](Self::lock).
    #[track_caller]
    #[inline]
    pub fn try_lock<Q>(&self, name: &Q, mode: Mode) -> Result<NamedGuard<'_, K>, LockError>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let place = Location::caller();
        let id = match self.take_at_once(name, mode, place) {
            Some(id) => id,
            None => self.take(name, mode, Ask::Now, None, place)?,
        };
        Ok(NamedGuard::new(self, id))
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
        let place = Location::caller();
        let id = match self.take_at_once(name, mode, place) {
            Some(id) => id,
            None => self.take(name, mode, Ask::With(wait), None, place)?,
        };
        Ok(NamedGuard::new(self, id))
    }

    /// What there is to do most often: the thread holds nothing that could be out of order, and nothing is to be written down.
    #[inline]
    fn takes_at_once(&self) -> bool {
        self.is_plain && held::is_empty()
    }

    #[inline]
    fn take_at_once<Q>(&self, name: &Q, mode: Mode, place: &'static Location<'static>) -> Option<u64>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        if !self.takes_at_once() {
            return None;
        }
        let name = self.inner.names.enter_at_once(name, mode, self.number)?;
        Some(self.enlist(name, mode, place))
    }

    /// It is held from now on.
    #[inline]
    fn enlist(&self, name: Pinned<K>, mode: Mode, place: &'static Location<'static>) -> u64 {
        let id = self.ids.get() + 1;
        self.ids.set(id);
        self.held.borrow_mut().push(Held { name, mode, place, id });
        id
    }

    /// `by`: in whose name, where that is not the session's own.
    #[inline(never)]
    pub(super) fn take<Q>(
        &self,
        name: &Q,
        mode: Mode,
        ask: Ask<'_>,
        by: Option<&By<'_>>,
        place: &'static Location<'static>,
    ) -> Result<u64, LockError>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        if !held::is_empty() {
            self.check(Some(name), place)?;
        }
        // Who may take it at once has tried that.
        let led =
            if self.takes_at_once() { None } else { self.inner.names.enter_at_once(name, mode, self.number) };
        let name = match led {
            Some(name) => name,
            None => match self.inner.names.enter(name, (mode, self.class(ask, by)), self.number) {
                Ok(name) => name,
                Err((name, miss)) => {
                    self.take_slowly(&name, mode, miss, ask, by, place)?;
                    name.count(mode);
                    // SAFETY: it is held.
                    unsafe { Pinned::new(pointer(&name)) }
                }
            },
        };
        if self.of_thread {
            held::push(Entry::new(name.address(), mode, Some(AnyName::LEVEL), place));
        }
        let id = self.enlist(name, mode, place);
        if self.inner.times_holds() {
            self.begin_time(id);
        }
        Ok(id)
    }

    /// All names are of one level: which of them wait for each other, the graph finds out. What this session holds already it
    /// does not wait for.
    #[inline(never)]
    fn check<Q>(&self, name: Option<&Q>, place: &'static Location<'static>) -> Result<(), LockError>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let Some(before) = level::offender(AnyName::LEVEL, 0) else { return Ok(()) };
        let own = |name: &Q| self.held.borrow().iter().any(|held| held.name.is_called(name));
        if !name.is_some_and(own) {
            level::violated(before, AnyName::LEVEL, place)?;
        }
        Ok(())
    }

    fn class(&self, ask: Ask<'_>, by: Option<&By<'_>>) -> usize {
        let own = by.map_or(self.priority.class(), |by| by.class);
        match ask {
            Ask::With(wait) => wait.priority.class().max(own),
            _ => own,
        }
    }

    fn holds(&self, name: &Arc<Name<K>>) -> Option<(Mode, &'static Location<'static>)> {
        let all = self.held.borrow();
        let same = all.iter().filter(|held| held.name.is(name));
        same.max_by_key(|held| held.mode).map(|held| (held.mode, held.place))
    }

    #[cold]
    fn take_slowly(
        &self,
        name: &Arc<Name<K>>,
        mode: Mode,
        miss: Miss,
        ask: Ask<'_>,
        by: Option<&By<'_>>,
        place: &'static Location<'static>,
    ) -> Result<(), LockError> {
        if let Some((held, place)) = self.holds(name) {
            return match mode {
                Mode::Shared if held != Mode::Exclusive => {
                    name.raw().word().share_again().map_err(|_| LockError::TooManyReaders)
                }
                _ => Err(LockError::Recursive { held, wanted: mode, place }),
            };
        }
        if miss == Miss::Full {
            return Err(LockError::TooManyReaders);
        }
        if matches!(ask, Ask::Now) {
            return Err(LockError::WouldBlock);
        }
        let class = self.class(ask, by);
        self.wait(name, (mode, false), ask, by, place, |parker, now, park| {
            name.raw().enter(mode, class, self.number, now, (parker, park), &mut unpark)
        })
    }

    pub(super) fn upgrade(
        &self,
        id: u64,
        ask: Ask<'_>,
        by: Option<&By<'_>>,
        place: &'static Location<'static>,
    ) -> Result<(), LockError> {
        let find = |all: &[Held<K>]| all.iter().position(|held| held.id == id);
        let (name, mode) = {
            let all = self.held.borrow();
            let Some(at) = find(&all) else { return Ok(()) };
            (all[at].name.arc(), all[at].mode)
        };
        if mode == Mode::Upgradable && !held::is_empty() {
            self.check::<K>(None, place)?;
        }
        let shares = |held: &Held<K>| held.name.is(&name) && held.mode == Mode::Shared;
        let shared = self.held.borrow().iter().find(|held| shares(held)).map(|held| (held.mode, held.place));
        match mode {
            Mode::Exclusive => return Ok(()),
            Mode::Upgradable if name.raw().word().try_upgrade() => {}
            // It would wait for itself.
            _ if shared.is_some() => {
                let (held, place) = shared.unwrap_or((mode, place));
                return Err(LockError::Recursive { held, wanted: Mode::Exclusive, place });
            }
            _ if matches!(ask, Ask::Now) => return Err(LockError::WouldBlock),
            _ => {
                self.wait(&name, (Mode::Exclusive, true), ask, by, place, |parker, now, park| {
                    name.raw().upgrade(now, parker, park, &mut unpark)
                })?;
            }
        }
        name.count(Mode::Exclusive);
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
        (mode, is_upgrade): (Mode, bool),
        ask: Ask<'_>,
        by: Option<&By<'_>>,
        place: &'static Location<'static>,
        enter: impl FnOnce(&Parker, &dyn Fn() -> u64, &mut Park<'_>) -> Result<(), Left>,
    ) -> Result<(), LockError> {
        waitgraph::with_item(by.and_then(|by| by.item), |item| {
            self.wait_in(name, (mode, is_upgrade), ask, (by, item), place, enter)
        })
    }

    fn wait_in(
        &self,
        name: &Arc<Name<K>>,
        want: (Mode, bool),
        ask: Ask<'_>,
        (by, item): (Option<&By<'_>>, Option<&dyn Item>),
        place: &'static Location<'static>,
        enter: impl FnOnce(&Parker, &dyn Fn() -> u64, &mut Park<'_>) -> Result<(), Left>,
    ) -> Result<(), LockError> {
        let inner = &*self.inner;
        let (deadline, cancel) = match ask {
            Ask::With(wait) => (wait.deadline, wait.cancel.as_ref()),
            Ask::By(deadline) => (Some(deadline), None),
            Ask::Wait | Ask::Now => (None, None),
        };
        let clock = &inner.clock;
        let since = clock.now();
        let until = deadline.and_then(|deadline| deadline.on(clock));
        // Nobody has number 0, so nobody could be told apart by it.
        let detects = inner.deadlocks == Deadlocks::Detect && self.number != 0;
        let (mut stopped, mut slept) = (None, false);
        let (outcome, verdict) = with_parker(|parker| {
            // Entered before the first look at what ends the wait, so that one of the two sees the other.
            let _cancel = cancel.map(|cancel| cancel.enter(parker.unparker()));
            let entered = item.map(|item| Entered::new(item, parker));
            let mut seat = None;
            let outcome = enter(parker, &|| clock.now().as_nanos(), &mut |parker, rise| {
                slept = true;
                if cancel.is_some_and(|cancel| cancel.is_cancelled()) {
                    stopped = Some(LockError::Cancelled);
                    return false;
                }
                let beat = match entered.as_ref().map_or(Ok(None), Entered::look) {
                    Ok(beat) => beat.map(|within| clock.now() + within),
                    Err(Stopped) => {
                        stopped = Some(LockError::Cancelled);
                        return false;
                    }
                };
                if detects {
                    let seat =
                        seat.get_or_insert_with(|| self.enter_graph(name, want, (by, item), place, parker));
                    if seat.is_victim() {
                        return false;
                    }
                }
                let look_at = seat.as_ref().and_then(waitgraph::Seat::look_at);
                let rise = rise.map(Timestamp::from_nanos);
                if !clock.park(parker, [until, look_at, beat, rise].into_iter().flatten().min()) {
                    let now = clock.now();
                    if until.is_some_and(|until| now >= until) {
                        return false;
                    }
                    if let Some(seat) = &mut seat {
                        seat.look_in_time(now);
                    }
                }
                true
            });
            // Before anything that it holds changes.
            (outcome, seat.and_then(waitgraph::Seat::leave))
        });
        let waited = clock.now() - since;
        let ended = match (outcome, stopped, verdict) {
            (Ok(()), ..) => Ok(()),
            (Err(Left::Full), ..) => return Err(LockError::TooManyReaders),
            (Err(Left::GaveUp), Some(stop), _) => Err(stop),
            (Err(Left::GaveUp), None, Some(verdict)) => Err(LockError::Deadlock(verdict.named())),
            (Err(Left::GaveUp), None, None) => Err(LockError::TimedOut { waited }),
        };
        if slept {
            inner.book.waited(
                waited,
                match &ended {
                    Ok(()) => End::Entered,
                    Err(LockError::TimedOut { .. }) => End::TimedOut,
                    Err(LockError::Deadlock(_)) => End::Deadlock,
                    Err(_) => End::Cancelled,
                },
            );
        }
        ended
    }

    fn enter_graph(
        &self,
        name: &Arc<Name<K>>,
        (mode, is_upgrade): (Mode, bool),
        (by, item): (Option<&By<'_>>, Option<&dyn Item>),
        place: &'static Location<'static>,
        parker: &Parker,
    ) -> waitgraph::Seat<'static> {
        let runs = item.map(Item::runs);
        let (mut holds, mut who, mut ticket) = (Vec::new(), self.who(), (self.ticket, 0));
        if self.of_thread {
            // What the thread holds is asked by the graph.
            who = by.map_or(who, |by| Arc::clone(&by.who));
        } else {
            self.tell(&mut holds);
        }
        let (mut lowest, mut party) = (self.priority.class(), 0);
        if let Some(runs) = runs {
            party = runs.party;
            if self.of_thread {
                (ticket, lowest) = (runs.ticket, runs.class);
            }
            holds.extend(runs.holds);
        }
        let thing: Arc<dyn Thing> = Arc::clone(name) as _;
        WaitGraph::shared().enter(waitgraph::Ask {
            who,
            party,
            is_upgrade,
            class: lowest,
            ticket,
            holds,
            wants: vec![(thing, Share::Lock(mode))],
            at: place,
            clock: self.inner.clock.clone(),
            sleeper: Sleeper { owner: self.number, thread: parker.unparker() },
        })
    }

    /// Tells what it holds.
    pub(super) fn tell(&self, all: &mut Vec<Hold>) {
        all.extend(self.held.borrow().iter().map(|held| Hold {
            thing: held.name.arc() as _,
            share: Share::Lock(held.mode),
            at: Some(held.place),
        }));
    }
}
