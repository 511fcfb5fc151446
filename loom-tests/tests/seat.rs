//! Models of `core/seat.rs`, with the lane's word, the chunk's and the attempt's: an item that is settled by its worker,
//! abandoned by the supervisor and dropped by a shutdown, all at once.
//!
//! Verified: each item ends settled or dropped, once, and the lane is left empty by a stop, whatever the three do
//! meanwhile; once a stop has cleared, or a pause has taken hands off, at most the item that had been taken begins; what
//! a pause took back is in the lane.
//!
//! Not verified: what becomes of permits and counts (the engine's tests); the table of who waits for its next attempt.

use batchyard::__model::attempt::{Abandon, Attempt};
use batchyard::__model::laneword::{LaneWord, Reason, Take};
use batchyard::__model::seat::{Seat, Stop};
use batchyard_loom_tests::{Body, explore, explore_bounded};

#[cfg(loom)]
use loom::sync::atomic::AtomicU32;
#[cfg(shuttle)]
use shuttle::sync::atomic::AtomicU32;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};

struct Lane {
    word: LaneWord,
    /// Behind the tickets of the word, which order it: the checker sees no latch here.
    entries: Mutex<Vec<Range<u32>>>,
    stop: Stop,
    seat: Seat<()>,
    attempt: Attempt,
    /// The item of the attempt in hand.
    at: AtomicU32,
    settled: AtomicU32,
    dropped: AtomicU32,
    /// The stop has cleared, or the pause has taken hands off.
    swept: AtomicU32,
    /// Items that began after that.
    begun_late: AtomicU32,
}

/// With a chunk of two items.
fn lane() -> Lane {
    let lane = Lane {
        word: LaneWord::new(),
        entries: Mutex::new(vec![0..2]),
        stop: Stop::new(),
        seat: Seat::new(),
        attempt: Attempt::new(),
        at: AtomicU32::new(0),
        settled: AtomicU32::new(0),
        dropped: AtomicU32::new(0),
        swept: AtomicU32::new(0),
        begun_late: AtomicU32::new(0),
    };
    assert!(lane.word.add(1));
    lane
}

impl Lane {
    fn pop(&self) -> Range<u32> {
        self.entries.lock().unwrap().pop().expect("the ticket says there is one")
    }

    /// Takes a chunk and runs it. True: the item in hand was taken from it.
    fn work(&self) -> bool {
        if !matches!(self.word.take(), Take::Got { .. }) {
            return false;
        }
        let chunk = self.seat.arm((), self.pop());
        if self.seat.look_again(|| self.stop.is_set() || self.word.blocked_by(Reason::Paused)) {
            self.take_back();
        }
        while let Some(at) = self.seat.next(chunk) {
            self.at.store(at, Relaxed);
            let late = self.swept.fetch_add(0, AcqRel);
            self.begun_late.fetch_add(late, Relaxed);
            let attempt = self.attempt.begin();
            if !self.attempt.settle(attempt) {
                return true;
            }
            self.settled.fetch_add(1, Relaxed);
        }
        self.seat.leave();
        false
    }

    fn put(&self, entry: Range<u32>) {
        self.entries.lock().unwrap().push(entry);
        let _ = self.word.add(1);
        if self.stop.may_have_missed() {
            self.clear();
        }
    }

    fn take_back(&self) {
        if let Some(((), rest)) = self.seat.take_back(|()| true, |()| ()) {
            self.put(rest);
        }
    }

    fn clear(&self) {
        self.take_back();
        while self.word.take_any() {
            let entry = self.pop();
            self.dropped.fetch_add(entry.len() as u32, Relaxed);
        }
    }

    fn shut_down(&self) {
        self.stop.set();
        self.clear();
        self.swept.swap(1, AcqRel);
    }

    /// The item in hand is given up, if there is one: it comes back into the lane.
    fn abandon(&self) {
        let Some(in_hand) = self.attempt.in_hand() else { return };
        if self.attempt.abandon(in_hand.epoch) == Abandon::Done {
            self.take_back();
            let at = self.at.load(Relaxed);
            self.seat.lose();
            self.put(at..at + 1);
        }
    }

    /// What has become of the two, when all is done.
    fn ends(&self) -> (u32, u32) {
        assert_eq!(self.word.pending(), 0, "left in the lane");
        assert_eq!(self.entries.lock().unwrap().len(), 0);
        assert!(self.begun_late.load(Relaxed) <= 1, "an item began after the stop");
        let (settled, dropped) = (self.settled.load(Relaxed), self.dropped.load(Relaxed));
        assert_eq!(settled + dropped, 2, "an item was lost, or ended twice");
        (settled, dropped)
    }
}

/// All three. Not in the second pass: an attempt begins by a plain store, which that pass takes for one that its loads may
/// overwrite.
#[test]
fn settle_against_abandon_against_shutdown() {
    let bodies: [Body<Lane, bool>; 3] = [
        Lane::work,
        |s| {
            s.abandon();
            false
        },
        |s| {
            s.shut_down();
            false
        },
    ];
    let explored = explore_bounded(Some(3), lane, &bodies, |s, lost| (s.ends(), lost[0]));
    explored.exactly([((0, 2), false), ((1, 1), false), ((2, 0), false), ((0, 2), true), ((1, 1), true)]);
}

mod loop_free {
    use super::*;

    #[test]
    fn settle_against_shutdown() {
        let bodies: [Body<Lane, bool>; 2] = [Lane::work, |s| {
            s.shut_down();
            false
        }];
        let explored = explore(lane, &bodies, |s, _| s.ends());
        explored.exactly([(0, 2), (1, 1), (2, 0)]);
    }

    /// Whoever puts something into the lane while it is stopped, with no other thread to help.
    #[test]
    fn put_against_shutdown() {
        let empty = || {
            let lane = lane();
            assert!(lane.word.take_any());
            lane.pop();
            lane
        };
        let bodies: [Body<Lane, bool>; 2] = [
            |s| {
                s.put(0..2);
                false
            },
            |s| {
                s.shut_down();
                false
            },
        ];
        let explored = explore(empty, &bodies, |s, _| s.ends());
        explored.exactly([(0, 2)]);
    }

    /// A pause: what had not begun is back in the lane.
    #[test]
    fn settle_against_pause() {
        let bodies: [Body<Lane, bool>; 2] = [Lane::work, |s| {
            s.word.block(Reason::Paused);
            if s.seat.glance() {
                s.take_back();
            }
            s.swept.swap(1, AcqRel);
            false
        }];
        let explored = explore(lane, &bodies, |s, _| {
            assert!(s.begun_late.load(Relaxed) <= 1, "an item began after the pause");
            let left: usize = s.entries.lock().unwrap().iter().map(Range::len).sum();
            let settled = s.settled.load(Relaxed);
            assert_eq!(settled as usize + left, 2);
            (settled, s.word.pending())
        });
        explored.exactly([(0, 1), (1, 1), (2, 0)]);
    }
}
