//! Results are read, not pushed; and what goes into a batch: bounds, keys, names.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use support::*;

#[test]
fn promise_07_in_order_of_completion() {
    within(|| {
        let engine = engine(2);
        let door = Door::new();
        let there = door.clone();
        let batch = engine
            .batch("b")
            .submit(0..10u32, move |n, _| {
                if *n == 0 {
                    there.pass();
                }
                Ok(*n)
            })
            .unwrap();
        let mut results = batch.results().map(|item| item.unwrap().seq);
        let first: Vec<u64> = results.by_ref().take(9).collect();
        assert!(!first.contains(&0), "{first:?}");
        door.open();
        assert_eq!(results.collect::<Vec<_>>(), [0]);
    });
}

#[test]
fn promise_07_in_order_of_input_within_a_window() {
    within(|| {
        let engine = engine(4);
        let (door, begun) = (Door::new(), Arc::new(AtomicUsize::new(0)));
        let (there, count) = (door.clone(), begun.clone());
        let batch = engine
            .batch("b")
            .result_window(8)
            .open(move |n: &u32, _| {
                count.fetch_add(1, Ordering::SeqCst);
                if *n == 0 {
                    there.pass();
                }
                Ok(*n)
            })
            .unwrap();
        let results = batch.results_in_order();
        for n in 0..100 {
            batch.push(n).unwrap();
        }
        batch.seal();
        door.wait_for(1);
        until("the window is full", || begun.load(Ordering::SeqCst) == 8);
        for _ in 0..1000 {
            std::thread::yield_now();
        }
        assert_eq!(begun.load(Ordering::SeqCst), 8, "dispatch stops at the window, for its head");
        door.open();
        let seqs: Vec<u64> = results.map(|item| item.unwrap().seq).collect();
        assert_eq!(seqs, (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn promise_07_a_held_unread_iterator_pushes_back_and_letting_it_go_ends_that() {
    within(|| {
        let engine = engine(2);
        let begun = Arc::new(AtomicUsize::new(0));
        let count = begun.clone();
        let batch = engine
            .batch("b")
            .result_window(5)
            .open(move |n: &u32, _| {
                count.fetch_add(1, Ordering::SeqCst);
                Ok(*n)
            })
            .unwrap();
        let mut results = batch.results();
        for n in 0..50 {
            batch.push(n).unwrap();
        }
        until("five have run", || begun.load(Ordering::SeqCst) == 5);
        results.next().unwrap().unwrap();
        until("one more has run", || begun.load(Ordering::SeqCst) == 6);
        drop(results);
        assert_eq!(report(&batch).completed_items, 50);
    });
}

#[test]
fn promise_07_wait_without_a_reader_counts_and_drops() {
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    impl serde::Serialize for Counted {
        fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_unit()
        }
    }
    impl<'de> serde::Deserialize<'de> for Counted {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            Ok(Counted(Arc::default()))
        }
    }
    within(|| {
        let engine = engine(2);
        let dropped = Arc::new(AtomicUsize::new(0));
        let (d, door) = (dropped.clone(), Door::new());
        let there = door.clone();
        let batch = engine
            .batch("b")
            .submit(0..1000u32, move |n, _| {
                if *n == 999 {
                    there.pass();
                }
                Ok(Counted(d.clone()))
            })
            .unwrap();
        door.wait_for(1);
        assert!(matches!(batch.wait_by(Deadline::NOW), Err(Error::TimedOut { .. })));
        door.open();
        assert_eq!(report(&batch).completed_items, 1000);
        assert_eq!(dropped.load(Ordering::SeqCst), 1000);
        assert_eq!(batch.results().count(), 0);
    });
}

/// Who waits does not read: its own iterators must not keep the batch from ending.
#[test]
fn promise_23_waiting_with_an_unread_iterator_in_hand_does_not_wait_for_itself() {
    within(|| {
        let engine = engine(2);
        for in_order in [false, true] {
            let batch = engine.batch("b").result_window(3).submit(0..200u32, |n, _| Ok(*n)).unwrap();
            let mut results = if in_order { batch.results_in_order() } else { batch.results() };
            let idle = batch.results();
            results.next().unwrap().unwrap();
            assert_eq!(report(&batch).completed_items, 200);
            let seqs: Vec<u64> = results.map(|item| item.unwrap().seq).collect();
            assert_eq!(seqs.len(), 199, "all are kept for it");
            assert!(!in_order || seqs.is_sorted(), "{seqs:?}");
            assert_eq!(idle.count(), 0);
        }
    });
}

#[test]
fn promise_23_pushing_with_an_unread_iterator_in_hand_does_not_wait_for_itself() {
    within(|| {
        let engine = engine(2);
        let batch = engine.batch("b").result_window(3).capacity(2).open(|n: &u32, _| Ok(*n)).unwrap();
        let results = batch.results();
        for n in 0..500 {
            batch.push(n).unwrap();
        }
        batch.seal();
        assert_eq!(results.count(), 500);
    });
}

/// An iterator that another thread has goes on pushing back, whoever waits; and what it had not read is there.
#[test]
fn promise_07_waiting_lifts_no_window_of_others() {
    within(|| {
        let engine = engine(2);
        let begun = Arc::new(AtomicUsize::new(0));
        let count = begun.clone();
        let batch = engine
            .batch("b")
            .result_window(5)
            .open(move |n: &u32, _| {
                count.fetch_add(1, Ordering::SeqCst);
                Ok(*n)
            })
            .unwrap();
        let mut results = batch.results();
        let (first, rest) = (Door::new(), Door::new());
        std::thread::scope(|s| {
            let reader = {
                let (first, rest) = (first.clone(), rest.clone());
                s.spawn(move || {
                    assert!(results.try_next().is_none(), "it changes hands");
                    first.pass();
                    results.next().unwrap().unwrap();
                    rest.pass();
                    1 + results.count()
                })
            };
            first.wait_for(1);
            (0..100).for_each(|n| batch.push(n).unwrap());
            let waiter = s.spawn(|| report(&batch));
            until("the window is full", || begun.load(Ordering::SeqCst) == 5);
            first.open();
            rest.wait_for(1);
            until("one more has run", || begun.load(Ordering::SeqCst) == 6);
            let _ = batch.wait_by(Deadline::NOW);
            for _ in 0..1000 {
                std::thread::yield_now();
            }
            assert_eq!(begun.load(Ordering::SeqCst), 6, "it pushes back although two wait");
            rest.open();
            assert_eq!(reader.join().unwrap(), 100);
            assert_eq!(waiter.join().unwrap().completed_items, 100);
        });
    });
}

/// Results are dropped for who waits without an iterator, not for who comes with one afterwards.
#[test]
fn promise_07_an_iterator_that_comes_after_a_wait_misses_nothing_more() {
    within(|| {
        let engine = engine(1);
        let door = Door::new();
        let there = door.clone();
        let batch = engine
            .batch("b")
            .result_window(3)
            .submit(0..50u32, move |n, _| {
                if *n == 0 {
                    there.pass();
                }
                Ok(*n)
            })
            .unwrap();
        door.wait_for(1);
        assert!(batch.wait_by(Deadline::NOW).is_err());
        let results = batch.results();
        door.open();
        assert_eq!(report(&batch).completed_items, 50);
        assert_eq!(results.count(), 50);
    });
}

/// A wait that timed out has dropped results: the order goes on behind them, and the window does not count them.
#[test]
fn promise_23_reading_in_order_after_a_wait_does_not_hang() {
    within(|| {
        let engine = engine(2);
        let batch = engine.batch("b").result_window(4).open(|n: &u32, _| Ok(*n)).unwrap();
        let closed = engine.batch("c").open(|n: &u32, _| Ok(*n)).unwrap();
        drop(closed);
        for n in 0..20 {
            batch.push(n).unwrap();
        }
        until("they ran", || batch.progress().done == 20);
        batch.pause();
        let _ = batch.wait_by(Deadline::NOW);
        drop(batch);

        let door = Door::new();
        let there = door.clone();
        let batch = engine
            .batch("d")
            .result_window(4)
            .submit(0..200u32, move |n, _| {
                if *n == 100 {
                    there.pass();
                }
                Ok(*n)
            })
            .unwrap();
        door.wait_for(1);
        assert!(batch.wait_by(Deadline::NOW).is_err());
        let results = batch.results_in_order();
        door.open();
        let seqs: Vec<u64> = results.map(|item| item.unwrap().seq).collect();
        assert!(seqs.is_sorted(), "{seqs:?}");
        assert_eq!(report(&batch).completed_items, 200);
    });
}

#[test]
fn promise_17_the_name_is_free_when_the_results_have_ended() {
    within(|| {
        let engine = engine(2);
        for _ in 0..300 {
            let batch = engine.batch("b").submit(0..3u32, |n, _| Ok(*n)).unwrap();
            assert_eq!(batch.results().count(), 3);
        }
    });
}

#[test]
fn promise_08_a_full_batch_gives_the_item_back() {
    within(|| {
        let engine = engine(1);
        let door = Door::new();
        let there = door.clone();
        let batch = Arc::new(
            engine
                .batch("b")
                .capacity(2)
                .open(move |n: &u32, _| {
                    there.pass();
                    Ok(*n)
                })
                .unwrap(),
        );
        // The lane's channel takes some over; then two wait.
        batch.push(0).unwrap();
        door.wait_for(1);
        let mut pushed = 1;
        let full = loop {
            match batch.try_push(pushed) {
                Ok(()) => pushed += 1,
                Err(full) => break full,
            }
            assert!(pushed < 100, "it never fills");
        };
        assert!(matches!(full, PushError::Full(n) if n == pushed));
        assert!(matches!(batch.push_by(77, millis(5)), Err(PushError::TimedOut(77))));
        let pusher = {
            let batch = batch.clone();
            std::thread::spawn(move || batch.push(78))
        };
        door.open();
        pusher.join().unwrap().unwrap();
        assert_eq!(report(&batch).completed_items, u64::from(pushed) + 1);
        assert!(matches!(batch.push(79), Err(PushError::Closed(79))));
    });
}

#[test]
fn promise_08_waits_inside_items_are_refused() {
    within(|| {
        let engine = engine(1);
        let other = Arc::new(engine.batch("other").capacity(1).open(|n: &u32, _| Ok(*n)).unwrap());
        let (there, inner) = (other.clone(), engine.clone());
        let said = engine
            .spawn(move || {
                let pushed = loop {
                    if let Err(error) = there.push(1_000_000 + there.progress().total as u32) {
                        break error.to_string();
                    }
                };
                let joined = inner.spawn(|| ()).join().unwrap_err().to_string();
                let waited = there.wait().unwrap_err().to_string();
                let mut results = there.results();
                let next = results.next().unwrap().unwrap_err().to_string();
                assert!(results.next().is_none());
                [pushed, joined, waited, next]
            })
            .join()
            .unwrap();
        for text in said {
            assert!(text.contains("own engine"), "{text}");
        }
        report(&other);
    });
}

#[test]
fn promise_08_closing_wakes_who_waits_for_room() {
    within(|| {
        let engine = engine(1);
        let batch = Arc::new(engine.batch("b").capacity(1).open(|n: &u32, _| Ok(*n)).unwrap());
        batch.pause();
        let pusher = {
            let batch = batch.clone();
            std::thread::spawn(move || {
                let mut n = 0;
                while batch.push(n).is_ok() {
                    n += 1;
                }
                n
            })
        };
        until("it is full", || batch.try_push(1_000_000 + batch.progress().total as u32).is_err());
        batch.cancel();
        pusher.join().unwrap();
        let report = report(&batch);
        assert_eq!(report.cancelled_items, report.total_items);
        at_rest(&engine);
    });
}

#[test]
fn promise_17_identity() {
    within(|| {
        let engine = engine(1);
        let run = |policy| {
            engine.batch("b").duplicates(policy).submit(["x", "y", "x"].map(String::from), |s, _| Ok(s.len()))
        };
        let Err(Error::DuplicateKey { batch, .. }) = run(Duplicates::Error) else { panic!() };
        assert_eq!(batch, "b");
        until("the name is free", || engine.batches().is_empty());
        let skipping = report(&run(Duplicates::Skip).unwrap());
        assert_eq!((skipping.total_items, skipping.duplicates), (2, 1));
        assert_eq!(report(&run(Duplicates::Allow).unwrap()).total_items, 3);

        let open = engine.batch("b").open(|n: &u32, _| Ok(*n)).unwrap();
        assert!(
            matches!(engine.batch("b").open(|n: &u32, _| Ok(*n)), Err(Error::BatchActive { name }) if name == "b")
        );
        assert!(open.push(1).is_ok());
        assert!(matches!(open.push(1), Err(PushError::Duplicate(_, 1))));
        report(&open);
        assert!(engine.batch("b").submit([1u32], |n, _| Ok(*n)).is_ok(), "the name is free again");
    });
}

#[test]
fn promise_20_a_key_function_that_panics_is_an_error() {
    within(|| {
        let engine = engine(1);
        let key = |n: &u32| if *n == 3 { panic!("no key for three") } else { n.to_string() };
        let error = engine.batch("b").key(key).submit(0..5u32, |n, _| Ok(*n)).unwrap_err();
        assert!(error.to_string().contains("no key for three"), "{error}");
        let batch = engine.batch("b").key(key).open(|n: &u32, _| Ok(*n)).unwrap();
        assert!(matches!(batch.push(3), Err(PushError::Key(_, 3))));
        batch.push(4).unwrap();
        assert_eq!(report(&batch).completed_items, 1);
        at_rest(&engine);
    });
}

#[test]
fn promise_20_what_cannot_be_is_named() {
    let engine = Engine::builder()
        .workers(1)
        .quota(ResourceKind::DatabaseConnection, 10)
        .rate("api", Rate::per_second(5))
        .open()
        .unwrap();
    let says = |batch: BatchBuilder, words: &[&str]| {
        let error = batch.submit([1u32], |n, _| Ok(*n)).expect_err(words[0]).to_string();
        words.iter().for_each(|word| assert!(error.contains(word), "`{word}` is not in: {error}"));
    };
    let zero = std::time::Duration::ZERO;
    says(engine.batch(""), &["name"]);
    says(engine.batch("b").weight(0), &["weight"]);
    says(engine.batch("b").weight(70_000), &["weight"]);
    says(engine.batch("b").item_timeout(zero), &["item_timeout"]);
    says(engine.batch("b").hang_after(zero), &["hang_after"]);
    says(engine.batch("b").deadline(zero), &["deadline"]);
    says(engine.batch("b").concurrency(0), &["concurrency"]);
    says(engine.batch("b").result_window(0), &["result_window"]);
    says(engine.batch("b").capacity(0), &["capacity"]);
    says(engine.batch("b").retry(Retry::fixed(secs(1)).attempts(0)), &["attempts"]);
    says(engine.batch("b").retry(Retry::fixed(secs(1)).budget(f64::NAN)), &["budget"]);
    says(engine.batch("b").paced_by("apo"), &["apo", "api"]);
    says(engine.batch("b").needs("gpu", 1), &["gpu", "database_connection"]);
    says(engine.batch("b").needs(ResourceKind::DatabaseConnection, 0), &["needs", "0"]);
    says(engine.batch("b").needs(ResourceKind::DatabaseConnection, 11), &["11", "10", "database_connection"]);
    let twice = engine.batch("b").needs(ResourceKind::DatabaseConnection, 6);
    says(twice.needs(ResourceKind::DatabaseConnection, 6), &["12", "10"]);
    assert!(engine.batches().is_empty(), "nothing was left behind");
    for (builder, word) in [
        (Engine::builder().workers(0), "workers"),
        (Engine::builder().quota("gpu", 0), "gpu"),
        (Engine::builder().rate("x", Rate::per_second_f64(f64::NAN)), ""),
        (Engine::builder().rate("x", Rate::per_second(0)), ""),
        (Engine::builder().max_concurrent_batches(0), "max_concurrent_batches"),
        (Engine::builder().max_concurrent_batches(61), "max_concurrent_batches"),
        (Engine::builder().result_window(0), "result_window"),
        (Engine::builder().grace(zero), "grace"),
        (Engine::builder().rayon_threads(0), "rayon_threads"),
    ] {
        let error = builder.open().expect_err(word).to_string();
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
}

/// Values of the user's are dropped with nothing of the engine's held: theirs may come back to it.
#[test]
fn a_result_that_nobody_reads_may_cancel_its_batch_as_it_goes() {
    static BATCH: OnceLock<Batch<u32, Cancels>> = OnceLock::new();
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Cancels;
    impl Drop for Cancels {
        fn drop(&mut self) {
            BATCH.get().expect("set before any has run").cancel();
        }
    }
    within(|| {
        let lost = Arc::new(AtomicUsize::new(0));
        let count = lost.clone();
        let engine = Engine::builder()
            .workers(1)
            .in_memory()
            .on_event(move |event| {
                let is_replaced = matches!(event, Event::WorkerReplaced { .. });
                count.fetch_add(usize::from(is_replaced), Ordering::Relaxed);
            })
            .open()
            .unwrap();
        let door = Door::new();
        let there = door.clone();
        let batch = engine.batch("b").submit(0..100u32, move |_, _| {
            there.pass();
            Ok(Cancels)
        });
        assert!(BATCH.set(batch.unwrap()).is_ok());
        let batch = BATCH.get().unwrap();
        door.wait_for(1);
        assert!(batch.wait_by(Deadline::NOW).is_err(), "from now on nobody reads");
        door.open();
        let report = batch.wait().unwrap();
        assert_eq!((report.status, report.completed_items > 0), (BatchStatus::Cancelled, true));
        assert_eq!(lost.load(Ordering::Relaxed), 0, "a worker that meets itself at a lock is one lost");
    });
}
