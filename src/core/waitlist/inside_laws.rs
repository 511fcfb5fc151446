//! Those who wait inside against the law that they cannot deadlock: workers that run, take more in ascending order of
//! kinds, and serve the grants of lanes, one step at a time. In no state do all workers wait.

use super::*;
use proptest::prelude::*;

const KINDS: usize = 5;

/// What a worker has in hand.
struct Job {
    held: Vec<Demand>,
    waits: Option<(Box<Node>, Demand)>,
}

struct Lane {
    node: Box<Node>,
    demand: Demand,
}

struct Yard {
    list: WaitList,
    limits: [u64; KINDS],
    lanes: Vec<Lane>,
    workers: Vec<Option<Job>>,
}

/// Whose node it is: a lane's number, or a worker's behind them.
const WORKERS: u32 = 100;

fn quiet(_: &Waiter) {}

/// Of the kinds from `least` on, by the bits of `pick`, at least one; never more than there are. `None`: there is none.
fn demand(limits: &[u64; KINDS], least: u16, pick: u32) -> Option<Demand> {
    let kinds = usize::from(least)..KINDS;
    let amount = |kind: usize| 1 + (pick >> 8) % limits[kind] as u32;
    let chosen = kinds.clone().filter(|kind| pick & 1 << kind != 0);
    let some = chosen.fold(Demand::new(), |d, kind| d.with(kind as u16, amount(kind)));
    if !some.is_empty() {
        return Some(some);
    }
    kinds.last().map(|kind| Demand::of(kind as u16, amount(kind).into()))
}

impl Yard {
    fn new(limits: [u64; KINDS], reserve: u64, lanes: Vec<u32>, workers: usize) -> Self {
        let floors = |limit: u64| [reserve.min(limit - 1), reserve.min(limit - 1), 0, 0];
        let kinds = limits.iter().map(|limit| (*limit, floors(*limit)));
        let list = WaitList::with_reserves(kinds, Fairness::default());
        let lane = |pick| Lane {
            node: Box::new(Node::new()),
            demand: demand(&limits, 0, pick).expect("there are kinds"),
        };
        let lanes = lanes.into_iter().map(lane).collect();
        Self { list, limits, lanes, workers: (0..workers).map(|_| None).collect() }
    }

    fn step(&mut self, worker: usize, what: u32) {
        let worker = worker % self.workers.len();
        match &self.workers[worker] {
            None => self.begin(worker, what as usize % self.lanes.len()),
            Some(job) if job.waits.is_some() => {}
            Some(_) if what.is_multiple_of(4) => self.finish(worker),
            Some(_) => self.take_more(worker, what >> 2),
        }
        self.take_up();
        assert!(
            self.workers.iter().any(|job| job.as_ref().is_none_or(|job| job.waits.is_none())),
            "all wait"
        );
    }

    /// A free worker serves a lane's grant, or tries to start an item of it, which may block the lane.
    fn begin(&mut self, worker: usize, lane: usize) {
        let Lane { node, demand } = &self.lanes[lane];
        let runs = match self.list.state(node) {
            NodeState::Granted => self.list.take_grant(node),
            NodeState::Waiting => false,
            _ => {
                self.list.try_take_as(demand, lane, &mut quiet).is_ok() || {
                    let waiter = Waiter::Lane(lane as u32);
                    // SAFETY: boxed, and in `lanes` as long as the list.
                    let got = unsafe { self.list.enqueue(node, *demand, lane, 0, waiter, &mut quiet) };
                    got == Ok(Enqueued::Granted)
                }
            }
        };
        if runs {
            self.workers[worker] = Some(Job { held: vec![*demand], waits: None });
        }
    }

    fn finish(&mut self, worker: usize) {
        for d in self.workers[worker].take().expect("it runs").held {
            self.list.put(&d, 0, &mut quiet);
        }
    }

    fn take_more(&mut self, worker: usize, pick: u32) {
        let job = self.workers[worker].as_mut().expect("it runs");
        let above = job.held.iter().flat_map(|d| d.parts()).map(|(kind, _)| kind + 1).max().unwrap_or(0);
        let Some(d) = demand(&self.limits, above, pick) else { return };
        if self.list.try_take_as(&d, worker, &mut quiet).is_ok() {
            job.held.push(d);
            return;
        }
        let node = Box::new(Node::new());
        let (claim, waiter) = (Claim::Inside { class: worker, above }, Waiter::Lane(WORKERS + worker as u32));
        // SAFETY: boxed, and kept in the job until it is granted.
        match unsafe { self.list.enqueue(&node, d, claim, 0, waiter, &mut quiet) } {
            Ok(Enqueued::Granted) => job.held.push(d),
            Ok(Enqueued::Waiting) => {
                job.waits = Some((node, d));
                for (i, lane) in self.lanes.iter().enumerate().filter(|(_, lane)| lane.demand.overlaps(&d)) {
                    // SAFETY: as in `begin`.
                    unsafe { self.list.revoke(&lane.node, Waiter::Lane(i as u32), &mut quiet) };
                }
            }
            // More than its class may have.
            Err(refused) => assert!(matches!(refused, Refused::Never { .. }), "{refused:?}"),
        }
    }

    /// Those who wait inside go on when they are granted; a lane's grant waits for a worker.
    fn take_up(&mut self) {
        for job in self.workers.iter_mut().flatten() {
            if let Some((node, d)) = job.waits.take() {
                match self.list.take_grant(&node) {
                    true => job.held.push(d),
                    false => job.waits = Some((node, d)),
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_do_all_workers_wait(
        limits in prop::array::uniform5(1..4u64),
        reserve in 0..3u64,
        lanes in prop::collection::vec(any::<u32>(), 1..5),
        workers in 1..5usize,
        steps in prop::collection::vec((any::<usize>(), any::<u32>()), 1..200),
    ) {
        let mut yard = Yard::new(limits, reserve, lanes, workers);
        for (worker, what) in steps {
            yard.step(worker, what);
        }
        // All come home.
        for _ in 0..=workers {
            for worker in 0..workers {
                if yard.workers[worker].as_ref().is_some_and(|job| job.waits.is_none()) {
                    yard.finish(worker);
                }
                yard.take_up();
            }
        }
        prop_assert!(yard.workers.iter().all(Option::is_none));
        for lane in &yard.lanes {
            if yard.list.cancel(&lane.node, 0, &mut quiet) == Cancelled::WasGranted {
                yard.list.put(&lane.demand, 0, &mut quiet);
            }
        }
        for kind in 0..KINDS as u16 {
            prop_assert_eq!((yard.list.in_use(kind), yard.list.waiters(kind)), (0, 0));
        }
    }
}
