//! Taking and giving back one of 64 permits that never run short: `Quota` against tokio's `Semaphore`.

use crate::common::rounds::{Contest, Plan, hold as hold_rounds, operation};
use crate::common::row::Row;
use batchyard::limit::Quota;
use std::hint::black_box;
use tokio::sync::Semaphore;

const PERMITS: usize = 64;
const TARGET: f64 = 0.5;

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    let ours = Quota::new(PERMITS as u64).expect("64 permits are a valid quota");
    let theirs = Semaphore::new(PERMITS);
    bounds(&ours, &theirs);

    let contests = [1, 2].into_iter().map(|threads| {
        Contest::new(
            "take and put, 64 permits",
            threads,
            TARGET,
            operation(threads, || || black_box(ours.try_acquire(1)).is_ok()),
        )
        .against("tokio", operation(threads, || || black_box(theirs.try_acquire()).is_ok()))
    });
    let rows = hold_rounds(group, plan, contests.collect());
    bounds(&ours, &theirs);
    rows
}

/// All permits can be taken, not one more, and dropped ones come back.
fn bounds(ours: &Quota, theirs: &Semaphore) {
    for _ in 0..2 {
        let held: Vec<_> = (0..PERMITS).map(|_| ours.try_acquire(1).expect("a permit is free")).collect();
        assert!(ours.try_acquire(1).is_err(), "{} of {PERMITS} permits are taken", held.len());
        let held: Vec<_> = (0..PERMITS).map(|_| theirs.try_acquire().expect("a permit is free")).collect();
        assert!(theirs.try_acquire().is_err(), "{} of {PERMITS} permits are taken", held.len());
    }
}
