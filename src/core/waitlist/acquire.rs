//! Waiting as a thread: the node on the caller's stack, and out of the list before the frame ends.

use super::demand::Demand;
use super::{CLASSES, Cancelled, Claim, Enqueued, Node, NodeState, Refused, WaitList, Waiter};
use crate::core::permits::Miss;
use crate::sync::{Parker, armed, thread};

/// How often a waiter yields before it sleeps. A futex wake costs its giver about 7 µs and its taker 20; a yield
/// with nobody else to run costs under one. With other work to run, the yields hand the processor to the holder.
const YIELDS: u32 = if cfg!(any(loom, shuttle)) { 0 } else { 6 };

/// How often a newcomer yields before it queues. With many more, one thread that never leaves its processor would take
/// all while the others yield to it.
const LOOKS: u32 = if cfg!(any(loom, shuttle)) { 0 } else { 8 };

/// The lowest class that shall go before others.
const HIGH: usize = CLASSES / 2;

/// Why a blocking take came back without permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unmet {
    /// It cannot be had.
    Refused(Refused),
    /// The park gave up first.
    TimedOut,
}

impl From<Refused> for Unmet {
    fn from(refused: Refused) -> Self {
        Unmet::Refused(refused)
    }
}

/// A node in a list, to be taken out whatever happens, an unwinding `park` or `wake` included.
struct Seated<'a, W: FnMut(&Waiter)> {
    list: &'a WaitList,
    node: &'a Node,
    demand: &'a Demand,
    wake: &'a mut W,
    left: bool,
}

impl WaitList {
    /// Takes `d`, waiting for it with this claim as long as `park` does.
    ///
    /// `park` sleeps on the parker and returns true when it took a token, false when it gives up (its deadline is
    /// over, or it was cancelled). A grant that comes at the same time wins: the answer is then `Ok`. `late` says the
    /// same before it is queued.
    ///
    /// # Errors
    ///
    /// The demand is impossible, also because of a limit that fell meanwhile; a kind was closed; or `park` gave up.
    pub(crate) fn acquire<W: FnMut(&Waiter)>(
        &self,
        d: &Demand,
        claim: impl Into<Claim>,
        now: u64,
        parker: &Parker,
        (late, mut park): (impl FnMut() -> bool, impl FnMut(&Parker) -> bool),
        wake: &mut W,
    ) -> Result<(), Unmet> {
        let claim = claim.into();
        if self.came_by(LOOKS, d, claim, late, wake) {
            return Ok(());
        }
        let node = Node::new();
        let mut seated = Seated { list: self, node: &node, demand: d, wake, left: false };
        let waiter = Waiter::Thread(parker.unparker());
        // SAFETY: the node lies in this frame and is not moved; `seated`, which is dropped before it, sees to it
        // that it does not wait any more when the frame ends. The list is borrowed for longer than that.
        let enqueued = unsafe { self.enqueue(&node, *d, claim, now, waiter, seated.wake) };
        if enqueued? == Enqueued::Granted {
            seated.left = true;
            return Ok(());
        }
        for _ in 0..YIELDS {
            if self.state(&node) != NodeState::Waiting {
                break;
            }
            thread::yield_now();
        }
        while self.state(&node) == NodeState::Waiting {
            if !park(parker) {
                return seated.give_up(now);
            }
        }
        seated.leave(|list, node| list.take_grant(node))
    }

    /// Yields a few times before queueing, and takes what is free in between as the newcomer it still is. True: it took.
    ///
    /// Permits that are held for about as long as a hand-over takes would otherwise be handed from one sleeper to the
    /// next, each hand-over waiting for the next one to get a processor, for as long as the queue does not run empty (a
    /// lock convoy). Who yields lets the holders run on, and the queue runs empty. The bound on how often a waiter is
    /// passed counts from when it queues, a few yields after it came. Who shall go before others queues at once, and so
    /// does who is `late`, what is held back, and what can never be had.
    pub(crate) fn came_by(
        &self,
        looks: u32,
        d: &Demand,
        claim: Claim,
        mut late: impl FnMut() -> bool,
        wake: &mut impl FnMut(&Waiter),
    ) -> bool {
        let Claim::Class(class @ ..HIGH) = claim else { return false };
        if looks == 0 || self.verdict(d, class).is_err() {
            return false;
        }
        for _ in 0..looks {
            let look =
                d.parts().try_for_each(|(kind, n)| self.word(kind).ok_or(Miss::Closed)?.would_take(n, class));
            match look {
                Ok(()) if armed!(mutant = "waitlist_look_is_a_take") => return true,
                Ok(()) if self.try_take_as(d, class, wake).is_ok() => return true,
                Ok(()) | Err(Miss::Short) if !late() => thread::yield_now(),
                _ => return false,
            }
        }
        false
    }
}

/// Blocking calls for the models, which cannot make a parker.
#[cfg(any(loom, shuttle))]
impl WaitList {
    /// [`acquire`](Self::acquire) with a parker of its own. A timed one gives up when the parker does.
    pub fn acquire_alone(&self, d: &Demand, class: usize, timed: bool) -> Result<(), Unmet> {
        let parker = Parker::new();
        let park = |parker: &Parker| match timed {
            true => parker.park_timeout(std::time::Duration::from_nanos(1)),
            false => {
                parker.park();
                true
            }
        };
        self.acquire(d, class, 0, &parker, (|| false, park), &mut Self::unpark)
    }

    /// As [`acquire_alone`](Self::acquire_alone), looking once before it queues.
    pub fn acquire_looking(&self, d: &Demand, class: usize) -> Result<(), Unmet> {
        match self.came_by(1, d, Claim::Class(class), || false, &mut Self::unpark) {
            true => Ok(()),
            false => self.acquire_alone(d, class, false),
        }
    }

    /// As who runs already: takes the grant of `lane` back, if nobody has taken it up, when there is need.
    pub fn acquire_inside(&self, d: &Demand, lane: &Node) -> Result<(), Unmet> {
        let parker = Parker::new();
        let mut queued = false;
        let park = |parker: &Parker| {
            if !std::mem::replace(&mut queued, true) {
                // SAFETY: the models' nodes are boxed and outlive the list's use.
                unsafe { self.revoke(lane, Waiter::Lane(0), &mut Self::unpark) };
            } else {
                parker.park();
            }
            true
        };
        self.acquire(d, Claim::Inside { class: 1, above: 0 }, 0, &parker, (|| false, park), &mut Self::unpark)
    }

    /// Tells a thread.
    pub fn unpark(waiter: &Waiter) {
        if let Waiter::Thread(thread) = waiter {
            thread.unpark();
        }
    }
}

impl<W: FnMut(&Waiter)> Seated<'_, W> {
    /// The wait is over without a grant, unless there is one.
    fn give_up(mut self, now: u64) -> Result<(), Unmet> {
        let found = self.list.cancel(self.node, now, self.wake);
        self.left = true;
        match found {
            Cancelled::WasGranted if armed!(mutant = "waitlist_loser_drops") => Err(Unmet::TimedOut),
            Cancelled::WasGranted => Ok(()),
            Cancelled::WasClosed if armed!(mutant = "waitlist_refusal_is_a_grant") => Ok(()),
            Cancelled::WasClosed => Err(self.why()),
            Cancelled::Removed | Cancelled::WasIdle => Err(Unmet::TimedOut),
        }
    }

    /// The node waits no longer: takes the grant, or says why there is none.
    fn leave(mut self, take: impl FnOnce(&WaitList, &Node) -> bool) -> Result<(), Unmet> {
        self.left = true;
        if take(self.list, self.node) { Ok(()) } else { Err(self.why()) }
    }

    fn why(&self) -> Unmet {
        let kind = self.demand.parts().next().map_or(0, |(kind, _)| kind);
        Unmet::Refused(self.list.refusal(self.node).unwrap_or(Refused::Closed { kind }))
    }
}

impl<W: FnMut(&Waiter)> Drop for Seated<'_, W> {
    fn drop(&mut self) {
        if !self.left && self.list.cancel(self.node, 0, self.wake) == Cancelled::WasGranted {
            self.list.put(self.demand, 0, self.wake);
        }
    }
}
