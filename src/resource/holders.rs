//! Who holds what: a slot for each live permit, with its lease.
//!
//! What races for a permit's end, a drop, the sweep and the owner's end, races on the slot's [`Lease`] word alone. What
//! reports need beside it (whose, since when, where taken) lies under a latch per slot, which whoever enters or leaves
//! the slot passes, and the sweep while it decides: so what it reads there is of the generation that it ends.
//!
//! Slots come in segments that double, are never moved and never freed; free ones are used again first come, first
//! served, which keeps the time long until a generation comes round.

use super::lapse::{OnExpiry, tick};
use crate::core::lease::{self, Gone, Lease, Standing};
use crate::core::soonest::Soonest;
use crate::core::waitlist::Demand;
use crate::job::Priority;
use crate::sync::thread::ThreadId;
use crate::sync::{Arc, Mutex, OnceLock};
use crate::time::Timestamp;
use std::collections::VecDeque;
use std::panic::Location;

const FIRST: u32 = 32;
const SEGMENTS: usize = 26;

/// Whose a permit is, if it is somebody's in particular.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnerId {
    /// An [`Owner`](super::Owner)'s.
    Owner(u64),
    /// An attempt's at an item: its worker's number and its own among that worker's.
    Attempt(u64, u64),
}

/// A permit, as the reports see it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) demand: Demand,
    pub(super) owner: Arc<str>,
    pub(super) owner_id: Option<OwnerId>,
    /// The thread that took it, unless it was handed on.
    pub(super) thread: Option<ThreadId>,
    pub(super) priority: Priority,
    pub(super) since: Timestamp,
    pub(super) place: &'static Location<'static>,
    pub(super) on_expiry: OnExpiry,
    /// Its holder was given up: it is taken back at this tick, whatever the holder still does.
    pub(super) lost_at: Option<u64>,
}

impl Entry {
    fn lose(&mut self, at: u64) {
        self.on_expiry = OnExpiry::Reclaim;
        self.lost_at = Some(at);
    }
}

/// Where a permit's slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle {
    slot: u32,
    generation: u32,
}

#[derive(Debug, Default)]
struct Slot {
    lease: Lease<Demand>,
    entry: Mutex<Option<(u32, Entry)>>,
}

#[derive(Debug, Default)]
struct Free {
    slots: VecDeque<u32>,
    made: u32,
}

#[derive(Debug)]
pub(super) struct Holders {
    segments: [OnceLock<Box<[Slot]>>; SEGMENTS],
    free: Mutex<Free>,
    /// No lease is over before this. Too early does no harm.
    soonest: Soonest,
    /// Of who walks over all leases to end what is over: one does.
    walk: Mutex<()>,
}

/// What a sweep found over.
#[derive(Debug)]
pub(super) struct Lapsed {
    pub(super) entry: Entry,
    /// It was taken back; else it stays with its holder.
    pub(super) taken: bool,
}

impl Holders {
    pub(super) fn new() -> Self {
        Self {
            segments: [const { OnceLock::new() }; SEGMENTS],
            free: Mutex::default(),
            soonest: Soonest::new(),
            walk: Mutex::default(),
        }
    }

    fn slot(&self, slot: u32) -> &Slot {
        let segment = (slot / FIRST + 1).ilog2();
        let first = FIRST * ((1 << segment) - 1);
        let slots = self.segments[segment as usize]
            .get_or_init(|| (0..FIRST << segment).map(|_| Slot::default()).collect());
        &slots[(slot - first) as usize]
    }

    /// Enters a permit. True: its lease is over before all others.
    pub(super) fn enter(&self, entry: Entry, expiry: u64) -> (Handle, bool) {
        let (mut entry, mut load) = (Some(entry.clone()), entry.demand);
        loop {
            let slot = {
                let mut free = self.free.lock();
                free.slots.pop_front().unwrap_or_else(|| {
                    free.made += 1;
                    free.made - 1
                })
            };
            let Slot { lease, entry: place } = self.slot(slot);
            let mut place = place.lock();
            match lease.publish(load, expiry) {
                Ok(generation) => {
                    *place = entry.take().map(|entry| (generation, entry));
                    drop(place);
                    return (Handle { slot, generation }, self.soonest.lower(expiry));
                }
                // The slot is spent. It is left lying; another takes its place.
                Err(back) => load = back,
            }
        }
    }

    /// Ends a permit. One caller of all who would gets what it held.
    pub(super) fn end(&self, handle: Handle) -> Result<Entry, Gone> {
        let slot = self.slot(handle.slot);
        let demand = slot.lease.take(handle.generation)?;
        Ok(self.vacate(handle.slot, &mut slot.entry.lock(), demand))
    }

    /// After the lease was won: clears the slot for the next.
    fn vacate(&self, slot: u32, place: &mut Option<(u32, Entry)>, demand: Demand) -> Entry {
        let (_, mut entry) = place.take().expect("entered before the latch was given up, left by its winner");
        entry.demand = demand;
        self.free.lock().slots.push_back(slot);
        entry
    }

    /// Changes what a permit holds.
    pub(super) fn edit(&self, handle: Handle, f: impl Fn(&mut Demand)) -> Result<(), Gone> {
        let slot = self.slot(handle.slot);
        let mut place = slot.entry.lock();
        slot.lease.edit(handle.generation, &f)?;
        if let Some((generation, entry)) = &mut *place
            && *generation == handle.generation
        {
            f(&mut entry.demand);
        }
        Ok(())
    }

    /// What a permit's reports say.
    pub(super) fn entry(&self, handle: Handle) -> Option<Entry> {
        let place = self.slot(handle.slot).entry.lock();
        place
            .as_ref()
            .filter(|(generation, _)| *generation == handle.generation)
            .map(|(_, entry)| entry.clone())
    }

    /// Says that another thread may hold it now.
    pub(super) fn unbind(&self, handle: Handle) {
        if let Some((generation, entry)) = &mut *self.slot(handle.slot).entry.lock()
            && *generation == handle.generation
        {
            entry.thread = None;
        }
    }

    /// Moves a lease's end. True: it is over before all others.
    pub(super) fn renew(&self, handle: Handle, now: u64, expiry: u64) -> Result<bool, Gone> {
        let Slot { lease, entry } = self.slot(handle.slot);
        let place = entry.lock();
        if place.as_ref().is_some_and(|(there, entry)| *there == handle.generation && entry.lost_at.is_some())
        {
            return Err(Gone);
        }
        lease.renew(handle.generation, now, expiry)?;
        drop(place);
        Ok(self.soonest.lower(expiry))
    }

    /// What became of a permit's holder becomes of a part's. The part is entered.
    pub(super) fn share_loss(&self, of: Handle, part: Handle, now: u64) {
        if let Some(at) = self.entry(of).and_then(|entry| entry.lost_at) {
            let Slot { lease, entry } = self.slot(part.slot);
            if let Some((generation, entry)) = &mut *entry.lock()
                && *generation == part.generation
            {
                entry.lose(at);
                let _ = lease.renew(*generation, now, at);
            }
            self.soonest.lower(at);
        }
    }

    pub(super) fn standing(&self, handle: Handle) -> Standing {
        self.slot(handle.slot).lease.standing(handle.generation)
    }

    /// The tick before which no lease is over; `NEVER` if there is none. Zero while somebody walks.
    pub(super) fn soonest(&self) -> u64 {
        self.soonest.bound()
    }

    /// What is over now. Waits for who walks already.
    pub(super) fn lapse(&self, now: Timestamp) -> Vec<Lapsed> {
        let (now, mut lapsed) = (tick(now), Vec::new());
        let _walk = self.walk.lock();
        if now < self.soonest.bound() {
            return lapsed;
        }
        self.soonest.begin();
        let mut next = lease::NEVER;
        self.each(|number, slot| {
            let Some(expiry) = slot.lease.expiry() else { return };
            if expiry > now {
                next = next.min(expiry);
                return;
            }
            let mut place = slot.entry.lock();
            let Some((_, entry)) = &*place else { return };
            if matches!(entry.on_expiry, OnExpiry::Report) {
                if slot.lease.mark(now) {
                    lapsed.push(Lapsed { entry: entry.clone(), taken: false });
                }
            } else if let Some(demand) = slot.lease.reap(now) {
                lapsed.push(Lapsed { entry: self.vacate(number, &mut place, demand), taken: true });
            } else if let Some(expiry) = slot.lease.expiry() {
                // Renewed, or its holder is at it: soon again.
                next = next.min(expiry.max(now + 1));
            }
        });
        self.soonest.end(next);
        lapsed
    }

    /// Ends all permits of an owner.
    pub(super) fn end_of_owner(&self, owner: OwnerId) -> Vec<Lapsed> {
        let mut lapsed = Vec::new();
        self.each(|number, slot| {
            let handle = match &*slot.entry.lock() {
                Some((generation, entry)) if entry.owner_id == Some(owner) => {
                    Handle { slot: number, generation: *generation }
                }
                _ => return,
            };
            if let Ok(entry) = self.end(handle) {
                lapsed.push(Lapsed { entry, taken: true });
            }
        });
        lapsed
    }

    /// All live permits, and whether each is overdue.
    pub(super) fn list(&self) -> Vec<(Entry, bool)> {
        let mut list = Vec::new();
        self.each(|_, slot| {
            let place = slot.entry.lock();
            let Some((generation, entry)) = &*place else { return };
            match slot.lease.standing(*generation) {
                Standing::Gone => {}
                standing => list.push((entry.clone(), standing == Standing::Overdue)),
            }
        });
        list
    }

    /// A permit that holds something and is this thread's or this owner's.
    pub(super) fn held_by(&self, thread: ThreadId, owner: Option<OwnerId>) -> Option<Entry> {
        let mut found = None;
        self.each(|_, slot| {
            if found.is_some() {
                return;
            }
            let place = slot.entry.lock();
            let Some((generation, entry)) = &*place else { return };
            let mine = entry.thread == Some(thread) || owner.is_some() && entry.owner_id == owner;
            if mine && !entry.demand.is_empty() && slot.lease.standing(*generation) != Standing::Gone {
                found = Some(entry.clone());
            }
        });
        found
    }

    /// The highest kind that an attempt holds, and where it was taken.
    pub(super) fn highest_of(&self, attempt: OwnerId) -> Option<(u16, &'static Location<'static>)> {
        let mut highest = None;
        self.each_of(attempt, |entry, _| {
            let kind = entry.demand.parts().map(|(kind, _)| kind).max();
            highest = highest.max(kind.map(|kind| (kind, entry.place)));
        });
        highest
    }

    /// How much of a kind an attempt holds.
    pub(super) fn held_of(&self, attempt: OwnerId, kind: u16) -> u64 {
        let mut held = 0;
        self.each_of(attempt, |entry, _| held += entry.demand.amount(kind));
        held
    }

    /// What an attempt holds is taken back at this tick. True: it is over before all others.
    pub(super) fn lapse_at(&self, attempt: OwnerId, now: u64, expiry: u64) -> bool {
        let mut moved = false;
        // Twice: a part may be entered where the first walk has been already, of a permit where it has not been yet. Who
        // makes a part looks at the whole behind that (`share_loss`): so it is there before the first walk ends, or is lost
        // by its maker.
        for _ in 0..2 {
            self.each_of(attempt, |entry, renew| {
                entry.lose(expiry);
                moved |= renew(now, expiry);
            });
        }
        moved && self.soonest.lower(expiry)
    }

    fn each_of(&self, attempt: OwnerId, mut f: impl FnMut(&mut Entry, &dyn Fn(u64, u64) -> bool)) {
        self.each(|_, slot| {
            if let Some((generation, entry)) = &mut *slot.entry.lock()
                && entry.owner_id == Some(attempt)
                && slot.lease.standing(*generation) != Standing::Gone
            {
                f(entry, &|now, expiry| slot.lease.renew(*generation, now, expiry).is_ok());
            }
        });
    }

    fn each(&self, mut f: impl FnMut(u32, &Slot)) {
        let made = self.free.lock().made;
        (0..made).for_each(|number| f(number, self.slot(number)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::lease::NEVER;
    use crate::resource::lapse::begin;

    /// As `Permit::split` does while the attempt is given up: the part was made of what the whole was before.
    #[test]
    fn a_part_that_was_made_meanwhile_is_lost_with_the_whole() {
        let holders = Holders::new();
        let attempt = OwnerId::Attempt(1, 1);
        let entry = Entry {
            demand: Demand::of(0, 2),
            owner: "lost".into(),
            owner_id: Some(attempt),
            thread: None,
            priority: Priority::Normal,
            since: Timestamp::ZERO,
            place: Location::caller(),
            on_expiry: OnExpiry::Report,
            lost_at: None,
        };
        let (whole, _) = holders.enter(entry.clone(), NEVER);
        assert!(holders.lapse_at(attempt, 0, 3));
        let (part, _) = holders.enter(entry, NEVER);
        holders.share_loss(whole, part, 0);
        assert_eq!(holders.renew(part, 0, 9), Err(Gone));
        let then = begin(3).expect("a time");
        let lapsed = holders.lapse(then);
        assert!(lapsed.len() == 2 && lapsed.iter().all(|lapsed| lapsed.taken), "{lapsed:?}");
    }
}
