//! The commands about journals, beside a live run and without one.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones
#![cfg(feature = "cli")]

#[path = "support/cli.rs"]
mod support;

use serde_json::Value;
use std::io::BufRead;
use std::path::Path;
use support::{CommandExt, Dir, Live, kept, lives, of};

fn status(journal: &Path) -> Value {
    of(journal, "status --json").ran().exits(0).objects().remove(0)
}

/// A job that says when it has begun, and waits for a word.
fn talking(up: &Path, down: &Path) -> String {
    format!("echo $1 > {}; read x < {}; echo $1", up.display(), down.display())
}

#[test]
fn pause_and_resume_from_another_process() {
    let dir = Dir::new("pause");
    let journal = dir.path().join("a.db");
    let (up, down) = (dir.fifo("up"), dir.fifo("down"));
    let mut live = Live::new(kept(&journal, "-j 1 --name n").sh(&talking(&up, &down)).items(&["a", "b"]));
    assert_eq!(std::fs::read_to_string(&up).unwrap(), "a\n");
    let pid = live.child.id();
    let now = status(&journal);
    assert_eq!((&now["owner"]["pid"], &now["owner"]["lives"]), (&pid.into(), &true.into()));
    assert_eq!(now["batches"][0]["state"], "running");

    let paused = of(&journal, "pause --json").ran().exits(0).objects().remove(0);
    assert_eq!((&paused["answer"], &paused["pid"]), (&"done".into(), &pid.into()));
    // What runs goes on, and its result is printed.
    std::fs::write(&down, "go\n").unwrap();
    let mut line = String::new();
    live.stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "a\n");
    let now = status(&journal);
    let batch = &now["batches"][0];
    assert_eq!((&batch["paused"], &batch["done"], &batch["open"]), (&true.into(), &1.into(), &1.into()));
    // Nobody has the pipe open to write: the second job has not begun.
    let reader =
        rustix::fs::open(&up, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK, 0.into()).unwrap();
    assert_eq!(rustix::io::read(&reader, &mut [0; 8]), Ok(0));
    drop(reader);

    assert!(of(&journal, "resume").ran().exits(0).text().contains(&format!("process {pid}")));
    assert_eq!(std::fs::read_to_string(&up).unwrap(), "b\n");
    std::fs::write(&down, "go\n").unwrap();
    assert_eq!(live.end().exits(0).text(), "b\n");
}

#[test]
fn cancel_from_another_process() {
    let dir = Dir::new("cancel");
    let journal = dir.path().join("a.db");
    let up = dir.fifo("up");
    let slow = dir.file("slow", "");
    let script = format!(
        "[ -e {} ] || {{ echo $1; exit; }}; echo $$ > {}; exec sleep 1000",
        slow.display(),
        up.display()
    );
    let live = Live::new(kept(&journal, "-j 1").sh(&script).items(&["a", "b"]));
    let job = std::fs::read_to_string(&up).unwrap();
    of(&journal, "cancel").ran().exits(0);
    live.end().exits(4).says("cancelled by another process: 0 done, 0 failed");
    assert!(!lives(&job));
    assert_eq!(status(&journal)["batches"][0]["state"], "cancelled");
    std::fs::remove_file(&slow).unwrap();
    assert_eq!(kept(&journal, "-k").sh(&script).items(&["a", "b"]).ran().exits(0).text(), "a\nb\n");
}

#[test]
fn a_batch_that_nobody_runs() {
    let dir = Dir::new("nobody");
    let journal = dir.path().join("a.db");
    let line = || {
        let mut command = kept(&journal, "--name n -- echo ::: a b");
        command.arg("c");
        command
    };
    kept(&journal, "--name n -- echo ::: a").ran().exits(0);
    assert!(of(&journal, "pause n").ran().exits(0).text().contains("nobody runs it"));
    let mut live = Live::new(&mut line());
    live.says("`n` is paused");
    assert_eq!(status(&journal)["batches"][0]["paused"], true);
    of(&journal, "resume n").ran().exits(0);
    assert_eq!(live.end().exits(0).sorted(), ["b", "c"]);
    // It has ended: there is nothing to cancel.
    assert_eq!(of(&journal, "cancel n --json").ran().exits(0).objects()[0]["answer"], "has ended");
    assert_eq!(status(&journal)["batches"][0]["state"], "completed");
}

#[test]
fn a_batch_that_is_not_there() {
    let dir = Dir::new("unknown");
    let journal = dir.path().join("a.db");
    for name in ["one", "two"] {
        kept(&journal, &format!("--name {name} -- echo ::: a")).ran().exits(0);
    }
    for command in ["status", "dead", "retry", "results", "pause", "resume", "cancel", "report"] {
        let ran = of(&journal, command).arg("three").ran();
        ran.exits(2).says("no batch `three`; it has `one`, `two`");
        let ran = of(&journal, command).ran();
        match command {
            "status" | "report" => assert!(ran.exits(0).text().contains("`two`")),
            _ => drop(ran.exits(2).says("say which one: `one`, `two`")),
        }
    }
    assert_eq!(status(&journal)["batches"].as_array().unwrap().len(), 2);
    assert_eq!(of(&journal, "status --json one").ran().exits(0).objects()[0]["batches"][0]["batch"], "one");
}

/// Promise 14: dead letters are listed and driven again: by key, by what they said, all.
#[test]
fn the_dead_are_tried_again_when_asked_for() {
    let dir = Dir::new("retry");
    let journal = dir.path().join("a.db");
    let broken = dir.file("broken", "");
    let script = format!(
        "[ -e {} ] || {{ echo $1; exit; }}; case $1 in *x) echo no route >&2;; *) echo no disk >&2;; esac; exit 9",
        broken.display()
    );
    // Codes of --fatal-exit: a run that finds them dead tries them all the same, so each step asks for a part of them.
    let items = ["1x", "2x", "3", "4"];
    let line = |some: &[&str]| kept(&journal, "-j 1 --fatal-exit 9").sh(&script).items(some).ran();
    line(&items).exits(1);
    let dead = || {
        let mut items: Vec<(String, String)> = of(&journal, "dead --json")
            .ran()
            .exits(0)
            .objects()
            .iter()
            .map(|dead| (dead["item"].as_str().unwrap().to_owned(), dead["key"].as_str().unwrap().to_owned()))
            .collect();
        items.sort();
        items
    };
    let first = dead();
    assert_eq!(first.len(), 4);
    let text = of(&journal, "dead").ran();
    assert!(
        text.exits(0).text().contains("`3`: fatal after 1 attempts\n  attempt 1, fatal: exit 9: no disk")
    );
    let report = of(&journal, "report --json").ran().exits(0).objects().remove(0);
    assert_eq!((&report["dead"], &report["failures"][0]["items"]), (&4.into(), &2.into()));
    assert!(of(&journal, "report").ran().exits(0).text().contains("exit 9: no route"));

    of(&journal, "retry")
        .args(["--key", "nonsense"])
        .ran()
        .exits(2)
        .says("no dead item with the key nonsense");
    let (three, key) = &first[2];
    assert_eq!(three, "3");
    of(&journal, "retry").arg("--key").arg(key).ran().exits(0);
    assert_eq!(dead().iter().map(|(item, _)| item.as_str()).collect::<Vec<_>>(), ["1x", "2x", "4"]);
    let revived = of(&journal, "retry --json").args(["--match", "no route"]).ran().exits(0).objects();
    assert_eq!(revived[0]["revived"], 2);
    assert_eq!(dead().iter().map(|(item, _)| item.as_str()).collect::<Vec<_>>(), ["4"]);
    let now = status(&journal);
    let batch = &now["batches"][0];
    assert_eq!((&batch["dead"], &batch["open"], &batch["to_try_again"]), (&1.into(), &3.into(), &3.into()));
    std::fs::remove_file(&broken).unwrap();
    assert_eq!(line(&items).exits(0).sorted(), ["1x", "2x", "3", "4"]);
    assert!(dead().is_empty());
    assert_eq!(of(&journal, "retry --json").ran().exits(0).objects()[0]["revived"], 0);
}

#[test]
fn results_and_status_read_beside_a_live_run() {
    let dir = Dir::new("beside");
    let journal = dir.path().join("a.db");
    let (up, down) = (dir.fifo("up"), dir.fifo("down"));
    let script =
        format!("[ $1 != b ] || {{ echo > {}; read x < {}; }}; echo $1", up.display(), down.display());
    let mut live = Live::new(kept(&journal, "-j 1 --name n").sh(&script).items(&["a", "b"]));
    std::fs::read_to_string(&up).unwrap();
    let mut line = String::new();
    live.stdout.read_line(&mut line).unwrap();
    assert_eq!(of(&journal, "results").ran().exits(0).text(), "a\n");
    assert_eq!(of(&journal, "results --tag").ran().exits(0).text(), "a\ta\n");
    assert_eq!(of(&journal, "dead").ran().exits(0).text(), "");
    assert_eq!(of(&journal, "report --json").ran().exits(0).objects()[0]["done"], 1);
    let text = of(&journal, "status").ran();
    assert!(text.exits(0).text().contains("`n`: running: 1 of 2 done, 1 to do"), "{text:?}");
    std::fs::write(&down, "go\n").unwrap();
    live.end().exits(0);
    assert!(of(&journal, "status").ran().exits(0).text().contains("not in use\n`n`: completed: 2 of 2 done"));
}

/// Who else looks into the file, the sqlite3 shell for one, and closes it, leaves its log to the run.
#[test]
fn others_may_look_into_the_file_of_a_live_run() {
    let dir = Dir::new("look");
    let journal = dir.path().join("a.db");
    let (up, down) = (dir.fifo("up"), dir.fifo("down"));
    let live = Live::new(kept(&journal, "-j 1").sh(&talking(&up, &down)).items(&["a"]));
    assert_eq!(std::fs::read_to_string(&up).unwrap(), "a\n");
    assert!(of(&journal, "status").ran().exits(0).text().contains("0 of 1 done"));
    // Who closes the file as the last one deletes its log, and knows by such a lock that it is the last one.
    let file = std::fs::File::options().read(true).write(true).open(&journal).unwrap();
    let lock = rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert!(lock.is_err(), "the run has no lock on its journal");
    std::fs::write(&down, "go\n").unwrap();
    assert_eq!(live.end().exits(0).text(), "a\n");
}

/// Promise 20: a file whose maker was killed in the middle of making it is told as what it is.
#[test]
fn a_file_that_is_half_made_is_no_journal() {
    let dir = Dir::new("half-made");
    of(&dir.file("empty", ""), "status").ran().exits(2).says("is not a journal: it is empty");
    // A process that dies now leaves a file that must be rolled back before anything of it can be read.
    let path = dir.path().join("making.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(
        "PRAGMA cache_size = 5; BEGIN; CREATE TABLE t (x);
         INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
         SELECT zeroblob(500) FROM n;",
    )
    .unwrap();
    let copy = dir.path().join("copy.db");
    std::fs::copy(&path, &copy).unwrap();
    std::fs::copy(path.with_extension("db-journal"), copy.with_extension("db-journal")).unwrap();
    assert!(std::fs::metadata(&copy).unwrap().len() > 0, "nothing was written before the end");
    drop(db);
    of(&copy, "status").ran().exits(2).says("is not a journal: it is empty");
    // Whoever runs something makes a journal of it.
    assert_eq!(kept(&copy, "-- echo ::: a").ran().exits(0).text(), "a\n");
}
