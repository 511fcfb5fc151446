//! What one step does to the word, in all that it can say.

use super::Mode::{Exclusive, Shared, Upgradable};
use super::*;

const NORMAL: usize = 1;

/// All that can hold at a time: how many share it, and who else.
fn states() -> Vec<(LockWord, u32, Option<Mode>)> {
    let mut states = Vec::new();
    for readers in 0..3 {
        for other in [None, Some(Upgradable), Some(Exclusive)] {
            if other == Some(Exclusive) && readers > 0 {
                continue;
            }
            let word = LockWord::new();
            (0..readers).for_each(|_| word.try_enter(Shared, NORMAL, 0).unwrap());
            if let Some(mode) = other {
                word.try_enter(mode, NORMAL, 7).unwrap();
            }
            states.push((word, readers, other));
        }
    }
    states
}

#[test]
fn who_enters_and_leaves_leaves_no_trace() {
    for mode in [Shared, Upgradable, Exclusive] {
        for (word, readers, other) in states() {
            let before = word.look();
            let may = match (mode, other) {
                (_, Some(Exclusive)) | (Upgradable, Some(Upgradable)) => false,
                (Exclusive, other) => readers == 0 && other.is_none(),
                _ => true,
            };
            assert_eq!(word.try_enter(mode, NORMAL, 9).is_ok(), may, "{mode:?} into {before:?}");
            if may {
                assert_eq!(word.leave(mode, false), After::Nothing);
            }
            assert_eq!(word.look(), before);
        }
    }
}

/// Of all that can be said of holders and of the line: what is entered by mask is what the decision of the lowest class says, and
/// with no bar and room for many it is the same decision.
#[test]
fn a_mask_decides_as_the_lowest_class_does() {
    const MANY: u64 = 1 << 23;
    let readers = [0, 1, MANY - 1, MANY, u64::from(MAX_READERS) - 1, u64::from(MAX_READERS)];
    let holders = [0, U, X, DRAIN].into_iter().flat_map(|alone| readers.map(|readers| (alone, readers)));
    let mut entered = [0; 3];
    for (alone, readers) in holders.filter(|&(alone, readers)| alone != X || readers == 0) {
        for line in 0..1 << 9 {
            let flags = (line & 7) << 3;
            let (bar, solo) = (line >> 3 & 7, line >> 6);
            let owner = if alone == 0 { 0 } else { 7 << OWNER_SHIFT };
            let bits =
                alone | owner | readers << READER_SHIFT | flags | bar << BAR_SHIFT | solo << SOLO_SHIFT;
            for mode in [Shared, Upgradable, Exclusive] {
                let word = LockWord(AtomicU64::new(bits));
                let decided = word.look().join(mode, 0, 9);
                let by_mask = word.try_enter_by_mask(mode, 9);
                assert_eq!(word.look(), if by_mask { decided.unwrap() } else { Word(bits) }, "{mode:?}");
                let is_plain = bar == 0 && solo == 0 && readers < MANY;
                assert!(by_mask == decided.is_ok() || !is_plain, "{mode:?} into {:?}", Word(bits));
                if by_mask {
                    entered[mode as usize] += 1;
                    assert_eq!(word.try_leave_quietly(mode), bits & (QUEUED | DRAIN) == 0);
                    let left = if bits & (QUEUED | DRAIN) == 0 { bits } else { decided.unwrap().0 };
                    assert_eq!(word.look(), Word(left), "{mode:?} left");
                }
            }
        }
    }
    assert!(entered.iter().all(|&times| times > 0), "{entered:?}");
}

#[test]
fn the_bar_holds_lower_classes_back() {
    let word = LockWord::new();
    word.set_line(true, true, (2, 2)); // one of class 1 waits for all of it
    assert_eq!(word.try_enter(Shared, 1, 0), Err(Miss::Busy));
    assert_eq!(word.try_enter(Upgradable, 1, 0), Err(Miss::Busy));
    assert_eq!(word.try_enter(Exclusive, 0, 1), Err(Miss::Busy));
    assert_eq!(word.try_enter(Exclusive, 1, 1), Ok(()));
    assert_eq!(word.leave(Exclusive, false), After::Nothing); // he who was told will come
    assert_eq!(word.try_enter(Shared, 2, 0), Ok(()));
    assert_eq!(word.leave(Shared, false), After::Nothing);
    word.set_line(true, false, (2, 2));
    assert_eq!(word.try_enter(Shared, 2, 0), Ok(()));
    assert_eq!(word.try_enter(Shared, 2, 0), Ok(()));
    assert_eq!(word.leave(Shared, false), After::Nothing);
    assert_eq!(word.leave(Shared, false), After::Look);
    assert_eq!(word.try_enter(Exclusive, 1, 1), Ok(()));
    assert_eq!(word.leave(Exclusive, true), After::HandOver);
    let held = word.look();
    assert_eq!((held.mode(), held.owner(), held.poisoned()), (Some(Exclusive), 1, true));
    word.set_free();
    word.clear_poison();
    word.set_line(false, false, (0, 0));
    assert_eq!(word.look(), LockWord::new().look());
}

/// Who waits to be the one that may upgrade is passed by who shares, and by nobody else.
#[test]
fn who_waits_to_upgrade_bars_no_readers() {
    let word = LockWord::new();
    word.set_line(true, false, (0, 2));
    assert_eq!(word.try_enter(Upgradable, 1, 0), Err(Miss::Busy));
    assert_eq!(word.try_enter(Exclusive, 0, 1), Err(Miss::Busy));
    assert_eq!(word.try_enter(Shared, 0, 0), Ok(()));
    assert_eq!(word.try_enter(Upgradable, 2, 0), Ok(()));
}

#[test]
fn up_and_down() {
    let word = LockWord::new();
    word.try_enter(Upgradable, NORMAL, 5).unwrap();
    assert!(word.try_upgrade());
    assert_eq!((word.look().mode(), word.look().owner()), (Some(Exclusive), 5));
    assert_eq!(word.weaken(Exclusive, Upgradable), After::Nothing);
    word.try_enter(Shared, NORMAL, 0).unwrap();
    assert!(!word.try_upgrade() && !word.begin_upgrade());
    let waiting = word.look();
    assert!(waiting.drains() && waiting.owner() == 5 && waiting.readers() == 1);
    assert_eq!(word.try_enter(Shared, 3, 0), Err(Miss::Busy));
    assert_eq!(word.share_again(), Ok(()));
    assert_eq!(word.leave(Shared, false), After::Nothing);
    word.drop_upgrade();
    assert_eq!((word.look().mode(), word.look().readers()), (Some(Upgradable), 1));
    assert!(!word.begin_upgrade());
    assert_eq!(word.leave(Shared, false), After::Look);
    word.end_upgrade();
    assert_eq!((word.look().mode(), word.look().owner()), (Some(Exclusive), 5));
    assert_eq!(word.weaken(Exclusive, Shared), After::Nothing);
    assert_eq!((word.look().mode(), word.look().owner(), word.look().readers()), (Some(Shared), 0, 1));
    assert_eq!(word.leave(Shared, false), After::Nothing);
    word.try_enter(Upgradable, NORMAL, 5).unwrap();
    assert_eq!(word.weaken(Upgradable, Shared), After::Nothing);
    assert_eq!((word.look().mode(), word.look().owner()), (Some(Shared), 0));
}

#[test]
fn the_count_of_those_who_share_does_not_run_over() {
    let word = LockWord::shared_by(MAX_READERS);
    assert_eq!(word.try_enter(Shared, NORMAL, 0), Err(Miss::Full));
    assert_eq!(word.share_again(), Err(Miss::Full));
    assert_eq!(word.look().readers(), MAX_READERS);
    assert_eq!(word.leave(Shared, false), After::Nothing);
    assert_eq!(word.try_enter(Shared, NORMAL, 0), Ok(()));
    // Who may upgrade comes to share it.
    assert_eq!(word.try_enter(Upgradable, NORMAL, 7), Ok(()));
    assert_eq!(word.weaken(Upgradable, Shared), After::Nothing);
    assert_eq!((word.look().readers(), word.look().owner()), (MAX_READERS + 1, 0));
    assert_eq!(word.try_enter(Upgradable, NORMAL, 7), Err(Miss::Full));
    assert_eq!((word.try_enter(Shared, NORMAL, 0), word.share_again()), (Err(Miss::Full), Err(Miss::Full)));
    assert_eq!(word.leave(Shared, false), After::Nothing);
    assert_eq!(word.look(), LockWord::shared_by(MAX_READERS).look());
}

#[test]
fn a_hold_is_passed_on() {
    let word = LockWord::new();
    word.try_enter(Exclusive, NORMAL, MAX_OWNER).unwrap();
    word.set_line(true, false, (3, 3));
    word.pass_on(Exclusive, 4);
    assert_eq!((word.look().owner(), word.look().bar()), (4, 3));
    word.pass_on(Shared, 0);
    assert_eq!((word.look().owner(), word.look().readers(), word.look().queued()), (0, 1, true));
}

#[test]
fn who_passes_one_that_was_told_the_sixteenth_time_looks_at_the_time() {
    let word = LockWord::new();
    let pass = || {
        word.try_enter(Exclusive, NORMAL, 5).unwrap();
        word.leave(Exclusive, false)
    };
    word.set_line(true, true, (2, 2));
    for turn in 1..40 {
        let after = if turn % 16 == 0 { After::MakeWay } else { After::Nothing };
        assert_eq!((pass(), word.look().passes()), (after, turn % 16));
    }
    // What is said of the line meanwhile does not begin anew; what comes to its end does.
    word.set_line(true, true, (3, 3));
    assert_eq!(word.look().passes(), 7);
    let nobody_told = |word: Word| !word.told() && word.passes() == 0;
    assert!(word.come(Exclusive, 6) && nobody_told(word.look()));
    word.set_line(true, true, (2, 2));
    assert_eq!((word.leave(Exclusive, false), word.look().passes()), (After::Nothing, 1));
    word.try_enter(Exclusive, NORMAL, 5).unwrap();
    assert!(!word.come(Exclusive, 6) && nobody_told(word.look()));
    word.set_line(true, true, (2, 2));
    assert_eq!((word.leave(Exclusive, true), word.look().passes()), (After::Nothing, 1));
    word.clear_poison();
    word.set_line(false, false, (0, 0));
    assert_eq!(word.look(), Word::FREE);
}
