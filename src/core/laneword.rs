//! A lane's word: how many entries wait in it, and the reasons that none may be taken, in one `AtomicU64`.
//!
//! Lock-free. One word, so that "has work" and "may run" are one question with one answer: a pause and a push
//! cannot each believe that the other will wake the workers. The shape is the control word of the JDK's
//! `ThreadPoolExecutor` (`ctl`); the order of blocking is that of every condition wait (register, then test again).
//!
//! ```text
//!  63        35   34     33      32   31                 0
//!  +-----------+------+--------+--------+-----------------+
//!  |   zero    | RATE | PERMIT | PAUSED |     pending     |
//!  +-----------+------+--------+--------+-----------------+
//! ```
//!
//! | pending | reasons | the lane is | `take` | `take_granted` | `take_any` |
//! |---|---|---|---|---|---|
//! | 0 | any | empty | `Empty` | no | no |
//! | > 0 | none | **ready** | `Got` | yes | yes |
//! | > 0 | `PERMIT`, `RATE` or both | blocked | `Blocked` | yes | yes |
//! | > 0 | `PAUSED`, with or without the others | paused | `Blocked` | no | yes |
//!
//! Invariants:
//! 1. `pending` never exceeds the entries that can be received: a push inserts first and adds then; a remover takes
//!    its ticket here first and receives then. So a receive after a successful take cannot fail.
//! 2. Each change from *not ready* to *ready* is reported as `true` to exactly one caller, who marks the lane in the
//!    [ready set](crate::core::ready). (Back to not ready is not reported: a set bit is only a hint.)
//! 3. Each entry is taken by exactly one remover, whichever of the three takes it uses.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{armed, model_const, ordering};

/// Why a lane that has entries may not hand them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// Somebody paused the lane, its batch or the engine. Stands against grants too.
    Paused = 1,
    /// The next entry waits for permits; its waiter is registered. A cap is a quota, so it is this too.
    Permit = 2,
    /// The next entry waits for its slot of a rate; the lane holds one reservation.
    Rate = 4,
}

/// What [`LaneWord::take`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Take {
    /// One entry is the caller's; `left` more stay. With `left == 0` the caller clears the lane's hint.
    Got {
        /// Entries that stay.
        left: u32,
    },
    /// The lane has no entry.
    Empty,
    /// The lane has entries, and a reason that none is taken.
    Blocked,
}

/// The unpacked word. Nothing outside it shifts bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State(u64);

impl State {
    const PENDING: u64 = u32::MAX as u64;
    const REASONS: u64 = 0b111 << 32;

    const fn bit(reason: Reason) -> u64 {
        (reason as u64) << 32
    }

    const fn pending(self) -> u32 {
        (self.0 & Self::PENDING) as u32
    }

    const fn has(self, reason: Reason) -> bool {
        self.0 & Self::bit(reason) != 0
    }

    const fn ready(self) -> bool {
        self.pending() != 0 && self.0 & Self::REASONS == 0
    }

    /// Whether a taker that disregards the reasons in `despite` may take.
    const fn open_to(self, despite: u64) -> bool {
        self.pending() != 0 && self.0 & Self::REASONS & !despite == 0
    }
}

/// See the head of this file.
#[derive(Debug)]
pub struct LaneWord(AtomicU64);

impl Default for LaneWord {
    fn default() -> Self {
        Self::new()
    }
}

impl LaneWord {
    model_const! {
        /// No entries, no reasons.
        pub const fn new() -> Self { Self(AtomicU64::new(0)) }
    }

    /// Counts `n` entries that have been inserted. True: this made the lane ready, and the caller marks it.
    #[inline]
    #[must_use = "true: the caller marks the lane in the ready set"]
    pub fn add(&self, n: u32) -> bool {
        // ORDERING: Release publishes the inserted entries to the take that gets their ticket (Acquire in `take_if`).
        // Acquire pairs with the Release in `unblock`: who marks a lane that another let go on marks after what that one
        // did before, such as moving it in (see `tenancy`).
        let order = ordering!(AcqRel, mutant = "laneword_add_relaxed");
        let order = if armed!(mutant = "laneword_add_release") { Ordering::Release } else { order };
        let old = State(self.0.fetch_add(u64::from(n), order));
        debug_assert!(old.pending().checked_add(n).is_some(), "a lane holds fewer than 2^32 entries");
        !old.ready() && State(old.0 + u64::from(n)).ready()
    }

    /// Takes the ticket for one entry if the lane is ready.
    #[inline]
    pub fn take(&self) -> Take {
        match self.take_if(0) {
            Ok(left) => Take::Got { left },
            Err(state) if state.pending() == 0 => Take::Empty,
            Err(_) => Take::Blocked,
        }
    }

    /// Takes the ticket for one entry although the lane waits for permits or a rate: for the worker that serves the
    /// lane's grant. False: the lane is empty or paused, and the grant goes back.
    #[must_use = "false: the grant is given back"]
    pub fn take_granted(&self) -> bool {
        self.take_if(State::bit(Reason::Permit) | State::bit(Reason::Rate)).is_ok()
    }

    /// Takes the ticket for one entry whatever stands against it: for cancel and shutdown.
    #[must_use = "false: there was no entry"]
    pub fn take_any(&self) -> bool {
        self.take_if(State::REASONS).is_ok()
    }

    /// Takes one, disregarding the reasons in `despite`. The entries left, or the state that forbade it.
    #[inline]
    fn take_if(&self, despite: u64) -> Result<u32, State> {
        let mut state = State(self.0.load(Ordering::Relaxed));
        loop {
            if !state.open_to(despite) {
                return Err(state);
            }
            if armed!(mutant = "laneword_take_without_cas") {
                self.0.store(state.0 - 1, Ordering::Release);
                return Ok(state.pending() - 1);
            }
            // ORDERING: Acquire pairs with the Release in `add`: the entry behind the ticket is there.
            let took =
                self.0.compare_exchange_weak(state.0, state.0 - 1, Ordering::Acquire, Ordering::Relaxed);
            match took {
                Ok(_) => return Ok(state.pending() - 1),
                Err(now) => state = State(now),
            }
        }
    }

    /// Lets a reason stand. It alone stops nobody who took a ticket before.
    pub fn block(&self, reason: Reason) {
        // ORDERING: AcqRel: the registration that follows in `block_on` comes after it, and who lifts the reason
        // (AcqRel in `unblock`) is after whoever set it.
        self.0.fetch_or(State::bit(reason), Ordering::AcqRel);
    }

    /// Lifts a reason. True: this made the lane ready, and the caller marks it.
    #[must_use = "true: the caller marks the lane in the ready set"]
    pub fn unblock(&self, reason: Reason) -> bool {
        // ORDERING: AcqRel pairs with `block` and with the takes that follow (Acquire).
        let old = State(self.0.fetch_and(!State::bit(reason), Ordering::AcqRel));
        if armed!(mutant = "laneword_unblock_silent") {
            return false;
        }
        !old.ready() && State(old.0 & !State::bit(reason)).ready()
    }

    /// Blocks the lane in the only order that loses no wake-up: the reason first, then its waiter is registered,
    /// then the cause is tested again and the reason undone if it has passed. True: the lane is ready (again), and
    /// the caller marks it.
    ///
    /// `passed` must be a read-modify-write against the one that makes the cause pass, or under its latch. Who makes
    /// the cause pass looks for waiters after it, and lifts the reason of those it finds:
    ///
    /// 1. He looks after `register`: he finds the waiter. The reason stood before that, so his `unblock` lifts it.
    ///    (Registered first, the waiter could be served before its reason stands; the reason would then stand with
    ///    nobody to lift it.)
    /// 2. He looks before `register`: the cause had passed before that, so `passed` says so and we lift it.
    /// 3. Both: lifting twice is harmless, `unblock` reports the change to one of us only.
    #[must_use = "true: the caller marks the lane in the ready set"]
    pub fn block_on(&self, reason: Reason, register: impl FnOnce(), passed: impl FnOnce() -> bool) -> bool {
        if armed!(mutant = "laneword_reason_after_registering") {
            register();
            self.block(reason);
        } else {
            self.block(reason);
            register();
        }
        if armed!(mutant = "laneword_no_retest") {
            return false;
        }
        passed() && self.unblock(reason)
    }

    /// Has entries, and no reason stands.
    #[inline]
    pub fn is_ready(&self) -> bool {
        self.state().ready()
    }

    /// Entries that nobody has taken a ticket for.
    pub fn pending(&self) -> u32 {
        self.state().pending()
    }

    /// Whether this reason stands.
    pub fn blocked_by(&self, reason: Reason) -> bool {
        self.state().has(reason)
    }

    #[inline]
    fn state(&self) -> State {
        // ORDERING: Acquire: who sees a reason gone sees what was done before it was lifted.
        State(self.0.load(Ordering::Acquire))
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    const REASONS: [Reason; 3] = [Reason::Paused, Reason::Permit, Reason::Rate];

    #[test]
    fn table() {
        for reasons in 0..8u8 {
            for pending in 0..3u32 {
                let make = || {
                    let word = LaneWord::new();
                    for r in REASONS.into_iter().filter(|r| reasons & *r as u8 != 0) {
                        word.block(r);
                    }
                    assert_eq!(word.add(pending), pending > 0 && reasons == 0);
                    word
                };
                let paused = reasons & Reason::Paused as u8 != 0;
                let expected = match (pending, reasons) {
                    (0, _) => Take::Empty,
                    (_, 0) => Take::Got { left: pending - 1 },
                    _ => Take::Blocked,
                };
                assert_eq!(make().take(), expected);
                assert_eq!(make().take_granted(), pending > 0 && !paused);
                assert_eq!(make().take_any(), pending > 0);
                assert_eq!(make().is_ready(), pending > 0 && reasons == 0);
            }
        }
    }

    #[test]
    fn ready_is_reported_once() {
        let word = LaneWord::new();
        assert!(word.add(2));
        assert!(!word.add(1));
        word.block(Reason::Paused);
        word.block(Reason::Rate);
        assert!(!word.add(1));
        assert!(!word.unblock(Reason::Paused));
        assert!(word.unblock(Reason::Rate));
        assert!(!word.unblock(Reason::Rate));
        assert_eq!(word.pending(), 4);
    }

    #[test]
    fn unblocking_an_empty_lane_makes_nothing_ready() {
        let word = LaneWord::new();
        word.block(Reason::Permit);
        assert!(word.blocked_by(Reason::Permit));
        assert!(!word.unblock(Reason::Permit));
        assert!(!word.is_ready());
    }

    #[test]
    fn a_cause_that_has_passed_undoes_its_reason() {
        let word = LaneWord::new();
        assert!(word.add(1));
        assert!(word.block_on(Reason::Permit, || (), || true));
        assert!(!word.block_on(Reason::Permit, || (), || false));
        assert_eq!(word.take(), Take::Blocked);
    }
}
