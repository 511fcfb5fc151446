//! The engine in memory, through its public face.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

use batchyard::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, mpsc};

fn engine(workers: usize) -> Engine {
    Engine::builder().workers(workers).in_memory().open().unwrap()
}

#[test]
fn map_keeps_order_and_borrows() {
    let engine = engine(4);
    let base = [10u64, 20, 30];
    let items: Vec<usize> = (0..10_000).collect();
    let out = engine.map(&items, |i, _| Ok(base[**i % 3] + **i as u64));
    for (i, r) in out.into_iter().enumerate() {
        assert_eq!(r.unwrap(), base[i % 3] + i as u64);
    }
    assert!(engine.map(Vec::<u8>::new(), |_, _| Ok(())).is_empty());
}

#[test]
fn submit_yields_every_result_once() {
    let engine = engine(3);
    let batch = engine.batch("b").submit(0..5000u64, |n, _| Ok(n * 2)).unwrap();
    let mut seen: Vec<u64> = batch.results().map(|r| r.unwrap().outcome.unwrap()).collect();
    seen.sort();
    assert_eq!(seen, (0..5000).map(|n| n * 2).collect::<Vec<_>>());
    let report = batch.wait().unwrap();
    assert_eq!(report.status, BatchStatus::Completed);
    assert_eq!(report.completed_items, 5000);
}

#[test]
fn results_in_order() {
    let engine = engine(4);
    let batch = engine.batch("b").result_window(16).submit(0..2000u64, |n, _| Ok(*n)).unwrap();
    let seen: Vec<u64> = batch.results_in_order().map(|r| r.unwrap().outcome.unwrap()).collect();
    assert_eq!(seen, (0..2000).collect::<Vec<_>>());
}

#[test]
fn retries_then_gives_up() {
    let engine = engine(2);
    let tries = AtomicUsize::new(0);
    let out = engine
        .batch("r")
        .retry(Retry::fixed(millis(1)).attempts(3))
        .map([1], |_, ctx| {
            tries.fetch_add(1, Ordering::Relaxed);
            if ctx.attempt() < 3 { Err(Failure::retry("not yet")) } else { Ok(ctx.attempt()) }
        })
        .unwrap();
    assert_eq!(*out[0].as_ref().unwrap(), 3);
    let out = engine
        .batch("r")
        .retry(Retry::fixed(millis(1)).attempts(2))
        .map([1], |_, _| Err::<(), _>(Failure::retry("never")))
        .unwrap();
    let dead = out[0].as_ref().unwrap_err();
    assert_eq!((dead.reason(), dead.attempts(), dead.errors().len()), (DeadReason::Exhausted, 2, 2));
}

#[test]
fn a_panic_is_an_error_with_its_place() {
    let engine = engine(2);
    let out = engine.map(0..50, |n, _| if *n == 7 { panic!("seven") } else { Ok(*n) });
    for (i, r) in out.iter().enumerate() {
        match r {
            Ok(n) => assert_eq!(*n, i as i32),
            Err(dead) => {
                assert_eq!(i, 7);
                assert_eq!(dead.reason(), DeadReason::Panicked);
                let error = dead.last_error().unwrap();
                assert!(error.message.contains("seven"), "{error:?}");
                assert!(error.place.as_ref().unwrap().contains("tests/engine.rs"));
            }
        }
    }
    assert_eq!(engine.map(0..10, |n, _| Ok(*n)).len(), 10);
}

#[test]
fn map_inside_an_item_runs_inline() {
    let engine = engine(1);
    let inner = engine.clone();
    let out = engine.map(0..3u64, |n, _| {
        let sum: u64 = inner.map(0..=*n, |m, _| Ok(*m)).into_iter().map(Result::unwrap).sum();
        Ok(sum)
    });
    assert_eq!(out.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [0, 1, 3]);
}

#[test]
fn waits_inside_an_item_are_refused() {
    let engine = engine(1);
    let inner = engine.clone();
    let out = engine.spawn(move || inner.spawn(|| 1).join().map_err(|e| e.to_string())).join().unwrap();
    assert!(out.unwrap_err().contains("its own engine"));
}

#[test]
fn item_timeout_cancels() {
    let engine = engine(1);
    let out = engine
        .batch("t")
        .item_timeout(millis(20))
        .map([()], |_, ctx| {
            while ctx.sleep(secs(1)).is_ok() {}
            ctx.check()
        })
        .unwrap();
    assert_eq!(out[0].as_ref().unwrap_err().reason(), DeadReason::TimedOut);
}

#[test]
fn an_item_that_ignores_its_timeout_is_abandoned_and_replaced() {
    let engine = engine(1);
    let (release, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let batch = engine
        .batch("hang")
        .item_timeout(millis(10))
        .grace(millis(10))
        .submit(vec!["hang".to_string(), "fine".to_string()], move |what, _| {
            if what == "hang" {
                let _ = held.lock().unwrap().recv();
            }
            Ok(what.len())
        })
        .unwrap();
    let report = batch.wait().unwrap();
    assert_eq!((report.completed_items, report.failed_items), (1, 1), "{report:?}");
    drop(release);
}

#[test]
fn pause_resume_cancel() {
    let engine = engine(2);
    let batch = engine.batch("p").open(|n: &u64, _| Ok(*n)).unwrap();
    batch.pause();
    for n in 0..10 {
        batch.push(n).unwrap();
    }
    assert_eq!(batch.progress().done, 0);
    batch.resume();
    let results = batch.results();
    assert_eq!(results.take(10).count(), 10);
    batch.pause();
    for n in 10..20 {
        batch.push(n).unwrap();
    }
    batch.cancel();
    let report = batch.wait().unwrap();
    assert_eq!((report.completed_items, report.cancelled_items), (10, 10), "{report:?}");
    assert_eq!(report.status, BatchStatus::Cancelled);
}

#[test]
fn quota_bounds_items_at_once() {
    let engine =
        Engine::builder().workers(6).in_memory().quota(ResourceKind::DatabaseConnection, 2).open().unwrap();
    let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let out = engine
        .batch("q")
        .needs(ResourceKind::DatabaseConnection, 1)
        .map(0..200, |_, _| {
            let n = now.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(n, Ordering::SeqCst);
            std::thread::yield_now();
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        })
        .unwrap();
    assert!(out.iter().all(Result::is_ok));
    assert!(most.into_inner() <= 2);
}

#[test]
fn paced_by_a_rate() {
    let engine =
        Engine::builder().workers(4).in_memory().rate("api", Rate::per_second(1000).burst(5)).open().unwrap();
    let began = std::time::Instant::now();
    let out = engine.batch("r").paced_by("api").map(0..105, |_, _| Ok(())).unwrap();
    assert!(out.iter().all(Result::is_ok));
    assert!(began.elapsed() >= millis(90), "{:?}", began.elapsed());
}

#[test]
fn many_batches_and_a_barrier() {
    let engine = engine(8);
    let barrier = std::sync::Arc::new(Barrier::new(8));
    let b = barrier.clone();
    let batch = engine.batch("wide").submit(0..8u32, move |_, _| Ok(b.wait().is_leader())).unwrap();
    let leaders = batch.results().filter(|r| *r.as_ref().unwrap().outcome.as_ref().unwrap()).count();
    assert_eq!(leaders, 1);
    let batches: Vec<_> =
        (0..20).map(|i| engine.batch(format!("b{i}")).submit(0..100u32, |n, _| Ok(*n)).unwrap()).collect();
    for b in batches {
        assert_eq!(b.wait().unwrap().completed_items, 100);
    }
    assert_eq!(engine.stats().completed, 2008);
}

#[test]
fn shutdown_drains() {
    let engine = engine(2);
    let batch = engine.batch("s").submit(0..1000u32, |n, _| Ok(*n)).unwrap();
    engine.shutdown(secs(5)).unwrap();
    let report = batch.wait().unwrap();
    assert_eq!(report.completed_items + report.cancelled_items, 1000);
    assert!(matches!(engine.batch("x").submit([1u32], |n, _| Ok(*n)), Err(Error::Closed)));
}
