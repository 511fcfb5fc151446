//! Tokens of rates for one demand: a place in each rate that is short, all of them spent or none.
//!
//! A place whose time has come while something else is waited for (a permit, another rate) would be used beside what the
//! bucket has filled up with since: ten who waited a minute for one permit, each with its token, would start as a burst of
//! ten. So no demand keeps a token that has come. What has come and cannot be used at once goes into the rate's *seat*,
//! which has room for one demand's tokens, and whoever has all the rest takes them from there:
//!
//! | a place | its demand has everything else | what is done with it |
//! |---|---|---|
//! | has not come | | is slept for, with no permit in hand |
//! | has come | yes | spent, all in one go |
//! | has come | no | its tokens go into the seat, if that has fewer; else it is given back, or lost if somebody is behind it |
//! | has come | no, and the demand has gone round [`LAPS`] times and has, or gets, the *late ticket* of its rates | it is kept |
//!
//! In any window a rate so lets through its burst, what comes by its rate, and the tokens of the two largest demands. A pause
//! holds for the seat, too. Who has its permits and finds neither bucket nor seat filled gives the permits up and takes a
//! place again, at the end: where permits are scarce, tokens that come are used by whoever has the permits then, not in the
//! order of the places. So that nobody goes round for ever, one demand at a time for each rate keeps what has come, by a
//! ticket. It is for all rates of the demand or for none: two who had half of it would each lack the other's.
//!
//! Nobody waits for a seat or a ticket, and so they are in no deadlock: whoever has a ticket waits for permits in their
//! line and for times that come.

use super::demand::Demand;
use super::error::AcquireError;
use super::inside::Inside;
use super::kind::ResourceKind;
use super::manager::Inner;
use super::wait::Wait;
use crate::core::waitlist;
use crate::limit::{Denied, LimitError, RateLimiter, Reservation};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::with_parker;
use crate::time::{Clock, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// A rate, and the tokens of it that have come for somebody who could not use them.
pub(super) struct Rated {
    pub(super) limiter: RateLimiter,
    seat: AtomicU64,
    /// Somebody has the late ticket.
    late: AtomicBool,
}

/// How often a demand loses what has come for it before it asks for the late ticket.
const LAPS: u32 = 3;

impl Rated {
    pub(super) fn new(limiter: RateLimiter) -> Self {
        Rated { limiter, seat: AtomicU64::new(0), late: AtomicBool::new(false) }
    }

    /// The tokens of a place that has come, for whoever can use them.
    fn put(&self, place: Reservation) {
        let n = place.n();
        // With as many there already, or moved by a change just now, it goes back.
        if self.seat.load(Ordering::Relaxed) < n && place.spend().is_ok() {
            self.put_back(n);
        }
    }

    /// Never more than one demand's: beside what others have put there meanwhile they are lost.
    fn put_back(&self, n: u64) {
        // Relaxed, here and below: it is a number, and guards nothing.
        self.seat.fetch_max(n, Ordering::Relaxed);
    }

    fn take(&self, n: u64) -> bool {
        let mut seat = self.seat.load(Ordering::Relaxed);
        if seat < n || self.limiter.is_paused() {
            return false;
        }
        while seat >= n {
            match self.seat.compare_exchange_weak(seat, seat - n, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seat = now,
            }
        }
        false
    }
}

/// Tokens of one rate that are asked for.
pub(super) struct Pace<'a> {
    rate: &'a ResourceKind,
    of: &'a Rated,
    n: u64,
}

/// What a demand asks of the rates.
pub(super) fn paces<'a>(
    rates: &'a BTreeMap<ResourceKind, Rated>,
    d: &'a Demand,
) -> Result<Vec<Pace<'a>>, AcquireError> {
    let pace = |(rate, n): (&'a ResourceKind, u64)| {
        let unknown = || AcquireError::UnknownRate { rate: rate.clone() };
        let of = rates.get(rate).ok_or_else(unknown)?;
        let burst = of.limiter.burst();
        if n > burst && !of.limiter.owes() {
            return Err(AcquireError::NeverFits { kind: rate.clone(), asked: n, limit: burst });
        }
        Ok(Pace { rate, of, n })
    };
    d.paces().map(pace).collect()
}

/// All tokens or none, now.
pub(super) fn pay_now(inner: &Inner, paces: &[Pace<'_>]) -> Result<(), AcquireError> {
    match paces {
        [] => Ok(()),
        [one] => one.pay(),
        several => {
            // One at a time, and looked at first: a place that is given back when another was taken behind it is lost.
            // (Takers of one rate may still come between; then tokens are lost, not the law.)
            let _paying = inner.paying.lock();
            let mut places = Places::new(inner, several);
            places.pay_several()
        }
    }
}

/// One rate of a demand that is not paid yet.
struct Part<'a> {
    pace: &'a Pace<'a>,
    place: Option<Reservation>,
    /// Its tokens are taken, for as long as it is being paid.
    taken: bool,
    /// Its place had come when it was last looked at.
    has_come: bool,
    /// It has no place, for the rate is paused without an end.
    paused: bool,
}

/// The late tickets of some rates.
struct Late<'a>(Vec<&'a AtomicBool>);

impl Drop for Late<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|ticket| ticket.store(false, Ordering::Release));
    }
}

/// What is still to be paid of a demand's tokens, and the places in hand.
pub(super) struct Places<'a> {
    inner: &'a Inner,
    left: Vec<Part<'a>>,
    /// How often something that had come was not kept.
    laps: u32,
    /// Behind the places: they go back first.
    late: Option<Late<'a>>,
}

impl<'a> Places<'a> {
    pub(super) fn new(inner: &'a Inner, paces: &'a [Pace<'a>]) -> Self {
        let part = |pace| Part { pace, place: None, taken: false, has_come: false, paused: false };
        Places { inner, left: paces.iter().map(part).collect(), laps: 0, late: None }
    }

    /// Pays, if all can be paid now.
    ///
    /// # Errors
    ///
    /// [`AcquireError::Paced`] names a rate whose tokens are not there. What was in hand still is.
    pub(super) fn pay(&mut self) -> Result<(), AcquireError> {
        match &*self.left {
            [] => Ok(()),
            [Part { pace, place: None, .. }] => {
                pace.pay()?;
                self.left.clear();
                Ok(())
            }
            _ => {
                let _paying = self.inner.paying.lock();
                self.pay_several()
            }
        }
    }

    fn pay_several(&mut self) -> Result<(), AcquireError> {
        let paid = self.all_have_come().and_then(|()| self.pay_missing());
        for part in self.left.iter_mut().filter(|part| part.taken) {
            part.taken = false;
            part.pace.of.put_back(part.pace.n);
        }
        paid
    }

    fn pay_missing(&mut self) -> Result<(), AcquireError> {
        for part in self.left.iter_mut().filter(|part| part.place.is_none()) {
            if let Err(denied) = part.pace.of.limiter.look(part.pace.n) {
                part.taken = part.pace.of.take(part.pace.n);
                if !part.taken {
                    return Err(part.pace.short(denied));
                }
            }
        }
        for part in self.left.iter_mut().filter(|part| part.place.is_none() && !part.taken) {
            part.place = Some(part.pace.reserve(None)?);
        }
        while self.left.iter().any(|part| part.place.is_some()) {
            self.all_have_come()?;
            for part in &mut self.left {
                if let Some(place) = part.place.take() {
                    // It comes back if a change has moved it just now.
                    part.place = place.spend().err();
                    part.taken = part.place.is_none();
                }
            }
        }
        self.left.clear();
        Ok(())
    }

    /// Places where tokens are not there now, `short` among them, if all of them come in time.
    pub(super) fn reserve(
        &mut self,
        short: &ResourceKind,
        left: Option<Duration>,
    ) -> Result<(), AcquireError> {
        let mut missing = Vec::new();
        // Looked at first: a place that is not taken need not be given back.
        for part in self.left.iter_mut().filter(|part| part.place.is_none()) {
            part.paused = false;
            match part.pace.of.limiter.look(part.pace.n) {
                Ok(()) if part.pace.rate != short => {}
                Err(denied) if left.is_some_and(|left| left < denied.ready_in) => {
                    return Err(part.pace.short(denied));
                }
                _ => missing.push(part),
            }
        }
        for part in missing {
            match part.pace.reserve(left) {
                // No place is to be had in such a pause: its end is waited for.
                Err(AcquireError::Paced { .. }) if left.is_none() && part.pace.is_paused_without_end() => {
                    part.paused = true;
                }
                place => part.place = Some(place?),
            }
        }
        Ok(())
    }

    /// Something else is waited for, for however long.
    pub(super) fn give_up(&mut self) {
        self.keep_or_put(|_| true);
    }

    /// These have come, or something else is waited for first: they are kept, or go into the seat.
    fn keep_or_put(&mut self, which: impl Fn(&Part<'_>) -> bool) {
        if !self.left.iter().any(|part| part.place.is_some() && which(part)) || self.keeps() {
            return;
        }
        self.laps += 1;
        for part in self.left.iter_mut().filter(|part| which(part)) {
            if let Some(place) = part.place.take() {
                part.pace.of.put(place);
            }
        }
    }

    /// Whether it has the late ticket, or gets it.
    fn keeps(&mut self) -> bool {
        if self.late.is_none() && self.laps >= LAPS {
            let mut late = Late(Vec::new());
            // In the order of the rates' names: of two who come at once one gets all.
            for part in &self.left {
                let ticket = &part.pace.of.late;
                if ticket.swap(true, Ordering::Acquire) {
                    return false;
                }
                late.0.push(ticket);
            }
            self.late = Some(late);
        }
        self.late.is_some()
    }

    /// Sleeps until all places in hand have come, with no permit in hand.
    pub(super) fn sleep(
        &mut self,
        (needs, paces): (&waitlist::Demand, &[Pace<'_>]),
        wait: &Wait,
        inside: Option<&Inside<'_>>,
        until: Option<Timestamp>,
    ) -> Result<(), AcquireError> {
        let inner = self.inner;
        with_parker(|parker| {
            // Entered before anything is looked at: a change before that is seen here, a later one wakes us.
            let _asleep = crate::sync::Entry::new(&inner.asleep, parker.unparker());
            let _cancel = wait.cancel.as_ref().map(|cancel| cancel.enter(parker.unparker()));
            let _inside = inside.map(|inside| inside.enter(parker));
            let placed = self.left.iter().filter(|part| part.place.is_some() || part.paused);
            let _changes: Vec<_> = placed.map(|part| part.pace.of.limiter.watch(parker.unparker())).collect();
            loop {
                // Read first: what is left until then is rather too much than too little.
                let left = until.map(|until| until - inner.clock.now());
                let Some((next, last)) = self.coming()? else { return Ok(()) };
                if let Some(stop) = inside.and_then(|inside| inside.look(parker, &waitlist::Demand::new())) {
                    return Err(stop);
                }
                if wait.cancel.as_ref().is_some_and(|cancel| cancel.is_cancelled()) {
                    return Err(AcquireError::Cancelled);
                }
                inner.still_open(paces)?;
                inner.still_possible(needs, wait)?;
                if left.is_some_and(|left| left < last.ready_in()) {
                    return Err(last.paced());
                }
                self.keep_or_put(|part| part.has_come);
                // By the reading before the sign of life that `look` gave.
                let beat = inside.and_then(|inside| inside.next_beat(next.now));
                next.clock.park(parker, Some(beat.map_or(next.at, |beat| beat.min(next.at))));
            }
        })
    }

    fn all_have_come(&mut self) -> Result<(), AcquireError> {
        self.coming()?.map_or(Ok(()), |(_, last)| Err(last.paced()))
    }

    /// Of the places in hand that have not come the next and the last. By the times of now: a change of a rate or a pause
    /// may have moved them, or a lower burst ended them.
    fn coming(&mut self) -> Result<Option<(Due<'a>, Due<'a>)>, AcquireError> {
        let mut coming: Option<(Due<'a>, Due<'a>)> = None;
        for part in &mut self.left {
            part.has_come = false;
            let pace = part.pace;
            let at = match &part.place {
                Some(place) => place.due().map_err(|error| pace.limited(error))?,
                None if part.paused && pace.is_paused_without_end() => Timestamp::MAX,
                None => continue,
            };
            let clock = pace.of.limiter.clock();
            let due = Due { rate: pace.rate, clock, now: clock.now(), at };
            if due.at <= due.now {
                part.has_come = true;
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
    pub(super) fn rate(&self) -> &ResourceKind {
        self.rate
    }

    /// One rate's tokens, from the bucket or the seat.
    fn pay(&self) -> Result<(), AcquireError> {
        match self.of.limiter.try_acquire(self.n) {
            Err(denied) if !self.of.take(self.n) => Err(self.short(denied)),
            _ => Ok(()),
        }
    }

    fn is_paused_without_end(&self) -> bool {
        self.of
            .limiter
            .look(self.n)
            .is_err_and(|denied| !denied.never_fits() && denied.ready_in == Duration::MAX)
    }

    /// A place that comes within `left`.
    fn reserve(&self, left: Option<Duration>) -> Result<Reservation, AcquireError> {
        self.of.limiter.reserve_within(self.n, left).map_err(|error| self.limited(error))
    }

    /// Why its tokens cannot be had now.
    fn short(&self, denied: Denied) -> AcquireError {
        let kind = self.rate.clone();
        match denied.never_fits() {
            // The burst fell since it was looked at.
            true => AcquireError::NeverFits { kind, asked: self.n, limit: self.of.limiter.burst() },
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
