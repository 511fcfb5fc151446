//! Who holds what: a slot for each live permit, with its lease.
//!
//! To enter a permit and to drop it takes no latch (but for the first entry in a new segment of slots, which makes it, and
//! those that meet it meanwhile, which wait for that): a slot that is nobody's is taken from a stack of them ([`Vacant`]),
//! the entry lies in it under the slot's [`Lease`], and what races for the permit's end, a drop, the sweep and the owner's
//! end, races on the lease's word alone. Whoever looks at what others hold, to report it or to change it, passes the
//! slot's latch: one at a time looks, as the lease asks. A drop beside that does not wait: it leaves entry and slot to who
//! looks, who finds at the end that nobody is there any more, and hands the slot on in its place.
//!
//! | who | passes the latch |
//! |---|---|
//! | `enter`, `end` (grant and drop of a permit) | no; a new segment's once |
//! | `edit`, `renew`, `unbind`, `entry`, `share_loss` (a holder that changes its permit) | its slot's |
//! | `lapse`, `end_of_owner`, `list`, `held_by` and their kin (whoever looks at all) | each slot's, one after the other |
//!
//! *Nobody is overlooked.* Who looks at all begins with an RMW on the number of slots that were made, which a new one's
//! maker changes by an RMW, too. So a slot that it does not find is entered after that RMW, and its maker sees what came
//! before it; a slot that it finds and that is entered later is entered by one who sees that, if it [passes](Holders::pass)
//! the latch afterwards: an owner's end, for one.
//!
//! Slots come in segments that double, are never moved and never freed.

use super::caller;
use super::guarded::guarded;
use super::lapse::{OnExpiry, tick};
use crate::core::lease::{self, Gone, Lease, Looked, Standing};
use crate::core::soonest::Soonest;
use crate::core::vacant::{Link, Vacant};
use crate::core::waitlist::Demand;
use crate::job::Priority;
use crate::lock::{Levelled, LevelledGuard, house};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::thread::ThreadId;
use crate::sync::{Arc, CachePadded, OnceLock};
use crate::time::Timestamp;
use std::cell::Cell;
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

impl OwnerId {
    /// As the wait graph tells owners apart.
    pub(crate) fn party(self) -> u64 {
        match self {
            OwnerId::Owner(owner) => owner,
            // Far more attempts than one process lives to see are apart.
            OwnerId::Attempt(worker, attempt) => (worker + 1) << 40 ^ attempt,
        }
    }
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
    /// What was to become of it comes back, to be dropped under no latch: it may be the user's.
    #[must_use]
    fn lose(&mut self, at: u64) -> OnExpiry {
        self.lost_at = Some(at);
        std::mem::replace(&mut self.on_expiry, OnExpiry::Reclaim)
    }
}

/// Where a permit's slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle {
    slot: u32,
    generation: u32,
}

/// On lines of its own: neighbours are other threads'.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Slot {
    lease: Lease<Entry>,
    /// Of who looks.
    latch: Levelled<(), house::PermitSlot>,
    /// The next vacant slot.
    link: Link,
}

#[derive(Debug)]
pub(super) struct Holders {
    segments: [OnceLock<Box<[Slot]>>; SEGMENTS],
    made: CachePadded<AtomicU32>,
    vacant: Vacant,
    /// No lease is over before this. Too early does no harm.
    soonest: CachePadded<Soonest>,
    /// Of who walks over all leases to end what is over: one does.
    walk: Levelled<(), house::PermitWalk>,
}

/// What a sweep found over.
#[derive(Debug)]
pub(super) struct Lapsed {
    pub(super) entry: Entry,
    /// It was taken back; else it stays with its holder.
    pub(super) taken: bool,
}

/// A slot whose latch is held, to look at what is there.
struct Seen<'a> {
    holders: &'a Holders,
    number: u32,
    lease: &'a Lease<Entry>,
    /// Given up before `left` is dropped.
    _latch: LevelledGuard<'a, ()>,
    left: Cell<Theirs<Entry>>,
}

/// Something that may have the last of a function of the user's: not to be dropped under a latch, and not to be
/// trusted.
struct Theirs<T>(Option<T>);

impl<T> Default for Theirs<T> {
    fn default() -> Self {
        Theirs(None)
    }
}

impl<T> Drop for Theirs<T> {
    fn drop(&mut self) {
        if let Some(theirs) = self.0.take() {
            let _ = guarded(|| drop(theirs));
        }
    }
}

impl Seen<'_> {
    /// Shows what is there: its generation, whether it was marked as over, and the entry. `None`: nothing is, or not any
    /// more at the end.
    fn look<R>(&self, f: impl FnOnce(u32, bool, &mut Entry) -> R) -> Option<R> {
        self.settle(self.lease.look(f)?)
    }

    /// Shows the entry of this generation.
    fn edit<R>(&self, generation: u32, f: impl FnOnce(&mut Entry) -> R) -> Result<R, Gone> {
        self.settle(self.lease.edit(generation, f)?).ok_or(Gone)
    }

    /// Who left meanwhile has left us the slot.
    fn settle<R>(&self, looked: Looked<R, Entry>) -> Option<R> {
        match looked {
            Looked::Stands(seen) => Some(seen),
            Looked::Left(entry) => {
                self.holders.vacate(self.number);
                self.left.set(Theirs(Some(entry)));
                None
            }
        }
    }
}

impl Holders {
    pub(super) fn new() -> Self {
        Self {
            segments: [const { OnceLock::new() }; SEGMENTS],
            made: CachePadded::new(AtomicU32::new(0)),
            vacant: Vacant::new(),
            soonest: CachePadded::new(Soonest::new()),
            walk: Levelled::default(),
        }
    }

    #[inline]
    fn slot(&self, slot: u32) -> &Slot {
        let segment = (slot / FIRST + 1).ilog2();
        let first = FIRST * ((1 << segment) - 1);
        let slots = self.segments[segment as usize]
            .get_or_init(|| (0..FIRST << segment).map(|_| Slot::default()).collect());
        &slots[(slot - first) as usize]
    }

    /// Enters a permit. True: its lease is over before all others.
    #[inline]
    pub(super) fn enter(&self, entry: Entry, expiry: u64) -> (Handle, bool) {
        let mut load = entry;
        loop {
            let slot = self.vacant.take(caller::place(), |slot| &self.slot(slot).link);
            let slot = slot.unwrap_or_else(|| self.make());
            match self.slot(slot).lease.publish(load, expiry) {
                Ok(generation) => return (Handle { slot, generation }, self.soonest.lower(expiry)),
                // The slot is spent. It is left lying; another takes its place.
                Err(back) => load = back,
            }
        }
    }

    #[cold]
    fn make(&self) -> u32 {
        // ORDERING: Acquire and Release pair with the RMW in `each`: see the head.
        self.made.fetch_add(1, Ordering::AcqRel)
    }

    /// Ends a permit. One caller of all who would. The entry, unless somebody looks at it.
    #[inline]
    pub(super) fn end(&self, handle: Handle) -> Result<Option<Entry>, Gone> {
        let entry = self.slot(handle.slot).lease.take(handle.generation)?;
        if entry.is_some() {
            self.vacate(handle.slot);
        }
        Ok(entry)
    }

    /// The slot is nobody's, and its entry has been moved out.
    #[inline]
    fn vacate(&self, slot: u32) {
        self.vacant.put(caller::place(), slot, &self.slot(slot).link);
    }

    fn see(&self, number: u32) -> Seen<'_> {
        let Slot { lease, latch, .. } = self.slot(number);
        Seen { holders: self, number, lease, _latch: latch.lock(), left: Cell::default() }
    }

    /// Changes what a permit holds.
    pub(super) fn edit(&self, handle: Handle, f: impl FnOnce(&mut Demand)) -> Result<(), Gone> {
        self.see(handle.slot).edit(handle.generation, |entry| f(&mut entry.demand))
    }

    /// What a permit's reports say.
    pub(super) fn entry(&self, handle: Handle) -> Option<Entry> {
        self.see(handle.slot).edit(handle.generation, |entry| entry.clone()).ok()
    }

    /// Says that another thread may hold it now.
    pub(super) fn unbind(&self, handle: Handle) {
        let _ = self.see(handle.slot).edit(handle.generation, |entry| entry.thread = None);
    }

    /// Moves a lease's end. True: it is over before all others.
    pub(super) fn renew(&self, handle: Handle, now: u64, expiry: u64) -> Result<bool, Gone> {
        let seen = self.see(handle.slot);
        if seen.edit(handle.generation, |entry| entry.lost_at.is_some())? {
            return Err(Gone);
        }
        seen.lease.renew(handle.generation, now, expiry)?;
        drop(seen);
        Ok(self.soonest.lower(expiry))
    }

    /// What became of a permit's holder becomes of a part's. The part is entered.
    pub(super) fn share_loss(&self, of: Handle, part: Handle, now: u64) {
        let lost_at = self.see(of.slot).edit(of.generation, |entry| entry.lost_at);
        if let Ok(Some(at)) = lost_at {
            let seen = self.see(part.slot);
            let theirs = Theirs(seen.edit(part.generation, |entry| entry.lose(at)).ok());
            let _ = seen.lease.renew(part.generation, now, at);
            drop(seen);
            drop(theirs);
            self.soonest.lower(at);
        }
    }

    /// Waits until whoever looks at this permit's slot now has seen it: see the head.
    pub(super) fn pass(&self, handle: Handle) {
        drop(self.see(handle.slot));
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
        self.each(|number| {
            let lease = &self.slot(number).lease;
            match lease.expiry() {
                None => return,
                Some(expiry) if expiry > now => return next = next.min(expiry),
                Some(_) => {}
            }
            let seen = self.see(number);
            let report = |entry: &Entry| matches!(entry.on_expiry, OnExpiry::Report).then(|| entry.clone());
            let Some((generation, report)) = seen.look(|generation, _, entry| (generation, report(entry)))
            else {
                return;
            };
            if let Some(entry) = report {
                if lease.mark(generation, now) {
                    return lapsed.push(Lapsed { entry, taken: false });
                }
            } else if let Some(entry) = lease.reap(generation, now) {
                self.vacate(number);
                return lapsed.push(Lapsed { entry, taken: true });
            }
            // Another's by now, or renewed: soon again.
            next = lease.expiry().map_or(next, |expiry| next.min(expiry.max(now + 1)));
        });
        self.soonest.end(next);
        lapsed
    }

    /// Ends all permits of an owner.
    pub(super) fn end_of_owner(&self, owner: OwnerId) -> Vec<Lapsed> {
        let mut lapsed = Vec::new();
        let end = |seen: &Seen<'_>, generation, ()| {
            if let Ok(Some(entry)) = seen.lease.take(generation) {
                self.vacate(seen.number);
                lapsed.push(Lapsed { entry, taken: true });
            }
        };
        self.each_of(owner, |_| (), end);
        lapsed
    }

    /// All live permits, and whether each is overdue.
    pub(super) fn list(&self) -> Vec<(Entry, bool)> {
        let mut list = Vec::new();
        self.each(|number| {
            list.extend(self.see(number).look(|_, overdue, entry| (entry.clone(), overdue)));
        });
        list
    }

    /// A permit that holds something and is this thread's or this owner's.
    pub(super) fn held_by(&self, thread: ThreadId, owner: Option<OwnerId>) -> Option<Entry> {
        let mut found = None;
        self.each(|number| {
            if found.is_none() {
                let look = |_, _, entry: &mut Entry| {
                    let mine = entry.thread == Some(thread) || owner.is_some() && entry.owner_id == owner;
                    (mine && !entry.demand.is_empty()).then(|| entry.clone())
                };
                found = self.see(number).look(look).flatten();
            }
        });
        found
    }

    /// The highest kind that an attempt holds, and where it was taken.
    pub(super) fn highest_of(&self, attempt: OwnerId) -> Option<(u16, &'static Location<'static>)> {
        let mut highest = None;
        let kind = |entry: &mut Entry| entry.demand.parts().map(|(kind, _)| (kind, entry.place)).max();
        self.each_of(attempt, kind, |_, _, kind| highest = highest.max(kind));
        highest
    }

    /// All that an attempt or this thread holds, and where it was taken.
    pub(super) fn all_of(
        &self,
        attempt: Option<OwnerId>,
        thread: ThreadId,
    ) -> Vec<(Demand, &'static Location<'static>)> {
        let mut all = Vec::new();
        self.each(|number| {
            let look = |_, _, entry: &mut Entry| {
                let mine = entry.thread == Some(thread) || attempt.is_some() && entry.owner_id == attempt;
                (mine && !entry.demand.is_empty()).then_some((entry.demand, entry.place))
            };
            all.extend(self.see(number).look(look).flatten());
        });
        all
    }

    /// How much of a kind an attempt holds.
    pub(super) fn held_of(&self, attempt: OwnerId, kind: u16) -> u64 {
        let mut held = 0;
        self.each_of(attempt, |entry| entry.demand.amount(kind), |_, _, n| held += n);
        held
    }

    /// What an attempt holds is taken back at this tick. True: it is over before all others.
    pub(super) fn lapse_at(&self, attempt: OwnerId, now: u64, expiry: u64) -> bool {
        let (mut moved, mut theirs) = (false, Vec::new());
        // Twice: a part may be entered where the first walk has been already, of a permit where it has not been yet. Who
        // makes a part looks at the whole behind that (`share_loss`): so it is there before the first walk ends, or is lost
        // by its maker.
        for _ in 0..2 {
            let lose = |entry: &mut Entry| theirs.push(Theirs(Some(entry.lose(expiry))));
            let renew = |seen: &Seen<'_>, generation, ()| {
                moved |= seen.lease.renew(generation, now, expiry).is_ok();
            };
            self.each_of(attempt, lose, renew);
        }
        moved && self.soonest.lower(expiry)
    }

    /// All permits of an owner that stand: what `look` makes of each goes to `then`, under the slot's latch.
    fn each_of<R>(
        &self,
        owner: OwnerId,
        mut look: impl FnMut(&mut Entry) -> R,
        mut then: impl FnMut(&Seen<'_>, u32, R),
    ) {
        self.each(|number| {
            let seen = self.see(number);
            let found = seen.look(|generation, _, entry| {
                (entry.owner_id == Some(owner)).then(|| (generation, look(entry)))
            });
            if let Some((generation, found)) = found.flatten() {
                then(&seen, generation, found);
            }
        });
    }

    fn each(&self, f: impl FnMut(u32)) {
        // ORDERING: Acquire and Release pair with the RMW in `make`: see the head.
        (0..self.made.fetch_add(0, Ordering::AcqRel)).for_each(f);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::lease::NEVER;
    use crate::resource::lapse::begin;

    fn entry_of(name: &str) -> Entry {
        Entry {
            demand: Demand::of(0, 1),
            owner: name.into(),
            owner_id: None,
            thread: None,
            priority: Priority::Normal,
            since: Timestamp::ZERO,
            place: Location::caller(),
            on_expiry: OnExpiry::Report,
            lost_at: None,
        }
    }

    /// All under the latch of the slot, and while its entry is looked at.
    #[test]
    fn who_enters_and_who_drops_pass_no_latch_and_leave_the_slot_to_who_looks() {
        let holders = Holders::new();
        let (first, _) = holders.enter(entry_of("first"), NEVER);
        let seen = holders.see(first.slot);
        let looked = seen.look(|_, _, entry| {
            assert_eq!((holders.end(first).map(|entry| entry.is_none()), &*entry.owner), (Ok(true), "first"));
            let (second, _) = holders.enter(entry_of("second"), NEVER);
            assert_ne!(second.slot, first.slot, "it is not vacant yet");
            assert_eq!(holders.end(second).map(|entry| entry.is_some()), Ok(true));
            assert!(holders.end(first).is_err() && holders.end(second).is_err());
        });
        assert_eq!(looked, None, "it was left");
        // Both are vacant now, the one that was left last on top.
        let again = [(); 2].map(|()| holders.enter(entry_of("again"), NEVER).0.slot);
        assert_eq!(again, [first.slot, first.slot + 1]);
        drop(seen);
        assert_eq!(holders.list().len(), 2);
    }

    /// As `Permit::split` does while the attempt is given up: the part was made of what the whole was before.
    #[test]
    fn a_part_that_was_made_meanwhile_is_lost_with_the_whole() {
        let holders = Holders::new();
        let attempt = OwnerId::Attempt(1, 1);
        let entry = Entry { demand: Demand::of(0, 2), owner_id: Some(attempt), ..entry_of("lost") };
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
