//! Rows on their way to and from the tables, and their sums.

use super::schema::BATCH_SHIFT;
use crate::job::{AttemptError, Key, PayloadError};
use crate::store::Effects;
use siphasher::sip::SipHasher13;
use std::borrow::Cow;
use std::hash::Hasher;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The number of an item, or of a result, in its table.
pub(crate) fn number(batch: i64, seq: i64) -> i64 {
    batch << BATCH_SHIFT | seq
}

/// The position within the batch.
pub(crate) fn seq_of(number: i64) -> u64 {
    (number & ((1 << BATCH_SHIFT) - 1)) as u64
}

/// The numbers of a batch: from, and up to but not including.
pub(crate) fn range_of(batch: i64) -> (i64, i64) {
    (batch << BATCH_SHIFT, (batch + 1) << BATCH_SHIFT)
}

/// Runs the user's encoding or decoding; its panic is an error of the row's, not the writer's end.
pub(crate) fn calmly<R>(code: impl FnOnce() -> Result<R, PayloadError>) -> Result<R, String> {
    match catch_unwind(AssertUnwindSafe(code)) {
        Ok(coded) => coded.map_err(|error| error.to_string()),
        Err(panic) => {
            let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            // The payload's own `Drop` may panic, too.
            std::mem::forget(panic);
            Err(format!("its JSON cannot be made or read: a panic: {said}"))
        }
    }
}

/// Makes the checksum of a row out of its columns.
#[derive(Clone)]
pub(crate) struct Sum(SipHasher13);

impl Sum {
    /// `table` keeps rows of different tables apart.
    pub(crate) fn of(table: u64) -> Sum {
        Sum(SipHasher13::new_with_keys(0x6279_7264, table))
    }

    pub(crate) fn int(mut self, value: i64) -> Sum {
        self.0.write_u64(value as u64);
        self
    }

    pub(crate) fn text(self, text: &str) -> Sum {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Sum {
        self.0.write_u64(bytes.len() as u64);
        self.0.write(bytes);
        self
    }

    pub(crate) fn maybe(self, text: Option<&str>) -> Sum {
        match text {
            Some(text) => self.int(1).text(text),
            None => self.int(0),
        }
    }

    pub(crate) fn finish(self) -> i64 {
        self.0.finish() as i64
    }
}

/// An item to be written.
#[derive(Debug)]
pub(crate) struct NewItem {
    pub(crate) key: String,
    /// How often this run had the key before: it is a part of the key in the table.
    pub(crate) occurrence: u64,
    pub(crate) payload: String,
    pub(crate) queued_ms: i64,
    pub(crate) parent: Option<i64>,
}

impl NewItem {
    pub(crate) fn full_key(&self) -> Cow<'_, str> {
        match self.occurrence {
            0 => Cow::Borrowed(&self.key),
            n => Cow::Owned(Key::from(self.key.as_str()).occurrence(n).to_string()),
        }
    }
}

/// What became of an item that was to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It is there now, under this number. `claimed`: it was claimed in the same commit.
    New { id: i64, claimed: bool },
    /// An earlier run knew its key, and it has not ended. With something behind it, it is claimed by name.
    Pending { id: i64, past: Option<Past> },
    /// An earlier run ended it.
    Ended { kind: Kind },
    /// This run has it already.
    Duplicate,
}

/// What an item has behind it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Past {
    /// The number of this attempt among all, also those whose process died: the fence of what it writes.
    pub(crate) epoch: i64,
    pub(crate) tries: i64,
    pub(crate) lost: i64,
    pub(crate) crashes: i64,
    pub(crate) deferrals: i64,
    pub(crate) due_ms: i64,
    pub(crate) suspect: bool,
    /// The owner that has claimed this attempt; 0: nobody has.
    pub(crate) owner: i64,
}

impl Past {
    /// Of an item that is claimed for the first time.
    pub(crate) const NONE: Past =
        Past { epoch: 1, tries: 0, lost: 0, crashes: 0, deferrals: 0, due_ms: 0, suspect: false, owner: 0 };

    pub(crate) fn sum(&self, item: i64) -> i64 {
        Sum::of(2)
            .int(item)
            .int(self.epoch)
            .int(self.tries)
            .int(self.lost)
            .int(self.crashes)
            .int(self.deferrals)
            .int(self.due_ms)
            .int(self.suspect.into())
            .int(self.owner)
            .finish()
    }
}

/// A claimed item as it lies in the table.
#[derive(Debug)]
pub(crate) struct RawItem {
    pub(crate) id: i64,
    pub(crate) key: String,
    pub(crate) queued_ms: i64,
    pub(crate) payload: String,
    pub(crate) sum: i64,
    /// Of one that was claimed by name.
    pub(crate) past: Option<Past>,
    /// Why its attempts failed, where it has something behind it.
    pub(crate) errors: Vec<AttemptError>,
}

impl RawItem {
    /// The checksum that belongs to these columns.
    pub(crate) fn sum_of(id: i64, key: &str, queued_ms: i64, payload: &str) -> i64 {
        Sum::of(1).int(id).text(key).int(queued_ms).text(payload).finish()
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.sum == Self::sum_of(self.id, &self.key, self.queued_ms, &self.payload)
    }
}

/// The error of an attempt, to be written.
#[derive(Debug, Clone)]
pub(crate) struct NewError {
    pub(crate) attempt: i64,
    pub(crate) kind: &'static str,
    pub(crate) message: String,
    pub(crate) place: Option<String>,
}

impl NewError {
    /// The checksum of its row.
    pub(crate) fn sum(&self, item: i64, epoch: i64, at_ms: i64) -> i64 {
        error_sum(item, epoch, self.attempt, self.kind, &self.message, self.place.as_deref(), at_ms)
    }
}

/// The checksum of an attempt's error.
pub(crate) fn error_sum(
    item: i64,
    epoch: i64,
    attempt: i64,
    kind: &str,
    message: &str,
    place: Option<&str>,
    at_ms: i64,
) -> i64 {
    let sum = Sum::of(8).int(item).int(epoch).int(attempt).text(kind).text(message);
    sum.maybe(place).int(at_ms).finish()
}

/// A result to be written.
#[derive(Debug)]
pub(crate) struct NewResult {
    pub(crate) item: i64,
    /// Of the item's key: see [`key_sum`].
    pub(crate) key_sum: i64,
    pub(crate) epoch: i64,
    /// There is a row in `retry`: the fence is there.
    pub(crate) has_past: bool,
    /// There may be rows in `step`.
    pub(crate) has_steps: bool,
    pub(crate) kind: Kind,
    pub(crate) reason: Option<&'static str>,
    pub(crate) attempts: i64,
    pub(crate) wait_us: i64,
    pub(crate) run_us: i64,
    pub(crate) output: Option<String>,
    pub(crate) error: Option<NewError>,
    pub(crate) effects: Option<Effects>,
}

/// How an item ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Done,
    Dead,
    Skipped,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Done => "done",
            Kind::Dead => "dead",
            Kind::Skipped => "skipped",
        }
    }

    pub(crate) fn of(text: &str) -> Option<Kind> {
        [Kind::Done, Kind::Dead, Kind::Skipped].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// The part of a result's checksum that is made of its item's key.
pub(crate) fn key_sum(key: &str) -> i64 {
    Sum::of(7).text(key).finish()
}

/// The checksum of a result.
#[allow(clippy::too_many_arguments)]
pub(crate) fn result_sum(
    id: i64,
    item: i64,
    key_sum: i64,
    kind: &str,
    reason: Option<&str>,
    epoch: i64,
    attempts: i64,
    times: (i64, i64, i64),
    output: Option<&str>,
) -> i64 {
    Sum::of(3)
        .int(id)
        .int(item)
        .int(key_sum)
        .text(kind)
        .maybe(reason)
        .int(epoch)
        .int(attempts)
        .int(times.0)
        .int(times.1)
        .int(times.2)
        .maybe(output)
        .finish()
}
