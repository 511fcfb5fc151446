//! A place to wait for a condition that somebody else makes true.
//!
//! Blocking, under one latch. A waiter enters itself, then tests its condition, then sleeps; who changes the
//! condition changes it first and wakes the entered afterwards. Both pass through the latch, so either the waiter's
//! test sees the change, or the change's wake-up sees the waiter.

use crate::lock::{Levelled, house};
use crate::sync::{Unparker, with_parker};
use crate::time::{Clock, Timestamp};

#[derive(Debug, Default)]
pub(crate) struct Signal {
    waiting: Levelled<Vec<Unparker>, house::SignalWaiting>,
}

impl Signal {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Waits until `ready` gives a value or the time is `until`; then its last answer.
    pub(crate) fn wait<R>(
        &self,
        clock: &Clock,
        until: Option<Timestamp>,
        mut ready: impl FnMut() -> Option<R>,
    ) -> Option<R> {
        if let Some(value) = ready() {
            return Some(value);
        }
        with_parker(|parker| {
            let me = parker.unparker();
            let value = loop {
                self.enter(&me);
                if let Some(value) = ready() {
                    break Some(value);
                }
                if !clock.park(parker, until) && until.is_some_and(|until| clock.now() >= until) {
                    break ready();
                }
            };
            // Who waits again and again, a little each time, must not pile up here.
            self.waiting.lock().retain(|there| !there.same(&me));
            value
        })
    }

    fn enter(&self, waiter: &Unparker) {
        let mut waiting = self.waiting.lock();
        if !waiting.iter().any(|there| there.same(waiter)) {
            waiting.push(waiter.clone());
        }
    }

    /// Wakes all who wait, to test again.
    pub(crate) fn notify(&self) {
        let woken = std::mem::take(&mut *self.waiting.lock());
        for waiter in woken {
            waiter.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::atomic::{AtomicBool, Ordering};
    use crate::sync::thread;
    use crate::time::{ManualClock, millis, secs};

    #[test]
    fn wakes_and_times_out() {
        let (signal, flag) = (Signal::new(), AtomicBool::new(false));
        let time = ManualClock::new();
        let clock = time.clock();
        let wait = |until| signal.wait(&clock, until, || flag.load(Ordering::Acquire).then_some(()));
        thread::scope(|s| {
            let late = s.spawn(|| wait(Some(Timestamp::ZERO + secs(1))));
            time.wait_for_sleepers(1);
            time.advance(secs(2));
            assert_eq!(late.join().unwrap(), None);
            let served = s.spawn(|| wait(None));
            flag.store(true, Ordering::Release);
            signal.notify();
            assert_eq!(served.join().unwrap(), Some(()));
        });
    }

    #[test]
    fn who_polls_leaves_nothing_behind() {
        let signal = Signal::new();
        for _ in 0..10 {
            assert_eq!(signal.wait(&Clock::os(), Some(Clock::os().now() + millis(1)), || None::<()>), None);
        }
        assert_eq!(signal.waiting.lock().len(), 0);
    }
}
