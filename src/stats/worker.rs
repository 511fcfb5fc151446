//! One worker thread at one moment.

use crate::job::{Key, named};
use crate::meter::seconds;
use serde::{Serialize, Serializer};
use std::fmt;
use std::time::Duration;

/// What a worker does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkerState {
    /// It looks for work, or sleeps.
    #[default]
    Idle,
    /// It runs an item.
    Busy,
    /// It runs an item that waits for a permit, a token or a lock of ours.
    Waiting,
    /// It was told to take nothing more for now.
    Paused,
    /// Its attempt was abandoned and it has not returned yet; another thread has its place.
    Abandoned,
    /// It has ended.
    Stopped,
}

named!(WorkerState, "worker state", {
    Idle = "idle",
    Busy = "busy",
    Waiting = "waiting",
    Paused = "paused",
    Abandoned = "abandoned",
    Stopped = "stopped",
});

/// One worker thread at one moment.
///
/// ```
/// use batchyard::{WorkerStats, stats::WorkerState};
/// let worker = WorkerStats { state: WorkerState::Busy, items: 3, ..WorkerStats::new(0, "batchyard-0") };
/// assert!(worker.to_string().contains("busy"));
/// ```
#[doc(alias = "WorkerInfo")]
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WorkerStats {
    /// Its place, counted from 0. A replacement has the place of the thread it replaces.
    pub id: usize,
    /// The thread's name.
    pub name: String,
    /// What it does.
    pub state: WorkerState,
    /// Attempts it has finished.
    pub items: u64,
    /// Those of them that did not succeed.
    pub failures: u64,
    /// Time inside closures.
    #[serde(with = "seconds")]
    pub busy: Duration,
    /// The share of its life spent inside closures, 0 to 1.
    pub utilisation: f64,
    /// The item in hand.
    pub item: Option<Key>,
    /// Since when the item in hand has not shown a sign of life.
    #[serde(serialize_with = "optional_seconds")]
    pub heartbeat_age: Option<Duration>,
}

fn optional_seconds<S: Serializer>(d: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    match d {
        Some(d) => to.serialize_some(&d.as_secs_f64()),
        None => to.serialize_none(),
    }
}

impl WorkerStats {
    /// An idle worker that has done nothing.
    pub fn new(id: usize, name: impl Into<String>) -> Self {
        WorkerStats { id, name: name.into(), ..Self::default() }
    }

    pub(super) const HEAD: &'static str =
        "worker            state           items  failures  busy (s)   used  in hand";
}

/// One line of the table that [`Stats`](crate::Stats) prints.
impl fmt::Display for WorkerStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<16}  {:<9}  {:>10}  {:>8}  {:>8.1}  {:>4.0}%  ",
            self.name,
            self.state,
            self.items,
            self.failures,
            self.busy.as_secs_f64(),
            self.utilisation * 100.0,
        )?;
        match &self.item {
            Some(key) => write!(f, "{key}")?,
            None => f.write_str("-")?,
        }
        match self.heartbeat_age {
            Some(age) => write!(f, " (silent for {age:.1?})"),
            None => Ok(()),
        }
    }
}
