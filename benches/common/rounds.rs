//! Paired rounds: what is compared runs in one process, in turn, so that what the machine does meets all alike.
//!
//! A *contest* sets our code against its peers in one case at one number of threads. A *round* holds every contest of
//! the group once; in a contest the candidates take turns in short passes, and a candidate's cost in the round is
//! the median of its passes. The contest and the candidate that start rotate. The first round warms up and is
//! dropped. A row is the median of the rounds' ratios with the lowest and the highest beside it.

use super::probe::core_to_core;
use super::row::{ABSOLUTE, Row, median, short};
use super::team::drive;
use std::time::Duration;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    pub(crate) warm_up: usize,
    pub(crate) passes: usize,
    /// How long one pass of an operation lasts.
    pub(crate) slice: Duration,
    /// Only look whether everything works.
    pub(crate) test: bool,
}

impl Plan {
    pub(crate) const MEASURE: Plan =
        Plan { rounds: 11, warm_up: 1, passes: 5, slice: Duration::from_millis(3), test: false };
    pub(crate) const TEST: Plan =
        Plan { rounds: 1, warm_up: 0, passes: 1, slice: Duration::from_micros(200), test: true };

    /// `full` when measuring, `tiny` when only testing.
    pub(crate) fn size(&self, full: usize, tiny: usize) -> usize {
        if self.test { tiny } else { full }
    }
}

/// One pass: its cost, in nanoseconds per operation or in the unit of its bound; NaN when it went wrong.
type Pass<'a> = Box<dyn FnMut(&Plan) -> f64 + 'a>;

/// A candidate whose cost is [driven](drive) from `make`'s operations.
pub(crate) fn operation<'a, O: FnMut() -> bool>(
    threads: usize,
    make: impl Fn() -> O + Sync + 'a,
) -> impl FnMut(&Plan) -> f64 + 'a {
    move |plan| drive(threads, plan.slice, &make)
}

/// Our code against peers, or against a bound.
pub(crate) struct Contest<'a> {
    case: String,
    threads: usize,
    target: f64,
    passes: Option<usize>,
    unit: &'static str,
    candidates: Vec<Candidate<'a>>,
    bound: Option<f64>,
}

struct Candidate<'a> {
    name: &'static str,
    pass: Pass<'a>,
    /// One cost a round.
    costs: Vec<f64>,
}

impl<'a> Contest<'a> {
    pub(crate) fn new(
        case: impl Into<String>,
        threads: usize,
        target: f64,
        ours: impl FnMut(&Plan) -> f64 + 'a,
    ) -> Self {
        let mut contest = Contest {
            case: case.into(),
            threads,
            target,
            passes: None,
            unit: "ns",
            candidates: Vec::new(),
            bound: None,
        };
        contest.enter("ours", ours);
        contest
    }

    /// Ours against a fixed bound, in the cost's own unit; the target is 1.
    pub(crate) fn bounded(
        case: impl Into<String>,
        threads: usize,
        bound: f64,
        unit: &'static str,
        ours: impl FnMut(&Plan) -> f64 + 'a,
    ) -> Self {
        let mut contest = Self::new(case, threads, 1.0, ours);
        contest.bound = Some(bound);
        contest.unit = unit;
        contest
    }

    /// Adds a peer. Of several, the row takes the one with the lowest median cost.
    pub(crate) fn against(mut self, peer: &'static str, pass: impl FnMut(&Plan) -> f64 + 'a) -> Self {
        self.enter(peer, pass);
        self
    }

    /// How often each candidate runs in a round, where a pass is long.
    pub(crate) fn passes(mut self, passes: usize) -> Self {
        self.passes = Some(passes);
        self
    }

    fn enter(&mut self, name: &'static str, pass: impl FnMut(&Plan) -> f64 + 'a) {
        self.candidates.push(Candidate { name, pass: Box::new(pass), costs: Vec::new() });
    }

    fn round(&mut self, plan: &Plan, round: usize) {
        let passes = if plan.test { 1 } else { self.passes.unwrap_or(plan.passes) };
        let field = self.candidates.len();
        let mut costs = vec![Vec::with_capacity(passes); field];
        for pass in 0..passes {
            for turn in 0..field {
                let who = (round + pass + turn) % field;
                let cost = (self.candidates[who].pass)(plan);
                assert!(
                    cost.is_finite(),
                    "{}, {} threads: {} did not do as expected while it was timed",
                    self.case,
                    self.threads,
                    self.candidates[who].name
                );
                costs[who].push(cost);
            }
        }
        if round >= plan.warm_up {
            for (candidate, costs) in self.candidates.iter_mut().zip(&costs) {
                candidate.costs.push(median(costs));
            }
        }
    }

    fn row(&self, group: &str) -> Row {
        let ours = &self.candidates[0];
        let (peer, ratios): (_, Vec<f64>) = match self.bound {
            Some(bound) => (ABSOLUTE, ours.costs.iter().map(|c| c / bound).collect()),
            None => {
                let best = self.candidates[1..]
                    .iter()
                    .min_by(|a, b| median(&a.costs).total_cmp(&median(&b.costs)))
                    .expect("a contest has a peer or a bound");
                (best.name, ours.costs.iter().zip(&best.costs).map(|(o, p)| o / p).collect())
            }
        };
        Row::of_rounds((group, &self.case, self.threads), peer, &ratios, self.target)
    }

    fn report(&self) {
        let costs: Vec<String> = self
            .candidates
            .iter()
            .map(|c| format!("{} {} {}", c.name, spread(&c.costs), self.unit))
            .collect();
        let bound = self.bound.map(|b| format!("; bound {} {}", short(b), self.unit)).unwrap_or_default();
        let threads = if self.threads == 1 { "1 thread".into() } else { format!("{} threads", self.threads) };
        eprintln!("  {}, {threads}: {}{bound}", self.case, costs.join("; "));
    }
}

fn spread(costs: &[f64]) -> String {
    let low = costs.iter().copied().fold(f64::INFINITY, f64::min);
    let high = costs.iter().copied().fold(0.0, f64::max);
    format!("{} ({} to {})", short(median(costs)), short(low), short(high))
}

/// Holds the rounds and gives each contest's row.
pub(crate) fn hold(group: &str, plan: &Plan, mut contests: Vec<Contest<'_>>) -> Vec<Row> {
    let mut probes = Vec::new();
    for round in 0..plan.warm_up + plan.rounds {
        if !plan.test {
            probes.push(core_to_core().map_or_else(|| "one core".into(), |ns| ns.to_string()));
        }
        for turn in 0..contests.len() {
            let first = (round + turn) % contests.len();
            contests[first].round(plan, round);
        }
    }
    if plan.test {
        eprintln!("{group}: works");
    } else {
        eprintln!(
            "{group}: {} rounds; core to core at their starts, ns one way: {}",
            plan.rounds,
            probes.join(" ")
        );
        contests.iter().for_each(Contest::report);
    }
    contests.iter().map(|c| c.row(group)).collect()
}
