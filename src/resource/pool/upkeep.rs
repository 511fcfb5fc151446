//! What is done by who comes by, and at the end. No thread of the pool's own does it.

use super::shared::Shared;
use super::stats::{PoolStats, Why};
use crate::resource::guarded::guarded;
use crate::sync::atomic::Ordering;
use crate::time::Timestamp;
use r2d2::ManageConnection;

impl<M: ManageConnection> Shared<M> {
    /// Does the upkeep if it is due: one caller of those who come by then.
    #[inline]
    pub(super) fn come_by(&self, now: Timestamp) {
        // A hint that many read and one writes now and then: it orders nothing.
        let due = self.upkeep_due.load(Ordering::Relaxed);
        if now.as_nanos() >= due {
            self.take_upkeep(due, now);
        }
    }

    #[cold]
    fn take_upkeep(&self, due: u64, now: Timestamp) {
        let next = (now + self.settings.upkeep_every).as_nanos();
        if self.upkeep_due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.tidy(now);
        }
    }

    /// All of it, filling up included.
    pub(super) fn sweep(&self) {
        self.tidy(self.clock.now());
        self.fill();
    }

    /// What takes no connecting.
    fn tidy(&self, now: Timestamp) {
        self.report_leaks(now);
        self.trim();
        self.retire_expired(now);
    }

    pub(super) fn report_leaks(&self, now: Timestamp) {
        for held in self.holders.overdue(now) {
            self.counts.leaks.add_one();
            let told = guarded(|| {
                #[cfg(feature = "tracing")]
                tracing::warn!(target: "batchyard", "a connection has not come back: {held}");
                if let Some(listener) = &self.on_leak {
                    listener(&held);
                }
            });
            if let Err(message) = told {
                self.counts.panicked(message);
            }
        }
    }

    /// Closes idle connections above a limit that was lowered. It needs no permits: they are not put back.
    fn trim(&self) {
        while self.counts.open() > self.quota.limit() {
            let Some((place, idle)) = self.shelf.take() else { return };
            self.retire(idle.live, Some(place), Why::Surplus);
        }
    }

    /// Looks at the idle connections, each under a permit of its own, and closes those whose time is over. Those that stay
    /// are back before the first is closed.
    fn retire_expired(&self, now: Timestamp) {
        let mut looked_at = Vec::new();
        for _ in 0..self.shelf.len() {
            // None is free: the pool is busy, and what is idle now is used in a moment.
            let Ok(permit) = self.quota.try_acquire(1) else { break };
            let Some((place, idle)) = self.shelf.take() else { break };
            looked_at.push((permit, place, idle));
        }
        let mut expired = Vec::new();
        // The one that has been idle for longest came last, and goes back first.
        while let Some((permit, place, idle)) = looked_at.pop() {
            let left = looked_at.len() + self.shelf.len();
            match self.expired(&idle, now, || left >= self.settings.min_idle) {
                Some(why) => expired.push((permit, place, idle.live, why)),
                None => self.pass_on(place, idle),
            }
        }
        for (permit, place, live, why) in expired {
            self.retire(live, Some(place), why);
            drop(permit);
        }
    }

    /// Opens connections until so many are idle as should be; gives up at the first that fails.
    fn fill(&self) {
        loop {
            let idle = self.shelf.len();
            if idle >= self.settings.min_idle || self.shelf.is_closed() {
                return;
            }
            // With permits for all idle ones in hand, and one more, the others have room for all but one of the limit.
            // Those that came on the shelf meanwhile are not accounted for: then look again.
            let Ok(permits) = self.quota.try_acquire(idle as u64 + 1) else { return };
            if self.shelf.len() > idle {
                continue;
            }
            let Some(live) = self.open_quietly() else { return };
            match self.shelf.claim() {
                Some(place) => {
                    let since = self.clock.now();
                    self.pass_on(place, super::shared::Idle { live, since });
                }
                None => return self.retire(live, None, Why::Surplus),
            }
            drop(permits);
        }
    }

    /// Closes the pool: no more connections are given, the idle ones are closed now, the others when they come back.
    pub(super) fn close(&self) {
        self.shelf.close();
        if self.settings.owns_quota {
            self.quota.close();
        }
        self.clear();
    }

    fn clear(&self) {
        while let Some((place, idle)) = self.shelf.take() {
            self.retire(idle.live, Some(place), Why::PoolClosed);
        }
    }

    pub(super) fn stats(&self) -> PoolStats {
        let idle = self.shelf.len() as u64;
        PoolStats {
            limit: self.quota.limit(),
            idle,
            in_use: self.counts.open().saturating_sub(idle),
            waiting: self.quota.waiting() as u64,
            ..self.counts.read()
        }
    }
}

/// The last handle, or the last connection in use, has gone.
impl<M: ManageConnection> Drop for Shared<M> {
    fn drop(&mut self) {
        // Here, and not by the shelf's own drop, so that a connection that panics takes nobody with it.
        self.clear();
    }
}
