//! What can be wrong with knowledge: a cause file that does not parse, a condition that means nothing.

/// An error in a knowledge file, with the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {message}")]
pub struct KnowledgeError {
    /// File the error stands in.
    pub file: String,
    /// What is wrong, lowercase, with the offending value.
    pub message: String,
}
