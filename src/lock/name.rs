//! [`Name`]: a lock with its name, and [`Pinned`]: one that is held.
//!
//! *Who holds a lock needs no count for that.* Who gives it back is done with it in the step in which it is free; where somebody
//! waits, or may, it takes a count first, for as long as it still holds the lock. Who waits has a count.

use super::body::unpark;
use super::manager::LockName;
use super::stats::LockStats;
use crate::core::lockline::{Hastened, RawLock};
use crate::core::lockword::Mode;
use crate::core::plate::Plate;
use crate::core::waitlist::Waiter;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Unparker};
use crate::waitgraph::{Sleeper, Thing};
use std::borrow::Borrow;
use std::fmt;
use std::ptr::NonNull;

/// Of a longer name no more than this is printed.
const LONGEST_LABEL: usize = 80;

/// A lock and its name. What each take needs lies together.
#[repr(C, align(64))]
pub(super) struct Name<K> {
    pub(super) plate: Plate<Called<K>>,
    /// How often somebody was let past its line.
    repaired: AtomicU64,
}

pub(super) struct Called<K> {
    pub(super) hash: u64,
    pub(super) key: K,
}

/// A lock that is held by whoever has this: so it has its name, and is in the table.
pub(super) struct Pinned<K>(NonNull<Name<K>>);

// SAFETY: it is a shared reference to a `Name<K>`, of which an `Arc` may be made.
unsafe impl<K: Send + Sync> Send for Pinned<K> {}

pub(super) fn pointer<K>(name: &Arc<Name<K>>) -> NonNull<Name<K>> {
    // SAFETY: no `Arc` points to null.
    unsafe { NonNull::new_unchecked(Arc::as_ptr(name).cast_mut()) }
}

impl<K> Clone for Pinned<K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Pinned<K> {}

impl<K> Pinned<K> {
    /// # Safety
    ///
    /// It is a lock of a manager, and the caller holds it. The value is not used when it has given it back, or the manager is
    /// gone.
    #[inline]
    pub(super) unsafe fn new(name: NonNull<Name<K>>) -> Self {
        Pinned(name)
    }

    pub(super) fn name(&self) -> &Name<K> {
        // SAFETY: it is held, so the table has its `Arc` (the promise of `new`).
        unsafe { self.0.as_ref() }
    }

    pub(super) fn address(&self) -> usize {
        self.0.addr().get()
    }

    pub(super) fn is(&self, name: &Arc<Name<K>>) -> bool {
        self.0.as_ptr().cast_const() == Arc::as_ptr(name)
    }

    /// With a count.
    pub(super) fn arc(&self) -> Arc<Name<K>> {
        let name = self.0.as_ptr().cast_const();
        // SAFETY: as above: the pointer is that of an `Arc` that lives now. The count is the new one's.
        unsafe {
            Arc::increment_strong_count(name);
            Arc::from_raw(name)
        }
    }

    /// Whether this is its name.
    #[inline]
    pub(super) fn is_called<Q: Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        // SAFETY: it is held.
        unsafe { self.name().is_called(key) }
    }

    /// Gives back what was held in this mode.
    #[inline]
    pub(super) fn leave(self, mode: Mode, now: impl FnOnce() -> u64) {
        if !self.name().raw().word().try_leave_quietly(mode) {
            // It is held still.
            let name = self.arc();
            name.raw().leave(mode, false, now, &mut unpark);
        }
    }
}

impl<K> Name<K> {
    pub(super) fn new(tag: u64, called: Called<K>) -> Self {
        Name { plate: Plate::new(tag, called), repaired: AtomicU64::new(0) }
    }

    #[inline]
    pub(super) fn raw(&self) -> &RawLock {
        self.plate.lock()
    }

    /// It has come to be held in this mode.
    #[inline]
    pub(super) fn count(&self, mode: Mode) {
        self.plate.count(mode);
    }

    /// # Safety
    ///
    /// As [`Plate::with_name`].
    #[inline]
    pub(super) unsafe fn is_called<Q: Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        // SAFETY: the caller's promise.
        unsafe { self.plate.with_name(|called| called.is_some_and(|called| called.key.borrow() == key)) }
    }

    pub(super) fn tell(&self, stats: &mut LockStats) {
        stats.add(self.plate.taken(), &self.raw().tally());
        stats.repaired += self.repaired.load(Ordering::Relaxed);
    }
}

impl<K: LockName> Thing for Name<K> {
    fn number(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn label(&self) -> String {
        let mut label = Cut { text: String::new(), left: LONGEST_LABEL };
        // SAFETY: who asks has a count.
        let cut = unsafe {
            self.plate.with_name(|called| match called {
                Some(called) => fmt::write(&mut label, format_args!("{:?}", called.key)).is_err(),
                None => false,
            })
        };
        label.text + if cut { "…" } else { "" }
    }

    fn queue(&self, now: u64) -> Vec<Unparker> {
        self.raw().queue(now)
    }

    fn hasten(&self, who: &Sleeper, now: u64, wake: &mut dyn FnMut(&Waiter)) -> Hastened {
        let hastened = self.raw().hasten(who.owner, now, &mut |waiter| wake(waiter));
        if hastened != Hastened::Nobody {
            self.repaired.fetch_add(1, Ordering::Relaxed);
        }
        hastened
    }

    fn tell(&self, waiter: &Waiter) {
        unpark(waiter);
    }
}

/// As much of a text as there is room for.
struct Cut {
    text: String,
    left: usize,
}

impl fmt::Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
            self.text.push(char);
        }
        Ok(())
    }
}
