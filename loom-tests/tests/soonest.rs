//! Models of `core/soonest.rs`, the earliest end of all leases.
//!
//! Verified: whoever enters a lease beside a walk, the bound at the end is not after its end; and while somebody walks the
//! bound is not after the end of a lease that was there before. In every spawn order, exact outcomes.
//!
//! Not verified here: that one walks at a time (a latch in `resource/holders.rs`); that sleepers are told of an earlier
//! end (tests/resource_leases.rs).

use batchyard::__model::lease::{Lease, NEVER};
use batchyard::__model::soonest::Soonest;
use batchyard_loom_tests::{explore, explore_bounded};

struct Shared {
    soonest: Soonest,
    leases: [Lease<u32>; 2],
}

/// Something that has ended since made the bound early.
fn shared() -> Shared {
    let s = Shared { soonest: Soonest::new(), leases: [Lease::new(), Lease::new()] };
    assert!(s.soonest.lower(5));
    s
}

fn enter(s: &Shared, i: usize, end: u64) -> bool {
    s.leases[i].publish(7, end).expect("free");
    s.soonest.lower(end)
}

/// What the walk found.
fn walk(s: &Shared) -> u64 {
    s.soonest.begin();
    let ends = s.leases.iter().filter_map(Lease::expiry);
    let next = ends.min().unwrap_or(NEVER);
    s.soonest.end(next);
    next
}

mod loop_free {
    use super::*;

    /// For three threads; with 3 loom sees the same outcomes in 136,000 executions.
    const BOUND: Option<usize> = Some(2);

    #[test]
    fn who_enters_beside_a_walk_is_not_forgotten() {
        explore(shared, &[|s: &Shared| u64::from(enter(s, 0, 20)), walk], |s, seen| {
            assert_eq!(s.soonest.bound(), 20);
            (seen[0], seen[1])
        })
        .exactly_together([(1, NEVER), (0, NEVER), (0, 20)]);
    }

    #[test]
    fn two_who_enter_beside_a_walk() {
        explore_bounded(
            BOUND,
            shared,
            &[|s: &Shared| u64::from(enter(s, 0, 20)), |s: &Shared| u64::from(enter(s, 1, 30)), walk],
            |s, seen| {
                assert_eq!(s.soonest.bound(), 20);
                seen[2]
            },
        )
        .exactly_together([NEVER, 20, 30]);
    }

    /// Who looks meanwhile is early, never late.
    #[test]
    fn a_walk_does_not_hide_what_is_there() {
        explore(
            || {
                let s = shared();
                enter(&s, 0, 20);
                s
            },
            &[walk, |s: &Shared| s.soonest.bound()],
            |s, seen| {
                assert_eq!((seen[0], s.soonest.bound()), (20, 20));
                seen[1]
            },
        )
        .exactly_together([0, 5, 20]);
    }
}
