//! What a listener is told, and when.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::*;
use std::sync::{Arc, Mutex, OnceLock};
use support::*;

/// A batch that a listener can ask, and who asks it when its end is told.
fn told<R: Send + 'static>(
    workers: usize,
    ask: impl Fn(&Batch<u32, u32>) -> R + Send + Sync + 'static,
) -> (Engine, Arc<Batch<u32, u32>>, Arc<Mutex<Vec<R>>>) {
    let (there, said) = (Arc::new(OnceLock::<Arc<Batch<u32, u32>>>::new()), Arc::new(Mutex::new(Vec::new())));
    let (batch, log) = (there.clone(), said.clone());
    let engine = Engine::builder()
        .workers(workers)
        .in_memory()
        .on_event(move |event| {
            if matches!(event, Event::BatchEnded { .. }) {
                let answer = ask(batch.get().expect("set before anything is pushed"));
                log.lock().unwrap().push(answer);
            }
        })
        .open()
        .unwrap();
    let batch = Arc::new(engine.batch("b").open(|n: &u32, _| Ok(*n)).unwrap());
    assert!(there.set(batch.clone()).is_ok());
    (engine, batch, said)
}

#[test]
fn the_end_is_told_when_report_and_results_are_there() {
    within(|| {
        for by_caller in [false, true] {
            let (engine, batch, said) = told(2, |batch| {
                let unread = batch.results().count();
                (batch.wait().map(|report| report.completed_items), unread, batch.stats().status.to_string())
            });
            for n in 0..20 {
                batch.push(n).unwrap();
            }
            if by_caller {
                // The caller's seal is what ends it, so the caller's thread tells.
                until("all have run", || batch.progress().done == 20);
            }
            batch.seal();
            until("its end is told", || !said.lock().unwrap().is_empty());
            let said = said.lock().unwrap();
            let (report, unread, status) = &said[0];
            assert_eq!((report.as_ref().ok(), *unread), (Some(&20), 20), "{report:?}");
            assert_eq!(status, "completed");
            assert!(engine.batches().is_empty());
        }
    });
}

#[test]
fn who_waits_goes_on_when_the_listener_has_heard_of_the_end() {
    within(|| {
        let (door, order) = (Door::new(), Arc::new(Mutex::new(Vec::new())));
        let (there, log) = (door.clone(), order.clone());
        let (_engine, batch, _) = told(1, move |_| {
            there.pass();
            log.lock().unwrap().push("told");
        });
        batch.push(1).unwrap();
        batch.seal();
        door.wait_for(1);
        // Who has no time to wait for the listener is not kept from the report.
        assert_eq!(batch.wait_by(Deadline::NOW).unwrap().completed_items, 1);
        let waiter = {
            let (batch, log) = (batch.clone(), order.clone());
            std::thread::spawn(move || {
                batch.wait().unwrap();
                log.lock().unwrap().push("waited");
            })
        };
        for _ in 0..1000 {
            std::thread::yield_now();
        }
        door.open();
        waiter.join().unwrap();
        assert_eq!(*order.lock().unwrap(), ["told", "waited"]);
    });
}

#[test]
fn starts_and_ends_are_told_in_pairs() {
    within(|| {
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = said.clone();
        let engine = Engine::builder()
            .workers(1)
            .in_memory()
            .on_event(move |event| log.lock().unwrap().push(event.to_string()))
            .open()
            .unwrap();
        engine.map(0..3u32, |n, _| Ok(*n));
        engine.spawn(|| ()).join().unwrap();
        assert_eq!(report(&engine.batch("b").submit([1u32], |n, _| Ok(*n)).unwrap()).completed_items, 1);
        engine.shutdown(secs(60)).unwrap();
        assert_eq!(*said.lock().unwrap(), ["batch `b` started", "batch `b` ended: completed"]);
    });
}

/// It is called with nothing of the engine's held: a start is told when the next batch may be opened.
#[test]
fn who_is_told_of_a_start_may_open_a_batch() {
    within(|| {
        let there = Arc::new(OnceLock::<Engine>::new());
        let own = there.clone();
        let engine = Engine::builder()
            .workers(1)
            .in_memory()
            .on_event(move |event| {
                if matches!(event, Event::BatchStarted { batch: "first" }) {
                    let second = own.get().unwrap().batch("second").submit([1u32], |n, _| Ok(*n));
                    second.expect("nobody else opens one");
                }
            })
            .open()
            .unwrap();
        assert!(there.set(engine.clone()).is_ok());
        let first = engine.batch("first").submit([1u32], |n, _| Ok(*n)).unwrap();
        assert_eq!(first.wait().unwrap().completed_items, 1);
        until("the second has run", || engine.stats().completed == 2);
    });
}
