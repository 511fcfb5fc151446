//! Counters with one writer: an increment is a relaxed load and a relaxed store, no read-modify-write, on a cache
//! line that nobody else writes. Wait-free. Readers see each counter exactly, and several counters at slightly
//! different moments.

use crate::sync::CachePadded;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A count that one thread writes and any thread reads.
#[derive(Debug)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) const fn new() -> Self {
        Counter(AtomicU64::new(0))
    }

    /// Adds. Only the owner may call this: a second writer's additions could be lost.
    #[inline(always)]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    #[inline(always)]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! worker_counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What one worker thread counts. A replaced thread's counters stay with it; its successor gets new ones.
        #[derive(Debug)]
        pub(crate) struct WorkerCounters(CachePadded<Block>);

        #[derive(Debug)]
        pub(crate) struct Block {
            $($(#[$doc])* pub(crate) $name: Counter,)*
        }

        /// A reading of [`WorkerCounters`], or the sum of several.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) struct WorkerCounts {
            $($(#[$doc])* pub(crate) $name: u64,)*
        }

        impl WorkerCounters {
            pub(crate) fn new() -> Self {
                WorkerCounters(CachePadded::new(Block { $($name: Counter::new(),)* }))
            }

            pub(crate) fn read(&self) -> WorkerCounts {
                WorkerCounts { $($name: self.0.$name.get(),)* }
            }
        }

        impl std::ops::AddAssign for WorkerCounts {
            fn add_assign(&mut self, other: WorkerCounts) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

worker_counters! {
    /// Attempts that succeeded.
    completed,
    /// Items that this worker's attempt left dead.
    failed,
    /// Items that their closure left out.
    skipped,
    /// Attempts that end in another attempt.
    retried,
    /// Attempts that put themselves off.
    deferred,
    /// Attempts that panicked.
    panicked,
    /// Outcomes that came after their attempt was abandoned.
    late,
    /// Chunks taken.
    chunks,
    /// Nanoseconds inside closures.
    busy_ns,
}

impl std::ops::Deref for WorkerCounters {
    type Target = Block;
    #[inline(always)]
    fn deref(&self) -> &Block {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::thread;

    #[test]
    fn a_reader_sees_what_the_owner_wrote() {
        let counters = WorkerCounters::new();
        thread::scope(|s| {
            s.spawn(|| {
                for _ in 0..1000 {
                    counters.completed.add(1);
                    counters.busy_ns.add(7);
                }
            });
            s.spawn(|| {
                let mut last = 0;
                while last < 1000 {
                    let now = counters.read().completed;
                    assert!(now >= last);
                    last = now;
                }
            });
        });
        let mut sum = counters.read();
        sum += counters.read();
        assert_eq!((sum.completed, sum.busy_ns, sum.failed), (2000, 14_000, 0));
    }
}
