//! [`Levelled`]: the latches of the house, each with its level in [the order of all](super::house).
//!
//! They are mutexes of the operating system's, held for a few dozen instructions (some, where `house.rs` says so, for as long
//! as a user's call takes). A thread that takes one against the order is a bug of ours, and one that may show once in a
//! million runs as a deadlock; here it shows whenever the two are nested at all, by a panic. For that, builds with
//! `debug_assertions` keep what a thread holds in the stack that the users' locks are in as well: so the order between ours
//! and theirs is learned, too. In all other builds there is no stack, and no level.

use super::level::Level;
use crate::sync::{Condvar, Mutex, MutexGuard, Sleepers, Unparker};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

#[cfg(debug_assertions)]
mod held {
    use super::super::held::{self, Entry};
    use super::super::house::House;
    use super::super::level::{self, LevelInfo, Order};
    use crate::core::lockword::Mode;
    use std::panic::Location;

    /// That this thread holds a lock, in its stack until dropped.
    #[derive(Debug)]
    pub(super) struct Held(usize);

    impl Held {
        /// # Panics
        ///
        /// The order of locks does not have it. While a panic unwinds nothing is said: that would be the end of the process.
        #[track_caller]
        pub(super) fn new(lock: usize, level: Option<&'static LevelInfo>) -> Self {
            let place = Location::caller();
            if let Some(level) = level
                && let Err(violation) = level::check(level, place)
                && !std::thread::panicking()
            {
                panic!("{violation}");
            }
            held::push(Entry::new(lock, Mode::Exclusive, level, place));
            Held(lock)
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            held::pop(self.0, Mode::Exclusive);
        }
    }

    /// As the one outside.
    #[track_caller]
    pub(super) fn outside() {
        let of_house =
            |entry: &Entry| Some((entry.level.filter(|level| level.is_of(House::INFO))?, entry.place));
        if let Some((level, place)) = held::look(of_house)
            && !std::thread::panicking()
        {
            let at = Location::caller();
            panic!("`{level}`, taken at {place}, is held where code of the user's is called, at {at}");
        }
    }
}

#[cfg(not(debug_assertions))]
mod held {
    use super::super::level::LevelInfo;

    /// Nothing.
    #[derive(Debug)]
    pub(super) struct Held;

    impl Held {
        #[inline(always)]
        pub(super) fn new(_: usize, _: Option<&'static LevelInfo>) -> Self {
            Held
        }
    }

    #[inline(always)]
    pub(super) fn outside() {}
}

use self::held::Held;

/// A [`Mutex`] with its level.
pub(crate) struct Levelled<T, L: Level> {
    mutex: Mutex<T>,
    level: PhantomData<fn() -> L>,
}

/// Said where code of the user's is called, which may do anything: this thread holds no lock of the house.
///
/// # Panics
///
/// In builds with `debug_assertions`, if it does.
#[track_caller]
#[inline(always)]
pub(crate) fn outside() {
    held::outside();
}

/// The guard of [`Levelled`].
#[derive(Debug)]
#[must_use = "dropped at once, the lock is free again"]
pub(crate) struct LevelledGuard<'a, T> {
    guard: MutexGuard<'a, T>,
    held: Held,
}

#[cfg(not(debug_assertions))]
const _: () = {
    use super::level::Unlevelled;
    assert!(size_of::<Levelled<u64, Unlevelled>>() == size_of::<Mutex<u64>>(), "a level costs nothing");
    assert!(size_of::<LevelledGuard<'_, u64>>() == size_of::<MutexGuard<'_, u64>>(), "nor does a guard");
};

impl<T, L: Level> Levelled<T, L> {
    /// A free one.
    pub(crate) const fn new(value: T) -> Self {
        Levelled { mutex: Mutex::new(value), level: PhantomData }
    }

    /// Waits for the lock.
    ///
    /// # Panics
    ///
    /// In builds with `debug_assertions`, against the order.
    #[track_caller]
    #[inline]
    pub(crate) fn lock(&self) -> LevelledGuard<'_, T> {
        // Before the wait, which might be for ever.
        let held = Held::new(std::ptr::from_ref(self).addr(), L::INFO);
        LevelledGuard { guard: self.mutex.lock(), held }
    }

    /// The value, without locking.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.mutex.get_mut()
    }
}

impl<L: Level> Sleepers for Levelled<Vec<Unparker>, L> {
    fn with(&self, f: impl FnOnce(&mut Vec<Unparker>)) {
        f(&mut self.lock());
    }
}

impl<T: Default, L: Level> Default for Levelled<T, L> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: fmt::Debug, L: Level> fmt::Debug for Levelled<T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.mutex.fmt(f)
    }
}

impl<'a, T> LevelledGuard<'a, T> {
    /// Gives the lock up, waits at `condvar` for a notification (or wakes for none), takes the lock again. It counts as held
    /// all the while.
    pub(crate) fn wait(self, condvar: &Condvar) -> Self {
        let LevelledGuard { guard, held } = self;
        LevelledGuard { guard: condvar.wait(guard), held }
    }
}

impl<T> Deref for LevelledGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for LevelledGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::super::house;
    use super::*;
    use crate::sync::thread;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn refused<R>(f: impl FnOnce() -> R) -> String {
        let panic = catch_unwind(AssertUnwindSafe(|| drop(f()))).expect_err("against the order");
        panic.downcast_ref::<String>().expect("it says why").clone()
    }

    #[test]
    fn the_order_is_kept() {
        let opening = Levelled::<_, house::Opening>::new(1);
        let places = Levelled::<_, house::Places>::new(2);
        let timers = [Levelled::<_, house::Timers>::new(3), Levelled::new(4)];
        let inside = (opening.lock(), places.lock(), timers[0].lock());
        drop(inside);
        // A step may be passed over, and what was taken first may be given back first.
        let (outer, inner) = (opening.lock(), timers[1].lock());
        drop(outer);
        let why = refused(|| places.lock());
        assert!(why.contains("`House::Places` is to be taken before `House::Timers`"), "{why}");
        assert_eq!(why.matches("levelled.rs").count(), 2, "where both are, it says: {why}");
        // One of a level at a time, whichever; and the same once more would wait for itself.
        for timers in &timers {
            assert!(refused(|| timers.lock()).contains("before `House::Timers`"));
        }
        drop(inner);
        assert_eq!(*places.lock() + *timers[0].lock(), 5);
    }

    #[test]
    fn peers_of_a_step_are_not_held_together() {
        let (past, places) = (Levelled::<_, house::Past>::new(()), Levelled::<_, house::Places>::new(()));
        let held = past.lock();
        refused(|| places.lock());
        // Another thread holds nothing.
        thread::scope(|scope| scope.spawn(|| drop(places.lock())).join().unwrap());
        drop(held);
        drop(places.lock());
    }

    #[test]
    fn a_wait_holds_it() {
        let (lock, condvar) = (Levelled::<_, house::Incoming>::new(false), Condvar::new());
        let other = Levelled::<_, house::Refilling>::new(());
        thread::scope(|scope| {
            let mut held = lock.lock();
            scope.spawn(|| {
                *lock.lock() = true;
                condvar.notify_one();
            });
            while !*held {
                held = held.wait(&condvar);
            }
            refused(|| other.lock());
            drop(held);
            drop(other.lock());
        });
    }

    #[test]
    fn code_of_the_users_is_called_with_none_held() {
        let lock = Levelled::<_, house::Steer>::new(());
        outside();
        let held = lock.lock();
        let why = refused(outside);
        assert!(why.starts_with("`House::Steer`, taken at src/lock/levelled.rs"), "{why}");
        drop(held);
        outside();
        // Locks of theirs are none of ours.
        let theirs = super::super::Mutex::new(1);
        let held = theirs.lock().expect("it is free");
        outside();
        drop(held);
    }

    #[test]
    fn what_unwinds_goes_on() {
        struct Locks<'a>(&'a Levelled<u8, house::Opening>);
        impl Drop for Locks<'_> {
            fn drop(&mut self) {
                *self.0.lock() += 1;
            }
        }
        let (outer, inner) = (Levelled::new(0), Levelled::<_, house::Timers>::new(()));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _held = inner.lock();
            let _locks = Locks(&outer);
            panic!("first");
        }));
        assert_eq!(panicked.expect_err("it was told").downcast_ref::<&str>(), Some(&"first"));
        assert_eq!(super::super::held::count(), 0);
        assert_eq!(*outer.lock(), 1);
    }
}
