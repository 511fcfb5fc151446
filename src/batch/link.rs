//! What a journal tells the engine about one batch: the store's commits move the lane's counts and wake who waits.
//!
//! Called from the journal's writer, which must not wait for anything that waits for it.

use crate::engine::Event;
use crate::engine::lane::{Ending, Shell, paused};
use crate::engine::shared::Shared;
use crate::job::{Dead, Failure, HaltReason};
use crate::store::{JournalError, Link, Origin};
use crate::sync::{Arc, Weak};
use crate::time::Timestamp;

/// A lane, as its store reaches it.
pub(super) struct LaneLink {
    pub(super) shared: Arc<Shared>,
    pub(super) shell: Weak<Shell>,
    /// Wakes who waits for results or for room.
    pub(super) notify: Box<dyn Fn() + Send + Sync>,
    /// The run has no input: all that the journal has of the batch is counted in.
    pub(super) whole: bool,
}

impl LaneLink {
    fn with(&self, f: impl FnOnce(&Arc<Shared>, &Arc<Shell>)) {
        if let Some(shell) = self.shell.upgrade() {
            f(&self.shared, &shell);
        }
    }
}

impl Link for LaneLink {
    fn kick(&self) {
        (self.notify)();
        self.with(|shared, shell| {
            if !shell.core.has_ended() {
                shell.with(|body| body.kick(shared, shell));
            }
        });
    }

    fn kick_at(&self, due: Timestamp) {
        self.with(|shared, shell| shared.schedule(due, shell));
    }

    fn settled(&self, settled: u64, done: u64) {
        (self.notify)();
        self.with(|shared, shell| shared.settled(shell, settled, done));
    }

    fn joined(&self, items: u64) {
        self.with(|_, shell| {
            shell.core.counts.submitted.add(items);
            shell.core.counts.open.add(items);
        });
    }

    fn ended_before(&self, done: u64, dead: u64, skipped: u64) {
        self.with(|_, shell| {
            let counts = &shell.core.counts;
            counts.done.add(done);
            counts.dead.add(dead);
            counts.skipped.add(skipped);
        });
    }

    fn repeated(&self, items: u64) {
        self.with(|shared, shell| {
            shell.core.counts.duplicates.add(items);
            shell.core.counts.submitted.sub(items);
            shared.settled(shell, items, 0);
        });
    }

    fn cancelled(&self, items: u64) {
        self.with(|shared, shell| {
            shell.core.counts.cancelled.add(items);
            shared.settled(shell, items, 0);
        });
    }

    fn waiting(&self, more: i64) {
        self.with(|_, shell| {
            let waiting = &shell.core.counts.waiting_retry;
            match u64::try_from(more) {
                Ok(more) => waiting.add(more),
                Err(_) => drop(waiting.sub(more.unsigned_abs())),
            }
        });
    }

    fn late(&self, items: u64) {
        self.with(|_, shell| shell.core.counts.late.add(items));
    }

    fn gave_up(&self, seq: u64, dead: &Dead) {
        self.with(|shared, shell| {
            shell.core.counts.dead.add(1);
            shared.dead(shell, seq, dead);
            shared.check_halt(shell);
        });
    }

    fn refused(&self, origin: Origin, failure: Failure) {
        self.with(|shared, shell| {
            shell.with(|body| body.refused(shared, shell, &*origin, failure));
        });
    }

    fn ended(&self) {
        self.with(|shared, shell| shared.conclude(shell));
    }

    fn stands_still(&self) -> bool {
        self.shell.upgrade().is_none_or(|shell| shell.core.is_held_back())
    }

    fn stalled(&self, stalled: bool) {
        self.with(|shared, shell| match stalled {
            true => shared.pause_lane(shell, paused::JOURNAL),
            false => shared.resume_lane(shell, paused::JOURNAL),
        });
    }

    fn failed(&self, why: &JournalError) {
        let why = HaltReason::Journal { problem: why.to_string() };
        self.with(|shared, shell| shared.halt(shell, why));
    }

    fn hold(&self) -> bool {
        // One that is told to stop runs nothing more.
        let shell = self.shell.upgrade().filter(|shell| !shell.core.is_stopping());
        shell.is_some_and(|shell| self.shared.hold(&shell))
    }

    fn revived(&self, items: u64, others: u64) {
        self.with(|shared, shell| {
            let counts = &shell.core.counts;
            counts.open.add(items);
            counts.dead.sub(items);
            if self.whole {
                // Of no input: they are not tried by this run, and have not ended either.
                counts.dead.sub(others);
                counts.submitted.sub(others);
            }
            shared.event(&Event::ItemsRevived { batch: &shell.core.name, items, others });
        });
    }

    fn control(&self, verb: &str) -> String {
        let Some(shell) = self.shell.upgrade().filter(|shell| !shell.core.has_ended()) else {
            return "has ended".to_owned();
        };
        match verb {
            "pause" => self.shared.pause_lane(&shell, paused::BATCH),
            "resume" => self.shared.resume_lane(&shell, paused::BATCH),
            "cancel" => self.shared.stop_lane(&shell, Ending::Cancelled, true),
            _ => return format!("`{verb}` is not understood"),
        }
        "done".to_owned()
    }
}
