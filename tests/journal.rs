//! The journal, through the library: what is kept, what is found again, what is refused.

#![cfg(feature = "sqlite")]
#![allow(clippy::disallowed_types, reason = "counts across real threads")]

mod support;

use batchyard::{
    BatchStatus, Context, DeadReason, Duplicates, Engine, Error, Failure, JournalError, Key, PushError,
    Retry, millis, secs,
};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use support::dir::Dir;

fn engine(journal: &PathBuf) -> Engine {
    Engine::builder().workers(4).journal(journal).open().expect("a journal")
}

/// Numbers that succeed unless they are odd and below 20.
fn picky(n: &u64, _ctx: &Context) -> Result<u64, Failure> {
    if *n % 2 == 1 && *n < 20 { Err(Failure::fatal(format!("{n} is odd"))) } else { Ok(n * 10) }
}

/// Promise 2 and 7: results are committed, and all of them are read, those of earlier runs included.
#[test]
fn results_are_found_again() {
    let dir = Dir::new("found");
    let path = dir.file("a.db");
    for run in 0..3 {
        let engine = engine(&path);
        let batch = engine.batch("b").submit(0..500u64, picky).unwrap();
        let mut seen = BTreeSet::new();
        for item in batch.results() {
            let item = item.unwrap();
            match item.outcome {
                Ok(out) => assert_eq!(out, item.seq * 10),
                Err(dead) => assert_eq!(dead.last_error().unwrap().message, format!("{} is odd", item.seq)),
            }
            assert!(seen.insert(item.seq));
        }
        assert_eq!(seen.len(), 500);
        let report = batch.wait().unwrap();
        assert_eq!(report.status, BatchStatus::CompletedWithFailures);
        assert_eq!((report.total_items, report.completed_items, report.failed_items), (500, 490, 10));
        // The dead are tried again, the done are not.
        assert_eq!(report.resumed_items, if run == 0 { 0 } else { 490 });
        assert_eq!(
            batch.results_in_order().map(|item| item.unwrap().seq).collect::<Vec<_>>(),
            Vec::from_iter(0..500)
        );
        assert_eq!(batch.dead().len(), 10);
        engine.shutdown(secs(5)).unwrap();
    }
    // What stands beside a journal in use is gone: but for the lock's file, which whoever waits for it may have open.
    let beside = std::fs::read_dir(path.parent().unwrap()).unwrap();
    let names = BTreeSet::from_iter(beside.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
    assert_eq!(names, BTreeSet::from(["a.db", "a.db-lock"].map(str::to_owned)));
}

/// Promise 17: by key, not by position.
#[test]
fn changed_input_is_told() {
    let dir = Dir::new("changed");
    let path = dir.file("a.db");
    let ran = Arc::new(AtomicU32::new(0));
    let run = |input: Vec<u64>| {
        let engine = engine(&path);
        let counter = Arc::clone(&ran);
        let batch = engine
            .batch("b")
            .submit(input, move |n: &u64, _: &Context| {
                counter.fetch_add(1, Ordering::Relaxed);
                Ok(*n)
            })
            .unwrap();
        let report = batch.wait().unwrap();
        engine.shutdown(secs(5)).unwrap();
        report
    };
    assert_eq!(run((0..100).collect()).completed_items, 100);
    // Another order, three gone, two new.
    let report = run((3..102).rev().collect());
    assert_eq!((report.total_items, report.resumed_items, report.vanished_items), (99, 97, 3));
    assert_eq!(report.vanished_keys.len(), 3);
    assert_eq!(ran.load(Ordering::Relaxed), 102);
}

/// Promise 13 and 14: retries, and every attempt's error.
#[test]
fn retries_keep_their_history() {
    let dir = Dir::new("retries");
    let engine = engine(&dir.file("a.db"));
    let batch = engine
        .batch("b")
        .retry(Retry::exponential(millis(1)..millis(3)).attempts(3).budget(5.0))
        .submit(0..50u64, |n: &u64, ctx: &Context| {
            if *n < 10 || ctx.attempt() < 2 {
                Err(Failure::retry(format!("try {}", ctx.attempt())))
            } else {
                Ok(*n)
            }
        })
        .unwrap();
    let report = batch.wait().unwrap();
    assert_eq!((report.completed_items, report.failed_items), (40, 10));
    for item in batch.dead() {
        assert_eq!(item.dead.reason(), DeadReason::Exhausted);
        let errors: Vec<_> = item.dead.errors().iter().map(|e| e.message.as_str()).collect();
        assert_eq!(errors, ["try 1", "try 2", "try 3"]);
    }
}

/// Promise 22: what a step has achieved is not done again.
#[test]
fn steps_are_kept() {
    let dir = Dir::new("steps");
    let path = dir.file("a.db");
    let fetched = Arc::new(AtomicU32::new(0));
    for run in 0..2 {
        let engine = engine(&path);
        let count = Arc::clone(&fetched);
        let batch = engine
            .batch("b")
            .retry(Retry::exponential(millis(1)..millis(2)).attempts(2).budget(5.0))
            .submit(0..20u64, move |n: &u64, ctx: &Context| {
                let page = ctx.step("fetch", || {
                    count.fetch_add(1, Ordering::Relaxed);
                    Ok(format!("page {n}"))
                })?;
                if run == 0 || ctx.attempt() == 1 { Err(Failure::retry("flaky")) } else { Ok(page) }
            })
            .unwrap();
        let report = batch.wait().unwrap();
        assert_eq!(report.failed_items, if run == 0 { 20 } else { 0 }, "{report}");
        engine.shutdown(secs(5)).unwrap();
    }
    // Once a run: the dead of the first run begin anew in the second, without what their attempts had kept.
    assert_eq!(fetched.load(Ordering::Relaxed), 40);
}

#[test]
fn repeated_keys_by_policy() {
    let dir = Dir::new("repeats");
    let engine = engine(&dir.file("a.db"));
    let run = |name: &str, policy| engine.batch(name).duplicates(policy).submit([1u64, 2, 1, 1], picky_one);
    fn picky_one(n: &u64, _: &Context) -> Result<u64, Failure> {
        Ok(*n)
    }
    assert!(matches!(run("error", Duplicates::Error), Err(Error::DuplicateKey { .. })));
    let report = run("skip", Duplicates::Skip).unwrap().wait().unwrap();
    assert_eq!((report.total_items, report.duplicates), (2, 2));
    let batch = run("allow", Duplicates::Allow).unwrap();
    assert_eq!(batch.wait().unwrap().completed_items, 4);
    let keys: BTreeSet<Key> = batch.results().map(|item| item.unwrap().key).collect();
    assert_eq!(keys.len(), 4);
    let open = engine.batch("pushed").key(|n: &u64| *n).open(picky_one).unwrap();
    open.push(1).unwrap();
    assert!(matches!(open.push(1), Err(PushError::Duplicate(key, 1)) if key == Key::from(1)));
    open.push(2).unwrap();
    open.seal();
    assert_eq!(open.wait().unwrap().completed_items, 2);
}

/// Promise 18: a live owner is named.
#[test]
fn one_owner_at_a_time() {
    let dir = Dir::new("owner");
    let path = dir.file("a.db");
    let first = engine(&path);
    match Engine::builder().journal(&path).open() {
        Err(Error::Journal(why)) => {
            assert!(
                matches!(&*why, JournalError::InUse { pid, .. } if *pid == Some(std::process::id())),
                "{why}"
            );
        }
        other => panic!("{other:?}"),
    }
    first.shutdown(secs(5)).unwrap();
    drop(engine(&path));
    drop(engine(&path));
}

/// Promise 20: what is no journal is left alone.
#[test]
fn foreign_files_are_refused_and_not_touched() {
    let dir = Dir::new("foreign");
    let junk = dir.file("junk.db");
    std::fs::write(&junk, b"some notes of mine, longer than sixteen bytes").unwrap();
    let open = |path: &PathBuf| match Engine::builder().journal(path).open() {
        Err(Error::Journal(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(matches!(&*open(&junk), JournalError::Foreign { .. }));
    assert_eq!(std::fs::read(&junk).unwrap(), b"some notes of mine, longer than sixteen bytes");
    assert!(!dir.file("junk.db-wal").exists());
    assert!(matches!(&*open(&dir.path().to_owned()), JournalError::Io { .. }));
    assert!(matches!(&*open(&dir.file("no/such/dir.db")), JournalError::Io { .. }));
}

#[test]
fn another_processor_is_refused() {
    let dir = Dir::new("processor");
    let engine = engine(&dir.file("a.db"));
    let run = |version: &str| engine.batch("b").processor("sum", version).submit(0..3u64, picky);
    run("1").unwrap().wait().unwrap();
    match run("2") {
        Err(Error::Journal(why)) => {
            let text = why.to_string();
            assert!(text.contains("`sum 1`") && text.contains("`sum 2`"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert!(
        matches!(engine.batch("c").resume(picky), Err(Error::Journal(why)) if matches!(&*why, JournalError::UnknownBatch { .. }))
    );
}

/// A batch under way is not begun a second time.
#[test]
fn a_name_is_used_once_at_a_time() {
    let dir = Dir::new("names");
    let engine = engine(&dir.file("a.db"));
    let open = engine.batch("b").open(picky).unwrap();
    assert!(matches!(engine.batch("b").submit(0..3u64, picky), Err(Error::BatchActive { .. })));
    open.push(4).unwrap();
    open.seal();
    assert_eq!(open.wait().unwrap().completed_items, 1);
}

/// Promise 8: a submission far larger than what is kept in memory.
#[test]
fn many_items_pass() {
    let dir = Dir::new("many");
    let engine = engine(&dir.file("a.db"));
    let batch = engine.batch("b").submit(0..60_000u64, |n: &u64, _: &Context| Ok(*n)).unwrap();
    assert_eq!(batch.wait().unwrap().completed_items, 60_000);
    assert_eq!(batch.results().count(), 60_000);
}

/// Promise 15: cancelled items stay pending, and the next run goes on.
#[test]
fn cancelled_and_resumed() {
    let dir = Dir::new("cancelled");
    let path = dir.file("a.db");
    let first = engine(&path);
    let batch = first
        .batch("b")
        .submit(0..1000u64, |n: &u64, ctx: &Context| {
            if *n >= 100 {
                ctx.sleep(secs(60))?;
            }
            Ok(*n)
        })
        .unwrap();
    let _first_hundred: Vec<_> = batch.results().take(100).collect();
    batch.cancel();
    let report = batch.wait().unwrap();
    assert_eq!(report.status, BatchStatus::Cancelled);
    assert_eq!(report.completed_items + report.cancelled_items, 1000);
    first.shutdown(secs(5)).unwrap();

    let second = engine(&path);
    let batch = second.batch("b").resume(|n: &u64, _: &Context| Ok(*n)).unwrap();
    let again = batch.wait().unwrap();
    assert_eq!((again.completed_items, again.resumed_items), (1000, report.completed_items));
}

/// Promise 21: the user's rows are there exactly once, however often an item was tried.
#[test]
fn rows_of_the_user_are_written_once() {
    let dir = Dir::new("commit");
    let path = dir.file("a.db");
    let first = engine(&path);
    let batch = first
        .batch("b")
        .retry(Retry::exponential(millis(1)..millis(2)).attempts(3).no_budget())
        .submit(0..200u64, |n: &u64, ctx: &Context| {
            let (n, attempt) = (*n as i64, ctx.attempt());
            ctx.commit_with(move |tx| {
                tx.execute("CREATE TABLE IF NOT EXISTS mine (n INTEGER PRIMARY KEY, attempt INTEGER)", [])?;
                tx.execute("INSERT INTO mine VALUES (?, ?)", (n, attempt))?;
                if n % 10 == 0 && attempt < 2 { Err(Failure::retry("once more")) } else { Ok(()) }
            })?;
            // What an attempt that fails has asked for is not done.
            if n % 7 == 1 && attempt < 2 { Err(Failure::retry("not yet")) } else { Ok(n) }
        })
        .unwrap();
    let report = batch.wait().unwrap();
    assert_eq!((report.completed_items, report.failed_items), (200, 0), "{report}");
    first.shutdown(secs(5)).unwrap();
    let db = batchyard::rusqlite::Connection::open(&path).unwrap();
    let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM mine"), 200);
    assert_eq!(count("SELECT count(*) FROM mine WHERE attempt = 2"), 20 + 29 - 3);
    assert_eq!(count("SELECT count(*) FROM retry"), 0);
}

/// Promise 21: what the user's SQL may not do fails its item, not the journal.
#[test]
fn sql_of_the_user_stays_within_its_fence() {
    let dir = Dir::new("fence");
    let engine = engine(&dir.file("a.db"));
    let forbidden = [
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT mine",
        "ATTACH ':memory:' AS other",
        "PRAGMA synchronous = OFF",
        "DELETE FROM result",
        "UPDATE item SET run = 99",
        "SELECT count(*) FROM batch",
        "DROP TABLE retry",
        "DELETE FROM piece",
        "CREATE TRIGGER t AFTER INSERT ON result BEGIN SELECT 1; END",
    ];
    let batch = engine
        .batch("b")
        .submit(forbidden.map(str::to_owned), |sql: &String, ctx: &Context| {
            let sql = sql.clone();
            ctx.commit_with(move |tx| {
                // What the journal says itself is not to be had from the cache either.
                let mut statement = tx.prepare_cached(&sql)?;
                let mut rows = statement.query([])?;
                while rows.next()?.is_some() {}
                Ok(())
            })
        })
        .unwrap();
    let report = batch.wait().unwrap();
    assert_eq!(report.failed_items as usize, forbidden.len(), "{report}");
    for item in batch.dead() {
        assert!(item.dead.to_string().contains("not authorized"), "{}", item.dead);
    }
}

/// Promise 21: it is interrupted at its deadline, its group is applied anew without it, and a panic is its item's.
#[test]
fn sql_of_the_user_ends_in_time() {
    let dir = Dir::new("deadline");
    let engine = engine(&dir.file("a.db"));
    let batch = engine
        .batch("b")
        .item_timeout(millis(300))
        .submit(0..40u64, |n: &u64, ctx: &Context| {
            let n = *n as i64;
            ctx.commit_with(move |tx| {
                tx.execute("CREATE TABLE IF NOT EXISTS mine (n INTEGER)", [])?;
                match n {
                    7 => {
                        tx.execute(
                            "INSERT INTO mine WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c",
                            [],
                        )?;
                    }
                    8 => panic!("in the SQL"),
                    _ => drop(tx.execute("INSERT INTO mine VALUES (?)", [n])?),
                }
                Ok(())
            })?;
            Ok(n)
        })
        .unwrap();
    let report = batch.wait().unwrap();
    assert_eq!((report.completed_items, report.failed_items), (38, 2), "{report}");
    let rows = batch.results().filter(|item| item.as_ref().unwrap().outcome.is_ok()).count();
    assert_eq!(rows, 38);
    let db = batchyard::rusqlite::Connection::open(dir.file("a.db")).unwrap();
    assert_eq!(db.query_row("SELECT count(*) FROM mine", [], |row| row.get::<_, i64>(0)).unwrap(), 38);
}

/// Promise 21, by groups.
#[test]
fn groups_are_written_with_their_marks() {
    let dir = Dir::new("groups");
    let path = dir.file("a.db");
    let first = engine(&path);
    let calls = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&calls);
    let batch = first
        .batch("b")
        .key(|n: &u64| *n)
        .retry(Retry::exponential(millis(1)..millis(2)).attempts(5).no_budget())
        .write_with(move |tx, done: &[(Key, u64)]| {
            tx.execute("CREATE TABLE IF NOT EXISTS mine (n TEXT PRIMARY KEY, value INTEGER)", [])?;
            for (key, value) in done {
                tx.execute("INSERT INTO mine VALUES (?, ?)", (key.to_string(), *value as i64))?;
            }
            if counter.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
                Err(Failure::retry("every third group"))
            } else {
                Ok(())
            }
        })
        .submit(0..1000u64, |n: &u64, _: &Context| Ok(n + 1))
        .unwrap();
    let report = batch.wait().unwrap();
    first.shutdown(secs(5)).unwrap();
    let db = batchyard::rusqlite::Connection::open(&path).unwrap();
    let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM mine") as u64, report.completed_items);
    assert_eq!(
        count(
            "SELECT count(*) FROM mine JOIN item ON mine.n = item.key JOIN result ON result.item = item.id WHERE kind = 'done'"
        ) as u64,
        report.completed_items
    );
    assert_eq!(report.completed_items + report.failed_items, 1000);
    assert!(report.retried > 0);
}

/// Work that turns up while working: the batch ends when all of it has, and a resumed one takes it along.
#[test]
fn children_belong_to_their_batch() {
    let dir = Dir::new("children");
    let path = dir.file("a.db");
    // A tree of 1 to 127; in the first run the leaves above 100 fail for good.
    for run in 0..2 {
        let engine = engine(&path);
        let batch = engine
            .batch("tree")
            .key(|n: &u64| *n)
            .retry(Retry::exponential(millis(1)..millis(2)).attempts(2).no_budget())
            .submit([1u64], move |n: &u64, ctx: &Context| {
                for child in [2 * n, 2 * n + 1].into_iter().filter(|child| *child < 128) {
                    ctx.submit_child(child).map_err(|error| Failure::fatal(error.to_string()))?;
                }
                // Tried again, it submits the same ones.
                if *n < 64 && ctx.attempt() == 1 && n.is_multiple_of(3) {
                    return Err(Failure::retry("once more"));
                }
                if run == 0 && *n > 100 { Err(Failure::fatal("not today")) } else { Ok(*n) }
            })
            .unwrap();
        let report = batch.wait().unwrap();
        assert_eq!(report.total_items, 127, "{report}");
        assert_eq!(report.completed_items, if run == 0 { 100 } else { 127 }, "{report}");
        assert_eq!(report.resumed_items, if run == 0 { 0 } else { 100 }, "{report}");
        engine.shutdown(secs(5)).unwrap();
    }
}

#[test]
fn a_childs_key_must_be_new() {
    let dir = Dir::new("childkey");
    for engine in [engine(&dir.file("a.db")), Engine::builder().in_memory().open().unwrap()] {
        let batch = engine
            .batch("b")
            .key(|n: &u64| *n)
            // The key is there before the item that asks for it again begins.
            .submit([2u64, 1], |n: &u64, ctx: &Context| {
                if *n == 1 {
                    assert!(matches!(ctx.submit_child(2u64), Err(PushError::Duplicate(_, 2))));
                    assert!(matches!(ctx.submit_child("two".to_owned()), Err(PushError::Key(..))));
                }
                Ok(*n)
            })
            .unwrap();
        assert_eq!(batch.wait().unwrap().completed_items, 2);
    }
}

/// Promise 1: a submission that was stopped in the middle is no whole one.
#[test]
fn a_submission_that_was_stopped_is_not_sealed() {
    let dir = Dir::new("halted");
    let path = dir.file("a.db");
    let first = engine(&path);
    let open = first.batch("b").halt("now,fail=1".parse().unwrap()).open(picky).unwrap();
    open.push(1).unwrap(); // odd: the batch is halted
    for n in 1.. {
        match open.push(2 * n) {
            Ok(()) => std::thread::yield_now(),
            Err(PushError::Closed(_)) => break,
            Err(other) => panic!("{other:?}"),
        }
    }
    open.seal();
    assert!(matches!(open.wait().unwrap().status, BatchStatus::Halted(_)));
    let again = first.batch("b").resume(picky);
    assert!(matches!(again, Err(Error::Journal(why)) if matches!(&*why, JournalError::Unsealed { .. })));
    // Submitted again with its input it goes on.
    let batch = first.batch("b").submit([2u64, 4], picky).unwrap();
    assert_eq!(batch.wait().unwrap().completed_items, 2);
}

/// A name may be used again at once: the end of the last run, written late, is none of the next one's.
#[test]
fn a_name_is_used_again_at_once() {
    let dir = Dir::new("reopened");
    let engine = engine(&dir.file("a.db"));
    for run in 0..40u64 {
        let batch = loop {
            match engine.batch("b").submit(0..50u64, |n: &u64, _: &Context| Ok(*n)) {
                Err(Error::BatchActive { .. }) => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        // Nobody waits: the next one is opened while this one ends.
        let results = batch.results();
        assert_eq!(results.count(), 50, "run {run}");
    }
}

/// Promise 20: a payload whose JSON cannot be made ends its item, and nothing else.
#[test]
fn a_payload_that_panics_ends_its_item() {
    #[derive(Clone, Debug)]
    struct Touchy(u64);
    impl serde::Serialize for Touchy {
        fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            assert!(self.0 != 3, "not this one");
            to.serialize_u64(self.0)
        }
    }
    impl<'de> serde::Deserialize<'de> for Touchy {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            u64::deserialize(from).map(Touchy)
        }
    }
    let dir = Dir::new("touchy");
    let engine = engine(&dir.file("a.db"));
    let batch = engine.batch("b").submit(0..20u64, |n: &u64, _: &Context| Ok(Touchy(*n))).unwrap();
    let report = batch.wait().unwrap();
    assert_eq!((report.completed_items, report.failed_items), (19, 1), "{report}");
    assert_eq!(batch.dead()[0].dead.reason(), DeadReason::Unreadable);
    let open = engine.batch("c").key(|n: &Touchy| n.0).open(|n: &Touchy, _: &Context| Ok(n.0)).unwrap();
    assert!(matches!(open.push(Touchy(3)), Err(PushError::Key(why, _)) if why.contains("not this one")));
    open.push(Touchy(4)).unwrap();
    open.seal();
    assert_eq!(open.wait().unwrap().completed_items, 1);
}
