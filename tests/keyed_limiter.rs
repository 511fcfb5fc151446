//! `KeyedLimiter`: each key beside a limiter of its own, whatever is swept when.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

use batchyard::limit::{KeyedLimiter, LimitError};
use batchyard::{Clock, Deadline, ManualClock, Rate, RateLimiter, Timestamp, millis, secs};
use proptest::prelude::*;
use std::hash::{Hash, Hasher};
use std::thread;
use std::time::Duration;

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Back(u64),
    Take(u8, u64),
    Sweep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1u64..2_000_000_000).prop_map(Step::Pass),
        1 => (1u64..2_000_000_000).prop_map(Step::Back),
        6 => (0u8..5, 0u64..7).prop_map(|(key, n)| Step::Take(key, n)),
        2 => Just(Step::Sweep),
    ];
    prop::collection::vec(step, 1..100)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// While time goes forward, entries that are swept leave no trace: each key answers as a limiter of its own does.
    #[test]
    fn each_key_is_a_limiter_of_its_own(rate in 1u64..50, burst in 1u64..6, steps in steps()) {
        let time = ManualClock::new();
        let rate = Rate::per_second(rate).burst(burst);
        let keyed = KeyedLimiter::with_clock(rate, time.clock()).unwrap();
        let own = || RateLimiter::builder(rate).clock(time.clock()).build().unwrap();
        let alone: Vec<RateLimiter> = (0..5).map(|_| own()).collect();
        for step in steps {
            match step {
                Step::Pass(nanos) => time.advance(Duration::from_nanos(nanos)),
                Step::Back(_) => {}
                Step::Take(key, n) => {
                    let (ours, theirs) = (keyed.try_acquire(&key, n), alone[usize::from(key)].try_acquire(n));
                    prop_assert_eq!(ours.is_ok(), theirs.is_ok());
                    if let (Err(ours), Err(theirs)) = (ours, theirs) {
                        prop_assert_eq!(ours, theirs);
                    }
                }
                Step::Sweep => {
                    let before = keyed.len();
                    let swept = keyed.sweep_idle();
                    prop_assert_eq!(keyed.len(), before - swept);
                    let used = alone.iter().filter(|limiter| limiter.remaining() < burst).count();
                    prop_assert!(keyed.len() >= used, "a bucket that is not full was dropped");
                }
            }
        }
        time.advance(secs(100));
        keyed.sweep_idle();
        prop_assert!(keyed.is_empty());
    }

    /// Readings that are older than the last sweep keep the law: what was swept is not full for them.
    #[test]
    fn sweeping_beside_stale_readings_keeps_the_law(rate in 1u64..50, burst in 1u64..6, steps in steps()) {
        let time = ManualClock::new();
        let keyed = KeyedLimiter::with_clock(Rate::per_second(rate).burst(burst), time.clock()).unwrap();
        let (mut present, mut grants) = (0u64, Vec::new());
        for step in steps {
            match step {
                Step::Pass(nanos) => present += nanos,
                Step::Back(nanos) => time.set(Timestamp::from_nanos(present.saturating_sub(nanos))),
                Step::Take(_, n) => {
                    if let Ok(grant) = keyed.try_acquire(&0, n) {
                        grants.push((grant.start_at().as_nanos(), n));
                    }
                    time.set(Timestamp::from_nanos(present));
                }
                Step::Sweep => {
                    time.set(Timestamp::from_nanos(present));
                    keyed.sweep_idle();
                }
            }
        }
        grants.sort_unstable();
        for (i, &(from, _)) in grants.iter().enumerate() {
            let mut tokens = 0u128;
            for &(to, n) in &grants[i..] {
                tokens += u128::from(n);
                let bound = u128::from(burst) * 1_000_000_000 + u128::from(to - from) * u128::from(rate);
                prop_assert!(tokens * 1_000_000_000 <= bound, "{tokens} in [{from}, {to}]");
            }
        }
    }
}

#[test]
fn idle_keys_are_dropped_as_others_come() {
    let time = ManualClock::new();
    let keyed = KeyedLimiter::with_clock(Rate::per_second(1), time.clock()).unwrap();
    for round in 0..50u64 {
        for key in 0..1_000 {
            keyed.try_acquire(&(round * 1_000 + key), 1).unwrap();
        }
        time.advance(secs(1));
    }
    // 50,000 keys came; those of about two rounds are left, and what a shard is allowed before it is swept.
    assert!(keyed.len() < 10_000, "{}", keyed.len());
    keyed.sweep_idle();
    assert_eq!(keyed.len(), 0);
}

/// A key whose `Hash` says nothing: all have the same.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Alike(u32);

impl Hash for Alike {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

#[test]
fn keys_of_one_hash_have_buckets_of_their_own() {
    let time = ManualClock::new();
    let keyed = KeyedLimiter::with_clock(Rate::per_second(1).burst(2), time.clock()).unwrap();
    for key in [1, 2, 3] {
        keyed.try_acquire(&Alike(key), 1).unwrap();
    }
    keyed.try_acquire(&Alike(2), 1).unwrap();
    assert_eq!(keyed.len(), 3);
    assert!(keyed.try_acquire(&Alike(2), 1).is_err());
    time.advance(secs(1));
    // The first of them goes; a new one takes its place, and the second is still what it was.
    assert_eq!((keyed.sweep_idle(), keyed.len()), (2, 1));
    keyed.try_acquire(&Alike(4), 2).unwrap();
    assert_eq!(keyed.try_acquire(&Alike(2), 2).unwrap_err().remaining, 1);
    assert!(keyed.try_acquire(&Alike(4), 1).is_err());
    time.advance(secs(2));
    assert_eq!((keyed.sweep_idle(), keyed.len()), (2, 0));
}

#[test]
fn a_refusal_makes_no_entry() {
    let time = ManualClock::new();
    let keyed = KeyedLimiter::with_clock(Rate::per_second(1).burst(2), time.clock()).unwrap();
    assert!(keyed.try_acquire(&"x", 3).unwrap_err().never_fits());
    assert_eq!(keyed.acquire(&"x", 3), Err(LimitError::NeverFits { asked: 3, burst: 2 }));
    assert!(keyed.is_empty());
}

#[test]
fn who_waits_for_a_key_comes_in_order() {
    let time = ManualClock::new();
    let keyed = KeyedLimiter::with_clock(Rate::per_second(1), time.clock()).unwrap();
    keyed.try_acquire(&"a", 1).unwrap();
    assert_eq!(
        keyed.acquire_by(&"a", 1, millis(999)),
        Err(LimitError::WouldMissDeadline { ready_in: secs(1) })
    );
    thread::scope(|s| {
        let waiters: Vec<_> =
            (0..3).map(|_| s.spawn(|| keyed.acquire(&"a", 1).unwrap().start_at())).collect();
        time.wait_for_sleepers(3);
        assert!(keyed.try_acquire(&"a", 1).is_err());
        assert!(keyed.acquire_by(&"b", 1, Deadline::NOW).is_ok(), "another key is another bucket");
        for second in 1..=3 {
            time.set(Timestamp::ZERO + secs(second));
        }
        let mut starts: Vec<_> = waiters.into_iter().map(|w| w.join().unwrap()).collect();
        starts.sort();
        assert_eq!(starts, [1, 2, 3].map(|second| Timestamp::ZERO + secs(second)));
    });
}

#[test]
fn threads_share_the_buckets() {
    let keyed = KeyedLimiter::with_clock(Rate::per_hour(1).burst(100), Clock::os()).unwrap();
    let granted: usize = thread::scope(|s| {
        let taken: Vec<_> = (0..4)
            .map(|_| s.spawn(|| (0..40_000u64).filter(|k| keyed.try_acquire(&(k % 100), 1).is_ok()).count()))
            .collect();
        taken.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(granted, 100 * 100);
    assert_eq!(keyed.len(), 100);
}

#[test]
fn bad_rates_name_their_field() {
    for (rate, field) in [
        (Rate::per_second(0), "rate"),
        (Rate::per_second_f64(f64::NAN), "rate"),
        (Rate::per_second_f64(-1.0), "rate"),
        (Rate::per_second_f64(f64::INFINITY), "rate"),
        (Rate::per_second(1).burst(0), "burst"),
    ] {
        let wrong = KeyedLimiter::<u8>::with_clock(rate, Clock::os()).unwrap_err();
        assert!(matches!(wrong, LimitError::Invalid(invalid) if invalid.field == field));
    }
}
