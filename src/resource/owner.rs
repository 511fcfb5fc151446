//! Whose permits are: a name, and an end.

use super::holders::OwnerId;
use crate::lock::{Levelled, house};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, OnceLock, Weak};
use std::fmt;

/// Who permits are taken back from when an owner is gone.
pub(super) trait Reclaim: Send + Sync {
    /// Takes back all that this owner holds.
    fn reclaim(&self, owner: OwnerId);
}

/// Who holds permits. When the last clone is dropped, what the owner still holds is taken back, wherever its permits
/// are: forgotten, or stuck in a thread that does not return.
///
/// Permits do not keep their owner alive; a [`Wait`](crate::resource::Wait) that names it does.
///
/// ```
/// use batchyard::{ResourceKind, ResourceManager, resource::{Owner, Wait}};
/// let manager = ResourceManager::builder().quota(ResourceKind::FileHandle, 3).build()?;
/// let owner = Owner::new("importer");
/// let permit = manager.try_acquire_with(&ResourceKind::FileHandle.into(), &Wait::new().owned_by(&owner))?;
/// std::mem::forget(permit);
/// drop(owner);
/// assert_eq!(manager.available(ResourceKind::FileHandle), Some(3));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Owner {
    inner: Arc<Inner>,
}

struct Inner {
    id: u64,
    name: Arc<str>,
    /// Who was noted first, for good; the others.
    first: OnceLock<Weak<dyn Reclaim>>,
    others: Levelled<Vec<Weak<dyn Reclaim>>, house::OwnerManagers>,
}

impl Owner {
    /// A new owner. Two of the same name are two.
    pub fn new(name: impl Into<Arc<str>>) -> Owner {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        let (first, others) = (OnceLock::new(), Levelled::default());
        Owner { inner: Arc::new(Inner { id, name: name.into(), first, others }) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    pub(super) fn name_of(&self) -> Arc<str> {
        Arc::clone(&self.inner.name)
    }

    pub(super) fn life(&self) -> Life {
        Life(Arc::downgrade(&self.inner))
    }

    pub(super) fn id(&self) -> OwnerId {
        OwnerId::Owner(self.inner.id)
    }

    /// Notes who is to be told of the owner's end. Before anything is held there. An owner whose permits are all of one
    /// manager passes no latch.
    pub(super) fn note(&self, who: &Arc<impl Reclaim + 'static>) {
        // An address that is known is nobody else's: the weak reference keeps it from being used again.
        let there = |known: &Weak<dyn Reclaim>| std::ptr::addr_eq(known.as_ptr(), Arc::as_ptr(who));
        let new = || Arc::downgrade(&(Arc::clone(who) as Arc<dyn Reclaim>));
        if there(self.inner.first.get_or_init(new)) {
            return;
        }
        let mut others = self.inner.others.lock();
        if !others.iter().any(there) {
            others.retain(|known| known.strong_count() > 0);
            others.push(new());
        }
    }
}

/// Tells whether an owner is there still.
#[derive(Clone)]
pub(super) struct Life(Weak<Inner>);

impl Life {
    /// Whether its last clone was dropped. Who enters a permit for the owner while it may end passes its slot's latch and
    /// looks then: the end is seen by who passes it from the moment on at which permits are taken back, slot by slot, under
    /// each slot's latch. So a permit that entered its slot too late to be found finds the owner gone.
    pub(super) fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for who in self.first.get().into_iter().chain(self.others.get_mut().iter()) {
            if let Some(who) = who.upgrade() {
                who.reclaim(OwnerId::Owner(self.id));
            }
        }
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Owner").field(&self.inner.name).finish()
    }
}
