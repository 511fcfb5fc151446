//! Items a second over a recent window: a ring of samples of one growing count, at most two a second. For one owner
//! (the supervisor, under its lock).

use crate::time::{Timestamp, millis};
use std::time::Duration;

/// A minute at two samples a second, and some room.
const SLOTS: usize = 128;
/// Samples closer than this replace each other.
const SPACING: Duration = millis(500);

/// Recent samples of a count that only grows.
#[derive(Clone, Debug)]
pub(crate) struct Throughput {
    ring: [(Timestamp, u64); SLOTS],
    /// How many samples were ever begun; the newest is in slot `taken - 1`.
    taken: usize,
}

impl Throughput {
    /// Starts at `now` with a count of zero.
    pub(crate) fn new(now: Timestamp) -> Self {
        Throughput { ring: [(now, 0); SLOTS], taken: 1 }
    }

    /// Notes that the count is `count` at `now`. May be called as often as one likes.
    pub(crate) fn sample(&mut self, now: Timestamp, count: u64) {
        let newest = self.ring[(self.taken - 1) % SLOTS].0;
        if now - newest >= SPACING {
            self.ring[self.taken % SLOTS] = (now, count);
            self.taken += 1;
        }
    }

    /// Counts a second over the last `window`, given that the count is `count` at `now`: from the newest sample that
    /// is at least `window` old, or from the oldest there is. 0 when no time has passed.
    pub(crate) fn rate(&self, now: Timestamp, count: u64, window: Duration) -> f64 {
        let oldest = self.taken.saturating_sub(SLOTS);
        let samples = (oldest..self.taken).rev().map(|i| self.ring[i % SLOTS]);
        let mut from = self.ring[oldest % SLOTS];
        for sample in samples {
            if now - sample.0 >= window {
                from = sample;
                break;
            }
        }
        let time = (now - from.0).as_secs_f64();
        if time > 0.0 { count.saturating_sub(from.1) as f64 / time } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::secs;

    #[test]
    fn a_steady_rate_is_seen_in_every_window() {
        let mut meter = Throughput::new(Timestamp::ZERO);
        let at = |ms: u64| Timestamp::ZERO + millis(ms);
        for ms in (0..200_000).step_by(100) {
            meter.sample(at(ms), ms / 10);
        }
        for window in [1, 10, 60] {
            let rate = meter.rate(at(200_000), 20_000, secs(window));
            assert!((rate - 100.0).abs() < 0.01, "{rate} over {window} s");
        }
    }

    #[test]
    fn a_stop_is_seen_in_the_short_window_first() {
        let mut meter = Throughput::new(Timestamp::ZERO);
        for s in 0..=10 {
            meter.sample(Timestamp::ZERO + secs(s), s.min(5) * 10);
        }
        let now = Timestamp::ZERO + secs(10);
        assert_eq!(meter.rate(now, 50, secs(1)), 0.0);
        assert_eq!(meter.rate(now, 50, secs(10)), 5.0);
        assert_eq!(meter.rate(now, 50, secs(60)), 5.0);
    }

    #[test]
    fn no_time_is_no_rate() {
        let meter = Throughput::new(Timestamp::ZERO + secs(3));
        assert_eq!(meter.rate(Timestamp::ZERO + secs(3), 7, secs(1)), 0.0);
        assert_eq!(meter.rate(Timestamp::ZERO, 7, secs(1)), 0.0);
    }
}
