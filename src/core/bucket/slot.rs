//! A place in a bucket: a piece of the axis that was taken ahead of its time, and what becomes of it.
//!
//! A slot's owner looks at it, under no latch but that of the changes that it missed. A piece goes back at most once: who
//! has given it back owns none, see `give_back`.

use super::history::Moved;
use super::{Bucket, Short, View, WRITING};
use crate::sync::armed;
use crate::sync::atomic::Ordering;

/// The epoch of a slot that started before a change, so that no further one can move it.
pub(super) const STARTED: u64 = u64::MAX;
/// The epoch of a slot that started in a forgotten era, and cannot be had anew here.
pub(super) const LOST: u64 = u64::MAX - 1;
/// The epoch of a slot that the burst no longer held at some time.
pub(super) const NEVER: u64 = u64::MAX - 2;

/// A reserved piece of the axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The tick from which on it is granted, by the terms of `epoch`. `u64::MAX`: not in the clock's reach.
    pub start: u64,
    /// Its tokens were there when it was made, and no change moves it.
    pub(super) at_once: bool,
    /// It is a piece of the bucket's own word, not of another that goes by its terms.
    pub(super) own: bool,
    pub(super) end: u64,
    pub(super) before: u64,
    pub(super) epoch: u64,
    pub(super) n: u64,
}

impl Slot {
    /// Whether its tokens were there when it was made.
    pub fn at_once(&self) -> bool {
        self.at_once
    }

    /// Whether nobody knows any more when it started: it is to be given back, and another to be taken. Said of a place that
    /// [`View::reserve`] took, by a [`Bucket::retime`] that is false.
    pub fn is_lost(&self) -> bool {
        self.epoch == LOST
    }

    /// The word of the bucket after its piece was taken.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The word before, to which it goes back when the piece is given back as the last one. `None`: it is not the last one.
    pub fn undone(&self, tat: u64) -> Option<u64> {
        (tat == self.end).then_some(self.before)
    }

    /// Whether its piece has gone back, and no other was to be had yet.
    fn is_given_back(&self) -> bool {
        self.n > 0 && self.end == 0 // no piece ends where the axis begins
    }

    /// It has no piece any more, so that nobody can give it back again: by then another may own what is the same in the word.
    fn give_back(&mut self) {
        (self.end, self.before) = (0, 0);
    }
}

impl Bucket {
    /// Gives a reserved piece back if it is the last one; true: it is as if it had never been taken.
    ///
    /// A piece in the middle stays out: moving `tat` back by `n` would hand out another's piece a second time.
    /// Equal words are equal states, so it does not matter what came and went in between.
    pub fn cancel(&self, slot: &Slot) -> bool {
        if slot.n == 0 {
            return true;
        }
        if slot.is_given_back() {
            return false;
        }
        if armed!(mutant = "bucket_cancel_subtracts") {
            self.tat.fetch_sub(slot.n * self.terms.grains, Ordering::Relaxed);
            return true;
        }
        if armed!(mutant = "bucket_cancel_anywhere") {
            self.tat.store(slot.before, Ordering::Relaxed);
            return true;
        }
        self.tat.compare_exchange(slot.end, slot.before, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Gives back the last `part` of a piece's tokens, if it is the last piece; true: as if they had never been taken.
    pub fn cancel_part(&self, slot: &Slot, part: u64) -> bool {
        if part >= slot.n || slot.is_given_back() {
            return self.cancel(slot);
        }
        let rest = slot.end - part * self.terms.grains;
        if armed!(mutant = "bucket_part_subtracts") {
            self.tat.fetch_sub(part * self.terms.grains, Ordering::Relaxed);
            return true;
        }
        self.tat.compare_exchange(slot.end, rest, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// How many of the last `part` tokens of a piece lie ahead of `V` still: whoever takes those now takes nothing that
    /// the bucket has filled up with since. `None`: the terms have changed since the piece was taken.
    pub fn ahead(&self, now: impl Fn() -> u64, slot: &Slot, part: u64) -> Option<u64> {
        let View { terms, point, epoch, .. } = self.view(&now);
        (epoch == slot.epoch).then(|| (slot.end.saturating_sub(point.ceil()) / terms.grains).min(part))
    }

    /// Brings the start of a reservation up to date with the terms. False: the burst was lowered below its tokens, and
    /// they will never be granted (a larger one later does not help: part of its piece may have passed by then).
    ///
    /// It is as if somebody had looked after each change: what had started then has started, and no further one moves it.
    /// Of a place that nobody looked at for longer than the [history](Latest) goes back it may be unknown when it started:
    /// it is given up, and stands for a new one at the end; or false, and it [is lost](Slot::is_lost), if it is of another's
    /// word.
    #[inline]
    pub fn retime(&self, slot: &mut Slot) -> bool {
        if slot.epoch == NEVER || slot.epoch == LOST {
            return false;
        }
        // ORDERING: Acquire pairs with the Release at the end of `change`. While a change is being made the numbers differ:
        // whoever comes then waits for it.
        let sequence = self.terms.sequence.load(Ordering::Acquire);
        let sequence =
            if armed!(mutant = "bucket_looks_past_a_change") { sequence & !WRITING } else { sequence };
        slot.at_once() || slot.epoch == STARTED || slot.epoch == sequence || self.catch_up(slot)
    }

    #[cold]
    #[inline(never)]
    fn catch_up(&self, slot: &mut Slot) -> bool {
        let latest = self.latest.lock();
        let moved = if slot.is_given_back() { Moved::Lost } else { latest.follow(slot) };
        match moved {
            Moved::Known => true,
            Moved::Never => false,
            Moved::Lost if !slot.own => {
                (slot.epoch, slot.start) = (LOST, u64::MAX);
                false
            }
            Moved::Lost => {
                self.cancel(slot);
                slot.give_back();
                let (terms, now, epoch) = (latest.terms, latest.since, latest.epoch);
                let view = View { terms, now, point: terms.line.at(now), epoch };
                match self.reserve_by(&view, slot.n, u64::MAX) {
                    Ok(new) => *slot = new,
                    Err(Short::NeverFits { .. }) => (slot.epoch, slot.start) = (NEVER, u64::MAX),
                    // A pause without an end: it is taken anew when that is ended.
                    Err(Short::Until { .. }) => slot.start = u64::MAX,
                }
                slot.epoch != NEVER
            }
        }
    }

    /// Whether a reservation's time has come, by a reading of the clock before the terms. A change that is seen to come
    /// after that reads the clock later still, so it is after the reservation's time, too; one that is being made is
    /// waited for. `None`: never, as [`retime`](Self::retime) says.
    #[inline]
    pub fn has_come(&self, now: impl Fn() -> u64, slot: &mut Slot) -> Option<bool> {
        let early = if armed!(mutant = "bucket_looks_before_the_clock") { None } else { Some(now()) };
        self.retime(slot).then(|| slot.start <= early.unwrap_or_else(now))
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::core::bucket::Pace;
    use crate::core::bucket::history::REMEMBERED;

    /// One token a tick, none there at tick 0.
    fn empty(burst: u64) -> Bucket {
        let pace = Pace::new(1, 1).unwrap();
        let bucket = Bucket::new(0, pace, pace, burst).unwrap();
        bucket.try_take(|| 0, burst).unwrap();
        bucket
    }

    /// More changes than are remembered.
    fn forget(bucket: &Bucket, now: u64) {
        for _ in 0..=REMEMBERED {
            bucket.set_pace(|| now, Pace::new(1, 1).unwrap()).unwrap();
        }
    }

    #[test]
    fn what_went_back_when_it_was_lost_does_not_go_back_again() {
        let bucket = empty(5);
        let mut lost = bucket.reserve(|| 0, 5, u64::MAX).unwrap();
        bucket.set_burst(|| 0, 2).unwrap();
        forget(&bucket, 0);
        assert!(!bucket.retime(&mut lost), "five tokens never fit two");
        bucket.set_burst(|| 0, 5).unwrap();
        let next = bucket.reserve(|| 0, 5, u64::MAX).unwrap();
        assert!(!bucket.cancel(&lost) && !bucket.cancel_part(&lost, 1));
        let last = bucket.reserve(|| 0, 5, u64::MAX).unwrap();
        assert_eq!((next.start, last.start), (5, 10));
    }

    #[test]
    fn what_is_lost_in_a_pause_without_an_end_is_had_anew_behind_it() {
        let bucket = empty(1);
        let mut slot = bucket.reserve(|| 0, 1, u64::MAX).unwrap();
        forget(&bucket, 100);
        bucket.pause(|| 100, u64::MAX);
        assert!(bucket.retime(&mut slot) && slot.start == u64::MAX);
        assert_eq!(bucket.has_come(|| 200, &mut slot), Some(false));
        assert!(!bucket.cancel(&slot), "there is nothing to give back");
        bucket.resume(|| 300);
        assert!(bucket.retime(&mut slot));
        assert_eq!(slot.start, 301);
        assert!(bucket.cancel(&slot));
    }
}
