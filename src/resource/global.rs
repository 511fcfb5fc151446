//! The process's own manager, for programs that have one set of limits and no engine to hold them.

use super::demand::Demand;
use super::error::AcquireError;
use super::kind::ResourceKind;
use super::lapse::OnExpiry;
use super::manager::Inner;
use super::manager::ResourceManager;
use super::owner::Owner;
use super::permit::Permit;
use super::wait::Wait;
use crate::sync::Arc;
use crate::sync::OnceLock;
use crate::time::Deadline;
use crate::waitgraph::{self, Hold};

static GLOBAL: OnceLock<ResourceManager> = OnceLock::new();

/// The process's own manager: what [`set_global`] set, or else one of the default limits, made at its first use.
///
/// | kind | limit by default |
/// |---|---|
/// | `DatabaseConnection` | 10, as [`max_database_connections`](crate::EngineConfig::max_database_connections) |
/// | `ApiRequest`, `WorkerThread` | 50, as [`max_total_concurrent_items`](crate::EngineConfig::max_total_concurrent_items) |
/// | `FileHandle`, `NetworkSocket` | 256: a quarter of what a process may usually open |
/// | `MemoryBuffer` | 1024, in megabytes |
///
/// [`set_limit`](ResourceManager::set_limit) changes them at any time. Custom kinds need a manager that knows them.
pub fn global() -> &'static ResourceManager {
    GLOBAL.get_or_init(|| {
        use ResourceKind::*;
        ResourceManager::builder()
            .quota(DatabaseConnection, 10)
            .quota(ApiRequest, 50)
            .quota(WorkerThread, 50)
            .quota(MemoryBuffer, 1024)
            .quota(FileHandle, 256)
            .quota(NetworkSocket, 256)
            .build()
            .expect("constant limits in range, each kind once")
    })
}

/// Makes this the process's own manager, before the first use of it.
///
/// # Errors
///
/// There is one already; this one comes back.
pub fn set_global(manager: ResourceManager) -> Result<(), ResourceManager> {
    GLOBAL.set(manager)
}

/// Takes one of a kind from the process's [own manager](global), waiting as long as it takes. It comes back when the
/// permit is dropped, and when the owner is gone, wherever the permit is then.
///
/// ```
/// use batchyard::{ResourceKind, resource::{self, Owner}};
/// let owner = Owner::new("importer");
/// let permit = batchyard::allocate(ResourceKind::DatabaseConnection, &owner)?;
/// assert_eq!((permit.owner(), resource::global().in_use(ResourceKind::DatabaseConnection)), ("importer", Some(1)));
/// # Ok::<(), resource::AcquireError>(())
/// ```
///
/// # Errors
///
/// As [`ResourceManager::acquire`].
#[doc(alias = "allocate_resource")]
#[doc(alias = "semaphore")]
#[track_caller]
pub fn allocate(kind: impl Into<ResourceKind>, owner: &Owner) -> Result<Permit, AcquireError> {
    allocate_with(&kind.into().into(), owner, &Wait::new())
}

/// As [`allocate`], waiting until the deadline.
///
/// ```
/// use batchyard::{ResourceKind, millis, resource::{AcquireError, Owner, global}};
/// global().set_limit(ResourceKind::FileHandle, 1)?;
/// let (one, other) = (Owner::new("one"), Owner::new("other"));
/// let held = batchyard::allocate(ResourceKind::FileHandle, &one)?;
/// let late = std::thread::scope(|s| {
///     s.spawn(|| batchyard::allocate_by(ResourceKind::FileHandle, &other, millis(2)).map(drop)).join()
/// });
/// assert!(matches!(late.expect("no panic"), Err(AcquireError::TimedOut { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// As [`ResourceManager::acquire_by`].
#[doc(alias = "allocate_resource")]
#[track_caller]
pub fn allocate_by(
    kind: impl Into<ResourceKind>,
    owner: &Owner,
    deadline: impl Into<Deadline>,
) -> Result<Permit, AcquireError> {
    allocate_with(&kind.into().into(), owner, &Wait::new().by(deadline))
}

/// Takes a demand from the process's [own manager](global), as `wait` says: its deadline, its priority, its lease. What
/// a lease leaves behind is reclaimed unless the wait says otherwise.
///
/// ```
/// use batchyard::{Priority, ResourceKind, resource::{Demand, Owner, Wait}, secs};
/// let owner = Owner::new("importer");
/// let demand = Demand::new().need(ResourceKind::MemoryBuffer, 64).need(ResourceKind::FileHandle, 1);
/// let wait = Wait::new().by(secs(5)).priority(Priority::High).lease(secs(60));
/// let permit = batchyard::allocate_with(&demand, &owner, &wait)?;
/// assert_eq!(permit.amount(ResourceKind::MemoryBuffer), 64);
/// # Ok::<(), batchyard::resource::AcquireError>(())
/// ```
///
/// # Errors
///
/// As [`ResourceManager::acquire_with`].
#[doc(alias = "allocate_resource")]
#[track_caller]
pub fn allocate_with(demand: &Demand, owner: &Owner, wait: &Wait) -> Result<Permit, AcquireError> {
    // Who waits for something else, later, is known to hold this.
    waitgraph::tell_units(held_here);
    let mut wait = wait.clone().owned_by(owner);
    wait.on_expiry.get_or_insert(OnExpiry::Reclaim);
    global().acquire_with(demand, &wait)
}

/// Whether this is the process's own manager.
pub(super) fn is_global(inner: &Arc<Inner>) -> bool {
    GLOBAL.get().is_some_and(|global| Arc::ptr_eq(&global.inner, inner))
}

/// All that this thread holds of it.
fn held_here(all: &mut Vec<Hold>) {
    if let Some(global) = GLOBAL.get() {
        global.inner.held_here(None, all);
    }
}
