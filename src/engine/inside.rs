//! Limits from inside an item: locks by name, more permits, and the pace of single calls.
//!
//! An item that waits here holds its worker. The order in which such waits are served is in `core/waitlist` (those inside),
//! `core/lockline` and `resource/inside.rs`; who waits for whom, and which of them gives up, in `waitgraph`. Here is what the
//! engine adds: its lanes' untaken grants are taken back, and the wait ends with the attempt.
//!
//! *Whose wait it is.* The attempt holds what its batch needs and the permits that it took, whichever of its threads took
//! them; a lock is held by the thread. An item is as old as its batch, then as its place there, however often it is
//! tried: so of those that wait for each other again and again, the same one gives up only as long as an older one is there.
//! An item inside another (`map` in a closure) waits as that one, with all that it holds.

use super::context::Context;
use crate::core::waitlist;
use crate::job::Priority;
use crate::lock::{By, LockError, LockWait, Mode, OwnedGuard};
use crate::resource::{AcquireError, Demand, Inside, Permit, Wait};
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Parker, Unparker};
use crate::time::Deadline;
use crate::waitgraph::{self, Item, Running, Share, Sleeper, Stopped, Thing, WaitGraph};
use std::panic::Location;
use std::time::Duration;

impl Context {
    /// Takes more of the engine's resources, in addition to what the batch [`needs`](crate::BatchBuilder::needs), and
    /// waits for them if need be: all of the demand or nothing. The permit gives back what it holds when it is dropped,
    /// which may be before the item ends.
    ///
    /// Who waits here holds a worker, so it goes before all batches that wait to begin. Items that wait for each other's
    /// permits or [locks](Context::lock) are found at once, and one of them gets
    /// [`Deadlock`](AcquireError::Deadlock): the one of the lowest priority, and among equals of the youngest batch, and
    /// the last in it. An item that returns that error is tried again and loses no attempt, unless it has been put off a
    /// thousand times already, or waits for nobody but its own threads. (An item inside another, of
    /// [`map`](crate::Engine::map) in a closure, ends with it. Then the outer item, if it fails, too, is tried again for free.)
    ///
    /// Where [deadlocks are not looked for](crate::EngineConfig::enable_deadlock_detection), an item that holds something
    /// already, by `needs` or from here, may wait only for kinds that come after all it holds, in the order of
    /// [`ResourceKind`](crate::ResourceKind): so items cannot wait for each other in a circle. What is free is given in
    /// any order. Tokens of a rate are never held, and may be waited for at any time. (Threads that the closure starts
    /// are one holder with it. A permit that another of them gives back while this one waits may be part of a deadlock that
    /// is told and was none.)
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
    /// [`Deadlock`](AcquireError::Deadlock), or where nobody looks for those,
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

    /// Takes one of the engine's [named locks](crate::Engine::locks) for this item, waiting for it as long as the item may
    /// run. It is given back when the guard is dropped, which is before the item ends; of a guard that was forgotten
    /// (`std::mem::forget`), when the closure has returned, if that called this on its own thread. An attempt that is
    /// [abandoned](crate::BatchBuilder::max_abandoned) holds its locks until its thread returns, since it may still be at work.
    ///
    /// Items that wait for each other are found at once, and one of them gives up: see [`acquire`](Context::acquire). A
    /// lock is held by the thread that took it: a thread of the closure's own that asks for what another of them holds waits
    /// for it.
    ///
    /// ```
    /// use batchyard::{Engine, lock::Mode};
    /// use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
    /// let engine = Engine::builder().workers(2).in_memory().open()?;
    /// let accounts = [100, 100].map(AtomicI64::new);
    /// let transfers = engine.map([(0, 1), (1, 0), (0, 1)], |(from, to), ctx| {
    ///     // In any order: who would wait for ever is told so, and tried again.
    ///     let _from = ctx.lock(format!("account {from}"), Mode::Exclusive)?;
    ///     let _to = ctx.lock(format!("account {to}"), Mode::Exclusive)?;
    ///     accounts[*from].fetch_sub(10, Relaxed);
    ///     accounts[*to].fetch_add(10, Relaxed);
    ///     Ok(())
    /// });
    /// assert!(transfers.iter().all(Result::is_ok));
    /// assert_eq!(accounts.map(AtomicI64::into_inner), [90, 110]);
    /// # Ok::<(), batchyard::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`LockError::Deadlock`]; [`LockError::Recursive`]: this thread holds the lock already, in a way that it would wait
    /// for; [`LockError::Cancelled`] when the attempt shall stop, [`LockError::TimedOut`] at its
    /// [deadline](Context::deadline).
    #[track_caller]
    pub fn lock(&self, name: impl AsRef<str>, mode: Mode) -> Result<OwnedGuard<'_>, LockError> {
        self.lock_at(name.as_ref(), mode, &LockWait::new(), Location::caller())
    }

    /// As [`lock`](Context::lock), waiting as `wait` says, and no longer than the item may run. Its priority counts where it
    /// is above the batch's.
    ///
    /// # Errors
    ///
    /// As [`lock`](Context::lock).
    #[track_caller]
    pub fn lock_with(
        &self,
        name: impl AsRef<str>,
        mode: Mode,
        wait: &LockWait,
    ) -> Result<OwnedGuard<'_>, LockError> {
        self.lock_at(name.as_ref(), mode, wait, Location::caller())
    }

    fn lock_at(
        &self,
        name: &str,
        mode: Mode,
        wait: &LockWait,
        place: &'static Location<'static>,
    ) -> Result<OwnedGuard<'_>, LockError> {
        if self.check().is_err() {
            return Err(LockError::Cancelled);
        }
        let (clock, core) = (&self.shared.clock, &self.shell.core);
        let theirs = wait.deadline_on(clock);
        let until = [theirs, self.deadline()].into_iter().flatten().min();
        let mut wait = wait.clone();
        if let Some(until) = until {
            wait = wait.by(Deadline::from(until));
        }
        let by = By { who: self.who(), class: core.class(), item: Some(self) };
        let guard = self.shared.locks.take_here((name, mode), &wait, by, place)?;
        self.has_locked.store(true, Ordering::Relaxed);
        Ok(guard)
    }

    /// What reports call it: of one inside another, as that one, which would have to be tried again.
    fn who(&self) -> Arc<str> {
        let (seq, key) = self.outer.as_ref().map_or((self.seq, &self.key), |(seq, key)| (*seq, key));
        let name = &self.shell.core.name;
        match key {
            Some(key) => format!("{name}/{key}").into(),
            None => format!("{name}/{seq}").into(),
        }
    }

    /// What it is in the wait graph.
    pub(super) fn running(&self) -> Running {
        let core = &self.shell.core;
        let attempt = self.slot.owner(self.run);
        // What was needed by an attempt that was given up is among its permits, until it is taken back.
        let none = waitlist::Demand::new();
        let needs = if self.slot.is_in_hand(self.run) { core.gate.named() } else { &none };
        Running {
            who: self.who(),
            party: attempt.party(),
            class: core.class(),
            ticket: (core.ticket, self.age()),
            holds: self.shared.gate.manager.holds_of(attempt, needs),
        }
    }

    /// Enters it in the wait graph, waiting for permits.
    fn enter_graph(
        &self,
        wants: Vec<(Arc<dyn Thing>, Share)>,
        parker: &Parker,
        at: &'static Location<'static>,
    ) -> waitgraph::Seat<'static> {
        let Running { who, party, class, ticket, holds } = self.running();
        let sleeper = Sleeper { owner: 0, thread: parker.unparker() };
        let clock = self.shared.clock.clone();
        WaitGraph::shared().enter(waitgraph::Ask {
            who,
            party,
            class,
            ticket,
            holds,
            wants,
            is_upgrade: false,
            at,
            clock,
            sleeper,
        })
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
        let graph = |wants, parker: &Parker| self.enter_graph(wants, parker, place);
        let inside = Inside {
            graph: if shared.limits.detection { Some(&graph) } else { None },
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

impl Item for Context {
    fn enter(&self, me: &Unparker) {
        self.slot.sleep_entered(me);
    }

    fn leave(&self, me: &Unparker) {
        self.slot.sleep_left(me);
    }

    fn look(&self) -> Result<Option<Duration>, Stopped> {
        if self.check().is_err() {
            return Err(Stopped);
        }
        // Whoever waits here is not hung.
        self.heartbeat();
        Ok(self.shell.core.spec.hang_after.map(|after| after / 2))
    }

    fn runs(&self) -> Running {
        self.running()
    }
}
