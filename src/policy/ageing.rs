//! In which class a lane counts that has waited: one up for each 10 s, so that no class starves another.

use crate::job::Priority;
use std::time::Duration;

/// The wait that is worth a class.
pub(crate) const STEP: Duration = Duration::from_secs(10);

/// The class that a lane of `priority` counts in after waiting for `waited`; never above the highest.
#[allow(dead_code)]
#[inline]
pub(crate) fn aged(priority: Priority, waited: Duration) -> Priority {
    let steps = usize::try_from(waited.as_secs() / STEP.as_secs()).unwrap_or(usize::MAX);
    Priority::from_class(priority.class().saturating_add(steps))
}

/// How long until the class changes, for who sets a timer; `None` at the highest.
#[allow(dead_code)]
pub(crate) fn until_next(priority: Priority, waited: Duration) -> Option<Duration> {
    if aged(priority, waited) == Priority::Critical {
        return None;
    }
    let steps = u32::try_from(waited.as_secs() / STEP.as_secs()).ok()?;
    Some(STEP * (steps + 1) - waited)
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
        assert_eq!(until_next(Priority::Normal, secs(4)), Some(secs(6)));
        assert_eq!(until_next(Priority::Critical, secs(0)), None);
    }

    proptest! {
        #[test]
        fn it_changes_exactly_when_it_says(class in 0_usize..4, waited_ms in 0_u64..100_000) {
            let (p, waited) = (Priority::from_class(class), Duration::from_millis(waited_ms));
            let now = aged(p, waited);
            prop_assert!(now >= p);
            match until_next(p, waited) {
                Some(left) => {
                    prop_assert!(aged(p, waited + left) > now);
                    prop_assert_eq!(aged(p, waited + left - Duration::from_nanos(1)), now);
                }
                None => prop_assert_eq!(now, Priority::Critical),
            }
        }
    }
}
