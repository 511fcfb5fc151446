//! Results: in which order they are read, and what is listed of the dead.

use super::*;

/// Results come in the order of settling, whole, each once, and then the end.
pub(super) fn results_come_in_order_of_completion(case: &impl Maker) {
    append(case.store(), 0..20);
    let rows = claim(case.store(), 20, case.now());
    let (first, second) = (&rows[10..], &rows[..10]);
    settle(case, first.iter().map(good).collect());
    settle(case, second.iter().rev().map(|row| bad(row, DeadReason::Fatal)).collect());
    let (found, over) = read(case.store(), Order::Completion);
    assert!(!over, "the batch has not ended");
    let order: Vec<u64> = found.iter().map(|(row, _)| row.seq).collect();
    assert_eq!(order, Vec::from_iter((10..20).chain((0..10).rev())));
    for (at, (row, cursor)) in found.iter().enumerate() {
        assert_eq!(*cursor, at as u64 + 1);
        assert_eq!((&row.key, row.attempts), (&Key::from(row.seq), 1));
        assert_eq!((row.run_time, row.queued_time), (millis(3), millis(2)));
        match &row.outcome {
            Ok(made) => assert_eq!(*made, format!("made of {}", row.seq)),
            Err(dead) => assert_eq!(dead.last_error().unwrap().message, format!("{} is bad", row.seq)),
        }
    }
    case.store().close();
    let (again, over) = read(case.store(), Order::Completion);
    assert!(over);
    // A store hands them out once, or to each reader anew.
    assert_eq!(again.len(), if case.store().own_reader(Order::Completion, 0).is_some() { 20 } else { 0 });
}

/// Up to the first that is not there yet; behind the end, without it.
pub(super) fn results_come_in_order_of_input(case: &impl Maker) {
    append(case.store(), 0..10);
    let rows = claim(case.store(), 10, case.now());
    settle(case, [1, 0, 5].iter().map(|at| good(&rows[*at])).collect());
    case.store().reader(Order::Input, true);
    let mut own = case.store().own_reader(Order::Input, 0);
    let mut next = || own.as_mut().map_or_else(|| case.store().read(Order::Input), |own| own.read());
    assert!(matches!(next(), Read::Row(row, 1) if row.seq == 0));
    assert!(matches!(next(), Read::Row(row, 2) if row.seq == 1));
    assert!(matches!(next(), Read::Pending));
    settle(case, vec![good(&rows[2])]);
    assert!(matches!(next(), Read::Row(row, 3) if row.seq == 2));
    assert!(matches!(next(), Read::Pending));
    case.store().close();
    assert!(matches!(next(), Read::Row(row, 4) if row.seq == 5));
    assert!(matches!(next(), Read::End));
    case.store().reader(Order::Input, false);
}

/// Where readers have a place of their own.
pub(super) fn a_reader_begins_at_its_cursor(case: &impl Maker) {
    append(case.store(), 0..600);
    let rows = claim(case.store(), 600, case.now());
    settle(case, rows.iter().map(good).collect());
    case.store().close();
    let Some(mut reader) = case.store().own_reader(Order::Completion, 500) else { return };
    let mut seqs = VecDeque::new();
    while let Read::Row(row, cursor) = reader.read() {
        assert_eq!(cursor, row.seq + 1);
        seqs.push_back(row.seq);
    }
    assert_eq!(seqs, VecDeque::from_iter(500..600));
}

/// The given up are listed as they died; the left out are not among them.
pub(super) fn the_dead_are_listed(case: &impl Maker) {
    append(case.store(), 0..6);
    let rows = claim(case.store(), 6, case.now());
    settle(
        case,
        vec![
            bad(&rows[3], DeadReason::Fatal),
            good(&rows[0]),
            bad(&rows[1], DeadReason::Skipped),
            bad(&rows[2], DeadReason::TimedOut),
        ],
    );
    let dead = case.store().dead().unwrap();
    let listed: Vec<_> = dead.iter().map(|item| (item.seq, item.dead.reason())).collect();
    assert_eq!(listed, [(3, DeadReason::Fatal), (2, DeadReason::TimedOut)]);
    assert_eq!(dead[0].key, Key::from(3));
    assert_eq!(dead[0].dead.last_error().unwrap().message, "3 is bad");
    if case.store().settles_later() {
        let sums = case.told().sums();
        assert_eq!((sums.settled, sums.done), (4, 1));
    }
}
