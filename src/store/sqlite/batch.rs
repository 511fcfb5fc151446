//! A batch's row: found or made when it is opened, sealed, ended.

use super::book::Book;
use super::error::JournalError;
use super::rows::{Kind, Past, range_of, seq_of};
use super::settle::{damaged, read_past, write_past};
use super::writer::{Op, Tx};
use crate::store::BatchId;
use crate::sync::Arc;
use rusqlite::{Connection, OptionalExtension, params};

/// A batch as it was found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Opened {
    pub(crate) id: i64,
    pub(crate) run: i64,
    /// Which opening this is of all that the journal has seen.
    pub(crate) opening: u64,
    pub(crate) paused: bool,
    /// Ended in earlier runs: done, dead, skipped.
    pub(crate) before: (i64, i64, i64),
    /// Items that have something behind them: for a run without input.
    pub(crate) again: Vec<(i64, Past)>,
    /// Items that nobody has claimed: for a run without input.
    pub(crate) unclaimed: u64,
}

/// Why it cannot be opened.
#[derive(Debug, Clone)]
pub(crate) enum Refused {
    Unknown { known: Vec<String> },
    Unsealed,
    OtherProcessor { there: String },
}

/// Finds the batch, or makes it, and begins a run.
pub(crate) fn open(
    tx: &mut Tx<'_>,
    what: &BatchId,
    with_input: bool,
) -> rusqlite::Result<Result<Opened, Refused>> {
    let db = tx.db;
    let found: Option<(i64, String, String, bool, bool)> = db
        .prepare_cached(
            "SELECT id, processor, version, sealed, paused FROM batch WHERE name = ? AND parameters = ?",
        )?
        .query_row(params![what.name, what.parameters], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })
        .optional()?;
    let Some((id, processor, version, sealed, paused)) = found else {
        if !with_input {
            return Ok(Err(Refused::Unknown { known: names(tx)? }));
        }
        let (id, mut book) = Book::found(db, what, tx.now_ms)?;
        let opening = tx.books.next_opening();
        book.opening = opening;
        tx.books.enter(id, book);
        return Ok(Ok(Opened { id, run: 1, opening, ..Opened::default() }));
    };
    let said = |processor: &str, version: &str| {
        if version.is_empty() { processor.to_owned() } else { format!("{processor} {version}") }
    };
    let told = !what.processor.is_empty() && !processor.is_empty();
    if told && (processor != what.processor || version != what.version) {
        return Ok(Err(Refused::OtherProcessor { there: said(&processor, &version) }));
    }
    if !with_input && !sealed {
        return Ok(Err(Refused::Unsealed));
    }
    let opening = tx.books.next_opening();
    let book = tx.books.of(db, id)?;
    book.opening = opening;
    if last_of(db, "item", id)? >= book.next_seq || last_of(db, "result", id)? >= book.next_result {
        return Err(damaged("batch", id));
    }
    book.claimed_to = 0;
    book.fresh_from = book.next_seq;
    book.seen_to = 0;
    if with_input {
        book.run += 1;
        book.sealed = false;
    } else {
        book.seen_to = book.next_seq;
    }
    let (run, before) = (book.run, (book.done, book.dead, book.skipped));
    db.prepare_cached("UPDATE batch SET status = NULL, ended_ms = NULL WHERE id = ?")?.execute([id])?;
    let mut opened = Opened { id, run, opening, paused, before, ..Opened::default() };
    if !with_input {
        let (from, to) = range_of(id);
        opened.unclaimed = db
            .prepare_cached(
                "SELECT count(*) FROM item WHERE id >= ? AND id < ? AND run = ?
                 AND NOT EXISTS (SELECT 1 FROM result WHERE item = item.id)
                 AND NOT EXISTS (SELECT 1 FROM retry WHERE item = item.id)",
            )?
            .query_row(params![from, to, run], |row| row.get::<_, i64>(0))? as u64;
        let ids: Vec<i64> = db
            .prepare_cached(
                "SELECT retry.item FROM retry JOIN item ON item.id = retry.item
                 WHERE retry.item >= ? AND retry.item < ? AND item.run = ? ORDER BY retry.item",
            )?
            .query_map([from, to, run], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for id in ids {
            opened.again.extend(read_past(db, id)?.map(|past| (id, past)));
        }
    }
    Ok(Ok(opened))
}

/// Looks whether the batches' counters are those of the rows that there are. Reads all of them.
pub(crate) fn count_again(db: &Connection) -> rusqlite::Result<()> {
    let batches: Vec<i64> = db
        .prepare("SELECT id FROM batch")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let all =
        |table: &str| db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0));
    let (mut items, mut results) = (all("item")?, all("result")?);
    for batch in batches {
        let book = Book::read(db, batch)?;
        let (from, to) = range_of(batch);
        let counted =
            "SELECT count(*), count(*) FILTER (WHERE run BETWEEN 1 AND ?) FROM item WHERE id >= ? AND id < ?";
        let (there, of_a_run): (i64, i64) =
            db.query_row(counted, [book.run, from, to], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mut ended = [0; 3];
        let mut select =
            db.prepare("SELECT kind, count(*) FROM result WHERE id >= ? AND id < ? GROUP BY kind")?;
        let mut rows = select.query([from, to])?;
        while let Some(row) = rows.next()? {
            let kind = Kind::of(&row.get::<_, String>(0)?).ok_or_else(|| damaged("result", batch))?;
            ended[kind as usize] = row.get::<_, i64>(1)?;
        }
        if there != book.total || of_a_run != there || ended != [book.done, book.dead, book.skipped] {
            return Err(damaged("batch", batch));
        }
        items -= there;
        results -= ended.iter().sum::<i64>();
    }
    // Those left over are nobody's.
    if items != 0 || results != 0 {
        return Err(damaged("batch", 0));
    }
    for table in ["retry", "step", "error"] {
        let stray = format!(
            "SELECT item FROM {table} t WHERE NOT EXISTS (SELECT 1 FROM item WHERE id = t.item) LIMIT 1"
        );
        if let Some(item) = db.query_row(&stray, [], |row| row.get(0)).optional()? {
            return Err(damaged(table, item));
        }
    }
    Ok(())
}

/// The highest position that the batch has in a table; -1: none.
pub(crate) fn last_of(db: &Connection, table: &str, batch: i64) -> rusqlite::Result<i64> {
    let (from, to) = range_of(batch);
    let last: Option<i64> = db
        .prepare_cached(&format!("SELECT max(id) FROM {table} WHERE id >= ? AND id < ?"))?
        .query_row([from, to], |row| row.get(0))?;
    Ok(last.map_or(-1, |last| seq_of(last) as i64))
}

/// Batches that have something claimed.
pub(crate) fn claimed(db: &Connection) -> rusqlite::Result<Vec<i64>> {
    db.prepare_cached("SELECT id FROM batch WHERE claimed_to > 0")?.query_map([], |row| row.get(0))?.collect()
}

fn names(tx: &Tx<'_>) -> rusqlite::Result<Vec<String>> {
    tx.db
        .prepare_cached("SELECT DISTINCT name FROM batch ORDER BY id LIMIT 20")?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// What sealing a submission found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// Items that earlier submissions had and this one has not.
    pub(crate) count: u64,
    /// Some of their keys.
    pub(crate) keys: Vec<String>,
    /// Items that items of this run had submitted in earlier ones: to be run, and those that have ended.
    pub(crate) children: Vec<(i64, Past)>,
    /// Done, dead, skipped.
    pub(crate) ended_children: (u64, u64, u64),
}

/// All items are known.
pub(crate) fn seal(tx: &mut Tx<'_>, batch: i64, opening: u64) -> rusqlite::Result<Sealed> {
    let db = tx.db;
    if tx.books.opening_of(batch) != Some(opening) {
        // Its run has ended meanwhile, cut short.
        return Ok(Sealed::default());
    }
    let book = tx.books.of(db, batch)?;
    book.sealed = true;
    let (run, fresh_from) = (book.run, book.fresh_from);
    let mut sealed = Sealed::default();
    if fresh_from == 0 {
        return Ok(sealed);
    }
    let (from, to) = range_of(batch);
    // Whoever is of this run takes those along that it submitted before, and they theirs.
    loop {
        let of_this_run: Vec<i64> = db
            .prepare_cached(
                "SELECT c.id FROM item c JOIN item p ON p.id = c.parent
                 WHERE c.parent >= ? AND c.parent < ? AND c.run <> ? AND p.run = ?",
            )?
            .query_map(params![from, to, run, run], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        if of_this_run.is_empty() {
            break;
        }
        for id in of_this_run {
            db.prepare_cached("UPDATE item SET run = ? WHERE id = ?")?.execute([run, id])?;
            let book = tx.books.of(db, batch)?;
            if let Some(kind) = super::append::has_ended(db, id, book)? {
                let (done, dead, skipped) = &mut sealed.ended_children;
                match kind {
                    Kind::Done => *done += 1,
                    Kind::Dead => *dead += 1,
                    Kind::Skipped => *skipped += 1,
                }
                continue;
            }
            let past = match read_past(db, id)? {
                Some(past) => past,
                None => {
                    write_past(db, id, &Past::NONE)?;
                    Past::NONE
                }
            };
            sealed.children.push((id, past));
        }
    }
    let bounds = params![from, from + fresh_from, run];
    let count: i64 = db
        .prepare_cached("SELECT count(*) FROM item WHERE id >= ? AND id < ? AND run <> ?")?
        .query_row(bounds, |row| row.get(0))?;
    sealed.count = count as u64;
    sealed.keys = db
        .prepare_cached("SELECT key FROM item WHERE id >= ? AND id < ? AND run <> ? ORDER BY id LIMIT 5")?
        .query_map(bounds, |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok(sealed)
}

/// The run is over, and this is how.
pub(crate) fn end(tx: &mut Tx<'_>, batch: i64, opening: u64, status: &str) -> rusqlite::Result<()> {
    if tx.books.opening_of(batch) != Some(opening) {
        return Ok(()); // It was opened anew before this was written.
    }
    tx.books.of(tx.db, batch)?.claimed_to = 0;
    tx.books.close(tx.db, batch)?;
    tx.db
        .prepare_cached("UPDATE batch SET status = ?, ended_ms = ? WHERE id = ?")?
        .execute(params![status, tx.now_ms, batch])
        .map(drop)
}

/// Does to a batch that nobody runs what another process asks for, and says what became of it.
///
/// A paused batch starts paused. A cancelled one is as a run leaves it that was cancelled: what has not ended stays
/// pending.
pub(crate) fn steer(tx: &mut Tx<'_>, batch: i64, verb: &str) -> rusqlite::Result<&'static str> {
    let changed = match verb {
        "pause" => tx.db.prepare_cached("UPDATE batch SET paused = 1 WHERE id = ?")?.execute([batch])?,
        "resume" => tx.db.prepare_cached("UPDATE batch SET paused = 0 WHERE id = ?")?.execute([batch])?,
        "cancel" => {
            let over = tx
                .db
                .prepare_cached(
                    "UPDATE batch SET status = '\"cancelled\"', ended_ms = ? WHERE id = ? AND status IS NULL",
                )?
                .execute(params![tx.now_ms, batch])?;
            if over == 0 {
                return Ok("has ended");
            }
            over
        }
        _ => return Ok("not understood"),
    };
    Ok(if changed == 0 { "unknown" } else { "done" })
}

/// A piece of writing with an answer.
pub(crate) struct Ask<R, F> {
    pub(crate) write: F,
    pub(crate) made: Option<R>,
    pub(crate) told: Box<dyn FnOnce(Result<R, Arc<JournalError>>) + Send>,
}

impl<R: Send, F: FnMut(&mut Tx<'_>) -> rusqlite::Result<R> + Send> Op for Ask<R, F> {
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        self.made = Some((self.write)(tx)?);
        Ok(())
    }

    fn committed(self: Box<Self>) {
        if let Some(made) = self.made {
            (self.told)(Ok(made));
        }
    }

    fn lost(self: Box<Self>, why: &Arc<JournalError>) {
        (self.told)(Err(Arc::clone(why)));
    }
}
