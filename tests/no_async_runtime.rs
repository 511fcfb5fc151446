//! No async runtime gets into the dependency tree, whatever the features and the target: `cargo tree` is asked.
//! Development dependencies are left out: they are not what a user of the crate builds.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

use std::process::Command;

/// Runtimes, executors and reactors. `futures-core` and `futures-util` are traits and combinators without anything
/// that runs them (wasm's `js-sys` and the model checker shuttle name them); `futures` brings an executor.
const FORBIDDEN: &[&str] = &[
    "actix-rt",
    "async-executor",
    "async-global-executor",
    "async-io",
    "async-std",
    "blocking",
    "compio",
    "embassy-executor",
    "futures",
    "futures-executor",
    "futures-lite",
    "glommio",
    "mio",
    "monoio",
    "pollster",
    "smol",
    "tokio",
    "tokio-util",
];

/// The names under `[features]`.
fn features() -> Vec<String> {
    let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    let section = manifest.split_once("\n[features]\n").expect("a [features] section").1;
    section
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name.trim().to_owned())
        .collect()
}

/// The packages of the normal and build dependencies under these flags.
fn packages(flags: &[&str]) -> Vec<String> {
    let ask = |network: &[&str]| {
        Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"])
            .args(network)
            .args(flags)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs")
    };
    let mut output = ask(&["--offline"]);
    if !output.status.success() {
        // A fresh machine has not downloaded what its own build does not need.
        output = ask(&[]);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo tree {}: {said}", flags.join(" "));
    let tree = String::from_utf8(output.stdout).unwrap();
    tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

fn forbidden(packages: &[String]) -> Vec<&str> {
    packages.iter().map(String::as_str).filter(|name| FORBIDDEN.contains(name)).collect()
}

#[test]
fn no_feature_brings_an_async_runtime() {
    let features = features();
    for known in ["cli", "config", "tracing"] {
        assert!(features.iter().any(|f| f == known), "the manifest was not understood: {features:?}");
    }
    let mut cases: Vec<Vec<&str>> = vec![
        vec!["--no-default-features"],
        vec![],
        vec!["--all-features"],
        vec!["--all-features", "--target", "all"],
    ];
    for feature in &features {
        cases.push(vec!["--no-default-features", "--features", feature]);
    }
    for flags in cases {
        let packages = packages(&flags);
        assert!(packages.iter().any(|p| p == "crossbeam"), "not our tree: {packages:?}");
        let found = forbidden(&packages);
        assert!(found.is_empty(), "cargo tree {}: {found:?}", flags.join(" "));
    }
}

#[test]
fn the_list_is_looked_at_by_whole_names() {
    let packages = ["tokio", "tokio-stream-like", "batchyard", "smol"].map(str::to_owned);
    assert_eq!(forbidden(&packages), ["tokio", "smol"]);
}
