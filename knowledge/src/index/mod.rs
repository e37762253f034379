//! The index of knowledge chunks: words by BM25, names and codes exactly, meaning by static embeddings, fused by rank.
//!
//! It holds no text: a hit is a chunk's id, and whoever keeps the chunks has the text. On disk, tantivy's files and a
//! file of rows change together in one commit that carries the revision of the store it follows; a process that dies
//! before the commit leaves the former state. Searches go on over the former state while an update runs.

pub mod analysis;
pub mod distil;
mod document;
pub mod error;
pub mod minilm;
pub mod passage;
mod query;
pub mod questions;
mod rows;
mod snapshot;
mod update;
mod vectors;
pub mod wordpiece;
mod words;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use tantivy::directory::{MmapDirectory, RamDirectory};
use tantivy::schema::Field;
use tantivy::{IndexReader, TantivyDocument, TantivyError, Term};

use crate::catalog::Catalog;
use crate::chunk::KnowledgeChunk;
use distil::TokenVectors;
use document::{Fields, Symptoms, document, meaning_of, schema, symptoms};
pub use error::{IndexError, Kind};
use passage::{Passage, passage};
pub use query::Query;
use rows::Rows;
use snapshot::{Snapshot, clear, reader, snapshot, translate};

/// Hits taken from each way of searching before they are fused.
const DEPTH: usize = 50;
/// How flat the ranks of one way are: at 60, as is usual, the way that is best here (words) lost too many first places.
const RANK_OFFSET: f32 = 10.0;
/// Memory for an index in memory, bytes: the least that tantivy takes.
const LEAST_BYTES: usize = 15_000_000;

/// Ways of searching that are fused.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// Words, by BM25.
    pub words: f32,
    /// Names and codes.
    pub names: f32,
    /// Embeddings.
    pub meaning: f32,
}

impl Default for Weights {
    /// What served best on the questions that may be learnt from (`galen bench retrieval`).
    fn default() -> Self {
        Self { words: 1.0, names: 0.5, meaning: 0.1 }
    }
}

/// Ranks of a hit, from 1, in each way of searching that found it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Ranks {
    /// By words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words: Option<usize>,
    /// By names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<usize>,
    /// By embedding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meaning: Option<usize>,
}

/// A chunk that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hit {
    /// Its id.
    pub id: String,
    /// Sum over the ways of searching of weight / (10 + rank).
    pub score: f32,
    /// Where it stood in each.
    pub ranks: Ranks,
}

/// An index of chunks, in a folder or in memory.
pub struct Index {
    /// The folder; none for an index in memory.
    dir: Option<PathBuf>,
    /// What it is built over.
    base: String,
    index: tantivy::Index,
    fields: Fields,
    reader: IndexReader,
    snapshot: RwLock<Arc<Snapshot>>,
    updating: Mutex<()>,
    embedder: Option<Arc<TokenVectors>>,
    /// Signals that move with a cause: a chunk about the cause is found by them.
    symptoms: Symptoms,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("dir", &self.dir).field("chunks", &self.len()).finish()
    }
}

impl Index {
    /// An index of a few chunks in memory, in one segment: the same chunks give the same index.
    ///
    /// # Errors
    /// tantivy's, which would be a fault of ours.
    pub fn in_memory(chunks: &[KnowledgeChunk], catalog: &Catalog, embedder: Option<Arc<TokenVectors>>) -> Result<Self, IndexError> {
        let (schema, fields) = schema();
        let fail = |e: TantivyError| IndexError::new(Kind::Damaged, Path::new("index in memory"), &e);
        let builder = tantivy::Index::builder().schema(schema);
        let mut writer = builder.single_segment_index_writer::<TantivyDocument>(RamDirectory::create(), LEAST_BYTES).map_err(fail)?;
        let symptoms = symptoms(catalog);
        let mut rows = Rows::new(embedder.as_ref().map_or(0, |e| e.dims()));
        for chunk in chunks {
            let number = rows.push(&chunk.id, embedder.as_ref().and_then(|e| e.embed(&meaning_of(chunk))));
            writer.add_document(document(fields, chunk, number, &symptoms)).map_err(fail)?;
        }
        let index = writer.finalize().map_err(fail)?;
        let reader = reader(&index).map_err(fail)?;
        let snapshot = Snapshot::new(0, reader.searcher(), rows).map_err(fail)?;
        Ok(Self {
            dir: None,
            base: String::new(),
            index,
            fields,
            reader,
            snapshot: RwLock::new(Arc::new(snapshot)),
            updating: Mutex::default(),
            embedder,
            symptoms,
        })
    }

    /// Opens the index in a folder, or makes an empty one. An index that is damaged, or was written by another version,
    /// over another `base` (whatever names the store that it follows) or with other embeddings, becomes an empty one at
    /// revision 0, to be filled again from the store of chunks.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn open(dir: &Path, catalog: &Catalog, embedder: Option<Arc<TokenVectors>>, base: &str) -> Result<Self, IndexError> {
        std::fs::create_dir_all(dir).map_err(|e| IndexError::new(Kind::Io, dir, &e))?;
        let dims = embedder.as_ref().map_or(0, |e| e.dims());
        let attempt = |dir: &Path| -> Result<Self, IndexError> {
            let (schema, fields) = schema();
            let fail = |e: TantivyError| translate(dir, &e);
            let directory = MmapDirectory::open(dir).map_err(|e| IndexError::new(Kind::Io, dir, &e))?;
            let index = tantivy::Index::open_or_create(directory, schema).map_err(fail)?;
            let reader = reader(&index).map_err(fail)?;
            let snapshot = snapshot(dir, &index, &reader, (dims, base))?;
            let symptoms = symptoms(catalog);
            let snapshot = RwLock::new(Arc::new(snapshot));
            Ok(Self {
                dir: Some(dir.to_owned()),
                base: base.to_owned(),
                index,
                fields,
                reader,
                snapshot,
                updating: Mutex::default(),
                embedder: embedder.clone(),
                symptoms,
            })
        };
        match attempt(dir) {
            Err(error) if error.kind == Kind::Damaged => {
                clear(dir)?;
                attempt(dir)
            }
            other => other,
        }
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.seen().rows.len()
    }

    /// True without chunks.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Revision of the store that the index stands at; 0 for a new one.
    pub fn revision(&self) -> u64 {
        self.seen().revision
    }

    /// True when meaning is searched too.
    pub fn has_embeddings(&self) -> bool {
        self.embedder.is_some()
    }

    /// Ids of all chunks.
    pub fn ids(&self) -> Vec<String> {
        self.seen().rows.ids().map(str::to_owned).collect()
    }

    /// The best chunks for a query by all ways of searching, the best first.
    pub fn search(&self, query: &Query, limit: usize) -> Vec<Hit> {
        self.search_with(query, limit, Weights::default())
    }

    /// As [`Self::search`], with weights; a way with weight 0 is not searched.
    pub fn search_with(&self, query: &Query, limit: usize, weights: Weights) -> Vec<Hit> {
        let seen = self.seen();
        let mut found: HashMap<usize, (f32, Ranks)> = HashMap::new();
        let mut fuse = |weight: f32, rows: Vec<usize>, set: fn(&mut Ranks, usize)| {
            for (at, row) in rows.into_iter().enumerate() {
                let entry = found.entry(row).or_default();
                entry.0 += weight / (RANK_OFFSET + (at + 1) as f32);
                set(&mut entry.1, at + 1);
            }
        };
        let depth = DEPTH.max(limit);
        if weights.words > 0.0 {
            fuse(weights.words, self.by_terms(&seen, self.fields.body, &query.terms(), depth), |ranks, at| ranks.words = Some(at));
        }
        if weights.names > 0.0 {
            fuse(weights.names, self.by_terms(&seen, self.fields.names, query.names(), depth), |ranks, at| ranks.names = Some(at));
        }
        if weights.meaning > 0.0
            && let Some(vector) = self.embedder.as_ref().and_then(|e| e.embed(query.text()))
        {
            let near = seen.rows.vectors().nearest(&vector, depth).into_iter().map(|(row, _)| row).collect();
            fuse(weights.meaning, near, |ranks, at| ranks.meaning = Some(at));
        }
        let mut ranked: Vec<(usize, (f32, Ranks))> = found.into_iter().collect();
        ranked.sort_by(|a, b| b.1.0.total_cmp(&a.1.0).then(a.0.cmp(&b.0)));
        ranked.truncate(limit);
        ranked.into_iter().map(|(row, (score, ranks))| Hit { id: seen.rows.id(row).to_owned(), score, ranks }).collect()
    }

    /// The passage of a chunk's text that answers the query best, with what to highlight.
    pub fn passage(&self, query: &Query, text: &str) -> Passage {
        let seen = self.seen();
        let total = seen.searcher.num_docs() as f32;
        let weight = |term: &str| {
            let holding = seen.searcher.doc_freq(&Term::from_field_text(self.fields.body, term)).unwrap_or(0) as f32;
            (1.0 + total / (1.0 + holding)).ln()
        };
        passage(text, &query.terms(), &weight)
    }

    fn seen(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Rows of the best documents that hold any of the terms.
    fn by_terms(&self, seen: &Snapshot, field: Field, terms: &[String], limit: usize) -> Vec<usize> {
        let Ok(found) = words::best(&seen.searcher, field, terms, limit) else { return Vec::new() };
        let mut rows: Vec<(f32, usize)> = found.into_iter().filter_map(|(score, place)| Some((score, seen.row_at(place)?))).collect();
        // Equal scores in order of row, not of segment.
        rows.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        rows.truncate(limit);
        rows.into_iter().map(|(_, row)| row).collect()
    }
}

#[cfg(test)]
mod tests;
