//! Floor 1: counters and latency recorders. One writer each, any number of readers, and nobody waits.
//!
//! | file | what it measures | a record costs |
//! |---|---|---|
//! | `counters` | how many | a relaxed load and store |
//! | `latency` | how long | a store into an array; once a chunk, a pour into a histogram |
//! | `throughput` | how many a second lately | a slot in a ring, a few times a second |
//! | `percentiles` | what readers get to see | |

mod counters;
mod latency;
mod percentiles;
mod throughput;

pub(crate) use self::counters::{Counter, WorkerCounters, WorkerCounts};
pub(crate) use self::latency::{LaneLatency, Reader, Recorder, Samples};
pub use self::percentiles::Percentiles;
pub(crate) use self::percentiles::seconds;
pub(crate) use self::throughput::Throughput;
