//! How a lock has been waited for.

use crate::core::lockline::Tally;

/// How a lock has been waited for. What needed no waiting is not counted, but for exclusive holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockStats {
    /// How often it was held exclusively; exact once the holders are gone.
    pub exclusive: u64,
    /// How often somebody had to queue.
    pub waits: u64,
    /// Of them, how often the lock was handed over.
    pub handed_over: u64,
    /// How often a waiter was woken and found that a newcomer had been faster.
    pub barged: u64,
    /// How often a waiter gave up: its deadline, its cancel.
    pub gave_up: u64,
}

impl LockStats {
    pub(super) fn new(exclusive: u64, tally: &Tally) -> Self {
        let Tally { waits, handed, barged, gave_up } = *tally;
        LockStats { exclusive, waits, handed_over: handed, barged, gave_up }
    }
}
