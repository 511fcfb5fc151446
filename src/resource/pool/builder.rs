//! The settings of a pool, checked.

use super::error::PoolError;
use super::handle::Pool;
use super::holders::{Held, Holders};
use super::shared::{LeakListener, Settings, Shared};
use super::stats::Counts;
use crate::core::handover::Handover;
use crate::core::shelf::MAX_SLOTS;
use crate::error::Invalid;
use crate::job::{Priority, Retry};
use crate::limit::Quota;
use crate::sync::Arc;
use crate::sync::atomic::AtomicU64;
use crate::time::{Clock, Deadline, millis, secs, wall_ms};
use r2d2::ManageConnection;
use std::fmt;
use std::ops::Range;
use std::panic::Location;
use std::time::Duration;

const MAX_SIZE: u64 = 10;
/// The upkeep is done this often, or at half the shortest time it looks after.
const UPKEEP_EVERY: Duration = secs(30);

/// Settings of a [`Pool`]. From [`Pool::builder`].
///
/// | setting | default | |
/// |---|---|---|
/// | `max_size` | 10 | or a `quota` of one's own |
/// | `timeout` | 30 s | how long `get` may take |
/// | `min_idle` | 0 | |
/// | `max_lifetime` | 30 min | r2d2's default, as the next |
/// | `idle_timeout` | 10 min | |
/// | `check_after` | 0: always | |
/// | `backoff` | 10 ms to 1 s | between attempts to connect, full jitter |
/// | `leak_after` | none | |
/// | `clock` | [`Clock::fast`] | read twice for each connection used |
pub struct PoolBuilder<M: ManageConnection> {
    manager: M,
    max_size: Option<u64>,
    quota: Option<Quota>,
    timeout: Duration,
    min_idle: usize,
    max_lifetime: Option<Duration>,
    idle_timeout: Option<Duration>,
    check_after: Duration,
    backoff: Range<Duration>,
    leak_after: Option<Duration>,
    on_leak: Option<LeakListener>,
    clock: Option<Clock>,
}

impl<M: ManageConnection> PoolBuilder<M> {
    pub(super) fn new(manager: M) -> Self {
        PoolBuilder {
            manager,
            max_size: None,
            quota: None,
            timeout: secs(30),
            min_idle: 0,
            max_lifetime: Some(secs(30 * 60)),
            idle_timeout: Some(secs(10 * 60)),
            check_after: Duration::ZERO,
            backoff: millis(10)..secs(1),
            leak_after: None,
            on_leak: None,
            clock: None,
        }
    }

    /// At most so many connections, 1 to 32,767.
    pub fn max_size(mut self, connections: u64) -> Self {
        self.max_size = Some(connections);
        self
    }

    /// Connections are permits of this quota, which may be shared with others: with another pool on the same server, or
    /// with work that is to be bounded together with them. In place of [`max_size`](Self::max_size).
    ///
    /// ```
    /// # #[derive(Clone)] struct Manager;
    /// # impl r2d2::ManageConnection for Manager {
    /// #     type Connection = (); type Error = std::io::Error;
    /// #     fn connect(&self) -> Result<(), Self::Error> { Ok(()) }
    /// #     fn is_valid(&self, _: &mut ()) -> Result<(), Self::Error> { Ok(()) }
    /// #     fn has_broken(&self, _: &mut ()) -> bool { false }
    /// # }
    /// # use batchyard::r2d2;
    /// use batchyard::{Quota, resource::{Pool, PoolError}};
    /// let both = Quota::new(1)?;
    /// let readers = Pool::builder(Manager).quota(both.clone()).build()?;
    /// let writers = Pool::builder(Manager).quota(both).build()?;
    /// let reader = readers.get()?;
    /// assert!(matches!(writers.try_get(), Err(PoolError::Full)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// A permit is held by who uses a connection: what lies idle in two pools may be more together than the quota's limit.
    pub fn quota(mut self, quota: Quota) -> Self {
        self.quota = Some(quota);
        self
    }

    /// How long [`get`](Pool::get) may take, and [`build`](Self::build).
    #[doc(alias = "connection_timeout")]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// So many are to be idle: [`build`](Self::build) opens them, the idle timeout leaves them, and [`sweep`](Pool::sweep)
    /// opens those that are missing.
    pub fn min_idle(mut self, connections: usize) -> Self {
        self.min_idle = connections;
        self
    }

    /// A connection is closed when it is this old (up to a tenth less, at random, so that those opened together do not
    /// all end together), but not while it is in use. `None`: never.
    pub fn max_lifetime(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.max_lifetime = limit.into();
        self
    }

    /// A connection that nobody has used for this long is closed. `None`: never.
    pub fn idle_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = limit.into();
        self
    }

    /// [`is_valid`](ManageConnection::is_valid) is asked about a connection that lay idle for at least this long, before it
    /// is handed out. Zero: about each. [`Duration::MAX`]: about none.
    #[doc(alias = "test_on_check_out")]
    pub fn check_after(mut self, idle: Duration) -> Self {
        self.check_after = idle;
        self
    }

    /// The wait after the first failed attempt to connect, and the longest one: it doubles in between, and is drawn between
    /// nothing and that. A connection that comes back meanwhile goes to who waits so for longest.
    pub fn backoff(mut self, waits: Range<Duration>) -> Self {
        self.backoff = waits;
        self
    }

    /// A connection that is out for this long is reported as leaked: counted, told to [`on_leak`](Self::on_leak), and, with
    /// the feature `tracing`, as a warning. It stays out: nobody can take it from its user. Costs two more short latches, of
    /// its own, for each connection used. `None`: not looked for. Of the connections that a quota raised after `build` allows
    /// in addition, nobody knows this.
    pub fn leak_after(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.leak_after = limit.into();
        self
    }

    /// Told once of each connection that is out for `leak_after`, by a thread that happens to come by: one that gets a
    /// connection when the upkeep is due, one that has waited in vain, or one that [sweeps](Pool::sweep).
    pub fn on_leak(mut self, listener: impl Fn(&Held) + Send + Sync + 'static) -> Self {
        self.on_leak = Some(Box::new(listener));
        self
    }

    /// The clock of deadlines, lifetimes and waits. A [quota](Self::quota) that is given keeps its own, for those who wait.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Checks the settings, makes the pool, and opens `min_idle` connections.
    ///
    /// # Errors
    ///
    /// [`Invalid`](PoolError::Invalid) names the field at fault. As [`Pool::get`] if `min_idle` connections are not open
    /// within `timeout`.
    #[track_caller]
    pub fn build(self) -> Result<Pool<M>, PoolError<M::Error>> {
        let taken_at = Location::caller();
        let min_idle = self.min_idle;
        let shared = Arc::new(self.checked()?);
        let until = Deadline::at(shared.clock.now() + shared.settings.timeout);
        // All at once, so that each is another one; they come back, and are idle, when they are dropped.
        let opened: Result<Vec<_>, _> =
            (0..min_idle).map(|_| shared.get(Priority::Normal, until, taken_at)).collect();
        drop(opened?);
        Ok(Pool::of(shared))
    }

    fn checked(self) -> Result<Shared<M>, Invalid> {
        let clock = self.clock.unwrap_or_else(Clock::fast);
        let backoff = Retry::exponential(self.backoff.start..self.backoff.end);
        backoff.validate().map_err(|wrong| Invalid::new("backoff", wrong.problem))?;
        for (field, limit) in [
            ("timeout", Some(self.timeout)),
            ("max_lifetime", self.max_lifetime),
            ("idle_timeout", self.idle_timeout),
            ("leak_after", self.leak_after),
        ] {
            if limit == Some(Duration::ZERO) {
                return Err(Invalid::new(field, "must be above zero"));
            }
        }
        let owns_quota = self.quota.is_none();
        let quota = match (self.quota, self.max_size) {
            (Some(_), Some(_)) => {
                return Err(Invalid::new("max_size", "the quota says how many: leave one of both out"));
            }
            (Some(quota), None) => quota,
            (None, size) => Quota::with_clock(size.unwrap_or(MAX_SIZE), clock.clone())
                .map_err(|wrong| Invalid::new("max_size", wrong.problem))?,
        };
        let limit = quota.limit();
        let slots = usize::try_from(limit).ok().filter(|slots| *slots <= MAX_SLOTS).ok_or_else(|| {
            let field = if owns_quota { "max_size" } else { "quota" };
            Invalid::new(field, format!("{limit} is above {MAX_SLOTS}, the greatest number of connections"))
        })?;
        if self.min_idle > slots {
            let problem = format!("{} is above the greatest number of connections, {slots}", self.min_idle);
            return Err(Invalid::new("min_idle", problem));
        }
        let most = quota.most(Priority::Normal);
        if self.min_idle as u64 > most {
            let problem = format!(
                "{} is above {most}, the greatest number of connections less what the quota reserves",
                self.min_idle
            );
            return Err(Invalid::new("min_idle", problem));
        }
        let looked_after =
            [self.max_lifetime, self.idle_timeout, self.leak_after].into_iter().flatten().min();
        let upkeep_every = looked_after.map_or(Duration::MAX, |shortest| (shortest / 2).min(UPKEEP_EVERY));
        let first = clock.now() + upkeep_every;
        Ok(Shared {
            manager: self.manager,
            quota,
            shelf: Handover::new(slots),
            settings: Settings {
                timeout: self.timeout,
                min_idle: self.min_idle,
                max_lifetime: self.max_lifetime,
                idle_timeout: self.idle_timeout,
                check_after: self.check_after,
                backoff,
                upkeep_every,
                owns_quota,
            },
            clock,
            holders: Holders::new(slots, self.leak_after),
            on_leak: self.on_leak,
            counts: Counts::default(),
            upkeep_due: AtomicU64::new(first.as_nanos()),
            seed: AtomicU64::new(wall_ms() << 20),
        })
    }
}

impl<M: ManageConnection> fmt::Debug for PoolBuilder<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder")
            .field("max_size", &self.max_size)
            .field("quota", &self.quota)
            .field("timeout", &self.timeout)
            .field("min_idle", &self.min_idle)
            .field("max_lifetime", &self.max_lifetime)
            .field("idle_timeout", &self.idle_timeout)
            .field("check_after", &self.check_after)
            .field("backoff", &self.backoff)
            .field("leak_after", &self.leak_after)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}
