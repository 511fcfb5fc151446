//! A chunk: a range of items that travels as one and is taken item by item, and the count of those who still look
//! into its buffer.
//!
//! Lock-free: owner and thieves meet in one word, by CAS. The idea is the range of rayon's and the Go runtime's
//! splitters put into a word, as in Intel TBB's `range_pool` and the "steal-half" queues (Hendler and Shavit, 2002).
//!
//! ```text
//!  63      48 47          24 23           0
//!  +---------+--------------+--------------+
//!  |  epoch  |     end      |     next     |
//!  +---------+--------------+--------------+
//! ```
//!
//! | next, end | the chunk is | `next` | `take_back` | `arm` |
//! |---|---|---|---|---|
//! | `next < end` | armed, `end - next` items nobody has taken | takes `next` | takes `next..end` | forbidden |
//! | `next == end` | spent | `None` | `None` | new range, epoch + 1 |
//!
//! Invariants:
//! 1. Each index of an armed range is handed out exactly once: by `next` to the owner or in one range to a thief.
//! 2. A spent word does not change until its owner arms it again, so `arm` runs over nobody's taking.
//! 3. Taking never reaches into another arming: the CAS compares the epoch too, and `next` and `take_back_at` take
//!    only in the epoch they name. (The epoch has 16 bits. A thief that sleeps between its load and its CAS for a
//!    multiple of 65,536 armings, and wakes when next and end happen to be equal too, would be fooled; its range
//!    then is still a range of unclaimed indices, only the buffer it looks into is the [`ChunkHold`]'s business.)
//! 4. The buffer is recycled once per use, by the last of owner, thieves and running attempts, after all of them.

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{armed, model_const, ordering};
use std::ops::Range;

/// Which arming of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u16);

/// The unpacked word. Nothing outside it shifts bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State(u64);

impl State {
    const FIELD: u32 = 24;
    const MASK: u64 = (1 << Self::FIELD) - 1;

    const fn new(next: u32, end: u32, epoch: u16) -> Self {
        Self((epoch as u64) << (2 * Self::FIELD) | (end as u64) << Self::FIELD | next as u64)
    }

    const fn next(self) -> u32 {
        (self.0 & Self::MASK) as u32
    }

    const fn end(self) -> u32 {
        (self.0 >> Self::FIELD & Self::MASK) as u32
    }

    const fn epoch(self) -> u16 {
        (self.0 >> (2 * Self::FIELD)) as u16
    }

    const fn remaining(self) -> u32 {
        self.end() - self.next()
    }

    /// After the owner took one.
    const fn advanced(self) -> Self {
        Self(self.0 + 1)
    }

    /// After a thief took all from `from` on.
    const fn cut(self, from: u32) -> Self {
        Self::new(self.next(), from, self.epoch())
    }
}

/// The word of a chunk. See the head of this file.
#[derive(Debug)]
pub struct Chunk(AtomicU64);

impl Default for Chunk {
    fn default() -> Self {
        Self::new()
    }
}

impl Chunk {
    /// Indices are below this.
    pub const MAX_INDEX: u32 = State::MASK as u32;

    model_const! {
        /// Spent; the owner arms it.
        pub const fn new() -> Self { Self(AtomicU64::new(0)) }
    }

    /// The owner fills a spent chunk with the range `start..end` of the buffer it has just written.
    ///
    /// # Panics
    /// If the range is reversed or reaches beyond [`MAX_INDEX`](Self::MAX_INDEX).
    pub fn arm(&self, start: u32, end: u32) -> Epoch {
        assert!(start <= end && end <= Self::MAX_INDEX, "{start}..{end} is no range of a chunk");
        // The owner alone arms, and a spent word stands still (invariant 2): its own last view is the current one.
        let old = State(self.0.load(Ordering::Relaxed));
        let bump = if armed!(mutant = "chunk_arm_same_epoch") { 0 } else { 1 };
        let epoch = old.epoch().wrapping_add(bump);
        // A store would do. The swap costs little once a chunk, shows that the word did stand still, and spares the
        // second loom pass a false alarm (loom does not order a plain store after the RMW it overwrites).
        // ORDERING: Release publishes the buffer to thieves (Acquire in `cut_back`). The owner's CAS between are
        // read-modify-writes, which continue the release sequence.
        let spent =
            self.0.swap(State::new(start, end, epoch).0, ordering!(Release, mutant = "chunk_arm_relaxed"));
        debug_assert!(spent == old.0 && old.remaining() == 0, "armed while items are left");
        Epoch(epoch)
    }

    /// The owner takes the next item of this arming. None: the rest is gone, or the chunk has been armed again
    /// (a late owner gets nothing from its successor's range).
    #[inline]
    pub fn next(&self, epoch: Epoch) -> Option<u32> {
        let mut state = State(self.0.load(Ordering::Relaxed));
        loop {
            if state.epoch() != epoch.0 || state.remaining() == 0 {
                return None;
            }
            if armed!(mutant = "chunk_next_without_cas") {
                self.0.store(state.advanced().0, Ordering::Release);
                return Some(state.next());
            }
            // Relaxed: the owner has the buffer from whoever gave it the chunk, and what it takes no thief reads.
            let took = self.0.compare_exchange_weak(
                state.0,
                state.advanced().0,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match took {
                Ok(_) => return Some(state.next()),
                Err(now) => state = State(now),
            }
        }
    }

    /// Takes back all that the owner has not taken, whatever the arming. The owner then gets `None`.
    pub fn take_back(&self) -> Option<(Epoch, Range<u32>)> {
        self.cut_back(None, |rest| rest.start)
    }

    /// As [`take_back`](Self::take_back), only in this arming: for a thief that looked into the buffer before.
    pub fn take_back_at(&self, epoch: Epoch) -> Option<Range<u32>> {
        self.cut_back(Some(epoch), |rest| rest.start).map(|(_, range)| range)
    }

    /// An idle worker takes the back half of this arming's rest, the larger one if it is odd: the owner is busy
    /// with the item before it.
    pub fn take_half_at(&self, epoch: Epoch) -> Option<Range<u32>> {
        self.cut_back(Some(epoch), |rest| rest.start + (rest.end - rest.start) / 2).map(|(_, range)| range)
    }

    /// Takes everything from `from(rest)` to the end by one CAS.
    fn cut_back(
        &self,
        epoch: Option<Epoch>,
        from: impl Fn(Range<u32>) -> u32,
    ) -> Option<(Epoch, Range<u32>)> {
        let mut state = State(self.0.load(Ordering::Relaxed));
        loop {
            let other = epoch.is_some_and(|epoch| epoch.0 != state.epoch());
            if state.remaining() == 0 || (other && !armed!(mutant = "chunk_thief_ignores_epoch")) {
                return None;
            }
            let from = from(state.next()..state.end());
            if armed!(mutant = "chunk_take_back_without_cas") {
                self.0.store(state.cut(from).0, Ordering::Release);
                return Some((Epoch(state.epoch()), from..state.end()));
            }
            // ORDERING: Acquire pairs with the Release in `arm`: the buffer is there.
            let took = self.0.compare_exchange_weak(
                state.0,
                state.cut(from).0,
                Ordering::Acquire,
                Ordering::Relaxed,
            );
            match took {
                Ok(_) => return Some((Epoch(state.epoch()), from..state.end())),
                Err(now) => state = State(now),
            }
        }
    }

    /// Items that nobody has taken.
    pub fn remaining(&self) -> u32 {
        State(self.0.load(Ordering::Relaxed)).remaining()
    }

    /// The current arming and what is left of it: what a thief looks at before it holds the buffer.
    pub fn view(&self) -> (Epoch, Range<u32>) {
        // ORDERING: Acquire pairs with the Release in `arm`.
        let state = State(self.0.load(Ordering::Acquire));
        (Epoch(state.epoch()), state.next()..state.end())
    }
}

/// How many still look into a buffer: owner, thieves, running attempts. The last one out recycles it.
///
/// | count | meaning | `try_acquire` |
/// |---|---|---|
/// | 0 | recycled: nobody looks, its owner-to-be may write | no |
/// | n | n hold it | yes |
///
/// A thief holds nothing when it comes: it reads the chunk's [`view`](Chunk::view), takes a hold by `try_acquire`,
/// and only then takes back [in that epoch](Chunk::take_back_at). If the buffer was recycled and filled again in
/// between, its hold is on the new use, keeps that alive, and the epoch refuses it; it lets go.
#[derive(Debug)]
pub struct ChunkHold(AtomicU32);

impl Default for ChunkHold {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkHold {
    model_const! {
        /// Nobody holds it.
        pub const fn new() -> Self { Self(AtomicU32::new(0)) }
    }

    /// The first hold of a new use, by the one who has the recycled buffer.
    pub fn begin(&self) {
        // ORDERING: Release publishes the new contents to `try_acquire`.
        let old = self.0.fetch_add(1, Ordering::Release);
        debug_assert_eq!(old, 0, "begun while it is held");
    }

    /// One more hold, by somebody who holds it.
    pub fn acquire(&self) {
        // Relaxed, as in `Arc::clone`: the caller's own hold keeps the buffer.
        let old = self.0.fetch_add(1, Ordering::Relaxed);
        debug_assert_ne!(old, 0, "acquired without a hold");
    }

    /// One more hold, by somebody who has none. False: the buffer is recycled.
    #[must_use = "true: the caller releases"]
    pub fn try_acquire(&self) -> bool {
        if armed!(mutant = "chunk_hold_from_zero") {
            self.0.fetch_add(1, Ordering::Acquire);
            return true;
        }
        let mut count = self.0.load(Ordering::Relaxed);
        while count != 0 {
            // ORDERING: Acquire pairs with the Release in `begin`: the contents are those of this use.
            match self.0.compare_exchange_weak(count, count + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => count = now,
            }
        }
        false
    }

    /// Lets go. True: the caller was the last and recycles the buffer.
    #[must_use = "true: the caller recycles the buffer"]
    pub fn release(&self) -> bool {
        // ORDERING: Release: our reads are over before the last one writes; Acquire: the last one sees them over.
        // Pairs with itself, as in `Arc::drop`.
        let old = self.0.fetch_sub(1, ordering!(AcqRel, mutant = "chunk_release_relaxed"));
        debug_assert_ne!(old, 0, "released without a hold");
        old == 1 || (old == 2 && armed!(mutant = "chunk_recycled_early"))
    }

    /// How many hold it: for asserts and reports.
    pub fn held(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_touch() {
        let state = State::new(Chunk::MAX_INDEX, Chunk::MAX_INDEX, u16::MAX);
        assert_eq!(
            (state.next(), state.end(), state.epoch()),
            (Chunk::MAX_INDEX, Chunk::MAX_INDEX, u16::MAX)
        );
        let state = State::new(1, 2, 3);
        assert_eq!((state.next(), state.end(), state.epoch()), (1, 2, 3));
        assert_eq!(state.advanced(), State::new(2, 2, 3));
        assert_eq!(State::new(1, 9, 3).cut(4), State::new(1, 4, 3));
    }

    #[test]
    fn owner_takes_all() {
        let chunk = Chunk::new();
        let epoch = chunk.arm(3, 6);
        assert_eq!(std::iter::from_fn(|| chunk.next(epoch)).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(chunk.take_back(), None);
    }

    #[test]
    fn thieves_take_the_back() {
        let chunk = Chunk::new();
        let epoch = chunk.arm(0, 6);
        assert_eq!(chunk.next(epoch), Some(0));
        assert_eq!(chunk.take_half_at(epoch), Some(3..6));
        assert_eq!(chunk.take_half_at(epoch), Some(2..3));
        assert_eq!(chunk.take_half_at(epoch), Some(1..2), "one item waits behind a busy owner: it goes");
        assert_eq!(chunk.take_half_at(epoch), None);
        assert_eq!(chunk.next(epoch), None);
    }

    #[test]
    fn other_armings_are_out_of_reach() {
        let chunk = Chunk::new();
        let old = chunk.arm(0, 1);
        assert_eq!(chunk.next(old), Some(0));
        let new = chunk.arm(0, 1);
        assert_eq!((chunk.next(old), chunk.take_back_at(old)), (None, None));
        assert_eq!(chunk.view(), (new, 0..1));
        assert_eq!(chunk.take_back(), Some((new, 0..1)));
    }

    #[test]
    fn epochs_wrap() {
        let chunk = Chunk::new();
        let first = chunk.arm(0, 0);
        for _ in 0..u16::MAX {
            chunk.arm(0, 0);
        }
        assert_eq!(chunk.arm(5, 6), first);
        assert_eq!(chunk.view().1, 5..6);
    }

    #[test]
    #[should_panic(expected = "no range of a chunk")]
    fn too_far() {
        Chunk::new().arm(0, Chunk::MAX_INDEX + 1);
    }

    #[test]
    fn last_hold_recycles() {
        let hold = ChunkHold::new();
        assert!(!hold.try_acquire());
        hold.begin();
        hold.acquire();
        assert!(hold.try_acquire());
        assert_eq!([hold.release(), hold.release(), hold.release()], [false, false, true]);
        assert!(!hold.try_acquire());
    }
}
