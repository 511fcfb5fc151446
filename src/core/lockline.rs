//! Who waits for a lock: four classes that age, hand-overs that end barging, and an upgrade that waits for the readers.
//!
//! Coming in and going out without waiters is lock-free and happens in [`lockword`](super::lockword). The waiting side is
//! blocking: it works under one short latch per lock, with no call to the outside; whom to tell is collected under the
//! latch and told after it. (Hand-off after a bounded wait is parking_lot's eventual fairness, by a deterministic rule; that
//! all readers who wait enter together after a writer is the phase rule of Brandenburg and Anderson's phase-fair locks.)
//!
//! **The order** is that of [`lines`](super::waitlist::lines): by tier, which is the class and one more for each
//! [`AGEING`] waited, then by arrival. Waiters enter in this order, with three exceptions: who shares is not held back by
//! one who waits to be the upgradable holder; a newcomer may barge into a free lock (see the word's bar); and at the end of
//! an exclusive hold all who wait to share, with a tier no lower than the best other's, enter together.
//!
//! | node | means | who leaves it |
//! |---|---|---|
//! | `Idle` | in no line; the node is its owner's | `enqueue`: to `Waiting` |
//! | `Waiting` | in its line, asleep; the node is the latch holder's | a look: to `Granted` or `Told`; `cancel`: to `Idle` |
//! | `Told` | in its line, awake: the lock was free when it was told | its own `come`: to `Idle`, with the lock, or `Waiting`; a look: to `Granted`; `cancel`: to `Idle` |
//! | `Granted` | in no line; the word names it, or counts it | its owner: to `Idle`, with the lock |
//!
//! **To tell or to grant.** Who wants the lock for itself is told that it is free, and until it comes others may barge: a
//! lock that is always handed over waits for the next one to get a processor, each time. (If it does not come, others
//! make way for it: [`MAKE_WAY_AFTER`].) It is granted the lock when it
//! has lost [`LOSSES`] times or waited for [`FAIR_AFTER`]. Who shares is always granted: what it holds up is only others
//! who want the lock for themselves. A grant is in the word before it is in the node.
//!
//! 1. *No wake-up is lost.* Who waits is in its line and in the word (`queued`) before it looks; who gives back sees it in the
//!    word. See there. `told` stands in for a look only as long as one is awake that will look: it is cleared in the step
//!    in which that one finds the lock taken, and by who takes it out of its line.
//! 2. *Who leaves the line without the lock looks after the others*: what it held back may go on, and what it was told is
//!    somebody else's.
//! 3. *A grant against a deadline* has one winner: who gives up asks under the latch, and what it was granted before is its
//!    own.
//! 4. *An upgrade* has its own place: its owner holds the lock already, and is handed it by the last reader out. Who gives
//!    an upgrade up is the upgradable holder as before, and lets in whom it kept out.
//! 5. *Overtaking is bounded.* A waiter that wants the lock for itself, or to be the upgradable holder, is passed by those
//!    that come later only if their class is above its tier, which is the top one after `(3 - class) * AGEING`; and by its
//!    equals that barge: until it has come [`LOSSES`] times and found the lock taken, or has waited for [`FAIR_AFTER`] and come
//!    then, or the lock was given back sixteen times since it was told, the last time after [`FAIR_AFTER`]; and by one more, who
//!    finds the lock free before it is looked at, and hands it over. Newcomers go by the bar in the word, and nobody need look at
//!    the line while readers come and go: so who waits wakes when it rises, and looks. One that waits to share is held up only by
//!    waiters for all of it that come before it, by the order at each rise.

// The models reach this module from outside; parkers stay inside.
#![cfg_attr(any(loom, shuttle), allow(private_interfaces))]

#[cfg(any(loom, shuttle))]
mod alone;
mod hasten;
#[cfg(all(test, not(any(loom, shuttle))))]
mod laws;
mod waits;

#[cfg(any(loom, shuttle))]
pub use {self::alone::Place, crate::sync::Cancel};

use self::waits::next_rise;
use super::lockword::{After, LockWord, Miss, Mode, Word};
use super::permits::CLASSES;
use super::waitlist::lines::{Claim, Lines, Node, Seat};
use super::waitlist::wakes::Wakes;
use super::waitlist::{NodeState, Waiter};
use crate::sync::atomic::Ordering;
use crate::sync::{Mutex, MutexGuard, Parker, Unparker, armed, hint, model_const, ordering, thread};
use std::fmt;

/// A waiter rises by one tier for each 10 ms (in nanoseconds) it waits. Long against a hold, short against a deadline.
pub const AGEING: u64 = 10_000_000;
/// Who has waited for 1 ms (in nanoseconds) is handed the lock. About thirty times what it costs to wake a thread.
pub const FAIR_AFTER: u64 = 1_000_000;
/// Who gives the lock back, the sixteenth time that somebody was passed who was told, and sees that this was 50 µs (in nanoseconds)
/// ago, yields its processor once: it may be what that one waits for. (A scheduler may leave who wakes behind who runs for some
/// milliseconds, and another processor idle.)
pub const MAKE_WAY_AFTER: u64 = 50_000;
/// Who has been told so often, and found the lock taken, is handed it.
pub const LOSSES: u32 = 3;
/// How often a newcomer looks again before it queues, and who was passed before it sleeps again: after pauses that double, for a
/// lock is held for less than a yield takes, then after yields. (parking_lot's spin; see `waitlist/acquire.rs`, too.)
const LOOKS: u32 = if cfg!(any(loom, shuttle)) { 0 } else { 10 };
/// The first of them are after 2, 4 and 8 pauses. Who shall go before others queues then, or sleeps: it is no use to yield to them.
const PAUSES: u32 = if cfg!(any(loom, shuttle)) { 0 } else { 3 };
/// The lowest class that shall.
const HIGH: usize = CLASSES / 2;

/// What became of somebody who queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Enqueued {
    /// The lock is the caller's; the node is idle.
    Entered,
    /// The waiter will be told.
    Waiting,
}

/// Why a waiter came back without the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Left {
    /// Its `park` gave up.
    GaveUp,
    /// As many share the lock, or wait for it, as can be counted.
    Full,
}

/// What became of somebody who was to be let past the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hastened {
    /// Nobody waits so: not yet, or not any more.
    Nobody,
    /// It stands before all others.
    First,
    /// It has entered, beside an upgrade that waits.
    Entered,
}

/// How a lock has been waited for. Counted under the latch, so exact at rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Who had to queue.
    pub waits: u64,
    /// Of them, who was handed the lock.
    pub handed: u64,
    /// Who was told, and found the lock taken.
    pub barged: u64,
    /// Who gave up.
    pub gave_up: u64,
}

/// A lock without what it guards. The word comes first, far from what it guards: who looks at it leaves that line to the holder.
#[repr(C)]
pub struct RawLock {
    word: LockWord,
    latch: Mutex<Line>,
}

/// What the latch guards.
struct Line {
    lines: Lines,
    /// Who was told and has not come.
    told: Option<Seat>,
    /// When it was, or when somebody made way for it.
    told_at: u64,
    /// Who holds the lock and waits for the readers to leave.
    drainer: Option<Seat>,
    /// The latest time that anybody came in with.
    now: u64,
    tally: Tally,
}

// SAFETY: seats are followed only by the holder of the latch.
unsafe impl Send for Line {}

impl fmt::Debug for RawLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.word.look().fmt(f)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("tally", &self.tally).finish_non_exhaustive()
    }
}

impl Default for RawLock {
    fn default() -> Self {
        Self::new()
    }
}

impl RawLock {
    model_const! {
        /// Free.
        pub const fn new() -> Self {
            let line = Line {
                lines: Lines::ageing(AGEING),
                told: None,
                told_at: 0,
                drainer: None,
                now: 0,
                tally: Tally { waits: 0, handed: 0, barged: 0, gave_up: 0 },
            };
            RawLock { word: LockWord::new(), latch: Mutex::new(line) }
        }
    }

    /// The word, for who needs not wait.
    #[inline]
    pub fn word(&self) -> &LockWord {
        &self.word
    }

    /// How it has been waited for.
    pub fn tally(&self) -> Tally {
        self.latch.lock().tally
    }

    /// Gives back what was held in this mode. `now` is read only if somebody waits.
    #[inline]
    pub fn leave(&self, mode: Mode, poison: bool, now: impl FnOnce() -> u64, wake: &mut impl FnMut(&Waiter)) {
        let after = self.word.leave(mode, poison);
        if after != After::Nothing {
            self.see_to(after, now(), wake);
        }
    }

    /// The same, of what this owner holds so that it may upgrade.
    #[inline]
    pub fn leave_upgradable(&self, owner: u32, now: impl FnOnce() -> u64, wake: &mut impl FnMut(&Waiter)) {
        let after = self.word.leave_upgradable(owner);
        if after != After::Nothing {
            self.see_to(after, now(), wake);
        }
    }

    #[cold]
    fn see_to(&self, after: After, now: u64, wake: &mut impl FnMut(&Waiter)) {
        match after {
            After::Nothing => {}
            After::Look => self.look(now, false, wake),
            After::HandOver => self.hand_over(now, wake),
            After::MakeWay if self.make_way(now, wake) => thread::yield_now(),
            After::MakeWay => {}
        }
    }

    /// For one that was told and passed often. True: it may want the caller's processor; that is so once in
    /// [`MAKE_WAY_AFTER`].
    fn make_way(&self, now: u64, wake: &mut impl FnMut(&Waiter)) -> bool {
        let mut line = self.latch(now);
        let Some(seat) = line.told else { return false };
        if line.now.saturating_sub(seat.with(|e| e.since)) >= FAIR_AFTER {
            // It is handed the lock now, or by who was faster: nobody is told any more, so that one will look.
            self.untell(&mut line, seat, false);
            self.settle(line, false, None, wake);
            return false;
        }
        let overdue = line.now.saturating_sub(line.told_at) >= MAKE_WAY_AFTER;
        if overdue {
            line.told_at = line.now;
        }
        overdue
    }

    /// From exclusive or upgradable to a weaker mode, with nobody in between; those enter who now may.
    #[inline]
    pub fn weaken(&self, from: Mode, to: Mode, now: impl FnOnce() -> u64, wake: &mut impl FnMut(&Waiter)) {
        if self.word.weaken(from, to) == After::Look && !armed!(mutant = "lockline_downgrade_silent") {
            self.look_after_weaken(from, now(), wake);
        }
    }

    #[cold]
    fn look_after_weaken(&self, from: Mode, now: u64, wake: &mut impl FnMut(&Waiter)) {
        self.look(now, from == Mode::Exclusive, wake);
    }

    /// Queues `node`, or enters at once.
    ///
    /// # Safety
    ///
    /// The node neither moves nor is dropped, and the lock is not dropped, until the node is `Idle` again: by `Entered`, by
    /// [`cancel`](Self::cancel), by [`come`](Self::come) with true, or after it was seen `Granted`.
    unsafe fn enqueue(
        &self,
        node: &Node,
        want: (Mode, u32),
        class: usize,
        now: u64,
        parker: &Parker,
        wake: &mut impl FnMut(&Waiter),
    ) -> Result<Enqueued, Left> {
        let mut line = self.latch(now);
        // SAFETY: the caller's promise.
        let seat = unsafe { Seat::new(node) };
        let since = line.now;
        seat.with(|e| {
            e.set_claim(Claim::Class(class));
            (e.since, e.want, e.passed) = (since, want, 0);
            e.waiter = Some(Waiter::Thread(parker.unparker()));
        });
        seat.publish(NodeState::Waiting, Ordering::Relaxed);
        line.lines.push(seat);
        line.tally.waits += 1;
        if !armed!(mutant = "lockline_queues_late") {
            self.tell_word(&line);
        }
        if want.0 == Mode::Shared && self.word.look().readers() >= super::lockword::MAX_READERS {
            self.take_out(&mut line, seat, NodeState::Idle);
            self.settle(line, false, None, wake);
            return Err(Left::Full);
        }
        Ok(if self.settle(line, false, Some(seat), wake) { Enqueued::Entered } else { Enqueued::Waiting })
    }

    /// # Safety
    ///
    /// As [`enqueue`](Self::enqueue).
    unsafe fn begin_upgrade(&self, node: &Node, parker: &Parker) -> Enqueued {
        let mut line = self.latch(0);
        if self.word.begin_upgrade() {
            return Enqueued::Entered;
        }
        // SAFETY: the caller's promise.
        let seat = unsafe { Seat::new(node) };
        seat.with(|e| e.waiter = Some(Waiter::Thread(parker.unparker())));
        seat.publish(NodeState::Waiting, Ordering::Relaxed);
        line.drainer = Some(seat);
        line.tally.waits += 1;
        // The last reader may have left in between, and found nobody: it is at the latch now, behind us.
        Enqueued::Waiting
    }

    /// A waiter that was told, at the lock. True: it has entered, and its node is idle.
    fn come(&self, node: &Node, now: u64, wake: &mut impl FnMut(&Waiter)) -> bool {
        let mut line = self.latch(now);
        if node.state() != NodeState::Told {
            return false;
        }
        // SAFETY: `Told`: it is in its line, and the caller owns it.
        let seat = unsafe { Seat::new(node) };
        let (mode, owner) = seat.with(|e| e.want);
        if !armed!(mutant = "lockline_come_keeps_told") {
            line.told = None;
        }
        if !self.word.come(mode, owner) {
            line.tally.barged += 1;
            seat.with(|e| e.passed += 1);
            seat.publish(NodeState::Waiting, Ordering::Relaxed);
            // While it was to come nobody looked: others may enter beside who holds the lock now.
            if !armed!(mutant = "lockline_come_silent") {
                self.settle(line, false, None, wake);
            }
            return false;
        }
        self.take_out(&mut line, seat, NodeState::Idle);
        self.settle(line, false, None, wake);
        true
    }

    /// Takes a node out of its line, or an upgrade back. True: it was granted before, and the lock is the caller's.
    fn cancel(&self, node: &Node, now: u64, wake: &mut impl FnMut(&Waiter)) -> bool {
        let mut line = self.latch(now);
        // SAFETY: it is used only where the node is in a line or the drainer.
        let seat = unsafe { Seat::new(node) };
        match node.state() {
            NodeState::Granted => return true,
            NodeState::Waiting | NodeState::Told => {}
            _ => return false,
        }
        line.tally.gave_up += 1;
        if line.drainer.take_if(|drainer| *drainer == seat).is_some() {
            Self::publish(seat, NodeState::Idle);
            self.word.drop_upgrade();
        } else {
            self.untell(&mut line, seat, armed!(mutant = "lockline_told_clears_late"));
            self.take_out(&mut line, seat, NodeState::Idle);
        }
        if armed!(mutant = "lockline_leaver_silent") {
            self.tell_word(&line);
            return false;
        }
        self.settle(line, false, None, wake);
        false
    }

    /// A waiter has risen: newcomers are to know of it, and it may come before others now. When it rises next.
    #[cold]
    fn rise(&self, node: &Node, now: u64, wake: &mut impl FnMut(&Waiter)) -> Option<u64> {
        let line = self.latch(now);
        if !matches!(node.state(), NodeState::Waiting | NodeState::Told) {
            return None;
        }
        // SAFETY: it is in its line.
        let seat = unsafe { Seat::new(node) };
        let next = seat.with(|e| next_rise(e.tier(e.since, AGEING) as usize, e.since, line.now));
        self.settle(line, false, None, wake);
        next
    }

    // ---- under the latch ---------------------------------------------------------------------------------

    fn latch(&self, now: u64) -> MutexGuard<'_, Line> {
        let mut line = self.latch.lock();
        line.now = line.now.max(now);
        line
    }

    fn look(&self, now: u64, phase_over: bool, wake: &mut impl FnMut(&Waiter)) {
        let line = self.latch(now);
        self.settle(line, phase_over, None, wake);
    }

    /// Gives an exclusive hold back, to who is next.
    fn hand_over(&self, now: u64, wake: &mut impl FnMut(&Waiter)) {
        let mut line = self.latch(now);
        let mut wakes = Wakes::default();
        match line.next(Word::FREE, true) {
            None => self.word.set_free(),
            Some((seat, false)) => {
                wakes.push(self.tell(&mut line, seat));
                self.tell_word(&line);
                self.word.set_free();
            }
            // In one step, so that nobody takes the lock in between. Of those who share it one will do for that.
            Some((seat, true)) => {
                let (mode, owner) = seat.with(|e| e.want);
                self.word.pass_on(mode, owner);
                // The holder may have come and gone between a look that told this one and what the word says of that.
                if !armed!(mutant = "lockline_handed_stays_told") {
                    self.untell(&mut line, seat, false);
                }
                line.tally.handed += 1;
                wakes.push(self.take_out(&mut line, seat, NodeState::Granted));
            }
        }
        // The others who may enter now, and what newcomers are to know.
        self.settle_with(line, true, None, wakes, wake);
    }

    /// Lets in who may enter, gives the latch up, tells. True: `mine` has entered.
    fn settle<'a>(
        &'a self,
        line: MutexGuard<'a, Line>,
        phase_over: bool,
        mine: Option<Seat>,
        wake: &mut impl FnMut(&Waiter),
    ) -> bool {
        self.settle_with(line, phase_over, mine, Wakes::default(), wake)
    }

    fn settle_with<'a>(
        &'a self,
        mut line: MutexGuard<'a, Line>,
        phase_over: bool,
        mine: Option<Seat>,
        mut wakes: Wakes,
        wake: &mut impl FnMut(&Waiter),
    ) -> bool {
        let mut entered = false;
        loop {
            let more = self.admit(&mut line, phase_over, mine, &mut entered, &mut wakes);
            self.tell_word(&line);
            drop(line);
            wakes.deliver(wake);
            if !more {
                return entered;
            }
            line = self.latch(0);
        }
    }

    /// True: there may be more, only the room for wakes ran out.
    fn admit(
        &self,
        line: &mut Line,
        phase_over: bool,
        mine: Option<Seat>,
        entered: &mut bool,
        wakes: &mut Wakes,
    ) -> bool {
        if self.word.look().drains() {
            return self.end_upgrade(line, wakes);
        }
        loop {
            let Some((seat, must_have)) = line.next(self.word.look(), phase_over) else { return false };
            if wakes.full() {
                return true;
            }
            let (mode, owner) = seat.with(|e| e.want);
            let is_mine = mine == Some(seat);
            if mode == Mode::Exclusive && !is_mine && !must_have {
                if line.told.is_none() {
                    wakes.push(self.tell(line, seat));
                }
                return false;
            }
            if !self.word.enter_for(mode, owner) {
                continue; // a newcomer was faster: there is another word to go by
            }
            self.untell(line, seat, armed!(mutant = "lockline_granted_clears_late"));
            if is_mine {
                self.take_out(line, seat, NodeState::Idle);
                *entered = true;
            } else {
                line.tally.handed += 1;
                wakes.push(self.take_out(line, seat, NodeState::Granted));
            }
            if mode == Mode::Exclusive {
                return false;
            }
        }
    }

    /// One that was told will not come: the word says so before anybody looks at it for others, and before the node is its
    /// owner's again. Who gives the lock back trusts to one that is told, and would look at nothing.
    fn untell(&self, line: &mut Line, seat: Seat, late: bool) {
        if line.told.take_if(|told| *told == seat).is_some() && !late {
            self.tell_word(line);
        }
    }

    /// The readers may have left an upgrade's way.
    fn end_upgrade(&self, line: &mut Line, wakes: &mut Wakes) -> bool {
        if self.word.look().readers() > 0 {
            return false;
        }
        if wakes.full() {
            return true;
        }
        if let Some(seat) = line.drainer.take() {
            self.word.end_upgrade();
            line.tally.handed += 1;
            wakes.push(Self::publish(seat, NodeState::Granted));
        }
        false
    }

    /// Tells a waiter that the lock is free. It stays in its line.
    fn tell(&self, line: &mut Line, seat: Seat) -> Option<Waiter> {
        (line.told, line.told_at) = (Some(seat), line.now);
        // Before the state: the waiter may be gone as soon as that is seen. It keeps its handle, to be told again.
        let waiter = seat.with(|e| e.waiter.clone());
        seat.publish(NodeState::Told, Ordering::Release);
        waiter
    }

    fn take_out(&self, line: &mut Line, seat: Seat, state: NodeState) -> Option<Waiter> {
        line.lines.unlink(seat);
        Self::publish(seat, state)
    }

    fn publish(seat: Seat, state: NodeState) -> Option<Waiter> {
        if armed!(mutant = "lockline_publishes_first") {
            seat.publish(state, Ordering::Release);
            return seat.with(|e| e.waiter.take());
        }
        // Before the state: its owner may have freed the node, or have queued it anew, as soon as that is seen.
        let waiter = seat.with(|e| e.waiter.take());
        // ORDERING: Release pairs with the Acquire of `Node::state`. It hands the entry back to its owner, and, for a grant,
        // all that earlier holders did: who granted acquired it.
        seat.publish(state, ordering!(Release, mutant = "lockline_publish_relaxed"));
        waiter
    }

    /// What the word says of the line.
    fn tell_word(&self, line: &Line) {
        self.word.set_line(!line.lines.is_empty(), line.told.is_some(), line.bars());
    }
}

impl Line {
    /// Who enters next, beside those that the word tells of; and whether it is not to be passed any more. `phase_over`: an
    /// exclusive hold has just ended, and those who share go before one that wants it for itself and has no higher tier.
    fn next(&self, word: Word, phase_over: bool) -> Option<(Seat, bool)> {
        let (mut upgradable, mut exclusive) = (false, None);
        let mut walk = self.lines.walk(self.now);
        while let Some(seat) = walk.next() {
            let (mode, tier, waited, lost) = seat
                .with(|e| (e.want.0, e.tier(self.now, AGEING), self.now.saturating_sub(e.since), e.passed));
            match mode {
                Mode::Shared => {
                    let after = exclusive.is_none_or(|(_, best, _)| phase_over && tier >= best);
                    if after && word.admits(Mode::Shared) {
                        return Some((seat, true));
                    }
                }
                Mode::Upgradable => {
                    if exclusive.is_none() && !upgradable && word.admits(Mode::Upgradable) {
                        return Some((seat, true));
                    }
                    upgradable = true;
                }
                Mode::Exclusive if exclusive.is_some() => {}
                Mode::Exclusive => {
                    exclusive = Some((seat, tier, waited >= FAIR_AFTER || lost >= LOSSES));
                    if !phase_over {
                        break;
                    }
                }
            }
        }
        exclusive.filter(|_| word.admits(Mode::Exclusive)).map(|(seat, _, must_have)| (seat, must_have))
    }

    /// One above the tier of the best who wants the lock for itself, and of the best who wants it so or to upgrade.
    fn bars(&self) -> (u32, u32) {
        let mut solo = 0;
        let mut walk = self.lines.walk(self.now);
        while let Some(seat) = walk.next() {
            let (mode, tier) = seat.with(|e| (e.want.0, e.tier(self.now, AGEING)));
            let bar = tier.min(CLASSES as u64 - 1) as u32 + 1;
            if mode != Mode::Shared && solo == 0 {
                solo = bar;
            }
            if mode == Mode::Exclusive {
                return (bar, solo);
            }
        }
        (0, solo)
    }
}
