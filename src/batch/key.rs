//! How an item gets its key.

use crate::job::{Key, Payload};
use std::fmt;
use std::marker::PhantomData;

/// How the key of an item is made.
pub trait KeyOf<I>: Send + Sync + 'static {
    /// The item's key.
    ///
    /// # Errors
    ///
    /// Says why it cannot be made.
    fn key_of(&self, item: &I) -> Result<Key, String>;
}

/// An item's key is the hash of its payload.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByHash;

impl<I: Payload> KeyOf<I> for ByHash {
    fn key_of(&self, item: &I) -> Result<Key, String> {
        Key::of_payload(item).map_err(|error| error.to_string())
    }
}

/// An item's key is what a function makes of it.
pub struct ByKey<I, S, F>(F, PhantomData<fn(&I) -> S>);

impl<I: 'static, S: Into<Key> + 'static, F: Fn(&I) -> S + Send + Sync + 'static> KeyOf<I> for ByKey<I, S, F> {
    fn key_of(&self, item: &I) -> Result<Key, String> {
        Ok((self.0)(item).into())
    }
}

impl<I, S, F> ByKey<I, S, F> {
    pub(super) fn new(f: F) -> Self {
        Self(f, PhantomData)
    }
}

impl<I, S, F> fmt::Debug for ByKey<I, S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByKey")
    }
}
