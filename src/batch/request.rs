//! What a batch asks for, before it runs.

mod checks;

use super::handle::{self, Batch};
use super::key::{ByHash, ByKey, KeyOf};
use super::map;
use crate::engine::shared::Shared;
use crate::engine::worker::with_current;
use crate::engine::{Context, Error, PushError};
use crate::error::Invalid;
use crate::job::{Dead, Duplicates, Failure, HaltRule, Key, Payload, Priority, Report, Retry};
use crate::resource::ResourceKind;
use crate::store::{BatchId, Unsealed};
use crate::sync::Arc;
use std::any::Any;
use std::fmt;
use std::time::Duration;

/// A batch to be: made by [`Engine::batch`](crate::Engine::batch), run by [`submit`](BatchBuilder::submit),
/// [`open`](BatchBuilder::open) or [`map`](BatchBuilder::map).
///
/// ```
/// use batchyard::{Engine, Priority, Rate, ResourceKind, Retry, millis, secs};
/// let engine = Engine::builder()
///     .in_memory()
///     .quota(ResourceKind::DatabaseConnection, 2)
///     .rate("api", Rate::per_second(1000).burst(100))
///     .open()?;
/// let batch = engine
///     .batch("lengths")
///     .priority(Priority::High)
///     .weight(3)
///     .item_timeout(secs(30))
///     .grace(secs(5))
///     .deadline(secs(3600))
///     .retry(Retry::exponential(millis(200)..secs(30)).attempts(5).budget(0.1))
///     .needs(ResourceKind::DatabaseConnection, 1)
///     .paced_by("api")
///     .key(|word: &String| word.clone())
///     .submit(["alpha".to_string(), "beta".to_string()], |word, _ctx| Ok(word.len()))?;
/// let mut lengths: Vec<usize> = batch.results().map(|item| item.unwrap().outcome.unwrap()).collect();
/// lengths.sort();
/// assert_eq!(lengths, [4, 5]);
/// assert_eq!(batch.wait()?.completed_items, 2);
/// # Ok::<(), batchyard::Error>(())
/// ```
#[must_use = "a batch runs by .submit(), .open() or .map()"]
pub struct BatchBuilder<K = ByHash> {
    shared: Arc<Shared>,
    name: String,
    priority: Priority,
    weight: u32,
    item_timeout: Option<Duration>,
    hang_after: Option<Duration>,
    grace: Duration,
    deadline: Option<Duration>,
    retry: Retry,
    concurrency: Option<usize>,
    needs: Vec<(ResourceKind, u32)>,
    rates: Vec<String>,
    halt: Option<HaltRule>,
    duplicates: Duplicates,
    result_window: usize,
    capacity: usize,
    max_abandoned: u32,
    parameters: String,
    processor: String,
    version: String,
    /// A `WriteWith` of the type of the results.
    write_with: Option<Box<dyn Any + Send>>,
    key: K,
}

impl BatchBuilder<ByHash> {
    pub(super) fn new(shared: Arc<Shared>, name: String) -> Self {
        let limits = &shared.limits;
        Self {
            name,
            priority: Priority::default(),
            weight: 1,
            item_timeout: None,
            hang_after: limits.hang_after,
            grace: limits.grace,
            deadline: limits.batch_deadline,
            retry: limits.retry,
            concurrency: None,
            needs: Vec::new(),
            rates: Vec::new(),
            halt: None,
            duplicates: Duplicates::default(),
            result_window: limits.result_window,
            capacity: limits.waiting_rows,
            max_abandoned: limits.max_abandoned,
            parameters: String::new(),
            processor: String::new(),
            version: String::new(),
            write_with: None,
            key: ByHash,
            shared,
        }
    }

    /// Makes an item's key from the item: its identity within the batch. By default it is the hash of the payload.
    pub fn key<I, S, F>(self, f: F) -> BatchBuilder<ByKey<I, S, F>>
    where
        S: Into<Key>,
        F: Fn(&I) -> S + Send + Sync + 'static,
    {
        BatchBuilder {
            shared: self.shared,
            name: self.name,
            priority: self.priority,
            weight: self.weight,
            item_timeout: self.item_timeout,
            hang_after: self.hang_after,
            grace: self.grace,
            deadline: self.deadline,
            retry: self.retry,
            concurrency: self.concurrency,
            needs: self.needs,
            rates: self.rates,
            halt: self.halt,
            duplicates: self.duplicates,
            result_window: self.result_window,
            capacity: self.capacity,
            max_abandoned: self.max_abandoned,
            parameters: self.parameters,
            processor: self.processor,
            version: self.version,
            write_with: self.write_with,
            key: ByKey::new(f),
        }
    }
}

impl<K> BatchBuilder<K> {
    /// What tells batches of one name apart in a journal, such as the day they are for.
    pub fn parameters(mut self, parameters: impl Into<String>) -> Self {
        self.parameters = parameters.into();
        self
    }

    /// SQL of yours in the transaction that marks items done, once for every group of them: as
    /// [`Context::commit_with`](crate::Context::commit_with), but for many items at a time, with their results. If it
    /// fails, all items of the group have failed with its error.
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("batchyard-write-{}", std::process::id()));
    /// # std::fs::create_dir_all(&dir)?;
    /// # let path = dir.join("work.db");
    /// use batchyard::Engine;
    /// let engine = Engine::builder().workers(2).journal(&path).open()?;
    /// let batch = engine
    ///     .batch("squares")
    ///     .key(|n: &u64| *n)
    ///     .write_with(|tx, done: &[(batchyard::Key, u64)]| {
    ///         tx.execute("CREATE TABLE IF NOT EXISTS square (n TEXT PRIMARY KEY, value INTEGER)", [])?;
    ///         for (key, value) in done {
    ///             tx.execute("INSERT INTO square VALUES (?, ?)", (key.to_string(), *value as i64))?;
    ///         }
    ///         Ok(())
    ///     })
    ///     .submit(0..100u64, |n, _ctx| Ok(n * n))?;
    /// assert_eq!(batch.wait()?.completed_items, 100);
    /// # engine.shutdown(batchyard::secs(1))?;
    /// let rows: i64 = batchyard::rusqlite::Connection::open(&path)?
    ///     .query_row("SELECT count(*) FROM square", [], |row| row.get(0))?;
    /// assert_eq!(rows, 100);
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "sqlite")]
    pub fn write_with<O: Payload>(
        mut self,
        sql: impl Fn(&rusqlite::Connection, &[(Key, O)]) -> Result<(), Failure> + Send + Sync + 'static,
    ) -> Self {
        let write: crate::store::WriteWith<O> = Arc::new(sql);
        self.write_with = Some(Box::new(write));
        self
    }

    /// What runs the items, by name and version. A journal refuses to go on with a batch of another one.
    pub fn processor(mut self, name: impl Into<String>, version: impl Into<String>) -> Self {
        (self.processor, self.version) = (name.into(), version.into());
        self
    }

    /// The class it is served in: a higher class goes first, strictly, but for one class of ageing per 10 s of
    /// waiting.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Its share among the batches of its class, 1 to 65,535. By default 1.
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// How long one attempt may run before it is told to stop.
    pub fn item_timeout(mut self, limit: Duration) -> Self {
        self.item_timeout = Some(limit);
        self
    }

    /// How long an attempt may go without a [`heartbeat`](crate::Context::heartbeat) before it counts as hung.
    pub fn hang_after(mut self, limit: Duration) -> Self {
        self.hang_after = Some(limit);
        self
    }

    /// How long an attempt may go on after it was told to stop, before its thread is replaced and the item is tried
    /// again or given up.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// How long the whole batch may take; then it is halted.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = Some(limit);
        self
    }

    /// When and how often a failed item is tried again.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// At most this many of its items are in hand at once.
    pub fn concurrency(mut self, items: usize) -> Self {
        self.concurrency = Some(items);
        self
    }

    /// Every item uses this many units of a resource while it runs. They are taken before a worker is used, all
    /// kinds or none.
    pub fn needs(mut self, kind: impl Into<ResourceKind>, units: u32) -> Self {
        self.needs.push((kind.into(), units));
        self
    }

    /// Items start at this rate of the engine at most. May be said more than once. An [adaptive](crate::limit::Adaptive) rate
    /// learns from how the items fare.
    pub fn paced_by(mut self, rate: impl Into<String>) -> Self {
        self.rates.push(rate.into());
        self
    }

    /// When the batch gives up as a whole, for example `"soon,fail=10%".parse()?`.
    pub fn halt(mut self, rule: HaltRule) -> Self {
        self.halt = Some(rule);
        self
    }

    /// What happens to an item whose key is there already. By default [`Duplicates::Error`].
    pub fn duplicates(mut self, policy: Duplicates) -> Self {
        self.duplicates = policy;
        self
    }

    /// How many results a held, unread iterator lets the batch run ahead.
    pub fn result_window(mut self, results: usize) -> Self {
        self.result_window = results;
        self
    }

    /// How many pushed items may wait to be run before [`Batch::push`] waits. By default what the engine may have in
    /// flight.
    pub fn capacity(mut self, items: usize) -> Self {
        self.capacity = items;
        self
    }

    /// How many attempts may be abandoned, their threads still running, before the batch is halted.
    pub fn max_abandoned(mut self, attempts: u32) -> Self {
        self.max_abandoned = attempts;
        self
    }

    /// Opens the batch: items are pushed one by one, and run as they come.
    ///
    /// # Errors
    ///
    /// What cannot be is named: a setting, a rate or a resource that the engine does not have, a demand that can
    /// never be met, a name in use; [`Error::Closed`] when the engine is shut down.
    ///
    /// ```
    /// use batchyard::Engine;
    /// let engine = Engine::builder().in_memory().open()?;
    /// let batch = engine.batch("lines").open(|line: &String, _ctx| Ok(line.len()))?;
    /// for line in ["one", "three"] {
    ///     batch.push(line.to_string())?;
    /// }
    /// batch.seal();
    /// assert_eq!(batch.results_in_order().map(|item| item.unwrap().outcome.unwrap()).collect::<Vec<_>>(), [3, 5]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open<I, O, F>(self, f: F) -> Result<Batch<I, O>, Error>
    where
        I: Payload,
        O: Payload,
        F: Fn(&I, &Context) -> Result<O, Failure> + Send + Sync + 'static,
        K: KeyOf<I>,
    {
        let core = self.core(true)?;
        let settings = handle::Settings {
            window: self.result_window,
            capacity: self.capacity,
            duplicates: self.duplicates,
        };
        let source = handle::Source { id: self.id(), with_input: true, write_with: self.write_with };
        handle::open(self.shared, core, settings, Box::new(self.key), source, f)
    }

    /// Goes on with a batch that a journal knows, without its input: what has not ended runs.
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("batchyard-resume-{}", std::process::id()));
    /// # std::fs::create_dir_all(&dir)?;
    /// # let path = dir.join("work.db");
    /// use batchyard::{Engine, Failure};
    /// let engine = Engine::builder().workers(2).journal(&path).open()?;
    /// let first = engine.batch("b").submit(0..9u32, |n, _| if *n < 3 { Ok(*n) } else { Err(Failure::fatal("no")) })?;
    /// assert_eq!(first.wait()?.completed_items, 3);
    /// let again = engine.batch("b").resume(|n: &u32, _ctx| Ok(*n))?;
    /// assert_eq!(again.wait()?.resumed_items, 9); // all had ended: the dead are tried again by a submission
    /// # engine.shutdown(batchyard::secs(1))?;
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] without a journal; [`Error::Journal`] when it has no such batch, or its submission was cut
    /// short; and as [`open`](Self::open).
    pub fn resume<I, O, F>(self, f: F) -> Result<Batch<I, O>, Error>
    where
        I: Payload,
        O: Payload,
        F: Fn(&I, &Context) -> Result<O, Failure> + Send + Sync + 'static,
        K: KeyOf<I>,
    {
        if !self.shared.has_journal() {
            return Err(Invalid::new("journal", "an engine in memory knows no earlier batches").into());
        }
        let core = self.core(true)?;
        let settings = handle::Settings {
            window: self.result_window,
            capacity: self.capacity,
            duplicates: self.duplicates,
        };
        let source = handle::Source { id: self.id(), with_input: false, write_with: self.write_with };
        let batch = handle::open(self.shared, core, settings, Box::new(self.key), source, f)?;
        batch.no_input();
        Ok(batch)
    }

    fn id(&self) -> BatchId {
        BatchId {
            name: self.name.clone(),
            parameters: self.parameters.clone(),
            processor: self.processor.clone(),
            version: self.version.clone(),
        }
    }

    /// Opens the batch, pushes all items, and seals it. Returns when the last item was taken over; work starts with
    /// the first. When the batch is halted before that, the items that are left are not taken, and its report says why.
    ///
    /// # Errors
    ///
    /// As [`open`](BatchBuilder::open); [`Error::DuplicateKey`] when two items have one key and the policy is
    /// [`Duplicates::Error`]: the batch is cancelled then.
    pub fn submit<I, O, F>(self, items: impl IntoIterator<Item = I>, f: F) -> Result<Batch<I, O>, Error>
    where
        I: Payload,
        O: Payload,
        F: Fn(&I, &Context) -> Result<O, Failure> + Send + Sync + 'static,
        K: KeyOf<I>,
    {
        let (name, shared) = (self.name.clone(), Arc::clone(&self.shared));
        let batch = self.open(f)?;
        for item in items {
            let Err(error) = batch.push_unbounded(item) else { continue };
            if matches!(error, PushError::Closed(_)) && shared.check_open().is_ok() {
                break;
            }
            batch.cancel();
            return Err(match error {
                PushError::Duplicate(key, _) => Error::DuplicateKey { batch: name, key },
                PushError::Key(why, _) => Error::Key { batch: name, why },
                _ => Error::Closed,
            });
        }
        if let Err(why) = batch.finish() {
            batch.cancel();
            return Err(match why {
                Unsealed::Duplicate(key) => Error::DuplicateKey { batch: name, key },
                Unsealed::Journal(why) => Error::Journal(why),
            });
        }
        Ok(batch)
    }

    /// Runs the closure once for every item, under all that this batch asks for, and returns the results in the
    /// items' order. Everything may be borrowed, as with [`Engine::map`](crate::Engine::map); therefore an item that
    /// ignores its cancellation is waited for, not abandoned.
    ///
    /// # Errors
    ///
    /// As [`open`](BatchBuilder::open).
    ///
    /// ```
    /// use batchyard::{Engine, Rate};
    /// let engine = Engine::builder().in_memory().rate("api", Rate::per_second(500).burst(10)).open()?;
    /// let doubled = engine.batch("paced").paced_by("api").map(0..20u32, |n, _| Ok(n * 2))?;
    /// assert_eq!(doubled.len(), 20);
    /// # Ok::<(), batchyard::Error>(())
    /// ```
    pub fn map<I, O, F>(self, items: impl IntoIterator<Item = I>, f: F) -> Result<Vec<Result<O, Dead>>, Error>
    where
        I: Send + Sync,
        O: Send,
        F: Fn(&I, &Context) -> Result<O, Failure> + Send + Sync,
    {
        self.map_with_report(items, f).map(|(results, _)| results)
    }

    /// As [`map`](BatchBuilder::map), with the report of how it went.
    ///
    /// # Errors
    ///
    /// As [`open`](BatchBuilder::open).
    pub fn map_with_report<I, O, F>(
        self,
        items: impl IntoIterator<Item = I>,
        f: F,
    ) -> Result<(Vec<Result<O, Dead>>, Report), Error>
    where
        I: Send + Sync,
        O: Send,
        F: Fn(&I, &Context) -> Result<O, Failure> + Send + Sync,
    {
        let items: Vec<I> = items.into_iter().collect();
        let core = self.core(false)?;
        let shared = &self.shared;
        let began = shared.clock.now();
        if let Some(out) = with_current(shared, |outer| map::inline(outer, &self.retry, &items, &f, false)) {
            let report = map::tally(&self.name, &out, shared.clock.now() - began);
            return Ok((out, report));
        }
        let (results, shell) = map::map(shared, core, &items, f)?;
        Ok((results, map::report_of(&shell)))
    }

    /// As [`map`](BatchBuilder::map), for the effects.
    ///
    /// # Errors
    ///
    /// As [`open`](BatchBuilder::open).
    pub fn for_each<I, F>(self, items: impl IntoIterator<Item = I>, f: F) -> Result<Report, Error>
    where
        I: Send + Sync,
        F: Fn(&I, &Context) -> Result<(), Failure> + Send + Sync,
    {
        self.map_with_report(items, f).map(|(_, report)| report)
    }
}

impl<K> fmt::Debug for BatchBuilder<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}
