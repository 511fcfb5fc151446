//! What a second item with the same key means.

use crate::job::named;

/// What to do when two items of one batch have the same [`Key`](crate::Key).
///
/// ```
/// use batchyard::job::Duplicates;
/// assert_eq!(Duplicates::default(), Duplicates::Error);
/// assert_eq!("skip".parse(), Ok(Duplicates::Skip));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Duplicates {
    /// The submission fails and names the key: the default, since a key that is not unique is usually a mistake.
    #[default]
    Error,
    /// The later item is dropped and counted.
    Skip,
    /// Both run; the later one's key carries its [occurrence](crate::Key::occurrence).
    Allow,
}

named!(Duplicates, "duplicates", { Error = "error", Skip = "skip", Allow = "allow" });
