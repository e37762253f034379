//! Which files there are: folders gone through with their links followed, and no further than sense.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::read::Format;

/// Folders in folders.
const MOST_DEPTH: usize = 64;
/// Most files of one run.
const MOST_FILES: usize = 1_000_000;

/// A file that may be a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Size in bytes.
    pub size: i64,
    /// Time of its last change, nanoseconds since 1970.
    pub mtime: i64,
}

impl Seen {
    /// Of a file's metadata.
    pub fn of(about: &Metadata) -> Self {
        let size = i64::try_from(about.len()).unwrap_or(i64::MAX);
        Self { size, mtime: about.mtime().saturating_mul(1_000_000_000).saturating_add(about.mtime_nsec()) }
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Files by their full path.
    pub files: BTreeMap<String, Seen>,
    /// What could not be looked at, and why.
    pub failed: Vec<(String, String)>,
    /// Roots by their full path, also those that are not there any more.
    pub roots: Vec<PathBuf>,
    /// Folders that could not be read: what is known of them is kept.
    pub closed: Vec<PathBuf>,
    /// Files whose names no document has.
    pub others: usize,
}

/// Goes through files and folders. In folders, hidden entries are passed over, and files whose names promise no
/// format; a file that is named outright is taken whatever its name. `except` is not entered.
pub fn walk(roots: &[PathBuf], except: &Path) -> Found {
    let mut found = Found::default();
    let except = except.canonicalize().unwrap_or_else(|_| except.to_owned());
    for root in roots {
        match root.canonicalize() {
            Ok(root) => {
                found.tree(&root, &except);
                found.roots.push(root);
            }
            Err(error) => {
                let full = gone(root);
                found.failed.push((shown(&full), said(&error)));
                found.roots.push(full);
            }
        }
    }
    found
}

/// The full path of what is not there: that of the folder it was in, as far as there is one.
fn gone(root: &Path) -> PathBuf {
    let full = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    match (full.parent().and_then(|folder| folder.canonicalize().ok()), full.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => full,
    }
}

impl Found {
    fn tree(&mut self, root: &Path, except: &Path) {
        let entries = WalkDir::new(root).follow_links(true).max_depth(MOST_DEPTH).sort_by_file_name().into_iter();
        let wanted = |entry: &walkdir::DirEntry| {
            entry.depth() == 0 || (!entry.file_name().as_encoded_bytes().starts_with(b".") && entry.path() != except)
        };
        for entry in entries.filter_entry(wanted) {
            if self.files.len() >= MOST_FILES {
                self.failed.push((shown(root), format!("more than {MOST_FILES} files: the rest is left out")));
                return;
            }
            match entry {
                Ok(entry) => self.entry(root, &entry),
                Err(error) => self.error(root, &error),
            }
        }
    }

    fn entry(&mut self, root: &Path, entry: &walkdir::DirEntry) {
        if entry.file_type().is_dir() {
            return;
        }
        let named = entry.path() == root;
        if !entry.file_type().is_file() || !named && Format::of_name(entry.path()).is_none() {
            self.others += 1;
            if named {
                self.failed.push((shown(root), "not a plain file".to_owned()));
            }
            return;
        }
        // A file with two names is one document.
        let path = if entry.path_is_symlink() { entry.path().canonicalize() } else { Ok(entry.path().to_owned()) };
        match (path, entry.metadata()) {
            (Ok(path), Ok(about)) => match path.to_str() {
                Some(path) => drop(self.files.insert(path.to_owned(), Seen::of(&about))),
                None => self.failed.push((shown(&path), "its name is not UTF-8".to_owned())),
            },
            (Err(error), _) => self.failed.push((shown(entry.path()), said(&error))),
            (_, Err(error)) => self.error(root, &error),
        }
    }

    fn error(&mut self, root: &Path, error: &walkdir::Error) {
        let path = error.path().unwrap_or(root);
        let why = match (error.loop_ancestor(), error.io_error()) {
            (Some(above), _) => format!("a link that leads back to {}: not followed", above.display()),
            (None, Some(error)) if path.is_symlink() && error.kind() == std::io::ErrorKind::NotFound => {
                "a link that leads nowhere".to_owned()
            }
            (None, Some(error)) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    self.closed.push(path.to_owned());
                }
                said(error)
            }
            (None, None) => "it cannot be looked at".to_owned(),
        };
        self.failed.push((shown(path), why));
    }
}

fn said(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file or folder".to_owned(),
        std::io::ErrorKind::PermissionDenied => "it may not be read: permission denied".to_owned(),
        // Links that only lead to each other have no name among the kinds yet.
        _ if error.raw_os_error() == Some(40) => "links that lead to each other".to_owned(),
        _ => error.to_string(),
    }
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_once_and_loops_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(root.join(".git")).unwrap();
        for file in ["a/b/x.md", "a/skip.rs", ".git/y.md"] {
            fs::write(root.join(file), "x").unwrap();
        }
        symlink(&root, root.join("a/loop")).unwrap();
        symlink("nowhere", root.join("a/broken.md")).unwrap();
        symlink("b/x.md", root.join("a/again.md")).unwrap();
        symlink("self.md", root.join("a/self.md")).unwrap();
        let found = walk(std::slice::from_ref(&root), Path::new("/nowhere"));
        assert_eq!(found.files.keys().collect::<Vec<_>>(), [&shown(&root.join("a/b/x.md"))]);
        assert_eq!(found.others, 1);
        let why: Vec<&str> = found.failed.iter().map(|(_, why)| why.as_str()).collect();
        assert!(why.len() == 3 && why[0].contains("nowhere") && why[1].contains("leads back") && why[2].contains("each other"), "{why:?}");
        assert!(found.closed.iter().all(|path| path.ends_with("self.md")), "{:?}", found.closed);
    }

    #[test]
    fn what_is_named_outright_is_taken_and_what_is_not_there_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("NOTES");
        fs::write(&file, "x").unwrap();
        let found = walk(&[file, folder.path().join("gone")], Path::new("/nowhere"));
        assert_eq!((found.files.len(), found.failed.len(), found.roots.len()), (1, 1, 2));
        assert!(found.roots[1].ends_with("gone"));
    }
}
