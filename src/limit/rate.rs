//! [`Rate`]: so many tokens in so much time, as an exact fraction, and how people write it.

use crate::core::bucket::{Pace, fraction_below};
use crate::error::Invalid;
use crate::time::{Clock, parse_duration};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;

/// How many tokens in how much time, and how many may go at once after a quiet time (the burst, 1 unless said).
///
/// The fraction is kept exactly; no period is rounded to nanoseconds. Making one never fails: a zero, a NaN or a
/// negative number is reported, with its field, by whoever builds something from it. Two rates are equal when they
/// let the same through: `per_second(1) == per_minute(60)`.
///
/// As text, on the command line, in TOML and JSON: `2/s`, `2/s,burst=5`, `0.5/s`, `100/m`, `10/h`, `3/10s`.
///
/// ```
/// use batchyard::{Rate, millis};
/// assert_eq!(Rate::per_second(2), Rate::per(1, millis(500)));
/// assert_eq!("0.5/s,burst=3".parse::<Rate>()?, Rate::per_minute(30).burst(3));
/// assert_eq!(Rate::per(3, batchyard::secs(10)).to_string(), "3/10s");
/// # Ok::<(), batchyard::Invalid>(())
/// ```
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    /// Zero stands for every number that is none.
    tokens: u64,
    /// `u64::MAX` stands for every period that is too long.
    nanos: u64,
    /// `None`: not said.
    burst: Option<u64>,
}

impl Rate {
    /// So many tokens a second.
    pub const fn per_second(tokens: u64) -> Rate {
        Rate { tokens, nanos: SECOND, burst: None }
    }

    /// So many tokens a minute.
    pub const fn per_minute(tokens: u64) -> Rate {
        Rate { tokens, nanos: 60 * SECOND, burst: None }
    }

    /// So many tokens an hour.
    pub const fn per_hour(tokens: u64) -> Rate {
        Rate { tokens, nanos: 3600 * SECOND, burst: None }
    }

    /// So many tokens in `period`.
    pub const fn per(tokens: u64, period: Duration) -> Rate {
        let nanos = period.as_nanos();
        Rate { tokens, nanos: if nanos < u64::MAX as u128 { nanos as u64 } else { u64::MAX }, burst: None }
    }

    /// So many tokens a second, as the decimal number that `tokens` is written as: 0.1 is one in ten seconds.
    ///
    /// ```
    /// use batchyard::{Rate, RateLimiter};
    /// assert_eq!(Rate::per_second_f64(2.5), Rate::per_minute(150));
    /// assert!(RateLimiter::new(Rate::per_second_f64(f64::NAN)).is_err());
    /// ```
    pub fn per_second_f64(tokens: f64) -> Rate {
        // Shortest text that reads back as the same number: digits and a power of ten.
        let fraction = (tokens.is_finite() && tokens > 0.0).then(|| decimal(&format!("{tokens}"))).flatten();
        Rate::from_fraction(fraction, SECOND)
    }

    /// The same rate with room for this many tokens at once.
    pub const fn burst(self, tokens: u64) -> Rate {
        Rate { burst: Some(tokens), ..self }
    }

    /// The burst: 1 unless said.
    pub const fn burst_size(&self) -> u64 {
        match self.burst {
            Some(burst) => burst,
            None => 1,
        }
    }

    /// The burst, if one was said.
    pub(crate) const fn said_burst(&self) -> Option<u64> {
        self.burst
    }

    /// Tokens a second, rounded: for people and charts.
    pub fn as_per_second_f64(&self) -> f64 {
        self.tokens as f64 * SECOND as f64 / self.nanos as f64
    }

    /// `fraction` tokens in `nanos`; `None` becomes the zero that validation reports.
    fn from_fraction(fraction: Option<(u128, u128)>, nanos: u64) -> Rate {
        let fitted = fraction.and_then(|(num, den)| {
            // Keep the period as it is for a whole number: `2/s` prints as it was written.
            if den == 1 {
                return Some((u64::try_from(num).ok()?, nanos));
            }
            fraction_below(num, den.checked_mul(u128::from(nanos))?, u64::MAX - 1)
        });
        let (tokens, nanos) = fitted.unwrap_or((0, nanos));
        Rate { tokens, nanos, burst: None }
    }

    /// Names `field` when this is no rate.
    pub(crate) fn validate(&self, field: &str) -> Result<(), Invalid> {
        if self.tokens == 0 {
            Err(Invalid::new(field, "must be a finite number of tokens above zero"))
        } else if self.nanos == 0 {
            Err(Invalid::new(field, "its period must be longer than zero"))
        } else if self.nanos == u64::MAX {
            Err(Invalid::new(field, "its period must be under 584 years"))
        } else {
            Ok(())
        }
    }

    /// Tokens a raw tick of `clock`, `times` over.
    pub(super) fn pace(&self, clock: &Clock, times: u64) -> Option<Pace> {
        let (nanos, ticks) = clock.scale().nanos_per_tick();
        let num = (u128::from(self.tokens) * u128::from(nanos)).checked_mul(u128::from(times))?;
        Pace::new(num, u128::from(self.nanos) * u128::from(ticks))
    }

    /// Whether this is at most `other`, bursts aside.
    pub(super) fn at_most(&self, other: &Rate) -> bool {
        u128::from(self.tokens) * u128::from(other.nanos) <= u128::from(other.tokens) * u128::from(self.nanos)
    }

    /// This rate so many times over.
    pub(super) fn times(self, times: u64) -> Rate {
        Rate { tokens: self.tokens.saturating_mul(times), ..self }
    }

    /// Millionths of a token a second, rounded down.
    pub(super) fn millionths(&self) -> u64 {
        let tokens = u128::from(self.tokens) * 1_000_000 * u128::from(SECOND);
        u64::try_from(tokens / u128::from(self.nanos.max(1))).unwrap_or(u64::MAX)
    }

    /// So many millionths of a token a second.
    pub(super) fn of_millionths(millionths: u64) -> Rate {
        match millionths % 1_000_000 {
            0 => Rate::per_second(millionths / 1_000_000),
            _ => Rate { tokens: millionths, nanos: 1_000_000 * SECOND, burst: None },
        }
    }

    /// In lowest terms: what equality looks at.
    fn canonical(&self) -> (u64, u64, u64) {
        let (tokens, nanos) = fraction_below(self.tokens.into(), self.nanos.into(), u64::MAX)
            .unwrap_or((self.tokens, self.nanos));
        (tokens, nanos, self.burst_size())
    }
}

impl PartialEq for Rate {
    fn eq(&self, other: &Rate) -> bool {
        self.canonical() == other.canonical()
    }
}

impl Eq for Rate {}

impl Hash for Rate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical().hash(state);
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rate({self})")
    }
}

/// As [`FromStr`] reads it.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.tokens)?;
        match self.nanos {
            SECOND => f.write_str("s")?,
            n if n == 60 * SECOND => f.write_str("m")?,
            n if n == 3600 * SECOND => f.write_str("h")?,
            n if n % SECOND == 0 => write!(f, "{}s", n / SECOND)?,
            n if n % 1_000_000 == 0 => write!(f, "{}ms", n / 1_000_000)?,
            n if n % 1_000 == 0 => write!(f, "{}us", n / 1_000)?,
            n => write!(f, "{n}ns")?,
        }
        match self.burst {
            Some(burst) => write!(f, ",burst={burst}"),
            None => Ok(()),
        }
    }
}

/// `NUMBER/[NUMBER]UNIT[,burst=N]`, units `ns us ms s m h d`.
///
/// # Errors
///
/// [`Invalid`] with the field `rate` or `burst`. A zero is read; it is reported by whoever builds from it.
impl FromStr for Rate {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Rate, Invalid> {
        let bad = || {
            Invalid::new(
                "rate",
                format!("`{text}` is not a rate: write for example 2/s, 0.5/s, 100/m or 2/s,burst=5"),
            )
        };
        let (rate, burst) = match text.split_once(',') {
            None => (text, None),
            Some((rate, burst)) => {
                let number = burst.trim().strip_prefix("burst=").and_then(|n| n.parse::<u64>().ok());
                let wrong =
                    || Invalid::new("burst", format!("`{}` is not of the form burst=5", burst.trim()));
                (rate, Some(number.ok_or_else(wrong)?))
            }
        };
        let (tokens, period) = rate.trim().split_once('/').ok_or_else(bad)?;
        let tokens = decimal(tokens.trim()).ok_or_else(bad)?;
        let nanos = period_nanos(period.trim()).ok_or_else(bad)?;
        Ok(Rate { burst, ..Rate::from_fraction(Some(tokens), nanos) })
    }
}

/// A unit, with or without a number before it. Whole numbers do not pass through a float.
fn period_nanos(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_nanos: u64 = match unit {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => SECOND,
        "m" | "min" => 60 * SECOND,
        "h" => 3600 * SECOND,
        "d" => 86400 * SECOND,
        // A fraction, as in `3/1.5s`.
        _ if digits > 0 && unit.starts_with('.') => {
            return u64::try_from(parse_duration(text).ok()?.as_nanos()).ok();
        }
        _ => return None,
    };
    let number = if number.is_empty() { 1 } else { number.parse().ok()? };
    unit_nanos.checked_mul(number)
}

/// A decimal number without sign or exponent, as an exact fraction. `None` also beyond 19 digits either way.
fn decimal(text: &str) -> Option<(u128, u128)> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() && part.is_empty() || !(whole.bytes().chain(part.bytes())).all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let den = 10u128.checked_pow(u32::try_from(part.len()).ok()?)?;
    let digit = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
    let num = digit(whole)?.checked_mul(den)?.checked_add(digit(part)?)?;
    fraction_below(num, den, u64::MAX).map(|(num, den)| (num.into(), den.into()))
}

impl TryFrom<String> for Rate {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Rate, Invalid> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> String {
        rate.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{millis, secs};

    #[test]
    fn texts_are_read_and_written() {
        for (text, rate) in [
            ("2/s", Rate::per_second(2)),
            ("2/s,burst=5", Rate::per_second(2).burst(5)),
            ("100/m", Rate::per_minute(100)),
            ("10/h", Rate::per_hour(10)),
            ("3/10s", Rate::per(3, secs(10))),
            ("7/250ms", Rate::per(7, millis(250))),
        ] {
            assert_eq!(text.parse::<Rate>().unwrap(), rate);
            assert_eq!(rate.to_string(), text);
        }
        assert_eq!("0.5/s".parse::<Rate>().unwrap(), Rate::per(1, secs(2)));
        assert_eq!(" 2.5 / s , burst=4".parse::<Rate>().unwrap(), Rate::per(5, secs(2)).burst(4));
        assert_eq!("3/1.5s".parse::<Rate>().unwrap(), Rate::per_second(2));
        let json = serde_json::to_string(&Rate::per_second(2).burst(5)).unwrap();
        assert_eq!(json, "\"2/s,burst=5\"");
        assert_eq!(serde_json::from_str::<Rate>(&json).unwrap(), Rate::per_second(2).burst(5));
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in [
            "",
            "/",
            "2",
            "/s",
            "2/",
            "2/x",
            "-2/s",
            "2/-1s",
            "1e3/s",
            "2/s,5",
            "2/s,burst=",
            "2/s,burst=-1",
            "./s",
            "NaN/s",
            "inf/s",
            "2/s/s",
            "2//s",
            "2/999999999999999999999d",
            "2/s,burst=99999999999999999999",
        ] {
            let wrong = text.parse::<Rate>().unwrap_err();
            assert!(wrong.field == "rate" || wrong.field == "burst", "{text}");
        }
    }

    #[test]
    fn numbers_that_are_none_fail_validation() {
        for wrong in
            [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -1.0, -0.0, f64::MAX, f64::MIN_POSITIVE]
        {
            assert_eq!(Rate::per_second_f64(wrong).validate("rate").unwrap_err().field, "rate", "{wrong}");
        }
        assert!(Rate::per_second(0).validate("rate").is_err());
        assert!(Rate::per(1, Duration::ZERO).validate("rate").is_err());
        assert!(Rate::per(1, Duration::MAX).validate("rate").is_err());
        assert!("0/s".parse::<Rate>().unwrap().validate("rate").is_err());
    }

    #[test]
    fn floats_mean_the_decimal_they_are_written_as() {
        assert_eq!(Rate::per_second_f64(2.0), Rate::per_second(2));
        assert_eq!(Rate::per_second_f64(0.1), Rate::per(1, secs(10)));
        assert_eq!(Rate::per_second_f64(1e9), Rate::per_second(1_000_000_000));
        let third = Rate::per_second_f64(1.0 / 3.0);
        assert!(third.validate("rate").is_ok());
        assert!((third.as_per_second_f64() - 1.0 / 3.0).abs() < 1e-12);
        assert!(Rate::per_second_f64(1e-9).validate("rate").is_ok());
    }
}
