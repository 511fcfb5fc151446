//! How those wait who must: each to its own place ([`Order::Fifo`](super::Order::Fifo)), or in a line of which one watches the
//! clock ([`Order::Priority`](super::Order::Priority)).

#[cfg(test)]
mod laws;

use super::error::LimitError;
use super::limiter::{Inner, RateLimiter};
use super::reservation::Grant;
use crate::core::bucket::{Short, Slot};
use crate::core::leader::{Claim, Leader, Left, Take, Turn};
use crate::core::waitlist::Waiter;
use crate::job::Priority;
use crate::sync::{Parker, Unparker, with_parker};
use crate::time::{Deadline, Timestamp};
use std::collections::BTreeMap;

/// Who sleeps, by an entry number, to be woken when the terms change.
#[derive(Default)]
pub(super) struct Sleepers {
    entered: u64,
    /// With the time since when a call waits; none for who only watches the settings.
    asleep: BTreeMap<u64, (Unparker, Option<Timestamp>)>,
    waiting: usize,
}

impl Sleepers {
    /// How many calls wait, and since when the one that waits longest.
    pub(super) fn waiting(&self) -> (usize, Option<Timestamp>) {
        (self.waiting, self.asleep.values().filter_map(|(_, since)| *since).min())
    }
}

impl Inner {
    #[cold]
    pub(super) fn acquire_slow(
        &self,
        n: u64,
        priority: Priority,
        deadline: Deadline,
    ) -> Result<Grant<'_>, LimitError> {
        if n == 0 {
            return Ok(Grant::at_once(self.clock.raw(), self.scale, n).of(self));
        }
        let acquired = self.take_or_wait(n, priority, deadline);
        match (&self.counts, acquired) {
            (Some(counts), Ok(grant)) => {
                counts.granted_after(n, grant.waited());
                Ok(grant)
            }
            (Some(_), Err(error)) => Err(self.counting_error(error)),
            (None, acquired) => acquired,
        }
    }

    fn take_or_wait(&self, n: u64, priority: Priority, deadline: Deadline) -> Result<Grant<'_>, LimitError> {
        let now = || self.clock.raw();
        if self.nobody_waits()
            && let Ok(stamp) = self.bucket.try_take(now, n)
        {
            return Ok(Grant::at_once(stamp, self.scale, n).of(self));
        }
        if let Some(line) = &self.line {
            return self.wait_in_line(line, n, priority, deadline, |claim| self.take_for(claim));
        }
        let asked = self.clock.now();
        let latest = deadline.on(&self.clock).map_or(u64::MAX, |deadline| self.clock.raw_at(deadline));
        let mut slot =
            self.bucket.reserve(|| self.clock.raw(), n, latest).map_err(|short| self.refused(short, n))?;
        match self.sleep_until(&mut slot, n, latest) {
            Ok(()) => Ok(Grant::after(asked, self.slot_time(&slot), n).of(self)),
            Err(error) => {
                self.give_back(&slot, n);
                Err(error)
            }
        }
    }

    pub(super) fn sleep_until(&self, slot: &mut Slot, n: u64, latest: u64) -> Result<(), LimitError> {
        let now = || self.clock.raw();
        if slot.start <= now() && self.bucket.has_come(now, slot) == Some(true) {
            return Ok(());
        }
        with_parker(|parker| {
            // Entered first, then the terms are read: a change before the entry is seen here, a later one wakes us.
            let _entry = Sleeper::new(self, parker.unparker(), Some(self.clock.now()));
            loop {
                match self.bucket.has_come(now, slot) {
                    None => return Err(self.never_fits(n)),
                    Some(true) => return Ok(()),
                    Some(false) => {}
                }
                if slot.start > latest {
                    let tick = (slot.start < u64::MAX).then_some(slot.start);
                    return Err(LimitError::WouldMissDeadline {
                        ready_in: self.ready_in(tick, self.clock.raw()),
                    });
                }
                self.clock.park(parker, Some(self.slot_time(slot)));
            }
        })
    }

    /// Waits in order of priority. See `core/leader.rs`.
    pub(super) fn wait_in_line(
        &self,
        line: &Leader,
        n: u64,
        priority: Priority,
        deadline: Deadline,
        take: impl FnMut(Claim) -> Take,
    ) -> Result<Grant<'_>, LimitError> {
        let asked = self.clock.now();
        let until = deadline.on(&self.clock);
        let latest = until.map_or(u64::MAX, |until| self.clock.raw_at(until));
        let mut hopeless = None;
        let park = |parker: &Parker, turn: Turn| {
            if let Some(counts) = &self.counts {
                counts.queued(line.waiting());
            }
            let wake = match turn {
                // Out of the clock's reach, or behind the deadline even as the next.
                Turn::Lead { due, .. } if due > latest || due == u64::MAX => {
                    hopeless = Some(due);
                    return false;
                }
                Turn::Lead { due, rise } => {
                    Some(self.time_of(due).min(rise.map_or(Timestamp::MAX, Timestamp::from_nanos)))
                }
                _ if until.is_some_and(|until| self.clock.now() >= until) => return false,
                _ => until,
            };
            self.clock.park(parker, wake);
            true
        };
        let taken = with_parker(|parker| {
            let now = || self.clock.now().as_nanos();
            line.acquire((n, priority.class()), parker, now, take, park, tell)
        });
        match taken {
            Ok(stamp) if stamp <= self.clock.raw_at(asked) => {
                Ok(Grant::after(asked, self.clock.at_raw(stamp).max(asked), n).of(self))
            }
            Ok(stamp) => Ok(Grant::after(asked, self.time_of(stamp), n).of(self)),
            Err(Left::Never) => Err(self.never_fits(n)),
            Err(Left::GaveUp) => Err(match hopeless {
                Some(due) => {
                    let tick = (due < u64::MAX).then_some(due);
                    LimitError::WouldMissDeadline { ready_in: self.ready_in(tick, self.clock.raw()) }
                }
                None => LimitError::TimedOut { waited: self.clock.now() - asked },
            }),
        }
    }

    /// From when on a claim may be granted, and the time now.
    pub(super) fn from(&self, claim: Claim) -> (u64, u64) {
        let now = self.clock.raw();
        let came = self.clock.raw_at(Timestamp::from_nanos(claim.since));
        (came.max(claim.last).min(now), now)
    }

    /// Takes the head's tokens as of the first moment at which they were there, if that has come.
    pub(super) fn take_for(&self, claim: Claim) -> Take {
        let (from, now) = self.from(claim);
        match self.bucket.reserve(|| from, claim.n, now) {
            Ok(slot) => Take::At(slot.start),
            Err(Short::Until { tick, .. }) => Take::Until(tick.unwrap_or(u64::MAX)),
            Err(Short::NeverFits { .. }) => Take::Never,
        }
    }

    /// After the terms have changed.
    pub(super) fn wake_all(&self) {
        if let Some(line) = &self.line {
            line.kick(&mut tell);
        }
        let asleep: Vec<Unparker> =
            self.sleepers.lock().asleep.values().map(|(who, _)| who.clone()).collect();
        for sleeper in asleep {
            sleeper.unpark();
        }
    }

    /// After the burst was lowered: who asks for more hears it now.
    pub(super) fn refuse_above(&self, burst: u64) {
        if let Some(line) = self.line.as_ref().filter(|_| !self.bucket.owes()) {
            line.refuse_above(burst, &mut |claim| self.take_for(claim), &mut tell);
        }
    }
}

pub(super) fn tell(waiter: &Waiter) {
    match waiter {
        Waiter::Thread(thread) => thread.unpark(),
        Waiter::Lane(_) => {} // lanes are the engine's; none queues here
    }
}

/// A sleeper's place in the list; leaves it when dropped.
pub(super) struct Sleeper<'a> {
    inner: &'a Inner,
    number: u64,
}

impl<'a> Sleeper<'a> {
    pub(super) fn new(inner: &'a Inner, unparker: Unparker, since: Option<Timestamp>) -> Self {
        let mut sleepers = inner.sleepers.lock();
        sleepers.entered += 1;
        let number = sleepers.entered;
        sleepers.asleep.insert(number, (unparker, since));
        if since.is_some() {
            sleepers.waiting += 1;
            if let Some(counts) = &inner.counts {
                counts.queued(sleepers.waiting as u64);
            }
        }
        Sleeper { inner, number }
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        let mut sleepers = self.inner.sleepers.lock();
        let left = sleepers.asleep.remove(&self.number);
        sleepers.waiting -= usize::from(left.is_some_and(|(_, since)| since.is_some()));
    }
}

/// A place in a limiter's list of whom to wake at changes, for who does not sleep on the limiter; leaves it when dropped.
pub(crate) struct Watch {
    limiter: RateLimiter,
    number: u64,
}

impl Watch {
    pub(super) fn new(limiter: RateLimiter, who: Unparker) -> Self {
        let place = Sleeper::new(limiter.inner(), who, None);
        let number = place.number;
        std::mem::forget(place); // it is this one's to leave
        Watch { limiter, number }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.limiter.inner().sleepers.lock().asleep.remove(&self.number);
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("number", &self.number).finish()
    }
}
