//! Blocking calls for the models, which cannot make a parker.

use super::*;
use crate::core::waitlist::WaitList;
use crate::sync::Cancel;
use std::time::Duration;

/// A place in the line that was taken before the threads of the model begin.
#[derive(Debug)]
pub struct Place {
    node: Box<Node>,
    parker: Parker,
    want: Mode,
    is_upgrade: bool,
}

impl RawLock {
    /// [`enter`](Self::enter) with a parker of its own; a timed one gives up when the parker does.
    pub fn enter_alone(&self, mode: Mode, class: usize, owner: u32, timed: bool) -> Result<(), Left> {
        let parker = Parker::new();
        let park = |parker: &Parker, _| park(parker, timed);
        self.enter(mode, class, owner, || 0, (&parker, park), &mut WaitList::unpark)
    }

    /// [`upgrade`](Self::upgrade), likewise.
    pub fn upgrade_alone(&self, timed: bool) -> Result<(), Left> {
        let park = |parker: &Parker, _| park(parker, timed);
        self.upgrade(|| 0, &Parker::new(), park, &mut WaitList::unpark)
    }

    /// [`leave`](Self::leave), at time 0.
    pub fn leave_alone(&self, mode: Mode) {
        self.leave_as(mode, false);
    }

    /// The same; `poison`: and it is poisoned.
    pub fn leave_as(&self, mode: Mode, poison: bool) {
        self.leave(mode, poison, || 0, &mut WaitList::unpark);
    }

    /// [`weaken`](Self::weaken), at time 0.
    pub fn weaken_alone(&self, from: Mode, to: Mode) {
        self.weaken(from, to, || 0, &mut WaitList::unpark);
    }

    /// [`hasten`](Self::hasten), at time 0.
    pub fn hasten_alone(&self, owner: u32) -> Hastened {
        self.hasten(owner, 0, &mut WaitList::unpark)
    }

    /// Looks at the line at a time when all who wait have waited long enough to be handed the lock.
    pub fn look_late(&self) {
        self.look(FAIR_AFTER, false, &mut WaitList::unpark);
    }

    /// Queues somebody, who must not enter at once.
    pub fn queue_up(&self, mode: Mode, class: usize, owner: u32) -> Place {
        let place = Place { node: Box::default(), parker: Parker::new(), want: mode, is_upgrade: false };
        // SAFETY: boxed; the model keeps the place for as long as the lock.
        let queued = unsafe {
            self.enqueue(&place.node, (mode, owner), class, 0, &place.parker, &mut WaitList::unpark)
        };
        assert_eq!(queued, Ok(Enqueued::Waiting));
        place
    }

    /// Begins an upgrade that must wait.
    pub fn queue_upgrade(&self) -> Place {
        let want = Mode::Exclusive;
        let place = Place { node: Box::default(), parker: Parker::new(), want, is_upgrade: true };
        // SAFETY: as above.
        assert_eq!(unsafe { self.begin_upgrade(&place.node, &place.parker) }, Enqueued::Waiting);
        place
    }

    /// Waits there: until a cancel if there is one, and if `timed` until the parker gives up.
    pub fn wait_at(&self, place: &Place, timed: bool, cancel: Option<&Cancel>) -> Result<(), Left> {
        let Place { ref node, ref parker, want, is_upgrade } = *place;
        let (now, wake) = (&|| 0, &mut WaitList::unpark);
        let seated = Seated { lock: self, node, want, is_upgrade, now, wake, rise: None, left: false };
        // As the locks' own waits do it.
        let _cancel = cancel.map(|cancel| cancel.enter(parker.unparker()));
        let got = seated.wait(parker, |parker, _| {
            !cancel.is_some_and(|cancel| cancel.is_cancelled()) && park(parker, timed)
        });
        // The node is its owner's again, who does with it what it likes.
        // SAFETY: nothing is done with the lock by this seat, and it is in no line.
        unsafe { Seat::new(&**node) }.with(|e| e.waiter = None);
        got
    }
}

fn park(parker: &Parker, timed: bool) -> bool {
    if timed {
        return parker.park_timeout(Duration::from_nanos(1));
    }
    parker.park();
    true
}
