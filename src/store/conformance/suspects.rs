//! What was in hand when a process died, where rows outlive it.

use super::*;

/// Nothing can be claimed, also when all that was asked for has been answered.
#[track_caller]
fn nothing_comes(case: &impl Maker) {
    for _ in 0..3 {
        case.store().due(case.now());
        assert!(matches!(case.store().claim(9), Claim::Empty));
        case.held_up(&mut || ());
    }
}

/// They run one at a time, with nothing beside them; then the others.
pub(super) fn suspects_run_alone(case: impl Maker) {
    append(case.store(), 0..20);
    case.store().sealed().unwrap();
    let rows = claim(case.store(), 20, case.now());
    case.store().in_hand(0, 3, 5);
    case.store().in_hand(1, 8, 8);
    case.store().off_hand(1);
    settle(&case, vec![good(&rows[4])]);
    let Some(case) = case.after_a_crash() else { return };
    append(case.store(), 0..20);
    case.store().sealed().unwrap();
    for seq in [3, 5] {
        let suspect = claim(case.store(), 1, case.now()).remove(0);
        assert_eq!(suspect.seq, seq);
        let past = suspect.past.clone().unwrap();
        assert_eq!((past.suspect, past.epoch, past.tries, past.lost), (true, 2, 0, 1));
        case.store().in_hand(0, seq, seq);
        nothing_comes(&case);
        case.store().off_hand(0);
        settle(&case, vec![good(&suspect)]);
    }
    let others = claim(case.store(), 17, case.now());
    assert!(others.iter().all(|row| row.past.as_ref().is_some_and(|past| !past.suspect && past.lost == 1)));
    settle(&case, others.iter().map(good).collect());
    assert_eq!(read(case.store(), Order::Completion).0.len(), 20);
}

/// One that a suspect's failure puts off stays a suspect no longer: it has ended once without taking the process along.
pub(super) fn a_suspect_that_fails_is_one_no_longer(case: impl Maker) {
    append(case.store(), 0..2);
    case.store().sealed().unwrap();
    claim(case.store(), 2, case.now());
    case.store().in_hand(0, 1, 1);
    let Some(case) = case.after_a_crash() else { return };
    append(case.store(), 0..2);
    case.store().sealed().unwrap();
    let suspect = claim(case.store(), 1, case.now()).remove(0);
    assert_eq!(suspect.seq, 1);
    assert!(case.store().again(&retried(&suspect, case.now())));
    let rows = claim(case.store(), 2, case.now() + millis(1));
    let past = rows.iter().find(|row| row.seq == 1).and_then(|row| row.past.clone()).expect("it came back");
    assert_eq!((past.suspect, past.epoch, past.tries, past.lost), (false, 3, 1, 1));
}

/// What was alone in hand when its process died, three times, is given up.
pub(super) fn what_takes_its_process_along_is_given_up(mut case: impl Maker) {
    append(case.store(), 0..3);
    case.store().sealed().unwrap();
    claim(case.store(), 3, case.now());
    for crash in 1..=3 {
        case.store().in_hand(0, 1, 1);
        case = match case.after_a_crash() {
            Some(case) => case,
            None => return,
        };
        append(case.store(), 0..3);
        case.store().sealed().unwrap();
        let dead = case.store().dead().unwrap();
        if crash < 3 {
            assert!(dead.is_empty(), "given up after {crash}");
            let suspect = claim(case.store(), 1, case.now()).remove(0);
            assert_eq!((suspect.seq, suspect.past.map(|past| past.lost)), (1, Some(crash)));
        } else {
            assert_eq!(dead.iter().map(|dead| dead.seq).collect::<Vec<_>>(), [1]);
            assert_eq!(dead[0].dead.reason(), DeadReason::Crashed);
            assert_eq!(dead[0].dead.last_error().unwrap().kind, AttemptKind::Crashed);
        }
    }
    let rows = claim(case.store(), 2, case.now());
    assert_eq!(rows.iter().map(|row| row.seq).collect::<BTreeSet<_>>(), BTreeSet::from([0, 2]));
}
