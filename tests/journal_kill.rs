//! A program with a journal, killed at random instants and started again: nothing is lost, nothing is repeated after
//! it was seen.
//!
//! The test starts its own program as another process ([`the_killed_program`]), kills it with SIGKILL, and starts it
//! again on the same journal, until it has come to its end. What happens is told by a witness file, to which the
//! program appends a line for each start of an attempt and for each result that it has seen.
//!
//! `BATCHYARD_NIGHTLY=1` makes hundreds of kills of the couple of dozen; `BATCHYARD_SEED` repeats a run.

#![cfg(feature = "sqlite")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::{Batch, Context, Engine, Error, Failure, JournalError, Retry, millis, secs};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use support::dir::Dir;
use support::process::{Rng, Witness, kill_until_it_ends, nightly, seed, told};

/// Items of each of its two batches.
const ITEMS: u64 = 2_500;
const BATCHES: [&str; 2] = ["plain", "mixed"];

#[test]
#[ignore = "the other process of these tests"]
fn the_killed_program() {
    let (Some(dir), Some(round)) = (told("DIR"), told("ROUND")) else { return };
    let dir = Path::new(&dir);
    let mut rng = Rng(round.parse().expect("a number"));
    let witness = Arc::new(Witness::open(&dir.join("witness")));
    let engine = Engine::builder().workers(4).journal(dir.join("a.db")).open().expect("the journal");
    let mut readers = Vec::new();
    for name in BATCHES {
        let batch = start(&engine, name, &witness, &mut rng);
        let witness = Arc::clone(&witness);
        readers.push(std::thread::spawn(move || {
            for item in batch.results() {
                let item = item.expect("a result");
                let said = match &item.outcome {
                    Ok(output) => format!("done {output}"),
                    Err(dead) => format!("dead {:?}", dead.reason()),
                };
                witness.say(&format!("R {name}/{} {said}", item.key));
            }
            batch.wait().expect("a report");
        }));
    }
    readers.into_iter().for_each(|reader| reader.join().expect("a reader"));
    engine.shutdown(secs(20)).expect("an end");
    witness.say("F");
}

/// Half of the time without input, where the journal allows it; otherwise with all of it, in whatever order.
fn start(engine: &Engine, name: &'static str, witness: &Arc<Witness>, rng: &mut Rng) -> Batch<u64, u64> {
    let request = || {
        let retry = Retry::exponential(millis(1)..millis(5)).attempts(4).no_budget();
        engine.batch(name).retry(retry).key(|n: &u64| *n)
    };
    let run = |witness: &Arc<Witness>| {
        let witness = Arc::clone(witness);
        move |n: &u64, ctx: &Context| work(&witness, *n, ctx)
    };
    if rng.below(2) == 0 {
        match request().resume(run(witness)) {
            Ok(batch) => return batch,
            Err(Error::Journal(why))
                if matches!(*why, JournalError::Unsealed { .. } | JournalError::UnknownBatch { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    let mut input: Vec<u64> = (0..ITEMS).collect();
    if rng.below(2) == 0 {
        rng.shuffle(&mut input);
    }
    request().submit(input, run(witness)).expect("a submission")
}

fn work(witness: &Witness, n: u64, ctx: &Context) -> Result<u64, Failure> {
    let key = format!("{}/{n}", ctx.batch());
    witness.say(&format!("S {key} {}", ctx.attempt()));
    if ctx.batch() == "plain" {
        return Ok(n * 10);
    }
    let output = match n % 20 {
        // What a step has made is made once, so a process that makes it makes something of its own.
        0 | 1 => {
            let made = ctx.step("made", || {
                witness.say(&format!("M {key}"));
                Ok(n * 1_000_000 + u64::from(std::process::id()))
            })?;
            witness.say(&format!("K {key} {made}"));
            made
        }
        2 => {
            ctx.sleep(millis(1))?;
            n * 10
        }
        _ => n * 10,
    };
    if n % 7 == 2 && ctx.attempt() == 1 { Err(Failure::retry("the first time")) } else { Ok(output) }
}

/// What the witness must not have seen.
fn check(lines: &[Vec<String>], kills: u32) {
    let mut attempts: HashMap<&str, u32> = HashMap::new();
    let mut results: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    let mut kept: HashMap<&str, &str> = HashMap::new();
    for line in lines {
        let words: Vec<&str> = line.iter().map(String::as_str).collect();
        match words[..] {
            // Promise 2: done is final. Promises 3 and 4: every start has a number of its own, written ahead.
            ["S", key, attempt] => {
                let attempt: u32 = attempt.parse().expect("a number");
                assert!(!results.contains_key(key), "{key} runs after its result was seen");
                let last = attempts.insert(key, attempt).unwrap_or(0);
                assert!(attempt > last, "attempt {attempt} of {key} starts after attempt {last}");
                assert!(
                    attempt <= 2 + kills,
                    "attempt {attempt} of {key}, which fails once, after {kills} kills"
                );
            }
            ["M", key] => assert!(!kept.contains_key(key), "the step of {key} runs after it was kept"),
            // Promise 22: what a step has made stays.
            ["K", key, made] => {
                let before = *kept.entry(key).or_insert(made);
                assert_eq!(before, made, "the step of {key} has another output");
            }
            ["R", key, kind, what] => {
                let before = *results.entry(key).or_insert((kind, what));
                assert_eq!(before, (kind, what), "{key} has another result");
            }
            ["F"] => {}
            _ => panic!("{line:?}"),
        }
    }
    for name in BATCHES {
        for n in 0..ITEMS {
            let key = format!("{name}/{n}");
            match results.get(&*key) {
                Some(("done", output)) => match kept.get(&*key) {
                    Some(made) => assert_eq!(output, made, "{key}"),
                    None => assert_eq!(**output, *(n * 10).to_string(), "{key}"),
                },
                Some(("dead", "Crashed")) => {}
                other => panic!("{key} ended as {other:?}"),
            }
        }
    }
    assert_eq!(results.len() as u64, ITEMS * BATCHES.len() as u64);
}

/// Promises 1 to 4, 17, 18 and 22.
#[test]
fn killed_at_any_moment() {
    let mut rng = Rng(seed("killed_at_any_moment"));
    let wanted = if nightly() { 400 } else { 25 };
    let (mut kills, mut journals) = (0, 0);
    while kills < wanted {
        journals += 1;
        let dir = Dir::new(&format!("kill-{journals}"));
        let here = kill_until_it_ends("the_killed_program", dir.path(), &[], &mut rng, wanted - kills);
        kills += here;
        let lines = Witness::read(&dir.file("witness"));
        assert_eq!(lines.last().map(|line| &*line[0]), Some("F"));
        check(&lines, here);
    }
    println!("{kills} kills, {journals} journals");
}
