//! A distribution of durations in seven numbers.

use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// How durations are spread. `mean` and `max` are exact; the others are within 1 % above the true value.
///
/// ```
/// let none = batchyard::stats::Percentiles::default();
/// assert_eq!(none.to_string(), "no samples");
/// ```
///
/// Serialized, durations are seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Percentiles {
    /// How many samples.
    pub count: u64,
    /// Their mean.
    #[serde(with = "seconds")]
    pub mean: Duration,
    /// Half of them are not above this.
    #[serde(with = "seconds")]
    pub p50: Duration,
    /// 90 % are not above this.
    #[serde(with = "seconds")]
    pub p90: Duration,
    /// 99 % are not above this.
    #[serde(with = "seconds")]
    pub p99: Duration,
    /// 99.9 % are not above this.
    #[serde(with = "seconds")]
    pub p999: Duration,
    /// The longest.
    #[serde(with = "seconds")]
    pub max: Duration,
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == 0 {
            return f.write_str("no samples");
        }
        let Percentiles { p50, p90, p99, p999, max, .. } = self;
        write!(f, "p50 {p50:.1?}, p90 {p90:.1?}, p99 {p99:.1?}, p99.9 {p999:.1?}, max {max:.1?}")
    }
}

/// Durations written out as a number of seconds, as Prometheus wants them.
pub(crate) mod seconds {
    use serde::Serializer;
    use std::time::Duration;

    pub(crate) fn serialize<S: Serializer>(d: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(d.as_secs_f64())
    }
}
