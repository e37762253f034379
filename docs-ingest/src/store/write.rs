//! Changes of documents, a transaction at a time: chunks keep their ids, near-duplicates are merged and come back.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;

use galen_knowledge::chunk::KnowledgeChunk;
use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};

use super::near::{self, Near, Print};
use super::{Store, StoreError};

/// Deletions that are remembered; beyond twice as many the older half is forgotten.
const MOST_GONE: i64 = 100_000;

/// A chunk with its fingerprint, made where there is time: by the thread that read it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fresh {
    chunk: KnowledgeChunk,
    print: Print,
}

impl Fresh {
    /// Takes the fingerprint of a chunk.
    pub fn new(chunk: KnowledgeChunk) -> Self {
        let print = near::print(&chunk.content);
        Self { chunk, print }
    }
}

/// What happened to a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// It was read: these are its chunks now.
    Read {
        /// Path.
        path: String,
        /// Title.
        title: String,
        /// Size in bytes.
        size: i64,
        /// Time of its last change.
        mtime: i64,
        /// SHA-256 of its content.
        hash: String,
        /// What extracted the chunks.
        extractor: String,
        /// Its chunks in its order.
        chunks: Vec<Fresh>,
    },
    /// It could not be read: the chunks of its version before stay.
    Failed {
        /// Path.
        path: String,
        /// Size in bytes.
        size: i64,
        /// Time of its last change.
        mtime: i64,
        /// SHA-256 of its content, empty where that is not known.
        hash: String,
        /// What would have extracted its chunks.
        extractor: String,
        /// Why.
        error: String,
    },
    /// Its content is what it was, at another time.
    Same {
        /// Path.
        path: String,
        /// Size in bytes.
        size: i64,
        /// Time of its last change.
        mtime: i64,
    },
    /// It is gone.
    Removed {
        /// Path.
        path: String,
    },
}

/// What a commit did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Its number.
    pub revision: i64,
    /// Chunks that are new.
    pub added: usize,
    /// Chunks that are gone.
    pub removed: usize,
    /// New chunks that are merged into others.
    pub merged: usize,
}

impl Store {
    /// Makes changes, all of them or none, and gives them the next revision.
    ///
    /// # Errors
    /// Of SQLite: nothing was changed then.
    pub fn apply(&self, changes: &[Change]) -> Result<Applied, StoreError> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let revision: i64 = transaction.query_row("SELECT revision FROM about", [], |row| row.get(0))?;
        let mut cache = self.near.lock().unwrap_or_else(PoisonError::into_inner);
        // Until the commit nothing is known: a failure leaves no fingerprints of chunks that are not there.
        let mut near = match cache.take() {
            Some((as_of, near)) if as_of == revision => near,
            _ => fingerprints(&transaction)?,
        };
        let mut writer =
            Writer { transaction: &transaction, near: &mut near, done: Applied { revision: revision + 1, ..Applied::default() } };
        for change in changes {
            writer.change(change)?;
        }
        let done = writer.done;
        transaction.execute("UPDATE about SET revision = ?1", [done.revision])?;
        if done.removed > 0 {
            forget(&transaction)?;
        }
        transaction.commit()?;
        *cache = Some((done.revision, near));
        Ok(done)
    }
}

fn fingerprints(transaction: &Transaction<'_>) -> Result<Near, StoreError> {
    let mut near = Near::default();
    let mut query = transaction.prepare("SELECT print, row FROM chunk WHERE same_as IS NULL ORDER BY row")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        near.add(near::from_bytes(&row.get::<_, Vec<u8>>(0)?), row.get(1)?);
    }
    Ok(near)
}

/// Forgets the older deletions, and says from which revision on they are known.
fn forget(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    let count: i64 = transaction.query_row("SELECT count(*) FROM gone", [], |row| row.get(0))?;
    if count > 2 * MOST_GONE {
        let oldest: i64 =
            transaction.query_row("SELECT revision FROM gone ORDER BY revision DESC LIMIT 1 OFFSET ?1", [MOST_GONE], |row| row.get(0))?;
        transaction.execute("DELETE FROM gone WHERE revision <= ?1", [oldest])?;
        transaction.execute("UPDATE about SET oldest = ?1", [oldest])?;
    }
    Ok(())
}

/// A chunk that is in the store already.
struct Old {
    row: i64,
    print: Print,
    shown: bool,
    place: i64,
    body: String,
}

struct Writer<'t> {
    transaction: &'t Transaction<'t>,
    near: &'t mut Near,
    done: Applied,
}

impl Writer<'_> {
    fn change(&mut self, change: &Change) -> Result<(), StoreError> {
        match change {
            Change::Read { path, title, size, mtime, hash, extractor, chunks } => {
                let document = self.document(path, title, (*size, *mtime), hash, extractor, None)?;
                self.chunks(document, chunks)
            }
            Change::Failed { path, size, mtime, hash, extractor, error } => {
                self.document(path, "", (*size, *mtime), hash, extractor, Some(error)).map(drop)
            }
            Change::Same { path, size, mtime } => {
                self.transaction
                    .prepare_cached("UPDATE document SET size = ?2, mtime = ?3 WHERE path = ?1")?
                    .execute(params![path, size, mtime])?;
                Ok(())
            }
            Change::Removed { path } => self.removed(path),
        }
    }

    fn document(
        &self,
        path: &str,
        title: &str,
        (size, mtime): (i64, i64),
        hash: &str,
        extractor: &str,
        error: Option<&str>,
    ) -> Result<i64, StoreError> {
        // A version that could not be read leaves the title of the one before.
        let mut query = self.transaction.prepare_cached(
            "INSERT INTO document(path, title, size, mtime, hash, extractor, error) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT(path) DO UPDATE SET title = iif(?7 IS NULL, ?2, title), size = ?3, mtime = ?4, hash = ?5, extractor = ?6, error = ?7
             RETURNING id",
        )?;
        Ok(query.query_row(params![path, title, size, mtime, hash, extractor, error], |row| row.get(0))?)
    }

    fn removed(&mut self, path: &str) -> Result<(), StoreError> {
        let find = "SELECT id FROM document WHERE path = ?1";
        let document: Option<i64> = self.transaction.prepare_cached(find)?.query_row([path], |row| row.get(0)).optional()?;
        if let Some(document) = document {
            self.chunks(document, &[])?;
            self.transaction.prepare_cached("DELETE FROM document WHERE id = ?1")?.execute([document])?;
        }
        Ok(())
    }

    /// Makes these the chunks of a document.
    fn chunks(&mut self, document: i64, chunks: &[Fresh]) -> Result<(), StoreError> {
        let mut old = self.old(document)?;
        // What goes, goes first: a new version of a text is not a copy of its old one. Merged ones before those that they
        // are merged into: nothing comes forward only to go.
        let now: HashSet<&str> = chunks.iter().map(|fresh| fresh.chunk.id.as_str()).collect();
        let mut going: Vec<(String, Old)> = old.extract_if(|id, _| !now.contains(id.as_str())).collect();
        going.sort_by_key(|(_, chunk)| (chunk.shown, chunk.row));
        for (id, chunk) in &going {
            self.remove(id, chunk)?;
        }
        let mut twice: HashSet<&str> = HashSet::new();
        for (place, fresh) in (0i64..).zip(chunks) {
            if !twice.insert(&fresh.chunk.id) {
                continue;
            }
            let body = serde_json::to_string(&fresh.chunk)?;
            match old.remove(&fresh.chunk.id) {
                Some(there) if there.body == body && there.place == place => {}
                Some(there) => {
                    // Its place in the file moved, or what it is linked to: the index has to know only of the latter two.
                    let query = "UPDATE chunk SET place = ?2, body = ?3, linked = ?4, revision = iif(?5, ?6, revision) WHERE row = ?1";
                    let linked = !fresh.chunk.causes.is_empty();
                    let changed = there.body != body;
                    self.transaction.prepare_cached(query)?.execute(params![
                        there.row,
                        place,
                        body,
                        linked,
                        changed,
                        self.done.revision
                    ])?;
                }
                None => self.add(document, place, fresh, &body)?,
            }
        }
        Ok(())
    }

    fn old(&self, document: i64) -> Result<HashMap<String, Old>, StoreError> {
        let mut query =
            self.transaction.prepare_cached("SELECT id, row, print, same_as IS NULL, place, body FROM chunk WHERE document = ?1")?;
        let rows = query.query_map([document], |row| {
            let print = near::from_bytes(&row.get::<_, Vec<u8>>(2)?);
            Ok((row.get(0)?, Old { row: row.get(1)?, print, shown: row.get(3)?, place: row.get(4)?, body: row.get(5)? }))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn add(&mut self, document: i64, place: i64, fresh: &Fresh, body: &str) -> Result<(), StoreError> {
        let same_as = self.same_as(fresh)?;
        let chunk = &fresh.chunk;
        let mut query = self.transaction.prepare_cached(
            "INSERT INTO chunk(id, document, place, revision, same_as, print, linked, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        let linked = !chunk.causes.is_empty();
        let print = near::to_bytes(fresh.print);
        let row = query.insert(params![chunk.id, document, place, self.done.revision, same_as, print, linked, body])?;
        self.done.added += 1;
        match same_as {
            None => self.show(&chunk.id, fresh.print, row),
            Some(_) => {
                self.done.merged += 1;
                Ok(())
            }
        }
    }

    /// The chunk that says the same already.
    fn same_as(&self, fresh: &Fresh) -> Result<Option<String>, StoreError> {
        let mut query = self.transaction.prepare_cached("SELECT id, json_extract(body, '$.content') FROM chunk WHERE row = ?1")?;
        for row in self.near.candidates(fresh.print) {
            let (id, content): (String, String) = query.query_row([row], |row| Ok((row.get(0)?, row.get(1)?)))?;
            if near::same(&content, &fresh.chunk.content) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    fn show(&mut self, id: &str, print: Print, row: i64) -> Result<(), StoreError> {
        self.near.add(print, row);
        self.transaction.prepare_cached("DELETE FROM gone WHERE id = ?1")?.execute([id])?;
        Ok(())
    }

    fn remove(&mut self, id: &str, chunk: &Old) -> Result<(), StoreError> {
        self.transaction.prepare_cached("DELETE FROM chunk WHERE row = ?1")?.execute([chunk.row])?;
        self.done.removed += 1;
        if !chunk.shown {
            return Ok(());
        }
        self.near.remove(chunk.print, chunk.row);
        self.transaction
            .prepare_cached("INSERT INTO gone VALUES (?1, ?2) ON CONFLICT(id) DO UPDATE SET revision = ?2")?
            .execute(params![id, self.done.revision])?;
        // What was merged into it comes forward: the first is shown, the others are merged into that one.
        let find = "SELECT row, id, print FROM chunk WHERE same_as = ?1 ORDER BY row LIMIT 1";
        let heir: Option<(i64, String, Vec<u8>)> =
            self.transaction.prepare_cached(find)?.query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
        let Some((row, heir, print)) = heir else { return Ok(()) };
        self.transaction
            .prepare_cached("UPDATE chunk SET same_as = NULL, revision = ?2 WHERE row = ?1")?
            .execute(params![row, self.done.revision])?;
        self.transaction.prepare_cached("UPDATE chunk SET same_as = ?2 WHERE same_as = ?1")?.execute(params![id, heir])?;
        self.show(&heir, near::from_bytes(&print), row)
    }
}
