//! What the tests of the engine share.

#![allow(dead_code, clippy::disallowed_methods, clippy::disallowed_types)]

pub(crate) mod dir;
pub(crate) mod disk;
pub(crate) mod process;

use batchyard::*;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A wait this long is a hang: nothing in these tests takes a hundredth of it.
pub(crate) const HANG: Duration = Duration::from_secs(60);

pub(crate) fn engine(workers: usize) -> Engine {
    Engine::builder().workers(workers).in_memory().open().unwrap()
}

/// xorshift64*
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Runs `f` on a thread of its own; a hang is a failure, not a test that never ends.
#[track_caller]
pub(crate) fn within<R: Send + 'static>(f: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let result = f();
        let _ = done.send(());
        result
    });
    if let Err(mpsc::RecvTimeoutError::Timeout) = wait.recv_timeout(HANG) {
        panic!("it hangs");
    }
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A door that items wait at. It opens for good, when told to or when dropped.
#[derive(Clone, Default)]
pub(crate) struct Door(Arc<(Mutex<(bool, usize)>, Condvar)>);

impl Door {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Comes to the door and waits until it is open.
    pub(crate) fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        state.1 += 1;
        changed.notify_all();
        while !state.0 {
            state = changed.wait(state).unwrap();
        }
    }

    pub(crate) fn open(&self) {
        self.0.0.lock().unwrap().0 = true;
        self.0.1.notify_all();
    }

    /// Waits until `n` have come to the door.
    #[track_caller]
    pub(crate) fn wait_for(&self, n: usize) {
        let (state, changed) = &*self.0;
        let state = state.lock().unwrap();
        let (_state, late) = changed.wait_timeout_while(state, HANG, |state| state.1 < n).unwrap();
        assert!(!late.timed_out(), "only {} of {n} came", _state.1);
    }
}

/// Waits until something becomes true that no call waits for.
#[track_caller]
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !is() {
        assert!(began.elapsed() < HANG, "never: {what}");
        std::thread::yield_now();
    }
}

/// Moves a manual clock on, step by step, until something has become true.
#[track_caller]
pub(crate) fn advance_until(time: &ManualClock, step: Duration, what: &str, mut is: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !is() {
        assert!(began.elapsed() < HANG, "never: {what}");
        time.advance(step);
        for _ in 0..20 {
            std::thread::yield_now();
        }
    }
}

/// Waits for a batch's end; a hang is a failure.
#[track_caller]
pub(crate) fn report<I: 'static, O>(batch: &Batch<I, O>) -> Report {
    match batch.wait_by(std::time::Instant::now() + HANG) {
        Ok(report) => report,
        Err(error) => panic!("{}: {error}; {:?}", batch.name(), batch.stats()),
    }
}

/// Nothing is open, in hand or held.
#[track_caller]
pub(crate) fn at_rest(engine: &Engine) {
    let mut stats = engine.stats();
    until("everything is counted", || {
        stats = engine.stats();
        stats.submitted == stats.ended()
    });
    until("no item in hand", || engine.stats().in_flight == 0);
}
