//! Runs batches of work on OS threads at the edge of the limits around them: threads, calls a second, connections,
//! retries, deadlines, priorities. Synchronous throughout: no async runtime anywhere in the dependencies.
//!
//! ```
//! use batchyard::{Engine, Rate, secs};
//!
//! let engine = Engine::builder().workers(4).in_memory().rate("api", Rate::per_second(1000).burst(20)).open()?;
//!
//! // Borrowed from the stack, results in order:
//! let squares = engine.map(0..100u64, |n, _ctx| Ok(n * n));
//! assert_eq!(squares.len(), 100);
//!
//! // A batch with limits, results as they come:
//! let batch = engine
//!     .batch("lengths")
//!     .item_timeout(secs(30))
//!     .paced_by("api")
//!     .submit(["one".to_string(), "three".to_string()], |word, _ctx| Ok(word.len()))?;
//! assert_eq!(batch.results().filter(|item| item.as_ref().is_ok_and(|item| item.outcome.is_ok())).count(), 2);
//! # Ok::<(), batchyard::Error>(())
//! ```
//!
//! # How it is organised
//!
//! - [`Engine`] runs things: [`Engine::map`] and its kin for data on the stack, [`Engine::batch`] for batches that are
//!   submitted, watched and steered through a [`Batch`], [`Engine::spawn`] for single closures. What a closure sees is
//!   its [`Context`]; what it returns on failure is a [`Failure`], into which any error converts.
//! - With a journal ([`EngineBuilder::journal`]) batches survive the process: the same batch opened again goes on where
//!   it was.
//! - [`limit`] has the limits for use on their own: [`RateLimiter`] and [`Quota`].
//! - [`job`] is plain data: keys, failures, retry policies, dead items, reports. [`stats`] is what an engine counts.
//! - [`resource`] has resources of several kinds, given out all or nothing, with leases: [`ResourceManager`], and
//!   [`allocate`] for a process's own; with the feature `r2d2` it has `Pool`, a pool of connections.
//! - [`lock`] has locks in three modes, with priorities, deadlines and an order that is checked: [`RwLock`](lock::RwLock),
//!   [`Mutex`](lock::Mutex), [`lock_order!`]; and locks that are named at run time, with detection of deadlocks:
//!   [`LockManager`](lock::LockManager), [`Context::lock`], and for a process [`shared_lock`] and [`exclusive_lock`].
//! - [`Clock`] and [`ManualClock`]: everything is timed by a clock that a test can move by hand.
//!
//! Two programs to start from are in `examples/`: `paced_batch`, a rate-limited batch whose failures are retried and whose
//! results are printed as they come, and `map_progress`, `map` over borrowed data with a line that tells how far it is.
//!
//! # What it re-implements
//!
//! A Python service for "concurrency control in batch processing". Its names and where they went:
//!
//! | the Python service | here |
//! |---|---|
//! | ResourceManager, ResourceType, allocate_resource | [`ResourceManager`], [`ResourceKind`], [`allocate`] |
//! | ThreadSafeLock | [`lock::RwLock`], [`lock::LockManager`] |
//! | acquire_shared_lock, acquire_exclusive_lock | [`shared_lock`], [`exclusive_lock`] |
//! | RateLimiter | [`RateLimiter`] |
//! | ConcurrencyManager | [`Engine`] |
//! | ConcurrentBatchService, BatchService, BatchCreateRequest | [`Engine::batch`], [`BatchBuilder::submit`] |
//! | ConcurrentBatchConfig | [`EngineConfig`] |
//! | WorkerInfo, ConcurrentBatchStatistics | [`WorkerStats`], [`Stats`] |
//! | BatchPriority | [`Priority`] |
//! | TransactionManager, managed_transaction | [`Engine::transaction`], [`Context::commit_with`], [`BatchBuilder::write_with`] |
//!
//! # What it does not do
//!
//! It does not run futures. It cannot stop a thread that ignores its cancellation: it can only replace it, and drops
//! what comes late. It promises "exactly once" for nothing outside the process: an item whose attempt failed, timed
//! out or was abandoned may run again, under the same [idempotency key](Context::idempotency_key). Inside the journal's
//! own file there is more: see [`Context::commit_with`].
// Much of the seam for a journal is unused where there is none; a build with one sees what is dead.
#![cfg_attr(not(feature = "sqlite"), allow(dead_code))]
// The models see floor 1 alone: what serves the floors above is unused there, and what serves the models is public.
#![cfg_attr(any(loom, shuttle), allow(dead_code, unused_imports, unreachable_pub))]

mod core;
mod sync;

#[cfg(not(any(loom, shuttle)))]
mod batch;
#[cfg(all(feature = "cli", not(any(loom, shuttle))))]
#[doc(hidden)]
pub mod cli;
#[cfg(not(any(loom, shuttle)))]
mod engine;
#[cfg(not(any(loom, shuttle)))]
mod error;
#[cfg(not(any(loom, shuttle)))]
pub mod job;
#[cfg(not(any(loom, shuttle)))]
pub mod limit;
#[cfg(not(any(loom, shuttle)))]
pub mod lock;
#[cfg(not(any(loom, shuttle)))]
mod meter;
#[cfg(not(any(loom, shuttle)))]
mod policy;
#[cfg(not(any(loom, shuttle)))]
pub mod resource;
#[cfg(not(any(loom, shuttle)))]
mod seeds;
#[cfg(not(any(loom, shuttle)))]
pub mod stats;
#[cfg(not(any(loom, shuttle)))]
mod store;
#[cfg(not(any(loom, shuttle)))]
mod time;
#[cfg(not(any(loom, shuttle)))]
mod waitgraph;

#[cfg(all(feature = "sqlite", not(any(loom, shuttle))))]
pub use rusqlite;

#[cfg(all(feature = "r2d2", not(any(loom, shuttle))))]
pub use r2d2;

#[cfg(not(any(loom, shuttle)))]
pub use crate::{
    batch::{
        Batch, BatchBuilder, ByHash, ByKey, Engine, EngineBuilder, JoinError, KeyOf, Progress, Results,
        Ticket,
    },
    engine::{CancelToken, Context, EngineConfig, Error, Event, PushError, Workers},
    error::Invalid,
    job::{
        AttemptError, AttemptKind, BatchStatus, Dead, DeadItem, DeadReason, Duplicates, Durability, Failure,
        FailureKind, HaltReason, HaltRule, ItemResult, Key, Payload, Priority, Report, Retry,
    },
    limit::{Quota, Rate, RateLimiter},
    lock::{exclusive_lock, shared_lock},
    resource::{ResourceKind, ResourceManager, allocate, allocate_by, allocate_with},
    stats::{BatchStats, Stats, WorkerStats},
    store::JournalError,
    time::{Clock, Deadline, ManualClock, Ticker, Timestamp, millis, secs},
};

/// The README's example is a test.
#[cfg(all(doctest, not(any(loom, shuttle))))]
#[doc = include_str!("../README.md")]
pub struct Readme;

/// The core's structures, for the model checkers in `loom-tests/`. No part of the public interface.
#[cfg(any(loom, shuttle))]
#[doc(hidden)]
pub mod __model {
    pub use crate::core::*;
}
