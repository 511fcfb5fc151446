//! A grant that nobody has taken up is taken back, in favour of who waits inside.
//!
//! Who waits for a lane's grant is nobody in particular: any worker serves it. If the last of them waits inside an item
//! for what such a grant holds, nobody is left to serve it, and the two wait for each other. So who waits inside takes the
//! untaken grants back that overlap with its demand, after it has queued. From then on lanes are granted nothing of any
//! kind that it waits for, not even what is left over beside its need: a limit that falls may make that its need. So no
//! later grant takes away what it needs, and one look at each lane suffices.
//!
//! *Why the first of those inside is served.* It waits only for kinds above all that the others inside hold (`lines`), and no
//! untaken grant holds any of them. So all that it waits for is with who runs, or with outsiders, or free; and none stands
//! before it. Who takes beside those inside, a thread or a worker for the item that it is about to run, takes what is
//! left over, and runs. (Where those inside wait for kinds in any order, they may wait for each other in a circle; that is for
//! the detector to find. No untaken grant is part of one: whoever waits inside has taken back what overlaps with its demand,
//! and no lane is granted such kinds as long as it waits.)
//!
//! `Granted` to `Waiting` and `Granted` to `Idle` are CASes on the node's state, so a grant is taken or taken back:
//!
//! 1. The taker comes first: there is somebody who runs with the permits, and will give them back.
//! 2. The revoker comes first: the taker finds no grant, as if it had never been made. The node stands in its line where
//!    it stood before, and the permits are given back to whom the scan finds.

use super::lines::Seat;
use super::{Node, NodeState, WaitList, Waiter};
use crate::sync::armed;
use crate::sync::atomic::Ordering;

impl WaitList {
    /// Takes the grant of `node` back, unless it was taken up: true, and the node waits again with the claim and the
    /// age that it had. `waiter` is told of its next grant, which may be made before this returns.
    ///
    /// The node is alive and not dropped meanwhile; it may be one that waits for nothing, or in another list.
    ///
    /// # Safety
    ///
    /// As for [`enqueue`](WaitList::enqueue): from now on the node must not move or be dropped, until it is seen not to
    /// wait.
    pub unsafe fn revoke(&self, node: &Node, waiter: Waiter, wake: &mut impl FnMut(&Waiter)) -> bool {
        if self.state(node) != NodeState::Granted {
            return false;
        }
        let mut queue = self.enter(0);
        if node.home.load(Ordering::Relaxed) != self.home() {
            return false;
        }
        let (granted, waiting) = (NodeState::Granted as u32, NodeState::Waiting as u32);
        if armed!(mutant = "waitlist_revoke_blind") {
            node.state.store(waiting, Ordering::Relaxed);
        } else if node
            .state
            // Relaxed: what is in the node's entry was written under the latch, which is held.
            .compare_exchange(granted, waiting, Ordering::Relaxed, Ordering::Relaxed)
            .is_err()
        {
            return false;
        }
        // SAFETY: the latch is held, the node is alive, and it is about to be linked: its state says that nobody else
        // has its entry.
        let seat = unsafe { Seat::new(node) };
        let demand = seat.with(|e| e.demand);
        if self.register(&demand).is_err() {
            // No room for a waiter: the grant stands. A taker that came meanwhile saw none, so it is told again.
            // ORDERING: Release as in `unseat`.
            seat.publish(NodeState::Granted, Ordering::Release);
            drop(queue);
            wake(&waiter);
            return false;
        }
        seat.with(|e| e.waiter = Some(waiter));
        queue.lines.put_back(seat);
        // A kind may have been closed, or a limit lowered, since it was granted.
        queue.sweep = true;
        for (kind, n) in demand.parts() {
            // The scan below serves those who wait for it.
            let _ = self.kinds[usize::from(kind)].put(n);
        }
        if armed!(mutant = "waitlist_revoke_silent") {
            return true;
        }
        self.settle(queue, None, None, wake);
        true
    }
}
