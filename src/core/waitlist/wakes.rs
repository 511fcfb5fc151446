//! Whom to tell, collected under a latch and told after it.

use super::Waiter;

/// How many are told per round: the latch is given up to tell them, then the scan starts anew. Few, for the array
/// lies on the stack; a release rarely grants more.
const ROUND: usize = 8;

#[derive(Default)]
pub(in crate::core) struct Wakes {
    list: [Option<Waiter>; ROUND],
    len: usize,
}

impl Wakes {
    pub(in crate::core) fn full(&self) -> bool {
        self.len == ROUND
    }

    pub(in crate::core) fn push(&mut self, waiter: Option<Waiter>) {
        self.list[self.len] = waiter;
        self.len += 1;
    }

    pub(in crate::core) fn deliver(&mut self, wake: &mut impl FnMut(&Waiter)) {
        for waiter in self.list[..std::mem::take(&mut self.len)].iter_mut() {
            if let Some(waiter) = waiter.take() {
                wake(&waiter);
            }
        }
    }
}
