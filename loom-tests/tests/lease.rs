//! Models of `core/lease.rs`, the word of a lease.
//!
//! Verified: of a drop, a reap and the owner's end exactly one wins, and what was leased is had by one, as who looked last
//! has made it; a renewal comes before the reap, or is refused; a slot that is used again owes nothing to a stale handle; a
//! load that is looked at is nobody else's, and a drop that comes meanwhile leaves it there without waiting. In every
//! spawn order, exact outcomes.
//!
//! Not verified here: that a slot is published by one thread at a time (`vacant`); that one at a time looks (a latch in
//! `resource/holders.rs`, which only who looks passes); the wrap of the generation (it does not: unit tests of the file).

use batchyard::__model::lease::{Gone, Lease, Looked};
use batchyard_loom_tests::explore;

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
    Left,
    Renewed(bool),
    Marked(bool),
    Looked(u32),
}

fn got(load: Option<u32>) -> Did {
    load.map_or(Did::Nothing, Did::Got)
}

fn drops(s: &Shared) -> Did {
    match s.lease.take(0) {
        Ok(load) => load.map_or(Did::Left, Did::Got),
        Err(Gone) => Did::Nothing,
    }
}

fn reaps(s: &Shared) -> Did {
    got(s.lease.reap(0, 10))
}

/// Makes one more of the load.
fn looks(s: &Shared) -> Did {
    let one_more = |_: u32, _: bool, n: &mut u32| {
        *n += 1;
        *n
    };
    match s.lease.look(one_more) {
        Some(Looked::Stands(n)) => Did::Looked(n),
        Some(Looked::Left(n)) => Did::Got(n),
        None => Did::Nothing,
    }
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

/// As this, after who got the load.
fn and_again(s: &Shared, did: Did) -> Did {
    if let Did::Got(_) = did {
        assert_eq!(s.lease.publish(20, 99), Ok(1));
    }
    did
}

/// The next lease is there if the first body made it, and nobody has touched it.
fn stands_again(s: &Shared, seen: Vec<Did>) -> (Did, Did) {
    let again = seen[0] == Did::Got(7);
    assert_eq!(s.lease.take(1), if again { Ok(Some(8)) } else { Err(Gone) });
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
    fn a_look_finds_the_load() {
        explore(
            || Shared { lease: Lease::new() },
            &[
                |s: &Shared| {
                    assert_eq!(s.lease.publish(7, 10), Ok(0));
                    Did::Nothing
                },
                looks,
            ],
            |_, seen| seen[1],
        )
        .exactly_together([Did::Looked(8), Did::Nothing]);
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
        explore(shared, &[|s: &Shared| then_again(s, s.lease.reap(0, 10)), drops], stands_again)
            .exactly(ONE_OF_THEM);
    }

    /// A stale reaper: it decided by the expiry of before, and the slot is another's since.
    #[test]
    fn a_stale_reap_leaves_the_next_lease_alone() {
        explore(shared, &[|s: &Shared| then_again(s, s.lease.take(0).ok().flatten()), reaps], stands_again)
            .exactly(ONE_OF_THEM);
    }

    /// The holder of before renews late: it moves no other's end.
    #[test]
    fn a_stale_renewal_leaves_the_next_lease_alone() {
        explore(shared, &[|s: &Shared| and_again(s, drops(s)), renews], |s, seen| {
            assert_eq!((s.lease.expiry(), s.lease.take(1)), (Some(99), Ok(Some(20))));
            (seen[0], seen[1])
        })
        .exactly([(Did::Got(7), Did::Renewed(true)), (Did::Got(7), Did::Renewed(false))]);
    }

    /// Nor does he change what it has.
    #[test]
    fn a_stale_edit_leaves_the_next_lease_alone() {
        let edits = |s: &Shared| match s.lease.edit(0, |n| *n += 1) {
            Ok(Looked::Stands(())) => Did::Looked(0),
            Ok(Looked::Left(n)) => Did::Got(n),
            Err(Gone) => Did::Nothing,
        };
        explore(shared, &[|s: &Shared| and_again(s, drops(s)), edits], |s, seen| {
            let again = if seen[0] == Did::Left { Err(Gone) } else { Ok(Some(20)) };
            assert_eq!(s.lease.take(1), again, "{seen:?}");
            (seen[0], seen[1])
        })
        .exactly_together([
            (Did::Got(8), Did::Looked(0)),
            (Did::Got(7), Did::Nothing),
            (Did::Left, Did::Got(8)),
        ]);
    }

    /// Neither waits. The load is with one of them, and the slot can be used again at once.
    #[test]
    fn a_drop_beside_a_look() {
        explore(
            shared,
            &[|s: &Shared| and_again(s, drops(s)), |s: &Shared| and_again(s, looks(s))],
            |s, seen| {
                let again = s.lease.take(1);
                // Whoever looked at the next one made one more of that.
                let expected = if seen[1] == Did::Looked(21) { 21 } else { 20 };
                assert_eq!(again, Ok(Some(expected)), "{seen:?}");
                (seen[0], seen[1])
            },
        )
        .exactly_together([
            (Did::Got(8), Did::Looked(8)),
            (Did::Got(7), Did::Nothing),
            (Did::Got(7), Did::Looked(21)),
            (Did::Left, Did::Got(8)),
        ]);
    }

    /// By the owner's end, or another who reaps, while the holder drops: all under the latch of who looks but the holder.
    #[test]
    fn a_reaper_that_looked_before_a_drop() {
        let looks_and_reaps = |s: &Shared| match looks(s) {
            Did::Looked(_) => reaps(s),
            did => did,
        };
        explore(shared, &[looks_and_reaps, drops], |s, seen| {
            assert_eq!((s.lease.expiry(), s.lease.take(0)), (None, Err(Gone)));
            (seen[0], seen[1])
        })
        .exactly_together([
            (Did::Got(8), Did::Nothing),
            (Did::Got(8), Did::Left),
            (Did::Nothing, Did::Got(8)),
            (Did::Nothing, Did::Got(7)),
        ]);
    }

    /// It is said once that a lease is over, and it stays.
    #[test]
    fn mark_against_renew_and_mark() {
        let marks = |s: &Shared| Did::Marked(s.lease.mark(0, 10));
        explore(shared, &[renews, marks, marks], |s, seen| {
            assert_eq!(s.lease.take(0), Ok(Some(7)));
            (seen[0], seen[1], seen[2])
        })
        .exactly_together([
            (Did::Renewed(true), Did::Marked(true), Did::Marked(false)),
            (Did::Renewed(true), Did::Marked(false), Did::Marked(true)),
            (Did::Renewed(true), Did::Marked(false), Did::Marked(false)),
        ]);
    }
}

/// Eight threads share a slot: the holder that drops, and under a latch who looks, renews, marks, reaps. The load comes
/// back once, whole.
#[cfg(shuttle)]
#[test]
fn shuttle_the_load_comes_back_once() {
    let storm = || {
        let lease = shuttle::sync::Arc::new(Lease::new());
        let latch = shuttle::sync::Arc::new(shuttle::sync::Mutex::new(()));
        let back = shuttle::sync::Arc::new(shuttle::sync::Mutex::new(Vec::new()));
        let generation = lease.publish(0u32, 1).unwrap();
        let threads: Vec<_> = (0..8u64)
            .map(|i| {
                let (lease, latch, back) = (lease.clone(), latch.clone(), back.clone());
                shuttle::thread::spawn(move || {
                    let latch = (i > 0).then(|| latch.lock().unwrap());
                    let load = match i % 4 {
                        0 => lease.take(generation).ok().flatten(),
                        1 => lease.reap(generation, 1),
                        2 => lease.renew(generation, 0, 9).ok().and(None),
                        _ => match lease.edit(generation, |n| *n += 1) {
                            Ok(Looked::Left(load)) => Some(load),
                            _ => None,
                        },
                    };
                    drop(latch);
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
        assert_eq!(lease.take(generation + 1), Ok(Some(100)));
    };
    shuttle::check_random(storm, 2_000);
    shuttle::check_pct(storm, 2_000, 3);
}
