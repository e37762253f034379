//! `galen lab`: faults injected on purpose, diagnosed on the spot or recorded as labelled captures.

mod record;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::json;

use galen_agents::driver::{Library, Options, diagnose};
use galen_agents::evaluation::record::Answer;
use galen_agents::report::terminal;
use galen_tools::probe::Recorded as Answers;

use super::bench::copies::{Copies, content};
use super::bench::suite::agreed;
use super::{Global, duration};
use crate::failure::Failure;
use crate::lab::check::{self, Checked, Standing};
use crate::lab::suite::Suite;
use crate::lab::{self, Cluster, Folder, Parameters, Phase, Phases, Recorded, Run, Scenario, batch, network};
use crate::signals::Signals;
use crate::{engine, output};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen lab list --json
  galen lab run missing_index --param clients=5
  galen lab record --suite quick --out captures/
  galen replay captures/ --json > reports.jsonl")]
pub struct LabArgs {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Name every scenario with its causes and parameters
    List(ListArgs),
    /// Inject a fault into a private server, diagnose it, show both
    Run(RunArgs),
    /// Record scenarios as labelled captures
    Record(record::RecordArgs),
    /// Run D-Bot's anomaly specifications for real, record and score them
    Dbot(super::dbot::DbotArgs),
    /// Diagnose recorded cases and compare what is named with what was injected
    Check(CheckArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only the scenarios of this suite
    #[arg(long, value_name = "NAME|FILE.toml")]
    suite: Option<String>,
    /// Name the suites instead
    #[arg(long, conflicts_with = "suite")]
    suites: bool,
    /// Name the causes of the catalog that no scenario produces, and why
    #[arg(long, conflicts_with_all = ["suite", "suites"])]
    left_out: bool,
}

#[derive(Debug, Args)]
struct Shape {
    /// Calm before the fault; longer than the fault, since the detector takes the longer part for the ordinary day
    #[arg(long, default_value = "45s", value_parser = duration, value_name = "TIME")]
    baseline: Duration,
    /// How long the fault is at work
    #[arg(long, default_value = "25s", value_parser = duration, value_name = "TIME")]
    duration: Duration,
    /// Seed of the clients' random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder of initdb and postgres [default: the newest that is installed]
    #[arg(long, value_name = "DIR")]
    server_bin: Option<PathBuf>,
}

impl Shape {
    fn run(&self, parameters: Parameters, seed: u64) -> Run {
        let phases = Phases { baseline: self.baseline, anomaly: self.duration, ..Phases::default() };
        Run { parameters, phases, seed }
    }
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Scenario, or a .toml file of your own
    #[arg(value_name = "NAME|FILE.toml")]
    scenario: String,
    /// Value of a parameter, as in --param clients=5
    #[arg(long = "param", value_name = "NAME=NUMBER", value_parser = parameter)]
    parameters: Vec<(String, i64)>,
    #[command(flatten)]
    shape: Shape,
    /// Keep capture and answer in this folder; a finished case there is not written over
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Run on this server, as its superuser, instead of on a private one; needs --i-own-this-server
    #[arg(long, value_name = "DSN", requires = "i_own_this_server", conflicts_with = "server_bin")]
    dsn: Option<String>,
    /// The server of --dsn may be harmed: faults lock it, load it and take its connections until they are taken out again
    #[arg(long)]
    i_own_this_server: bool,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Folders or files that `galen lab record` wrote
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
}

fn parameter(text: &str) -> Result<(String, i64), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=NUMBER"))?;
    let number = value.trim().parse().map_err(|_| format!("`{value}` is not a whole number"))?;
    Ok((name.trim().to_owned(), number))
}

/// Runs the subcommand; Ctrl-C stops and removes every server that it started.
pub async fn lab(global: &Global, args: LabArgs) -> Result<(), Failure> {
    // On somebody's server an interrupted run has to clean up: it listens for itself.
    let listens = matches!(&args.command, LabCommand::Run(run) if run.dsn.is_some());
    let work = async {
        match args.command {
            LabCommand::List(args) => list(global, &args),
            LabCommand::Run(args) => run(global, args).await,
            LabCommand::Record(args) => record::record(global, args).await,
            LabCommand::Dbot(args) => super::dbot::record(global, args).await,
            LabCommand::Check(args) => check(global, &args).await,
        }
    };
    if listens {
        return work.await;
    }
    let mut signals = Signals::listen()?;
    tokio::select! {
        done = work => done,
        ending = signals.next() => Err(ending.failure("; the lab's servers were stopped and removed, finished cases stay")),
    }
}

fn usage(error: anyhow::Error) -> Failure {
    Failure::usage(format!("{error:#}"))
}

fn list(global: &Global, args: &ListArgs) -> Result<(), Failure> {
    if args.suites {
        for (name, suite) in Suite::list().map_err(usage)? {
            let cases = suite.expand().map_err(usage)?.len();
            output::line(&match global.json {
                true => json!({"name": name, "title": suite.title, "cases": cases}).to_string(),
                false => format!("{name:<12} {cases:>3} cases  {}", suite.title),
            });
        }
        return Ok(());
    }
    if args.left_out {
        for cause in lab::left_out().map_err(|e| Failure::fault(format!("{e:#}")))? {
            output::line(&match global.json {
                true => json!({"cause": cause.id, "why": cause.why}).to_string(),
                false => format!("{:<20} {}", cause.id, cause.why),
            });
        }
        return Ok(());
    }
    let faults = match &args.suite {
        Some(name) => Suite::load(name).and_then(|suite| suite.expand()).map_err(usage)?.into_iter().map(|(it, _)| it.fault).collect(),
        None => Scenario::list().map_err(|e| Failure::fault(format!("{e:#}")))?,
    };
    for fault in faults {
        output::line(&match global.json {
            true => serde_json::to_string(&fault).map_err(|e| Failure::fault(e.to_string()))?,
            false => format!("{:<10} {:<32} {}", fault.schema, fault.name, fault.title),
        });
    }
    Ok(())
}

async fn run(global: &Global, args: RunArgs) -> Result<(), Failure> {
    let scenario = Scenario::load(&args.scenario).map_err(usage)?;
    let parameters: Parameters = args.parameters.into_iter().collect();
    scenario.fault.script(&parameters).map_err(usage)?;
    if args.dsn.is_some() {
        scenario.may_be_adopted(&parameters).map_err(usage)?;
    } else if scenario.narrows_network(&parameters) {
        network::enter().map_err(lab_failure)?;
    }
    let folder = args.out.as_deref().map(Folder::open).transpose().map_err(usage)?;
    let plan = args.shape.run(parameters, args.shape.seed);
    let case = plan.case(&scenario.fault.name);
    if let Some(folder) = &folder {
        folder.vacant(&case).map_err(|e| Failure::usage(e.to_string()))?;
    }
    let library = engine::library(&global.load()?)?;
    output::tell(&format!("{}: {}", scenario.fault.name, scenario.fault.title));
    let began = Instant::now();
    let say = |phase: Phase| output::tell(&format!("[{:>3} s] {}", began.elapsed().as_secs(), phase.words()));
    let recorded = match &args.dsn {
        None => batch::fresh(&scenario, &plan, args.shape.server_bin, say).await,
        Some(dsn) => handed_over(dsn, &scenario, &plan, say).await,
    };
    let recorded = recorded.map_err(lab_failure)?;
    if let Some(folder) = &folder {
        folder.save(&case, &recorded.capture, &recorded.answer).map_err(|e| Failure::fault(format!("{e:#}")))?;
    }
    let capture = &recorded.capture;
    let options = Options { replay: true, ..Options::default() };
    let report = diagnose(capture, &library, &Answers(capture), None, &options, &|_| {}).await.report;
    if global.json {
        output::line(&serde_json::to_string(&report).map_err(|e| Failure::fault(e.to_string()))?);
    } else {
        output::text(&terminal::render(&report, output::colours(), output::width()));
    }
    let named: Vec<&str> = report.root_causes.iter().map(|it| it.cause.as_str()).collect();
    let named = if named.is_empty() { "none".to_owned() } else { named.join(", ") };
    output::tell(&format!("injected: {}; named: {named}", recorded.answer.causes.join(", ")));
    let load = &recorded.answer.fault;
    let last = load.last_error.as_deref().map(|error| format!(", the last: {error}")).unwrap_or_default();
    output::tell(&format!("the fault's clients ran {} statements, {} failed{last}", load.statements, load.errors));
    Ok(())
}

/// A run on somebody's server, which is left as it was also when the run fails or is interrupted.
async fn handed_over(dsn: &str, scenario: &Scenario, plan: &Run, say: impl Fn(Phase)) -> anyhow::Result<Recorded> {
    let mut signals = Signals::listen().map_err(|e| anyhow::anyhow!(e.message))?;
    let cluster = Cluster::adopt(dsn, scenario, &plan.parameters).await?;
    let recorded = tokio::select! {
        recorded = lab::record(&cluster, scenario, plan, say) => recorded,
        _ = signals.next() => Err(anyhow::anyhow!("interrupted; what the lab made on the server was removed")),
    };
    if recorded.is_err() {
        // The fault's own teardown has not run.
        scenario.fault.undo(&cluster, &plan.parameters).await;
    }
    cluster.stop().await;
    recorded
}

async fn check(global: &Global, args: &CheckArgs) -> Result<(), Failure> {
    let library = engine::library(&global.load()?)?;
    let (mut first, mut named, mut all, mut failed) = (0, 0, 0, 0);
    if !global.json {
        output::line("| case | injected | named | standing | culprits | window IoU |\n|---|---|---|---|---|---|");
    }
    let mut copies = Copies::default();
    for path in super::replay::expand(&args.paths)? {
        let row = match checked(&path, &library, &mut copies).await {
            Ok(row) => row,
            Err(error) => {
                failed += 1;
                output::tell(&format!("galen: {error:#}"));
                continue;
            }
        };
        all += 1;
        named += usize::from(row.standing >= Standing::Named);
        first += usize::from(row.standing == Standing::First);
        output::line(&if global.json { serde_json::to_string(&row).map_err(|e| Failure::fault(e.to_string()))? } else { table_row(&row) });
    }
    output::tell(&format!("{first} of {all} named first, {named} named"));
    match failed {
        0 => Ok(()),
        failed => Err(Failure::input(format!("{failed} cases could not be used; each is named above"))),
    }
}

/// Checks a case that its capture's own label does not contradict, once however many copies of it there are.
async fn checked(path: &Path, library: &Library, copies: &mut Copies) -> anyhow::Result<Checked> {
    let (capture, row) = check::check(path, library).await?;
    let told = Answer { causes: row.expected.clone(), ..Answer::default() };
    let known = |id: &str| id == "healthy" || library.catalog.get(id).is_some();
    let place = path.display();
    agreed(told, &capture.manifest.labels, None, &known).map_err(|why| anyhow::anyhow!("{place}: {why}"))?;
    match copies.twin(content(&capture), &place.to_string()) {
        Some(why) => Err(anyhow::anyhow!("{place}: {why}")),
        None => Ok(row),
    }
}

fn table_row(row: &Checked) -> String {
    let named: Vec<String> = row.named.iter().map(|(cause, p)| format!("{cause} {:.0} %", p * 100.0)).collect();
    let standing = match row.standing {
        Standing::First => "first",
        Standing::Named => "named",
        Standing::Missed => "missed",
    };
    let culprits = if row.culprits.1 == 0 { "-".to_owned() } else { format!("{}/{}", row.culprits.0, row.culprits.1) };
    let iou = row.window_iou.map_or("-".to_owned(), |iou| format!("{iou:.2}"));
    let named = if named.is_empty() { "nothing".to_owned() } else { named.join(", ") };
    format!("| {} | {} | {named} | {standing} | {culprits} | {iou} |", row.case, row.expected.join(", "))
}

fn lab_failure(error: anyhow::Error) -> Failure {
    Failure::target(format!("{error:#}"))
}
