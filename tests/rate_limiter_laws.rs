//! The laws of `RateLimiter` against an exact oracle, over random histories: idle times from a nanosecond to a hundred
//! years, clocks that step back, refusals, refunds, changes of rate and burst, pauses.
//!
//! The oracle counts in billionths of a token: the rates here are whole numbers a second, so a nanosecond is worth
//! exactly `rate` of them, and every bound is a whole number.

use batchyard::limit::{Oversize, Reservation};
use batchyard::{ManualClock, Rate, RateLimiter, Timestamp, secs};
use proptest::prelude::*;
use std::time::Duration;

const TOKEN: u128 = 1_000_000_000;

/// A rate that stood from `since` on.
#[derive(Debug, Clone, Copy)]
struct Piece {
    since: u64,
    rate: u64,
}

/// What the pieces allow over `[from, to]`, in billionths.
fn allowed(pieces: &[Piece], from: u64, to: u64) -> u128 {
    let ends = pieces.iter().skip(1).map(|next| next.since).chain([u64::MAX]);
    pieces
        .iter()
        .zip(ends)
        .map(|(piece, end)| {
            let (from, to) = (from.max(piece.since), to.min(end));
            u128::from(to.saturating_sub(from)) * u128::from(piece.rate)
        })
        .sum()
}

/// In every window: tokens <= burst + what the rates allow. `grants` are (stamp, tokens).
fn window_law(grants: &mut [(u64, u64)], burst: u64, pieces: &[Piece]) -> Result<(), TestCaseError> {
    grants.sort_unstable();
    for (i, &(from, _)) in grants.iter().enumerate() {
        let mut tokens = 0u128;
        for &(to, n) in &grants[i..] {
            tokens += u128::from(n);
            let bound = u128::from(burst) * TOKEN + allowed(pieces, from, to);
            prop_assert!(tokens * TOKEN <= bound, "{tokens} tokens in [{from}, {to}], allowed {bound}");
        }
    }
    Ok(())
}

/// A pause only takes away, so it is not in the bound; a place that a change has moved holds the law to one tick, which
/// the bound allows for each of them. Where more than the burst may be owed, the largest demand counts in its place.
fn law_of_moved_places(grants: &mut [(u64, u64)], burst: u64, pieces: &[Piece]) -> Result<(), TestCaseError> {
    grants.sort_unstable();
    let steepest = pieces.iter().map(|piece| piece.rate).max().unwrap_or(0);
    for (i, &(from, _)) in grants.iter().enumerate() {
        let (mut tokens, mut most) = (0u128, burst);
        for &(to, n) in &grants[i..] {
            tokens += u128::from(n);
            most = most.max(n);
            let bound = u128::from(most) * TOKEN + allowed(pieces, from, to) + u128::from(steepest);
            prop_assert!(tokens * TOKEN <= bound, "{tokens} tokens in [{from}, {to}], allowed {bound}");
        }
    }
    Ok(())
}

fn stamp(t: Timestamp) -> u64 {
    t.as_nanos()
}

#[derive(Debug, Clone)]
enum Step {
    /// Nanoseconds forward.
    Idle(u64),
    /// A reading this much older than the present, for the next takes.
    Stale(u64),
    Take(u64),
    /// Polled at the very tick it is told to wait for, and one before.
    TakeWhenReady(u64),
    Reserve(u64),
    CancelLast,
    WaitFirst,
    SetRate(u64),
    SetBurst(u64),
    SetBoth(u64, u64),
    Pause(u64),
    /// Brings all places up to date.
    Look,
    Resume,
}

impl Step {
    fn may_lower_the_burst(&self) -> bool {
        matches!(self, Step::SetBurst(_) | Step::SetBoth(..))
    }
}

/// From a nanosecond to a hundred years, each size as likely as another.
fn idle() -> impl Strategy<Value = u64> {
    (0u32..62, any::<u64>()).prop_map(|(bits, v)| (v & ((2u64 << bits) - 1)).min(3_155_760_000_000_000_000))
}

/// From one to a hundred million a second.
fn rate() -> impl Strategy<Value = u64> {
    prop_oneof![1u64..50, 50u64..100_000, 100_000u64..100_000_000]
}

fn takes(burst: u64) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => idle().prop_map(Step::Idle),
        1 => idle().prop_map(Step::Stale),
        6 => (1..=burst).prop_map(Step::Take),
        4 => (1..=burst).prop_map(Step::TakeWhenReady),
    ];
    prop::collection::vec(step, 1..80)
}

fn everything(burst: u64) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(prop_oneof![4 => uses(burst), 1 => changes(burst), 1 => Just(Step::Look)], 1..80)
}

/// Demands of three bursts and less.
fn owing(burst: u64) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(
        prop_oneof![4 => uses(3 * burst), 1 => changes(burst), 1 => Just(Step::Look)],
        1..80,
    )
}

/// More changes than places can miss.
fn mostly_changes(burst: u64) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(prop_oneof![1 => uses(burst), 3 => changes(burst)], 40..160)
}

fn uses(burst: u64) -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..5_000_000_000).prop_map(Step::Idle),
        1 => idle().prop_map(Step::Idle),
        4 => (1..=burst).prop_map(Step::Take),
        3 => (1..=burst).prop_map(Step::TakeWhenReady),
        2 => (1..=burst).prop_map(Step::Reserve),
        2 => Just(Step::CancelLast),
        2 => Just(Step::WaitFirst),
    ]
}

fn changes(burst: u64) -> impl Strategy<Value = Step> {
    prop_oneof![
        rate().prop_map(Step::SetRate),
        (1..=burst).prop_map(Step::SetBurst),
        (rate(), 1..=burst).prop_map(|(rate, burst)| Step::SetBoth(rate, burst)),
        (1u64..10_000_000_000).prop_map(Step::Pause),
        Just(Step::Resume),
    ]
}

/// Runs the steps; the grants by stamp, and the rates that stood when.
fn run(
    rate: u64,
    burst: u64,
    owes: bool,
    steps: &[Step],
) -> Result<(Vec<(u64, u64)>, Vec<Piece>), TestCaseError> {
    let time = ManualClock::new();
    let limiter = RateLimiter::builder(Rate::per_second(rate))
        .burst(burst)
        .max_rate(Rate::per_second(100_000_000))
        .oversize(if owes { Oversize::Debt } else { Oversize::Reject })
        .clock(time.clock())
        .build()
        .unwrap();
    let mut present = Timestamp::ZERO;
    let mut grants = Vec::new();
    let mut pieces = vec![Piece { since: 0, rate }];
    let mut places: Vec<Reservation> = Vec::new();
    for step in steps {
        match *step {
            Step::Idle(nanos) => present = present + Duration::from_nanos(nanos),
            Step::Stale(by) => {
                time.set(Timestamp::from_nanos(stamp(present).saturating_sub(by)));
                if let Ok(grant) = limiter.try_acquire(1) {
                    grants.push((stamp(grant.start_at()), 1));
                }
            }
            Step::Take(n) => {
                let left = limiter.remaining();
                match limiter.try_acquire(n) {
                    Ok(grant) => {
                        prop_assert!(left >= n.min(limiter.burst()));
                        grants.push((stamp(grant.start_at()), n));
                    }
                    Err(denied) => {
                        prop_assert_eq!(denied.remaining, left);
                        prop_assert!(left < n.min(limiter.burst()) || denied.never_fits());
                        prop_assert!(!owes || !denied.never_fits());
                        prop_assert_eq!(limiter.remaining(), left);
                    }
                }
            }
            Step::TakeWhenReady(n) => {
                if let Err(denied) = limiter.try_acquire(n) {
                    if denied.ready_in < secs(86_400 * 365 * 100) {
                        present = present + (denied.ready_in - Duration::from_nanos(1));
                        time.set(present);
                        prop_assert!(limiter.try_acquire(n).is_err(), "ready before it was said to be");
                        present = present + Duration::from_nanos(1);
                        time.set(present);
                        let grant = limiter.try_acquire(n);
                        prop_assert!(grant.is_ok(), "not ready when it was said to be: {grant:?}");
                        grants.push((stamp(present), n));
                    }
                } else {
                    grants.push((stamp(time.now()), n));
                }
            }
            Step::Reserve(n) => places.extend(limiter.reserve(n).ok()),
            Step::CancelLast => drop(places.pop()),
            Step::WaitFirst => {
                if !places.is_empty() {
                    let place = places.remove(0);
                    if place.start_at() < Timestamp::from_nanos(1 << 62) {
                        present = present.max(place.start_at());
                        time.set(present);
                        let n = place.n();
                        if let Ok(grant) = place.wait() {
                            grants.push((stamp(grant.start_at()), n));
                        }
                    }
                }
            }
            Step::SetRate(rate) => {
                limiter.set_rate(Rate::per_second(rate)).unwrap();
                pieces.push(Piece { since: stamp(present), rate });
            }
            Step::SetBurst(burst) => limiter.set_burst(burst).unwrap(),
            Step::SetBoth(rate, burst) => {
                limiter.set_rate(Rate::per_second(rate).burst(burst)).unwrap();
                pieces.push(Piece { since: stamp(present), rate });
            }
            Step::Pause(nanos) => limiter.pause_until(Duration::from_nanos(nanos)),
            Step::Resume => limiter.resume(),
            Step::Look => places.iter().for_each(|place| {
                place.start_at();
            }),
        }
        time.set(present);
    }
    // Whoever waits still, has its time, too.
    time.set(Timestamp::from_nanos(1 << 62).max(present + secs(1_000_000)));
    for place in places {
        let n = place.n();
        // Only a burst that fell takes a place away.
        prop_assert!(
            place.start_at() <= time.now() || !owes && steps.iter().any(|step| step.may_lower_the_burst())
        );
        if place.start_at() <= time.now()
            && let Ok(grant) = place.wait()
        {
            grants.push((stamp(grant.start_at()), n));
        }
    }
    Ok((grants, pieces))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Exactly, with stale readings and clocks that step back.
    #[test]
    fn no_window_holds_more_than_its_share(
        rate in rate(), (burst, steps) in (1u64..20).prop_flat_map(|burst| (Just(burst), takes(burst))),
    ) {
        let (mut grants, pieces) = run(rate, burst, false, &steps)?;
        window_law(&mut grants, burst, &pieces)?;
    }

    /// With every change there is, whoever looks at a place when.
    #[test]
    fn changes_and_refunds_keep_the_law(
        rate in rate(), (burst, steps) in (1u64..20).prop_flat_map(|burst| (Just(burst), everything(burst))),
    ) {
        let (mut grants, pieces) = run(rate, burst, false, &steps)?;
        law_of_moved_places(&mut grants, burst, &pieces)?;
    }

    /// Also for places that nobody looks at while more changes are made than are remembered.
    #[test]
    fn forgotten_places_keep_the_law(
        rate in 1u64..50, (burst, steps) in (1u64..5).prop_flat_map(|burst| (Just(burst), mostly_changes(burst))),
    ) {
        let (mut grants, pieces) = run(rate, burst, false, &steps)?;
        law_of_moved_places(&mut grants, burst, &pieces)?;
    }

    /// The same where more than the burst may be owed.
    #[test]
    fn changes_and_refunds_keep_the_law_of_debts(
        rate in rate(), (burst, steps) in (1u64..8).prop_flat_map(|burst| (Just(burst), owing(burst))),
    ) {
        let (mut grants, pieces) = run(rate, burst, true, &steps)?;
        law_of_moved_places(&mut grants, burst, &pieces)?;
    }

    /// The same where several wait for more than the burst while the terms change.
    #[test]
    fn places_of_debtors_keep_the_law(
        rate in 1u64..10, burst in 1u64..5,
        steps in prop::collection::vec(prop_oneof![
            4 => (1u64..15).prop_map(Step::Reserve),
            2 => (1u64..2_000_000_000).prop_map(Step::Idle),
            1 => (1u64..10).prop_map(Step::SetRate),
            1 => (1u64..10_000_000_000).prop_map(Step::Pause),
        ], 1..30),
    ) {
        let (mut grants, pieces) = run(rate, burst, true, &steps)?;
        law_of_moved_places(&mut grants, burst, &pieces)?;
    }

    /// Where more than the burst may be owed: the burst or the largest demand of the window, and the rate.
    #[test]
    fn debts_are_paid_by_those_who_follow(
        rate in rate(), burst in 1u64..10, asks in prop::collection::vec((1u64..30, idle(), any::<bool>()), 1..60),
    ) {
        let time = ManualClock::new();
        let limiter = RateLimiter::builder(Rate::per_second(rate).burst(burst))
            .oversize(Oversize::Debt)
            .clock(time.clock())
            .build()
            .unwrap();
        let mut grants: Vec<(u64, u64)> = Vec::new();
        for (n, idle, ahead) in asks {
            time.advance(Duration::from_nanos(idle % 10_000_000_000));
            if ahead {
                let place = limiter.reserve(n).unwrap();
                grants.push((stamp(place.start_at()), n));
                std::mem::forget(place);
            } else if limiter.try_acquire(n).is_ok() {
                grants.push((stamp(time.now()), n));
            } else {
                let left = limiter.remaining();
                prop_assert!(left < n.min(burst), "{left} are there for {n}");
            }
        }
        grants.sort_unstable();
        for (i, &(from, _)) in grants.iter().enumerate() {
            let (mut tokens, mut largest) = (0u128, burst);
            for &(to, n) in &grants[i..] {
                tokens += u128::from(n);
                largest = largest.max(n);
                let bound = u128::from(largest) * TOKEN + u128::from(to - from) * u128::from(rate);
                prop_assert!(tokens * TOKEN <= bound, "{tokens} tokens in [{from}, {to}], allowed {bound}");
            }
        }
    }

    /// Reservations alone obey the exact law too, and follow one another.
    #[test]
    fn reservations_obey_the_exact_law(
        rate in rate(), burst in 1u64..20, asks in prop::collection::vec((1u64..20, idle()), 1..60),
    ) {
        let time = ManualClock::new();
        let limiter =
            RateLimiter::builder(Rate::per_second(rate)).burst(burst).clock(time.clock()).build().unwrap();
        let mut places = Vec::new();
        for (n, idle) in asks {
            // Short pauses, so that many wait.
            time.advance(Duration::from_nanos(idle % 1_000_000_000));
            places.extend(limiter.reserve(n.min(burst)).ok());
        }
        let starts: Vec<u64> = places.iter().map(|place| stamp(place.start_at())).collect();
        prop_assert!(starts.is_sorted());
        let mut grants: Vec<(u64, u64)> = places.iter().map(|p| (stamp(p.start_at()), p.n())).collect();
        window_law(&mut grants, burst, &[Piece { since: 0, rate }])?;
    }

    /// Whoever takes each token as soon as it is there gets 99.9 % of the rate and more, and with a burst above one
    /// all of it but the last token.
    #[test]
    fn a_busy_limiter_gives_what_the_rate_allows(rate in 1u64..500_000, burst in 1u64..5, odd in 0u64..1_000_000_000) {
        let time = ManualClock::new();
        time.advance(Duration::from_nanos(odd));
        let limiter =
            RateLimiter::builder(Rate::per_second(rate)).burst(burst).clock(time.clock()).build().unwrap();
        limiter.try_acquire(burst).unwrap();
        let begun = time.now();
        let grants = 2_000u128;
        for _ in 0..grants {
            let denied = limiter.try_acquire(1).unwrap_err();
            time.advance(denied.ready_in);
            limiter.try_acquire(1).unwrap();
        }
        let allowed = (time.now() - begun).as_nanos() * u128::from(rate);
        prop_assert!(grants * TOKEN <= allowed);
        if burst > 1 {
            prop_assert!((grants + 1) * TOKEN > allowed);
        } else {
            prop_assert!(grants * TOKEN * 1000 >= allowed * 999 - TOKEN * 1000);
        }
    }

    /// Taken back in reverse order, reservations leave no trace.
    #[test]
    fn cancelling_in_reverse_leaves_no_trace(
        rate in rate(), burst in 1u64..20, before in 0u64..20, asks in prop::collection::vec(1u64..20, 1..20),
        odd in 0u64..10_000_000_000,
    ) {
        let time = ManualClock::new();
        let limiter =
            RateLimiter::builder(Rate::per_second(rate)).burst(burst).clock(time.clock()).build().unwrap();
        let _ = limiter.try_acquire(before.min(burst));
        time.advance(Duration::from_nanos(odd));
        let left = limiter.remaining();
        let next = limiter.reserve(burst).unwrap();
        let first = next.start_at();
        next.cancel();
        let mut places: Vec<_> = asks.iter().map(|n| limiter.reserve((*n).min(burst)).unwrap()).collect();
        while let Some(place) = places.pop() {
            prop_assert_eq!(place.cancel(), batchyard::limit::Refund::Exact);
        }
        prop_assert_eq!(limiter.remaining(), left);
        prop_assert_eq!(limiter.reserve(burst).unwrap().start_at(), first);
    }
}
