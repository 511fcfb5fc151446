//! Whether a lock remembers that its holder panicked.

/// Whether a lock remembers that its exclusive holder panicked: [`Poisoning`] or [`NoPoison`].
pub trait Poison: sealed::Sealed + 'static {
    /// It does.
    #[doc(hidden)]
    const REMEMBERS: bool;
}

/// A panic while the lock was held exclusively is remembered, and told to who comes after as
/// [`LockError::Poisoned`](super::LockError::Poisoned), as `std` does.
#[derive(Clone, Copy, Debug)]
pub struct Poisoning;

/// A panic is not remembered.
#[derive(Clone, Copy, Debug)]
pub struct NoPoison;

impl Poison for Poisoning {
    const REMEMBERS: bool = true;
}

impl Poison for NoPoison {
    const REMEMBERS: bool = false;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Poisoning {}
    impl Sealed for super::NoPoison {}
}
