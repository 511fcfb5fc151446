//! How the models of this folder are run: [`explore`] executes one model in every spawn order and hands back the
//! set of outcomes seen in each, to be compared with the exact expected set.
//!
//! Why so: loom 0.7 may pass while it explores almost nothing (see README.md). A model therefore states all its
//! outcomes, the main thread only spawns and joins, and every order of spawning is tried.

#[cfg(not(any(loom, shuttle)))]
compile_error!("build with --cfg loom (run cargo inside loom-tests/) or --cfg shuttle");
#[cfg(all(loom, shuttle))]
compile_error!("choose one of --cfg loom and --cfg shuttle");

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc as StdArc, Mutex as StdMutex};

#[cfg(loom)]
pub use loom::{sync::Arc, thread};
#[cfg(shuttle)]
pub use shuttle::{sync::Arc, thread};

/// One racing thread of a model: what it does to the shared state, and what it saw.
pub type Body<S, R> = fn(&S) -> R;

/// The outcomes of one spawn order.
#[derive(Debug)]
pub struct Order<T> {
    /// The bodies' indices in the order they were spawned.
    pub order: Vec<usize>,
    pub outcomes: BTreeSet<T>,
    pub executions: u64,
}

/// All spawn orders of a model.
#[derive(Debug)]
pub struct Explored<T>(pub Vec<Order<T>>);

/// Runs the model: `setup` makes the shared state, each of `bodies` runs in a thread of its own, `finish` sees the
/// state and what each body returned (by index, whatever the spawn order) and makes the outcome. `finish` may
/// assert. More than three bodies are explored with a preemption bound of 3, as LOOM_MAX_PREEMPTIONS does.
pub fn explore<S, R, T>(
    setup: impl Fn() -> S + Send + Sync + 'static,
    bodies: &[Body<S, R>],
    finish: impl Fn(&S, Vec<R>) -> T + Send + Sync + 'static,
) -> Explored<T>
where
    S: Send + Sync + 'static,
    R: Send + 'static,
    T: Ord + Debug + Send + 'static,
{
    assert!(bodies.len() <= 4, "loom runs main and four threads");
    let setup = StdArc::new(setup);
    let finish = StdArc::new(finish);
    let mut explored = Vec::new();
    for order in permutations(bodies.len()) {
        let seen = StdArc::new(StdMutex::new((BTreeSet::new(), 0u64)));
        let model = {
            let (setup, finish, seen) = (setup.clone(), finish.clone(), seen.clone());
            let bodies: Vec<Body<S, R>> = bodies.to_vec();
            let order = order.clone();
            move || {
                let state = Arc::new(setup());
                let mut handles: Vec<_> = bodies.iter().map(|_| None).collect();
                for &i in &order {
                    let (state, body) = (state.clone(), bodies[i]);
                    handles[i] = Some(thread::spawn(move || body(&state)));
                }
                let results =
                    handles.into_iter().map(|h| h.expect("spawned").join().expect("no panic")).collect();
                let outcome = finish(&state, results);
                let mut seen = seen.lock().unwrap();
                seen.0.insert(outcome);
                seen.1 += 1;
            }
        };
        run(model, bodies.len());
        let mut seen = seen.lock().unwrap();
        explored.push(Order { order, outcomes: std::mem::take(&mut seen.0), executions: seen.1 });
    }
    Explored(explored)
}

#[cfg(loom)]
fn run(model: impl Fn() + Send + Sync + 'static, threads: usize) {
    let mut builder = loom::model::Builder::new();
    if builder.preemption_bound.is_none() && threads > 3 {
        builder.preemption_bound = Some(3);
    }
    builder.check(model);
}

#[cfg(shuttle)]
fn run(model: impl Fn() + Send + Sync + 'static, _threads: usize) {
    let model = StdArc::new(model);
    let random = model.clone();
    shuttle::check_random(move || random(), 2_000);
    shuttle::check_pct(move || model(), 2_000, 3);
}

impl<T: Ord + Debug + Clone> Explored<T> {
    /// Asserts that every spawn order saw exactly these outcomes. (Shuttle samples: there each outcome seen must
    /// be among them, and the orders together must have seen something.)
    pub fn exactly(&self, expected: impl IntoIterator<Item = T>) {
        let expected: BTreeSet<T> = expected.into_iter().collect();
        for order in &self.0 {
            #[cfg(loom)]
            assert_eq!(order.outcomes, expected, "spawn order {:?}", order.order);
            #[cfg(shuttle)]
            assert!(
                !order.outcomes.is_empty() && order.outcomes.is_subset(&expected),
                "spawn order {:?}: {:?} is not within {expected:?}",
                order.order,
                order.outcomes
            );
            println!("spawn order {:?}: {} executions", order.order, order.executions);
        }
    }
}

fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![vec![]];
    }
    let mut all = Vec::new();
    for shorter in permutations(n - 1) {
        for at in 0..=shorter.len() {
            let mut longer = shorter.clone();
            longer.insert(at, n - 1);
            all.push(longer);
        }
    }
    all
}
