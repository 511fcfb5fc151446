//! What a manager tells of itself.

use super::demand::Demand;
use super::kind::ResourceKind;
use crate::job::Priority;
use crate::meter::Percentiles;
use serde::Serialize;
use std::fmt;
use std::panic::Location;
use std::time::Duration;

/// A live permit, or one that has lapsed: for reports.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Holder {
    /// Whose it is, by name.
    pub owner: String,
    /// What it holds. (No tokens: those are spent.)
    pub demand: Demand,
    /// Where it was taken: the place of the call.
    pub place: &'static Location<'static>,
    /// In which class it was taken.
    pub priority: Priority,
    /// How long it has been held.
    pub held_for: Duration,
    /// Whether its lease is over and it was left where it is.
    pub overdue: bool,
}

/// One kind of a manager at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct KindStats {
    /// The kind.
    pub kind: ResourceKind,
    /// The limit in force.
    pub limit: u64,
    /// How much of it the lowest class leaves to the higher ones.
    pub reserved: u64,
    /// What is taken: exact, and of the same moment as `limit`, `available` and `waiting`. In an engine this counts what
    /// the items of a batch `need`, too, which [`holders`](crate::ResourceManager::holders) does not list.
    pub in_use: u64,
    /// What is free; negative in debt.
    pub available: i64,
    /// The most that was in use just after somebody took, by a book that is entered after the take and left before the
    /// return: never more than was in use. It may be less where takes and returns cross: one that took and has not entered
    /// itself yet, when another has left already, is not counted beside it.
    pub high_water: u64,
    /// How many calls wait for it.
    pub waiting: usize,
    /// How long the one of them waits that waits longest.
    pub oldest_waiter: Option<Duration>,
    /// Calls that got it.
    pub granted: u64,
    /// Calls without waiting that found too little, and those that were not let wait.
    pub denied: u64,
    /// Calls whose deadline came first.
    pub timed_out: u64,
    /// Calls that were cancelled.
    pub cancelled: u64,
    /// Items that gave up in a deadlock over it.
    pub deadlocks: u64,
    /// Calls that no waiting helped: closed, or above the limit.
    pub refused: u64,
    /// Permits whose lease came to its end, and permits of owners that were gone.
    pub expired: u64,
    /// Permits that were dropped after they had been taken back.
    pub late_returns: u64,
    /// How long those waited that waited and got it.
    pub waits: Percentiles,
    /// How much was held for how long, in unit-seconds, since the manager was made.
    pub used: f64,
    /// How much could have been held: the limit over time, in unit-seconds.
    pub usable: f64,
}

impl KindStats {
    /// The share of the limit that was in use, on average, since `earlier`: 0 to 1, above after a limit was lowered.
    ///
    /// ```
    /// use batchyard::{ManualClock, ResourceManager, secs};
    /// let time = ManualClock::new();
    /// let manager = ResourceManager::builder().quota("gpu", 2).clock(time.clock()).build()?;
    /// let before = manager.kind_stats("gpu").expect("there is one");
    /// let one = manager.acquire(&"gpu".into())?;
    /// time.advance(secs(3));
    /// drop(one);
    /// time.advance(secs(3));
    /// let after = manager.kind_stats("gpu").expect("there is one");
    /// assert_eq!(after.utilisation_since(&before), 0.25);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn utilisation_since(&self, earlier: &KindStats) -> f64 {
        let usable = self.usable - earlier.usable;
        if usable > 0.0 { ((self.used - earlier.used) / usable).max(0.0) } else { 0.0 }
    }

    /// As [`utilisation_since`](Self::utilisation_since) the manager was made.
    pub fn utilisation(&self) -> f64 {
        if self.usable > 0.0 { self.used / self.usable } else { 0.0 }
    }
}

impl KindStats {
    pub(crate) const HEAD: &'static str =
        "resource          in use / limit    most   use  waiting   granted  timed out  wait p50   wait p99";
}

/// One line of the table that [`Stats`](crate::Stats) prints.
impl fmt::Display for KindStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = format!("{} / {}", self.in_use, self.limit);
        let (p50, p99) = (format!("{:.1?}", self.waits.p50), format!("{:.1?}", self.waits.p99));
        write!(
            f,
            "{:<16}  {share:>14}  {:>6}  {:>3.0}%  {:>7}  {:>8}  {:>9}  {p50:<9}  {p99:<9}",
            self.kind.to_string(),
            self.high_water,
            self.utilisation() * 100.0,
            self.waiting,
            self.granted,
            self.timed_out
        )
    }
}
