//! Attempts that are abandoned while an effect of theirs is on its way into the journal.

#![allow(clippy::disallowed_methods)] // time for a wrong engine to show itself

use super::Engine;
use crate::engine::Context;
use crate::job::{DeadReason, Retry};
use crate::sync::{Arc, Mutex, thread};
use crate::time::{ManualClock, millis, secs};
use crossbeam::channel::unbounded;

/// Enters an effect, waits until the attempt is taken, gives whoever took it some time to be wrong, and leaves.
fn effect_through_the_abandonment(ctx: &Context, log: &Mutex<Vec<&'static str>>) {
    let effect = ctx.slot.enter_effect(ctx.run).expect("the attempt is in hand");
    while ctx.slot.look().is_some_and(|look| !look.abandoned) {
        thread::yield_now();
    }
    for _ in 0..30 {
        std::thread::sleep(millis(1));
    }
    assert!(ctx.slot.enter_effect(ctx.run).is_none(), "it was taken");
    log.lock().push("effect");
    drop(effect);
}

fn log() -> (Arc<Mutex<Vec<&'static str>>>, Arc<Mutex<Vec<&'static str>>>) {
    let log = Arc::new(Mutex::new(Vec::new()));
    (Arc::clone(&log), log)
}

#[test]
fn an_abandoned_item_goes_nowhere_before_its_effects_have_arrived() {
    let engine = Engine::builder().workers(2).in_memory().open().unwrap();
    let (log, seen) = log();
    let (free, held) = unbounded::<()>();
    let batch = engine
        .batch("fenced")
        .item_timeout(millis(5))
        .grace(millis(5))
        .retry(Retry::fixed(millis(1)).attempts(2).no_budget())
        .submit([()], move |_, ctx| {
            if ctx.attempt() == 1 {
                effect_through_the_abandonment(ctx, &log);
                let _ = held.recv();
            } else {
                log.lock().push("next attempt");
            }
            Ok(())
        })
        .unwrap();
    let report = batch.wait().unwrap();
    assert_eq!(*seen.lock(), ["effect", "next attempt"]);
    assert_eq!((report.completed_items, report.retried), (1, 1));
    assert_eq!(engine.stats().abandoned, 1, "it was counted once, however often it was looked at");
    free.send(()).unwrap();
}

#[test]
fn a_hang_is_still_one_when_its_effects_have_arrived_and_it_moves_again() {
    let time = ManualClock::new();
    let engine = Engine::builder().workers(1).clock(time.clock()).in_memory().open().unwrap();
    let (free, held) = unbounded::<()>();
    let (tell, told) = unbounded();
    let batch = engine
        .batch("hangs")
        .hang_after(secs(10))
        .submit([()], move |_, ctx| {
            let effect = ctx.slot.enter_effect(ctx.run).expect("the attempt is in hand");
            tell.send("begun").unwrap();
            while ctx.slot.look().is_some_and(|look| !look.abandoned) {
                thread::yield_now();
            }
            ctx.heartbeat(); // too late
            drop(effect);
            tell.send("moves").unwrap();
            let _ = held.recv();
            Ok(())
        })
        .unwrap();
    let mut results = batch.results();
    let failed = || batch.progress().failed == 1;
    // Moves the time as soon as the supervisor has looked and sleeps again, or has nothing left to look at.
    let step = |by| {
        while !failed() && time.next_deadline().is_none_or(|next| next <= time.now()) {
            thread::yield_now();
        }
        time.advance(by);
    };
    assert_eq!(told.recv(), Ok("begun"));
    step(secs(11));
    assert_eq!(told.recv(), Ok("moves"));
    for _ in 0..100 {
        step(millis(1)); // in all less than makes a second hang
    }
    if !failed() {
        std::mem::forget(engine); // it would wait for the clock
        panic!("the supervisor did not come back for it");
    }
    let dead = results.next().unwrap().unwrap().outcome.unwrap_err();
    assert_eq!(dead.reason(), DeadReason::Hung);
    free.send(()).unwrap();
}

#[test]
fn a_shutdown_lets_go_after_the_effects_have_arrived() {
    let engine = Engine::builder().workers(1).grace(millis(5)).in_memory().open().unwrap();
    let (log, seen) = log();
    let (free, held) = unbounded::<()>();
    let (begun, has_begun) = unbounded();
    let batch = engine
        .batch("let go")
        .submit([()], move |_, ctx| {
            begun.send(()).unwrap();
            effect_through_the_abandonment(ctx, &log);
            let _ = held.recv();
            Ok(())
        })
        .unwrap();
    has_begun.recv_timeout(secs(60)).unwrap();
    engine.shutdown(millis(0)).unwrap();
    let report = batch.wait().unwrap();
    assert_eq!(*seen.lock(), ["effect"]);
    assert_eq!((report.completed_items, report.cancelled_items), (0, 1));
    free.send(()).unwrap();
}
