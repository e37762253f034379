//! The library of a running daemon. It follows the store of documents by revision: a diagnosis begins with the newest
//! state and keeps it to its end, whatever is taken in meanwhile.

use std::path::Path;
use std::sync::{Arc, Mutex};

use galen_agents::driver::Library;
use galen_docs_ingest::store::Store;

use crate::config::Config;
use crate::engine;
use crate::failure::Failure;
use crate::state::lock;

/// A library that follows the store in a data folder.
pub struct Living {
    config: Config,
    followed: Mutex<Followed>,
}

/// A store and its revision; none where there is no store.
type At = Option<(String, i64)>;

struct Followed {
    library: Arc<Library>,
    /// The store and its revision that the library has; none where there is no store.
    at: At,
    /// What was last said to be wrong with the store: it is said once.
    trouble: Option<String>,
}

impl Living {
    /// Loads the library.
    ///
    /// # Errors
    /// As [`engine::library`].
    pub fn open(config: Config) -> Result<Self, Failure> {
        // The revision first: what is committed while the library is loaded is followed once more, not missed.
        let at = revision(&config.data_dir)?;
        let library = Arc::new(engine::library(&config)?);
        Ok(Self { config, followed: Mutex::new(Followed { library, at, trouble: None }) })
    }

    /// The library as the store is now. Where nothing changed this costs a look at the revision; where documents did, what
    /// they say of causes is read and indexed here, on a thread where that blocks nobody but the asker. A store that cannot
    /// be read leaves the library as it was, with a warning.
    pub async fn current(self: &Arc<Self>) -> Arc<Library> {
        let living = Arc::clone(self);
        match tokio::task::spawn_blocking(move || living.follow()).await {
            Ok(library) => library,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    fn follow(&self) -> Arc<Library> {
        let mut followed = lock(&self.followed);
        match self.newer(&followed) {
            Ok(None) => followed.trouble = None,
            Ok(Some((library, at))) => *followed = Followed { library: Arc::new(library), at, trouble: None },
            Err(failure) => {
                let why = failure.to_string();
                if followed.trouble.as_ref() != Some(&why) {
                    tracing::warn!(why, "the documents cannot be read; what was known of them before is cited");
                    followed.trouble = Some(why);
                }
            }
        }
        Arc::clone(&followed.library)
    }

    /// The library with what the documents say now; none where nothing changed.
    fn newer(&self, followed: &Followed) -> Result<Option<(Library, At)>, Failure> {
        let at = revision(&self.config.data_dir)?;
        if at == followed.at {
            return Ok(None);
        }
        let chunks = engine::citable(&self.config.data_dir)?;
        tracing::info!(revision = at.as_ref().map_or(0, |(_, revision)| *revision), chunks = chunks.len(), "documents changed");
        let old = followed.library.as_ref();
        // What concerns no cause leaves the index as it is.
        let index = if chunks == old.chunks { Arc::clone(&old.index) } else { engine::index(&self.config, &chunks) };
        let library = Library { chunks, index, ..old.clone() };
        library.index();
        Ok(Some((library, at)))
    }
}

/// The store of a data folder and its revision.
fn revision(data_dir: &Path) -> Result<At, Failure> {
    let Some(store) = Store::open_existing(data_dir)? else { return Ok(None) };
    Ok(Some((store.identity()?, store.revision()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use galen_docs_ingest::store::{Change, Fresh};
    use galen_knowledge::chunk::KnowledgeChunk;

    fn read(path: &str, causes: &[&str]) -> Change {
        let causes = causes.iter().map(|c| (*c).to_owned()).collect();
        let chunk = KnowledgeChunk {
            id: path.into(),
            title: path.into(),
            content: format!("What {path} says."),
            causes,
            ..KnowledgeChunk::default()
        };
        let (path, hash, extractor) = (path.to_owned(), String::new(), "test".to_owned());
        Change::Read { title: path.clone(), path, size: 1, mtime: 1, hash, extractor, chunks: vec![Fresh::new(chunk)] }
    }

    #[tokio::test]
    async fn a_library_follows_what_is_taken_in_and_forgotten_and_leaves_those_in_use_alone() {
        let dir = tempfile::tempdir().unwrap();
        let living = Arc::new(Living::open(Config { data_dir: dir.path().to_owned(), ..Config::default() }).unwrap());
        let shipped = living.current().await;
        assert!(!dir.path().join("knowledge.db").exists(), "looking makes no store");
        let store = Store::open(dir.path()).unwrap();
        store.apply(&[read("locks.md", &["deadlocks"])]).unwrap();
        let one = living.current().await;
        assert_eq!(one.chunks.len(), shipped.chunks.len() + 1);
        assert!(one.chunk("locks.md").is_some() && shipped.chunk("locks.md").is_none());
        store.apply(&[read("other.md", &[])]).unwrap();
        let two = living.current().await;
        assert!(Arc::ptr_eq(&one.index, &two.index), "nothing about causes: the index stays");
        assert!(Arc::ptr_eq(&two, &living.current().await), "nothing new: the same library");
        store.apply(&[Change::Removed { path: "locks.md".to_owned() }]).unwrap();
        assert_eq!(living.current().await.chunks.len(), shipped.chunks.len());
        drop(store);
        std::fs::write(dir.path().join("knowledge.db"), "no database").unwrap();
        assert_eq!(living.current().await.chunks.len(), shipped.chunks.len(), "a damaged store takes nothing away");
    }
}
