//! A lane that is held does not end, one that has ended cannot be held, and it ends once, whoever comes last: who settles
//! its last item, who seals it, or who lets it go.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads of tests are plain ones

use super::*;
use crate::engine::body::Body;
use crate::engine::work::{Ended, Work};
use crate::job::Key;
use crate::sync::Mutex;
use crate::sync::atomic::AtomicU64;
use std::ops::Range;

/// Nothing to run: it only counts how often it has ended.
struct Idle(Arc<AtomicU64>);

impl Work for Idle {
    type Chunk = ();
    type Out = ();
    const REFILLED: bool = false;

    fn claim(&self, _max: usize) -> Option<((), u32, bool)> {
        None
    }
    fn unclaimed(&self) -> usize {
        0
    }
    fn call(&self, (): &(), _at: u32, _ctx: &Context) -> Result<(), Failure> {
        Ok(())
    }
    fn seq(&self, (): &(), _at: u32) -> u64 {
        0
    }
    fn key(&self, (): &(), _at: u32) -> Option<Key> {
        None
    }
    fn queued(&self, (): &(), _at: u32) -> Option<Timestamp> {
        None
    }
    fn keep(&self, _seat: usize, (): &(), _at: u32, _outcome: Result<(), Dead>, _ended: Ended) {}
    fn publish(&self, _seat: usize) {}
    fn drop_unclaimed(&self, _reason: &Ending) -> (usize, Box<dyn std::any::Any + Send>) {
        (0, Box::new(()))
    }
    fn cancelled(&self, (): &(), _range: Range<u32>, _reason: &Ending) {}
    fn ended(&self, _report: &Report) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Where two threads meet, as closely as they can.
struct Meeting(AtomicU64);

impl Meeting {
    fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn meet(&self, round: u64) {
        self.0.fetch_add(1, Ordering::SeqCst);
        let mut spins = 0u32;
        while self.0.load(Ordering::SeqCst) < 2 * (round + 1) {
            spins += 1;
            if spins.is_multiple_of(1000) {
                std::thread::yield_now();
            }
        }
    }
}

#[test]
fn a_lane_that_is_held_does_not_end() {
    const ROUNDS: u64 = 30_000;
    let engine = Engine::builder().workers(1).in_memory().open().unwrap();
    let shared = &engine.handle.shared;
    let lane = |ends: &Arc<AtomicU64>, open: u64| {
        let core = plain_core(shared, "held", Retry::none());
        let shell = Shell::owned(core, Box::new(Body::new(Idle(Arc::clone(ends)), 1)));
        shell.core.counts.open.add(open);
        shell.core.counts.submitted.add(open);
        shared.place_now(&shell).unwrap();
        shell
    };
    let (begin, over, there) = (Meeting::new(), Meeting::new(), Mutex::new(None));
    // What goes wrong is counted: who panicked would leave the other one waiting.
    let hold = || {
        let (mut held, mut ended) = (0, 0);
        for round in 0..ROUNDS {
            begin.meet(2 * round);
            let shell: Arc<Shell> = there.lock().clone().expect("it is there before they meet");
            begin.meet(2 * round + 1);
            (0..round % 50).for_each(|_| std::hint::spin_loop());
            if shared.hold(&shell) {
                (0..round % 31).for_each(|_| std::hint::spin_loop());
                ended += u64::from(shell.core.has_ended());
                shared.settled(&shell, 1, 0);
                held += 1;
            }
            over.meet(round);
        }
        (held, ended)
    };
    let (mut open_still, mut held_after, mut ends_twice) = (0, 0, 0);
    let (held, ended) = std::thread::scope(|scope| {
        let holding = scope.spawn(hold);
        for round in 0..ROUNDS {
            // With nothing open but for its seal, or with one item.
            let (ends, open) = (Arc::new(AtomicU64::new(0)), round % 2);
            let shell = lane(&ends, open);
            *there.lock() = Some(Arc::clone(&shell));
            begin.meet(2 * round);
            begin.meet(2 * round + 1);
            (0..round % 47).for_each(|_| std::hint::spin_loop());
            let settle = || shared.settled(&shell, open, open);
            let first = round % 4 < 2;
            if first {
                settle();
            }
            shell.core.seal();
            shared.maybe_end(&shell);
            if !first {
                settle();
            }
            over.meet(round);
            open_still += u64::from(!shell.core.has_ended());
            held_after += u64::from(shared.hold(&shell));
            ends_twice += u64::from(ends.load(Ordering::SeqCst) != 1);
        }
        holding.join().unwrap()
    });
    assert_eq!(ended, 0, "it has ended, and is held");
    assert_eq!((open_still, held_after, ends_twice), (0, 0, 0));
    assert!(0 < held && held < ROUNDS, "they never met: {held}");
    engine.shutdown(Duration::from_secs(60)).unwrap();
}
