//! The journal where several things come together: a row nobody can read and the halt rule, a listener on the writer's
//! own thread, a batch that comes when the journal is lost, what was counted when it was lost, suspects of a batch that
//! stands still, a thread that was given up and takes the process down.

#![cfg(feature = "sqlite")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::{
    Batch, BatchStatus, Context, DeadReason, Engine, Error, Event, Failure, HaltReason, JournalError,
    ResourceKind, Retry, millis, secs,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use support::dir::Dir;
use support::process::{Other, Witness, signal, told};
use support::{Door, until, within};

fn engine(journal: &PathBuf) -> Engine {
    Engine::builder().workers(2).journal(journal).open().expect("a journal")
}

/// Promise 20: a row that cannot be read ends its item as any other failure does: it is told, and counts for the rule.
#[test]
fn a_row_that_cannot_be_read_is_told_and_counts() {
    within(|| {
        let dir = Dir::new("unreadable");
        let path = dir.file("a.db");
        {
            let engine = engine(&path);
            let open = engine.batch("b").open(|s: &String, _: &Context| Ok(s.clone())).unwrap();
            open.pause();
            (0..50).for_each(|n| open.push(format!("text {n}")).unwrap());
            open.seal();
            engine.shutdown(secs(0)).unwrap();
        }
        let heard = Arc::new(AtomicU64::new(0));
        let hears = Arc::clone(&heard);
        let engine = Engine::builder()
            .workers(2)
            .journal(&path)
            .on_event(move |event| {
                if let Event::ItemDead { dead, .. } = event {
                    assert_eq!(dead.reason(), DeadReason::Unreadable);
                    hears.fetch_add(1, Ordering::SeqCst);
                }
            })
            .open()
            .unwrap();
        let batch =
            engine.batch("b").halt("now,fail=3".parse().unwrap()).resume(|n: &u64, _: &Context| Ok(*n));
        let report = batch.unwrap().wait().unwrap();
        assert!(matches!(report.status, BatchStatus::Halted(HaltReason::Failures { .. })), "{report}");
        assert!(report.failed_items >= 3 && report.failed_items == heard.load(Ordering::SeqCst), "{report}");
        assert_eq!(report.failed_items + report.cancelled_items, 50, "{report}");
        engine.shutdown(secs(5)).unwrap();
    });
}

/// A listener may be called on the journal's writer: what would wait for the writer there is an error, and no hang.
#[test]
fn a_listener_does_not_wait_for_its_own_thread() {
    within(|| {
        let dir = Dir::new("listener");
        let path = dir.file("a.db");
        let other: Arc<OnceLock<Batch<u64, u64>>> = Arc::default();
        let of = Arc::new(OnceLock::<Engine>::new());
        let (tell, told) = mpsc::channel();
        let (others, engines) = (Arc::clone(&other), Arc::clone(&of));
        let engine = Engine::builder()
            .workers(2)
            .journal(&path)
            .on_event(move |event| {
                let Event::BatchEnded { batch: "first", .. } = event else { return };
                let (Some(other), Some(engine)) = (others.get(), engines.get()) else { return };
                let next = other.results().next().map(|next| next.is_err());
                let opened = engine.batch("third").submit([1u64], |n: &u64, _: &Context| Ok(*n));
                tell.send((other.wait().is_err(), next, opened.is_err())).unwrap();
            })
            .open()
            .unwrap();
        let _ = of.set(engine.clone());
        let door = Door::new();
        let held = door.clone();
        let second = engine.batch("second").submit([1u64], move |n: &u64, _: &Context| {
            held.pass();
            Ok(*n)
        });
        assert!(other.set(second.unwrap()).is_ok());
        door.wait_for(1);
        let first = engine.batch("first").submit(0..10u64, |n: &u64, _: &Context| Ok(*n)).unwrap();
        assert_eq!(first.wait().unwrap().completed_items, 10);
        assert_eq!(told.recv().unwrap(), (true, Some(true), true));
        door.open();
        assert_eq!(other.get().unwrap().wait().unwrap().completed_items, 1);
        engine.shutdown(secs(5)).unwrap();
    });
}

/// An engine with one permit; from the end of a batch `first` on, its journal's writer stands at the door.
fn with_a_door(path: &PathBuf, door: &Door) -> Engine {
    let held = door.clone();
    Engine::builder()
        .workers(2)
        .journal(path)
        .quota(ResourceKind::DatabaseConnection, 1)
        .on_event(move |event| {
            if let Event::BatchEnded { batch: "first", .. } = event {
                held.pass();
            }
        })
        .open()
        .unwrap()
}

fn hold_up(engine: &Engine, door: &Door) {
    engine.batch("first").submit([1u64], |n: &u64, _: &Context| Ok(*n)).unwrap();
    door.wait_for(1);
}

/// Permits wait for no commit: they are back, and taken again, while nothing can be written.
#[test]
fn permits_wait_for_no_commit() {
    /// More than two of the largest pages: of these some are unclaimed when the writer stands still.
    const MANY: u64 = 4_000;
    within(|| {
        let dir = Dir::new("permits");
        let path = dir.file("a.db");
        {
            let engine = engine(&path);
            let open = engine.batch("b").open(|n: &u64, _: &Context| Ok(*n)).unwrap();
            open.pause();
            (0..MANY).for_each(|n| open.push(n).unwrap());
            open.seal();
            engine.shutdown(secs(0)).unwrap();
        }
        let (writer, first) = (Door::new(), Door::new());
        let engine = with_a_door(&path, &writer);
        let ran = Arc::new(AtomicU64::new(0));
        let (counts, holds) = (Arc::clone(&ran), first.clone());
        let batch = engine.batch("b").needs(ResourceKind::DatabaseConnection, 1);
        let batch = batch.resume(move |n: &u64, _: &Context| {
            if counts.fetch_add(1, Ordering::SeqCst) == 0 {
                holds.pass();
            }
            Ok(*n)
        });
        let batch = batch.unwrap();
        // It has the permit, others are claimed behind it; then the writer stands still.
        first.wait_for(1);
        hold_up(&engine, &writer);
        first.open();
        until("the permit was taken again", || ran.load(Ordering::SeqCst) > 1);
        let idle = || engine.stats().in_flight == 0 && ran.load(Ordering::SeqCst) < MANY;
        until("what was claimed has run", idle);
        assert_eq!(batch.progress().done, 0, "nothing is committed");
        writer.open();
        assert_eq!(batch.wait().unwrap().completed_items, MANY);
        engine.shutdown(secs(5)).unwrap();
    });
}

/// Promise 8: what is pushed and not written is bounded in bytes, too.
#[test]
fn pushed_bytes_are_bounded() {
    within(|| {
        let dir = Dir::new("bytes");
        let door = Door::new();
        let engine = with_a_door(&dir.file("a.db"), &door);
        let open = engine.batch("b").key(|text: &String| text[..8].to_owned());
        let open = open.open(|text: &String, _: &Context| Ok(text.len())).unwrap();
        open.pause();
        hold_up(&engine, &door);
        let text = "x".repeat(1 << 20);
        let mut pushed = 0;
        while open.try_push(format!("{pushed:08}{text}")).is_ok() {
            pushed += 1;
            assert!(pushed < 80, "{pushed} MiB wait in memory");
        }
        assert!(pushed >= 16, "{pushed} MiB should have room");
        door.open();
        engine.shutdown(secs(0)).unwrap();
    });
}

/// However large the rows are, there is one for every worker.
#[test]
fn large_rows_leave_no_worker_idle() {
    within(|| {
        let dir = Dir::new("large");
        let door = Door::new();
        let engine = Engine::builder().workers(4).journal(dir.file("a.db")).open().unwrap();
        let held = door.clone();
        let open = engine.batch("b").open(move |n: &u64, _: &Context| {
            if *n > 0 {
                held.pass();
            }
            // Two of the first would be more than may be out.
            Ok("x".repeat(if *n == 0 { 40 << 20 } else { 0 }))
        });
        let open = open.unwrap();
        open.push(0).unwrap();
        until("the large one is done", || open.progress().done == 1);
        (1..=4).for_each(|n| open.push(n).unwrap());
        door.wait_for(4);
        door.open();
        open.seal();
        assert_eq!(open.wait().unwrap().completed_items, 5);
        engine.shutdown(secs(5)).unwrap();
    });
}

/// Takes the journal away from an engine, and waits until that has noticed.
fn lose(engine: &Engine, path: &Path) {
    fs::remove_file(path).unwrap();
    // Noticed with the next group.
    let batch = engine.batch("witness").submit([1u64], |n: &u64, _: &Context| Ok(*n));
    if let Ok(batch) = batch {
        assert!(matches!(batch.wait().unwrap().status, BatchStatus::Halted(HaltReason::Journal { .. })));
    }
}

/// A batch that comes when the journal is lost is told so.
#[test]
fn a_lost_journal_takes_no_batch() {
    within(|| {
        let dir = Dir::new("lost");
        let path = dir.file("a.db");
        let engine = engine(&path);
        lose(&engine, &path);
        for _ in 0..3 {
            match engine.batch("b").submit([1u64], |n: &u64, _: &Context| Ok(*n)) {
                Err(Error::Journal(why)) => {
                    assert!(matches!(&*why, JournalError::Damaged { .. }), "{why}");
                    assert!(why.to_string().contains("a.db"), "{why}");
                }
                other => panic!("{other:?}"),
            }
        }
        engine.shutdown(secs(5)).unwrap();
    });
}

/// Whatever has ended and could not be written is counted once: as dead, or as cancelled.
#[test]
fn what_was_lost_is_counted_once() {
    within(|| {
        let dir = Dir::new("counted");
        let path = dir.file("a.db");
        let engine = engine(&path);
        let door = Door::new();
        let held = door.clone();
        let batch = engine
            .batch("b")
            .submit(0..200u64, move |n: &u64, _: &Context| -> Result<u64, Failure> {
                held.pass();
                if n.is_multiple_of(2) { Err(Failure::fatal("even")) } else { Ok(*n) }
            })
            .unwrap();
        door.wait_for(2);
        fs::remove_file(&path).unwrap();
        door.open();
        let report = batch.wait().unwrap();
        assert!(matches!(report.status, BatchStatus::Halted(HaltReason::Journal { .. })), "{report}");
        assert_eq!(report.completed_items, 0, "nothing was committed: {report}");
        assert_eq!(report.failed_items + report.cancelled_items, 200, "{report}");
        engine.shutdown(secs(5)).unwrap();
    });
}

/// Two workers. The item `zombie` ignores its deadline, and takes the process down when the item `neighbour` runs.
#[test]
#[ignore = "the other process of these tests"]
fn the_program_with_a_stranger() {
    let Some(dir) = told("DIR") else { return };
    let dir = Path::new(&dir);
    let witness = Arc::new(Witness::open(&dir.join("witness")));
    let engine = Engine::builder().workers(2).journal(dir.join("a.db")).open().expect("the journal");
    let (runs, says) = (Arc::new(AtomicBool::new(false)), Arc::clone(&witness));
    let batch = engine
        .batch("b")
        .key(|name: &String| name.clone())
        .item_timeout(millis(20))
        .grace(millis(1))
        .retry(Retry::fixed(millis(1)).attempts(1))
        .open(move |name: &String, _: &Context| {
            says.say(&format!("S {name}"));
            match name.as_str() {
                "zombie" => {
                    while !runs.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                    std::process::abort();
                }
                "neighbour" => {
                    runs.store(true, Ordering::SeqCst);
                    loop {
                        std::thread::park();
                    }
                }
                _ => Ok(name.clone()),
            }
        })
        .expect("a batch");
    batch.push("zombie".to_owned()).expect("room");
    until("it is given up", || batch.progress().failed == 1);
    batch.push("neighbour".to_owned()).expect("room");
    batch.seal();
    let _ = batch.wait();
}

/// Promise 5: an item beside a thread that was given up was not alone, whatever took the process down.
#[test]
fn who_runs_beside_a_stranger_is_not_alone() {
    let dir = Dir::new("stranger");
    let other = Other::start("the_program_with_a_stranger", &[("DIR", dir.path().display().to_string())]);
    assert_eq!(signal(other.wait()), Some(6), "it aborts");
    let engine = engine(&dir.file("a.db"));
    let db = rusqlite::Connection::open(dir.file("a.db")).unwrap();
    let (suspect, crashes): (i64, i64) = db
        .query_row(
            "SELECT suspect, crashes FROM retry JOIN item ON item.id = retry.item WHERE key LIKE '%neighbour%'",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    assert_eq!((suspect, crashes), (1, 0));
    engine.shutdown(secs(5)).unwrap();
}

/// Promise 5: suspects of a batch that stands still hold nobody up, and run when it goes on.
#[test]
fn suspects_that_stand_still_hold_nobody_up() {
    within(|| {
        let dir = Dir::new("still");
        let path = dir.file("a.db");
        {
            let engine = engine(&path);
            for name in ["a", "b"] {
                let open = engine.batch(name).open(|n: &u64, _: &Context| Ok(*n)).unwrap();
                open.pause();
                (0..20).for_each(|n| open.push(n).unwrap());
                open.seal();
            }
            engine.shutdown(secs(0)).unwrap();
        }
        die_with_a_chunk(&path, "a", 5);
        let engine = engine(&path);
        let beside = Arc::new(Mutex::new(Vec::new()));
        let door = Door::new();
        let (seen, held) = (Arc::clone(&beside), door.clone());
        let a = engine
            .batch("a")
            .resume(move |n: &u64, _: &Context| {
                seen.lock().unwrap().push(*n);
                if *n == 0 {
                    held.pass();
                }
                Ok(*n)
            })
            .unwrap();
        door.wait_for(1);
        // The first suspect is in hand: the others, and all that are none, wait.
        let b = engine.batch("b").resume(|n: &u64, _: &Context| Ok(*n)).unwrap();
        a.pause();
        door.open();
        // With `a` standing still `b` goes on, although four suspects are left.
        assert_eq!(b.wait().unwrap().completed_items, 20);
        assert_eq!(*beside.lock().unwrap(), [0]);
        a.resume();
        assert_eq!(a.wait().unwrap().completed_items, 20);
        assert_eq!(beside.lock().unwrap().len(), 20);
        engine.shutdown(secs(5)).unwrap();
    });
}

/// A process of this journal's dies with so many items of a batch in hand.
fn die_with_a_chunk(path: &Path, batch: &str, count: u64) {
    let dir = path.parent().unwrap();
    let tell =
        [("DIR", dir.display().to_string()), ("BATCH", batch.to_owned()), ("COUNT", count.to_string())];
    let other = Other::start("the_program_that_dies_with_a_chunk", &tell);
    assert_eq!(signal(other.wait()), Some(6), "it aborts");
}

/// Has its items in hand at once, and dies.
#[test]
#[ignore = "the other process of these tests"]
fn the_program_that_dies_with_a_chunk() {
    let (Some(dir), Some(batch), Some(count)) = (told("DIR"), told("BATCH"), told("COUNT")) else { return };
    let count: usize = count.parse().unwrap();
    let engine = Engine::builder().workers(count).journal(Path::new(&dir).join("a.db")).open().unwrap();
    let door = Door::new();
    let held = door.clone();
    let _batch = engine
        .batch(&batch)
        .resume(move |n: &u64, _: &Context| {
            held.pass();
            Ok(*n)
        })
        .unwrap();
    door.wait_for(count);
    std::process::abort();
}
