//! Floor 0: clocks, timestamps, deadlines. The one file that names quanta and `Instant`.
//!
//! Time enters everything above as a value or through one [`Clock`]:
//!
//! | clock | a reading costs | for |
//! |---|---|---|
//! | [`Clock::fast`] | one `rdtsc` (quanta); calibrated once a process, 10 to 200 ms at its first use | engines, limiters |
//! | [`Clock::os`] | one `clock_gettime`; no calibration | short-lived programs, the command line |
//! | [`ManualClock`] | an atomic load | tests: time moves when told to, and wakes who sleeps on it |
//! | [`Ticker`] | a relaxed load of a word that a supervisor writes | coarse stamps |
//!
//! A [`Timestamp`] counts nanoseconds from its clock's origin; timestamps of different kinds of clocks do not mix.
//! All fast clocks of a process share one origin, all OS clocks another.

// What the lints keep from everybody else is wrapped here.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Condvar, Mutex, OnceLock, Parker, Unparker};
use std::fmt;
use std::ops::{Add, Sub};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A whole number of seconds.
///
/// ```
/// assert_eq!(batchyard::secs(2), std::time::Duration::from_secs(2));
/// ```
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A whole number of milliseconds.
///
/// ```
/// assert_eq!(batchyard::millis(250), std::time::Duration::from_millis(250));
/// ```
pub const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Milliseconds since 1970, for what people read and what outlives the process. Never used to measure.
pub(crate) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| saturating_u64(d.as_millis()))
}

fn saturating_u64(v: u128) -> u64 {
    u64::try_from(v).unwrap_or(u64::MAX)
}

/// A point in time: nanoseconds since the origin of the clock that made it.
///
/// ```
/// use batchyard::{ManualClock, secs};
/// let clock = ManualClock::new();
/// let t0 = clock.clock().now();
/// clock.advance(secs(1));
/// assert_eq!(clock.clock().now() - t0, secs(1));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The clock's origin.
    pub const ZERO: Timestamp = Timestamp(0);
    /// The last representable point: 584 years after the origin. Used as "never".
    pub const MAX: Timestamp = Timestamp(u64::MAX);

    /// The point this many nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this point; zero when `earlier` is later.
    pub const fn saturating_since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timestamp({}.{:09} s)", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// Saturates at [`Timestamp::MAX`].
impl Add<Duration> for Timestamp {
    type Output = Timestamp;
    fn add(self, d: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(saturating_u64(d.as_nanos())))
    }
}

/// Zero when the right side is later.
impl Sub for Timestamp {
    type Output = Duration;
    fn sub(self, earlier: Timestamp) -> Duration {
        self.saturating_since(earlier)
    }
}

/// A source of time: [`Clock::fast`] for engines and limiters, [`Clock::os`] for short-lived programs,
/// [`ManualClock::clock`] for tests. Cheap to clone.
///
/// ```
/// let clock = batchyard::Clock::os();
/// let before = clock.now();
/// assert!(clock.now() >= before);
/// ```
#[derive(Clone)]
pub struct Clock(Kind);

#[derive(Clone)]
enum Kind {
    Fast(Fast),
    Os(Instant),
    Manual(Arc<Hands>),
}

/// quanta's raw counter with our own scale: its own conversion hides the ratio that a limiter needs.
#[derive(Clone)]
struct Fast {
    source: quanta::Clock,
    origin: u64,
    scale: Scale,
}

/// Nanoseconds a raw tick, as `mult / 2^SHIFT`, rounded down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    mult: u64,
}

impl Scale {
    /// Room for ticks of up to 2^19 ns and a relative error under 2^-40 for ticks of a nanosecond and less.
    const SHIFT: u32 = 44;
    pub(crate) const NANOS: Scale = Scale { mult: 1 << Self::SHIFT };

    /// Nanoseconds a tick as an exact fraction `(numerator, denominator)`, in lowest terms.
    pub(crate) fn nanos_per_tick(self) -> (u64, u64) {
        let cut = self.mult.trailing_zeros().min(Self::SHIFT);
        (self.mult >> cut, 1 << (Self::SHIFT - cut))
    }

    /// The time of a raw reading.
    #[inline]
    pub(crate) fn at(self, raw: u64) -> Timestamp {
        Timestamp(self.nanos(raw))
    }

    #[inline(always)]
    fn nanos(self, raw: u64) -> u64 {
        // The product has at most 128 bits; what does not fit 64 bits is centuries away.
        ((u128::from(raw) * u128::from(self.mult)) >> Self::SHIFT) as u64
    }

    /// The first tick that is not before `nanos`.
    fn ticks_ceil(self, nanos: u64) -> u64 {
        saturating_u64((u128::from(nanos) << Self::SHIFT).div_ceil(u128::from(self.mult)))
    }
}

impl Clock {
    /// The processor's time-stamp counter, through quanta: about 10 ns a reading.
    ///
    /// The first call in a process calibrates it, which takes 10 to 200 ms. Where the counter is not invariant,
    /// quanta reads the operating system's clock instead.
    pub fn fast() -> Clock {
        static FAST: OnceLock<Fast> = OnceLock::new();
        let fast = FAST.get_or_init(|| {
            let source = quanta::Clock::new();
            // quanta scales by a fixed-point ratio; over 2^44 ticks its rounding is far below ours.
            let mult = source.delta_as_nanos(0, 1 << Scale::SHIFT).max(1);
            let origin = source.raw();
            Fast { source, origin, scale: Scale { mult } }
        });
        Clock(Kind::Fast(fast.clone()))
    }

    /// The operating system's monotonic clock: 20 to 25 ns a reading, nothing to calibrate.
    pub fn os() -> Clock {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        Clock(Kind::Os(*ORIGIN.get_or_init(Instant::now)))
    }

    /// The time now.
    #[inline]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Kind::Fast(fast) => Timestamp(fast.scale.nanos(fast.raw())),
            Kind::Os(origin) => Timestamp(saturating_u64(origin.elapsed().as_nanos())),
            Kind::Manual(hands) => Timestamp(hands.now()),
        }
    }

    /// The raw counter, in ticks of [`scale`](Self::scale) since the origin. What a hot path stores and compares.
    #[inline(always)]
    pub(crate) fn raw(&self) -> u64 {
        match &self.0 {
            Kind::Fast(fast) => fast.raw(),
            _ => self.raw_in_nanos(),
        }
    }

    #[inline(never)]
    fn raw_in_nanos(&self) -> u64 {
        self.now().0
    }

    /// Whether time goes on while a thread spins: a manual clock's does not.
    pub(crate) fn moves_alone(&self) -> bool {
        !matches!(self.0, Kind::Manual(_))
    }

    /// What a tick of [`raw`](Self::raw) is worth.
    pub(crate) fn scale(&self) -> Scale {
        match &self.0 {
            Kind::Fast(fast) => fast.scale,
            Kind::Os(_) | Kind::Manual(_) => Scale::NANOS,
        }
    }

    /// Whether raw readings of both clocks may be compared.
    pub(crate) fn same(&self, other: &Clock) -> bool {
        match (&self.0, &other.0) {
            (Kind::Fast(_), Kind::Fast(_)) | (Kind::Os(_), Kind::Os(_)) => true,
            (Kind::Manual(a), Kind::Manual(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// The time of a raw reading.
    #[inline(always)]
    pub(crate) fn at_raw(&self, raw: u64) -> Timestamp {
        Timestamp(self.scale().nanos(raw))
    }

    /// The first raw reading at which the time is not before `t`.
    pub(crate) fn raw_at(&self, t: Timestamp) -> u64 {
        self.scale().ticks_ceil(t.0)
    }

    /// Sleeps on `parker` until a token comes (true) or the time is `until` (false; never before it).
    pub(crate) fn park(&self, parker: &Parker, until: Option<Timestamp>) -> bool {
        let Some(until) = until.filter(|t| *t < Timestamp::MAX) else {
            parker.park();
            return true;
        };
        if let Kind::Manual(hands) = &self.0 {
            return hands.park(parker, until);
        }
        loop {
            let left = until - self.now();
            if left.is_zero() {
                return parker.park_timeout(Duration::ZERO);
            }
            if parker.park_timeout(left) {
                return true;
            }
        }
    }
}

impl Fast {
    #[inline(always)]
    fn raw(&self) -> u64 {
        // Another core's counter may be a little behind the one that read the origin.
        self.source.raw().saturating_sub(self.origin)
    }
}

/// The [fast](Clock::fast) clock.
impl Default for Clock {
    fn default() -> Self {
        Clock::fast()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Fast(_) => "Clock::fast",
            Kind::Os(_) => "Clock::os",
            Kind::Manual(_) => "Clock::manual",
        })
    }
}

/// A clock whose hands are moved by the test that holds it. It starts at [`Timestamp::ZERO`].
///
/// Whoever sleeps on one of its [clocks](ManualClock::clock) until a deadline wakes when
/// [`advance`](ManualClock::advance) reaches that deadline, and only then.
///
/// ```
/// use batchyard::{ManualClock, limit::RateLimiter, Rate, secs};
/// let time = ManualClock::new();
/// let limiter = RateLimiter::builder(Rate::per_second(1)).clock(time.clock()).build()?;
/// assert!(limiter.try_acquire(1).is_ok());
/// assert!(limiter.try_acquire(1).is_err());
/// time.advance(secs(1));
/// assert!(limiter.try_acquire(1).is_ok());
/// # Ok::<(), batchyard::limit::LimitError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    hands: Arc<Hands>,
}

#[derive(Debug, Default)]
struct Hands {
    now: AtomicNanos,
    sleepers: Mutex<Vec<(u64, Unparker)>>,
    changed: Condvar,
}

#[derive(Debug)]
struct AtomicNanos(AtomicU64);

impl Default for AtomicNanos {
    fn default() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl Hands {
    fn now(&self) -> u64 {
        // ORDERING: Acquire pairs with the Release in `move_to`: what a test did before it moved the time is
        // visible to who sees the new time.
        self.now.0.load(Ordering::Acquire)
    }

    fn move_to(&self, to: impl Fn(u64) -> u64) {
        let mut sleepers = self.sleepers.lock();
        let now = to(self.now.0.load(Ordering::Relaxed));
        self.now.0.store(now, Ordering::Release);
        sleepers.retain(|(until, sleeper)| {
            let due = *until <= now;
            if due {
                sleeper.unpark();
            }
            !due
        });
        self.changed.notify_all();
    }

    fn park(&self, parker: &Parker, until: Timestamp) -> bool {
        let me = parker.unparker();
        {
            // Time moves under the same latch, so it cannot pass `until` between the look and the entry.
            let mut sleepers = self.sleepers.lock();
            if self.now() >= until.0 {
                return parker.park_timeout(Duration::ZERO);
            }
            sleepers.push((until.0, me.clone()));
            self.changed.notify_all();
        }
        parker.park();
        let mut sleepers = self.sleepers.lock();
        let before = sleepers.len();
        sleepers.retain(|(_, sleeper)| !sleeper.same(&me));
        // Still entered: the token was somebody else's. Gone: the clock's, perhaps merged with another's, so a
        // caller re-tests its condition in either case.
        let token = sleepers.len() < before;
        if token {
            self.changed.notify_all();
        }
        token
    }
}

impl ManualClock {
    /// A clock at [`Timestamp::ZERO`].
    pub fn new() -> Self {
        Self::default()
    }

    /// A [`Clock`] that shows this clock's time.
    pub fn clock(&self) -> Clock {
        Clock(Kind::Manual(Arc::clone(&self.hands)))
    }

    /// The time it shows.
    pub fn now(&self) -> Timestamp {
        Timestamp(self.hands.now())
    }

    /// Moves the time forward and wakes the sleepers that are due.
    pub fn advance(&self, by: Duration) {
        self.hands.move_to(|now| now.saturating_add(saturating_u64(by.as_nanos())));
    }

    /// Sets the time, backwards too, as a clock of another core may step back.
    pub fn set(&self, to: Timestamp) {
        self.hands.move_to(|_| to.0);
    }

    /// How many threads sleep on it until a deadline.
    pub fn sleepers(&self) -> usize {
        self.hands.sleepers.lock().len()
    }

    /// The nearest deadline that somebody sleeps for.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.hands.sleepers.lock().iter().map(|(until, _)| Timestamp(*until)).min()
    }

    /// Waits until at least `n` threads sleep on it: the barrier that lets a test move the time only when
    /// everybody waits for it.
    pub fn wait_for_sleepers(&self, n: usize) {
        let mut sleepers = self.hands.sleepers.lock();
        while sleepers.len() < n {
            sleepers = self.hands.changed.wait(sleepers);
        }
    }
}

/// Until when a call may wait. Made from a [`Duration`] (from the call on), a [`Timestamp`] of the same clock, or a
/// `std::time::Instant`.
///
/// ```
/// use batchyard::{Deadline, secs};
/// let soon: Deadline = secs(1).into();
/// assert_ne!(soon, Deadline::NEVER);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Until);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    Never,
    At(Timestamp),
    Within(Duration),
    Os(Instant),
}

impl Deadline {
    /// Wait as long as it takes.
    pub const NEVER: Deadline = Deadline(Until::Never);
    /// Do not wait.
    pub const NOW: Deadline = Deadline(Until::Within(Duration::ZERO));

    /// Wait until this point of the callee's clock.
    pub const fn at(t: Timestamp) -> Self {
        Deadline(Until::At(t))
    }

    /// Wait at most this long, counted from the call it is given to.
    pub const fn within(d: Duration) -> Self {
        Deadline(Until::Within(d))
    }

    /// The point on a clock that shows `now`; `None` is never.
    #[cfg(feature = "r2d2")]
    pub(crate) fn counted_from(self, now: Timestamp) -> Option<Timestamp> {
        match self.0 {
            Until::Never => None,
            Until::At(t) => Some(t),
            Until::Within(d) => Some(now + d),
            Until::Os(t) => Some(now + t.saturating_duration_since(Instant::now())),
        }
    }

    /// The point on `clock`; `None` is never.
    pub(crate) fn on(self, clock: &Clock) -> Option<Timestamp> {
        match self.0 {
            Until::Never => None,
            Until::At(t) => Some(t),
            Until::Within(d) => Some(clock.now() + d),
            Until::Os(t) => Some(clock.now() + t.saturating_duration_since(Instant::now())),
        }
    }
}

impl From<Duration> for Deadline {
    fn from(d: Duration) -> Self {
        Deadline(Until::Within(d))
    }
}

impl From<Timestamp> for Deadline {
    fn from(t: Timestamp) -> Self {
        Deadline(Until::At(t))
    }
}

impl From<Instant> for Deadline {
    fn from(t: Instant) -> Self {
        Deadline(Until::Os(t))
    }
}

/// A coarse clock: one word, written by whoever ticks it, read by all with a relaxed load.
///
/// A reading is late by at most the time between two ticks, and never early.
///
/// ```
/// use batchyard::{Clock, Ticker};
/// let clock = Clock::os();
/// let ticker = Ticker::new(&clock);
/// let coarse = ticker.recent();
/// assert!(coarse <= clock.now());
/// ticker.tick();
/// assert!(ticker.recent() >= coarse);
/// ```
#[derive(Debug)]
pub struct Ticker {
    nanos: AtomicU64,
    clock: Clock,
}

impl Ticker {
    /// A ticker that shows the clock's present time.
    pub fn new(clock: &Clock) -> Self {
        Self { nanos: AtomicU64::new(clock.now().0), clock: clock.clone() }
    }

    /// Takes a reading of its clock for all to see.
    pub fn tick(&self) {
        self.nanos.fetch_max(self.clock.now().0, Ordering::Relaxed);
    }

    /// The clock that it goes by.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The last reading.
    #[inline]
    pub fn recent(&self) -> Timestamp {
        Timestamp(self.nanos.load(Ordering::Relaxed))
    }
}

/// A duration as people write it: `250ms`, `1.5s`, `2m`, `1h`, `1d`; a bare number is seconds.
///
/// # Errors
///
/// A sentence that names the text and the forms that are understood.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration: write for example 250ms, 1.5s, 2m, 1h or 1d");
    let cut = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(cut);
    let unit_secs = match unit {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err(bad()),
    };
    let number: f64 = number.parse().map_err(|_| bad())?;
    Duration::try_from_secs_f64(number * unit_secs).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::thread;

    #[test]
    fn fast_clock_agrees_with_the_os_clock() {
        let (fast, os) = (Clock::fast(), Clock::os());
        let (f0, o0) = (fast.now(), os.now());
        let p = Parker::new();
        assert!(!os.park(&p, Some(o0 + millis(20))));
        let (f, o) = (fast.now() - f0, os.now() - o0);
        assert!(o >= millis(20));
        // A wide margin: this catches a wrong scale, not a drift.
        assert!(f > o / 2 && f < o * 2 + millis(50), "{f:?} against {o:?}");
    }

    #[test]
    fn scale_is_a_fraction_and_rounds_up_when_asked() {
        assert_eq!(Scale::NANOS.nanos_per_tick(), (1, 1));
        let third = Scale { mult: (1 << Scale::SHIFT) / 3 };
        for nanos in [0, 1, 7, 1_000_000_007, u64::MAX >> 8] {
            let tick = third.ticks_ceil(nanos);
            assert!(third.nanos(tick) >= nanos);
            assert!(tick == 0 || third.nanos(tick - 1) < nanos);
        }
    }

    #[test]
    fn timestamps_saturate() {
        assert_eq!(Timestamp::MAX + secs(1), Timestamp::MAX);
        assert_eq!(Timestamp::ZERO - Timestamp::MAX, Duration::ZERO);
    }

    #[test]
    fn manual_clock_wakes_who_is_due_and_nobody_else() {
        let time = ManualClock::new();
        let clock = time.clock();
        thread::scope(|s| {
            let early = s.spawn(|| clock.park(&Parker::new(), Some(Timestamp::ZERO + secs(1))));
            let late = s.spawn(|| clock.park(&Parker::new(), Some(Timestamp::ZERO + secs(2))));
            time.wait_for_sleepers(2);
            time.advance(secs(1));
            assert!(!early.join().unwrap());
            assert_eq!(time.sleepers(), 1);
            assert_eq!(time.next_deadline(), Some(Timestamp::ZERO + secs(2)));
            time.advance(secs(5));
            assert!(!late.join().unwrap());
        });
    }

    #[test]
    fn manual_clock_lets_tokens_through() {
        let time = ManualClock::new();
        let p = Parker::new();
        let u = p.unparker();
        thread::scope(|s| {
            let clock = time.clock();
            let waiter = s.spawn(move || clock.park(&p, Some(Timestamp::ZERO + secs(1))));
            time.wait_for_sleepers(1);
            u.unpark();
            assert!(waiter.join().unwrap());
        });
        assert_eq!(time.sleepers(), 0);
    }

    #[test]
    fn deadlines_resolve_on_the_callees_clock() {
        let time = ManualClock::new();
        time.advance(secs(3));
        let clock = time.clock();
        assert_eq!(Deadline::NEVER.on(&clock), None);
        assert_eq!(Deadline::within(secs(2)).on(&clock), Some(Timestamp::ZERO + secs(5)));
        assert_eq!(Deadline::at(Timestamp::ZERO).on(&clock), Some(Timestamp::ZERO));
    }

    #[test]
    fn durations_parse() {
        assert_eq!(parse_duration("250ms"), Ok(millis(250)));
        assert_eq!(parse_duration("1.5s"), Ok(millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(secs(120)));
        assert_eq!(parse_duration("7"), Ok(secs(7)));
        for bad in ["", "s", "-1s", "1x", "1e400s", "99999999999999999999d", "..s"] {
            assert!(parse_duration(bad).unwrap_err().contains('`'), "{bad}");
        }
    }
}
