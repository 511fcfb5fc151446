//! Victims: items that were chosen to give up in a [deadlock](crate::lock::Deadlock), for others to go on.
//!
//! That is not their fault: they are tried again with no attempt lost, and the rates they have paid learn nothing of it.
//!
//! | who fails with a deadlock | is tried again |
//! |---|---|
//! | an item | after a short wait, for free; the [1,001st](MOST) time as any other |
//! | one whose own threads, and nobody else, wait for each other | as any other: it would do so again |
//! | one inside another (`map` in a closure) | not: what the outer item holds is in the way as long as that runs |
//! | the outer one, if its attempt then fails and may be tried again | as if it were the victim |

use super::slot::Slot;
use super::worker::caught;
use crate::core::attempt::Epoch;
use crate::job::{Failure, FailureKind};
use crate::lock::{Deadlock, LockError};
use crate::resource::AcquireError;
use std::error::Error;
use std::time::Duration;

/// So often an item is put off before giving up in a deadlock counts as an attempt: two minutes, at the pace below. Who
/// meets one each time by then is not unlucky.
const MOST: u32 = 1_000;

/// Whether it was chosen to give up in a deadlock with others, says so, and may be tried again.
pub(crate) fn is_victim(failure: &Failure) -> bool {
    if failure.kind() != FailureKind::Retry {
        return false;
    }
    // To look for causes runs code of the user's.
    let found = caught(|| {
        let mut cause: Option<&(dyn Error + 'static)> = failure.source().map(|error| error as _);
        while let Some(error) = cause {
            if let Some(deadlock) = told(error) {
                return !deadlock.of_one();
            }
            cause = error.source();
        }
        false
    });
    found.unwrap_or(false)
}

fn told<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Deadlock> {
    if let Some(LockError::Deadlock(deadlock)) = error.downcast_ref() {
        return Some(deadlock);
    }
    if let Some(AcquireError::Deadlock(deadlock)) = error.downcast_ref() {
        return Some(deadlock);
    }
    error.downcast_ref::<Box<Deadlock>>().map(|deadlock| &**deadlock).or_else(|| error.downcast_ref())
}

/// The same of the end of an attempt, which may be the outer of the victim.
pub(crate) fn ends_as_victim(failure: &Failure, slot: &Slot, attempt: Epoch) -> bool {
    is_victim(failure) || failure.kind() == FailureKind::Retry && slot.has_victim(attempt)
}

/// How long a victim waits before it is tried again: at random, up to a millisecond, twice that each further time, and
/// 128 ms at the most. (What it would meet again at once has mostly gone on by then; if not, it is told so again.) `None`:
/// that has been done often enough.
pub(super) fn until_they_are_through(deferrals: u32, random: u64) -> Option<Duration> {
    let most = 1_000_000_u64 << deferrals.min(7);
    (deferrals < MOST).then(|| Duration::from_nanos(random % most))
}
