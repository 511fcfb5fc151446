//! What the end of a job means: tries, deferrals, timeouts, halts, pace.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones
#![cfg(feature = "cli")]

#[path = "support/cli.rs"]
mod support;

use support::{CommandExt, Dir, lives, run};

fn attempts(options: &str, script: &str) -> (Option<i32>, u64) {
    let ran = run(&format!("--json --backoff 1ms {options}")).sh(script).items(&["a"]).ran();
    (ran.code, ran.objects()[0]["attempts"].as_u64().unwrap())
}

#[test]
fn retries_are_further_tries() {
    assert_eq!(attempts("", "exit 1"), (Some(1), 1));
    assert_eq!(attempts("--retries 2", "exit 1"), (Some(1), 3));
    assert_eq!(attempts("--retries 5", "[ $BATCHYARD_ATTEMPT = 3 ]"), (Some(0), 3));
    assert_eq!(attempts("--retries 2", "kill -9 $$"), (Some(1), 3));
}

#[test]
fn hopeless_codes_are_not_tried_again() {
    for code in [126, 127] {
        assert_eq!(attempts("--retries 3", &format!("exit {code}")), (Some(1), 1));
    }
    assert_eq!(attempts("--retries 3 --fatal-exit 2,64-78", "exit 65"), (Some(1), 1));
    assert_eq!(attempts("--retries 3 --fatal-exit 2,64-78", "exit 3"), (Some(1), 4));
}

#[test]
fn promise_14_a_run_with_dead_items_never_exits_as_done() {
    for (options, script, code) in [
        ("", "[ $1 != b ]", 1),
        ("--retries 2", "[ $1 != b ]", 1),
        ("", "[ $1 != b ] || exit 127", 1),
        ("", "[ $1 != b ] || kill -9 $$", 1),
        ("--timeout 300ms", "[ $1 != b ] || sleep 1000", 1),
        ("-j 1 --halt soon,fail=1", "[ $1 != b ]", 3),
        ("-j 1 --halt now,fail=1", "[ $1 != b ]", 3),
    ] {
        let ran = run(&format!("--json --backoff 1ms {options}")).sh(script).items(&["a", "b"]).ran();
        ran.exits(code);
        let dead: Vec<_> = ran.objects().into_iter().filter(|object| object["status"] == "dead").collect();
        assert_eq!(dead.len(), 1, "{options} {script}");
        assert!(["error", "exit_code", "signal"].iter().any(|why| !dead[0][*why].is_null()), "{:?}", dead[0]);
    }
}

#[test]
fn a_deferred_try_does_not_count() {
    let dir = Dir::new("defer");
    let log = dir.path().join("log");
    let script = |until: u32| {
        format!("echo $BATCHYARD_ATTEMPT >> {0}; [ $(wc -l < {0}) -gt {until} ] || exit 75", log.display())
    };
    assert_eq!(attempts("", &script(3)), (Some(0), 1));
    assert_eq!(dir.read("log"), "1\n1\n1\n1\n");
    std::fs::remove_file(&log).unwrap();
    assert_eq!(attempts("--retries 3", &script(100)), (Some(1), 1));
    assert_eq!(dir.read("log").lines().count(), 21, "the first and 20 more");
}

#[test]
fn fatal_exit_goes_before_a_deferral() {
    let dir = Dir::new("fatal75");
    let script = format!("echo x >> {}; exit 75", dir.path().join("log").display());
    assert_eq!(attempts("--retries 3 --fatal-exit 75", &script), (Some(1), 1));
    assert_eq!(dir.read("log"), "x\n");
}

#[test]
fn a_timeout_ends_the_whole_group() {
    let ran = run("--timeout 300ms --json").sh("sleep 1000 & echo $!; wait").items(&["a"]).ran();
    let object = &ran.exits(1).objects()[0];
    assert_eq!((&object["status"], &object["signal"]), (&"dead".into(), &15.into()));
    assert!(object["error"].as_str().unwrap().starts_with("timed out after"));
    assert!(!lives(object["stdout"].as_str().unwrap()));
    run("--timeout 100ms -- sleep 1000").arg(":::").arg("a").ran().exits(1);
}

#[test]
fn who_ignores_term_is_killed() {
    let script = "trap '' TERM; echo up; while :; do sleep 1000; done";
    let ran = run("--timeout 200ms --kill-after 100ms --json").sh(script).items(&["a"]).ran();
    assert_eq!(ran.exits(1).objects()[0]["signal"], 9);
    // The child that ignores TERM outlives its parent, not the grace.
    let script = "(trap '' TERM; exec sleep 1000) & echo $!; exec sleep 1000";
    let ran = run("--timeout 200ms --kill-after 100ms --json").sh(script).items(&["a"]).ran();
    let object = &ran.exits(1).objects()[0];
    assert_eq!(object["signal"], 15);
    assert!(!lives(object["stdout"].as_str().unwrap()));
}

#[test]
fn a_grandchild_gets_its_grace() {
    let dir = Dir::new("grace");
    let tidy = dir.path().join("tidy");
    // Its parent, the leader of the group, is gone at once.
    let script = format!(
        "(trap 'sleep 0.2 <&- & wait $!; echo tidied > {}; exit' TERM; while :; do sleep 0.01; done) & exec sleep 1000",
        tidy.display()
    );
    run("--timeout 300ms --kill-after 20s").sh(&script).items(&["a"]).ran().exits(1);
    assert_eq!(dir.read("tidy"), "tidied\n");
}

#[test]
fn a_timed_out_try_may_be_tried_again() {
    assert_eq!(
        attempts("--timeout 300ms --retries 1", "[ $BATCHYARD_ATTEMPT = 2 ] || sleep 1000"),
        (Some(0), 2)
    );
}

#[test]
fn the_batch_timeout_halts() {
    let ran = run("-j 1 --batch-timeout 300ms -- sleep").items(&["1000", "1000"]).ran();
    ran.exits(3).says("halted by --batch-timeout: 0 done, 0 failed");
}

#[test]
fn halt_soon_lets_running_jobs_finish() {
    let dir = Dir::new("soon");
    let fifo = dir.fifo("fifo");
    // `slow` ends when it sees that `bad` has; by then the rule has struck or will before the next start.
    let script = format!(
        "case $1 in slow) read x < {0}; echo slow;; bad) echo x > {0}; exit 1;; *) echo $1;; esac",
        fifo.display()
    );
    let ran = run("-j 2 --halt soon,fail=1").sh(&script).items(&["slow", "bad"]).ran();
    assert_eq!(ran.exits(3).text(), "slow\n");
    let ran = run("-j 1 --halt soon,fail=2").sh("echo $1; exit 1").items(&["a", "b", "c"]).ran();
    assert_eq!(ran.exits(3).text(), "a\nb\n");
    assert!(ran.stderr.contains("halted by --halt soon,fail=2"));
}

#[test]
fn halt_now_terminates_running_jobs() {
    let dir = Dir::new("now");
    let fifo = dir.fifo("fifo");
    let script = format!(
        "case $1 in slow) echo x > {0}; exec sleep 1000;; bad) read x < {0}; exit 1;; esac",
        fifo.display()
    );
    let ran = run("-j 2 --halt now,fail=1").sh(&script).items(&["slow", "bad"]).ran();
    ran.exits(3);
    assert!(ran.stderr.contains("halted by --halt now,fail=1"), "{}", ran.stderr);
}

#[test]
fn halt_at_a_share() {
    // A share is looked at from the 20th item on.
    let items: Vec<&str> = (0..100).map(|n| if n % 2 == 0 { "1" } else { "0" }).collect();
    let ran = run("-j 1 --halt soon,fail=10%").sh("exit $1").items(&items).ran();
    ran.exits(3).says("halted by --halt soon,fail=10%: 10 done, 10 failed");
    run("-j 1 --halt soon,fail=60%").sh("exit $1").items(&items).ran().exits(1);
}

/// Milliseconds between the first start and the last.
fn starts(options: &str, jobs: usize) -> u64 {
    let items: Vec<String> = (0..jobs).map(|n| n.to_string()).collect();
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    let ran = run(&format!("-j 4 {options}")).sh("date +%s%3N").items(&items).ran();
    let times: Vec<u64> = ran.exits(0).text().lines().map(|t| t.parse().unwrap()).collect();
    times.iter().max().unwrap() - times.iter().min().unwrap()
}

#[test]
fn pace() {
    // 5 starts at 20/s are 200 ms apart, less the time that the first took to say when it started.
    assert!(starts("--rate 20/s", 5) >= 150);
    assert!(starts("--delay 50ms", 5) >= 150);
    // Both hold.
    assert!(starts("--rate 1000/s --delay 50ms", 5) >= 150);
    assert!(starts("--rate 20/s,burst=3 --delay 1ms", 5) >= 70);
}

#[test]
fn a_burst_does_not_wait() {
    // One a day, but three at once: a fourth would hang.
    let ran = run("-j 3 --rate 1/d,burst=3 -- true").items(&["a", "b", "c"]).ran();
    ran.exits(0);
}
