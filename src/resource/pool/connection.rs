//! A connection in use.

use super::shared::{Live, Shared};
use crate::core::shelf::Place;
use crate::limit::Permit;
use crate::sync::Arc;
use crate::time::Timestamp;
use r2d2::ManageConnection;
use std::fmt;
use std::mem::{ManuallyDrop, transmute};
use std::ops::{Deref, DerefMut};
use std::panic::Location;

/// A connection of a [`Pool`](super::Pool); dropping it brings it back. From [`get`](super::Pool::get) and its kin.
///
/// It keeps the pool alive, and can go to another thread.
#[must_use = "dropping a connection brings it back to its pool"]
pub struct PooledConnection<M: ManageConnection> {
    /// Moved out by `drop`.
    live: ManuallyDrop<Live<M::Connection>>,
    /// None beyond the number of slots.
    place: Option<Place>,
    discarded: bool,
    /// Of the quota of `pool`; it stands before it, so that it is given back before the pool can go, and after `drop`
    /// has put the connection where the next holder of the permit looks for it.
    _permit: Permit<'static>,
    pool: Arc<Shared<M>>,
}

impl<M: ManageConnection> PooledConnection<M> {
    #[inline]
    pub(super) fn new(
        pool: &Arc<Shared<M>>,
        permit: Permit<'_>,
        (place, live): (Option<Place>, Live<M::Connection>),
        taken_at: &'static Location<'static>,
        now: Timestamp,
    ) -> Self {
        if let Some(place) = &place {
            pool.holders.took(place, taken_at, now);
        }
        // SAFETY: what a permit borrows is its quota's, which is the pool's: the pool's quota is never replaced, and what
        // it refers to lies behind a counted pointer of its own and does not move. The pool is kept alive by the field
        // `pool`, which is dropped after the permit, being declared after it; neither is ever taken out.
        let permit = unsafe { transmute::<Permit<'_>, Permit<'static>>(permit) };
        let live = ManuallyDrop::new(live);
        PooledConnection { live, place, discarded: false, _permit: permit, pool: Arc::clone(pool) }
    }

    /// Closes the connection instead of bringing it back: for one that is known to be in a bad state. The next who needs
    /// one opens it anew.
    ///
    /// ```
    /// # #[derive(Clone)] struct Manager;
    /// # impl r2d2::ManageConnection for Manager {
    /// #     type Connection = (); type Error = std::io::Error;
    /// #     fn connect(&self) -> Result<(), Self::Error> { Ok(()) }
    /// #     fn is_valid(&self, _: &mut ()) -> Result<(), Self::Error> { Ok(()) }
    /// #     fn has_broken(&self, _: &mut ()) -> bool { false }
    /// # }
    /// # use batchyard::r2d2;
    /// let pool = batchyard::resource::Pool::new(Manager)?;
    /// pool.get()?.discard();
    /// assert_eq!((pool.stats().idle, pool.stats().closed.discarded), (0, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn discard(mut self) {
        self.discarded = true;
    }
}

impl<M: ManageConnection> Deref for PooledConnection<M> {
    type Target = M::Connection;

    #[inline]
    fn deref(&self) -> &M::Connection {
        &self.live.connection
    }
}

impl<M: ManageConnection> DerefMut for PooledConnection<M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut M::Connection {
        &mut self.live.connection
    }
}

/// Brings the connection back: asks the manager whether it [has broken](ManageConnection::has_broken), and shelves or
/// closes it. No panic of the manager's or the connection's gets out. Where it is closed, that takes as long as the
/// connection's own drop, and its permit is kept until then: it counts while it is open.
impl<M: ManageConnection> Drop for PooledConnection<M> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: nothing touches the field after this.
        let live = unsafe { ManuallyDrop::take(&mut self.live) };
        self.pool.bring_back(live, self.place.take(), self.discarded);
    }
}

impl<M: ManageConnection> fmt::Debug for PooledConnection<M>
where
    M::Connection: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.live.connection, f)
    }
}
