//! One cut for each epoch: of those who were sent under the same rate and are told to slow down, one lowers it.
//!
//! Lock-free: one CAS. The word is the time at which the present epoch began, and so its number: whoever was sent at or
//! before it was sent under an older rate, about which enough has been said. (That several refusals in flight must not cut
//! several times is known from TCP: one reduction for each window, RFC 5681.)
//!
//! | `sent` of who is told to slow down | means | [`Epoch::end`] |
//! |---|---|---|
//! | `<= since` | sent in an earlier epoch | false, nothing written |
//! | `> since` | sent in this one | one caller of all: true, and `since` is the time now; the others then find themselves in the row above |

use crate::sync::armed;
use crate::sync::atomic::{AtomicU64, Ordering};

/// See the head of the file. Times are of one clock, whatever its unit.
#[derive(Debug)]
pub struct Epoch {
    since: AtomicU64,
}

impl Epoch {
    /// The first epoch: everything sent after `before` is sent in it.
    pub fn new(before: u64) -> Self {
        Epoch { since: AtomicU64::new(before) }
    }

    /// Ends the epoch if `sent` lies in it, and begins the next one now; true for one caller an epoch.
    pub fn end(&self, sent: u64, now: u64) -> bool {
        // Relaxed: who ends an epoch publishes nothing by it.
        let mut since = self.since.load(Ordering::Relaxed);
        while sent > since {
            // What was sent is in the past, whatever the clock says.
            let next = if armed!(mutant = "epoch_by_the_clock") { now } else { now.max(sent) };
            if armed!(mutant = "epoch_ends_blindly") {
                self.since.store(next, Ordering::Relaxed);
                return true;
            }
            match self.since.compare_exchange(since, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(_) if armed!(mutant = "epoch_ends_anyway") => return true,
                Err(_) if armed!(mutant = "epoch_looks_once") => return false,
                Err(seen) => since = seen,
            }
        }
        false
    }

    /// When the present epoch began.
    pub fn since(&self) -> u64 {
        self.since.load(Ordering::Relaxed)
    }
}
