//! `galen record` and `galen diagnose`: a live server, without a daemon.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use galen_agents::driver::{Diagnosis, Library, Options, Progress, diagnose as examine};
use galen_agents::llm::Provider;
use galen_agents::report::{html, terminal};
use galen_tools::capture::{Capture, Missing, TARGET};
use galen_tools::detect::{self, DetectOptions};
use galen_tools::model::Alert;
use galen_tools::observe::{Scene, statements::advice};
use galen_tools::probe::{Prober, Recorded};
use galen_tools::signals::SignalTable;
use galen_tools::sources::pg::{self, Intervals, PgConfig, PgProber, SourceError, SourceErrorKind};
use galen_tools::store::file;

use super::{Global, duration};
use crate::failure::Failure;
use crate::signals::Signals;
use crate::{engine, output};

#[derive(Debug, Args)]
struct Place {
    /// Connection string; better set GALEN_DSN than show a password to `ps`
    #[arg(long, env = "GALEN_DSN", hide_env_values = true)]
    dsn: Option<String>,
    /// Name of a target of the configuration
    #[arg(long, conflicts_with = "dsn")]
    target: Option<String>,
    /// Work as a superuser when the role is one
    #[arg(long)]
    allow_superuser: bool,
}

impl Place {
    fn config(&self, global: &Global) -> Result<PgConfig, Failure> {
        let mut config = if let Some(name) = &self.target {
            let all = global.load()?;
            let found = all.targets.iter().find(|t| t.name == *name);
            let target = found.ok_or_else(|| Failure::usage(format!("there is no target `{name}` in the configuration")))?;
            crate::target::pg_config(target)
        } else {
            let dsn = self.dsn.clone().ok_or_else(|| Failure::usage("name a server: --dsn DSN, GALEN_DSN, or --target NAME".to_owned()))?;
            PgConfig::new("target", dsn)
        };
        config.allow_superuser |= self.allow_superuser;
        config.intervals = Intervals::brisk();
        Ok(config)
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  GALEN_DSN=postgresql://galen@db/shop galen record --duration 90s --out before-deploy.galen
  galen replay before-deploy.galen")]
pub struct RecordArgs {
    #[command(flatten)]
    place: Place,
    /// How long to record
    #[arg(long, default_value = "90s", value_parser = duration)]
    duration: Duration,
    /// File to write
    #[arg(long, value_name = "FILE.galen")]
    out: PathBuf,
}

/// Records; Ctrl-C ends early and still writes.
pub async fn record(global: &Global, args: RecordArgs) -> Result<(), Failure> {
    let config = args.place.config(global)?;
    output::writable(&args.out)?;
    let mut signals = Signals::listen()?;
    let mut capture = watch(config.clone(), args.duration, &mut signals).await?;
    capture.manifest.name = args.out.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    file::write(&capture, &args.out)?;
    let freezing = async {
        match PgProber::connect(&config, &capture).await {
            Ok(prober) => freeze(&mut capture, &prober).await,
            Err(error) => output::tell(&format!("galen: plans were not recorded: {error}")),
        }
    };
    signals.unless(freezing).await.map_err(|stopped| kept(stopped, &args.out, "without plans"))?;
    file::write(&capture, &args.out)?;
    summarise(global, &capture, &args.out);
    Ok(())
}

/// Says what an interrupted command leaves.
fn kept(stopped: Failure, out: &Path, how: &str) -> Failure {
    Failure { message: format!("{}; {} holds what was seen, {how}", stopped.message, out.display()), ..stopped }
}

/// Freezes the answers that a diagnosis of this capture would ask for.
async fn freeze(capture: &mut Capture, prober: &dyn Prober) {
    let detection = detect::detect(capture, &SignalTable::builtin(), &DetectOptions::default());
    let calls = advice::calls(&Scene { capture, detection: &detection, prober: &Recorded(capture) });
    pg::freeze_answers(capture, prober, &calls).await;
}

/// Records with a progress bar. The first signal ends it early with what was seen, or with nothing while the server
/// has not answered yet.
async fn watch(config: PgConfig, time: Duration, signals: &mut Signals) -> Result<Capture, Failure> {
    let bar = ProgressBar::new(time.as_secs());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} s {msg}") {
        bar.set_style(style);
    }
    bar.set_message("watching; Ctrl-C ends early and keeps what was seen");
    let stop = AtomicBool::new(false);
    let recording = pg::record(config, time, |elapsed| {
        bar.set_position(elapsed.as_secs());
        !stop.load(Ordering::Relaxed)
    });
    tokio::pin!(recording);
    let mut stopped = None;
    let recorded = loop {
        tokio::select! {
            done = &mut recording => break done,
            ending = signals.next() => {
                stop.store(true, Ordering::Relaxed);
                stopped = Some(ending);
            }
        }
    };
    bar.finish_and_clear();
    match (recorded, stopped) {
        (Ok(capture), None) => Ok(capture),
        (Ok(capture), Some(_)) if !capture.series.is_empty() => Ok(capture),
        (_, Some(ending)) => Err(ending.failure(" before anything was seen")),
        (Err(error), None) => Err(error.into()),
    }
}

fn summarise(global: &Global, capture: &Capture, out: &std::path::Path) {
    let span = capture.span();
    let time = |at: i64| jiff::Timestamp::from_millisecond(at).map(|t| t.to_string()).unwrap_or_default();
    let (start, end) = span.map(|s| (time(s.start), time(s.end))).unwrap_or_default();
    let probe_ms: f64 = capture.bill.iter().map(|c| c.total_ms).sum();
    if global.json {
        let bill: serde_json::Value = capture
            .bill
            .iter()
            .map(|c| json!({"probe": c.probe, "runs": c.runs, "failures": c.failures, "total_ms": c.total_ms, "max_ms": c.max_ms}))
            .collect();
        output::line(
            &json!({
                "file": out, "window": {"start": start, "end": end},
                "counts": {"signals": capture.series.len(), "sessions": capture.sessions.len(), "statements": capture.statements.len(),
                           "texts": capture.texts.len(), "tables": capture.tables.len(), "indexes": capture.indexes.len(), "events": capture.events.len()},
                "bill": {"probe_ms": probe_ms, "probes": bill}, "missing": capture.manifest.missing,
            })
            .to_string(),
        );
        return;
    }
    output::line(&format!("{}: {start} to {end}", out.display()));
    output::line(&format!(
        "{} signals, {} session samples, {} statement samples, {} texts, {} events",
        capture.series.len(),
        capture.sessions.len(),
        capture.statements.len(),
        capture.texts.len(),
        capture.events.len()
    ));
    let seconds = span.map_or(1.0, |s| s.seconds().max(1.0));
    output::line(&format!("probes: {probe_ms:.0} ms in all, {:.2} % of one core", probe_ms / seconds / 10.0));
    for gap in &capture.manifest.missing {
        output::line(&format!("not seen: {}: {}; {}", gap.what, gap.why, gap.fix));
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  GALEN_DSN=postgresql://galen@db/shop galen diagnose --duration 45s
  galen diagnose --target shop --config galen.toml --html report.html")]
pub struct DiagnoseArgs {
    #[command(flatten)]
    place: Place,
    /// Learnt signatures to use instead of those in the data folder
    #[arg(long, value_name = "FILE")]
    signatures: Option<PathBuf>,
    /// How long to watch from now on: a server has no history to read
    #[arg(long, alias = "since", default_value = "30s", value_parser = duration)]
    duration: Duration,
    /// Language model to use
    #[arg(long)]
    model: Option<String>,
    /// Write the capture too: as seen before the diagnosis begins, and with the server's answers after it
    #[arg(long, value_name = "FILE.galen")]
    out: Option<PathBuf>,
    /// Write the report as a page
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
}

/// Watches a server and diagnoses it live. Ctrl-C ends the watching early; after that it ends the command.
pub async fn diagnose(global: &Global, args: DiagnoseArgs) -> Result<(), Failure> {
    let config = args.place.config(global)?;
    for path in args.out.iter().chain(&args.html) {
        output::writable(path)?;
    }
    let mut signals = Signals::listen()?;
    let mut library = engine::library(&global.load()?)?;
    if let Some(file) = &args.signatures {
        library = engine::with_signatures(library, file)?;
    }
    let provider = match &args.model {
        Some(name) => Some(signals.unless(engine::chosen(&global.load()?, name, 2, 60)).await??),
        None => None,
    };
    let mut capture = watch(config.clone(), args.duration, &mut signals).await?;
    capture.manifest.name =
        args.out.as_ref().and_then(|p| p.file_stem()).map_or_else(|| "live".to_owned(), |s| s.to_string_lossy().into_owned());
    capture.alerts.push(Alert {
        fingerprint: "manual".into(),
        name: "diagnose".into(),
        status: "firing".into(),
        source: "manual".into(),
        starts_at: capture.span().map_or(0, |s| s.start),
        summary: "somebody asked".into(),
        ..Alert::default()
    });
    if let Some(out) = &args.out {
        file::write(&capture, out)?;
    }
    let diagnosis = signals.unless(conclude(&config, &library, provider, &mut capture)).await.map_err(|stopped| match &args.out {
        Some(out) => kept(stopped, out, "not diagnosed"),
        None => stopped,
    })?;
    if let Some(out) = &args.out {
        file::write(&capture, out)?;
    }
    if let Some(page) = &args.html {
        let text = html::render(&diagnosis.report, &diagnosis.tree);
        std::fs::write(page, text).map_err(|e| Failure::write(page, &e))?;
    }
    if global.json {
        output::line(&serde_json::to_string(&diagnosis.report).unwrap_or_default());
    } else {
        output::text(&terminal::render(&diagnosis.report, output::colours(), output::width()));
    }
    Ok(())
}

/// Diagnoses what was seen, and asks the server what is asked on demand; a server that is gone by now is said to be.
async fn conclude(config: &PgConfig, library: &Library, provider: Option<Arc<dyn Provider>>, capture: &mut Capture) -> Diagnosis {
    let live = match PgProber::connect(config, capture).await {
        Ok(prober) => Some(prober),
        Err(error) => {
            output::tell(&format!("galen: the server is not asked for plans: {error}"));
            note_gap(capture, &error);
            None
        }
    };
    let started = Instant::now();
    let say = |step: Progress| {
        if let Progress::Finding { cause, probability, .. } = step {
            output::tell(&format!("finding: {cause} ({:.0} %)", probability * 100.0));
        }
    };
    let options = Options::default();
    let mut diagnosis = match &live {
        Some(prober) => examine(capture, library, prober, provider, &options, &say).await,
        None => examine(capture, library, &Recorded(capture), provider, &options, &say).await,
    };
    diagnosis.report.bill.wall_ms = started.elapsed().as_millis() as u64;
    capture.manifest.diagnosed_in_ms = Some(diagnosis.report.bill.wall_ms);
    if let Some(prober) = &live {
        freeze(capture, prober).await;
    }
    diagnosis
}

/// Says in the capture what a connection that failed at the end leaves unseen.
fn note_gap(capture: &mut Capture, error: &SourceError) {
    let away = matches!(error.kind, SourceErrorKind::Unreachable | SourceErrorKind::Lost);
    let what = if away { TARGET } else { "plans and hypothetical indexes" };
    if !capture.manifest.missing.iter().any(|gap| gap.what == what) {
        let fix = "see the server's log; what was seen before is here";
        capture.manifest.missing.push(Missing::new(what, error.to_string(), fix));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::lab::{Cluster, ClusterOptions};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_that_is_gone_at_the_end_is_diagnosed_from_what_was_seen() {
        let cluster = Cluster::start(ClusterOptions::default()).await.unwrap();
        let config = PgConfig { intervals: Intervals::brisk(), ..PgConfig::new("t", cluster.dsn_galen()) };
        let mut capture = watch(config.clone(), Duration::from_secs(3), &mut Signals::listen().unwrap()).await.unwrap();
        cluster.stop().await;
        let folder = tempfile::tempdir().unwrap();
        let library = engine::library(&Config { data_dir: folder.path().to_owned(), ..Config::default() }).unwrap();
        let diagnosis = conclude(&config, &library, None, &mut capture).await;
        let missing = diagnosis.report.missing.iter().find(|gap| gap.what == TARGET).unwrap();
        assert!(missing.why.contains("127.0.0.1"), "{missing:?}");
        let path = folder.path().join("kept.galen");
        file::write(&capture, &path).unwrap();
        let kept = file::read(&path).unwrap();
        assert!(kept.manifest.missing.iter().any(|gap| gap.what == TARGET) && kept.series.contains_key("tps"));
    }
}
