//! The earliest end of all leases: when a walk over them is worth while.
//!
//! Lock-free. One word:
//!
//! ```text
//!  63        62   36 35   0
//! [ walking | unused | tick ]
//! ```
//!
//! | walking | tick | means | who leaves it |
//! |---|---|---|---|
//! | 0 | t | no lease is over before t | `lower`: to less; `begin`: to walking |
//! | 1 | t | somebody looks at all leases; those that were entered since are not over before t | `lower`: to less; `end`: back, with what the walk found |
//!
//! *The bound is never late.* A walk may miss who enters beside it, so it may not take what it found for the whole. Who
//! enters publishes its lease, then lowers the word, by an RMW even if the word stays as it is:
//!
//! 1. The RMW comes before `begin`'s: the walk sees the lease (Release and Acquire on the word, whose RMWs are one release
//!    sequence).
//! 2. It comes between `begin` and `end`: `end` takes the less of both.
//! 3. It comes after `end`: it lowers what the walk found.
//!
//! While a walk is under way the bound is zero: too early does no harm, it makes others look.
//!
//! *One walks at a time*: a second would begin with what the first is about to write. Its caller sees to that.

use super::lease::NEVER;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{armed, ordering};

const WALKING: u64 = 1 << 63;

/// See the head of the file. Ticks are of the caller's choice, up to [`NEVER`].
#[derive(Debug)]
pub struct Soonest(AtomicU64);

impl Default for Soonest {
    fn default() -> Self {
        Self::new()
    }
}

impl Soonest {
    /// Nothing ends.
    pub fn new() -> Self {
        Self(AtomicU64::new(NEVER))
    }

    /// The tick before which no lease is over; [`NEVER`]: none ever is.
    #[inline]
    pub fn bound(&self) -> u64 {
        // Relaxed: a reader that sees an older bound than who enters now is woken by it (`lower` says so).
        match self.0.load(Ordering::Relaxed) {
            word if word & WALKING != 0 => 0,
            tick => tick,
        }
    }

    /// A lease that was published, or moved, is over at `tick`. True: before all others, and who sleeps by the bound has to
    /// be told. (While somebody walks nobody does: the bound is zero, and was not above now before.)
    pub fn lower(&self, tick: u64) -> bool {
        if tick >= NEVER {
            return false;
        }
        let mut old = self.0.load(Ordering::Relaxed);
        loop {
            let (walking, least) = (old & WALKING, old & !WALKING);
            if armed!(mutant = "soonest_lower_looks_first") && least <= tick {
                return false;
            }
            // ORDERING: Release pairs with the Acquire of `begin`: the walk sees the lease.
            let release = ordering!(Release, mutant = "soonest_lower_relaxed");
            match self.0.compare_exchange(old, walking | least.min(tick), release, Ordering::Relaxed) {
                Ok(_) => return walking == 0 && least > tick,
                Err(now) if now & !WALKING < least && armed!(mutant = "soonest_lower_defers") => {
                    return false;
                }
                Err(now) => old = now,
            }
        }
    }

    /// A walk begins: after this the leases are looked at.
    pub fn begin(&self) {
        let word = if armed!(mutant = "soonest_walk_unseen") { NEVER } else { WALKING | NEVER };
        // ORDERING: Acquire pairs with the Release of `lower`.
        self.0.swap(word, ordering!(Acquire, mutant = "soonest_begin_relaxed"));
    }

    /// The walk is over, and the earliest end that it found is `next`.
    pub fn end(&self, next: u64) {
        let mut old = self.0.load(Ordering::Relaxed);
        loop {
            let entered = if armed!(mutant = "soonest_end_overwrites") { NEVER } else { old & !WALKING };
            if armed!(mutant = "soonest_end_by_store") {
                self.0.swap(entered.min(next), Ordering::Relaxed);
                return;
            }
            // Relaxed: it publishes nothing; as an RMW it carries the release sequences of who lowered on.
            match self.0.compare_exchange(old, entered.min(next), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_all_is_kept_and_a_walk_is_early() {
        let soonest = Soonest::new();
        assert!(!soonest.lower(NEVER) && soonest.lower(30) && soonest.lower(20) && !soonest.lower(20));
        assert_eq!(soonest.bound(), 20);
        soonest.begin();
        assert!(!soonest.lower(40));
        assert_eq!(soonest.bound(), 0);
        soonest.end(50);
        assert_eq!(soonest.bound(), 40);
        soonest.begin();
        soonest.end(NEVER);
        assert_eq!(soonest.bound(), NEVER);
    }
}
