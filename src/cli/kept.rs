//! A run with a journal: items go in, what they leave is committed, and only then printed.
//!
//! The attempts run as [without one](super::drive). What differs: outputs travel through the journal, and one thread
//! reads them from there and prints (promise 2: nothing is seen that a kill could take back): the [desk](super::desk).

use super::bytes::{Bytes, brief};
use super::controls::{Controls, Stage, Why};
use super::desk::Desk;
use super::drive::{KILLED, Plan, feed, paced};
use super::exit::Trouble;
use super::job::{Attempt, Job, OWNER, Status, Verdict};
use super::left::{Left, item_of};
use super::run::Press;
use super::{orphans, say};
use crate::batch::Batch;
use crate::engine::{Context, Event};
use crate::job::{BatchStatus, Durability, Failure, HaltReason, Report};
use crate::store::sqlite::Journal;
use crate::store::sqlite::admin::Reading;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, thread};
use std::path::PathBuf;
use std::time::Duration;

/// Where a run is kept.
#[derive(Debug)]
pub(crate) struct Keeping {
    pub(crate) path: PathBuf,
    pub(crate) durability: Durability,
    pub(crate) name: String,
    /// The command as it was written.
    pub(crate) command: String,
    pub(crate) disk_wait: Duration,
    pub(crate) in_order: bool,
}

/// Runs `job` on every item that has not ended in an earlier run. Returns when all are settled and printed, or when the
/// run has been stopped and nothing runs any more.
pub(crate) fn drive(
    plan: &Plan,
    keeping: &Keeping,
    items: impl Iterator<Item = Bytes>,
    job: Job,
    controls: &Arc<Controls>,
    press: &Arc<Press>,
) -> Result<Report, Trouble> {
    let stop = Arc::clone(controls);
    let stalled = AtomicBool::new(false);
    let tally = Arc::clone(&press.tally);
    let (engine, names) = paced(plan);
    let engine = engine
        .journal(&keeping.path)
        .durability(keeping.durability)
        .disk_wait(keeping.disk_wait)
        .on_orphans(orphans::end)
        .on_event(move |event| match event {
            // Told once; a journal that is lost is told by the end.
            Event::JournalStalled { error } if !stalled.swap(true, Ordering::Relaxed) => {
                say(format!("{error}; no job starts until that is over"));
            }
            Event::JournalResumed => {
                stalled.store(false, Ordering::Relaxed);
                say("the journal can be written again");
            }
            Event::ItemsRevived { items, .. } => {
                tally.revive(*items);
                say(format!("{event}"));
            }
            // Not by us, who only stop it: by another process, or since the journal is lost.
            Event::BatchCancelled { .. } => stop.raise(Stage::Cancelling, Why::Elsewhere),
            _ => {}
        })
        .open()?;
    let journal = Arc::clone(engine.journal().expect("it was opened with one"));
    let job = Job { owner: Some(owner(&journal)), ..job };
    let mut batch = engine
        .batch(&keeping.name)
        .processor(&keeping.command, "")
        .retry(plan.retry)
        .duplicates(plan.duplicates)
        .grace(plan.grace.saturating_add(KILLED));
    for name in &names {
        batch = batch.paced_by(name);
    }
    let stage = Arc::clone(controls);
    let attempt = move |item: &Bytes, ctx: &Context| attempt(&job, &stage, item, ctx);
    let batch: Arc<Batch<Bytes, Left>> = Arc::new(batch.open(attempt)?);
    let stopped = Arc::clone(&batch);
    controls.on_raise(Box::new(move |_| stopped.stop()));
    let reading = Arc::new(Reading::open(&keeping.path)?);
    let row =
        reading.batches()?.into_iter().find(|row| row.name == keeping.name && row.parameters.is_empty());
    let row = row.ok_or_else(|| Trouble::internal("the batch is not in its journal"))?;
    if row.paused {
        say(format!("batch `{}` is paused: `batchyard resume` lets it go on", keeping.name));
    }
    let told = Arc::clone(&batch);
    press.tally.follow(Box::new(move || {
        let progress = told.progress();
        progress.done + progress.failed
    }));
    let desk = Desk {
        reading: Arc::clone(&reading),
        journal: Arc::clone(&journal),
        batch: row.id,
        press: Arc::clone(press),
    };
    let in_order = keeping.in_order;
    let watched = Arc::clone(&batch);
    let printer = thread::Builder::new()
        .name("printer".into())
        .spawn(move || desk.print(&watched, in_order))
        .map_err(|e| Trouble::internal(format!("cannot start a thread: {e}")))?;
    let fed = feed(&batch, items, controls);
    let report = batch.wait();
    // It ends with the batch. Its panic ends the program.
    let _ = printer.join();
    let report = report?;
    fed?;
    if let BatchStatus::Halted(HaltReason::Journal { problem }) = &report.status {
        return Err(Trouble::internal(problem.clone()));
    }
    if report.vanished_items > 0 {
        say(vanished(&report, &reading, row.id));
    }
    drop(reading);
    // What was committed is on the disk, and the lock free, before the program says how it ended.
    engine.shutdown(Duration::ZERO)?;
    Ok(report)
}

/// What the children of this run have in their environment. Inside the job of another run they keep that one's id, too.
fn owner(journal: &Journal) -> String {
    match std::env::var(OWNER) {
        Ok(outer) if !outer.is_empty() => format!("{outer} {}", journal.uid()),
        _ => journal.uid().to_owned(),
    }
}

fn vanished(report: &Report, reading: &Reading, batch: i64) -> String {
    let payload = |key: &String| reading.payload_of(batch, key).ok().flatten();
    let some: Vec<String> = report
        .vanished_keys
        .iter()
        .filter_map(payload)
        .map(|payload| format!("`{}`", brief(&item_of(payload).0)))
        .collect();
    format!(
        "{} items of earlier runs are not in the input any more: {}",
        report.vanished_items,
        some.join(", ")
    )
}

fn attempt(job: &Job, controls: &Controls, item: &Bytes, ctx: &Context) -> Result<Left, Failure> {
    // It stays pending, as if it had not begun. The batch hears of the stop here, if not before.
    let give_back = || {
        ctx.stop_batch();
        Failure::given_back()
    };
    if controls.stage() >= Stage::Draining {
        return Err(give_back());
    }
    let (key, idempotency_key) = (ctx.key().to_string(), ctx.idempotency_key());
    let attempt = Attempt {
        item: &item.0,
        number: ctx.seq() + 1,
        key: &key,
        idempotency_key: &idempotency_key,
        tries: ctx.attempt(),
        failures: ctx.failures(),
        deferrals: ctx.deferrals(),
    };
    let finished = match job.attempt(attempt, &|group| ctx.note_child(group)) {
        Verdict::Again(why) => return Err(Failure::retry(why)),
        Verdict::Later(wait, why) => return Err(Failure::retry_after_with(why, wait)),
        Verdict::Settled(finished) if finished.status == Status::Cancelled => return Err(give_back()),
        Verdict::Settled(finished) => finished,
    };
    let left = Left::keep(&finished, ctx).map_err(|e| {
        job.break_down(Trouble::internal(e.to_string()));
        give_back()
    })?;
    match finished.status {
        Status::Done => Ok(left),
        _ if finished.hopeless => Err(Failure::fatal(finished.how())),
        _ => Err(Failure::retry(finished.how())),
    }
}
