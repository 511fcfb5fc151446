//! Who has which connection since when: what a leak report needs. A latch for each slot, which its holder enters twice and
//! else only who looks for leaks; none at all where leaks are not looked for.

use crate::core::shelf::Place;
use crate::lock::{Levelled, house};
use crate::time::Timestamp;
use std::fmt;
use std::panic::Location;
use std::time::Duration;

/// A connection that is out: who took it, and how long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Held {
    /// The place in the source that took it: the call of [`get`](super::Pool::get) or its kin.
    pub taken_at: &'static Location<'static>,
    /// For how long it has been out.
    pub held_for: Duration,
}

/// `taken at src/report.rs:12:30, out for 61s`
impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "taken at {}, out for {:?}", self.taken_at, self.held_for)
    }
}

#[derive(Debug)]
struct Holder {
    taken_at: &'static Location<'static>,
    since: Timestamp,
    reported: bool,
}

impl Holder {
    fn held(&self, now: Timestamp) -> Held {
        Held { taken_at: self.taken_at, held_for: now - self.since }
    }
}

type HolderSlot = Levelled<Option<Holder>, house::PoolSlot>;

#[derive(Debug)]
pub(super) struct Holders {
    slots: Box<[HolderSlot]>,
    leak_after: Duration,
}

impl Holders {
    /// One for each slot, or none.
    pub(super) fn new(slots: usize, leak_after: Option<Duration>) -> Self {
        let slots = if leak_after.is_some() { slots } else { 0 };
        Holders {
            slots: (0..slots).map(|_| Levelled::new(None)).collect(),
            leak_after: leak_after.unwrap_or(Duration::MAX),
        }
    }

    #[inline]
    pub(super) fn took(&self, place: &Place, taken_at: &'static Location<'static>, since: Timestamp) {
        if let Some(slot) = self.slots.get(place.slot()) {
            *slot.lock() = Some(Holder { taken_at, since, reported: false });
        }
    }

    /// It comes back. Whether it was reported as leaked.
    #[inline]
    pub(super) fn brings(&self, place: &Place) -> bool {
        let slot = self.slots.get(place.slot());
        slot.and_then(|slot| slot.lock().take()).is_some_and(|holder| holder.reported)
    }

    /// All that are out.
    pub(super) fn all(&self, now: Timestamp) -> Vec<Held> {
        self.slots.iter().filter_map(|slot| Some(slot.lock().as_ref()?.held(now))).collect()
    }

    /// Those that are out for too long and have not been reported; they count as reported from now on.
    pub(super) fn overdue(&self, now: Timestamp) -> Vec<Held> {
        let overdue = |slot: &HolderSlot| {
            let mut slot = slot.lock();
            let holder = slot.as_mut()?;
            let held = holder.held(now);
            let first = held.held_for >= self.leak_after && !std::mem::replace(&mut holder.reported, true);
            first.then_some(held)
        };
        self.slots.iter().filter_map(overdue).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::shelf::Shelf;
    use crate::time::secs;

    #[test]
    fn each_is_reported_once_when_its_time_has_come() {
        let shelf = Shelf::<()>::new(2);
        let (one, two) = (shelf.claim().unwrap(), shelf.claim().unwrap());
        let holders = Holders::new(2, Some(secs(10)));
        let at = |s| Timestamp::ZERO + secs(s);
        let here = Location::caller();
        holders.took(&one, here, at(0));
        holders.took(&two, here, at(5));
        assert_eq!(holders.overdue(at(9)), []);
        assert_eq!(holders.overdue(at(10)), [Held { taken_at: here, held_for: secs(10) }]);
        assert_eq!(holders.overdue(at(11)), []);
        assert!(holders.brings(&one));
        holders.took(&one, here, at(12));
        let held: Vec<_> = holders.all(at(15)).iter().map(|held| held.held_for).collect();
        assert_eq!(held, [secs(3), secs(10)]);
        assert_eq!(holders.overdue(at(15)).len(), 1);
        assert_eq!((holders.brings(&two), holders.brings(&one), holders.brings(&one)), (true, false, false));
    }

    #[test]
    fn nothing_is_kept_where_leaks_are_not_looked_for() {
        let shelf = Shelf::<()>::new(1);
        let place = shelf.claim().unwrap();
        let holders = Holders::new(1, None);
        holders.took(&place, Location::caller(), Timestamp::ZERO);
        assert!(holders.all(Timestamp::MAX).is_empty() && holders.overdue(Timestamp::MAX).is_empty());
        assert!(!holders.brings(&place));
    }
}
