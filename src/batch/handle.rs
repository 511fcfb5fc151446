//! A batch under way.

mod push;

use super::key::KeyOf;
#[cfg(feature = "sqlite")]
use super::link::LaneLink;
use super::readers::Readers;
use super::results::Results;
use super::work::{BatchWork, Rows};
use crate::engine::body::Body;
use crate::engine::lane::{Ending, LaneCore, Shell, paused};
use crate::engine::shared::Shared;
use crate::engine::signal::Signal;
use crate::engine::tunables::LaneTunables;
use crate::engine::{Context, Error, Event};
use crate::error::Invalid;
use crate::job::{DeadItem, Duplicates, Failure, Payload, Priority, Report};
use crate::lock::Levelled;
use crate::stats::BatchStats;
use crate::store::{BatchId, MemoryStore, Order, Store};
#[cfg(feature = "sqlite")]
use crate::store::{WriteWith, sqlite::JournalStore};
use crate::sync::Arc;
use crate::time::{Deadline, Timestamp};
use std::any::Any;
use std::fmt;

/// A batch under way: push items, read results, steer it, wait for its end.
///
/// Dropping it leaves the batch running, to its end if it is sealed; a batch that is still open is sealed.
pub struct Batch<I, O> {
    shared: Arc<Shared>,
    shell: Arc<Shell>,
    rows: Arc<Rows<I, O>>,
    settings: Settings,
}

/// What a batch was opened with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) window: usize,
    pub(super) capacity: usize,
    pub(super) duplicates: Duplicates,
}

/// Where a batch's items come from.
pub(super) struct Source {
    pub(super) id: BatchId,
    /// Items are submitted. Otherwise those that the journal has.
    pub(super) with_input: bool,
    /// A `WriteWith` of the type of the results.
    pub(super) write_with: Option<Box<dyn Any + Send>>,
}

/// How far a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Progress {
    /// Items submitted so far.
    pub total: u64,
    /// Items that succeeded.
    pub done: u64,
    /// Items given up.
    pub failed: u64,
    /// Items their closure left out.
    pub skipped: u64,
    /// Items that were cancelled.
    pub cancelled: u64,
    /// Attempts that were followed by another.
    pub retried: u64,
    /// Items that wait for their next attempt's time.
    pub waiting: u64,
    /// Whether all items are known: nothing more is pushed.
    pub sealed: bool,
}

impl Progress {
    /// Items that have not ended.
    pub fn open(&self) -> u64 {
        self.total.saturating_sub(self.done + self.failed + self.skipped + self.cancelled)
    }
}

pub(super) fn open<I, O, F>(
    shared: Arc<Shared>,
    core: LaneCore,
    settings: Settings,
    key: Box<dyn KeyOf<I>>,
    source: Source,
    run: F,
) -> Result<Batch<I, O>, Error>
where
    I: Payload,
    O: Payload,
    F: Fn(&I, &Context) -> Result<O, Failure> + Send + Sync + 'static,
{
    if source.write_with.is_some() && !shared.has_journal() {
        return Err(Invalid::new("write_with", "needs a journal: there is no transaction in memory").into());
    }
    // Before the latch: the journal's own thread would wait for whoever holds it and waits for that thread.
    #[cfg(feature = "sqlite")]
    if let Some(journal) = &shared.journal {
        journal.may_wait()?;
    }
    // One at a time, so that nobody begins a run of a batch that is under way.
    let engine = Arc::clone(&shared);
    let one = engine.opening.lock();
    shared.check_open()?;
    if shared.is_under_way(&core.name) {
        return Err(Error::BatchActive { name: core.name.clone() });
    }
    #[cfg(feature = "sqlite")]
    let journalled = match &shared.journal {
        Some(journal) => {
            let opened = journal.open_batch(&source.id, source.with_input)?;
            let store = JournalStore::<I, O>::new(journal, &opened, shared.limits.workers, &shared.clock);
            if let Some(write) = source.write_with {
                let Ok(write) = write.downcast::<WriteWith<O>>() else {
                    let problem =
                        format!("it takes other results than the batch has ({})", std::any::type_name::<O>());
                    return Err(Invalid::new("write_with", problem).into());
                };
                Store::<I, O>::write_with(&store, *write);
            }
            Some((store, opened))
        }
        None => None,
    };
    #[cfg(feature = "sqlite")]
    let store: Box<dyn Store<I, O>> = match &journalled {
        Some((store, _)) => Box::new(Arc::clone(store)),
        None => Box::new(MemoryStore::new(settings.window)),
    };
    #[cfg(not(feature = "sqlite"))]
    let store: Box<dyn Store<I, O>> = Box::new(MemoryStore::new(settings.window));
    let rows = Arc::new(Rows {
        store,
        published: Signal::new(),
        room: Signal::new(),
        readers: Levelled::new(Readers::default()),
        key,
        capacity: settings.capacity,
        clock: shared.clock.clone(),
    });
    let outboxes = (0..shared.limits.workers).map(|_| Levelled::new(Vec::new())).collect();
    let work = BatchWork { rows: Arc::clone(&rows), run, outboxes };
    // Until it has a place it stands still.
    core.steer.lock().paused = paused::DISPLACED;
    core.word.block(crate::core::laneword::Reason::Paused);
    let shell = Shell::owned(core, Box::new(Body::new(work, shared.limits.workers)));
    #[cfg(feature = "sqlite")]
    let in_journal = journalled.is_some();
    #[cfg(feature = "sqlite")]
    if let Some((store, opened)) = journalled {
        let counts = &shell.core.counts;
        if !source.with_input {
            // Without input the batch is what the journal has of it.
            let (done, dead, skipped) = opened.before;
            let before = (done + dead + skipped) as u64;
            let open = opened.unclaimed + opened.again.len() as u64;
            counts.done.add(done as u64);
            counts.dead.add(dead as u64);
            counts.skipped.add(skipped as u64);
            counts.submitted.add(before + open);
            counts.open.add(open);
            shell.core.steer.lock().earlier.resumed = before;
        }
        if opened.paused {
            shell.core.steer.lock().paused |= paused::BATCH;
        }
        let shown = Arc::downgrade(&rows);
        let notify = Box::new(move || {
            if let Some(rows) = shown.upgrade() {
                rows.published.notify();
                rows.room.notify();
            }
        });
        let (lane, whole) = (Arc::downgrade(&shell), !source.with_input);
        let link = LaneLink { shared: Arc::clone(&shared), shell: lane, notify, whole };
        store.link(Arc::new(link), &opened.again);
        if let Some(why) = store.failed() {
            return Err(Error::Journal(why));
        }
    }
    let displaced = shared.enter(&shell)?;
    if shell.core.has_ended() {
        // The journal failed meanwhile: the lane left before it had come.
        shared.leave(&shell);
    }
    // From here on the name is taken. The listener is the user's, and may open a batch itself.
    drop(one);
    if let Some(displaced) = displaced {
        shared.take_hands_off(&displaced);
    }
    shared.event(&Event::BatchStarted { batch: &shell.core.name });
    #[cfg(feature = "sqlite")]
    if in_journal {
        shell.with(|body| body.refill(&shared, &shell));
    }
    if let Some(deadline) = shell.core.deadline() {
        shared.schedule(deadline, &shell);
    }
    Ok(Batch { shared, shell, rows, settings })
}

impl<I: 'static, O> Batch<I, O> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.shell.core.name
    }

    /// Lets results go that nobody reads: they are counted only. For a caller whose closures deliver their own.
    #[cfg(feature = "cli")]
    pub(crate) fn discard_results(&self) {
        self.rows.discard_unread();
    }

    /// Looks for results until there is something to tell: `look` is called anew whenever some were published, and once
    /// more, with `true`, when the batch has ended.
    #[cfg(feature = "cli")]
    pub(crate) fn watch<R>(&self, mut look: impl FnMut(bool) -> Option<R>) -> Option<R> {
        let core = &self.shell.core;
        // Each look is a statement: the one before the wait is entered would only find what the one behind it finds.
        let mut entered = false;
        // Asked first: whatever was settled before the end is found by the look behind it.
        self.rows.published.wait(&self.shared.clock, None, || {
            if !std::mem::replace(&mut entered, true) {
                return None;
            }
            let ended = core.report().is_some();
            look(ended)
        })
    }

    /// The results in the order of completion, each once, as they come; it ends with the batch.
    pub fn results(&self) -> Results<I, O>
    where
        I: Send + Sync + 'static,
        O: Send + 'static,
    {
        self.reader(Order::Completion, 0)
    }

    /// The results from a [cursor](Results::cursor) on, in the order of completion. In memory a result is handed out
    /// once: those before the cursor that nobody has read are passed over, those behind it that were read are gone.
    ///
    /// ```
    /// use batchyard::Engine;
    /// let engine = Engine::builder().in_memory().open()?;
    /// let batch = engine.batch("b").submit(0..10u32, |n, _| Ok(*n))?;
    /// let mut first = batch.results();
    /// first.next();
    /// first.next();
    /// let cursor = first.cursor();
    /// drop(first);
    /// assert_eq!((cursor, batch.results_from(cursor).count()), (2, 8));
    /// # Ok::<(), batchyard::Error>(())
    /// ```
    pub fn results_from(&self, cursor: u64) -> Results<I, O>
    where
        I: Send + Sync + 'static,
        O: Send + 'static,
    {
        self.reader(Order::Completion, cursor)
    }

    /// The items given up so far, with the error of every attempt, whether their results were read or not.
    /// From a journal that cannot be read none come; [`results`](Batch::results) says why.
    pub fn dead(&self) -> Vec<DeadItem> {
        self.rows.store.dead().unwrap_or_default()
    }

    /// The results in the order of submission. Dispatch is kept within `result_window` of the oldest unread one.
    pub fn results_in_order(&self) -> Results<I, O>
    where
        I: Send + Sync + 'static,
        O: Send + 'static,
    {
        self.reader(Order::Input, 0)
    }

    fn reader(&self, order: Order, from: u64) -> Results<I, O>
    where
        I: Send + Sync + 'static,
        O: Send + 'static,
    {
        let (shared, shell) = (Arc::clone(&self.shared), Arc::clone(&self.shell));
        let refill = move || {
            if !shell.core.has_ended() {
                shell.with(|body| body.refill(&shared, &shell));
            }
        };
        Results::new(Arc::clone(&self.shared), Arc::clone(&self.rows), Box::new(refill), order, from)
    }

    /// Waits for the batch to end, seals it first, and says how it went. Without an iterator over its results, those that
    /// nobody reads are counted and dropped from here on.
    ///
    /// An iterator in the hands of the calling thread does not push back meanwhile, since nobody would read from it: all
    /// results are kept for it, beyond `result_window`. One that another thread reads from goes on pushing back.
    ///
    /// ```
    /// use batchyard::Engine;
    /// let engine = Engine::builder().in_memory().open()?;
    /// let batch = engine.batch("b").result_window(2).submit(0..100u32, |n, _| Ok(*n))?;
    /// let results = batch.results();
    /// assert_eq!(batch.wait()?.completed_items, 100);
    /// assert_eq!(results.count(), 100);
    /// # Ok::<(), batchyard::Error>(())
    /// ```
    ///
    /// When it returns, a [listener](crate::EngineBuilder::on_event) has been told of the end. Inside the listener it
    /// returns at once.
    ///
    /// # Errors
    ///
    /// [`Error::WouldBlockWorker`] inside an item of the same engine, unless the batch has ended.
    pub fn wait(&self) -> Result<Report, Error> {
        self.wait_by(Deadline::NEVER)
    }

    /// As [`wait`](Batch::wait), until a deadline. If the batch has ended by then, but the listener has not returned
    /// yet, the report is the answer all the same.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`], and as [`wait`](Batch::wait).
    pub fn wait_by(&self, deadline: impl Into<Deadline>) -> Result<Report, Error> {
        let core = &self.shell.core;
        if !core.is_sealed() {
            self.seal();
        }
        if let Some(report) = core.report_told() {
            return Ok(report);
        }
        if self.shared.must_not_wait() {
            return core.report().ok_or(Error::WouldBlockWorker);
        }
        let aside = self.rows.stand_aside();
        if !aside.any {
            self.rows.discard_unread();
        }
        self.shell.with(|body| body.refill(&self.shared, &self.shell));
        let clock = &self.shared.clock;
        let began = clock.now();
        let until: Option<Timestamp> = deadline.into().on(clock);
        self.shared
            .ended
            .wait(clock, until, || core.report_told())
            .or_else(|| core.report())
            .ok_or_else(|| Error::TimedOut { waited: clock.now() - began })
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let core = &self.shell.core;
        let counts = &core.counts;
        Progress {
            total: counts.submitted.get(),
            done: counts.done.get(),
            failed: counts.dead.get(),
            skipped: counts.skipped.get(),
            cancelled: counts.cancelled.get(),
            retried: counts.retried.get(),
            waiting: counts.waiting_retry.get(),
            sealed: core.is_sealed(),
        }
    }

    /// Its statistics.
    pub fn stats(&self) -> BatchStats {
        self.shared.batch_stats(&self.shell)
    }

    /// Lets no further item start. Items in hand go on; what is waited for is given back.
    pub fn pause(&self) {
        self.shared.pause_lane(&self.shell, paused::BATCH);
    }

    /// Ends a [`pause`](Batch::pause).
    pub fn resume(&self) {
        self.shared.resume_lane(&self.shell, paused::BATCH);
    }

    /// Ends the batch: items in hand are told to stop, the others do not run.
    pub fn cancel(&self) {
        self.rows.store.seal();
        self.shared.stop_lane(&self.shell, Ending::Cancelled, true);
    }

    /// Ends the batch softly: items in hand finish, the others do not run.
    pub fn stop(&self) {
        self.rows.store.seal();
        self.shared.stop_lane(&self.shell, Ending::Cancelled, false);
    }

    /// Moves it to another class.
    pub fn set_priority(&self, priority: Priority) {
        let core = &self.shell.core;
        let (old, new) = core.tunables.change(|t| LaneTunables { class: priority.class() as u8, ..t });
        if old.class != new.class {
            self.shared.reclass(&self.shell, usize::from(old.class), usize::from(new.class));
            core.gate.queue_anew(&self.shared, core);
        }
    }

    /// Changes its share within its class.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a weight outside 1 to 65,535.
    pub fn set_weight(&self, weight: u32) -> Result<(), Error> {
        let weight = u16::try_from(weight)
            .ok()
            .filter(|weight| *weight > 0)
            .ok_or_else(|| Invalid::new("weight", "must be 1 to 65535"))?;
        self.shell.core.tunables.change(|t| LaneTunables { weight, ..t });
        Ok(())
    }

    /// Changes how many of its items may be in hand at once.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for zero.
    pub fn set_concurrency(&self, items: usize) -> Result<(), Error> {
        if items == 0 {
            return Err(Invalid::new("concurrency", "must be at least 1: pause the batch to stop it").into());
        }
        let items = u32::try_from(items).unwrap_or(u32::MAX);
        let core = &self.shell.core;
        let cap = items.min(self.shared.limits.batch_cap);
        core.tunables.change(|t| LaneTunables { cap, ..t });
        self.shared.with_place(&self.shell, |index| self.shared.gate.set_lane_cap(&self.shared, index, cap));
        // Chunks in hand were begun under the old cap.
        self.shell.with(|body| body.take_back(&self.shared, &self.shell, u64::MAX));
        Ok(())
    }
}

impl<I, O> Batch<I, O> {
    fn close(&self) {
        self.rows.store.seal();
        self.shell.core.seal();
        self.rows.room.notify();
        self.shared.maybe_end(&self.shell);
    }
}

impl<I, O> Drop for Batch<I, O> {
    fn drop(&mut self) {
        if !self.shell.core.is_sealed() {
            self.close();
        }
    }
}

impl<I, O> fmt::Debug for Batch<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("name", &self.shell.core.name).finish_non_exhaustive()
    }
}
