//! Models of `core/lifecycle.rs`.
//!
//! Verified: of `close` and the leaving, exactly one reports that the place is empty; nobody gets in after that;
//! who gets the report sees what those inside did; draining lets in what it needs until it is stopped.
//!
//! Not verified: the waiting for the signal itself (`sync::Parker`), and that callers own what they signal with.

use batchyard::__model::lifecycle::{Lifecycle, Phase};
use batchyard_loom_tests::{Body, explore, explore_bounded};

/// What a thread saw: whether it got in, and whether it was told that the place is empty.
type Saw = (bool, bool);

fn visit(life: &Lifecycle) -> Saw {
    let entered = life.enter();
    (entered, entered && life.leave())
}

fn close(life: &Lifecycle) -> Saw {
    (false, life.close(Phase::Stopped))
}

mod loop_free {
    use super::*;

    /// One visitor and the closer: exactly one report, whatever the order.
    #[test]
    fn enter_close_leave() {
        let bodies: [Body<Lifecycle, Saw>; 2] = [visit, close];
        explore(Lifecycle::new, &bodies, |life, saw| {
            assert_eq!((life.in_flight(), life.state()), (0, Phase::Stopped));
            saw
        })
        .exactly([
            vec![(false, false), (false, true)], // closed first: refused
            vec![(true, false), (false, true)],  // in and out before closing
            vec![(true, true), (false, false)],  // closed while inside: the last one out reports
        ]);
    }

    /// Two visitors and the closer: still exactly one report.
    #[test]
    fn one_report() {
        let bodies: [Body<Lifecycle, Saw>; 3] = [visit, visit, close];
        explore_bounded(Some(3), Lifecycle::new, &bodies, |life, saw| {
            assert_eq!(life.in_flight(), 0);
            saw.into_iter().filter(|(_, told)| *told).count()
        })
        .exactly([1]);
    }

    /// Two inside already: the report comes from exactly one of the three.
    #[test]
    fn last_one_out() {
        let bodies: [Body<Lifecycle, bool>; 3] =
            [|life| life.leave(), |life| life.leave(), |life| life.close(Phase::Draining)];
        let setup = || {
            let life = Lifecycle::new();
            assert!(life.enter() && life.enter());
            life
        };
        explore(setup, &bodies, |_, told| {
            assert_eq!(told.iter().filter(|told| **told).count(), 1, "{told:?}");
            told
        })
        .exactly([vec![true, false, false], vec![false, true, false], vec![false, false, true]]);
    }

    /// One inside brings in another while the place drains: it always can, and the last one out reports.
    #[test]
    fn draining_brings_in_its_own() {
        let bodies: [Body<Lifecycle, Vec<bool>>; 2] = [
            |life| {
                assert!(life.enter_draining(), "it is draining at most, and we are inside");
                vec![life.leave(), life.leave()]
            },
            |life| vec![life.close(Phase::Draining)],
        ];
        let setup = || {
            let life = Lifecycle::new();
            assert!(life.enter());
            life
        };
        explore(setup, &bodies, |_, told| told.concat())
            .exactly([vec![false, true, false], vec![false, false, true]]);
    }

    /// What those inside did is there for who gets the report. Loom sees a race in the cell otherwise.
    #[cfg(loom)]
    #[test]
    fn report_shows_the_work() {
        use loom::cell::UnsafeCell;
        struct Scope {
            life: Lifecycle,
            work: UnsafeCell<u32>,
            other: UnsafeCell<u32>,
        }
        // The cells stand for what a scoped borrow lends to those inside.
        unsafe impl Sync for Scope {}
        /// Works inside, and goes out; it came in in setup.
        fn visit(s: &Scope, work: impl Fn(&Scope) -> &UnsafeCell<u32>) -> Option<u32> {
            work(s).with_mut(|work| unsafe { *work += 1 });
            s.life.leave().then(|| sum(s))
        }
        fn sum(s: &Scope) -> u32 {
            // Writing, as the one whom the borrow goes back to may.
            s.work.with_mut(|a| {
                s.other.with_mut(|b| unsafe { std::mem::take(&mut *a) + std::mem::take(&mut *b) })
            })
        }
        let bodies: [Body<Scope, Option<u32>>; 3] = [
            |s| visit(s, |s| &s.work),
            |s| visit(s, |s| &s.other),
            |s| s.life.close(Phase::Stopped).then(|| sum(s)),
        ];
        let setup = || {
            let life = Lifecycle::new();
            assert!(life.enter() && life.enter());
            Scope { life, work: UnsafeCell::new(0), other: UnsafeCell::new(0) }
        };
        explore(setup, &bodies, |_, sums| sums).exactly([
            vec![Some(2), None, None],
            vec![None, Some(2), None],
            vec![None, None, Some(2)],
        ]);
    }
}

/// 14 visitors, one closer: one report, after which nobody is inside.
#[cfg(shuttle)]
#[test]
fn many_threads() {
    use batchyard_loom_tests::{Arc, thread};
    let model = || {
        let life = Arc::new(Lifecycle::new());
        let mut handles: Vec<_> = (0..14)
            .map(|_| {
                let life = life.clone();
                thread::spawn(move || (0..3).filter(|_| visit(&life).1).count())
            })
            .collect();
        handles.push({
            let life = life.clone();
            thread::spawn(move || usize::from(close(&life).1))
        });
        let reports: usize = handles.into_iter().map(|handle| handle.join().unwrap()).sum();
        assert_eq!((reports, life.in_flight()), (1, 0));
    };
    shuttle::check_random(model, 2_000);
    shuttle::check_pct(model, 2_000, 3);
}
