//! Models of `core/attempt.rs`.
//!
//! Verified: of settling and abandoning exactly one succeeds, and the loser sees what the winner did before; whoever
//! ends an attempt sees every effect that was let in, and none is let in after that; an abandonment that finds effects
//! on their way lets no more in, and exactly one caller hears that it is done; handles of an earlier attempt get
//! nothing from a later one; who sees an attempt sees what belongs to it.
//!
//! Not verified: the bound of the effects and the wrap of the epoch (unit tests); that a begin comes after whoever
//! ended the attempt before (the caller's promise); how long a settling worker waits.

use batchyard::__model::attempt::{Abandon, Attempt, Epoch, Refused};
use batchyard_loom_tests::{Body, explore};

#[cfg(loom)]
use loom::sync::atomic::AtomicU32;
#[cfg(shuttle)]
use shuttle::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// An attempt in hand. The cells are relaxed: what is seen in them is due to the attempt's word alone. A model has
/// those it needs, since each multiplies the executions.
struct Item {
    attempt: Attempt,
    epoch: Epoch,
    /// By effect: it is there.
    inbox: Vec<AtomicU32>,
    /// What worker and supervisor did before they ended it.
    before: Option<[AtomicU32; 2]>,
}

const WORKER: usize = 0;
const SUPERVISOR: usize = 1;

/// In hand, of so many effects.
fn item(effects: usize) -> Item {
    let attempt = Attempt::new();
    let epoch = attempt.begin();
    Item { attempt, epoch, inbox: (0..effects).map(|_| AtomicU32::new(0)).collect(), before: None }
}

/// As [`item`]; effect 0 has been let in.
fn item_with_one_in(effects: usize) -> Item {
    let item = item(effects);
    item.attempt.enter(item.epoch).expect("it is alone");
    item
}

/// With a look of the loser at what the winner did before.
fn watched(item: Item) -> Item {
    Item { before: Some([AtomicU32::new(0), AtomicU32::new(0)]), ..item }
}

impl Item {
    /// An effect from its beginning to its end. Whether it was let in.
    fn effect(&self, i: usize) -> bool {
        let entered = self.attempt.enter(self.epoch);
        if entered.is_ok() {
            self.arrive(i);
        }
        assert_ne!(entered, Err(Refused::Full));
        entered.is_ok()
    }

    /// The rest of an effect that was let in.
    fn arrive(&self, i: usize) {
        self.inbox[i].store(1, Relaxed);
        self.attempt.leave();
    }

    /// What is in the inbox now.
    fn arrived(&self) -> Vec<bool> {
        self.inbox.iter().map(|effect| effect.load(Relaxed) == 1).collect()
    }

    fn settle(&self) -> End {
        self.ending(WORKER);
        if self.attempt.settle(self.epoch) { Mine(self.arrived()) } else { self.lost(WORKER) }
    }

    /// One call of the supervisor.
    fn abandon(&self) -> End {
        self.ending(SUPERVISOR);
        match self.attempt.abandon(self.epoch) {
            Abandon::Done => Mine(self.arrived()),
            Abandon::Busy => Busy,
            Abandon::NotCurrent => self.lost(SUPERVISOR),
        }
    }

    /// The supervisor's call, and one more if it was told to come again.
    fn abandon_twice(&self) -> Vec<End> {
        match self.abandon() {
            Busy => vec![Busy, self.abandon()],
            end => vec![end],
        }
    }

    fn ending(&self, who: usize) {
        if let Some(before) = &self.before {
            before[who].store(1, Relaxed);
        }
    }

    fn lost(&self, who: usize) -> End {
        if let Some(before) = &self.before {
            assert_eq!(before[1 - who].load(Relaxed), 1, "the loser sees what the winner did");
        }
        Lost
    }

    /// The last effect has left: who was told to come again finds it done, with these effects.
    fn done_at_last(&self, effects: &[bool]) {
        assert_eq!(self.abandon(), mine(effects));
        assert_eq!(self.attempt.in_hand(), None);
    }
}

/// How it ended for one of those who tried.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// By the caller, who found these effects.
    Mine(Vec<bool>),
    Busy,
    Lost,
}
use End::{Busy, Lost, Mine};

fn mine(effects: &[bool]) -> End {
    Mine(effects.to_vec())
}

/// What a thread of these models saw: whether its effect was let in, or how it ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Saw {
    Entered(bool),
    Ended(Vec<End>),
}
use Saw::{Ended, Entered};

mod loop_free {
    use super::*;

    /// One end, and the loser sees what the winner did before.
    #[test]
    fn settle_against_abandon() {
        let bodies: [Body<Item, End>; 2] = [|s| s.settle(), |s| s.abandon()];
        explore(
            || watched(item(0)),
            &bodies,
            |s, ends| {
                assert_eq!(s.attempt.in_hand(), None);
                ends
            },
        )
        .exactly([vec![mine(&[]), Lost], vec![Lost, mine(&[])]]);
    }

    /// An effect that was let in is in the inbox when the supervisor hears that it is done; no other is.
    #[test]
    fn effect_against_abandon() {
        let bodies: [Body<Item, Saw>; 2] = [|s| Entered(s.effect(0)), |s| Ended(s.abandon_twice())];
        explore(
            || item(1),
            &bodies,
            |s, saw| {
                if saw[1] == Ended(vec![Busy, Busy]) {
                    s.done_at_last(&[true]);
                }
                saw
            },
        )
        .exactly([
            vec![Entered(false), Ended(vec![mine(&[false])])],
            vec![Entered(true), Ended(vec![mine(&[true])])],
            vec![Entered(true), Ended(vec![Busy, mine(&[true])])],
            vec![Entered(true), Ended(vec![Busy, Busy])],
        ]);
    }

    /// Two effects: each is in the inbox or refused.
    #[test]
    fn two_effects_against_abandon() {
        let bodies: [Body<Item, Saw>; 3] =
            [|s| Entered(s.effect(0)), |s| Entered(s.effect(1)), |s| Ended(s.abandon_twice())];
        let outcome = |[a, b]: [bool; 2], ends: &[End]| vec![Entered(a), Entered(b), Ended(ends.to_vec())];
        let mut expected = vec![outcome([false, false], &[mine(&[false, false])])];
        for effects in [[true, false], [false, true], [true, true]] {
            expected.push(outcome(effects, &[mine(&effects)]));
            expected.push(outcome(effects, &[Busy, mine(&effects)]));
            expected.push(outcome(effects, &[Busy, Busy]));
        }
        explore(
            || item(2),
            &bodies,
            |s, saw| {
                if saw[2] == Ended(vec![Busy, Busy]) {
                    s.done_at_last(&[0, 1].map(|i| saw[i] == Entered(true)));
                }
                saw
            },
        )
        .exactly(expected);
    }

    /// Once the supervisor was told to come again, nothing more is let in.
    #[test]
    fn busy_closes_the_door() {
        struct Door {
            item: Item,
            closed: AtomicU32,
        }
        let bodies: [Body<Door, bool>; 2] = [
            |s| {
                let closed = s.closed.load(Acquire) == 1;
                let entered = s.item.effect(1);
                assert!(!(closed && entered), "the door was closed");
                entered
            },
            |s| {
                assert_eq!(s.item.abandon(), Busy);
                s.closed.store(1, Release);
                false
            },
        ];
        explore(
            || Door { item: item_with_one_in(2), closed: AtomicU32::new(0) },
            &bodies,
            |s, entered| {
                s.item.arrive(0);
                s.item.done_at_last(&[true, entered[0]]);
                entered[0]
            },
        )
        .exactly([true, false]);
    }

    /// Two abandon, with an effect on its way: one of all calls hears that it is done.
    #[test]
    fn two_abandoners() {
        let bodies: [Body<Item, Vec<End>>; 3] = [
            |s| {
                s.arrive(0);
                vec![]
            },
            |s| s.abandon_twice(),
            |s| s.abandon_twice(),
        ];
        explore(
            || item_with_one_in(1),
            &bodies,
            |s, mut ends| {
                let done = ends.concat().iter().filter(|end| **end == mine(&[true])).count();
                assert!(done <= 1, "{ends:?}");
                if done == 0 {
                    s.done_at_last(&[true]);
                }
                ends.sort(); // either of them may be the lucky one
                ends
            },
        )
        .exactly_together([
            vec![vec![], vec![mine(&[true])], vec![Lost]],
            vec![vec![], vec![mine(&[true])], vec![Busy, Lost]],
            vec![vec![], vec![mine(&[true])], vec![Busy, Busy]],
            vec![vec![], vec![Busy, mine(&[true])], vec![Lost]],
            vec![vec![], vec![Busy, mine(&[true])], vec![Busy, Lost]],
            vec![vec![], vec![Busy, mine(&[true])], vec![Busy, Busy]],
            vec![vec![], vec![Busy, Busy], vec![Busy, Busy]],
        ]);
    }

    /// The attempt is abandoned, and a successor begins and settles the next on the same word, while the worker
    /// comes back late with an effect and its outcome: it gets nothing from the next.
    #[test]
    fn late_return() {
        let bodies: [Body<Item, (bool, End)>; 2] = [
            |s| {
                let end = s.abandon();
                if let Mine(_) = end {
                    let next = s.attempt.begin();
                    assert!(s.attempt.settle(next), "it is its own");
                }
                (false, end)
            },
            |s| (s.effect(0), s.settle()),
        ];
        explore(
            || item(1),
            &bodies,
            |s, saw| {
                let [(_, abandoned), (entered, settled)] = &saw[..] else { unreachable!("two bodies") };
                if *abandoned == Busy {
                    s.done_at_last(&[true]);
                }
                assert_eq!(s.attempt.in_hand(), None);
                (*entered, settled.clone(), abandoned.clone())
            },
        )
        .exactly([
            (true, mine(&[true]), Lost),
            (true, Lost, Busy),
            (true, Lost, mine(&[true])),
            (false, Lost, mine(&[false])),
        ]);
    }

    /// A pinned attempt is ended by its owner whatever others try, and the next begins as if they had not.
    #[test]
    fn pinned_stays() {
        fn pinned() -> Item {
            let item = item(1);
            assert!(item.attempt.settle(item.epoch));
            let epoch = item.attempt.begin_pinned();
            Item { epoch, ..item }
        }
        let bodies: [Body<Item, (bool, End)>; 2] = [
            |s| {
                assert!(s.attempt.is_current(s.epoch), "nobody has taken it");
                s.attempt.end(s.epoch);
                let next = s.attempt.begin();
                assert!(s.attempt.settle(next), "it is its own");
                (false, Busy)
            },
            |s| (s.effect(0), s.abandon()),
        ];
        explore(pinned, &bodies, |s, saw| {
            assert_eq!(s.attempt.in_hand(), None);
            saw[1].clone()
        })
        .exactly([(false, Lost)]);
    }

    /// Who finds an attempt in hand finds what was written for it.
    #[test]
    fn look_shows_what_belongs_to_it() {
        struct Place {
            attempt: Attempt,
            deadline: AtomicU32,
        }
        let bodies: [Body<Place, Option<u32>>; 2] = [
            |s| {
                s.deadline.store(7, Relaxed);
                s.attempt.begin();
                None
            },
            |s| s.attempt.in_hand().map(|_| s.deadline.load(Relaxed)),
        ];
        explore(
            || Place { attempt: Attempt::new(), deadline: AtomicU32::new(0) },
            &bodies,
            |_, seen| seen[1],
        )
        .exactly_together([None, Some(7)]);
    }
}

/// The worker settles while another thread of its item hands an effect in: it is in the inbox by then, or refused.
#[test]
fn effect_against_settle() {
    let bodies: [Body<Item, Saw>; 2] = [|s| Entered(s.effect(0)), |s| Ended(vec![s.settle()])];
    explore(
        || item(1),
        &bodies,
        |s, saw| {
            assert_eq!(s.attempt.in_hand(), None);
            saw
        },
    )
    .exactly([
        vec![Entered(true), Ended(vec![mine(&[true])])],
        vec![Entered(false), Ended(vec![mine(&[false])])],
    ]);
}

/// One effect holds the settling up, another comes then: it is in the inbox as well, or refused.
#[test]
fn settling_lets_nothing_in() {
    let bodies: [Body<Item, Saw>; 3] = [
        |s| {
            s.arrive(0);
            Entered(true)
        },
        |s| Entered(s.effect(1)),
        |s| Ended(vec![s.settle()]),
    ];
    let outcome = |entered| vec![Entered(true), Entered(entered), Ended(vec![mine(&[true, entered])])];
    explore(
        || item_with_one_in(2),
        &bodies,
        |s, saw| {
            assert_eq!(s.attempt.in_hand(), None);
            saw
        },
    )
    .exactly([outcome(true), outcome(false)]);
}

/// A worker that settles while an effect is on its way, and the supervisor: one end, the effect comes before it, and
/// the supervisor that comes too late sees what the worker did, while that waits for the effect and after.
#[test]
fn late_abandon_sees_the_settling() {
    let bodies: [Body<Item, Vec<End>>; 3] = [
        |s| {
            s.arrive(0);
            vec![]
        },
        |s| vec![s.settle()],
        |s| vec![s.abandon()],
    ];
    explore(
        || watched(item_with_one_in(1)),
        &bodies,
        |s, ends| {
            if ends[2] == [Busy] {
                s.done_at_last(&[true]);
            }
            ends.concat()
        },
    )
    .exactly([vec![mine(&[true]), Lost], vec![Lost, mine(&[true])], vec![Lost, Busy]]);
}

/// All three at once: the effect is in the inbox of whoever ended the attempt, or refused.
#[test]
fn effect_settle_and_abandon() {
    let bodies: [Body<Item, Saw>; 3] =
        [|s| Entered(s.effect(0)), |s| Ended(vec![s.settle()]), |s| Ended(s.abandon_twice())];
    let outcome = |entered, settled: End, abandoned: &[End]| {
        vec![Entered(entered), Ended(vec![settled]), Ended(abandoned.to_vec())]
    };
    explore(
        || item(1),
        &bodies,
        |s, saw| {
            if saw[2] == Ended(vec![Busy, Busy]) {
                s.done_at_last(&[true]);
            }
            saw
        },
    )
    .exactly([
        outcome(true, mine(&[true]), &[Lost]),
        outcome(false, mine(&[false]), &[Lost]),
        outcome(true, Lost, &[mine(&[true])]),
        outcome(false, Lost, &[mine(&[false])]),
        outcome(true, Lost, &[Busy, mine(&[true])]),
        outcome(true, Lost, &[Busy, Busy]),
    ]);
}

/// One word, six attempts after each other, eight threads of effects and two that abandon. The log says for each
/// attempt: effects, then one end, then nothing.
#[cfg(shuttle)]
#[test]
fn many_threads() {
    use batchyard_loom_tests::{Arc, thread};
    use shuttle::sync::Mutex;

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Entry {
        Effect(Epoch),
        End(Epoch),
    }
    struct Shared {
        attempt: Attempt,
        log: Mutex<Vec<Entry>>,
    }
    let model = || {
        let shared = Arc::new(Shared { attempt: Attempt::new(), log: Mutex::new(Vec::new()) });
        let mut handles = vec![{
            let s = shared.clone();
            thread::spawn(move || {
                for _ in 0..6 {
                    let epoch = s.attempt.begin();
                    if s.attempt.settle(epoch) {
                        s.log.lock().unwrap().push(Entry::End(epoch));
                    } else {
                        // In the successor's stead, who comes after the end.
                        while s.attempt.in_hand().is_some() {
                            thread::yield_now();
                        }
                    }
                }
            })
        }];
        for _ in 0..8 {
            let s = shared.clone();
            handles.push(thread::spawn(move || {
                for _ in 0..3 {
                    let epoch = s.attempt.last();
                    thread::yield_now();
                    if s.attempt.enter(epoch).is_ok() {
                        s.log.lock().unwrap().push(Entry::Effect(epoch));
                        s.attempt.leave();
                    }
                }
            }));
        }
        for _ in 0..2 {
            let s = shared.clone();
            handles.push(thread::spawn(move || {
                for _ in 0..4 {
                    let epoch = s.attempt.last();
                    let answer = loop {
                        match s.attempt.abandon(epoch) {
                            Abandon::Busy => thread::yield_now(),
                            answer => break answer,
                        }
                    };
                    if answer == Abandon::Done {
                        s.log.lock().unwrap().push(Entry::End(epoch));
                    }
                }
            }));
        }
        handles.into_iter().for_each(|handle| handle.join().unwrap());
        assert_eq!(shared.attempt.in_hand(), None);
        let log = shared.log.lock().unwrap();
        let ends: Vec<Epoch> = log
            .iter()
            .filter_map(|entry| if let Entry::End(epoch) = entry { Some(*epoch) } else { None })
            .collect();
        assert_eq!(ends.len(), 6, "{log:?}");
        for epoch in ends {
            let end = log.iter().position(|entry| *entry == Entry::End(epoch)).expect("found above");
            let mut later = log[end + 1..].iter();
            assert!(
                !later.any(|e| matches!(e, Entry::End(of) | Entry::Effect(of) if *of == epoch)),
                "{log:?}"
            );
        }
    };
    shuttle::check_random(model, 2_000);
    shuttle::check_pct(model, 2_000, 3);
}
