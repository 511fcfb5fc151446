//! The values of options: what people write, and what it means. Each parser's error is the end of clap's sentence
//! "invalid value '…' for '--option': …".

use crate::sync::thread;
use crate::time::parse_duration;
use std::ffi::OsString;
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::time::Duration;

/// How many jobs at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Jobs(u32, Unit);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Jobs,
    PercentOfCores,
}

impl Jobs {
    /// The number for this machine: at least 1.
    pub(crate) fn count(self) -> usize {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        match self {
            Jobs(0, Unit::Jobs) => cores,
            Jobs(n, Unit::Jobs) => n as usize,
            Jobs(n, Unit::PercentOfCores) => (cores * n as usize / 100).max(1),
        }
    }
}

/// A thread each: more than this is a slip of the finger.
const MOST_JOBS: u32 = 10_000;

pub(crate) fn jobs(text: &str) -> Result<Jobs, String> {
    let (number, unit) = match text.strip_suffix('%') {
        Some(number) => (number, Unit::PercentOfCores),
        None => (text, Unit::Jobs),
    };
    let bad = || "write a number of jobs, 0 for all cores, or a share of the cores like 50%".to_owned();
    let n: u32 = number.parse().map_err(|_| bad())?;
    match unit {
        Unit::Jobs if n > MOST_JOBS => Err(format!("more than {MOST_JOBS} jobs at a time")),
        Unit::PercentOfCores if n == 0 || n > 10_000 => Err(bad()),
        _ => Ok(Jobs(n, unit)),
    }
}

/// At most `jobs` starts per `per`, after a burst of `burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) jobs: NonZeroU32,
    pub(crate) per: Duration,
    pub(crate) burst: NonZeroU32,
}

pub(crate) fn rate(text: &str) -> Result<Pace, String> {
    let bad = || "write for example 2/s, 0.5/s, 100/m, 5000/h or 2/s,burst=5".to_owned();
    let (rate, burst) = match text.split_once(',') {
        None => (text, NonZeroU32::MIN),
        Some((rate, option)) => {
            let burst = option.strip_prefix("burst=").ok_or_else(bad)?;
            (rate, burst.parse().map_err(|_| "the burst is a whole number, at least 1".to_owned())?)
        }
    };
    let (number, unit) = rate.split_once('/').ok_or_else(bad)?;
    let per_secs = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return Err(bad()),
    };
    // 0.5/s is 5 in 10 s: exact, no float.
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if !digits.bytes().all(|b| b.is_ascii_digit()) || fraction.len() > 6 {
        return Err(bad());
    }
    let jobs: u32 = digits.parse().map_err(|_| bad())?;
    let jobs = NonZeroU32::new(jobs).ok_or("a rate of zero would never start a job")?;
    let scale = 10_u64.pow(fraction.len() as u32);
    Ok(Pace { jobs, per: Duration::from_secs(per_secs * scale), burst })
}

pub(crate) fn time_or_zero(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|_| "write for example 250ms, 1.5s, 2m, 1h or 1d".to_owned())
}

pub(crate) fn time(text: &str) -> Result<Duration, String> {
    match time_or_zero(text)? {
        Duration::ZERO => Err("zero is not a time to wait".to_owned()),
        time => Ok(time),
    }
}

/// The wait before a further try: full jitter under a bound that doubles from `min` to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

impl Backoff {
    /// How long to wait after this many times, from 1.
    pub(crate) fn wait(self, times: u32) -> Duration {
        let bound = self.min.saturating_mul(1 << times.saturating_sub(1).min(30)).min(self.max);
        // A hasher with random keys: std's only source of chance.
        let chance = RandomState::new().hash_one(times) as f64 / u64::MAX as f64;
        bound.mul_f64(chance)
    }
}

pub(crate) fn backoff(text: &str) -> Result<Backoff, String> {
    let (min, max) = text.split_once("..").unwrap_or((text, text));
    match (time_or_zero(min), time_or_zero(max)) {
        (Ok(min), Ok(max)) if min <= max => Ok(Backoff { min, max }),
        _ => Err("write two times, the shorter first, like 200ms..30s".to_owned()),
    }
}

/// When to give the whole run up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HaltRule {
    /// Terminate what runs, too.
    pub(crate) now: bool,
    limit: Limit,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Dead(u64),
    PercentDead(u64),
}

/// A share of less than three failures says nothing: the first item of all may fail.
const FAILURES_FOR_A_SHARE: u64 = 3;

impl HaltRule {
    pub(crate) fn strikes(&self, dead: u64, finished: u64) -> bool {
        match self.limit {
            Limit::Dead(n) => dead >= n,
            Limit::PercentDead(n) => dead >= FAILURES_FOR_A_SHARE && dead * 100 >= finished * n,
        }
    }

    /// As the user wrote it.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

pub(crate) fn halt(text: &str) -> Result<HaltRule, String> {
    let bad = || "write for example now,fail=1 or soon,fail=5%".to_owned();
    let (when, limit) = text.split_once(",fail=").ok_or_else(bad)?;
    let now = match when {
        "now" => true,
        "soon" => false,
        _ => return Err(bad()),
    };
    let limit = match limit.strip_suffix('%') {
        Some(n) => Limit::PercentDead(n.parse().ok().filter(|n| (1..=100).contains(n)).ok_or_else(bad)?),
        None => Limit::Dead(limit.parse().ok().filter(|n| *n > 0).ok_or_else(bad)?),
    };
    Ok(HaltRule { now, limit, text: text.to_owned() })
}

/// A set of exit codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExitSet(Vec<std::ops::RangeInclusive<u8>>);

impl ExitSet {
    pub(crate) fn contains(&self, code: i32) -> bool {
        u8::try_from(code).is_ok_and(|code| self.0.iter().any(|range| range.contains(&code)))
    }
}

pub(crate) fn exit_set(text: &str) -> Result<ExitSet, String> {
    let range = |part: &str| {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high): (u8, u8) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
        (low > 0 && low <= high).then_some(low..=high)
    };
    let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
    ranges
        .map(ExitSet)
        .ok_or_else(|| "write exit codes from 1 to 255 and ranges of them, like 2,64-78".to_owned())
}

pub(crate) fn delimiter(text: &str) -> Result<u8, String> {
    let bad = || "a delimiter is one byte: a character, or \\n, \\t, \\r, \\0, \\\\, \\xHH".to_owned();
    match text.as_bytes() {
        [b'\\'] => Ok(b'\\'),
        [byte] => Ok(*byte),
        [b'\\', escape] => match escape {
            b'n' => Ok(b'\n'),
            b't' => Ok(b'\t'),
            b'r' => Ok(b'\r'),
            b'0' => Ok(0),
            b'\\' => Ok(b'\\'),
            _ => Err(bad()),
        },
        [b'\\', b'x', hex @ ..] if hex.len() == 2 => u8::from_str_radix(&text[2..], 16).map_err(|_| bad()),
        _ => Err(bad()),
    }
}

pub(crate) fn not_empty(text: &str) -> Result<OsString, String> {
    if text.is_empty() { Err("an empty string stands everywhere".to_owned()) } else { Ok(text.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_jobs() {
        assert_eq!(jobs("7").unwrap().count(), 7);
        assert!(jobs("0").unwrap().count() >= 1);
        assert_eq!(jobs("1%").unwrap().count(), 1.max(jobs("0").unwrap().count() / 100));
        for bad in ["", "x", "-1", "0%", "%", "1.5", "10001"] {
            assert!(jobs(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_are_exact() {
        let pace = |jobs, per, burst| Pace {
            jobs: NonZeroU32::new(jobs).unwrap(),
            per: Duration::from_secs(per),
            burst: NonZeroU32::new(burst).unwrap(),
        };
        assert_eq!(rate("2/s"), Ok(pace(2, 1, 1)));
        assert_eq!(rate("2/s,burst=5"), Ok(pace(2, 1, 5)));
        assert_eq!(rate("0.5/s"), Ok(pace(5, 10, 1)));
        assert_eq!(rate("100/m"), Ok(pace(100, 60, 1)));
        for bad in ["", "2", "2/x", "0/s", "-1/s", "2/s,burst=0", "2/s,b=1", "nan/s", "./s", "+1/s", "2/s,"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn backoffs() {
        let range = |min, max| Backoff { min: Duration::from_millis(min), max: Duration::from_millis(max) };
        assert_eq!(backoff("200ms..30s"), Ok(range(200, 30_000)));
        assert_eq!(backoff("1s"), Ok(range(1000, 1000)));
        for bad in ["", "2s..1s", "..", "1s..", "x..y"] {
            assert!(backoff(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn halt_rules() {
        let two = halt("now,fail=2").unwrap();
        assert!(two.now && !two.strikes(1, 1) && two.strikes(2, 100));
        let share = halt("soon,fail=50%").unwrap();
        assert!(!share.now && !share.strikes(2, 2) && share.strikes(3, 6) && !share.strikes(3, 7));
        for bad in ["", "now", "now,fail=0", "later,fail=1", "soon,fail=101%", "soon,fail=0%", "now,done=1"] {
            assert!(halt(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn exit_sets() {
        let set = exit_set("2,64-78").unwrap();
        assert!(set.contains(2) && set.contains(64) && set.contains(78));
        assert!(!set.contains(3) && !set.contains(79) && !set.contains(-1) && !set.contains(256));
        for bad in ["", "0", "256", "5-2", "a", "1,,2"] {
            assert!(exit_set(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn delimiters() {
        for (text, byte) in
            [(",", b','), ("\\n", b'\n'), ("\\0", 0), ("\\x1f", 0x1f), ("\\", b'\\'), ("\\\\", b'\\')]
        {
            assert_eq!(delimiter(text), Ok(byte), "{text}");
        }
        for bad in ["", "ab", "\\q", "\\x1", "é"] {
            assert!(delimiter(bad).is_err(), "{bad}");
        }
    }
}
