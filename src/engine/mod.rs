//! Floor 4: what runs the items. The user's side is [`crate::batch`].
//!
//! | file | what |
//! |---|---|
//! | `config`, `workers`, `unlimited` | what an engine can be told |
//! | `shared` | what all parts share: lanes, places, timers, phases |
//! | `lane` | a batch as the workers see it, and the shell around its typed part |
//! | `body` | the typed part: entries, seats, and the loop that runs a chunk |
//! | `gate` | permits all or none, the rate token last |
//! | `worker`, `slot` | the threads, and their public places |
//! | `supervisor` | timers, deadlines, items that do not come back |
//! | `context` | what a closure sees |
//! | `tunables` | what may change while a lane runs |
//! | `events`, `snapshot` | what is told, what can be asked |
//! | `signal` | waiting for a condition |
//! | `cpu` | the rayon pool |

pub(crate) mod body;
mod config;
mod context;
pub(crate) mod cpu;
mod error;
mod events;
pub(crate) mod gate;
pub(crate) mod lane;
pub(crate) mod shared;
pub(crate) mod signal;
mod slot;
pub(crate) mod snapshot;
pub(crate) mod supervisor;
pub(crate) mod tunables;
mod unlimited;
pub(crate) mod worker;
mod workers;

pub use self::{
    config::EngineConfig,
    context::{CancelToken, Context},
    error::{Error, PushError},
    events::Event,
    workers::Workers,
};
pub(crate) use self::{events::Listener, slot::Slot};
