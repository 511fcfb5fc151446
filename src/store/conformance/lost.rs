//! A store that has lost what it writes to, where that can be: everybody is told, nobody waits for ever, and every item
//! is counted once.

use super::*;

pub(super) fn a_lost_store_tells_everybody(case: &(impl Maker + Sync)) {
    append(case.store(), 0..60);
    let rows = claim(case.store(), 40, case.now());
    settle(case, rows[..5].iter().map(good).collect());
    let waits = case.store().again(&retried(&rows[5], case.now() + Duration::from_secs(3_600)));
    if waits {
        in_the_end("it waits", || (case.told().sums().waiting == 1).then_some(()));
    }
    if !case.lose() {
        return;
    }
    assert!(waits, "what can be lost keeps what is to be tried again");
    // Whatever is on its way, and whoever waits for it.
    case.store().settle(&mut rows[6..20].iter().map(good).collect());
    assert!(case.store().again(&retried(&rows[20], case.now())));
    let step = case.store().keep_step(21, 1, "step", "1");
    assert!(step().is_err());
    in_the_end("it is told", || (case.told().sums().failures == 1).then_some(()));
    let mut more = 0;
    let refused = in_the_end("nothing more is taken", || {
        let appended =
            case.store().append(Key::from(1_000 + more), more, 1_000, Duplicates::Skip, Timestamp::ZERO);
        match appended {
            Ok(_) => more += 1,
            Err(refused) => return Some(refused),
        }
        None
    });
    assert!(matches!(refused, AppendError::Sealed(_)), "{refused:?}");
    let child = case.store().append_child(Key::from(2_000), 2_000, 1_000, 21, Timestamp::ZERO);
    assert!(matches!(child, Err(AppendError::Sealed(2_000))), "{child:?}");
    assert!(matches!(case.store().sealed(), Err(Unsealed::Journal(_))));
    if case.store().end("\"halted\"") {
        in_the_end("the end is told", || (case.told().sums().ended == 1).then_some(()));
    }
    // What comes later is told at once.
    case.store().settle(&mut rows[21..22].iter().map(good).collect());
    assert!(case.store().step(22, "step").is_none_or(|step| step.is_ok_and(|kept| kept.is_none())));
    let mut reader = case.store().own_reader(Order::Completion, 0);
    let found = reader.as_mut().map_or(Read::Pending, |reader| reader.read());
    assert!(matches!(found, Read::Row(..) | Read::Failed(_)), "{found:?}");
    assert_eq!(case.told().sums().failures, 1, "it is told once");

    // The engine's answer to that.
    let dropped = case.store().drop_waiting().0 as u64;
    assert!(matches!(case.store().claim(9), Claim::Empty));
    let held = 40 - 22;
    in_the_end("every item is counted", || {
        let sums = case.told().sums();
        (sums.settled + sums.cancelled + dropped + held == 60 + more).then_some(())
    });
    assert_eq!(case.told().sums().settled, 5, "what is not durable is not told to be");
    assert_eq!(case.told().sums().waiting, 0);
}
