//! What of a batch has been printed.
//!
//! Kept in the journal's table `mark`, written after the printing: who is killed in between prints it again, nobody
//! leaves it out. Results have numbers in the order of their commits, items in that of their submission.
//!
//! | reader | what |
//! |---|---|
//! | `printed` | every result below this number has been printed |
//! | `in-order` | every item below this number has been printed (`-k`), … |
//! | `in-order-to` | … if its result is below this one: a later one is of another try |

use crate::store::JournalError;
use crate::store::sqlite::Journal;
use crate::store::sqlite::admin::{RawResult, Reading, send_marks};

/// The marks of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Marks {
    pub(crate) printed: u64,
    in_order: u64,
    in_order_to: u64,
    /// Above every result that has been passed in the order of the input.
    passed_to: u64,
}

impl Marks {
    pub(crate) fn read(reading: &Reading, batch: i64) -> Result<Self, JournalError> {
        Ok(Self {
            printed: reading.mark(batch, "printed")?,
            in_order: reading.mark(batch, "in-order")?,
            in_order_to: reading.mark(batch, "in-order-to")?,
            passed_to: 0,
        })
    }

    /// Whether it has been printed.
    pub(crate) fn cover(&self, result: &RawResult) -> bool {
        self.covers(result.cursor - 1, result.seq)
    }

    fn covers(&self, number: u64, seq: u64) -> bool {
        number < self.printed || (seq < self.in_order && number < self.in_order_to)
    }

    /// The results were printed up to this one in the order of their numbers.
    pub(crate) fn reached(&mut self, result: &RawResult) {
        self.printed = self.printed.max(result.cursor);
    }

    /// The items were printed up to this one in the order of the input. Those of an earlier run that went further stay
    /// covered by its mark until this one has come as far.
    pub(crate) fn reached_in_order(&mut self, result: &RawResult) {
        self.passed_to = self.passed_to.max(result.cursor);
        if result.seq + 1 >= self.in_order {
            self.in_order = result.seq + 1;
            self.in_order_to = self.in_order_to.max(self.passed_to);
        }
    }

    /// All of it was printed: the highest number tells it alone.
    pub(crate) fn all(&mut self) {
        self.printed = self.printed.max(self.passed_to);
        (self.in_order, self.in_order_to) = (0, 0);
    }

    pub(crate) fn send(&self, journal: &Journal, batch: i64) {
        let marks =
            [("printed", self.printed), ("in-order", self.in_order), ("in-order-to", self.in_order_to)];
        send_marks(journal, batch, marks.to_vec());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_orders_together() {
        let marks = Marks { printed: 3, in_order: 5, in_order_to: 10, passed_to: 10 };
        assert!(marks.covers(2, 99));
        assert!(marks.covers(9, 4));
        assert!(!marks.covers(9, 5), "its turn has not come");
        assert!(!marks.covers(10, 4), "tried again since");
        let mut all = marks;
        all.all();
        assert!(all.covers(9, 99) && !all.covers(10, 0));
    }
}
