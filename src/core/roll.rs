//! The roll of those who wait, each with what others need to know of it; and how one of them is told something.
//!
//! One short latch. Who is to be told is marked under it, and woken behind it; it looks at its mark without. (Unlike the rest of this floor it allocates:
//! who comes here is about to sleep, and has no node to lend that would outlive what is read of it.)
//!
//! 1. *Of any number who enter and look, the last to enter sees all the others.* Who looks has entered first.
//! 2. *What is read of somebody stands still.* It is on the roll for as long as that may be read: who would change it leaves
//!    first.
//! 3. *Who is told hears of it*: it looks at its mark before each sleep, and the mark comes before the wake-up.

// The models reach this module from outside; parkers stay inside.
#![cfg_attr(any(loom, shuttle), allow(private_interfaces))]

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, Unparker, armed};
use std::fmt;

/// One on the roll.
#[derive(Debug)]
pub struct Entry<T> {
    number: u64,
    thread: Unparker,
    told: Arc<AtomicBool>,
    waking: bool,
    /// What others need to know.
    pub what: T,
}

/// A place on the roll, of who has entered.
#[derive(Debug)]
pub struct Place {
    number: u64,
    told: Arc<AtomicBool>,
}

/// See the head.
pub struct Roll<T> {
    list: Mutex<List<T>>,
}

struct List<T> {
    last: u64,
    entries: Vec<Entry<T>>,
}

impl<T> Entry<T> {
    /// Which one, of all that ever were: the later, the higher.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Marks it, and has it woken.
    pub fn tell(&mut self) {
        // ORDERING: Release pairs with the Acquire of who looks at its mark: it sees what was decided before.
        self.told.store(true, Ordering::Release);
        self.waking = !armed!(mutant = "roll_tells_silently");
    }

    /// Whether it is marked.
    pub fn is_told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }
}

impl Place {
    /// Whether it is marked. Asked before each sleep.
    pub fn is_told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }
}

impl<T> Default for Roll<T> {
    fn default() -> Self {
        Roll { list: Mutex::new(List { last: 0, entries: Vec::new() }) }
    }
}

impl<T> Roll<T> {
    /// Enters a sleeper.
    pub(crate) fn enter(&self, thread: Unparker, what: T) -> Place {
        let mut list = self.list.lock();
        list.last += 1;
        let number = list.last;
        let told = Arc::new(AtomicBool::new(false));
        list.entries.push(Entry { number, thread, told: Arc::clone(&told), waking: false, what });
        Place { number, told }
    }

    /// Shows all that are there, in no order.
    pub fn look<R>(&self, f: impl FnOnce(&mut [Entry<T>]) -> R) -> R {
        let mut list = self.list.lock();
        let result = f(&mut list.entries);
        let woken = |entry: &mut Entry<T>| std::mem::take(&mut entry.waking).then(|| entry.thread.clone());
        let woken: Vec<Unparker> = list.entries.iter_mut().filter_map(woken).collect();
        drop(list);
        for thread in woken {
            thread.unpark();
        }
        result
    }

    /// Takes it off: whether it was marked, and what was known of it.
    pub fn leave(&self, place: &Place) -> Option<(bool, T)> {
        let mut list = self.list.lock();
        if armed!(mutant = "roll_stays") {
            return None;
        }
        let at = list.entries.iter().position(|entry| entry.number == place.number)?;
        let entry = list.entries.swap_remove(at);
        Some((entry.is_told(), entry.what))
    }
}

impl<T> fmt::Debug for Roll<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roll").field("entries", &self.list.lock().entries.len()).finish_non_exhaustive()
    }
}

/// For the models: one who waits until it is told, or `ends` says that it need not any more.
#[cfg(any(loom, shuttle))]
impl<T> Roll<T> {
    /// Enters, looks, and sleeps as long as neither is so. `wakes` is given what wakes it. True: it was told.
    pub fn wait_alone(
        &self,
        what: T,
        wakes: impl FnOnce(&dyn Fn() -> Box<dyn Fn() + Send + Sync>),
        look: impl FnOnce(&mut [Entry<T>]),
        ends: impl Fn() -> bool,
    ) -> bool {
        let parker = crate::sync::Parker::new();
        wakes(&|| {
            let thread = parker.unparker();
            Box::new(move || thread.unpark())
        });
        let place = if armed!(mutant = "roll_looks_first") {
            self.look(look);
            self.enter(parker.unparker(), what)
        } else {
            let place = self.enter(parker.unparker(), what);
            self.look(look);
            place
        };
        while !ends() && !place.is_told() {
            parker.park();
        }
        self.leave(&place).is_some_and(|(told, _)| told)
    }
}
