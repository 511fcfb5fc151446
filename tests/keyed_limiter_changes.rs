//! `KeyedLimiter` while its rate, its burst and pauses change: each key beside a limiter of its own that is told the same,
//! the window law through changes with stale readings and sweeps, sleepers that are re-timed, and what is counted.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::limit::{Adaptive, KeyedLimiter, LimitError, Order, Oversize};
use batchyard::{Clock, Deadline, ManualClock, Rate, RateLimiter, Timestamp, millis, secs};
use proptest::prelude::*;
use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use support::within;

const TOKEN: u128 = 1_000_000_000;
const KEYS: u8 = 5;
const MOST: u64 = 50;

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    /// A take at a reading so much older than the present.
    Stale(u8, u64, u64),
    Take(u8, u64),
    /// With a deadline that far ahead: refused where it would have to wait.
    TakeBy(u8, u64),
    Sweep,
    /// At a reading so much older.
    StaleSweep(u64),
    SetRate(u64),
    SetBurst(u64),
    Pause(u64),
    Resume,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1u64..2_000_000_000).prop_map(Step::Pass),
        2 => (0..KEYS, 1u64..7, 1u64..2_000_000_000).prop_map(|(key, n, age)| Step::Stale(key, n, age)),
        8 => (0..KEYS, 0u64..9).prop_map(|(key, n)| Step::Take(key, n)),
        2 => (0..KEYS, 1u64..9).prop_map(|(key, n)| Step::TakeBy(key, n)),
        3 => Just(Step::Sweep),
        1 => (1u64..2_000_000_000).prop_map(Step::StaleSweep),
        2 => (1..=MOST).prop_map(Step::SetRate),
        1 => (1u64..7).prop_map(Step::SetBurst),
        1 => (1u64..3_000_000_000).prop_map(Step::Pause),
        1 => Just(Step::Resume),
    ];
    prop::collection::vec(step, 1..100)
}

/// All have the same hash, so they are in one shard, and all but one are twins.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Alike(u8);

impl Hash for Alike {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// What the rates (since when, which) allow over `[from, to]`, in billionths of a token.
fn allowed(rates: &[(u64, u64)], from: u64, to: u64) -> u128 {
    let ends = rates.iter().skip(1).map(|next| next.0).chain([u64::MAX]);
    let piece = |((since, rate), end): (&(u64, u64), u64)| {
        u128::from(to.min(end).saturating_sub(from.max(*since))) * u128::from(*rate)
    };
    rates.iter().zip(ends).map(piece).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Exactly, whatever is changed and swept when, counted or not, with debts or without.
    #[test]
    fn each_key_is_a_limiter_of_its_own(
        rate in 1..=MOST, burst in 1u64..6, debt: bool, counted: bool, steps in steps(),
    ) {
        let time = ManualClock::new();
        let builder = RateLimiter::builder(Rate::per_second(rate).burst(burst))
            .max_rate(Rate::per_second(MOST))
            .oversize(if debt { Oversize::Debt } else { Oversize::Reject })
            .clock(time.clock());
        let alone: Vec<RateLimiter> = (0..KEYS).map(|_| builder.clone().build().unwrap()).collect();
        let keyed = if counted { builder.counted() } else { builder }.build_keyed().unwrap();
        let (mut granted, mut units, mut denied) = (0, 0, 0);
        for step in steps {
            match step {
                Step::Pass(nanos) => time.advance(Duration::from_nanos(nanos)),
                Step::Stale(..) | Step::StaleSweep(_) => {}
                Step::Take(key, n) => {
                    let ours = keyed.try_acquire(&key, n);
                    prop_assert_eq!(&ours, &alone[usize::from(key)].try_acquire(n));
                    match ours {
                        _ if n == 0 => {}
                        Ok(_) => (granted, units) = (granted + 1, units + n),
                        Err(_) => denied += 1,
                    }
                }
                Step::TakeBy(key, n) => {
                    let ours = keyed.acquire_by(&key, n, Deadline::NOW);
                    prop_assert_eq!(&ours, &alone[usize::from(key)].acquire_by(n, Deadline::NOW));
                    (granted, units) = if ours.is_ok() { (granted + 1, units + n) } else { (granted, units) };
                }
                Step::Sweep => {
                    keyed.sweep_idle();
                }
                Step::SetRate(rate) => {
                    alone.iter().for_each(|limiter| limiter.set_rate(Rate::per_second(rate)).unwrap());
                    keyed.set_rate(Rate::per_second(rate)).unwrap();
                    prop_assert_eq!(keyed.rate(), alone[0].rate());
                }
                Step::SetBurst(burst) => {
                    alone.iter().for_each(|limiter| limiter.set_burst(burst).unwrap());
                    keyed.set_burst(burst).unwrap();
                    prop_assert_eq!(keyed.burst(), burst);
                }
                Step::Pause(nanos) => {
                    let until = Duration::from_nanos(nanos);
                    alone.iter().for_each(|limiter| limiter.pause_until(until));
                    keyed.pause_until(until);
                }
                Step::Resume => {
                    alone.iter().for_each(RateLimiter::resume);
                    keyed.resume();
                }
            }
            prop_assert_eq!(keyed.stats().paused_for, alone[0].stats().paused_for);
        }
        if let Some(counts) = keyed.stats().counts {
            prop_assert_eq!((counts.granted, counts.units, counts.denied), (granted, units, denied));
        }
        time.advance(secs(10_000));
        keyed.sweep_idle();
        prop_assert!(keyed.is_empty());
    }

    /// In every window at most the largest burst and what the rates allow that stood when, also by readings that are
    /// older than the last sweep, the last change, or both. All keys are in one shard.
    #[test]
    fn stale_readings_beside_changes_and_sweeps_keep_the_law(
        rate in 1..=MOST, burst in 1u64..6, steps in steps(),
    ) {
        let time = ManualClock::new();
        let keyed: KeyedLimiter<Alike> = RateLimiter::builder(Rate::per_second(rate).burst(burst))
            .max_rate(Rate::per_second(MOST))
            .clock(time.clock())
            .build_keyed()
            .unwrap();
        let (mut present, mut rates, mut largest) = (0u64, vec![(0u64, rate)], burst);
        let mut grants = Vec::new();
        for step in steps {
            time.set(Timestamp::from_nanos(present));
            match step {
                Step::Pass(nanos) => present += nanos,
                Step::Stale(key, n, age) => {
                    time.set(Timestamp::from_nanos(present.saturating_sub(age)));
                    if let Ok(grant) = keyed.try_acquire(&Alike(key), n) {
                        grants.push((key, grant.start_at().as_nanos(), n));
                    }
                }
                Step::Take(key, n) | Step::TakeBy(key, n) => {
                    if let Ok(grant) = keyed.try_acquire(&Alike(key), n) {
                        grants.push((key, grant.start_at().as_nanos(), n));
                    }
                }
                Step::StaleSweep(age) => {
                    time.set(Timestamp::from_nanos(present.saturating_sub(age)));
                    keyed.sweep_idle();
                }
                Step::Sweep => {
                    keyed.sweep_idle();
                }
                Step::SetRate(rate) => {
                    keyed.set_rate(Rate::per_second(rate)).unwrap();
                    rates.push((present, rate));
                }
                Step::SetBurst(burst) => {
                    keyed.set_burst(burst).unwrap();
                    largest = largest.max(burst);
                }
                Step::Pause(nanos) => keyed.pause_until(Duration::from_nanos(nanos)),
                Step::Resume => keyed.resume(),
            }
        }
        grants.sort_unstable();
        for (i, &(key, from, _)) in grants.iter().enumerate() {
            let mut tokens = 0u128;
            for &(_, to, n) in grants[i..].iter().take_while(|grant| grant.0 == key) {
                tokens += u128::from(n);
                let bound = u128::from(largest) * TOKEN + allowed(&rates, from, to);
                prop_assert!(tokens * TOKEN <= bound, "{tokens} of {key} in [{from}, {to}], allowed {bound}");
            }
        }
    }
}

/// Waits until somebody sleeps by the clock until then, and nobody until before.
fn await_deadline(time: &ManualClock, at: Duration) {
    while time.next_deadline() != Some(Timestamp::ZERO + at) {
        thread::yield_now();
    }
}

fn limiter(time: &ManualClock, rate: Rate) -> KeyedLimiter<&'static str> {
    let builder = RateLimiter::builder(rate).max_rate(Rate::per_second(100)).clock(time.clock());
    builder.counted().build_keyed().unwrap()
}

#[test]
fn who_sleeps_is_re_timed() {
    within(|| {
        let time = ManualClock::new();
        let keyed = limiter(&time, Rate::per_second(1));
        keyed.acquire(&"a", 1).unwrap();
        thread::scope(|s| {
            let waiter = s.spawn(|| keyed.acquire(&"a", 1).unwrap());
            await_deadline(&time, secs(1));
            keyed.set_rate(Rate::per_second(4)).unwrap();
            await_deadline(&time, millis(250));
            keyed.set_rate(Rate::per_second(2)).unwrap();
            await_deadline(&time, millis(500));
            keyed.pause_until(secs(10));
            await_deadline(&time, millis(10_500));
            keyed.pause_until(secs(5)); // a pause is not shortened by another
            assert_eq!(keyed.stats().paused_for, Some(secs(10)));
            time.advance(secs(3));
            keyed.resume();
            await_deadline(&time, millis(3_500));
            assert_eq!(keyed.try_acquire(&"new", 1).unwrap_err().ready_in, millis(500), "no bucket is full");
            let stats = keyed.stats();
            assert_eq!((stats.waiting, stats.oldest_waiter), (1, Some(secs(3))));
            time.advance(millis(500));
            let grant = waiter.join().unwrap();
            assert_eq!((grant.start_at(), grant.waited()), (Timestamp::ZERO + millis(3_500), millis(3_500)));
        });
        let stats = keyed.stats();
        assert_eq!((stats.keys, stats.waiting, stats.oldest_waiter), (1, 0, None));
        let counts = stats.counts.unwrap();
        assert_eq!((counts.granted, counts.units, counts.longest_queue), (2, 2, 1));
        assert_eq!((counts.waits.count, counts.waits.max), (1, millis(3_500)));
    });
}

/// Each key by itself, one by one, and keys that nobody has asked for yet as well.
#[test]
fn after_a_pause_each_key_goes_on_one_by_one_from_an_empty_bucket() {
    within(|| {
        let time = ManualClock::new();
        let keyed = limiter(&time, Rate::per_second(1).burst(3));
        keyed.acquire(&"a", 3).unwrap();
        thread::scope(|s| {
            let waiters: Vec<_> = ["a", "a", "b", "b"]
                .into_iter()
                .enumerate()
                .map(|(i, key)| {
                    if i == 2 {
                        keyed.pause_until(secs(30));
                    }
                    let keyed = &keyed;
                    let waiter = s.spawn(move || (key, keyed.acquire(&key, 1).unwrap().start_at()));
                    time.wait_for_sleepers(i + 1);
                    waiter
                })
                .collect();
            await_deadline(&time, secs(31));
            assert_eq!(keyed.try_acquire(&"new", 1).unwrap_err().ready_in, secs(31));
            time.advance(secs(30));
            assert!(keyed.try_acquire(&"new", 1).is_err(), "it comes from an empty bucket");
            keyed.sweep_idle();
            assert!(keyed.try_acquire(&"new", 1).is_err());
            time.advance(secs(2));
            let mut starts: Vec<_> = waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect();
            starts.sort_unstable();
            let at = |seconds| Timestamp::ZERO + secs(seconds);
            assert_eq!(starts, [("a", at(31)), ("a", at(32)), ("b", at(31)), ("b", at(32))]);
        });
        assert!(keyed.try_acquire(&"new", 3).is_err() && keyed.try_acquire(&"new", 2).is_ok());
    });
}

#[test]
fn who_is_moved_behind_its_deadline_gives_its_place_back_if_it_is_the_last() {
    within(|| {
        let time = ManualClock::new();
        let keyed = limiter(&time, Rate::per_second(1));
        keyed.acquire(&"a", 1).unwrap();
        thread::scope(|s| {
            let last = s.spawn(|| keyed.acquire_by(&"a", 1, secs(2)));
            await_deadline(&time, secs(1));
            keyed.set_rate(Rate::per_second_f64(0.25)).unwrap();
            assert_eq!(last.join().unwrap(), Err(LimitError::WouldMissDeadline { ready_in: secs(4) }));
        });
        assert_eq!(keyed.try_acquire(&"a", 1).unwrap_err().ready_in, secs(4), "as if it had never asked");
        keyed.set_rate(Rate::per_second(1)).unwrap();
        thread::scope(|s| {
            let middle = s.spawn(|| keyed.acquire_by(&"a", 1, secs(2)));
            await_deadline(&time, secs(1));
            let last = s.spawn(|| keyed.acquire(&"a", 1).unwrap().start_at());
            time.wait_for_sleepers(2);
            keyed.pause_until(secs(7));
            assert_eq!(middle.join().unwrap(), Err(LimitError::WouldMissDeadline { ready_in: secs(8) }));
            await_deadline(&time, secs(9)); // its place is lost
            time.advance(secs(9));
            assert_eq!(last.join().unwrap(), Timestamp::ZERO + secs(9));
        });
        let counts = keyed.stats().counts.unwrap();
        assert_eq!((counts.granted, counts.timed_out, counts.denied), (2, 2, 1));
        assert_eq!((counts.refunded, counts.dropped), (1, 1));
    });
}

#[test]
fn who_asks_for_more_than_a_lowered_burst_hears_it() {
    within(|| {
        let time = ManualClock::new();
        let keyed = limiter(&time, Rate::per_second(1).burst(3));
        keyed.acquire(&"a", 3).unwrap();
        thread::scope(|s| {
            let waiter = s.spawn(|| keyed.acquire(&"a", 3));
            await_deadline(&time, secs(3));
            keyed.set_burst(2).unwrap();
            assert_eq!(waiter.join().unwrap(), Err(LimitError::NeverFits { asked: 3, burst: 2 }));
        });
        assert_eq!(keyed.stats().counts.unwrap().refused, 1);
        assert_eq!(
            keyed.try_acquire(&"a", 2).unwrap_err().ready_in,
            secs(3),
            "its place went back; a smaller burst is emptier"
        );
        assert!(keyed.try_acquire(&"a", 3).unwrap_err().never_fits());
    });
}

#[test]
fn zero_is_neither_counted_nor_refused() {
    let time = ManualClock::new();
    let keyed = limiter(&time, Rate::per_second(1));
    keyed.pause_until(Deadline::NEVER);
    assert!(keyed.try_acquire(&"a", 0).is_ok() && keyed.acquire(&"a", 0).is_ok());
    assert_eq!(keyed.stats().counts.unwrap().granted, 0);
    assert!(keyed.is_empty());
    assert_eq!(keyed.acquire(&"a", 1), Err(LimitError::WouldMissDeadline { ready_in: Duration::MAX }));
}

/// Takers beside changes: what the higher rate allows is never exceeded, and a decision is by one rate or the other.
#[test]
fn threads_take_beside_changes() {
    let rates = [500, 2_000].map(Rate::per_second);
    let keyed = RateLimiter::builder(rates[0].burst(4)).clock(Clock::os()).build_keyed().unwrap();
    let over = AtomicBool::new(false);
    let grants: Vec<(u8, u64)> = thread::scope(|s| {
        let takers: Vec<_> = (0..3)
            .map(|_| {
                s.spawn(|| {
                    let stamp = |key: u8| Some((key, keyed.try_acquire(&key, 1).ok()?.start_at().as_nanos()));
                    let grants = (0..40_000u32).filter_map(|i| stamp((i % 3) as u8)).collect::<Vec<_>>();
                    over.store(true, Ordering::Relaxed);
                    grants
                })
            })
            .collect();
        while !over.load(Ordering::Relaxed) {
            rates.iter().for_each(|rate| keyed.set_rate(*rate).unwrap());
            keyed.sweep_idle();
        }
        takers.into_iter().flat_map(|taker| taker.join().unwrap()).collect()
    });
    for key in 0..3 {
        let mut stamps: Vec<u64> =
            grants.iter().filter(|grant| grant.0 == key).map(|grant| grant.1).collect();
        stamps.sort_unstable();
        assert!(stamps.len() >= 4);
        for (i, from) in stamps.iter().enumerate() {
            for (j, to) in stamps.iter().enumerate().skip(i).take(50) {
                let bound = 4 * TOKEN + u128::from(to - from) * 2_000;
                assert!((j - i + 1) as u128 * TOKEN <= bound, "{} in {} ns", j - i + 1, to - from);
            }
        }
    }
}

#[test]
fn what_it_does_not_do_is_refused_by_name() {
    let field = |built: Result<KeyedLimiter<u8>, LimitError>| match built {
        Err(LimitError::Invalid(invalid)) => invalid.field,
        other => panic!("{other:?}"),
    };
    let builder = || RateLimiter::builder(Rate::per_second(1)).clock(Clock::os());
    assert_eq!(field(builder().order(Order::Priority).build_keyed()), "order");
    let learning = Adaptive::between(Rate::per_second(1), Rate::per_second(2));
    assert_eq!(field(builder().adaptive(learning).build_keyed()), "adaptive");
    assert_eq!(field(builder().max_rate(Rate::per_hour(1)).build_keyed()), "max_rate");
    let keyed: KeyedLimiter<u8> = builder().build_keyed().unwrap();
    for (refused, named) in [
        (keyed.set_rate(Rate::per_second(0)), "rate"),
        (keyed.set_rate(Rate::per_second(5)), "rate"),
        (keyed.set_rate(Rate::per_second(1).burst(0)), "burst"),
        (keyed.set_burst(0), "burst"),
        (keyed.set_burst(u64::MAX), "burst"),
    ] {
        assert!(matches!(refused, Err(LimitError::Invalid(invalid)) if invalid.field == named));
    }
    assert_eq!((keyed.rate(), keyed.burst()), (Rate::per_second(1).burst(1), 1));
    assert!(keyed.try_acquire(&1, 1).is_ok() && keyed.try_acquire(&1, 1).is_err());
}

/// A key that uses its limiter whenever the limiter uses it, but for comparing.
#[derive(Debug, PartialEq, Eq)]
struct Nosy(u64);

static WATCHED: OnceLock<KeyedLimiter<Nosy>> = OnceLock::new();

impl Nosy {
    fn look(&self) {
        if let Some(limiter) = WATCHED.get() {
            limiter.len();
        }
    }
}

impl Hash for Nosy {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.look();
        state.write_u64(self.0 / 3); // some have a twin
    }
}

impl Clone for Nosy {
    fn clone(&self) -> Self {
        self.look();
        Nosy(self.0)
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        self.look();
    }
}

#[test]
fn a_key_may_use_its_limiter() {
    within(|| {
        let time = ManualClock::new();
        let limiter =
            WATCHED.get_or_init(|| KeyedLimiter::with_clock(Rate::per_second(1), time.clock()).unwrap());
        // Enough for a shard to be swept while a key comes.
        for round in 0..3 {
            (0..6_000).for_each(|key| limiter.try_acquire(&Nosy(10_000 * round + key), 1).map(drop).unwrap());
            time.advance(secs(1));
        }
        assert!(limiter.len() < 18_000);
        limiter.sweep_idle();
        assert!(limiter.is_empty());
    });
}

thread_local!(static SICK: Cell<bool> = const { Cell::new(false) });

/// A key that cannot be compared for a time.
#[derive(Debug, Clone)]
struct Sick(u32);

impl Hash for Sick {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl PartialEq for Sick {
    fn eq(&self, other: &Self) -> bool {
        assert!(!SICK.get(), "it is sick");
        self.0 == other.0
    }
}

impl Eq for Sick {}

#[test]
fn a_key_that_panics_takes_no_token_and_leaves_the_limiter_whole() {
    let keyed = KeyedLimiter::with_clock(Rate::per_hour(1).burst(2), Clock::os()).unwrap();
    keyed.try_acquire(&Sick(1), 1).unwrap();
    SICK.set(true);
    assert!(catch_unwind(AssertUnwindSafe(|| keyed.try_acquire(&Sick(1), 1).is_ok())).is_err());
    SICK.set(false);
    keyed.try_acquire(&Sick(1), 1).unwrap();
    assert!(keyed.try_acquire(&Sick(1), 1).is_err());
    assert_eq!(keyed.len(), 1);
}
