//! What each worker has in hand, for whoever takes over after a crash: `<journal>-hand`.
//!
//! One slot of 32 bytes a worker, written with one `pwrite` before a chunk starts (its first and its last item), and
//! emptied by another one when it has ended. The page cache outlives the process, so after a `kill -9` the file tells exactly which items were in
//! hand, at a microsecond a chunk and without a commit. It does not outlive the machine, so it carries the start
//! of the machine, and with another one nothing is concluded from it.

use super::error::JournalError;
use super::lock::beside;
use crate::sync::Mutex;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SLOT: usize = 32;
const MAGIC: u64 = 0x6279_7264_6861_6e64;

/// The items of one slot: numbers as in the table `item`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InHand {
    pub(crate) first: i64,
    pub(crate) last: i64,
}

/// The file, open for its owner.
#[derive(Debug)]
pub(crate) struct Hand {
    file: File,
    workers: usize,
}

/// Threads of this process that were given up, by whatever engine: they may outlive it.
static GIVEN_UP: Mutex<i64> = Mutex::new(0);

/// What a dead owner left.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) in_hand: Vec<InHand>,
    /// Threads ran that nobody had an eye on any more.
    pub(crate) strangers: bool,
}

impl Hand {
    /// Starts anew for this many workers.
    pub(crate) fn create(journal: &Path, workers: usize) -> Result<(Hand, PathBuf), JournalError> {
        let path = beside(journal, "-hand");
        let made = File::create(&path).and_then(|file| {
            // Zeros, not a hole: noting must not need room on a full disk.
            file.write_all_at(&vec![0; (workers + 1) * SLOT], 0)?;
            let hand = Hand { file, workers };
            hand.given_up(0);
            Ok(hand)
        });
        match made {
            Ok(hand) => Ok((hand, path)),
            Err(source) => Err(JournalError::Io { path, doing: "cannot be written".to_owned(), source }),
        }
    }

    /// What a dead owner left. A slot that was never written, or not wholly, tells nothing.
    pub(crate) fn read(journal: &Path) -> io::Result<Left> {
        let bytes = match std::fs::read(beside(journal, "-hand")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Left::default()),
            read => read?,
        };
        let workers = (bytes.len() / SLOT).saturating_sub(1);
        let mut slots = bytes.chunks_exact(SLOT);
        let in_hand = slots.by_ref().take(workers).filter_map(parse).collect();
        let strangers = slots.next().and_then(parse).is_some_and(|slot| slot.last > 0);
        Ok(Left { in_hand, strangers })
    }

    /// This worker has these items in hand. An error is no reason to stop: after a crash the items are tried again
    /// all the same, only not one by one.
    pub(crate) fn note(&self, worker: usize, items: InHand) {
        let _ = self.file.write_at(&format(items), (worker * SLOT) as u64);
    }

    /// It has nothing in hand.
    pub(crate) fn clear(&self, worker: usize) {
        let _ = self.file.write_at(&[0; SLOT], (worker * SLOT) as u64);
    }

    /// So many more threads were given up, or fewer.
    pub(crate) fn given_up(&self, more: i64) {
        let mut given_up = GIVEN_UP.lock();
        *given_up += more;
        let slot = format(InHand { first: 0, last: *given_up });
        let _ = self.file.write_at(&slot, (self.workers * SLOT) as u64);
    }
}

fn format(items: InHand) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    let words = [MAGIC, items.first as u64, items.last as u64, sum(items)];
    for (bytes, word) in slot.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    slot
}

fn parse(slot: &[u8]) -> Option<InHand> {
    let word = |i: usize| Some(u64::from_le_bytes(slot.get(8 * i..8 * i + 8)?.try_into().ok()?));
    let items = InHand { first: word(1)? as i64, last: word(2)? as i64 };
    (word(0)? == MAGIC && word(3)? == sum(items) && items.first <= items.last).then_some(items)
}

fn sum(items: InHand) -> u64 {
    MAGIC ^ (items.first as u64).rotate_left(17) ^ (items.last as u64).rotate_left(41)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_read_back_and_rubbish_does_not() {
        let items = InHand { first: 1 << 40 | 7, last: 1 << 40 | 9 };
        let mut slot = format(items);
        assert_eq!(parse(&slot), Some(items));
        assert_eq!(parse(&[0; SLOT]), None);
        slot[9] ^= 1;
        assert_eq!(parse(&slot), None);
    }
}
