//! Getting a connection and bringing it back.

use super::connection::PooledConnection;
use super::error::PoolError;
use super::holders::{Held, Holders};
use super::stats::{Counts, Why};
use crate::core::handover::Handover;
use crate::core::shelf::Place;
use crate::job::{Priority, Retry};
use crate::limit::{Permit, Quota, QuotaError};
use crate::policy::backoff;
use crate::policy::rng::{Rng, scale};
use crate::resource::guarded::guarded;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Parker, with_parker};
use crate::time::{Clock, Deadline, Timestamp};
use r2d2::ManageConnection;
use std::panic::Location;
use std::time::Duration;

/// A connection ends its life by up to this share earlier than `max_lifetime`, at random: those that were opened
/// together are not closed, and opened anew, together. A tenth of half an hour is three minutes.
const LIFETIME_JITTER: u64 = 10;

/// An open connection.
pub(super) struct Live<C> {
    pub(super) connection: C,
    /// When its lifetime is over.
    pub(super) ends: Timestamp,
}

/// One that nobody uses.
pub(super) struct Idle<C> {
    pub(super) live: Live<C>,
    pub(super) since: Timestamp,
}

/// What the builder has checked.
pub(super) struct Settings {
    pub(super) timeout: Duration,
    pub(super) min_idle: usize,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) check_after: Duration,
    pub(super) backoff: Retry,
    /// How often who comes by does the upkeep.
    pub(super) upkeep_every: Duration,
    /// Whether the quota is nobody else's.
    pub(super) owns_quota: bool,
}

pub(super) type LeakListener = Box<dyn Fn(&Held) + Send + Sync>;

/// On lines of its own: each connection in use counts itself beside it, and others read it meanwhile.
#[repr(align(128))]
pub(super) struct Shared<M: ManageConnection> {
    pub(super) manager: M,
    pub(super) quota: Quota,
    /// With who sleeps between two attempts to connect, with a permit and without a connection: for as long as nothing can be
    /// opened, as when the server admits fewer than the quota does, what comes back is for them.
    pub(super) shelf: Handover<Idle<M::Connection>>,
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) holders: Holders,
    pub(super) on_leak: Option<LeakListener>,
    pub(super) counts: Counts,
    /// When the upkeep is due, in nanoseconds of the clock.
    pub(super) upkeep_due: AtomicU64,
    pub(super) seed: AtomicU64,
}

/// A connection, and the slot that is kept for it.
type Found<M> = (Option<Place>, Live<<M as ManageConnection>::Connection>);

/// Why an attempt to connect failed.
enum Failed<E> {
    Error(E),
    Panic(String),
}

impl<E: std::error::Error> Failed<E> {
    fn told(self, attempts: u32, waited: Duration) -> PoolError<E> {
        match self {
            Failed::Error(source) => PoolError::Connect { source, attempts, waited },
            Failed::Panic(message) => PoolError::Panicked { message, attempts, waited },
        }
    }
}

impl<M: ManageConnection> Shared<M> {
    #[inline]
    pub(super) fn get(
        self: &Arc<Self>,
        priority: Priority,
        deadline: Deadline,
        taken_at: &'static Location<'static>,
    ) -> Result<PooledConnection<M>, PoolError<M::Error>> {
        let start = self.clock.now();
        self.come_by(start);
        if let Ok(permit) = self.quota.try_acquire_as(1, priority) {
            return self.connection(permit, start, start, deadline.counted_from(start), true, taken_at);
        }
        let until = deadline.counted_from(start);
        let permit = self.wait(priority, start, until)?;
        self.connection(permit, start, self.clock.now(), until, true, taken_at)
    }

    pub(super) fn try_get(
        self: &Arc<Self>,
        taken_at: &'static Location<'static>,
    ) -> Result<PooledConnection<M>, PoolError<M::Error>> {
        let now = self.clock.now();
        self.come_by(now);
        match self.quota.try_acquire(1) {
            Ok(permit) => self.connection(permit, now, now, None, false, taken_at),
            Err(refused) => Err(self.refused(refused)),
        }
    }

    /// A connection for who has a permit.
    #[inline]
    fn connection(
        self: &Arc<Self>,
        permit: Permit<'_>,
        start: Timestamp,
        now: Timestamp,
        until: Option<Timestamp>,
        retry: bool,
        taken_at: &'static Location<'static>,
    ) -> Result<PooledConnection<M>, PoolError<M::Error>> {
        if let Some((place, mut idle)) = self.shelf.take() {
            let Some(why) = self.unfit(&mut idle, now) else {
                return Ok(PooledConnection::new(self, permit, (Some(place), idle.live), taken_at, now));
            };
            self.retire(idle.live, Some(place), why);
        }
        let found = self.find(start, until, retry)?;
        Ok(PooledConnection::new(self, permit, found, taken_at, self.clock.now()))
    }

    #[cold]
    fn wait(
        &self,
        priority: Priority,
        start: Timestamp,
        until: Option<Timestamp>,
    ) -> Result<Permit<'_>, PoolError<M::Error>> {
        // The quota may have a clock of its own.
        let deadline = until.map_or(Deadline::NEVER, |until| Deadline::within(until - start));
        match self.quota.acquire_with(1, priority, deadline) {
            Ok(permit) => {
                self.counts.waited(self.clock.now() - start);
                Ok(permit)
            }
            Err(QuotaError::TimedOut { .. }) => {
                // When all connections are out for good, this is who comes by.
                self.report_leaks(self.clock.now());
                Err(self.timed_out(start))
            }
            Err(refused) => Err(self.refused(refused)),
        }
    }

    fn refused(&self, refused: QuotaError) -> PoolError<M::Error> {
        match refused {
            QuotaError::Full => PoolError::Full,
            QuotaError::Closed if self.settings.owns_quota => PoolError::Closed,
            other => PoolError::Quota(other),
        }
    }

    fn timed_out(&self, start: Timestamp) -> PoolError<M::Error> {
        self.counts.timed_out.add_one();
        PoolError::TimedOut { waited: self.clock.now() - start }
    }

    /// An idle connection or a new one, for who has a permit and did not find one at once.
    #[cold]
    fn find(
        &self,
        start: Timestamp,
        until: Option<Timestamp>,
        retry: bool,
    ) -> Result<Found<M>, PoolError<M::Error>> {
        let mut attempts = 0;
        let mut found = self.shelf.take();
        loop {
            while let Some((place, mut idle)) = found {
                let Some(why) = self.unfit(&mut idle, self.clock.now()) else {
                    return Ok((Some(place), idle.live));
                };
                self.retire(idle.live, Some(place), why);
                if until.is_some_and(|until| self.clock.now() > until) {
                    return Err(self.timed_out(start));
                }
                found = self.shelf.take();
            }
            if self.shelf.is_closed() {
                return Err(PoolError::Closed);
            }
            let failed = match self.open() {
                Ok(live) if self.shelf.is_closed() => {
                    self.retire(live, None, Why::PoolClosed);
                    return Err(PoolError::Closed);
                }
                Ok(live) => return Ok((self.shelf.claim(), live)),
                Err(failed) => failed,
            };
            attempts += 1;
            let now = self.clock.now();
            let next = now + backoff::delay(&self.settings.backoff, attempts, self.random());
            if !retry || until.is_some_and(|until| next >= until) {
                if retry {
                    self.counts.timed_out.add_one();
                }
                return Err(failed.told(attempts, now - start));
            }
            found = self.doze(start, next);
        }
    }

    /// Opens a connection; the caller may, by the rule at the head of the folder.
    fn open(&self) -> Result<Live<M::Connection>, Failed<M::Error>> {
        match guarded(|| self.manager.connect()) {
            Ok(Ok(connection)) => {
                self.counts.opened();
                Ok(Live { connection, ends: self.end_of_life() })
            }
            Ok(Err(error)) => {
                self.counts.failed_to_open(text(&error));
                Err(Failed::Error(error))
            }
            Err(message) => {
                self.counts.failed_to_open(message.clone());
                self.counts.panicked(message.clone());
                Err(Failed::Panic(message))
            }
        }
    }

    /// As `open`, where the error has nobody to go to.
    pub(super) fn open_quietly(&self) -> Option<Live<M::Connection>> {
        self.open().ok()
    }

    fn end_of_life(&self) -> Timestamp {
        match self.settings.max_lifetime {
            None => Timestamp::MAX,
            Some(lifetime) => {
                let ns = u64::try_from(lifetime.as_nanos()).unwrap_or(u64::MAX);
                let earlier = scale(self.random(), ns / LIFETIME_JITTER);
                self.clock.now() + Duration::from_nanos(ns - earlier)
            }
        }
    }

    fn random(&self) -> u64 {
        Rng::seeded(self.seed.fetch_add(1, Ordering::Relaxed)).next_u64()
    }

    /// Sleeps until then, until a connection comes back, or until the pool closes. What came back, or lies there.
    fn doze(&self, called: Timestamp, until: Timestamp) -> Option<(Place, Idle<M::Connection>)> {
        let over = || self.clock.now() >= until;
        let park = |parker: &Parker| _ = self.clock.park(parker, Some(until));
        with_parker(|parker| self.shelf.sleep(called.as_nanos(), parker, over, park))
    }

    /// Whether, and why, an idle connection is not to be handed out.
    #[inline]
    fn unfit(&self, idle: &mut Idle<M::Connection>, now: Timestamp) -> Option<Why> {
        if let Some(why) = self.expired(idle, now, || self.shelf.len() >= self.settings.min_idle) {
            return Some(why);
        }
        if now - idle.since < self.settings.check_after {
            return None;
        }
        match guarded(|| self.manager.is_valid(&mut idle.live.connection)) {
            Ok(Ok(())) => return None,
            Ok(Err(error)) => self.counts.failed(text(&error)),
            Err(message) => self.counts.panicked(message),
        }
        Some(Why::Invalid)
    }

    /// Whether its time is over. `spare`: whether enough others are idle.
    #[inline]
    pub(super) fn expired(
        &self,
        idle: &Idle<M::Connection>,
        now: Timestamp,
        spare: impl FnOnce() -> bool,
    ) -> Option<Why> {
        if idle.live.ends <= now {
            return Some(Why::Lifetime);
        }
        let timeout = self.settings.idle_timeout?;
        (now - idle.since >= timeout && spare()).then_some(Why::Idle)
    }

    /// The other half of a get. The caller still has the permit, and gives it back after this.
    #[inline]
    pub(super) fn bring_back(&self, mut live: Live<M::Connection>, place: Option<Place>, discarded: bool) {
        if let Some(place) = &place
            && self.holders.brings(place)
        {
            self.counts.leaks_returned.add_one();
        }
        let now = self.clock.now();
        let unwanted = if discarded { Some(Why::Discarded) } else { self.unwanted(&mut live, now) };
        match (unwanted, place) {
            (None, Some(place)) => self.pass_on(place, Idle { live, since: now }),
            (why, place) => self.retire(live, place, why.unwrap_or(Why::Surplus)),
        }
    }

    #[inline]
    fn unwanted(&self, live: &mut Live<M::Connection>, now: Timestamp) -> Option<Why> {
        match guarded(|| self.manager.has_broken(&mut live.connection)) {
            Ok(false) => {}
            Ok(true) => return Some(Why::Broken),
            Err(message) => {
                self.counts.panicked(message);
                return Some(Why::Broken);
            }
        }
        if live.ends <= now {
            return Some(Why::Lifetime);
        }
        // A debt: the limit was lowered, and there are more than it allows.
        (self.quota.available() < 0).then_some(Why::Surplus)
    }

    /// To who sleeps between two attempts, or on the shelf. Called with a permit in hand.
    #[inline]
    pub(super) fn pass_on(&self, place: Place, idle: Idle<M::Connection>) {
        // SAFETY: there is one shelf in a pool, and its places stay within.
        if let Err((place, idle)) = unsafe { self.shelf.bring(place, idle) } {
            self.retire(idle.live, Some(place), Why::PoolClosed);
        }
    }

    /// Closes a connection. Called with a permit in hand, which is given back when it is gone.
    #[cold]
    pub(super) fn retire(&self, live: Live<M::Connection>, place: Option<Place>, why: Why) {
        if let Err(message) = guarded(|| drop(live)) {
            self.counts.panicked(message);
        }
        self.counts.closed(why);
        if let Some(place) = place {
            // SAFETY: as in `pass_on`.
            unsafe { self.shelf.vacate(place) }
        }
    }
}

/// What an error of the manager's says, if it can.
fn text(error: &impl std::error::Error) -> String {
    guarded(|| error.to_string()).unwrap_or_else(|panic| panic)
}
