//! One batch at one moment.

use crate::job::{BatchStatus, Priority};
use crate::meter::Percentiles;
use serde::Serialize;
use std::fmt;

/// Where a batch is in its life.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BatchPhase {
    /// It waits for one of the `max_concurrent_batches` places.
    #[default]
    Queued,
    /// It runs.
    Running,
    /// It was paused: what ran finishes, nothing starts.
    Paused,
    /// It is being cancelled or halted: what ran is coming home.
    Stopping,
    /// It has ended.
    Ended(BatchStatus),
}

impl fmt::Display for BatchPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BatchPhase::Queued => f.pad("queued"),
            BatchPhase::Running => f.pad("running"),
            BatchPhase::Paused => f.pad("paused"),
            BatchPhase::Stopping => f.pad("stopping"),
            BatchPhase::Ended(status) => f.pad(&status.to_string()),
        }
    }
}

/// One batch at one moment.
///
/// ```
/// let batch = batchyard::BatchStats { done: 3, pending: 1, ..batchyard::BatchStats::new("b") };
/// assert_eq!(batch.total(), 4);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BatchStats {
    /// The batch's name.
    pub name: String,
    /// Its class.
    pub priority: Priority,
    /// Its share within the class.
    pub weight: u32,
    /// Where it is in its life.
    pub status: BatchPhase,
    /// Whether all its items have been submitted.
    pub sealed: bool,
    /// Items that are ready.
    pub pending: u64,
    /// Items that wait for their next attempt.
    pub waiting: u64,
    /// Items that run, or have finished and are not committed yet.
    pub in_flight: u64,
    /// Items that are done.
    pub done: u64,
    /// Items that are dead.
    pub failed: u64,
    /// Items that their closure left out.
    pub skipped: u64,
    /// Items that were cancelled.
    pub cancelled: u64,
    /// Attempts beyond the first of each item.
    pub retried: u64,
    /// Attempts whose threads were given up and have not returned.
    pub abandoned: u64,
    /// Outcomes that came after their attempt was abandoned.
    pub late_results: u64,
    /// From becoming ready to starting.
    pub queue_wait: Percentiles,
    /// How long attempts ran.
    pub run: Percentiles,
}

impl BatchStats {
    /// A batch of nothing.
    pub fn new(name: impl Into<String>) -> Self {
        BatchStats { name: name.into(), weight: 1, ..Self::default() }
    }

    /// Items in all.
    pub fn total(&self) -> u64 {
        self.ended() + self.pending + self.waiting + self.in_flight
    }

    /// Items that have ended in any way.
    pub fn ended(&self) -> u64 {
        self.done + self.failed + self.skipped + self.cancelled
    }

    pub(super) const HEAD: &'static str =
        "batch             priority  status           ended / total    failed  run p50    run p99";
}

/// One line of the table that [`Stats`](crate::Stats) prints.
impl fmt::Display for BatchStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let progress = format!("{} / {}", self.ended(), self.total());
        let p50 = format!("{:.1?}", self.run.p50);
        let p99 = format!("{:.1?}", self.run.p99);
        write!(
            f,
            "{:<16}  {:<8}  {:<10}  {:>18}  {:>8}  {:<9}  {:<9}",
            self.name, self.priority, self.status, progress, self.failed, p50, p99
        )
    }
}
