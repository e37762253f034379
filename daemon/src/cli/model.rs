//! `galen model`: what models there are, whether they are whole, and how far their votes may count.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use galen_agents::driver::{Options, diagnose};
use galen_agents::llm::registry::{Registry, default_models_dir};
use galen_agents::llm::skill::{SkillStat, likelihood_ratio};
use galen_tools::probe::Recorded;
use galen_tools::store::file;

use super::{Global, replay};
use crate::failure::Failure;
use crate::{engine, output};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen model list
  galen model calibrate examples/captures --model qwen2.5-coder-1.5b

Fetch a model with `make model MODEL=NAME`.")]
pub struct ModelArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the registry, and what is on this machine
    List,
    /// Show one entry
    Info { name: String },
    /// Check a model file against its checksum
    Verify { name: String },
    /// Measure how often the model picks the labelled cause among four: a vote counts by this, and not at all at chance
    Calibrate {
        /// Labelled captures
        paths: Vec<PathBuf>,
        #[arg(long, default_value = "smollm2-135m")]
        model: String,
    },
}

fn model_failure(error: galen_agents::llm::LlmError) -> Failure {
    Failure::model(error.to_string())
}

/// `galen model`.
pub async fn model(global: &Global, args: ModelArgs) -> Result<(), Failure> {
    let registry = Registry::builtin().map_err(model_failure)?;
    match args.action {
        Action::List => {
            for entry in &registry.models {
                let here = entry.path(&default_models_dir()).exists();
                output::line(&if global.json {
                    json!({"name": entry.name, "bytes": entry.bytes, "licence": entry.licence, "here": here}).to_string()
                } else {
                    format!(
                        "{:<20} {:>6} MB  {:<12} {}",
                        entry.name,
                        entry.bytes / 1_000_000,
                        entry.licence,
                        if here { "here" } else { "make model MODEL=NAME fetches it" }
                    )
                });
            }
            Ok(())
        }
        Action::Info { name } => {
            let entry = registry.find(&name).map_err(model_failure)?;
            let text = if global.json { serde_json::to_string(entry) } else { serde_json::to_string_pretty(entry) };
            output::line(&text.unwrap_or_default());
            Ok(())
        }
        Action::Verify { name } => {
            let entry = registry.find(&name).map_err(model_failure)?;
            let path = entry.path(&default_models_dir());
            entry.verify(&path).map_err(model_failure)?;
            output::line(&if global.json { json!({"name": name, "ok": true}).to_string() } else { format!("{} is whole", path.display()) });
            Ok(())
        }
        Action::Calibrate { paths, model } => calibrate(global, &paths, &model).await,
    }
}

/// Asks the model about every labelled capture and counts.
async fn calibrate(global: &Global, paths: &[PathBuf], name: &str) -> Result<(), Failure> {
    let library = engine::library()?;
    let provider = engine::provider(name, None, 2, 120).await?;
    let options = Options { replay: true, ..Options::default() };
    let (mut asked, mut right) = (0, 0);
    for path in replay::expand(paths)? {
        let capture = file::read(&path)?;
        let labels = capture.manifest.labels.clone();
        if labels.iter().all(|l| l == "healthy") {
            continue;
        }
        let diagnosis = diagnose(&capture, &library, &Recorded(&capture), Some(provider.clone()), &options, &|_| {}).await;
        let Some(ballot) = diagnosis.ballot.filter(|b| b.candidates.iter().any(|c| labels.contains(c))) else { continue };
        asked += 1;
        let hit = labels.contains(&ballot.choice);
        right += u32::from(hit);
        eprintln!(
            "{}: chose {} of {} ({})",
            capture.manifest.name,
            ballot.choice,
            ballot.candidates.join(", "),
            if hit { "right" } else { "wrong" }
        );
    }
    let stat = SkillStat { asked, right, options: 4 };
    let ratio = likelihood_ratio(&stat);
    output::line(&if global.json {
        json!({"model": name, "sha256": provider.identity().sha256, "asked": asked, "right": right, "options": 4, "likelihood_ratio": ratio}).to_string()
    } else {
        format!("{name}: {right} of {asked} right among 4 options; a vote counts with a likelihood ratio of {ratio:.2}")
    });
    Ok(())
}
