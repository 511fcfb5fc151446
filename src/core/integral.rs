//! How much is held, and how much was held for how long: a sum over time that many change and somebody reads.
//!
//! Lock-free to change: two RMWs, or three. A reading waits for who is between them, for as long as that thread is stalled
//! there. Held since `t` by `n` units until
//! `u` is `n·u − n·t`; so who takes subtracts `n·t`, who gives adds `n·u`, and a reading at `now` is the sum and
//! `held·now`. That is exact if both are of the same changes, which the words tell by counting them:
//!
//! ```text
//! low   [ sum, lowest 48 bits        | changes : 16 ]     high  [ sum, the bits above 48 ]
//! state [ changes : 25 | held : 39 ]
//! ```
//!
//! | a change | a reading |
//! |---|---|
//! | 1. adds to `low`, and counts itself there, in one RMW | 1. `state` |
//! | 2. carries to `high`, if the change takes the sum across a multiple of 2^48 (see below) | 2. `high` |
//! | 3. adds to `state` what it takes or gives, and counts itself there, in one RMW | 3. `low`; both counts have to be equal |
//!
//! *Both are of the same changes.* Let S, H, L be the changes that a reading finds in `state`, `high` and `low`.
//!
//! 1. S is within L, and the carries of S are in H: each of S did its first steps before (Release of the third, Acquire
//!    of the reading's first).
//! 2. Whoever's carry is in H is in L (Release of the second step, Acquire of the reading's second, which comes before
//!    its third).
//! 3. If L counts as many as S, they are the same, by 1; and then H has the carries of all of them, by 1, and of no
//!    others, by 2. (The counts wrap: as many as 65,536 threads between the steps at once would pass for none. No system
//!    that this runs on lets a process have so many.)
//!
//! *When there is a carry.* The sum is what was used so far less `held·now`. So it is below zero, which is a multiple, while
//! more is held than was on average: a change that takes `held` across its average carries, such as the take and the return of
//! what is mostly free. Beside that whatever crosses the next multiple, 78 hours of one unit away: with large `n·t` nearly all.
//!
//! *`held` is never too much*: who takes changes it after it has taken, who gives before it gives. So the value that a take
//! left in it is a high-water mark that no limit that changes meanwhile tears.
//!
//! *Where the lower count overflows* it adds one to the sum, and who did that takes it away before its third step.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{armed, hint, ordering, thread};

/// More cannot be held: what a [limit](super::permits::MAX_LIMIT) may be.
pub const MAX_HELD: u64 = super::permits::MAX_LIMIT;

const COUNT_BITS: u32 = 16;
const LOW_BITS: u32 = 64 - COUNT_BITS;
const LOW_ONE: u64 = 1 << COUNT_BITS;
const COUNT_MASK: u64 = LOW_ONE - 1;
const HELD_BITS: u32 = 39;
const HELD_MASK: u64 = (1 << HELD_BITS) - 1;
const STATE_ONE: u64 = 1 << HELD_BITS;
/// How often a reading looks before it yields: whom it waits for has one RMW to go, and nothing to wait for.
const LOOKS: u32 = 64;

/// See the head of the file. Times are nanoseconds since any moment, the same for all.
#[derive(Debug)]
pub struct Integral {
    state: AtomicU64,
    low: AtomicU64,
    high: AtomicU64,
}

/// A reading: what is held, and the sum that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reading {
    /// Units.
    pub held: u64,
    sum: i128,
}

impl Reading {
    /// Unit-nanoseconds until `now`. (A reading of the clock that is older than another thread's may find a little less
    /// than there was.)
    pub fn until(self, now: u64) -> u128 {
        u128::try_from(self.sum + i128::from(self.held) * i128::from(now)).unwrap_or(0)
    }
}

impl Default for Integral {
    fn default() -> Self {
        Self::new()
    }
}

impl Integral {
    /// Nothing is held or was.
    pub fn new() -> Self {
        Self { state: AtomicU64::new(0), low: AtomicU64::new(0), high: AtomicU64::new(0) }
    }

    /// As new, but for so many changes that left nothing, for tests of the counts' ends.
    pub fn after(changes: u32) -> Self {
        let (low, state) = (u64::from(changes) & COUNT_MASK, u64::from(changes).wrapping_mul(STATE_ONE));
        Self { state: AtomicU64::new(state), low: AtomicU64::new(low), high: AtomicU64::new(0) }
    }

    /// `n` are held from `now` on, which were taken before. How many are held then.
    #[inline]
    pub fn take(&self, n: u64, now: u64) -> u64 {
        self.change(-product(n, now), STATE_ONE.wrapping_add(n))
    }

    /// `n` are not held from `now` on, and are given back after this.
    #[inline]
    pub fn give(&self, n: u64, now: u64) {
        self.change(product(n, now), STATE_ONE.wrapping_sub(n));
    }

    #[inline]
    fn change(&self, by: i128, state: u64) -> u64 {
        // ORDERING: Release pairs with the Acquire of `look`: see the head, 1.
        let release = ordering!(Release, mutant = "integral_state_relaxed");
        if armed!(mutant = "integral_state_first") {
            let held = self.state.fetch_add(state, release).wrapping_add(state) & HELD_MASK;
            self.add(by);
            return held;
        }
        self.add(by);
        self.state.fetch_add(state, release).wrapping_add(state) & HELD_MASK
    }

    #[inline]
    fn add(&self, by: i128) {
        let add = (by as u64) << COUNT_BITS | 1;
        let old = self.low.fetch_add(add, Ordering::Relaxed);
        let mut carry = (by >> LOW_BITS) as u64;
        if old.checked_add(add).is_none() && !armed!(mutant = "integral_carry_lost") {
            carry = carry.wrapping_add(1);
        }
        if old & COUNT_MASK == COUNT_MASK {
            carry = carry.wrapping_sub(self.uncount());
        }
        if carry != 0 {
            // ORDERING: Release pairs with the Acquire of `look`: see the head, 2.
            self.high.fetch_add(carry, ordering!(Release, mutant = "integral_high_relaxed"));
        }
    }

    /// The count went over into the sum. What is to be borrowed from `high`.
    #[cold]
    fn uncount(&self) -> u64 {
        if armed!(mutant = "integral_count_spills") {
            return 0;
        }
        u64::from(self.low.fetch_sub(LOW_ONE, Ordering::Relaxed) < LOW_ONE)
    }

    /// What there is, unless somebody is in the middle of a change.
    pub fn look(&self) -> Option<Reading> {
        // ORDERING: Acquire: see the head, 1.
        let state = self.state.load(ordering!(Acquire, mutant = "integral_look_relaxed"));
        // ORDERING: Acquire: see the head, 2.
        let high = self.high.load(ordering!(Acquire, mutant = "integral_look_high_relaxed"));
        let low = self.low.load(Ordering::Relaxed);
        let same = low & COUNT_MASK == state >> HELD_BITS & COUNT_MASK;
        if !same && !armed!(mutant = "integral_counts_ignored") {
            return None;
        }
        let sum = i128::from(high as i64) << LOW_BITS | i128::from(low >> COUNT_BITS);
        Some(Reading { held: state & HELD_MASK, sum })
    }

    /// What there is. Waits for who is in the middle of a change: one or two RMWs, and as long as that thread is stalled
    /// between them.
    pub fn read(&self) -> Reading {
        let mut looks = 0;
        loop {
            if let Some(reading) = self.look() {
                return reading;
            }
            looks += 1;
            if looks % LOOKS == 0 {
                thread::yield_now();
            } else {
                hint::spin_loop();
            }
        }
    }
}

#[inline]
fn product(n: u64, now: u64) -> i128 {
    i128::from(n.min(MAX_HELD)) * i128::from(now)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_held_counts_until_now() {
        let integral = Integral::new();
        assert_eq!(integral.take(2, 10), 2);
        assert_eq!(integral.take(MAX_HELD - 2, 10), MAX_HELD);
        integral.give(MAX_HELD - 2, 10);
        integral.give(1, 15);
        let reading = integral.look().expect("nobody changes it");
        assert_eq!((reading.held, reading.until(20), reading.until(0)), (1, 15, 0));
    }

    proptest! {
        /// Against plain arithmetic, across the ends of both counts and of the lower word.
        #[test]
        fn it_is_the_integral(
            changes in 0_u32..1 << 25,
            early in 0_u32..20,
            start in 0_u64..1 << 55,
            steps in proptest::collection::vec((0_u64..1 << 36, any::<bool>(), 0_u64..1 << 45), 0..40),
        ) {
            let integral = Integral::after((changes | u32::from(u16::MAX)) - early);
            let (mut now, mut held, mut sum) = (start, 0_u64, 0_u128);
            for (n, takes, passed) in steps {
                now += passed;
                sum += u128::from(held) * u128::from(passed);
                if takes && held + n <= MAX_HELD {
                    held += n;
                    prop_assert_eq!(integral.take(n, now), held);
                } else {
                    let n = n.min(held);
                    held -= n;
                    integral.give(n, now);
                }
                let reading = integral.look().expect("nobody changes it");
                prop_assert_eq!((reading.held, reading.until(now)), (held, sum));
            }
        }
    }
}
