//! A deadlock, for people to read.

use crate::core::lockword::Mode;
use crate::sync::Arc;
use std::fmt;
use std::panic::Location;
use std::time::Duration;

/// A deadlock that happened: who waited for whom in a circle.
///
/// It prints who holds what and how, taken where, and who waits for it, since when.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct Deadlock {
    /// Each waits for the next one, and the last for the first.
    pub waits: Vec<Waits>,
    /// Who was told to give up: one of these.
    pub victim: Arc<str>,
    /// All of them are waits of one.
    pub(crate) of_one: bool,
}

impl Deadlock {
    /// Whether it waited for itself alone: to try again would not help.
    pub fn of_one(&self) -> bool {
        self.of_one
    }
}

/// How something is held, or wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Share {
    /// A lock, in this mode.
    Lock(Mode),
    /// So many of `limit` units.
    Units {
        /// How many.
        n: u64,
        /// Of how many.
        limit: u64,
    },
}

/// One who waits in a circle.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waits {
    /// Who.
    pub owner: Arc<str>,
    /// What it waits for: the name of a lock, or the kind of a resource. A long name is cut.
    pub wants: String,
    /// How, or how much of it.
    pub share: Share,
    /// Where it asked for it.
    pub at: &'static Location<'static>,
    /// How long it had waited.
    pub waited: Duration,
    /// Who has it.
    pub held_by: Arc<str>,
    /// How, or how much of it.
    pub held_share: Share,
    /// Where that was taken; `None`: it came with the item, which `needs` it.
    pub held_at: Option<&'static Location<'static>>,
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a deadlock of {}, in which `{}` gives up:", self.waits.len(), self.victim)?;
        for (nth, wait) in self.waits.iter().enumerate() {
            let Waits { owner, wants, share, at, waited, held_by, held_share, held_at } = wait;
            let next = if nth == 0 { "" } else { ";" };
            write!(f, "{next} `{owner}` waits for {wants} ({share}, for {waited:?}, at {at})")?;
            write!(f, ", which `{held_by}` holds ({held_share}")?;
            match held_at {
                Some(place) => write!(f, ", taken at {place})")?,
                None => f.write_str(", needed by its batch)")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Share::Lock(mode) => mode.fmt(f),
            Share::Units { n, limit } => write!(f, "{n} of {limit}"),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Shared => "shared",
            Mode::Upgradable => "upgradable",
            Mode::Exclusive => "exclusive",
        })
    }
}
