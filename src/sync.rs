//! Floor 0: the one door to `std::sync`, to loom and to shuttle.
//!
//! Everything above takes its atomics, locks, threads and parking from here, so that one source can run on real
//! threads, under loom (`--cfg loom`: all interleavings and the memory orders) and under shuttle
//! (`--cfg shuttle`: random schedules of many threads). The atomics are newtypes in all three worlds; beside the
//! choice of backend they carry the second loom pass: under `--cfg loom_rmw_loads` a load is a read-modify-write
//! that changes nothing, which makes loom 0.7 explore orders that its plain loads hide (see
//! `loom-tests/README.md`).
//!
//! [`armed!`] is the seam for mutants: in a `--cfg mutants` build the environment variable `BATCHYARD_MUTANT`
//! names one deliberate bug; in every other build it is the constant `false`.

// What the lints keep from everybody else is wrapped here.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

mod cancel;
mod parker;

pub use self::cancel::Cancel;
#[cfg(not(any(loom, shuttle)))]
pub(crate) use self::cancel::{Entry, Sleepers};
#[cfg(not(any(loom, shuttle)))]
pub(crate) use self::parker::with_parker;
pub(crate) use self::parker::{Parker, Unparker};
#[cfg(not(any(loom, shuttle)))]
pub(crate) use crossbeam::utils::CachePadded;

#[cfg(loom)]
mod imp {
    pub(super) use loom::sync::atomic;
    pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};
}
#[cfg(shuttle)]
mod imp {
    pub(super) use shuttle::sync::atomic;
    pub(super) use shuttle::sync::{Condvar, Mutex, MutexGuard};
}
#[cfg(not(any(loom, shuttle)))]
mod imp {
    pub(super) use std::sync::atomic;
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard};
}

#[cfg(loom)]
pub(crate) use loom::sync::Arc;
#[cfg(shuttle)]
pub(crate) use shuttle::sync::Arc;
#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::sync::{Arc, OnceLock, Weak};

/// True when the mutant of this name is switched on. The constant `false` outside `--cfg mutants` builds.
///
/// Written `armed!(mutant = "permits_no_recheck")`, so that a search for `mutant = "` lists them all.
macro_rules! armed {
    (mutant = $name:literal) => {{
        #[cfg(mutants)]
        {
            $crate::sync::mutant_is($name)
        }
        #[cfg(not(mutants))]
        {
            false
        }
    }};
}
pub(crate) use armed;

/// An ordering that a mutant weakens to `Relaxed`: `ordering!(Release, mutant = "bucket_publish_relaxed")`.
macro_rules! ordering {
    ($strong:ident, mutant = $name:literal) => {{
        #[cfg(mutants)]
        {
            if $crate::sync::mutant_is($name) {
                $crate::sync::atomic::Ordering::Relaxed
            } else {
                $crate::sync::atomic::Ordering::$strong
            }
        }
        #[cfg(not(mutants))]
        {
            $crate::sync::atomic::Ordering::$strong
        }
    }};
}
pub(crate) use ordering;

/// Whether the environment names this mutant. Read once a process: a model runs millions of times.
#[cfg(mutants)]
pub(crate) fn mutant_is(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("BATCHYARD_MUTANT").ok()).as_deref() == Some(name)
}

/// `const fn` where the backend allows it: loom's and shuttle's atomics have no constant constructors.
macro_rules! model_const {
    ($(#[$meta:meta])* $vis:vis const fn $($rest:tt)*) => {
        #[cfg(not(any(loom, shuttle)))]
        $(#[$meta])* $vis const fn $($rest)*
        #[cfg(any(loom, shuttle))]
        $(#[$meta])* $vis fn $($rest)*
    };
}
pub(crate) use model_const;

/// Atomics with std's face, over the backend of this build.
pub(crate) mod atomic {
    use super::imp::atomic as imp;
    pub(crate) use std::sync::atomic::Ordering;

    #[cfg(not(shuttle))]
    pub(crate) use imp::fence;
    /// There every access is sequentially consistent.
    #[cfg(shuttle)]
    pub(crate) fn fence(_: Ordering) {}

    macro_rules! integer {
        ($name:ident, $int:ty) => {
            #[doc = concat!("`std::sync::atomic::", stringify!($name), "` over the backend of this build.")]
            #[derive(Debug)]
            #[repr(transparent)]
            pub(crate) struct $name(imp::$name);

            // The whole face for every type: each build and each type uses a part of it.
            #[allow(dead_code)]
            impl $name {
                model_const! {
                    #[inline(always)]
                    pub(crate) const fn new(v: $int) -> Self { Self(imp::$name::new(v)) }
                }
                #[inline(always)]
                pub(crate) fn load(&self, order: Ordering) -> $int {
                    // The second loom pass: see the head of this file.
                    #[cfg(loom_rmw_loads)]
                    {
                        self.0.fetch_or(0, order)
                    }
                    #[cfg(not(loom_rmw_loads))]
                    {
                        self.0.load(order)
                    }
                }
                #[inline(always)]
                pub(crate) fn store(&self, v: $int, order: Ordering) {
                    self.0.store(v, order);
                }
                #[inline(always)]
                pub(crate) fn swap(&self, v: $int, order: Ordering) -> $int {
                    self.0.swap(v, order)
                }
                #[inline(always)]
                pub(crate) fn compare_exchange(
                    &self,
                    old: $int,
                    new: $int,
                    ok: Ordering,
                    err: Ordering,
                ) -> Result<$int, $int> {
                    self.0.compare_exchange(old, new, ok, err)
                }
                #[inline(always)]
                pub(crate) fn compare_exchange_weak(
                    &self,
                    old: $int,
                    new: $int,
                    ok: Ordering,
                    err: Ordering,
                ) -> Result<$int, $int> {
                    self.0.compare_exchange_weak(old, new, ok, err)
                }
                #[inline(always)]
                pub(crate) fn fetch_add(&self, v: $int, order: Ordering) -> $int {
                    self.0.fetch_add(v, order)
                }
                #[inline(always)]
                pub(crate) fn fetch_sub(&self, v: $int, order: Ordering) -> $int {
                    self.0.fetch_sub(v, order)
                }
                #[inline(always)]
                pub(crate) fn fetch_or(&self, v: $int, order: Ordering) -> $int {
                    self.0.fetch_or(v, order)
                }
                #[inline(always)]
                pub(crate) fn fetch_and(&self, v: $int, order: Ordering) -> $int {
                    self.0.fetch_and(v, order)
                }
                #[inline(always)]
                pub(crate) fn fetch_max(&self, v: $int, order: Ordering) -> $int {
                    self.0.fetch_max(v, order)
                }
                #[inline(always)]
                pub(crate) fn fetch_min(&self, v: $int, order: Ordering) -> $int {
                    self.0.fetch_min(v, order)
                }
            }
        };
    }

    integer!(AtomicU8, u8);
    integer!(AtomicU32, u32);
    integer!(AtomicU64, u64);
    integer!(AtomicUsize, usize);

    /// `std::sync::atomic::AtomicPtr` over the backend of this build: what is needed of it.
    #[derive(Debug)]
    #[repr(transparent)]
    pub(crate) struct AtomicPtr<T>(imp::AtomicPtr<T>);

    impl<T> AtomicPtr<T> {
        model_const! {
            #[inline(always)]
            pub(crate) const fn new(v: *mut T) -> Self { Self(imp::AtomicPtr::new(v)) }
        }
        #[inline(always)]
        pub(crate) fn load(&self, order: Ordering) -> *mut T {
            self.0.load(order)
        }
        #[inline(always)]
        pub(crate) fn store(&self, v: *mut T, order: Ordering) {
            self.0.store(v, order);
        }
        #[inline(always)]
        pub(crate) fn compare_exchange(
            &self,
            old: *mut T,
            new: *mut T,
            ok: Ordering,
            err: Ordering,
        ) -> Result<*mut T, *mut T> {
            self.0.compare_exchange(old, new, ok, err)
        }
    }

    /// `std::sync::atomic::AtomicBool` over the backend of this build.
    #[derive(Debug)]
    #[repr(transparent)]
    pub(crate) struct AtomicBool(imp::AtomicBool);

    // As above.
    #[allow(dead_code)]
    impl AtomicBool {
        model_const! {
            #[inline(always)]
            pub(crate) const fn new(v: bool) -> Self { Self(imp::AtomicBool::new(v)) }
        }
        #[inline(always)]
        pub(crate) fn load(&self, order: Ordering) -> bool {
            #[cfg(loom_rmw_loads)]
            {
                self.0.fetch_or(false, order)
            }
            #[cfg(not(loom_rmw_loads))]
            {
                self.0.load(order)
            }
        }
        #[inline(always)]
        pub(crate) fn store(&self, v: bool, order: Ordering) {
            self.0.store(v, order);
        }
        #[inline(always)]
        pub(crate) fn swap(&self, v: bool, order: Ordering) -> bool {
            self.0.swap(v, order)
        }
        #[inline(always)]
        pub(crate) fn compare_exchange(
            &self,
            old: bool,
            new: bool,
            ok: Ordering,
            err: Ordering,
        ) -> Result<bool, bool> {
            self.0.compare_exchange(old, new, ok, err)
        }
    }
}

/// Spin hints; one scheduling point under the model checkers.
pub(crate) mod hint {
    /// Tells the processor, or the model, that this loop waits for another thread.
    #[inline(always)]
    pub(crate) fn spin_loop() {
        #[cfg(loom)]
        loom::thread::yield_now();
        #[cfg(shuttle)]
        shuttle::hint::spin_loop();
        #[cfg(not(any(loom, shuttle)))]
        std::hint::spin_loop();
    }
}

/// Threads.
pub(crate) mod thread {
    #[cfg(loom)]
    pub(crate) use loom::thread::yield_now;
    #[cfg(shuttle)]
    pub(crate) use shuttle::thread::yield_now;
    #[cfg(all(feature = "sqlite", not(any(loom, shuttle))))]
    pub(crate) use std::thread::JoinHandle;
    #[cfg(all(test, not(any(loom, shuttle))))]
    pub(crate) use std::thread::scope;
    #[cfg(not(any(loom, shuttle)))]
    pub(crate) use std::thread::{Builder, ThreadId, available_parallelism, current, yield_now};
}

/// A value on cache lines of its own (two of them: prefetchers pull pairs). No padding under the models.
#[cfg(any(loom, shuttle))]
#[derive(Debug, Default)]
pub(crate) struct CachePadded<T>(T);

#[cfg(any(loom, shuttle))]
impl<T> CachePadded<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(value)
    }
}
#[cfg(any(loom, shuttle))]
impl<T> std::ops::Deref for CachePadded<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}
#[cfg(any(loom, shuttle))]
impl<T> std::ops::DerefMut for CachePadded<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// A mutual-exclusion lock without poisoning: what it guards here stays valid at every point where user code
/// could unwind.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(imp::Mutex<T>);

/// The guard of [`Mutex`].
pub(crate) type MutexGuard<'a, T> = imp::MutexGuard<'a, T>;

impl<T> Mutex<T> {
    model_const! {
        pub(crate) const fn new(value: T) -> Self { Self(imp::Mutex::new(value)) }
    }

    /// Waits for the lock.
    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The lock if nobody holds it at this moment.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }

    /// The value, without locking.
    #[cfg(not(any(loom, shuttle)))]
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A condition variable for [`Mutex`].
#[derive(Debug, Default)]
pub(crate) struct Condvar(imp::Condvar);

impl Condvar {
    model_const! {
        pub(crate) const fn new() -> Self { Self(imp::Condvar::new()) }
    }

    /// Gives the lock up, waits for a notification (or wakes for none), takes the lock again.
    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// As [`wait`](Self::wait), for at most `limit`.
    #[cfg(not(any(loom, shuttle)))]
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        limit: std::time::Duration,
    ) -> MutexGuard<'a, T> {
        self.0.wait_timeout(guard, limit).unwrap_or_else(|poisoned| poisoned.into_inner()).0
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// An unsynchronised cell with loom's closure face, so that loom sees each access.
#[derive(Debug, Default)]
pub(crate) struct UnsafeCell<T>(
    #[cfg(loom)] loom::cell::UnsafeCell<T>,
    #[cfg(not(loom))] std::cell::UnsafeCell<T>,
);

impl<T> UnsafeCell<T> {
    model_const! {
        pub(crate) const fn new(value: T) -> Self {
            #[cfg(loom)]
            { Self(loom::cell::UnsafeCell::new(value)) }
            #[cfg(not(loom))]
            { Self(std::cell::UnsafeCell::new(value)) }
        }
    }

    /// An access beside others that do not write.
    #[inline(always)]
    pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        #[cfg(loom)]
        {
            self.0.with(f)
        }
        #[cfg(not(loom))]
        {
            f(self.0.get().cast_const())
        }
    }

    /// An exclusive access. The pointer is good for writes as long as nobody else accesses.
    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        #[cfg(loom)]
        {
            self.0.with_mut(f)
        }
        #[cfg(not(loom))]
        {
            f(self.0.get())
        }
    }
}
