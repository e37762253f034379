//! The store of what documents taught: `knowledge.db` in the data folder, one SQLite file in WAL mode.
//!
//! Documents change in transactions, whole ones only: whatever ends the process, what was committed stays. Every commit
//! has a number, the revision; whoever follows asks what changed since the one it has ([`Store::changes_since`], or
//! [`Store::follow`] where that may be much).

mod error;
mod follow;
mod near;
mod write;

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use galen_knowledge::chunk::{KnowledgeChunk, Source};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior};

pub use error::{StoreError, StoreErrorKind};
pub use follow::Step;
pub use write::{Applied, Change, Fresh};

/// Name of the file.
pub const FILE: &str = "knowledge.db";
/// Schema changes in order; `user_version` counts those applied. Never edit one that was released: add another.
const MIGRATIONS: &[&str] = &[include_str!("schema.sql"), include_str!("schema-2.sql")];
/// How long a statement waits for another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The store. Methods block.
pub struct Store {
    connection: Mutex<Connection>,
    /// Fingerprints of all chunks that are shown, as of a revision.
    near: Mutex<Option<(i64, near::Near)>>,
}

/// A document as it was taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its path.
    pub path: String,
    /// Its title.
    pub title: String,
    /// Size in bytes.
    pub size: i64,
    /// Time of its last change, nanoseconds since 1970; -1 where it must be looked at again.
    pub mtime: i64,
    /// SHA-256 of its content.
    pub hash: String,
    /// What extracted its chunks.
    pub extractor: String,
    /// Why its last version could not be read.
    pub error: Option<String>,
    /// Chunks that stand in it, merged ones included.
    pub chunks: usize,
}

/// A chunk as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The chunk.
    pub chunk: KnowledgeChunk,
    /// Path of its document.
    pub document: String,
    /// Revision at which it last changed.
    pub revision: i64,
    /// Where the same stands in nearly the same words.
    pub also: Vec<Source>,
}

/// What changed since a revision.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// The revision that these changes lead to.
    pub revision: i64,
    /// The asked revision is too far back: `shown` is everything, and what is not in it is gone.
    pub all: bool,
    /// Chunks that are new or have changed.
    pub shown: Vec<Stored>,
    /// Ids of chunks that are gone, or are merged into others now.
    pub gone: Vec<String>,
}

impl Store {
    /// Opens the store in a data folder; makes both where they are missing.
    ///
    /// # Errors
    /// With the file's name: no access, not our database, one of a newer Galen, no space.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(FILE);
        let open = || {
            fs::DirBuilder::new().recursive(true).mode(0o750).create(data_dir)?;
            // As all that the daemon keeps: for its user and group.
            fs::File::options().append(true).create(true).mode(0o640).open(&path)?;
            connect(&path)
        };
        let connection = open().map_err(|error: StoreError| error.at(&path))?;
        Ok(Self { connection: Mutex::new(connection), near: Mutex::new(None) })
    }

    /// Opens the store of a data folder that has one.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_existing(data_dir: &Path) -> Result<Option<Self>, StoreError> {
        if data_dir.join(FILE).exists() { Self::open(data_dir).map(Some) } else { Ok(None) }
    }

    /// The number of the last commit.
    ///
    /// # Errors
    /// Of SQLite, as all that follow.
    pub fn revision(&self) -> Result<i64, StoreError> {
        Ok(self.connection().query_row("SELECT revision FROM about", [], |row| row.get(0))?)
    }

    /// What tells this store from every other one, also from one that replaces it: revisions count within it alone.
    pub fn identity(&self) -> Result<String, StoreError> {
        Ok(self.connection().query_row("SELECT identity FROM about", [], |row| row.get(0))?)
    }

    /// Number of chunks that are shown.
    pub fn shown(&self) -> Result<usize, StoreError> {
        let count: i64 = self.connection().query_row("SELECT count(*) FROM chunk WHERE same_as IS NULL", [], |row| row.get(0))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// A chunk by id.
    pub fn chunk(&self, id: &str) -> Result<Option<KnowledgeChunk>, StoreError> {
        let connection = self.connection();
        let mut query = connection.prepare_cached("SELECT body FROM chunk WHERE id = ?1")?;
        let body: Option<String> = query.query_row([id], |row| row.get(0)).optional()?;
        Ok(body.map(|body| serde_json::from_str(&body)).transpose()?)
    }

    /// All documents by path.
    pub fn documents(&self) -> Result<Vec<Document>, StoreError> {
        let connection = self.connection();
        let mut query = connection.prepare_cached(
            "SELECT path, title, size, mtime, hash, extractor, error, count(c.row) AS chunks FROM document d LEFT JOIN chunk c ON c.document = d.id
             GROUP BY d.id ORDER BY path",
        )?;
        let about = |row: &Row<'_>| -> Result<Document, rusqlite::Error> {
            let [path, title] = [row.get("path")?, row.get("title")?];
            let [size, mtime, chunks] = [row.get("size")?, row.get("mtime")?, row.get("chunks")?];
            let (hash, extractor, error) = (row.get("hash")?, row.get("extractor")?, row.get("error")?);
            Ok(Document { path, title, size, mtime, hash, extractor, error, chunks: usize::try_from(chunks).unwrap_or(0) })
        };
        Ok(query.query_map([], about)?.collect::<Result<_, _>>()?)
    }

    /// All chunks that are shown, by path and place.
    pub fn chunks(&self) -> Result<Vec<Stored>, StoreError> {
        self.select("c.same_as IS NULL", -1)
    }

    /// Chunks that are linked to a cause, by path and place: what a diagnosis may cite.
    pub fn linked(&self) -> Result<Vec<Stored>, StoreError> {
        self.select("c.same_as IS NULL AND c.linked = 1", -1)
    }

    /// All chunks of one document in its order, also those that are merged into others.
    pub fn of_document(&self, path: &str) -> Result<Vec<KnowledgeChunk>, StoreError> {
        let connection = self.connection();
        let mut query =
            connection.prepare_cached("SELECT body FROM chunk c JOIN document d ON d.id = c.document WHERE d.path = ?1 ORDER BY place")?;
        let rows = query.query_map([path], |row| row.get::<_, String>(0))?;
        rows.map(|body| Ok(serde_json::from_str(&body?)?)).collect()
    }

    /// What changed after a revision, for an index that has it.
    pub fn changes_since(&self, revision: i64) -> Result<Changes, StoreError> {
        // One read transaction: a commit between the queries would be half seen.
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
        let (now, oldest): (i64, i64) =
            transaction.query_row("SELECT revision, oldest FROM about", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let all = revision < oldest || revision > now;
        let since = if all { -1 } else { revision };
        let shown = select(&transaction, "c.same_as IS NULL", since)?;
        let mut query = transaction.prepare_cached("SELECT id FROM gone WHERE revision > ?1 ORDER BY id")?;
        let gone = query.query_map([since], |row| row.get(0))?.collect::<Result<_, _>>()?;
        Ok(Changes { revision: now, all, shown, gone })
    }

    fn select(&self, condition: &str, since: i64) -> Result<Vec<Stored>, StoreError> {
        select(&self.connection(), condition, since)
    }

    /// The one connection. A panic of another holder rolled its transaction back, so its lock is taken over.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `condition` is one of this file's own.
fn select(connection: &Connection, condition: &str, since: i64) -> Result<Vec<Stored>, StoreError> {
    let mut query = connection.prepare_cached(&format!(
        "SELECT c.body, d.path, c.revision,
                (SELECT json_group_array(json_extract(o.body, '$.source')) FROM chunk o WHERE o.same_as = c.id)
         FROM chunk c JOIN document d ON d.id = c.document WHERE {condition} AND c.revision > ?1 ORDER BY d.path, c.place"
    ))?;
    let read = |row: &Row<'_>| -> Result<(String, String, i64, String), rusqlite::Error> {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    };
    let rows = query.query_map([since], read)?;
    rows.map(|row| {
        let (body, document, revision, also) = row?;
        // JSON in JSON: the aggregate holds objects as such, or as texts, by the version of SQLite.
        let also: Vec<serde_json::Value> = serde_json::from_str(&also)?;
        let also = also.into_iter().map(|source| match source {
            serde_json::Value::String(text) => serde_json::from_str(&text),
            other => serde_json::from_value(other),
        });
        Ok(Stored { chunk: serde_json::from_str(&body)?, document, revision, also: also.collect::<Result<_, _>>()? })
    })
    .collect()
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // NORMAL: a killed process loses nothing; when power fails, the last commits may have to be made again from the documents.
    connection.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON; PRAGMA cache_size=-8000;")?;
    connection.set_prepared_statement_cache_capacity(64);
    migrate(&mut connection)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if usize::try_from(version) == Ok(MIGRATIONS.len()) {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been first.
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(version).map_err(|_| StoreError::new(StoreErrorKind::Damaged, "its schema version is negative"))?;
    let known = MIGRATIONS.len();
    if done > known {
        return Err(StoreError::new(
            StoreErrorKind::TooNew,
            format!("schema version {done}, this Galen knows up to {known}: use a newer galen"),
        ));
    }
    let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if done == 0 && tables > 0 {
        return Err(StoreError::new(StoreErrorKind::Damaged, "a database that is not Galen's: choose another data directory"));
    }
    for migration in &MIGRATIONS[done..] {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", known as i64)?;
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests;
