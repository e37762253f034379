//! `galen bench`: the figures of the speed budget, on this machine.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, Subcommand};
use serde_json::json;

use galen_agents::driver::{Options, diagnose};
use galen_tools::probe::Recorded;
use galen_tools::store::{bench_intake, file};

use super::{Global, rds, replay};
use crate::failure::Failure;
use crate::{engine, output};

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Debug, Subcommand)]
enum Suite {
    /// Milliseconds to read and diagnose a capture without a model
    Replay {
        /// Captures to use
        #[arg(default_value = "examples/captures")]
        paths: Vec<PathBuf>,
        #[arg(long, default_value_t = 10)]
        rounds: u32,
    },
    /// RDS scenarios, scored by their own answer keys
    Rds {
        /// Folder of folders, each with the answers of AWS's APIs and an answer.yml
        dir: PathBuf,
    },
    /// Milliseconds until an alert is durable
    Intake {
        #[arg(long, default_value_t = 1000)]
        alerts: usize,
    },
}

/// `galen bench`.
pub async fn bench(global: &Global, args: BenchArgs) -> Result<(), Failure> {
    let (name, mut ms) = match args.suite {
        Suite::Rds { dir } => return rds::bench(global, &dir).await.map(|_| ()),
        Suite::Replay { paths, rounds } => ("replay", replays(global, &paths, rounds).await?),
        Suite::Intake { alerts } => {
            let folder = tempfile::tempdir().map_err(|e| Failure::fault(e.to_string()))?;
            ("intake", bench_intake(folder.path(), alerts)?)
        }
    };
    ms.sort_by(f64::total_cmp);
    let at = |share: f64| ms.get(((ms.len() as f64 * share) as usize).min(ms.len().saturating_sub(1))).copied().unwrap_or(0.0);
    let (median, p99) = (at(0.5), at(0.99));
    output::line(&if global.json {
        json!({"suite": name, "runs": ms.len(), "median_ms": median, "p99_ms": p99}).to_string()
    } else {
        format!("{name}: {} runs, median {median:.2} ms, p99 {p99:.2} ms", ms.len())
    });
    Ok(())
}

async fn replays(global: &Global, paths: &[PathBuf], rounds: u32) -> Result<Vec<f64>, Failure> {
    let library = engine::library(&global.load()?.data_dir)?;
    let options = Options { replay: true, ..Options::default() };
    let files = replay::expand(paths)?;
    let mut ms = Vec::new();
    for round in 0..=rounds {
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
    Ok(ms)
}
