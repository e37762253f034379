//! Diagnosing recorded cases and comparing what was named with what was injected.

use std::path::{Path, PathBuf};

use anyhow::Context;
use galen_agents::driver::{Library, Options, diagnose};
use galen_agents::report::Report;
use galen_tools::capture::Capture;
use galen_tools::probe::Recorded;
use galen_tools::store::file;
use serde::Serialize;

use super::answer::Answer;
use super::scenario::ExpectedCulprit;

/// How a diagnosis stands to the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Some expected cause is not named.
    Missed,
    /// Every expected cause is named, with another before the first of them.
    Named,
    /// Every expected cause is named, and one of them comes first.
    First,
}

/// One case: what was injected and what was named.
#[derive(Debug, Clone, Serialize)]
pub struct Checked {
    /// Stem of the case's files.
    pub case: String,
    /// Name of the scenario.
    pub scenario: String,
    /// `server_version_num`.
    pub server_version_num: i32,
    /// What was injected.
    pub expected: Vec<String>,
    /// What was named, with probabilities.
    pub named: Vec<(String, f64)>,
    /// How they compare.
    pub standing: Standing,
    /// Expected culprits that the report points at, and how many there are.
    pub culprits: (usize, usize),
    /// Overlap of the found window with the true one, as a share of their union; none where nothing is wrong.
    pub window_iou: Option<f64>,
}

/// Diagnoses a capture as `galen replay` does; opens the answer only afterwards. Returns the capture too: whether its labels are
/// those of the answer, and whether it is a copy of another, is for the caller to tell.
///
/// # Errors
/// Either file cannot be read.
pub async fn check(capture: &Path, library: &Library) -> anyhow::Result<(Capture, Checked)> {
    let owned: PathBuf = capture.to_owned();
    let read = tokio::task::spawn_blocking(move || file::read(&owned)).await??;
    let options = Options { replay: true, ..Options::default() };
    let report = diagnose(&read, library, &Recorded(&read), None, &options, &|_| {}).await.report;
    let place = Answer::path(capture);
    let text =
        std::fs::read(&place).with_context(|| format!("there is no answer to {}: cannot read {}", capture.display(), place.display()))?;
    let answer: Answer = serde_json::from_slice(&text).with_context(|| format!("in {}", place.display()))?;
    Ok((read, compare(&report, &answer)))
}

fn compare(report: &Report, answer: &Answer) -> Checked {
    let named: Vec<(String, f64)> = report.root_causes.iter().map(|it| (it.cause.clone(), it.probability)).collect();
    let found = answer.culprits.iter().filter(|wanted| points_at(report, wanted)).count();
    Checked {
        case: report.capture.clone(),
        scenario: answer.scenario.clone(),
        server_version_num: answer.server_version_num,
        standing: standing(&answer.causes, &named),
        expected: answer.causes.clone(),
        named,
        culprits: (found, answer.culprits.len()),
        window_iou: overlap(report, answer),
    }
}

fn standing(expected: &[String], named: &[(String, f64)]) -> Standing {
    let all = expected.iter().all(|cause| named.iter().any(|(name, _)| name == cause));
    match named.first() {
        Some((first, _)) if all && expected.contains(first) => Standing::First,
        _ if all && !named.is_empty() => Standing::Named,
        _ => Standing::Missed,
    }
}

fn points_at(report: &Report, wanted: &ExpectedCulprit) -> bool {
    let pattern = wanted.pattern.to_lowercase();
    report.root_causes.iter().flat_map(|cause| &cause.culprits).any(|culprit| {
        culprit.kind == wanted.kind && (culprit.id.to_lowercase().contains(&pattern) || culprit.text.to_lowercase().contains(&pattern))
    })
}

fn overlap(report: &Report, answer: &Answer) -> Option<f64> {
    let truth = answer.window?;
    let at = |text: &str| text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond);
    let (start, end) = (at(&report.window.start)?, at(&report.window.end)?);
    let both = (end.min(truth.end) - start.max(truth.start)).max(0) as f64;
    let either = (end.max(truth.end) - start.min(truth.start)) as f64;
    (either > 0.0).then(|| both / either)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(causes: &[&str]) -> Vec<(String, f64)> {
        causes.iter().map(|cause| ((*cause).to_owned(), 0.5)).collect()
    }

    #[test]
    fn all_expected_causes_have_to_be_named() {
        let two = ["a".to_owned(), "b".to_owned()];
        assert_eq!(standing(&two, &names(&["b", "x", "a"])), Standing::First);
        assert_eq!(standing(&two, &names(&["x", "a", "b"])), Standing::Named);
        assert_eq!(standing(&two, &names(&["a", "x"])), Standing::Missed);
        assert_eq!(standing(&two, &[]), Standing::Missed);
    }
}
