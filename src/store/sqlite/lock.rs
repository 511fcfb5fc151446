//! One owner per journal: an advisory lock on `<journal>-lock`, held for life.
//!
//! The kernel drops it when the process dies, however it dies, so whoever gets it knows that nobody else writes; no
//! time-out decides. What the file says (process, since when, its id) is for the one who does not get it. A lock file
//! that is deleted while it is held would let a second owner in: the writer looks every time whether the names still
//! lead to the files that it holds ([`Held::gone`]).

use super::error::JournalError;
use super::moment::utc;
use crate::time::wall_ms;
use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The lock, while it is held.
#[derive(Debug)]
pub(crate) struct Held {
    _file: File,
    files: Vec<(PathBuf, u64, u64)>,
}

/// `<journal><suffix>`, beside it.
pub(crate) fn beside(journal: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(journal);
    name.push(suffix);
    name.into()
}

/// Takes the lock, or names who has it.
pub(crate) fn lock(journal: &Path, uid: &str) -> Result<Held, JournalError> {
    let path = beside(journal, "-lock");
    let io = |doing: &str, source: io::Error| JournalError::Io {
        path: path.clone(),
        doing: doing.to_owned(),
        source,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| io("(the journal's lock) cannot be opened", e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // What cannot be read is only not told.
            let _ = file.read_to_string(&mut text);
            let mut words = text.split_whitespace();
            let pid = words.next().and_then(|pid| pid.parse().ok());
            let since = words.next().and_then(|ms| ms.parse().ok()).map(utc);
            return Err(JournalError::InUse { path: journal.to_owned(), pid, since });
        }
        Err(TryLockError::Error(e)) => return Err(io("(the journal's lock) cannot be locked", e)),
    }
    let said = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{} {} {uid}", std::process::id(), wall_ms()));
    said.map_err(|e| io("(the journal's lock) cannot be written", e))?;
    let mut held = Held { _file: file, files: Vec::new() };
    held.watch(&path)?;
    Ok(held)
}

impl Held {
    /// From now on this name shall lead to this file.
    pub(crate) fn watch(&mut self, path: &Path) -> Result<(), JournalError> {
        let meta = std::fs::metadata(path).map_err(|source| JournalError::Io {
            path: path.to_owned(),
            doing: "cannot be looked at".to_owned(),
            source,
        })?;
        self.files.push((path.to_owned(), meta.dev(), meta.ino()));
        Ok(())
    }

    /// The first name that does not lead to its file any more.
    pub(crate) fn gone(&self) -> Option<&Path> {
        self.files
            .iter()
            .find(|(path, dev, ino)| {
                std::fs::metadata(path).map_or(true, |meta| (meta.dev(), meta.ino()) != (*dev, *ino))
            })
            .map(|(path, ..)| path.as_path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_has_it() {
        let dir = std::env::temp_dir().join(format!("batchyard-lock-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let journal = dir.join("a.db");
        let held = lock(&journal, "me").unwrap();
        match lock(&journal, "you") {
            Err(JournalError::InUse { pid, since, .. }) => {
                assert_eq!(pid, Some(std::process::id()));
                assert!(since.is_some());
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(held.gone(), None);
        std::fs::remove_file(beside(&journal, "-lock")).unwrap();
        assert!(held.gone().is_some());
        drop(held);
        drop(lock(&journal, "you").unwrap());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
