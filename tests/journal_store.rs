//! The journal's file as such: older versions of it, its length, what readers and writers do to each other.

#![cfg(feature = "sqlite")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::{Context, Engine, Failure, rusqlite, secs};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use support::dir::Dir;

/// A journal that version 1 of the schema has written: see the head of the file.
const VERSION_1: &str = include_str!("journals/version_1.sql");

fn number(path: &Path, sql: &str) -> i64 {
    rusqlite::Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

/// Promises 1, 2, 14, 17 and 22 hold across versions: what was done stays so, what was dead or pending goes on.
#[test]
fn a_journal_of_the_first_version_goes_on() {
    for with_input in [true, false] {
        let dir = Dir::new(if with_input { "v1-submit" } else { "v1-resume" });
        let path = dir.file("a.db");
        rusqlite::Connection::open(&path).unwrap().execute_batch(VERSION_1).unwrap();
        let engine = Engine::builder().workers(2).journal(&path).open().unwrap();
        let ran: Arc<Mutex<BTreeSet<u64>>> = Arc::default();
        let noted = Arc::clone(&ran);
        let work = move |n: &u64, ctx: &Context| -> Result<String, Failure> {
            assert!(noted.lock().unwrap().insert(*n), "{n} ran twice");
            if *n == 4 {
                assert_eq!(ctx.attempt(), 2);
                return ctx.step("made", || Err(Failure::fatal("it was kept")));
            }
            Ok(format!("{n} again"))
        };
        let request = engine.batch("numbers").key(|n: &u64| format!("key {n}")).processor("squares", "1");
        let batch = if with_input { request.submit(0..12, work) } else { request.resume(work) }.unwrap();
        let report = batch.wait().unwrap();
        let outputs: Vec<(u64, String)> = batch
            .results_in_order()
            .map(|item| item.unwrap())
            .map(|item| {
                (item.seq, item.outcome.unwrap_or_else(|dead| dead.last_error().unwrap().message.clone()))
            })
            .collect();
        engine.shutdown(secs(5)).unwrap();
        let expected = (0..12).map(|n| match n {
            3 => "3 is left out".to_owned(),
            4 => "step of 4".to_owned(),
            0 | 1 | 6 | 7 => format!("{n} squared is {}", n * n),
            2 | 5 if !with_input => format!("{n} is bad"),
            _ => format!("{n} again"),
        });
        assert_eq!(outputs, (0..).zip(expected).collect::<Vec<_>>(), "{report}");
        // Input tries the dead again.
        let again: &[u64] = if with_input { &[2, 4, 5, 8, 9, 10, 11] } else { &[4, 8, 9, 10, 11] };
        assert_eq!(*ran.lock().unwrap(), BTreeSet::from_iter(again.iter().copied()));
        assert_eq!(number(&path, "SELECT user_version FROM pragma_user_version"), 2);
        let index = "SELECT count(*) FROM sqlite_schema WHERE name = 'result_ended'";
        assert_eq!(number(&path, index), 1);
        assert_eq!(
            number(&path, "SELECT count(*) FROM result WHERE kind <> 'done'"),
            if with_input { 1 } else { 3 }
        );
    }
}
