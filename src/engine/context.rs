//! What an item's closure sees of the engine.

use super::cpu;
use super::lane::Shell;
use super::shared::Shared;
use super::slot::Slot;
use super::worker::{belong_to, with_item};
use crate::core::attempt::Epoch;
use crate::job::{Failure, Key};
use crate::sync::{Arc, with_parker};
use crate::time::{Deadline, Timestamp};
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
    pub(crate) tries: u32,
    pub(crate) deferrals: u32,
    /// Raw reading at which the attempt is cancelled; 0: never.
    pub(crate) deadline_raw: u64,
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
            tries: 0,
            deferrals: 0,
            deadline_raw: self.deadline_raw,
        }
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

    /// Which try this is, from 1. Deferrals do not count.
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
