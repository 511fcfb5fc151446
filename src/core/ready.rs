//! Which lanes have work, and the workers' way to sleep until one does.
//!
//! Lock-free but for a sleeper's own latch at the moment it is woken; `mark`, `admit` and `clear` are a few
//! read-modify-writes. The sleeping half is an event count (Vyukov; Eigen's `EventCount`) with the search rule of
//! the Go scheduler's spinning threads and of rayon's sleep counters: who makes work wakes a sleeper only if nobody
//! is searching already, and a searcher that finds some passes the search on. A wake-up costs the waker about 7 µs,
//! an item may cost 10 ns: so at most one wake-up is under way, and none is given per item.
//!
//! **Bitmaps.** One word per priority class, and one for lanes that hold a grant (`admitted`, served first); bit =
//! lane. A class bit is a hint: who clears it reads the [lane's word](crate::core::laneword) again, who makes the
//! word ready sets it. An admitted bit is no hint but the grant itself: who clears it serves it.
//!
//! **Events.** One word counts searchers and sleepers; each worker has a bit that says that it sleeps.
//!
//! ```text
//!  63                32 31                 0
//!  +-------------------+-------------------+
//!  | sleeping (signed) |     searching     |
//!  +-------------------+-------------------+
//! ```
//!
//! | searching | sleeping | a setter |
//! |---|---|---|
//! | 0 | <= 0 | does nothing more: all are at work and look before they sleep |
//! | 0 | > 0 | chooses a sleeper and wakes it |
//! | > 0 | any | does nothing more: a searcher looks once more after it has un-counted itself |
//!
//! | worker | counted as | its bit | leaves by |
//! |---|---|---|---|
//! | at work | nothing | 0 | `wait`: to searching |
//! | searching | `searching` | 0 | found: to work. Nothing found: to sleeping (bit, then one RMW for both counts) |
//! | sleeping | `sleeping` | 1 | being chosen, or found in its last check: to searching |
//!
//! A sleeper leaves by a *claim*, a notifier's or its own: first the counts, `sleeping - 1` and `searching + 1` in
//! one RMW, then its bit. The bit decides who has it; who comes too late takes his counts back. A chosen worker so
//! counts as a searcher from the moment it is chosen, before it runs.
//!
//! Invariants:
//! 1. Bits set >= `sleeping` + claims under way: a sleeper's bit is set before it is counted, a claim counts it off
//!    before it clears the bit. (`sleeping` may be below zero for a moment: two claims for one sleeper.)
//! 2. `searching` = searching workers + claims under way. So it is above zero wherever `sleeping` is too low.
//! 3. If a class or admitted bit has been set and somebody sleeps, then somebody searches, or the setter is not yet
//!    through with `mark`, or a searcher not yet through with leaving.
//! 4. Nobody sleeps on while a token for it is lost: a token is left only by who cleared the sleeper's bit, and a
//!    sleeper whose bit is clear does not sleep again before it has set it. (A token that comes late, to a worker
//!    awake for another reason, costs one more look.)

use crate::core::laneword::LaneWord;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{CachePadded, Mutex, Parker, Unparker, armed, hint, ordering, thread};

/// Priority classes.
pub const CLASSES: usize = 4;
/// Lanes at a time: the bits of a word.
pub const MAX_LANES: usize = 64;
/// Workers at a time, replacements included.
pub const MAX_WORKERS: usize = 1024;

/// Looks that a searcher takes before it gives up. Work that comes within the few µs of a search finds a worker
/// awake, which saves a wake-up of 7 µs here and 20 µs there; longer searches only heat the core. The first looks
/// are a pause apart, the later ones leave the core to whoever is making the work.
const LOOKS: u32 = if cfg!(any(loom, shuttle)) { 1 } else { 5 };
/// Looks before the first yield, and the pauses between those.
const LOOKS_WITHOUT_YIELD: u32 = 2;
const PAUSES: u32 = 32;

/// The unpacked event word. Nothing outside it shifts bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Events(u64);

impl Events {
    const SEARCHING: u64 = 1;
    const SLEEPING: u64 = 1 << 32;
    /// What is added to claim a sleeper (one searcher more, one sleeper less), and taken off to take it back.
    const CLAIM: u64 = Self::SEARCHING.wrapping_sub(Self::SLEEPING);

    const fn searching(self) -> u32 {
        self.0 as u32
    }

    const fn sleeping(self) -> i32 {
        (self.0 >> 32) as i32
    }

    /// Whether a setter has to wake somebody.
    const fn must_wake(self) -> bool {
        self.searching() == 0 && self.sleeping() > 0
    }
}

/// See the head of this file.
#[derive(Debug)]
pub struct ReadySet {
    lanes: CachePadded<Lanes>,
    events: CachePadded<AtomicU64>,
    /// One bit per worker: it sleeps. The lowest is woken first, so that few threads stay hot.
    asleep: Box<[AtomicU64]>,
    seats: Box<[Mutex<Option<Unparker>>]>,
}

#[derive(Debug)]
struct Lanes {
    admitted: AtomicU64,
    classes: [AtomicU64; CLASSES],
}

impl ReadySet {
    /// An empty set for workers numbered below `workers`.
    ///
    /// # Panics
    /// If `workers` is above [`MAX_WORKERS`].
    pub fn new(workers: usize) -> Self {
        assert!(workers <= MAX_WORKERS, "at most {MAX_WORKERS} workers, not {workers}");
        Self {
            lanes: CachePadded::new(Lanes {
                admitted: AtomicU64::new(0),
                classes: std::array::from_fn(|_| AtomicU64::new(0)),
            }),
            events: CachePadded::new(AtomicU64::new(0)),
            asleep: (0..workers.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            seats: (0..workers).map(|_| Mutex::new(None)).collect(),
        }
    }

    /// Names the parker that `worker` will sleep on in [`wait`](Self::wait). A replacement thread registers too,
    /// under its predecessor's number or a new one.
    pub fn register(&self, worker: usize, unparker: Unparker) {
        *self.seats[worker].lock() = Some(unparker);
    }

    /// A lane's word has become ready: sets its hint, and wakes a sleeper unless somebody searches.
    pub fn mark(&self, lane: usize, class: usize) {
        // ORDERING: Release hands on what made the lane ready, to `bits` and `clear` (Acquire).
        self.lanes.classes[class].fetch_or(1 << lane, Ordering::AcqRel);
        self.notify();
    }

    /// A lane has got a grant: as [`mark`](Self::mark), and the bit is the grant.
    pub fn admit(&self, lane: usize) {
        // ORDERING: Release hands the grant on, to `take_admitted` (Acquire).
        self.lanes.admitted.fetch_or(1 << lane, ordering!(AcqRel, mutant = "ready_admit_relaxed"));
        self.notify();
    }

    /// The lanes of a class that may be ready.
    #[inline]
    pub fn bits(&self, class: usize) -> u64 {
        // ORDERING: Acquire pairs with the Release in `mark`.
        self.lanes.classes[class].load(Ordering::Acquire)
    }

    /// The lanes that hold a grant nobody serves yet.
    #[inline]
    pub fn admitted_bits(&self) -> u64 {
        // ORDERING: Acquire pairs with the Release in `admit`.
        self.lanes.admitted.load(Ordering::Acquire)
    }

    /// Clears the hint of a lane that was found empty or blocked, or whose last entry was taken, and sets it again if
    /// the lane's word is ready after all. Against a push that makes the word ready and then marks:
    ///
    /// 1. It marks after we cleared: the bit stays set.
    /// 2. It marks before: our RMW read its bit, so we see its word ready, and set the bit again.
    pub fn clear(&self, lane: usize, class: usize, word: &LaneWord) {
        // ORDERING: Acquire is case 2. Release: the bit's next setter comes after us.
        self.lanes.classes[class].fetch_and(!(1 << lane), ordering!(AcqRel, mutant = "ready_clear_relaxed"));
        if word.is_ready() && !armed!(mutant = "ready_clear_no_reread") {
            self.mark(lane, class);
        }
    }

    /// Takes a lane's grant to serve it. True for exactly one caller per grant.
    #[must_use = "true: the caller serves the grant or passes it on"]
    pub fn take_admitted(&self, lane: usize) -> bool {
        if armed!(mutant = "ready_take_admitted_without_rmw") {
            let bits = self.lanes.admitted.load(Ordering::Acquire);
            self.lanes.admitted.store(bits & !(1 << lane), Ordering::Release);
            return bits & (1 << lane) != 0;
        }
        // ORDERING: Acquire pairs with the Release in `admit`; Release for the next grant of this lane.
        self.lanes.admitted.fetch_and(!(1 << lane), Ordering::AcqRel) & (1 << lane) != 0
    }

    /// Whether any bit is set.
    fn any(&self) -> bool {
        self.admitted_bits() != 0 || (0..CLASSES).any(|class| self.bits(class) != 0)
    }

    /// Wakes one more sleeper if bits remain and nobody searches: for a worker that has taken work and will be busy.
    /// Two loads when there is nothing to do. (Nothing depends on it: who leaves `wait` with work does this itself.)
    #[inline]
    pub fn wake_more(&self) {
        if Events(self.events.load(Ordering::Relaxed)).must_wake() && self.any() {
            self.notify();
        }
    }

    /// Wakes everybody: after a change that all must see (shutdown, a paused worker) and `find` reports. The change
    /// is made before.
    pub fn notify_all(&self) {
        // Who goes to sleep after this RMW sees the change in its last check; who did before it is found below.
        // ORDERING: AcqRel pairs with the RMW in `fall_asleep`, as in `notify`.
        self.events.fetch_or(0, Ordering::AcqRel);
        for (at, word) in self.asleep.iter().enumerate() {
            let mut sleepers = word.load(Ordering::Acquire);
            while sleepers != 0 {
                let worker = at * 64 + sleepers.trailing_zeros() as usize;
                sleepers &= sleepers - 1;
                if self.claim(worker) {
                    self.wake(worker);
                }
            }
        }
        // A claim that got nobody was a searcher for a moment, and a setter may have relied on it.
        self.wake_more();
    }

    /// Wakes one sleeper unless somebody searches. The bit it is about is set before.
    ///
    /// Against a searcher that gives up (`fall_asleep`), both by an RMW on `events`:
    ///
    /// 1. Its RMW comes first: ours reads that it sleeps, and wakes it, or somebody else before it.
    /// 2. Ours comes first and leaves the work to it: its RMW read ours, so its last check sees our bit.
    fn notify(&self) {
        if armed!(mutant = "ready_notify_never") {
            return;
        }
        // ORDERING: an RMW, not a load: that is what the two cases rest on (a load could be older than both).
        // Release is case 2, Acquire is case 1: we see the sleeper's bit in `asleep`.
        let mut events = Events(if armed!(mutant = "ready_notify_by_load") {
            self.events.load(Ordering::Acquire)
        } else {
            self.events.fetch_or(0, Ordering::AcqRel)
        });
        while events.must_wake() {
            // ORDERING: AcqRel: as above, for the sleepers and searchers that came since.
            let claimed = self.events.compare_exchange_weak(
                events.0,
                events.0.wrapping_add(Events::CLAIM),
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            events = match claimed {
                Err(now) => Events(now),
                Ok(_) => match self.clear_lowest() {
                    Some(worker) => return self.wake(worker),
                    // The sleeper we counted off has found work by itself. We have been a searcher for a moment:
                    // whoever left a bit to us meanwhile relies on another look.
                    None => self.unclaim(),
                },
            };
        }
    }

    /// Clears the bit of one sleeper, within a claim. None: it has claimed itself.
    fn clear_lowest(&self) -> Option<usize> {
        for (at, word) in self.asleep.iter().enumerate() {
            // ORDERING: Acquire on `events` made the bits of the sleepers counted there visible. Acquire here pairs
            // with the sleeper's Release, and our Release with its Acquire in `chosen`.
            let mut sleepers = word.load(Ordering::Acquire);
            while sleepers != 0 {
                let lowest = sleepers & sleepers.wrapping_neg();
                let old = word.fetch_and(!lowest, Ordering::AcqRel);
                if old & lowest != 0 {
                    return Some(at * 64 + lowest.trailing_zeros() as usize);
                }
                sleepers = old;
            }
        }
        None
    }

    /// Claims this sleeper. True: it was asleep, and now counts as a searcher by us. False: somebody else has it, or
    /// it was awake.
    fn claim(&self, worker: usize) -> bool {
        // ORDERING: AcqRel, here and below, as in `notify`.
        self.events.fetch_add(Events::CLAIM, Ordering::AcqRel);
        let bit = 1 << (worker % 64);
        let asleep = self.asleep[worker / 64].fetch_and(!bit, Ordering::AcqRel) & bit != 0;
        if !asleep && !armed!(mutant = "ready_claim_kept") {
            self.unclaim();
        }
        asleep
    }

    /// Takes back the counts of a claim that got nobody.
    fn unclaim(&self) -> Events {
        let old = self.events.fetch_sub(Events::CLAIM, Ordering::AcqRel);
        Events(old.wrapping_sub(Events::CLAIM))
    }

    /// Leaves a token for a worker whose bit we have cleared.
    #[cold]
    fn wake(&self, worker: usize) {
        let seat = self.seats[worker].lock();
        seat.as_ref().expect("a worker registers before it waits").unpark();
    }

    /// Searches until `find` finds, sleeping in between; the caller is `worker` and `parker` is the one it has
    /// [registered](Self::register). `find` looks at all bitmaps, takes work from a lane and clears the hints that
    /// turn out stale; `sleep` parks, as long as it likes, and what it returns does not matter: `find` is called
    /// after it in any case.
    pub fn wait<R>(
        &self,
        worker: usize,
        parker: &Parker,
        mut find: impl FnMut() -> Option<R>,
        mut sleep: impl FnMut(&Parker) -> bool,
    ) -> R {
        let mut seat = Seat::search(self, worker);
        loop {
            for look in 0..LOOKS {
                if let Some(found) = find() {
                    return found;
                }
                pause(look);
            }
            if armed!(mutant = "ready_uncount_after_check") {
                seat.fall_asleep();
                sleep(parker);
            } else {
                seat.fall_asleep();
            }
            while !seat.chosen() {
                // The last check, and one after each awakening that was not for us.
                if let Some(found) = find() {
                    return found;
                }
                if seat.chosen() {
                    break; // by our own `find`, which set a hint again
                }
                sleep(parker);
            }
            seat.asleep = false;
        }
    }
}

fn pause(look: u32) {
    if LOOKS == 1 {
        return; // the models
    }
    if look < LOOKS_WITHOUT_YIELD {
        (0..PAUSES).for_each(|_| hint::spin_loop());
    } else {
        thread::yield_now();
    }
}

/// A worker in `wait`: searching, or asleep. Dropping it goes back to work, also when `find` panics.
struct Seat<'a> {
    set: &'a ReadySet,
    worker: usize,
    asleep: bool,
}

impl<'a> Seat<'a> {
    fn search(set: &'a ReadySet, worker: usize) -> Self {
        assert!(worker < set.seats.len(), "worker {worker} has no seat");
        // Relaxed: others may only skip a wake-up because of it, and then read it; we un-count by AcqRel.
        set.events.fetch_add(Events::SEARCHING, Ordering::Relaxed);
        Self { set, worker, asleep: false }
    }

    /// Un-counts the searcher and counts the sleeper. The last check comes after it: see `notify`.
    fn fall_asleep(&mut self) {
        // ORDERING: Release: whoever sees us counted below sees the bit. AcqRel below is the pair of `notify`.
        self.set.asleep[self.worker / 64].fetch_or(1 << (self.worker % 64), Ordering::AcqRel);
        self.set.events.fetch_sub(Events::CLAIM, Ordering::AcqRel);
        self.asleep = true;
    }

    /// Whether somebody has claimed us: then we are a searcher by his count.
    fn chosen(&self) -> bool {
        // ORDERING: Acquire pairs with the Release of who cleared the bit: we see what he was woken for.
        self.set.asleep[self.worker / 64].load(Ordering::Acquire) & 1 << (self.worker % 64) == 0
    }
}

impl Drop for Seat<'_> {
    /// Found. The last searcher to leave passes the search on if bits remain: setters have relied on it.
    fn drop(&mut self) {
        if self.asleep {
            // Ours or another's claim: either way we are counted as a searcher now.
            self.set.claim(self.worker);
        }
        // ORDERING: Acquire: the bits of those who left them to us (Release in `notify`) are seen below. Release: as
        // in `fall_asleep`, for those who come after.
        let old = Events(self.set.events.fetch_sub(Events::SEARCHING, Ordering::AcqRel));
        debug_assert!(old.searching() > 0, "left a search that was not counted");
        let last = Events(old.0 - Events::SEARCHING).must_wake();
        if last && self.set.any() && !armed!(mutant = "ready_search_not_passed_on") {
            self.set.notify();
        }
    }
}

/// A worker of the models: they cannot name the parker of floor 0.
#[cfg(any(loom, shuttle))]
#[derive(Debug)]
pub struct Sleeper {
    worker: usize,
    parker: Parker,
}

#[cfg(any(loom, shuttle))]
impl Sleeper {
    /// Registers `worker`.
    pub fn new(set: &ReadySet, worker: usize) -> Self {
        let parker = Parker::new();
        set.register(worker, parker.unparker());
        Self { worker, parker }
    }

    /// [`ReadySet::wait`], sleeping without a deadline.
    pub fn wait<R>(&self, set: &ReadySet, find: impl FnMut() -> Option<R>) -> R {
        set.wait(self.worker, &self.parker, find, |parker| {
            parker.park();
            true
        })
    }

    /// [`ReadySet::wait`] with sleeps that may end early.
    pub fn wait_timed<R>(&self, set: &ReadySet, find: impl FnMut() -> Option<R>) -> R {
        set.wait(self.worker, &self.parker, find, |parker| {
            parker.park_timeout(std::time::Duration::from_millis(1))
        })
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::core::laneword::Take;
    use crate::sync::Arc;
    use std::time::Duration;

    #[test]
    fn counts_do_not_touch() {
        let one_asleep = Events(Events::SLEEPING);
        assert!(one_asleep.must_wake());
        let claimed = Events(one_asleep.0.wrapping_add(Events::CLAIM));
        assert_eq!((claimed.searching(), claimed.sleeping()), (1, 0));
        assert!(!claimed.must_wake());
        let twice = Events(claimed.0.wrapping_add(Events::CLAIM));
        assert_eq!((twice.searching(), twice.sleeping()), (2, -1));
        assert!(!twice.must_wake());
        assert_eq!(Events(twice.0.wrapping_sub(Events::CLAIM)), claimed);
    }

    #[test]
    fn bits() {
        let set = ReadySet::new(0);
        set.mark(0, 3);
        set.mark(63, 3);
        set.mark(1, 0);
        set.admit(63);
        assert_eq!((set.bits(3), set.bits(0), set.bits(1)), (1 | 1 << 63, 2, 0));
        assert_eq!(set.admitted_bits(), 1 << 63);
        assert!(set.take_admitted(63) && !set.take_admitted(63));
    }

    #[test]
    fn a_cleared_hint_comes_back_while_the_lane_is_ready() {
        let (set, word) = (ReadySet::new(0), LaneWord::new());
        assert!(word.add(1));
        set.mark(5, 2);
        set.clear(5, 2, &word);
        assert_eq!(set.bits(2), 1 << 5);
        assert_eq!(word.take(), Take::Got { left: 0 });
        set.clear(5, 2, &word);
        assert_eq!(set.bits(2), 0);
    }

    #[test]
    fn a_panicking_find_leaves_the_counts_right() {
        let set = ReadySet::new(1);
        let parker = Parker::new();
        set.register(0, parker.unparker());
        let mut calls = 0;
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            set.wait(
                0,
                &parker,
                || -> Option<()> {
                    calls += 1;
                    assert!(calls <= LOOKS, "the last check panics");
                    None
                },
                |_| true,
            )
        }));
        assert!(waited.is_err());
        assert_eq!(set.events.load(Ordering::Relaxed), 0);
        assert_eq!(set.asleep[0].load(Ordering::Relaxed), 0);
    }

    /// More workers than cores, lanes that fill and empty: every entry is found, and nobody sleeps through it.
    #[test]
    fn stress() {
        const ENTRIES: u32 = 20_000;
        const WORKERS: usize = 4;
        let set = Arc::new(ReadySet::new(WORKERS));
        let words: Arc<[LaneWord; 2]> = Arc::new([LaneWord::new(), LaneWord::new()]);
        let stop = Arc::new(crate::sync::atomic::AtomicBool::new(false));
        let taken: Vec<u32> = thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map(|worker| {
                    let (set, words, stop) = (Arc::clone(&set), Arc::clone(&words), Arc::clone(&stop));
                    scope.spawn(move || {
                        let parker = Parker::new();
                        set.register(worker, parker.unparker());
                        let find = || {
                            for lane in 0..2 {
                                if set.bits(lane) & 1 << lane != 0 {
                                    match words[lane].take() {
                                        Take::Got { left } => {
                                            if left == 0 {
                                                set.clear(lane, lane, &words[lane]);
                                            }
                                            return Some(true);
                                        }
                                        _ => set.clear(lane, lane, &words[lane]),
                                    }
                                }
                            }
                            stop.load(Ordering::Acquire).then_some(false)
                        };
                        let mut taken = 0;
                        while set.wait(worker, &parker, find, |parker| {
                            parker.park();
                            true
                        }) {
                            taken += 1;
                        }
                        taken
                    })
                })
                .collect();
            let producers: Vec<_> = (0..2)
                .map(|lane| {
                    let (set, words) = (Arc::clone(&set), Arc::clone(&words));
                    scope.spawn(move || {
                        for i in 0..ENTRIES {
                            if words[lane].add(1) {
                                set.mark(lane, lane);
                            }
                            if i % 64 == 0 {
                                Parker::new().park_timeout(Duration::from_micros(20));
                            }
                        }
                    })
                })
                .collect();
            for producer in producers {
                producer.join().expect("no panic");
            }
            while words.iter().any(|word| word.pending() > 0) {
                thread::yield_now();
            }
            stop.store(true, Ordering::Release);
            set.notify_all();
            workers.into_iter().map(|worker| worker.join().expect("no panic")).collect()
        });
        assert_eq!(taken.iter().sum::<u32>(), 2 * ENTRIES);
        assert_eq!(set.events.load(Ordering::Relaxed), 0, "everybody has left");
    }
}
