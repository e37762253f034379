//! What the provider and the model's process say to each other: JSON, one message a line.

use serde::{Deserialize, Serialize};

use super::{GenerateRequest, Generated, LlmError, ScoreRequest, Scores};

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
    /// The answer to a request.
    Answer {
        /// Number of the request.
        id: u64,
        /// What came of it.
        result: Result<Output, LlmError>,
    },
}

/// What came of a piece of work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Of scoring.
    Scores(Scores),
    /// Of generating.
    Generated(Generated),
}
