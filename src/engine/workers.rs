//! How many threads.

use crate::core::ready::MAX_WORKERS;
use crate::sync::thread;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// How many worker threads an engine has: a number, or as many as the machine has cores.
///
/// ```
/// use batchyard::Workers;
/// assert_eq!(Workers::from(8), Workers::fixed(8));
/// assert!(Workers::auto().count() >= 1);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Workers(Choice);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Choice {
    #[default]
    Auto,
    Fixed(usize),
}

impl Workers {
    /// As many as the process may use at once (`available_parallelism`, which knows cgroups and affinity).
    pub const fn auto() -> Self {
        Workers(Choice::Auto)
    }

    /// This many. Zero, or more than 1,024, is an error when the configuration is validated.
    pub const fn fixed(n: usize) -> Self {
        Workers(Choice::Fixed(n))
    }

    /// How many that is on this machine.
    pub fn count(self) -> usize {
        match self.0 {
            Choice::Auto => thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS),
            Choice::Fixed(n) => n,
        }
    }

    /// The number that was asked for, if one was.
    pub const fn requested(self) -> Option<usize> {
        match self.0 {
            Choice::Auto => None,
            Choice::Fixed(n) => Some(n),
        }
    }
}

impl From<usize> for Workers {
    fn from(n: usize) -> Self {
        Workers::fixed(n)
    }
}

impl From<u32> for Workers {
    fn from(n: u32) -> Self {
        Workers::fixed(n as usize)
    }
}

/// A negative number counts as zero, which validation refuses.
impl From<i32> for Workers {
    fn from(n: i32) -> Self {
        Workers::fixed(usize::try_from(n).unwrap_or(0))
    }
}

impl fmt::Display for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Choice::Auto => f.pad("auto"),
            Choice::Fixed(n) => fmt::Display::fmt(&n, f),
        }
    }
}

/// A number, or `"auto"`.
impl Serialize for Workers {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Choice::Auto => to.serialize_str("auto"),
            Choice::Fixed(n) => to.serialize_u64(n as u64),
        }
    }
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NumberOrAuto;
        impl de::Visitor<'_> for NumberOrAuto {
            type Value = Workers;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of threads or \"auto\"")
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Workers, E> {
                usize::try_from(n).map(Workers::fixed).map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Workers, E> {
                usize::try_from(n)
                    .map(Workers::fixed)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(n), &self))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Workers, E> {
                match text {
                    "auto" => Ok(Workers::auto()),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        from.deserialize_any(NumberOrAuto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_number_or_auto() {
        for (workers, json) in [(Workers::auto(), "\"auto\""), (Workers::fixed(3), "3")] {
            assert_eq!(serde_json::to_string(&workers).unwrap(), json);
            assert_eq!(serde_json::from_str::<Workers>(json).unwrap(), workers);
            assert_eq!(workers.to_string(), json.trim_matches('"'));
        }
        for wrong in ["-1", "\"all\"", "1.5", "null"] {
            let problem = serde_json::from_str::<Workers>(wrong).unwrap_err().to_string();
            assert!(problem.contains("a number of threads or \"auto\""), "{problem}");
        }
        assert_eq!(Workers::from(-1).requested(), Some(0));
    }
}
