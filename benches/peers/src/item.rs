//! A no-op item with everything on (rate, permit, deadline, retries, statistics): through the engine against the
//! better of two compositions of published parts.

use crate::common::rounds::{Contest, Plan, hold as hold_rounds};
use crate::common::row::Row;
use crate::composed::Yard;
use batchyard::{Context, Dead, Engine, Failure, Rate, ResourceKind, Retry, millis, secs};
use std::hint::black_box;
use std::time::{Duration, Instant};

const TARGET: f64 = 1.0;
const RATE: u32 = 1_000_000_000;
/// A second's worth, so that a preempted thread is not refused by the time it read before.
const BURST: u32 = RATE;
const PERMITS: usize = 64;
const TIMEOUT: Duration = secs(30);

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    let items = plan.size(200_000, 500) as u64;
    let yard = Yard::new(RATE, BURST, PERMITS, TIMEOUT);
    let pools = [1, 2].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("a small pool"));
    let engines = [1, 2].map(engine);
    engines.iter().for_each(everything_is_on);
    let noop = |item: u64| Ok(black_box(item));
    let contests = engines.iter().zip(&pools).map(|(engine, pool)| {
        let threads = pool.current_num_threads();
        Contest::new("no-op item, everything on", threads, TARGET, |_: &Plan| ours(engine, items))
            .against("crossbeam + governor + tokio", |_: &Plan| {
                yard.crossbeam(pool.current_num_threads(), items, noop)
            })
            .against("rayon + governor + tokio", |_: &Plan| yard.rayon(pool, items, noop))
    });
    hold_rounds(group, plan, contests.collect())
}

fn engine(workers: usize) -> Engine {
    Engine::builder()
        .workers(workers)
        .in_memory()
        .quota(ResourceKind::DatabaseConnection, PERMITS)
        .rate("api", Rate::per_second(RATE.into()).burst(BURST.into()))
        .open()
        .expect("an engine in memory")
}

/// Wall nanoseconds an item, on workers that run already.
fn ours(engine: &Engine, items: u64) -> f64 {
    let start = Instant::now();
    let results = run(engine, items, |item, _| Ok(black_box(*item)));
    let took = start.elapsed();
    assert!(results.len() as u64 == items && results.iter().all(Result::is_ok), "every item is done once");
    took.as_nanos() as f64 / items as f64
}

fn run(
    engine: &Engine,
    items: u64,
    f: impl Fn(&u64, &Context) -> Result<u64, Failure> + Send + Sync,
) -> Vec<Result<u64, Dead>> {
    engine
        .batch("item")
        .item_timeout(TIMEOUT)
        .retry(Retry::exponential(millis(1)..secs(1)).attempts(3))
        .needs(ResourceKind::DatabaseConnection, 1)
        .paced_by("api")
        .map(0..items, f)
        .expect("the quota and the rate are the engine's")
}

/// An item sees its deadline, and is tried again when it fails.
fn everything_is_on(engine: &Engine) {
    let done = run(engine, 10, |item, ctx| {
        assert!(ctx.remaining().is_some_and(|left| left <= TIMEOUT), "{:?}", ctx.remaining());
        if ctx.attempt() == 1 && *item == 7 { Err(Failure::retry("once")) } else { Ok(*item) }
    });
    assert!(done.len() == 10 && done.iter().all(Result::is_ok));
}
