//! The README's first command, on this package's own files: its output equals a plain loop's.
#![cfg(feature = "cli")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { files_below(&path, found) } else { found.push(path) }
    }
}

#[test]
fn hashes_every_file_as_a_plain_loop_does() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches"] {
        files_below(&root.join(folder), &mut files);
    }
    files.retain(|path| !path.components().any(|part| part.as_os_str() == "target"));
    assert!(files.len() > 50, "{}", files.len());

    let mut plain = Vec::new();
    for file in &files {
        plain.extend(Command::new("sha256sum").arg(file).output().unwrap().stdout);
    }

    let mut child = Command::new(env!("CARGO_BIN_EXE_batchyard"))
        .args(["run", "-0", "-k", "-j", "8", "--", "sha256sum"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut list = Vec::new();
    for file in &files {
        list.extend_from_slice(file.as_os_str().as_encoded_bytes());
        list.push(0);
    }
    let mut stdin = child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || stdin.write_all(&list));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(output.status.success());
    assert!(output.stdout == plain, "{}", String::from_utf8_lossy(&output.stdout));
}
