//! Limits from inside an item: more permits, and the pace of single calls.
//!
//! An item that waits here holds its worker. The order in which such waits are served, and why they cannot deadlock, is
//! in `core/waitlist` (those inside) and `resource/inside.rs`; here is what the engine adds: its lanes' untaken grants are
//! taken back, and the wait ends with the attempt.

use super::context::Context;
use crate::core::waitlist;
use crate::job::Priority;
use crate::resource::{AcquireError, Demand, Inside, Permit, Wait};
use crate::sync::Unparker;
use std::panic::Location;

impl Context {
    /// Takes more of the engine's resources, in addition to what the batch [`needs`](crate::BatchBuilder::needs), and
    /// waits for them if need be: all of the demand or nothing. The permit gives back what it holds when it is dropped,
    /// which may be before the item ends.
    ///
    /// Who waits here holds a worker, so it goes before all batches that wait to begin. An item that holds something
    /// already, by `needs` or from here, may wait only for kinds that come after all it holds, in the order of
    /// [`ResourceKind`](crate::ResourceKind): so items cannot wait for each other in a circle. What is free is given in
    /// any order. Tokens of a rate are never held, and may be waited for at any time. (Threads that the closure starts
    /// are one holder with it; if several of them take permits at the same time, their order is the closure's to keep.)
    ///
    /// ```
    /// use batchyard::{Engine, ResourceKind};
    /// let engine = Engine::builder().in_memory().quota(ResourceKind::FileHandle, 2).quota("gpu", 1).open()?;
    /// let sizes = engine.map(0..8_u64, |n, ctx| {
    ///     let file = ctx.acquire(ResourceKind::FileHandle)?;
    ///     let _gpu = ctx.acquire("gpu")?; // comes after it in the kinds' order
    ///     Ok(n * file.amount(ResourceKind::FileHandle))
    /// });
    /// assert_eq!(sizes.into_iter().map(Result::unwrap).sum::<u64>(), 28);
    /// assert_eq!(engine.in_use(&ResourceKind::FileHandle), Some((0, 2)));
    /// # Ok::<(), batchyard::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Nothing was taken. [`Cancelled`](AcquireError::Cancelled) when the attempt shall stop;
    /// [`TimedOut`](AcquireError::TimedOut) at its [deadline](Context::deadline), and [`Paced`](AcquireError::Paced) at
    /// once when a rate's tokens will come too late for it;
    /// [`WouldHoldAndWait`](AcquireError::WouldHoldAndWait) out of order; [`NeverFits`](AcquireError::NeverFits), also
    /// when abandoned attempts hold too much of it; an unknown kind or rate.
    #[track_caller]
    pub fn acquire(&self, demand: impl Into<Demand>) -> Result<Permit, AcquireError> {
        self.acquire_at(demand.into(), Location::caller())
    }

    /// Takes `n` tokens of one of the engine's rates, waiting for them if need be: for items that make several calls, or
    /// find out how many on the way. (A batch that is [`paced_by`](crate::BatchBuilder::paced_by) a rate has paid one
    /// token for the start of each item.) An [adaptive](crate::limit::Adaptive) rate hears how the attempt fared.
    ///
    /// ```
    /// use batchyard::{Engine, Rate};
    /// let engine = Engine::builder().in_memory().rate("api", Rate::per_second(1000).burst(10)).open()?;
    /// let pages = engine.map([2_u64, 3], |pages, ctx| {
    ///     for _page in 0..*pages {
    ///         ctx.pace("api", 1)?;
    ///     }
    ///     Ok(*pages)
    /// });
    /// assert!(pages.iter().all(Result::is_ok));
    /// # Ok::<(), batchyard::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`acquire`](Context::acquire), for a demand of no more than these tokens.
    #[track_caller]
    pub fn pace(&self, rate: &str, n: u64) -> Result<(), AcquireError> {
        self.acquire_at(Demand::new().pace(rate, n), Location::caller()).map(drop)
    }

    fn acquire_at(
        &self,
        mut demand: Demand,
        place: &'static Location<'static>,
    ) -> Result<Permit, AcquireError> {
        let (shared, core) = (&self.shared, &self.shell.core);
        if self.check().is_err() {
            return Err(AcquireError::Cancelled);
        }
        // What is not kept asks for nothing.
        if !shared.limits.throttling {
            demand = demand.without_needs();
        }
        if !shared.limits.rate_limiting {
            demand = demand.without_paces();
        }
        let mut wait = Wait::new().priority(Priority::from_class(core.class())).owner(core.name.clone());
        if let Some(deadline) = self.deadline() {
            wait = wait.by(deadline);
        }
        let inside = Inside {
            attempt: self.slot.owner(self.run),
            above: core.gate.above(),
            // Whoever waits here is not hung.
            beat: core.spec.hang_after.map(|after| after / 2),
            queued: &|wanted: &waitlist::Demand| {
                for shell in shared.lanes() {
                    shell.core.gate.give_up_grant(shared, &shell.core, wanted);
                }
            },
            enter: &|me: &Unparker| self.slot.sleep_entered(me),
            leave: &|me: &Unparker| self.slot.sleep_left(me),
            stop: &|wanted: &waitlist::Demand| {
                if self.check().is_err() {
                    return Some(AcquireError::Cancelled);
                }
                self.heartbeat();
                let (kind, asked, lost, limit) = shared.gate.lacks(wanted, core.class())?;
                let kind = shared.gate.manager.kind_of(kind);
                Some(AcquireError::NeverFits { kind, asked, limit: limit.saturating_sub(lost) })
            },
        };
        let asked = shared.clock.now();
        let permit = shared.gate.manager.acquire_inside(&demand, &wait, &inside, place)?;
        self.note_paid(&demand, asked);
        // Looked at behind the entry of what it holds: either who abandons the attempt finds that, or we see it here.
        if self.check().is_err() {
            return Err(AcquireError::Cancelled);
        }
        Ok(permit)
    }
}
