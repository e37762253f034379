//! `galen import`: incidents recorded by other tools.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use galen_agents::evaluation::dbsherlock::published_half;
use galen_agents::evaluation::split::half_of_content;
use galen_tools::capture::{Capture, Half};
use galen_tools::sources::{dbot, dbsherlock};
use galen_tools::store::{StoreErrorKind, file};

use super::{Global, rds};
use crate::failure::{FAULT, Failure, LeftOut};
use crate::output;

/// Largest file read, bytes.
const MOST_BYTES: u64 = 64 << 20;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen import dbot testing_cases_1.json -o case.galen
  galen import dbot testing_cases_*.json -o cases/
  galen import dbsherlock single/ -o cases/
  galen import rds incident/ -o incident.galen

A folder stands for all files of the format below it. Captures of a folder are numbered in the order of the files'
paths: a path may tell what was wrong, and a diagnosis must not know. Recordings that lie as DBSherlock publishes them
(`single/CLASS/NUMBER.csv.gz`, `compound/...`) are given the half, for learning or testing, of its published rule;
others that of a digest of their series, so that a file more or another name moves none.")]
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
            jobs.push(Job { input: input.clone(), out: args.out.join(input.with_extension("galen").file_name().unwrap_or_default()) });
        }
    }
    Ok(jobs)
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

/// Imports each input; one that cannot be read costs a line and the exit code. What cannot be written ends it: the next
/// could not be written either.
pub fn import(global: &Global, args: &ImportArgs) -> Result<(), Failure> {
    let jobs = jobs(args)?;
    if jobs.is_empty() {
        return Err(Failure::input(format!("no file that ends in {} below these folders", args.format.endings().join(" or "))));
    }
    if jobs[0].out != args.out {
        std::fs::create_dir_all(&args.out).map_err(|e| Failure::write(&args.out, &e))?;
    }
    let mut left_out = LeftOut::default();
    for (done, Job { input, out }) in jobs.iter().enumerate() {
        let imported = one(args.format, input, out).and_then(|capture| write(&capture, out, done).map(|()| capture.series.len()));
        match imported {
            Ok(signals) if global.json => output::line(&json!({"in": input, "out": out, "signals": signals}).to_string()),
            Ok(signals) => output::line(&format!("{}: {signals} signals", out.display())),
            Err(failure) if jobs.len() == 1 || failure.code == FAULT => return Err(failure),
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

/// Writes a capture; `done` inputs were finished before it.
fn write(capture: &Capture, out: &Path, done: usize) -> Result<(), Failure> {
    file::write(capture, out).map_err(|error| match error.kind {
        // The capture contradicts itself: the input's flaw, and no reason to stop.
        StoreErrorKind::Damaged => error.into(),
        StoreErrorKind::DiskFull => {
            Failure::fault(format!("{error}; {done} inputs were finished before: make room and run the same command again"))
        }
        _ => Failure::fault(format!("{error}; {done} inputs were finished before: choose another place with --out")),
    })
}
