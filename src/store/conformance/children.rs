//! Items that items submit.

use super::*;

fn child(store: &Rows, item: u64, parent: u64) -> Result<bool, AppendError<u64>> {
    store.append_child(Key::from(item), item, usize::MAX, parent, Timestamp::ZERO)
}

/// A child is an item as the others are, also of a batch that is sealed. Its key is new, unless the same parent brings it
/// again.
pub(super) fn children_are_items(case: &impl Maker) {
    append(case.store(), 0..3);
    case.store().seal();
    case.store().sealed().unwrap();
    let rows = claim(case.store(), 3, case.now());
    assert!(child(case.store(), 10, 0).unwrap());
    assert!(child(case.store(), 11, 0).unwrap());
    let children = claim(case.store(), 2, case.now());
    assert_eq!(children.iter().map(|row| row.item).collect::<Vec<_>>(), [10, 11]);
    assert!(children.iter().all(|row| row.key == Key::from(row.item) && row.seq >= 3));
    // Known by now.
    assert!(!child(case.store(), 10, 0).unwrap());
    assert!(
        matches!(child(case.store(), 10, 1), Err(AppendError::Duplicate(key, 10)) if key == Key::from(10))
    );
    assert!(matches!(child(case.store(), 2, 0), Err(AppendError::Duplicate(_, 2))), "an item of the input");
    // Children have children.
    assert!(child(case.store(), 100, children[0].seq).unwrap());
    let grandchild = claim(case.store(), 1, case.now()).remove(0);
    settle(case, rows.iter().chain(&children).chain([&grandchild]).map(good).collect());
    assert_eq!(read(case.store(), Order::Completion).0.len(), 6);
    assert!(matches!(case.store().claim(9), Claim::Empty));
}

/// An attempt that is made again submits the same children, which are not doubled.
pub(super) fn children_of_an_earlier_attempt_are_known(case: &impl Maker) {
    append(case.store(), [0]);
    let parent = claim(case.store(), 1, case.now()).remove(0);
    assert!(child(case.store(), 10, 0).unwrap());
    let first = claim(case.store(), 1, case.now()).remove(0);
    let kept = case.store().again(&retried(&parent, case.now()));
    if kept {
        in_the_end("it waits", || (case.told().sums().waiting == 1).then_some(()));
        assert_eq!(claim(case.store(), 1, case.now() + millis(1))[0].seq, 0);
    }
    assert!(!child(case.store(), 10, 0).unwrap());
    assert!(child(case.store(), 11, 0).unwrap());
    let second = claim(case.store(), 1, case.now()).remove(0);
    assert_eq!((first.item, second.item), (10, 11));
    settle(case, vec![good(&first)]);
    // Also when it has ended.
    assert!(!child(case.store(), 10, 0).unwrap());
    assert!(matches!(case.store().claim(9), Claim::Empty));
}

/// Where rows outlive their process: who is of this run takes along what it has submitted in earlier ones.
pub(super) fn children_outlive_their_process(case: impl Maker) {
    append(case.store(), 0..2);
    case.store().sealed().unwrap();
    claim(case.store(), 2, case.now());
    for item in [10, 11] {
        assert!(child(case.store(), item, 0).unwrap());
    }
    let children = claim(case.store(), 2, case.now());
    settle(&case, vec![good(&children[0])]);
    let Some(case) = case.after_a_crash() else { return };
    // The other parent has gone from the input.
    append(case.store(), [0]);
    let earlier = case.store().sealed().unwrap();
    assert_eq!((earlier.resumed, earlier.vanished), (1, 1));
    let sums = case.told().sums();
    assert_eq!((sums.joined, sums.before), (2, (1, 0, 0)));
    let rows = claim(case.store(), 2, case.now() + Duration::from_secs(60));
    assert_eq!(rows.iter().map(|row| row.item).collect::<BTreeSet<_>>(), BTreeSet::from([0, 11]));
    assert!(!child(case.store(), 10, 0).unwrap());
    assert!(!child(case.store(), 11, 0).unwrap());
    settle(&case, rows.iter().map(good).collect());
    assert!(matches!(case.store().claim(9), Claim::Empty));
}
