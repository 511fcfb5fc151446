//! A lock with a name, that comes to have another name when nobody has to do with it any more.
//!
//! Plates are found in two ways. Under a latch, in a table of all that have a name. And without it, by [hints](super::hints),
//! which may be out of date: so a plate is never freed while there are hints, and who follows one enters the lock first and
//! looks at the name then.
//!
//! | lock | name | who may read the name | goes to |
//! |---|---|---|---|
//! | free, held or waited for | has one | who holds the lock; who has a count; who has the latch of the table | closed, by `try_close` |
//! | closed: held exclusively, by nobody | has one, or none | who closed it | held, by `open_as` |
//!
//! (A *count* is one of an `Arc` of the plate, beside the table's own.)
//!
//! 1. *Who reads the name reads it whole.* It is written by who has closed the lock: nobody holds that then, and who enters it
//!    later comes after the write. Under the latch one finds no plate that is closed but in passing.
//! 2. *Who has a count keeps the name.* Counts are taken under the latch; by who holds the lock; and from other counts. Who
//!    closes has the latch, and looks at the count when the lock is closed: one that was taken by who held it is seen then,
//!    for that one gave the lock back after it had taken the count.
//! 3. *Who was led astray gives the lock back*, as any holder does. For a moment it was held by somebody who did not want it,
//!    and who tries it meanwhile is told so. That takes an old look at the plate's tag, which is one of its
//!    name: the plate was closed and opened since; or two names of one tag.
//! 4. *Who finds it closed in passing is let in*: it is opened as any hold is given back.

use super::lockline::RawLock;
use super::lockword::Mode;
use super::waitlist::Waiter;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{UnsafeCell, armed};
use std::fmt;
use std::panic::RefUnwindSafe;

/// See the head. The name and the lock's word are beside each other.
#[repr(C)]
pub struct Plate<N> {
    /// By which one sees most times that it has another name, without entering. Written by who closed it.
    tag: AtomicU64,
    name: UnsafeCell<Option<N>>,
    /// How often it was held exclusively, by whatever name. Written by holders.
    taken: AtomicU64,
    lock: RawLock,
}

// SAFETY: the name goes from thread to thread by `open_as` and `try_close`, hence `Send`, and is read by several, hence `Sync`:
// all by the rules in the head, which are promises of the callers.
unsafe impl<N: Send + Sync> Sync for Plate<N> {}

/// A panic finds the name written or not.
impl<N: RefUnwindSafe> RefUnwindSafe for Plate<N> {}

impl<N> fmt::Debug for Plate<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lock.fmt(f)
    }
}

impl<N> Plate<N> {
    /// Free.
    pub fn new(tag: u64, name: N) -> Self {
        let (tag, taken) = (AtomicU64::new(tag), AtomicU64::new(0));
        Plate { tag, name: UnsafeCell::new(Some(name)), taken, lock: RawLock::new() }
    }

    /// The tag of its name, for who holds it; else of that or of one before.
    #[inline]
    pub fn tag(&self) -> u64 {
        self.tag.load(Ordering::Relaxed)
    }

    /// Its lock.
    #[inline]
    pub fn lock(&self) -> &RawLock {
        &self.lock
    }

    /// Its name. (None, if it is closed; so not for who may ask.)
    ///
    /// # Safety
    ///
    /// The caller holds the lock, or has a count, or has the latch of the table in which it is, and keeps that meanwhile.
    #[inline]
    pub unsafe fn with_name<R>(&self, f: impl FnOnce(Option<&N>) -> R) -> R {
        // SAFETY: the caller's promise: it is not written.
        self.name.with(|name| f(unsafe { (*name).as_ref() }))
    }

    /// It is held, in this mode from now on: counted if that is exclusive. By who holds it.
    #[inline]
    pub fn count(&self, mode: Mode) {
        // Relaxed: who holds it exclusively is alone. Others who share it write what they read, all the same: a branch would be
        // guessed wrong.
        let taken = self.taken.load(Ordering::Relaxed) + u64::from(mode == Mode::Exclusive);
        self.taken.store(taken, Ordering::Relaxed);
    }

    /// How often it was held exclusively.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Closes it, if nobody holds it or waits for it, and nobody has a count: then nobody has to do with its name. `is_sole`
    /// tells whether there is one count only.
    ///
    /// The caller has the latch of the table.
    pub fn try_close(
        &self,
        is_sole: impl FnOnce() -> bool,
        now: impl FnOnce() -> u64,
        wake: &mut impl FnMut(&Waiter),
    ) -> bool {
        let word = self.lock.word();
        if armed!(mutant = "plate_closed_by_a_look") {
            return word.look() == super::lockword::Word::FREE && is_sole();
        }
        if armed!(mutant = "plate_counts_first") {
            return is_sole() && word.try_enter_at_once(Mode::Exclusive, 0);
        }
        if !word.try_enter_at_once(Mode::Exclusive, 0) {
            return false;
        }
        if !is_sole() {
            if armed!(mutant = "plate_opens_silently") {
                word.set_free();
            } else {
                self.lock.leave(Mode::Exclusive, false, now, wake);
            }
            return false;
        }
        true
    }

    /// Takes the name of a closed one.
    ///
    /// # Safety
    ///
    /// The caller has closed it.
    pub unsafe fn take_name(&self) -> Option<N> {
        // SAFETY: the caller's promise: nobody else reads or writes it.
        self.name.with_mut(|name| unsafe { (*name).take() })
    }

    /// Opens a closed one, under this name, and held so.
    ///
    /// # Safety
    ///
    /// The caller has closed it, and taken its name.
    pub unsafe fn open_as(&self, tag: u64, name: N, mode: Mode, owner: u32) {
        if armed!(mutant = "plate_opens_first") {
            self.lock.word().pass_on(mode, owner);
        }
        // SAFETY: as above.
        self.name.with_mut(|at| unsafe { *at = Some(name) });
        // Before it is opened: who holds the lock has the tag of its name.
        if !armed!(mutant = "plate_tag_late") {
            self.tag.store(tag, Ordering::Relaxed);
        }
        self.count(mode);
        if !armed!(mutant = "plate_opens_first") {
            self.lock.word().pass_on(mode, owner);
        }
        if armed!(mutant = "plate_tag_late") {
            self.tag.store(tag, Ordering::Relaxed);
        }
    }
}

#[cfg(any(loom, shuttle))]
impl<N> Plate<N> {
    /// [`try_close`](Self::try_close), at time 0.
    pub fn try_close_alone(&self, is_sole: impl FnOnce() -> bool) -> bool {
        self.try_close(is_sole, || 0, &mut super::waitlist::WaitList::unpark)
    }
}
