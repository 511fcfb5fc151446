//! The four priority classes.

use crate::job::named;

/// How urgent a batch is. Between classes the order is strict, softened by ageing: one class up for each 10 s that
/// a batch has waited. Within a class, weights share the workers.
///
/// ```
/// use batchyard::Priority;
/// assert!(Priority::Critical > Priority::default());
/// assert_eq!("high".parse(), Ok(Priority::High));
/// assert_eq!(Priority::Low.to_string(), "low");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// When nothing else wants to run.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Before the normal.
    High,
    /// Before everything.
    Critical,
}

named!(Priority, "priority", { Low = "low", Normal = "normal", High = "high", Critical = "critical" });

impl Priority {
    /// How many classes there are.
    pub(crate) const CLASSES: usize = 4;

    /// 0 for the lowest to 3 for the highest.
    #[inline]
    pub(crate) const fn class(self) -> usize {
        self as usize
    }

    /// The priority of a class; classes above the highest are the highest.
    #[inline]
    pub(crate) const fn from_class(class: usize) -> Self {
        match class {
            0 => Priority::Low,
            1 => Priority::Normal,
            2 => Priority::High,
            _ => Priority::Critical,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_go_there_and_back_in_order() {
        for (class, p) in Priority::ALL.iter().enumerate() {
            assert_eq!(p.class(), class);
            assert_eq!(Priority::from_class(class), *p);
            assert_eq!(p.as_str().to_uppercase().parse(), Ok(*p));
        }
        assert_eq!(Priority::ALL.len(), Priority::CLASSES);
        assert_eq!(Priority::from_class(9), Priority::Critical);
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let wrong = "urgent".parse::<Priority>().unwrap_err();
        assert_eq!(wrong.to_string(), "priority: `urgent` is none of: low, normal, high, critical");
        assert!(serde_json::from_str::<Priority>("\"urgent\"").is_err());
        assert_eq!(serde_json::to_string(&Priority::High).unwrap(), "\"high\"");
    }
}
