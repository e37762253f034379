//! What the provider and the model's process say to each other: JSON, one message a line.

use serde::{Deserialize, Serialize};

use super::batched::Counts;
use super::{EmbedRequest, Embeddings, GenerateRequest, Generated, LlmError, ScoreRequest, Scores, Usage};

/// Most bytes of a message of the process, its end of line aside. Vectors are the longest, whose numbers take some 14 bytes each: room for
/// 4,096 texts of 1,024 numbers, more than a minute's work. The context bounds texts and options long before.
pub const LONGEST_MESSAGE: usize = 64 << 20;

/// Most characters of why something failed that are taken from the process: they go into logs and reports.
pub const LONGEST_WHY: usize = 500;

/// From the provider to the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ToWorker {
    /// Work on this.
    Ask {
        /// Number that the answer carries.
        id: u64,
        /// The work.
        task: Box<Task>,
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

/// Who asks, and about what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asker {
    /// Agent.
    pub agent: String,
    /// Incident; empty where there is only one.
    pub incident: String,
    /// Hypothesis or node of the search; empty for the whole tree.
    pub branch: String,
}

impl Asker {
    /// Takes the names of a request.
    pub fn new(agent: &str, incident: &str, branch: &str) -> Self {
        Self { agent: agent.to_owned(), incident: incident.to_owned(), branch: branch.to_owned() }
    }
}

impl Task {
    /// Who asks.
    pub fn asker(&self) -> Asker {
        match self {
            Self::Score(r) => Asker::new(&r.agent, &r.incident, &r.branch),
            Self::Generate(r) => Asker::new(&r.agent, &r.incident, &r.branch),
            Self::Embed(r) => Asker::new(&r.agent, &r.incident, &r.branch),
            Self::Adapt(_) => Asker::new("engine", "", ""),
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
        /// What it cost, also where nothing came of it.
        usage: Usage,
        /// How long it took.
        times: Times,
        /// What the engine has done so far; none where it works on one request at a time.
        counts: Option<Counts>,
    },
    /// A sign of life: a batch was evaluated, or a text embedded. At most one a second, the first after a batch that was at least
    /// half full, and none where it works on one request at a time.
    Step {
        /// What the engine has done so far, and holds now.
        counts: Counts,
    },
}

impl FromWorker {
    /// The same with why it failed cut to [`LONGEST_WHY`], and on one line.
    pub fn brief(mut self) -> Self {
        use LlmError::{Crashed, Invalid, Server, Unavailable};
        if let Self::Failed(error) | Self::Answer { result: Err(error), .. } = &mut self
            && let Crashed(why) | Invalid(why) | Server(why) | Unavailable(why) = error
        {
            *why = why.chars().take(LONGEST_WHY).map(|c| if c.is_control() { ' ' } else { c }).collect();
        }
        self
    }
}

/// How long a request took, microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// In the queue; from the process, since it got the request.
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
