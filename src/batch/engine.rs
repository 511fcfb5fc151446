//! The engine's handle.

#[cfg(test)]
mod broken;
#[cfg(test)]
mod held;

use super::map;
use super::ticket::{Spawns, Ticket};
use super::{BatchBuilder, EngineBuilder};
use crate::engine::lane::{LaneCore, LaneSpec, Shell, paused};
use crate::engine::shared::Shared;
use crate::engine::supervisor::let_go;
use crate::engine::tunables::{LaneTunables, Tunables};
use crate::engine::worker::{on_worker_of, with_current};
use crate::engine::{Context, EngineConfig, Error, gate::LaneGate, lane::Ending};
use crate::job::{Dead, DeadReason, Failure, Priority, Report, Retry};
use crate::limit::RateLimiter;
use crate::lock::{Levelled, LockManager, house};
use crate::resource::{ResourceKind, ResourceManager};
use crate::stats::{BatchStats, Stats};
use crate::sync::atomic::{Ordering, fence};
use crate::sync::{Arc, OnceLock, thread};
use crate::time::Timestamp;
use std::time::Duration;

/// Runs batches of work on its own OS threads, under its limits. Clones are handles on the same engine.
///
/// Dropping the last handle cancels what is running, waits up to the engine's `grace` for it, and lets go of the
/// threads; [`shutdown`](Engine::shutdown) ends it in an orderly way.
///
/// ```
/// use batchyard::Engine;
/// let engine = Engine::builder().workers(4).in_memory().open()?;
/// let squares = engine.map(0..100u64, |n, _| Ok(n * n));
/// assert_eq!(squares.into_iter().map(Result::unwrap).sum::<u64>(), 328_350);
/// # Ok::<(), batchyard::Error>(())
/// ```
#[doc(alias = "ConcurrencyManager")]
#[doc(alias = "ThreadPool")]
#[derive(Clone, Debug)]
pub struct Engine {
    handle: Arc<Handle>,
}

/// What the last handle drops.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    spawns: OnceLock<Spawns>,
    spawning: Levelled<(), house::Spawning>,
}

impl Engine {
    /// An engine to be: see [`EngineBuilder`].
    pub fn builder() -> EngineBuilder {
        EngineBuilder::new(EngineConfig::open())
    }

    /// An engine as a configuration describes it.
    ///
    /// # Errors
    ///
    /// As [`EngineBuilder::open`].
    ///
    /// ```
    /// use batchyard::{Engine, EngineConfig};
    /// let config = EngineConfig { max_workers_per_batch: 2, ..EngineConfig::default() };
    /// let engine = Engine::from_config(config)?;
    /// # Ok::<(), batchyard::Error>(())
    /// ```
    pub fn from_config(config: EngineConfig) -> Result<Engine, Error> {
        EngineBuilder::new(config).open()
    }

    /// An engine as a TOML text describes it; the keys are the fields of [`EngineConfig`].
    ///
    /// # Errors
    ///
    /// An unknown key is an error that names it; else as [`EngineBuilder::open`].
    ///
    /// ```
    /// let engine = batchyard::Engine::from_toml("workers = 2\nmax_concurrent_batches = 3")?;
    /// let wrong = batchyard::Engine::from_toml("wokers = 2").unwrap_err();
    /// assert!(wrong.to_string().contains("wokers"));
    /// # Ok::<(), batchyard::Error>(())
    /// ```
    #[cfg(feature = "config")]
    pub fn from_toml(text: &str) -> Result<Engine, Error> {
        EngineBuilder::new(EngineConfig::from_toml(text)?).open()
    }

    pub(super) fn of(shared: Arc<Shared>) -> Engine {
        Engine { handle: Arc::new(Handle { shared, spawns: OnceLock::new(), spawning: Levelled::new(()) }) }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// Its journal, if it has one.
    #[cfg(feature = "cli")]
    pub(crate) fn journal(&self) -> Option<&Arc<crate::store::sqlite::Journal>> {
        self.shared().journal.as_ref()
    }

    /// A batch to be. The name is its identity: one batch of a name runs at a time.
    pub fn batch(&self, name: impl Into<String>) -> BatchBuilder {
        BatchBuilder::new(Arc::clone(self.shared()), name.into())
    }

    /// Runs the closure once for every item and returns the results in the items' order. Items, closure and results
    /// may borrow from the caller. Returns when every closure has returned.
    ///
    /// Called from an item of this same engine it runs the items one after another right there.
    ///
    /// A failed item is tried again as the engine's default [`Retry`] says.
    ///
    /// ```
    /// use batchyard::Engine;
    /// let engine = Engine::builder().workers(2).in_memory().open()?;
    /// let words = vec!["stride".to_string(), "lane".to_string()];
    /// let found = engine.map(&words, |word, _| Ok(word.find('r')));
    /// assert_eq!(found.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [Some(2), None]);
    /// # Ok::<(), batchyard::Error>(())
    /// ```
    pub fn map<I, O, F>(&self, items: impl IntoIterator<Item = I>, f: F) -> Vec<Result<O, Dead>>
    where
        I: Send + Sync,
        O: Send,
        F: Fn(&I, &Context) -> Result<O, Failure> + Send + Sync,
    {
        let items: Vec<I> = items.into_iter().collect();
        self.map_slice(&items, f)
    }

    fn map_slice<I, O, F>(&self, items: &[I], f: F) -> Vec<Result<O, Dead>>
    where
        I: Send + Sync,
        O: Send,
        F: Fn(&I, &Context) -> Result<O, Failure> + Send + Sync,
    {
        let shared = self.shared();
        let retry = shared.limits.retry;
        if let Some(out) = with_current(shared, |outer| map::inline(outer, &retry, items, &f, false)) {
            return out;
        }
        match map::map(shared, plain_core(shared, "map", retry), items, f) {
            Ok((results, _)) => results,
            // The engine is shut down, or has no lane left: nothing ran.
            Err(error) => {
                let reason =
                    if matches!(error, Error::Closed) { DeadReason::Cancelled } else { DeadReason::Halted };
                items.iter().map(|_| Err(Dead::because(reason, &error))).collect()
            }
        }
    }

    /// As [`map`](Engine::map), but the first item that is given up cancels the rest, and its error is the answer.
    ///
    /// # Errors
    ///
    /// The [`Dead`] of the first item, in their order, that was given up for a reason of its own.
    ///
    /// ```
    /// use batchyard::{Engine, Failure};
    /// let engine = Engine::builder().workers(2).in_memory().open()?;
    /// let good = engine.try_map(["1", "2"], |text, _| Ok(text.parse::<u32>()?));
    /// assert_eq!(good.unwrap(), [1, 2]);
    /// let bad = engine.try_map(["1", "two"], |text, _| text.parse::<u32>().map_err(Failure::fatal));
    /// assert!(bad.unwrap_err().to_string().contains("invalid digit"));
    /// # Ok::<(), batchyard::Error>(())
    /// ```
    pub fn try_map<I, O, F>(&self, items: impl IntoIterator<Item = I>, f: F) -> Result<Vec<O>, Dead>
    where
        I: Send + Sync,
        O: Send,
        F: Fn(&I, &Context) -> Result<O, Failure> + Send + Sync,
    {
        let items: Vec<I> = items.into_iter().collect();
        let shared = self.shared();
        let retry = shared.limits.retry;
        if let Some(out) = with_current(shared, |outer| map::inline(outer, &retry, &items, &f, true)) {
            return out.into_iter().collect();
        }
        let mut core = plain_core(shared, "try_map", retry);
        core.spec.halt = Some(crate::job::HaltRule::first_failure());
        let results = match map::map(shared, core, &items, f) {
            Ok((results, _)) => results,
            Err(error) => return Err(Dead::because(DeadReason::Halted, &error)),
        };
        let mut good = Vec::with_capacity(results.len());
        let mut stopped = None;
        for result in results {
            match result {
                Ok(out) => good.push(out),
                Err(dead) if matches!(dead.reason(), DeadReason::Halted | DeadReason::Cancelled) => {
                    stopped.get_or_insert(dead);
                }
                Err(dead) => return Err(dead),
            }
        }
        stopped.map_or(Ok(good), Err)
    }

    /// Runs the closure once for every item, for its effects, and says how it went. Borrows as
    /// [`map`](Engine::map) does.
    ///
    /// ```
    /// use batchyard::Engine;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// let engine = Engine::builder().workers(2).in_memory().open()?;
    /// let sum = AtomicU64::new(0);
    /// let report = engine.for_each(1..=10u64, |n, _| {
    ///     sum.fetch_add(*n, Ordering::Relaxed);
    ///     Ok(())
    /// });
    /// assert_eq!((sum.into_inner(), report.completed_items), (55, 10));
    /// # Ok::<(), batchyard::Error>(())
    /// ```
    pub fn for_each<I, F>(&self, items: impl IntoIterator<Item = I>, f: F) -> Report
    where
        I: Send + Sync,
        F: Fn(&I, &Context) -> Result<(), Failure> + Send + Sync,
    {
        let items: Vec<I> = items.into_iter().collect();
        let shared = self.shared();
        let retry = shared.limits.retry;
        let began = shared.clock.now();
        if let Some(out) = with_current(shared, |outer| map::inline(outer, &retry, &items, &f, false)) {
            return map::tally("for_each", &out, shared.clock.now() - began);
        }
        match map::map(shared, plain_core(shared, "for_each", retry), &items, f) {
            Ok((_, shell)) => map::report_of(&shell),
            Err(error) => {
                let out: Vec<Result<(), Dead>> =
                    items.iter().map(|_| Err(Dead::because(DeadReason::Cancelled, &error))).collect();
                map::tally("for_each", &out, shared.clock.now() - began)
            }
        }
    }

    /// Runs one closure on a worker. A panic of it is the ticket's error.
    ///
    /// ```
    /// use batchyard::Engine;
    /// let engine = Engine::builder().workers(1).in_memory().open()?;
    /// let ticket = engine.spawn(|| 6 * 7);
    /// assert_eq!(ticket.join()?, 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn spawn<O: Send + 'static>(&self, f: impl FnOnce() -> O + Send + 'static) -> Ticket<O> {
        let shared = self.shared();
        match self.handle.spawns.get() {
            Some(spawns) => spawns.spawn(shared, f),
            None => self.first_spawns().spawn(shared, f),
        }
    }

    /// The lane of spawned closures, at its first use. It is kept only if there was a place for it.
    #[cold]
    fn first_spawns(&self) -> Spawns {
        let _one = self.handle.spawning.lock();
        if let Some(spawns) = self.handle.spawns.get() {
            return spawns.clone();
        }
        let spawns = Spawns::new(self.shared());
        if spawns.is_placed() {
            let _ = self.handle.spawns.set(spawns.clone());
        }
        spawns
    }

    /// Whether the calling thread runs an item of this engine.
    pub fn is_worker(&self) -> bool {
        on_worker_of(self.shared())
    }

    /// Lets no further item start, of the batches that are there and of those that come. Items in hand go on.
    pub fn pause(&self) {
        self.shared().set_paused(true);
        for shell in self.all_lanes() {
            self.shared().pause_lane(&shell, paused::ENGINE);
        }
    }

    /// Ends a [`pause`](Engine::pause).
    pub fn resume(&self) {
        self.shared().set_paused(false);
        for shell in self.all_lanes() {
            self.shared().resume_lane(&shell, paused::ENGINE);
        }
    }

    fn all_lanes(&self) -> Vec<Arc<Shell>> {
        let mut lanes = self.shared().lanes();
        for batch in self.shared().batches() {
            if !lanes.iter().any(|there| Arc::ptr_eq(there, &batch)) {
                lanes.push(batch);
            }
        }
        lanes
    }

    /// Takes one worker out of service after the chunk it has in hand. False: there is no such worker.
    pub fn pause_worker(&self, worker: usize) -> bool {
        self.set_worker_paused(worker, true)
    }

    /// Puts it back. False: there is no such worker.
    pub fn resume_worker(&self, worker: usize) -> bool {
        self.set_worker_paused(worker, false)
    }

    fn set_worker_paused(&self, worker: usize, paused: bool) -> bool {
        let shared = self.shared();
        let Some(slot) = shared.slots.get(worker) else { return false };
        {
            // Held while it is written: a replacement takes the mark over under the same latch.
            let slot = slot.lock();
            slot.set_paused(paused);
        }
        if paused {
            for shell in shared.lanes() {
                shell.with(|body| body.take_back_from(shared, &shell, worker));
            }
            shared.ready.notify_all();
        } else {
            shared.resumed.notify();
        }
        true
    }

    /// Everything that is counted and timed, at this moment.
    pub fn stats(&self) -> Stats {
        self.shared().stats()
    }

    /// Units of a resource in use by items at this moment, and its limit; `None` for a resource without a quota.
    ///
    /// ```
    /// use batchyard::{Engine, ResourceKind};
    /// let engine = Engine::builder().in_memory().quota(ResourceKind::FileHandle, 100).open()?;
    /// assert_eq!(engine.in_use(&ResourceKind::FileHandle), Some((0, 100)));
    /// # Ok::<(), batchyard::Error>(())
    /// ```
    pub fn in_use(&self, kind: &ResourceKind) -> Option<(u64, u64)> {
        let gate = &self.shared().gate;
        gate.kind(kind).map(|(index, limit)| (gate.in_use(index), limit))
    }

    /// The engine's resources and rates, as its items share them with whoever holds this: what a thread outside takes
    /// here, items wait for, and the other way round. Their counts are in [`stats`](ResourceManager::stats). An item takes
    /// more by [`Context::acquire`](crate::Context::acquire), and must not wait for a thread that waits here.
    ///
    /// ```
    /// use batchyard::{Engine, ResourceKind};
    /// let engine = Engine::builder().in_memory().quota(ResourceKind::DatabaseConnection, 2).open()?;
    /// let mine = engine.resources().acquire(&ResourceKind::DatabaseConnection.into())?;
    /// assert_eq!(engine.in_use(&ResourceKind::DatabaseConnection), Some((1, 2)));
    /// drop(mine);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resources(&self) -> &ResourceManager {
        &self.shared().gate.manager
    }

    /// The locks that the engine's items take by name, by [`Context::lock`](crate::Context::lock): for whoever shares them
    /// from outside.
    ///
    /// ```
    /// use batchyard::{Engine, lock::{LockWait, Mode}, millis};
    /// let engine = Engine::builder().in_memory().open()?;
    /// let backup = engine.locks().session();
    /// let all = backup.lock("the ledger", Mode::Exclusive)?;
    /// let soon = LockWait::new().by(millis(1));
    /// let busy = engine.map([()], |_, ctx| Ok(ctx.lock_with("the ledger", Mode::Shared, &soon).is_err()));
    /// assert!(matches!(busy[..], [Ok(true)]));
    /// drop(all);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn locks(&self) -> &LockManager<String> {
        &self.shared().locks
    }

    /// One of the engine's rates.
    ///
    /// ```
    /// use batchyard::{Engine, Rate};
    /// let engine = Engine::builder().in_memory().rate("api", Rate::per_second(5)).open()?;
    /// engine.limiter("api").expect("it was given").set_rate(Rate::per_second(10))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn limiter(&self, name: &str) -> Option<&RateLimiter> {
        self.shared().gate.rate(name)
    }

    /// The batches that run or wait for a place.
    pub fn batches(&self) -> Vec<BatchStats> {
        let shared = self.shared();
        shared.batches().iter().map(|shell| shared.batch_stats(shell)).collect()
    }

    /// Ends the engine: takes nothing new, lets items in hand finish for at most `drain`, then tells them to stop
    /// and waits the engine's `grace`, then lets go of those that do not. What had not begun is cancelled.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlockWorker`] from inside an item of this engine.
    ///
    /// ```
    /// use batchyard::{Engine, secs};
    /// let engine = Engine::builder().workers(1).in_memory().open()?;
    /// engine.shutdown(secs(20))?;
    /// assert!(engine.batch("late").submit(["x".to_string()], |s, _| Ok(s.len())).is_err());
    /// # Ok::<(), batchyard::Error>(())
    /// ```
    pub fn shutdown(&self, drain: Duration) -> Result<(), Error> {
        if self.is_worker() {
            return Err(Error::WouldBlockWorker);
        }
        shutdown(self.shared(), drain);
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if on_worker_of(&self.shared) {
            // The last handle was dropped by a thread of the engine, which cannot wait for itself: another thread does.
            let shared = Arc::clone(&self.shared);
            let last = thread::Builder::new().name("batchyard-last".into());
            if last.spawn(move || shutdown(&shared, Duration::ZERO)).is_err() {
                self.shared.begin_drain(self.shared.clock.now());
                self.shared.begin_cancel();
                stop_all(&self.shared);
                self.shared.stop();
            }
            return;
        }
        shutdown(&self.shared, Duration::ZERO);
    }
}

fn shutdown(shared: &Arc<Shared>, drain: Duration) {
    let clock = &shared.clock;
    let until = clock.now() + drain;
    shared.begin_drain(until);
    for shell in shared.lanes().into_iter().chain(shared.batches()) {
        shared.pause_lane(&shell, paused::SHUTDOWN);
    }
    let quiet = |until: Timestamp| {
        shared.quiet.wait(clock, Some(until), || {
            // ORDERING: SeqCst: see `worker::work`.
            fence(Ordering::SeqCst);
            (!shared.is_busy()).then_some(())
        })
    };
    if quiet(until).is_none() {
        shared.begin_cancel();
        quiet(clock.now() + shared.limits.grace);
    }
    // Batches end; what they had not begun is cancelled. (`spawn`'s lane ends with its tickets.)
    stop_all(shared);
    // Items that still do not stop are let go of: who waits for their batches has waited long enough.
    for shell in shared.lanes() {
        let_go(shared, &shell);
    }
    shared.stop();
    let until = clock.now() + shared.limits.grace;
    shared.gone.wait(clock, Some(until), || (shared.threads() <= shared.lost_threads()).then_some(()));
    // What was settled is written, then the journal is let go of.
    #[cfg(feature = "sqlite")]
    if let Some(journal) = &shared.journal {
        journal.close();
    }
}

fn stop_all(shared: &Arc<Shared>) {
    for shell in shared.batches().into_iter().chain(shared.lanes()) {
        shared.stop_lane(&shell, Ending::Cancelled, true);
    }
}

/// A lane's core for work that is not a batch: no gate, no deadline.
pub(super) fn plain_core(shared: &Shared, name: &str, retry: Retry) -> LaneCore {
    let limits = &shared.limits;
    let spec = LaneSpec {
        retry,
        item_timeout: None,
        grace: limits.grace,
        hang_after: None,
        halt: None,
        may_abandon: false,
        in_journal: false,
        max_abandoned: limits.max_abandoned,
    };
    let tunables = LaneTunables {
        cap: LaneTunables::UNCAPPED,
        weight: 1,
        class: Priority::default().class() as u8,
        flags: if limits.total_cap { LaneTunables::TOTAL_CAP } else { 0 },
    };
    let gate = LaneGate::new(Default::default(), Vec::new());
    LaneCore::new(name.to_owned(), spec, Tunables::new(tunables), gate, None, shared.clock.now())
}
