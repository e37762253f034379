//! Observation tools: each reads a capture (and may ask the prober) and returns named facts that tests can judge.

pub mod activity;
pub mod digest;
pub mod facts;
pub mod statements;
pub mod system;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::capture::Capture;
use crate::detect::Detection;
use crate::model::{Culprit, Window};
use crate::probe::Prober;

/// What a tool returned. Facts are named in snake case with the unit as suffix (`_ms`, `_bytes`, `_per_s`,
/// `_share` for 0..1, `_ratio` for anomaly over baseline, `_base` for the baseline's value).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Name of the tool.
    pub tool: String,
    /// Exact invocation, such as `table_scans window=2026-01-01T00:00:00Z/...`.
    pub invocation: String,
    /// Interval the facts speak of.
    pub window: Option<Window>,
    /// Named facts: numbers, strings, booleans, lists of strings. A fact that cannot be known is absent.
    pub facts: BTreeMap<String, Value>,
    /// Signals that show it best, by rendered name, most telling first: the report draws them.
    pub signals: Vec<String>,
    /// What it points at.
    pub culprits: Vec<Culprit>,
    /// Why there is no data, when there is none; then `facts` is empty.
    pub no_data: Option<String>,
    /// Milliseconds it cost the target (0 when answered from the capture).
    pub cost_ms: f64,
}

/// What a tool may look at.
pub struct Scene<'a> {
    /// The capture under diagnosis.
    pub capture: &'a Capture,
    /// What the detector found in it.
    pub detection: &'a Detection,
    /// Who answers on-demand probes.
    pub prober: &'a dyn Prober,
}

/// Calls a tool by name. A name that no tool has gives an observation without data.
pub async fn observe(tool: &str, scene: &Scene<'_>) -> Observation {
    if let Some(observation) = system::observe(tool, scene) {
        return observation;
    }
    statements::observe(tool, scene).await.unwrap_or_else(|| Observation {
        tool: tool.to_owned(),
        invocation: tool.to_owned(),
        no_data: Some("there is no tool of this name".into()),
        ..Observation::default()
    })
}
