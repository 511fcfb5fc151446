//! How a lock is shared out where most wait: eight threads, each holds it alone for a microsecond and asks again at once.
//!
//! A wait counts from the call on, also where it was none. A row tells how evenly the holds are spread over a second; one
//! sets the p99.9 of all waits beside parking_lot's. In the last one thread asks with high priority, and comes anew every
//! 50 µs, so that it finds the lock taken: the p99.9 of its waits beside that of a thread which does the same with
//! parking_lot's.

use crate::common::rounds::Contest;
use batchyard::Priority;
use batchyard::lock::{LockWait, RwLock};
use hdrhistogram::Histogram;
use std::hint::spin_loop;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const THREADS: usize = 8;
const HELD: Duration = Duration::from_micros(1);
const PAUSE: Duration = Duration::from_micros(50);
const SECOND: Duration = Duration::from_secs(1);
/// The most holds of a thread over the fewest.
const SPREAD: f64 = 1.5;
const WAIT: f64 = 1.0;
const HIGH_WAIT: f64 = 0.25;
const PERCENT: f64 = 99.9;
/// What a histogram tells apart, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;

/// Takes the lock alone, calls what it is given, and gives it back.
type Hold<'a> = &'a (dyn Fn(&mut dyn FnMut()) + Sync);

pub(super) fn contests() -> Vec<Contest<'static>> {
    vec![
        Contest::bounded(
            "1 µs held, most over fewest holds of a thread in 1 s",
            THREADS,
            SPREAD,
            "times",
            |plan| {
                if plan.test {
                    ours(plan.slice, false);
                    return 1.0; // too short to say
                }
                let holds = ours(SECOND, false).holds;
                let (most, fewest) = (holds.iter().max(), holds.iter().min());
                *most.expect("threads") as f64 / (*fewest.expect("threads")).max(1) as f64
            },
        )
        .passes(1),
        Contest::new("1 µs held, p99.9 of the waits", THREADS, WAIT, |plan| {
            wait(&ours(time(plan.test), false))
        })
        .passes(1)
        .against("parking_lot", |plan| wait(&theirs(time(plan.test), false))),
        Contest::new("1 µs held, p99.9 of a high-priority waiter", THREADS, HIGH_WAIT, |plan| {
            wait(&ours(time(plan.test), true))
        })
        .passes(1)
        .against("parking_lot", |plan| wait(&theirs(time(plan.test), true))),
    ]
}

fn time(test: bool) -> Duration {
    if test { Duration::from_millis(2) } else { SECOND }
}

fn wait(run: &Run) -> f64 {
    run.waits.value_at_percentile(PERCENT) as f64
}

struct Run {
    /// Of each thread.
    holds: Vec<u64>,
    /// Of all threads, or of the one that pauses; in nanoseconds.
    waits: Histogram<u64>,
}

fn ours(time: Duration, one_pauses: bool) -> Run {
    let lock = RwLock::new(0u64);
    let high = LockWait::new().priority(Priority::High);
    let plain = |body: &mut dyn FnMut()| {
        let mut value = lock.write().expect("not held by this thread");
        *value += 1;
        body();
    };
    let first = |body: &mut dyn FnMut()| {
        let mut value = lock.write_with(&high).expect("not held by this thread");
        *value += 1;
        body();
    };
    let run = drive(time, one_pauses.then_some(&first), &plain);
    assert_eq!(lock.into_inner(), run.holds.iter().sum::<u64>(), "one at a time");
    run
}

fn theirs(time: Duration, one_pauses: bool) -> Run {
    let lock = parking_lot::RwLock::new(0u64);
    let plain = |body: &mut dyn FnMut()| {
        let mut value = lock.write();
        *value += 1;
        body();
    };
    let run = drive(time, one_pauses.then_some(&plain), &plain);
    assert_eq!(lock.into_inner(), run.holds.iter().sum::<u64>(), "one at a time");
    run
}

/// Eight threads that hold it as `hold` does; or seven, and one that holds it as `pausing` does, with pauses.
fn drive(time: Duration, pausing: Option<Hold<'_>>, hold: Hold<'_>) -> Run {
    let (start, over) = (Barrier::new(THREADS + 1), AtomicBool::new(false));
    let team = |hold: Hold<'_>, pause: Option<Duration>| {
        let mut waits = Histogram::<u64>::new_with_bounds(1, LONGEST, 3).expect("valid bounds");
        let mut holds = 0;
        start.wait();
        while !over.load(Ordering::Relaxed) {
            pause.into_iter().for_each(thread::sleep);
            let asked = Instant::now();
            hold(&mut || {
                let began = Instant::now();
                waits.saturating_record((began - asked).as_nanos() as u64);
                while began.elapsed() < HELD {
                    spin_loop();
                }
            });
            holds += 1;
        }
        (holds, waits)
    };
    thread::scope(|s| {
        let first = s.spawn(|| pausing.map_or_else(|| team(hold, None), |hold| team(hold, Some(PAUSE))));
        let others: Vec<_> = (1..THREADS).map(|_| s.spawn(|| team(hold, None))).collect();
        start.wait();
        thread::sleep(time);
        over.store(true, Ordering::Relaxed);
        let (mine, mut waits) = first.join().expect("no panic");
        let mut holds = vec![mine];
        for other in others {
            let (more, their_waits) = other.join().expect("no panic");
            holds.push(more);
            if pausing.is_none() {
                waits.add(&their_waits).expect("of one make");
            }
        }
        Run { holds, waits }
    })
}
