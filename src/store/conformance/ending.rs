//! How a batch ends: by itself, early, or with its process.

use super::*;

/// What waits when the batch ends early is counted once, at once or later.
pub(super) fn what_waits_is_dropped_and_counted(case: &impl Maker) {
    append(case.store(), 0..300);
    let rows = claim(case.store(), 20, case.now());
    if case.store().again(&retried(&rows[0], case.now() + Duration::from_secs(60))) {
        in_the_end("it waits", || (case.told().sums().waiting == 1).then_some(()));
    }
    let kept = case.told().sums().waiting as u64;
    case.store().seal();
    let dropped = case.store().drop_waiting().0 as u64;
    in_the_end("all are counted", || (dropped + case.told().sums().cancelled == 280 + kept).then_some(()));
    assert_eq!(case.told().sums().waiting, 0);
    assert!(matches!(case.store().claim(9), Claim::Empty));
    assert_eq!(case.store().drop_waiting().0, 0);
}

/// Claims that are on their way when the batch ends early are counted, too.
pub(super) fn claims_on_their_way_are_counted(case: &impl Maker) {
    append(case.store(), 0..40);
    let rows = claim(case.store(), 40, case.now());
    let now = case.now();
    if !rows.iter().all(|row| case.store().again(&retried(row, now))) {
        return;
    }
    in_the_end("they wait", || (case.told().sums().waiting == 40).then_some(()));
    let mut dropped = 0;
    case.held_up(&mut || {
        // Asks for them, and is stopped before the answer comes.
        case.store().due(now + millis(1));
        dropped = case.store().drop_waiting().0 as u64;
    });
    in_the_end("all are counted", || (dropped + case.told().sums().cancelled == 40).then_some(()));
    in_the_end("none waits", || (case.told().sums().waiting == 0).then_some(()));
}

/// Where the end is written down, the engine is told that it is.
pub(super) fn the_end_is_told(case: &impl Maker) {
    append(case.store(), [0]);
    case.store().sealed().unwrap();
    if case.store().end("\"Cancelled\"") {
        in_the_end("it is written", || (case.told().sums().ended == 1).then_some(()));
    }
}

/// Where rows outlive their process: what was settled is there, what was claimed is tried again, by key.
pub(super) fn a_dead_process_loses_nothing(case: impl Maker) {
    append(case.store(), 0..30);
    case.store().sealed().unwrap();
    let rows = claim(case.store(), 20, case.now());
    settle(&case, rows[..5].iter().map(good).collect());
    if case.store().again(&retried(&rows[5], case.now())) {
        in_the_end("it waits", || (case.told().sums().waiting == 1).then_some(()));
    }
    let Some(case) = case.after_a_crash() else { return };
    // Another order, one gone, one new.
    append(case.store(), (1..31).rev());
    let earlier = case.store().sealed().unwrap();
    assert_eq!((earlier.resumed, earlier.vanished), (4, 1));
    assert_eq!(case.told().sums().before, (4, 0, 0));
    let rows = claim(case.store(), 26, case.now() + Duration::from_secs(60));
    let again: BTreeMap<u64, Option<(u32, u32, u32)>> = rows
        .iter()
        .map(|row| (row.item, row.past.as_ref().map(|past| (past.epoch, past.tries, past.lost))))
        .collect();
    assert_eq!(again.keys().copied().collect::<BTreeSet<_>>(), BTreeSet::from_iter(5..31));
    for (item, past) in again {
        match item {
            5 => assert_eq!(past, Some((2, 1, 0)), "it waited"),
            6..20 => assert_eq!(past, Some((2, 0, 1)), "{item} was claimed"),
            // Those that nobody had claimed may have been claimed ahead.
            _ => assert!(matches!(past, None | Some((2, 0, 1))), "{item}"),
        }
    }
    settle(&case, rows.iter().map(good).collect());
    let (found, _) = read(case.store(), Order::Completion);
    assert_eq!(found.iter().map(|(row, _)| row.key.clone()).collect::<BTreeSet<_>>().len(), 31);
}
