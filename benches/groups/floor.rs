//! The floor: what the Python service that came before was built to do. More than 500 allocations and 1,000 operations of
//! its lock a second, more than 100 workers, more than 50 items at once. Stated as costs: the time of an allocation against
//! 2 ms, the number asked for against the number seen at work together.

use crate::common::rounds::{Contest, Plan, hold as hold_rounds, operation};
use crate::common::row::Row;
use batchyard::Engine;
use batchyard::limit::Quota;
use batchyard::lock::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const ALLOCATIONS_A_SECOND: f64 = 500.0;
const LOCK_OPERATIONS_A_SECOND: f64 = 1_000.0;
const WORKERS: usize = 128;
const MORE_WORKERS_THAN: f64 = 100.0;
const ITEM_WORKERS: usize = 64;
const MORE_ITEMS_THAN: f64 = 50.0;
/// How long items wait for each other before they give up.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    let connections = Quota::new(10).expect("ten connections are a valid quota");
    let lock = RwLock::new(0u64);
    let workers = engine(WORKERS);
    let items = engine(ITEM_WORKERS);
    let contests = vec![
        Contest::bounded(
            "over 500 allocations a second",
            1,
            1e9 / ALLOCATIONS_A_SECOND,
            "ns",
            operation(1, || || connections.try_acquire(1).is_ok()),
        ),
        Contest::bounded(
            "over 1,000 lock operations a second",
            2,
            1e9 / LOCK_OPERATIONS_A_SECOND,
            "ns",
            operation(2, || || lock.write().map(|mut value| *value += 1).is_ok() && lock.read().is_ok()),
        ),
        Contest::bounded("over 100 workers", WORKERS, 1.0, "asked for over seen", |_: &Plan| {
            MORE_WORKERS_THAN / at_once(&workers, WORKERS) as f64
        })
        .passes(1),
        Contest::bounded("over 50 items at once", ITEM_WORKERS, 1.0, "asked for over seen", |_: &Plan| {
            MORE_ITEMS_THAN / at_once(&items, ITEM_WORKERS) as f64
        })
        .passes(1),
    ];
    hold_rounds(group, plan, contests)
}

fn engine(workers: usize) -> Engine {
    Engine::builder().workers(workers).in_memory().open().expect("an engine in memory")
}

/// The most items at work at the same time. Each stays until all have met, or until its patience ends.
fn at_once(engine: &Engine, items: usize) -> usize {
    let here = AtomicUsize::new(0);
    let met = AtomicUsize::new(0);
    let give_up = Instant::now() + PATIENCE;
    let done = engine.map(0..items, |item: &usize, _| {
        let now = here.fetch_add(1, Ordering::SeqCst) + 1;
        met.fetch_max(now, Ordering::SeqCst);
        while met.load(Ordering::SeqCst) < items && Instant::now() < give_up {
            thread::sleep(Duration::from_millis(1));
        }
        here.fetch_sub(1, Ordering::SeqCst);
        Ok(*item)
    });
    assert!(done.iter().all(Result::is_ok), "every item is done");
    met.into_inner()
}
