//! What becomes of an item whose attempt did not succeed: tried again, now or later, or given up.
//!
//! Whoever owns the attempt's end decides, once: the worker that ran it, or the supervisor that took it away. The
//! decisions themselves (may it be retried, how long is the wait, has the batch had enough) are in `policy`; here
//! they are put to the item, which leaves by exactly one of three ways: back into the lane, into its backoff, or out
//! through the store as dead or skipped.

use super::body::Body;
use super::entries::{Entry, Later};
use super::lane::{Ending, LaneCore, Shell};
use super::recovery::InHand;
use super::shared::Shared;
use super::victim;
use super::work::{Tried, Work};
use super::worker::{Place, WorkerState, text_of};
use crate::job::{AttemptError, AttemptKind, Dead, DeadReason, Failure, FailureKind};
use crate::policy;
use crate::store::RowPast;
use crate::sync::Arc;
use std::cmp::Reverse;

/// Errors kept of one item; more of them than this tell nothing new and would grow without bound.
const MAX_ERRORS: usize = 32;

/// What an item has behind it.
#[derive(Debug, Default, Clone)]
pub(super) struct History {
    pub(super) tries: u32,
    /// Attempts whose process died.
    pub(super) lost: u32,
    pub(super) deferrals: u32,
    /// The number of the next attempt among all that the store has counted.
    pub(super) epoch: u32,
    errors: Vec<AttemptError>,
}

impl History {
    /// Whether no attempt has failed or was put off.
    pub(super) fn is_first(&self) -> bool {
        self.tries == 0 && self.deferrals == 0
    }

    /// As the store has it.
    pub(super) fn of(past: &RowPast) -> History {
        History {
            tries: past.tries,
            lost: past.lost,
            deferrals: past.deferrals,
            epoch: past.epoch,
            errors: past.errors.clone(),
        }
    }

    /// The end of an item that a bug of the engine's took with it.
    pub(super) fn broken(mut self, message: String, place: Option<Place>) -> Dead {
        self.tries += 1;
        let message = format!("internal error of batchyard, please report it: {message}");
        let error = AttemptError::new(self.tries, AttemptKind::Panicked, message);
        self.errors.push(match place {
            Some(place) => error.at(place.to_string()),
            None => error,
        });
        Dead::new(DeadReason::Panicked, self.tries, self.errors)
    }
}

/// How one attempt ended, before anybody decides what becomes of the item.
pub(super) enum Verdict {
    Failed(Failure),
    Panicked {
        message: String,
        place: Option<Place>,
    },
    /// Taken from its worker.
    Abandoned {
        hung: bool,
    },
    /// It succeeded, but its SQL did not.
    Refused(Failure),
}

/// An attempt that did not succeed: of which item, what it had behind it, and how this one ended.
pub(super) struct FailedAttempt<'a, C> {
    pub(super) seat: usize,
    pub(super) chunk: &'a C,
    pub(super) at: u32,
    pub(super) history: Option<Box<History>>,
    pub(super) verdict: Verdict,
    /// Raw reading at its end.
    pub(super) now: u64,
}

impl<W: Work> Body<W> {
    /// Decides what becomes of an item whose attempt did not succeed. 1: it is settled, 0: it will be tried again.
    #[cold]
    pub(super) fn failed(
        &self,
        shared: &Shared,
        shell: &Arc<Shell>,
        me: &mut WorkerState,
        attempt: FailedAttempt<'_, W::Chunk>,
    ) -> u64 {
        let FailedAttempt { seat, chunk, at, history, verdict, now } = attempt;
        let core = &shell.core;
        let mut history = history.unwrap_or_default();
        let since = me.slot.since();
        let timed_out = !matches!(verdict, Verdict::Refused(_)) && me.slot.was_cancelled();
        if timed_out || matches!(verdict, Verdict::Abandoned { .. }) {
            core.counts.timed_out.add(1);
        }
        let given_back = matches!(&verdict, Verdict::Failed(failure) if failure.is_given_back());
        let is_victim = match &verdict {
            // What an item inside it noted is of no account to who overran its time.
            Verdict::Failed(failure) if !timed_out => {
                victim::ends_as_victim(failure, &me.slot, me.slot.last())
            }
            Verdict::Failed(failure) | Verdict::Refused(failure) => victim::is_victim(failure),
            Verdict::Panicked { .. } | Verdict::Abandoned { .. } => false,
        };
        let (kind, reason, message, place) = match verdict {
            Verdict::Failed(failure) | Verdict::Refused(failure) => {
                let reason = if timed_out { DeadReason::TimedOut } else { DeadReason::Exhausted };
                // It gave up for others to go on: not its fault, and no attempt of its own.
                let wait = if is_victim {
                    victim::until_they_are_through(history.deferrals, me.rng.next_u64())
                } else {
                    None
                };
                let kind = wait.map_or(failure.kind(), FailureKind::RetryAfter);
                let message = text_of(failure);
                let message = match core.spec.item_timeout {
                    Some(limit) if timed_out => format!("timed out after {limit:?}: {message}"),
                    _ => message,
                };
                (kind, reason, message, None)
            }
            Verdict::Panicked { message, place } => {
                me.slot.counters.panicked.add(1);
                (FailureKind::Retry, DeadReason::Panicked, format!("panicked: {message}"), place)
            }
            Verdict::Abandoned { hung: true } => {
                (FailureKind::Retry, DeadReason::Hung, "hung: no heartbeat, abandoned".to_owned(), None)
            }
            Verdict::Abandoned { hung: false } => (
                FailureKind::Retry,
                DeadReason::TimedOut,
                "timed out and did not stop: abandoned".to_owned(),
                None,
            ),
        };
        // Interrupted by a cancellation from above: that is no failure of the item.
        let over = given_back || core.is_cancelled() || shared.is_cancelling();
        if over && !matches!(kind, FailureKind::Fatal | FailureKind::Skip) {
            let ending = core.steer.lock().ending.clone().unwrap_or(Ending::Cancelled);
            self.work.cancelled(chunk, at..at + 1, &ending);
            me.in_hand = InHand::Settled;
            core.counts.cancelled.add(1);
            return 1;
        }
        let free = matches!(kind, FailureKind::RetryAfter(_) | FailureKind::Defer(_));
        if free {
            history.deferrals += 1;
        } else {
            history.tries += 1;
        }
        let attempts = history.tries + history.lost;
        let error = AttemptError::new(attempts.max(1), attempt_kind(kind, reason), message);
        history.errors.push(match place {
            Some(place) => error.at(place.to_string()),
            None => error,
        });
        if history.errors.len() > MAX_ERRORS {
            history.errors.remove(1); // the first and the latest tell most
        }
        let wait = match kind {
            FailureKind::Retry if history.tries >= core.spec.retry.max_attempts() => Err(reason),
            FailureKind::Retry if !self.spend_retry(core) => Err(DeadReason::RetryBudget),
            FailureKind::Retry => {
                Ok(policy::backoff::delay(&core.spec.retry, history.tries, me.rng.next_u64()))
            }
            FailureKind::RetryAfter(wait) | FailureKind::Defer(wait) => Ok(wait),
            FailureKind::Fatal => Err(DeadReason::Fatal),
            FailureKind::Skip => Err(DeadReason::Skipped),
        };
        match wait {
            Ok(wait) => {
                if !free {
                    me.slot.counters.retried.add(1);
                }
                let tried = Tried {
                    tries: history.tries,
                    lost: history.lost,
                    deferrals: history.deferrals,
                    due: shared.clock.now() + wait,
                    error: history.errors.last(),
                };
                if self.work.again(chunk, at, tried) {
                    me.in_hand = InHand::Between;
                    return 0;
                }
                let entry = Entry { chunk: chunk.clone(), range: at..at + 1, history: Some(history) };
                if wait.is_zero() {
                    // Behind what waits already: a failing item must not keep its lane busy alone.
                    me.in_hand = InHand::Between;
                    self.returned.lock().push_back(entry);
                    shared.add(shell, 1);
                } else {
                    let due = shared.clock.now() + wait;
                    core.counts.waiting_retry.add(1);
                    me.in_hand = InHand::Between;
                    self.backoff.lock().push(Reverse(Later { due, entry }));
                    shared.schedule(due, shell);
                }
                if core.may_have_missed_a_stop() {
                    // The stop may have cleared the lane just before the item came back.
                    self.drop_all(shared, shell);
                }
                0
            }
            Err(reason) => {
                let seq = self.work.seq(chunk, at);
                let dead = Dead::new(reason, attempts, history.errors);
                let ended = self.ended_item(shared, chunk, at, attempts, since, now);
                if reason == DeadReason::Skipped {
                    core.counts.skipped.add(1);
                } else {
                    core.counts.dead.add(1);
                    me.slot.counters.failed.add(1);
                    shared.dead(shell, seq, &dead);
                }
                self.work.keep(seat, chunk, at, Err(dead), ended);
                me.in_hand = InHand::Settled;
                self.forget_steps(seq);
                if reason != DeadReason::Skipped {
                    shared.check_halt(shell);
                }
                // What is counted later is not counted here.
                u64::from(!self.work.settles_later())
            }
        }
    }

    /// Counts a retry if the batch can afford one more. The count of what has begun takes in the item in question; a
    /// neighbour's that begins this moment may be missed, which errs on the side of fewer retries.
    fn spend_retry(&self, core: &LaneCore) -> bool {
        let share = core.spec.retry.budget_share();
        let begun = self.begun();
        core.counts.retried.add_if(|retried| policy::retry_budget::affords(share, begun, retried))
    }
}

fn attempt_kind(kind: FailureKind, reason: DeadReason) -> AttemptKind {
    match (kind, reason) {
        (FailureKind::Retry, DeadReason::TimedOut) => AttemptKind::TimedOut,
        (FailureKind::Retry, DeadReason::Hung) => AttemptKind::Hung,
        (FailureKind::Retry, DeadReason::Panicked) => AttemptKind::Panicked,
        (FailureKind::Retry, _) => AttemptKind::Failed,
        (FailureKind::RetryAfter(_) | FailureKind::Defer(_), _) => AttemptKind::Deferred,
        (FailureKind::Fatal, _) => AttemptKind::Fatal,
        (FailureKind::Skip, _) => AttemptKind::Skipped,
    }
}
