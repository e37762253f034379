//! `galen lab dbot`: D-Bot's anomaly specifications, recorded on a private server.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Global;
use super::bench::dbot as bench;
use crate::failure::Failure;
use crate::lab::{Folder, Otherwise, dbot as lab};
use crate::output;

/// Cases of the quick suite.
const QUICK: usize = 40;

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
    /// Diagnose and score the chosen specifications, as `galen bench dbot` does a folder; others in DIR are left alone
    #[arg(long)]
    diagnose: bool,
}

/// Records the chosen specifications; one line each, and one about each line that cannot be used.
pub async fn record(global: &Global, args: DbotArgs) -> Result<(), Failure> {
    let text = std::fs::read_to_string(&args.file).map_err(|e| Failure::input(format!("{}: {e}", args.file.display())))?;
    let (specs, problems) = lab::read(&text).map_err(|e| Failure::fault(format!("{e:#}")))?;
    for problem in &problems {
        output::tell(&format!("galen: {}: {problem}", args.file.display()));
    }
    let chosen = choose(&args, specs)?;
    let folder = Folder::open(&args.out).map_err(|e| Failure::usage(format!("{e:#}")))?;
    let request = lab::Request {
        specs: chosen,
        jobs: usize::from(args.jobs),
        phases: lab::Phases::default(),
        cpus: std::thread::available_parallelism().map_or(2, |n| n.get() as u32),
    };
    let (failed, captures) = (Cell::new(0), RefCell::new(BTreeSet::new()));
    let all = request.specs.len();
    let recording = lab::record(&request, &folder, |spec, outcome| {
        match outcome {
            lab::Outcome::Kept(path) | lab::Outcome::Recorded(path, _) => {
                captures.borrow_mut().insert(path.clone());
            }
            lab::Outcome::Failed(_) => failed.set(failed.get() + 1),
        }
        told(global, spec, outcome);
    });
    recording.await.map_err(refused)?;
    drop(folder);
    let captures = captures.into_inner();
    if args.diagnose && !captures.is_empty() {
        let only = Some(captures);
        bench::bench(global, &bench::BenchDbotArgs { dir: args.out, part: None, jobs: args.jobs, out: None, only }).await?;
    }
    match (failed.get(), problems.len()) {
        (0, 0) => Ok(()),
        (0, lines) => Err(Failure::input(format!("{lines} lines of {} could not be used; each is named above", args.file.display()))),
        (failed, _) => Err(Failure::target(format!("{failed} of {all} cases could not be recorded; each is named above"))),
    }
}

/// Why nothing more is recorded, with the exit codes of `galen lab record`.
fn refused(error: anyhow::Error) -> Failure {
    if error.is::<Otherwise>() { Failure::usage(error.to_string()) } else { Failure::fault(format!("{error:#}")) }
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
            output::tell(&format!("galen: specification {}: {why}", spec.id));
            ("failed", None, None)
        }
    };
    output::progress(&if global.json {
        json!({"id": spec.id, "workload": spec.workload, "state": state, "file": path, "seconds": seconds}).to_string()
    } else {
        let took = seconds.map(|s| format!(" in {s:.0} s")).unwrap_or_default();
        format!("{:>4} {:<20} {state}{took}", spec.id, spec.workload)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_recording_is_a_matter_of_usage_and_a_full_disk_one_of_the_machine() {
        let place = tempfile::tempdir().unwrap();
        let otherwise = Folder::open(place.path()).unwrap().otherwise("spec-0001", "size.rows: 300 / 400");
        assert_eq!(refused(otherwise.into()).code, 2);
        let full = anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::StorageFull)).context("the disk is full");
        assert_eq!(refused(full).code, crate::failure::FAULT);
    }
}
