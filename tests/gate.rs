//! What items pass before they start: permits, all or none, then tokens of their rates.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::*;

#[test]
fn promise_10_opposite_demands_never_hang_and_nobody_holds_part() {
    within(|| {
        let engine = Engine::builder().workers(4).in_memory().quota("a", 1).quota("b", 1).open().unwrap();
        let inside = Arc::new(AtomicUsize::new(0));
        let run = |name: &str, first: &str, second: &str| {
            let inside = inside.clone();
            engine
                .batch(name)
                .needs(first, 1)
                .needs(second, 1)
                .submit(0..2000u32, move |_, _| {
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "both quotas are one");
                    inside.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                })
                .unwrap()
        };
        let (x, y) = (run("x", "a", "b"), run("y", "b", "a"));
        let single = engine.batch("z").needs("a", 1).submit(0..500u32, |n, _| Ok(*n)).unwrap();
        assert_eq!((report(&x).completed_items, report(&y).completed_items), (2000, 2000));
        assert_eq!(report(&single).completed_items, 500);
        until("all is back", || ["a", "b"].iter().all(|k| engine.in_use(&(*k).into()) == Some((0, 1))));
    });
}

#[test]
fn promise_10_the_window_law_holds_for_paced_starts() {
    const WORKERS: usize = 3;
    within(|| {
        let time = ManualClock::new();
        let engine = Engine::builder()
            .workers(WORKERS)
            .in_memory()
            .clock(time.clock())
            .rate("api", Rate::per_second(10).burst(3))
            .rate("own", Rate::per_second(3).burst(2))
            .open()
            .unwrap();
        let stamps = Arc::new(Mutex::new([vec![], vec![]]));
        let batches = [0, 1].map(|i| {
            let (log, clock) = (stamps.clone(), time.clone());
            let batch = engine.batch(format!("b{i}")).paced_by("api");
            let batch = if i == 1 { batch.paced_by("own") } else { batch };
            batch
                .submit(0..40u32, move |_, _| {
                    log.lock().unwrap()[i].push(clock.now());
                    Ok(())
                })
                .unwrap()
        });
        until("the burst has started", || stamps.lock().unwrap().iter().map(Vec::len).sum::<usize>() >= 3);
        advance_until(&time, millis(20), "both end", || {
            // Time that outruns the workers would hide a rate that is too high.
            (0..500).for_each(|_| std::thread::yield_now());
            batches.iter().all(|batch| batch.wait_by(Deadline::NOW).is_ok())
        });
        let [first, second] = &*stamps.lock().unwrap();
        let mut all = [first.clone(), second.clone()].concat();
        all.sort();
        assert_eq!(
            all.iter().filter(|at| **at == all[0]).count(),
            3,
            "the burst and no more, before time goes on"
        );
        for (stamps, lanes, burst, rate) in [(&all, 2.0, 3.0, 10.0), (second, 1.0, 2.0, 3.0)] {
            assert_eq!(stamps.len(), 40 * lanes as usize);
            for (i, from) in stamps.iter().enumerate() {
                for (n, to) in stamps[i..].iter().enumerate() {
                    // A start is stamped when its worker gets there: each may have one in hand that came due before.
                    let most = burst + lanes + WORKERS as f64 + rate * (*to - *from).as_secs_f64();
                    assert!((n + 1) as f64 <= most + 1e-6, "{} starts in {:?}", n + 1, *to - *from);
                }
            }
        }
    });
}

const YEAR: Duration = secs(365 * 24 * 3600);

/// Two rates: of one there are just as many tokens as items, for a year; the other is what is waited for. So a token of
/// the first that is lost while the second is waited for shows as an item that does not run.
fn paced_by_two(workers: usize, items: u32, at_once: u64) -> (ManualClock, Engine, BatchBuilder) {
    let time = ManualClock::new();
    let engine = Engine::builder()
        .workers(workers)
        .in_memory()
        .clock(time.clock())
        .rate("few", Rate::per(1, YEAR).burst(u64::from(items)))
        .rate("slow", Rate::per_second(10).burst(at_once))
        .open()
        .unwrap();
    let batch = engine.batch("b").paced_by("few").paced_by("slow");
    (time, engine, batch)
}

/// Two workers, each with a chunk in hand, come to the gate when the second rate has nothing left: one makes the lane
/// wait, the other finds it waiting.
#[test]
fn promise_10_no_token_is_lost_by_a_worker_that_finds_its_lane_waiting() {
    within(|| {
        for passing in [100, 103, 107] {
            // The clock stands still, so chunks grow and are not taken back.
            let (time, _engine, batch) = paced_by_two(2, 200, passing + 2);
            let door = Door::new();
            let there = door.clone();
            let batch = batch
                .submit(0..200u64, move |n, _| {
                    if *n >= passing {
                        there.pass();
                    }
                    Ok(())
                })
                .unwrap();
            door.wait_for(2);
            door.open();
            advance_until(&time, millis(100), "all have run", || batch.progress().done == 200);
            assert!(time.now() < Timestamp::ZERO + YEAR);
        }
    });
}

#[test]
fn promise_10_no_token_is_lost_by_a_pause() {
    within(|| {
        let (time, _engine, batch) = paced_by_two(1, 10, 1);
        let batch = batch.submit(0..10u32, |n, _| Ok(*n)).unwrap();
        advance_until(&time, millis(20), "all have run", || {
            // The next one waits, most times: it has its place in the first rate by then.
            batch.pause();
            batch.resume();
            (0..20).for_each(|_| std::thread::yield_now());
            batch.progress().done == 10
        });
        assert!(time.now() < Timestamp::ZERO + YEAR);
    });
}
