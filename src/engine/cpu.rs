//! The engine's rayon pool, for the CPU-bound part of items.
//!
//! A [`Pool`] is a rayon pool of fixed size, started at its first use. [`install`] runs one piece of CPU-bound work
//! on it and waits. The pool bounds how many processors the items' computing may take, however many workers there
//! are; panics are carried over to the caller by rayon itself.

use super::worker;
use crate::sync::OnceLock;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// A rayon pool that starts when first used.
#[derive(Debug)]
pub(crate) struct Pool {
    threads: usize,
    pool: OnceLock<Option<rayon::ThreadPool>>,
}

impl Pool {
    /// A pool of this many threads; none are started yet.
    pub(crate) fn new(threads: usize) -> Self {
        Self { threads: threads.max(1), pool: OnceLock::new() }
    }
}

/// Runs `work` on the pool and waits for it. Where the system gives no threads for a pool it runs right here. `enter`
/// runs once on every thread of the pool.
pub(crate) fn install<R: Send>(
    pool: &Pool,
    enter: impl Fn() + Send + Sync + 'static,
    work: impl FnOnce() -> R + Send,
) -> R {
    let started = pool.pool.get_or_init(|| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(pool.threads)
            .thread_name(|i| format!("batchyard-cpu-{i}"))
            .start_handler(move |_| enter())
            .build()
            .ok()
    });
    let Some(pool) = started else { return work() };
    // A panic is carried over to the item's thread with its place.
    let done = pool.install(|| {
        worker::set_place(None);
        catch_unwind(AssertUnwindSafe(work)).map_err(|panic| (panic, worker::take_place()))
    });
    done.unwrap_or_else(|(panic, place)| {
        worker::set_place(place);
        resume_unwind(panic)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    #[test]
    fn the_pool_has_its_size_and_carries_panics() {
        let pool = Pool::new(2);
        assert_eq!(install(&pool, || (), rayon::current_num_threads), 2);
        assert_eq!(install(&pool, || (), || (0..1000u64).into_par_iter().sum::<u64>()), 499_500);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            install(&pool, || (), || panic!("inside"))
        }));
        assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"inside"));
        assert_eq!(install(&pool, || (), || 7), 7);
    }
}
