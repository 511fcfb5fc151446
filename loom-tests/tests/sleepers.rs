//! `core/sleepers.rs`.
//!
//! Verified, for every interleaving (of at most three preemptions with three threads) and every value that the memory orders
//! allow, in every spawn order: who sleeps sees the change, whenever it comes (sleeps have no time here: a change that is not
//! seen is a deadlock), and nobody is left in the list.
//!
//! Not verified here: the times that they sleep to, and that the words are read right (`tests/bucket.rs`).

use batchyard::__model::sleepers::{Look, Sleepers};
use batchyard_loom_tests::{explore, explore_bounded};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(shuttle)]
use shuttle::sync::atomic::{AtomicU64, Ordering};

struct Terms {
    sleepers: Sleepers,
    changed: AtomicU64,
}

impl Terms {
    fn new() -> Self {
        Terms { sleepers: Sleepers::default(), changed: AtomicU64::new(0) }
    }

    /// What it sees at the end: the first change, or the second.
    fn sleep(&self) -> u64 {
        self.sleepers.sleep_alone(|| match self.changed.load(Ordering::Relaxed) {
            0 => Look::Sleep(()),
            seen => Look::Done(seen),
        })
    }

    fn change(&self, to: u64) -> u64 {
        // Relaxed: the latch carries it.
        self.changed.store(to, Ordering::Relaxed);
        self.sleepers.wake_all();
        0
    }
}

#[test]
fn a_sleeper_sees_a_change() {
    explore(Terms::new, &[|t: &Terms| t.sleep(), |t: &Terms| t.change(1)], |t, seen| {
        assert_eq!(t.sleepers.waiting(), 0);
        seen[0]
    })
    .exactly([1]);
}

#[test]
fn two_sleepers_see_a_change() {
    explore_bounded(
        Some(3),
        Terms::new,
        &[|t: &Terms| t.sleep(), |t: &Terms| t.sleep(), |t: &Terms| t.change(1)],
        |t, seen| {
            assert_eq!(t.sleepers.waiting(), 0);
            (seen[0], seen[1])
        },
    )
    .exactly([(1, 1)]);
}

#[test]
fn a_sleeper_sees_one_of_two_changes() {
    explore(
        Terms::new,
        &[
            |t: &Terms| t.sleep(),
            |t: &Terms| {
                t.change(1);
                t.change(2)
            },
        ],
        |_, seen| seen[0],
    )
    .exactly_together([1, 2]);
}

/// Eight sleep, two change.
#[cfg(shuttle)]
#[test]
fn ten_threads() {
    use batchyard_loom_tests::{Arc, thread};
    fn model() {
        let t = Arc::new(Terms::new());
        let threads: Vec<_> = (0..10)
            .map(|id| {
                let t = t.clone();
                thread::spawn(move || if id < 8 { t.sleep() } else { t.change(id) })
            })
            .collect();
        threads.into_iter().for_each(|thread| drop(thread.join().unwrap()));
        assert_eq!(t.sleepers.waiting(), 0);
    }
    shuttle::check_random(model, 2_000);
    shuttle::check_pct(model, 1_000, 3);
}
