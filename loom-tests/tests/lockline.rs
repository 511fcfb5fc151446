//! Models of `core/lockline.rs`: who waits for a lock.
//!
//! Verified, for every interleaving (of at most two preemptions) and every value that the memory orders allow, in every spawn
//! order: nobody who waits is forgotten, or the model deadlocks, also when one that was told, or that kept others out, gives
//! up; a grant against a deadline has one winner; two that exclude each other never hold at once, and see what the other
//! did; an upgrade ends as the only holder, or as it was, and readers that it kept out get in; at the end the word is at
//! rest.
//!
//! Not verified here: the order, ageing and the bound on overtaking (a property test on a clock moved by hand); the yields
//! before the queue; more than three threads (the shuttle test below runs nine).

use batchyard::__model::lockline::{Left, RawLock};
use batchyard::__model::lockword::{LockWord, Mode};
use batchyard_loom_tests::{Guarded, explore_bounded};

use Mode::{Exclusive, Shared, Upgradable};

const BOUND: Option<usize> = Some(2);

struct Yard {
    lock: RawLock,
    data: Guarded,
}

impl Yard {
    fn held(modes: &[Mode]) -> Self {
        let lock = RawLock::new();
        modes.iter().for_each(|mode| lock.word().try_enter(*mode, 1, 9).expect("free for it"));
        Yard { lock, data: Guarded::new() }
    }

    fn touch(&self, mode: Mode) {
        if mode == Exclusive { self.data.touch() } else { self.data.look() }
    }

    /// Uses what the caller holds, and gives it back.
    fn end(&self, mode: Mode) {
        self.touch(mode);
        self.lock.leave_alone(mode);
    }

    fn pass(&self, mode: Mode, timed: bool) -> Result<(), Left> {
        let got = self.lock.enter_alone(mode, 1, 3, timed);
        if got.is_ok() {
            self.end(mode);
        }
        got
    }

    /// The caller holds it so that it may upgrade.
    fn upgrade(&self, timed: bool) -> Result<(), Left> {
        let got = self.lock.upgrade_alone(timed);
        self.end(if got.is_ok() { Exclusive } else { Upgradable });
        got
    }

    fn at_rest(&self) {
        assert_eq!(self.lock.word().look(), LockWord::new().look());
    }
}

mod loop_free {
    use super::*;

    #[test]
    fn who_waits_gets_what_is_given_back() {
        for held in [Exclusive, Shared, Upgradable] {
            let held = [held];
            explore_bounded(
                None,
                move || Yard::held(&held),
                &[
                    |y: &Yard| {
                        y.end(y.lock.word().look().mode().expect("held"));
                        Ok(())
                    },
                    |y: &Yard| y.pass(Exclusive, false),
                ],
                |y, seen| {
                    y.at_rest();
                    seen[1]
                },
            )
            .exactly([Ok(())]);
        }
    }

    #[test]
    fn a_grant_against_a_deadline_has_one_winner() {
        for mode in [0, 1] {
            explore_bounded(
                None,
                || Yard::held(&[Exclusive]),
                &[
                    |y: &Yard| {
                        y.end(Exclusive);
                        Ok(())
                    },
                    if mode == 0 {
                        |y: &Yard| y.pass(Exclusive, true)
                    } else {
                        |y: &Yard| y.pass(Shared, true)
                    },
                ],
                |y, seen| {
                    y.at_rest();
                    seen[1]
                },
            )
            .exactly_together([Ok(()), Err(Left::GaveUp)]);
        }
    }
}

/// The one that is told gives up; the other must hear of it.
#[test]
fn who_gives_up_passes_on_what_it_was_told() {
    explore_bounded(
        BOUND,
        || Yard::held(&[Exclusive]),
        &[
            |y: &Yard| {
                y.end(Exclusive);
                Ok(())
            },
            |y: &Yard| y.pass(Exclusive, true),
            |y: &Yard| y.pass(Exclusive, false),
        ],
        |y, seen| {
            y.at_rest();
            (seen[1], seen[2])
        },
    )
    .exactly_together([(Ok(()), Ok(())), (Err(Left::GaveUp), Ok(()))]);
}

/// One that wants it alone keeps a reader out, and gives up while another reads, or after.
#[test]
fn who_gives_up_lets_in_whom_it_kept_out() {
    explore_bounded(
        BOUND,
        || Yard::held(&[Shared]),
        &[
            |y: &Yard| {
                y.end(Shared);
                Ok(())
            },
            |y: &Yard| y.pass(Exclusive, true),
            |y: &Yard| y.pass(Shared, false),
        ],
        |y, seen| {
            y.at_rest();
            (seen[1], seen[2])
        },
    )
    .exactly_together([(Ok(()), Ok(())), (Err(Left::GaveUp), Ok(()))]);
}

#[test]
fn an_upgrade_waits_for_the_readers() {
    explore_bounded(
        BOUND,
        || Yard::held(&[Shared, Upgradable]),
        &[
            |y: &Yard| {
                y.end(Shared);
                Ok(())
            },
            |y: &Yard| y.upgrade(false),
            |y: &Yard| y.pass(Shared, false),
        ],
        |y, seen| {
            y.at_rest();
            (seen[1], seen[2])
        },
    )
    .exactly([(Ok(()), Ok(()))]);
}

/// The upgrade gives up; the reader that it kept out gets in, and those who leave meanwhile are counted.
#[test]
fn an_upgrade_that_gives_up_leaves_all_as_it_was() {
    explore_bounded(
        BOUND,
        || Yard::held(&[Shared, Upgradable]),
        &[
            |y: &Yard| {
                y.end(Shared);
                Ok(())
            },
            |y: &Yard| y.upgrade(true),
            |y: &Yard| y.pass(Shared, false),
        ],
        |y, seen| {
            y.at_rest();
            (seen[1], seen[2])
        },
    )
    .exactly_together([(Ok(()), Ok(())), (Err(Left::GaveUp), Ok(()))]);
}

/// A reader that waits gets in when the exclusive holder shares, not only when it leaves.
#[test]
fn a_downgrade_lets_readers_in() {
    explore_bounded(
        BOUND,
        || Yard::held(&[Exclusive]),
        &[
            |y: &Yard| {
                y.data.touch();
                y.lock.weaken_alone(Exclusive, Shared);
                Ok(()) // it goes on reading
            },
            |y: &Yard| y.pass(Shared, false),
            |y: &Yard| y.pass(Upgradable, false),
        ],
        |y, seen| {
            y.lock.leave_alone(Shared);
            y.at_rest();
            (seen[1], seen[2])
        },
    )
    .exactly([(Ok(()), Ok(()))]);
}

/// A downgrade beside one that wants it alone, and a reader.
#[test]
fn a_downgrade_beside_both() {
    explore_bounded(
        BOUND,
        || Yard::held(&[Exclusive]),
        &[
            |y: &Yard| {
                y.data.touch();
                y.lock.weaken_alone(Exclusive, Shared);
                y.end(Shared);
                Ok(())
            },
            |y: &Yard| y.pass(Exclusive, false),
            |y: &Yard| y.pass(Shared, false),
        ],
        |y, seen| {
            y.at_rest();
            (seen[1], seen[2])
        },
    )
    .exactly([(Ok(()), Ok(()))]);
}

/// One is told, another barges.
#[test]
fn a_barger_and_one_that_was_told() {
    explore_bounded(
        BOUND,
        || Yard::held(&[Exclusive]),
        &[
            |y: &Yard| {
                y.end(Exclusive);
                true
            },
            |y: &Yard| y.pass(Exclusive, false).is_ok(),
            |y: &Yard| {
                let got = y.lock.word().try_enter(Exclusive, 1, 4).is_ok();
                if got {
                    y.end(Exclusive);
                }
                got
            },
        ],
        |y, seen| {
            y.at_rest();
            (seen[1], seen[2])
        },
    )
    .exactly_together([(true, true), (true, false)]);
}
