//! Journals that change hands: a submission that was killed (promise 1), a shutdown in the middle (promise 15), an
//! owner that died (promise 18).

#![cfg(feature = "sqlite")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::{BatchStatus, Context, Engine, Error, Failure, JournalError, Retry, millis, secs};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use support::dir::Dir;
use support::process::{Other, Witness, told};
use support::{until, within};

fn engine(journal: &Path) -> Engine {
    Engine::builder().workers(2).journal(journal).open().unwrap()
}

/// One number out of the journal's tables; `None` while they are not there.
fn number(journal: &Path, sql: &str) -> Option<i64> {
    let db =
        rusqlite::Connection::open_with_flags(journal, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    db.busy_timeout(secs(5)).ok()?;
    db.query_row(sql, [], |row| row.get(0)).ok()
}

#[test]
#[ignore = "the other process of these tests"]
fn the_other_program() {
    let (Some(dir), Some(what)) = (told("DIR"), told("WHAT")) else { return };
    let dir = Path::new(&dir);
    let witness = Witness::open(&dir.join("witness"));
    let engine = engine(&dir.join("a.db"));
    match &*what {
        // An input that does not end: the submission is under way until the process is killed.
        "submitting" => {
            let input = (0..u64::MAX).inspect(|n| {
                if *n > 2_000 {
                    std::thread::park();
                }
            });
            let batch = engine.batch("b").key(|n: &u64| *n).open(|n: &u64, _: &Context| Ok(*n)).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for item in batch.results() {
                        witness.say(&format!("R {}", item.unwrap().key));
                    }
                });
                input.for_each(|n| batch.push(n).unwrap());
            });
        }
        "submitted" => {
            let run = |_: &u64, ctx: &Context| ctx.sleep(secs(3600));
            let _batch = engine.batch("b").submit(0..3_000u64, run).unwrap();
            witness.say("submitted");
            std::thread::park();
        }
        "holding" => {
            witness.say("open");
            std::thread::park();
        }
        other => panic!("{other}"),
    }
}

fn other(dir: &Dir, what: &str) -> Other {
    let tell = [("DIR", dir.path().display().to_string()), ("WHAT", what.to_owned())];
    Other::start("the_other_program", &tell)
}

/// Promise 1: it is visible as such, does not resume as if it were whole, and continues by key.
#[test]
fn a_killed_submission_continues_by_key() {
    let dir = Dir::new("submission");
    let path = dir.file("a.db");
    let mut submitting = other(&dir, "submitting");
    submitting.watch(|| Witness::read(&dir.file("witness")).len() > 300);
    assert!(submitting.ended().is_none());
    submitting.kill();
    let seen: BTreeSet<u64> =
        Witness::read(&dir.file("witness")).iter().map(|line| line[1].parse().unwrap()).collect();

    let engine = engine(&path);
    assert_eq!(number(&path, "SELECT sealed FROM batch WHERE name = 'b'"), Some(0));
    let there = number(&path, "SELECT count(*) FROM item").unwrap() as u64;
    assert!(there >= seen.len() as u64);
    match engine.batch("b").resume(|n: &u64, _: &Context| Ok(*n)) {
        Err(Error::Journal(why)) => {
            assert!(matches!(&*why, JournalError::Unsealed { batch } if batch == "b"), "{why}")
        }
        other => panic!("{other:?}"),
    }
    let ran = Arc::new(Mutex::new(BTreeSet::new()));
    let noted = Arc::clone(&ran);
    let input: Vec<u64> = (0..2_500).rev().collect();
    let batch = engine.batch("b").key(|n: &u64| *n).submit(input, move |n: &u64, _: &Context| {
        noted.lock().unwrap().insert(*n);
        Ok(*n)
    });
    let report = batch.unwrap().wait().unwrap();
    assert_eq!(
        (report.status, report.total_items, report.vanished_items),
        (BatchStatus::Completed, 2_500, 0)
    );
    assert!(report.resumed_items >= seen.len() as u64, "{}", report.resumed_items);
    let ran = ran.lock().unwrap();
    assert!(seen.is_disjoint(&ran));
    assert_eq!(ran.len() as u64 + report.resumed_items, 2_500);
    assert_eq!(number(&path, "SELECT sealed FROM batch WHERE name = 'b'"), Some(1));
    engine.shutdown(secs(10)).unwrap();
}

/// Promise 1: what `submit` has returned for is there, however the process ends just behind it.
#[test]
fn what_was_submitted_is_durable() {
    let dir = Dir::new("submitted");
    let path = dir.file("a.db");
    let mut submitted = other(&dir, "submitted");
    submitted.watch(|| !Witness::read(&dir.file("witness")).is_empty());
    submitted.kill();
    let engine = engine(&path);
    assert_eq!(number(&path, "SELECT count(*) FROM item"), Some(3_000));
    assert_eq!(number(&path, "SELECT sealed FROM batch"), Some(1));
    let batch = engine.batch("b").resume(|_: &u64, _: &Context| Ok(())).unwrap();
    assert_eq!(batch.wait().unwrap().completed_items, 3_000);
    engine.shutdown(secs(10)).unwrap();
}

/// Promise 18: a live owner is named, a dead one taken over at once.
#[test]
fn a_dead_owner_is_taken_over() {
    let dir = Dir::new("takeover");
    let path = dir.file("a.db");
    let mut holding = other(&dir, "holding");
    holding.watch(|| !Witness::read(&dir.file("witness")).is_empty());
    let pid = number(&path, "SELECT pid FROM owner WHERE ended_ms IS NULL").unwrap();
    match Engine::builder().journal(&path).open() {
        Err(Error::Journal(why)) => match &*why {
            JournalError::InUse { pid: Some(there), since: Some(_), .. } => {
                assert_eq!(i64::from(*there), pid)
            }
            other => panic!("{other}"),
        },
        other => panic!("{other:?}"),
    }
    holding.kill();
    let second = engine(&path);
    assert_eq!(number(&path, "SELECT count(*) FROM owner"), Some(2));
    assert_eq!(
        number(&path, "SELECT pid FROM owner WHERE ended_ms IS NULL"),
        Some(std::process::id().into())
    );
    second.shutdown(secs(5)).unwrap();
    assert_eq!(number(&path, "SELECT count(*) FROM owner WHERE ended_ms IS NULL"), Some(0));
}

/// Promise 15: the interrupted go back without losing an attempt, whichever attempt it was.
#[test]
fn a_shutdown_costs_no_attempt() {
    let dir = Dir::new("shutdown");
    let path = dir.file("a.db");
    let attempts: Arc<Mutex<BTreeMap<u64, Vec<u32>>>> = Arc::default();
    let run = |interrupted: bool| {
        let attempts = Arc::clone(&attempts);
        move |n: &u64, ctx: &Context| -> Result<u64, Failure> {
            attempts.lock().unwrap().entry(*n).or_default().push(ctx.attempt());
            if *n % 2 == 1 && ctx.attempt() == 1 {
                return Err(Failure::retry("the first time"));
            }
            if interrupted && *n >= 100 {
                ctx.sleep(secs(3600))?;
            }
            Ok(*n)
        }
    };
    let retry = || Retry::exponential(millis(1)..millis(2)).attempts(2).no_budget();
    let (first, work) = (path.clone(), run(true));
    let cancelled = within({
        let attempts = Arc::clone(&attempts);
        move || {
            let engine = engine(&first);
            let batch = engine.batch("b").retry(retry()).submit(0..200u64, work).unwrap();
            // Both workers sleep in items that shall be interrupted.
            until("both are asleep", || {
                let attempts = attempts.lock().unwrap();
                let asleep = |(n, tries): (&u64, &Vec<u32>)| *n >= 100 && (n % 2 == 0 || tries.len() == 2);
                attempts.iter().filter(|entry| asleep(*entry)).count() == 2
            });
            engine.shutdown(millis(20)).unwrap();
            batch.wait().unwrap().cancelled_items
        }
    });
    assert!(cancelled >= 2, "{cancelled}");
    let before: BTreeMap<u64, Vec<u32>> = std::mem::take(&mut *attempts.lock().unwrap());
    let engine = engine(&path);
    let report = engine.batch("b").retry(retry()).resume(run(false)).unwrap().wait().unwrap();
    assert_eq!((report.status, report.completed_items), (BatchStatus::Completed, 200));
    for (n, tries) in &*attempts.lock().unwrap() {
        let first = match before.get(n).map(Vec::as_slice) {
            // Even ones were interrupted in their first attempt, odd ones in their second or while they waited for it.
            None | Some([1]) if n % 2 == 0 => 1,
            None => 1,
            Some([1] | [1, 2]) => 2,
            Some(other) => panic!("{n}: {other:?}"),
        };
        assert_eq!(tries[0], first, "{n}: {before:?}", before = before.get(n));
    }
    assert_eq!(number(&path, "SELECT count(*) FROM retry"), Some(0));
    engine.shutdown(secs(10)).unwrap();
}
