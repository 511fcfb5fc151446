//! What can go wrong with a journal.

use std::io;
use std::path::PathBuf;

/// A journal cannot be opened, read or written. Every variant names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The file is something else. It was not touched.
    #[error("{} is not a journal: {what}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: String,
    },
    /// A newer version of this crate wrote it. It was not touched.
    #[error("{} has journal version {found}, and this program knows {known}: use a newer one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version it has.
        found: i32,
        /// The newest version known here.
        known: i32,
    },
    /// Another engine, of this process or another one, holds it.
    #[error("{} is in use by {}: wait for it, or stop it", path.display(), holder(*pid, since))]
    InUse {
        /// The file.
        path: PathBuf,
        /// The process that holds it, where it has said so.
        pid: Option<u32>,
        /// Since when, UTC.
        since: Option<String>,
    },
    /// A part of the file does not hold what was written to it. What can be read is still there for the sqlite3 shell.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong.
        what: String,
    },
    /// No room is left on the disk.
    #[error("{}: the disk is full", path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// The operating system said no.
    #[error("{} {doing}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: String,
        /// What it said.
        source: io::Error,
    },
    /// SQLite said no.
    #[error("{} {doing}: {problem}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: String,
        /// What SQLite said.
        problem: String,
    },
    /// A batch of this name was made by something else.
    #[error(
        "batch `{batch}` of {} was made for `{there}`, not for `{asked}`: use another name, or the same command", path.display()
    )]
    OtherProcessor {
        /// The file.
        path: PathBuf,
        /// The batch.
        batch: String,
        /// What the journal says runs its items.
        there: String,
        /// What was to run them now.
        asked: String,
    },
    /// There is no such batch.
    #[error("{} has no batch `{batch}`; it has {known}", path.display())]
    UnknownBatch {
        /// The file.
        path: PathBuf,
        /// The name asked for.
        batch: String,
        /// The names there are.
        known: String,
    },
    /// The submission of the batch was cut short, so what is to be done is not known.
    #[error("the submission of batch `{batch}` was cut short: submit it again with its whole input")]
    Unsealed {
        /// The batch.
        batch: String,
    },
    /// The journal's own thread, in a listener that it has called or in SQL that it runs, would have to wait for itself.
    #[error(
        "{}: a listener of the engine, or SQL in the journal, may not wait for the journal: hand this to another thread", path.display()
    )]
    WouldBlockWriter {
        /// The file.
        path: PathBuf,
    },
    /// Something that must not happen did: a mistake of this crate's. What was committed is kept.
    #[error("{}: {what}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What happened.
        what: String,
    },
    /// The journal was closed before this was written.
    #[error("{} was closed before this was written", path.display())]
    Closed {
        /// The file.
        path: PathBuf,
    },
}

fn holder(pid: Option<u32>, since: &Option<String>) -> String {
    let who = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
    match since {
        Some(since) => format!("{who} since {since}"),
        None => who,
    }
}
