//! `galen import`: incidents recorded by other tools.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use galen_agents::evaluation::dbsherlock::published_half;
use galen_agents::evaluation::split::half_of_content;
use galen_tools::capture::{Capture, Half, Manifest};
use galen_tools::sources::{dbot, dbsherlock};
use galen_tools::store::{StoreErrorKind, file};

use super::{Global, rds};
use crate::failure::{Failure, LeftOut};
use crate::output;

/// Largest file read, bytes.
const MOST_BYTES: u64 = 64 << 20;
/// Exit code of a flaw of one input, which is no reason to stop.
const INPUT: u8 = 5;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen import dbot testing_cases_1.json -o case.galen
  galen import dbot testing_cases_*.json -o cases/
  galen import dbsherlock single/ -o cases/
  galen import rds incident/ -o incident.galen

A folder stands for all files of the format below it. Captures of a folder are numbered in the order of the files'
paths: a path may tell what was wrong, and a diagnosis must not know. Recordings that lie as DBSherlock publishes them
(`single/CLASS/NUMBER.csv.gz`, `compound/...`) are given the half, for learning or testing, of its published rule;
others that of a digest of their series, so that a file more or another name moves none. A capture that is there already
stays as it is, with the labels that it was given since, where the input says the same, and is never written over where
it does not: the same command goes on after a full disk.")]
pub struct ImportArgs {
    /// Format of the input
    format: ImportFormat,
    /// Files or folders to read
    #[arg(required = true, value_name = "IN")]
    inputs: Vec<PathBuf>,
    /// Capture to write; a folder for several inputs
    #[arg(short, long, value_name = "OUT")]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ImportFormat {
    /// A recorded case of D-Bot: alert, metrics, slow queries, workload
    Dbot,
    /// Recordings of DBSherlock: a CSV table a file, perhaps gzipped, one row a second
    Dbsherlock,
    /// Answers of AWS's APIs for an RDS instance: a folder an incident, with the JSON of CloudWatch GetMetricData,
    /// Performance Insights, DescribeEvents, DescribeDBParameters and the alert
    Rds,
}

impl ImportFormat {
    /// Endings of the files that a folder stands for.
    fn endings(self) -> &'static [&'static str] {
        match self {
            Self::Dbot => &[".json"],
            Self::Dbsherlock => &[".csv", ".csv.gz"],
            Self::Rds => &[".json"],
        }
    }

    fn read(self, bytes: &[u8], name: &str) -> Result<Capture, String> {
        match self {
            Self::Dbot => {
                let text = std::str::from_utf8(bytes).map_err(|e| format!("not UTF-8: {e}"))?;
                dbot::import(text, name).map_err(|e| e.to_string())
            }
            Self::Dbsherlock => dbsherlock::import(bytes, name).map_err(|e| e.to_string()),
            Self::Rds => Err("an RDS incident is a folder, not a file".into()),
        }
    }
}

/// Most files below a folder.
const MOST_FILES: usize = 100_000;

/// An input file and the capture it becomes.
struct Job {
    input: PathBuf,
    out: PathBuf,
}

/// What to read and where to write it.
fn jobs(args: &ImportArgs) -> Result<Vec<Job>, Failure> {
    if matches!(args.format, ImportFormat::Rds) {
        return folders(args);
    }
    let many = args.inputs.len() > 1 || args.out.is_dir() || args.inputs.iter().any(|i| i.is_dir());
    if !many {
        return Ok(args.inputs.iter().map(|input| Job { input: input.clone(), out: args.out.clone() }).collect());
    }
    let mut jobs = Vec::new();
    for input in &args.inputs {
        if input.is_dir() {
            let mut files = Vec::new();
            below(input, args.format.endings(), &mut files)?;
            files.sort();
            let first = jobs.len();
            jobs.extend(
                files
                    .into_iter()
                    .enumerate()
                    .map(|(i, input)| Job { input, out: args.out.join(format!("case-{:05}.galen", first + i + 1)) }),
            );
        } else {
            jobs.push(Job { input: input.clone(), out: args.out.join(capture_name(input, args.format)) });
        }
    }
    apart(&jobs)?;
    Ok(jobs)
}

/// Name of the capture that a named file becomes: the file's, without the ending of its format (`01.csv.gz` becomes
/// `01.galen`).
fn capture_name(input: &Path, format: ImportFormat) -> OsString {
    let name = input.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match format.endings().iter().find_map(|ending| name.strip_suffix(*ending)).filter(|stem| !stem.is_empty()) {
        Some(stem) => format!("{stem}.galen").into(),
        None => input.with_extension("galen").file_name().unwrap_or_default().to_owned(),
    }
}

/// Checks that no two inputs become one capture.
fn apart(jobs: &[Job]) -> Result<(), Failure> {
    let mut taken: HashMap<&Path, &Path> = HashMap::new();
    for Job { input, out } in jobs {
        if let Some(first) = taken.insert(out, input) {
            let (first, input, out) = (first.display(), input.display(), out.display());
            return Err(Failure::usage(format!(
                "{first} and {input} would both become {out}; give the folder that holds them, or one --out each"
            )));
        }
    }
    Ok(())
}

/// Incidents that are folders: a single one may be given the name of its capture, several are numbered.
fn folders(args: &ImportArgs) -> Result<Vec<Job>, Failure> {
    let mut found = Vec::new();
    for input in &args.inputs {
        found.extend(if input.is_dir() { rds::incidents(input)? } else { vec![input.clone()] });
    }
    if found.len() == 1 && !args.out.is_dir() && found[0] == args.inputs[0] {
        return Ok(found.into_iter().map(|input| Job { input, out: args.out.clone() }).collect());
    }
    let numbered = |(at, input)| Job { input, out: args.out.join(format!("case-{:05}.galen", at + 1)) };
    Ok(found.into_iter().enumerate().map(numbered).collect())
}

/// Files below a folder; links are not followed, so that a loop cannot be entered.
fn below(folder: &Path, endings: &[&str], files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let fail = |e: std::io::Error| Failure::input(format!("{}: {e}", folder.display()));
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let kind = entry.file_type().map_err(fail)?;
        if kind.is_dir() {
            below(&entry.path(), endings, files)?;
        } else if kind.is_file() && endings.iter().any(|e| entry.file_name().to_string_lossy().ends_with(e)) {
            files.push(entry.path());
        }
        if files.len() > MOST_FILES {
            return Err(Failure::input(format!("{}: more than {MOST_FILES} files", folder.display())));
        }
    }
    Ok(())
}

/// Imports each input; one that cannot be read costs a line and the exit code. What cannot be written, or would be written
/// over another recording, ends it: so would the next.
pub fn import(global: &Global, args: &ImportArgs) -> Result<(), Failure> {
    let jobs = jobs(args)?;
    if jobs.is_empty() {
        return Err(Failure::input(format!("no file that ends in {} below these folders", args.format.endings().join(" or "))));
    }
    if jobs[0].out != args.out {
        std::fs::create_dir_all(&args.out).map_err(|e| Failure::write(&args.out, &e))?;
    }
    let mut left_out = LeftOut::default();
    let mut done = 0;
    for Job { input, out } in &jobs {
        let finished = format!("{done} of {} inputs are finished", jobs.len());
        let imported = one(args.format, input, out).and_then(|capture| {
            if !is_there(&capture, out, &finished)? {
                write(&capture, out, &finished)?;
            }
            Ok(capture.series.len())
        });
        match imported {
            Ok(signals) => {
                done += 1;
                output::progress(&match global.json {
                    true => json!({"in": input, "out": out, "signals": signals}).to_string(),
                    false => format!("{}: {signals} signals", out.display()),
                });
            }
            Err(failure) if jobs.len() == 1 || failure.code != INPUT => return Err(failure),
            Err(failure) => {
                left_out.add(&failure);
                output::tell(&format!("galen: {failure}"));
            }
        }
    }
    left_out.end(jobs.len(), "inputs could not be imported")
}

fn one(format: ImportFormat, input: &Path, out: &Path) -> Result<Capture, Failure> {
    let fail = |e: &dyn std::fmt::Display| Failure::input(format!("{}: {e}", input.display()));
    let name = out.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    if matches!(format, ImportFormat::Rds) && input.is_dir() {
        let mut capture = rds::capture(input, &rds::files(input)?, &name)?;
        capture.manifest.half = Some(half_of_content(&capture.series));
        return Ok(capture);
    }
    let size = std::fs::metadata(input).map_err(|e| fail(&e))?.len();
    if size > MOST_BYTES {
        return Err(fail(&format!("{size} bytes is more than the {MOST_BYTES} that an import reads")));
    }
    let bytes = std::fs::read(input).map_err(|e| fail(&e))?;
    let mut capture = format.read(&bytes, &name).map_err(|e| fail(&e))?;
    capture.manifest.half = published(format, input).or_else(|| Some(half_of_content(&capture.series)));
    Ok(capture)
}

/// The half that a benchmark's published rule gives to a file. The path says it; nothing of the path gets into the capture.
fn published(format: ImportFormat, input: &Path) -> Option<Half> {
    if !matches!(format, ImportFormat::Dbsherlock) {
        return None;
    }
    let half = |path: std::io::Result<PathBuf>| published_half(&path.ok()?);
    half(std::path::absolute(input)).or_else(|| half(input.canonicalize()))
}

/// True when a capture's name holds the same already, whatever the manifest there says: somebody may have labelled it. Anything
/// else that has the name is not written over. `done` says how many inputs are finished.
fn is_there(capture: &Capture, out: &Path, done: &str) -> Result<bool, Failure> {
    if !out.try_exists().unwrap_or(false) {
        return Ok(false);
    }
    let place = out.display();
    let other = || Failure::usage(format!("{place} is there already and holds something else; {done}: choose another place with --out"));
    let there = file::read(out).map_err(|error| match error.kind {
        StoreErrorKind::Damaged | StoreErrorKind::NotACapture => other(),
        _ => error.into(),
    })?;
    // As it is when it is read again: a file holds its rows in the order of their times.
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = tempfile::Builder::new().prefix(".galen-").tempfile_in(folder).map_err(|e| Failure::write(folder, &e))?.into_temp_path();
    write(capture, &draft, done).map_err(|e| Failure { message: e.message.replace(&*draft.to_string_lossy(), &place.to_string()), ..e })?;
    let content = |capture: Capture| Capture { manifest: Manifest::default(), ..capture };
    if content(there) == content(file::read(&draft)?) { Ok(true) } else { Err(other()) }
}

/// Writes a capture; `done` says how many inputs are finished.
fn write(capture: &Capture, out: &Path, done: &str) -> Result<(), Failure> {
    file::write(capture, out).map_err(|error| match error.kind {
        // The capture contradicts itself: the input's flaw, and no reason to stop.
        StoreErrorKind::Damaged => error.into(),
        StoreErrorKind::DiskFull => Failure::fault(format!("{error}; {done}: make room and run the same command again")),
        _ => Failure::fault(format!("{error}; {done}: choose another place with --out")),
    })
}

#[cfg(test)]
mod tests {
    use galen_tools::capture::FORMAT;
    use galen_tools::model::{Event, Series};

    use super::*;

    #[test]
    fn a_named_file_loses_the_whole_ending_of_its_format() {
        let named = |input: &str, format| capture_name(Path::new(input), format).into_string().unwrap();
        for (input, out) in [("a/01.csv.gz", "01.galen"), ("01.csv", "01.galen"), ("x.1.csv", "x.1.galen"), (".csv", ".csv.galen")] {
            assert_eq!(named(input, ImportFormat::Dbsherlock), out, "{input}");
        }
        assert_eq!(named("case.json", ImportFormat::Dbot), "case.galen");
    }

    #[test]
    fn two_inputs_that_become_one_capture_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x.json"), "{}").unwrap();
        let jobs = |format, inputs: &[&Path]| {
            let inputs = inputs.iter().map(|input| input.to_path_buf()).collect();
            jobs(&ImportArgs { format, inputs, out: "cases".into() })
        };
        let [a, b] = ["a/01.csv.gz", "b/01.csv"].map(Path::new);
        let failure = jobs(ImportFormat::Dbsherlock, &[a, b]).err().unwrap();
        assert!(failure.code == 2 && failure.message.contains("a/01.csv.gz and b/01.csv would both become cases/01.galen"), "{failure}");
        let numbered = Path::new("case-00001.json");
        assert_eq!(jobs(ImportFormat::Dbot, &[folder.path(), numbered]).err().unwrap().code, 2);
        assert_eq!(jobs(ImportFormat::Dbot, &[folder.path(), Path::new("own.json")]).unwrap().len(), 2);
    }

    #[test]
    fn what_is_there_stays_with_its_labels_or_the_import_ends() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("case-00001.galen");
        let of = |value: f64, event: &str| {
            let series = Series { values: vec![value], times: vec![1], ..Series::default() };
            let manifest = Manifest { format: FORMAT, ..Manifest::default() };
            // Not in the order of their times.
            let events = [(2, event), (1, "restart")].map(|(at, text)| Event { at, text: text.into(), ..Event::default() });
            Capture { manifest, series: [("s".to_owned(), series)].into(), events: events.into(), ..Capture::default() }
        };
        let is_there = |capture: &Capture| is_there(capture, &out, "1 of 2 inputs are finished");
        assert_eq!(is_there(&of(1.0, "failover")), Ok(false));
        let mut labelled = of(1.0, "failover");
        labelled.manifest.labels = vec!["deadlocks".into()];
        file::write(&labelled, &out).unwrap();
        assert_eq!(is_there(&of(1.0, "failover")), Ok(true), "an import that goes on");
        for other in [of(2.0, "failover"), of(1.0, "backup")] {
            let failure = is_there(&other).unwrap_err();
            assert!(failure.code == 2 && failure.message.contains("case-00001.galen is there already"), "{failure}");
            assert!(failure.message.contains("1 of 2 inputs are finished: choose"), "{failure}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
        std::fs::write(&out, "notes").unwrap();
        assert_eq!(is_there(&of(1.0, "failover")).unwrap_err().code, 2);
    }
}
