//! `galen lab dbot` and `galen bench dbot`: D-Bot's anomaly specifications, recorded on a private server and scored.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use tokio::runtime::Handle;

use galen_agents::driver::Library;
use galen_agents::evaluation::{Score, dbot};
use galen_tools::store::file;

use super::{Global, replay};
use crate::failure::{Failure, LeftOut};
use crate::lab::{Otherwise, dbot as lab};
use crate::{engine, output, parallel};

/// Cases of the quick suite.
const QUICK: usize = 40;
/// Accuracy of D-Bot with GPT-4 in its paper, on cases with one cause and with several.
const PUBLISHED: (f64, f64) = (0.754, 0.655);

#[derive(Debug, Args)]
#[command(after_help = format!("{}\n\nExamples:
  galen lab dbot anomalies.jsonl --out quick/ --quick --diagnose
  galen lab dbot anomalies.jsonl --out all/ --all              (about five hours; a run that was stopped goes on)
  galen lab dbot anomalies.jsonl --out some/ --ids 4,12,456
  galen bench dbot quick/ --json", lab::RULE))]
pub struct DbotArgs {
    /// Specifications, one JSON object a line
    file: PathBuf,
    /// Folder of the captures; finished ones are kept, and refused where they were recorded otherwise
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The quick suite: forty specifications, in proportion to workloads and labels
    #[arg(long, conflicts_with_all = ["ids", "all"])]
    quick: bool,
    /// These specifications
    #[arg(long, value_delimiter = ',', value_name = "ID,..", conflicts_with = "all")]
    ids: Vec<u32>,
    /// All specifications
    #[arg(long)]
    all: bool,
    /// Servers at a time; more than one on the same CPUs disturb each other's signals of the host
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Diagnose and score what was recorded, as `galen bench dbot` does
    #[arg(long)]
    diagnose: bool,
}

/// Records the chosen specifications; one line each, and one about each line that cannot be used.
pub async fn record(global: &Global, args: DbotArgs) -> Result<(), Failure> {
    let text = std::fs::read_to_string(&args.file).map_err(|e| Failure::input(format!("{}: {e}", args.file.display())))?;
    let (specs, problems) = lab::read(&text).map_err(|e| Failure::fault(format!("{e:#}")))?;
    for problem in &problems {
        eprintln!("galen: {}: {problem}", args.file.display());
    }
    let chosen = choose(&args, specs)?;
    let request = lab::Request {
        specs: chosen,
        out: args.out.clone(),
        jobs: usize::from(args.jobs),
        phases: lab::Phases::default(),
        cpus: std::thread::available_parallelism().map_or(2, |n| n.get() as u32),
    };
    let failed = std::cell::Cell::new(0);
    let all = request.specs.len();
    let recording = lab::record(&request, |spec, outcome| {
        failed.set(failed.get() + usize::from(matches!(outcome, lab::Outcome::Failed(_))));
        told(global, spec, outcome);
    });
    let refused = |e: anyhow::Error| Failure { code: if e.is::<Otherwise>() { 2 } else { 4 }, message: format!("{e:#}") };
    recording.await.map_err(refused)?;
    if args.diagnose {
        bench(global, &BenchDbotArgs { dir: args.out, part: None, jobs: args.jobs }).await?;
    }
    match (failed.get(), problems.len()) {
        (0, 0) => Ok(()),
        (0, lines) => Err(Failure::input(format!("{lines} lines of {} could not be used; each is named above", args.file.display()))),
        (failed, _) => Err(Failure::target(format!("{failed} of {all} cases could not be recorded; each is named above"))),
    }
}

fn choose(args: &DbotArgs, specs: Vec<lab::Spec>) -> Result<Vec<lab::Spec>, Failure> {
    if specs.is_empty() {
        return Err(Failure::input(format!("{} holds no specification", args.file.display())));
    }
    let ids = match (args.quick, args.all, args.ids.is_empty()) {
        (true, ..) => lab::stratified(&specs, QUICK),
        (_, true, _) => return Ok(specs),
        (_, _, false) => args.ids.clone(),
        _ => return Err(Failure::usage("choose specifications: --quick, --ids ID,.. or --all")),
    };
    if let Some(unknown) = ids.iter().find(|id| !specs.iter().any(|spec| spec.id == **id)) {
        return Err(Failure::usage(format!("there is no specification {unknown} in {}", args.file.display())));
    }
    Ok(specs.into_iter().filter(|spec| ids.contains(&spec.id)).collect())
}

fn told(global: &Global, spec: &lab::Spec, outcome: &lab::Outcome) {
    let (state, path, seconds) = match outcome {
        lab::Outcome::Kept(path) => ("kept", Some(path), None),
        lab::Outcome::Recorded(path, seconds) => ("recorded", Some(path), Some(*seconds)),
        lab::Outcome::Failed(why) => {
            eprintln!("galen: specification {}: {why}", spec.id);
            ("failed", None, None)
        }
    };
    output::line(&if global.json {
        json!({"id": spec.id, "workload": spec.workload, "state": state, "file": path, "seconds": seconds}).to_string()
    } else {
        let took = seconds.map(|s| format!(" in {s:.0} s")).unwrap_or_default();
        format!("{:>4} {:<20} {state}{took}", spec.id, spec.workload)
    });
}

#[derive(Debug, Args)]
#[command(after_help = "Accuracy of a case is (right causes - 0.1 * wrong ones) / labels, 0 when negative, at most four causes
named. Beside it stands a method that knows no causes: it answers with the labels of most other cases
that have the same signal farthest from its baseline.

Example:
  galen bench dbot quick/ --json")]
pub struct BenchDbotArgs {
    /// Folder of captures that `galen lab dbot` recorded
    dir: PathBuf,
    /// Name of the part in the scores [default: the folder's name]
    #[arg(long)]
    part: Option<String>,
    /// Captures at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
}

/// Diagnoses a folder of recorded specifications and prints their scores.
pub async fn bench(global: &Global, args: &BenchDbotArgs) -> Result<(), Failure> {
    let library = engine::library(&global.load()?.data_dir)?;
    let files = replay::expand(std::slice::from_ref(&args.dir))?;
    let runtime = Handle::current();
    let (mut cases, mut left_out) = (Vec::new(), LeftOut::default());
    let work = |path: &PathBuf| runtime.block_on(one(path, &library));
    parallel::in_order(&files, usize::from(args.jobs), work, |path, result| {
        match result {
            Ok(case) => cases.push(case),
            Err(failure) => {
                let failure = failure.of(path);
                left_out.add(&failure);
                output::tell(&format!("galen: {failure}"));
            }
        }
        Ok(())
    })?;
    let folder = args.dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    print(global, &cases, &dbot::scores(&cases, args.part.as_deref().unwrap_or(&folder)));
    left_out.end(files.len(), "captures could not be scored")
}

async fn one(path: &Path, library: &Library) -> Result<dbot::Case, Failure> {
    let capture = file::read(path)?;
    if capture.manifest.labels.is_empty() {
        return Err(Failure::input(format!("{}: nobody has labelled it", path.display())));
    }
    Ok(dbot::examine(capture, library).await)
}

fn print(global: &Global, cases: &[dbot::Case], scores: &[Score]) {
    if global.json {
        for case in cases {
            let accuracy = dbot::accuracy(&case.named, &case.labels);
            output::line(&json!({"case": case.name, "labels": case.labels, "named": case.named, "accuracy": accuracy}).to_string());
        }
        for score in scores {
            output::line(&serde_json::to_string(score).unwrap_or_default());
        }
        let all = dbot::means(cases, |_| true);
        let summary =
            json!({"cases": all.cases, "accuracy": all.accuracy, "baseline": all.baseline, "first": all.first, "wrong": all.wrong});
        output::line(&summary.to_string());
        return;
    }
    for case in cases {
        let accuracy = dbot::accuracy(&case.named, &case.labels);
        output::line(&format!("{:<12} {accuracy:.2}  {} <- {}", case.name, case.labels.join(", "), case.named.join(", ")));
    }
    output::line(&format!("\n{:<44} {:>5} {:>9} {:>9} {:>6} {:>6}", "labels", "cases", "accuracy", "baseline", "first", "wrong"));
    let row = |name: &str, m: dbot::Means| {
        output::line(&format!("{name:<44} {:>5} {:>9.3} {:>9.3} {:>6.2} {:>6.2}", m.cases, m.accuracy, m.baseline, m.first, m.wrong));
    };
    for set in dbot::label_sets(cases) {
        row(&set.join(", "), dbot::means(cases, |labels| labels == set));
    }
    row("one cause", dbot::means(cases, |labels| labels.len() == 1));
    row("several causes", dbot::means(cases, |labels| labels.len() > 1));
    row("all", dbot::means(cases, |_| true));
    output::line(&format!("published, GPT-4: {:.3} for one cause, {:.3} for several", PUBLISHED.0, PUBLISHED.1));
}
