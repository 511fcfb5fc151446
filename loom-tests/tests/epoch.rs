//! `core/epoch.rs`.
//!
//! Verified, for every interleaving and every value that the memory orders allow, in every spawn order: of those who were sent
//! in one epoch exactly one ends it, also by a clock that lags; who was sent in the next one may end that, too, and an epoch
//! never goes back.
//!
//! Not verified here: what is done to the rate then (under a latch, `limit/adaptive.rs`).

use batchyard::__model::epoch::Epoch;
use batchyard_loom_tests::explore;

mod loop_free {
    use super::*;

    #[test]
    fn one_of_two_ends_the_epoch() {
        explore(
            || Epoch::new(0),
            &[|e: &Epoch| e.end(1, 5), |e: &Epoch| e.end(2, 5)],
            |e, seen| {
                assert_eq!(e.since(), 5);
                (seen[0], seen[1])
            },
        )
        .exactly_together([(true, false), (false, true)]);
    }

    #[test]
    fn one_of_three_ends_the_epoch() {
        let body = |e: &Epoch| e.end(1, 5);
        explore(|| Epoch::new(0), &[body, body, body], |_, seen| seen.iter().filter(|ended| **ended).count())
            .exactly([1]);
    }

    /// Both were sent at 6, and are told when it is 5 by the clock of who tells them.
    #[test]
    fn a_clock_that_lags_does_not_end_it_twice() {
        let body = |e: &Epoch| e.end(6, 5);
        explore(
            || Epoch::new(0),
            &[body, body],
            |e, seen| {
                assert_eq!(e.since(), 6);
                (seen[0], seen[1])
            },
        )
        .exactly_together([(true, false), (false, true)]);
    }

    /// The second was sent after the first heard of it: two epochs, or, when the later one is told first, one.
    #[test]
    fn an_epoch_does_not_go_back() {
        explore(
            || Epoch::new(0),
            &[|e: &Epoch| e.end(1, 5), |e: &Epoch| e.end(6, 7)],
            |e, seen| {
                assert_eq!(e.since(), 7);
                (seen[0], seen[1])
            },
        )
        .exactly_together([(true, true), (false, true)]);
    }
}
