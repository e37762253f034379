//! On-demand probes: the few questions that a running diagnosis may put to the target, each typed and enumerable.

use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

use crate::capture::Capture;

/// A question to the target. Arguments are ids out of the capture, never free text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "probe", rename_all = "snake_case")]
pub enum ProbeCall {
    /// The generic plan of a statement, as EXPLAIN (FORMAT JSON) gives it. Never ANALYZE.
    Plan {
        /// Statement, by query id.
        query_id: i64,
    },
    /// Planner cost of a statement with and without hypothetical indexes (hypopg).
    HypotheticalIndex {
        /// Statement, by query id.
        query_id: i64,
        /// Schema-qualified table.
        table: String,
        /// Key columns of the index to try.
        columns: Vec<String>,
    },
}

impl ProbeCall {
    /// Stable key under which the answer is frozen in a capture.
    pub fn key(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What the target said, or why it said nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeAnswer {
    /// The data: for `Plan` the `Plan` object of EXPLAIN; for `HypotheticalIndex`
    /// `{"cost_before","cost_after","index_bytes","uses_index","definition"}`.
    pub data: Option<serde_json::Value>,
    /// Why there is no data (one line, with what to do), when there is none.
    pub no_data: Option<String>,
    /// Milliseconds it took at the client.
    pub cost_ms: f64,
}

/// A boxed future, so that probers can be used as trait objects.
pub type Answering<'a> = Pin<Box<dyn Future<Output = ProbeAnswer> + Send + 'a>>;

/// Somebody who can answer probe calls: a live target, or the answers frozen in a capture.
pub trait Prober: Send + Sync {
    /// Answers one call; failure is an answer without data, never an error.
    fn ask<'a>(&'a self, call: &'a ProbeCall) -> Answering<'a>;
}

/// Answers from what the capture holds: the replay's prober.
pub struct Recorded<'c>(pub &'c Capture);

impl Prober for Recorded<'_> {
    fn ask<'a>(&'a self, call: &'a ProbeCall) -> Answering<'a> {
        let answer = self.0.answers.get(&call.key()).cloned().unwrap_or(ProbeAnswer {
            data: None,
            no_data: Some("the capture holds no answer to this probe".into()),
            cost_ms: 0.0,
        });
        Box::pin(async move { answer })
    }
}
