//! How the program ends: its exit codes, and the one error type of the command line.

use std::fmt;
use std::process::ExitCode;

/// The exit codes, as the help lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Every item is done (or there was none).
    Done = 0,
    /// Some items are dead.
    SomeDead = 1,
    /// A mistake in the command line, an input that cannot be read, a command that does not exist.
    Usage = 2,
    /// The halt rule or the batch timeout ended the run.
    Halted = 3,
    /// A signal ended the run, or nobody reads its output any more.
    Cancelled = 4,
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

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self { exit: Exit::Internal, message: message.into() }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
