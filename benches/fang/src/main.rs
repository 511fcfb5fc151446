//! fang's blocking worker pool on SQLite: tasks that do nothing, from their insertion until they are done and removed.
//! `cargo bench --bench duel -- journal` builds and runs this program, once a round, since fang's workers cannot be
//! stopped: `batchyard-fang FILE ITEMS WORKERS NORMAL|FULL` prints the wall nanoseconds an item.
//!
//! What remains of fang's polling: a worker that finds nothing sleeps [`IDLE`] and looks again. Here it finds something
//! nearly always: the insertion runs up to [`AHEAD`] tasks ahead. It runs no further since each fetch reads and sorts all
//! tasks that wait (fang has no index for that order): a hundred thousand at once would cost it their square.

#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "measures real threads in real time")]

mod queue;

use fang::{FangError, Queueable, RetentionMode, Runnable, SleepParams, WorkerPool, typetag};
use queue::Queue;
use serde::{Deserialize, Serialize};
use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const AHEAD: usize = 64;
/// Without a sleep it is twice as slow: who finds nothing takes the table away from who inserts.
const IDLE: Duration = Duration::from_micros(50);

#[derive(Serialize, Deserialize)]
struct Noop {
    number: usize,
}

#[typetag::serde]
impl Runnable for Noop {
    fn run(&self, _: &dyn Queueable) -> Result<(), FangError> {
        Ok(())
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let [file, items, workers, synchronous] = &args[..] else {
        eprintln!("usage: batchyard-fang FILE ITEMS WORKERS NORMAL|FULL");
        return ExitCode::from(2);
    };
    let (Ok(items), Ok(workers)) = (items.parse(), workers.parse()) else {
        eprintln!("batchyard-fang: ITEMS and WORKERS are numbers");
        return ExitCode::from(2);
    };
    println!("{}", nanos_an_item(Path::new(file), items, workers, synchronous));
    ExitCode::SUCCESS
}

fn nanos_an_item(file: &Path, items: usize, workers: u32, synchronous: &str) -> f64 {
    let queue = Queue::create(file, synchronous).expect("a new file");
    let mut pool = WorkerPool::<Queue>::builder()
        .queue(queue.clone())
        .number_of_workers(workers)
        // The default, and cheaper than keeping what is done: each fetch would read that, too.
        .retention_mode(RetentionMode::RemoveAll)
        .sleep_params(SleepParams {
            sleep_period: IDLE,
            max_sleep_period: IDLE,
            min_sleep_period: IDLE,
            sleep_step: Duration::ZERO,
        })
        .build();
    let start = Instant::now();
    for number in 0..items {
        if number == AHEAD.min(items - 1) {
            pool.start().expect("threads start");
        }
        queue.wait_until_gone((number + 1).saturating_sub(AHEAD));
        queue.insert_task(&Noop { number }).expect("it is inserted");
    }
    queue.wait_until_gone(items);
    let took = start.elapsed();
    assert_eq!(queue.left(), 0, "all tasks are done and removed");
    took.as_nanos() as f64 / items as f64
}
