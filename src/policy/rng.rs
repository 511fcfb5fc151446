//! SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014): one addition and
//! two multiplications a number, any seed is as good as another. For jitter and for tests, not for secrets.

/// A generator with 64 bits of state.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The generator of this seed: the same seed, the same numbers.
    pub(crate) const fn seeded(seed: u64) -> Self {
        Rng(seed)
    }

    /// The next number, uniform over all.
    #[inline]
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A number below `n` from one below 2⁶⁴ (Lemire's multiply and shift); 0 for 0. Off uniform by less than n / 2⁶⁴.
#[inline]
pub(crate) const fn scale(random: u64, n: u64) -> u64 {
    ((random as u128 * n as u128) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_splitmix64() {
        // The reference implementation's first numbers for the seed 1234567.
        let mut rng = Rng::seeded(1_234_567);
        assert_eq!(rng.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(rng.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn scaled_stays_below_and_reaches_all() {
        let mut rng = Rng::seeded(1);
        let mut seen = [0_u32; 10];
        (0..10_000).for_each(|_| seen[scale(rng.next_u64(), 10) as usize] += 1);
        assert!(seen.iter().all(|n| (800..1200).contains(n)), "{seen:?}");
        assert_eq!(scale(rng.next_u64(), 0), 0);
        assert_eq!(scale(u64::MAX, u64::MAX), u64::MAX - 1);
    }
}
