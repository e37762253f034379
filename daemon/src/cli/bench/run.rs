//! `galen bench run`: every case of a suite diagnosed and measured, in parallel, resumable.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use galen_agents::driver::{Library, Options, diagnose};
use galen_agents::evaluation::calibration::calibration;
use galen_agents::evaluation::record::{CaseLine, FORMAT, FailedCase, Header, Line, Run};
use galen_agents::evaluation::score::{hierarchy, scores};
use galen_agents::llm::Provider;
use galen_agents::report::Report;
use galen_tools::model::Window;
use galen_tools::probe::Recorded;
use galen_tools::store::file;

use super::out::{self, Out};
use super::resume::Wanted;
use super::suite::{Case, Suite, Which, answer, hex};
use super::{measure, pins};
use crate::cli::Global;
use crate::failure::{Failure, LeftOut};
use crate::{engine, output, parallel};

#[derive(Debug, Args)]
#[command(after_help = "SUITE is a folder of captures with labels (in the capture, or beside it in NAME.answer.json), or a file:
  name = \"quick\"
  [[dataset]]
  name = \"shop\"
  path = \"captures/shop\"

No label or answer is shown to the diagnosis. Run the same command again to go on after an interruption: a case whose capture
or answer was changed since, such as a repaired one, is diagnosed again. Another build of galen (`galen version` shows
its sources) begins another file.

The half of a capture is the one that its manifest states (of an imported one: by a benchmark's published rule, else by its
content), else that of its file's name alone, in whatever folder it lies; `galen learn` and `galen model calibrate` go by the same.
Captures with the same series are copies of one recording, whatever they are called: the first whose label can be used is scored,
each other costs a line.")]
pub struct RunArgs {
    /// Folder of labelled captures, or suite file
    #[arg(value_name = "SUITE")]
    suite: PathBuf,
    /// Language model to use
    #[arg(long, conflicts_with = "no_model")]
    model: Option<String>,
    /// Go without a language model (the default)
    #[arg(long)]
    no_model: bool,
    /// Cite no knowledge
    #[arg(long)]
    no_knowledge: bool,
    /// Captures at a time; one where a model takes part
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Half to run; learning never sees the test half
    #[arg(long, value_enum, default_value_t = Which::All)]
    half: Which,
    /// File names are the causes (of captures without labels)
    #[arg(long)]
    labels_from_names: bool,
    /// Seed for choices that break ties
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// File to write: JSON lines, the first a header with everything needed to compute the run again
    #[arg(long, value_name = "RUN.jsonl")]
    out: PathBuf,
}

/// Runs a suite.
pub async fn run(global: &Global, args: RunArgs) -> Result<(), Failure> {
    let mut suite = Suite::open(&args.suite, args.labels_from_names)?;
    suite.keep(args.half);
    if suite.cases.is_empty() {
        return Err(Failure::input(format!("{} has no case in the {} half", args.suite.display(), args.half.word())));
    }
    let library = engine::library(&global.load()?)?;
    let provider = match &args.model {
        Some(name) => Some(engine::chosen(&global.load()?, name, 2, 120).await?),
        None => None,
    };
    let options = Options { seed: args.seed, knowledge: !args.no_knowledge, replay: true, ..Options::default() };
    let pinned = args.model.as_deref().zip(provider.as_deref());
    let header = Header {
        format: FORMAT,
        pins: pins::pins(suite.asked(args.half.word()), &library, pinned, &options),
        machine: pins::machine(),
        suite_path: args.suite.display().to_string(),
        jobs: at_a_time(args.jobs, provider.is_some()),
        cases: suite.cases.len(),
        figures: 0,
    };
    // Before captures are read, which takes a while.
    let out = Out::open(&args.out, &header)?;
    let known = |id: &str| id == "healthy" || library.catalog.get(id).is_some();
    let wanted = suite.without_twins(usize::from(header.jobs), &known)?;
    let out = out.go_on(&header, &wanted)?;
    if out.again > 0 {
        output::tell(&format!(
            "{} finished cases are taken out of the file: their captures or answers have changed, or an earlier one is the same recording",
            out.again
        ));
    }
    let worker = Worker { runtime: Handle::current(), library, provider, options };
    let left_out = work(wanted, &worker, usize::from(header.jobs), out)?;
    summary(global, &args.out)?;
    left_out.end(header.cases, "cases were left out")
}

/// Captures that are diagnosed at a time. A model answers in the order it is asked: one capture at a time keeps its answers
/// the same, and whoever asked for more is told.
pub fn at_a_time(jobs: u16, with_model: bool) -> u16 {
    if !with_model {
        return jobs;
    }
    if jobs > 1 {
        output::tell(&format!("with a model one capture is diagnosed at a time, so that its answers stay the same: not {jobs}"));
    }
    1
}

/// What every diagnosis of a run shares.
pub struct Worker {
    /// Where diagnoses wait for the model.
    pub runtime: Handle,
    /// Causes, knowledge, signals.
    pub library: Library,
    /// The model, if any.
    pub provider: Option<Arc<dyn Provider>>,
    /// Options.
    pub options: Options,
}

/// Diagnoses what is not finished yet, in order, and writes it. Returns what could not be used.
fn work(wanted: Vec<Wanted>, worker: &Worker, jobs: usize, mut out: Out) -> Result<LeftOut, Failure> {
    let done: BTreeSet<(String, String)> = out.done.cases.iter().map(|c| (c.dataset.clone(), c.case.clone())).collect();
    let known: HashSet<FailedCase> = out.done.failed.iter().cloned().collect();
    let bar = ProgressBar::new(wanted.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {per_sec} {eta} left {msg}") {
        bar.set_style(style);
    }
    let open: Vec<Wanted> = wanted.into_iter().filter(|(c, _)| !done.contains(&(c.dataset.clone(), c.id.clone()))).collect();
    bar.inc(done.len() as u64);
    let work = |(case, twin): &Wanted| match twin {
        Some(why) => Err(Failure::input(why)),
        None => one(case, worker).map_err(Failure::input),
    };
    let mut left_out = LeftOut::default();
    parallel::in_order(&open, jobs, work, |(case, _), result| {
        bar.inc(1);
        match result {
            Ok(line) => out.write(&Line::Case(Box::new(line)))?,
            Err(failure) => {
                left_out.add(&failure);
                let line = FailedCase { dataset: case.dataset.clone(), case: case.id.clone(), why: failure.to_string() };
                bar.suspend(|| output::tell(&format!("galen: {}: {}", line.case, line.why)));
                if !known.contains(&line) {
                    out.write(&Line::Failed(line))?;
                }
            }
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    out.finish()?;
    Ok(left_out)
}

/// A diagnosis as the run sees it.
struct Seen {
    report: Report,
    /// SHA-256 of its JSON: of the line that `galen replay --json` prints.
    sha256: String,
    labels: Vec<String>,
    span: Option<Window>,
    wall_ms: f64,
}

/// Reads and diagnoses one case. The labels are taken out of the capture first.
///
/// # Errors
/// One line: the capture cannot be read.
fn see(case: &Case, worker: &Worker) -> Result<Seen, String> {
    let read = file::read(&case.path);
    // The case is named already: the file's name would stand there twice.
    let shown = format!("{}: ", case.path.display());
    let mut capture = read.map_err(|e| e.to_string().replacen(&shown, "", 1))?;
    let labels = std::mem::take(&mut capture.manifest.labels);
    let started = Instant::now();
    let (prober, provider) = (Recorded(&capture), worker.provider.clone());
    let diagnosis = worker.runtime.block_on(diagnose(&capture, &worker.library, &prober, provider, &worker.options, &|_| {}));
    let wall_ms = started.elapsed().as_secs_f64() * 1000.0;
    let json = serde_json::to_string(&diagnosis.report).map_err(|e| e.to_string())?;
    Ok(Seen { sha256: hex(&Sha256::digest(json)), report: diagnosis.report, labels, span: capture.span(), wall_ms })
}

/// Diagnoses and measures one case.
///
/// # Errors
/// One line: the capture cannot be read, or its label cannot be used.
pub fn one(case: &Case, worker: &Worker) -> Result<CaseLine, String> {
    let seen = see(case, worker)?;
    let catalog = &worker.library.catalog;
    let right = answer(case, &seen.labels, &|id| id == "healthy" || catalog.get(id).is_some())?;
    let mut line = measure::case_line(&seen.report, right, &worker.library.chunks);
    line.case.clone_from(&case.id);
    line.dataset.clone_from(&case.dataset);
    line.half = Some(case.half);
    line.label_from_name = case.label_from_name;
    line.label_from_answer = matches!(&case.answer, Ok(Some(answer)) if !answer.causes.is_empty());
    line.capture_sha256 = case.sha256.clone().unwrap_or_default();
    line.span = seen.span;
    line.wall_ms = (seen.wall_ms * 1000.0).round() / 1000.0;
    line.report_sha256 = seen.sha256;
    Ok(line)
}

/// Prints the scores of a finished run.
fn summary(global: &Global, path: &std::path::Path) -> Result<(), Failure> {
    let run = super::read_run(path)?;
    let scores = scores(&run);
    let tree = hierarchy(&scores, None);
    if global.json {
        output::line(&json!({"cases": run.cases.len(), "failed": run.failed.len(), "scores": scores, "hierarchy": tree}).to_string());
        return Ok(());
    }
    output::line(&format!("{} cases, {} left out; gain {:.1} of 100 over trivial methods", run.cases.len(), run.failed.len(), tree.gain));
    for score in &scores {
        output::line(&format!(
            "{:<13} {:<24} {:<24} {:.3} (trivial {:.3}, {} cases)",
            score.capability.word(),
            score.task,
            score.dataset,
            score.value,
            score.baseline,
            score.cases
        ));
    }
    let told = calibration(&run);
    if told.cases == 0 {
        return Ok(());
    }
    output::line(&format!(
        "calibration of the first cause: Brier {:.3} (knowing only the accuracy {:.3}), expected calibration error {:.3}",
        told.brier, told.brier_of_base_rate, told.ece
    ));
    Ok(())
}

/// Reads a run's file.
///
/// # Errors
/// Input: it cannot be read or is no run.
pub fn read(path: &std::path::Path) -> Result<Run, Failure> {
    read_text(path).map(|(run, _)| run)
}

/// A run, and the text of its file.
///
/// # Errors
/// As [`read`].
pub fn read_text(path: &std::path::Path) -> Result<(Run, String), Failure> {
    let fail = |e: &dyn std::fmt::Display| Failure::input(format!("{}: {e}", path.display()));
    let text = out::whole_text(std::fs::read(path).map_err(|e| fail(&e))?).ok_or_else(|| fail(&"not a run of `galen bench`: no text"))?;
    let run = Run::parse(&text).map_err(|e| fail(&format!("not a run of `galen bench`: {e}")))?;
    Ok((run, text))
}
