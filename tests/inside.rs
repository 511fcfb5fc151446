//! Limits from inside an item: `Context::acquire` and `Context::pace`, and the manager that items share with others.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::resource::{AcquireError, Demand, OnExpiry, Wait};
use batchyard::*;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use support::*;

fn engine(workers: usize) -> EngineBuilder {
    Engine::builder().workers(workers).in_memory()
}

/// What a closure's acquire came to, told to the test.
type Told = Result<(), AcquireError>;

#[test]
fn promise_10_a_demand_inside_is_all_or_nothing_and_comes_back() {
    let engine = engine(2).quota("a", 2).quota("b", 1).open().unwrap();
    let seen = engine.clone();
    let out = engine.map(0..100, |n, ctx| {
        let mut both = ctx.acquire(Demand::new().need("a", 2).need("b", 1))?;
        assert_eq!((seen.in_use(&"a".into()), seen.in_use(&"b".into())), (Some((2, 2)), Some((1, 1))));
        both.shrink("a", 1).map_err(Failure::fatal)?;
        Ok(*n)
    });
    assert!(out.iter().all(Result::is_ok), "{out:?}");
    assert_eq!((engine.in_use(&"a".into()), engine.in_use(&"b".into())), (Some((0, 2)), Some((0, 1))));
}

/// A grant to a lane that no worker has taken up, and the last worker waits inside for the same permit.
#[test]
fn promise_23_who_waits_inside_does_not_wait_for_a_grant_that_only_it_can_serve() {
    within(|| {
        let engine = engine(1).quota("k", 1).open().unwrap();
        let mine = engine.resources().acquire(&"k".into()).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let log = order.clone();
        let outside = engine
            .batch("outside")
            .priority(Priority::Critical)
            .needs("k", 1)
            .submit([()], move |_, _| {
                log.lock().unwrap().push("outside");
                Ok(())
            })
            .unwrap();
        until("its lane waits", || engine.resources().waiting("k") == Some(1));
        let (running, runs) = channel();
        let (go, told) = channel::<()>();
        let (log, told) = (order.clone(), Mutex::new(told));
        let inside = engine
            .batch("inside")
            .submit([()], move |_, ctx| {
                running.send(()).unwrap();
                told.lock().unwrap().recv().unwrap();
                let _k = ctx.acquire("k")?;
                log.lock().unwrap().push("inside");
                Ok(())
            })
            .unwrap();
        runs.recv().unwrap();
        drop(mine);
        // Granted to the lane, and taken up by nobody.
        assert_eq!((engine.in_use(&"k".into()), engine.resources().waiting("k")), (Some((1, 1)), Some(0)));
        go.send(()).unwrap();
        assert_eq!((report(&inside).completed_items, report(&outside).completed_items), (1, 1));
        assert_eq!(*order.lock().unwrap(), ["inside", "outside"]);
    });
}

#[test]
fn promise_23_without_detection_items_wait_only_for_kinds_after_those_they_hold() {
    within(|| {
        let engine = engine(2).quota("a", 1).quota("b", 1).deadlock_detection(false).open().unwrap();
        let (tell, told) = channel::<(&'static str, Told)>();
        let (a, b) = ("a".into(), "b".into());

        let mine = engine.resources().acquire(&a).unwrap();
        let out = tell.clone();
        let batch = engine
            .batch("backwards")
            .submit([()], move |_, ctx| {
                let _b = ctx.acquire("b")?;
                out.send(("backwards", ctx.acquire("a").map(drop))).unwrap();
                Ok(())
            })
            .unwrap();
        let (_, refused) = told.recv().unwrap();
        match refused {
            Err(AcquireError::WouldHoldAndWait { kind, held, place }) => {
                assert_eq!((kind, held), ("a".into(), "b".into()));
                assert!(place.contains("inside.rs"), "{place}");
            }
            other => panic!("{other:?}"),
        }
        report(&batch);
        let out = tell.clone();
        let batch = engine
            .batch("by need")
            .needs("b", 1)
            .submit([()], move |_, ctx| {
                out.send(("by need", ctx.acquire("a").map(drop))).unwrap();
                Ok(())
            })
            .unwrap();
        let refused = told.recv().unwrap().1.unwrap_err();
        assert!(
            refused.to_string().contains("while holding `b`, taken at what its batch needs"),
            "{refused}"
        );
        report(&batch);
        drop(mine);

        // What is free is given in any order; in order it may be waited for.
        let mine = engine.resources().acquire(&b).unwrap();
        let out = tell.clone();
        let batch = engine
            .batch("forwards")
            .needs("a", 1)
            .submit([()], move |_, ctx| {
                out.send(("forwards", ctx.acquire("b").map(drop))).unwrap();
                Ok(())
            })
            .unwrap();
        until("it waits", || engine.resources().waiting("b") == Some(1));
        drop(mine);
        assert_eq!(told.recv().unwrap(), ("forwards", Ok(())));
        report(&batch);
        let free = engine.map([()], |_, ctx| {
            let _b = ctx.acquire("b")?;
            let _a = ctx.acquire("a")?;
            Ok(())
        });
        assert!(free[0].is_ok(), "{free:?}");
    });
}

#[test]
fn promise_16_a_wait_inside_ends_with_its_attempt() {
    within(|| {
        let time = ManualClock::new();
        let engine =
            engine(1).clock(time.clock()).quota("k", 1).rate("hourly", Rate::per_hour(1)).open().unwrap();
        let _mine = engine.resources().acquire(&"k".into()).unwrap();
        assert!(engine.limiter("hourly").unwrap().try_acquire(1).is_ok());
        let (tell, told) = channel::<Told>();
        let waits = |name: &'static str, what: &'static str| {
            let tell = tell.clone();
            engine
                .batch(name)
                .item_timeout(secs(100))
                .submit([()], move |_, ctx| {
                    let got = match what {
                        "pace" => ctx.pace("hourly", 1),
                        kind => ctx.acquire(kind).map(drop),
                    };
                    tell.send(got).unwrap();
                    Ok(())
                })
                .unwrap()
        };
        // At the deadline: either the wait's own, or the supervisor has told the attempt before.
        let batch = waits("late", "k");
        until("it waits", || engine.resources().waiting("k") == Some(1));
        time.advance(secs(101));
        let ended = told.recv().unwrap().unwrap_err();
        assert!(matches!(ended, AcquireError::TimedOut { .. } | AcquireError::Cancelled), "{ended:?}");
        drop(batch);

        let batch = waits("cancelled", "k");
        until("it waits", || engine.resources().waiting("k") == Some(1));
        batch.cancel();
        assert_eq!(told.recv().unwrap(), Err(AcquireError::Cancelled));
        assert_eq!(engine.resources().waiting("k"), Some(0));

        // A token that comes after the deadline is not waited for.
        let batch = waits("hopeless", "pace");
        assert!(matches!(told.recv().unwrap(), Err(AcquireError::Paced { .. })));
        drop(batch);
    });
}

#[test]
fn a_wait_for_tokens_is_cancelled_and_re_timed() {
    within(|| {
        let time = ManualClock::new();
        let slow = RateLimiter::builder(Rate::per_hour(1))
            .max_rate(Rate::per_second(100))
            .clock(time.clock())
            .build()
            .unwrap();
        assert!(slow.try_acquire(1).is_ok());
        let engine = engine(1).clock(time.clock()).limiter("slow", slow.clone()).open().unwrap();
        let (tell, told) = channel::<Told>();
        let (begin, begun) = channel();
        let paces = |name: &str| {
            let (tell, begin) = (tell.clone(), begin.clone());
            engine
                .batch(name)
                .submit([()], move |_, ctx| {
                    begin.send(()).unwrap();
                    tell.send(ctx.pace("slow", 1)).unwrap();
                    Ok(())
                })
                .unwrap()
        };
        let batch = paces("cancelled");
        begun.recv().unwrap();
        batch.cancel();
        assert_eq!(told.recv().unwrap(), Err(AcquireError::Cancelled));

        let batch = paces("re-timed");
        begun.recv().unwrap();
        time.wait_for_sleepers(2); // the supervisor, and the item
        slow.set_rate(Rate::per_second(100)).unwrap();
        time.advance(millis(30));
        assert_eq!(told.recv().unwrap(), Ok(()));
        assert_eq!(report(&batch).completed_items, 1);
    });
}

#[test]
fn promise_10_paced_calls_inside_keep_the_rate() {
    within(|| {
        let time = ManualClock::new();
        let engine = engine(3).clock(time.clock()).rate("api", Rate::per_second(10).burst(4)).open().unwrap();
        let stamps = Arc::new(Mutex::new(Vec::new()));
        let (log, clock) = (stamps.clone(), time.clone());
        let batch = engine
            .batch("pages")
            .submit(0..12u32, move |_, ctx| {
                for _ in 0..3 {
                    ctx.pace("api", 1)?;
                    log.lock().unwrap().push(clock.now());
                }
                Ok(())
            })
            .unwrap();
        advance_until(&time, millis(20), "it ends", || batch.wait_by(Deadline::NOW).is_ok());
        let mut stamps = stamps.lock().unwrap().clone();
        stamps.sort();
        assert_eq!(stamps.len(), 36);
        for (i, from) in stamps.iter().enumerate() {
            for (n, to) in stamps[i..].iter().enumerate() {
                // Who was granted may be a step of this test late: one a worker.
                let most = 4.0 + 3.0 + 10.0 * (*to - *from).as_secs_f64();
                assert!((n + 1) as f64 <= most + 1e-6, "{} in {:?}", n + 1, *to - *from);
            }
        }
    });
}

#[test]
fn promise_11_what_an_abandoned_attempt_took_inside_stays_charged() {
    within(|| {
        let time = ManualClock::new();
        for reclaim in [false, true] {
            let builder = engine(1).clock(time.clock()).quota("k", 1);
            let builder = if reclaim { builder.reclaim_after(secs(60)) } else { builder };
            let engine = builder.open().unwrap();
            let (begin, begun) = channel();
            let (go, gone) = channel::<()>();
            let gone = Mutex::new(gone);
            let stuck = engine
                .batch("stuck")
                .item_timeout(secs(1))
                .grace(secs(1))
                .submit([()], move |_, ctx| {
                    let k = ctx.acquire("k")?;
                    begin.send(()).unwrap();
                    gone.lock().unwrap().recv().unwrap();
                    drop(k);
                    Ok(())
                })
                .unwrap();
            begun.recv().unwrap();
            advance_until(&time, millis(500), "it is given up", || engine.stats().abandoned == 1);
            assert_eq!(engine.in_use(&"k".into()), Some((1, 1)));
            if reclaim {
                advance_until(&time, secs(5), "it is taken back", || {
                    engine.in_use(&"k".into()) == Some((0, 1))
                });
            } else {
                // Nobody can say when it comes back.
                let asked = engine.map([()], |_, ctx| match ctx.acquire("k") {
                    Err(AcquireError::NeverFits { asked: 1, limit: 0, .. }) => Ok(()),
                    other => Err(Failure::fatal(format!("{other:?}"))),
                });
                assert!(asked[0].is_ok(), "{asked:?}");
            }
            go.send(()).unwrap();
            until("it has returned", || engine.stats().late_results == 1);
            until("all is back", || engine.in_use(&"k".into()) == Some((0, 1)));
            let late = engine.resources().stats()[0].late_returns;
            assert_eq!(late, u64::from(reclaim), "what was taken back does not come back again");
            drop(stuck);
        }
    });
}

#[test]
fn promise_09_a_reserve_is_kept_from_lower_batches() {
    within(|| {
        let engine = engine(4).quota("k", 2).reserve_for("k", Priority::High, 1).open().unwrap();
        let (begin, begun) = channel();
        let (go, gone) = channel::<()>();
        let gone = Arc::new(Mutex::new(gone));
        let run = |name: &'static str, priority| {
            let (begin, gone) = (begin.clone(), gone.clone());
            let items = engine.batch(name).priority(priority).needs("k", 1);
            items
                .submit(0..3, move |_, _| {
                    begin.send(name).unwrap();
                    gone.lock().unwrap().recv().unwrap();
                    Ok(())
                })
                .unwrap()
        };
        let low = run("low", Priority::Low);
        assert_eq!(begun.recv().unwrap(), "low");
        until("the second waits", || engine.resources().waiting("k") == Some(1));
        let high = run("high", Priority::High);
        assert_eq!(begun.recv().unwrap(), "high");
        assert_eq!(engine.in_use(&"k".into()), Some((2, 2)));
        for _ in 0..6 {
            go.send(()).unwrap();
        }
        assert_eq!((report(&low).completed_items, report(&high).completed_items), (3, 3));
    });
}

#[test]
fn the_engines_kinds_are_counted() {
    within(|| {
        let rate = Rate::per_hour(1).burst(7);
        let engine = engine(2).quota("k", 1).quota("other", 5).rate("api", rate).open().unwrap();
        assert_eq!((engine.stats().rates["api"].remaining, engine.stats().rates["api"].rate), (7, rate));
        let batch = engine.batch("counted").needs("k", 1).submit(0..50, |_, _| Ok(())).unwrap();
        assert_eq!(report(&batch).completed_items, 50);
        until("all is back", || engine.in_use(&"k".into()) == Some((0, 1)));
        let stats = engine.stats().resources;
        let table = engine.stats().to_string();
        assert!(table.lines().any(|line| line.starts_with("k  ") && line.contains(" 0 / 1 ")), "{table}");
        let names: Vec<_> = stats.iter().map(|kind| kind.kind.to_string()).collect();
        assert_eq!(names, ["k", "other"]);
        assert!(stats[0].granted >= 1, "{stats:?}");
        assert_eq!((stats[0].high_water, stats[0].in_use, stats[0].waiting), (1, 0, 0));
        assert_eq!((stats[1].granted, stats[1].high_water), (0, 0));
        assert!(engine.resources().holders().is_empty());
    });
}

#[test]
fn what_is_switched_off_asks_for_nothing() {
    let config = EngineConfig {
        enable_resource_throttling: false,
        enable_rate_limiting: false,
        ..EngineConfig::default()
    };
    let engine = Engine::from_config(config).unwrap();
    let out = engine.map([()], |_, ctx| {
        ctx.pace("api", 1_000_000)?;
        Ok(ctx.acquire(Demand::new().need("no such", 5).pace("none", 2))?.amount("no such"))
    });
    assert_eq!(*out[0].as_ref().unwrap(), 0);
}

#[test]
fn what_is_wrong_is_named() {
    let engine = engine(1).quota("k", 2).rate("api", Rate::per_second(1).burst(3)).open().unwrap();
    let errors = engine.map([()], |_, ctx| {
        Ok([
            ctx.acquire("no such").map(drop).unwrap_err().to_string(),
            ctx.acquire(Demand::new().need("k", 3)).map(drop).unwrap_err().to_string(),
            ctx.pace("none", 1).unwrap_err().to_string(),
            ctx.pace("api", 4).unwrap_err().to_string(),
        ])
    });
    let errors = errors.into_iter().next().unwrap().unwrap();
    assert_eq!(
        errors,
        [
            "there is no quota for `no such`",
            "3 of `k` never fit a limit of 2",
            "there is no rate `none`",
            "4 of `api` never fit a limit of 3",
        ]
    );
    let limiter = || RateLimiter::builder(Rate::per_second(1));
    for (given, field, problem) in [
        (limiter().clock(ManualClock::new().clock()), "limiter.api", "another clock"),
        (limiter().order(limit::Order::Priority), "limiter.api", "by priority"),
    ] {
        let opened = Engine::builder().in_memory().limiter("api", given.build().unwrap()).open();
        match opened.unwrap_err() {
            Error::Invalid(invalid) => {
                assert!(invalid.field == field && invalid.problem.contains(problem), "{invalid}");
            }
            other => panic!("{other}"),
        }
    }
    let twice = Engine::builder()
        .in_memory()
        .rate("api", Rate::per_second(1))
        .limiter("api", limiter().build().unwrap())
        .open()
        .unwrap_err();
    assert!(twice.to_string().contains("as a rate, too"), "{twice}");
    let reserve = Engine::builder().in_memory().reserve_for("k", Priority::High, 1).open().unwrap_err();
    assert!(reserve.to_string().contains("no quota for `k`"), "{reserve}");
}

#[test]
fn a_failure_that_says_when_to_come_again_slows_an_adaptive_rate() {
    within(|| {
        let time = ManualClock::new();
        let api = RateLimiter::builder(Rate::per_second(100).burst(10))
            .adaptive(limit::Adaptive::between(Rate::per_second(10), Rate::per_second(200)))
            .clock(time.clock())
            .build()
            .unwrap();
        let engine = engine(2).clock(time.clock()).limiter("api", api.clone()).open().unwrap();
        time.advance(secs(1));
        let begun = time.now();
        // Two calls that are out together hear of it: one cut.
        let both = std::sync::Barrier::new(2);
        let starts = Arc::new(Mutex::new(Vec::new()));
        let (log, clock) = (starts.clone(), time.clone());
        let busy = engine
            .batch("busy")
            .paced_by("api")
            .submit(0..2, move |_, _| {
                let before = {
                    let mut starts = log.lock().unwrap();
                    starts.push(clock.now());
                    starts.len()
                };
                if before <= 2 {
                    both.wait();
                    return Err(Failure::retry_after(secs(5)));
                }
                Ok(())
            })
            .unwrap();
        until("it was told", || api.rate() == Rate::per_second(70).burst(10));
        advance_until(&time, millis(100), "both are done", || busy.wait_by(Deadline::NOW).is_ok());
        let starts = starts.lock().unwrap();
        assert_eq!(starts.len(), 4, "nothing but the two and their second tries");
        assert!(starts[2..].iter().all(|start| *start - begun >= secs(5)), "{starts:?}");
        // A cut, and a step up at most for what went well since.
        assert!(api.rate().burst_size() == 10 && api.rate() != Rate::per_second(100).burst(10));
    });
}

#[test]
fn the_supervisor_ends_leases_that_nobody_waits_for() {
    within(|| {
        let time = ManualClock::new();
        let engine = engine(1).clock(time.clock()).quota("k", 2).open().unwrap();
        let wait = Wait::new().lease(secs(60)).on_expiry(OnExpiry::Reclaim).owner("a test");
        let late = engine.resources().acquire_with(&"k".into(), &wait).unwrap();
        time.advance(secs(59));
        assert_eq!(engine.in_use(&"k".into()), Some((1, 2)));
        advance_until(&time, secs(1), "it is taken back", || engine.in_use(&"k".into()) == Some((0, 2)));
        // One that ends before the supervisor meant to look again wakes it.
        let other = engine.resources().acquire_with(&"k".into(), &wait.clone().lease(secs(2))).unwrap();
        advance_until(&time, secs(1), "so is this", || engine.in_use(&"k".into()) == Some((0, 2)));
        assert!(late.check().is_err() && other.check().is_err());
        assert_eq!(engine.resources().stats()[0].expired, 2);
    });
}

#[test]
fn a_lane_whose_demand_has_become_impossible_halts() {
    within(|| {
        for closes in [false, true] {
            let engine = engine(1).quota("k", 2).open().unwrap();
            let mine = engine.resources().acquire(&Demand::new().need("k", 2)).unwrap();
            let batch = engine.batch("needy").needs("k", 2).submit([()], |_, _| Ok(())).unwrap();
            until("it waits", || engine.resources().waiting("k") == Some(1));
            if closes {
                engine.resources().close();
            } else {
                engine.resources().set_limit("k", 1).unwrap();
            }
            let status = report(&batch).status;
            let BatchStatus::Halted(HaltReason::Impossible { demand }) = status else { panic!("{status:?}") };
            let why = if closes { "`k` is closed" } else { "needs 2 of `k`, whose limit is 1 now" };
            assert!(demand.contains(why), "{demand}");
            drop(mine);
        }
    });
}

#[test]
fn a_raised_rate_wakes_the_lanes_that_wait_for_it() {
    within(|| {
        let time = ManualClock::new();
        let slow = RateLimiter::builder(Rate::per_hour(1))
            .max_rate(Rate::per_second(500))
            .clock(time.clock())
            .build()
            .unwrap();
        let engine = engine(1).clock(time.clock()).limiter("slow", slow.clone()).open().unwrap();
        let batch = engine.batch("paced").paced_by("slow").submit(0..3, |_, _| Ok(())).unwrap();
        until("the second waits for an hour", || {
            engine.stats().completed == 1
                && time.next_deadline().is_some_and(|next| next - time.now() > secs(1000))
        });
        slow.set_rate(Rate::per_second(500)).unwrap();
        let begun = time.now();
        advance_until(&time, millis(1), "all are done", || batch.wait_by(Deadline::NOW).is_ok());
        assert!(time.now() - begun < secs(60), "{:?}", time.now() - begun);
    });
}

/// It would wait for a permit that may be granted to a lane which only this thread can serve.
#[test]
fn promise_23_a_worker_does_not_queue_as_anybody_does() {
    within(|| {
        let engine = engine(1).quota("k", 1).open().unwrap();
        let mine = engine.resources().acquire(&"k".into()).unwrap();
        let there = engine.resources().clone();
        let tried = engine.map([()], |_, _| {
            Ok(there.acquire_by(&"k".into(), secs(100)).map(drop).unwrap_err().to_string())
        });
        let says = tried[0].as_ref().unwrap();
        assert!(says.contains("a thread of the engine would wait for `k`"), "{says}");
        drop(mine);
        let free = engine.map([()], |_, _| Ok(there.acquire(&"k".into()).map(drop)));
        assert!(matches!(free[0], Ok(Ok(()))), "what is free is given: {free:?}");
    });
}

#[test]
fn a_batch_that_rises_may_use_the_reserve_at_once() {
    within(|| {
        let engine = engine(1).quota("k", 2).reserve_for("k", Priority::High, 1).open().unwrap();
        let _mine = engine.resources().acquire(&"k".into()).unwrap();
        let batch = engine.batch("rising").needs("k", 1).submit([()], |_, _| Ok(())).unwrap();
        until("it waits", || engine.resources().waiting("k") == Some(1));
        batch.set_priority(Priority::High);
        assert_eq!(report(&batch).completed_items, 1);
    });
}

#[test]
fn promise_12_who_waits_inside_is_not_hung() {
    within(|| {
        let time = ManualClock::new();
        let engine = engine(1).clock(time.clock()).quota("k", 1).open().unwrap();
        let mine = engine.resources().acquire(&"k".into()).unwrap();
        let batch = engine
            .batch("patient")
            .hang_after(secs(10))
            .submit([()], |_, ctx| {
                let _k = ctx.acquire("k")?;
                Ok(())
            })
            .unwrap();
        until("it waits", || engine.resources().waiting("k") == Some(1));
        for _ in 0..50 {
            time.advance(secs(2));
            // It beats every five seconds.
            let alive = |worker: &WorkerStats| worker.heartbeat_age.is_some_and(|age| age < secs(6));
            until("it says so", || engine.stats().workers.iter().all(alive));
        }
        assert_eq!((engine.stats().abandoned, engine.resources().waiting("k")), (0, Some(1)));
        drop(mine);
        assert_eq!(report(&batch).completed_items, 1);
    });
}

#[test]
fn a_permit_that_is_not_brought_back_is_told_with_its_place() {
    within(|| {
        let time = ManualClock::new();
        let (tell, told) = channel();
        let engine = engine(1)
            .clock(time.clock())
            .quota("k", 1)
            .on_event(move |event| {
                if let Event::PermitLapsed { holder, reclaimed } = event {
                    let _ = tell.send((holder.owner.clone(), holder.place.file(), *reclaimed));
                }
            })
            .open()
            .unwrap();
        let wait = Wait::new().lease(secs(5)).on_expiry(OnExpiry::Reclaim).owner("forgetful");
        std::mem::forget(engine.resources().acquire_with(&"k".into(), &wait).unwrap());
        advance_until(&time, secs(1), "it is taken back", || engine.in_use(&"k".into()) == Some((0, 1)));
        assert_eq!(told.recv().unwrap(), ("forgetful".to_owned(), file!(), true));
    });
}

#[test]
fn a_rate_that_is_paused_for_good_holds_lanes_and_lets_them_go_on() {
    within(|| {
        let time = ManualClock::new();
        let api = RateLimiter::builder(Rate::per_second(100)).clock(time.clock()).build().unwrap();
        let engine = engine(1).clock(time.clock()).limiter("api", api.clone()).open().unwrap();
        api.pause_until(Deadline::NEVER);
        let batch = engine.batch("held").paced_by("api").submit(0..3, |_, _| Ok(())).unwrap();
        advance_until(&time, secs(3600), "some hours pass", || time.now() > Timestamp::ZERO + secs(36_000));
        assert!(batch.wait_by(Deadline::NOW).is_err(), "it is neither done nor halted");
        assert_eq!(engine.stats().completed, 0);
        batch.cancel();
        assert_eq!(report(&batch).status, BatchStatus::Cancelled);
    });
}

/// Two permits are lost for good, of four of which two are kept for high batches.
#[test]
fn promise_11_losses_count_beside_reserves_and_lower_limits() {
    within(|| {
        let time = ManualClock::new();
        for lowered in [false, true] {
            let engine = engine(1)
                .clock(time.clock())
                .quota("k", 4)
                .reserve_for("k", Priority::High, 2)
                .open()
                .unwrap();
            let (begin, begun) = channel();
            let (go, gone) = channel::<()>();
            let gone = Mutex::new(gone);
            let lost = if lowered { 1 } else { 2 };
            let stuck = engine
                .batch("stuck")
                .priority(Priority::High)
                .item_timeout(secs(1))
                .grace(secs(1))
                .needs("k", lost)
                .submit([()], move |_, _| {
                    begin.send(()).unwrap();
                    gone.lock().unwrap().recv().unwrap();
                    Ok(())
                })
                .unwrap();
            begun.recv().unwrap();
            advance_until(&time, millis(500), "it is given up", || engine.stats().abandoned == 1);
            let mine = lowered.then(|| {
                let wait = Wait::new().priority(Priority::High);
                engine.resources().acquire_with(&Demand::new().need("k", 3), &wait).unwrap()
            });
            let batch = engine.batch("normal").needs("k", 1).submit([()], |_, _| Ok(())).unwrap();
            if lowered {
                until("it waits", || engine.resources().waiting("k") == Some(1));
                // Of three, two are kept and one is lost.
                engine.resources().set_limit("k", 3).unwrap();
            }
            let status = report(&batch).status;
            assert!(matches!(status, BatchStatus::Halted(HaltReason::Impossible { .. })), "{status:?}");
            go.send(()).unwrap();
            drop((mine, stuck));
        }
    });
}
