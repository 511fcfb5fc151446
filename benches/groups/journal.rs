//! What durability costs: items that do nothing, from their submission until their results are committed and counted,
//! against the statements alone: the same ones, on the same tables, bound to values that are ready, a thousand a commit,
//! results 8,192 items behind their submission.

use crate::common::rounds::{Contest, Plan, hold as hold_rounds};
use crate::common::row::Row;
use batchyard::rusqlite::{Connection, params};
use batchyard::{Context, Durability, Engine, Key, secs};
use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Half the throughput of the statements alone.
const TARGET: f64 = 2.0;
const ITEMS: usize = 100_000;
const A_COMMIT: usize = 1_000;
const IN_FLIGHT: usize = 8_192;
const WORKERS: usize = 2;

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    let items = plan.size(ITEMS, 500);
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("journal");
    fs::create_dir_all(&dir).expect("cargo's scratch is writable");
    let empty = dir.join("empty.db");
    make_empty(&empty);
    let keys: Vec<String> =
        (0..items).map(|n| Key::of_payload(&n).expect("a number is JSON").to_string()).collect();
    let (dir, empty, keys) = (&dir, &empty, &keys);
    let contests =
        [(Durability::ProcessCrash, "NORMAL"), (Durability::PowerLoss, "FULL")].map(|(durability, sync)| {
            let case = format!("durable no-op item, {durability}");
            let (ours, raw) = (dir.join("ours.db"), dir.join("raw.db"));
            Contest::new(case, WORKERS, TARGET, move |_: &Plan| engine(&ours, durability, items))
                .against("rusqlite", move |_: &Plan| statements(&raw, empty, sync, keys))
                .passes(1)
        });
    let rows = hold_rounds(group, &Plan { rounds: plan.rounds.min(9), ..*plan }, contests.into());
    // What is left of a failed run is of use; this one went well.
    let _ = fs::remove_dir_all(dir);
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

fn remove(path: &Path) {
    for suffix in ["", "-wal", "-shm", "-lock", "-hand"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let _ = fs::remove_file(name);
    }
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

fn check(path: &Path, items: usize) {
    let count = Connection::open(path).and_then(|db| {
        db.query_row("SELECT count(*) FROM result JOIN item ON item.id = result.item", [], |row| row.get(0))
    });
    assert_eq!(count, Ok(items as i64));
}
