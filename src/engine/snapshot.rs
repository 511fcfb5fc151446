//! Statistics: one consistent-enough look at everything, without making a worker wait.

use super::lane::{LaneCore, Shell};
use super::shared::Shared;
use super::slot::Slot;
use crate::job::{Key, Priority};
use crate::meter::{Percentiles, Samples, WorkerCounts};
use crate::stats::{BatchPhase, BatchStats, Stats, WorkerState, WorkerStats};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::time::secs;
use std::time::Duration;

/// Sums over the lanes that have ended.
#[derive(Debug, Default)]
pub(crate) struct Past {
    submitted: u64,
    done: u64,
    dead: u64,
    skipped: u64,
    cancelled: u64,
    retried: u64,
    late: u64,
    abandoned: u64,
    timed_out: u64,
}

impl Past {
    pub(crate) fn add(&mut self, core: &LaneCore) {
        let counts = &core.counts;
        self.submitted += counts.submitted.get();
        self.done += counts.done.get();
        self.dead += counts.dead.get();
        self.skipped += counts.skipped.get();
        self.cancelled += counts.cancelled.get();
        self.retried += counts.retried.get();
        self.late += counts.late.get();
        self.abandoned += counts.abandoned.get();
        self.timed_out += counts.timed_out.get();
    }

    /// A lane that has been added got a late return.
    pub(crate) fn came_late(&mut self) {
        self.late += 1;
    }
}

/// What workers did whose threads were given up.
#[derive(Debug, Default)]
pub(crate) struct Retired {
    wait: Samples,
    run: Samples,
    counts: WorkerCounts,
}

impl Retired {
    pub(crate) fn add(&mut self, slot: &Slot) {
        self.wait.merge(&slot.latency.wait());
        self.run.merge(&slot.latency.run());
        self.counts += slot.counters.read();
    }
}

impl Shared {
    /// Takes a sample for the throughputs. The supervisor does so whenever it passes by.
    pub(crate) fn sample_throughput(&self) {
        let ended = self.ended_items();
        self.throughput.lock().sample(self.clock.now(), ended);
    }

    /// Items that have ended so far, whatever way.
    fn ended_items(&self) -> u64 {
        let lanes = self.lanes();
        let past = self.past.lock();
        let ended = past.done + past.dead + past.skipped + past.cancelled;
        let now = lanes.iter().filter(|shell| !shell.core.is_past.load(Ordering::Relaxed));
        ended + now.map(|shell| ended_of(&shell.core)).sum::<u64>()
    }

    pub(crate) fn stats(&self) -> Stats {
        let now = self.clock.now();
        let resources = self.gate.manager.stats();
        let rates = self.gate.rates().map(|(name, rate)| (name.clone(), rate.stats())).collect();
        let locks = self.locks.stats();
        let mut stats = Stats { uptime: now - self.opened, resources, rates, locks, ..Stats::default() };
        let mut shells = self.lanes();
        for waiting in self.batches() {
            if !shells.iter().any(|there| Arc::ptr_eq(there, &waiting)) {
                shells.push(waiting);
            }
        }
        // Held while the lanes are added: each is in the sums or among them, never in both and never in neither.
        let past = self.past.lock();
        stats.submitted = past.submitted;
        stats.completed = past.done;
        stats.failed = past.dead;
        stats.skipped = past.skipped;
        stats.cancelled = past.cancelled;
        stats.retried = past.retried;
        stats.late_results = past.late;
        stats.abandoned = past.abandoned;
        stats.timed_out = past.timed_out;
        for shell in &shells {
            let core = &shell.core;
            if core.is_past.load(Ordering::Relaxed) {
                continue;
            }
            let counts = &core.counts;
            stats.submitted += counts.submitted.get();
            stats.completed += counts.done.get();
            stats.failed += counts.dead.get();
            stats.skipped += counts.skipped.get();
            stats.cancelled += counts.cancelled.get();
            stats.retried += counts.retried.get();
            stats.late_results += counts.late.get();
            stats.abandoned += counts.abandoned.get();
            stats.timed_out += counts.timed_out.get();
            stats.batches.push(self.batch_stats(shell));
        }
        drop(past);
        let (mut wait, mut run) = (Samples::default(), Samples::default());
        let mut sums = WorkerCounts::default();
        {
            let retired = self.retired.lock();
            wait.merge(&retired.wait);
            run.merge(&retired.run);
            sums += retired.counts;
        }
        for slot in &self.slots {
            let slot = Arc::clone(&slot.lock());
            wait.merge(&slot.latency.wait());
            run.merge(&slot.latency.run());
            let counts = slot.counters.read();
            sums += counts;
            let mut worker = WorkerStats::new(slot.id, format!("batchyard-{}", slot.id));
            worker.items = counts.completed + counts.failed + counts.skipped;
            worker.failures = counts.failed;
            worker.busy = Duration::from_nanos(counts.busy_ns);
            let look = slot.look();
            worker.state = match look {
                _ if self.is_stopped() => WorkerState::Stopped,
                Some(_) => WorkerState::Busy,
                None if slot.is_paused() => WorkerState::Paused,
                None => WorkerState::Idle,
            };
            if let Some(look) = look {
                stats.in_flight += 1;
                let since = self.clock.at_raw(look.since);
                worker.busy += now - since;
                worker.item = self
                    .lane(look.lane)
                    .and_then(|shell| shell.with(|body| body.key_in_hand(slot.id, look.at)))
                    .flatten()
                    .map(|key: Key| key);
                if look.heartbeat >= look.since {
                    worker.heartbeat_age = Some(now - self.clock.at_raw(look.heartbeat));
                }
            }
            let uptime = stats.uptime.as_secs_f64();
            worker.utilisation =
                if uptime > 0.0 { (worker.busy.as_secs_f64() / uptime).min(1.0) } else { 0.0 };
            stats.workers.push(worker);
        }
        stats.panicked = sums.panicked;
        stats.queue_wait = wait.percentiles();
        stats.run = run.percentiles();
        let ended = stats.ended();
        let mut throughput = self.throughput.lock();
        throughput.sample(now, ended);
        stats.throughput_1s = throughput.rate(now, ended, secs(1));
        stats.throughput_10s = throughput.rate(now, ended, secs(10));
        stats.throughput_60s = throughput.rate(now, ended, secs(60));
        stats
    }

    pub(crate) fn batch_stats(&self, shell: &Arc<Shell>) -> BatchStats {
        let core = &shell.core;
        let counts = &core.counts;
        let mut batch = BatchStats::new(core.name.clone());
        let tunables = core.tunables.get();
        batch.priority = Priority::from_class(usize::from(tunables.class));
        batch.weight = u32::from(tunables.weight);
        let steer = core.steer.lock();
        batch.status = match (&steer.report, &steer.ending) {
            (Some(report), _) => BatchPhase::Ended(report.status.clone()),
            (None, Some(_)) => BatchPhase::Stopping,
            (None, None) if !core.is_placed() => BatchPhase::Queued,
            (None, None) if steer.paused != 0 => BatchPhase::Paused,
            (None, None) => BatchPhase::Running,
        };
        drop(steer);
        batch.sealed = core.is_sealed();
        batch.waiting = counts.waiting_retry.get();
        batch.abandoned = counts.abandoned.get();
        batch.late_results = counts.late.get();
        batch.done = counts.done.get();
        batch.failed = counts.dead.get();
        batch.skipped = counts.skipped.get();
        batch.cancelled = counts.cancelled.get();
        batch.retried = counts.retried.get();
        let open = counts.open.get();
        batch.in_flight = self
            .slots
            .iter()
            .filter(|slot| {
                core.is_placed() && slot.lock().look().is_some_and(|look| look.lane == core.index())
            })
            .count() as u64;
        batch.in_flight = batch.in_flight.min(open);
        batch.pending = open.saturating_sub(batch.in_flight + batch.waiting);
        let (wait, run) = (core.latency.wait(), core.latency.run());
        batch.queue_wait = percentiles(&wait);
        batch.run = percentiles(&run);
        batch
    }
}

fn percentiles(samples: &Samples) -> Percentiles {
    samples.percentiles()
}

fn ended_of(core: &LaneCore) -> u64 {
    let counts = &core.counts;
    counts.done.get() + counts.dead.get() + counts.skipped.get() + counts.cancelled.get()
}
