//! What is printed: whole outputs, their order, their forms.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones
#![cfg(feature = "cli")]

#[path = "support/cli.rs"]
mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use support::{CommandExt, Dir, Live, run};

/// Writes 200 kB in many small writes, so that an interleaving would show.
const MUCH: &str = "i=0; while [ $i -lt 2000 ]; do echo \"$1 xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"; i=$((i+1)); done";

#[test]
fn large_outputs_stay_whole() {
    let ran = run("-j 4").sh(MUCH).items(&["a", "b", "c", "d", "e"]).ran();
    let mut names: Vec<_> = ran.exits(0).text().lines().map(|line| &line[..1]).collect();
    assert_eq!(names.len(), 10_000);
    names.dedup();
    assert_eq!(names.len(), 5, "outputs are mixed");
}

#[test]
fn keep_order_holds_large_outputs_back() {
    let dir = Dir::new("order");
    // The first job ends last: it waits for the word of the last one.
    let word = dir.fifo("word");
    let script = format!("{MUCH}; case $1 in a) read x < {0};; c) echo go > {0};; esac", word.display());
    let ran = run("-j 3 -k").sh(&script).items(&["a", "b", "c"]).ran();
    let mut names: Vec<_> = ran.exits(0).text().lines().map(|line| &line[..1]).collect();
    assert_eq!(names.len(), 6_000);
    names.dedup();
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn without_keep_order_a_result_does_not_wait() {
    let dir = Dir::new("disorder");
    let word = dir.fifo("word");
    let script = format!("case $1 in slow) read x < {};; esac; echo $1", word.display());
    let mut live = Live::new(run("-j 2").sh(&script).items(&["slow", "fast"]));
    let mut line = String::new();
    live.stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "fast\n");
    std::fs::write(&word, "go\n").unwrap();
    assert_eq!(live.end().exits(0).text(), "slow\n");
}

#[test]
fn streams_stay_apart() {
    let ran = run("-k").sh("echo out $1; echo err $1 >&2").items(&["a", "b"]).ran();
    assert_eq!(ran.exits(0).text(), "out a\nout b\n");
    assert_eq!(ran.stderr, "err a\nerr b\n");
}

#[test]
fn the_last_attempt_is_the_one_that_is_printed() {
    let ran = run("--retries 2 --backoff 1ms").sh("echo try $BATCHYARD_ATTEMPT; exit 1").items(&["a"]).ran();
    assert_eq!(ran.exits(1).text(), "try 3\n");
}

#[test]
fn a_job_may_open_its_own_stderr_again() {
    let ran = run("").sh("echo 1 >&2; echo 2 | tee /dev/stderr; echo 3 >&2").items(&["a"]).ran();
    assert_eq!((ran.exits(0).text(), &*ran.stderr), ("2\n", "1\n2\n3\n"));
}

#[test]
fn tags() {
    let ran = run("-k --tag").sh("echo 1; printf 2; echo e >&2").items(&["x y", "z"]).ran();
    assert_eq!(ran.exits(0).text(), "x y\t1\nx y\t2\nz\t1\nz\t2\n");
    assert_eq!(ran.stderr, "x y\te\nz\te\n");
}

#[test]
fn a_directory_of_results() {
    let dir = Dir::new("results");
    let results = dir.path().join("deep/er");
    let ran = run("-k --results").arg(&results).sh("echo o $1; echo e >&2; exit $1").items(&["0", "3"]).ran();
    assert_eq!(ran.exits(1).text(), "o 0\no 3\n");
    for (file, content) in [
        ("1/stdout", "o 0\n"),
        ("1/stderr", "e\n"),
        ("1/exit", "0\n"),
        ("2/stdout", "o 3\n"),
        ("2/exit", "3\n"),
    ] {
        assert_eq!(std::fs::read_to_string(results.join(file)).unwrap(), content, "{file}");
    }
    let killed = run("--results").arg(&results).sh("kill -9 $$").items(&["a"]).ran();
    killed.exits(1);
    assert_eq!(std::fs::read_to_string(results.join("1/exit")).unwrap(), "signal 9\n");
    let file = dir.file("file", "");
    run("--results")
        .arg(file.join("x"))
        .args(["--", "true"])
        .ran()
        .exits(2)
        .says("cannot make the directory");
}

#[test]
fn results_are_kept_even_if_stdout_goes_nowhere() {
    let dir = Dir::new("nowhere");
    let mut command = run("--results");
    command.arg(dir.path()).sh("echo o; echo e >&2").items(&["a"]);
    command
        .stdout(File::create("/dev/null").unwrap())
        .stderr(File::create("/dev/null").unwrap())
        .ran()
        .exits(0);
    assert_eq!((dir.read("1/stdout"), dir.read("1/stderr")), ("o\n".into(), "e\n".into()));
}

#[test]
fn json() {
    let ran = run("--json --retries 1 --backoff 1ms")
        .sh("echo \"q\\\"$1\"; echo e >&2; exit $1")
        .items(&["0", "7"])
        .ran();
    let objects = ran.exits(1).objects();
    let (a, b) = (&objects[0], &objects[1]);
    assert_eq!((&a["item"], &a["status"], &a["exit_code"]), (&"0".into(), &"done".into(), &0.into()));
    assert_eq!((&a["stdout"], &a["stderr"]), (&"q\"0\n".into(), &"e\n".into()));
    assert_eq!((&b["status"], &b["exit_code"], &b["attempts"]), (&"dead".into(), &7.into(), &2.into()));
    assert!(a["key"].as_str().is_some_and(|key| !key.is_empty()));
    assert!(a["run_ms"].as_f64().is_some_and(|ms| ms > 0.0));
    assert!(a.get("signal").is_none() && a.get("error").is_none() && a.get("stdout_base64").is_none());
}

#[test]
fn json_of_bytes_that_are_no_text() {
    let ran = run("--json -- printf \\377a").fed(b"\xff\n");
    let object = &ran.exits(0).objects()[0];
    assert_eq!((&object["item"], &object["item_base64"]), (&"\u{fffd}".into(), &"/w==".into()));
    assert_eq!((&object["stdout"], &object["stdout_base64"]), (&"\u{fffd}a".into(), &"/2E=".into()));
}

#[test]
fn json_of_a_spilled_output() {
    let ran = run("--json").sh(MUCH).items(&["a"]).ran();
    let object = &ran.exits(0).objects()[0];
    assert_eq!(object["stdout"].as_str().unwrap().lines().count(), 2000);
}

#[test]
fn output_that_cannot_be_kept_is_an_error_of_the_disk() {
    let ran = run("").sh(MUCH).items(&["a"]).env("TMPDIR", "/no/such/directory").ran();
    ran.exits(6).says("/no/such/directory");
}

#[test]
fn a_closed_stdout_ends_the_run() {
    let mut child = run("-j 2 -- echo").stdin(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let stdin = child.stdin.take().unwrap();
    let ran = {
        // `yes` has more items than anybody wants.
        let mut yes = std::process::Command::new("yes").stdout(stdin).spawn().unwrap();
        let ran = support::collect(child);
        yes.wait().unwrap();
        ran
    };
    ran.exits(4).says("stdout was closed");
}

#[test]
fn what_a_job_leaves_behind_does_not_hold_the_run_up() {
    let ran = run("").sh("echo early; sleep 1000 & echo $!").items(&["a"]).ran();
    let pid = ran.exits(0).text().lines().nth(1).unwrap();
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

#[test]
fn a_filter_that_outlives_its_job_is_heard() {
    let dir = Dir::new("filter");
    let fifo = dir.fifo("fifo");
    let script = format!("{{ read x; echo late; }} < {0} & exec 3> {0}; echo x >&3", fifo.display());
    assert_eq!(run("").sh(&script).items(&["a"]).ran().exits(0).text(), "late\n");
}

#[test]
fn stdout_may_be_dev_null() {
    let ran = run("").sh("echo x; echo e >&2").items(&["a"]).stdout(Stdio::null()).ran();
    assert_eq!((ran.exits(0).text(), &*ran.stderr), ("", "e\n"));
}

#[test]
fn nothing_is_said_when_all_is_well() {
    assert_eq!(run("-- true ::: a b").ran().exits(0).stderr, "");
    run("-j 1 -- false ::: a b").ran().exits(1).says("0 done, 2 failed; the first: `a`: exit 1");
}

#[test]
fn progress_in_a_pipe_is_lines_when_asked_for() {
    let ran = run("--progress always -- true ::: a b").ran();
    assert!(ran.exits(0).stderr.contains("2/2 finished"), "{}", ran.stderr);
    assert!(!ran.stderr.contains('\x1b'));
    for never in ["auto", "never"] {
        assert_eq!(run(&format!("--progress {never} -- true ::: a")).ran().exits(0).stderr, "");
    }
}

#[test]
fn output_comes_as_jobs_end() {
    let mut command = run("-j 1");
    let mut child = command.sh("echo $1").stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    std::io::Write::write_all(&mut stdin, b"a\n").unwrap();
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "a\n");
    drop(stdin);
    stdout.read_to_string(&mut line).unwrap();
    support::collect(child).exits(0);
}
