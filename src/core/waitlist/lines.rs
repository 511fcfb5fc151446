//! The queues behind the latch: one intrusive, doubly linked line per priority class, and the order over them.
//!
//! Within a class first come, first served. Over the classes by tier: the class, plus one for each
//! [`AGEING`] waited, at most the top; among equals who came first. Nothing is re-sorted as time passes: a line is
//! sorted by age as it stands, so its head has its highest tier, and a walk compares the heads.
//!
//! Before all classes stand those who wait *inside*: who runs already, and may hold permits. They are in a line of their
//! own, who holds the higher kind first. Where nobody inside waits for a kind that is not higher than all he holds, the
//! first of the line waits only for who does not wait here: with what is set aside for the others, a circle would close
//! over the order of the queue alone (W stands before A for a kind that A wants, and wants one that A holds). Where they wait
//! in any order, such a circle is found by who looks for deadlocks, and one of it is [put first](super::hasten).

use super::demand::Demand;
use super::{NodeState, Refused, Waiter};
use crate::core::lockword::Mode;
use crate::core::permits::CLASSES;
use crate::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use crate::sync::{Unparker, UnsafeCell, model_const, ordering};
use std::fmt;
use std::marker::PhantomPinned;
use std::ptr;

/// The line of those inside.
const INSIDE: usize = CLASSES;
const LINES: usize = CLASSES + 1;

/// A waiter rises by one tier for each ten seconds (in nanoseconds) it waits. Long against any permit's usual hold,
/// so that a busy class is not mixed with the next; short against a person's patience.
pub const AGEING: u64 = 10_000_000_000;

/// The tier of a waiter now, where it rises by one for each `ageing` that it waits.
pub(in crate::core) fn tier(class: u8, since: u64, now: u64, ageing: u64) -> u64 {
    u64::from(class).saturating_add(now.saturating_sub(since) / ageing).min(CLASSES as u64 - 1)
}

/// With what claim somebody waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// From outside, holding nothing: by priority class (cut to the highest) and arrival.
    Class(usize),
    /// Inside something that runs: before all classes, and never passed.
    Inside {
        /// Whose reserves apply (cut to the highest).
        class: usize,
        /// The number above the highest kind that is held; 0: none is. No kind below it may be asked for.
        above: u16,
    },
}

impl Claim {
    /// The priority class whose reserves apply.
    pub(crate) fn class(self) -> usize {
        let (Claim::Class(class) | Claim::Inside { class, .. }) = self;
        class.min(CLASSES - 1)
    }
}

impl From<usize> for Claim {
    fn from(class: usize) -> Claim {
        Claim::Class(class)
    }
}

/// A place in a wait list, embedded in who waits: a lane, or a thread's stack frame. One demand at a time.
pub struct Node {
    pub(in crate::core) state: AtomicU32,
    /// The wait list it was last queued in, by the address of its words.
    pub(in crate::core) home: AtomicUsize,
    /// Belongs to the latch's holder from `enqueue` until `state` is published as something else than waiting,
    /// and to the node's owner otherwise.
    entry: UnsafeCell<Entry>,
    _pinned: PhantomPinned,
}

// SAFETY: `entry`, the one part that is not an atomic, is accessed under the latch of the list that the node waits
// in; what it holds (a demand, an unparker, pointers to other nodes) may go to any thread.
unsafe impl Send for Node {}
// SAFETY: as above.
unsafe impl Sync for Node {}

/// What the latch's holder knows of a waiter.
pub(in crate::core) struct Entry {
    prev: *const Node,
    next: *const Node,
    /// Counts up in the order of arrival, from 1.
    pub(in crate::core) seq: u64,
    pub(in crate::core) class: u8,
    /// Of who waits inside: the number above the highest kind held.
    above: Option<u16>,
    pub(in crate::core) since: u64,
    pub(in crate::core) demand: Demand,
    pub(in crate::core) waiter: Option<Waiter>,
    /// How often others were granted a kind it waits for, though it came before them.
    pub(in crate::core) passed: u32,
    /// Nobody passes it any more.
    pub(in crate::core) holds_back: bool,
    /// The last scan that came by and could not grant.
    pub(in crate::core) visited: u64,
    pub(in crate::core) refused: Option<Refused>,
    /// What its granter tells it: the stamp of its tokens. A wait list tells nothing.
    pub(in crate::core) stamp: u64,
    /// Of who waits for a lock: in what mode it wants it, and as whose.
    pub(in crate::core) want: (Mode, u32),
}

impl Node {
    /// A node that waits for nothing.
    pub fn new() -> Self {
        Self {
            state: AtomicU32::new(NodeState::Idle as u32),
            home: AtomicUsize::new(0),
            entry: UnsafeCell::new(Entry {
                prev: ptr::null(),
                next: ptr::null(),
                seq: 0,
                class: 0,
                above: None,
                since: 0,
                demand: Demand::new(),
                waiter: None,
                passed: 0,
                holds_back: false,
                visited: 0,
                refused: None,
                stamp: 0,
                want: (Mode::Shared, 0),
            }),
            _pinned: PhantomPinned,
        }
    }
}

impl Node {
    /// Where it stands.
    pub(in crate::core) fn state(&self) -> NodeState {
        // ORDERING: Acquire pairs with the Release of who published the state: what was written into the entry before
        // is seen.
        NodeState::of(self.state.load(ordering!(Acquire, mutant = "leader_standing_relaxed")))
    }
}

impl Entry {
    /// The line it stands in, and its place there: the least first.
    fn place(&self) -> (usize, (std::cmp::Reverse<u16>, u64)) {
        let line = if self.is_inside() { INSIDE } else { usize::from(self.class) };
        (line, (std::cmp::Reverse(self.above.unwrap_or(0)), self.seq))
    }

    pub(in crate::core) fn set_claim(&mut self, claim: Claim) {
        self.class = claim.class() as u8;
        self.above = match claim {
            Claim::Class(_) => None,
            Claim::Inside { above, .. } => Some(above),
        };
    }

    pub(in crate::core) fn is_inside(&self) -> bool {
        self.above.is_some()
    }

    /// Above the classes' for those inside.
    pub(in crate::core) fn tier(&self, now: u64, ageing: u64) -> u64 {
        if self.is_inside() { CLASSES as u64 } else { tier(self.class, self.since, now, ageing) }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("state", &NodeState::of(self.state.load(Ordering::Relaxed)))
            .finish_non_exhaustive()
    }
}

/// A node that the latch's holder may look into: it is alive, and its entry is the holder's.
///
/// Making one is the promise that this stays so until the node is unlinked, or the latch is given up, whichever
/// comes first. None is kept beyond that.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::core) struct Seat(*const Node);

impl Seat {
    /// # Safety
    ///
    /// The caller holds the latch, the node is alive, and it is linked in this list or about to be (or just was,
    /// its state not yet published).
    pub(in crate::core) unsafe fn new(node: *const Node) -> Self {
        Seat(node)
    }

    /// The node's entry. `f` must not come back for the same entry.
    pub(in crate::core) fn with<R>(self, f: impl FnOnce(&mut Entry) -> R) -> R {
        // SAFETY: the promise of `Seat`: the node is alive and nobody else has its entry. The closure's borrow
        // ends before another can begin.
        unsafe { (*self.0).entry.with_mut(|entry| f(&mut *entry)) }
    }

    /// Makes the entry its owner's again: the last that is done to a seat. The owner may free the node at once.
    pub(in crate::core) fn publish(self, state: NodeState, order: Ordering) {
        // A swap where a store would do: the second loom pass turns the owner's loads into RMWs, and loom does not
        // order a plain store after an RMW that it did not see.
        // SAFETY: the promise of `Seat`: alive until this write is seen.
        unsafe { (*self.0).state.swap(state as u32, order) };
    }
}

#[derive(Clone, Copy)]
struct Line {
    head: *const Node,
    tail: *const Node,
}

/// All lines of a wait list.
pub(in crate::core) struct Lines {
    lines: [Line; LINES],
    seq: u64,
    /// The number of who was last put before all others, counted down.
    first: u64,
    ageing: u64,
}

// SAFETY: the pointers are followed only by the holder of the latch that guards the lines.
unsafe impl Send for Lines {}

impl Lines {
    /// In which waiters rise every [`AGEING`].
    pub(in crate::core) fn new() -> Self {
        Self::ageing(AGEING)
    }

    model_const! {
        /// In which waiters rise by one tier for each `ageing` that they wait, in nanoseconds.
        pub(in crate::core) const fn ageing(ageing: u64) -> Self {
            Self { lines: [Line { head: ptr::null(), tail: ptr::null() }; LINES], seq: 0, first: u64::MAX, ageing }
        }
    }

    pub(in crate::core) fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.head.is_null())
    }

    /// The highest class that somebody may wait in.
    pub(in crate::core) fn top(&self) -> Option<usize> {
        top(self.lines.iter().rposition(|line| !line.head.is_null()))
    }

    /// Links a node that is in no line, as the last that came.
    pub(in crate::core) fn push(&mut self, seat: Seat) {
        self.seq += 1;
        seat.with(|e| e.seq = self.seq);
        self.put_back(seat);
    }

    /// Moves a node that is in a line before all others, those that were moved so before among them.
    pub(in crate::core) fn put_first(&mut self, seat: Seat) {
        self.unlink(seat);
        self.first -= 1;
        // Higher than any kind: nobody holds that.
        seat.with(|e| (e.above, e.seq) = (Some(u16::MAX), self.first));
        self.put_back(seat);
    }

    /// Links a node that was in a line before, where it had its place. O(those behind it).
    pub(in crate::core) fn put_back(&mut self, seat: Seat) {
        let (line, place) = seat.with(|e| e.place());
        let (mut prev, mut next) = (self.lines[line].tail, ptr::null());
        while let Some(last) = Self::seat(prev)
            && last.with(|e| e.place().1 > place)
        {
            (prev, next) = (last.with(|e| e.prev), prev);
        }
        seat.with(|e| (e.prev, e.next) = (prev, next));
        match Self::seat(prev) {
            Some(prev) => prev.with(|e| e.next = seat.0),
            None => self.lines[line].head = seat.0,
        }
        match Self::seat(next) {
            Some(next) => next.with(|e| e.prev = seat.0),
            None => self.lines[line].tail = seat.0,
        }
    }

    /// Unlinks a node that is in a line.
    pub(in crate::core) fn unlink(&mut self, seat: Seat) {
        let (line, prev, next) = seat.with(|e| (e.place().0, e.prev, e.next));
        match Self::seat(prev) {
            Some(prev) => prev.with(|e| e.next = next),
            None => self.lines[line].head = next,
        }
        match Self::seat(next) {
            Some(next) => next.with(|e| e.prev = prev),
            None => self.lines[line].tail = prev,
        }
    }

    /// Calls `f` with each node until it returns false for one; then goes on with the next line.
    pub(in crate::core) fn each(&self, mut f: impl FnMut(Seat) -> bool) {
        for line in &self.lines {
            let mut at = Self::seat(line.head);
            while let Some(seat) = at {
                // Read first: `f` may unlink and publish.
                let next = seat.with(|e| e.next);
                if !f(seat) {
                    break;
                }
                at = Self::seat(next);
            }
        }
    }

    /// The nodes in the order of their claims. The node that was returned last may be unlinked, no other.
    pub(in crate::core) fn walk(&self, now: u64) -> Walk {
        Walk { heads: self.lines.map(|line| Self::seat(line.head)), now, ageing: self.ageing }
    }

    /// The threads among them, in that order.
    pub(in crate::core) fn threads(&self, now: u64) -> Vec<Unparker> {
        let mut walk = self.walk(now);
        let mut threads = Vec::new();
        while let Some(seat) = walk.next() {
            threads.extend(seat.with(|e| match &e.waiter {
                Some(Waiter::Thread(thread)) => Some(thread.clone()),
                _ => None,
            }));
        }
        threads
    }

    /// When, after `now`, the order of the heads may change next for the ageing of others than the node with this number.
    pub(in crate::core) fn next_rise(&self, first: u64, now: u64) -> Option<u64> {
        let rise = |line: &Line| {
            let (class, since, seq) = Self::seat(line.head)?.with(|e| (e.class, e.since, e.seq));
            let steps = now.saturating_sub(since) / self.ageing + 1;
            (seq != first && tier(class, since, now, self.ageing) + 1 < CLASSES as u64)
                .then(|| since.saturating_add(steps * self.ageing))
        };
        self.lines.iter().filter_map(rise).min()
    }

    /// A link's other end.
    fn seat(node: *const Node) -> Option<Seat> {
        // SAFETY: links lead only to linked nodes, which are alive by `enqueue`'s contract, and only the latch's
        // holder follows them.
        (!node.is_null()).then(|| unsafe { Seat::new(node) })
    }
}

/// The class that stands for a line: those inside may be of any.
fn top(line: Option<usize>) -> Option<usize> {
    line.map(|line| line.min(CLASSES - 1))
}

pub(in crate::core) struct Walk {
    heads: [Option<Seat>; LINES],
    now: u64,
    ageing: u64,
}

impl Walk {
    /// The highest class of those that may still come.
    pub(in crate::core) fn top(&self) -> Option<usize> {
        top(self.heads.iter().rposition(Option::is_some))
    }

    pub(in crate::core) fn next(&mut self) -> Option<Seat> {
        let (now, ageing) = (self.now, self.ageing);
        let (line, seat) = (0..LINES)
            .filter_map(|line| Some((line, self.heads[line]?)))
            .max_by_key(|(_, seat)| seat.with(|e| (e.tier(now, ageing), std::cmp::Reverse(e.seq))))?;
        self.heads[line] = Lines::seat(seat.with(|e| e.next));
        Some(seat)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn tiers_rise_and_stop_at_the_top() {
        assert_eq!(tier(0, 5, 4, 10), 0);
        assert_eq!(tier(0, 0, 9, 10), 0);
        assert_eq!(tier(0, 0, 10, 10), 1);
        assert_eq!(tier(1, 0, 20, 10), 3);
        assert_eq!(tier(3, 0, u64::MAX, 1), 3);
    }

    #[test]
    fn walk_is_by_tier_then_by_arrival() {
        let nodes: Vec<Node> = (0..5).map(|_| Node::new()).collect();
        // SAFETY: one thread, the nodes outlive the lines.
        let seats: Vec<Seat> = nodes.iter().map(|n| unsafe { Seat::new(n) }).collect();
        let mut lines = Lines::new();
        for (seat, (class, since)) in seats.iter().zip([(0, 0), (1, 9), (0, 9), (3, 9), (1, 9)]) {
            seat.with(|e| (e.class, e.since) = (class as u8, since));
            lines.push(*seat);
        }
        let order = |lines: &Lines, now| {
            let mut walk = lines.walk(now);
            std::iter::from_fn(|| walk.next())
                .map(|seat| seats.iter().position(|s| *s == seat).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(order(&lines, 9), [3, 1, 4, 0, 2]);
        assert_eq!(order(&lines, AGEING), [3, 0, 1, 4, 2]);
        lines.unlink(seats[1]);
        lines.unlink(seats[3]);
        assert_eq!(order(&lines, 9), [4, 0, 2]);
        for i in [2, 0, 4] {
            assert!(!lines.is_empty());
            lines.unlink(seats[i]);
        }
        assert!(lines.is_empty());
    }

    #[test]
    fn inside_comes_first_and_who_holds_the_higher_kind() {
        let nodes: Vec<Node> = (0..5).map(|_| Node::new()).collect();
        // SAFETY: one thread, the nodes outlive the lines.
        let seats: Vec<Seat> = nodes.iter().map(|n| unsafe { Seat::new(n) }).collect();
        let mut lines = Lines::new();
        let claims = [
            Claim::Class(3),
            Claim::Inside { class: 0, above: 0 },
            Claim::Inside { class: 1, above: 7 },
            Claim::Class(3),
            Claim::Inside { class: 1, above: 7 },
        ];
        for (seat, claim) in seats.iter().zip(claims) {
            seat.with(|e| e.set_claim(claim));
            lines.push(*seat);
        }
        let order = |lines: &Lines| {
            let mut walk = lines.walk(u64::MAX);
            std::iter::from_fn(|| walk.next())
                .map(|seat| seats.iter().position(|s| *s == seat).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(order(&lines), [2, 4, 1, 0, 3]);
        // Who is put back has his old place, wherever it was.
        for i in [2, 1, 0, 4] {
            lines.unlink(seats[i]);
            lines.put_back(seats[i]);
            assert_eq!(order(&lines), [2, 4, 1, 0, 3]);
        }
        lines.unlink(seats[2]);
        lines.unlink(seats[0]);
        lines.put_back(seats[0]);
        lines.put_back(seats[2]);
        assert_eq!(order(&lines), [2, 4, 1, 0, 3]);
    }
}
