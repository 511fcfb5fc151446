//! Models of `core/laneword.rs`.
//!
//! Verified: each entry goes to exactly one remover; what was inserted before `add` is seen by who takes it; each
//! change to ready is reported exactly once (or undone by a reason); the order of `block_on` leaves no lane blocked
//! whose cause has passed.
//!
//! Not verified: that callers act on what is reported (the models of `ready` do that with a worker that sleeps);
//! the channel behind the tickets.

use batchyard::__model::laneword::{LaneWord, Reason, Take};
use batchyard_loom_tests::{Body, explore};

#[cfg(loom)]
use loom::{cell::UnsafeCell, sync::atomic::AtomicU32};
#[cfg(shuttle)]
use shuttle::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

fn loaded(entries: u32) -> LaneWord {
    let word = LaneWord::new();
    assert_eq!(word.add(entries), entries > 0);
    word
}

/// All of these are loop-free but for the CAS retries, so the second pass runs them too.
mod loop_free {
    use super::*;

    /// Two removers of different kinds, one entry: one gets it.
    #[test]
    fn one_entry_one_taker() {
        let bodies: [Body<LaneWord, bool>; 2] =
            [|word| matches!(word.take(), Take::Got { left: 0 }), |word| word.take_any()];
        explore(|| loaded(1), &bodies, |word, got| (got, word.pending()))
            .exactly([(vec![true, false], 0), (vec![false, true], 0)]);
    }

    /// A granted taker, a canceller and an ordinary worker on a lane that waits for a permit with two entries: the
    /// ordinary one is refused, the other two get one each.
    #[test]
    fn takers_of_a_blocked_lane() {
        let bodies: [Body<LaneWord, bool>; 3] =
            [|word| word.take() == Take::Blocked, |word| word.take_granted(), |word| word.take_any()];
        let setup = || {
            let word = loaded(2);
            word.block(Reason::Permit);
            word
        };
        // The ordinary taker may find it empty instead.
        explore(setup, &bodies, |word, got| (got, word.pending()))
            .exactly_together([(vec![true, true, true], 0), (vec![false, true, true], 0)]);
    }

    /// A reason set while an entry is taken: either order, never both `Blocked` and gone.
    #[test]
    fn block_and_take() {
        let bodies: [Body<LaneWord, Option<Take>>; 2] = [
            |word| {
                word.block(Reason::Paused);
                None
            },
            |word| Some(word.take()),
        ];
        explore(|| loaded(1), &bodies, |word, got| (got[1], word.pending(), word.is_ready()))
            .exactly([(Some(Take::Got { left: 0 }), 0, false), (Some(Take::Blocked), 1, false)]);
    }

    /// Two pushers and one who lifts a pause: exactly one of the three is told that the lane became ready.
    #[test]
    fn ready_is_reported_once() {
        let bodies: [Body<LaneWord, bool>; 3] =
            [|word| word.add(1), |word| word.add(1), |word| word.unblock(Reason::Paused)];
        let setup = || {
            let word = LaneWord::new();
            word.block(Reason::Paused);
            word
        };
        explore(setup, &bodies, |word, told| {
            assert!(word.is_ready());
            assert_eq!(told.iter().filter(|told| **told).count(), 1, "{told:?}");
            told
        })
        .exactly([vec![true, false, false], vec![false, true, false], vec![false, false, true]]);
    }

    const TAKEN: u32 = 0;
    const WAITED_FOR: u32 = 1;
    const FREE: u32 = 2;

    /// A lane, and the one permit it needs, with one place for a waiter.
    struct Cause {
        word: LaneWord,
        permit: AtomicU32,
    }

    impl Cause {
        fn step(&self, from: u32, to: u32) -> bool {
            self.permit.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
        }
    }

    fn blocker(s: &Cause) -> bool {
        // It has seen the permit taken; here it makes the lane wait for it.
        s.word.block_on(Reason::Permit, || _ = s.step(TAKEN, WAITED_FOR), || s.step(FREE, TAKEN))
    }

    /// Gives the permit back: hands it to the waiter, or leaves it free.
    fn granter(s: &Cause) -> bool {
        if s.step(TAKEN, FREE) {
            return false;
        }
        assert!(s.step(WAITED_FOR, TAKEN));
        s.word.unblock(Reason::Permit)
    }

    /// Blocking for a cause that passes meanwhile: the lane ends ready, and somebody was told so.
    #[test]
    fn block_on_and_unblock() {
        let bodies: [Body<Cause, bool>; 2] = [blocker, granter];
        let setup = || Cause { word: loaded(1), permit: AtomicU32::new(TAKEN) };
        explore(setup, &bodies, |s, told| {
            assert!(s.word.is_ready(), "blocked with nobody to lift it");
            assert!(told[0] || told[1], "ready with nobody told");
            told
        })
        .exactly([vec![true, false], vec![false, true]]);
    }

    /// The ticket brings the entry with it. (The taker looks once: `None` is "came too early".)
    #[cfg(loom)]
    #[test]
    fn ticket_shows_the_entry() {
        struct Lane {
            word: LaneWord,
            entry: UnsafeCell<u32>,
        }
        // The model's cell stands for the channel's slot; the word orders the accesses.
        unsafe impl Sync for Lane {}
        let bodies: [Body<Lane, Option<u32>>; 2] = [
            |s| {
                s.entry.with_mut(|entry| unsafe { *entry = 7 });
                assert!(s.word.add(1));
                None
            },
            |s| match s.word.take() {
                Take::Got { left: 0 } => Some(s.entry.with(|entry| unsafe { *entry })),
                _ => None,
            },
        ];
        explore(|| Lane { word: LaneWord::new(), entry: UnsafeCell::new(0) }, &bodies, |_, got| got[1])
            .exactly([None, Some(7)]);
    }
}

/// 12 threads that push, take in three ways, block and unblock: no entry is lost or doubled.
#[cfg(shuttle)]
#[test]
fn many_threads() {
    use batchyard_loom_tests::{Arc, thread};
    let model = || {
        let word = Arc::new(LaneWord::new());
        let spawn = |body: fn(&LaneWord) -> i64| {
            let word = word.clone();
            thread::spawn(move || body(&word))
        };
        let mut handles = Vec::new();
        for _ in 0..3 {
            handles.push(spawn(|word| {
                (0..3).for_each(|_| drop(word.add(1)));
                3
            }));
            handles.push(spawn(|word| -(0..2).map(|_| i64::from(word.take_any())).sum::<i64>()));
            handles.push(spawn(|word| {
                -(0..2).map(|_| i64::from(matches!(word.take(), Take::Got { .. }))).sum::<i64>()
            }));
            handles.push(spawn(|word| {
                word.block(Reason::Permit);
                let granted = i64::from(word.take_granted());
                let _ = word.unblock(Reason::Permit);
                -granted
            }));
        }
        let left: i64 = handles.into_iter().map(|handle| handle.join().unwrap()).sum();
        assert_eq!(i64::from(word.pending()), left);
    };
    shuttle::check_random(model, 2_000);
    shuttle::check_pct(model, 2_000, 3);
}
