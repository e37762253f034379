//! Evaluation: what a benchmark measured, as scores in a hierarchy of capability, task and dataset.

pub mod bootstrap;
pub mod calibration;
pub mod compare;
pub mod dbot;
pub mod dbsherlock;
pub mod density;
pub mod faithfulness;
pub mod leaderboard;
pub mod measured;
mod measured_pairs;
pub mod numeric;
pub mod pass_until;
pub mod plots;
pub mod question;
pub mod rds;
pub mod record;
pub mod remedy;
pub mod scaling;
pub mod score;
#[cfg(test)]
mod score_fixture;
pub mod split;
pub mod tasks;

use serde::{Deserialize, Serialize};

use measured::Figure;

/// What a benchmark asks of a diagnosis. Scores are averaged from dataset to task to capability, so that a dataset
/// with many cases does not drown one with few.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Finding the anomalous window, and staying quiet when there is none.
    Detection,
    /// Naming the culprit: query, table, index, session, setting, host.
    Localisation,
    /// Naming the root cause first.
    RootCause,
    /// Naming all of several root causes.
    MultiCause,
    /// Saying "healthy" or "not enough evidence" where that is right.
    Abstention,
    /// Retrieving the right knowledge.
    Knowledge,
    /// Claims that rest on evidence that says so.
    Faithfulness,
    /// Remedies that fix what was wrong.
    Remedy,
    /// Results that hold with missing metrics, red herrings and noise.
    Robustness,
    /// Probabilities that keep their word.
    Calibration,
    /// Time, probes and tokens.
    Cost,
}

impl Capability {
    /// Name in snake case, as JSON has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Detection => "detection",
            Self::Localisation => "localisation",
            Self::RootCause => "root_cause",
            Self::MultiCause => "multi_cause",
            Self::Abstention => "abstention",
            Self::Knowledge => "knowledge",
            Self::Faithfulness => "faithfulness",
            Self::Remedy => "remedy",
            Self::Robustness => "robustness",
            Self::Calibration => "calibration",
            Self::Cost => "cost",
        }
    }
}

/// One measured figure, beside what a trivial method reaches on the same cases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// What was asked.
    pub capability: Capability,
    /// Task in snake case, such as `top1_end_to_end`.
    pub task: String,
    /// Dataset in snake case, with the half it was measured on: `dbsherlock_single/test`.
    pub dataset: String,
    /// Measured value, 0 to 1, higher is better.
    pub value: f64,
    /// What the trivial method of the task reaches on the same cases, 0 to 1.
    pub baseline: f64,
    /// Cases behind the value.
    pub cases: usize,
    /// What the method reaches where there is nothing to find, 0 to 1; none where the task has no such control.
    #[serde(default)]
    pub placebo: Option<f64>,
    /// Shown beside the others and not averaged with them: a control, the same without a part, or a data set whose cases
    /// stand in another one of the task.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub aside: bool,
}

impl Score {
    /// The figure that it is the value of.
    pub fn figure(&self) -> Figure<'_> {
        Figure { capability: self.capability, task: &self.task, dataset: &self.dataset }
    }
}
