//! Signals to the program itself. Everything is synchronised by what the two sides say, nothing by time.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones
#![cfg(feature = "cli")]

#[path = "support/cli.rs"]
mod support;

use rustix::process::Signal;
use std::io::BufRead;
use std::path::Path;
use std::process::Command;
use support::{CommandExt, Dir, Live, kept, lives, run};

/// A run of one job after the other; the first has started when this returns.
fn started(command: &mut Command, up: &Path) -> (Live, String) {
    let live = Live::new(command);
    // Opening waits for the job, reading for its word.
    let word = std::fs::read_to_string(up).unwrap();
    (live, word.trim().to_owned())
}

#[test]
fn the_first_interrupt_drains() {
    let dir = Dir::new("drain");
    let (up, down) = (dir.fifo("up"), dir.fifo("down"));
    let script = format!("echo $$ > {}; read x < {}; echo end $1", up.display(), down.display());
    let (mut live, _) = started(run("-j 1").sh(&script).items(&["a", "b"]), &up);
    live.signal(Signal::INT);
    live.says("no more jobs start");
    std::fs::write(&down, "go\n").unwrap();
    let ran = live.end();
    assert_eq!(ran.exits(4).text(), "end a\n");
    ran.says("cancelled by SIGINT: 1 done, 0 failed");
}

#[test]
fn a_drain_does_not_wait_for_the_input() {
    let dir = Dir::new("input");
    let up = dir.fifo("up");
    let script = format!("echo up > {}", up.display());
    let mut command = run("");
    command.sh(&script).stdin(std::process::Stdio::piped());
    let mut live = Live::new(&mut command);
    let mut open = live.child.stdin.take().unwrap();
    std::io::Write::write_all(&mut open, b"a\n").unwrap();
    assert_eq!(std::fs::read_to_string(&up).unwrap(), "up\n");
    live.signal(Signal::INT);
    live.end().exits(4);
    drop(open);
}

#[test]
fn the_second_interrupt_terminates_the_group() {
    let dir = Dir::new("cancel");
    let up = dir.fifo("up");
    let script = format!("sleep 1000 & echo $! > {}; wait", up.display());
    let (mut live, grandchild) = started(run("-j 1").sh(&script).items(&["a", "b"]), &up);
    assert!(lives(&grandchild));
    live.signal(Signal::INT);
    live.says("no more jobs start");
    live.signal(Signal::INT);
    live.end().exits(4).says("cancelled by SIGINT: 0 done, 0 failed");
    assert!(!lives(&grandchild));
}

/// Whether this process ignores the signal, and so do those it starts.
fn ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal.as_raw() - 1) & 1 == 1
}

#[test]
fn term_terminates_at_once() {
    let dir = Dir::new("term");
    let up = dir.fifo("up");
    let script = format!("echo $$ > {}; exec sleep 1000", up.display());
    for signal in [Signal::TERM, Signal::HUP] {
        if ignored(signal) {
            continue; // started under nohup, say: then so is the program, and it keeps to that
        }
        let (live, job) = started(run("-j 1").sh(&script).items(&["a"]), &up);
        live.signal(signal);
        live.end().exits(4).says("not finished");
        assert!(!lives(&job));
    }
}

#[test]
fn who_ignores_term_is_killed_after_the_grace() {
    let dir = Dir::new("grace");
    let up = dir.fifo("up");
    let script = format!("trap '' TERM; echo $$ > {}; while :; do sleep 1000; done", up.display());
    let (live, job) = started(run("-j 1 --kill-after 50ms").sh(&script).items(&["a"]), &up);
    live.signal(Signal::TERM);
    live.end().exits(4);
    assert!(!lives(&job));
}

#[test]
fn the_third_interrupt_does_not_wait_for_the_grace() {
    let dir = Dir::new("third");
    let up = dir.fifo("up");
    // It says when TERM has come, and goes on.
    let script =
        format!("trap 'echo term > {0}' TERM; echo $$ > {0}; while :; do sleep 0.01; done", up.display());
    let (mut live, job) = started(run("-j 1 --kill-after 1h").sh(&script).items(&["a"]), &up);
    live.signal(Signal::INT);
    live.says("no more jobs start");
    live.signal(Signal::INT);
    assert_eq!(std::fs::read_to_string(&up).unwrap(), "term\n");
    live.signal(Signal::INT);
    live.end().exits(4);
    assert!(!lives(&job));
}

/// Promises 2 and 15: with a journal, too, the third one leaves at once, even if nothing can be written; the same line goes
/// on, and nothing that was seen runs again.
#[test]
fn the_third_interrupt_leaves_the_journal_as_it_is() {
    for locked in [false, true] {
        let dir = Dir::new(&format!("third-kept-{locked}"));
        let journal = dir.path().join("a.db");
        let up = dir.fifo("up");
        let slow = dir.file("slow", "");
        let script = format!(
            "echo $1 >> {witness}; [ $1 = b ] && [ -e {slow} ] || {{ echo $1; exit; }}
             trap 'echo term > {up}' TERM; echo $$ > {up}; while :; do sleep 0.01; done",
            witness = dir.path().join("witness").display(),
            slow = slow.display(),
            up = up.display(),
        );
        let line = || {
            let mut command = kept(&journal, "-j 1 --kill-after 1h");
            command.sh(&script).items(&["a", "b", "c"]);
            command
        };
        let (mut live, job) = started(&mut line(), &up);
        let mut seen = String::new();
        live.stdout.read_line(&mut seen).unwrap();
        assert_eq!(seen, "a\n");
        let db = rusqlite::Connection::open(&journal).unwrap();
        db.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
        let mark = || db.query_row("SELECT at FROM mark WHERE reader = 'printed'", [], |row| row.get(0));
        while mark() != Ok(1) {
            std::thread::yield_now();
        }
        if locked {
            db.execute_batch("BEGIN IMMEDIATE").unwrap();
        }
        live.signal(Signal::INT);
        live.says("no more jobs start");
        live.signal(Signal::INT);
        assert_eq!(std::fs::read_to_string(&up).unwrap(), "term\n");
        live.signal(Signal::INT);
        let ran = live.end();
        assert_eq!(ran.exits(4).text(), "");
        // It has not waited for the journal, of which it would have something to say.
        assert!(!locked || ran.stderr.is_empty(), "{ran:?}");
        assert!(!lives(&job));
        drop(db);
        std::fs::remove_file(&slow).unwrap();
        assert_eq!(line().ran().exits(0).text(), "b\nc\n");
        assert_eq!(dir.read("witness"), "a\nb\nb\nc\n");
    }
}

/// The jobs are in process groups of their own: nobody else kills them.
#[test]
fn quit_leaves_no_job_behind() {
    let dir = Dir::new("quit");
    let up = dir.fifo("up");
    let script = format!("trap '' TERM; echo $$ > {}; while :; do sleep 0.01; done", up.display());
    let (live, job) = started(run("-j 1 --kill-after 1h").sh(&script).items(&["a"]), &up);
    live.signal(Signal::QUIT);
    live.end().exits(4);
    assert!(!lives(&job));
}

#[test]
fn an_ignored_interrupt_stays_ignored() {
    let dir = Dir::new("ignored");
    let (up, down) = (dir.fifo("up"), dir.fifo("down"));
    let script = format!("echo $$ > {}; read x < {}; echo end", up.display(), down.display());
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' INT; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_batchyard"), "run"]);
    command.stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let (live, _) = started(command.sh(&script).items(&["a"]), &up);
    live.signal(Signal::INT);
    std::fs::write(&down, "go\n").unwrap();
    assert_eq!(live.end().exits(0).text(), "end\n");
}

#[test]
fn cancelled_jobs_are_no_failures_in_json() {
    let dir = Dir::new("json");
    let up = dir.fifo("up");
    let script = format!("echo begun; echo $$ > {}; exec sleep 1000", up.display());
    let (live, _) = started(run("-j 1 --json --retries 3").sh(&script).items(&["a"]), &up);
    live.signal(Signal::TERM);
    let ran = live.end();
    let object = &ran.exits(4).objects()[0];
    assert_eq!((&object["status"], &object["stdout"]), (&"cancelled".into(), &"begun\n".into()));
}
