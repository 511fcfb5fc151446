//! What a commit survives.

use crate::job::named;

/// What committed results survive, by name.
///
/// ```
/// use batchyard::Durability;
/// assert_eq!("power-loss".parse(), Ok(Durability::PowerLoss));
/// assert_eq!(Durability::default(), Durability::ProcessCrash);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// Nothing is kept: `in_memory()`.
    Memory,
    /// The death of the process, `kill -9` included. After a power failure the last commits may be gone, as a whole
    /// and from the end: their items run again.
    #[default]
    ProcessCrash,
    /// A power failure too: every commit waits for the disk.
    PowerLoss,
}

named!(Durability, "durability", {
    Memory = "memory",
    ProcessCrash = "process-crash",
    PowerLoss = "power-loss",
});
