//! What an item's closure sees of the engine.

use super::cpu;
use super::error::PushError;
use super::feedback::Bill;
use super::lane::Shell;
use super::shared::Shared;
use super::slot::{Effect, Slot};
use super::work::ChildError;
use super::worker::{belong_to, with_item};
use crate::core::attempt::Epoch;
use crate::job::{Failure, Key, Payload};
use crate::lock::{Levelled, house};
use crate::store::{CommitWith, Effects};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, with_parker};
use crate::time::{Deadline, Timestamp, millis, secs};
use std::any::Any;
use std::fmt;
use std::time::Duration;

/// The closure's view of its item, its attempt and its limits: the second argument of every item closure.
///
/// It is `Sync`: threads that the closure starts for itself (scoped ones, or rayon's through
/// [`install`](Context::install)) may use it too.
///
/// ```
/// use batchyard::Engine;
/// let engine = Engine::builder().workers(2).in_memory().open()?;
/// let lengths = engine.map(["a", "bb"], |word, ctx| {
///     ctx.check()?; // stop here when cancelled
///     Ok(word.len() * ctx.attempt() as usize)
/// });
/// assert_eq!(lengths.into_iter().collect::<Result<Vec<_>, _>>()?, [1, 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Context {
    pub(crate) shared: Arc<Shared>,
    pub(crate) slot: Arc<Slot>,
    pub(crate) shell: Arc<Shell>,
    /// This attempt among those of the slot: what cancellation names.
    pub(crate) run: Epoch,
    pub(crate) seq: u64,
    pub(crate) key: Option<Key>,
    /// The position and the key of the item that this one runs in.
    pub(crate) outer: Option<(u64, Option<Key>)>,
    pub(crate) tries: u32,
    /// Those of the tries before it whose process died.
    pub(crate) lost: u32,
    pub(crate) deferrals: u32,
    /// The number of the attempt among all that the store has counted: the fence of what it writes.
    pub(crate) epoch: u32,
    /// Raw reading at which the attempt is cancelled; 0: never.
    pub(crate) deadline_raw: u64,
    /// SQL for the transaction that marks the item done.
    pub(crate) effects: Levelled<Vec<CommitWith>, house::Effects>,
    /// It has taken locks.
    pub(crate) has_locked: AtomicBool,
    /// What it has paid to rates that learn.
    pub(crate) bill: Levelled<Bill, house::ItemBill>,
}

impl Context {
    /// A context for an item inside this one: the same worker, cancellation and deadline.
    pub(crate) fn nested(&self) -> Context {
        Context {
            shared: Arc::clone(&self.shared),
            slot: Arc::clone(&self.slot),
            shell: Arc::clone(&self.shell),
            run: self.run,
            seq: 0,
            key: None,
            outer: self.outer.clone().or_else(|| Some((self.seq, self.key.clone()))),
            tries: 0,
            lost: 0,
            deferrals: 0,
            epoch: 1,
            deadline_raw: self.deadline_raw,
            effects: Levelled::new(Vec::new()),
            has_locked: AtomicBool::new(false),
            bill: Levelled::default(),
        }
    }

    /// How old it is in its batch, where items wait for each other.
    pub(crate) fn age(&self) -> u64 {
        self.outer.as_ref().map_or(self.seq, |(seq, _)| *seq)
    }

    /// The item's position in its batch, from 0, in order of submission.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The item's key. Items of `map`, `try_map`, `for_each` and `spawn` have none of their own: theirs is the
    /// position.
    pub fn key(&self) -> Key {
        self.key.clone().unwrap_or_else(|| Key::from(self.seq))
    }

    /// The same for every attempt at this item: batch name and item key. Give it to services that can drop
    /// repeated requests.
    pub fn idempotency_key(&self) -> String {
        format!("{}/{}", self.shell.core.name, self.key())
    }

    /// The name of the batch.
    pub fn batch(&self) -> &str {
        &self.shell.core.name
    }

    /// Which try this is, from 1. Deferrals do not count; tries whose process died do.
    pub fn attempt(&self) -> u32 {
        self.tries + 1
    }

    /// How often the item has been put off without an attempt being counted.
    pub fn deferrals(&self) -> u32 {
        self.deferrals
    }

    /// The number of the worker that runs the item, from 0.
    pub fn worker(&self) -> usize {
        self.slot.id
    }

    /// Whether the attempt shall stop: its time is up, its batch was cancelled, or the engine shuts down.
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        self.slot.is_cancelled(self.run) || self.shell.core.is_cancelled() || self.shared.is_cancelling()
    }

    /// `Err` once the attempt shall stop, so that `ctx.check()?` is a place to stop.
    ///
    /// # Errors
    ///
    /// A retryable failure that says so. What becomes of the item is decided by what cancelled it.
    pub fn check(&self) -> Result<(), Failure> {
        if self.is_cancelled() { Err(Failure::retry("cancelled")) } else { Ok(()) }
    }

    /// A token for code that cannot hold the context.
    pub fn cancel_token(&self) -> CancelToken {
        CancelToken {
            shared: Arc::clone(&self.shared),
            slot: Arc::clone(&self.slot),
            shell: Arc::clone(&self.shell),
            run: self.run,
        }
    }

    /// When the attempt must be done: the earliest of the item's, the batch's and the shutdown's deadlines, on the
    /// engine's clock.
    pub fn deadline(&self) -> Option<Timestamp> {
        let item = (self.deadline_raw != 0).then(|| self.shared.clock.at_raw(self.deadline_raw));
        [item, self.shell.core.deadline(), self.shared.shutdown_deadline()].into_iter().flatten().min()
    }

    /// The time left until [`deadline`](Context::deadline); `None` without one. Zero when it has passed.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline().map(|deadline| deadline - self.shared.clock.now())
    }

    /// Says that the item is alive: one relaxed store and a clock reading. With `hang_after` set, an item that does
    /// not say so for that long counts as hung.
    #[inline]
    pub fn heartbeat(&self) {
        self.slot.beat(self.shared.clock.raw());
    }

    /// Sleeps, on the engine's clock, until `pause` is over or the attempt shall stop.
    ///
    /// # Errors
    ///
    /// As [`check`](Context::check), as soon as the attempt shall stop.
    pub fn sleep(&self, pause: Duration) -> Result<(), Failure> {
        let clock = &self.shared.clock;
        let until = Deadline::within(pause).on(clock);
        with_parker(|parker| {
            let me = parker.unparker();
            self.slot.sleep_entered(&me);
            let slept = loop {
                if let Err(stop) = self.check() {
                    break Err(stop);
                }
                if !clock.park(parker, until) && until.is_some_and(|until| clock.now() >= until) {
                    break Ok(());
                }
                self.slot.sleep_entered(&me); // who woke us took us out
            };
            self.slot.sleep_left(&me);
            slept
        })
    }

    /// Does a part of the item once: `work` runs, and what it returns is kept until the item ends. A later attempt at
    /// the item gets what was kept and does not run it again, so a retry does not pay for what already succeeded.
    ///
    /// With a journal it returns when the output is durable: an attempt in another process finds it, too. The name
    /// tells the steps of an item apart; `work` may run more than once if the process dies in the middle of it.
    ///
    /// ```
    /// use batchyard::{Engine, Retry, millis};
    /// let engine = Engine::builder().in_memory().open()?;
    /// let batch = engine.batch("pages").retry(Retry::exponential(millis(1)..millis(2)).attempts(2)).submit(
    ///     [7_u32],
    ///     |n, ctx| {
    ///         let fetched = ctx.step("fetch", || Ok(n * ctx.attempt()))?;
    ///         if ctx.attempt() == 1 { Err(batchyard::Failure::retry("flaky"))? }
    ///         Ok(fetched)
    ///     },
    /// )?;
    /// let found = batch.results().next().unwrap()?.outcome.unwrap();
    /// assert_eq!(found, 7); // fetched by the first attempt
    /// # Ok::<(), batchyard::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What `work` returns; and a failure that says so when the output cannot be written as JSON, what was kept cannot
    /// be read as this type, the journal cannot be written, or the attempt is not the item's current one any more.
    pub fn step<T: Payload>(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.check()?;
        let kept = self.shell.with(|body| body.step(self.seq, name));
        if let Some(text) = kept.unwrap_or(Ok(None)).map_err(|why| Failure::retry(why.to_string()))? {
            return T::decode(&text).map_err(Failure::fatal);
        }
        let output = work()?;
        let text = output.encode().map_err(Failure::fatal)?;
        // An abandoned attempt is over, whatever it still does.
        let effect = self.effect().ok_or_else(|| stale(name))?;
        let kept = self.shell.with(|body| body.keep_step(self.seq, self.epoch, name, &text));
        drop(effect);
        match kept.map_or(Ok(true), |written| written()) {
            Ok(true) => Ok(output),
            Ok(false) => Err(stale(name)),
            Err(why) => Err(Failure::retry(why.to_string())),
        }
    }

    /// Adds SQL of yours to the transaction that marks this item done, if the attempt succeeds: what it writes into
    /// tables of yours in the journal's file is there exactly once, however often the item was tried.
    ///
    /// It runs in the journal's writer after the item's closure has returned, in a savepoint. If it fails, nothing of it
    /// is written and the attempt has failed with its error. It may run more than once, when SQLite rolls a transaction
    /// back, or when the disk is full for a time, which is not its failure; only the last run counts. It is interrupted
    /// at the item's deadline, after 30 s without one. It may not end the transaction, ATTACH, use a PRAGMA, or touch the
    /// journal's own tables.
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("batchyard-commit-{}", std::process::id()));
    /// # std::fs::create_dir_all(&dir)?;
    /// # let path = dir.join("work.db");
    /// use batchyard::Engine;
    /// let engine = Engine::builder().workers(2).journal(&path).open()?;
    /// let batch = engine.batch("totals").submit(1..=4u64, |n, ctx| {
    ///     let n = *n;
    ///     ctx.commit_with(move |tx| {
    ///         tx.execute("CREATE TABLE IF NOT EXISTS total (n INTEGER PRIMARY KEY, square INTEGER)", [])?;
    ///         tx.execute("INSERT INTO total VALUES (?, ?)", [n as i64, (n * n) as i64])?;
    ///         Ok(())
    ///     })?;
    ///     Ok(())
    /// })?;
    /// assert_eq!(batch.wait()?.completed_items, 4);
    /// # engine.shutdown(batchyard::secs(1))?;
    /// let sum: i64 = batchyard::rusqlite::Connection::open(&path)?
    ///     .query_row("SELECT sum(square) FROM total", [], |row| row.get(0))?;
    /// assert_eq!(sum, 30);
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// A fatal failure without a journal, and inside `map` or `spawn`; a failure that says so when the attempt is not the
    /// item's current one any more.
    #[cfg(feature = "sqlite")]
    pub fn commit_with(
        &self,
        sql: impl Fn(&rusqlite::Connection) -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        if !self.shell.core.spec.in_journal {
            return Err(Failure::fatal("`commit_with` needs a journal and an item of a batch in it"));
        }
        if !self.slot.is_in_hand(self.run) {
            return Err(stale("commit_with"));
        }
        self.effects.lock().push(Box::new(sql));
        Ok(())
    }

    /// Adds an item to this item's batch, sealed or not: for work that turns up while working. Never waits. The batch
    /// does not end before it has; an attempt that is made again submits the same children without doubling them.
    ///
    /// ```
    /// use batchyard::Engine;
    /// let engine = Engine::builder().in_memory().open()?;
    /// let batch = engine.batch("tree").key(|n: &u32| *n).submit([1_u32], |n, ctx| {
    ///     for child in [2 * n, 2 * n + 1].into_iter().filter(|child| *child < 8) {
    ///         ctx.submit_child(child).map_err(|error| batchyard::Failure::fatal(error.to_string()))?;
    ///     }
    ///     Ok(*n)
    /// })?;
    /// assert_eq!(batch.wait()?.completed_items, 7);
    /// # Ok::<(), batchyard::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The item comes back: [`PushError::Full`] (as many items wait as may, or with a journal as many bytes);
    /// [`PushError::Duplicate`] when another item of the batch has its key; [`PushError::Closed`] when the batch is
    /// stopped or this attempt is not the item's current one any more; [`PushError::Key`] when its key or its JSON
    /// cannot be made, or it is not of the batch's type.
    pub fn submit_child<I: Payload>(&self, item: I) -> Result<(), PushError<I>> {
        let Some(_effect) = self.effect() else { return Err(PushError::Closed(item)) };
        let mut item = Some(item);
        let taken = self.shell.with(|body| {
            let item: Box<dyn Any> = Box::new(item.take().expect("the item was put there above"));
            body.submit_child(&self.shared, &self.shell, item, self.seq)
        });
        let own = |item: Box<dyn Any>| *item.downcast::<I>().expect("what comes back is what was given");
        match (taken, item) {
            (Some(Ok(())), _) => Ok(()),
            (Some(Err(error)), _) => Err(match error {
                ChildError::Full(item) => PushError::Full(own(item)),
                ChildError::Closed(item) => PushError::Closed(own(item)),
                ChildError::Duplicate(key, item) => PushError::Duplicate(key, own(item)),
                ChildError::Other(why, item) => PushError::Key(why, own(item)),
            }),
            // The lane was taken away; the item was not.
            (None, Some(item)) => Err(PushError::Closed(item)),
            (None, None) => unreachable!("the item is taken only where the lane is there"),
        }
    }

    /// Enters the journal with something that this attempt has done; held as long as a push takes. None: the attempt is
    /// over. What may not be abandoned needs no fence.
    fn effect(&self) -> Option<Option<Effect<'_>>> {
        if self.shell.core.spec.may_abandon { self.slot.enter_effect(self.run).map(Some) } else { Some(None) }
    }

    /// Its closure has returned, or panicked: locks whose guards were forgotten do not stay with the thread.
    #[inline]
    pub(crate) fn give_back_locks(&self) {
        // ORDERING: none needed: set by this thread, or by others of the item, whose locks are theirs.
        if self.has_locked.load(Ordering::Relaxed) {
            self.has_locked.store(false, Ordering::Relaxed);
            self.shared.locks.release_here();
        }
    }

    #[inline]
    pub(crate) fn has_effects(&mut self) -> bool {
        !self.effects.get_mut().is_empty()
    }

    /// What the attempt wants done with its mark.
    #[cold]
    pub(crate) fn take_effects(&mut self) -> Option<Effects> {
        let limit = match self.deadline_raw {
            0 => SQL_LIMIT,
            raw => (self.shared.clock.at_raw(raw) - self.shared.clock.now()).max(LEAST_SQL_LIMIT),
        };
        let with = std::mem::take(self.effects.get_mut());
        (!with.is_empty()).then_some(Effects { with, limit })
    }

    /// Runs `work` on the engine's rayon pool and waits for it: `par_iter`, `join` and `scope` inside it use that
    /// pool, whose threads ([`rayon_threads`](crate::EngineBuilder::rayon_threads), by default as many as there are
    /// processors) all items share. A panic of `work` is the item's panic.
    ///
    /// The pool is for computing. Work that waits (for I/O, for locks) belongs to the item itself, outside: rayon
    /// gives a waiting thread other tasks.
    ///
    /// ```
    /// use batchyard::Engine;
    /// use rayon::prelude::*;
    /// let engine = Engine::builder().workers(2).in_memory().open()?;
    /// let sums = engine.map([10u64, 100], |n, ctx| Ok(ctx.install(|| (0..*n).into_par_iter().sum::<u64>())));
    /// assert_eq!(sums.into_iter().collect::<Result<Vec<_>, _>>()?, [45, 4950]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    ///
    /// With `work`'s own panic.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        // The pool's threads belong to the engine: what waits for it there would wait for the item's own worker. `work`
        // itself runs as this item, on whichever thread.
        let shared = Arc::downgrade(&self.shared);
        let enter = move || {
            if let Some(shared) = shared.upgrade() {
                belong_to(&shared);
            }
        };
        cpu::install(&self.shared.pool, enter, || with_item(self, work))
    }
}

fn stale(what: &str) -> Failure {
    Failure::retry(format!("`{what}` came too late: the attempt was given up"))
}

/// How long the SQL of an item without a deadline may take.
const SQL_LIMIT: Duration = secs(30);
/// What it is given by an item that has used its time.
const LEAST_SQL_LIMIT: Duration = millis(100);

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("batch", &self.batch())
            .field("seq", &self.seq)
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

/// Whether one attempt shall stop, for code that cannot hold its [`Context`]. Cheap to clone.
#[derive(Clone)]
pub struct CancelToken {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    shell: Arc<Shell>,
    run: Epoch,
}

impl CancelToken {
    /// Whether the attempt shall stop, or is over.
    pub fn is_cancelled(&self) -> bool {
        self.slot.is_cancelled(self.run) || self.shell.core.is_cancelled() || self.shared.is_cancelling()
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").field("cancelled", &self.is_cancelled()).finish_non_exhaustive()
    }
}
