//! The file of a run: one writer at a time, whole lines only, kept when the disk fills or the run is killed.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use galen_agents::evaluation::record::{Header, Line, Run};

use super::resume::{Wanted, keep};
use crate::failure::Failure;

/// A run's file, locked.
pub struct Out {
    file: Flock<File>,
    path: PathBuf,
    whole: u64,
    /// What an interrupted run has left: its finished cases.
    pub done: Run,
    /// Finished cases that were taken out of the file, since their captures or answers have changed.
    pub again: usize,
}

impl Out {
    /// Opens or creates the file, locks it, and checks that what is in it belongs to the same run. A line that was
    /// being written when a run died is cut off, lines of cases that have changed since are taken out.
    ///
    /// # Errors
    /// Usage: another run writes this file, or what is in it is no run or one with other pins. A fault: it cannot be written.
    pub fn open(path: &Path, header: &Header, wanted: &[Wanted]) -> Result<Self, Failure> {
        let fail = |e: std::io::Error| Failure::write(path, &e);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(fail)?;
        let busy = || Failure::usage(format!("{} is being written by another run; wait for it or choose another file", path.display()));
        let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| busy())?;
        // Another run may have put a new file in its place since it was opened.
        if std::fs::metadata(path).map_err(fail)?.ino() != file.metadata().map_err(fail)?.ino() {
            return Err(busy());
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|_| Failure::usage(format!("{} is not a run; choose another file", path.display())))?;
        let mut out = Self { file, path: path.canonicalize().map_err(fail)?, whole: 0, done: Run::default(), again: 0 };
        // A file without a whole line is a run that died at once.
        if text.contains('\n') {
            let done = Run::parse(&text)
                .map_err(|e| Failure::usage(format!("{} is not a run that can go on: {e}; choose another file", path.display())))?;
            let kept = keep(&done, header, wanted)
                .map_err(|why| Failure::usage(format!("{} belongs to another run ({why}); choose another file", path.display())))?;
            out.whole = done.whole as u64;
            (out.done, out.again) = (kept.run, kept.again);
            if kept.differs {
                out.rewrite().map_err(fail)?;
                return Ok(out);
            }
        } else if !text.is_empty() && !r#"{"line":"run""#.starts_with(&text.chars().take(13).collect::<String>()) {
            return Err(Failure::usage(format!("{} is not a run; choose another file", path.display())));
        }
        out.file.set_len(out.whole).and_then(|()| out.file.seek(SeekFrom::Start(out.whole))).map_err(fail)?;
        if out.whole == 0 {
            out.write(&Line::Run(Box::new(header.clone())))?;
        }
        Ok(out)
    }

    /// Puts a file with what is kept in the place of the old one, in one step: whatever happens, finished cases are in one
    /// of the two. The new one is locked before anybody can open it.
    fn rewrite(&mut self) -> std::io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let (file, draft) = tempfile::Builder::new().prefix(".galen-").tempfile_in(folder)?.into_parts();
        file.set_permissions(self.file.metadata()?.permissions())?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e)?;
        let mut whole = BufWriter::new(&*file);
        let head = std::iter::once(Line::Run(Box::new(self.done.header.clone())));
        let cases = self.done.cases.iter().map(|case| Line::Case(Box::new(case.clone())));
        for line in head.chain(cases).chain(self.done.failed.iter().cloned().map(Line::Failed)) {
            serde_json::to_writer(&mut whole, &line)?;
            whole.write_all(b"\n")?;
        }
        whole.flush()?;
        drop(whole);
        file.sync_all()?;
        self.whole = file.metadata()?.len();
        draft.persist(&self.path).map_err(|e| e.error)?;
        self.file = file;
        Ok(())
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
    use crate::cli::bench::suite::Case;
    use galen_agents::evaluation::record::{CaseLine, FORMAT};
    use galen_agents::evaluation::split::Half;

    fn header() -> Header {
        Header { format: FORMAT, ..Header::default() }
    }

    fn case(id: &str) -> Line {
        let half = Some(Half::Learn);
        Line::Case(Box::new(CaseLine { case: id.into(), capture_sha256: "1".into(), half, ..CaseLine::default() }))
    }

    fn wanted(sha256: &str) -> Vec<Wanted> {
        let case = |id: &str| Case {
            id: id.into(),
            dataset: String::new(),
            half: Half::Learn,
            path: format!("{id}.galen").into(),
            sha256: Some(sha256.into()),
            answer: Ok(None),
            label_from_name: false,
        };
        vec![(case("a"), None), (case("b"), None)]
    }

    fn open(path: &Path, header: &Header) -> Result<Out, Failure> {
        Out::open(path, header, &wanted("1"))
    }

    #[test]
    fn a_case_that_changed_is_taken_out_and_the_file_still_has_one_writer() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("run.jsonl"), folder.path().join("link.jsonl"));
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let mut out = open(&path, &header()).unwrap();
        out.write(&case("a")).unwrap();
        drop(out);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o604)).unwrap();
        let mut repaired = wanted("1");
        repaired[0].0.sha256 = Some("2".into());
        let mut out = Out::open(&link, &header(), &repaired).unwrap();
        assert_eq!((out.again, out.done.cases.len()), (1, 0));
        assert_eq!(open(&path, &header()).err().unwrap().code, 2, "the new file is locked as the old one was");
        out.write(&case("b")).unwrap();
        out.finish().unwrap();
        let run = Run::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(run.cases.iter().map(|c| c.case.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o604);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no draft is left");
    }

    #[test]
    fn a_killed_run_goes_on_after_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let mut out = open(&path, &header()).unwrap();
        out.write(&case("a")).unwrap();
        drop(out);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"line\":\"case\",\"case\":\"b").unwrap();
        let mut out = open(&path, &header()).unwrap();
        assert_eq!(out.done.cases.len(), 1);
        out.write(&case("b")).unwrap();
        out.finish().unwrap();
        assert_eq!(Run::parse(&std::fs::read_to_string(&path).unwrap()).unwrap().cases.len(), 2);
    }

    #[test]
    fn two_writers_and_foreign_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let first = open(&path, &header()).unwrap();
        let error = open(&path, &header()).err().unwrap();
        assert!(error.code == 2 && error.message.contains("another run"), "{error}");
        drop(first);
        let mut other = header();
        other.pins.catalog_sha256 = "changed".into();
        let error = open(&path, &other).err().unwrap();
        assert!(error.message.contains("catalog_sha256"), "{error}");
        for text in ["precious notes", "precious notes\n"] {
            let notes = folder.path().join("notes.txt");
            std::fs::write(&notes, text).unwrap();
            assert_eq!(open(&notes, &header()).err().unwrap().code, 2);
            assert_eq!(std::fs::read_to_string(&notes).unwrap(), text);
        }
    }
}
