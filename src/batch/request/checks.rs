//! What a batch asks for, held against what its engine has.

use super::BatchBuilder;
use crate::core::waitlist::{Demand, MAX_PARTS};
use crate::engine::Error;
use crate::engine::gate::LaneGate;
use crate::engine::lane::{LaneCore, LaneSpec};
use crate::engine::tunables::{LaneTunables, Tunables};
use crate::error::Invalid;
use crate::limit::RateLimiter;
use std::time::Duration;

impl<K> BatchBuilder<K> {
    /// Checks everything and makes the lane's core.
    pub(super) fn core(&self, may_abandon: bool) -> Result<LaneCore, Error> {
        let shared = &self.shared;
        let limits = &shared.limits;
        let invalid = |field: &str, problem: &str| Err(Error::Invalid(Invalid::new(field, problem)));
        if self.name.is_empty() {
            return invalid("batch", "a batch needs a name: it is its identity");
        }
        if !(1..=u32::from(u16::MAX)).contains(&self.weight) {
            return invalid("weight", "must be 1 to 65535");
        }
        for (field, value) in [
            ("item_timeout", self.item_timeout),
            ("hang_after", self.hang_after),
            ("deadline", self.deadline),
        ] {
            if value == Some(Duration::ZERO) {
                return invalid(field, "zero would end everything at once: leave it out for no limit");
            }
        }
        if self.concurrency == Some(0) {
            return invalid("concurrency", "must be at least 1: pause the batch to stop it");
        }
        if self.result_window == 0 {
            return invalid("result_window", "must be at least 1");
        }
        if self.capacity == 0 {
            return invalid("capacity", "must be at least 1");
        }
        self.retry.validate()?;
        if let Some(halt) = &self.halt {
            halt.validate()?;
        }
        let gate = LaneGate::new(self.demand()?, self.limiters()?);
        let spec = LaneSpec {
            retry: self.retry,
            item_timeout: self.item_timeout,
            grace: self.grace,
            hang_after: self.hang_after,
            halt: self.halt,
            may_abandon,
            in_journal: may_abandon && shared.has_journal(),
            max_abandoned: self.max_abandoned,
        };
        let own = self.concurrency.map_or(LaneTunables::UNCAPPED, |n| u32::try_from(n).unwrap_or(u32::MAX));
        let tunables = LaneTunables {
            cap: own.min(limits.batch_cap),
            weight: self.weight as u16,
            class: self.priority.class() as u8,
            flags: if limits.total_cap { LaneTunables::TOTAL_CAP } else { 0 },
        };
        let now = shared.clock.now();
        let deadline = self.deadline.map(|limit| now + limit);
        Ok(LaneCore::new(self.name.clone(), spec, Tunables::new(tunables), gate, deadline, now))
    }

    fn demand(&self) -> Result<Demand, Error> {
        let gate = &self.shared.gate;
        let mut demand = Demand::new();
        for (kind, units) in &self.needs {
            let Some((index, limit)) = gate.kind(kind) else {
                if !self.shared.limits.throttling {
                    continue;
                }
                let known: Vec<String> = gate.kinds().map(ToString::to_string).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Error::UnknownQuota { kind: kind.to_string(), known });
            };
            if *units == 0 {
                return Err(Invalid::new("needs", format!("0 units of {kind} are none: leave it out")).into());
            }
            demand = demand.with(index, *units);
            // The same kind may be asked for more than once.
            let asked = demand.parts().find(|(there, _)| *there == index).map_or(0, |(_, asked)| asked);
            if asked > limit {
                return Err(Error::NeverFits { kind: kind.to_string(), asked, limit });
            }
        }
        // Two more kinds are the caps of the lane and of the engine.
        if demand.len() + 2 > MAX_PARTS {
            let problem = format!("an item can need {} kinds of resource at most", MAX_PARTS - 2);
            return Err(Invalid::new("needs", problem).into());
        }
        Ok(demand)
    }

    fn limiters(&self) -> Result<Vec<RateLimiter>, Error> {
        let gate = &self.shared.gate;
        let mut limiters = Vec::new();
        for name in &self.rates {
            match gate.rate(name) {
                Some(limiter) => limiters.push(limiter.clone()),
                None if !self.shared.limits.rate_limiting => {}
                None => {
                    let known: Vec<&str> = gate.rate_names().collect();
                    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                    return Err(Error::UnknownRate { name: name.clone(), known });
                }
            }
        }
        Ok(limiters)
    }
}
