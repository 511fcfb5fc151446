//! The line of a lock against its laws, one step at a time on a clock moved by hand: who enters, is told or is handed the
//! lock, against an oracle that restates the rule naively; and whom a newcomer may pass.
//!
//! A release that finds somebody waiting is two steps, the word's and the line's, and others may come in between.

use super::*;
use crate::core::lockword::MAX_READERS;
use crate::core::waitlist::lines::tier;
use proptest::prelude::*;
use std::cmp::Reverse;

use Mode::{Exclusive, Shared, Upgradable};

#[derive(Clone, Debug)]
enum Op {
    /// A newcomer that does not wait, or one that does.
    Try(Mode, usize),
    Enter(Mode, usize),
    /// Indices are taken modulo what there is.
    Leave(usize),
    /// The line's part of a release.
    Look(usize),
    /// Who was told comes.
    Come,
    Cancel(usize),
    Weaken(usize, Mode),
    Upgrade,
    Advance(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let mode = || prop_oneof![3 => Just(Shared), 1 => Just(Upgradable), 2 => Just(Exclusive)];
    let op = prop_oneof![
        4 => (mode(), 0..CLASSES).prop_map(|(mode, class)| Op::Try(mode, class)),
        5 => (mode(), 0..CLASSES).prop_map(|(mode, class)| Op::Enter(mode, class)),
        5 => any::<usize>().prop_map(Op::Leave),
        4 => any::<usize>().prop_map(Op::Look),
        3 => Just(Op::Come),
        1 => any::<usize>().prop_map(Op::Cancel),
        1 => (any::<usize>(), prop_oneof![Just(Shared), Just(Upgradable)]).prop_map(|(at, to)| Op::Weaken(at, to)),
        1 => Just(Op::Upgrade),
        2 => (0..FAIR_AFTER * 2).prop_map(Op::Advance),
        2 => (0..AGEING * 2).prop_map(Op::Advance),
    ];
    prop::collection::vec(op, 1..80)
}

struct Sim {
    lock: RawLock,
    parker: Parker,
    now: u64,
    ids: u32,
    waiting: Vec<Waits>,
    /// The upgradable holder's, while it waits for the readers.
    upgrade: Option<Box<Node>>,
    holders: Vec<(u32, Mode)>,
    /// What releases have still to do.
    pending: Vec<Rest>,
}

struct Waits {
    node: Box<Node>,
    id: u32,
    mode: Mode,
    class: usize,
    since: u64,
    lost: u32,
    /// When it wakes to raise the bar.
    rise: Option<u64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Rest {
    Look {
        phase_over: bool,
    },
    /// The holder with this number has not given it back yet.
    HandOver(u32),
}

/// What is to happen when the line is looked at: who enters, and who is told.
#[derive(Debug, Default, PartialEq)]
struct Fate {
    enter: Vec<u32>,
    told: Option<u32>,
    upgraded: bool,
}

fn conflict(a: Mode, b: Mode) -> bool {
    a.max(b) == Exclusive || (a, b) == (Upgradable, Upgradable)
}

impl Waits {
    fn tier(&self, now: u64) -> u64 {
        tier(self.class as u8, self.since, now, AGEING)
    }
}

impl Sim {
    fn new() -> Self {
        let (lock, parker) = (RawLock::new(), Parker::new());
        let (waiting, holders, pending) = Default::default();
        Sim { lock, parker, now: 0, ids: 0, waiting, upgrade: None, holders, pending }
    }

    fn told(&self) -> Option<u32> {
        self.waiting.iter().find(|one| one.node.state() == NodeState::Told).map(|one| one.id)
    }

    fn holds(&self, mode: Mode) -> usize {
        self.holders.iter().filter(|(_, held)| *held == mode).count()
    }

    /// The rule, for holders as they are, or (`leaving`) without that one.
    fn fate(&self, phase_over: bool, leaving: Option<u32>) -> Fate {
        self.fate_as(self.told(), phase_over, leaving)
    }

    fn fate_as(&self, told: Option<u32>, phase_over: bool, leaving: Option<u32>) -> Fate {
        let mut fate = Fate { told, ..Fate::default() };
        if self.upgrade.is_some() {
            fate.upgraded = self.holds(Shared) == 0;
            return fate;
        }
        let mut held: Vec<Mode> =
            self.holders.iter().filter(|(id, _)| Some(*id) != leaving).map(|(_, mode)| *mode).collect();
        let mut line: Vec<&Waits> = self.waiting.iter().collect();
        line.sort_by_key(|one| (Reverse(one.tier(self.now)), one.id));
        let first = line.iter().find(|one| one.mode == Exclusive);
        let is_behind = |one: &Waits| {
            first.is_some_and(|x| {
                let (tier, best) = (one.tier(self.now), x.tier(self.now));
                let after = (Reverse(tier), one.id) > (Reverse(best), x.id);
                after && !(phase_over && one.mode == Shared && tier >= best)
            })
        };
        let mut upgradable = false;
        for one in line.iter().filter(|one| one.mode != Exclusive) {
            let second = one.mode == Upgradable && std::mem::replace(&mut upgradable, true);
            if !second && !is_behind(one) && !held.iter().any(|held| conflict(*held, one.mode)) {
                held.push(one.mode);
                fate.enter.push(one.id);
            }
        }
        if let Some(x) = first
            && held.is_empty()
        {
            if self.now - x.since >= FAIR_AFTER || x.lost >= LOSSES {
                fate.enter.push(x.id);
            } else {
                fate.told = fate.told.or(Some(x.id));
            }
        }
        fate.told = fate.told.filter(|id| !fate.enter.contains(id));
        fate.enter.sort();
        fate
    }

    /// Does what looks at the line, and compares.
    fn looks(&mut self, what: &str, fate: Fate, does: impl FnOnce(&RawLock, u64)) {
        does(&self.lock, self.now);
        let mut done = Fate { told: self.told(), ..Fate::default() };
        let (in_line, entered): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|one| one.node.state() != NodeState::Granted);
        self.waiting = in_line;
        for one in entered {
            done.enter.push(one.id);
            self.holders.push((one.id, one.mode));
        }
        done.enter.sort();
        if self.upgrade.take_if(|node| node.state() == NodeState::Granted).is_some() {
            done.upgraded = true;
            let own = self.holders.iter_mut().find(|(_, mode)| *mode == Upgradable);
            own.expect("who upgrades holds it").1 = Exclusive;
        }
        assert_eq!(done, fate, "{what}: entered, told, upgraded, against what the rule says");
    }

    /// A newcomer has entered: whom may it pass?
    fn came(&mut self, mode: Mode, class: usize) {
        for one in self.waiting.iter().filter(|one| conflict(one.mode, mode) && one.mode != Shared) {
            let tier = one.tier(self.now);
            // One that wants it alone barges into a free lock, past its equals, too.
            let least = if mode == Exclusive { tier } else { tier + 1 };
            assert!(class as u64 >= least, "{mode:?} of {class} passed {:?} of tier {tier}", one.mode);
        }
        self.ids += 1;
        self.holders.push((self.ids, mode));
    }

    fn apply(&mut self, op: &Op) {
        let mut nobody = |_: &Waiter| {};
        match *op {
            Op::Try(mode, class) => {
                if self.lock.word.try_enter(mode, class, 1).is_ok() {
                    self.came(mode, class);
                }
            }
            Op::Enter(mode, class) => {
                if self.lock.word.try_enter(mode, class, 1).is_ok() {
                    return self.came(mode, class);
                }
                self.ids += 1;
                let (id, since) = (self.ids, self.now);
                let rise = next_rise(class, since, since);
                self.waiting.push(Waits { node: Box::default(), id, mode, class, since, lost: 0, rise });
                let mut fate = self.fate(false, None);
                // Who comes itself need not be told.
                let told = self.told();
                if fate.told == Some(id) {
                    (fate.told, fate.enter) = (told, [fate.enter, vec![id]].concat());
                }
                let mine = self.waiting.pop().expect("pushed");
                let (now, parker) = (self.now, self.parker.unparker());
                drop(parker);
                // SAFETY: boxed, and kept until it has entered or is cancelled, or for as long as the lock is used.
                let got = unsafe {
                    self.lock.enqueue(&mine.node, (mode, 1), class, now, &self.parker, &mut nobody)
                };
                if got == Ok(Enqueued::Entered) {
                    assert!(fate.enter.contains(&id), "a newcomer passed who waits");
                    fate.enter.retain(|one| *one != id);
                    self.holders.push((id, mode));
                } else {
                    assert!(!fate.enter.contains(&id), "a newcomer waits that may enter");
                    self.waiting.push(mine);
                }
                self.looks("enqueue", fate, |_, _| {});
            }
            Op::Leave(at) => {
                let busy = |sim: &Self, id: u32| sim.pending.contains(&Rest::HandOver(id));
                let all: Vec<_> = (0..self.holders.len())
                    .filter(|at| !busy(self, self.holders[*at].0))
                    .filter(|at| self.upgrade.is_none() || self.holders[*at].1 == Shared)
                    .collect();
                let Some(at) = all.get(at % all.len().max(1)).copied() else { return };
                let (id, mode) = self.holders[at];
                match self.lock.word.leave(mode, false) {
                    After::HandOver => return self.pending.push(Rest::HandOver(id)),
                    After::Look => self.pending.push(Rest::Look { phase_over: false }),
                    After::Nothing | After::MakeWay => {}
                }
                self.holders.remove(at);
            }
            Op::Look(at) => {
                if self.pending.is_empty() {
                    return;
                }
                match self.pending.remove(at % self.pending.len()) {
                    Rest::Look { phase_over } => {
                        let fate = self.fate(phase_over, None);
                        self.looks("look", fate, |lock, now| lock.look(now, phase_over, &mut nobody));
                    }
                    Rest::HandOver(id) => {
                        let fate = self.fate(true, Some(id));
                        self.holders.retain(|(holder, _)| *holder != id);
                        self.looks("hand over", fate, |lock, now| lock.hand_over(now, &mut nobody));
                    }
                }
            }
            Op::Come => {
                let Some(at) = self.waiting.iter().position(|one| one.node.state() == NodeState::Told) else {
                    return;
                };
                let is_free = self.holders.is_empty();
                let one = if is_free {
                    let one = self.waiting.remove(at);
                    self.holders.push((one.id, one.mode));
                    one.node
                } else {
                    self.waiting[at].lost += 1;
                    assert!(self.waiting[at].lost <= LOSSES);
                    std::mem::take(&mut self.waiting[at].node)
                };
                let fate = self.fate_as(None, false, None);
                let came = self.lock.come(&one, self.now, &mut nobody);
                assert_eq!(came, is_free);
                if !came {
                    self.waiting[at].node = one;
                }
                self.looks("come", fate, |_, _| {});
            }
            Op::Cancel(at) if at % 4 == 0 && self.upgrade.is_some() => {
                let node = self.upgrade.take().expect("just seen");
                let fate = self.fate(false, None);
                self.looks("an upgrade gives up", fate, |lock, now| {
                    assert!(!lock.cancel(&node, now, &mut nobody));
                });
            }
            Op::Cancel(at) if !self.waiting.is_empty() => {
                let one = self.waiting.remove(at % self.waiting.len());
                let fate = self.fate(false, None);
                self.looks("cancel", fate, |lock, now| assert!(!lock.cancel(&one.node, now, &mut nobody)));
            }
            Op::Weaken(at, to) => {
                let all: Vec<_> = (0..self.holders.len())
                    .filter(|at| self.holders[*at].1 > to && self.upgrade.is_none())
                    .filter(|at| !self.pending.contains(&Rest::HandOver(self.holders[*at].0)))
                    .collect();
                let Some(at) = all.get(at % all.len().max(1)).copied() else { return };
                let from = std::mem::replace(&mut self.holders[at].1, to);
                if self.lock.word.weaken(from, to) == After::Look {
                    self.pending.push(Rest::Look { phase_over: from == Exclusive });
                }
            }
            Op::Upgrade => {
                let own = self.holders.iter_mut().find(|(_, mode)| *mode == Upgradable);
                let (Some(own), None) = (own, &self.upgrade) else { return };
                if self.pending.contains(&Rest::HandOver(own.0)) {
                    return;
                }
                let node = Box::new(Node::new());
                // SAFETY: boxed, and kept until it is granted or cancelled, or for as long as the lock is used.
                match unsafe { self.lock.begin_upgrade(&node, &self.parker) } {
                    Enqueued::Entered => own.1 = Exclusive,
                    Enqueued::Waiting => self.upgrade = Some(node),
                }
            }
            Op::Advance(by) => self.advance(by),
            Op::Cancel(_) => {}
        }
    }

    /// Who waits wakes when it rises.
    fn advance(&mut self, by: u64) {
        let end = self.now + by;
        loop {
            let due = self.waiting.iter().filter_map(|one| Some((one.rise?, one.id))).min();
            let Some((at, id)) = due.filter(|(at, _)| *at <= end) else { break };
            self.now = self.now.max(at);
            let fate = self.fate(false, None);
            let one = self.waiting.iter_mut().find(|one| one.id == id).expect("just seen");
            one.rise = self.lock.rise(&one.node, self.now, &mut |_: &Waiter| {});
            self.looks("rise", fate, |_, _| {});
        }
        self.now = end;
    }

    /// What holds between any two steps.
    fn check(&self) {
        let word = self.lock.word.look();
        let [shared, upgradable, exclusive] = [Shared, Upgradable, Exclusive].map(|mode| self.holds(mode));
        assert!(upgradable + exclusive <= 1 && (exclusive == 0 || shared == 0), "{:?}", self.holders);
        let mode = self.holders.iter().map(|(_, mode)| *mode).max();
        let drains = self.upgrade.is_some();
        assert_eq!((word.readers() as usize, word.drains()), (shared, drains));
        assert_eq!(word.mode(), if drains { Some(Exclusive) } else { mode });
        assert_eq!((word.queued(), word.told()), (!self.waiting.is_empty(), self.told().is_some()));
        assert!(word.told() || word.passes() == 0, "{word:?}");
        // Who was told will come, and look.
        if self.pending.is_empty() && self.told().is_none() {
            assert_eq!(self.fate(false, None), Fate::default(), "somebody was forgotten");
        }
    }

    /// All go, and all who wait come: the lock is at rest.
    fn end(&mut self) {
        while !(self.holders.is_empty() && self.waiting.is_empty() && self.pending.is_empty()) {
            for op in [Op::Look(0), Op::Come, Op::Leave(0)] {
                self.apply(&op);
                self.check();
            }
        }
        assert_eq!(self.lock.word.look(), Word::FREE);
    }
}

fn run(ops: &[Op]) {
    let mut sim = Sim::new();
    for op in ops {
        sim.apply(op);
        sim.check();
    }
    sim.end();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_is_the_rules_and_nobody_is_passed_for_longer(ops in ops()) {
        run(&ops);
    }
}

/// As many share it as can be counted: who comes is refused at once, and so is who would wait behind somebody; nothing is left of
/// them.
#[test]
fn there_is_room_for_so_many_readers_and_no_more() {
    let lock = RawLock { word: LockWord::shared_by(MAX_READERS), ..RawLock::new() };
    let parker = Parker::new();
    let park = |_: &Parker, _| -> bool { unreachable!("it does not wait") };
    let mut nobody = |_: &Waiter| {};
    assert_eq!(lock.enter(Shared, 1, 0, || 0, (&parker, park), &mut nobody), Err(Left::Full));
    let writer = Box::new(Node::new());
    // SAFETY: boxed, and kept until it is cancelled.
    let queued = unsafe { lock.enqueue(&writer, (Exclusive, 1), 1, 0, &parker, &mut nobody) };
    assert_eq!(queued, Ok(Enqueued::Waiting));
    assert_eq!(lock.enter(Shared, 1, 0, || 0, (&parker, park), &mut nobody), Err(Left::Full));
    assert!(!lock.cancel(&writer, 0, &mut nobody));
    assert_eq!(lock.word.look(), LockWord::shared_by(MAX_READERS).look());
    lock.leave(Shared, false, || 0, &mut nobody);
    assert_eq!(lock.enter(Shared, 1, 0, || 0, (&parker, park), &mut nobody), Ok(()));
}

/// Who was told, and has not come, is made way for after a while, once each time; and is handed the lock when it has waited
/// long enough for that, whoever takes it meanwhile.
#[test]
fn way_is_made_for_one_that_does_not_come() {
    let (lock, parker, mut nobody) = (RawLock::new(), Parker::new(), |_: &Waiter| {});
    lock.word.try_enter(Exclusive, 1, 1).expect("free");
    assert!(!lock.make_way(7, &mut nobody), "nobody was told");
    let waits = Box::new(Node::new());
    // SAFETY: boxed, and kept until it is granted.
    let queued = unsafe { lock.enqueue(&waits, (Exclusive, 2), 1, 7, &parker, &mut nobody) };
    assert_eq!(queued, Ok(Enqueued::Waiting));
    let (told_at, long) = (MAKE_WAY_AFTER, MAKE_WAY_AFTER);
    lock.leave(Exclusive, false, || told_at, &mut nobody);
    for (since, overdue) in
        [(long - 1, false), (long, true), (long + 1, false), (2 * long - 1, false), (2 * long, true)]
    {
        assert_eq!(lock.make_way(told_at + since, &mut nobody), overdue, "{since} ns");
    }
    let mut pass = |now| {
        lock.word.try_enter(Exclusive, 1, 1).expect("it has not come");
        lock.leave(Exclusive, false, || now, &mut nobody);
    };
    (1..=16).for_each(|_| pass(6 + FAIR_AFTER));
    (1..16).for_each(|_| pass(7 + FAIR_AFTER));
    assert_eq!(waits.state(), NodeState::Told);
    pass(7 + FAIR_AFTER);
    let word = lock.word.look();
    assert_eq!(
        (waits.state(), word.owner(), word.told(), word.queued()),
        (NodeState::Granted, 2, false, false)
    );
}

/// The same where a newcomer has the lock again before it is looked at: that one hands it over.
#[test]
fn who_slips_in_before_way_is_made_hands_the_lock_over() {
    let (lock, parker, mut nobody) = (RawLock::new(), Parker::new(), |_: &Waiter| {});
    lock.word.try_enter(Exclusive, 1, 1).expect("free");
    let waits = Box::new(Node::new());
    // SAFETY: boxed, and kept until it is granted.
    let queued = unsafe { lock.enqueue(&waits, (Exclusive, 2), 1, 0, &parker, &mut nobody) };
    assert_eq!(queued, Ok(Enqueued::Waiting));
    lock.leave(Exclusive, false, || 0, &mut nobody);
    lock.word.try_enter(Exclusive, 1, 1).expect("it has not come");
    assert!(!lock.make_way(FAIR_AFTER, &mut nobody));
    assert_eq!((waits.state(), lock.word.look().told()), (NodeState::Told, false));
    lock.leave(Exclusive, false, || FAIR_AFTER, &mut nobody);
    assert_eq!((waits.state(), lock.word.look().owner()), (NodeState::Granted, 2));
}
