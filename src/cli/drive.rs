//! Hands the items of the input to the scheduler, and what has settled to the printer.
//!
//! STAND-IN: a scheduler of its own, just enough for the rest of the command line to be built and tested. Its place
//! is taken by the engine: `drive` keeps its signature, everything else in this file goes.

use super::controls::{Controls, Stage, Why};
use super::exit::Trouble;
use super::job::{Attempt, Item, Job, Verdict};
use super::report::Row;
use super::values::{Backoff, Pace};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, thread};
use crate::time::{Clock, Timestamp};
use siphasher::sip::SipHasher13;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::Hasher;
use std::time::Duration;

/// What the scheduler has to keep.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) workers: usize,
    pub(crate) paces: Vec<Pace>,
    pub(crate) backoff: Backoff,
    pub(crate) batch_timeout: Option<Duration>,
    pub(crate) clock: Clock,
}

/// Runs `job` on every item. Returns when all are settled, or when the run has been stopped and nothing runs any
/// more. `row` is given every settled item, in any order, by the thread that settled it.
///
/// While the stage is `Draining` or later no attempt is started.
pub(crate) fn drive(
    plan: &Plan,
    items: impl Iterator<Item = Item>,
    job: &Job,
    controls: &Arc<Controls>,
    row: impl Fn(Row) + Sync,
) -> Result<(), Trouble> {
    let yard = Arc::new(Yard::default());
    let hook_yard = Arc::clone(&yard);
    controls.on_raise(Box::new(move |_| {
        hook_yard.state.lock().stopped = true;
        hook_yard.work.notify_all();
        hook_yard.room.notify_all();
    }));
    let deadline = plan.batch_timeout.map(|t| plan.clock.now() + t);
    thread::scope(|scope| {
        for n in 0..plan.workers {
            let (yard, row) = (&yard, &row);
            let work = move || yard.work(plan, deadline, job, row);
            if let Err(e) = thread::Builder::new().name(format!("job-{n}")).spawn_scoped(scope, work) {
                controls.raise(Stage::Cancelling, Why::Trouble);
                return Err(Trouble::internal(format!("cannot start a thread: {e}")));
            }
        }
        yard.feed(items, plan.workers * 64);
        Ok(())
    })
}

struct Work {
    item: Item,
    key: String,
    tries: u32,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Work>,
    later: BinaryHeap<Reverse<(Timestamp, u64)>>,
    parked: HashMap<u64, Work>,
    running: usize,
    idle: usize,
    full: bool,
    ended: bool,
    stopped: bool,
    tats: Vec<Timestamp>,
}

#[derive(Default)]
struct Yard {
    state: Mutex<State>,
    work: Condvar,
    room: Condvar,
}

impl Yard {
    fn feed(&self, items: impl Iterator<Item = Item>, most: usize) {
        let mut seen = HashMap::new();
        for item in items {
            let mut hasher = SipHasher13::new();
            hasher.write(&item.bytes.0);
            let hash = hasher.finish();
            let times = seen.entry(hash).or_insert(0_u64);
            *times += 1;
            let key = format!("{hash:016x}-{times}");
            let mut state = self.state.lock();
            while !state.stopped && state.ready.len() >= most {
                state.full = true;
                state = self.room.wait(state);
            }
            if state.stopped {
                break;
            }
            state.ready.push_back(Work { item, key, tries: 0 });
            if state.idle > 0 {
                self.work.notify_one();
            }
        }
        self.state.lock().ended = true;
        self.work.notify_all();
    }

    fn work(&self, plan: &Plan, deadline: Option<Timestamp>, job: &Job, row: &impl Fn(Row)) {
        let mut state = self.state.lock();
        loop {
            let (mut work, guard) = match self.next(plan, state) {
                Some(next) => next,
                None => break,
            };
            state = guard;
            state.running += 1;
            if state.full && state.ready.len() < plan.workers * 32 {
                state.full = false;
                self.room.notify_one();
            }
            drop(state);
            let attempt = Attempt {
                key: &work.key,
                idempotency_key: &work.key,
                number: work.tries + 1,
                remaining: deadline.map(|t| t - plan.clock.now()),
            };
            let verdict = job.attempt(&work.item, attempt);
            let mut again = None;
            match verdict {
                Verdict::Settled(finished) => {
                    row(Row { item: work.item, key: work.key, attempts: work.tries + 1, finished });
                }
                Verdict::Again => {
                    work.tries += 1;
                    again = Some((plan.backoff.wait(work.tries), work));
                }
                Verdict::Later(wait) => again = Some((wait, work)),
            }
            state = self.state.lock();
            state.running -= 1;
            if let Some((wait, work)) = again {
                state.later.push(Reverse((plan.clock.now() + wait, work.item.number)));
                state.parked.insert(work.item.number, work);
                self.work.notify_one();
            } else if state.ended && state.running == 0 {
                self.work.notify_all();
            }
        }
    }

    fn next<'a>(
        &self,
        plan: &Plan,
        mut state: MutexGuard<'a, State>,
    ) -> Option<(Work, MutexGuard<'a, State>)> {
        loop {
            if state.stopped {
                return None;
            }
            let now = plan.clock.now();
            while let Some(Reverse((at, number))) = state.later.peek().copied()
                && at <= now
            {
                state.later.pop();
                let work = state.parked.remove(&number).expect("every entry has its item");
                state.ready.push_back(work);
            }
            let mut until = state.later.peek().map(|Reverse((at, _))| *at);
            if !state.ready.is_empty() {
                match admit(plan, &mut state.tats, now) {
                    None => return state.ready.pop_front().map(|work| (work, state)),
                    Some(at) => until = Some(until.map_or(at, |u| u.min(at))),
                }
            } else if state.ended && state.later.is_empty() && state.running == 0 {
                return None;
            }
            state.idle += 1;
            state = match until {
                Some(at) => self.work.wait_timeout(state, at - now),
                None => self.work.wait(state),
            };
            state.idle -= 1;
        }
    }
}

/// All paces or none: `None` is a start now, `Some` the time to ask again.
fn admit(plan: &Plan, tats: &mut Vec<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    tats.resize(plan.paces.len(), Timestamp::ZERO);
    let step = |pace: &Pace| pace.per / pace.jobs.get();
    for (pace, tat) in plan.paces.iter().zip(&*tats) {
        let ahead = step(pace) * (pace.burst.get() - 1);
        if *tat > now + ahead {
            return Some(now + (*tat - (now + ahead)));
        }
    }
    for (pace, tat) in plan.paces.iter().zip(tats) {
        *tat = (*tat).max(now) + step(pace);
    }
    None
}
