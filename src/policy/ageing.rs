//! In which class a lane counts that has waited: one up for each 10 s, so that no class starves another.

use crate::job::Priority;
use std::time::Duration;

/// The wait that is worth a class.
pub(crate) const STEP: Duration = Duration::from_secs(10);

/// The class that a lane of `priority` counts in after waiting for `waited`; never above the highest.
#[inline]
pub(crate) fn aged(priority: Priority, waited: Duration) -> Priority {
    let steps = usize::try_from(waited.as_secs() / STEP.as_secs()).unwrap_or(usize::MAX);
    Priority::from_class(priority.class().saturating_add(steps))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_class_for_ten_seconds() {
        let secs = Duration::from_secs;
        assert_eq!(aged(Priority::Low, Duration::from_millis(9_999)), Priority::Low);
        assert_eq!(aged(Priority::Low, secs(10)), Priority::Normal);
        assert_eq!(aged(Priority::Low, secs(30)), Priority::Critical);
        assert_eq!(aged(Priority::High, Duration::MAX), Priority::Critical);
    }

    proptest! {
        #[test]
        fn it_changes_every_ten_seconds_and_not_between(class in 0_usize..4, steps in 0_u32..6, ms in 0_u64..10_000) {
            let priority = Priority::from_class(class);
            let at = |step| aged(priority, STEP * step);
            prop_assert_eq!(aged(priority, STEP * steps + Duration::from_millis(ms)), at(steps));
            prop_assert!(at(steps + 1) > at(steps) || at(steps) == Priority::Critical);
        }
    }
}
