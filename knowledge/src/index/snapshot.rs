//! The state of an index that searches see: tantivy's searcher and the rows that belong to it, read together.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tantivy::columnar::Column;
use tantivy::directory::{Directory, INDEX_WRITER_LOCK, MmapDirectory};
use tantivy::{IndexReader, ReloadPolicy, Searcher, TantivyError};

use super::error::{IndexError, Kind};
use super::rows::Rows;
use super::words::Place;

/// Changes when what is written changes: an index of another format is built anew.
pub const FORMAT: u32 = 2;
/// How often and after which pause a state is read again that changed while it was read.
const ATTEMPTS: usize = 8;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(40);

/// What a commit says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Payload {
    pub format: u32,
    /// What the index was built over: one over anything else is built anew.
    pub base: String,
    pub revision: u64,
    pub rows: String,
    /// Chunks were added without an embedding where others have one.
    pub partly: bool,
}

/// What a search sees: never changed, only replaced.
pub struct Snapshot {
    pub revision: u64,
    pub searcher: Searcher,
    pub rows: Rows,
    /// As the commit said.
    pub partly: bool,
    /// Number of the row of each document, by segment.
    numbers: Vec<Column<u64>>,
}

impl Snapshot {
    pub fn new(revision: u64, searcher: Searcher, rows: Rows) -> Result<Self, TantivyError> {
        let numbers = searcher.segment_readers().iter().map(|s| s.fast_fields().u64("number")).collect::<Result<_, _>>()?;
        Ok(Self { revision, searcher, rows, partly: false, numbers })
    }

    /// The row of a document.
    pub fn row_at(&self, (segment, document): Place) -> Option<usize> {
        self.rows.row_of(self.numbers.get(segment)?.first(document)?)
    }
}

pub fn reader(index: &tantivy::Index) -> Result<IndexReader, TantivyError> {
    index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()
}

/// The state of the last commit. Another process may commit in between: then it is read again.
pub fn snapshot(dir: &Path, index: &tantivy::Index, reader: &IndexReader, (dims, base): (usize, &str)) -> Result<Snapshot, IndexError> {
    let mut outcome = read_snapshot(dir, index, reader, (dims, base));
    for _ in 0..ATTEMPTS {
        if outcome.as_ref().is_ok() || outcome.as_ref().is_err_and(|e| e.kind != Kind::Damaged) {
            break;
        }
        std::thread::sleep(PAUSE);
        outcome = read_snapshot(dir, index, reader, (dims, base));
    }
    outcome
}

/// As [`snapshot`], once; damaged when the rows do not belong to the commit, or it has another format.
fn read_snapshot(dir: &Path, index: &tantivy::Index, reader: &IndexReader, (dims, base): (usize, &str)) -> Result<Snapshot, IndexError> {
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
    if payload.base != base {
        return Err(IndexError::new(Kind::Damaged, dir, &"it was built over other knowledge"));
    }
    let path = dir.join(&payload.rows);
    let rows = Rows::load(&path).map_err(|e| IndexError { kind: Kind::Damaged, ..e })?;
    // Whoever has no embeddings may use an index that has some, not the other way round.
    let fits = dims == 0 || (rows.vectors().dims() == dims && !payload.partly);
    if rows.len() as u64 != searcher.num_docs() || !fits {
        return Err(IndexError::new(Kind::Damaged, &path, &"it does not belong to the index"));
    }
    let snapshot = Snapshot { partly: payload.partly, ..Snapshot::new(payload.revision, searcher, rows).map_err(fail)? };
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
pub fn clear(dir: &Path) -> Result<(), IndexError> {
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
pub fn remove_rows_but(dir: &Path, name: &str) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
        let other = entry.file_name().to_str().is_some_and(|n| n.starts_with("rows-") && n != name);
        if other {
            // One that stays is removed by the next update.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

pub fn translate(dir: &Path, error: &TantivyError) -> IndexError {
    match error {
        TantivyError::LockFailure(..) => busy(dir),
        TantivyError::IoError(_) | TantivyError::OpenDirectoryError(_) | TantivyError::OpenWriteError(_) => {
            IndexError::new(Kind::Io, dir, error)
        }
        _ => IndexError::new(Kind::Damaged, dir, error),
    }
}
