//! The same item put together from the best published parts: a rate token (governor), a permit (tokio's semaphore),
//! a deadline for a sweeper to read (a slot of the worker's own), the latency recorded (a histogram of the worker's
//! own), a failed try kept for later. Handed out by a bounded crossbeam channel, or by rayon.

use crossbeam::channel::bounded;
use crossbeam::utils::CachePadded;
use governor::{DefaultDirectRateLimiter, Quota};
use hdrhistogram::Histogram;
use rayon::prelude::*;
use std::cell::RefCell;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

const CHANNEL: usize = 1024;
/// Larger than any thread count here.
const SLOTS: usize = 8;

/// What all workers share.
pub(crate) struct Yard {
    limiter: DefaultDirectRateLimiter,
    permits: Semaphore,
    clock: quanta::Clock,
    timeout: u64,
    deadlines: [CachePadded<AtomicU64>; SLOTS],
}

/// What a worker has for itself.
struct Own {
    latency: Histogram<u64>,
    again: Vec<(u64, u32)>,
    done: u64,
}

impl Own {
    fn new() -> Self {
        let latency =
            Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("bounds of a minute at two digits");
        Own { latency, again: Vec::new(), done: 0 }
    }
}

impl Yard {
    pub(crate) fn new(per_second: u32, burst: u32, permits: usize, timeout: Duration) -> Self {
        let units = |n| NonZeroU32::new(n).expect("not zero");
        Yard {
            limiter: DefaultDirectRateLimiter::direct(
                Quota::per_second(units(per_second)).allow_burst(units(burst)),
            ),
            permits: Semaphore::new(permits),
            clock: quanta::Clock::new(),
            timeout: timeout.as_nanos() as u64,
            deadlines: Default::default(),
        }
    }

    #[inline]
    fn run(
        &self,
        own: &mut Own,
        worker: usize,
        item: u64,
        f: impl Fn(u64) -> Result<u64, ()>,
    ) -> Result<u64, ()> {
        while self.limiter.check().is_err() {
            thread::yield_now();
        }
        let permit = loop {
            match self.permits.try_acquire() {
                Ok(permit) => break permit,
                Err(_) => thread::yield_now(),
            }
        };
        let began = self.clock.raw();
        self.deadlines[worker].store(began + self.timeout, Ordering::Release);
        let outcome = f(item);
        self.deadlines[worker].store(0, Ordering::Release);
        drop(permit);
        own.latency.saturating_record(self.clock.delta_as_nanos(began, self.clock.raw()));
        match outcome {
            Ok(_) => own.done += 1,
            Err(()) => own.again.push((item, 1)),
        }
        outcome
    }

    /// Wall nanoseconds per item, the start of the threads included.
    pub(crate) fn crossbeam(
        &self,
        workers: usize,
        items: u64,
        f: impl Fn(u64) -> Result<u64, ()> + Sync,
    ) -> f64 {
        let start = Instant::now();
        let done: u64 = thread::scope(|s| {
            let (send, receive) = bounded(CHANNEL);
            let team: Vec<_> = (0..workers)
                .map(|worker| {
                    let receive = receive.clone();
                    let f = &f;
                    s.spawn(move || {
                        let mut own = Own::new();
                        for item in receive {
                            let _ = self.run(&mut own, worker, item, f);
                        }
                        assert_eq!(own.latency.len(), own.done);
                        own.done
                    })
                })
                .collect();
            for item in 0..items {
                send.send(item).expect("the workers receive until the end");
            }
            drop(send);
            team.into_iter().map(|t| t.join().expect("a worker panicked")).sum()
        });
        let took = start.elapsed();
        assert_eq!(done, items, "crossbeam: every item is done once");
        took.as_nanos() as f64 / items as f64
    }

    /// Wall nanoseconds per item, on a pool that runs already.
    pub(crate) fn rayon(
        &self,
        pool: &rayon::ThreadPool,
        items: u64,
        f: impl Fn(u64) -> Result<u64, ()> + Sync,
    ) -> f64 {
        thread_local! {
            static OWN: RefCell<Own> = RefCell::new(Own::new());
        }
        let start = Instant::now();
        let results: Vec<Result<u64, ()>> = pool.install(|| {
            (0..items)
                .into_par_iter()
                .map(|item| {
                    let worker = rayon::current_thread_index().expect("a thread of the pool");
                    OWN.with_borrow_mut(|own| self.run(own, worker, item, &f))
                })
                .collect()
        });
        let took = start.elapsed();
        assert!(
            results.len() as u64 == items && results.iter().all(Result::is_ok),
            "rayon: every item is done once"
        );
        took.as_nanos() as f64 / items as f64
    }
}
