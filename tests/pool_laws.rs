//! `resource::Pool` under random programs: no permit is lost, no connection is forgotten, and never are more open than
//! the limit, whatever fails, panics or expires in between; one thread against what the manager counted, and many threads.

#![cfg(feature = "r2d2")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "real threads, as a user has them")]

#[path = "support/fake.rs"]
mod fake;

use batchyard::resource::{Pool, PoolError, PooledConnection};
use batchyard::{ManualClock, Priority, millis, secs};
use fake::{Fake, Script};
use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
enum Op {
    Get,
    Return(usize),
    Break(usize),
    Discard(usize),
    /// Its drop will panic, whenever that is.
    Arm(usize),
    ReturnInAPanic(usize),
    Later(u64),
    Sweep,
    Refuse(usize),
    DieUpTo(usize),
    PanicInConnect(bool),
    PanicInCheck(bool),
    PanicInHasBroken(bool),
    Limit(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let any_one = || any::<usize>();
    prop_oneof![
        8 => Just(Op::Get),
        6 => any_one().prop_map(Op::Return),
        1 => any_one().prop_map(Op::Break),
        1 => any_one().prop_map(Op::Discard),
        1 => any_one().prop_map(Op::Arm),
        1 => any_one().prop_map(Op::ReturnInAPanic),
        2 => (0..15u64).prop_map(Op::Later),
        2 => Just(Op::Sweep),
        1 => (0..3usize).prop_map(Op::Refuse),
        1 => (0..20usize).prop_map(Op::DieUpTo),
        1 => prop::bool::weighted(0.3).prop_map(Op::PanicInConnect),
        1 => prop::bool::weighted(0.3).prop_map(Op::PanicInCheck),
        1 => prop::bool::weighted(0.3).prop_map(Op::PanicInHasBroken),
        1 => (1..6u64).prop_map(Op::Limit),
    ]
}

/// The panics that the script makes are not worth a word each.
fn quiet() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let scripted = ["connect", "check", "has_broken", "drop"];
            if !panic.payload().downcast_ref::<&str>().is_some_and(|message| scripted.contains(message)) {
                loud(panic);
            }
        }));
    });
}

fn remove(out: &mut Vec<PooledConnection<Fake>>, i: usize) -> Option<PooledConnection<Fake>> {
    if out.is_empty() { None } else { Some(out.remove(i % out.len())) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost(
        ops in prop::collection::vec(op(), 1..120),
        size in 1..5u64,
        min_idle in 0..3usize,
        check_after in 0..6u64,
    ) {
        quiet();
        let (time, script) = (ManualClock::new(), Arc::<Script>::default());
        let pool = Pool::builder(Fake(script.clone()))
            .clock(time.clock())
            .max_size(size)
            .min_idle(min_idle.min(size as usize))
            .max_lifetime(secs(40))
            .idle_timeout(secs(10))
            .check_after(secs(check_after))
            .leak_after(secs(20))
            .build()
            .unwrap();
        let mut out = Vec::new();
        let mut lowered = false;
        for op in ops {
            match op {
                Op::Get => match pool.try_get() {
                    Ok(connection) => {
                        prop_assert!(connection.id > script.invalid_up_to.load(SeqCst) || check_after > 0
                            || connection.id == script.made.load(SeqCst), "dead");
                        out.push(connection);
                    }
                    Err(PoolError::Full) => prop_assert!(out.len() as u64 >= pool.quota().limit()),
                    Err(PoolError::Connect { .. } | PoolError::Panicked { .. }) => {}
                    Err(other) => return Err(TestCaseError::fail(other.to_string())),
                },
                Op::Return(i) => drop(remove(&mut out, i)),
                Op::Break(i) => if let Some(mut connection) = remove(&mut out, i) {
                    connection.broken = true;
                },
                Op::Discard(i) => if let Some(connection) = remove(&mut out, i) { connection.discard() },
                Op::Arm(i) => if let Some(mut connection) = remove(&mut out, i) {
                    connection.panics_when_dropped = true;
                    out.push(connection);
                },
                Op::ReturnInAPanic(i) => {
                    let connection = remove(&mut out, i);
                    let user = catch_unwind(AssertUnwindSafe(move || {
                        let _connection = connection;
                        std::panic::resume_unwind(Box::new(()));
                    }));
                    prop_assert!(user.is_err());
                }
                Op::Later(s) => time.advance(secs(s)),
                Op::Sweep => pool.sweep(),
                Op::Refuse(n) => script.refuse.store(n, SeqCst),
                Op::DieUpTo(id) => script.invalid_up_to.store(id, SeqCst),
                Op::PanicInConnect(on) => script.panic_in_connect.store(on, SeqCst),
                Op::PanicInCheck(on) => script.panic_in_check.store(on, SeqCst),
                Op::PanicInHasBroken(on) => script.panic_in_has_broken.store(on, SeqCst),
                Op::Limit(limit) => {
                    lowered |= limit < pool.quota().limit();
                    pool.quota().set_limit(limit).unwrap();
                }
            }
            let (stats, alive) = (pool.stats(), script.alive.load(SeqCst) as u64);
            prop_assert_eq!(pool.quota().in_use(), out.len() as u64, "a permit for each connection out");
            prop_assert_eq!((stats.idle + stats.in_use, stats.in_use), (alive, out.len() as u64));
            prop_assert_eq!(stats.opened - stats.closed.total(), alive);
            if !lowered {
                prop_assert!(alive <= stats.limit);
            }
        }
        out.clear();
        pool.sweep();
        prop_assert_eq!(pool.quota().available() as u64, pool.quota().limit());
        prop_assert!(script.alive.load(SeqCst) as u64 <= pool.quota().limit());
        pool.close();
        prop_assert_eq!((script.alive.load(SeqCst), pool.stats().idle), (0, 0));
        prop_assert_eq!(pool.stats().opened, pool.stats().closed.total());
    }
}

/// Timeouts as long as the usual wait, connections that die in each way, panics everywhere, sweeps all the time.
#[test]
fn a_storm_loses_nothing_and_opens_no_more_than_the_limit() {
    const SIZE: u64 = 3;
    quiet();
    let script = Arc::<Script>::default();
    let pool = Pool::builder(Fake(script.clone()))
        .max_size(SIZE)
        .min_idle(2)
        .max_lifetime(millis(3))
        .idle_timeout(millis(1))
        .leak_after(millis(1))
        .backoff(Duration::from_micros(1)..Duration::from_micros(50))
        .build()
        .unwrap();
    let over = AtomicBool::new(false);
    let served: u64 = thread::scope(|s| {
        let users: Vec<_> = (1..=6u64)
            .map(|seed| {
                let (pool, script) = (&pool, &script);
                s.spawn(move || {
                    let (start, mut served, mut x) = (Instant::now(), 0, seed);
                    while start.elapsed() < millis(500) {
                        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        let patience = Duration::from_nanos((x >> 33) % 200_000);
                        let priority =
                            [Priority::Low, Priority::Normal, Priority::High][(x >> 20) as usize % 3];
                        match (x >> 40) % 64 {
                            0 => script.refuse.store(2, SeqCst),
                            1 => script.invalid_up_to.store(script.made.load(SeqCst), SeqCst),
                            _ => {}
                        }
                        match pool.get_with(priority, patience) {
                            Ok(mut connection) => {
                                served += 1;
                                match (x >> 46) % 16 {
                                    0 => connection.broken = true,
                                    1 => connection.panics_when_dropped = true,
                                    2 => connection.discard(),
                                    3 => thread::yield_now(),
                                    _ => {}
                                }
                            }
                            Err(PoolError::TimedOut { .. } | PoolError::Connect { .. }) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                    served
                })
            })
            .collect();
        let sweeper = s.spawn(|| {
            while !over.load(SeqCst) {
                pool.sweep();
                thread::yield_now();
            }
        });
        let served = users.into_iter().map(|user| user.join().unwrap()).sum();
        over.store(true, SeqCst);
        sweeper.join().unwrap();
        served
    });
    assert!(served > 0);
    assert!(script.peak.load(SeqCst) as u64 <= SIZE, "{} were open", script.peak.load(SeqCst));
    let stats = pool.stats();
    assert_eq!((pool.quota().available(), pool.quota().waiting(), stats.in_use), (SIZE as i64, 0, 0));
    assert_eq!(script.alive.load(SeqCst) as u64, stats.idle);
    // Still all there.
    let all: Vec<_> = (0..SIZE).map(|_| pool.get().unwrap()).collect();
    assert_eq!(all.len() as u64, SIZE);
}
