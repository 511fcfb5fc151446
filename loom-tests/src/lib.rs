//! How the models of this folder are run: [`explore`] executes one model in every spawn order and hands back the
//! set of outcomes seen in each, to be compared with the exact expected set.
//!
//! Why so: loom 0.7 may pass while it explores almost nothing (see README.md). A model therefore states all its
//! outcomes, the main thread only spawns and joins, and every order of spawning is tried.

#[cfg(not(any(loom, shuttle)))]
compile_error!("build with --cfg loom (run cargo inside loom-tests/) or --cfg shuttle");
#[cfg(all(loom, shuttle))]
compile_error!("choose one of --cfg loom and --cfg shuttle");

#[cfg(all(loom, target_os = "linux", target_pointer_width = "64"))]
mod stacks;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc as StdArc, Mutex as StdMutex};
use std::time::{Duration, Instant};

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
pub struct Explored<T>(pub Vec<Order<T>>, Duration);

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
    explore_bounded(if bodies.len() > 3 { Some(3) } else { None }, setup, bodies, finish)
}

/// [`explore`] with a bound of one's own on the preemptions (switches away from a thread that could go on) of an
/// execution: for models too large to be explored whole. LOOM_MAX_PREEMPTIONS overrides it.
pub fn explore_bounded<S, R, T>(
    preemptions: Option<usize>,
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
    let begun = Instant::now();
    for order in permutations(bodies.len()) {
        let seen = StdArc::new(StdMutex::new((BTreeSet::new(), 0u64)));
        let model = {
            let (setup, finish, seen) = (setup.clone(), finish.clone(), seen.clone());
            let bodies: Vec<Body<S, R>> = bodies.to_vec();
            let order = order.clone();
            move || {
                // Not loom's Arc: its counting would multiply the executions, and joining orders all there is.
                let state = StdArc::new(setup());
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
        run(model, preemptions);
        let mut seen = seen.lock().unwrap();
        explored.push(Order { order, outcomes: std::mem::take(&mut seen.0), executions: seen.1 });
    }
    Explored(explored, begun.elapsed())
}

#[cfg(loom)]
fn run(model: impl Fn() + Send + Sync + 'static, preemptions: Option<usize>) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(preemptions);
    builder.check(model);
}

#[cfg(shuttle)]
fn run(model: impl Fn() + Send + Sync + 'static, _preemptions: Option<usize>) {
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
        self.none_but(&expected);
        #[cfg(loom)]
        for order in &self.0 {
            assert_eq!(order.outcomes, expected, "spawn order {:?}", order.order);
        }
    }

    /// Asserts that the spawn orders together saw exactly these outcomes: for models in which loom's hole hides
    /// some of them from one order (see README.md), but not from all.
    pub fn exactly_together(&self, expected: impl IntoIterator<Item = T>) {
        let expected: BTreeSet<T> = expected.into_iter().collect();
        self.none_but(&expected);
        #[cfg(loom)]
        {
            let seen: BTreeSet<T> = self.0.iter().flat_map(|order| &order.outcomes).cloned().collect();
            assert_eq!(seen, expected, "all spawn orders together");
        }
    }

    fn none_but(&self, expected: &BTreeSet<T>) {
        for order in &self.0 {
            println!("spawn order {:?}: {} executions", order.order, order.executions);
            assert!(
                !order.outcomes.is_empty() && order.outcomes.is_subset(expected),
                "spawn order {:?}: {:?} is not within {expected:?}",
                order.order,
                order.outcomes
            );
        }
        let total: u64 = self.0.iter().map(|order| order.executions).sum();
        println!("{} spawn orders, {total} executions, {:.1} s", self.0.len(), self.1.as_secs_f64());
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

/// What a lock or a permit protects: loom sees an access that is not ordered after a conflicting one.
#[cfg(loom)]
pub struct Guarded(loom::cell::UnsafeCell<u32>);
/// What a lock or a permit protects.
#[cfg(shuttle)]
pub struct Guarded(std::sync::atomic::AtomicU32);

// SAFETY: loom itself watches the accesses.
#[cfg(loom)]
unsafe impl Sync for Guarded {}

impl Default for Guarded {
    fn default() -> Self {
        Self::new()
    }
}

impl Guarded {
    pub fn new() -> Self {
        #[cfg(loom)]
        return Self(loom::cell::UnsafeCell::new(0));
        #[cfg(shuttle)]
        return Self(0.into());
    }

    /// Writes.
    pub fn touch(&self) {
        // SAFETY: where loom does not object nobody else accesses it.
        #[cfg(loom)]
        self.0.with_mut(|v| unsafe { *v += 1 });
        #[cfg(shuttle)]
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// Reads.
    pub fn look(&self) {
        // SAFETY: where loom does not object nobody writes it.
        #[cfg(loom)]
        self.0.with(|v| unsafe { std::ptr::read(v) });
        #[cfg(shuttle)]
        self.0.load(std::sync::atomic::Ordering::Relaxed);
    }
}
