//! A pool of connections, for any connection manager of r2d2's.
//!
//! A connection is had by a permit of a [`Quota`](crate::limit::Quota): who gets a permit takes an idle connection from
//! the [shelf](crate::core::handover), the one that was used last, or opens one if there is none. The quota decides who goes
//! first; no lock is held while a manager or a connection is called. Who could not open one sleeps, with its permit; all that
//! comes back, or is opened by the upkeep, goes to it before it is shelved (modelled: `loom-tests/tests/handover.rs`).
//!
//! *Never more than the limit are open.* A connection is idle, or with somebody who has a permit (in use, being opened,
//! being closed). Who has a permit opens one only after it found the shelf empty: at that moment all others are with
//! holders of permits, each of whom has at most one. Who brings one back shelves it before it gives the permit back, so
//! that the next holder finds it (modelled: `loom-tests/tests/shelf.rs`). Upkeep, too, takes a permit for each connection
//! that it looks at, and opens one only with permits for all idle ones and one more in hand.
//!
//! | file | what |
//! |---|---|
//! | `builder` | the settings, checked |
//! | `handle` | [`Pool`] |
//! | `connection` | [`PooledConnection`] |
//! | `shared` | getting a connection and bringing it back |
//! | `upkeep` | what is done by who comes by: lifetimes, idle timeouts, the minimum, leaks, the end |
//! | `holders` | who has which connection since when |
//! | `stats` | what is counted |
//! | `error` | why there is none |

mod builder;
mod connection;
mod error;
mod handle;
mod holders;
mod shared;
mod stats;
mod upkeep;

pub use self::{
    builder::PoolBuilder,
    connection::PooledConnection,
    error::PoolError,
    handle::Pool,
    holders::Held,
    stats::{ClosedConnections, PoolStats},
};
