//! Who waits for a rate in order of priority: one watches the clock, the others sleep until they are told.
//!
//! Blocking: everything happens under one short latch, with one call to the outside (`take`, which moves the bucket).
//! Whom to tell is collected under the latch and told after it. (The pattern is RocksDB's rate limiter's: a leader
//! sleeps for all, which spares the herd. What is added: nothing is reserved while anybody sleeps, so leaving is
//! unlinking, and whatever the leader does, somebody leads after it.)
//!
//! **The order** is that of [`lines`](super::waitlist::lines): by tier, which is the class and one more for each ten
//! seconds waited, then by arrival. The class itself never changes.
//!
//! **The look.** Who arrives, who leaves and who wakes takes the latch and looks: the head of the order takes its tokens
//! if they are there, and so does the next, until a head has to wait. That one *leads*: it alone sleeps to a time, which
//! is its own. If it was not the leader before, it is told. So at each release of the latch:
//!
//! | waiters | `leader` | who acts next |
//! |---|---|---|
//! | none | 0 | nobody has to |
//! | some | the number of the head at the last look | the leader, awake, or told, or asleep to a time at or before its own |
//!
//! | a node | is | its thread |
//! |---|---|---|
//! | `Waiting`, number = `leader` | the head | sleeps to its time, or to when ageing may put another first, or to its deadline; then looks |
//! | `Waiting`, otherwise | a follower | sleeps until it is told, or to its deadline; then looks |
//! | `Granted` | unlinked, its tokens taken at `stamp` | returns |
//! | `Never` | unlinked: its demand can never be met | returns |
//!
//! 1. *Nobody is forgotten.* Each way out of the line (grant, refusal, deadline, a panic that unwinds) ends with a look by
//!    who took the way, and a look ends with a leader if anybody waits.
//! 2. *A grant against a deadline* has one winner: who gives up asks under the latch, and what it was granted before is
//!    its own.
//! 3. *A leader that moved down* (a higher class came) sleeps to a time for nothing once, looks, and follows.
//! 4. *Terms that change* move the leader's time only: [`Leader::kick`] tells it.
//!
//! **No time is lost to late sleepers.** A demand is taken as of the first moment at which it could have been, not before
//! it came and not before the last grant: `take` is given both. A leader that wakes late so grants the past as it
//! would have been, and the next one's time does not depend on the delay.
//!
//! **Newcomers** who will not wait look at `waiting` first and leave if it is not zero. One that looked before somebody
//! came may take after it: their calls overlap. It makes the head wait longer, and the head finds that out when it
//! looks.

// The models reach this module from outside; parkers stay inside.
#![cfg_attr(any(loom, shuttle), allow(private_interfaces))]

#[cfg(all(test, not(any(loom, shuttle))))]
mod laws;

use super::waitlist::lines::{Lines, Node, Seat};
use super::waitlist::wakes::Wakes;
use super::waitlist::{Demand, NodeState, Waiter};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{CachePadded, Mutex, MutexGuard, Parker, armed, ordering};

/// What the head of the order asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// So many tokens.
    pub n: u64,
    /// When it came, in nanoseconds: its tokens may not be taken as of before.
    pub since: u64,
    /// The stamp of the last grant: nor as of before that.
    pub last: u64,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Take {
    /// Taken, as of this stamp.
    At(u64),
    /// Not there before this tick.
    Until(u64),
    /// Never there.
    Never,
}

/// Where a waiter stands after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// It has its tokens, as of this stamp, and is out of the line.
    Granted(u64),
    /// Its demand can never be met; it is out of the line.
    Never,
    /// It leads.
    Lead {
        /// The tick at which its tokens will be there, if nobody changes the terms.
        due: u64,
        /// When ageing may put another first, in nanoseconds.
        rise: Option<u64>,
    },
    /// Another leads; it will be told.
    Follow,
}

/// Why a waiter came back without tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Left {
    /// Its demand can never be met.
    Never,
    /// Its `park` gave up.
    GaveUp,
}

/// See the head of the file.
#[derive(Debug)]
pub struct Leader {
    /// How many wait: what newcomers look at.
    waiting: CachePadded<AtomicU64>,
    /// How many tokens they wait for, or `u64::MAX`.
    units: AtomicU64,
    latch: Mutex<Queue>,
}

struct Queue {
    lines: Lines,
    /// The number of the node that leads; 0: none.
    leader: u64,
    units: u128,
    last: u64,
    /// The latest time that anybody came in with.
    now: u64,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("leader", &self.leader)
            .field("units", &self.units)
            .finish_non_exhaustive()
    }
}

impl Default for Leader {
    fn default() -> Self {
        Self::new()
    }
}

impl Leader {
    /// A line in which nobody waits.
    pub fn new() -> Self {
        let queue = Queue { lines: Lines::new(), leader: 0, units: 0, last: 0, now: 0 };
        Self {
            waiting: CachePadded::new(AtomicU64::new(0)),
            units: AtomicU64::new(0),
            latch: Mutex::new(queue),
        }
    }

    /// How many wait. Who will not wait may take only at zero.
    #[inline]
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How many tokens they wait for, or `u64::MAX` if more.
    pub fn units(&self) -> u64 {
        self.units.load(Ordering::Relaxed)
    }

    /// Since when the one that waits longest has waited.
    pub fn oldest(&self) -> Option<u64> {
        let q = self.enter(0);
        let mut oldest = None;
        q.lines.each(|seat| {
            let since = seat.with(|e| e.since);
            oldest = Some(oldest.map_or(since, |oldest: u64| oldest.min(since)));
            true
        });
        oldest
    }

    /// Joins the line in priority class `class` (cut to the highest), and looks.
    ///
    /// # Safety
    ///
    /// Until a look says `Granted` or `Never`, or [`leave`](Self::leave) has returned, the node must not move or be dropped
    /// or be used elsewhere, and this line must not be dropped.
    pub unsafe fn join(
        &self,
        node: &Node,
        (n, class): (u64, usize),
        now: u64,
        waiter: Waiter,
        take: &mut impl FnMut(Claim) -> Take,
        wake: &mut impl FnMut(&Waiter),
    ) -> Turn {
        let mut q = self.enter(now);
        // SAFETY: the latch is held; the node is alive by this function's contract and not linked.
        let seat = unsafe { Seat::new(node) };
        seat.with(|e| {
            e.class = class.min(super::waitlist::CLASSES - 1) as u8;
            (e.since, e.demand, e.waiter) = (now, Demand::of(0, n), Some(waiter));
        });
        // Nobody reads the entry for having seen `Waiting`: the latch guards it.
        seat.publish(NodeState::Waiting, Ordering::Relaxed);
        q.lines.push(seat);
        self.count(&mut q, 1, i128::from(n));
        self.settle(q, Some(seat), take, wake)
    }

    /// Looks on behalf of a node that joined, and says where it stands.
    pub fn look(
        &self,
        node: &Node,
        now: u64,
        take: &mut impl FnMut(Claim) -> Take,
        wake: &mut impl FnMut(&Waiter),
    ) -> Turn {
        let q = self.enter(now);
        match Self::standing(node) {
            Some(turn) => turn,
            // SAFETY: the latch is held, and the node waits: it is linked.
            None => self.settle(q, Some(unsafe { Seat::new(node) }), take, wake),
        }
    }

    /// Leaves the line, and looks, so that another leads. What was granted before is told: it is the caller's.
    pub fn leave(
        &self,
        node: &Node,
        now: u64,
        take: &mut impl FnMut(Claim) -> Take,
        wake: &mut impl FnMut(&Waiter),
    ) -> Option<Turn> {
        let mut q = self.enter(now);
        let follows = armed!(mutant = "leader_follower_leaves_silently")
            && Self::standing(node).is_none()
            // SAFETY: as below.
            && unsafe { Seat::new(node) }.with(|e| e.seq != q.leader);
        if armed!(mutant = "leader_follower_leaves_silently") {
            drop(q);
            q = self.enter(now);
        }
        if let Some(turn) = Self::standing(node) {
            return Some(turn);
        }
        // SAFETY: the latch is held, and the node waits: it is linked.
        let seat = unsafe { Seat::new(node) };
        self.unseat(&mut q, seat, NodeState::Idle);
        if !armed!(mutant = "leader_leaves_silently") && !follows {
            self.settle(q, None, take, wake);
        }
        None
    }

    /// Refuses the demands above `most`, which can never be met any more, and looks.
    pub fn refuse_above(
        &self,
        most: u64,
        take: &mut impl FnMut(Claim) -> Take,
        wake: &mut impl FnMut(&Waiter),
    ) {
        let mut told = Wakes::default();
        loop {
            let mut q = self.enter(0);
            let mut found = None;
            q.lines.each(|seat| {
                // A walk goes on with the next line whatever it is told.
                found = found.or_else(|| (seat.with(|e| amount(&e.demand)) > most).then_some(seat));
                found.is_none()
            });
            let Some(seat) = found else {
                if !armed!(mutant = "leader_refuses_without_a_look") {
                    self.settle(q, None, take, wake);
                }
                return;
            };
            let refused = self.unseat(&mut q, seat, NodeState::Never);
            drop(q);
            if !armed!(mutant = "leader_refuses_silently") {
                told.push(refused);
                told.deliver(wake);
            }
        }
    }

    /// Tells the leader that its time may have changed.
    pub fn kick(&self, wake: &mut impl FnMut(&Waiter)) {
        let q = self.enter(0);
        let mut leader = None;
        q.lines.each(|seat| {
            seat.with(|e| {
                let mut leads = e.seq == q.leader;
                if armed!(mutant = "leader_kicks_a_follower") {
                    leads = !leads;
                }
                if leads {
                    leader = e.waiter.clone();
                }
            });
            leader.is_none()
        });
        drop(q);
        if let Some(leader) = leader {
            wake(&leader);
        }
    }

    fn enter(&self, now: u64) -> MutexGuard<'_, Queue> {
        let mut q = self.latch.lock();
        q.now = q.now.max(now);
        q
    }

    /// What became of a node, if it is out of the line. The latch is held, or the node's owner asks.
    fn standing(node: &Node) -> Option<Turn> {
        match node.state() {
            NodeState::Waiting => None,
            // SAFETY: out of the line its entry is its owner's, whose reference this is.
            NodeState::Granted => Some(Turn::Granted(unsafe { Seat::new(node) }.with(|e| e.stamp))),
            _ => Some(Turn::Never),
        }
    }

    fn count(&self, q: &mut Queue, waiters: i64, units: i128) {
        q.units = q.units.wrapping_add_signed(units);
        self.units.store(u64::try_from(q.units).unwrap_or(u64::MAX), Ordering::Relaxed);
        if armed!(mutant = "leader_shuts_no_gate") {
            return;
        }
        self.waiting.fetch_add(waiters as u64, Ordering::Relaxed);
    }

    /// Takes a node out of the line and publishes what became of it.
    fn unseat(&self, q: &mut Queue, seat: Seat, state: NodeState) -> Option<Waiter> {
        q.lines.unlink(seat);
        let (waiter, n, seq) = seat.with(|e| (e.waiter.take(), amount(&e.demand), e.seq));
        if q.leader == seq {
            q.leader = 0;
        }
        if !armed!(mutant = "leader_keeps_the_gate_shut") {
            self.count(q, -1, -i128::from(n));
        }
        // ORDERING: Release pairs with the Acquire of `Node::state`: with the state comes the stamp.
        seat.publish(state, ordering!(Release, mutant = "leader_publish_relaxed"));
        waiter
    }

    /// The look: grants what is there in order, makes the first that has to wait the leader, tells whom it concerns.
    fn settle<'a>(
        &'a self,
        mut q: MutexGuard<'a, Queue>,
        mine: Option<Seat>,
        take: &mut impl FnMut(Claim) -> Take,
        wake: &mut impl FnMut(&Waiter),
    ) -> Turn {
        let mut told = Wakes::default();
        // Once out of the line, `mine` is only compared.
        let mut out = None;
        loop {
            let more = self.scan(&mut q, mine, &mut out, &mut told, take);
            let (leader, rise) = (q.leader, q.lines.next_rise(q.leader, q.now));
            // Read under the latch: later it may be anything.
            let leads = out.is_none() && mine.is_some_and(|mine| mine.with(|e| e.seq == leader));
            drop(q);
            told.deliver(wake);
            match more {
                Some(due) => {
                    return out.unwrap_or(if leads { Turn::Lead { due, rise } } else { Turn::Follow });
                }
                None => q = self.enter(0),
            }
        }
    }

    /// One round under the latch. `None`: the room for those to be told ran out. Else the time of the leader.
    fn scan(
        &self,
        q: &mut Queue,
        mine: Option<Seat>,
        out: &mut Option<Turn>,
        told: &mut Wakes,
        take: &mut impl FnMut(Claim) -> Take,
    ) -> Option<u64> {
        loop {
            let Some(head) = q.lines.walk(q.now).next() else { return Some(u64::MAX) };
            if told.full() {
                return None;
            }
            let is_mine = mine == Some(head) && out.is_none();
            let (n, since, seq) = head.with(|e| (amount(&e.demand), e.since, e.seq));
            let (state, turn) = match take(Claim { n, since, last: q.last }) {
                Take::At(stamp) => {
                    q.last = stamp;
                    head.with(|e| e.stamp = stamp);
                    (NodeState::Granted, Turn::Granted(stamp))
                }
                Take::Never => (NodeState::Never, Turn::Never),
                Take::Until(due) => {
                    let within = armed!(mutant = "leader_hands_over_within_its_class")
                        && mine.is_some_and(|mine| mine.with(|e| e.class) != head.with(|e| e.class));
                    if q.leader != seq && !within && !armed!(mutant = "leader_no_hand_over") {
                        q.leader = seq;
                        if !is_mine {
                            told.push(head.with(|e| e.waiter.clone()));
                        }
                    }
                    return Some(due);
                }
            };
            let waiter = self.unseat(q, head, state);
            if is_mine {
                *out = Some(turn);
            } else {
                told.push(waiter);
            }
        }
    }
}

/// The tokens of a demand that was made of one kind.
fn amount(demand: &Demand) -> u64 {
    demand.parts().next().map_or(0, |(_, n)| n)
}

/// A node in the line, to be taken out whatever happens, an unwinding `park` included.
struct Seated<'a, T: FnMut(Claim) -> Take, W: FnMut(&Waiter)> {
    leader: &'a Leader,
    node: &'a Node,
    take: T,
    wake: W,
    out: bool,
}

impl<T: FnMut(Claim) -> Take, W: FnMut(&Waiter)> Drop for Seated<'_, T, W> {
    fn drop(&mut self) {
        if !self.out {
            // Tokens that were granted to an unwinding thread are spent.
            self.leader.leave(self.node, 0, &mut self.take, &mut self.wake);
        }
    }
}

impl Leader {
    /// Waits for `n` tokens in class `class` as long as `park` does; their stamp. `now` reads the time in nanoseconds.
    ///
    /// `park` is told where the waiter stands, sleeps on the parker as long as that allows or until it is told, and
    /// says whether to look again; false: it gives up. A grant that comes at the same time wins.
    ///
    /// # Errors
    ///
    /// The demand can never be met, or `park` gave up: nothing was taken then.
    pub(crate) fn acquire(
        &self,
        (n, class): (u64, usize),
        parker: &Parker,
        now: impl Fn() -> u64,
        take: impl FnMut(Claim) -> Take,
        mut park: impl FnMut(&Parker, Turn) -> bool,
        wake: impl FnMut(&Waiter),
    ) -> Result<u64, Left> {
        let node = Node::new();
        let mut seated = Seated { leader: self, node: &node, take, wake, out: false };
        let waiter = Waiter::Thread(parker.unparker());
        // SAFETY: the node lies in this frame and is not moved; `seated`, which is dropped before it, takes it out of the
        // line before the frame ends. The line is borrowed for longer than that.
        let mut turn =
            unsafe { self.join(&node, (n, class), now(), waiter, &mut seated.take, &mut seated.wake) };
        loop {
            match turn {
                Turn::Granted(_) | Turn::Never => break,
                Turn::Lead { .. } | Turn::Follow => {}
            }
            if !park(parker, turn) {
                match self.leave(&node, now(), &mut seated.take, &mut seated.wake) {
                    Some(Turn::Granted(_)) if armed!(mutant = "leader_loser_drops") => {
                        seated.out = true;
                        return Err(Left::GaveUp);
                    }
                    Some(end) => turn = end,
                    None => {
                        seated.out = true;
                        return Err(Left::GaveUp);
                    }
                }
                break;
            }
            // What it was granted it sees without the latch: who granted is done with the node.
            turn = match Self::standing(&node) {
                Some(end) => end,
                None => self.look(&node, now(), &mut seated.take, &mut seated.wake),
            };
        }
        seated.out = true;
        if let Turn::Granted(stamp) = turn { Ok(stamp) } else { Err(Left::Never) }
    }
}

/// Blocking calls for the models, which cannot make a parker.
#[cfg(any(loom, shuttle))]
impl Leader {
    /// [`acquire`](Self::acquire) with a parker of its own. `lead` is what the leader's sleep does and says, where its time
    /// comes at all: it sleeps until it is told where that is `u64::MAX`; followers sleep until they are told, or do not
    /// sleep and give up (`patient` is false).
    pub fn acquire_alone(
        &self,
        (n, class): (u64, usize),
        patient: bool,
        take: impl FnMut(Claim) -> Take,
        mut lead: impl FnMut(u64) -> bool,
    ) -> Result<u64, Left> {
        let parker = Parker::new();
        let park = |parker: &Parker, turn: Turn| match turn {
            Turn::Lead { due, .. } if due < u64::MAX => lead(due),
            _ if patient => {
                parker.park();
                true
            }
            _ => false,
        };
        self.acquire((n, class), &parker, || 0, take, park, Self::unpark)
    }

    /// Tells a thread.
    pub fn unpark(waiter: &Waiter) {
        if let Waiter::Thread(thread) = waiter {
            thread.unpark();
        }
    }
}
