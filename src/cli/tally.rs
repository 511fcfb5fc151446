//! What has become of the items so far: counted by the workers, read by the halt rule, the progress line and the
//! summary. One short latch, taken a few times a job.

use super::exit::Trouble;
use super::job::Status;
use crate::sync::{Mutex, MutexGuard};

/// The state of a run.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counts>);

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
        self.0.lock()
    }

    /// Counts an item that will not be tried again. Returns how many there are, and how many of them are dead.
    pub(crate) fn settle(&self, status: Status, describe: impl FnOnce() -> String) -> (u64, u64) {
        let mut counts = self.0.lock();
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

    /// Remembers the first trouble.
    pub(crate) fn break_down(&self, trouble: Trouble) {
        self.0.lock().trouble.get_or_insert(trouble);
    }
}
