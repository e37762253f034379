//! The folder that recorded cases go to: one writer at a time, whole files or none, finished cases stay.

use std::fmt;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use galen_agents::evaluation::compare::differing;
use galen_tools::capture::Capture;
use galen_tools::store::file;
use serde::Serialize;
use serde_json::{Map, Value};
use tempfile::{NamedTempFile, TempPath};

use super::answer::Answer;

const LOCK: &str = ".lock";

/// A finished case that was recorded with something else than is asked for now, in one line that says what to do.
#[derive(Debug)]
pub struct Otherwise(String);

impl fmt::Display for Otherwise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Otherwise {}

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
    pub fn finished(&self, name: &str) -> Option<Value> {
        let capture = self.capture(name);
        let answer = std::fs::read(Answer::path(&capture)).ok()?;
        file::read(&capture).ok()?;
        serde_json::from_slice(&answer).ok()
    }

    /// Compares the answer of a finished case with what is asked for now, key by key of `asked`.
    ///
    /// # Errors
    /// [`Otherwise`]: kept, the case would pass for what it is not; recorded again, it would be lost.
    pub fn agrees(&self, name: &str, answer: &Value, asked: &Value) -> Result<(), Otherwise> {
        let keys = asked.as_object().into_iter().flat_map(Map::keys);
        let recorded: Map<String, Value> = keys.map(|key| (key.clone(), answer[key].clone())).collect();
        let differing = differing(&Value::Object(recorded), asked);
        if differing.is_empty() { Ok(()) } else { Err(self.otherwise(name, &differing.join(", "))) }
    }

    /// Says what to do about a case that cannot be kept.
    pub fn otherwise(&self, name: &str, how: &str) -> Otherwise {
        let case = self.capture(name);
        Otherwise(format!(
            "{} was recorded otherwise (there / now: {how}): choose another folder with --out, or remove that case to record it again",
            case.display()
        ))
    }

    /// That a case may be written under this name.
    ///
    /// # Errors
    /// [`Otherwise`]: a finished case has the name.
    pub fn vacant(&self, name: &str) -> Result<(), Otherwise> {
        if self.finished(name).is_none() {
            return Ok(());
        }
        let case = self.capture(name);
        let what_to_do = "choose another folder with --out, or remove that case to record it again";
        Err(Otherwise(format!("{} is there already: {what_to_do}", case.display())))
    }

    /// Writes a case, the capture last: once that is there, the case is finished. Durable when it returns.
    ///
    /// # Errors
    /// One line; [`is_full`](super::room::is_full) tells whether the disk is. What had the name before is as it was.
    pub fn save(&self, name: &str, recorded: &Capture, answer: &impl Serialize) -> anyhow::Result<PathBuf> {
        let capture = self.capture(name);
        let mut text = serde_json::to_vec_pretty(answer)?;
        text.push(b'\n');
        let place = Answer::path(&capture);
        let draft = tempfile::Builder::new()
            .prefix(".answer-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o640))
            .tempfile_in(&self.path)
            .and_then(|mut draft| draft.write_all(&text).and_then(|()| draft.as_file().sync_all()).map(|()| draft))
            .with_context(|| format!("cannot write {}", place.display()))?;
        let packed = tempfile::Builder::new()
            .prefix(".capture-")
            .tempfile_in(&self.path)
            .with_context(|| format!("cannot write {}", capture.display()))?
            .into_temp_path();
        file::write(recorded, &packed).with_context(|| format!("cannot write {}", capture.display()))?;
        // Both are whole on the disk before one takes its place.
        let spare = self.path.join(format!(".{name}.answer.old"));
        let _ = std::fs::remove_file(&spare);
        let had_answer = std::fs::hard_link(&place, &spare).or_else(|_| std::fs::copy(&place, &spare).map(|_| ())).is_ok();
        if !had_answer {
            // A capture without an answer is of a run that died; with this one's answer it would be taken for it.
            let _ = std::fs::remove_file(&capture);
        }
        let placed = self.place(draft, &place, packed, &capture);
        if placed.is_err() {
            // An answer without its capture says nothing.
            let _ = if had_answer { std::fs::rename(&spare, &place) } else { std::fs::remove_file(&place) };
        }
        let _ = std::fs::remove_file(&spare);
        placed.with_context(|| format!("cannot write {}", capture.display()))?;
        Ok(capture)
    }

    /// Renames both drafts, the answer's name durable before the capture's is seen.
    fn place(&self, answer: NamedTempFile, answer_place: &Path, capture: TempPath, capture_place: &Path) -> std::io::Result<()> {
        let folder = File::open(&self.path)?;
        answer.persist(answer_place).map_err(|error| error.error)?;
        folder.sync_all()?;
        capture.persist(capture_place).map_err(|error| error.error)?;
        // Both are in their places; where this fails, only the loss of power can part them.
        if let Err(error) = folder.sync_all() {
            tracing::warn!(%error, "a finished case may not outlive a power failure");
        }
        Ok(())
    }

    /// Where the capture of a case is.
    pub fn capture(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.galen"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::room::is_full;
    use crate::lab::{Run, Scenario};

    fn recorded() -> (Capture, Answer) {
        let mut capture = Capture::default();
        capture.manifest.format = galen_tools::capture::FORMAT;
        capture.manifest.labels = vec!["healthy".into()];
        let scenario = Scenario::load("healthy").unwrap();
        let answer = Answer::new(&scenario, &Run::default(), None, 150_000, Default::default());
        (capture, answer)
    }

    fn save(folder: &Folder, name: &str) -> anyhow::Result<PathBuf> {
        let (capture, answer) = recorded();
        folder.save(name, &capture, &answer)
    }

    #[test]
    fn a_case_agrees_only_with_what_it_was_recorded_with() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        save(&folder, "one").unwrap();
        let answer = folder.finished("one").unwrap();
        let asked = serde_json::json!({"seed": 0, "server_version_num": 150_000, "phases": answer["phases"]});
        folder.agrees("one", &answer, &asked).unwrap();
        for (key, value) in [("server_version_num", 160_004.into()), ("plan_sha256", "x".into()), ("seed", 9.into())] {
            let mut other = asked.clone();
            other[key] = value;
            let told = folder.agrees("one", &answer, &other).unwrap_err().to_string();
            assert!(told.contains(&format!("{key}: ")) && told.contains("one.galen") && told.contains("--out"), "{told}");
        }
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
        let capture = save(&folder, "one").unwrap();
        assert_eq!(folder.finished("one").unwrap(), serde_json::to_value(recorded().1).unwrap());
        let whole = std::fs::read(&capture).unwrap();
        std::fs::write(&capture, &whole[..whole.len() / 2]).unwrap();
        assert!(folder.finished("one").is_none(), "a truncated capture is recorded again");
        std::fs::write(&capture, &whole).unwrap();
        std::fs::remove_file(Answer::path(&capture)).unwrap();
        assert!(folder.finished("one").is_none(), "a capture without its answer is recorded again");
    }

    #[test]
    fn a_finished_case_is_not_written_over_unasked() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        folder.vacant("one").unwrap();
        let capture = save(&folder, "one").unwrap();
        let told = folder.vacant("one").unwrap_err().to_string();
        assert!(told.contains("one.galen") && told.contains("--out") && told.contains("remove"), "{told}");
        std::fs::remove_file(Answer::path(&capture)).unwrap();
        folder.vacant("one").unwrap();
    }

    #[test]
    fn a_capture_that_cannot_be_placed_leaves_the_answer_that_was_there() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        let capture = folder.capture("one");
        std::fs::create_dir(&capture).unwrap();
        save(&folder, "one").unwrap_err();
        assert!(!Answer::path(&capture).exists());
        std::fs::write(Answer::path(&capture), "older").unwrap();
        save(&folder, "one").unwrap_err();
        assert_eq!(std::fs::read_to_string(Answer::path(&capture)).unwrap(), "older");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 3, "lock, folder and answer");
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
        save(&folder, "kept").unwrap();
        let filler = std::fs::File::create(place.path().join("filler")).and_then(|mut file| file.write_all(&[1; 1 << 20]));
        assert!(filler.is_err());
        let error = save(&folder, "two").unwrap_err();
        assert!(is_full(&error), "{error:#}");
        let error = save(&folder, "kept").unwrap_err();
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
