//! `map`, `try_map`, `for_each`: items, closure and results on the caller's stack.
//!
//! The caller's thread waits inside the call, so everything may be borrowed. The lane's body lives on the caller's
//! stack; [`Shell::close`] lets nobody in any more and waits until nobody is inside, and a guard calls it on every
//! way out, so no worker touches the stack after the call. Therefore an item that does not stop cannot be abandoned:
//! it is cancelled, and the call waits for it.
//!
//! A chunk is a range of positions, taken from a cursor by one `fetch_add`. A ticket of the lane means "there may be
//! more": who claims and leaves some behind puts the ticket back before it runs its range.
//!
//! Each position's result is written once, by who settles it, and read after the lane has ended.

use crate::engine::body::Body;
use crate::engine::lane::{Ending, LaneBody, LaneCore, Shell};
use crate::engine::shared::Shared;
use crate::engine::victim::is_victim;
use crate::engine::work::{Ended, Work};
use crate::engine::worker::{caught, on_worker_of, text_of};
use crate::engine::{Context, Error};
use crate::job::{
    AttemptError, AttemptKind, BatchStatus, Dead, DeadReason, Failure, FailureKind, HaltReason, Key, Report,
    Retry,
};
use crate::policy::{self, rng::Rng};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, CachePadded};
use crate::time::Timestamp;
use std::any::Any;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::Range;
use std::time::Duration;

/// The items of one call.
struct MapWork<'a, I, O, F> {
    items: &'a [I],
    run: F,
    results: Slots<O>,
    cursor: CachePadded<AtomicUsize>,
}

/// One place a result. A raw pointer, because many threads write to one allocation at once, each to its own places.
struct Slots<O> {
    places: *mut MaybeUninit<Result<O, Dead>>,
    len: usize,
}

// SAFETY: each place is written by one thread (who settled its position) and read by the caller after the lane has
// ended; both are ordered by the lane's count of open items. Values move between threads, hence `O: Send`.
unsafe impl<O: Send> Sync for Slots<O> {}
// SAFETY: as above; the allocation is owned.
unsafe impl<O: Send> Send for Slots<O> {}

impl<O> Slots<O> {
    fn new(len: usize) -> Self {
        Self { places: Box::into_raw(Box::<[Result<O, Dead>]>::new_uninit_slice(len)).cast(), len }
    }

    /// # Safety
    ///
    /// Each position is written once, by the one who settles it.
    #[inline(always)]
    unsafe fn write(&self, at: usize, outcome: Result<O, Dead>) {
        debug_assert!(at < self.len);
        // SAFETY: `at` is a position of the items, of which there are `len`; nobody else accesses this place before
        // the lane has ended (see above).
        unsafe { (*self.places.add(at)).write(outcome) };
    }

    /// # Safety
    ///
    /// Every position was written, and what wrote them happens before this call.
    unsafe fn into_vec(self) -> Vec<Result<O, Dead>> {
        let this = ManuallyDrop::new(self);
        // SAFETY: pointer and length are those of the box made in `new`, which `this` does not drop; by contract
        // each place is initialised.
        unsafe {
            Box::from_raw(std::ptr::slice_from_raw_parts_mut(this.places, this.len)).assume_init().into_vec()
        }
    }
}

impl<O> Drop for Slots<O> {
    fn drop(&mut self) {
        // SAFETY: pointer and length are those of the box made in `new`. What was written leaks; that happens only
        // when the call fails before anything ran.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.places, self.len)) });
    }
}

impl<I, O, F> Work for MapWork<'_, I, O, F>
where
    I: Sync,
    O: Send,
    F: Fn(&I, &Context) -> Result<O, Failure> + Sync + Send,
{
    /// The position of the chunk's first item.
    type Chunk = usize;
    type Out = O;
    const REFILLED: bool = false;

    fn claim(&self, max: usize) -> Option<(usize, u32, bool)> {
        // A look first: claims past the end must not let the cursor run away.
        if self.cursor.load(Ordering::Relaxed) >= self.items.len() {
            return None;
        }
        let from = self.cursor.fetch_add(max, Ordering::Relaxed);
        let to = (from + max).min(self.items.len());
        (from < to).then(|| (from, (to - from) as u32, to < self.items.len()))
    }

    fn unclaimed(&self) -> usize {
        self.items.len().saturating_sub(self.cursor.load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn call(&self, from: &usize, at: u32, ctx: &Context) -> Result<O, Failure> {
        (self.run)(&self.items[from + at as usize], ctx)
    }

    #[inline(always)]
    fn seq(&self, from: &usize, at: u32) -> u64 {
        (from + at as usize) as u64
    }

    #[inline(always)]
    fn key(&self, _from: &usize, _at: u32) -> Option<Key> {
        None
    }

    #[inline(always)]
    fn queued(&self, _from: &usize, _at: u32) -> Option<Timestamp> {
        None
    }

    #[inline(always)]
    fn keep(&self, _seat: usize, from: &usize, at: u32, outcome: Result<O, Dead>, _ended: Ended) {
        // SAFETY: called once for a position: by the attempt that settles it.
        unsafe { self.results.write(from + at as usize, outcome) };
    }

    fn publish(&self, _seat: usize) {}

    fn drop_unclaimed(&self, ending: &Ending) -> (usize, Box<dyn Any + Send>) {
        let len = self.items.len();
        // ORDERING: none needed: the positions are taken by the swap, like by any claim.
        let from = self.cursor.swap(len, Ordering::Relaxed).min(len);
        self.cancelled(&from, 0..(len - from) as u32, ending);
        (len - from, Box::new(()))
    }

    fn cancelled(&self, from: &usize, range: Range<u32>, ending: &Ending) {
        let reason = match ending {
            Ending::Cancelled => DeadReason::Cancelled,
            Ending::Halted(HaltReason::Deadline) => DeadReason::Expired,
            Ending::Halted(_) => DeadReason::Halted,
        };
        for at in range {
            let dead = Dead::new(reason, 0, Vec::new());
            // SAFETY: a cancelled item is settled by this, once.
            unsafe { self.results.write(from + at as usize, Err(dead)) };
        }
    }

    fn ended(&self, _report: &Report) {}
}

/// Takes the body away from its lane on every way out.
struct Close<'a> {
    shared: &'a Shared,
    shell: &'a Arc<Shell>,
}

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.shell.close(self.shared);
    }
}

/// Runs the items on the engine's workers and waits for all of them.
pub(super) fn map<I, O, F>(
    shared: &Arc<Shared>,
    core: LaneCore,
    items: &[I],
    run: F,
) -> Result<(Vec<Result<O, Dead>>, Arc<Shell>), Error>
where
    I: Sync,
    O: Send,
    F: Fn(&I, &Context) -> Result<O, Failure> + Send + Sync,
{
    if on_worker_of(shared) {
        // A thread of the engine's that runs no item: one of the rayon pool, on which an item's worker waits.
        return Err(Error::WouldBlockWorker);
    }
    let len = items.len();
    let work =
        MapWork { items, run, results: Slots::new(len), cursor: CachePadded::new(AtomicUsize::new(0)) };
    let body = Body::new(work, shared.limits.workers);
    core.counts.open.add(len as u64);
    core.counts.submitted.add(len as u64);
    core.seal();
    let shell = {
        let body: &(dyn LaneBody + '_) = &body;
        // SAFETY: `close` is called below, on every way out, before `body` is touched again or dropped.
        unsafe { Shell::borrowed(core, body) }
    };
    {
        let _close = Close { shared, shell: &shell };
        // All lanes may be taken by other calls like this one: then it waits for one of them to end.
        let placed = || match shared.place_now(&shell) {
            Err(Error::TooManyLanes { .. }) => None,
            placed => Some(placed),
        };
        shared.ended.wait(&shared.clock, None, placed).unwrap_or(Ok(()))?;
        if len == 0 {
            shared.maybe_end(&shell);
        } else {
            if let Some(deadline) = shell.core.deadline() {
                shared.schedule(deadline, &shell);
            }
            shared.add(&shell, 1);
            shared.ended.wait(&shared.clock, None, || shell.core.report().map(drop));
        }
    }
    // SAFETY: the lane has ended: every position was settled, and the report was set under the lane's latch after
    // that; nobody is inside any more.
    Ok((unsafe { body.work.results.into_vec() }, shell))
}

/// The report of a lane that has ended.
pub(super) fn report_of(shell: &Shell) -> Report {
    shell.core.report().unwrap_or_else(|| Report::new(shell.core.name.clone(), BatchStatus::Cancelled))
}

/// The report of items that ran without a lane.
pub(super) fn tally<O>(name: &str, outcomes: &[Result<O, Dead>], took: Duration) -> Report {
    let dead =
        |reason: DeadReason| outcomes.iter().filter(|o| matches!(o, Err(d) if d.reason() == reason)).count();
    let mut report = Report::new(name, BatchStatus::Completed);
    report.total_items = outcomes.len() as u64;
    report.completed_items = outcomes.iter().filter(|o| o.is_ok()).count() as u64;
    report.skipped_items = dead(DeadReason::Skipped) as u64;
    report.cancelled_items = (dead(DeadReason::Cancelled) + dead(DeadReason::Halted)) as u64;
    report.failed_items =
        report.total_items - report.completed_items - report.skipped_items - report.cancelled_items;
    report.processing_time = took;
    report.status = match &report {
        r if r.cancelled_items > 0 => BatchStatus::Cancelled,
        r if r.failed_items > 0 => BatchStatus::CompletedWithFailures,
        _ => BatchStatus::Completed,
    };
    report
}

/// Runs the items right here, one by one: the caller is an item of this engine and would wait for its own worker.
/// They share the calling item's cancellation, deadline and heartbeat.
pub(super) fn inline<I, O, F>(
    outer: &Context,
    retry: &Retry,
    items: &[I],
    run: F,
    stop_at_first: bool,
) -> Vec<Result<O, Dead>>
where
    F: Fn(&I, &Context) -> Result<O, Failure>,
{
    let mut ctx = outer.nested();
    let mut rng = Rng::seeded(outer.seq());
    let mut out = Vec::with_capacity(items.len());
    for (seq, item) in items.iter().enumerate() {
        ctx.seq = seq as u64;
        let outcome = inline_item(&mut ctx, retry, &mut rng, item, &run);
        let failed = outcome.is_err();
        out.push(outcome);
        if failed && stop_at_first {
            break;
        }
    }
    // The thread holds what was forgotten until the outer item ends.
    if ctx.has_locked.load(Ordering::Relaxed) {
        outer.has_locked.store(true, Ordering::Relaxed);
    }
    out
}

fn inline_item<I, O>(
    ctx: &mut Context,
    retry: &Retry,
    rng: &mut Rng,
    item: &I,
    run: &impl Fn(&I, &Context) -> Result<O, Failure>,
) -> Result<O, Dead> {
    let mut errors = Vec::new();
    (ctx.tries, ctx.deferrals) = (0, 0);
    loop {
        if ctx.is_cancelled() {
            return Err(Dead::new(DeadReason::Cancelled, ctx.tries, errors));
        }
        let victims = ctx.slot.victims();
        let result = caught(|| run(item, ctx));
        // It gave up in a deadlock, or one inside it did: to try it again here would meet the same, since the outer item
        // keeps what it holds.
        let is_victim = match &result {
            Ok(Err(failure)) if is_victim(failure) => {
                ctx.slot.note_victim(ctx.run);
                true
            }
            Ok(Err(failure)) => failure.kind() == FailureKind::Retry && ctx.slot.victims() != victims,
            _ => false,
        };
        ctx.tell_rates(&result);
        let (error, dead, wait) = match result {
            Ok(Ok(out)) => return Ok(out),
            Err((message, place)) => {
                let error =
                    AttemptError::new(ctx.tries + 1, AttemptKind::Panicked, format!("panicked: {message}"));
                let error = match place {
                    Some(place) => error.at(place.to_string()),
                    None => error,
                };
                (error, DeadReason::Panicked, None)
            }
            Ok(Err(failure)) => {
                let (kind, dead) = match failure.kind() {
                    FailureKind::Retry => (AttemptKind::Failed, DeadReason::Exhausted),
                    FailureKind::RetryAfter(_) | FailureKind::Defer(_) => {
                        (AttemptKind::Deferred, DeadReason::Deferred)
                    }
                    FailureKind::Fatal => (AttemptKind::Fatal, DeadReason::Fatal),
                    FailureKind::Skip => (AttemptKind::Skipped, DeadReason::Skipped),
                };
                let wait = failure.wait();
                (AttemptError::new(ctx.tries + 1, kind, text_of(failure)), dead, wait)
            }
        };
        errors.push(error);
        match wait {
            Some(_) => ctx.deferrals += 1,
            None => ctx.tries += 1,
        }
        let over = matches!(dead, DeadReason::Fatal | DeadReason::Skipped)
            || is_victim
            || (wait.is_none() && ctx.tries >= retry.max_attempts());
        if over {
            return Err(Dead::new(dead, ctx.tries, errors));
        }
        let wait = wait.unwrap_or_else(|| policy::backoff::delay(retry, ctx.tries, rng.next_u64()));
        // A cancellation is seen at the head of the loop.
        let _ = ctx.sleep(wait);
    }
}
