//! `ResourceManager::try_acquire` of one of a kind and the permit's drop, against what one writes oneself for the same
//! duties: a parking_lot `Mutex` around a `HashMap` of counts by name and a list of who holds what since when, with an
//! entry added and taken away.
//!
//! Both tell whether there is enough, keep the owner's name, the place of the call and the time, and give back when the
//! permit is dropped. Ours also counts, meters and can end permits by a lease; theirs does not.

use crate::common::rounds::{Contest, Plan, hold as hold_rounds, operation};
use crate::common::row::Row;
use batchyard::resource::{Demand, Wait};
use batchyard::{ResourceKind, ResourceManager};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::panic::Location;
use std::sync::Arc;
use std::time::Instant;

const TARGET: f64 = 1.0;
const LIMIT: u64 = 64;
const KINDS: [&str; 3] = ["database_connection", "gpu", "memory"];

pub(crate) fn hold(group: &str, plan: &Plan) -> Vec<Row> {
    let manager = KINDS.iter().fold(ResourceManager::builder(), |b, kind| b.quota(*kind, LIMIT));
    let (ours, theirs) = (manager.build().expect("valid limits"), Theirs::new());
    let demand = Demand::from(ResourceKind::from(KINDS[0]));
    let wait = Wait::new().owner("bench");
    let owner: Arc<str> = "bench".into();
    let mine: Vec<_> = (0..LIMIT).map_while(|_| ours.try_acquire_with(&demand, &wait).ok()).collect();
    let others: Vec<_> = (0..LIMIT).map_while(|_| theirs.try_acquire(KINDS[0], &owner)).collect();
    assert!(mine.len() == LIMIT as usize && others.len() == LIMIT as usize);
    assert!(ours.try_acquire_with(&demand, &wait).is_err() && theirs.try_acquire(KINDS[0], &owner).is_none());
    assert!(ours.holders().len() == LIMIT as usize && theirs.inner.lock().holders.len() == LIMIT as usize);
    assert!(ours.holders()[0].owner == "bench" && others[0].holder().is_some());
    drop((mine, others));
    assert!(ours.holders().is_empty() && theirs.inner.lock().holders.is_empty());
    let contests = [1, 2].into_iter().map(|threads| {
        Contest::new(
            "try_acquire and drop of a permit",
            threads,
            TARGET,
            operation(threads, || || ours.try_acquire_with(&demand, &wait).is_ok()),
        )
        .against(
            "parking_lot Mutex<HashMap> with owners",
            operation(threads, || || theirs.try_acquire(KINDS[0], &owner).is_some()),
        )
    });
    hold_rounds(group, plan, contests.collect())
}

/// What a program without us would have.
struct Theirs {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    counts: HashMap<String, u64>,
    holders: Vec<Holder>,
    last: u64,
}

/// What a leak report needs.
#[derive(Clone, Debug)]
#[allow(dead_code)] // it is kept, as ours is
struct Holder {
    id: u64,
    owner: Arc<str>,
    place: &'static Location<'static>,
    since: Instant,
}

struct Held {
    inner: Arc<Mutex<Inner>>,
    kind: &'static str,
    id: u64,
}

impl Theirs {
    fn new() -> Self {
        let counts = KINDS.iter().map(|kind| ((*kind).to_owned(), LIMIT)).collect();
        Theirs { inner: Arc::new(Mutex::new(Inner { counts, holders: Vec::new(), last: 0 })) }
    }

    #[track_caller]
    fn try_acquire(&self, kind: &'static str, owner: &Arc<str>) -> Option<Held> {
        let mut inner = self.inner.lock();
        let count = inner.counts.get_mut(kind)?;
        *count = count.checked_sub(1)?;
        inner.last += 1;
        let id = inner.last;
        let owner = Arc::clone(owner);
        inner.holders.push(Holder { id, owner, place: Location::caller(), since: Instant::now() });
        drop(inner);
        Some(Held { inner: Arc::clone(&self.inner), kind, id })
    }
}

impl Held {
    fn holder(&self) -> Option<Holder> {
        self.inner.lock().holders.iter().find(|holder| holder.id == self.id).cloned()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut inner = self.inner.lock();
        if let Some(count) = inner.counts.get_mut(self.kind) {
            *count += 1;
        }
        // The last one first: whoever took it a moment ago.
        if let Some(at) = inner.holders.iter().rposition(|holder| holder.id == self.id) {
            inner.holders.swap_remove(at);
        }
    }
}
