//! Who waits for ever, of those who wait: pure decisions, on what each of them holds and wants.
//!
//! It is a graph reduction (Holt, 1972): whoever runs may go on and give back all it holds; so may a blocked one whose wish
//! can be met once those who can go on have given back what they hold; those that are left wait for each other for ever. For
//! locks, that is the same as a cycle in the graph of waits; for counted units a cycle is not enough.
//!
//! Only who is blocked is known here, with all it holds; what a running owner holds is of no interest, for it may give it
//! back. Edges are derived when somebody looks, and never stored.
//!
//! *Hard and soft.* A wish may be held up by the order of a queue alone: behind one who waits for something else to end. That
//! is a soft edge. Who is stuck by soft edges only needs no victim: it is let past the queue.
//!
//! *Victims.* Of the owners of one circle the one of the lowest class, among equals the one with the youngest ticket.
//! It counts as running from then on, and the reduction is done again, until nobody is left. Then those of them are let
//! off, the most urgent first, without whom the others suffice: so no victim is one too many.

#[cfg(test)]
mod laws;

use super::report::Share;
use crate::core::lockword::Mode;
use std::cmp::Reverse;
use std::collections::HashMap;

/// A lock, or a kind of units, by its number.
pub(super) type Number = usize;

/// Who is older: by the first part, then by the second.
pub(crate) type Ticket = (u64, u64);

/// One who is blocked.
#[derive(Clone, Debug)]
pub(super) struct Blocked {
    /// Which wait this is: the later, the higher.
    pub(super) owner: u64,
    /// Whose wait: units are the party's, whichever of its threads waits. Locks are the thread's.
    pub(super) party: u64,
    /// 0 for the lowest.
    pub(super) class: usize,
    /// The higher, the younger.
    pub(super) ticket: Ticket,
    pub(super) holds: Vec<(Number, Share)>,
    /// All of it at a time.
    pub(super) wants: Vec<(Number, Share)>,
    /// It holds the lock that it wants, upgradable.
    pub(super) is_upgrade: bool,
    /// Its place in the queue for what it wants, the lower, the sooner. Who upgrades stands in none.
    pub(super) place: usize,
}

/// Why somebody cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    /// Who waits.
    pub(super) from: usize,
    /// For which of its wishes.
    pub(super) wish: usize,
    /// For whom: itself, where it wants more units than there are beside its own, or what its thread holds already.
    pub(super) to: usize,
}

impl Blocked {
    fn units_of(&self, thing: Number) -> u64 {
        let units = |(held, share): &(Number, Share)| match share {
            Share::Units { n, .. } if *held == thing => *n,
            _ => 0,
        };
        self.holds.iter().map(units).fold(0, u64::saturating_add)
    }

    fn holds_against(&self, thing: Number, mode: Mode) -> bool {
        let conflicts = |share: &Share| matches!(share, Share::Lock(held) if conflict(*held, mode));
        self.holds.iter().any(|(held, share)| *held == thing && conflicts(share))
    }
}

/// Whether two may not hold a lock so at a time.
fn conflict(a: Mode, b: Mode) -> bool {
    match (a, b) {
        (Mode::Shared, other) | (other, Mode::Shared) => other == Mode::Exclusive,
        _ => true,
    }
}

const MODES: [Mode; 3] = [Mode::Shared, Mode::Upgradable, Mode::Exclusive];

/// Those who hold a thing, and those who want it, in the order of its queue.
#[derive(Default)]
struct Around {
    holders: Vec<usize>,
    /// Who, and which of its wishes.
    waiters: Vec<(usize, usize)>,
}

/// Which of them will never go on, by hard edges, and with `soft` by the order of the queues as well. Those who are
/// `spared` go on in any case.
pub(super) fn stuck(all: &[Blocked], soft: bool, spared: &[usize]) -> Vec<bool> {
    let mut things: HashMap<Number, Around> = HashMap::new();
    for (at, one) in all.iter().enumerate() {
        one.holds.iter().for_each(|(thing, _)| things.entry(*thing).or_default().holders.push(at));
        for (wish, (thing, _)) in one.wants.iter().enumerate() {
            things.entry(*thing).or_default().waiters.push((at, wish));
        }
    }
    for around in things.values_mut() {
        around.waiters.sort_by_key(|(at, _)| (!all[*at].is_upgrade, all[*at].place));
    }
    let mut left = vec![true; all.len()];
    spared.iter().for_each(|at| left[*at] = false);
    loop {
        // Who has one wish goes on at once, so that a queue that moves is gone through once.
        let mut held_up = vec![false; all.len()];
        let mut moved = false;
        for (thing, around) in &things {
            around.pass(
                *thing,
                all,
                &mut left,
                soft,
                |at, left| {
                    if all[at].wants.len() == 1 {
                        left[at] = false;
                        moved = true;
                    }
                },
                &mut held_up,
            );
        }
        for at in 0..all.len() {
            if left[at] && !held_up[at] {
                left[at] = false;
                moved = true;
            }
        }
        if !moved {
            return left;
        }
    }
}

impl Around {
    /// Goes through the queue once: who is held up is marked, and `goes_on` is told of the others.
    fn pass(
        &self,
        thing: Number,
        all: &[Blocked],
        left: &mut [bool],
        soft: bool,
        mut goes_on: impl FnMut(usize, &mut [bool]),
        held_up: &mut [bool],
    ) {
        // Wishes before, which have to be served first.
        let (mut modes, mut units) = ([false; 3], false);
        for (at, wish) in &self.waiters {
            if !left[*at] {
                continue;
            }
            let share = all[*at].wants[*wish].1;
            let behind = soft
                && !all[*at].is_upgrade
                && match share {
                    Share::Lock(mode) => {
                        MODES.iter().any(|before| modes[*before as usize] && conflict(*before, mode))
                    }
                    Share::Units { .. } => units,
                };
            if behind || self.held_against(thing, all, left, *at, share).is_some() {
                held_up[*at] = true;
                match share {
                    Share::Lock(mode) => modes[mode as usize] = true,
                    Share::Units { .. } => units = true,
                }
            } else {
                goes_on(*at, left);
                // Still there, if another of its wishes may hold it up.
                if left[*at] && matches!(share, Share::Units { .. }) {
                    units = true;
                }
            }
        }
    }

    /// Who of those `left` holds what this one wants.
    fn held_against(
        &self,
        thing: Number,
        all: &[Blocked],
        left: &[bool],
        at: usize,
        share: Share,
    ) -> Option<usize> {
        let me = &all[at];
        let there = || self.holders.iter().copied().filter(|holder| left[*holder]);
        match share {
            Share::Lock(mode) => {
                // The first that is not itself: it is to be told of itself only if nobody else is in the way.
                let mut against = there().filter(|holder| all[*holder].holds_against(thing, mode));
                let itself = |holder: usize| holder == at;
                let first = against.next()?;
                let other = if itself(first) { against.find(|holder| !itself(*holder)) } else { Some(first) };
                other.or((!me.is_upgrade).then_some(at))
            }
            Share::Units { n, limit } => {
                let mut parties: Vec<u64> = Vec::new();
                let mut held = 0_u64;
                for holder in there() {
                    if !parties.contains(&all[holder].party) {
                        parties.push(all[holder].party);
                        held = held.saturating_add(all[holder].units_of(thing));
                    }
                }
                if held.saturating_add(n) <= limit {
                    return None;
                }
                // Who holds most, for whoever gives up shall help; itself, if nobody else does.
                let others = there().filter(|holder| all[*holder].party != me.party);
                let most = others.max_by_key(|holder| all[*holder].units_of(thing));
                // Nobody here: the wish could never be met, and is refused elsewhere.
                most.or((me.units_of(thing) > 0).then_some(at))
            }
        }
    }
}

/// For whom of those `left` this one waits, by what they hold; `None`: with what the others give back it can go on.
fn edge(all: &[Blocked], left: &[bool], at: usize) -> Option<Edge> {
    let wishes = all[at].wants.iter().enumerate();
    wishes.into_iter().find_map(|(wish, (thing, share))| {
        let holds = |one: &Blocked| one.holds.iter().any(|(held, _)| held == thing);
        let holders = (0..all.len()).filter(|holder| holds(&all[*holder])).collect();
        let around = Around { holders, waiters: Vec::new() };
        let to = around.held_against(*thing, all, left, at, *share)?;
        Some(Edge { from: at, wish, to })
    })
}

/// A circle among those `left`: each waits for the next, the last for the first.
pub(super) fn circle(all: &[Blocked], left: &[bool]) -> Vec<Edge> {
    let Some(mut at) = left.iter().position(|left| *left) else { return Vec::new() };
    let mut way: Vec<Edge> = Vec::new();
    loop {
        if let Some(first) = way.iter().position(|seen| seen.from == at) {
            return way.split_off(first);
        }
        let Some(edge) = edge(all, left, at) else { return Vec::new() };
        way.push(edge);
        at = edge.to;
    }
}

/// Who is to give up, so that nobody is stuck any more, and of which circle.
pub(super) fn victims(all: &[Blocked]) -> Vec<(usize, Vec<Edge>)> {
    let rank = |at: usize| (all[at].class, Reverse((all[at].ticket, all[at].owner)));
    let mut victims: Vec<(usize, Vec<Edge>)> = Vec::new();
    let names = |victims: &[(usize, Vec<Edge>)]| victims.iter().map(|victim| victim.0).collect::<Vec<_>>();
    loop {
        let left = stuck(all, false, &names(&victims));
        let circle = circle(all, &left);
        let Some(victim) = circle.iter().map(|edge| edge.from).min_by_key(|at| rank(*at)) else { break };
        victims.push((victim, circle));
    }
    // The most urgent first.
    victims.sort_by_key(|victim| Reverse(rank(victim.0)));
    let mut at = 0;
    while at < victims.len() {
        let mut others = names(&victims);
        others.remove(at);
        if stuck(all, false, &others).contains(&true) {
            at += 1;
        } else {
            victims.remove(at);
        }
    }
    victims
}

/// Whom to let past its queue: of those stuck by the order of queues alone one that no other of them holds up otherwise, and
/// that has not been `tried`.
pub(super) fn to_hasten(all: &[Blocked], left: &[bool], tried: &[u64]) -> Option<usize> {
    let by_order = |at: usize| left[at] && edge(all, left, at).is_none();
    (0..all.len()).find(|at| by_order(*at) && !tried.contains(&all[*at].owner))
}
