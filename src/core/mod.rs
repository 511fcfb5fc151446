//! Floor 1: the lock-free words, and wait lists under a short latch. No clock, no I/O, no allocation after `new`,
//! no third-party atomics: every file here runs under loom and shuttle as it stands.
//!
//! | file | structure | progress |
//! |---|---|---|

// `pub`, not `pub(crate)`: the model checkers reach these through `__model`.
#![allow(unreachable_pub, dead_code)]
pub mod bucket;
pub mod chunk;
pub mod lifecycle;
pub mod permits;
pub mod ready;
pub mod waitlist;
