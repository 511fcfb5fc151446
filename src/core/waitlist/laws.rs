//! The wait list against its laws, one thread at a time: with one kind against an exact oracle that restates the
//! rule naively; with several kinds against what must hold whatever the order.

use super::lines::{AGEING, tier};
use super::*;
use proptest::prelude::*;

const KINDS: usize = 3;
const FOREVER: u64 = u64::MAX;

#[derive(Clone, Debug)]
enum Op {
    Try(Demand),
    TryAs(Demand, usize),
    Wait(Demand, usize),
    /// Indices are taken modulo what there is.
    Put(usize),
    Cancel(usize),
    Limit(u16, u64),
    Advance(u64),
}

fn demand(kinds: u16) -> impl Strategy<Value = Demand> {
    prop::collection::vec((0..kinds, 1..5u32), 1..3)
        .prop_map(|parts| parts.into_iter().fold(Demand::new(), |d, (kind, n)| d.with(kind, n)))
}

fn ops(kinds: u16) -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => demand(kinds).prop_map(Op::Try),
        1 => (demand(kinds), 0..CLASSES).prop_map(|(d, class)| Op::TryAs(d, class)),
        4 => (demand(kinds), 0..CLASSES).prop_map(|(d, class)| Op::Wait(d, class)),
        4 => any::<usize>().prop_map(Op::Put),
        1 => any::<usize>().prop_map(Op::Cancel),
        1 => (0..kinds, 0..8u64).prop_map(|(kind, limit)| Op::Limit(kind, limit)),
        1 => (0..15u64).prop_map(|s| Op::Advance(s * 1_000_000_000)),
    ];
    prop::collection::vec(op, 1..60)
}

/// What the bystander knows: who waits, in order of arrival, and who holds what.
struct Yard {
    list: WaitList,
    bypass: u32,
    now: u64,
    waiting: Vec<Waits>,
    held: Vec<Demand>,
}

struct Waits {
    node: Box<Node>,
    id: u32,
    demand: Demand,
    class: usize,
    since: u64,
    passed: u32,
}

impl Waits {
    fn claim(&self, now: u64) -> (u64, std::cmp::Reverse<u32>) {
        (tier(self.class as u8, self.since, now, AGEING), std::cmp::Reverse(self.id))
    }
}

/// Whom an operation granted to, in the order they were told, and whom it refused.
#[derive(Debug, Default, PartialEq)]
struct Told {
    granted: Vec<u32>,
    refused: Vec<u32>,
}

impl Yard {
    fn new(limits: &[u64], bypass: u32) -> Self {
        Self::with_reserves(limits.iter().map(|limit| (*limit, [0; CLASSES])), bypass)
    }

    fn with_reserves(kinds: impl IntoIterator<Item = (u64, Floors)>, bypass: u32) -> Self {
        let list = WaitList::with_reserves(kinds, Fairness { bypass, patience: FOREVER });
        Self { list, bypass, now: 0, waiting: Vec::new(), held: Vec::new() }
    }

    /// Does it to the list. The newcomer's or own success, and who else was told.
    fn apply(&mut self, op: &Op, id: u32) -> (Option<Result<(), Refused>>, Told) {
        let mut told = Vec::new();
        let mut wake = |waiter: &Waiter| match waiter {
            Waiter::Lane(id) => told.push(*id),
            Waiter::Thread(_) => unreachable!("only lanes here"),
        };
        let result = match op {
            Op::Try(d) => Some(self.list.try_take(d, &mut wake).map(|()| self.held.push(*d))),
            Op::TryAs(d, class) => {
                Some(self.list.try_take_as(d, *class, &mut wake).map(|()| self.held.push(*d)))
            }
            Op::Wait(d, class) => {
                let node = Box::new(Node::new());
                // SAFETY: boxed; kept in `waiting` until it is told, and those still there outlive the list's use.
                let got =
                    unsafe { self.list.enqueue(&node, *d, *class, self.now, Waiter::Lane(id), &mut wake) };
                match got {
                    Ok(Enqueued::Granted) => {
                        self.held.push(*d);
                        Some(Ok(()))
                    }
                    Ok(Enqueued::Waiting) => {
                        let (class, since) = (*class, self.now);
                        self.waiting.push(Waits { node, id, demand: *d, class, since, passed: 0 });
                        None
                    }
                    Err(refused) => Some(Err(refused)),
                }
            }
            Op::Put(i) if !self.held.is_empty() => {
                let d = self.held.swap_remove(i % self.held.len());
                self.list.put(&d, self.now, &mut wake);
                None
            }
            Op::Cancel(i) if !self.waiting.is_empty() => {
                let waits = self.waiting.remove(i % self.waiting.len());
                assert_eq!(self.list.cancel(&waits.node, self.now, &mut wake), Cancelled::Removed);
                assert_eq!(self.list.cancel(&waits.node, self.now, &mut wake), Cancelled::WasIdle);
                None
            }
            Op::Limit(kind, limit) => {
                self.list.set_limit(*kind, *limit, self.now, &mut wake);
                None
            }
            Op::Advance(nanos) => {
                // Time is seen at the next scan; a newcomer brings none.
                self.now += nanos;
                self.list.drain(self.now, &mut wake);
                None
            }
            Op::Put(_) | Op::Cancel(_) => None,
        };
        let mut outcome = Told::default();
        for id in told {
            let at = self.waiting.iter().position(|w| w.id == id).expect("told while waiting");
            let waits = &self.waiting[at];
            if self.list.take_grant(&waits.node) {
                self.passed_by(at);
                outcome.granted.push(id);
                self.held.push(self.waiting.remove(at).demand);
            } else {
                assert!(matches!(self.list.refusal(&waits.node), Some(Refused::Never { .. })));
                outcome.refused.push(id);
                self.waiting.remove(at);
            }
        }
        (result, outcome)
    }

    /// Counts those whom the grant to number `at` passed.
    fn passed_by(&mut self, at: usize) {
        let Waits { demand, class, .. } = self.waiting[at];
        let claim = self.waiting[at].claim(self.now);
        self.passed(&demand, class, |other, now| other.claim(now) > claim);
    }

    /// P5: who was passed often enough is passed only with what it does not need; but who may take from a reserve passes
    /// who may not, as often as it likes.
    fn passed(&mut self, d: &Demand, class: usize, who: impl Fn(&Waits, u64) -> bool) {
        let floor = |kind: u16, class| self.list.kinds[usize::from(kind)].floor(class);
        for other in &mut self.waiting {
            if !who(other, self.now) || !other.demand.overlaps(d) {
                continue;
            }
            if other.passed < self.bypass {
                other.passed += 1;
                continue;
            }
            for (kind, n) in other.demand.parts().filter(|(kind, _)| d.amount(*kind) > 0) {
                let kept = floor(kind, other.class);
                if kept <= floor(kind, class) {
                    let free = self.list.available(kind);
                    assert!(free >= (n + kept) as i64, "{} was passed by {d:?}", other.id);
                }
            }
        }
    }

    fn conserved(&self) {
        for kind in 0..self.list.kinds.len() as u16 {
            let taken: u64 = self.held.iter().map(|d| d.amount(kind)).sum();
            assert_eq!(self.list.in_use(kind), taken);
            assert_eq!(self.list.available(kind), self.list.limit(kind) as i64 - taken as i64);
            let waiters = self.waiting.iter().filter(|w| w.demand.amount(kind) > 0).count();
            assert_eq!(self.list.waiters(kind) as usize, waiters);
        }
    }

    fn floor(&self, kind: u16, class: usize) -> u64 {
        self.list.kinds[usize::from(kind)].floor(class)
    }

    fn fits(&self, d: &Demand, class: usize) -> bool {
        d.parts().all(|(kind, n)| self.list.available(kind) >= (n + self.floor(kind, class)) as i64)
    }

    /// Whether who waits with `o` goes before `d` of this class, where it comes to both: not in what is reserved for
    /// the class of `d` alone.
    fn binds(&self, o: &Waits, d: &Demand, class: usize) -> bool {
        o.demand
            .parts()
            .any(|(kind, _)| d.amount(kind) > 0 && self.floor(kind, o.class) <= self.floor(kind, class))
    }

    /// All come home at the end.
    fn wind_up(mut self) {
        while !self.held.is_empty() {
            self.apply(&Op::Put(0), 0);
        }
        assert!(self.waiting.is_empty(), "{} wait though nothing is taken", self.waiting.len());
        self.conserved();
    }
}

/// The rule for one kind, restated without lists, words or credit.
#[derive(Default)]
struct Oracle {
    limit: u64,
    free: i64,
    bypass: u32,
    floors: Floors,
    /// Id, class, since, n, times passed.
    waiting: Vec<(u32, usize, u64, u64, u32)>,
    held: Vec<u64>,
}

impl Oracle {
    /// Grants in order of claims; returns to whom, and what is set aside.
    fn scan(&mut self, now: u64) -> (Vec<u32>, [i64; CLASSES]) {
        self.waiting.sort_by_key(|w| (std::cmp::Reverse(tier(w.1 as u8, w.2, now, AGEING)), w.0));
        let (mut granted, mut aside, mut at) = (Vec::new(), [0; CLASSES], 0);
        let mut holding = Vec::new();
        let floors = self.floors.map(|floor| floor as i64);
        let hold = |aside: &mut [i64; CLASSES], class: usize, n: u64| {
            (0..CLASSES).filter(|c| floors[*c] >= floors[class]).for_each(|c| aside[c] += n as i64);
        };
        while at < self.waiting.len() {
            let (_, class, _, n, _) = self.waiting[at];
            if self.free - aside[class] - floors[class] >= n as i64 {
                let n = n as i64;
                self.free -= n;
                granted.push(self.waiting.remove(at).0);
                self.held.push(n as u64);
                for w in &mut self.waiting[..at] {
                    if holding.contains(&w.0) {
                        continue;
                    }
                    w.4 += 1;
                    if w.4 >= self.bypass {
                        holding.push(w.0);
                        hold(&mut aside, w.1, w.3);
                    }
                }
            } else {
                if self.waiting[at].4 >= self.bypass {
                    holding.push(self.waiting[at].0);
                    hold(&mut aside, class, n);
                }
                at += 1;
            }
        }
        (granted, aside)
    }

    fn apply(&mut self, op: &Op, id: u32, now: u64) -> (Option<bool>, Told) {
        let mut told = Told::default();
        match op {
            Op::Try(d) => {
                let n = d.amount(0);
                let aside = self.scan(now).1[CLASSES - 1];
                let got = self.free - aside >= n as i64 && n <= self.limit;
                if got {
                    self.free -= n as i64;
                    self.held.push(n);
                    self.waiting.iter_mut().for_each(|w| w.4 += u32::from(w.4 < self.bypass));
                }
                return (Some(got), told);
            }
            Op::TryAs(..) => unreachable!("its path is not the oracle's"),
            Op::Wait(d, class) if d.amount(0) + self.floors[*class] > self.limit => {
                return (Some(false), told);
            }
            Op::Wait(d, class) => {
                self.waiting.push((id, *class, now, d.amount(0), 0));
                told.granted = self.scan(now).0;
                let mine = told.granted.contains(&id);
                told.granted.retain(|other| *other != id);
                return (mine.then_some(true), told);
            }
            Op::Put(i) if !self.held.is_empty() => {
                let at = i % self.held.len();
                self.free += self.held.swap_remove(at) as i64;
            }
            // The order of `waiting` differs between the two: arrival is the id.
            Op::Cancel(i) if !self.waiting.is_empty() => {
                self.waiting.sort_by_key(|w| w.0);
                self.waiting.remove(i % self.waiting.len());
            }
            Op::Limit(_, limit) => {
                self.free += *limit as i64 - self.limit as i64;
                self.limit = *limit;
                let floors = self.floors;
                told.refused =
                    self.waiting.iter().filter(|w| w.3 + floors[w.1] > *limit).map(|w| w.0).collect();
                self.waiting.retain(|w| w.3 + floors[w.1] <= *limit);
            }
            Op::Advance(_) => {}
            Op::Put(_) | Op::Cancel(_) => return (None, told),
        }
        told.granted = self.scan(now).0;
        (None, told)
    }
}

/// Those of the operations that are meant, done to both; what they answer, and leave, is the same.
fn follow(
    yard: &mut Yard,
    oracle: &mut Oracle,
    ops: &[Op],
    is_meant: impl Fn(&Op) -> bool,
) -> Result<(), TestCaseError> {
    for (id, op) in ops.iter().enumerate().filter(|(_, op)| is_meant(op)) {
        let (result, mut told) = yard.apply(op, id as u32);
        let (expected, mut foretold) = oracle.apply(op, id as u32, yard.now);
        prop_assert_eq!(result.map(|r| r.is_ok()), expected, "{:?}", op);
        told.refused.sort_unstable();
        foretold.refused.sort_unstable();
        prop_assert_eq!(told, foretold, "{:?}", op);
        prop_assert_eq!(yard.list.available(0), oracle.free);
        prop_assert_eq!(yard.held.iter().map(|d| d.amount(0)).collect::<Vec<_>>(), oracle.held.clone());
        yard.conserved();
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_kind_is_as_the_oracle_says(ops in ops(1), limit in 1..8u64, bypass in 0..4u32) {
        let mut yard = Yard::new(&[limit], bypass);
        let mut oracle = Oracle { limit, free: limit as i64, bypass, ..Oracle::default() };
        follow(&mut yard, &mut oracle, &ops, |op| !matches!(op, Op::TryAs(..)))?;
        yard.wind_up();
    }

    /// The same with a reserve: who waits is served above its class's floor, and held back only by who may not take
    /// less than it.
    #[test]
    fn a_reserve_is_as_the_oracle_says(
        ops in ops(1),
        limit in 1..8u64,
        steps in prop::array::uniform3(0..3u64),
        bypass in 0..4u32,
    ) {
        let floors = floors(steps);
        let mut yard = Yard::with_reserves([(limit, floors)], bypass);
        let mut oracle = Oracle { limit, free: limit as i64, bypass, floors, ..Oracle::default() };
        // A newcomer may come by a gate that is open for another's sake: the laws below are for it.
        follow(&mut yard, &mut oracle, &ops, |op| !matches!(op, Op::Try(_) | Op::TryAs(..)))?;
        yard.apply(&Op::Limit(0, 16), 0);
        yard.wind_up();
    }

    #[test]
    fn several_kinds_keep_the_laws(
        ops in ops(KINDS as u16),
        kinds in prop::array::uniform3((1..8u64, prop::array::uniform3(0..2u64), any::<bool>())),
        bypass in 0..6u32,
    ) {
        let reserved = kinds.map(|(limit, steps, reserved)| {
            (limit, if reserved { floors(steps) } else { [0; CLASSES] })
        });
        let mut yard = Yard::with_reserves(reserved, bypass);
        for (id, op) in ops.iter().enumerate() {
            let (result, told) = yard.apply(op, id as u32);
            yard.conserved();
            let class = match op {
                Op::TryAs(_, class) | Op::Wait(_, class) => *class,
                _ => CLASSES - 1,
            };
            match (op, result) {
                (Op::Try(d) | Op::TryAs(d, _) | Op::Wait(d, _), Some(Ok(()))) => {
                    // P2: no take leads into debt, nor into what is reserved for others.
                    for (kind, _) in d.parts().filter(|_| told.granted.is_empty()) {
                        prop_assert!(yard.list.available(kind) >= yard.floor(kind, class) as i64);
                    }
                    if let Op::Try(d) = op
                        && reserved.iter().all(|(_, floors)| floors[0] == 0)
                    {
                        yard.passed(d, CLASSES - 1, |_, _| true);
                    }
                }
                // P8: what is impossible is so at once, and nothing else is.
                (Op::Try(d) | Op::TryAs(d, _) | Op::Wait(d, _), Some(Err(Refused::Never { .. }))) => {
                    let most = |kind| yard.list.limit(kind).saturating_sub(yard.floor(kind, class));
                    prop_assert!(d.parts().any(|(kind, n)| n > most(kind)));
                }
                (Op::Wait(d, _), None) => {
                    let most = |kind| yard.list.limit(kind).saturating_sub(yard.floor(kind, class));
                    prop_assert!(d.parts().all(|(kind, n)| n <= most(kind)));
                }
                // A try is refused what is there only for the sake of who waits, with a better claim if it has a class.
                (Op::Try(d) | Op::TryAs(d, _), Some(Err(Refused::Short { .. }))) if yard.fits(d, class) => {
                    let better = |o: &Waits| {
                        let ahead = matches!(op, Op::Try(_)) || o.claim(yard.now).0 >= class as u64;
                        ahead && yard.binds(o, d, class)
                    };
                    prop_assert!(yard.waiting.iter().any(better), "{id} is refused after {op:?}");
                }
                _ => {}
            }
            // P4: who fits and still waits is held back by somebody with a better claim to the same kind.
            for w in yard.waiting.iter().filter(|w| yard.fits(&w.demand, w.class)) {
                let better = |o: &Waits| {
                    o.claim(yard.now) > w.claim(yard.now) && yard.binds(o, &w.demand, w.class)
                };
                prop_assert!(yard.waiting.iter().any(better), "{} fits and waits after {:?}", w.id, op);
            }
        }
        let raise = |kind| Op::Limit(kind, 16);
        (0..KINDS as u16).for_each(|kind| drop(yard.apply(&raise(kind), 0)));
        yard.wind_up();
    }
}

/// Floors that fall from class to class.
fn floors(steps: [u64; CLASSES - 1]) -> Floors {
    let [a, b, c] = steps;
    [a + b + c, b + c, c, 0]
}

/// The gate was shut by somebody who has left since: the newcomer that looks again under the latch is not refused.
#[test]
fn a_gate_whose_waiter_has_gone_is_open() {
    let list = WaitList::with_fairness(&[2], Fairness { bypass: 0, patience: FOREVER });
    let quiet = &mut |_: &Waiter| {};
    let one = Demand::of(0, 1);
    let late = |last| list.take_behind(Newcomer { demand: &one, class: 1, last }, &mut |_: &Waiter| {});
    assert_eq!((late(true), late(false)), (Ok(()), Ok(())));
    list.put(&Demand::of(0, 2), 0, quiet);
    assert_eq!(list.in_use(0), 0);
}

/// Low classes queue before a reserve, hold back as much as they like, and the reserve stays there for the high.
#[test]
fn a_reserve_is_there_however_many_wait_for_less() {
    let list = WaitList::with_reserves([(4, [2, 2, 0, 0])], Fairness { bypass: 0, patience: 0 });
    let quiet = &mut |_: &Waiter| {};
    let one = Demand::of(0, 1);
    list.try_take_as(&Demand::of(0, 2), 1, quiet).unwrap();
    assert_eq!(list.try_take_as(&one, 1, quiet), Err(Refused::Short { kind: 0 }));
    let nodes: Vec<Node> = (0..5).map(|_| Node::new()).collect();
    for node in &nodes {
        // SAFETY: all are cancelled or granted below, before they are dropped.
        let entered = unsafe { list.enqueue(node, one, 1, 0, Waiter::Lane(0), quiet) };
        assert_eq!(entered, Ok(Enqueued::Waiting));
    }
    // They have aged beyond every class meanwhile.
    list.drain(4 * AGEING, quiet);
    list.try_take_as(&one, 2, quiet).unwrap();
    let high = Node::new();
    // SAFETY: it is granted at once.
    let entered = unsafe { list.enqueue(&high, one, 2, 4 * AGEING, Waiter::Lane(0), quiet) };
    assert_eq!((entered, list.available(0)), (Ok(Enqueued::Granted), 0));
    // What comes back fills the reserve first, then goes to who waits.
    list.put(&Demand::of(0, 3), 4 * AGEING, quiet);
    let granted = nodes.iter().filter(|node| list.take_grant(node)).count();
    assert_eq!((granted, list.available(0)), (1, 2));
    for node in &nodes[1..] {
        assert_eq!(list.cancel(node, 0, quiet), Cancelled::Removed);
    }
}

#[test]
fn patience_ends_in_holding_back() {
    let list = WaitList::with_fairness(&[3], Fairness { bypass: 31, patience: 100 });
    let quiet = &mut |_: &Waiter| {};
    let one = Demand::of(0, 1);
    list.try_take(&Demand::of(0, 2), quiet).unwrap();
    let node = Node::new();
    // SAFETY: the node is cancelled below, before it is dropped.
    unsafe { list.enqueue(&node, Demand::of(0, 3), 1, 10, Waiter::Lane(0), quiet) }.unwrap();
    list.try_take(&one, quiet).unwrap();
    list.put(&one, 109, quiet);
    list.try_take(&one, quiet).unwrap();
    list.put(&one, 110, quiet);
    assert_eq!(list.try_take(&one, quiet), Err(Refused::Short { kind: 0 }));
    assert_eq!(list.available(0), 1);
    assert_eq!(list.cancel(&node, 111, quiet), Cancelled::Removed);
    list.try_take(&one, quiet).unwrap();
}

#[test]
fn a_class_rises_every_ten_seconds() {
    let list = WaitList::new(&[1]);
    let mut told = Vec::new();
    let mut wake = |w: &Waiter| {
        if let Waiter::Lane(id) = w {
            told.push(*id);
        }
    };
    let one = Demand::of(0, 1);
    list.try_take(&one, &mut wake).unwrap();
    let nodes = [Node::new(), Node::new(), Node::new()];
    for (i, (class, at)) in [(0, 0), (2, AGEING), (0, 2 * AGEING)].into_iter().enumerate() {
        // SAFETY: each is granted below, before it is dropped.
        unsafe { list.enqueue(&nodes[i], one, class, at, Waiter::Lane(i as u32), &mut wake) }.unwrap();
    }
    // At 15 s: tier 1 against 2 against 0. At 20 s: 2 against 3. At 30 s the first stands at the top, and came
    // before.
    list.put(&one, AGEING + AGEING / 2, &mut wake);
    list.put(&one, 2 * AGEING, &mut wake);
    list.put(&one, 2 * AGEING, &mut wake);
    assert_eq!(told, [1, 0, 2]);
}

#[test]
fn close_refuses_and_takes_back() {
    let list = WaitList::new(&[1, 1]);
    let quiet = &mut |_: &Waiter| {};
    let (one, other) = (Demand::of(0, 1), Demand::of(1, 1));
    list.try_take(&one, quiet).unwrap();
    let node = Node::new();
    // SAFETY: the node is refused below, before it is dropped.
    unsafe { list.enqueue(&node, one, 1, 0, Waiter::Lane(0), quiet) }.unwrap();
    list.close(Some(0), quiet);
    assert_eq!(list.state(&node), NodeState::Closed);
    assert_eq!(list.cancel(&node, 0, quiet), Cancelled::WasClosed);
    assert_eq!(list.refusal(&node), Some(Refused::Closed { kind: 0 }));
    assert_eq!(list.try_take(&one, quiet), Err(Refused::Closed { kind: 0 }));
    list.put(&one, 0, quiet);
    assert_eq!((list.in_use(0), list.waiters(0)), (0, 0));
    assert_eq!(list.try_take(&other, quiet), Ok(()));
}

#[test]
fn impossible_demands_are_named() {
    let list = WaitList::new(&[2]);
    let quiet = &mut |_: &Waiter| {};
    let never = |kind, asked, limit| Err(Refused::Never { kind, asked, limit });
    assert_eq!(list.try_take(&Demand::of(0, 3), quiet), never(0, 3, 2));
    assert_eq!(list.try_take(&Demand::of(7, 1), quiet), never(7, 1, 0));
    let nine = (0..9).fold(Demand::new(), |d, kind| d.with(kind, 1));
    let wide = WaitList::new(&[1; 9]);
    assert_eq!(wide.try_take(&nine, quiet), never(8, 1, 0));
    assert_eq!(wide.in_use(0), 0);
    assert_eq!(wide.try_take(&Demand::new(), quiet), Ok(()));
}

#[test]
fn more_than_a_round_is_told() {
    let list = WaitList::new(&[20]);
    let mut told = 0;
    let mut wake = |_: &Waiter| told += 1;
    let all = Demand::of(0, 20);
    list.try_take(&all, &mut wake).unwrap();
    let nodes: Vec<Node> = (0..20).map(|_| Node::new()).collect();
    for node in &nodes {
        // SAFETY: all are granted below, before they are dropped.
        unsafe { list.enqueue(node, Demand::of(0, 1), 0, 0, Waiter::Lane(0), &mut wake) }.unwrap();
    }
    list.put(&all, 0, &mut wake);
    assert!(nodes.iter().all(|node| list.take_grant(node)));
    assert_eq!((told, list.available(0)), (20, 0));
}
