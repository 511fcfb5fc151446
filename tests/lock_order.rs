//! The order of locks: what a thread may take while it holds something, by check and by token; several at once.

// What a user of the crate holds; the house rules on clocks and threads are for `src/`.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

mod support;

use batchyard::lock::{LockError, LockWait, Mode, Mutex, OnViolation, Order, RwLock};
use batchyard::{lock_all, lock_order};
use std::thread;
use std::time::Duration;
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

/// What a session holds it need not wait for; for an upgrade it may have to.
#[test]
fn a_named_lock_once_more_and_its_upgrade() {
    batchyard::lock_order! { Within: Shelf }
    let (shelf, locks) = (Mutex::<_, Shelf>::of(0), batchyard::lock::global());
    let session = locks.session();
    let (name, other) = ("lock_order: once more", "lock_order: not held");
    drop((batchyard::exclusive_lock(other, "one").unwrap(), shelf.lock().unwrap())); // so it is learned
    let mut look = session.lock(name, Mode::Upgradable).unwrap();
    {
        let _shelf = shelf.lock().unwrap();
        drop(session.lock(name, Mode::Shared).unwrap());
        assert!(matches!(session.lock(other, Mode::Shared), Err(LockError::Order(_))));
        assert!(matches!(look.try_upgrade(), Err(LockError::Order(_))));
        assert!(matches!(look.upgrade(), Err(LockError::Order(_))));
        assert_eq!(look.mode(), Mode::Upgradable);
    }
    look.upgrade().unwrap();
    let _shelf = shelf.lock().unwrap();
    look.upgrade().unwrap(); // it is: nothing is taken
}

/// An upgrade may wait for who shares the lock, and that one may wait, by the order, for what is above.
#[test]
fn an_upgrade_is_taken_in_order_as_well() {
    let (gate, ledger): (RwLock<u8, Gate>, RwLock<u8, Ledger>) = (RwLock::of(0), RwLock::of(0));
    let look = gate.upgradable().unwrap();
    let above = ledger.write().unwrap();
    // Nobody else is there; it is refused all the same.
    let Err(error) = look.upgrade() else { panic!("against the order") };
    let LockError::Order(violation) = &error.why else { panic!("{error}") };
    assert_eq!((&*violation.wanted(), &*violation.held()), ("Yard::Gate", "Yard::Ledger"));
    assert_eq!(violation.at().file(), file!());
    let Err(error) = error.guard.try_upgrade() else { panic!("against the order") };
    assert!(matches!(error.why, LockError::Order(_)));
    drop(above);
    let wrote = error.guard.upgrade().unwrap();
    // What is above may be upgraded, what is below may be held, and what is in no order does not count.
    let look = ledger.upgradable().unwrap();
    let free = RwLock::new(0);
    let (other, own) = (free.upgradable().unwrap(), look.upgrade().unwrap());
    drop((other.upgrade().unwrap(), own, wrote));
    // A peer that was taken after it is not to be held, either; one before it may.
    let peers: [RwLock<u8, Shed>; 2] = [RwLock::of(0), RwLock::of(0)];
    let (first, second) = lock_all!(upgradable & peers[0], upgradable & peers[1]).unwrap();
    let Err(error) = first.upgrade() else { panic!("against the order") };
    assert!(matches!(error.why, LockError::Order(_)));
    drop((second.upgrade().unwrap(), error));
}

/// What is of an order that was learned to be inside counts as what is above.
#[test]
fn an_upgrade_with_another_order_inside() {
    lock_order! { Outer: Frame }
    lock_order! { Inner: Pane }
    let (frame, pane) = (RwLock::<_, Frame>::of(0), RwLock::<_, Pane>::of(0));
    let look = frame.upgradable().unwrap();
    let inside = pane.upgradable().unwrap();
    let Err(error) = look.upgrade() else { panic!("against the order") };
    assert!(matches!(error.why, LockError::Order(_)));
    drop(inside.upgrade().unwrap());
    drop(error.guard.upgrade().unwrap());
}

/// To have the right to upgrade one may wait, so to share the lock already is no excuse.
#[test]
fn once_more_is_no_excuse_for_the_right_to_upgrade() {
    let (gate, ledger): (RwLock<u8, Gate>, RwLock<u8, Ledger>) = (RwLock::of(0), RwLock::of(0));
    let read = gate.read().unwrap();
    let above = ledger.write().unwrap();
    assert!(matches!(gate.upgradable().map(drop), Err(LockError::Order(_))));
    drop((gate.read().unwrap(), above));
    drop((gate.upgradable().unwrap(), read));
}

/// Peers are beside each other within one call, not beside those of the one before.
#[test]
fn a_peer_once_more_lets_no_other_one_in() {
    let [a, c, b]: [RwLock<u8, Shed>; 3] = Default::default();
    let mut locks = [&a, &b, &c];
    locks.sort_by_key(|lock| std::ptr::from_ref(*lock).addr());
    let [a, c, b] = locks;
    let held = lock_all!(read a, write b).unwrap();
    assert!(matches!(lock_all!(read a, write c).map(drop), Err(LockError::Order(_))));
    assert!(c.try_write().is_err() && c.mode().is_none());
    drop(held);
    drop(lock_all!(read a, write c).unwrap());
}

/// Whoever prints a lock's value holds the lock meanwhile.
#[test]
fn a_lock_that_is_printed_is_held() {
    struct Prints<F>(F);
    impl<F: Fn() -> String> std::fmt::Debug for Prints<F> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(&(self.0)())
        }
    }
    static GATE: Mutex<u8, Gate> = Mutex::of(7);
    let below = || GATE.lock().map_or_else(|error| error.to_string(), |value| value.to_string());
    let ledger: RwLock<_, Ledger> = RwLock::of(Prints(below));
    let wanted = "`Yard::Gate` is to be taken before `Yard::Ledger`";
    assert!(format!("{ledger:?}").contains(wanted), "{ledger:?}");
    let ledger: Mutex<_, Ledger> = Mutex::of(Prints(below));
    assert!(format!("{ledger:?}").contains(wanted), "{ledger:?}");
    assert_eq!(below(), "7", "it is held no longer");

    // The same lock.
    type Own = Prints<fn() -> String>;
    static OWN: RwLock<Own, Ledger> = RwLock::of(Prints(|| {
        drop(OWN.read().unwrap());
        OWN.write_by(Duration::from_secs(1)).map_or_else(|error| error.to_string(), |_| "had".into())
    }));
    assert!(format!("{OWN:?}").contains("would wait for itself"), "{OWN:?}");
    static ALONE: Mutex<Own> = Mutex::new(Prints(|| {
        ALONE.lock_by(Duration::from_secs(1)).map_or_else(|error| error.to_string(), |_| "had".into())
    }));
    assert!(format!("{ALONE:?}").contains("would wait for itself"), "{ALONE:?}");
    drop((OWN.write().unwrap(), ALONE.lock().unwrap()));
}

/// Nothing is told, and nobody panics, for what is no matter of order.
#[test]
fn the_same_lock_once_more_under_every_policy() {
    lock_order! { Twice: Under < Over }
    let (under, over): (RwLock<u8, Under>, RwLock<u8, Over>) = (RwLock::of(0), RwLock::of(0));
    let held = (under.read().unwrap(), over.read().unwrap());
    for policy in [OnViolation::Error, OnViolation::Log, OnViolation::Panic] {
        Twice::on_violation(policy);
        drop((under.read().unwrap(), over.read().unwrap()));
        assert!(matches!(over.write().map(drop), Err(LockError::Recursive { .. })));
    }
    drop(held);
}

/// Its thread holds it for good, whatever comes to lie where it lay.
#[test]
fn a_forgotten_guard_excuses_no_other_lock() {
    enum Either {
        Low(RwLock<u8, Gate>),
        High(RwLock<u8, Shed>),
    }
    within(|| {
        let ledger: RwLock<u8, Ledger> = RwLock::of(0);
        let mut place = Either::Low(RwLock::of(0));
        let Either::Low(low) = &place else { unreachable!() };
        let was = std::ptr::from_ref(low).addr();
        std::mem::forget(low.read().unwrap());
        place = Either::High(RwLock::of(0));
        let Either::High(high) = &place else { unreachable!() };
        assert_eq!(std::ptr::from_ref(high).addr(), was);
        let held = ledger.read().unwrap();
        assert!(matches!(high.read().map(drop), Err(LockError::Order(_))));
        drop(held);
        drop(high.write().unwrap());
        // It stands in the order for ever.
        std::mem::forget(ledger.read().unwrap());
        assert!(matches!(high.read().map(drop), Err(LockError::Order(_))));
    });
}

/// A guard by a token turns into others, and has the token all the while.
#[test]
fn by_token_up_and_down() {
    let (gate, ledger): (RwLock<u8, Gate>, RwLock<u8, Ledger>) = (RwLock::of(1), RwLock::of(0));
    Yard::enter(|mut token| {
        let (look, mut above) = gate.upgradable_in(&mut token)?;
        let (read, _) = ledger.read_in(&mut above)?;
        let Err(error) = look.try_upgrade() else { panic!("against the order") };
        assert!(matches!(error.why, LockError::Order(_)));
        drop(read);
        let mut write = error.guard.upgrade_with(&LockWait::new()).map_err(|error| error.why)?;
        *write += 1;
        assert_eq!(gate.mode(), Some(Mode::Exclusive));
        let look = write.downgrade_to_upgradable();
        assert_eq!(gate.mode(), Some(Mode::Upgradable));
        let read = look.upgrade().map_err(|error| error.why)?.downgrade();
        assert_eq!((gate.mode(), *read), (Some(Mode::Shared), 2));
        let (wrote, _) = ledger.write_in(&mut above)?;
        drop((read, wrote));
        Ok::<(), LockError>(())
    })
    .unwrap()
    .unwrap();
    Yard::enter(|mut token| {
        let (look, _) = gate.upgradable_in(&mut token)?;
        let read = look.downgrade();
        assert_eq!((gate.mode(), *read), (Some(Mode::Shared), 2));
        Ok::<(), LockError>(())
    })
    .unwrap()
    .unwrap();
    assert_eq!(gate.mode(), None);
}
