//! The index of knowledge chunks: words by BM25, names and codes exactly, meaning by static embeddings, fused by rank.
//!
//! It holds no text: a hit is a chunk's id, and whoever keeps the chunks has the text. On disk, tantivy's files and a
//! file of rows change together in one commit that carries the revision of the store it follows; a process that dies
//! before the commit leaves the former state. Searches go on over the former state while an update runs.

pub mod analysis;
pub mod distil;
pub mod error;
pub mod minilm;
pub mod passage;
mod query;
pub mod questions;
mod rows;
mod vectors;
pub mod wordpiece;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use tantivy::collector::TopDocs;
use tantivy::columnar::Column;
use tantivy::directory::{Directory, INDEX_WRITER_LOCK, MmapDirectory, RamDirectory};
use tantivy::indexer::NoMergePolicy;
use tantivy::query::{BooleanQuery, TermQuery};
use tantivy::schema::{FAST, Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::{PreTokenizedString, Token as TantivyToken};
use tantivy::{IndexReader, IndexWriter, ReloadPolicy, Searcher, TantivyDocument, TantivyError, Term};

use crate::catalog::Catalog;
use crate::chunk::KnowledgeChunk;
use distil::TokenVectors;
pub use error::{IndexError, Kind};
use passage::{Passage, passage};
pub use query::Query;
use rows::Rows;

/// Changes when what is written changes: an index of another format is built anew.
const FORMAT: u32 = 1;
/// How often a title counts against the text below it.
const TITLE: usize = 2;
/// Hits taken from each way of searching before they are fused.
const DEPTH: usize = 50;
/// How flat the ranks of one way are: at 60, as is usual, the way that is best here (words) lost too many first places.
const RANK_OFFSET: f32 = 10.0;
/// Documents from which on frequent terms are left out beside so many rarer ones, and at most so many terms are used.
const MANY_DOCUMENTS: u64 = 20_000;
const RAREST: usize = 3;
const MOST_TERMS: usize = 12;
/// Memory for indexing before a segment is written, bytes (tantivy wants 15 MB or more).
const WRITER_BYTES: usize = 40_000_000;
const LEAST_BYTES: usize = 15_000_000;
/// Segments above which the smallest are merged into one, all but so many large ones.
const MOST_SEGMENTS: usize = 6;
const LARGE_SEGMENTS: usize = 2;
/// How often and after which pause a state is read again that changed while it was read.
const ATTEMPTS: usize = 8;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(40);

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

/// What a commit says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Payload {
    format: u32,
    revision: u64,
    rows: String,
}

/// What a search sees: never changed, only replaced.
struct Snapshot {
    revision: u64,
    searcher: Searcher,
    rows: Rows,
    /// Number of the row of each document, by segment.
    numbers: Vec<Column<u64>>,
}

impl Snapshot {
    fn new(revision: u64, searcher: Searcher, rows: Rows) -> Result<Self, TantivyError> {
        let numbers = searcher.segment_readers().iter().map(|s| s.fast_fields().u64("number")).collect::<Result<_, _>>()?;
        Ok(Self { revision, searcher, rows, numbers })
    }
}

#[derive(Debug, Clone, Copy)]
struct Fields {
    id: Field,
    number: Field,
    body: Field,
    names: Field,
}

/// An index of chunks, in a folder or in memory.
pub struct Index {
    /// The folder; none for an index in memory.
    dir: Option<PathBuf>,
    index: tantivy::Index,
    fields: Fields,
    reader: IndexReader,
    snapshot: RwLock<Arc<Snapshot>>,
    updating: Mutex<()>,
    embedder: Option<Arc<TokenVectors>>,
    /// Signals that move with a cause: a chunk about the cause is found by them.
    symptoms: HashMap<String, Vec<String>>,
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
            index,
            fields,
            reader,
            snapshot: RwLock::new(Arc::new(snapshot)),
            updating: Mutex::default(),
            embedder,
            symptoms,
        })
    }

    /// Opens the index in a folder, or makes an empty one. An index that is damaged, or was written by another version
    /// or with other embeddings, becomes an empty one at revision 0, to be filled again from the store of chunks.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn open(dir: &Path, catalog: &Catalog, embedder: Option<Arc<TokenVectors>>) -> Result<Self, IndexError> {
        std::fs::create_dir_all(dir).map_err(|e| IndexError::new(Kind::Io, dir, &e))?;
        let dims = embedder.as_ref().map_or(0, |e| e.dims());
        let attempt = |dir: &Path| -> Result<Self, IndexError> {
            let (schema, fields) = schema();
            let fail = |e: TantivyError| translate(dir, &e);
            let directory = MmapDirectory::open(dir).map_err(|e| IndexError::new(Kind::Io, dir, &e))?;
            let index = tantivy::Index::open_or_create(directory, schema).map_err(fail)?;
            let reader = reader(&index).map_err(fail)?;
            let snapshot = snapshot(dir, &index, &reader, dims)?;
            let symptoms = symptoms(catalog);
            let snapshot = RwLock::new(Arc::new(snapshot));
            Ok(Self {
                dir: Some(dir.to_owned()),
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
        let payload = Payload { format: FORMAT, revision, rows: name.clone() };
        commit.set_payload(&serde_json::to_string(&payload).unwrap_or_default());
        commit.commit().map_err(fail)?;
        self.tidy(&mut writer).map_err(fail)?;
        writer.wait_merging_threads().map_err(fail)?;
        self.reader.reload().map_err(fail)?;
        let after = Snapshot::new(revision, self.reader.searcher(), rows).map_err(fail)?;
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        if let Some(dir) = &self.dir {
            remove_rows_but(dir, &name);
        }
        Ok(())
    }

    /// Makes the index hold exactly these chunks: what the folder has more is removed, what it lacks is added.
    /// Chunks are told apart by their ids, which change with their contents. Returns how many were removed and added.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub fn sync(&self, revision: u64, chunks: &[KnowledgeChunk]) -> Result<(usize, usize), IndexError> {
        let seen = self.seen();
        let wanted: HashSet<&str> = chunks.iter().map(|c| c.id.as_str()).collect();
        let known: HashSet<&str> = seen.rows.ids().collect();
        let removed: Vec<String> = known.difference(&wanted).map(|id| (*id).to_owned()).collect();
        let added: Vec<KnowledgeChunk> = chunks.iter().filter(|c| !known.contains(c.id.as_str())).cloned().collect();
        if revision != seen.revision || !removed.is_empty() || !added.is_empty() {
            self.update(revision, &removed, &added)?;
        }
        Ok((removed.len(), added.len()))
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

    /// The state on disk, which another process may have changed.
    fn latest(&self) -> Result<Arc<Snapshot>, IndexError> {
        let Some(dir) = &self.dir else { return Ok(self.seen()) };
        let dims = self.embedder.as_ref().map_or(0, |e| e.dims());
        Ok(Arc::new(snapshot(dir, &self.index, &self.reader, dims)?))
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

    /// Rows of the best documents that hold any of the terms.
    fn by_terms(&self, seen: &Snapshot, field: Field, terms: &[String], limit: usize) -> Vec<usize> {
        let term = |t: &String| -> Box<dyn tantivy::query::Query> {
            Box::new(TermQuery::new(Term::from_field_text(field, t), IndexRecordOption::WithFreqs))
        };
        if terms.is_empty() || limit == 0 {
            return Vec::new();
        }
        let telling = telling(&seen.searcher, field, terms);
        let query = BooleanQuery::union(telling.into_iter().map(term).collect());
        let Ok(found) = seen.searcher.search(&query, &TopDocs::with_limit(limit).order_by_score()) else { return Vec::new() };
        let row = |address: tantivy::DocAddress| seen.rows.row_of(seen.numbers.get(address.segment_ord as usize)?.first(address.doc_id)?);
        let mut rows: Vec<(f32, usize)> = found.into_iter().filter_map(|(score, at)| Some((score, row(at)?))).collect();
        // Equal scores in order of row, not of segment.
        rows.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        rows.into_iter().map(|(_, row)| row).collect()
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

/// The terms that tell documents apart: where there are many documents, terms that every tenth holds cost most of the
/// time and decide least, and are left out beside three rarer ones.
fn telling<'t>(searcher: &Searcher, field: Field, terms: &'t [String]) -> Vec<&'t String> {
    let total = searcher.num_docs();
    if total < MANY_DOCUMENTS {
        return terms.iter().collect();
    }
    let held = |t: &String| searcher.doc_freq(&Term::from_field_text(field, t)).unwrap_or(0);
    let mut counted: Vec<(u64, &String)> = terms.iter().map(|t| (held(t), t)).filter(|(held, _)| *held > 0).collect();
    counted.sort();
    let kept = counted.iter().enumerate().filter(|(at, (held, _))| *at < RAREST || held * 10 <= total);
    kept.map(|(_, (_, t))| *t).take(MOST_TERMS).collect()
}

fn schema() -> (Schema, Fields) {
    let mut builder = Schema::builder();
    let counted = TextFieldIndexing::default().set_tokenizer("raw").set_index_option(IndexRecordOption::WithFreqs);
    let exact = TextFieldIndexing::default().set_tokenizer("raw").set_index_option(IndexRecordOption::Basic).set_fieldnorms(false);
    let fields = Fields {
        id: builder.add_text_field("id", TextOptions::default().set_indexing_options(exact)),
        number: builder.add_u64_field("number", FAST),
        body: builder.add_text_field("body", TextOptions::default().set_indexing_options(counted.clone())),
        names: builder.add_text_field("names", TextOptions::default().set_indexing_options(counted)),
    };
    (builder.build(), fields)
}

fn reader(index: &tantivy::Index) -> Result<IndexReader, TantivyError> {
    index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()
}

/// The state of the last commit. Another process may commit in between: then it is read again.
fn snapshot(dir: &Path, index: &tantivy::Index, reader: &IndexReader, dims: usize) -> Result<Snapshot, IndexError> {
    let mut outcome = read_snapshot(dir, index, reader, dims);
    for _ in 0..ATTEMPTS {
        if outcome.as_ref().is_ok() || outcome.as_ref().is_err_and(|e| e.kind != Kind::Damaged) {
            break;
        }
        std::thread::sleep(PAUSE);
        outcome = read_snapshot(dir, index, reader, dims);
    }
    outcome
}

/// As [`snapshot`], once; damaged when the rows do not belong to the commit, or it has another format.
fn read_snapshot(dir: &Path, index: &tantivy::Index, reader: &IndexReader, dims: usize) -> Result<Snapshot, IndexError> {
    let fail = |e: TantivyError| translate(dir, &e);
    let meta = index.load_metas().map_err(fail)?;
    reader.reload().map_err(fail)?;
    let searcher = reader.searcher();
    let Some(text) = meta.payload else {
        if searcher.num_docs() > 0 {
            return Err(IndexError::new(Kind::Damaged, dir, &"its commit says nothing of itself"));
        }
        return Snapshot::new(0, searcher, Rows::new(dims)).map_err(fail);
    };
    let payload: Payload = serde_json::from_str(&text).map_err(|e| IndexError::new(Kind::Damaged, dir, &e))?;
    let plain = payload.rows.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if payload.format != FORMAT || !plain {
        return Err(IndexError::new(Kind::Damaged, dir, &format!("it has format {}, not {FORMAT}", payload.format)));
    }
    let path = dir.join(&payload.rows);
    let rows = Rows::load(&path).map_err(|e| IndexError { kind: Kind::Damaged, ..e })?;
    // Whoever has no embeddings may use an index that has some, not the other way round.
    let fits = dims == 0 || rows.vectors().dims() == dims;
    if rows.len() as u64 != searcher.num_docs() || !fits {
        return Err(IndexError::new(Kind::Damaged, &path, &"it does not belong to the index"));
    }
    let snapshot = Snapshot::new(payload.revision, searcher, rows).map_err(fail)?;
    // Two commits with as many documents each: the numbers must be known, too.
    let known = snapshot.numbers.iter().zip(snapshot.searcher.segment_readers()).all(|(column, segment)| {
        segment.doc_ids_alive().all(|doc| column.first(doc).is_some_and(|number| snapshot.rows.row_of(number).is_some()))
    });
    if !known {
        return Err(IndexError::new(Kind::Damaged, &path, &"it belongs to another commit"));
    }
    Ok(snapshot)
}

/// Removes all files of an index, so that it is built anew; not while another process writes to it.
fn clear(dir: &Path) -> Result<(), IndexError> {
    let fail = |e: std::io::Error| IndexError::new(Kind::Io, dir, &e);
    let directory = MmapDirectory::open(dir).map_err(|e| IndexError::new(Kind::Io, dir, &e))?;
    let _lock = directory.acquire_lock(&INDEX_WRITER_LOCK).map_err(|_| busy(dir))?;
    for entry in std::fs::read_dir(dir).map_err(fail)?.filter_map(Result::ok) {
        // Only plain files: the folder holds nothing else of ours. The lock stays while it is held.
        let lock = entry.path().extension().is_some_and(|e| e == "lock");
        if entry.file_type().is_ok_and(|t| t.is_file()) && !lock {
            std::fs::remove_file(entry.path()).map_err(fail)?;
        }
    }
    Ok(())
}

fn busy(dir: &Path) -> IndexError {
    IndexError::new(Kind::Busy, dir, &"another process is updating it; try again")
}

/// Removes the files of rows of former commits.
fn remove_rows_but(dir: &Path, name: &str) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
        let other = entry.file_name().to_str().is_some_and(|n| n.starts_with("rows-") && n != name);
        if other {
            // One that stays is removed by the next update.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn translate(dir: &Path, error: &TantivyError) -> IndexError {
    match error {
        TantivyError::LockFailure(..) => busy(dir),
        TantivyError::IoError(_) | TantivyError::OpenDirectoryError(_) | TantivyError::OpenWriteError(_) => {
            IndexError::new(Kind::Io, dir, error)
        }
        _ => IndexError::new(Kind::Damaged, dir, error),
    }
}

fn symptoms(catalog: &Catalog) -> HashMap<String, Vec<String>> {
    let names = |cause: &crate::cause::Cause| cause.symptom.iter().map(|s| s.signal.clone()).collect();
    catalog.iter().map(|cause| (cause.id.clone(), names(cause))).collect()
}

/// What a chunk's embedding is made of.
fn meaning_of(chunk: &KnowledgeChunk) -> String {
    format!("{}. {}", chunk.source.section.join(". "), chunk.content)
}

fn document(fields: Fields, chunk: &KnowledgeChunk, number: u64, symptoms: &HashMap<String, Vec<String>>) -> TantivyDocument {
    let title = if chunk.source.section.is_empty() { chunk.title.clone() } else { chunk.source.section.join(" ") };
    let mut body: Vec<String> = Vec::new();
    for _ in 0..TITLE {
        body.extend(analysis::tokens(&title).into_iter().map(|t| t.term));
    }
    body.extend(analysis::tokens(&chunk.content).into_iter().map(|t| t.term));
    // The names of a chunk: those of its title count thrice, its causes and the signals that move with them once.
    let mut names = Query::default();
    for cause in &chunk.causes {
        names.add_name(cause);
        symptoms.get(cause).into_iter().flatten().for_each(|signal| names.add_name(signal));
    }
    chunk.signals.iter().for_each(|signal| names.add_name(signal));
    let mut exact = names.names().to_vec();
    for _ in 0..3 {
        exact.extend(analysis::names(&title));
    }
    exact.extend(analysis::names(&chunk.content));
    let mut document = TantivyDocument::default();
    document.add_text(fields.id, &chunk.id);
    document.add_u64(fields.number, number);
    document.add_pre_tokenized_text(fields.body, terms_of(body));
    document.add_pre_tokenized_text(fields.names, terms_of(exact));
    document
}

fn terms_of(terms: Vec<String>) -> PreTokenizedString {
    let token = |(position, text): (usize, String)| TantivyToken { position, text, ..TantivyToken::default() };
    PreTokenizedString { text: String::new(), tokens: terms.into_iter().enumerate().map(token).collect() }
}

#[cfg(test)]
mod tests;
