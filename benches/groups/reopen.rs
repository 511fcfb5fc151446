//! A journal of a million items that are done: opened, opened after its owner was killed, and its batch submitted again.

use super::place::{Place, remove};
use crate::common::rounds::{Contest, Plan, hold as hold_rounds};
use crate::common::row::Row;
use batchyard::rusqlite::Connection;
use batchyard::{Context, Engine, secs};
use std::path::Path;
use std::time::Instant;

const ITEMS: usize = 1_000_000;
const WORKERS: usize = 2;
/// Seconds.
const OPEN: f64 = 1.0;
const OPEN_AFTER_KILL: f64 = 10.0;
const SUBMIT_AGAIN: f64 = 30.0;

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    let items = plan.size(ITEMS, 500);
    let place = Place::of(group);
    if !plan.test {
        place.tell(group);
    }
    let journal = &place.file("done.db");
    remove(journal);
    let engine = open(journal);
    assert_eq!(submit(&engine, items), 0, "nothing was done before");
    close(engine);

    let contests = vec![
        Contest::bounded("10^6 done items: open", WORKERS, OPEN, "s", move |_: &Plan| {
            let start = Instant::now();
            let engine = open(journal);
            let took = start.elapsed();
            close(engine);
            took.as_secs_f64()
        }),
        Contest::bounded(
            "the same after a kill: looked through",
            WORKERS,
            OPEN_AFTER_KILL,
            "s",
            move |_: &Plan| {
                kill_its_owner(journal);
                let start = Instant::now();
                let engine = open(journal);
                let took = start.elapsed();
                close(engine);
                took.as_secs_f64()
            },
        ),
        Contest::bounded(
            "open, submit again, all are skipped",
            WORKERS,
            SUBMIT_AGAIN,
            "s",
            move |_: &Plan| {
                let start = Instant::now();
                let engine = open(journal);
                let resumed = submit(&engine, items);
                let took = start.elapsed();
                assert_eq!(resumed, items as u64, "all were done before");
                close(engine);
                took.as_secs_f64()
            },
        ),
    ];
    let contests = contests.into_iter().map(|contest| contest.passes(1)).collect();
    let rows = hold_rounds(group, &Plan { rounds: plan.rounds.min(5), ..*plan }, contests);
    place.clear();
    rows
}

fn open(journal: &Path) -> Engine {
    Engine::builder().workers(WORKERS).journal(journal).open().expect("a journal of ours")
}

fn close(engine: Engine) {
    engine.shutdown(secs(60)).expect("an engine shuts down");
}

/// Runs what has not been done; how many had.
fn submit(engine: &Engine, items: usize) -> u64 {
    let batch = engine.batch("no-ops").submit(0..items, |_: &usize, _: &Context| Ok(()));
    let report = batch.and_then(|batch| batch.wait()).expect("the batch ends");
    assert_eq!(report.completed_items, items as u64);
    report.resumed_items
}

/// Leaves the journal as an owner does that has no time to say that it ends.
fn kill_its_owner(journal: &Path) {
    let ended = Connection::open(journal).and_then(|db| db.execute("UPDATE owner SET ended_ms = NULL", []));
    assert_ne!(ended.expect("a journal of ours"), 0, "it had an owner");
}
