//! What a thread holds: one plain stack a thread, by which the order of locks is checked, and by which a lock's slow path finds
//! out that it would wait for itself.
//!
//! Not shared: only its own thread reads and writes it, so a lock costs a few stores here and no atomics. It has no
//! destructor, so there is no time in a thread's life at which it is gone. What goes beyond [`INLINE`] locks at a time is
//! on the heap, and freed when that is over.
//!
//! An entry may outlive its lock: a guard that is forgotten leaves it, and another lock may come to lie at that address. It
//! stands in the order for good, and is taken for one of the new lock only if that has the same level.
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
    hold: Hold,
    pub(super) level: Option<&'static LevelInfo>,
    pub(super) place: &'static Location<'static>,
}

/// A lock's address, and in the low bit, which its alignment leaves free, whether others may hold it likewise. Of holds that are
/// not shared a thread has one at a time, and in what mode that one is, the lock's word tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hold(usize);

impl Hold {
    const SHARED: usize = 1;

    #[inline]
    fn new(lock: usize, mode: Mode) -> Self {
        debug_assert!(lock & Self::SHARED == 0, "an odd address");
        Hold(lock | if mode == Mode::Shared { Self::SHARED } else { 0 })
    }
}

impl Entry {
    #[inline]
    pub(super) fn new(
        lock: usize,
        mode: Mode,
        level: Option<&'static LevelInfo>,
        place: &'static Location<'static>,
    ) -> Self {
        Entry { hold: Hold::new(lock, mode), level, place }
    }

    /// The lock's address.
    pub(super) fn lock(&self) -> usize {
        self.hold.0 & !Hold::SHARED
    }

    /// It is one of this lock, which has this level.
    pub(super) fn is_of(&self, lock: usize, level: Option<&'static LevelInfo>) -> bool {
        self.lock() == lock
            && match (self.level, level) {
                (Some(own), Some(level)) => own.is(level),
                (own, level) => own.is_none() && level.is_none(),
            }
    }

    /// Others may hold it likewise.
    pub(super) fn shares(&self) -> bool {
        self.hold.0 & Hold::SHARED != 0
    }
}

/// A place for an entry: field by field, so that each is one store.
struct Place {
    hold: Cell<Hold>,
    level: Cell<Option<&'static LevelInfo>>,
    place: Cell<&'static Location<'static>>,
}

impl Place {
    const fn empty() -> Self {
        Place { hold: Cell::new(Hold(0)), level: Cell::new(None), place: Cell::new(Location::caller()) }
    }

    #[inline]
    fn set(&self, entry: Entry) {
        self.hold.set(entry.hold);
        self.level.set(entry.level);
        self.place.set(entry.place);
    }

    fn get(&self) -> Entry {
        Entry { hold: self.hold.get(), level: self.level.get(), place: self.place.get() }
    }
}

/// What one thread holds, and its number.
struct Stack {
    /// How many there are; those beyond the array are in `more`.
    len: Cell<usize>,
    first: [Place; INLINE],
    /// Without its destructor, so that the stack has none: it is empty when the thread holds few.
    more: ManuallyDrop<RefCell<Vec<Entry>>>,
    /// This thread's number in lock words; 0: none yet.
    number: Cell<u32>,
}

thread_local! {
    static STACK: Stack = const {
        Stack {
            len: Cell::new(0),
            first: [const { Place::empty() }; INLINE],
            more: ManuallyDrop::new(RefCell::new(Vec::new())),
            number: Cell::new(0),
        }
    };
}

impl Stack {
    #[inline]
    fn push(&self, entry: Entry) {
        let len = self.len.get();
        match self.first.get(len) {
            Some(cell) => cell.set(entry),
            None => self.push_more(entry.hold, entry.level, entry.place),
        }
        self.len.set(len + 1);
    }

    /// By parts, which fit into registers.
    #[cold]
    #[inline(never)]
    fn push_more(&self, hold: Hold, level: Option<&'static LevelInfo>, place: &'static Location<'static>) {
        self.more.borrow_mut().push(Entry { hold, level, place });
    }

    #[inline]
    fn pop(&self, hold: Hold) {
        let last = self.len.get().wrapping_sub(1);
        if self.first.get(last).is_some_and(|top| top.hold.get() == hold) {
            self.len.set(last);
        } else {
            self.take_out(hold);
        }
    }

    #[inline]
    fn change(&self, from: Hold, to: Hold) {
        match self.first.get(self.len.get().wrapping_sub(1)) {
            Some(top) if top.hold.get() == from => top.hold.set(to),
            _ => self.change_below(from, to),
        }
    }

    fn get(&self, at: usize) -> Option<Entry> {
        match self.first.get(at) {
            Some(cell) => Some(cell.get()),
            None => self.more.borrow().get(at - INLINE).copied(),
        }
    }

    fn set(&self, at: usize, entry: Entry) {
        match self.first.get(at) {
            Some(cell) => cell.set(entry),
            None => {
                if let Some(there) = self.more.borrow_mut().get_mut(at - INLINE) {
                    *there = entry;
                }
            }
        }
    }

    fn find(&self, hold: Hold) -> Option<usize> {
        (0..self.len.get()).rev().find(|at| self.get(*at).is_some_and(|entry| entry.hold == hold))
    }

    #[cold]
    fn change_below(&self, from: Hold, to: Hold) {
        if let Some(at) = self.find(from)
            && let Some(entry) = self.get(at)
        {
            self.set(at, Entry { hold: to, ..entry });
        }
    }

    #[cold]
    fn take_out(&self, hold: Hold) {
        let Some(at) = self.find(hold) else { return };
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

/// Whether this thread holds no lock.
#[inline]
pub(super) fn is_empty() -> bool {
    STACK.with(|stack| stack.len.get() == 0)
}

/// This thread has come to hold a lock.
#[inline]
pub(super) fn push(entry: Entry) {
    STACK.with(|stack| stack.push(entry));
}

/// It holds it no longer.
#[inline]
pub(super) fn pop(lock: usize, mode: Mode) {
    STACK.with(|stack| stack.pop(Hold::new(lock, mode)));
}

/// What it held otherwise it shares now.
#[inline]
pub(super) fn share(lock: usize) {
    STACK.with(|stack| stack.change(Hold::new(lock, Mode::Exclusive), Hold::new(lock, Mode::Shared)));
}

/// How many locks this thread holds.
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

/// In what way this thread holds a lock of this level; if it shares it, it does no more. What a lock of another level left
/// behind at that address is none of it.
pub(super) fn find(lock: usize, level: Option<&'static LevelInfo>) -> Option<Entry> {
    let find =
        |shares| look(|entry| (entry.is_of(lock, level) && entry.shares() == shares).then_some(*entry));
    find(false).or_else(|| find(true))
}

/// Whether this lock, which this thread holds otherwise than shared, is the last that it took. False also if it does not know.
#[inline]
pub(super) fn is_last(lock: usize) -> bool {
    STACK.with(|stack| {
        let top = stack.first.get(stack.len.get().wrapping_sub(1));
        top.is_some_and(|top| top.hold.get() == Hold::new(lock, Mode::Exclusive))
    })
}

/// This lock, which this thread holds otherwise than shared, and how many it held before it.
pub(super) fn find_own(lock: usize) -> Option<(usize, Entry)> {
    STACK.with(|stack| {
        let at = stack.find(Hold::new(lock, Mode::Exclusive))?;
        Some((at, stack.get(at)?))
    })
}

/// As which entry this thread shares a lock, or holds it otherwise.
pub(super) fn find_as(lock: usize, mode: Mode) -> Option<Entry> {
    STACK.with(|stack| stack.get(stack.find(Hold::new(lock, mode))?))
}

/// The first held one, from the last taken on, of which `says` says something.
pub(super) fn look<R>(mut says: impl FnMut(&Entry) -> Option<R>) -> Option<R> {
    look_by_place(|_, entry| says(entry))
}

/// The same; `says` is told how many were held before each, too.
pub(super) fn look_by_place<R>(mut says: impl FnMut(usize, &Entry) -> Option<R>) -> Option<R> {
    STACK.with(|stack| {
        (0..stack.len.get()).rev().find_map(|at| stack.get(at).and_then(|entry| says(at, &entry)))
    })
}

#[cold]
#[inline(never)]
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

    /// Locks that would lie at eight times their number.
    fn push(lock: usize, mode: Mode) {
        super::push(Entry::new(8 * lock, mode, None, Location::caller()));
    }

    fn pop(lock: usize, mode: Mode) {
        super::pop(8 * lock, mode);
    }

    fn shares(lock: usize) -> Option<bool> {
        find(8 * lock, None).map(|entry| entry.shares())
    }

    fn all() -> Vec<(usize, bool)> {
        let mut all = Vec::new();
        look(|entry| {
            all.push((entry.lock() / 8, entry.shares()));
            None::<()>
        });
        all.reverse();
        all
    }

    #[test]
    fn what_was_taken_last_need_not_be_given_back_first() {
        let many = INLINE + 5;
        (0..many).for_each(|lock| push(lock, Mode::Shared));
        assert_eq!(count(), many);
        // From the middle of the array, then of the rest, then all.
        let mut left: Vec<_> = (0..many).collect();
        for lock in [3, INLINE + 2, 0, INLINE, 7].into_iter().chain((0..many).rev()) {
            pop(lock, Mode::Shared);
            left.retain(|there| *there != lock);
            assert_eq!(all(), left.iter().map(|lock| (*lock, true)).collect::<Vec<_>>());
        }
        assert_eq!(count(), 0);
        STACK.with(|stack| assert_eq!(stack.more.borrow().capacity(), 0, "it would never be freed"));
    }

    #[test]
    fn one_lock_in_several_ways() {
        push(1, Mode::Shared);
        push(1, Mode::Upgradable);
        push(1, Mode::Shared);
        assert_eq!(shares(1), Some(false));
        share(8);
        assert_eq!((shares(1), count()), (Some(true), 3));
        pop(1, Mode::Shared);
        assert_eq!(all(), [(1, true); 2]);
        pop(1, Mode::Upgradable);
        assert_eq!(count(), 2, "what is not held is not given back");
        pop(1, Mode::Shared);
        pop(1, Mode::Shared);
        assert_eq!((count(), shares(1).is_none()), (0, true));
    }

    #[test]
    fn every_thread_has_a_number_of_its_own() {
        let mine = number();
        assert_eq!(mine, number());
        let other = crate::sync::thread::scope(|scope| scope.spawn(number).join().unwrap());
        assert!(mine != 0 && other != 0 && mine != other);
    }
}
