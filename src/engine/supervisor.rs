//! The supervisor: timers, deadlines, and items that do not come back. It waits for time only, never for a lane or
//! a worker.
//!
//! It sleeps until the nearest timer. While a worker has a chunk in hand that wants watching it also wakes for that:
//! after a millisecond for a chunk of several items (the current item may hold up its neighbours: the rest goes back
//! to the lane), and at the earliest deadline for items that have one. An item that starts after a look has its
//! deadline a whole timeout later, so sleeping for the least timeout never misses one.

use super::events::Event;
use super::lane::Shell;
use super::shared::Shared;
use super::slot::{Look, Slot};
use super::worker::{belong_to, caught};
use crate::core::attempt::{Abandon, Epoch};
use crate::job::{HaltReason, Priority};
use crate::policy;
use crate::sync::atomic::{Ordering, fence};
use crate::sync::{Arc, Parker, thread};
use crate::time::{Timestamp, millis, secs};
use std::collections::HashMap;
use std::time::Duration;

/// A current item may hold up its chunk this long.
const HOLD_UP: Duration = millis(1);
/// Watching goes on for this many looks after the last reason for it: stopping and starting costs a wake-up.
const LINGER: u32 = 16;
/// How often waiting lanes are looked at for ageing.
const AGEING_LOOK: Duration = secs(1);
/// After a look that panicked: one that does so every time must not keep a core busy.
const AFTER_PANIC: Duration = millis(100);

/// What the supervisor remembers from look to look.
#[derive(Default)]
struct Memory {
    /// By worker: the attempt that was cancelled, and when it will be abandoned.
    warned: HashMap<usize, (Epoch, Timestamp)>,
    /// Looks since the last reason to watch.
    calm: u32,
    next_ageing: Timestamp,
}

/// The supervisor thread.
pub(crate) fn supervise(shared: &Arc<Shared>, parker: &Parker) {
    let mut memory = Memory::default();
    belong_to(shared);
    while !shared.is_stopped() {
        shared.ticker.tick();
        let now = shared.clock.now();
        // A bug of ours. Without a supervisor no timer would come any more, and the engine would hang.
        let next = caught(|| look(shared, &mut memory, now)).unwrap_or(Some(now + AFTER_PANIC));
        shared.clock.park(parker, next);
    }
}

/// Looks at everything that is due; when to look again.
fn look(shared: &Arc<Shared>, memory: &mut Memory, now: Timestamp) -> Option<Timestamp> {
    let Memory { warned, calm, next_ageing } = memory;
    let (lanes, mut next) = shared.due(now);
    for shell in lanes {
        // What a lane drops is the user's, and the other lanes are due as well.
        let _ = caught(move || look_at_lane(shared, &shell, now));
    }
    for shell in shared.lanes() {
        shell.core.gate.retime(shared, &shell);
    }
    if shared.gate.has_losses() {
        // A limit may have fallen since.
        halt_impossible(shared);
    }
    if shared.watching.load(Ordering::Relaxed) {
        let look = look_at_workers(shared, warned, now);
        next = earliest(next, look);
        *calm = if look.is_some() { 0 } else { *calm + 1 };
        if *calm > LINGER {
            *calm = 0;
            shared.watching.store(false, Ordering::Relaxed);
            // ORDERING: SeqCst: see `Shared::watch`.
            fence(Ordering::SeqCst);
            if look_at_workers(shared, warned, now).is_some() {
                shared.watching.store(true, Ordering::Relaxed);
                next = earliest(next, Some(now + HOLD_UP));
            }
        } else if look.is_none() {
            next = earliest(next, Some(now + HOLD_UP));
        }
    }
    next = earliest(next, shared.gate.reclaim(now));
    shared.sample_throughput();
    if now >= *next_ageing {
        *next_ageing = now + AGEING_LOOK;
        if age(shared, now) {
            next = earliest(next, Some(*next_ageing));
        } else {
            *next_ageing = now;
        }
    } else {
        next = earliest(next, Some(*next_ageing));
    }
    next
}

fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn look_at_lane(shared: &Arc<Shared>, shell: &Arc<Shell>, now: Timestamp) {
    if shell.core.has_ended() {
        return;
    }
    if let Some(at) = shell.core.abandon_at().filter(|at| *at <= now) {
        let all = abandon_all(shared, shell, true);
        // An item may have begun while we looked.
        let again = if all { (now - at).max(HOLD_UP) } else { HOLD_UP };
        shared.schedule(now + again, shell);
        return;
    }
    if !shell.core.is_cancelled() && shell.core.deadline().is_some_and(|deadline| deadline <= now) {
        shared.halt(shell, HaltReason::Deadline);
        return;
    }
    shell.core.gate.due(shared, shell, now);
    shell.with(|body| body.due(shared, shell, now));
}

/// One look at every worker; when the next is due, if there is anything to watch.
fn look_at_workers(
    shared: &Arc<Shared>,
    warned: &mut HashMap<usize, (Epoch, Timestamp)>,
    now: Timestamp,
) -> Option<Timestamp> {
    let clock = &shared.clock;
    let mut next = None;
    let mut held_up: Vec<usize> = Vec::new();
    for id in 0..shared.slots.len() {
        let slot = Arc::clone(&shared.slots[id].lock());
        let Some((lane, several, since)) = slot.chunk() else { continue };
        if several {
            let hold_up = clock.at_raw(since) + HOLD_UP;
            if hold_up <= now {
                if !held_up.contains(&lane) {
                    held_up.push(lane);
                }
                // Once taken back nothing more is to be done for this item.
                next = earliest(next, Some(now + HOLD_UP));
            } else {
                next = earliest(next, Some(hold_up));
            }
        }
        let Some(shell) = shared.lane(lane) else { continue };
        let spec = &shell.core.spec;
        if spec.item_timeout.is_none() && spec.hang_after.is_none() {
            continue;
        }
        let least = [spec.item_timeout, spec.hang_after].into_iter().flatten().min().unwrap_or(HOLD_UP);
        let due = match slot.look() {
            // The worker went on to another lane since: what it has in hand now is not this lane's.
            Some(look) if look.lane != lane => Some(now + HOLD_UP),
            Some(look) => look_at_item(shared, &shell, &slot, look, warned, now),
            None => None,
        };
        next = earliest(next, Some(due.unwrap_or(now + least)));
    }
    for lane in held_up {
        if let Some(shell) = shared.lane(lane) {
            let before =
                clock.raw_at(Timestamp::from_nanos(now.as_nanos().saturating_sub(HOLD_UP.as_nanos() as u64)));
            shell.with(|body| body.take_back(shared, &shell, before));
        }
    }
    next
}

/// One item in hand: cancel it at its deadline, abandon it after the grace. When to look again.
fn look_at_item(
    shared: &Arc<Shared>,
    shell: &Arc<Shell>,
    slot: &Arc<Slot>,
    look: Look,
    warned: &mut HashMap<usize, (Epoch, Timestamp)>,
    now: Timestamp,
) -> Option<Timestamp> {
    let clock = &shared.clock;
    let spec = &shell.core.spec;
    if look.abandoned {
        return abandon(shared, shell, slot, look, false, now);
    }
    if let Some(&(attempt, abandon_at)) = warned.get(&slot.id) {
        if attempt == look.attempt {
            if now < abandon_at || !spec.may_abandon {
                return Some(abandon_at.max(now + HOLD_UP));
            }
            warned.remove(&slot.id);
            return abandon(shared, shell, slot, look, false, now);
        }
        warned.remove(&slot.id);
    }
    let deadline = (look.deadline != 0).then(|| clock.at_raw(look.deadline));
    let alive = clock.at_raw(look.since.max(look.heartbeat));
    let hangs_at = spec.hang_after.map(|after| alive + after);
    if hangs_at.is_some_and(|at| at <= now) {
        slot.cancel(look.attempt);
        if spec.may_abandon {
            return abandon(shared, shell, slot, look, true, now);
        }
        return Some(now + spec.grace);
    }
    if deadline.is_some_and(|at| at <= now) {
        slot.cancel(look.attempt);
        let abandon_at = now + spec.grace;
        warned.insert(slot.id, (look.attempt, abandon_at));
        return Some(abandon_at);
    }
    earliest(deadline, hangs_at)
}

/// The lane was cancelled and its grace is over: takes its items from the workers that have them. False: not all of
/// them yet, effects are on their way.
fn abandon_all(shared: &Arc<Shared>, shell: &Arc<Shell>, replace: bool) -> bool {
    let (mut all, mut lost) = (true, false);
    for id in 0..shared.slots.len() {
        let slot = Arc::clone(&shared.slots[id].lock());
        let Some(look) = slot.look() else { continue };
        // After the look: while the attempt is in hand its lane keeps its number.
        if !shared.lane(look.lane).is_some_and(|there| Arc::ptr_eq(&there, shell)) {
            continue;
        }
        match take_away(shared, shell, &slot, look, false) {
            Abandon::Done => {
                lost = true;
                if replace {
                    shared.replace(id);
                }
            }
            Abandon::NotCurrent => {}
            Abandon::Busy => all = false,
        }
    }
    if lost {
        after_losses(shared);
    }
    all
}

/// The engine's shutdown lets go of the items that do not stop. Those that borrow from their caller are waited for by
/// him.
pub(crate) fn let_go(shared: &Arc<Shared>, shell: &Arc<Shell>) {
    if shell.core.spec.may_abandon && !shell.core.has_ended() {
        // The supervisor looks no more once the engine has stopped. An effect is on its way as long as a push takes.
        while !abandon_all(shared, shell, false) {
            thread::yield_now();
        }
    }
}

/// When to look at the item again, if that is known.
fn abandon(
    shared: &Arc<Shared>,
    shell: &Arc<Shell>,
    slot: &Arc<Slot>,
    look: Look,
    hung: bool,
    now: Timestamp,
) -> Option<Timestamp> {
    match take_away(shared, shell, slot, look, hung) {
        Abandon::Done => {}
        Abandon::NotCurrent => return None,
        Abandon::Busy => return Some(now + HOLD_UP),
    }
    shared.replace(slot.id);
    let counts = &shell.core.counts;
    let limit = u64::from(shell.core.spec.max_abandoned);
    let abandoned = counts.abandoned.get().saturating_sub(counts.late.get());
    if abandoned > limit {
        shared.halt(shell, HaltReason::Abandoned { abandoned, limit });
    }
    after_losses(shared);
    None
}

/// What was lost may be what others wait for: lanes, and items inside.
fn after_losses(shared: &Arc<Shared>) {
    halt_impossible(shared);
    for slot in &shared.slots {
        slot.lock().wake_sleepers();
    }
}

fn halt_impossible(shared: &Arc<Shared>) {
    for shell in shared.lanes() {
        if let Some(demand) = shell.core.gate.impossible(shared, shell.core.class()) {
            shared.halt(&shell, HaltReason::Impossible { demand });
        }
    }
}

/// Takes an attempt from its worker and, once its effects have arrived, settles its item. `NotCurrent`: it came back
/// just now, or somebody else took it. `Busy`: its worker has lost it, and it is to be looked at again.
fn take_away(shared: &Arc<Shared>, shell: &Arc<Shell>, slot: &Arc<Slot>, look: Look, hung: bool) -> Abandon {
    let demand = shell.with(|body| body.demand_in_hand(slot.id)).unwrap_or_default();
    // The supervisor and the shutdown may be here at once: what is charged and counted is so once.
    let mut taken = slot.taken.lock();
    let before = taken.filter(|(attempt, _)| *attempt == look.attempt);
    if before.is_none() {
        shared.gate.charge(slot, slot.owner(look.attempt), demand, shell);
    }
    // Before it is lost: its thread may return at once, and counts itself out.
    if before.is_none() {
        shared.stuck.fetch_add(1, Ordering::AcqRel);
    }
    let answer = slot.abandon(look.attempt);
    let mut is_lost = false;
    match before {
        None if answer == Abandon::NotCurrent => {
            shared.stuck.fetch_sub(1, Ordering::AcqRel);
            shared.gate.uncharge(slot);
        }
        None => {
            *taken = Some((look.attempt, hung));
            is_lost = true;
        }
        Some(_) => {}
    }
    drop(taken);
    if is_lost {
        shared.gate.lose(slot, shared.clock.now());
        shell.core.counts.abandoned.add(1);
    }
    if answer == Abandon::Done {
        let hung = before.map_or(hung, |(_, hung)| hung);
        shared.event(&Event::ItemAbandoned { batch: &shell.core.name, worker: slot.id });
        shell.with(|body| body.abandon(shared, shell, slot, look.at, hung));
    }
    answer
}

/// Lets lanes that have waited long be served once in a higher class. Whether any lane may have to wait.
fn age(shared: &Arc<Shared>, now: Timestamp) -> bool {
    let lanes = shared.lanes();
    for shell in &lanes {
        let core = &shell.core;
        if !core.word.is_ready() {
            continue;
        }
        let class = usize::from(core.tunables.get().class);
        let waited = now - Timestamp::from_nanos(core.served.load(Ordering::Relaxed));
        let aged = policy::ageing::aged(Priority::from_class(class), waited).class();
        if aged > class {
            shared.ready.mark(core.index(), aged);
        }
    }
    // A lane alone has nobody to wait for.
    lanes.len() > 1
}
