//! An item given up, with the error of every attempt.

use crate::job::named;
use serde::{Deserialize, Serialize};
use std::fmt;

/// An item that was given up: why, and what each attempt said. One pointer wide, so that a `Result<O, Dead>` is
/// little more than its `O`.
///
/// ```
/// use batchyard::{AttemptError, Dead, DeadReason, job::AttemptKind};
/// let dead = Dead::new(DeadReason::Exhausted, 2, vec![
///     AttemptError::new(1, AttemptKind::Failed, "connection refused"),
///     AttemptError::new(2, AttemptKind::Failed, "timed out"),
/// ]);
/// assert_eq!(dead.to_string(), "gave up after 2 attempts: timed out");
/// assert_eq!(dead.reason(), DeadReason::Exhausted);
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Dead(Box<Body>);

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Body {
    reason: DeadReason,
    attempts: u32,
    errors: Vec<AttemptError>,
}

impl Dead {
    /// An item given up after `attempts` attempts that count; `errors` in the order they happened.
    #[cold]
    pub fn new(reason: DeadReason, attempts: u32, errors: Vec<AttemptError>) -> Self {
        Dead(Box::new(Body { reason, attempts, errors }))
    }

    /// An item that never ran, for a reason outside of it.
    pub(crate) fn because(reason: DeadReason, why: &dyn fmt::Display) -> Self {
        Dead::new(reason, 0, vec![AttemptError::new(0, AttemptKind::Cancelled, why.to_string())])
    }

    /// Why it was given up.
    pub fn reason(&self) -> DeadReason {
        self.0.reason
    }

    /// How many attempts counted. Deferrals do not.
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// What each attempt said, the first first.
    pub fn errors(&self) -> &[AttemptError] {
        &self.0.errors
    }

    /// What the last attempt said; nothing for an item that never ran.
    pub fn last_error(&self) -> Option<&AttemptError> {
        self.0.errors.last()
    }

    /// Whether the item was left out by [`Failure::skip`](crate::Failure::skip), which is no failure.
    pub fn is_skipped(&self) -> bool {
        self.0.reason == DeadReason::Skipped
    }
}

impl fmt::Display for Dead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.0.attempts == 1 { "" } else { "s" };
        match self.0.reason {
            DeadReason::Exhausted => write!(f, "gave up after {} attempt{s}", self.0.attempts)?,
            reason => f.write_str(reason.sentence())?,
        }
        match self.last_error() {
            Some(error) => write!(f, ": {error}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Dead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dead")
            .field("reason", &self.0.reason)
            .field("attempts", &self.0.attempts)
            .field("errors", &self.0.errors)
            .finish()
    }
}

impl std::error::Error for Dead {}

/// Why an item was given up. When the attempts are used up and the last one was a panic, a timeout or a hang, the
/// reason is that, not `Exhausted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadReason {
    /// Every attempt failed.
    Exhausted,
    /// The closure said that trying again would not help.
    Fatal,
    /// The last attempt overran its deadline.
    TimedOut,
    /// The last attempt gave no sign of life for `hang_after`.
    Hung,
    /// The last attempt panicked.
    Panicked,
    /// The process died with this item alone in hand, three times.
    Crashed,
    /// The batch, or the item, was cancelled.
    Cancelled,
    /// The batch's deadline passed before its turn.
    Expired,
    /// The batch was halted before its turn.
    Halted,
    /// It failed when the batch had used up its retry budget.
    RetryBudget,
    /// It deferred itself too often.
    Deferred,
    /// The closure left it out. Not a failure.
    Skipped,
    /// Its row in the journal could not be read as an item of this program.
    Unreadable,
}

named!(DeadReason, "reason", {
    Exhausted = "exhausted",
    Fatal = "fatal",
    TimedOut = "timed_out",
    Hung = "hung",
    Panicked = "panicked",
    Crashed = "crashed",
    Cancelled = "cancelled",
    Expired = "expired",
    Halted = "halted",
    RetryBudget = "retry_budget",
    Deferred = "deferred",
    Skipped = "skipped",
    Unreadable = "unreadable",
});

impl DeadReason {
    fn sentence(self) -> &'static str {
        match self {
            DeadReason::Exhausted => "gave up",
            DeadReason::Fatal => "cannot succeed",
            DeadReason::TimedOut => "timed out",
            DeadReason::Hung => "gave no sign of life",
            DeadReason::Panicked => "panicked",
            DeadReason::Crashed => "the process died with it",
            DeadReason::Cancelled => "cancelled",
            DeadReason::Expired => "the batch's deadline passed",
            DeadReason::Halted => "the batch was halted",
            DeadReason::RetryBudget => "the batch's retry budget is used up",
            DeadReason::Deferred => "deferred too often",
            DeadReason::Skipped => "skipped",
            DeadReason::Unreadable => "its row cannot be read",
        }
    }
}

/// What one attempt said when it ended badly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AttemptError {
    /// Which attempt, counted from 1.
    pub attempt: u32,
    /// How it ended.
    pub kind: AttemptKind,
    /// The error with its causes, or the panic's message.
    pub message: String,
    /// For a panic, where: `file:line:column`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

impl AttemptError {
    /// The error of one attempt, counted from 1.
    pub fn new(attempt: u32, kind: AttemptKind, message: impl Into<String>) -> Self {
        AttemptError { attempt, kind, message: message.into(), place: None }
    }

    /// Says where in the source it happened.
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }
}

impl fmt::Display for AttemptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.place {
            Some(place) => write!(f, " at {place}"),
            None => Ok(()),
        }
    }
}

/// How an attempt ended that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttemptKind {
    /// It returned a retryable failure.
    Failed,
    /// It returned a fatal failure.
    Fatal,
    /// It panicked.
    Panicked,
    /// It overran its deadline.
    TimedOut,
    /// It gave no sign of life for `hang_after`.
    Hung,
    /// The process died under it.
    Crashed,
    /// It was cancelled.
    Cancelled,
    /// It put itself off.
    Deferred,
    /// It left its item out.
    Skipped,
}

named!(AttemptKind, "attempt", {
    Failed = "failed",
    Fatal = "fatal",
    Panicked = "panicked",
    TimedOut = "timed_out",
    Hung = "hung",
    Crashed = "crashed",
    Cancelled = "cancelled",
    Deferred = "deferred",
    Skipped = "skipped",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_pointer() {
        assert_eq!(size_of::<Result<u64, Dead>>(), 16);
        assert_eq!(size_of::<Result<(), Dead>>(), 8);
    }

    #[test]
    fn names_read_back() {
        for reason in DeadReason::ALL {
            assert_eq!(reason.to_string().parse(), Ok(*reason));
        }
        for kind in AttemptKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(*kind));
        }
    }

    #[test]
    fn it_says_why_and_where() {
        let error = AttemptError::new(1, AttemptKind::Panicked, "index out of bounds").at("src/a.rs:3:5");
        let dead = Dead::new(DeadReason::Panicked, 1, vec![error]);
        assert_eq!(dead.to_string(), "panicked: index out of bounds at src/a.rs:3:5");
        assert_eq!(Dead::new(DeadReason::Expired, 0, vec![]).to_string(), "the batch's deadline passed");
        let json = serde_json::to_string(&dead).unwrap();
        assert_eq!(serde_json::from_str::<Dead>(&json).unwrap(), dead);
    }
}
