//! What the benches share: paired rounds, the threads they run on, the core-to-core probe, the rows they end in.
//!
//! `benches/peers` includes this folder by path, so its rows come from the same rounds.

#![allow(dead_code, reason = "each program uses a part")]

pub(crate) mod probe;
pub(crate) mod rounds;
pub(crate) mod row;
pub(crate) mod team;
