//! Blocking calls for the models, which cannot make a parker.

use super::waits::Seated;
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
    owner: u32,
    is_upgrade: bool,
}

impl Place {
    /// Who waits there.
    pub fn owner(&self) -> u32 {
        self.owner
    }
}

impl RawLock {
    /// Takes the lock as the locks do, tries first: with a parker of its own; a timed one gives up when the parker does.
    pub fn enter_alone(&self, mode: Mode, class: usize, owner: u32, timed: bool) -> Result<(), Left> {
        if self.word.try_enter_at_once(mode, owner) {
            return Ok(());
        }
        match self.word.try_enter_again(mode, class, owner) {
            Ok(()) => Ok(()),
            Err(Miss::Full) => Err(Left::Full),
            Err(Miss::Busy) => self.enter_in_line(mode, class, owner, timed),
        }
    }

    /// The same, for who has tried: [`enter`](Self::enter).
    pub fn enter_in_line(&self, mode: Mode, class: usize, owner: u32, timed: bool) -> Result<(), Left> {
        let parker = Parker::new();
        let park = |parker: &Parker, _| park(parker, timed);
        self.enter(mode, class, owner, || 0, (&parker, park), &mut WaitList::unpark)
    }

    /// Upgrades as the locks do, tries first.
    pub fn upgrade_alone(&self, owner: u32, timed: bool) -> Result<(), Left> {
        if self.word.try_upgrade_at_once(owner) || self.word.try_upgrade() {
            return Ok(());
        }
        self.upgrade_in_line(timed)
    }

    /// The same, for who has tried: [`upgrade`](Self::upgrade).
    pub fn upgrade_in_line(&self, timed: bool) -> Result<(), Left> {
        let park = |parker: &Parker, _| park(parker, timed);
        self.upgrade(|| 0, &Parker::new(), park, &mut WaitList::unpark)
    }

    /// Gives the lock back as the locks do, at time 0: at once, if that is all that the word says.
    pub fn leave_alone(&self, mode: Mode, owner: u32) {
        if mode != Mode::Exclusive || !self.word.try_leave_at_once(owner) {
            self.leave_as(mode, false);
        }
    }

    /// Gives it back as the locks by name do, which may be another's when nobody waits.
    pub fn leave_quietly(&self, mode: Mode) {
        if !self.word.try_leave_quietly(mode) {
            self.leave_as(mode, false);
        }
    }

    /// For who has tried: [`leave`](Self::leave), at time 0. `poison`: and it is poisoned.
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

    /// Gives it back at a time when all who wait have waited long enough to be handed the lock.
    pub fn leave_late(&self, mode: Mode) {
        self.leave(mode, false, || FAIR_AFTER, &mut WaitList::unpark);
    }

    /// Queues somebody, who must not enter at once.
    pub fn queue_up(&self, mode: Mode, class: usize, owner: u32) -> Place {
        let place =
            Place { node: Box::default(), parker: Parker::new(), want: mode, owner, is_upgrade: false };
        // SAFETY: boxed; the model keeps the place for as long as the lock.
        let queued = unsafe {
            self.enqueue(&place.node, (mode, owner), class, 0, &place.parker, &mut WaitList::unpark)
        };
        assert_eq!(queued, Ok(Enqueued::Waiting));
        place
    }

    /// Begins an upgrade that must wait.
    pub fn queue_upgrade(&self) -> Place {
        let (want, owner) = (Mode::Exclusive, self.word.look().owner());
        let place = Place { node: Box::default(), parker: Parker::new(), want, owner, is_upgrade: true };
        // SAFETY: as above.
        assert_eq!(unsafe { self.begin_upgrade(&place.node, &place.parker) }, Enqueued::Waiting);
        place
    }

    /// Waits there: until a cancel if there is one, and if `timed` until the parker gives up.
    pub fn wait_at(&self, place: &Place, timed: bool, cancel: Option<&Cancel>) -> Result<(), Left> {
        let Place { ref node, ref parker, want, is_upgrade, .. } = *place;
        let (now, wake) = (&|| 0, &mut WaitList::unpark);
        let seated =
            Seated { lock: self, node, want, is_upgrade, now, wake, rise: None, looks: 0, left: false };
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
