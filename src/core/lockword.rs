//! A lock's word: who holds it in which mode, whether somebody waits, and who may still come in ahead of them.
//!
//! Lock-free: taking is one CAS, for who shares it a load before that, and giving back one RMW. Nothing here waits, but that who
//! was beaten to the word pauses; who must wait queues in [`lockline`](super::lockline). (One word with readers, an upgradable
//! and an exclusive holder, and a flag for waiters is parking_lot's `raw_rwlock`; the owner in the same word, so that both
//! change together, is from Linux's rt_mutex.)
//!
//! ```text
//!  63        40 39          16 15   12 11    9 8     6     5      4       3       2     1   0
//! [ owner : 24 | readers : 24 | passes| solo:3 | bar : 3 | poison | told | queued | drain | U | X ]
//! ```
//!
//! | X | U | drain | readers | means | S may enter | U may | X may |
//! |---|---|---|---|---|---|---|---|
//! | 0 | 0 | 0 | 0 | free | yes | yes | yes |
//! | 0 | 0 | 0 | > 0 | shared | yes | yes | no |
//! | 0 | 1 | 0 | any | one may upgrade, `owner` | yes | no | no |
//! | 0 | 0 | 1 | > 0 | `owner` has asked for more and waits for the readers to leave | no | no | no |
//! | 1 | 0 | 0 | 0 | exclusive, `owner` | no | no | no |
//!
//! Other combinations do not occur. `drain` with no readers lasts until the latch's holder has made it `X`.
//!
//! *Bar.* Newcomers of classes below it have to queue: it is one above the tier of the best waiter for `X`, or 0 if there is
//! none. Waiters for `U` bar no readers, with whom they have no quarrel; for newcomers that want `U` or `X` they count as
//! well: that is *solo*. A newcomer that wants `X` may barge into a free lock unless its class is below that waiter's.
//!
//! *Queued, told, bar, solo* change under the latch only. `told`: the head of the queue was told that the lock is free and has not
//! been at the latch since; it will look for itself, so who gives the lock back meanwhile need not.
//!
//! *Passes*: how often, of 16, the lock was given back by an exclusive holder while somebody was told: who does it the sixteenth
//! time is to look at the time. 0 when nobody is told.
//!
//! *No wake-up is lost.* A waiter sets `queued` (an RMW), then tests whether it can enter; who gives the lock back changes
//! the word (an RMW) and looks at the `queued` it replaced. Both act on one word: one of the two sees the other.
//!
//! *No overflow.* `readers` is tested before it is counted up, and only a holder counts it down.

#[cfg(all(test, not(any(loom, shuttle))))]
mod laws;
mod word;

use self::word::*;
pub use self::word::{MAX_OWNER, MAX_READERS, Miss, Mode, Word};

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{armed, hint, model_const, ordering};

/// Who was beaten to the word tries again after a pause of so many spins, and of twice as many each time it is beaten again:
/// meanwhile the line of the cache stays with the core that has it, for a good many steps instead of one. (Backoff:
/// Anderson's "The performance of spin lock alternatives", 1990.)
const SPINS: u32 = if cfg!(any(loom, shuttle)) { 0 } else { 8 };
/// No more than so many.
const MOST_SPINS: u32 = 64;
/// How often, where there is another way.
const TRIES: u32 = if cfg!(any(loom, shuttle)) { 1 } else { 3 };

/// What a release leaves to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a waiter may have to be looked after"]
pub enum After {
    /// Nothing.
    Nothing,
    /// Who was told has been passed often, and may want the caller's processor.
    MakeWay,
    /// Somebody waits who may enter now: the queue is to be looked at.
    Look,
    /// Somebody waits, and nothing was released yet: that is to be done under the latch, so that nobody comes between.
    HandOver,
}

/// See the head of the file.
#[derive(Debug)]
pub struct LockWord(AtomicU64);

impl LockWord {
    model_const! {
        /// Free.
        pub const fn new() -> Self {
            LockWord(AtomicU64::new(0))
        }
    }

    /// Shared by so many.
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(super) fn shared_by(readers: u32) -> Self {
        LockWord(AtomicU64::new(u64::from(readers) << READER_SHIFT))
    }

    /// The word now, give or take what other threads do.
    #[inline]
    pub fn look(&self) -> Word {
        Word(self.0.load(Ordering::Relaxed))
    }

    // ---- newcomers and holders ---------------------------------------------------------------------------

    /// Enters as a newcomer. See the table.
    ///
    /// # Errors
    ///
    /// Nothing changed.
    #[inline]
    pub fn try_enter(&self, mode: Mode, class: usize, owner: u32) -> Result<(), Miss> {
        if self.try_enter_at_once(mode, owner) {
            Ok(())
        } else {
            self.try_enter_by_class(mode, class, owner, SPINS)
        }
    }

    /// Enters if nobody is in the way of any class, and nobody else changes the word meanwhile. Who wants it for itself
    /// guesses that the word is all zero, and so needs no look.
    #[inline]
    pub fn try_enter_at_once(&self, mode: Mode, owner: u32) -> bool {
        let old = if mode == Mode::Exclusive { Word::FREE } else { self.look() };
        // Both bars: who waits to upgrade raises the one that readers do not mind.
        let bars = if mode == Mode::Shared { BAR_MASK } else { BAR_MASK | SOLO_MASK };
        if old.0 & bars != 0 {
            return false;
        }
        old.entered(mode, owner).is_ok_and(|new| self.swing(old, new).is_ok())
    }

    /// As [`try_enter`](Self::try_enter), without a pause: for who has a latch meanwhile.
    ///
    /// # Errors
    ///
    /// Nothing changed.
    pub fn try_enter_under_latch(&self, mode: Mode, class: usize, owner: u32) -> Result<(), Miss> {
        self.try_enter_by_class(mode, class, owner, 0)
    }

    /// As [`try_enter`](Self::try_enter), for who has just missed it: after a pause. See [`SPINS`].
    ///
    /// # Errors
    ///
    /// Nothing changed.
    pub fn try_enter_again(&self, mode: Mode, class: usize, owner: u32) -> Result<(), Miss> {
        pause(SPINS);
        self.try_enter_by_class(mode, class, owner, SPINS)
    }

    /// As [`try_enter_at_once`](Self::try_enter_at_once), where the mode is another each time: by masks, for a branch on it would
    /// be guessed wrong.
    #[inline]
    pub fn try_enter_by_mask(&self, mode: Mode, owner: u32) -> bool {
        let (old, at) = (self.look(), mode as usize);
        old.0 & IN_THE_WAY[at] == 0
            && (self.swing(old, Word(old.0 + word::hold(mode, owner))).is_ok()
                || self.try_by_mask_again(mode, owner))
    }

    /// For who was beaten to it by others that are not in its way.
    #[cold]
    fn try_by_mask_again(&self, mode: Mode, owner: u32) -> bool {
        let hold = word::hold(mode, owner);
        let mut spins = SPINS;
        for _ in 0..TRIES {
            pause(spins);
            spins *= 2;
            let old = self.look();
            if old.0 & IN_THE_WAY[mode as usize] != 0 {
                return false;
            }
            if self.swing(old, Word(old.0 + hold)).is_ok() {
                return true;
            }
        }
        false
    }

    #[cold]
    fn try_enter_by_class(&self, mode: Mode, class: usize, owner: u32, mut spins: u32) -> Result<(), Miss> {
        loop {
            let old = self.look();
            if self.swing(old, old.join(mode, class, owner)?).is_ok() {
                return Ok(());
            }
            pause(spins);
            spins = (spins * 2).min(MOST_SPINS);
        }
    }

    #[inline]
    fn swing(&self, old: Word, new: Word) -> Result<(), Word> {
        // ORDERING: Acquire pairs with the Release of `leave` and of the other ways down: who enters sees what earlier
        // holders did. (All writes of the word are RMWs, so no release sequence is broken.)
        let acquire = ordering!(Acquire, mutant = "lockword_enter_relaxed");
        match self.0.compare_exchange_weak(old.0, new.0, acquire, Ordering::Relaxed) {
            Ok(_) => Ok(()),
            Err(now) => Err(Word(now)),
        }
    }

    /// Shares it once more, for who shares it already or is its upgradable holder: nobody can hold it exclusively then, and
    /// who waits for that may be passed, for it cannot go on before the caller anyway.
    ///
    /// # Errors
    ///
    /// [`Miss::Full`]. [`Miss::Busy`]: the caller is mistaken, nobody shares the lock.
    pub fn share_again(&self) -> Result<(), Miss> {
        let mut old = self.look();
        loop {
            if old.0 & X != 0 || old.0 & U == 0 && old.readers() == 0 {
                return Err(Miss::Busy);
            }
            if old.readers() >= MAX_READERS {
                return Err(Miss::Full);
            }
            match self.swing(old, Word(old.0 + READER_ONE)) {
                Ok(()) => return Ok(()),
                Err(now) => old = now,
            }
        }
    }

    /// Gives back what was held in this mode; `poison`: and leaves it poisoned.
    #[inline]
    pub fn leave(&self, mode: Mode, poison: bool) -> After {
        match mode {
            Mode::Shared => self.leave_shared(),
            // Only we change who is the owner.
            Mode::Upgradable => self.leave_upgradable(self.look().owner()),
            Mode::Exclusive => self.leave_exclusive(if poison { POISON } else { 0 }),
        }
    }

    /// The same, of what this owner holds so that it may upgrade. (A subtraction is one step of the processor, and one less than
    /// a compare-and-swap; a mask that tells what was there is a loop.)
    #[inline]
    pub fn leave_upgradable(&self, owner: u32) -> After {
        let held = U | u64::from(owner) << OWNER_SHIFT;
        // ORDERING: Release as in `leave_shared`.
        let release = ordering!(Release, mutant = "lockword_leave_upgradable_relaxed");
        let old = Word(self.0.fetch_sub(held, release));
        debug_assert!(old.0 & (U | X) == U && old.owner() == owner, "{old:?} left by {owner}");
        if old.queued() && !old.told() { After::Look } else { After::Nothing }
    }

    #[inline]
    fn leave_shared(&self) -> After {
        // ORDERING: Release pairs with the Acquire of who enters next: our reads are over before its writes.
        let release = ordering!(Release, mutant = "lockword_leave_shared_relaxed");
        let old = Word(self.0.fetch_sub(READER_ONE, release));
        debug_assert!(old.readers() > 0, "left more often than entered");
        let last = old.readers() == 1;
        let waited_for = old.drains() || old.queued() && !old.told() && old.0 & U == 0;
        let silent = armed!(mutant = "lockword_last_reader_silent");
        if last && waited_for && !silent { After::Look } else { After::Nothing }
    }

    /// Gives an exclusive hold back if that is all that the word says: nobody waits, and it is not poisoned. Without a look
    /// first.
    #[inline]
    pub fn try_leave_at_once(&self, owner: u32) -> bool {
        let held = X | u64::from(owner) << OWNER_SHIFT;
        // ORDERING: Release as below.
        let release = ordering!(Release, mutant = "lockword_leave_at_once_relaxed");
        self.0.compare_exchange(held, 0, release, Ordering::Relaxed).is_ok()
    }

    fn leave_exclusive(&self, poison: u64) -> After {
        let mut old = self.look();
        loop {
            if old.queued() && !old.told() {
                if poison != 0 && !armed!(mutant = "lockword_poison_lost") {
                    // Relaxed: we hold it, and who is handed it sees what came before that.
                    self.0.fetch_or(poison, Ordering::Relaxed);
                }
                return After::HandOver;
            }
            let apart = armed!(mutant = "lockword_poison_apart");
            let passes = if old.told() { (old.0 + PASS_ONE) & PASS_MASK } else { 0 };
            let new = old.0 & !(X | OWNER_MASK | PASS_MASK) | passes | if apart { 0 } else { poison };
            // ORDERING: Release pairs with the Acquire of who enters next: it sees what we wrote.
            let release = ordering!(Release, mutant = "lockword_leave_exclusive_relaxed");
            match self.0.compare_exchange_weak(old.0, new, release, Ordering::Relaxed) {
                Ok(_) => {
                    if apart {
                        self.0.fetch_or(poison, Ordering::Relaxed);
                    }
                    return if old.told() && passes == 0 { After::MakeWay } else { After::Nothing };
                }
                Err(now) => old = Word(now),
            }
        }
    }

    /// Gives back what was held in this mode if nobody waits, and has nothing to do with the word from then on: it may be
    /// another lock's. False: somebody waits, and nothing was changed.
    #[inline]
    pub fn try_leave_quietly(&self, mode: Mode) -> bool {
        let mut old = self.look();
        while old.0 & (QUEUED | DRAIN) == 0 || armed!(mutant = "lockword_leave_quietly_blind") {
            // By masks, as in `try_enter_by_mask`.
            let new = old.0 - (HOLD[mode as usize] | old.0 & OWNED[mode as usize]);
            // ORDERING: Release pairs with the Acquire of who enters next, as in `leave`.
            let release = ordering!(Release, mutant = "lockword_leave_quietly_relaxed");
            match self.0.compare_exchange_weak(old.0, new, release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => old = Word(now),
            }
        }
        false
    }

    /// From exclusive or upgradable to a weaker mode, with nobody in between.
    #[inline]
    pub fn weaken(&self, from: Mode, to: Mode) -> After {
        debug_assert!(from > to, "{from:?} to {to:?} is no downgrade");
        let held = if from == Mode::Exclusive { X } else { U };
        let less = match to {
            Mode::Upgradable => held.wrapping_sub(U),
            // Only we change who is the owner.
            _ => (held | self.look().0 & OWNER_MASK).wrapping_sub(READER_ONE),
        };
        // ORDERING: Release as in `leave`: who shares it now sees what the exclusive holder wrote.
        let release = ordering!(Release, mutant = "lockword_weaken_relaxed");
        if Word(self.0.fetch_sub(less, release)).queued() { After::Look } else { After::Nothing }
    }

    /// From upgradable to exclusive if that is all that the word says: nobody shares it, and nobody waits. Without a look first.
    #[inline]
    pub fn try_upgrade_at_once(&self, owner: u32) -> bool {
        let (from, to) = (U | u64::from(owner) << OWNER_SHIFT, X | u64::from(owner) << OWNER_SHIFT);
        // ORDERING: Acquire as below.
        let acquire = ordering!(Acquire, mutant = "lockword_upgrade_at_once_relaxed");
        self.0.compare_exchange(from, to, acquire, Ordering::Relaxed).is_ok()
    }

    /// From upgradable to exclusive, if nobody shares it. The caller is the upgradable holder.
    pub fn try_upgrade(&self) -> bool {
        let mut old = self.look();
        while old.readers() == 0 {
            // ORDERING: Acquire pairs with the Release of `leave_shared`: the readers' reads are over.
            let acquire = ordering!(Acquire, mutant = "lockword_upgrade_relaxed");
            match self.0.compare_exchange_weak(old.0, old.0 & !U | X, acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => old = Word(now),
            }
        }
        false
    }

    /// Forgets that a holder has unwound.
    pub fn clear_poison(&self) {
        self.0.fetch_and(!POISON, Ordering::Relaxed);
    }

    // ---- the latch's holder ------------------------------------------------------------------------------

    /// Enters for a waiter: no bar binds it.
    pub(super) fn enter_for(&self, mode: Mode, owner: u32) -> bool {
        let mut old = self.look();
        while let Ok(new) = old.entered(mode, owner) {
            match self.swing(old, new) {
                Ok(()) => return true,
                Err(now) => old = now,
            }
        }
        false
    }

    /// From upgradable to exclusive, now or when the readers have left. True: now.
    pub(super) fn begin_upgrade(&self) -> bool {
        loop {
            if self.try_upgrade() {
                return true;
            }
            let old = self.look();
            if old.readers() > 0
                && self
                    .0
                    .compare_exchange(old.0, old.0 & !U | DRAIN, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
            {
                return false;
            }
        }
    }

    /// The readers have left: their place is the owner's.
    pub(super) fn end_upgrade(&self) {
        // Nobody enters while `DRAIN` is set, and nobody is left: only we change these bits.
        // ORDERING: Acquire as in `try_upgrade`, on the owner's behalf: the grant that is published after this hands it on.
        let acquire = ordering!(Acquire, mutant = "lockword_drained_relaxed");
        self.0.fetch_add(X.wrapping_sub(DRAIN), acquire);
    }

    /// The owner does not wait for the readers any longer, and is upgradable again. Whoever left or came meanwhile is
    /// counted by the word, not by a copy of it.
    pub(super) fn drop_upgrade(&self) {
        if armed!(mutant = "lockword_upgrade_writes_back") {
            let saved = self.look();
            self.0.swap(saved.0 & !DRAIN | U, Ordering::Relaxed);
            return;
        }
        self.0.fetch_add(U.wrapping_sub(DRAIN), Ordering::Relaxed);
    }

    /// Passes an exclusive hold on to a waiter. Nobody can come between: the word is held.
    pub(super) fn pass_on(&self, to: Mode, owner: u32) {
        let mut old = self.look();
        loop {
            let free = old.0 & !(X | OWNER_MASK);
            let new = match to {
                Mode::Exclusive => free | X | u64::from(owner) << OWNER_SHIFT,
                Mode::Upgradable => free | U | u64::from(owner) << OWNER_SHIFT,
                Mode::Shared => free + READER_ONE,
            };
            // ORDERING: Release as in `leave_exclusive`, for newcomers that share it with those waiters; the waiters
            // themselves learn of the grant by their nodes.
            let release = ordering!(Release, mutant = "lockword_pass_on_relaxed");
            match self.0.compare_exchange_weak(old.0, new, release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => old = Word(now),
            }
        }
    }

    /// Gives an exclusive hold back.
    pub(super) fn set_free(&self) {
        // ORDERING: Release as in `leave_exclusive`.
        let release = ordering!(Release, mutant = "lockword_set_free_relaxed");
        self.0.fetch_and(!(X | OWNER_MASK), release);
    }

    /// A told waiter has come: it enters, or it is told no longer. In one step: if the lock is not free then, who gives it
    /// back sees that nobody was told.
    pub(super) fn come(&self, mode: Mode, owner: u32) -> bool {
        let mut old = self.look();
        loop {
            let entered = old.entered(mode, owner);
            let new = Word(entered.unwrap_or(old).0 & !(TOLD | PASS_MASK));
            match self.swing(old, new) {
                Ok(()) => return entered.is_ok(),
                Err(now) => old = now,
            }
        }
    }

    /// What newcomers and holders are to know of the queue.
    pub fn set_line(&self, queued: bool, told: bool, (bar, solo): (u32, u32)) {
        let bars = u64::from(bar) << BAR_SHIFT | u64::from(solo) << SOLO_SHIFT;
        let line = if queued { QUEUED } else { 0 } | if told { TOLD } else { 0 } | bars;
        // A hint, no more: it may go on counting where another is told now.
        let mask = LINE_MASK | if told { 0 } else { PASS_MASK };
        let mut old = self.look();
        while old.0 & mask != line {
            let new = old.0 & !mask | line;
            // Relaxed: it publishes nothing, and as an RMW it carries the releases on.
            match self.0.compare_exchange_weak(old.0, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => old = Word(now),
            }
        }
    }
}

fn pause(spins: u32) {
    (0..spins).for_each(|_| hint::spin_loop());
}

impl Default for LockWord {
    fn default() -> Self {
        Self::new()
    }
}
