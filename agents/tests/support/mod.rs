//! What the tests with a real model share: where the model is and how its process is started.

use std::path::{Path, PathBuf};
use std::time::Duration;

use galen_agents::llm::offload::{Cache, Offload};
use galen_agents::llm::quantise::quantise;
use galen_agents::llm::registry::{Registry, default_models_dir};
use galen_agents::llm::{EmbedRequest, GenerateRequest, LocalConfig, LocalProvider, Prompt, ScoreRequest};

/// The model's file; `None` only when the environment says that there is none.
pub fn model(name: &str) -> Option<PathBuf> {
    if std::env::var_os("GALEN_NO_MODEL").is_some_and(|v| v == "1") {
        return None;
    }
    let path = Registry::builtin().unwrap().find(name).unwrap().path(&default_models_dir());
    assert!(path.exists(), "{} is missing: run make model (or set GALEN_NO_MODEL=1)", path.display());
    Some(path)
}

/// A tiny model of the tests; `None` only when the environment says that there is none.
#[allow(dead_code)] // not every test binary uses one
pub fn tiny(name: &str) -> Option<PathBuf> {
    if std::env::var_os("GALEN_NO_MODEL").is_some_and(|v| v == "1") {
        return None;
    }
    let path = default_models_dir().join("tiny").join(format!("{name}.gguf"));
    assert!(path.exists(), "{} is missing: run make tiny-models (or set GALEN_NO_MODEL=1)", path.display());
    Some(path)
}

/// A number from the environment, for runs by hand.
#[allow(dead_code)] // not every test binary has any
pub fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise)
}

/// A configuration for the test worker.
pub fn config(model_path: PathBuf) -> LocalConfig {
    LocalConfig {
        exe: env!("CARGO_BIN_EXE_galen-llm-worker").into(),
        exe_arguments: Vec::new(),
        model_path,
        // Tests run side by side; more threads than cores spin against each other.
        threads: 1,
        context: 2_048,
        exact: true,
        request_timeout: Duration::from_secs(120),
        drop_timeout: Duration::from_secs(15),
        start_timeout: Duration::from_secs(120),
        adapters: Vec::new(),
        adapter: None,
        memory_limit: None,
    }
}

/// A model with weights and cache in full precision: the shape of a batch then changes next to nothing, so that a wrong cell
/// would show.
#[allow(dead_code)] // not every test binary compares
pub fn in_full(model: &Path, folder: &Path) -> LocalConfig {
    let full = folder.join(model.file_stem().unwrap()).with_extension("gguf");
    quantise(model, &full, "F32").unwrap();
    let offload = Offload { cache: Cache::F32, flash_attention: Some(false), ..Offload::default() };
    LocalConfig { exe_arguments: offload.arguments(), ..config(full) }
}

/// A running SmolLM2.
#[allow(dead_code)] // not every test binary starts one so
pub async fn start() -> Option<LocalProvider> {
    let path = model("smollm2-135m")?;
    Some(LocalProvider::start(config(path)).await.unwrap())
}

/// A request to score.
pub fn score(shared: &str, own: &str, options: &[&str]) -> ScoreRequest {
    let options = options.iter().map(|o| (*o).to_owned()).collect();
    ScoreRequest { agent: "test".into(), prompt: Prompt::new(shared, own), options, ..ScoreRequest::default() }
}

/// A request to generate.
pub fn generate(own: &str, grammar: Option<&str>, max_tokens: u32) -> GenerateRequest {
    let prompt = Prompt::new("You are a PostgreSQL expert.", own);
    GenerateRequest { agent: "test".into(), prompt, grammar: grammar.map(str::to_owned), max_tokens, ..GenerateRequest::default() }
}

/// A request for vectors.
#[allow(dead_code)] // not every test binary asks for any
pub fn embed(texts: &[&str]) -> EmbedRequest {
    EmbedRequest { agent: "test".into(), texts: texts.iter().map(|t| (*t).to_owned()).collect(), ..EmbedRequest::default() }
}

/// About `tokens` tokens of evidence.
pub fn evidence(tokens: usize) -> String {
    let mut text = "You are an experienced PostgreSQL administrator. Evidence:\n".to_owned();
    for i in 0..tokens / 21 {
        text.push_str(&format!("E{i}: wait event Lock:transactionid rose from {} to {} sessions\n", i % 7, 40 + i % 9));
    }
    text
}
