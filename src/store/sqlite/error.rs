//! What SQLite says, in our words.

pub(crate) use crate::store::JournalError;
use rusqlite::{Connection, ErrorCode};
use std::path::Path;

/// Turns what SQLite says of one file into our words.
#[derive(Clone, Copy)]
pub(crate) struct At<'a>(pub(crate) &'a Path);

impl<'a> At<'a> {
    pub(crate) fn failed(self, doing: &'a str) -> impl FnOnce(rusqlite::Error) -> JournalError + use<'a> {
        move |error| self.because(doing, &error)
    }

    pub(crate) fn because(self, doing: &str, error: &rusqlite::Error) -> JournalError {
        let path = self.0.to_owned();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => JournalError::DiskFull { path },
            Some(ErrorCode::NotADatabase) => {
                JournalError::Foreign { path, what: "it is no SQLite database".to_owned() }
            }
            Some(ErrorCode::DatabaseCorrupt) => self.damaged(&error.to_string()),
            _ if is_cut_off(error) => self.damaged("it is shorter than it was"),
            _ => match error {
                // A column that does not hold what a column of its kind holds.
                rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..) => self.damaged(&error.to_string()),
                _ => JournalError::Sqlite { path, doing: doing.to_owned(), problem: error.to_string() },
            },
        }
    }

    /// As [`because`](At::because), with what the system has said to SQLite, which keeps it to itself.
    pub(crate) fn said_to(self, db: &Connection, doing: &str, error: &rusqlite::Error) -> JournalError {
        let mut told = self.because(doing, error);
        if let JournalError::Sqlite { problem, .. } = &mut told
            && matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::ReadOnly)
            )
        {
            // SAFETY: the handle is that of a connection which stays open for as long as it is borrowed.
            let said = unsafe { rusqlite::ffi::sqlite3_system_errno(db.handle()) };
            if said != 0 {
                *problem += &format!(": {}", std::io::Error::from_raw_os_error(said));
            }
        }
        told
    }

    pub(crate) fn damaged(self, what: &str) -> JournalError {
        JournalError::Damaged { path: self.0.to_owned(), what: what.to_owned() }
    }
}

/// The file ends before a page that it has. SQLite calls it an I/O error; it does not pass.
pub(crate) fn is_cut_off(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHORT_READ)
}
