//! Lanes' numbers that are used again: a hint that is cleared after a look at one lane may have been set for its
//! successor.
//!
//! Wait-free but for the marking of a hint. A number (a bit in the [ready set](crate::core::ready)) stands for one lane
//! after another, its *tenants*. A worker finds a hint, looks at the tenant, sees nothing to do and clears the hint;
//! meanwhile the tenant may have left, and the next one been pushed to and marked. The worker clears that mark and
//! reads the word of the lane it looked at, as [`ReadySet::clear`] does: not the word that the mark was about. The new
//! lane would wait, ready, for a mark that nobody makes: who makes a word ready marks once.
//!
//! So tenants are counted, and who clears compares: the count before its look with the count after its clearing. If
//! another has moved in, the hint is set again, on suspicion. (A hint too many costs one look.) This is the rule of
//! version counters against ABA; the count is 64 bits wide and does not wrap.
//!
//! The worker counts (1), finds the tenant (2), clears (3), counts again (4). Who moves in is made findable (a), counts
//! up (b), and only then may its word become ready and be marked (c). Against a mark that (3) cleared, so that (3) read
//! it, with all before it:
//!
//! 1. (1) came before (b): (4) sees (b), since (c) and what came before it are seen. The counts differ, the hint is set.
//! 2. (1) came after (b): then (2) found the new tenant, since (a) came before (b), and `clear` read its word.
//!
//! With (a) after (b), a worker could count the new tenant, find none or the old one, and clear the new one's mark
//! for good.

use crate::core::laneword::LaneWord;
use crate::core::ready::{MAX_LANES, ReadySet};
use crate::sync::armed;
use crate::sync::atomic::{AtomicU64, Ordering};

/// How many tenants each number has had.
#[derive(Debug)]
pub struct Tenancy([AtomicU64; MAX_LANES]);

/// A count of tenants, before a look at the one that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenant(u64);

impl Default for Tenancy {
    fn default() -> Self {
        Self::new()
    }
}

impl Tenancy {
    /// No number has had a tenant.
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// A lane moves in: `publish` makes it findable under its number. It must not be ready before this returns.
    pub fn move_in(&self, lane: usize, publish: impl FnOnce()) {
        if armed!(mutant = "tenancy_counted_before_published") {
            self.0[lane].fetch_add(1, Ordering::AcqRel);
            return publish();
        }
        publish();
        // ORDERING: Release pairs with the Acquire in `at`: who counts the new tenant finds it.
        self.0[lane].fetch_add(1, Ordering::AcqRel);
    }

    /// Who has the number, to be read before the look at him.
    #[inline]
    pub fn at(&self, lane: usize) -> Tenant {
        // ORDERING: Acquire: case 2.
        Tenant(self.0[lane].load(Ordering::Acquire))
    }

    /// Clears a hint after a look at the lane that had the number then, whose word this is. [`ReadySet::clear`], and the
    /// hint stays if another has moved in since.
    pub fn forget(&self, ready: &ReadySet, lane: usize, class: usize, word: &LaneWord, then: Tenant) {
        ready.clear(lane, class, word);
        // The clearing has acquired the marks it cleared, and with them the counting of who was marked: case 1.
        if self.at(lane) != then && !armed!(mutant = "tenancy_never_compared") {
            ready.mark(lane, class);
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    /// The successor is marked between the look at its predecessor and the clearing.
    #[test]
    fn a_successors_hint_stays() {
        let (tenancy, ready) = (Tenancy::new(), ReadySet::new(0));
        let (old, new) = (LaneWord::new(), LaneWord::new());
        tenancy.move_in(7, || ());
        ready.mark(7, 1);
        let then = tenancy.at(7);
        tenancy.move_in(7, || ());
        assert!(new.add(1));
        ready.mark(7, 1);
        tenancy.forget(&ready, 7, 1, &old, then);
        assert_eq!(ready.bits(1), 1 << 7);
        let now = tenancy.at(7);
        assert!(new.take_any());
        tenancy.forget(&ready, 7, 1, &new, now);
        assert_eq!(ready.bits(1), 0);
    }
}
