//! Who waits for whom, and who of them waits for ever: one detector for locks with modes and for counted units.
//!
//! It is a graph reduction (Holt, 1972): whoever runs may go on and give back all it holds; so may a blocked one whose wish
//! can be met once those who can go on have given back what they hold; those that are left wait for each other for ever. For
//! locks, that is the same as a cycle in the graph of waits; for counted units a cycle is not enough.
//!
//! Only who is blocked is known here, with all it holds; what a running owner holds is of no interest, for it may give it
//! back. Edges are derived when somebody looks, and never stored. What a blocked one holds cannot change while it is
//! entered here, so each deadlock that is found is one.
//!
//! *Hard and soft.* A wish may be held up by the order of a queue alone: behind one who waits for something else to end. That
//! is a soft edge. Who is stuck by soft edges only needs no victim: it is let past the queue.
//!
//! *Victims.* Of the owners of one cycle the one of the lowest class, among equals the one with the youngest ticket.
//! It counts as running from then on, and the reduction is done again: so there is one victim for each circle, and none
//! twice.

use crate::core::lockword::Mode;

/// A lock, or a kind of units, by its number.
pub(crate) type Thing = usize;

/// How something is held, or wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// A lock, in this mode.
    Lock(Mode),
    /// So many of `limit` units.
    Units { n: u64, limit: u64 },
}

/// One who is blocked.
#[derive(Clone, Debug)]
pub(crate) struct Blocked {
    /// For reports and verdicts.
    pub(crate) owner: usize,
    /// 0 for the lowest.
    pub(crate) class: usize,
    /// The higher, the younger.
    pub(crate) ticket: u64,
    pub(crate) holds: Vec<(Thing, Share)>,
    pub(crate) wants: (Thing, Share),
    /// Its place in the queue for what it wants, the lower, the sooner.
    pub(crate) place: u64,
    /// It is let past the queue.
    pub(crate) hastened: bool,
}

impl Blocked {
    /// It holds what it wants more of.
    fn upgrades(&self) -> bool {
        self.holds.iter().any(|(held, share)| *held == self.wants.0 && matches!(share, Share::Lock(_)))
    }
}

/// Whether two may not hold a lock so at a time.
pub(crate) fn conflict(a: Mode, b: Mode) -> bool {
    match (a, b) {
        (Mode::Shared, other) | (other, Mode::Shared) => other == Mode::Exclusive,
        _ => true,
    }
}

/// Which of them will never go on, by hard edges, and with `soft` by the order of the queues as well.
pub(crate) fn stuck(all: &[Blocked], soft: bool) -> Vec<bool> {
    let mut left = vec![true; all.len()];
    loop {
        let goes_on = |at: usize| left[at] && !all.is_empty() && held_up_by(all, &left, at, soft).is_none();
        let Some(next) = (0..all.len()).find(|at| goes_on(*at)) else { return left };
        left[next] = false;
    }
}

/// One of those `left` that `at` waits for; `None`: with what the others give back it can go on.
fn held_up_by(all: &[Blocked], left: &[bool], at: usize, soft: bool) -> Option<usize> {
    let me = &all[at];
    let (thing, wanted) = me.wants;
    let others = || (0..all.len()).filter(|other| *other != at && left[*other]);
    match wanted {
        Share::Lock(mode) => others().find(|other| {
            let other = &all[*other];
            let holds = other.holds.iter().any(|(held, share)| {
                *held == thing && matches!(share, Share::Lock(held) if conflict(*held, mode))
            });
            holds || soft && is_before(other, me)
        }),
        Share::Units { n, limit } => {
            let held_by = |one: &Blocked| -> u64 {
                let units = |(held, share): &(Thing, Share)| match share {
                    Share::Units { n, .. } if *held == thing => *n,
                    _ => 0,
                };
                one.holds.iter().map(units).sum()
            };
            let held: u64 = others().map(|other| held_by(&all[other])).sum::<u64>() + held_by(me);
            if held.saturating_add(n) > limit {
                // Without anybody else the wish could never be met, and is refused elsewhere.
                return others().find(|other| held_by(&all[*other]) > 0);
            }
            others().find(|other| soft && is_before(&all[*other], me))
        }
    }
}

/// Whether `other` stands before `me` in the queue for the same thing, and has to be served first. Who upgrades stands before
/// all, also before who was let past the queue.
fn is_before(other: &Blocked, me: &Blocked) -> bool {
    if other.wants.0 != me.wants.0 {
        return false;
    }
    let in_queue = !me.hastened && (other.hastened || other.place < me.place);
    if !in_queue && !other.upgrades() {
        return false;
    }
    match (other.wants.1, me.wants.1) {
        (Share::Lock(theirs), Share::Lock(mine)) => conflict(theirs, mine),
        _ => true,
    }
}

/// A circle among those `left`: each waits for the next, the last for the first.
pub(crate) fn circle(all: &[Blocked], left: &[bool]) -> Vec<usize> {
    let Some(mut at) = left.iter().position(|left| *left) else { return Vec::new() };
    let mut way = Vec::new();
    loop {
        if let Some(first) = way.iter().position(|seen| *seen == at) {
            return way.split_off(first);
        }
        way.push(at);
        match held_up_by(all, left, at, false) {
            Some(next) => at = next,
            None => return Vec::new(),
        }
    }
}

/// Who of a circle is to give up.
pub(crate) fn victim(all: &[Blocked], circle: &[usize]) -> Option<usize> {
    let rank = |at: &usize| (all[*at].class, std::cmp::Reverse(all[*at].ticket));
    circle.iter().copied().min_by_key(rank)
}

/// Whom to let past its queue: of those stuck by the order of queues alone one that no other of them holds up otherwise.
pub(crate) fn to_hasten(all: &[Blocked], left: &[bool]) -> Option<usize> {
    (0..all.len()).find(|at| {
        let stuck = left[*at] && held_up_by(all, left, *at, false).is_none();
        stuck && (!all[*at].hastened || held_up_by(all, left, *at, true).is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const MODES: [Mode; 3] = [Mode::Shared, Mode::Upgradable, Mode::Exclusive];
    const LOCKS: usize = 2;
    /// The thing after the locks.
    const UNITS: Thing = LOCKS;
    const LIMIT: u64 = 2;

    /// What somebody holds of each lock, and how many units.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    struct Owner {
        locks: [Option<Mode>; LOCKS],
        units: u64,
        wants: Option<(Thing, Mode)>,
    }

    /// All that one owner can hold and want.
    fn owners() -> Vec<Owner> {
        let held: Vec<Option<Mode>> = std::iter::once(None).chain(MODES.map(Some)).collect();
        let mut all = Vec::new();
        for a in &held {
            for b in &held {
                for units in 0..=1 {
                    let locks = [*a, *b];
                    for lock in 0..LOCKS {
                        match locks[lock] {
                            None => all.extend(MODES.map(|mode| Owner {
                                locks,
                                units,
                                wants: Some((lock, mode)),
                            })),
                            // An upgrade.
                            Some(Mode::Upgradable) => {
                                all.push(Owner { locks, units, wants: Some((lock, Mode::Exclusive)) });
                            }
                            Some(_) => {}
                        }
                    }
                    all.push(Owner { locks, units, wants: Some((UNITS, Mode::Exclusive)) });
                }
            }
        }
        all
    }

    fn fits(state: &[Owner], at: usize, (thing, mode): (Thing, Mode)) -> bool {
        if thing == UNITS {
            return state.iter().map(|owner| owner.units).sum::<u64>() < LIMIT;
        }
        let others = state.iter().enumerate().filter(|(other, _)| *other != at);
        others.into_iter().all(|(_, owner)| owner.locks[thing].is_none_or(|held| !conflict(held, mode)))
    }

    fn is_possible(state: &[Owner]) -> bool {
        let units: u64 = state.iter().map(|owner| owner.units).sum();
        units <= LIMIT
            && (0..state.len()).all(|at| {
                (0..LOCKS).all(|lock| state[at].locks[lock].is_none_or(|mode| fits(state, at, (lock, mode))))
            })
    }

    /// By trying everything: who can get to the end in some course of events.
    fn can_end(state: &[Owner]) -> Vec<bool> {
        let mut ends = vec![false; state.len()];
        let mut seen = HashSet::from([state.to_vec()]);
        let mut to_do = vec![state.to_vec()];
        while let Some(state) = to_do.pop() {
            for at in 0..state.len() {
                let mut next = state.clone();
                match state[at].wants {
                    Some(wish) if fits(&state, at, wish) => next[at].wants = None,
                    Some(_) => continue,
                    None => {
                        ends[at] = true;
                        next[at] = Owner { locks: [None; LOCKS], units: 0, wants: None };
                    }
                }
                if seen.insert(next.clone()) {
                    to_do.push(next);
                }
            }
        }
        ends
    }

    fn blocked(owner: usize, of: &Owner) -> Blocked {
        let mut holds: Vec<_> =
            (0..LOCKS).filter_map(|lock| of.locks[lock].map(|mode| (lock, Share::Lock(mode)))).collect();
        holds.extend((of.units > 0).then_some((UNITS, Share::Units { n: of.units, limit: LIMIT })));
        let wants = match of.wants {
            Some((UNITS, _)) => (UNITS, Share::Units { n: 1, limit: LIMIT }),
            Some((lock, mode)) => (lock, Share::Lock(mode)),
            None => unreachable!("a blocked one wants something"),
        };
        let ticket = owner as u64;
        Blocked { owner, class: 0, ticket, holds, wants, place: ticket, hastened: false }
    }

    fn check(state: &[Owner]) {
        let all: Vec<Blocked> = state.iter().enumerate().map(|(at, owner)| blocked(at, owner)).collect();
        let stuck = stuck(&all, false);
        let ends = can_end(state);
        for at in 0..state.len() {
            assert_eq!(stuck[at], !ends[at], "{at} of {state:?}");
        }
        // As many victims as it takes, and each is one of those that are stuck.
        let mut running = vec![false; all.len()];
        loop {
            let alive: Vec<Blocked> =
                all.iter().enumerate().filter(|(at, _)| !running[*at]).map(|(_, one)| one.clone()).collect();
            let left = super::stuck(&alive, false);
            if !left.contains(&true) {
                break;
            }
            let circle = circle(&alive, &left);
            assert!(circle.len() > 1 || alive.len() == 1, "{state:?}");
            let victim = alive[victim(&alive, &circle).expect("of a circle")].owner;
            assert!(stuck[victim], "{victim} of {state:?} could go on");
            running[victim] = true;
        }
        // The order of the queues holds up more; who is hastened needs no victim.
        if !stuck.contains(&true) {
            let mut all = all;
            for _ in 0..=all.len() * 2 {
                let left = super::stuck(&all, true);
                if !left.contains(&true) {
                    return;
                }
                let at = to_hasten(&all, &left).expect("somebody can be let past");
                if std::mem::replace(&mut all[at].hastened, true) {
                    // Only an upgrade was before it still, which it enters beside.
                    all.remove(at);
                }
            }
            panic!("{state:?} stays stuck");
        }
    }

    /// Two owners that are blocked, three of whom one is at least; two locks in three modes, upgrades, and two units.
    #[test]
    fn it_says_what_trying_everything_says() {
        let all = owners();
        let mut states = 0;
        for a in &all {
            for b in &all {
                let state = [*a, *b];
                if is_possible(&state) && (0..2).all(|at| !fits(&state, at, state[at].wants.unwrap())) {
                    check(&state);
                    states += 1;
                }
            }
        }
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate().skip(i) {
                for c in all.iter().skip(j) {
                    let state = [*a, *b, *c];
                    let is_blocked = |at: usize| !fits(&state, at, state[at].wants.unwrap());
                    if is_possible(&state) && (0..3).any(is_blocked) {
                        check(&state);
                        states += 1;
                    }
                }
            }
        }
        assert!(states > 1_000, "only {states}");
    }
}
