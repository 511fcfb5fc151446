//! The house stands: every path in `src/` points down, or sideways where no circle arises.
//!
//! This reads the sources as text, without a compiler: a small lexer drops comments, strings and character literals,
//! then every path is resolved, in `use` trees and inline, `crate::`, `super::` and `self::` alike. It knows nothing
//! of macros' expansions, and of `$crate` only what names a module: an exported macro must go through public paths.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

#[path = "support/sources.rs"]
mod sources;

use sources::{Token, lex};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The floors of the house. A module at the root of `src/` that is not listed is an offence.
const FLOORS: &[(&str, u8)] = &[
    ("cli", 7),
    ("flow", 6),
    ("par", 6),
    ("batch", 5),
    ("engine", 4),
    ("resource", 3),
    ("store", 3),
    ("stats", 3),
    ("limit", 2),
    ("lock", 2),
    ("waitgraph", 2),
    ("core", 1),
    ("policy", 1),
    ("meter", 1),
    ("seeds", 1),
    ("job", 1),
    ("sync", 0),
    ("time", 0),
    ("error", 0),
];

/// What only floor 0 may name: paths that begin so.
const FLOOR_0_ONLY: &[&[&str]] = &[
    &["std", "sync"],
    &["core", "sync"],
    &["alloc", "sync"],
    &["std", "thread", "spawn"],
    &["loom"],
    &["shuttle"],
];

#[test]
fn the_house_stands() {
    let offences = check(&sources::read());
    assert!(offences.is_empty(), "\n{}", offences.iter().map(|o| format!("{o}\n")).collect::<String>());
}

// ---- the checker ----

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Offence {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}:{}: {}", self.file, self.line, self.what)
    }
}

/// Checks sources given as (path below `src/`, text).
fn check(files: &[(String, String)]) -> Vec<Offence> {
    let floors: BTreeMap<&str, u8> = FLOORS.iter().copied().collect();
    let mut offences = Vec::new();
    // From module to module, and the first place that says so.
    let mut arrows: BTreeMap<(String, String), (String, usize)> = BTreeMap::new();

    for (file, text) in files {
        if file == "lib.rs" || file == "main.rs" {
            continue;
        }
        let here = module_of(file);
        let mut offend = |line, what: String| offences.push(Offence { file: file.clone(), line, what });
        let Some(&floor) = floors.get(here[0].as_str()) else {
            offend(1, format!("module `{}` has no floor: give it one in tests/layering.rs", here[0]));
            continue;
        };
        for Named { path, within, line, imported } in paths(&lex(text)) {
            let said = path.join("::");
            let Some(target) = resolve(&path, &here, &within) else {
                let names = |prefix: &&&[&str]| {
                    path.len() >= prefix.len() && path.iter().zip(**prefix).all(|(a, b)| a == b)
                };
                // A lone `loom` is a cfg predicate, unless it is imported.
                if floor > 0 && (path.len() > 1 || imported) && FLOOR_0_ONLY.iter().any(|p| names(&p)) {
                    offend(line, format!("`{said}` outside floor 0: use crate::sync"));
                }
                continue;
            };
            let Some(module) = target.first() else {
                offend(line, format!("`{said}` names the crate's root: name the module"));
                continue;
            };
            let Some(&below) = floors.get(module.as_str()) else {
                if path[0] != "$crate" {
                    offend(
                        line,
                        format!("`{said}` goes through the crate's root: name the module that defines it"),
                    );
                }
                continue;
            };
            if below > floor {
                offend(
                    line,
                    format!("`{said}` points up, from floor {floor} ({}) to floor {below}", here[0]),
                );
            }
            if *module != here[0] {
                arrows.entry((here[0].clone(), module.clone())).or_insert_with(|| (file.clone(), line));
            }
        }
    }
    for circle in circles(arrows.keys()) {
        let next = circle.get(1).unwrap_or(&circle[0]).clone();
        let (file, line) = arrows[&(circle[0].clone(), next)].clone();
        let what = format!("modules in a circle: {} -> {}", circle.join(" -> "), circle[0]);
        offences.push(Offence { file, line, what });
    }
    offences.sort();
    offences.dedup();
    offences
}

/// `a/b.rs` is `[a, b]`, `a/mod.rs` is `[a]`.
fn module_of(file: &str) -> Vec<String> {
    let mut parts: Vec<String> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.len() > 1 && parts.last().is_some_and(|p| p == "mod") {
        parts.pop();
    }
    parts
}

/// Where a path of this crate leads, as segments from the root; `None` for a path that begins elsewhere.
fn resolve(path: &[String], file: &[String], within: &[String]) -> Option<Vec<String>> {
    let mut rest = path;
    let mut base: Vec<String> = match path[0].as_str() {
        "crate" | "$crate" => {
            rest = &rest[1..];
            Vec::new()
        }
        "super" | "self" => file.iter().chain(within).cloned().collect(),
        _ => return None,
    };
    while let Some(first) = rest.first() {
        match first.as_str() {
            "super" => drop(base.pop()),
            "self" => {}
            _ => break,
        }
        rest = &rest[1..];
    }
    base.extend(rest.iter().filter(|s| *s != "self" && *s != "*").cloned());
    Some(base)
}

/// One shortest circle for each module that is in one, each set of modules once, the smallest name first.
fn circles<'a>(arrows: impl Iterator<Item = &'a (String, String)>) -> Vec<Vec<String>> {
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in arrows {
        next.entry(from).or_default().push(to);
    }
    let mut found: BTreeMap<BTreeSet<&str>, Vec<String>> = BTreeMap::new();
    for start in next.keys() {
        let mut queue = vec![vec![*start]];
        let mut seen = BTreeSet::new();
        'search: while !queue.is_empty() {
            for walk in std::mem::take(&mut queue) {
                for to in next.get(walk[walk.len() - 1]).into_iter().flatten() {
                    if to == start {
                        let set = walk.iter().copied().collect();
                        found.entry(set).or_insert_with(|| walk.iter().map(|s| s.to_string()).collect());
                        break 'search;
                    }
                    if seen.insert(*to) {
                        queue.push(walk.iter().copied().chain([*to]).collect());
                    }
                }
            }
        }
    }
    found.into_values().collect()
}

// ---- paths ----

/// A path as the source names it, `use` trees unfolded.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    path: Vec<String>,
    /// The inline modules around it.
    within: Vec<String>,
    line: usize,
    imported: bool,
}

fn paths(tokens: &[Token]) -> Vec<Named> {
    let mut found = Vec::new();
    // Open braces: the inline module that each one opens, if it does.
    let mut braces: Vec<Option<String>> = Vec::new();
    let text = |i: usize| tokens.get(i).map_or("", |t| t.text.as_str());
    let mut i = 0;
    while i < tokens.len() {
        let within = || braces.iter().flatten().cloned().collect::<Vec<_>>();
        match text(i) {
            "use" => {
                let mut leaves = Vec::new();
                let mut at = i + 1;
                tree(tokens, &mut at, &mut Vec::new(), &mut leaves);
                let within = within();
                found.extend(leaves.into_iter().map(|(path, line)| Named {
                    path,
                    within: within.clone(),
                    line,
                    imported: true,
                }));
                i = at;
            }
            "mod" if is_name(text(i + 1)) && text(i + 2) == "{" => {
                braces.push(Some(text(i + 1).to_owned()));
                i += 3;
            }
            "{" => {
                braces.push(None);
                i += 1;
            }
            "}" => {
                braces.pop();
                i += 1;
            }
            name if is_name(name) => {
                let line = tokens[i].line;
                let mut path = vec![name.to_owned()];
                while text(i + 1) == "::" && is_name(text(i + 2)) {
                    path.push(text(i + 2).to_owned());
                    i += 2;
                }
                // A lone `crate` is a visibility, a lone `self` a value.
                if path.len() > 1 {
                    found.push(Named { path, within: within(), line, imported: false });
                }
                i += 1;
            }
            _ => i += 1,
        }
    }
    found
}

/// Unfolds one `use` tree that starts at `at`, below `prefix`; stops behind its last token.
fn tree(tokens: &[Token], at: &mut usize, prefix: &mut Vec<String>, leaves: &mut Vec<(Vec<String>, usize)>) {
    let depth = prefix.len();
    while let Some(token) = tokens.get(*at) {
        match token.text.as_str() {
            "::" => *at += 1,
            "{" => {
                *at += 1;
                while tokens.get(*at).is_some_and(|t| t.text != "}") {
                    if tokens[*at].text == "," {
                        *at += 1;
                    } else {
                        let before = *at;
                        tree(tokens, at, prefix, leaves);
                        // In a macro's body a tree can hold anything: go on behind it.
                        *at = (*at).max(before + 1);
                    }
                }
                *at += 1;
                break;
            }
            "as" => {
                *at += 2;
            }
            name if is_name(name) || name == "*" => {
                prefix.push(name.to_owned());
                *at += 1;
                if tokens.get(*at).is_none_or(|t| t.text != "::") {
                    leaves.push((prefix.clone(), token.line));
                }
            }
            _ => break,
        }
    }
    prefix.truncate(depth);
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c == '_' || c == '$' || c.is_alphabetic()) && text != "as"
}

// ---- the checker is checked ----

/// The offences of made-up files, as they are printed.
fn offences(files: &[(&str, &str)]) -> Vec<String> {
    let files: Vec<_> = files.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect();
    check(&files).iter().map(|o| o.to_string()).collect()
}

#[track_caller]
fn caught(file: &str, text: &str, expected: &[&str]) {
    let found = offences(&[(file, text)]);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{found} does not say {expected}");
    }
}

#[test]
fn a_clean_file_passes() {
    let text = "use crate::{job::{Key, Retry as R}, sync::{self, Arc}};\nuse std::{fmt, sync_not::X};\n
        pub(crate) fn f(k: &crate::job::Key) -> crate::time::Clock { self.x; Self::y }
        #[cfg(loom)] mod tests { use super::*; use super::super::super::error::Invalid; }";
    caught("engine/a.rs", text, &[]);
}

#[test]
fn an_upward_arrow_is_caught() {
    caught(
        "job/key.rs",
        "\nuse crate::engine::Workers;",
        &["src/job/key.rs:2: `crate::engine::Workers` points up"],
    );
    caught("job/mod.rs", "pub use crate::{error::X, meter::{A,\n stats_like, B}};", &[]);
    caught(
        "time.rs",
        "use crate::{sync::Arc,\n job::{Key, Dead}};",
        &["time.rs:2: `crate::job::Dead`", "`crate::job::Key`"],
    );
}

#[test]
fn inline_paths_are_caught() {
    caught("limit/a.rs", "fn f() {\n let x = crate::batch::Batch::<u8>::new();\n}", &["a.rs:2"]);
    caught(
        "policy/a.rs",
        "type X = Vec<crate::store::Row>;",
        &["points up, from floor 1 (policy) to floor 3"],
    );
    caught(
        "job/a.rs",
        "macro_rules! m { () => { $crate::engine::x() } }",
        &["`$crate::engine::x` points up"],
    );
}

#[test]
fn super_paths_are_resolved() {
    caught("core/a.rs", "use super::super::limit::X;", &["points up"]);
    caught("core/a.rs", "mod inner { fn f() { super::super::super::engine::g() } }", &["points up"]);
    caught("core/a.rs", "mod inner { use super::limit::X; }", &[]);
    caught("core/mod.rs", "use super::limit::X;", &["points up"]);
    caught("core/a.rs", "mod t { } use super::super::limit::X;", &["points up"]);
}

#[test]
fn root_re_exports_are_caught() {
    caught("batch/a.rs", "use crate::Key;", &["goes through the crate's root"]);
    caught("batch/a.rs", "use crate::{job::Key, Priority};", &["`crate::Priority`"]);
    caught("batch/a.rs", "fn f() -> crate::Retry { }", &["`crate::Retry`"]);
    caught("batch/a.rs", "use crate::*;", &["names the crate's root"]);
    caught("batch/mod.rs", "use super::*;", &["names the crate's root"]);
}

#[test]
fn floor_0_keeps_std_sync_to_itself() {
    caught("engine/a.rs", "use std::{fmt, sync::{Arc, Mutex}};", &["`std::sync::Arc`", "`std::sync::Mutex`"]);
    caught(
        "engine/a.rs",
        "fn f() { std::thread::spawn(g); std::thread::panicking(); }",
        &["std::thread::spawn"],
    );
    caught(
        "engine/a.rs",
        "use loom;\nuse core::sync::atomic::fence;",
        &["`loom`", "`core::sync::atomic::fence`"],
    );
    caught("engine/a.rs", "fn f() { shuttle::thread::yield_now() }", &["`shuttle::thread::yield_now`"]);
    caught("sync/parker.rs", "use std::sync::Arc; use loom::sync::Mutex;", &[]);
}

#[test]
fn comments_and_literals_say_nothing() {
    let text = r####"
        //! crate::engine::A
        /// ```
        /// use crate::Batch;
        /// ```
        /* crate::engine::A /* std::sync::Mutex */ crate::engine::B */
        fn f<'a>(x: &'a str) { "crate::engine::C \" crate::engine::D"; r#"std::sync "crate::engine"#; b"loom::x";
            '"'; 'c'; '\''; '\u{1f600}'; 'a: loop { break 'a } }
        "several
         lines"; use crate::cli::X;
    "####;
    caught("job/a.rs", text, &["src/job/a.rs:10: `crate::cli::X` points up"]);
}

#[test]
fn circles_are_caught() {
    let two = offences(&[("job/a.rs", "use crate::meter::X;"), ("meter/b.rs", "\nuse crate::job::Y;")]);
    assert_eq!(two, ["src/job/a.rs:1: modules in a circle: job -> meter -> job"]);
    let three = offences(&[
        ("store/a.rs", "use crate::stats::X;"),
        ("stats/a.rs", "use crate::resource::X;"),
        ("resource/a.rs", "fn f() { crate::store::g() }"),
    ]);
    assert_eq!(three, ["src/resource/a.rs:1: modules in a circle: resource -> store -> stats -> resource"]);
    assert!(
        offences(&[("job/a.rs", "use crate::meter::X;"), ("policy/b.rs", "use crate::job::Y;")]).is_empty()
    );
}

#[test]
fn a_module_without_a_floor_is_caught() {
    caught("misc.rs", "", &["src/misc.rs:1: module `misc` has no floor"]);
}
