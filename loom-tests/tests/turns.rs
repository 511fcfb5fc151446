//! Models of `core/turns.rs`: a suspect runs beside nobody.
//!
//! Verified: rows that are no suspects and a suspect are never out together, whoever asks first; two suspects neither;
//! who is refused could not have been let in.
//!
//! Not verified: sides that stand still and go on (the head of that file says what is given up there); that who is
//! refused looks again (`claims.rs` has it with the kicks).

use batchyard::__model::turns::{Side, Sides, Turn, Turns};
use batchyard_loom_tests::{Body, explore, explore_bounded};

#[cfg(loom)]
use loom::sync::atomic::AtomicU32;
#[cfg(shuttle)]
use shuttle::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

const PLAIN: u32 = 1;
const SUSPECT: u32 = 0x100;

/// Two batches.
struct Journal {
    turns: Turns,
    sides: [Side; 2],
    /// Who runs now. Relaxed: that they exclude each other is the turns' doing.
    inside: AtomicU32,
}

fn journal() -> Journal {
    Journal { turns: Turns::new(), sides: [Side::new(), Side::new()], inside: AtomicU32::new(0) }
}

fn with_suspects() -> Journal {
    let journal = journal();
    journal.turns.suspect(&journal.sides[0], 1);
    journal.turns.suspect(&journal.sides[1], 1);
    journal
}

impl Journal {
    fn any(&self, what: &mut dyn FnMut(&Side, bool) -> bool) -> bool {
        self.sides.iter().any(|side| what(side, false))
    }
}

/// Gathered before the question, as the journal's are: nobody, if there were no suspects then.
struct Gathered<'a>(Option<&'a Journal>);

impl Sides for Gathered<'_> {
    fn any(&self, what: &mut dyn FnMut(&Side, bool) -> bool) -> bool {
        self.0.is_none_or(|journal| journal.any(what))
    }
}

impl Journal {
    fn gather(&self) -> Gathered<'_> {
        Gathered(self.turns.are_needed().then_some(self))
    }

    fn run(&self, who: u32) {
        let others = self.inside.fetch_add(who, Relaxed);
        if who == SUSPECT {
            assert_eq!(others, 0, "a suspect beside others");
        } else {
            assert!(others < SUSPECT, "others beside a suspect");
        }
        self.inside.fetch_sub(who, Relaxed);
    }

    /// Rows of a side that are no suspects. Whether they ran.
    fn plain(&self, side: usize) -> Turn {
        if !self.turns.hand_out(&self.sides[side], 1, &self.gather()) {
            return Turn::Later;
        }
        self.run(PLAIN);
        self.sides[side].landed(1);
        Turn::Yours
    }

    /// A suspect of a side.
    fn suspect(&self, side: usize) -> Turn {
        let turn = self.turns.turn(&self.sides[side], &self.gather());
        if turn == Turn::Yours {
            self.run(SUSPECT);
            self.sides[side].landed(1);
            self.turns.done(&self.sides[side], 1);
        }
        turn
    }
}

mod loop_free {
    use super::*;
    use Turn::{Later, Yours};

    /// A batch is opened that has a suspect, while rows of another are handed out.
    #[test]
    fn rows_and_a_suspect() {
        let bodies: [Body<Journal, Turn>; 2] = [
            |s| s.plain(0),
            |s| {
                s.turns.suspect(&s.sides[1], 1);
                s.suspect(1)
            },
        ];
        let explored = explore(journal, &bodies, |s, saw| {
            assert_eq!(s.sides[0].out() + s.sides[1].out(), 0);
            (saw[0], saw[1])
        });
        // Of the two at most one is refused.
        explored.exactly([(Yours, Yours), (Yours, Later), (Later, Yours)]);
    }

    /// Two suspects of two batches, and rows beside them.
    #[test]
    fn two_suspects() {
        let bodies: [Body<Journal, Turn>; 2] = [|s| s.suspect(0), |s| s.suspect(1)];
        let explored = explore(with_suspects, &bodies, |_, saw| (saw[0], saw[1]));
        explored.exactly([(Yours, Yours), (Yours, Later), (Later, Yours)]);
    }

    #[test]
    fn two_suspects_and_rows() {
        let bodies: [Body<Journal, Turn>; 3] = [|s| s.suspect(0), |s| s.suspect(1), |s| s.plain(0)];
        let explored = explore_bounded(Some(3), with_suspects, &bodies, |_, saw| (saw[0], saw[1], saw[2]));
        explored.exactly([
            (Yours, Yours, Yours),
            (Yours, Yours, Later),
            (Yours, Later, Later),
            (Later, Yours, Later),
        ]);
    }
}
