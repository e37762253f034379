//! Taking documents in: what changed is read by several threads, and stored by one, a batch a transaction.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::error::{ReadError, ReadErrorKind};
use crate::extract::Extractor;
use crate::read::{self, Format, Reading};
use crate::store::{Change, Document, Fresh, Store, StoreError};
use crate::walk::{Seen, walk};

/// Name of the threads that read, by which a panic of theirs is known as one that is caught.
pub const READER_THREAD: &str = "galen-reader";
/// Stack of such a thread.
const STACK: usize = 16 << 20;
/// Files larger than this are read one at a time, and so are PDFs: together they would take too much memory.
const LARGE: i64 = 2 << 20;
/// A batch is stored when it has so many documents, so much text, or is so old.
const BATCH: (usize, usize, Duration) = (100, 4 << 20, Duration::from_secs(2));
/// A file younger than this may change again without its time showing it.
const YOUNG: i64 = 2_000_000_000;

/// What to take in, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Files and folders.
    pub roots: Vec<PathBuf>,
    /// A folder that is not entered: the store's own.
    pub except: PathBuf,
    /// Threads that read.
    pub jobs: usize,
    /// How files are read.
    pub reading: Reading,
}

/// What happens, as it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// So much there is to read.
    Planned {
        /// Files that changed.
        files: usize,
        /// Their bytes.
        bytes: u64,
    },
    /// A document was read.
    Read {
        /// Its path.
        path: String,
        /// Its size.
        bytes: u64,
        /// Chunks in it.
        chunks: usize,
    },
    /// A file's content is what it was.
    Same {
        /// Its path.
        path: String,
        /// Its size.
        bytes: u64,
    },
    /// A file could not be read.
    Failed {
        /// Its path.
        path: String,
        /// Its size, where it is known.
        bytes: u64,
        /// Why, in one line.
        why: String,
        /// Chunks of its last readable version, which stay.
        kept: usize,
    },
    /// A document is gone.
    Removed {
        /// Its path.
        path: String,
    },
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Files found.
    pub files: usize,
    /// Documents read.
    pub read: usize,
    /// Files that were as before.
    pub unchanged: usize,
    /// Documents gone.
    pub removed: usize,
    /// Files that could not be read.
    pub failed: usize,
    /// Files of other kinds, passed over.
    pub others: usize,
    /// New chunks.
    pub chunks: usize,
    /// New chunks that say what another says.
    pub merged: usize,
    /// Bytes of the documents read.
    pub bytes: u64,
    /// The store's revision.
    pub revision: i64,
    /// Stopped before the end.
    pub stopped: bool,
}

/// A file to read.
struct Job<'k> {
    path: String,
    seen: Seen,
    known: Option<&'k Document>,
}

/// A file that was read, or not.
struct Done {
    event: Event,
    /// None where nothing about it is to be remembered.
    change: Option<Change>,
    text: usize,
}

/// Takes documents in. `stop` ends it after the files that are being read; what was read is stored then.
///
/// # Errors
/// Of the store: what was committed before stays.
pub fn ingest(
    store: &Store,
    extractor: &dyn Extractor,
    options: &Options,
    stop: &AtomicBool,
    on: &mut dyn FnMut(&Event),
) -> Result<Outcome, StoreError> {
    let known = store.documents()?;
    let by_path: HashMap<&str, &Document> = known.iter().map(|d| (d.path.as_str(), d)).collect();
    let found = walk(&options.roots, &options.except);
    let version = extractor.version();
    let mut sink = Sink::new(store, on, Outcome { files: found.files.len(), others: found.others, ..Outcome::default() })?;
    let under = |path: &str, folders: &[PathBuf]| folders.iter().any(|folder| Path::new(path).starts_with(folder));
    for (path, why) in &found.failed {
        // A root that is gone but was taken in once is a deletion, not a mistake.
        if found.roots.iter().any(|root| Path::new(path) == root) && known.iter().any(|d| Path::new(&d.path).starts_with(path)) {
            continue;
        }
        sink.take(Done::failed(path, 0, why, 0, None))?;
    }
    let mut jobs = Vec::new();
    for (path, seen) in &found.files {
        let known = by_path.get(path.as_str()).copied();
        match known.filter(|d| (d.size, d.mtime) == (seen.size, seen.mtime) && d.extractor == version) {
            Some(Document { error: Some(why), chunks, .. }) => sink.take(Done::failed(path, seen.size, why, *chunks, None))?,
            Some(_) => sink.outcome.unchanged += 1,
            None => jobs.push(Job { path: path.clone(), seen: *seen, known }),
        }
    }
    let bytes = jobs.iter().map(|job| job.seen.size.cast_unsigned()).sum();
    (sink.on)(&Event::Planned { files: jobs.len(), bytes });
    read_all(&jobs, extractor, &version, options, stop, &mut sink)?;
    sink.outcome.stopped = stop.load(Ordering::Relaxed);
    if !sink.outcome.stopped {
        let gone =
            known.iter().filter(|d| !found.files.contains_key(&d.path) && under(&d.path, &found.roots) && !under(&d.path, &found.closed));
        for document in gone {
            let path = document.path.clone();
            sink.take(Done { event: Event::Removed { path: path.clone() }, change: Some(Change::Removed { path }), text: 0 })?;
        }
    }
    sink.finish()
}

fn read_all(
    jobs: &[Job<'_>],
    extractor: &dyn Extractor,
    version: &str,
    options: &Options,
    stop: &AtomicBool,
    sink: &mut Sink<'_>,
) -> Result<(), StoreError> {
    let next = AtomicUsize::new(0);
    let large = Mutex::new(());
    let (send, receive): (SyncSender<Done>, Receiver<Done>) = sync_channel(4);
    std::thread::scope(|scope| {
        // Whatever ends the storing below drops the receiver, and a thread that cannot hand over ends.
        let receive = receive;
        for _ in 0..options.jobs.clamp(1, 64).min(jobs.len()) {
            let send = send.clone();
            let (next, large) = (&next, &large);
            let work = move || {
                while !stop.load(Ordering::Relaxed)
                    && let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let alone = job.seen.size > LARGE || Format::of_name(Path::new(&job.path)) == Some(Format::Pdf);
                    let guard = alone.then(|| large.lock().unwrap_or_else(PoisonError::into_inner));
                    let done = one(job, extractor, version, &options.reading);
                    drop(guard);
                    if send.send(done).is_err() {
                        return;
                    }
                }
            };
            std::thread::Builder::new().name(READER_THREAD.to_owned()).stack_size(STACK).spawn_scoped(scope, work)?;
        }
        drop(send);
        for done in receive {
            sink.take(done)?;
        }
        Ok(())
    })
}

/// Reads one file.
fn one(job: &Job<'_>, extractor: &dyn Extractor, version: &str, reading: &Reading) -> Done {
    let path = Path::new(&job.path);
    let (size, kept) = (job.seen.size, job.known.map_or(0, |d| d.chunks));
    let failed = |error: &ReadError, hash: String| {
        // What the system refuses may be allowed without the file changing; what went away is not there to be known.
        let mtime = if error.kind == ReadErrorKind::Io { -1 } else { job.seen.mtime };
        let change =
            Change::Failed { path: job.path.clone(), size, mtime, hash, extractor: version.to_owned(), error: error.message.clone() };
        Done::failed(&job.path, size, &error.message, kept, (error.kind != ReadErrorKind::Vanished).then_some(change))
    };
    let hash = match read::hash(path) {
        Ok(hash) => hash,
        Err(error) => return failed(&error, String::new()),
    };
    if let Some(known) = job.known.filter(|known| known.hash == hash && known.extractor == version) {
        if let Some(why) = &known.error {
            return Done::failed(&job.path, size, why, kept, None);
        }
        let event = Event::Same { path: job.path.clone(), bytes: size.cast_unsigned() };
        let mtime = settled(path, job.seen);
        return Done { event, change: Some(Change::Same { path: job.path.clone(), size, mtime }), text: 0 };
    }
    let document = match read::read(path, reading) {
        Ok(document) => document,
        Err(error) => return failed(&error, hash),
    };
    let title = document.title.clone().or_else(|| document.blocks.first().map(|b| b.text.chars().take(200).collect())).unwrap_or_default();
    let chunks: Vec<Fresh> = extractor.extract(&job.path, &document).into_iter().map(Fresh::new).collect();
    let text = document.blocks.iter().map(|b| b.text.len()).sum();
    let event = Event::Read { path: job.path.clone(), bytes: size.cast_unsigned(), chunks: chunks.len() };
    let change =
        Change::Read { path: job.path.clone(), title, size, mtime: settled(path, job.seen), hash, extractor: version.to_owned(), chunks };
    Done { event, change: Some(change), text }
}

/// The time to remember for a file: none where it changed while it was read, or is so young that it may yet.
fn settled(path: &Path, seen: Seen) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX));
    let same = fs::metadata(path).is_ok_and(|about| Seen::of(&about) == seen);
    if same && seen.mtime < now.saturating_sub(YOUNG) { seen.mtime } else { -1 }
}

impl Done {
    fn failed(path: &str, size: i64, why: &str, kept: usize, change: Option<Change>) -> Self {
        let event = Event::Failed { path: path.to_owned(), bytes: size.cast_unsigned(), why: why.to_owned(), kept };
        Self { event, change, text: 0 }
    }
}

/// Stores what was read, in batches, and tells what happens.
struct Sink<'s> {
    store: &'s Store,
    on: &'s mut dyn FnMut(&Event),
    outcome: Outcome,
    batch: Vec<Change>,
    text: usize,
    since: Instant,
}

impl<'s> Sink<'s> {
    fn new(store: &'s Store, on: &'s mut dyn FnMut(&Event), outcome: Outcome) -> Result<Self, StoreError> {
        let outcome = Outcome { revision: store.revision()?, ..outcome };
        Ok(Self { store, on, outcome, batch: Vec::new(), text: 0, since: Instant::now() })
    }

    fn take(&mut self, done: Done) -> Result<(), StoreError> {
        match &done.event {
            Event::Read { bytes, .. } => {
                self.outcome.read += 1;
                self.outcome.bytes += bytes;
            }
            Event::Same { .. } => self.outcome.unchanged += 1,
            Event::Failed { .. } => self.outcome.failed += 1,
            Event::Removed { .. } => self.outcome.removed += 1,
            Event::Planned { .. } => {}
        }
        self.batch.extend(done.change);
        self.text += done.text;
        (self.on)(&done.event);
        let (documents, text, age) = BATCH;
        if self.batch.len() >= documents || self.text >= text || self.since.elapsed() >= age { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.since = Instant::now();
        self.text = 0;
        if self.batch.is_empty() {
            return Ok(());
        }
        let applied = self.store.apply(&std::mem::take(&mut self.batch))?;
        self.outcome.revision = applied.revision;
        self.outcome.chunks += applied.added;
        self.outcome.merged += applied.merged;
        Ok(())
    }

    fn finish(mut self) -> Result<Outcome, StoreError> {
        self.flush()?;
        Ok(self.outcome)
    }
}
