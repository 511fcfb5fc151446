//! The values of options: what people write, and what it means. Each parser's error is the end of clap's sentence
//! "invalid value '…' for '--option': …".

use crate::core::ready::MAX_WORKERS;
use crate::error::Invalid;
use crate::job::{Duplicates, Durability, HaltRule, Retry};
use crate::limit::Rate;
use crate::sync::thread;
use crate::time::parse_duration;
use std::ffi::OsString;
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
        let jobs = match self {
            Jobs(0, Unit::Jobs) => cores,
            Jobs(n, Unit::Jobs) => n as usize,
            Jobs(n, Unit::PercentOfCores) => (cores * n as usize / 100).max(1),
        };
        jobs.min(MAX_WORKERS)
    }
}

/// A thread each, and so many the engine takes.
const MOST_JOBS: u32 = MAX_WORKERS as u32;

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

pub(crate) fn rate(text: &str) -> Result<Rate, String> {
    let rate: Rate = text.parse().map_err(problem)?;
    rate.validate("rate").map_err(problem)?;
    match rate.burst_size() {
        0 => Err("a burst of zero would never start a job".to_owned()),
        _ => Ok(rate),
    }
}

fn problem(invalid: Invalid) -> String {
    invalid.problem
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

/// The time between two starts: a rate of one.
pub(crate) fn delay(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    Rate::per(1, time).validate("delay").map(|()| time).map_err(problem)
}

/// The waits before further tries: full jitter under a bound that doubles from the first to the second.
pub(crate) fn backoff(text: &str) -> Result<Retry, String> {
    let (min, max) = text.split_once("..").unwrap_or((text, text));
    let (Ok(min), Ok(max)) = (time_or_zero(min), time_or_zero(max)) else {
        return Err("write two times, the shorter first, like 200ms..30s".to_owned());
    };
    let retry = Retry::exponential(min..max).no_budget();
    retry.validate().map_err(problem)?;
    Ok(retry)
}

pub(crate) fn halt(text: &str) -> Result<HaltRule, String> {
    text.parse().map_err(problem)
}

pub(crate) fn duplicates(text: &str) -> Result<Duplicates, String> {
    text.parse().map_err(problem)
}

pub(crate) fn durability(text: &str) -> Result<Durability, String> {
    match text.parse() {
        Ok(Durability::Memory) => Err("a journal is no memory: write process-crash or power-loss".to_owned()),
        parsed => parsed.map_err(problem),
    }
}

pub(crate) fn name(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("a batch needs a name".to_owned()) } else { Ok(text.to_owned()) }
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
        assert_eq!(jobs("1024").unwrap().count(), 1024);
        assert!(jobs("0").unwrap().count() >= 1);
        assert_eq!(jobs("1%").unwrap().count(), 1.max(jobs("0").unwrap().count() / 100));
        for bad in ["", "x", "-1", "0%", "%", "1.5", "1025"] {
            assert!(jobs(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_rate() {
        assert_eq!(rate("2/s,burst=5"), Ok(Rate::per_second(2).burst(5)));
        for bad in ["", "2", "2/x", "0/s", "-1/s", "2/s,burst=0", "2/s,b=1", "nan/s", "./s", "2/s,"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn backoffs() {
        let waits = |text| backoff(text).map(|retry| retry.waits());
        assert_eq!(waits("200ms..30s"), Ok(Duration::from_millis(200)..Duration::from_secs(30)));
        assert_eq!(waits("1s"), Ok(Duration::from_secs(1)..Duration::from_secs(1)));
        for bad in ["", "2s..1s", "..", "1s..", "x..y"] {
            assert!(backoff(bad).is_err(), "{bad}");
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
