//! The scan: what the latch's holder does to the queue. See the head of [`waitlist`](super) for the rule.

use super::demand::Demand;
use super::lines::{AGEING, Entry, Lines, Node, Seat};
use super::wakes::Wakes;
use super::{NodeState, Refused, WaitList, Waiter};
use crate::core::permits::{CLASSES, Permits};
#[cfg(mutants)]
use crate::sync::atomic::Ordering;
use crate::sync::{CachePadded, MutexGuard, armed, ordering};

/// What the latch guards.
pub(super) struct Queue {
    pub(super) lines: Lines,
    ledgers: Box<[Ledger]>,
    /// The latest time that anybody came in with. Callers' readings may be stale or out of order.
    pub(super) now: u64,
    /// The number of the last scan.
    scan: u64,
    /// Some demands may have become impossible.
    pub(super) sweep: bool,
}

/// The book of one kind.
#[derive(Clone, Copy, Default)]
struct Ledger {
    /// Set aside, in this scan, for those who hold back: what binds takers of each class. See `set_aside`.
    held: [u64; CLASSES],
    /// Of those who wait inside and were passed by in this scan: the most that one of them leaves free. `None`: there
    /// are none.
    inside: Option<u64>,
    /// The credit that the word was given last.
    given: u32,
    /// The credit it will be given.
    next: u32,
}

/// A demand that is not queued. It waits for nothing, so it is served in this scan or not at all.
#[derive(Clone, Copy)]
pub(super) struct Newcomer<'a> {
    pub(super) demand: &'a Demand,
    pub(super) class: usize,
    /// Whether it claims after all that wait, whatever its class.
    pub(super) last: bool,
}

/// Who is to take.
#[derive(Clone, Copy)]
struct Taker {
    class: usize,
    /// Whether its grant is for whoever takes it up, maybe nobody: it gets nothing that is waited for inside.
    lane: bool,
}

/// One turn of the scan.
struct Round {
    /// There may be more to grant: only the room for wakes ran out.
    more: bool,
    /// The caller's own demand was granted.
    mine: bool,
}

impl Queue {
    pub(super) fn new(kinds: usize) -> Self {
        Self {
            lines: Lines::new(),
            ledgers: vec![Ledger::default(); kinds].into_boxed_slice(),
            now: 0,
            scan: 0,
            sweep: false,
        }
    }

    /// Shuts the gates, and charges those who wait with the newcomers that passed since the last scan.
    pub(super) fn collect_credit(&mut self, kinds: &[CachePadded<Permits>]) {
        let mut used = false;
        for (ledger, permits) in self.ledgers.iter_mut().zip(kinds) {
            ledger.next = 0;
            if ledger.given > 0 {
                ledger.next = ledger.given - permits.set_credit(0).min(ledger.given);
                ledger.given = 0;
                used |= ledger.next > 0;
            }
        }
        if used {
            self.lines.each(|seat| {
                seat.with(|e| {
                    let passed: u32 =
                        e.demand.parts().map(|(kind, _)| self.ledgers[usize::from(kind)].next).sum();
                    e.passed = e.passed.saturating_add(passed);
                });
                true
            });
        }
    }

    /// Somebody was granted `d` ahead of all that this scan has come by.
    fn charge_passed(&mut self, kinds: &[CachePadded<Permits>], d: &Demand, bypass: u32) {
        let Queue { lines, ledgers, scan, .. } = self;
        lines.each(|seat| {
            seat.with(|e| {
                // Those that were visited stand at the heads of their lines.
                if e.visited != *scan {
                    return false;
                }
                if !e.holds_back && e.demand.overlaps(d) {
                    e.passed = e.passed.saturating_add(1);
                    if e.passed >= bypass {
                        e.holds_back = true;
                        set_aside(ledgers, kinds, e);
                    }
                }
                true
            })
        });
    }

    /// Opens the gates as far as the least patient waiter of each kind allows.
    fn give_credit(&mut self, kinds: &[CachePadded<Permits>], bypass: u32) {
        let Queue { lines, ledgers, .. } = self;
        ledgers.iter_mut().for_each(|ledger| ledger.next = bypass);
        lines.each(|seat| {
            seat.with(|e| {
                // Its kinds' words do not know of each other: each gets a share of what it can still bear. When
                // the shares are used up, the gates shut, and the next newcomer has the queue scanned.
                let left = if e.holds_back { 0 } else { bypass.saturating_sub(e.passed) };
                let left = left / e.demand.len().max(1) as u32;
                for (kind, _) in e.demand.parts() {
                    let next = &mut ledgers[usize::from(kind)].next;
                    *next = left.min(*next);
                }
            });
            true
        });
        for (ledger, permits) in ledgers.iter_mut().zip(kinds) {
            if ledger.next > 0 && permits.look().waiters() > 0 {
                ledger.given = ledger.next;
                permits.set_credit(ledger.next);
            }
        }
    }
}

/// Sets aside what a waiter needs, for the rest of this scan: from those who leave no less free than it does. Who may
/// take from a reserve is not held back by who may not, or the reserve would be none as soon as lower classes queue. Who
/// waits inside holds back everybody, from what it leaves free, too: it may not touch that, and must find it untouched.
fn set_aside(ledgers: &mut [Ledger], kinds: &[CachePadded<Permits>], who: &Entry) {
    for (kind, n) in who.demand.parts() {
        let permits = &kinds[usize::from(kind)];
        let mut floor = permits.floor(usize::from(who.class));
        if who.is_inside() {
            let inside = &mut ledgers[usize::from(kind)].inside;
            *inside = (*inside).max(Some(floor));
            floor = 0;
        }
        for (class, held) in ledgers[usize::from(kind)].held.iter_mut().enumerate() {
            let binds = match permits.floor(class) {
                lower if lower > floor => !armed!(mutant = "waitlist_high_holds_nothing_back"),
                own => own == floor || armed!(mutant = "waitlist_reserve_held_back"),
            };
            if binds {
                *held = held.saturating_add(n);
            }
        }
    }
}

impl Ledger {
    /// What a taker of this class leaves.
    fn kept(&self, permits: &Permits, class: usize) -> u64 {
        let floor = permits.floor(class).max(self.inside.unwrap_or(0));
        self.held[class].saturating_add(floor)
    }
}

impl Taker {
    fn of(e: &Entry) -> Self {
        let lane = !e.is_inside() && matches!(e.waiter, Some(Waiter::Lane(_)));
        Taker { class: usize::from(e.class), lane }
    }
}

impl WaitList {
    /// Takes the latch.
    pub(super) fn enter(&self, now: u64) -> MutexGuard<'_, Queue> {
        let mut queue = self.latch.lock();
        queue.now = queue.now.max(now);
        queue
    }

    /// Scans, gives the latch up, tells; again, as long as there is more. True: `mine` was granted, or
    /// `newcomer` was served.
    pub(super) fn settle<'a>(
        &'a self,
        mut queue: MutexGuard<'a, Queue>,
        mine: Option<&Node>,
        newcomer: Option<Newcomer<'_>>,
        wake: &mut impl FnMut(&Waiter),
    ) -> bool {
        // SAFETY: `mine` is linked, or was and belongs to the caller: it is alive. The seat is only compared.
        let mine = mine.map(|node| unsafe { Seat::new(node) });
        let mut wakes = Wakes::default();
        let mut served = false;
        loop {
            let round = self.scan(&mut queue, mine, newcomer.filter(|_| !served), &mut wakes);
            drop(queue);
            wakes.deliver(wake);
            served |= round.mine;
            if !round.more {
                return served;
            }
            queue = self.enter(0);
        }
    }

    fn scan(
        &self,
        q: &mut Queue,
        mine: Option<Seat>,
        mut newcomer: Option<Newcomer<'_>>,
        wakes: &mut Wakes,
    ) -> Round {
        let bypass = self.fairness.bypass;
        let mut served = false;
        q.collect_credit(&self.kinds);
        q.ledgers.iter_mut().for_each(|ledger| (ledger.held, ledger.inside) = ([0; CLASSES], None));
        q.scan += 1;
        if q.sweep && !self.sweep(q, wakes) {
            return Round { more: true, mine: false };
        }

        let mut walk = q.lines.walk(q.now);
        // An unfinished walk leaves the gates shut: what it has not visited may be owed something, and nothing is
        // free for it. The next release scans again.
        let finished = loop {
            let Some(top) = walk.top() else { break true };
            if !self.left_over(q, top) {
                break false;
            }
            if wakes.full() {
                return Round { more: true, mine: served };
            }
            let Some(seat) = walk.next() else { break true };
            let (demand, taker, tier) = seat.with(|e| (e.demand, Taker::of(e), e.tier(q.now, AGEING)));
            if let Some(first) = newcomer.take_if(|n| !n.last && n.class as u64 > tier) {
                served |= self.serve(q, first);
            }
            if self.take_all(q, &demand, taker) {
                if mine == Some(seat) {
                    self.unseat(q, seat, NodeState::Idle);
                    served = true;
                } else {
                    wakes.push(self.unseat(q, seat, NodeState::Granted).0);
                }
                q.charge_passed(&self.kinds, &demand, bypass);
                if armed!(mutant = "waitlist_one_grant_a_scan") {
                    break false;
                }
            } else {
                let (ledgers, now) = (&mut q.ledgers, q.now);
                seat.with(|e| {
                    e.visited = q.scan;
                    let waited = now.saturating_sub(e.since);
                    e.holds_back = e.is_inside() || e.passed >= bypass || waited >= self.fairness.patience;
                    if e.holds_back {
                        set_aside(ledgers, &self.kinds, e);
                    }
                });
            }
        };
        // Also if nobody waits any more, or nothing is left for those who do: a newcomer that found a gate shut may
        // come when who had shut it has gone, or ask for what is left to its class alone.
        let forgotten = armed!(mutant = "waitlist_newcomer_forgotten") && q.lines.is_empty();
        if let Some(last) = newcomer.filter(|_| !forgotten) {
            served |= self.serve(q, last);
        }
        // Credit only where something is left for who waits: a put is handed over, and nobody barges in between.
        if finished && q.lines.top().is_some_and(|top| self.left_over(q, top)) {
            q.give_credit(&self.kinds, bypass);
        }
        Round { more: false, mine: served }
    }

    pub(super) fn serve(&self, q: &mut Queue, newcomer: Newcomer<'_>) -> bool {
        let (demand, class) = (newcomer.demand, newcomer.class);
        let served = if armed!(mutant = "waitlist_newcomer_takes_what_is_set_aside") {
            demand.parts().all(|(kind, n)| self.kinds[usize::from(kind)].take_for_waiter(n, 0))
        } else {
            self.take_all(q, demand, Taker { class, lane: false })
        };
        if served {
            q.charge_passed(&self.kinds, demand, self.fairness.bypass);
        }
        served
    }

    /// Whether, of any kind that is waited for, a waiter of this class or below could be given some.
    fn left_over(&self, q: &Queue, class: usize) -> bool {
        q.ledgers.iter().zip(&self.kinds).any(|(ledger, permits)| {
            let word = permits.look();
            let kept = ledger.kept(permits, class);
            word.waiters() > 0 && word.available() > i64::try_from(kept).unwrap_or(i64::MAX)
        })
    }

    /// Takes `d` or nothing, beside what is set aside. No newcomer's gate applies.
    fn take_all(&self, q: &Queue, d: &Demand, taker: Taker) -> bool {
        let kept = |kind: usize| q.ledgers[kind].kept(&self.kinds[kind], taker.class);
        let fits = d.parts().all(|(kind, n)| {
            let kind = usize::from(kind);
            if taker.lane
                && q.ledgers[kind].inside.is_some()
                && !armed!(mutant = "waitlist_lane_beside_inside")
            {
                return false;
            }
            let free = self.kinds[kind].look().available();
            u64::try_from(free).is_ok_and(|free| free >= n.saturating_add(kept(kind)))
        });
        if !fits && !armed!(mutant = "waitlist_part_kept") {
            return false;
        }
        for (taken, (kind, n)) in d.parts().enumerate() {
            let kind = usize::from(kind);
            if !self.kinds[kind].take_for_waiter(n, kept(kind)) {
                if armed!(mutant = "waitlist_part_kept") {
                    return false;
                }
                // A newcomer was faster. What is given back here needs no drain: who stands before this demand
                // was looked at while it was free, who stands behind is looked at next.
                if armed!(mutant = "waitlist_scan_keeps_part") {
                    return false;
                }
                for (kind, n) in d.parts().take(taken).rev() {
                    let _ = self.kinds[usize::from(kind)].put(n);
                }
                return false;
            }
        }
        true
    }

    /// Serves the waiters, and then a newcomer that found a gate shut, if enough is left over.
    #[cold]
    pub(super) fn take_behind(&self, n: Newcomer<'_>, wake: &mut impl FnMut(&Waiter)) -> Result<(), Refused> {
        let queue = self.enter(0);
        let verdict = self.verdict(n.demand, n.class);
        if self.settle(queue, None, verdict.is_ok().then_some(n), wake) {
            return Ok(());
        }
        verdict?;
        let mut parts = n.demand.parts();
        let short = parts.find(|(kind, m)| self.kinds[usize::from(*kind)].would_take(*m, n.class).is_err());
        let (kind, _) = short.or(n.demand.parts().next()).unwrap_or_default();
        Err(Refused::Short { kind })
    }

    /// Takes a node out, of its line and of its words' counts, and publishes what became of it.
    pub(super) fn unseat(&self, q: &mut Queue, seat: Seat, state: NodeState) -> (Option<Waiter>, Demand) {
        q.lines.unlink(seat);
        let (waiter, demand) = seat.with(|e| (e.waiter.take(), e.demand));
        self.deregister(&demand);
        // ORDERING: Release pairs with the Acquire of `state` and `take_grant`. It hands the node's entry back to
        // its owner, and, for a grant, all that the putters did before they put: `take_for_waiter` acquired it.
        seat.publish(state, ordering!(Release, mutant = "waitlist_publish_relaxed"));
        (waiter, demand)
    }

    fn verdict_of(&self, seat: Seat) -> Result<(), Refused> {
        let (demand, class) = seat.with(|e| (e.demand, e.class));
        self.verdict(&demand, usize::from(class))
    }

    /// Refuses the demands that no release can meet any more. False: the room for wakes ran out.
    fn sweep(&self, q: &mut Queue, wakes: &mut Wakes) -> bool {
        loop {
            let mut found = None;
            q.lines.each(|seat| {
                found = found.or_else(|| Some((seat, self.verdict_of(seat).err()?)));
                found.is_none()
            });
            let Some((seat, why)) = found else {
                q.sweep = false;
                return true;
            };
            if wakes.full() {
                return false;
            }
            seat.with(|e| e.refused = Some(why));
            let state = match why {
                Refused::Closed { .. } => NodeState::Closed,
                _ => NodeState::Never,
            };
            wakes.push(self.unseat(q, seat, state).0);
        }
    }
}
