//! `batchyard retry` beside a run: what had died is tried again by that run, or by the next one (promise 14).
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones
#![cfg(feature = "cli")]

#[path = "support/cli.rs"]
mod cli;
mod support;

use batchyard::{BatchStatus, Context, Engine, Event, Failure, secs};
use cli::{CommandExt, Dir, Live, kept, of};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use support::{Door, until, within};

/// Jobs that fail for good as long as a file is there, and one that says when it has begun and waits for a word.
struct Play {
    dir: Dir,
    journal: PathBuf,
    broken: PathBuf,
    up: PathBuf,
    down: PathBuf,
    script: String,
}

impl Play {
    fn new(name: &str) -> Play {
        let dir = Dir::new(name);
        let journal = dir.path().join("a.db");
        let broken = dir.file("broken", "");
        let (up, down) = (dir.fifo("up"), dir.fifo("down"));
        let script = format!(
            "echo $1 >> {witness}
             case $1 in
             x*) [ ! -e {broken} ] || {{ echo no route to $1 >&2; echo bad $1; exit 9; }};;
             wait) echo up > {up}; read x < {down};;
             esac
             echo $1",
            witness = dir.path().join("witness").display(),
            broken = broken.display(),
            up = up.display(),
            down = down.display(),
        );
        Play { dir, journal, broken, up, down, script }
    }

    fn line(&self, options: &str, items: &[&str]) -> Command {
        let mut command = kept(&self.journal, &format!("--name n --fatal-exit 9 {options}"));
        command.sh(&self.script);
        if !items.is_empty() {
            command.items(items);
        }
        command
    }

    /// The job `wait` has begun.
    fn up(&self) {
        assert_eq!(std::fs::read_to_string(&self.up).unwrap(), "up\n");
    }

    fn go_on(&self) {
        std::fs::write(&self.down, "go\n").unwrap();
    }

    fn mend(&self) {
        std::fs::remove_file(&self.broken).unwrap();
    }

    fn runs(&self, item: &str) -> usize {
        self.dir.read("witness").lines().filter(|line| *line == item).count()
    }

    fn batch(&self) -> Value {
        of(&self.journal, "status --json n").ran().exits(0).objects()[0]["batches"][0].clone()
    }

    fn until_dead(&self, count: u64) {
        until("they are dead", || self.batch()["dead"] == count);
    }

    fn retry(&self, more: &[&str]) -> Value {
        of(&self.journal, "retry n --json").args(more).ran().exits(0).objects().remove(0)
    }
}

fn answer(revived: u64, running: u64, by: &Live) -> Value {
    json!({ "batch": "n", "revived": revived, "running": running, "pid": by.child.id() })
}

fn line(live: &mut Live) -> String {
    let mut line = String::new();
    live.stdout.read_line(&mut line).unwrap();
    line
}

/// Lines of stderr, up to one with this in it.
fn hears(live: &mut Live, text: &str) {
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert_ne!(live.stderr.read_line(&mut line).unwrap(), 0, "it has not said: {text}");
    }
}

#[test]
fn the_run_under_way_tries_them() {
    let play = Play::new("live");
    // Each death counts once for the rule, and not at all when it is taken back.
    let mut live = Live::new(&mut play.line("-j 2 --halt now,fail=2", &["x1", "wait", "a"]));
    play.up();
    play.until_dead(1);
    assert_eq!(play.retry(&[]), answer(1, 1, &live));
    hears(&mut live, "batch `n`: dead items to be tried again: 1");
    until("it dies again", || play.runs("x1") == 2 && play.batch()["dead"] == 1);
    play.mend();
    let text = of(&play.journal, "retry").ran();
    let here = format!("1 item of batch `n`: tried again by process {}, which runs it\n", live.child.id());
    assert_eq!(text.exits(0).text(), here);
    hears(&mut live, "batch `n`: dead items to be tried again: 1");
    until("it is done", || play.batch()["dead"] == 0 && play.batch()["done"] == 2);
    assert_eq!(play.retry(&[])["revived"], 0);
    play.go_on();
    let ran = live.end();
    let lines = ran.exits(0).sorted();
    assert_eq!(lines, ["a", "bad x1", "bad x1", "wait", "x1"]);
    assert_eq!(ran.stderr.lines().filter(|line| line.contains("dead")).count(), 0, "{ran:?}");
    let batch = play.batch();
    assert_eq!(
        (&batch["state"], &batch["done"], &batch["dead"]),
        (&"completed".into(), &3.into(), &0.into())
    );
    // Nothing is left to run or to print.
    assert_eq!(play.line("", &["x1", "wait", "a"]).ran().exits(0).text(), "");
}

#[test]
fn those_that_are_meant_come_back() {
    let play = Play::new("some");
    let live = Live::new(&mut play.line("-j 2", &["x1", "x2", "x3", "wait"]));
    play.up();
    play.until_dead(3);
    let dead = of(&play.journal, "dead --json").ran().exits(0).objects();
    let key = |item: &str| {
        dead.iter().find(|dead| dead["item"] == item).unwrap()["key"].as_str().unwrap().to_owned()
    };
    of(&play.journal, "retry --key nonsense").ran().exits(2).says("no dead item with the key nonsense");
    play.mend();
    assert_eq!(play.retry(&["--key", &key("x2")]), answer(1, 1, &live));
    until("it is done", || play.batch()["done"] == 1);
    // It is dead no more.
    of(&play.journal, "retry --key").arg(key("x2")).ran().exits(2);
    assert_eq!(play.retry(&["--match", "no route to x3"]), answer(1, 1, &live));
    assert_eq!(play.retry(&["--match", "no such words"]), answer(0, 0, &live));
    play.go_on();
    live.end().exits(1);
    let dead = of(&play.journal, "dead --json").ran().exits(0).objects();
    assert_eq!((dead.len(), &dead[0]["item"]), (1, &"x1".into()));
    assert_eq!(["x1", "x2", "x3"].map(|item| play.runs(item)), [1, 2, 2]);
}

/// Promise 2: with `-k` an item that comes back behind the others is printed all the same, and once.
#[test]
fn in_order_they_are_printed_when_they_come() {
    within(|| {
        for killed in [false, true] {
            let play = Play::new(&format!("order-{killed}"));
            let items = ["a", "x1", "b", "wait", "c"];
            let mut live = Live::new(&mut play.line("-k -j 2", &items));
            play.up();
            assert_eq!([line(&mut live), line(&mut live), line(&mut live)], ["a\n", "bad x1\n", "b\n"]);
            play.mend();
            assert_eq!(play.retry(&[]), answer(1, 1, &live));
            assert_eq!(line(&mut live), "x1\n");
            if killed {
                until("it is marked", || {
                    let db = rusqlite::Connection::open(&play.journal).unwrap();
                    let sql =
                        "SELECT at > (r.id & 1099511627775) FROM mark, result r JOIN item i ON i.id = r.item
                    WHERE reader = 'in-order-to' AND i.seq = 1";
                    db.query_row(sql, [], |row| row.get::<_, bool>(0)) == Ok(true)
                });
                live.signal(Signal::KILL);
                assert_eq!(live.end().code, None);
                let again = Live::new(&mut play.line("-k -j 2", &items));
                play.up();
                play.go_on();
                assert_eq!(again.end().exits(0).text(), "wait\nc\n");
            } else {
                play.go_on();
                assert_eq!(live.end().exits(0).text(), "wait\nc\n");
            }
            assert_eq!(play.line("-k", &items).ran().exits(0).text(), "");
            assert_eq!(play.line("", &items).ran().exits(0).text(), "");
            assert_eq!(play.runs("x1"), 2);
        }
    });
}

/// The owner has another batch in hand.
#[test]
fn of_a_batch_that_nobody_runs_they_wait_for_it() {
    let play = Play::new("other");
    play.line("", &["x1", "a"]).ran().exits(1);
    let mut other = kept(&play.journal, "--name m");
    let live = Live::new(other.sh(&play.script).items(&["wait"]));
    play.up();
    play.mend();
    assert_eq!(play.retry(&[]), answer(1, 0, &live));
    assert_eq!(play.retry(&[])["revived"], 0);
    let batch = play.batch();
    assert_eq!((&batch["dead"], &batch["open"], &batch["to_try_again"]), (&0.into(), &1.into(), &1.into()));
    play.go_on();
    live.end().exits(0);
    assert_eq!(play.runs("x1"), 1);
    assert_eq!(play.line("", &["x1", "a"]).ran().exits(0).text(), "x1\n");
}

/// Promise 17: an item of an earlier input belongs to the run that names it.
#[test]
fn what_the_input_has_not_named_waits_until_it_does() {
    let play = Play::new("input");
    play.line("", &["x1", "x2", "a"]).ran().exits(1);
    play.mend();
    let mut live = Live::new(play.line("-j 2", &[]).stdin(Stdio::piped()));
    let mut input = live.child.stdin.take().unwrap();
    input.write_all(b"a\nwait\n").unwrap();
    play.up();
    assert_eq!(play.retry(&[]), answer(2, 0, &live));
    // Named now, it is tried now.
    input.write_all(b"x1\n").unwrap();
    drop(input);
    assert_eq!(line(&mut live), "x1\n");
    play.go_on();
    live.end().exits(0);
    assert_eq!((play.runs("x1"), play.runs("x2")), (2, 1));
    assert_eq!(play.line("", &["a", "wait", "x1", "x2"]).ran().exits(0).text(), "x2\n");
}

/// Promise 5: what has taken its process down comes back, too, while another process runs the others.
#[test]
fn crashed_ones_come_back_to_a_live_run() {
    let dir = Dir::new("crashed");
    let journal = dir.path().join("a.db");
    let (up, down, poison) = (dir.fifo("up"), dir.fifo("down"), dir.file("poison", ""));
    let script = format!(
        "case $1 in
         b) [ ! -e {poison} ] || kill -9 $PPID;;
         wait) [ -e {poison} ] || {{ echo up > {up}; read x < {down}; }};;
         esac
         echo $1",
        poison = poison.display(),
        up = up.display(),
        down = down.display()
    );
    let line = |items: &[&str]| {
        let mut command = kept(&journal, "--name n -j 1");
        command.sh(&script).items(items);
        command
    };
    while line(&["b"]).ran().code.is_none() {}
    std::fs::remove_file(&poison).unwrap();
    let live = Live::new(&mut line(&["b", "wait"]));
    assert_eq!(std::fs::read_to_string(&up).unwrap(), "up\n");
    let retried = of(&journal, "retry --json").ran().exits(0).objects().remove(0);
    assert_eq!(retried, answer(1, 1, &live));
    std::fs::write(&down, "go\n").unwrap();
    assert_eq!(live.end().exits(0).sorted(), ["b", "wait"]);
}

/// Who does not answer is named.
#[test]
fn an_owner_that_stands_still_is_told() {
    let play = Play::new("stopped");
    let live = Live::new(&mut play.line("-j 2", &["x1", "wait"]));
    play.up();
    play.until_dead(1);
    live.signal(Signal::STOP);
    let pid = format!("process {}", live.child.id());
    of(&play.journal, "retry").ran().exits(5).says(&pid).says("has not answered");
    // It was asked, and does it when it can.
    play.mend();
    live.signal(Signal::CONT);
    until("it is done", || play.batch()["dead"] == 0 && play.batch()["done"] == 1);
    play.go_on();
    live.end().exits(0);
}

// ---- a program of the library's has the journal ---------------------------------------------------------------

fn engine(journal: &Path, revived: &Arc<Mutex<Vec<u64>>>) -> Engine {
    let revived = Arc::clone(revived);
    let engine = Engine::builder().workers(2).journal(journal).on_event(move |event| {
        if let Event::ItemsRevived { items, .. } = event {
            revived.lock().unwrap().push(*items);
        }
    });
    engine.open().unwrap()
}

fn retried(journal: &Path) -> (u64, u64) {
    let answer = of(journal, "retry --json").ran().exits(0).objects().remove(0);
    assert_eq!(answer["pid"], std::process::id());
    (answer["revived"].as_u64().unwrap(), answer["running"].as_u64().unwrap())
}

/// Fails for good for what is even, the first time that it is asked; waits at the door for the last.
fn picky(door: &Door, last: u64) -> impl Fn(&u64, &Context) -> Result<u64, Failure> + Send + Sync + 'static {
    let (door, seen) = (door.clone(), Mutex::new(std::collections::BTreeSet::new()));
    move |n, _| {
        if *n == last {
            door.pass();
        }
        if n % 2 == 0 && seen.lock().unwrap().insert(*n) { Err(Failure::fatal("even")) } else { Ok(*n) }
    }
}

/// More dead items than a page has: all are told, counted and run.
#[test]
fn many_come_back_to_a_batch_of_a_program() {
    const ITEMS: u64 = 1_501;
    let dir = Dir::new("many");
    let journal = dir.path().join("a.db");
    within(move || {
        let (revived, door) = (Arc::default(), Door::new());
        let engine = engine(&journal, &revived);
        let batch = engine.batch("n").submit(0..ITEMS, picky(&door, ITEMS - 2)).unwrap();
        let mut results = batch.results();
        let first: Vec<_> = results.by_ref().take(ITEMS as usize - 1).map(Result::unwrap).collect();
        let dead = |item: &&batchyard::ItemResult<u64>| item.outcome.is_err();
        assert_eq!(first.iter().filter(dead).count(), 751);
        assert_eq!(retried(&journal), (751, 751));
        // A page at a time.
        until("all of it is told", || revived.lock().unwrap().iter().sum::<u64>() == 751);
        assert!(revived.lock().unwrap().len() > 1);
        let progress = batch.progress();
        assert!(progress.failed == 0 && progress.open() >= 1, "{progress:?}");
        // They come again, with what has become of them.
        let again: Vec<_> = results.by_ref().take(751).map(Result::unwrap).collect();
        assert!(again.iter().all(|item| item.outcome.is_ok() && item.seq % 2 == 0 && item.attempts == 1));
        door.open();
        assert_eq!(results.map(Result::unwrap).map(|item| item.seq).collect::<Vec<_>>(), [ITEMS - 2]);
        let report = batch.wait().unwrap();
        assert_eq!(
            (report.status, report.total_items, report.completed_items),
            (BatchStatus::Completed, ITEMS, ITEMS)
        );
        engine.shutdown(secs(10)).unwrap();
    });
}

/// What dies again while the others are still being brought back has come back: once for each time it is asked for.
#[test]
fn those_that_die_again_come_back_once() {
    const ITEMS: u64 = 1_500;
    let dir = Dir::new("again");
    let journal = dir.path().join("a.db");
    within(move || {
        let (revived, door) = (Arc::default(), Door::new());
        let engine = engine(&journal, &revived);
        let held = door.clone();
        let batch =
            engine.batch("n").submit(0..=ITEMS, move |n: &u64, _: &Context| -> Result<u64, Failure> {
                if *n == ITEMS {
                    held.pass();
                }
                Err(Failure::fatal("never"))
            });
        let batch = batch.unwrap();
        until("they are dead", || batch.progress().failed == ITEMS);
        assert_eq!(retried(&journal), (ITEMS, ITEMS));
        until("they are dead again", || batch.progress().failed == ITEMS);
        assert_eq!(revived.lock().unwrap().iter().sum::<u64>(), ITEMS);
        door.open();
        assert_eq!(batch.wait().unwrap().failed_items, ITEMS + 1);
        engine.shutdown(secs(10)).unwrap();
    });
}

/// A run without input has all that the journal has of its batch; of earlier inputs it runs nothing.
#[test]
fn a_run_without_input_counts_them_right() {
    let dir = Dir::new("resumed");
    let journal = dir.path().join("a.db");
    within(move || {
        let (revived, open) = (Arc::default(), Door::new());
        open.open();
        let first = engine(&journal, &revived);
        let run = |input: Vec<u64>| {
            let batch = first.batch("n").submit(input, picky(&open, 99)).unwrap();
            batch.wait().unwrap().failed_items
        };
        // 0 is dead, and of no input any more; 2 and 4 are dead; 5 has not run.
        assert_eq!(run(vec![0, 1]), 1);
        let (door, begun) = (Door::new(), Door::new());
        let (held, there) = (door.clone(), begun.clone());
        let batch = first.batch("n").submit([1, 2, 3, 4, 5], move |n: &u64, ctx: &Context| {
            if *n == 5 {
                there.open();
                held.pass();
                ctx.check()?;
            }
            if n.is_multiple_of(2) { Err(Failure::fatal("even")) } else { Ok(*n) }
        });
        let batch = batch.unwrap();
        until("the even ones are dead", || batch.progress().failed == 2);
        begun.pass();
        batch.cancel();
        door.open();
        assert_eq!(batch.wait().unwrap().cancelled_items, 1);
        first.shutdown(secs(10)).unwrap();

        let second = engine(&journal, &revived);
        let door = Door::new();
        let held = door.clone();
        let batch = second.batch("n").resume(move |n: &u64, _: &Context| {
            if *n == 5 {
                held.pass();
            }
            Ok(*n)
        });
        let batch = batch.unwrap();
        door.wait_for(1);
        let before = batch.progress();
        assert_eq!((before.total, before.failed, before.open()), (6, 3, 1));
        assert_eq!(retried(&journal), (3, 2));
        until("they are done", || batch.progress().done == 4);
        // 0 waits for a run that has it in its input.
        assert_eq!(*revived.lock().unwrap(), [2]);
        door.open();
        let report = batch.wait().unwrap();
        assert_eq!(
            (report.status, report.total_items, report.completed_items, report.failed_items),
            (BatchStatus::Completed, 5, 5, 0)
        );
        second.shutdown(secs(10)).unwrap();
    });
}

/// What comes back to a batch that is told to stop waits for the next run.
#[test]
fn a_batch_that_ends_takes_nothing_back() {
    let dir = Dir::new("ending");
    let journal = dir.path().join("a.db");
    within(move || {
        let (revived, door) = (Arc::default(), Door::new());
        let engine = engine(&journal, &revived);
        let batch = engine.batch("n").grace(secs(60)).submit(0..4u64, picky(&door, 3)).unwrap();
        until("the even ones are dead", || batch.progress().failed == 2);
        door.wait_for(1);
        until("that is committed", || batch.dead().len() == 2);
        batch.cancel();
        assert_eq!(retried(&journal), (2, 0));
        door.open();
        let report = batch.wait().unwrap();
        assert_eq!((report.completed_items, report.failed_items), (2, 2), "{report}");
        let batch = engine.batch("n").resume(|n: &u64, _: &Context| Ok(*n)).unwrap();
        assert_eq!(batch.wait().unwrap().completed_items, 4);
        engine.shutdown(secs(10)).unwrap();
    });
}
