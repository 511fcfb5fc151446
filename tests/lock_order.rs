//! The order of locks: what a thread may take while it holds something, by check and by token; several at once.

// What a user of the crate holds; the house rules on clocks and threads are for `src/`.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

mod support;

use batchyard::lock::{LockError, Mutex, OnViolation, Order, RwLock};
use batchyard::{lock_all, lock_order};
use std::thread;
use support::within;

lock_order! { Yard: Gate < { Shed | Barn } < Ledger }

#[test]
fn the_order_is_kept() {
    let gate: RwLock<u8, Gate> = RwLock::of(0);
    let shed: RwLock<u8, Shed> = RwLock::of(0);
    let barn: Mutex<u8, Barn> = Mutex::of(0);
    let ledger: RwLock<u8, Ledger> = RwLock::of(0);
    let upwards = (gate.read().unwrap(), shed.write().unwrap(), ledger.upgradable().unwrap());
    drop(upwards);
    let held = shed.read().unwrap();
    for refused in [gate.write().map(drop), barn.lock().map(drop)] {
        let Err(LockError::Order(violation)) = refused else { panic!("{refused:?}") };
        assert_eq!(violation.held(), "Yard::Shed");
        assert!(["Yard::Gate", "Yard::Barn"].contains(&&*violation.wanted()));
        assert!(violation.held_at().line() < violation.at().line());
    }
    // The same lock once more is no matter of order, nor is one of no order.
    drop((shed.read().unwrap(), RwLock::<u8>::new(0).write().unwrap()));
    drop(held);
    drop(gate.write().unwrap());
}

#[test]
fn what_is_done_about_a_violation() {
    lock_order! { House: Door < Safe }
    let (door, safe): (RwLock<u8, Door>, RwLock<u8, Safe>) = (RwLock::of(0), RwLock::of(0));
    let held = safe.read().unwrap();
    assert!(door.read().is_err());
    House::on_violation(OnViolation::Log);
    drop(door.read().unwrap());
    House::on_violation(OnViolation::Panic);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(door.read()))).is_err());
    House::on_violation(OnViolation::Error);
    assert!(door.read().is_err());
    drop(held);
}

/// Which of two orders is inside the other is learned from who comes first, through third ones as well.
#[test]
fn orders_learn_of_each_other() {
    lock_order! { First: A }
    lock_order! { Second: B }
    lock_order! { Third: C }
    let (a, b, c) = (Mutex::<_, A>::of(0), Mutex::<_, B>::of(0), Mutex::<_, C>::of(0));
    drop((a.lock().unwrap(), b.lock().unwrap()));
    drop((b.lock().unwrap(), c.lock().unwrap()));
    let held = c.lock().unwrap();
    assert!(matches!(a.lock().map(drop), Err(LockError::Order(_))), "A, B inside A, C inside B");
    assert!(matches!(b.lock().map(drop), Err(LockError::Order(_))));
    drop(held);
    drop((a.lock().unwrap(), c.lock().unwrap()));
}

#[test]
fn by_token() {
    let gate: RwLock<u8, Gate> = RwLock::of(1);
    let (shed, ledger): (Mutex<u8, Shed>, RwLock<u8, Ledger>) = (Mutex::of(2), RwLock::of(3));
    Yard::enter(|mut token| {
        {
            let (gate, mut token) = gate.upgradable_in(&mut token)?;
            let (mut shed, mut token) = shed.lock_in(&mut token)?;
            let (ledger, _) = ledger.read_in(&mut token)?;
            *shed += *gate + *ledger;
        }
        // Given back, all levels are free again.
        let (gate, _) = gate.read_in(&mut token)?;
        // What is taken without the token is checked as ever, and there is one token.
        assert!(matches!(Yard::enter(|_| ()), Err(LockError::Entered { order: "Yard", .. })));
        assert_eq!((*gate, *shed.lock()?), (1, 6));
        Ok::<(), LockError>(())
    })
    .unwrap()
    .unwrap();
    let held = shed.lock().unwrap();
    assert!(matches!(Yard::enter(|_| ()), Err(LockError::Entered { .. })), "it holds a lock of the order");
    drop(held);
    Yard::enter(|mut token| {
        let held = ledger.read().unwrap();
        assert!(matches!(gate.read_in(&mut token).map(drop), Err(LockError::Order(_))));
        drop(held);
    })
    .unwrap();
}

#[test]
fn peers_in_one_go() {
    let (a, b): (RwLock<u8, Shed>, Mutex<u8, Shed>) = (RwLock::of(1), Mutex::of(2));
    let ledger: RwLock<u8, Ledger> = RwLock::of(0);
    let (first, second) = lock_all!(lock & b, read & a).unwrap();
    assert_eq!((*first, *second), (2, 1));
    assert!(matches!(a.write().map(drop), Err(LockError::Recursive { .. })));
    drop((ledger.read().unwrap(), first, second));
    assert!(matches!(
        lock_all!(write & a, lock & b, upgradable & a).map(drop),
        Err(LockError::Recursive { .. })
    ));
    assert!(a.try_write().is_ok() && b.try_lock().is_ok(), "all of them or none");
    let held = ledger.read().unwrap();
    assert!(matches!(lock_all!(read & a, lock & b).map(drop), Err(LockError::Order(_))));
    drop(held);
    let held = a.read().unwrap();
    assert!(matches!(b.lock().map(drop), Err(LockError::Order(_))), "a peer alone is out of order");
    drop(held);
}

/// Whoever wants the same peers does not wait for who wants them the other way round.
#[test]
fn peers_are_taken_in_one_order_by_all() {
    within(|| {
        let all: Vec<RwLock<u64, Barn>> = (0..3).map(|_| RwLock::of(0)).collect();
        thread::scope(|scope| {
            for (i, j, k) in [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)] {
                let all = &all;
                scope.spawn(move || {
                    for _ in 0..5_000 {
                        let (mut i, mut j, k) =
                            lock_all!(write & all[i], write & all[j], upgradable & all[k]).unwrap();
                        *i += 1;
                        *j += 1;
                        let _ = *k;
                    }
                });
            }
        });
        assert_eq!(all.into_iter().map(RwLock::into_inner).sum::<u64>(), 40_000);
    });
}

/// Named locks are a level of their own, whose place among an order's is learned.
#[test]
fn named_locks_stand_in_the_order() {
    batchyard::lock_order! { Outside: Ledger }
    batchyard::lock_order! { Inside: Cache }
    let (ledger, cache) = (Mutex::<_, Ledger>::of(0), Mutex::<_, Cache>::of(0));
    let named = || batchyard::exclusive_lock("lock_order: named", "one");
    {
        let _ledger = ledger.lock().unwrap();
        let _named = named().unwrap();
        let _cache = cache.lock().unwrap();
    }
    {
        let mut held = named().unwrap();
        let error = ledger.lock().unwrap_err();
        assert!(matches!(error, LockError::Order(_)), "{error}");
        held.downgrade(batchyard::lock::Mode::Shared);
        assert!(matches!(ledger.lock(), Err(LockError::Order(_))));
        let other = batchyard::lock::global().session();
        drop(other.lock("lock_order: another name", batchyard::lock::Mode::Exclusive).unwrap());
    }
    {
        let _cache = cache.lock().unwrap();
        assert!(matches!(named(), Err(LockError::Order(_))));
        let session = batchyard::lock::global().session();
        let error = session.lock("lock_order: named", batchyard::lock::Mode::Shared).unwrap_err();
        assert!(
            error.to_string().contains("`NamedLocks::AnyName` is to be taken before `Inside::Cache`"),
            "{error}"
        );
    }
    drop((ledger.lock().unwrap(), named().unwrap()));
}
