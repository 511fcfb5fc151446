//! How often, and after what wait, an item is tried again. The decisions themselves are in `policy/`.

use crate::error::Invalid;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::time::Duration;

/// When a failed item is tried again: how many attempts, how long the wait between them, and which share of a
/// batch's work may be retries.
///
/// ```
/// use batchyard::{Retry, millis, secs};
/// let retry = Retry::exponential(millis(200)..secs(30)).attempts(5).budget(0.1);
/// assert_eq!(retry.max_attempts(), 5);
/// assert!(retry.validate().is_ok());
/// assert_eq!(Retry::default(), Retry::none());
/// ```
///
/// The wait before retry *n* (counted from 0) is a random time between nothing and `min(cap, base·2ⁿ)`: full
/// jitter, the variant that spends the fewest calls when many clients collide (Brooker, "Exponential Backoff and
/// Jitter", AWS Architecture Blog, 2015). A waiting item holds no worker, permit or token.
///
/// In a configuration file: `retry = { base = "200ms", cap = "30s", attempts = 5, budget = 0.1 }`. What is left out
/// is as here: `base` alone is [`fixed`](Self::fixed), `attempts` alone waits 200 ms to 30 s, `budget = "none"` is
/// [`no_budget`](Self::no_budget).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "written::Retry", into = "written::Retry")]
pub struct Retry {
    attempts: u32,
    base: Duration,
    cap: Duration,
    jitter: bool,
    budget: Option<f64>,
}

impl Retry {
    /// Tries in all when the caller does not say.
    const ATTEMPTS: u32 = 3;
    /// The share of retries when the caller does not say: Finagle's `RetryBudget` default.
    const BUDGET: f64 = 0.2;

    /// One attempt, no retry: the default.
    pub const fn none() -> Self {
        Retry { attempts: 1, base: Duration::ZERO, cap: Duration::ZERO, jitter: true, budget: None }
    }

    /// Waits that double from the start of the range up to its end, with full jitter; 3 attempts in all and a
    /// budget of 0.2 unless said otherwise.
    pub const fn exponential(waits: Range<Duration>) -> Self {
        Retry {
            attempts: Self::ATTEMPTS,
            base: waits.start,
            cap: waits.end,
            jitter: true,
            budget: Some(Self::BUDGET),
        }
    }

    /// The same wait before each retry, exactly (see [`jitter`](Self::jitter)); 3 attempts in all and a budget of
    /// 0.2 unless said otherwise.
    pub const fn fixed(wait: Duration) -> Self {
        Retry { attempts: Self::ATTEMPTS, base: wait, cap: wait, jitter: false, budget: Some(Self::BUDGET) }
    }

    /// Attempts in all, the first included.
    pub const fn attempts(mut self, total: u32) -> Self {
        self.attempts = total;
        self
    }

    /// At most this share of the batch's first attempts, plus 10, may be retries: 0.1 lets a batch that has started
    /// 1,000 items retry 110 times. It keeps a service that is down from being called `attempts` times as often as
    /// one that is up.
    pub const fn budget(mut self, share: f64) -> Self {
        self.budget = Some(share);
        self
    }

    /// Every item may use all its attempts.
    pub const fn no_budget(mut self) -> Self {
        self.budget = None;
        self
    }

    /// Whether a wait is drawn between nothing and its nominal length (full jitter), or is that length.
    pub const fn jitter(mut self, full: bool) -> Self {
        self.jitter = full;
        self
    }

    /// Attempts in all, the first included.
    pub const fn max_attempts(&self) -> u32 {
        self.attempts
    }

    /// The nominal wait before the first retry, and the longest one.
    pub const fn waits(&self) -> Range<Duration> {
        self.base..self.cap
    }

    /// The share of retries, when there is a budget.
    pub const fn budget_share(&self) -> Option<f64> {
        self.budget
    }

    /// Whether the waits are jittered.
    pub const fn is_jittered(&self) -> bool {
        self.jitter
    }

    /// Checks the values against each other.
    ///
    /// # Errors
    ///
    /// Names the field at fault: no attempt at all, a first wait above the longest, a wait that doubles from zero,
    /// or a share that is negative or not finite.
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.attempts == 0 {
            return Err(Invalid::new("retry.attempts", "must be at least 1: it counts the first attempt"));
        }
        if self.base > self.cap {
            let problem = format!("{:?} is above the longest wait, {:?}", self.base, self.cap);
            return Err(Invalid::new("retry.base", problem));
        }
        if self.base.is_zero() && !self.cap.is_zero() {
            return Err(Invalid::new("retry.base", "zero never grows: use a first wait above zero"));
        }
        match self.budget {
            Some(share) if !share.is_finite() || share < 0.0 => {
                Err(Invalid::new("retry.budget", format!("{share} is not a share: use for example 0.1")))
            }
            _ => Ok(()),
        }
    }
}

/// [`Retry::none`].
impl Default for Retry {
    fn default() -> Self {
        Self::none()
    }
}

/// The structure as configuration files and journals hold it.
mod written {
    use crate::error::Invalid;
    use crate::time::{millis, parse_duration, secs};
    use serde::{Deserialize, Serialize};
    use std::time::Duration;

    #[derive(Default, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub(super) struct Retry {
        attempts: Option<u32>,
        base: Option<String>,
        cap: Option<String>,
        jitter: Option<bool>,
        budget: Option<Budget>,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(untagged, expecting = "a budget is a share such as 0.1, or \"none\"")]
    enum Budget {
        Share(f64),
        None(Word),
    }

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        None,
    }

    impl From<super::Retry> for Retry {
        fn from(retry: super::Retry) -> Self {
            Retry {
                attempts: Some(retry.attempts),
                base: Some(text(retry.base)),
                cap: Some(text(retry.cap)),
                jitter: Some(retry.jitter),
                budget: Some(retry.budget.map_or(Budget::None(Word::None), Budget::Share)),
            }
        }
    }

    impl TryFrom<Retry> for super::Retry {
        type Error = Invalid;

        fn try_from(said: Retry) -> Result<Self, Invalid> {
            let wait = |field: &str, text: &Option<String>| match text {
                Some(text) => parse_duration(text).map(Some).map_err(|problem| Invalid::new(field, problem)),
                None => Ok(None),
            };
            let waits = (wait("base", &said.base)?, wait("cap", &said.cap)?);
            let mut retry = match waits {
                (Some(base), Some(cap)) => super::Retry::exponential(base..cap),
                (Some(wait), None) => super::Retry::fixed(wait),
                (None, Some(_)) => {
                    return Err(Invalid::new("cap", "needs a base: the wait that grows up to it"));
                }
                (None, None) if said.attempts.is_some_and(|n| n != 1) => {
                    super::Retry::exponential(millis(200)..secs(30))
                }
                (None, None) => super::Retry::none(),
            };
            retry.attempts = said.attempts.unwrap_or(retry.attempts);
            retry.jitter = said.jitter.unwrap_or(retry.jitter);
            match said.budget {
                Some(Budget::Share(share)) => retry.budget = Some(share),
                Some(Budget::None(Word::None)) => retry.budget = None,
                None => {}
            }
            Ok(retry)
        }
    }

    /// A duration in the largest unit that holds it exactly.
    fn text(d: Duration) -> String {
        let nanos = d.as_nanos();
        let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")];
        let (unit, name) =
            units.into_iter().find(|(unit, _)| nanos.is_multiple_of(*unit)).unwrap_or((1, "ns"));
        format!("{}{name}", nanos / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{millis, secs};

    #[test]
    fn each_wrong_value_names_its_field() {
        let good = Retry::exponential(millis(1)..secs(1));
        assert_eq!(good.validate(), Ok(()));
        assert_eq!(Retry::none().validate(), Ok(()));
        assert_eq!(Retry::fixed(Duration::ZERO).validate(), Ok(()));
        let field = |r: Retry| r.validate().unwrap_err().field;
        assert_eq!(field(good.attempts(0)), "retry.attempts");
        assert_eq!(field(Retry::exponential(secs(2)..secs(1))), "retry.base");
        assert_eq!(field(Retry::exponential(secs(0)..secs(1))), "retry.base");
        for share in [f64::NAN, f64::INFINITY, -0.1] {
            assert_eq!(field(good.budget(share)), "retry.budget");
        }
    }

    #[test]
    fn it_is_written_as_people_write_it() {
        let retry = Retry::exponential(millis(200)..secs(30)).attempts(5).budget(0.1);
        let json = serde_json::to_string(&retry).unwrap();
        assert_eq!(json, r#"{"attempts":5,"base":"200ms","cap":"30s","jitter":true,"budget":0.1}"#);
        assert_eq!(serde_json::from_str::<Retry>(&json).unwrap(), retry);
        for odd in [Retry::fixed(Duration::from_nanos(1_001)).no_budget(), Retry::none()] {
            assert_eq!(serde_json::from_str::<Retry>(&serde_json::to_string(&odd).unwrap()).unwrap(), odd);
        }
    }

    #[test]
    fn what_is_left_out_is_as_in_the_constructors() {
        let read = |text| serde_json::from_str::<Retry>(text).map_err(|e| e.to_string());
        assert_eq!(read("{}"), Ok(Retry::none()));
        assert_eq!(read(r#"{"attempts":1}"#), Ok(Retry::none()));
        assert_eq!(read(r#"{"base":"1s"}"#), Ok(Retry::fixed(secs(1))));
        assert_eq!(read(r#"{"base":"1s","cap":"1m"}"#), Ok(Retry::exponential(secs(1)..secs(60))));
        assert_eq!(read(r#"{"attempts":4}"#), Ok(Retry::exponential(millis(200)..secs(30)).attempts(4)));
        assert_eq!(read(r#"{"base":"1s","budget":"none"}"#), Ok(Retry::fixed(secs(1)).no_budget()));
        assert_eq!(read(r#"{"base":"1s","budget":1}"#), Ok(Retry::fixed(secs(1)).budget(1.0)));
        for (text, says) in [
            (r#"{"tries":5}"#, "`tries`"),
            (r#"{"cap":"1s"}"#, "cap: needs a base"),
            (r#"{"base":"soon"}"#, "base: `soon` is not a duration"),
            (r#"{"base":"1s","budget":"much"}"#, "or \"none\""),
        ] {
            let problem = read(text).unwrap_err();
            assert!(problem.contains(says), "{problem}");
        }
    }
}
