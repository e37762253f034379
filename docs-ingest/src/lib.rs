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
    ("storage.md", include_str!("../../knowledge/runbooks/storage.md")),
    ("resources.md", include_str!("../../knowledge/runbooks/resources.md")),
    ("replication.md", include_str!("../../knowledge/runbooks/replication.md")),
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
    fn every_cause_has_one_runbook_and_every_runbook_one_cause() {
        let catalog = Catalog::builtin().unwrap();
        let ids: Vec<&str> = catalog.iter().map(|c| c.id.as_str()).collect();
        let mut told: Vec<String> = shipped(&catalog, &[]).iter().map(|c| c.causes.join(" ")).collect();
        told.sort_unstable();
        assert_eq!(told, ids);
    }

    #[test]
    fn every_runbook_confirms_by_reading_and_has_its_parts() {
        for chunk in shipped(&Catalog::builtin().unwrap(), &[]) {
            for part in ["\n\nConfirm: ", "SELECT ", "\n\nLook-alikes: ", "\n\nFix: ", "\n\nPrevent: "] {
                assert!(chunk.content.contains(part), "{} lacks {part:?}: {}", chunk.title, chunk.content);
            }
        }
    }
}
