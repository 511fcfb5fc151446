//! What every store must do, told once: a new store writes a [`Maker`] and one line of [`conforms`].
//!
//! The cases know nothing of how a store works. Some act at once, others later and tell the engine through a
//! [`Link`]: so every case looks at what comes in the end, not at what there is after a call. What a store may leave
//! to the engine (keeping items for another attempt, steps, readers of their own) is looked at where it does not.

use super::{
    AppendError, Appended, Claim, JournalError, Link, Order, Origin, Past, Read, Retried, Row, Settled,
    Store, Unsealed,
};
use crate::job::{AttemptError, AttemptKind, Dead, DeadReason, Duplicates, Failure, Key};
use crate::sync::{Arc, Mutex, thread};
use crate::time::{Clock, Timestamp, millis};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

mod makers;

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
    failed: Option<String>,
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
    fn refused(&self, _origin: Origin, _failure: Failure) {}
    fn ended(&self) {
        self.0.lock().ended += 1;
    }
    fn stands_still(&self) -> bool {
        false
    }
    fn stalled(&self, _stalled: bool) {}
    fn failed(&self, why: &JournalError) {
        self.0.lock().failed = Some(why.to_string());
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

// ---- the cases -------------------------------------------------------------------------------------------

/// Rows come once, in the order of submission, as they were submitted.
fn rows_are_claimed_in_order(case: &impl Maker) {
    append(case.store(), 100..150);
    let rows = claim(case.store(), 50, case.now());
    for (at, row) in rows.iter().enumerate() {
        assert_eq!((row.seq, row.item), (at as u64, 100 + at as u64));
        assert_eq!(row.key, Key::from(row.item));
        assert!(row.past.is_none());
    }
    assert!(matches!(case.store().claim(9), Claim::Empty));
}

/// However many claim at once.
fn no_row_is_claimed_twice(case: &(impl Maker + Sync)) {
    const ROWS: usize = 2_000;
    append(case.store(), 0..ROWS as u64);
    let all: Mutex<Vec<u64>> = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for max in [1, 3, 64] {
            let all = &all;
            scope.spawn(move || {
                in_the_end("all rows", || {
                    if let Claim::Page { page, .. } = case.store().claim(max) {
                        assert!(page.len() <= max);
                        all.lock().extend(page.iter().map(|row| row.seq));
                    }
                    (all.lock().len() >= ROWS).then_some(())
                });
            });
        }
    });
    let mut all = all.lock().clone();
    all.sort_unstable();
    assert_eq!(all, Vec::from_iter(0..ROWS as u64));
}

fn a_full_store_gives_the_item_back(case: &impl Maker) {
    assert!(!case.store().has_room(0));
    assert!(case.store().has_room(1));
    let full = case.store().append(Key::from(1), 1, 0, Duplicates::Error, Timestamp::ZERO);
    assert!(matches!(full, Err(AppendError::Full(1))));
    append(case.store(), [1]);
    assert_eq!(claim(case.store(), 1, case.now())[0].item, 1);
}

fn waiting_rows_are_counted(case: &impl Maker) {
    append(case.store(), 0..40);
    in_the_end("all are counted", || (case.store().waiting() == 40).then_some(()));
    claim(case.store(), 15, case.now());
    assert_eq!(case.store().waiting(), 25);
}

/// Who pushes one by one is told at once.
fn a_repeated_key_is_refused(case: &impl Maker) {
    let push = |key: u64, item| {
        let store = case.store();
        store.append(Key::from(key), item, 1_000, Duplicates::Error, Timestamp::ZERO)
    };
    push(1, 10).unwrap();
    assert!(matches!(push(1, 11), Err(AppendError::Duplicate(key, 11)) if key == Key::from(1)));
    claim(case.store(), 1, case.now());
    assert!(matches!(push(1, 12), Err(AppendError::Duplicate(_, 12))));
    push(2, 13).unwrap();
    assert_eq!(claim(case.store(), 1, case.now())[0].item, 13);
}

/// Who submits all at once is told when it is sealed, or before.
fn a_repeated_key_spoils_a_submission(case: &impl Maker) {
    let mut at_once = Vec::new();
    for key in [1u64, 2, 1] {
        match case.store().append(Key::from(key), key, usize::MAX, Duplicates::Error, Timestamp::ZERO) {
            Ok(_) => {}
            Err(AppendError::Duplicate(key, _)) => at_once.push(key),
            Err(other) => panic!("{other:?}"),
        }
    }
    case.store().seal();
    match case.store().sealed() {
        Err(Unsealed::Duplicate(key)) => at_once.push(key),
        sealed => drop(sealed.expect("a seal")),
    }
    assert_eq!(at_once, [Key::from(1)]);
}

fn repeated_keys_are_skipped(case: &impl Maker) {
    let mut skipped = 0;
    for key in [1u64, 2, 1, 1, 3] {
        let appended =
            case.store().append(Key::from(key), key, usize::MAX, Duplicates::Skip, Timestamp::ZERO);
        skipped += appended.unwrap().skipped as u64;
    }
    case.store().sealed().unwrap();
    assert_eq!(skipped + case.told().sums().repeated, 2);
    let items: Vec<u64> = claim(case.store(), 3, case.now()).iter().map(|row| row.item).collect();
    assert_eq!(items, [1, 2, 3]);
    assert!(matches!(case.store().claim(9), Claim::Empty));
}

fn repeated_keys_are_allowed(case: &impl Maker) {
    for item in [10u64, 20, 30] {
        case.store().append(Key::from("k"), item, usize::MAX, Duplicates::Allow, Timestamp::ZERO).unwrap();
    }
    let rows = claim(case.store(), 3, case.now());
    let keys: Vec<(String, u64)> = rows.iter().map(|row| (row.key.to_string(), row.item)).collect();
    assert_eq!(keys, [("k".to_owned(), 10), ("k#1".to_owned(), 20), ("k#2".to_owned(), 30)]);
}

fn a_sealed_store_takes_nothing(case: &impl Maker) {
    append(case.store(), 0..3);
    case.store().seal();
    let late = case.store().append(Key::from(9), 9, usize::MAX, Duplicates::Error, Timestamp::ZERO);
    assert!(matches!(late, Err(AppendError::Sealed(9))));
    let earlier = case.store().sealed().unwrap();
    assert_eq!((earlier.resumed, earlier.vanished), (0, 0));
    assert_eq!(claim(case.store(), 3, case.now()).len(), 3);
}

/// Results come in the order of settling, whole, each once, and then the end.
fn results_come_in_order_of_completion(case: &impl Maker) {
    append(case.store(), 0..20);
    let rows = claim(case.store(), 20, case.now());
    let (first, second) = (&rows[10..], &rows[..10]);
    settle(case, first.iter().map(good).collect());
    settle(case, second.iter().rev().map(|row| bad(row, DeadReason::Fatal)).collect());
    let (found, over) = read(case.store(), Order::Completion);
    assert!(!over, "the batch has not ended");
    let order: Vec<u64> = found.iter().map(|(row, _)| row.seq).collect();
    assert_eq!(order, Vec::from_iter((10..20).chain((0..10).rev())));
    for (at, (row, cursor)) in found.iter().enumerate() {
        assert_eq!(*cursor, at as u64 + 1);
        assert_eq!((&row.key, row.attempts), (&Key::from(row.seq), 1));
        assert_eq!((row.run_time, row.queued_time), (millis(3), millis(2)));
        match &row.outcome {
            Ok(made) => assert_eq!(*made, format!("made of {}", row.seq)),
            Err(dead) => assert_eq!(dead.last_error().unwrap().message, format!("{} is bad", row.seq)),
        }
    }
    case.store().close();
    let (again, over) = read(case.store(), Order::Completion);
    assert!(over);
    // A store hands them out once, or to each reader anew.
    assert_eq!(again.len(), if case.store().own_reader(Order::Completion, 0).is_some() { 20 } else { 0 });
}

/// Up to the first that is not there yet; behind the end, without it.
fn results_come_in_order_of_input(case: &impl Maker) {
    append(case.store(), 0..10);
    let rows = claim(case.store(), 10, case.now());
    settle(case, [1, 0, 5].iter().map(|at| good(&rows[*at])).collect());
    case.store().reader(Order::Input, true);
    let mut own = case.store().own_reader(Order::Input, 0);
    let mut next = || own.as_mut().map_or_else(|| case.store().read(Order::Input), |own| own.read());
    assert!(matches!(next(), Read::Row(row, 1) if row.seq == 0));
    assert!(matches!(next(), Read::Row(row, 2) if row.seq == 1));
    assert!(matches!(next(), Read::Pending));
    settle(case, vec![good(&rows[2])]);
    assert!(matches!(next(), Read::Row(row, 3) if row.seq == 2));
    assert!(matches!(next(), Read::Pending));
    case.store().close();
    assert!(matches!(next(), Read::Row(row, 4) if row.seq == 5));
    assert!(matches!(next(), Read::End));
    case.store().reader(Order::Input, false);
}

/// Where readers have a place of their own.
fn a_reader_begins_at_its_cursor(case: &impl Maker) {
    append(case.store(), 0..600);
    let rows = claim(case.store(), 600, case.now());
    settle(case, rows.iter().map(good).collect());
    case.store().close();
    let Some(mut reader) = case.store().own_reader(Order::Completion, 500) else { return };
    let mut seqs = VecDeque::new();
    while let Read::Row(row, cursor) = reader.read() {
        assert_eq!(cursor, row.seq + 1);
        seqs.push_back(row.seq);
    }
    assert_eq!(seqs, VecDeque::from_iter(500..600));
}

/// The given up are listed as they died; the left out are not among them.
fn the_dead_are_listed(case: &impl Maker) {
    append(case.store(), 0..6);
    let rows = claim(case.store(), 6, case.now());
    settle(
        case,
        vec![
            bad(&rows[3], DeadReason::Fatal),
            good(&rows[0]),
            bad(&rows[1], DeadReason::Skipped),
            bad(&rows[2], DeadReason::TimedOut),
        ],
    );
    let dead = case.store().dead().unwrap();
    let listed: Vec<_> = dead.iter().map(|item| (item.seq, item.dead.reason())).collect();
    assert_eq!(listed, [(3, DeadReason::Fatal), (2, DeadReason::TimedOut)]);
    assert_eq!(dead[0].key, Key::from(3));
    assert_eq!(dead[0].dead.last_error().unwrap().message, "3 is bad");
    if case.store().settles_later() {
        let sums = case.told().sums();
        assert_eq!((sums.settled, sums.done), (4, 1));
    }
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

/// Where the store keeps them: not before their time, with all that they have behind them.
fn retried_items_come_back(case: &impl Maker) {
    append(case.store(), 0..5);
    let rows = claim(case.store(), 5, case.now());
    let due = case.now() + Duration::from_secs(3_600);
    if !case.store().again(&retried(&rows[2], due)) {
        return;
    }
    in_the_end("it waits", || (case.told().sums().waiting == 1).then_some(()));
    assert_eq!(case.store().due(case.now()), Some(due));
    assert!(matches!(case.store().claim(9), Claim::Empty));
    let back = claim(case.store(), 1, due).remove(0);
    assert_eq!((back.seq, back.item), (2, 2));
    assert_eq!(case.told().sums().waiting, 0);
    let past = back.past.clone().unwrap();
    assert_eq!((past.epoch, past.tries, past.lost, past.suspect), (2, 1, 0, false));
    assert_eq!(past.errors.len(), 1);

    assert!(case.store().again(&retried(&back, due)));
    in_the_end("it waits again", || (case.told().sums().waiting == 1).then_some(()));
    let back = claim(case.store(), 1, due).remove(0);
    let past = back.past.clone().unwrap();
    assert_eq!((past.epoch, past.tries), (3, 2));
    let errors: Vec<_> = past.errors.iter().map(|error| error.message.as_str()).collect();
    assert_eq!(errors, ["try 1", "try 2"]);
    settle(case, vec![good(&back)]);
    assert_eq!(read(case.store(), Order::Completion).0.len(), 1);
    assert_eq!(case.told().sums().late, 0);
}

/// However often an item is put off, what is kept of it is bounded: the first error and the latest.
fn errors_are_bounded(case: &impl Maker) {
    append(case.store(), [0]);
    let mut row = claim(case.store(), 1, case.now()).remove(0);
    for n in 0..50 {
        let mut again = retried(&row, case.now());
        again.error = Some(AttemptError::new(1, AttemptKind::Deferred, format!("put off {n}")));
        if !case.store().again(&again) {
            return;
        }
        in_the_end("it waits", || (case.told().sums().waiting == 1).then_some(()));
        row = claim(case.store(), 1, case.now() + millis(1)).remove(0);
    }
    let errors = row.past.unwrap().errors;
    assert_eq!(errors.len(), 32);
    assert_eq!(
        (&*errors[0].message, &*errors[1].message, &*errors[31].message),
        ("put off 0", "put off 19", "put off 49")
    );
}

/// What an attempt brings that is not the item's current one is dropped, and counted.
fn a_stale_outcome_is_dropped(case: &impl Maker) {
    append(case.store(), [0]);
    let first = claim(case.store(), 1, case.now()).remove(0);
    if !case.store().again(&retried(&first, case.now())) {
        return;
    }
    in_the_end("it waits", || (case.told().sums().waiting == 1).then_some(()));
    let second = claim(case.store(), 1, case.now() + millis(1)).remove(0);
    let mut stale = good(&second);
    stale.past = Some(Past { epoch: 1, suspect: false });
    settle(case, vec![stale]);
    assert_eq!(case.told().sums().late, 1);
    assert!(read(case.store(), Order::Completion).0.is_empty());
    settle(case, vec![good(&second)]);
    settle(case, vec![good(&second)]);
    assert_eq!(case.told().sums().late, 2);
    assert_eq!(read(case.store(), Order::Completion).0.len(), 1);
}

/// Where the store keeps them: until the item ends, and not for an attempt that is over.
fn steps_are_kept_while_the_item_is_open(case: &impl Maker) {
    append(case.store(), 0..2);
    let rows = claim(case.store(), 2, case.now());
    let Some(first) = case.store().step(0, "fetch") else { return };
    assert_eq!(first.unwrap(), None);
    let keep = |epoch, name, text| case.store().keep_step(0, epoch, name, text)().unwrap();
    assert!(keep(1, "fetch", "\"page\""));
    assert!(!keep(7, "other", "0"), "the attempt is not the one that is expected");
    let step = |seq, name| case.store().step(seq, name).unwrap().unwrap();
    assert_eq!(step(0, "fetch").as_deref(), Some("\"page\""));
    assert_eq!((step(0, "other"), step(1, "fetch")), (None, None));
    settle(case, vec![good(&rows[0])]);
    assert_eq!(step(0, "fetch"), None);
    assert!(!keep(1, "late", "0"), "the item has ended");
}

/// What waits when the batch ends early is counted once, at once or later.
fn what_waits_is_dropped_and_counted(case: &impl Maker) {
    append(case.store(), 0..300);
    let rows = claim(case.store(), 20, case.now());
    if case.store().again(&retried(&rows[0], case.now() + Duration::from_secs(60))) {
        in_the_end("it waits", || (case.told().sums().waiting == 1).then_some(()));
    }
    let kept = case.told().sums().waiting as u64;
    case.store().seal();
    let dropped = case.store().drop_waiting().0 as u64;
    in_the_end("all are counted", || (dropped + case.told().sums().cancelled == 280 + kept).then_some(()));
    assert_eq!(case.told().sums().waiting, 0);
    assert!(matches!(case.store().claim(9), Claim::Empty));
    assert_eq!(case.store().drop_waiting().0, 0);
}

/// Claims that are on their way when the batch ends early are counted, too.
fn claims_on_their_way_are_counted(case: &impl Maker) {
    append(case.store(), 0..40);
    let rows = claim(case.store(), 40, case.now());
    let now = case.now();
    if !rows.iter().all(|row| case.store().again(&retried(row, now))) {
        return;
    }
    in_the_end("they wait", || (case.told().sums().waiting == 40).then_some(()));
    let mut dropped = 0;
    case.held_up(&mut || {
        // Asks for them, and is stopped before the answer comes.
        case.store().due(now + millis(1));
        dropped = case.store().drop_waiting().0 as u64;
    });
    in_the_end("all are counted", || (dropped + case.told().sums().cancelled == 40).then_some(()));
    in_the_end("none waits", || (case.told().sums().waiting == 0).then_some(()));
}

/// Where the end is written down, the engine is told that it is.
fn the_end_is_told(case: &impl Maker) {
    append(case.store(), [0]);
    case.store().sealed().unwrap();
    if case.store().end("\"Cancelled\"") {
        in_the_end("it is written", || (case.told().sums().ended == 1).then_some(()));
    }
}

/// Where rows outlive their process: what was settled is there, what was claimed is tried again, by key.
fn a_dead_process_loses_nothing(case: impl Maker) {
    append(case.store(), 0..30);
    case.store().sealed().unwrap();
    let rows = claim(case.store(), 20, case.now());
    settle(&case, rows[..5].iter().map(good).collect());
    if case.store().again(&retried(&rows[5], case.now())) {
        in_the_end("it waits", || (case.told().sums().waiting == 1).then_some(()));
    }
    let Some(case) = case.after_a_crash() else { return };
    // Another order, one gone, one new.
    append(case.store(), (1..31).rev());
    let earlier = case.store().sealed().unwrap();
    assert_eq!((earlier.resumed, earlier.vanished), (4, 1));
    assert_eq!(case.told().sums().before, (4, 0, 0));
    let rows = claim(case.store(), 26, case.now() + Duration::from_secs(60));
    let again: BTreeMap<u64, Option<(u32, u32, u32)>> = rows
        .iter()
        .map(|row| (row.item, row.past.as_ref().map(|past| (past.epoch, past.tries, past.lost))))
        .collect();
    assert_eq!(again.keys().copied().collect::<BTreeSet<_>>(), BTreeSet::from_iter(5..31));
    for (item, past) in again {
        match item {
            5 => assert_eq!(past, Some((2, 1, 0)), "it waited"),
            6..20 => assert_eq!(past, Some((2, 0, 1)), "{item} was claimed"),
            // Those that nobody had claimed may have been claimed ahead.
            _ => assert!(matches!(past, None | Some((2, 0, 1))), "{item}"),
        }
    }
    settle(&case, rows.iter().map(good).collect());
    let (found, _) = read(case.store(), Order::Completion);
    assert_eq!(found.iter().map(|(row, _)| row.key.clone()).collect::<BTreeSet<_>>().len(), 31);
}

/// All cases, for stores of one kind.
macro_rules! conforms {
    ($module:ident: $maker:ty; $($case:ident),* ; moved $($moved:ident),*) => {
        mod $module {
            use super::*;
            $(#[test]
            fn $case() {
                super::$case(&<$maker>::fresh(stringify!($case)));
            })*
            $(#[test]
            fn $moved() {
                super::$moved(<$maker>::fresh(stringify!($moved)));
            })*
        }
    };
    ($module:ident: $maker:ty) => {
        conforms!($module: $maker;
            rows_are_claimed_in_order, no_row_is_claimed_twice, a_full_store_gives_the_item_back,
            waiting_rows_are_counted, a_repeated_key_is_refused, a_repeated_key_spoils_a_submission,
            repeated_keys_are_skipped, repeated_keys_are_allowed, a_sealed_store_takes_nothing,
            results_come_in_order_of_completion, results_come_in_order_of_input, a_reader_begins_at_its_cursor,
            the_dead_are_listed, retried_items_come_back, errors_are_bounded, a_stale_outcome_is_dropped,
            steps_are_kept_while_the_item_is_open, what_waits_is_dropped_and_counted,
            claims_on_their_way_are_counted, the_end_is_told;
            moved a_dead_process_loses_nothing);
    };
}

conforms!(memory: makers::Memory);
#[cfg(feature = "sqlite")]
conforms!(journal: makers::Journalled);
