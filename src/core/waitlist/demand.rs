//! What a caller asks for: so much of each of a few kinds, all or nothing.

/// How many kinds one demand may name.
pub const MAX_PARTS: usize = 8;

/// Amounts of up to [`MAX_PARTS`] kinds, sorted by kind, each kind once, no zero.
///
/// A demand that names more kinds is not refused when it is made but when it is asked for: nothing here panics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Demand {
    kinds: [u16; MAX_PARTS],
    amounts: [u64; MAX_PARTS],
    len: u8,
    /// The part that found no room.
    excess: Option<(u16, u64)>,
}

impl Demand {
    /// Nothing.
    pub const fn new() -> Self {
        Self { kinds: [0; MAX_PARTS], amounts: [0; MAX_PARTS], len: 0, excess: None }
    }

    /// `n` of one kind.
    pub const fn of(kind: u16, n: u64) -> Self {
        Self::new().and(kind, n)
    }

    /// This, and `n` more of `kind`.
    #[must_use]
    pub const fn with(self, kind: u16, n: u32) -> Self {
        self.and(kind, n as u64)
    }

    /// As [`with`](Self::with), for amounts above 2^32.
    #[must_use]
    pub const fn and(mut self, kind: u16, n: u64) -> Self {
        if n == 0 {
            return self;
        }
        let len = self.len as usize;
        let mut at = 0;
        while at < len && self.kinds[at] < kind {
            at += 1;
        }
        if at < len && self.kinds[at] == kind {
            self.amounts[at] = self.amounts[at].saturating_add(n);
            return self;
        }
        if len == MAX_PARTS {
            self.excess = Some((kind, n));
            return self;
        }
        let mut i = len;
        while i > at {
            self.kinds[i] = self.kinds[i - 1];
            self.amounts[i] = self.amounts[i - 1];
            i -= 1;
        }
        self.kinds[at] = kind;
        self.amounts[at] = n;
        self.len += 1;
        self
    }

    /// Whether it asks for nothing.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many kinds it names.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// The parts `(kind, n)`, in ascending order of kinds.
    #[inline]
    pub fn parts(&self) -> impl DoubleEndedIterator<Item = (u16, u64)> + ExactSizeIterator + '_ {
        let len = usize::from(self.len).min(MAX_PARTS);
        self.kinds[..len].iter().copied().zip(self.amounts[..len].iter().copied())
    }

    /// How much of `kind` it asks for.
    pub fn amount(&self, kind: u16) -> u64 {
        self.parts().find(|(k, _)| *k == kind).map_or(0, |(_, n)| n)
    }

    /// This and all of `other`.
    #[must_use]
    pub fn plus(self, other: &Demand) -> Self {
        other.parts().fold(self, |d, (kind, n)| d.and(kind, n))
    }

    /// This less all of `other`.
    ///
    /// # Errors
    ///
    /// The first kind of which `other` has more.
    pub fn less(&self, other: &Demand) -> Result<Demand, u16> {
        match other.parts().find(|(kind, n)| self.amount(*kind) < *n) {
            Some((kind, _)) => Err(kind),
            None => Ok(self.parts().fold(Demand::new(), |d, (kind, n)| d.and(kind, n - other.amount(kind)))),
        }
    }

    /// Whether both ask for some of the same kind.
    pub fn overlaps(&self, other: &Demand) -> bool {
        self.parts().any(|(kind, _)| other.amount(kind) != 0)
    }

    /// The part that found no room among [`MAX_PARTS`].
    pub(super) fn excess(&self) -> Option<(u16, u64)> {
        self.excess
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn parts_are_sorted_and_merged() {
        const D: Demand = Demand::new().with(7, 2).with(1, u32::MAX).with(7, 3).with(1, u32::MAX).with(4, 0);
        assert_eq!(D.parts().collect::<Vec<_>>(), [(1, 2 * u64::from(u32::MAX)), (7, 5)]);
        assert_eq!((D.amount(7), D.amount(4)), (5, 0));
        assert!(D.overlaps(&Demand::of(7, 1)) && !D.overlaps(&Demand::of(4, 1)));
        assert!(Demand::new().is_empty() && !D.is_empty());
    }

    #[test]
    fn sums_and_differences() {
        let (a, b) = (Demand::of(1, 5).with(3, 2), Demand::of(1, 2).with(3, 2));
        assert_eq!(a.less(&b), Ok(Demand::of(1, 3)));
        assert_eq!((b.less(&a), a.less(&Demand::of(7, 1)), a.less(&a)), (Err(1), Err(7), Ok(Demand::new())));
        assert_eq!(Demand::of(1, 3).plus(&b), a);
    }

    #[test]
    fn a_ninth_kind_is_remembered() {
        let d = (0..9).fold(Demand::new(), |d, kind| d.with(kind, 1));
        assert_eq!(d.len(), 8);
        assert_eq!(d.excess(), Some((8, 1)));
    }
}
