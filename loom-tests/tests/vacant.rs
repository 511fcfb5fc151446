//! Models of `core/vacant.rs`, slots of a growing row that are used again.
//!
//! Verified: a slot is had by one at a time, whoever takes and puts; who takes it sees what was done to it before; no slot
//! is lost; a taker whose look is old by two takes and two puts takes no slot that is out (the tag). With the lease that
//! lies in a slot, as permits are entered and dropped in `resource/holders.rs`: of who drops and who looks one hands the
//! slot on, and who enters the next has it to itself. In every spawn order, exact outcomes.
//!
//! Not verified here: the wrap of the 32-bit tag; how the row grows (`resource/holders.rs`).

use batchyard::__model::lease::{Gone, Lease, Looked};
use batchyard::__model::vacant::{Link, Vacant};
use batchyard_loom_tests::{explore, explore_bounded};

const SLOTS: usize = 3;

/// Three slots; in the first lies a lease of the number 7, whose handle is generation 0, until 10.
struct Row {
    vacant: Vacant,
    links: [Link; SLOTS],
    leases: [Lease<u32>; SLOTS],
}

impl Row {
    /// With these slots vacant, the last one on top of stack 0.
    fn new(vacant: &[u32]) -> Row {
        let row = Row { vacant: Vacant::new(), links: Default::default(), leases: Default::default() };
        assert_eq!(row.leases[0].publish(7, 10), Ok(0));
        vacant.iter().for_each(|slot| row.put(0, *slot));
        row
    }

    fn take(&self, own: usize) -> Option<u32> {
        self.vacant.take(own, |slot| &self.links[slot as usize])
    }

    fn put(&self, own: usize, slot: u32) {
        self.vacant.put(own, slot, &self.links[slot as usize]);
    }

    /// What is left. Bounded: a broken stack may have a circle.
    fn rest(&self) -> Vec<u32> {
        let mut rest: Vec<u32> = std::iter::from_fn(|| self.take(0)).take(8).collect();
        rest.sort();
        rest
    }
}

/// What a body took.
type Took = Option<u32>;

mod loop_free {
    use super::*;

    #[test]
    fn one_slot_has_one_taker() {
        explore(
            || Row::new(&[1]),
            &[|s: &Row| s.take(0), |s: &Row| s.take(1)],
            |s, seen| {
                assert!(s.rest().is_empty());
                (seen[0], seen[1])
            },
        )
        .exactly([(Some(1), None), (None, Some(1))]);
    }

    #[test]
    fn two_puts_both_stand() {
        let put = |s: &Row| -> Took {
            s.put(0, 1);
            None
        };
        let other = |s: &Row| -> Took {
            s.put(0, 2);
            None
        };
        explore(|| Row::new(&[]), &[put, other], |s, _| s.rest()).exactly([vec![1, 2]]);
    }

    /// The first takes 1 and 2 out, and puts 0 and 1 there: the same top over another slot.
    #[test]
    fn the_same_top_over_another_slot() {
        let turns = |s: &Row| -> Took {
            let (one, two) = (s.take(0), s.take(0));
            s.put(0, 0);
            if let Some(slot) = one {
                s.put(0, slot);
            }
            two
        };
        explore(
            || Row::new(&[2, 1]),
            &[turns, |s: &Row| s.take(0)],
            |s, seen| {
                let rest = s.rest();
                let mut all: Vec<u32> = rest.into_iter().chain(seen.iter().copied().flatten()).collect();
                all.sort();
                assert_eq!(all, [0, 1, 2], "each slot once");
                (seen[0], seen[1])
            },
        )
        .exactly_together([
            (Some(2), Some(1)),
            (Some(2), None),
            // The other came in between: it took the first, or the second.
            (None, Some(1)),
            (None, Some(2)),
            (Some(2), Some(0)),
        ]);
    }

    /// A permit is dropped; who finds its slot enters the next.
    #[test]
    fn what_was_done_to_a_slot_is_seen_by_who_takes_it() {
        explore(
            || Row::new(&[]),
            &[drops, enters],
            |s, seen| {
                assert_eq!((seen[0], s.leases[0].take(1)), (Some(7), again(seen[1])));
                seen[1]
            },
        )
        .exactly_together([None, Some(0)]);
    }

    /// A permit is dropped while somebody looks at it; who finds its slot enters the next.
    #[test]
    fn a_slot_that_was_left_to_who_looks() {
        explore_bounded(
            Some(3),
            || Row::new(&[]),
            &[drops, looks, enters],
            |s, seen| {
                // In use again, or vacant: once.
                assert_eq!(s.leases[0].take(1), again(seen[2]));
                assert_eq!(s.rest().len(), usize::from(seen[2].is_none()));
                (seen[0], seen[1], seen[2])
            },
        )
        .exactly_together([
            // The drop has the number, and who looks came before it, after it, or to the next one's.
            (Some(7), Some(7), None),
            (Some(7), Some(7), Some(0)),
            (Some(7), None, None),
            (Some(7), None, Some(0)),
            (Some(7), Some(9), Some(0)),
            // It left it to who looks.
            (None, Some(107), None),
            (None, Some(107), Some(0)),
        ]);
    }
}

/// Drops the permit, and puts its slot if nobody looks at it.
fn drops(s: &Row) -> Took {
    let load = s.leases[0].take(0).expect("nobody else ends it");
    if load.is_some() {
        s.put(0, 0);
    }
    load
}

/// What is there; and a hundred if it was left here, with the slot.
fn looks(s: &Row) -> Took {
    match s.leases[0].look(|_, _, n| *n)? {
        Looked::Stands(n) => Some(n),
        Looked::Left(n) => {
            s.put(1, 0);
            Some(100 + n)
        }
    }
}

/// Enters the next in a slot that is vacant.
fn enters(s: &Row) -> Took {
    let slot = s.take(0)?;
    assert_eq!(s.leases[slot as usize].publish(9, 99), Ok(1));
    Some(slot)
}

/// What the next one's handle gets.
fn again(entered: Took) -> Result<Option<u32>, Gone> {
    entered.map(|_| Some(9)).ok_or(Gone)
}

/// Eight threads enter permits, look at them and drop them: no slot is another's meanwhile, and none is lost.
#[cfg(shuttle)]
#[test]
fn shuttle_slots_go_round() {
    let storm = || {
        let row = Row::new(&[1, 2]);
        row.leases[0].take(0).unwrap();
        row.put(0, 0);
        let row = shuttle::sync::Arc::new(row);
        let latches = shuttle::sync::Arc::new([(); SLOTS].map(|()| shuttle::sync::Mutex::new(())));
        let threads: Vec<_> = (0..8u32)
            .map(|i| {
                let (row, latches) = (row.clone(), latches.clone());
                shuttle::thread::spawn(move || {
                    if i < 6 {
                        for _ in 0..2 {
                            let Some(slot) = row.take(i as usize) else { continue };
                            let lease = &row.leases[slot as usize];
                            let generation = lease.publish(slot, 99).expect("its own");
                            match lease.take(generation) {
                                Ok(Some(n)) => {
                                    assert_eq!(n, slot);
                                    row.put(i as usize, slot);
                                }
                                left => assert_eq!(left, Ok(None)),
                            }
                        }
                        return;
                    }
                    for slot in 0..SLOTS as u32 {
                        let _latch = latches[slot as usize].lock().unwrap();
                        match row.leases[slot as usize].look(|_, _, n| *n) {
                            Some(Looked::Stands(n)) => assert_eq!(n, slot),
                            Some(Looked::Left(n)) => {
                                assert_eq!(n, slot);
                                row.put(i as usize, slot);
                            }
                            None => {}
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(row.rest(), [0, 1, 2]);
    };
    shuttle::check_random(storm, 2_000);
    shuttle::check_pct(storm, 2_000, 3);
}
