//! Models of `core/hints.rs`, where a thing is likely to be.
//!
//! Verified: who finds a thing sees what was done before it was told; of two who tell, and of those for whom room is made
//! meanwhile, each thing that is found was told, of this hash or another. In every spawn order, exact outcomes.
//!
//! Not verified here: what who finds something makes of it (`plate`); that a thing is still there, which is the promise of
//! who tells of it.

use batchyard::__model::hints::Hints;
use batchyard_loom_tests::{Guarded, explore};
use std::ptr::NonNull;

const HASH: u64 = 1;
/// In the model there is one set, for all.
const OTHER: u64 = 2;

struct Board {
    /// Dropped before what they tell of.
    hints: Hints<Guarded>,
    things: [Guarded; 2],
}

fn board() -> Board {
    Board { hints: Hints::new(), things: [Guarded::new(), Guarded::new()] }
}

impl Board {
    fn tell(&self, hash: u64, thing: usize) {
        // SAFETY: the things live as long as the hints.
        unsafe { self.hints.tell(hash, NonNull::from(&self.things[thing])) }
    }

    /// Which thing is found.
    fn look(&self, hash: u64) -> Option<usize> {
        let found = self.hints.look(hash)?;
        self.things.iter().position(|thing| NonNull::from(thing) == found)
    }
}

#[test]
fn who_finds_it_sees_what_was_done_before_it_was_told() {
    explore(
        board,
        &[
            |b: &Board| {
                b.things[0].touch();
                b.tell(HASH, 0);
                None
            },
            |b: &Board| {
                let found = b.look(HASH);
                if let Some(thing) = found {
                    b.things[thing].look();
                }
                found
            },
        ],
        |b, seen| {
            assert_eq!(b.look(HASH), Some(0));
            seen[1]
        },
    )
    .exactly_together([None, Some(0)]);
}

/// Two of the same place: the one's hash may stand beside the other's thing.
#[test]
fn two_tell_at_once() {
    explore(
        board,
        &[
            |b: &Board| {
                b.tell(HASH, 0);
                None
            },
            |b: &Board| {
                b.tell(OTHER, 1);
                None
            },
            |b: &Board| b.look(HASH),
        ],
        |b, seen| {
            let found = (b.look(HASH), b.look(OTHER));
            assert!(found.0.is_some() || found.1.is_some(), "what was told last is found");
            (seen[2], found)
        },
    )
    .exactly_together([
        (None, (Some(0), Some(1))),
        (None, (Some(0), None)),
        (None, (Some(1), None)),
        (None, (None, Some(0))),
        (None, (None, Some(1))),
        (Some(0), (Some(0), Some(1))),
        (Some(0), (Some(0), None)),
        (Some(0), (Some(1), None)),
        (Some(0), (None, Some(0))),
        (Some(0), (None, Some(1))),
        // Where each has its own place nothing but its own thing is ever found there.
        (Some(1), (Some(0), None)),
        (Some(1), (Some(1), None)),
        (Some(1), (None, Some(0))),
        (Some(1), (None, Some(1))),
    ]);
}

/// One who tells stands still while another tells of that place's next, and of the same: then a hash is in two places. Who tells
/// next clears one of them.
#[test]
fn a_hash_in_two_places_is_mended() {
    let slow: fn(&Board) = |b| b.tell(HASH, 0);
    let both: fn(&Board) = |b| {
        b.tell(OTHER, 1);
        b.tell(HASH, 0);
    };
    explore(board, &[slow, both], |b, _| {
        let before = b.look(HASH);
        b.tell(HASH, 1);
        assert_eq!(b.look(HASH), Some(1), "it was {before:?} before");
        before
    })
    .exactly_together([Some(0)]);
}

/// What another tells in a place is not taken for what it was before.
#[test]
fn who_avoids_one_hash_leaves_others_alone() {
    let full = || {
        let board = board();
        [HASH, 3, 4, 5].into_iter().for_each(|hash| board.tell(hash, 0));
        board
    };
    let avoids: fn(&Board) = |b| b.hints.avoid(HASH, NonNull::from(&b.things[0]));
    explore(full, &[avoids, |b| b.tell(OTHER, 1)], |b, _| (b.look(HASH), b.look(OTHER)))
        .exactly_together([(None, Some(1))]);
}

#[test]
fn what_is_told_while_room_is_made_is_found_or_forgotten() {
    explore(
        board,
        &[
            |b: &Board| {
                b.hints.make_room(8);
                None
            },
            |b: &Board| {
                b.tell(HASH, 0);
                None
            },
            |b: &Board| b.look(HASH),
        ],
        |b, seen| (seen[2], b.look(HASH)),
    )
    .exactly_together([(None, None), (None, Some(0)), (Some(0), None), (Some(0), Some(0))]);
}

/// Room is made once by two who find the same.
#[test]
fn two_make_room() {
    explore(
        board,
        &[
            |b: &Board| {
                b.hints.make_room(8);
                b.tell(HASH, 0);
                b.look(HASH)
            },
            |b: &Board| {
                b.hints.make_room(8);
                b.look(HASH)
            },
        ],
        |b, seen| (seen[0], seen[1], b.look(HASH)),
    )
    .exactly_together([(Some(0), None, Some(0)), (Some(0), Some(0), Some(0))]);
}
