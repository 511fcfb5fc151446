//! How those wait who must: each to its own place ([`Order::Fifo`](super::Order::Fifo)), or in a line of which one watches the
//! clock ([`Order::Priority`](super::Order::Priority)).

#[cfg(test)]
mod laws;

use super::error::LimitError;
use super::limiter::{Inner, RateLimiter};
use super::reservation::Grant;
use crate::core::bucket::{Short, Slot};
use crate::core::leader::{Claim, Leader, Left, Take, Turn};
use crate::core::sleepers::Look;
use crate::core::waitlist::Waiter;
use crate::job::Priority;
use crate::sync::{Parker, Unparker, with_parker};
use crate::time::{Deadline, Timestamp};

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
            let take = |claim| self.take_for(claim);
            return self.wait_in_line(line, n, priority, deadline, || self.most(), take);
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
        let look = || match self.bucket.has_come(now, slot) {
            None => Look::Done(Err(self.never_fits(n))),
            Some(true) => Look::Done(Ok(())),
            Some(false) if slot.start > latest => {
                let tick = (slot.start < u64::MAX).then_some(slot.start);
                let ready_in = self.ready_in(tick, self.clock.raw());
                Look::Done(Err(LimitError::WouldMissDeadline { ready_in }))
            }
            Some(false) => Look::Sleep(self.slot_time(slot)),
        };
        let since = self.clock.now().as_nanos();
        let entered = || {
            if let Some(counts) = &self.counts {
                counts.queued(self.sleepers.waiting() as u64);
            }
        };
        with_parker(|parker| {
            self.sleepers.sleep(parker, since, entered, look, |parker, until| {
                self.clock.park(parker, Some(until));
            })
        })
    }

    /// Waits in order of priority. See `core/leader.rs`. `most`: what is more than that never fits.
    pub(super) fn wait_in_line(
        &self,
        line: &Leader,
        n: u64,
        priority: Priority,
        deadline: Deadline,
        most: impl Fn() -> u64,
        take: impl FnMut(Claim) -> Take,
    ) -> Result<Grant<'_>, LimitError> {
        let never = |burst| LimitError::NeverFits { asked: n, burst };
        // Nobody would tell it before it is the head.
        let burst = most();
        if n > burst {
            return Err(never(burst));
        }
        let asked = self.clock.now();
        let until = deadline.on(&self.clock);
        let latest = until.map_or(u64::MAX, |until| self.clock.raw_at(until));
        let mut why = None;
        let park = |parker: &Parker, turn: Turn| {
            if let Some(counts) = &self.counts {
                counts.queued(line.waiting());
            }
            // It may have joined after the burst was lowered.
            let burst = most();
            let now = || self.clock.now();
            let wake = match turn {
                _ if n > burst => Err(never(burst)),
                // Behind the deadline, even as the next.
                Turn::Lead { due, .. } if due > latest || (due == u64::MAX && until.is_some()) => {
                    let tick = (due < u64::MAX).then_some(due);
                    Err(LimitError::WouldMissDeadline { ready_in: self.ready_in(tick, self.clock.raw()) })
                }
                Turn::Lead { due, rise } => {
                    // Out of the clock's reach, as in a pause without an end: until it is told.
                    let due = (due < u64::MAX).then(|| self.time_of(due));
                    Ok(due.into_iter().chain(rise.map(Timestamp::from_nanos)).min())
                }
                _ if until.is_some_and(|until| now() >= until) => {
                    Err(LimitError::TimedOut { waited: now() - asked })
                }
                _ => Ok(until),
            };
            let stays = wake.is_ok();
            match wake {
                Ok(wake) => drop(self.clock.park(parker, wake)),
                Err(error) => why = Some(error),
            }
            stays
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
            Err(Left::GaveUp) => Err(why.unwrap_or_else(|| never(most()))),
            Err(Left::Never) => Err(never(most())),
        }
    }

    /// The largest demand that ever fits.
    fn most(&self) -> u64 {
        if self.bucket.owes() { u64::MAX } else { self.settings.lock().rate.burst_size() }
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
        self.sleepers.wake_all();
    }

    /// After the burst may have been lowered: who asks for more hears it now.
    pub(super) fn refuse_above_burst(&self) {
        if let Some(line) = self.line.as_ref().filter(|_| !self.bucket.owes()) {
            line.refuse_above(self.most(), &mut |claim| self.take_for(claim), &mut tell);
        }
    }
}

pub(super) fn tell(waiter: &Waiter) {
    match waiter {
        Waiter::Thread(thread) => thread.unpark(),
        Waiter::Lane(_) => {} // lanes are the engine's; none queues here
    }
}

/// A place in a limiter's list of whom to wake at changes, for who does not sleep on the limiter; leaves it when dropped.
pub(crate) struct Watch {
    limiter: RateLimiter,
    number: u64,
}

impl Watch {
    pub(super) fn new(limiter: RateLimiter, who: Unparker) -> Self {
        // It is this one's to leave.
        let number = limiter.inner().sleepers.enter(who, None).keep();
        Watch { limiter, number }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.limiter.inner().sleepers.leave(self.number);
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("number", &self.number).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Rate;
    use crate::time::{ManualClock, secs};

    #[test]
    fn a_pause_that_prolongs_nothing_wakes_nobody() {
        let time = ManualClock::new();
        let limiter = RateLimiter::builder(Rate::per_second(1)).clock(time.clock()).build().unwrap();
        with_parker(|parker| {
            let _entry = limiter.watch(parker.unparker());
            let is_woken = || time.clock().park(parker, Some(time.now()));
            limiter.pause_until(secs(30));
            assert!(is_woken());
            for until in [secs(30), secs(29), secs(0)] {
                limiter.pause_until(until);
                assert!(!is_woken(), "{until:?}");
            }
            limiter.pause_until(secs(31));
            assert!(is_woken());
        });
    }
}
