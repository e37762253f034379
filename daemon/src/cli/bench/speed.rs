//! `galen bench replay` and `galen bench intake`: the figures of the speed budget, on this machine.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
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
}

#[derive(Debug, Args)]
pub struct IntakeArgs {
    #[arg(long, default_value_t = 1000)]
    alerts: usize,
}

/// Times reading and diagnosing.
pub async fn replay(global: &Global, args: ReplayArgs) -> Result<(), Failure> {
    let library = engine::library(&global.load()?.data_dir)?;
    let options = Options { replay: true, ..Options::default() };
    let files = replay::expand(&args.paths)?;
    let mut ms = Vec::new();
    for round in 0..=args.rounds {
        for path in &files {
            let started = Instant::now();
            let capture = file::read(path)?;
            let diagnosis = diagnose(&capture, &library, &Recorded(&capture), None, &options, &|_| {}).await;
            std::hint::black_box(diagnosis);
            // The first round warms the caches.
            if round > 0 {
                ms.push(started.elapsed().as_secs_f64() * 1000.0);
            }
        }
    }
    tell(global, "replay", ms);
    Ok(())
}

/// Times the way of an alert into the store.
pub fn intake(global: &Global, args: &IntakeArgs) -> Result<(), Failure> {
    let folder = tempfile::tempdir().map_err(|e| Failure::fault(e.to_string()))?;
    tell(global, "intake", bench_intake(folder.path(), args.alerts)?);
    Ok(())
}

fn tell(global: &Global, name: &str, mut ms: Vec<f64>) {
    ms.sort_by(f64::total_cmp);
    let at = |share: f64| ms.get(((ms.len() as f64 * share) as usize).min(ms.len().saturating_sub(1))).copied().unwrap_or(0.0);
    let (median, p99) = (at(0.5), at(0.99));
    output::line(&if global.json {
        json!({"suite": name, "runs": ms.len(), "median_ms": median, "p99_ms": p99}).to_string()
    } else {
        format!("{name}: {} runs, median {median:.2} ms, p99 {p99:.2} ms", ms.len())
    });
}
