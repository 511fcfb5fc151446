//! What was committed is printed, and then marked, once for all that was there to print.
//!
//! In the order of the commits, or in that of the items (`-k`): then a place among the items moves forward, over what
//! earlier runs have printed, and stops at an item whose result is to come. An item that had died and is driven again while
//! the run goes on may have its second result behind that place. So each result is looked at once, in the order of the
//! commits, before the place moves on over results that are younger: what lies behind the place is printed then. Whatever is
//! behind the place and older than the last look is printed, which is what the marks say.

use super::bytes::Bytes;
use super::exit::Trouble;
use super::left::{Left, row_of};
use super::marks::Marks;
use super::report::Unprinted;
use super::run::Press;
use crate::batch::Batch;
use crate::store::sqlite::Journal;
use crate::store::sqlite::admin::{RawResult, Reading};
use crate::sync::Arc;

/// Prints what was committed of one batch.
pub(crate) struct Desk {
    pub(crate) reading: Arc<Reading>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) batch: i64,
    pub(crate) press: Arc<Press>,
}

/// How far it is.
enum Place {
    /// Behind so many results.
    Completion(u64),
    Order {
        /// Before this item.
        item: u64,
        /// So many results have been looked at.
        looked: u64,
    },
}

impl Desk {
    /// Until the batch has ended and all is printed, or nothing can be printed any more.
    pub(crate) fn print(&self, batch: &Batch<Bytes, Left>, in_order: bool) {
        if let Err(trouble) = self.try_print(batch, in_order) {
            self.press.stop(Unprinted::Trouble(trouble));
        }
    }

    fn try_print(&self, batch: &Batch<Bytes, Left>, in_order: bool) -> Result<(), Trouble> {
        let mut marks = Marks::read(&self.reading, self.batch)?;
        let mut place = match in_order {
            // What has ended by now is passed in the order of the items; what does so later may be behind.
            true => Place::Order { item: 0, looked: self.reading.ended(self.batch)? },
            false => Place::Completion(marks.printed),
        };
        loop {
            let found = batch.watch(|ended| match self.fetch(&mut place, &marks, ended) {
                Ok(rows) if rows.is_empty() && !ended => None,
                found => Some(found),
            });
            let rows = found.unwrap_or(Ok(Vec::new()))?;
            if rows.is_empty() {
                break;
            }
            for raw in &rows {
                if !marks.cover(raw)
                    && let Some(row) = row_of(&self.reading, raw)?
                    && !self.press.print(row)
                {
                    marks.send(&self.journal, self.batch);
                    return Ok(());
                }
                match &mut place {
                    Place::Completion(next) => {
                        *next = raw.cursor;
                        marks.reached(raw);
                    }
                    Place::Order { item, .. } => {
                        *item = (*item).max(raw.seq + 1);
                        marks.reached_in_order(raw);
                    }
                }
            }
            marks.send(&self.journal, self.batch);
        }
        if let Place::Order { looked, .. } = place {
            marks.all(looked);
            marks.send(&self.journal, self.batch);
        }
        Ok(())
    }

    /// The next results; none: they are to come, or, if the batch has ended, there are no more.
    fn fetch(&self, place: &mut Place, marks: &Marks, ended: bool) -> Result<Vec<RawResult>, Trouble> {
        let (reading, batch) = (&self.reading, self.batch);
        let (item, looked) = match place {
            Place::Completion(next) => return Ok(reading.results(batch, *next)?),
            Place::Order { item, looked } => (item, looked),
        };
        let to = reading.ended(batch)?;
        while *looked < to {
            let (rows, behind) = reading.results_behind(batch, *item, *looked, to)?;
            *looked = behind;
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
        *item = marks.skip(reading, batch, *item)?;
        let mut rows = reading.results_in_order(batch, *item, ended)?;
        let known = rows.iter().take_while(|row| row.cursor <= to).count();
        rows.truncate(known);
        Ok(rows)
    }
}
