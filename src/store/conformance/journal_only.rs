//! What a journal promises beyond the suite: the length of its log, and that a full disk is nobody's fault.

use super::makers::Journalled;
use super::*;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn log_of(case: &Journalled) -> u64 {
    std::fs::metadata(case.path().with_extension("db-wal")).map_or(0, |meta| meta.len())
}

/// Runs `work` while the length of the log is watched, and returns the greatest.
fn longest_log(case: &Journalled, work: impl FnOnce()) -> u64 {
    let (over, longest) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                longest.fetch_max(log_of(case), Ordering::Relaxed);
                thread::yield_now();
            }
        });
        work();
        over.store(true, Ordering::Relaxed);
    });
    longest.load(Ordering::Relaxed)
}

/// A sixteenth of what the product has; what is in the cache, which is not counted, comes to it.
const PAGES: i32 = 256;
const LOG: u64 = 2 << 20;
const CACHE: u64 = 2 << 20;

fn narrow(name: &str) -> Journalled {
    let case = Journalled::fresh(name);
    case.in_the_writer(|tx| {
        (tx.limits.pages, tx.limits.log) = (PAGES, LOG);
        Ok(())
    });
    case
}

#[track_caller]
fn is_short(longest: u64, row: u64) {
    let most = LOG + PAGES as u64 * 4096 + CACHE + row;
    println!("{longest} bytes of {most}");
    assert!(longest <= most + most / 8, "the log had {longest} bytes of {most}");
}

/// Promise 8: however large the rows are, and however many have gathered while the writer was busy.
#[test]
fn the_log_is_short_after_many_large_rows() {
    let case = narrow("log-many");
    let items = 200;
    append(case.store(), 0..items);
    let rows = claim(case.store(), items as usize, case.now());
    let output = "x".repeat(100_000);
    let longest = longest_log(&case, || {
        case.held_up(&mut || {
            for row in &rows {
                case.store().settle(&mut vec![outcome(row, Ok(output.clone()))]);
            }
        });
        in_the_end("all are settled", || (case.told().sums().settled == items).then_some(()));
    });
    is_short(longest, 100_000);
}

/// An op that is too large for a transaction is written in parts, and told of once.
#[test]
fn the_log_is_short_after_one_chunk_of_huge_rows() {
    let case = narrow("log-chunk");
    append(case.store(), 0..40);
    let rows = claim(case.store(), 40, case.now());
    let output = "x".repeat(500_000);
    let longest = longest_log(&case, || {
        settle(&case, rows.iter().map(|row| outcome(row, Ok(output.clone()))).collect());
    });
    is_short(longest, 500_000);
    let sums = case.told().sums();
    assert_eq!((sums.settled, sums.done), (40, 40));
    let (found, _) = read(case.store(), Order::Completion);
    let seqs: Vec<u64> = found.iter().map(|(row, _)| row.seq).collect();
    assert_eq!(seqs, Vec::from_iter(0..40));
}

/// What the user's SQL writes counts, too.
#[test]
fn the_log_is_short_after_much_sql() {
    let case = narrow("log-sql");
    append(case.store(), 0..40);
    let rows = claim(case.store(), 40, case.now());
    let with_sql = |row: &Taken| {
        let sql = |tx: &rusqlite::Connection| {
            tx.execute_batch("CREATE TABLE IF NOT EXISTS mine (text TEXT)")?;
            tx.execute("INSERT INTO mine VALUES (hex(zeroblob(250000)))", [])?;
            Ok(())
        };
        let effects = crate::store::Effects { with: vec![Box::new(sql)], limit: Duration::from_secs(60) };
        Settled { effects: Some(effects), ..good(row) }
    };
    let longest = longest_log(&case, || settle(&case, rows.iter().map(with_sql).collect()));
    is_short(longest, 500_000);
    assert_eq!(case.told().sums().done, 40);
}

/// A reader of an old state keeps the log from being emptied, but not the writer from writing; when it has gone, so has the
/// log.
#[test]
fn the_log_is_emptied_behind_a_reader() {
    let case = narrow("log-reader");
    append(case.store(), 0..400);
    let rows = claim(case.store(), 400, case.now());
    let reader = rusqlite::Connection::open(case.path()).expect("a connection");
    reader.execute_batch("BEGIN").expect("a transaction");
    reader.query_row("SELECT count(*) FROM result", [], |_| Ok(())).expect("a state of the file");
    let output = "x".repeat(100_000);
    let mut rows = rows.iter();
    let mut settle_some = |count| {
        let some = rows.by_ref().take(count).map(|row| outcome(row, Ok(output.clone()))).collect();
        settle(&case, some);
    };
    settle_some(40);
    assert!(log_of(&case) > LOG, "it is all there");
    drop(reader);
    in_the_end("it is emptied", || {
        settle_some(1);
        (log_of(&case) < LOG).then_some(())
    });
}

/// Promise 20: an item whose SQL finds no room on the disk has not failed. The journal is stalled, and goes on with it.
#[test]
fn a_full_disk_in_sql_is_no_outcome() {
    let case = Journalled::fresh("full-sql");
    append(case.store(), 0..2);
    let rows = claim(case.store(), 2, case.now());
    let other = case.tables().expect("a connection");
    other
        .execute_batch("CREATE TABLE ballast (bytes BLOB); INSERT INTO ballast VALUES (zeroblob(1000000))")
        .unwrap();
    case.in_the_writer(|tx| {
        let pages: i64 = tx.db.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        // Room for the marks, but not for more.
        tx.db.query_row(&format!("PRAGMA max_page_count = {}", pages + 40), [], |_| Ok(()))
    });
    let sql = |tx: &rusqlite::Connection| {
        tx.execute_batch("CREATE TABLE IF NOT EXISTS mine (text TEXT)")?;
        tx.execute("INSERT INTO mine VALUES (hex(zeroblob(300000)))", [])?;
        Ok(())
    };
    let effects = crate::store::Effects { with: vec![Box::new(sql)], limit: Duration::from_secs(60) };
    let large = Settled { effects: Some(effects), origin: Some(Box::new(rows[0].seq)), ..good(&rows[0]) };
    case.store().settle(&mut vec![large, good(&rows[1])]);
    in_the_end("it is stalled", || (case.told().sums().stalled == 1).then_some(()));
    assert_eq!(case.told().sums().settled, 0);
    other.execute_batch("DROP TABLE ballast").unwrap();
    in_the_end("it goes on", || (case.told().sums().settled == 2).then_some(()));
    let sums = case.told().sums();
    assert!(sums.done == 2 && sums.refused.is_empty(), "{sums:?}");
    assert_eq!(other.query_row("SELECT count(*) FROM mine", [], |row| row.get::<_, i64>(0)).unwrap(), 1);
}
