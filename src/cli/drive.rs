//! Hands the items of the input to the engine. What has settled goes to the printer from the worker that settled it.
//!
//! The engine schedules: workers, rates, tries and their backoff. What it does not do here, and why: a job's timeout
//! is the [nursery's](super::child), to whom the kernel says exactly when a process ends; stops of the run are the
//! [controls'](super::controls), which reach into running processes. So the engine is only ever told to
//! [stop](crate::Batch::stop), and its closures return because their processes have ended.

use super::bytes::{Bytes, brief};
use super::controls::{Controls, Stage, Why};
use super::exit::Trouble;
use super::job::{Attempt, Job, Status, Verdict};
use super::report::Row;
use crate::batch::{Batch, Engine, EngineBuilder};
use crate::engine::{Context, PushError};
use crate::job::{Duplicates, Failure, Report, Retry};
use crate::limit::Rate;
use crate::sync::Arc;
use crate::time::{Clock, secs};
use std::time::Duration;

/// What the engine has to keep.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) workers: usize,
    /// All of them hold for every start.
    pub(crate) rates: Vec<Rate>,
    pub(crate) retry: Retry,
    pub(crate) duplicates: Duplicates,
    /// From TERM to KILL.
    pub(crate) grace: Duration,
    pub(crate) clock: Clock,
}

/// After KILL a process is gone, unless the kernel itself hangs in it; then its thread is given up after this.
pub(crate) const KILLED: Duration = secs(30);

/// Runs `job` on every item. Returns when all are settled, or when the run has been stopped and nothing runs any
/// more. `row` is given every settled item, in any order, by the thread that settled it.
///
/// While the stage is `Draining` or later no attempt is started.
pub(crate) fn drive(
    plan: &Plan,
    items: impl Iterator<Item = Bytes>,
    job: Job,
    controls: &Arc<Controls>,
    row: impl Fn(Row) + Send + Sync + 'static,
) -> Result<Report, Trouble> {
    let (engine, names) = paced(plan);
    let engine = engine.in_memory().open()?;
    let mut batch = engine
        .batch("run")
        .retry(plan.retry)
        .duplicates(plan.duplicates)
        .grace(plan.grace.saturating_add(KILLED));
    for name in &names {
        batch = batch.paced_by(name);
    }
    let stage = Arc::clone(controls);
    let attempt = move |item: &Bytes, ctx: &Context| {
        // The engine hears of a stop after the controls do.
        if stage.stage() >= Stage::Draining {
            Err(Failure::retry("stopped"))
        } else {
            attempt(&job, item, ctx, &row)
        }
    };
    let batch: Arc<Batch<Bytes, ()>> = Arc::new(batch.open(attempt)?);
    batch.discard_results();
    let stopped = Arc::clone(&batch);
    controls.on_raise(Box::new(move |_| stopped.stop()));
    let fed = feed(&batch, items, controls);
    let report = batch.wait()?;
    fed.map(|()| report)
}

/// An engine to be, with the plan's rates, and their names.
pub(crate) fn paced(plan: &Plan) -> (EngineBuilder, Vec<String>) {
    let names: Vec<String> = (1..=plan.rates.len()).map(|n| format!("rate {n}")).collect();
    let mut engine = Engine::builder().workers(plan.workers).clock(plan.clock.clone()).panic_hook(false);
    for (name, rate) in names.iter().zip(&plan.rates) {
        engine = engine.rate(name, *rate);
    }
    (engine, names)
}

/// Hands all items to a batch, or those up to the stop of the run.
pub(crate) fn feed<O>(
    batch: &Batch<Bytes, O>,
    items: impl Iterator<Item = Bytes>,
    controls: &Controls,
) -> Result<(), Trouble> {
    for item in items {
        let trouble = match batch.push(item) {
            Ok(()) => continue,
            Err(PushError::Closed(_)) => break,
            Err(PushError::Duplicate(_, item)) => {
                Trouble::usage(format!("the item `{}` comes twice", brief(&item.0)))
            }
            Err(e) => Trouble::internal(e.to_string()),
        };
        controls.raise(Stage::Draining, Why::Trouble);
        return Err(trouble);
    }
    Ok(())
}

fn attempt(job: &Job, item: &Bytes, ctx: &Context, row: &impl Fn(Row)) -> Result<(), Failure> {
    let (key, idempotency_key) = (ctx.key().to_string(), ctx.idempotency_key());
    let number = ctx.seq() + 1;
    let attempt = Attempt {
        item: &item.0,
        number,
        key: &key,
        idempotency_key: &idempotency_key,
        tries: ctx.attempt(),
        failures: ctx.failures(),
        deferrals: ctx.deferrals(),
    };
    let verdict = job.attempt(attempt, &|_| ());
    match verdict {
        Verdict::Again(why) => Err(Failure::retry(why)),
        Verdict::Later(wait, _) => Err(Failure::defer(wait)),
        Verdict::Settled(finished) => {
            let status = finished.status;
            row(Row { number, item: item.clone(), key, attempts: ctx.attempt(), finished });
            match status {
                Status::Done => Ok(()),
                Status::Dead | Status::Cancelled => Err(Failure::fatal("failed")),
            }
        }
    }
}
