//! Floor 5: what the user holds.
//!
//! | file | what |
//! |---|---|
//! | `engine` | [`Engine`]: opened from a builder or a configuration, closed by [`Engine::shutdown`] |
//! | `builder` | [`EngineBuilder`] |
//! | `request` | [`BatchBuilder`]: what a batch asks for |
//! | `key` | how an item gets its key |
//! | `handle` | [`Batch`]: push, steer, wait |
//! | `results`, `readers` | [`Results`]: the iterator over results, and who holds one |
//! | `map` | `map`, `try_map`, `for_each`: borrowed from the caller's stack |
//! | `ticket` | `spawn` and its [`Ticket`] |
//! | `transaction` | SQL in the journal's file, outside of items |
//! | `work` | a submitted batch as its lane sees it |

mod builder;
mod engine;
#[cfg(test)]
mod fence_tests;
mod handle;
mod key;
#[cfg(feature = "sqlite")]
mod link;
mod map;
mod readers;
mod request;
mod results;
mod ticket;
#[cfg(feature = "sqlite")]
mod transaction;
mod work;

pub use self::{
    builder::EngineBuilder,
    engine::Engine,
    handle::{Batch, Progress},
    key::{ByHash, ByKey, KeyOf},
    request::BatchBuilder,
    results::Results,
    ticket::{JoinError, Ticket},
};
