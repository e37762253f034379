//! Scores of D-Bot's anomaly specifications by the paper's accuracy, beside a method that knows no causes.

use std::collections::BTreeMap;

use serde::Serialize;

use galen_tools::capture::Capture;
use galen_tools::detect::{self, DetectOptions};
use galen_tools::probe::Recorded;

use super::Capability;
use super::measured::{Figure, Measured};
use super::numeric::mean;
use crate::driver::{Library, Options, diagnose};

/// What a wrong cause costs, in right ones (the paper's sigma).
const WRONG: f64 = 0.1;
/// At most so many causes of an answer count.
pub const MOST_NAMED: usize = 4;

/// What its tasks measure, in a few words.
pub const ABOUT: &str = "(right - 0.1 wrong) / labelled over at most four named, not below 0; simple: the labels of most other cases with the same strongest signal; placebo: by the labels of each other case, averaged";

/// A case that was diagnosed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Case {
    /// Id: its file's path below the folder, without the ending.
    pub id: String,
    /// SHA-256 of its capture's file, which holds the labels.
    pub sha256: String,
    /// Name of its capture.
    pub name: String,
    /// Causes that are right.
    pub labels: Vec<String>,
    /// Causes that the diagnosis named, most probable first.
    pub named: Vec<String>,
    /// The signal farthest from its baseline, in robust standard deviations; none where no signal left its range.
    pub strongest: Option<String>,
}

/// How a case came out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome<'c> {
    /// The case.
    pub case: &'c Case,
    /// Accuracy of the diagnosis, 0 to 1.
    pub accuracy: f64,
    /// Accuracy of [`trivial`], 0 to 1.
    pub baseline: f64,
    /// Mean accuracy of the same diagnosis by the labels of each other case, 0 to 1; none where there is no other.
    pub placebo: Option<f64>,
    /// The first cause named is one of the labels.
    pub first: bool,
    /// Causes named wrongly.
    pub wrong: usize,
}

/// Mean accuracy of the diagnosis, of the simple method and of the placebo over some cases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Means {
    /// Cases.
    pub cases: usize,
    /// Of the diagnosis, 0 to 1.
    pub accuracy: f64,
    /// Of [`trivial`] on the same cases, 0 to 1.
    pub baseline: f64,
    /// Of the diagnosis by the labels of other cases, 0 to 1; none where a case has no other.
    pub placebo: Option<f64>,
    /// Share of the cases whose first cause is one of the labels.
    pub first: f64,
    /// Wrong causes a case.
    pub wrong: f64,
}

/// Diagnoses a recorded case. Its labels are taken out before anything looks at it. The caller adds which file it was.
pub async fn examine(mut capture: Capture, library: &Library, options: &Options) -> Case {
    let labels = std::mem::take(&mut capture.manifest.labels);
    let detection = detect::detect(&capture, &library.signals, &DetectOptions::default());
    let report = diagnose(&capture, library, &Recorded(&capture), None, options, &|_| {}).await.report;
    Case {
        name: capture.manifest.name,
        labels,
        named: report.root_causes.into_iter().map(|cause| cause.cause).collect(),
        strongest: detection.abnormal.into_iter().next().map(|abnormal| abnormal.signal),
        ..Case::default()
    }
}

/// Accuracy of one case: right causes less a tenth of the wrong ones, over all labels; 0 when that is negative or nothing
/// is labelled (VLDB 2024, "D-Bot: Database Diagnosis System using Large Language Models"). Causes after the fourth do not count.
pub fn accuracy(named: &[impl AsRef<str>], labels: &[String]) -> f64 {
    if labels.is_empty() {
        return 0.0;
    }
    let right = labels.iter().filter(|label| named.iter().take(MOST_NAMED).any(|cause| cause.as_ref() == *label)).count();
    ((right as f64 - WRONG * wrong(named, labels) as f64) / labels.len() as f64).max(0.0)
}

fn wrong(named: &[impl AsRef<str>], labels: &[String]) -> usize {
    named.iter().take(MOST_NAMED).filter(|cause| !labels.iter().any(|label| label == cause.as_ref())).count()
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

/// What the diagnosis of a case reaches when labels are dealt to other cases: by the labels of each other case in turn, the
/// mean. No seed and no order of the cases decides it.
fn placebo(cases: &[Case], at: usize) -> Option<f64> {
    let others = cases.iter().enumerate().filter(|(other, _)| *other != at);
    let reached: Vec<f64> = others.map(|(_, other)| accuracy(&cases[at].named, &other.labels)).collect();
    (!reached.is_empty()).then(|| mean(&reached))
}

/// How each case came out, beside the simple method, which learns from all the others, and the placebo.
pub fn outcomes(cases: &[Case]) -> Vec<Outcome<'_>> {
    let outcomes = cases.iter().zip(trivial(cases)).enumerate().map(|(at, (case, answer))| Outcome {
        accuracy: accuracy(&case.named, &case.labels),
        baseline: accuracy(&answer, &case.labels),
        placebo: placebo(cases, at),
        first: case.named.first().is_some_and(|cause| case.labels.contains(cause)),
        wrong: wrong(&case.named, &case.labels),
        case,
    });
    outcomes.collect()
}

/// Means over the cases whose labels `belongs` accepts.
pub fn means(outcomes: &[Outcome<'_>], belongs: impl Fn(&[String]) -> bool) -> Means {
    let chosen: Vec<&Outcome<'_>> = outcomes.iter().filter(|outcome| belongs(&outcome.case.labels)).collect();
    let column = |of: fn(&Outcome<'_>) -> f64| mean(&chosen.iter().map(|outcome| of(outcome)).collect::<Vec<_>>());
    let placebos: Option<Vec<f64>> = chosen.iter().map(|outcome| outcome.placebo).collect();
    Means {
        cases: chosen.len(),
        accuracy: column(|o| o.accuracy),
        baseline: column(|o| o.baseline),
        placebo: placebos.filter(|all| !all.is_empty()).as_deref().map(mean),
        first: column(|o| f64::from(u8::from(o.first))),
        wrong: column(|o| o.wrong as f64),
    }
}

/// Sets of labels, each once, with those of one cause first.
pub fn label_sets(outcomes: &[Outcome<'_>]) -> Vec<Vec<String>> {
    let mut sets: Vec<Vec<String>> = outcomes.iter().map(|outcome| outcome.case.labels.clone()).collect();
    sets.sort_by(|a, b| a.len().cmp(&b.len()).then(a.cmp(b)));
    sets.dedup();
    sets
}

/// The accuracy of each case, by set of labels. `part` says which specifications these are, such as `quick`.
pub fn measured(outcomes: &[Outcome<'_>], part: &str) -> Vec<Measured> {
    let mut sorted: Vec<&Outcome<'_>> = outcomes.iter().collect();
    sorted.sort_by_key(|outcome| (outcome.case.labels.len(), &outcome.case.labels));
    let line = |outcome: &&Outcome<'_>| {
        let Case { id, sha256, labels, .. } = outcome.case;
        let (capability, task) = match labels.len() {
            1 => (Capability::RootCause, "dbot_accuracy_single"),
            _ => (Capability::MultiCause, "dbot_accuracy_multi"),
        };
        let dataset = format!("dbot_{}/{part}", labels.join("_and_"));
        let line = Figure { capability, task, dataset: &dataset }.of_case(id, sha256, [outcome.accuracy, outcome.baseline]);
        Measured { placebo: outcome.placebo, ..line }
    };
    sorted.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::measured::scores;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn case(labels: &str, named: &str, strongest: &str) -> Case {
        Case { labels: words(labels), named: words(named), strongest: Some(strongest.to_owned()), ..Case::default() }
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
    fn the_placebo_is_what_the_same_answers_reach_by_the_labels_of_other_cases() {
        let cases = [case("a", "a", "cpu"), case("a", "x", "cpu"), case("b", "b a", "wal")];
        let told = outcomes(&cases);
        // The first by `a` and `b`, the last by `a` twice, each time with one wrong cause.
        assert_eq!(told.iter().map(|outcome| outcome.placebo).collect::<Vec<_>>(), [Some(0.5), Some(0.0), Some(0.9)]);
        assert_eq!(means(&told, |_| true).placebo, Some((0.5 + 0.0 + 0.9) / 3.0));
        let lines = measured(&told, "quick");
        assert_eq!(lines.iter().map(|line| line.placebo).collect::<Vec<_>>(), [Some(0.5), Some(0.0), Some(0.9)]);
        assert_eq!(scores(&lines)[0].placebo, Some(0.25));
        let turned: Vec<Case> = cases.iter().rev().cloned().collect();
        assert_eq!(outcomes(&turned)[0].placebo, Some(0.9), "the order of the cases does not count");
        let alone = outcomes(&cases[..1]);
        assert_eq!((alone[0].placebo, means(&alone, |_| true).placebo, means(&alone, |_| false).placebo), (None, None, None));
    }

    #[test]
    fn scores_are_told_by_set_of_labels_and_are_the_means() {
        let cases = [case("b c", "b", "wal"), case("a", "a", "cpu"), case("a", "x", "cpu")];
        let told = outcomes(&cases);
        let scores = scores(&measured(&told, "quick"));
        assert_eq!(
            scores.iter().map(|s| (s.dataset.as_str(), s.value, s.cases)).collect::<Vec<_>>(),
            [("dbot_a/quick", 0.5, 2), ("dbot_b_and_c/quick", 0.5, 1)]
        );
        assert_eq!(scores[1].capability, Capability::MultiCause);
        for (set, score) in label_sets(&told).iter().zip(&scores) {
            let found = means(&told, |labels| labels == set);
            assert_eq!((found.cases, found.accuracy, found.baseline), (score.cases, score.value, score.baseline));
        }
        let all = means(&told, |_| true);
        assert_eq!((all.cases, all.accuracy, all.wrong), (3, 0.5, 1.0 / 3.0));
    }
}
