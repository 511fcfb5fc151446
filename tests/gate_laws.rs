//! Random programs at the gate: more lanes than permits, more workers than permits, demands that overlap. Whatever is
//! done to them, every program ends, every item ends once, no limit is passed, every permit comes back and no lane
//! starves. `BATCHYARD_SEED=n` runs one program again.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

mod support;

use batchyard::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Instant;
use support::*;

/// What may be held at once and what is, counted by the items themselves.
struct Limited {
    name: String,
    limit: u64,
    inside: AtomicU64,
}

/// What a lane's items hold: how much of which.
type Held = Vec<(Arc<Limited>, u64)>;

/// Limits that were passed.
type Passed = Arc<Mutex<Vec<String>>>;

fn limited(name: impl Into<String>, limit: u64) -> Arc<Limited> {
    Arc::new(Limited { name: name.into(), limit, inside: AtomicU64::new(0) })
}

/// An item inside: counted out again however it ends.
struct Inside<'a>(&'a Held);

impl<'a> Inside<'a> {
    fn enter(held: &'a Held, passed: &Passed) -> Self {
        for (what, units) in held {
            let inside = what.inside.fetch_add(*units, Ordering::SeqCst) + units;
            if inside > what.limit {
                passed.lock().unwrap().push(format!("{inside} of {}, limit {}", what.name, what.limit));
            }
        }
        Inside(held)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        for (what, units) in self.0 {
            what.inside.fetch_sub(*units, Ordering::SeqCst);
        }
    }
}

/// One to three kinds with few permits, for more workers than the scarcest of them has.
struct Yard {
    engine: Engine,
    /// Each with its limit.
    kinds: Held,
    /// At most one item may be in hand in the whole engine.
    alone: Option<Arc<Limited>>,
    /// Opened when an item of the batch of this name was abandoned.
    doors: Arc<Mutex<HashMap<String, Door>>>,
    passed: Passed,
}

impl Yard {
    fn new(rng: &mut Rng, places: usize) -> Self {
        let kinds: Held = (0..1 + rng.below(3))
            .map(|k| {
                let limit = 1 + rng.below(3);
                (limited(format!("kind{k}"), limit), limit)
            })
            .collect();
        // A cap on the engine's items is one below the number of workers, and a fixed number of those above it is refused.
        let alone = rng.one_in(5).then(|| limited("the engine's cap", 1));
        let mut builder =
            Engine::builder().max_concurrent_batches(places).rate("fast", Rate::per_second(20_000).burst(3));
        builder = builder.rate("slow", Rate::per_second(5_000));
        builder = if alone.is_some() {
            builder.max_total_concurrent_items(1)
        } else {
            builder.workers(4 + rng.below(5) as usize)
        };
        for (kind, limit) in &kinds {
            builder = builder.quota(kind.name.as_str(), *limit as usize);
        }
        let doors = Arc::new(Mutex::new(HashMap::<String, Door>::new()));
        let there = doors.clone();
        let listener = move |event: &Event<'_>| {
            if let Event::ItemAbandoned { batch, .. } = event
                && let Some(door) = there.lock().unwrap().get(*batch)
            {
                door.open();
            }
        };
        let engine = builder.in_memory().on_event(listener).open().unwrap();
        Yard { engine, kinds, alone, doors, passed: Passed::default() }
    }

    /// A demand over some of the kinds.
    fn draw(&self, rng: &mut Rng) -> Held {
        let mut held = Held::new();
        for (kind, limit) in &self.kinds {
            if rng.one_in(2) {
                held.push((kind.clone(), 1 + rng.below(*limit)));
            }
        }
        if held.is_empty() {
            held.push((self.kinds[0].0.clone(), 1));
        }
        held
    }

    fn check(&self) {
        for (kind, limit) in &self.kinds {
            let (used, of) = self.engine.in_use(&kind.name.as_str().into()).unwrap();
            assert!(used <= *limit && of == *limit, "{used} of {}, limit {of}", kind.name);
        }
        let passed = self.passed.lock().unwrap();
        assert!(passed.is_empty(), "{passed:?}");
    }

    /// Nothing runs any more: all is back, and can be had again.
    fn rest(&self) {
        at_rest(&self.engine);
        self.check();
        for (kind, _) in &self.kinds {
            until("all permits are back", || self.engine.in_use(&kind.name.as_str().into()).unwrap().0 == 0);
        }
        let all = needing(self.engine.batch("last"), &self.kinds);
        let last = all.submit(0..20u32, |n, _| Ok(*n)).unwrap();
        assert_eq!(report(&last).completed_items, 20);
        self.engine.shutdown(secs(60)).unwrap();
    }
}

fn needing(batch: BatchBuilder, held: &Held) -> BatchBuilder {
    held.iter().fold(batch, |batch, (kind, units)| batch.needs(kind.name.as_str(), *units as u32))
}

/// What was done to a lane, and so what may be expected of it.
struct Lane {
    batch: Batch<u64, u64>,
    /// By item: how often its closure has returned a value.
    returned: Arc<Vec<AtomicU64>>,
    /// An item of it ignores its cancellation.
    stubborn: bool,
    /// Its cap stays what it was.
    capped: bool,
    stopped: bool,
}

fn lane(yard: &Yard, rng: &mut Rng, n: u64) -> Lane {
    let name = format!("lane{n}");
    let items = 20 + rng.below(120);
    let returned: Arc<Vec<AtomicU64>> = Arc::new((0..items).map(|_| AtomicU64::new(0)).collect());
    let mut held = yard.draw(rng);
    let mut builder = needing(yard.engine.batch(&name), &held)
        .priority(priority(rng))
        .weight(1 + rng.below(4) as u32)
        .retry(Retry::fixed(std::time::Duration::ZERO).attempts(3).no_budget());
    let capped = rng.one_in(3);
    if capped {
        let cap = 1 + rng.below(3);
        held.push((limited(format!("the cap of {name}"), cap), 1));
        builder = builder.concurrency(cap as usize);
    }
    held.extend(yard.alone.iter().map(|cap| (cap.clone(), 1)));
    match rng.below(6) {
        0 => builder = builder.paced_by("fast"),
        1 => builder = builder.paced_by("slow"),
        2 => builder = builder.paced_by("fast").paced_by("slow"),
        _ => {}
    }
    let stubborn = yard.alone.is_none() && rng.one_in(6);
    if stubborn {
        builder = builder.item_timeout(millis(2)).grace(millis(1));
    }
    let (temper, passed, counts) = (rng.below(5), yard.passed.clone(), returned.clone());
    let door = yard.doors.lock().unwrap().entry(name).or_default().clone();
    let batch = builder
        .submit(0..items, move |i, ctx| {
            let _inside = Inside::enter(&held, &passed);
            if stubborn && *i == 7 {
                door.pass();
            }
            match (temper, i % 13) {
                (0, 3) if ctx.attempt() < 2 => return Err(Failure::retry("again")),
                (1, 5) => panic!("drawn"),
                (2, 1) => return Err(Failure::skip("not this one")),
                (3, _) => (0..i % 5).for_each(|_| std::thread::yield_now()),
                _ => {}
            }
            counts[*i as usize].fetch_add(1, Ordering::Relaxed);
            Ok(*i)
        })
        .unwrap();
    Lane { batch, returned, stubborn, capped, stopped: false }
}

fn priority(rng: &mut Rng) -> Priority {
    [Priority::Low, Priority::Normal, Priority::High, Priority::Critical][rng.below(4) as usize]
}

fn program(seed: u64) {
    let mut rng = Rng::new(seed);
    let places = if rng.one_in(4) { 3 } else { 60 };
    let yard = Yard::new(&mut rng, places);
    let mut lanes: Vec<Lane> = (0..3 + rng.below(7)).map(|n| lane(&yard, &mut rng, n)).collect();
    for _ in 0..rng.below(120) {
        let at = rng.below(lanes.len() as u64) as usize;
        let lane = &mut lanes[at];
        match rng.below(24) {
            0..=4 => lane.batch.pause(),
            5..=9 => lane.batch.resume(),
            10..=11 => lane.batch.set_priority(priority(&mut rng)),
            12 if !lane.capped => drop(lane.batch.set_concurrency(1 + rng.below(4) as usize)),
            13 if rng.one_in(4) => {
                lane.batch.cancel();
                lane.stopped = true;
            }
            14 if rng.one_in(4) => {
                lane.batch.stop();
                lane.stopped = true;
            }
            15 => {
                yard.engine.pause();
                yard.engine.resume();
            }
            16 => drop(yard.engine.pause_worker(0)),
            17 => drop(yard.engine.resume_worker(0)),
            18 => {
                yard.engine.resume_worker(0);
                let borrowed = [1u64, 2, 3];
                let held = yard.draw(&mut rng);
                let out = needing(yard.engine.batch("map"), &held).map(&borrowed, |n, _| {
                    let _inside = Inside::enter(&held, &yard.passed);
                    Ok(**n)
                });
                assert_eq!(out.unwrap().len(), 3);
            }
            _ => (0..rng.below(40)).for_each(|_| std::thread::yield_now()),
        }
        yard.check();
    }
    yard.engine.resume_worker(0);
    lanes.iter().for_each(|lane| lane.batch.resume());
    // An abandoned item keeps its permits: what needs them all is halted, which is not what is looked at here.
    let calm = lanes.iter().all(|lane| !lane.stubborn);
    for lane in &lanes {
        let mut seen = vec![0; lane.returned.len()];
        let mut good = 0;
        for item in lane.batch.results() {
            let item = item.unwrap();
            seen[item.seq as usize] += 1;
            if item.outcome.is_ok() {
                good += 1;
                assert!(lane.returned[item.seq as usize].load(Ordering::Relaxed) > 0);
            }
        }
        let report = report(&lane.batch);
        let read = seen.iter().sum::<u64>();
        assert!(seen.iter().all(|n| *n <= 1), "an item ended twice: {seen:?}");
        // One that is halted or stopped while it is submitted takes no more.
        assert_eq!(read + report.cancelled_items, report.total_items, "{report:?}");
        assert!(report.total_items <= lane.returned.len() as u64, "{report:?}");
        assert_eq!(good, report.completed_items, "{report:?}");
        if calm && !lane.stopped {
            assert_eq!(report.cancelled_items, 0, "{report:?}");
            assert_eq!(report.total_items, lane.returned.len() as u64, "{report:?}");
        }
        if !lane.stubborn {
            // Whose item returned a value has it as its result; without a late one there is no other.
            let returned: u64 = lane.returned.iter().map(|n| n.load(Ordering::Relaxed)).sum();
            assert_eq!(good, returned, "{report:?}");
        }
    }
    yard.rest();
}

/// Lanes of one class, each with as much work as it can take until the slowest has run its share: a lane that starves
/// while others run is never the last to get there.
fn supply(seed: u64) {
    const SHARE: u64 = 60;
    let mut rng = Rng::new(seed);
    let yard = Yard::new(&mut rng, 60);
    let lanes: Vec<_> = (0..4 + rng.below(5))
        .map(|n| {
            let ran = Arc::new(AtomicU64::new(0));
            let held = yard.draw(&mut rng);
            let mut builder = needing(yard.engine.batch(format!("lane{n}")), &held).result_window(1 << 30);
            if rng.one_in(4) {
                builder = builder.paced_by("fast");
            }
            let (count, passed, yields) = (ran.clone(), yard.passed.clone(), rng.below(3));
            let batch = builder.open(move |_: &u64, _| {
                let _inside = Inside::enter(&held, &passed);
                (0..yields).for_each(|_| std::thread::yield_now());
                count.fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
            (batch.unwrap(), ran)
        })
        .collect();
    let mut pushed = vec![0; lanes.len()];
    while lanes.iter().any(|(_, ran)| ran.load(Ordering::Relaxed) < SHARE) {
        for ((batch, _), pushed) in lanes.iter().zip(&mut pushed) {
            // A bounded number: a lane that is served as fast as it is filled must not keep the others from their work.
            let most = *pushed + 64;
            while *pushed < most && batch.try_push(*pushed).is_ok() {
                *pushed += 1;
            }
        }
        std::thread::yield_now();
    }
    lanes.iter().for_each(|(batch, _)| batch.seal());
    for ((batch, ran), pushed) in lanes.iter().zip(pushed) {
        assert_eq!(report(batch).completed_items, pushed);
        assert_eq!(ran.load(Ordering::Relaxed), pushed);
    }
    yard.rest();
}

/// Runs programs for so long, and at least a few; or the one that is asked for.
fn programs(name: &'static str, run: fn(u64)) {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&"drawn") {
                before(info);
            }
        }));
    });
    if let Some(seed) = std::env::var("BATCHYARD_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return within(move || run(seed));
    }
    let began = Instant::now();
    let mut seed = 1;
    while began.elapsed() < secs(4) || seed <= 8 {
        eprintln!("{name}: BATCHYARD_SEED={seed}");
        within(move || run(seed));
        seed += 1;
    }
}

/// Promises 8, 10, 11, 19 and 23 at the gate.
#[test]
fn promise_10_random_programs_at_the_gate_end_and_all_permits_come_back() {
    programs("program", program);
}

#[test]
fn promise_09_no_lane_starves_at_the_gate() {
    programs("supply", supply);
}
