//! `galen record` and `galen diagnose`: a live server, without a daemon.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use galen_agents::driver::{Options, Progress, diagnose as examine};
use galen_agents::report::{html, terminal};
use galen_tools::capture::Capture;
use galen_tools::model::Alert;
use galen_tools::sources::pg::{self, Intervals, PgConfig, PgProber};
use galen_tools::store::file;

use super::{Global, duration};
use crate::failure::Failure;
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
    let mut capture = watch(config.clone(), args.duration).await?;
    capture.manifest.name = args.out.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    freeze(&config, &mut capture).await;
    file::write(&capture, &args.out)?;
    summarise(global, &capture, &args.out);
    Ok(())
}

/// Freezes the answers that a diagnosis of this capture would ask for.
async fn freeze(config: &PgConfig, capture: &mut Capture) {
    if let Err(error) = crate::target::freeze(config, capture).await {
        eprintln!("galen: plans were not recorded: {error}");
    }
}

/// Records with a progress bar; Ctrl-C ends it early.
async fn watch(config: PgConfig, time: Duration) -> Result<Capture, Failure> {
    let bar = ProgressBar::new(time.as_secs());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} s {msg}") {
        bar.set_style(style);
    }
    bar.set_message("watching; Ctrl-C ends early and keeps what was seen");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = std::sync::Arc::clone(&stop);
    let interrupt = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            flag.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let shown = bar.clone();
    let capture = pg::record(config, time, move |elapsed| {
        shown.set_position(elapsed.as_secs());
        !stop.load(std::sync::atomic::Ordering::Relaxed)
    })
    .await;
    interrupt.abort();
    bar.finish_and_clear();
    Ok(capture?)
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
    /// How long to watch
    #[arg(long, alias = "since", default_value = "30s", value_parser = duration)]
    duration: Duration,
    /// Language model to use
    #[arg(long)]
    model: Option<String>,
    /// Write the capture too
    #[arg(long, value_name = "FILE.galen")]
    out: Option<PathBuf>,
    /// Write the report as a page
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
}

/// Watches a server and diagnoses it live.
pub async fn diagnose(global: &Global, args: DiagnoseArgs) -> Result<(), Failure> {
    let config = args.place.config(global)?;
    let mut library = engine::library(&global.load()?.data_dir)?;
    if let Some(file) = &args.signatures {
        library = engine::with_signatures(library, file)?;
    }
    let provider = match &args.model {
        Some(name) => Some(engine::provider(name, None, 2, 60).await?),
        None => None,
    };
    let mut capture = watch(config.clone(), args.duration).await?;
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
    let prober = PgProber::connect(&config, &capture).await?;
    let started = Instant::now();
    let say = |step: Progress| {
        if let Progress::Finding { cause, probability, .. } = step {
            eprintln!("finding: {cause} ({:.0} %)", probability * 100.0);
        }
    };
    let mut diagnosis = examine(&capture, &library, &prober, provider, &Options::default(), &say).await;
    diagnosis.report.bill.wall_ms = started.elapsed().as_millis() as u64;
    if let Some(out) = &args.out {
        freeze(&config, &mut capture).await;
        capture.manifest.diagnosed_in_ms = Some(diagnosis.report.bill.wall_ms);
        file::write(&capture, out)?;
    }
    if let Some(page) = &args.html {
        let text = html::render(&diagnosis.report, &diagnosis.tree);
        std::fs::write(page, text).map_err(|e| Failure::fault(format!("cannot write {}: {e}", page.display())))?;
    }
    if global.json {
        output::line(&serde_json::to_string(&diagnosis.report).unwrap_or_default());
    } else {
        output::text(&terminal::render(&diagnosis.report, output::colours(), output::width()));
    }
    Ok(())
}
