//! [`Names`]: which lock has which name.
//!
//! A lock has its name for as long as somebody holds it, waits for it, or has done so not long ago. The table is in parts, each
//! under a short latch; a part takes their names from those that are idle whenever it has doubled, and gives them others later.
//! So there are about twice as many locks as ever were in use at once, and they stay until the manager is dropped.
//!
//! *What is done most often takes no latch.* [Hints] tell which lock had this name when it was last looked up. Who follows one
//! sees by a tag of the name whether that is out of date, enters the lock, and looks at its name then, which nobody changes while
//! it is held: see [`plate`](crate::core::plate). If it has another, or cannot be entered at once, the table is asked.
//!
//! *Two hashes.* Names may be somebody else's. The table goes by SipHash, as the standard library's does, since who could make
//! many names of one hash would make it slow for all. The hints go by a fast one: such names would only push each other out, and
//! of two of one hash nothing is told.

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
use std::ptr::NonNull;

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

/// Who holds a lock, and runs code of the user's before it knows whether it keeps it: unless it does, it gives it back.
struct Unsure<'a, K> {
    names: &'a Names<K>,
    name: Pinned<K>,
    mode: Mode,
}

impl<K> Unsure<'_, K> {
    #[inline]
    fn keep(self) -> Pinned<K> {
        let name = self.name;
        std::mem::forget(self);
        name
    }
}

impl<K> Drop for Unsure<'_, K> {
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
        (tag, called): (u64, Called<K>),
        mode: Mode,
        owner: u32,
        now: &impl Fn() -> u64,
    ) -> (Arc<Name<K>>, Vec<Called<K>>) {
        let idle = if self.names.len() >= self.sweep_at { self.sweep(now) } else { Vec::new() };
        let hash = called.hash;
        let name = match self.spare.pop() {
            Some(name) => {
                // SAFETY: those to spare are closed, and their names are taken.
                unsafe { name.plate.open_as(tag, called, mode, owner) };
                name
            }
            None => {
                let name = Arc::new(Name::new(tag, called));
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
    match name.raw().word().try_enter_under_latch(mode, class, owner) {
        Ok(()) => {
            name.count(mode);
            // SAFETY: it is held from now on.
            Ok(unsafe { Pinned::new(pointer(name)) })
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
        let hash = self.fast_seeds.hash(key);
        let found = self.hints.look(hash)?;
        // SAFETY: what is told of is freed with the manager.
        let name = unsafe { found.as_ref() };
        if name.plate.tag() != hash || !name.raw().word().try_enter_by_mask(mode, owner) {
            return None;
        }
        // SAFETY: it is held from now on.
        let held = Unsure { names: self, name: unsafe { Pinned::new(found) }, mode };
        if !held.name.is_called(key) {
            // Before it goes back: its tag is that of its name.
            self.differ(hash, found);
            return None;
        }
        held.name.name().count(mode);
        Some(held.keep())
    }

    /// Who looks for one name would hold the lock of another each time, if both have this hash.
    #[cold]
    fn differ(&self, hash: u64, name: NonNull<Name<K>>) {
        // SAFETY: what is told of is freed with the manager.
        if unsafe { name.as_ref() }.plate.tag() == hash {
            self.hints.avoid(hash, name);
        }
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
        let (name, idle) = there.add((fast_hash, called), mode, owner, &|| self.clock.now().as_nanos());
        let all = (there.names.len() + there.spare.len()) * SHARDS;
        drop(there);
        // SAFETY: it is held.
        let held = Unsure { names: self, name: unsafe { Pinned::new(pointer(&name)) }, mode };
        drop(idle); // the user's, it may panic
        self.hints.make_room(all);
        tell(&name);
        Ok(held.keep())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: (Mode, usize) = (Mode::Exclusive, 1);

    fn take(names: &Names<u64>, key: u64) {
        let held = names.enter_at_once(&key, X.0, 1).or_else(|| names.enter(&key, X, 1).ok());
        held.expect("free").leave(X.0, || 0);
    }

    fn plates(names: &Names<u64>) -> usize {
        names.shards.iter().map(|shard| shard.lock()).map(|shard| shard.names.len() + shard.spare.len()).sum()
    }

    /// However many names there are, the locks of those that are idle serve the next.
    #[test]
    fn locks_are_used_again() {
        let names = Names::new(Clock::os());
        let kept = names.enter(&u64::MAX, X, 2).ok().expect("free");
        for round in 0..3 {
            (0..40_000).for_each(|key| take(&names, key << 2 | round));
            assert!(plates(&names) <= SHARDS * FEW, "{}", plates(&names));
        }
        assert!(names.enter(&u64::MAX, X, 1).is_err() && names.enter_at_once(&u64::MAX, X.0, 1).is_none());
        kept.leave(X.0, || 0);
        let mut stats = LockStats::default();
        names.tell(&mut stats);
        assert_eq!(stats.exclusive, 120_001);
    }

    /// A name is found by what was told of it, until its lock has another.
    #[test]
    fn a_hint_that_is_out_of_date_leads_nowhere() {
        let names = Names::new(Clock::os());
        let hash = names.fast_seeds.hash(&7_u64);
        let led = |key: u64| names.enter_at_once(&key, X.0, 1).map(|held| held.leave(X.0, || 0)).is_some();
        assert!(!led(7));
        take(&names, 7);
        assert!(led(7) && led(7) && !led(8));
        let found = names.hints.look(hash).expect("told");
        (100..100 + 3 * (SHARDS * FEW) as u64).for_each(|key| take(&names, key));
        // Room was made since, and nothing is told of it. As if it were:
        // SAFETY: it is a lock of these names.
        unsafe { names.hints.tell(hash, found) };
        assert!(names.hints.look(hash) == Some(found) && !led(7));
        take(&names, 7);
        assert!(led(7));
    }

    /// Names of one hash.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Same(u32);

    impl Hash for Same {
        fn hash<H: std::hash::Hasher>(&self, hasher: &mut H) {
            0.hash(hasher);
        }
    }

    #[test]
    fn nothing_is_told_of_two_names_of_one_hash() {
        let names = Names::new(Clock::os());
        let hash = names.fast_seeds.hash(&Same(0));
        let take = |key| names.enter(&Same(key), X, 1).ok().expect("free").leave(X.0, || 0);
        take(1);
        take(2);
        assert!(names.hints.look(hash).is_some());
        // Who is led to the other's lock gives it back.
        assert!(names.enter_at_once(&Same(1), X.0, 1).is_none() && names.hints.look(hash).is_none());
        take(1);
        take(2);
        assert!(names.hints.look(hash).is_none() && names.enter_at_once(&Same(2), X.0, 1).is_none());
    }
}
