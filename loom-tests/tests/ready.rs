//! Models of `core/ready.rs`, on the lanes' own words: no lost entry, no lost wake-up. A worker sleeps without a
//! deadline here, so a lost wake-up is a deadlock, which loom reports.
//!
//! Verified: a push against the clearing of its hint; a setter that leaves the work to a searcher against the
//! searcher that gives up; a sleeper's withdrawal against its being chosen; the search passed on from worker to
//! worker; a grant served once; blocking and unblocking with a worker asleep; waking everybody against falling asleep.
//!
//! Not verified: the second look of a setter (or of `notify_all`) whose claim got nobody, which takes two setters and
//! two workers to matter (argued in `notify`; shuttle's `no_wake_up_is_lost` runs it); the channel behind the words; how long a wake-up takes; more than two workers with the memory
//! orders (shuttle runs twelve, sequentially consistent); `register` against a wake-up of the same number.

use batchyard::__model::laneword::{LaneWord, Reason, Take};
use batchyard::__model::ready::{ReadySet, Sleeper};
use batchyard_loom_tests::{Body, explore, explore_bounded};

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicU32};
#[cfg(shuttle)]
use shuttle::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::atomic::Ordering;

/// The models with three threads, or with many steps, have too many steps to be explored whole.
const BOUND: Option<usize> = Some(2);

// The permit of the models that block, with one place for a waiter.
const TAKEN: u32 = 0;
const WAITED_FOR: u32 = 1;
const FREE: u32 = 2;

/// One lane (number 0, class 0) and its workers.
struct Yard {
    set: ReadySet,
    word: LaneWord,
    sleepers: Vec<Sleeper>,
    flag: AtomicBool,
    permit: AtomicU32,
}

fn yard(workers: usize) -> Yard {
    let set = ReadySet::new(workers);
    let sleepers = (0..workers).map(|worker| Sleeper::new(&set, worker)).collect();
    let (flag, permit) = (AtomicBool::new(false), AtomicU32::new(TAKEN));
    Yard { set, word: LaneWord::new(), sleepers, flag, permit }
}

impl Yard {
    /// What a producer does.
    fn push(&self, entries: u32) {
        if self.word.add(entries) {
            self.set.mark(0, 0);
        }
    }

    /// What a worker does: looks at the hints, takes, clears what is stale.
    fn find(&self) -> Option<u32> {
        if self.set.bits(0) & 1 == 0 {
            return None;
        }
        match self.word.take() {
            Take::Got { left } => {
                if left == 0 {
                    self.set.clear(0, 0, &self.word);
                }
                Some(left)
            }
            Take::Empty | Take::Blocked => {
                self.set.clear(0, 0, &self.word);
                None
            }
        }
    }

    fn step(&self, from: u32, to: u32) -> bool {
        self.permit.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn work(&self, worker: usize) -> u32 {
        self.sleepers[worker].wait(&self.set, || self.find())
    }

    /// At the end: no entry left, no grant left. (A hint may be: its setter came after the entry had gone.)
    fn done(&self) {
        assert_eq!((self.word.pending(), self.set.admitted_bits()), (0, 0));
    }
}

/// Models without loops but for CAS retries: the second pass runs them too.
mod loop_free {
    use super::*;

    /// A push against a worker that finds the lane empty and clears its (stale) hint: the hint ends set.
    #[test]
    fn clear_and_push() {
        let bodies: [Body<Yard, ()>; 2] = [
            |s| s.push(1),
            |s| {
                assert!(s.word.take_any());
                s.set.clear(0, 0, &s.word);
            },
        ];
        let setup = || {
            let s = yard(0);
            s.push(1);
            s
        };
        explore(setup, &bodies, |s, _| {
            assert_eq!(s.word.pending(), 1);
            s.set.bits(0)
        })
        .exactly([1]);
    }

    /// One grant, two workers: one serves it.
    #[test]
    fn grant_is_served_once() {
        let bodies: [Body<Yard, bool>; 2] = [|s| s.set.take_admitted(0), |s| s.set.take_admitted(0)];
        let setup = || {
            let s = yard(0);
            s.set.admit(0);
            s
        };
        explore(setup, &bodies, |s, got| {
            s.done();
            got
        })
        .exactly([vec![true, false], vec![false, true]]);
    }

    /// Who takes the grant sees what the granter did. (The taker looks once: `None` is "came too early".)
    #[cfg(loom)]
    #[test]
    fn grant_brings_its_permits() {
        struct Granted {
            set: ReadySet,
            permits: loom::cell::UnsafeCell<u32>,
        }
        // The cell stands for what the granter deducted; the admitted bit orders the accesses.
        unsafe impl Sync for Granted {}
        let bodies: [Body<Granted, Option<u32>>; 2] = [
            |s| {
                s.permits.with_mut(|permits| unsafe { *permits = 3 });
                s.set.admit(0);
                None
            },
            |s| s.set.take_admitted(0).then(|| s.permits.with(|permits| unsafe { *permits })),
        ];
        let setup = || Granted { set: ReadySet::new(0), permits: loom::cell::UnsafeCell::new(0) };
        explore(setup, &bodies, |_, got| got[1]).exactly([None, Some(3)]);
    }

    /// A worker that falls asleep against a push: it ends with the entry.
    #[test]
    fn push_and_sleep() {
        let bodies: [Body<Yard, u32>; 2] = [
            |s| {
                s.push(1);
                0
            },
            |s| s.work(0),
        ];
        explore(
            || yard(1),
            &bodies,
            |s, got| {
                s.done();
                got[1]
            },
        )
        .exactly([0]);
    }

    /// A grant against a worker that falls asleep.
    #[test]
    fn admit_and_sleep() {
        let bodies: [Body<Yard, ()>; 2] = [
            |s| s.set.admit(0),
            |s| {
                s.sleepers[0]
                    .wait(&s.set, || (s.set.admitted_bits() & 1 != 0 && s.set.take_admitted(0)).then_some(()))
            },
        ];
        explore(|| yard(1), &bodies, |s, _| s.done()).exactly([()]);
    }

    /// Shutdown against a worker that falls asleep: it sees the flag.
    #[test]
    fn notify_all_and_sleep() {
        let bodies: [Body<Yard, ()>; 2] = [
            |s| {
                s.flag.store(true, Ordering::Relaxed);
                s.set.notify_all();
            },
            |s| s.sleepers[0].wait(&s.set, || s.flag.load(Ordering::Relaxed).then_some(())),
        ];
        explore(|| yard(1), &bodies, |_, _| ()).exactly([()]);
    }
}

/// The same with sleeps that end early: the entry is found, and the counts come out even (a second round sleeps and
/// is woken again).
#[cfg(loom)]
#[test]
fn sleep_that_ends_early() {
    let bodies: [Body<Yard, u32>; 2] = [
        |s| {
            s.push(1);
            0
        },
        |s| s.sleepers[0].wait_timed(&s.set, || s.find()),
    ];
    explore(
        || yard(1),
        &bodies,
        |s, got| {
            s.done();
            got[1]
        },
    )
    .exactly([0]);
}

/// Two pushes, one worker that comes twice: nothing of the first round (a late token, a count) spoils the second.
#[test]
fn two_rounds() {
    let bodies: [Body<Yard, u32>; 2] = [
        |s| {
            s.push(1);
            s.push(1);
            0
        },
        |s| s.work(0) + s.work(0),
    ];
    explore_bounded(
        BOUND,
        || yard(1),
        &bodies,
        |s, got| {
            s.done();
            got[1]
        },
    )
    .exactly([0, 1]);
}

/// Two producers, one worker that comes twice.
#[test]
fn two_producers() {
    let push: Body<Yard, u32> = |s| {
        s.push(1);
        0
    };
    let bodies: [Body<Yard, u32>; 3] = [push, push, |s| s.work(0) + s.work(0)];
    explore_bounded(
        BOUND,
        || yard(1),
        &bodies,
        |s, got| {
            s.done();
            got[2]
        },
    )
    .exactly([0, 1]);
}

/// One push of two entries wakes one worker at most; that one has to pass the search on, or the other sleeps on.
#[test]
fn search_is_passed_on() {
    let bodies: [Body<Yard, u32>; 3] = [
        |s| {
            s.push(2);
            9
        },
        |s| s.work(0),
        |s| s.work(1),
    ];
    explore_bounded(
        BOUND,
        || yard(2),
        &bodies,
        |s, got| {
            s.done();
            got
        },
    )
    .exactly([vec![9, 0, 1], vec![9, 1, 0]]);
}

/// Two pushes with two workers: a push may leave its entry to a searcher that takes the other's.
#[test]
fn two_pushes_two_workers() {
    let bodies: [Body<Yard, u32>; 3] = [
        |s| {
            s.push(1);
            s.push(1);
            9
        },
        |s| s.work(0),
        |s| s.work(1),
    ];
    explore_bounded(
        BOUND,
        || yard(2),
        &bodies,
        |s, got| {
            s.done();
            got
        },
    )
    .exactly([vec![9, 0, 0], vec![9, 0, 1], vec![9, 1, 0]]);
}

/// A lane with an entry waits for a permit that comes back meanwhile, and its worker sleeps: it gets the entry.
#[test]
fn block_on_and_sleep() {
    let bodies: [Body<Yard, u32>; 3] = [
        // Somebody finds the permit taken and makes the lane wait for it.
        |s| {
            let ready =
                s.word.block_on(Reason::Permit, || _ = s.step(TAKEN, WAITED_FOR), || s.step(FREE, TAKEN));
            if ready {
                s.set.mark(0, 0);
            }
            0
        },
        // The permit comes back: to the waiter, or to be free.
        |s| {
            if !s.step(TAKEN, FREE) {
                assert!(s.step(WAITED_FOR, TAKEN));
                if s.word.unblock(Reason::Permit) {
                    s.set.mark(0, 0);
                }
            }
            0
        },
        |s| s.work(0),
    ];
    let setup = || {
        let s = yard(1);
        s.push(1);
        s
    };
    explore_bounded(BOUND, setup, &bodies, |s, got| {
        assert!(!s.word.blocked_by(Reason::Permit));
        assert_eq!(s.word.pending(), 0);
        got[2]
    })
    .exactly([0]);
}

/// A pause and its end against a worker that falls asleep.
#[test]
fn pause_and_sleep() {
    let bodies: [Body<Yard, u32>; 2] = [
        |s| {
            s.word.block(Reason::Paused);
            if s.word.unblock(Reason::Paused) {
                s.set.mark(0, 0);
            }
            0
        },
        |s| s.work(0),
    ];
    let setup = || {
        let s = yard(1);
        s.push(1);
        s
    };
    explore_bounded(Some(3), setup, &bodies, |s, got| {
        assert_eq!(s.word.pending(), 0);
        got[1]
    })
    .exactly([0]);
}

/// 8 workers, 4 producers, a pauser; shutdown at the end. Every entry is taken and every worker comes home.
#[cfg(shuttle)]
#[test]
fn many_threads() {
    use batchyard_loom_tests::{Arc, thread};
    let model = || {
        let s = Arc::new(yard(8));
        let workers: Vec<_> = (0..8)
            .map(|worker| {
                let s = s.clone();
                thread::spawn(move || {
                    let mut taken = 0;
                    let find = || s.find().map(|_| 1).or_else(|| s.flag.load(Ordering::Acquire).then_some(0));
                    while s.sleepers[worker].wait(&s.set, find) == 1 {
                        taken += 1;
                    }
                    taken
                })
            })
            .collect();
        let mut others: Vec<_> = (0..4)
            .map(|_| {
                let s = s.clone();
                thread::spawn(move || (1..=3).for_each(|n| s.push(n)))
            })
            .collect();
        others.push({
            let s = s.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    s.word.block(Reason::Paused);
                    if s.word.unblock(Reason::Paused) {
                        s.set.mark(0, 0);
                    }
                }
            })
        });
        others.into_iter().for_each(|other| other.join().unwrap());
        s.flag.store(true, Ordering::Release);
        s.set.notify_all();
        let taken: u32 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        assert_eq!((taken, s.word.pending()), (24, 0));
    };
    shuttle::check_random(model, 2_000);
    shuttle::check_pct(model, 2_000, 3);
}

/// As many workers as entries, each takes one and no shutdown helps: a lost wake-up would be a deadlock.
#[cfg(shuttle)]
#[test]
fn no_wake_up_is_lost() {
    use batchyard_loom_tests::{Arc, thread};
    let model = || {
        let s = Arc::new(yard(8));
        let mut handles: Vec<_> = (0..8)
            .map(|worker| {
                let s = s.clone();
                thread::spawn(move || drop(s.work(worker)))
            })
            .collect();
        for entries in [1, 2, 2, 3] {
            let s = s.clone();
            handles.push(thread::spawn(move || s.push(entries)));
        }
        // Waking everybody for nothing must not swallow a wake-up either.
        handles.push({
            let s = s.clone();
            thread::spawn(move || s.set.notify_all())
        });
        handles.into_iter().for_each(|handle| handle.join().unwrap());
        s.done();
    };
    shuttle::check_random(model, 5_000);
    shuttle::check_pct(model, 5_000, 3);
}
