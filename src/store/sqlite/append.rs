//! Submission: items into the table, by key, each once a run.

use super::error::JournalError;
use super::rows::{Kind, NewItem, Past, Placed, RawItem, number, seq_of};
use super::schema::MOST_ITEMS;
use super::settle::{damaged, read_past, write_past};
use super::writer::{Op, Tx};
use crate::job::{DeadReason, Duplicates};
use crate::lock::{Levelled, house};
use crate::sync::Arc;
use rusqlite::{OptionalExtension, params};
use std::collections::HashMap;

/// Items to be written, in order.
pub(crate) struct Append {
    pub(crate) batch: i64,
    pub(crate) items: Vec<NewItem>,
    pub(crate) duplicates: Duplicates,
    /// Up to this many new items are claimed with their writing, if nothing waits before them.
    pub(crate) claim: usize,
    pub(crate) told: Box<dyn Appended>,
    pub(crate) placed: Vec<Placed>,
    pub(crate) repeats: Repeats,
}

/// How often a repeated key came, for [`Duplicates::Allow`].
pub(crate) type Repeats = Arc<Levelled<HashMap<String, u64>, house::Repeats>>;

/// Who learns what became of them.
pub(crate) trait Appended: Send {
    /// In the order of the items.
    fn appended(self: Box<Self>, items: Vec<NewItem>, placed: Vec<Placed>);
    fn lost(self: Box<Self>, items: usize, why: &Arc<JournalError>);
}

impl Op for Append {
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        self.placed.clear();
        let book = tx.books.of(tx.db, self.batch)?;
        let mut insert = tx.db.prepare_cached(
            "INSERT INTO item (id, key, run, queued_ms, parent, payload, sum) VALUES (?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT DO NOTHING",
        )?;
        let mut claim = self.claim;
        // What is written now is claimed with it only if it is next in line.
        let in_line = book.claimed_to >= book.next_seq.max(book.fresh_from);
        for item in &mut self.items {
            let placed = loop {
                if book.next_seq >= MOST_ITEMS {
                    return Err(full_of_items());
                }
                let id = number(self.batch, book.next_seq);
                let key = item.full_key();
                let sum = RawItem::sum_of(id, &key, item.queued_ms, &item.payload);
                let new = insert.execute(params![
                    id,
                    key,
                    book.run,
                    item.queued_ms,
                    item.parent,
                    item.payload,
                    sum
                ])?;
                if new == 1 {
                    book.next_seq += 1;
                    book.seen_to = book.next_seq;
                    book.total += 1;
                    let claimed = in_line && claim > 0;
                    if claimed {
                        claim -= 1;
                        book.claimed_to = book.next_seq;
                    }
                    break Placed::New { id, claimed };
                }
                match known(tx.db, self.batch, &key, item, book)? {
                    Placed::Duplicate if self.duplicates == Duplicates::Allow => {
                        let mut repeats = self.repeats.lock();
                        let n = repeats.entry(item.key.clone()).or_insert(0);
                        *n += 1;
                        item.occurrence = *n;
                    }
                    placed => break placed,
                }
            };
            self.placed.push(placed);
        }
        Ok(())
    }

    fn committed(self: Box<Self>) {
        let Append { told, items, placed, .. } = *self;
        told.appended(items, placed);
    }

    fn lost(self: Box<Self>, why: &Arc<JournalError>) {
        self.told.lost(self.items.len(), why);
    }

    fn rows(&self) -> usize {
        self.items.len()
    }
}

fn full_of_items() -> rusqlite::Error {
    rusqlite::Error::InvalidParameterName("a batch has 2^40 items at the most".to_owned())
}

/// The key is in the table already.
fn known(
    db: &rusqlite::Connection,
    batch: i64,
    key: &str,
    item: &NewItem,
    book: &mut super::book::Book,
) -> rusqlite::Result<Placed> {
    let (id, run): (i64, i64) = db
        .prepare_cached("SELECT id, run FROM item WHERE batch = ? AND key = ?")?
        .query_row(params![batch, key], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if run == book.run {
        return Ok(Placed::Duplicate);
    }
    if let Some(kind) = has_ended(db, id, book)? {
        db.prepare_cached("UPDATE item SET run = ? WHERE id = ?")?.execute([book.run, id])?;
        return Ok(Placed::Ended { kind });
    }
    // The payload of the input at hand: that of a failed item may have been mended under the same key.
    let sum = RawItem::sum_of(id, key, item.queued_ms, &item.payload);
    db.prepare_cached("UPDATE item SET run = ?, queued_ms = ?, payload = ?, sum = ? WHERE id = ?")?
        .execute(params![book.run, item.queued_ms, item.payload, sum, id])?;
    let seq = seq_of(id) as i64;
    book.seen_to = book.seen_to.max(seq + 1);
    let mut past = read_past(db, id)?;
    if past.is_none() && seq < book.claimed_to {
        // The scan of this run has passed it, with another order of the input: it is claimed by name.
        write_past(db, id, &Past::NONE)?;
        past = Some(Past::NONE);
    }
    Ok(Placed::Pending { id, past })
}

/// How an earlier run ended an item, if it did. One that was given up is tried again by this run, but not what took
/// processes down with it.
pub(crate) fn has_ended(
    db: &rusqlite::Connection,
    id: i64,
    book: &mut super::book::Book,
) -> rusqlite::Result<Option<Kind>> {
    let ended: Option<(String, Option<String>)> = db
        .prepare_cached("SELECT kind, reason FROM result WHERE item = ?")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((kind, reason)) = ended else { return Ok(None) };
    let kind = Kind::of(&kind).ok_or_else(|| damaged("result", id))?;
    if kind == Kind::Dead && reason.as_deref() != Some(DeadReason::Crashed.as_str()) {
        // The next attempt's number is made of it, so it is read with its checksum.
        let ended = super::read::of_item(db, id)?;
        again(db, id, ended.epoch)?;
        book.dead -= 1;
        return Ok(None);
    }
    Ok(Some(kind))
}

/// Takes a dead item's result back: it has its tries before it again.
pub(crate) fn again(db: &rusqlite::Connection, id: i64, epoch: i64) -> rusqlite::Result<Past> {
    db.prepare_cached("DELETE FROM result WHERE item = ?")?.execute([id])?;
    db.prepare_cached("DELETE FROM piece WHERE item = ?")?.execute([id])?;
    let past = Past { epoch: epoch.saturating_add(1), ..Past::NONE };
    write_past(db, id, &past)?;
    Ok(past)
}
