//! A thread that waits is let past all others: where their order alone would hold it up for ever.
//!
//! Who holds a lock, or permits that it took out of order, can be waited for by the first of those inside; if it stands
//! behind that one for a kind of which there is enough, the two wait for each other by the order of the line. The
//! detector (`waitgraph`) finds that out, and has it put before all.

use super::{WaitList, Waiter};
use crate::sync::Unparker;

impl WaitList {
    /// The threads that wait, in the order of their claims at this time.
    pub(crate) fn queue(&self, now: u64) -> Vec<Unparker> {
        let queue = self.enter(now);
        queue.lines.threads(queue.now)
    }

    /// Puts a thread that waits before all others, those that were put there before among them: from then on it waits as who
    /// is inside. False: no such thread waits.
    pub(crate) fn hasten(&self, who: &Unparker, now: u64, wake: &mut impl FnMut(&Waiter)) -> bool {
        let mut queue = self.enter(now);
        let mut found = None;
        queue.lines.each(|seat| {
            let is_it = seat.with(|e| matches!(&e.waiter, Some(Waiter::Thread(thread)) if thread.same(who)));
            found = found.or(is_it.then_some(seat));
            found.is_none()
        });
        let Some(seat) = found else { return false };
        queue.lines.put_first(seat);
        self.settle(queue, None, None, wake);
        true
    }
}
