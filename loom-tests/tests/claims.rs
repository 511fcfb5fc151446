//! Models of `core/claims.rs`: rows on their way from the table to their end.
//!
//! Verified: every row ends run or dropped, once, and nothing is left lying, with two workers, with claims that arrive
//! while others take, with landings that make room for the next, with a batch that is stopped at any moment, with
//! rows of another batch that have to run alone; one ask is on its way at a time; no more is out than may be.
//!
//! The writer is whoever has an ask: the thread that got it claims its rows and hands them over, at any later moment.
//! What is left to look at again is looked at when all threads have ended, which is later than any.
//!
//! Not verified: the table's own order and commits (property tests of the store); when what was put off comes due.

use batchyard::__model::claims::{Ask, Asker, Claims, Dropped, Kind, Limits, Next};
use batchyard::__model::turns::{Side, Sides, Turns};
use batchyard_loom_tests::{Body, explore, explore_bounded};

#[cfg(loom)]
use loom::sync::atomic::AtomicU32;
#[cfg(shuttle)]
use shuttle::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};

const SUSPECT: u32 = 0x100;

/// A journal of two batches.
struct Journal {
    turns: Turns,
    batches: [Batch; 2],
    /// Who runs now.
    inside: AtomicU32,
    most_out: usize,
}

struct Batch {
    claims: Claims<Kind>,
    /// Rows of the table that nobody has claimed.
    table: AtomicU32,
    /// Rows that have run.
    ran: AtomicU32,
    /// Somebody is to look again.
    again: AtomicU32,
}

/// The first batch has rows in the table.
fn journal(rows: u32, most_out: usize) -> Journal {
    let limits = Limits { page: 1, most_page: 1, most_out };
    let batch = |rows| Batch {
        claims: Claims::new(limits, u64::from(rows)),
        table: AtomicU32::new(rows),
        ran: AtomicU32::new(0),
        again: AtomicU32::new(0),
    };
    Journal { turns: Turns::new(), batches: [batch(rows), batch(0)], inside: AtomicU32::new(0), most_out }
}

impl Sides for &Journal {
    fn any(&self, what: &mut dyn FnMut(&Side, bool) -> bool) -> bool {
        self.batches.iter().any(|batch| what(batch.claims.side(), false))
    }
}

impl Journal {
    fn asker(&self) -> Asker<'_, &Journal> {
        Asker { turns: &self.turns, sides: self, still: false }
    }

    /// A worker that was kicked takes what there is, runs it and lands it.
    fn work(&self, batch: usize) {
        let there = &self.batches[batch];
        let mut taken = Vec::new();
        let (found, next) = there.claims.take(1, &self.asker(), &mut taken);
        self.go_on(batch, next);
        for kind in taken {
            self.run(kind);
            there.ran.fetch_add(1, Relaxed);
            self.go_on(batch, there.claims.landed(1, &self.asker()));
            if kind == Kind::Suspect {
                self.turns.done(there.claims.side(), 1);
                // Everybody is kicked.
                self.work(0);
                self.work(1);
            }
        }
        if found.is_some_and(|found| found.more) {
            self.work(batch);
        }
    }

    fn run(&self, kind: Kind) {
        let who = if kind == Kind::Suspect { SUSPECT } else { 1 };
        let others = self.inside.fetch_add(who, Relaxed);
        if who == SUSPECT {
            assert_eq!(others, 0, "a suspect beside others");
        } else {
            assert!(others < SUSPECT, "others beside a suspect");
            assert!((others as usize) < self.most_out, "more is out than may be");
        }
        self.inside.fetch_sub(who, Relaxed);
    }

    fn go_on(&self, batch: usize, next: Next) {
        match next {
            Next::Nothing => {}
            Next::LookAgain => drop(self.batches[batch].again.fetch_add(1, Relaxed)),
            Next::Send(ask) => self.write(batch, ask),
        }
    }

    /// The writer's part: the claim, its commit, and the kick.
    fn write(&self, batch: usize, ask: Ask) {
        let there = &self.batches[batch];
        let by_name = if ask.suspect { Kind::Suspect } else { Kind::Named };
        let mut rows: Vec<_> = ask.names.iter().map(|_| (by_name, by_name)).collect();
        let mut more = false;
        if ask.max > 0 {
            // One row a page.
            let left = there.table.fetch_sub(1, AcqRel);
            assert!(left > 0, "claimed what is not there");
            rows.push((Kind::Plain, Kind::Plain));
            more = left > 1;
        }
        match there.claims.claimed(rows, ask.max, more) {
            Ok(()) => self.work(batch),
            Err(rows) => {
                for (kind, _) in rows {
                    if kind == Kind::Suspect {
                        self.go_on(batch, there.claims.landed(1, &self.asker()));
                        self.turns.done(there.claims.side(), 1);
                        self.work(0);
                        self.work(1);
                    }
                }
            }
        }
    }

    fn stop(&self, batch: usize) -> u32 {
        let there = &self.batches[batch];
        let Dropped { ready, unclaimed, backing_off, suspects, asked_suspect } = there.claims.stop();
        self.turns.done(there.claims.side(), suspects as u64);
        for (kind, _) in &ready {
            if *kind == Kind::Suspect {
                self.go_on(batch, there.claims.landed(1, &self.asker()));
                self.turns.done(there.claims.side(), 1);
            }
        }
        self.work(0);
        self.work(1);
        (ready.len() + unclaimed as usize + backing_off + suspects) as u32 + u32::from(asked_suspect)
    }

    fn ran(&self, batch: usize) -> u32 {
        self.batches[batch].ran.load(Relaxed)
    }

    /// At rest: what of the first batch has run.
    fn in_the_end(&self) -> u32 {
        self.rest();
        self.ran(0)
    }

    /// Everything is at rest: who was to look again does, until nobody is.
    fn rest(&self) {
        while let Some(batch) = (0..2).find(|batch| self.batches[*batch].again.swap(0, AcqRel) > 0) {
            self.work(batch);
        }
        for batch in &self.batches {
            assert_eq!(batch.claims.side().out(), 0, "something never landed");
        }
    }
}

mod loop_free {
    use super::*;

    /// Two workers, three rows, one out at a time: each landing makes room for the next.
    #[test]
    fn two_workers() {
        let bodies: [Body<Journal, ()>; 2] = [|s| s.work(0), |s| s.work(0)];
        let explored = explore(|| journal(3, 1), &bodies, |s, _| s.in_the_end());
        explored.exactly([3]);
    }

    /// The same with two out.
    #[test]
    fn two_workers_two_out() {
        let bodies: [Body<Journal, ()>; 2] = [|s| s.work(0), |s| s.work(0)];
        let explored = explore_bounded(Some(3), || journal(3, 2), &bodies, |s, _| s.in_the_end());
        explored.exactly([3]);
    }

    /// Two land, and only when both have may the next be asked for.
    #[test]
    fn two_land() {
        let setup = || {
            let s = journal(1, 1);
            // Rows that were let out under a larger bound.
            for _ in 0..2 {
                assert!(s.turns.hand_out(s.batches[0].claims.side(), 1, &&s));
            }
            s
        };
        let land: Body<Journal, bool> = |s| {
            let next = s.batches[0].claims.landed(1, &s.asker());
            let asked = next != Next::Nothing;
            s.go_on(0, next);
            asked
        };
        let explored = explore(setup, &[land, land], |s, asked| {
            s.rest();
            assert_eq!(s.ran(0), 1, "nobody asked for the last row");
            (asked[0], asked[1])
        });
        explored.exactly([(true, false), (false, true)]);
    }

    /// A submission is committed while a worker looks.
    #[test]
    fn arrivals() {
        let bodies: [Body<Journal, ()>; 2] = [
            |s| s.work(0),
            |s| {
                s.batches[0].table.fetch_add(1, AcqRel);
                s.batches[0].claims.arrived(vec![Kind::Plain], 1).expect("nobody stops");
                s.work(0);
            },
        ];
        let explored = explore(|| journal(0, 2), &bodies, |s, _| s.in_the_end());
        explored.exactly([2]);
    }

    /// The batch ends while rows are claimed, in order and by name, taken and landed.
    #[test]
    fn stopped() {
        let bodies: [Body<Journal, u32>; 2] = [
            |s| {
                let (_, next) = s.batches[0].claims.due(1, &s.asker());
                s.go_on(0, next);
                0
            },
            |s| s.stop(0),
        ];
        let setup = || {
            let s = journal(1, 2);
            s.batches[0].claims.put_off(0, 7).expect("nobody stops");
            s
        };
        let explored = explore(setup, &bodies, |s, dropped| {
            s.rest();
            (s.ran(0), dropped[1])
        });
        explored.exactly([(0, 2), (1, 1), (2, 0)]);
    }

    /// What comes back is put off, or counted by who finds the batch stopped.
    #[test]
    fn put_off_against_stop() {
        let bodies: [Body<Journal, u32>; 2] = [
            |s| {
                let put = s.batches[0].claims.put_off(0, 7);
                let (_, next) = s.batches[0].claims.due(1, &s.asker());
                s.go_on(0, next);
                u32::from(put.is_err())
            },
            |s| s.stop(0),
        ];
        let explored = explore(
            || journal(0, 2),
            &bodies,
            |s, dropped| {
                s.rest();
                (s.ran(0), dropped[0], dropped[1])
            },
        );
        explored.exactly([(1, 0, 0), (0, 1, 0), (0, 0, 1)]);
    }

    fn one_and_a_suspect() -> Journal {
        let s = journal(1, 2);
        s.batches[1].claims.suspect(9, &s.turns).expect("nobody stops");
        s
    }

    /// Rows of one batch, a suspect of another: each runs, neither beside the other.
    #[test]
    fn rows_and_a_suspect() {
        let bodies: [Body<Journal, ()>; 2] = [|s| s.work(0), |s| s.work(1)];
        let explored = explore(one_and_a_suspect, &bodies, |s, _| {
            s.rest();
            (s.ran(0), s.ran(1))
        });
        explored.exactly([(1, 1)]);
    }

    /// The suspect's batch ends meanwhile: it runs or is dropped, and holds nobody up.
    #[test]
    fn a_suspect_is_stopped() {
        let bodies: [Body<Journal, u32>; 2] = [
            |s| {
                s.work(1);
                0
            },
            |s| s.stop(1),
        ];
        let explored = explore(one_and_a_suspect, &bodies, |s, dropped| {
            s.rest();
            (s.ran(0), s.ran(1), dropped[1])
        });
        explored.exactly([(1, 1, 0), (1, 0, 1)]);
    }
}
