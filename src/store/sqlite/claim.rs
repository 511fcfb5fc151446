//! Claims: which items may be started, written before they are.

use super::error::JournalError;
use super::rows::{Past, RawItem, number, seq_of};
use super::settle::{damaged, read_past, write_past};
use super::writer::{Op, Tx};
use crate::sync::Arc;
use rusqlite::{Row, params};

/// Payloads that one claim brings into memory, about.
const MOST_BYTES: usize = 16 << 20;

/// Takes items that nobody has claimed: first the named ones, then the next of the run.
pub(crate) struct Claim {
    pub(crate) batch: i64,
    /// Of which opening: asked for late, after its run has ended, it is none of the next one's.
    pub(crate) opening: u64,
    pub(crate) owner: i64,
    /// Items with something behind them whose time has come.
    pub(crate) ids: Vec<i64>,
    /// How many of the others.
    pub(crate) max: usize,
    /// The named one is a suspect that has its turn.
    pub(crate) suspect: bool,
    pub(crate) told: Arc<dyn Claimed>,
    pub(crate) found: Vec<RawItem>,
    pub(crate) more: bool,
}

/// Who gets them.
pub(crate) trait Claimed: Send + Sync {
    /// `max`: so many of the others were asked for; `more`: others of the run are left.
    /// `suspect`: it was for one that has its turn.
    fn claimed(self: Arc<Self>, items: Vec<RawItem>, max: usize, more: bool, suspect: bool);
    /// `suspect`: it was for one that has its turn.
    fn lost(self: Arc<Self>, suspect: bool, why: &Arc<JournalError>);
}

impl Op for Claim {
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        self.found.clear();
        self.more = false;
        if tx.books.opening_of(self.batch) != Some(self.opening) {
            return Ok(());
        }
        for id in &self.ids {
            let past = read_past(tx.db, *id)?.ok_or_else(|| damaged("retry", *id))?;
            // Before the attempt starts: if this owner dies, it counts as begun.
            write_past(tx.db, *id, &Past { owner: self.owner, ..past })?;
            let mut select =
                tx.db.prepare_cached("SELECT id, key, queued_ms, payload, sum FROM item WHERE id = ?")?;
            let mut rows = select.query([id])?;
            let row = rows.next()?.ok_or_else(|| damaged("item", *id))?;
            let errors = super::read::errors(tx.db, *id)?;
            self.found.push(RawItem { errors, ..raw(row, Some(past))? });
        }
        if self.max == 0 {
            return Ok(());
        }
        let book = tx.books.of(tx.db, self.batch)?;
        // Those of earlier runs may have ended, or be in `retry`, from where they are claimed by name.
        let sql = if book.claimed_to >= book.fresh_from {
            "SELECT id, key, queued_ms, payload, sum FROM item WHERE id >= ? AND id < ? AND run = ? ORDER BY id LIMIT ?"
        } else {
            "SELECT id, key, queued_ms, payload, sum FROM item WHERE id >= ? AND id < ? AND run = ?
             AND NOT EXISTS (SELECT 1 FROM result WHERE item = item.id)
             AND NOT EXISTS (SELECT 1 FROM retry WHERE item = item.id) ORDER BY id LIMIT ?"
        };
        let mut select = tx.db.prepare_cached(sql)?;
        let (from, to) = (number(self.batch, book.claimed_to), number(self.batch, book.seen_to));
        let mut rows = select.query(params![from, to, book.run, self.max as i64])?;
        let (mut scanned, mut bytes) = (0, 0);
        while let Some(row) = rows.next()? {
            let item = raw(row, None)?;
            book.claimed_to = seq_of(item.id) as i64 + 1;
            bytes += item.payload.len();
            self.found.push(item);
            scanned += 1;
            if bytes >= MOST_BYTES {
                break;
            }
        }
        self.more = scanned == self.max || bytes >= MOST_BYTES;
        if !self.more {
            book.claimed_to = book.claimed_to.max(book.seen_to);
        }
        Ok(())
    }

    fn committed(self: Box<Self>) {
        self.told.claimed(self.found, self.max, self.more, self.suspect);
    }

    fn lost(self: Box<Self>, why: &Arc<JournalError>) {
        self.told.lost(self.suspect, why);
    }

    fn rows(&self) -> usize {
        self.ids.len() + self.max / 4
    }
}

fn raw(row: &Row<'_>, past: Option<Past>) -> rusqlite::Result<RawItem> {
    Ok(RawItem {
        id: row.get(0)?,
        key: row.get(1)?,
        queued_ms: row.get(2)?,
        payload: row.get(3)?,
        sum: row.get(4)?,
        past,
        errors: Vec::new(),
    })
}
