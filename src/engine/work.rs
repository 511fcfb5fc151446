//! What a lane asks of the batch behind it: where chunks come from, what runs an item, where outcomes go.
//!
//! `map` and the batches implement it; [`body`](super::body) is written against it. The second half has meaning for work
//! whose rows lie in a journal; everybody else leaves it as it is here.

use super::context::Context;
use super::lane::Ending;
use crate::job::{AttemptError, Dead, Failure, Key, Report};
use crate::store::{Effects, JournalError, Kept, RowPast};
use crate::sync::Arc;
use crate::time::Timestamp;
use std::any::Any;
use std::ops::Range;
use std::time::Duration;

/// What an ended item leaves behind besides its outcome.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) attempts: u32,
    pub(crate) run_time: Duration,
    pub(crate) queued_time: Duration,
}

/// The batch as its lane needs it: where chunks come from, what runs an item, where outcomes go.
pub(crate) trait Work: Send + Sync {
    /// A handle on the items of one chunk.
    type Chunk: Clone + Send;
    type Out: Send;
    /// Fresh entries come through a channel that is refilled from a store. Otherwise a ticket claims directly.
    const REFILLED: bool;

    /// Takes up to `max` items, in order: the chunk, their number, and whether there are more.
    fn claim(&self, max: usize) -> Option<(Self::Chunk, u32, bool)>;
    /// Items that wait to be claimed.
    fn unclaimed(&self) -> usize;
    /// Runs one item.
    fn call(&self, chunk: &Self::Chunk, at: u32, ctx: &Context) -> Result<Self::Out, Failure>;
    fn seq(&self, chunk: &Self::Chunk, at: u32) -> u64;
    /// The item's key, where it has one of its own.
    fn key(&self, chunk: &Self::Chunk, at: u32) -> Option<Key>;
    /// When it was submitted, where that is known.
    fn queued(&self, chunk: &Self::Chunk, at: u32) -> Option<Timestamp>;
    /// Takes an outcome of this seat; it need not be visible before [`publish`](Work::publish).
    fn keep(&self, seat: usize, chunk: &Self::Chunk, at: u32, outcome: Result<Self::Out, Dead>, ended: Ended);
    /// As [`keep`](Work::keep), with what is to be done together with the mark.
    fn keep_with(
        &self,
        seat: usize,
        chunk: &Self::Chunk,
        at: u32,
        out: Self::Out,
        ended: Ended,
        _effects: Option<Effects>,
    ) {
        self.keep(seat, chunk, at, Ok(out), ended);
    }
    /// Makes the seat's outcomes visible.
    fn publish(&self, seat: usize);
    /// Takes out what waits to be claimed: how many items that were, and what is to be dropped with no latch held.
    fn drop_unclaimed(&self, reason: &Ending) -> (usize, Box<dyn Any + Send>);
    /// The lane was cancelled before these items ran (`map` owes its caller a result for each).
    fn cancelled(&self, chunk: &Self::Chunk, range: Range<u32>, reason: &Ending);
    fn ended(&self, report: &Report);

    // What follows is for work whose rows are in a journal.

    /// Whether outcomes are counted later, by whom they were handed to.
    fn settles_later(&self) -> bool {
        false
    }
    /// What the only item of this chunk has behind it from earlier claims.
    fn past<'a>(&self, _chunk: &'a Self::Chunk) -> Option<&'a RowPast> {
        None
    }
    /// A worker is about to run these.
    fn in_hand(&self, _worker: usize, _chunk: &Self::Chunk, _range: &Range<u32>) {}
    /// It has run them, or what others left of them.
    fn off_hand(&self, _worker: usize) {}
    /// A thread that had some in hand was given up, or came back.
    fn given_up(&self, _back: bool) {}
    /// Takes over an item that is to be tried again: it comes back by a claim.
    fn again(&self, _chunk: &Self::Chunk, _at: u32, _tried: Tried<'_>) -> bool {
        false
    }
    /// Looks which items have come due; when the next does.
    fn due(&self, _now: Timestamp) -> Option<Timestamp> {
        None
    }
    /// Whether outcomes may come back refused.
    fn may_refuse(&self) -> bool {
        false
    }
    /// The item that an outcome came from.
    fn chunk_of(&self, _origin: &(dyn Any + Send)) -> Option<(Self::Chunk, u32)> {
        None
    }
    /// Takes an item that an item of this lane submits: `true`, it is new. The item comes back with the reason.
    fn append_child(&self, item: Box<dyn Any>, _parent: u64) -> Result<bool, ChildError> {
        Err(ChildError::Other("only the items of a batch can submit others".to_owned(), item))
    }
    /// Has the end written down; `true`: the lane is concluded when it is.
    fn end(&self, _status: &str) -> bool {
        false
    }
    /// The number of an item in the journal, if there is one.
    #[cfg(feature = "cli")]
    fn number(&self, _seq: u64) -> Option<i64> {
        None
    }
    /// What an earlier attempt has kept. `None`: the lane keeps steps itself.
    fn step(&self, _seq: u64, _name: &str) -> Option<Result<Option<String>, Arc<JournalError>>> {
        None
    }
    /// Keeps a step. Does not wait: what it returns does.
    fn keep_step(&self, _seq: u64, _epoch: u32, _name: &str, _output: &str) -> Kept {
        Box::new(|| Ok(true))
    }
}

/// Why an item that another one submits was not taken.
pub(crate) enum ChildError {
    Full(Box<dyn Any>),
    Closed(Box<dyn Any>),
    Duplicate(Key, Box<dyn Any>),
    Other(String, Box<dyn Any>),
}

/// What an item that is to be tried again has behind it, its last attempt included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tried<'a> {
    pub(crate) tries: u32,
    pub(crate) lost: u32,
    pub(crate) deferrals: u32,
    pub(crate) due: Timestamp,
    pub(crate) error: Option<&'a AttemptError>,
}
