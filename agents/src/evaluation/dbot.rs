//! Scores of D-Bot's anomaly specifications by the paper's accuracy, beside a method that knows no causes.

use std::collections::BTreeMap;

use galen_tools::capture::Capture;
use galen_tools::detect::{self, DetectOptions};
use galen_tools::probe::Recorded;

use super::{Capability, Score};
use crate::driver::{Library, Options, diagnose};

/// What a wrong cause costs, in right ones (the paper's sigma).
const WRONG: f64 = 0.1;
/// At most so many causes of an answer count.
pub const MOST_NAMED: usize = 4;

/// A case that was diagnosed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Case {
    /// Name of its capture.
    pub name: String,
    /// Causes that are right.
    pub labels: Vec<String>,
    /// Causes that the diagnosis named, most probable first.
    pub named: Vec<String>,
    /// The signal farthest from its baseline, in robust standard deviations; none where no signal left its range.
    pub strongest: Option<String>,
}

/// Mean accuracy of the diagnosis and of the simple method over some cases.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Means {
    /// Cases.
    pub cases: usize,
    /// Of the diagnosis, 0 to 1.
    pub accuracy: f64,
    /// Of [`trivial`] on the same cases, 0 to 1.
    pub baseline: f64,
    /// Share of the cases whose first cause is one of the labels.
    pub first: f64,
    /// Wrong causes a case.
    pub wrong: f64,
}

/// Diagnoses a recorded case. Its labels are taken out before anything looks at it.
pub async fn examine(mut capture: Capture, library: &Library) -> Case {
    let labels = std::mem::take(&mut capture.manifest.labels);
    let options = Options { replay: true, ..Options::default() };
    let detection = detect::detect(&capture, &library.signals, &DetectOptions::default());
    let report = diagnose(&capture, library, &Recorded(&capture), None, &options, &|_| {}).await.report;
    Case {
        name: capture.manifest.name,
        labels,
        named: report.root_causes.into_iter().map(|cause| cause.cause).collect(),
        strongest: detection.abnormal.into_iter().next().map(|abnormal| abnormal.signal),
    }
}

/// Accuracy of one case: right causes less a tenth of the wrong ones, over all labels; 0 when that is negative or nothing
/// is labelled (VLDB 2024, "D-Bot: Database Diagnosis System using Large Language Models"). Causes after the fourth do not count.
pub fn accuracy(named: &[String], labels: &[String]) -> f64 {
    if labels.is_empty() {
        return 0.0;
    }
    let right = labels.iter().filter(|label| named.iter().take(MOST_NAMED).any(|cause| cause == *label)).count();
    ((right as f64 - WRONG * wrong(named, labels) as f64) / labels.len() as f64).max(0.0)
}

fn wrong(named: &[String], labels: &[String]) -> usize {
    named.iter().take(MOST_NAMED).filter(|cause| !labels.contains(cause)).count()
}

/// What a method answers that knows no causes: the labels that most *other* cases with the same strongest signal have,
/// the most frequent labels of all others where no other case has that signal.
pub fn trivial(cases: &[Case]) -> Vec<Vec<String>> {
    let majority = |at: usize, same_signal: bool| {
        let mut votes: BTreeMap<&[String], usize> = BTreeMap::new();
        let others = cases.iter().enumerate().filter(|(other, _)| *other != at);
        for (_, case) in others.filter(|(_, case)| !same_signal || case.strongest == cases[at].strongest) {
            *votes.entry(&case.labels).or_default() += 1;
        }
        // The first of those with most votes, in the order of their names.
        votes.into_iter().rev().max_by_key(|(_, votes)| *votes).map(|(labels, _)| labels.to_vec())
    };
    (0..cases.len()).map(|at| majority(at, true).or_else(|| majority(at, false)).unwrap_or_default()).collect()
}

/// Means over the cases whose labels `belongs` accepts; the simple method learns from all of them.
pub fn means(cases: &[Case], belongs: impl Fn(&[String]) -> bool) -> Means {
    let answers = trivial(cases);
    let chosen: Vec<(&Case, &Vec<String>)> = cases.iter().zip(&answers).filter(|(case, _)| belongs(&case.labels)).collect();
    let mean = |of: &dyn Fn(&Case, &Vec<String>) -> f64| {
        // An empty sum is -0: plus 0 it is 0.
        chosen.iter().map(|(case, answer)| of(case, answer)).sum::<f64>() / chosen.len().max(1) as f64 + 0.0
    };
    Means {
        cases: chosen.len(),
        accuracy: mean(&|case, _| accuracy(&case.named, &case.labels)),
        baseline: mean(&|case, answer| accuracy(answer, &case.labels)),
        first: mean(&|case, _| f64::from(u8::from(case.named.first().is_some_and(|cause| case.labels.contains(cause))))),
        wrong: mean(&|case, _| wrong(&case.named, &case.labels) as f64),
    }
}

/// Sets of labels, each once, with those of one cause first.
pub fn label_sets(cases: &[Case]) -> Vec<Vec<String>> {
    let mut sets: Vec<Vec<String>> = cases.iter().map(|case| case.labels.clone()).collect();
    sets.sort_by(|a, b| a.len().cmp(&b.len()).then(a.cmp(b)));
    sets.dedup();
    sets
}

/// Scores by set of labels. `part` says which specifications these are, such as `quick`.
pub fn scores(cases: &[Case], part: &str) -> Vec<Score> {
    label_sets(cases)
        .into_iter()
        .map(|set| {
            let found = means(cases, |labels| labels == set);
            let single = set.len() == 1;
            Score {
                capability: if single { Capability::RootCause } else { Capability::MultiCause },
                task: if single { "dbot_accuracy_single" } else { "dbot_accuracy_multi" }.into(),
                dataset: format!("dbot_{}/{part}", set.join("_and_")),
                value: found.accuracy,
                baseline: found.baseline,
                cases: found.cases,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn case(labels: &str, named: &str, strongest: &str) -> Case {
        Case { name: String::new(), labels: words(labels), named: words(named), strongest: Some(strongest.to_owned()) }
    }

    #[test]
    fn accuracy_is_the_papers() {
        let of = |named: &str, labels: &str| (accuracy(&words(named), &words(labels)) * 1000.0).round() / 1000.0;
        assert_eq!(of("a", "a"), 1.0);
        assert_eq!(of("a x", "a"), 0.9);
        assert_eq!(of("a", "a b"), 0.5);
        assert_eq!(of("b x a y", "a b"), 0.9);
        assert_eq!(of("x y", "a"), 0.0);
        assert_eq!(of("", "a"), 0.0);
        assert_eq!(of("a", ""), 0.0);
        assert_eq!(of("x y z w a", "a"), 0.0, "the fifth cause comes too late");
        assert_eq!(of("a a", "a"), 1.0, "a cause counts once");
    }

    #[test]
    fn the_simple_method_learns_from_the_other_cases_only() {
        let cases = [case("a", "a", "cpu"), case("a", "", "cpu"), case("b", "b", "wal"), case("b c", "b c", "cpu")];
        assert_eq!(trivial(&cases), [words("a"), words("a"), words("a"), words("a")]);
        assert_eq!(trivial(&cases[..1]), [words("")]);
    }

    #[test]
    fn scores_are_told_by_set_of_labels() {
        let cases = [case("a", "a", "cpu"), case("a", "x", "cpu"), case("b c", "b", "wal")];
        let scores = scores(&cases, "quick");
        assert_eq!(
            scores.iter().map(|s| (s.dataset.as_str(), s.value, s.cases)).collect::<Vec<_>>(),
            [("dbot_a/quick", 0.5, 2), ("dbot_b_and_c/quick", 0.5, 1)]
        );
        assert_eq!(scores[1].capability, Capability::MultiCause);
        let all = means(&cases, |_| true);
        assert_eq!((all.cases, all.accuracy, all.wrong), (3, 0.5, 1.0 / 3.0));
    }
}
