//! Models of `core/plate.rs`, a lock whose name changes when nobody has to do with it.
//!
//! Verified: who enters by a hint that is out of date finds another name, or the one that it wanted, and reads it whole; while it
//! holds the lock the name does not change; who has a count that it took while it held the lock keeps the name; who finds it
//! closed in passing is let in. In every spawn order, exact outcomes.
//!
//! Not verified here: the table, and its latch (`lock/names.rs`); the lock itself (`lockword`, `lockline`).

use batchyard::__model::lockword::Mode;
use batchyard::__model::plate::Plate;
use batchyard_loom_tests::{Arc, explore, explore_bounded};

const NORMAL: usize = 1;

/// What somebody who was led to the plate found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    /// It was held.
    Taken,
    Named(u32),
    /// It got another name.
    Renamed,
    Kept,
}

use Found::*;

/// Of one who follows a hint and one who renames: what they found, and the name at the end.
const ONE_OR_THE_OTHER: [(Found, Found, u32); 4] =
    [(Named(1), Renamed, 2), (Named(2), Renamed, 2), (Taken, Renamed, 2), (Named(1), Kept, 1)];

struct Door(Arc<Plate<u32>>);

fn door() -> Door {
    Door(Arc::new(Plate::new(1, 1)))
}

impl Door {
    /// As who follows a hint.
    fn follow(&self, mode: Mode, owner: u32) -> Found {
        if !self.0.lock().word().try_enter_by_mask(mode, owner) {
            return Taken;
        }
        let name = self.name();
        assert_eq!((name, self.0.tag()), (self.name(), name.into()), "it is held");
        self.0.lock().leave_quietly(mode);
        Named(name)
    }

    fn name(&self) -> u32 {
        // SAFETY: the callers hold it, or have a count.
        unsafe { self.0.with_name(|name| *name.expect("it has one")) }
    }

    /// As who sweeps, and gives the plate to another at once.
    fn rename(&self) -> Found {
        self.rename_as(Mode::Exclusive)
    }

    fn rename_as(&self, mode: Mode) -> Found {
        if !self.0.try_close_alone(|| Arc::strong_count(&self.0) == 1) {
            return Kept;
        }
        // SAFETY: it was closed just now.
        unsafe {
            assert_eq!(self.0.take_name(), Some(1));
            self.0.open_as(2, 2, mode, 9);
        }
        assert_eq!(self.name(), 2, "it is held");
        self.0.lock().leave_quietly(mode);
        Renamed
    }
}

mod loop_free {
    use super::*;

    #[test]
    fn who_follows_a_hint_finds_one_name_or_the_other() {
        let follows = [|d: &Door| d.follow(Mode::Shared, 0), |d: &Door| d.follow(Mode::Exclusive, 5)];
        let renames = [Door::rename, |d: &Door| d.rename_as(Mode::Shared)];
        for (follow, rename) in follows.into_iter().flat_map(|follow| renames.map(|rename| (follow, rename)))
        {
            explore(door, &[follow, rename], |d, seen| (seen[0], seen[1], d.name()))
                .exactly_together(ONE_OR_THE_OTHER);
        }
    }

    /// A count that was taken by who held the lock is seen by who closes it later.
    #[test]
    fn who_counts_keeps_the_name() {
        explore(
            door,
            &[
                |d: &Door| {
                    if !d.0.lock().word().try_enter_by_mask(Mode::Shared, 0) {
                        return Taken;
                    }
                    let count = Door(Arc::clone(&d.0));
                    let name = count.name();
                    d.0.lock().leave_quietly(Mode::Shared);
                    assert_eq!(count.name(), name, "it has a count");
                    Named(name)
                },
                Door::rename,
            ],
            |d, seen| (seen[0], seen[1], d.name()),
        )
        .exactly_together(ONE_OR_THE_OTHER);
    }
}

#[test]
fn two_who_follow_a_hint() {
    explore_bounded(
        Some(2),
        door,
        &[|d: &Door| d.follow(Mode::Shared, 0), |d: &Door| d.follow(Mode::Exclusive, 5), Door::rename],
        |d, seen| {
            assert_eq!(d.name() == 2, seen[2] == Renamed);
            assert_eq!(d.0.taken(), u64::from(seen[2] == Renamed));
            (seen[0], seen[1], seen[2])
        },
    )
    .exactly_together([
        (Taken, Taken, Renamed),
        (Taken, Named(1), Renamed),
        (Taken, Named(2), Renamed),
        (Taken, Named(1), Kept),
        (Named(1), Taken, Renamed),
        (Named(2), Taken, Renamed),
        (Named(1), Taken, Kept),
        (Named(1), Named(1), Renamed),
        (Named(1), Named(2), Renamed),
        (Named(2), Named(1), Renamed),
        (Named(2), Named(2), Renamed),
        (Named(1), Named(1), Kept),
    ]);
}

/// Somebody has a count, and comes for the lock while it is closed in passing.
#[test]
fn who_finds_it_closed_in_passing_is_let_in() {
    explore(
        || {
            let door = door();
            (Door(Arc::clone(&door.0)), door)
        },
        &[
            |(d, _): &(Door, Door)| {
                d.0.lock()
                    .enter_alone(Mode::Exclusive, NORMAL, 5, false)
                    .expect("it waits as long as it takes");
                let name = d.name();
                d.0.lock().leave_alone(Mode::Exclusive, 5);
                Named(name)
            },
            |(d, _): &(Door, Door)| d.rename(),
        ],
        |_, seen| (seen[0], seen[1]),
    )
    .exactly_together([(Named(1), Kept)]);
}
