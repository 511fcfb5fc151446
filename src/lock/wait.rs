//! How a lock is asked for.

use crate::job::Priority;
use crate::sync::Arc;
use crate::sync::Cancel;
use crate::time::{Clock, Deadline, Timestamp};
use crate::waitgraph::Item;

/// How a lock is asked for. A new one waits as long as it takes, with normal priority.
///
/// ```
/// use batchyard::{Priority, lock::{LockError, LockWait, RwLock}, millis};
/// let lock = RwLock::new(1);
/// let wait = LockWait::new().by(millis(5)).priority(Priority::High);
/// assert_eq!(*lock.read_with(&wait)?, 1);
/// # Ok::<(), LockError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct LockWait {
    pub(super) deadline: Option<Deadline>,
    pub(super) priority: Priority,
    pub(super) cancel: Option<Cancel>,
}

impl LockWait {
    /// Waits as long as it takes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Until when: a point in time, or how long from the call on.
    pub fn by(mut self, deadline: impl Into<Deadline>) -> Self {
        self.deadline = Some(deadline.into());
        self
    }

    /// When it ends, by this clock.
    pub(crate) fn deadline_on(&self, clock: &Clock) -> Option<Timestamp> {
        self.deadline.and_then(|deadline| deadline.on(clock))
    }

    /// In which class; [`Normal`](Priority::Normal) unless said. Who waits rises by one class for each 10 ms: so it is passed by
    /// newcomers of higher classes for 30 ms at the most if it is `Low`, 20 if `Normal`, 10 if `High`, and never if
    /// `Critical`.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// What ends the wait before its time.
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancel = Some(cancel.clone());
        self
    }
}

/// In whose name a thread's session takes something.
#[derive(Clone)]
pub(crate) struct By<'a> {
    pub(crate) who: Arc<str>,
    /// In which class it waits.
    pub(crate) class: usize,
    /// The item that asks, where that is known.
    pub(crate) item: Option<&'a dyn Item>,
}
