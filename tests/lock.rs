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
    let recursive = |error: LockError, held: Mode, wanted: Mode, line: u32| match error {
        LockError::Recursive { held: h, wanted: w, place } => {
            assert_eq!((h, w), (held, wanted));
            assert_eq!((place.file(), place.line()), (file!(), line));
        }
        other => panic!("{other:?}"),
    };
    let (write, line) = (lock.write().unwrap(), line!());
    recursive(lock.read().unwrap_err(), Mode::Exclusive, Mode::Shared, line);
    recursive(lock.write().unwrap_err(), Mode::Exclusive, Mode::Exclusive, line);
    let read = write.downgrade();
    recursive(lock.write().unwrap_err(), Mode::Shared, Mode::Exclusive, line);
    let (look, later) = (lock.upgradable().unwrap(), line!());
    recursive(lock.upgradable().unwrap_err(), Mode::Upgradable, Mode::Upgradable, later);
    let error = look.upgrade().unwrap_err();
    recursive(error.why, Mode::Shared, Mode::Exclusive, line);
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

/// Readers that come and go without a gap do not keep a writer out for ever: it rises while it waits.
#[test]
fn a_writer_is_passed_by_those_above_it_until_it_has_risen() {
    within(|| {
        let time = ManualClock::new();
        let lock = RwLock::new(0).with_clock(time.clock());
        thread::scope(|scope| {
            let held = lock.read().unwrap();
            let writer = scope.spawn(|| drop(lock.write_with(&LockWait::new().priority(Priority::Low))));
            time.wait_for_sleepers(1);
            let may_share = |priority| {
                let (lock, wait) = (&lock, LockWait::new().priority(priority).by(millis(0)));
                scope.spawn(move || lock.read_with(&wait).is_ok()).join().unwrap()
            };
            let classes = [Priority::Low, Priority::Normal, Priority::High, Priority::Critical];
            for risen in 0..classes.len() {
                assert_eq!(
                    classes.map(may_share),
                    [0, 1, 2, 3].map(|class| class > risen),
                    "after {risen} steps"
                );
                if let Some(next) = classes.get(risen + 1) {
                    time.advance(millis(10));
                    until("it has risen", || !may_share(*next));
                }
            }
            drop(held);
            writer.join().unwrap();
        });
        assert_eq!(lock.mode(), None);
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

/// Thread-local storage that is being torn down is no obstacle, not even to who has to wait.
#[test]
fn it_works_while_a_thread_ends() {
    struct Last;
    static LOCK: RwLock<u32> = RwLock::new(0);
    impl Drop for Last {
        fn drop(&mut self) {
            *LOCK.write().unwrap() += 1;
            let look = LOCK.upgradable().unwrap();
            *look.upgrade().unwrap() += 1;
            let read = LOCK.read().unwrap();
            assert!(matches!(LOCK.write(), Err(LockError::Recursive { .. })), "it knows what it holds");
            drop(read);
            assert!(matches!(LOCK.write_by(millis(0)).map(drop), Ok(())));
        }
    }
    thread_local!(static LAST: Last = const { Last });
    within(|| {
        let held = LOCK.write().unwrap();
        let ends = thread::spawn(|| {
            LAST.with(|_| ());
            // What it sleeps on is made after that, and so is gone before.
            assert!(matches!(LOCK.read_by(millis(1)).map(drop), Err(LockError::TimedOut { .. })));
        });
        until("it waits again, in the destructor", || LOCK.stats().waits == 2);
        drop(held);
        ends.join().unwrap();
        assert_eq!((*LOCK.read().unwrap(), LOCK.mode()), (2, Some(Mode::Shared)));
    });
}

/// There is one who may upgrade. Another waits to become that, and is no obstacle to the first.
#[test]
fn two_who_want_to_upgrade() {
    within(|| {
        let lock = RwLock::new(Vec::new());
        thread::scope(|scope| {
            let first = lock.upgradable().unwrap();
            let second = scope.spawn(|| {
                assert!(matches!(lock.try_upgradable().map(drop), Err(LockError::WouldBlock)));
                assert!(matches!(lock.upgradable_by(millis(0)).map(drop), Err(LockError::TimedOut { .. })));
                let second = lock.upgradable().unwrap();
                assert_eq!(*second, ["first"]);
                second.upgrade().unwrap().push("second");
            });
            until("the second waits for good", || lock.stats().waits == 2);
            first.upgrade().unwrap().push("first");
            second.join().unwrap();
        });
        assert_eq!((lock.mode(), lock.into_inner()), (None, vec!["first", "second"]));
    });
}

/// Two that share it and both want it alone: neither can have it before the other has gone, and neither waits for that.
#[test]
fn two_who_share_it_and_want_it_alone() {
    let lock = RwLock::new(0);
    thread::scope(|scope| {
        let mine = lock.read().unwrap();
        let other = scope.spawn(|| {
            let _mine = lock.read().unwrap();
            assert!(matches!(lock.write().map(drop), Err(LockError::Recursive { .. })));
            let look = lock.upgradable().unwrap();
            assert!(matches!(look.upgrade().unwrap_err().why, LockError::Recursive { .. }));
        });
        other.join().unwrap();
        assert!(matches!(lock.write().map(drop), Err(LockError::Recursive { .. })));
        drop(mine);
    });
    assert!(lock.mode().is_none() && lock.try_write().is_ok());
}

/// From the take to the last guard that was made of it, each hold of those that share it for itself; other locks are not timed.
#[test]
fn hold_times_on_request() {
    let time = ManualClock::new();
    let lock = RwLock::new(0).with_clock(time.clock()).with_hold_times();
    let held = lock.upgradable().unwrap();
    let shared = lock.read().unwrap();
    time.advance(secs(1));
    drop(shared);
    let mut held = held.upgrade().unwrap();
    *held = 1;
    time.advance(secs(2));
    let held = held.downgrade();
    time.advance(secs(4));
    drop(held);
    let times = lock.stats().held.expect("asked for");
    assert_eq!((times.count, times.max, times.mean), (2, secs(7), secs(4)));
    let plain = RwLock::new(0);
    drop(plain.write());
    assert_eq!(plain.stats().held, None);
    let mutex = batchyard::lock::Mutex::new(0).with_hold_times();
    drop(mutex.lock());
    assert_eq!(mutex.stats().held.map(|held| held.count), Some(1));
}

/// What is held may be looked at by what may panic.
#[test]
fn guards_cross_a_caught_panic() {
    fn crosses<T: std::panic::UnwindSafe + std::panic::RefUnwindSafe>(_: &T) {}
    let lock = RwLock::new(7);
    let read = lock.read().unwrap();
    crosses(&read);
    assert!(std::panic::catch_unwind(|| assert_eq!(*read, 8)).is_err());
    drop(read);
    assert_eq!((lock.mode(), *lock.read().unwrap()), (None, 7));
}
