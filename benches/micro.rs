//! Single-thread costs, each beside its best peer: `cargo bench --bench micro -- [FILTER]`.

#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "measures against the real clock")]

use batchyard::limit::{Quota, RateLimiter};
use batchyard::{Clock, Rate, Ticker};
use criterion::Criterion;
use crossbeam::utils::CachePadded;
use governor::DefaultDirectRateLimiter;
use hdrhistogram::Histogram;
use parking_lot::{Condvar, Mutex};
use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    limiter(&mut criterion);
    quota(&mut criterion);
    map(&mut criterion);
    record(&mut criterion);
    clock(&mut criterion);
    criterion.final_summary();
}

/// One unit from a limiter that always has it, and from one that has not for an hour.
fn limiter(criterion: &mut Criterion) {
    const HOUR: Duration = Duration::from_secs(3600);
    const UNITS: NonZeroU32 = NonZeroU32::new(1_000_000_000).expect("not zero");
    let mut group = criterion.benchmark_group("limiter");

    let ours =
        RateLimiter::builder(Rate::per_second(u64::from(UNITS.get()))).burst(u64::from(UNITS.get())).build();
    let ours = ours.expect("a valid rate");
    group.bench_function("grant/batchyard", |b| b.iter(|| ours.try_acquire(1).is_ok()));
    let theirs = DefaultDirectRateLimiter::direct(governor::Quota::per_second(UNITS));
    group.bench_function("grant/governor", |b| b.iter(|| theirs.check().is_ok()));

    let ours = RateLimiter::builder(Rate::per_hour(1)).build().expect("a valid rate");
    assert!(ours.try_acquire(1).is_ok());
    group.bench_function("deny/batchyard", |b| b.iter(|| ours.try_acquire(1).is_err()));
    let theirs = DefaultDirectRateLimiter::direct(governor::Quota::with_period(HOUR).expect("not zero"));
    assert!(theirs.check().is_ok());
    group.bench_function("deny/governor", |b| b.iter(|| theirs.check().is_err()));
}

/// One of 64 permits, taken and given back.
fn quota(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("quota");
    let ours = Quota::new(64).expect("64 permits are a valid quota");
    group.bench_function("batchyard", |b| b.iter(|| drop(black_box(ours.try_acquire(1)))));

    // A load, a compare-exchange and an addition are the least that a take and a put cost: half the locked instructions
    // of tokio's semaphore, and the load is why `duel` finds the quota a little above half of its cost.
    let permits = CachePadded::new(AtomicU64::new(64));
    group.bench_function("floor: one word", |b| {
        b.iter(|| {
            let free = permits.load(Ordering::Relaxed);
            let taken = permits.compare_exchange(free, free - 1, Ordering::Acquire, Ordering::Relaxed);
            assert!(black_box(taken).is_ok());
            permits.fetch_add(1, Ordering::Release);
        });
    });

    let (send, receive) = crossbeam::channel::bounded(64);
    group.bench_function("crossbeam channel", |b| {
        b.iter(|| {
            assert!(send.try_send(()).is_ok());
            assert!(receive.try_recv().is_ok());
        });
    });

    let semaphore = Semaphore { free: Mutex::new(64), freed: Condvar::new() };
    group.bench_function("parking_lot Mutex and Condvar", |b| {
        b.iter(|| {
            semaphore.take();
            semaphore.put();
        });
    });
}

/// The semaphore everybody writes once.
struct Semaphore {
    free: Mutex<u32>,
    freed: Condvar,
}

impl Semaphore {
    fn take(&self) {
        let mut free = self.free.lock();
        while *free == 0 {
            self.freed.wait(&mut free);
        }
        *free -= 1;
    }

    fn put(&self) {
        *self.free.lock() += 1;
        self.freed.notify_one();
    }
}

/// A thousand no-op items through one worker.
fn map(criterion: &mut Criterion) {
    use rayon::prelude::*;
    const ITEMS: u64 = 1_000;
    let mut group = criterion.benchmark_group("map of 1,000 items");
    group.throughput(criterion::Throughput::Elements(ITEMS));
    let engine = batchyard::Engine::builder().workers(1).in_memory().open().expect("an engine in memory");
    group.bench_function("batchyard", |b| {
        b.iter(|| engine.map(0..ITEMS, |item: &u64, _| Ok(black_box(*item))));
    });
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread");
    group.bench_function("rayon par_iter", |b| {
        b.iter(|| pool.install(|| (0..ITEMS).into_par_iter().map(black_box).collect::<Vec<u64>>()));
    });
}

/// A latency into a histogram of 2 digits (what a worker keeps) and of 3.
fn record(criterion: &mut Criterion) {
    const MINUTE: u64 = 60_000_000_000;
    let mut group = criterion.benchmark_group("record");
    for digits in [2, 3] {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, MINUTE, digits).expect("valid bounds");
        let mut nanos = 1;
        group.bench_function(format!("hdrhistogram, {digits} digits"), |b| {
            b.iter(|| {
                nanos = (nanos * 5 + 3) & 0xf_ffff;
                histogram.saturating_record(nanos);
            });
        });
    }
}

/// One reading.
fn clock(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("clock");
    let fast = Clock::fast();
    group.bench_function("batchyard fast", |b| b.iter(|| fast.now()));
    let os = Clock::os();
    group.bench_function("batchyard os", |b| b.iter(|| os.now()));
    let ticker = Ticker::new(&os);
    group.bench_function("batchyard ticker", |b| b.iter(|| ticker.recent()));
    let quanta = quanta::Clock::new();
    group.bench_function("quanta now", |b| b.iter(|| quanta.now()));
    group.bench_function("std Instant::now", |b| b.iter(Instant::now));
}
