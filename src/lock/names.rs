//! [`Names`]: which lock has which name.
//!
//! A lock has its name for as long as somebody holds it, waits for it, or has done so not long ago. The table is in parts, each
//! under a short latch; a part takes their names from those that are idle whenever it has doubled, and gives them others later.
//! So there are about twice as many locks as ever were in use at once, and they stay until the manager is dropped.
//!
//! *What is done most often takes no latch.* [Hints] tell which lock had this name when it was last looked up. Who follows one
//! enters the lock, and looks at its name then, which nobody changes while it is held: see [`plate`](crate::core::plate). If
//! it has another, or cannot be entered at once, the table is asked.
//!
//! *Two hashes.* Names may be somebody else's. The table goes by SipHash, as the standard library's does, since who could make
//! many names of one hash would make it slow for all. The hints go by a fast one: such names would only push each other out.

use super::body::unpark;
use super::house;
use super::levelled::Levelled;
use super::manager::LockName;
use super::name::{Called, Name, Pinned, pointer};
use super::stats::LockStats;
use crate::core::hints::Hints;
use crate::core::lockword::{Miss, Mode};
use crate::job::Priority;
use crate::seeds::{FastSeeds, Seeds};
use crate::sync::atomic::{Ordering, fence};
use crate::sync::{Arc, CachePadded};
use crate::time::Clock;
use hashbrown::HashTable;
use std::borrow::Borrow;
use std::hash::Hash;

/// A power of two: so many threads that their names fall into one part are rare.
const SHARDS: usize = 64;
/// A part that has fewer locks is not swept.
const FEW: usize = 64;

/// See the head.
pub(super) struct Names<K> {
    fast_seeds: FastSeeds,
    hints: Hints<Name<K>>,
    seeds: Seeds,
    shards: Box<[CachePadded<Levelled<Shard<K>, house::LockNames>>]>,
    clock: Clock,
}

struct Shard<K> {
    names: HashTable<Arc<Name<K>>>,
    /// Closed, and without a name.
    spare: Vec<Arc<Name<K>>>,
    sweep_at: usize,
}

/// Who holds a lock, and code of the user's is to be run before that is known to be right: gives it back unless told to keep it.
struct Held<'a, K> {
    names: &'a Names<K>,
    name: Pinned<K>,
    mode: Mode,
}

impl<K> Held<'_, K> {
    #[inline]
    fn keep(self) -> Pinned<K> {
        let name = self.name;
        std::mem::forget(self);
        name
    }
}

impl<K> Drop for Held<'_, K> {
    #[cold]
    fn drop(&mut self) {
        self.name.leave(self.mode, || self.names.clock.now().as_nanos());
    }
}

/// A lock that is held now, or which one it is.
type Entered<K> = Result<Pinned<K>, (Arc<Name<K>>, Miss)>;

impl<K> Shard<K> {
    fn new() -> Self {
        Shard { names: HashTable::new(), spare: Vec::new(), sweep_at: FEW }
    }

    fn find<Q: Eq + ?Sized>(&self, hash: u64, key: &Q) -> Option<&Arc<Name<K>>>
    where
        K: Borrow<Q>,
    {
        let is = |name: &Arc<Name<K>>| {
            // SAFETY: the latch is the caller's, and this is its table.
            unsafe {
                name.plate.with_name(|called| {
                    called.is_some_and(|called| called.hash == hash && called.key.borrow() == key)
                })
            }
        };
        self.names.find(hash, is)
    }

    /// Adds one that is not there, held in this mode. The names of idle ones come back.
    fn add(
        &mut self,
        called: Called<K>,
        mode: Mode,
        owner: u32,
        now: &impl Fn() -> u64,
    ) -> (Arc<Name<K>>, Vec<Called<K>>) {
        let idle = if self.names.len() >= self.sweep_at { self.sweep(now) } else { Vec::new() };
        let hash = called.hash;
        let name = match self.spare.pop() {
            Some(name) => {
                // SAFETY: those to spare are closed, and their names are taken.
                unsafe { name.plate.open_as(called, mode, owner) };
                name
            }
            None => {
                let name = Arc::new(Name::new(called));
                // Nobody else has it.
                let entered = name.raw().word().try_enter(mode, Priority::Normal.class(), owner);
                debug_assert!(entered.is_ok());
                name.count(mode);
                name
            }
        };
        self.names.insert_unique(hash, Arc::clone(&name), Self::hash_of);
        (name, idle)
    }

    fn hash_of(name: &Arc<Name<K>>) -> u64 {
        // SAFETY: as in `find`.
        unsafe { name.plate.with_name(|called| called.map_or(0, |called| called.hash)) }
    }

    /// Takes the names of those that nobody has to do with. To be dropped behind the latch, for they are the user's.
    fn sweep(&mut self, now: &impl Fn() -> u64) -> Vec<Called<K>> {
        let is_idle = |name: &mut Arc<Name<K>>| {
            let is_sole = || {
                let sole = Arc::strong_count(name) == 1;
                // ORDERING: Acquire pairs with the Release of who gave its count up: it has done with the name.
                fence(Ordering::Acquire);
                sole
            };
            name.plate.try_close(is_sole, now, &mut unpark)
        };
        let idle: Vec<_> = self.names.extract_if(is_idle).collect();
        // SAFETY: they were closed just now.
        let names = idle.iter().filter_map(|name| unsafe { name.plate.take_name() }).collect();
        self.spare.extend(idle);
        self.sweep_at = (self.names.len() * 2).max(FEW);
        self.names.shrink_to(self.sweep_at, Self::hash_of);
        names
    }
}

/// Under the latch of its part of the table.
fn enter_as<K>(name: &Arc<Name<K>>, (mode, class): (Mode, usize), owner: u32) -> Entered<K> {
    match name.raw().word().try_enter(mode, class, owner) {
        Ok(()) => {
            name.count(mode);
            // SAFETY: it is held from now on.
            Ok(unsafe { Pinned::new(name) })
        }
        Err(miss) => Err((Arc::clone(name), miss)),
    }
}

impl<K> Names<K> {
    pub(super) fn new(clock: Clock) -> Self {
        let shards = std::iter::repeat_with(|| CachePadded::new(Levelled::new(Shard::new())));
        Names {
            fast_seeds: FastSeeds::default(),
            hints: Hints::new(),
            seeds: Seeds::random(),
            shards: shards.take(SHARDS).collect(),
            clock,
        }
    }

    /// How many there are, idle ones among them.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().names.len()).sum()
    }

    /// Tells of all, those among it that have no name.
    pub(super) fn tell(&self, stats: &mut LockStats) {
        for shard in &self.shards {
            let shard = shard.lock();
            for name in shard.names.iter().chain(&shard.spare) {
                name.tell(stats);
            }
        }
    }
}

impl<K: LockName> Names<K> {
    /// Takes the lock of this name, if it was asked for not long ago, and nobody is in the way.
    #[inline]
    pub(super) fn enter_at_once<Q>(&self, key: &Q, mode: Mode, owner: u32) -> Option<Pinned<K>>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let name = self.hints.look(self.fast_seeds.hash(key))?;
        // SAFETY: what is told of is freed with the manager.
        if !unsafe { name.as_ref() }.raw().word().try_enter_by_mask(mode, owner) {
            return None;
        }
        let held = Held { names: self, name: Pinned(name), mode };
        if !held.name.is_called(key) {
            return None;
        }
        held.name.name().count(mode);
        Some(held.keep())
    }

    /// Takes the lock of this name, if that needs no waiting; else tells which it is.
    pub(super) fn enter<Q>(&self, key: &Q, (mode, class): (Mode, usize), owner: u32) -> Entered<K>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let hash = self.seeds.hash(key);
        // Bits from the middle: the table in the shard goes by the lowest, and by the topmost.
        let shard = &self.shards[(hash >> 32) as usize % SHARDS];
        let fast_hash = self.fast_seeds.hash(key);
        // SAFETY: what is told of is freed with the manager.
        let tell = |name: &Arc<Name<K>>| unsafe { self.hints.tell(fast_hash, pointer(name)) };
        let enter = |name: &Arc<Name<K>>| {
            tell(name);
            enter_as(name, (mode, class), owner)
        };
        if let Some(name) = shard.lock().find(hash, key) {
            return enter(name);
        }
        // The user's, so it is made and dropped under no latch. Another may have been faster.
        let called = Called { hash, key: key.to_owned() };
        let mut there = shard.lock();
        if let Some(name) = there.find(hash, key) {
            return enter(name);
        }
        let (name, idle) = there.add(called, mode, owner, &|| self.clock.now().as_nanos());
        let all = (there.names.len() + there.spare.len()) * SHARDS;
        drop(there);
        // SAFETY: it is held.
        let held = Held { names: self, name: unsafe { Pinned::new(&name) }, mode };
        drop(idle); // the user's, it may panic
        self.hints.make_room(all);
        tell(&name);
        Ok(held.keep())
    }
}
