//! What durability costs: items that do nothing, from their submission until their results are committed and counted,
//! against the statements alone: the same ones, on the same tables, bound to values that are ready, a thousand a commit,
//! results 8,192 items behind their submission. And against the one other durable queue for threads, fang's.

use super::build;
use super::place::{Place, remove};
use crate::common::rounds::{Contest, Plan, hold as hold_rounds};
use crate::common::row::Row;
use batchyard::rusqlite::{Connection, params};
use batchyard::{Context, Durability, Engine, Key, secs};
use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Half the throughput of the statements alone.
const TARGET: f64 = 2.0;
const ITEMS: usize = 100_000;
const A_COMMIT: usize = 1_000;
const IN_FLIGHT: usize = 8_192;
const WORKERS: usize = 2;
/// fang commits each step of an item by itself: more of them would take minutes.
const FANG_ITEMS: usize = 2_000;
const FANG_TARGET: f64 = 0.1;

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    let items = plan.size(ITEMS, 500);
    let place = Place::of(group);
    if !plan.test {
        place.tell(group);
    }
    let empty = place.file("empty.db");
    make_empty(&empty);
    let keys: Vec<String> =
        (0..items).map(|n| Key::of_payload(&n).expect("a number is JSON").to_string()).collect();
    let (ours, raw, other) = (place.file("ours.db"), place.file("raw.db"), place.file("fang.db"));
    let modes = [(Durability::ProcessCrash, "NORMAL"), (Durability::PowerLoss, "FULL")];
    let program = build::unpublished(group, "fang", !plan.test);
    let mut contests: Vec<Contest<'_>> = Vec::new();
    for (durability, sync) in modes {
        let case = format!("durable no-op item, {durability}");
        let (ours, raw, empty, keys) = (&ours, &raw, &empty, &keys);
        contests.push(
            Contest::new(case, WORKERS, TARGET, move |_: &Plan| engine(ours, durability, items))
                .against("rusqlite", move |_: &Plan| statements(raw, empty, sync, keys))
                .passes(1),
        );
    }
    if let Some(program) = &program {
        let items = plan.size(FANG_ITEMS, 50);
        for (durability, sync) in modes {
            let case = format!("{FANG_ITEMS} durable no-op items, {durability}");
            let (ours, other) = (&ours, &other);
            contests.push(
                Contest::new(case, WORKERS, FANG_TARGET, move |_: &Plan| engine(ours, durability, items))
                    .against("fang", move |_: &Plan| fang(program, other, sync, items))
                    .passes(1),
            );
        }
    }
    let rows = hold_rounds(group, &Plan { rounds: plan.rounds.min(9), ..*plan }, contests);
    place.clear();
    rows
}

/// A journal with its tables and nothing in them, in one file.
fn make_empty(path: &Path) {
    remove(path);
    Engine::builder()
        .workers(1)
        .journal(path)
        .open()
        .and_then(|engine| engine.shutdown(secs(5)))
        .expect("a new journal");
}

/// Wall nanoseconds an item through the engine, which is open already.
fn engine(path: &Path, durability: Durability, items: usize) -> f64 {
    remove(path);
    let engine = Engine::builder().workers(WORKERS).journal(path).durability(durability).open();
    let engine = engine.expect("a new journal");
    let start = Instant::now();
    let batch = engine
        .batch("no-ops")
        .submit(0..items, |_: &usize, _: &Context| Ok(()))
        .expect("a batch of a new journal");
    let report = batch.wait().expect("the batch ends");
    let took = start.elapsed();
    assert_eq!(report.completed_items, items as u64);
    engine.shutdown(secs(5)).expect("an engine shuts down");
    check(path, items);
    took.as_nanos() as f64 / items as f64
}

/// The statements alone.
fn statements(path: &Path, empty: &Path, sync: &str, keys: &[String]) -> f64 {
    remove(path);
    fs::copy(empty, path).expect("a copy of the empty journal");
    let db = Connection::open(path).expect("SQLite opens it");
    db.execute_batch(&format!("PRAGMA journal_mode = WAL; PRAGMA synchronous = {sync};"))
        .expect("a journal's mode");
    let start = Instant::now();
    let (mut next, mut open) = (0, VecDeque::new());
    while next < keys.len() || !open.is_empty() {
        db.execute_batch("BEGIN IMMEDIATE").expect("a transaction");
        let mut insert = db
            .prepare_cached(
                "INSERT INTO item (id, key, run, queued_ms, parent, payload, sum) VALUES (?, ?, ?, ?, ?, ?, ?)
                 ON CONFLICT DO NOTHING",
            )
            .expect("a journal's table");
        let mut settle = db
            .prepare_cached(
                "INSERT INTO result (id, item, kind, reason, epoch, attempts, wait_us, run_us, ended_ms, output, sum)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (item) DO NOTHING",
            )
            .expect("a journal's table");
        for _ in 0..A_COMMIT {
            if let Some(key) = keys.get(next) {
                let id = 1_i64 << 40 | next as i64;
                insert
                    .execute(params![id, key, 1, 1_764_000_000_000_i64, None::<i64>, "12345", id])
                    .expect("a row");
                open.push_back(id);
                next += 1;
            }
            if (open.len() > IN_FLIGHT || next == keys.len())
                && let Some(id) = open.pop_front()
            {
                let row = params![
                    id,
                    id,
                    "done",
                    None::<&str>,
                    1,
                    1,
                    10,
                    10,
                    1_764_000_000_000_i64,
                    Some("null"),
                    id
                ];
                settle.execute(row).expect("a row");
            }
        }
        db.execute_batch("COMMIT").expect("a commit");
    }
    let took = start.elapsed();
    drop(db);
    check(path, keys.len());
    took.as_nanos() as f64 / keys.len() as f64
}

/// fang's worker on SQLite, in a process of its own: it cannot be stopped otherwise.
fn fang(program: &Path, path: &Path, sync: &str, items: usize) -> f64 {
    remove(path);
    let output = Command::new(program)
        .arg(path)
        .args([&items.to_string(), &WORKERS.to_string(), sync])
        .stderr(Stdio::inherit())
        .output()
        .expect("the program just built runs");
    assert!(output.status.success(), "benches/fang ended with {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|e| panic!("benches/fang printed no number: {e}: {text}"))
}

fn check(path: &Path, items: usize) {
    let count = Connection::open(path).and_then(|db| {
        db.query_row("SELECT count(*) FROM result JOIN item ON item.id = result.item", [], |row| row.get(0))
    });
    assert_eq!(count, Ok(items as i64));
}
