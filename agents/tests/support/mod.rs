//! What the tests with a real model share: where the model is and how its process is started.

use std::path::PathBuf;
use std::time::Duration;

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

/// A tiny model of the tests, where it was made.
#[allow(dead_code)] // not every test binary uses one
pub fn tiny(name: &str) -> Option<PathBuf> {
    let path = default_models_dir().join("tiny").join(format!("{name}.gguf"));
    if !path.exists() {
        eprintln!("skipped: {} is not there; `make tiny-models` makes it", path.display());
        return None;
    }
    Some(path)
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
        start_timeout: Duration::from_secs(120),
        adapters: Vec::new(),
        adapter: None,
        memory_limit: None,
    }
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
    ScoreRequest { agent: "test".into(), incident: String::new(), prompt: Prompt { shared: shared.into(), own: own.into() }, options }
}

/// A request to generate.
pub fn generate(own: &str, grammar: Option<&str>, max_tokens: u32) -> GenerateRequest {
    let prompt = Prompt { shared: "You are a PostgreSQL expert.".into(), own: own.into() };
    GenerateRequest { agent: "test".into(), incident: String::new(), prompt, grammar: grammar.map(str::to_owned), schema: None, max_tokens }
}

/// A request for vectors.
#[allow(dead_code)] // not every test binary asks for any
pub fn embed(texts: &[&str]) -> EmbedRequest {
    EmbedRequest { agent: "test".into(), incident: String::new(), texts: texts.iter().map(|t| (*t).to_owned()).collect() }
}

/// About `tokens` tokens of evidence.
pub fn evidence(tokens: usize) -> String {
    let mut text = "You are an experienced PostgreSQL administrator. Evidence:\n".to_owned();
    for i in 0..tokens / 21 {
        text.push_str(&format!("E{i}: wait event Lock:transactionid rose from {} to {} sessions\n", i % 7, 40 + i % 9));
    }
    text
}
