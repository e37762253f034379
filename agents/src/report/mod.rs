//! The report: what a diagnosis says, as data. `markdown`, `html` and the JSON of this struct render it.

pub mod charts;
pub mod diff;
pub mod html;
pub mod markdown;
pub mod terminal;

use serde::{Deserialize, Serialize};

use galen_tools::capture::Missing;
use galen_tools::model::{Culprit, UnixMs};
use galen_tools::observe::Observation;

/// A diagnosis report. Its JSON is the contract of `replay --json`: same capture, seed and model, same bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Name of the capture.
    pub capture: String,
    /// Name of the target.
    pub target: String,
    /// The anomalous window (the whole capture when healthy), RFC 3339.
    pub window: Span,
    /// `diagnosed`, `healthy` or `undetermined`.
    pub status: Status,
    /// One line: what is wrong, since when, what it costs.
    pub headline: String,
    /// Sentences with evidence, the short story of the incident.
    pub summary: Vec<Claim>,
    /// Who wrote the summary: `template` or the model's name (only sentences that passed the checks).
    pub summary_by: String,
    /// Root causes, most probable first; exactly `healthy` when nothing is wrong; empty when undetermined.
    pub root_causes: Vec<RootCause>,
    /// Causes that hold but follow from a root cause.
    pub consequences: Vec<Consequence>,
    /// Causes that were tested and refuted.
    pub ruled_out: Vec<RuledOut>,
    /// Everything cited, in order of id.
    pub evidence: Vec<Evidence>,
    /// Knowledge cited, in order of id.
    pub knowledge: Vec<Knowledge>,
    /// The decisive signals, for charts.
    pub charts: Vec<Chart>,
    /// What could not be seen.
    pub missing: Vec<Missing>,
    /// What to collect, when undetermined.
    pub collect_next: Vec<String>,
    /// Experts that took part.
    pub experts: Vec<ExpertNote>,
    /// Size of the search tree.
    pub tree: TreeSize,
    /// What the diagnosis cost.
    pub bill: Bill,
    /// Name of the model, if one took part.
    pub model: Option<String>,
    /// What happened to the model, when something did (`model process died: ...; went on without its votes`).
    pub model_note: Option<String>,
}

/// Start and end as RFC 3339 text in UTC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Span {
    pub start: String,
    pub end: String,
}

/// How the diagnosis ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Status {
    Diagnosed,
    Healthy,
    #[default]
    Undetermined,
}

/// A sentence and what it rests on. A sentence without evidence is not in the report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The sentence.
    pub text: String,
    /// Ids such as `E1`, `K2`; never empty.
    pub evidence: Vec<String>,
}

/// A root cause with all that a DBA needs to act.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RootCause {
    /// Id of CAUSES.md or of a user's catalog.
    pub cause: String,
    /// Title for people.
    pub title: String,
    /// Calibrated probability, 0..1, rounded to three decimals.
    pub probability: f64,
    /// One or two sentences that name the culprit.
    pub summary: String,
    /// When it began, RFC 3339.
    pub since: Option<String>,
    /// Sentences for it, each with evidence.
    pub claims: Vec<Claim>,
    /// Evidence ids.
    pub evidence: Vec<String>,
    /// Knowledge ids.
    pub knowledge: Vec<String>,
    /// What it points at, most telling first.
    pub culprits: Vec<Culprit>,
    /// What to do, best first.
    pub remedies: Vec<Remedy>,
    /// Verdicts of the other experts.
    pub reviews: Vec<Review>,
}

/// A remedy: the exact statement, what it locks, how to undo it, how to see that it helped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedy {
    /// What it does, one line.
    pub title: String,
    /// Exact statement (or shell command).
    pub sql: String,
    /// Lock level it takes, and how long.
    pub lock: String,
    /// How to undo it.
    pub rollback: String,
    /// Statement that shows whether it helped.
    pub verify: String,
    /// What to expect; measured where it was (hypothetical planner cost), and then says so.
    pub effect: String,
    /// Evidence the effect was measured in.
    pub evidence: Vec<String>,
}

/// What another expert said of a root cause.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Review {
    pub expert: String,
    /// `supported`, `refuted` or `inconclusive`.
    pub verdict: String,
    pub reason: String,
    pub evidence: Vec<String>,
}

/// A cause that holds, but is explained by a root cause.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Consequence {
    pub cause: String,
    pub of: String,
    pub reason: String,
    pub evidence: Vec<String>,
}

/// A cause that was tested and refuted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct RuledOut {
    pub cause: String,
    pub probability: f64,
    pub reason: String,
    pub evidence: Vec<String>,
}

/// An observation with its id and its digest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// `E1`, `E2`, ...
    pub id: String,
    /// Digest: short lines that people and models read.
    pub lines: Vec<String>,
    /// The observation itself.
    #[serde(flatten)]
    pub observation: Observation,
}

/// A knowledge chunk with its id.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Knowledge {
    pub id: String,
    pub title: String,
    pub excerpt: String,
    /// `file, section`, and byte offset.
    pub source: String,
}

/// A signal to draw.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Chart {
    pub signal: String,
    pub unit: String,
    pub times: Vec<UnixMs>,
    pub values: Vec<f64>,
    /// Anomalous window, to shade.
    pub from: UnixMs,
    pub to: UnixMs,
    pub baseline: Option<f64>,
    pub evidence: Vec<String>,
}

/// What one expert did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ExpertNote {
    pub expert: String,
    pub chosen_because: String,
    pub tests: u64,
}

/// Size of the search tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct TreeSize {
    pub nodes: u64,
    pub tests: u64,
}

/// What the diagnosis cost. In a replay, `probe_ms` and `wall_ms` are those of the recording (0 when it was
/// never diagnosed live), so that the same capture gives the same bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Bill {
    pub probe_ms: f64,
    pub prompt_tokens: u64,
    pub generated_tokens: u64,
    pub wall_ms: u64,
}
