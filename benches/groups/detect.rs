//! How long after the request that closes a circle its error comes.
//!
//! Eight sessions hold a lock each. Seven ask for their neighbour's, each in a thread of its own, and sleep. The eighth, of the
//! lowest priority and the youngest, asks in the thread that measures: it is the victim, so its error is the return of that
//! very call, and no thread is woken in between. The manager's clock is a manual one, which tells how many sleep.

use crate::common::rounds::{Contest, Plan, hold as hold_rounds};
use crate::common::row::Row;
use batchyard::lock::{LockError, LockManagerBuilder, Mode, Session};
use batchyard::{ManualClock, Priority};
use hdrhistogram::Histogram;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

const OWNERS: usize = 8;
const SLEEPERS: usize = OWNERS - 1;
const CIRCLES: usize = 1000;
const BOUND_NANOS: f64 = 50_000.0;
const PERCENT: f64 = 99.0;
/// What a histogram tells apart, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    let contest = Contest::bounded(
        "circle of 8, p99 from request to error",
        OWNERS,
        BOUND_NANOS,
        "ns",
        |plan: &Plan| circles(plan.size(CIRCLES, 3)).value_at_percentile(PERCENT) as f64,
    );
    hold_rounds(group, plan, vec![contest.passes(1)])
}

/// Closes so many circles, one after the other, and gives what each took in nanoseconds.
fn circles(count: usize) -> Histogram<u64> {
    let time = ManualClock::new();
    let locks = LockManagerBuilder::default().clock(time.clock()).build::<String>();
    let names: Vec<String> = (0..OWNERS).map(|owner| format!("lock {owner}")).collect();
    let session = |owner: usize| {
        let priority = if owner == SLEEPERS { Priority::Low } else { Priority::Normal };
        locks.session_as(format!("owner {owner}"), priority)
    };
    let sessions: Vec<Session<String>> = (0..OWNERS).map(session).collect();
    let (all_hold, all_over) = (Barrier::new(OWNERS), Barrier::new(OWNERS));
    let mut took = Histogram::new_with_bounds(1, LONGEST, 3).expect("valid bounds");
    let part = |owner: usize, session: &Session<String>, ask: &mut dyn FnMut(&Session<String>, &str)| {
        for _ in 0..count {
            let held = session.lock(names[owner].as_str(), Mode::Exclusive).expect("free");
            all_hold.wait();
            ask(session, &names[(owner + 1) % OWNERS]);
            drop(held);
            all_over.wait();
        }
    };
    thread::scope(|s| {
        let mut sessions = sessions.into_iter().enumerate();
        for (owner, session) in sessions.by_ref().take(SLEEPERS) {
            let part = &part;
            s.spawn(move || {
                part(owner, &session, &mut |session, name| {
                    drop(session.lock(name, Mode::Exclusive).expect("not the victim"));
                });
            });
        }
        let (owner, session) = sessions.next().expect("the eighth");
        part(owner, &session, &mut |session, name| {
            time.wait_for_sleepers(SLEEPERS);
            let asked = Instant::now();
            let error = session.lock(name, Mode::Exclusive).err();
            let told = asked.elapsed();
            match error {
                Some(LockError::Deadlock(deadlock)) => assert_eq!(deadlock.waits.len(), OWNERS),
                other => panic!("no deadlock: {other:?}"),
            }
            took.saturating_record(told.as_nanos() as u64);
        });
    });
    assert_eq!(locks.stats().deadlocks, count as u64, "one victim a circle");
    took
}
