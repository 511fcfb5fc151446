//! What ends waits before their time.

use super::atomic::{AtomicBool, Ordering};
use super::{Arc, Mutex, Unparker, armed};
use std::fmt;

/// Ends waits before their time: all that were given it, now and later. A clone is another handle to the same.
///
/// ```
/// use batchyard::{ResourceManager, resource::{AcquireError, Cancel, Wait}};
/// let manager = ResourceManager::builder().quota("gpu", 1).build()?;
/// let _held = manager.try_acquire(&"gpu".into())?;
/// let cancel = Cancel::new();
/// cancel.cancel();
/// let wait = Wait::new().cancel(&cancel).while_holding();
/// assert_eq!(manager.acquire_with(&"gpu".into(), &wait).unwrap_err(), AcquireError::Cancelled);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct Cancel {
    inner: Arc<CancelInner>,
}

#[derive(Default)]
struct CancelInner {
    flag: Flag,
    waiting: Mutex<Vec<Unparker>>,
}

struct Flag(AtomicBool);

impl Default for Flag {
    fn default() -> Self {
        Flag(AtomicBool::new(false))
    }
}

impl Cancel {
    /// One that has not been cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the waits. For good.
    pub fn cancel(&self) {
        if armed!(mutant = "cancel_wakes_first") {
            self.inner.waiting.lock().iter().for_each(Unparker::unpark);
        }
        // ORDERING: Release pairs with the Acquire of who sees it: what came before the cancel is seen, too.
        self.inner.flag.0.store(true, Ordering::Release);
        if armed!(mutant = "cancel_wakes_first") {
            return;
        }
        for waiter in self.inner.waiting.lock().iter() {
            waiter.unpark();
        }
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.inner.flag.0.load(Ordering::Acquire)
    }

    /// Wakes `waiter` at the cancel, until the entry is dropped. The waiter enters itself, then looks at the flag; a
    /// cancel sets the flag, then wakes the entered. Both pass through the latch, so one of the two sees the other.
    pub(crate) fn enter(&self, waiter: Unparker) -> Entry<'_> {
        Entry::new(&self.inner.waiting, waiter)
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel").field("cancelled", &self.is_cancelled()).finish()
    }
}

/// A list of whom to wake, under a lock.
pub(crate) trait Sleepers {
    /// Calls `f` with the list, which is locked.
    fn with(&self, f: impl FnOnce(&mut Vec<Unparker>));
}

impl Sleepers for Mutex<Vec<Unparker>> {
    fn with(&self, f: impl FnOnce(&mut Vec<Unparker>)) {
        f(&mut self.lock());
    }
}

/// A sleeper's entry in a list of whom to wake; leaves it when dropped.
pub(crate) struct Entry<'a, L: Sleepers = Mutex<Vec<Unparker>>> {
    list: &'a L,
    waiter: Unparker,
}

impl<'a, L: Sleepers> Entry<'a, L> {
    pub(crate) fn new(list: &'a L, waiter: Unparker) -> Self {
        list.with(|list| list.push(waiter.clone()));
        Entry { list, waiter }
    }
}

impl<L: Sleepers> Drop for Entry<'_, L> {
    fn drop(&mut self) {
        // One entry: a thread may be in there twice, from a wait inside a revocation.
        self.list.with(|list| {
            if let Some(at) = list.iter().position(|there| there.same(&self.waiter)) {
                list.swap_remove(at);
            }
        });
    }
}
