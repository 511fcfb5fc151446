//! A journal that cannot be written, as the user of the program sees it (promise 20).
//!
//! The full disk is a small file system in memory, mounted for the test, and a file that may not be written while it is in
//! use is one with the attribute "immutable": where the one or the other cannot be had, the test says so and does nothing.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones
#![cfg(feature = "cli")]

#[path = "support/cli.rs"]
mod cli;
mod support;

use cli::{CommandExt, Dir, Live, kept, of};
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::disk::Disk;
use support::until;

/// Three jobs, one at a time; the second one says when it has begun, waits for a word, and leaves `bytes`. What runs is
/// noted beside the disk.
struct Play {
    /// Gone before the directory that it is mounted in.
    disk: Option<Disk>,
    dir: Dir,
    journal: PathBuf,
    up: PathBuf,
    down: PathBuf,
    script: String,
}

impl Play {
    fn new(dir: Dir, disk: Option<Disk>, bytes: usize) -> Play {
        let journal = disk.as_ref().map_or_else(|| dir.path().join("a.db"), |disk| disk.file("a.db"));
        let (up, down) = (dir.fifo("up"), dir.fifo("down"));
        let script = format!(
            "echo $1 >> {witness}; [ $1 = b ] || {{ echo $1; exit; }}
             [ -e {again} ] || {{ echo up > {up}; read x < {down}; }}
             yes b | head -c {bytes}",
            witness = dir.path().join("witness").display(),
            again = dir.path().join("again").display(),
            up = up.display(),
            down = down.display(),
        );
        Play { disk, dir, journal, up, down, script }
    }

    fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("it was made with one")
    }

    fn line(&self, options: &str) -> Command {
        let mut command = kept(&self.journal, options);
        command.args(["-j", "1"]).sh(&self.script).items(&["a", "b", "c"]);
        command
    }

    /// The first job is done and printed, and the journal knows that; the second one is at work.
    fn start(&self, options: &str) -> Live {
        let mut live = Live::new(&mut self.line(options));
        let mut line = String::new();
        live.stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "a\n");
        assert_eq!(std::fs::read_to_string(&self.up).unwrap(), "up\n");
        until("the mark of what was printed is there", || {
            let db = rusqlite::Connection::open(&self.journal).unwrap();
            let mark = db.query_row("SELECT at FROM mark WHERE reader = 'printed'", [], |row| row.get(0));
            mark == Ok(1)
        });
        live
    }

    fn go_on(&self) {
        std::fs::write(&self.down, "go\n").unwrap();
    }

    fn runs(&self, item: &str) -> usize {
        self.dir.read("witness").lines().filter(|line| *line == item).count()
    }

    /// The same line again ends, prints what had not been printed, and runs nothing that was.
    fn the_same_line_goes_on(&self, bytes: usize) {
        std::fs::write(self.dir.path().join("again"), "").unwrap();
        let ran = self.line("-k").ran();
        assert_eq!(ran.exits(0).text(), "b\n".repeat(bytes / 2) + "c\n");
        assert_eq!(self.runs("a"), 1);
        assert!(self.runs("b") <= 2 && self.runs("c") <= 2);
    }
}

#[test]
fn a_disk_that_stays_full_ends_the_run() {
    for bytes in [2_000, 40_000] {
        let dir = Dir::new(&format!("disk-stays-full-{bytes}"));
        let Some(disk) = Disk::mount(dir.path().join("disk"), 16 << 20) else { return };
        let play = Play::new(dir, Some(disk), bytes);
        let mut live = play.start("--disk-wait 300ms");
        play.disk().fill();
        play.go_on();
        live.says("a.db: the disk is full; no job starts until that is over");
        let ran = live.end();
        assert_eq!(ran.exits(6).text(), "");
        ran.says("a.db: the disk is full");
        // Of what is there everything can be read.
        assert_eq!(of(&play.journal, "results").ran().exits(0).text(), "a\n");
        play.disk().make_room();
        play.the_same_line_goes_on(bytes);
    }
}

#[test]
fn a_disk_that_has_room_again_is_waited_for() {
    for bytes in [2_000, 40_000] {
        let dir = Dir::new(&format!("disk-has-room-{bytes}"));
        let Some(disk) = Disk::mount(dir.path().join("disk"), 16 << 20) else { return };
        let play = Play::new(dir, Some(disk), bytes);
        let mut live = play.start("--disk-wait 1h");
        play.disk().fill();
        play.go_on();
        live.says("a.db: the disk is full; no job starts until that is over");
        play.disk().make_room();
        live.says("the journal can be written again");
        let ran = live.end();
        assert_eq!(ran.exits(0).text(), "b\n".repeat(bytes / 2) + "c\n");
        assert_eq!(ran.stderr, "");
        assert_eq!(play.dir.read("witness"), "a\nb\nc\n");
    }
}

const REFUSED: &str = "a.db cannot be written: disk I/O error: Operation not permitted (os error 1); no job starts until that is over";

/// A journal that must not be written until this is dropped.
struct Immutable<'a>(&'a Path);

impl Immutable<'_> {
    /// `None`: that cannot be done here, which is said.
    fn new(journal: &Path) -> Option<Immutable<'_>> {
        let probe = journal.with_extension("probe");
        let mut file = std::fs::File::create(&probe).unwrap();
        let changed = attribute("+i", &[&probe]);
        // Some file systems look at it only when a file is opened.
        let refused = changed && file.write_all(b"x").is_err();
        attribute("-i", &[&probe]);
        if !refused {
            println!("skipped: no file can be made immutable under its writer here");
            return None;
        }
        let immutable = Immutable(journal);
        assert!(attribute("+i", &immutable.files()));
        Some(immutable)
    }

    fn files(&self) -> [PathBuf; 2] {
        [self.0.to_owned(), self.0.with_extension("db-wal")]
    }
}

impl Drop for Immutable<'_> {
    fn drop(&mut self) {
        attribute("-i", &self.files());
    }
}

fn attribute(which: &str, files: &[impl AsRef<std::ffi::OsStr>]) -> bool {
    let mut command = Command::new("chattr");
    command.arg(which).args(files).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[test]
fn a_file_that_becomes_read_only_is_waited_for() {
    let dir = Dir::new("read-only");
    let play = Play::new(dir, None, 2_000);
    let mut live = play.start("--disk-wait 1h");
    let immutable = Immutable::new(&play.journal);
    play.go_on();
    if immutable.is_some() {
        live.says(REFUSED);
        drop(immutable);
        live.says("the journal can be written again");
    }
    let ran = live.end();
    assert_eq!(ran.exits(0).text(), "b\n".repeat(1_000) + "c\n");
    assert_eq!(play.dir.read("witness"), "a\nb\nc\n");
}

#[test]
fn a_file_that_stays_read_only_ends_the_run() {
    let dir = Dir::new("stays-read-only");
    let play = Play::new(dir, None, 2_000);
    let mut live = play.start("--disk-wait 300ms");
    let Some(immutable) = Immutable::new(&play.journal) else {
        play.go_on();
        live.end().exits(0);
        return;
    };
    play.go_on();
    live.says(REFUSED);
    live.end().exits(6).says("a.db cannot be written: disk I/O error: Operation not permitted");
    drop(immutable);
    play.the_same_line_goes_on(2_000);
}
