//! A lease: something that is held until it is dropped, or until its time is over, and comes back exactly once.
//!
//! Lock-free. One word holds all that races; what is leased lies beside it, and is one thread's at a time.
//!
//! ```text
//!  63         38 37    36 35      0
//! [ generation  | state  | expiry  ]
//! ```
//!
//! | state | means | who leaves it |
//! |---|---|---|
//! | `FREE` | no handle's, of this generation at the earliest; the load is its last winner's, then the next publisher's | `publish`, by who has the slot to itself: to `HELD` |
//! | `HELD` | leased until the expiry | `take`: to `FREE`; `reap`: to `FREE`; `look`: to `LOOK`; `mark`: to `OVERDUE`; `renew`: another expiry |
//! | `OVERDUE` | leased, over, and that was said once | as `HELD`, but for `reap` and `mark`; `renew`: to `HELD` |
//! | `LOOK` | as one of both; the load is with who looks, to read it or to change it | who looks: back to where it was; `take`: to `FREE` |
//!
//! *Exactly one wins.* A drop, a reclaim by the owner's end (both `take`) and a reap leave the generation by one CAS,
//! to the next one. Who loses sees another generation and has nothing. The expiry is in the same word: a reap that
//! decided by an expiry that has been renewed since loses its CAS.
//!
//! *One has the load.* From `HELD` or `OVERDUE` the winner has it, and with it the slot. Who takes while another looks
//! wins as well, and neither waits nor touches the load: it *leaves* both to who looks. That one finds its CAS back
//! failing, which nothing else makes it do, and has load and slot then:
//!
//! 1. The take's CAS comes before the look's: the look finds another generation, or what is there by then.
//! 2. It comes between the look's two: the take read `LOOK` and leaves the load; the second one of the look fails.
//! 3. It comes after both: the take reads `HELD` or `OVERDUE`, with what the look has made of the load (Release of the
//!    look's second CAS, Acquire of the take's).
//!
//! *Stale handles are inert.* A handle knows its generation; no operation acts on another. A slot is used again only
//! by who got it from who had the load last (a free list), so a slot's generations never overlap. After 2^26 uses a
//! slot is spent, and `publish` says so: no handle of old ever matches again.
//!
//! *One at a time* looks, renews, marks, reaps: the caller's latch, which `publish` and a holder's `take` do without. Who
//! has it never meets `LOOK`, unless it is its own.
//!
//! Source: the word is our own; generations against reuse are those of generational arenas and fencing tokens.

use crate::sync::UnsafeCell;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{armed, ordering};
use std::fmt;

const EXPIRY_BITS: u32 = 36;
/// The expiry of what never expires; later ones are cut to it. In ticks of the caller's choice.
pub const NEVER: u64 = (1 << EXPIRY_BITS) - 1;
/// The last generation: a slot that has come to it is not used again.
pub const LAST: u32 = (1 << 26) - 1;

const STATE_SHIFT: u32 = EXPIRY_BITS;
const GENERATION_SHIFT: u32 = EXPIRY_BITS + 2;
const FREE: u64 = 0;
const HELD: u64 = 1;
const LOOK: u64 = 2;
const OVERDUE: u64 = 3;

/// One value of the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(u64);

impl Word {
    fn pack(generation: u32, state: u64, expiry: u64) -> Self {
        let generation = u64::from(generation.min(LAST)) << GENERATION_SHIFT;
        Word(generation | state << STATE_SHIFT | expiry.min(NEVER))
    }

    fn generation(self) -> u32 {
        (self.0 >> GENERATION_SHIFT) as u32
    }

    fn state(self) -> u64 {
        self.0 >> STATE_SHIFT & 3
    }

    fn expiry(self) -> u64 {
        self.0 & NEVER
    }

    /// Free, and the next generation's.
    fn freed(self) -> Word {
        let next = if armed!(mutant = "lease_same_generation") { 0 } else { 1 };
        Word::pack(self.generation() + next, FREE, 0)
    }
}

/// A handle's lease is over: it was dropped, reaped or taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gone;

/// What a look found at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Looked<R, T> {
    /// The lease stands, and this is what was seen.
    Stands(R),
    /// It was ended meanwhile: the load is who looked's, and so is the slot.
    Left(T),
}

/// How a handle's lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Held; its expiry.
    Held(u64),
    /// Still held, though it was marked as over.
    Overdue,
    /// Not this handle's any more.
    Gone,
}

/// A slot for one lease after the other.
pub struct Lease<T> {
    word: AtomicU64,
    load: UnsafeCell<Option<T>>,
}

// SAFETY: `load` is accessed by who has the slot to itself before it publishes, by who looks in `LOOK` and until it has
// seen its CAS back fail, and by who won the word from `HELD` or `OVERDUE`: one at a time, each ordered after the last by
// the word or by the hand-over of the slot. `T` moves between threads.
unsafe impl<T: Send> Sync for Lease<T> {}

impl<T> fmt::Debug for Lease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Word(self.word.load(Ordering::Relaxed));
        let state = ["free", "held", "looked at", "overdue"][word.state() as usize];
        write!(f, "Lease({state}, generation {}, expiry {})", word.generation(), word.expiry())
    }
}

impl<T> Default for Lease<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Lease<T> {
    /// A free slot, of generation zero.
    pub fn new() -> Self {
        Self::of_generation(0)
    }

    /// A free slot of this generation, for tests of the last ones.
    pub fn of_generation(generation: u32) -> Self {
        Self { word: AtomicU64::new(Word::pack(generation, FREE, 0).0), load: UnsafeCell::new(None) }
    }

    #[inline]
    fn look_up(&self) -> Word {
        Word(self.word.load(Ordering::Relaxed))
    }

    /// Leases `load` until `expiry`. The caller has the slot to itself: it is new, or it comes from who won it last.
    /// The generation that the handle needs.
    ///
    /// # Errors
    ///
    /// The slot is not free, or has been used for the last time: the load comes back.
    #[inline]
    pub fn publish(&self, load: T, expiry: u64) -> Result<u32, T> {
        let word = self.look_up();
        if word.state() != FREE || word.generation() == LAST {
            return Err(load);
        }
        // SAFETY: free, and by contract nobody else publishes; the last winner has handed the slot on.
        self.load.with_mut(|slot| unsafe { *slot = Some(load) });
        // ORDERING: Release pairs with the Acquire of whoever wins or looks: it finds the load. A swap, for loom does
        // not order a plain store after the RMWs of the second pass.
        let release = ordering!(Release, mutant = "lease_publish_relaxed");
        self.word.swap(Word::pack(word.generation(), HELD, expiry).0, release);
        Ok(word.generation())
    }

    /// Ends the lease, whatever its expiry, without waiting. One caller does. The load, and the slot with it; `None`:
    /// somebody looks at it just now, and has both.
    ///
    /// # Errors
    ///
    /// Another ended it before.
    #[inline]
    pub fn take(&self, generation: u32) -> Result<Option<T>, Gone> {
        let mut old = self.look_up();
        loop {
            let stale = old.generation() != generation && !armed!(mutant = "lease_take_ignores_generation");
            if stale || old.state() == FREE {
                return Err(Gone);
            }
            let won = match old.state() {
                LOOK if !armed!(mutant = "lease_take_beside_a_look") => self.leave(old).map(|()| None),
                _ => self.win(old).map(Some),
            };
            match won {
                Ok(load) => return Ok(load),
                Err(now) => old = now,
            }
        }
    }

    /// Ends the lease if it is over at `now`. One caller gets the load. `None`: it is not, or not any more.
    pub fn reap(&self, generation: u32, now: u64) -> Option<T> {
        let old = self.look_up();
        let over = old.state() == HELD && old.expiry() != NEVER && old.expiry() <= now;
        // A CAS that fails leaves it to whoever was faster: renewed, dropped, or reaped by another.
        if over && old.generation() == generation { self.win(old).ok() } else { None }
    }

    /// Leaves the generation by one CAS, and the load and the slot to who looks.
    #[cold]
    fn leave(&self, old: Word) -> Result<(), Word> {
        // Relaxed: it neither reads nor writes what is leased.
        let left = self.word.compare_exchange(old.0, old.freed().0, Ordering::Relaxed, Ordering::Relaxed);
        left.map(|_| ()).map_err(Word)
    }

    /// Leaves the generation by one CAS, and takes the load.
    #[inline]
    fn win(&self, old: Word) -> Result<T, Word> {
        if armed!(mutant = "lease_win_by_store") {
            self.word.swap(old.freed().0, Ordering::AcqRel);
        } else {
            // ORDERING: Acquire pairs with the Release of `publish` and of the last look: the load is there. (In
            // between there are only RMWs, which do not break the release sequence.)
            let acquire = ordering!(Acquire, mutant = "lease_win_relaxed");
            self.word.compare_exchange(old.0, old.freed().0, acquire, Ordering::Relaxed).map_err(Word)?;
        }
        // SAFETY: the CAS above is won by one caller per generation; nobody publishes until this one hands the slot on.
        let load = self.load.with_mut(|slot| unsafe { (*slot).take() });
        load.ok_or_else(|| {
            debug_assert!(cfg!(mutants), "what is held has a load");
            old.freed()
        })
    }

    /// Moves the expiry, if the lease is not over at `now`; or if it is and was only marked.
    ///
    /// # Errors
    ///
    /// It is over or was ended: the handle is stale, or will be.
    pub fn renew(&self, generation: u32, now: u64, expiry: u64) -> Result<(), Gone> {
        let mut old = self.look_up();
        loop {
            let held = old.state() == HELD && (old.expiry() > now || old.expiry() == NEVER);
            let stale = old.generation() != generation && !armed!(mutant = "lease_renew_ignores_generation");
            if stale || !(held || old.state() == OVERDUE) {
                return Err(Gone);
            }
            let new = Word::pack(old.generation(), HELD, expiry);
            if armed!(mutant = "lease_renew_by_store") {
                self.word.swap(new.0, Ordering::Relaxed);
                return Ok(());
            }
            // Relaxed: it publishes nothing; as an RMW it carries the publisher's release sequence on.
            match self.word.compare_exchange(old.0, new.0, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => old = Word(now),
            }
        }
    }

    /// Marks the lease as over if it is, and leaves it where it is. True once for each time that it came to be over.
    pub fn mark(&self, generation: u32, now: u64) -> bool {
        let old = self.look_up();
        if old.generation() != generation
            || old.state() != HELD
            || old.expiry() == NEVER
            || old.expiry() > now
        {
            return false;
        }
        let new = Word::pack(old.generation(), OVERDUE, old.expiry());
        if armed!(mutant = "lease_mark_by_store") {
            self.word.swap(new.0, Ordering::Relaxed);
            return true;
        }
        // Relaxed: as in `renew`.
        self.word.compare_exchange(old.0, new.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Shows the load of whoever's lease this is, to be read or changed, with its generation and whether it was marked.
    /// `f` must be short, and neither wait nor panic. `None`: there is none. (Among who may look, the caller is alone.)
    pub fn look<R>(&self, f: impl FnOnce(u32, bool, &mut T) -> R) -> Option<Looked<R, T>> {
        self.look_at(None, f)
    }

    /// [Looks](Self::look) at the lease of this handle.
    ///
    /// # Errors
    ///
    /// The lease was ended.
    pub fn edit<R>(&self, generation: u32, f: impl FnOnce(&mut T) -> R) -> Result<Looked<R, T>, Gone> {
        self.look_at(Some(generation), |_, _, load| f(load)).ok_or(Gone)
    }

    fn look_at<R>(&self, only: Option<u32>, f: impl FnOnce(u32, bool, &mut T) -> R) -> Option<Looked<R, T>> {
        let unmarked = armed!(mutant = "lease_look_unmarked");
        let mut old = self.look_up();
        loop {
            let other = only.is_some_and(|generation| generation != old.generation())
                && !armed!(mutant = "lease_edit_ignores_generation");
            if other || !matches!(old.state(), HELD | OVERDUE) {
                return None;
            }
            let new = Word::pack(old.generation(), LOOK, old.expiry());
            if unmarked {
                break;
            }
            // ORDERING: Acquire pairs with the Release of `publish` and of the last look.
            let acquire = ordering!(Acquire, mutant = "lease_look_takes_relaxed");
            match self.word.compare_exchange(old.0, new.0, acquire, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => old = Word(now),
            }
        }
        let (generation, overdue) = (old.generation(), old.state() == OVERDUE);
        // SAFETY: the state keeps everybody else away.
        let seen =
            self.load.with_mut(|slot| unsafe { (*slot).as_mut().map(|load| f(generation, overdue, load)) });
        let looked = Word::pack(generation, LOOK, old.expiry());
        let left = if armed!(mutant = "lease_look_goes_back_blindly") {
            self.word.swap(old.0, Ordering::AcqRel);
            false
        } else {
            // ORDERING: Release pairs with the Acquire of whoever wins or looks next: it finds what was made of the load.
            // Relaxed where it fails: who left touched no load.
            let release = ordering!(Release, mutant = "lease_look_gives_relaxed");
            let back = self.word.compare_exchange(looked.0, old.0, release, Ordering::Relaxed);
            back.is_err() && !unmarked
        };
        // SAFETY: who left found `LOOK` and keeps away from the load; nobody publishes until this one hands the slot on.
        let left = if left { self.load.with_mut(|slot| unsafe { (*slot).take() }) } else { None };
        seen.map(|seen| match left {
            None => Looked::Stands(seen),
            Some(load) => Looked::Left(load),
        })
    }

    /// How the lease of this handle stands. One that was marked as over is [`Held`](Standing::Held) while it is looked at, with
    /// its expiry, which is past: whether it was marked is with who looks. Who asks compares the expiry with the time.
    pub fn standing(&self, generation: u32) -> Standing {
        let word = self.look_up();
        match word.state() {
            _ if word.generation() != generation => Standing::Gone,
            FREE => Standing::Gone,
            OVERDUE => Standing::Overdue,
            _ => Standing::Held(word.expiry()),
        }
    }

    /// The expiry of what is held here, by whomever; `None`: nothing is, or what is was marked and nobody looks at it.
    pub fn expiry(&self) -> Option<u64> {
        let word = self.look_up();
        matches!(word.state(), HELD | LOOK).then(|| word.expiry())
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_touch_each_other() {
        let w = Word::pack(LAST, OVERDUE, u64::MAX);
        assert_eq!((w.generation(), w.state(), w.expiry()), (LAST, OVERDUE, NEVER));
        let w = Word::pack(1, HELD, 5);
        assert_eq!((w.generation(), w.state(), w.expiry()), (1, HELD, 5));
        assert_eq!(w.freed(), Word::pack(2, FREE, 0));
    }

    #[test]
    fn a_lease_comes_back_once() {
        let lease = Lease::new();
        let first = lease.publish("a", 10).unwrap();
        assert_eq!(lease.publish("b", 10), Err("b"));
        assert_eq!((lease.reap(first, 9), lease.standing(first)), (None, Standing::Held(10)));
        assert_eq!((lease.reap(first + 1, 10), lease.reap(first, 10)), (None, Some("a")));
        assert_eq!((lease.take(first), lease.renew(first, 0, 50)), (Err(Gone), Err(Gone)));
        let second = lease.publish("b", NEVER + 9).unwrap();
        assert_ne!(first, second);
        assert_eq!((lease.take(first), lease.edit(first, |_| ())), (Err(Gone), Err(Gone)));
        assert_eq!((lease.reap(second, NEVER), lease.mark(second, NEVER)), (None, false));
        assert_eq!((lease.expiry(), lease.take(second)), (Some(NEVER), Ok(Some("b"))));
        assert_eq!((lease.take(second), lease.expiry()), (Err(Gone), None));
    }

    #[test]
    fn renewing_moves_the_end_and_comes_too_late_after_it() {
        let lease = Lease::new();
        let g = lease.publish(1, 10).unwrap();
        assert_eq!(lease.renew(g, 9, 20), Ok(()));
        assert_eq!((lease.reap(g, 19), lease.renew(g, 20, 30)), (None, Err(Gone)));
        assert_eq!(lease.standing(g), Standing::Held(20));
        assert_eq!(lease.reap(g, 20), Some(1));
    }

    #[test]
    fn what_is_marked_stays_and_is_marked_once() {
        let lease = Lease::new();
        let g = lease.publish(1, 10).unwrap();
        assert_eq!([9, 10, 11].map(|now| lease.mark(g, now)), [false, true, false]);
        assert_eq!((lease.standing(g), lease.reap(g, 99), lease.expiry()), (Standing::Overdue, None, None));
        assert_eq!(lease.edit(g, |n| *n += 1), Ok(Looked::Stands(())));
        assert_eq!(lease.look(|there, overdue, n| (there, overdue, *n)), Some(Looked::Stands((g, true, 2))));
        assert_eq!((lease.standing(g), lease.renew(g, 99, 100)), (Standing::Overdue, Ok(())));
        assert!(!lease.mark(g + 1, 100) && lease.mark(g, 100));
        assert_eq!(lease.take(g), Ok(Some(2)));
        assert_eq!(lease.look(|_, _, _| ()), None);
    }

    /// Whoever takes while another looks does not wait, and leaves the load to that one.
    #[test]
    fn who_looks_has_what_was_left() {
        let lease = Lease::new();
        let g = lease.publish(7, 10).unwrap();
        let looked = lease.look(|_, _, n| {
            assert_eq!(
                (lease.take(g), lease.take(g), lease.standing(g)),
                (Ok(None), Err(Gone), Standing::Gone)
            );
            *n
        });
        assert_eq!((looked, lease.publish(8, 10)), (Some(Looked::Left(7)), Ok(g + 1)));
    }

    #[test]
    fn a_spent_slot_says_so() {
        let lease = Lease::of_generation(LAST - 1);
        let g = lease.publish(1, 10).unwrap();
        assert_eq!((g, lease.take(g)), (LAST - 1, Ok(Some(1))));
        assert_eq!((lease.publish(2, 10), lease.take(LAST)), (Err(2), Err(Gone)));
    }
}
