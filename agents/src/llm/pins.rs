//! What the first pull of a model without a known digest brought: trust on first use, kept beside the files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};

use super::{LlmError, kept};

/// Name of the file in the models folder.
const PINS_FILE: &str = "pins.toml";

/// What a file must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// Size.
    pub bytes: u64,
    /// Where it came from.
    pub from: String,
}

/// What was recorded of `name` in the folder.
///
/// # Errors
/// [`LlmError::Unavailable`] when the record cannot be read: a record that is damaged must not become no record.
pub fn find(models_dir: &Path, name: &str) -> Result<Option<Pin>, LlmError> {
    read(models_dir).map(|mut pins| pins.remove(name)).map_err(|e| unusable(&place(models_dir), &e))
}

/// Records `pin` of `name`, in the place of what was recorded before. Another one at the same time waits.
///
/// # Errors
/// When the record cannot be read or written.
pub fn record(models_dir: &Path, name: &str, pin: Pin) -> io::Result<()> {
    let _lock = lock(models_dir)?;
    let mut pins = read(models_dir)?;
    pins.insert(name.to_owned(), pin);
    write(models_dir, &pins)
}

/// Forgets `name`. Returns whether there was anything.
///
/// # Errors
/// When the record cannot be read or written.
pub fn forget(models_dir: &Path, name: &str) -> io::Result<bool> {
    // Where nothing is known there need be no folder to lock.
    if !read(models_dir)?.contains_key(name) {
        return Ok(false);
    }
    let _lock = lock(models_dir)?;
    let mut pins = read(models_dir)?;
    let known = pins.remove(name).is_some();
    if known {
        write(models_dir, &pins)?;
    }
    Ok(known)
}

fn place(models_dir: &Path) -> PathBuf {
    models_dir.join(PINS_FILE)
}

/// Two pulls that end together must not write over each other's record: the model without one would be trusted again.
fn lock(models_dir: &Path) -> io::Result<Option<Flock<File>>> {
    kept::lock(models_dir, PINS_FILE)
}

fn read(models_dir: &Path) -> io::Result<BTreeMap<String, Pin>> {
    match fs::read_to_string(place(models_dir)) {
        Ok(text) => toml::from_str(&text).map_err(|e| io::Error::new(ErrorKind::InvalidData, e.message().to_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(e) => Err(e),
    }
}

/// Replaces the record; only under the lock.
fn write(models_dir: &Path, pins: &BTreeMap<String, Pin>) -> io::Result<()> {
    let text = toml::to_string(pins).map_err(io::Error::other)?;
    let text = format!("# Digests of models whose registry entry has none, as their first pull brought them.\n{text}");
    kept::replace(models_dir, PINS_FILE, &text)
}

fn unusable(path: &Path, error: &io::Error) -> LlmError {
    LlmError::Unavailable(format!("{}: {error}; it records which files were trusted: mend or remove it", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(sha256: &str) -> Pin {
        Pin { sha256: sha256.into(), bytes: 3, from: "x".into() }
    }

    #[test]
    fn pins_are_recorded_found_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find(dir.path(), "a").unwrap(), None);
        record(dir.path(), "a", pin("00")).unwrap();
        record(dir.path(), "b.c-1", pin("01")).unwrap();
        assert_eq!(find(dir.path(), "a").unwrap(), Some(pin("00")));
        assert!(forget(dir.path(), "a").unwrap() && !forget(dir.path(), "a").unwrap());
        assert_eq!((find(dir.path(), "a").unwrap(), find(dir.path(), "b.c-1").unwrap()), (None, Some(pin("01"))));
    }

    #[test]
    fn records_made_at_once_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        record(dir.path(), "gone", pin("00")).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let dir = dir.path();
                scope.spawn(move || (0..10).for_each(|i| record(dir, &format!("m{thread}-{i}"), pin("01")).unwrap()));
            }
            scope.spawn(|| assert!(forget(dir.path(), "gone").unwrap()));
        });
        let pins = read(dir.path()).unwrap();
        assert!(pins.len() == 80 && !pins.contains_key("gone"), "{:?}", pins.keys());
        let drafts = fs::read_dir(dir.path()).unwrap().filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|e| e == "new"));
        assert_eq!(drafts.count(), 0);
    }

    #[test]
    fn nothing_is_forgotten_in_a_folder_that_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!forget(&dir.path().join("none"), "a").unwrap());
    }

    #[test]
    fn a_damaged_record_is_not_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(place(dir.path()), "a = ").unwrap();
        assert!(find(dir.path(), "a").unwrap_err().to_string().contains(PINS_FILE));
        assert!(record(dir.path(), "a", pin("00")).is_err());
    }
}
