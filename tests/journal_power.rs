//! What a loss of power leaves (promise 6): the write-ahead log up to some point behind its last sync. A run is
//! recorded, its log cut at every such point, and each state recovered: it is consistent, it has every result that had
//! been handed out by then, and resuming it completes.
//!
//! The log's frames are read here by their documented layout: a header of 32 bytes, then frames of 24 bytes and a page
//! each; a frame whose second word is not zero ends a commit. Nothing is checkpointed meanwhile, so the file only grows.
//!
//! That a sync comes before a result is handed out under `PowerLoss` is seen from outside, by `strace`; where that is
//! not installed the test says so. `BATCHYARD_NIGHTLY=1` takes every point, otherwise it takes some of them.

#![cfg(feature = "sqlite")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::{BatchStatus, Context, Durability, Engine, Failure, Retry, millis, secs};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use support::dir::Dir;
use support::process::{Other, Rng, Witness, nightly, seed, told};
use support::within;

const ITEMS: u64 = 240;

fn work(n: &u64, ctx: &Context) -> Result<u64, Failure> {
    if n % 10 == 3 && ctx.attempt() == 1 {
        return Err(Failure::retry("the first time"));
    }
    if n % 10 == 5 {
        return ctx.step("made", || Ok(n * 7));
    }
    Ok(n * 7)
}

fn retry() -> Retry {
    Retry::exponential(millis(1)..millis(2)).attempts(3).no_budget()
}

/// Runs all items, says of each result when it was handed out, and ends without closing anything.
#[test]
#[ignore = "the other process of these tests"]
fn the_recorded_program() {
    let (Some(dir), Some(durability)) = (told("DIR"), told("DURABILITY")) else { return };
    let (dir, durability) = (Path::new(&dir), durability.parse::<Durability>().unwrap());
    let witness = Witness::open(&dir.join("witness"));
    let engine =
        Engine::builder().workers(2).journal(dir.join("a.db")).durability(durability).open().unwrap();
    let batch = engine.batch("b").retry(retry()).submit(0..ITEMS, work).unwrap();
    let log = dir.join("a.db-wal");
    for item in batch.results() {
        let length = fs::metadata(&log).unwrap().len();
        witness.say(&format!("R {} {length}", item.unwrap().seq));
    }
    std::process::exit(0);
}

/// Where the log's frames end, and which of them end a commit.
fn frames(log: &[u8]) -> Vec<(usize, bool)> {
    let word = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    assert!(matches!(word(0), 0x377f_0682 | 0x377f_0683), "it is a write-ahead log");
    let frame = 24 + word(8) as usize;
    let salt = &log[16..24];
    (32..log.len() + 1 - frame)
        .step_by(frame)
        .take_while(|at| &log[at + 8..at + 16] == salt)
        .map(|at| (at + frame, word(at + 4) != 0))
        .collect()
}

/// The state that a log cut there leaves: which results are in it. It is recovered and brought to its end.
fn recovered(dir: &Path, to: usize, log: &[u8]) -> Vec<u64> {
    let here = dir.join("here");
    let _ = fs::remove_dir_all(&here);
    fs::create_dir_all(&here).unwrap();
    let path = here.join("a.db");
    fs::copy(dir.join("a.db"), &path).unwrap();
    // No notes of what was in hand: with the power the page cache is gone.
    fs::write(here.join("a.db-wal"), &log[..to]).unwrap();
    let engine =
        Engine::builder().workers(2).journal(&path).open().unwrap_or_else(|why| panic!("cut at {to}: {why}"));
    let db = rusqlite::Connection::open(&path).unwrap();
    db.busy_timeout(secs(5)).unwrap();
    let mut select = db.prepare("SELECT item & 1099511627775 FROM result").unwrap();
    let there =
        select.query_map([], |row| row.get::<_, i64>(0)).unwrap().map(|seq| seq.unwrap() as u64).collect();
    let batch = engine.batch("b").retry(retry()).submit(0..ITEMS, work).unwrap();
    let report = batch.wait().unwrap();
    assert_eq!((report.status, report.completed_items), (BatchStatus::Completed, ITEMS), "cut at {to}");
    for item in batch.results() {
        let item = item.unwrap();
        assert_eq!(item.outcome.unwrap(), item.seq * 7, "cut at {to}");
    }
    engine.shutdown(secs(10)).unwrap();
    there
}

/// Promise 6, and 2 within it.
#[test]
fn every_state_that_a_crash_may_leave_is_sound() {
    let mut rng = Rng(seed("every_state_that_a_crash_may_leave_is_sound"));
    for durability in ["process-crash", "power-loss"] {
        let dir = Dir::new(&format!("power-{durability}"));
        let tell = [("DIR", dir.path().display().to_string()), ("DURABILITY", durability.to_owned())];
        assert!(Other::start("the_recorded_program", &tell).wait().success());
        let log = fs::read(dir.file("a.db-wal")).unwrap();
        let seen: Vec<(u64, usize)> = Witness::read(&dir.file("witness"))
            .iter()
            .map(|line| (line[1].parse().unwrap(), line[2].parse().unwrap()))
            .collect();
        assert_eq!(seen.len() as u64, ITEMS);
        let frames = frames(&log);
        let commits: Vec<usize> = frames.iter().filter(|frame| frame.1).map(|frame| frame.0).collect();
        assert!(commits.len() > 5, "{} commits", commits.len());
        let mut cuts: Vec<usize> = commits.clone();
        cuts.extend(frames.iter().map(|frame| frame.0));
        cuts.extend(frames.iter().map(|frame| frame.0 - 1 - rng.below(4_000) as usize));
        cuts.push(32);
        if !nightly() {
            rng.shuffle(&mut cuts);
            cuts.truncate(16);
            cuts.extend(commits.iter().rev().step_by(commits.len() / 8 + 1));
        }
        cuts.sort_unstable();
        cuts.dedup();
        let mut before = (0, Vec::new());
        for cut in cuts {
            let (place, bytes) = (dir.path().to_owned(), log.clone());
            let there = within(move || recovered(&place, cut, &bytes));
            // A cut within a commit is the state before it.
            let state = commits.iter().copied().take_while(|commit| *commit <= cut).last().unwrap_or(0);
            if state == before.0 {
                assert!(before.1.is_empty() || there == before.1, "two cuts behind one commit differ: {cut}");
            }
            for (seq, length) in &seen {
                assert!(
                    *length > cut || there.contains(seq),
                    "{seq} was handed out before {length}, cut at {cut}"
                );
            }
            for seq in &before.1 {
                assert!(there.contains(seq), "{seq} was in an earlier state, and is not in that of {cut}");
            }
            before = (state, there);
        }
    }
}

/// Promise 6: under `PowerLoss` what is handed out has been synced.
#[test]
fn a_sync_comes_before_what_is_handed_out() {
    let dir = Dir::new("power-sync");
    let trace = dir.file("trace");
    let mut command = Command::new("strace");
    command.args([
        "-f",
        "-y",
        "-qq",
        "-s",
        "60",
        "-e",
        "trace=pwrite64,fdatasync,fsync,write",
        "-e",
        "signal=none",
    ]);
    command.arg("-o").arg(&trace).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "the_recorded_program", "--ignored", "--nocapture", "--test-threads", "1"]);
    command.env("BATCHYARD_CHILD_DIR", dir.path()).env("BATCHYARD_CHILD_DURABILITY", "power-loss");
    match command.stdout(Stdio::null()).stderr(Stdio::piped()).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            return println!("skipped: nothing can be traced: {}", String::from_utf8_lossy(&output.stderr));
        }
        Err(error) => return println!("skipped: there is no `strace`: {error}"),
    }
    let log = fs::read(dir.file("a.db-wal")).unwrap();
    let (mut written, mut synced, mut syncs) = (0, 0, 0);
    // What is on the disk for sure at the moment when each result was handed out.
    let mut safe: BTreeMap<u64, usize> = BTreeMap::new();
    for line in fs::read_to_string(&trace).unwrap().lines() {
        if line.contains("pwrite64(") && line.contains("a.db-wal>") {
            // pwrite64(7</…/a.db-wal>, "…", 4096, 56) = 4096; the length and the place are the last two before `)`.
            let call = line
                .strip_suffix(" <unfinished ...>")
                .or_else(|| line.rsplit_once(") = ").map(|(call, _)| call));
            let numbers: Vec<usize> = call
                .unwrap_or_else(|| panic!("{line}"))
                .rsplit(", ")
                .take(2)
                .map(|number| number.trim_end().parse().unwrap_or_else(|_| panic!("{line}")))
                .collect();
            written = written.max(numbers[0] + numbers[1]);
        } else if (line.contains("fdatasync(") || line.contains("fsync(")) && line.contains("a.db-wal>") {
            // Not finished is as good as not begun, until it is resumed: by the same thread, the only one that syncs.
            if !line.contains("unfinished") {
                (synced, syncs) = (written, syncs + 1);
            }
        } else if line.contains("sync resumed>") {
            (synced, syncs) = (written, syncs + 1);
        } else if line.contains("witness>, \"\\nR ") {
            let seq = line
                .split("\"\\nR ")
                .nth(1)
                .and_then(|rest| rest.split(' ').next())
                .unwrap()
                .parse()
                .unwrap();
            safe.entry(seq).or_insert(synced);
        }
    }
    assert_eq!(safe.len() as u64, ITEMS);
    assert!(syncs > 5, "{syncs} syncs");
    let commits: Vec<usize> = frames(&log).iter().filter(|frame| frame.1).map(|frame| frame.0).collect();
    let mut states: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for (seq, safe) in &safe {
        let state = commits.iter().copied().take_while(|commit| commit <= safe).last().unwrap_or(32);
        let there = states.entry(state).or_insert_with(|| recovered(dir.path(), state, &log));
        assert!(
            there.contains(seq),
            "{seq} was handed out when the log was synced up to {safe}, and is not there"
        );
    }
}
