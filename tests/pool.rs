//! `resource::Pool` on a scripted manager: deadlines, lifetimes and leaks on a manual clock, close, panics, order.
//! `tests/pool_sqlite.rs` has a real database, `tests/pool_laws.rs` random programs.

#![cfg(feature = "r2d2")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "real threads, as a user has them")]

#[path = "support/fake.rs"]
mod fake;

use batchyard::resource::{Pool, PoolBuilder, PoolError, PooledConnection};
use batchyard::{Deadline, ManualClock, Priority, Quota, millis, secs};
use fake::{Fake, Script};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

type Error = PoolError<fake::Refused>;

struct Bench {
    time: ManualClock,
    script: Arc<Script>,
}

fn bench() -> Bench {
    Bench { time: ManualClock::new(), script: Arc::default() }
}

impl Bench {
    fn builder(&self) -> PoolBuilder<Fake> {
        Pool::builder(Fake(self.script.clone())).clock(self.time.clock())
    }

    fn pool(&self, size: u64) -> Pool<Fake> {
        self.builder().max_size(size).build().expect("a pool")
    }

    fn alive(&self) -> usize {
        self.script.alive.load(SeqCst)
    }
}

/// Waits until so many calls wait.
fn wait_for(pool: &Pool<Fake>, waiting: u64) {
    let start = Instant::now();
    while pool.stats().waiting != waiting {
        assert!(start.elapsed() < secs(20), "{} wait, not {waiting}", pool.stats().waiting);
        thread::yield_now();
    }
}

fn ids(connections: &[PooledConnection<Fake>]) -> Vec<usize> {
    connections.iter().map(|connection| connection.id).collect()
}

#[test]
fn settings_are_checked() {
    let b = bench();
    let field = |builder: PoolBuilder<Fake>| match builder.build() {
        Err(PoolError::Invalid(wrong)) => wrong.field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(b.builder().max_size(0)), "max_size");
    assert_eq!(field(b.builder().max_size(40_000)), "max_size");
    assert_eq!(field(b.builder().quota(Quota::new(40_000).unwrap())), "quota");
    assert_eq!(field(b.builder().quota(Quota::new(4).unwrap()).max_size(4)), "max_size");
    assert_eq!(field(b.builder().max_size(4).min_idle(5)), "min_idle");
    let reserved = Quota::builder(10).reserve_for(Priority::High, 5).build().unwrap();
    assert_eq!(field(b.builder().quota(reserved.clone()).min_idle(6)), "min_idle");
    assert_eq!(b.builder().quota(reserved).min_idle(5).build().unwrap().stats().idle, 5);
    assert_eq!(field(b.builder().timeout(Duration::ZERO)), "timeout");
    assert_eq!(field(b.builder().max_lifetime(Duration::ZERO)), "max_lifetime");
    assert_eq!(field(b.builder().idle_timeout(Duration::ZERO)), "idle_timeout");
    assert_eq!(field(b.builder().leak_after(Duration::ZERO)), "leak_after");
    assert_eq!(field(b.builder().backoff(secs(2)..secs(1))), "backoff");
    assert_eq!(field(b.builder().backoff(Duration::ZERO..secs(1))), "backoff");
    let all_off =
        b.builder().max_lifetime(None).idle_timeout(None).leak_after(None).check_after(Duration::MAX);
    drop(all_off.build().unwrap().get().unwrap());
    assert_eq!(b.script.checks.load(SeqCst), 0);
}

#[test]
fn handles_and_connections_cross_threads() {
    fn is<T: Send + 'static>() {}
    fn is_sync<T: Send + Sync + 'static>() {}
    is_sync::<Pool<Fake>>();
    is::<PooledConnection<Fake>>();
    let b = bench();
    let pool = b.pool(1);
    let connection = pool.get().unwrap();
    let other = pool.clone();
    drop(pool);
    thread::spawn(move || drop(connection)).join().unwrap();
    assert_eq!(other.stats().idle, 1);
    let last = other.get().unwrap();
    drop(other);
    assert_eq!((last.id, b.alive()), (1, 1));
    drop(last);
    assert_eq!(b.alive(), 0);
}

#[test]
fn connections_are_opened_when_needed_and_the_last_used_is_used_again() {
    let b = bench();
    let pool = b.pool(3);
    assert_eq!(b.alive(), 0);
    let mut out: Vec<_> = (0..3).map(|_| pool.get().unwrap()).collect();
    assert_eq!(ids(&out), [1, 2, 3]);
    assert!(matches!(pool.try_get(), Err(Error::Full)));
    let middle = out.remove(1);
    drop(out);
    drop(middle);
    let stats = pool.stats();
    assert_eq!((stats.idle, stats.in_use, stats.opened, stats.limit), (3, 0, 3, 3));
    assert_eq!(pool.get().unwrap().id, 2);
    assert_eq!(pool.try_get().unwrap().id, 2);
    pool.get().unwrap().discard();
    assert_eq!(ids(&(0..3).map(|_| pool.get().unwrap()).collect::<Vec<_>>()), [3, 1, 4]);
    let stats = pool.stats();
    assert_eq!((stats.closed.discarded, stats.closed.total(), stats.opened), (1, 1, 4));
}

#[test]
fn a_deadline_ends_the_wait_and_not_before() {
    let b = bench();
    let pool = b.builder().max_size(1).timeout(secs(3)).build().unwrap();
    let held = pool.get().unwrap();
    thread::scope(|s| {
        let waiter = s.spawn(|| pool.get());
        b.time.wait_for_sleepers(1);
        b.time.advance(secs(2));
        assert_eq!((pool.stats().waiting, b.time.sleepers()), (1, 1));
        b.time.advance(secs(1));
        assert!(matches!(waiter.join().unwrap(), Err(Error::TimedOut { waited }) if waited == secs(3)));
    });
    assert!(matches!(pool.get_by(Deadline::NOW), Err(Error::TimedOut { .. })));
    thread::scope(|s| {
        let waiter = s.spawn(|| pool.get_by(secs(5)).map(|connection| connection.id));
        b.time.wait_for_sleepers(1);
        b.time.advance(secs(1));
        drop(held);
        assert_eq!(waiter.join().unwrap().unwrap(), 1);
    });
    let stats = pool.stats();
    assert_eq!((stats.timed_out, stats.waits.count, stats.waits.max), (2, 1, secs(1)));
    assert_eq!(pool.quota().available(), 1);
}

/// Also where nobody waits.
#[test]
fn a_reserve_is_left_by_lower_classes() {
    let b = bench();
    let quota = Quota::builder(2).reserve_for(Priority::Normal, 1).build().unwrap();
    let pool = b.builder().quota(quota).build().unwrap();
    let _low = pool.get_with(Priority::Low, Deadline::NOW).unwrap();
    assert!(matches!(pool.get_with(Priority::Low, Deadline::NOW), Err(Error::TimedOut { .. })));
    assert!(pool.get_with(Priority::Normal, Deadline::NOW).is_ok());
}

#[test]
fn who_waits_is_served_by_priority_then_by_arrival() {
    let b = bench();
    let pool = b.pool(1);
    let (tx, rx) = mpsc::channel();
    let held = pool.get().unwrap();
    use Priority::{High, Low, Normal};
    thread::scope(|s| {
        for (i, priority) in [Low, Normal, High, Normal, High, Normal].into_iter().enumerate() {
            let (tx, pool) = (tx.clone(), &pool);
            s.spawn(move || {
                let connection = pool.get_with(priority, Deadline::NEVER).unwrap();
                tx.send(i).unwrap();
                drop(connection);
            });
            wait_for(pool, i as u64 + 1);
        }
        drop(held);
    });
    assert_eq!(rx.try_iter().collect::<Vec<_>>(), [2, 4, 1, 3, 5, 0]);
    assert_eq!(pool.stats().opened, 1);
}

/// Moves the time whenever somebody sleeps, until the call has returned.
fn with_moving_time<R: Send>(time: &ManualClock, step: Duration, call: impl FnOnce() -> R + Send) -> R {
    thread::scope(|s| {
        let call = s.spawn(call);
        while !call.is_finished() {
            if time.sleepers() > 0 {
                time.advance(step);
            }
            thread::yield_now();
        }
        call.join().unwrap()
    })
}

#[test]
fn who_cannot_connect_tries_until_the_deadline() {
    let b = bench();
    b.script.refuse.store(usize::MAX, SeqCst);
    let pool = b.builder().max_size(1).backoff(millis(10)..secs(1)).build().unwrap();
    let failed = with_moving_time(&b.time, millis(5), || pool.get_by(secs(10)).unwrap_err());
    let Error::Connect { source, attempts, waited } = failed else { panic!("{failed:?}") };
    assert_eq!(source, fake::Refused("no"));
    assert!(attempts > 8 && waited < millis(10_005) && waited > secs(8), "{attempts} in {waited:?}");
    assert!(matches!(pool.try_get(), Err(Error::Connect { attempts: 1, .. })));
    let stats = pool.stats();
    assert_eq!((stats.failed_to_open, stats.opened, stats.timed_out), (u64::from(attempts) + 1, 0, 1));
    assert_eq!((stats.last_error.as_deref(), stats.in_use), (Some("no"), 0));
    assert_eq!(pool.quota().available(), 1);
    // It comes back by itself.
    b.script.refuse.store(5, SeqCst);
    let got = with_moving_time(&b.time, millis(1), || pool.get_by(Deadline::NEVER).unwrap().id);
    assert_eq!(got, 1);
}

#[test]
fn who_waits_between_attempts_gets_what_comes_back_and_the_first_first() {
    let b = bench();
    let pool = b.builder().max_size(4).backoff(secs(1_000)..secs(1_000)).build().unwrap();
    let held = pool.get().unwrap();
    b.script.refuse.store(usize::MAX, SeqCst);
    let (tx, rx) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = &Mutex::new(may_go);
    thread::scope(|s| {
        let pool = &pool;
        for i in 1..=2 {
            let tx = tx.clone();
            s.spawn(move || {
                let connection = pool.get_by(Deadline::NEVER).unwrap();
                tx.send((i, connection.id)).unwrap();
                may_go.lock().unwrap().recv().unwrap();
                drop(connection);
            });
            b.time.wait_for_sleepers(i);
            b.time.advance(Duration::from_nanos(1));
        }
        drop(held);
        assert_eq!(rx.recv().unwrap(), (1, 1));
        // Nothing is left for who comes later.
        assert!(matches!(pool.try_get(), Err(Error::Connect { .. })));
        go.send(()).unwrap();
        assert_eq!(rx.recv().unwrap(), (2, 1));
        go.send(()).unwrap();
    });
    assert_eq!((pool.stats().idle, pool.stats().opened, pool.quota().available()), (1, 1, 4));
}

#[test]
fn an_attempt_that_succeeds_late_is_given() {
    let b = bench();
    let pool = b.pool(1);
    let time = b.time.clone();
    *b.script.while_connecting.lock().unwrap() = Some(Arc::new(move |_| time.advance(secs(60))));
    assert_eq!(pool.get_by(secs(1)).unwrap().id, 1);
}

#[test]
fn dead_connections_are_replaced_before_they_are_handed_out() {
    let b = bench();
    let pool = b.pool(3);
    let out: Vec<_> = (0..3).map(|_| pool.get().unwrap()).collect();
    drop(out);
    b.script.invalid_up_to.store(3, SeqCst);
    assert_eq!(pool.get().unwrap().id, 4);
    let mut broken = pool.get().unwrap();
    broken.broken = true;
    drop(broken);
    let stats = pool.stats();
    assert_eq!((stats.closed.invalid, stats.closed.broken, stats.opened, stats.idle), (3, 1, 4, 0));
    assert_eq!((stats.last_error.as_deref(), b.alive()), (Some("dead"), 0));
}

#[test]
fn the_time_spent_on_dead_connections_counts() {
    let b = bench();
    let pool = b.pool(3);
    drop((0..3).map(|_| pool.get().unwrap()).collect::<Vec<_>>());
    b.script.invalid_up_to.store(3, SeqCst);
    let time = b.time.clone();
    *b.script.while_checking.lock().unwrap() = Some(Arc::new(move |_| time.advance(secs(4))));
    let failed = pool.get_by(secs(6)).unwrap_err();
    assert!(matches!(failed, Error::TimedOut { waited } if waited == secs(8)), "{failed:?}");
    assert_eq!((pool.quota().available(), pool.stats().idle), (3, 1));
}

#[test]
fn a_check_is_made_outside_any_lock() {
    let b = bench();
    let pool = b.pool(2);
    drop((pool.get().unwrap(), pool.get().unwrap()));
    let (in_check, entered) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let (in_check, may_go) = (Mutex::new(in_check), Mutex::new(may_go));
    *b.script.while_checking.lock().unwrap() = Some(Arc::new(move |id| {
        if id == 2 {
            in_check.lock().unwrap().send(()).unwrap();
            may_go.lock().unwrap().recv().unwrap();
        }
    }));
    thread::scope(|s| {
        let slow = s.spawn(|| pool.get().unwrap().id);
        entered.recv().unwrap();
        // The other one is given, used, brought back, looked at and counted meanwhile.
        for _ in 0..3 {
            assert_eq!(pool.get().unwrap().id, 1);
        }
        pool.sweep();
        assert_eq!((pool.stats().idle, pool.stats().in_use), (1, 1));
        go.send(()).unwrap();
        assert_eq!(slow.join().unwrap(), 2);
    });
}

#[test]
fn fresh_connections_are_not_checked_where_that_is_wanted() {
    let b = bench();
    let pool = b.builder().check_after(secs(1)).build().unwrap();
    drop(pool.get().unwrap());
    b.time.advance(millis(999));
    drop(pool.get().unwrap());
    assert_eq!(b.script.checks.load(SeqCst), 0);
    b.time.advance(secs(1));
    drop(pool.get().unwrap());
    assert_eq!(b.script.checks.load(SeqCst), 1);
}

#[test]
fn lifetimes_end_apart() {
    let b = bench();
    let pool = b.builder().max_size(100).max_lifetime(secs(100)).idle_timeout(None).build().unwrap();
    drop((0..100).map(|_| pool.get().unwrap()).collect::<Vec<_>>());
    b.time.advance(secs(90));
    pool.sweep();
    assert_eq!(b.alive(), 100);
    b.time.advance(secs(5));
    pool.sweep();
    let half = b.alive();
    assert!((20..=80).contains(&half), "{half}");
    b.time.advance(secs(5));
    pool.sweep();
    assert_eq!((b.alive(), pool.stats().closed.lifetime, pool.quota().available()), (0, 100, 100));
}

#[test]
fn a_lifetime_ends_when_its_connection_is_brought_back_or_taken() {
    let b = bench();
    let pool = b.builder().max_size(1).max_lifetime(secs(100)).idle_timeout(None).build().unwrap();
    let used = pool.get().unwrap();
    b.time.advance(secs(100));
    assert_eq!((used.id, b.alive()), (1, 1));
    drop(used);
    assert_eq!(b.alive(), 0);
    drop(pool.get().unwrap());
    b.time.advance(secs(100));
    assert_eq!(pool.get().unwrap().id, 3);
    assert_eq!(pool.stats().closed.lifetime, 2);
}

#[test]
fn idle_connections_end_by_whoever_comes_by() {
    let b = bench();
    let pool = b.builder().max_size(4).idle_timeout(secs(10)).build().unwrap();
    drop((0..4).map(|_| pool.get().unwrap()).collect::<Vec<_>>());
    let warm = |n: u64| {
        for _ in 0..n {
            b.time.advance(secs(1));
            drop(pool.get().unwrap());
        }
    };
    // One is used all the time; the upkeep, every 5 s here, finds the others.
    warm(9);
    assert_eq!(b.alive(), 4);
    warm(6);
    assert_eq!((b.alive(), pool.stats().closed.idle, pool.stats().opened), (1, 3, 4));
    // Nobody comes by: then it is not handed out.
    let kept = pool.get().unwrap().id;
    b.time.advance(secs(10));
    assert_eq!((pool.get().unwrap().id, pool.stats().closed.idle), (5, 4), "instead of {kept}");
}

#[test]
fn a_minimum_is_opened_kept_and_refilled() {
    let b = bench();
    let pool = b.builder().max_size(5).min_idle(3).idle_timeout(secs(10)).build().unwrap();
    assert_eq!((b.alive(), pool.stats().idle), (3, 3));
    drop((0..5).map(|_| pool.get().unwrap()).collect::<Vec<_>>());
    b.time.advance(secs(10));
    pool.sweep();
    assert_eq!((b.alive(), pool.stats().closed.idle), (3, 2));
    let out = (pool.get().unwrap(), pool.get().unwrap());
    pool.sweep();
    assert_eq!((b.alive(), pool.stats().idle), (5, 3));
    let more = pool.get().unwrap();
    // No room for another.
    pool.sweep();
    assert_eq!((b.alive(), pool.stats().idle), (5, 2));
    drop((out, more));
    // The one of the three that was not used is spare now.
    pool.sweep();
    assert_eq!((b.alive(), pool.quota().available()), (4, 5));
    b.script.refuse.store(usize::MAX, SeqCst);
    for _ in 0..4 {
        pool.get().unwrap().discard();
    }
    pool.sweep();
    assert_eq!((b.alive(), pool.quota().available(), pool.stats().failed_to_open), (0, 5, 1));
    let unmet = with_moving_time(&b.time, millis(1), || b.builder().min_idle(1).timeout(millis(5)).build());
    assert!(matches!(unmet, Err(Error::Connect { .. })), "{unmet:?}");
}

#[test]
fn close_refuses_all_who_ask_or_wait_and_closes_what_is_open() {
    let b = bench();
    let pool = b.pool(2);
    let out = pool.get().unwrap();
    thread::scope(|s| {
        let taken = pool.get().unwrap();
        let waiters: Vec<_> = (0..3).map(|_| s.spawn(|| pool.get())).collect();
        wait_for(&pool, 3);
        pool.close();
        for waiter in waiters {
            assert!(matches!(waiter.join().unwrap(), Err(Error::Closed)));
        }
        drop(taken);
    });
    assert!(pool.is_closed());
    assert_eq!(b.alive(), 1);
    assert!(matches!(pool.get(), Err(Error::Closed)));
    assert!(matches!(pool.try_get(), Err(Error::Closed)));
    pool.sweep();
    drop(out);
    assert_eq!((b.alive(), pool.stats().closed.pool_closed, pool.quota().in_use()), (0, 2, 0));
    pool.close();
    let pool = b.pool(2);
    drop((pool.get().unwrap(), pool.get().unwrap()));
    pool.close();
    assert_eq!((b.alive(), pool.stats().closed.pool_closed), (0, 2));
}

#[test]
fn what_is_being_closed_counts_until_it_is_gone() {
    let b = bench();
    let pool = b.builder().max_size(2).idle_timeout(secs(10)).build().unwrap();
    drop((pool.get().unwrap(), pool.get().unwrap()));
    b.time.advance(secs(10));
    let (in_drop, seen) = (pool.clone(), Arc::new(Mutex::new(Vec::new())));
    let saw = seen.clone();
    *b.script.while_dropping.lock().unwrap() = Some(Arc::new(move |_| {
        let full = matches!(in_drop.try_get(), Err(Error::Full));
        saw.lock().unwrap().push(full);
    }));
    pool.sweep();
    b.script.while_dropping.lock().unwrap().take();
    // While the first goes the other waits to go, while that goes there is room for one.
    assert_eq!(*seen.lock().unwrap(), [true, false]);
    assert_eq!((b.script.peak.load(SeqCst), pool.stats().closed.idle), (2, 2));
}

#[test]
fn close_wakes_who_waits_between_attempts_and_drops_what_is_just_opened() {
    let b = bench();
    b.script.refuse.store(usize::MAX, SeqCst);
    let pool = b.builder().max_size(2).backoff(secs(1_000)..secs(1_000)).build().unwrap();
    thread::scope(|s| {
        let dozing = s.spawn(|| pool.get_by(Deadline::NEVER));
        b.time.wait_for_sleepers(1);
        pool.close();
        assert!(matches!(dozing.join().unwrap(), Err(Error::Closed)));
    });
    let b = bench();
    let pool = b.pool(1);
    let closing = pool.clone();
    *b.script.while_connecting.lock().unwrap() = Some(Arc::new(move |_| closing.close()));
    assert!(matches!(pool.get(), Err(Error::Closed)));
    assert_eq!(b.alive(), 0);
    b.script.while_connecting.lock().unwrap().take();
}

#[test]
fn what_the_upkeep_opens_goes_to_who_waits_between_attempts() {
    let b = bench();
    let pool = b.builder().max_size(3).min_idle(1).backoff(secs(1_000)..secs(1_000)).build().unwrap();
    let _first = pool.get().unwrap();
    b.script.refuse.store(usize::MAX, SeqCst);
    let (got, gets) = mpsc::channel();
    thread::scope(|s| {
        s.spawn(|| got.send(pool.get_by(Deadline::NEVER)));
        b.time.wait_for_sleepers(1);
        b.script.refuse.store(0, SeqCst);
        pool.sweep();
        let connection = gets.recv_timeout(secs(20));
        pool.close();
        assert_eq!(connection.expect("handed over").expect("open").id, 2);
    });
}

#[test]
fn a_given_quota_stays_open() {
    let b = bench();
    let quota = Quota::with_clock(1, b.time.clock()).unwrap();
    let pool = b.builder().quota(quota.clone()).build().unwrap();
    let other = b.builder().quota(quota.clone()).build().unwrap();
    drop(pool.get().unwrap());
    pool.close();
    assert!(matches!(pool.get(), Err(Error::Closed)));
    assert_eq!(other.get().unwrap().id, 2);
    assert_eq!(quota.in_use(), 0);
    quota.close();
    assert!(matches!(other.get(), Err(Error::Quota(_))));
}

#[test]
fn leaks_are_reported_once_with_the_place_that_took_them() {
    let b = bench();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ears = heard.clone();
    let pool = b
        .builder()
        .max_size(2)
        .timeout(secs(5))
        .leak_after(secs(60))
        .on_leak(move |held| {
            ears.lock().unwrap().push((held.taken_at.file(), held.taken_at.line(), held.held_for));
            panic!("the listener's own");
        })
        .build()
        .unwrap();
    let line = line!() + 1;
    let leaked = pool.get().unwrap();
    let used = pool.try_get().unwrap();
    b.time.advance(secs(59));
    assert_eq!(pool.held().len(), 2);
    assert_eq!(pool.held()[0].held_for, secs(59));
    drop(used);
    b.time.advance(secs(1));
    // Who comes by tells, once.
    drop(pool.get().unwrap());
    drop(pool.get().unwrap());
    pool.sweep();
    assert_eq!(*heard.lock().unwrap(), [(file!(), line, secs(60))]);
    assert_eq!((pool.stats().leaks, pool.stats().leaks_returned, pool.stats().panics), (1, 0, 1));
    drop(leaked);
    assert_eq!((pool.stats().leaks_returned, pool.held().len()), (1, 0));
    // Who waits in vain looks why.
    let _both = (pool.get().unwrap(), pool.get().unwrap());
    b.time.advance(secs(58));
    thread::scope(|s| {
        let waiter = s.spawn(|| pool.get());
        b.time.wait_for_sleepers(1);
        b.time.advance(secs(5));
        assert!(matches!(waiter.join().unwrap(), Err(Error::TimedOut { .. })));
    });
    assert_eq!(heard.lock().unwrap().len(), 3);
}

#[test]
fn panics_of_the_manager_and_of_connections_cost_no_permit() {
    let b = bench();
    let pool = b.pool(1);
    let script = &b.script;
    script.panic_in_connect.store(true, SeqCst);
    let failed = pool.try_get().unwrap_err();
    assert!(
        matches!(&failed, Error::Panicked { message, attempts: 1, .. } if message == "connect"),
        "{failed}"
    );
    script.panic_in_connect.store(false, SeqCst);

    drop(pool.get().unwrap());
    script.panic_in_check.store(true, SeqCst);
    assert_eq!(pool.get().unwrap().id, 2);
    script.panic_in_check.store(false, SeqCst);

    script.panic_in_has_broken.store(true, SeqCst);
    drop(pool.get().unwrap());
    script.panic_in_has_broken.store(false, SeqCst);
    assert_eq!((pool.stats().closed.invalid, pool.stats().closed.broken, pool.stats().idle), (1, 1, 0));

    let mut connection = pool.get().unwrap();
    connection.panics_when_dropped = true;
    connection.discard();
    let mut connection = pool.get().unwrap();
    connection.panics_when_dropped = true;
    // And while its user panics.
    let user = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut connection = connection;
        connection.broken = true;
        panic!("the user's own");
    }));
    assert!(user.is_err());
    let mut connection = pool.get().unwrap();
    connection.panics_when_dropped = true;
    drop(connection);
    assert_eq!((pool.stats().panics, pool.quota().available(), pool.stats().idle), (5, 1, 1));
    drop(pool);
    assert_eq!(b.alive(), 0);
}

#[test]
fn a_limit_lowered_closes_and_raised_opens() {
    let b = bench();
    let pool = b.pool(4);
    let mut out: Vec<_> = (0..4).map(|_| pool.get().unwrap()).collect();
    pool.quota().set_limit(2).unwrap();
    out.pop();
    out.pop();
    assert_eq!((b.alive(), pool.stats().closed.surplus), (2, 2));
    out.pop();
    assert_eq!((b.alive(), pool.stats().idle), (2, 1));
    drop(out);
    pool.quota().set_limit(1).unwrap();
    pool.sweep();
    assert_eq!((b.alive(), pool.stats().closed.surplus), (1, 3));
    pool.quota().set_limit(6).unwrap();
    let out: Vec<_> = (0..6).map(|_| pool.get().unwrap()).collect();
    assert_eq!(b.alive(), 6);
    drop(out);
    // It has slots for four.
    assert_eq!((b.alive(), pool.stats().idle, pool.stats().closed.surplus), (4, 4, 5));
    assert_eq!(pool.quota().available(), 6);
}
