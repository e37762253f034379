//! What can be searched: the shipped runbooks and the store of documents, with an index that follows the store's revisions.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use galen_docs_ingest::store::{Step, Store};
use galen_knowledge::catalog::Catalog;
use galen_knowledge::chunk::KnowledgeChunk;
use galen_knowledge::index::distil::TokenVectors;
use galen_knowledge::index::{Hit, Index, IndexError, Kind};

use crate::failure::Failure;
use crate::{engine, output};

/// Name of the file with static vectors in the models folder.
pub const VECTORS_FILE: &str = "all-minilm-l6-v2.static";
/// Folder of the index in the data folder.
const INDEX_DIR: &str = "index";
/// Most chunks that are indexed in memory, which takes a tenth of a second; more are kept indexed on disk.
const MOST_IN_MEMORY: usize = 500;
/// Chunks that are indexed in one commit: what is held in memory at a time.
const PAGE: usize = 4_000;
/// How often, and how long after one another, an index is asked for that another process is updating.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Chunks and their index.
pub struct Shelf {
    /// The index.
    pub index: Index,
    shipped: HashMap<String, KnowledgeChunk>,
    store: Option<Store>,
}

impl Shelf {
    /// All that is known, indexed in memory when it is little, otherwise in the data folder, where only what changed since
    /// the index's revision is indexed. While another process is doing so, the state before is searched.
    ///
    /// # Errors
    /// The data folder cannot be read or written, or another process is making the index for the first time.
    pub fn open(catalog: &Catalog, data_dir: &Path, embedder: Option<Arc<TokenVectors>>) -> Result<Self, Failure> {
        let shipped = engine::shipped()?;
        let store = Store::open_existing(data_dir)?;
        let index = match &store {
            Some(store) if store.shown()? + shipped.len() > MOST_IN_MEMORY => {
                let dir = data_dir.join(INDEX_DIR);
                let base = base(&store.identity()?, catalog, &shipped);
                let index = patiently(|| Index::open(&dir, catalog, embedder.clone(), &base))?;
                match patiently(|| follow(&index, store, &shipped)) {
                    Err(Trouble::Index(error)) if error.kind == Kind::Busy && !index.is_empty() => {
                        output::tell("galen: another process is updating the index; what it had before is searched");
                    }
                    outcome => outcome?,
                }
                index
            }
            store => {
                let mut chunks = shipped.clone();
                let taken_in = store.as_ref().map(Store::chunks).transpose()?.unwrap_or_default();
                chunks.extend(taken_in.into_iter().map(|stored| stored.chunk));
                Index::in_memory(&chunks, catalog, embedder)?
            }
        };
        Ok(Self { index, shipped: shipped.into_iter().map(|chunk| (chunk.id.clone(), chunk)).collect(), store })
    }

    /// The chunk of a hit; none where it is gone since.
    ///
    /// # Errors
    /// Of the store.
    pub fn chunk(&self, hit: &Hit) -> Result<Option<KnowledgeChunk>, Failure> {
        if let Some(chunk) = self.shipped.get(&hit.id) {
            return Ok(Some(chunk.clone()));
        }
        Ok(self.store.as_ref().map(|store| store.chunk(&hit.id)).transpose()?.flatten())
    }
}

/// Brings the index to the store's revision. Until the last commit it says that it is at the revision before: a process
/// that dies in between is followed by one that goes over the same changes again.
fn follow(index: &Index, store: &Store, shipped: &[KnowledgeChunk]) -> Result<(), Trouble> {
    let before = index.revision();
    let since = i64::try_from(before).unwrap_or(i64::MAX);
    let kept = |id: &String| shipped.iter().any(|chunk| chunk.id == *id);
    let known: Vec<String> = index.ids().into_iter().filter(|id| !kept(id)).collect();
    // What ships comes with the first commit, and never changes over the same base.
    let mut first = if before == 0 { shipped.to_vec() } else { Vec::new() };
    store.follow(since, &known, PAGE, &mut |step| match step {
        Step::Shown(chunks) => {
            first.extend(chunks);
            Ok(index.update(before, &[], &std::mem::take(&mut first))?)
        }
        Step::Gone(gone, revision) => Ok(index.update(revision.cast_unsigned(), &gone, &std::mem::take(&mut first))?),
    })
}

/// What an index is built over: one store, one set of shipped runbooks and the signals of one catalog.
fn base(store: &str, catalog: &Catalog, shipped: &[KnowledgeChunk]) -> String {
    let mut digest = Sha256::new();
    digest.update(store);
    for cause in catalog.iter() {
        digest.update(&cause.id);
        cause.symptom.iter().for_each(|symptom| digest.update(&symptom.signal));
    }
    shipped.iter().for_each(|chunk| digest.update(&chunk.id));
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Tries again for two seconds what another process keeps from working.
fn patiently<T, E: Into<Trouble>>(mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, Trouble> {
    for _ in 1..ATTEMPTS {
        match attempt().map_err(Into::into) {
            Err(Trouble::Index(error)) if error.kind == Kind::Busy => std::thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
    attempt().map_err(Into::into)
}

/// What kept the index from following.
enum Trouble {
    Index(IndexError),
    Other(Failure),
}

impl From<IndexError> for Trouble {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}

impl From<galen_docs_ingest::store::StoreError> for Trouble {
    fn from(error: galen_docs_ingest::store::StoreError) -> Self {
        Self::Other(error.into())
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Index(error) => error.into(),
            Trouble::Other(failure) => failure,
        }
    }
}

/// The static vectors of this machine, from the folder of models.
///
/// # Errors
/// One line: why there are none, and how to get them.
pub fn embedder(models_dir: &Path) -> Result<Arc<TokenVectors>, String> {
    let path = models_dir.join(VECTORS_FILE);
    if !path.exists() {
        let make = format!("`GALEN_MODELS_DIR={} make embedding` makes it", models_dir.display());
        return Err(format!("{} is not there ({make}); words and names are searched, meaning is not", path.display()));
    }
    TokenVectors::load(&path).map(Arc::new).map_err(|e| format!("{e}; words and names are searched, meaning is not"))
}

impl From<IndexError> for Failure {
    fn from(error: IndexError) -> Self {
        match error.kind {
            Kind::Io => Self::fault(error.to_string()),
            Kind::Damaged | Kind::Busy => Self::input(error.to_string()),
        }
    }
}
