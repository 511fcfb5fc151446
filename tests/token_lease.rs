//! `RateLimiter::lease`: the bound with a coarse clock, and what is given back.

use batchyard::limit::{LimitError, Order};
use batchyard::{ManualClock, Rate, RateLimiter, Ticker, Timestamp, millis, secs};
use proptest::prelude::*;
use std::time::Duration;

fn manual(rate: Rate) -> (ManualClock, RateLimiter, Ticker) {
    let time = ManualClock::new();
    let limiter =
        RateLimiter::builder(rate).max_rate(Rate::per_second(1000)).clock(time.clock()).build().unwrap();
    let ticker = Ticker::new(&time.clock());
    (time, limiter, ticker)
}

/// What the rates allow over `[from, to]` and another `tick` at the highest that stood near it, in billionths.
fn allowed(rates: &[(u64, u64)], from: u64, to: u64, tick: u64) -> u128 {
    let ends: Vec<u64> = rates.iter().skip(1).map(|next| next.0).chain([u64::MAX]).collect();
    let over = |from: u64, to: u64| -> u128 {
        let pieces = rates.iter().zip(&ends);
        pieces
            .map(|((since, rate), end)| {
                u128::from(to.min(*end).saturating_sub(from.max(*since))) * u128::from(*rate)
            })
            .sum()
    };
    let near = rates
        .iter()
        .zip(&ends)
        .filter(|((since, _), end)| *since <= to && **end >= from.saturating_sub(tick));
    let steepest = near.map(|((_, rate), _)| *rate).max().unwrap_or(0);
    over(from, to) + u128::from(tick) * u128::from(steepest) + u128::from(steepest)
}

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Tick,
    Spend(usize, u64),
    Direct(u64),
    Renew(usize),
    SetRate(u64),
    SetBurst(u64),
    SetBoth(u64, u64),
    Pause(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1u64..500_000_000).prop_map(Step::Pass),
        3 => Just(Step::Tick),
        9 => (0usize..3, 1u64..5).prop_map(|(lease, n)| Step::Spend(lease, n)),
        1 => (1u64..3).prop_map(Step::Direct),
        1 => (0usize..3).prop_map(Step::Renew),
        1 => (1u64..60).prop_map(Step::SetRate),
        1 => (1u64..12).prop_map(Step::SetBurst),
        1 => (1u64..60, 1u64..12).prop_map(|(rate, burst)| Step::SetBoth(rate, burst)),
        1 => (1u64..2_000_000_000).prop_map(Step::Pause),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    /// Three leases and a direct user: `burst + rate · (t + tick)` by the true time, the highest burst and what the rates
    /// allowed that stood, whatever is changed.
    #[test]
    fn leases_keep_their_bound(
        rate in 1u64..60, burst in 1u64..12, k in 1u64..12, changes: bool, steps in steps(),
    ) {
        let (time, limiter, ticker) = manual(Rate::per_second(rate).burst(burst));
        let k = |limiter: &RateLimiter| k.min(limiter.burst());
        let (mut rates, mut bursts) = (vec![(0, rate)], burst);
        let mut leases: Vec<_> = (0..3).map(|_| limiter.lease(k(&limiter), &ticker).unwrap()).collect();
        let (mut ticked, mut longest) = (0, 0);
        let mut grants: Vec<(u64, u64)> = Vec::new();
        for step in steps {
            let now = time.now().as_nanos();
            match step {
                Step::Pass(nanos) => time.advance(Duration::from_nanos(nanos)),
                Step::Tick => {
                    longest = longest.max(now - ticked);
                    ticked = now;
                    ticker.tick();
                }
                Step::Spend(lease, n) => {
                    let before = leases[lease].stock();
                    match leases[lease].try_acquire(n) {
                        Ok(()) => grants.push((now, n)),
                        Err(denied) => {
                            prop_assert!(!denied.never_fits() || n > limiter.burst());
                            prop_assert!(leases[lease].stock() <= before);
                        }
                    }
                }
                Step::Direct(n) => {
                    if limiter.try_acquire(n).is_ok() {
                        grants.push((now, n));
                    }
                }
                Step::Renew(lease) => leases[lease] = limiter.lease(k(&limiter), &ticker).unwrap(),
                _ if !changes => {}
                Step::SetRate(rate) => {
                    limiter.set_rate(Rate::per_second(rate)).unwrap();
                    rates.push((now, rate));
                }
                Step::SetBurst(burst) => {
                    limiter.set_burst(burst).unwrap();
                    bursts = bursts.max(burst);
                }
                Step::SetBoth(rate, burst) => {
                    limiter.set_rate(Rate::per_second(rate).burst(burst)).unwrap();
                    rates.push((now, rate));
                    bursts = bursts.max(burst);
                }
                Step::Pause(nanos) => limiter.pause_until(Duration::from_nanos(nanos)),
            }
        }
        longest = longest.max(time.now().as_nanos() - ticked);
        // At last the bucket has had the time to fill up beside every stock, and all is spent that there is.
        time.advance(secs(100));
        ticker.tick();
        let now = time.now().as_nanos();
        for lease in &mut leases {
            while lease.try_acquire(1).is_ok() {
                grants.push((now, 1));
            }
        }
        while limiter.try_acquire(1).is_ok() {
            grants.push((now, 1));
        }
        for (i, &(from, _)) in grants.iter().enumerate() {
            let mut tokens = 0u128;
            for &(to, n) in &grants[i..] {
                tokens += u128::from(n);
                let bound = u128::from(bursts) * 1_000_000_000 + allowed(&rates, from, to, longest);
                prop_assert!(tokens * 1_000_000_000 <= bound, "{tokens} in [{from}, {to}], tick {longest}");
            }
        }
    }

    /// What a denial says comes true if nobody comes in between.
    #[test]
    fn a_denied_lease_is_ready_when_it_is_told(
        rate in 1u64..60, burst in 1u64..12, k in 1u64..12, steps in steps(), n in 1u64..13,
    ) {
        let (time, limiter, ticker) = manual(Rate::per_second(rate).burst(burst));
        let mut lease = limiter.lease(k.min(burst), &ticker).unwrap();
        for step in steps {
            match step {
                Step::Pass(nanos) => time.advance(Duration::from_nanos(nanos)),
                Step::Tick => ticker.tick(),
                Step::Spend(0 | 1, n) => drop(lease.try_acquire(n)),
                Step::Direct(n) => drop(limiter.try_acquire(n)),
                _ => {}
            }
        }
        ticker.tick();
        let Err(denied) = lease.try_acquire(n) else { return Ok(()) };
        prop_assert_eq!(denied.remaining, lease.stock() + limiter.remaining());
        prop_assert_eq!(denied.never_fits(), n > burst);
        if n <= burst {
            time.advance(denied.ready_in);
            ticker.tick();
            prop_assert!(lease.try_acquire(n).is_ok(), "not ready after {:?}", denied.ready_in);
        }
    }

    /// A lease alone gets all that there is: the burst, then the rate.
    #[test]
    fn a_lease_alone_loses_nothing(rate in 1u64..1000, burst in 2u64..50, k in 1u64..50) {
        let (time, limiter, ticker) = manual(Rate::per_second(rate).burst(burst));
        let mut lease = limiter.lease(k.min(burst), &ticker).unwrap();
        let mut spent = 0;
        for _ in 0..20 {
            while lease.try_acquire(1).is_ok() {
                spent += 1;
            }
            // Less than the burst fills up in it.
            time.advance(Duration::from_nanos((burst - 1) * 1_000_000_000 / rate));
            ticker.tick();
        }
        let allowed = burst + (19 * ((burst - 1) * 1_000_000_000 / rate)) * rate / 1_000_000_000;
        prop_assert!(spent <= allowed && spent + 20 >= allowed, "{spent} of {allowed}");
    }
}

#[test]
fn what_is_left_comes_back_if_it_is_the_last() {
    let (_, limiter, ticker) = manual(Rate::per_second(1).burst(10));
    let mut lease = limiter.lease(8, &ticker).unwrap();
    lease.try_acquire(3).unwrap();
    assert_eq!((lease.stock(), limiter.remaining()), (5, 2));
    drop(lease);
    assert_eq!(limiter.remaining(), 7);
    let mut lease = limiter.lease(4, &ticker).unwrap();
    lease.try_acquire(1).unwrap();
    limiter.try_acquire(1).unwrap();
    drop(lease); // somebody has taken since: what it had is lost
    assert_eq!(limiter.remaining(), 2);
}

#[test]
fn the_old_stock_goes_first_and_a_smaller_one_is_taken_when_there_is_no_more() {
    let (_, limiter, ticker) = manual(Rate::per_second(1).burst(10));
    let mut lease = limiter.lease(6, &ticker).unwrap();
    lease.try_acquire(4).unwrap();
    lease.try_acquire(3).unwrap(); // two of the stock, and one of the four that are left
    assert_eq!((lease.stock(), limiter.remaining()), (3, 0));
    lease.try_acquire(3).unwrap();
    let denied = lease.try_acquire(2).unwrap_err();
    assert_eq!((denied.ready_in, denied.remaining), (secs(2), 0));
    assert!(lease.try_acquire(11).unwrap_err().never_fits());
    lease.try_acquire(0).unwrap();
}

#[test]
fn a_pause_reaches_a_lease_at_the_next_tick() {
    let (time, limiter, ticker) = manual(Rate::per_second(1).burst(10));
    let mut lease = limiter.lease(6, &ticker).unwrap();
    lease.try_acquire(1).unwrap();
    limiter.pause_until(secs(60));
    time.advance(millis(1));
    ticker.tick();
    assert_eq!(lease.try_acquire(1).unwrap_err().ready_in, Timestamp::ZERO + secs(61) - time.now());
    assert_eq!(lease.stock(), 0);
}

#[test]
fn a_denial_counts_the_stock() {
    let (time, limiter, ticker) = manual(Rate::per_second(1).burst(10));
    let mut lease = limiter.lease(6, &ticker).unwrap();
    lease.try_acquire(3).unwrap();
    limiter.try_acquire(3).unwrap();
    let denied = lease.try_acquire(6).unwrap_err();
    assert_eq!((denied.remaining, denied.ready_in), (4, secs(2)));
    assert!(lease.try_acquire(11).unwrap_err().never_fits());
    time.advance(secs(2));
    ticker.tick();
    lease.try_acquire(6).unwrap();
}

#[test]
fn bad_leases_name_their_field() {
    let (time, limiter, ticker) = manual(Rate::per_second(1).burst(3));
    let field = |made: Result<_, LimitError>| match made.err() {
        Some(LimitError::Invalid(invalid)) => invalid.field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(limiter.lease(0, &ticker).map(drop)), "k");
    assert_eq!(field(limiter.lease(4, &ticker).map(drop)), "k");
    let other = Ticker::new(&ManualClock::new().clock());
    assert_eq!(field(limiter.lease(1, &other).map(drop)), "ticker");
    let ordered =
        RateLimiter::builder(Rate::per_second(1)).order(Order::Priority).clock(time.clock()).build().unwrap();
    assert_eq!(field(ordered.lease(1, &ticker).map(drop)), "order");
}
