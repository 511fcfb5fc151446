//! Items that take too long: cancelled, abandoned, replaced; and what they hold.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use support::*;

fn manual(workers: usize) -> (ManualClock, EngineBuilder) {
    let time = ManualClock::new();
    let builder = Engine::builder().workers(workers).in_memory().clock(time.clock());
    (time, builder)
}

#[test]
fn a_timeout_beyond_the_clock_is_none() {
    within(|| {
        let engine = engine(1);
        let forever = std::time::Duration::MAX;
        let batch = engine.batch("t").item_timeout(forever).grace(forever).deadline(forever);
        let batch = batch.submit([1u32], |n, ctx| ctx.check().map(|()| *n)).unwrap();
        assert_eq!(batch.wait().unwrap().completed_items, 1);
    });
}

#[test]
fn promise_11_at_the_deadline_the_token_is_cancelled() {
    within(|| {
        let (time, builder) = manual(1);
        let engine = builder.open().unwrap();
        let (tell, told) = mpsc::channel();
        let batch = engine
            .batch("t")
            .item_timeout(secs(10))
            .grace(secs(36_000)) // the clock must not outrun the item's thread
            .submit([1u32], move |_, ctx| {
                let token = ctx.cancel_token();
                tell.send((ctx.remaining(), token.is_cancelled())).unwrap();
                let slept = ctx.sleep(secs(3600));
                tell.send((ctx.remaining(), token.is_cancelled())).unwrap();
                slept
            })
            .unwrap();
        let (left, cancelled) = told.recv().unwrap();
        assert_eq!((left, cancelled), (Some(secs(10)), false));
        time.wait_for_sleepers(2);
        advance_until(&time, millis(500), "the item is told", || batch.progress().failed == 1);
        assert!(time.now() >= Timestamp::ZERO + secs(10));
        assert_eq!(told.recv().unwrap(), (Some(secs(0)), true));
        let dead = batch.results().next().unwrap().unwrap().outcome.unwrap_err();
        assert_eq!(dead.reason(), DeadReason::TimedOut);
        assert!(dead.to_string().contains("10s"), "{dead}");
        assert_eq!(engine.stats().timed_out, 1);
    });
}

#[test]
fn promise_11_after_the_grace_it_is_abandoned_its_permit_stays_charged_and_its_late_return_is_dropped() {
    within(|| {
        let (time, builder) = manual(2);
        let engine = builder.quota(ResourceKind::DatabaseConnection, 2).open().unwrap();
        let door = Door::new();
        let there = door.clone();
        let batch = engine
            .batch("t")
            .needs(ResourceKind::DatabaseConnection, 1)
            .item_timeout(secs(1))
            .grace(secs(1))
            .retry(Retry::fixed(millis(1)).attempts(2).no_budget())
            .submit([7u32], move |n, ctx| {
                if ctx.attempt() == 1 {
                    there.pass();
                }
                Ok(n + ctx.attempt())
            })
            .unwrap();
        door.wait_for(1);
        advance_until(&time, millis(100), "retried", || batch.progress().done == 1);
        assert!(time.now() >= Timestamp::ZERO + secs(2), "not before deadline and grace");
        let results: Vec<_> = batch.results().map(|item| item.unwrap().outcome.unwrap()).collect();
        assert_eq!(results, [9], "the second attempt's");
        assert_eq!(
            engine.in_use(&ResourceKind::DatabaseConnection),
            Some((1, 2)),
            "the first still holds its own"
        );
        let stats = engine.stats();
        assert_eq!((stats.abandoned, stats.late_results, stats.timed_out), (1, 0, 1));
        door.open();
        until("the late return is counted", || engine.stats().late_results == 1);
        until("its permit is back", || engine.in_use(&ResourceKind::DatabaseConnection) == Some((0, 2)));
        assert_eq!(engine.stats().completed, 1);
        at_rest(&engine);
    });
}

/// The items before it in its chunk were done, and nobody had been told yet.
/// Its thread has a successor already: it must not be taken for a worker that panicked, and get another.
#[test]
fn promise_11_a_late_return_whose_item_cannot_be_dropped_is_over() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Sticky;
    impl Drop for Sticky {
        fn drop(&mut self) {
            if std::thread::current().name().is_some_and(|name| name.starts_with("batchyard-")) {
                panic!("sticky")
            }
        }
    }
    within(|| {
        let replaced = Arc::new(Mutex::new(Vec::new()));
        let there = replaced.clone();
        let engine = Engine::builder().workers(1).in_memory().on_event(move |event| {
            if let Event::WorkerReplaced { why, .. } = event {
                there.lock().unwrap().push(*why);
            }
        });
        let engine = engine.open().unwrap();
        let door = Door::new();
        let there = door.clone();
        let batch = engine
            .batch("b")
            .item_timeout(millis(1))
            .grace(millis(1))
            .submit([Sticky], move |_: &Sticky, _: &Context| {
                there.pass();
                Ok(())
            })
            .unwrap();
        assert_eq!(report(&batch).failed_items, 1);
        drop(batch);
        door.open();
        until("it has come late", || engine.stats().late_results == 1);
        assert_eq!(engine.map(0..100, |n, _| Ok(*n)).len(), 100);
        engine.shutdown(secs(60)).unwrap();
        assert_eq!(*replaced.lock().unwrap(), ["does not return from its item"]);
    });
}

#[test]
fn promise_11_abandoning_settles_what_the_chunk_did_before() {
    within(|| {
        let (time, builder) = manual(1);
        let engine = builder.open().unwrap();
        let door = Door::new();
        let there = door.clone();
        // On a manual clock every item takes no time: chunks grow.
        let batch = engine
            .batch("t")
            .item_timeout(secs(1))
            .grace(secs(1))
            .submit(0..1000u32, move |n, _| {
                if *n == 900 {
                    there.pass();
                }
                Ok(*n)
            })
            .unwrap();
        door.wait_for(1);
        advance_until(&time, millis(250), "the others are done", || batch.stats().ended() == 1000);
        let report = report(&batch);
        assert_eq!((report.completed_items, report.failed_items), (999, 1), "{report:?}");
        door.open();
    });
}

#[test]
fn promise_11_max_abandoned_halts() {
    within(|| {
        let (time, builder) = manual(1);
        let engine = builder.open().unwrap();
        let door = Door::new();
        let there = door.clone();
        let batch = engine
            .batch("t")
            .item_timeout(secs(1))
            .grace(secs(1))
            .max_abandoned(2)
            .submit(0..10u32, move |_, _| {
                there.pass();
                Ok(())
            })
            .unwrap();
        advance_until(&time, millis(250), "halted", || batch.wait_by(Deadline::NOW).is_ok());
        let report = report(&batch);
        assert_eq!(report.status, BatchStatus::Halted(HaltReason::Abandoned { abandoned: 3, limit: 2 }));
        assert_eq!((report.failed_items, report.cancelled_items), (3, 7));
        door.open();
        until("all three are back", || engine.stats().late_results == 3);
        at_rest(&engine);
    });
}

#[test]
fn promise_11_a_demand_that_zombies_make_impossible_halts_with_the_reason() {
    within(|| {
        let (time, builder) = manual(2);
        let engine = builder.quota("licence", 1).open().unwrap();
        let door = Door::new();
        let there = door.clone();
        let batch = engine
            .batch("t")
            .needs("licence", 1)
            .item_timeout(secs(1))
            .grace(secs(1))
            .submit(0..4u32, move |_, _| {
                there.pass();
                Ok(())
            })
            .unwrap();
        advance_until(&time, millis(250), "halted", || batch.wait_by(Deadline::NOW).is_ok());
        let report = report(&batch);
        let BatchStatus::Halted(why @ HaltReason::Impossible { .. }) = report.status else {
            panic!("{report:?}")
        };
        assert!(why.to_string().contains("licence") && why.to_string().contains("abandoned"), "{why}");
        door.open();
        until("the permit is back", || engine.in_use(&"licence".into()) == Some((0, 1)));
        let after = engine.batch("t").needs("licence", 1).submit([1u32], |n, _| Ok(*n)).unwrap();
        assert_eq!(support::report(&after).completed_items, 1);
    });
}

#[test]
fn promise_11_what_is_held_for_too_long_is_reclaimed_if_told_so() {
    within(|| {
        let mut config = EngineConfig { reclaim_after_seconds: 1, workers: 1.into(), ..EngineConfig::open() };
        config.quotas.insert("licence".into(), 1);
        let engine = Engine::from_config(config).unwrap();
        let door = Door::new();
        let there = door.clone();
        let began = std::time::Instant::now();
        let batch = engine
            .batch("t")
            .needs("licence", 1)
            .item_timeout(millis(10))
            .grace(millis(10))
            .submit(0..2u32, move |n, _| {
                if *n == 0 {
                    there.pass();
                }
                Ok(())
            })
            .unwrap();
        until("the first is abandoned", || batch.progress().failed == 1);
        let results = batch.results();
        assert_eq!(results.count(), 2);
        assert!(began.elapsed() >= secs(1));
        assert_eq!(report(&batch).completed_items, 1);
        door.open();
        until("it returns", || engine.stats().late_results == 1);
        assert_eq!(engine.in_use(&"licence".into()), Some((0, 1)), "not given back twice");
    });
}

/// The permits of a lane's own cap that an abandoned attempt holds are not those of the next lane.
#[test]
fn promise_11_a_zombie_does_not_block_the_next_batch() {
    within(|| {
        let (time, builder) = manual(2);
        let engine = builder.open().unwrap();
        let door = Door::new();
        let there = door.clone();
        let first = engine
            .batch("first")
            .concurrency(1)
            .item_timeout(secs(1))
            .grace(secs(1))
            .submit([1u32], move |_, _| {
                there.pass();
                Ok(())
            })
            .unwrap();
        advance_until(&time, millis(250), "abandoned", || first.wait_by(Deadline::NOW).is_ok());
        let next = engine.batch("next").concurrency(1).submit(0..10u32, |n, _| Ok(*n)).unwrap();
        assert_eq!(report(&next).completed_items, 10);
        door.open();
    });
}

#[test]
fn promise_12_a_heartbeat_keeps_a_slow_item_alive_and_silence_is_a_hang() {
    within(|| {
        let (time, builder) = manual(2);
        let engine = builder.open().unwrap();
        let clock = time.clone();
        let slow = engine
            .batch("slow")
            .hang_after(secs(10))
            .submit([1u32], move |_, ctx| {
                for _ in 0..20 {
                    ctx.heartbeat();
                    // Five seconds, which only this item moves.
                    for _ in 0..10 {
                        clock.advance(millis(500));
                        std::thread::yield_now();
                    }
                    ctx.check()?;
                }
                Ok(())
            })
            .unwrap();
        assert_eq!(slow.wait().unwrap().completed_items, 1);
        assert!(time.now() >= Timestamp::ZERO + secs(100));

        let door = Door::new();
        let there = door.clone();
        let silent = engine
            .batch("silent")
            .hang_after(secs(10))
            .submit([1u32], move |_, _| {
                there.pass();
                Ok(())
            })
            .unwrap();
        door.wait_for(1);
        advance_until(&time, secs(1), "hung", || silent.wait_by(Deadline::NOW).is_ok());
        let report = report(&silent);
        assert_eq!(report.failed_items, 1);
        door.open();
        until("late", || engine.stats().late_results == 1);
    });
}

#[test]
fn promise_12_a_hang_says_so() {
    within(|| {
        let (time, builder) = manual(1);
        let engine = builder.open().unwrap();
        let door = Door::new();
        let there = door.clone();
        let batch = engine
            .batch("t")
            .hang_after(secs(10))
            .submit([1u32], move |_, _| {
                there.pass();
                Ok(())
            })
            .unwrap();
        door.wait_for(1);
        advance_until(&time, secs(1), "hung", || batch.progress().failed == 1);
        let dead = batch.results().next().unwrap().unwrap().outcome.unwrap_err();
        assert_eq!(dead.reason(), DeadReason::Hung);
        door.open();
    });
}

#[test]
fn promise_16_remaining_is_the_least_of_item_batch_and_shutdown() {
    within(|| {
        let (_time, builder) = manual(1);
        let engine = builder.open().unwrap();
        let remaining = |batch: BatchBuilder| {
            let batch = batch.submit([1u32], |_, ctx| Ok(ctx.remaining().map(|d| d.as_secs()))).unwrap();
            batch.results().next().unwrap().unwrap().outcome.unwrap()
        };
        assert_eq!(remaining(engine.batch("none")), None);
        assert_eq!(remaining(engine.batch("item").item_timeout(secs(5)).deadline(secs(60))), Some(5));
        assert_eq!(remaining(engine.batch("batch").item_timeout(secs(60)).deadline(secs(5))), Some(5));
        let door = Door::new();
        let (there, (tell, told)) = (door.clone(), mpsc::channel());
        let batch = engine
            .batch("shutdown")
            .item_timeout(secs(60))
            .submit([1u32], move |_, ctx| {
                there.pass();
                tell.send(ctx.remaining()).unwrap();
                Ok(())
            })
            .unwrap();
        door.wait_for(1);
        let ender = {
            let engine = engine.clone();
            std::thread::spawn(move || engine.shutdown(secs(7)))
        };
        until("it closes", || matches!(engine.batch("x").submit([1u32], |_, _| Ok(())), Err(Error::Closed)));
        door.open();
        assert_eq!(told.recv().unwrap(), Some(secs(7)));
        ender.join().unwrap().unwrap();
        assert_eq!(report(&batch).completed_items, 1);
    });
}

#[test]
fn a_batch_deadline_halts_it_and_lets_go_of_what_ignores_it() {
    within(|| {
        let (time, builder) = manual(2);
        let engine = builder.open().unwrap();
        let door = Door::new();
        let there = door.clone();
        let batch = engine
            .batch("t")
            .deadline(secs(30))
            .grace(secs(2))
            .submit(0..100u32, move |_, _| {
                there.pass();
                Ok(())
            })
            .unwrap();
        door.wait_for(2);
        advance_until(&time, secs(1), "ended", || batch.wait_by(Deadline::NOW).is_ok());
        let report = report(&batch);
        assert_eq!(report.status, BatchStatus::Halted(HaltReason::Deadline));
        assert_eq!(report.cancelled_items, 100);
        assert!(time.now() >= Timestamp::ZERO + secs(32));
        door.open();
        until("both are back", || engine.stats().late_results == 2);
        assert_eq!(engine.map(0..10, |n, _| Ok(*n)).len(), 10, "with new workers");
    });
}

#[test]
fn a_cancelled_batch_ends_after_its_grace_without_any_timeout() {
    within(|| {
        let (time, builder) = manual(1);
        let engine = builder.open().unwrap();
        let door = Door::new();
        let there = door.clone();
        let batch = engine
            .batch("t")
            .grace(secs(3))
            .submit(0..5u32, move |_, _| {
                there.pass();
                Ok(())
            })
            .unwrap();
        door.wait_for(1);
        batch.cancel();
        advance_until(&time, millis(500), "ended", || batch.wait_by(Deadline::NOW).is_ok());
        assert_eq!(report(&batch).status, BatchStatus::Cancelled);
        assert!(time.now() >= Timestamp::ZERO + secs(3));
        door.open();
    });
}

#[test]
fn map_cancels_but_never_abandons() {
    within(|| {
        let (time, builder) = manual(1);
        let engine = builder.open().unwrap();
        let door = Door::new();
        let (there, running) = (door.clone(), Arc::new(AtomicUsize::new(0)));
        let (inside, engine2) = (running.clone(), engine.clone());
        let call = std::thread::spawn(move || {
            engine2
                .batch("t")
                .item_timeout(secs(1))
                .grace(secs(1))
                .deadline(secs(60))
                .map([1, 2], |_, ctx| {
                    inside.fetch_add(1, Ordering::SeqCst);
                    there.pass();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    ctx.check()
                })
                .unwrap()
        });
        door.wait_for(1);
        // The batch's deadline, long after the item's own and its grace.
        advance_until(&time, secs(1), "the second is cancelled", || engine.stats().cancelled == 1);
        assert!(time.now() >= Timestamp::ZERO + secs(60));
        assert!(!call.is_finished() && running.load(Ordering::SeqCst) == 1);
        door.open();
        let out = call.join().unwrap();
        assert_eq!(running.load(Ordering::SeqCst), 0);
        assert_eq!(out[1].as_ref().unwrap_err().reason(), DeadReason::Expired, "it never had its turn");
        assert_eq!(engine.stats().abandoned, 0);
    });
}
