//! Conservation: whatever happens to whom, what is in use is what live permits hold, and what is spent of a rate is what was
//! granted. Ten thousand random programs, each run once per step, with a fault put in at that step: another thread queues there for what is not free, and
//! its wait is cancelled, times out, ends by leases that are over (whose functions all panic), or by permits that come
//! back one by one, and then it unwinds with its own in hand. Every step is held against a plain list of permits. Then
//! the same with threads that wait for each other.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // threads and clocks of tests are plain ones

use batchyard::resource::{AcquireError, Cancel, Demand, OnExpiry, Owner, Permit, Wait};
use batchyard::{Deadline, ManualClock, Priority, Rate, RateLimiter, ResourceManager, Timestamp, secs};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

const KINDS: [&str; 3] = ["a", "b", "c"];
/// One token a second each, and the most there can be.
const RATES: [(&str, u64); 2] = [("r", 4), ("s", 6)];
const PROGRAMS: u64 = 10_000;

/// xorshift64*: a program is its seed.
struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }

    fn demand(&mut self) -> [u64; 3] {
        let mut d = [0; 3];
        for _ in 0..=self.below(2) {
            d[self.below(3) as usize] += self.below(3);
        }
        d
    }
}

#[derive(Clone, Debug)]
enum Op {
    Take {
        n: [u64; 3],
        pace: [u64; 2],
        class: usize,
        lease: Option<u64>,
        policy: u64,
        owner: usize,
    },
    Drop(usize),
    /// The permit is lost: only its lease or its owner's end brings it back.
    Forget(usize),
    Shrink(usize, usize, u64),
    Split(usize, [u64; 3]),
    Extend(usize, [u64; 3]),
    Renew(usize, u64),
    Advance(u64),
    Sweep,
    Limit(usize, u64),
    OwnerEnds(usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Cancel,
    Timeout,
    Panic,
    Lapse,
}

const FAULTS: [Fault; 4] = [Fault::Cancel, Fault::Timeout, Fault::Panic, Fault::Lapse];

/// How many waits were ended by each of them.
static WAITED: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// Nothing here takes so long, unless it hangs.
const LONG: Duration = Duration::from_secs(20);

fn program(rng: &mut Rng) -> Vec<Op> {
    (0..6 + rng.below(10))
        .map(|_| {
            let i = rng.below(8) as usize;
            match rng.below(16) {
                0..=5 => Op::Take {
                    n: rng.demand(),
                    pace: [0, 1].map(|_| rng.below(6).saturating_sub(3)),
                    class: rng.below(4) as usize,
                    lease: (rng.below(2) == 0).then(|| 1 + rng.below(5)),
                    policy: rng.below(3),
                    owner: rng.below(2) as usize,
                },
                6 | 7 => Op::Drop(i),
                8 => Op::Forget(i),
                9 => Op::Shrink(i, rng.below(3) as usize, rng.below(3)),
                10 => Op::Split(i, rng.demand()),
                11 => Op::Extend(i, rng.demand()),
                12 => Op::Renew(i, 1 + rng.below(5)),
                13 => Op::Advance(1 + rng.below(4)),
                14 => [Op::Sweep, Op::Limit(rng.below(3) as usize, 1 + rng.below(4))][i % 2].clone(),
                _ => Op::OwnerEnds(i % 2),
            }
        })
        .collect()
}

fn demand(n: [u64; 3]) -> Demand {
    KINDS.iter().zip(n).fold(Demand::new(), |d, (kind, n)| d.need(*kind, n))
}

/// What the functions throw: it is swallowed, though it throws again.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !thread::panicking() {
            resume_unwind(Box::new("again"));
        }
    }
}

/// A permit as the bystander knows it. The permit itself is gone when it was lost.
struct Known {
    permit: Option<Permit>,
    n: [u64; 3],
    class: usize,
    over: Option<Timestamp>,
    reports: bool,
    owner: u64,
    /// Not taken back yet.
    live: bool,
}

struct Yard {
    time: ManualClock,
    manager: ResourceManager,
    limits: [u64; 3],
    /// Tokens that are there.
    level: [u64; 2],
    owners: [Option<(u64, Owner)>; 2],
    born: u64,
    known: Vec<Known>,
}

impl Yard {
    fn new() -> Self {
        let time = ManualClock::new();
        let limits = [3, 2, 4];
        let builder = KINDS.iter().zip(limits).fold(ResourceManager::builder(), |b, (k, n)| b.quota(*k, n));
        let rated = |(rate, burst): (&'static str, u64)| {
            let limiter = RateLimiter::builder(Rate::per_second(1).burst(burst)).clock(time.clock());
            (rate, limiter.build().unwrap())
        };
        let builder = RATES.map(rated).into_iter().fold(builder, |b, (rate, limiter)| b.rate(rate, limiter));
        let manager = builder
            .reserve_for("c", Priority::High, 1)
            .on_lapse(|_, _| resume_unwind(Box::new(Bomb)))
            .clock(time.clock())
            .build()
            .unwrap();
        let (level, owners, known) = (RATES.map(|(_, burst)| burst), [None, None], Vec::new());
        let mut yard = Yard { time, manager, limits, level, owners, born: 0, known };
        (0..2).for_each(|i| yard.owner_ends(i));
        yard
    }

    fn owner_ends(&mut self, i: usize) {
        if let Some((id, owner)) = self.owners[i].take() {
            drop(owner);
            self.known.iter_mut().filter(|k| k.owner == id).for_each(|k| k.live = false);
        }
        self.born += 1;
        self.owners[i] = Some((self.born, Owner::new(format!("owner {}", self.born))));
    }

    fn advance(&mut self, seconds: u64) {
        self.time.advance(secs(seconds));
        self.level = [0, 1].map(|r| RATES[r].1.min(self.level[r] + seconds));
    }

    /// What a sweep does.
    fn swept(&mut self) {
        let now = self.time.now();
        for known in self.known.iter_mut().filter(|k| !k.reports) {
            known.live &= known.over.is_none_or(|over| over > now);
        }
    }

    fn in_use(&self) -> [u64; 3] {
        let mut sum = [0; 3];
        for known in self.known.iter().filter(|k| k.live) {
            sum.iter_mut().zip(known.n).for_each(|(sum, n)| *sum += n);
        }
        sum
    }

    fn fits(&self, n: [u64; 3], class: usize) -> bool {
        let used = self.in_use();
        let reserve = [0, 0, u64::from(class < 2)];
        (0..3).all(|k| n[k] == 0 || used[k] + n[k] + reserve[k] <= self.limits[k])
    }

    fn possible(&self, n: [u64; 3], class: usize) -> bool {
        let reserve = [0, 0, u64::from(class < 2)];
        (0..3).all(|k| n[k] == 0 || n[k] + reserve[k] <= self.limits[k])
    }

    /// Who finds too little of what there may be looks for what is over.
    fn look(&mut self, n: [u64; 3], class: usize) {
        if self.possible(n, class) && !self.fits(n, class) {
            self.swept();
        }
    }

    fn apply(&mut self, op: &Op, fault: Fault) {
        let len = self.known.len();
        let at = |i: &usize| (len > 0).then(|| i % len.max(1));
        match op {
            Op::Take { n, pace, class, lease, policy, owner } => {
                self.take((*n, *pace), *class, *lease, *policy, *owner, fault)
            }
            Op::Drop(i) => {
                let Some(i) = at(i).filter(|i| self.known[*i].permit.is_some()) else { return };
                let known = self.known.swap_remove(i);
                // Dropped by an unwinding holder, too.
                let dropped = catch_unwind(AssertUnwindSafe(|| {
                    let _permit = known.permit;
                    if fault == Fault::Panic {
                        resume_unwind(Box::new("in hand"));
                    }
                }));
                assert_eq!(dropped.is_err(), fault == Fault::Panic);
            }
            Op::Forget(i) => {
                if let Some(i) = at(i) {
                    // One that was lost already stays so.
                    if let Some(permit) = self.known[i].permit.take() {
                        std::mem::forget(permit);
                    }
                }
            }
            Op::Shrink(i, kind, n) => {
                let Some(known) = at(i).map(|i| &mut self.known[i]) else { return };
                let Some(permit) = &mut known.permit else { return };
                let done = permit.shrink(KINDS[*kind], *n).is_ok();
                assert_eq!(done, known.live && known.n[*kind] >= *n);
                if done {
                    known.n[*kind] -= n;
                }
            }
            Op::Split(i, n) => {
                let Some(known) = at(i).map(|i| &mut self.known[i]) else { return };
                let Some(permit) = &mut known.permit else { return };
                let part = permit.split(&demand(*n));
                let may = known.live && (0..3).all(|k| known.n[k] >= n[k]);
                assert_eq!(part.is_ok(), may);
                if let Ok(part) = part {
                    (0..3).for_each(|k| known.n[k] -= n[k]);
                    // One that is overdue is said to be so again.
                    let (permit, n) = (Some(part), *n);
                    let Known { class, over, reports, owner, .. } = *known;
                    self.known.push(Known { permit, n, class, over, reports, owner, live: true });
                }
            }
            Op::Extend(i, n) => {
                let Some(i) = at(i) else { return };
                let Some(mut permit) = self.known[i].permit.take() else { return };
                let done = permit.extend(&demand(*n)).is_ok();
                let class = self.known[i].class;
                self.known[i].permit = Some(permit);
                // This permit itself may be what is over. Of one that is gone already nothing more is asked.
                if self.known[i].live {
                    self.look(*n, class);
                }
                assert_eq!(done, self.fits(*n, class) && self.known[i].live);
                if done {
                    (0..3).for_each(|k| self.known[i].n[k] += n[k]);
                }
            }
            Op::Renew(i, lease) => {
                let now = self.time.now();
                let Some(i) = at(i).filter(|i| self.known[*i].permit.is_some()) else { return };
                self.swept();
                let known = &mut self.known[i];
                let Some(permit) = &known.permit else { return };
                assert_eq!(permit.renew(secs(*lease)).is_ok(), known.live);
                if known.live {
                    known.over = Some(now + secs(*lease));
                }
            }
            Op::Advance(time) => self.advance(*time),
            Op::Sweep => {
                self.manager.sweep();
                self.swept();
            }
            Op::Limit(kind, limit) => {
                self.limits[*kind] = *limit;
                self.manager.set_limit(KINDS[*kind], *limit).unwrap();
            }
            Op::OwnerEnds(i) => self.owner_ends(*i),
        }
    }

    fn take(
        &mut self,
        (n, pace): ([u64; 3], [u64; 2]),
        class: usize,
        lease: Option<u64>,
        policy: u64,
        owner: usize,
        fault: Fault,
    ) {
        let (id, owner) = self.owners[owner].as_ref().unwrap();
        let policy = match policy {
            0 => OnExpiry::Report,
            1 => OnExpiry::Reclaim,
            _ => OnExpiry::revoke(|_| resume_unwind(Box::new(Bomb))),
        };
        let reports = matches!(policy, OnExpiry::Report);
        let priority = Priority::ALL[class];
        let mut wait = Wait::new().owned_by(owner).priority(priority).on_expiry(policy).while_holding();
        if let Some(lease) = lease {
            wait = wait.lease(secs(lease));
        }
        let cancel = Cancel::new();
        if fault == Fault::Cancel {
            cancel.cancel();
            wait = wait.cancel(&cancel);
        } else {
            wait = wait.by(Deadline::NOW);
        }
        let id = *id;
        let asked = RATES.iter().zip(pace).fold(demand(n), |d, ((rate, _), n)| d.pace(*rate, n));
        let got = match fault {
            Fault::None => self.manager.try_acquire_with(&asked, &wait),
            _ => self.manager.acquire_with(&asked, &wait),
        };
        let fault = if fault == Fault::Lapse { Fault::Timeout } else { fault };
        self.look(n, class);
        let paid = (0..2).all(|r| pace[r] <= self.level[r]);
        match got {
            Ok(permit) => {
                assert!(paid);
                (0..2).for_each(|r| self.level[r] -= pace[r]);
                assert!(self.fits(n, class), "{n:?} of class {class} did not fit {:?}", self.in_use());
                if fault == Fault::Panic {
                    let hurt = catch_unwind(AssertUnwindSafe(|| {
                        let _permit = permit;
                        resume_unwind(Box::new("in hand"));
                    }));
                    assert!(hurt.is_err());
                    return;
                }
                let over = lease.map(|lease| self.time.now() + secs(lease));
                let permit = Some(permit);
                self.known.push(Known { permit, n, class, over, reports, owner: id, live: true });
            }
            Err(AcquireError::NeverFits { .. }) => assert!(!self.possible(n, class)),
            Err(AcquireError::Full { .. }) => assert!(fault == Fault::None && !self.fits(n, class)),
            Err(AcquireError::TimedOut { .. }) => assert!(!self.fits(n, class) && fault != Fault::Cancel),
            Err(AcquireError::Cancelled) => {
                assert!(!(self.fits(n, class) && paid) && fault == Fault::Cancel);
            }
            Err(AcquireError::Paced { .. }) => {
                assert!(self.fits(n, class) && !paid && fault != Fault::Cancel);
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// All that is free, so that who asks has to wait.
    fn fill(&mut self) {
        let used = self.in_use();
        let n = [0, 1, 2].map(|k| self.limits[k].saturating_sub(used[k]));
        let wait = Wait::new().priority(Priority::ALL[3]).while_holding();
        let permit = Some(self.manager.try_acquire_with(&demand(n), &wait).unwrap());
        self.known.push(Known { permit, n, class: 3, over: None, reports: true, owner: 0, live: true });
    }

    /// Another thread queues; then its wait ends by this.
    fn queued(&mut self, rng: &mut Rng, fault: Fault) {
        self.fill();
        let k = rng.below(3) as usize;
        let (mut n, mut class) = (rng.demand(), rng.below(4) as usize);
        n[k] += 1;
        if !self.possible(n, class) {
            (n, class) = ([0; 3], 3);
            n[k] = 1;
        }
        let (cancel, manager, asked) = (Cancel::new(), self.manager.clone(), demand(n));
        let mut wait = Wait::new().priority(Priority::ALL[class]).cancel(&cancel);
        if fault == Fault::Timeout {
            wait = wait.by(secs(1));
        }
        // Asks, and so ends what is over: that may suffice.
        self.look(n, class);
        let waits = !self.fits(n, class);
        let (tell, told) = mpsc::channel();
        let waiter = thread::spawn(move || {
            let got = manager.acquire_with(&asked, &wait);
            let error = got.as_ref().err().cloned();
            let hurt = catch_unwind(AssertUnwindSafe(|| {
                let _permit = got;
                if fault == Fault::Panic {
                    resume_unwind(Box::new("in hand"));
                }
            }));
            assert_eq!(hurt.is_err(), fault == Fault::Panic);
            let _ = tell.send(error);
        });
        let mut expected = None;
        if waits {
            self.until(|yard| yard.manager.waiting(KINDS[k]) == Some(1));
            WAITED[fault as usize - 1].fetch_add(1, Ordering::Relaxed);
            expected = self.end_wait(fault, (n, class), &cancel, rng);
        }
        match (told.recv_timeout(LONG).expect("it does not wait for ever"), expected) {
            (None, None) | (Some(AcquireError::Cancelled), Some(Fault::Cancel)) => {}
            (Some(AcquireError::TimedOut { .. }), Some(Fault::Timeout)) => {}
            (got, expected) => panic!("{got:?}, not {expected:?}"),
        }
        waiter.join().unwrap();
        self.known.retain(|known| known.owner != 0);
        self.conserved();
    }

    /// Ends the wait of who waits for `n`. The fault that it hears of; `None`: it was granted.
    fn end_wait(
        &mut self,
        fault: Fault,
        (n, class): ([u64; 3], usize),
        cancel: &Cancel,
        rng: &mut Rng,
    ) -> Option<Fault> {
        match fault {
            Fault::None | Fault::Cancel => cancel.cancel(),
            Fault::Timeout => self.advance(1),
            Fault::Panic => {
                // One by one; it is served as soon as there is enough, and not before.
                while !self.fits(n, class) {
                    assert!(KINDS.iter().any(|kind| self.manager.waiting(*kind) == Some(1)));
                    match self.known.iter().rposition(|known| known.permit.is_some()) {
                        Some(at) => drop(self.known.swap_remove(at).permit),
                        None => (0..2).for_each(|i| self.owner_ends(i)),
                    }
                }
                return None;
            }
            Fault::Lapse => {
                self.advance(1 + rng.below(4));
                self.swept();
                if self.fits(n, class) {
                    return None;
                }
                // Who waits ends what is over, also what holds nothing any more, and waits on.
                let now = self.time.now();
                self.until(|yard| yard.manager.next_expiry().is_none_or(|next| next > now));
                self.until(|yard| yard.seen() == yard.in_use());
                cancel.cancel();
                return Some(Fault::Cancel);
            }
        }
        Some(fault)
    }

    fn until(&self, so: impl Fn(&Yard) -> bool) {
        let start = Instant::now();
        while !so(self) {
            assert!(start.elapsed() < LONG, "{:?} are in use, not {:?}", self.seen(), self.in_use());
            thread::yield_now();
        }
    }

    fn seen(&self) -> [u64; 3] {
        KINDS.map(|kind| self.manager.in_use(kind).unwrap())
    }

    fn conserved(&self) {
        let used = self.in_use();
        assert_eq!(self.seen(), used);
        for (k, kind) in KINDS.iter().enumerate() {
            assert_eq!(self.manager.available(*kind), Some(self.limits[k] as i64 - used[k] as i64));
            assert_eq!(self.manager.waiting(*kind), Some(0));
        }
        for (r, (rate, _)) in RATES.iter().enumerate() {
            assert_eq!(self.manager.rate(*rate).unwrap().remaining(), self.level[r], "of rate {rate}");
        }
        let holding = self.known.iter().filter(|k| k.live && k.n != [0; 3]).count();
        assert_eq!(self.manager.holders().len(), holding);
    }

    /// All comes home: by drops, or by the owners' end.
    fn wind_up(mut self, by_owners: bool) {
        if by_owners {
            (0..2).for_each(|i| self.owner_ends(i));
            self.conserved();
        } else {
            for known in &mut self.known {
                known.live &= known.permit.take().is_none();
            }
            self.conserved();
            drop(std::mem::take(&mut self.owners));
        }
        assert_eq!(self.seen(), [0; 3]);
        assert_eq!(self.manager.holders().len(), 0);
        self.known.clear();
        assert_eq!(self.seen(), [0; 3]);
    }
}

fn run(ops: &[Op], faulty: usize, fault: Fault) {
    let mut yard = Yard::new();
    for (step, op) in ops.iter().enumerate() {
        if step == faulty {
            yard.queued(&mut Rng::new(ops.len() as u64 * 64 + step as u64), fault);
        }
        yard.apply(op, if step == faulty { fault } else { Fault::None });
        yard.conserved();
    }
    yard.wind_up(faulty.is_multiple_of(2));
}

#[test]
fn permits_are_conserved_whatever_fails_at_whichever_step() {
    // Panics without a hook's message: they are raised as unwinding alone.
    let threads: Vec<_> = (0..2)
        .map(|half| {
            thread::spawn(move || {
                for seed in (0..PROGRAMS).filter(|seed| seed % 2 == half) {
                    let ops = program(&mut Rng::new(seed + 1));
                    for step in 0..ops.len() {
                        let fault = FAULTS[(seed as usize / 2 + step) % 4];
                        let done = catch_unwind(|| run(&ops, step, fault));
                        assert!(done.is_ok(), "program {seed}, {fault:?} at step {step} of {ops:#?}");
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    for waited in &WAITED {
        let waited = waited.load(Ordering::Relaxed);
        assert!(waited > PROGRAMS, "{waited} waits only");
    }
}

/// Threads that wait, give up, are cancelled, panic, and lose permits whose owners end.
#[test]
fn a_storm_leaves_nothing_behind() {
    for seed in 0..20 {
        let manager = ResourceManager::builder()
            .quota("a", 3)
            .quota("b", 2)
            .quota("c", 4)
            .reserve_for("c", Priority::High, 1)
            .lease(secs(3600), OnExpiry::Report)
            .build()
            .unwrap();
        let (start, cancels) = (Barrier::new(5), [Cancel::new(), Cancel::new()]);
        thread::scope(|s| {
            for i in 0..4u64 {
                let (manager, start, cancels) = (&manager, &start, &cancels);
                s.spawn(move || {
                    let mut rng = Rng::new(seed * 31 + i + 1);
                    let owner = Owner::new("one of the storm");
                    start.wait();
                    for _ in 0..100 {
                        let n = rng.demand().map(|n| n.min(2));
                        let wait = Wait::new()
                            .by(Duration::from_micros(rng.below(300)))
                            .priority(Priority::ALL[rng.below(4) as usize])
                            .cancel(&cancels[rng.below(2) as usize])
                            .owned_by(&owner)
                            .while_holding();
                        let Ok(permit) = manager.acquire_with(&demand(n), &wait) else { continue };
                        assert!(KINDS.iter().all(|kind| manager.in_use(*kind).unwrap() <= 4));
                        match rng.below(8) {
                            0 => std::mem::forget(permit),
                            1 => {
                                let hurt = catch_unwind(AssertUnwindSafe(|| {
                                    let _permit = permit;
                                    resume_unwind(Box::new("in hand"));
                                }));
                                assert!(hurt.is_err());
                            }
                            _ => {}
                        }
                    }
                });
            }
            s.spawn(|| {
                start.wait();
                for _ in 0..50 {
                    manager.set_limit("a", 1).unwrap();
                    manager.sweep();
                    manager.set_limit("a", 3).unwrap();
                }
                cancels[0].cancel();
            });
        });
        assert_eq!(manager.holders().len(), 0, "the owners are gone");
        for (kind, limit) in [("a", 3), ("b", 2), ("c", 4)] {
            assert_eq!((manager.available(kind), manager.waiting(kind)), (Some(limit), Some(0)));
            let stats = manager.kind_stats(kind).unwrap();
            assert!(stats.granted > 0 && stats.high_water <= limit as u64, "{stats:?}");
        }
    }
}
