//! A resource manager's settings.

use super::kind::ResourceKind;
use super::lapse::OnExpiry;
use super::manager::{Inner, Lapse, ResourceManager};
use super::stats::Holder;
use crate::core::permits::{CLASSES, Floors, MAX_CREDIT, MAX_LIMIT, MAX_WAITERS};
use crate::core::waitlist::Fairness;
use crate::error::Invalid;
use crate::job::Priority;
use crate::limit::{Order, RateLimiter, floors};
use crate::sync::Arc;
use crate::time::Clock;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A [`ResourceManager`] in the making; from [`ResourceManager::builder`].
///
/// ```
/// use batchyard::{Priority, Rate, RateLimiter, ResourceKind, ResourceManager, millis};
/// let manager = ResourceManager::builder()
///     .quota(ResourceKind::DatabaseConnection, 10)
///     .reserve_for(ResourceKind::DatabaseConnection, Priority::High, 2)
///     .quota("gpu", 2)
///     .rate("api", RateLimiter::new(Rate::per_second(100))?)
///     .bypass(8)
///     .patience(millis(20))
///     .max_waiters(1000)
///     .build()?;
/// assert_eq!(manager.limit("gpu"), Some(2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub struct ResourceManagerBuilder {
    quotas: Vec<(ResourceKind, u64)>,
    reserves: BTreeMap<ResourceKind, [u64; CLASSES]>,
    rates: Vec<(ResourceKind, RateLimiter)>,
    hidden: Vec<u64>,
    fairness: Fairness,
    max_waiters: usize,
    lease: Option<Duration>,
    on_expiry: OnExpiry,
    on_lapse: Option<Lapse>,
    clock: Option<Clock>,
}

impl fmt::Debug for ResourceManagerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResourceManagerBuilder")
            .field("quotas", &self.quotas)
            .field("rates", &self.rates)
            .finish_non_exhaustive()
    }
}

impl ResourceManagerBuilder {
    pub(super) fn new() -> Self {
        Self {
            quotas: Vec::new(),
            reserves: BTreeMap::new(),
            rates: Vec::new(),
            hidden: Vec::new(),
            fairness: Fairness::default(),
            max_waiters: MAX_WAITERS as usize,
            lease: None,
            on_expiry: OnExpiry::Report,
            on_lapse: None,
            clock: None,
        }
    }

    /// So much of a kind in all, 1 to 2^38, in whatever unit demands are made in.
    pub fn quota(mut self, kind: impl Into<ResourceKind>, limit: u64) -> Self {
        self.quotas.push((kind.into(), limit));
        self
    }

    /// Keeps `n` of a kind for demands of this priority and above, as
    /// [`QuotaBuilder::reserve_for`](crate::limit::QuotaBuilder::reserve_for) does.
    pub fn reserve_for(mut self, kind: impl Into<ResourceKind>, priority: Priority, n: u64) -> Self {
        let reserve = &mut self.reserves.entry(kind.into()).or_default()[priority.class()];
        *reserve = reserve.saturating_add(n);
        self
    }

    /// A rate, by a name or kind of its own: demands are paced by it. The same limiter may serve elsewhere, too.
    /// It serves first come, first served. A demand that sleeps for its tokens is re-timed when the rate changes.
    pub fn rate(mut self, name: impl Into<ResourceKind>, limiter: RateLimiter) -> Self {
        self.rates.push((name.into(), limiter));
        self
    }

    /// How often a demand that does not fit yet is passed by others that do, before what comes back is kept for it;
    /// 16 unless said, at most 31. 0: nobody is ever passed.
    pub fn bypass(mut self, times: u32) -> Self {
        self.fairness.bypass = times;
        self
    }

    /// How long a demand is passed at most, before what comes back is kept for it; 50 ms unless said.
    pub fn patience(mut self, time: Duration) -> Self {
        self.fairness.patience = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self
    }

    /// How many calls may wait at the same time; 262,143 unless said, which is also the most.
    pub fn max_waiters(mut self, n: usize) -> Self {
        self.max_waiters = n;
        self
    }

    /// How long a permit is held at most, unless it is [renewed](crate::resource::Permit::renew) or was asked for with
    /// another [lease](crate::resource::Wait::lease), and what becomes of it then. For ever unless said.
    pub fn lease(mut self, time: Duration, then: OnExpiry) -> Self {
        self.lease = Some(time);
        self.on_expiry = then;
        self
    }

    /// Told of every permit whose lease is over or whose owner is gone, and whether what it held was taken back: the
    /// place for a line in a log. What was taken back has been given on before. Called by whoever noticed, also by who
    /// drops an [`Owner`](crate::resource::Owner)'s last clone, with the locks that
    /// [`OnExpiry::Revoke`](crate::resource::OnExpiry::Revoke) speaks of; a panic in it is swallowed.
    pub fn on_lapse(mut self, f: impl Fn(&Holder, bool) + Send + Sync + 'static) -> Self {
        self.on_lapse = Some(Arc::new(f));
        self
    }

    /// The clock for deadlines, leases and reports; [`Clock::os`] unless said. Rates have their own.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Kinds without a name, for the engine's caps: their numbers in the wait list are 0 and up, and the named ones
    /// follow. They are in no demand, report or count.
    pub(crate) fn hidden(mut self, limits: impl IntoIterator<Item = u64>) -> Self {
        self.hidden.extend(limits);
        self
    }

    /// The manager, all of it free.
    ///
    /// # Errors
    ///
    /// Names `quota.KIND` (zero, above 2^38, or given twice), `rate.NAME` (given twice, or by priority), `reserve` (for a kind without a
    /// quota, or leaving nothing for the lowest class), `bypass`, `max_waiters`, or `lease` (zero).
    pub fn build(self) -> Result<ResourceManager, Invalid> {
        let mut index = BTreeMap::new();
        let mut kinds: Vec<(u64, Floors)> = self.hidden.iter().map(|limit| (*limit, [0; CLASSES])).collect();
        for (kind, limit) in &self.quotas {
            checked(kind, *limit)?;
            let number = u16::try_from(kinds.len()).map_err(|_| Invalid::new("quota", "too many kinds"))?;
            if index.insert(kind.clone(), number).is_some() {
                return Err(Invalid::new(format!("quota.{kind}"), "is given twice"));
            }
            let floors = match self.reserves.get(kind) {
                Some(reserves) => floors(*limit, reserves)
                    .map_err(|wrong| Invalid::new("reserve", format!("of `{kind}`, {}", wrong.problem)))?,
                None => [0; CLASSES],
            };
            kinds.push((*limit, floors));
        }
        if let Some(kind) = self.reserves.keys().find(|kind| !index.contains_key(kind)) {
            return Err(Invalid::new("reserve", format!("there is no quota for `{kind}`")));
        }
        let mut rates = BTreeMap::new();
        for (name, limiter) in self.rates {
            if limiter.order() == Order::Priority {
                let problem = "serves by priority, and demands here hold places ahead: build it first come, first served";
                return Err(Invalid::new(format!("rate.{name}"), problem));
            }
            if rates.insert(name.clone(), limiter).is_some() {
                return Err(Invalid::new(format!("rate.{name}"), "is given twice"));
            }
        }
        if self.fairness.bypass > MAX_CREDIT {
            return Err(Invalid::new("bypass", format!("must be at most {MAX_CREDIT}")));
        }
        if !(1..=MAX_WAITERS as usize).contains(&self.max_waiters) {
            return Err(Invalid::new("max_waiters", format!("must be 1 to {MAX_WAITERS}")));
        }
        checked_lease(self.lease)?;
        Ok(ResourceManager::from_inner(Inner::new(
            self.clock.unwrap_or_else(Clock::os),
            kinds,
            self.quotas.into_iter().map(|(kind, _)| kind).collect(),
            index,
            rates,
            self.fairness,
            self.max_waiters,
            (self.lease, self.on_expiry),
            self.on_lapse,
        )))
    }
}

/// A lease that can be, if there is one.
pub(super) fn checked_lease(lease: Option<Duration>) -> Result<(), Invalid> {
    match lease {
        Some(Duration::ZERO) => Err(Invalid::new("lease", "must be longer than nothing")),
        _ => Ok(()),
    }
}

/// A limit that can be.
pub(super) fn checked(kind: &ResourceKind, limit: u64) -> Result<(), Invalid> {
    let field = || format!("quota.{kind}");
    match limit {
        0 => Err(Invalid::new(field(), "must be at least 1; a quota of none would never give a permit")),
        1..=MAX_LIMIT => Ok(()),
        _ => Err(Invalid::new(field(), format!("{limit} is above the greatest quota, {MAX_LIMIT}"))),
    }
}
