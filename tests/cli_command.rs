//! The command of a job: placeholders, the shell, the environment, mistakes.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones
#![cfg(feature = "cli")]

#[path = "support/cli.rs"]
mod support;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use support::{CommandExt, Dir, run};

#[test]
fn placeholders() {
    let ran = run("-k -- printf %s| {} {.} {/} {//} {/.} {#} x{}y ::: d/e.tar.gz").ran();
    assert_eq!(ran.exits(0).text(), "d/e.tar.gz|d/e.tar|e.tar.gz|d|e.tar|1|xd/e.tar.gzy|");
    let ran = run("-k -I @ -- echo @ {} x@y {#} ::: a b").ran();
    assert_eq!(ran.exits(0).text(), "a {} xay 1\nb {} xby 2\n");
}

#[test]
fn slots_are_as_many_as_jobs() {
    let ran = run("-j 3 -- echo {%}").items(&["a"; 30]).ran();
    assert!(ran.exits(0).sorted().iter().all(|slot| ["1", "2", "3"].contains(slot)), "{ran:?}");
    assert_eq!(run("-j 1 -- echo {%}").items(&["a"; 3]).ran().exits(0).sorted(), ["1", "1", "1"]);
}

#[test]
fn in_a_shell_an_item_stays_data() {
    for script in ["echo {}", "echo '{}'", "echo \"{}\"", "x={}; echo \"$x\"", "echo \"$(printf %s {})\""] {
        for item in
            ["a  b", "; echo hacked", "$(echo hacked)", "'; echo hacked; '", "\"`echo hacked`", "it's"]
        {
            let ran = run("--shell --").arg(script).items(&[item]).ran();
            assert_eq!(ran.exits(0).text(), format!("{item}\n"), "{script}");
        }
    }
    assert_eq!(run("--shell -- echo {} | wc -c").items(&["abc"]).ran().exits(0).text().trim(), "4");
    assert_eq!(run("--shell -- echo").items(&["a  b"]).ran().exits(0).text(), "a  b\n");
}

#[test]
fn without_shell_there_is_none() {
    assert_eq!(run("-- echo $HOME ; {} ::: a").ran().exits(0).text(), "$HOME ; a\n");
}

#[test]
fn a_dry_run_prints_what_a_shell_would_run() {
    let dir = Dir::new("dry");
    let witness = dir.path().join("witness");
    let ran = run("--dry-run -- touch").arg(&witness).items(&["a b", "it's"]).ran();
    let name = witness.display();
    assert_eq!(ran.exits(0).text(), format!("touch {name} 'a b'\ntouch {name} 'it'\\''s'\n"));
    assert!(!witness.exists());
    let ran = run("--dry-run --shell -- echo {}").items(&["a b"]).ran();
    assert_eq!(ran.exits(0).text(), "sh -c 'echo \"${1}\"' sh 'a b'\n");
}

#[test]
fn the_environment_of_a_job() {
    let script =
        "echo $BATCHYARD_ATTEMPT ${#BATCHYARD_KEY} ${#BATCHYARD_IDEMPOTENCY_KEY} $BATCHYARD_DEADLINE_MS";
    let ran = run("").sh(script).items(&["a"]).ran();
    let words: Vec<_> = ran.exits(0).text().split_whitespace().collect();
    assert_eq!(words[0], "1");
    assert!(words[1].parse::<u32>().unwrap() > 0 && words[2].parse::<u32>().unwrap() > 0);
    assert_eq!(words.len(), 3, "no deadline: {words:?}");
    let ran = run("--timeout 1h").sh("echo $BATCHYARD_DEADLINE_MS $(date +%s)").items(&["a"]).ran();
    let words: Vec<u64> = ran.exits(0).text().split_whitespace().map(|w| w.parse().unwrap()).collect();
    assert!((words[0] / 1000).abs_diff(words[1] + 3600) < 60, "{words:?}");
}

#[test]
fn equal_items_have_different_keys() {
    let ran = run("").sh("echo $BATCHYARD_KEY").items(&["a", "a", "b"]).ran();
    let mut keys = ran.exits(0).sorted();
    keys.dedup();
    assert_eq!(keys.len(), 3);
}

#[test]
fn a_child_gets_default_signals() {
    // Rust ignores SIGPIPE; an ignored signal would survive exec.
    let ran = run("--json").sh("kill -PIPE $$; echo survived").items(&["a"]).ran();
    assert_eq!(ran.exits(1).objects()[0]["signal"], 13);
    let ran = run("").sh("yes | head -n 1").items(&["a"]).ran();
    assert_eq!((ran.exits(0).text(), &*ran.stderr), ("y\n", ""));
}

#[test]
fn a_missing_program_is_one_error() {
    let dir = Dir::new("program");
    let plain = dir.file("plain", "");
    run("-- no-such-program-anywhere").items(&["a", "b"]).ran().exits(2).says("no-such-program-anywhere");
    run("-- /no/such/program").items(&["a", "b"]).ran().exits(2).says("no such command: `/no/such/program`");
    run("--").arg(&plain).items(&["a"]).ran().exits(2).says("not an executable file");
}

#[test]
fn a_program_that_is_an_item() {
    let dir = Dir::new("itemprog");
    let good = dir.file("good", "#!/bin/sh\necho ran\n");
    std::fs::set_permissions(&good, std::fs::Permissions::from_mode(0o755)).unwrap();
    let ran = run("--retries 2 --json -- {}").items(&[good.to_str().unwrap(), "/no/such"]).ran();
    let objects = ran.exits(1).objects();
    assert_eq!(objects[0]["stdout"], "ran\n");
    assert_eq!((objects[1]["status"].as_str(), objects[1]["attempts"].as_u64()), (Some("dead"), Some(1)));
    assert_eq!(objects[1]["error"], "no such command");
}

#[test]
fn a_script_without_a_first_line_is_one_for_sh() {
    let dir = Dir::new("noexec");
    let script = dir.file("script", "echo \"ran $1 $BATCHYARD_ATTEMPT\"\n");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(run("--").arg(&script).items(&["a b"]).ran().exits(0).text(), "ran a b 1\n");
}

#[test]
fn argv0_is_what_the_user_wrote() {
    assert_eq!(run("-- sh -c").args(["echo $0"]).items(&["a"]).ran().exits(0).text(), "a\n");
    let ran = run("-- cat /proc/self/cmdline ::: /dev/null").ran();
    assert_eq!(ran.exits(0).text(), "cat\0/proc/self/cmdline\0/dev/null\0");
}

#[test]
fn mistakes_exit_with_2_and_name_what_is_wrong() {
    for (options, named) in [
        ("-j x -- true", "'x'"),
        ("-j -1 -- true", "-1"),
        ("--rate fast -- true", "'fast'"),
        ("--rate 0/s -- true", "'0/s'"),
        ("--rate 2/s,burst=0 -- true", "2/s,burst=0"),
        ("--delay never -- true", "'never'"),
        ("--timeout 0 -- true", "'0'"),
        ("--retries many -- true", "'many'"),
        ("--backoff 2s..1s -- true", "'2s..1s'"),
        ("--halt later -- true", "'later'"),
        ("--fatal-exit 300 -- true", "'300'"),
        ("-d ab -- true", "'ab'"),
        ("-0 -d , -- true", "--null"),
        ("--tag --json -- true", "--json"),
        ("--progress maybe -- true", "'maybe'"),
        ("--nonsense -- true", "--nonsense"),
        ("true", "'true'"),
        ("--", "CMD"),
        ("-- ::: a", ":::"),
        ("-- true ::: a ::: b", ":::"),
        ("-a x -- true ::: a", "-a"),
    ] {
        let ran = run(options).ran();
        ran.exits(2);
        assert!(ran.stderr.contains(named), "{options}: {}", ran.stderr);
        assert!(ran.stdout.is_empty());
    }
}

#[test]
fn help_goes_to_stdout() {
    let ran = run("--help").ran();
    for word in ["--halt", "--results", "BATCHYARD_KEY", "Exit codes", "{//}"] {
        assert!(ran.exits(0).text().contains(word), "{word}");
    }
}

#[test]
fn a_mistake_in_the_options_is_one_line() {
    for (options, word) in [
        ("--rate 0/s -- true", "--rate"),
        ("--rate -1/s -- true", "not a rate"),
        ("--rate 2/s,burst=0 -- true", "burst"),
        ("--delay 0s -- true", "--delay"),
        ("--delay 1000000d -- true", "--delay"),
        ("-j 1025 -- true", "1024 jobs"),
        ("-j 1000000000000 -- true", "--jobs"),
        ("-j -1 -- true", "--jobs"),
        ("--halt now,fail=0 -- true", "fail=0"),
        ("-0 -d , -- true", "--null"),
        ("--progress sometimes -- true", "auto, always, never"),
        ("--no-such-option -- true", "--no-such-option"),
        ("", "<CMD>"),
    ] {
        run(options).ran().exits(2).says(word);
    }
}

#[test]
fn as_many_jobs_as_the_engine_has_workers() {
    assert_eq!(run("-j 1024 -- echo").items(&["a"]).ran().exits(0).text(), "a\n");
}

/// `batchyard run OPTIONS` under this limit of open files.
fn limited(limit: &str, options: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit {limit}; exec \"$0\" run {options}")]);
    command.arg(env!("CARGO_BIN_EXE_batchyard"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn there_is_room_for_the_files_of_all_jobs() {
    let ran = limited("-Sn 64", "-j 100 -- sh -c 'ulimit -n' sh ::: a").ran();
    assert!(ran.exits(0).text().trim().parse::<u32>().unwrap() >= 100 * 5, "{ran:?}");
    limited("-n 64", "-j 100 -- true ::: a").ran().exits(2).says("open files");
    limited("-n 64", "-j 2 -- true ::: a").ran().exits(0);
}
