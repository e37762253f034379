//! What can go wrong with an index or an embedding model on disk.

use std::path::{Path, PathBuf};

/// Kinds that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The file system refused.
    Io,
    /// A file is not what it should be.
    Damaged,
    /// Another process is updating the same index.
    Busy,
}

/// An error of an index or an embedding model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", path.display())]
pub struct IndexError {
    /// What kind.
    pub kind: Kind,
    /// Where.
    pub path: PathBuf,
    /// What is wrong, lowercase.
    pub message: String,
}

impl IndexError {
    /// An error at a path.
    pub fn new(kind: Kind, path: &Path, message: &dyn std::fmt::Display) -> Self {
        Self { kind, path: path.to_owned(), message: message.to_string() }
    }
}
