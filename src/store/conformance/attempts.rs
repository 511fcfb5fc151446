//! What an item has behind it, where the store keeps that: retries, steps, and attempts that come too late.

use super::*;

/// Where the store keeps them: not before their time, with all that they have behind them.
pub(super) fn retried_items_come_back(case: &impl Maker) {
    append(case.store(), 0..5);
    let rows = claim(case.store(), 5, case.now());
    let due = case.now() + Duration::from_secs(3_600);
    if !case.store().again(&retried(&rows[2], due)) {
        return;
    }
    in_the_end("it waits", || (case.told().sums().waiting == 1).then_some(()));
    assert_eq!(case.store().due(case.now()), Some(due));
    assert!(matches!(case.store().claim(9), Claim::Empty));
    let back = claim(case.store(), 1, due).remove(0);
    assert_eq!((back.seq, back.item), (2, 2));
    assert_eq!(case.told().sums().waiting, 0);
    let past = back.past.clone().unwrap();
    assert_eq!((past.epoch, past.tries, past.lost, past.suspect), (2, 1, 0, false));
    assert_eq!(past.errors.len(), 1);

    assert!(case.store().again(&retried(&back, due)));
    in_the_end("it waits again", || (case.told().sums().waiting == 1).then_some(()));
    let back = claim(case.store(), 1, due).remove(0);
    let past = back.past.clone().unwrap();
    assert_eq!((past.epoch, past.tries), (3, 2));
    let errors: Vec<_> = past.errors.iter().map(|error| error.message.as_str()).collect();
    assert_eq!(errors, ["try 1", "try 2"]);
    settle(case, vec![good(&back)]);
    assert_eq!(read(case.store(), Order::Completion).0.len(), 1);
    assert_eq!(case.told().sums().late, 0);
}

/// However often an item is put off, what is kept of it is bounded: the first error and the latest.
pub(super) fn errors_are_bounded(case: &impl Maker) {
    append(case.store(), [0]);
    let mut row = claim(case.store(), 1, case.now()).remove(0);
    for n in 0..50 {
        let mut again = retried(&row, case.now());
        again.error = Some(AttemptError::new(1, AttemptKind::Deferred, format!("put off {n}")));
        if !case.store().again(&again) {
            return;
        }
        in_the_end("it waits", || (case.told().sums().waiting == 1).then_some(()));
        row = claim(case.store(), 1, case.now() + millis(1)).remove(0);
    }
    let errors = row.past.unwrap().errors;
    assert_eq!(errors.len(), 32);
    assert_eq!(
        (&*errors[0].message, &*errors[1].message, &*errors[31].message),
        ("put off 0", "put off 19", "put off 49")
    );
}

/// What an attempt brings that is not the item's current one is dropped, and counted.
pub(super) fn a_stale_outcome_is_dropped(case: &impl Maker) {
    append(case.store(), [0]);
    let first = claim(case.store(), 1, case.now()).remove(0);
    if !case.store().again(&retried(&first, case.now())) {
        return;
    }
    in_the_end("it waits", || (case.told().sums().waiting == 1).then_some(()));
    let second = claim(case.store(), 1, case.now() + millis(1)).remove(0);
    let mut stale = good(&second);
    stale.past = Some(Past { epoch: 1, suspect: false });
    settle(case, vec![stale]);
    assert_eq!(case.told().sums().late, 1);
    assert!(read(case.store(), Order::Completion).0.is_empty());
    settle(case, vec![good(&second)]);
    settle(case, vec![good(&second)]);
    assert_eq!(case.told().sums().late, 2);
    assert_eq!(read(case.store(), Order::Completion).0.len(), 1);
}

/// Where the store keeps them: until the item ends, and not for an attempt that is over.
pub(super) fn steps_are_kept_while_the_item_is_open(case: &impl Maker) {
    append(case.store(), 0..2);
    let rows = claim(case.store(), 2, case.now());
    let Some(first) = case.store().step(0, "fetch") else { return };
    assert_eq!(first.unwrap(), None);
    let keep = |epoch, name, text| case.store().keep_step(0, epoch, name, text)().unwrap();
    assert!(keep(1, "fetch", "\"page\""));
    assert!(!keep(7, "other", "0"), "the attempt is not the one that is expected");
    let step = |seq, name| case.store().step(seq, name).unwrap().unwrap();
    assert_eq!(step(0, "fetch").as_deref(), Some("\"page\""));
    assert_eq!((step(0, "other"), step(1, "fetch")), (None, None));
    settle(case, vec![good(&rows[0])]);
    assert_eq!(step(0, "fetch"), None);
    assert!(!keep(1, "late", "0"), "the item has ended");
}
