//! Where items come from, and that they arrive as they are.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones
#![cfg(feature = "cli")]

#[path = "support/cli.rs"]
mod support;

use std::io::{BufRead, Write};
use std::process::Stdio;
use support::{CommandExt, Dir, Live, bytes, run};

#[test]
fn from_arguments_stdin_and_file() {
    let dir = Dir::new("sources");
    let file = dir.file("items", "a\nb\n");
    assert_eq!(run("-- echo").items(&["a", "b"]).ran().exits(0).sorted(), ["a", "b"]);
    assert_eq!(run("-- echo").fed("a\nb").exits(0).sorted(), ["a", "b"]);
    assert_eq!(run("-a").arg(&file).args(["--", "echo"]).ran().exits(0).sorted(), ["a", "b"]);
    assert_eq!(run("-a - -- echo").fed("a\nb\n").exits(0).sorted(), ["a", "b"]);
}

#[test]
fn an_item_is_one_argument_whatever_is_in_it() {
    for item in ["a  b", "  lead", "it's", "\"q\"", "$HOME `id` ; # &", "-n", "{}", "{#}", "*", "\\", "é"] {
        assert_eq!(run("-- printf %s").fed(format!("{item}\n")).exits(0).text(), item);
    }
}

#[test]
fn bytes_that_are_no_text() {
    let item = b"\xff\xfe \x80";
    assert_eq!(run("-- printf %s").fed(item).exits(0).stdout, item);
    assert_eq!(run("-- printf %s :::").arg(bytes(item)).ran().exits(0).stdout, item);
}

#[test]
fn blank_lines_are_skipped_and_separated_items_are_not() {
    assert_eq!(run("-k -- echo").fed("a\n\n \t\n  b \n").exits(0).text(), "a\n  b \n");
    assert_eq!(run("-k -0 -- printf [%s]").fed("a\0\0 b\nc\0").exits(0).text(), "[a][][ b\nc]");
    assert_eq!(run("-k -d , -- printf [%s]").fed("a,,b\n").exits(0).text(), "[a][][b\n]");
    assert_eq!(run("-k -d \\t -- printf [%s]").fed("a\tb").exits(0).text(), "[a][b]");
}

#[test]
fn no_items_no_jobs() {
    for input in ["", "\n\n"] {
        let ran = run("-- echo ran").fed(input);
        assert_eq!((ran.exits(0).text(), &*ran.stderr), ("", ""));
    }
    assert_eq!(run("-- echo ran :::").ran().exits(0).text(), "");
}

#[test]
fn a_file_that_cannot_be_read() {
    let dir = Dir::new("unreadable");
    run("-a /nonexistent/items -- true").ran().exits(2).says("/nonexistent/items");
    run("-a").arg("two\nlines").args(["--", "true"]).ran().exits(2).says("two\\nlines");
    run("-a").arg(dir.path()).args(["--", "true"]).ran().exits(2).says("directory");
}

#[test]
fn a_line_of_ten_megabytes_fails_alone() {
    let mut input = b"first\n".to_vec();
    input.resize(10_000_000, b'x');
    input.extend_from_slice(b"\nlast\n");
    let ran = run("--retries 3 -- sh -c").arg("echo ${#1}").arg("sh").fed(input);
    assert_eq!(ran.exits(1).sorted(), ["4", "5"]);
    let errors: Vec<_> = ran.stderr.lines().filter(|line| line.contains("item 2 `xxx")).collect();
    assert_eq!(errors.len(), 1, "{}", ran.stderr);
    assert!(errors[0].contains("too long for a command line") && errors[0].len() < 200);
}

#[test]
fn a_nul_byte_fails_its_item_alone() {
    let ran = run("-d , -- echo").fed("a,b\0c,d");
    assert_eq!(ran.exits(1).sorted(), ["a", "d"]);
    assert!(ran.stderr.contains("NUL"), "{}", ran.stderr);
}

#[test]
fn a_job_starts_while_the_input_is_still_open() {
    let mut live = Live::new(run("-j 2 -- echo got").stdin(Stdio::piped()));
    let mut stdin = live.child.stdin.take().unwrap();
    for item in ["one", "two"] {
        stdin.write_all(format!("{item}\n").as_bytes()).unwrap();
        let mut line = String::new();
        live.stdout.read_line(&mut line).unwrap();
        assert_eq!(line, format!("got {item}\n"));
    }
    drop(stdin);
    live.end().exits(0);
}

#[test]
fn jobs_do_not_eat_the_items() {
    let ran = run("-j 1 -k").sh("cat; echo $1").fed("a\nb\nc\n");
    assert_eq!(ran.exits(0).text(), "a\nb\nc\n");
}

#[test]
fn more_items_than_any_window() {
    let input: String = (0..3000).map(|n| format!("{n}\n")).collect();
    let ran = run("-j 4 -k -- printf %s\\n").fed(&input);
    assert!(ran.exits(0).text() == input, "not in order");
}
