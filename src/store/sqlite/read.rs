//! Reading beside the writer: short statements, none of which holds an old state of the file for long.
//!
//! While a statement reads, the log behind its state of the file cannot be put away. So whatever may be long is read
//! by pages, each a statement of its own: so many rows ([`PAGE`]), so many bytes ([`MOST_BYTES`]), or so many numbers
//! looked through ([`SPAN`]) where rows may be passed over. A page takes milliseconds, and between two of them others
//! may write.

use super::error::{At, JournalError};
use super::rows::{Kind, error_sum, key_sum, number, range_of, result_sum, seq_of};
use super::settle::damaged;
use crate::job::{AttemptError, AttemptKind, Dead, DeadItem, DeadReason, Key};
use crate::lock::{Levelled, house};
use rusqlite::{Connection, Row, params};
use std::path::PathBuf;

/// Rows of a page.
pub(crate) const PAGE: usize = 1_000;
/// Bytes of a page, about: outputs may be large.
const MOST_BYTES: usize = 16 << 20;
/// Numbers looked through for a page, where not every one gives a row.
const SPAN: i64 = 10_000;

/// A result as it lies in the table.
#[derive(Debug, Clone)]
pub(crate) struct RawResult {
    /// The cursor behind it: how many results the batch had with it.
    pub(crate) cursor: u64,
    pub(crate) seq: u64,
    pub(crate) item: i64,
    pub(crate) key: Key,
    pub(crate) kind: Kind,
    pub(crate) reason: Option<DeadReason>,
    pub(crate) epoch: i64,
    pub(crate) attempts: u32,
    pub(crate) wait_us: u64,
    pub(crate) run_us: u64,
    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    pub(crate) ended_ms: i64,
    pub(crate) output: Option<String>,
}

/// Connections to read with, kept for the next.
#[derive(Debug)]
pub(crate) struct Readers {
    path: PathBuf,
    idle: Levelled<Vec<Connection>, house::IdleReaders>,
}

impl Readers {
    /// Connections kept at the most.
    const KEPT: usize = 4;

    pub(crate) fn new(path: PathBuf) -> Readers {
        Readers { path, idle: Levelled::new(Vec::new()) }
    }

    /// Closes those that are not in use: the writer's, if it is the last, empties the log as it goes.
    pub(crate) fn close(&self) {
        self.idle.lock().clear();
    }

    /// Reads with a connection that nobody else uses meanwhile.
    pub(crate) fn read<R>(
        &self,
        f: impl FnOnce(&Connection) -> rusqlite::Result<R>,
    ) -> Result<R, JournalError> {
        let idle = self.idle.lock().pop();
        let db = match idle {
            Some(db) => db,
            None => super::schema::open_beside(&self.path, false)?,
        };
        let read = f(&db).map_err(At(&self.path).failed("cannot be read"));
        let mut idle = self.idle.lock();
        if idle.len() < Self::KEPT {
            idle.push(db);
        }
        read
    }
}

const COLUMNS: &str =
    "r.id, r.item, i.key, r.kind, r.reason, r.epoch, r.attempts, r.wait_us, r.run_us, r.ended_ms,
 r.output, r.sum";

/// Results behind a cursor, in the order of completion: so many, or fewer if they are large. None: there are no more.
pub(crate) fn by_completion(
    db: &Connection,
    batch: i64,
    cursor: u64,
    most: usize,
) -> rusqlite::Result<Vec<RawResult>> {
    let (_, end) = range_of(batch);
    let mut select = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM result r LEFT JOIN item i ON i.id = r.item WHERE r.id >= ? AND r.id < ? ORDER BY r.id LIMIT ?"
    ))?;
    let mut rows = select.query(params![number(batch, cursor as i64), end, most as i64])?;
    let mut page = Page::of(most);
    while let Some(row) = rows.next()? {
        if page.is_full_with(result(row)?) {
            break;
        }
    }
    Ok(page.rows)
}

/// Results from an item on, in the order of submission, up to the first item that will have one and has none: so many,
/// or fewer if they are large. `gaps`: such items are passed over, too.
pub(crate) fn by_input(
    db: &Connection,
    batch: i64,
    from: u64,
    most: usize,
    gaps: bool,
) -> rusqlite::Result<Vec<RawResult>> {
    let (_, end) = range_of(batch);
    // What died in an earlier run is still to come if it is submitted again; whether it is, the seal tells at last.
    let (join, open) = match gaps {
        true => ("JOIN", "0"),
        false => ("LEFT JOIN", "r.id IS NULL OR (r.kind = 'dead' AND i.run <> b.run AND NOT b.sealed)"),
    };
    let mut from = number(batch, from as i64);
    let last: Option<i64> = db
        .prepare_cached("SELECT max(id) FROM item WHERE id >= ? AND id < ?")?
        .query_row([from, end], |row| row.get(0))?;
    let mut select = db.prepare_cached(&format!(
        "SELECT {COLUMNS}, {open} FROM item i JOIN batch b ON b.id = i.batch {join} result r ON r.item = i.id
         WHERE i.id >= ? AND i.id < ? AND (r.id IS NOT NULL OR NOT (b.sealed AND b.run <> i.run))
         ORDER BY i.id LIMIT ?"
    ))?;
    let mut page = Page::of(most);
    // What is passed over stays so, whatever is written between two spans.
    while last.is_some_and(|last| from <= last) {
        let mut rows = select.query(params![from, (from + SPAN).min(end), most as i64])?;
        while let Some(row) = rows.next()? {
            if row.get(12)? || page.is_full_with(result(row)?) {
                return Ok(page.rows);
            }
        }
        from += SPAN;
    }
    Ok(page.rows)
}

/// Rows that are read together.
struct Page {
    rows: Vec<RawResult>,
    most: usize,
    bytes: usize,
}

impl Page {
    fn of(most: usize) -> Page {
        Page { rows: Vec::new(), most, bytes: 0 }
    }

    fn is_full_with(&mut self, row: RawResult) -> bool {
        self.bytes += row.output.as_ref().map_or(0, String::len);
        self.rows.push(row);
        self.rows.len() >= self.most || self.bytes >= MOST_BYTES
    }
}

/// The result of an item that has one.
pub(crate) fn of_item(db: &Connection, item: i64) -> rusqlite::Result<RawResult> {
    db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM result r LEFT JOIN item i ON i.id = r.item WHERE r.item = ?"
    ))?
    .query_row([item], result)
}

fn dead_sql() -> String {
    // `<> 'done'` says nothing new, but the index is for these words: SQLite looks for them.
    format!(
        "SELECT {COLUMNS} FROM result r LEFT JOIN item i ON i.id = r.item
         WHERE r.kind = 'dead' AND r.kind <> 'done' AND r.id >= ? AND r.id < ? ORDER BY r.id LIMIT ?"
    )
}

/// The dead of a batch behind a cursor, in the order in which they died, and the cursor behind them; `None`: those were
/// the last.
pub(crate) fn dead(
    db: &Connection,
    batch: i64,
    cursor: u64,
    most: usize,
) -> rusqlite::Result<(Vec<RawResult>, Option<u64>)> {
    let (_, end) = range_of(batch);
    let mut select = db.prepare_cached(&dead_sql())?;
    let bounds = params![number(batch, cursor as i64), end, most as i64];
    let found: Vec<RawResult> = select.query_map(bounds, result)?.collect::<rusqlite::Result<_>>()?;
    let next = found.last().filter(|_| found.len() == most).map(|last| last.cursor);
    Ok((found, next))
}

/// All the dead of a batch, with why.
pub(crate) fn all_dead(readers: &Readers, batch: i64) -> Result<Vec<DeadItem>, JournalError> {
    let mut items = Vec::new();
    let mut next = Some(0);
    while let Some(cursor) = next {
        next = readers.read(|db| {
            let (rows, next) = dead(db, batch, cursor, PAGE)?;
            for row in rows {
                let errors = errors(db, row.item)?;
                let dead = Dead::new(row.reason.unwrap_or(DeadReason::Exhausted), row.attempts, errors);
                items.push(DeadItem::new(row.seq, row.key, dead));
            }
            Ok(next)
        })?;
    }
    Ok(items)
}

/// How many items of a batch wait for another attempt.
#[cfg(feature = "cli")]
pub(crate) fn tried_before(db: &Connection, batch: i64) -> rusqlite::Result<u64> {
    let (mut from, end) = range_of(batch);
    let mut count = 0;
    loop {
        let (some, last): (i64, Option<i64>) = db
            .prepare_cached(
                "SELECT count(*), max(item) FROM (SELECT item FROM retry WHERE item >= ? AND item < ? ORDER BY item LIMIT ?)",
            )?
            .query_row([from, end, SPAN], |row| Ok((row.get(0)?, row.get(1)?)))?;
        count += some as u64;
        match last {
            Some(last) if some == SPAN => from = last + 1,
            _ => return Ok(count),
        }
    }
}

/// Why the attempts of an item failed, the first one first.
pub(crate) fn errors(db: &Connection, item: i64) -> rusqlite::Result<Vec<AttemptError>> {
    db.prepare_cached(
        "SELECT attempt, kind, message, place, epoch, at_ms, sum FROM error WHERE item = ? ORDER BY epoch",
    )?
    .query_map([item], |row| {
        let (attempt, kind, message): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (place, epoch, at_ms): (Option<String>, i64, i64) = (row.get(3)?, row.get(4)?, row.get(5)?);
        let sum = error_sum(item, epoch, attempt, &kind, &message, place.as_deref(), at_ms);
        if sum != row.get::<_, i64>(6)? {
            return Err(damaged("error", item));
        }
        // A kind of a newer version is still an error.
        let kind = kind.parse().unwrap_or(AttemptKind::Failed);
        let error = AttemptError::new(u32::try_from(attempt).unwrap_or(u32::MAX), kind, message);
        Ok(match place {
            Some(place) => error.at(place),
            None => error,
        })
    })?
    .collect()
}

/// What attempts of an open item have achieved.
pub(crate) fn step(db: &Connection, item: i64, name: &str) -> rusqlite::Result<Option<String>> {
    let mut select = db.prepare_cached("SELECT output, sum FROM step WHERE item = ? AND name = ?")?;
    let mut rows = select.query(params![item, name])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (output, sum): (String, i64) = (row.get(0)?, row.get(1)?);
    if sum != super::step::sum(item, name, &output) {
        return Err(damaged("step", item));
    }
    Ok(Some(output))
}

fn result(row: &Row<'_>) -> rusqlite::Result<RawResult> {
    let (id, item): (i64, i64) = (row.get(0)?, row.get(1)?);
    let (kind, reason): (String, Option<String>) = (row.get(3)?, row.get(4)?);
    let (epoch, attempts): (i64, i64) = (row.get(5)?, row.get(6)?);
    let times: (i64, i64, i64) = (row.get(7)?, row.get(8)?, row.get(9)?);
    let output: Option<String> = row.get(10)?;
    let Some(key) = row.get::<_, Option<String>>(2)? else { return Err(damaged("item", item)) };
    let sum = result_sum(
        id,
        item,
        key_sum(&key),
        &kind,
        reason.as_deref(),
        epoch,
        attempts,
        times,
        output.as_deref(),
    );
    let kind = Kind::of(&kind).filter(|_| sum == row.get::<_, i64>(11).unwrap_or(!sum));
    let Some(kind) = kind else { return Err(damaged("result", id)) };
    Ok(RawResult {
        cursor: seq_of(id) + 1,
        seq: seq_of(item),
        item,
        key: Key::from(key),
        kind,
        reason: reason.map(|reason| reason.parse().unwrap_or(DeadReason::Exhausted)),
        epoch,
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        wait_us: times.0.max(0) as u64,
        run_us: times.1.max(0) as u64,
        ended_ms: times.2,
        output,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::rows::{Past, RawItem};
    use crate::store::sqlite::settle::write_past;
    use crate::store::sqlite::testing::Alone;
    use crate::sync::Arc;
    use crate::sync::atomic::{AtomicU64, Ordering};

    /// A batch of this many items of which these have ended, as the tables have it, written past the store.
    fn fill(
        there: &Alone,
        name: &str,
        items: i64,
        ended: impl Iterator<Item = (i64, Kind)>,
        output: &str,
    ) -> i64 {
        let mut db = Connection::open(&there.path).unwrap();
        let tx = db.transaction().unwrap();
        let id = crate::store::BatchId { name: name.to_owned(), ..Default::default() };
        let (batch, mut book) = super::super::book::Book::found(&tx, &id, 0).unwrap();
        (book.sealed, book.next_seq, book.total) = (true, items, items);
        let key = |n: i64| format!("key {n}");
        for n in 0..items {
            let sum = RawItem::sum_of(number(batch, n), &key(n), 0, "0");
            tx.prepare_cached(
                "INSERT INTO item (id, key, run, queued_ms, payload, sum) VALUES (?, ?, 1, 0, '0', ?)",
            )
            .unwrap()
            .execute(params![number(batch, n), key(n), sum])
            .unwrap();
            write_past(&tx, number(batch, n), &Past::NONE).unwrap();
        }
        for (id, (n, kind)) in ended.enumerate() {
            book.next_result += 1;
            match kind {
                Kind::Done => book.done += 1,
                Kind::Dead => book.dead += 1,
                Kind::Skipped => book.skipped += 1,
            }
            tx.prepare_cached("DELETE FROM retry WHERE item = ?")
                .unwrap()
                .execute([number(batch, n)])
                .unwrap();
            let (id, item, kind) = (number(batch, id as i64), number(batch, n), kind.as_str());
            let output = (kind == "done").then_some(output);
            let sum = result_sum(id, item, key_sum(&key(n)), kind, None, 1, 1, (0, 0, 0), output);
            tx.prepare_cached("INSERT INTO result VALUES (?, ?, ?, NULL, 1, 1, 0, 0, 0, ?, ?)")
                .unwrap()
                .execute(params![id, item, kind, output, sum])
                .unwrap();
        }
        book.write(&tx, batch).unwrap();
        tx.commit().unwrap();
        batch
    }

    /// How SQLite goes about a query.
    fn plan(db: &Connection, sql: &str) -> String {
        let mut select = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let bounds = vec![1i64; select.parameter_count()];
        let lines =
            select.query_map(rusqlite::params_from_iter(bounds), |row| row.get::<_, String>(3)).unwrap();
        lines.map(Result::unwrap).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn the_dead_are_found_without_the_others() {
        let there = Alone::new("read-dead");
        let ended = (0..5_000).map(|n| (n, if n % 1_000 == 7 { Kind::Dead } else { Kind::Done }));
        let batch = fill(&there, "b", 5_000, ended, "1");
        let db = super::super::schema::open_beside(&there.path, false).unwrap();
        let (found, next) = dead(&db, batch, 0, 3).unwrap();
        assert_eq!(found.iter().map(|row| row.seq).collect::<Vec<_>>(), [7, 1_007, 2_007]);
        let (found, next) = dead(&db, batch, next.unwrap(), 3).unwrap();
        assert_eq!((found.iter().map(|row| row.seq).collect::<Vec<_>>(), next), (vec![3_007, 4_007], None));
        let plan = plan(&db, &dead_sql());
        assert!(plan.contains("r USING INDEX result_ended (kind=? AND rowid>? AND rowid<?)"), "{plan}");
        assert!(!plan.contains("SORTER") && !plan.contains("TEMP B-TREE"), "{plan}");
    }

    /// Instructions of SQLite between two looks.
    const LOOK: i32 = 10_000;

    /// A connection that is watched while it reads: at every look another one writes, if what was written last can be
    /// put away. If it cannot, the statement that reads now began before it. The longest run of such looks comes back.
    fn watched(there: &Alone) -> (Connection, Arc<AtomicU64>) {
        let mut db = super::super::schema::open_beside(&there.path, false).unwrap();
        let other = Connection::open(&there.path).unwrap();
        other.execute_batch("CREATE TABLE IF NOT EXISTS looked (n INTEGER)").unwrap();
        let (longest, handed) = (Arc::new(AtomicU64::new(0)), AtomicU64::new(0));
        let noted = Arc::clone(&longest);
        let look = move || {
            let put_away = "PRAGMA wal_checkpoint(PASSIVE)";
            let (log, away): (i64, i64) =
                other.query_row(put_away, [], |row| Ok((row.get(1)?, row.get(2)?))).unwrap();
            if log == away {
                handed.store(0, Ordering::Relaxed);
                other.execute("INSERT INTO looked VALUES (1)", []).unwrap();
            } else {
                noted.fetch_max(handed.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
            false
        };
        db.progress_handler(LOOK, Some(look)).unwrap();
        (db, longest)
    }

    /// Promise 8: nobody who reads keeps the log from being put away for long, however much there is to be read.
    #[test]
    fn no_statement_is_long() {
        const ITEMS: i64 = 24_000;
        let there = Alone::new("read-long");
        let dead = (0..ITEMS).map(|n| (n, Kind::Dead));
        let dead = fill(&there, "dead", ITEMS, dead, "");
        let last = fill(&there, "last", ITEMS, [(ITEMS - 1, Kind::Done)].into_iter(), "1");
        // A page is some 110,000 instructions: eleven looks.
        let is_short = |what: &str, longest: &AtomicU64| {
            let longest = longest.swap(0, Ordering::Relaxed);
            assert!(longest < 18, "{what}: {longest} looks at one statement");
            println!("{what}: {longest}");
        };
        let (db, longest) = watched(&there);
        assert_eq!(by_input(&db, last, 0, 256, true).unwrap()[0].seq, ITEMS as u64 - 1);
        is_short("by_input", &longest);
        assert!(by_input(&db, last, 0, 256, false).unwrap().is_empty());
        db.execute_batch("SELECT count(*) FROM item a WHERE a.id > 0").unwrap();
        assert!(longest.swap(0, Ordering::Relaxed) > 0, "it is watched");
        #[cfg(feature = "cli")]
        {
            assert_eq!(tried_before(&db, last).unwrap(), ITEMS as u64 - 1);
            is_short("tried_before", &longest);
        }
        let readers = Readers::new(there.path.clone());
        readers.idle.lock().push(db);
        assert_eq!(all_dead(&readers, dead).unwrap().len(), ITEMS as usize);
        is_short("all_dead", &longest);
    }

    /// A page of large outputs is cut by their bytes.
    #[test]
    fn large_outputs_make_short_pages() {
        let there = Alone::new("read-large");
        let output = format!("\"{}\"", "x".repeat(5 << 20));
        let batch = fill(&there, "large", 10, (0..10).map(|n| (n, Kind::Done)), &output);
        let db = super::super::schema::open_beside(&there.path, false).unwrap();
        for page in [by_completion(&db, batch, 0, 256).unwrap(), by_input(&db, batch, 0, 256, true).unwrap()]
        {
            assert_eq!(page.iter().map(|row| row.seq).collect::<Vec<_>>(), [0, 1, 2, 3]);
        }
        assert_eq!(by_completion(&db, batch, 8, 256).unwrap().len(), 2);
    }

    /// More than one page of them, and some that are not meant.
    #[cfg(feature = "cli")]
    #[test]
    fn the_dead_are_revived_by_pages() {
        use crate::store::sqlite::admin::{Pick, revive};
        let there = Alone::new("read-revive");
        let ended = (0..2_600).map(|n| (n, if n % 100 == 7 { Kind::Done } else { Kind::Dead }));
        let batch = fill(&there, "b", 3_000, ended, "1");
        there.journal.close();
        let revive = |pick| revive(&there.path, &mut |_| (), batch, &pick).unwrap();
        assert_eq!(revive(Pick::Matching("nothing of theirs".to_owned())), 0);
        assert_eq!(revive(Pick::Key("key 2500".to_owned())), 1);
        assert_eq!(revive(Pick::All), 2_573);
        assert_eq!(there.count("SELECT count(*) FROM result"), 26);
        assert_eq!(there.count("SELECT count(*) FROM retry WHERE item IN (SELECT id FROM item)"), 2_974);
        assert_eq!(there.count("SELECT dead FROM batch"), 0);
    }
}
