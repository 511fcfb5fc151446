//! What a thread holds: one plain stack a thread, by which the order of locks is checked, and by which a lock's slow path finds
//! out that it would wait for itself.
//!
//! Not shared: only its own thread reads and writes it, so a lock costs a few stores here and no atomics. It has no
//! destructor, so there is no time in a thread's life at which it is gone. What goes beyond [`INLINE`] locks at a time is
//! on the heap, and freed when that is over.
//!
//! A lock that is in no order, and is not shared, has no entry: its word says which thread holds it (see `body.rs`; but for
//! threads without a number, and for holds that have none). So a thread whose stack is empty may hold such locks.
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

/// Locks that a thread holds without a heap allocation, beside the first.
const INLINE: usize = 15;

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
    /// No lock.
    const NONE: Hold = Hold(0);
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
        Place { hold: Cell::new(Hold::NONE), level: Cell::new(None), place: Cell::new(Location::caller()) }
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

/// What one thread holds, and its number. Each entry has a place, by which it is known what was taken since; what lies above
/// one that is taken out sinks by one.
///
/// The place of all, 0, is for the one that is taken when the thread has no entry, which is the common case: that one never
/// moves, so its end is a store, and it is not asked for before. (If the place were found by what was stored last,
/// a lock would wait for these stores to come back, four of them in a row.) It is empty while it is over and others that
/// came later are not.
#[repr(C, align(64))]
struct Stack {
    first: Place,
    /// How many there are beside the first; those beyond the array are in `more`.
    above: Cell<usize>,
    /// This thread's number in lock words; 0: none yet.
    number: Cell<u32>,
    array: [Place; INLINE],
    /// Without its destructor, so that the stack has none: it is empty when the thread holds few.
    more: ManuallyDrop<RefCell<Vec<Entry>>>,
}

thread_local! {
    static STACK: Stack = const {
        Stack {
            first: Place::empty(),
            above: Cell::new(0),
            array: [const { Place::empty() }; INLINE],
            more: ManuallyDrop::new(RefCell::new(Vec::new())),
            number: Cell::new(0),
        }
    };
}

impl Stack {
    #[inline]
    fn is_empty(&self) -> bool {
        self.first.hold.get() == Hold::NONE && self.above.get() == 0
    }

    /// The place of the next one.
    fn len(&self) -> usize {
        if self.is_empty() { 0 } else { 1 + self.above.get() }
    }

    fn push(&self, entry: Entry) -> bool {
        if self.is_empty() {
            self.first.set(entry);
            return true;
        }
        let above = self.above.get();
        match self.array.get(above) {
            Some(place) => place.set(entry),
            None => self.more.borrow_mut().push(entry),
        }
        self.above.set(above + 1);
        false
    }

    fn pop(&self, hold: Hold) {
        let last = self.above.get().wrapping_sub(1);
        if self.array.get(last).is_some_and(|top| top.hold.get() == hold) {
            self.above.set(last);
        } else {
            self.take_out(hold);
        }
    }

    fn get(&self, at: usize) -> Option<Entry> {
        let Some(above) = at.checked_sub(1) else {
            return Some(self.first.get()).filter(|first| first.hold != Hold::NONE);
        };
        match self.array.get(above) {
            Some(place) => Some(place.get()),
            None => self.more.borrow().get(above - INLINE).copied(),
        }
    }

    fn set(&self, at: usize, entry: Entry) {
        let Some(above) = at.checked_sub(1) else { return self.first.set(entry) };
        match self.array.get(above) {
            Some(place) => place.set(entry),
            None => {
                if let Some(there) = self.more.borrow_mut().get_mut(above - INLINE) {
                    *there = entry;
                }
            }
        }
    }

    fn find(&self, hold: Hold) -> Option<usize> {
        (0..self.len()).rev().find(|at| self.get(*at).is_some_and(|entry| entry.hold == hold))
    }

    fn change(&self, from: Hold, to: Hold) {
        if let Some(at) = self.find(from)
            && let Some(entry) = self.get(at)
        {
            self.set(at, Entry { hold: to, ..entry });
        }
    }

    #[cold]
    fn take_out(&self, hold: Hold) {
        let Some(at) = self.find(hold) else { return };
        if at == 0 {
            return self.first.hold.set(Hold::NONE);
        }
        let len = self.len();
        for above in at + 1..len {
            if let Some(entry) = self.get(above) {
                self.set(above - 1, entry);
            }
        }
        let above = self.above.get() - 1;
        self.above.set(above);
        if above >= INLINE {
            let mut more = self.more.borrow_mut();
            more.truncate(above - INLINE);
            if more.is_empty() {
                *more = Vec::new();
            }
        }
    }
}

/// Whether this thread has no entry.
#[inline]
pub(super) fn is_empty() -> bool {
    STACK.with(Stack::is_empty)
}

/// This thread has come to hold a lock. Whether the entry is the first: then [`pop_first`] is for it.
pub(super) fn push(entry: Entry) -> bool {
    STACK.with(|stack| stack.push(entry))
}

/// It holds it no longer.
pub(super) fn pop(lock: usize, mode: Mode) {
    STACK.with(|stack| stack.pop(Hold::new(lock, mode)));
}

/// As [`push`], for a thread that has no entry.
#[inline]
pub(super) fn push_first(entry: Entry) {
    STACK.with(|stack| {
        debug_assert!(stack.is_empty(), "not the first");
        stack.first.set(entry);
    });
}

/// As [`pop`], of what was pushed first.
#[inline]
pub(super) fn pop_first(lock: usize, mode: Mode) {
    STACK.with(|stack| {
        debug_assert_eq!(stack.first.hold.get(), Hold::new(lock, mode), "another's");
        stack.first.hold.set(Hold::NONE);
    });
}

/// What it held otherwise it shares now.
#[inline]
pub(super) fn share(lock: usize) {
    STACK.with(|stack| stack.change(Hold::new(lock, Mode::Exclusive), Hold::new(lock, Mode::Shared)));
}

/// The place in the order of what this thread holds that the next one will have.
pub(super) fn count() -> usize {
    STACK.with(Stack::len)
}

/// This thread's number in lock words. 0 for all threads after the sixteen-millionth.
#[inline]
pub(super) fn number() -> u32 {
    STACK.with(|stack| match stack.number.get() {
        0 => new_number(&stack.number),
        number => number,
    })
}

/// The same, if it has one by now; else 0.
#[inline]
pub(super) fn number_if_any() -> u32 {
    STACK.with(|stack| stack.number.get())
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
        let last = stack.above.get().wrapping_sub(1);
        let top = if last == usize::MAX { Some(&stack.first) } else { stack.array.get(last) };
        top.is_some_and(|top| top.hold.get() == Hold::new(lock, Mode::Exclusive))
    })
}

/// This lock, which this thread holds otherwise than shared, and its place in the order.
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

/// The same; `says` is told the place of each in the order, too.
pub(super) fn look_by_place<R>(mut says: impl FnMut(usize, &Entry) -> Option<R>) -> Option<R> {
    STACK.with(|stack| (0..stack.len()).rev().find_map(|at| stack.get(at).and_then(|entry| says(at, &entry))))
}

#[cold]
#[inline(never)]
fn new_number(cell: &Cell<u32>) -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    #[cfg(test)]
    if NUMBERLESS.get() {
        return 0;
    }
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
thread_local! {
    /// This thread comes after the sixteen-millionth.
    pub(super) static NUMBERLESS: Cell<bool> = const { Cell::new(false) };
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
        let many = INLINE + 6;
        (0..many).for_each(|lock| push(lock, Mode::Shared));
        assert_eq!(count(), many);
        // From the middle of the array, then of the rest, then all.
        let mut left: Vec<_> = (0..many).collect();
        for lock in [3, INLINE + 3, 0, INLINE + 1, 7].into_iter().chain((0..many).rev()) {
            pop(lock, Mode::Shared);
            left.retain(|there| *there != lock);
            assert_eq!(all(), left.iter().map(|lock| (*lock, true)).collect::<Vec<_>>());
        }
        assert_eq!(count(), 0);
        STACK.with(|stack| assert_eq!(stack.more.borrow().capacity(), 0, "it would never be freed"));
    }

    /// The first has a place of its own: it stays there, and the place is not used again before all are gone.
    #[test]
    fn the_first_one_does_not_move() {
        let entry = |lock: usize| Entry::new(8 * lock, Mode::Exclusive, None, Location::caller());
        push_first(entry(1));
        assert!(!is_empty() && is_last(8) && !super::push(entry(2)) && !super::push(entry(3)));
        assert!(is_last(24) && !is_last(8));
        assert_eq!((find_own(8).map(|(at, _)| at), find_own(24).map(|(at, _)| at)), (Some(0), Some(2)));
        pop_first(8, Mode::Exclusive);
        assert_eq!((all(), is_empty(), count()), (vec![(2, false), (3, false)], false, 3));
        assert!(!super::push(entry(4)));
        pop(2, Mode::Exclusive);
        assert_eq!((all(), count()), (vec![(3, false), (4, false)], 3));
        pop(4, Mode::Exclusive);
        pop(3, Mode::Exclusive);
        assert_eq!((is_empty(), count(), is_last(24)), (true, 0, false));
        assert!(super::push(entry(5)) && is_last(40));
        pop_first(40, Mode::Exclusive);
        assert!(is_empty());
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
