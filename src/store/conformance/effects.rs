//! SQL of the user's, where the store has tables: with the mark of its item, or not at all.

use super::*;
use crate::store::{CommitWith, Effects};
use crate::time::secs;
use rusqlite::Connection;

/// As it is written for item `n`, once.
fn insert(tx: &Connection, n: u64) -> Result<(), Failure> {
    tx.execute_batch("CREATE TABLE IF NOT EXISTS mine (n INTEGER PRIMARY KEY)")?;
    tx.execute("INSERT INTO mine VALUES (?)", [n as i64])?;
    Ok(())
}

/// What was written, as another connection sees it.
fn mine(tables: &Connection) -> Vec<i64> {
    let there = "SELECT count(*) FROM sqlite_schema WHERE name = 'mine'";
    if tables.query_row(there, [], |row| row.get::<_, i64>(0)).expect("the tables") == 0 {
        return Vec::new();
    }
    let mut select = tables.prepare("SELECT n FROM mine ORDER BY n").expect("the rows");
    select.query_map([], |row| row.get(0)).expect("the rows").map(|n| n.expect("a number")).collect()
}

/// An outcome that may be refused: it comes back with its position.
fn with_sql(row: &Taken, sql: Vec<CommitWith>) -> Settled<String> {
    let effects = (!sql.is_empty()).then(|| Effects { with: sql, limit: secs(60) });
    Settled { effects, origin: Some(Box::new(row.seq)), ..good(row) }
}

fn seqs(case: &impl Maker) -> Vec<u64> {
    let mut seqs: Vec<u64> = read(case.store(), Order::Completion).0.iter().map(|(row, _)| row.seq).collect();
    seqs.sort_unstable();
    seqs
}

/// Settles, and waits until so many are visible and so many have come back.
#[track_caller]
fn settle_and_refuse(case: &impl Maker, rows: Vec<Settled<String>>, settled: u64, refused: usize) {
    let before = case.told().sums();
    let mut rows = rows;
    case.store().settle(&mut rows);
    in_the_end("all are told", || {
        let now = case.told().sums();
        let told = now.settled - before.settled + (now.refused.len() - before.refused.len()) as u64;
        (told == settled + refused as u64).then_some(())
    });
    let now = case.told().sums();
    assert_eq!((now.settled - before.settled, now.refused.len() - before.refused.len()), (settled, refused));
}

/// With the mark: a row for each that is visible, none for one that failed, panicked or came too late.
pub(super) fn sql_is_written_with_the_mark(case: &impl Maker) {
    let Some(tables) = case.tables() else { return };
    append(case.store(), 0..8);
    let rows = claim(case.store(), 8, case.now());
    let write = |n: u64| -> CommitWith { Box::new(move |tx| insert(tx, n)) };
    let fail: fn(&Connection) -> Result<(), Failure> = |_| Err(Failure::fatal("not so"));
    let panic: fn(&Connection) -> Result<(), Failure> = |_| panic!("in the SQL");
    let mut late = with_sql(&rows[7], vec![write(7)]);
    late.past = Some(Past { epoch: 9, suspect: false });
    let outcomes = vec![
        with_sql(&rows[0], vec![write(0)]),
        with_sql(&rows[3], vec![write(3), Box::new(fail)]),
        with_sql(&rows[1], vec![write(1), write(10)]),
        with_sql(&rows[4], vec![write(4), Box::new(panic)]),
        with_sql(&rows[5], vec![write(0)]), // it is there
        with_sql(&rows[2], vec![]),
        bad(&rows[6], DeadReason::Fatal),
        late,
    ];
    settle_and_refuse(case, outcomes, 5, 3);
    let sums = case.told().sums();
    assert_eq!((sums.done, sums.late), (3, 1));
    let back: Vec<u64> = sums.refused.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(back, [3, 4, 5]);
    let said: Vec<&str> = sums.refused.iter().map(|(_, said)| said.as_str()).collect();
    assert!(said[0] == "not so" && said[1].contains("in the SQL") && said[2].contains("UNIQUE"), "{said:?}");
    assert_eq!(mine(&tables), [0, 1, 10]);
    assert_eq!(seqs(case), [0, 1, 2, 6]);

    // What has come back is still in hand: it ends, or is tried again.
    settle_and_refuse(case, vec![with_sql(&rows[3], vec![write(3)])], 1, 0);
    if case.store().again(&retried(&rows[4], case.now())) {
        in_the_end("it waits", || (case.told().sums().waiting == 1).then_some(()));
        let again = claim(case.store(), 1, case.now() + millis(1)).remove(0);
        assert_eq!((again.seq, again.past.as_ref().map(|past| past.epoch)), (4, Some(2)));
        settle_and_refuse(case, vec![with_sql(&again, vec![write(4)])], 1, 0);
        assert_eq!(mine(&tables), [0, 1, 3, 4, 10]);
        assert_eq!(seqs(case), [0, 1, 2, 3, 4, 6]);
    }
}

/// Over all that are marked done together; if it fails, they come back, and those that are not done are marked all the same.
pub(super) fn sql_over_a_group_is_written_with_its_marks(case: &impl Maker) {
    let Some(tables) = case.tables() else { return };
    let groups: Arc<Mutex<Vec<Vec<u64>>>> = Arc::default();
    let seen = Arc::clone(&groups);
    case.store().write_with(Arc::new(move |tx, done: &[(Key, String)]| {
        let numbers: Vec<u64> =
            done.iter().map(|(key, _)| key.to_string().parse().expect("a number")).collect();
        for n in &numbers {
            insert(tx, *n)?;
        }
        seen.lock().push(numbers);
        if seen.lock().len() == 1 { Err(Failure::defer(secs(7))) } else { Ok(()) }
    }));
    assert!(case.store().may_refuse());
    append(case.store(), 0..5);
    let rows = claim(case.store(), 5, case.now());
    let outcomes = || {
        let mut late = with_sql(&rows[4], vec![]);
        late.past = Some(Past { epoch: 9, suspect: false });
        vec![with_sql(&rows[0], vec![]), with_sql(&rows[1], vec![]), late]
    };
    let mut first = outcomes();
    first.extend([bad(&rows[2], DeadReason::Fatal), bad(&rows[3], DeadReason::Skipped)]);
    settle_and_refuse(case, first, 3, 2);
    let back: Vec<u64> = case.told().sums().refused.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(back, [0, 1]);
    assert_eq!((mine(&tables), seqs(case)), (vec![], vec![2, 3]));

    settle_and_refuse(case, outcomes(), 3, 0);
    assert_eq!((mine(&tables), seqs(case)), (vec![0, 1], vec![0, 1, 2, 3]));
    assert_eq!(*groups.lock(), [[0, 1], [0, 1]], "what came late is not among them");
    assert_eq!(case.told().sums().done, 2);
}
