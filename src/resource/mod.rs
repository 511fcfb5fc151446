//! Floor 3: what work needs besides a thread.
//!
//! | for | there is |
//! |---|---|
//! | naming what is limited | [`ResourceKind`] |
//! | asking for several of it at once | [`Demand`], and [`Wait`] for how |
//! | limits, and who holds what | [`ResourceManager`] |
//! | what is held | [`Permit`], whose [`Owner`] may come to an end |
//! | permits that end by themselves | [leases](ResourceManagerBuilder::lease), [`OnExpiry`] |
//! | one set of limits for a process | [`allocate`], [`global`] |
//!
//! A single limit needs none of this: [`limit::Quota`](crate::limit::Quota) is one.

mod acquire;
mod builder;
mod caller;
mod demand;
mod error;
mod global;
mod guarded;
mod holders;
mod inside;
mod kind;
mod lapse;
mod ledger;
mod manager;
mod owner;
mod permit;
mod places;
#[cfg(feature = "r2d2")]
mod pool;
mod stats;
mod wait;

#[cfg(feature = "r2d2")]
pub use self::pool::{ClosedConnections, Held, Pool, PoolBuilder, PoolError, PoolStats, PooledConnection};
pub use self::{
    builder::ResourceManagerBuilder,
    demand::Demand,
    error::{AcquireError, PermitError, SetLimitError},
    global::{allocate, allocate_by, allocate_with, global, set_global},
    kind::ResourceKind,
    lapse::OnExpiry,
    manager::ResourceManager,
    owner::Owner,
    permit::Permit,
    stats::{Holder, KindStats},
    wait::{Cancel, Wait},
};
pub(crate) use self::{holders::OwnerId, inside::Inside};
