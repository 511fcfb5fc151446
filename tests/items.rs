//! What becomes of items: retries, deferrals, panics, halts, steering.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Duration;
use support::*;

fn only<O: Send + 'static>(batch: &Batch<u32, O>) -> Result<O, Dead> {
    batch.results().next().unwrap().unwrap().outcome
}

#[test]
fn promise_13_deferrals_cost_no_attempt_and_hold_nothing() {
    within(|| {
        let time = ManualClock::new();
        let engine =
            Engine::builder().workers(1).in_memory().quota("gpu", 1).clock(time.clock()).open().unwrap();
        let batch = engine
            .batch("b")
            .needs("gpu", 1)
            .submit([1u32], |_, ctx| match ctx.deferrals() {
                0 => Err(Failure::defer(secs(100))),
                1 => Err(Failure::retry_after(secs(100))),
                _ => Ok((ctx.attempt(), ctx.deferrals())),
            })
            .unwrap();
        until("it waits", || batch.stats().waiting == 1);
        let stats = batch.stats();
        assert_eq!((stats.pending, stats.in_flight, stats.total()), (0, 0, 1), "{stats:?}");
        until("the permit is back", || engine.in_use(&"gpu".into()) == Some((0, 1)));
        let other = engine.batch("other").needs("gpu", 1).submit([1u32], |n, _| Ok(*n)).unwrap();
        assert_eq!(other.wait().unwrap().completed_items, 1, "neither worker nor permit is held");
        advance_until(&time, secs(10), "done", || batch.progress().done == 1);
        assert!(time.now() >= Timestamp::ZERO + secs(200));
        assert_eq!(only(&batch).unwrap(), (1, 2));
    });
}

#[test]
fn promise_13_full_jitter_waits_no_longer_than_its_bound() {
    within(|| {
        let time = ManualClock::new();
        let engine = Engine::builder().workers(1).in_memory().clock(time.clock()).open().unwrap();
        let starts = Arc::new(Mutex::new(Vec::new()));
        let (log, clock) = (starts.clone(), time.clone());
        let batch = engine
            .batch("b")
            .retry(Retry::exponential(secs(8)..secs(20)).attempts(4).no_budget())
            .submit([1u32], move |_, _| {
                log.lock().unwrap().push(clock.now());
                Err::<(), _>(Failure::retry("no"))
            })
            .unwrap();
        let mut seen = 0;
        advance_until(&time, millis(250), "dead", || {
            // Nothing moves the clock while an attempt is due but has not begun.
            let n = starts.lock().unwrap().len();
            seen = seen.max(n);
            batch.progress().failed == 1
        });
        let starts = starts.lock().unwrap();
        assert_eq!((starts.len(), seen), (4, 4));
        let dead = only(&batch).unwrap_err();
        assert_eq!((dead.reason(), dead.attempts(), dead.errors().len()), (DeadReason::Exhausted, 4, 4));
    });
}

#[test]
fn promise_13_the_retry_budget_is_a_share_and_ten() {
    within(|| {
        let engine = engine(2);
        let batch = engine
            .batch("b")
            .retry(Retry::fixed(Duration::from_micros(1)).attempts(5).budget(0.1))
            .submit(0..100u32, |_, _| Err::<(), _>(Failure::retry("down")))
            .unwrap();
        let report = report(&batch);
        assert_eq!((report.failed_items, report.retried), (100, 20));
    });
}

/// A service that is down is not called twice for each of the first hundred items because thousands wait behind them.
#[test]
fn promise_13_the_retry_budget_grows_as_items_begin_not_as_they_are_submitted() {
    within(|| {
        for workers in [1, 3] {
            let engine = engine(workers);
            let (begun, tried) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let over = Arc::new(Mutex::new(Vec::new()));
            let log = over.clone();
            let batch = engine
                .batch("b")
                .retry(Retry::fixed(Duration::ZERO).attempts(2).budget(0.1))
                .submit(0..1000u32, move |_, ctx| {
                    if ctx.attempt() == 1 {
                        begun.fetch_add(1, Ordering::SeqCst);
                    } else {
                        let tried = tried.fetch_add(1, Ordering::SeqCst) + 1;
                        // Another worker's item counts from just before its closure.
                        let begun = begun.load(Ordering::SeqCst) + workers - 1;
                        if tried > begun / 10 + 10 {
                            log.lock().unwrap().push((tried, begun));
                        }
                    }
                    Err::<(), _>(Failure::retry("down"))
                })
                .unwrap();
            let report = report(&batch);
            assert_eq!(*over.lock().unwrap(), [], "retries beyond a tenth of what had begun, and ten");
            assert_eq!((report.failed_items, report.retried), (1000, 110));
        }
    });
}

#[test]
fn promise_13_fatal_and_skip_are_final() {
    within(|| {
        let engine = engine(1);
        let batch = engine
            .batch("b")
            .retry(Retry::fixed(millis(1)).attempts(5))
            .submit([0u32, 1], |n, _| {
                if *n == 0 { Err::<(), _>(Failure::fatal("f")) } else { Err(Failure::skip("s")) }
            })
            .unwrap();
        let reasons: Vec<_> =
            batch.results_in_order().map(|item| item.unwrap().outcome.unwrap_err().reason()).collect();
        assert_eq!(reasons, [DeadReason::Fatal, DeadReason::Skipped]);
        let report = report(&batch);
        assert_eq!((report.failed_items, report.skipped_items, report.retried), (1, 1, 0));
        assert_eq!(report.status, BatchStatus::CompletedWithFailures);
    });
}

#[test]
fn promise_19_a_panic_is_recorded_its_thread_replaced_its_permit_returned() {
    within(|| {
        let engine = Engine::builder().workers(1).in_memory().quota("gpu", 1).open().unwrap();
        let threads: Arc<Mutex<Vec<ThreadId>>> = Arc::default();
        let log = threads.clone();
        let batch = engine
            .batch("b")
            .needs("gpu", 1)
            .submit(0..3u32, move |n, _| {
                log.lock().unwrap().push(std::thread::current().id());
                if *n == 1 { panic!("one") } else { Ok(*n) }
            })
            .unwrap();
        let results: Vec<_> = batch.results_in_order().map(|item| item.unwrap().outcome).collect();
        let dead = results[1].as_ref().unwrap_err();
        assert_eq!(dead.reason(), DeadReason::Panicked);
        let error = dead.last_error().unwrap();
        assert!(error.message.contains("one") && error.place.as_ref().unwrap().contains("tests/items.rs"));
        let threads = threads.lock().unwrap();
        assert!(threads[0] == threads[1] && threads[1] != threads[2], "{threads:?}");
        until("the permit is back", || engine.in_use(&"gpu".into()) == Some((0, 1)));
        assert_eq!(engine.stats().panicked, 1);
        assert_eq!(engine.stats().workers.len(), 1);
    });
}

#[test]
fn promise_19_every_worker_may_panic_and_the_engine_goes_on() {
    within(|| {
        let engine = engine(3);
        let batch = engine
            .batch("b")
            .submit(0..300u32, |n, _| if n % 3 == 0 { panic!("third") } else { Ok(*n) })
            .unwrap();
        let report = report(&batch);
        assert_eq!((report.completed_items, report.failed_items), (200, 100));
        assert!(engine.spawn(|| panic!("spawned")).join().is_err());
        assert_eq!(engine.spawn(|| 1).join().unwrap(), 1);
    });
}

/// An error that cannot be shown, a value that cannot be dropped.
#[test]
fn promise_19_panics_outside_the_closure_take_nobody_with_them() {
    #[derive(Debug)]
    struct Unspeakable;
    impl std::fmt::Display for Unspeakable {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("unspeakable")
        }
    }
    impl std::error::Error for Unspeakable {}
    impl Drop for Unspeakable {
        fn drop(&mut self) {
            panic!("undroppable")
        }
    }
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("bomb")
        }
    }

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Sticky(u32);
    impl Drop for Sticky {
        fn drop(&mut self) {
            if self.0 % 10 == 3 && !std::thread::panicking() {
                panic!("sticky")
            }
        }
    }
    within(|| {
        let engine = engine(2);
        let batch = engine.batch("b").submit([1u32], |_, _| Err::<(), _>(Unspeakable.into())).unwrap();
        assert!(only(&batch).unwrap_err().to_string().contains("unspeakable"));
        report(&batch);
        let inner = engine.clone();
        let batch = engine
            .batch("inline")
            .submit([1u32], move |_, _| {
                let dead = inner.map([1], |_, _| Err::<(), _>(Unspeakable.into())).remove(0).unwrap_err();
                Ok(dead.to_string())
            })
            .unwrap();
        assert!(only(&batch).unwrap().contains("unspeakable"));
        report(&batch);

        // What a closure panics with may panic when it is dropped.
        let batch = engine
            .batch("payload")
            .submit(0..4u32, |n, _| if *n == 2 { std::panic::panic_any(Bomb) } else { Ok(*n) })
            .unwrap();
        let payload = report(&batch);
        assert_eq!((payload.completed_items, payload.failed_items), (3, 1));
        let mapped = engine.map(0..4, |n, _| if *n == 2 { std::panic::panic_any(Bomb) } else { Ok(*n) });
        assert_eq!(mapped.iter().filter(|result| result.is_ok()).count(), 3);

        // Dropped by whoever settles the last of a chunk, by the store that nobody reads, by the canceller.
        let batch = engine
            .batch("b")
            .submit((0..100).map(Sticky), |item: &Sticky, _: &Context| Ok(Sticky(item.0)))
            .unwrap();
        assert_eq!(report(&batch).completed_items, 100);
        drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(batch))));
        let batch = engine.batch("c").open(|item: &Sticky, _: &Context| Ok(item.0)).unwrap();
        batch.pause();
        for n in 0..30 {
            batch.push(Sticky(n)).unwrap_or_else(|e| panic!("{e}"));
        }
        batch.cancel();
        assert_eq!(report(&batch).cancelled_items, 30);
        at_rest(&engine);
        assert_eq!(engine.map(0..100, |n, _| Ok(*n)).len(), 100);
    });
}

#[test]
fn halt_soon_lets_items_in_hand_finish_and_halt_now_cancels_them() {
    within(|| {
        for now in [false, true] {
            let engine = engine(2);
            let rule = if now { "now,fail=1" } else { "soon,fail=1" };
            let (door, all_in, cancelled) = (Door::new(), Door::new(), Arc::new(AtomicUsize::new(0)));
            let (there, submitted, seen) = (door.clone(), all_in.clone(), cancelled.clone());
            let batch = engine
                .batch("b")
                .halt(rule.parse().unwrap())
                .submit(0..50u32, move |n, ctx| {
                    if *n == 0 {
                        there.pass();
                        seen.fetch_add(usize::from(ctx.is_cancelled()), Ordering::SeqCst);
                        ctx.check()?;
                        return Ok(());
                    }
                    there.wait_for(1);
                    submitted.pass();
                    Err(Failure::fatal("bad"))
                })
                .unwrap();
            all_in.open();
            until("it failed", || batch.progress().failed == 1 && batch.progress().cancelled >= 48);
            door.open();
            let report = report(&batch);
            let BatchStatus::Halted(HaltReason::Failures { failed: 1, .. }) = report.status else {
                panic!("{report:?}")
            };
            assert_eq!(report.completed_items, u64::from(!now));
            assert_eq!(cancelled.load(Ordering::SeqCst), usize::from(now));
        }
    });
}

#[test]
fn a_batch_that_is_halted_while_it_is_submitted_says_so_in_its_report() {
    within(|| {
        let engine = engine(1);
        let there = engine.clone();
        let slowly = (0..50u32).inspect(move |n| {
            if *n == 1 {
                until("the first has halted it", || there.batches().is_empty());
            }
        });
        let batch = engine.batch("b").halt("now,fail=1".parse().unwrap());
        let batch = batch.submit(slowly, |_, _| Err::<(), _>(Failure::fatal("bad"))).unwrap();
        let report = report(&batch);
        assert!(matches!(report.status, BatchStatus::Halted(_)), "{report:?}");
        assert_eq!((report.total_items, report.failed_items), (1, 1), "what came later was not taken");
        engine.shutdown(secs(60)).unwrap();
        let late = engine.batch("b").submit([1u32], |n, _| Ok(*n));
        assert!(matches!(late, Err(Error::Closed)));
    });
}

#[test]
fn pausing_stops_what_has_not_begun() {
    within(|| {
        let engine = engine(2);
        let first = engine.batch("first").submit(0..100_000u32, |n, _| Ok(*n)).unwrap();
        engine.pause();
        let later = engine.batch("later").submit([1u32], |n, _| Ok(*n)).unwrap();
        until("nothing is in hand", || engine.stats().in_flight == 0 && !engine.stats().workers.is_empty());
        for _ in 0..200 {
            std::thread::yield_now();
        }
        assert_eq!(later.progress().done, 0, "it came into a paused engine");
        assert_eq!(later.stats().status.to_string(), "paused");
        engine.resume();
        assert_eq!(report(&first).completed_items, 100_000);
        assert_eq!(report(&later).completed_items, 1);
    });
}

#[test]
fn a_paused_worker_takes_nothing_and_its_chunk_goes_to_others() {
    within(|| {
        let engine = engine(2);
        assert!(engine.pause_worker(0) && !engine.pause_worker(2));
        let batch = engine.batch("b").submit(0..500u32, |_, ctx| Ok(ctx.worker())).unwrap();
        // It may have been looking for work when it was told.
        let by: Vec<usize> = batch.results().map(|item| item.unwrap().outcome.unwrap()).collect();
        assert!(by.iter().filter(|w| **w == 0).count() <= 64, "{by:?}");
        assert!(engine.pause_worker(1));
        let batch = engine.batch("b").submit(0..5u32, |_, ctx| Ok(ctx.worker())).unwrap();
        engine.resume_worker(0);
        assert_eq!(report(&batch).completed_items, 5);
    });
}

#[test]
fn set_concurrency_bounds_from_now_on() {
    within(|| {
        let engine = engine(4);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (n, m) = (now.clone(), most.clone());
        let batch = engine
            .batch("b")
            .concurrency(4)
            .open(move |_: &u32, _| {
                let at_once = n.fetch_add(1, Ordering::SeqCst) + 1;
                m.fetch_max(at_once, Ordering::SeqCst);
                std::thread::yield_now();
                n.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            })
            .unwrap();
        batch.set_concurrency(2).unwrap();
        for n in 0..2000 {
            batch.push(n).unwrap();
        }
        assert!(batch.set_concurrency(0).unwrap_err().to_string().contains("concurrency"));
        assert_eq!(report(&batch).completed_items, 2000);
        assert!(most.load(Ordering::SeqCst) <= 2, "{most:?}");
    });
}

#[test]
fn the_configurations_caps_bind() {
    within(|| {
        for (config, most) in [
            (EngineConfig { max_total_concurrent_items: 2, ..EngineConfig::open() }, 2),
            (EngineConfig { max_workers_per_batch: 1, ..EngineConfig::open() }, 2),
            (EngineConfig { max_concurrent_items_per_batch: 1, ..EngineConfig::open() }, 2),
        ] {
            let workers =
                if config.max_total_concurrent_items == 2 { Workers::fixed(2) } else { Workers::fixed(4) };
            let engine = Engine::from_config(EngineConfig { workers, ..config }).unwrap();
            let peak = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
            let batches: Vec<_> = (0..2)
                .map(|i| {
                    let peak = peak.clone();
                    engine
                        .batch(format!("b{i}"))
                        .submit(0..300u32, move |_, _| {
                            let n = peak.0.fetch_add(1, Ordering::SeqCst) + 1;
                            peak.1.fetch_max(n, Ordering::SeqCst);
                            std::thread::yield_now();
                            peak.0.fetch_sub(1, Ordering::SeqCst);
                            Ok(())
                        })
                        .unwrap()
                })
                .collect();
            batches.iter().for_each(|batch| assert_eq!(report(batch).completed_items, 300));
            assert!(peak.1.load(Ordering::SeqCst) <= most);
        }
    });
}

#[test]
fn events_and_stats_tell_what_happened() {
    within(|| {
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = said.clone();
        let engine = Engine::builder()
            .workers(2)
            .in_memory()
            .on_event(move |event| {
                log.lock().unwrap().push(event.to_string());
                panic!("a listener's own");
            })
            .open()
            .unwrap();
        let batch = engine
            .batch("b")
            .submit(0..40u32, |n, _| match n {
                0 => panic!("zero"),
                1 => Err(Failure::fatal("one")),
                2 => Err(Failure::skip("two")),
                _ => Ok(*n),
            })
            .unwrap();
        report(&batch);
        until("the worker is replaced", || said.lock().unwrap().iter().any(|s| s.contains("replaced")));
        let said = said.lock().unwrap();
        assert_eq!(said[0], "batch `b` started");
        for part in ["item 0: panicked", "item 1: cannot succeed", "`b` ended: completed with failures"] {
            assert_eq!(said.iter().filter(|s| s.contains(part)).count(), 1, "{part} in {said:?}");
        }
        let stats = engine.stats();
        let counts = (stats.submitted, stats.completed, stats.failed, stats.skipped, stats.panicked);
        assert_eq!(counts, (40, 37, 2, 1, 1));
        at_rest(&engine);
    });
}

#[test]
fn stats_may_be_asked_for_at_any_time() {
    within(|| {
        let engine = engine(3);
        let batch = engine.batch("b").submit(0..50_000u32, |n, _| Ok(*n)).unwrap();
        let other = engine.batch("c").concurrency(1).submit(0..5_000u32, |n, _| Ok(*n)).unwrap();
        while batch.progress().open() > 0 {
            let stats = engine.stats();
            assert!(stats.ended() <= stats.submitted);
            assert!(stats.in_flight <= 3);
        }
        [&batch, &other].into_iter().for_each(|batch| drop(report(batch)));
        at_rest(&engine);
    });
}
