//! Rows on their way in, and out to who claims them.

use super::*;

/// Rows come once, in the order of submission, as they were submitted.
pub(super) fn rows_are_claimed_in_order(case: &impl Maker) {
    append(case.store(), 100..150);
    let rows = claim(case.store(), 50, case.now());
    for (at, row) in rows.iter().enumerate() {
        assert_eq!((row.seq, row.item), (at as u64, 100 + at as u64));
        assert_eq!(row.key, Key::from(row.item));
        assert!(row.past.is_none());
    }
    assert!(matches!(case.store().claim(9), Claim::Empty));
}

/// However many claim at once.
pub(super) fn no_row_is_claimed_twice(case: &(impl Maker + Sync)) {
    const ROWS: usize = 2_000;
    append(case.store(), 0..ROWS as u64);
    let all: Mutex<Vec<u64>> = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for max in [1, 3, 64] {
            let all = &all;
            scope.spawn(move || {
                in_the_end("all rows", || {
                    if let Claim::Page { page, .. } = case.store().claim(max) {
                        assert!(page.len() <= max);
                        all.lock().extend(page.iter().map(|row| row.seq));
                    }
                    (all.lock().len() >= ROWS).then_some(())
                });
            });
        }
    });
    let mut all = all.lock().clone();
    all.sort_unstable();
    assert_eq!(all, Vec::from_iter(0..ROWS as u64));
}

pub(super) fn a_full_store_gives_the_item_back(case: &impl Maker) {
    assert!(!case.store().has_room(0));
    assert!(case.store().has_room(1));
    let full = case.store().append(Key::from(1), 1, 0, Duplicates::Error, Timestamp::ZERO);
    assert!(matches!(full, Err(AppendError::Full(1))));
    append(case.store(), [1]);
    assert_eq!(claim(case.store(), 1, case.now())[0].item, 1);
}

pub(super) fn waiting_rows_are_counted(case: &impl Maker) {
    append(case.store(), 0..40);
    in_the_end("all are counted", || (case.store().waiting() == 40).then_some(()));
    claim(case.store(), 15, case.now());
    assert_eq!(case.store().waiting(), 25);
}

/// Who pushes one by one is told at once.
pub(super) fn a_repeated_key_is_refused(case: &impl Maker) {
    let push = |key: u64, item| {
        let store = case.store();
        store.append(Key::from(key), item, 1_000, Duplicates::Error, Timestamp::ZERO)
    };
    push(1, 10).unwrap();
    assert!(matches!(push(1, 11), Err(AppendError::Duplicate(key, 11)) if key == Key::from(1)));
    claim(case.store(), 1, case.now());
    assert!(matches!(push(1, 12), Err(AppendError::Duplicate(_, 12))));
    push(2, 13).unwrap();
    assert_eq!(claim(case.store(), 1, case.now())[0].item, 13);
}

/// Who submits all at once is told when it is sealed, or before.
pub(super) fn a_repeated_key_spoils_a_submission(case: &impl Maker) {
    let mut at_once = Vec::new();
    for key in [1u64, 2, 1] {
        match case.store().append(Key::from(key), key, usize::MAX, Duplicates::Error, Timestamp::ZERO) {
            Ok(_) => {}
            Err(AppendError::Duplicate(key, _)) => at_once.push(key),
            Err(other) => panic!("{other:?}"),
        }
    }
    case.store().seal();
    match case.store().sealed() {
        Err(Unsealed::Duplicate(key)) => at_once.push(key),
        sealed => drop(sealed.expect("a seal")),
    }
    assert_eq!(at_once, [Key::from(1)]);
}

pub(super) fn repeated_keys_are_skipped(case: &impl Maker) {
    let mut skipped = 0;
    for key in [1u64, 2, 1, 1, 3] {
        let appended =
            case.store().append(Key::from(key), key, usize::MAX, Duplicates::Skip, Timestamp::ZERO);
        skipped += appended.unwrap().skipped as u64;
    }
    case.store().sealed().unwrap();
    assert_eq!(skipped + case.told().sums().repeated, 2);
    let items: Vec<u64> = claim(case.store(), 3, case.now()).iter().map(|row| row.item).collect();
    assert_eq!(items, [1, 2, 3]);
    assert!(matches!(case.store().claim(9), Claim::Empty));
}

pub(super) fn repeated_keys_are_allowed(case: &impl Maker) {
    for item in [10u64, 20, 30] {
        case.store().append(Key::from("k"), item, usize::MAX, Duplicates::Allow, Timestamp::ZERO).unwrap();
    }
    let rows = claim(case.store(), 3, case.now());
    let keys: Vec<(String, u64)> = rows.iter().map(|row| (row.key.to_string(), row.item)).collect();
    assert_eq!(keys, [("k".to_owned(), 10), ("k#1".to_owned(), 20), ("k#2".to_owned(), 30)]);
}

pub(super) fn a_sealed_store_takes_nothing(case: &impl Maker) {
    append(case.store(), 0..3);
    case.store().seal();
    let late = case.store().append(Key::from(9), 9, usize::MAX, Duplicates::Error, Timestamp::ZERO);
    assert!(matches!(late, Err(AppendError::Sealed(9))));
    let earlier = case.store().sealed().unwrap();
    assert_eq!((earlier.resumed, earlier.vanished), (0, 0));
    assert_eq!(claim(case.store(), 3, case.now()).len(), 3);
}
