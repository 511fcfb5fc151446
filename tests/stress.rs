//! Random programs: whatever happens to an engine, every item is accounted for once, and it comes to rest.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use support::*;

const KIND_A: ResourceKind = ResourceKind::DatabaseConnection;
const KIND_B: ResourceKind = ResourceKind::FileHandle;

fn program(seed: u64) {
    let mut rng = Rng::new(seed);
    let workers = 1 + rng.below(6) as usize;
    let mut config = EngineConfig { workers: workers.into(), seed: Some(seed), ..EngineConfig::open() };
    config.max_concurrent_batches = 1 + rng.below(4) as usize;
    if rng.one_in(3) {
        config.max_workers_per_batch = 1 + rng.below(3) as usize;
    }
    if rng.one_in(4) && workers > 1 {
        config.workers = 2.into();
        config.max_total_concurrent_items = 2;
        // More than the total would be refused.
        config.max_workers_per_batch = config.max_workers_per_batch.min(2);
    }
    config.quotas.insert(KIND_A, 1 + rng.below(3) as usize);
    config.quotas.insert(KIND_B, 1 + rng.below(3) as usize);
    config.rates.insert("r".into(), "20000/s,burst=5".into());
    let engine = Engine::from_config(config).unwrap();
    let mut batches = Vec::new();
    for n in 0..2 + rng.below(6) {
        let items = rng.below(400);
        let ran: Arc<Vec<AtomicU32>> = Arc::new((0..items).map(|_| AtomicU32::new(0)).collect());
        let (counts, kind) = (ran.clone(), rng.below(8));
        let mut builder = engine
            .batch(format!("b{n}"))
            .priority(Priority::from_class_for_tests(rng.below(4)))
            .weight(1 + rng.below(5) as u32)
            .retry(Retry::exponential(Duration::from_micros(10)..millis(1)).attempts(3).no_budget());
        if rng.one_in(3) {
            builder = builder.needs(KIND_A, 1);
        }
        if rng.one_in(3) {
            builder = builder.needs(KIND_B, 1);
        }
        if rng.one_in(4) {
            builder = builder.paced_by("r");
        }
        if rng.one_in(4) {
            builder = builder.concurrency(1 + rng.below(3) as usize);
        }
        if rng.one_in(5) {
            builder = builder.halt("soon,fail=5".parse().unwrap());
        }
        let batch = builder
            .open(move |i: &u64, ctx: &Context| {
                counts[*i as usize].fetch_add(1, Ordering::Relaxed);
                match (kind, i % 23) {
                    (0, 3) => Err(Failure::fatal("fatal")),
                    (1, 3) if ctx.attempt() < 2 => Err(Failure::retry("again")),
                    (2, 5) => panic!("drawn"),
                    (3, 7) => Err(Failure::skip("skip")),
                    (4, 4) if ctx.deferrals() < 2 => Err(Failure::defer(Duration::from_micros(50))),
                    (5, 1) => {
                        ctx.sleep(Duration::from_micros(200))?;
                        Ok(*i)
                    }
                    (6, 2) => Err(Failure::retry("always")),
                    _ => Ok(*i),
                }
            })
            .unwrap();
        for i in 0..items {
            // Who waits for room must not have stopped what makes it.
            let pushed = batch.try_push(i).or_else(|error| {
                batch.resume();
                engine.resume_worker(0);
                batch.push(error.into_inner())
            });
            if pushed.is_err() {
                break; // halted meanwhile
            }
            match rng.below(200) {
                0 => batch.pause(),
                1 => batch.resume(),
                2 => batch.set_priority(Priority::from_class_for_tests(rng.below(4))),
                3 => drop(batch.set_concurrency(1 + rng.below(4) as usize)),
                4 => drop(engine.pause_worker(0)),
                5 => drop(engine.resume_worker(0)),
                6 => drop(engine.spawn(|| ())),
                7 => {
                    assert!(engine.stats().ended() <= engine.stats().submitted);
                }
                _ => {}
            }
        }
        batch.resume();
        engine.resume_worker(0);
        match rng.below(8) {
            0 => batch.cancel(),
            1 => batch.stop(),
            _ => batch.seal(),
        }
        batches.push((batch, ran));
        if rng.one_in(3) {
            assert_eq!(engine.map(0..50u64, |n, _| Ok(*n)).into_iter().filter(|r| r.is_ok()).count(), 50);
        }
        if rng.one_in(6) {
            engine.pause();
            engine.resume();
        }
    }
    let down = rng.one_in(3);
    if down {
        engine.shutdown(millis(rng.below(3))).unwrap();
    }
    for (batch, ran) in &batches {
        // All results are kept until somebody waits.
        let results = rng.one_in(2).then(|| batch.results());
        let read = results.map(|results| {
            let mut seen = vec![false; ran.len()];
            for item in results {
                let seq = item.unwrap().seq as usize;
                assert!(!std::mem::replace(&mut seen[seq], true), "result {seq} came twice");
            }
            seen.into_iter().filter(|seen| *seen).count() as u64
        });
        let report = batch.wait().unwrap();
        let ended =
            report.completed_items + report.failed_items + report.skipped_items + report.cancelled_items;
        assert_eq!(ended, report.total_items, "seed {seed}: {report:?}");
        if let Some(read) = read {
            assert_eq!(read, ended - report.cancelled_items, "seed {seed}: {report:?}");
        }
        let tries = ran.iter().map(|n| n.load(Ordering::Relaxed)).max().unwrap_or(0);
        assert!(tries <= 3, "seed {seed}: {tries} attempts");
    }
    at_rest(&engine);
    for kind in [KIND_A, KIND_B] {
        until("all permits are back", || engine.in_use(&kind).unwrap().0 == 0);
    }
    if !down {
        assert_eq!(engine.map(0..100u64, |n, _| Ok(*n)).into_iter().filter(|r| r.is_ok()).count(), 100);
        engine.shutdown(secs(60)).unwrap();
    }
}

trait FromClass {
    fn from_class_for_tests(class: u64) -> Self;
}

impl FromClass for Priority {
    fn from_class_for_tests(class: u64) -> Self {
        [Priority::Low, Priority::Normal, Priority::High, Priority::Critical][class as usize]
    }
}

/// Promises 7, 8, 10, 13, 15, 19, 23 at once. `BATCHYARD_SEED=n` runs one program again.
#[test]
fn promise_23_random_programs_come_to_rest() {
    std::panic::set_hook(Box::new(|info| {
        if !info.to_string().contains("drawn") {
            eprintln!("{info}");
        }
    }));
    if let Some(seed) = std::env::var("BATCHYARD_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return within(move || program(seed));
    }
    let began = Instant::now();
    let mut seed = 1;
    while began.elapsed() < secs(4) || seed < 20 {
        eprintln!("program {seed}");
        within(move || program(seed));
        seed += 1;
    }
}

/// Lanes' numbers are used again at once: what was set for one lane must not be cleared for another.
#[test]
fn promise_23_short_maps_from_many_threads_lose_no_wake_up() {
    within(|| {
        let engine = engine(3);
        std::thread::scope(|s| {
            for _ in 0..6 {
                s.spawn(|| {
                    let began = Instant::now();
                    let mut rounds = 0;
                    while began.elapsed() < secs(1) || rounds < 50 {
                        let out = engine.map(0..3u32, |n, _| Ok(*n));
                        assert!(out.iter().all(Result::is_ok));
                        rounds += 1;
                    }
                });
            }
        });
        at_rest(&engine);
    });
}

#[test]
fn promise_23_pausing_and_steering_from_many_threads_stops_nothing_for_good() {
    within(|| {
        let engine = engine(3);
        let batches: Vec<_> = (0..3)
            .map(|i| engine.batch(format!("b{i}")).submit(0..20_000u32, |n, _| Ok(*n)).unwrap())
            .collect();
        std::thread::scope(|s| {
            for batch in &batches {
                for t in 0..2 {
                    s.spawn(move || {
                        for i in 0..200 {
                            match (i + t) % 4 {
                                0 => batch.pause(),
                                1 => batch.set_priority(Priority::High),
                                2 => batch.resume(),
                                _ => batch.set_priority(Priority::Low),
                            }
                        }
                    });
                }
            }
        });
        batches.iter().for_each(Batch::resume);
        for batch in &batches {
            assert_eq!(batch.wait().unwrap().completed_items, 20_000);
        }
        at_rest(&engine);
    });
}

/// More batches than places, in all classes: who is displaced goes on.
#[test]
fn promise_09_displacement_loses_nobody() {
    within(|| {
        for round in 0..30 {
            let engine = Engine::builder().workers(2).in_memory().max_concurrent_batches(1).open().unwrap();
            std::thread::scope(|s| {
                for t in 0..4u64 {
                    let engine = &engine;
                    s.spawn(move || {
                        for i in 0..6u64 {
                            let batch = engine
                                .batch(format!("{round}-{t}-{i}"))
                                .priority(Priority::from_class_for_tests((t + i) % 4))
                                .submit(0..20u32, |n, _| Ok(*n))
                                .unwrap();
                            if i % 2 == 0 {
                                assert_eq!(batch.wait().unwrap().completed_items, 20);
                            }
                        }
                    });
                }
            });
            until("all ended", || engine.batches().is_empty());
            at_rest(&engine);
        }
    });
}
