//! What the word says, and what one step makes of it. See [`lockword`](super) for its bits.

use crate::sync::armed;
use std::fmt;

/// The most who may share it at a time; and one more, who came to it from a stronger mode.
pub const MAX_READERS: u32 = (1 << 24) - 2;
/// The greatest owner's number. 0 is somebody who has none.
pub const MAX_OWNER: u32 = (1 << 24) - 1;

pub(super) const X: u64 = 1;
pub(super) const U: u64 = 1 << 1;
pub(super) const DRAIN: u64 = 1 << 2;
pub(super) const QUEUED: u64 = 1 << 3;
pub(super) const TOLD: u64 = 1 << 4;
pub(super) const POISON: u64 = 1 << 5;
pub(super) const BAR_SHIFT: u32 = 6;
pub(super) const BAR_MASK: u64 = 7 << BAR_SHIFT;
pub(super) const SOLO_SHIFT: u32 = 9;
pub(super) const SOLO_MASK: u64 = 7 << SOLO_SHIFT;
pub(super) const PASS_SHIFT: u32 = 12;
pub(super) const PASS_ONE: u64 = 1 << PASS_SHIFT;
pub(super) const PASS_MASK: u64 = 15 << PASS_SHIFT;
pub(super) const READER_SHIFT: u32 = 16;
pub(super) const READER_ONE: u64 = 1 << READER_SHIFT;
pub(super) const READER_MASK: u64 = ((1 << 24) - 1) << READER_SHIFT;
pub(super) const OWNER_SHIFT: u32 = 40;
pub(super) const OWNER_MASK: u64 = (MAX_OWNER as u64) << OWNER_SHIFT;
/// What the latch's holder writes.
pub(super) const LINE_MASK: u64 = QUEUED | TOLD | BAR_MASK | SOLO_MASK;

/// What a hold is in the word, by mode.
pub(super) const HOLD: [u64; 3] = [READER_ONE, U, X];
/// Which of an owner's bits are its.
pub(super) const OWNED: [u64; 3] = [0, OWNER_MASK, OWNER_MASK];
/// What a hold of this owner adds to the word.
#[inline]
pub(super) fn hold(mode: Mode, owner: u32) -> u64 {
    HOLD[mode as usize] | u64::from(owner) << OWNER_SHIFT & OWNED[mode as usize]
}

/// Where nothing of this is, one may enter, whatever its class. (Half as many readers as can be counted are in the way: then it
/// is to be looked at more closely.)
pub(super) const IN_THE_WAY: [u64; 3] = {
    const MANY: u64 = 1 << (OWNER_SHIFT - 1);
    [
        X | DRAIN | MANY | BAR_MASK,
        X | U | DRAIN | MANY | BAR_MASK | SOLO_MASK,
        X | U | DRAIN | READER_MASK | BAR_MASK | SOLO_MASK,
    ]
};

/// In what way a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// With others that share it.
    Shared,
    /// With others that share it, as the only one that may upgrade.
    Upgradable,
    /// Alone.
    Exclusive,
}

/// Why a newcomer did not get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Miss {
    /// Others hold it, or wait and must not be passed.
    Busy,
    /// As many share it as can be counted.
    Full,
}

/// One value of the word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Word(pub(super) u64);

impl Word {
    /// Free, and nobody waits.
    pub(in super::super) const FREE: Word = Word(0);

    /// Nobody holds it. Somebody may wait.
    #[inline]
    pub fn is_free(self) -> bool {
        self.0 & (X | U | DRAIN | READER_MASK) == 0
    }

    /// In what mode it is held. `Exclusive` also while that is still to come, the readers being on their way out.
    pub fn mode(self) -> Option<Mode> {
        if self.0 & (X | DRAIN) != 0 {
            Some(Mode::Exclusive)
        } else if self.0 & U != 0 {
            Some(Mode::Upgradable)
        } else {
            (self.readers() > 0).then_some(Mode::Shared)
        }
    }

    /// Who holds it as the only one in its mode; 0: nobody, or somebody without a number.
    #[inline]
    pub fn owner(self) -> u32 {
        (self.0 >> OWNER_SHIFT) as u32
    }

    /// How many share it.
    #[inline]
    pub fn readers(self) -> u32 {
        ((self.0 & READER_MASK) >> READER_SHIFT) as u32
    }

    /// Whether its owner waits for the readers to leave.
    pub fn drains(self) -> bool {
        self.0 & DRAIN != 0
    }

    /// Whether it is held exclusively.
    pub fn is_exclusive(self) -> bool {
        self.0 & X != 0
    }

    /// Whether somebody waits.
    pub fn queued(self) -> bool {
        self.0 & QUEUED != 0
    }

    /// Whether a waiter was told to come.
    pub fn told(self) -> bool {
        self.0 & TOLD != 0
    }

    /// Classes below it do not share it beside a waiter for `X`.
    pub fn bar(self) -> u32 {
        ((self.0 & BAR_MASK) >> BAR_SHIFT) as u32
    }

    /// Classes below it do not enter in another mode beside a waiter for `U` or `X`.
    pub fn solo(self) -> u32 {
        ((self.0 & SOLO_MASK) >> SOLO_SHIFT) as u32
    }

    /// How often who was told has been passed, of 16 times.
    pub fn passes(self) -> u32 {
        ((self.0 & PASS_MASK) >> PASS_SHIFT) as u32
    }

    /// Whether an exclusive holder has unwound.
    pub fn poisoned(self) -> bool {
        self.0 & POISON != 0
    }

    /// With one more holder, as far as holders go.
    #[inline]
    pub(super) fn entered(self, mode: Mode, owner: u32) -> Result<Word, Miss> {
        let drain = if armed!(mutant = "lockword_drain_ignored") { 0 } else { DRAIN };
        let taken = match mode {
            Mode::Shared => self.0 & (X | drain),
            Mode::Upgradable => self.0 & (X | U | drain),
            Mode::Exclusive => self.0 & (X | U | drain | READER_MASK),
        };
        if taken != 0 {
            return Err(Miss::Busy);
        }
        match mode {
            Mode::Shared if self.readers() >= MAX_READERS => Err(Miss::Full),
            // Room for one is left, who may come to share it; but for one.
            Mode::Upgradable if self.readers() > MAX_READERS => Err(Miss::Full),
            Mode::Shared => Ok(Word(self.0 + READER_ONE)),
            Mode::Upgradable => Ok(Word(self.0 | U | u64::from(owner) << OWNER_SHIFT)),
            Mode::Exclusive => Ok(Word(self.0 | X | u64::from(owner) << OWNER_SHIFT)),
        }
    }

    /// Whether holders leave room for one more, as far as they go.
    pub(in super::super) fn admits(self, mode: Mode) -> bool {
        self.entered(mode, 0).is_ok()
    }

    /// Whether a newcomer of this class has to mind who waits.
    fn is_barred(self, mode: Mode, class: usize) -> bool {
        let (class, bar) = match mode {
            Mode::Shared => (class, self.bar()),
            Mode::Upgradable => (class, self.solo()),
            // Of equals, one who wants all may barge, as long as the waiter is patient.
            Mode::Exclusive => (class + 1, self.solo()),
        };
        class < bar as usize
    }

    /// The decision of a newcomer.
    pub(super) fn join(self, mode: Mode, class: usize, owner: u32) -> Result<Word, Miss> {
        if self.is_barred(mode, class) { Err(Miss::Busy) } else { self.entered(mode, owner) }
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Word")
            .field("mode", &self.mode())
            .field("owner", &self.owner())
            .field("readers", &self.readers())
            .field("drains", &self.drains())
            .field("queued", &self.queued())
            .field("told", &self.told())
            .field("bar", &self.bar())
            .field("solo", &self.solo())
            .field("passes", &self.passes())
            .field("poisoned", &self.poisoned())
            .finish()
    }
}
