//! How it ended: one item's result, one batch's report.

use crate::job::{Dead, HaltReason, Key};
use crate::meter::{Percentiles, seconds};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A committed outcome: what `results()` yields.
///
/// ```
/// use batchyard::{Key, job::ItemResult};
/// let item = ItemResult::new(0, Key::from("a"), Ok(7), 1);
/// assert_eq!(item.outcome, Ok(7));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ItemResult<O> {
    /// The item's place in its batch, counted from 0 in the order of submission.
    pub seq: u64,
    /// Its identity.
    pub key: Key,
    /// What the closure returned, or why the item was given up.
    pub outcome: Result<O, Dead>,
    /// Attempts that counted.
    pub attempts: u32,
    /// How long the attempt that ended it ran. Zero for an item that never ran.
    pub run_time: Duration,
    /// How long it had waited when that attempt began. Zero for an item that never ran.
    pub queued_time: Duration,
}

impl<O> ItemResult<O> {
    /// A result that took no time.
    pub fn new(seq: u64, key: Key, outcome: Result<O, Dead>, attempts: u32) -> Self {
        ItemResult { seq, key, outcome, attempts, run_time: Duration::ZERO, queued_time: Duration::ZERO }
    }
}

/// An item that was given up: what [`Batch::dead`](crate::Batch::dead) lists.
///
/// ```
/// use batchyard::{Engine, Failure};
/// let engine = Engine::builder().in_memory().open()?;
/// let batch = engine.batch("b").submit([1u32, 2], |n, _| if *n == 1 { Ok(*n) } else { Err(Failure::fatal("two")) })?;
/// batch.wait()?;
/// let dead = batch.dead();
/// assert_eq!((dead.len(), dead[0].seq), (1, 1));
/// assert!(dead[0].dead.to_string().contains("two"));
/// # Ok::<(), batchyard::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeadItem {
    /// The item's place in its batch.
    pub seq: u64,
    /// Its identity.
    pub key: Key,
    /// Why it was given up, with the error of every attempt.
    pub dead: Dead,
}

impl DeadItem {
    /// Puts the parts together.
    pub(crate) fn new(seq: u64, key: Key, dead: Dead) -> Self {
        DeadItem { seq, key, dead }
    }
}

/// How a batch ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchStatus {
    /// Every item is done or was skipped by its own closure.
    Completed,
    /// Every item ended, and some are dead.
    CompletedWithFailures,
    /// It was cancelled.
    Cancelled,
    /// It was stopped before its end.
    Halted(HaltReason),
}

impl fmt::Display for BatchStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BatchStatus::Completed => f.write_str("completed"),
            BatchStatus::CompletedWithFailures => f.write_str("completed with failures"),
            BatchStatus::Cancelled => f.write_str("cancelled"),
            BatchStatus::Halted(why) => write!(f, "halted: {why}"),
        }
    }
}

/// What a batch did, in numbers: what `wait()` returns.
///
/// ```
/// use batchyard::{BatchStatus, Report};
/// let report = Report {
///     total_items: 12,
///     completed_items: 10,
///     failed_items: 2,
///     processing_time: batchyard::millis(1500),
///     ..Report::new("summaries", BatchStatus::CompletedWithFailures)
/// };
/// assert_eq!(
///     report.to_string(),
///     "summaries: completed with failures: 10 of 12 items done, 2 failed, in 1.50 s (6.7 done/s)"
/// );
/// ```
///
/// Serialized, durations are seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The batch's name.
    pub name: String,
    /// How it ended.
    pub status: BatchStatus,
    /// Items of the batch, those of earlier runs included.
    pub total_items: u64,
    /// Items that are done.
    pub completed_items: u64,
    /// Items that are dead.
    pub failed_items: u64,
    /// Items that their own closure left out.
    pub skipped_items: u64,
    /// Items that were cancelled, or never had their turn.
    pub cancelled_items: u64,
    /// Attempts beyond the first of each item.
    pub retried: u64,
    /// Outcomes that came after their attempt was abandoned, and were dropped.
    pub late_results: u64,
    /// Submitted items that were dropped because their key was there already.
    pub duplicates: u64,
    /// Items of this run that an earlier one had ended; they are among the counts above.
    pub resumed_items: u64,
    /// Items that earlier submissions of the batch had and this one has not. They do not run.
    pub vanished_items: u64,
    /// The keys of some of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vanished_keys: Vec<String>,
    /// From the start of this run to its end.
    #[serde(with = "seconds")]
    pub processing_time: Duration,
    /// From becoming ready to starting, over the attempts of this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_wait: Option<Percentiles>,
    /// How long the attempts of this run ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Percentiles>,
}

impl Report {
    /// A report of nothing.
    pub fn new(name: impl Into<String>, status: BatchStatus) -> Self {
        Report {
            name: name.into(),
            status,
            total_items: 0,
            completed_items: 0,
            failed_items: 0,
            skipped_items: 0,
            cancelled_items: 0,
            retried: 0,
            late_results: 0,
            duplicates: 0,
            resumed_items: 0,
            vanished_items: 0,
            vanished_keys: Vec::new(),
            processing_time: Duration::ZERO,
            queue_wait: None,
            run: None,
        }
    }

    /// Whether every item is done or was left out by its own closure.
    pub fn is_success(&self) -> bool {
        self.status == BatchStatus::Completed
    }

    /// Done items a second of processing time; 0 when no time has passed.
    pub fn throughput(&self) -> f64 {
        let time = self.processing_time.as_secs_f64();
        if time > 0.0 { self.completed_items as f64 / time } else { 0.0 }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { name, status, total_items, completed_items, .. } = self;
        write!(f, "{name}: {status}: {completed_items} of {total_items} items done")?;
        for (count, what) in [
            (self.failed_items, "failed"),
            (self.skipped_items, "skipped"),
            (self.cancelled_items, "cancelled"),
            (self.retried, "retried"),
            (self.late_results, "late"),
            (self.duplicates, "duplicates"),
            (self.resumed_items, "ended before"),
            (self.vanished_items, "not in the input any more"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        write!(f, ", in {:.2} s", self.processing_time.as_secs_f64())?;
        if self.completed_items > 0 && !self.processing_time.is_zero() {
            write!(f, " ({:.1} done/s)", self.throughput())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_report_divides_by_nothing() {
        let report = Report::new("b", BatchStatus::Completed);
        assert_eq!(report.throughput(), 0.0);
        assert_eq!(report.to_string(), "b: completed: 0 of 0 items done, in 0.00 s");
        assert!(report.is_success());
    }

    #[test]
    fn it_is_json_with_plain_numbers() {
        let status = BatchStatus::Halted(HaltReason::Deadline);
        let report = Report { processing_time: Duration::from_millis(250), ..Report::new("b", status) };
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["processing_time"], 0.25);
        assert_eq!(json["status"]["halted"], "deadline");
        assert!(json.get("run").is_none());
    }
}
