//! When a lane wants to be looked at, and the wake-ups of the supervisor, who looks.
//!
//! A heap under a short latch. A timer names a lane, not what for: who looks at a lane looks at all it may be due for,
//! so a timer that comes early or twice does no harm.

use super::lane::Shell;
use super::shared::Shared;
use crate::sync::atomic::{Ordering, fence};
use crate::sync::{Arc, Unparker, Weak};
use crate::time::Timestamp;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A time at which a lane wants to be looked at.
struct Timer {
    due: Timestamp,
    lane: Weak<Shell>,
}

#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<Timer>>,
    /// Length at which the timers of lanes that are gone are swept out: each keeps its lane's memory.
    sweep_at: usize,
}

impl Timers {
    const SWEEP: usize = 256;

    fn push(&mut self, timer: Timer) {
        if self.heap.len() >= self.sweep_at.max(Self::SWEEP) {
            self.heap.retain(|Reverse(timer)| timer.lane.strong_count() > 0);
            self.sweep_at = self.heap.len() * 2;
        }
        self.heap.push(Reverse(timer));
    }
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}
impl Eq for Timer {}
impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due.cmp(&other.due)
    }
}

impl Shared {
    pub(crate) fn set_supervisor(&self, unparker: Unparker) {
        self.gate.wake_at_changes(&unparker);
        let _ = self.supervisor.set(unparker);
    }

    /// Wakes the supervisor to look again.
    pub(crate) fn nudge(&self) {
        if let Some(supervisor) = self.supervisor.get() {
            supervisor.unpark();
        }
    }

    /// The lane wants to be looked at then.
    pub(crate) fn schedule(&self, due: Timestamp, shell: &Arc<Shell>) {
        if due == Timestamp::MAX {
            return; // never
        }
        let mut timers = self.timers.lock();
        let sooner = timers.heap.peek().is_none_or(|Reverse(first)| due < first.due);
        timers.push(Timer { due, lane: Arc::downgrade(shell) });
        drop(timers);
        if sooner {
            self.nudge();
        }
    }

    /// Lanes whose time has come, and when the next one's does.
    pub(crate) fn due(&self, now: Timestamp) -> (Vec<Arc<Shell>>, Option<Timestamp>) {
        let timers = &mut self.timers.lock().heap;
        let mut lanes: Vec<Arc<Shell>> = Vec::new();
        while timers.peek().is_some_and(|Reverse(timer)| timer.due <= now) {
            if let Some(shell) = timers.pop().and_then(|Reverse(timer)| timer.lane.upgrade())
                && !lanes.iter().any(|there| Arc::ptr_eq(there, &shell))
            {
                lanes.push(shell);
            }
        }
        (lanes, timers.peek().map(|Reverse(timer)| timer.due))
    }

    /// A chunk that wants watching is in hand. The caller has written its slot.
    pub(crate) fn watch(&self) {
        // ORDERING: SeqCst with the supervisor's fence before it looks at all slots a last time: either it sees
        // this worker's slot, or this load sees that it stopped watching.
        fence(Ordering::SeqCst);
        if !self.watching.load(Ordering::Relaxed) && !self.watching.swap(true, Ordering::AcqRel) {
            self.nudge();
        }
    }
}
