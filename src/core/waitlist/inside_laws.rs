//! Those who wait inside against the law that they cannot deadlock: workers that run, take more in ascending order of
//! kinds, and serve the grants of lanes, one step at a time; beside them outsiders who take and give back one by one,
//! and limits that change. In no state do all workers wait while nobody outside holds anything.

use super::*;
use crate::core::permits::Floors;
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
    /// What outsiders hold.
    outside: [u64; KINDS],
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
        Self { list, limits, lanes, workers: (0..workers).map(|_| None).collect(), outside: [0; KINDS] }
    }

    fn step(&mut self, who: usize, what: u32) {
        let worker = who % self.workers.len();
        match &self.workers[worker] {
            _ if who & 1 << 20 != 0 => self.outsider(who >> 21, what),
            None => self.begin(worker, what as usize % self.lanes.len()),
            Some(job) if job.waits.is_some() => {}
            Some(_) if what.is_multiple_of(4) => self.finish(worker),
            Some(_) => self.take_more(worker, what >> 2),
        }
        self.take_up();
        let waits = |job: &Option<Job>| job.as_ref().is_some_and(|job| job.waits.is_some());
        assert!(self.outside != [0; KINDS] || !self.workers.iter().all(waits), "all wait");
    }

    fn outsider(&mut self, what: usize, pick: u32) {
        let k = pick as usize % KINDS;
        let (kind, n) = (k as u16, u64::from(pick >> 8) % self.limits[k] + 1);
        match what % 4 {
            0 => self.list.set_limit(kind, n, 0, &mut quiet),
            // Whoever they are: what matters is that they hold it.
            1 if self.list.try_take_as(&Demand::of(kind, n), what >> 2, &mut quiet).is_ok() => {
                self.outside[k] += n;
            }
            _ => self.give_one_back(k),
        }
    }

    fn give_one_back(&mut self, k: usize) {
        if self.outside[k] > 0 {
            self.outside[k] -= 1;
            self.list.put(&Demand::of(k as u16, 1), 0, &mut quiet);
        }
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

    /// Those who wait inside go on when they are granted or refused; a lane's grant waits for a worker.
    fn take_up(&mut self) {
        for job in self.workers.iter_mut().flatten() {
            if let Some((node, d)) = job.waits.take() {
                match self.list.state(&node) {
                    NodeState::Granted if self.list.take_grant(&node) => job.held.push(d),
                    NodeState::Waiting => job.waits = Some((node, d)),
                    // A limit fell.
                    state => assert_eq!(state, NodeState::Never),
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12_288, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_do_all_workers_wait(
        limits in prop::array::uniform5(1..4u64),
        reserve in 0..3u64,
        lanes in prop::collection::vec(any::<u32>(), 1..5),
        workers in 1..5usize,
        steps in prop::collection::vec((any::<usize>(), any::<u32>()), 1..100),
    ) {
        let mut yard = Yard::new(limits, reserve, lanes, workers);
        for (worker, what) in steps {
            yard.step(worker, what);
        }
        // All come home.
        for k in 0..KINDS {
            while yard.outside[k] > 0 {
                yard.give_one_back(k);
            }
        }
        for _ in 0..=workers {
            for worker in 0..workers {
                yard.take_up();
                if yard.workers[worker].as_ref().is_some_and(|job| job.waits.is_none()) {
                    yard.finish(worker);
                }
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 8192, failure_persistence: None, ..ProptestConfig::default() })]

    /// The last worker waits, lanes wait before and after it, outsiders hold all and give it back one by one while limits
    /// move, but not below what it waits for.
    #[test]
    fn the_last_worker_is_served(
        limits in prop::array::uniform5(1..5u64),
        reserve in 0..3u64,
        picks in prop::array::uniform5(any::<u32>()),
        class in 0..4usize,
        steps in prop::collection::vec((any::<usize>(), any::<u32>()), 1..60),
    ) {
        let mut yard = Yard::new(limits, reserve, picks[1..].to_vec(), 1);
        let wanted = demand(&limits, 0, picks[0]).expect("there are kinds");
        let queue = |yard: &Yard, lane: usize| {
            let Lane { node, demand } = &yard.lanes[lane];
            // SAFETY: boxed, and in `lanes` as long as the list. What is refused is not queued.
            let _ = unsafe { yard.list.enqueue(node, *demand, lane, 0, Waiter::Lane(lane as u32), &mut quiet) };
        };
        for (k, limit) in limits.into_iter().enumerate() {
            yard.list.try_take(&Demand::of(k as u16, limit), &mut quiet).expect("free");
            yard.outside[k] = limit;
        }
        queue(&yard, 0);
        queue(&yard, 3);
        let node = Box::new(Node::new());
        let claim = Claim::Inside { class, above: 0 };
        // SAFETY: boxed, and it does not wait any more at the end, or the test is over.
        let got = unsafe { yard.list.enqueue(&node, wanted, claim, 0, Waiter::Lane(WORKERS), &mut quiet) };
        if got != Ok(Enqueued::Waiting) {
            return Ok(()); // it asks for some of a reserve
        }
        queue(&yard, 1);
        queue(&yard, 2);
        for (what, pick) in steps {
            let k = pick as usize % KINDS;
            if what % 4 == 0 {
                let floor = yard.list.word(k as u16).map_or(0, |word| word.floor(class));
                let least = wanted.amount(k as u16) + floor;
                yard.list.set_limit(k as u16, least.max(1) + u64::from(pick >> 8) % 3, 0, &mut quiet);
            } else {
                yard.give_one_back(k);
            }
        }
        for k in 0..KINDS {
            while yard.outside[k] > 0 {
                yard.give_one_back(k);
            }
        }
        prop_assert_eq!(yard.list.state(&node), NodeState::Granted);
    }
}

/// A list, and nodes to queue in it; the last may drop before the first.
struct Few {
    list: WaitList,
    nodes: [Box<Node>; 3],
}

impl Few {
    fn new(kinds: &[(u64, Floors)]) -> Few {
        let list = WaitList::with_reserves(kinds.iter().copied(), Fairness::default());
        Few { list, nodes: [(); 3].map(|()| Box::new(Node::new())) }
    }

    fn waits(&self, i: usize, d: Demand, claim: impl Into<Claim>) {
        // SAFETY: boxed, and dropped after the list.
        let got =
            unsafe { self.list.enqueue(&self.nodes[i], d, claim, 0, Waiter::Lane(i as u32), &mut quiet) };
        assert_eq!(got, Ok(Enqueued::Waiting), "node {i}");
    }

    fn put(&self, kind: u16, n: u64) {
        self.list.put(&Demand::of(kind, n), 0, &mut quiet);
    }

    fn states(&self) -> [NodeState; 3] {
        [0, 1, 2].map(|i| self.list.state(&self.nodes[i]))
    }
}

const OF_TWO: Floors = [2, 2, 0, 0];
const NONE: Floors = [0; CLASSES];

/// What comes back one by one goes to who waits inside and may not touch the reserve, not to the lane that may.
#[test]
fn a_lane_takes_no_reserve_from_under_who_waits_inside() {
    let few = Few::new(&[(3, OF_TWO)]);
    few.list.try_take(&Demand::of(0, 3), &mut quiet).unwrap();
    few.waits(0, Demand::of(0, 1), 2);
    few.waits(1, Demand::of(0, 1), Claim::Inside { class: 0, above: 0 });
    (0..2).for_each(|_| few.put(0, 1));
    assert_eq!(few.states(), [NodeState::Waiting, NodeState::Waiting, NodeState::Idle]);
    // Then nobody waits inside, and the lane may have of what is left.
    few.put(0, 1);
    assert_eq!(few.states(), [NodeState::Granted, NodeState::Granted, NodeState::Idle]);
}

/// A surplus is one only as long as the limit stands.
#[test]
fn a_lane_takes_no_surplus_that_a_lower_limit_makes_the_need_of_who_waits_inside() {
    let few = Few::new(&[(2, NONE), (1, NONE)]);
    few.list.try_take(&Demand::of(0, 2).with(1, 1), &mut quiet).unwrap();
    few.waits(0, Demand::of(0, 1), 2);
    few.waits(1, Demand::of(0, 1).with(1, 1), Claim::Inside { class: 0, above: 0 });
    few.put(0, 2);
    few.list.set_limit(0, 1, 0, &mut quiet);
    few.put(1, 1);
    assert_eq!(few.states(), [NodeState::Waiting, NodeState::Granted, NodeState::Idle]);
}

/// The last worker looks only for grants of the kinds that it waits for. There are none of the others' kinds, either.
#[test]
fn who_waits_inside_first_need_not_look_again() {
    let few = Few::new(&[(1, NONE), (3, OF_TWO)]);
    few.list.try_take(&Demand::of(0, 1).with(1, 3), &mut quiet).unwrap();
    few.waits(0, Demand::of(1, 1), Claim::Inside { class: 0, above: 1 });
    few.waits(1, Demand::of(1, 1), 2);
    few.put(1, 1);
    few.waits(2, Demand::of(0, 1), Claim::Inside { class: 0, above: 0 });
    assert_eq!(few.states(), [NodeState::Waiting; 3]);
    few.put(1, 2);
    assert_eq!(few.states(), [NodeState::Granted, NodeState::Granted, NodeState::Waiting]);
}

/// Who is not a lane serves itself: it takes what is left over beside those inside and what they leave free.
#[test]
fn threads_take_what_is_left_over_beside_who_waits_inside() {
    let few = Few::new(&[(4, OF_TWO), (1, NONE)]);
    few.list.try_take(&Demand::of(0, 4).with(1, 1), &mut quiet).unwrap();
    few.waits(0, Demand::of(0, 1).with(1, 1), Claim::Inside { class: 0, above: 0 });
    let take = || few.list.try_take_as(&Demand::of(0, 1), 2, &mut quiet);
    few.put(0, 3);
    assert_eq!(take(), Err(Refused::Short { kind: 0 }));
    few.put(0, 1);
    assert_eq!(take(), Ok(()));
}
