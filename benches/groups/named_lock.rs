//! `LockManager` on 1,024 names against what one writes without it: a map from names to parking_lot locks, under a mutex.
//!
//! Each thread has a session, goes through the names in an order of its own, takes one and gives it back; of four, one is
//! taken alone and three are shared. The map keeps every lock for ever, ours lets go of those that nobody uses.

use crate::common::rounds::{Contest, Plan, hold as hold_rounds, operation};
use crate::common::row::Row;
use batchyard::lock::{LockError, LockManager, Mode};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const NAMES: usize = 1024;
/// At one thread at least the throughput, at two at least twice.
const TARGETS: [(usize, f64); 2] = [(1, 1.0), (2, 0.5)];

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    let names: Vec<String> = (0..NAMES).map(|name| format!("account {name}")).collect();
    let (names, ours, theirs) = (&names[..], &LockManager::<String>::new(), &Map::default());
    do_their_work(ours, theirs);
    let seeds = &AtomicUsize::new(0);
    let walk = || Walk(seeds.fetch_add(0x9e37_79b9, Ordering::Relaxed) as u32 | 1);
    let contest = |(threads, target)| {
        Contest::new(
            "1,024 names, one of four alone",
            threads,
            target,
            operation(threads, move || {
                let (session, mut walk) = (ours.session(), walk());
                move || {
                    let (name, alone) = walk.next();
                    let mode = if alone { Mode::Exclusive } else { Mode::Shared };
                    session.lock(names[name].as_str(), mode).is_ok()
                }
            }),
        )
        .against(
            "Mutex of a map of parking_lot RwLocks",
            operation(threads, move || {
                let mut walk = walk();
                move || {
                    let (name, alone) = walk.next();
                    let lock = theirs.get(&names[name]);
                    if alone {
                        drop(lock.write())
                    } else {
                        drop(lock.read())
                    }
                    true
                }
            }),
        )
    };
    hold_rounds(group, plan, TARGETS.map(contest).into())
}

/// A cheap order of the names (Marsaglia's xorshift).
struct Walk(u32);

impl Walk {
    /// A name, and whether its lock is taken alone.
    fn next(&mut self) -> (usize, bool) {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        (self.0 as usize % NAMES, self.0 >> 30 == 0)
    }
}

#[derive(Default)]
struct Map(Mutex<HashMap<String, Arc<RwLock<()>>>>);

impl Map {
    fn get(&self, name: &str) -> Arc<RwLock<()>> {
        let mut map = self.0.lock();
        if let Some(lock) = map.get(name) {
            return Arc::clone(lock);
        }
        Arc::clone(map.entry(name.to_owned()).or_default())
    }
}

/// Shared with those that share, and with nobody else.
fn do_their_work(ours: &LockManager<String>, theirs: &Map) {
    let (one, other) = (ours.session(), ours.session());
    let shared = one.lock("a", Mode::Shared).expect("free");
    assert!(other.try_lock("a", Mode::Shared).is_ok());
    assert!(matches!(other.try_lock("a", Mode::Exclusive), Err(LockError::WouldBlock)));
    drop(shared);
    let _alone = one.lock("a", Mode::Exclusive).expect("free again");
    assert!(matches!(other.try_lock("a", Mode::Shared), Err(LockError::WouldBlock)));
    assert!(other.try_lock("b", Mode::Exclusive).is_ok());

    let (lock, same) = (theirs.get("a"), theirs.get("a"));
    let shared = lock.read();
    assert!(same.try_read().is_some() && same.try_write().is_none());
    drop(shared);
    let _alone = lock.write();
    assert!(same.try_read().is_none() && theirs.get("b").try_write().is_some());
}
