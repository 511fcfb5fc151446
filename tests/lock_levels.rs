//! Every lock of the house has its level, and this is their order.
//!
//! The sources are read as text: which locks are declared where, and the order that `src/lock/house.rs` declares. Both are
//! held against the list below. What runs against the order is for the tests of everything else to find: in builds with
//! `debug_assertions` it panics.
//!
//! A `Condvar` needs no level: its partner is a lock's guard, and that lock has one.

use std::collections::{BTreeMap, BTreeSet};

#[path = "support/sources.rs"]
mod sources;

use sources::{Token, lex};

/// From the outermost to the innermost. Who holds one takes only such as come in later steps; those of one step, or with the same
/// level, are never held together.
const ORDER: &[&[(&str, &str)]] = &[
    &[
        ("Opening", "engine/shared.rs"),
        ("Spawning", "batch/engine.rs"),
        ("Readers", "batch/work.rs"),
        ("OwnReader", "batch/results.rs"),
    ],
    &[
        ("Places", "engine/shared.rs"),
        ("Past", "engine/shared.rs"),
        ("Taken", "engine/slot.rs"),
        ("Refilling", "engine/body.rs"),
        ("Backoff", "engine/body.rs"),
        ("Outbox", "batch/work.rs"),
        ("LaneWaiting", "engine/gate.rs"),
    ],
    &[
        ("LaneAt", "engine/shared.rs"),
        ("Steer", "engine/lane.rs"),
        ("SlotAt", "engine/shared.rs"),
        ("Zombies", "engine/gate.rs"),
        ("Looks", "store/sqlite/store.rs"),
        ("MemoryRows", "store/memory.rs"),
        ("Paying", "resource/manager.rs"),
        ("PermitWalk", "resource/holders.rs"),
        ("RatesMoving", "limit/several.rs"),
    ],
    &[
        ("TicketOutcome", "batch/ticket.rs"),
        ("SpawnQueue", "batch/ticket.rs"),
        ("Hand", "batch/ticket.rs"),
        ("Returned", "engine/body.rs"),
        ("Steps", "engine/body.rs"),
        ("Effects", "engine/context.rs"),
        ("ItemBill", "engine/context.rs"),
        ("LaneBill", "engine/gate.rs"),
        ("GateChanges", "engine/gate.rs"),
        ("Timers", "engine/shared.rs"),
        ("Threads", "engine/shared.rs"),
        ("Retired", "engine/shared.rs"),
        ("EndsWritten", "engine/shared.rs"),
        ("Throughput", "engine/shared.rs"),
        ("SlotSleepers", "engine/slot.rs"),
        ("SignalWaiting", "engine/signal.rs"),
        ("MemoryLog", "store/memory.rs"),
        ("Incoming", "store/sqlite/store.rs"),
        ("Repeats", "store/sqlite/append.rs"),
        ("Buried", "store/sqlite/store.rs"),
        ("Stepped", "store/sqlite/store.rs"),
        ("Inbox", "store/sqlite/writer.rs"),
        ("GivenUp", "store/sqlite/hand.rs"),
        ("JournalStores", "store/sqlite/journal.rs"),
        ("JournalWriter", "store/sqlite/journal.rs"),
        ("IdleReaders", "store/sqlite/read.rs"),
        ("AdminDb", "store/sqlite/admin.rs"),
        ("AskedStage", "store/sqlite/transaction.rs"),
        ("AskedWaiter", "store/sqlite/transaction.rs"),
        ("Asleep", "resource/manager.rs"),
        ("PermitSlot", "resource/holders.rs"),
        ("Revocations", "resource/inside.rs"),
        ("OwnerManagers", "resource/owner.rs"),
        ("PoolSlot", "resource/pool/holders.rs"),
        ("PoolWaits", "resource/pool/stats.rs"),
        ("PoolError", "resource/pool/stats.rs"),
        ("LockNames", "lock/names.rs"),
        ("LockNumbers", "lock/manager.rs"),
        ("LockWaits", "lock/stats.rs"),
        ("LockHolds", "lock/manager.rs"),
        ("HoldTimes", "lock/times.rs"),
        ("RateSettings", "limit/limiter.rs"),
        ("RateWaits", "limit/limiter_stats.rs"),
        ("ReservedSlot", "limit/reservation.rs"),
        ("QuotaWaits", "limit/tally.rs"),
        ("QuotaUsable", "limit/tally.rs"),
    ],
];

/// Modules whose locks these are.
const MODULES: &[&str] = &["batch", "engine", "resource", "store", "stats", "limit", "lock", "waitgraph"];

/// Locks without a level: file, type, why.
const WITHOUT: &[(&str, &str, &str)] = &[
    (
        "limit/keyed.rs",
        "Latches",
        "of `core/`; of the house, the settings of its rate alone are locked under it",
    ),
    ("limit/keyed.rs", "Latch", "one of those"),
    ("lock/level.rs", "Mutex", "of the check itself"),
];

/// Files that make locks, and have none.
const MAKERS: &[&str] =
    &["lock/all.rs", "lock/guard.rs", "lock/levelled.rs", "lock/mutex.rs", "lock/rwlock.rs", "lock/token.rs"];

const TYPES: &[&str] = &["Mutex", "RwLock", "Latch", "Latches"];

#[test]
fn every_lock_has_its_level() {
    for (step, levels) in ORDER.iter().enumerate() {
        println!("step {}", step + 1);
        levels.iter().for_each(|(level, file)| println!("    {level:14} {file}"));
    }
    let offences = check(&sources::read(), ORDER, WITHOUT);
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

// ---- the checker ----

type Order<'a> = &'a [&'a [(&'a str, &'a str)]];

fn check(files: &[(String, String)], order: Order<'_>, without: &[(&str, &str, &str)]) -> Vec<String> {
    let mut offences = Vec::new();
    let tests = test_modules(files);
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut excused = BTreeSet::new();
    for (file, text) in files {
        let module = file.split(['/', '.']).next().unwrap_or_default();
        let is_test = tests.iter().any(|test| {
            file.strip_prefix(test.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        });
        if !MODULES.contains(&module) || MAKERS.contains(&&**file) || is_test {
            continue;
        }
        for lock in locks(&without_tests(lex(text))) {
            match lock {
                Lock::Levelled(level) => found.entry(level).or_default().push(file.clone()),
                Lock::Bare(what, line) => {
                    match without.iter().position(|(at, type_, _)| at == file && *type_ == what) {
                        Some(at) => drop(excused.insert(at)),
                        None => offences
                            .push(format!("src/{file}:{line}: a `{what}` without a level of the house")),
                    }
                }
            }
        }
    }
    for (at, (file, what, _)) in without.iter().enumerate() {
        if !excused.contains(&at) {
            offences.push(format!(
                "src/{file}: it has no `{what}` without a level any more: strike it off `WITHOUT`"
            ));
        }
    }
    for (level, file) in order.iter().copied().flatten() {
        match found.remove(*level).as_deref() {
            Some([there]) if there == file => {}
            Some([there]) => offences.push(format!("`{level}` is in src/{there}, not in src/{file}")),
            Some(there) => offences.push(format!("`{level}` is declared {} times: {there:?}", there.len())),
            None => offences.push(format!("no lock in src/ has the level `{level}`")),
        }
    }
    for (level, there) in found {
        offences.push(format!("`{level}` of src/{} is not in `ORDER`", there[0]));
    }
    let house = files.iter().find(|(file, _)| file == "lock/house.rs").map_or("", |(_, text)| text);
    let house = lex(house);
    let declared = declared(&house);
    let listed: Vec<Vec<&str>> =
        order.iter().map(|step| step.iter().map(|(level, _)| *level).collect()).collect();
    if declared != listed {
        offences.push(format!("src/lock/house.rs declares another order than `ORDER`: {declared:?}"));
    }
    offences
}

#[derive(Debug)]
enum Lock {
    /// Its level.
    Levelled(String),
    /// Its type, and the line.
    Bare(String, usize),
}

/// Where the type of a lock is written out, or a value of it is made without that.
fn locks(tokens: &[Token]) -> Vec<Lock> {
    let text = |at: usize| tokens.get(at).map_or("", |token| &*token.text);
    let mut found = Vec::new();
    for (at, Token { text: name, line }) in tokens.iter().enumerate() {
        // `Levelled<…>`, and `Levelled::<…>`. A reference to one declares none.
        let open = if text(at + 1) == "::" && text(at + 2) == "<" { at + 2 } else { at + 1 };
        if name == "Levelled" && text(open) == "<" {
            if at > 0 && text(at - 1) == "&" {
                continue;
            }
            let level = (open..close(tokens, open)).rev().find(|at| text(*at) == "house");
            found.push(match level {
                Some(at) => Lock::Levelled(text(at + 2).to_owned()),
                None => Lock::Bare(name.clone(), *line),
            });
        } else if TYPES.contains(&&**name) && ["<", "::", "as"].contains(&text(at + 1)) {
            found.push(Lock::Bare(name.clone(), *line));
        }
    }
    found
}

/// The `>` of the `<` at `open`.
fn close(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for at in open..tokens.len() {
        match &*tokens[at].text {
            "<" => depth += 1,
            ">" if tokens[at - 1].text != "-" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

/// The steps of `House: { A | B } < { C }`.
fn declared(tokens: &[Token]) -> Vec<Vec<&str>> {
    let begin = tokens.windows(2).position(|two| two[0].text == "House" && two[1].text == ":");
    let mut steps = vec![Vec::new()];
    let mut depth = 1;
    for Token { text, .. } in tokens.iter().skip(begin.map_or(tokens.len(), |at| at + 2)) {
        match &**text {
            "{" => depth += 1,
            "}" => depth -= 1,
            "<" => steps.push(Vec::new()),
            "|" => {}
            level => steps.last_mut().expect("there is a first").push(level),
        }
        if depth == 0 {
            break;
        }
    }
    steps
}

/// What is compiled for tests alone is left out.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let mut left = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        if token.text != "#" || tokens.peek().is_none_or(|next| next.text != "[") {
            left.push(token);
            continue;
        }
        let attribute: Vec<String> = group(&mut tokens);
        if !is_for_tests(&attribute) {
            continue;
        }
        // The item, or the field, with what else is said of it.
        let mut is_item = false;
        while let Some(next) = tokens.peek() {
            match &*next.text {
                "{" => {
                    group(&mut tokens);
                    break;
                }
                "(" | "[" => drop(group(&mut tokens)),
                ";" => {
                    tokens.next();
                    break;
                }
                "," if !is_item => {
                    tokens.next();
                    break;
                }
                "}" => break,
                text => {
                    is_item |= ["mod", "fn", "impl", "struct", "enum", "trait"].contains(&text);
                    tokens.next();
                }
            }
        }
    }
    left
}

fn is_for_tests(attribute: &[String]) -> bool {
    let says = |word: &str| attribute.iter().any(|token| token == word);
    says("cfg") && says("test") && !says("not") && !says("any")
}

/// The tokens of a group in brackets, which begins here.
fn group(tokens: &mut impl Iterator<Item = Token>) -> Vec<String> {
    let (mut depth, mut inside) = (0, Vec::new());
    for token in tokens {
        match &*token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        inside.push(token.text);
        if depth == 0 {
            break;
        }
    }
    inside
}

/// Files that are compiled for tests alone, without their `.rs`: `#[cfg(test)] mod name;`.
fn test_modules(files: &[(String, String)]) -> Vec<String> {
    let mut modules = Vec::new();
    for (file, text) in files {
        let tokens = lex(text);
        let text = |at: usize| tokens.get(at).map_or("", |token| &*token.text);
        let within = match file.rsplit_once('/') {
            Some((folder, "mod.rs")) => format!("{folder}/"),
            _ => format!("{}/", file.trim_end_matches(".rs")),
        };
        let mut is_test = false;
        let mut at = 0;
        while at < tokens.len() {
            if text(at) == "#" && text(at + 1) == "[" {
                let end = (at..tokens.len()).find(|at| text(*at) == "]").unwrap_or(tokens.len());
                is_test |= is_for_tests(&(at..end).map(|at| text(at).to_owned()).collect::<Vec<_>>());
                at = end + 1;
                continue;
            }
            if text(at) == "mod" && text(at + 2) == ";" && is_test {
                modules.push(format!("{within}{}", text(at + 1)));
            }
            // Attributes are of what follows; a visibility stands in between.
            is_test &= ["pub", "(", "crate", "super", ")"].contains(&text(at));
            at += 1;
        }
    }
    modules
}

// ---- the checker is checked ----

const TWO: Order<'_> = &[&[("A", "engine/a.rs")], &[("B", "engine/a.rs"), ("C", "store/c.rs")]];
const HOUSE: &str = "lock_order! { /// All.\n House: A // the first\n < { B | C } }";
const ENGINE: &str = "struct S { a: Levelled<(), house::A>, b: Box<[Levelled<Vec<fn() -> u8>, house::B>]> }";
const STORE: &str = "static C: Levelled<u8, house::C> = Levelled::new(0);";

#[track_caller]
fn caught(engine: &str, store: &str, house: &str, expected: &[&str]) {
    let files = [("engine/a.rs", engine), ("store/c.rs", store), ("lock/house.rs", house)];
    let files = files.map(|(name, text)| (name.to_owned(), text.to_owned()));
    let found = check(&files, TWO, &[]);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{found} does not say {expected}");
    }
}

#[test]
fn a_house_in_order_passes() {
    caught(ENGINE, STORE, HOUSE, &[]);
    let tests = "#[cfg(test)] mod tests { struct T { m: Mutex<u8> } }
        #[cfg(test)] struct Planted<A, B>(Mutex<(A, B)>);
        struct S { #[cfg(test)] planted: crate::sync::Mutex<u64>, x: u8 }
        fn f<L: Level>(lock: &Levelled<u8, L>, another: &'static Levelled<u8, house::A>) {}
        // Mutex<u8>
        use crate::sync::{Arc, Mutex};";
    caught(&format!("{tests} {ENGINE}"), STORE, HOUSE, &[]);
}

#[test]
fn a_lock_without_a_level_is_caught() {
    let without = "src/engine/a.rs:2: a `";
    for lock in [
        "struct T { m: Mutex<u8> }",
        "struct T { m: Box<[RwLock<u8>]> }",
        "fn f() { let m = Arc::new(Mutex::new(1)); }",
        "use crate::sync::Mutex as Quiet;",
        "struct T { m: Latch<u8> }",
        "struct T<L> { m: Levelled<u8, L> }",
        "fn f() { Levelled::<u8, L>::new(1) }",
        "#[cfg(not(test))] struct T { m: Mutex<u8> }",
        "struct T { #[cfg(test)] a: u8, m: Mutex<u8> }",
    ] {
        caught(&format!("{ENGINE}\n{lock}"), STORE, HOUSE, &[without]);
    }
}

#[test]
fn a_lock_out_of_the_list_is_caught() {
    caught(&format!("{ENGINE} struct T(Levelled<u8, house::D>);"), STORE, HOUSE, &["`D` of src/engine/a.rs"]);
    caught(
        &format!("{ENGINE} struct T(Levelled<u8, house::A>);"),
        STORE,
        HOUSE,
        &["`A` is declared 2 times"],
    );
    caught(ENGINE, "", HOUSE, &["no lock in src/ has the level `C`"]);
    caught(&format!("{ENGINE} {STORE}"), "", HOUSE, &["`C` is in src/engine/a.rs, not in src/store/c.rs"]);
}

#[test]
fn another_order_is_caught() {
    let another = "declares another order";
    caught(ENGINE, STORE, "lock_order! { House: { B | C } < A }", &[another]);
    caught(ENGINE, STORE, "lock_order! { House: A < B < C }", &[another]);
    caught(ENGINE, STORE, "lock_order! { House: A < { B | C } < D }", &[another]);
    caught(ENGINE, STORE, "", &[another]);
}

#[test]
fn modules_of_tests_are_left_out_and_exceptions_are_used() {
    let files = [
        ("engine/mod.rs", "#[cfg(test)]\npub(crate) mod a_tests;\nmod b;"),
        ("engine/a_tests.rs", "struct T(Mutex<u8>);"),
        ("engine/a_tests/more.rs", "struct T(Mutex<u8>);"),
        ("engine/b.rs", "struct T(Latches<u8>);"),
        ("core/c.rs", "struct T(Latch<u8>);"),
        ("lock/house.rs", "lock_order! { House: }"),
    ];
    let files = files.map(|(name, text)| (name.to_owned(), text.to_owned()));
    let excused = ("engine/b.rs", "Latches", "");
    assert_eq!(check(&files, &[&[]], &[excused]), [""; 0]);
    assert_eq!(check(&files, &[&[]], &[]), ["src/engine/b.rs:1: a `Latches` without a level of the house"]);
    let unused = check(&files, &[&[]], &[excused, ("engine/b.rs", "Mutex", "")]);
    assert_eq!(
        unused,
        ["src/engine/b.rs: it has no `Mutex` without a level any more: strike it off `WITHOUT`"]
    );
}
