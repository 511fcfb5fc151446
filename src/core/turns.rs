//! Whose turn it is while items are suspected of having taken a process down: they run one at a time.
//!
//! Blocking, one short latch, which is held over no call but the looks at the sides' atomics. A *side* is what one batch
//! has out: rows that it was handed and whose outcome is not written, workers that have some of them in hand, and its
//! suspects that have not ended. It is a readers-and-writer exclusion with preference for the writer, with rows for
//! readers and suspects for writers, but that a side may *stand still*: paused, or ending. What such a side has been
//! handed does not start, so it is not in the way; its suspects may never go on, so they hold nobody up.
//!
//! | suspects | rows are out | others are handed out | a suspect gets its turn |
//! |---|---|---|---|
//! | on no side that goes on | on whatever sides | yes | |
//! | on some side that goes on | on none that goes on | no | yes, and is out from then on |
//! | the same | on some that goes on | no | no |
//!
//! Why no suspect starts beside others (but for sides that go on again, below): both answers are given under the latch,
//! and a yes raises the side's count before the latch is let go. So a turn sees every row that was handed out before it,
//! and a row that comes after it sees the suspect, whose count stands until it has ended.
//!
//! What it does not promise: a side that stood still and goes on may start what it holds beside a suspect of
//! another's. That is unkind, not unsound: who is in hand when a process dies is written down apart, and a crash
//! counts only against an item that was alone there.
//!
//! Nobody waits here. Who is refused looks again, after a while: a side may stand still, or land its last row, without a
//! word to the others. (An end of a suspect's is told at once.)

use crate::sync::Mutex;
use crate::sync::armed;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What one batch has out.
#[derive(Debug)]
pub struct Side {
    /// Rows that were handed out and whose outcome is not written.
    out: AtomicUsize,
    /// Workers that have some of them in hand.
    in_hand: AtomicUsize,
    /// Suspects that have not ended.
    suspects: AtomicU64,
}

/// All sides, with whether each stands still. Takes no lock that may be held where [`Turns`] is asked. Whoever gathers
/// them before may have gathered none, because there were no suspects: then everything is true of them.
pub trait Sides {
    /// Whether `what` is true of one of them.
    fn any(&self, what: &mut dyn FnMut(&Side, bool) -> bool) -> bool;
}

/// What a suspect that wants to run is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// It may be claimed.
    Yours,
    /// Others are out: look again soon.
    Later,
}

/// See the head of this file. In it: the suspects of all sides.
#[derive(Debug)]
pub struct Turns(Mutex<u64>);

impl Default for Side {
    fn default() -> Self {
        Self::new()
    }
}

impl Side {
    /// Nothing is out.
    pub fn new() -> Self {
        Self { out: AtomicUsize::new(0), in_hand: AtomicUsize::new(0), suspects: AtomicU64::new(0) }
    }

    /// Rows handed out whose outcome is not written.
    pub fn out(&self) -> usize {
        // ORDERING: Acquire, with the Release in `landed`: who sees a row gone sees its outcome.
        self.out.load(Ordering::Acquire)
    }

    /// Under the latch of the turns.
    fn goes_out(&self, rows: usize) {
        self.out.fetch_add(rows, Ordering::AcqRel);
    }

    /// The outcome of so many is written, or they were given back.
    pub fn landed(&self, rows: usize) {
        // ORDERING: AcqRel: what the rows have done came before the turn that finds them gone.
        self.out.fetch_sub(rows, Ordering::AcqRel);
    }

    /// A worker has some of it in hand.
    pub fn take_in_hand(&self) {
        self.in_hand.fetch_add(1, Ordering::AcqRel);
    }

    /// It has not any more.
    pub fn off_hand(&self) {
        self.in_hand.fetch_sub(1, Ordering::AcqRel);
    }

    fn is_busy(&self, still: bool) -> bool {
        // ORDERING: Acquire: see `landed`.
        self.in_hand.load(Ordering::Acquire) > 0 || (self.out() > 0 && !still)
    }

    fn has_suspects_to_run(&self, still: bool) -> bool {
        self.suspects.load(Ordering::Acquire) > 0 && !still
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self::new()
    }
}

impl Turns {
    /// There are no suspects.
    pub fn new() -> Self {
        Self(Mutex::new(0))
    }

    /// Whether there are suspects at all.
    pub fn are_needed(&self) -> bool {
        *self.0.lock() > 0
    }

    /// The side has so many suspects more.
    pub fn suspect(&self, side: &Side, more: u64) {
        let mut left = self.0.lock();
        side.suspects.fetch_add(more, Ordering::AcqRel);
        *left += more;
    }

    /// Whether rows that are no suspects may go out. Yes raises the side's count.
    pub fn hand_out(&self, side: &Side, rows: usize, sides: &impl Sides) -> bool {
        let left = self.0.lock();
        let free = *left == 0 || !sides.any(&mut |side, still| side.has_suspects_to_run(still));
        if armed!(mutant = "turns_handed_out_after_the_latch") {
            drop(left);
            if free {
                side.goes_out(rows);
            }
            return free;
        }
        if free {
            side.goes_out(rows);
        }
        drop(left);
        free
    }

    /// Whether a suspect of this side, which does not stand still, may be claimed: nothing else starts then.
    pub fn turn(&self, side: &Side, sides: &impl Sides) -> Turn {
        let _left = self.0.lock();
        if sides.any(&mut |side, still| side.is_busy(still)) && !armed!(mutant = "turns_beside_others") {
            return Turn::Later;
        }
        // Out from now on: nobody else's turn comes before it has ended.
        side.goes_out(1);
        Turn::Yours
    }

    /// So many suspects of this side have ended, or will not run. Whoever was refused may look again after this.
    pub fn done(&self, side: &Side, suspects: u64) {
        let mut left = self.0.lock();
        let suspects = suspects.min(side.suspects.load(Ordering::Acquire));
        // Changed under the latch alone.
        side.suspects.fetch_sub(suspects, Ordering::AcqRel);
        *left = left.saturating_sub(suspects);
    }
}
