//! A counting semaphore's word: how many permits are free, how many wait for them, and who may pass whom.
//!
//! Lock-free: a take is one load and one CAS, a put one `fetch_add`. Nothing here waits; who must wait registers on
//! the word and queues in [`waitlist`](super::waitlist). (The idea of counting waiters in the semaphore's own word is
//! old, see glibc's `new_sem`; permits and debt as in `java.util.concurrent.Semaphore`.)
//!
//! ```text
//!  63                    24 23          6 5       1     0
//! [ available + 2^39 : 40 | waiters : 18 | credit : 5 | closed : 1 ]
//! ```
//!
//! | available | waiters | credit | closed | a newcomer that asks for n | a put |
//! |---|---|---|---|---|---|
//! | >= n | 0 | any | 0 | takes | adds |
//! | >= n | > 0 | > 0 | 0 | takes, and pays one credit in the same CAS | adds, then must drain |
//! | >= n | > 0 | 0 | 0 | [`Gated`](Miss::Gated): the gate is shut, a waiter holds back | adds, then must drain |
//! | < n | any | any | 0 | [`Short`](Miss::Short) | as above |
//! | any | any | any | 1 | [`Closed`](Miss::Closed) | as above |
//!
//! *The gate.* Newcomers may pass waiters whom the free permits do not suffice, at most `credit` times: the latch's
//! holder grants the credit after each look at the queue, and it is the number of times that the most patient
//! waiter may still be passed. Zero credit is a shut gate. It means nothing while nobody waits.
//!
//! *Reserves.* Each priority class has a floor: so many permits its takers leave free (`try_take_as`, and who grants to
//! its waiters). Floors are constants beside the word, so they cost a compare. Above, "n" is then n and the floor. The
//! floor of a higher class is at most that of a lower one, and the highest class has none.
//!
//! *No wake-up is lost.* A waiter first adds itself to `waiters` (an RMW), then tests `available`; a put adds to
//! `available` (an RMW) and looks at the `waiters` it replaced. Both act on one word, and the RMWs of one word stand
//! in one order that all threads agree on (coherence: no `SeqCst` is needed):
//!
//! 1. The put comes first: the waiter's RMW read its permits, and so does the waiter's later test.
//! 2. The waiter comes first: the put reads `waiters != 0` and drains.
//!
//! *No overflow.* Limits are at most 2^38, so `available` is in `-2^38..=2^38`: it never exceeds the limit in
//! force, and debt is at most a former limit. `available` is the topmost field: whatever was added to it wrongly, no
//! other field changes. `waiters` is checked before it is counted up; `credit` is only paid when it is not zero.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{armed, ordering};
use std::fmt;

/// The greatest limit: 274 thousand million.
pub const MAX_LIMIT: u64 = 1 << 38;
/// The greatest number of waiters on one word.
pub const MAX_WAITERS: u32 = (1 << 18) - 1;
/// The greatest credit, and so the greatest bound on how often a waiter is passed.
pub const MAX_CREDIT: u32 = (1 << 5) - 1;

/// Priority classes, the highest last.
pub const CLASSES: usize = 4;
/// What each class leaves free, the lowest class first.
pub type Floors = [u64; CLASSES];

const CLOSED: u64 = 1;
const CREDIT_SHIFT: u32 = 1;
const CREDIT_ONE: u64 = 1 << CREDIT_SHIFT;
const CREDIT_MASK: u64 = (MAX_CREDIT as u64) << CREDIT_SHIFT;
const WAITER_SHIFT: u32 = 6;
const WAITER_ONE: u64 = 1 << WAITER_SHIFT;
const WAITER_MASK: u64 = (MAX_WAITERS as u64) << WAITER_SHIFT;
const PERMIT_SHIFT: u32 = 24;
const BIAS: u64 = 1 << 39;

/// One value of the word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Word(u64);

impl Word {
    fn pack(available: u64) -> Self {
        Word((available + BIAS) << PERMIT_SHIFT)
    }

    /// Free permits; negative after the limit was lowered below what is taken (debt).
    #[inline]
    pub fn available(self) -> i64 {
        (self.0 >> PERMIT_SHIFT) as i64 - BIAS as i64
    }

    /// How many wait.
    #[inline]
    pub fn waiters(self) -> u32 {
        ((self.0 & WAITER_MASK) >> WAITER_SHIFT) as u32
    }

    /// How many newcomers may still pass those who wait.
    #[inline]
    pub fn credit(self) -> u32 {
        ((self.0 & CREDIT_MASK) >> CREDIT_SHIFT) as u32
    }

    /// Whether it is closed to takers.
    #[inline]
    pub fn closed(self) -> bool {
        self.0 & CLOSED != 0
    }

    #[inline]
    fn has(self, n: u64) -> bool {
        self.has_above(n, BIAS)
    }

    /// Whether `n` are free above a floor, which is given with the field's bias.
    #[inline]
    fn has_above(self, n: u64, biased: u64) -> bool {
        self.0 >> PERMIT_SHIFT >= n.saturating_add(biased)
    }

    #[inline]
    fn less(self, n: u64) -> Word {
        Word(self.0 - (n << PERMIT_SHIFT))
    }

    /// The decision of a newcomer who leaves a floor free, given with the field's bias.
    #[inline]
    fn take(self, n: u64, biased: u64) -> Result<Word, Miss> {
        if self.has_above(n, biased) && self.0 & (WAITER_MASK | CLOSED) == 0 {
            return Ok(self.less(n));
        }
        self.take_in_company(n, biased)
    }

    #[cold]
    fn take_in_company(self, n: u64, biased: u64) -> Result<Word, Miss> {
        if self.closed() {
            Err(Miss::Closed)
        } else if !self.has_above(n, biased) {
            Err(Miss::Short)
        } else if self.credit() == 0 {
            Err(Miss::Gated)
        } else if armed!(mutant = "permits_credit_free") {
            Ok(self.less(n))
        } else {
            Ok(Word(self.less(n).0 - CREDIT_ONE))
        }
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Word")
            .field("available", &self.available())
            .field("waiters", &self.waiters())
            .field("credit", &self.credit())
            .field("closed", &self.closed())
            .finish()
    }
}

/// Why a newcomer took nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Miss {
    /// Too few are free.
    Short,
    /// Enough are free, but somebody waits and may not be passed by who does not queue.
    Gated,
    /// Closed.
    Closed,
}

/// The permits of one kind: the word, and the limit that it counts down from.
///
/// `register`, `deregister`, `set_credit`, `set_limit` and `close` belong to the holder of the wait list's latch.
#[derive(Debug)]
pub struct Permits {
    word: AtomicU64,
    /// Written under the latch. A reader without the latch may see it a moment before or after the word.
    limit: AtomicU64,
    /// With the bias of the field, so that they cost a take nothing but the load.
    biased: Floors,
}

impl Permits {
    /// All of `limit` permits free; a limit above [`MAX_LIMIT`] is cut to it.
    pub fn new(limit: u64) -> Self {
        Self::with_reserves(limit, [0; CLASSES])
    }

    /// As [`new`](Self::new); takers of each class leave its floor free. A floor above that of the class below is cut
    /// to it.
    pub fn with_reserves(limit: u64, mut floors: Floors) -> Self {
        let limit = limit.min(MAX_LIMIT);
        for class in 1..CLASSES {
            floors[class] = floors[class].min(floors[class - 1]);
        }
        let biased = floors.map(|floor| floor.saturating_add(BIAS));
        Self { word: AtomicU64::new(Word::pack(limit).0), limit: AtomicU64::new(limit), biased }
    }

    /// What takers of this class leave free. Classes above the highest are the highest.
    #[inline]
    pub fn floor(&self, class: usize) -> u64 {
        self.biased(class) - BIAS
    }

    #[inline]
    fn biased(&self, class: usize) -> u64 {
        self.biased[class.min(CLASSES - 1)]
    }

    /// The word now, give or take what other threads do.
    #[inline]
    pub fn look(&self) -> Word {
        Word(self.word.load(Ordering::Relaxed))
    }

    /// The limit in force.
    #[inline]
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Takes `n` as a newcomer who may take the last one. See the table.
    ///
    /// # Errors
    ///
    /// Nothing was taken: too few are free, the gate is shut, or it is closed.
    #[inline]
    pub fn try_take(&self, n: u64) -> Result<(), Miss> {
        self.take_above(n, BIAS).map(|_| ())
    }

    /// Takes `n` as a newcomer of this class. Returns the word as it left it.
    ///
    /// # Errors
    ///
    /// As [`try_take`](Self::try_take).
    #[inline]
    pub fn try_take_as(&self, n: u64, class: usize) -> Result<Word, Miss> {
        self.take_above(n, if armed!(mutant = "permits_floor_ignored") { BIAS } else { self.biased(class) })
    }

    #[inline]
    fn take_above(&self, n: u64, biased: u64) -> Result<Word, Miss> {
        let mut old = self.look();
        loop {
            let new = old.take(n, biased)?;
            if armed!(mutant = "permits_take_blind") {
                self.word.store(new.0, Ordering::Release);
                return Ok(new);
            }
            // ORDERING: Acquire pairs with the Release in `put`: what the last holder did before it gave the
            // permits back is seen by who takes them. (All writes to the word are RMWs, so the release sequence
            // is never broken.)
            let acquire = ordering!(Acquire, mutant = "permits_take_relaxed");
            match self.word.compare_exchange_weak(old.0, new.0, acquire, Ordering::Relaxed) {
                Ok(_) => return Ok(new),
                Err(now) => old = Word(now),
            }
        }
    }

    /// What [`try_take_as`](Self::try_take_as) would answer now. Takes nothing.
    ///
    /// # Errors
    ///
    /// As there.
    #[inline]
    pub fn would_take(&self, n: u64, class: usize) -> Result<(), Miss> {
        self.look().take(n, self.biased(class)).map(|_| ())
    }

    /// Takes `n` for a waiter, if `held` more than that are free. The gate does not bind waiters.
    pub fn take_for_waiter(&self, n: u64, held: u64) -> bool {
        let mut old = self.look();
        while old.has(n.saturating_add(held)) {
            if armed!(mutant = "permits_grant_blind") {
                self.word.swap(old.less(n).0, Ordering::AcqRel);
                return true;
            }
            // ORDERING: Acquire as in `try_take`; the granter hands on what it saw by publishing the grant.
            let acquire = ordering!(Acquire, mutant = "permits_grant_relaxed");
            match self.word.compare_exchange_weak(old.0, old.less(n).0, acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => old = Word(now),
            }
        }
        false
    }

    /// Gives `n` back. True: somebody waits, and the caller must drain the wait list.
    #[inline]
    #[must_use = "true means that a waiter must be looked after"]
    pub fn put(&self, n: u64) -> bool {
        if armed!(mutant = "permits_put_looks_first") {
            let waiters = self.look().waiters();
            self.word.fetch_add(n << PERMIT_SHIFT, Ordering::Release);
            return waiters != 0;
        }
        // ORDERING: Release pairs with the Acquire of the next taker. The look at `waiters` needs none: it is the
        // same word (see the head).
        let release = ordering!(Release, mutant = "permits_put_relaxed");
        self.word.fetch_add(n << PERMIT_SHIFT, release) & WAITER_MASK != 0
    }

    /// Counts a waiter in. False, and nothing changed: there is no room for another.
    pub fn register(&self) -> bool {
        // Only the latch's holder changes the count, so it cannot grow between the look and the RMW.
        if self.look().waiters() == MAX_WAITERS {
            return false;
        }
        if armed!(mutant = "permits_register_blind") {
            self.word.swap(self.look().0 + WAITER_ONE, Ordering::AcqRel);
            return true;
        }
        self.word.fetch_add(WAITER_ONE, Ordering::Relaxed);
        true
    }

    /// Counts a waiter out.
    pub fn deregister(&self) {
        if armed!(mutant = "permits_deregister_blind") {
            self.word.swap(self.look().0 - WAITER_ONE, Ordering::AcqRel);
            return;
        }
        let old = Word(self.word.fetch_sub(WAITER_ONE, Ordering::Relaxed));
        debug_assert!(old.waiters() > 0, "counted out more waiters than in");
    }

    /// Sets how many newcomers may pass from now on, and returns what was left of the last credit.
    pub fn set_credit(&self, credit: u32) -> u32 {
        let field = u64::from(credit.min(MAX_CREDIT)) << CREDIT_SHIFT;
        let mut old = self.look();
        loop {
            let new = old.0 & !CREDIT_MASK | field;
            if armed!(mutant = "permits_credit_overwrites") {
                self.word.swap(new, Ordering::AcqRel);
                return old.credit();
            }
            match self.word.compare_exchange_weak(old.0, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return old.credit(),
                Err(now) => old = Word(now),
            }
        }
    }

    /// Sets the limit, cut to [`MAX_LIMIT`]; the permits free change by the difference, below zero if need be.
    /// Never waits. True: somebody waits, and the caller must drain the wait list.
    pub fn set_limit(&self, limit: u64) -> bool {
        let limit = limit.min(MAX_LIMIT);
        let delta = limit.wrapping_sub(self.limit());
        self.limit.store(limit, Ordering::Relaxed);
        if armed!(mutant = "permits_limit_overwrites") {
            let old = self.look();
            self.word.store(old.0.wrapping_add(delta << PERMIT_SHIFT), Ordering::Release);
            return old.waiters() != 0;
        }
        // A negative delta wraps within the topmost field. Relaxed: this publishes nothing; as an RMW it carries
        // the putters' release sequence on.
        let old = self.word.fetch_add(delta << PERMIT_SHIFT, Ordering::Relaxed);
        Word(old).waiters() != 0
    }

    /// Closes it to takers. What is taken can still be given back.
    pub fn close(&self) {
        if armed!(mutant = "permits_close_overwrites") {
            self.word.store(self.look().0 | CLOSED, Ordering::Relaxed);
            return;
        }
        self.word.fetch_or(CLOSED, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_touch_each_other() {
        let p = Permits::new(MAX_LIMIT);
        assert_eq!(p.look().available(), 1 << 38);
        p.try_take(MAX_LIMIT).unwrap();
        assert!(p.register());
        p.set_credit(MAX_CREDIT + 7);
        assert!(!p.set_limit(0) || p.look().available() == -(1 << 38));
        p.close();
        let w = p.look();
        assert_eq!((w.available(), w.waiters(), w.credit(), w.closed()), (-(1 << 38), 1, MAX_CREDIT, true));
        assert!(p.put(MAX_LIMIT));
        p.set_limit(u64::MAX);
        assert_eq!(p.limit(), MAX_LIMIT);
        assert_eq!(p.set_credit(0), MAX_CREDIT);
        p.deregister();
        let w = p.look();
        assert_eq!((w.available(), w.waiters(), w.credit(), w.closed()), (1 << 38, 0, 0, true));
    }

    #[test]
    fn newcomers_follow_the_table() {
        let p = Permits::new(3);
        assert_eq!(p.try_take(4), Err(Miss::Short));
        assert_eq!(p.try_take(u64::MAX), Err(Miss::Short));
        assert_eq!(p.try_take(1), Ok(()));
        assert!(p.register());
        assert_eq!(p.try_take(1), Err(Miss::Gated));
        assert_eq!(p.try_take(3), Err(Miss::Short));
        p.set_credit(1);
        assert_eq!(p.try_take(1), Ok(()));
        assert_eq!(p.try_take(1), Err(Miss::Gated));
        assert!(p.take_for_waiter(1, 0));
        assert!(!p.take_for_waiter(1, 0));
        assert!(p.put(2));
        assert!(!p.take_for_waiter(1, 2));
        p.close();
        assert_eq!(p.try_take(1), Err(Miss::Closed));
    }

    #[test]
    fn waiters_are_counted_up_to_the_bound() {
        let p = Permits::new(1);
        for _ in 0..MAX_WAITERS {
            assert!(p.register());
        }
        assert!(!p.register());
        let w = p.look();
        assert_eq!((w.available(), w.waiters(), w.credit()), (1, MAX_WAITERS, 0));
    }

    #[test]
    fn lower_classes_leave_the_reserve() {
        let p = Permits::with_reserves(5, [3, 3, 1, 2]);
        assert_eq!([0, 1, 2, 3, 9].map(|class| p.floor(class)), [3, 3, 1, 1, 1]);
        let p = Permits::with_reserves(5, [3, 3, 1, 0]);
        assert_eq!((p.would_take(3, 1), p.would_take(2, 1)), (Err(Miss::Short), Ok(())));
        assert_eq!(p.try_take_as(3, 1), Err(Miss::Short));
        assert_eq!(p.try_take_as(2, 0).map(Word::available), Ok(3));
        assert_eq!(p.try_take_as(1, 1), Err(Miss::Short));
        assert_eq!(p.try_take_as(u64::MAX, 1), Err(Miss::Short));
        assert_eq!(p.try_take_as(2, 2).map(Word::available), Ok(1));
        assert_eq!(p.try_take_as(1, 2), Err(Miss::Short));
        assert_eq!(p.try_take_as(1, 9).map(Word::available), Ok(0));
    }

    #[test]
    fn debt_is_paid_before_anybody_takes() {
        let p = Permits::new(5);
        p.try_take(4).unwrap();
        assert!(!p.set_limit(2));
        assert_eq!(p.look().available(), -2);
        assert!(!p.put(2));
        assert_eq!(p.try_take(1), Err(Miss::Short));
        assert!(!p.put(1));
        assert_eq!(p.try_take(1), Ok(()));
    }
}
