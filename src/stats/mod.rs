//! Floor 3: snapshots: plain structures that are taken at one moment, printed, serialized, kept.
//!
//! Numbers are read one after another while the workers go on: each is exact, two of them may be from slightly
//! different moments. Serialized, durations are seconds.

mod batch;
mod engine;
mod worker;

pub use self::{
    batch::{BatchPhase, BatchStats},
    engine::Stats,
    worker::{WorkerState, WorkerStats},
};
pub use crate::meter::Percentiles;
