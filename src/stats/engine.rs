//! The engine at one moment.

use crate::limit::LimiterStats;
use crate::lock::LockStats;
use crate::meter::{Percentiles, seconds};
use crate::resource::KindStats;
use crate::stats::{BatchStats, WorkerStats};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The engine at one moment: what `Engine::stats` returns. Prints as a table, serializes as it stands.
///
/// ```
/// let stats = batchyard::Stats { submitted: 10, completed: 9, ..Default::default() };
/// assert!(stats.to_string().contains("9 completed"));
/// ```
#[doc(alias = "ConcurrentBatchStatistics")]
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// How long the engine has been open.
    #[serde(with = "seconds")]
    pub uptime: Duration,
    /// Items submitted.
    pub submitted: u64,
    /// Items done.
    pub completed: u64,
    /// Items dead.
    pub failed: u64,
    /// Items that their closure left out.
    pub skipped: u64,
    /// Items cancelled.
    pub cancelled: u64,
    /// Attempts beyond the first of each item.
    pub retried: u64,
    /// Attempts that panicked.
    pub panicked: u64,
    /// Attempts that overran their deadline or gave no sign of life.
    pub timed_out: u64,
    /// Outcomes that came after their attempt was abandoned, and were dropped.
    pub late_results: u64,
    /// Attempts that were given up, whether or not their threads have returned.
    pub abandoned: u64,
    /// Items that run, or have finished and are not committed yet.
    pub in_flight: u64,
    /// Items ended a second, over the last second.
    pub throughput_1s: f64,
    /// Items ended a second, over the last 10 s.
    pub throughput_10s: f64,
    /// Items ended a second, over the last minute.
    pub throughput_60s: f64,
    /// From becoming ready to starting.
    pub queue_wait: Percentiles,
    /// How long attempts ran.
    pub run: Percentiles,
    /// The worker threads.
    pub workers: Vec<WorkerStats>,
    /// The batches the engine knows in this run.
    pub batches: Vec<BatchStats>,
    /// The engine's resources: those with a quota.
    pub resources: Vec<KindStats>,
    /// The engine's rates, by name. What they count themselves, those count that were built to
    /// ([`EngineBuilder::limiter`](crate::EngineBuilder::limiter)).
    pub rates: BTreeMap<String, LimiterStats>,
    /// The engine's [named locks](crate::Engine::locks), all together.
    pub locks: LockStats,
}

impl Stats {
    /// Items that have ended in any way.
    pub fn ended(&self) -> u64 {
        self.completed + self.failed + self.skipped + self.cancelled
    }

    /// Items ended a second since the engine was opened.
    pub fn throughput(&self) -> f64 {
        let time = self.uptime.as_secs_f64();
        if time > 0.0 { self.ended() as f64 / time } else { 0.0 }
    }

    /// The share of the workers' time spent inside closures, 0 to 1.
    pub fn utilisation(&self) -> f64 {
        if self.workers.is_empty() {
            return 0.0;
        }
        self.workers.iter().map(|w| w.utilisation).sum::<f64>() / self.workers.len() as f64
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "up {:.1} s: {} submitted, {} completed, {} failed, {} in flight",
            self.uptime.as_secs_f64(),
            self.submitted,
            self.completed,
            self.failed,
            self.in_flight
        )?;
        for (count, what) in [
            (self.skipped, "skipped"),
            (self.cancelled, "cancelled"),
            (self.retried, "retried"),
            (self.panicked, "panicked"),
            (self.timed_out, "timed out"),
            (self.abandoned, "abandoned"),
            (self.late_results, "late"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        writeln!(
            f,
            "\nitems a second: {:.1} (1 s), {:.1} (10 s), {:.1} (60 s), {:.1} overall",
            self.throughput_1s,
            self.throughput_10s,
            self.throughput_60s,
            self.throughput()
        )?;
        writeln!(f, "queue wait: {}", self.queue_wait)?;
        write!(f, "run:        {}", self.run)?;
        if !self.workers.is_empty() {
            write!(f, "\n\n{}", WorkerStats::HEAD)?;
            self.workers.iter().try_for_each(|w| write!(f, "\n{w}"))?;
        }
        if !self.batches.is_empty() {
            write!(f, "\n\n{}", BatchStats::HEAD)?;
            self.batches.iter().try_for_each(|b| write!(f, "\n{b}"))?;
        }
        if !self.resources.is_empty() {
            write!(f, "\n\n{}", KindStats::HEAD)?;
            self.resources.iter().try_for_each(|kind| write!(f, "\n{kind}"))?;
        }
        if self.locks.waits > 0 {
            write!(f, "\n\nnamed locks: {}", self.locks)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{BatchPhase, WorkerState};

    #[test]
    fn the_table_is_whole() {
        let busy = WorkerStats {
            state: WorkerState::Busy,
            items: 12,
            utilisation: 0.5,
            item: Some("chapter-7".into()),
            heartbeat_age: Some(Duration::from_millis(1500)),
            ..WorkerStats::new(1, "batchyard-1")
        };
        let batch =
            BatchStats { done: 12, pending: 3, status: BatchPhase::Running, ..BatchStats::new("book") };
        let stats = Stats {
            uptime: Duration::from_secs(4),
            submitted: 15,
            completed: 12,
            late_results: 1,
            workers: vec![WorkerStats::new(0, "batchyard-0"), busy],
            batches: vec![batch],
            ..Stats::default()
        };
        let table = stats.to_string();
        for part in [
            "up 4.0 s: 15 submitted, 12 completed, 0 failed, 0 in flight, 1 late",
            "3.0 overall",
            "no samples",
            "chapter-7 (silent for 1.5s)",
            "12 / 15",
        ] {
            assert!(table.contains(part), "{part} is missing in:\n{table}");
        }
        assert_eq!(stats.utilisation(), 0.25);
    }

    #[test]
    fn columns_stand_under_their_heads() {
        let line = WorkerStats { item: Some("k".into()), ..WorkerStats::new(0, "w") }.to_string();
        assert_eq!(line.find('k'), WorkerStats::HEAD.find("in hand"));
        let line = BatchStats::new("b").to_string();
        assert_eq!(line.find("0.0ns"), BatchStats::HEAD.find("run p50"));
    }

    #[test]
    fn json_has_plain_numbers() {
        let stats = Stats { uptime: Duration::from_millis(1500), ..Stats::default() };
        let json = serde_json::to_value(&stats).unwrap();
        assert_eq!(json["uptime"], 1.5);
        assert_eq!(json["run"]["count"], 0);
        assert_eq!(json["workers"], serde_json::json!([]));
    }
}
