//! What a closure returns when it does not succeed.
//!
//! [`Failure`] is deliberately no `std::error::Error`: that leaves room for the blanket conversion from every error
//! (the arrangement is anyhow's), so `?` works on anything, and what comes through `?` is tried again.

use std::error::Error;
use std::fmt;
use std::time::Duration;

type Source = Box<dyn Error + Send + Sync>;

/// Why an attempt did not succeed, and what should happen to its item. One pointer wide.
///
/// ```
/// use batchyard::{Failure, secs};
///
/// fn parse(text: &str) -> Result<u32, Failure> {
///     if text.is_empty() {
///         return Err(Failure::skip("empty line"));
///     }
///     if text == "busy" {
///         return Err(Failure::retry_after(secs(3)));
///     }
///     Ok(text.trim().parse()?) // any error: tried again as the batch's `Retry` says
/// }
/// assert_eq!(parse("7").unwrap(), 7);
/// assert_eq!(parse("seven").unwrap_err().message(), "invalid digit found in string");
/// ```
pub struct Failure(Box<Body>);

struct Body {
    kind: FailureKind,
    source: Option<Source>,
}

/// See [`Failure::given_back`].
#[derive(Debug)]
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
struct GivenBack;

impl fmt::Display for GivenBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken off")
    }
}

impl Error for GivenBack {}

/// What a [`Failure`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureKind {
    /// Try again as the batch's `Retry` says. Costs an attempt.
    Retry,
    /// The other side is busy; try again after this wait, which overrides the backoff. Costs no attempt.
    RetryAfter(Duration),
    /// Not yet; look again after this wait. Costs no attempt.
    Defer(Duration),
    /// Trying again would not help: the item is dead.
    Fatal,
    /// There is nothing to do for this item: it counts as skipped, not as failed.
    Skip,
}

impl Failure {
    /// Try again as the batch's `Retry` says. Takes an error or a text.
    pub fn retry(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(FailureKind::Retry, Some(error.into()))
    }

    /// Try again after `wait`, without losing an attempt: the other side said when it has time (`Retry-After`).
    pub fn retry_after(wait: Duration) -> Self {
        Self::new(FailureKind::RetryAfter(wait), None)
    }

    /// [`retry_after`](Self::retry_after) with the error that said so.
    pub fn retry_after_with(error: impl Into<Box<dyn Error + Send + Sync>>, wait: Duration) -> Self {
        Self::new(FailureKind::RetryAfter(wait), Some(error.into()))
    }

    /// Look again after `wait`, without losing an attempt: what the item needs is not there yet.
    pub fn defer(wait: Duration) -> Self {
        Self::new(FailureKind::Defer(wait), None)
    }

    /// Give the item up at once.
    pub fn fatal(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(FailureKind::Fatal, Some(error.into()))
    }

    /// Leave the item out: it counts as skipped, not as failed.
    pub fn skip(reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(FailureKind::Skip, Some(reason.into()))
    }

    /// The attempt was broken off from outside: it is none, and the item stays pending. The batch must be stopping.
    #[cfg(feature = "cli")]
    pub(crate) fn given_back() -> Self {
        Self::retry(GivenBack)
    }

    pub(crate) fn is_given_back(&self) -> bool {
        self.downcast_ref::<GivenBack>().is_some()
    }

    #[cold]
    fn new(kind: FailureKind, source: Option<Source>) -> Self {
        Failure(Box::new(Body { kind, source }))
    }

    /// What it asks for.
    pub fn kind(&self) -> FailureKind {
        self.0.kind
    }

    /// The wait it asks for, when it names one.
    pub fn wait(&self) -> Option<Duration> {
        match self.0.kind {
            FailureKind::RetryAfter(wait) | FailureKind::Defer(wait) => Some(wait),
            FailureKind::Retry | FailureKind::Fatal | FailureKind::Skip => None,
        }
    }

    /// Whether the item may run again.
    pub fn is_retryable(&self) -> bool {
        !matches!(self.0.kind, FailureKind::Fatal | FailureKind::Skip)
    }

    /// The error's text with its causes, joined by `: `. A cause that the text above it already ends with is not
    /// repeated.
    pub fn message(&self) -> String {
        let Some(source) = &self.0.source else {
            return match self.0.kind {
                FailureKind::RetryAfter(wait) => format!("asked to be retried after {wait:?}"),
                FailureKind::Defer(wait) => format!("deferred for {wait:?}"),
                FailureKind::Retry | FailureKind::Fatal | FailureKind::Skip => "failed".to_owned(),
            };
        };
        let mut text = source.to_string();
        let mut cause = source.source();
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.ends_with(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        text
    }

    /// The error it was made of.
    pub fn source(&self) -> Option<&(dyn Error + Send + Sync + 'static)> {
        self.0.source.as_deref()
    }

    /// The error it was made of, if it is an `E`.
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        self.0.source.as_deref().and_then(|e| e.downcast_ref())
    }
}

/// Retryable, as [`Failure::retry`].
impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::retry(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure").field("kind", &self.0.kind).field("message", &self.message()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot fetch {url}")]
    struct Fetch {
        url: &'static str,
        #[source]
        cause: std::num::ParseIntError,
    }

    #[test]
    fn it_is_one_pointer() {
        assert_eq!(size_of::<Result<(), Failure>>(), size_of::<usize>());
    }

    #[test]
    fn question_mark_keeps_the_error_and_its_causes() {
        fn fails() -> Result<(), Failure> {
            let cause = "x".parse::<i32>().unwrap_err();
            Err(Fetch { url: "a", cause })?;
            Ok(())
        }
        let failure = fails().unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Retry);
        assert!(failure.is_retryable());
        assert_eq!(failure.message(), "cannot fetch a: invalid digit found in string");
        assert_eq!(failure.downcast_ref::<Fetch>().unwrap().url, "a");
        assert!(failure.downcast_ref::<fmt::Error>().is_none());
    }

    #[test]
    fn a_repeated_cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer: {0}")]
        struct Outer(#[source] std::num::ParseIntError);
        let failure = Failure::fatal(Outer("x".parse::<i32>().unwrap_err()));
        assert_eq!(failure.message(), "outer: invalid digit found in string");
        assert_eq!(failure.kind(), FailureKind::Fatal);
    }

    #[test]
    fn texts_and_waits() {
        assert_eq!(Failure::retry("down").to_string(), "down");
        assert_eq!(Failure::skip(String::from("old")).kind(), FailureKind::Skip);
        let busy = Failure::retry_after_with("429", Duration::from_secs(2));
        assert_eq!((busy.wait(), busy.message()), (Some(Duration::from_secs(2)), "429".to_owned()));
        assert_eq!(Failure::defer(Duration::from_secs(1)).message(), "deferred for 1s");
        assert_eq!(Failure::retry("x").wait(), None);
    }
}
