//! `core/latch.rs`.
//!
//! Verified, for every interleaving of two threads and every value that the memory orders allow, in every spawn order:
//! - one thread at a time is inside, and sees what those before it did;
//! - a change under all latches has happened as a whole or not at all for who has any of them, and what it reads inside is
//!   later than what somebody read who then met the state before it.
//!
//! Not verified here: the pauses of who waits (one scheduling point each in the models), that who unwinds lets go (unit
//! tests), and what is decided inside (`tests/keyed_limiter.rs`). Who waits goes round in a loop, so nothing here is in the
//! `loom_rmw_loads` pass, and two who wait are left to shuttle, which runs eight threads.

use batchyard::__model::latch::{Latch, Latches};
use batchyard_loom_tests::explore;
#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(shuttle)]
use shuttle::sync::atomic::{AtomicU64, Ordering};

fn next(latch: &Latch<u64>) -> u64 {
    let mut inside = latch.lock();
    *inside += 1;
    *inside
}

#[test]
fn one_at_a_time() {
    explore(|| Latch::new(0), &[next, next], |latch, seen| (seen[0], seen[1], *latch.lock()))
        .exactly_together([(1, 2, 2), (2, 1, 2)]);
}

/// Values of two latches, both changed together.
fn change(latches: &Latches<u64>, to: u64) {
    let mut all = latches.all();
    all.values(|value| *value = to);
}

/// Who meets the change in one meets it in the other.
#[test]
fn a_change_is_whole() {
    explore(
        || Latches::new(1, || 0),
        &[
            |latches: &Latches<u64>| {
                change(latches, 1);
                (1, 1)
            },
            |latches| {
                let second = *latches.one(1).lock();
                (second, *latches.one(0).lock())
            },
        ],
        |_, seen| seen[1],
    )
    .exactly([(0, 0), (0, 1), (1, 1)]);
}

#[test]
fn two_changes_come_one_after_the_other() {
    explore(
        || Latches::new(1, || 0),
        &[|latches: &Latches<u64>| change(latches, 1), |latches| change(latches, 2)],
        |latches, _| latches.each().map(|value| *value).collect::<Vec<_>>(),
    )
    .exactly_together([vec![1, 1], vec![2, 2]]);
}

/// A reading of the clock, then a decision by the terms under a latch: never by the terms of before (0) with a reading that
/// is later than the change's own.
#[test]
fn what_is_decided_by_the_terms_of_before_was_read_before() {
    struct Shared {
        terms: Latches<u64>,
        clock: AtomicU64,
    }
    explore(
        || Shared { terms: Latches::new(1, || 0), clock: AtomicU64::new(1) },
        &[
            |shared: &Shared| {
                let mut all = shared.terms.all();
                let since = shared.clock.load(Ordering::Acquire);
                all.values(|terms| *terms = since);
                // Time goes on before the latches are let go.
                shared.clock.store(2, Ordering::Release);
                (0, 0)
            },
            |shared| {
                let now = shared.clock.load(Ordering::Acquire);
                (now, *shared.terms.one(1).lock())
            },
        ],
        |_, seen| seen[1],
    )
    .exactly_together([(1, 0), (1, 1), (2, 1)]);
}

#[cfg(shuttle)]
mod many {
    use super::*;
    use batchyard_loom_tests::{Arc, thread};

    /// Changes that count up, and threads that look: what is seen never goes back, and is alike in all.
    fn model() {
        let latches = Arc::new(Latches::new(2, || 0u64));
        let threads: Vec<_> = (0..8)
            .map(|id| {
                let latches = latches.clone();
                thread::spawn(move || {
                    let mut last = 0;
                    for round in 0..3 {
                        if id < 2 {
                            latches.all().values(|value| *value += 1);
                        } else {
                            let seen = *latches.one(id + round).lock();
                            assert!(seen >= last, "{seen} after {last}");
                            last = seen;
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(latches.each().map(|value| *value).collect::<Vec<_>>(), [6; 4]);
    }

    #[test]
    fn changes_beside_looks() {
        shuttle::check_random(model, 2_000);
    }
}
