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
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o640))
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

#[cfg(test)]
mod tests {
    use galen_tools::capture::Capture;

    use super::*;
    use crate::lab::{Run, Scenario};

    fn recorded() -> Recorded {
        let mut capture = Capture::default();
        capture.manifest.format = galen_tools::capture::FORMAT;
        capture.manifest.labels = vec!["healthy".into()];
        let scenario = Scenario::load("healthy").unwrap();
        let answer = Answer::new(&scenario, &Run::default(), None, 150_000, Default::default());
        Recorded { capture, answer }
    }

    #[test]
    fn one_writer_at_a_time() {
        let place = tempfile::tempdir().unwrap();
        let first = Folder::open(place.path()).unwrap();
        let error = Folder::open(place.path()).err().unwrap().to_string();
        assert!(error.contains("another") && error.contains("--out"), "{error}");
        drop(first);
        Folder::open(place.path()).unwrap();
    }

    #[test]
    fn a_case_is_finished_when_both_files_are_whole() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        assert!(folder.finished("one").is_none());
        let capture = folder.save("one", &recorded()).unwrap();
        assert_eq!(folder.finished("one").unwrap(), recorded().answer);
        let whole = std::fs::read(&capture).unwrap();
        std::fs::write(&capture, &whole[..whole.len() / 2]).unwrap();
        assert!(folder.finished("one").is_none(), "a truncated capture is recorded again");
        std::fs::write(&capture, &whole).unwrap();
        std::fs::remove_file(Answer::path(&capture)).unwrap();
        assert!(folder.finished("one").is_none(), "a capture without its answer is recorded again");
    }

    #[test]
    fn a_full_disk_is_told_apart_and_leaves_no_half_case() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: a small volume needs root to be mounted");
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let flags = nix::mount::MsFlags::empty();
        if nix::mount::mount(Some("lab"), place.path(), Some("tmpfs"), flags, Some("size=64k")).is_err() {
            eprintln!("skipped: this machine lets nobody mount a volume");
            return;
        }
        let folder = Folder::open(place.path()).unwrap();
        folder.save("kept", &recorded()).unwrap();
        let filler = std::fs::File::create(place.path().join("filler")).and_then(|mut file| file.write_all(&[1; 1 << 20]));
        assert!(filler.is_err());
        let error = folder.save("two", &recorded()).unwrap_err();
        assert!(is_full(&error), "{error:#}");
        let kept = folder.finished("kept").is_some();
        let names: Vec<String> =
            std::fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        drop(folder);
        nix::mount::umount(place.path()).unwrap();
        assert!(kept);
        assert!(!names.iter().any(|name| name.contains("two") || name.contains(".tmp") || name.starts_with(".answer")), "{names:?}");
    }
}
