//! Bugs of our own, planted: work whose parts panic where the engine calls them, outside of the user's closure. An item
//! each is lost to it, the lane goes on to its end, and the engine is whole.

use super::*;
use crate::core::waitlist::Demand;
use crate::engine::body::Body;
use crate::engine::work::{Ended, Work};
use crate::job::{AttemptKind, Key};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicUsize};
use crate::sync::thread::ThreadId;
use crate::time::{millis, secs};
use std::any::Any;
use std::collections::BTreeSet;
use std::ops::Range;

const ITEMS: usize = 2000;
const INTERNAL: &str = "internal error of batchyard";

/// Where the bug is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bug {
    /// Before the attempt, and whenever the item is asked for its number.
    Seq,
    /// When its outcome is kept.
    Keep,
    /// While more is fetched, with an entry in hand and nothing of it begun.
    Claim,
    /// With nothing in hand: between two items where outcomes are published early, else at the end of the chunk.
    Publish,
    /// When an item that has ended brings its batch to a halt.
    Halt,
    /// In the supervisor, while it takes the rest of a chunk back.
    TakeBack,
}

/// Items are their positions. `REFILLED`: as of a batch; otherwise as of `map`.
struct Broken<const REFILLED: bool> {
    bug: Bug,
    /// The bugs strike once each at a place, but that in `Seq` always.
    struck: Mutex<BTreeSet<u64>>,
    armed: Arc<AtomicBool>,
    /// The worker of an item that takes long enough for what is done to be published after it.
    slow: Mutex<Option<ThreadId>>,
    cursor: AtomicUsize,
    kept: Arc<Mutex<Vec<Option<Result<u64, Dead>>>>>,
}

impl<const REFILLED: bool> Broken<REFILLED> {
    fn strike(&self, here: Bug, at: u64) {
        if here == self.bug && self.armed.load(Ordering::Relaxed) {
            let first = self.struck.lock().insert(at);
            assert!(!first && here != Bug::Seq, "planted: {here:?} at {at}");
        }
    }
}

fn is_ill(item: u64) -> bool {
    item % 500 == 7
}

impl<const REFILLED: bool> Work for Broken<REFILLED> {
    type Chunk = u64;
    type Out = u64;
    const REFILLED: bool = REFILLED;

    fn claim(&self, max: usize) -> Option<(u64, u32, bool)> {
        if self.cursor.load(Ordering::Relaxed) > ITEMS / 2 {
            self.strike(Bug::Claim, 0);
        }
        let from = self.cursor.fetch_add(max, Ordering::Relaxed);
        let to = (from + max).min(ITEMS);
        (from < to).then(|| (from as u64, (to - from) as u32, to < ITEMS))
    }

    fn unclaimed(&self) -> usize {
        ITEMS.saturating_sub(self.cursor.load(Ordering::Relaxed))
    }

    fn call(&self, from: &u64, at: u32, ctx: &Context) -> Result<u64, Failure> {
        let item = from + u64::from(at);
        if item == 1007 && self.bug == Bug::Publish {
            *self.slow.lock() = Some(thread::current().id());
            ctx.sleep(millis(3))?;
        }
        if self.bug == Bug::TakeBack && matches!(item, 1007 | 1500) {
            // One is held up until the supervisor has come; the other one needs it after that.
            while self.struck.lock().is_empty() {
                ctx.sleep(millis(1))?;
            }
            if item == 1500 && ctx.attempt() == 1 {
                return Err(Failure::retry("once more"));
            }
        }
        if item % 17 == 5 { Err(Failure::fatal("its own")) } else { Ok(item) }
    }

    fn seq(&self, from: &u64, at: u32) -> u64 {
        let item = from + u64::from(at);
        if is_ill(item) {
            self.strike(Bug::Seq, item);
        }
        item
    }

    fn key(&self, _from: &u64, _at: u32) -> Option<Key> {
        None
    }

    fn queued(&self, _from: &u64, _at: u32) -> Option<Timestamp> {
        None
    }

    fn keep(&self, _seat: usize, from: &u64, at: u32, outcome: Result<u64, Dead>, _ended: Ended) {
        let item = from + u64::from(at);
        if is_ill(item) {
            self.strike(Bug::Keep, item);
        }
        let was = self.kept.lock()[item as usize].replace(outcome);
        assert!(was.is_none(), "item {item} has ended twice");
    }

    fn publish(&self, _seat: usize) {
        if *self.slow.lock() == Some(thread::current().id()) {
            self.strike(Bug::Publish, 0);
        }
        if thread::current().name() == Some("batchyard-supervisor") {
            self.strike(Bug::TakeBack, 0);
        }
    }

    fn drop_unclaimed(&self, _reason: &Ending) -> (usize, Box<dyn Any + Send>) {
        self.strike(Bug::Halt, 0);
        (ITEMS - self.cursor.swap(ITEMS, Ordering::Relaxed).min(ITEMS), Box::new(()))
    }

    fn cancelled(&self, _from: &u64, _range: Range<u32>, _reason: &Ending) {}

    fn ended(&self, _report: &Report) {}
}

/// Runs all items and looks at everything; the positions of those that ended with an internal error.
fn run<const REFILLED: bool>(bug: Bug) -> Vec<usize> {
    let engine = Engine::builder().workers(3).in_memory().quota("k", 2).open().unwrap();
    let shared = &engine.handle.shared;
    let (kind, _) = shared.gate.kind(&"k".into()).unwrap();
    let retry = Retry::exponential(millis(5)..millis(6)).attempts(2).no_budget();
    let mut core = plain_core(shared, "broken", retry);
    core.spec.may_abandon = REFILLED;
    core.spec.halt = (bug == Bug::Halt).then(|| "soon,fail=30".parse().unwrap());
    core.gate = LaneGate::new(Demand::of(kind, 1), Vec::new());
    let kept = Arc::new(Mutex::new((0..ITEMS).map(|_| None).collect()));
    let armed = Arc::new(AtomicBool::new(false));
    let work = Broken::<REFILLED> {
        bug,
        struck: Mutex::new(BTreeSet::new()),
        armed: Arc::clone(&armed),
        slow: Mutex::new(None),
        cursor: AtomicUsize::new(0),
        kept: Arc::clone(&kept),
    };
    let shell = Shell::owned(core, Box::new(Body::new(work, shared.limits.workers)));
    shell.core.counts.open.add(ITEMS as u64);
    shell.core.counts.submitted.add(ITEMS as u64);
    shell.core.seal();
    shared.place_now(&shell).unwrap();
    armed.store(true, Ordering::Relaxed);
    if REFILLED {
        shell.with(|body| body.refill(shared, &shell));
    } else {
        shared.add(&shell, 1);
    }
    let late = shared.clock.now() + secs(60);
    let ended = shared.ended.wait(&shared.clock, Some(late), || shell.core.report());
    let report = ended.unwrap_or_else(|| panic!("{bug:?}: the lane does not end: {:?}", shell.core.counts));

    let kept = kept.lock();
    let ends = || kept.iter().enumerate().filter_map(|(i, end)| Some((i, end.as_ref()?)));
    let dead: Vec<_> = ends().filter_map(|(i, end)| Some((i, end.as_ref().err()?))).collect();
    assert_eq!(report.failed_items, dead.len() as u64);
    assert_eq!(report.completed_items, (ends().count() - dead.len()) as u64);
    assert_eq!(report.cancelled_items, (ITEMS - ends().count()) as u64);
    assert_eq!(report.cancelled_items > 0, bug == Bug::Halt, "{report:?}");
    let internal: Vec<_> = dead
        .into_iter()
        .filter(|(_, dead)| dead.reason() != DeadReason::Fatal)
        .inspect(|(_, dead)| {
            let error = dead.last_error().unwrap();
            assert_eq!((dead.reason(), error.kind), (DeadReason::Panicked, AttemptKind::Panicked));
            assert!(error.message.starts_with(INTERNAL) && error.message.contains("planted"), "{error}");
            assert!(error.place.as_ref().is_some_and(|place| place.contains("broken.rs")), "{error:?}");
        })
        .map(|(i, _)| i)
        .collect();
    // The engine has all its workers and permits, and goes on.
    assert_eq!(engine.in_use(&"k".into()), Some((0, 2)));
    assert!(engine.map(0..500u32, |n, _| Ok(*n)).iter().all(Result::is_ok));
    assert_eq!(engine.stats().in_flight, 0);
    engine.shutdown(secs(60)).unwrap();
    internal
}

const ILL: [usize; 4] = [7, 507, 1007, 1507];

#[test]
fn promise_19_a_bug_before_or_after_an_attempt_ends_the_item_and_no_other() {
    for bug in [Bug::Seq, Bug::Keep] {
        assert_eq!(run::<true>(bug), ILL);
        assert_eq!(run::<false>(bug), ILL);
    }
}

#[test]
fn promise_19_a_bug_while_more_is_fetched_ends_one_item() {
    assert_eq!(run::<true>(Bug::Claim).len(), 1);
}

#[test]
fn promise_19_a_bug_with_nothing_in_hand_ends_no_item_and_loses_no_count() {
    assert_eq!(run::<true>(Bug::Publish).len(), 0);
    assert_eq!(run::<false>(Bug::Publish).len(), 0);
}

#[test]
fn promise_19_a_bug_in_the_end_of_an_item_counts_it_once() {
    assert_eq!(run::<true>(Bug::Halt).len(), 0);
}

#[test]
fn promise_19_a_bug_in_the_supervisor_does_not_end_it() {
    assert_eq!(run::<true>(Bug::TakeBack).len(), 0);
}

#[test]
fn promise_19_a_bug_while_looking_for_work_loses_no_ticket_and_no_worker() {
    let engine = Engine::builder().workers(2).in_memory().quota("k", 1).open().unwrap();
    // More often than there are workers.
    *engine.handle.shared.planted.0.lock() = 5;
    let batch = engine.batch("b").needs("k", 1).submit(0..500u32, |n, _| Ok(*n)).unwrap();
    assert_eq!(batch.wait_by(secs(60)).unwrap().completed_items, 500);
    assert_eq!(*engine.handle.shared.planted.0.lock(), 0);
    assert!(engine.map(0..500u32, |n, _| Ok(*n)).iter().all(Result::is_ok));
    assert_eq!(engine.in_use(&"k".into()), Some((0, 1)));
    engine.shutdown(secs(60)).unwrap();
    assert_eq!(engine.handle.shared.threads(), 0);
}
