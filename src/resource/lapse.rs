//! What becomes of a permit whose time is over.

use super::stats::Holder;
use crate::core::lease;
use crate::sync::Arc;
use crate::time::Timestamp;
use std::fmt;

/// What becomes of a permit when its lease is over, or when its owner is gone (then `Report` reclaims).
///
/// Whatever it is, the manager counts it, and tells [`on_lapse`](crate::resource::ResourceManagerBuilder::on_lapse).
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum OnExpiry {
    /// It is reported, and stays: the holder still has what it has, and gives it back when it drops the permit.
    #[default]
    Report,
    /// What it held is given to others. If the holder still uses it, more is in use than the limit says: for holders
    /// that are gone.
    Reclaim,
    /// This is called, to close what the permit stood for; then what it held is given to others. It runs in whatever
    /// thread noticed: one that asks for more than is free, waiting or not, that extends, checks or renews a permit, that
    /// sweeps, or that drops the [`Owner`](crate::resource::Owner)'s last clone; with whatever locks of yours that thread
    /// holds there, and in that call's time. It may use the manager, whose latches are all
    /// free then, and the engine. What an engine's supervisor notices runs in a thread of its own. A panic in it is
    /// swallowed.
    Revoke(Arc<dyn Fn(&Holder) + Send + Sync>),
}

impl OnExpiry {
    /// [`Revoke`](Self::Revoke) by this function.
    ///
    /// ```
    /// use batchyard::{ManualClock, ResourceManager, resource::OnExpiry, secs};
    /// use std::sync::mpsc;
    /// let time = ManualClock::new();
    /// let (tell, told) = mpsc::channel();
    /// let manager = ResourceManager::builder()
    ///     .quota("gpu", 1)
    ///     .clock(time.clock())
    ///     .lease(secs(60), OnExpiry::revoke(move |holder| tell.send(holder.owner.clone()).unwrap_or(())))
    ///     .build()?;
    /// let held = manager.acquire(&"gpu".into())?;
    /// time.advance(secs(61));
    /// assert!(manager.sweep() == 1 && told.recv()? == held.owner());
    /// assert!(manager.try_acquire(&"gpu".into()).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn revoke(f: impl Fn(&Holder) + Send + Sync + 'static) -> Self {
        OnExpiry::Revoke(Arc::new(f))
    }
}

impl fmt::Debug for OnExpiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnExpiry::Report => "Report",
            OnExpiry::Reclaim => "Reclaim",
            OnExpiry::Revoke(_) => "Revoke",
        })
    }
}

/// A lease's time in the word's ticks of 10 ms, which last for 21 years.
const TICK_NS: u64 = 10_000_000;

/// The tick that is not before `t`.
pub(super) fn expiry(t: Timestamp) -> u64 {
    t.as_nanos().div_ceil(TICK_NS).min(lease::NEVER)
}

/// The tick that has begun at `t`.
pub(super) fn tick(t: Timestamp) -> u64 {
    (t.as_nanos() / TICK_NS).min(lease::NEVER - 1)
}

/// When a tick begins; `None` is never.
pub(super) fn begin(tick: u64) -> Option<Timestamp> {
    (tick < lease::NEVER).then(|| Timestamp::from_nanos(tick.saturating_mul(TICK_NS)))
}
