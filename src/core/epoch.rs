//! One cut for each rate: of those who were sent under the same rate and are told to slow down, one lowers it.
//!
//! Blocking: who ends an epoch, sets the rate or takes another step, does so under a latch. Who was sent in an earlier epoch
//! finds that out by one load. (That several refusals in flight must not cut several times is known from TCP: one reduction
//! for each window, RFC 5681.)
//!
//! `since` is the time of the last cut, or of the last rate that was set from outside: whoever was granted at or before it
//! was granted under a rate that is no more, and says nothing of the present one. Growth does not move it: who was refused
//! under the lower rate would have been under the higher one, too. So the pair (rate, `since`) must change as one for those
//! who compare:
//!
//! | order under the latch | a grant by | is told to slow down | and |
//! |---|---|---|---|
//! | first the cut, or the rate that is set, at `c`; then `since = c` | the old rate: at or before `c` | before `since` is written | waits for the latch, looks again, and says nothing |
//! | | | after | says nothing |
//! | | the new rate: after `c` | before or after | ends the new epoch: one more cut, of the new rate |
//!
//! (First `since = now`, then the cut, would be wrong: between the two somebody is granted by the old rate, after `now`, and
//! cuts it a second time.) What this asks of the cut is that whoever is granted after its time is granted by the new
//! rate: the bucket reads the clock while its terms are being changed.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, armed};

/// See the head of the file. Times are of one clock, whatever its unit. `S` is what else belongs to whoever changes the rate.
#[derive(Debug)]
pub struct Epoch<S = ()> {
    since: AtomicU64,
    step: Mutex<S>,
}

impl<S> Epoch<S> {
    /// The first epoch: everything granted after `before` is in it.
    pub fn new(before: u64, kept: S) -> Self {
        Epoch { since: AtomicU64::new(before), step: Mutex::new(kept) }
    }

    /// Ends the epoch if `sent` lies in it, by `cut`, which says as of when the new rate stands; true for one caller an
    /// epoch.
    pub fn end(&self, sent: u64, cut: impl FnOnce(&mut S) -> u64) -> bool {
        // Relaxed: a word that only grows. Who reads an old value looks again under the latch.
        if sent <= self.since.load(Ordering::Relaxed) {
            return false;
        }
        let mut step = self.step.lock();
        if sent <= self.since.load(Ordering::Relaxed) && !armed!(mutant = "epoch_one_look") {
            return false;
        }
        if armed!(mutant = "epoch_ends_before_the_cut") {
            self.since.store(sent, Ordering::Relaxed);
            drop(step);
            cut(&mut self.step.lock());
            return true;
        }
        let since = cut(&mut step);
        // What was sent is in the past, whatever the clock says.
        self.since.store(since.max(sent), Ordering::Relaxed);
        true
    }

    /// Begins an epoch, whoever was sent before it, by `change`, which says as of when the new rate stands.
    ///
    /// # Errors
    ///
    /// That of `change`; the epoch goes on then.
    pub fn set<E>(&self, change: impl FnOnce(&mut S) -> Result<u64, E>) -> Result<(), E> {
        let mut step = self.step.lock();
        let since = change(&mut step)?;
        if armed!(mutant = "epoch_set_beside_the_cuts") {
            drop(step);
            step = self.step.lock();
        }
        // A clock that has stepped back takes no epoch back.
        let began =
            if armed!(mutant = "epoch_set_goes_back") { 0 } else { self.since.load(Ordering::Relaxed) };
        if !armed!(mutant = "epoch_set_begins_none") {
            self.since.store(since.max(began), Ordering::Relaxed);
        }
        drop(step);
        Ok(())
    }

    /// Another step that excludes the cuts; false: somebody is taking one.
    pub fn step(&self, step: impl FnOnce(&mut S)) -> bool {
        match self.step.try_lock() {
            Some(mut kept) => {
                step(&mut kept);
                true
            }
            None => false,
        }
    }

    /// When the epoch began.
    pub fn since(&self) -> u64 {
        self.since.load(Ordering::Relaxed)
    }
}
