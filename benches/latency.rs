//! Latency percentiles through the engine, in an open loop: `cargo bench --bench latency`.
//!
//! Items fall due on a fixed schedule, whatever became of the ones before, and a latency counts from the time an item
//! was due, not from the time it could be pushed: a stall shows in every item it delayed. The offered rate is a share
//! of the capacity measured first. A run that got less than 99 % of what was offered is called saturated: its
//! percentiles tell how long the queue grew, not how fast the engine is.

#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "measures real threads in real time")]

use batchyard::{Context, Engine, Failure, Rate, RateLimiter, Timestamp};
use hdrhistogram::Histogram;
use std::env;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What an item does: it spins for this long.
const WORK_NANOS: u64 = 5_000;
const RUNS: usize = 3;
const SHARES: [f64; 2] = [0.5, 0.8];
const PERCENTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

fn main() {
    // cargo adds `--bench` when it benches, and nothing when it tests.
    let test = env::args().any(|a| a == "--test") || !env::args().any(|a| a == "--bench");
    if env::args().any(|a| a == "--list") {
        return;
    }
    // One core is the driver's.
    let workers = thread::available_parallelism().map_or(1, usize::from).saturating_sub(1).max(1);
    let bench = Bench { clock: quanta::Clock::new(), workers };
    let (count, seconds) = if test { (200, 0.01) } else { (200_000, 2.0) };
    let capacity = median(&mut std::array::from_fn::<f64, RUNS, _>(|_| bench.run(count, None).achieved));
    println!(
        "items of {} µs, {workers} workers; capacity {capacity:.0} items/s (median of {RUNS} runs of {count})",
        WORK_NANOS / 1000
    );
    for share in SHARES {
        let offered = capacity * share;
        let runs: Vec<Run> =
            (0..RUNS).map(|_| bench.run((offered * seconds) as u64, Some(offered))).collect();
        report(share, &runs);
    }
    paced(test);
}

/// Starts a second of the paced rows.
const PACE: u64 = 1_000;

/// How late paced starts are: after the stamp of their grant, where a thread asks the limiter; after their place in the
/// schedule that the first one begins, through the engine. None may be early.
fn paced(test: bool) {
    let count = if test { 10 } else { 3 * PACE };
    println!("\nstarts paced at {PACE} a second, {count} of them: how late they are");
    for threads in [1, 4] {
        let limiter = RateLimiter::new(Rate::per_second(PACE)).expect("a valid rate");
        let late = Mutex::new(Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds"));
        thread::scope(|s| {
            for _ in 0..threads {
                s.spawn(|| {
                    for _ in 0..count / threads {
                        let grant = limiter.acquire(1).expect("one token fits");
                        let now = limiter.clock().now();
                        assert!(now >= grant.start_at(), "early");
                        late.lock()
                            .expect("no panic")
                            .saturating_record((now - grant.start_at()).as_nanos() as u64);
                    }
                });
            }
        });
        lateness(&format!("RateLimiter::acquire, {threads} threads"), &late.into_inner().expect("no panic"));
    }
    let limiter = RateLimiter::new(Rate::per_second(PACE)).expect("a valid rate");
    let engine =
        Engine::builder().in_memory().limiter("pace", limiter.clone()).open().expect("valid settings");
    let begun = limiter.clock().now();
    let starts = engine
        .batch("paced")
        .paced_by("pace")
        .map(0..count, |_, _| Ok(limiter.clock().now()))
        .expect("a batch in memory");
    let mut starts: Vec<Timestamp> =
        starts.into_iter().map(|start| start.expect("it does nothing")).collect();
    starts.sort_unstable();
    let mut late = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds");
    for (i, start) in (0..).zip(&starts) {
        let ahead = Duration::from_nanos(i * (1_000_000_000 / PACE));
        // The first token was taken after `begun`. Readings are rounded to nanoseconds.
        assert!(
            *start + Duration::from_nanos(2) >= begun + ahead,
            "start {i} is early: {start:?} of {begun:?}"
        );
        // The first may itself have been late: by so much another seems less late than it is.
        late.saturating_record((*start - (starts[0] + ahead)).as_nanos() as u64);
    }
    lateness("items of an engine", &late);
}

fn lateness(what: &str, late: &Histogram<u64>) {
    let at = |p| late.value_at_quantile(p) as f64 / 1e3;
    println!(
        "  {what}: p50 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs, max {:.0} µs",
        at(0.5),
        at(0.99),
        at(0.999),
        late.max() as f64 / 1e3
    );
}

struct Bench {
    clock: quanta::Clock,
    workers: usize,
}

struct Run {
    items: u64,
    /// Items a second.
    offered: f64,
    achieved: f64,
    /// Nanoseconds from when an item was due until it was done.
    latency: Histogram<u64>,
}

impl Bench {
    /// Pushes `count` items, one every `1 / rate` seconds, or all as fast as they go.
    fn run(&self, count: u64, rate: Option<f64>) -> Run {
        let engine = Engine::builder().workers(self.workers).in_memory().open().expect("an engine in memory");
        let done: Arc<[AtomicU64]> = (0..count).map(|_| AtomicU64::new(0)).collect();
        let work = {
            let (clock, done) = (self.clock.clone(), done.clone());
            move |item: &u64, _: &Context| -> Result<(), Failure> {
                let began = clock.raw();
                while clock.delta_as_nanos(began, clock.raw()) < WORK_NANOS {
                    spin_loop();
                }
                // Latest of the attempts; there is one.
                done[*item as usize].store(clock.raw(), Ordering::Relaxed);
                Ok(())
            }
        };
        let batch = engine.batch("latency").open(work).expect("a batch in memory opens");
        let start = self.clock.raw();
        let due = |item: u64| rate.map_or(0, |rate| (item as f64 * 1e9 / rate) as u64);
        for item in 0..count {
            while self.clock.delta_as_nanos(start, self.clock.raw()) < due(item) {
                spin_loop();
            }
            batch.push(item).expect("the batch takes items until it is sealed");
        }
        batch.seal();
        batch.wait().expect("every item is done");

        let mut latency = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds");
        let mut last = 0;
        for (item, done) in done.iter().enumerate() {
            let done = done.load(Ordering::Relaxed);
            assert!(done > 0, "item {item} never ran");
            let done = self.clock.delta_as_nanos(start, done);
            last = last.max(done);
            latency.saturating_record(done.saturating_sub(due(item as u64)));
        }
        let achieved = count as f64 * 1e9 / last as f64;
        Run { items: count, offered: rate.unwrap_or(achieved), achieved, latency }
    }
}

fn report(share: f64, runs: &[Run]) {
    println!(
        "\noffered {:.0} % of capacity: median of {} runs (lowest to highest)",
        share * 100.0,
        runs.len()
    );
    let over = |f: &dyn Fn(&Run) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(f).collect();
        let middle = median(&mut values);
        (middle, values[0], values[values.len() - 1])
    };
    let line = |name: &str, unit: &str, (middle, low, high): (f64, f64, f64)| {
        println!("  {name:<9} {middle:>12.1} {unit} ({low:.1} to {high:.1})");
    };
    line("offered", "items/s", over(&|r| r.offered));
    line("achieved", "items/s", over(&|r| r.achieved));
    for (name, p) in PERCENTILES {
        line(name, "µs", over(&|r| micros(r.latency.value_at_quantile(p))));
    }
    line("max", "µs", over(&|r| micros(r.latency.max())));
    println!("  items     {:>12}", runs.iter().map(|r| r.items.to_string()).collect::<Vec<_>>().join(", "));
    let saturated = runs.iter().filter(|r| r.achieved < 0.99 * r.offered).count();
    if saturated > 0 {
        println!("  SATURATED in {saturated} of {} runs: these are no latencies", runs.len());
    }
}

fn micros(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64() * 1e6
}

/// Sorts, too.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
