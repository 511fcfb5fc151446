//! The gate before an item runs: permits all or none, the rate token last.
//!
//! The limits are a [`ResourceManager`]'s: the named quotas, and as kinds without a name the engine's cap on items in hand
//! and each lane's. A cap is a quota like any other, so a demand over several kinds is one grant. What is here is how a
//! lane waits. The hot path takes from the manager's list without a permit around it; the permit is made when a holder is
//! lost: what an abandoned attempt holds is held by name, and with `reclaim_after` it has a lease.
//!
//! A blocked lane waits in one of two ways, never both, and its worker goes on to other lanes:
//!
//! | `Waiting` | the lane holds | reason in its word | who ends it |
//! |---|---|---|---|
//! | `No` | nothing | none of the gate's | |
//! | `Permits` | one place in the wait list | `PERMIT` | the granter: sets the lane's `admitted` bit; a worker takes it up |
//! | `Rate` | one reservation a rate, no permit | `RATE` | the supervisor's timer at its start |
//!
//! The reason is set first, then the waiter is entered, then the cause is tested again and the reason undone if it
//! has passed. A lane whose reservations have come due holds a *prepaid* start: the next item through its gate uses
//! it. So the rate law holds on grant stamps, and what the service sees is within `burst + active lanes + rate·t`.

mod losses;

use self::losses::Zombie;
use super::feedback::Bill;
use super::lane::{LaneCore, Shell};
use super::shared::Shared;
use crate::core::laneword::Reason;
use crate::core::waitlist::{Cancelled, Demand, Enqueued, Node, NodeState, Refused, Waiter};
use crate::limit::{LimitError, RateLimiter, Reservation, Watch};
use crate::lock::{Levelled, house};
use crate::resource::{ResourceKind, ResourceManager};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Unparker};
use crate::time::{Clock, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// Lanes that can be active at once.
pub(crate) const LANES: usize = 64;
const TOTAL: u16 = 0;
const FIRST_LANE: u16 = 1;
const FIRST_NAMED: u16 = FIRST_LANE + LANES as u16;
/// No cap: more than any number of workers.
const UNLIMITED: u64 = 1 << 30;
/// A token this near is waited for on the spot: handing the lane to the supervisor costs a wake-up, which is longer.
const SPIN_NANOS: u64 = 20_000;

/// The engine's permits and rates.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) manager: ResourceManager,
    rates: BTreeMap<String, RateLimiter>,
    /// What abandoned attempts hold whose threads have not returned.
    zombies: Levelled<Vec<Zombie>, house::Zombies>,
    /// After which time that is given back, returned or not.
    reclaim_after: Option<Duration>,
    /// The supervisor's places in the rates' lists of whom to wake.
    changes: Levelled<Vec<Watch>, house::GateChanges>,
}

/// A lane's part of the gate.
#[derive(Debug)]
pub(crate) struct LaneGate {
    /// Named permits an item needs.
    named: Demand,
    rates: Vec<RateLimiter>,
    /// One of them finds its rate from how the items fare.
    learns: bool,
    waiting: Levelled<Waiting, house::LaneWaiting>,
    node: Node,
    prepaid: AtomicBool,
    /// What was paid for the prepaid start, if somebody learns from it. Under the latch of `waiting`.
    paid: Levelled<Bill, house::LaneBill>,
}

#[derive(Debug)]
enum Waiting {
    No,
    Permits { demand: Demand, asked: Timestamp },
    Rate { tokens: Vec<Reservation>, due: Timestamp, paid: Bill },
}

/// Permits that a worker holds for the item in hand and keeps for the next one of the same chunk.
#[derive(Debug, Default)]
pub(crate) struct Held {
    demand: Demand,
    /// A grant that was taken up and has let no item through yet.
    is_fresh: bool,
}

/// What the gate said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Go,
    /// The lane waits now; the item goes back to it.
    Blocked,
    /// It can never pass: why.
    Never(String),
}

/// The limits of the kinds without a name: the engine's cap, and the lanes'.
pub(crate) fn caps(total: Option<u64>) -> impl Iterator<Item = u64> {
    std::iter::once(total.unwrap_or(UNLIMITED)).chain([UNLIMITED; LANES])
}

impl Gate {
    /// On a manager whose hidden kinds are the [caps].
    pub(crate) fn new(
        manager: ResourceManager,
        rates: BTreeMap<String, RateLimiter>,
        reclaim_after: Option<Duration>,
    ) -> Self {
        let (zombies, changes) = (Levelled::default(), Levelled::default());
        Self { manager, rates, zombies, reclaim_after, changes }
    }

    pub(crate) fn kind(&self, kind: &ResourceKind) -> Option<(u16, u64)> {
        let kind = self.manager.number(kind)?;
        Some((kind, self.manager.list().limit(kind)))
    }

    pub(crate) fn kinds(&self) -> impl Iterator<Item = &ResourceKind> {
        self.manager.kinds()
    }

    pub(crate) fn in_use(&self, kind: u16) -> u64 {
        self.manager.list().in_use(kind)
    }

    pub(crate) fn rate(&self, name: &str) -> Option<&RateLimiter> {
        self.rates.get(name)
    }

    pub(crate) fn rates(&self) -> impl Iterator<Item = (&String, &RateLimiter)> {
        self.rates.iter()
    }

    pub(crate) fn rate_names(&self) -> impl Iterator<Item = &str> {
        self.rates.keys().map(String::as_str)
    }

    /// Whether permits under the cap of a lane of this number are out.
    pub(crate) fn is_lane_charged(&self, lane: usize) -> bool {
        self.in_use(FIRST_LANE + lane as u16) > 0
    }

    /// From now on the supervisor is woken when a rate changes or a lease ends earlier than all others.
    pub(crate) fn wake_at_changes(&self, supervisor: &Unparker) {
        self.manager.watch_leases(supervisor.clone());
        let changes = self.rates.values().map(|rate| rate.watched_by(supervisor.clone()));
        self.changes.lock().extend(changes);
    }

    /// Sets the cap of a lane.
    pub(crate) fn set_lane_cap(&self, shared: &Shared, lane: usize, cap: u32) {
        let limit = if cap == u32::MAX { UNLIMITED } else { u64::from(cap) };
        self.manager
            .list()
            .set_limit(FIRST_LANE + lane as u16, limit, shared.nanos(), &mut |w| shared.wake(w));
    }
}

impl LaneGate {
    pub(crate) fn new(named: Demand, rates: Vec<RateLimiter>) -> Self {
        Self {
            named,
            learns: rates.iter().any(RateLimiter::is_adaptive),
            rates,
            waiting: Levelled::new(Waiting::No),
            node: Node::new(),
            prepaid: AtomicBool::new(false),
            paid: Levelled::default(),
        }
    }

    /// What an item of the lane needs now; empty together with no rates: the gate is open.
    pub(crate) fn demand(&self, core: &LaneCore) -> Demand {
        let tunables = core.tunables.get();
        let mut demand = self.named;
        if tunables.cap != super::tunables::LaneTunables::UNCAPPED {
            demand = demand.with(FIRST_LANE + core.index() as u16, 1);
        }
        if tunables.flags & super::tunables::LaneTunables::TOTAL_CAP != 0 {
            demand = demand.with(TOTAL, 1);
        }
        demand
    }

    pub(crate) fn is_open(&self, demand: &Demand) -> bool {
        demand.is_empty() && self.rates.is_empty()
    }

    /// Lets one item through, or blocks its lane. What it pays to rates that learn is written on its bill.
    #[inline]
    pub(crate) fn admit(
        &self,
        shared: &Shared,
        shell: &Arc<Shell>,
        demand: &Demand,
        held: &mut Held,
        bill: &mut Bill,
        now_raw: u64,
    ) -> Admission {
        // A grant is for one item at least: if it were passed on because others wait, and they did the same, it would
        // go round for ever.
        let is_fresh = std::mem::take(&mut held.is_fresh);
        if !held.is_empty() && !is_fresh && self.others_wait(shared, shell, demand) {
            held.release(shared);
        }
        if held.is_empty() && !demand.is_empty() {
            let now = shared.clock.at_raw(now_raw);
            match shared.gate.manager.take_bare(demand, shell.core.class(), now) {
                Ok(()) => held.demand = *demand,
                Err(refused) => {
                    let admission = self.block_on_permits(shared, shell, demand, held, refused);
                    if admission != Admission::Go {
                        return admission;
                    }
                }
            }
        }
        if self.rates.is_empty() {
            return Admission::Go;
        }
        self.pay(shared, shell, held, bill, now_raw)
    }

    /// Whether somebody besides this lane waits for what it holds. Then it gives its permits back after the item;
    /// otherwise it keeps them for the next one of the chunk.
    #[inline]
    fn others_wait(&self, shared: &Shared, shell: &Shell, demand: &Demand) -> bool {
        let list = shared.gate.manager.list();
        list.has_waiters(demand) && {
            let own = u32::from(shell.core.word.blocked_by(Reason::Permit));
            demand.parts().any(|(kind, _)| list.waiters(kind) > own)
        }
    }

    #[inline]
    fn pay(
        &self,
        shared: &Shared,
        shell: &Arc<Shell>,
        held: &mut Held,
        bill: &mut Bill,
        now_raw: u64,
    ) -> Admission {
        if self.prepaid.load(Ordering::Relaxed) && self.take_prepaid(bill) {
            return Admission::Go;
        }
        // A token of one rate is of no use while another's is waited for: of several, all are reserved together.
        if let [rate] = &*self.rates {
            debug_assert!(rate.uses_clock(&shared.clock), "the engine's rates are counted on its own clock");
            let sent = match rate.try_acquire_at(now_raw, 1) {
                Ok(()) => Some((now_raw, false)),
                Err(wait) => spin(&shared.clock, rate, wait).map(|came| (came, true)),
            };
            if let Some((raw, waited)) = sent {
                if self.learns {
                    bill.pay(rate, 1, shared.clock.at_raw(raw), waited);
                }
                return Admission::Go;
            }
        }
        self.reserve(shared, shell, held, bill)
    }

    /// Uses the prepaid start, if there is one.
    #[inline]
    fn take_prepaid(&self, bill: &mut Bill) -> bool {
        // With the bill that belongs to it.
        let _waiting = self.learns.then(|| self.waiting.lock());
        self.swap_prepaid(bill)
    }

    /// As above, with the latch held if somebody learns.
    fn swap_prepaid(&self, bill: &mut Bill) -> bool {
        // ORDERING: Acquire pairs with the Release in `due`.
        let is_paid = self.prepaid.swap(false, Ordering::Acquire);
        if is_paid && self.learns {
            *bill = std::mem::take(&mut self.paid.lock());
        }
        is_paid
    }

    #[cold]
    fn block_on_permits(
        &self,
        shared: &Shared,
        shell: &Arc<Shell>,
        demand: &Demand,
        held: &mut Held,
        refused: Refused,
    ) -> Admission {
        if let Some(why) = shared.never(&refused) {
            return Admission::Never(why);
        }
        let (core, manager) = (&shell.core, &shared.gate.manager);
        // Somebody's time may be over. Under no latch: a revocation is the user's.
        let asked = shared.clock.now();
        if manager.sweep_at(asked) > 0 && manager.take_bare(demand, core.class(), asked).is_ok() {
            held.demand = *demand;
            return Admission::Go;
        }
        let mut waiting = self.waiting.lock();
        if !matches!(*waiting, Waiting::No) {
            return Admission::Blocked;
        }
        if let Some(why) = shared.impossible(demand, core.class()) {
            return Admission::Never(why);
        }
        core.word.block(Reason::Permit);
        // SAFETY: the node lives in the lane's shell, which the waiter's entry does not outlive: `withdraw` takes
        // the node out when the lane ends (`Shared::leave`), and then no item is left for which it could be entered again.
        let entered = unsafe {
            manager.list().enqueue(
                &self.node,
                *demand,
                core.class(),
                asked.as_nanos(),
                Waiter::Lane(core.index() as u32),
                &mut |w| shared.wake(w),
            )
        };
        match entered {
            Ok(Enqueued::Granted) => {
                manager.took_bare(demand, None, asked);
                held.demand = *demand;
                shared.unblock(core, Reason::Permit);
                Admission::Go
            }
            Ok(Enqueued::Waiting) => {
                *waiting = Waiting::Permits { demand: *demand, asked };
                Admission::Blocked
            }
            Err(refused) => {
                shared.unblock(core, Reason::Permit);
                match shared.never(&refused) {
                    Some(why) => Admission::Never(why),
                    None => Admission::Blocked,
                }
            }
        }
    }

    /// Takes a place in every rate, and goes if all have come; else the lane waits with them.
    ///
    /// The latch is held from the look at `waiting` until the places stand in it: a worker that finds its lane waiting
    /// has taken nothing that would be lost.
    #[cold]
    fn reserve(&self, shared: &Shared, shell: &Arc<Shell>, held: &mut Held, bill: &mut Bill) -> Admission {
        let (core, clock) = (&shell.core, &shared.clock);
        let mut waiting = self.waiting.lock();
        if !matches!(*waiting, Waiting::No) {
            drop(waiting);
            held.release(shared);
            return Admission::Blocked;
        }
        // A start that came due since we looked is spent, or the next one that comes due would take its place.
        if self.swap_prepaid(bill) {
            return Admission::Go;
        }
        let (mut tokens, mut due) = match self.places() {
            Ok(places) => places,
            Err(error) => return Admission::Never(error.to_string()),
        };
        let mut paid = Bill::default();
        if due <= clock.now() {
            tokens = spend(tokens, &mut paid);
            if tokens.is_empty() {
                *bill = paid;
                return Admission::Go;
            }
            due = start(&tokens);
        }
        core.word.block(Reason::Rate);
        *waiting = Waiting::Rate { tokens, due, paid };
        drop(waiting);
        held.release(shared);
        if due <= clock.now() {
            // The cause has passed meanwhile.
            self.due(shared, shell, clock.now());
        } else {
            shared.schedule(due, shell);
        }
        Admission::Blocked
    }

    /// A place in every rate, and when the latest comes. None, and never, if a rate is paused for good: there are no
    /// places then until that changes.
    fn places(&self) -> Result<(Vec<Reservation>, Timestamp), LimitError> {
        let places: Result<Vec<_>, _> = self.rates.iter().map(|rate| rate.reserve_owned(1)).collect();
        match places {
            Ok(tokens) => {
                let due = start(&tokens);
                Ok((tokens, due))
            }
            Err(LimitError::WouldMissDeadline { .. }) => Ok((Vec::new(), Timestamp::MAX)),
            Err(error) => Err(error),
        }
    }

    /// A worker takes up the lane's grant: true, with the permits in `held`.
    pub(crate) fn take_up(&self, shared: &Shared, core: &LaneCore, held: &mut Held) -> bool {
        let mut waiting = self.waiting.lock();
        let Waiting::Permits { demand, asked } = *waiting else { return false };
        let list = shared.gate.manager.list();
        if !list.take_grant(&self.node) {
            // It waits again, since the grant was revoked; or a limit fell below it, or a kind was closed: then its next
            // item finds out whether that is still so.
            if list.refusal(&self.node).is_some() {
                *waiting = Waiting::No;
                shared.unblock(core, Reason::Permit);
            }
            return false;
        }
        let now = shared.clock.now();
        shared.gate.manager.took_bare(&demand, Some(now - asked), now);
        *waiting = Waiting::No;
        // Under the latch, here and elsewhere: a reason that the lane's next wait sets is not ours to lift.
        shared.unblock(core, Reason::Permit);
        drop(waiting);
        held.release(shared);
        *held = Held { demand, is_fresh: true };
        true
    }

    /// Takes back a grant that no worker has taken up, for who waits inside for some of the same. The lane waits on.
    pub(crate) fn give_up_grant(&self, shared: &Shared, core: &LaneCore, wanted: &Demand) {
        let waiting = self.waiting.lock();
        if let Waiting::Permits { demand, .. } = &*waiting
            && demand.overlaps(wanted)
        {
            let waiter = Waiter::Lane(core.index() as u32);
            // SAFETY: as in `block_on_permits`. The latch is held: nobody takes the node out meanwhile.
            unsafe { shared.gate.manager.list().revoke(&self.node, waiter, &mut |w| shared.wake(w)) };
        }
    }

    /// What each of its items holds by `needs`.
    pub(crate) fn named(&self) -> &Demand {
        &self.named
    }

    /// The number above the highest kind that its items hold by `needs`; 0: none.
    pub(crate) fn above(&self) -> u16 {
        self.named.parts().map(|(kind, _)| kind + 1).max().unwrap_or(0)
    }

    /// Why what the lane waits for cannot come, since abandoned attempts hold it.
    pub(crate) fn impossible(&self, shared: &Shared, class: usize) -> Option<String> {
        match &*self.waiting.lock() {
            Waiting::Permits { demand, .. } => shared.impossible(demand, class),
            _ => None,
        }
    }

    /// The supervisor's timer: the reservation's start has come, or was moved.
    pub(crate) fn due(&self, shared: &Shared, shell: &Arc<Shell>, now: Timestamp) {
        let mut waiting = self.waiting.lock();
        let Waiting::Rate { tokens, due, paid } = &mut *waiting else { return };
        let mut next = if tokens.is_empty() { Timestamp::MAX } else { start(tokens) };
        if next <= now {
            *tokens = spend(std::mem::take(tokens), paid);
            if !tokens.is_empty() {
                next = start(tokens);
            }
        }
        if !tokens.is_empty() || next > now {
            // Who looks for another reason than this timer leaves it in place.
            if std::mem::replace(due, next) != next {
                drop(waiting);
                shared.schedule(next, shell);
            }
            return;
        }
        if self.learns {
            *self.paid.lock() = std::mem::take(paid);
        }
        *waiting = Waiting::No;
        // ORDERING: Release pairs with the Acquire in `swap_prepaid`.
        self.prepaid.store(true, Ordering::Release);
        shared.unblock(&shell.core, Reason::Rate);
    }

    /// A rate may have changed: looks when the lane's places come now.
    pub(crate) fn retime(&self, shared: &Shared, shell: &Arc<Shell>) {
        let mut waiting = self.waiting.lock();
        let Waiting::Rate { tokens, due, .. } = &mut *waiting else { return };
        if tokens.is_empty() {
            // There were no places to be had. What never fits, its next item finds out.
            let Ok((places, _)) = self.places() else {
                *waiting = Waiting::No;
                shared.unblock(&shell.core, Reason::Rate);
                return;
            };
            *tokens = places;
        }
        let next = if tokens.is_empty() { Timestamp::MAX } else { start(tokens) };
        if std::mem::replace(due, next) != next {
            drop(waiting);
            shared.schedule(next, shell);
        }
    }

    /// The lane's class has changed: it queues anew, as one that came now.
    pub(crate) fn queue_anew(&self, shared: &Shared, core: &LaneCore) {
        let mut waiting = self.waiting.lock();
        let Waiting::Permits { demand, .. } = *waiting else { return };
        let list = shared.gate.manager.list();
        if list.state(&self.node) != NodeState::Waiting {
            return;
        }
        match list.cancel(&self.node, shared.nanos(), &mut |w| shared.wake(w)) {
            Cancelled::Removed => {}
            Cancelled::WasGranted => list.put(&demand, shared.nanos(), &mut |w| shared.wake(w)),
            // Refused: who takes it up finds out.
            Cancelled::WasClosed | Cancelled::WasIdle => return,
        }
        *waiting = Waiting::No;
        shared.unblock(core, Reason::Permit);
    }

    /// Gives up what the lane waits for: pause, cancel, shutdown.
    pub(crate) fn withdraw(&self, shared: &Shared, core: &LaneCore) {
        let mut waiting = self.waiting.lock();
        let was = std::mem::replace(&mut *waiting, Waiting::No);
        match was {
            Waiting::No => {}
            Waiting::Permits { demand, .. } => {
                let list = shared.gate.manager.list();
                if list.cancel(&self.node, shared.nanos(), &mut |w| shared.wake(w)) == Cancelled::WasGranted {
                    // The loser of the cancel owns the permits. They are in no book.
                    list.put(&demand, shared.nanos(), &mut |w| shared.wake(w));
                }
                shared.unblock(core, Reason::Permit);
            }
            Waiting::Rate { tokens, .. } => {
                drop(tokens); // un-waited reservations cancel themselves
                shared.unblock(core, Reason::Rate);
            }
        }
        drop(waiting);
    }
}

/// Uses up places whose time has come, and writes them on the bill. Those come back that a change has moved just now.
fn spend(tokens: Vec<Reservation>, bill: &mut Bill) -> Vec<Reservation> {
    let left = |token: Reservation| {
        let (rate, n) = (token.limiter().clone(), token.n());
        token.spend().map(|spent| bill.pay(&rate, n, spent.at, !spent.at_once)).err()
    };
    tokens.into_iter().filter_map(left).collect()
}

/// Waits on the spot for the token of a rate that will be there in `wait_ticks`, if that is near. The reading it was taken at.
#[cold]
fn spin(clock: &Clock, rate: &RateLimiter, wait_ticks: u64) -> Option<u64> {
    if clock.at_raw(wait_ticks).as_nanos() > SPIN_NANOS || !clock.moves_alone() {
        return None;
    }
    let until = clock.raw() + clock.raw_at(Timestamp::from_nanos(2 * SPIN_NANOS));
    loop {
        let now = clock.raw();
        if rate.try_acquire_at(now, 1).is_ok() {
            return Some(now);
        }
        if now > until {
            return None;
        }
        crate::sync::thread::yield_now();
    }
}

fn start(tokens: &[Reservation]) -> Timestamp {
    tokens.iter().map(Reservation::start_at).max().unwrap_or(Timestamp::ZERO)
}

impl Held {
    /// Gives back what is held.
    #[inline]
    pub(crate) fn release(&mut self, shared: &Shared) {
        if !self.demand.is_empty() {
            let demand = std::mem::take(self).demand;
            shared.gate.manager.give_bare(&demand);
        }
    }

    /// Keeps what is held only if it is exactly this.
    pub(crate) fn fit(&mut self, shared: &Shared, demand: &Demand) {
        if self.demand != *demand {
            self.release(shared);
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.demand.is_empty()
    }
}
