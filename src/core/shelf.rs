//! A shelf of a fixed number of slots: values are put on it and taken from it, the last one first.
//!
//! Lock-free: a take is two loads and one CAS, a put one CAS; it allocates nothing after `new`. Two stacks of slots
//! linked by their numbers, the *shelved* and the *vacant* ones (Treiber, "Systems Programming: Coping with
//! Parallelism", IBM, 1986, with the version number in the head that he gives it), each with one head word:
//!
//! ```text
//!  63                    32     31      30      16 15         0
//! [ tag: changes so far : 32 | closed : 1 | length : 15 | top slot : 16 ]
//! ```
//!
//! A slot is in one of three states. What is out is a [`Place`], which has one holder and cannot be copied.
//!
//! | slot | value | who may touch the value | goes to |
//! |---|---|---|---|
//! | vacant | none | nobody | out, by [`claim`](Shelf::claim) |
//! | out | none | the holder of its place | shelved, by [`put`](Shelf::put); vacant, by [`vacate`](Shelf::vacate) |
//! | shelved | some | nobody | out, by [`take`](Shelf::take): with the value, which the winner of the CAS moves out |
//!
//! A [closed](Shelf::close) shelf takes no more values: a put hands its value back, and the slot stays out. What is on
//! it can still be taken, so who closes it and then takes until there is none leaves none behind: the mark and the top
//! are one word, and a put comes before the mark, then the taker sees it, or after, then it is refused.
//!
//! A value that was taken keeps its slot reserved: to put it back needs no room, and touches one head only.
//!
//! *Invariants.* Each slot is in exactly one stack or out as exactly one place. A slot has a value iff it is shelved. The
//! length in the head is the number of slots in its stack.
//!
//! *Why a tag.* A taker loads the head (top A), then A's successor B, then makes B the top by CAS. In between others may
//! take A and B, put C and put A back: the top is A again, and the length is the same, but A's successor is C; the CAS
//! would make B the top, which is out. The tag counts the changes, so a head does not come back, unless exactly a
//! multiple of 2^32 changes fall between the load and the CAS of one taker.
//!
//! *Why one `Acquire` suffices.* All changes of a head are RMWs, so a load of it synchronises with each put that came
//! before. Successors are relaxed: the value that is read is that of the put which the head's load has acquired, or a
//! later one; if later, the slot was taken since, the head has changed, and the CAS fails.

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{CachePadded, UnsafeCell, armed, ordering};
use std::fmt;

/// The greatest number of slots.
pub const MAX_SLOTS: usize = LEN_BITS as usize;

const TOP_BITS: u64 = 0xffff;
const LEN_SHIFT: u32 = 16;
const LEN_ONE: u64 = 1 << LEN_SHIFT;
const LEN_BITS: u64 = 0x7fff;
const CLOSED: u64 = 1 << 31;
const TAG_ONE: u64 = 1 << 32;
/// The top of an empty stack, and the successor of the last slot.
const NONE: u16 = u16::MAX;

/// One value of a head word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Head(u64);

impl Head {
    const EMPTY: Head = Head(NONE as u64);

    fn top(self) -> Option<u16> {
        let top = (self.0 & TOP_BITS) as u16;
        (top != NONE).then_some(top)
    }

    fn len(self) -> u16 {
        (self.0 >> LEN_SHIFT & LEN_BITS) as u16
    }

    fn closed(self) -> bool {
        self.0 & CLOSED != 0
    }

    fn with(self, slot: u16) -> Head {
        self.changed(slot, self.0 + LEN_ONE)
    }

    fn without_top(self, next: u16) -> Head {
        self.changed(next, self.0 - LEN_ONE)
    }

    /// `word` with another top and the next tag, which wraps.
    fn changed(self, top: u16, word: u64) -> Head {
        let tag = if armed!(mutant = "shelf_without_tag") { 0 } else { TAG_ONE };
        Head((word & !TOP_BITS | u64::from(top)).wrapping_add(tag))
    }
}

struct Slot<T> {
    /// The slot below, in whichever stack it is.
    next: AtomicU32,
    value: UnsafeCell<Option<T>>,
}

/// A slot that is its holder's: reserved, and empty. To drop one loses the slot for good.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a place that is dropped is lost to its shelf"]
pub struct Place(u16);

impl Place {
    /// The slot's number, from 0.
    #[inline]
    pub fn slot(&self) -> usize {
        usize::from(self.0)
    }
}

/// See the head of this file.
pub struct Shelf<T> {
    slots: Box<[Slot<T>]>,
    shelved: CachePadded<AtomicU64>,
    vacant: CachePadded<AtomicU64>,
}

// SAFETY: a value is touched by the holder of its slot's place alone, and comes to it through the Release of a put and
// the Acquire of a take; it may be dropped or used in another thread than the one that made it, hence `T: Send`. No
// two threads ever have a reference to the same value, hence no `T: Sync`.
unsafe impl<T: Send> Sync for Shelf<T> {}

impl<T> Shelf<T> {
    /// A shelf of so many slots, all vacant; more than [`MAX_SLOTS`] are cut to that.
    pub fn new(slots: usize) -> Self {
        let slots = slots.min(MAX_SLOTS) as u16;
        let below = |slot| if slot + 1 < slots { slot + 1 } else { NONE };
        let all = |slot| Slot { next: AtomicU32::new(below(slot).into()), value: UnsafeCell::new(None) };
        let vacant = match slots {
            0 => Head::EMPTY,
            _ => Head(u64::from(slots) << LEN_SHIFT),
        };
        Self {
            slots: (0..slots).map(all).collect(),
            shelved: CachePadded::new(AtomicU64::new(Head::EMPTY.0)),
            vacant: CachePadded::new(AtomicU64::new(vacant.0)),
        }
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// How many values are on it.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(Head(self.shelved.load(Ordering::Relaxed)).len())
    }

    /// How many values are on it, for who sleeps until there is one: who puts one after this sees what the caller did
    /// before it. (The count of the head's changes does not move.)
    pub fn look(&self) -> usize {
        // ORDERING: Release pairs with the Acquire of a put. The RMWs of a head follow one another, and carry it on.
        let release = ordering!(Release, mutant = "shelf_look_relaxed");
        if armed!(mutant = "shelf_look_by_load") {
            return self.len();
        }
        usize::from(Head(self.shelved.fetch_or(0, release)).len())
    }

    /// Whether no value is on it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many slots are vacant.
    pub fn vacant(&self) -> usize {
        usize::from(Head(self.vacant.load(Ordering::Relaxed)).len())
    }

    /// Reserves a vacant slot. `None`: each one is shelved or out.
    pub fn claim(&self) -> Option<Place> {
        self.pop(&self.vacant)
    }

    /// Puts a value into a reserved slot, for the next to take.
    ///
    /// # Errors
    ///
    /// It is closed; place and value are the caller's as before.
    ///
    /// # Safety
    ///
    /// The place is of this shelf.
    #[inline]
    pub unsafe fn put(&self, place: Place, value: T) -> Result<(), (Place, T)> {
        // SAFETY: the place is of this shelf, so its holder, who is the caller, is alone with the slot.
        self.slots[place.slot()].value.with_mut(|slot| unsafe { *slot = Some(value) });
        // ORDERING: Release pairs with the Acquire in `pop`: who takes the value sees it whole. Acquire pairs with the
        // Release of `look`: who looked before has been heard.
        let both = ordering!(AcqRel, mutant = "shelf_put_relaxed");
        let order = if armed!(mutant = "shelf_put_hears_nobody") { Ordering::Release } else { both };
        match self.push(&self.shelved, place, order) {
            Ok(()) => Ok(()),
            // Nothing was published.
            Err(place) => Err(self.emptied(place)),
        }
    }

    /// Takes the value that was put last, and its slot with it.
    #[inline]
    pub fn take(&self) -> Option<(Place, T)> {
        self.pop(&self.shelved).map(|place| self.emptied(place))
    }

    /// Refuses values from now on. What is there can be taken.
    pub fn close(&self) {
        if armed!(mutant = "shelf_close_overwrites") {
            self.shelved.swap(self.shelved.load(Ordering::Relaxed) | CLOSED, Ordering::AcqRel);
            return;
        }
        // Relaxed: as an RMW it carries the putters' release sequence on.
        self.shelved.fetch_or(CLOSED, Ordering::Relaxed);
    }

    /// Whether it was closed.
    #[inline]
    pub fn is_closed(&self) -> bool {
        Head(self.shelved.load(Ordering::Relaxed)).closed()
    }

    /// Moves the value out of a slot that the caller alone has, and that has one.
    #[inline]
    fn emptied(&self, place: Place) -> (Place, T) {
        // SAFETY: the place is the caller's, and no other thread touches its slot.
        let value = self.slots[place.slot()].value.with_mut(|slot| unsafe { (*slot).take() });
        (place, value.expect("a slot has a value from its put to its take"))
    }

    /// Gives a reserved slot up.
    ///
    /// # Safety
    ///
    /// The place is of this shelf.
    pub unsafe fn vacate(&self, place: Place) {
        // ORDERING: Release pairs with the Acquire in `pop`: the value was moved out before another is put in.
        let vacated = self.push(&self.vacant, place, ordering!(Release, mutant = "shelf_vacate_relaxed"));
        debug_assert!(vacated.is_ok(), "only the shelved stack is ever closed");
    }

    #[inline]
    fn push(&self, stack: &AtomicU64, place: Place, order: Ordering) -> Result<(), Place> {
        let mut old = Head(stack.load(Ordering::Relaxed));
        let mut refused = old.closed();
        let slot = place.0;
        loop {
            if refused {
                return Err(place);
            }
            let below = (old.0 & TOP_BITS) as u32;
            let next = &self.slots[usize::from(slot)].next;
            // Where loads are read-modify-writes, so is this: loom does not order a plain store after the RMW whose value
            // it overwrites, and would raise a false alarm.
            if cfg!(loom_rmw_loads) {
                next.swap(below, Ordering::Relaxed);
            } else {
                next.store(below, Ordering::Relaxed);
            }
            let new = old.with(slot);
            if armed!(mutant = "shelf_push_blind") {
                stack.store(new.0, Ordering::Release);
                return Ok(());
            }
            match stack.compare_exchange_weak(old.0, new.0, order, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => old = Head(now),
            }
            refused = old.closed() && !armed!(mutant = "shelf_close_seen_first_only");
        }
    }

    #[inline]
    fn pop(&self, stack: &AtomicU64) -> Option<Place> {
        // ORDERING: Acquire pairs with the Release of the puts (or vacatings) before: see the head. Here and at the
        // failed CAS; the CAS that succeeds finds the value that was acquired already.
        let acquire = ordering!(Acquire, mutant = "shelf_pop_relaxed");
        let again = if armed!(mutant = "shelf_pop_again_relaxed") { Ordering::Relaxed } else { acquire };
        let mut old = Head(stack.load(acquire));
        loop {
            let top = old.top()?;
            let next = self.slots[usize::from(top)].next.load(Ordering::Relaxed) as u16;
            let new = old.without_top(next);
            let claims = std::ptr::eq(stack, &*self.vacant);
            let (pops, claims_blindly) =
                (armed!(mutant = "shelf_pop_blind"), armed!(mutant = "shelf_claim_blind"));
            let blind = if claims { claims_blindly } else { pops };
            if blind {
                stack.store(new.0, Ordering::Release);
                return Some(Place(top));
            }
            match stack.compare_exchange_weak(old.0, new.0, Ordering::Relaxed, again) {
                Ok(_) => return Some(Place(top)),
                Err(_) if armed!(mutant = "shelf_pop_looks_once") => return None,
                Err(now) => old = Head(now),
            }
        }
    }
}

impl<T> fmt::Debug for Shelf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf")
            .field("slots", &self.slots())
            .field("len", &self.len())
            .field("vacant", &self.vacant())
            .finish()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::rc::Rc;

    fn put<T>(shelf: &Shelf<T>, place: Place, value: T) {
        // SAFETY: each test has one shelf.
        assert!(unsafe { shelf.put(place, value) }.is_ok());
    }

    #[test]
    fn a_closed_shelf_hands_back_what_is_put_and_gives_what_it_has() {
        let shelf = Shelf::new(2);
        put(&shelf, shelf.claim().unwrap(), 1);
        let place = shelf.claim().unwrap();
        shelf.close();
        assert!(shelf.is_closed());
        // SAFETY: there is one shelf.
        let (place, value) = unsafe { shelf.put(place, 2) }.unwrap_err();
        assert_eq!((place.slot(), value, shelf.len()), (1, 2, 1));
        // SAFETY: as above.
        unsafe { shelf.vacate(place) };
        assert_eq!(shelf.take().unwrap().1, 1);
        assert_eq!((shelf.take(), shelf.vacant(), shelf.is_closed()), (None, 1, true));
    }

    #[test]
    fn the_last_one_put_is_taken_first() {
        let shelf = Shelf::new(3);
        for value in 0..3 {
            put(&shelf, shelf.claim().unwrap(), value);
        }
        assert_eq!((shelf.claim(), shelf.len(), shelf.vacant()), (None, 3, 0));
        let (place, value) = shelf.take().unwrap();
        assert_eq!(value, 2);
        put(&shelf, place, 7);
        let values: Vec<_> = std::iter::from_fn(|| shelf.take()).map(|(_, value)| value).collect();
        assert_eq!(values, [7, 1, 0]);
        assert!(shelf.is_empty());
    }

    #[test]
    fn slots_are_counted_and_cut_to_the_greatest_number() {
        let none = Shelf::<u8>::new(0);
        assert!(none.claim().is_none() && none.take().is_none());
        let shelf = Shelf::<u8>::new(usize::MAX);
        assert_eq!((shelf.slots(), shelf.vacant()), (MAX_SLOTS, MAX_SLOTS));
        let mut seen = vec![false; MAX_SLOTS];
        while let Some(place) = shelf.claim() {
            assert!(!std::mem::replace(&mut seen[place.slot()], true));
            put(&shelf, place, 0);
        }
        assert_eq!((shelf.len(), shelf.vacant()), (MAX_SLOTS, 0));
        assert!(seen.into_iter().all(|seen| seen));
    }

    #[test]
    fn the_tag_wraps_without_touching_the_rest() {
        let last = Head(u64::MAX - TOP_BITS - LEN_ONE + 5);
        assert_eq!((last.len(), last.top(), last.closed()), (0x7ffe, Some(5), true));
        let next = last.with(9);
        assert_eq!((next.len(), next.top(), next.closed(), next.0 >> 32), (0x7fff, Some(9), true, 0));
        let next = next.without_top(NONE);
        assert_eq!((next.len(), next.top(), next.closed(), next.0 >> 32), (0x7ffe, None, true, 1));
    }

    #[test]
    fn what_is_left_is_dropped_with_the_shelf() {
        let value = Rc::new(());
        let shelf = Shelf::new(2);
        put(&shelf, shelf.claim().unwrap(), value.clone());
        put(&shelf, shelf.claim().unwrap(), value.clone());
        drop(shelf.take());
        assert_eq!(Rc::strong_count(&value), 2);
        drop(shelf);
        assert_eq!(Rc::strong_count(&value), 1);
    }

    proptest! {
        /// Against a plain stack and a count of vacant slots.
        #[test]
        fn it_is_a_stack(slots in 0_usize..6, steps in proptest::collection::vec(0_u8..4, 0..200)) {
            let shelf = Shelf::new(slots);
            let (mut stack, mut out) = (Vec::new(), Vec::new());
            for (i, step) in steps.into_iter().enumerate() {
                match step {
                    0 => {
                        let place = shelf.claim();
                        prop_assert_eq!(place.is_some(), stack.len() + out.len() < slots);
                        out.extend(place);
                    }
                    1 => match shelf.take() {
                        Some((place, value)) => {
                            prop_assert_eq!(Some(value), stack.pop());
                            out.push(place);
                        }
                        None => prop_assert!(stack.is_empty()),
                    },
                    2 => if let Some(place) = out.pop() {
                        stack.push(i);
                        put(&shelf, place, i);
                    },
                    // SAFETY: the only shelf here.
                    _ => if !out.is_empty() { unsafe { shelf.vacate(out.remove(0)) } },
                }
                prop_assert_eq!(shelf.len(), stack.len());
                prop_assert_eq!(shelf.vacant(), slots - stack.len() - out.len());
            }
        }
    }
}
