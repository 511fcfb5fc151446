//! The groups of contests.

mod allocations;
pub(crate) mod build;
pub(crate) mod cli;
pub(crate) mod floor;
#[cfg(feature = "sqlite")]
pub(crate) mod journal;
pub(crate) mod limiter;
pub(crate) mod map;
mod outside;
mod place;

use crate::common::rounds::Plan;
use crate::common::row::Row;

/// A named set of contests.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) hold: fn(&str, &Plan) -> Vec<Row>,
}

/// All of them, in the order of the table.
pub(crate) const GROUPS: &[Group] = &[
    Group { name: "limiter", hold: limiter::hold },
    Group { name: "permit", hold: outside::hold },
    Group { name: "map", hold: map::hold },
    Group { name: "item", hold: outside::hold },
    Group { name: "cli", hold: cli::hold },
    #[cfg(feature = "sqlite")]
    Group { name: "journal", hold: journal::hold },
    Group { name: "floor", hold: floor::hold },
];

/// The names, for messages.
pub(crate) fn names() -> String {
    GROUPS.iter().map(|g| g.name).collect::<Vec<_>>().join(", ")
}
