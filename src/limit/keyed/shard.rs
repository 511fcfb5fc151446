//! A part of a keyed limiter's table: the words of its keys, and the terms by which they are decided. The rules are told
//! at the head of [`keyed`](super).

use crate::core::bucket::View;
use std::collections::{HashMap, hash_map};
use std::hash::{BuildHasherDefault, Hasher};
use std::mem;

/// A shard is not swept before it has this many keys: a sweep drops also those that will come again in a moment, and
/// costs each of them a new entry. All shards of a small machine together keep 4,096 idle keys at the most.
const SWEEP_FROM: usize = 256;

pub(super) struct Shard<K> {
    /// The terms. The reading of the clock in it says nothing.
    pub(super) view: View,
    /// By the hash of the key, which is computed once for the shard and the table.
    entries: HashMap<u64, Entry<K>, BuildHasherDefault<AsItIs>>,
    /// Keys whose whole hash another key had when they came. With a `Hash` worth its name there are none, ever.
    twins: Vec<Entry<K>>,
    /// What a key without an entry starts from. See the head of `keyed`.
    dropped_at: u64,
    sweep_at: usize,
}

pub(super) struct Entry<K> {
    key: K,
    /// Of its bucket.
    word: u64,
}

/// Keys that were swept. They are the user's to drop, which may do anything: not under the latch.
#[must_use = "to be dropped when the latch is let go"]
pub(super) struct Swept<K> {
    pub(super) count: usize,
    _keys: Vec<Entry<K>>,
}

impl<K: Eq> Shard<K> {
    pub(super) fn new(view: View) -> Self {
        Shard { view, entries: HashMap::default(), twins: Vec::new(), dropped_at: 0, sweep_at: SWEEP_FROM }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() + self.twins.len()
    }

    /// The word of a key that has an entry.
    #[inline(always)]
    pub(super) fn word(&mut self, hash: u64, key: &K) -> Option<&mut u64> {
        match self.entries.get_mut(&hash) {
            Some(entry) if entry.key == *key => Some(&mut entry.word),
            _ if self.twins.is_empty() => None,
            _ => self.twins.iter_mut().find(|twin| twin.key == *key).map(|twin| &mut twin.word),
        }
    }

    /// What a key without an entry starts from.
    pub(super) fn fresh(&self) -> u64 {
        self.dropped_at
    }

    /// Of a key that has no entry.
    pub(super) fn insert(&mut self, hash: u64, key: K, word: u64, position: u64) -> Swept<K> {
        let swept = if self.len() >= self.sweep_at { self.sweep(position) } else { Swept::none() };
        let entry = Entry { key, word };
        match self.entries.entry(hash) {
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(entry);
            }
            hash_map::Entry::Occupied(_) => self.twins.push(entry),
        }
        swept
    }

    /// Drops the entries that are full where `V` is at `position`.
    pub(super) fn sweep(&mut self, position: u64) -> Swept<K> {
        let before = self.len();
        let idle = |entry: &Entry<K>| entry.word <= position;
        let mut keys = Vec::new();
        if mem::needs_drop::<K>() {
            keys.extend(self.entries.extract_if(|_, entry| idle(entry)).map(|(_, entry)| entry));
            keys.extend(self.twins.extract_if(.., |twin| idle(twin)));
        } else {
            self.entries.retain(|_, entry| !idle(entry));
            self.twins.retain(|twin| !idle(twin));
        }
        let after = self.len();
        if after < before {
            // Not below what it was: a piece that was given back may have left a word that an older sweep would have dropped.
            self.dropped_at = self.dropped_at.max(position);
        }
        self.sweep_at = (2 * after).max(SWEEP_FROM);
        if self.entries.capacity() > 4 * self.sweep_at {
            self.entries.shrink_to(self.sweep_at);
        }
        Swept { count: before - after, _keys: keys }
    }
}

impl<K> Swept<K> {
    pub(super) fn none() -> Self {
        Swept { count: 0, _keys: Vec::new() }
    }
}

/// Hands a hash through.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
    fn write(&mut self, bytes: &[u8]) {
        // Never called: the table's keys are hashes, and write one u64.
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }
}
