//! Locks under many threads in a hurry: at the end every word is at rest.
//!
//! `BATCHYARD_SEED` repeats a run, as far as threads let it.

// What a user of the crate holds; the house rules on clocks and threads are for `src/`.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

mod support;

use batchyard::lock::{Cancel, LockWait, RwLock, UpgradableGuard};
use batchyard::{Priority, Timestamp};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use support::{Rng, within};

const ROUNDS: u64 = 10;
const UPGRADES: u64 = 100_000;
const THREADS: u64 = 4;
const LOCKS: usize = 2;

/// What became of the upgrades that one thread asked for, and how often it wrote to each lock.
#[derive(Default)]
struct Turns {
    upgraded: u64,
    gave_up: u64,
    wrote: [u64; LOCKS],
}

/// How a thread in a hurry asks: until a few microseconds from now, or, now and then, until another thread ends it.
fn hurry(random: &mut Rng, cancel: &Cancel) -> LockWait {
    let classes = [Priority::Low, Priority::Normal, Priority::High, Priority::Critical];
    let wait = LockWait::new().priority(classes[random.below(4) as usize]);
    match random.below(16) {
        0 => wait.by(Duration::from_millis(5)).cancel(cancel),
        1 => wait.by(Timestamp::ZERO),
        2..8 => wait.by(Duration::from_nanos(random.below(20_000))),
        _ => wait.by(Duration::from_nanos(random.below(2_000))),
    }
}

/// An upgrade, and what may be done with it.
fn upgrade(look: UpgradableGuard<'_, u64>, random: &mut Rng, cancel: &Cancel) -> Option<u64> {
    let before = *look;
    match look.upgrade_with(&hurry(random, cancel)) {
        Ok(mut value) => {
            assert_eq!(*value, before, "somebody came in between");
            *value += 1;
            match random.below(4) {
                0 => assert_eq!(*value.downgrade(), before + 1),
                1 => {
                    let look = value.downgrade_to_upgradable();
                    assert_eq!(*look, before + 1);
                    return Some(
                        1 + look.try_upgrade().map_or(0, |mut value| {
                            *value += 1;
                            1
                        }),
                    );
                }
                _ => {}
            }
            Some(1)
        }
        Err(error) => {
            assert_eq!(*error.guard, before, "who gave up holds it as before");
            None
        }
    }
}

/// Ten rounds of upgrades that are to be had within a few microseconds, while others read, write, wait and hold another lock.
#[test]
fn nothing_is_left_of_a_million_upgrades_in_a_hurry() {
    let first = std::env::var("BATCHYARD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    (first..first + ROUNDS).for_each(|seed| within(move || round(seed)));
}

fn round(seed: u64) {
    let locks: [RwLock<u64>; LOCKS] = Default::default();
    let asked = AtomicU64::new(0);
    let cancels: Vec<Cancel> = (0..THREADS).map(|_| Cancel::new()).collect();
    let turns = |me: u64| {
        let mut random = Rng::new((seed * THREADS + me).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut turns = Turns::default();
        while asked.load(Ordering::Relaxed) < UPGRADES {
            let at = random.below(LOCKS as u64) as usize;
            let cancel = Cancel::new();
            let cancel = if random.one_in(64) { &cancels[me as usize] } else { &cancel };
            match random.below(8) {
                0 => {
                    if let Ok(held) = locks[at].read_with(&hurry(&mut random, cancel)) {
                        // Long enough that others run into it.
                        thread::yield_now();
                        drop(held);
                    }
                }
                1 => {
                    if let Ok(mut value) = locks[at].write_with(&hurry(&mut random, cancel)) {
                        *value += 1;
                        turns.wrote[at] += 1;
                        if random.one_in(2) {
                            assert!(*value.downgrade() > 0);
                        }
                    }
                }
                n => {
                    // The order does not matter: who waits has a deadline.
                    let other = random.below(LOCKS as u64) as usize;
                    let _held =
                        (n == 2 && other != at).then(|| locks[other].read_with(&hurry(&mut random, cancel)));
                    let Ok(look) = locks[at].upgradable_with(&hurry(&mut random, cancel)) else {
                        continue;
                    };
                    asked.fetch_add(1, Ordering::Relaxed);
                    match upgrade(look, &mut random, cancel) {
                        Some(writes) => {
                            turns.upgraded += 1;
                            turns.wrote[at] += writes;
                        }
                        None => turns.gave_up += 1,
                    }
                }
            }
            if random.one_in(1_024) {
                cancels[random.below(THREADS) as usize].cancel();
            }
        }
        turns
    };
    let all: Vec<Turns> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|me| scope.spawn(move || turns(me))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let sum = |of: fn(&Turns) -> u64| all.iter().map(of).sum::<u64>();
    let (upgraded, gave_up) = (sum(|turns| turns.upgraded), sum(|turns| turns.gave_up));
    println!("seed {seed}: {upgraded} upgrades, {gave_up} gave up");
    assert!(upgraded + gave_up >= UPGRADES && upgraded > 0 && gave_up > 0);
    for (at, lock) in locks.iter().enumerate() {
        assert_eq!(lock.mode(), None, "lock {at}: {lock:?}");
        let wrote: u64 = all.iter().map(|turns| turns.wrote[at]).sum();
        assert_eq!(*lock.try_write().expect("nobody holds it or waits"), wrote);
        assert_eq!(lock.stats().exclusive, wrote + 1);
    }
}
