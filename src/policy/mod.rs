//! Floor 1: decisions. Plain functions of plain values: no clock, no atomics, no allocation; held against oracles by
//! property tests. One file, one decision.
//!
//! | file | decides |
//! |---|---|
//! | `backoff` | how long an item waits before its next attempt |
//! | `retry_budget` | whether the batch can afford that attempt |
//! | `stride` | which lane of a class goes next |
//! | `ageing` | in which class a lane counts that has waited |
//! | `chunk_size` | how many items a worker takes at once |
//! | `halt` | whether a batch that fails stops |
//! | `displace` | which lane gives its place to a higher class |
//! | `aimd` | how fast a limiter goes that is told to slow down |
//! | `rng` | the random numbers of the first |

pub(crate) mod ageing;
pub(crate) mod aimd;
pub(crate) mod backoff;
pub(crate) mod chunk_size;
pub(crate) mod displace;
pub(crate) mod halt;
pub(crate) mod retry_budget;
pub(crate) mod rng;
pub(crate) mod stride;
