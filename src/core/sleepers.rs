//! Who sleeps to a time that a change of the terms may move.
//!
//! Blocking: a map under a short latch. Entering allocates, as the one exception in this folder: who enters is about to sleep.
//!
//! Somebody changes words elsewhere (the terms of a bucket), and then wakes all who sleep. Each of these enters, then looks at
//! the words, then sleeps, and looks again when it is woken:
//!
//! | sleeper | changer |
//! |---|---|
//! | 1. enters, under the latch | A. changes the words |
//! | 2. looks at the words | B. takes the list of those who sleep, under the latch |
//! | 3. sleeps, unless it was woken since 1 | C. wakes them, with the latch free |
//!
//! 1. *1 before B*: the sleeper is in the list, and C wakes it. A wake-up before 3 is kept for it (the parker's token), one
//!    after it ends the sleep; it looks again, and C comes after A, so it sees the change.
//! 2. *B before 1*: what A wrote is seen by whoever takes the latch after B, so by 2.
//! 3. *It leaves before C*: it was told of the change for nothing, by a token that the next sleep on this thread's parker ends
//!    early by; whoever parks looks again, whatever ended its sleep.

use crate::sync::{Mutex, Parker, Unparker, armed};
use std::collections::BTreeMap;

/// See the head of the file.
#[derive(Debug, Default)]
pub struct Sleepers {
    latch: Mutex<Asleep>,
}

#[derive(Default)]
struct Asleep {
    entered: u64,
    /// By the number of the entry; with the time since when a call waits, none for who only wants to be woken.
    who: BTreeMap<u64, (Unparker, Option<u64>)>,
    waiting: usize,
}

impl std::fmt::Debug for Asleep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asleep").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

/// What a look at the words came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look<R, T> {
    /// No need to sleep any more.
    Done(R),
    /// Sleep to this time.
    Sleep(T),
}

/// An entry; it is taken out when this is dropped.
#[derive(Debug)]
pub struct Entry<'a> {
    sleepers: &'a Sleepers,
    number: u64,
}

impl Sleepers {
    /// Enters who is to be woken at changes, and waits since `since` if it is a call that waits.
    pub(crate) fn enter(&self, who: Unparker, since: Option<u64>) -> Entry<'_> {
        let mut asleep = self.latch.lock();
        asleep.entered += 1;
        let number = asleep.entered;
        asleep.who.insert(number, (who, since));
        asleep.waiting += usize::from(since.is_some());
        Entry { sleepers: self, number }
    }

    /// Takes an entry out. One that was taken out is no more there.
    pub fn leave(&self, number: u64) {
        let mut asleep = self.latch.lock();
        let left = asleep.who.remove(&number);
        asleep.waiting -= usize::from(left.is_some_and(|(_, since)| since.is_some()));
    }

    /// Sleeps on the parker until `look` says that it need not. `entered` hears of the entry.
    pub(crate) fn sleep<R, T>(
        &self,
        parker: &Parker,
        since: u64,
        entered: impl FnOnce(),
        mut look: impl FnMut() -> Look<R, T>,
        park: impl Fn(&Parker, T),
    ) -> R {
        let mut early = armed!(mutant = "sleepers_look_first").then(&mut look);
        let _entry = self.enter(parker.unparker(), Some(since));
        entered();
        loop {
            match early.take().unwrap_or_else(&mut look) {
                Look::Done(done) => return done,
                Look::Sleep(until) => park(parker, until),
            }
        }
    }

    /// After a change: wakes all.
    pub fn wake_all(&self) {
        let asleep: Vec<Unparker> = self.latch.lock().who.values().map(|(who, _)| who.clone()).collect();
        let told = usize::from(armed!(mutant = "sleepers_one_is_not_told"));
        for sleeper in &asleep[told.min(asleep.len())..] {
            sleeper.unpark();
        }
    }

    /// How many calls wait.
    pub fn waiting(&self) -> usize {
        self.latch.lock().waiting
    }

    /// Since when the call waits that waits longest.
    pub fn oldest(&self) -> Option<u64> {
        self.latch.lock().who.values().filter_map(|(_, since)| *since).min()
    }
}

impl Entry<'_> {
    /// Its number, for who [leaves](Sleepers::leave) by that; the entry stays.
    pub fn keep(self) -> u64 {
        let number = self.number;
        std::mem::forget(self);
        number
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.sleepers.leave(self.number);
    }
}

/// For the models, which cannot make a parker.
#[cfg(any(loom, shuttle))]
impl Sleepers {
    /// [`sleep`](Self::sleep) with a parker of its own and without a time.
    pub fn sleep_alone<R>(&self, look: impl FnMut() -> Look<R, ()>) -> R {
        self.sleep(&Parker::new(), 0, || {}, look, |parker, ()| parker.park())
    }
}
