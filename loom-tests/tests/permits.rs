//! Models of `core/permits.rs`, the semaphore's word.
//!
//! Verified: a permit is had by one taker at a time, and what its last holder did is seen by the next (take, put);
//! of a waiter that registers and a put, at least one sees the other; credit is paid once per newcomer; a limit
//! changes without losing a take or a put; close is seen by later takers; what is reserved for a class stays for it. In every spawn order, exact outcomes.
//!
//! Not verified here: queues, grants, wake-ups (`waitlist.rs`); the bounds of the fields (unit tests of the file).

use batchyard::__model::permits::{Miss, Permits};
use batchyard_loom_tests::{explore, explore_bounded};

/// What a permit protects: loom sees an access that is not ordered after the last.
#[cfg(loom)]
struct Guarded(loom::cell::UnsafeCell<u32>);
#[cfg(shuttle)]
struct Guarded(std::sync::atomic::AtomicU32);

#[cfg(loom)]
unsafe impl Sync for Guarded {}

impl Guarded {
    fn new() -> Self {
        #[cfg(loom)]
        return Self(loom::cell::UnsafeCell::new(0));
        #[cfg(shuttle)]
        return Self(0.into());
    }
    fn touch(&self) {
        #[cfg(loom)]
        self.0.with_mut(|v| unsafe { *v += 1 });
        #[cfg(shuttle)]
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

struct Shared {
    permits: Permits,
    data: Guarded,
}

fn shared(limit: u64, taken: u64) -> Shared {
    let permits = Permits::new(limit);
    permits.try_take(taken).expect("free");
    Shared { permits, data: Guarded::new() }
}

mod loop_free {
    use super::*;

    #[test]
    fn a_taker_sees_what_the_putter_did() {
        explore(
            || shared(1, 1),
            &[
                |s: &Shared| {
                    s.data.touch();
                    s.permits.put(1)
                },
                |s: &Shared| {
                    let got = s.permits.try_take(1).is_ok();
                    if got {
                        s.data.touch();
                    }
                    got
                },
            ],
            |s, seen| {
                assert!(!seen[0], "nobody waited");
                assert_eq!(s.permits.look().available(), i64::from(!seen[1]));
                seen[1]
            },
        )
        .exactly([false, true]);
    }

    #[test]
    fn one_permit_has_one_holder() {
        explore(
            || shared(1, 0),
            &[|s: &Shared| s.permits.try_take(1), |s: &Shared| s.permits.try_take(1)],
            |s, seen| {
                assert_eq!(s.permits.look().available(), 0);
                (seen[0], seen[1])
            },
        )
        .exactly([(Ok(()), Err(Miss::Short)), (Err(Miss::Short), Ok(()))]);
    }

    /// The lemma under "no wake-up is lost": never (false, false).
    #[test]
    fn a_waiter_sees_the_put_or_the_put_sees_the_waiter() {
        explore(
            || shared(1, 1),
            &[
                |s: &Shared| {
                    assert!(s.permits.register());
                    s.permits.take_for_waiter(1, 0)
                },
                |s: &Shared| s.permits.put(1),
            ],
            |_, seen| (seen[0], seen[1]),
        )
        .exactly([(true, false), (true, true), (false, true)]);
    }

    #[test]
    fn each_newcomer_pays_its_own_credit() {
        explore(
            || {
                let s = shared(2, 0);
                assert!(s.permits.register());
                s.permits.set_credit(1);
                s
            },
            &[|s: &Shared| s.permits.try_take(1), |s: &Shared| s.permits.try_take(1)],
            |s, seen| {
                assert_eq!((s.permits.look().available(), s.permits.look().credit()), (1, 0));
                (seen[0], seen[1])
            },
        )
        .exactly([(Ok(()), Err(Miss::Gated)), (Err(Miss::Gated), Ok(()))]);
    }

    /// The latch's holder sets the credit anew while a newcomer pays: what it is told is left is exact.
    #[test]
    fn credit_that_is_left_is_exact() {
        explore(
            || {
                let s = shared(1, 0);
                assert!(s.permits.register());
                s.permits.set_credit(2);
                s
            },
            &[|s: &Shared| u32::from(s.permits.try_take(1).is_ok()), |s: &Shared| s.permits.set_credit(0)],
            |s, seen| {
                assert_eq!(s.permits.look().available(), 1 - i64::from(seen[0]));
                (seen[0], seen[1])
            },
        )
        .exactly([(1, 1), (0, 2)]);
    }

    /// Two of a low class, one of a high one, a reserve of one: the high one is never short.
    #[test]
    fn a_reserve_stays_for_the_high() {
        let low = |s: &Shared| s.permits.try_take_as(1, 1).map(|_| ());
        explore(
            || Shared { permits: Permits::with_reserves(2, [1, 1, 0, 0]), data: Guarded::new() },
            &[low, low, |s: &Shared| s.permits.try_take_as(1, 2).map(|_| ())],
            |s, seen| {
                let taken = seen.iter().filter(|took| took.is_ok()).count() as i64;
                assert_eq!(s.permits.look().available(), 2 - taken);
                (seen[0], seen[1], seen[2])
            },
        )
        .exactly([
            (Ok(()), Err(Miss::Short), Ok(())),
            (Err(Miss::Short), Ok(()), Ok(())),
            (Err(Miss::Short), Err(Miss::Short), Ok(())),
        ]);
    }

    #[test]
    fn a_limit_changes_beside_takes_and_puts() {
        explore_bounded(
            Some(3), // unbounded: 150,000 executions, nothing more seen
            || shared(2, 1),
            &[
                |s: &Shared| s.permits.set_limit(1),
                |s: &Shared| s.permits.try_take(1).is_ok(),
                |s: &Shared| s.permits.put(1),
            ],
            |s, seen| {
                assert!(!seen[0] && !seen[2]);
                let in_use = i64::from(seen[1]);
                assert_eq!(s.permits.look().available(), s.permits.limit() as i64 - in_use);
                seen[1]
            },
        )
        .exactly([false, true]);
    }

    #[test]
    fn close_comes_before_or_after_a_take() {
        explore(
            || shared(1, 0),
            &[
                |s: &Shared| {
                    s.permits.close();
                    Ok(())
                },
                |s: &Shared| s.permits.try_take(1),
            ],
            |s, seen| {
                let word = s.permits.look();
                assert_eq!((word.closed(), word.available()), (true, i64::from(seen[1].is_err())));
                seen[1]
            },
        )
        .exactly([Ok(()), Err(Miss::Closed)]);
    }
}

/// Eight threads that take what they can get and give it back.
#[cfg(shuttle)]
#[test]
fn shuttle_eight_takers_leave_nothing_behind() {
    let storm = || {
        let shared = shuttle::sync::Arc::new(shared(3, 0));
        let threads: Vec<_> = (1..=8)
            .map(|i| {
                let s = shared.clone();
                shuttle::thread::spawn(move || {
                    let n = i % 3 + 1;
                    for _ in 0..3 {
                        if s.permits.try_take(n).is_ok() {
                            assert!(s.permits.look().available() <= 3 - n as i64);
                            assert!(!s.permits.put(n));
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic");
        }
        assert_eq!(shared.permits.look().available(), 3);
    };
    shuttle::check_random(storm, 2_000);
    shuttle::check_pct(storm, 2_000, 3);
}
