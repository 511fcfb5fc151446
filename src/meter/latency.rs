//! Latency recorders; the one file that names hdrhistogram.
//!
//! A worker keeps its samples in a small array of its own and pours them into its own histogram once a chunk. The
//! histogram is behind a latch that the worker only ever *tries*: a reader holds it while it copies, and a worker
//! that meets a reader there pours into a second, private histogram, which the next pour adds in. So a record is a
//! store, a pour is wait-free for the worker, and no sample is lost.
//!
//! The numbers are HdrHistogram's (Gil Tene): two significant digits from 1 ns to 39 hours, a longer sample counting
//! as 39 hours in the percentiles; sum and maximum are kept beside it and are exact. One histogram takes 42 KiB, made when
//! its first sample is poured.

use crate::meter::Percentiles;
use crate::sync::{Arc, Mutex};
use hdrhistogram::Histogram;
use std::time::Duration;

/// Two significant digits: every reading is within 1 % of the sample.
const DIGITS: u8 = 2;
/// 2^47 ns, 39 hours. Each doubling costs 1 KiB.
const HIGHEST_NS: u64 = 1 << 47;
/// Samples kept before a pour is forced: one chunk at its largest.
const BATCH: usize = 64;
/// Histograms of a lane, so that workers that pour at once do not meet.
const STRIPES: usize = 4;

/// Poured samples with their exact sum and maximum.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    histogram: Option<Histogram<u64>>,
    sum_ns: u128,
    max_ns: u64,
}

impl Samples {
    fn histogram(&mut self) -> &mut Histogram<u64> {
        self.histogram.get_or_insert_with(|| {
            Histogram::new_with_bounds(1, HIGHEST_NS, DIGITS).expect("the bounds are constants that fit")
        })
    }

    /// Adds `count` samples of `ns` nanoseconds.
    pub(crate) fn record(&mut self, ns: u64, count: u64) {
        self.histogram().saturating_record_n(ns, count);
        self.sum_ns += u128::from(ns) * u128::from(count);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Adds another set of samples to this one.
    pub(crate) fn merge(&mut self, other: &Samples) {
        let Some(theirs) = &other.histogram else { return };
        match &mut self.histogram {
            Some(ours) => ours.add(theirs).expect("all have the same bounds"),
            None => self.histogram = Some(theirs.clone()),
        }
        self.sum_ns += other.sum_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    fn clear(&mut self) {
        if let Some(histogram) = &mut self.histogram {
            histogram.reset();
        }
        self.sum_ns = 0;
        self.max_ns = 0;
    }

    /// How many samples there are.
    pub(crate) fn count(&self) -> u64 {
        self.histogram.as_ref().map_or(0, Histogram::len)
    }

    /// The samples in seven numbers.
    pub(crate) fn percentiles(&self) -> Percentiles {
        let Some(histogram) = self.histogram.as_ref().filter(|h| !h.is_empty()) else {
            return Percentiles::default();
        };
        let count = histogram.len();
        let max = Duration::from_nanos(self.max_ns);
        let at = |q| Duration::from_nanos(histogram.value_at_quantile(q)).min(max);
        Percentiles {
            count,
            mean: Duration::from_nanos((self.sum_ns / u128::from(count)) as u64),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max,
        }
    }
}

/// Samples not yet poured: equal neighbours may share an entry.
#[derive(Debug)]
struct Pending {
    entries: [(u64, u64); BATCH],
    len: usize,
}

impl Pending {
    fn new() -> Self {
        Pending { entries: [(0, 0); BATCH], len: 0 }
    }

    fn entries(&self) -> &[(u64, u64)] {
        &self.entries[..self.len]
    }
}

/// One kind of latency of one worker.
#[derive(Debug)]
struct Track {
    pending: Pending,
    /// Where pours go that met a reader.
    spill: Samples,
    shared: Arc<Mutex<Samples>>,
}

impl Track {
    fn new() -> Self {
        Track { pending: Pending::new(), spill: Samples::default(), shared: Arc::default() }
    }

    #[inline(always)]
    fn record(&mut self, ns: u64, count: u64) {
        if self.pending.len == BATCH {
            self.pour();
        }
        self.pending.entries[self.pending.len] = (ns, count);
        self.pending.len += 1;
    }

    #[cold]
    #[inline(never)]
    fn pour(&mut self) {
        let Track { pending, spill, shared } = self;
        if pending.len == 0 && spill.count() == 0 {
            return;
        }
        match shared.try_lock() {
            Some(mut samples) => {
                if spill.count() > 0 {
                    samples.merge(spill);
                    spill.clear();
                }
                pending.entries().iter().for_each(|&(ns, count)| samples.record(ns, count));
            }
            None => pending.entries().iter().for_each(|&(ns, count)| spill.record(ns, count)),
        }
        pending.len = 0;
    }
}

/// A worker's latencies: how long attempts ran, and how long they had waited. Owned by the worker's thread.
#[derive(Debug)]
pub(crate) struct Recorder {
    run: Track,
    wait: Track,
    on: bool,
}

impl Recorder {
    #[cfg(test)]
    pub(crate) fn new() -> Self {
        Self::switched(true)
    }

    /// A recorder that records, or one that does not.
    pub(crate) fn switched(on: bool) -> Self {
        Recorder { run: Track::new(), wait: Track::new(), on }
    }

    /// An attempt ran this long.
    #[inline(always)]
    pub(crate) fn record_run(&mut self, ns: u64) {
        self.record_run_many(ns, 1);
    }

    /// `count` attempts ran this long each: what a chunk that was timed as a whole says.
    #[inline(always)]
    pub(crate) fn record_run_many(&mut self, ns: u64, count: u64) {
        if self.on {
            self.run.record(ns, count);
        }
    }

    /// An attempt had been ready this long when it started.
    #[inline(always)]
    pub(crate) fn record_wait(&mut self, ns: u64) {
        if self.on {
            self.wait.record(ns, 1);
        }
    }

    /// Makes what was recorded visible to readers, if none of them copies at this moment. Call once a chunk.
    pub(crate) fn pour(&mut self) {
        self.run.pour();
        self.wait.pour();
    }

    /// As [`pour`](Self::pour), and adds the samples since the last pour to the lane they came from. Call once a
    /// chunk: a chunk is of one lane, and at most 64 samples of a kind are kept between pours.
    pub(crate) fn pour_also(&mut self, lane: &LaneLatency) {
        lane.run.pour(self.run.pending.entries());
        lane.wait.pour(self.wait.pending.entries());
        self.pour();
    }

    /// A handle for whoever wants to know. Cheap to clone, usable from any thread, also after the recorder is gone.
    pub(crate) fn reader(&self) -> Reader {
        Reader { run: Arc::clone(&self.run.shared), wait: Arc::clone(&self.wait.shared) }
    }
}

/// Pours what is left, so that a worker that ends is counted whole.
impl Drop for Recorder {
    fn drop(&mut self) {
        for track in [&mut self.run, &mut self.wait] {
            track.pour();
            if track.spill.count() > 0 {
                track.shared.lock().merge(&track.spill);
            }
        }
    }
}

/// Reads a [`Recorder`].
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    run: Arc<Mutex<Samples>>,
    wait: Arc<Mutex<Samples>>,
}

impl Reader {
    /// A copy of the run times poured so far.
    pub(crate) fn run(&self) -> Samples {
        self.run.lock().clone()
    }

    /// A copy of the waits poured so far.
    pub(crate) fn wait(&self) -> Samples {
        self.wait.lock().clone()
    }
}

/// The latencies of one lane, poured by many workers, each once a chunk.
#[derive(Debug, Default)]
pub(crate) struct LaneLatency {
    run: Striped,
    wait: Striped,
}

impl LaneLatency {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A copy of the run times poured so far.
    pub(crate) fn run(&self) -> Samples {
        self.run.read()
    }

    /// A copy of the waits poured so far.
    pub(crate) fn wait(&self) -> Samples {
        self.wait.read()
    }
}

/// A few histograms that stand for one. A reader holds one at a time, so a worker finds another; only when every
/// one is being poured into does it wait, for a pour of at most 64 samples.
#[derive(Debug, Default)]
struct Striped([Mutex<Samples>; STRIPES]);

impl Striped {
    fn pour(&self, entries: &[(u64, u64)]) {
        if entries.is_empty() {
            return;
        }
        let mut samples =
            self.0.iter().find_map(Mutex::try_lock).unwrap_or_else(|| self.0[STRIPES - 1].lock());
        entries.iter().for_each(|&(ns, count)| samples.record(ns, count));
    }

    fn read(&self) -> Samples {
        let mut all = Samples::default();
        for stripe in &self.0 {
            let copy = stripe.lock().clone();
            all.merge(&copy);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::thread;

    #[test]
    fn percentiles_are_within_a_percent() {
        let mut recorder = Recorder::new();
        (1..=1000).for_each(|us| recorder.record_run(us * 1000));
        recorder.record_run_many(1_000_000, 0);
        recorder.pour();
        let seen = recorder.reader().run().percentiles();
        assert_eq!(seen.count, 1000);
        assert_eq!(seen.max, Duration::from_millis(1));
        assert_eq!(seen.mean, Duration::from_nanos(500_500));
        for (got, want) in [(seen.p50, 500.0), (seen.p90, 900.0), (seen.p99, 990.0), (seen.p999, 999.0)] {
            let error = got.as_secs_f64() * 1e6 / want - 1.0;
            assert!((0.0..0.01).contains(&error), "{got:?} for {want} µs");
        }
        assert_eq!(recorder.reader().wait().percentiles(), Percentiles::default());
    }

    #[test]
    fn samples_stay_local_until_poured_and_survive_a_reader() {
        let mut recorder = Recorder::new();
        let reader = recorder.reader();
        recorder.record_wait(5);
        assert_eq!(reader.wait().count(), 0);
        {
            let _copying = reader.wait.lock();
            recorder.pour();
        }
        assert_eq!(reader.wait().count(), 0);
        recorder.record_wait(7);
        recorder.pour();
        let seen = reader.wait().percentiles();
        assert_eq!((seen.count, seen.mean, seen.max.as_nanos()), (2, Duration::from_nanos(6), 7));
        assert_eq!(recorder.wait.spill.count(), 0);
    }

    #[test]
    fn a_recorder_that_ends_pours_what_it_has() {
        let mut recorder = Recorder::new();
        let reader = recorder.reader();
        {
            let _copying = reader.run.lock();
            recorder.record_run_many(3, 10);
            recorder.pour();
        }
        recorder.record_run(3);
        drop(recorder);
        assert_eq!(reader.run().count(), 11);
    }

    #[test]
    fn extremes_saturate() {
        let mut recorder = Recorder::new();
        recorder.record_run(0);
        recorder.record_run(u64::MAX);
        recorder.pour();
        let seen = recorder.reader().run().percentiles();
        assert_eq!(seen.count, 2);
        assert_eq!(seen.max, Duration::from_nanos(u64::MAX));
        assert!(seen.p99 >= Duration::from_nanos(HIGHEST_NS));
    }

    #[test]
    fn a_lane_gets_every_sample_of_every_worker() {
        let lane = LaneLatency::new();
        thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    let mut recorder = Recorder::new();
                    for _ in 0..100 {
                        (0..64).for_each(|ns| recorder.record_run(ns));
                        recorder.pour_also(&lane);
                    }
                    assert_eq!(recorder.reader().run().count(), 6400);
                });
            }
            s.spawn(|| {
                let mut last = 0;
                for _ in 0..50 {
                    let now = lane.run().count();
                    assert!(now >= last);
                    last = now;
                }
            });
        });
        assert_eq!(lane.run().count(), 4 * 6400);
        assert_eq!(lane.wait().count(), 0);
    }
}
