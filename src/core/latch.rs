//! A latch for a few dozen instructions: one read-modify-write to take it, a plain store to let it go.
//!
//! Blocking. Source: test and test-and-set (Rudolph and Segall, "Dynamic Decentralized Cache Schemes for MIMD Parallel
//! Processors", ISCA 1984), with pauses that double (Anderson, "The Performance of Spin Lock Alternatives for
//! Shared-Memory Multiprocessors", IEEE TPDS 1990).
//!
//! | word | meaning | who leaves it |
//! |---|---|---|
//! | `FREE` | nobody is inside | who wants in, by a CAS: to `TAKEN` |
//! | `TAKEN` | one is inside | the one inside, by a store: to `FREE`, also when it unwinds |
//!
//! *Why beside [`Mutex`](crate::sync::Mutex).* A lock that puts its waiters to sleep has to learn, when it is let go, whether
//! anybody sleeps: a second read-modify-write, which costs as much as what is done under it. Here nobody is ever woken. Who
//! finds it taken spins, for it is free in a moment; then the holder has been taken off its processor, or does something
//! long, and the waiter gives up its own; then it naps. The naps are not for saving power: a waiter of a higher real-time
//! priority than the holder could give up its processor for ever and get it back each time.
//!
//! So it is for what is short and often, where a wait that is up to a nap too long does no harm. Not fair.
//!
//! [`Latches`] are many, each with a part of what belongs together. Who has one may read what is alike in all of them: a change
//! of it takes all, in their order, before it writes the first, and lets none go before it has written the last. So for who has
//! any of them, a change has happened as a whole or not at all; and what a change reads while it has all (a clock, say) is
//! later than what anybody read before it took a latch in which the change is not there yet. (Who takes all is alone in that,
//! or waits with the first of those that it has not; who takes one waits for no other: no circle.)
//!
//! *Invariant.* The value is touched by the holder of the guard alone; there is one guard at a time, for between two CASes
//! that found `FREE` the one that came first has written it.

use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{CachePadded, UnsafeCell, armed, hint, ordering};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

const FREE: u32 = 0;
const TAKEN: u32 = 1;

/// Pauses of a spin before the holder counts as away: 1 + 2 + … + 64 of them, some microseconds.
#[cfg(not(any(loom, shuttle)))]
const SPINS: u32 = 7;
/// Up to here the processor is offered to it, which is enough where it waits for this very one.
#[cfg(not(any(loom, shuttle)))]
const OFFERS: u32 = SPINS + 16;
/// Then so long a sleep, again and again: about what a sleep takes at the least.
#[cfg(not(any(loom, shuttle)))]
const NAP: std::time::Duration = std::time::Duration::from_micros(50);

/// See the head of the file.
#[derive(Default)]
pub struct Latch<T> {
    word: Word,
    value: UnsafeCell<T>,
}

#[derive(Debug)]
struct Word(AtomicU32);

impl Default for Word {
    fn default() -> Self {
        Word(AtomicU32::new(FREE))
    }
}

// SAFETY: one thread at a time has the value, and sees what the one before it did: the Acquire of the CAS that took the
// latch pairs with the Release of the store that let it go. It moves between threads, hence `T: Send`; no two threads have
// a reference to it at once, hence no `T: Sync`.
unsafe impl<T: Send> Sync for Latch<T> {}

/// Who is inside; dropping it lets the latch go.
#[must_use = "the latch is let go when the guard is dropped"]
pub struct LatchGuard<'a, T> {
    latch: &'a Latch<T>,
    /// It is let go where it was taken, as any guard.
    _here: PhantomData<*mut T>,
}

impl<T> Latch<T> {
    /// Free.
    pub fn new(value: T) -> Self {
        Latch { word: Word::default(), value: UnsafeCell::new(value) }
    }

    /// Waits until nobody is inside.
    #[inline(always)]
    pub fn lock(&self) -> LatchGuard<'_, T> {
        self.word.lock();
        LatchGuard { latch: self, _here: PhantomData }
    }
}

/// See the head of the file.
#[derive(Debug)]
pub struct Latches<T>(Box<[CachePadded<Latch<T>>]>);

/// Who is inside all of them; dropping it lets them go.
#[must_use = "the latches are let go when the guard is dropped"]
pub struct AllGuard<'a, T> {
    latches: &'a Latches<T>,
    _here: PhantomData<*mut T>,
}

impl<T> Latches<T> {
    /// `2^bits` of them, free.
    pub fn new(bits: u32, make: impl FnMut() -> T) -> Self {
        Latches(
            std::iter::repeat_with(make)
                .take(1 << bits)
                .map(|value| CachePadded::new(Latch::new(value)))
                .collect(),
        )
    }

    /// The one of this number, counted round and round.
    #[inline(always)]
    pub fn one(&self, number: usize) -> &Latch<T> {
        &self.0[number & (self.0.len() - 1)]
    }

    /// Takes one after the other and lets each go before the next.
    pub fn each(&self) -> impl Iterator<Item = LatchGuard<'_, T>> {
        self.0.iter().map(|latch| latch.lock())
    }

    /// Waits until nobody is inside any of them.
    pub fn all(&self) -> AllGuard<'_, T> {
        for latch in &self.0 {
            latch.word.lock();
            if armed!(mutant = "latch_all_one_by_one") {
                latch.word.0.store(FREE, Ordering::Release);
            }
        }
        AllGuard { latches: self, _here: PhantomData }
    }
}

impl<T> AllGuard<'_, T> {
    /// Each value.
    pub fn values(&mut self, mut f: impl FnMut(&mut T)) {
        for latch in &self.latches.0 {
            // SAFETY: who has the guard is alone inside each, and it is borrowed exclusively while `f` runs.
            latch.value.with_mut(|value| f(unsafe { &mut *value }));
        }
    }
}

impl<T> Drop for AllGuard<'_, T> {
    fn drop(&mut self) {
        self.latches.0.iter().for_each(|latch| latch.word.let_go());
    }
}

impl Word {
    #[inline(always)]
    fn lock(&self) {
        if !self.take() {
            self.wait();
        }
    }

    #[inline(always)]
    fn let_go(&self) {
        // ORDERING: Release pairs with the Acquire in `take`.
        self.0.store(FREE, ordering!(Release, mutant = "latch_release_relaxed"));
    }

    /// Whether it was free and is the caller's now.
    #[inline(always)]
    fn take(&self) -> bool {
        if armed!(mutant = "latch_looks_first") {
            let free = self.0.load(Ordering::Acquire) == FREE;
            self.0.store(TAKEN, Ordering::Relaxed);
            return free;
        }
        // ORDERING: Acquire pairs with the Release in `let_go`. Not a swap: a failed one would write, which loom cannot order
        // before the plain store of who lets go.
        let acquire = ordering!(Acquire, mutant = "latch_take_relaxed");
        self.0.compare_exchange(FREE, TAKEN, acquire, Ordering::Relaxed).is_ok()
    }

    #[cold]
    #[inline(never)]
    fn wait(&self) {
        let mut tries = 0;
        loop {
            pause(tries);
            tries = tries.saturating_add(1);
            // A look first: a CAS that fails pulls the line away from the holder too.
            if self.0.load(Ordering::Relaxed) == FREE && self.take() {
                return;
            }
        }
    }
}

/// Under the models each is one scheduling point.
#[cfg(any(loom, shuttle))]
fn pause(_: u32) {
    hint::spin_loop();
}

#[cfg(not(any(loom, shuttle)))]
fn pause(tries: u32) {
    match tries {
        0..SPINS => (0..1 << tries).for_each(|_| hint::spin_loop()),
        SPINS..OFFERS => crate::sync::thread::yield_now(),
        _ => {
            // A parker of its own: the thread's own one may have a token in it that is not ours to take.
            crate::sync::Parker::new().park_timeout(NAP);
        }
    }
}

impl<T> Deref for LatchGuard<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: who has the guard is alone inside, and the reference lives no longer than the guard.
        unsafe { &*self.latch.value.with_mut(|value| value) }
    }
}

impl<T> DerefMut for LatchGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed exclusively.
        unsafe { &mut *self.latch.value.with_mut(|value| value) }
    }
}

impl<T> Drop for LatchGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.latch.word.let_go();
    }
}

impl<T> fmt::Debug for Latch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latch").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for LatchGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LatchGuard").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for AllGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AllGuard").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::sync::thread;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn no_addition_is_lost() {
        let latch = Latch::new(0u64);
        thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| (0..20_000).for_each(|_| *latch.lock() += 1));
            }
        });
        assert_eq!(*latch.lock(), 80_000);
    }

    #[test]
    fn who_unwinds_lets_go() {
        let latch = Latch::new(1);
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let mut inside = latch.lock();
            *inside = 2;
            panic!("inside");
        }));
        assert!(unwound.is_err());
        assert_eq!(*latch.lock(), 2);
    }

    /// Long enough for a waiter to go through its spins and offers, and nap.
    #[test]
    fn a_long_hold_is_waited_for() {
        let latch = Latch::new(());
        let held = latch.lock();
        thread::scope(|s| {
            let waiter = s.spawn(|| drop(latch.lock()));
            crate::sync::Parker::new().park_timeout(NAP * 40);
            assert!(!waiter.is_finished());
            drop(held);
        });
    }
}
