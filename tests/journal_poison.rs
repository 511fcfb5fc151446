//! Items that take their process down with them (promise 5): they are found by running the suspects one at a time,
//! and end dead, `Crashed`, after three crashes with them alone in hand; their neighbours are cleared.

#![cfg(feature = "sqlite")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::{Batch, Context, DeadReason, Engine, Failure, Retry, millis, secs};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use support::dir::Dir;
use support::process::{Other, Rng, Witness, seed, signal, told};

const ITEMS: u64 = 2_000;

/// Runs one or two batches. The items of `poison` abort the process.
#[test]
#[ignore = "the other process of these tests"]
fn the_poisoned_program() {
    let (Some(dir), Some(poison)) = (told("DIR"), told("POISON")) else { return };
    let dir = Path::new(&dir);
    let poison: Arc<BTreeSet<String>> = Arc::new(poison.split(',').map(str::to_owned).collect());
    let witness = Arc::new(Witness::open(&dir.join("witness")));
    let journal = dir.join("a.db");
    let engine = Engine::builder().workers(3).journal(&journal).open().expect("the journal");
    witness.say("B");
    suspects(&journal, &witness);
    let batches: Vec<Batch<u64, u64>> = told("BATCHES")
        .expect("names")
        .split(',')
        .map(|name| {
            let (witness, poison) = (Arc::clone(&witness), Arc::clone(&poison));
            let run = move |n: &u64, ctx: &Context| work(&witness, &poison, *n, ctx);
            let retry = Retry::exponential(millis(1)..millis(2)).attempts(3).no_budget();
            engine.batch(name).retry(retry).key(|n: &u64| *n).submit(0..ITEMS, run).expect("a submission")
        })
        .collect();
    for batch in &batches {
        batch.wait().expect("a report");
        for item in batch.results() {
            let item = item.expect("a result");
            let how = match &item.outcome {
                Ok(n) => {
                    assert_eq!(*n, item.seq + 1);
                    "done"
                }
                Err(dead) if dead.reason() == DeadReason::Crashed => "crashed",
                Err(dead) => panic!("{dead}"),
            };
            witness.say(&format!("R {}/{} {how}", batch.name(), item.key));
        }
    }
    engine.shutdown(secs(20)).expect("an end");
    witness.say("F");
}

fn work(witness: &Witness, poison: &BTreeSet<String>, n: u64, ctx: &Context) -> Result<u64, Failure> {
    let key = format!("{}/{n}", ctx.batch());
    witness.say(&format!("S {key}"));
    if poison.contains(&key) {
        std::process::abort();
    }
    if ctx.batch() == "a" && n < 60 {
        // The neighbour is still at work when the other one's suspects are found.
        ctx.sleep(millis(20))?;
    } else if n % 100 == 7 {
        ctx.sleep(millis(1))?;
    }
    witness.say(&format!("E {key}"));
    Ok(n + 1)
}

/// What the journal says of suspects, and how often each has crashed alone.
fn suspects(journal: &Path, witness: &Witness) {
    let db = rusqlite::Connection::open(journal).expect("the journal");
    let mut select = db
        .prepare(
            "SELECT b.name || '/' || i.key, r.crashes FROM retry r JOIN item i ON i.id = r.item
             JOIN batch b ON b.id = i.batch WHERE r.suspect = 1",
        )
        .expect("the tables");
    let rows = select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?)));
    for row in rows.expect("the rows") {
        let (key, crashes) = row.expect("a row");
        witness.say(&format!("Q {key} {crashes}"));
    }
}

/// One life of the program, as the witness saw it.
#[derive(Default)]
struct Life {
    /// With the crashes that are counted against them.
    suspects: BTreeMap<String, u32>,
    in_hand: BTreeSet<String>,
    started: Vec<String>,
    results: HashMap<String, String>,
}

fn lives(lines: Vec<Vec<String>>) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.iter().map(String::as_str).collect();
        if words == ["B"] {
            lives.push(Life::default());
        }
        let life = lives.last_mut().expect("it begins with a life");
        match words[..] {
            ["S", key] => {
                let others = life.in_hand.iter().filter(|other| *other != key);
                let suspect = |key: &String| life.suspects.contains_key(key);
                for other in others {
                    assert!(!suspect(&key.to_owned()), "the suspect {key} starts while {other} runs");
                    assert!(!suspect(other), "{key} starts while the suspect {other} runs");
                }
                life.in_hand.insert(key.to_owned());
                life.started.push(key.to_owned());
            }
            ["E", key] => assert!(life.in_hand.remove(key), "{key} ends twice"),
            ["Q", key, crashes] => {
                life.suspects.insert(key.to_owned(), crashes.parse().expect("a number"));
            }
            ["R", key, how] => {
                life.results.insert(key.to_owned(), how.to_owned());
            }
            _ => {}
        }
    }
    lives
}

/// Runs the program until it comes to its end.
fn play(name: &str, poison: &[&str], batches: &str, most_crashes: usize) {
    let dir = Dir::new(name);
    let tell = [
        ("DIR", dir.path().display().to_string()),
        ("POISON", poison.join(",")),
        ("BATCHES", batches.to_owned()),
    ];
    let mut crashes = 0;
    loop {
        let status = Other::start("the_poisoned_program", &tell).wait();
        if status.success() {
            break;
        }
        assert_eq!(signal(status), Some(6), "{status}");
        crashes += 1;
        assert!(crashes <= most_crashes, "{crashes} crashes");
    }
    let lives = lives(Witness::read(&dir.file("witness")));
    assert_eq!(lives.len(), crashes + 1);
    let mut alone: HashMap<&str, u32> = HashMap::new();
    for (life, next) in lives.iter().zip(&lives[1..]) {
        let culprit: Vec<&String> = life.in_hand.iter().collect();
        if let [one] = culprit[..] {
            *alone.entry(one).or_default() += 1;
        }
        for (key, counted) in &next.suspects {
            let before = life.suspects.get(key).copied().unwrap_or(0);
            let may = u32::from(culprit == [key]);
            assert!(*counted <= before + may, "{key} was not alone, and {counted} crashes are counted");
        }
        assert!(culprit.iter().any(|key| poison.contains(&key.as_str())));
    }
    let last = lives.last().expect("a life");
    assert!(last.in_hand.is_empty());
    let mut all = 0;
    for (key, how) in &last.results {
        let expected = if poison.contains(&key.as_str()) { "crashed" } else { "done" };
        assert_eq!(how, expected, "{key}");
        all += 1;
    }
    assert_eq!(all, ITEMS * batches.split(',').count() as u64);
    for key in poison {
        let times = alone.get(key).copied().unwrap_or(0);
        assert!(times >= 3, "{key} was alone in only {times} crashes");
        let started = lives.iter().flat_map(|life| &life.started).filter(|started| started == key).count();
        assert!(started as u32 <= times + 2, "{key} was started {started} times, {times} of them alone");
    }
}

/// Promise 5.
#[test]
fn one_bad_item_among_many() {
    let mut rng = Rng(seed("one_bad_item_among_many"));
    let bad = format!("b/{}", rng.below(ITEMS));
    // The first crash finds it among others, three more find it alone.
    play("poison-one", &[&bad], "b", 4);
}

/// Promise 5: two of them, and a batch that begins before the other one's suspects are known.
#[test]
fn several_bad_items_and_a_busy_neighbour() {
    let mut rng = Rng(seed("several_bad_items_and_a_busy_neighbour"));
    let bad = [format!("b/{}", rng.below(ITEMS)), format!("b/{}", rng.below(ITEMS))];
    let bad: BTreeSet<&str> = bad.iter().map(String::as_str).collect();
    play("poison-two", &Vec::from_iter(bad), "a,b", 12);
}

/// Promise 5: an item that was not in hand is not counted against, however often the process is killed.
#[test]
fn waiting_is_no_crash() {
    let dir = Dir::new("poison-waiting");
    let tell = [("DIR", dir.path().display().to_string())];
    for _ in 0..4 {
        let before = Witness::read(&dir.file("witness")).len();
        let mut other = Other::start("the_waiting_program", &tell);
        other.watch(|| Witness::read(&dir.file("witness")).len() > before);
        assert!(other.ended().is_none(), "it waits");
        other.kill();
    }
    let engine = Engine::builder().workers(2).journal(dir.file("a.db")).open().unwrap();
    let batch = engine.batch("b").submit([1u64], |n: &u64, ctx: &Context| Ok(*n + u64::from(ctx.attempt())));
    let batch = batch.unwrap();
    let db = rusqlite::Connection::open(dir.file("a.db")).unwrap();
    let row = db.query_row("SELECT epoch, crashes, suspect, deferrals FROM retry", [], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    });
    assert_eq!(row.unwrap(), (2i64, 0i64, 0i64, 1i64));
    batch.cancel();
}

#[test]
#[ignore = "the other process of these tests"]
fn the_waiting_program() {
    let Some(dir) = told("DIR") else { return };
    let dir = Path::new(&dir);
    let engine = Engine::builder().workers(2).journal(dir.join("a.db")).open().expect("the journal");
    let run = |_: &u64, _: &Context| -> Result<u64, Failure> { Err(Failure::defer(secs(3600))) };
    let batch = engine.batch("b").submit([1u64], run).expect("a submission");
    while batch.progress().waiting == 0 {
        std::thread::yield_now();
    }
    Witness::open(&dir.join("witness")).say("W");
    batch.wait().expect("it never ends");
}

/// Promise 5: a batch that is cancelled while it has suspects ends, and they stay suspects for the next run.
#[test]
fn suspects_do_not_hold_a_cancellation_up() {
    let dir = Dir::new("poison-cancel");
    let tell = [
        ("DIR", dir.path().display().to_string()),
        ("POISON", "b/700".to_owned()),
        ("BATCHES", "b".to_owned()),
    ];
    let status = Other::start("the_poisoned_program", &tell).wait();
    assert_eq!(signal(status), Some(6), "{status}");
    let path = dir.file("a.db");
    let suspects = move || {
        let engine = Engine::builder().workers(2).journal(&path).open().unwrap();
        let batch = engine.batch("b").key(|n: &u64| *n).open(|n: &u64, _: &Context| Ok(*n)).unwrap();
        batch.pause();
        (0..ITEMS).for_each(|n| batch.push(n).unwrap());
        // All of them are known when it has been sealed.
        batch.seal();
        batch.cancel();
        let report = batch.wait().unwrap();
        assert!(report.cancelled_items > 0, "{report}");
        engine.shutdown(secs(10)).unwrap();
        let db = rusqlite::Connection::open(&path).unwrap();
        db.query_row("SELECT count(*) FROM retry WHERE suspect = 1", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let left = support::within(suspects);
    assert!(left > 0, "{left}");
}
