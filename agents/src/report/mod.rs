//! The report: what a diagnosis says, as data. `markdown`, `html` and the JSON of this struct render it.

pub mod charts;
pub mod diff;
pub mod html;
pub mod markdown;
pub mod terminal;

use jiff::Timestamp;
use jiff::fmt::strtime;
use serde::{Deserialize, Serialize};

use galen_tools::capture::Missing;
use galen_tools::model::{Culprit, ProbeCost, UnixMs};
use galen_tools::observe::Observation;

use crate::llm::Usage;

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

impl Report {
    /// A few words for the top of a page: the root causes and since when; the headline where no cause is named.
    pub fn title(&self) -> String {
        match self.root_causes.first() {
            Some(first) if self.status == Status::Diagnosed => {
                let titles: Vec<&str> = self.root_causes.iter().map(|c| c.title.as_str()).collect();
                let since = first.since.as_deref().unwrap_or(&self.window.start);
                format!("{} since {}", titles.join("; "), clock(since))
            }
            _ => self.headline.clone(),
        }
    }

    /// True when the summary has this very sentence: no need to print it again.
    pub fn says(&self, sentence: &str) -> bool {
        self.summary.iter().any(|claim| claim.text == sentence)
    }
}

impl Span {
    /// `2026-03-27, 02:38:13 to 02:38:24 UTC`; with both days when they differ, and as it stands when it is no time.
    pub fn words(&self) -> String {
        let day = |text: &str| text.split('T').next().unwrap_or_default().to_owned();
        let (from, to) = (day(&self.start), day(&self.end));
        if self.start.is_empty() {
            String::new()
        } else if from == to {
            format!("{from}, {} to {}", clock(&self.start).trim_end_matches(" UTC"), clock(&self.end))
        } else {
            format!("{from}, {} to {to}, {}", clock(&self.start), clock(&self.end))
        }
    }
}

/// `14:05:03 UTC` of an RFC 3339 text; the text itself when it is none.
pub fn clock(text: &str) -> String {
    text.parse::<Timestamp>().ok().and_then(|t| strtime::format("%H:%M:%S UTC", t).ok()).unwrap_or_else(|| text.to_owned())
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
    /// Address of the file on this machine; none for what ships inside the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// A signal to draw.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Chart {
    pub signal: String,
    pub unit: String,
    pub times: Vec<UnixMs>,
    pub values: Vec<f64>,
    /// Anomalous window, to shade; empty (`from == to`) where nothing is abnormal.
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Bill {
    pub probe_ms: f64,
    /// What collecting cost, by probe, the dearest first. The rest of `probe_ms` are on-demand probes; each of these
    /// stands with its evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeCost>,
    pub prompt_tokens: u64,
    pub generated_tokens: u64,
    /// The model's tokens by agent and by what it was asked about, in the order asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub model: Vec<ModelCost>,
    pub wall_ms: u64,
}

/// What an agent cost of the model on one branch of the search.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCost {
    /// Who asked.
    pub agent: String,
    /// The hypothesis, or those weighed against each other.
    pub branch: String,
    /// Prompt tokens evaluated.
    pub prompt_tokens: u64,
    /// Prompt tokens that were evaluated before.
    pub reused_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
}

impl ModelCost {
    /// One request, or several, of an agent.
    pub fn of(agent: &str, branch: &str, usage: Usage) -> Self {
        let Usage { prompt_tokens, reused_tokens, generated_tokens } = usage;
        Self { agent: agent.to_owned(), branch: branch.to_owned(), prompt_tokens, reused_tokens, generated_tokens }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_and_windows_are_for_people() {
        let span = |start: &str, end: &str| Span { start: start.into(), end: end.into() };
        let mut report = Report { headline: "Nothing is wrong".into(), ..Report::default() };
        assert_eq!(report.title(), "Nothing is wrong");
        report.status = Status::Diagnosed;
        report.window = span("2026-03-01T10:00:03.11Z", "2026-03-01T10:01:00Z");
        report.root_causes = ["Bloat", "Spill"].map(|t| RootCause { title: t.into(), ..RootCause::default() }).to_vec();
        assert_eq!(report.title(), "Bloat; Spill since 10:00:03 UTC");
        assert_eq!(report.window.words(), "2026-03-01, 10:00:03 to 10:01:00 UTC");
        let night = span("2026-03-01T23:59:00Z", "2026-03-02T00:01:00Z").words();
        assert_eq!(night, "2026-03-01, 23:59:00 UTC to 2026-03-02, 00:01:00 UTC");
        assert_eq!((span("", "").words(), clock("soon")), (String::new(), "soon".to_owned()));
    }
}
