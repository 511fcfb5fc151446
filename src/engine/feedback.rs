//! Who hears how an attempt fared: the adaptive rates that it has taken tokens of.
//!
//! An attempt takes tokens by *demands*: one for its start, of all rates its batch is paced by, and one for each call of
//! [`Context::pace`] and [`Context::acquire`]. Those count in which there is an adaptive rate. What is told:
//!
//! | the attempt | each rate | of these, who is told to slow down |
//! |---|---|---|
//! | went well | hears of all its tokens | |
//! | ended with `Failure::retry_after` | else hears nothing | the rates of the last demand; of a start's, if some had to be waited for, those whose tokens came last |
//! | ended otherwise | hears nothing, or of a failure, from which nothing is learnt | |
//!
//! One refusal is one call's, so not all rates are to blame. The refused call is the one that the last demand was for. Where
//! that was the start's, of several rates (ten a second and a thousand an hour), the pace was set by the one that it had to
//! wait for: to cut another would lower a limit that nobody was near, and a pause of that one holds back all calls of the same
//! kind. When all tokens were there at once, it was the burst of any of them, and all are cut. So are all rates of a demand from
//! inside that is for several: they are waited for together, and which of them it was that came last nobody has noted.
//!
//! **Stamps.** A cut is for those who were granted before it, once (`core/epoch.rs`). A start's tokens have the stamps of
//! their grants. Those taken inside have the time at which they were asked for, which is not later: who waits across a cut
//! counts as granted before it.

use super::context::Context;
use super::victim;
use crate::job::{Failure, FailureKind};
use crate::limit::{Outcome, RateLimiter};
use crate::resource::{Demand, ResourceKind};
use crate::time::Timestamp;

/// What an attempt has paid to rates that learn: one entry a rate.
#[derive(Debug, Default)]
pub(crate) struct Bill {
    paid: Vec<Paid>,
    /// Demands so far.
    demands: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Paid {
    rate: RateLimiter,
    /// In all, and by the last demand.
    tokens: (u64, u64),
    sent: Timestamp,
    waited: bool,
    demand: u64,
}

impl Bill {
    pub(crate) fn is_empty(&self) -> bool {
        self.paid.is_empty()
    }

    /// What is paid from now on is paid by another demand.
    pub(crate) fn begin_demand(&mut self) {
        self.demands += 1;
    }

    /// Tokens of a rate, granted as of `sent`; `waited`: they had to be waited for.
    pub(crate) fn pay(&mut self, rate: &RateLimiter, n: u64, sent: Timestamp, waited: bool) {
        if !rate.is_adaptive() {
            return;
        }
        let demand = self.demands;
        match self.paid.iter_mut().find(|paid| paid.rate.is(rate)) {
            Some(paid) => {
                (paid.tokens, paid.sent) = ((paid.tokens.0 + n, n), sent);
                (paid.waited, paid.demand) = (waited, demand);
            }
            None => self.paid.push(Paid { rate: rate.clone(), tokens: (n, n), sent, waited, demand }),
        }
    }

    /// Tells of an attempt that has ended, and begins anew. What was put off or left out by its own closure says nothing,
    /// and neither does a panic, or who gave up in a deadlock.
    #[cold]
    fn tell<O, P>(&mut self, result: &Result<Result<O, Failure>, P>, is_victim: bool) {
        let Bill { paid, demands } = std::mem::take(self);
        let told = match result {
            Ok(Ok(_)) => Outcome::Success,
            Ok(Err(failure)) => match failure.kind() {
                FailureKind::RetryAfter(wait) => {
                    let last = |paid: &&Paid| paid.demand == demands;
                    let came = |paid: &Paid| if paid.waited { paid.sent } else { Timestamp::ZERO };
                    let latest = paid.iter().filter(last).map(came).max();
                    for paid in paid.iter().filter(last).filter(|paid| Some(came(paid)) == latest) {
                        let outcome = Outcome::Throttled { retry_after: Some(wait) };
                        paid.rate.tell(paid.sent, paid.tokens.1, outcome);
                    }
                    return;
                }
                kind => untold(kind, is_victim),
            },
            Err(_) => Outcome::Ignored,
        };
        paid.iter().for_each(|paid| paid.rate.tell(paid.sent, paid.tokens.0, told));
    }
}

/// What is said of an attempt that was neither served nor refused.
fn untold(kind: FailureKind, is_victim: bool) -> Outcome {
    match kind {
        FailureKind::Retry | FailureKind::Fatal if !is_victim => Outcome::Failed,
        _ => Outcome::Ignored,
    }
}

impl Context {
    /// The demand was met inside; it was asked for at `asked`.
    pub(super) fn note_paid(&self, demand: &Demand, asked: Timestamp) {
        let manager = &self.shared.gate.manager;
        let learning = |name: &ResourceKind| manager.rate(name.clone()).filter(|rate| rate.is_adaptive());
        let mut paces = demand.paces().filter_map(|(name, n)| Some((learning(name)?, n))).peekable();
        if paces.peek().is_none() {
            return;
        }
        let mut bill = self.bill.lock();
        bill.begin_demand();
        paces.for_each(|(rate, n)| bill.pay(rate, n, asked, false));
    }

    /// Tells the rates it has paid how the attempt went.
    #[inline]
    pub(crate) fn tell_rates<O, P>(&mut self, result: &Result<Result<O, Failure>, P>) {
        let bill = self.bill.get_mut();
        if !bill.is_empty() {
            let victim = |failure| victim::ends_as_victim(failure, &self.slot, self.run);
            bill.tell(result, matches!(result, Ok(Err(failure)) if victim(failure)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn nothing_is_said_of_victims() {
        assert_eq!(untold(FailureKind::Retry, false), Outcome::Failed);
        assert_eq!(untold(FailureKind::Retry, true), Outcome::Ignored);
        assert_eq!(untold(FailureKind::Defer(Duration::ZERO), false), Outcome::Ignored);
    }
}
