//! `Quota`: plenty of permits, against tokio's semaphore (in `benches/peers`); and scarce ones, where most threads wait.
//!
//! Scarce: two permits, eight threads, each holds one for a microsecond and asks again at once. The peer is a count under a
//! parking_lot `Mutex` with a `Condvar`, which lets whoever comes barge. Cost is wall time per hold, so a throughput of 0.9
//! of the peer's is a cost of 1.11. A row of its own tells how evenly the holds are spread over the threads in a second.

use super::outside;
use crate::common::rounds::{Contest, Plan, hold as hold_rounds};
use crate::common::row::Row;
use batchyard::limit::Quota;
use parking_lot::{Condvar, Mutex};
use std::hint::spin_loop;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PERMITS: u64 = 2;
const THREADS: usize = 8;
const HELD: Duration = Duration::from_micros(1);
/// Many hand-overs, and many turns of the system's scheduler.
const PASS: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const TARGET: f64 = 1.0 / 0.9;
/// The most holds of a thread over the fewest.
const SPREAD: f64 = 1.5;

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    let mut rows = outside::hold(group, plan);
    let contests = vec![
        Contest::new("scarce", THREADS, TARGET, |plan| cost(plan, ours))
            .passes(1)
            .against("parking_lot Mutex + Condvar", |plan| cost(plan, theirs)),
        Contest::bounded(
            "scarce, most over fewest holds of a thread in 1 s",
            THREADS,
            SPREAD,
            "times",
            |plan| {
                let run = ours(if plan.test { plan.slice } else { SECOND });
                let (most, fewest) = (run.holds.iter().max(), run.holds.iter().min());
                if plan.test {
                    return 1.0; // too short to say
                }
                *most.expect("threads") as f64 / (*fewest.expect("threads")).max(1) as f64
            },
        )
        .passes(1),
    ];
    rows.extend(hold_rounds(group, plan, contests));
    rows
}

/// What each thread got within the time.
struct Holds {
    holds: Vec<u64>,
    time: Duration,
}

/// Wall nanoseconds per hold.
fn cost(plan: &Plan, run: impl Fn(Duration) -> Holds) -> f64 {
    let run = run(if plan.test { plan.slice } else { PASS });
    run.time.as_nanos() as f64 / run.holds.iter().sum::<u64>() as f64
}

/// Each thread's `hold` takes a permit, calls what it is given while it holds it, and gives it back.
fn drive(time: Duration, hold: impl Fn(&dyn Fn()) + Sync) -> Holds {
    let (start, over) = (Barrier::new(THREADS + 1), AtomicBool::new(false));
    let inside = AtomicI64::new(0);
    thread::scope(|s| {
        let thread = || {
            start.wait();
            let mut holds = 0;
            while !over.load(Ordering::Relaxed) {
                hold(&|| {
                    assert!(inside.fetch_add(1, Ordering::Relaxed) < PERMITS as i64, "too many hold");
                    let until = Instant::now() + HELD;
                    while Instant::now() < until {
                        spin_loop();
                    }
                    inside.fetch_sub(1, Ordering::Relaxed);
                });
                holds += 1;
            }
            holds
        };
        let team: Vec<_> = (0..THREADS).map(|_| s.spawn(thread)).collect();
        start.wait();
        let began = Instant::now();
        thread::sleep(time);
        over.store(true, Ordering::Relaxed);
        let time = began.elapsed();
        Holds { holds: team.into_iter().map(|t| t.join().expect("no panic")).collect(), time }
    })
}

fn ours(time: Duration) -> Holds {
    let quota = Quota::new(PERMITS).expect("a valid limit");
    drive(time, |body| {
        let _permit = quota.acquire(1).expect("neither closed nor too much");
        body();
    })
}

fn theirs(time: Duration) -> Holds {
    let (free, freed) = (Mutex::new(PERMITS), Condvar::new());
    drive(time, |body| {
        let mut left = free.lock();
        while *left == 0 {
            freed.wait(&mut left);
        }
        *left -= 1;
        drop(left);
        body();
        *free.lock() += 1;
        freed.notify_one();
    })
}
