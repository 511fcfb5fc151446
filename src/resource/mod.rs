//! Floor 3: what work needs besides a thread.

mod kind;

pub use self::kind::ResourceKind;
