//! `core/leader.rs`.
//!
//! Verified, for every interleaving (of at most two preemptions with three threads) and every value that the memory orders
//! allow, in every spawn order: whoever waits is granted in the end, whatever the leader does (its tokens come, it gives
//! up at its deadline, a higher class takes the lead from it), or the model deadlocks, for followers sleep without a
//! time; no token twice and none lost, also when a grant meets a deadline; who was granted sees the stamp; a newcomer that comes
//! after who waits does not take its token; nobody is counted as waiting at the end; terms that change reach a leader that
//! sleeps to a time which does not come, and demands that never fit any more are refused, whoever sleeps behind them.
//!
//! Not verified here: the order of grants and their stamps (property tests against an oracle, `limit/waiting/laws.rs`); the leader's timed sleep, which is over at once here and moves the time to where it was to end; more than three threads
//! (the shuttle test runs nine).

use batchyard::__model::leader::{Claim, Leader, Left, Take, Turn};
use batchyard::__model::waitlist::{Node, Waiter};
use batchyard_loom_tests::{explore, explore_bounded};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(shuttle)]
use shuttle::sync::atomic::{AtomicU64, Ordering};

const BOUND: Option<usize> = Some(2);

/// One token a tick, none saved. The time is that of whoever slept last.
struct Yard {
    line: Leader,
    /// The next tick that has not been given out.
    next: AtomicU64,
    time: AtomicU64,
}

impl Yard {
    fn new() -> Self {
        Yard { line: Leader::new(), next: AtomicU64::new(1), time: AtomicU64::new(0) }
    }

    fn take(&self) -> Take {
        let time = self.time.load(Ordering::SeqCst);
        let mut next = self.next.load(Ordering::SeqCst);
        while next <= time {
            match self.next.compare_exchange(next, next + 1, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Take::At(next),
                Err(now) => next = now,
            }
        }
        Take::Until(next)
    }

    fn wait(&self, class: usize) -> Result<u64, Left> {
        self.line.acquire_alone(
            (1, class),
            true,
            |_: Claim| self.take(),
            |due| {
                self.time.fetch_max(due, Ordering::SeqCst);
                true
            },
        )
    }

    /// Gives up as soon as it would have to sleep.
    fn try_for_a_moment(&self) -> Result<u64, Left> {
        self.line.acquire_alone((1, 1), false, |_: Claim| self.take(), |_| false)
    }

    fn newcomer(&self) -> Result<u64, Left> {
        if self.line.waiting() == 0
            && let Take::At(stamp) = self.take()
        {
            return Ok(stamp);
        }
        Err(Left::GaveUp)
    }

    /// Nobody waits, and as many tokens are gone as were granted.
    fn at_rest(&self, seen: &[Result<u64, Left>]) {
        assert_eq!((self.line.waiting(), self.line.units()), (0, 0));
        let granted = seen.iter().filter(|got| got.is_ok()).count() as u64;
        assert_eq!(self.next.load(Ordering::SeqCst), 1 + granted, "tokens lost: {seen:?}");
    }
}

const GAVE_UP: Result<u64, Left> = Err(Left::GaveUp);

#[test]
fn two_wait_and_both_are_granted() {
    let body = |y: &Yard| y.wait(1);
    explore(Yard::new, &[body, body], |y, seen| {
        y.at_rest(&seen);
        seen
    })
    .exactly_together([vec![Ok(1), Ok(2)], vec![Ok(2), Ok(1)]]);
}

#[test]
fn a_leader_that_gives_up_hands_over() {
    explore(Yard::new, &[|y: &Yard| y.try_for_a_moment(), |y: &Yard| y.wait(1)], |y, seen| {
        y.at_rest(&seen);
        seen
    })
    // The second may have let the time pass before the first came, or grant the first what it was about to leave.
    .exactly_together([vec![GAVE_UP, Ok(1)]]);
}

#[test]
fn a_grant_against_a_deadline_has_one_winner() {
    explore(
        || {
            let y = Yard::new();
            y.time.store(1, Ordering::SeqCst);
            y.next.store(2, Ordering::SeqCst);
            y
        },
        &[
            |y: &Yard| y.try_for_a_moment(),
            // The time passes, and somebody else looks.
            |y: &Yard| {
                y.time.store(3, Ordering::SeqCst);
                y.try_for_a_moment()
            },
        ],
        |y, seen| {
            assert_eq!(y.line.waiting(), 0);
            let granted = seen.iter().filter(|got| got.is_ok()).count() as u64;
            assert_eq!(y.next.load(Ordering::SeqCst), 2 + granted, "tokens lost: {seen:?}");
            seen
        },
    )
    .exactly_together([vec![GAVE_UP, Ok(2)], vec![Ok(2), Ok(3)], vec![Ok(3), Ok(2)]]);
}

#[test]
fn a_higher_class_takes_the_lead() {
    explore(Yard::new, &[|y: &Yard| y.wait(0), |y: &Yard| y.wait(3)], |y, seen| {
        y.at_rest(&seen);
        seen
    })
    .exactly_together([vec![Ok(1), Ok(2)], vec![Ok(2), Ok(1)]]);
}

/// Somebody waits, and its token comes: a newcomer that came after it does not take it.
#[test]
fn a_newcomer_does_not_pass_who_waits() {
    explore(
        || {
            let (y, node) = (Yard::new(), Box::new(Node::new()));
            // SAFETY: the node is boxed, and out of the line before the end.
            let turn = unsafe {
                y.line.join(&node, (1, 1), 0, Waiter::Lane(0), &mut |_| y.take(), &mut Leader::unpark)
            };
            assert_eq!(turn, Turn::Lead { due: 1, rise: None });
            (y, node)
        },
        &[
            |(y, node): &(Yard, Box<Node>)| {
                y.time.store(1, Ordering::SeqCst);
                match y.line.look(node, 0, &mut |_| y.take(), &mut Leader::unpark) {
                    Turn::Granted(stamp) => Ok(stamp),
                    turn => panic!("passed: {turn:?}"),
                }
            },
            |(y, _)| y.newcomer(),
        ],
        |(y, _), seen| {
            y.at_rest(&seen);
            seen
        },
    )
    .exactly([vec![Ok(1), GAVE_UP]]);
}

#[test]
fn three_wait_and_one_gives_up() {
    explore_bounded(
        BOUND,
        Yard::new,
        &[|y: &Yard| y.wait(1), |y: &Yard| y.try_for_a_moment(), |y: &Yard| y.wait(2)],
        |y, seen| {
            y.at_rest(&seen);
            assert!(seen[0].is_ok() && seen[2].is_ok());
            seen[1].is_ok()
        },
    )
    .exactly_together([false]);
}

/// No token comes by itself: what is there, and how many may be asked for at once, is what somebody sets.
struct Dry {
    line: Leader,
    there: AtomicU64,
    most: AtomicU64,
}

impl Dry {
    fn new() -> Self {
        Dry { line: Leader::new(), there: AtomicU64::new(0), most: AtomicU64::new(2) }
    }

    fn take(&self, claim: Claim) -> Take {
        if claim.n > self.most.load(Ordering::SeqCst) {
            return Take::Never;
        }
        let there = self.there.load(Ordering::SeqCst);
        if there < claim.n {
            return Take::Until(u64::MAX);
        }
        // Others only add.
        self.there.fetch_sub(claim.n, Ordering::SeqCst);
        Take::At(1)
    }

    fn wait(&self, n: u64) -> Result<u64, Left> {
        self.line.acquire_alone((n, 1), true, |claim| self.take(claim), |_| true)
    }

    /// As a limiter does: the terms, then the line.
    fn fill(&self, n: u64) -> Result<u64, Left> {
        self.there.fetch_add(n, Ordering::SeqCst);
        self.line.kick(&mut Leader::unpark);
        Ok(0)
    }

    fn lower(&self, most: u64, there: u64) -> Result<u64, Left> {
        self.most.store(most, Ordering::SeqCst);
        self.there.fetch_add(there, Ordering::SeqCst);
        self.line.refuse_above(most, &mut |claim| self.take(claim), &mut Leader::unpark);
        self.line.kick(&mut Leader::unpark);
        Ok(0)
    }

    fn at_rest(&self) {
        assert_eq!((self.line.waiting(), self.line.units()), (0, 0));
        assert_eq!(self.there.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn changed_terms_reach_a_leader_that_sleeps() {
    explore(Dry::new, &[|d: &Dry| d.wait(1), |d: &Dry| d.fill(1)], |d, seen| {
        d.at_rest();
        seen[0]
    })
    .exactly_together([Ok(1)]);
}

#[test]
fn changed_terms_reach_who_sleeps_behind_the_leader() {
    explore_bounded(
        BOUND,
        Dry::new,
        &[|d: &Dry| d.wait(1), |d: &Dry| d.wait(1), |d: &Dry| d.fill(2)],
        |d, seen| {
            d.at_rest();
            (seen[0], seen[1])
        },
    )
    .exactly_together([(Ok(1), Ok(1))]);
}

#[test]
fn what_never_fits_any_more_is_refused() {
    explore(Dry::new, &[|d: &Dry| d.wait(2), |d: &Dry| d.lower(1, 0)], |d, seen| {
        d.at_rest();
        seen[0]
    })
    .exactly_together([Err(Left::Never)]);
}

/// The one that is refused may lead; what is there is for the other.
#[test]
fn who_sleeps_behind_the_refused_is_served() {
    explore_bounded(
        BOUND,
        Dry::new,
        &[|d: &Dry| d.wait(2), |d: &Dry| d.wait(1), |d: &Dry| d.lower(1, 1)],
        |d, seen| {
            d.at_rest();
            (seen[0], seen[1])
        },
    )
    .exactly_together([(Err(Left::Never), Ok(1))]);
}

/// Six wait in all classes, two give up, one does not wait.
#[cfg(shuttle)]
#[test]
fn nine_threads() {
    use batchyard_loom_tests::{Arc, thread};
    fn model() {
        let y = Arc::new(Yard::new());
        let threads: Vec<_> = (0..9)
            .map(|id| {
                let y = y.clone();
                thread::spawn(move || match id {
                    0..6 => y.wait(id % 4),
                    6..8 => y.try_for_a_moment(),
                    _ => y.newcomer(),
                })
            })
            .collect();
        let seen: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        y.at_rest(&seen);
        assert!(seen[..6].iter().all(Result::is_ok));
    }
    shuttle::check_random(model, 2_000);
    shuttle::check_pct(model, 1_000, 3);
}
