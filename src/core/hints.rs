//! Hints: where a thing is likely to be, by the hash of what it is called.
//!
//! Lock-free. A hint may have been forgotten, or be another's, or out of date: who follows one looks whether the thing is the
//! one that it wanted, and asks elsewhere if not. So nothing has to be kept right here, and a look is a few loads. (A cache that
//! is associative in sets, with what was told last in it.)
//!
//! | place | means | goes to |
//! |---|---|---|
//! | hash 0 | nothing is told | the next that is told |
//! | a hash, a thing | this was told of that hash; or the hash is still that of before; or, of two who told at once, the one's hash stands beside the other's thing | the next that is told and finds no better place |
//! | a hash, no thing | two things had this hash, and neither is told of (or a thing is on its way) | the next of another hash that finds no better place |
//!
//! Who tells at once may put one hash in two places. Who tells of it next clears the others.
//!
//! 1. *What is found was told*, of whatever hash: a thing is told in one store. Who finds it sees all that was done before it was
//!    told.
//! 2. *What is told stays*: it is not freed while there are hints. That is the promise of who tells.
//! 3. *Room is made without moving anything*: for more things there are new places, empty ones. A look goes on where it began,
//!    so the old places stay until the hints are dropped; each time there are twice as many, so all together they are
//!    no more than twice the last.

use crate::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use crate::sync::{Mutex, UnsafeCell, armed, ordering};
use std::fmt;
use std::ptr::NonNull;

/// How many places a hash has to choose from: what fits in one line of the cache.
const WAYS: usize = 4;
/// So many sets to begin with: one KiB.
const FIRST: usize = if cfg!(any(loom, shuttle)) { 1 } else { 16 };
/// No more than so many: 2 MiB.
const MOST: usize = 1 << 15;

/// See the head.
pub struct Hints<T> {
    sets: AtomicPtr<Sets<T>>,
    /// All that there are, the last one in use.
    all: Mutex<Vec<NonNull<Sets<T>>>>,
}

/// A power of two of them. The cell is for loom, which then sees whether who looks sees them made.
struct Sets<T>(UnsafeCell<Box<[Set<T>]>>);

#[repr(C, align(64))]
struct Set<T> {
    hashes: [AtomicU64; WAYS],
    things: [AtomicPtr<T>; WAYS],
}

// SAFETY: what is shared of a `T` is a pointer, and `all` is who made the sets. They are read only, but for atomics.
unsafe impl<T: Sync> Sync for Hints<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Send for Hints<T> {}

impl<T> fmt::Debug for Hints<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hints").finish_non_exhaustive()
    }
}

impl<T> Default for Hints<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Hints<T> {
    /// None.
    pub fn new() -> Self {
        let sets = Sets::of(FIRST);
        Hints { sets: AtomicPtr::new(sets.as_ptr()), all: Mutex::new(vec![sets]) }
    }

    /// What was told of this hash, if anything. See the head for what that means.
    #[inline]
    pub fn look(&self, hash: u64) -> Option<NonNull<T>> {
        self.with_set(hash, |set| {
            let is = |way: usize| set.hashes[way].load(Ordering::Relaxed) == hash;
            // Which place it is in is by chance, and a branch on it would be guessed wrong. (Of two places the sum may be a third.)
            let way = usize::from(is(1)) + 2 * usize::from(is(2)) + 3 * usize::from(is(3));
            let way = way % WAYS;
            if !is(way) {
                return None;
            }
            // ORDERING: Acquire pairs with the Release of `tell`: what was done to the thing before it was told.
            NonNull::new(set.things[way].load(ordering!(Acquire, mutant = "hints_look_relaxed")))
        })
    }

    /// Tells of a thing.
    ///
    /// # Safety
    ///
    /// The thing is not freed as long as these hints are used.
    pub unsafe fn tell(&self, hash: u64, thing: NonNull<T>) {
        self.with_set(hash, |set| {
            let hashes = set.hashes.each_ref().map(|hash| hash.load(Ordering::Relaxed));
            let same = hashes.iter().position(|&of| of == hash);
            let way = same.or_else(|| hashes.iter().position(|&of| of == 0)).unwrap_or((hash >> 62) as usize);
            for twin in (way + 1..WAYS).filter(|&twin| hashes[twin] == hash) {
                if !armed!(mutant = "hints_keep_twins") {
                    set.hashes[twin].store(0, Ordering::Relaxed);
                }
            }
            let there = set.things[way].load(Ordering::Relaxed);
            if same.is_some() && (there == thing.as_ptr() || there.is_null() && hash != 0) {
                return; // who looks has the line, and keeps it
            }
            // ORDERING: Release pairs with the Acquire of `look`.
            set.things[way].store(thing.as_ptr(), ordering!(Release, mutant = "hints_tell_relaxed"));
            set.hashes[way].store(hash, Ordering::Relaxed);
        });
    }

    /// Two things have this hash, of which this one was told: of neither anything is told until the place is another's, or room
    /// is made.
    pub fn avoid(&self, hash: u64, thing: NonNull<T>) {
        self.with_set(hash, |set| {
            for way in (0..WAYS).filter(|&way| set.hashes[way].load(Ordering::Relaxed) == hash) {
                let none = std::ptr::null_mut();
                if armed!(mutant = "hints_avoid_blindly") {
                    set.things[way].store(none, Ordering::Relaxed);
                }
                // Another may have taken the place since: its thing stays.
                let _ = set.things[way].compare_exchange(
                    thing.as_ptr(),
                    none,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
        });
    }

    /// Makes room for so many, forgetting what was told, if there is less.
    pub fn make_room(&self, things: usize) {
        let wanted = things.div_ceil(WAYS).next_power_of_two().min(MOST);
        if self.with_sets(|sets| sets.len()) >= wanted {
            return;
        }
        let mut all = self.all.lock();
        if self.with_sets(|sets| sets.len()) < wanted {
            let sets = Sets::of(wanted);
            all.push(sets);
            // ORDERING: Release pairs with the Acquire of `with_sets`: they are made before they are used.
            self.sets.store(sets.as_ptr(), ordering!(Release, mutant = "hints_room_relaxed"));
        }
    }

    #[inline]
    fn with_sets<R>(&self, f: impl FnOnce(&[Set<T>]) -> R) -> R {
        // ORDERING: Acquire pairs with the Release of `make_room`.
        let sets = self.sets.load(ordering!(Acquire, mutant = "hints_sets_relaxed"));
        // SAFETY: they are one of `all`, which are dropped with `self`.
        let sets = unsafe { &*sets };
        // SAFETY: nobody writes it, but its atomics.
        sets.0.with(|sets| f(unsafe { &*sets }))
    }

    #[inline]
    fn with_set<R>(&self, hash: u64, f: impl FnOnce(&Set<T>) -> R) -> R {
        self.with_sets(|sets| f(&sets[hash as usize & (sets.len() - 1)]))
    }
}

impl<T> Drop for Hints<T> {
    fn drop(&mut self) {
        for sets in self.all.lock().drain(..) {
            // SAFETY: it was made by `Box::into_raw`, is in no other list, and nobody looks any more.
            drop(unsafe { Box::from_raw(sets.as_ptr()) });
        }
    }
}

impl<T> Sets<T> {
    fn of(sets: usize) -> NonNull<Self> {
        let sets = std::iter::repeat_with(Set::empty).take(sets).collect();
        // SAFETY: no box points to null.
        unsafe { NonNull::new_unchecked(Box::into_raw(Box::new(Sets(UnsafeCell::new(sets))))) }
    }
}

impl<T> Set<T> {
    fn empty() -> Self {
        Set {
            hashes: std::array::from_fn(|_| AtomicU64::new(0)),
            things: std::array::from_fn(|_| AtomicPtr::new(std::ptr::null_mut())),
        }
    }
}
