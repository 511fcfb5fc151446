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
    /// Above every item that has been passed in the order of the input, and above the results of them.
    passed: u64,
    passed_to: u64,
}

impl Marks {
    pub(crate) fn read(reading: &Reading, batch: i64) -> Result<Self, JournalError> {
        Ok(Self {
            printed: reading.mark(batch, "printed")?,
            in_order: reading.mark(batch, "in-order")?,
            in_order_to: reading.mark(batch, "in-order-to")?,
            passed: 0,
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

    /// The items were printed up to this one in the order of the input, or this one of those before. What an earlier run
    /// that went further has printed stays covered by its mark until this one has come as far.
    pub(crate) fn reached_in_order(&mut self, result: &RawResult) {
        self.passed = self.passed.max(result.seq + 1);
        self.passed_to = self.passed_to.max(result.cursor);
        if self.passed >= self.in_order {
            self.in_order = self.passed;
            self.in_order_to = self.in_order_to.max(self.passed_to);
        }
    }

    /// The first item from this one on that may have something to print: that has no result yet, or one that is not
    /// covered, or has died, and may be tried again.
    pub(crate) fn skip(&self, reading: &Reading, batch: i64, from: u64) -> Result<u64, JournalError> {
        let below = self.printed.max(self.in_order_to);
        let border = self.in_order.max(from);
        match reading.first_beyond(batch, (from, border), below)? {
            found if found < border => Ok(found),
            _ => reading.first_beyond(batch, (border, u64::MAX), self.printed),
        }
    }

    /// All of it was printed, which are so many results: their number tells it alone.
    pub(crate) fn all(&mut self, results: u64) {
        self.printed = self.printed.max(results);
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
        let marks = Marks { printed: 3, in_order: 5, in_order_to: 10, passed: 5, passed_to: 10 };
        assert!(marks.covers(2, 99));
        assert!(marks.covers(9, 4));
        assert!(!marks.covers(9, 5), "its turn has not come");
        assert!(!marks.covers(10, 4), "tried again since");
        let mut all = marks;
        all.all(10);
        assert!(all.covers(9, 99) && !all.covers(10, 0));
    }

    /// Over more items than are looked at together.
    #[test]
    fn what_is_covered_is_skipped() {
        use crate::batch::Engine;
        use crate::job::Failure;
        let dir = std::env::temp_dir().join(format!("batchyard-marks-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("a.db");
        let engine = Engine::builder().workers(1).journal(&path).open().unwrap();
        let run = |n: &u64, _: &_| if *n == 15_000 { Err(Failure::fatal("bad")) } else { Ok(*n) };
        let batch = engine.batch("b").submit(0..25_000, run).unwrap();
        batch.wait().unwrap();
        let reading = Reading::open(&path).unwrap();
        let id = reading.batches().unwrap()[0].id;
        // One worker: items end in their order.
        let skip = |printed, in_order, in_order_to, from| {
            let marks = Marks { printed, in_order, in_order_to, ..Marks::default() };
            marks.skip(&reading, id, from).unwrap()
        };
        let all = 25_000;
        assert_eq!(skip(0, 0, 0, 0), 0);
        assert_eq!(skip(7, 0, 0, 0), 7);
        assert_eq!(skip(0, 12_000, all, 0), 12_000);
        assert_eq!(skip(0, 12_000, 11_000, 0), 11_000, "it has a result of another try");
        assert_eq!(skip(11_500, 11_000, all, 0), 11_500);
        // Who has died may be tried again.
        assert_eq!((skip(all, 0, 0, 0), skip(0, all, all, 3)), (15_000, 15_000));
        assert_eq!((skip(all, 0, 0, 15_001), skip(0, all, all, 15_001)), (all, all));
        assert_eq!(skip(0, 0, 0, all), all);
        drop((reading, batch));
        engine.shutdown(crate::time::secs(20)).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
