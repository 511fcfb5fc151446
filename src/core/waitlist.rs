//! Who waits for permits: demands over several kinds, granted all or nothing, by priority, with a bound on how
//! often a waiter is passed.
//!
//! The fast paths are lock-free (see [`permits`](super::permits)) and do not come here: a take that finds no waiters,
//! a put that finds none. The waiting side is blocking: it works under one short latch per list, with no call to the
//! outside. Whom to tell is collected under the latch and told after it.
//!
//! **To wake is to grant.** The granter deducts the whole demand, then publishes the grant in the node, then tells
//! the waiter. Nobody waits while holding part of a demand, so nothing here can deadlock on itself; and a waiter
//! that gives up asks under the same latch whether it was granted first. If it was, the permits are its own.
//!
//! **The scan.** Whoever gave something back, changed a limit, joined or left scans the queue in the order of claims
//! ([`lines`]) and grants what fits. A demand that does not fit is passed by others (backfill), until it was passed
//! `bypass` times or has waited for `patience`: then it *holds back* its kinds. What it needs of them is set aside, so
//! that later waiters get only what is left over, and newcomers have to queue (the gate of those words is shut). A
//! blocked head so holds back only the kinds it needs. (Who waits inside something that runs holds back from the start,
//! and lanes get nothing at all of what it waits for: [`revoke`].) What a scan leaves is told to the words as credit: how often
//! newcomers may still pass before somebody holds back. (Backfill with a reservation for the head is EASY backfill
//! of batch schedulers, and YARN's reservation.)
//!
//! **No wake-up is lost.** A waiter registers on each word first, then links itself, then scans; a put that sees a
//! registered waiter scans. See the head of [`permits`](super::permits) for why one of the two sees the other. A
//! newcomer that took part of its demand and rolls back has put: it scans too.
//!
//! | node | means | who leaves it |
//! |---|---|---|
//! | `Idle` | in no list; the node is its owner's | `enqueue`: to `Waiting` |
//! | `Waiting` | linked; the node is the latch holder's | a scan: to `Granted`, `Closed`, `Never`; `cancel`: to `Idle` |
//! | `Granted` | unlinked; its demand is deducted | `take_grant` or `cancel`, by one CAS: to `Idle`, with the permits; [`revoke`](WaitList::revoke): to `Waiting`, without |
//! | `Closed`, `Never` | unlinked; will not be granted | `cancel` or `refusal`: to `Idle` |
//!
//! A take or put without waiters is O(kinds of the demand). A scan is O(waiters), and stops as soon as nothing is
//! left to grant: with one kind and unit demands it looks at one waiter.

// The models reach this module from outside; parkers stay inside.
#![cfg_attr(any(loom, shuttle), allow(private_interfaces))]

mod acquire;
mod demand;
mod hasten;
#[cfg(all(test, not(any(loom, shuttle))))]
mod inside_laws;
#[cfg(all(test, not(any(loom, shuttle))))]
mod laws;
pub(in crate::core) mod lines;
mod revoke;
mod scan;
pub(in crate::core) mod wakes;

pub use self::acquire::Unmet;
pub use self::demand::{Demand, MAX_PARTS};
pub use self::lines::{Claim, Node};
pub use super::permits::CLASSES;

use self::lines::Seat;
use self::scan::{Newcomer, Queue};
use super::permits::{Floors, MAX_CREDIT, Miss, Permits};
use crate::sync::atomic::Ordering;
use crate::sync::{CachePadded, Mutex, Unparker, armed, ordering};
use std::fmt;

/// Who is to be told of a grant or a refusal.
#[derive(Clone, Debug)]
pub enum Waiter {
    /// A thread that sleeps on the parker of this unparker.
    Thread(Unparker),
    /// A lane of the engine, by its number.
    Lane(u32),
}

/// Why a demand cannot be had now, or ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// Too few are free, or waiters hold them back. From `enqueue`: there is no room for another waiter.
    Short {
        /// The first kind that fell short.
        kind: u16,
    },
    /// More than the limit in force. A kind that does not exist has the limit zero, and so has the kind that made a
    /// demand name more than `MAX_PARTS`.
    Never {
        /// The kind that cannot suffice.
        kind: u16,
        /// How much of it was asked for.
        asked: u64,
        /// The limit in force, less what the class leaves free.
        limit: u64,
    },
    /// The kind is closed.
    Closed {
        /// The first kind that is closed.
        kind: u16,
    },
}

/// A kind at one moment: what its latch's holder sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// The limit in force.
    pub limit: u64,
    /// Permits that are free; negative in debt.
    pub available: i64,
    /// Permits that are taken: the limit less those that are free.
    pub in_use: u64,
    /// How many wait.
    pub waiters: u32,
    /// Since when the one of them waits that came first.
    pub oldest: Option<u64>,
}

/// What became of a demand that was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Enqueued {
    /// The permits are the caller's; the node is idle, nobody is told.
    Granted,
    /// The waiter will be told.
    Waiting,
}

/// What a cancel found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cancelled {
    /// It waited. It waits no longer and holds nothing.
    Removed,
    /// It was granted before: the permits are the caller's now.
    WasGranted,
    /// It was refused before, because a kind was closed or a limit fell below it.
    WasClosed,
    /// It did not wait: it never did, or another took its grant.
    WasIdle,
}

/// Where a node stands. See the table at the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum NodeState {
    /// In no list.
    Idle = 0,
    /// In a list.
    Waiting = 1,
    /// The permits are there to be taken.
    Granted = 2,
    /// A kind was closed.
    Closed = 3,
    /// A limit fell below the demand.
    Never = 4,
    /// It waits, and was told to look for itself: of a lock's queue only.
    Told = 5,
}

impl NodeState {
    fn of(raw: u32) -> NodeState {
        match raw {
            1 => NodeState::Waiting,
            2 => NodeState::Granted,
            3 => NodeState::Closed,
            4 => NodeState::Never,
            5 => NodeState::Told,
            _ => NodeState::Idle,
        }
    }
}

/// How much order is traded for throughput.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fairness {
    /// A waiter that was passed this often holds back. 0: nobody is ever passed. At most [`MAX_CREDIT`].
    pub bypass: u32,
    /// A waiter that waits for this long holds back, in nanoseconds; seen at the next scan.
    pub patience: u64,
}

impl Default for Fairness {
    /// Passed 16 times, or 50 ms: a large demand waits for about as many small ones as a machine has threads, and
    /// not visibly long where permits are held for long.
    fn default() -> Self {
        Self { bypass: 16, patience: 50_000_000 }
    }
}

/// The words of several kinds and the queue before them.
pub struct WaitList {
    kinds: Box<[CachePadded<Permits>]>,
    latch: Mutex<Queue>,
    fairness: Fairness,
}

impl fmt::Debug for WaitList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.kinds.iter().map(|p| p.look())).finish()
    }
}

impl WaitList {
    /// One word per kind; kinds are numbered in this order. A limit above
    /// [`MAX_LIMIT`](super::permits::MAX_LIMIT) is cut to it.
    pub fn new(limits: &[u64]) -> Self {
        Self::with_fairness(limits, Fairness::default())
    }

    /// As [`new`](Self::new), with other knobs.
    pub fn with_fairness(limits: &[u64], fairness: Fairness) -> Self {
        Self::with_reserves(limits.iter().map(|limit| (*limit, [0; CLASSES])), fairness)
    }

    /// As [`with_fairness`](Self::with_fairness); of each kind the classes leave so much free.
    pub fn with_reserves(kinds: impl IntoIterator<Item = (u64, Floors)>, fairness: Fairness) -> Self {
        let kinds: Box<[_]> = kinds
            .into_iter()
            .map(|(limit, floors)| CachePadded::new(Permits::with_reserves(limit, floors)))
            .collect();
        Self {
            latch: Mutex::new(Queue::new(kinds.len())),
            kinds,
            fairness: Fairness { bypass: fairness.bypass.min(MAX_CREDIT), ..fairness },
        }
    }

    /// Takes all of `d` or nothing, without waiting, down to the last permit. A newcomer: waiters that hold back go
    /// first, whatever their class.
    ///
    /// A take over several kinds that fails at the last moment gives back what it took so far; who looks in between
    /// may find `Short` what is free again at once. Who waits is served.
    ///
    /// # Errors
    ///
    /// Nothing was taken, and why.
    #[inline]
    pub fn try_take(&self, d: &Demand, wake: &mut impl FnMut(&Waiter)) -> Result<(), Refused> {
        self.try_newcomer(Newcomer { demand: d, class: CLASSES - 1, last: true }, wake)
    }

    /// As [`try_take`](Self::try_take), in a class (cut to the highest): it leaves the class's floor free, and only
    /// waiters with a better claim go first.
    ///
    /// # Errors
    ///
    /// Nothing was taken, and why.
    #[inline]
    pub fn try_take_as(
        &self,
        d: &Demand,
        class: usize,
        wake: &mut impl FnMut(&Waiter),
    ) -> Result<(), Refused> {
        self.try_newcomer(Newcomer { demand: d, class: class.min(CLASSES - 1), last: false }, wake)
    }

    #[inline]
    fn try_newcomer(&self, n: Newcomer<'_>, wake: &mut impl FnMut(&Waiter)) -> Result<(), Refused> {
        // Of several kinds all are looked at before the first is taken: what cannot be had is then refused without a
        // write, and others do not find short what is about to be given back.
        if n.demand.len() > 1 {
            for (kind, amount) in n.demand.parts() {
                if let Err(miss) =
                    self.word(kind).ok_or(Miss::Short).and_then(|word| word.would_take(amount, n.class))
                {
                    return self.back_out(n, 0, kind, miss, wake);
                }
            }
        }
        for (taken, (kind, amount)) in n.demand.parts().enumerate() {
            let took = self.word(kind).ok_or(Miss::Short).and_then(|word| word.try_take_as(amount, n.class));
            if let Err(miss) = took {
                return self.back_out(n, taken, kind, miss, wake);
            }
        }
        match n.demand.excess() {
            None => Ok(()),
            Some((kind, _)) => self.back_out(n, n.demand.len(), kind, Miss::Short, wake),
        }
    }

    /// The word of a kind, for who takes and puts without a demand around it.
    #[inline]
    pub fn word(&self, kind: u16) -> Option<&Permits> {
        self.kinds.get(usize::from(kind)).map(|permits| &**permits)
    }

    /// A take that failed when `taken` parts were its own: gives them back, last first.
    #[cold]
    fn back_out(
        &self,
        n: Newcomer<'_>,
        taken: usize,
        kind: u16,
        miss: Miss,
        wake: &mut impl FnMut(&Waiter),
    ) -> Result<(), Refused> {
        let mut told = false;
        let kept = if armed!(mutant = "waitlist_rollback_keeps") { 1 } else { 0 };
        for (kind, amount) in n.demand.parts().take(taken).rev().skip(kept) {
            told |= self.give_one(kind, amount);
        }
        let verdict = self.verdict(n.demand, n.class);
        let gated = miss == Miss::Gated && !armed!(mutant = "waitlist_gate_refuses");
        if gated && verdict.is_ok() {
            // The gate says only that somebody holds back something of this kind: under the latch it can be seen
            // whether what is left over suffices. This scan serves those whom the rollback touched, too.
            return self.take_behind(n, wake);
        }
        // The rollback is a release: a waiter may have registered and looked while the parts were ours.
        if told && !armed!(mutant = "waitlist_rollback_silent") {
            self.drain(0, wake);
        }
        verdict?;
        Err(match miss {
            Miss::Closed => Refused::Closed { kind },
            Miss::Short | Miss::Gated => Refused::Short { kind },
        })
    }

    /// Gives a demand back. Without waiters: one `fetch_add` per kind. `now` is used only if somebody waits.
    #[inline]
    pub fn put(&self, d: &Demand, now: u64, wake: &mut impl FnMut(&Waiter)) {
        if self.give(d) {
            self.drain(now, wake);
        }
    }

    /// The first half of [`put`](Self::put), for callers that do not know the time yet. True: somebody waits, and
    /// the caller must [`drain`](Self::drain).
    #[inline]
    #[must_use = "true means that a waiter must be looked after"]
    pub fn give(&self, d: &Demand) -> bool {
        let mut told = false;
        for (kind, n) in d.parts() {
            told |= self.give_one(kind, n);
        }
        told
    }

    /// As [`give`](Self::give), for one kind.
    #[inline]
    #[must_use = "true means that a waiter must be looked after"]
    pub fn give_one(&self, kind: u16, n: u64) -> bool {
        self.kinds.get(usize::from(kind)).is_some_and(|permits| permits.put(n))
    }

    /// Grants to the waiters what there is.
    #[cold]
    pub fn drain(&self, now: u64, wake: &mut impl FnMut(&Waiter)) {
        let queue = self.enter(now);
        self.settle(queue, None, None, wake);
    }

    /// Takes `d` or queues `node` for it, with this claim.
    ///
    /// A node that waits or has an untaken grant is left as it is, and `Waiting` returned.
    ///
    /// # Safety
    ///
    /// Until the node's state is seen to be another than `Waiting` ([`state`](Self::state), the return of
    /// [`cancel`](Self::cancel) or of [`take_grant`](Self::take_grant) with true), the node must not move or be
    /// dropped, and neither may this list be dropped. One thread at a time enqueues a node, and from then on the
    /// node is used with this list only.
    ///
    /// # Errors
    ///
    /// The demand cannot be met by any release; or there is no room for another waiter.
    pub unsafe fn enqueue(
        &self,
        node: &Node,
        d: Demand,
        claim: impl Into<Claim>,
        now: u64,
        waiter: Waiter,
        wake: &mut impl FnMut(&Waiter),
    ) -> Result<Enqueued, Refused> {
        let claim = claim.into();
        let class = claim.class();
        let mut queue = self.enter(now);
        if matches!(self.state(node), NodeState::Waiting | NodeState::Granted) {
            debug_assert!(false, "a node waits for one demand at a time");
            return Ok(Enqueued::Waiting);
        }
        self.verdict(&d, class)?;
        if d.is_empty() {
            return Ok(Enqueued::Granted);
        }
        // What newcomers passed until now, they did not pass this waiter.
        queue.collect_credit(&self.kinds);
        if armed!(mutant = "waitlist_register_late") {
            let newcomer = Newcomer { demand: &d, class, last: false };
            if self.serve(&mut queue, newcomer) {
                return Ok(Enqueued::Granted);
            }
            drop(queue);
            queue = self.enter(now);
        }
        self.register(&d)?;

        // SAFETY: the latch is held. The node is alive by this function's contract, and not linked: its state says
        // that it is its owner's, who is the caller.
        let seat = unsafe { Seat::new(node) };
        seat.with(|e| {
            e.set_claim(claim);
            e.since = queue.now;
            e.demand = d;
            e.waiter = Some(waiter);
            (e.passed, e.holds_back, e.visited, e.refused) = (0, false, 0, None);
        });
        node.home.store(self.home(), Ordering::Relaxed);
        // Nobody reads the entry for having seen `Waiting`: the latch guards it.
        seat.publish(NodeState::Waiting, Ordering::Relaxed);
        queue.lines.push(seat);
        if armed!(mutant = "waitlist_no_recheck") {
            return Ok(Enqueued::Waiting);
        }
        if armed!(mutant = "waitlist_register_late") {
            return Ok(Enqueued::Waiting);
        }
        let granted = self.settle(queue, Some(node), None, wake);
        Ok(if granted { Enqueued::Granted } else { Enqueued::Waiting })
    }

    /// Counts a waiter into each of its words, or into none.
    fn register(&self, d: &Demand) -> Result<(), Refused> {
        for (done, (kind, _)) in d.parts().enumerate() {
            if !self.kinds[usize::from(kind)].register() {
                for (kind, _) in d.parts().take(done) {
                    self.kinds[usize::from(kind)].deregister();
                }
                return Err(Refused::Short { kind });
            }
        }
        Ok(())
    }

    /// Counts a waiter out of each of its words.
    fn deregister(&self, d: &Demand) {
        for (kind, _) in d.parts() {
            self.kinds[usize::from(kind)].deregister();
        }
    }

    /// Gives a waiting up, or takes a grant back. Exactly one of the outcomes, whatever races.
    pub fn cancel(&self, node: &Node, now: u64, wake: &mut impl FnMut(&Waiter)) -> Cancelled {
        if armed!(mutant = "waitlist_cancel_outside") && self.state(node) == NodeState::Granted {
            return if self.take_grant(node) { Cancelled::WasGranted } else { Cancelled::WasIdle };
        }
        let mut queue = self.enter(now);
        match self.state(node) {
            NodeState::Waiting if node.home.load(Ordering::Relaxed) == self.home() => {
                // SAFETY: the latch is held, and a node that waits in this list is linked and alive.
                let seat = unsafe { Seat::new(node) };
                let demand = self.unseat(&mut queue, seat, NodeState::Idle).1;
                debug_assert!(!demand.is_empty());
                // It may have held others back.
                if !armed!(mutant = "waitlist_leaves_gate_shut") {
                    self.settle(queue, None, None, wake);
                }
                Cancelled::Removed
            }
            NodeState::Granted if self.take_grant(node) => Cancelled::WasGranted,
            NodeState::Closed | NodeState::Never => {
                node.state.store(NodeState::Idle as u32, Ordering::Relaxed);
                Cancelled::WasClosed
            }
            _ => Cancelled::WasIdle,
        }
    }

    /// Where a node stands.
    #[inline]
    pub fn state(&self, node: &Node) -> NodeState {
        // ORDERING: Acquire pairs with the Release of the scan that published the state.
        NodeState::of(node.state.load(Ordering::Acquire))
    }

    /// Takes a grant: true, and the permits are the caller's. One caller of many gets it.
    pub fn take_grant(&self, node: &Node) -> bool {
        let (granted, idle) = (NodeState::Granted as u32, NodeState::Idle as u32);
        if armed!(mutant = "waitlist_take_blind") {
            let is = node.state.load(Ordering::Acquire) == granted;
            if is {
                node.state.store(idle, Ordering::Relaxed);
            }
            return is;
        }
        // ORDERING: Acquire pairs with the Release of the scan that granted, which had acquired the puts that
        // the grant was made of.
        let acquire = ordering!(Acquire, mutant = "waitlist_take_relaxed");
        node.state.compare_exchange(granted, idle, acquire, Ordering::Relaxed).is_ok()
    }

    /// Why a node's last demand was refused after it was queued; the node is idle afterwards.
    pub fn refusal(&self, node: &Node) -> Option<Refused> {
        let _queue = self.enter(0);
        let home = node.home.load(Ordering::Relaxed) == self.home();
        if !home || matches!(self.state(node), NodeState::Waiting | NodeState::Granted) {
            return None;
        }
        node.state.store(NodeState::Idle as u32, Ordering::Relaxed);
        // SAFETY: the latch is held, and the caller's reference keeps the node alive.
        unsafe { Seat::new(node) }.with(|e| e.refused.take())
    }

    /// Changes a limit. Raised: waiters are granted what is new. Lowered: the permits free may fall below zero, and
    /// demands that are now above it are refused.
    pub fn set_limit(&self, kind: u16, limit: u64, now: u64, wake: &mut impl FnMut(&Waiter)) {
        let mut queue = self.enter(now);
        let Some(permits) = self.kinds.get(usize::from(kind)) else { return };
        queue.sweep |= limit < permits.limit() && !armed!(mutant = "waitlist_lowered_limit_unswept");
        if permits.set_limit(limit) && !armed!(mutant = "waitlist_limit_silent") {
            self.settle(queue, None, None, wake);
        }
    }

    /// Closes one kind, or all: takers and waiters are refused, permits still come back.
    pub fn close(&self, kind: Option<u16>, wake: &mut impl FnMut(&Waiter)) {
        let mut queue = self.enter(0);
        for (i, permits) in self.kinds.iter().enumerate() {
            if kind.is_none_or(|kind| usize::from(kind) == i) {
                permits.close();
            }
        }
        queue.sweep = true;
        if armed!(mutant = "waitlist_close_unswept") {
            queue.sweep = false;
        }
        if !armed!(mutant = "waitlist_close_silent") {
            self.settle(queue, None, None, wake);
        }
    }

    /// Free permits of a kind; negative in debt.
    pub fn available(&self, kind: u16) -> i64 {
        self.kinds.get(usize::from(kind)).map_or(0, |permits| permits.look().available())
    }

    /// Permits of a kind that are taken. Exact: it enters the latch, so that no limit moves meanwhile.
    pub fn in_use(&self, kind: u16) -> u64 {
        let _queue = self.enter(0);
        let Some(permits) = self.kinds.get(usize::from(kind)) else { return 0 };
        u64::try_from(permits.limit() as i64 - permits.look().available()).unwrap_or(0)
    }

    /// All that the list knows of a kind, at one moment. Enters the latch and looks at every waiter.
    pub fn load(&self, kind: u16) -> Load {
        let queue = self.enter(0);
        let Some(permits) = self.kinds.get(usize::from(kind)) else { return Load::default() };
        let word = permits.look();
        let mut oldest: Option<u64> = None;
        queue.lines.each(|seat| {
            let since = seat.with(|e| (e.demand.amount(kind) > 0).then_some(e.since));
            oldest = [oldest, since].into_iter().flatten().min();
            true
        });
        Load {
            limit: permits.limit(),
            available: word.available(),
            in_use: u64::try_from(permits.limit() as i64 - word.available()).unwrap_or(0),
            waiters: word.waiters(),
            oldest,
        }
    }

    /// The limit of a kind.
    pub fn limit(&self, kind: u16) -> u64 {
        self.kinds.get(usize::from(kind)).map_or(0, |permits| permits.limit())
    }

    /// How many wait for a kind.
    pub fn waiters(&self, kind: u16) -> u32 {
        self.kinds.get(usize::from(kind)).map_or(0, |permits| permits.look().waiters())
    }

    /// Whether a kind was closed.
    pub fn is_closed(&self, kind: u16) -> bool {
        self.kinds.get(usize::from(kind)).is_some_and(|permits| permits.look().closed())
    }

    /// Whether somebody waits for any kind of `d`: a passing look, for a holder that would keep its permits for
    /// the next piece of work.
    #[inline]
    pub fn has_waiters(&self, d: &Demand) -> bool {
        d.parts().any(|(kind, _)| self.waiters(kind) != 0)
    }

    /// Whether `d` can be met by waiting in this class.
    pub fn verdict(&self, d: &Demand, class: usize) -> Result<(), Refused> {
        if let Some((kind, asked)) = d.excess() {
            return Err(Refused::Never { kind, asked, limit: 0 });
        }
        for (kind, asked) in d.parts() {
            if self.is_closed(kind) {
                return Err(Refused::Closed { kind });
            }
            let floor = self.word(kind).map_or(0, |permits| permits.floor(class));
            let limit = self.limit(kind).saturating_sub(floor);
            if asked > limit {
                return Err(Refused::Never { kind, asked, limit });
            }
        }
        Ok(())
    }

    /// What tells this list from others: an address that does not change while nodes are in it.
    fn home(&self) -> usize {
        self.kinds.as_ptr() as usize
    }
}
