//! The command line: clap reads it, one file a command does the work.

mod bench;
mod capture;
mod client;
mod dbot;
mod density;
mod distil;
mod graph;
mod import;
mod knowledge;
mod lab;
mod learn;
mod misc;
mod model;
mod model_bench;
mod model_store;
mod rds;
mod replay;
mod report;
mod search;
mod server;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::failure::Failure;
use crate::{demo, output};

/// Galen diagnoses PostgreSQL: root causes with evidence, what was ruled out, remedies that were checked.
#[derive(Debug, Parser)]
#[command(name = "galen", version, arg_required_else_help = true, propagate_version = false, max_term_width = 100)]
#[command(after_help = "Examples:
  galen demo                                       watch it find a fault on a private server
  galen diagnose --dsn postgresql://galen@db/shop  look at a server now
  galen serve --config galen.toml                  watch servers, take alerts from Alertmanager
  galen ask \"why is checkout slow since 14:05?\"    ask the daemon
  galen replay captures/ --json                    diagnose recorded incidents again

Exit codes: 0 done, 2 usage, 3 configuration, 4 target unreachable or refused, 5 input unreadable,
6 model unavailable where one was demanded, 70 a fault of ours (or a demo whose fault was not named first),
128 and its number after a signal (130: interrupted).")]
pub struct Cli {
    /// Print JSON lines on standard output; everything else goes to standard error
    #[arg(long, global = true)]
    json: bool,
    /// Folder of the store (instead of the configuration's)
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Memory of the GPU that the model may use, such as 8GiB: what goes where is printed before it loads
    #[arg(long, global = true, value_name = "SIZE")]
    vram: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch servers, take alerts in, diagnose, answer
    Serve(server::ServeArgs),
    /// Inject a fault into a private server and watch the daemon find it
    Demo(DemoArgs),
    /// Look at a live server for a while and diagnose it
    Diagnose(capture::DiagnoseArgs),
    /// Write a capture of a live server, without a daemon
    Record(capture::RecordArgs),
    /// Diagnose captures again, offline and always the same
    Replay(replay::ReplayArgs),
    /// Compare reports of the same captures
    Report(report::ReportArgs),
    /// Turn incidents recorded by other tools into captures
    Import(import::ImportArgs),
    /// Fault laboratory: inject, diagnose, record labelled captures
    Lab(lab::LabArgs),
    /// Search the documents: words, names, codes, meaning
    Search(search::SearchArgs),
    /// What is known: documents, their sections, the graph of causes, signals, documents and remedies
    Knowledge(knowledge::KnowledgeArgs),
    /// Incidents of a running daemon
    Incidents(client::IncidentsArgs),
    /// Ask a running daemon about an incident
    Ask(client::AskArgs),
    /// Check or print a configuration
    Config(misc::ConfigArgs),
    /// Print the SQL of a least-privilege role
    InitRole(misc::InitRoleArgs),
    /// Language models: list, pull, add, verify, remove, plan, devices, quantize, calibrate, density
    Model(model::ModelArgs),
    /// Learn causal signatures from labelled captures
    Learn(learn::LearnArgs),
    /// Take documents in as knowledge, and follow their changes
    Ingest(knowledge::IngestArgs),
    /// Run, compare and report labelled suites; public benchmarks; speed
    Bench(bench::BenchArgs),
    /// Print a completion script
    Completions(misc::CompletionsArgs),
    /// Print the version
    Version,
    #[command(hide = true)]
    DocWorker(knowledge::WorkerArgs),
    #[command(hide = true, disable_help_flag = true)]
    LlmWorker {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen demo --fault bulk_delete --no-model
  galen demo --list

Ends with 0 when the report names the fault first, with 70 when it does not, with 6 when the model is not there or
damaged.")]
struct DemoArgs {
    /// Fault to inject; see --list
    #[arg(long, default_value = "missing_index")]
    fault: String,
    /// Language model to use [default: smollm2-135m]
    #[arg(long, conflicts_with = "no_model")]
    model: Option<String>,
    /// Go without a language model
    #[arg(long)]
    no_model: bool,
    /// Folder for report, capture and JSON
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Read statements and tables every 10 s, as a daemon does by default, not every 3 s
    #[arg(long)]
    as_shipped: bool,
    /// List the faults
    #[arg(long)]
    list: bool,
}

/// What every command may need of the global flags.
#[derive(Debug, Clone)]
struct Global {
    json: bool,
    data_dir: Option<PathBuf>,
    config: Option<PathBuf>,
    vram: Option<String>,
}

impl Global {
    fn load(&self) -> Result<crate::config::Config, Failure> {
        let mut config = crate::config::Config::load(self.config.as_deref())?;
        if let Some(dir) = &self.data_dir {
            config.data_dir.clone_from(dir);
        }
        if let Some(vram) = &self.vram {
            galen_agents::llm::plan::bytes(vram).map_err(|why| Failure::usage(format!("--vram: {why}")))?;
            config.model.vram = Some(vram.clone());
        }
        Ok(config)
    }

    /// The folder of model files; commands that need more of the configuration ask what they loaded.
    fn models_dir(&self) -> Result<PathBuf, Failure> {
        crate::config::Config::models_dir(self.config.as_deref())
    }
}

/// Runs a command.
///
/// # Errors
/// The failure that decides the exit code.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    let global = Global { json: cli.json, data_dir: cli.data_dir, config: cli.config, vram: cli.vram };
    let json_log = matches!(&cli.command, Command::Serve(args) if args.json_log() || cli.json);
    if !matches!(cli.command, Command::LlmWorker { .. }) {
        log(json_log, matches!(cli.command, Command::Serve(_)));
    }
    match cli.command {
        Command::Serve(args) => server::serve(&global, args).await,
        Command::Demo(args) => demonstrate(&global, args).await,
        Command::Diagnose(args) => capture::diagnose(&global, args).await,
        Command::Record(args) => capture::record(&global, args).await,
        Command::Replay(args) => replay::replay(&global, args).await,
        Command::Report(args) => report::report(&global, &args),
        Command::Import(args) => import::import(&global, &args),
        Command::Lab(args) => lab::lab(&global, args).await,
        Command::Search(args) => search::search(&global, &args),
        Command::Knowledge(args) => knowledge::knowledge(&global, &args),
        Command::Incidents(args) => client::incidents(&global, args).await,
        Command::Ask(args) => client::ask(&global, args).await,
        Command::Config(args) => misc::config(&global, &args),
        Command::InitRole(args) => misc::init_role(&global, &args),
        Command::Model(args) => model::model(&global, args).await,
        Command::Learn(args) => learn::learn(&global, &args),
        Command::Ingest(args) => knowledge::take_in(&global, args).await,
        Command::DocWorker(args) => knowledge::worker(&args),
        Command::Bench(args) => bench::bench(&global, args).await,
        Command::Completions(args) => {
            misc::completions(&args);
            Ok(())
        }
        Command::Version => {
            misc::version(&global);
            Ok(())
        }
        Command::LlmWorker { arguments } => {
            let code = tokio::task::spawn_blocking(move || galen_agents::llm::worker_main(&arguments)).await.unwrap_or(70);
            std::process::exit(code)
        }
    }
}

/// Logs go to standard error: `serve` from info on, the other commands from warnings on.
fn log(json: bool, daemon: bool) {
    use tracing_subscriber::EnvFilter;
    let level = if daemon { "info" } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    // A line that cannot be written is lost: to complain about it on the same stream would panic.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    let _ = if json { builder.json().try_init() } else { builder.with_ansi(output::log_colours()).try_init() };
}

async fn demonstrate(global: &Global, args: DemoArgs) -> Result<(), Failure> {
    if args.list {
        for fault in crate::lab::Scenario::list().map_err(|e| Failure::fault(e.to_string()))? {
            let shown =
                if global.json { serde_json::to_string(&fault).unwrap_or_default() } else { format!("{:<24} {}", fault.name, fault.title) };
            output::line(&shown);
        }
        return Ok(());
    }
    let model = if args.no_model { None } else { Some(args.model.unwrap_or_else(|| "smollm2-135m".to_owned())) };
    let models_dir = global.models_dir()?;
    demo::run(demo::Args { fault: args.fault, model, models_dir, out: args.out, as_shipped: args.as_shipped, json: global.json }).await
}

fn duration(text: &str) -> Result<Duration, String> {
    output::duration(text)
}
