//! One thread's place to sleep, with a deadline, apart from the user's park token.
//!
//! Blocking. `std::thread::park` has one token per thread and it belongs to the user; a [`Parker`] has its own.
//! A token is kept when it arrives before the park, tokens do not add up, and a park may not return without a
//! token unless its deadline has passed. `park` synchronises with the `unpark` whose token it takes.
//!
//! | word | meaning | who leaves it |
//! |---|---|---|
//! | `EMPTY` | nobody sleeps, no token | `park`: to `PARKED`; `unpark`: to `TOKEN` |
//! | `PARKED` | the owner sleeps or is about to | `unpark`: to `TOKEN`, then notifies; a timeout: to `EMPTY` |
//! | `TOKEN` | a token is there | `park`: to `EMPTY`, returns at once |
//!
//! `unpark` writes `TOKEN` even over `TOKEN`: the swap makes what it published before visible to the next park.
//!
//! Under loom a timed park is a `Notify` that may return early once, and an early return is the timeout (loom's own
//! timed waits never time out). Under shuttle a timed park times out at once, at random.

use super::Arc;
use std::time::Duration;

/// The sleeping side. One thread parks on it at a time.
#[derive(Debug)]
pub(crate) struct Parker {
    inner: Arc<Inner>,
}

/// The waking side: as many clones as wanted.
#[derive(Debug, Clone)]
pub(crate) struct Unparker {
    inner: Arc<Inner>,
}

impl Parker {
    pub(crate) fn new() -> Self {
        Self { inner: Arc::new(Inner::new()) }
    }

    pub(crate) fn unparker(&self) -> Unparker {
        Unparker { inner: Arc::clone(&self.inner) }
    }

    /// Sleeps until a token comes, and takes it.
    pub(crate) fn park(&self) {
        let got = self.inner.park(None);
        debug_assert!(got, "an untimed park returns with a token only");
    }

    /// Sleeps until a token comes or `limit` has passed. True: a token was taken.
    pub(crate) fn park_timeout(&self, limit: Duration) -> bool {
        self.inner.park(Some(limit))
    }
}

impl Unparker {
    /// Leaves a token and wakes the sleeper.
    pub(crate) fn unpark(&self) {
        self.inner.unpark();
    }

    /// The same for all of one parker, as long as one of them is there.
    pub(crate) fn id(&self) -> usize {
        std::ptr::from_ref(&*self.inner).addr()
    }

    /// Whether both wake the same parker.
    pub(crate) fn same(&self, other: &Unparker) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

#[cfg(not(any(loom, shuttle)))]
pub(crate) use on_threads::with_parker;

#[cfg(not(any(loom, shuttle)))]
mod on_threads {
    use super::Parker;

    std::thread_local! {
        static MINE: Parker = Parker::new();
    }

    /// Runs `f` with this thread's own parker, or with a fresh one where thread-local storage is gone already.
    /// A left-over token may be in it: whoever parks re-tests its condition.
    pub(crate) fn with_parker<R>(f: impl FnOnce(&Parker) -> R) -> R {
        let mut f = Some(f);
        let shared = MINE.try_with(|parker| (f.take().expect("taken once"))(parker));
        match (shared, f) {
            (Ok(result), _) => result,
            (Err(_), Some(f)) => f(&Parker::new()),
            (Err(_), None) => unreachable!("a failed try_with does not run its closure"),
        }
    }
}

#[cfg(not(any(loom, shuttle)))]
mod inner {
    use crate::sync::atomic::{AtomicU32, Ordering};
    use crate::sync::{Condvar, Mutex};
    use std::time::{Duration, Instant};

    const EMPTY: u32 = 0;
    const PARKED: u32 = 1;
    const TOKEN: u32 = 2;

    #[derive(Debug)]
    pub(crate) struct Inner {
        word: AtomicU32,
        latch: Mutex<()>,
        wake: Condvar,
    }

    impl Inner {
        pub(super) fn new() -> Self {
            Self { word: AtomicU32::new(EMPTY), latch: Mutex::new(()), wake: Condvar::new() }
        }

        pub(super) fn park(&self, limit: Option<Duration>) -> bool {
            // ORDERING: Acquire pairs with the Release swap in `unpark`, here and at each `take` below.
            let take =
                || self.word.compare_exchange(TOKEN, EMPTY, Ordering::Acquire, Ordering::Relaxed).is_ok();
            if take() {
                return true;
            }
            if limit == Some(Duration::ZERO) {
                return false;
            }
            // A deadline too far to be represented is none.
            let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
            let mut guard = self.latch.lock();
            if self.word.compare_exchange(EMPTY, PARKED, Ordering::Relaxed, Ordering::Relaxed).is_err() {
                // The token came between the first look and the latch.
                let took = take();
                debug_assert!(took, "one thread parks at a time");
                return took;
            }
            loop {
                guard = match deadline {
                    None => self.wake.wait(guard),
                    Some(deadline) => {
                        let left = deadline.saturating_duration_since(Instant::now());
                        if left.is_zero() {
                            // ORDERING: Acquire: a token that won against the timeout is taken here.
                            return self.word.swap(EMPTY, Ordering::Acquire) == TOKEN;
                        }
                        self.wake.wait_timeout(guard, left)
                    }
                };
                if take() {
                    return true;
                }
            }
        }

        pub(super) fn unpark(&self) {
            // ORDERING: Release publishes what the waker did; AcqRel keeps the chain over an older token.
            if self.word.swap(TOKEN, Ordering::AcqRel) == PARKED {
                // The sleeper holds the latch from setting PARKED until it waits: passing through the latch
                // here means the notification cannot fall into that gap.
                drop(self.latch.lock());
                self.wake.notify_one();
            }
        }
    }
}

#[cfg(loom)]
mod inner {
    use crate::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    #[derive(Debug)]
    pub(crate) struct Inner {
        token: AtomicBool,
        notify: loom::sync::Notify,
    }

    impl Inner {
        pub(super) fn new() -> Self {
            Self { token: AtomicBool::new(false), notify: loom::sync::Notify::new() }
        }

        pub(super) fn park(&self, limit: Option<Duration>) -> bool {
            loop {
                if self.token.swap(false, Ordering::Acquire) {
                    return true;
                }
                self.notify.wait();
                if self.token.swap(false, Ordering::Acquire) {
                    return true;
                }
                if limit.is_some() {
                    return false;
                }
            }
        }

        pub(super) fn unpark(&self) {
            self.token.swap(true, Ordering::AcqRel);
            self.notify.notify();
        }
    }
}

#[cfg(shuttle)]
mod inner {
    use crate::sync::{Condvar, Mutex};
    use shuttle::rand::Rng;
    use std::time::Duration;

    #[derive(Debug)]
    pub(crate) struct Inner {
        token: Mutex<bool>,
        wake: Condvar,
    }

    impl Inner {
        pub(super) fn new() -> Self {
            Self { token: Mutex::new(false), wake: Condvar::new() }
        }

        pub(super) fn park(&self, limit: Option<Duration>) -> bool {
            if limit.is_some() && shuttle::rand::thread_rng().gen_bool(0.5) {
                return std::mem::take(&mut *self.token.lock());
            }
            let mut token = self.token.lock();
            // A timed park that was not chosen to time out gets its token like an untimed one only if somebody
            // still sends it; a model whose timed waiters rely on the timeout alone must not get here.
            while !*token {
                if limit.is_some() && shuttle::rand::thread_rng().gen_bool(0.5) {
                    return false;
                }
                if limit.is_some() {
                    drop(token);
                    shuttle::thread::yield_now();
                    token = self.token.lock();
                } else {
                    token = self.wake.wait(token);
                }
            }
            *token = false;
            true
        }

        pub(super) fn unpark(&self) {
            *self.token.lock() = true;
            self.wake.notify_one();
        }
    }
}

use inner::Inner;

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::sync::thread;

    #[test]
    fn token_before_park_is_kept_and_does_not_add_up() {
        let p = Parker::new();
        let u = p.unparker();
        u.unpark();
        u.unpark();
        p.park();
        assert!(!p.park_timeout(Duration::from_millis(1)));
    }

    #[test]
    fn zero_timeout_takes_a_token_or_returns() {
        let p = Parker::new();
        assert!(!p.park_timeout(Duration::ZERO));
        p.unparker().unpark();
        assert!(p.park_timeout(Duration::ZERO));
    }

    #[test]
    fn far_deadline_is_no_deadline() {
        let p = Parker::new();
        p.unparker().unpark();
        assert!(p.park_timeout(Duration::MAX));
    }

    #[test]
    fn the_users_token_is_left_alone() {
        thread::current().unpark();
        let p = Parker::new();
        assert!(!p.park_timeout(Duration::from_millis(2)));
        #[allow(clippy::disallowed_methods)] // what the lint forbids is what is tested
        std::thread::park(); // returns at once: the token is still the user's
    }

    #[test]
    fn wakes_across_threads() {
        let p = Parker::new();
        let u = p.unparker();
        thread::scope(|s| {
            s.spawn(move || u.unpark());
            p.park();
        });
    }

    #[test]
    fn with_parker_is_this_threads() {
        let a = with_parker(|p| p.unparker());
        let b = with_parker(|p| p.unparker());
        assert!(a.same(&b));
    }
}
