//! Waiting for a lock as a thread: the node on the caller's stack, and out of its line before the frame ends.

use super::*;

/// A node in a line, to be taken out whatever happens, an unwinding `park` or `wake` included.
pub(super) struct Seated<'a, N: Fn() -> u64, W: FnMut(&Waiter)> {
    pub(super) lock: &'a RawLock,
    pub(super) node: &'a Node,
    pub(super) want: Mode,
    pub(super) is_upgrade: bool,
    pub(super) now: &'a N,
    pub(super) wake: &'a mut W,
    /// When it rises next.
    pub(super) rise: Option<u64>,
    /// How often it looks again before it sleeps.
    pub(super) looks: u32,
    pub(super) left: bool,
}

impl<N: Fn() -> u64, W: FnMut(&Waiter)> Seated<'_, N, W> {
    pub(super) fn wait(
        mut self,
        parker: &Parker,
        mut park: impl FnMut(&Parker, Option<u64>) -> bool,
    ) -> Result<(), Left> {
        loop {
            match self.node.state() {
                NodeState::Granted => break,
                NodeState::Told if self.lock.come(self.node, (self.now)(), self.wake) => break,
                NodeState::Told => self.look_again(),
                _ if park(parker, self.rise) => {
                    if self.rise.is_some_and(|rise| (self.now)() >= rise) {
                        self.rise = self.lock.rise(self.node, (self.now)(), self.wake);
                    }
                }
                _ => {
                    let granted = self.lock.cancel(self.node, (self.now)(), self.wake);
                    self.left = true;
                    return if granted && !armed!(mutant = "lockline_loser_drops") {
                        Ok(())
                    } else {
                        Err(Left::GaveUp)
                    };
                }
            }
        }
        self.left = true;
        Ok(())
    }
}

impl<N: Fn() -> u64, W: FnMut(&Waiter)> Seated<'_, N, W> {
    /// It was passed, and will soon be told again: it need not fall asleep for that at once.
    fn look_again(&self) {
        looks(self.looks, || (self.node.state() != NodeState::Waiting).then_some(()));
    }
}

impl<N: Fn() -> u64, W: FnMut(&Waiter)> Drop for Seated<'_, N, W> {
    fn drop(&mut self) {
        if self.left || !self.lock.cancel(self.node, (self.now)(), self.wake) {
            return;
        }
        if self.is_upgrade {
            self.lock.weaken(Mode::Exclusive, Mode::Upgradable, self.now, self.wake);
        } else {
            self.lock.leave(self.want, false, self.now, self.wake);
        }
    }
}

impl RawLock {
    /// Takes the lock, waiting for it as long as `park` does: see [`WaitList`](super::waitlist::WaitList)'s; and it is to wake
    /// at the time that it is given. `now` reads the clock.
    ///
    /// # Errors
    ///
    /// `park` gave up, or there is no room for another.
    pub(crate) fn enter(
        &self,
        mode: Mode,
        class: usize,
        owner: u32,
        now: impl Fn() -> u64,
        (parker, park): (&Parker, impl FnMut(&Parker, Option<u64>) -> bool),
        wake: &mut impl FnMut(&Waiter),
    ) -> Result<(), Left> {
        if self.enter_soon(mode, class, owner)? {
            return Ok(());
        }
        self.wait_in_line(mode, class, owner, now, (parker, park), wake)
    }

    /// Takes the lock if it becomes free while one looks again a few times. False: it does not.
    ///
    /// # Errors
    ///
    /// There is no room for another.
    pub(crate) fn enter_soon(&self, mode: Mode, class: usize, owner: u32) -> Result<bool, Left> {
        let entered = looks(most_looks(class), || match self.word.try_enter(mode, class, owner) {
            Ok(()) => Some(Ok(true)),
            Err(Miss::Full) => Some(Err(Left::Full)),
            Err(Miss::Busy) => None,
        });
        entered.unwrap_or(Ok(false))
    }

    /// As [`enter`](Self::enter), for who has looked often enough.
    pub(crate) fn wait_in_line(
        &self,
        mode: Mode,
        class: usize,
        owner: u32,
        now: impl Fn() -> u64,
        (parker, park): (&Parker, impl FnMut(&Parker, Option<u64>) -> bool),
        wake: &mut impl FnMut(&Waiter),
    ) -> Result<(), Left> {
        let node = Node::new();
        let since = now();
        let rise = next_rise(class, since, since);
        let mut seated = Seated {
            lock: self,
            node: &node,
            want: mode,
            is_upgrade: false,
            now: &now,
            wake,
            rise,
            looks: most_looks(class),
            left: false,
        };
        // SAFETY: the node lies in this frame and is not moved; `seated`, which is dropped before it, sees to it that it is
        // in no line when the frame ends. The lock is borrowed for longer than that.
        let enqueued = unsafe { self.enqueue(&node, (mode, owner), class, since, parker, seated.wake)? };
        if enqueued == Enqueued::Entered {
            seated.left = true;
            return Ok(());
        }
        seated.wait(parker, park)
    }

    /// From upgradable to exclusive, waiting for the readers as long as `park` does.
    ///
    /// # Errors
    ///
    /// `park` gave up; the caller is the upgradable holder as before.
    pub(crate) fn upgrade(
        &self,
        now: impl Fn() -> u64,
        parker: &Parker,
        park: impl FnMut(&Parker, Option<u64>) -> bool,
        wake: &mut impl FnMut(&Waiter),
    ) -> Result<(), Left> {
        if self.word.try_upgrade() {
            return Ok(());
        }
        let node = Node::new();
        let want = Mode::Exclusive;
        let mut seated = Seated {
            lock: self,
            node: &node,
            want,
            is_upgrade: true,
            now: &now,
            wake,
            rise: None,
            looks: 0,
            left: false,
        };
        // SAFETY: as in `enter`.
        let enqueued = unsafe { self.begin_upgrade(&node, parker) };
        if enqueued == Enqueued::Entered {
            seated.left = true;
            return Ok(());
        }
        seated.wait(parker, park)
    }
}

/// How often one of this class looks again.
fn most_looks(class: usize) -> u32 {
    if class < HIGH { LOOKS } else { PAUSES }
}

/// Looks again so often, unless there is something to see before.
fn looks<R>(most: u32, mut see: impl FnMut() -> Option<R>) -> Option<R> {
    (1..=most).find_map(|look| {
        if look <= PAUSES {
            (0..1 << look).for_each(|_| hint::spin_loop());
        } else {
            thread::yield_now();
        }
        see()
    })
}

/// When one of this class who waits since then rises next.
pub(super) fn next_rise(class: usize, since: u64, now: u64) -> Option<u64> {
    let steps = now.saturating_sub(since) / AGEING + 1;
    let rises = (class as u64).saturating_add(steps) < CLASSES as u64;
    rises.then(|| since.saturating_add(steps.saturating_mul(AGEING)))
}
