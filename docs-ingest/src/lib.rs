//! Documents become knowledge: Markdown files are cut into sections by their headings, each section becomes a
//! chunk that knows its causes, the signals it names and the place it was read from.
//!
//! Depends on `knowledge` only. Other formats, a summary tree and an index belong here too and are not there yet.

pub mod markdown;

use galen_knowledge::chunk::KnowledgeChunk;

/// The runbooks that ship with Galen, embedded: file name and text.
const RUNBOOKS: &[(&str, &str)] = &[
    ("queries.md", include_str!("../../knowledge/runbooks/queries.md")),
    ("writes.md", include_str!("../../knowledge/runbooks/writes.md")),
    ("locks.md", include_str!("../../knowledge/runbooks/locks.md")),
    ("resources.md", include_str!("../../knowledge/runbooks/resources.md")),
];

/// Chunks of the shipped runbooks. `causes` and `signals` are the names to recognise in the text.
pub fn shipped(causes: &[&str], signals: &[&str]) -> Vec<KnowledgeChunk> {
    RUNBOOKS.iter().flat_map(|(file, text)| markdown::chunks(file, text, causes, signals)).collect()
}
