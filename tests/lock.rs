//! `lock::RwLock` and `lock::Mutex`: who gets in, who waits, who is refused and why.

// What a user of the crate holds; the house rules on clocks and threads are for `src/`.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

mod support;

use batchyard::lock::{
    Cancel, LockError, LockWait, Mode, Mutex, Poisoning, ReadGuard, RwLock, Unlevelled, WriteGuard,
};
use batchyard::{ManualClock, Priority, millis, secs};
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;
use support::{until, within};

#[test]
fn what_crosses_threads() {
    fn sends<T: Send>() {}
    fn shares<T: Sync>() {}
    sends::<RwLock<std::cell::Cell<u8>>>();
    shares::<RwLock<u8>>();
    shares::<Mutex<std::cell::Cell<u8>>>();
    shares::<ReadGuard<'static, u8>>();
    static LOCK: Mutex<u32> = Mutex::new(1);
    *LOCK.lock().unwrap() += 1;
    assert_eq!(*LOCK.lock().unwrap(), 2);
}

#[test]
fn who_may_hold_it_beside_whom() {
    let lock = RwLock::new(0);
    let others = |lock: &RwLock<u8>| {
        thread::scope(|scope| {
            let try_all = || {
                (
                    lock.try_read().map(drop).is_ok(),
                    lock.try_upgradable().map(drop).is_ok(),
                    lock.try_write().map(drop).is_ok(),
                )
            };
            scope.spawn(try_all).join().unwrap()
        })
    };
    assert_eq!(others(&lock), (true, true, true));
    let read = lock.read().unwrap();
    assert_eq!((others(&lock), lock.mode()), ((true, true, false), Some(Mode::Shared)));
    let look = lock.upgradable().unwrap();
    assert_eq!((others(&lock), lock.mode()), ((true, false, false), Some(Mode::Upgradable)));
    drop(read);
    let write = look.upgrade().unwrap();
    assert_eq!((others(&lock), lock.mode()), ((false, false, false), Some(Mode::Exclusive)));
    let look = write.downgrade_to_upgradable();
    assert_eq!(others(&lock), (true, false, false));
    let read = look.upgrade().unwrap().downgrade();
    assert_eq!(others(&lock), (true, true, false));
    drop(read);
    assert_eq!((others(&lock), lock.mode()), ((true, true, true), None));
}

#[test]
fn this_thread_does_not_wait_for_itself() {
    let lock = RwLock::new(0);
    let recursive = |error: LockError, held: Mode, wanted: Mode| match error {
        LockError::Recursive { held: h, wanted: w, place } => {
            assert_eq!((h, w), (held, wanted));
            assert!(place.file().ends_with("lock.rs"));
        }
        other => panic!("{other:?}"),
    };
    let write = lock.write().unwrap();
    recursive(lock.read().unwrap_err(), Mode::Exclusive, Mode::Shared);
    recursive(lock.write().unwrap_err(), Mode::Exclusive, Mode::Exclusive);
    let read = write.downgrade();
    recursive(lock.write().unwrap_err(), Mode::Shared, Mode::Exclusive);
    let look = lock.upgradable().unwrap();
    recursive(lock.upgradable().unwrap_err(), Mode::Upgradable, Mode::Upgradable);
    let error = look.upgrade().unwrap_err();
    recursive(error.why, Mode::Shared, Mode::Exclusive);
    drop(read);
    drop(error.guard.upgrade().unwrap());
    assert!(lock.try_write().is_ok());
}

/// Who shares the lock already passes a writer that waits for it.
#[test]
fn a_second_read_does_not_wait_behind_a_writer() {
    within(|| {
        let lock = RwLock::new(0);
        thread::scope(|scope| {
            let first = lock.read().unwrap();
            let writer = scope.spawn(|| *lock.write().unwrap() += 1);
            until("the writer waits", || lock.stats().waits == 1);
            // Another's has to wait.
            scope.spawn(|| assert!(matches!(lock.try_read(), Err(LockError::WouldBlock)))).join().unwrap();
            let second = lock.read().unwrap();
            drop((first, second));
            writer.join().unwrap();
        });
        assert_eq!(lock.into_inner(), 1);
    });
}

#[test]
fn a_deadline_and_a_cancel_end_a_wait() {
    within(|| {
        let time = ManualClock::new();
        let lock = RwLock::new(0).with_clock(time.clock());
        let held = lock.read().unwrap();
        let cancel = Cancel::new();
        let wait = LockWait::new().cancel(&cancel).by(secs(5));
        thread::scope(|scope| {
            let late = scope.spawn(|| lock.write_by(secs(2)).map(drop));
            time.wait_for_sleepers(1);
            time.advance(secs(2));
            let late = late.join().unwrap();
            assert!(matches!(late, Err(LockError::TimedOut { waited }) if waited == secs(2)), "{late:?}");
            // Who gave up keeps nobody out.
            scope.spawn(|| drop(lock.try_read().unwrap())).join().unwrap();
            let ended = scope.spawn(|| lock.write_with(&wait).map(drop));
            time.wait_for_sleepers(1);
            cancel.cancel();
            assert!(matches!(ended.join().unwrap(), Err(LockError::Cancelled)));
        });
        drop(held);
        let stats = lock.stats();
        assert_eq!((stats.timed_out, stats.cancelled, lock.mode()), (1, 1, None));
        assert_eq!((stats.waited.count, stats.waited.max), (2, secs(2)));
    });
}

#[test]
fn a_failed_upgrade_gives_the_guard_back() {
    within(|| {
        let time = ManualClock::new();
        let lock = RwLock::new(0).with_clock(time.clock());
        thread::scope(|scope| {
            let (tell, told) = mpsc::channel::<()>();
            let reader = scope.spawn({
                let lock = &lock;
                move || {
                    let read = lock.read().unwrap();
                    told.recv().unwrap();
                    drop(read);
                }
            });
            until("it is shared", || lock.mode() == Some(Mode::Shared));
            let look = lock.upgradable().unwrap();
            let error = look.try_upgrade().unwrap_err();
            assert!(matches!(error.why, LockError::WouldBlock));
            let upgrading = scope.spawn(|| {
                time.wait_for_sleepers(1);
                // While it waits for the readers nobody new comes in.
                assert!(matches!(lock.try_read(), Err(LockError::WouldBlock)));
                time.advance(secs(1));
            });
            let error = error.guard.upgrade_by(secs(1)).unwrap_err();
            assert!(matches!(error.why, LockError::TimedOut { .. }), "{error}");
            upgrading.join().unwrap();
            scope.spawn(|| drop(lock.try_read().unwrap())).join().unwrap();
            tell.send(()).unwrap();
            reader.join().unwrap();
            *error.guard.upgrade().unwrap() = 7;
        });
        assert_eq!(*lock.read().unwrap(), 7);
    });
}

#[test]
fn the_more_urgent_goes_first() {
    within(|| {
        let time = ManualClock::new();
        let lock = RwLock::new(Vec::new()).with_clock(time.clock());
        thread::scope(|scope| {
            let held = lock.write().unwrap();
            let all = [("low", Priority::Low), ("normal", Priority::Normal), ("high", Priority::High)];
            for ((name, priority), waits) in all.into_iter().zip(1..) {
                let lock = &lock;
                scope.spawn(move || {
                    lock.write_with(&LockWait::new().priority(priority)).unwrap().push(name);
                });
                until("it waits", || lock.stats().waits == waits);
            }
            drop(held);
        });
        assert_eq!(lock.into_inner(), ["high", "normal", "low"]);
    });
}

#[test]
fn a_panic_is_remembered_if_that_was_asked_for() {
    let dies = |held: &(dyn Fn() + Sync)| {
        thread::scope(|scope| assert!(scope.spawn(held).join().is_err()));
    };
    let plain = RwLock::new(1);
    dies(&|| {
        let _held = plain.write().unwrap();
        panic!("as the test wants");
    });
    assert!(!plain.is_poisoned() && plain.read().is_ok());
    let lock: RwLock<i32, Unlevelled, Poisoning> = RwLock::of(1);
    dies(&|| {
        let _held = lock.read().unwrap();
        panic!("as the test wants");
    });
    assert!(!lock.is_poisoned(), "who shares it changes nothing");
    dies(&|| {
        let _part = WriteGuard::map(lock.write().unwrap(), |value| value);
        panic!("as the test wants");
    });
    assert!(lock.is_poisoned());
    assert!(matches!(lock.read().map(drop), Err(LockError::Poisoned)));
    assert!(matches!(lock.try_write().map(drop), Err(LockError::Poisoned)));
    assert_eq!(lock.mode(), None, "who is refused holds nothing");
    dies(&|| lock.recover(|_| panic!("as the test wants")).unwrap());
    assert!(lock.is_poisoned());
    assert_eq!(lock.recover(|value| *value).unwrap(), 1);
    assert!(lock.read().is_ok());
}

#[test]
fn a_guard_of_a_part() {
    let lock = RwLock::new(BTreeMap::from([(1, "one".to_owned())]));
    let name = WriteGuard::try_map(lock.write().unwrap(), |map| map.get_mut(&1));
    name.unwrap().push('!');
    let read = ReadGuard::try_map(lock.read().unwrap(), |map| map.get(&2)).unwrap_err();
    let name = ReadGuard::map(read, |map| &*map[&1]);
    assert_eq!(&*name, "one!");
    assert_eq!(format!("{name} {name:?}"), "one! \"one!\"");
    drop(name);
    assert_eq!(lock.mode(), None);
}

#[test]
fn what_is_printed_of_it() {
    let lock = RwLock::new(5);
    assert_eq!(format!("{lock:?}"), "RwLock { data: 5, poisoned: false, .. }");
    let held = lock.write().unwrap();
    assert_eq!(format!("{lock:?}"), "RwLock { data: <locked>, poisoned: false, .. }");
    drop(held);
    let lock = Mutex::<_>::from(6);
    assert_eq!(format!("{lock:?}"), "Mutex { data: 6, poisoned: false, .. }");
    let mut lock = lock;
    *lock.get_mut() += 1;
    assert_eq!((lock.stats().exclusive, lock.into_inner()), (0, 7));
}

/// Thread-local storage that is being torn down is no obstacle.
#[test]
fn it_works_while_a_thread_ends() {
    struct Last;
    static LOCK: RwLock<u32> = RwLock::new(0);
    impl Drop for Last {
        fn drop(&mut self) {
            *LOCK.write().unwrap() += 1;
            assert!(LOCK.write_by(millis(1)).is_ok());
        }
    }
    thread_local!(static LAST: Last = const { Last });
    thread::spawn(|| {
        LAST.with(|_| ());
        drop(LOCK.read().unwrap());
    })
    .join()
    .unwrap();
    assert_eq!(*LOCK.read().unwrap(), 1);
}

/// Upgrades, downgrades and deadlines of a hair's breadth from many threads: at the end the lock is at rest.
#[test]
fn nothing_is_left_of_a_million_hurried_waits() {
    within(|| {
        const THREADS: u64 = 4;
        const ROUNDS: u64 = 25_000;
        let lock = RwLock::new(0u64);
        let wrote: u64 = thread::scope(|scope| {
            let turns = |seed: u64| {
                let mut random = support::Rng::new(seed);
                let mut wrote = 0;
                for _ in 0..ROUNDS {
                    let soon = std::time::Duration::from_nanos(random.below(20_000));
                    match random.below(4) {
                        0 => drop(lock.read_by(soon)),
                        1 => {
                            if let Ok(mut value) = lock.write_by(soon) {
                                *value += 1;
                                wrote += 1;
                                if random.one_in(2) {
                                    assert!(*value.downgrade() > 0);
                                }
                            }
                        }
                        _ => {
                            let Ok(look) = lock.upgradable_by(soon) else { continue };
                            let before = *look;
                            match look.upgrade_by(soon) {
                                Ok(mut value) => {
                                    assert_eq!(*value, before, "nobody comes in between");
                                    *value += 1;
                                    wrote += 1;
                                }
                                Err(error) => assert_eq!(*error.guard, before),
                            }
                        }
                    }
                }
                wrote
            };
            let all: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || turns(n + 1))).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!((*lock.read().unwrap(), lock.mode()), (wrote, Some(Mode::Shared)));
        assert_eq!(lock.mode(), None);
        assert!(lock.try_write().is_ok());
    });
}
