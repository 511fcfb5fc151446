//! Paired rounds against peers that must not enter the package's own dependency tree (tokio's crate; r2d2 unless asked for). `cargo bench --bench duel` builds and runs this program:
//! `batchyard-peers [--test] GROUP…` prints one JSON row a line.

#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "measures real threads in real time")]

#[path = "../../common/mod.rs"]
mod common;
mod composed;
mod item;
mod permit;
mod pool;

use common::rounds::Plan;
use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    let test = env::args().any(|a| a == "--test");
    let plan = if test { Plan::TEST } else { Plan::MEASURE };
    for group in env::args().skip(1).filter(|a| a != "--test") {
        let rows = match group.as_str() {
            "permit" => permit::hold(&group, &plan),
            "pool" => pool::hold(&group, &plan),
            "item" => item::hold(&group, &plan),
            _ => {
                eprintln!("batchyard-peers: unknown group {group}; groups: permit, pool, item");
                return ExitCode::from(2);
            }
        };
        for row in rows {
            println!("{}", serde_json::to_string(&row).expect("a row is plain data"));
        }
    }
    ExitCode::SUCCESS
}
