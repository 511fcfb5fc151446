//! The groups of contests.

mod allocations;
pub(crate) mod build;
pub(crate) mod cli;
pub(crate) mod detect;
pub(crate) mod floor;
#[cfg(feature = "sqlite")]
pub(crate) mod journal;
pub(crate) mod keyed;
pub(crate) mod limiter;
pub(crate) mod lock;
mod lock_fair;
pub(crate) mod map;
pub(crate) mod memory;
pub(crate) mod named_lock;
mod outside;
mod peak;
pub(crate) mod permit;
mod place;
#[cfg(feature = "sqlite")]
pub(crate) mod reopen;
pub(crate) mod resource;
#[cfg(feature = "sqlite")]
pub(crate) mod scale;

use crate::common::rounds::Plan;
use crate::common::row::Row;

/// A named set of contests.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) hold: fn(&str, &Plan) -> Vec<Row>,
    /// Held only when it is named, or looked whether it works.
    pub(crate) on_request: bool,
}

impl Group {
    const fn always(name: &'static str, hold: fn(&str, &Plan) -> Vec<Row>) -> Group {
        Group { name, hold, on_request: false }
    }
}

/// All of them, in the order of the table.
pub(crate) const GROUPS: &[Group] = &[
    Group::always("limiter", limiter::hold),
    Group::always("keyed", keyed::hold),
    Group::always("permit", permit::hold),
    Group::always("resource", resource::hold),
    Group::always("lock", lock::hold),
    Group::always("named-lock", named_lock::hold),
    Group::always("detect", detect::hold),
    Group::always("pool", outside::hold),
    Group::always("map", map::hold),
    Group::always("item", outside::hold),
    Group::always("cli", cli::hold),
    #[cfg(feature = "sqlite")]
    Group::always("journal", journal::hold),
    #[cfg(feature = "sqlite")]
    Group::always("reopen", reopen::hold),
    Group::always("memory", memory::hold),
    #[cfg(feature = "sqlite")]
    Group { name: "scale", hold: scale::hold, on_request: true },
    Group::always("floor", floor::hold),
];

/// The names, for messages.
pub(crate) fn names() -> String {
    GROUPS.iter().map(|g| g.name).collect::<Vec<_>>().join(", ")
}
