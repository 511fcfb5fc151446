//! The pool as its users hold it.

use super::builder::PoolBuilder;
use super::connection::PooledConnection;
use super::error::PoolError;
use super::holders::Held;
use super::shared::Shared;
use super::stats::PoolStats;
use crate::job::Priority;
use crate::limit::Quota;
use crate::sync::Arc;
use crate::time::Deadline;
use r2d2::ManageConnection;
use std::fmt;
use std::panic::Location;

/// A pool of connections: for any connection manager of r2d2's, bound to a [`Quota`], fair. A clone is another handle.
///
/// - Who waits is served by [`Priority`], then first come, first served; what comes back while somebody waits is handed
///   over, and nobody barges in between.
/// - Connections are opened when they are needed, by the caller who needs one, with a growing wait between attempts until
///   its deadline; those that were used last are used again first. Never are more open than the quota allows.
/// - [`is_valid`](ManageConnection::is_valid) is asked before a connection is handed out,
///   [`has_broken`](ManageConnection::has_broken) when it comes back, both outside any lock: a slow or dead connection
///   holds up its own caller only. A panic of either, or of `connect`, costs the connection, not its permit.
/// - Connections end after `max_lifetime` (with jitter) or `idle_timeout`; those that do not come back for `leak_after`
///   are reported with the place that took them.
/// - There is no background thread. Who gets a connection does the upkeep when it is due, which never includes
///   connecting for others; [`sweep`](Pool::sweep) does all of it.
///
/// ```
/// use batchyard::r2d2::ManageConnection;
/// use batchyard::resource::Pool;
/// use batchyard::{millis, secs};
/// use std::net::{TcpListener, TcpStream, SocketAddr};
///
/// struct Tcp(SocketAddr);
///
/// impl ManageConnection for Tcp {
///     type Connection = TcpStream;
///     type Error = std::io::Error;
///     fn connect(&self) -> Result<TcpStream, Self::Error> {
///         TcpStream::connect(self.0)
///     }
///     fn is_valid(&self, connection: &mut TcpStream) -> Result<(), Self::Error> {
///         connection.take_error()?.map_or(Ok(()), Err)
///     }
///     fn has_broken(&self, connection: &mut TcpStream) -> bool {
///         connection.peer_addr().is_err()
///     }
/// }
///
/// let server = TcpListener::bind("127.0.0.1:0")?;
/// let pool = Pool::builder(Tcp(server.local_addr()?)).max_size(2).timeout(secs(5)).build()?;
/// let (one, two) = (pool.get()?, pool.get()?);
/// assert_ne!(one.local_addr()?, two.local_addr()?);
/// assert!(pool.get_by(millis(1)).is_err());
/// let address = two.local_addr()?;
/// drop(two);
/// assert_eq!(pool.get()?.local_addr()?, address);
/// assert_eq!(pool.stats().opened, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Who asks for a second connection while it has one may wait for itself, and two who do for each other: in a pool that is
/// used so, give such calls a deadline.
///
/// [`PooledConnection::discard`] closes a connection that is known to be bad. A connection that is
/// forgotten (`std::mem::forget`) takes its permit with it.
///
/// The manager's `is_valid` runs for every connection handed out, unless
/// [`check_after`](PoolBuilder::check_after) says otherwise.
#[doc(alias = "r2d2")]
pub struct Pool<M: ManageConnection> {
    shared: Arc<Shared<M>>,
}

impl<M: ManageConnection> Pool<M> {
    /// A pool of at most 10 connections, with the defaults of [`PoolBuilder`]. It opens none yet.
    ///
    /// # Errors
    ///
    /// None at present: the defaults are sound.
    #[track_caller]
    pub fn new(manager: M) -> Result<Pool<M>, PoolError<M::Error>> {
        Self::builder(manager).build()
    }

    /// A pool with settings of one's own.
    pub fn builder(manager: M) -> PoolBuilder<M> {
        PoolBuilder::new(manager)
    }

    pub(super) fn of(shared: Arc<Shared<M>>) -> Self {
        Pool { shared }
    }

    /// A connection, within the pool's `timeout` (30 s unless the builder said otherwise): waits for one that is in use
    /// if there may be no more, and opens one if there may.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](PoolError::TimedOut): all were in use. [`Connect`](PoolError::Connect) and
    /// [`Panicked`](PoolError::Panicked): none could be opened; said as soon as the next attempt would come too late.
    /// [`Closed`](PoolError::Closed); [`Quota`](PoolError::Quota) for a quota that refuses for other reasons.
    #[inline]
    #[track_caller]
    pub fn get(&self) -> Result<PooledConnection<M>, PoolError<M::Error>> {
        self.get_by(self.shared.settings.timeout)
    }

    /// As [`get`](Self::get), until this deadline. An attempt to connect that is under way is not interrupted by it; if
    /// that succeeds late, its connection is given.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    #[inline]
    #[track_caller]
    pub fn get_by(&self, deadline: impl Into<Deadline>) -> Result<PooledConnection<M>, PoolError<M::Error>> {
        self.get_with(Priority::Normal, deadline)
    }

    /// As [`get_by`](Self::get_by), in a priority class.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    #[inline]
    #[track_caller]
    pub fn get_with(
        &self,
        priority: Priority,
        deadline: impl Into<Deadline>,
    ) -> Result<PooledConnection<M>, PoolError<M::Error>> {
        self.shared.get(priority, deadline.into(), Location::caller())
    }

    /// A connection if there is one or may be one more, without waiting for others. If none is idle it is opened, in one
    /// attempt.
    ///
    /// # Errors
    ///
    /// [`Full`](PoolError::Full): all are in use (or, for a moment, looked at by the upkeep). The others as
    /// [`get`](Self::get).
    #[track_caller]
    pub fn try_get(&self) -> Result<PooledConnection<M>, PoolError<M::Error>> {
        self.shared.try_get(Location::caller())
    }

    /// Does the upkeep now: reports leaks, closes connections whose time is over, opens as many as are missing of
    /// `min_idle` (it stops at the first that fails). For a thread of the user's that calls it now and then, where nobody
    /// may come by for long or where `min_idle` is to be kept; else the pool does without.
    pub fn sweep(&self) {
        self.shared.sweep();
    }

    /// Counts and waits.
    pub fn stats(&self) -> PoolStats {
        self.shared.stats()
    }

    /// The connections that are out, with the places that took them. Known only where
    /// [`leak_after`](PoolBuilder::leak_after) is set; empty else. Without those that a quota raised after `build` allows in
    /// addition.
    pub fn held(&self) -> Vec<Held> {
        self.shared.holders.all(self.shared.clock.now())
    }

    /// The quota that bounds it. Its limit may be changed at any time: lowered, connections that come back are closed
    /// until there are no more than it allows, idle ones by the next upkeep. Raised above what it was when the pool was
    /// built, the connections beyond are closed when they come back.
    pub fn quota(&self) -> &Quota {
        &self.shared.quota
    }

    /// Closes the pool: who asks, waits, or is about to connect gets [`Closed`](PoolError::Closed); idle connections are
    /// closed before this returns, those in use when they come back. A quota that the pool was given stays open, for its
    /// other users; those who wait for it then hear of the closing when they get their permit, or time out.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Whether it was [closed](Self::close).
    pub fn is_closed(&self) -> bool {
        self.shared.shelf.is_closed()
    }
}

impl<M: ManageConnection> Clone for Pool<M> {
    fn clone(&self) -> Self {
        Pool { shared: Arc::clone(&self.shared) }
    }
}

impl<M: ManageConnection> fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("quota", &self.shared.quota)
            .field("idle", &self.shared.shelf.len())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
