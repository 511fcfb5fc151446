//! `kill -9` of the program itself, and what it leaves running.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones
#![cfg(feature = "cli")]

#[path = "support/cli.rs"]
mod support;

use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::{BufRead, Read};
use std::path::Path;
use std::time::Duration;
use support::{CommandExt, Dir, Live, kept, lives, of};

/// Promises 1 to 4: killed in the middle, again and again, every item ends, every output is printed, and nothing runs
/// again of which the output was seen.
#[test]
fn killed_in_the_middle_it_loses_nothing() {
    killed_again_and_again("");
}

/// The same in the order of the items, where what is printed is not what was committed first.
#[test]
fn killed_in_the_middle_it_loses_nothing_in_order() {
    killed_again_and_again("-k");
}

fn killed_again_and_again(order: &str) {
    const ITEMS: usize = 120;
    const ROUNDS: usize = 6;
    let dir = Dir::new(&format!("kill{order}"));
    let journal = dir.path().join("a.db");
    let witness = dir.path().join("witness");
    let script =
        format!("echo $1 $BATCHYARD_ATTEMPT $BATCHYARD_IDEMPOTENCY_KEY >> {}; echo $1", witness.display());
    let items: Vec<String> = (0..ITEMS).map(|n| format!("item{n}")).collect();
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    // How often each item had run when its output was seen for the first time.
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut see = |text: &str| {
        let ran = dir.read("witness");
        for item in text.lines() {
            let runs = ran.lines().filter(|line| line.split(' ').next() == Some(item)).count();
            seen.entry(item.to_owned()).or_insert(runs);
        }
    };
    let mut kills = 0;
    for round in 0..=ROUNDS {
        let mut command = kept(&journal, &format!("-j 3 {order}"));
        command.sh(&script).items(&items);
        if round == ROUNDS {
            let ran = command.ran();
            see(ran.exits(0).text());
            break;
        }
        let mut live = Live::new(&mut command);
        // Another moment in each round: while it prints its first line, or its tenth.
        let mut line = String::new();
        for _ in 0..1 + 3 * round {
            live.stdout.read_line(&mut line).unwrap();
        }
        live.signal(Signal::KILL);
        live.stdout.read_to_string(&mut line).unwrap();
        let whole = line.rfind('\n').map_or(0, |end| end + 1);
        see(&line[..whole]);
        kills += usize::from(live.end().code.is_none());
    }
    assert!(kills > 0, "no run was killed");
    assert_eq!(seen.len(), ITEMS, "not all was printed");
    // What had not been committed at a kill ran again: under the next number and the same key.
    let text = dir.read("witness");
    let mut runs: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (item, attempt) = (words.next().unwrap(), words.next().unwrap());
        runs.entry(item).or_default().push((attempt, &line[item.len() + attempt.len() + 2..]));
    }
    assert_eq!(runs.len(), ITEMS);
    for (item, runs) in &runs {
        assert!(runs.len() <= kills + 1, "{item} ran {} times with {kills} kills", runs.len());
        assert!(runs.iter().all(|(_, key)| key == &runs[0].1), "{item}: {runs:?}");
        let attempts: Vec<u32> = runs.iter().map(|(attempt, _)| attempt.parse().unwrap()).collect();
        assert!(attempts.is_sorted_by(|a, b| a < b), "{item}: {runs:?}");
        assert_eq!(seen[*item], runs.len(), "{item} ran after its output was seen");
    }
    // Nothing is left to do or to print.
    let ran = kept(&journal, &format!("-j 1 {order}")).sh(&script).items(&items).ran();
    assert_eq!(ran.exits(0).text(), "");
    assert_eq!(dir.read("witness"), text);
}

/// The state of a process, for a shell: `gone` if it has ended.
fn shown(file: &Path) -> String {
    format!(
        "p=$(cat {}); case $(cut -d' ' -f3 /proc/$p/stat 2>/dev/null) in ''|Z|X) echo gone;; *) echo lives;; esac",
        file.display()
    )
}

/// Promise 18: the children of a run that died are gone before their items run again.
#[test]
fn orphans_are_gone_before_their_item_runs_again() {
    let dir = Dir::new("orphans");
    let journal = dir.path().join("a.db");
    let up = dir.fifo("up");
    let at = |name: &str| dir.path().join(name);
    let (own, group, apart) = (at("own"), at("group"), at("apart"));
    let again = at("again");
    // One in the job's group whose environment tells nothing, one that has left the group, and the job itself.
    let script = format!(
        "if [ -e {again} ]; then {}; {}; {}; exit; fi
         env -i sh -c 'echo $$ > {group}; exec sleep 1000' &
         setsid sh -c 'echo $$ > {apart}; exec sleep 1000' &
         echo $$ > {own}
         while ! [ -s {group} ] || ! [ -s {apart} ]; do sleep 0.01; done
         echo up > {up}; exec sleep 1000",
        shown(&own),
        shown(&group),
        shown(&apart),
        again = again.display(),
        group = group.display(),
        apart = apart.display(),
        own = own.display(),
        up = up.display(),
    );
    let live = Live::new(kept(&journal, "-j 1").sh(&script).items(&["a"]));
    assert_eq!(std::fs::read_to_string(&up).unwrap(), "up\n");
    let status = of(&journal, "status --json").ran().exits(0).objects();
    assert_eq!(status[0]["owner"]["pid"], live.child.id());
    live.signal(Signal::KILL);
    let mut child = live.child;
    child.wait().unwrap();
    let pids: Vec<String> = ["own", "group", "apart"].iter().map(|name| dir.read(name)).collect();
    assert!(pids.iter().all(|pid| lives(pid)), "the test has no orphans");
    let status = of(&journal, "status --json").ran().exits(0).objects();
    assert_eq!(
        (&status[0]["owner"]["lives"], &status[0]["batches"][0]["state"]),
        (&false.into(), &"interrupted".into())
    );
    std::fs::write(&again, "").unwrap();
    let ran = kept(&journal, "-j 1").sh(&script).items(&["a"]).ran();
    assert_eq!(ran.exits(0).text(), "gone\ngone\ngone\n");
}

/// Promise 18: so is a job whose environment tells nothing: its group and its start were noted.
#[test]
fn an_orphan_without_an_environment_is_known_by_its_group() {
    let dir = Dir::new("nameless");
    let journal = dir.path().join("a.db");
    let up = dir.fifo("up");
    let (own, again) = (dir.path().join("own"), dir.path().join("again"));
    let script = format!(
        "if [ -e {again} ]; then {}; exit; fi; echo $$ > {own}
         exec env -i sh -c 'echo up > {up}; exec sleep 1000'",
        shown(&own),
        again = again.display(),
        own = own.display(),
        up = up.display(),
    );
    let live = Live::new(kept(&journal, "-j 1").sh(&script).items(&["a"]));
    assert_eq!(std::fs::read_to_string(&up).unwrap(), "up\n");
    live.signal(Signal::KILL);
    let mut child = live.child;
    child.wait().unwrap();
    assert!(lives(&dir.read("own")), "the test has no orphan");
    std::fs::write(&again, "").unwrap();
    assert_eq!(kept(&journal, "-j 1").sh(&script).items(&["a"]).ran().exits(0).text(), "gone\n");
}

/// Promise 18: so are those of a job that had started just before, of which the journal knows nothing yet.
#[test]
fn orphans_that_were_not_noted_are_found() {
    let dir = Dir::new("unnoted");
    let journal = dir.path().join("a.db");
    let (up, down) = (dir.fifo("up"), dir.fifo("down"));
    let at = |name: &str| dir.path().join(name);
    let (own, group, again) = (at("own"), at("group"), at("again"));
    // In the job's group, with an environment that tells nothing.
    let script = format!(
        "if [ $1 = a ]; then [ -e {again} ] || {{ echo up > {up}; read x < {down}; }}; exit; fi
         if [ -e {again} ]; then {}; {}; exit; fi
         env -i sh -c 'echo $$ > {group}; exec sleep 1000' &
         echo $$ > {own}
         while ! [ -s {group} ]; do sleep 0.01; done
         echo up > {up}; exec sleep 1000",
        shown(&own),
        shown(&group),
        again = again.display(),
        group = group.display(),
        own = own.display(),
        up = up.display(),
        down = down.display(),
    );
    let live = Live::new(kept(&journal, "-j 1").sh(&script).items(&["a", "b"]));
    assert_eq!(std::fs::read_to_string(&up).unwrap(), "up\n");
    let db = rusqlite::Connection::open(&journal).unwrap();
    db.busy_timeout(Duration::from_secs(60)).unwrap();
    let number = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    while number("SELECT claimed_to FROM batch") < 2 {
        std::thread::yield_now();
    }
    // From here on nothing is committed: `a` ends, `b` begins, and the journal does not hear of it.
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    std::fs::write(&down, "go\n").unwrap();
    assert_eq!(std::fs::read_to_string(&up).unwrap(), "up\n");
    live.signal(Signal::KILL);
    let mut child = live.child;
    child.wait().unwrap();
    drop(db);
    // As if it had been killed between a start and its note.
    let notes = journal.with_file_name("a.db-hand");
    let bytes = std::fs::metadata(&notes).unwrap().len();
    std::fs::write(&notes, vec![0; bytes as usize]).unwrap();
    assert!(lives(&dir.read("own")) && lives(&dir.read("group")), "the test has no orphans");
    std::fs::write(&again, "").unwrap();
    let ran = kept(&journal, "-j 1").sh(&script).items(&["a", "b"]).ran();
    assert_eq!(ran.exits(0).text(), "gone\ngone\n");
}

/// Promise 5: what takes the program down three times is dead, until it is asked for.
#[test]
fn what_kills_the_program_is_tried_three_times() {
    let dir = Dir::new("crash");
    let journal = dir.path().join("a.db");
    let poison = dir.file("poison", "");
    let witness = dir.path().join("witness");
    let script = format!(
        "echo $1 >> {}; [ $1 != b ] || ! [ -e {} ] || kill -9 $PPID; echo $1",
        witness.display(),
        poison.display()
    );
    let line = || kept(&journal, "-j 1").sh(&script).items(&["a", "b", "c"]).ran();
    let mut killed = 0;
    let last = loop {
        let ran = line();
        match ran.code {
            None => killed += 1,
            Some(_) => break ran,
        }
        assert!(killed < 10, "it is tried for ever");
    };
    last.exits(1);
    let dead = of(&journal, "dead --json").ran().exits(0).objects();
    assert_eq!((dead.len(), &dead[0]["item"], &dead[0]["reason"]), (1, &"b".into(), &"crashed".into()));
    // The same line leaves it alone.
    let runs = |item: &str| dir.read("witness").lines().filter(|line| *line == item).count();
    assert_eq!((killed, runs("b")), (3, 3));
    line().exits(1);
    assert_eq!(runs("b"), 3);
    std::fs::remove_file(&poison).unwrap();
    of(&journal, "retry").ran().exits(0);
    assert_eq!(line().exits(0).text(), "b\n");
    // `a` may have ended just before the first kill, and not been committed.
    assert!(runs("a") <= 2);
    assert_eq!((runs("b"), runs("c")), (4, 1));
}
