//! One error for captures and the store: a kind that callers match, and a line that names the file and what is wrong.

use std::fmt;
use std::io;
use std::path::Path;

/// What went wrong, for callers that decide by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// There is no such file, incident or report.
    NotFound,
    /// The operating system refuses access.
    Permission,
    /// The file is something else.
    NotACapture,
    /// The content is cut off, altered or contradicts itself; or a capture to be written does.
    Damaged,
    /// It was written by a newer version of Galen.
    TooNew,
    /// It would need more memory than the limit allows.
    TooLarge,
    /// No space left, or a quota or file size limit is reached.
    DiskFull,
    /// Any other failure of the disk or of SQLite.
    Io,
}

/// A failure to read or write a capture or the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError {
    /// What went wrong.
    pub kind: StoreErrorKind,
    /// One line: the file, what is wrong with it, and what to do where that is not obvious.
    pub message: String,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StoreError {}

impl StoreError {
    pub(crate) fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        StoreError { kind, message: one_line(&message.into()) }
    }

    pub(crate) fn damaged(message: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Damaged, message)
    }

    pub(crate) fn io(path: &Path, doing: &str, error: &io::Error) -> Self {
        Self::new(kind_of_io(error), format!("{}: cannot {doing}: {error}", path.display()))
    }

    /// Puts the file's name in front, for errors found while looking at content alone.
    pub(crate) fn at(self, path: &Path) -> Self {
        Self::new(self.kind, format!("{}: {}", path.display(), self.message))
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match kind_of_sqlite(&error) {
            StoreErrorKind::DiskFull => {
                Self::new(StoreErrorKind::DiskFull, format!("the disk is full, free some space in the data folder (SQLite: {error})"))
            }
            kind => Self::new(kind, format!("SQLite: {error}")),
        }
    }
}

fn kind_of_io(error: &io::Error) -> StoreErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => StoreErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreErrorKind::Permission,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => StoreErrorKind::DiskFull,
        io::ErrorKind::UnexpectedEof => StoreErrorKind::Damaged,
        _ => StoreErrorKind::Io,
    }
}

fn kind_of_sqlite(error: &rusqlite::Error) -> StoreErrorKind {
    use rusqlite::ErrorCode;
    match error {
        rusqlite::Error::QueryReturnedNoRows => StoreErrorKind::NotFound,
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::Utf8Error(..) => StoreErrorKind::Damaged,
        _ => match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StoreErrorKind::DiskFull,
            Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => StoreErrorKind::Permission,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreErrorKind::Damaged,
            Some(ErrorCode::TooBig | ErrorCode::OutOfMemory) => StoreErrorKind::TooLarge,
            _ => StoreErrorKind::Io,
        },
    }
}

/// Messages may quote hostile content: control characters go, and length is bounded.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}
