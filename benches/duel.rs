//! Ours against the peers, by ratio: `cargo bench --bench duel -- [GROUP…]`. See `benches/README.md`.

#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "measures real threads in real time")]

mod common;
mod groups;

use common::rounds::Plan;
use common::row::{self, Row};
use groups::{GROUPS, Group, build};
use std::env;
use std::panic::catch_unwind;
use std::process::ExitCode;

const USAGE: &str = "usage: cargo bench --bench duel -- [--test] [GROUP…]";

fn main() -> ExitCode {
    #[cfg(feature = "sqlite")]
    if env::args().nth(1).as_deref() == Some(groups::scale::ITEMS_IN) {
        groups::scale::items_in(&env::args().skip(2).collect::<Vec<_>>());
        return ExitCode::SUCCESS;
    }
    // cargo adds `--bench` when it benches, and nothing when it tests.
    let benching = env::args().any(|a| a == "--bench");
    let mut test = !benching;
    let mut named = Vec::new();
    for arg in env::args().skip(1) {
        match arg.as_str() {
            "--bench" => {}
            "--test" => test = true,
            "--list" => return ExitCode::SUCCESS,
            "--help" | "-h" => {
                println!("{USAGE}\ngroups: {}", groups::names());
                return ExitCode::SUCCESS;
            }
            flag if flag.starts_with('-') && benching => return refuse(&format!("unknown option {flag}")),
            // An option or a filter for the test harness, which cargo hands to every target alike.
            flag if flag.starts_with('-') => {}
            name => match GROUPS.iter().find(|g| g.name == name) {
                Some(group) => named.push(group),
                None if benching => return refuse(&format!("unknown group {name}")),
                None => return ExitCode::SUCCESS,
            },
        }
    }
    if named.is_empty() {
        named = GROUPS.iter().filter(|group| test || !group.on_request).collect();
    }
    hold(&named, if test { &Plan::TEST } else { &Plan::MEASURE })
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("duel: {why}\n{USAGE}\ngroups: {}", groups::names());
    ExitCode::from(2)
}

/// Holds the groups; one that breaks is named and does not take the others with it.
fn hold(groups: &[&Group], plan: &Plan) -> ExitCode {
    let mut rows: Vec<Row> = Vec::new();
    let mut broken = Vec::new();
    for group in groups {
        match catch_unwind(|| (group.hold)(group.name, plan)) {
            Ok(more) => rows.extend(more),
            // The panic's own message has been printed.
            Err(_) => broken.push(group.name),
        }
    }
    if plan.test {
        println!("duel: {} rows, semantics only, nothing measured", rows.len());
    } else {
        print!("\n{}", row::table(&rows));
        let missed = rows.iter().filter(|r| !r.met).count();
        let summary = build::target_dir().join("bench-summary.json");
        if let Err(e) = row::write(&summary, &rows) {
            eprintln!("duel: cannot write {}: {e}", summary.display());
            return ExitCode::FAILURE;
        }
        println!("\n{} rows, {missed} missed their target; {}", rows.len(), summary.display());
    }
    if broken.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("duel: no result from {}", broken.join(", "));
    ExitCode::FAILURE
}
