//! Models of `core/shelf.rs`, the stack of slots.
//!
//! Verified: a value is taken once, by whoever races, and whole; a slot is claimed once, and empty; a taker whose look
//! is old by two takes and two puts that bring the same slot back to the top, over another one, takes no successor
//! that is out (the tag); of a put beside a put, or beside a take, nothing is lost; a put beside a close is refused, or
//! seen by who empties the shelf after the close; who has a permit that was given back after a value was put finds
//! that value. In every spawn order, exact outcomes.
//!
//! Not verified here: the wrap of the 32-bit tag (a unit test shows that it touches nothing else); the order of values
//! (property test in the file); more than three threads (the shuttle test below has eight).

use batchyard::__model::permits::Permits;
use batchyard::__model::shelf::{Place, Shelf};
use batchyard_loom_tests::{Body, explore};
use std::sync::Mutex;

/// A shelf, places in hand from the start, and what was taken and kept. (The mutex is not modelled: each of its entries
/// is one thread's.)
struct Room {
    shelf: Shelf<u32>,
    hands: [Mutex<Option<Place>>; 2],
    permits: Permits,
}

/// With these values on it, the last one on top, and so many places in hand.
fn room(slots: usize, values: &[u32], in_hand: usize) -> Room {
    let shelf = Shelf::new(slots);
    let mut hands = [Mutex::new(None), Mutex::new(None)];
    for hand in &mut hands[..in_hand] {
        *hand.get_mut().unwrap() = shelf.claim();
    }
    let room = Room { shelf, hands, permits: Permits::new(1) };
    for &value in values {
        room.put(room.shelf.claim().expect("vacant"), value);
    }
    room
}

impl Room {
    fn put(&self, place: Place, value: u32) {
        assert!(self.offer(place, value), "not closed");
    }

    /// Puts, unless it is closed; the place is not used again then.
    fn offer(&self, place: Place, value: u32) -> bool {
        // SAFETY: there is one shelf.
        unsafe { self.shelf.put(place, value) }.is_ok()
    }

    fn vacate(&self, place: Place) {
        // SAFETY: there is one shelf.
        unsafe { self.shelf.vacate(place) }
    }

    fn hand(&self, i: usize) -> Place {
        self.hands[i].lock().unwrap().take().expect("in hand from the start")
    }

    /// Takes a value for good: its place stays out.
    fn take(&self) -> Option<u32> {
        self.shelf.take().map(|(_, value)| value)
    }

    /// What is left, the top first.
    fn rest(&self) -> Vec<u32> {
        // Bounded: a broken stack may have a circle.
        std::iter::from_fn(|| self.take()).take(8).collect()
    }
}

fn sorted(mut values: Vec<u32>) -> Vec<u32> {
    values.sort();
    values
}

mod loop_free {
    use super::*;

    #[test]
    fn a_taker_has_the_value_whole() {
        let bodies: [Body<Room, Option<u32>>; 2] = [
            |s| {
                s.put(s.hand(0), 7);
                None
            },
            |s| s.take(),
        ];
        explore(
            || room(1, &[], 1),
            &bodies,
            |s, seen| {
                assert_eq!(s.rest().len(), usize::from(seen[1].is_none()));
                seen[1]
            },
        )
        .exactly_together([None, Some(7)]); // the taker that finds nothing looks once: loom's hole
    }

    #[test]
    fn one_value_has_one_taker() {
        explore(
            || room(2, &[1, 2], 0),
            &[|s: &Room| s.take(), |s: &Room| s.take()],
            |s, seen| {
                assert!(s.rest().is_empty());
                (seen[0], seen[1])
            },
        )
        .exactly([(Some(1), Some(2)), (Some(2), Some(1))]);
    }

    #[test]
    fn two_puts_both_stand() {
        let bodies: [Body<Room, ()>; 2] = [|s| s.put(s.hand(0), 1), |s| s.put(s.hand(1), 2)];
        explore(|| room(2, &[], 2), &bodies, |s, _| s.rest()).exactly([vec![1, 2], vec![2, 1]]);
    }

    /// The other takes two, puts a third value, and the first one back over it: a head without a tag is as before.
    #[test]
    fn the_same_top_over_another_slot() {
        let bodies: [Body<Room, Vec<u32>>; 2] = [
            |s| s.take().into_iter().collect(),
            |s| {
                let (first, second) = (s.shelf.take(), s.shelf.take());
                s.put(s.hand(0), 3);
                if let Some((place, value)) = first {
                    s.put(place, value);
                }
                second.into_iter().map(|(_, value)| value).collect()
            },
        ];
        explore(
            || room(3, &[1, 2], 1),
            &bodies,
            |s, seen| {
                let all = [&seen[0][..], &seen[1], &s.rest()].concat();
                assert_eq!(sorted(all), [1, 2, 3], "each value once");
                (seen[0].clone(), seen[1].clone())
            },
        )
        .exactly([
            // The first takes before the other, or after it.
            (vec![2], vec![]),
            (vec![2], vec![1]),
            // Between its two takes; after both; when it has put one back.
            (vec![1], vec![]),
            (vec![], vec![1]),
            (vec![3], vec![1]),
        ]);
    }

    /// A value is moved out, its slot given up, claimed by another and filled again.
    #[test]
    fn a_slot_is_claimed_empty() {
        let bodies: [Body<Room, Option<u32>>; 2] = [
            |s| {
                let (place, value) = s.shelf.take()?;
                s.vacate(place);
                Some(value)
            },
            |s| {
                s.put(s.shelf.claim()?, 2);
                Some(0)
            },
        ];
        explore(
            || room(1, &[1], 0),
            &bodies,
            |s, seen| {
                assert_eq!(s.shelf.len() + s.shelf.vacant(), 1);
                (seen[0], seen[1], s.rest())
            },
        )
        .exactly_together([(Some(1), None, vec![]), (Some(1), Some(0), vec![2])]); // as above
    }

    #[test]
    fn one_vacant_slot_has_one_claimant() {
        explore(
            || room(1, &[], 0),
            &[|s: &Room| s.shelf.claim().is_some(), |s: &Room| s.shelf.claim().is_some()],
            |s, seen| {
                assert_eq!(s.shelf.vacant(), 0);
                (seen[0], seen[1])
            },
        )
        .exactly([(true, false), (false, true)]);
    }

    /// Who closes it and then takes what there is leaves nothing behind.
    #[test]
    fn a_put_comes_before_the_close_or_is_refused() {
        let bodies: [Body<Room, Vec<u32>>; 2] = [
            |s| {
                s.shelf.close();
                s.rest()
            },
            |s| if s.offer(s.hand(0), 2) { vec![] } else { vec![2] },
        ];
        explore(
            || room(2, &[1], 1),
            &bodies,
            |s, seen| {
                assert!(s.shelf.is_closed() && s.shelf.is_empty(), "left behind");
                (seen[0].clone(), seen[1].clone())
            },
        )
        .exactly([(vec![1], vec![2]), (vec![2, 1], vec![])]);
    }

    /// What bounds a pool: the permit goes back after the value, so who gets the permit does not find the shelf empty.
    #[test]
    fn who_has_the_permit_finds_what_was_put_before_it() {
        let bodies: [Body<Room, Option<Option<u32>>>; 2] = [
            |s| {
                s.put(s.hand(0), 7);
                assert!(!s.permits.put(1));
                None
            },
            |s| s.permits.try_take(1).is_ok().then(|| s.take()),
        ];
        explore(
            || {
                let s = room(1, &[], 1);
                s.permits.try_take(1).expect("free");
                s
            },
            &bodies,
            |_, seen| seen[1],
        )
        .exactly([None, Some(Some(7))]);
    }

    /// Three at once: a put, and two who take and put back.
    #[test]
    fn takes_and_puts_of_three() {
        let back: Body<Room, u32> = |s| match s.shelf.take() {
            Some((place, value)) => {
                s.put(place, value);
                value
            }
            None => 0,
        };
        let bodies: [Body<Room, u32>; 3] = [
            |s| {
                s.put(s.hand(0), 2);
                0
            },
            back,
            back,
        ];
        batchyard_loom_tests::explore_bounded(
            Some(2),
            || room(2, &[1], 1),
            &bodies,
            |s, seen| {
                assert_eq!(sorted(s.rest()), [1, 2]);
                (seen[1], seen[2])
            },
        )
        .exactly_together([(0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2)]);
    }
}

/// Eight threads that take, put back in another order, give slots up and claim them again.
#[cfg(shuttle)]
#[test]
fn shuttle_eight_threads_lose_nothing() {
    let storm = || {
        let room = shuttle::sync::Arc::new(room(6, &[1, 2, 3, 4], 0));
        let threads: Vec<_> = (0..8u32)
            .map(|i| {
                let s = room.clone();
                shuttle::thread::spawn(move || {
                    for _ in 0..2 {
                        let (first, second) = (s.shelf.take(), s.shelf.take());
                        for (place, value) in [first, second].into_iter().flatten() {
                            s.put(place, value);
                        }
                        if let Some(place) = s.shelf.claim() {
                            if i % 2 == 0 { s.put(place, 10 + i) } else { s.vacate(place) }
                        }
                        if i % 2 == 0
                            && let Some((place, value)) = s.shelf.take()
                        {
                            if value < 10 { s.put(place, value) } else { s.vacate(place) }
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic");
        }
        assert_eq!(room.shelf.len() + room.shelf.vacant(), 6);
        let mut rest = sorted(room.rest());
        rest.retain(|value| *value < 10);
        assert_eq!(rest, [1, 2, 3, 4]);
    };
    shuttle::check_random(storm, 2_000);
    shuttle::check_pct(storm, 2_000, 3);
}
