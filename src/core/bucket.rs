//! Token bucket: GCRA over virtual tokens, one word.
//!
//! Progress: taking and refusing are lock-free; while somebody changes the terms (rate, burst, pause) they wait for
//! its dozen stores. Changes exclude each other, and the first look of a place at each, by a latch (blocking).
//! Source: the Generic Cell Rate Algorithm, in its virtual-scheduling form (ATM Forum Traffic Management 4.0,
//! 4.4.5), with the axis turned from time into tokens so that rates are exact and may change under those who wait.
//!
//! The clock is mapped to a position `V(x)` in grains of a token (`line.rs`). Each unit that is handed out owns a
//! piece of that axis, and `tat` ("theoretical arrival time") is where the next piece starts:
//!
//! | state, `t = max(tat, barrier)` | meaning | a take of `n <= burst` at tick `x` |
//! |---|---|---|
//! | `t <= floor V(x)` | idle: full | granted; *lifted*: owns `(ceil V, ceil V + n]` |
//! | `t + n <= floor V(x) + burst` | in use | granted; owns `(t, t + n]` |
//! | else | short | refused, nothing written; ready when `V` reaches `t + n - burst` |
//!
//! A reservation is a take at the first tick at which it would be granted, decided by the same rule.
//!
//! **Why the bound is exact.** In any window `[a, b]` of stamps at most `burst + V(b) - V(a)` is granted:
//! 1. pieces never overlap: `tat` moves from `t` to the end of the new piece in one CAS, and a cancelled piece goes
//!    back only while it is the last one ([`Bucket::cancel`]);
//! 2. a piece starts at or above `ceil V` of its own stamp: lifted by construction, the others because `t > floor V`;
//! 3. take the lowest piece in the window, stamp `s >= a`, and the highest. Highest not lifted: it ends at or below
//!    `floor V(b) + burst`, so all pieces together measure at most `burst + V(b) - V(s)`. Highest lifted: it has at
//!    most `burst`, and all others end at or below its `t <= floor V(b)`, so they measure at most `V(b) - V(s)`.
//!
//! A lift to the floor would let up to one grain too much pass; a lift to the ceiling judged by the second row would
//! refuse a full burst after idling. Rule 3 needs no order among the stamps: readings may be stale or step back.
//!
//! **Debt.** Where it is allowed, a take of `n > burst` is granted when the bucket is full (`t <= floor V`) and owns
//! `(ceil V, ceil V + n]` like any other: who follows waits until `V` has passed it. Rules 1 and 2 hold as they are; in 3 the
//! highest piece may then be one of `n > burst`, which is lifted: the bound is `max(burst, n) + V(b) - V(a)`, `n` the
//! largest demand that was granted in the window.
//!
//! **Terms** (line, burst, barrier) sit behind a sequence word, and the clock is read between its two readings, so
//! nobody meets the old rate with a time after the change. `V` is continuous at a change (it loses less than a
//! grain). A taker that validated and then stalls decides by its own stamp, which is before the change.
//! A piece does not remember a time: its start is where `V` reaches `end - burst` *now*, so a new rate re-times all
//! who wait; the epoch tells them to look again. Where several changes went unseen, a start is found by going through them
//! one by one (`history.rs`): what came due between two of them has come due then, by the terms of then.
//!
//! **Pause** until `T`: `V` stands still before `T`, and `barrier = V + burst` keeps the bucket empty, so nobody
//! passes before `T + 1/rate` and then one at a time. A barrier, not a raised `tat`: cancelling a reservation moves
//! `tat` back to where it was before the pause, and must not open it.
//!
//! | invariant | kept by |
//! |---|---|
//! | `burst · grains <= MOST`, `V < END`: no sum here overflows | [`Bucket::new`], `Line::span` |
//! | sequence even: the terms are those of epoch `sequence`; odd: being written | `Bucket::change` |
//! | bit 1 of the sequence: [attended](Bucket::attended), and never changes | every change adds 4 |
//! | `barrier <= V + burst` of the pause that set it | `pause`, `set_burst` |
//! | `V` stands still before `t0`: a pause iff `t0` is `Latest::paused`, else a reading that lies behind a change | `pause` |

mod history;
mod line;
mod slot;
mod terms;
mod view;

pub use self::line::{Pace, fraction_below};
pub use self::slot::Slot;

use self::history::{Latest, Stop};
use self::line::{Line, Point};
use self::terms::{Shared, Terms};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{CachePadded, Mutex, armed, hint, ordering};

/// The largest burst, in grains.
const MOST: u64 = 1 << 60;
/// Grains to the token at the most (reached by rates under one an hour): leaves room for bursts of 2^16.
const FINEST: u64 = 1 << 44;
/// The sequence, in parts: being written; attended, for life; the number of the change.
const WRITING: u64 = 1;
const ATTENDED: u64 = 2;
const CHANGE: u64 = 4;
/// How many spins a lost CAS may cost at the most.
const MOST_SPINS: u32 = 64;

/// What cannot be told in 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// More than eight tokens a tick.
    Rate,
    /// A burst beyond this many tokens.
    Burst(u64),
}

/// Why a take was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// It asks for more than the burst.
    NeverFits {
        /// How many are there.
        left: u64,
    },
    /// Not enough of them now.
    Until {
        /// When the asked number is there, see [`Bucket::tells_late`]; `None`: beyond the clock's reach.
        tick: Option<u64>,
        /// The reading that was decided by.
        now: u64,
        /// How many are there.
        left: u64,
    },
}

/// The terms, and a reading of the clock taken while they stood.
#[derive(Clone, Copy, Debug)]
pub struct View {
    terms: Terms,
    now: u64,
    point: Point,
    epoch: u64,
}

/// How full a bucket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Tokens that could be taken.
    pub left: u64,
    /// Tokens that came since the bucket was made.
    pub accrued: u64,
    /// The tick up to which nothing comes, if that is ahead.
    pub paused_until: Option<u64>,
}

/// See the head of the file. All times are raw ticks of one clock.
#[derive(Debug)]
pub struct Bucket {
    tat: CachePadded<AtomicU64>,
    terms: CachePadded<Shared>,
    latest: Mutex<Latest>,
}

impl Bucket {
    /// A full bucket of `burst` tokens, filled at `pace` tokens a tick, that may later be set to at most `max`.
    ///
    /// # Errors
    ///
    /// [`Unfit`] when `max` is over eight tokens a tick or the burst over 2^60 tokens.
    pub fn new(now: u64, pace: Pace, max: Pace, burst: u64) -> Result<Bucket, Unfit> {
        let room = MOST / burst.max(1);
        if room == 0 {
            return Err(Unfit::Burst(MOST));
        }
        let grains = pace.grains(max, room.min(FINEST)).ok_or(Unfit::Rate)?;
        let line = Line::new(now, 0, pace, grains).ok_or(Unfit::Rate)?;
        let shared = Shared {
            sequence: AtomicU64::new(0),
            t0: AtomicU64::new(line.t0),
            v0: AtomicU64::new(line.v0),
            span: AtomicU64::new(line.span),
            whole: AtomicU64::new(line.whole),
            recip: AtomicU64::new(line.recip),
            num: AtomicU64::new(line.num),
            den: AtomicU64::new(line.den),
            ticks: AtomicU64::new(line.ticks),
            burst: AtomicU64::new(burst * grains),
            barrier: AtomicU64::new(0),
            grains,
            exact: true,
            debt: false,
        };
        let terms = Terms { line, burst: burst * grains, barrier: 0, grains, exact: true, debt: false };
        Ok(Bucket {
            tat: CachePadded::new(AtomicU64::new(0)),
            terms: CachePadded::new(shared),
            latest: Mutex::new(Latest::new(terms, now)),
        })
    }

    /// Refusals may tell a tick up to three late, never early: for a clock whose ticks are finer than what is told.
    pub fn tells_late(mut self) -> Bucket {
        self.terms.exact = false;
        self.latest.lock().terms.exact = false;
        self
    }

    /// More than the burst is let through when the bucket is full, and owed.
    pub fn lets_owe(mut self) -> Bucket {
        self.terms.debt = true;
        self.latest.lock().terms.debt = true;
        self
    }

    /// [`take_plainly`](Self::take_plainly) decides nothing: its owner has more to look at than the bucket. The mark is in a
    /// word that is tested anyway, so the others do not pay for the question.
    pub fn attended(mut self) -> Bucket {
        self.terms.sequence = AtomicU64::new(ATTENDED);
        self.latest.lock().epoch = ATTENDED;
        self
    }

    /// Whether it [lets owe](Self::lets_owe).
    pub fn owes(&self) -> bool {
        self.terms.debt
    }

    /// Takes `n` tokens now; the stamp of the grant. `n` of zero is the caller's to answer. A refusal writes nothing.
    ///
    /// `now` reads the clock, or hands in an older reading: the bound holds with stale ones too.
    ///
    /// # Errors
    ///
    /// [`Short`] says when there will be enough.
    #[inline(always)]
    pub fn try_take(&self, now: impl Fn() -> u64, n: u64) -> Result<u64, Short> {
        match self.read_once(&now, WRITING).and_then(|view| self.take_once(&view, n)) {
            Some(decided) => decided,
            None => self.take_again(now, n),
        }
    }

    /// [`try_take`](Self::try_take) as far as it goes without a detour. `None`: it is [attended](Self::attended), a change was
    /// met half-way, a race was lost, or it never fits. Nothing has been taken then.
    #[inline(always)]
    pub fn take_plainly(&self, now: impl Fn() -> u64, n: u64) -> Option<Result<u64, Short>> {
        self.take_once(&self.read_once(&now, WRITING | ATTENDED)?, n)
    }

    /// [`try_take`](Self::try_take) by terms and a time that were read before.
    pub fn take_by(&self, view: &View, n: u64) -> Result<u64, Short> {
        self.take_once(view, n).unwrap_or_else(|| self.take_again(|| view.now, n))
    }

    /// `None`: a lost race, or it never fits.
    #[inline(always)]
    fn take_once(&self, view: &View, n: u64) -> Option<Result<u64, Short>> {
        let cost = view.terms.cost(n)?;
        let tat = self.tat.load(Ordering::Relaxed);
        match view.terms.decide(tat, view.point, cost) {
            Some(end) => self.advance(tat, end).ok().map(|()| Ok(view.point.tick)),
            None => {
                if armed!(mutant = "bucket_refusal_writes") {
                    let _ = self.advance(tat, tat + cost);
                }
                Some(Err(view.short(tat, cost)))
            }
        }
    }

    /// When a change was met half-way, a race was lost, or it never fits: one call, so that the inlined part is small.
    #[cold]
    #[inline(never)]
    fn take_again(&self, now: impl Fn() -> u64, n: u64) -> Result<u64, Short> {
        let view = self.view(&now);
        let mut tat = self.tat.load(Ordering::Relaxed);
        let price = view.terms.cost_and_need(n).ok_or_else(|| view.never(tat))?;
        let mut spins = 1;
        loop {
            let Some(end) = view.terms.decide_owing(tat, view.point, price) else {
                return Err(view.short(tat, price.1));
            };
            if armed!(mutant = "bucket_stores_tat_again") {
                self.tat.store(end, Ordering::Relaxed);
                return Ok(view.point.tick);
            }
            match self.advance(tat, end) {
                Ok(()) => return Ok(view.point.tick),
                Err(seen) => tat = seen,
            }
            back_off(&mut spins);
        }
    }

    /// Takes `n` tokens at the first tick at which they are there, if that is `latest` or before, or now.
    ///
    /// # Errors
    ///
    /// [`Short`]; nothing has changed then.
    pub fn reserve(&self, now: impl Fn() -> u64, n: u64, latest: u64) -> Result<Slot, Short> {
        self.reserve_by(&self.view(&now), n, latest)
    }

    /// [`reserve`](Self::reserve) by terms and a time that were read before.
    pub fn reserve_by(&self, view: &View, n: u64, latest: u64) -> Result<Slot, Short> {
        if n == 0 {
            let View { now, epoch, .. } = *view;
            return Ok(Slot { start: now, at_once: true, own: true, end: 0, before: 0, epoch, n });
        }
        let seen = self.tat.load(Ordering::Relaxed);
        let mut tat = seen;
        let mut spins = 1;
        loop {
            let late = tat != seen && armed!(mutant = "bucket_deadline_looked_at_once");
            let mut slot = view.reserve(tat, n, if late { u64::MAX } else { latest })?;
            match self.advance(tat, slot.end) {
                Ok(()) => {
                    if armed!(mutant = "bucket_slot_of_a_later_epoch") {
                        slot.epoch = self.epoch();
                    }
                    return Ok(Slot { own: true, ..slot });
                }
                Err(seen) => tat = seen,
            }
            back_off(&mut spins);
        }
    }

    /// How full it is, all of it at one moment. Takes the latch of those who change the terms.
    pub fn level(&self, now: impl Fn() -> u64) -> Level {
        // The terms stand meanwhile, so the pause is of these.
        let latest = self.latest.lock();
        self.view(&now).level(self.tat.load(Ordering::Relaxed), latest.paused)
    }

    /// Tokens that could be taken now.
    pub fn left(&self, now: impl Fn() -> u64) -> u64 {
        let view = self.view(&now);
        view.terms.left(self.tat.load(Ordering::Relaxed), view.point)
    }

    /// When `n` tokens will be there for who comes after `ahead` others: a refusal, also where that is now.
    pub fn behind(&self, now: impl Fn() -> u64, ahead: u64, n: u64) -> Short {
        let view = self.view(&now);
        let tat = self.tat.load(Ordering::Relaxed);
        let View { terms, point, now, .. } = view;
        let Some((_, need)) = terms.cost_and_need(n) else { return view.never(tat) };
        let ahead = ahead.checked_mul(terms.grains).filter(|ahead| *ahead < line::END);
        // Who idles is full, not more.
        let t = tat.max(terms.barrier).max(point.floor);
        let end = ahead.and_then(|ahead| t.checked_add(ahead)?.checked_add(need));
        let tick = end.and_then(|end| match end.saturating_sub(terms.burst) {
            position if position <= point.floor => Some(point.tick),
            position => terms.line.reaches(position),
        });
        Short::Until { tick, now, left: terms.left(tat, point) }
    }

    /// From now on `pace` tokens a tick; the caller has compared it with the highest.
    pub fn set_pace(&self, now: impl FnOnce() -> u64, pace: Pace) -> Result<(), Unfit> {
        self.set(now, Some(pace), None).map(drop)
    }

    /// From now on a burst of this many tokens. More room is there at once, except during a pause.
    pub fn set_burst(&self, now: impl FnOnce() -> u64, burst: u64) -> Result<(), Unfit> {
        self.set(now, None, Some(burst)).map(drop)
    }

    /// [`set_pace`](Self::set_pace) and [`set_burst`](Self::set_burst) in one change, or none; its tick: who is granted
    /// behind that is granted by the new ones.
    pub fn set(
        &self,
        now: impl FnOnce() -> u64,
        pace: Option<Pace>,
        burst: Option<u64>,
    ) -> Result<u64, Unfit> {
        self.change(now, |terms, stop, now| {
            let most = MOST / terms.grains;
            if burst.is_some_and(|burst| burst > most) {
                return Err(Unfit::Burst(most));
            }
            let mut terms = terms.rebased(now);
            if let Some(pace) = pace {
                let Line { t0, v0, .. } = terms.line;
                terms.line = Line::new(t0, v0, pace, terms.grains).ok_or(Unfit::Rate)?;
            }
            if let Some(burst) = burst {
                terms.burst = burst * terms.grains;
                if stop.lasts(&terms, now) {
                    terms.barrier = terms.barrier.max(terms.line.v0 + terms.burst);
                }
            }
            Ok(terms)
        })
    }

    /// Nobody passes until `until`, then they pass one by one from an empty bucket. Never shortens a pause. False: an
    /// instant that has passed, or lies within the present pause, asks for nothing.
    pub fn pause(&self, now: impl FnOnce() -> u64, until: u64) -> bool {
        let changed = self.change(now, |terms, stop, now| {
            let mut terms = terms.rebased(now);
            let Line { t0, v0, .. } = terms.line;
            if until <= now || (stop.lasts(&terms, now) && until <= t0) {
                return Err(());
            }
            terms.line = terms.line.through(until.max(t0), v0);
            stop.until = terms.line.t0;
            let barrier = v0 + terms.burst;
            let spared = armed!(mutant = "bucket_pause_spares_the_barrier")
                && self.tat.load(Ordering::Relaxed) >= barrier;
            if !spared && !armed!(mutant = "bucket_pause_no_barrier") {
                terms.barrier = terms.barrier.max(barrier);
            }
            Ok(terms)
        });
        changed.is_ok()
    }

    /// Ends a pause now. Tokens come from now on, into a bucket that the pause has emptied. False: there is none.
    pub fn resume(&self, now: impl FnOnce() -> u64) -> bool {
        let changed = self.change(now, |mut terms, stop, now| {
            if !stop.lasts(&terms, now) {
                return Err(());
            }
            // A clock that has stepped back does not make time pass twice.
            let from = now.max(stop.since);
            let from = if armed!(mutant = "bucket_resume_counts_the_pause") { stop.since } else { from };
            terms.line = terms.line.through(from, terms.line.v0);
            stop.until = 0;
            Ok(terms)
        });
        changed.is_ok()
    }

    /// Changes with every change of the terms.
    pub fn epoch(&self) -> u64 {
        // ORDERING: Acquire pairs with the Release at the end of `change`.
        self.terms.sequence.load(Ordering::Acquire) & !WRITING
    }

    /// Moves `tat`. Relaxed: the bound is a property of this one word's history, and a grant publishes nothing.
    #[inline(always)]
    fn advance(&self, from: u64, to: u64) -> Result<(), u64> {
        if armed!(mutant = "bucket_stores_tat") {
            self.tat.store(to, Ordering::Relaxed);
            return Ok(());
        }
        self.tat.compare_exchange_weak(from, to, Ordering::Relaxed, Ordering::Relaxed).map(drop)
    }

    /// The terms and the time.
    #[inline]
    pub fn view(&self, now: &impl Fn() -> u64) -> View {
        loop {
            if let Some(view) = self.read_once(now, WRITING) {
                return view;
            }
            hint::spin_loop();
        }
    }

    /// 1. The first load of the sequence is Acquire: with it come the terms of that epoch, or newer ones.
    /// 2. Then the clock, then the terms. Each load of a term is Acquire: who sees a newer one sees that the
    ///    sequence had become odd before it.
    /// 3. Then the sequence again: unchanged, so neither was there a newer term, nor does the reading lie behind a
    ///    change. (A raw counter may be read some nanoseconds off its place among the loads.)
    #[inline(always)]
    fn read_once(&self, now: &impl Fn() -> u64, unless: u64) -> Option<View> {
        let shared = &*self.terms;
        // ORDERING: Acquire pairs with the Release at the end of `change`.
        let epoch = shared.sequence.load(ordering!(Acquire, mutant = "bucket_look_relaxed"));
        let unless = if armed!(mutant = "bucket_reads_what_is_written") { 0 } else { unless };
        if epoch & unless != 0 {
            return None;
        }
        let early = if armed!(mutant = "bucket_clock_outside") { None } else { Some(now()) };
        let terms = shared.load();
        // Relaxed: ordered behind the terms by their Acquire; either it still shows `epoch` or it does not.
        let same = shared.sequence.load(Ordering::Relaxed) == epoch || armed!(mutant = "bucket_no_recheck");
        if !same {
            return None;
        }
        let now = early.unwrap_or_else(now);
        Some(View { terms, now, point: terms.line.at(now), epoch })
    }

    /// Replaces the terms, under the latch of those who change them; its tick. The latch guards a copy of the terms, so
    /// nothing here loads what readers race for. `make` is also given the last pause, to be changed with them.
    #[cold]
    fn change<E>(
        &self,
        now: impl FnOnce() -> u64,
        make: impl FnOnce(Terms, &mut Stop, u64) -> Result<Terms, E>,
    ) -> Result<u64, E> {
        let mut latched = self.latest.lock();
        let Latest { terms: old, epoch, since, paused, .. } = *latched;
        let mut stop = Stop { since, until: paused };
        if armed!(mutant = "bucket_change_no_latch") {
            drop(latched);
            latched = self.latest.lock();
        }
        let shared = &*self.terms;
        if !armed!(mutant = "bucket_change_unmarked") {
            // Relaxed: the Release stores of `write` carry it.
            shared.sequence.store(epoch | WRITING, Ordering::Relaxed);
        }
        let now = now();
        let made = make(old, &mut stop, now);
        let mut next = epoch;
        if let Ok(new) = made {
            shared.write(&old, &new);
            next = epoch + if armed!(mutant = "bucket_attention_lost") { ATTENDED } else { CHANGE };
            latched.becomes(new, now, next, stop.until);
        }
        // ORDERING: Release publishes the terms to who loads the sequence. A change that was refused changed no
        // term, so it gives the old epoch back and nobody looks again for nothing.
        shared.sequence.store(next, ordering!(Release, mutant = "bucket_epoch_relaxed"));
        made.map(|_| now)
    }
}

/// After a lost CAS: doubling pauses, so that the winner's line is not pulled away before it can win again.
#[cold]
#[inline(never)]
fn back_off(spins: &mut u32) {
    // A lost CAS is somebody's success, so the models need no scheduling point here to be finite.
    if cfg!(any(loom, shuttle)) {
        return;
    }
    for _ in 0..*spins {
        hint::spin_loop();
    }
    *spins = (*spins * 2).min(MOST_SPINS);
}
