//! The folder that recorded cases go to: one writer at a time, whole files or none, finished cases stay.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use galen_tools::store::{StoreErrorKind, file};

use super::answer::Answer;
use super::run::Recorded;

const LOCK: &str = ".lock";

/// An open folder. The lock goes with this process, however that ends.
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Opens the folder for writing; makes it when absent.
    ///
    /// # Errors
    /// Another process writes to it, or it cannot be made.
    pub fn open(path: &Path) -> anyhow::Result<Folder> {
        std::fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}", path.display()))?;
        let place = path.join(LOCK);
        let lock = File::options().create(true).truncate(false).write(true).open(&place);
        let lock = lock.with_context(|| format!("cannot write to {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Folder { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                bail!("another `galen lab` writes to {}: wait for it, or choose another folder with --out", path.display())
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", place.display())),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The answer of a case that is finished: both of its files are there and can be read.
    pub fn finished(&self, name: &str) -> Option<Answer> {
        let capture = self.capture(name);
        let answer = std::fs::read(Answer::path(&capture)).ok()?;
        file::read(&capture).ok()?;
        serde_json::from_slice(&answer).ok()
    }

    /// Writes a case, the capture last: once that is there, the case is finished.
    ///
    /// # Errors
    /// One line; [`is_full`] tells whether the disk is.
    pub fn save(&self, name: &str, recorded: &Recorded) -> anyhow::Result<PathBuf> {
        let capture = self.capture(name);
        let mut text = serde_json::to_vec_pretty(&recorded.answer)?;
        text.push(b'\n');
        let place = Answer::path(&capture);
        let mut draft = tempfile::Builder::new()
            .prefix(".answer-")
            .tempfile_in(&self.path)
            .and_then(|mut draft| draft.write_all(&text).map(|()| draft))
            .with_context(|| format!("cannot write {}", place.display()))?;
        draft.flush().with_context(|| format!("cannot write {}", place.display()))?;
        draft.persist(&place).map_err(|error| error.error).with_context(|| format!("cannot write {}", place.display()))?;
        let written = file::write(&recorded.capture, &capture);
        if written.is_err() {
            // An answer without its capture says nothing.
            let _ = std::fs::remove_file(&place);
        }
        written?;
        Ok(capture)
    }

    fn capture(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.galen"))
    }
}

/// True when an error comes from a disk without room.
pub fn is_full(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let store = cause.downcast_ref::<galen_tools::store::StoreError>().is_some_and(|it| it.kind == StoreErrorKind::DiskFull);
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        store
            || matches!(kind, Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge))
    })
}
