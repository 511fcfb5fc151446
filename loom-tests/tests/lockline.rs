//! Models of `core/lockline.rs`: who waits for a lock.
//!
//! Verified, for every interleaving (of at most two preemptions) and every value that the memory orders allow, in every spawn
//! order: nobody who waits is forgotten, or the model deadlocks, also when one that was told, or that kept others out, gives
//! up; a grant against a deadline has one winner; two that exclude each other never hold at once, and see what the other
//! did; an upgrade ends as the only holder, or as it was, and readers that it kept out get in; at the end the word is at
//! rest.
//!
//! What can go wrong with a lock like this one has gone wrong in others: the eleven that a lock has to be checked for, and the
//! bugs that were found there.
//!
//! | what | model | the bug, as a mutant |
//! |---|---|---|
//! | a grant against a deadline, and a second waiter | `a_grant_against_a_deadline_has_one_winner`, `who_gives_up_passes_on_what_it_was_told`, `who_gives_up_lets_in_whom_it_kept_out` | `lockline_loser_drops`; `lockline_leaver_silent` (LLVM #201937: who times out swallows the wake) |
//! | an upgrade's drain: the last reader, the deadline, a new reader | `an_upgrade_that_gives_up_leaves_all_as_it_was`, `an_upgrade_waits_for_the_readers` | `lockword_upgrade_writes_back` (boost #362, parking_lot #465: a saved count is written back), `lockword_drained_relaxed` |
//! | an upgrade that needs no waiting, in its quick, slow and timed form | `who_upgrades_sees_that_the_readers_are_gone` (`lockword`), and both above | `lockword_upgrade_relaxed` (parking_lot's `try_upgrade_slow` and `_for`) |
//! | a downgrade against a writer and readers that wait | `a_downgrade_lets_readers_in`, `a_downgrade_beside_both` | `lockline_downgrade_silent`, `lockword_weaken_relaxed` |
//! | one that was told, one that barges, and the deadline | `a_barger_and_one_that_was_told`, `who_comes_too_late_lets_in_who_may_enter`, `who_was_told_gives_up_beside_a_barger`, `who_was_told_is_handed_the_lock`, `who_is_handed_the_lock_is_told_no_longer` | `lockline_come_keeps_told`, `lockline_come_silent`, `lockline_told_clears_late`, `lockline_granted_clears_late`, `lockline_handed_stays_told` |
//! | a cancel, as it comes to victims of a deadlock, against a grant and a deadline | `a_cancel_ends_a_wait`, `a_cancel_against_a_grant_and_a_deadline` | `cancel_wakes_first` |
//! | who enters the list of those who wait, and leaves it, against a walk | `of_two_in_a_circle_one_is_told`, `what_is_looked_at_stands_still` (`roll`) | `roll_looks_first`, `roll_tells_silently`, `roll_stays` |
//! | a node's life: what its granter does with it comes before its end | all; `a_node_is_its_owners_when_it_is_granted` | `lockline_publishes_first` |
//! | a panic that is remembered, in the step that gives back | `who_enters_after_a_panic_sees_it` (`lockword`), `who_is_handed_the_lock_after_a_panic_sees_it` | `lockword_poison_apart`, `lockword_poison_lost` |
//! | two who upgrade: one is refused | `of_two_who_may_upgrade_one_is_refused` (`lockword`): by the mode; that who shares it asks for more is refused at once (`tests/lock.rs`) | none: it is the exclusion of the modes |
//! | readers with words of their own, and how that is revoked | there are none: all readers count in one word | |
//!
//! And who is let past the others: `a_reader_is_let_past_an_upgrade`, `a_reader_is_let_past_a_writer`,
//! `a_writer_is_let_past_a_writer`.
//!
//! A lock tries before it queues, gives back, or waits to upgrade. With two threads the models do so, too; with three they
//! begin with the queue (`…_in_line`), or they would be too large; the shuttle tests do both.
//!
//! Not verified here: the order, ageing and the bound on overtaking (property tests on a clock moved by hand,
//! `core/lockline/laws.rs`); the yields before the queue; more than three threads (the shuttle tests below run eight to
//! sixteen).

use batchyard::__model::lockline::{Cancel, Hastened, Left, Place, RawLock};
use batchyard::__model::lockword::{LockWord, Mode};
use batchyard_loom_tests::{Guarded, explore_bounded};

use Mode::{Exclusive, Shared, Upgradable};

const BOUND: Option<usize> = Some(2);
/// The number of who holds the lock when the model begins.
const HOLDER: u32 = 9;

struct Yard {
    lock: RawLock,
    data: Guarded,
    /// Those who wait when the model begins.
    places: Vec<Place>,
    cancel: Cancel,
}

impl Yard {
    fn held(modes: &[Mode]) -> Self {
        let lock = RawLock::new();
        modes.iter().for_each(|mode| lock.word().try_enter(*mode, 1, HOLDER).expect("free for it"));
        Yard { lock, data: Guarded::new(), places: Vec::new(), cancel: Cancel::new() }
    }

    /// With one more who waits.
    fn waiting(mut self, mode: Mode, owner: u32) -> Self {
        self.places.push(self.lock.queue_up(mode, 1, owner));
        self
    }

    /// With the upgradable holder waiting for the readers.
    fn upgrading(mut self) -> Self {
        self.places.push(self.lock.queue_upgrade());
        self
    }

    /// What one of those waits for, used and given back.
    fn wait(&self, place: usize, mode: Mode, timed: bool, cancel: Option<&Cancel>) -> Result<(), Left> {
        let got = self.lock.wait_at(&self.places[place], timed, cancel);
        if got.is_ok() {
            self.end_as(mode, self.places[place].owner());
        }
        got
    }

    fn touch(&self, mode: Mode) {
        if mode == Exclusive { self.data.touch() } else { self.data.look() }
    }

    /// Uses what was held from the beginning, and gives it back.
    fn end(&self, mode: Mode) {
        self.end_as(mode, HOLDER);
    }

    /// The same, of what this one holds.
    fn end_as(&self, mode: Mode, owner: u32) {
        self.touch(mode);
        self.lock.leave_alone(mode, owner);
    }

    fn pass(&self, mode: Mode, timed: bool) -> Result<(), Left> {
        let got = self.lock.enter_alone(mode, 1, 3, timed);
        if got.is_ok() {
            self.end_as(mode, 3);
        }
        got
    }

    /// The same, for who has tried, and found the lock as it was then: it queues at once.
    fn pass_in_line(&self, mode: Mode, timed: bool) -> Result<(), Left> {
        let got = self.lock.enter_in_line(mode, 1, 3, timed);
        if got.is_ok() {
            self.end_as(mode, 3);
        }
        got
    }

    /// The caller holds it so that it may upgrade.
    fn upgrade(&self, timed: bool) -> Result<(), Left> {
        let got = self.lock.upgrade_alone(HOLDER, timed);
        self.end(if got.is_ok() { Exclusive } else { Upgradable });
        got
    }

    /// The same, for who has tried.
    fn upgrade_in_line(&self, timed: bool) -> Result<(), Left> {
        let got = self.lock.upgrade_in_line(timed);
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
        let ways: [fn(&Yard) -> Result<(), Left>; 2] =
            [|y| y.pass(Exclusive, false), |y| y.pass_in_line(Exclusive, false)];
        for (held, pass) in
            [Exclusive, Shared, Upgradable].into_iter().flat_map(|held| ways.map(|pass| (held, pass)))
        {
            let held = [held];
            explore_bounded(
                None,
                move || Yard::held(&held),
                &[
                    |y: &Yard| {
                        y.end(y.lock.word().look().mode().expect("held"));
                        Ok(())
                    },
                    pass,
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
        let ways: [fn(&Yard) -> Result<(), Left>; 4] = [
            |y| y.pass(Exclusive, true),
            |y| y.pass(Shared, true),
            |y| y.pass_in_line(Exclusive, true),
            |y| y.pass_in_line(Shared, true),
        ];
        for pass in ways {
            explore_bounded(
                None,
                || Yard::held(&[Exclusive]),
                &[
                    |y: &Yard| {
                        y.end(Exclusive);
                        Ok(())
                    },
                    pass,
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
            |y: &Yard| y.pass_in_line(Exclusive, true),
            |y: &Yard| y.pass_in_line(Exclusive, false),
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
            |y: &Yard| y.pass_in_line(Exclusive, true),
            |y: &Yard| y.pass_in_line(Shared, false),
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
            |y: &Yard| y.upgrade_in_line(false),
            |y: &Yard| y.pass_in_line(Shared, false),
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
            |y: &Yard| y.upgrade_in_line(true),
            |y: &Yard| y.pass_in_line(Shared, false),
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
        || Yard::held(&[Exclusive]).waiting(Upgradable, 4),
        &[
            |y: &Yard| {
                y.data.touch();
                y.lock.weaken_alone(Exclusive, Shared);
                Ok(()) // it goes on reading
            },
            |y: &Yard| y.pass_in_line(Shared, false),
            |y: &Yard| y.wait(0, Upgradable, false, None),
        ],
        |y, seen| {
            y.lock.leave_alone(Shared, 0);
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
        || Yard::held(&[Exclusive]).waiting(Exclusive, 4),
        &[
            |y: &Yard| {
                y.data.touch();
                y.lock.weaken_alone(Exclusive, Shared);
                y.end(Shared);
                Ok(())
            },
            |y: &Yard| y.wait(0, Exclusive, false, None),
            |y: &Yard| y.pass_in_line(Shared, false),
        ],
        |y, seen| {
            y.at_rest();
            (seen[1], seen[2])
        },
    )
    .exactly([(Ok(()), Ok(()))]);
}

/// One is told, another barges; with a deadline and without.
#[test]
fn a_barger_and_one_that_was_told() {
    let barges: fn(&Yard) -> Result<(), Left> = |y| {
        let got = y.lock.word().try_enter(Exclusive, 1, 5).is_ok();
        if got {
            y.end_as(Exclusive, 5);
        }
        if got { Ok(()) } else { Err(Left::GaveUp) }
    };
    let leaves: fn(&Yard) -> Result<(), Left> = |y| {
        y.end(Exclusive);
        Ok(())
    };
    let late = Err(Left::GaveUp);
    explore_bounded(
        BOUND,
        || Yard::held(&[Exclusive]).waiting(Exclusive, 3),
        &[leaves, barges, |y| y.wait(0, Exclusive, false, None)],
        |y, seen| {
            y.at_rest();
            (seen[2], seen[1])
        },
    )
    .exactly_together([(Ok(()), Ok(())), (Ok(()), late)]);
    explore_bounded(
        BOUND,
        || Yard::held(&[Exclusive]).waiting(Exclusive, 3),
        &[leaves, barges, |y| y.wait(0, Exclusive, true, None)],
        |y, seen| {
            y.at_rest();
            (seen[2], seen[1])
        },
    )
    .exactly_together([(Ok(()), Ok(())), (Ok(()), late), (late, Ok(())), (late, late)]);
}

/// One was told, another barged, and a reader of a higher class came to wait: while one that was told is to come, nobody looks. It
/// finds that others share the lock, and the reader is to enter beside them: they may be waiting for it.
#[test]
fn who_comes_too_late_lets_in_who_may_enter() {
    let setup = || {
        let mut yard = Yard::held(&[Exclusive]);
        yard.places.push(yard.lock.queue_up(Exclusive, 0, 4));
        yard.lock.leave_alone(Exclusive, HOLDER);
        yard.lock.word().try_enter(Exclusive, 1, HOLDER).expect("it may barge");
        yard.waiting(Shared, 3)
    };
    explore_bounded(
        BOUND,
        setup,
        &[
            |y: &Yard| {
                y.end(Exclusive);
                let shares = y.lock.word().try_enter(Shared, 1, 0).is_ok();
                y.wait(1, Shared, false, None).expect("untimed");
                if shares {
                    y.end(Shared);
                }
                shares
            },
            |y: &Yard| y.wait(0, Exclusive, false, None).is_ok(),
        ],
        |y, seen| {
            y.at_rest();
            seen[0]
        },
    )
    .exactly_together([true, false]);
}

/// Of two who wait the first is told, and gives up while a third, who barged, gives the lock back: it is not to trust to the
/// one that was told, for the second would wait for ever. At least one of the two has had the lock.
#[test]
fn who_was_told_gives_up_beside_a_barger() {
    explore_bounded(
        BOUND,
        || Yard::held(&[Exclusive]).waiting(Exclusive, 4).waiting(Exclusive, 3),
        &[
            |y: &Yard| {
                y.end(Exclusive);
                let barges = y.lock.word().try_enter(Exclusive, 1, HOLDER).is_ok();
                if barges {
                    y.end(Exclusive);
                }
                barges
            },
            |y: &Yard| y.wait(0, Exclusive, true, None).is_ok(),
        ],
        |y, seen| {
            y.wait(1, Exclusive, false, None).expect("untimed");
            y.at_rest();
            (seen[0], seen[1])
        },
    )
    .exactly_together([(true, true), (true, false), (false, true)]);
}

/// One was told and has not come; who looks at the line late hands it the lock. It is told no longer when it gives that
/// back, or the second would be forgotten. How many were handed it: the second always is, the first unless it came by itself.
#[test]
fn who_was_told_is_handed_the_lock() {
    explore_bounded(
        BOUND,
        || {
            let yard = Yard::held(&[Exclusive]).waiting(Exclusive, 4).waiting(Exclusive, 3);
            yard.lock.leave_alone(Exclusive, HOLDER);
            yard
        },
        &[|y: &Yard| y.lock.look_late(), |y: &Yard| y.wait(0, Exclusive, false, None).expect("untimed")],
        |y, _| {
            y.wait(1, Exclusive, false, None).expect("untimed");
            y.at_rest();
            y.lock.tally().handed
        },
    )
    .exactly_together([1, 2]);
}

/// One comes and goes between the look that tells who waits and what the word says of that: it finds nobody told, and hands the
/// lock over. Who was handed it is told no longer. Whether somebody barged, and how many were handed the lock.
#[test]
fn who_is_handed_the_lock_is_told_no_longer() {
    explore_bounded(
        BOUND,
        || Yard::held(&[Shared]).waiting(Exclusive, 4),
        &[
            |y: &Yard| {
                y.end(Shared);
                false
            },
            |y: &Yard| {
                let barges = y.lock.word().try_enter(Exclusive, 1, HOLDER).is_ok();
                if barges {
                    y.touch(Exclusive);
                    y.lock.leave_late(Exclusive);
                }
                barges
            },
        ],
        |y, seen| {
            y.wait(0, Exclusive, false, None).expect("untimed");
            y.at_rest();
            (seen[1], y.lock.tally().handed)
        },
    )
    .exactly_together([(false, 0), (true, 0), (true, 1)]);
}

/// An upgrade as the locks do it, tries first, against the only reader's leave.
#[test]
fn an_upgrade_tries_first() {
    for timed in [false, true] {
        let upgrade: fn(&Yard) -> Result<(), Left> =
            if timed { |y| y.upgrade(true) } else { |y| y.upgrade(false) };
        let outcomes = explore_bounded(
            BOUND,
            || Yard::held(&[Shared, Upgradable]),
            &[
                |y: &Yard| {
                    y.end(Shared);
                    Ok(())
                },
                upgrade,
            ],
            |y, seen| {
                y.at_rest();
                seen[1]
            },
        );
        let late = timed.then_some(Err(Left::GaveUp));
        outcomes.exactly_together([Ok(())].into_iter().chain(late));
    }
}

/// While an upgrade waits for the readers nobody comes to share the lock: it would be one more, whom it does not know of.
#[test]
fn a_newcomer_does_not_pass_an_upgrade() {
    explore_bounded(
        BOUND,
        || Yard::held(&[Shared, Upgradable]).upgrading(),
        &[
            |y: &Yard| {
                y.end(Shared);
                y.wait(0, Exclusive, false, None).is_ok()
            },
            |y: &Yard| {
                let got = y.lock.word().try_enter(Shared, 1, 0).is_ok();
                if got {
                    y.end(Shared);
                }
                got
            },
        ],
        |y, seen| {
            y.at_rest();
            (seen[0], seen[1])
        },
    )
    .exactly_together([(true, true), (true, false)]);
}

/// Who gives the lock back and is done with it leaves nobody behind, neither one that comes to queue nor an upgrade.
#[test]
fn who_leaves_quietly_forgets_nobody() {
    for held in [Exclusive, Shared, Upgradable] {
        let held = [held];
        explore_bounded(
            BOUND,
            move || Yard::held(&held),
            &[
                |y: &Yard| {
                    let mode = y.lock.word().look().mode().expect("held");
                    y.touch(mode);
                    y.lock.leave_quietly(mode);
                },
                |y: &Yard| y.pass_in_line(Exclusive, false).expect("untimed"),
            ],
            |y, _| y.at_rest(),
        )
        .exactly([()]);
    }
    explore_bounded(
        BOUND,
        || Yard::held(&[Shared, Upgradable]),
        &[
            |y: &Yard| {
                y.data.look();
                y.lock.leave_quietly(Shared);
            },
            |y: &Yard| y.upgrade(false).expect("untimed"),
        ],
        |y, _| y.at_rest(),
    )
    .exactly([()]);
}

/// One who waits to share the lock is handed it, and a newcomer shares it beside that one: it sees what was written, too.
#[test]
fn who_enters_beside_one_that_was_handed_the_lock() {
    explore_bounded(
        None,
        || Yard::held(&[Exclusive]).waiting(Shared, 3),
        &[
            |y: &Yard| {
                y.end(Exclusive);
                true
            },
            |y: &Yard| {
                let got = y.lock.word().try_enter(Shared, 1, 0).is_ok();
                if got {
                    y.end(Shared);
                }
                got
            },
        ],
        |y, seen| {
            y.wait(0, Shared, false, None).expect("untimed");
            y.at_rest();
            seen[1]
        },
    )
    .exactly_together([true, false]);
}

/// Nobody gives the lock back: only the cancel can end it.
#[test]
fn a_cancel_ends_a_wait() {
    explore_bounded(
        None,
        || Yard::held(&[Exclusive]).waiting(Exclusive, 3),
        &[
            |y: &Yard| {
                y.cancel.cancel();
                Ok(())
            },
            |y: &Yard| y.wait(0, Exclusive, false, Some(&y.cancel)),
        ],
        |y, seen| {
            y.end(Exclusive);
            y.at_rest();
            seen[1]
        },
    )
    .exactly([Err(Left::GaveUp)]);
}

#[test]
fn a_cancel_against_a_grant_and_a_deadline() {
    for mode in [Exclusive, Shared] {
        explore_bounded(
            BOUND,
            move || Yard::held(&[Exclusive]).waiting(mode, 3),
            &[
                |y: &Yard| {
                    y.end(Exclusive);
                    Ok(())
                },
                |y: &Yard| {
                    y.cancel.cancel();
                    Ok(())
                },
                if mode == Exclusive {
                    |y: &Yard| y.wait(0, Exclusive, true, Some(&y.cancel))
                } else {
                    |y: &Yard| y.wait(0, Shared, true, Some(&y.cancel))
                },
            ],
            |y, seen| {
                y.at_rest();
                seen[2]
            },
        )
        .exactly_together([Ok(()), Err(Left::GaveUp)]);
    }
}

/// It may queue it anew at once: what was done to it is over.
#[test]
fn a_node_is_its_owners_when_it_is_granted() {
    explore_bounded(
        None,
        || Yard::held(&[Exclusive]).waiting(Shared, 3),
        &[
            |y: &Yard| {
                y.end(Exclusive);
                Ok(())
            },
            |y: &Yard| y.wait(0, Shared, false, None),
        ],
        |y, seen| {
            y.at_rest();
            seen[1]
        },
    )
    .exactly([Ok(())]);
}

#[test]
fn who_is_handed_the_lock_after_a_panic_sees_it() {
    for mode in [Exclusive, Shared] {
        explore_bounded(
            None,
            move || Yard::held(&[Exclusive]).waiting(mode, 3),
            &[
                |y: &Yard| {
                    y.lock.leave_as(Exclusive, true);
                    true
                },
                |y: &Yard| {
                    y.lock.wait_at(&y.places[0], false, None).expect("untimed");
                    y.lock.word().look().poisoned()
                },
            ],
            move |y, seen| {
                y.end_as(mode, 3);
                y.lock.word().clear_poison();
                y.at_rest();
                seen[1]
            },
        )
        .exactly([true]);
    }
}

/// A reader that waits behind an upgrade is let in beside it, or comes first after it; against the last reader's leave and
/// against the end of the upgrade's patience.
#[test]
fn a_reader_is_let_past_an_upgrade() {
    explore_bounded(
        BOUND,
        || Yard::held(&[Shared, Upgradable]).upgrading().waiting(Shared, 3),
        &[
            |y: &Yard| {
                y.end(Shared);
                (Ok(()), None)
            },
            |y: &Yard| {
                let got = y.lock.wait_at(&y.places[0], true, None);
                y.end(if got.is_ok() { Exclusive } else { Upgradable });
                (got, None)
            },
            |y: &Yard| {
                let let_past = y.lock.hasten_alone(3);
                (y.wait(1, Shared, false, None), Some(let_past))
            },
        ],
        |y, seen| {
            y.at_rest();
            assert_eq!(seen[2].0, Ok(()));
            (seen[2].1, seen[1].0)
        },
    )
    .exactly_together([
        (Some(Hastened::Entered), Ok(())),
        (Some(Hastened::Entered), Err(Left::GaveUp)),
        (Some(Hastened::First), Ok(())),
        (Some(Hastened::Nobody), Ok(())),
        (Some(Hastened::Nobody), Err(Left::GaveUp)),
    ]);
}

/// One reader stays until the other, which waits behind a writer, has come: the order of the line alone would hold both up
/// for ever. Against another's leave, and the end of the writer's patience.
#[test]
fn a_reader_is_let_past_a_writer() {
    explore_bounded(
        BOUND,
        || Yard::held(&[Shared, Shared]).waiting(Exclusive, 4).waiting(Shared, 3),
        &[
            |y: &Yard| {
                y.end(Shared);
                (Ok(()), None)
            },
            |y: &Yard| (y.wait(0, Exclusive, true, None), None),
            |y: &Yard| {
                let let_past = y.lock.hasten_alone(3);
                let got = y.wait(1, Shared, false, None);
                y.end(Shared);
                (got, Some(let_past))
            },
        ],
        |y, seen| {
            y.at_rest();
            assert_eq!(seen[2].0, Ok(()));
            (seen[2].1, seen[1].0)
        },
    )
    .exactly_together([
        (Some(Hastened::First), Ok(())),
        (Some(Hastened::First), Err(Left::GaveUp)),
        (Some(Hastened::Nobody), Err(Left::GaveUp)),
    ]);
}

/// Also past one that was told and has not come.
#[test]
fn a_writer_is_let_past_a_writer() {
    explore_bounded(
        BOUND,
        || Yard::held(&[Exclusive]).waiting(Exclusive, 4).waiting(Exclusive, 3),
        &[
            |y: &Yard| {
                y.end(Exclusive);
                (Ok(()), None)
            },
            |y: &Yard| (y.wait(0, Exclusive, true, None), None),
            |y: &Yard| {
                let let_past = y.lock.hasten_alone(3);
                (y.wait(1, Exclusive, false, None), Some(let_past))
            },
        ],
        |y, seen| {
            y.at_rest();
            assert_eq!(seen[2], (Ok(()), Some(Hastened::First)));
            seen[1].0
        },
    )
    .exactly_together([Ok(()), Err(Left::GaveUp)]);
}

/// Random schedules of `threads`, each of which goes on for some turns in all modes, with deadlines and without.
#[cfg(shuttle)]
fn storm(threads: usize) -> impl Fn() + Send + Sync + 'static + Clone {
    move || {
        let yard = shuttle::sync::Arc::new(Yard::held(&[]));
        let inside = shuttle::sync::Arc::new(Inside::default());
        let all: Vec<_> = (0..threads)
            .map(|i| {
                let (y, inside) = (yard.clone(), inside.clone());
                shuttle::thread::spawn(move || {
                    for turn in 0..2 {
                        let timed = (i + turn) % 3 == 0;
                        let mode = [Shared, Exclusive, Upgradable, Shared][(i + turn) % 4];
                        // As the locks do it, and as who has tried already.
                        let (owner, tries) = (i as u32 + 1, (i / 2 + turn) % 2 == 0);
                        let got = if tries {
                            y.lock.enter_alone(mode, i % 4, owner, timed)
                        } else {
                            y.lock.enter_in_line(mode, i % 4, owner, timed)
                        };
                        if got.is_err() {
                            continue;
                        }
                        inside.enter(mode);
                        let mut mode = mode;
                        if mode == Upgradable {
                            // Nobody changes anything between the look and the upgrade.
                            let before = inside.writes();
                            let up = if tries {
                                y.lock.upgrade_alone(owner, turn == 1).is_ok()
                            } else {
                                y.lock.upgrade_in_line(turn == 1).is_ok()
                            };
                            assert_eq!(inside.writes(), before, "somebody slipped in");
                            if up {
                                inside.change(Upgradable, Exclusive);
                                mode = Exclusive;
                            }
                        }
                        if mode == Exclusive && i % 2 == 0 {
                            let to = if turn == 0 { Shared } else { Upgradable };
                            inside.change(Exclusive, to);
                            y.lock.weaken_alone(Exclusive, to);
                            mode = to;
                        }
                        inside.leave(mode);
                        if tries {
                            y.lock.leave_alone(mode, owner);
                        } else {
                            y.lock.leave_as(mode, false);
                        }
                    }
                })
            })
            .collect();
        for thread in all {
            thread.join().expect("no panic");
        }
        yard.at_rest();
    }
}

/// Who is inside, as the holders themselves count it. Not watched by shuttle, so that it adds no steps.
#[cfg(shuttle)]
#[derive(Default)]
struct Inside(std::sync::Mutex<([i32; 3], u32)>);

#[cfg(shuttle)]
impl Inside {
    fn enter(&self, mode: Mode) {
        self.by(mode, 1);
    }

    fn leave(&self, mode: Mode) {
        self.by(mode, -1);
    }

    fn change(&self, from: Mode, to: Mode) {
        self.by(from, -1);
        self.by(to, 1);
    }

    fn by(&self, mode: Mode, n: i32) {
        let mut all = self.0.lock().unwrap();
        all.0[mode as usize] += n;
        all.1 += u32::from(mode == Exclusive && n > 0);
        let [_, upgradable, exclusive] = all.0;
        assert!(upgradable + exclusive <= 1 && (exclusive == 0 || all.0 == [0, 0, 1]), "{:?}", all.0);
    }

    fn writes(&self) -> u32 {
        self.0.lock().unwrap().1
    }
}

#[cfg(shuttle)]
#[test]
fn shuttle_eight_threads_leave_nothing_behind() {
    shuttle::check_random(storm(8), 2_000);
    shuttle::check_pct(storm(8), 2_000, 3);
}

#[cfg(shuttle)]
#[test]
fn shuttle_sixteen_threads_leave_nothing_behind() {
    shuttle::check_random(storm(16), 500);
    shuttle::check_pct(storm(16), 500, 3);
}
