//! Models of `core/handover.rs`: a shelf, and who sleeps until something comes back to it.
//!
//! Verified, in every spawn order and for every value that the memory orders allow: who sleeps gets what is brought, whenever
//! it comes (sleeps have no time here: a value that lies on the shelf while somebody waits is a deadlock), also beside one
//! that is served and has not left, and beside one that leaves unserved while it is about to be served; a third who takes it in between brings it to the sleeper; who sleeps hears of the close, and
//! what is brought beside it is had by the sleeper, by who empties the shelf, or refused; whose time is over beside a value
//! that comes takes nothing with it.
//!
//! Not verified here: who of those that wait is served first (unit test in the file); more than three threads (the shuttle
//! test below has ten).

use batchyard::__model::handover::Handover;
use batchyard::__model::shelf::Place;
use batchyard_loom_tests::{Body, explore, explore_bounded};
use std::sync::Mutex;

/// A shelf with places in hand from the start. (The mutex is not modelled: each of its entries is one thread's.)
struct Room {
    handover: Handover<u32>,
    hands: [Mutex<Option<Place>>; 2],
}

fn room(in_hand: usize) -> Room {
    let handover = Handover::new(2);
    let mut hands = [Mutex::new(None), Mutex::new(None)];
    for hand in &mut hands[..in_hand] {
        *hand.get_mut().unwrap() = handover.claim();
    }
    Room { handover, hands }
}

/// With a value on the shelf, too.
fn stocked(in_hand: usize, value: u32) -> Room {
    let s = room(in_hand);
    let place = s.handover.claim().expect("vacant");
    assert_eq!(s.bring_to(place, value), None);
    s
}

impl Room {
    /// What was refused.
    fn bring_to(&self, place: Place, value: u32) -> Option<u32> {
        // SAFETY: there is one shelf.
        unsafe { self.handover.bring(place, value) }.err().map(|(_, value)| value)
    }

    fn bring(&self, hand: usize, value: u32) -> Option<u32> {
        let place = self.hands[hand].lock().unwrap().take().expect("in hand from the start");
        self.bring_to(place, value)
    }

    /// Sleeps until there is something; it is kept.
    fn sleep(&self) -> Option<u32> {
        self.handover.sleep_alone(0, false).map(|(_, value)| value)
    }

    /// As one whose time is over when it looks.
    fn glance(&self) -> Option<u32> {
        self.handover.sleep_alone(0, true).map(|(_, value)| value)
    }

    fn take(&self) -> Option<u32> {
        self.handover.take().map(|(_, value)| value)
    }
}

fn sorted<const N: usize>(mut values: [Option<u32>; N]) -> [Option<u32>; N] {
    values.sort();
    values
}

#[test]
fn who_sleeps_gets_what_is_brought() {
    let bodies: [Body<Room, Option<u32>>; 2] = [|s| s.bring(0, 7), |s| s.sleep()];
    explore(|| room(1), &bodies, |s, seen| (seen[0], seen[1], s.handover.len())).exactly([(
        None,
        Some(7),
        0,
    )]);
}

/// The served one is in the list still when the second value comes, and the second sleeper.
#[test]
fn one_who_is_served_and_has_not_left_is_not_in_the_way() {
    let bodies: [Body<Room, Option<u32>>; 3] = [
        |s| s.sleep(),
        |s| s.sleep(),
        |s| {
            assert_eq!((s.bring(0, 1), s.bring(1, 2)), (None, None));
            None
        },
    ];
    explore_bounded(
        Some(1),
        || room(2),
        &bodies,
        |s, seen| {
            assert!(s.handover.is_empty());
            sorted([seen[0], seen[1]])
        },
    )
    .exactly([[Some(1), Some(2)]]);
}

/// One who waited has left when it is to be served, and another has come since.
#[test]
fn one_who_has_left_is_not_in_the_way() {
    let bodies: [Body<Room, Option<u32>>; 3] = [
        |s| {
            // What it gets after all, it brings back.
            if let Some((place, value)) = s.handover.sleep_alone(0, true) {
                assert_eq!(s.bring_to(place, value), None);
            }
            None
        },
        |s| s.sleep(),
        |s| s.bring(0, 7),
    ];
    explore_bounded(
        Some(2),
        || room(1),
        &bodies,
        |s, seen| {
            assert!(s.handover.is_empty());
            seen[1]
        },
    )
    .exactly([Some(7)]);
}

/// As one who uses what it found on the shelf, and is done with it.
#[test]
fn a_third_who_takes_it_brings_it_back() {
    let bodies: [Body<Room, Option<u32>>; 2] = [
        |s| s.sleep(),
        |s| {
            if let Some((place, value)) = s.handover.take() {
                assert_eq!(s.bring_to(place, value), None);
            }
            None
        },
    ];
    explore_bounded(Some(3), || stocked(0, 7), &bodies, |_, seen| seen[0]).exactly([Some(7)]);
}

#[test]
fn who_sleeps_hears_of_the_close() {
    let bodies: [Body<Room, Option<u32>>; 2] = [
        |s| s.sleep(),
        |s| {
            s.handover.close();
            None
        },
    ];
    explore(|| room(0), &bodies, |_, seen| seen[0]).exactly([None]);
}

/// It is had by the sleeper, by who closes and empties the shelf, or refused.
#[test]
fn what_is_brought_beside_the_close_has_one_taker() {
    let bodies: [Body<Room, Option<u32>>; 3] = [
        |s| s.sleep(),
        |s| {
            s.handover.close();
            s.take()
        },
        |s| s.bring(0, 7),
    ];
    explore_bounded(
        Some(2),
        || room(1),
        &bodies,
        |s, seen| {
            assert!(s.handover.is_empty(), "left behind");
            (seen[0], seen[1], seen[2])
        },
    )
    .exactly_together([(Some(7), None, None), (None, Some(7), None), (None, None, Some(7))]);
}

mod loop_free {
    use super::*;

    /// It has the value, or the value lies on the shelf.
    #[test]
    fn whose_time_is_over_takes_nothing_with_it() {
        let bodies: [Body<Room, Option<u32>>; 2] = [|s| s.bring(0, 7), |s| s.glance()];
        explore(
            || room(1),
            &bodies,
            |s, seen| {
                assert_eq!(s.handover.len(), usize::from(seen[1].is_none()));
                (seen[0], seen[1])
            },
        )
        .exactly_together([(None, None), (None, Some(7))]);
    }
}

/// Four bring one each; six sleep, and pass on what they got.
#[cfg(shuttle)]
#[test]
fn shuttle_ten_threads_all_get_something() {
    fn model() {
        let s = shuttle::sync::Arc::new(Handover::new(4));
        let threads: Vec<_> = (0..10)
            .map(|id| {
                let s = s.clone();
                shuttle::thread::spawn(move || {
                    if id < 4 {
                        let place = s.claim().expect("vacant");
                        // SAFETY: there is one shelf.
                        assert!(unsafe { s.bring(place, id) }.is_ok());
                        return;
                    }
                    let (place, value) = s.sleep_alone(id, false).expect("not closed");
                    // SAFETY: there is one shelf.
                    assert!(unsafe { s.bring(place, value) }.is_ok());
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        let mut rest: Vec<_> = std::iter::from_fn(|| s.take()).map(|(_, value)| value).collect();
        rest.sort();
        assert_eq!(rest, [0, 1, 2, 3]);
    }
    shuttle::check_random(model, 2_000);
    shuttle::check_pct(model, 2_000, 3);
}
