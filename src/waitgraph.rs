//! Who waits for whom: one graph for named locks, and for permits and locks that are taken inside items.
//!
//! Who has to wait enters itself with all that it holds and what it wants, once it stands in the queue for that, and looks
//! for deadlocks, if it holds anything. What it finds out is decided in [`reduction`].
//!
//! | who | does | under |
//! |---|---|---|
//! | who has to wait | queues, enters itself here, looks; sleeps; leaves before it changes what it holds | the latch of the [roll](crate::core::roll) |
//! | who looks | marks victims; lets past their queues who is stuck by their order alone | the roll's latch, then that of a queue |
//! | the same | wakes those | no latch |
//!
//! 1. *A deadlock that is found is one.* Who is entered here waits, and what it holds cannot change. (But for what an item
//!    holds, if threads that it started give some of it back while it waits.)
//! 2. *None is missed.* The last of a circle to wait enters itself, and looks. What the order of a queue does to those who
//!    wait already may change without anybody coming: so who waits and holds something looks again, after 10 ms and then
//!    ever later, up to a second.
//! 3. *A victim that is granted what it waited for meanwhile* keeps it, and hears nothing: its wait had an end.
//! 4. *Who blocks is a thread.* What counts as held is what its session, its item, and the thread itself hold. What others
//!    do in the name of the same job meanwhile is not known here; nor are channels, joins, and locks that are not ours.
//!
//! A look costs what the graph is large, and is done under one latch: by those only who are about to sleep.

mod reduction;
mod report;

pub(crate) use self::reduction::Ticket;
pub use self::report::{Deadlock, Share, Waits};

use self::reduction::{Blocked, Edge};
use crate::core::lockline::Hastened;
use crate::core::roll::{Entry, Place, Roll};
use crate::core::waitlist::Waiter;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, OnceLock, Parker, Unparker};
use crate::time::{Clock, Timestamp};
use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::panic::Location;
use std::thread_local;
use std::time::Duration;

/// When who waits looks again for the first time, and how long it may be at the most.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// A lock, or a kind of units: something to wait for.
pub(crate) trait Thing: Send + Sync {
    /// Which one, of all that are alive.
    fn number(&self) -> usize;

    /// Of units: how many there are for who waits for it here. They may have become more or fewer.
    fn limit(&self) -> Option<u64> {
        None
    }

    /// How people call it. Called under no latch: it may be code of the user's.
    fn label(&self) -> String;

    /// Who sleeps in its queue, in the order in which they would be served now. Called under the graph's latch.
    fn queue(&self, now: u64) -> Vec<Unparker>;

    /// Lets this waiter past the others; those go to `wake` who are to be told of what follows. Called under the graph's
    /// latch.
    fn hasten(&self, who: &Sleeper, now: u64, wake: &mut dyn FnMut(&Waiter)) -> Hastened;

    /// Tells one of those. Called under no latch.
    fn tell(&self, waiter: &Waiter);
}

/// Who sleeps in a queue.
#[derive(Clone)]
pub(crate) struct Sleeper {
    /// As whom it wants a lock: see [`LockWord`](crate::core::lockword::LockWord).
    pub(crate) owner: u32,
    pub(crate) thread: Unparker,
}

/// What somebody holds.
#[derive(Clone)]
pub(crate) struct Hold {
    pub(crate) thing: Arc<dyn Thing>,
    pub(crate) share: Share,
    pub(crate) at: Option<&'static Location<'static>>,
}

/// One who has to wait.
pub(crate) struct Ask {
    pub(crate) who: Arc<str>,
    /// Whose units they are that it holds; 0: nobody's else.
    pub(crate) party: u64,
    /// 0 for the lowest.
    pub(crate) class: usize,
    pub(crate) ticket: Ticket,
    pub(crate) holds: Vec<Hold>,
    /// All of it at a time.
    pub(crate) wants: Vec<(Arc<dyn Thing>, Share)>,
    /// It holds the lock that it wants, upgradable, in the same name.
    pub(crate) is_upgrade: bool,
    pub(crate) at: &'static Location<'static>,
    pub(crate) clock: Clock,
    pub(crate) sleeper: Sleeper,
}

/// The graph.
#[derive(Debug, Default)]
pub(crate) struct WaitGraph {
    roll: Roll<Waiting>,
}

struct Waiting {
    ask: Ask,
    blocked: Blocked,
    since: Timestamp,
    verdict: Option<Verdict>,
    /// It was let in past the queue, and has not left yet.
    entered: bool,
}

/// A [`Deadlock`] whose things are not named yet: that is done by code of the user's, behind the latch.
pub(crate) struct Verdict {
    waits: Vec<(Arc<dyn Thing>, Waits)>,
    victim: Arc<str>,
    of_one: bool,
}

impl Verdict {
    /// With the names. May panic where the user's code does.
    pub(crate) fn named(self) -> Box<Deadlock> {
        let named = |(thing, wait): (Arc<dyn Thing>, Waits)| Waits { wants: thing.label(), ..wait };
        let waits = self.waits.into_iter().map(named).collect();
        Box::new(Deadlock { waits, victim: self.victim, of_one: self.of_one })
    }
}

/// One who is entered; leaves when dropped.
pub(crate) struct Seat<'g> {
    graph: &'g WaitGraph,
    place: Place,
    clock: Clock,
    pause: Duration,
    /// When it looks again; never, if it holds nothing.
    look_at: Option<Timestamp>,
    /// What it had heard when it left.
    left: Option<Option<Verdict>>,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("who", &self.ask.who).finish_non_exhaustive()
    }
}

impl WaitGraph {
    /// The process's own: one for all, so that a deadlock over several engines or lock managers is found, too.
    pub(crate) fn shared() -> &'static WaitGraph {
        static SHARED: OnceLock<WaitGraph> = OnceLock::new();
        SHARED.get_or_init(WaitGraph::default)
    }

    /// A ticket, younger than all before it.
    pub(crate) fn ticket() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// Enters who waits, and looks. It stands in the queue already.
    pub(crate) fn enter(&self, mut ask: Ask) -> Seat<'_> {
        held_here(&mut ask.holds);
        let since = ask.clock.now();
        let clock = ask.clock.clone();
        let look_at = (!ask.holds.is_empty()).then(|| since + FIRST_LOOK);
        let blocked = Blocked {
            class: ask.class,
            ticket: ask.ticket,
            holds: ask.holds.iter().map(|hold| (hold.thing.number(), hold.share)).collect(),
            wants: ask.wants.iter().map(|(thing, share)| (thing.number(), *share)).collect(),
            is_upgrade: ask.is_upgrade,
            owner: 0,
            party: ask.party,
            place: 0,
        };
        let thread = ask.sleeper.thread.clone();
        let place = self.roll.enter(thread, Waiting { ask, blocked, since, verdict: None, entered: false });
        let seat = Seat { graph: self, place, clock, pause: FIRST_LOOK, look_at, left: None };
        if seat.look_at.is_some() {
            self.look();
        }
        seat
    }

    /// Looks for those who wait for each other.
    fn look(&self) {
        let mut told: Vec<(Arc<dyn Thing>, Waiter)> = Vec::new();
        self.roll.look(|roll| {
            let all = in_queues(roll);
            for (victim, circle) in reduction::victims(&all) {
                let verdict = report(roll, &all, &circle, victim);
                let Some(entry) = of(roll, all[victim].owner) else { continue };
                entry.what.verdict = Some(verdict);
                entry.tell();
            }
            let mut tried: Vec<u64> = Vec::new();
            loop {
                let all = in_queues(roll);
                let left = reduction::stuck(&all, true, &[]);
                let Some(at) = reduction::to_hasten(&all, &left, &tried) else { break };
                tried.push(all[at].owner);
                let Some(Entry { what: one, .. }) = of(roll, all[at].owner) else { break };
                // Any of what it wants: it is let past in all of them.
                let Some((thing, _)) = one.ask.wants.first() else { break };
                let thing = Arc::clone(thing);
                let now = one.ask.clock.now().as_nanos();
                let wake = &mut |waiter: &Waiter| told.push((Arc::clone(&thing), waiter.clone()));
                one.entered |= thing.hasten(&one.ask.sleeper, now, wake) == Hastened::Entered;
            }
        });
        for (thing, waiter) in told {
            thing.tell(&waiter);
        }
    }
}

/// Those who wait and are no victims, each with its place in its queue, and with the limits as they are now; without those
/// that have left their queues, for they can go on.
fn in_queues(roll: &[Entry<Waiting>]) -> Vec<Blocked> {
    let mut queues: HashMap<usize, HashMap<usize, usize>> = HashMap::new();
    let mut all = Vec::new();
    for entry in roll.iter().filter(|entry| !entry.is_told() && !entry.what.entered) {
        let (one, owner) = (&entry.what, entry.number());
        let Some((thing, _)) = one.ask.wants.first() else { continue };
        let place = if one.ask.is_upgrade {
            0
        } else {
            let queue = queues.entry(thing.number()).or_insert_with(|| {
                let queue = thing.queue(one.ask.clock.now().as_nanos());
                queue.iter().enumerate().map(|(place, thread)| (thread.id(), place)).collect()
            });
            let Some(place) = queue.get(&one.ask.sleeper.thread.id()) else { continue };
            *place
        };
        let party = if one.blocked.party == 0 { u64::MAX - owner } else { one.blocked.party };
        let mut one = Blocked { owner, party, place, ..one.blocked.clone() };
        for ((thing, _), (_, share)) in entry.what.ask.wants.iter().zip(&mut one.wants) {
            if let (Share::Units { limit, .. }, Some(now)) = (share, thing.limit()) {
                *limit = now;
            }
        }
        all.push(one);
    }
    all
}

fn of(roll: &mut [Entry<Waiting>], number: u64) -> Option<&mut Entry<Waiting>> {
    roll.iter_mut().find(|entry| entry.number() == number)
}

fn report(roll: &[Entry<Waiting>], all: &[Blocked], circle: &[Edge], victim: usize) -> Verdict {
    let of = |at: usize| roll.iter().find(|entry| entry.number() == all[at].owner).map(|entry| &entry.what);
    let mut waits = Vec::new();
    for edge in circle {
        let (Some(one), Some(next)) = (of(edge.from), of(edge.to)) else { continue };
        let Some((thing, share)) = one.ask.wants.get(edge.wish) else { continue };
        let number = thing.number();
        let Some(held) = next.ask.holds.iter().find(|hold| hold.thing.number() == number) else { continue };
        let wait = Waits {
            owner: Arc::clone(&one.ask.who),
            wants: String::new(),
            share: *share,
            at: one.ask.at,
            waited: one.ask.clock.now() - one.since,
            held_by: Arc::clone(&next.ask.who),
            held_share: held.share,
            held_at: held.at,
        };
        waits.push((Arc::clone(thing), wait));
    }
    let victim = of(victim).map_or_else(|| Arc::from(""), |one| Arc::clone(&one.ask.who));
    let of_one = circle.iter().all(|edge| all[edge.from].party == all[circle[0].from].party);
    Verdict { waits, victim, of_one }
}

impl Seat<'_> {
    /// Whether it has to give up.
    pub(crate) fn is_victim(&self) -> bool {
        self.place.is_told()
    }

    /// When it looks again.
    pub(crate) fn look_at(&self) -> Option<Timestamp> {
        self.look_at
    }

    /// It has slept until `now`: looks, if it is time for that.
    pub(crate) fn look_in_time(&mut self, now: Timestamp) {
        if self.look_at.is_some_and(|at| now >= at) {
            self.graph.look();
            self.pause = (self.pause * 2).min(LAST_LOOK);
            self.look_at = Some(self.clock.now() + self.pause);
        }
    }

    /// It waits no longer: before anything that it holds changes. Why it was to give up, if it was.
    pub(crate) fn leave(mut self) -> Option<Verdict> {
        self.go();
        self.left.take().flatten()
    }

    fn go(&mut self) {
        if self.left.is_none() {
            let left = self.graph.roll.leave(&self.place);
            // What it names may be dropped with it: names of locks, which are the user's.
            self.left = Some(left.and_then(|(_, mut one)| one.verdict.take()));
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.go();
    }
}

impl fmt::Debug for Seat<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("place", &self.place).finish_non_exhaustive()
    }
}

/// An item that runs, as who waits in it needs it.
pub(crate) trait Item {
    /// Wakes this thread when the item shall stop; told once.
    fn enter(&self, me: &Unparker);

    /// Not any more.
    fn leave(&self, me: &Unparker);

    /// Whether it shall; and within which time it is to be asked again. Who was woken has been taken out, and enters anew
    /// before it is asked.
    ///
    /// # Errors
    ///
    /// It shall.
    fn look(&self) -> Result<Option<Duration>, Stopped>;

    /// What it is in the graph.
    fn runs(&self) -> Running;
}

/// An item shall stop.
pub(crate) struct Stopped;

/// A sleeper that is told when it shall stop; not any more when this is dropped.
pub(crate) struct Entered<'a> {
    item: &'a dyn Item,
    me: Unparker,
}

impl<'a> Entered<'a> {
    pub(crate) fn new(item: &'a dyn Item, parker: &Parker) -> Self {
        let me = parker.unparker();
        item.enter(&me);
        Entered { item, me }
    }

    /// Whether it shall; and within which time it is to be asked again.
    pub(crate) fn look(&self) -> Result<Option<Duration>, Stopped> {
        self.item.enter(&self.me);
        self.item.look()
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.item.leave(&self.me);
    }
}

/// What the item that a thread runs adds to whoever waits in it.
pub(crate) struct Running {
    pub(crate) who: Arc<str>,
    /// Its number among all attempts of the process.
    pub(crate) party: u64,
    pub(crate) class: usize,
    pub(crate) ticket: Ticket,
    pub(crate) holds: Vec<Hold>,
}

/// Tells all that this thread holds, whatever it works at.
type Holdings = fn(&mut Vec<Hold>);
/// Shows the item that this thread runs, if it runs one.
type Work = fn(&mut dyn FnMut(&dyn Item));

// Those who know are above this floor. Without destructors: there is no time in a thread's life at which these are gone.
thread_local! {
    static LOCKS: Cell<Option<Holdings>> = const { Cell::new(None) };
    static UNITS: Cell<Option<Holdings>> = const { Cell::new(None) };
    static WORK: Cell<Option<Work>> = const { Cell::new(None) };
}

/// This thread may hold locks from now on, of which this tells.
pub(crate) fn tell_locks(of: Holdings) {
    LOCKS.with(|cell| cell.set(Some(of)));
}

/// This thread may hold units from now on, of which this tells.
pub(crate) fn tell_units(of: Holdings) {
    UNITS.with(|cell| cell.set(Some(of)));
}

/// This thread runs items from now on.
pub(crate) fn tell_work(of: Work) {
    WORK.with(|cell| cell.set(Some(of)));
}

/// Calls `f` with this item, or else with the one that this thread runs, if it runs one.
pub(crate) fn with_item<R>(item: Option<&dyn Item>, f: impl FnOnce(Option<&dyn Item>) -> R) -> R {
    let (mut f, mut result) = (Some(f), None);
    let mut call = |item: Option<&dyn Item>| {
        if let Some(f) = f.take() {
            result = Some(f(item));
        }
    };
    match (item, WORK.with(Cell::get)) {
        (Some(item), _) => call(Some(item)),
        (None, Some(of)) => of(&mut |item| call(Some(item))),
        (None, None) => {}
    }
    call(None);
    result.expect("it was called by now")
}

/// Whether this thread may hold something that others wait for, by [`tell_locks`], or runs an item.
pub(crate) fn is_of_interest() -> bool {
    let mut locks = Vec::new();
    if let Some(of) = LOCKS.with(Cell::get) {
        of(&mut locks);
    }
    !locks.is_empty() || with_item(None, |item| item.is_some())
}

fn held_here(all: &mut Vec<Hold>) {
    for of in [LOCKS.with(Cell::get), UNITS.with(Cell::get)].into_iter().flatten() {
        of(all);
    }
}
