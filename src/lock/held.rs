//! What a thread holds: one plain stack a thread, by which the order of locks is checked, and by which a lock's slow path finds
//! out that it would wait for itself.
//!
//! Not shared: only its own thread reads and writes it, so a lock costs a few stores here and no atomics. It has no
//! destructor, so there is no time in a thread's life at which it is gone. What goes beyond [`INLINE`] locks at a time is
//! on the heap, and freed when that is over.
//!
//! An entry may outlive its lock: a guard that is forgotten leaves it, and another lock may come to lie at that address.
//! Whoever follows an entry therefore asks the lock's word, too (see
//! [`share_again`](crate::core::lockword::LockWord::share_again)); what is decided by an entry alone is an error and no
//! access.

use super::level::LevelInfo;
use crate::core::lockword::{MAX_OWNER, Mode};
use crate::sync::atomic::{AtomicU32, Ordering};
use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::thread_local;

/// Locks that a thread holds without a heap allocation.
const INLINE: usize = 16;

/// One lock that this thread holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The lock's address.
    pub(super) lock: usize,
    pub(super) mode: Mode,
    pub(super) level: Option<&'static LevelInfo>,
    pub(super) place: &'static Location<'static>,
}

struct Stack {
    /// How many there are; those beyond the array are in `more`.
    len: Cell<usize>,
    first: [Cell<Option<Entry>>; INLINE],
    /// Without its destructor, so that the stack has none: it is empty when the thread holds few.
    more: ManuallyDrop<RefCell<Vec<Entry>>>,
    /// This thread's number in lock words; 0: none yet.
    number: Cell<u32>,
}

thread_local! {
    static STACK: Stack = const {
        Stack {
            len: Cell::new(0),
            first: [const { Cell::new(None) }; INLINE],
            more: ManuallyDrop::new(RefCell::new(Vec::new())),
            number: Cell::new(0),
        }
    };
}

impl Stack {
    fn get(&self, at: usize) -> Option<Entry> {
        match self.first.get(at) {
            Some(entry) => entry.get(),
            None => self.more.borrow().get(at - INLINE).copied(),
        }
    }

    fn set(&self, at: usize, entry: Entry) {
        match self.first.get(at) {
            Some(cell) => cell.set(Some(entry)),
            None => {
                let mut more = self.more.borrow_mut();
                match more.get_mut(at - INLINE) {
                    Some(there) => *there = entry,
                    None => more.push(entry),
                }
            }
        }
    }

    fn find(&self, lock: usize, mode: Option<Mode>) -> Option<usize> {
        let is_it = |entry: Entry| entry.lock == lock && mode.is_none_or(|mode| entry.mode == mode);
        (0..self.len.get()).rev().find(|at| self.get(*at).is_some_and(is_it))
    }

    #[cold]
    fn change(&self, lock: usize, from: Mode, to: Mode) {
        if let Some(at) = self.find(lock, Some(from))
            && let Some(entry) = self.get(at)
        {
            self.set(at, Entry { mode: to, ..entry });
        }
    }

    #[cold]
    fn take_out(&self, lock: usize, mode: Mode) {
        let Some(at) = self.find(lock, Some(mode)) else { return };
        let len = self.len.get();
        for above in at + 1..len {
            if let Some(entry) = self.get(above) {
                self.set(above - 1, entry);
            }
        }
        self.len.set(len - 1);
        if len > INLINE {
            let mut more = self.more.borrow_mut();
            more.truncate(len - 1 - INLINE);
            if more.is_empty() {
                *more = Vec::new();
            }
        }
    }
}

/// This thread has come to hold a lock.
#[inline]
pub(super) fn push(entry: Entry) {
    STACK.with(|stack| {
        let len = stack.len.get();
        match stack.first.get(len) {
            Some(cell) => cell.set(Some(entry)),
            None => stack.set(len, entry),
        }
        stack.len.set(len + 1);
    });
}

/// It holds it no longer.
#[inline]
pub(super) fn pop(lock: usize, mode: Mode) {
    STACK.with(|stack| {
        let last = stack.len.get().wrapping_sub(1);
        let top = stack.first.get(last).and_then(Cell::get);
        if top.is_some_and(|top| top.lock == lock && top.mode == mode) {
            stack.len.set(last);
        } else {
            stack.take_out(lock, mode);
        }
    });
}

/// It holds it in another mode now.
#[inline]
pub(super) fn change(lock: usize, from: Mode, to: Mode) {
    STACK.with(|stack| {
        let top = stack.first.get(stack.len.get().wrapping_sub(1));
        match top.and_then(|cell| Some((cell, cell.get()?))) {
            Some((cell, entry)) if entry.lock == lock && entry.mode == from => {
                cell.set(Some(Entry { mode: to, ..entry }));
            }
            _ => stack.change(lock, from, to),
        }
    });
}

/// In what way this thread holds a lock, the strongest first.
pub(super) fn find(lock: usize) -> Option<Entry> {
    STACK.with(|stack| {
        let modes = [Mode::Exclusive, Mode::Upgradable, Mode::Shared];
        let at = modes.into_iter().find_map(|mode| stack.find(lock, Some(mode)))?;
        stack.get(at)
    })
}

/// As which entry this thread holds a lock in this mode.
pub(super) fn find_as(lock: usize, mode: Mode) -> Option<Entry> {
    STACK.with(|stack| stack.get(stack.find(lock, Some(mode))?))
}

/// The first held one, from the last taken on, of which `says` says something.
#[inline]
pub(super) fn look<R>(mut says: impl FnMut(&Entry) -> Option<R>) -> Option<R> {
    STACK.with(|stack| (0..stack.len.get()).rev().find_map(|at| stack.get(at).and_then(|entry| says(&entry))))
}

/// Whether this thread holds any lock.
#[inline]
pub(super) fn any() -> bool {
    STACK.with(|stack| stack.len.get() != 0)
}

/// How many locks this thread holds.
#[cfg(test)]
pub(super) fn count() -> usize {
    STACK.with(|stack| stack.len.get())
}

/// This thread's number in lock words. 0 for all threads after the sixteen-millionth.
#[inline]
pub(super) fn number() -> u32 {
    STACK.with(|stack| match stack.number.get() {
        0 => new_number(&stack.number),
        number => number,
    })
}

#[cold]
fn new_number(cell: &Cell<u32>) -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let old = NEXT.load(Ordering::Relaxed);
    if old > MAX_OWNER {
        return 0;
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    // Beyond by as many as raced here at the end.
    let number = if number > MAX_OWNER { 0 } else { number };
    cell.set(number);
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn entry(lock: usize, mode: Mode) -> Entry {
        Entry { lock, mode, level: None, place: Location::caller() }
    }

    fn all() -> Vec<(usize, Mode)> {
        let mut all = Vec::new();
        look(|entry| {
            all.push((entry.lock, entry.mode));
            None::<()>
        });
        all.reverse();
        all
    }

    #[test]
    fn what_was_taken_last_need_not_be_given_back_first() {
        let many = INLINE + 5;
        (0..many).for_each(|lock| push(entry(lock, Mode::Shared)));
        assert_eq!(count(), many);
        // From the middle of the array, then of the rest, then all.
        let mut left: Vec<_> = (0..many).collect();
        for lock in [3, INLINE + 2, 0, INLINE, 7].into_iter().chain((0..many).rev()) {
            pop(lock, Mode::Shared);
            left.retain(|there| *there != lock);
            assert_eq!(all(), left.iter().map(|lock| (*lock, Mode::Shared)).collect::<Vec<_>>());
        }
        assert_eq!(count(), 0);
        STACK.with(|stack| assert_eq!(stack.more.borrow().capacity(), 0, "it would never be freed"));
    }

    #[test]
    fn one_lock_in_several_ways() {
        push(entry(1, Mode::Shared));
        push(entry(1, Mode::Upgradable));
        push(entry(1, Mode::Shared));
        assert_eq!(find(1).map(|entry| entry.mode), Some(Mode::Upgradable));
        change(1, Mode::Upgradable, Mode::Exclusive);
        assert_eq!(find(1).map(|entry| entry.mode), Some(Mode::Exclusive));
        pop(1, Mode::Exclusive);
        assert_eq!(all(), [(1, Mode::Shared); 2]);
        pop(1, Mode::Upgradable);
        assert_eq!(count(), 2, "what is not held is not given back");
        pop(1, Mode::Shared);
        pop(1, Mode::Shared);
        assert_eq!((count(), find(1).is_none()), (0, true));
    }

    #[test]
    fn every_thread_has_a_number_of_its_own() {
        let mine = number();
        assert_eq!(mine, number());
        let other = crate::sync::thread::scope(|scope| scope.spawn(number).join().unwrap());
        assert!(mine != 0 && other != 0 && mine != other);
    }
}
