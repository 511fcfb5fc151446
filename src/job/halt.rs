//! When a batch stops before its end, and why it did.

use crate::error::Invalid;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Stops a batch that fails too much, in GNU parallel's words: `now,fail=3`, `soon,fail=10%`.
///
/// ```
/// use batchyard::job::{HaltAt, HaltRule};
/// let rule: HaltRule = "soon,fail=10%".parse()?;
/// assert_eq!(rule, HaltRule { now: false, fail: HaltAt::Share(0.1) });
/// assert_eq!(rule.to_string(), "soon,fail=10%");
/// # Ok::<(), batchyard::Invalid>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HaltRule {
    /// `now`: cancel what runs. `soon`: let it finish, start nothing more.
    pub now: bool,
    /// How many failures are too many.
    pub fail: HaltAt,
}

/// How many failed items are too many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HaltAt {
    /// This many dead items.
    Count(u64),
    /// More than this share (0 to 1) of the items that have ended. It is looked at from the 20th ended item on: the
    /// first failure of a batch is 100 % of what has ended.
    Share(f64),
}

impl HaltRule {
    /// Stops everything at the first dead item.
    pub(crate) const fn first_failure() -> Self {
        HaltRule { now: true, fail: HaltAt::Count(1) }
    }

    /// Checks the number.
    ///
    /// # Errors
    ///
    /// A count of zero, or a share outside 0 to 1: it names the field `halt`.
    pub fn validate(&self) -> Result<(), Invalid> {
        match self.fail {
            HaltAt::Count(0) => Err(Invalid::new("halt", "fail=0 would stop before the start: use fail=1")),
            HaltAt::Share(s) if !(0.0..1.0).contains(&s) => {
                Err(Invalid::new("halt", format!("fail={}% is outside 0% to 99%", s * 100.0)))
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for HaltRule {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad =
            || Invalid::new("halt", format!("`{text}` is not understood: write now,fail=3 or soon,fail=10%"));
        let (when, what) = text.split_once(',').ok_or_else(bad)?;
        let now = match when.trim() {
            "now" => true,
            "soon" => false,
            _ => return Err(bad()),
        };
        let number = what.trim().strip_prefix("fail=").ok_or_else(bad)?;
        let fail = match number.strip_suffix('%') {
            Some(percent) => HaltAt::Share(percent.parse::<f64>().map_err(|_| bad())? / 100.0),
            None => HaltAt::Count(number.parse().map_err(|_| bad())?),
        };
        let rule = HaltRule { now, fail };
        rule.validate().map(|()| rule)
    }
}

impl fmt::Display for HaltRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.now { "now" } else { "soon" })?;
        match self.fail {
            HaltAt::Count(n) => write!(f, ",fail={n}"),
            // Percent with enough digits to read back the same share, without the noise of binary fractions.
            HaltAt::Share(share) => write!(f, ",fail={}%", (share * 1e8).round() / 1e6),
        }
    }
}

impl Serialize for HaltRule {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HaltRule {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a batch was stopped before its end.
///
/// ```
/// use batchyard::HaltReason;
/// let why = HaltReason::Failures { rule: "now,fail=3".parse()?, failed: 3, ended: 40 };
/// assert_eq!(why.to_string(), "3 of 40 ended items failed (rule now,fail=3)");
/// # Ok::<(), batchyard::Invalid>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HaltReason {
    /// The halt rule was met.
    Failures {
        /// The rule.
        rule: HaltRule,
        /// Dead items.
        failed: u64,
        /// Items that had ended in any way.
        ended: u64,
    },
    /// The batch's own deadline passed.
    Deadline,
    /// More attempts were abandoned, their threads still running, than `max_abandoned` allows.
    Abandoned {
        /// Attempts whose threads have not returned.
        abandoned: u64,
        /// The limit.
        limit: u64,
    },
    /// A waiting demand can never be met, since abandoned attempts still hold what it needs.
    Impossible {
        /// The demand, as its user wrote it.
        demand: String,
    },
    /// The journal could not be written.
    Journal {
        /// What the store says.
        problem: String,
    },
    /// The engine was shut down; what was left is still pending in the journal.
    Shutdown,
}

impl fmt::Display for HaltReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HaltReason::Failures { rule, failed, ended } => {
                write!(f, "{failed} of {ended} ended items failed (rule {rule})")
            }
            HaltReason::Deadline => f.write_str("the batch's deadline passed"),
            HaltReason::Abandoned { abandoned, limit } => {
                write!(f, "{abandoned} attempts were abandoned and have not returned, {limit} are allowed")
            }
            HaltReason::Impossible { demand } => {
                write!(f, "abandoned attempts hold what {demand} needs")
            }
            HaltReason::Journal { problem } => write!(f, "the journal cannot be written: {problem}"),
            HaltReason::Shutdown => f.write_str("the engine was shut down"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_back_what_they_write() {
        for text in ["now,fail=3", "soon,fail=10%", "soon,fail=0.5%", "now,fail=7%", "soon,fail=0%"] {
            let rule: HaltRule = text.parse().unwrap();
            assert_eq!(rule.to_string(), text);
            assert_eq!(rule.to_string().parse(), Ok(rule));
        }
        assert_eq!("now , fail=1".replace(' ', "").parse::<HaltRule>().unwrap().fail, HaltAt::Count(1));
    }

    #[test]
    fn wrong_rules_say_what_would_do() {
        for text in ["", "fail=3", "later,fail=3", "now,success=1", "now,fail=-1", "now,fail=x%", "now,fail="]
        {
            let wrong = text.parse::<HaltRule>().unwrap_err();
            assert!(wrong.to_string().contains("now,fail=3 or soon,fail=10%"), "{wrong}");
        }
        for text in ["now,fail=0", "soon,fail=100%", "soon,fail=-5%", "soon,fail=NaN%"] {
            assert_eq!(text.parse::<HaltRule>().unwrap_err().field, "halt", "{text}");
        }
    }
}
