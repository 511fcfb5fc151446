//! What may change while a lane runs, in one lock-free value: read once a chunk, written by whoever steers.

use atomic::{Atomic, Ordering};
use bytemuck::NoUninit;

/// Priority, weight and cap of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, NoUninit)]
#[repr(C, align(8))]
pub(crate) struct LaneTunables {
    /// Items in hand at once; `u32::MAX`: no cap of its own.
    pub(crate) cap: u32,
    /// Share within the class, at least 1.
    pub(crate) weight: u16,
    /// Class, 0 to 3.
    pub(crate) class: u8,
    /// Bit flags: [`TOTAL_CAP`](Self::TOTAL_CAP).
    pub(crate) flags: u8,
}

impl LaneTunables {
    /// The engine's cap on items in hand binds.
    pub(crate) const TOTAL_CAP: u8 = 1;
    /// No cap of the lane's own.
    pub(crate) const UNCAPPED: u32 = u32::MAX;
}

const _: () =
    assert!(Atomic::<LaneTunables>::is_lock_free(), "a lane's tunables must fit one lock-free word");

/// The shared value.
#[derive(Debug)]
pub(crate) struct Tunables(Atomic<LaneTunables>);

impl Tunables {
    pub(crate) fn new(value: LaneTunables) -> Self {
        Self(Atomic::new(value))
    }

    #[inline]
    pub(crate) fn get(&self) -> LaneTunables {
        self.0.load(Ordering::Relaxed)
    }

    /// Changes it; what it was and what it is.
    pub(crate) fn change(&self, f: impl Fn(LaneTunables) -> LaneTunables) -> (LaneTunables, LaneTunables) {
        let mut old = self.get();
        loop {
            let new = f(old);
            match self.0.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return (old, new),
                Err(now) => old = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_one_field_at_a_time() {
        let t = Tunables::new(LaneTunables { cap: 3, weight: 1, class: 1, flags: 0 });
        let (old, new) = t.change(|t| LaneTunables { weight: 9, ..t });
        assert_eq!((old.weight, new.weight, new.cap), (1, 9, 3));
        assert_eq!(t.get(), new);
    }
}
