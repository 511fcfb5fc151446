//! Runs with a journal: what the same line does when it is given again.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones
#![cfg(feature = "cli")]

#[path = "support/cli.rs"]
mod support;

use rustix::process::Signal;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{CommandExt, Dir, Live, kept, of, run};

/// Notes the item in the witness file, then does this.
fn witnessed(dir: &Dir, then: &str) -> String {
    format!("echo $1 >> {}; {then}", dir.path().join("witness").display())
}

fn witness(dir: &Dir) -> Vec<String> {
    let mut lines: Vec<String> = dir.read("witness").lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// A run of one job after the other; the first has said its word when this returns.
fn started(command: &mut Command, up: &Path) -> (Live, String) {
    let live = Live::new(command);
    let word = std::fs::read_to_string(up).unwrap();
    (live, word.trim().to_owned())
}

/// Promises 2 and 17: what is done does not run again, and is not printed again; what is new does.
#[test]
fn the_same_line_does_nothing_twice() {
    let dir = Dir::new("same");
    let journal = dir.path().join("a.db");
    let script = witnessed(&dir, "echo out $1; echo err $1 >&2");
    let line = |items: &[&str]| kept(&journal, "-j 2").sh(&script).items(items).ran();
    assert_eq!(line(&["a", "b", "c"]).exits(0).sorted(), ["out a", "out b", "out c"]);
    let again = line(&["a", "b", "c"]);
    assert_eq!((again.exits(0).text(), &*again.stderr), ("", ""));
    let changed = line(&["d", "c", "b"]);
    assert_eq!(changed.exits(0).text(), "out d\n");
    assert!(
        changed.stderr.contains("1 items of earlier runs are not in the input any more: `a`"),
        "{changed:?}"
    );
    assert_eq!(witness(&dir), ["a", "b", "c", "d"]);
}

/// Promises 13 and 14.
#[test]
fn what_has_failed_is_tried_again() {
    let dir = Dir::new("failed");
    let journal = dir.path().join("a.db");
    let broken = dir.file("broken", "");
    let script =
        format!("echo $1 $BATCHYARD_ATTEMPT; echo no room >&2; [ $1 != b ] || ! [ -e {} ]", broken.display());
    let line = || kept(&journal, "-k --retries 1 --backoff 1ms").sh(&script).items(&["a", "b"]).ran();
    let first = line();
    assert_eq!(first.exits(1).text(), "a 1\nb 2\n");
    assert!(first.stderr.contains("1 done, 1 failed"), "{first:?}");
    let dead = of(&journal, "dead --json").ran();
    let dead = &dead.exits(0).objects()[0];
    assert_eq!(
        (&dead["item"], &dead["reason"], &dead["attempts"]),
        (&"b".into(), &"exhausted".into(), &2.into())
    );
    let errors = dead["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 2, "{dead}");
    assert!(errors.iter().all(|error| error["message"] == "exit 1: no room"), "{dead}");
    std::fs::remove_file(&broken).unwrap();
    assert_eq!(line().exits(0).text(), "b 1\n");
}

/// With `-k` a run begins where the marks of the last one stand, not at its first item.
#[test]
fn in_order_a_run_begins_where_the_last_one_came_to() {
    let dir = Dir::new("place");
    let journal = dir.path().join("a.db");
    let broken = dir.file("broken", "");
    let script = format!("[ $1 != x ] || ! [ -e {} ] || exit 1; echo $1", broken.display());
    let line = |order: &str, items: &[&str]| kept(&journal, order).sh(&script).items(items).ran();
    assert_eq!(line("-k", &["a", "b", "x", "c"]).exits(1).text(), "a\nb\nc\n");
    // Who reads what has been printed finds damage.
    let db = rusqlite::Connection::open(&journal).unwrap();
    db.execute("UPDATE result SET attempts = 9 WHERE item & 1099511627775 IN (0, 1)", []).unwrap();
    drop(db);
    of(&journal, "results -k").ran().exits(6).says("row");
    std::fs::remove_file(&broken).unwrap();
    // What had died has its place before what is new.
    assert_eq!(line("-k", &["a", "b", "d", "x", "c", "e"]).exits(0).text(), "x\nd\ne\n");
    for order in ["-k", "", "-k"] {
        assert_eq!(line(order, &["a", "b", "x", "c", "d", "e"]).exits(0).text(), "");
    }
}

/// Promise 15: a drained run goes on where it was.
#[test]
fn an_interrupted_run_goes_on() {
    let dir = Dir::new("drained");
    let journal = dir.path().join("a.db");
    let (up, down) = (dir.fifo("up"), dir.fifo("down"));
    let script = witnessed(
        &dir,
        &format!("[ $1 != a ] || {{ echo $$ > {}; read x < {}; }}; echo $1", up.display(), down.display()),
    );
    let items = ["a", "b", "c"];
    let (mut live, _) = started(kept(&journal, "-j 1").sh(&script).items(&items), &up);
    live.signal(Signal::INT);
    live.says("no more jobs start");
    std::fs::write(&down, "go\n").unwrap();
    let first = live.end();
    assert_eq!(first.exits(4).text(), "a\n");
    first.says("cancelled by SIGINT: 1 done, 0 failed");
    assert_eq!(kept(&journal, "-j 1 -k").sh(&script).items(&items).ran().exits(0).text(), "b\nc\n");
    assert_eq!(witness(&dir), items);
}

/// Promise 15: who was terminated has lost no attempt, and nothing of it was printed.
#[test]
fn a_terminated_job_is_as_if_it_had_not_begun() {
    let dir = Dir::new("terminated");
    let journal = dir.path().join("a.db");
    let up = dir.fifo("up");
    let slow = dir.file("slow", "");
    let script = format!(
        "echo try $BATCHYARD_ATTEMPT; [ -e {} ] || exit 0; echo $$ > {}; exec sleep 1000",
        slow.display(),
        up.display()
    );
    let (live, _) = started(kept(&journal, "-j 1").sh(&script).items(&["a"]), &up);
    live.signal(Signal::TERM);
    assert_eq!(live.end().exits(4).text(), "");
    let status = of(&journal, "status --json").ran();
    let batch = &status.exits(0).objects()[0]["batches"][0];
    let counts = (&batch["dead"], &batch["open"], &batch["to_try_again"]);
    assert_eq!(counts, (&0.into(), &1.into(), &0.into()));
    std::fs::remove_file(&slow).unwrap();
    assert_eq!(kept(&journal, "-j 1").sh(&script).items(&["a"]).ran().exits(0).text(), "try 1\n");
}

#[test]
fn another_command_under_the_same_name_is_refused() {
    let dir = Dir::new("other");
    let journal = dir.path().join("a.db");
    kept(&journal, "--name n -- echo one ::: a").ran().exits(0);
    let other = kept(&journal, "--name n -- echo two ::: a").ran();
    other.exits(2).says("`echo one`");
    other.says("`echo two`");
    // Without a name the command is the name.
    assert_eq!(kept(&journal, "-- echo two ::: a").ran().exits(0).text(), "two a\n");
    kept(&journal, "--shell -- echo two ::: a").ran().exits(0);
    kept(&journal, "-I {} -- echo two {} ::: a").ran().exits(0);
    let status = of(&journal, "status --json").ran();
    assert_eq!(status.exits(0).objects()[0]["batches"].as_array().unwrap().len(), 4);
}

/// Promise 18: a live owner is named.
#[test]
fn a_journal_in_use_is_refused() {
    let dir = Dir::new("in-use");
    let journal = dir.path().join("a.db");
    let (up, down) = (dir.fifo("up"), dir.fifo("down"));
    let script = format!("echo $$ > {}; read x < {}", up.display(), down.display());
    let (live, _) = started(kept(&journal, "--name n").sh(&script).items(&["a"]), &up);
    let pid = format!("process {}", live.child.id());
    kept(&journal, "--name m -- true ::: a").ran().exits(5).says(&pid);
    std::fs::write(&down, "go\n").unwrap();
    live.end().exits(0);
}

/// Promise 20: what is no journal is left alone.
#[test]
fn foreign_files_are_not_touched() {
    let dir = Dir::new("foreign");
    let junk = "no database, but somebody's text\n".repeat(100);
    let file = dir.file("junk", &junk);
    for command in [kept(&file, "-- true ::: a"), of(&file, "status"), of(&file, "retry")].iter_mut() {
        command.ran().exits(2).says("is not a journal");
    }
    assert_eq!(dir.read("junk"), junk);
    // A journal, but of a version to come: the number is at byte 60 of the file.
    let newer = dir.path().join("newer.db");
    kept(&newer, "-- true ::: a").ran().exits(0);
    assert!(!dir.path().join("newer.db-wal").exists(), "a run that has ended leaves one file");
    let mut bytes = std::fs::read(&newer).unwrap();
    bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
    std::fs::write(&newer, &bytes).unwrap();
    for command in [kept(&newer, "-- true ::: a"), of(&newer, "status"), of(&newer, "pause")].iter_mut() {
        command.ran().exits(2).says("journal version 99");
    }
    let differs = std::fs::read(&newer).unwrap().iter().zip(&bytes).position(|(now, before)| now != before);
    assert_eq!(differs, None, "it was written to");
    let missing = of(&dir.path().join("nowhere"), "status").ran();
    missing.exits(2).says("nowhere").says("there is no such file");
    assert!(!dir.path().join("nowhere").exists());
    kept(&dir.path().join("no/such/directory/a.db"), "-- true ::: a")
        .ran()
        .exits(2)
        .says("no/such/directory");
}

/// Promise 17.
#[test]
fn items_that_come_twice() {
    let dir = Dir::new("twice");
    let items = ["a", "b", "a"];
    for (options, journal, lines) in [
        ("", true, vec!["a", "b"]),
        ("", false, vec!["a", "a", "b"]),
        ("--duplicates allow", true, vec!["a", "a", "b"]),
        ("--duplicates skip", false, vec!["a", "b"]),
    ] {
        let path = dir.path().join(format!("{}.db", options.replace(' ', "")));
        let line = || match journal {
            true => kept(&path, options),
            false => run(options),
        };
        assert_eq!(line().args(["--", "echo"]).items(&items).ran().exits(0).sorted(), lines, "{options}");
        if journal {
            assert_eq!(line().args(["--", "echo"]).items(&items).ran().exits(0).text(), "", "{options}");
        }
    }
    let journal = dir.path().join("error.db");
    kept(&journal, "--duplicates error -- true").items(&items).ran().exits(2).says("`a` comes twice");
    run("--duplicates error -- true").items(&items).ran().exits(2).says("`a` comes twice");
    // An item of an earlier run is none that comes twice.
    kept(&journal, "--duplicates error -- true").items(&["a", "b"]).ran().exits(0);
}

#[test]
fn items_that_are_no_text_survive() {
    let dir = Dir::new("bytes");
    let journal = dir.path().join("a.db");
    let broken = dir.file("broken", "");
    let script = format!("printf %s \"$1\"; [ ! -e {} ]", broken.display());
    let line = || kept(&journal, "-0 --json").sh(&script).fed(b"\xff\xfe\0a\nb\0");
    line().exits(1);
    let dead = of(&journal, "dead --json").ran();
    assert_eq!(dead.exits(0).objects()[0]["item"]["base64"], "//4=");
    std::fs::remove_file(&broken).unwrap();
    let ran = line();
    let objects = ran.exits(0).objects();
    assert_eq!((&objects[0]["item_base64"], &objects[0]["stdout_base64"]), (&"//4=".into(), &"//4=".into()));
    assert_eq!((&objects[1]["item"], &objects[1]["stdout"]), (&"a\nb".into(), &"a\nb".into()));
    assert_eq!(of(&journal, "results -k").ran().exits(0).stdout, b"\xff\xfea\nb");
}

/// Promise 2: what was not printed is printed by the next run, in whatever form that one is asked for.
#[test]
fn a_closed_stdout_loses_nothing() {
    let dir = Dir::new("closed");
    let journal = dir.path().join("a.db");
    let items: Vec<String> = (1..=20).map(|n| n.to_string()).collect();
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    let script = witnessed(&dir, "echo o$1; echo e$1 >&2; [ $1 != 7 ]");
    let line = |options: &str| {
        let mut command = kept(&journal, options);
        command.sh(&script).items(&items);
        command
    };
    let mut child = line("-j 1").spawn().unwrap();
    drop(child.stdout.take());
    support::collect(child).exits(4).says("stdout was closed");
    let results = dir.path().join("results");
    let ran = line(&format!("-k --tag --results {}", results.display())).ran();
    let all: String = (1..=20).map(|n| format!("{n}\to{n}\n")).collect();
    assert_eq!(ran.exits(1).text(), all);
    assert_eq!((dir.read("results/7/exit"), dir.read("results/20/stderr")), ("1\n".into(), "e20\n".into()));
    // The failed one runs again, and is printed again.
    let again = line("--json").ran();
    let objects = again.exits(1).objects();
    assert_eq!(objects.len(), 1, "{again:?}");
    assert_eq!((&objects[0]["item"], &objects[0]["exit_code"]), (&"7".into(), &1.into()));
    assert_eq!((&objects[0]["stdout"], &objects[0]["stderr"]), (&"o7\n".into(), &"e7\n".into()));
}

#[test]
fn large_outputs_lie_in_the_journal() {
    let dir = Dir::new("large");
    let journal = dir.path().join("a.db");
    // 1.3 MB: more pieces than are committed at a time.
    let broken = dir.file("broken", "");
    let script = format!(
        "[ $1 = a ] || [ -e {} ] || exit 0; yes $1 | head -c 1300000; yes e$1 | head -c 100000 >&2; [ $1 != b ]",
        broken.display()
    );
    let line = || kept(&journal, "-k").sh(&script).items(&["a", "b"]).ran();
    let whole = |word: &str, length: usize| format!("{word}\n").repeat(length / (word.len() + 1));
    let out = whole("a", 1_300_000) + &whole("b", 1_300_000);
    let ran = line();
    assert!(ran.exits(1).text() == out, "the output of the run is not whole");
    let stored = of(&journal, "results -k").ran();
    assert!(stored.exits(0).text() == out, "the stored output is not whole");
    assert!(stored.stderr.starts_with("ea\nea\n") && stored.stderr.len() > 190_000);
    let objects = of(&journal, "results --json").ran().exits(0).objects();
    assert!(objects[1]["stdout"] == *whole("b", 1_300_000));
    assert_eq!(objects[1]["exit_code"], 1);
    line().exits(1);
    let stored = of(&journal, "results -k").ran();
    assert!(stored.exits(0).text() == out, "the stored output is not whole");
    // Who takes their place takes their pieces away, even if it leaves none.
    std::fs::remove_file(&broken).unwrap();
    assert_eq!(line().exits(0).text(), "");
    let db = rusqlite::Connection::open(&journal).unwrap();
    let left: i64 = db.query_row("SELECT count(DISTINCT item) FROM piece", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 1);
}

#[test]
fn the_log_of_jobs_is_gnu_parallels() {
    let dir = Dir::new("joblog");
    let log = dir.path().join("log");
    let line = |journal: Option<&Path>, items: &[&str]| {
        let mut command = journal.map_or_else(|| run("-j 1"), |journal| kept(journal, "-j 1"));
        command
            .arg("--joblog")
            .arg(&log)
            .sh("printf out; [ $1 != k ] || kill -9 $$; exit $1")
            .items(items)
            .ran()
    };
    line(None, &["0", "3", "k"]).exits(1);
    let text = dir.read("log");
    let mut lines = text.lines();
    assert_eq!(
        lines.next(),
        Some("Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand")
    );
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split('\t').collect()).collect();
    let ends: Vec<_> = rows.iter().map(|row| (row[0], row[1], row[5], row[6], row[7])).collect();
    assert_eq!(ends, [("1", ":", "3", "0", "0"), ("2", ":", "3", "3", "0"), ("3", ":", "3", "0", "9")]);
    assert!(rows.iter().all(|row| row[2].parse::<f64>().is_ok() && row[3].trim().parse::<f64>().is_ok()));
    assert!(rows[1][8].starts_with("sh -c 'printf out;") && rows[1][8].ends_with(" sh 3"), "{text}");
    // Another run begins another log; one that goes on adds to it.
    line(None, &["0"]).exits(0);
    assert_eq!(dir.read("log").lines().count(), 2);
    let journal = dir.path().join("a.db");
    line(Some(&journal), &["0"]).exits(0);
    line(Some(&journal), &["0", "3"]).exits(1);
    assert_eq!(dir.read("log").lines().count(), 4);
    run("--joblog /no/such/file -- true ::: a").ran().exits(2).says("/no/such/file");
}

/// The journal is for what jobs write even if nobody looks.
#[test]
fn a_stdout_that_goes_nowhere_is_kept_all_the_same() {
    let dir = Dir::new("nowhere");
    let journal = dir.path().join("a.db");
    kept(&journal, "-- echo ::: a").stdout(Stdio::null()).stderr(Stdio::null()).ran().exits(0);
    assert_eq!(of(&journal, "results").ran().exits(0).text(), "a\n");
}
