//! Floor 4: what runs the items. The user's side is [`crate::batch`].
//!
//! | file | what |
//! |---|---|
//! | `config`, `workers`, `unlimited` | what an engine can be told |
//! | `shared` | what all parts share: the table of lanes, signals, phases |
//! | `places` | which lanes are active, and under which number |
//! | `lane` | a batch as the workers see it, and the shell around its typed part |
//! | `work` | what a lane asks of the batch behind it |
//! | `body` | the typed part: seats, and the loop that runs a chunk |
//! | `entries` | what waits in a lane |
//! | `verdict` | what becomes of an item whose attempt failed |
//! | `victim` | of those, what becomes of who gave up in a deadlock |
//! | `ending` | how a lane ends |
//! | `gate` | permits all or none, the rate token last |
//! | `feedback` | adaptive rates hear how attempts fared |
//! | `worker`, `slot` | the threads, and their public places |
//! | `recovery` | what is left of a chunk after a panic of the engine's own |
//! | `supervisor`, `timers` | deadlines, items that do not come back, and when to look |
//! | `context` | what a closure sees |
//! | `tunables` | what may change while a lane runs |
//! | `events`, `snapshot` | what is told, what can be asked |
//! | `signal` | waiting for a condition |
//! | `cpu` | the rayon pool |

pub(crate) mod body;
mod config;
mod context;
pub(crate) mod cpu;
mod ending;
mod entries;
mod error;
mod events;
pub(crate) mod feedback;
pub(crate) mod gate;
mod inside;
#[cfg(feature = "cli")]
mod journalled;
pub(crate) mod lane;
mod places;
mod quotas;
mod recovery;
pub(crate) mod shared;
pub(crate) mod signal;
mod slot;
pub(crate) mod snapshot;
pub(crate) mod supervisor;
mod timers;
pub(crate) mod tunables;
mod unlimited;
mod verdict;
pub(crate) mod victim;
pub(crate) mod work;
pub(crate) mod worker;
mod workers;

pub(crate) use self::events::tell;
pub use self::{
    config::EngineConfig,
    context::{CancelToken, Context},
    error::{Error, PushError},
    events::Event,
    workers::Workers,
};
pub(crate) use self::{events::Listener, slot::Slot};
