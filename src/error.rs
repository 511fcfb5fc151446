//! Floor 0: parts that the error enums of the upper floors share.

/// A setting that cannot be: names the field at fault and says what is wrong with it and what would do.
///
/// ```
/// let wrong = batchyard::Invalid::new("workers", "must be at least 1");
/// assert_eq!(wrong.to_string(), "workers: must be at least 1");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
#[non_exhaustive]
pub struct Invalid {
    /// The field, option or key at fault, as its user writes it.
    pub field: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl Invalid {
    /// Names the field and the problem.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}
