//! Models of `core/chunk.rs`.
//!
//! Verified: each item goes to exactly one of owner and thieves, over a re-arming too; a thief with an old view gets
//! nothing from a later arming; the buffer is there for who takes from it; it is recycled once, after the last hold.
//!
//! Not verified: the wrap of the 16-bit epoch between a load and its CAS (argued in the file); where the recycled
//! buffer goes.

use batchyard::__model::chunk::{Chunk, ChunkHold, Epoch};
use batchyard_loom_tests::{Body, explore};

#[cfg(loom)]
use loom::{cell::UnsafeCell, sync::atomic::AtomicU32};
#[cfg(shuttle)]
use shuttle::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

/// A chunk armed once with items 0..n in setup.
struct Armed {
    chunk: Chunk,
    epoch: Epoch,
}

fn armed(items: u32) -> Armed {
    let chunk = Chunk::new();
    let epoch = chunk.arm(0, items);
    Armed { chunk, epoch }
}

fn own(s: &Armed) -> Vec<u32> {
    std::iter::from_fn(|| s.chunk.next(s.epoch)).collect()
}

mod loop_free {
    use super::*;

    /// Owner and one thief over two items: the owner has a front part, the thief the rest.
    #[test]
    fn owner_and_thief() {
        let bodies: [Body<Armed, Vec<u32>>; 2] =
            [own, |s| s.chunk.take_back().into_iter().flat_map(|(_, range)| range).collect()];
        explore(|| armed(2), &bodies, |_, got| got).exactly([
            vec![vec![], vec![0, 1]],
            vec![vec![0], vec![1]],
            vec![vec![0, 1], vec![]],
        ]);
    }

    /// Two thieves, of which one takes half, beside the owner (who takes one): each item once.
    #[test]
    fn two_thieves() {
        let bodies: [Body<Armed, Vec<u32>>; 3] = [
            |s| s.chunk.next(s.epoch).into_iter().collect(),
            |s| s.chunk.take_back_at(s.epoch).into_iter().flatten().collect(),
            |s| s.chunk.take_half_at(s.epoch).into_iter().flatten().collect(),
        ];
        explore(
            || armed(2),
            &bodies,
            |s, got| {
                let mut all = got.concat();
                all.sort_unstable();
                assert_eq!(all, [0, 1], "{got:?}");
                assert_eq!(s.chunk.remaining(), 0);
                got.iter().map(Vec::len).collect::<Vec<_>>()
            },
        )
        .exactly([vec![1, 1, 0], vec![1, 0, 1], vec![0, 2, 0], vec![0, 1, 1]]);
    }

    /// What a chunk's buffer holds: which use it is in. The thief reads it before it takes.
    struct Reused {
        chunk: Chunk,
        first: Epoch,
        buffer: AtomicU32,
    }

    fn reused() -> Reused {
        let chunk = Chunk::new();
        let first = chunk.arm(0, 1);
        Reused { chunk, first, buffer: AtomicU32::new(10) }
    }

    /// The owner finishes the first use and arms the same range again.
    fn owner_re_arms(s: &Reused) -> Vec<u32> {
        let mut got: Vec<u32> = std::iter::from_fn(|| s.chunk.next(s.first)).map(|i| 10 + i).collect();
        s.buffer.store(20, Ordering::Release);
        let second = s.chunk.arm(0, 1);
        got.extend(std::iter::from_fn(|| s.chunk.next(second)).map(|i| 20 + i));
        got
    }

    /// A thief that looks into the buffer first and takes then: what it takes is what it saw.
    #[test]
    fn thief_and_re_arming() {
        let bodies: [Body<Reused, Vec<u32>>; 2] = [owner_re_arms, |s| {
            let (epoch, _) = s.chunk.view();
            let seen = s.buffer.load(Ordering::Acquire);
            // The view must hold for the buffer too: looked at again after, as with a sequence lock.
            if s.chunk.view().0 != epoch {
                return vec![];
            }
            s.chunk.take_back_at(epoch).into_iter().flatten().map(|i| seen + i).collect()
        }];
        explore(reused, &bodies, |_, got| {
            let mut all = got.concat();
            all.sort_unstable();
            (all, got[1].clone())
        })
        .exactly_together([
            (vec![10, 20], vec![]),
            (vec![10, 20], vec![10]),
            (vec![10, 20], vec![20]),
        ]);
    }

    /// An owner that was abandoned comes back late: it gets nothing from its successor's arming.
    #[test]
    fn late_owner() {
        let bodies: [Body<Reused, Vec<u32>>; 2] =
            [owner_re_arms, |s| s.chunk.next(s.first).into_iter().map(|i| 10 + i).collect()];
        explore(reused, &bodies, |_, got| {
            let mut all = got.concat();
            all.sort_unstable();
            (all, got[1].clone())
        })
        .exactly([(vec![10, 20], vec![]), (vec![10, 20], vec![10])]);
    }

    /// Three holds: one of them recycles.
    #[test]
    fn recycled_once() {
        let bodies: [Body<ChunkHold, bool>; 3] =
            [|hold| hold.release(), |hold| hold.release(), |hold| hold.release()];
        let setup = || {
            let hold = ChunkHold::new();
            hold.begin();
            hold.acquire();
            hold.acquire();
            hold
        };
        explore(setup, &bodies, |hold, last| {
            assert_eq!(hold.held(), 0);
            assert_eq!(last.iter().filter(|last| **last).count(), 1);
            last
        })
        .exactly([vec![true, false, false], vec![false, true, false], vec![false, false, true]]);
    }
}

/// A buffer and all that guards it. `UnsafeCell` lets loom see a use after recycling.
#[cfg(loom)]
mod buffer {
    use super::*;

    struct Buffer {
        chunk: Chunk,
        hold: ChunkHold,
        items: [UnsafeCell<u32>; 2],
    }

    // The model's point: chunk and hold order all accesses to the items.
    unsafe impl Sync for Buffer {}

    impl Buffer {
        fn new() -> Self {
            Self {
                chunk: Chunk::new(),
                hold: ChunkHold::new(),
                items: [UnsafeCell::new(0), UnsafeCell::new(0)],
            }
        }

        /// As the owner of the recycled buffer: writes all, then publishes.
        fn fill(&self, base: u32) -> Epoch {
            for (i, item) in self.items.iter().enumerate() {
                item.with_mut(|item| unsafe { *item = base + i as u32 });
            }
            self.hold.begin();
            self.chunk.arm(0, 2)
        }

        fn read(&self, i: u32) -> u32 {
            self.items[i as usize].with(|item| unsafe { *item })
        }

        /// Lets go; the last one recycles: it writes over everything.
        fn let_go(&self) -> bool {
            let last = self.hold.release();
            if last {
                for item in &self.items {
                    item.with_mut(|item| unsafe { *item = 99 });
                }
            }
            last
        }

        /// Owner: takes what it gets, reading each.
        fn work(&self, epoch: Epoch) -> Vec<u32> {
            std::iter::from_fn(|| self.chunk.next(epoch)).map(|i| self.read(i)).collect()
        }

        /// Thief without a hold.
        fn steal(&self) -> Vec<u32> {
            let (epoch, _) = self.chunk.view();
            if !self.hold.try_acquire() {
                return vec![];
            }
            let got = self.chunk.take_back_at(epoch).into_iter().flatten().map(|i| self.read(i)).collect();
            self.let_go();
            got
        }
    }

    struct Once {
        buffer: Buffer,
        epoch: Epoch,
    }

    fn once() -> Once {
        let buffer = Buffer::new();
        let epoch = buffer.fill(10);
        Once { buffer, epoch }
    }

    /// A thief that holds the buffer by other means (its use lasts) sees what the owner wrote before it armed.
    #[test]
    fn arming_publishes_the_buffer() {
        let bodies: [Body<Buffer, Vec<u32>>; 2] = [
            |s| {
                s.items[1].with_mut(|item| unsafe { *item = 7 });
                let epoch = s.chunk.arm(0, 2);
                s.chunk.next(epoch).into_iter().collect()
            },
            |s| {
                s.chunk
                    .take_back()
                    .into_iter()
                    .flat_map(|(_, r)| r)
                    .skip_while(|i| *i == 0)
                    .map(|i| s.read(i))
                    .collect()
            },
        ];
        explore(Buffer::new, &bodies, |_, got| got).exactly_together([
            vec![vec![0], vec![]],
            vec![vec![0], vec![7]],
            vec![vec![], vec![7]],
        ]);
    }

    /// The owner is done and lets go while a thief may still read.
    #[test]
    fn owner_lets_go() {
        let bodies: [Body<Once, Vec<u32>>; 2] = [
            |s| {
                let got = s.buffer.work(s.epoch);
                s.buffer.let_go();
                got
            },
            |s| s.buffer.steal(),
        ];
        explore(once, &bodies, |s, got| {
            assert_eq!(s.buffer.hold.held(), 0);
            got
        })
        .exactly_together([
            vec![vec![10, 11], vec![]],
            vec![vec![10], vec![11]],
            vec![vec![], vec![10, 11]],
        ]);
    }

    /// An abandoned attempt still reads its item when owner and a thief let go: the last one out recycles.
    #[test]
    fn last_hold_recycles() {
        let bodies: [Body<Once, bool>; 3] = [
            |s| {
                assert_eq!(s.buffer.read(0), 10);
                s.buffer.let_go()
            },
            |s| {
                assert_eq!(s.buffer.read(0), 10);
                s.buffer.let_go()
            },
            |s| s.buffer.let_go(),
        ];
        let setup = || {
            let s = once();
            s.buffer.hold.acquire();
            s.buffer.hold.acquire();
            s
        };
        explore(setup, &bodies, |_, last| last).exactly([
            vec![true, false, false],
            vec![false, true, false],
            vec![false, false, true],
        ]);
    }

    /// The owner recycles, fills and arms again while a thief arrives: it gets items of one use, and they are whole.
    #[test]
    fn stealing_from_a_refilled_buffer() {
        let bodies: [Body<Once, Vec<u32>>; 2] = [
            |s| {
                let mut got = s.buffer.work(s.epoch);
                if s.buffer.let_go() {
                    let epoch = s.buffer.fill(20);
                    got.extend(s.buffer.work(epoch));
                    s.buffer.let_go();
                }
                got
            },
            |s| s.buffer.steal(),
        ];
        explore(once, &bodies, |_, got| (got[0].clone(), got[1].clone())).exactly_together([
            (vec![10, 11, 20, 21], vec![]),
            (vec![10, 11, 20], vec![21]),
            (vec![10, 11], vec![20, 21]),
            (vec![10, 11], vec![]),
            (vec![10], vec![11]),
            (vec![10, 20, 21], vec![11]),
            (vec![], vec![10, 11]),
            (vec![20, 21], vec![10, 11]),
        ]);
    }
}

/// One owner that re-arms eight times, ten thieves of all kinds: each item once.
#[cfg(shuttle)]
#[test]
fn many_threads() {
    use batchyard_loom_tests::{Arc, thread};
    let model = || {
        let chunk = Arc::new(Chunk::new());
        let mut handles = vec![{
            let chunk = chunk.clone();
            thread::spawn(move || {
                let mut got = Vec::new();
                for round in 0..8 {
                    let epoch = chunk.arm(round * 4, round * 4 + 4);
                    got.extend(std::iter::from_fn(|| chunk.next(epoch)));
                }
                got
            })
        }];
        for thief in 0..10 {
            let chunk = chunk.clone();
            handles.push(thread::spawn(move || {
                let mut got = Vec::new();
                for _ in 0..3 {
                    let epoch = chunk.view().0;
                    match thief % 3 {
                        0 => got.extend(chunk.take_back().into_iter().flat_map(|(_, range)| range)),
                        1 => got.extend(chunk.take_back_at(epoch).into_iter().flatten()),
                        _ => got.extend(chunk.take_half_at(epoch).into_iter().flatten()),
                    }
                }
                got
            }));
        }
        let mut all: Vec<u32> = handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..32).collect::<Vec<_>>());
    };
    shuttle::check_random(model, 2_000);
    shuttle::check_pct(model, 2_000, 3);
}
