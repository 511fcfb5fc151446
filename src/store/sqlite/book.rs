//! The counters of the batches that are open, as the writer keeps them: what would be one statement a row is one a
//! group. A rolled-back group puts the old ones back.
//!
//! Who changes a counter of the table does it here: the row's checksum takes them in.

use super::rows::Sum;
use super::settle::damaged;
use crate::store::BatchId;
use rusqlite::{Connection, named_params, params};
use std::collections::HashMap;

/// One batch's counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Book {
    pub(crate) run: i64,
    pub(crate) sealed: bool,
    pub(crate) next_seq: i64,
    pub(crate) next_result: i64,
    /// Items of this run below this number have been claimed, or are in `retry`, or have ended.
    pub(crate) claimed_to: i64,
    pub(crate) total: i64,
    pub(crate) done: i64,
    pub(crate) dead: i64,
    pub(crate) skipped: i64,
    /// Items from this number on are of this run only: none of them can have a result or a retry before it is claimed.
    pub(crate) fresh_from: i64,
    /// No item of this run is at this number or beyond.
    pub(crate) seen_to: i64,
    /// The checksum of the batch's name and of what is to run its items.
    named: i64,
    /// Which opening of a batch it belongs to: the end of an earlier run, written late, is none of this one's.
    pub(crate) opening: u64,
    changed: bool,
}

/// The books of the open batches.
#[derive(Debug, Clone, Default)]
pub(crate) struct Books {
    open: HashMap<i64, Book>,
    /// How often a batch has been opened.
    opened: u64,
}

impl Book {
    /// As the table has it.
    pub(crate) fn read(db: &Connection, batch: i64) -> rusqlite::Result<Book> {
        db.prepare_cached(
            "SELECT run, sealed, next_seq, next_result, claimed_to, total, done, dead, skipped,
             name, parameters, processor, version, sum FROM batch WHERE id = ?",
        )?
        .query_row([batch], |row| {
            let text = |at: usize| row.get::<_, String>(at);
            let named = named(batch, [&text(9)?, &text(10)?, &text(11)?, &text(12)?]);
            let book = Book {
                run: row.get(0)?,
                sealed: row.get(1)?,
                next_seq: row.get(2)?,
                next_result: row.get(3)?,
                claimed_to: row.get(4)?,
                total: row.get(5)?,
                done: row.get(6)?,
                dead: row.get(7)?,
                skipped: row.get(8)?,
                fresh_from: 0,
                seen_to: 0,
                named,
                opening: 0,
                changed: false,
            };
            if book.sum() == row.get::<_, i64>(13)? { Ok(book) } else { Err(damaged("batch", batch)) }
        })
    }

    /// Writes the row of a batch that begins its first run.
    pub(crate) fn found(db: &Connection, what: &BatchId, now_ms: i64) -> rusqlite::Result<(i64, Book)> {
        let BatchId { name, parameters, processor, version } = what;
        db.prepare_cached(
            "INSERT INTO batch (name, parameters, processor, version, run, sealed, next_seq, next_result, claimed_to,
             total, done, dead, skipped, paused, created_ms, sum) VALUES (?, ?, ?, ?, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, ?, 0)",
        )?
        .execute(params![name, parameters, processor, version, now_ms])?;
        let id = db.last_insert_rowid();
        let book =
            Book { run: 1, named: named(id, [name, parameters, processor, version]), ..Book::default() };
        book.write(db, id)?;
        Ok((id, book))
    }

    fn sum(&self) -> i64 {
        let counts = [
            self.run,
            self.sealed.into(),
            self.next_seq,
            self.next_result,
            self.claimed_to,
            self.total,
            self.done,
            self.dead,
            self.skipped,
        ];
        counts.into_iter().fold(Sum::of(5).int(self.named), Sum::int).finish()
    }

    pub(crate) fn write(&self, db: &Connection, batch: i64) -> rusqlite::Result<()> {
        db.prepare_cached(
            "UPDATE batch SET run = :run, sealed = :sealed, next_seq = :next_seq, next_result = :next_result,
             claimed_to = :claimed_to, total = :total, done = :done, dead = :dead, skipped = :skipped, sum = :sum
             WHERE id = :id",
        )?
        .execute(named_params! {
            ":run": self.run, ":sealed": self.sealed, ":next_seq": self.next_seq, ":next_result": self.next_result,
            ":claimed_to": self.claimed_to, ":total": self.total, ":done": self.done, ":dead": self.dead,
            ":skipped": self.skipped, ":sum": self.sum(), ":id": batch,
        })
        .map(drop)
    }
}

fn named(batch: i64, texts: [&str; 4]) -> i64 {
    texts.into_iter().fold(Sum::of(6).int(batch), Sum::text).finish()
}

impl Books {
    /// A batch that was not there before.
    pub(crate) fn enter(&mut self, batch: i64, book: Book) {
        self.open.insert(batch, book);
    }

    /// The batch's book, read when it is asked for the first time. It is written at the end of the group.
    pub(crate) fn of(&mut self, db: &Connection, batch: i64) -> rusqlite::Result<&mut Book> {
        use std::collections::hash_map::Entry;
        let book = match self.open.entry(batch) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(free) => free.insert(Book::read(db, batch)?),
        };
        book.changed = true;
        Ok(book)
    }

    /// A number for an opening.
    pub(crate) fn next_opening(&mut self) -> u64 {
        self.opened += 1;
        self.opened
    }

    /// Which opening the batch's book belongs to, if it is open.
    pub(crate) fn opening_of(&self, batch: i64) -> Option<u64> {
        self.open.get(&batch).map(|book| book.opening)
    }

    pub(crate) fn close(&mut self, db: &Connection, batch: i64) -> rusqlite::Result<()> {
        if let Some(book) = self.open.remove(&batch)
            && book.changed
        {
            book.write(db, batch)?;
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self, db: &Connection) -> rusqlite::Result<()> {
        for (batch, book) in &mut self.open {
            if std::mem::take(&mut book.changed) {
                book.write(db, *batch)?;
            }
        }
        Ok(())
    }
}
