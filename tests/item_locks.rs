//! Items that wait for each other's locks and permits: `Context::lock`, `Context::acquire`, the process's own locks.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::lock::{Deadlock, LockError, LockWait, Mode, Share};
use batchyard::resource::AcquireError;
use batchyard::*;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};
use support::*;

const X: Mode = Mode::Exclusive;
const ONCE: Retry = Retry::none();

fn engine(workers: usize) -> EngineBuilder {
    Engine::builder().workers(workers).in_memory()
}

/// Two items meet when each has what the other will want, in the first try of both.
#[derive(Clone)]
struct Meeting(Arc<Barrier>);

impl Meeting {
    fn of(n: usize) -> Self {
        Meeting(Arc::new(Barrier::new(n)))
    }

    fn meet(&self, ctx: &Context) {
        if ctx.deferrals() == 0 {
            self.0.wait();
        }
    }
}

/// What the items gave up, by their positions.
type Victims = Arc<Mutex<Vec<(u64, String)>>>;

fn note<E: std::error::Error>(victims: &Victims, ctx: &Context, error: E) -> E {
    victims.lock().unwrap().push((ctx.seq(), error.to_string()));
    error
}

/// The younger gives up, is tried again with no attempt lost, and both end.
#[test]
fn promise_23_of_two_items_that_wait_for_each_other_one_is_tried_again() {
    within(|| {
        let engine = engine(2).open().unwrap();
        let (victims, meeting) = (Victims::default(), Meeting::of(2));
        let told = victims.clone();
        let batch = engine
            .batch("transfers")
            .retry(ONCE)
            .key(|seq: &u64| *seq)
            .submit(0..2_u64, move |n, ctx| {
                let names = if *n == 0 { ["a", "b"] } else { ["b", "a"] };
                let _first = ctx.lock(names[0], X)?;
                meeting.meet(ctx);
                let _second = ctx.lock(names[1], X).map_err(|error| note(&told, ctx, error))?;
                Ok((ctx.attempt(), ctx.deferrals()))
            })
            .unwrap();
        let mut tries: Vec<_> = batch.results().map(|item| item.unwrap().outcome.unwrap()).collect();
        tries.sort_unstable();
        // The victim may come back before the other is through, and meet it again.
        let again = tries[1].1;
        assert_eq!(tries, [(1, 0), (1, again)]);
        let told = victims.lock().unwrap();
        assert!(
            again >= 1 && told.len() == again as usize && told.iter().all(|told| told.0 == 1),
            "{told:?}"
        );
        let text = &told[0].1;
        for part in
            ["`transfers/0` waits for \"b\" (exclusive, for ", "`transfers/1` gives up", "item_locks.rs:"]
        {
            assert!(text.contains(part), "{text}");
        }
        let locks = engine.stats().locks;
        let again = u64::from(again);
        assert_eq!((locks.deadlocks, locks.exclusive), (again, 4 + again));
        assert!(locks.waits >= 2 && locks.waited.count >= 2, "{locks:?}");
    });
}

/// A lock against what is taken by `acquire`, and what the batch needs.
#[test]
fn promise_23_locks_and_permits_share_one_graph() {
    for by_need in [false, true] {
        within(move || {
            let engine = engine(2).quota("k", 1).open().unwrap();
            let (victims, meeting) = (Victims::default(), Meeting::of(2));
            let (told, met) = (victims.clone(), meeting.clone());
            let holds_permit = engine.batch("permit").retry(ONCE);
            let holds_permit = if by_need { holds_permit.needs("k", 1) } else { holds_permit };
            let one = holds_permit
                .key(|()| 0_u64)
                .submit([()], move |(), ctx| {
                    let _k = if by_need { None } else { Some(ctx.acquire("k")?) };
                    met.meet(ctx);
                    let _lock = ctx.lock("l", X).map_err(|error| note(&told, ctx, error))?;
                    Ok(())
                })
                .unwrap();
            let told = victims.clone();
            let other = engine
                .batch("lock")
                .retry(ONCE)
                .key(|()| 0_u64)
                .submit([()], move |(), ctx| {
                    let _lock = ctx.lock("l", Mode::Shared)?;
                    meeting.meet(ctx);
                    let error = match ctx.acquire("k") {
                        Ok(_permit) => return Ok(()),
                        Err(error) => error,
                    };
                    let AcquireError::Deadlock(deadlock) = &error else { panic!("{error}") };
                    assert_eq!(&*deadlock.victim, "lock/0");
                    let waits = |owner: &str| {
                        deadlock.waits.iter().find(|wait| &*wait.owner == owner).expect("it waits").clone()
                    };
                    let (mine, theirs) = (waits("lock/0"), waits("permit/0"));
                    assert_eq!((&*mine.wants, &*mine.held_by), ("`k`", "permit/0"));
                    assert!(matches!(mine.share, Share::Units { n: 1, limit: 1, .. }));
                    assert_eq!(
                        (mine.held_at.is_none(), theirs.held_share),
                        (by_need, Share::Lock(Mode::Shared))
                    );
                    Err(note(&told, ctx, error))?
                })
                .unwrap();
            assert_eq!((report(&one).completed_items, report(&other).completed_items), (1, 1));
            // The younger batch's alone; it may meet the other again.
            let told = victims.lock().unwrap().len() as u64;
            let stats = engine.stats();
            assert!(
                told >= 1 && (stats.resources[0].deadlocks, stats.locks.deadlocks) == (told, 0),
                "{stats}"
            );
            assert_eq!(engine.in_use(&"k".into()), Some((0, 1)));
        });
    }
}

/// Out of the kinds' order.
#[test]
fn promise_23_permits_may_be_taken_in_any_order() {
    within(|| {
        let engine = engine(2).quota("a", 1).quota("b", 1).open().unwrap();
        let (victims, meeting) = (Victims::default(), Meeting::of(2));
        let told = victims.clone();
        let batch = engine
            .batch("both")
            .retry(ONCE)
            .submit(0..2_u32, move |n, ctx| {
                let kinds = if *n == 0 { ["a", "b"] } else { ["b", "a"] };
                let _first = ctx.acquire(kinds[0])?;
                meeting.meet(ctx);
                let _second = ctx.acquire(kinds[1]).map_err(|error| note(&told, ctx, error))?;
                Ok(())
            })
            .unwrap();
        assert_eq!(report(&batch).completed_items, 2);
        let told = victims.lock().unwrap();
        assert!(!told.is_empty() && told.iter().all(|told| told.0 == 1), "{told:?}");
    });
}

/// It holds one of two and wants two more: nobody else could ever help.
#[test]
fn promise_23_an_item_that_waits_for_its_own_permits_is_told() {
    within(|| {
        let engine = engine(1).quota("k", 2).open().unwrap();
        let out = engine.map([()], |(), ctx| {
            let first = ctx.acquire("k")?;
            let error = ctx.acquire(resource::Demand::new().need("k", 2)).map(drop).unwrap_err();
            let AcquireError::Deadlock(deadlock) = &error else { panic!("{error}") };
            assert_eq!(deadlock.waits.len(), 1);
            drop(first);
            Ok(ctx.acquire(resource::Demand::new().need("k", 2)).is_ok())
        });
        assert!(matches!(out[..], [Ok(true)]), "{out:?}");
        // To try that again would not help: it is a failure as others are.
        let batch = engine.batch("itself").retry(ONCE).submit([()], |(), ctx| {
            let _first = ctx.acquire("k")?;
            let _more = ctx.acquire(resource::Demand::new().need("k", 2))?;
            Ok(())
        });
        assert_eq!(report(&batch.unwrap()).failed_items, 1);
    });
}

/// Who stands first for `k` waits for an item that waits for a lock of who stands behind, for whom there is enough.
#[test]
fn promise_23_the_order_of_a_queue_for_permits_makes_no_victim() {
    within(|| {
        let engine = engine(3).quota("k", 3).open().unwrap();
        let permits = engine.resources().clone();
        let (holds, held) = channel();
        let (go, goes) = channel::<()>();
        let goes = Mutex::new(goes);
        let (waits, waits_too) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let (there, there_too) = (Arc::clone(&waits), Arc::clone(&waits_too));
        // Has two of three, and wants the lock.
        let holder = engine
            .batch("holder")
            .submit([()], move |(), ctx| {
                let _two = ctx.acquire(resource::Demand::new().need("k", 2))?;
                holds.send(()).unwrap();
                there.wait();
                drop(ctx.lock("l", X)?);
                Ok(())
            })
            .unwrap();
        held.recv().unwrap();
        // Wants three.
        let first = engine
            .batch("first")
            .submit([()], |(), ctx| {
                let _three = ctx.acquire(resource::Demand::new().need("k", 3))?;
                Ok(())
            })
            .unwrap();
        until("the first waits", || permits.waiting("k") == Some(1));
        // Has the lock, and wants the one that is free.
        let behind = engine
            .batch("behind")
            .submit([()], move |(), ctx| {
                let _lock = ctx.lock("l", X)?;
                there_too.wait();
                goes.lock().unwrap().recv().unwrap();
                let _one = ctx.acquire("k")?;
                Ok(())
            })
            .unwrap();
        waits_too.wait();
        waits.wait();
        until("the holder waits", || engine.stats().locks.waits == 1);
        go.send(()).unwrap();
        for batch in [&holder, &first, &behind] {
            let report = report(batch);
            assert_eq!(report.completed_items, 1, "{report:?}");
        }
        let stats = engine.stats();
        assert_eq!((stats.resources[0].deadlocks, stats.locks.deadlocks), (0, 0));
    });
}

/// The lower priority gives up, however old its batch is.
#[test]
fn the_less_urgent_item_gives_up() {
    within(|| {
        let engine = engine(2).open().unwrap();
        let meeting = Meeting::of(2);
        let mut batches = Vec::new();
        for (name, priority, names) in
            [("low", Priority::Low, ["a", "b"]), ("high", Priority::High, ["b", "a"])]
        {
            let meeting = meeting.clone();
            let batch = engine.batch(name).priority(priority).retry(ONCE).submit([()], move |(), ctx| {
                let _first = ctx.lock(names[0], X)?;
                meeting.meet(ctx);
                let _second = ctx.lock(names[1], X)?;
                Ok(ctx.deferrals())
            });
            batches.push(batch.unwrap());
        }
        let deferrals = |at: usize| batches[at].results().next().unwrap().unwrap().outcome.unwrap();
        let (low, high) = (deferrals(0), deferrals(1));
        assert!(low >= 1 && high == 0, "{low} {high}");
    });
}

/// The process's own locks inside an item count with what the item holds.
#[test]
fn free_functions_in_items_are_in_the_graph() {
    within(|| {
        let engine = engine(2).quota("k", 1).open().unwrap();
        let meeting = Meeting::of(2);
        let batch = engine
            .batch("mixed")
            .retry(ONCE)
            .submit(0..2_u32, move |n, ctx| {
                if *n == 0 {
                    let _k = ctx.acquire("k")?;
                    meeting.meet(ctx);
                    let _lock = exclusive_lock("item_locks: mixed", "first")?;
                } else {
                    let _lock = exclusive_lock("item_locks: mixed", "second")?;
                    meeting.meet(ctx);
                    let _k = ctx.acquire("k")?;
                }
                Ok(ctx.deferrals())
            })
            .unwrap();
        let mut deferrals: Vec<_> = batch.results().map(|item| item.unwrap().outcome.unwrap()).collect();
        deferrals.sort_unstable();
        // (The victim may come back before the other is through, and meet it again.)
        assert!(deferrals[0] == 0 && deferrals[1] >= 1, "{deferrals:?}");
    });
}

/// Threads without a session, whatever names they give.
#[test]
fn threads_that_wait_for_each_other() {
    within(|| {
        let both = Barrier::new(2);
        let got = std::thread::scope(|scope| {
            let threads = [["a", "b"], ["b", "a"]].map(|names| {
                let both = &both;
                scope.spawn(move || {
                    let first = exclusive_lock(format!("item_locks: {}", names[0]), "one").unwrap();
                    assert_eq!((first.owner(), first.mode()), ("one", X));
                    both.wait();
                    let second = shared_lock(format!("item_locks: {}", names[1]), "another");
                    match second {
                        Ok(_) => true,
                        Err(LockError::Deadlock(deadlock)) => {
                            assert_eq!(&*deadlock.victim, "another");
                            false
                        }
                        Err(error) => panic!("{error}"),
                    }
                })
            });
            threads.map(|thread| thread.join().unwrap())
        });
        assert_ne!(got[0], got[1], "one of them goes on");
    });
}

#[test]
fn a_thread_is_told_of_what_it_has_already() {
    let mut first = shared_lock("item_locks: again", "one").unwrap();
    let again = shared_lock("item_locks: again", "two").unwrap();
    let error = exclusive_lock("item_locks: again", "two").unwrap_err();
    assert!(matches!(error, LockError::Recursive { held: Mode::Shared, wanted: X, .. }), "{error}");
    assert!(matches!(first.upgrade(), Err(LockError::Recursive { .. })));
    drop((first, again));
    let mut held = exclusive_lock("item_locks: again", "one").unwrap();
    held.downgrade(Mode::Upgradable);
    held.upgrade_with(&LockWait::new().by(millis(1))).unwrap();
    let late = std::thread::scope(|scope| {
        let late = || lock::shared_lock_by("item_locks: again", "other", millis(1)).map(drop);
        scope.spawn(late).join().unwrap()
    });
    assert!(matches!(late, Err(LockError::TimedOut { .. })), "{late:?}");
}

/// A wait for a lock is the item's: it ends with the item's time, and when the batch is cancelled.
#[test]
fn who_waits_for_a_lock_stops_with_its_item() {
    within(|| {
        let time = ManualClock::new();
        let engine = engine(2).clock(time.clock()).open().unwrap();
        let outside = engine.locks().session();
        let held = outside.lock("l", X).unwrap();
        let (tell, told) = channel::<Result<(), LockError>>();
        let out = tell.clone();
        let batch = engine
            .batch("late")
            .retry(ONCE)
            .item_timeout(secs(10))
            .submit([()], move |(), ctx| {
                out.send(ctx.lock("l", Mode::Shared).map(drop)).unwrap();
                Ok(())
            })
            .unwrap();
        until("it waits", || engine.stats().locks.waits == 1);
        advance_until(&time, secs(1), "its time is over", || batch.progress().open() == 0);
        let late = told.recv().unwrap();
        assert!(matches!(late, Err(LockError::TimedOut { .. } | LockError::Cancelled)), "{late:?}");

        let batch = engine
            .batch("cancelled")
            .submit([()], move |(), ctx| {
                tell.send(ctx.lock("l", Mode::Shared).map(drop)).unwrap();
                Ok(())
            })
            .unwrap();
        until("it waits", || engine.stats().locks.waits == 2);
        batch.cancel();
        assert!(matches!(told.recv().unwrap(), Err(LockError::Cancelled)));
        drop(held);
        let stats = engine.locks().stats();
        assert_eq!(stats.timed_out + stats.cancelled, 2, "{stats}");
        assert!(outside.try_lock("l", X).is_ok());
    });
}

/// Without detection a wait has its deadline, and nobody is told.
#[test]
fn without_detection_nobody_is_told() {
    within(|| {
        let time = ManualClock::new();
        let engine = engine(2).clock(time.clock()).deadlock_detection(false).open().unwrap();
        let meeting = Meeting::of(2);
        let timed_out = Arc::new(AtomicU32::new(0));
        let counts = timed_out.clone();
        let batch = engine
            .batch("stuck")
            .submit(0..2_u32, move |n, ctx| {
                let names = if *n == 0 { ["a", "b"] } else { ["b", "a"] };
                let _first = ctx.lock(names[0], X)?;
                meeting.0.wait();
                match ctx.lock_with(names[1], X, &LockWait::new().by(secs(5))) {
                    Err(LockError::TimedOut { .. }) => counts.fetch_add(1, Ordering::Relaxed),
                    Ok(_) => 0,
                    Err(error) => panic!("{error}"),
                };
                Ok(())
            })
            .unwrap();
        until("both wait", || engine.stats().locks.waits == 2);
        advance_until(&time, secs(1), "they give up", || batch.progress().open() == 0);
        assert!(timed_out.load(Ordering::Relaxed) >= 1);
    });
}

/// Permits that an item took elsewhere than by its context, of the engine's manager and of the process's own.
#[test]
fn promise_23_whatever_permits_an_items_thread_holds_count() {
    for of_process in [false, true] {
        within(move || {
            let engine = engine(2).quota("k", 1).open().unwrap();
            let permits = engine.resources().clone();
            resource::global().set_limit(ResourceKind::NetworkSocket, 1).unwrap();
            let meeting = Meeting::of(2);
            let batch = engine
                .batch("elsewhere")
                .retry(ONCE)
                .submit(0..2_u32, move |n, ctx| {
                    // (What it has comes back when it is gone.)
                    let owner = resource::Owner::new(format!("item {n}"));
                    if *n == 0 {
                        let _k = match of_process {
                            true => allocate(ResourceKind::NetworkSocket, &owner)?,
                            false => permits.acquire(&"k".into())?,
                        };
                        meeting.meet(ctx);
                        let _lock = ctx.lock("l", X)?;
                    } else {
                        let _lock = ctx.lock("l", X)?;
                        meeting.meet(ctx);
                        let _k = match of_process {
                            true => allocate(ResourceKind::NetworkSocket, &owner)?,
                            false => ctx.acquire("k")?,
                        };
                    }
                    Ok(())
                })
                .unwrap();
            let report = report(&batch);
            assert_eq!((report.completed_items, report.failed_items), (2, 0), "{report:?}");
        });
    }
}

/// Two threads of an item wait for what an outsider has: the item's own permit counts once.
#[test]
fn threads_of_one_item_do_not_wait_for_each_other() {
    within(|| {
        let engine = engine(1).quota("k", 2).open().unwrap();
        let outside = engine.resources().acquire(&"k".into()).unwrap();
        let permits = engine.resources().clone();
        let (go, goes) = channel::<()>();
        let goes = Mutex::new(goes);
        let batch = engine
            .batch("threads")
            .retry(ONCE)
            .submit([()], move |(), ctx| {
                let _own = ctx.acquire("k")?;
                std::thread::scope(|scope| {
                    let wait = || ctx.acquire("k").map(drop);
                    let threads = [scope.spawn(wait), scope.spawn(wait)];
                    goes.lock().unwrap().recv().unwrap();
                    threads.map(|thread| thread.join().unwrap()).into_iter().collect::<Result<Vec<_>, _>>()
                })?;
                Ok(())
            })
            .unwrap();
        until("both wait", || permits.waiting("k") == Some(2));
        go.send(()).unwrap();
        drop(outside);
        let report = report(&batch);
        assert_eq!(report.completed_items, 1, "{:?}", batch.dead());
        assert_eq!(engine.stats().resources[0].deadlocks, 0);
    });
}

/// A limit that falls while somebody waits makes a deadlock of what was none; seen when somebody looks next.
#[test]
fn promise_23_a_lower_limit_is_seen() {
    within(|| {
        let engine = engine(2).quota("k", 3).open().unwrap();
        let permits = engine.resources().clone();
        let outside = permits.acquire(&resource::Demand::new().need("k", 2)).unwrap();
        let (wait, waits) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let (there, there_too) = (Arc::clone(&wait), Arc::clone(&waits));
        let (first, taken) = (AtomicU32::new(0), Barrier::new(2));
        let batch = engine
            .batch("lower")
            .retry(ONCE)
            .submit(0..2_u32, move |n, ctx| {
                let is_first = first.fetch_or(1 << n, Ordering::Relaxed) & 1 << n == 0;
                if *n == 0 {
                    let _k = ctx.acquire("k")?;
                    if is_first {
                        taken.wait();
                        there.wait();
                        there_too.wait();
                    }
                    let _lock = ctx.lock("l", X)?;
                } else {
                    if is_first {
                        taken.wait();
                    }
                    let _lock = ctx.lock("l", X)?;
                    let _k = ctx.acquire("k")?;
                }
                Ok(())
            })
            .unwrap();
        until("the second waits for the permit", || permits.waiting("k") == Some(1));
        wait.wait();
        permits.set_limit("k", 1).unwrap();
        drop(outside);
        waits.wait();
        let report = report(&batch);
        assert_eq!((report.completed_items, report.failed_items), (2, 0), "{report:?}");
    });
}

/// The process's own locks, too, are waited for no longer than the item may run.
#[test]
fn who_waits_for_the_processes_own_lock_stops_with_its_item() {
    within(|| {
        let engine = engine(1).open().unwrap();
        let held = exclusive_lock("item_locks: stops", "outside").unwrap();
        let (tell, told) = channel();
        let (begin, begins) = channel();
        let batch = engine
            .batch("cancelled")
            .submit([()], move |(), _| {
                begin.send(()).unwrap();
                tell.send(shared_lock("item_locks: stops", "item").map(drop)).unwrap();
                Ok(())
            })
            .unwrap();
        begins.recv().unwrap();
        batch.cancel();
        let ended = told.recv().unwrap();
        assert!(matches!(ended, Err(LockError::Cancelled)), "{ended:?}");
        drop(held);
    });
}

/// Many items, locks, permits, in any order and any number: all end, none is lost, and nothing stays held.
#[test]
fn promise_23_whatever_items_take_all_of_them_end() {
    within(|| {
        let engine = engine(6).quota("a", 2).quota("b", 3).open().unwrap();
        let batch = engine
            .batch("any")
            .retry(ONCE)
            .submit(0..3000_u64, |n, ctx| {
                let mut random = Rng::new(n * 7 + 1);
                let (mut locks, mut permits) = (Vec::new(), Vec::new());
                let mut of_b = 0;
                for turn in 0..3 {
                    match random.below(3) {
                        // No more than there is, or it would wait for itself.
                        0 if turn < 2 => permits.push(ctx.acquire("a")?),
                        1 if of_b < 2 => {
                            let n = 1 + random.below(2);
                            of_b += n;
                            permits.push(ctx.acquire(resource::Demand::new().need("b", n))?);
                        }
                        _ => {
                            let mode = [Mode::Shared, Mode::Upgradable, X][random.below(3) as usize];
                            match ctx.lock(format!("l{}", random.below(4)), mode) {
                                Ok(mut guard) => {
                                    if mode == Mode::Upgradable {
                                        match guard.upgrade() {
                                            Err(LockError::Recursive { .. }) | Ok(()) => {}
                                            Err(error) => return Err(error.into()),
                                        }
                                    }
                                    locks.push(guard);
                                }
                                Err(LockError::Recursive { .. }) => {}
                                Err(error) => return Err(error.into()),
                            }
                        }
                    }
                    std::thread::yield_now();
                }
                Ok(())
            })
            .unwrap();
        let report = report(&batch);
        assert_eq!((report.completed_items, report.failed_items), (3000, 0), "{report:?}");
        assert_eq!((engine.in_use(&"a".into()), engine.in_use(&"b".into())), (Some((0, 2)), Some((0, 3))));
        let outside = engine.locks().session();
        for n in 0..4 {
            drop(outside.try_lock(&*format!("l{n}"), X).expect("all is given back"));
        }
    });
}

/// A deadlock that happened.
fn deadlock(here: &str) -> Deadlock {
    let both = Barrier::new(2);
    let ends = std::thread::scope(|scope| {
        let threads = [["a", "b"], ["b", "a"]].map(|names| {
            let both = &both;
            scope.spawn(move || {
                let [first, second] = names.map(|name| format!("item_locks: {here} {name}"));
                let _first = exclusive_lock(first, names[0]).unwrap();
                both.wait();
                exclusive_lock(second, names[0]).map(drop)
            })
        });
        threads.map(|thread| thread.join().unwrap())
    });
    let told = ends.into_iter().find_map(|end| match end {
        Err(LockError::Deadlock(deadlock)) => Some(*deadlock),
        _ => None,
    });
    told.expect("one of them was told")
}

/// What nobody resolves is not tried for ever.
#[test]
fn a_victim_is_tried_again_a_thousand_times_for_free() {
    within(|| {
        let engine = engine(1).open().unwrap();
        let deadlock = deadlock("a thousand");
        let batch = engine.batch("victim").retry(ONCE).submit([()], move |(), ctx| match ctx.deferrals() {
            0..998 => Err::<(), _>(Failure::defer(millis(0))),
            998..=1000 => Err(LockError::from(Box::new(deadlock.clone())))?,
            n => Err(Failure::fatal(format!("deferred {n} times"))),
        });
        let dead = batch.unwrap().results().next().unwrap().unwrap().outcome.unwrap_err();
        assert_eq!((dead.reason(), dead.attempts()), (DeadReason::Exhausted, 1), "{dead}");
        let last = dead.errors().last().unwrap();
        assert!(last.message.contains("deadlock of 2"), "{last:?}");
    });
}

/// Two threads of one item: it would do so again.
#[test]
fn an_item_whose_own_threads_wait_for_each_other_fails() {
    within(|| {
        let engine = engine(1).open().unwrap();
        let calls = Arc::new(AtomicU32::new(0));
        let counts = calls.clone();
        let batch = engine.batch("itself").retry(ONCE).submit([()], move |(), ctx| {
            if counts.fetch_add(1, Ordering::Relaxed) > 0 {
                return Err(Failure::fatal("it was tried again"));
            }
            let both = Barrier::new(2);
            let ends = std::thread::scope(|scope| {
                let threads = [["a", "b"], ["b", "a"]].map(|names| {
                    let both = &both;
                    scope.spawn(move || {
                        let _first = ctx.lock(names[0], X)?;
                        both.wait();
                        ctx.lock(names[1], X).map(drop)
                    })
                });
                threads.map(|thread| thread.join().unwrap())
            });
            assert_eq!(ends.iter().filter(|end| end.is_err()).count(), 1);
            ends.into_iter().collect::<Result<(), _>>()?;
            Ok(())
        });
        let dead = batch.unwrap().results().next().unwrap().unwrap().outcome.unwrap_err();
        assert_eq!((dead.reason(), dead.attempts()), (DeadReason::Exhausted, 1), "{dead}");
    });
}

/// What the outer item holds is in the way of the others as long as the inner one is tried again in place.
#[test]
fn a_victim_inside_an_item_is_the_outer_items() {
    within(|| {
        let engine = engine(2).retry(Retry::fixed(millis(1)).attempts(5)).open().unwrap();
        let meeting = Meeting::of(2);
        let inner = AtomicU32::new(0);
        let out = engine
            .batch("outer")
            .retry(ONCE)
            .map(0..2_u32, |n, ctx| {
                let names = if *n == 0 { ["a", "b"] } else { ["b", "a"] };
                let _first = ctx.lock(names[0], X)?;
                meeting.meet(ctx);
                let out = engine.map([()], |(), ctx| {
                    inner.fetch_add(1, Ordering::Relaxed);
                    let second = ctx.lock(names[1], X)?;
                    assert!(second.owner() == format!("outer/{n}"), "{second:?}");
                    Ok(())
                });
                for end in out {
                    end?;
                }
                Ok((ctx.attempt(), ctx.deferrals()))
            })
            .unwrap();
        let tries: Vec<_> = out.into_iter().map(|out| out.unwrap()).collect();
        // Once more, if it was back before the other had woken.
        let [(1, 0), (1, free @ 1..)] = tries[..] else { panic!("{tries:?}") };
        assert_eq!(inner.load(Ordering::Relaxed), 2 + free, "the inner item was tried again only with it");
    });
}

/// Two floors down: none of them is tried again in place.
#[test]
fn a_victim_two_items_down_ends_both() {
    within(|| {
        let engine = engine(1).retry(Retry::fixed(millis(1)).attempts(5)).open().unwrap();
        let deadlock = deadlock("two down");
        let (middle, inner) = (AtomicU32::new(0), AtomicU32::new(0));
        let out = engine
            .batch("outer")
            .retry(ONCE)
            .map(0..2_u32, |n, ctx| {
                if ctx.deferrals() == 0 && *n == 0 {
                    engine.try_map([()], |(), _| {
                        middle.fetch_add(1, Ordering::Relaxed);
                        engine.try_map([()], |(), _| {
                            inner.fetch_add(1, Ordering::Relaxed);
                            Err::<(), _>(Failure::retry(deadlock.clone()))
                        })?;
                        Ok(())
                    })?;
                } else if *n == 1 {
                    // The next item of the same worker is no victim.
                    return Err(Failure::retry("of its own"));
                }
                Ok(ctx.deferrals())
            })
            .unwrap();
        assert_eq!((middle.load(Ordering::Relaxed), inner.load(Ordering::Relaxed)), (1, 1));
        let [Ok(1), Err(dead)] = &out[..] else { panic!("{out:?}") };
        assert_eq!((dead.reason(), dead.attempts()), (DeadReason::Exhausted, 1), "{dead}");
    });
}

/// Whatever becomes of its guard: a lock goes back with the item.
#[test]
fn a_lock_whose_guard_is_forgotten_ends_with_its_item() {
    within(|| {
        let engine = Arc::new(engine(1).open().unwrap());
        let out = engine.map(0..3_u32, |_, ctx| {
            std::mem::forget(ctx.lock("l", X)?);
            assert!(matches!(ctx.lock("l", X), Err(LockError::Recursive { .. })), "not before its end");
            Ok(())
        });
        assert!(out.iter().all(Result::is_ok), "{out:?}");
        let outside = engine.locks().session();
        let is_free = || outside.try_lock("l", X).is_ok();
        assert!(is_free());
        // By an item inside, which ends before the outer one.
        let out = engine.map([()], |(), _| {
            for end in
                engine.map([()], |(), ctx| ctx.lock("l", X).map(std::mem::forget).map_err(Failure::from))
            {
                end?;
            }
            Ok(is_held(&engine))
        });
        assert!(matches!(out[..], [Ok(true)]) && is_free(), "{out:?}");
        // Without a context of its own.
        let there = Arc::clone(&engine);
        let out = engine.spawn(move || {
            there
                .map([()], |(), ctx| ctx.lock("l", X).map(std::mem::forget).map_err(Failure::from))
                .remove(0)
                .is_ok()
        });
        assert!(out.join().unwrap());
        until("its thread has ended it", is_free);
        // Who panics.
        let out = engine.batch("panics").retry(ONCE).map([()], |(), ctx| {
            std::mem::forget(ctx.lock("l", X)?);
            if ctx.attempt() == 1 {
                panic!("with the lock")
            }
            Ok(())
        });
        assert!(out.unwrap()[0].is_err() && is_free());
    });
}

/// Who was given up may still be at work with it.
#[test]
fn what_an_abandoned_attempt_has_locked_stays_so_until_it_returns() {
    within(|| {
        let time = ManualClock::new();
        let engine = engine(1).clock(time.clock()).open().unwrap();
        let (begin, begun) = channel();
        let (go, gone) = channel::<()>();
        let gone = Mutex::new(gone);
        let stuck =
            engine.batch("stuck").item_timeout(secs(1)).grace(secs(1)).submit([()], move |(), ctx| {
                let kept = ctx.lock("kept", X)?;
                std::mem::forget(ctx.lock("l", X)?);
                begin.send(()).unwrap();
                gone.lock().unwrap().recv().unwrap();
                drop(kept);
                Ok(())
            });
        begun.recv().unwrap();
        advance_until(&time, millis(500), "it is given up", || engine.stats().abandoned == 1);
        let asked = engine.map([()], |(), ctx| {
            let missed = ctx.lock_with("l", X, &LockWait::new().by(Deadline::NOW)).map(drop);
            assert!(matches!(missed, Err(LockError::TimedOut { .. })), "{missed:?}");
            Ok(())
        });
        assert!(asked[0].is_ok() && is_held(&engine), "{asked:?}");
        go.send(()).unwrap();
        until("it has returned", || engine.stats().late_results == 1);
        until("its locks are back", || !is_held(&engine));
        assert!(engine.locks().session().try_lock("kept", X).is_ok());
        drop(stuck);
    });
}

fn is_held(engine: &Engine) -> bool {
    engine.locks().session().try_lock("l", X).is_err()
}
