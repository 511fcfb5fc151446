//! How the program ends: its exit codes, and the one error type of the command line.

use crate::engine::Error;
use crate::store::JournalError;
use std::fmt;
use std::io::ErrorKind;
use std::process::ExitCode;

/// The exit codes, as the help lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Every item is done (or there was none).
    Done = 0,
    /// Some items are dead.
    SomeDead = 1,
    /// A mistake in the command line, an input that cannot be read, a command that does not exist, a file that is no
    /// journal, or a batch of another command.
    Usage = 2,
    /// The halt rule or the batch timeout ended the run.
    Halted = 3,
    /// A signal or another process ended the run, or nobody reads its output any more.
    Cancelled = 4,
    /// Another process has the journal.
    InUse = 5,
    /// A fault of this program or of the machine: no thread, no disk space.
    Internal = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// An error that ends the program: one line for stderr and the exit code.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) exit: Exit,
    message: String,
}

impl Trouble {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }

    pub(crate) fn in_use(message: impl Into<String>) -> Self {
        Self { exit: Exit::InUse, message: message.into() }
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self { exit: Exit::Internal, message: message.into() }
    }
}

impl From<&JournalError> for Trouble {
    fn from(error: &JournalError) -> Self {
        let exit = match error {
            JournalError::InUse { .. } => Exit::InUse,
            JournalError::Foreign { .. }
            | JournalError::Newer { .. }
            | JournalError::OtherProcessor { .. }
            | JournalError::UnknownBatch { .. }
            | JournalError::Unsealed { .. } => Exit::Usage,
            JournalError::Io { source, .. } => match source.kind() {
                ErrorKind::NotFound
                | ErrorKind::PermissionDenied
                | ErrorKind::IsADirectory
                | ErrorKind::NotADirectory => Exit::Usage,
                _ => Exit::Internal,
            },
            _ => Exit::Internal,
        };
        Self { exit, message: error.to_string() }
    }
}

impl From<JournalError> for Trouble {
    fn from(error: JournalError) -> Self {
        Self::from(&error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Journal(error) => Self::from(&*error),
            error => Self::internal(error.to_string()),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
