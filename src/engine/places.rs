//! Who has a place among the active lanes, and which number: entering, waiting, displacing, leaving.
//!
//! A lane's number (a bit in the ready set, a cap in the gate, a pass) is one of [`LANES`]; batches have places for
//! the numbers, at most `max_concurrent_batches`, and some numbers are left to `map` and `spawn`. All of it changes
//! under one latch, which nothing hot takes: workers read the table of lanes, one short latch a lane.

use super::error::Error;
use super::gate::LANES;
use super::lane::{Shell, paused};
use super::shared::Shared;
use crate::core::laneword::LaneWord;
use crate::core::tenancy::Tenant;
use crate::job::Priority;
use crate::policy;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use std::cmp::Reverse;

/// Lane numbers that batches leave to `map` and `spawn`.
const RESERVED: u32 = 4;

/// A place among the active lanes.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) free: u64,
    /// Batches that have a place, in the order they got it.
    pub(super) active: Vec<Arc<Shell>>,
    /// Batches that wait for one; displaced ones too.
    pub(super) waiting: Vec<Arc<Shell>>,
    pub(super) max: usize,
}

impl Shared {
    pub(crate) fn lane(&self, index: usize) -> Option<Arc<Shell>> {
        self.lanes[index].lock().clone()
    }

    /// Lanes that have a place.
    pub(crate) fn lanes(&self) -> Vec<Arc<Shell>> {
        self.lanes.iter().filter_map(|lane| lane.lock().clone()).collect()
    }

    /// Batches, with a place or waiting for one, in the order they came.
    pub(crate) fn batches(&self) -> Vec<Arc<Shell>> {
        let places = self.places.lock();
        places.active.iter().chain(&places.waiting).cloned().collect()
    }

    /// Who has this number; read before a look at the lane, for [`forget`](Self::forget).
    pub(super) fn tenant(&self, lane: usize) -> Tenant {
        self.tenancy.at(lane)
    }

    /// Clears a hint after a look at the lane that had the number then.
    pub(super) fn forget(&self, lane: usize, class: usize, word: &LaneWord, then: Tenant) {
        self.tenancy.forget(&self.ready, lane, class, word, then);
    }

    /// Uses the lane's number, if it still has one, with the place held for it.
    pub(crate) fn with_place(&self, shell: &Arc<Shell>, f: impl FnOnce(usize)) {
        if shell.core.is_placed() {
            let index = shell.core.index();
            let lane = self.lanes[index].lock();
            if lane.as_ref().is_some_and(|there| Arc::ptr_eq(there, shell)) {
                f(index);
            }
        }
    }

    /// Gives a lane outside the count of batches (`map`, `spawn`) its place.
    pub(crate) fn place_now(&self, shell: &Arc<Shell>) -> Result<(), Error> {
        let mut places = self.places.lock();
        self.check_open()?;
        self.join_pause(shell);
        let seated = self.seat(&mut places, shell);
        let several = places.free.count_zeros() > 1;
        drop(places);
        if several {
            self.nudge(); // lanes that wait for each other age
        }
        seated
    }

    /// A lane that comes while the engine is paused stands still too. Under the latch of the places.
    fn join_pause(&self, shell: &Arc<Shell>) {
        if self.paused.load(Ordering::Relaxed) {
            self.stand_still(shell, paused::ENGINE);
        }
    }

    /// Whether lanes that come from now on stand still. Those that are there are paused by the caller.
    pub(crate) fn set_paused(&self, paused: bool) {
        let _places = self.places.lock();
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Whether a batch of this name has a place, or waits for one.
    pub(crate) fn is_under_way(&self, name: &str) -> bool {
        let places = self.places.lock();
        places.active.iter().chain(&places.waiting).any(|batch| batch.core.name == name)
    }

    /// Enters a batch: it gets a place, or waits for one. The caller tells that it has started, and takes hands off the lane that
    /// had to make room: both with no latch held, for they come to code and values of the user's.
    pub(crate) fn enter(&self, shell: &Arc<Shell>) -> Result<Option<Arc<Shell>>, Error> {
        let mut places = self.places.lock();
        self.check_open()?;
        let name = &shell.core.name;
        if places.active.iter().chain(&places.waiting).any(|other| other.core.name == *name) {
            return Err(Error::BatchActive { name: name.clone() });
        }
        self.join_pause(shell);
        shell.core.steer.lock().announced = true;
        let mut displaced = None;
        // A displaced lane keeps its number. So one is only displaced while some are left, and a batch for which there
        // is none waits, like one without a place.
        let numbers = places.free.count_ones();
        if places.active.len() >= places.max || numbers == 0 {
            let newcomer = Priority::from_class(usize::from(shell.core.tunables.get().class));
            let seats: Vec<_> = places
                .active
                .iter()
                .enumerate()
                .map(|(i, active)| policy::displace::Seat {
                    priority: Priority::from_class(usize::from(active.core.tunables.get().class)),
                    since: i as u64,
                })
                .collect();
            match policy::displace::displaced(&seats, newcomer) {
                Some(lowest) if numbers > RESERVED => {
                    let shell = places.active.remove(lowest);
                    // Before anybody can give it a place again.
                    self.stand_still(&shell, paused::DISPLACED);
                    places.waiting.insert(0, Arc::clone(&shell));
                    displaced = Some(shell);
                }
                _ => {
                    places.waiting.push(Arc::clone(shell));
                    return Ok(None);
                }
            }
        }
        // There is a number: nobody has been displaced for nothing.
        self.seat(&mut places, shell)?;
        places.active.push(Arc::clone(shell));
        drop(places);
        self.nudge();
        Ok(displaced)
    }

    fn seat(&self, places: &mut Places, shell: &Arc<Shell>) -> Result<(), Error> {
        let core = &shell.core;
        if !core.is_placed() {
            if places.free == 0 {
                return Err(Error::TooManyLanes { limit: LANES });
            }
            // Not a number under whose cap an abandoned attempt of another lane still counts, if there is a choice.
            let index = (0..LANES)
                .filter(|index| places.free & 1 << index != 0)
                .find(|index| !self.gate.is_lane_charged(*index))
                .unwrap_or(places.free.trailing_zeros() as usize);
            places.free &= !(1 << index);
            core.place(index);
            let tunables = core.tunables.get();
            self.gate.set_lane_cap(self, index, tunables.cap);
            self.passes[index].store(
                self.virtual_time[usize::from(tunables.class)].load(Ordering::Relaxed),
                Ordering::Relaxed,
            );
            // It stands still, or is empty, until after this.
            self.tenancy.move_in(index, || *self.lanes[index].lock() = Some(Arc::clone(shell)));
        }
        self.resume_lane(shell, paused::DISPLACED);
        Ok(())
    }

    /// Takes an ended lane's place away and gives it to the next in line.
    pub(crate) fn leave(&self, shell: &Arc<Shell>) {
        let core = &shell.core;
        core.gate.withdraw(self, core);
        let mut places = self.places.lock();
        places.active.retain(|other| !Arc::ptr_eq(other, shell));
        places.waiting.retain(|other| !Arc::ptr_eq(other, shell));
        if core.is_placed() {
            let index = core.index();
            let mut lane = self.lanes[index].lock();
            if lane.as_ref().is_some_and(|there| Arc::ptr_eq(there, shell)) {
                *lane = None;
                drop(lane);
                for class in 0..Priority::CLASSES {
                    self.ready.clear(index, class, &self.void);
                }
                places.free |= 1 << index;
            }
        }
        while places.active.len() < places.max && !places.waiting.is_empty() {
            // The highest class, of those the one that waits longest.
            let next = places
                .waiting
                .iter()
                .enumerate()
                .max_by_key(|(i, shell)| (shell.core.tunables.get().class, Reverse(*i)))
                .map_or(0, |(i, _)| i);
            let next = places.waiting.remove(next);
            if self.seat(&mut places, &next).is_ok() {
                places.active.push(next);
            } else {
                places.waiting.insert(0, next);
                break;
            }
        }
        drop(places);
        self.nudge();
    }
}
