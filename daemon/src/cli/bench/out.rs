//! The file of a run: one writer at a time, whole lines only, kept when the disk fills or the run is killed.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use galen_agents::evaluation::compare::differing_pins;
use galen_agents::evaluation::record::{Header, Line, Run};

use crate::failure::Failure;

/// A run's file, locked.
pub struct Out {
    file: Flock<File>,
    path: PathBuf,
    whole: u64,
    /// What an interrupted run has left: its finished cases.
    pub done: Run,
}

impl Out {
    /// Opens or creates the file, locks it, and checks that what is in it belongs to the same run. A line that was
    /// being written when a run died is cut off.
    ///
    /// # Errors
    /// Usage: another run writes this file, or what is in it is no run or one with other pins. A fault: it cannot be written.
    pub fn open(path: &Path, header: &Header) -> Result<Self, Failure> {
        let fail = |e: &dyn std::fmt::Display| Failure::fault(format!("cannot write {}: {e}", path.display()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(|e| fail(&e))?;
        let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
            Failure::usage(format!("{} is being written by another run; wait for it or choose another file", path.display()))
        })?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|_| Failure::usage(format!("{} is not a run; choose another file", path.display())))?;
        let mut out = Self { file, path: path.to_owned(), whole: 0, done: Run::default() };
        // A file without a whole line is a run that died at once.
        if text.contains('\n') {
            out.done = Run::parse(&text)
                .map_err(|e| Failure::usage(format!("{} is not a run that can go on: {e}; choose another file", path.display())))?;
            let mine = Run { header: header.clone(), ..Run::default() };
            if let Some(pin) = differing_pins(&out.done, &mine).first() {
                return Err(Failure::usage(format!("{} belongs to another run ({pin}); choose another file", path.display())));
            }
            out.whole = out.done.whole as u64;
        } else if !text.is_empty() && !r#"{"line":"run""#.starts_with(&text.chars().take(13).collect::<String>()) {
            return Err(Failure::usage(format!("{} is not a run; choose another file", path.display())));
        }
        out.file.set_len(out.whole).and_then(|()| out.file.seek(SeekFrom::Start(out.whole))).map_err(|e| fail(&e))?;
        if out.whole == 0 {
            out.write(&Line::Run(Box::new(header.clone())))?;
        }
        Ok(out)
    }

    /// Appends a line, whole or not at all.
    ///
    /// # Errors
    /// A fault that says how many cases are kept.
    pub fn write(&mut self, line: &Line) -> Result<(), Failure> {
        let mut bytes = serde_json::to_vec(line).map_err(|e| Failure::fault(e.to_string()))?;
        bytes.push(b'\n');
        let written = self.file.write_all(&bytes).and_then(|()| self.file.flush());
        if let Err(error) = written {
            // What did get onto the disk is half a line.
            let _ = self.file.set_len(self.whole);
            return Err(Failure::fault(format!(
                "cannot write {}: {error}; the finished cases in it are kept: make room and run the same command again",
                self.path.display()
            )));
        }
        self.whole += bytes.len() as u64;
        Ok(())
    }

    /// Puts the file onto the disk.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn finish(self) -> Result<(), Failure> {
        self.file.sync_all().map_err(|e| Failure::write(&self.path, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use galen_agents::evaluation::record::{CaseLine, FORMAT};

    fn header() -> Header {
        Header { format: FORMAT, ..Header::default() }
    }

    fn case(id: &str) -> Line {
        Line::Case(Box::new(CaseLine { case: id.into(), ..CaseLine::default() }))
    }

    #[test]
    fn a_killed_run_goes_on_after_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let mut out = Out::open(&path, &header()).unwrap();
        out.write(&case("a")).unwrap();
        drop(out);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"line\":\"case\",\"case\":\"b").unwrap();
        let mut out = Out::open(&path, &header()).unwrap();
        assert_eq!(out.done.cases.len(), 1);
        out.write(&case("b")).unwrap();
        out.finish().unwrap();
        assert_eq!(Run::parse(&std::fs::read_to_string(&path).unwrap()).unwrap().cases.len(), 2);
    }

    #[test]
    fn two_writers_and_foreign_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let first = Out::open(&path, &header()).unwrap();
        let error = Out::open(&path, &header()).err().unwrap();
        assert!(error.code == 2 && error.message.contains("another run"), "{error}");
        drop(first);
        let mut other = header();
        other.pins.catalog_sha256 = "changed".into();
        let error = Out::open(&path, &other).err().unwrap();
        assert!(error.message.contains("catalog_sha256"), "{error}");
        for text in ["precious notes", "precious notes\n"] {
            let notes = folder.path().join("notes.txt");
            std::fs::write(&notes, text).unwrap();
            assert_eq!(Out::open(&notes, &header()).err().unwrap().code, 2);
            assert_eq!(std::fs::read_to_string(&notes).unwrap(), text);
        }
    }
}
