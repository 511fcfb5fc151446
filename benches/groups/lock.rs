//! `lock::RwLock` against parking_lot's.
//!
//! Uncontended: one thread, one lock, a pair of taking and giving back; unlevelled, and with a level that is checked. Contended:
//! each thread adds one to a number under the lock, again and again. Read mostly: of twenty that come, one writes. How evenly
//! waiters are served is in `lock_fair`.

use super::lock_fair;
use crate::common::rounds::{Contest, Plan, hold as hold_rounds, operation};
use crate::common::row::Row;
use batchyard::lock::{Level, RwLock};
use batchyard::lock_order;
use std::hint::black_box;

lock_order! { Bench: Only }

const UNLEVELLED: f64 = 1.1;
const LEVELLED: f64 = 1.3;
/// A throughput of 0.9 of the peer's.
const CONTENDED: f64 = 1.0 / 0.9;
const READ_MOSTLY: f64 = 1.0;
const SOUND: &str = "in order, and not held by this thread";

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    let (plain, levelled) = (RwLock::new(0u64), RwLock::<u64, Only>::of(0));
    let theirs = parking_lot::RwLock::new(0u64);
    let (plain, levelled, theirs) = (&plain, &levelled, &theirs);
    do_their_work(plain, levelled, theirs);
    let one = 1;
    let mut contests = vec![
        Contest::new(
            "read",
            one,
            UNLEVELLED,
            operation(one, || || *black_box(&*plain.read().expect(SOUND)) < u64::MAX),
        )
        .against("parking_lot", operation(one, || || *black_box(&*theirs.read()) < u64::MAX)),
        Contest::new(
            "read, levelled",
            one,
            LEVELLED,
            operation(one, || || *black_box(&*levelled.read().expect(SOUND)) < u64::MAX),
        )
        .against("parking_lot", operation(one, || || *black_box(&*theirs.read()) < u64::MAX)),
        Contest::new("write", one, UNLEVELLED, operation(one, || || add_ours(plain)))
            .against("parking_lot", operation(one, || || add(theirs))),
        Contest::new("write, levelled", one, LEVELLED, operation(one, || || add_ours(levelled)))
            .against("parking_lot", operation(one, || || add(theirs))),
        Contest::new(
            "upgradable, upgrade, downgrade",
            one,
            UNLEVELLED,
            operation(one, || {
                || {
                    let upgraded = plain.upgradable().expect(SOUND).upgrade();
                    let mut write = upgraded.map_err(|error| error.why).expect(SOUND);
                    *black_box(&mut *write) += 1;
                    *write.downgrade_to_upgradable() > 0
                }
            }),
        )
        .against(
            "parking_lot",
            operation(one, || {
                || {
                    let mut write = parking_lot::RwLockUpgradableReadGuard::upgrade(theirs.upgradable_read());
                    *black_box(&mut *write) += 1;
                    *parking_lot::RwLockWriteGuard::downgrade_to_upgradable(write) > 0
                }
            }),
        ),
    ];
    for threads in [2, 4, 8] {
        contests.push(
            Contest::new(
                "contended increments",
                threads,
                CONTENDED,
                operation(threads, || || add_ours(plain)),
            )
            .against("parking_lot", operation(threads, || || add(theirs))),
        );
        contests.push(
            Contest::new(
                "read mostly, 95 of 100",
                threads,
                READ_MOSTLY,
                operation(threads, || {
                    let mut turn = 0;
                    move || {
                        turn = (turn + 1) % 20;
                        if turn == 0 { add_ours(plain) } else { *plain.read().expect(SOUND) < u64::MAX }
                    }
                }),
            )
            .against(
                "parking_lot",
                operation(threads, || {
                    let mut turn = 0;
                    move || {
                        turn = (turn + 1) % 20;
                        if turn == 0 { add(theirs) } else { *theirs.read() < u64::MAX }
                    }
                }),
            ),
        );
    }
    contests.extend(lock_fair::contests());
    hold_rounds(group, plan, contests)
}

/// Shared with those that share, and with nobody else.
fn do_their_work(plain: &RwLock<u64>, levelled: &RwLock<u64, Only>, theirs: &parking_lot::RwLock<u64>) {
    let elsewhere =
        |look: &(dyn Fn() -> bool + Sync)| std::thread::scope(|s| s.spawn(look).join().expect("no panic"));
    let shared = || plain.try_read().is_ok() && levelled.try_read().is_ok() && theirs.try_read().is_some();
    let alone = || plain.try_write().is_ok() || levelled.try_write().is_ok() || theirs.try_write().is_some();
    let read = (plain.read(), levelled.read(), theirs.read());
    assert!(elsewhere(&shared) && !elsewhere(&alone));
    drop(read);
    assert!(elsewhere(&alone));
}

fn add_ours<L: Level>(lock: &RwLock<u64, L>) -> bool {
    *black_box(&mut *lock.write().expect(SOUND)) += 1;
    true
}

fn add(lock: &parking_lot::RwLock<u64>) -> bool {
    *black_box(&mut *lock.write()) += 1;
    true
}
