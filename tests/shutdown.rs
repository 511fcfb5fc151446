//! The end of an engine: drain, cancel, let go.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use support::*;

#[test]
fn promise_15_items_in_hand_finish_and_the_rest_does_not_begin() {
    within(|| {
        let engine = engine(2);
        let door = Door::new();
        let there = door.clone();
        let batch = engine
            .batch("s")
            .submit(0..100u32, move |n, _| {
                there.pass();
                Ok(*n)
            })
            .unwrap();
        door.wait_for(2);
        let ender = {
            let engine = engine.clone();
            std::thread::spawn(move || engine.shutdown(secs(600)))
        };
        until("it is closed", || {
            matches!(engine.batch("x").submit([1u32], |n, _| Ok(*n)), Err(Error::Closed))
        });
        door.open();
        ender.join().unwrap().unwrap();
        let report = report(&batch);
        assert_eq!((report.completed_items, report.cancelled_items), (2, 98));
        assert_eq!(report.status, BatchStatus::Cancelled);
        at_rest(&engine);
    });
}

#[test]
fn promise_15_after_the_drain_it_cancels() {
    within(|| {
        let engine = engine(1);
        let (tell, told) = mpsc::channel();
        let batch = engine
            .batch("s")
            .submit([1u32], move |_, ctx| {
                tell.send(()).unwrap();
                ctx.sleep(secs(3600))
            })
            .unwrap();
        told.recv().unwrap();
        engine.shutdown(millis(1)).unwrap();
        let report = report(&batch);
        assert_eq!((report.cancelled_items, report.failed_items), (1, 0), "interrupted is not failed");
    });
}

#[test]
fn promise_15_what_does_not_stop_is_let_go_of_and_nobody_waits_for_it() {
    within(|| {
        let engine = Engine::builder().workers(2).in_memory().grace(millis(20)).open().unwrap();
        let door = Door::new();
        let (a, b) = (door.clone(), door.clone());
        let batch = engine
            .batch("s")
            .submit([1u32, 2], move |_, _| {
                a.pass();
                Ok(())
            })
            .unwrap();
        let mut results = batch.results();
        door.wait_for(2);
        let queued = engine.spawn(|| 1);
        engine.shutdown(millis(1)).unwrap();
        assert_eq!(report(&batch).cancelled_items, 2);
        assert!(results.next().is_none());
        assert!(queued.join().is_err());
        assert!(engine.spawn(move || b.pass()).join().is_err());
        door.open();
        until("both come late", || engine.stats().late_results == 2);
    });
}

#[test]
fn promise_15_a_ticket_of_a_closure_that_does_not_return_is_settled() {
    within(|| {
        let engine = Engine::builder().workers(1).in_memory().grace(millis(20)).open().unwrap();
        let door = Door::new();
        let there = door.clone();
        let ticket = engine.spawn(move || there.pass());
        door.wait_for(1);
        engine.shutdown(millis(1)).unwrap();
        let Err(JoinError::Dead(dead)) = ticket.join() else { panic!() };
        assert!(dead.to_string().contains("did not return"), "{dead}");
        door.open();
    });
}

#[test]
fn promise_15_dropping_the_last_handle_cancels_and_detaches() {
    within(|| {
        let engine = Engine::builder().workers(1).in_memory().grace(millis(20)).open().unwrap();
        let door = Door::new();
        let there = door.clone();
        let batch = engine
            .batch("s")
            .submit(0..3u32, move |_, _| {
                there.pass();
                Ok(())
            })
            .unwrap();
        door.wait_for(1);
        drop(engine.clone());
        assert!(batch.wait_by(Deadline::NOW).is_err(), "a clone was dropped, not the last");
        drop(engine);
        assert_eq!(report(&batch).cancelled_items, 3);
        door.open();
    });
}

/// The last handle may be the one that an item holds.
#[test]
fn promise_15_the_last_handle_dropped_inside_an_item_ends_everything_too() {
    within(|| {
        let engine = engine(1);
        let door = Door::new();
        let (there, held) = (door.clone(), Mutex::new(Some(engine.clone())));
        let batch = engine
            .batch("s")
            .submit(0..5u32, move |_, _| {
                there.pass();
                drop(held.lock().unwrap().take());
                Ok(())
            })
            .unwrap();
        door.wait_for(1);
        drop(engine);
        door.open();
        let report = report(&batch);
        assert_eq!(report.completed_items + report.cancelled_items, 5);
    });
}

#[test]
fn promise_15_waits_inside_items_end_with_the_engine() {
    within(|| {
        let engine = engine(4);
        let began = Arc::new(AtomicUsize::new(0));
        let b = began.clone();
        let batch = engine
            .batch("s")
            .submit(0..4u32, move |_, ctx| {
                b.fetch_add(1, Ordering::SeqCst);
                while ctx.sleep(secs(60)).is_ok() {}
                Ok(())
            })
            .unwrap();
        until("all run", || began.load(Ordering::SeqCst) == 4);
        drop(engine);
        assert_eq!(report(&batch).completed_items, 4, "they stopped in their own way");
    });
}

#[test]
fn shutdown_twice_and_from_many_threads() {
    within(|| {
        let engine = engine(2);
        let batch = engine.batch("s").submit(0..10_000u32, |n, _| Ok(*n)).unwrap();
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| engine.shutdown(secs(60)).unwrap());
            }
        });
        engine.shutdown(secs(60)).unwrap();
        let report = report(&batch);
        assert_eq!(report.completed_items + report.cancelled_items, 10_000);
        assert!(matches!(batch.push(1), Err(PushError::Closed(1))));
        assert!(engine.map([1], |n, _| Ok(*n))[0].is_err());
    });
}

#[test]
fn shutdown_inside_an_item_is_refused() {
    let engine = engine(1);
    let inner = engine.clone();
    let out = engine.spawn(move || inner.shutdown(secs(1))).join().unwrap();
    assert!(matches!(out, Err(Error::WouldBlockWorker)));
}
