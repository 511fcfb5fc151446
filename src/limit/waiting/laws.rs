//! The laws of [`Order::Priority`](crate::limit::Order::Priority) against an exact oracle: whoever wakes late, leaves or changes
//! the terms. One thread plays all: what the line decides depends on the order of the looks, not on who looks.

use super::*;
use crate::core::waitlist::Node;
use crate::limit::{Oversize, Rate, RateLimiter};
use crate::time::{ManualClock, secs};
use proptest::prelude::*;
use std::time::Duration;

const TOKEN: u128 = 1_000_000_000;

#[derive(Clone, Debug)]
enum Step {
    Join(u64, usize),
    Leave(usize),
    Pass(u64),
    Try(u64),
    SetRate(u64),
    SetBurst(u64),
    Pause(u64),
    Resume,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1u64..12, 0usize..4).prop_map(|(n, class)| Step::Join(n, class)),
        1 => (0usize..20).prop_map(Step::Leave),
        6 => (1u64..3_000_000_000).prop_map(Step::Pass),
        2 => (1u64..12).prop_map(Step::Try),
        1 => (1u64..50).prop_map(Step::SetRate),
        1 => (1u64..10).prop_map(Step::SetBurst),
        1 => (1u64..10_000_000_000).prop_map(Step::Pause),
        1 => Just(Step::Resume),
    ];
    prop::collection::vec(step, 1..80)
}

/// Stamps and tokens, and the rates that stood when.
struct Seen {
    grants: Vec<(u64, u64)>,
    rates: Vec<(u64, u64)>,
    bursts: u64,
}

fn run(rate: u64, burst: u64, debt: bool, changes: bool, steps: &[Step]) -> Result<Seen, TestCaseError> {
    let time = ManualClock::new();
    let limiter = RateLimiter::builder(Rate::per_second(rate).burst(burst))
        .max_rate(Rate::per_second(50))
        .order(crate::limit::Order::Priority)
        .oversize(if debt { Oversize::Debt } else { Oversize::Reject })
        .clock(time.clock())
        .build()
        .unwrap();
    let inner = limiter.inner();
    let line = inner.line.as_ref().unwrap();
    let nodes: Vec<Node> = steps.iter().map(|_| Node::new()).collect();
    let mut take = |claim: Claim| inner.take_for(claim);
    let mut seen = Seen { grants: Vec::new(), rates: vec![(0, rate)], bursts: burst };
    let mut waits: Vec<(usize, u64)> = Vec::new();
    for (id, step) in steps.iter().enumerate() {
        let now = time.now().as_nanos();
        match *step {
            Step::Join(n, class) => {
                // SAFETY: the nodes outlive the line's use of them, and each joins once.
                unsafe { line.join(&nodes[id], (n, class), now, Waiter::Lane(0), &mut take, &mut tell) };
                waits.push((id, n));
            }
            Step::Leave(which) if !waits.is_empty() => {
                let (id, n) = waits.remove(which % waits.len());
                match line.leave(&nodes[id], now, &mut take, &mut tell) {
                    Some(Turn::Granted(stamp)) => seen.grants.push((stamp, n)),
                    _ => prop_assert!(line.waiting() as usize <= waits.len()),
                }
            }
            Step::Leave(_) => {}
            Step::Pass(nanos) => time.advance(Duration::from_nanos(nanos)),
            Step::Try(n) => match limiter.try_acquire(n) {
                Ok(grant) => {
                    prop_assert_eq!(line.waiting(), 0, "overtook");
                    seen.grants.push((grant.start_at().as_nanos(), n));
                }
                Err(denied) => {
                    prop_assert_eq!(denied.never_fits(), !debt && n > limiter.burst());
                }
            },
            Step::SetRate(rate) if changes => {
                limiter.set_rate(Rate::per_second(rate)).unwrap();
                seen.rates.push((now, rate));
            }
            Step::SetBurst(burst) if changes => {
                limiter.set_burst(burst).unwrap();
                seen.bursts = seen.bursts.max(burst);
            }
            Step::Pause(nanos) if changes => limiter.pause_until(Duration::from_nanos(nanos)),
            Step::Resume => limiter.resume(),
            _ => {}
        }
        // Somebody wakes, late by the steps in between.
        let mut at_rest = Vec::new();
        for (id, n) in std::mem::take(&mut waits) {
            match line.look(&nodes[id], time.now().as_nanos(), &mut take, &mut tell) {
                Turn::Granted(stamp) => seen.grants.push((stamp, n)),
                Turn::Never => prop_assert!(!debt && n > 1),
                _ => at_rest.push((id, n)),
            }
        }
        waits = at_rest;
        prop_assert_eq!(line.waiting() as usize, waits.len());
    }
    // Give them the time, and all are served that still fit.
    time.advance(secs(100_000));
    for (id, n) in waits {
        match line.look(&nodes[id], time.now().as_nanos(), &mut take, &mut tell) {
            Turn::Granted(stamp) => seen.grants.push((stamp, n)),
            turn => prop_assert_eq!(turn, Turn::Never),
        }
    }
    seen.grants.sort_unstable();
    Ok(seen)
}

/// What the rates allow over `[from, to]`, in billionths.
fn allowed(rates: &[(u64, u64)], from: u64, to: u64) -> u128 {
    let ends = rates.iter().skip(1).map(|next| next.0).chain([u64::MAX]);
    rates
        .iter()
        .zip(ends)
        .map(|((since, rate), end)| {
            u128::from(to.min(end).saturating_sub(from.max(*since))) * u128::from(*rate)
        })
        .sum()
}

/// In every window at most `max(burst, largest demand) + rate · t`.
fn law(seen: &Seen, slack: u128) -> Result<(), TestCaseError> {
    for (i, &(from, _)) in seen.grants.iter().enumerate() {
        let (mut tokens, mut largest) = (0u128, seen.bursts);
        for &(to, n) in &seen.grants[i..] {
            tokens += u128::from(n);
            largest = largest.max(n);
            let bound = u128::from(largest) * TOKEN + allowed(&seen.rates, from, to) + slack;
            prop_assert!(tokens * TOKEN <= bound, "{tokens} in [{from}, {to}], allowed {bound}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_window_law_is_exact(rate in 1u64..50, burst in 1u64..10, debt: bool, steps in steps()) {
        law(&run(rate, burst, debt, false, &steps)?, 0)?;
    }

    /// Nothing has a place before it is granted, so changes cost no tick of the clock either.
    #[test]
    fn the_window_law_is_exact_through_changes(rate in 1u64..50, burst in 1u64..10, debt: bool, steps in steps()) {
        law(&run(rate, burst, debt, true, &steps)?, 0)?;
    }

    /// As long as somebody waits all that the rate allows is given out, however late the leader wakes.
    #[test]
    fn late_wakes_lose_nothing(rate in 1u64..50, lateness in prop::collection::vec(0u64..10_000_000_000, 30)) {
        let time = ManualClock::new();
        let limiter = RateLimiter::builder(Rate::per_second(rate))
            .order(crate::limit::Order::Priority)
            .clock(time.clock())
            .build()
            .unwrap();
        let inner = limiter.inner();
        let line = inner.line.as_ref().unwrap();
        let nodes: Vec<Node> = (0..31).map(|_| Node::new()).collect();
        let mut take = |claim: Claim| inner.take_for(claim);
        for (id, node) in nodes.iter().enumerate() {
            // SAFETY: the nodes outlive the line's use of them.
            unsafe { line.join(node, (1, id % 4), 0, Waiter::Lane(0), &mut take, &mut tell) };
        }
        for late in lateness {
            time.advance(Duration::from_nanos(late));
            line.look(&nodes[30], time.now().as_nanos(), &mut take, &mut tell);
        }
        time.advance(secs(40));
        let mut stamps: Vec<u64> = nodes
            .iter()
            .filter_map(|node| match line.look(node, time.now().as_nanos(), &mut take, &mut tell) {
                Turn::Granted(stamp) => Some(stamp),
                _ => None,
            })
            .collect();
        stamps.sort_unstable();
        let ideal: Vec<u64> = (0..31).map(|k| (k * 1_000_000_000u64).div_ceil(rate)).collect();
        // Burst 1: a place starts behind the tick of the one before.
        prop_assert_eq!(stamps.len(), 31);
        for (stamp, ideal) in stamps.into_iter().zip(ideal) {
            prop_assert!(stamp >= ideal && stamp <= ideal + 31, "{stamp} for {ideal}");
        }
    }
}
