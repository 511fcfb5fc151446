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

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::core::waitlist::{Claim, Demand, Enqueued, Node, NodeState};
    use crate::sync::Parker;

    fn quiet(_: &Waiter) {}

    /// The first wants more than there is while the other waits; for the other there is enough.
    #[test]
    fn who_is_put_first_is_served_past_the_others() {
        let list = WaitList::new(&[3]);
        list.try_take(&Demand::of(0, 2), &mut quiet).unwrap();
        let (parkers, nodes) = ([Parker::new(), Parker::new()], [Node::new(), Node::new()]);
        for (at, (n, claim)) in
            [(3, Claim::Inside { class: 1, above: 1 }), (1, Claim::Class(1))].into_iter().enumerate()
        {
            let waiter = Waiter::Thread(parkers[at].unparker());
            // SAFETY: neither the nodes nor the list move or go before both nodes are idle.
            let queued = unsafe { list.enqueue(&nodes[at], Demand::of(0, n), claim, 0, waiter, &mut quiet) };
            assert_eq!(queued, Ok(Enqueued::Waiting));
        }
        assert!(list.queue(0)[0].same(&parkers[0].unparker()));
        let mut told = 0;
        assert!(list.hasten(&parkers[1].unparker(), 0, &mut |_| told += 1));
        assert_eq!(
            (told, list.state(&nodes[0]), list.state(&nodes[1])),
            (1, NodeState::Waiting, NodeState::Granted)
        );
        assert!(list.take_grant(&nodes[1]) && !list.hasten(&parkers[1].unparker(), 0, &mut quiet));
        list.put(&Demand::of(0, 3), 0, &mut quiet);
        assert!(list.take_grant(&nodes[0]));
    }

    /// Of two that are put first, the later one stands before the other.
    #[test]
    fn the_last_that_was_put_first_is_the_first() {
        let list = WaitList::new(&[1]);
        list.try_take(&Demand::of(0, 1), &mut quiet).unwrap();
        let (parkers, nodes) = ([0; 3].map(|_| Parker::new()), [0; 3].map(|_| Node::new()));
        for (parker, node) in parkers.iter().zip(&nodes) {
            let (claim, waiter) = (Claim::Inside { class: 1, above: 0 }, Waiter::Thread(parker.unparker()));
            // SAFETY: as above.
            unsafe { list.enqueue(node, Demand::of(0, 1), claim, 0, waiter, &mut quiet) }.unwrap();
        }
        assert!(
            list.hasten(&parkers[1].unparker(), 0, &mut quiet)
                && list.hasten(&parkers[2].unparker(), 0, &mut quiet)
        );
        for at in [2, 1, 0] {
            list.put(&Demand::of(0, 1), 0, &mut quiet);
            assert!(list.take_grant(&nodes[at]), "{at}");
        }
    }
}
