//! What an engine tells whoever listens.

use super::worker::caught;
use crate::job::{BatchStatus, Dead};
use crate::resource::Holder;
use crate::store::JournalError;
use std::fmt;

/// Something happened that an operator may want to know. Handed to `.on_event(..)`, and with the feature `tracing`
/// also emitted as an event of target `batchyard`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A batch was opened. (Calls of `map` and `spawn` are no batches.)
    BatchStarted {
        /// Its name.
        batch: &'a str,
    },
    /// A batch was told to end before its time, the items in hand included: it was cancelled or halted.
    BatchCancelled {
        /// Its name.
        batch: &'a str,
    },
    /// A batch ended. Its results and its report are complete and its name is free: [`Batch::wait`](crate::Batch::wait)
    /// inside the listener returns at once. Others who wait for the batch go on when the listener has returned.
    BatchEnded {
        /// Its name.
        batch: &'a str,
        /// How.
        status: &'a BatchStatus,
    },
    /// A permit of the engine's resources has come to the end of its lease, or its owner is gone: a leak, or a holder that
    /// is stuck. The holder tells where it was taken.
    PermitLapsed {
        /// Who held it, or still does.
        holder: &'a Holder,
        /// What it held was given to others.
        reclaimed: bool,
    },
    /// An item was given up.
    ItemDead {
        /// Its batch.
        batch: &'a str,
        /// Its position.
        seq: u64,
        /// Why.
        dead: &'a Dead,
    },
    /// Items that had been given up are to be tried again, since another process asks for it (`batchyard retry`).
    ItemsRevived {
        /// Their batch.
        batch: &'a str,
        /// How many this run tries.
        items: u64,
        /// How many others wait for a run that has them in its input.
        others: u64,
    },
    /// An item ignored its cancellation for `grace` and was taken from its worker.
    ItemAbandoned {
        /// Its batch.
        batch: &'a str,
        /// The worker.
        worker: usize,
    },
    /// A worker's thread was replaced.
    WorkerReplaced {
        /// The worker.
        worker: usize,
        /// Why.
        why: &'static str,
    },
    /// The system gave no thread for a worker's replacement: the engine goes on with one worker less.
    WorkerLost {
        /// The worker.
        worker: usize,
        /// What the system said.
        error: &'a std::io::Error,
    },
    /// The journal cannot be written: nothing more is started until it can. After `disk_wait` without success it is lost.
    JournalStalled {
        /// Why.
        error: &'a JournalError,
    },
    /// The journal can be written again, and work goes on.
    JournalResumed,
    /// The journal will not be written any more: its batches are halted, and what was not committed is pending in it.
    JournalLost {
        /// Why.
        error: &'a JournalError,
    },
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::BatchStarted { batch } => write!(f, "batch `{batch}` started"),
            Event::BatchCancelled { batch } => write!(f, "batch `{batch}` is told to stop"),
            Event::BatchEnded { batch, status } => write!(f, "batch `{batch}` ended: {status}"),
            Event::PermitLapsed { holder, reclaimed } => {
                let then = if *reclaimed { "it was taken back" } else { "it is still out" };
                write!(f, "the permit of `{}`, taken at {}, is over: {then}", holder.owner, holder.place)
            }
            Event::ItemDead { batch, seq, dead } => write!(f, "batch `{batch}`, item {seq}: {dead}"),
            Event::ItemsRevived { batch, items, others } => {
                write!(f, "batch `{batch}`: dead items to be tried again: {items}")?;
                match others {
                    0 => Ok(()),
                    others => write!(f, ", and by a later run: {others}"),
                }
            }
            Event::ItemAbandoned { batch, worker } => {
                write!(f, "batch `{batch}`: the item of worker {worker} does not stop and was abandoned")
            }
            Event::WorkerReplaced { worker, why } => write!(f, "worker {worker} was replaced: it {why}"),
            Event::WorkerLost { worker, error } => write!(f, "worker {worker} is lost: {error}"),
            Event::JournalStalled { error } => write!(f, "the journal cannot be written: {error}"),
            Event::JournalLost { error } => write!(f, "the journal is lost: {error}"),
            Event::JournalResumed => f.write_str("the journal can be written again"),
        }
    }
}

/// A listener.
pub(crate) type Listener = Box<dyn Fn(&Event<'_>) + Send + Sync>;

/// Tells the listener, if there is one. Its panic is its own, as is that of a subscriber of `tracing`: it must not take a
/// thread of the engine with it.
pub(crate) fn tell(listener: Option<&Listener>, event: &Event<'_>) {
    let _ = caught(|| trace(event));
    if let Some(listener) = listener {
        let _ = caught(|| listener(event));
    }
}

/// With the feature `tracing`, what the listener hears is a tracing event too.
fn trace(event: &Event<'_>) {
    #[cfg(feature = "tracing")]
    match event {
        Event::BatchStarted { .. }
        | Event::BatchEnded { .. }
        | Event::ItemsRevived { .. }
        | Event::JournalResumed => {
            tracing::info!(target: "batchyard", "{event}")
        }
        Event::WorkerLost { .. } | Event::JournalStalled { .. } | Event::JournalLost { .. } => {
            tracing::error!(target: "batchyard", "{event}")
        }
        _ => tracing::warn!(target: "batchyard", "{event}"),
    }
    #[cfg(not(feature = "tracing"))]
    let _ = event;
}
