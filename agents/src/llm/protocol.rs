//! What the provider and the model's process say to each other: JSON, one message a line.

use serde::{Deserialize, Serialize};

use super::batched::Counts;
use super::{EmbedRequest, Embeddings, GenerateRequest, Generated, LlmError, ScoreRequest, Scores, Usage};

/// From the provider to the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ToWorker {
    /// Work on this.
    Ask {
        /// Number that the answer carries.
        id: u64,
        /// The work.
        task: Task,
    },
    /// Nobody waits for this one any more.
    Cancel {
        /// Number of the request.
        id: u64,
    },
}

/// A piece of work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Score options.
    Score(ScoreRequest),
    /// Generate text.
    Generate(GenerateRequest),
    /// Turn texts into vectors.
    Embed(EmbedRequest),
    /// When all before it is done, change to the adapter of this name, or to none.
    Adapt(Option<String>),
}

impl Task {
    /// Who asks, and about which incident.
    pub fn from(&self) -> (&str, &str) {
        match self {
            Self::Score(r) => (&r.agent, &r.incident),
            Self::Generate(r) => (&r.agent, &r.incident),
            Self::Embed(r) => (&r.agent, &r.incident),
            Self::Adapt(_) => ("engine", ""),
        }
    }
}

/// From the process to the provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FromWorker {
    /// The model is loaded; comes first.
    Ready {
        /// Milliseconds it took to load.
        load_ms: u64,
        /// Tokens of the context.
        context: u64,
    },
    /// The model does not load; comes first and last.
    Failed(LlmError),
    /// Work on a request begins.
    Began {
        /// Number of the request.
        id: u64,
    },
    /// The answer to a request.
    Answer {
        /// Number of the request.
        id: u64,
        /// What came of it.
        result: Result<Output, LlmError>,
        /// How long it took.
        times: Times,
        /// What the engine has done so far; none where it works on one request at a time.
        counts: Option<Counts>,
    },
}

/// How long a request took, microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// In the queue.
    pub queued_us: u64,
    /// At work.
    pub ran_us: u64,
}

/// What came of a piece of work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Of scoring.
    Scores(Scores),
    /// Of generating.
    Generated(Generated),
    /// Of embedding.
    Embeddings(Embeddings),
    /// The adapter is changed.
    Adapted,
}

impl Output {
    /// Tokens that it cost.
    pub fn usage(&self) -> Usage {
        match self {
            Self::Scores(s) => s.usage,
            Self::Generated(g) => g.usage,
            Self::Embeddings(e) => e.usage,
            Self::Adapted => Usage::default(),
        }
    }
}
