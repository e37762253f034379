//! Changes of an index: whole ones, in one commit each, while searches go on over the state before.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::{Arc, PoisonError};

use tantivy::indexer::NoMergePolicy;
use tantivy::{IndexWriter, TantivyError, Term};

use super::Index;
use super::document::{document, meaning_of};
use super::error::IndexError;
use super::snapshot::{FORMAT, Payload, Snapshot, remove_rows_but, snapshot, translate};
use crate::chunk::KnowledgeChunk;

/// Memory for indexing before a segment is written, bytes (tantivy wants 15 MB or more).
pub(super) const WRITER_BYTES: usize = 40_000_000;
/// Segments above which the smallest are merged into one, all but so many large ones.
const MOST_SEGMENTS: usize = 6;
const LARGE_SEGMENTS: usize = 2;

impl Index {
    /// Follows the store to a revision: chunks that are gone by id, and chunks that are new or changed. Searches go on
    /// over the former state until this returns; when it fails, or the process dies, the former state stays.
    ///
    /// # Errors
    /// Busy when another process updates the same folder; otherwise what the disk says.
    pub fn update(&self, revision: u64, removed: &[String], added: &[KnowledgeChunk]) -> Result<(), IndexError> {
        let dir = self.dir.as_deref().unwrap_or(Path::new("index in memory"));
        let fail = |e: TantivyError| translate(dir, &e);
        let _one_at_a_time = self.updating.lock().unwrap_or_else(PoisonError::into_inner);
        // The writer first: it holds the folder's lock, so that what is read below is the latest state.
        let mut writer: IndexWriter = self.index.writer_with_num_threads(1, WRITER_BYTES).map_err(fail)?;
        writer.set_merge_policy(Box::new(NoMergePolicy));
        // What a killed process left without a commit goes first: this one may have to write files of the same names.
        writer.garbage_collect_files().wait().map_err(fail)?;
        let before = self.latest()?;
        let mut gone: HashSet<&str> = removed.iter().map(String::as_str).collect();
        let mut last: BTreeMap<&str, &KnowledgeChunk> = BTreeMap::new();
        for chunk in added {
            gone.insert(&chunk.id);
            last.insert(&chunk.id, chunk);
        }
        let mut rows = before.rows.without(&gone);
        for id in &gone {
            writer.delete_term(Term::from_field_text(self.fields.id, id));
        }
        for chunk in added.iter().filter(|c| last.get(c.id.as_str()).is_some_and(|l| std::ptr::eq(*l, *c))) {
            let vector = self.embedder.as_ref().and_then(|e| e.embed(&meaning_of(chunk)));
            let number = rows.push(&chunk.id, vector);
            writer.add_document(document(self.fields, chunk, number, &self.symptoms)).map_err(fail)?;
        }
        let mut commit = writer.prepare_commit().map_err(fail)?;
        let name = format!("rows-{}-{}", commit.opstamp(), std::process::id());
        if let Some(dir) = &self.dir {
            rows.save(&dir.join(&name))?;
        }
        // Whoever has embeddings would else take this for a chunk that means nothing.
        let partly = before.partly || (self.embedder.is_none() && rows.vectors().dims() > 0 && !last.is_empty());
        let payload = Payload { format: FORMAT, base: self.base.clone(), revision, rows: name.clone(), partly };
        commit.set_payload(&serde_json::to_string(&payload).unwrap_or_default());
        commit.commit().map_err(fail)?;
        self.tidy(&mut writer).map_err(fail)?;
        writer.wait_merging_threads().map_err(fail)?;
        self.reader.reload().map_err(fail)?;
        let mut after = Snapshot::new(revision, self.reader.searcher(), rows).map_err(fail)?;
        after.partly = partly;
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        if let Some(dir) = &self.dir {
            remove_rows_but(dir, &name);
        }
        Ok(())
    }

    /// The state on disk, which another process may have changed.
    fn latest(&self) -> Result<Arc<Snapshot>, IndexError> {
        let Some(dir) = &self.dir else { return Ok(self.seen()) };
        let dims = self.embedder.as_ref().map_or(0, |e| e.dims());
        Ok(Arc::new(snapshot(dir, &self.index, &self.reader, (dims, &self.base))?))
    }

    /// Takes over what another process has committed since. Returns true when there was something new.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn reload(&self) -> Result<bool, IndexError> {
        let latest = self.latest()?;
        let changed = latest.revision != self.revision() || latest.rows.len() != self.len();
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = latest;
        Ok(changed)
    }

    /// Merges the smallest segments when there are many: a search visits each.
    fn tidy(&self, writer: &mut IndexWriter) -> Result<(), TantivyError> {
        let mut segments = self.index.searchable_segment_metas()?;
        if segments.len() > MOST_SEGMENTS {
            segments.sort_by_key(tantivy::SegmentMeta::num_docs);
            segments.truncate(segments.len() - LARGE_SEGMENTS);
            let ids: Vec<_> = segments.iter().map(tantivy::SegmentMeta::id).collect();
            writer.merge(&ids).wait()?;
        }
        writer.garbage_collect_files().wait().map(|_| ())
    }
}
