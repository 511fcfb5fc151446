//! The reduction against trying everything, in all small states: who can get to the end in some course of events, how many have
//! to give up, and whether the queues run out when those are let past whom the detector names.

use super::*;
use std::collections::HashSet;

const MOST_LOCKS: usize = 3;
/// The thing after the locks.
const UNITS: Number = MOST_LOCKS;
const LIMIT: u64 = 2;

/// What somebody wants: a lock in a mode, or so many units.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Wish {
    Lock(usize, Mode),
    Units(u64),
}

/// What somebody holds of each lock, and how many units; and what it wants.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Owner {
    locks: [Option<Mode>; MOST_LOCKS],
    units: u64,
    wants: Option<Wish>,
}

/// All that one owner can hold, at most so many things, and want, over so many locks.
fn owners(locks_there: usize, most_held: usize) -> Vec<Owner> {
    let ways: Vec<Option<Mode>> = std::iter::once(None).chain(MODES.map(Some)).collect();
    let mut all = Vec::new();
    for code in 0..ways.len().pow(locks_there as u32) {
        let mut locks = [None; MOST_LOCKS];
        let mut rest = code;
        for lock in &mut locks[..locks_there] {
            *lock = ways[rest % ways.len()];
            rest /= ways.len();
        }
        for units in 0..=1 {
            if locks.iter().flatten().count() + units as usize > most_held {
                continue;
            }
            let mut wishes = vec![Wish::Units(1), Wish::Units(2)];
            for (lock, held) in locks.iter().enumerate().take(locks_there) {
                match held {
                    None => wishes.extend(MODES.map(|mode| Wish::Lock(lock, mode))),
                    // An upgrade.
                    Some(Mode::Upgradable) => wishes.push(Wish::Lock(lock, Mode::Exclusive)),
                    Some(_) => {}
                }
            }
            all.extend(wishes.into_iter().map(|wish| Owner { locks, units, wants: Some(wish) }));
        }
    }
    all
}

fn fits(state: &[Owner], at: usize, wish: Wish) -> bool {
    match wish {
        Wish::Units(n) => state.iter().map(|owner| owner.units).sum::<u64>() + n <= LIMIT,
        Wish::Lock(lock, mode) => {
            let mut others = state.iter().enumerate().filter(|(other, _)| *other != at);
            others.all(|(_, owner)| owner.locks[lock].is_none_or(|held| !conflict(held, mode)))
        }
    }
}

fn is_blocked(state: &[Owner], at: usize) -> bool {
    state[at].wants.is_some_and(|wish| !fits(state, at, wish))
}

fn is_possible(state: &[Owner]) -> bool {
    let units: u64 = state.iter().map(|owner| owner.units).sum();
    let is_held = |at: usize, lock: usize| {
        state[at].locks[lock].is_none_or(|mode| fits(state, at, Wish::Lock(lock, mode)))
    };
    units <= LIMIT && (0..state.len()).all(|at| (0..MOST_LOCKS).all(|lock| is_held(at, lock)))
}

/// By trying everything: who can get to the end in some course of events. Units that were wanted are held from then on.
fn can_end(state: &[Owner]) -> Vec<bool> {
    let mut ends = vec![false; state.len()];
    let mut seen = HashSet::from([state.to_vec()]);
    let mut to_do = vec![state.to_vec()];
    while let Some(state) = to_do.pop() {
        for at in 0..state.len() {
            let mut next = state.clone();
            match state[at].wants {
                Some(wish) if fits(&state, at, wish) => {
                    next[at].wants = None;
                    match wish {
                        Wish::Lock(lock, mode) => next[at].locks[lock] = Some(mode),
                        Wish::Units(n) => next[at].units += n,
                    }
                }
                Some(_) => continue,
                None => {
                    ends[at] = true;
                    next[at] = Owner { locks: [None; MOST_LOCKS], units: 0, wants: None };
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
    let held = |lock: usize| of.locks[lock].map(|mode| (lock, Share::Lock(mode)));
    let mut holds: Vec<_> = (0..MOST_LOCKS).filter_map(held).collect();
    holds.extend((of.units > 0).then_some((UNITS, Share::Units { n: of.units, limit: LIMIT })));
    let wants = match of.wants {
        Some(Wish::Units(n)) => vec![(UNITS, Share::Units { n, limit: LIMIT })],
        Some(Wish::Lock(lock, mode)) => vec![(lock, Share::Lock(mode))],
        None => Vec::new(),
    };
    let age = owner as u64;
    let is_upgrade = matches!(of.wants, Some(Wish::Lock(lock, _)) if of.locks[lock].is_some());
    Blocked { owner: age, party: age, class: 0, ticket: (0, age), holds, wants, is_upgrade, place: owner }
}

/// Who upgrades, and so keeps newcomers out.
fn drains(state: &[Owner], lock: usize) -> bool {
    let upgrade = Some(Wish::Lock(lock, Mode::Exclusive));
    state.iter().any(|owner| owner.wants == upgrade && owner.locks[lock].is_some())
}

/// What is true of the queues, whoever decides: who may enter now. An upgrade that waits keeps all others out; who
/// stands before with a wish that does not go with it holds back the rest.
fn may_enter(state: &[Owner], queue: &[usize], place: usize) -> bool {
    let at = queue[place];
    let Some(wish) = state[at].wants else { return true };
    if !fits(state, at, wish) {
        return false;
    }
    match wish {
        Wish::Lock(lock, _) if state[at].locks[lock].is_some() => return true,
        Wish::Lock(lock, _) if drains(state, lock) => return false,
        _ => {}
    }
    queue[..place].iter().all(|who| match (state[*who].wants, wish) {
        (Some(Wish::Lock(lock, mode)), Wish::Lock(mine, my_mode)) => lock != mine || !conflict(mode, my_mode),
        (Some(Wish::Units(_)), Wish::Units(_)) => false,
        _ => true,
    })
}

/// Runs it by the rules of the queues; who cannot go on is hastened when the detector says so. True: all have ended.
fn runs_out(mut state: Vec<Owner>) -> bool {
    const ENDED: Owner = Owner { locks: [None; MOST_LOCKS], units: 0, wants: None };
    let lives = |at: &usize| state[*at].wants.is_some();
    let mut queue: Vec<usize> = (0..state.len()).filter(lives).collect();
    loop {
        // Who has entered gives all back some time.
        if let Some(place) = (0..queue.len()).find(|place| may_enter(&state, &queue, *place)) {
            state[queue.remove(place)] = ENDED;
            continue;
        }
        if queue.is_empty() {
            return true;
        }
        let waits = |(place, at): (usize, &usize)| Blocked { place, ..blocked(*at, &state[*at]) };
        let all: Vec<Blocked> = queue.iter().enumerate().map(waits).collect();
        let Some(place) = to_hasten(&all, &stuck(&all, true, &[]), &[]) else { return false };
        let at = queue.remove(place);
        match state[at].wants {
            // One more of those whom the upgrade waits for.
            Some(Wish::Lock(lock, Mode::Shared)) if drains(&state, lock) => state[at] = ENDED,
            _ if place == 0 => return false,
            _ => queue.insert(0, at),
        }
    }
}

fn check(state: &[Owner]) {
    let all: Vec<Blocked> = state.iter().enumerate().map(|(at, owner)| blocked(at, owner)).collect();
    let left = stuck(&all, false, &[]);
    let ends = can_end(state);
    for at in 0..state.len() {
        assert_eq!(left[at], !ends[at], "{at} of {state:?}");
    }
    let victims = victims(&all);
    for (victim, circle) in &victims {
        assert!(left[*victim], "{victim} of {state:?} could go on");
        assert!(circle.iter().any(|edge| edge.from == *victim));
        for (nth, edge) in circle.iter().enumerate() {
            assert_eq!(edge.to, circle[(nth + 1) % circle.len()].from, "{state:?}");
        }
    }
    let without = |spared: Option<usize>| {
        let mut state = state.to_vec();
        for (victim, _) in victims.iter().filter(|victim| Some(victim.0) != spared) {
            state[*victim] = Owner { locks: [None; MOST_LOCKS], units: 0, wants: None };
        }
        state
    };
    let rest = without(None);
    assert!(can_end(&rest).iter().all(|ends| *ends), "{state:?} needs more than {victims:?}");
    for (victim, _) in &victims {
        let ends = can_end(&without(Some(*victim)));
        assert!(ends.contains(&false), "{victim} of {state:?} is one too many");
    }
    // The order of the queues may hold up more: that needs no victim.
    assert!(runs_out(rest), "{state:?} stays stuck");
}

/// All states of so many owners, of whom the first `all_blocked` or, at the least, one is blocked; every `stride`th.
fn states(owners: &[Owner], many: usize, some_run: bool, stride: usize) -> usize {
    fn go(all: &[Owner], state: &mut Vec<Owner>, from: usize, many: usize, f: &mut impl FnMut(&[Owner])) {
        if !is_possible(state) {
            return;
        }
        if state.len() == many {
            return f(state);
        }
        for (next, owner) in all.iter().enumerate().skip(from) {
            state.push(*owner);
            go(all, state, next, many, f);
            state.pop();
        }
    }
    let (mut seen, mut checked) = (0, 0);
    go(owners, &mut Vec::new(), 0, many, &mut |state| {
        let mut blocked = (0..many).map(|at| is_blocked(state, at));
        if if some_run { blocked.any(|is| is) } else { blocked.all(|is| is) } {
            seen += 1;
            if seen % stride == 0 {
                check(state);
                // The places in the queues go by position: the other way about, too.
                check(&state.iter().rev().copied().collect::<Vec<_>>());
                checked += 1;
            }
        }
    });
    checked
}

/// Whether there is time for all.
fn is_night() -> bool {
    std::env::var_os("BATCHYARD_NIGHTLY").is_some()
}

#[test]
fn two_owners_and_three_locks() {
    let checked = states(&owners(3, 4), 2, true, if is_night() { 1 } else { 3 });
    assert!(checked > 1_000, "only {checked}");
}

#[test]
fn three_owners_and_two_locks() {
    let checked = states(&owners(2, 3), 3, true, if is_night() { 1 } else { 17 });
    assert!(checked > 1_000, "only {checked}");
}

#[test]
fn four_owners_that_hold_one_thing_each() {
    let checked = states(&owners(3, 1), 4, false, if is_night() { 1 } else { 17 });
    assert!(checked > 1_000, "only {checked}");
}

/// It holds one of two, and wants two.
#[test]
fn who_waits_for_its_own_units_is_a_circle() {
    let one = |n| Owner { locks: [None; MOST_LOCKS], units: 1, wants: Some(Wish::Units(n)) };
    let alone = [blocked(0, &one(2))];
    assert_eq!(victims(&alone), [(0, vec![Edge { from: 0, wish: 0, to: 0 }])]);
    check(&[one(1), one(1)]);
    check(&[one(2), one(1)]);
}

/// The one of whom it takes three gives up, not two that hold one each beside it.
#[test]
fn no_victim_is_one_too_many() {
    let units = |n| Share::Units { n, limit: 5 };
    let one = |owner: u64, class, holds, wants| Blocked {
        owner,
        party: owner,
        class,
        ticket: (owner, 0),
        holds: vec![(7, units(holds))],
        wants: vec![(7, units(wants))],
        is_upgrade: false,
        place: 0,
    };
    let all = [one(0, 1, 1, 3), one(1, 1, 1, 1), one(2, 1, 3, 1)];
    let victims: Vec<usize> = victims(&all).into_iter().map(|victim| victim.0).collect();
    assert_eq!(victims, [2]);
}

/// One party's units count once, however many of its threads wait; and it does not wait for itself.
#[test]
fn threads_of_one_party_hold_its_units_together() {
    let units = |n| Share::Units { n, limit: 2 };
    let one = |owner: u64, party| Blocked {
        owner,
        party,
        class: 0,
        ticket: (owner, 0),
        holds: vec![(7, units(1))],
        wants: vec![(7, units(1))],
        is_upgrade: false,
        place: owner as usize,
    };
    assert_eq!(victims(&[one(0, 5), one(1, 5)]), [], "who runs has the other one");
    assert_eq!(victims(&[one(0, 5), one(1, 6)]).len(), 1);
}

/// A thread that asks under another name for what it holds.
#[test]
fn who_waits_for_its_own_lock_is_a_circle() {
    let one = |held, wanted| Blocked {
        owner: 0,
        party: 0,
        class: 0,
        ticket: (0, 0),
        holds: vec![(7, Share::Lock(held))],
        wants: vec![(7, Share::Lock(wanted))],
        is_upgrade: false,
        place: 0,
    };
    for (held, wanted, is) in [
        (Mode::Exclusive, Mode::Exclusive, true),
        (Mode::Shared, Mode::Exclusive, true),
        (Mode::Upgradable, Mode::Upgradable, true),
        (Mode::Shared, Mode::Shared, false),
        (Mode::Shared, Mode::Upgradable, false),
    ] {
        assert_eq!(!victims(&[one(held, wanted)]).is_empty(), is, "{held:?}, {wanted:?}");
    }
}

/// Each holds a lock of its own and waits in one long queue for what a running one holds.
#[test]
fn a_long_queue_is_gone_through_once() {
    let all: Vec<Blocked> = (0..20_000)
        .map(|owner: u64| Blocked {
            owner,
            party: owner,
            class: 0,
            ticket: (owner, 0),
            holds: vec![(owner as usize + 10, Share::Lock(Mode::Exclusive))],
            wants: vec![(7, Share::Lock(Mode::Exclusive))],
            is_upgrade: false,
            place: owner as usize,
        })
        .collect();
    // (Ten thousand times as long, if each were looked for among all the others.)
    assert!(!stuck(&all, true, &[]).contains(&true));
}
