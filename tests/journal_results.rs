//! Results of a journal over several runs (promise 7): those of earlier runs come with the rest, by a cursor and in the
//! order of submission.

#![cfg(feature = "sqlite")]

mod support;

use batchyard::{Context, Engine, Error, Failure, ItemResult, secs};
use std::collections::BTreeSet;
use std::path::Path;
use support::dir::Dir;
use support::{Door, until};

fn engine(journal: &Path) -> Engine {
    Engine::builder().workers(4).journal(journal).open().expect("a journal")
}

/// Numbers that succeed unless they are odd and below 20.
fn picky(n: &u64, _ctx: &Context) -> Result<u64, Failure> {
    if *n % 2 == 1 && *n < 20 { Err(Failure::fatal(format!("{n} is odd"))) } else { Ok(n * 10) }
}

fn seq_and_end(item: Result<ItemResult<u64>, Error>) -> (u64, bool) {
    let item = item.unwrap();
    (item.seq, item.outcome.is_ok())
}

/// Promise 7, over two runs: a cursor of one goes on in the other, those that had ended before come with the rest.
#[test]
fn a_cursor_goes_on_in_the_next_run() {
    let dir = Dir::new("cursor");
    let path = dir.file("a.db");
    let first = engine(&path);
    let batch = first.batch("b").key(|n: &u64| *n).submit(0..60u64, picky).unwrap();
    let mut results = batch.results();
    results.by_ref().take(25).for_each(drop);
    let cursor = results.cursor();
    assert_eq!(cursor, 25);
    drop(results);
    let dead = batch.wait().unwrap().failed_items;
    assert_eq!(dead, 10);
    let behind: Vec<(u64, bool)> = batch.results_from(cursor).map(seq_and_end).collect();
    first.shutdown(secs(5)).unwrap();

    // The dead are tried again; those that died again have a result behind all others.
    let second = engine(&path);
    let run = |n: &u64, _: &Context| if *n == 7 { Err(Failure::fatal("7 is bad")) } else { Ok(*n * 10) };
    let batch = second.batch("b").key(|n: &u64| *n).submit(0..80u64, run).unwrap();
    let mut rest: Vec<(u64, bool)> = batch.results_from(cursor).map(seq_and_end).collect();
    assert_eq!(batch.wait().unwrap().completed_items, 79);
    // What had ended before is where it was, but for the dead, which come with their new end.
    let done = |results: &[(u64, bool)]| {
        results.iter().filter(|(_, done)| *done).map(|(seq, _)| *seq).collect::<Vec<_>>()
    };
    let (done_behind, new) = (done(&behind), done(&rest));
    assert_eq!(new[..done_behind.len()], done_behind);
    rest.retain(|(seq, done)| !done || !done_behind.contains(seq));
    let again: BTreeSet<u64> = rest.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(again.len(), rest.len(), "each once");
    let expected: BTreeSet<u64> = (1..20).step_by(2).chain(60..80).collect();
    assert_eq!(again, expected);
    assert_eq!(rest.iter().filter(|(_, done)| !done).collect::<Vec<_>>(), [&(7, false)]);
    // A reader of all has each item once; a cursor at the end has none left.
    let read: Vec<(u64, bool)> = batch.results().map(seq_and_end).collect();
    assert_eq!(read.iter().map(|(seq, _)| *seq).collect::<BTreeSet<_>>(), (0..80).collect());
    assert_eq!(read.len(), 80);
    let mut all = batch.results();
    all.by_ref().for_each(drop);
    assert_eq!(batch.results_from(all.cursor()).count(), 0);
    second.shutdown(secs(5)).unwrap();
}

/// Promise 7: in the order of submission what had died in an earlier run has its place, with its new end, and the others
/// wait for it.
#[test]
fn in_order_the_dead_of_an_earlier_run_keep_their_place() {
    let dir = Dir::new("place");
    let path = dir.file("a.db");
    let first = engine(&path);
    let batch = first.batch("b").key(|n: &u64| *n).submit(0..40u64, picky).unwrap();
    assert_eq!(batch.wait().unwrap().failed_items, 10);
    first.shutdown(secs(5)).unwrap();

    let second = engine(&path);
    let door = Door::new();
    let held = door.clone();
    let run = move |n: &u64, _: &Context| {
        if *n == 5 {
            held.pass();
        }
        if *n == 11 { Err(Failure::fatal("11 is bad")) } else { Ok(*n * 10) }
    };
    let batch = second.batch("b").key(|n: &u64| *n).open(run).unwrap();
    // Before anything is submitted: whether the dead come is not known, so what is before them comes, and no more.
    let mut results = batch.results_in_order();
    assert_eq!(results.next().map(seq_and_end), Some((0, true)));
    assert!(results.try_next().is_none(), "1 is dead, and may be submitted");
    (0..50).for_each(|n| batch.push(n).unwrap());
    for seq in 1..5 {
        assert_eq!(results.next().map(seq_and_end), Some((seq, true)));
    }
    door.wait_for(1);
    until("all others have ended", || batch.progress().open() == 1);
    assert!(results.try_next().is_none(), "5 has not ended");
    door.open();
    batch.seal();
    let rest: Vec<(u64, bool)> = results.map(seq_and_end).collect();
    assert_eq!(rest, (5..50).map(|seq| (seq, seq != 11)).collect::<Vec<_>>());
    let report = batch.wait().unwrap();
    assert_eq!((report.completed_items, report.failed_items, report.resumed_items), (49, 1, 30));
    second.shutdown(secs(5)).unwrap();

    // An input that has not all of them: the dead that it does not name are passed with their old end, once that is known.
    let third = engine(&path);
    let batch = third.batch("b").key(|n: &u64| *n).open(|n: &u64, _: &Context| Ok(*n)).unwrap();
    let mut results = batch.results_in_order();
    let before: Vec<(u64, bool)> = (0..11).map(|_| seq_and_end(results.next().unwrap())).collect();
    assert!(before.iter().all(|(_, done)| *done));
    assert!(results.try_next().is_none(), "11 is dead, and may be submitted");
    batch.push(0).unwrap();
    batch.seal();
    let rest: Vec<(u64, bool)> = results.map(seq_and_end).collect();
    assert_eq!(rest, (11..50).map(|seq| (seq, seq != 11)).collect::<Vec<_>>());
    third.shutdown(secs(5)).unwrap();
}
