//! Steps: what an attempt has achieved, so that the next one does not pay for it again.

use super::error::JournalError;
use super::rows::Sum;
use super::settle::read_past;
use super::writer::{Op, Tx};
use crate::sync::Arc;
use rusqlite::params;

/// A step's output, to be written.
pub(crate) struct Step {
    pub(crate) item: i64,
    /// The attempt that achieved it.
    pub(crate) epoch: i64,
    pub(crate) name: String,
    pub(crate) output: String,
    pub(crate) stale: bool,
    pub(crate) told: Box<dyn FnOnce(Result<bool, Arc<JournalError>>) + Send>,
}

impl Op for Step {
    fn apply(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        self.stale = is_stale(tx, self.item, self.epoch)?;
        if self.stale {
            return Ok(());
        }
        let sum = sum(self.item, &self.name, &self.output);
        tx.db
            .prepare_cached("INSERT OR REPLACE INTO step (item, name, output, sum) VALUES (?, ?, ?, ?)")?
            .execute(params![self.item, self.name, self.output, sum])
            .map(drop)
    }

    fn committed(self: Box<Self>) {
        (self.told)(Ok(!self.stale));
    }

    fn lost(self: Box<Self>, why: &Arc<JournalError>) {
        (self.told)(Err(Arc::clone(why)));
    }
}

/// Whether the journal expects another attempt at this item, or none.
pub(crate) fn is_stale(tx: &Tx<'_>, item: i64, epoch: i64) -> rusqlite::Result<bool> {
    let ended = tx.db.prepare_cached("SELECT 1 FROM result WHERE item = ?")?.exists([item])?;
    Ok(ended || read_past(tx.db, item)?.map_or(1, |past| past.epoch) != epoch)
}

pub(crate) fn sum(item: i64, name: &str, output: &str) -> i64 {
    Sum::of(4).int(item).text(name).text(output).finish()
}
