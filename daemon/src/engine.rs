//! Builds what diagnoses need: the library of causes, documents and signals, and the model's provider.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use galen_agents::driver::{Library, MOST_IN_MEMORY, Shelf};
use galen_agents::llm::devices::{self, Device};
use galen_agents::llm::offload::Offload;
use galen_agents::llm::plan::Room;
use galen_agents::llm::registry::Registry;
use galen_agents::llm::skill::Skills;
use galen_agents::llm::{LlmError, LocalConfig, LocalProvider, OpenAiProvider, Provider};
use galen_agents::llm::{gguf, plan};
use galen_agents::signature::{self, Signatures};
use galen_docs_ingest::extract::Rules;
use galen_docs_ingest::store::Store;
use galen_knowledge::catalog::Catalog;
use galen_knowledge::chunk::KnowledgeChunk;
use galen_tools::signals::SignalTable;

use crate::config::{self, Config, Model};
use crate::failure::Failure;
use crate::{output, shelf};

/// Whether this build computes on a GPU.
const GPU: bool = cfg!(any(feature = "cuda", feature = "vulkan", feature = "metal", feature = "rocm"));
/// Address space of the model's process beyond twice its file, bytes: caches, threads, libraries. What runs away meets this
/// limit before it takes the machine's memory.
const ROOM_BYTES: u64 = 4 << 30;
/// Name of the file in the data folder that holds the skill measured on this machine.
pub const SKILL_FILE: &str = "skill.toml";
/// Name of the file in the data folder that holds signatures learnt with `galen learn`.
pub const SIGNATURES_FILE: &str = "signatures.toml";

/// Causes, runbooks, signals as shipped, knowledge from documents that were taken in, and the skill of models: as shipped, and as measured here where it was.
///
/// # Errors
/// A fault of ours when a shipped file does not parse; configuration when the measured skill does not.
pub fn library(config: &Config) -> Result<Library, Failure> {
    let data_dir = config.data_dir.as_path();
    let catalog = builtin()?;
    let signals = SignalTable::builtin();
    let chunks = citable(data_dir)?;
    let mut skill = Skills::builtin().map_err(|e| Failure::fault(e.to_string()))?;
    let measured = data_dir.join(SKILL_FILE);
    if measured.exists() {
        let here =
            Skills::load(&measured).map_err(|e| Failure::config(format!("{e}; measure again with `galen model calibrate --write`")))?;
        skill.overlay(here);
    }
    let index = index(config, &chunks);
    let library = Library { chunks, skill, signals, catalog, signatures: Signatures::default(), index };
    let learnt = data_dir.join(SIGNATURES_FILE);
    if learnt.exists() { with_signatures(library, &learnt) } else { Ok(library) }
}

/// The index of what a diagnosis may cite. Few chunks are indexed in memory when they are first asked for; for many it is the
/// one that `galen ingest` keeps in the data folder. Where that cannot be had, causes are cited without it, and a line says so.
pub fn index(config: &Config, chunks: &[KnowledgeChunk]) -> Shelf {
    let index = Shelf::default();
    if chunks.len() > MOST_IN_MEMORY {
        let embedder = shelf::embedder(&config.model.folder()).ok();
        let opened = builtin().and_then(|catalog| shelf::Shelf::open(&catalog, &config.data_dir, embedder));
        match opened {
            // Nothing was in it: it has just been made.
            Ok(shelf) => drop(index.set(Some(shelf.index))),
            Err(why) => output::tell(&format!("galen: {why}; what is cited is not in the order of the incident")),
        }
    }
    index
}

/// The shipped causes.
///
/// # Errors
/// A fault of ours when a shipped file does not parse.
pub fn builtin() -> Result<Catalog, Failure> {
    Catalog::builtin().map_err(|e| Failure::fault(e.to_string()))
}

/// Chunks of the runbooks that ship with Galen.
///
/// # Errors
/// A fault of ours when a shipped file does not parse.
pub fn shipped() -> Result<Vec<KnowledgeChunk>, Failure> {
    let signals = SignalTable::builtin();
    let names: Vec<&str> = signals.iter().map(|s| s.name.as_str()).collect();
    Ok(galen_docs_ingest::shipped(&builtin()?, &names))
}

/// The rules that make knowledge of documents.
///
/// # Errors
/// As [`shipped`].
pub fn rules() -> Result<Rules, Failure> {
    let signals = SignalTable::builtin();
    let names: Vec<&str> = signals.iter().map(|s| s.name.as_str()).collect();
    Ok(Rules::new(&builtin()?, &names))
}

/// All that can be searched: the shipped runbooks, and every document that was taken in, whether it speaks of a cause or not.
///
/// # Errors
/// As [`library`].
pub fn searchable(config: &Config) -> Result<Library, Failure> {
    let mut library = library(config)?;
    if let Some(store) = Store::open_existing(&config.data_dir)? {
        library.chunks = shipped()?;
        library.chunks.extend(store.chunks()?.into_iter().map(|stored| stored.chunk));
    }
    Ok(library)
}

/// What a diagnosis may cite: the shipped runbooks, then what documents taken in with `galen ingest` say of causes, those
/// that speak of the fewest first, then in the order of their paths, so that the same store gives the same report.
///
/// # Errors
/// As [`library`].
pub fn citable(data_dir: &Path) -> Result<Vec<KnowledgeChunk>, Failure> {
    let mut chunks = shipped()?;
    let Some(store) = Store::open_existing(data_dir)? else { return Ok(chunks) };
    let mut taken_in: Vec<KnowledgeChunk> = store.linked()?.into_iter().map(|stored| stored.chunk).collect();
    taken_in.sort_by_key(|chunk| chunk.causes.len());
    chunks.extend(taken_in);
    Ok(chunks)
}

/// The library with learnt signatures from a file, instead of those that it had.
///
/// # Errors
/// Configuration, when the file cannot be read.
pub fn with_signatures(mut library: Library, file: &Path) -> Result<Library, Failure> {
    let signatures = Signatures::load(file).map_err(Failure::config)?;
    if !library.signatures.is_empty() {
        library.catalog = builtin()?;
    }
    signature::extend(&mut library.catalog, &signatures);
    library.signatures = signatures;
    Ok(library)
}

/// The model of a command's `--model`: the configured server, where it is the one that the configuration names, else the
/// embedded engine.
///
/// # Errors
/// As [`provider`], or code 3 when the server's key cannot be read.
pub async fn chosen(config: &Config, name: &str, threads: u16, timeout_s: u64) -> Result<Arc<dyn Provider>, Failure> {
    if let Some(mut server) = config.model.openai()?.filter(|server| server.model == name) {
        server.request_timeout = Duration::from_secs(timeout_s);
        let connected = OpenAiProvider::connect(server).await.map_err(|error| Failure::model(error.to_string()))?;
        return Ok(Arc::new(connected));
    }
    let model = named(config, name, threads, timeout_s);
    start(&model, true).await.map_err(|error| Failure::model(error.to_string()))
}

/// The configuration's way of running a model, for another one.
pub fn named(config: &Config, name: &str, threads: u16, timeout_s: u64) -> Model {
    let mut model = Model { name: name.to_owned(), threads, timeout_s, ..config.model.clone() };
    // Nothing here changes to an adapter, and those of another model do not load; a limit was set for the configured one.
    model.adapters.clear();
    model.memory_limit = model.memory_limit.filter(|limit| name == config.model.name || limit == "none");
    model
}

/// The model that the configuration names. A server that is away is no reason to go without: it may come.
///
/// # Errors
/// What keeps the embedded engine from starting, or the server from ever being asked.
pub async fn configured(model: &config::Model) -> Result<Arc<dyn Provider>, LlmError> {
    let server = model.openai().map_err(|failure| LlmError::Unavailable(failure.message))?;
    let Some(server) = server else {
        return start(model, false).await;
    };
    if let Err(error) = OpenAiProvider::connect(server.clone()).await {
        tracing::warn!(%error, "the model's server does not answer yet; it is asked again at each diagnosis");
    }
    Ok(Arc::new(OpenAiProvider::new(server)?))
}

/// Starts the embedded engine with a model, in its supervised process. `exact` gives the same bytes again, one request at
/// a time; otherwise requests are worked on all at once.
///
/// # Errors
/// What to do: unknown name, missing or damaged file, a process that does not start.
async fn start(model: &Model, exact: bool) -> Result<Arc<dyn Provider>, LlmError> {
    let name = model.name.as_str();
    let folder = model.folder();
    let registry = Registry::load(&folder)?;
    let entry = registry.chat(name)?;
    let path = entry.path(&folder);
    if !path.exists() {
        // Both bring it into this folder; without that it may be another.
        let how = match &model.models_dir {
            Some(folder) => format!(
                "`GALEN_MODELS_DIR={} make model MODEL={name}`, or `galen model pull {name}` with this configuration (--config)",
                folder.display()
            ),
            None => entry.how(),
        };
        return Err(LlmError::Unavailable(format!("{} is not there; fetch it with {how}", path.display())));
    }
    let checked = path.clone();
    let verified = entry.clone();
    tokio::task::spawn_blocking(move || verified.verify(&checked)).await.map_err(|e| LlmError::Unavailable(e.to_string()))??;
    let config = settings(model, path, exact).await?;
    let provider = LocalProvider::start(config).await?;
    tracing::info!(model = name, load_ms = provider.load_ms(), "model loaded");
    Ok(Arc::new(provider))
}

/// How a file is run as some model: threads, memory, and what of it goes onto the GPU, which is planned and told here.
///
/// # Errors
/// A setting that cannot be read, or a file whose header cannot.
pub async fn settings(model: &Model, path: PathBuf, exact: bool) -> Result<LocalConfig, LlmError> {
    let name = model.name.as_str();
    let mut config = LocalConfig::new(path)?;
    let bad = |key: &str, why: String| LlmError::Unavailable(format!("model.{key}: {why}"));
    let found = if GPU { devices::list(&config.exe, &config.exe_arguments).await? } else { Vec::new() };
    let gpus = used(&found);
    let vram = model.vram.as_deref().map(plan::bytes).transpose().map_err(|why| bad("vram", why))?;
    let budget = budget(vram, &gpus);
    if vram.is_some() && budget.is_none() {
        output::tell(&format!("{name}: no GPU computes here, vram is left aside; see `galen model devices`"));
    }
    let mut offload = Offload::default();
    if let Some(budget) = budget {
        let times = if exact { 1 } else { galen_agents::llm::CELLS.into() };
        let (gpus, context, flash_attention) = (gpus.len() as u64, config.context.into(), model.flash_attention.unwrap_or(true));
        let room = Room { budget, gpus, context, times, exact, cache: model.kv_type, flash_attention };
        let plan = plan::plan_for(&gguf::read(&config.model_path)?, room);
        output::tell(&format!("{name}: {plan}"));
        offload = plan.offload();
    }
    offload.cache = model.kv_type.unwrap_or(offload.cache);
    offload.flash_attention = model.flash_attention.or(offload.flash_attention);
    config.exe_arguments.extend(offload.arguments());
    config.memory_limit = match model.memory_limit.as_deref() {
        Some("none") => None,
        Some(limit) => Some(plan::bytes(limit).map_err(|why| bad("memory_limit", why))?),
        // A GPU's driver maps far more than it uses.
        None => std::fs::metadata(&config.model_path).ok().filter(|_| !GPU).map(|file| 2 * file.len() + ROOM_BYTES),
    };
    config.adapters.extend(model.adapters.iter().map(config::Adapter::file));
    config.threads = model.threads.max(1);
    config.exact = exact;
    config.request_timeout = Duration::from_secs(model.timeout_s);
    Ok(config)
}

/// The devices that llama.cpp spreads a model over: every card once, by the backend that lists it first; integrated GPUs where there
/// is no other, of one backend. llama.cpp tells a card by its address, which a [`Device`] lacks; here a name that another backend
/// had before is the same card, while two of one name from one backend are two.
fn used(found: &[Device]) -> Vec<&Device> {
    let mut cards: Vec<&Device> = Vec::new();
    for device in found.iter().filter(|device| device.kind == "gpu") {
        if !cards.iter().any(|card| card.backend != device.backend && card.description == device.description) {
            cards.push(device);
        }
    }
    if cards.is_empty() {
        cards.extend(found.iter().filter(|device| device.kind == "integrated"));
        let first = cards.first().map(|card| card.backend.clone());
        cards.retain(|card| first.as_ref() == Some(&card.backend));
    }
    cards
}

/// Memory that layers are planned for, bytes: what was set, else what is free. None where no GPU computes: all stays as it is
/// without a plan, whatever was set.
fn budget(vram: Option<u64>, gpus: &[&Device]) -> Option<u64> {
    if gpus.is_empty() { None } else { vram.or_else(|| room(gpus)) }
}

/// What may be planned of the GPUs' free memory: a tenth stays for what llama.cpp and the driver need beside. Over several
/// GPUs llama.cpp spreads the layers in proportion to what is free on each. None where there is no GPU.
fn room(gpus: &[&Device]) -> Option<u64> {
    let free: u64 = gpus.iter().map(|device| device.free).sum();
    (free > 0).then(|| free / 10 * 9)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device of a kind, with so many bytes free.
    fn device(kind: &str, free: u64) -> Device {
        Device { kind: kind.into(), free, ..Device::default() }
    }

    #[tokio::test]
    async fn a_model_that_is_missing_in_a_configured_folder_is_fetched_with_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Model { name: "smollm2-135m".to_owned(), models_dir: Some(folder.path().to_owned()), ..Model::default() };
        let why = start(&missing, true).await.err().unwrap().to_string();
        assert!(why.contains(&folder.path().display().to_string()) && why.contains("--config"), "{why}");
    }

    #[test]
    fn layers_are_planned_for_the_free_memory_of_all_gpus() {
        assert_eq!(room(&used(&[device("cpu", 64_000), device("gpu", 8_000), device("gpu", 2_000)])), Some(9_000));
        assert_eq!(room(&used(&[device("cpu", 64_000)])), None);
    }

    #[test]
    fn what_was_set_is_planned_with_where_a_gpu_computes_and_nowhere_else() {
        let budget = |vram, found: &[Device]| budget(vram, &used(found));
        let (cpu, gpu) = (device("cpu", 64_000), device("integrated", 1_000));
        assert_eq!([budget(Some(500), &[]), budget(Some(500), std::slice::from_ref(&cpu)), budget(None, &[])], [None; 3]);
        assert_eq!([budget(Some(500), &[cpu.clone(), gpu.clone()]), budget(None, &[cpu, gpu])], [Some(500), Some(900)]);
        assert_eq!(budget(Some(500), &[device("gpu", 0)]), Some(500), "a driver that does not say what is free");
    }

    #[test]
    fn only_devices_that_llama_cpp_uses_are_planned_with_and_each_card_once() {
        let of = |backend: &str, description: &str, device: Device| Device {
            backend: backend.into(),
            description: description.into(),
            ..device
        };
        let free = |found: &[Device]| used(found).iter().map(|device| device.free).collect::<Vec<_>>();
        let beside = [of("Vulkan", "chip", device("integrated", 32_000)), of("CUDA", "card", device("gpu", 8_000))];
        assert_eq!(free(&beside), [8_000], "a chip beside a card is not used");
        let twins = [1, 2].map(|free| of("CUDA", "card", device("gpu", free)));
        assert_eq!(free(&twins), [1, 2], "two cards of one kind");
        let again = [3, 4].map(|free| of("Vulkan", "card", device("gpu", free)));
        assert_eq!(free(&[twins, again].concat()), [1, 2], "the same two by another backend");
        let other = of("Vulkan", "another card", device("gpu", 5));
        assert_eq!(free(&[of("CUDA", "card", device("gpu", 1)), other]), [1, 5]);
        let chips = ["Vulkan", "Vulkan", "CUDA"].map(|backend| of(backend, "chip", device("integrated", 6)));
        assert_eq!(free(&chips), [6, 6], "chips of the first backend");
    }
}
