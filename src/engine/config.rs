//! Everything an engine can be told in one plain structure: the Python service's options under their names and
//! defaults, and ours. The checks are in [`EngineConfig::validate`]; nothing is clamped in silence.

use crate::core::ready::MAX_WORKERS;
use crate::engine::{Workers, quotas, unlimited};
use crate::error::Invalid;
use crate::job::{Durability, Retry};
use crate::limit::Rate;
use crate::resource::ResourceKind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The most batches that can be active at once: an engine has 64 lanes, and keeps four for `map` and `spawn`.
pub(crate) const MAX_BATCHES: usize = 60;

/// The options of an engine.
///
/// [`default`](Self::default) is the Python service's `ConcurrentBatchConfig`, name by name and number by number.
/// [`open`](Self::open) is what `Engine::builder()` and the command line start from: as many workers as cores and
/// no limit that nobody asked for.
///
/// ```
/// use batchyard::{EngineConfig, ResourceKind};
/// let mut config = EngineConfig { max_concurrent_batches: 8, ..EngineConfig::default() };
/// config.quotas.insert(ResourceKind::FileHandle, 100);
/// config.rates.insert("search".into(), "10/s,burst=20".into());
/// config.validate()?;
///
/// let wrong = EngineConfig { max_api_calls_per_second: f64::NAN, ..EngineConfig::default() };
/// assert_eq!(wrong.validate().unwrap_err().field, "max_api_calls_per_second");
/// # Ok::<(), batchyard::Invalid>(())
/// ```
///
/// "No limit" is the type's largest value (`usize::MAX`, `u64::MAX`, `f64::INFINITY`) and reads and writes as
/// `"none"`, where a field's text below says that it may be. Zero never means "no limit": it is an error.
#[doc(alias = "ConcurrentBatchConfig")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Batches that are active at once, 1 to 60; the others queue. Default 5.
    pub max_concurrent_batches: usize,
    /// Items of one batch in flight (running, or finished and not committed yet). May be none. Default 10.
    #[serde(with = "unlimited::usize")]
    pub max_concurrent_items_per_batch: usize,
    /// Items of all batches in flight. May be none, which stands for 64 for each worker. Default 50.
    #[serde(with = "unlimited::usize")]
    pub max_total_concurrent_items: usize,
    /// Workers that serve one batch at the same time. May be none. Default 3.
    #[serde(with = "unlimited::usize")]
    pub max_workers_per_batch: usize,
    /// The rate called `api`, in calls a second. May be none. Default 2.0.
    #[serde(with = "unlimited::f64")]
    pub max_api_calls_per_second: f64,
    /// The quota of [`ResourceKind::DatabaseConnection`]. May be none. Default 10.
    #[serde(with = "unlimited::usize")]
    pub max_database_connections: usize,
    /// `hang_after`, in seconds: an item that gives no sign of life for so long is taken from its worker. May be
    /// none. Default 300.
    #[serde(with = "unlimited::u64")]
    pub worker_timeout_seconds: u64,
    /// A batch's deadline in seconds from its start. May be none. Default 3600.
    #[serde(with = "unlimited::u64")]
    pub batch_timeout_seconds: u64,
    /// Whether rates are kept. Default true.
    pub enable_rate_limiting: bool,
    /// Whether quotas are kept. Default true.
    pub enable_resource_throttling: bool,
    /// Whether waits inside items ([`Context::lock`](crate::Context::lock), [`Context::acquire`](crate::Context::acquire))
    /// are searched for deadlocks. Default true. Without it, items may wait for permits in the order of their kinds only,
    /// and a wait for a lock has its item's deadline, or lasts for ever.
    pub enable_deadlock_detection: bool,
    /// Whether latencies are recorded. Counters always are. Default true.
    pub enable_performance_monitoring: bool,

    /// Worker threads: a number or `"auto"`. Default auto, the cores this process may use.
    pub workers: Workers,
    /// Finished results of one batch that may wait for their reader in memory; when there are so many, the batch
    /// starts nothing more. Default 1024.
    pub result_window: usize,
    /// From an attempt's deadline, or a cancellation, until its thread is given up, in seconds. Default 5.
    pub grace_seconds: f64,
    /// Attempts of one batch that may be abandoned, their threads still running, before the batch halts. May be
    /// none. Default none, which stands for the number of workers.
    #[serde(with = "unlimited::usize")]
    pub max_abandoned: usize,
    /// What an abandoned attempt holds is released after so many seconds, returned or not. May be none. Default
    /// none: it would break the limit that the permits keep.
    #[serde(with = "unlimited::u64")]
    pub reclaim_after_seconds: u64,
    /// How batches retry that do not say it themselves. Default: not at all.
    pub retry: Retry,
    /// Limits by kind of resource, each given once, in whatever spelling.
    #[serde(deserialize_with = "quotas::deserialize")]
    pub quotas: BTreeMap<ResourceKind, usize>,
    /// Rates by name, as text: `"10/s"`, `"600/m,burst=20"`.
    pub rates: BTreeMap<String, String>,
    /// Where the journal is. Default none: everything is in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal: Option<PathBuf>,
    /// What the journal's commits survive: `"process-crash"` or `"power-loss"`. Default process-crash.
    pub durability: Durability,
    /// How long a full disk is waited for before the batches are halted, in seconds. May be none. Default none.
    #[serde(with = "unlimited::u64")]
    pub disk_wait_seconds: u64,
    /// The seed of the jitter's random numbers, for runs that repeat. Default: a different one each time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// The Python service's defaults.
impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            max_concurrent_batches: 5,
            max_concurrent_items_per_batch: 10,
            max_total_concurrent_items: 50,
            max_workers_per_batch: 3,
            max_api_calls_per_second: 2.0,
            max_database_connections: 10,
            worker_timeout_seconds: 300,
            batch_timeout_seconds: 3600,
            enable_rate_limiting: true,
            enable_resource_throttling: true,
            enable_deadlock_detection: true,
            enable_performance_monitoring: true,
            workers: Workers::auto(),
            result_window: 1024,
            grace_seconds: 5.0,
            max_abandoned: usize::MAX,
            reclaim_after_seconds: u64::MAX,
            retry: Retry::none(),
            quotas: BTreeMap::new(),
            rates: BTreeMap::new(),
            journal: None,
            durability: Durability::ProcessCrash,
            disk_wait_seconds: u64::MAX,
            seed: None,
        }
    }
}

impl EngineConfig {
    /// No limit but the machine: what `Engine::builder()` and the command line start from. Workers = cores, all of
    /// them for any batch, 64 items in flight for each worker, no rate, no deadline, no `hang_after`.
    ///
    /// ```
    /// let open = batchyard::EngineConfig::open();
    /// assert_eq!(open.in_flight(), 64 * open.workers.count());
    /// ```
    pub fn open() -> Self {
        EngineConfig {
            max_concurrent_batches: MAX_BATCHES,
            max_concurrent_items_per_batch: usize::MAX,
            max_total_concurrent_items: usize::MAX,
            max_workers_per_batch: usize::MAX,
            max_api_calls_per_second: f64::INFINITY,
            max_database_connections: usize::MAX,
            worker_timeout_seconds: u64::MAX,
            batch_timeout_seconds: u64::MAX,
            ..Self::default()
        }
    }

    /// How many items may be in flight on this machine.
    pub fn in_flight(&self) -> usize {
        match self.max_total_concurrent_items {
            usize::MAX => self.workers.count().saturating_mul(64),
            n => n,
        }
    }

    /// Reads a configuration file and checks it. What the text leaves out has the value of
    /// [`default`](Self::default).
    ///
    /// ```
    /// let config = batchyard::EngineConfig::from_toml(r#"
    ///     max_concurrent_batches = 8
    ///     batch_timeout_seconds = "none"
    ///     workers = "auto"
    ///     retry = { base = "200ms", cap = "30s", attempts = 5, budget = 0.1 }
    ///
    ///     [quotas]
    ///     file_handle = 100
    ///
    ///     [rates]
    ///     search = "10/s,burst=20"
    /// "#)?;
    /// assert_eq!(config.max_concurrent_batches, 8);
    /// # Ok::<(), batchyard::Invalid>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Text that is not TOML, an unknown key (the error names it and the known ones), a value of the wrong type, or
    /// whatever [`validate`](Self::validate) refuses.
    #[cfg(feature = "config")]
    pub fn from_toml(text: &str) -> Result<Self, Invalid> {
        let config: EngineConfig = toml::from_str(text).map_err(|e| {
            let at = e.span().map_or(0, |span| span.start);
            let before = text.get(..at).unwrap_or(text);
            let start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let line = text[start..].lines().next().unwrap_or("");
            let key = line.split('=').next().unwrap_or("").trim();
            let field = if key.is_empty() { "configuration" } else { key };
            let number = before.matches('\n').count() + 1;
            Invalid::new(field, format!("{} (line {number})", e.message()))
        })?;
        config.validate().map(|()| config)
    }

    /// Checks every value, and the values against each other.
    ///
    /// A limit that another limit makes unreachable is a contradiction: per-batch items above all items, per-batch
    /// workers above per-batch items (a worker without an item is none), a fixed number of workers above all items,
    /// `worker_timeout_seconds` above `batch_timeout_seconds`, and a quota or a rate that is given twice. Not one:
    /// `max_workers_per_batch` above the number of workers, which on `auto` is the machine's.
    ///
    /// # Errors
    ///
    /// Names the field, what is wrong with it and what would do.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.values()?;
        self.agreement()?;
        self.retry.validate()?;
        self.quotas.iter().try_for_each(|(kind, limit)| self.quota(kind, *limit))?;
        self.rates.iter().try_for_each(|(name, rate)| self.rate(name, rate))
    }

    fn values(&self) -> Result<(), Invalid> {
        for (field, value) in [
            ("max_concurrent_batches", self.max_concurrent_batches),
            ("max_concurrent_items_per_batch", self.max_concurrent_items_per_batch),
            ("max_total_concurrent_items", self.max_total_concurrent_items),
            ("max_workers_per_batch", self.max_workers_per_batch),
            ("max_database_connections", self.max_database_connections),
            ("workers", self.workers.requested().unwrap_or(1)),
            ("result_window", self.result_window),
            ("max_abandoned", self.max_abandoned),
        ] {
            at_least_one(field, value)?;
        }
        for (field, seconds) in [
            ("worker_timeout_seconds", self.worker_timeout_seconds),
            ("batch_timeout_seconds", self.batch_timeout_seconds),
            ("reclaim_after_seconds", self.reclaim_after_seconds),
        ] {
            if seconds == 0 {
                return Err(Invalid::new(field, "0 would end everything at once: use \"none\" for no limit"));
            }
        }
        if self.max_concurrent_batches > MAX_BATCHES {
            return Err(Invalid::new("max_concurrent_batches", format!("must be at most {MAX_BATCHES}")));
        }
        let rate = self.max_api_calls_per_second;
        if rate.is_nan() || rate <= 0.0 {
            let problem = format!("{rate} is not a rate: use a number above 0, or \"none\" for no limit");
            return Err(Invalid::new("max_api_calls_per_second", problem));
        }
        if rate.is_finite() {
            Rate::per_second_f64(rate).validate("max_api_calls_per_second")?;
        }
        let grace = self.grace_seconds;
        if grace <= 0.0 || Duration::try_from_secs_f64(grace).is_err() {
            let problem = format!("{grace} is not a time: use a number of seconds above 0 and below 1.8e19");
            return Err(Invalid::new("grace_seconds", problem));
        }
        if self.workers.requested().is_some_and(|n| n > MAX_WORKERS) {
            return Err(Invalid::new("workers", format!("must be at most {MAX_WORKERS}")));
        }
        Ok(())
    }

    fn agreement(&self) -> Result<(), Invalid> {
        let total = ("max_total_concurrent_items", self.max_total_concurrent_items as u64);
        let items = ("max_concurrent_items_per_batch", self.max_concurrent_items_per_batch as u64);
        let workers = ("max_workers_per_batch", self.max_workers_per_batch as u64);
        let threads = ("workers", self.workers.requested().unwrap_or(1) as u64);
        let item_time = ("worker_timeout_seconds", self.worker_timeout_seconds);
        let batch_time = ("batch_timeout_seconds", self.batch_timeout_seconds);
        for ((field, value), (bound, limit)) in
            [(items, total), (workers, items), (workers, total), (threads, total), (item_time, batch_time)]
        {
            // "None" under a limit is fine: the limit is the one that counts.
            let unlimited = value == u64::MAX || value == usize::MAX as u64;
            if value > limit && !unlimited {
                let problem = format!(
                    "{value} is more than {bound} ({limit}) ever lets happen: lower it or raise {bound}"
                );
                return Err(Invalid::new(field, problem));
            }
        }
        Ok(())
    }

    fn quota(&self, kind: &ResourceKind, limit: usize) -> Result<(), Invalid> {
        let field = format!("quotas.{kind}");
        if let ResourceKind::Custom(name) = kind
            && let Some(meant) = ResourceKind::named(name)
        {
            return Err(Invalid::new(
                field,
                format!("a kind of that name is there: use ResourceKind::{meant:?}"),
            ));
        }
        let defaults = [Self::default().max_database_connections, usize::MAX, limit];
        if *kind == ResourceKind::DatabaseConnection && !defaults.contains(&self.max_database_connections) {
            let problem = format!(
                "{limit}, but max_database_connections is {}: give one",
                self.max_database_connections
            );
            return Err(Invalid::new(field, problem));
        }
        at_least_one(&field, limit)
    }

    /// Only what needs no knowledge of rates: the builder that makes a `Rate` of the text checks the rest.
    fn rate(&self, name: &str, text: &str) -> Result<(), Invalid> {
        let field = format!("rates.{name}");
        if name.is_empty() {
            return Err(Invalid::new("rates", "a rate needs a name"));
        }
        let calls = self.max_api_calls_per_second;
        if name == "api" && calls.is_finite() && calls != Self::default().max_api_calls_per_second {
            let problem = format!("`{text}`, but max_api_calls_per_second is {calls}: give one");
            return Err(Invalid::new(field, problem));
        }
        match text.parse::<Rate>() {
            Ok(rate) if rate.validate(&field).is_ok() && rate.burst_size() > 0 => Ok(()),
            _ => Err(Invalid::new(field, format!("`{text}` is not a rate: write for example 10/s,burst=20"))),
        }
    }
}

fn at_least_one(field: &str, value: usize) -> Result<(), Invalid> {
    if value == 0 { Err(Invalid::new(field, "must be at least 1")) } else { Ok(()) }
}
