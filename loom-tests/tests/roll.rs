//! Models of `core/roll.rs`: who enters the roll of those who wait, looks, is told, and leaves.
//!
//! Verified, in every spawn order and for every value that the memory orders allow: of two that enter and look, one sees the
//! other, or the model deadlocks; who is told hears of it, asleep or not yet, or the model deadlocks; one is told and not
//! both; what somebody looks at belongs to one who has not left, and nobody changes it meanwhile (the race would be found).
//!
//! Not verified here: what is decided of those on the roll (`waitgraph/reduction.rs`, against trying everything), and the
//! queues that they stand in meanwhile (`lockline`, `waitlist`).

use batchyard::__model::roll::{Entry, Roll};
use batchyard_loom_tests::{Body, Guarded, explore};

#[cfg(loom)]
use loom::sync::{Mutex, atomic::AtomicBool};
#[cfg(shuttle)]
use shuttle::sync::{Mutex, atomic::AtomicBool};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

type Wake = Box<dyn Fn() + Send + Sync>;

/// Two that wait for each other: each goes on when the other gives way.
struct Circle {
    roll: Roll<usize>,
    given: [AtomicBool; 2],
    wake: [Mutex<Option<Wake>>; 2],
}

fn circle() -> Circle {
    Circle {
        roll: Roll::default(),
        given: [AtomicBool::new(false), AtomicBool::new(false)],
        wake: [Mutex::new(None), Mutex::new(None)],
    }
}

/// If both are there, and nobody has been told, the first is, asleep or not.
fn decide(roll: &mut [Entry<usize>]) {
    if roll.len() == 2 && !roll.iter().any(Entry::is_told) {
        roll.iter_mut().filter(|entry| entry.what == 0).for_each(Entry::tell);
    }
}

impl Circle {
    /// True: it was the one to give way.
    fn wait(&self, me: usize) -> bool {
        let wakes = |wake: &dyn Fn() -> Wake| *self.wake[me].lock().unwrap() = Some(wake());
        let told = self.roll.wait_alone(me, wakes, decide, || self.given[me].load(SeqCst));
        if told {
            self.given[1 - me].store(true, SeqCst);
            if let Some(wake) = &*self.wake[1 - me].lock().unwrap() {
                wake();
            }
        }
        told
    }
}

#[test]
fn of_two_in_a_circle_one_is_told() {
    let bodies: [Body<Circle, bool>; 2] = [|s| s.wait(0), |s| s.wait(1)];
    explore(circle, &bodies, |_, seen| (seen[0], seen[1])).exactly([(true, false)]);
}

/// What the one holds is read by the other, and changed as soon as the one has left.
struct Held {
    roll: Roll<Arc<Guarded>>,
    held: Arc<Guarded>,
}

fn held() -> Held {
    Held { roll: Roll::default(), held: Arc::new(Guarded::new()) }
}

#[test]
fn what_is_looked_at_stands_still() {
    let bodies: [Body<Held, bool>; 2] = [
        |s| {
            s.roll.wait_alone(Arc::clone(&s.held), |_| (), |_| (), || true);
            s.held.touch();
            true
        },
        |s| {
            s.roll.look(|roll| {
                roll.iter().for_each(|entry| entry.what.look());
                !roll.is_empty()
            })
        },
    ];
    explore(held, &bodies, |_, seen| seen[1]).exactly([false, true]);
}
