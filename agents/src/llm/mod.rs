//! The seam to a language model: score options, generate under a grammar. Everything else is the model's business.

mod adapters;
mod batched;
mod branch;
mod cells;
mod choose;
mod desk;
pub mod devices;
mod embedder;
mod engine;
pub mod gguf;
mod grammar;
mod incident;
mod kept;
mod lane;
pub mod local;
mod metrics;
pub mod offload;
pub mod openai;
mod others;
mod pins;
pub mod plan;
mod prefault;
mod process;
mod prompt;
mod protocol;
pub mod quantise;
mod reading;
pub mod recorded;
pub mod registry;
pub mod schema;
pub mod skill;
pub mod store;
mod supervisor;
mod template;
mod web;
mod within;
mod worker;

pub use adapters::AdapterFile;
pub use branch::OfBranch;
pub use choose::{Ballot, Prior, Shared, ballot, choose, prior};
pub use desk::CELLS;
pub use incident::OfIncident;
pub use local::{LocalConfig, LocalProvider};
pub use metrics::{AgentTokens, EngineMetrics};
pub use openai::{OpenAiConfig, OpenAiProvider};
pub use prompt::{Prompt, Section};
pub use web::Patience;
pub use within::Within;
pub use worker::worker_main;

use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

/// Asks for the log-probability of each option as the model's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoreRequest {
    /// Which agent asks, for accounting.
    pub agent: String,
    /// Which incident it is about: incidents take turns. Empty where there is only one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub incident: String,
    /// Which hypothesis or node of the search tree it is about, for accounting. Empty for the whole tree.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub branch: String,
    /// What is asked.
    pub prompt: Prompt,
    /// The answers to score, at least two.
    pub options: Vec<String>,
}

/// Asks for text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerateRequest {
    /// Which agent asks, for accounting.
    pub agent: String,
    /// Which incident it is about: incidents take turns. Empty where there is only one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub incident: String,
    /// Which hypothesis or node of the search tree it is about, for accounting. Empty for the whole tree.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub branch: String,
    /// What is asked.
    pub prompt: Prompt,
    /// GBNF grammar that the answer obeys, if any.
    pub grammar: Option<String>,
    /// JSON schema that the answer obeys, if any; not beside a grammar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<serde_json::Value>,
    /// Most tokens to generate.
    pub max_tokens: u32,
}

/// Asks for texts as vectors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbedRequest {
    /// Which agent asks, for accounting.
    pub agent: String,
    /// Which incident it is about. Empty where there is only one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub incident: String,
    /// Which hypothesis or node of the search tree it is about, for accounting. Empty for the whole tree.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub branch: String,
    /// The texts.
    pub texts: Vec<String>,
}

/// Vectors of texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Embeddings {
    /// One for each text, in the order asked, of length 1.
    pub vectors: Vec<Vec<f32>>,
    /// What they cost.
    pub usage: Usage,
}

/// Tokens a request cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Prompt tokens evaluated.
    pub prompt_tokens: u64,
    /// Prompt tokens taken from the prefix cache.
    pub reused_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        // Counts come from servers too, and a sum that is too large is no reason to end.
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.reused_tokens = self.reused_tokens.saturating_add(other.reused_tokens);
        self.generated_tokens = self.generated_tokens.saturating_add(other.generated_tokens);
    }
}

/// Log-probabilities of the options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// One mean log-probability per token for each option, in the order asked.
    pub logprobs: Vec<f64>,
    /// What it cost.
    pub usage: Usage,
    /// Sections of the prompt, by number, that were left out because the context is too short.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cut: Vec<usize>,
}

impl Scores {
    /// Scores that are numbers.
    ///
    /// # Errors
    /// [`LlmError::Crashed`] when one is not.
    pub(crate) fn checked(logprobs: Vec<f64>, usage: Usage, cut: Vec<usize>) -> Result<Self, LlmError> {
        if logprobs.iter().any(|p| !p.is_finite()) {
            return Err(LlmError::Crashed("the model gave no number".to_owned()));
        }
        Ok(Self { logprobs, usage, cut })
    }
}

/// Generated text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generated {
    /// The text, without the template's control tokens.
    pub text: String,
    /// True when the model ended by itself.
    pub finished: bool,
    /// What it cost.
    pub usage: Usage,
    /// Sections of the prompt, by number, that were left out because the context is too short.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cut: Vec<usize>,
}

/// What went wrong with a request. The diagnosis goes on without the model's vote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum LlmError {
    /// The model cannot be had: file missing, wrong checksum, does not load.
    #[error("model unavailable: {0}")]
    Unavailable(String),
    /// The process that runs the model died; it is restarted for the next request.
    #[error("model process died: {0}")]
    Crashed(String),
    /// No answer within the time there was, milliseconds.
    #[error("the model had not answered within {:.0} s", *.0 as f64 / 1000.0)]
    Timeout(u64),
    /// The prompt does not fit the context, without the sections that may be left out either.
    #[error("prompt of {tokens} tokens exceeds the context of {limit}")]
    TooLong {
        /// Tokens of the prompt.
        tokens: u64,
        /// Tokens that fit.
        limit: u64,
    },
    /// Too many requests wait already.
    #[error("the model has {waiting} requests waiting already")]
    Busy {
        /// Requests that wait.
        waiting: u64,
    },
    /// The server that runs the model broke off, or answered what is no answer.
    #[error("the model's server: {0}")]
    Server(String),
    /// The request makes no sense (no options, a grammar that is none or allows nothing).
    #[error("invalid request: {0}")]
    Invalid(String),
}

/// A model that can be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// Name in the registry, such as `smollm2-135m`.
    pub name: String,
    /// SHA-256 of the file.
    pub sha256: String,
}

/// A boxed future, so that providers can be used as trait objects.
pub type Asking<'a, T> = Pin<Box<dyn Future<Output = Result<T, LlmError>> + Send + 'a>>;

/// Runs a model. `local` runs llama.cpp in a supervised child process, `openai` asks a server, `recorded` replays answers
/// exactly.
pub trait Provider: Send + Sync {
    /// Which model answers.
    fn identity(&self) -> &ModelIdentity;
    /// Scores options.
    fn score(&self, request: ScoreRequest) -> Asking<'_, Scores>;
    /// Generates text.
    fn generate(&self, request: GenerateRequest) -> Asking<'_, Generated>;
    /// Turns texts into vectors.
    fn embed(&self, request: EmbedRequest) -> Asking<'_, Embeddings>;
    /// Changes to one of its adapters, or to the model as it is; what was asked before ends as it began.
    fn adapt<'p>(&'p self, name: Option<&'p str>) -> Asking<'p, ()> {
        let refused = || LlmError::Invalid("this model has no adapters".to_owned());
        Box::pin(async move { name.map_or(Ok(()), |_| Err(refused())) })
    }
    /// Forgets past failures: a diagnosis begins, and a model that was given up is tried again.
    fn reset(&self) {}
    /// What its engine has done so far, where it has one of its own.
    fn metrics(&self) -> Option<EngineMetrics> {
        None
    }
}
