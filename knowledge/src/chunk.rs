//! Knowledge chunks: pieces of documents that explain a cause, each with its way back to the source.

use serde::{Deserialize, Serialize};

/// A piece of a document, linked to causes and signals.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct KnowledgeChunk {
    /// Stable id: hash of source and content.
    pub id: String,
    /// Title of the section.
    pub title: String,
    /// Cause ids it speaks of.
    pub causes: Vec<String>,
    /// Text of the section.
    pub content: String,
    /// Signals it names.
    pub signals: Vec<String>,
    /// Where it stands.
    pub source: Source,
}

/// The place a chunk was read from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// File name.
    pub file: String,
    /// Headings from the document's title down.
    pub section: Vec<String>,
    /// Byte offset of the section in the file.
    pub offset: usize,
}
