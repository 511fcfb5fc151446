//! Floor 3: where a batch's rows live between submission and result.
//!
//! [`Store`] is the seam. It is shaped for a journal: rows are appended in pages, claimed in chunks *ahead of* the
//! run (a claim names the attempt and is what a journal writes first), settled in groups that are fenced by the
//! claim's epoch, and results are read by cursor, not pushed. [`memory`] is the typed store behind `in_memory()`:
//! values travel as they are, nothing is encoded.

#[cfg(test)]
mod conformance;
mod error;
mod memory;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;

pub use error::JournalError;
pub(crate) use memory::MemoryStore;

use crate::job::{AttemptError, Dead, DeadItem, Duplicates, Failure, Key};
use crate::lock::outside;
use crate::sync::Arc;
use crate::time::Timestamp;
use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// A batch's identity, and what is to run it.
#[derive(Debug, Clone, Default)]
pub(crate) struct BatchId {
    pub(crate) name: String,
    pub(crate) parameters: String,
    /// Empty: not told.
    pub(crate) processor: String,
    pub(crate) version: String,
}

/// One item of a batch, as appended.
#[derive(Debug)]
pub(crate) struct Row<I> {
    /// Position in the order of submission, from 0.
    pub(crate) seq: u64,
    pub(crate) key: Key,
    pub(crate) queued: Timestamp,
    pub(crate) item: I,
    /// What the item has behind it, where the store keeps that. Such a row is alone in its page.
    pub(crate) past: Option<Box<RowPast>>,
}

/// What an item has behind it when a store hands it out again.
#[derive(Debug, Clone, Default)]
pub(crate) struct RowPast {
    /// The number of this attempt among all, from 1: the fence of what it writes.
    pub(crate) epoch: u32,
    /// Failures that count.
    pub(crate) tries: u32,
    /// Attempts whose process died.
    pub(crate) lost: u32,
    pub(crate) deferrals: u32,
    /// It was in hand when a process died: it runs alone.
    pub(crate) suspect: bool,
    pub(crate) errors: Vec<AttemptError>,
}

/// Rows claimed together. Freed by the last of the chunk's owner, those who took a part of it, and the attempts
/// that still read from it.
pub(crate) type Page<I> = Arc<Vec<Row<I>>>;

/// SQL of an item's, to be run in the transaction that marks it done.
#[cfg(feature = "sqlite")]
pub(crate) type CommitWith = Box<dyn Fn(&rusqlite::Connection) -> Result<(), Failure> + Send>;
/// Without a journal there is none.
#[cfg(not(feature = "sqlite"))]
pub(crate) type CommitWith = std::convert::Infallible;

/// SQL of a batch's, to be run in the transaction that marks these items done.
#[cfg(feature = "sqlite")]
pub(crate) type WriteWith<O> =
    Arc<dyn Fn(&rusqlite::Connection, &[(Key, O)]) -> Result<(), Failure> + Send + Sync>;
/// Without a journal there is none.
#[cfg(not(feature = "sqlite"))]
pub(crate) type WriteWith<O> = (std::convert::Infallible, std::marker::PhantomData<fn(O)>);

/// What is to be done together with the mark of an outcome.
pub(crate) struct Effects {
    pub(crate) with: Vec<CommitWith>,
    /// How long it may take.
    pub(crate) limit: Duration,
}

impl fmt::Debug for Effects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Effects").field("with", &self.with.len()).finish_non_exhaustive()
    }
}

/// A step on its way: waits until it is durable. `false`: its attempt is not the one that the store expects.
pub(crate) type Kept = Box<dyn FnOnce() -> Result<bool, Arc<JournalError>>>;

/// Where an outcome comes from, for one that the store cannot keep after all: the engine's own business.
pub(crate) type Origin = Box<dyn Any + Send>;

/// What ended an item, on its way to the store.
#[derive(Debug)]
pub(crate) struct Settled<O> {
    pub(crate) seq: u64,
    /// The attempt that it ends, where the store handed the item out again.
    pub(crate) past: Option<Past>,
    pub(crate) key: Key,
    pub(crate) outcome: Result<O, Dead>,
    pub(crate) attempts: u32,
    pub(crate) run_time: Duration,
    pub(crate) queued_time: Duration,
    pub(crate) effects: Option<Effects>,
    /// Given where the outcome may be refused.
    pub(crate) origin: Option<Origin>,
}

/// The part of [`RowPast`] that goes back with the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Past {
    pub(crate) epoch: u32,
    pub(crate) suspect: bool,
}

/// An item that is to be handed out again.
#[derive(Debug)]
pub(crate) struct Retried {
    pub(crate) seq: u64,
    pub(crate) past: Option<Past>,
    pub(crate) tries: u32,
    pub(crate) lost: u32,
    pub(crate) deferrals: u32,
    pub(crate) due: Timestamp,
    pub(crate) error: Option<AttemptError>,
}

/// What a claim found.
#[derive(Debug)]
pub(crate) enum Claim<I> {
    /// Rows to run, and whether more are to be claimed.
    Page { page: Page<I>, more: bool },
    /// Nothing to claim now.
    Empty,
}

/// What an append did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Appended {
    pub(crate) rows: usize,
    /// Rows whose key was there already, under [`Duplicates::Skip`].
    pub(crate) skipped: usize,
}

/// Why an append took nothing. The item comes back.
#[derive(Debug)]
pub(crate) enum AppendError<I> {
    Full(I),
    Sealed(I),
    Duplicate(Key, I),
    /// It has no JSON form: why.
    Unwritable(String, I),
}

/// What a reader found.
#[derive(Debug)]
pub(crate) enum Read<O> {
    /// The result and the cursor behind it: how many were read before and with it.
    Row(Settled<O>, u64),
    /// Not yet.
    Pending,
    /// The batch has ended and all was read.
    End,
    /// It cannot be read.
    Failed(Arc<JournalError>),
}

/// In which order results are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// As they were settled.
    Completion,
    /// As they were submitted.
    Input,
}

/// Why a submission failed as a whole.
#[derive(Debug, Clone)]
pub(crate) enum Unsealed {
    /// Two of its items have this key.
    Duplicate(Key),
    /// The journal is lost.
    Journal(Arc<JournalError>),
}

/// What earlier runs of the batch have to do with this one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Earlier {
    /// Items of this input that had ended before.
    pub(crate) resumed: u64,
    /// Items that earlier inputs had and this one has not.
    pub(crate) vanished: u64,
    /// Some of their keys.
    pub(crate) vanished_keys: Vec<String>,
}

/// How a store that writes later tells the engine what has become of it. Called from the store's own thread, which
/// holds no lock then; [`kick_at`](Link::kick_at), [`waiting`](Link::waiting) and [`stands_still`](Link::stands_still)
/// also from others, which may. A store that has failed may call it from whoever sends to it.
pub(crate) trait Link: Send + Sync {
    /// Rows can be claimed.
    fn kick(&self);
    /// Rows can be claimed from then on.
    fn kick_at(&self, due: Timestamp);
    /// Outcomes are visible: so many, `done` of them good.
    fn settled(&self, settled: u64, done: u64);
    /// Items of earlier runs belong to this one: they are counted in. So many are to be run.
    fn joined(&self, items: u64);
    /// Items that were counted in have turned out to have ended before, in these numbers.
    fn ended_before(&self, done: u64, dead: u64, skipped: u64);
    /// Items that were counted in have turned out to be repetitions.
    fn repeated(&self, items: u64);
    /// Items that were counted in will not run.
    fn cancelled(&self, items: u64);
    /// So many more items wait for their next attempt's time.
    fn waiting(&self, more: i64);
    /// Outcomes that came too late were dropped.
    fn late(&self, items: u64);
    /// An item that the engine has not given up is dead, for a reason that only the store knows. [`settled`](Link::settled)
    /// follows.
    fn gave_up(&self, seq: u64, dead: &Dead);
    /// The user's SQL that belongs to an outcome failed: the item has failed with it.
    fn refused(&self, origin: Origin, failure: Failure);
    /// The end of the batch is written.
    fn ended(&self);
    /// Whether nothing of the batch is started now: it is paused, or ending. Takes no lock.
    fn stands_still(&self) -> bool;
    /// Dispatch must stop until nothing is stalled any more.
    fn stalled(&self, stalled: bool);
    /// Nothing can be written any more.
    fn failed(&self, why: &JournalError);
    /// The batch shall not end until [`settled`](Link::settled) tells of one more that is open. False: it has ended,
    /// or is ending.
    fn hold(&self) -> bool {
        false
    }
    /// Dead items come back, so many of those that were counted in, and so many of others.
    fn revived(&self, _items: u64, _others: u64) {}
    /// Another process asks for this; the answer.
    fn control(&self, verb: &str) -> String;
}

/// Reads a batch's results, each once.
pub(crate) trait Reader<O>: Send {
    fn read(&mut self) -> Read<O>;
}

/// Drops values of the user's, whose `Drop` may panic.
pub(crate) fn drop_quietly<T>(values: T) {
    outside();
    let _ = catch_unwind(AssertUnwindSafe(move || drop(values)));
}

/// The rows of one batch.
pub(crate) trait Store<I, O>: Send + Sync {
    /// Appends one row; `bound` limits the rows that wait: in memory to be claimed, in a journal to be written.
    fn append(
        &self,
        key: Key,
        item: I,
        bound: usize,
        duplicates: Duplicates,
        now: Timestamp,
    ) -> Result<Appended, AppendError<I>>;

    /// Appends a row that an item submits, `parent`, sealed or not. Never waits. `false`: it is there already, from an
    /// earlier attempt at the same parent.
    fn append_child(
        &self,
        key: Key,
        item: I,
        bound: usize,
        parent: u64,
        now: Timestamp,
    ) -> Result<bool, AppendError<I>>;

    /// Whether an append with this bound would find room.
    fn has_room(&self, bound: usize) -> bool {
        self.waiting() < bound
    }

    /// No more rows will come. Does not wait.
    fn seal(&self);

    /// Waits until all rows and the seal are durable.
    fn sealed(&self) -> Result<Earlier, Unsealed> {
        Ok(Earlier::default())
    }

    /// Claims at most `max` rows in the order of submission. Written ahead: a journal has the claim before a
    /// closure sees the row.
    fn claim(&self, max: usize) -> Claim<I>;

    /// A worker is about to start rows of this page, from the first to the last given.
    fn in_hand(&self, _worker: usize, _first: u64, _last: u64) {}

    /// The worker has ended what it had in hand.
    fn off_hand(&self, _worker: usize) {}

    /// A thread that had rows in hand was given up, with a worker's place that is no longer its own; or came back.
    fn given_up(&self, _back: bool) {}

    /// Claimed rows that will not run in this engine: they stay where they are.
    fn unclaim(&self, _rows: usize, _suspect: bool) {}

    /// Rows that wait to be claimed.
    fn waiting(&self) -> usize;

    /// SQL to be run once for every group of outcomes that are marked done together.
    fn write_with(&self, _write: WriteWith<O>) {}

    /// Whether outcomes may be refused by SQL that belongs to them.
    fn may_refuse(&self) -> bool {
        false
    }

    /// Whether outcomes become visible later: then [`Link::settled`] counts them, and nobody else.
    fn settles_later(&self) -> bool {
        false
    }

    /// Takes outcomes over, in this order, and publishes them. What it leaves in `settled` nobody will read: values of the
    /// user's, to be dropped with no latch held.
    fn settle(&self, settled: &mut Vec<Settled<O>>);

    /// Takes over an item that is to be tried again; it comes back by a claim. `false`: the engine keeps it.
    fn again(&self, _item: &Retried) -> bool {
        false
    }

    /// Looks which rows have come due; when the next does.
    fn due(&self, _now: Timestamp) -> Option<Timestamp> {
        None
    }

    /// Writes how the batch ended. `true`: [`Link::ended`] follows.
    fn end(&self, _status: &str) -> bool {
        false
    }

    /// Ends the log: readers see [`Read::End`] once they have read what is there.
    fn close(&self);

    /// The next result in this order, from a store that hands out each result once.
    fn read(&self, _order: Order) -> Read<O> {
        Read::End
    }

    /// A reader of this order came (true) or went (false).
    fn reader(&self, _order: Order, _present: bool) {}

    /// A reader of its own, from a cursor on, where the store keeps results for all who come.
    fn own_reader(&self, _order: Order, _from: u64) -> Option<Box<dyn Reader<O>>> {
        None
    }

    /// The items given up so far, in order of settling.
    fn dead(&self) -> Result<Vec<DeadItem>, Arc<JournalError>>;

    /// From now on, until a reader comes, results are dropped (they stay counted). A journal keeps them all. Those that were
    /// there come back, to be dropped with no latch held.
    fn discard_unread(&self) -> Vec<Settled<O>>;

    /// Takes the rows out that still wait to be claimed: how many, and what is to be dropped with no latch held, quietly. A
    /// journal only lets them be.
    fn drop_waiting(&self) -> (usize, Box<dyn Any + Send>);

    /// The number of an item in the journal, if there is one.
    #[cfg(feature = "cli")]
    fn number(&self, _seq: u64) -> Option<i64> {
        None
    }

    /// What an earlier attempt of an item has kept under this name. `None`: the store keeps no steps.
    fn step(&self, _seq: u64, _name: &str) -> Option<Result<Option<String>, Arc<JournalError>>> {
        None
    }

    /// Keeps a step's output until the item ends. Does not wait: what it returns does.
    fn keep_step(&self, _seq: u64, _epoch: u32, _name: &str, _output: &str) -> Kept {
        Box::new(|| Ok(true))
    }
}
