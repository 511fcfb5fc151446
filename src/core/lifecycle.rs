//! Open, draining, stopped, and how many are inside: one word, so that closing and the last one out agree on who
//! of them goes on.
//!
//! Lock-free; `leave` and `close` are wait-free. The idea is the JDK's `ThreadPoolExecutor.ctl` (run state and count
//! in one word, states ordered, never back) and the rundown protection of operating-system kernels.
//!
//! ```text
//!  63     62 61                                   0
//!  +--------+--------------------------------------+
//!  | phase  |              in flight               |
//!  +--------+--------------------------------------+
//! ```
//!
//! | phase | bits | `enter` | `enter_draining` | leads to |
//! |---|---|---|---|---|
//! | `Running` | 00 | yes | yes | `Draining`, `Stopped`: by `close` |
//! | `Draining` | 01 | no | yes | `Stopped`: by `close` |
//! | `Stopped` | 11 | no | no | nowhere |
//!
//! Each phase's bits contain those before it, so that `close` is one `fetch_or` and can only go forward.
//!
//! Invariants:
//! 1. Nobody gets in through `enter` after a `close`, nor at all after `close(Stopped)`.
//! 2. Of `close` and the leaving of those inside, exactly one reports that the place is empty: both are
//!    read-modify-writes of one word. `close` came last: it sees the count at zero and returns true. A `leave` came
//!    last: it sees the phase and its own 1, and returns true. (`enter_draining` may fill the place again; then the
//!    next to empty it reports again. After `close(Stopped)` the report is final.)
//! 3. Who gets the report sees all that those inside did.
//!
//! The one out of the door touches nothing that the closer may free: a `leave` that returned true still has to
//! signal, so what it signals with (an `Unparker`, a clone of an `Arc`) is its own, taken before `leave`.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{armed, model_const, ordering};

/// How far a [`Lifecycle`] has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Open.
    Running = 0b00,
    /// No new work; what is inside may bring in what it needs to finish.
    Draining = 0b01,
    /// Closed for good.
    Stopped = 0b11,
}

/// The unpacked word. Nothing outside it shifts bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State(u64);

impl State {
    const SHIFT: u32 = 62;
    const COUNT: u64 = (1 << Self::SHIFT) - 1;

    const fn bits(phase: Phase) -> u64 {
        (phase as u64) << Self::SHIFT
    }

    const fn phase(self) -> Phase {
        match self.0 >> Self::SHIFT {
            0b00 => Phase::Running,
            0b01 => Phase::Draining,
            _ => Phase::Stopped,
        }
    }

    const fn in_flight(self) -> u64 {
        self.0 & Self::COUNT
    }
}

/// See the head of this file.
#[derive(Debug)]
pub struct Lifecycle(AtomicU64);

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Lifecycle {
    model_const! {
        /// Running, nobody inside.
        pub const fn new() -> Self { Self(AtomicU64::new(0)) }
    }

    /// Goes in, unless closing has begun. True: the caller leaves exactly once.
    #[inline]
    #[must_use = "true: the caller is inside and must leave"]
    pub fn enter(&self) -> bool {
        self.enter_up_to(Phase::Running)
    }

    /// Goes in, unless stopped: for work that the draining itself needs. True: the caller leaves exactly once.
    #[must_use = "true: the caller is inside and must leave"]
    pub fn enter_draining(&self) -> bool {
        self.enter_up_to(Phase::Draining)
    }

    #[inline]
    fn enter_up_to(&self, last: Phase) -> bool {
        if armed!(mutant = "lifecycle_enter_unchecked") {
            let seen = State(self.0.load(Ordering::Acquire));
            return seen.phase() <= last && {
                self.0.fetch_add(1, Ordering::Acquire);
                true
            };
        }
        // ORDERING: Acquire, here and below, pairs with the Release in `close`: who is refused sees why.
        let mut state = State(self.0.load(Ordering::Acquire));
        loop {
            if state.phase() > last {
                return false;
            }
            let entered =
                self.0.compare_exchange_weak(state.0, state.0 + 1, Ordering::Acquire, Ordering::Acquire);
            match entered {
                Ok(_) => return true,
                Err(now) => state = State(now),
            }
        }
    }

    /// Goes out. True: the last one out of a closing lifecycle; the caller signals who waits for that.
    #[inline]
    #[must_use = "true: the caller signals the closer"]
    pub fn leave(&self) -> bool {
        // ORDERING: Release hands what we did to the one who gets the report; Acquire, for the case that it is us,
        // takes what the others did. Pairs with itself and with `close`.
        let old = State(self.0.fetch_sub(1, ordering!(AcqRel, mutant = "lifecycle_leave_relaxed")));
        debug_assert!(old.in_flight() > 0, "left without having entered");
        if armed!(mutant = "lifecycle_leave_silent") {
            return false;
        }
        old.in_flight() == 1 && old.phase() != Phase::Running
    }

    /// Goes forward to `to` (or stays, if it is there or further). True: nobody is inside, and the caller goes on at
    /// once; false: the `leave` that returns true signals.
    #[must_use = "false: somebody is inside, wait for the signal"]
    pub fn close(&self, to: Phase) -> bool {
        // ORDERING: Release shows the refused what led to closing (Acquire in `enter_up_to`); Acquire takes what
        // those who left did (Release in `leave`).
        let old =
            State(self.0.fetch_or(State::bits(to), ordering!(AcqRel, mutant = "lifecycle_close_relaxed")));
        if armed!(mutant = "lifecycle_close_reports_always") {
            return true;
        }
        old.in_flight() == 0
    }

    /// How far it has gone.
    pub fn state(&self) -> Phase {
        // ORDERING: Acquire pairs with the Release in `close`.
        State(self.0.load(Ordering::Acquire)).phase()
    }

    /// How many are inside. Zero is no permission to free what the last one out may still signal with.
    pub fn in_flight(&self) -> u64 {
        // ORDERING: Acquire pairs with the Release in `leave`.
        State(self.0.load(Ordering::Acquire)).in_flight()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn empty_closes_at_once() {
        let life = Lifecycle::new();
        assert!(life.enter());
        assert!(!life.leave(), "a running lifecycle signals nobody");
        assert!(life.close(Phase::Draining));
        assert!(!life.enter());
        assert_eq!((life.state(), life.in_flight()), (Phase::Draining, 0));
    }

    #[test]
    fn last_one_out_reports() {
        let life = Lifecycle::new();
        assert!(life.enter() && life.enter());
        assert!(!life.close(Phase::Stopped));
        assert_eq!([life.leave(), life.leave()], [false, true]);
    }

    #[test]
    fn draining_lets_in_what_it_needs() {
        let life = Lifecycle::new();
        assert!(life.enter());
        assert!(!life.close(Phase::Draining));
        assert!(life.enter_draining());
        assert!(!life.leave());
        assert!(!life.close(Phase::Stopped));
        assert!(!life.enter_draining());
        assert!(life.leave());
    }

    #[test]
    fn never_back() {
        let life = Lifecycle::new();
        assert!(life.close(Phase::Stopped));
        assert!(life.close(Phase::Draining));
        assert_eq!(life.state(), Phase::Stopped);
        assert!(life.close(Phase::Running));
        assert_eq!(life.state(), Phase::Stopped);
    }
}
