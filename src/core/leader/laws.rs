//! The line against an oracle that sorts a vector: the order of grants, their stamps, and that somebody leads.

use super::*;
use proptest::prelude::*;
use std::cell::RefCell;

const AGEING: u64 = crate::core::waitlist::lines::AGEING;

/// A token a tick, up to `burst`: the textbook's rule.
#[derive(Clone, Copy, Debug)]
struct Toy {
    tat: u64,
    burst: u64,
    now: u64,
}

impl Toy {
    fn take(&mut self, n: u64, from: u64) -> Take {
        if n > self.burst {
            return Take::Never;
        }
        let at = from.max((self.tat + n).saturating_sub(self.burst));
        if at > self.now {
            return Take::Until(at);
        }
        self.tat = self.tat.max(at) + n;
        Take::At(at)
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Join(u64, usize),
    Leave(usize),
    Pass(u64),
    Burst(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1u64..6, 0usize..5).prop_map(|(n, class)| Step::Join(n, class)),
        1 => (0usize..20).prop_map(Step::Leave),
        3 => (0u64..6).prop_map(Step::Pass),
        1 => (0u64..3).prop_map(|tens| Step::Pass(tens * AGEING)),
        1 => (1u64..6).prop_map(Step::Burst),
    ];
    prop::collection::vec(step, 1..60)
}

/// A waiter of the oracle.
#[derive(Clone, Copy, Debug)]
struct Waits {
    id: usize,
    n: u64,
    class: u64,
    since: u64,
}

/// Grants what is there, in order: who was granted, and when.
fn oracle(waits: &mut Vec<Waits>, last: &mut u64, toy: &mut Toy) -> Vec<(usize, Take)> {
    let mut done = Vec::new();
    loop {
        let tier = |w: &Waits| (w.class + (toy.now - w.since) / AGEING).min(3);
        let Some(at) = (0..waits.len()).min_by_key(|i| (3 - tier(&waits[*i]), waits[*i].id)) else { break };
        let head = waits[at];
        let took = toy.take(head.n, head.since.max(*last));
        match took {
            Take::Until(_) => break,
            Take::At(stamp) => *last = stamp,
            Take::Never => {}
        }
        done.push((head.id, took));
        waits.remove(at);
    }
    done
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn grants_follow_the_order_and_somebody_leads(burst in 1u64..6, steps in steps()) {
        let line = Leader::new();
        let nodes: Vec<Node> = (0..60).map(|_| Node::new()).collect();
        let real = RefCell::new(Toy { tat: 0, burst, now: 0 });
        let told = RefCell::new(Vec::new());
        let mut take = |claim: Claim| real.borrow_mut().take(claim.n, claim.since.max(claim.last));
        let mut wake = |waiter: &Waiter| {
            if let Waiter::Lane(id) = waiter {
                told.borrow_mut().push(*id as usize);
            }
        };
        let mut ideal = Toy { tat: 0, burst, now: 0 };
        let (mut waits, mut last, mut joined) = (Vec::<Waits>::new(), 0, 0);
        let mut leads: Option<usize> = None;
        for step in steps {
            let mut granted_me = None;
            match step {
                Step::Join(n, class) => {
                    let (id, now) = (joined, real.borrow().now);
                    joined += 1;
                    waits.push(Waits { id, n, class: class.min(3) as u64, since: now });
                    let waiter = Waiter::Lane(id as u32);
                    // SAFETY: the nodes outlive the line's use, and each joins once.
                    let turn = unsafe { line.join(&nodes[id], (n, class), now, waiter, &mut take, &mut wake) };
                    granted_me = Some((id, turn));
                }
                Step::Leave(which) if !waits.is_empty() => {
                    let id = waits.remove(which % waits.len()).id;
                    let now = real.borrow().now;
                    prop_assert_eq!(line.leave(&nodes[id], now, &mut take, &mut wake), None);
                    leads = leads.filter(|leader| *leader != id);
                }
                Step::Leave(_) => {}
                Step::Pass(ticks) => {
                    real.borrow_mut().now += ticks;
                    ideal.now += ticks;
                    // Who leads has slept to its time, or to a change of order.
                    if let Some(id) = leads {
                        let now = real.borrow().now;
                        granted_me = Some((id, line.look(&nodes[id], now, &mut take, &mut wake)));
                    }
                }
                Step::Burst(burst) => {
                    real.borrow_mut().burst = burst;
                    ideal.burst = burst;
                    line.kick(&mut wake);
                    let kicked = std::mem::take(&mut *told.borrow_mut());
                    prop_assert_eq!(&kicked, &leads.into_iter().collect::<Vec<_>>());
                    for id in kicked {
                        let now = real.borrow().now;
                        granted_me = Some((id, line.look(&nodes[id], now, &mut take, &mut wake)));
                    }
                }
            }
            let expected = oracle(&mut waits, &mut last, &mut ideal);
            let told = std::mem::take(&mut *told.borrow_mut());
            for (id, took) in &expected {
                let turn = match took { Take::At(stamp) => Turn::Granted(*stamp), _ => Turn::Never };
                match granted_me {
                    Some((me, seen)) if me == *id => prop_assert_eq!(seen, turn),
                    _ => prop_assert!(told.contains(id), "{id} was granted and not told"),
                }
                prop_assert_eq!(line.look(&nodes[*id], 0, &mut take, &mut wake), turn);
            }
            // One that waits leads, and knows it or was told.
            let before = leads;
            leads = (0..joined).find(|id| {
                waits.iter().any(|w| w.id == *id)
                    && matches!(line.look(&nodes[*id], 0, &mut take, &mut wake), Turn::Lead { .. })
            });
            prop_assert_eq!(leads.is_some(), !waits.is_empty());
            if let Some(leader) = leads {
                let knows = before == Some(leader)
                    || told.contains(&leader)
                    || matches!(granted_me, Some((me, Turn::Lead { .. })) if me == leader);
                prop_assert!(knows, "{leader} leads and does not know");
            }
            prop_assert_eq!(line.waiting(), waits.len() as u64);
            prop_assert_eq!(line.units(), waits.iter().map(|w| w.n).sum::<u64>());
            prop_assert_eq!(line.oldest(), waits.iter().map(|w| w.since).min());
            prop_assert_eq!(real.borrow().tat, ideal.tat);
        }
        for w in waits {
            line.leave(&nodes[w.id], 0, &mut take, &mut wake);
        }
        prop_assert_eq!(line.waiting(), 0);
    }
}

#[test]
fn a_leader_whose_park_panics_hands_over() {
    let line = Leader::new();
    let next = Node::new();
    let told = RefCell::new(0);
    let mut take = |_: Claim| Take::Until(9);
    let mut wake = |_: &Waiter| *told.borrow_mut() += 1;
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let parker = Parker::new();
        let park = |_: &Parker, turn: Turn| {
            assert!(matches!(turn, Turn::Lead { due: 9, .. }));
            // SAFETY: `next` outlives the line's use of it.
            let turn = unsafe { line.join(&next, (1, 0), 0, Waiter::Lane(0), &mut { take }, &mut wake) };
            assert_eq!(turn, Turn::Follow);
            panic!("as a clock may");
        };
        let _ = line.acquire((1, 1), &parker, || 0, take, park, |_| *told.borrow_mut() += 1);
    }));
    assert!(unwound.is_err());
    assert_eq!((line.waiting(), *told.borrow()), (1, 1));
    assert!(matches!(line.look(&next, 0, &mut take, &mut |_| {}), Turn::Lead { .. }));
    assert_eq!(line.leave(&next, 0, &mut take, &mut |_| {}), None);
}
