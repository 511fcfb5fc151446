//! What `Engine::map` adds to an item that does nothing: wall time, and heap allocations once everything is warm.

use super::allocations;
use crate::common::rounds::{Contest, Plan, hold as hold_rounds};
use crate::common::row::Row;
use batchyard::{Context, Engine, Failure};
use std::hint::black_box;
use std::time::Instant;

const ITEMS: usize = 1_000_000;
const NANOS_AN_ITEM: f64 = 15.0;
const ALLOCATIONS_AN_ITEM: f64 = 0.01;

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    // A tiny run still has to show the fixed few allocations as few an item.
    let items = plan.size(ITEMS, 50_000);
    let engines =
        [1, 2].map(|n| Engine::builder().workers(n).in_memory().open().expect("an engine in memory"));
    for engine in &engines {
        keeps_order_and_failures(engine);
    }
    let contests = engines.iter().zip([1, 2]).flat_map(|(engine, workers)| {
        [
            Contest::bounded("no-op item", workers, NANOS_AN_ITEM, "ns", move |_: &Plan| {
                nanos_an_item(engine, items)
            }),
            Contest::bounded(
                "heap, warm",
                workers,
                ALLOCATIONS_AN_ITEM,
                "allocations an item",
                move |_: &Plan| allocations_an_item(engine, items),
            )
            .passes(1),
        ]
    });
    hold_rounds(group, plan, contests.collect())
}

fn noop(item: &usize, _: &Context) -> Result<usize, Failure> {
    Ok(black_box(*item))
}

fn nanos_an_item(engine: &Engine, items: usize) -> f64 {
    let start = Instant::now();
    let output = engine.map(0..items, noop);
    let took = start.elapsed();
    assert!(output.len() == items && output.iter().all(Result::is_ok));
    took.as_nanos() as f64 / items as f64
}

fn allocations_an_item(engine: &Engine, items: usize) -> f64 {
    let (allocations, output) = allocations::during(|| engine.map(0..items, noop));
    assert_eq!(output.len(), items);
    allocations as f64 / items as f64
}

fn keeps_order_and_failures(engine: &Engine) {
    let output =
        engine.map(0..1000_usize, |i, _| if i % 100 == 7 { Err(Failure::fatal("seven")) } else { Ok(i * 2) });
    for (i, result) in output.iter().enumerate() {
        assert_eq!(result.as_ref().ok().copied(), (i % 100 != 7).then_some(i * 2));
    }
}
