//! Rows of the user's, written with the mark of their item (promise 21), in a program that is killed at random instants
//! and started again: in the end there is one for each item that is done, and none for any other.
//!
//! The user's tables have no key of their own: a row that is written twice is there twice. As in `journal_kill`,
//! `BATCHYARD_NIGHTLY=1` makes hundreds of kills and `BATCHYARD_SEED` repeats a run.

#![cfg(feature = "sqlite")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::{
    Batch, BatchBuilder, Context, Durability, Engine, Failure, Key, Retry, millis, rusqlite, secs,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use support::dir::Dir;
use support::process::{Rng, Witness, kill_until_it_ends, nightly, seed, told};

/// Items of each of its two batches.
const ITEMS: u64 = 1_000;

#[test]
#[ignore = "the other process of these tests"]
fn the_writing_program() {
    let (Some(dir), Some(durability), Some(round)) = (told("DIR"), told("DURABILITY"), told("ROUND")) else {
        return;
    };
    let dir = Path::new(&dir);
    let mut rng = Rng(round.parse().expect("a number"));
    let witness = Arc::new(Witness::open(&dir.join("witness")));
    let durability = if durability == "power" { Durability::PowerLoss } else { Durability::ProcessCrash };
    let engine = Engine::builder().workers(4).durability(durability).journal(dir.join("a.db")).open();
    let engine = engine.expect("the journal");
    let mut input = || {
        let mut input: Vec<u64> = (0..ITEMS).collect();
        if rng.below(2) == 0 {
            rng.shuffle(&mut input);
        }
        input
    };
    let say = Arc::clone(&witness);
    let each = request(&engine, "each").key(|n: &u64| *n).submit(input(), move |n: &u64, ctx: &Context| {
        say.say(&format!("S each/{n} {}", ctx.attempt()));
        item(*n, ctx)
    });
    let (say, calls) = (Arc::clone(&witness), AtomicU64::new(round.len() as u64));
    let groups = request(&engine, "groups")
        .key(|n: &u64| *n)
        .write_with(move |tx, done: &[(Key, u64)]| {
            for (key, out) in done {
                insert(tx, "by_group", &key.to_string(), *out)?;
            }
            // Behind its rows, which go with it.
            match calls.fetch_add(1, Ordering::Relaxed) % 5 {
                0 => Err(Failure::retry("every fifth group")),
                _ => Ok(()),
            }
        })
        .submit(input(), move |n: &u64, ctx: &Context| {
            say.say(&format!("S groups/{n} {}", ctx.attempt()));
            end(*n, ctx)
        });
    for batch in [each.expect("a submission"), groups.expect("a submission")] {
        report(&batch, &witness);
    }
    engine.shutdown(secs(20)).expect("an end");
    witness.say("F");
}

fn request(engine: &Engine, name: &str) -> BatchBuilder {
    let retry = Retry::exponential(millis(1)..millis(3)).attempts(1_000).no_budget();
    engine.batch(name).retry(retry)
}

fn report(batch: &Batch<u64, u64>, witness: &Witness) {
    for item in batch.results() {
        let item = item.expect("a result");
        let kind = if item.outcome.is_ok() { "done" } else { "not" };
        witness.say(&format!("R {}/{} {kind}", batch.name(), item.key));
    }
}

fn insert(tx: &rusqlite::Connection, table: &str, key: &str, what: u64) -> Result<(), Failure> {
    tx.execute(&format!("CREATE TABLE IF NOT EXISTS {table} (key TEXT, what INTEGER)"), [])?;
    tx.execute(&format!("INSERT INTO {table} VALUES (?, ?)"), (key, what as i64))?;
    Ok(())
}

/// Asks for its rows, and then ends as it ends.
fn item(n: u64, ctx: &Context) -> Result<u64, Failure> {
    let attempt = ctx.attempt();
    ctx.commit_with(move |tx| {
        insert(tx, "by_item", &n.to_string(), attempt.into())?;
        if n % 10 == 4 && attempt == 1 { Err(Failure::retry("behind its row")) } else { Ok(()) }
    })?;
    if n % 10 == 7 {
        ctx.commit_with(move |tx| insert(tx, "by_item_too", &n.to_string(), attempt.into()))?;
    }
    end(n, ctx)
}

fn is_done(n: u64) -> bool {
    !matches!(n % 10, 5 | 6)
}

fn end(n: u64, ctx: &Context) -> Result<u64, Failure> {
    match n % 10 {
        3 if ctx.attempt() == 1 => Err(Failure::retry("the first time")),
        5 => Err(Failure::fatal("not this one")),
        6 => Err(Failure::skip("nor this one")),
        8 if n % 50 == 8 => ctx.sleep(millis(1)).map(|()| n),
        _ => Ok(n),
    }
}

/// Every key of a table of the user's, with the number of its rows.
fn rows(db: &rusqlite::Connection, table: &str) -> BTreeMap<u64, u64> {
    let mut select = db.prepare(&format!("SELECT key, count(*) FROM {table} GROUP BY key")).expect(table);
    let rows = select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)? as u64)));
    rows.expect(table).map(|row| row.expect(table)).map(|(key, n)| (key.parse().expect(table), n)).collect()
}

/// Items that have crashed too often are dead, and have no rows either.
fn done(db: &rusqlite::Connection, batch: &str) -> Vec<u64> {
    let mut select = db
        .prepare("SELECT key, state, reason FROM items WHERE batch = ? ORDER BY seq")
        .expect("the view of the items");
    let rows = select
        .query_map([batch], |row| {
            let key: String = row.get(0)?;
            Ok((key.parse().expect("a number"), row.get(1)?, row.get(2)?))
        })
        .expect("the items");
    let rows: Vec<(u64, String, Option<String>)> = rows.map(|row| row.expect("an item")).collect();
    assert_eq!(rows.len() as u64, ITEMS);
    let mut done = Vec::new();
    for (n, state, reason) in rows {
        match (&*state, reason.as_deref()) {
            ("dead", Some("crashed")) => {}
            ("done", _) if is_done(n) => done.push(n),
            ("dead", Some("fatal")) if n % 10 == 5 => {}
            ("skipped", _) if n % 10 == 6 => {}
            other => panic!("{batch}/{n} ended as {other:?}"),
        }
    }
    done.sort_unstable();
    done
}

/// What was seen did not run again, and every item that is done has its rows once.
fn check(dir: &Dir) {
    let lines = Witness::read(&dir.file("witness"));
    assert_eq!(lines.last().map(|line| &*line[0]), Some("F"));
    let mut seen = std::collections::BTreeSet::new();
    for line in &lines {
        match line.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["S", key, attempt] => {
                assert!(!seen.contains(key), "attempt {attempt} of {key} after its result was seen")
            }
            ["R", key, "done"] => drop(seen.insert(key)),
            ["R", _, "not"] | ["F"] => {}
            _ => panic!("{line:?}"),
        }
    }
    let db = rusqlite::Connection::open(dir.file("a.db")).expect("the journal");
    let (each, groups) = (done(&db, "each"), done(&db, "groups"));
    let once = |keys: &mut dyn Iterator<Item = &u64>| keys.map(|n| (*n, 1)).collect::<BTreeMap<_, _>>();
    assert_eq!(rows(&db, "by_item"), once(&mut each.iter()));
    assert_eq!(rows(&db, "by_item_too"), once(&mut each.iter().filter(|n| *n % 10 == 7)));
    assert_eq!(rows(&db, "by_group"), once(&mut groups.iter()));
}

/// Promise 21, at both durabilities (promise 6).
#[test]
fn rows_are_there_once() {
    let mut rng = Rng(seed("rows_are_there_once"));
    let wanted = if nightly() { 300 } else { 20 };
    let (mut kills, mut journals) = (0, 0);
    // Both have their turn.
    while kills < wanted || journals < 2 {
        let durability = ["process", "power"][journals % 2].to_owned();
        journals += 1;
        let dir = Dir::new(&format!("kill-rows-{journals}"));
        let most = (wanted - kills.min(wanted)).min(wanted / 2);
        let tell = [("DURABILITY", durability)];
        kills += kill_until_it_ends("the_writing_program", dir.path(), &tell, &mut rng, most);
        check(&dir);
    }
    println!("{kills} kills, {journals} journals");
}
