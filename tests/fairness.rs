//! Who goes next: classes, weights, ageing, places.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use support::*;

type Log = Arc<Mutex<Vec<char>>>;

fn log() -> Log {
    Arc::default()
}

fn writing(log: &Log, what: char) -> impl Fn(&u32, &Context) -> Result<(), Failure> + Send + Sync + 'static {
    let log = log.clone();
    move |_, _| {
        log.lock().unwrap().push(what);
        Ok(())
    }
}

/// A batch that keeps every worker busy until its door opens, while others are set up.
fn occupy(engine: &Engine, workers: usize) -> (Batch<u32, ()>, Door) {
    let door = Door::new();
    let there = door.clone();
    let batch = engine
        .batch("occupy")
        .priority(Priority::Critical)
        .submit(0..workers as u32, move |_, _| {
            there.pass();
            Ok(())
        })
        .unwrap();
    door.wait_for(workers);
    (batch, door)
}

#[test]
fn promise_09_a_flood_does_not_keep_one_item_waiting() {
    within(|| {
        const WORKERS: usize = 2;
        let engine = engine(WORKERS);
        let seen = log();
        let a = engine.batch("a").submit(0..100_000u32, writing(&seen, 'a')).unwrap();
        until("a runs", || seen.lock().unwrap().len() > 1000);
        // On the engine's own terms: what had begun when B was submitted, and how many chunks of at most 64 after it.
        let b_ran_after = Arc::new(Mutex::new(None));
        let (there, slot) = (seen.clone(), b_ran_after.clone());
        a.pause();
        let before = {
            until("a stands still", || {
                let n = seen.lock().unwrap().len();
                std::thread::yield_now();
                a.stats().in_flight == 0 && n == seen.lock().unwrap().len()
            });
            seen.lock().unwrap().len()
        };
        let (_busy, gate) = occupy(&engine, WORKERS);
        a.resume();
        let b = engine
            .batch("b")
            .submit([1u32], move |_, _| {
                *slot.lock().unwrap() = Some(there.lock().unwrap().len());
                Ok(())
            })
            .unwrap();
        gate.open();
        assert_eq!(report(&b).completed_items, 1);
        let after = b_ran_after.lock().unwrap().unwrap() - before;
        assert!(after <= (WORKERS + 1) * 64, "{after} items of a went first");
        a.cancel();
        report(&a);
    });
}

#[test]
fn promise_09_classes_are_strict() {
    within(|| {
        let engine = engine(1);
        let (_busy, door) = occupy(&engine, 1);
        let seen = log();
        let batches: Vec<_> = [('l', Priority::Low), ('n', Priority::Normal), ('h', Priority::High)]
            .into_iter()
            .map(|(what, class)| {
                engine
                    .batch(what.to_string())
                    .priority(class)
                    .submit(0..200u32, writing(&seen, what))
                    .unwrap()
            })
            .collect();
        door.open();
        batches.iter().for_each(|batch| drop(report(batch)));
        let order: String = seen.lock().unwrap().iter().collect();
        assert_eq!(order, ["h".repeat(200), "n".repeat(200), "l".repeat(200)].concat());
    });
}

#[test]
fn promise_09_weights_are_shares() {
    within(|| {
        let engine = engine(1);
        let (_busy, door) = occupy(&engine, 1);
        let seen = log();
        let one = engine.batch("one").weight(1).submit(0..8_000u32, writing(&seen, '1')).unwrap();
        let three = engine.batch("three").weight(3).submit(0..8_000u32, writing(&seen, '3')).unwrap();
        door.open();
        report(&three);
        report(&one);
        let seen = seen.lock().unwrap();
        // While both had work.
        let last = seen.iter().rposition(|c| *c == '3').unwrap();
        let ones = seen[..last].iter().filter(|c| **c == '1').count();
        assert!((8_000 / 3 - 200..8_000 / 3 + 200).contains(&ones), "{ones} against 8000");
    });
}

#[test]
fn promise_09_set_weight_and_set_priority_hold_from_now_on() {
    within(|| {
        let engine = engine(1);
        let (_busy, door) = occupy(&engine, 1);
        let seen = log();
        let a = engine.batch("a").submit(0..500u32, writing(&seen, 'a')).unwrap();
        let b = engine.batch("b").submit(0..500u32, writing(&seen, 'b')).unwrap();
        b.set_priority(Priority::High);
        door.open();
        [&a, &b].into_iter().for_each(|batch| drop(report(batch)));
        assert_eq!(seen.lock().unwrap().iter().position(|c| *c == 'a'), Some(500));

        let (_busy, door) = occupy(&engine, 1);
        let seen = log();
        let a = engine.batch("a").submit(0..8_000u32, writing(&seen, 'a')).unwrap();
        let b = engine.batch("b").submit(0..8_000u32, writing(&seen, 'b')).unwrap();
        a.set_weight(7).unwrap();
        door.open();
        [&a, &b].into_iter().for_each(|batch| drop(report(batch)));
        let seen = seen.lock().unwrap();
        let last = seen.iter().rposition(|c| *c == 'a').unwrap();
        let bs = seen[..last].iter().filter(|c| **c == 'b').count();
        assert!((8_000 / 7 - 200..8_000 / 7 + 200).contains(&bs), "{bs} against 8000");
        assert!(a.set_weight(0).unwrap_err().to_string().contains("weight"));
        assert!(a.set_weight(65_536).is_err());
    });
}

#[test]
fn promise_09_waiting_ten_seconds_is_worth_a_class() {
    within(|| {
        let time = ManualClock::new();
        let engine = Engine::builder().workers(1).in_memory().clock(time.clock()).open().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let told = Mutex::new(told);
        // Each item waits for its turn to end.
        let begun = Arc::new(AtomicUsize::new(0));
        let began = begun.clone();
        let high = engine
            .batch("high")
            .priority(Priority::Normal)
            .concurrency(1)
            .submit(0..100_000u32, move |_, _| {
                began.fetch_add(1, Ordering::SeqCst);
                let _ = told.lock().unwrap().recv();
                Ok(())
            })
            .unwrap();
        let low = engine.batch("low").priority(Priority::Low).submit([1u32], |_, _| Ok(())).unwrap();
        for _ in 0..50 {
            tell.send(()).unwrap();
        }
        until("they ran", || begun.load(Ordering::SeqCst) == 51);
        assert_eq!(low.progress().done, 0, "it has not waited");
        // It ages to the other's class, where it has the least pass, or above it.
        let began = std::time::Instant::now();
        while low.progress().done == 0 {
            time.advance(millis(500));
            let _ = tell.send(());
            std::thread::yield_now();
            assert!(began.elapsed() < HANG, "it starves");
        }
        assert!(time.now() >= Timestamp::ZERO + secs(10), "{:?}", time.now());
        drop(tell);
        high.cancel();
        high.wait().unwrap();
    });
}

#[test]
fn promise_09_a_higher_class_displaces_and_the_displaced_goes_on() {
    within(|| {
        let engine = Engine::builder().workers(1).in_memory().max_concurrent_batches(1).open().unwrap();
        let (seen, door) = (log(), Door::new());
        let (there, writes) = (door.clone(), writing(&seen, 'l'));
        let low = engine
            .batch("low")
            .priority(Priority::Low)
            .submit(0..50u32, move |n, ctx| {
                writes(n, ctx)?;
                there.pass();
                Ok(())
            })
            .unwrap();
        door.wait_for(1);
        let same = engine.batch("same").priority(Priority::Low).submit(0..5u32, writing(&seen, 's')).unwrap();
        let high =
            engine.batch("high").priority(Priority::High).submit(0..50u32, writing(&seen, 'h')).unwrap();
        assert_eq!(same.stats().status.to_string(), "queued");
        door.open();
        for batch in [&low, &same, &high] {
            report(batch);
        }
        let order: String = seen.lock().unwrap().iter().collect();
        let expected = ["l".into(), "h".repeat(50), "l".repeat(49), "s".repeat(5)].concat();
        assert_eq!(order, expected, "at an item boundary, and the displaced before those that came after it");
    });
}

#[test]
fn more_batches_than_places_wait_their_turn() {
    within(|| {
        let engine = engine(2);
        let (_busy, door) = occupy(&engine, 2);
        let batches: Vec<_> = (0..150)
            .map(|i| {
                let class = [Priority::Low, Priority::Normal, Priority::High, Priority::Critical][i % 4];
                engine.batch(format!("b{i}")).priority(class).submit(0..3u32, |n, _| Ok(*n)).unwrap()
            })
            .collect();
        assert_eq!(engine.batches().len(), 151);
        door.open();
        for batch in &batches {
            assert_eq!(report(batch).completed_items, 3);
        }
        at_rest(&engine);
    });
}

/// Who takes up a grant runs an item with it, even when all others wait: a grant that each passed on would go round
/// for ever.
#[test]
fn promise_23_a_grant_is_not_passed_round() {
    within(|| {
        let engine = Engine::builder().workers(4).in_memory().quota("gpu", 1).open().unwrap();
        let door = Door::new();
        let there = door.clone();
        let first = engine.batch("first").needs("gpu", 1).submit([0u32], move |_, _| {
            there.pass();
            Ok(())
        });
        let first = first.unwrap();
        door.wait_for(1);
        let others: Vec<_> = (0..8)
            .map(|n| {
                let batch = engine.batch(format!("other {n}")).needs("gpu", 1);
                batch.submit(0..20u32, |_, ctx| ctx.sleep(millis(1))).unwrap()
            })
            .collect();
        door.open();
        for batch in others.iter().chain([&first]) {
            assert_eq!(batch.wait().unwrap().failed_items, 0);
        }
    });
}
