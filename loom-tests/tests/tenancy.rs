//! Models of `core/tenancy.rs`, on the lanes' own words and the ready set: a number that gets a new lane while a worker
//! looks at the old one.
//!
//! Verified: whatever the worker found under the number (the old lane, none, the new one), the new lane's entry ends
//! taken or its hint set; also when a third thread makes the new lane ready.
//!
//! Not verified: the table of lanes, which is a short latch (here one word, acquired and released); that callers count
//! before they look.

use batchyard::__model::laneword::{LaneWord, Reason, Take};
use batchyard::__model::ready::ReadySet;
use batchyard::__model::tenancy::Tenancy;
use batchyard_loom_tests::{Body, explore, explore_bounded};

#[cfg(loom)]
use loom::sync::atomic::AtomicUsize;
#[cfg(shuttle)]
use shuttle::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// What stands under number 0: an index into the words.
const NONE: usize = 0;
const OLD: usize = 1;
const NEW: usize = 2;

struct Number {
    set: ReadySet,
    tenancy: Tenancy,
    words: [LaneWord; 3],
    there: AtomicUsize,
}

/// The old lane is there, empty, with a hint that is stale.
fn number() -> Number {
    let words = [LaneWord::new(), LaneWord::new(), LaneWord::new()];
    let s = Number { set: ReadySet::new(0), tenancy: Tenancy::new(), words, there: AtomicUsize::new(OLD) };
    s.tenancy.move_in(0, || ());
    s.set.mark(0, 0);
    s
}

impl Number {
    /// What a worker does that has found the hint. Whether it got an entry.
    fn look(&self) -> bool {
        let then = self.tenancy.at(0);
        let word = &self.words[self.there.load(Ordering::Acquire)];
        let took = word.take();
        if !matches!(took, Take::Got { left: 1.. }) {
            self.tenancy.forget(&self.set, 0, 0, word, then);
        }
        matches!(took, Take::Got { .. })
    }

    fn push(&self) {
        if self.words[NEW].add(1) {
            self.set.mark(0, 0);
        }
    }

    /// The old lane leaves, the new one moves in.
    fn change(&self) {
        self.there.swap(NONE, Ordering::AcqRel);
        self.set.clear(0, 0, &self.words[NONE]);
        self.tenancy.move_in(0, || _ = self.there.swap(NEW, Ordering::AcqRel));
    }
}

/// The new lane's entry was taken, or a hint leads to it. (A hint may also be left behind: its setter came late.)
fn found(s: &Number, took: bool) -> (bool, u64) {
    let hint = s.set.bits(0);
    assert_eq!(s.words[NEW].pending(), u32::from(!took));
    assert!(took || hint == 1, "the new lane is ready, and nobody will look");
    (took, hint)
}

mod loop_free {
    use super::*;

    /// Who moves the lane in pushes to it too.
    #[test]
    fn look_and_change() {
        let bodies: [Body<Number, bool>; 2] = [
            |s| s.look(),
            |s| {
                s.change();
                s.push();
                false
            },
        ];
        explore(number, &bodies, |s, got| found(s, got[0])).exactly([(false, 1), (true, 0), (true, 1)]);
    }

    /// The lane moves in standing still; another pushes to it. Whoever comes second marks it.
    #[test]
    fn pushed_by_another() {
        let bodies: [Body<Number, bool>; 3] = [
            |s| s.look(),
            |s| {
                s.change();
                if s.words[NEW].unblock(Reason::Paused) {
                    s.set.mark(0, 0);
                }
                false
            },
            |s| {
                s.push();
                false
            },
        ];
        let setup = || {
            let s = number();
            s.words[NEW].block(Reason::Paused);
            s
        };
        explore_bounded(Some(3), setup, &bodies, |s, got| found(s, got[0])).exactly_together([
            (false, 1),
            (true, 0),
            (true, 1),
        ]);
    }
}
