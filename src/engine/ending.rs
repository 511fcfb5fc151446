//! How a lane ends: by itself when nothing is open and nothing more will come, or before its time.

use super::events::Event;
use super::lane::{Ending, LaneCore, Shell};
use super::shared::Shared;
use crate::job::{BatchStatus, HaltReason, Report};
use crate::policy;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::sync::thread::current;

impl Shared {
    /// Ends the lane before its time. `now`: items in hand are told to stop as well.
    pub(crate) fn stop_lane(&self, shell: &Arc<Shell>, ending: Ending, now: bool) {
        {
            let mut steer = shell.core.steer.lock();
            if steer.ending.is_none() {
                steer.ending = Some(ending);
            }
        }
        shell.core.stop_dispatch();
        if now {
            let told = shell.core.is_cancelled();
            shell.core.cancel();
            if !told && shell.core.steer.lock().announced {
                self.event(&Event::BatchCancelled { batch: &shell.core.name });
            }
            if shell.core.spec.may_abandon {
                let at = self.clock.now() + shell.core.spec.grace;
                shell.core.set_abandon_at(at);
                self.schedule(at, shell);
            }
            for slot in &self.slots {
                slot.lock().wake_sleepers();
            }
        }
        shell.with(|body| body.clear(self, shell));
        // A batch that was still open takes no more.
        shell.core.seal();
        self.maybe_end(shell);
    }

    pub(crate) fn halt(&self, shell: &Arc<Shell>, why: HaltReason) {
        self.stop_lane(shell, Ending::Halted(why), true);
    }

    /// An item died: has the batch's halt rule had enough?
    pub(crate) fn check_halt(&self, shell: &Arc<Shell>) {
        let core = &shell.core;
        let Some(rule) = core.spec.halt else { return };
        let failed = core.counts.dead.get();
        let ended = failed + core.counts.done.get() + core.counts.skipped.get();
        if policy::halt::says_stop(&rule, failed, ended) {
            let why = HaltReason::Failures { rule, failed, ended };
            self.stop_lane(shell, Ending::Halted(why), rule.now);
        }
    }

    /// Outcomes were published: `done` of them good.
    pub(crate) fn settled(&self, shell: &Arc<Shell>, settled: u64, done: u64) {
        if done > 0 {
            shell.core.counts.done.add(done);
        }
        if settled > 0 && shell.core.counts.open.sub(settled) == 0 {
            self.maybe_end(shell);
        }
    }

    /// Keeps the lane from ending until [`settled`](Shared::settled) is told of one more that is open. False: it has ended,
    /// or is about to.
    ///
    /// While something is open the lane does not end, and one more open keeps it so. With nothing open only its seal is
    /// still to come: counted first and looked at then, as in `Batch::push`, either that sees our count or we see it.
    pub(crate) fn hold(&self, shell: &Arc<Shell>) -> bool {
        let open = &shell.core.counts.open;
        if open.add_if(|open| open > 0) {
            return true;
        }
        open.add(1);
        if shell.core.is_sealed() {
            self.settled(shell, 1, 0);
            return false;
        }
        true
    }

    /// Ends the lane if nothing is open and nothing more will come.
    ///
    /// Two threads may come here for one lane: who brought `open` to zero, and who sealed it. Each changes its own
    /// word by a read-modify-write and then looks at the other's, `open` by a read-modify-write again: whichever
    /// change of `open` comes second sees the first, so at least one of the two finds both conditions; `end` lets
    /// one through.
    ///
    /// The order of what follows is what users see. The name is free before the results end, so that who has read them
    /// can use it again. Report and results are complete before the listener is told, so that it can look at both.
    /// Who waits is woken when it has returned, so that nothing is told of a batch that was waited for.
    pub(crate) fn maybe_end(&self, shell: &Arc<Shell>) {
        let core = &shell.core;
        if core.counts.open.sub(0) != 0 || !core.is_sealed() || !core.end() {
            return;
        }
        let report = self.report(shell);
        {
            let mut past = self.past.lock();
            past.add(core);
            core.is_past.store(true, Ordering::Relaxed);
        }
        self.leave(shell);
        let status = serde_json::to_string(&report.status).unwrap_or_default();
        core.steer.lock().ended = Some(report);
        // In a journal the end is a row as well: it is told when that is written. Until then somebody must have the lane: its
        // user may have let it go.
        self.ending.lock().push(Arc::clone(shell));
        if shell.with(|body| body.end(&status)) != Some(true) {
            self.conclude(shell);
        }
    }

    /// The lane has ended, and nothing of it is still on its way.
    pub(crate) fn conclude(&self, shell: &Arc<Shell>) {
        let core = &shell.core;
        self.ending.lock().retain(|there| !Arc::ptr_eq(there, shell));
        let (report, announced) = {
            let mut steer = core.steer.lock();
            let Some(report) = steer.ended.take() else { return };
            steer.report = Some(report.clone());
            steer.telling = steer.announced.then(|| current().id());
            (report, steer.announced)
        };
        shell.with(|body| body.ended(&report));
        if announced {
            self.event(&Event::BatchEnded { batch: &core.name, status: &report.status });
            core.steer.lock().telling = None;
        }
        self.ended.notify();
    }

    fn report(&self, shell: &Shell) -> Report {
        let core = &shell.core;
        let counts = &core.counts;
        let (ending, earlier) = {
            let steer = core.steer.lock();
            (steer.ending.clone(), steer.earlier.clone())
        };
        let status = match ending {
            // Stopped with nothing left to stop: it is done all the same.
            Some(_)
                if counts.cancelled.get() == 0 && counts.dead.get() == 0 && counts.submitted.get() > 0 =>
            {
                BatchStatus::Completed
            }
            Some(Ending::Cancelled) => BatchStatus::Cancelled,
            Some(Ending::Halted(why)) => BatchStatus::Halted(why),
            None if counts.dead.get() > 0 => BatchStatus::CompletedWithFailures,
            None => BatchStatus::Completed,
        };
        let mut report = Report::new(core.name.clone(), status);
        report.total_items = counts.submitted.get();
        report.completed_items = counts.done.get();
        report.failed_items = counts.dead.get();
        report.skipped_items = counts.skipped.get();
        report.cancelled_items = counts.cancelled.get();
        report.retried = counts.retried.get();
        report.late_results = counts.late.get();
        report.duplicates = counts.duplicates.get();
        report.resumed_items = earlier.resumed;
        report.vanished_items = earlier.vanished;
        report.vanished_keys = earlier.vanished_keys;
        report.processing_time = self.clock.now() - core.started;
        let (wait, run) = (core.latency.wait(), core.latency.run());
        report.queue_wait = (wait.count() > 0).then(|| wait.percentiles());
        report.run = (run.count() > 0).then(|| run.percentiles());
        report
    }

    /// An attempt that had been abandoned has returned. Its lane may have ended.
    pub(crate) fn came_late(&self, core: &LaneCore) {
        let mut past = self.past.lock();
        core.counts.late.add(1);
        if core.is_past.load(Ordering::Relaxed) {
            past.came_late();
        }
    }
}
