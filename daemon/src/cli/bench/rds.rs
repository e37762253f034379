//! `galen bench rds`: RDS scenarios scored by their own answer keys.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use galen_agents::driver::{Library, Options, diagnose};
use galen_agents::evaluation::measured::{Measured, digest, scores};
use galen_agents::evaluation::rds::{Answer, Case, Rules, Verdict, baseline, measured, verdicts};
use galen_agents::evaluation::record::Run;
use galen_tools::probe::Recorded;

use super::copies::{Copies, whole};
use super::public::{Claimed, Read, Source};
use super::suite::Which;
use crate::cli::{Global, rds};
use crate::failure::Failure;
use crate::{engine, output};

/// Name that runs pin.
pub const SUITE: &str = "rds";

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen bench rds /data/rds
  galen bench rds /data/rds --out rds.jsonl
  galen bench report shop.jsonl dbsherlock.jsonl rds.jsonl --out leaderboard.html

A key (answer.yml) is opened by the scoring alone. The placebo is the share of the other
scenarios' reports that pass a key. A scenario of which the APIs say the same as of another, metrics,
events, statements, settings and alerts, is a copy of it: it costs a line and the exit code, and no score.

RUN.jsonl is written whole when all is measured; the same command measures everything again and
writes the file anew. A file of another run (other scenarios, release, texts that may be cited)
is refused.")]
pub struct RdsArgs {
    /// Folder of folders, each with the answers of AWS's APIs and an answer.yml
    dir: PathBuf,
    /// File to write: JSON lines for `compare`, `report` and `verify`, a header with pins, then one line a scenario
    #[arg(long, value_name = "RUN.jsonl")]
    out: Option<PathBuf>,
}

/// Imports, diagnoses and scores every scenario below a folder by its own `answer.yml`. A scenario that cannot be read costs a
/// line and the exit code.
pub async fn bench(global: &Global, args: &RdsArgs) -> Result<(), Failure> {
    let library = engine::library(&global.load()?)?;
    // Before the work, which takes a while.
    let out = Claimed::of(args.out.as_deref(), &source(&args.dir), &library, &options())?;
    let read = scenarios(&args.dir, &library).await?;
    let told = verdicts(&read.cases);
    let run = run(&args.dir, &read, &told, &library);
    let written = out.map_or(Ok(()), |out| out.finish(&run));
    print(global, &told, &run.measured)?;
    written?;
    read.left_out.end(read.listed, "scenarios could not be scored")
}

/// Measures what a run measured again.
///
/// # Errors
/// Input: the folder cannot be read.
pub async fn again(global: &Global, dir: &Path) -> Result<Run, Failure> {
    let library = engine::library(&global.load()?)?;
    let read = scenarios(dir, &library).await?;
    Ok(run(dir, &read, &verdicts(&read.cases), &library))
}

fn run(dir: &Path, read: &Read<Case>, told: &[Verdict], library: &Library) -> Run {
    let inputs = read.cases.iter().map(|case| (case.scenario.clone(), case.sha256.as_str()));
    read.run(source(dir).header(read, inputs, library, &options()), measured(&read.cases, told))
}

fn source(dir: &Path) -> Source<'_> {
    Source { suite: SUITE, path: dir, half: Which::All.word(), jobs: 1, parameters: &[] }
}

fn options() -> Options {
    Options { replay: true, ..Options::default() }
}

async fn scenarios(root: &Path, library: &Library) -> Result<Read<Case>, Failure> {
    let folders = rds::incidents(root)?;
    if folders.is_empty() {
        return Err(Failure::input(format!("{} holds no folder with JSON files", root.display())));
    }
    let (mut read, mut copies) = (Read::new(SUITE, folders.len()), Copies::default());
    for (at, folder) in folders.iter().enumerate() {
        // The folder itself may be the only scenario.
        let below = folder.strip_prefix(root).ok().filter(|below| !below.as_os_str().is_empty());
        let name = below.map_or_else(|| folder.file_name().unwrap_or_default().to_string_lossy(), |below| below.to_string_lossy());
        match scenario(folder, at, library).await {
            Ok((case, content)) => match copies.twin(Some(content), &name) {
                Some(why) => read.leave_out(&name, Failure::input(why).of(folder)),
                None => read.cases.push(Case { scenario: name.into_owned(), ..case }),
            },
            Err(failure) => read.leave_out(&name, failure),
        }
    }
    Ok(read)
}

/// Diagnoses one scenario, and only then opens its key; with what tells its content.
async fn scenario(folder: &Path, at: usize, library: &Library) -> Result<(Case, String), Failure> {
    let files = rds::files(folder)?;
    let capture = rds::capture(folder, &files, &format!("case-{:05}", at + 1))?;
    let diagnosis = diagnose(&capture, library, &Recorded(&capture), None, &options(), &|_| {}).await;
    let key = folder.join("answer.yml");
    let fail = |e: &dyn std::fmt::Display| Failure::input(format!("{}: {e}", key.display()));
    let text = std::fs::read_to_string(&key).map_err(|e| fail(&e))?;
    let rules = Rules::parse(&text).map_err(|e| fail(&e))?;
    let parts = files.iter().flat_map(|(name, bytes)| [name.as_bytes(), bytes.as_slice()]);
    let case = Case {
        scenario: String::new(),
        sha256: digest(parts.chain([text.as_bytes()])),
        rules,
        answer: Answer::of(&diagnosis.report),
        baseline: baseline(&capture),
    };
    Ok((case, whole(&capture)))
}

fn print(global: &Global, told: &[Verdict], measured: &[Measured]) -> Result<(), Failure> {
    for verdict in told {
        if global.json {
            output::line(&serde_json::to_string(verdict).map_err(|e| Failure::fault(e.to_string()))?);
            continue;
        }
        let word = |pass: bool| if pass { "pass" } else { "FAIL" };
        output::line(&format!(
            "{} {}: {}; baseline {} ({})",
            word(verdict.pass),
            verdict.scenario,
            verdict.causes.join(", "),
            word(verdict.baseline_pass),
            verdict.baseline_cause
        ));
        verdict.broken.iter().for_each(|rule| output::line(&format!("     {rule}")));
    }
    let pass = |of: &dyn Fn(&Verdict) -> bool| told.iter().filter(|v| of(v)).count();
    let (passed, trivial, category) = (pass(&|v| v.pass), pass(&|v| v.baseline_pass), pass(&|v| v.baseline_category));
    let (control, pairs) = (told.iter().map(|v| v.others_pass).sum::<usize>(), told.len() * told.len().saturating_sub(1));
    if global.json {
        let summary = json!({"suite": "rds", "cases": told.len(), "passed": passed, "baseline_passed": trivial,
            "baseline_category": category, "control_passed": control, "control_pairs": pairs});
        output::line(&summary.to_string());
        scores(measured).iter().filter_map(|s| serde_json::to_string(s).ok()).for_each(|s| output::line(&s));
    } else {
        output::line(&format!(
            "{passed} of {} pass; baseline (signal with the largest robust z): {trivial}, right category {category}; control (reports of other scenarios): {control} of {pairs} pairs pass",
            told.len()
        ));
    }
    Ok(())
}
