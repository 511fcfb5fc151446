//! How a demand is asked for: until when, in which class, for whom, and with what end.

use super::lapse::OnExpiry;
use super::owner::Owner;
use crate::job::Priority;
use crate::sync::{Arc, Cancel};
use crate::time::Deadline;
use std::time::Duration;

/// How a demand is asked for. A new one waits as long as it takes, with normal priority, for nobody by name.
///
/// ```
/// use batchyard::{Priority, ResourceManager, resource::{AcquireError, Demand, Wait}, millis};
/// let manager = ResourceManager::builder().quota("gpu", 1).build()?;
/// let wait = Wait::new().by(millis(5)).priority(Priority::High).owner("renderer");
/// let permit = manager.acquire_with(&"gpu".into(), &wait)?;
/// assert_eq!(permit.owner(), "renderer");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Wait {
    pub(super) deadline: Option<Deadline>,
    pub(super) priority: Priority,
    pub(super) cancel: Option<Cancel>,
    pub(super) name: Option<Arc<str>>,
    pub(super) owner: Option<Owner>,
    pub(super) while_holding: bool,
    pub(super) lease: Option<Duration>,
    pub(super) on_expiry: Option<OnExpiry>,
}

impl Wait {
    /// Waits as long as it takes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Until when: a point in time, or how long from the call on.
    pub fn by(mut self, deadline: impl Into<Deadline>) -> Self {
        self.deadline = Some(deadline.into());
        self
    }

    /// In which class; [`Normal`](Priority::Normal) unless said.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// What ends the wait before its time.
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancel = Some(cancel.clone());
        self
    }

    /// For whom, by name: for reports. Unless said, the name of the thread.
    pub fn owner(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// For whom: what is held comes back when the owner is gone.
    pub fn owned_by(mut self, owner: &Owner) -> Self {
        self.name = Some(owner.name_of());
        self.owner = Some(owner.clone());
        self
    }

    /// Waits even though its thread or its owner holds something already. Who asks so answers for it that those do not
    /// wait for each other; a deadline helps.
    pub fn while_holding(mut self) -> Self {
        self.while_holding = true;
        self
    }

    /// How long the permit is held at most, unless it is renewed; unless said, what the manager
    /// [says](crate::resource::ResourceManagerBuilder::lease). Counted in steps of 10 ms, never short. Of zero it is refused
    /// ([`Invalid`](crate::resource::AcquireError::Invalid), `lease`) when the demand is asked for.
    pub fn lease(mut self, time: Duration) -> Self {
        self.lease = Some(time);
        self
    }

    /// What becomes of the permit when its lease is over; unless said, what the manager says.
    pub fn on_expiry(mut self, then: OnExpiry) -> Self {
        self.on_expiry = Some(then);
        self
    }
}
