//! Models of `core/lease.rs`, the word of a lease.
//!
//! Verified: of a drop, a reap and the owner's end exactly one gets what was leased, and sees what the holder last made
//! of it; a renewal comes before the reap, or is refused; a slot that is used again owes nothing to a stale handle,
//! drop, reap, renewal or edit; a load that is being edited is nobody else's. In every spawn order, exact outcomes.
//!
//! Not verified here: that a slot is published by one thread at a time (the free list's latch, `resource/`); the wrap
//! of the generation (it does not: unit tests of the file).

use batchyard::__model::lease::{Gone, Lease};
use batchyard_loom_tests::{explore, explore_bounded};

/// A lease, whose handle is generation 0, of the number 7 until 10.
struct Shared {
    lease: Lease<u32>,
}

fn shared() -> Shared {
    let lease = Lease::new();
    assert_eq!(lease.publish(7, 10), Ok(0));
    Shared { lease }
}

/// What a body did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Did {
    Got(u32),
    Nothing,
    Renewed(bool),
    Edited(bool),
}

fn got(load: Option<u32>) -> Did {
    load.map_or(Did::Nothing, Did::Got)
}

fn drops(s: &Shared) -> Did {
    got(s.lease.take(0).ok())
}

fn reaps(s: &Shared) -> Did {
    got(s.lease.reap(10))
}

fn renews(s: &Shared) -> Did {
    Did::Renewed(s.lease.renew(0, 9, 20).is_ok())
}

/// Who got the load uses the slot again at once.
fn then_again(s: &Shared, load: Option<u32>) -> Did {
    if load.is_some() {
        assert_eq!(s.lease.publish(8, 99), Ok(1));
    }
    got(load)
}

/// The next lease is there if the first body made it, and nobody has touched it.
fn stands_again(s: &Shared, seen: Vec<Did>) -> (Did, Did) {
    let again = seen[0] == Did::Got(7);
    assert_eq!(s.lease.take(1), if again { Ok(8) } else { Err(Gone) });
    (seen[0], seen[1])
}

/// One of two got the load.
const ONE_OF_THEM: [(Did, Did); 2] = [(Did::Got(7), Did::Nothing), (Did::Nothing, Did::Got(7))];

mod loop_free {
    use super::*;

    /// A publisher, and who finds its lease by looking: the reaper.
    #[test]
    fn who_wins_finds_the_load() {
        explore(
            || Shared { lease: Lease::new() },
            &[
                |s: &Shared| {
                    assert_eq!(s.lease.publish(7, 10), Ok(0));
                    Did::Nothing
                },
                reaps,
            ],
            |_, seen| seen[1],
        )
        .exactly_together([Did::Got(7), Did::Nothing]);
    }

    #[test]
    fn drop_renew_reap() {
        explore(shared, &[drops, renews, reaps], |s, seen| {
            let won = seen.iter().filter(|did| matches!(did, Did::Got(7))).count();
            assert_eq!(won, 1, "{seen:?}");
            assert_eq!(s.lease.expiry(), None);
            (seen[0], seen[1], seen[2])
        })
        .exactly_together([
            (Did::Got(7), Did::Renewed(true), Did::Nothing),
            (Did::Got(7), Did::Renewed(false), Did::Nothing),
            (Did::Nothing, Did::Renewed(false), Did::Got(7)),
        ]);
    }

    #[test]
    fn renew_against_reap() {
        explore(shared, &[renews, reaps], |s, seen| {
            // Renewed in time, it is there; else it is gone.
            let there = s.lease.expiry();
            assert_eq!(there, (seen[0] == Did::Renewed(true)).then_some(20));
            (seen[0], seen[1])
        })
        .exactly([(Did::Renewed(true), Did::Nothing), (Did::Renewed(false), Did::Got(7))]);
    }

    /// The reaper uses the slot again at once; the holder of before drops late.
    #[test]
    fn a_stale_drop_leaves_the_next_lease_alone() {
        explore(shared, &[|s: &Shared| then_again(s, s.lease.reap(10)), drops], stands_again)
            .exactly(ONE_OF_THEM);
    }

    /// A stale reaper: it decided by the expiry of before, and the slot is another's since.
    #[test]
    fn a_stale_reap_leaves_the_next_lease_alone() {
        explore(shared, &[|s: &Shared| then_again(s, s.lease.take(0).ok()), reaps], stands_again)
            .exactly(ONE_OF_THEM);
    }

    /// The holder of before renews late: it moves no other's end.
    #[test]
    fn a_stale_renewal_leaves_the_next_lease_alone() {
        explore(shared, &[|s: &Shared| then_again(s, s.lease.take(0).ok()), renews], |s, seen| {
            assert_eq!((s.lease.expiry(), s.lease.take(1)), (Some(99), Ok(8)));
            (seen[0], seen[1])
        })
        .exactly([(Did::Got(7), Did::Renewed(true)), (Did::Got(7), Did::Renewed(false))]);
    }

    /// Nor does he change what it has.
    #[test]
    fn a_stale_edit_leaves_the_next_lease_alone() {
        explore(
            shared,
            &[
                |s: &Shared| then_again(s, s.lease.reap(10)),
                |s: &Shared| Did::Edited(s.lease.edit(0, |n| *n += 1).is_ok()),
            ],
            |s, seen| {
                let left = match seen[0] {
                    // The reaper passed by while it was edited.
                    Did::Nothing => (s.lease.take(0), s.lease.take(1)),
                    _ => (Err(Gone), s.lease.take(1)),
                };
                (seen[0], seen[1], left)
            },
        )
        .exactly([
            (Did::Nothing, Did::Edited(true), (Ok(8), Err(Gone))),
            (Did::Got(8), Did::Edited(true), (Err(Gone), Ok(8))),
            (Did::Got(7), Did::Edited(false), (Err(Gone), Ok(8))),
        ]);
    }

    /// A publisher, and who finds its lease by looking: an editor.
    #[test]
    fn who_edits_finds_the_load() {
        explore(
            || Shared { lease: Lease::new() },
            &[
                |s: &Shared| {
                    assert_eq!(s.lease.publish(7, 10), Ok(0));
                    Did::Nothing
                },
                |s: &Shared| Did::Edited(s.lease.edit(0, |n| *n += 1).is_ok()),
            ],
            |s, seen| {
                assert_eq!(s.lease.take(0), Ok(7 + u32::from(seen[1] == Did::Edited(true))));
                seen[1]
            },
        )
        .exactly_together([Did::Edited(true), Did::Edited(false)]);
    }

    #[test]
    fn an_edit_comes_before_the_reap_or_not_at_all() {
        explore(
            shared,
            &[|s: &Shared| Did::Edited(s.lease.edit(0, |n| *n += 1).is_ok()), reaps],
            |s, seen| {
                let left = s.lease.take(0);
                match seen[1] {
                    // The reaper passed by while it was edited.
                    Did::Nothing => assert_eq!((seen[0], left), (Did::Edited(true), Ok(8))),
                    _ => assert_eq!(left, Err(Gone)),
                }
                (seen[0], seen[1])
            },
        )
        .exactly([
            (Did::Edited(true), Did::Got(8)),
            (Did::Edited(true), Did::Nothing),
            (Did::Edited(false), Did::Got(7)),
        ]);
    }

    /// It is said once that a lease is over, and it stays.
    #[test]
    fn mark_against_renew_and_mark() {
        let marks = |s: &Shared| Did::Edited(s.lease.mark(10));
        explore(shared, &[renews, marks, marks], |s, seen| {
            assert_eq!(s.lease.take(0), Ok(7));
            (seen[0], seen[1], seen[2])
        })
        .exactly_together([
            (Did::Renewed(true), Did::Edited(true), Did::Edited(false)),
            (Did::Renewed(true), Did::Edited(false), Did::Edited(true)),
            (Did::Renewed(true), Did::Edited(false), Did::Edited(false)),
        ]);
    }
}

/// The owner's end takes by another handle, while the holder edits: it waits for the edit.
#[test]
fn the_owners_end_waits_for_an_edit() {
    explore_bounded(
        Some(3),
        shared,
        &[|s: &Shared| Did::Edited(s.lease.edit(0, |n| *n += 1).is_ok()), drops],
        |_, seen| (seen[0], seen[1]),
    )
    .exactly([(Did::Edited(true), Did::Got(8)), (Did::Edited(false), Did::Got(7))]);
}

/// Eight threads share a slot: holders that renew and drop, reapers. Each load comes back once.
#[cfg(shuttle)]
#[test]
fn shuttle_each_load_comes_back_once() {
    let storm = || {
        let lease = shuttle::sync::Arc::new(Lease::new());
        let back = shuttle::sync::Arc::new(shuttle::sync::Mutex::new(Vec::new()));
        let generation = lease.publish(0u32, 1).unwrap();
        let threads: Vec<_> = (0..8u64)
            .map(|i| {
                let (lease, back) = (lease.clone(), back.clone());
                shuttle::thread::spawn(move || {
                    let load = match i % 4 {
                        0 => lease.take(generation).ok(),
                        1 => lease.reap(1),
                        2 => lease.renew(generation, 0, 9).ok().and(None),
                        _ => lease.edit(generation, |n| *n += 1).ok().and(None),
                    };
                    if let Some(load) = load {
                        back.lock().unwrap().push(load);
                        let _ = lease.publish(100, 99).unwrap();
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let back = back.lock().unwrap();
        assert!(back.len() == 1 && back[0] <= 2, "{back:?}");
        assert_eq!(lease.take(generation + 1).map(|n| n), Ok(100));
    };
    shuttle::check_random(storm, 2_000);
    shuttle::check_pct(storm, 2_000, 3);
}
