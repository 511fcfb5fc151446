//! The output of a job, held whole until it is printed: the first 64 KiB in memory, the rest in a file.
//!
//! One file serves the whole run, however many results wait for their turn: it has no name any more, so it goes when
//! the program does, even by `kill -9`; a piece is handed back to the file system (a hole is punched) when its
//! output is dropped.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex};
use rustix::fs::{FallocateFlags, fallocate};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

/// What of each output stays in memory.
const IN_MEMORY: usize = 64 * 1024;

/// The file for what does not stay in memory; made when first needed.
#[derive(Debug)]
pub(crate) struct Spill {
    directory: PathBuf,
    file: Mutex<Option<Arc<File>>>,
    end: AtomicU64,
}

impl Spill {
    /// A file to be in `directory`.
    pub(crate) fn new(directory: PathBuf) -> Arc<Self> {
        Arc::new(Self { directory, file: Mutex::new(None), end: AtomicU64::new(0) })
    }

    fn file(&self) -> io::Result<Arc<File>> {
        let mut slot = self.file.lock();
        if let Some(file) = &*slot {
            return Ok(Arc::clone(file));
        }
        let file = self.open().map_err(|e| self.named(e))?;
        *slot = Some(Arc::clone(&file));
        Ok(file)
    }

    fn open(&self) -> io::Result<Arc<File>> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        loop {
            // A program of the same number may have been killed between the two steps.
            let number = MADE.fetch_add(1, Ordering::Relaxed);
            let path = self.directory.join(format!("batchyard-{}-{number}", std::process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    std::fs::remove_file(&path)?;
                    return Ok(Arc::new(file));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn store(&self, bytes: &[u8]) -> io::Result<Range<u64>> {
        let file = self.file()?;
        let start = self.end.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        file.write_all_at(bytes, start).map_err(|e| self.named(e))?;
        Ok(start..start + bytes.len() as u64)
    }

    fn named(&self, e: io::Error) -> io::Error {
        io::Error::new(e.kind(), format!("cannot keep output in `{}`: {e}", self.directory.display()))
    }
}

/// An output that lies somewhere else.
pub(crate) trait Elsewhere: fmt::Debug + Send + Sync {
    /// Hands all of it to `take`, in order, in pieces.
    fn read(&self, take: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()>;
}

/// All that a job wrote to one stream.
#[derive(Debug, Default)]
pub(crate) struct Output {
    head: Vec<u8>,
    rest: Vec<Range<u64>>,
    spill: Option<Arc<Spill>>,
    elsewhere: Option<Box<dyn Elsewhere>>,
}

impl Output {
    /// One that is known as a whole.
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self { head: bytes, rest: Vec::new(), spill: None, elsewhere: None }
    }

    pub(crate) fn from_elsewhere(there: Box<dyn Elsewhere>) -> Self {
        Self { head: Vec::new(), rest: Vec::new(), spill: None, elsewhere: Some(there) }
    }

    /// Its length in bytes, where it is ours.
    pub(crate) fn len(&self) -> u64 {
        self.head.len() as u64 + self.rest.iter().map(|piece| piece.end - piece.start).sum::<u64>()
    }

    /// Adds to its end.
    pub(crate) fn push(&mut self, bytes: &[u8], spill: &Arc<Spill>) -> io::Result<()> {
        let (head, rest) = bytes.split_at(bytes.len().min(IN_MEMORY - self.head.len()));
        self.head.extend_from_slice(head);
        if rest.is_empty() {
            return Ok(());
        }
        let piece = spill.store(rest)?;
        self.spill.get_or_insert_with(|| Arc::clone(spill));
        match self.rest.last_mut() {
            Some(last) if last.end == piece.start => last.end = piece.end,
            _ => self.rest.push(piece),
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.elsewhere.is_none()
    }

    /// Hands all of it to `take`, in order, in pieces of at most 64 KiB.
    pub(crate) fn read(&self, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        if !self.head.is_empty() {
            take(&self.head)?;
        }
        if let Some(elsewhere) = &self.elsewhere {
            elsewhere.read(&mut take)?;
        }
        let Some(spill) = &self.spill else { return Ok(()) };
        let file = spill.file()?;
        let mut buf = vec![0; IN_MEMORY];
        for piece in &self.rest {
            let mut at = piece.start;
            while at < piece.end {
                let part =
                    &mut buf[..usize::try_from(piece.end - at).map_or(IN_MEMORY, |n| n.min(IN_MEMORY))];
                file.read_exact_at(part, at).map_err(|e| spill.named(e))?;
                take(part)?;
                at += part.len() as u64;
            }
        }
        Ok(())
    }

    pub(crate) fn write_to(&self, to: &mut impl Write) -> io::Result<()> {
        self.read(|bytes| to.write_all(bytes))
    }
}

/// Gives the file's blocks back.
impl Drop for Output {
    fn drop(&mut self) {
        let Some(file) = self.spill.as_ref().and_then(|spill| spill.file().ok()) else { return };
        for piece in &self.rest {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // A file system that knows no holes keeps the blocks until the run ends.
            let _ = fallocate(&file, flags, piece.start, piece.end - piece.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn whole(output: &Output) -> Vec<u8> {
        let mut bytes = Vec::new();
        output.write_to(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn outputs_that_grow_side_by_side_stay_apart() {
        let spill = Spill::new(std::env::temp_dir());
        let (mut a, mut b) = (Output::default(), Output::default());
        for _ in 0..50 {
            a.push(&[b'a'; 10_007], &spill).unwrap();
            b.push(&[b'b'; 5_003], &spill).unwrap();
        }
        assert_eq!(whole(&a), vec![b'a'; 50 * 10_007]);
        assert_eq!(whole(&b), vec![b'b'; 50 * 5_003]);
    }

    #[test]
    fn small_outputs_touch_no_file() {
        let spill = Spill::new("/nonexistent".into());
        let mut output = Output::default();
        output.push(&[b'x'; IN_MEMORY], &spill).unwrap();
        assert_eq!(whole(&output).len(), IN_MEMORY);
        let error = output.push(b"y", &spill).unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }

    #[test]
    fn a_dropped_output_gives_its_blocks_back() {
        let spill = Spill::new(std::env::temp_dir());
        let mut output = Output::default();
        output.push(&vec![b'x'; 4 << 20], &spill).unwrap();
        let blocks = || spill.file().unwrap().metadata().unwrap().blocks();
        let before = blocks();
        drop(output);
        assert!(blocks() < before.max(1), "{} blocks after, {before} before", blocks());
    }
}
