//! What the public benchmarks share: what they could not read, the header and file of their runs, and how one is measured again.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use galen_agents::driver::{Library, Options};
use galen_agents::evaluation::compare::differing_pins;
use galen_agents::evaluation::measured::{Measured, digest};
use galen_agents::evaluation::record::{FailedCase, Header, MEASURED_FORMAT, Run};

use super::out::Out;
use super::pins::{self, Asked};
use super::{dbot, dbsherlock, rds, read_run};
use crate::cli::Global;
use crate::failure::{Failure, LeftOut};
use crate::output;

/// The cases of a benchmark, and what could not be used.
pub struct Read<T> {
    suite: &'static str,
    /// Cases that were found.
    pub listed: usize,
    /// Those that can be used.
    pub cases: Vec<T>,
    /// For the exit code.
    pub left_out: LeftOut,
    failed: Vec<FailedCase>,
}

impl<T> Read<T> {
    /// Nothing yet of the benchmark of this name, in which so many cases were found.
    pub fn new(suite: &'static str, listed: usize) -> Self {
        Self { suite, listed, cases: Vec::new(), left_out: LeftOut::default(), failed: Vec::new() }
    }

    /// Takes note of a case that cannot be used, and tells it.
    pub fn leave_out(&mut self, case: &str, failure: Failure) {
        output::tell(&format!("galen: {failure}"));
        self.left_out.add(&failure);
        self.failed.push(FailedCase { dataset: self.suite.into(), case: case.into(), why: failure.message });
    }

    /// The run in which this was measured.
    pub fn run(&self, header: Header, measured: Vec<Measured>) -> Run {
        let header = Header { figures: measured.len(), ..header };
        Run { header, measured, failed: self.failed.clone(), ..Run::default() }
    }
}

/// What was asked of which benchmark.
pub struct Source<'a> {
    /// Name that the run pins.
    pub suite: &'a str,
    /// Folder, as given.
    pub path: &'a Path,
    /// As [`galen_agents::evaluation::record::Pins::half`].
    pub half: &'a str,
    /// Captures that were diagnosed at a time.
    pub jobs: u16,
    /// Options that change results, by name.
    pub parameters: &'a [(&'a str, String)],
}

impl Source<'_> {
    /// The header of its run. `inputs` are the cases that were read, each with its id and digest.
    pub fn header<'i, T>(
        &self,
        read: &Read<T>,
        inputs: impl Iterator<Item = (String, &'i str)>,
        library: &Library,
        options: &Options,
    ) -> Header {
        let inputs: Vec<String> = inputs.map(|(case, sha256)| format!("{case}\n{sha256}")).collect();
        let sha256 = digest(inputs.iter().map(String::as_bytes));
        let mut pins = pins::pins(Asked { suite: self.suite, sha256, half: self.half }, library, None, options);
        pins.parameters = self.parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Header {
            format: MEASURED_FORMAT,
            pins,
            machine: pins::machine(),
            suite_path: self.path.display().to_string(),
            jobs: self.jobs,
            cases: read.listed,
            figures: 0,
        }
    }
}

/// The file of a run, locked before the work. One that was made for it and in which nothing came to stand goes again.
pub struct Claimed {
    out: Option<Out>,
    path: PathBuf,
    made: bool,
    /// The run that was in it.
    before: Option<Run>,
}

impl Claimed {
    /// Locks the file where one was asked for, and checks all that can be known before the work: that nobody writes it, and
    /// that it holds nothing but a run of the same benchmark, release and options. Which cases can be used shows later.
    ///
    /// # Errors
    /// As [`Out::claim`].
    pub fn of(path: Option<&Path>, source: &Source<'_>, library: &Library, options: &Options) -> Result<Option<Self>, Failure> {
        let Some(path) = path else { return Ok(None) };
        let (made, before) = (path.symlink_metadata().is_err(), path.is_file().then(|| read_run(path).ok()).flatten());
        let mut header = source.header(&Read::<()>::new("", 0), std::iter::empty(), library, options);
        if let Some(before) = &before {
            header.pins.suite_sha256.clone_from(&before.header.pins.suite_sha256);
        }
        let out = Some(Out::claim(path, &header)?);
        Ok(Some(Self { out, path: path.to_owned(), made, before }))
    }

    /// Writes a finished run. One without a figure is not worth a file: whatever kept it from one was told.
    ///
    /// # Errors
    /// Usage: the file holds a run over other cases. As [`Out::finish_with`].
    pub fn finish(mut self, run: &Run) -> Result<(), Failure> {
        if run.measured.is_empty() {
            return Ok(());
        }
        if let Some(pin) = self.before.as_ref().and_then(|before| differing_pins(before, run).into_iter().next()) {
            let path = self.path.display();
            return Err(Failure::usage(format!("{path} belongs to another run ({pin}); choose another file")));
        }
        self.out.take().map_or(Ok(()), |out| out.finish_with(run))
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        // Still locked: nobody else has begun to write it.
        if self.made && self.out.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Measures what is in a run again, from the folder `place`.
///
/// # Errors
/// Input: a benchmark or an option that this release does not know, or what it reads is not there.
pub async fn again(global: &Global, run: &Run, place: &Path, jobs: u16) -> Result<Run, Failure> {
    let pins = &run.header.pins;
    let parameter = |name: &str| {
        let value = pins.parameters.get(name);
        value.ok_or_else(|| Failure::input(format!("the run does not say with which {name} it was measured")))
    };
    match pins.suite.as_str() {
        dbsherlock::SUITE => {
            let k = parameter("k")?;
            let k = k.parse().map_err(|_| Failure::input(format!("the run was measured with k {k:?}, which is no number of cases")))?;
            dbsherlock::again(place, k).await
        }
        rds::SUITE => rds::again(global, place).await,
        dbot::SUITE => dbot::again(global, place, parameter("part")?, jobs).await,
        other => Err(Failure::input(format!("this release has no public benchmark {other:?} to measure again"))),
    }
}

/// How many figures of a run are the same in another, and one line for each that is not, or that only the other has.
pub fn differing(run: &Run, now: &Run) -> (usize, Vec<String>) {
    let told = |line: &Measured| {
        let placebo = line.placebo.map(|placebo| format!(", placebo {placebo}")).unwrap_or_default();
        format!("{} (simple {}{placebo})", line.value, line.baseline)
    };
    let theirs: HashMap<_, &Measured> = now.measured.iter().map(|line| (line.place(), line)).collect();
    let ours: HashSet<_> = run.measured.iter().map(Measured::place).collect();
    let why = |line: &Measured, other: Option<&Measured>| match other {
        None => Some("it is not measured any more".to_owned()),
        Some(other) if other.input_sha256 != line.input_sha256 => Some("what it was measured on was changed".to_owned()),
        Some(other) => (other != line).then(|| format!("{}, now {}", told(line), told(other))),
    };
    let of = |line: &Measured| Some(format!("{}: {}", line.name(), why(line, theirs.get(&line.place()).copied())?));
    let mut lines: Vec<String> = run.measured.iter().filter_map(of).collect();
    let same = run.measured.len() - lines.len();
    let new = now.measured.iter().filter(|line| !ours.contains(&line.place()));
    lines.extend(new.map(|line| format!("{}: it is not in the run", line.name())));
    (same, lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use galen_agents::evaluation::Capability;
    use galen_agents::evaluation::measured::Figure;

    #[test]
    fn a_figure_that_is_not_the_same_says_how() {
        let top1 = Figure { capability: Capability::RootCause, task: "top1", dataset: "d/test" };
        let run = |lines: &[Measured]| Run { measured: lines.to_vec(), ..Run::default() };
        let lines: Vec<Measured> = ["a", "b", "c", "d"].iter().map(|case| top1.of_case(case, "1", [1.0, 0.5])).collect();
        assert_eq!(differing(&run(&lines), &run(&lines)), (4, vec![]));
        let mut now = lines[..3].to_vec();
        now[0].placebo = Some(0.25);
        now[1].input_sha256 = "2".into();
        now.push(top1.of_case("new", "1", [1.0, 0.5]));
        let (same, told) = differing(&run(&lines), &run(&now));
        assert_eq!(same, 1);
        assert_eq!(
            told,
            [
                "top1 of d/test, a: 1 (simple 0.5), now 1 (simple 0.5, placebo 0.25)",
                "top1 of d/test, b: what it was measured on was changed",
                "top1 of d/test, d: it is not measured any more",
                "top1 of d/test, new: it is not in the run",
            ]
        );
    }

    #[test]
    fn a_file_is_refused_before_the_work_and_one_that_stays_empty_goes_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let (library, options) = (Library::default(), Options::default());
        let claim = |part: &str| {
            let parameters = [("part", part.to_owned())];
            let source = Source { suite: dbot::SUITE, path: folder.path(), half: "all", jobs: 1, parameters: &parameters };
            let header = |cases: &str| {
                let read = Read::<()>::new(dbot::SUITE, 1);
                source.header(&read, std::iter::once((cases.to_owned(), "1")), &library, &options)
            };
            (Claimed::of(Some(path.as_path()), &source, &library, &options), header("a"), header("b"))
        };
        let top1 = Figure { capability: Capability::RootCause, task: "top1", dataset: "d/test" };
        let run = |header: Header, figures: usize| {
            let measured = vec![top1.of_case("a", "1", [1.0, 0.5]); figures];
            Run { header: Header { figures, ..header }, measured, ..Run::default() }
        };
        let (claimed, first, _) = claim("x");
        let claimed = claimed.unwrap().unwrap();
        assert!(path.exists() && claim("x").0.err().unwrap().message.contains("being written by another run"));
        assert_eq!(claimed.finish(&run(first, 0)), Ok(()));
        assert!(!path.exists(), "nothing was measured");
        // A link to a file that is not there yet stays one.
        std::os::unix::fs::symlink(folder.path().join("elsewhere.jsonl"), &path).unwrap();
        let (claimed, first, _) = claim("x");
        claimed.unwrap().unwrap().finish(&run(first, 0)).unwrap();
        assert!(path.symlink_metadata().unwrap().is_symlink());
        std::fs::remove_file(&path).unwrap();
        let (claimed, first, other) = claim("x");
        claimed.unwrap().unwrap().finish(&run(first, 1)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let failure = claim("y").0.err().unwrap();
        assert!(failure.code == 2 && failure.message.contains("belongs to another run (parameters.part: "), "{failure}");
        // That the cases are others shows only when they have been read.
        let failure = claim("x").0.unwrap().unwrap().finish(&run(other, 1)).unwrap_err();
        assert!(failure.code == 2 && failure.message.contains("belongs to another run (suite_sha256: "), "{failure}");
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }
}
