//! What can be searched: the library's chunks with their index, and embeddings where this machine has them.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use galen_agents::driver::Library;
use galen_agents::llm::registry::default_models_dir;
use galen_knowledge::chunk::KnowledgeChunk;
use galen_knowledge::index::distil::TokenVectors;
use galen_knowledge::index::{Hit, Index, IndexError, Kind};

use crate::failure::Failure;

/// Name of the file with static vectors in the models folder.
pub const VECTORS_FILE: &str = "all-minilm-l6-v2.static";
/// Folder of the index in the data folder.
const INDEX_DIR: &str = "index";
/// Most chunks that are indexed in memory, which takes a tenth of a second; more are kept indexed on disk.
const MOST_IN_MEMORY: usize = 500;

/// Chunks and their index.
pub struct Shelf {
    /// The index.
    pub index: Index,
    chunks: HashMap<String, KnowledgeChunk>,
}

impl Shelf {
    /// The library's chunks, indexed in memory when they are few, otherwise in the data folder, where only what changed
    /// is indexed again.
    ///
    /// # Errors
    /// The data folder cannot be read or written, or another process is updating the index.
    pub fn open(library: &Library, data_dir: &Path, embedder: Option<Arc<TokenVectors>>) -> Result<Self, Failure> {
        let index = if library.chunks.len() <= MOST_IN_MEMORY {
            Index::in_memory(&library.chunks, &library.catalog, embedder)?
        } else {
            let index = Index::open(&data_dir.join(INDEX_DIR), &library.catalog, embedder)?;
            index.sync(index.revision().max(1), &library.chunks)?;
            index
        };
        let chunks = library.chunks.iter().map(|c| (c.id.clone(), c.clone())).collect();
        Ok(Self { index, chunks })
    }

    /// The chunk of a hit.
    pub fn chunk(&self, hit: &Hit) -> Option<&KnowledgeChunk> {
        self.chunks.get(&hit.id)
    }
}

/// The static vectors of this machine.
///
/// # Errors
/// One line: why there are none, and how to get them.
pub fn embedder() -> Result<Arc<TokenVectors>, String> {
    let path = default_models_dir().join(VECTORS_FILE);
    if !path.exists() {
        return Err(format!("{} is not there (`make embedding` makes it); words and names are searched, meaning is not", path.display()));
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
