//! The manager as the engine uses it: its own kinds beside the named ones, takes without a permit around them, and waits
//! of who runs already.
//!
//! An item that asks for more while it runs waits *inside*: it holds a worker, and maybe permits. So its place is before
//! all that have not begun, and it takes back what was granted to a lane and is taken up by nobody
//! ([`WaitList::revoke`]). Where deadlocks are not looked for it may wait only for kinds that come after all it holds, in the
//! kinds' order: then those who wait inside cannot wait for each other in a circle. Where they are, it may wait for
//! anything, and enters itself in the [wait graph](crate::waitgraph) with all that it holds, locks included.

use super::Demand;
use super::acquire::Resolved;
use super::caller::Caller;
use super::error::AcquireError;
use super::holders::{Entry, Lapsed, OwnerId};
use super::kind::ResourceKind;
use super::lapse::{OnExpiry, expiry, tick};
use super::manager::{Inner, ResourceManager};
use super::permit::Permit;
use super::wait::Wait;
use crate::core::lease::NEVER;
use crate::core::lockline::Hastened;
use crate::core::waitlist::{self, CLASSES, Refused, WaitList, Waiter};
use crate::job::Priority;
use crate::lock::{Levelled, house};
use crate::sync::{Arc, Parker, Unparker, thread};
use crate::time::Timestamp;
use crate::waitgraph::{self, Hold, Item, Share, Sleeper, Thing, WaitGraph};
use std::fmt;
use std::panic::Location;
use std::time::Duration;

/// What the engine knows of an item that waits, and the manager does not.
pub(crate) struct Inside<'a> {
    /// Whose the permits will be.
    pub(crate) attempt: OwnerId,
    /// The number above the highest kind that its batch `needs`; 0: none.
    pub(crate) above: u16,
    /// It says that it is alive at least this often: its `stop` is asked.
    pub(crate) beat: Option<Duration>,
    /// Called once, when it has queued.
    pub(crate) queued: &'a dyn Fn(&waitlist::Demand),
    /// Who is told when it shall stop; told once.
    pub(crate) enter: &'a dyn Fn(&Unparker),
    pub(crate) leave: &'a dyn Fn(&Unparker),
    /// Whether it shall.
    pub(crate) stop: &'a dyn Fn(&waitlist::Demand) -> Option<AcquireError>,
    /// Enters it in the wait graph; `None`: deadlocks are not looked for.
    pub(crate) graph: Option<&'a EnterGraph<'a>>,
}

/// Enters who waits for this.
pub(crate) type EnterGraph<'a> =
    dyn Fn(Vec<(Arc<dyn Thing>, Share)>, &Parker) -> waitgraph::Seat<'static> + 'a;

/// One kind, as a thing to wait for.
struct Units {
    inner: Arc<Inner>,
    kind: u16,
    /// Whose reserves apply, of who waits for it.
    class: usize,
}

impl Thing for Units {
    fn number(&self) -> usize {
        self.inner.list.word(self.kind).map_or(0, |word| std::ptr::from_ref(word).addr())
    }

    fn limit(&self) -> Option<u64> {
        let floor = self.inner.list.word(self.kind).map_or(0, |word| word.floor(self.class));
        Some(self.inner.list.limit(self.kind).saturating_sub(floor))
    }

    fn label(&self) -> String {
        format!("`{}`", self.inner.kind(self.kind))
    }

    fn queue(&self, now: u64) -> Vec<Unparker> {
        self.inner.list.queue(now)
    }

    fn hasten(&self, who: &Sleeper, now: u64, wake: &mut dyn FnMut(&Waiter)) -> Hastened {
        match self.inner.list.hasten(&who.thread, now, &mut |waiter| wake(waiter)) {
            true => Hastened::First,
            false => Hastened::Nobody,
        }
    }

    fn tell(&self, waiter: &Waiter) {
        self.inner.tell(waiter);
    }
}

/// A sleeper that is told when it shall stop; not any more when this is dropped.
pub(super) struct Entered<'a> {
    inside: &'a Inside<'a>,
    me: Unparker,
}

impl<'a> Inside<'a> {
    pub(super) fn enter(&'a self, parker: &Parker) -> Entered<'a> {
        let me = parker.unparker();
        (self.enter)(&me);
        Entered { inside: self, me }
    }

    /// When it says so next.
    pub(super) fn next_beat(&self, now: Timestamp) -> Option<Timestamp> {
        self.beat.map(|every| now + every)
    }

    /// Enters it anew, for who woke it took it out, then asks: so one of the two sees the other.
    pub(super) fn look(&self, parker: &Parker, needs: &waitlist::Demand) -> Option<AcquireError> {
        (self.enter)(&parker.unparker());
        (self.stop)(needs)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        (self.inside.leave)(&self.me);
    }
}

impl fmt::Debug for Inside<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inside").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

impl Inner {
    /// The number above all that is held; an error if the demand must come after it, and does not.
    pub(super) fn in_order(
        &self,
        want: &Resolved<'_>,
        short: &ResourceKind,
        inside: &Inside<'_>,
    ) -> Result<u16, AcquireError> {
        let taken = self.holders.highest_of(inside.attempt);
        let above = taken.map_or(0, |(kind, _)| kind + 1).max(inside.above);
        match want.needs.parts().next() {
            Some((first, _)) if first < above && inside.graph.is_none() => {
                let here = taken.filter(|(kind, _)| kind + 1 == above);
                let place =
                    here.map_or_else(|| "what its batch needs".to_owned(), |(_, place)| place.to_string());
                Err(AcquireError::WouldHoldAndWait { kind: short.clone(), held: self.kind(above - 1), place })
            }
            _ => Ok(above),
        }
    }
}

impl Inner {
    /// A demand, as who waits for it in this class needs it in the wait graph.
    pub(super) fn wants(
        self: &Arc<Self>,
        d: &waitlist::Demand,
        class: usize,
    ) -> Vec<(Arc<dyn Thing>, Share)> {
        let part = |(kind, n)| {
            let thing = self.thing(kind, class);
            let limit = thing.limit().unwrap_or(0);
            (thing, Share::Units { n, limit })
        };
        d.parts().map(part).collect()
    }

    fn thing(self: &Arc<Self>, kind: u16, class: usize) -> Arc<dyn Thing> {
        Arc::new(Units { inner: Arc::clone(self), kind, class })
    }

    /// What an attempt or this thread holds, as it counts in the wait graph.
    pub(super) fn held_here(self: &Arc<Self>, attempt: Option<OwnerId>, holds: &mut Vec<Hold>) {
        for (demand, place) in self.holders.all_of(attempt, Caller::id()) {
            self.add_holds(&demand, Some(place), holds);
        }
    }

    fn add_holds(
        self: &Arc<Self>,
        demand: &waitlist::Demand,
        at: Option<&'static Location<'static>>,
        holds: &mut Vec<Hold>,
    ) {
        holds.extend(demand.parts().map(|(kind, n)| Hold {
            thing: self.thing(kind, CLASSES - 1),
            share: Share::Units { n, limit: self.list.limit(kind) },
            at,
        }));
    }

    /// Enters a thread that waits here, beside whatever it holds or runs elsewhere.
    pub(super) fn enter_graph(
        self: &Arc<Self>,
        (d, class): (&waitlist::Demand, usize),
        wait: &Wait,
        item: Option<&dyn Item>,
        at: &'static Location<'static>,
        parker: &Parker,
    ) -> waitgraph::Seat<'static> {
        let mut ask = waitgraph::Ask {
            who: wait.name.clone().unwrap_or_else(Caller::name),
            party: 0,
            class: wait.priority.class(),
            ticket: (WaitGraph::ticket(), 0),
            holds: Vec::new(),
            wants: self.wants(d, class),
            is_upgrade: false,
            at,
            clock: self.clock.clone(),
            sleeper: Sleeper { owner: 0, thread: parker.unparker() },
        };
        if let Some(runs) = item.map(Item::runs) {
            (ask.party, ask.class, ask.ticket, ask.holds) = (runs.party, runs.class, runs.ticket, runs.holds);
        }
        // What it holds of the process's own manager it tells itself.
        if !super::global::is_global(self) {
            self.held_here(None, &mut ask.holds);
        }
        WaitGraph::shared().enter(ask)
    }
}

impl ResourceManager {
    /// What an attempt holds, as it counts in the wait graph: from the manager, and what its batch `needs`.
    pub(crate) fn holds_of(&self, attempt: OwnerId, needs: &waitlist::Demand) -> Vec<Hold> {
        let mut holds = Vec::new();
        self.inner.add_holds(needs, None, &mut holds);
        self.inner.held_here(Some(attempt), &mut holds);
        holds
    }

    /// The list that all kinds wait in, hidden ones included.
    pub(crate) fn list(&self) -> &WaitList {
        &self.inner.list
    }

    /// A kind's number in the [list](Self::list).
    pub(crate) fn number(&self, kind: &ResourceKind) -> Option<u16> {
        self.inner.number(kind)
    }

    /// A kind's name.
    pub(crate) fn kind_of(&self, number: u16) -> ResourceKind {
        self.inner.kind(number)
    }

    /// Who is told of lanes that were granted something or refused it. The first one stays.
    pub(crate) fn on_lane(&self, tell: impl Fn(u32) + Send + Sync + 'static) {
        let _ = self.inner.lanes.set(Box::new(tell));
    }

    /// As [`sweep`](Self::sweep), at a reading that the caller has.
    pub(crate) fn sweep_at(&self, now: Timestamp) -> usize {
        self.inner.sweep(now)
    }

    /// As [`sweep_at`](Self::sweep_at), for a thread that must not be held up: revocations, which are the user's, run in
    /// a thread of their own.
    pub(crate) fn sweep_apart(&self, now: Timestamp) {
        let inner = &self.inner;
        if tick(now) < inner.holders.soonest() {
            return;
        }
        let lapsed = inner.holders.lapse(now);
        let is_theirs =
            |lapsed: &Lapsed| lapsed.taken && matches!(lapsed.entry.on_expiry, OnExpiry::Revoke(_));
        let (theirs, ours): (Vec<_>, Vec<_>) = lapsed.into_iter().partition(is_theirs);
        inner.settle(ours, now);
        if theirs.is_empty() {
            return;
        }
        let theirs = Arc::new(Levelled::<_, house::Revocations>::new(theirs));
        let (there, what) = (Arc::clone(inner), Arc::clone(&theirs));
        let started = thread::Builder::new().name("batchyard-revoke".into()).spawn(move || {
            let lapsed = std::mem::take(&mut *what.lock());
            there.settle(lapsed, now);
        });
        if started.is_err() {
            // Better late than never.
            let lapsed = std::mem::take(&mut *theirs.lock());
            inner.settle(lapsed, now);
        }
    }

    /// Who must not wait in the queue like anybody: the threads of the engine. The first one stays.
    pub(crate) fn forbid(&self, is_forbidden: impl Fn() -> bool + Send + Sync + 'static) {
        let _ = self.inner.forbidden.set(Box::new(is_forbidden));
    }

    /// Wakes `who` whenever a lease is over earlier than all others, from now on.
    pub(crate) fn watch_leases(&self, who: Unparker) {
        self.inner.asleep.lock().push(who);
    }

    /// Takes from the list, without a permit around it; written into the books.
    #[inline]
    pub(crate) fn take_bare(
        &self,
        d: &waitlist::Demand,
        class: usize,
        now: Timestamp,
    ) -> Result<(), Refused> {
        self.inner.list.try_take_as(d, class, &mut |w| self.inner.tell(w))?;
        self.inner.took(d, None, now);
        Ok(())
    }

    /// Writes a grant of the list into the books, that was waited for so long.
    pub(crate) fn took_bare(&self, d: &waitlist::Demand, waited: Option<Duration>, now: Timestamp) {
        self.inner.took(d, waited, now);
    }

    /// Gives back what was taken without a permit.
    #[inline]
    pub(crate) fn give_bare(&self, d: &waitlist::Demand) {
        self.inner.give_back(d);
    }

    /// Makes a permit of what was taken without one. It has no lease yet; when it has, it is taken back at its end.
    pub(crate) fn adopt(
        &self,
        d: waitlist::Demand,
        owner: Arc<str>,
        attempt: OwnerId,
        priority: Priority,
        place: &'static Location<'static>,
    ) -> Permit {
        let entry = Entry {
            demand: d,
            owner,
            owner_id: Some(attempt),
            thread: None,
            priority,
            since: self.inner.clock.now(),
            place,
            on_expiry: OnExpiry::Reclaim,
            lost_at: None,
        };
        Inner::enter(&self.inner, entry, NEVER)
    }

    /// As [`acquire_with`](Self::acquire_with), for an item that runs.
    pub(crate) fn acquire_inside(
        &self,
        demand: &Demand,
        wait: &Wait,
        inside: &Inside<'_>,
        place: &'static Location<'static>,
    ) -> Result<Permit, AcquireError> {
        Inner::acquire(&self.inner, demand, wait, Some(inside), place)
    }

    /// All that this attempt holds is taken back at `at`, unless it comes back before.
    pub(crate) fn lapse_at(&self, attempt: OwnerId, at: Timestamp) {
        let now = tick(self.inner.clock.now());
        if self.inner.holders.lapse_at(attempt, now, expiry(at)) {
            self.inner.wake_asleep();
        }
    }

    /// How much of a kind this attempt holds.
    pub(crate) fn held_by(&self, attempt: OwnerId, kind: u16) -> u64 {
        self.inner.holders.held_of(attempt, kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::PermitError;
    use crate::time::{ManualClock, secs};

    /// What is lost is taken back at its time, however its holder has divided or renewed it since.
    #[test]
    fn nothing_of_a_lost_attempt_escapes() {
        let time = ManualClock::new();
        let manager = ResourceManager::builder().quota("k", 5).clock(time.clock()).build().unwrap();
        let attempt = OwnerId::Attempt(1, 1);
        let demand = waitlist::Demand::of(0, 5);
        manager.take_bare(&demand, 1, time.now()).unwrap();
        let place = Location::caller();
        let mut all = manager.adopt(demand, "lost".into(), attempt, Priority::Normal, place);
        let before = all.split(&Demand::new().need("k", 1)).unwrap();
        manager.lapse_at(attempt, time.now() + secs(60));
        let after = all.split(&Demand::new().need("k", 2)).unwrap();
        for permit in [&all, &before, &after] {
            assert!(matches!(permit.renew(secs(3600)), Err(PermitError::Expired { .. })));
        }
        time.advance(secs(59));
        assert_eq!((manager.sweep(), manager.available("k")), (0, Some(0)));
        time.advance(secs(1));
        assert_eq!((manager.sweep(), manager.available("k")), (3, Some(5)));
        drop((all, before, after));
        assert_eq!(manager.available("k"), Some(5));
    }
}
