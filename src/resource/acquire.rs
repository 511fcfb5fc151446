//! How a demand is had: permits all or none, the rates' tokens last, and no permit in hand while tokens are waited for.
//!
//! ```text
//!  try ──► all permits there? ──► the rates pay? ──► permit
//!   ▲        │ no                   │ no: the permits go back
//!   │        ▼                      ▼
//!   │      queue for them,        a place in each rate that is short; sleep until all have come
//!   │      then as if there         │
//!   └───────────────────────────────┘
//! ```
//!
//! What becomes of tokens that have come while permits are queued for is told in `places.rs`.
//!
//! A sleeper in the queue wakes for its grant, its deadline, its cancel, and for the next lease that is over: so what
//! is lost with a holder comes back by whoever needs it.

use super::builder::checked_lease;
use super::caller::Caller;
use super::demand::Demand;
use super::error::{AcquireError, PermitError};
use super::holders::Entry;
use super::inside::Inside;
use super::kind::ResourceKind;
use super::lapse::{begin, expiry, tick};
use super::manager::Inner;
use super::owner::Owner;
use super::permit::Permit;
use super::places::{Pace, Places, paces, pay_now};
use super::wait::Wait;
use crate::core::lease::NEVER;
use crate::core::waitlist::{self, Claim, MAX_PARTS, Refused, Unmet};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, Parker, with_parker};
use crate::time::Timestamp;
use crate::waitgraph::{self, Entered, Item, Stopped};
use std::panic::Location;

/// A demand in the manager's own numbers.
pub(super) struct Resolved<'a> {
    pub(super) needs: waitlist::Demand,
    paces: Vec<Pace<'a>>,
    /// Where it was asked for.
    place: &'static Location<'static>,
}

/// Permits that were taken and are nobody's yet: they go back if nothing comes of it.
struct Taken<'a> {
    inner: &'a Inner,
    needs: &'a waitlist::Demand,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.inner.put(self.needs);
    }
}

/// One of those who wait; leaves the count when dropped.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inner {
    pub(super) fn resolve<'a>(
        &'a self,
        d: &'a Demand,
        place: &'static Location<'static>,
    ) -> Result<Resolved<'a>, AcquireError> {
        let mut needs = waitlist::Demand::new();
        let asked = d.needs().count();
        for (kind, n) in d.needs() {
            let number = self.number(kind).ok_or_else(|| AcquireError::UnknownKind { kind: kind.clone() })?;
            needs = needs.and(number, n);
        }
        if asked > MAX_PARTS {
            return Err(AcquireError::TooManyKinds { asked, most: MAX_PARTS });
        }
        let paces = paces(&self.rates, d)?;
        self.still_open(&paces)?;
        Ok(Resolved { needs, paces, place })
    }

    pub(super) fn try_acquire(
        this: &Arc<Inner>,
        d: &Demand,
        wait: &Wait,
        place: &'static Location<'static>,
    ) -> Result<Permit, AcquireError> {
        checked_lease(wait.lease)?;
        let want = this.resolve(d, place)?;
        let taken = this.take_now(&want.needs, wait).and_then(|taken| {
            pay_now(this, &want.paces)?;
            Ok(taken)
        });
        match taken {
            Ok(taken) => Ok(Self::grant(this, taken, wait, None, place, None)),
            Err(error) => {
                this.count(&want.needs, &error);
                Err(error)
            }
        }
    }

    pub(super) fn acquire(
        this: &Arc<Inner>,
        d: &Demand,
        wait: &Wait,
        inside: Option<&Inside<'_>>,
        place: &'static Location<'static>,
    ) -> Result<Permit, AcquireError> {
        checked_lease(wait.lease)?;
        let want = this.resolve(d, place)?;
        // Permits first and without waiting: most calls end here, and never look at the clock for a deadline.
        if let Ok(taken) = this.take_now(&want.needs, wait) {
            if pay_now(this, &want.paces).is_ok() {
                return Ok(Self::grant(this, taken, wait, inside, place, None));
            }
            drop(taken);
        }
        let asked = this.clock.now();
        match this.take_in_time(&want, wait, inside, asked) {
            Ok(taken) => Ok(Self::grant(this, taken, wait, inside, place, Some(asked))),
            Err(error) => {
                this.count(&want.needs, &error);
                Err(error)
            }
        }
    }

    /// All permits or none, now.
    fn take_now<'a>(&'a self, needs: &'a waitlist::Demand, wait: &Wait) -> Result<Taken<'a>, AcquireError> {
        let class = wait.priority.class();
        let take = || self.list.try_take_as(needs, class, &mut |w| self.tell(w));
        let mut took = take();
        if matches!(took, Err(Refused::Short { .. }))
            && self.holders.soonest() < NEVER
            && self.sweep(self.clock.now()) > 0
        {
            took = take();
        }
        took.map_err(|refused| self.refused(refused))?;
        Ok(Taken { inner: self, needs })
    }

    fn take_in_time<'a>(
        self: &'a Arc<Self>,
        want: &'a Resolved<'_>,
        wait: &Wait,
        inside: Option<&Inside<'_>>,
        asked: Timestamp,
    ) -> Result<Taken<'a>, AcquireError> {
        let until = wait.deadline.and_then(|deadline| deadline.on(&self.clock));
        let mut places = Places::new(self, &want.paces);
        let mut counted = None;
        loop {
            let taken = match self.take_now(&want.needs, wait) {
                Ok(taken) => taken,
                Err(AcquireError::Full { kind }) => {
                    places.give_up();
                    self.count_once(&mut counted)?;
                    self.queue(want, (wait, inside), kind, asked, until)?
                }
                Err(error) => return Err(error),
            };
            match places.pay() {
                Ok(()) => return Ok(taken),
                Err(AcquireError::Paced { rate, .. }) => {
                    drop(taken);
                    if wait.cancel.as_ref().is_some_and(|cancel| cancel.is_cancelled()) {
                        return Err(AcquireError::Cancelled);
                    }
                    // Who sleeps for tokens may have to queue for permits then.
                    self.may_queue(&want.needs, inside, &rate)?;
                    self.count_once(&mut counted)?;
                    places.reserve(&rate, until.map(|until| until - self.clock.now()))?;
                    places.sleep((&want.needs, &want.paces), wait, inside, until)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Queues for the permits.
    fn queue<'a>(
        self: &'a Arc<Self>,
        want: &'a Resolved<'_>,
        (wait, inside): (&Wait, Option<&Inside<'_>>),
        short: ResourceKind,
        asked: Timestamp,
        until: Option<Timestamp>,
    ) -> Result<Taken<'a>, AcquireError> {
        let class = wait.priority.class();
        let mut claim = Claim::Class(class);
        self.may_queue(&want.needs, inside, &short)?;
        if let Some(inside) = inside {
            let above = self.in_order(want, &short, inside)?;
            claim = Claim::Inside { class, above };
        } else if !wait.while_holding
            && let Some(held) = self.held_by_asker(wait)
        {
            let (kind, _) = held.demand.parts().next().unwrap_or_default();
            let (held, place) = (self.kind(kind), held.place.to_string());
            return Err(AcquireError::WouldHoldAndWait { kind: short, held, place });
        }
        match self.wait_in(want, claim, (wait, inside), until)? {
            Ok(()) => Ok(Taken { inner: self, needs: &want.needs }),
            Err(Unmet::Refused(Refused::Short { .. })) => {
                Err(AcquireError::QueueFull { most: self.max_waiters })
            }
            Err(Unmet::Refused(refused)) => Err(self.refused(refused)),
            Err(Unmet::TimedOut) => {
                let short = |(kind, n): &(u16, u64)| {
                    let word = self.list.word(*kind);
                    word.is_some_and(|word| word.would_take(*n, class).is_err())
                };
                let kind = want.needs.parts().find(short).or(want.needs.parts().next());
                let kind = self.kind(kind.unwrap_or_default().0);
                Err(AcquireError::TimedOut { kind, waited: self.clock.now() - asked })
            }
        }
    }

    /// Whether this thread may queue for permits.
    fn may_queue(
        &self,
        needs: &waitlist::Demand,
        inside: Option<&Inside<'_>>,
        short: &ResourceKind,
    ) -> Result<(), AcquireError> {
        let may_not = || self.forbidden.get().is_some_and(|is_forbidden| is_forbidden());
        if inside.is_none() && !needs.is_empty() && may_not() {
            return Err(AcquireError::WouldBlockWorker { kind: short.clone() });
        }
        Ok(())
    }

    /// One more who waits, from its first wait on.
    fn count_once<'a>(&'a self, counted: &mut Option<Counted<'a>>) -> Result<(), AcquireError> {
        if counted.is_none() {
            let me = Counted(&self.waiting);
            if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.max_waiters {
                return Err(AcquireError::QueueFull { most: self.max_waiters });
            }
            *counted = Some(me);
        }
        Ok(())
    }

    /// A manager that is closed gives no tokens, either. (Of permits their list tells.)
    pub(super) fn still_open(&self, paces: &[Pace<'_>]) -> Result<(), AcquireError> {
        // Relaxed: who sleeps looks behind the latch of those who sleep, at which a close comes by.
        match paces.first().filter(|_| self.closed.load(Ordering::Relaxed)) {
            Some(pace) => Err(AcquireError::Closed { kind: pace.rate().clone() }),
            None => Ok(()),
        }
    }

    /// Whether permits that are not there may still come.
    pub(super) fn still_possible(&self, needs: &waitlist::Demand, wait: &Wait) -> Result<(), AcquireError> {
        self.list.verdict(needs, wait.priority.class()).map_err(|refused| self.refused(refused))
    }

    /// What the asker holds already: as the owner it names, or as this thread.
    fn held_by_asker(&self, wait: &Wait) -> Option<Entry> {
        self.holders.held_by(Caller::id(), wait.owner.as_ref().map(|owner| owner.id()))
    }

    /// Sleeps in the list until it grants.
    fn wait_in(
        self: &Arc<Self>,
        want: &Resolved<'_>,
        claim: Claim,
        (wait, inside): (&Wait, Option<&Inside<'_>>),
        until: Option<Timestamp>,
    ) -> Result<Result<(), Unmet>, AcquireError> {
        // Whoever waits in an item, for whatever it is, stops with that. `inside` does so itself.
        waitgraph::with_item(None, |item| {
            let item = item.filter(|_| inside.is_none());
            self.wait_for(want, claim, (wait, inside, item), until)
        })
    }

    fn wait_for(
        self: &Arc<Self>,
        want: &Resolved<'_>,
        claim: Claim,
        (wait, inside, item): (&Wait, Option<&Inside<'_>>, Option<&dyn Item>),
        until: Option<Timestamp>,
    ) -> Result<Result<(), Unmet>, AcquireError> {
        let d = &want.needs;
        let detects = inside.is_none() && waitgraph::is_of_interest();
        let (mut stopped, mut queued) = (None, false);
        let (outcome, verdict) = with_parker(|parker| {
            // Entered before the first look at what ends the wait, so that one of the two sees the other.
            let _asleep = crate::sync::Entry::new(&self.asleep, parker.unparker());
            let _cancel = wait.cancel.as_ref().map(|cancel| cancel.enter(parker.unparker()));
            let _inside = inside.map(|inside| inside.enter(parker));
            let item_here = item.map(|item| Entered::new(item, parker));
            let start = self.clock.now().as_nanos();
            let mut seat = None;
            let park = |parker: &Parker| {
                // Read before the sign of life that `look` gives, so that the next one is not late.
                let mut beat = inside.and_then(|inside| inside.next_beat(self.clock.now()));
                match item_here.as_ref().map_or(Ok(None), Entered::look) {
                    Ok(within) => beat = beat.or(within.map(|within| self.clock.now() + within)),
                    Err(Stopped) => {
                        stopped = Some(AcquireError::Cancelled);
                        return false;
                    }
                }
                if let Some(inside) = inside {
                    stopped = inside.look(parker, d);
                    if stopped.is_some() {
                        return false;
                    }
                    if !std::mem::replace(&mut queued, true) {
                        (inside.queued)(d);
                        return true; // there may be a grant now
                    }
                }
                if wait.cancel.as_ref().is_some_and(|cancel| cancel.is_cancelled()) {
                    stopped = Some(AcquireError::Cancelled);
                    return false;
                }
                if let Some(graph) = inside.and_then(|inside| inside.graph) {
                    seat.get_or_insert_with(|| graph(self.wants(d, claim.class()), parker));
                } else if detects {
                    let enter = || self.enter_graph((d, claim.class()), wait, item, want.place, parker);
                    seat.get_or_insert_with(enter);
                }
                if seat.as_ref().is_some_and(waitgraph::Seat::is_victim) {
                    return false;
                }
                let look_at = seat.as_ref().and_then(waitgraph::Seat::look_at);
                let lapse = begin(self.holders.soonest());
                if !self.clock.park(parker, [until, lapse, beat, look_at].into_iter().flatten().min()) {
                    let now = self.clock.now();
                    if until.is_some_and(|until| now >= until) {
                        return false;
                    }
                    self.sweep(now);
                    if let Some(seat) = &mut seat {
                        seat.look_in_time(now);
                    }
                }
                true // the list looks for itself whether there is a grant
            };
            let late = || {
                let cancelled = wait.cancel.as_ref().is_some_and(|cancel| cancel.is_cancelled());
                cancelled || until.is_some_and(|until| self.clock.now() >= until)
            };
            let outcome = self.list.acquire(d, claim, start, parker, (late, park), &mut |w| self.tell(w));
            // Before anything that it holds changes.
            (outcome, seat.and_then(waitgraph::Seat::leave))
        });
        match (outcome, stopped, verdict) {
            (Err(Unmet::TimedOut), Some(stop), _) => Err(stop),
            (Err(Unmet::TimedOut), None, Some(verdict)) => Err(verdict.named().into()),
            (outcome, ..) => Ok(outcome),
        }
    }

    /// Makes a permit of what was taken.
    fn grant(
        this: &Arc<Inner>,
        taken: Taken<'_>,
        wait: &Wait,
        inside: Option<&Inside<'_>>,
        place: &'static Location<'static>,
        asked: Option<Timestamp>,
    ) -> Permit {
        let now = this.clock.now();
        let (over, on_expiry) = this.terms(wait, now);
        let owner = wait.name.clone().unwrap_or_else(Caller::name);
        if let Some(owner) = &wait.owner {
            owner.note(this);
        }
        let entry = Entry {
            demand: *taken.needs,
            owner,
            owner_id: inside.map(|inside| inside.attempt).or(wait.owner.as_ref().map(|owner| owner.id())),
            // Inside an item the attempt holds, whose closure may use other threads.
            thread: inside.is_none().then(Caller::id),
            priority: wait.priority,
            since: now,
            place,
            on_expiry,
            lost_at: None,
        };
        this.took(&entry.demand, asked.map(|asked| now - asked), now);
        let mut permit = Self::enter(this, entry, over.map_or(NEVER, expiry));
        std::mem::forget(taken);
        permit.watch(wait.owner.as_ref().map(Owner::life));
        permit
    }

    /// Gives an entry its slot.
    pub(super) fn enter(this: &Arc<Inner>, entry: Entry, expiry: u64) -> Permit {
        let (demand, owner, priority) = (entry.demand, Arc::clone(&entry.owner), entry.priority);
        let (handle, earlier) = this.holders.enter(entry, expiry);
        if earlier {
            this.wake_asleep();
        }
        Permit::new(Arc::clone(this), handle, demand, owner, priority)
    }

    /// In addition to what a permit holds, now; the permit's to give back. `stands` is asked before tokens are spent.
    pub(super) fn take_more(
        &self,
        more: &Resolved<'_>,
        wait: &Wait,
        stands: impl FnOnce() -> Result<(), PermitError>,
    ) -> Result<(), PermitError> {
        let taken = self.take_now(&more.needs, wait)?;
        // Only now: who finds too little ends what is over, and this may be.
        stands()?;
        pay_now(self, &more.paces)?;
        std::mem::forget(taken);
        Ok(())
    }

    fn refused(&self, refused: Refused) -> AcquireError {
        match refused {
            Refused::Short { kind } => AcquireError::Full { kind: self.kind(kind) },
            Refused::Never { kind, asked, limit } => {
                AcquireError::NeverFits { kind: self.kind(kind), asked, limit }
            }
            Refused::Closed { kind } => AcquireError::Closed { kind: self.kind(kind) },
        }
    }

    fn count(&self, needs: &waitlist::Demand, error: &AcquireError) {
        for (_, _, book) in self.books(needs) {
            match error {
                AcquireError::TimedOut { .. } => book.tally.timed_out.add(1),
                AcquireError::Cancelled => book.cancelled.add(1),
                AcquireError::Deadlock(_) => book.deadlocks.add(1),
                AcquireError::NeverFits { .. } | AcquireError::Closed { .. } => book.tally.refused.add(1),
                _ => book.tally.denied.add(1),
            }
        }
    }

    /// Whether a lease until `expiry` is over.
    pub(super) fn is_over(&self, expiry: u64) -> bool {
        expiry < NEVER && expiry <= tick(self.clock.now())
    }
}
