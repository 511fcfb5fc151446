//! What has become of the items so far: counted by the workers, read by the halt rule, the progress line and the
//! summary. One short latch, taken a few times a job.

use super::exit::Trouble;
use super::job::Status;
use crate::sync::{Mutex, MutexGuard, OnceLock};
use std::fmt;

/// The state of a run.
#[derive(Default)]
pub(crate) struct Tally {
    counts: Mutex<Counts>,
    /// With a journal: all that have finished, those of earlier runs included.
    finished: OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>,
}

/// The numbers of a [`Tally`].
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Items read so far; all there are once `all_read`.
    pub(crate) read: u64,
    pub(crate) all_read: bool,
    pub(crate) done: u64,
    pub(crate) dead: u64,
    pub(crate) cancelled: u64,
    /// The first item that died, and why.
    pub(crate) first_dead: Option<String>,
    /// What went wrong outside the jobs: the first of it ends the run.
    pub(crate) trouble: Option<Trouble>,
}

impl Tally {
    pub(crate) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock()
    }

    /// From now on this tells how many items have finished, in this run and before.
    pub(crate) fn follow(&self, finished: Box<dyn Fn() -> u64 + Send + Sync>) {
        let _ = self.finished.set(finished);
    }

    /// How many items had finished before this run.
    pub(crate) fn before(&self) -> u64 {
        let all = self.finished.get().map_or(0, |finished| finished());
        let counts = self.counts.lock();
        all.saturating_sub(counts.done + counts.dead)
    }

    /// Counts an item that will not be tried again. Returns how many there are, and how many of them are dead.
    pub(crate) fn settle(&self, status: Status, describe: impl FnOnce() -> String) -> (u64, u64) {
        let mut counts = self.counts.lock();
        match status {
            Status::Done => counts.done += 1,
            Status::Cancelled => counts.cancelled += 1,
            Status::Dead => {
                counts.dead += 1;
                counts.first_dead.get_or_insert_with(describe);
            }
        }
        (counts.done + counts.dead, counts.dead)
    }

    /// So many items that had been given up, in this run or before, are to be tried again.
    pub(crate) fn revive(&self, items: u64) {
        let mut counts = self.counts.lock();
        counts.dead = counts.dead.saturating_sub(items);
        if counts.dead == 0 {
            counts.first_dead = None;
        }
    }

    /// Remembers the first trouble.
    pub(crate) fn break_down(&self, trouble: Trouble) {
        self.counts.lock().trouble.get_or_insert(trouble);
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tally").field("counts", &self.counts).finish_non_exhaustive()
    }
}
