//! The real program with a journal, killed with SIGKILL at random instants and started again, until it has come to its
//! end: nothing is lost, nothing of which the output was seen runs again, and no child of a killed run is alive beside
//! the next attempt at its item.
//!
//! Each job notes its start and its end in a file named by its item, and holds a lock on another one for as long as
//! anything of it lives: whoever starts beside it finds the lock taken.
//!
//! `BATCHYARD_NIGHTLY=1` makes hundreds of kills of the couple of dozen; `BATCHYARD_SEED` repeats a run.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones
#![cfg(feature = "cli")]

#[path = "support/cli.rs"]
mod cli;
mod support;

use cli::{CommandExt, Dir, kept, of};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::HANG;
use support::process::{Rng, nightly, seed};

/// Items of a journal. Their first letter says what their job does.
const ITEMS: usize = 48;
/// Kills of one journal, at the most.
const KILLS: u64 = 12;

fn items() -> Vec<String> {
    // Plain, failing once, holding on; with a child that has left the group, with one whose environment is empty; failing
    // for good twice.
    let kinds = ["n", "f", "h", "n", "g", "d", "e", "n"];
    (0..ITEMS).map(|n| format!("{}{n}", kinds[n % kinds.len()])).collect()
}

/// What the jobs do.
fn script(dir: &Dir) -> String {
    let dir = dir.path().display();
    format!(
        "w={dir}/w-$1
         exec 9>>$w.lock
         flock -n 9 || echo $1 $BATCHYARD_ATTEMPT >> {dir}/beside
         echo S $BATCHYARD_ATTEMPT $$ $BATCHYARD_IDEMPOTENCY_KEY >> $w
         case $1 in
         f*) [ -e $w.failed ] || {{ : > $w.failed; exit 1; }};;
         h*) sleep 0.04;;
         g*) setsid sleep 0.03 & wait;;
         e*) env -i sleep 0.03 & wait;;
         d*) for n in 1 2; do
               [ -e $w.$n ] || {{ : > $w.$n; echo D $BATCHYARD_ATTEMPT $$ $BATCHYARD_IDEMPOTENCY_KEY >> $w; exit 9; }}
             done;;
         esac
         echo E $BATCHYARD_ATTEMPT $$ $BATCHYARD_IDEMPOTENCY_KEY >> $w
         echo $1"
    )
}

/// A line that a job has written.
#[derive(Debug, PartialEq)]
struct Line {
    /// S: it starts, E: it ends, D: it fails for good.
    what: String,
    attempt: u64,
    key: String,
}

/// What the jobs of one item have written.
fn witness(dir: &Dir, item: &str) -> Vec<Line> {
    let line = |line: &str| {
        let mut words = line.split(' ');
        let what = words.next().unwrap_or_default().to_owned();
        let attempt = words.next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{item}: {line}"));
        Line { what, attempt, key: words.nth(1).unwrap_or_default().to_owned() }
    };
    dir.read(&format!("w-{item}")).lines().map(line).collect()
}

fn starts(dir: &Dir, item: &str) -> usize {
    witness(dir, item).iter().filter(|line| line.what == "S").count()
}

/// A run of the program, with somebody who reads what it prints.
struct Started {
    child: Child,
    out: std::thread::JoinHandle<Vec<u8>>,
    err: std::thread::JoinHandle<Vec<u8>>,
}

impl Started {
    fn new(command: &mut Command) -> Started {
        let mut child = command.spawn().unwrap();
        fn drain(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
            std::thread::spawn(move || {
                let mut all = Vec::new();
                from.read_to_end(&mut all).unwrap();
                all
            })
        }
        let (out, err) = (drain(child.stdout.take().unwrap()), drain(child.stderr.take().unwrap()));
        Started { child, out, err }
    }

    /// Lets it run for this long. True: it has ended.
    fn ends_within(&mut self, time: Duration) -> bool {
        let began = Instant::now();
        loop {
            if self.child.try_wait().unwrap().is_some() {
                return true;
            }
            if began.elapsed() >= time {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Kills it, if it has not ended: its exit code, what it printed in whole lines, what it said.
    fn end(mut self) -> (Option<i32>, Vec<String>, String) {
        let _ = self.child.kill();
        let code = self.child.wait().unwrap().code();
        let text = String::from_utf8(self.out.join().unwrap()).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let said = String::from_utf8_lossy(&self.err.join().unwrap()).into_owned();
        (code, whole.lines().map(str::to_owned).collect(), said)
    }
}

/// What is known of one journal.
struct Play {
    dir: Dir,
    seed: u64,
    /// How often each item had run when its output was seen for the first time.
    seen: BTreeMap<String, usize>,
    printed: BTreeSet<String>,
}

impl Play {
    fn line(&self, options: &str, items: &[String]) -> Command {
        let items: Vec<&str> = items.iter().map(String::as_str).collect();
        let mut command = kept(&self.dir.path().join("a.db"), options);
        command.args(["--name", "n", "--retries", "1", "--backoff", "1ms..3ms", "--fatal-exit", "9"]);
        command.sh(&script(&self.dir)).items(&items);
        command
    }

    /// No run is alive: whatever starts an item from now on is another one.
    fn see<'a>(&mut self, items: impl IntoIterator<Item = &'a str>) {
        for item in items {
            let runs = starts(&self.dir, item);
            self.seen.entry(item.to_owned()).or_insert(runs);
        }
    }

    /// Items that are done, as another process is told.
    fn results(&self) -> Vec<String> {
        let ran = of(&self.dir.path().join("a.db"), "results --json").ran();
        let known = ran.code == Some(0);
        // Killed before it had made the batch, or the journal.
        assert!(known || ran.code == Some(2), "{ran:?}, seed {}", self.seed);
        let done = |object: &serde_json::Value| {
            (object["status"] == "done").then(|| object["item"].as_str().unwrap().to_owned())
        };
        if known { ran.objects().iter().filter_map(done).collect() } else { Vec::new() }
    }

    /// Another process asks for what has failed for good, beside the run or without one.
    fn retry(&self) {
        let mut asked = of(&self.dir.path().join("a.db"), "retry --json");
        let ran = asked.args(["--match", "exit 9"]).ran();
        assert!(matches!(ran.code, Some(0 | 2)), "{ran:?}, seed {}", self.seed);
    }

    /// Items that failed for good, or were asked for when the run had just ended.
    fn has_more(&self) -> bool {
        let journal = self.dir.path().join("a.db");
        let dead = of(&journal, "dead --json").ran().exits(0).objects();
        let batch = of(&journal, "status --json").ran().exits(0).objects()[0]["batches"][0].clone();
        dead.iter().any(|dead| dead["reason"] == "fatal") || batch["open"] != 0
    }

    /// What must hold whenever no run is alive.
    fn check(&self, kills: u64, items: &[String]) {
        let seed = self.seed;
        assert_eq!(self.dir.read("beside"), "", "an attempt beside one that lives, seed {seed}");
        for item in items {
            let lines = witness(&self.dir, item);
            // Promise 4: each start has a number of its own, written ahead. Who has died and is driven again begins anew.
            for life in lines.split(|line| line.what == "D") {
                let starts = life.iter().filter(|line| line.what == "S");
                assert!(starts.is_sorted_by(|a, b| a.attempt < b.attempt), "{item}: {lines:?}, seed {seed}");
            }
            let limit = kills + 1 + u64::from(item.starts_with('f'));
            assert!(
                lines.iter().all(|line| line.attempt <= limit),
                "{item}: {lines:?}, {kills} kills, seed {seed}"
            );
            // Promise 3.
            assert!(lines.iter().all(|line| line.key == lines[0].key), "{item}: {lines:?}, seed {seed}");
            // Promise 2.
            if let Some(seen) = self.seen.get(item) {
                let runs = starts(&self.dir, item);
                assert_eq!(runs, *seen, "{item} ran after its output was seen, seed {seed}");
            }
        }
    }
}

/// Kills runs on one journal until one comes to its end: how often that was, and how many items have crashed.
fn play(name: &str, rng: &mut Rng, seed: u64, kills_left: u64) -> (u64, usize) {
    let durability = ["process-crash", "power-loss"][rng.below(2) as usize];
    let mut play = Play { dir: Dir::new(name), seed, seen: BTreeMap::new(), printed: BTreeSet::new() };
    let mut items = items();
    let (mut kills, mut ended, mut reach) = (0, 0, 60_000);
    let last = loop {
        if rng.below(2) == 0 {
            rng.shuffle(&mut items);
        }
        let order = ["", "-k"][rng.below(2) as usize];
        let options = format!("-j {} --durability {durability} {order}", 1 + rng.below(4));
        let mut run = Started::new(&mut play.line(&options, &items));
        let (wait, look) = (Duration::from_micros(rng.below(reach)), rng.below(8));
        let to_the_end = kills >= kills_left.min(KILLS);
        let over = run.ends_within(if to_the_end { HANG * 2 } else { wait });
        assert!(over || !to_the_end, "it hangs, seed {seed}");
        // What somebody else reads beside it is seen, too.
        let beside = if look == 0 && !over { play.results() } else { Vec::new() };
        if look == 1 && !over {
            play.retry();
        }
        let (code, printed, said) = run.end();
        assert!(!said.contains("internal error"), "{said}, seed {seed}");
        play.see(printed.iter().chain(&beside).map(String::as_str));
        play.printed.extend(printed);
        kills += u64::from(code.is_none());
        play.check(kills, &items);
        match code {
            // The same line tries them again.
            Some(1) if play.has_more() => {}
            Some(code) => break (code, said),
            None if look == 2 => play.retry(),
            None => {}
        }
        let done: usize = items
            .iter()
            .map(|item| witness(&play.dir, item).iter().filter(|line| line.what == "E").count())
            .sum();
        if done == ended {
            reach = (reach * 3 / 2).min(5_000_000); // a slow machine: give it time
        }
        ended = done;
    };
    let journal = play.dir.path().join("a.db");
    let dead = of(&journal, "dead --json").ran().exits(0).objects();
    for dead in &dead {
        // Promise 5: killed three times with nothing but it in hand.
        assert_eq!(dead["reason"], "crashed", "{dead}, seed {seed}");
        let item = dead["item"].as_str().unwrap();
        assert!(starts(&play.dir, item) >= 3, "{item}: {:?}, seed {seed}", witness(&play.dir, item));
    }
    let dead: BTreeSet<&str> = dead.iter().map(|dead| dead["item"].as_str().unwrap()).collect();
    assert_eq!(last.0, i32::from(!dead.is_empty()), "{}, seed {seed}", last.1);
    let all: BTreeSet<&str> = items.iter().map(String::as_str).filter(|item| !dead.contains(item)).collect();
    assert_eq!(Vec::from_iter(&play.printed), Vec::from_iter(&all), "not all was printed, seed {seed}");
    assert_eq!(play.results().len(), all.len());
    // Nothing is left to do or to print, and nothing lives.
    let before: Vec<usize> = items.iter().map(|item| starts(&play.dir, item)).collect();
    let again = play.line("-j 2", &items).stdin(Stdio::null()).ran();
    assert_eq!(again.exits(last.0).text(), "", "seed {seed}");
    assert_eq!(before, items.iter().map(|item| starts(&play.dir, item)).collect::<Vec<_>>());
    for item in items.iter().filter(|item| starts(&play.dir, item) > 0) {
        let lock = std::fs::File::open(play.dir.path().join(format!("w-{item}.lock"))).unwrap();
        assert!(lock.try_lock().is_ok(), "something of {item} lives, seed {seed}");
    }
    (kills, dead.len())
}

/// Promises 1 to 5 and 18.
#[test]
fn killed_at_any_moment() {
    let seed = seed("killed_at_any_moment");
    let mut rng = Rng(seed);
    let wanted = if nightly() { 400 } else { 24 };
    let (mut kills, mut journals, mut crashed) = (0, 0, 0);
    while kills < wanted {
        let (killed, dead) = play(&format!("crash-{journals}"), &mut rng, seed, wanted - kills);
        kills += killed;
        crashed += dead;
        journals += 1;
    }
    println!("{kills} kills, {journals} journals, {crashed} items crashed");
}
