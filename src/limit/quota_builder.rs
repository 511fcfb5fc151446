//! Settings of a quota beyond its limit.

use super::quota::{Quota, checked};
use crate::core::permits::{CLASSES, Floors};
use crate::error::Invalid;
use crate::job::Priority;
use crate::time::Clock;

/// A [`Quota`] in the making; from [`Quota::builder`].
///
/// ```
/// use batchyard::{Priority, limit::{Quota, QuotaError}};
/// let quota = Quota::builder(10).reserve_for(Priority::High, 2).build()?;
/// let _most = quota.acquire(8)?;
/// assert_eq!(quota.try_acquire(1).unwrap_err(), QuotaError::Full);
/// assert!(quota.try_acquire_as(1, Priority::High).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct QuotaBuilder {
    pub(super) limit: u64,
    pub(super) reserves: [u64; CLASSES],
    pub(super) clock: Option<Clock>,
    pub(super) counted: bool,
}

impl QuotaBuilder {
    pub(super) fn new(limit: u64) -> Self {
        QuotaBuilder { limit, reserves: [0; CLASSES], clock: None, counted: false }
    }

    /// Keeps `n` permits for calls of this priority and above: who is below always leaves so many free.
    ///
    /// Reserves of several priorities add up: 2 for `High` and 1 for `Critical` leave a `Normal` call the limit
    /// less 3, and a `High` one the limit less 1. To reserve for `Low` is to reserve for all, and changes nothing.
    ///
    /// A reserve is a floor under what is free, not a set of permits: whatever the high classes take, the low ones wait
    /// until the floor is free beside what they ask for, though they rise with age in the queue. So high classes that
    /// use all of a reserve all the time keep the low ones out.
    pub fn reserve_for(mut self, priority: Priority, n: u64) -> Self {
        let reserve = &mut self.reserves[priority.class()];
        *reserve = reserve.saturating_add(n);
        self
    }

    /// The clock for deadlines and ageing; [`Clock::os`] unless said.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Counts grants, denials and waits, and how much is held for how long, for [`Quota::stats`]. Costs a reading of the
    /// clock and two to four atomic additions at each grant, and again when it is given back. No lock.
    pub fn counted(mut self) -> Self {
        self.counted = true;
        self
    }

    /// The quota, all of it free.
    ///
    /// # Errors
    ///
    /// Names `limit` when it is zero or above 2^38, and `reserve` when nothing is left beside it for the lowest class.
    pub fn build(self) -> Result<Quota, Invalid> {
        let limit = checked(self.limit)?;
        let floors = floors(limit, &self.reserves)?;
        Ok(Quota::from_parts(limit, floors, self.clock.unwrap_or_else(Clock::os), self.counted))
    }
}

/// What each class leaves free: what is reserved for those above it.
pub(crate) fn floors(limit: u64, reserves: &[u64; CLASSES]) -> Result<Floors, Invalid> {
    let mut floors = [0; CLASSES];
    for class in (1..CLASSES).rev() {
        floors[class - 1] = reserves[class].saturating_add(floors[class]);
    }
    if floors[0] >= limit {
        let problem = format!("{} of a limit of {limit} leave nothing for the others", floors[0]);
        return Err(Invalid::new("reserve", problem));
    }
    Ok(floors)
}
