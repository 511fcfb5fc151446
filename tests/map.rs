//! `map`, `try_map`, `for_each`, `spawn`, and computing on the rayon pool.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::*;
use rayon::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::*;

#[test]
fn try_map_stops_at_the_first_dead_item() {
    within(|| {
        let engine = engine(2);
        let ran = AtomicUsize::new(0);
        let error = engine
            .try_map(0..1_000_000u32, |n, _| {
                ran.fetch_add(1, Ordering::Relaxed);
                if *n == 10 { Err(Failure::fatal("ten")) } else { Ok(*n) }
            })
            .unwrap_err();
        assert!(error.to_string().contains("ten"));
        assert!(ran.load(Ordering::Relaxed) < 1_000_000);
        at_rest(&engine);
    });
}

#[test]
fn everything_runs_inline_inside_an_item() {
    within(|| {
        let engine = engine(1);
        let e = engine.clone();
        let out = engine.spawn(move || e.map(0..3u32, |n, _| Ok(*n)));
        assert!(out.join().unwrap().iter().all(Result::is_ok));
        let e = engine.clone();
        let out = engine.map([()], |_, ctx| {
            let sums = e.map(0..3u32, |n, inner| Ok((*n, inner.worker())));
            assert!(sums.iter().all(|r| r.as_ref().unwrap().1 == ctx.worker()));
            let first = e.try_map(0..5u32, |n, _| if *n == 2 { Err(Failure::fatal("two")) } else { Ok(*n) });
            assert!(first.unwrap_err().to_string().contains("two"));
            let report = e.for_each(0..5u32, |n, _| if *n == 2 { panic!("two") } else { Ok(()) });
            assert_eq!((report.completed_items, report.failed_items), (4, 1));
            Ok(())
        });
        assert!(out[0].is_ok(), "{out:?}");
    });
}

#[test]
fn install_carries_panics_with_their_place_and_runs_map_inline() {
    within(|| {
        let engine = Engine::builder().workers(1).in_memory().rayon_threads(2).open().unwrap();
        let e = engine.clone();
        let out = engine.map([0u64, 1], |n, ctx| {
            Ok(ctx.install(|| match n {
                0 => e.map(0..10u64, |m, _| Ok(*m)).into_iter().map(Result::unwrap).sum::<u64>(),
                _ => panic!("in the pool"),
            }))
        });
        assert_eq!(*out[0].as_ref().unwrap(), 45);
        let error = out[1].as_ref().unwrap_err().last_error().unwrap().clone();
        assert!(error.message.contains("in the pool"));
        assert!(error.place.unwrap().contains("tests/map.rs"));
        // From a thread of the pool that runs no item it would wait for the worker that waits for it.
        let out = engine.map([()], |_, ctx| {
            Ok(ctx.install(|| {
                (0..64u32).into_par_iter().map(|_| e.map([1], |n, _| Ok(*n))[0].is_ok() as u32).sum::<u32>()
            }))
        });
        assert!(out[0].is_ok());
    });
}

#[test]
fn more_maps_than_lanes_wait_for_each_other() {
    within(|| {
        let engine = engine(2);
        std::thread::scope(|s| {
            for _ in 0..80 {
                s.spawn(|| {
                    let out = engine.map(0..5u32, |n, ctx| {
                        ctx.sleep(millis(1))?;
                        Ok(*n)
                    });
                    assert!(out.iter().all(Result::is_ok), "{out:?}");
                });
            }
        });
        assert_eq!(engine.spawn(|| 1).join().unwrap(), 1);
        at_rest(&engine);
    });
}

#[test]
fn promise_20_a_deadline_says_so_to_what_never_ran() {
    within(|| {
        let time = ManualClock::new();
        let engine = Engine::builder().workers(1).in_memory().clock(time.clock()).open().unwrap();
        let e = engine.clone();
        let call = std::thread::spawn(move || {
            e.batch("m").deadline(secs(5)).map(0..100u32, |_, ctx| ctx.sleep(secs(3600))).unwrap()
        });
        advance_until(&time, secs(1), "it ends", || call.is_finished());
        let out = call.join().unwrap();
        assert!(out.iter().all(|r| r.as_ref().unwrap_err().reason() == DeadReason::Expired), "{out:?}");
    });
}

#[test]
fn spawned_closures() {
    within(|| {
        let engine = engine(1);
        let door = Door::new();
        let there = door.clone();
        let first = engine.spawn(move || there.pass());
        door.wait_for(1);
        let dropped = Arc::new(());
        let held = dropped.clone();
        let second = engine.spawn(move || drop(held));
        assert!(second.cancel() && !second.cancel());
        assert!(!first.cancel(), "it has begun");
        let Err((JoinError::Engine(Error::TimedOut { .. }), Some(first))) = first.join_by(millis(1)) else {
            panic!()
        };
        door.open();
        first.join().unwrap();
        assert!(
            matches!(second.join(), Err(JoinError::Dead(dead)) if dead.reason() == DeadReason::Cancelled)
        );
        drop(engine.spawn(|| 1));
        engine.spawn(|| ()).join().unwrap();
        until("it was dropped unrun", || Arc::strong_count(&dropped) == 1);
        until("all are counted", || engine.stats().ended() == 4);
        let stats = engine.stats();
        assert_eq!((stats.completed, stats.cancelled), (3, 1));
    });
}

#[test]
fn results_that_are_dropped_are_dropped_once() {
    struct Counted<'a>(&'a AtomicUsize);
    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    within(|| {
        let engine = engine(3);
        let (made, dropped) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let out = engine.try_map(0..5000u32, |n, _| {
            if *n == 3000 {
                return Err(Failure::fatal("enough"));
            }
            made.fetch_add(1, Ordering::SeqCst);
            Ok(Counted(&dropped))
        });
        assert!(out.is_err());
        drop(out);
        assert_eq!(made.load(Ordering::SeqCst), dropped.load(Ordering::SeqCst));
    });
}
