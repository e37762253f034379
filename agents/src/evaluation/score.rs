//! Scores as a hierarchy: data set to task to capability to the whole, each level normalised against a baseline.
//!
//! CUGE (Yao et al., "CUGE: A Chinese Language Understanding and Generation Evaluation Benchmark", 2021) scores on the
//! levels of its hierarchy of capability, task and data set: each data set's score is set in relation to a baseline
//! model's, so that data sets of different difficulty can be averaged; tasks are means of their data sets, capabilities
//! of their tasks, the whole of its capabilities. Here the baseline of a data set is what a trivial method reaches
//! on the same cases. Two relations are kept: `ratio`, 100 x value / baseline as CUGE does it, where the baseline is
//! above 0; and `gain`, 100 x (value - baseline) / (1 - baseline), 0 for the trivial method and 100 for perfection, which
//! is defined for a baseline of 0 as well and does not explode for small ones. Rankings go by `gain`; with a reference
//! run in the place of the trivial method, `ratio` is CUGE's own score.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::numeric::mean;
use super::record::{CaseLine, Run};
use super::tasks::{Context, TASKS};
use super::{Capability, Score, measured};

/// A level of the hierarchy with what it is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Capability, task or data set.
    pub name: String,
    /// Mean value, 0 to 1.
    pub value: f64,
    /// Mean baseline, 0 to 1.
    pub baseline: f64,
    /// Mean gain: 0 for the baseline, 100 for perfection.
    pub gain: f64,
    /// Mean of value over baseline in percent, over those below whose baseline is above 0.
    pub ratio: Option<f64>,
    /// Cases behind it (the most of any task below, for levels above the data set).
    pub cases: usize,
    /// What is reached where there is nothing to find, 0 to 1; of a data set whose task has such a control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placebo: Option<f64>,
    /// The levels below.
    pub parts: Vec<Level>,
}

/// All scores of a run: one for each task and data set that its cases say something about, and those of a public benchmark.
pub fn scores(run: &Run) -> Vec<Score> {
    let mut out = Vec::new();
    for (dataset, cases) in by_dataset(run) {
        let context = Context::new(&cases);
        for task in TASKS {
            let pairs: Vec<(f64, f64)> = cases.iter().filter_map(|c| (task.measure)(c, &context)).collect();
            if pairs.is_empty() {
                continue;
            }
            let column = |of: fn(&(f64, f64)) -> f64| mean(&pairs.iter().map(of).collect::<Vec<_>>());
            out.push(Score {
                capability: task.capability,
                task: task.name.to_owned(),
                dataset: format!("{dataset}/{}", run.header.pins.half),
                value: column(|m| m.0),
                baseline: column(|m| m.1),
                cases: pairs.len(),
                placebo: None,
                aside: false,
            });
        }
    }
    out.extend(measured::scores(&run.measured));
    out
}

/// Cases by data set.
pub fn by_dataset(run: &Run) -> BTreeMap<&str, Vec<&CaseLine>> {
    let mut sets: BTreeMap<&str, Vec<&CaseLine>> = BTreeMap::new();
    for case in &run.cases {
        sets.entry(&case.dataset).or_default().push(case);
    }
    sets
}

/// Gain over a baseline in percent of what was left to gain; where nothing was, 100 less what was lost.
pub fn gain(value: f64, baseline: f64) -> f64 {
    let room = 1.0 - baseline;
    if room > 1e-9 { 100.0 * (value - baseline) / room } else { 100.0 * value }
}

/// Puts scores into their hierarchy, but for those that stand aside. With scores of a reference run, its values are the baselines.
pub fn hierarchy(scores: &[Score], reference: Option<&[Score]>) -> Level {
    let mut tree: BTreeMap<Capability, BTreeMap<&str, Vec<Level>>> = BTreeMap::new();
    for score in scores.iter().filter(|score| !score.aside) {
        let of_reference = |s: &&Score| s.figure() == score.figure();
        let baseline = match reference {
            None => Some(score.baseline),
            Some(others) => others.iter().find(of_reference).map(|s| s.value),
        };
        // What the reference did not run cannot be set in relation.
        let Some(baseline) = baseline else { continue };
        let leaf = Level {
            name: score.dataset.clone(),
            value: score.value,
            baseline,
            gain: gain(score.value, baseline),
            ratio: (baseline > 0.0).then(|| 100.0 * score.value / baseline),
            cases: score.cases,
            placebo: score.placebo,
            parts: Vec::new(),
        };
        tree.entry(score.capability).or_default().entry(&score.task).or_default().push(leaf);
    }
    let capabilities = tree
        .into_iter()
        .map(|(capability, tasks)| level(capability.word(), tasks.into_iter().map(|(task, sets)| level(task, sets)).collect()));
    level("all", capabilities.collect())
}

fn level(name: &str, parts: Vec<Level>) -> Level {
    let column = |of: fn(&Level) -> f64| mean(&parts.iter().map(of).collect::<Vec<_>>());
    let ratios: Vec<f64> = parts.iter().filter_map(|p| p.ratio).collect();
    Level {
        name: name.to_owned(),
        value: column(|p| p.value),
        baseline: column(|p| p.baseline),
        gain: column(|p| p.gain),
        ratio: (!ratios.is_empty()).then(|| mean(&ratios)),
        cases: parts.iter().map(|p| p.cases).max().unwrap_or(0),
        placebo: None,
        parts,
    }
}

#[cfg(test)]
#[path = "score_tests.rs"]
mod tests;
