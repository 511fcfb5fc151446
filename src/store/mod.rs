//! Floor 3: where a batch's rows live between submission and result.
//!
//! [`Store`] is the seam. It is shaped for a journal: rows are appended in pages, claimed in chunks *ahead of* the
//! run (a claim names the attempt and is what a journal writes first), settled in groups that are fenced by the
//! claim's epoch, and results are read by cursor, not pushed. [`memory`] is the typed store behind `in_memory()`:
//! values travel as they are, nothing is encoded.

mod memory;

pub(crate) use memory::MemoryStore;

use crate::job::{Dead, DeadItem, Duplicates, Key};
use crate::sync::Arc;
use crate::time::Timestamp;
use std::time::Duration;

/// One item of a batch, as appended.
#[derive(Debug)]
pub(crate) struct Row<I> {
    /// Position in the order of submission, from 0.
    pub(crate) seq: u64,
    pub(crate) key: Key,
    pub(crate) queued: Timestamp,
    pub(crate) item: I,
}

/// Rows claimed together. Freed by the last of the chunk's owner, those who took a part of it, and the attempts
/// that still read from it.
pub(crate) type Page<I> = Arc<Vec<Row<I>>>;

/// What ended an item, on its way to the store.
#[derive(Debug)]
pub(crate) struct Settled<O> {
    pub(crate) seq: u64,
    pub(crate) key: Key,
    pub(crate) outcome: Result<O, Dead>,
    pub(crate) attempts: u32,
    pub(crate) run_time: Duration,
    pub(crate) queued_time: Duration,
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
}

/// In which order results are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// As they were settled.
    Completion,
    /// As they were submitted.
    Input,
}

/// The rows of one batch.
pub(crate) trait Store<I, O>: Send + Sync {
    /// Appends one row; `bound` limits the rows that wait to be claimed.
    fn append(
        &self,
        key: Key,
        item: I,
        bound: usize,
        duplicates: Duplicates,
        now: Timestamp,
    ) -> Result<Appended, AppendError<I>>;

    /// No more rows will come.
    fn seal(&self);

    /// Claims at most `max` rows in the order of submission. Written ahead: a journal has the claim before a
    /// closure sees the row.
    fn claim(&self, max: usize) -> Claim<I>;

    /// Rows that wait to be claimed.
    fn waiting(&self) -> usize;

    /// Takes outcomes over, in this order, and publishes them. Empties `settled`. Returns whether dispatch must
    /// hold until a reader has caught up.
    fn settle(&self, settled: &mut Vec<Settled<O>>);

    /// Ends the log: readers see [`Read::End`] once they have read what is there.
    fn close(&self);

    /// The next result in this order.
    fn read(&self, order: Order) -> Read<O>;

    /// The items given up so far, in order of settling.
    fn dead(&self) -> Vec<DeadItem>;

    /// A reader of this order came (true) or went (false).
    fn reader(&self, order: Order, present: bool);

    /// From now on, until a reader comes, results are dropped (they stay counted).
    fn discard_unread(&self);

    /// Drops the rows that still wait to be claimed; returns how many.
    fn drop_waiting(&self) -> usize;
}
