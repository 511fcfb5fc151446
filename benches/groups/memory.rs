//! What more input costs in memory: the program at 60,000 lines against itself at 5,000, without a journal and with one.

use super::place::{Place, remove};
use super::{build, peak};
use crate::common::rounds::{Contest, Plan, hold as hold_rounds};
use crate::common::row::Row;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

const FEW: usize = 5_000;
const MANY: usize = 60_000;
/// By so much the peak may be higher.
const MORE_MIB: f64 = 16.0;

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    if peak::of("self").is_none() {
        eprintln!("{group}: left out, this system does not tell a process's peak (VmHWM)");
        return Vec::new();
    }
    let program = build::program(!plan.test, &["--features", "cli", "--bin", "batchyard"]);
    let place = Place::of(group);
    let lists = [(plan.size(FEW, 20), "few.txt"), (plan.size(MANY, 100), "many.txt")].map(|(lines, name)| {
        let list = place.file(name);
        let text: String = (0..lines).map(|n| format!("{n}\n")).collect();
        fs::write(&list, text).expect("cargo's scratch is writable");
        list
    });
    let journal = place.file("run.db");
    let contests = [(None, "the program, 60,000 lines over 5,000"), (Some(&journal), "the same, journal")];
    let contests = contests.map(|(journal, case)| {
        let (program, lists) = (&program, &lists);
        Contest::bounded(case, 2, MORE_MIB, "MiB more", move |plan: &Plan| {
            let [few, many] = lists.each_ref().map(|list| peak_of(program, list, journal.map(|j| &**j)));
            if !plan.test {
                eprintln!("  {case}: {few:.1} and {many:.1} MiB");
            }
            (many - few).max(0.0)
        })
        .passes(1)
    });
    let rows = hold_rounds(group, &Plan { rounds: plan.rounds.min(3), warm_up: 0, ..*plan }, contests.into());
    place.clear();
    rows
}

fn peak_of(program: &Path, list: &Path, journal: Option<&Path>) -> f64 {
    let mut command = Command::new(program);
    command.args(["run", "-j", "2"]).stdin(File::open(list).expect("the list was just written"));
    if let Some(journal) = journal {
        remove(journal);
        command.arg("--journal").arg(journal);
    }
    peak::of_run(command.args(["--", "true"]))
}
