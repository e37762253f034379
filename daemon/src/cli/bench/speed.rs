//! `galen bench replay` and `galen bench intake`: the figures of the speed budget, on this machine.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use galen_agents::driver::{Options, diagnose};
use galen_tools::probe::Recorded;
use galen_tools::store::{bench_intake, file};

use crate::cli::{Global, replay};
use crate::failure::Failure;
use crate::{engine, output};

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Captures to use
    #[arg(default_value = "examples/captures")]
    paths: Vec<PathBuf>,
    #[arg(long, default_value_t = 10)]
    rounds: u32,
    /// Cite no knowledge
    #[arg(long)]
    no_knowledge: bool,
}

#[derive(Debug, Args)]
pub struct IntakeArgs {
    #[arg(long, default_value_t = 1000)]
    alerts: usize,
}

/// Times reading and diagnosing, apart and together, and looks at memory on the way.
pub async fn replay(global: &Global, args: ReplayArgs) -> Result<(), Failure> {
    let library = engine::library(&global.load()?)?;
    let options = Options { knowledge: !args.no_knowledge, replay: true, ..Options::default() };
    let files = replay::expand(&args.paths)?;
    let bar = progress(u64::from(args.rounds) * files.len() as u64);
    let (mut reading, mut diagnosing, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    let mut early = None;
    for round in 0..=args.rounds {
        for path in &files {
            let started = Instant::now();
            let capture = file::read(path)?;
            let read = started.elapsed();
            let diagnosis = diagnose(&capture, &library, &Recorded(&capture), None, &options, &|_| {}).await;
            std::hint::black_box(diagnosis);
            let all = started.elapsed();
            // The first round warms the caches.
            if round > 0 {
                bar.inc(1);
                for (list, time) in [(&mut reading, read), (&mut diagnosing, all - read), (&mut whole, all)] {
                    list.push(time.as_secs_f32() * 1000.0);
                }
            }
        }
        // A tenth of the way is long enough for pools and caches to have filled.
        if early.is_none() && round >= args.rounds.div_ceil(10) {
            early = memory_mb();
        }
    }
    bar.finish_and_clear();
    let memory = early.zip(memory_mb());
    tell(global, "replay", whole, &[("reading", reading), ("diagnosis", diagnosing)], memory);
    Ok(())
}

fn progress(steps: u64) -> ProgressBar {
    let bar = ProgressBar::new(steps);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {per_sec} {eta} left") {
        bar.set_style(style);
    }
    bar
}

/// Times the way of an alert into the store.
pub fn intake(global: &Global, args: &IntakeArgs) -> Result<(), Failure> {
    let folder = tempfile::tempdir().map_err(|e| Failure::fault(e.to_string()))?;
    let ms = bench_intake(folder.path(), args.alerts)?;
    tell(global, "intake", ms.into_iter().map(|ms| ms as f32).collect(), &[], None);
    Ok(())
}

/// Prints the times of the whole and of its parts, and the memory at a tenth of the way and at the end.
fn tell(global: &Global, name: &str, whole: Vec<f32>, parts: &[(&str, Vec<f32>)], memory: Option<(f64, f64)>) {
    let runs = whole.len();
    let (median, p99) = quantiles(whole);
    let parts: Vec<(&str, f32)> = parts.iter().map(|(part, ms)| (*part, quantiles(ms.clone()).0)).collect();
    output::line(&if global.json {
        let mut told = json!({"suite": name, "runs": runs, "median_ms": median, "p99_ms": p99});
        for (part, ms) in parts {
            told[format!("{part}_ms")] = json!(ms);
        }
        if let Some((early, late)) = memory {
            told["memory_mb"] = json!([early, late]);
        }
        told.to_string()
    } else {
        let of: String = parts.iter().map(|(part, ms)| format!(", {part} {ms:.2} ms")).collect();
        let memory = memory.map(|(early, late)| format!("; memory {early:.1} MB after a tenth, {late:.1} MB at the end"));
        format!("{name}: {runs} runs, median {median:.2} ms{of}, p99 {p99:.2} ms{}", memory.unwrap_or_default())
    });
}

/// Median and 99th percentile.
fn quantiles(mut ms: Vec<f32>) -> (f32, f32) {
    ms.sort_by(f32::total_cmp);
    let at = |share: f64| ms.get(((ms.len() as f64 * share) as usize).min(ms.len().saturating_sub(1))).copied().unwrap_or(0.0);
    (at(0.5), at(0.99))
}

/// Memory of this process in use now, MB; none where /proc does not tell.
fn memory_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kb = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse::<f64>().ok()?;
    Some(kb / 1024.0)
}
