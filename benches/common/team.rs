//! One operation on many threads for a slice of time.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Operations between two looks at the clock.
const BURST: u64 = 256;

/// Wall nanoseconds per operation over all threads together: with perfect scaling, two threads halve it.
///
/// The threads are up and running before the first one starts its clock. `make` gives each thread its operation,
/// which says whether it went as expected; if one did not, there is no cost (NaN).
pub(crate) fn drive<O: FnMut() -> bool>(threads: usize, slice: Duration, make: impl Fn() -> O + Sync) -> f64 {
    let ready = AtomicUsize::new(0);
    let runs: Vec<Run> = thread::scope(|s| {
        let team: Vec<_> = (0..threads).map(|_| s.spawn(|| one(threads, &ready, slice, make()))).collect();
        team.into_iter().map(|t| t.join().expect("a bench thread panicked")).collect()
    });
    if !runs.iter().all(|r| r.sound) {
        return f64::NAN;
    }
    let start = runs.iter().map(|r| r.start).min().expect("at least one thread");
    let end = runs.iter().map(|r| r.end).max().expect("at least one thread");
    (end - start).as_nanos() as f64 / runs.iter().map(|r| r.operations).sum::<u64>() as f64
}

struct Run {
    start: Instant,
    end: Instant,
    operations: u64,
    sound: bool,
}

fn one(threads: usize, ready: &AtomicUsize, slice: Duration, mut op: impl FnMut() -> bool) -> Run {
    let mut sound = op();
    ready.fetch_add(1, Ordering::AcqRel);
    while ready.load(Ordering::Acquire) < threads {
        spin_loop();
    }
    let start = Instant::now();
    let mut operations = 0;
    loop {
        for _ in 0..BURST {
            sound &= op();
        }
        operations += BURST;
        let end = Instant::now();
        if end - start >= slice {
            return Run { start, end, operations, sound };
        }
    }
}
