//! What the terms were: for places that nobody looked at while they changed.
//!
//! A place is a piece of the axis, and it starts when `V` is where the piece, less the burst, begins. So when it started is a
//! question to the line and the burst that stood then. If it were asked of the latest terms alone, all that came due
//! between two changes would seem to have come due at the later one: a herd with one stamp.
//!
//! The last [`REMEMBERED`] eras are kept, each as long as its terms stood. A place of era `e`, whose start by its terms is
//! known, is led through those that follow:
//!
//! | at the beginning of era `e + 1`, tick `since` | then |
//! |---|---|
//! | `start <= since` | it has started, for good |
//! | its tokens are above the new burst | it never starts |
//! | else | it starts where the new line reaches it, not before `since` |
//!
//! **Older places.** Era `o` is the oldest that is kept, and the place is older by two or more. The window law needs of a
//! start that `V` lies between `end - burst` and `end - n` then: neither too early nor, which is less obvious, too late.
//!
//! | at the beginning of era `o`, `V = v0` | then |
//! |---|---|
//! | `v0 < end - burst` | not started: on with the table above |
//! | `v0 <= end - n` | it started at some time, and may as well start now |
//! | else, or `n` is more than the burst lets through | it cannot be told: [`Moved::Lost`] |

use super::CHANGE;
use super::line::Line;
use super::slot::{NEVER, STARTED, Slot};
use super::terms::Terms;
use crate::sync::armed;

/// How many changes a place that nobody looks at may miss before its start may be lost: half a minute of a limiter
/// that changes its rate each second, and three kilobytes.
pub(super) const REMEMBERED: usize = 32;

/// Terms that stood from a tick on, as far as a place depends on them.
#[derive(Clone, Copy, Debug)]
struct Era {
    since: u64,
    line: Line,
    burst: u64,
}

/// What the next change starts from, and what was before.
#[derive(Debug)]
pub(super) struct Latest {
    pub(super) terms: Terms,
    /// The tick of the last change.
    pub(super) since: u64,
    pub(super) epoch: u64,
    /// Until when the last pause lasts, or 0.
    pub(super) paused: u64,
    /// Also the latest; that of epoch `e` at `e / CHANGE`, modulo the length.
    eras: Box<[Era; REMEMBERED]>,
}

/// The last pause, for who makes a change.
pub(super) struct Stop {
    /// The tick of the last change: `V` has not moved since if it stands still.
    pub(super) since: u64,
    /// Until when it lasts; 0: there was none, or it was ended.
    pub(super) until: u64,
}

impl Stop {
    /// Whether the pause lasts at `now`: `V` stands still also where `now` lies behind a change.
    pub(super) fn lasts(&self, terms: &Terms, now: u64) -> bool {
        now < terms.line.t0 && terms.line.t0 == self.until
    }
}

/// What became of a place.
pub(super) enum Moved {
    /// Its start is known.
    Known,
    /// Its tokens are above the burst, or once were.
    Never,
    /// It started in a forgotten era.
    Lost,
}

impl Era {
    /// When a piece that ends at `end` and has not started yet does; `None`: its cost is above the burst.
    fn start(&self, terms: &Terms, slot: &Slot) -> Option<u64> {
        let due = self.line.reaches(self.position(terms, slot)?);
        Some(due.map_or(u64::MAX, |due| due.max(self.since)))
    }

    /// Where `V` is when it starts.
    fn position(&self, terms: &Terms, slot: &Slot) -> Option<u64> {
        let (cost, _) = Terms { burst: self.burst, ..*terms }.cost_and_need(slot.n)?;
        Some(slot.end.saturating_sub(self.burst.max(cost)))
    }
}

impl Latest {
    pub(super) fn new(terms: Terms, since: u64) -> Latest {
        let era = Era { since, line: terms.line, burst: terms.burst };
        Latest { terms, since, epoch: 0, paused: 0, eras: Box::new([era; REMEMBERED]) }
    }

    pub(super) fn becomes(&mut self, terms: Terms, since: u64, epoch: u64, paused: u64) {
        (self.terms, self.since, self.epoch, self.paused) = (terms, since, epoch, paused);
        *self.era_mut(epoch) = Era { since, line: terms.line, burst: terms.burst };
    }

    fn era_mut(&mut self, epoch: u64) -> &mut Era {
        &mut self.eras[(epoch / CHANGE) as usize % REMEMBERED]
    }

    fn era(&self, epoch: u64) -> &Era {
        &self.eras[(epoch / CHANGE) as usize % REMEMBERED]
    }

    /// Leads a place of an earlier epoch through all changes since.
    pub(super) fn follow(&self, slot: &mut Slot) -> Moved {
        let oldest = self.epoch.saturating_sub(CHANGE * (REMEMBERED as u64 - 1));
        if slot.epoch + CHANGE < oldest && !self.begin_at(oldest, slot) {
            return Moved::Lost;
        }
        if armed!(mutant = "bucket_forgets_the_eras_between") && slot.epoch + CHANGE < self.epoch {
            slot.start = self.era(self.epoch).start(&self.terms, slot).unwrap_or(u64::MAX);
            slot.epoch = self.epoch;
        }
        while slot.epoch < self.epoch {
            let era = self.era(slot.epoch + CHANGE);
            if slot.start <= era.since {
                slot.epoch = STARTED;
                break;
            }
            let Some(start) = era.start(&self.terms, slot) else {
                (slot.epoch, slot.start) = (NEVER, u64::MAX);
                return Moved::Never;
            };
            slot.start = start;
            slot.epoch += CHANGE;
        }
        Moved::Known
    }

    /// The second table. False: lost.
    fn begin_at(&self, oldest: u64, slot: &mut Slot) -> bool {
        let era = self.era(oldest);
        let (Some(position), Some(start)) = (era.position(&self.terms, slot), era.start(&self.terms, slot))
        else {
            return false;
        };
        let (v0, cost) = (era.line.v0, slot.n * self.terms.grains);
        if v0 < position {
            (slot.start, slot.epoch) = (start, oldest);
        } else if v0 <= slot.end.saturating_sub(cost) {
            (slot.start, slot.epoch) = (era.since, STARTED);
        } else {
            return false;
        }
        true
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::core::bucket::{Bucket, Pace};

    /// One token a tick. A place that has come, and then more changes than are remembered.
    #[test]
    fn who_misses_too_much_has_a_place_at_the_end_or_none() {
        let pace = Pace::new(1, 1).unwrap();
        let bucket = Bucket::new(0, pace, pace, 1).unwrap();
        bucket.try_take(|| 0, 1).unwrap();
        let mut own = bucket.reserve(|| 0, 1, u64::MAX).unwrap();
        let mut kept = bucket.reserve(|| 0, 1, u64::MAX).unwrap();
        let mut others = bucket.view(&|| 0).reserve(9, 1, u64::MAX).unwrap();
        for tick in 0..=REMEMBERED as u64 {
            bucket.set_pace(|| 100 + tick, pace).unwrap();
            assert!(bucket.retime(&mut kept));
        }
        assert_eq!(kept.start, 2);
        assert!(bucket.retime(&mut own) && own.start == 132 && own.at_once());
        assert!(!bucket.retime(&mut others) && others.is_lost());
        assert!(!bucket.retime(&mut others), "for good");
    }
}
