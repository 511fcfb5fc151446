//! What every store must do, told once: a new store writes a [`Maker`] and one line of [`conforms`].
//!
//! The cases know nothing of how a store works. Some act at once, others later and tell the engine through a
//! [`Link`]: so every case looks at what comes in the end, not at what there is after a call. What a store may leave
//! to the engine (keeping items for another attempt, steps, readers of their own), or does not have (tables for the user's
//! SQL, rows that outlive the process), is looked at where it does.

use super::{
    AppendError, Appended, Claim, JournalError, Link, Order, Origin, Past, Read, Retried, Row, Settled,
    Store, Unsealed,
};
use crate::job::{AttemptError, AttemptKind, Dead, DeadReason, Duplicates, Failure, Key};
use crate::sync::{Arc, Mutex, thread};
use crate::time::{Clock, Timestamp, millis};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

mod attempts;
mod children;
#[cfg(feature = "sqlite")]
mod effects;
mod ending;
#[cfg(feature = "sqlite")]
mod journal_only;
mod lost;
mod makers;
mod results;
mod submission;
mod suspects;

type Rows = dyn Store<u64, String>;

/// Makes stores of one kind.
trait Maker {
    /// A store of a batch that is new.
    fn fresh(name: &str) -> Self;
    fn store(&self) -> &Rows;
    fn told(&self) -> &Told;
    fn now(&self) -> Timestamp;
    /// Runs this while nothing that the store sends on is written.
    fn held_up(&self, run: &mut dyn FnMut()) {
        run();
    }
    /// Takes away what the store writes to. False: there is nothing that could be.
    fn lose(&self) -> bool {
        false
    }
    /// Another connection to the tables that the store is in, if it has any.
    #[cfg(feature = "sqlite")]
    fn tables(&self) -> Option<rusqlite::Connection> {
        None
    }
    /// The same batch in another process, after this one has died. `None`: it keeps nothing.
    fn after_a_crash(self) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }
}

/// What a store has told the engine.
#[derive(Debug, Default, Clone)]
struct Sums {
    settled: u64,
    done: u64,
    joined: u64,
    /// Done, dead, skipped of earlier runs.
    before: (u64, u64, u64),
    repeated: u64,
    cancelled: u64,
    waiting: i64,
    late: u64,
    ended: u64,
    /// Where they come from, and why.
    refused: Vec<(u64, String)>,
    stalled: u64,
    failures: u64,
}

/// A link that only takes notes.
#[derive(Debug, Default)]
struct Told(Mutex<Sums>);

impl Told {
    fn sums(&self) -> Sums {
        self.0.lock().clone()
    }
}

impl Link for Arc<Told> {
    fn kick(&self) {}
    fn kick_at(&self, _due: Timestamp) {}
    fn settled(&self, settled: u64, done: u64) {
        let mut sums = self.0.lock();
        sums.settled += settled;
        sums.done += done;
    }
    fn ended_before(&self, done: u64, dead: u64, skipped: u64) {
        let before = &mut self.0.lock().before;
        *before = (before.0 + done, before.1 + dead, before.2 + skipped);
    }
    fn repeated(&self, items: u64) {
        self.0.lock().repeated += items;
    }
    fn cancelled(&self, items: u64) {
        self.0.lock().cancelled += items;
    }
    fn waiting(&self, more: i64) {
        self.0.lock().waiting += more;
    }
    fn late(&self, items: u64) {
        self.0.lock().late += items;
    }
    fn joined(&self, items: u64) {
        self.0.lock().joined += items;
    }
    fn gave_up(&self, _seq: u64, _dead: &Dead) {
        self.0.lock().before.1 += 1;
    }
    fn refused(&self, origin: Origin, failure: Failure) {
        let seq = *origin.downcast::<u64>().expect("its position");
        self.0.lock().refused.push((seq, failure.message()));
    }
    fn ended(&self) {
        self.0.lock().ended += 1;
    }
    fn stands_still(&self) -> bool {
        false
    }
    fn stalled(&self, stalled: bool) {
        self.0.lock().stalled += u64::from(stalled);
    }
    fn failed(&self, _why: &JournalError) {
        self.0.lock().failures += 1;
    }
    fn control(&self, _verb: &str) -> String {
        String::new()
    }
}

/// What comes in the end.
#[track_caller]
fn in_the_end<R>(what: &str, mut is: impl FnMut() -> Option<R>) -> R {
    let clock = Clock::os();
    let began = clock.now();
    loop {
        if let Some(found) = is() {
            return found;
        }
        assert!(clock.now() - began < Duration::from_secs(30), "never: {what}");
        thread::yield_now();
    }
}

#[track_caller]
fn append(store: &Rows, items: impl IntoIterator<Item = u64>) {
    for item in items {
        let appended = store.append(Key::from(item), item, usize::MAX, Duplicates::Error, Timestamp::ZERO);
        assert_eq!(appended.expect("room"), Appended { rows: 1, skipped: 0 });
    }
}

/// A claimed row, without its page.
#[derive(Debug, Clone)]
struct Taken {
    seq: u64,
    key: Key,
    item: u64,
    past: Option<super::RowPast>,
}

fn taken(row: &Row<u64>) -> Taken {
    Taken { seq: row.seq, key: row.key.clone(), item: row.item, past: row.past.as_deref().cloned() }
}

/// Claims until there are so many.
#[track_caller]
fn claim(store: &Rows, count: usize, now: Timestamp) -> Vec<Taken> {
    let mut rows = Vec::new();
    in_the_end(&format!("{count} rows to claim"), || {
        store.due(now);
        if let Claim::Page { page, .. } = store.claim((count - rows.len()).min(7)) {
            assert!(page.len() == 1 || page.iter().all(|row| row.past.is_none()), "one with a past is alone");
            rows.extend(page.iter().map(taken));
        }
        (rows.len() >= count).then_some(())
    });
    rows
}

fn outcome(row: &Taken, outcome: Result<String, Dead>) -> Settled<String> {
    Settled {
        seq: row.seq,
        past: row.past.as_ref().map(|past| Past { epoch: past.epoch, suspect: past.suspect }),
        key: row.key.clone(),
        outcome,
        attempts: 1,
        run_time: millis(3),
        queued_time: millis(2),
        effects: None,
        origin: None,
    }
}

fn good(row: &Taken) -> Settled<String> {
    outcome(row, Ok(format!("made of {}", row.item)))
}

fn bad(row: &Taken, reason: DeadReason) -> Settled<String> {
    let error = AttemptError::new(1, AttemptKind::Fatal, format!("{} is bad", row.item));
    outcome(row, Err(Dead::new(reason, 1, vec![error])))
}

/// Settles, and waits until it is visible.
#[track_caller]
fn settle(case: &impl Maker, rows: Vec<Settled<String>>) {
    let (before, count) = (case.told().sums().settled, rows.len() as u64);
    let mut rows = rows;
    case.store().settle(&mut rows);
    assert!(rows.is_empty(), "they were taken over");
    if case.store().settles_later() {
        in_the_end("the commit", || (case.told().sums().settled == before + count).then_some(()));
    }
}

/// Reads all there is, up to the end or to what is not there yet.
fn read(store: &Rows, order: Order) -> (Vec<(Settled<String>, u64)>, bool) {
    store.reader(order, true);
    let mut own = store.own_reader(order, 0);
    let mut found = Vec::new();
    let over = loop {
        match own.as_mut().map_or_else(|| store.read(order), |own| own.read()) {
            Read::Row(row, cursor) => found.push((row, cursor)),
            Read::Pending => break false,
            Read::End => break true,
            Read::Failed(why) => panic!("{why}"),
        }
    };
    store.reader(order, false);
    (found, over)
}

fn retried(row: &Taken, due: Timestamp) -> Retried {
    let before = row.past.clone().unwrap_or_default();
    Retried {
        seq: row.seq,
        past: row.past.as_ref().map(|past| Past { epoch: past.epoch, suspect: past.suspect }),
        tries: before.tries + 1,
        lost: before.lost,
        deferrals: before.deferrals,
        due,
        error: Some(AttemptError::new(
            before.tries + 1,
            AttemptKind::Failed,
            format!("try {}", before.tries + 1),
        )),
    }
}

/// All cases, for stores of one kind, by module. Those in brackets use their store up.
macro_rules! conforms {
    ($kind:ident: $maker:ty; $($(#[$meta:meta])* $module:ident: $($case:ident)* [$($moved:ident)*];)*) => {
        mod $kind {
            use super::*;
            $($(#[$meta])* mod $module {
                use super::*;
                $(#[test]
                fn $case() {
                    crate::store::conformance::$module::$case(&<$maker>::fresh(stringify!($case)));
                })*
                $(#[test]
                fn $moved() {
                    crate::store::conformance::$module::$moved(<$maker>::fresh(stringify!($moved)));
                })*
            })*
        }
    };
    ($kind:ident: $maker:ty) => {
        conforms!($kind: $maker;
            submission: rows_are_claimed_in_order no_row_is_claimed_twice a_full_store_gives_the_item_back
                waiting_rows_are_counted a_repeated_key_is_refused a_repeated_key_spoils_a_submission
                repeated_keys_are_skipped repeated_keys_are_allowed a_sealed_store_takes_nothing [];
            results: results_come_in_order_of_completion results_come_in_order_of_input
                a_reader_begins_at_its_cursor the_dead_are_listed [];
            attempts: retried_items_come_back errors_are_bounded a_stale_outcome_is_dropped
                steps_are_kept_while_the_item_is_open [];
            ending: what_waits_is_dropped_and_counted claims_on_their_way_are_counted the_end_is_told
                [a_dead_process_loses_nothing];
            #[cfg(feature = "sqlite")]
            effects: sql_is_written_with_the_mark sql_over_a_group_is_written_with_its_marks [];
            children: children_are_items children_of_an_earlier_attempt_are_known [children_outlive_their_process];
            suspects: [suspects_run_alone a_suspect_that_fails_is_one_no_longer
                what_takes_its_process_along_is_given_up];
            lost: a_lost_store_tells_everybody [];
        );
    };
}

conforms!(memory: makers::Memory);
#[cfg(feature = "sqlite")]
conforms!(journal: makers::Journalled);
