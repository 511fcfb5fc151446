//! An attempt at an item: whose its end is, and how many of its effects are on their way, in one word.
//!
//! An attempt ends once: its worker settles it, or the supervisor abandons it and the item goes to somebody else.
//! What an attempt hands to the journal meanwhile (a step, a child, a commit) is an *effect*: it goes into the
//! journal's inbox between [`enter`](Attempt::enter) and [`leave`](Attempt::leave), on any thread of the item,
//! several at a time. The word is the fence: **every effect that was let in is in the inbox before the item is
//! settled or put anywhere by who abandoned it, and none is let in afterwards.**
//!
//! Wait-free: `begin`, `end`, `leave`, the looks, and `settle` while no effect is on its way. Lock-free: `enter`,
//! `abandon`. Only `settle` waits, for effects on other threads of its own item: as long as a push takes. The idea is
//! the epoch (fencing token) of leases, joined with the rundown protection of operating-system kernels.
//!
//! ```text
//!  63            13 12        3 2     0
//!  +---------------+-----------+-------+
//!  |     epoch     |  effects  | phase |
//!  +---------------+-----------+-------+
//! ```
//!
//! | phase | effects | meaning | `enter` | `settle` | `abandon` | who moves it on |
//! |---|---|---|---|---|---|---|
//! | `Idle` | 0 | no attempt in hand; `epoch` was the last | stale | lost | not current | `begin`: `Running` or `Pinned`, next epoch |
//! | `Running` | n | in hand | n + 1 | n = 0: `Idle`; else `Settling` | n = 0: `Idle`, done; else `Abandoned`, busy | whoever comes first |
//! | `Pinned` | 0 | in hand; nobody may take it, it has no effects | stale | a mistake | not current | `end`: `Idle` |
//! | `Settling` | n | the worker's end, effects still come | stale | | not current | the settling worker, at n = 0: `Idle` |
//! | `Abandoned` | n | the supervisor's end, effects still come | stale | lost | n = 0: `Idle`, done; else busy | the next `abandon` at n = 0 |
//!
//! All of it holds for the attempt of this epoch only; to the handles of an earlier one every answer is the refusal.
//!
//! Why it holds:
//! 1. *One end.* `Running` is left by one read-modify-write, which names the epoch: of `settle` and `abandon` one
//!    succeeds, and whoever loses sees what the winner did before. Of several who ask an `Abandoned` word exactly one
//!    hears `Done`: it is the one that makes it `Idle`.
//! 2. *None afterwards.* `enter` counts and checks by one compare-exchange. It comes before the one that leaves
//!    `Running`, and is counted in what that one saw; or after it, and is refused. A refusal as stale is final: the
//!    attempt's own outcome will be dropped too, or was given before.
//! 3. *All before.* The end is `Idle`, and only a word with no effects becomes so: at once, or, since nothing adds to
//!    the count in `Settling` and `Abandoned`, once the last effect has left. The last one out has nothing to do: its
//!    subtraction completes the transition. Each `leave` releases its push, all writes from there on are
//!    read-modify-writes, and who makes or finds the count zero acquires.
//! 4. *Nobody waits for a preempted worker but its own item.* `abandon` answers `Busy` and has closed the door; the
//!    item stays where it is until a later call hears `Done`.
//! 5. *Stores are safe* where they are used: `Idle` and `Pinned` words stand still but for their owner (everybody
//!    else's compare-exchange names `Running` or `Abandoned`), and so does a `Settling` word without effects.
//!
//! Bounds: 1,023 effects at a time; the next is refused as [`Full`](Refused::Full). The epoch wraps within its field
//! after 2^51 attempts on one word: at 30 ns each after two years, and then only a handle that slept through exactly
//! all of them would be taken for the current one.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{armed, hint, model_const, ordering, thread};

/// A settling worker spins so often before it gives its core away: an effect is a push under a latch, some hundred
/// nanoseconds, unless its thread has lost its core.
const SPINS: u32 = 64;

/// Which attempt of a word. The first to begin has not the default one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Epoch(u64);

impl Epoch {
    const ONE: u64 = 1 << 13;

    /// Within its field: what is carried out at the top is gone.
    const fn next(self) -> Self {
        Self(self.0.wrapping_add(Self::ONE))
    }

    /// As a number, to be kept in a word of its own. Never `u64::MAX`.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Whose the attempt's end is. See the head of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Phase {
    Idle = 0,
    Running = 1,
    Pinned = 2,
    Settling = 3,
    Abandoned = 4,
}

/// The unpacked word. Nothing outside it shifts bits, and the epoch stays in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State(u64);

impl State {
    const PHASE: u64 = 0b111;
    const EFFECT: u64 = 1 << 3;
    const EPOCH: u64 = !(Epoch::ONE - 1);
    const MAX_EFFECTS: u64 = (Epoch::ONE - 1) / Self::EFFECT;

    const fn new(epoch: Epoch, phase: Phase) -> Self {
        Self(epoch.0 | phase as u64)
    }

    const fn epoch(self) -> Epoch {
        Epoch(self.0 & Self::EPOCH)
    }

    const fn effects(self) -> u64 {
        (self.0 & !Self::EPOCH) / Self::EFFECT
    }

    const fn phase(self) -> Phase {
        match self.0 & Self::PHASE {
            0 => Phase::Idle,
            1 => Phase::Running,
            2 => Phase::Pinned,
            3 => Phase::Settling,
            _ => Phase::Abandoned,
        }
    }

    /// The same attempt, with the same effects on their way.
    const fn to(self, phase: Phase) -> Self {
        Self(self.0 & !Self::PHASE | phase as u64)
    }

    /// With one effect more. Only below the bound.
    const fn entered(self) -> Self {
        Self(self.0 + Self::EFFECT)
    }
}

/// Why an effect was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// The attempt is over for its item: settled, or abandoned.
    Stale,
    /// As many effects of the attempt as there may be are on their way at this moment.
    Full,
}

/// What became of an [`abandon`](Attempt::abandon).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Abandon {
    /// The item is the caller's, and so are all effects that were let in.
    Done,
    /// The attempt was settled, or somebody else has heard `Done`, or it is none that may be abandoned.
    NotCurrent,
    /// It is taken from its worker and nothing more is let in, but an effect is still on its way: ask again.
    Busy,
}

/// What a look finds in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InHand {
    /// Which attempt.
    pub epoch: Epoch,
    /// An `abandon` was answered `Busy`, and none `Done` yet.
    pub abandoned: bool,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Attempt(AtomicU64);

impl Default for Attempt {
    fn default() -> Self {
        Self::new()
    }
}

impl Attempt {
    /// So many effects of one attempt are on their way at most.
    pub const MAX_EFFECTS: u64 = State::MAX_EFFECTS;

    model_const! {
        /// Nothing in hand.
        pub const fn new() -> Self { Self(AtomicU64::new(0)) }
    }

    // ---- the owner's side --------------------------------------------------------------------------------

    /// Takes an attempt in hand. The caller owns the idle word: it settled or ended the attempt before, or comes after
    /// the one that heard `Done`.
    #[inline]
    pub fn begin(&self) -> Epoch {
        self.start(Phase::Running)
    }

    /// As [`begin`](Attempt::begin), for an attempt that nobody may abandon and that has no effects.
    #[inline]
    pub fn begin_pinned(&self) -> Epoch {
        self.start(Phase::Pinned)
    }

    #[inline(always)]
    fn start(&self, phase: Phase) -> Epoch {
        // Relaxed: an idle word stands still, and its owner knows its last value.
        let old = State(self.0.load(Ordering::Relaxed));
        debug_assert_eq!((old.phase(), old.effects()), (Phase::Idle, 0), "begun with an attempt in hand");
        // Idle and without effects, it is the epoch and nothing else.
        let epoch = Epoch(old.0).next();
        // ORDERING: Release pairs with the Acquire in `in_hand`: who sees the attempt sees what belongs to it.
        self.0.store(State::new(epoch, phase).0, ordering!(Release, mutant = "attempt_begin_relaxed"));
        epoch
    }

    /// Ends a pinned attempt.
    #[inline]
    pub fn end(&self, epoch: Epoch) {
        debug_assert_eq!(
            self.0.load(Ordering::Relaxed),
            State::new(epoch, Phase::Pinned).0,
            "ended what is not pinned"
        );
        // ORDERING: Release pairs with the Acquire in `is_current`.
        self.0.store(State::new(epoch, Phase::Idle).0, Ordering::Release);
    }

    /// Ends the attempt of `begin`, after the effects that were let in. False: it was abandoned, and what it brought
    /// is to be dropped.
    #[inline]
    #[must_use = "false: the outcome is not the caller's to give"]
    pub fn settle(&self, epoch: Epoch) -> bool {
        if armed!(mutant = "attempt_settle_by_store") {
            self.0.store(State::new(epoch, Phase::Idle).0, Ordering::Release);
            return true;
        }
        // ORDERING: Acquire takes the effects (Release in `leave`); Release shows an abandoner that comes too late
        // what was done here. On failure Acquire: the other way round (Release in `abandon`).
        let settled = self.0.compare_exchange(
            State::new(epoch, Phase::Running).0,
            State::new(epoch, Phase::Idle).0,
            ordering!(AcqRel, mutant = "attempt_settle_relaxed"),
            ordering!(Acquire, mutant = "attempt_settle_lost_relaxed"),
        );
        match settled {
            Ok(_) => true,
            Err(now) => self.settle_after_effects(epoch, State(now)),
        }
    }

    /// Effects are on their way on other threads of the item, or it was abandoned.
    #[cold]
    fn settle_after_effects(&self, epoch: Epoch, mut state: State) -> bool {
        loop {
            if state.epoch() != epoch || state.phase() != Phase::Running {
                debug_assert_ne!(state, State::new(epoch, Phase::Pinned), "a pinned attempt is ended");
                return false;
            }
            if armed!(mutant = "attempt_settle_without_closing") {
                break;
            }
            // ORDERING: as in `settle`; the Acquire for the effects is in the wait below.
            let closed = self.0.compare_exchange_weak(
                state.0,
                state.to(Phase::Settling).0,
                ordering!(Release, mutant = "attempt_closing_relaxed"),
                Ordering::Acquire,
            );
            match closed {
                Ok(_) => break,
                Err(now) => state = State(now),
            }
        }
        let mut spins = 0;
        // ORDERING: Acquire takes the effects (Release in `leave`).
        while State(self.0.load(ordering!(Acquire, mutant = "attempt_wait_relaxed"))).effects() > 0 {
            if armed!(mutant = "attempt_settle_ignores_effects") {
                break;
            }
            if spins < SPINS {
                spins += 1;
                hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
        // ORDERING: Release, as in `settle`: this store ends the release sequence of the closing.
        self.0.store(
            State::new(epoch, Phase::Idle).0,
            ordering!(Release, mutant = "attempt_settled_late_relaxed"),
        );
        true
    }

    // ---- the item's side ---------------------------------------------------------------------------------

    /// An effect of this attempt is about to go into the inbox. `Ok`: the caller puts it there without waiting for
    /// anything but the inbox's latch, and leaves.
    ///
    /// # Errors
    /// [`Refused::Stale`] for good; [`Refused::Full`] while that many are on their way.
    #[inline]
    pub fn enter(&self, epoch: Epoch) -> Result<(), Refused> {
        if armed!(mutant = "attempt_enter_in_two_steps") {
            let seen = State(self.0.load(Ordering::Acquire));
            if seen.epoch() != epoch || seen.phase() != Phase::Running {
                return Err(Refused::Stale);
            }
            self.0.fetch_add(State::EFFECT, Ordering::AcqRel);
            return Ok(());
        }
        // Most often it is alone: a guess saves the load.
        let mut state = State::new(epoch, Phase::Running);
        loop {
            // Relaxed: it counts, and nothing that others wrote is read because of it. That the push is seen by who
            // ends the attempt is the business of `leave`.
            let entered = self.0.compare_exchange_weak(
                state.0,
                state.entered().0,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match entered {
                Ok(_) => return Ok(()),
                Err(now) => state = State(now),
            }
            let open = state.phase() == Phase::Running
                || (state.phase() == Phase::Abandoned && armed!(mutant = "attempt_enter_after_abandon"));
            let mine = state.epoch() == epoch || armed!(mutant = "attempt_enter_ignores_epoch");
            if !open || !mine {
                return Err(Refused::Stale);
            }
            if state.effects() == State::MAX_EFFECTS {
                return Err(Refused::Full);
            }
        }
    }

    /// The effect is in the inbox. Once for each `enter` that let one in.
    #[inline]
    pub fn leave(&self) {
        // ORDERING: Release hands the push to whoever ends the attempt (Acquire in `settle`, `abandon`).
        let old =
            State(self.0.fetch_sub(State::EFFECT, ordering!(Release, mutant = "attempt_leave_relaxed")));
        debug_assert!(old.effects() > 0, "left without having entered");
    }

    /// Whether this attempt is in its worker's hand: not settled, not abandoned.
    #[inline]
    pub fn is_current(&self, epoch: Epoch) -> bool {
        // ORDERING: Acquire pairs with the Release of whoever ended it: who is told so sees what led to it.
        let state = State(self.0.load(Ordering::Acquire));
        state.epoch() == epoch && matches!(state.phase(), Phase::Running | Phase::Pinned)
    }

    // ---- the supervisor's side ---------------------------------------------------------------------------

    /// Takes the attempt from a worker that does not return. Whatever the answer but `NotCurrent`, the worker's
    /// `settle` fails from now on; only `Done`, which one caller hears, lets the item go anywhere else.
    #[must_use = "only `Done` hands over the item, and `Busy` asks for another call"]
    pub fn abandon(&self, epoch: Epoch) -> Abandon {
        let mut state = State::new(epoch, Phase::Running);
        loop {
            if state.epoch() != epoch {
                return Abandon::NotCurrent;
            }
            let empty = state.effects() == 0 || armed!(mutant = "attempt_abandon_ignores_effects");
            let next = match state.phase() {
                Phase::Abandoned if empty && armed!(mutant = "attempt_done_twice") => return Abandon::Done,
                Phase::Running | Phase::Abandoned if empty => state.to(Phase::Idle),
                Phase::Pinned if armed!(mutant = "attempt_abandon_pinned") => state.to(Phase::Idle),
                Phase::Running => state.to(Phase::Abandoned),
                Phase::Abandoned => return Abandon::Busy,
                Phase::Idle | Phase::Pinned | Phase::Settling => return Abandon::NotCurrent,
            };
            // ORDERING: Acquire takes the effects (Release in `leave`); Release shows the worker that comes too late
            // what was done here. On failure Acquire: the other way round (Release in `settle`).
            let taken = self.0.compare_exchange_weak(
                state.0,
                next.0,
                ordering!(AcqRel, mutant = "attempt_abandon_relaxed"),
                ordering!(Acquire, mutant = "attempt_abandon_lost_relaxed"),
            );
            match taken {
                Ok(_) if next.phase() == Phase::Idle => return Abandon::Done,
                Ok(_) => return Abandon::Busy,
                Err(now) => state = State(now),
            }
        }
    }

    /// The attempt in hand, if one is.
    #[inline]
    pub fn in_hand(&self) -> Option<InHand> {
        // ORDERING: Acquire pairs with the Release in `begin`.
        let state = State(self.0.load(Ordering::Acquire));
        let abandoned = state.phase() == Phase::Abandoned;
        (state.phase() != Phase::Idle).then(|| InHand { epoch: state.epoch(), abandoned })
    }

    /// The attempt that began last, in hand or not.
    pub fn last(&self) -> Epoch {
        State(self.0.load(Ordering::Relaxed)).epoch()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    const LAST: Epoch = Epoch(State::EPOCH);

    fn state(attempt: &Attempt) -> State {
        State(attempt.0.load(Ordering::Relaxed))
    }

    #[test]
    fn fields_do_not_touch() {
        let mut full = State::new(LAST, Phase::Running);
        for _ in 0..State::MAX_EFFECTS {
            full = full.entered();
        }
        for phase in [Phase::Idle, Phase::Running, Phase::Pinned, Phase::Settling, Phase::Abandoned] {
            let state = full.to(phase);
            assert_eq!((state.epoch(), state.effects(), state.phase()), (LAST, State::MAX_EFFECTS, phase));
        }
        assert_eq!(State::new(LAST, Phase::Idle).effects(), 0);
        assert_eq!(State::MAX_EFFECTS, 1_023);
        assert_eq!(LAST.next(), Epoch::default());
        assert_ne!(LAST.get(), u64::MAX);
    }

    #[test]
    fn one_end_each() {
        let attempt = Attempt::new();
        let first = attempt.begin();
        assert_eq!(attempt.in_hand(), Some(InHand { epoch: first, abandoned: false }));
        assert!(attempt.is_current(first) && attempt.settle(first));
        assert_eq!((attempt.settle(first), attempt.abandon(first)), (false, Abandon::NotCurrent));
        let second = attempt.begin();
        assert_eq!(attempt.abandon(second), Abandon::Done);
        assert_eq!((attempt.settle(second), attempt.abandon(second)), (false, Abandon::NotCurrent));
        assert_eq!((attempt.in_hand(), attempt.last()), (None, second));
    }

    #[test]
    fn stale_handles_get_nothing() {
        let attempt = Attempt::new();
        let old = attempt.begin();
        assert_eq!(attempt.abandon(old), Abandon::Done);
        let new = attempt.begin();
        assert_eq!(attempt.enter(old), Err(Refused::Stale));
        assert_eq!((attempt.settle(old), attempt.abandon(old)), (false, Abandon::NotCurrent));
        assert!(!attempt.is_current(old) && attempt.is_current(new));
        assert!(attempt.settle(new));
        assert_eq!(attempt.enter(new), Err(Refused::Stale));
    }

    #[test]
    fn abandoning_waits_for_the_last_effect() {
        let attempt = Attempt::new();
        let epoch = attempt.begin();
        assert_eq!([attempt.enter(epoch), attempt.enter(epoch)], [Ok(()), Ok(())]);
        assert_eq!(attempt.abandon(epoch), Abandon::Busy);
        assert_eq!(attempt.in_hand(), Some(InHand { epoch, abandoned: true }));
        assert_eq!(attempt.enter(epoch), Err(Refused::Stale));
        assert!(!attempt.settle(epoch) && !attempt.is_current(epoch));
        attempt.leave();
        assert_eq!(attempt.abandon(epoch), Abandon::Busy);
        attempt.leave();
        assert_eq!(attempt.abandon(epoch), Abandon::Done);
        assert_eq!(attempt.abandon(epoch), Abandon::NotCurrent);
    }

    #[test]
    fn settling_refuses_everybody() {
        let attempt = Attempt::new();
        let epoch = attempt.begin();
        assert_eq!(attempt.enter(epoch), Ok(()));
        crate::sync::thread::scope(|scope| {
            let worker = scope.spawn(|| attempt.settle(epoch));
            while state(&attempt).phase() == Phase::Running {
                hint::spin_loop();
            }
            assert_eq!(attempt.enter(epoch), Err(Refused::Stale));
            assert_eq!(attempt.abandon(epoch), Abandon::NotCurrent);
            assert!(!worker.is_finished(), "an effect is on its way");
            attempt.leave();
            assert!(worker.join().unwrap());
        });
        assert_eq!(attempt.in_hand(), None);
    }

    #[test]
    fn pinned_is_nobody_elses() {
        let attempt = Attempt::new();
        let epoch = attempt.begin_pinned();
        assert_eq!(attempt.abandon(epoch), Abandon::NotCurrent);
        assert_eq!(attempt.enter(epoch), Err(Refused::Stale));
        assert!(attempt.is_current(epoch));
        attempt.end(epoch);
        assert!(!attempt.is_current(epoch));
        assert_ne!(attempt.begin(), epoch);
    }

    #[test]
    fn full_is_told_apart() {
        let attempt = Attempt(AtomicU64::new(State::new(LAST, Phase::Idle).0));
        attempt.begin_pinned();
        attempt.end(attempt.last());
        let epoch = attempt.begin();
        for _ in 0..Attempt::MAX_EFFECTS {
            assert_eq!(attempt.enter(epoch), Ok(()));
        }
        assert_eq!(attempt.enter(epoch), Err(Refused::Full));
        assert_eq!((state(&attempt).epoch(), state(&attempt).phase()), (epoch, Phase::Running));
        attempt.leave();
        assert_eq!(attempt.enter(epoch), Ok(()));
        assert_eq!(attempt.abandon(epoch), Abandon::Busy);
        assert_eq!(attempt.enter(epoch), Err(Refused::Stale), "full or not, it is over");
        (0..Attempt::MAX_EFFECTS).for_each(|_| attempt.leave());
        assert_eq!(attempt.abandon(epoch), Abandon::Done);
    }

    #[test]
    fn epochs_wrap() {
        let attempt = Attempt(AtomicU64::new(State::new(LAST, Phase::Idle).0));
        let epoch = attempt.begin();
        assert_eq!(epoch, Epoch::default());
        assert_eq!(attempt.enter(LAST), Err(Refused::Stale));
        assert!(attempt.is_current(epoch) && attempt.settle(epoch));
    }
}
