//! `LockManager`: named locks, sessions, and what becomes of those who wait for each other.

// What a user of the crate holds; the house rules on clocks and threads are for `src/`.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

mod support;

use batchyard::lock::{
    Cancel, Deadlock, Deadlocks, LockError, LockManager, LockManagerBuilder, LockWait, Mode, Session, Share,
    global,
};
use batchyard::{ManualClock, Priority, exclusive_lock, secs, shared_lock};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use support::{Rng, until, within};

const X: Mode = Mode::Exclusive;

fn locks() -> LockManager<String> {
    LockManager::new()
}

#[test]
fn sessions_cross_threads() {
    fn sends<T: Send>() {}
    fn shares<T: Send + Sync>() {}
    sends::<Session<String>>();
    shares::<LockManager<String>>();
    let locks = locks();
    let job = locks.session();
    job.lock("a", X).unwrap().keep();
    let job = thread::spawn(move || {
        job.lock("b", X).unwrap().keep();
        job
    });
    let mut job = job.join().unwrap();
    let other = locks.session();
    assert!(matches!(other.try_lock("a", Mode::Shared), Err(LockError::WouldBlock)));
    job.release_all();
    drop(other.try_lock("a", X).unwrap());
    job.lock("a", X).unwrap().keep();
    drop(job);
    assert!(other.try_lock("a", X).is_ok(), "what a session held comes back with it");
}

#[test]
fn who_holds_it_in_which_way() {
    let locks = locks();
    let (a, b) = (locks.session(), locks.session());
    let shared = a.lock("k", Mode::Shared).unwrap();
    let again = a.lock("k", Mode::Shared).unwrap();
    let mut look = b.lock("k", Mode::Upgradable).unwrap();
    assert!(matches!(look.try_upgrade(), Err(LockError::WouldBlock)));
    assert!(matches!(a.lock("k", X), Err(LockError::Recursive { held: Mode::Shared, .. })));
    drop((shared, again));
    look.upgrade().unwrap();
    assert_eq!(look.mode(), X);
    assert!(matches!(b.lock("k", Mode::Shared), Err(LockError::Recursive { held: X, .. })));
    look.downgrade(Mode::Shared);
    let mut mine = a.lock("k", Mode::Shared).unwrap();
    assert!(matches!(mine.upgrade(), Err(LockError::Recursive { .. })), "only from upgradable");
    assert_eq!((look.mode(), mine.mode()), (Mode::Shared, Mode::Shared));
}

/// Two who wait for each other: the younger gives up, keeps what it has, and the other goes on.
#[test]
fn of_two_who_wait_for_each_other_one_gives_up() {
    within(|| {
        let locks = locks();
        let (old, young) =
            (locks.session_as("old", Priority::Normal), locks.session_as("young", Priority::Normal));
        thread::scope(|scope| {
            let held = young.lock("b", X).unwrap();
            let (got, gets) = std::sync::mpsc::channel();
            let waits = scope.spawn(move || {
                let a = old.lock("a", X).unwrap();
                got.send(()).unwrap();
                let b = old.lock("b", Mode::Shared).unwrap();
                drop((a, b));
            });
            gets.recv().unwrap();
            let error = young.lock("a", X).unwrap_err();
            let LockError::Deadlock(deadlock) = &error else { panic!("{error}") };
            assert_eq!((deadlock.waits.len(), &*deadlock.victim), (2, "young"));
            let text = error.to_string();
            for part in [
                "`old` waits for \"b\" (shared, for ",
                "which `young` holds (exclusive, taken at tests/lock_manager.rs:",
            ] {
                assert!(text.contains(part), "{text}");
            }
            assert!(!waits.is_finished());
            drop(held);
            waits.join().unwrap();
            // It tries again with its ticket.
            assert!(young.lock("a", X).is_ok());
        });
        assert_eq!(locks.stats().deadlocks, 1);
    });
}

/// The lower class gives up, however old it is; two who upgrade from shared never come to it: only one may.
#[test]
fn the_less_urgent_gives_up() {
    within(|| {
        let locks = locks();
        let low = locks.session_as("low", Priority::Low);
        let high = locks.session_as("high", Priority::High);
        let both = Barrier::new(2);
        thread::scope(|scope| {
            let low = scope.spawn(|| {
                let low = low;
                let _a = low.lock("a", X).unwrap();
                both.wait();
                low.lock("b", X).map(drop)
            });
            let high = scope.spawn(|| {
                let high = high;
                let _b = high.lock("b", X).unwrap();
                both.wait();
                high.lock("a", X).map(drop)
            });
            assert!(matches!(low.join().unwrap(), Err(LockError::Deadlock(_))));
            high.join().unwrap().unwrap();
        });
    });
}

/// Who is stuck behind a waiter by the order of the queue alone is let past: nobody gives up.
#[test]
fn a_circle_by_the_order_of_a_queue_has_no_victim() {
    within(|| {
        let locks = locks();
        let (holder, writer, reader) = (locks.session(), locks.session(), locks.session());
        thread::scope(|scope| {
            let other = reader.lock("other", X).unwrap();
            let (got, gets) = std::sync::mpsc::channel();
            // Shares `k`, and waits for what the reader holds.
            let holds = scope.spawn(move || {
                let _k = holder.lock("k", Mode::Shared).unwrap();
                got.send(()).unwrap();
                drop(holder.lock("other", X).unwrap());
            });
            gets.recv().unwrap();
            // Waits for `k` alone, and keeps newcomers out.
            let writes = scope.spawn(move || drop(writer.lock("k", X).unwrap()));
            let probe = locks.session();
            until("the writer waits", || probe.try_lock("k", Mode::Shared).is_err());
            // Could share `k`, but for the writer, who waits for the holder, who waits for us.
            let k = reader.lock("k", Mode::Shared).unwrap();
            drop((k, other));
            holds.join().unwrap();
            writes.join().unwrap();
        });
        assert_eq!((locks.stats().deadlocks, locks.stats().repaired), (0, 1));
    });
}

#[test]
fn a_deadline_and_a_cancel_end_a_wait() {
    within(|| {
        let time = ManualClock::new();
        let locks: LockManager<u64> = LockManagerBuilder::default().clock(time.clock()).build();
        let (a, b) = (locks.session(), locks.session());
        let held = a.lock(&1, X).unwrap();
        thread::scope(|scope| {
            let late = scope.spawn(|| {
                let b = b;
                let late = b.lock_with(&1, X, &LockWait::new().by(secs(1))).map(drop);
                let cancel = Cancel::new();
                cancel.cancel();
                (late, b.lock_with(&1, X, &LockWait::new().cancel(&cancel)).map(drop))
            });
            time.wait_for_sleepers(1);
            time.advance(secs(1));
            let (late, cancelled) = late.join().unwrap();
            assert!(matches!(late, Err(LockError::TimedOut { waited }) if waited == secs(1)), "{late:?}");
            assert!(matches!(cancelled, Err(LockError::Cancelled)), "{cancelled:?}");
        });
        drop(held);
    });
}

#[test]
fn idle_locks_are_dropped() {
    let locks: LockManager<u64> = LockManagerBuilder::default().deadlocks(Deadlocks::Off).build();
    let job = locks.session();
    job.lock(&u64::MAX, X).unwrap().keep();
    for n in 0..100_000 {
        drop(job.lock(&n, X).unwrap());
    }
    assert!(locks.len() < 20_000, "{} are left", locks.len());
    assert!(matches!(locks.session().try_lock(&u64::MAX, Mode::Shared), Err(LockError::WouldBlock)));
}

#[test]
fn each_hold_is_timed_if_that_is_asked_for() {
    let time = ManualClock::new();
    let locks: LockManager<u64> = LockManagerBuilder::default().clock(time.clock()).hold_times(true).build();
    let job = locks.session();
    for turn in 1..4 {
        let held = job.lock(&7, X).unwrap();
        time.advance(secs(turn));
        drop(held);
    }
    let held = locks.stats().held.expect("asked for");
    assert_eq!((held.count, held.p50.as_secs(), held.max.as_secs()), (3, 2, 3));
}

/// What a name was is given up with it, in time.
#[test]
fn idle_names_are_dropped() {
    let (locks, alive) = (LockManager::<(u32, Arc<()>)>::new(), Arc::new(()));
    let job = locks.session();
    for n in 0..20_000 {
        drop(job.lock(&(n, Arc::clone(&alive)), X).unwrap());
    }
    assert_eq!(Arc::strong_count(&alive) - 1, locks.len());
    drop((job, locks));
    assert_eq!(Arc::strong_count(&alive), 1);
}

/// A name that has its hash in common with all others, and may be told to panic when it is compared.
#[derive(Clone, Debug)]
struct Odd(u32, &'static AtomicBool);

impl Hash for Odd {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        0.hash(hasher);
    }
}

impl PartialEq for Odd {
    fn eq(&self, other: &Self) -> bool {
        assert!(!self.1.load(Ordering::Relaxed), "it was told to");
        self.0 == other.0
    }
}

impl Eq for Odd {}

#[test]
fn names_of_one_hash_are_told_apart() {
    static PANICS: AtomicBool = AtomicBool::new(false);
    let locks: LockManager<Odd> = LockManager::new();
    let other = locks.session();
    // The second time each has been looked up before.
    for _ in 0..2 {
        let one = locks.session();
        for n in 0..200 {
            one.lock(&Odd(n, &PANICS), X).unwrap().keep();
            for seen in [n, n / 2] {
                let missed = other.try_lock(&Odd(seen, &PANICS), Mode::Shared).map(drop);
                assert!(matches!(missed, Err(LockError::WouldBlock)), "{seen}: {missed:?}");
            }
            assert!(other.try_lock(&Odd(n + 1000, &PANICS), X).is_ok());
        }
    }
}

#[test]
fn a_comparison_that_panics_leaves_nothing_held() {
    static PANICS: AtomicBool = AtomicBool::new(false);
    let locks: LockManager<Odd> = LockManager::new();
    let (one, other) = (locks.session(), locks.session());
    for mode in [X, Mode::Shared] {
        drop(one.lock(&Odd(1, &PANICS), mode).unwrap());
        PANICS.store(true, Ordering::Relaxed);
        let lock = AssertUnwindSafe(|| drop(one.lock(&Odd(1, &PANICS), mode)));
        catch_unwind(lock).expect_err("it is compared");
        PANICS.store(false, Ordering::Relaxed);
        assert!(other.try_lock(&Odd(1, &PANICS), X).is_ok());
    }
    assert_eq!(locks.stats().exclusive, 3);
}

/// Locks get other names all the time, and who comes by what was told of them before finds the right one all the same.
#[test]
fn names_come_and_go_and_their_locks_exclude() {
    const THREADS: u64 = 4;
    const TURNS: u64 = 40_000;
    const NAMES: u64 = 15_000;
    let locks: LockManager<u64> = LockManager::new();
    let sums: Vec<AtomicU64> = std::iter::repeat_with(|| AtomicU64::new(0)).take(NAMES as usize).collect();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (locks, sums) = (&locks, &sums);
            scope.spawn(move || {
                let mut rng = Rng::new(thread);
                let mut next = |most| rng.below(most);
                let job = locks.session();
                for turn in 0..TURNS {
                    // Few that are wanted by all, and many that drive each other's names out.
                    let name = if next(2) == 0 { next(8) } else { (turn * 7 + next(500)) % NAMES };
                    let held = job.lock(&name, X).unwrap();
                    // Not in one step: two at a time would lose one.
                    let sum = sums[name as usize].load(Ordering::Relaxed);
                    if next(64) == 0 {
                        thread::yield_now();
                    }
                    sums[name as usize].store(sum + 1, Ordering::Relaxed);
                    drop(held);
                }
            });
        }
    });
    let sum: u64 = sums.iter().map(|sum| sum.load(Ordering::Relaxed)).sum();
    assert_eq!((sum, locks.stats().exclusive), (THREADS * TURNS, THREADS * TURNS));
    assert!(locks.len() < 6_000, "{} have a name", locks.len());
}

#[test]
fn a_name_of_a_megabyte() {
    let locks = locks();
    let name = "n".repeat(1 << 20);
    let (a, b) = (locks.session(), locks.session());
    let _held = a.lock(&*name, X).unwrap();
    assert!(matches!(b.try_lock(&*name, X), Err(LockError::WouldBlock)));
}

/// Under another name, in the same thread: nobody else could ever help.
#[test]
fn a_thread_that_waits_for_what_it_holds_itself_is_told() {
    within(|| {
        let held = exclusive_lock("lock_manager: itself", "one").unwrap();
        let job = global().session();
        let error = job.lock("lock_manager: itself", X).unwrap_err();
        let LockError::Deadlock(deadlock) = &error else { panic!("{error}") };
        assert!(deadlock.of_one() && deadlock.waits.len() == 1, "{error}");
        drop(held);
        assert!(job.lock("lock_manager: itself", X).is_ok());
    });
}

/// What the thread shares it may share once more, past a writer that waits for it.
#[test]
fn a_thread_that_shares_a_lock_is_let_past_who_waits_for_it() {
    within(|| {
        let held = shared_lock("lock_manager: shared", "one").unwrap();
        thread::scope(|scope| {
            let writer = scope.spawn(|| drop(exclusive_lock("lock_manager: shared", "writer").unwrap()));
            let probe = global().session();
            until("the writer waits", || probe.try_lock("lock_manager: shared", Mode::Shared).is_err());
            let job = global().session();
            drop(job.lock("lock_manager: shared", Mode::Shared).unwrap());
            drop(held);
            writer.join().unwrap();
        });
    });
}

/// Where a thread's storage is being destroyed it has a session as well.
#[test]
fn a_thread_that_ends_is_told_of_what_it_has() {
    struct AtTheEnd(std::sync::mpsc::Sender<bool>);
    impl Drop for AtTheEnd {
        fn drop(&mut self) {
            let held = exclusive_lock("lock_manager: at the end", "one").unwrap();
            let again = exclusive_lock("lock_manager: at the end", "one");
            let told = matches!(again, Err(LockError::Recursive { .. }));
            drop(held);
            let _ = self.0.send(told && exclusive_lock("lock_manager: at the end", "one").is_ok());
        }
    }
    thread_local! {
        static AT_THE_END: std::cell::RefCell<Option<AtTheEnd>> = const { std::cell::RefCell::new(None) };
    }
    within(|| {
        let (tell, told) = std::sync::mpsc::channel();
        let ends = thread::spawn(move || {
            AT_THE_END.with(|cell| *cell.borrow_mut() = Some(AtTheEnd(tell)));
            // Made after it, so destroyed before it.
            drop(exclusive_lock("lock_manager: before the end", "one").unwrap());
        });
        ends.join().unwrap();
        assert!(told.recv().unwrap());
        assert!(global().session().try_lock("lock_manager: at the end", X).is_ok());
    });
}

/// Each holds a lock of its own, and all of them wait for one: no deadlock, and no look at all of them takes long.
#[test]
fn many_that_hold_something_wait_in_one_queue() {
    within(|| {
        const MANY: u64 = 300;
        let locks: LockManager<u64> = LockManager::new();
        let first = locks.session();
        let held = first.lock(&0, X).unwrap();
        thread::scope(|scope| {
            for own in 1..=MANY {
                let locks = &locks;
                scope.spawn(move || {
                    let job = locks.session();
                    let _own = job.lock(&own, X).unwrap();
                    drop(job.lock(&0, X).unwrap());
                });
            }
            until("all wait", || locks.stats().waits == MANY);
            drop(held);
        });
        assert_eq!((locks.stats().deadlocks, locks.stats().exclusive), (0, 1 + 2 * MANY));
    });
}

/// Programs of 2 to 8 owners over a few locks. Those who climb never hear of a deadlock; the others end, whatever they do,
/// since who gives up gives all back.
#[test]
fn random_programs_end() {
    // A hundred thousand take some minutes: at night.
    let thousands = if std::env::var_os("BATCHYARD_NIGHTLY").is_some() { 100 } else { 1 };
    for thousand in 0..thousands {
        let found = within(move || random_programs(thousand * 1_000..(thousand + 1) * 1_000));
        assert!(found > 0, "no deadlock in a thousand programs");
    }
}

/// How many deadlocks there were in the programs of these numbers.
/// What an owner of a random program holds and waits for, by its own account.
#[derive(Default)]
struct Shadow {
    holds: Vec<(u64, Mode)>,
    wants: Option<(u64, Mode)>,
}

/// What a victim is told is a circle that it stands in; of two owners, both of whom stand still until it gives something
/// back, it is what they say themselves.
fn check(deadlock: &Deadlock, owner: u64, shadows: &[Mutex<Shadow>]) {
    let me = format!("p{owner}");
    assert_eq!(&*deadlock.victim, me);
    assert!(deadlock.waits.len() > 1, "{deadlock}");
    let waits = &deadlock.waits;
    for (nth, wait) in waits.iter().enumerate() {
        assert_eq!(wait.held_by, waits[(nth + 1) % waits.len()].owner, "{deadlock}");
        assert_eq!(waits.iter().filter(|other| other.owner == wait.owner).count(), 1, "{deadlock}");
    }
    let mine = waits.iter().find(|wait| *wait.owner == *me).expect("it stands in it");
    let wanted = shadows[owner as usize].lock().unwrap().wants.expect("it waits");
    assert_eq!((mine.wants.clone(), mine.share), (wanted.0.to_string(), Share::Lock(wanted.1)), "{deadlock}");
    if shadows.len() == 2 {
        let conflict = |(held, a): (u64, Mode), (name, b): (u64, Mode)| {
            held == name && !(a == Mode::Shared && b != X || b == Mode::Shared && a != X)
        };
        let [a, b] = [0, 1].map(|at: usize| shadows[at].lock().unwrap());
        for (one, other) in [(&a, &b), (&b, &a)] {
            let wants = one.wants.expect("both wait");
            assert!(other.holds.iter().any(|held| conflict(*held, wants)), "{deadlock}");
        }
    }
}

fn random_programs(seeds: std::ops::Range<u64>) -> u64 {
    let mut found = 0;
    for seed in seeds {
        let told = AtomicU64::new(0);
        let mut random = Rng::new(seed);
        let owners = 2 + random.below(7);
        let names = 2 + random.below(4);
        let climbs = random.one_in(3);
        let locks: LockManager<u64> = LockManager::new();
        let start = Barrier::new(owners as usize);
        let shadows: Vec<Mutex<Shadow>> = (0..owners).map(|_| Mutex::default()).collect();
        thread::scope(|scope| {
            for owner in 0..owners {
                let (locks, start, told, shadows) = (&locks, &start, &told, &shadows);
                scope.spawn(move || {
                    let mut random = Rng::new(seed * 31 + owner);
                    let job = locks.session_as(format!("p{owner}"), Priority::Normal);
                    start.wait();
                    for _ in 0..4 {
                        shadows[owner as usize].lock().unwrap().holds.clear();
                        let mut held = Vec::new();
                        let mut next = 0;
                        for _ in 0..1 + random.below(3) {
                            let name = if climbs { next + random.below(2) } else { random.below(names) };
                            next = name + 1;
                            let mode = [Mode::Shared, Mode::Upgradable, X][random.below(3) as usize];
                            shadows[owner as usize].lock().unwrap().wants = Some((name, mode));
                            let got = job.lock(&name, mode);
                            let mut shadow = shadows[owner as usize].lock().unwrap();
                            match &got {
                                Err(LockError::Deadlock(deadlock)) => {
                                    drop(shadow);
                                    check(deadlock, owner, shadows);
                                }
                                _ => {
                                    shadow.wants = None;
                                    shadow.holds.extend(got.as_ref().ok().map(|_| (name, mode)));
                                    drop(shadow);
                                }
                            }
                            match got {
                                Ok(mut guard) => {
                                    if mode == Mode::Upgradable && random.one_in(2) {
                                        shadows[owner as usize].lock().unwrap().wants = Some((name, X));
                                        let upgraded = guard.upgrade();
                                        if let Err(LockError::Deadlock(deadlock)) = &upgraded {
                                            check(deadlock, owner, shadows);
                                        }
                                        let mut shadow = shadows[owner as usize].lock().unwrap();
                                        shadow.wants = None;
                                        if upgraded.is_ok() {
                                            shadow.holds.push((name, X));
                                        }
                                        drop(shadow);
                                        match upgraded {
                                            // (It may share the lock as well.)
                                            Ok(()) | Err(LockError::Recursive { .. }) => {}
                                            Err(LockError::Deadlock(_)) if !climbs => {
                                                told.fetch_add(1, Ordering::Relaxed);
                                                break;
                                            }
                                            Err(error) => panic!("{error}"),
                                        }
                                    }
                                    held.push(guard);
                                }
                                Err(LockError::Recursive { .. }) => {}
                                Err(LockError::Deadlock(deadlock)) if !climbs => {
                                    assert!(deadlock.waits.len() > 1, "{deadlock}");
                                    told.fetch_add(1, Ordering::Relaxed);
                                    break;
                                }
                                Err(error) => panic!("{error}, in program {seed}"),
                            }
                            thread::yield_now();
                        }
                    }
                });
            }
        });
        // Each who was chosen was told, once.
        let told = told.into_inner();
        assert_eq!(locks.stats().deadlocks, told, "program {seed}");
        found += told;
        let job = locks.session();
        (0..9).for_each(|name| drop(job.try_lock(&name, X).expect("all is given back")));
    }
    found
}
