//! RDS incidents: folders of answers of AWS's APIs, for `galen import rds` and `galen bench rds`.

use std::path::{Path, PathBuf};

use galen_tools::capture::Capture;
use galen_tools::sources::rds;

use crate::failure::Failure;

/// Most files of one incident, and most bytes of all of them.
const MOST_FILES: usize = 2_000;
const MOST_BYTES: u64 = 64 << 20;
/// Most folders below an input, and how deep they may lie.
const MOST_FOLDERS: usize = 10_000;
const MOST_DEPTH: usize = 8;

/// Folders at or below `root` that hold JSON files, in order of path; each is an incident. Links are not followed.
pub fn incidents(root: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let mut open = vec![(root.to_owned(), 0)];
    let mut seen = 0;
    while let Some((folder, depth)) = open.pop() {
        seen += 1;
        if seen > MOST_FOLDERS || depth > MOST_DEPTH {
            return Err(Failure::input(format!("{}: more than {MOST_FOLDERS} folders, or deeper than {MOST_DEPTH}", root.display())));
        }
        if !answers(&folder)?.is_empty() {
            found.push(folder.clone());
        }
        for entry in entries(&folder)? {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push((entry.path(), depth + 1));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<std::fs::DirEntry>, Failure> {
    let fail = |e: std::io::Error| Failure::input(format!("{}: {e}", folder.display()));
    std::fs::read_dir(folder).map_err(fail)?.collect::<Result<_, _>>().map_err(fail)
}

/// The JSON files of a folder in order of name. Nothing else in it is opened: an answer key may lie there.
fn answers(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let json = |e: &std::fs::DirEntry| e.file_type().is_ok_and(|k| k.is_file()) && e.path().extension().is_some_and(|x| x == "json");
    let mut files: Vec<PathBuf> = entries(folder)?.iter().filter(|e| json(e)).map(std::fs::DirEntry::path).collect();
    files.sort();
    Ok(files)
}

/// The answers in a folder, each with the name of its file.
pub fn files(folder: &Path) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let files = answers(folder)?;
    if files.is_empty() || files.len() > MOST_FILES {
        return Err(Failure::input(format!("{}: {} JSON files; an incident has 1 to {MOST_FILES}", folder.display(), files.len())));
    }
    let (mut read, mut total) = (Vec::new(), 0);
    for file in files {
        let fail = |e: std::io::Error| Failure::input(format!("{}: {e}", file.display()));
        total += std::fs::metadata(&file).map_err(fail)?.len();
        if total > MOST_BYTES {
            return Err(Failure::input(format!("{}: more than {MOST_BYTES} bytes of answers", folder.display())));
        }
        let bytes = std::fs::read(&file).map_err(fail)?;
        read.push((file.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes));
    }
    Ok(read)
}

/// The capture called `name` that the answers in a folder make.
pub fn capture(folder: &Path, files: &[(String, Vec<u8>)], name: &str) -> Result<Capture, Failure> {
    rds::import(files, name).map_err(|e| Failure::input(format!("{}: {e}", folder.display())))
}
