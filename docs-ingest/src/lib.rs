//! Documents become knowledge. A file is read into blocks by its format, blocks are cut into sections by their
//! structure, an extractor makes chunks of them, and the store keeps these and what changed since which revision.
//!
//! Follow one file: [`ingest`] finds it (`walk`), [`read`] chooses the reader (`markdown`, `html`, `plain`, `docx`, `epub`,
//! `pdf`) that gives a [`document::Document`], [`section`] cuts it, [`extract::Rules`] links it, [`store`] keeps it.
//! [`tree`] shows a document from above. Depends on `knowledge` only.

mod archive;
pub mod decode;
pub mod document;
mod docx;
mod epub;
pub mod error;
pub mod extract;
pub mod html;
pub mod ingest;
pub mod markdown;
pub mod pdf;
pub mod plain;
pub mod read;
pub mod section;
pub mod store;
pub mod tree;
mod walk;
pub mod watch;

use extract::Extractor;
use galen_knowledge::catalog::Catalog;
use galen_knowledge::chunk::KnowledgeChunk;

/// The runbooks that ship with Galen, embedded: file name and text.
pub const RUNBOOKS: &[(&str, &str)] = &[
    ("queries.md", include_str!("../../knowledge/runbooks/queries.md")),
    ("writes.md", include_str!("../../knowledge/runbooks/writes.md")),
    ("locks.md", include_str!("../../knowledge/runbooks/locks.md")),
    ("resources.md", include_str!("../../knowledge/runbooks/resources.md")),
];

/// Chunks of the shipped runbooks. `signals` are the names to recognise in the text.
pub fn shipped(catalog: &Catalog, signals: &[&str]) -> Vec<KnowledgeChunk> {
    let rules = extract::Rules::new(catalog, signals);
    let read = |(file, text): &(&str, &str)| markdown::read(text).map(|document| rules.extract(file, &document)).unwrap_or_default();
    RUNBOOKS.iter().flat_map(read).collect()
}

#[cfg(test)]
mod format_tests;
#[cfg(test)]
mod ingest_tests;
#[cfg(test)]
mod samples;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_runbook_section_names_a_cause() {
        let catalog = Catalog::builtin().unwrap();
        let chunks = shipped(&catalog, &[]);
        let spoken_of: std::collections::BTreeSet<&str> = chunks.iter().flat_map(|c| c.causes.iter().map(String::as_str)).collect();
        assert!(spoken_of.len() >= 16, "{spoken_of:?}");
    }
}
