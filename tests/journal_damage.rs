//! Journals with damage (promises 20 and 21): bytes flipped, files cut, columns changed. Whoever opens one gets a clear
//! error that names the file, or correct results; never a panic, a hang, or a wrong output.
//!
//! `BATCHYARD_NIGHTLY=1` makes thousands of the hundreds of seeds; `BATCHYARD_SEED` repeats one.

#![cfg(feature = "sqlite")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::{
    BatchStatus, Context, DeadReason, Engine, Error, Failure, HaltReason, ItemResult, JournalError, Retry,
    millis, secs,
};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use support::dir::Dir;
use support::process::{Rng, nightly, seed};
use support::{Door, until, within};

const ITEMS: u64 = 160;

fn is_bad(n: u64) -> bool {
    n % 16 == 3
}

fn made_of(n: u64) -> String {
    format!("{n} squared is {}", n * n)
}

/// Most succeed; some fail for good, some for the first time, some keep a step.
fn work(n: u64, ctx: &Context) -> Result<String, Failure> {
    if is_bad(n) {
        return Err(Failure::fatal(format!("{n} is bad")));
    }
    if n % 16 == 5 {
        let made = ctx.step("made", || Ok(made_of(n)))?;
        return if ctx.deferrals() == 0 { Err(Failure::retry_after(millis(1))) } else { Ok(made) };
    }
    Ok(made_of(n))
}

fn engine(journal: &Path) -> Result<Engine, Error> {
    Engine::builder().workers(2).journal(journal).open()
}

/// The files of a journal whose process has died in the middle of its work: with results, with dead items, with items
/// in backoff that have kept a step, with items in hand, partly in the log.
fn specimen(dir: &Path) {
    let path = dir.join("a.db");
    let engine = engine(&path).unwrap();
    let first =
        engine.batch("first").key(|n: &u64| format!("key {n}")).submit(0..40, |n: &u64, ctx| work(*n, ctx));
    first.unwrap().wait().unwrap();
    let db = rusqlite::Connection::open(&path).unwrap();
    db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
    let door = Door::new();
    let held = door.clone();
    let run = move |n: &u64, ctx: &Context| {
        if *n % 16 == 5 {
            ctx.step("made", || Ok(made_of(*n)))?;
            return Err(Failure::retry_after(secs(1)));
        }
        if *n > ITEMS / 2 {
            held.pass();
        }
        work(*n, ctx)
    };
    let second = engine.batch("second").key(|n: &u64| format!("key {n}")).submit(0..ITEMS, run).unwrap();
    door.wait_for(2);
    until("the first half has ended", || {
        let count = "SELECT (SELECT count(*) FROM result) + (SELECT count(*) FROM retry)";
        db.query_row(count, [], |row| row.get::<_, i64>(0)).unwrap() > 40 + ITEMS as i64 / 2
    });
    let copy = dir.join("copy");
    fs::create_dir_all(&copy).unwrap();
    copy_files(dir, &copy);
    second.cancel();
    door.open();
    engine.shutdown(secs(20)).unwrap();
}

fn copy_files(from: &Path, to: &Path) {
    for name in ["a.db", "a.db-wal", "a.db-hand"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    for name in ["a.db-shm", "a.db-lock"] {
        let _ = fs::remove_file(to.join(name));
    }
}

// ---- what is done to it ----------------------------------------------------------------------------------

const VALUES: &[&str] = &[
    "9223372036854775807",
    "-9223372036854775808",
    "-1",
    "0",
    "1",
    "2",
    "1099511627776",
    "4294967296",
    "'text'",
    "''",
];

/// Columns that others than the rows' checksums answer for are left out: how a batch is paused, and when things were.
const COLUMNS: &[(&str, &str)] = &[
    ("batch", "run sealed next_seq next_result claimed_to total done dead skipped name processor sum"),
    ("item", "key queued_ms payload run sum"),
    ("retry", "item epoch tries lost crashes deferrals due_ms suspect owner sum"),
    ("error", "item epoch attempt kind message place at_ms sum"),
    ("result", "id item kind reason epoch attempts wait_us run_us ended_ms output sum"),
    ("step", "item name output sum"),
    ("owner", "started_ms ended_ms"),
];

fn damage(dir: &Path, rng: &mut Rng) -> String {
    let name = if rng.below(2) == 0 { "a.db" } else { "a.db-wal" };
    let path = dir.join(name);
    let length = fs::metadata(&path).unwrap().len();
    let file = || OpenOptions::new().read(true).write(true).open(&path).unwrap();
    match rng.below(8) {
        0 => {
            let to = rng.below(length);
            file().set_len(to).unwrap();
            format!("{name} cut to {to} bytes of {length}")
        }
        1 => {
            let (at, zeros) = (rng.below(length), 1 + rng.below(6_000) as usize);
            let zeros = zeros.min((length - at) as usize);
            file().write_all_at(&vec![0; zeros], at).unwrap();
            format!("{name}: {zeros} zeros at {at}")
        }
        2..=4 => {
            let mut said = format!("{name}:");
            for _ in 0..=rng.below(4) {
                let (at, bit) = (rng.below(length), rng.below(8));
                let mut byte = [0];
                file().read_exact_at(&mut byte, at).unwrap();
                file().write_all_at(&[byte[0] ^ (1 << bit)], at).unwrap();
                said += &format!(" bit {bit} at {at}");
            }
            said
        }
        _ => {
            let (table, columns) = COLUMNS[rng.below(COLUMNS.len() as u64) as usize];
            let columns: Vec<&str> = columns.split(' ').collect();
            let column = columns[rng.below(columns.len() as u64) as usize];
            let value = VALUES[rng.below(VALUES.len() as u64) as usize];
            let nth = rng.next() >> 16;
            let row = if matches!(table, "error" | "step") { "(item, {})" } else { "rowid" };
            let row = row.replace("{}", if table == "error" { "epoch" } else { "name" });
            let sql = format!(
                "UPDATE {table} SET {column} = {value} WHERE {row} = (SELECT {} FROM {table} LIMIT 1 OFFSET {nth} % \
                 (SELECT count(*) FROM {table}))",
                row.trim_matches(['(', ')'])
            );
            let db = rusqlite::Connection::open(dir.join("a.db")).unwrap();
            // Some values are none of their column's: the table refuses them.
            let done = db.execute(&sql, []);
            // What was written stays in the log: nothing of it is put into the file.
            drop(db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true));
            format!("{sql}: {done:?}")
        }
    }
}

// ---- what may come of it ---------------------------------------------------------------------------------

/// An error that says which file it is about.
fn is_clear(why: &JournalError, path: &Path) -> bool {
    let text = why.to_string();
    text.contains(&path.display().to_string()) || matches!(why, JournalError::Unsealed { .. })
}

/// How one batch went: as an error, or with its results.
fn run(engine: &Engine, name: &str, items: u64, with_input: bool, path: &Path) -> &'static str {
    let request = || {
        let retry = Retry::exponential(millis(1)..millis(2)).attempts(3).no_budget();
        engine.batch(name).retry(retry).key(|n: &u64| format!("key {n}"))
    };
    let work = |n: &u64, ctx: &Context| work(*n, ctx);
    let batch = match if with_input { request().submit(0..items, work) } else { request().resume(work) } {
        Ok(batch) => batch,
        Err(Error::Journal(why)) => {
            assert!(is_clear(&why, path), "{why:?}");
            return "not begun";
        }
        Err(Error::DuplicateKey { .. }) => return "duplicate",
        Err(other) => panic!("{other}"),
    };
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut lost = false;
    for item in batch.results() {
        match item {
            Ok(item) => {
                check(&item);
                *seen.entry(item.key.to_string()).or_default() += 1;
            }
            Err(Error::Journal(why)) => {
                assert!(is_clear(&why, path), "{why:?}");
                lost = true;
            }
            Err(other) => panic!("{other}"),
        }
    }
    let report = batch.wait().unwrap();
    match &report.status {
        BatchStatus::Halted(HaltReason::Journal { problem }) => {
            assert!(problem.contains(&path.display().to_string()), "{problem}");
            return "halted";
        }
        BatchStatus::Completed | BatchStatus::CompletedWithFailures => {}
        other => panic!("{other}"),
    }
    if lost {
        return "unreadable";
    }
    assert!(seen.values().all(|times| *times == 1), "results came twice: {seen:?}");
    if with_input {
        assert_eq!(seen.len() as u64, items, "{report}");
        assert_eq!(report.total_items, items, "{report}");
    }
    "whole"
}

fn check(item: &ItemResult<String>) {
    if item.outcome.as_ref().is_err_and(|dead| dead.reason() == DeadReason::Unreadable) {
        return; // its key may be what cannot be read
    }
    let key = item.key.to_string();
    let n: u64 = key.strip_prefix("key ").and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("key {key}"));
    match &item.outcome {
        Ok(output) => assert!(*output == made_of(n) && !is_bad(n), "{key}: {output}"),
        Err(dead) => {
            // Why an item died may be lost, that it did may not.
            let said = dead.last_error().map(|error| error.message.clone()).unwrap_or_default();
            assert!(
                said.contains("damaged") || (is_bad(n) && (said.is_empty() || said == format!("{n} is bad"))),
                "{key}: {dead}"
            );
        }
    }
}

fn open_and_resume(path: PathBuf, with_input: bool) -> &'static str {
    let engine = match engine(&path) {
        Ok(engine) => engine,
        Err(Error::Journal(why)) => {
            assert!(is_clear(&why, &path), "{why:?}");
            return "not opened";
        }
        Err(other) => panic!("{other}"),
    };
    let first = run(&engine, "first", 40, with_input, &path);
    let second = run(&engine, "second", ITEMS, with_input, &path);
    engine.shutdown(secs(20)).unwrap();
    if first == "whole" { second } else { first }
}

/// Promises 20 and 21.
#[test]
fn damage_is_told_or_does_no_harm() {
    let panics: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&panics);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        heard.lock().unwrap().push(panic.to_string());
        before(panic);
    }));
    let given = std::env::var("BATCHYARD_SEED").is_ok();
    let first = seed("damage_is_told_or_does_no_harm");
    let rounds = if given {
        1
    } else if nightly() {
        5_000
    } else {
        200
    };
    let dir = Dir::new("damage");
    specimen(dir.path());
    let mut went: BTreeMap<&str, u32> = BTreeMap::new();
    for round in 0..rounds {
        let seed = first.wrapping_add(round);
        let mut rng = Rng(seed);
        let here = dir.file("here");
        fs::create_dir_all(&here).unwrap();
        copy_files(&dir.file("copy"), &here);
        let what = damage(&here, &mut rng);
        let (with_input, path) = (rng.below(4) > 0, here.join("a.db"));
        println!("BATCHYARD_SEED={seed} (input: {with_input}): {what}");
        let how = within(move || open_and_resume(path, with_input));
        println!("  {how}");
        *went.entry(how).or_default() += 1;
        assert!(panics.lock().unwrap().is_empty(), "{:?}", panics.lock().unwrap());
    }
    println!("{went:?}");
    // Most damage hits something; some of it hits what nobody needs.
    assert!(given || (went.len() > 3 && went["whole"] > 10 && went["not opened"] > 10), "{went:?}");
}

/// Of a journal that is too large to be looked through wholly at each opening the structure is looked at: damage to it, or
/// a row that is gone, is found before anything of it is believed.
#[test]
fn a_large_journal_is_looked_through_too() {
    let dir = Dir::new("damage-large");
    let path = dir.file("a.db");
    let engine = engine(&path).unwrap();
    let text = "x".repeat(40_000);
    let batch = engine.batch("large").submit(0..600u64, move |n: &u64, _: &Context| Ok(format!("{n}{text}")));
    assert_eq!(batch.unwrap().wait().unwrap().completed_items, 600);
    engine.shutdown(secs(20)).unwrap();
    let whole = fs::read(&path).unwrap();
    assert!(whole.len() > 20 << 20);
    let refused = || match self::engine(&path) {
        Err(Error::Journal(why)) => why,
        other => panic!("{other:?}"),
    };
    // A page in the middle, of an output that nobody reads.
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 4096], (whole.len() as u64 / 2) & !4095).unwrap();
    assert!(matches!(&*refused(), JournalError::Damaged { .. }), "{:?}", refused());
    fs::write(&path, &whole).unwrap();
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute("DELETE FROM result WHERE item % 1000 = 77", [])
        .unwrap();
    assert!(matches!(&*refused(), JournalError::Damaged { .. }), "{:?}", refused());
    fs::write(&path, &whole).unwrap();
    self::engine(&path).unwrap().shutdown(secs(20)).unwrap();
}
