//! `galen bench dbot`: D-Bot's specifications, as `galen lab dbot` recorded them, scored by the paper's accuracy.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use tokio::runtime::Handle;

use galen_agents::driver::{Library, Options};
use galen_agents::evaluation::dbot::{self, Case, Outcome};
use galen_agents::evaluation::measured::{Measured, digest, scores};
use galen_agents::evaluation::record::Run;
use galen_tools::store::file;

use super::public::{self, Read, Source};
use super::suite::Which;
use crate::cli::{Global, replay};
use crate::failure::Failure;
use crate::{engine, output, parallel};

/// Name that runs pin.
pub const SUITE: &str = "dbot";
/// Accuracy of D-Bot with GPT-4 in its paper, on cases with one cause and with several.
const PUBLISHED: (f64, f64) = (0.754, 0.655);

#[derive(Debug, Args)]
#[command(after_help = "Accuracy of a case is (right causes - 0.1 * wrong ones) / labels, 0 when negative, at most four causes
named. Beside it stands a method that knows no causes: it answers with the labels of most other cases
that have the same signal farthest from its baseline.

Examples:
  galen bench dbot quick/ --json
  galen bench dbot quick/ --out dbot.jsonl
  galen bench compare dbot.jsonl next/dbot.jsonl

RUN.jsonl is written whole when all is measured; the same command measures everything again and
writes the file anew. A file of another run (other captures, release, --part, texts that may be
cited) is refused.")]
pub struct BenchDbotArgs {
    /// Folder of captures that `galen lab dbot` recorded
    pub dir: PathBuf,
    /// Name of the part in the scores [default: the folder's name]
    #[arg(long)]
    pub part: Option<String>,
    /// Captures at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// File to write: JSON lines for `compare`, `report` and `verify`, a header with pins, then one line a case
    #[arg(long, value_name = "RUN.jsonl")]
    pub out: Option<PathBuf>,
}

/// Diagnoses a folder of recorded specifications and prints their scores.
pub async fn bench(global: &Global, args: &BenchDbotArgs) -> Result<(), Failure> {
    let library = engine::library(&global.load()?.data_dir)?;
    let read = cases(&args.dir, args.jobs, &library)?;
    // By its own name, however it is called from here.
    let place = args.dir.canonicalize().unwrap_or_else(|_| args.dir.clone());
    let folder = place.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let told = dbot::outcomes(&read.cases);
    let run = run(&args.dir, &read, &told, args.part.as_deref().unwrap_or(&folder), args.jobs, &library);
    let written = public::write(args.out.as_deref(), &run);
    print(global, &told, &run.measured);
    written?;
    read.left_out.end(read.listed, "captures could not be scored")
}

/// Measures what a run measured again.
///
/// # Errors
/// Input: the folder cannot be read.
pub async fn again(global: &Global, dir: &Path, part: &str, jobs: u16) -> Result<Run, Failure> {
    let library = engine::library(&global.load()?.data_dir)?;
    let read = cases(dir, jobs, &library)?;
    Ok(run(dir, &read, &dbot::outcomes(&read.cases), part, jobs, &library))
}

fn run(dir: &Path, read: &Read<Case>, told: &[Outcome<'_>], part: &str, jobs: u16, library: &Library) -> Run {
    let inputs = read.cases.iter().map(|case| (case.id.clone(), case.sha256.as_str()));
    let source = Source { suite: SUITE, path: dir, half: Which::All.word(), jobs, parameters: &[("part", part.to_owned())] };
    read.run(source.header(read, inputs, library, &options()), dbot::measured(told, part))
}

fn options() -> Options {
    Options { replay: true, ..Options::default() }
}

fn cases(dir: &Path, jobs: u16, library: &Library) -> Result<Read<Case>, Failure> {
    let files = replay::expand(&[dir.to_path_buf()])?;
    let mut read = Read::new(SUITE, files.len());
    let runtime = Handle::current();
    let id = |path: &Path| path.strip_prefix(dir).unwrap_or(path).with_extension("").to_string_lossy().into_owned();
    let work = |path: &PathBuf| runtime.block_on(one(path, library));
    parallel::in_order(&files, usize::from(jobs), work, |path, result| {
        match result {
            Ok(case) => read.cases.push(Case { id: id(path), ..case }),
            Err(failure) => read.leave_out(&id(path), failure.of(path)),
        }
        Ok(())
    })?;
    Ok(read)
}

async fn one(path: &Path, library: &Library) -> Result<Case, Failure> {
    let capture = file::read(path)?;
    if capture.manifest.labels.is_empty() {
        return Err(Failure::input(format!("{}: nobody has labelled it", path.display())));
    }
    let bytes = std::fs::read(path).map_err(|e| Failure::input(format!("{}: {e}", path.display())))?;
    Ok(Case { sha256: digest([bytes.as_slice()]), ..dbot::examine(capture, library, &options()).await })
}

fn print(global: &Global, told: &[Outcome<'_>], measured: &[Measured]) {
    if global.json {
        for Outcome { case, accuracy, .. } in told {
            output::line(&json!({"case": case.name, "labels": case.labels, "named": case.named, "accuracy": accuracy}).to_string());
        }
        for score in scores(measured) {
            output::line(&serde_json::to_string(&score).unwrap_or_default());
        }
        let all = dbot::means(told, |_| true);
        let summary =
            json!({"cases": all.cases, "accuracy": all.accuracy, "baseline": all.baseline, "first": all.first, "wrong": all.wrong});
        output::line(&summary.to_string());
        return;
    }
    for Outcome { case, accuracy, .. } in told {
        output::line(&format!("{:<12} {accuracy:.2}  {} <- {}", case.name, case.labels.join(", "), case.named.join(", ")));
    }
    output::line(&format!("\n{:<44} {:>5} {:>9} {:>9} {:>6} {:>6}", "labels", "cases", "accuracy", "baseline", "first", "wrong"));
    let row = |name: &str, m: dbot::Means| {
        output::line(&format!("{name:<44} {:>5} {:>9.3} {:>9.3} {:>6.2} {:>6.2}", m.cases, m.accuracy, m.baseline, m.first, m.wrong));
    };
    for set in dbot::label_sets(told) {
        row(&set.join(", "), dbot::means(told, |labels| labels == set));
    }
    row("one cause", dbot::means(told, |labels| labels.len() == 1));
    row("several causes", dbot::means(told, |labels| labels.len() > 1));
    row("all", dbot::means(told, |_| true));
    output::line(&format!("published, GPT-4: {:.3} for one cause, {:.3} for several", PUBLISHED.0, PUBLISHED.1));
}
