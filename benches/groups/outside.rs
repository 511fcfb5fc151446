//! Groups whose peers are no dependencies of this package: `benches/peers` holds them and prints their rows.

use super::build;
use crate::common::rounds::Plan;
use crate::common::row::Row;
use std::process::{Command, Stdio};

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    let Some(peers) = build::unpublished(group, "peers", !plan.test) else { return Vec::new() };
    let mut command = Command::new(peers);
    command.arg(group);
    if plan.test {
        command.arg("--test");
    }
    let output = command.stderr(Stdio::inherit()).output().expect("the program just built runs");
    assert!(output.status.success(), "{group}: benches/peers ended with {}", output.status);
    let text = String::from_utf8(output.stdout).expect("rows are UTF-8");
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{group}: no row: {e}: {l}")))
        .collect()
}
