//! `galen bench dbsherlock`: the benchmark of recorded MySQL incidents, with its controls, in one command.

use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use galen_agents::driver::{Library, Options};
use galen_agents::evaluation::Score;
use galen_agents::evaluation::dbsherlock::{CaseRow, Recording, Stage, cases, how, load, measure, reports};
use galen_agents::evaluation::measured::{Measured, scores};
use galen_agents::evaluation::record::{BY_DATASET, Header, Run};
use galen_tools::model::Window;
use galen_tools::signals::SignalTable;

use super::out::Out;
use super::public::{Read, Source};
use crate::cli::Global;
use crate::failure::Failure;
use crate::{engine, output};

/// Name that runs pin.
pub const SUITE: &str = "dbsherlock";

/// Options of the benchmark.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  galen bench dbsherlock /data/dbsherlock
  galen bench dbsherlock /data/dbsherlock --k 3 --json
  galen bench dbsherlock /data/dbsherlock --out dbsherlock.jsonl
  galen bench compare dbsherlock.jsonl next/dbsherlock.jsonl

DIR holds manifest.json and the recordings it names (CSV, perhaps gzipped). `test`: learnt from
one half of the single cases, tested on the other; the lowest bit of the first byte of SHA-256
over `dbsherlock_single:CLASS/NUMBER` decides. `leave_one_out`: each case tested with what all
others teach; its own class then has one case less. The placebo is the same method fed only rows
from before the anomaly; of a window, one of the right length anywhere.

RUN.jsonl is written whole when all is measured: of a run that is interrupted nothing is kept.
The same command measures everything again and writes the file anew. A file of another run
(other recordings, release, --k) is refused.")]
pub struct DbsherlockArgs {
    /// Folder of the benchmark
    dir: PathBuf,
    /// Most cases a class is learnt from
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=1000))]
    k: u16,
    /// Print what became of each case instead; of the learn half alone, by signatures of the other cases in it
    #[arg(long)]
    cases: bool,
    /// File to write: JSON lines for `compare`, `report` and `verify`, a header with pins, then one line a case and figure
    #[arg(long, value_name = "RUN.jsonl", conflicts_with = "cases")]
    out: Option<PathBuf>,
}

/// A figure as it is printed.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    score: Score,
    how: &'static str,
}

/// Runs the benchmark and prints one row a figure. A recording that cannot be used costs a line and the exit code.
pub async fn dbsherlock(global: &Global, args: &DbsherlockArgs) -> Result<(), Failure> {
    let read = open(&args.dir)?;
    if args.cases {
        print_cases(global, &read.cases, args.k)?;
        return read.left_out.end(read.listed, "recordings could not be used");
    }
    let library = plain()?;
    let header = header(&args.dir, args.k, &read, &library);
    // Before the work, which takes a while.
    let out = args.out.as_ref().map(|path| Out::claim(path, &header)).transpose()?;
    let run = read.run(header, all(&read.cases, args.k, &library).await);
    let written = out.map_or(Ok(()), |out| out.finish_with(&run));
    print(global, &run.measured)?;
    written?;
    read.left_out.end(read.listed, "recordings could not be used")
}

/// Measures what a run measured again, without telling anything but what cannot be used.
///
/// # Errors
/// Input: the recordings cannot be read.
pub async fn again(dir: &Path, k: u16) -> Result<Run, Failure> {
    let (read, library) = (open(dir)?, plain()?);
    Ok(read.run(header(dir, k, &read, &library), all(&read.cases, k, &library).await))
}

fn open(dir: &Path) -> Result<Read<Recording>, Failure> {
    let (cases, flaws) = load(dir).map_err(Failure::input)?;
    let mut read = Read::new(SUITE, cases.len() + flaws.len());
    read.cases = cases;
    flaws.into_iter().for_each(|flaw| read.leave_out(&flaw.file, Failure::input(flaw.why)));
    if read.cases.is_empty() {
        return Err(Failure::input(format!("{}: none of the {} recordings in its manifest can be used", dir.display(), read.listed)));
    }
    Ok(read)
}

/// What the benchmark knows before it learns: the shipped causes and signals, no texts, no signatures of this machine.
fn plain() -> Result<Library, Failure> {
    Ok(Library { catalog: engine::builtin()?, signals: SignalTable::builtin(), ..Library::default() })
}

fn options() -> Options {
    Options { replay: true, knowledge: false, ..Options::default() }
}

fn header(dir: &Path, k: u16, read: &Read<Recording>, library: &Library) -> Header {
    let inputs = read.cases.iter().map(|r| (r.case(), r.sha256.as_str()));
    Source { suite: SUITE, path: dir, half: BY_DATASET, jobs: 1, parameters: &[("k", k.to_string())] }.header(
        read,
        inputs,
        library,
        &options(),
    )
}

/// All figures, with a progress bar.
async fn all(recordings: &[Recording], k: u16, library: &Library) -> Vec<Measured> {
    let bar = ProgressBar::new(recordings.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {elapsed}") {
        bar.set_style(style);
    }
    let mut measured = measure(recordings, usize::from(k), &library.signals, &|stage| {
        bar.set_message(if stage == Stage::Looked { "recordings" } else { "explanations" });
        if bar.position() == bar.length().unwrap_or(0) {
            bar.inc_length(1);
        }
        bar.inc(1);
    });
    bar.set_message("reports");
    measured.extend(reports(recordings, usize::from(k), library, &options(), &measured).await);
    bar.finish_and_clear();
    measured
}

fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|e| Failure::fault(e.to_string()))
}

fn print_cases(global: &Global, recordings: &[Recording], k: u16) -> Result<(), Failure> {
    for case in cases(recordings, usize::from(k), &SignalTable::builtin()) {
        output::line(&if global.json { json(&case)? } else { case_line(&case) });
    }
    Ok(())
}

fn print(global: &Global, measured: &[Measured]) -> Result<(), Failure> {
    if !global.json {
        output::line(&format!("{:<20} {:<40} {:>5} {:>7} {:>7} {:>8}", "task", "data set", "cases", "galen", "simple", "placebo"));
    }
    for score in scores(measured) {
        let how = how(&score.task);
        output::line(&if global.json { json(&Row { score, how })? } else { line(&score) });
    }
    if !global.json {
        notes();
    }
    Ok(())
}

fn line(score: &Score) -> String {
    let Score { task, dataset, value, baseline, cases, .. } = score;
    let placebo = score.placebo.map_or_else(|| "-".to_owned(), |p| format!("{p:.3}"));
    format!("{task:<20} {dataset:<40} {cases:>5} {value:>7.3} {baseline:>7.3} {placebo:>8}")
}

fn case_line(row: &CaseRow) -> String {
    let window = |w: Window| format!("{}-{}", w.start / 1000, w.end / 1000);
    let found = row.found.map_or("nothing".to_owned(), window);
    let [ours, simple] = row.iou;
    format!(
        "{:<40} {:>9} found {found:>9} IoU {ours:.2} (simple {simple:.2}); injected {}; named {}; simple {}",
        row.case,
        window(row.abnormal),
        row.injected.join(", "),
        row.named.join(", "),
        row.simple.join(", ")
    )
}

fn notes() {
    output::tell(
        "iou: against the given windows. top1, top2, recall_at_3: after own detection. top1_5s: rows up to 5 s after the onset.\n\
         session_leak is no method of ours: it tells the class from levels before the anomaly alone.\n\
         report_top1: first root cause of the whole diagnosis; report_top1_unlearnt: the same without signatures.\n\
         placebo: fed only rows from before the anomaly; of iou: a window of the right length, mean over all places.",
    );
}
