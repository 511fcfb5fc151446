//! What more items cost in memory through the library: ten million with a journal against a hundred thousand. Each in a
//! process of its own, which is this program again, and tells its peak when it ends. It takes minutes and gigabytes of
//! disk, so it is held only when it is named: `cargo bench --bench duel -- scale`.

use super::peak;
use super::place::{Place, remove};
use crate::common::rounds::{Contest, Plan, hold as hold_rounds};
use crate::common::row::Row;
use batchyard::{Context, Engine, secs};
use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

const FEW: usize = 100_000;
const MANY: usize = 10_000_000;
const MORE_MIB: f64 = 16.0;
const WORKERS: usize = 2;
/// The first argument of such a process. Then the journal, the number of items, and whether results are read.
pub(crate) const ITEMS_IN: &str = "--items-in";

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    if peak::of("self").is_none() {
        eprintln!("{group}: left out, this system does not tell a process's peak (VmHWM)");
        return Vec::new();
    }
    let place = Place::of(group);
    if !plan.test {
        place.tell(group);
    }
    let journal = &place.file("run.db");
    let sizes = [plan.size(FEW, 200), plan.size(MANY, 2_000)];
    let contests =
        [(false, "10^7 items over 10^5, nothing read"), (true, "10^7 items over 10^5, results read")];
    let contests = contests.map(|(read, case)| {
        Contest::bounded(case, WORKERS, MORE_MIB, "MiB more", move |plan: &Plan| {
            let [few, many] = sizes.map(|items| peak_of(journal, items, read));
            if !plan.test {
                eprintln!("  {case}: {few:.1} and {many:.1} MiB");
            }
            (many - few).max(0.0)
        })
        .passes(1)
    });
    let rows = hold_rounds(group, &Plan { rounds: plan.rounds.min(1), warm_up: 0, ..*plan }, contests.into());
    place.clear();
    rows
}

fn peak_of(journal: &Path, items: usize, read: bool) -> f64 {
    remove(journal);
    let output = Command::new(env::current_exe().expect("this program has a path"))
        .arg(ITEMS_IN)
        .arg(journal)
        .args([items.to_string(), read.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .expect("this program runs");
    assert!(output.status.success(), "{items} items: {}", output.status);
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("its peak")
}

/// Such a process: prints its peak in MiB.
///
/// # Panics
/// When its arguments are not [`peak_of`]'s.
pub(crate) fn items_in(args: &[String]) {
    let [journal, items, read] = args else { panic!("{ITEMS_IN} JOURNAL ITEMS READ") };
    let (items, read): (usize, bool) =
        (items.parse().expect("a number"), read.parse().expect("true or false"));
    let engine = Engine::builder().workers(WORKERS).journal(journal).open().expect("a new journal");
    // Keys in order: each hash, the default, is another page of their index, which is a matter of the disk.
    let batch = engine
        .batch("no-ops")
        .key(|item: &usize| format!("{item:08}"))
        .submit(0..items, |_: &usize, _: &Context| Ok(()))
        .expect("a batch of a new journal");
    if read {
        let results = batch.results().filter(|item| item.as_ref().is_ok_and(|item| item.outcome.is_ok()));
        assert_eq!(results.count(), items, "every result is read");
    }
    let report = batch.wait().expect("the batch ends");
    assert_eq!(report.completed_items, items as u64);
    engine.shutdown(secs(60)).expect("an engine shuts down");
    println!("{}", peak::of("self").expect("it was asked before"));
}
