//! How far apart the cores are now: a word bounced between two threads.
//!
//! A virtual machine's cores are at times near and at times far (50 against 250 ns one way), and this changes while
//! a bench runs. Figures for two threads mean little without the probe beside them.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const BATCHES: usize = 15;
const TRIPS: u64 = 150;
/// On a busy machine both threads may share a core, and a trip lasts as long as a time slice.
const PATIENCE: Duration = Duration::from_millis(20);
const STOP: u64 = u64::MAX;

/// Nanoseconds one way, the median over batches; `None` where there is one core only.
pub(crate) fn core_to_core() -> Option<u64> {
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        return None;
    }
    let ball = AtomicU64::new(0);
    let mut one_way = thread::scope(|s| {
        s.spawn(|| {
            let mut last = 0;
            loop {
                last = wait_while(&ball, last) + 1;
                if last == STOP {
                    return;
                }
                ball.store(last, Ordering::Release);
            }
        });
        let mut one_way = Vec::new();
        let mut last = 0;
        let began = Instant::now();
        while one_way.len() < BATCHES && (one_way.is_empty() || began.elapsed() < PATIENCE) {
            let start = Instant::now();
            for _ in 0..TRIPS {
                ball.store(last + 1, Ordering::Release);
                last = wait_while(&ball, last + 1);
            }
            one_way.push(start.elapsed().as_nanos() as u64 / (2 * TRIPS));
        }
        ball.store(STOP - 1, Ordering::Release);
        one_way
    });
    one_way.sort_unstable();
    Some(one_way[one_way.len() / 2])
}

/// Waits for another value than `old`.
fn wait_while(ball: &AtomicU64, old: u64) -> u64 {
    let mut spins = 0u32;
    loop {
        let now = ball.load(Ordering::Acquire);
        if now != old {
            return now;
        }
        spins += 1;
        if spins.is_multiple_of(4096) {
            // Both threads may sit on one core.
            thread::yield_now();
        } else {
            spin_loop();
        }
    }
}
