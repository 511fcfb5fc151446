//! What the system does to a journal in use (promise 20): a full disk, a file that is deleted or replaced, one that
//! cannot be written. Dispatch stops, it is said why, and nothing that is not durable is handed out.
//!
//! The full disk is a small file system in memory, mounted for the test: where that is not allowed, the test says so
//! and does nothing.

#![cfg(feature = "sqlite")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::{
    Batch, BatchStatus, Context, Engine, Error, Event, Failure, HaltReason, JournalError, millis, secs,
};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use support::dir::Dir;
use support::disk::{Disk, mounted};
use support::{until, within};

/// What the listener was told of the journal.
#[derive(Default)]
struct Heard {
    stalled: Mutex<Vec<String>>,
    resumed: AtomicU64,
}

fn engine(journal: &Path, heard: &Arc<Heard>, wait: Option<u64>) -> Engine {
    let heard = Arc::clone(heard);
    let mut builder = Engine::builder().workers(2).journal(journal).on_event(move |event| match event {
        Event::JournalStalled { error } => heard.stalled.lock().unwrap().push(error.to_string()),
        Event::JournalResumed => drop(heard.resumed.fetch_add(1, Ordering::SeqCst)),
        _ => {}
    });
    if let Some(wait) = wait {
        builder = builder.disk_wait(millis(wait));
    }
    builder.open().unwrap()
}

/// Items of two kilobytes, which take long enough for the disk to fill up while they run.
fn submit(engine: &Engine, items: u64, ran: &Arc<AtomicU64>) -> Result<Batch<(u64, String), String>, Error> {
    let ran = Arc::clone(ran);
    let work = move |(n, text): &(u64, String), _: &Context| -> Result<String, Failure> {
        ran.fetch_add(1, Ordering::SeqCst);
        Ok(format!("{n}{text}"))
    };
    let text = "x".repeat(2_000);
    engine.batch("b").key(|item: &(u64, String)| item.0).submit((0..items).map(|n| (n, text.clone())), work)
}

/// Promise 20: it waits for room, starts nothing meanwhile, and goes on.
#[test]
fn a_full_disk_is_waited_for() {
    let dir = Dir::new("full-wait");
    let Some(disk) = Disk::mount(dir.file("disk"), 24 << 20) else { return };
    within(move || {
        let heard = Arc::new(Heard::default());
        let engine = engine(&disk.file("a.db"), &heard, None);
        let ran = Arc::new(AtomicU64::new(0));
        disk.fill();
        let (here, count) = (engine.clone(), Arc::clone(&ran));
        let submission = std::thread::spawn(move || submit(&here, 1_000, &count).unwrap());
        until("it is said", || !heard.stalled.lock().unwrap().is_empty());
        let said = heard.stalled.lock().unwrap()[0].clone();
        assert!(said.contains("a.db"), "{said}");
        until("nothing is in hand", || engine.stats().in_flight == 0);
        let before = ran.load(Ordering::SeqCst);
        assert!(before < 1_000, "it was full before all had been submitted");
        assert_eq!(heard.resumed.load(Ordering::SeqCst), 0);
        disk.make_room();
        let batch = submission.join().unwrap();
        let mut seen = BTreeSet::new();
        for item in batch.results() {
            let item = item.unwrap();
            assert!(item.outcome.unwrap().starts_with(&format!("{}x", item.key)));
            assert!(seen.insert(item.seq));
        }
        assert_eq!(seen.len(), 1_000);
        assert_eq!(batch.wait().unwrap().status, BatchStatus::Completed);
        assert_eq!(ran.load(Ordering::SeqCst), 1_000, "none ran twice");
        assert!(heard.resumed.load(Ordering::SeqCst) > 0);
        engine.shutdown(secs(10)).unwrap();
    });
    drop(dir);
}

/// Promises 20 and 2: when it stays full, the batch is halted, and what was handed out is there afterwards.
#[test]
fn a_disk_that_stays_full_halts() {
    let dir = Dir::new("full-halt");
    let Some(disk) = Disk::mount(dir.file("disk"), 24 << 20) else { return };
    within(move || {
        let heard = Arc::new(Heard::default());
        let first = engine(&disk.file("a.db"), &heard, Some(300));
        let ran = Arc::new(AtomicU64::new(0));
        // Full in the middle of the work, not of the submission.
        let door = support::Door::new();
        let (wait_here, count) = (door.clone(), Arc::clone(&ran));
        let text = "y".repeat(40_000);
        let slow = first.batch("slow").submit(0..400u64, move |n: &u64, _: &Context| {
            if *n >= 200 {
                wait_here.pass();
            }
            count.fetch_add(1, Ordering::SeqCst);
            Ok(format!("{n}{text}"))
        });
        let slow = slow.unwrap();
        let mut results = slow.results();
        let mut seen: BTreeSet<u64> = results.by_ref().take(150).map(|item| item.unwrap().seq).collect();
        door.wait_for(1);
        disk.fill();
        door.open();
        for item in results.by_ref() {
            match item {
                Ok(item) => assert!(seen.insert(item.seq)),
                Err(Error::Journal(_)) => break,
                Err(other) => panic!("{other}"),
            }
        }
        let report = slow.wait().unwrap();
        match &report.status {
            BatchStatus::Halted(HaltReason::Journal { problem }) => {
                assert!(problem.contains("a.db"), "{problem}")
            }
            other => panic!("{other}"),
        }
        assert!(!heard.stalled.lock().unwrap().is_empty());
        assert!(report.completed_items as usize >= seen.len(), "{report}");
        drop(results);
        first.shutdown(secs(10)).unwrap();
        drop((slow, first));

        disk.make_room();
        let second = engine(&disk.file("a.db"), &heard, None);
        let again = Arc::new(Mutex::new(BTreeSet::new()));
        let noted = Arc::clone(&again);
        let batch = second.batch("slow").resume(move |n: &u64, _: &Context| {
            noted.lock().unwrap().insert(*n);
            Ok(n.to_string())
        });
        let report = batch.unwrap().wait().unwrap();
        assert_eq!((report.status, report.completed_items), (BatchStatus::Completed, 400));
        let again = again.lock().unwrap();
        assert!(seen.is_disjoint(&again), "what was seen ran again: {:?}", seen.intersection(&again));
        second.shutdown(secs(10)).unwrap();
    });
    drop(dir);
}

/// Promise 15: an engine can be shut down although its disk is full and would be waited for for ever.
#[test]
fn a_full_disk_does_not_hold_the_end_up() {
    let dir = Dir::new("full-end");
    let Some(disk) = Disk::mount(dir.file("disk"), 16 << 20) else { return };
    within(move || {
        let heard = Arc::new(Heard::default());
        let engine = engine(&disk.file("a.db"), &heard, None);
        disk.fill();
        let here = engine.clone();
        let submission = std::thread::spawn(move || submit(&here, 1_000, &Arc::default()).map(drop));
        until("it is said", || !heard.stalled.lock().unwrap().is_empty());
        engine.shutdown(millis(10)).unwrap();
        // The submission is told, one way or the other.
        let _ = submission.join().unwrap();
    });
    drop(dir);
}

/// Promise 20: a file that others take away is told, and nothing is written into what has its name now.
#[test]
fn a_journal_that_is_taken_away_halts() {
    for replaced in [false, true] {
        let dir = Dir::new(if replaced { "replaced" } else { "deleted" });
        let path = dir.file("a.db");
        let moved = dir.file("moved.db");
        let (name, to) = (path.clone(), moved.clone());
        let seen = within(move || {
            let heard = Arc::new(Heard::default());
            let engine = engine(&name, &heard, None);
            let door = support::Door::new();
            let held = door.clone();
            let batch = engine.batch("b").submit(0..500u64, move |n: &u64, _: &Context| {
                if *n >= 100 {
                    held.pass();
                }
                Ok(*n)
            });
            let batch = batch.unwrap();
            let mut results = batch.results();
            let mut seen: BTreeSet<u64> = results.by_ref().take(60).map(|item| item.unwrap().seq).collect();
            door.wait_for(1);
            fs::rename(&name, &to).unwrap();
            if replaced {
                fs::write(&name, b"something else").unwrap();
            }
            door.open();
            seen.extend(results.by_ref().map_while(|item| item.ok()).map(|item| item.seq));
            let report = batch.wait().unwrap();
            match report.status {
                BatchStatus::Halted(HaltReason::Journal { problem }) => {
                    assert!(
                        problem.contains("a.db was deleted or replaced while it was in use"),
                        "{problem}"
                    );
                }
                other => panic!("{other}"),
            }
            drop(results);
            engine.shutdown(secs(10)).unwrap();
            seen
        });
        assert_eq!(path.exists(), replaced);
        if replaced {
            assert_eq!(fs::read(&path).unwrap(), b"something else");
        }
        // The log goes with it: SQLite leaves it under the old name, unless it was the last to close the file.
        let log = dir.file("a.db-wal");
        if log.exists() {
            fs::rename(log, dir.file("moved.db-wal")).unwrap();
        }
        let engine = Engine::builder().workers(2).journal(&moved).open().unwrap();
        let batch = engine.batch("b").resume(|n: &u64, _: &Context| Ok(*n + 1_000)).unwrap();
        assert_eq!(batch.wait().unwrap().completed_items, 500);
        for item in batch.results().map(Result::unwrap) {
            let out = item.outcome.unwrap();
            assert!(!seen.contains(&item.seq) || out == item.seq, "{} was seen and ran again", item.seq);
        }
        engine.shutdown(secs(10)).unwrap();
    }
}

/// Promise 20: what cannot be written is told when it is opened, by its name.
#[test]
fn a_read_only_place_is_told() {
    let dir = Dir::new("read-only");
    let Some(disk) = Disk::mount(dir.file("disk"), 16 << 20) else { return };
    let path = disk.file("a.db");
    let heard = Arc::new(Heard::default());
    let first = engine(&path, &heard, None);
    submit(&first, 10, &Arc::default()).unwrap().wait().unwrap();
    first.shutdown(secs(5)).unwrap();
    drop(first);
    if !mounted(Command::new("mount").args(["-o", "remount,ro"]).arg(disk.path())) {
        return;
    }
    match Engine::builder().journal(&path).open() {
        Err(Error::Journal(why)) => {
            assert!(matches!(&*why, JournalError::Io { .. }), "{why:?}");
            assert!(why.to_string().contains("a.db"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    assert!(mounted(Command::new("mount").args(["-o", "remount,rw"]).arg(disk.path())));
    let second = engine(&path, &heard, None);
    assert_eq!(submit(&second, 10, &Arc::default()).unwrap().wait().unwrap().resumed_items, 10);
    second.shutdown(secs(5)).unwrap();
}
