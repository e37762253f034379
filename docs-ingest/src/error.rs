//! Why a file gave no knowledge: a kind that callers match, and one line for people.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// What was wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadErrorKind {
    /// No text in it.
    Empty,
    /// It is, or unpacks to, more than the limits allow.
    TooLarge,
    /// It needs a password.
    Encrypted,
    /// Cut off, or not what it claims to be.
    Damaged,
    /// Its characters cannot be told.
    Encoding,
    /// A format that is not read.
    Unsupported,
    /// It went away while it was read.
    Vanished,
    /// The system refuses it.
    Io,
    /// The reader failed on it: a fault of ours or of a library.
    Fault,
}

/// A file that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadError {
    /// What was wrong.
    pub kind: ReadErrorKind,
    /// Lowercase, without the file's name, with the value that was wrong.
    pub message: String,
}

impl ReadError {
    /// An error with a line that is kept short and free of control characters: it may quote the file.
    pub fn new(kind: ReadErrorKind, message: impl Into<String>) -> Self {
        let message = message.into().chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
        Self { kind, message }
    }

    /// Damage, with what a parser said.
    pub fn damaged(what: impl fmt::Display) -> Self {
        Self::new(ReadErrorKind::Damaged, what.to_string())
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ReadError {}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::new(ReadErrorKind::Vanished, "it went away while it was read"),
            io::ErrorKind::PermissionDenied => Self::new(ReadErrorKind::Io, "it may not be read: permission denied"),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput => Self::damaged(error),
            _ => Self::new(ReadErrorKind::Io, error.to_string()),
        }
    }
}
