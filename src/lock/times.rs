//! How long locks are held, for those of which somebody has asked for that.
//!
//! When a thread has taken a lock is with the thread, and not in the lock: many may share it at a time.

use super::house;
use super::levelled::Levelled;
use super::stats::record;
use crate::meter::Samples;
use crate::time::{Clock, Timestamp};
use std::cell::RefCell;
use std::thread_local;

/// A lock's own clock, and how long it was held, if that is measured.
pub(super) struct More {
    pub(super) clock: Clock,
    pub(super) holds: Option<Levelled<Samples, house::HoldTimes>>,
}

thread_local! {
    /// When this thread took the timed locks that it holds, by their addresses.
    static SINCE: RefCell<Vec<(usize, Timestamp)>> = const { RefCell::new(Vec::new()) };
}

impl More {
    pub(super) fn new() -> Self {
        More { clock: Clock::os(), holds: None }
    }

    /// This thread has taken the lock. False: that is not timed, or thread-local storage is gone.
    pub(super) fn begin(&self, lock: usize) -> bool {
        self.holds.is_some() && {
            let now = self.clock.now();
            SINCE.try_with(|since| since.borrow_mut().push((lock, now))).is_ok()
        }
    }

    /// It is about to give it back.
    pub(super) fn end(&self, lock: usize) {
        let since = SINCE.try_with(|since| {
            let mut since = since.borrow_mut();
            let at = since.iter().rposition(|(there, _)| *there == lock)?;
            Some(since.remove(at).1)
        });
        if let (Ok(Some(since)), Some(holds)) = (since, &self.holds) {
            record(holds, self.clock.now() - since);
        }
    }
}
