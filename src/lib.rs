//! Batches of work on OS threads, under limits.
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
mod meter;
#[cfg(not(any(loom, shuttle)))]
mod policy;
#[cfg(not(any(loom, shuttle)))]
pub mod resource;
#[cfg(not(any(loom, shuttle)))]
pub mod stats;
#[cfg(not(any(loom, shuttle)))]
mod store;
#[cfg(not(any(loom, shuttle)))]
mod time;

#[cfg(not(any(loom, shuttle)))]
pub use crate::{
    batch::{
        Batch, BatchBuilder, ByHash, ByKey, Engine, EngineBuilder, JoinError, KeyOf, Progress, Results,
        Ticket,
    },
    engine::{CancelToken, Context, EngineConfig, Error, Event, PushError, Workers},
    error::Invalid,
    job::{
        AttemptError, AttemptKind, BatchStatus, Dead, DeadReason, Duplicates, Failure, FailureKind,
        HaltReason, HaltRule, ItemResult, Key, Payload, Priority, Report, Retry,
    },
    limit::{Quota, Rate, RateLimiter},
    resource::ResourceKind,
    stats::{BatchStats, Stats, WorkerStats},
    time::{Clock, Deadline, ManualClock, Ticker, Timestamp, millis, secs},
};

/// The core's structures, for the model checkers in `loom-tests/`. No part of the public interface.
#[cfg(any(loom, shuttle))]
#[doc(hidden)]
pub mod __model {
    pub use crate::core::*;
}
