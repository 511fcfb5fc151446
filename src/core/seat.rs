//! A worker's seat in a lane, against a lane that stops or stands still: what the worker has in hand, who takes it
//! away, and how nothing escapes a stop.
//!
//! The chunk's word is where the owner takes its next item and others take the rest ([`Chunk`], lock-free); the seat's
//! latch is held while the word is armed and while somebody takes back, so whoever takes back knows what the word
//! speaks of. The latch is short, and nobody waits under it.
//!
//! | the seat | `next` (owner) | `take_back` (anybody) | `lose` (who has abandoned the attempt in hand) |
//! |---|---|---|---|
//! | empty | | nothing | nothing |
//! | armed, items left | takes one | takes the rest, with what belongs to it | takes what is in hand; nobody else has a use for it |
//! | armed, none left | `None` | nothing | the same |
//!
//! A [`Stop`] is set once, and then clears: it takes back what is in the seats and drops what lies in the lane. Others
//! meanwhile take entries out of the lane into their seats, and put back what they have (a retry, what the gate refused,
//! what was taken back, an item that was abandoned). The rule that lets nothing through is the same on both sides:
//! **first make it visible, then look whether there was a stop**, with a fence between, as the stop first is set and
//! then looks (store buffering, Dekker's rule):
//!
//! 1. A worker arms its seat, and then looks ([`look_again`](Seat::look_again)). Either the sweep finds the seat
//!    ([`glance`](Seat::glance)), or the worker finds the stop and takes its own chunk back: after a stop nothing
//!    begins but what had been taken by `next` before.
//! 2. Whoever puts an entry back into the lane looks after it ([`Stop::may_have_missed`]), and clears again if there was a
//!    stop. Either the sweep finds the entry, or this one does. (Fresh entries come in under a latch that a sweep takes
//!    too, and with a look under it.)
//!
//! Who clears what, and counts it: each entry and each range of a chunk is taken by one, by the words of
//! [`Chunk`] and [`LaneWord`](crate::core::laneword::LaneWord), and an item in hand ends once, by its
//! [`Attempt`](crate::core::attempt::Attempt). So an item is settled, or given up, or dropped, once each.

use crate::core::chunk::{Chunk, Epoch};
use crate::sync::atomic::{AtomicBool, Ordering, fence};
use crate::sync::{Mutex, MutexGuard, armed};
use std::ops::Range;

/// A lane's end before its time. Set once.
#[derive(Debug)]
pub struct Stop(AtomicBool);

/// What one worker has in hand of a lane.
#[derive(Debug)]
pub struct Seat<H> {
    word: Chunk,
    hand: Mutex<Option<H>>,
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

impl Stop {
    /// Not set.
    pub fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Sets it. Whoever does clears the lane after this.
    pub fn set(&self) {
        // ORDERING: Release pairs with the Acquire in `is_set`; SeqCst with the fences of `look_again` and `may_have_missed`.
        self.0.swap(true, Ordering::AcqRel);
        if !armed!(mutant = "stop_without_fence") {
            fence(Ordering::SeqCst);
        }
    }

    /// Whether it is set: at once or a little later than it was, to be used where that is early enough.
    #[inline]
    pub fn is_set(&self) -> bool {
        // ORDERING: Acquire pairs with the Release in `set`.
        self.0.load(Ordering::Acquire)
    }

    /// To be asked by whoever has put something where a stop clears, after that: true, the stop may have cleared before,
    /// and the asker clears again.
    #[must_use = "true: clear again"]
    pub fn may_have_missed(&self) -> bool {
        if armed!(mutant = "stop_never_missed") {
            return false;
        }
        // ORDERING: SeqCst: see `set`.
        if !armed!(mutant = "stop_missed_without_fence") {
            fence(Ordering::SeqCst);
        }
        self.is_set()
    }
}

impl<H> Default for Seat<H> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H> Seat<H> {
    /// Empty.
    pub fn new() -> Self {
        Self { word: Chunk::new(), hand: Mutex::new(None) }
    }

    /// The owner sits down with a chunk. It looks again before it begins: see [`look_again`](Self::look_again).
    pub fn arm(&self, hand: H, range: Range<u32>) -> Epoch {
        let mut there = self.hand.lock();
        *there = Some(hand);
        self.word.arm(range.start, range.end)
    }

    /// The owner asks, after arming and before its first item, whether its lane is held back: true, it takes its chunk
    /// back.
    #[must_use = "true: take the chunk back"]
    pub fn look_again(&self, held_back: impl FnOnce() -> bool) -> bool {
        if armed!(mutant = "seat_never_looks_again") {
            return false;
        }
        // ORDERING: SeqCst: see the head of the file, 1.
        if !armed!(mutant = "seat_looks_without_fence") {
            fence(Ordering::SeqCst);
        }
        held_back()
    }

    /// The owner's next item.
    #[inline]
    pub fn next(&self, epoch: Epoch) -> Option<u32> {
        self.word.next(epoch)
    }

    /// Whether a sweep that comes after a stop, or a pause, has something to take back here.
    pub fn glance(&self) -> bool {
        // ORDERING: SeqCst: see the head of the file, 1.
        if !armed!(mutant = "seat_glance_without_fence") {
            fence(Ordering::SeqCst);
        }
        self.word.remaining() > 0
    }

    /// Takes back all that the owner has not taken, if it `may`, and what `of` takes from the hand with it.
    pub fn take_back<R>(
        &self,
        may: impl FnOnce(&H) -> bool,
        of: impl FnOnce(&mut H) -> R,
    ) -> Option<(R, Range<u32>)> {
        let mut hand = self.hand.lock();
        let hand = hand.as_mut().filter(|hand| may(hand))?;
        let (_, range) = self.word.take_back()?;
        Some((of(hand), range))
    }

    /// Takes what is in hand, and what is left of its chunk: for the owner's end, or for who has taken the item in
    /// hand away from it.
    pub fn lose(&self) -> Option<(H, Range<u32>)> {
        let mut hand = self.hand.lock();
        let rest = self.word.take_back().map_or(0..0, |(_, range)| range);
        hand.take().map(|hand| (hand, rest))
    }

    /// The owner gets up: its chunk is spent.
    pub fn leave(&self) {
        self.hand.lock().take();
    }

    /// What is in hand.
    pub fn hand(&self) -> MutexGuard<'_, Option<H>> {
        self.hand.lock()
    }
}
