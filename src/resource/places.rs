//! Tokens of rates for one demand: places in the rates, all of them or none spent, with nothing in hand that would be used
//! late.
//!
//! A place whose time has come while something else is waited for (a permit, another rate) would be used beside what the
//! bucket has filled up with since: ten who waited a minute for one permit, each with its token, would start as a burst of
//! ten. So what has come and cannot be used at once is kept by one demand at a time for each rate, the one with the
//! *late ticket*; the others give theirs back and try anew:
//!
//! | a place | its demand has everything else | what is done with it |
//! |---|---|---|
//! | has not come | | is slept for, with no permit in hand |
//! | has come | yes | spent, all in one go |
//! | has come | no, and it has the late ticket of its rates, or gets it | kept |
//! | has come | no, another has the ticket | given back; a new one is had when everything else was there |
//! | has not come, and a permit must be queued for | | as one that has come |
//!
//! In any window a rate so lets through its burst, what comes by its rate, and what one demand asks for. Nobody waits for
//! a ticket, and so it is in no deadlock: whoever has it waits for permits in their line and for times that come, and
//! whoever does not have it goes round once more. The ticket is for all rates of a demand or for none: two who had half
//! of it would each lack the other's.

use super::demand::Demand;
use super::error::AcquireError;
use super::inside::Inside;
use super::kind::ResourceKind;
use super::manager::Inner;
use super::wait::Wait;
use crate::core::waitlist;
use crate::limit::{Denied, LimitError, RateLimiter, Reservation};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::with_parker;
use crate::time::{Clock, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// Tokens of one rate that are asked for.
pub(super) struct Pace<'a> {
    rate: &'a ResourceKind,
    limiter: &'a RateLimiter,
    n: u64,
}

/// What a demand asks of the rates.
pub(super) fn paces<'a>(
    rates: &'a BTreeMap<ResourceKind, RateLimiter>,
    d: &'a Demand,
) -> Result<Vec<Pace<'a>>, AcquireError> {
    let pace = |(rate, n): (&'a ResourceKind, u64)| {
        let unknown = || AcquireError::UnknownRate { rate: rate.clone() };
        let limiter = rates.get(rate).ok_or_else(unknown)?;
        let burst = limiter.burst();
        if n > burst && !limiter.owes() {
            return Err(AcquireError::NeverFits { kind: rate.clone(), asked: n, limit: burst });
        }
        Ok(Pace { rate, limiter, n })
    };
    d.paces().map(pace).collect()
}

/// All tokens or none, now.
pub(super) fn pay_now(inner: &Inner, paces: &[Pace<'_>]) -> Result<(), AcquireError> {
    match paces {
        [] => Ok(()),
        [one] => one.pay(),
        several => Places::new(inner, several).pay(),
    }
}

/// What is still to be paid of a demand's tokens, and the places in hand.
pub(super) struct Places<'a> {
    inner: &'a Inner,
    /// With the place in it, if there is one. What is paid is gone.
    left: Vec<(&'a Pace<'a>, Option<Reservation>)>,
    /// Behind the places: they go back first.
    late: Option<Late<'a>>,
}

/// The late tickets of some rates.
struct Late<'a>(Vec<&'a AtomicBool>);

impl Drop for Late<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|ticket| ticket.store(false, Ordering::Release));
    }
}

impl<'a> Places<'a> {
    pub(super) fn new(inner: &'a Inner, paces: &'a [Pace<'a>]) -> Self {
        Places { inner, left: paces.iter().map(|pace| (pace, None)).collect(), late: None }
    }

    /// Pays, if all can be paid now.
    ///
    /// # Errors
    ///
    /// [`AcquireError::Paced`] names a rate whose tokens are not there. What is in hand then is to be kept or given back.
    pub(super) fn pay(&mut self) -> Result<(), AcquireError> {
        if let [(pace, None)] = &*self.left {
            pace.pay()?;
            self.left.clear();
        }
        if self.left.is_empty() {
            return Ok(());
        }
        // One at a time, and looked at first: a place that is given back when another was taken behind it is
        // lost. (Takers of one rate may still come between; then tokens are lost, not the law.)
        let _paying = self.inner.paying.lock();
        self.all_have_come()?;
        for (pace, _) in self.left.iter().filter(|(_, place)| place.is_none()) {
            pace.limiter.look(pace.n).map_err(|denied| pace.short(denied))?;
        }
        for (pace, place) in self.left.iter_mut().filter(|(_, place)| place.is_none()) {
            *place = Some(pace.reserve()?);
        }
        while !self.left.is_empty() {
            self.all_have_come()?;
            // Those are left that a change has moved just now.
            self.left.retain_mut(|(_, place)| {
                *place = place.take().and_then(|place| place.spend().err());
                place.is_some()
            });
        }
        Ok(())
    }

    /// Places where tokens are not there now, `short` among them.
    pub(super) fn reserve(&mut self, short: &ResourceKind) -> Result<(), AcquireError> {
        for (pace, place) in self.left.iter_mut().filter(|(_, place)| place.is_none()) {
            if pace.rate == short || pace.limiter.look(pace.n).is_err() {
                *place = Some(pace.reserve()?);
            }
        }
        Ok(())
    }

    /// Something else is waited for, for however long: what is in hand is kept with the late ticket, or given back.
    pub(super) fn keep_or_give_back(&mut self) {
        if self.left.iter().any(|(_, place)| place.is_some()) && !self.has_ticket() {
            self.left.iter_mut().for_each(|(_, place)| drop(place.take()));
        }
    }

    /// Sleeps until all places in hand have come, with no permit in hand.
    pub(super) fn sleep(
        &mut self,
        wait: &Wait,
        inside: Option<&Inside<'_>>,
        until: Option<Timestamp>,
    ) -> Result<(), AcquireError> {
        with_parker(|parker| {
            let _cancel = wait.cancel.as_ref().map(|cancel| cancel.enter(parker.unparker()));
            let _inside = inside.map(|inside| inside.enter(parker));
            // Entered before the times are read: a change before that is seen here, a later one wakes us.
            let placed = self.left.iter().filter(|(_, place)| place.is_some());
            let _changes: Vec<_> = placed.map(|(pace, _)| pace.limiter.watch(parker.unparker())).collect();
            while let Some((next, last)) = self.coming()? {
                if let Some(stop) = inside.and_then(|inside| inside.look(parker, &waitlist::Demand::new())) {
                    return Err(stop);
                }
                if wait.cancel.as_ref().is_some_and(|cancel| cancel.is_cancelled()) {
                    return Err(AcquireError::Cancelled);
                }
                if until.is_some_and(|until| until - self.inner.clock.now() < last.ready_in()) {
                    return Err(last.paced());
                }
                self.keep_or_give_back_what_has_come();
                // By the reading before the sign of life that `look` gave.
                let beat = inside.and_then(|inside| inside.next_beat(next.now));
                next.clock.park(parker, Some(beat.map_or(next.at, |beat| beat.min(next.at))));
            }
            Ok(())
        })
    }

    fn keep_or_give_back_what_has_come(&mut self) {
        let has_come = |pace: &Pace<'_>, place: &Reservation| {
            place.due().is_ok_and(|at| at <= pace.limiter.clock().now())
        };
        let any = self.left.iter().any(|(pace, place)| place.as_ref().is_some_and(|at| has_come(pace, at)));
        if any && !self.has_ticket() {
            for (pace, place) in &mut self.left {
                place.take_if(|place| has_come(pace, place));
            }
        }
    }

    /// Whether it has the late ticket; takes it if nobody has it.
    fn has_ticket(&mut self) -> bool {
        if self.late.is_none() {
            let inner = self.inner;
            let mut late = Late(Vec::new());
            // In the order of the rates: of two who come at once one gets all.
            for ((rate, _), ticket) in inner.rates.iter().zip(&inner.late) {
                if !self.left.iter().any(|(pace, _)| pace.rate == rate) {
                    continue;
                }
                if ticket.swap(true, Ordering::Acquire) {
                    return false;
                }
                late.0.push(ticket);
            }
            self.late = Some(late);
        }
        true
    }

    fn all_have_come(&self) -> Result<(), AcquireError> {
        self.coming()?.map_or(Ok(()), |(_, last)| Err(last.paced()))
    }

    /// Of the places in hand that have not come the next and the last. By the times of now: a change of a rate or a pause
    /// may have moved them, or a lower burst ended them.
    fn coming(&self) -> Result<Option<(Due<'a>, Due<'a>)>, AcquireError> {
        let mut coming: Option<(Due<'a>, Due<'a>)> = None;
        for (pace, place) in &self.left {
            let Some(place) = place else { continue };
            let at = place.due().map_err(|error| pace.limited(error))?;
            let clock = pace.limiter.clock();
            let due = Due { rate: pace.rate, clock, now: clock.now(), at };
            if due.at <= due.now {
                continue;
            }
            coming = Some(match coming {
                None => (due, due),
                Some((next, last)) => (
                    if due.ready_in() < next.ready_in() { due } else { next },
                    if due.ready_in() >= last.ready_in() { due } else { last },
                ),
            });
        }
        Ok(coming)
    }
}

/// When tokens come, by the clock of their limiter and its reading.
#[derive(Clone, Copy)]
struct Due<'a> {
    rate: &'a ResourceKind,
    clock: &'a Clock,
    now: Timestamp,
    at: Timestamp,
}

impl Due<'_> {
    fn ready_in(&self) -> Duration {
        self.at - self.now
    }

    fn paced(&self) -> AcquireError {
        AcquireError::Paced { rate: self.rate.clone(), ready_in: self.ready_in() }
    }
}

impl Pace<'_> {
    fn pay(&self) -> Result<(), AcquireError> {
        self.limiter.try_acquire(self.n).map(drop).map_err(|denied| self.short(denied))
    }

    fn reserve(&self) -> Result<Reservation, AcquireError> {
        self.limiter.reserve(self.n).map_err(|error| self.limited(error))
    }

    /// Why its tokens cannot be had now.
    fn short(&self, denied: Denied) -> AcquireError {
        let kind = self.rate.clone();
        match denied.never_fits() {
            // The burst fell since it was looked at.
            true => AcquireError::NeverFits { kind, asked: self.n, limit: self.limiter.burst() },
            false => AcquireError::Paced { rate: kind, ready_in: denied.ready_in },
        }
    }

    fn limited(&self, error: LimitError) -> AcquireError {
        let rate = self.rate.clone();
        match error {
            LimitError::NeverFits { asked, burst } => {
                AcquireError::NeverFits { kind: rate, asked, limit: burst }
            }
            LimitError::WouldMissDeadline { ready_in } => AcquireError::Paced { rate, ready_in },
            _ => AcquireError::Paced { rate, ready_in: Duration::MAX },
        }
    }
}
