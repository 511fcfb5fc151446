//! Groups whose peers are no dependencies of this package: `benches/peers` holds them and prints their rows.

use super::build;
use crate::common::rounds::Plan;
use crate::common::row::Row;
use std::process::{Command, Stdio};

const MANIFEST: &str = "benches/peers/Cargo.toml";

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    if plan.test && !build::package().join(MANIFEST).is_file() {
        eprintln!("{group}: left out, {MANIFEST} is not part of the published package");
        return Vec::new();
    }
    let peers = build::program(!plan.test, &["--manifest-path", MANIFEST]);
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
