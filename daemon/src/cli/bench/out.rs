//! The file of a run: one writer at a time, whole lines only, kept when the disk fills or the run is killed. It grows case by case, or
//! is written at once.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use galen_agents::evaluation::compare::differing_pins;
use galen_agents::evaluation::record::{Header, Line, Run};

use super::resume::{Wanted, keep, other_pin};
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
    /// Opens or creates the file, locks it, and checks that what is in it belongs to the same run. It stays as it is until
    /// [`Out::go_on`].
    ///
    /// # Errors
    /// Usage: another run writes this file, or what is in it is no run or one with other pins. A fault: it cannot be written.
    pub fn open(path: &Path, header: &Header) -> Result<Self, Failure> {
        let mut out = Self::lock(path)?;
        if let Some(done) = out.found()? {
            if let Some(pin) = other_pin(&done, header) {
                return Err(out.of_another(&pin));
            }
            out.whole = done.whole as u64;
            out.done = done;
        }
        Ok(out)
    }

    /// Goes on with what is in the file, or begins it. A line that was being written when a run died is cut off, lines of cases
    /// that have changed since are taken out.
    ///
    /// # Errors
    /// Usage: it holds finished cases that the suite does not have. A fault: it cannot be written.
    pub fn go_on(mut self, header: &Header, wanted: &[Wanted]) -> Result<Self, Failure> {
        if self.whole > 0 {
            let kept = keep(&self.done, header, wanted).map_err(|why| self.of_another(&why))?;
            (self.done, self.again) = (kept.run, kept.again);
            if kept.differs {
                let run = self.done.clone();
                self.replace(&run).map_err(|e| Failure::write(&self.path, &e))?;
                return Ok(self);
            }
        }
        let cut = self.file.set_len(self.whole).and_then(|()| self.file.seek(SeekFrom::Start(self.whole)));
        cut.map_err(|e| Failure::write(&self.path, &e))?;
        if self.whole == 0 {
            self.write(&Line::Run(Box::new(header.clone())))?;
        }
        Ok(self)
    }

    /// Opens or creates the file of a run that is written at once when it is finished, and locks it. Until then it stays as it is.
    ///
    /// # Errors
    /// As [`Out::open`].
    pub fn claim(path: &Path, header: &Header) -> Result<Self, Failure> {
        let mut out = Self::lock(path)?;
        if let Some(done) = out.found()? {
            let mine = Run { header: header.clone(), ..Run::default() };
            if let Some(pin) = differing_pins(&done, &mine).first() {
                return Err(out.of_another(pin));
            }
        }
        Ok(out)
    }

    fn lock(path: &Path) -> Result<Self, Failure> {
        let fail = |e: std::io::Error| Failure::write(path, &e);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(fail)?;
        let busy = || Failure::usage(format!("{} is being written by another run; wait for it or choose another file", path.display()));
        if !file.metadata().map_err(fail)?.is_file() {
            return Err(Failure::usage(format!("{} is not a file; choose another one", path.display())));
        }
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| busy())?;
        // Another run may have put a new file in its place since it was opened.
        if std::fs::metadata(path).map_err(fail)?.ino() != file.metadata().map_err(fail)?.ino() {
            return Err(busy());
        }
        Ok(Self { file, path: path.canonicalize().map_err(fail)?, whole: 0, done: Run::default(), again: 0 })
    }

    /// The run that the file holds; none in a new file, or one in which a run died at once.
    fn found(&mut self) -> Result<Option<Run>, Failure> {
        let other = |why: &str| Failure::usage(format!("{} is not a run{why}; choose another file", self.path.display()));
        let mut bytes = Vec::new();
        (&*self.file).read_to_end(&mut bytes).map_err(|e| Failure::write(&self.path, &e))?;
        let text = whole_text(bytes).ok_or_else(|| other(""))?;
        if text.contains('\n') {
            return Run::parse(&text).map(Some).map_err(|e| other(&format!(" that can go on: {e}")));
        }
        let begun = text.is_empty() || r#"{"line":"run""#.starts_with(&text.chars().take(13).collect::<String>());
        if begun { Ok(None) } else { Err(other("")) }
    }

    fn of_another(&self, why: &str) -> Failure {
        Failure::usage(format!("{} belongs to another run ({why}); choose another file", self.path.display()))
    }

    /// Puts a file with a whole run in the place of the old one, in one step: whatever happens, what is finished is in one
    /// of the two. The new one is locked before anybody can open it.
    fn replace(&mut self, run: &Run) -> std::io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let (file, draft) = tempfile::Builder::new().prefix(".galen-").tempfile_in(folder)?.into_parts();
        file.set_permissions(self.file.metadata()?.permissions())?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e)?;
        let mut whole = BufWriter::new(&*file);
        for line in run.lines() {
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

    /// Writes a finished run, all of it or nothing, in the place of what was there.
    ///
    /// # Errors
    /// A fault that says that nothing was written.
    pub fn finish_with(mut self, run: &Run) -> Result<(), Failure> {
        self.replace(run).map_err(|e| {
            let failure = Failure::write(&self.path, &e);
            Failure { message: format!("{}; the file is as it was", failure.message), ..failure }
        })
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

/// The text of a run's file; where whoever wrote it died within a character, without its beginning. None where it is no text.
pub fn whole_text(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes)
        .or_else(|error| {
            let flaw = error.utf8_error();
            let mut bytes = error.into_bytes();
            if flaw.error_len().is_none() {
                bytes.truncate(flaw.valid_up_to());
            }
            String::from_utf8(bytes)
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::suite::Case;
    use galen_agents::evaluation::Capability;
    use galen_agents::evaluation::measured::Figure;
    use galen_agents::evaluation::record::{CaseLine, FORMAT, MEASURED_FORMAT};
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
        Out::open(path, header)?.go_on(header, &wanted("1"))
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
        let mut out = Out::open(&link, &header()).unwrap().go_on(&header(), &repaired).unwrap();
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
            assert_eq!(Out::claim(&notes, &header()).err().unwrap().code, 2);
            assert_eq!(std::fs::read_to_string(&notes).unwrap(), text);
        }
    }

    #[test]
    fn a_run_that_is_written_at_once_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let figure = Figure { capability: Capability::RootCause, task: "top1", dataset: "d/test" };
        let run = |value: f64| Run {
            header: Header { format: MEASURED_FORMAT, figures: 1, ..Header::default() },
            measured: vec![figure.of_case("a", "1", [value, 0.5])],
            ..Run::default()
        };
        let read = || Run::parse(&std::fs::read_to_string(&path).unwrap());
        let out = Out::claim(&path, &run(1.0).header).unwrap();
        assert_eq!(Out::claim(&path, &run(1.0).header).err().unwrap().code, 2, "it has one writer");
        assert!(read().is_err(), "nothing is in it before it is finished");
        out.finish_with(&run(1.0)).unwrap();
        assert_eq!(read().unwrap().measured, run(1.0).measured);
        // The same run may be written again, another one not.
        Out::claim(&path, &run(0.0).header).unwrap().finish_with(&run(0.0)).unwrap();
        assert_eq!(read().unwrap().measured, run(0.0).measured);
        let mut other = run(1.0).header;
        other.pins.parameters.insert("k".into(), "3".into());
        let error = Out::claim(&path, &other).err().unwrap();
        assert!(error.code == 2 && error.message.contains("belongs to another run (parameters: null / {\"k\":\"3\"})"), "{error}");
        assert_eq!(read().unwrap().measured, run(0.0).measured);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    }
}
