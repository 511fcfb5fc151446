//! What each worker has in hand, for whoever takes over after a crash: `<journal>-hand`.
//!
//! Two slots of 32 bytes a worker. One is written with one `pwrite` before a chunk starts (its first and its last item), and
//! emptied by another one when it has ended. The other has the last process that the worker has started for an item. The
//! page cache outlives the process, so after a `kill -9` the file tells exactly which items were in hand and which
//! processes may still run, at a microsecond each and without a commit. It does not outlive the machine: with another
//! start of it nothing is concluded from the file.
//!
//! One slot more counts the threads that were given up and have not come back: while there are any, nobody is alone.

use super::error::JournalError;
use super::lock::beside;
use crate::lock::{Levelled, house};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SLOT: usize = 32;
const MAGIC: u64 = 0x6279_7264_6861_6e64;
const CHILD_MAGIC: u64 = 0x6279_7264_6368_6c64;
const STRANGERS_MAGIC: u64 = 0x6279_7264_7374_7267;

/// What a dead owner left.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) in_hand: Vec<InHand>,
    pub(crate) groups: Vec<Group>,
    /// Threads ran that nobody had an eye on any more.
    pub(crate) strangers: bool,
}

/// The items of one slot: numbers as in the table `item`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InHand {
    pub(crate) first: i64,
    pub(crate) last: i64,
}

/// A process group, and when its first process started: tells it from a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) pgid: i32,
    /// In clock ticks since the machine started: not before the first, and not after so many more.
    pub(crate) since: u64,
    pub(crate) span: u32,
}

/// The file, open for its owner.
#[derive(Debug)]
pub(crate) struct Hand {
    file: File,
    workers: usize,
}

/// Threads of this process that were given up, by whatever engine: they may outlive it.
static GIVEN_UP: Levelled<i64, house::GivenUp> = Levelled::new(0);

/// Removes the file, if there is one: for whoever has the journal.
pub(crate) fn clear_away(journal: &Path) -> io::Result<()> {
    match std::fs::remove_file(beside(journal, "-hand")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Hand {
    /// Starts anew for this many workers.
    pub(crate) fn create(journal: &Path, workers: usize) -> Result<(Hand, PathBuf), JournalError> {
        let path = beside(journal, "-hand");
        // A new file, not the old one emptied: who had the journal before, in this process or another, may still write there.
        let made = clear_away(journal).and_then(|()| File::create_new(&path)).and_then(|file| {
            // Zeros, not a hole: noting must not need room on a full disk.
            file.write_all_at(&vec![0; (workers * 2 + 1) * SLOT], 0)?;
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
        let slots = || bytes.chunks_exact(SLOT);
        Ok(Left {
            in_hand: slots().filter_map(items).collect(),
            groups: slots().filter_map(group).collect(),
            strangers: slots().filter_map(|slot| parse(STRANGERS_MAGIC, slot)).any(|(count, _)| count > 0),
        })
    }

    /// This worker has these items in hand. An error is no reason to stop: after a crash the items are tried again
    /// all the same, only not one by one.
    pub(crate) fn note(&self, worker: usize, items: InHand) {
        let _ = self.file.write_at(&format_items(items), at(worker));
    }

    /// It has nothing in hand.
    pub(crate) fn clear(&self, worker: usize) {
        let _ = self.file.write_at(&[0; SLOT], at(worker));
    }

    /// This worker has started a process, and none of those before it runs any more.
    #[cfg(feature = "cli")]
    pub(crate) fn note_child(&self, worker: usize, group: Group) {
        let slot = format_group(group);
        let _ = self.file.write_at(&slot, at(worker) + SLOT as u64);
    }

    /// So many more threads were given up, or fewer.
    pub(crate) fn given_up(&self, more: i64) {
        let mut given_up = GIVEN_UP.lock();
        *given_up += more;
        let slot = format(STRANGERS_MAGIC, (*given_up).max(0) as u64, 0);
        let _ = self.file.write_at(&slot, at(self.workers));
    }
}

fn at(worker: usize) -> u64 {
    (worker * 2 * SLOT) as u64
}

fn format_items(items: InHand) -> [u8; SLOT] {
    format(MAGIC, items.first as u64, items.last as u64)
}

#[cfg(any(feature = "cli", test))]
fn format_group(group: Group) -> [u8; SLOT] {
    format(CHILD_MAGIC, u64::from(group.pgid.unsigned_abs()) | u64::from(group.span) << 32, group.since)
}

fn format(magic: u64, one: u64, two: u64) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    for (bytes, word) in slot.chunks_exact_mut(8).zip([magic, one, two, sum(magic, one, two)]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    slot
}

fn items(slot: &[u8]) -> Option<InHand> {
    let (first, last) = parse(MAGIC, slot)?;
    let items = InHand { first: first as i64, last: last as i64 };
    (items.first <= items.last).then_some(items)
}

fn group(slot: &[u8]) -> Option<Group> {
    let (one, since) = parse(CHILD_MAGIC, slot)?;
    // The group 0 would be our own.
    let pgid = i32::try_from(one as u32).ok().filter(|pgid| *pgid > 0)?;
    Some(Group { pgid, since, span: (one >> 32) as u32 })
}

fn parse(magic: u64, slot: &[u8]) -> Option<(u64, u64)> {
    let word = |i: usize| Some(u64::from_le_bytes(slot.get(8 * i..8 * i + 8)?.try_into().ok()?));
    let (one, two) = (word(1)?, word(2)?);
    (word(0)? == magic && word(3)? == sum(magic, one, two)).then_some((one, two))
}

fn sum(magic: u64, one: u64, two: u64) -> u64 {
    magic ^ one.rotate_left(17) ^ two.rotate_left(41)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_had_the_journal_before_writes_beside() {
        let dir = std::env::temp_dir().join(format!("batchyard-hand-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let journal = dir.join("a.db");
        let there = InHand { first: 1, last: 2 };
        let (before, _) = Hand::create(&journal, 1).unwrap();
        before.note(0, there);
        assert_eq!(Hand::read(&journal).unwrap().in_hand, [there]);
        let (now, _) = Hand::create(&journal, 1).unwrap();
        before.note(0, there);
        assert_eq!(Hand::read(&journal).unwrap().in_hand, []);
        now.note(0, there);
        before.clear(0);
        assert_eq!(Hand::read(&journal).unwrap().in_hand, [there]);
        clear_away(&journal).unwrap();
        clear_away(&journal).unwrap();
        assert_eq!(Hand::read(&journal).unwrap().in_hand, []);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn slots_read_back_and_rubbish_does_not() {
        let there = InHand { first: 1 << 40 | 7, last: 1 << 40 | 9 };
        let mut slot = format_items(there);
        assert_eq!(items(&slot), Some(there));
        assert_eq!(group(&slot), None);
        assert_eq!(items(&[0; SLOT]), None);
        slot[9] ^= 1;
        assert_eq!(items(&slot), None);
        let one = Group { pgid: 4711, since: 99, span: 3 };
        let mut slot = format_group(one);
        assert_eq!((group(&slot), items(&slot)), (Some(one), None));
        slot[17] ^= 1;
        assert_eq!(group(&slot), None);
    }
}
