//! What an engine tells whoever listens.

use crate::job::{BatchStatus, Dead};
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
    /// A batch ended. Its results and its report are complete and its name is free: [`Batch::wait`](crate::Batch::wait)
    /// inside the listener returns at once. Others who wait for the batch go on when the listener has returned.
    BatchEnded {
        /// Its name.
        batch: &'a str,
        /// How.
        status: &'a BatchStatus,
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
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::BatchStarted { batch } => write!(f, "batch `{batch}` started"),
            Event::BatchEnded { batch, status } => write!(f, "batch `{batch}` ended: {status}"),
            Event::ItemDead { batch, seq, dead } => write!(f, "batch `{batch}`, item {seq}: {dead}"),
            Event::ItemAbandoned { batch, worker } => {
                write!(f, "batch `{batch}`: the item of worker {worker} does not stop and was abandoned")
            }
            Event::WorkerReplaced { worker, why } => write!(f, "worker {worker} was replaced: it {why}"),
            Event::WorkerLost { worker, error } => write!(f, "worker {worker} is lost: {error}"),
        }
    }
}

/// A listener.
pub(crate) type Listener = Box<dyn Fn(&Event<'_>) + Send + Sync>;

/// With the feature `tracing`, what the listener hears is a tracing event too.
pub(crate) fn trace(event: &Event<'_>) {
    #[cfg(feature = "tracing")]
    match event {
        Event::BatchStarted { .. } | Event::BatchEnded { .. } => {
            tracing::info!(target: "batchyard", "{event}")
        }
        Event::WorkerLost { .. } => tracing::error!(target: "batchyard", "{event}"),
        _ => tracing::warn!(target: "batchyard", "{event}"),
    }
    #[cfg(not(feature = "tracing"))]
    let _ = event;
}
