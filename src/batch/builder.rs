//! Opening an engine.

use super::Engine;
use crate::core::permits::MAX_LIMIT;
use crate::core::waitlist::Waiter;
use crate::engine::cpu::Pool;
use crate::engine::gate::{Gate, caps};
use crate::engine::shared::{Limits, Shared};
use crate::engine::supervisor::supervise;
use crate::engine::worker::{self, WorkerState};
use crate::engine::{EngineConfig, Error, Event, Listener, Workers};
use crate::error::Invalid;
use crate::job::{Durability, Priority, Retry};
use crate::limit::{Order, Rate, RateLimiter};
use crate::resource::{ResourceKind, ResourceManager};
#[cfg(feature = "sqlite")]
use crate::store::sqlite::{Journal, News, Options, Orphans};
use crate::sync::{Arc, Parker, thread};
use crate::time::Clock;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What [`Engine::builder`] collects before [`open`](EngineBuilder::open).
///
/// Without further ado it is an engine in memory with a worker per processor, 64 items in flight for each, and no
/// limit on anything else.
///
/// ```
/// use batchyard::{Engine, Rate, ResourceKind};
/// let engine = Engine::builder()
///     .workers(4)
///     .in_memory()
///     .quota(ResourceKind::DatabaseConnection, 10)
///     .rate("api", Rate::per_second(200).burst(50))
///     .open()?;
/// assert_eq!(engine.stats().workers.len(), 4);
/// # Ok::<(), batchyard::Error>(())
/// ```
#[must_use = "an engine is opened by .open()"]
pub struct EngineBuilder {
    config: EngineConfig,
    rates: BTreeMap<String, Rate>,
    limiters: BTreeMap<String, RateLimiter>,
    reserves: Vec<(ResourceKind, Priority, u64)>,
    reclaim_after: Option<Duration>,
    clock: Option<Clock>,
    rayon_threads: Option<usize>,
    panic_hook: bool,
    listener: Option<Listener>,
    #[cfg(feature = "sqlite")]
    kill: Option<Box<dyn FnMut(&Orphans) + Send>>,
}

impl EngineBuilder {
    pub(super) fn new(config: EngineConfig) -> Self {
        Self {
            config,
            rates: BTreeMap::new(),
            limiters: BTreeMap::new(),
            reserves: Vec::new(),
            reclaim_after: None,
            clock: None,
            rayon_threads: None,
            panic_hook: true,
            listener: None,
            #[cfg(feature = "sqlite")]
            kill: None,
        }
    }

    /// How many worker threads: a number, or [`Workers::auto`] (the default: as many as there are processors).
    pub fn workers(mut self, workers: impl Into<Workers>) -> Self {
        self.config.workers = workers.into();
        self
    }

    /// Keeps everything in memory. It is the default, and says so in the reader's face.
    pub fn in_memory(mut self) -> Self {
        self.config.journal = None;
        self
    }

    /// Keeps batches in this file, which is made if it is not there: a SQLite database that survives `kill -9`. The same
    /// batch, opened again, goes on where it was. One engine at a time has a journal; that of a process that died is
    /// taken over.
    ///
    /// A journal is looked through for damage when it is opened: wholly, indexes included, if its last owner died (some
    /// 2 s of a processor for 100 MB) or it has less than 16 MiB; otherwise its structure and its counters (a quarter of
    /// a second for 100 MB), beyond 512 MiB for a second. Rows carry checksums, which are looked at whenever they are read.
    ///
    /// Look into it from this process through SQLite alone: closing a plain file that was opened on it (a copy, a
    /// checksum) takes away the locks that the process has there, as POSIX has it, and other processes get in between.
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("batchyard-doc-{}", std::process::id()));
    /// # std::fs::create_dir_all(&dir)?;
    /// # let path = dir.join("work.db");
    /// use batchyard::Engine;
    /// for run in 1..=2 {
    ///     let engine = Engine::builder().workers(2).journal(&path).open()?;
    ///     let batch = engine.batch("squares").submit(0..10u64, |n, _| Ok(n * n))?;
    ///     let sum: u64 = batch.results().map(|item| item.unwrap().outcome.unwrap()).sum();
    ///     let report = batch.wait()?;
    ///     // The second run finds all of them done.
    ///     assert_eq!((sum, report.resumed_items), (285, if run == 1 { 0 } else { 10 }));
    ///     engine.shutdown(batchyard::secs(5))?;
    /// }
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn journal(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.journal = Some(path.into());
        self
    }

    /// What the journal's commits survive. By default [`Durability::ProcessCrash`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.config.durability = durability;
        self
    }

    /// How long a full disk is waited for before the batches are halted. By default for ever.
    pub fn disk_wait(mut self, limit: Duration) -> Self {
        // 0 stands for ever, so a part of a second is a whole one.
        self.config.disk_wait_seconds = limit.as_secs() + u64::from(limit.subsec_nanos() > 0);
        self
    }

    /// Called with what a dead owner of the journal left running, before its items run again.
    #[cfg(feature = "cli")]
    pub(crate) fn on_orphans(mut self, kill: impl FnMut(&Orphans) + Send + 'static) -> Self {
        self.kill = Some(Box::new(kill));
        self
    }

    /// At most `limit` units of a resource are used by items at once. What an item uses it says with
    /// [`needs`](crate::BatchBuilder::needs).
    pub fn quota(mut self, kind: impl Into<ResourceKind>, limit: usize) -> Self {
        self.config.quotas.insert(kind.into(), limit);
        self
    }

    /// A rate that batches can be [`paced_by`](crate::BatchBuilder::paced_by).
    pub fn rate(mut self, name: impl Into<String>, rate: Rate) -> Self {
        self.rates.insert(name.into(), rate);
        self
    }

    /// As [`rate`](Self::rate), by a limiter that is used elsewhere as well, or that needs settings beyond a rate. It goes
    /// by the engine's clock ([`Clock::fast`], unless the engine was given another), and serves first come, first served.
    ///
    /// ```
    /// use batchyard::{Engine, Rate, RateLimiter};
    /// let api = RateLimiter::builder(Rate::per_second(100)).max_rate(Rate::per_second(1000)).build()?;
    /// let engine = Engine::builder().in_memory().limiter("api", api.clone()).open()?;
    /// engine.batch("calls").paced_by("api").map(0..3, |n, _| Ok(*n))?;
    /// api.set_rate(Rate::per_second(500))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn limiter(mut self, name: impl Into<String>, limiter: RateLimiter) -> Self {
        self.limiters.insert(name.into(), limiter);
        self
    }

    /// Keeps `n` units of a resource for batches of this priority and above.
    ///
    /// ```
    /// use batchyard::{Engine, Priority, ResourceKind};
    /// let engine = Engine::builder()
    ///     .in_memory()
    ///     .quota(ResourceKind::DatabaseConnection, 10)
    ///     .reserve_for(ResourceKind::DatabaseConnection, Priority::High, 2)
    ///     .open()?;
    /// # Ok::<(), batchyard::Error>(())
    /// ```
    pub fn reserve_for(mut self, kind: impl Into<ResourceKind>, priority: Priority, n: u64) -> Self {
        self.reserves.push((kind.into(), priority, n));
        self
    }

    /// After which time what an abandoned attempt holds is given to others, though its thread has not returned. Never,
    /// unless said: then it stays charged until the thread returns.
    pub fn reclaim_after(mut self, time: Duration) -> Self {
        self.reclaim_after = Some(time);
        self
    }

    /// At most this many batches run at once; the others wait for a place. 1 to 60, by default 60.
    pub fn max_concurrent_batches(mut self, n: usize) -> Self {
        self.config.max_concurrent_batches = n;
        self
    }

    /// At most this many items of one batch are in hand at once.
    pub fn max_concurrent_items_per_batch(mut self, n: usize) -> Self {
        self.config.max_concurrent_items_per_batch = n;
        self
    }

    /// At most this many items of all batches are in hand at once.
    pub fn max_total_concurrent_items(mut self, n: usize) -> Self {
        self.config.max_total_concurrent_items = n;
        self
    }

    /// The retry policy of batches that name none. By default [`Retry::none`].
    pub fn retry(mut self, retry: Retry) -> Self {
        self.config.retry = retry;
        self
    }

    /// How many results a held, unread iterator lets the engine run ahead. By default 1,024.
    pub fn result_window(mut self, results: usize) -> Self {
        self.config.result_window = results;
        self
    }

    /// How long an item may go on after it was told to stop, before it is abandoned. By default 5 s.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.config.grace_seconds = grace.as_secs_f64();
        self
    }

    /// Whether waits of items for locks and permits are searched for deadlocks; they are by default. See
    /// [`EngineConfig::enable_deadlock_detection`].
    pub fn deadlock_detection(mut self, search: bool) -> Self {
        self.config.enable_deadlock_detection = search;
        self
    }

    /// The clock everything is timed by. By default [`Clock::fast`].
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Threads of the rayon pool behind [`Context::install`](crate::Context::install). By default as many as there
    /// are processors. They start at its first use.
    pub fn rayon_threads(mut self, threads: usize) -> Self {
        self.rayon_threads = Some(threads);
        self
    }

    /// Whether the process-wide panic hook is extended, once, so that the place of an item's panic is known. It is
    /// by default; the hook that was there before still runs.
    pub fn panic_hook(mut self, install: bool) -> Self {
        self.panic_hook = install;
        self
    }

    /// Calls this for every [`Event`], on the thread it happens on: be quick, and do not wait for what may wait for
    /// this call, such as a thread inside [`Batch::wait`](crate::Batch::wait). A panic of it is caught and ignored.
    pub fn on_event(mut self, listener: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.listener = Some(Box::new(listener));
        self
    }

    /// Starts the engine.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] and [`Error::Limit`] name the setting that cannot be; [`Error::Thread`] when the system
    /// gives no thread.
    pub fn open(self) -> Result<Engine, Error> {
        let config = self.config;
        config.validate()?;
        if config.journal.is_some() && config.durability == Durability::Memory {
            let problem = "`memory` keeps nothing: leave the journal out, or choose another durability";
            return Err(Invalid::new("durability", problem).into());
        }
        #[cfg(not(feature = "sqlite"))]
        if config.journal.is_some() {
            let problem = "this build has no journal (feature `sqlite`): leave it out to run in memory";
            return Err(Invalid::new("journal", problem).into());
        }
        if self.reclaim_after == Some(Duration::ZERO) {
            let problem = "0 would give away what is in use: leave it out for never";
            return Err(Invalid::new("reclaim_after", problem).into());
        }
        if self.rayon_threads == Some(0) {
            return Err(Invalid::new("rayon_threads", "must be at least 1").into());
        }
        let clock = self.clock.unwrap_or_else(Clock::fast);
        let workers = config.workers.count();
        let mut rates = BTreeMap::new();
        if config.enable_rate_limiting {
            for (name, rate) in rates_of(&config)? {
                rates.insert(name, limiter(rate, &clock)?);
            }
            for (name, rate) in self.rates {
                rate.validate(&format!("rates.{name}"))?;
                rates.insert(name, limiter(rate, &clock)?);
            }
            for (name, limiter) in self.limiters {
                if !limiter.uses_clock(&clock) {
                    let problem = "goes by another clock than the engine: build both with the same";
                    return Err(Invalid::new(format!("limiter.{name}"), problem).into());
                }
                if limiter.order() == Order::Priority {
                    let problem = "serves by priority: an engine's rate is first come, first served, by lane";
                    return Err(Invalid::new(format!("limiter.{name}"), problem).into());
                }
                if rates.insert(name.clone(), limiter).is_some() {
                    return Err(Invalid::new(format!("limiter.{name}"), "is given as a rate, too").into());
                }
            }
        }
        let quotas: Vec<_> = if config.enable_resource_throttling { quotas_of(&config) } else { Vec::new() };
        let cap = |limit: usize| (limit < workers).then_some(limit as u64);
        let per_batch = config.max_concurrent_items_per_batch.min(config.max_workers_per_batch);
        let total = cap(config.max_total_concurrent_items);
        let seconds = |n: u64| (n != u64::MAX).then(|| Duration::from_secs(n));
        let limits = Limits {
            workers,
            max_batches: config.max_concurrent_batches,
            batch_cap: cap(per_batch).map_or(u32::MAX, |n| n as u32),
            total_cap: total.is_some(),
            waiting_rows: config.in_flight(),
            result_window: config.result_window,
            grace: Duration::from_secs_f64(config.grace_seconds),
            hang_after: seconds(config.worker_timeout_seconds),
            batch_deadline: seconds(config.batch_timeout_seconds),
            // "None" stands for the number of workers.
            max_abandoned: u32::try_from(match config.max_abandoned {
                usize::MAX => workers,
                n => n,
            })
            .unwrap_or(u32::MAX),
            throttling: config.enable_resource_throttling,
            rate_limiting: config.enable_rate_limiting,
            retry: config.retry,
            detection: config.enable_deadlock_detection,
            metered: config.enable_performance_monitoring,
            seed: config.seed.unwrap_or_else(crate::time::wall_ms),
        };
        if self.panic_hook {
            worker::install_panic_hook();
        }
        let states: Vec<_> =
            (0..workers).map(|id| WorkerState::new(id, limits.seed, limits.metered)).collect();
        let slots = states.iter().map(|state| Arc::clone(&state.slot)).collect();
        let pool = Pool::new(self.rayon_threads.unwrap_or_else(|| Workers::auto().count()));
        let mut resources = ResourceManager::builder().hidden(caps(total)).clock(clock.clone());
        for (kind, limit) in quotas {
            resources = resources.quota(kind, limit);
        }
        if config.enable_resource_throttling {
            for (kind, priority, n) in self.reserves {
                resources = resources.reserve_for(kind, priority, n);
            }
        }
        for (name, limiter) in &rates {
            resources = resources.rate(name.clone(), limiter.clone());
        }
        let listener = self.listener.map(Arc::new);
        let there = listener.clone();
        resources = resources.on_lapse(move |holder, reclaimed| {
            crate::engine::tell(there.as_deref(), &Event::PermitLapsed { holder, reclaimed });
        });
        let reclaim_after = self.reclaim_after.or(seconds(config.reclaim_after_seconds));
        let gate = Gate::new(resources.build()?, rates, reclaim_after);
        #[cfg(feature = "sqlite")]
        let journal = match &config.journal {
            Some(path) => {
                let there = listener.clone();
                let mut kill = self.kill.unwrap_or_else(|| Box::new(|_: &Orphans| ()));
                Some(Journal::open(
                    path,
                    Options {
                        durability: config.durability,
                        workers,
                        patience: seconds(config.disk_wait_seconds),
                        kill: &mut kill,
                        tell: Box::new(move |news| tell_of_journal(there.as_deref(), news)),
                    },
                )?)
            }
            None => None,
        };
        let shared = Arc::new(Shared::new(
            clock,
            limits,
            gate,
            pool,
            slots,
            #[cfg(feature = "sqlite")]
            journal,
            listener,
        ));
        let lanes = Arc::downgrade(&shared);
        shared.gate.manager.on_lane(move |lane| {
            if let Some(shared) = lanes.upgrade() {
                shared.wake(&Waiter::Lane(lane));
            }
        });
        let own = Arc::downgrade(&shared);
        let is_ours = move || own.upgrade().is_some_and(|shared| worker::on_worker_of(&shared));
        shared.gate.manager.forbid(is_ours);
        let engine = Engine::of(Arc::clone(&shared));
        // From here on an error drops the engine, which stops what has started.
        let parker = Parker::new();
        shared.set_supervisor(parker.unparker());
        let there = Arc::clone(&shared);
        shared.thread_started();
        thread::Builder::new()
            .name("batchyard-supervisor".into())
            .spawn(move || {
                supervise(&there, &parker);
                there.thread_ended();
            })
            .map_err(|error| {
                shared.thread_ended();
                Error::Thread(error)
            })?;
        for state in states {
            worker::start(&shared, state).map_err(Error::Thread)?;
        }
        Ok(engine)
    }
}

/// Tells the listener what happens to the journal.
#[cfg(feature = "sqlite")]
fn tell_of_journal(listener: Option<&Listener>, news: News<'_>) {
    let event = match news {
        News::Stalled(error) => Event::JournalStalled { error },
        News::GoesOn => Event::JournalResumed,
        News::Lost(error) => Event::JournalLost { error },
    };
    crate::engine::tell(listener, &event);
}

/// The configuration's rates; `max_api_calls_per_second` is the one named `api`.
fn rates_of(config: &EngineConfig) -> Result<BTreeMap<String, Rate>, Error> {
    let mut rates = BTreeMap::new();
    if config.max_api_calls_per_second.is_finite() {
        rates.insert("api".to_owned(), Rate::per_second_f64(config.max_api_calls_per_second));
    }
    for (name, text) in &config.rates {
        let rate = text
            .parse::<Rate>()
            .map_err(|error| Invalid::new(format!("rates.{name}"), format!("`{text}`: {error}")))?;
        rates.insert(name.clone(), rate);
    }
    Ok(rates)
}

/// The configuration's quotas; `max_database_connections` is the database connections'.
fn quotas_of(config: &EngineConfig) -> Vec<(ResourceKind, u64)> {
    let mut quotas = config.quotas.clone();
    if config.max_database_connections != usize::MAX {
        quotas.entry(ResourceKind::DatabaseConnection).or_insert(config.max_database_connections);
    }
    quotas.into_iter().map(|(kind, limit)| (kind, (limit as u64).min(MAX_LIMIT))).collect()
}

fn limiter(rate: Rate, clock: &Clock) -> Result<RateLimiter, Error> {
    Ok(RateLimiter::builder(rate).clock(clock.clone()).build()?)
}

impl fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineBuilder")
            .field("config", &self.config)
            .field("rates", &self.rates)
            .finish_non_exhaustive()
    }
}
