//! `galen bench`: suites of labelled captures run, compared and reported; pass rates; the speed budget.

mod compare;
pub mod copies;
pub mod dbot;
mod dbsherlock;
mod grow;
mod measure;
mod out;
mod pass_until;
mod pins;
mod public;
pub mod questions;
mod rds;
mod report;
mod resume;
mod retrieval;
mod run;
mod speed;
pub mod suite;
mod verify;

use run::read as read_run;

use clap::{Args, Subcommand};

use super::Global;
use crate::failure::Failure;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen bench run captures/ --no-model --jobs 2 --out plain.jsonl
  galen bench run captures/ --model qwen2.5-coder-1.5b --half test --out model.jsonl
  galen bench compare plain.jsonl model.jsonl
  galen bench report plain.jsonl model.jsonl --out leaderboard.html
  galen bench verify plain.jsonl
  galen bench dbsherlock /data/dbsherlock --out dbsherlock.jsonl
  galen bench report plain.jsonl dbsherlock.jsonl rds.jsonl --out leaderboard.html
  galen bench replay")]
pub struct BenchArgs {
    #[command(subcommand)]
    action: Action,
}

/// One arm a benchmark; each has a file.
#[derive(Debug, Subcommand)]
enum Action {
    /// Diagnose a suite of labelled captures into a file of JSON lines; run it again to go on after an interruption
    Run(run::RunArgs),
    /// Compare two runs task by task, with confidence intervals, and list the cases that changed
    Compare(compare::CompareArgs),
    /// Write a leaderboard of runs as one HTML page
    Report(report::ReportArgs),
    /// Diagnose the cases of a run again and say which reports differ
    Verify(verify::VerifyArgs),
    /// Pass rates of weak models: sample until so many answers are right
    PassUntil(pass_until::PassUntilArgs),
    /// Recorded MySQL incidents: detection, root causes by learnt signatures, and the controls beside them
    Dbsherlock(dbsherlock::DbsherlockArgs),
    /// Accuracy on D-Bot's specifications, recorded by `galen lab dbot`
    Dbot(dbot::BenchDbotArgs),
    /// RDS scenarios, scored by their own answer keys
    Rds(rds::RdsArgs),
    /// Milliseconds to read and diagnose a capture without a model
    Replay(speed::ReplayArgs),
    /// How well and how fast the right section of the documents is found
    Retrieval(retrieval::RetrievalArgs),
    /// Grow a set of questions for `bench retrieval` from a few, by templates or by a model
    Questions(grow::GrowArgs),
    /// Milliseconds until an alert is durable
    Intake(speed::IntakeArgs),
}

/// `galen bench`.
pub async fn bench(global: &Global, args: BenchArgs) -> Result<(), Failure> {
    match args.action {
        Action::Run(args) => run::run(global, args).await,
        Action::Compare(args) => compare::compare(global, &args),
        Action::Report(args) => report::report(global, &args),
        Action::Verify(args) => verify::verify(global, args).await,
        Action::PassUntil(args) => pass_until::pass_until(global, args).await,
        Action::Dbsherlock(args) => dbsherlock::dbsherlock(global, &args).await,
        Action::Dbot(args) => dbot::bench(global, &args).await,
        Action::Rds(args) => rds::bench(global, &args).await,
        Action::Replay(args) => speed::replay(global, args).await,
        Action::Retrieval(args) => retrieval::retrieval(global, &args),
        Action::Questions(args) => grow::questions(global, args).await,
        Action::Intake(args) => speed::intake(global, &args),
    }
}
