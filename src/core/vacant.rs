//! Slots of a growing row that are nobody's, to be used again: stacks of their numbers.
//!
//! Lock-free: a take is two loads and one CAS, a put one CAS; it allocates nothing. Treiber's stack with the version
//! number in its head, as in [`shelf`](super::shelf), which is for a fixed row and holds values: here the row is the
//! caller's and grows, and the links lie in its slots. There are several stacks, so that threads that take and put at the
//! same time do so in different words: each has its *own* one, and takes from the others when that is empty.
//!
//! ```text
//!  63                    32 31            0
//! [ tag: changes so far : 32 | top slot : 32 ]
//! ```
//!
//! *Invariants.* A slot is in at most one stack, or it is of who has it: who took it, or who made it. What that one did to
//! the slot before it put it is seen by who takes it: all changes of a head are RMWs, so a load of it synchronises with each
//! put that came before.
//!
//! *Why a tag*, and why the links may be relaxed: see [`shelf`](super::shelf). A head does not come back unless exactly a
//! multiple of 2^32 changes fall between the load and the CAS of one taker.
//!
//! A take finds nothing only if each stack was empty when it was looked at; not at one moment. Then the caller makes a slot
//! more than was needed, which does no harm.

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{CachePadded, armed, ordering};

/// How many stacks there are: threads beyond that share.
pub const STACKS: usize = if cfg!(any(loom, shuttle)) { 2 } else { 16 };

/// The top of an empty stack, and the link of the last slot: no slot has this number.
const NONE: u32 = u32::MAX;
const TAG_ONE: u64 = 1 << 32;

/// One value of a head word.
#[derive(Clone, Copy)]
struct Head(u64);

impl Head {
    fn top(self) -> u32 {
        self.0 as u32
    }

    /// Another top, and the next tag, which wraps.
    fn with_top(self, top: u32) -> Head {
        let tag = if armed!(mutant = "vacant_without_tag") { 0 } else { TAG_ONE };
        Head((self.0 & !u64::from(NONE) | u64::from(top)).wrapping_add(tag))
    }
}

/// A slot's link to the next one in its stack.
#[derive(Debug)]
pub struct Link(AtomicU32);

impl Default for Link {
    fn default() -> Self {
        Link(AtomicU32::new(NONE))
    }
}

/// See the head of the file.
#[derive(Debug)]
pub struct Vacant([CachePadded<AtomicU64>; STACKS]);

impl Default for Vacant {
    fn default() -> Self {
        Self::new()
    }
}

impl Vacant {
    /// No slot.
    pub fn new() -> Self {
        Vacant(std::array::from_fn(|_| CachePadded::new(AtomicU64::new(NONE.into()))))
    }

    /// Takes a slot, from stack `own` (modulo their number) if there is one. `link` is the link of a slot.
    #[inline]
    pub fn take<'a>(&self, own: usize, link: impl Fn(u32) -> &'a Link) -> Option<u32> {
        (0..STACKS).find_map(|i| self.pop(&self.0[(own + i) % STACKS], &link))
    }

    /// Puts a slot, which the caller has, on stack `own` (modulo their number). The link is the slot's.
    #[inline]
    pub fn put(&self, own: usize, slot: u32, link: &Link) {
        let head = &self.0[own % STACKS];
        let mut old = Head(head.load(Ordering::Relaxed));
        loop {
            // Where loads are read-modify-writes, so is this: see `shelf`.
            if cfg!(loom_rmw_loads) {
                link.0.swap(old.top(), Ordering::Relaxed);
            } else {
                link.0.store(old.top(), Ordering::Relaxed);
            }
            let new = old.with_top(slot);
            // ORDERING: Release pairs with the Acquire in `pop`: who takes the slot sees what was done to it.
            let release = ordering!(Release, mutant = "vacant_put_relaxed");
            if armed!(mutant = "vacant_put_blind") {
                return head.store(new.0, release);
            }
            match head.compare_exchange_weak(old.0, new.0, release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => old = Head(now),
            }
        }
    }

    #[inline]
    fn pop<'a>(&self, head: &AtomicU64, link: impl Fn(u32) -> &'a Link) -> Option<u32> {
        // ORDERING: Acquire pairs with the Release of the puts before. Here and at the failed CAS; the CAS that succeeds
        // finds the value that was acquired already.
        let acquire = ordering!(Acquire, mutant = "vacant_take_relaxed");
        let mut old = Head(head.load(acquire));
        loop {
            let top = old.top();
            if top == NONE {
                return None;
            }
            let new = old.with_top(link(top).0.load(Ordering::Relaxed));
            if armed!(mutant = "vacant_take_blind") {
                head.store(new.0, Ordering::Release);
                return Some(top);
            }
            match head.compare_exchange_weak(old.0, new.0, Ordering::Relaxed, acquire) {
                Ok(_) => return Some(top),
                Err(now) => old = Head(now),
            }
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn the_own_stack_comes_first_and_then_the_others() {
        let (vacant, links) = (Vacant::new(), [(); 4].map(|()| Link::default()));
        let take = |own| vacant.take(own, |slot| &links[slot as usize]);
        let put = |own, slot: u32| vacant.put(own, slot, &links[slot as usize]);
        assert_eq!(take(0), None);
        put(0, 2);
        put(0, 1);
        put(STACKS + 5, 3);
        put(STACKS - 1, 0);
        assert_eq!(
            [take(5), take(5), take(0), take(STACKS), take(9)],
            [Some(3), Some(0), Some(1), Some(2), None]
        );
    }

    #[test]
    fn the_tag_wraps_without_touching_the_top() {
        let last = Head(u64::MAX << 32 | 7);
        assert_eq!((last.with_top(9).0, last.with_top(NONE).0), (9, NONE.into()));
    }
}
