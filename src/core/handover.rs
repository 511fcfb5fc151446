//! A shelf, and who sleeps until something comes back to it: what comes back goes to who sleeps before it is shelved, to the
//! one whose call is the oldest. Else those who come later, and find it on the shelf, would be served before them.
//!
//! Bringing something while nobody sleeps is lock-free: the put of the [`shelf`](super::shelf), and two looks at a count. Else
//! blocking, one short latch; entering allocates.
//!
//! | sleeper | in the list | has something | counted | goes to |
//! |---|---|---|---|---|
//! | out | no | no | no | waiting, by entering |
//! | waiting | yes | no | yes | served, by who brings something; out, by leaving: with something off the shelf, or when its time is over |
//! | served | yes | yes | no | out, by leaving: with what it has |
//!
//! *The count* is that of those who wait, not of the list: who is served already takes nothing more, and for its sake nothing
//! may be brought to the list instead of the shelf. It is changed under the latch together with the list, so each of its values
//! was true at one moment; one that comes after somebody's entry and is zero says that it was served since, or has left.
//!
//! | who brings something | who sleeps |
//! |---|---|
//! | 1. looks at the count; if somebody waits, enters the latch and hands it over: done. If nobody does by then: goes on | a. enters, and is counted |
//! | 2. puts it on the shelf, in one RMW of its head | b. looks at the shelf, in one RMW of its head that changes nothing |
//! | 3. looks at the count; nobody waits: done | c. under the latch: leaves with what it has, or with something off the shelf; or stays |
//! | 4. takes something off the shelf; there is nothing: done. Goes to 1 with it | d. sleeps until it is woken or its time is over; goes to c, where it leaves without anything if that is so |
//!
//! *Nothing lies on the shelf while somebody sleeps, and nobody is about to change that.* Both RMWs are of one word, so:
//!
//! 1. *2 before b*: c finds it, or a third has taken it in between, who brings it back after a (who brings it in 4: goes to 1
//!    after a).
//! 2. *b before 2*: 3 sees a (Release of b, Acquire of 2), so it finds the count zero only if the sleeper was served or left.
//!    Else 4 takes what lies there; if there is nothing, a third has taken it, who brings it back after a.
//! 3. Between the look and the latch in 1 the one who waited may leave and another come: so a hand-over that fails is
//!    followed by 2 *and* 3.
//!
//! Each lap after the first is another's doing, who has entered since. A sleeper never has two: it takes from the shelf under
//! the latch under which it would be handed one.
//!
//! *The close.* Who closes marks the shelf, then wakes all in the list: under the latch, who enters before hears of it and who
//! enters after sees the mark. What is brought afterwards is refused by the shelf.

use super::shelf::{Place, Shelf};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{CachePadded, Mutex, Parker, Unparker, armed};
use std::fmt;

/// See the head of the file.
pub struct Handover<T> {
    shelf: Shelf<T>,
    /// On lines of its own: it is read by all who bring something, and hardly ever written.
    waiting: CachePadded<AtomicUsize>,
    sleepers: Mutex<Vec<Sleeper<T>>>,
}

struct Sleeper<T> {
    since: u64,
    thread: Unparker,
    served: Option<(Place, T)>,
}

impl<T> fmt::Debug for Handover<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.waiting.load(Ordering::Relaxed);
        f.debug_struct("Handover")
            .field("shelf", &self.shelf)
            .field("waiting", &waiting)
            .finish_non_exhaustive()
    }
}

impl<T> Handover<T> {
    /// On a shelf of so many slots, all vacant.
    pub fn new(slots: usize) -> Self {
        Handover {
            shelf: Shelf::new(slots),
            waiting: CachePadded::new(AtomicUsize::new(0)),
            sleepers: Mutex::default(),
        }
    }

    /// Whether somebody waits. A hint, but for who looks behind a put: see the head.
    #[inline]
    fn anybody(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) != 0
    }

    /// Brings a value: to who has slept for longest, or else to the shelf.
    ///
    /// # Errors
    ///
    /// It is closed. Place and value are the caller's: these, or others that were brought before.
    ///
    /// # Safety
    ///
    /// The place is of this shelf.
    #[inline]
    pub unsafe fn bring(&self, place: Place, value: T) -> Result<(), (Place, T)> {
        if self.anybody() {
            return self.settle(Some((place, value)));
        }
        // SAFETY: the caller's promise.
        unsafe { self.shelf.put(place, value)? };
        if self.anybody() && !armed!(mutant = "handover_looks_once") {
            return self.settle(None);
        }
        Ok(())
    }

    /// From step 1, or without anything from step 4.
    #[cold]
    fn settle(&self, mut brought: Option<(Place, T)>) -> Result<(), (Place, T)> {
        loop {
            let Some(found) = brought.take().or_else(|| self.shelf.take()) else { return Ok(()) };
            let Err((place, value)) = self.hand(found) else { return Ok(()) };
            // SAFETY: the place is one that was brought, or one of the shelf's.
            unsafe { self.shelf.put(place, value)? };
            if !self.anybody() || armed!(mutant = "handover_looks_once_behind_the_latch") {
                return Ok(());
            }
        }
    }

    /// To the one that has waited for longest.
    fn hand(&self, found: (Place, T)) -> Result<(), (Place, T)> {
        let mut sleepers = self.sleepers.lock();
        if self.is_closed() {
            return Err(found);
        }
        let waiting = sleepers.iter_mut().filter(|sleeper| sleeper.served.is_none());
        let Some(first) = waiting.min_by_key(|sleeper| sleeper.since) else { return Err(found) };
        first.served = Some(found);
        if !armed!(mutant = "handover_counts_the_served") {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        first.thread.unpark();
        Ok(())
    }

    /// Sleeps on this parker until there is something, until `over`, or until it is closed. `since`: those who called earlier
    /// are served earlier.
    pub(crate) fn sleep(
        &self,
        since: u64,
        parker: &Parker,
        over: impl Fn() -> bool,
        park: impl Fn(&Parker),
    ) -> Option<(Place, T)> {
        let me = parker.unparker();
        self.enter(since, me.clone());
        if !armed!(mutant = "handover_sleeps_without_a_look") {
            self.shelf.look();
        }
        loop {
            let ends = self.is_closed() || over();
            if let Some(left) = self.leave(&me, ends) {
                return left;
            }
            park(parker);
        }
    }

    fn enter(&self, since: u64, thread: Unparker) {
        let mut sleepers = self.sleepers.lock();
        sleepers.push(Sleeper { since, thread, served: None });
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Out of the list with what was brought or lies on the shelf, or without anything if it `ends`. `None`: it stays.
    fn leave(&self, thread: &Unparker, ends: bool) -> Option<Option<(Place, T)>> {
        let mut sleepers = self.sleepers.lock();
        let at = sleepers
            .iter()
            .position(|sleeper| sleeper.thread.same(thread))
            .expect("each who enters leaves once");
        let unserved = sleepers[at].served.is_none();
        if unserved {
            // Under the latch: with this in hand it is not handed another.
            let found = self.shelf.take();
            if found.is_none() && !ends {
                return None;
            }
            sleepers[at].served = found;
        }
        if unserved || armed!(mutant = "handover_counts_the_served") {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        Some(sleepers.swap_remove(at).served)
    }

    /// Takes what was shelved last. See [`Shelf::take`].
    #[inline]
    pub fn take(&self) -> Option<(Place, T)> {
        self.shelf.take()
    }

    /// Reserves a vacant slot. See [`Shelf::claim`].
    pub fn claim(&self) -> Option<Place> {
        self.shelf.claim()
    }

    /// Gives a reserved slot up.
    ///
    /// # Safety
    ///
    /// The place is of this shelf.
    pub unsafe fn vacate(&self, place: Place) {
        // SAFETY: the caller's promise.
        unsafe { self.shelf.vacate(place) }
    }

    /// How many values lie on the shelf.
    #[inline]
    pub fn len(&self) -> usize {
        self.shelf.len()
    }

    /// Whether none does.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.shelf.is_empty()
    }

    /// Refuses values from now on, and wakes all who sleep. What lies on the shelf can be taken.
    pub fn close(&self) {
        self.shelf.close();
        if !armed!(mutant = "handover_closes_silently") {
            self.sleepers.lock().iter().for_each(|sleeper| sleeper.thread.unpark());
        }
    }

    /// Whether it was closed.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.shelf.is_closed()
    }
}

/// For the models, which cannot make a parker.
#[cfg(any(loom, shuttle))]
impl<T> Handover<T> {
    /// [`sleep`](Self::sleep) with a parker of its own: without a time, or with one that is over at once.
    pub fn sleep_alone(&self, since: u64, over: bool) -> Option<(Place, T)> {
        self.sleep(since, &Parker::new(), || over, |parker| parker.park())
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    fn bring(handover: &Handover<u32>, place: Place, value: u32) {
        // SAFETY: each test has one shelf.
        assert!(unsafe { handover.bring(place, value) }.is_ok());
    }

    /// Those who sleep, by the time of their calls; and so many places.
    fn asleep(since: &[u64], places: usize) -> (Handover<u32>, Vec<Parker>, Vec<Place>) {
        let handover = Handover::new(places);
        let parkers: Vec<_> = since.iter().map(|_| Parker::new()).collect();
        for (since, parker) in since.iter().zip(&parkers) {
            handover.enter(*since, parker.unparker());
        }
        let places = (0..places).map(|_| handover.claim().expect("vacant")).collect();
        (handover, parkers, places)
    }

    fn left(handover: &Handover<u32>, parker: &Parker) -> Option<u32> {
        handover.leave(&parker.unparker(), true).expect("ends").map(|(_, value)| value)
    }

    #[test]
    fn the_oldest_call_is_served_first_and_once() {
        let (handover, sleepers, places) = asleep(&[3, 1, 2], 4);
        for (value, place) in places.into_iter().enumerate() {
            bring(&handover, place, value as u32);
        }
        assert!(!handover.anybody(), "all are served, and none has left");
        assert_eq!(handover.len(), 1);
        let got: Vec<_> = sleepers.iter().map(|sleeper| left(&handover, sleeper)).collect();
        assert_eq!(got, [Some(2), Some(0), Some(1)]);
        assert!(!handover.anybody());
    }

    #[test]
    fn who_leaves_unserved_is_not_counted() {
        let (handover, sleepers, mut places) = asleep(&[1, 2], 1);
        assert_eq!(left(&handover, &sleepers[0]), None);
        assert!(handover.anybody());
        bring(&handover, places.remove(0), 7);
        assert!(!handover.anybody());
        assert_eq!((left(&handover, &sleepers[1]), handover.len()), (Some(7), 0));
    }

    #[test]
    fn who_sleeps_takes_what_lies_there_and_else_stays() {
        let (handover, sleepers, mut places) = asleep(&[], 1);
        bring(&handover, places.remove(0), 7);
        let parkers = [Parker::new(), Parker::new()];
        parkers.iter().for_each(|parker| handover.enter(0, parker.unparker()));
        assert_eq!(handover.leave(&parkers[0].unparker(), false).flatten().map(|(_, value)| value), Some(7));
        assert!(handover.leave(&parkers[1].unparker(), false).is_none() && handover.anybody());
        assert!(sleepers.is_empty() && left(&handover, &parkers[1]).is_none());
    }

    #[test]
    fn a_closed_one_hands_nothing_over() {
        let (handover, sleepers, mut places) = asleep(&[1], 1);
        handover.close();
        // SAFETY: there is one shelf.
        let (place, value) = unsafe { handover.bring(places.remove(0), 7) }.expect_err("closed");
        assert_eq!((place.slot(), value, left(&handover, &sleepers[0])), (0, 7, None));
    }
}
