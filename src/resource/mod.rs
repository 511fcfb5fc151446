//! Floor 3: what work needs besides a thread.

mod kind;
#[cfg(feature = "r2d2")]
mod pool;

pub use self::kind::ResourceKind;
#[cfg(feature = "r2d2")]
pub use self::pool::{ClosedConnections, Held, Pool, PoolBuilder, PoolError, PoolStats, PooledConnection};
