//! Models of `core/waitlist.rs`: demands that wait.
//!
//! Verified: no wake-up is lost (register against release, the rollback of a newcomer, a raised limit, a waiter that
//! leaves and had held others back): a waiter that is entitled to a grant ends granted, or the model deadlocks; a
//! grant against a timeout, a cancel, a close has one winner, and permits are conserved whoever wins; what a putter
//! did is seen by whom its permits were granted to; two kinds asked for by two threads cannot deadlock; a grant that
//! nobody took up is taken back, taken up, or given up, once. In every spawn order, exact outcomes.
//!
//! Not verified here: the order of grants, ageing, the bound on passing (property tests against a sequential
//! oracle, `core/waitlist/laws.rs`); more than three threads (the shuttle test below samples ten); real timed waits
//! (a timed park is one that may return early once).

use batchyard::__model::waitlist::{
    Cancelled, Demand, Enqueued, Fairness, Node, NodeState, Refused, Unmet, WaitList, Waiter,
};
use batchyard_loom_tests::{Guarded, explore, explore_bounded};

const ONE: Demand = Demand::of(0, 1);
const TWO: Demand = Demand::of(0, 2);
const OTHER: Demand = Demand::of(1, 1);
const BOTH: Demand = Demand::new().with(1, 1).with(0, 1);

/// A list, what its permits protect, and a lane's node. The list is dropped first.
struct Yard {
    list: WaitList,
    data: Guarded,
    lane: Box<Node>,
}

fn tell(waiter: &Waiter) {
    WaitList::unpark(waiter);
}

impl Yard {
    /// With `taken` of it taken already.
    fn new(limits: &[u64], taken: &Demand) -> Self {
        Self::with(limits, taken, Fairness::default())
    }

    fn with(limits: &[u64], taken: &Demand, fairness: Fairness) -> Self {
        let list = WaitList::with_fairness(limits, fairness);
        list.try_take(taken, &mut tell).expect("free");
        Self { list, data: Guarded::new(), lane: Box::new(Node::new()) }
    }

    /// The lane queues; it has to wait.
    fn lane_waits(self, d: Demand) -> Self {
        // SAFETY: the node is boxed, and dropped after the list.
        let got = unsafe { self.list.enqueue(&self.lane, d, 1, 0, Waiter::Lane(0), &mut tell) };
        assert_eq!(got, Ok(Enqueued::Waiting));
        self
    }

    fn put(&self, d: &Demand) {
        self.list.put(d, 0, &mut tell);
    }

    fn acquire(&self, d: &Demand) -> Result<(), Unmet> {
        self.list.acquire_alone(d, 1, false)
    }

    fn acquire_timed(&self, d: &Demand) -> Result<(), Unmet> {
        self.list.acquire_alone(d, 1, true)
    }
}

/// What a body did, where the bodies of one model answer different questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Did {
    It,
    Acquire(Result<(), Unmet>),
    Try(Result<(), Refused>),
    Cancel(Cancelled),
    Take(bool),
}

/// Preemptions in the models with three threads, or two long ones: unbounded they run for minutes to hours.
const BOUND: Option<usize> = Some(2);

mod loop_free {
    use super::*;

    /// Who looks once more before it queues, and another: the permit is the one's, then the other's.
    #[test]
    fn a_look_before_queueing_takes_or_leaves() {
        fn holds(y: &Yard, got: Result<(), Unmet>) -> Did {
            y.data.touch();
            y.put(&ONE);
            Did::Acquire(got)
        }
        explore_bounded(
            BOUND,
            || Yard::new(&[1], &Demand::new()),
            &[|y: &Yard| holds(y, y.list.acquire_looking(&ONE, 1)), |y: &Yard| holds(y, y.acquire(&ONE))],
            |y, seen| {
                assert_eq!((y.list.available(0), y.list.waiters(0)), (1, 0));
                (seen[0], seen[1])
            },
        )
        .exactly([(Did::Acquire(Ok(())), Did::Acquire(Ok(())))]);
    }

    #[test]
    fn a_waiter_is_granted_what_is_put() {
        explore(
            || Yard::new(&[1], &ONE),
            &[
                |y: &Yard| {
                    let got = y.acquire(&ONE);
                    y.data.touch();
                    got
                },
                |y: &Yard| {
                    y.data.touch();
                    y.put(&ONE);
                    Ok(())
                },
            ],
            |y, seen| {
                assert_eq!((y.list.available(0), y.list.waiters(0)), (0, 0));
                seen[0]
            },
        )
        .exactly([Ok(())]);
    }

    #[test]
    fn a_grant_against_a_timeout_has_one_winner() {
        explore(
            || Yard::new(&[1], &ONE),
            &[
                |y: &Yard| {
                    let got = y.acquire_timed(&ONE);
                    if got.is_ok() {
                        y.data.touch();
                    }
                    got
                },
                |y: &Yard| {
                    y.data.touch();
                    y.put(&ONE);
                    Ok(())
                },
            ],
            |y, seen| {
                assert_eq!(y.list.in_use(0), u64::from(seen[0].is_ok()));
                assert_eq!(y.list.waiters(0), 0);
                seen[0]
            },
        )
        .exactly([Ok(()), Err(Unmet::TimedOut)]);
    }

    #[test]
    fn a_close_refuses_or_comes_too_late() {
        explore_bounded(
            BOUND,
            || Yard::new(&[1], &ONE),
            &[
                |y: &Yard| y.acquire_timed(&ONE),
                |y: &Yard| {
                    y.put(&ONE);
                    Ok(())
                },
                |y: &Yard| {
                    y.list.close(None, &mut tell);
                    Ok(())
                },
            ],
            |y, seen| {
                assert_eq!(y.list.in_use(0), u64::from(seen[0].is_ok()));
                assert_eq!(y.list.waiters(0), 0);
                seen[0]
            },
        )
        .exactly([Ok(()), Err(Unmet::TimedOut), Err(Unmet::Refused(Refused::Closed { kind: 0 }))]);
    }

    #[test]
    fn a_close_tells_who_waits() {
        explore(
            || Yard::new(&[1], &ONE),
            &[
                |y: &Yard| y.acquire(&ONE),
                |y: &Yard| {
                    y.list.close(Some(0), &mut tell);
                    Ok(())
                },
            ],
            |y, seen| {
                assert_eq!((y.list.in_use(0), y.list.waiters(0)), (1, 0));
                seen[0]
            },
        )
        .exactly([Err(Unmet::Refused(Refused::Closed { kind: 0 }))]);
    }

    /// A newcomer takes the first kind, finds the second gone since it looked, and rolls back: that is a release.
    #[test]
    fn a_rollback_wakes_who_looked_meanwhile() {
        explore_bounded(
            BOUND,
            || Yard::new(&[1, 1], &Demand::new()),
            &[
                |y: &Yard| Did::Acquire(y.acquire(&ONE)),
                |y: &Yard| {
                    let got = y.list.try_take(&BOTH, &mut tell);
                    if got.is_ok() {
                        y.put(&BOTH);
                    }
                    Did::Try(got)
                },
                |y: &Yard| Did::Try(y.list.try_take(&OTHER, &mut tell)),
            ],
            |y, seen| {
                let other = u64::from(seen[2] == Did::Try(Ok(())));
                assert_eq!((y.list.in_use(0), y.list.in_use(1)), (1, other));
                assert_eq!(seen[0], Did::Acquire(Ok(())));
                (seen[1], seen[2])
            },
        )
        .exactly_together([
            (Did::Try(Ok(())), Did::Try(Ok(()))),
            (Did::Try(Ok(())), Did::Try(Err(Refused::Short { kind: 1 }))),
            (Did::Try(Err(Refused::Short { kind: 0 })), Did::Try(Ok(()))),
            (Did::Try(Err(Refused::Short { kind: 1 })), Did::Try(Ok(()))),
        ]);
    }

    /// Each takes both and gives both back: nobody waits with one in hand.
    #[test]
    fn two_kinds_cannot_deadlock() {
        let body = |y: &Yard| {
            let got = y.acquire(&BOTH);
            y.data.touch();
            y.put(&BOTH);
            got
        };
        explore_bounded(
            BOUND,
            || Yard::new(&[1, 1], &Demand::new()),
            &[body, body],
            |y, seen| {
                assert_eq!((y.list.in_use(0), y.list.in_use(1)), (0, 0));
                (seen[0], seen[1])
            },
        )
        .exactly([(Ok(()), Ok(()))]);
    }

    /// A newcomer that found a gate shut takes the first kind of its two behind it, and another newcomer, who passes no
    /// gate, the second: the first is given back.
    #[test]
    fn a_newcomer_behind_a_gate_keeps_no_part() {
        explore(
            || {
                let lane = ONE.with(2, 1);
                let taken = Demand::of(2, 1);
                Yard::with(&[2, 1, 1], &taken, Fairness { bypass: 0, ..Fairness::default() }).lane_waits(lane)
            },
            &[
                |y: &Yard| Did::Try(y.list.try_take(&BOTH, &mut tell)),
                |y: &Yard| Did::Try(y.list.try_take(&OTHER, &mut tell)),
            ],
            |y, seen| {
                let both = u64::from(seen[0] == Did::Try(Ok(())));
                assert_eq!((y.list.in_use(0), y.list.in_use(1), y.list.waiters(0)), (both, 1, 1));
                let _ = y.list.cancel(&y.lane, 0, &mut tell);
                (seen[0], seen[1])
            },
        )
        .exactly([
            (Did::Try(Ok(())), Did::Try(Err(Refused::Short { kind: 1 }))),
            (Did::Try(Err(Refused::Short { kind: 0 })), Did::Try(Ok(()))),
        ]);
    }

    #[test]
    fn a_raised_limit_serves_who_waits() {
        explore(
            || Yard::new(&[1], &ONE),
            &[
                |y: &Yard| y.acquire(&ONE),
                |y: &Yard| {
                    y.list.set_limit(0, 2, 0, &mut tell);
                    Ok(())
                },
            ],
            |y, seen| {
                assert_eq!((y.list.available(0), y.list.in_use(0)), (0, 2));
                seen[0]
            },
        )
        .exactly([Ok(())]);
    }

    #[test]
    fn a_lowered_limit_refuses_who_cannot_be_served() {
        explore(
            || Yard::new(&[2], &ONE),
            &[
                |y: &Yard| y.acquire(&TWO),
                |y: &Yard| {
                    y.list.set_limit(0, 1, 0, &mut tell);
                    Ok(())
                },
            ],
            |y, seen| {
                assert_eq!((y.list.available(0), y.list.waiters(0)), (0, 0));
                seen[0]
            },
        )
        .exactly([Err(Unmet::Refused(Refused::Never { kind: 0, asked: 2, limit: 1 }))]);
    }

    /// A pause takes a lane out while a put grants to it and a worker serves the grant.
    #[test]
    fn a_lanes_grant_has_one_taker() {
        explore_bounded(
            BOUND,
            || Yard::new(&[1], &ONE).lane_waits(ONE),
            &[
                |y: &Yard| {
                    y.data.touch();
                    y.put(&ONE);
                    Did::It
                },
                |y: &Yard| {
                    let left = y.list.cancel(&y.lane, 0, &mut tell);
                    if left == Cancelled::WasGranted {
                        y.data.touch();
                    }
                    Did::Cancel(left)
                },
                |y: &Yard| {
                    let taken = y.list.take_grant(&y.lane);
                    if taken {
                        y.data.touch();
                    }
                    Did::Take(taken)
                },
            ],
            |y, seen| {
                let holders = (seen[1] == Did::Cancel(Cancelled::WasGranted)) as u64
                    + (seen[2] == Did::Take(true)) as u64;
                assert_eq!(y.list.in_use(0), holders, "{seen:?}");
                assert_eq!((y.list.state(&y.lane), y.list.waiters(0)), (NodeState::Idle, 0));
                (seen[1], seen[2])
            },
        )
        .exactly([
            (Did::Cancel(Cancelled::Removed), Did::Take(false)),
            (Did::Cancel(Cancelled::WasGranted), Did::Take(false)),
            (Did::Cancel(Cancelled::WasIdle), Did::Take(true)),
        ]);
    }

    /// A lane has a grant that nobody took up yet. Who runs already needs the same: it takes the grant back, or waits for
    /// the worker that took it.
    #[test]
    fn an_untaken_grant_is_taken_back() {
        explore(
            || {
                let yard = Yard::new(&[1], &ONE).lane_waits(ONE);
                yard.put(&ONE);
                yard
            },
            &[
                |y: &Yard| {
                    let got = y.list.acquire_inside(&ONE, &y.lane);
                    y.data.touch();
                    y.put(&ONE);
                    Did::Acquire(got)
                },
                |y: &Yard| {
                    let taken = y.list.take_grant(&y.lane);
                    if taken {
                        y.data.touch();
                        y.put(&ONE);
                    }
                    Did::Take(taken)
                },
            ],
            |y, seen| {
                assert_eq!(y.list.waiters(0), 0);
                let state = y.list.state(&y.lane);
                (seen[0], seen[1], state, y.list.in_use(0))
            },
        )
        .exactly([
            (Did::Acquire(Ok(())), Did::Take(true), NodeState::Idle, 0),
            // The lane has kept its place, and has a grant again.
            (Did::Acquire(Ok(())), Did::Take(false), NodeState::Granted, 1),
        ]);
    }

    /// As above, while the lane leaves.
    #[test]
    fn an_untaken_grant_is_taken_back_or_given_up() {
        explore_bounded(
            BOUND,
            || {
                let yard = Yard::new(&[1], &ONE).lane_waits(ONE);
                yard.put(&ONE);
                yard
            },
            &[
                |y: &Yard| Did::Acquire(y.list.acquire_inside(&ONE, &y.lane)),
                |y: &Yard| {
                    let left = y.list.cancel(&y.lane, 0, &mut tell);
                    if left == Cancelled::WasGranted {
                        y.put(&ONE);
                    }
                    Did::Cancel(left)
                },
            ],
            |y, seen| {
                assert_eq!((y.list.state(&y.lane), y.list.waiters(0)), (NodeState::Idle, 0));
                assert_eq!((seen[0], y.list.in_use(0)), (Did::Acquire(Ok(())), 1));
                seen[1]
            },
        )
        .exactly([Did::Cancel(Cancelled::WasGranted), Did::Cancel(Cancelled::Removed)]);
    }

    /// Of two kinds that who waits inside needs, one comes back, and then its limit falls: a lane that wants it must not
    /// have been granted it meanwhile, for nobody might serve it.
    #[test]
    fn a_lane_is_granted_nothing_that_is_waited_for_inside() {
        explore_bounded(
            BOUND,
            || Yard::new(&[2, 1], &TWO.with(1, 1)).lane_waits(ONE),
            &[
                |y: &Yard| Did::Acquire(y.list.acquire_inside(&BOTH, &y.lane)),
                |y: &Yard| {
                    y.put(&TWO);
                    y.list.set_limit(0, 1, 0, &mut tell);
                    y.put(&OTHER);
                    Did::It
                },
            ],
            |y, seen| {
                assert_eq!((y.list.in_use(1), y.list.available(1)), (1, 0));
                let lane = y.list.state(&y.lane);
                assert!(y.list.in_use(0) == 1 + u64::from(lane == NodeState::Granted));
                (seen[0], lane)
            },
        )
        .exactly([(Did::Acquire(Ok(())), NodeState::Waiting)]);
    }

    /// The lane wants two, has one set aside, and leaves.
    #[test]
    fn who_held_others_back_lets_them_go_on_leaving() {
        explore(
            || Yard::with(&[2], &ONE, Fairness { bypass: 0, ..Fairness::default() }).lane_waits(TWO),
            &[
                |y: &Yard| Did::Acquire(y.acquire(&ONE)),
                |y: &Yard| Did::Cancel(y.list.cancel(&y.lane, 0, &mut tell)),
            ],
            |y, seen| {
                assert_eq!((y.list.in_use(0), y.list.waiters(0)), (2, 0));
                (seen[0], seen[1])
            },
        )
        .exactly([(Did::Acquire(Ok(())), Did::Cancel(Cancelled::Removed))]);
    }

    /// A newcomer that finds the gate shut looks again under the latch.
    #[test]
    fn a_shut_gate_lets_pass_what_is_left_over() {
        explore(
            || {
                let d = Demand::new().with(0, 1).with(1, 1);
                Yard::with(&[2, 1], &OTHER, Fairness { bypass: 0, ..Fairness::default() }).lane_waits(d)
            },
            &[
                |y: &Yard| Did::Try(y.list.try_take(&ONE, &mut tell)),
                |y: &Yard| Did::Try(y.list.try_take(&ONE, &mut tell)),
            ],
            |y, seen| {
                assert_eq!((y.list.in_use(0), y.list.waiters(0)), (1, 1));
                let _ = y.list.cancel(&y.lane, 0, &mut tell);
                (seen[0], seen[1])
            },
        )
        .exactly([
            (Did::Try(Ok(())), Did::Try(Err(Refused::Short { kind: 0 }))),
            (Did::Try(Err(Refused::Short { kind: 0 })), Did::Try(Ok(()))),
        ]);
    }

    /// A newcomer that finds a gate shut, and who had shut it gone when it looks again: it has what was free anyhow.
    #[test]
    fn a_newcomer_is_not_refused_for_who_has_left() {
        explore(
            || {
                let d = Demand::new().with(0, 1).with(1, 1);
                Yard::with(&[2, 1], &OTHER, Fairness { bypass: 0, ..Fairness::default() }).lane_waits(d)
            },
            &[
                |y: &Yard| Did::Cancel(y.list.cancel(&y.lane, 0, &mut tell)),
                |y: &Yard| Did::Try(y.list.try_take(&ONE, &mut tell)),
            ],
            |y, seen| {
                assert_eq!((y.list.in_use(0), y.list.waiters(0)), (1, 0));
                (seen[0], seen[1])
            },
        )
        .exactly([(Did::Cancel(Cancelled::Removed), Did::Try(Ok(())))]);
    }

    /// A low waiter holds back and has aged beyond all, the last permit is reserved for the high: the high one has it at
    /// once (nobody puts: if it had to wait, this would not end), another low one does not.
    #[test]
    fn who_may_not_take_a_reserve_does_not_hold_it_back() {
        explore(
            || {
                let fairness = Fairness { bypass: 0, ..Fairness::default() };
                let list = WaitList::with_reserves([(2, [1, 1, 0, 0])], fairness);
                list.try_take(&ONE, &mut tell).expect("free");
                let yard = Yard { list, data: Guarded::new(), lane: Box::new(Node::new()) }.lane_waits(ONE);
                yard.list.drain(60_000_000_000, &mut tell);
                yard
            },
            &[
                |y: &Yard| Did::Acquire(y.list.acquire_alone(&ONE, 2, false)),
                |y: &Yard| Did::Try(y.list.try_take_as(&ONE, 1, &mut tell)),
            ],
            |y, seen| {
                assert_eq!(y.list.cancel(&y.lane, 0, &mut tell), Cancelled::Removed);
                assert_eq!((y.list.in_use(0), y.list.waiters(0)), (2, 0));
                (seen[0], seen[1])
            },
        )
        .exactly([(Did::Acquire(Ok(())), Did::Try(Err(Refused::Short { kind: 0 })))]);
    }

    /// Of three the low one that waits could have one as soon as two are there, for one is reserved; but a high one that
    /// wants all three holds it back, until it has them or leaves.
    #[test]
    fn a_high_waiter_holds_a_low_one_back_until_it_leaves() {
        const ALL: Demand = Demand::of(0, 3);
        explore(
            || {
                let fairness = Fairness { bypass: 0, ..Fairness::default() };
                let list = WaitList::with_reserves([(3, [1, 1, 0, 0])], fairness);
                list.try_take(&ALL, &mut tell).expect("free");
                let yard = Yard { list, data: Guarded::new(), lane: Box::new(Node::new()) }.lane_waits(ONE);
                (yard, Box::new(Node::new()))
            },
            &[
                |(y, high): &(Yard, Box<Node>)| {
                    // SAFETY: the node is boxed, and waits no longer when this body ends.
                    let queued = unsafe { y.list.enqueue(high, ALL, 2, 0, Waiter::Lane(1), &mut tell) };
                    // When all three are there, the low one has had its own.
                    assert_eq!(queued, Ok(Enqueued::Waiting));
                    Did::Cancel(y.list.cancel(high, 0, &mut tell))
                },
                |(y, _)| {
                    y.put(&TWO);
                    y.put(&ONE);
                    Did::It
                },
            ],
            |(y, _), seen| {
                let lane = y.list.cancel(&y.lane, 0, &mut tell);
                let high = if seen[0] == Did::Cancel(Cancelled::Removed) { 0 } else { 3 };
                assert_eq!(y.list.in_use(0), high + u64::from(lane == Cancelled::WasGranted));
                assert_eq!(y.list.waiters(0), 0);
                (seen[0], lane)
            },
        )
        .exactly([
            (Did::Cancel(Cancelled::WasGranted), Cancelled::Removed),
            (Did::Cancel(Cancelled::Removed), Cancelled::WasGranted),
        ]);
    }

    /// Two that wait, one put of two: one release may owe many.
    #[test]
    fn one_put_serves_two() {
        let body = |y: &Yard| y.acquire(&ONE);
        explore_bounded(
            BOUND,
            || Yard::new(&[2], &TWO),
            &[body, body, |y: &Yard| {
                y.put(&TWO);
                Ok(())
            }],
            |y, seen| {
                assert_eq!((y.list.in_use(0), y.list.waiters(0)), (2, 0));
                (seen[0], seen[1])
            },
        )
        .exactly([(Ok(()), Ok(()))]);
    }
}

/// Ten threads over two kinds, some with timeouts, the limits moving: everything comes back.
#[cfg(shuttle)]
#[test]
fn shuttle_ten_threads_leave_nothing_behind() {
    let storm = || {
        let yard = shuttle::sync::Arc::new(Yard::new(&[2, 1], &Demand::new()));
        let threads: Vec<_> = (0..10)
            .map(|i| {
                let y = yard.clone();
                shuttle::thread::spawn(move || {
                    if i == 9 {
                        y.list.set_limit(0, 1, 0, &mut tell);
                        y.list.set_limit(0, 2, 0, &mut tell);
                        return;
                    }
                    let d = [ONE, OTHER, BOTH][i % 3];
                    for _ in 0..3 {
                        if y.list.acquire_alone(&d, i % 4, i >= 6).is_ok() {
                            assert!(y.list.in_use(0) <= 2 && y.list.in_use(1) <= 1);
                            y.put(&d);
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic");
        }
        let end = [0, 1].map(|kind| (yard.list.available(kind), yard.list.waiters(kind)));
        assert_eq!(end, [(2, 0), (1, 0)]);
    };
    shuttle::check_random(storm, 2_000);
    shuttle::check_pct(storm, 2_000, 3);
}
