//! Models of `core/lockword.rs`: who holds, in one word.
//!
//! Verified, for every interleaving and every value that the memory orders allow, in every spawn order: two that exclude each
//! other never hold at once, and of two who may upgrade one is refused; who enters sees what earlier holders did, whichever
//! way they left (from sharing, from holding all, by a downgrade), and that one of them panicked; so does who upgrades; no
//! holder is lost or counted twice; the last reader of two tells, if somebody waits, and only that one.
//!
//! Not verified here: whoever waits (`lockline`), the bar (unit tests; it is one compare).

use batchyard::__model::lockword::{After, LockWord, Mode};
use batchyard_loom_tests::{Guarded, explore};

const NORMAL: usize = 1;

struct Yard {
    word: LockWord,
    data: Guarded,
}

impl Yard {
    fn new() -> Self {
        Yard { word: LockWord::new(), data: Guarded::new() }
    }

    fn held(self, mode: Mode) -> Self {
        self.word.try_enter(mode, NORMAL, 5).expect("free for it");
        self
    }

    /// Holds it for a moment, if it can be had.
    fn pass(&self, mode: Mode, owner: u32) -> bool {
        let got = self.word.try_enter(mode, NORMAL, owner).is_ok();
        if got {
            self.touch(mode);
            self.leave(mode, owner);
        }
        got
    }

    /// As a lock does: at once, if that is all that the word says.
    fn leave(&self, mode: Mode, owner: u32) {
        if mode != Mode::Exclusive || !self.word.try_leave_at_once(owner) {
            assert_eq!(self.word.leave(mode, false), After::Nothing);
        }
    }

    /// As [`pass`](Self::pass), leaving as if others had changed the word.
    fn pass_slowly(&self, mode: Mode, owner: u32) -> bool {
        let got = self.word.try_enter(mode, NORMAL, owner).is_ok();
        if got {
            self.touch(mode);
            assert_eq!(self.word.leave(mode, false), After::Nothing);
        }
        got
    }

    /// As who closes it when it is at rest.
    fn end(&self) -> bool {
        let closed = self.word.try_enter_at_once(Mode::Exclusive, 0);
        if closed {
            self.data.touch();
            assert!(self.word.try_leave_quietly(Mode::Exclusive));
        }
        closed
    }

    /// Uses what it holds, and is done with it.
    fn leave_quietly(&self, mode: Mode) -> bool {
        self.touch(mode);
        self.word.try_leave_quietly(mode)
    }

    fn touch(&self, mode: Mode) {
        if mode == Mode::Exclusive { self.data.touch() } else { self.data.look() }
    }

    fn at_rest(&self) {
        assert_eq!(self.word.look(), LockWord::new().look());
    }
}

mod loop_free {
    use super::*;

    #[test]
    fn one_at_a_time() {
        explore(
            Yard::new,
            &[|y: &Yard| y.pass(Mode::Exclusive, 1), |y: &Yard| y.pass(Mode::Exclusive, 2)],
            |y, seen| {
                y.at_rest();
                (seen[0], seen[1])
            },
        )
        .exactly_together([(true, true), (true, false), (false, true)]);
        explore(
            Yard::new,
            &[|y: &Yard| y.pass_slowly(Mode::Exclusive, 1), |y: &Yard| y.pass(Mode::Exclusive, 2)],
            |y, seen| {
                y.at_rest();
                (seen[0], seen[1])
            },
        )
        .exactly_together([(true, true), (true, false), (false, true)]);
    }

    /// One who may upgrade reads; the other leaves in both ways.
    #[test]
    fn who_may_upgrade_and_who_wants_it_alone() {
        let ways: [fn(&Yard) -> bool; 2] =
            [|y| y.pass(Mode::Exclusive, 2), |y| y.pass_slowly(Mode::Exclusive, 2)];
        for pass in ways {
            explore(Yard::new, &[|y: &Yard| y.pass(Mode::Upgradable, 1), pass], |y, seen| {
                y.at_rest();
                (seen[0], seen[1])
            })
            .exactly_together([(true, true), (true, false), (false, true)]);
        }
    }

    /// Who closes it when it is at rest comes after all that held it, however it was held.
    #[test]
    fn who_finds_it_at_rest_comes_after_all_that_held_it() {
        let ways: [(Mode, fn(&Yard) -> bool); 3] = [
            (Mode::Exclusive, |y| y.leave_quietly(Mode::Exclusive)),
            (Mode::Upgradable, |y| y.leave_quietly(Mode::Upgradable)),
            (Mode::Shared, |y| y.leave_quietly(Mode::Shared)),
        ];
        for (mode, leave) in ways {
            explore(
                move || Yard::new().held(mode),
                &[leave, Yard::end],
                |y, seen| {
                    y.at_rest();
                    (seen[0], seen[1])
                },
            )
            .exactly_together([(true, true), (true, false)]);
        }
        let reads: fn(&Yard) -> bool = |y| y.leave_quietly(Mode::Shared);
        explore(
            || Yard::new().held(Mode::Shared).held(Mode::Shared),
            &[reads, reads, Yard::end],
            |y, seen| {
                y.at_rest();
                (seen[0], seen[1], seen[2])
            },
        )
        .exactly_together([(true, true, true), (true, true, false)]);
    }

    /// It leaves before one queues, and that one finds the lock free; or it finds that one, and has changed nothing.
    #[test]
    fn who_leaves_quietly_finds_who_waits() {
        let ways: [(Mode, fn(&Yard) -> bool); 3] = [
            (Mode::Exclusive, |y| y.leave_quietly(Mode::Exclusive)),
            (Mode::Upgradable, |y| y.leave_quietly(Mode::Upgradable)),
            (Mode::Shared, |y| y.leave_quietly(Mode::Shared)),
        ];
        for (mode, leave) in ways {
            let queues: fn(&Yard) -> bool = |y| {
                y.word.set_line(true, false, (2, 2));
                y.word.try_enter_at_once(Mode::Exclusive, 0)
            };
            explore(
                move || Yard::new().held(mode),
                &[leave, queues],
                move |y, seen| {
                    let expected = Yard::new();
                    if !seen[0] {
                        expected.word.try_enter(mode, NORMAL, 5).expect("free");
                    }
                    expected.word.set_line(true, false, (2, 2));
                    assert_eq!(y.word.look(), expected.word.look());
                    (seen[0], seen[1])
                },
            )
            .exactly_together([(true, false), (false, false)]);
        }
    }

    #[test]
    fn who_shares_and_who_wants_it_alone() {
        explore(
            Yard::new,
            &[|y: &Yard| y.pass(Mode::Shared, 0), |y: &Yard| y.pass(Mode::Exclusive, 2)],
            |y, seen| {
                y.at_rest();
                (seen[0], seen[1])
            },
        )
        .exactly_together([(true, true), (true, false), (false, true)]);
    }

    #[test]
    fn two_share_and_one_may_upgrade() {
        explore(
            Yard::new,
            &[|y: &Yard| y.pass(Mode::Upgradable, 1), |y: &Yard| y.pass(Mode::Shared, 0)],
            |y, seen| {
                y.at_rest();
                (seen[0], seen[1])
            },
        )
        .exactly([(true, true)]);
    }

    /// Two who hold it so would each wait for the other to leave. (One that shares it and wants more waits for itself: the
    /// lock refuses that, `tests/lock.rs`.)
    #[test]
    fn of_two_who_may_upgrade_one_is_refused() {
        let tries: fn(&Yard) -> bool = |y| {
            let got = y.word.try_enter(Mode::Upgradable, NORMAL, 1).is_ok();
            assert!(!got || y.word.try_upgrade());
            got
        };
        explore(Yard::new, &[tries, tries], |y, seen| {
            assert_eq!(y.word.look().mode(), Some(Mode::Exclusive));
            (seen[0], seen[1])
        })
        .exactly_together([(true, false), (false, true)]);
    }

    /// Who enters after it knows of it.
    #[test]
    fn who_enters_after_a_panic_sees_it() {
        explore(
            || Yard::new().held(Mode::Exclusive),
            &[
                |y: &Yard| {
                    assert_eq!(y.word.leave(Mode::Exclusive, true), After::Nothing);
                    None
                },
                |y: &Yard| {
                    let got = y.word.try_enter(Mode::Shared, NORMAL, 0).is_ok();
                    got.then(|| y.word.look().poisoned())
                },
            ],
            |y, seen| {
                assert!(y.word.look().poisoned());
                seen[1]
            },
        )
        .exactly_together([None, Some(true)]);
    }

    /// A reader that leaves, and the upgrade that it was in the way of.
    #[test]
    fn who_upgrades_sees_that_the_readers_are_gone() {
        explore(
            || Yard::new().held(Mode::Shared).held(Mode::Upgradable),
            &[
                |y: &Yard| {
                    y.data.look();
                    assert_eq!(y.word.leave(Mode::Shared, false), After::Nothing);
                    true
                },
                |y: &Yard| {
                    let up = y.word.try_upgrade_at_once(5) || y.word.try_upgrade();
                    y.touch(if up { Mode::Exclusive } else { Mode::Upgradable });
                    y.leave(if up { Mode::Exclusive } else { Mode::Upgradable }, 5);
                    up
                },
            ],
            |y, seen| {
                y.at_rest();
                seen[1]
            },
        )
        .exactly_together([true, false]);
    }

    #[test]
    fn a_downgrade_shows_what_was_written() {
        explore(
            || Yard::new().held(Mode::Exclusive),
            &[
                |y: &Yard| {
                    y.data.touch();
                    assert_eq!(y.word.weaken(Mode::Exclusive, Mode::Shared), After::Nothing);
                    y.data.look();
                    assert_eq!(y.word.leave(Mode::Shared, false), After::Nothing);
                    true
                },
                |y: &Yard| y.pass(Mode::Shared, 0),
            ],
            |y, seen| {
                y.at_rest();
                seen[1]
            },
        )
        .exactly_together([true, false]);
    }

    /// Two readers leave while one waits; nobody is told twice, and nobody is not.
    #[test]
    fn the_last_one_out_looks() {
        explore(
            || {
                let y = Yard::new().held(Mode::Shared).held(Mode::Shared);
                y.word.set_line(true, false, (2, 2));
                y
            },
            &[
                |y: &Yard| y.word.leave(Mode::Shared, false) == After::Look,
                |y: &Yard| y.word.leave(Mode::Shared, false) == After::Look,
            ],
            |y, seen| {
                assert!(y.word.look().is_free());
                (seen[0], seen[1])
            },
        )
        .exactly([(true, false), (false, true)]);
    }
}
