//! Who sleeps between two attempts to connect, with a permit and without a connection. What comes back is handed to
//! them before it is shelved, to the one whose call is the oldest: else those who come later, and find it on the shelf,
//! would be served before them for as long as nothing can be opened, as when the server admits fewer than the quota does.
//!
//! Blocking, one short latch; beside it a count, so that who brings something back while nobody sleeps does not enter it.

use super::shared::Idle;
use crate::core::shelf::Place;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, Unparker};
use crate::time::Timestamp;

/// A connection that was taken off the shelf, or that never came to lie there.
pub(super) type Handed<C> = (Place, Idle<C>);

pub(super) struct Dozing<C> {
    count: AtomicUsize,
    sleepers: Mutex<Vec<Sleeper<C>>>,
}

struct Sleeper<C> {
    called: Timestamp,
    thread: Unparker,
    handed: Option<Handed<C>>,
}

impl<C> Dozing<C> {
    pub(super) fn new() -> Self {
        Dozing { count: AtomicUsize::new(0), sleepers: Mutex::new(Vec::new()) }
    }

    pub(super) fn enter(&self, called: Timestamp, thread: Unparker) {
        let mut sleepers = self.sleepers.lock();
        sleepers.push(Sleeper { called, thread, handed: None });
        self.count.store(sleepers.len(), Ordering::Relaxed);
    }

    /// Out of the list, with what was handed over. Each who enters leaves.
    pub(super) fn leave(&self, thread: &Unparker) -> Option<Handed<C>> {
        let mut sleepers = self.sleepers.lock();
        let at = sleepers.iter().position(|sleeper| sleeper.thread.same(thread))?;
        let sleeper = sleepers.swap_remove(at);
        self.count.store(sleepers.len(), Ordering::Relaxed);
        sleeper.handed
    }

    pub(super) fn has_something(&self, thread: &Unparker) -> bool {
        let sleepers = self.sleepers.lock();
        sleepers.iter().any(|sleeper| sleeper.thread.same(thread) && sleeper.handed.is_some())
    }

    /// Whether somebody sleeps. A hint, but behind the fence of who brings something: see `pass_on`.
    #[inline]
    pub(super) fn anybody(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    /// Hands it to the one who has waited for longest.
    ///
    /// # Errors
    ///
    /// Nobody sleeps who has none.
    pub(super) fn hand(&self, found: Handed<C>) -> Result<(), Handed<C>> {
        let mut sleepers = self.sleepers.lock();
        let waiting = sleepers.iter_mut().filter(|sleeper| sleeper.handed.is_none());
        match waiting.min_by_key(|sleeper| sleeper.called) {
            None => Err(found),
            Some(first) => {
                first.handed = Some(found);
                first.thread.unpark();
                Ok(())
            }
        }
    }

    pub(super) fn wake_all(&self) {
        for sleeper in &*self.sleepers.lock() {
            sleeper.thread.unpark();
        }
    }
}
