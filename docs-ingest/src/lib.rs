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
    ("storage.md", include_str!("../../knowledge/runbooks/storage.md")),
    ("resources.md", include_str!("../../knowledge/runbooks/resources.md")),
    ("replication.md", include_str!("../../knowledge/runbooks/replication.md")),
];

/// Chunks of the shipped runbooks. `causes` and `signals` are the names to recognise in the text.
pub fn shipped(causes: &[&str], signals: &[&str]) -> Vec<KnowledgeChunk> {
    RUNBOOKS.iter().flat_map(|(file, text)| markdown::chunks(file, text, causes, signals)).collect()
}

#[cfg(test)]
mod tests {
    use galen_knowledge::catalog::Catalog;

    #[test]
    fn every_cause_has_one_runbook_and_every_runbook_one_cause() {
        let catalog = Catalog::builtin().unwrap();
        let ids: Vec<&str> = catalog.iter().map(|c| c.id.as_str()).collect();
        let mut told: Vec<String> = super::shipped(&ids, &[]).iter().map(|c| c.causes.join(" ")).collect();
        told.sort_unstable();
        assert_eq!(told, ids);
    }

    #[test]
    fn every_runbook_confirms_by_reading_and_has_its_parts() {
        for chunk in super::shipped(&[], &[]) {
            for part in ["\n\nConfirm: ", "\n\n```sql\nSELECT ", "\n\nLook-alikes: ", "\n\nFix: ", "\n\nPrevent: "] {
                assert!(chunk.content.contains(part), "{} lacks {part:?}", chunk.title);
            }
        }
    }
}
