//! Items that were given up: what is told of them, and how their batches end.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::*;
use std::sync::{Arc, Mutex};
use support::*;

fn three_tries() -> Retry {
    Retry::fixed(std::time::Duration::ZERO).attempts(3).no_budget()
}

/// By item: 0 is done, 5 is left out, the others die.
fn ill(item: &u64, ctx: &Context) -> Result<u64, Failure> {
    match (item, ctx.attempt()) {
        (1, attempt) => Err(Failure::retry(format!("try {attempt} of one"))),
        (2, 1) => Err(Failure::retry("a first try of two")),
        (2, _) => Err(Failure::fatal("two is hopeless")),
        (3, attempt) => panic!("three, {attempt}"),
        (4, _) if ctx.deferrals() == 0 => Err(Failure::defer(std::time::Duration::ZERO)),
        (4, _) => Err(Failure::fatal("four")),
        (5, _) => Err(Failure::skip("not five")),
        _ => Ok(*item),
    }
}

#[test]
fn promise_14_the_dead_are_listed_with_every_attempts_error() {
    within(|| {
        let engine = engine(2);
        for read in [true, false] {
            let batch = engine.batch("b").retry(three_tries()).submit(0..6u64, ill).unwrap();
            let results: Vec<_> = if read { batch.results().map(Result::unwrap).collect() } else { vec![] };
            // Whether or not anybody has read the results, and after their end.
            assert_eq!(report(&batch).failed_items, 4);
            let mut dead = batch.dead();
            dead.sort_by_key(|item| item.seq);
            let told: Vec<_> = dead
                .iter()
                .map(|item| {
                    let errors = item.dead.errors().iter();
                    let errors = errors.map(|e| (e.attempt, e.kind, e.message.clone())).collect::<Vec<_>>();
                    (item.seq, item.dead.reason(), item.dead.attempts(), errors)
                })
                .collect();
            let error = |attempt, kind, message: &str| (attempt, kind, message.to_owned());
            use AttemptKind::{Deferred, Failed, Fatal, Panicked};
            assert_eq!(
                told[..3],
                [
                    (
                        1,
                        DeadReason::Exhausted,
                        3,
                        vec![
                            error(1, Failed, "try 1 of one"),
                            error(2, Failed, "try 2 of one"),
                            error(3, Failed, "try 3 of one"),
                        ]
                    ),
                    (
                        2,
                        DeadReason::Fatal,
                        2,
                        vec![error(1, Failed, "a first try of two"), error(2, Fatal, "two is hopeless"),]
                    ),
                    (
                        3,
                        DeadReason::Panicked,
                        3,
                        vec![
                            error(1, Panicked, "panicked: three, 1"),
                            error(2, Panicked, "panicked: three, 2"),
                            error(3, Panicked, "panicked: three, 3"),
                        ]
                    ),
                ]
            );
            let (seq, reason, attempts, errors) = &told[3];
            assert_eq!((*seq, *reason, *attempts), (4, DeadReason::Fatal, 1));
            assert_eq!(errors.iter().map(|error| error.1).collect::<Vec<_>>(), [Deferred, Fatal]);
            assert_eq!(told.len(), 4, "what was left out is not dead");
            for error in dead[2].dead.errors() {
                assert!(error.place.as_ref().is_some_and(|place| place.contains("dead.rs")), "{error:?}");
            }
            // The results say the same.
            for item in results {
                let listed = dead.iter().find(|dead| dead.seq == item.seq);
                match (item.seq, item.outcome) {
                    (0, outcome) => assert_eq!(outcome, Ok(0)),
                    (5, outcome) => assert!(outcome.unwrap_err().is_skipped()),
                    (_, outcome) => assert_eq!(Some(&outcome.unwrap_err()), listed.map(|dead| &dead.dead)),
                }
            }
        }
    });
}

#[test]
fn promise_14_a_batch_with_dead_items_never_ends_as_plain_done() {
    within(|| {
        let told = Arc::new(Mutex::new(Vec::new()));
        let there = told.clone();
        let engine = Engine::builder().workers(2).in_memory().on_event(move |event| {
            if let Event::BatchEnded { status, .. } = event {
                there.lock().unwrap().push((*status).clone());
            }
        });
        let engine = engine.open().unwrap();
        let die = |_: &u64, _: &Context| Err::<u64, _>(Failure::fatal("dead"));
        let ended = |batch: Batch<u64, u64>, failed: u64| {
            let report = report(&batch);
            assert_eq!(report.failed_items, failed, "{report:?}");
            report
        };

        let plain = ended(engine.batch("plain").submit([1], die).unwrap(), 1);
        assert_eq!(plain.status, BatchStatus::CompletedWithFailures);
        let some = ended(engine.batch("some").retry(three_tries()).submit(0..6u64, ill).unwrap(), 4);
        assert_eq!(some.status, BatchStatus::CompletedWithFailures);

        // Ended from outside after the last item had died: nothing was left to cancel.
        for now in [false, true] {
            let batch = engine.batch("stopped").open(die).unwrap();
            batch.push(1).unwrap();
            until("it is dead", || batch.progress().failed == 1);
            if now {
                batch.cancel()
            } else {
                batch.stop()
            }
            assert_eq!(ended(batch, 1).status, BatchStatus::Cancelled);
        }
        let halted = engine.batch("halted").halt("soon,fail=1".parse().unwrap()).submit([1], die).unwrap();
        assert!(matches!(ended(halted, 1).status, BatchStatus::Halted(_)));

        let borrowed = [1u64];
        let (_, mapped) = engine.batch("map").map_with_report(borrowed, die).unwrap();
        let each = engine.for_each(borrowed, |_, _| Err(Failure::fatal("dead")));
        for report in [plain, some, mapped, each] {
            assert!(!report.is_success(), "{report:?}");
            assert_eq!(report.status, BatchStatus::CompletedWithFailures);
        }
        assert!(engine.try_map(borrowed, die).is_err());

        // What was left out alone is no failure.
        let skipped = engine.batch("skip").submit([1u64], |_, _| Err::<(), _>(Failure::skip("no"))).unwrap();
        assert!(report(&skipped).is_success() && skipped.dead().is_empty());

        let told = told.lock().unwrap();
        assert_eq!(told.len(), 6);
        assert_eq!(told.iter().position(|status| *status == BatchStatus::Completed), Some(5), "{told:?}");
    });
}
