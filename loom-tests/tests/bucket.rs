//! `core/bucket.rs`.
//!
//! Verified, for every interleaving (with three threads: of at most three preemptions) and every value that the memory
//! orders allow, in every spawn order:
//! - takers, reservers and a canceller act as if one after the other: no token twice, no piece twice, a cancel exact
//!   or nothing (the outcomes are exactly those of the sequential bucket, computed here by trying all orders);
//! - nobody decides by half-written terms, by the old rate with a time after the change, or without a barrier after a
//!   pause; two changes at a time both take effect; a cancel does not open a pause;
//! - who has more to look at than the bucket is told to, before and after a change;
//! - a reservation is made and re-timed by the old terms or the new ones, never by a mixture, and by the new ones in the end;
//!   after two changes it is where it would be if somebody had looked in between; and who finds that its time has come is
//!   ahead of every change after that.
//!
//! Not verified here: the arithmetic and the window law over many grants (property tests, `tests/rate_limiter_laws.rs`
//! and `core/bucket/line.rs`), and that sleepers are woken by a change (`tests/sleepers.rs`).
//! The readers of changing terms retry while one is being written, so those models stay out of the
//! `loom_rmw_loads` pass; the others are in `loop_free`.

use batchyard::__model::bucket::{Bucket, Pace};
#[cfg(loom)]
use batchyard::__model::bucket::{Short, Slot, View};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(shuttle)]
use shuttle::sync::atomic::{AtomicU64, Ordering};

fn per_ticks(ticks: u128) -> Pace {
    Pace::new(1, ticks).unwrap()
}

/// A full bucket at tick 0, one token in `ticks`.
fn bucket(ticks: u128, burst: u64) -> Bucket {
    Bucket::new(0, per_ticks(ticks), per_ticks(1), burst).unwrap()
}

/// Granted at a tick, or to be granted at one.
#[cfg(loom)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    Granted(u64),
    Until(u64),
}
#[cfg(loom)]
use Seen::{Granted, Until};

#[cfg(loom)]
fn take(bucket: &Bucket, now: impl Fn() -> u64, n: u64) -> Seen {
    seen(bucket.try_take(now, n))
}

#[cfg(loom)]
fn seen(taken: Result<u64, Short>) -> Seen {
    match taken {
        Ok(stamp) => Granted(stamp),
        Err(Short::Until { tick: Some(tick), .. }) => Until(tick),
        Err(short) => panic!("{short:?}"),
    }
}

#[cfg(loom)]
mod loop_free {
    use super::*;
    use batchyard_loom_tests::{explore, explore_bounded};
    use std::collections::BTreeSet;

    /// For three threads: without a bound loom sees the same outcomes and takes minutes.
    const PREEMPTIONS: Option<usize> = Some(3);

    /// A bucket, and what its takers have read: their race is on the one word that they move. (How they read is the
    /// subject of `changing`.)
    struct Shared {
        bucket: Bucket,
        view: View,
    }

    impl Shared {
        fn full(burst: u64) -> Shared {
            let bucket = bucket(1, burst);
            let view = bucket.view(&|| 0);
            Shared { bucket, view }
        }

        fn empty() -> Shared {
            let s = Shared::full(1);
            s.take().unwrap();
            s
        }

        fn take(&self) -> Result<u64, Short> {
            self.bucket.take_by(&self.view, 1)
        }

        fn reserve(&self, latest: u64) -> Result<Slot, Short> {
            self.bucket.reserve_by(&self.view, 1, latest)
        }
    }

    #[test]
    fn two_take_the_last_token() {
        let body = |s: &Shared| s.take().is_ok();
        explore(|| Shared::full(1), &[body, body], |_, taken| (taken[0], taken[1]))
            .exactly([(true, false), (false, true)]);
    }

    #[test]
    fn three_take_two_tokens() {
        let body = |s: &Shared| s.take().is_ok();
        explore_bounded(PREEMPTIONS, || Shared::full(2), &[body, body, body], |_, taken| taken).exactly([
            vec![true, true, false],
            vec![true, false, true],
            vec![false, true, true],
        ]);
    }

    #[test]
    fn a_stale_reading_takes_nothing_from_a_fresh_one() {
        explore(
            || {
                let s = Shared::empty();
                let fresh = s.bucket.view(&|| 1);
                (s, fresh)
            },
            &[|(s, fresh): &(Shared, View)| seen(s.bucket.take_by(fresh, 1)), |(s, _)| seen(s.take())],
            |_, seen| (seen[0], seen[1]),
        )
        // The stale one is refused by either state; only how long it is told to wait differs. (Together: it loads and
        // writes nothing, and stock loom forgets such a load when the other loads before its CAS.)
        .exactly_together([(Granted(1), Until(1)), (Granted(1), Until(2))]);
    }

    /// What a body of the next model does, and saw: the start of its place, and whether a cancel was exact.
    type Place = (u64, Option<bool>);

    /// The sequential bucket: one token a tick, burst 1, empty at tick 0; `steps` are body numbers.
    fn sequential(steps: &[usize]) -> Vec<Place> {
        let mut tat = 1;
        let mut seen: Vec<Option<Place>> = vec![None; 3];
        for &body in steps {
            match seen[body] {
                None => {
                    seen[body] = Some((tat, None));
                    tat += 1;
                }
                Some((start, _)) => {
                    let exact = tat == start + 1;
                    tat -= u64::from(exact);
                    seen[body] = Some((start, Some(exact)));
                }
            }
        }
        seen.into_iter().map(Option::unwrap).collect()
    }

    #[test]
    fn reserve_cancel_reserve() {
        let mut expected = BTreeSet::new();
        // Body 0 reserves and cancels, 1 and 2 reserve.
        for order in [
            [0, 0, 1, 2],
            [0, 1, 0, 2],
            [0, 1, 2, 0],
            [1, 0, 0, 2],
            [1, 0, 2, 0],
            [1, 2, 0, 0],
            [0, 0, 2, 1],
            [0, 2, 0, 1],
            [0, 2, 1, 0],
            [2, 0, 0, 1],
            [2, 0, 1, 0],
            [2, 1, 0, 0],
        ] {
            expected.insert(sequential(&order));
        }
        let reserve = |s: &Shared| (s.reserve(u64::MAX).unwrap().start, None);
        explore_bounded(
            PREEMPTIONS,
            Shared::empty,
            &[
                |s: &Shared| {
                    let slot = s.reserve(u64::MAX).unwrap();
                    (slot.start, Some(s.bucket.cancel(&slot)))
                },
                reserve,
                reserve,
            ],
            |_, seen| seen,
        )
        .exactly(expected);
    }

    /// Of three tokens that were taken together the last two are given back, beside one who takes a place behind them.
    #[test]
    fn a_part_given_back_and_a_reserver() {
        explore(
            || {
                let bucket = bucket(1, 3);
                let view = bucket.view(&|| 0);
                let piece = bucket.reserve_by(&view, 3, u64::MAX).unwrap();
                (bucket, view, piece)
            },
            &[
                |(bucket, _, piece): &(Bucket, View, Slot)| u64::from(bucket.cancel_part(piece, 2)),
                |(bucket, view, _)| bucket.reserve_by(view, 1, u64::MAX).unwrap().start,
            ],
            // What is given back is there again, or the place behind it is, and nothing else.
            |(bucket, view, _), seen| (seen[0], seen[1], bucket.reserve_by(view, 3, u64::MAX).unwrap().start),
        )
        .exactly([(1, 0, 2), (0, 1, 4)]);
    }

    #[test]
    fn a_deadline_that_cannot_be_met_writes_nothing() {
        let body = |s: &Shared| s.reserve(1).is_ok();
        // Exactly one has the place at tick 1, and the next is at 2.
        explore(Shared::empty, &[body, body], |s, seen| {
            (seen[0], seen[1], s.reserve(u64::MAX).unwrap().start)
        })
        .exactly([(true, false, 2), (false, true, 2)]);
    }
}

#[cfg(loom)]
mod changing {
    use super::*;
    use batchyard_loom_tests::{explore, explore_bounded};

    /// One token in `ticks`, none there at tick 0.
    fn empty(ticks: u128) -> Bucket {
        let bucket = bucket(ticks, 1);
        bucket.try_take(|| 0, 1).unwrap();
        bucket
    }

    /// One token in 2 ticks becomes one in 8: four terms differ, and no mixture of them may be seen.
    #[test]
    fn a_slower_rate_and_a_taker() {
        explore(
            || empty(2),
            &[
                |bucket: &Bucket| {
                    bucket.set_pace(|| 0, per_ticks(8)).unwrap();
                    Until(0)
                },
                |bucket| take(bucket, || 1, 1),
            ],
            |_, seen| seen[1],
        )
        .exactly([Until(2), Until(8)]);
    }

    /// A pause, then time passes. With the terms of before and the time of after there would be a token.
    #[test]
    fn a_pause_and_a_taker_and_the_time() {
        explore(
            || (empty(1), AtomicU64::new(0)),
            &[
                |(bucket, clock): &(Bucket, AtomicU64)| {
                    bucket.pause(|| clock.load(Ordering::Acquire), 50);
                    clock.store(3, Ordering::Release);
                    Until(0)
                },
                |(bucket, clock)| take(bucket, || clock.load(Ordering::Acquire), 1),
            ],
            |_, seen| seen[1],
        )
        .exactly([Until(1), Until(51)]);
    }

    /// The end of a pause, then time passes: what comes from then on comes into an empty bucket.
    #[test]
    fn a_resume_and_a_taker_and_the_time() {
        explore(
            || {
                let bucket = bucket(1, 1);
                bucket.pause(|| 0, 50);
                (bucket, AtomicU64::new(3))
            },
            &[
                |(bucket, clock): &(Bucket, AtomicU64)| {
                    bucket.resume(|| clock.load(Ordering::Acquire));
                    clock.store(4, Ordering::Release);
                    Until(0)
                },
                |(bucket, clock)| take(bucket, || clock.load(Ordering::Acquire), 1),
            ],
            |_, seen| seen[1],
        )
        .exactly_together([Until(51), Until(4), Granted(4)]);
    }

    #[test]
    fn a_larger_burst_and_a_reserver() {
        explore(
            || empty(2),
            &[
                |bucket: &Bucket| {
                    bucket.set_burst(|| 0, 2).unwrap();
                    None
                },
                |bucket| Some(bucket.reserve(|| 0, 1, u64::MAX).unwrap()),
            ],
            |bucket, seen| {
                // By whichever terms it was made, it is known by which: the change moves it.
                let made = seen[1].unwrap();
                let mut slot = made;
                assert!(bucket.retime(&mut slot));
                (made.start, slot.start)
            },
        )
        .exactly([(2, 0), (0, 0)]);
    }

    #[test]
    fn a_slower_rate_and_a_waiter() {
        explore(
            || {
                let bucket = empty(2);
                let slot = bucket.reserve(|| 0, 1, u64::MAX).unwrap();
                (bucket, slot)
            },
            &[
                |(bucket, _): &(Bucket, Slot)| {
                    bucket.set_pace(|| 0, per_ticks(8)).unwrap();
                    None
                },
                |(bucket, slot)| {
                    let mut slot = *slot;
                    assert!(bucket.retime(&mut slot));
                    Some(slot)
                },
            ],
            |(bucket, _), seen| {
                // What was not seen then is seen at the next look.
                let then = seen[1].unwrap();
                let mut slot = then;
                assert!(bucket.retime(&mut slot));
                (then.start, slot.start)
            },
        )
        .exactly([(2, 8), (8, 8)]);
    }

    /// A token in 2 ticks, in 8 from tick 3 on, none from tick 10 to 50: the first place starts before all that, the second
    /// half-way between the changes, the third behind the pause.
    #[test]
    fn two_changes_and_who_comes_due_between_them() {
        explore(
            || {
                let bucket = empty(2);
                let slots = [0; 3].map(|_| bucket.reserve(|| 0, 1, u64::MAX).unwrap());
                (bucket, slots)
            },
            &[
                |(bucket, _): &(Bucket, [Slot; 3])| {
                    bucket.set_pace(|| 3, per_ticks(8)).unwrap();
                    bucket.pause(|| 10, 50);
                    [0; 3]
                },
                |(bucket, slots)| {
                    slots.map(|mut slot| {
                        assert!(bucket.retime(&mut slot));
                        slot.start
                    })
                },
            ],
            |(bucket, slots), seen| {
                let last = slots.map(|mut slot| {
                    bucket.retime(&mut slot);
                    slot.start
                });
                assert_eq!(last, [2, 7, 55]);
                seen[1]
            },
        )
        // One look a place: changes may come between those, too.
        .exactly([[2, 4, 6], [2, 4, 15], [2, 4, 55], [2, 7, 15], [2, 7, 55]]);
    }

    /// The token is there at tick 1, and time passes while a pause is being made. Whoever finds that its time has come was
    /// before the pause; whoever comes while it is made waits for it. (All read the time by RMWs, as clocks agree on it.)
    #[test]
    fn a_pause_that_is_being_made_is_waited_for() {
        const READ: fn(&AtomicU64) -> u64 = |clock| clock.fetch_add(0, Ordering::AcqRel);
        explore_bounded(
            Some(2),
            || {
                let bucket = empty(1);
                let slot = bucket.reserve(|| 0, 1, u64::MAX).unwrap();
                (bucket, slot, AtomicU64::new(0), AtomicU64::new(0))
            },
            &[
                |(bucket, _, clock, paused): &(Bucket, Slot, AtomicU64, AtomicU64)| {
                    let now = || {
                        let now = READ(clock);
                        paused.store(now, Ordering::Relaxed);
                        now
                    };
                    bucket.pause(now, 50);
                    false
                },
                |(_, _, clock, _)| clock.swap(3, Ordering::AcqRel) == 3,
                |(bucket, slot, clock, _)| {
                    let mut slot = *slot;
                    bucket.has_come(|| READ(clock), &mut slot).unwrap()
                },
            ],
            |(_, _, _, paused), seen| (paused.load(Ordering::Relaxed), seen[2]),
        )
        .exactly_together([(0, false), (3, false), (3, true)]);
    }

    /// The token is there at tick 1; a pause at 0, and only then does time pass.
    #[test]
    fn a_pause_and_a_waiter_and_the_time() {
        explore(
            || {
                let bucket = empty(1);
                let slot = bucket.reserve(|| 0, 1, u64::MAX).unwrap();
                (bucket, slot, AtomicU64::new(0))
            },
            &[
                |(bucket, _, clock): &(Bucket, Slot, AtomicU64)| {
                    bucket.pause(|| clock.load(Ordering::Acquire), 50);
                    clock.store(3, Ordering::Release);
                    (None, 0)
                },
                |(bucket, slot, clock)| {
                    let mut slot = *slot;
                    (bucket.has_come(|| clock.load(Ordering::Acquire), &mut slot), slot.start)
                },
            ],
            |_, seen| seen[1],
        )
        .exactly([(Some(false), 1), (Some(false), 51)]);
    }

    #[test]
    fn two_changes_both_stand() {
        explore(
            || empty(2),
            &[
                |bucket: &Bucket| bucket.set_pace(|| 0, per_ticks(8)).unwrap(),
                |bucket| bucket.set_burst(|| 0, 2).unwrap(),
            ],
            |bucket, _| (bucket.left(|| 0), bucket.left(|| 7), take(bucket, || 0, 2), bucket.epoch()),
        )
        .exactly([(1, 1, Until(8), 8)]);
    }

    #[test]
    fn a_change_and_a_taker_who_is_to_look_further() {
        explore(
            || bucket(1, 1).attended(),
            &[
                |bucket: &Bucket| {
                    bucket.set_pace(|| 0, per_ticks(8)).unwrap();
                    None
                },
                |bucket| bucket.take_plainly(|| 0, 1).map(seen),
            ],
            |bucket, taken| (taken, bucket.take_plainly(|| 0, 1).map(seen), take(bucket, || 0, 1)),
        )
        .exactly([(vec![None, None], None, Granted(0))]);
    }

    #[test]
    fn a_pause_and_a_taker() {
        explore(
            || bucket(1, 1),
            &[
                |bucket: &Bucket| {
                    bucket.pause(|| 0, 50);
                    None
                },
                |bucket| Some(take(bucket, || 0, 1)),
            ],
            |bucket, seen| {
                // Whoever came first, the pause stands: nobody passes before 50 + 1.
                assert_eq!(take(bucket, || 49, 1), Until(51));
                assert_eq!(take(bucket, || 50, 1), Until(51));
                assert_eq!(take(bucket, || 51, 1), Granted(51));
                seen[1].unwrap()
            },
        )
        .exactly([Granted(0), Until(51)]);
    }

    #[test]
    fn a_pause_and_a_cancel() {
        explore(
            || {
                let bucket = bucket(1, 1);
                let slots = [0; 2].map(|_| bucket.reserve(|| 0, 1, u64::MAX).unwrap());
                (bucket, slots)
            },
            &[
                |(bucket, _): &(Bucket, [Slot; 2])| {
                    bucket.pause(|| 0, 50);
                    vec![]
                },
                |(bucket, [now, later])| vec![bucket.cancel(later), bucket.cancel(now)],
            ],
            |(bucket, _), seen| (seen[1].clone(), take(bucket, || 49, 1)),
        )
        .exactly([(vec![true, true], Until(51))]);
    }
}

/// Twelve threads take, reserve and cancel on clocks of their own, some of them stale, while two change rate, burst
/// and pause; the window law is checked over all stamps with the highest rate and burst that ever stood.
#[cfg(shuttle)]
mod many {
    use super::*;
    use batchyard_loom_tests::{Arc, thread};

    const TICKS: u64 = 4;
    const BURST: u64 = 3;

    fn model() {
        let bucket = Arc::new(bucket(TICKS.into(), BURST));
        let clock = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        for id in 0..12u64 {
            let (bucket, clock) = (bucket.clone(), clock.clone());
            threads.push(thread::spawn(move || {
                let mut granted = Vec::new();
                for round in 0..4 {
                    let n = 1 + (id + round) % BURST.min(2);
                    let stale = clock.load(Ordering::SeqCst);
                    clock.fetch_add(id % 3, Ordering::SeqCst);
                    let taken = match id % 3 {
                        0 => bucket.try_take(|| stale, n),
                        _ => bucket.try_take(|| clock.load(Ordering::SeqCst), n),
                    };
                    if let Ok(stamp) = taken {
                        granted.push((stamp, n));
                    } else if id % 4 == 0 {
                        let slot = bucket.reserve(|| clock.load(Ordering::SeqCst), 1, u64::MAX).unwrap();
                        bucket.cancel(&slot);
                    }
                }
                granted
            }));
        }
        for id in 0..2u64 {
            let (bucket, clock) = (bucket.clone(), clock.clone());
            threads.push(thread::spawn(move || {
                let now = || clock.load(Ordering::SeqCst);
                for round in 0..3 {
                    match (id + round) % 3 {
                        0 => bucket.set_pace(now, per_ticks((TICKS << (round % 2)).into())).unwrap(),
                        1 => bucket.set_burst(now, BURST - round % 2).unwrap(),
                        _ => drop(bucket.pause(now, now() + 5)),
                    }
                }
                Vec::new()
            }));
        }
        let mut granted: Vec<_> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        granted.sort();
        for from in 0..granted.len() {
            let mut tokens = 0;
            for to in from..granted.len() {
                tokens += granted[to].1;
                let window = granted[to].0 - granted[from].0;
                assert!(tokens * TICKS <= BURST * TICKS + window, "{tokens} in {window}: {granted:?}");
            }
        }
    }

    #[test]
    fn fourteen_threads_keep_the_law() {
        shuttle::check_random(model, 2_000);
        shuttle::check_pct(model, 1_000, 3);
    }
}
