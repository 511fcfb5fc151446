//! The hashes of a user's key, for tables of our own.

use siphasher::sip::SipHasher13;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

/// SipHash-1-3 under keys of the standard library's source of them, as its own map has it. Not its own hasher: that one is
/// handed on by reference, so that each word of a key goes through memory, and costs half as much again.
pub(crate) struct Seeds(u64, u64);

impl Seeds {
    pub(crate) fn random() -> Self {
        let source = RandomState::new();
        Seeds(source.hash_one(0), source.hash_one(1))
    }

    #[inline(always)]
    pub(crate) fn hash<K: Hash + ?Sized>(&self, key: &K) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        key.hash(&mut hasher);
        hasher.finish()
    }
}

/// A fast hash, for where it does no harm if somebody makes keys collide.
#[derive(Default)]
pub(crate) struct FastSeeds(foldhash::quality::RandomState);

impl FastSeeds {
    #[inline(always)]
    pub(crate) fn hash<K: Hash + ?Sized>(&self, key: &K) -> u64 {
        self.0.hash_one(key)
    }
}
