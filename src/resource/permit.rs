//! What is held.

use super::builder::checked_lease;
use super::demand::Demand;
use super::error::{AcquireError, PermitError};
use super::holders::{Entry, Handle};
use super::kind::ResourceKind;
use super::lapse::{expiry, tick};
use super::manager::Inner;
use super::owner::Life;
use super::wait::Wait;
use crate::core::lease::{NEVER, Standing};
use crate::core::waitlist::{self, MAX_PARTS};
use crate::job::Priority;
use crate::sync::Arc;
use std::fmt;
use std::time::Duration;

/// What a demand was given. It goes back when the permit is dropped, unless it was taken back before: then the permit
/// is stale, and neither gives back, renews nor changes anything.
///
/// It may go to another thread and be dropped there. (As far as
/// [`WouldHoldAndWait`](AcquireError::WouldHoldAndWait) goes, it is the first thread's until [`unbind`](Self::unbind).)
///
/// ```
/// use batchyard::{ResourceManager, resource::Demand};
/// let manager = ResourceManager::builder().quota("memory", 100).build()?;
/// let mut permit = manager.acquire(&Demand::new().need("memory", 60))?;
/// permit.shrink("memory", 20)?;
/// let part = permit.split(&Demand::new().need("memory", 10))?;
/// permit.extend(&Demand::new().need("memory", 60))?;
/// assert_eq!((permit.amount("memory"), part.amount("memory"), manager.available("memory")), (90, 10, Some(0)));
/// drop((permit, part));
/// assert_eq!(manager.available("memory"), Some(100));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping a permit gives it back"]
pub struct Permit {
    inner: Arc<Inner>,
    handle: Handle,
    demand: waitlist::Demand,
    owner: Arc<str>,
    priority: Priority,
    /// Its owner's, if it is somebody's in particular.
    life: Option<Life>,
}

impl Permit {
    pub(super) fn new(
        inner: Arc<Inner>,
        handle: Handle,
        demand: waitlist::Demand,
        owner: Arc<str>,
        priority: Priority,
    ) -> Self {
        Permit { inner, handle, demand, owner, priority, life: None }
    }

    /// Whose end it shares.
    pub(super) fn watch(&mut self, life: Option<Life>) {
        self.life = life;
    }

    /// Whose it is, by name.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// How much of a kind it holds, or held before it was taken back.
    pub fn amount(&self, kind: impl Into<ResourceKind>) -> u64 {
        self.inner.number(&kind.into()).map_or(0, |number| self.demand.amount(number))
    }

    /// Whether it still stands: before something is done that needs it.
    ///
    /// ```
    /// use batchyard::{ManualClock, ResourceManager, resource::{OnExpiry, PermitError}, secs};
    /// let time = ManualClock::new();
    /// let manager = ResourceManager::builder()
    ///     .quota("gpu", 1)
    ///     .lease(secs(60), OnExpiry::Reclaim)
    ///     .clock(time.clock())
    ///     .build()?;
    /// let permit = manager.acquire(&"gpu".into())?;
    /// time.advance(secs(59));
    /// permit.check()?;
    /// permit.renew(secs(60))?;
    /// time.advance(secs(60));
    /// assert!(matches!(permit.check(), Err(PermitError::Expired { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Expired`](PermitError::Expired), [`Overdue`](PermitError::Overdue).
    pub fn check(&self) -> Result<(), PermitError> {
        let inner = &*self.inner;
        // What is over is ended here, so that what is answered is also so.
        inner.sweep(inner.clock.now());
        match inner.holders.standing(self.handle) {
            Standing::Held(over) if !inner.is_over(over) => Ok(()),
            Standing::Gone => Err(self.expired()),
            Standing::Held(_) | Standing::Overdue => {
                Err(PermitError::Overdue { owner: self.owner.to_string() })
            }
        }
    }

    /// Holds it for so long from now on, whatever its lease was. One that is overdue stands again.
    ///
    /// # Errors
    ///
    /// [`Expired`](PermitError::Expired): it was taken back before, or is going to be, since the attempt that took it was
    /// given up. [`Invalid`](PermitError::Invalid) (`lease`): for no
    /// time.
    pub fn renew(&self, time: Duration) -> Result<(), PermitError> {
        checked_lease(Some(time))?;
        let inner = &*self.inner;
        let now = inner.clock.now();
        inner.sweep(now);
        let renewed = inner.holders.renew(self.handle, tick(now), expiry(now + time));
        if renewed.map_err(|_| self.expired())? {
            inner.wake_asleep();
        }
        Ok(())
    }

    /// Gives `n` of a kind back.
    ///
    /// # Errors
    ///
    /// [`NotHeld`](PermitError::NotHeld), [`Expired`](PermitError::Expired).
    pub fn shrink(&mut self, kind: impl Into<ResourceKind>, n: u64) -> Result<(), PermitError> {
        let part = self.part(&Demand::new().need(kind, n))?;
        self.without(&part)?;
        self.inner.give_back(&part);
        Ok(())
    }

    /// Makes a permit of its own of a part, with the same owner, lease and end.
    ///
    /// # Errors
    ///
    /// [`NotHeld`](PermitError::NotHeld), also for tokens of a rate, which are spent; [`Expired`](PermitError::Expired).
    pub fn split(&mut self, part: &Demand) -> Result<Permit, PermitError> {
        let part = self.part(part)?;
        let over = match self.inner.holders.standing(self.handle) {
            Standing::Held(over) => over,
            Standing::Overdue => tick(self.inner.clock.now()),
            Standing::Gone => return Err(self.expired()),
        };
        let entry = self.inner.holders.entry(self.handle).ok_or_else(|| self.expired())?;
        self.without(&part)?;
        let mut part = Inner::enter(&self.inner, Entry { demand: part, ..entry }, over);
        part.watch(self.life.clone());
        self.inner.holders.share_loss(self.handle, part.handle, tick(self.inner.clock.now()));
        // The owner's end may have come by the part's slot before the part was there. Then the part goes back here.
        self.inner.holders.pass(part.handle);
        if self.life.as_ref().is_some_and(Life::is_over) {
            return Err(self.expired());
        }
        Ok(part)
    }

    /// Takes more for this permit, if it is there. Never waits: who waits with something in hand may wait for one who
    /// does the same.
    ///
    /// # Errors
    ///
    /// [`NotNow`](PermitError::NotNow), [`Expired`](PermitError::Expired). It is as it was before.
    pub fn extend(&mut self, more: &Demand) -> Result<(), PermitError> {
        let inner = &*self.inner;
        let more = inner.resolve(more, std::panic::Location::caller())?;
        let stands = || match inner.holders.standing(self.handle) {
            Standing::Gone => Err(self.expired()),
            Standing::Held(_) | Standing::Overdue => Ok(()),
        };
        stands()?;
        let sum = self.demand.plus(&more.needs);
        let asked =
            self.demand.len() + more.needs.parts().filter(|(kind, _)| self.demand.amount(*kind) == 0).count();
        if asked > MAX_PARTS {
            return Err(AcquireError::TooManyKinds { asked, most: MAX_PARTS }.into());
        }
        inner.take_more(&more, &Wait::new().priority(self.priority), stands)?;
        inner.took(&more.needs, None, inner.clock.now());
        if inner.holders.edit(self.handle, |demand| *demand = sum).is_err() {
            inner.give_back(&more.needs);
            return Err(self.expired());
        }
        self.demand = sum;
        Ok(())
    }

    /// Says that it is handed on: the thread that took it may wait for other permits while this one is out.
    pub fn unbind(&mut self) {
        self.inner.holders.unbind(self.handle);
    }

    /// Whether it has a lease, and so an end of its own.
    pub fn is_leased(&self) -> bool {
        !matches!(self.inner.holders.standing(self.handle), Standing::Held(NEVER))
    }

    /// Ends it without giving back what it held: that is the caller's then. False: it was taken back before.
    pub(crate) fn into_bare(mut self) -> bool {
        let all = self.demand;
        self.without(&all).is_ok()
    }

    /// A part of what it holds, in the manager's numbers.
    fn part(&self, part: &Demand) -> Result<waitlist::Demand, PermitError> {
        let short = |kind: &ResourceKind, asked| PermitError::NotHeld {
            kind: kind.clone(),
            asked,
            held: self.amount(kind.clone()),
        };
        if let Some((rate, n)) = part.paces().next() {
            return Err(PermitError::NotHeld { kind: rate.clone(), asked: n, held: 0 });
        }
        let mut numbers = waitlist::Demand::new();
        for (kind, n) in part.needs() {
            match self.inner.number(kind) {
                Some(number) if self.demand.amount(number) >= n => numbers = numbers.and(number, n),
                _ => return Err(short(kind, n)),
            }
        }
        Ok(numbers)
    }

    fn without(&mut self, part: &waitlist::Demand) -> Result<(), PermitError> {
        let rest = self.demand.less(part).unwrap_or_default();
        self.inner.holders.edit(self.handle, |demand| *demand = rest).map_err(|_| self.expired())?;
        self.demand = rest;
        Ok(())
    }

    fn expired(&self) -> PermitError {
        PermitError::Expired { owner: self.owner.to_string() }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // What it holds is what its entry says: both change together, and by the permit's holder alone.
        match self.inner.holders.end(self.handle) {
            Ok(entry) => {
                self.inner.give_back(&self.demand);
                // Last: it may have the last of a function of the user's.
                drop(entry);
            }
            Err(_) => self.inner.late(&self.demand),
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holds = self.demand.parts().map(|(kind, n)| (self.inner.kind(kind), n)).collect::<Vec<_>>();
        f.debug_struct("Permit").field("owner", &self.owner).field("holds", &holds).finish()
    }
}
