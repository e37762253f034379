//! What a public benchmark measured, case by case: the lines from which each of its scores is computed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::numeric::mean;
use super::{Capability, Score};

/// One task measured on one case, or over a whole data set where it says nothing about single cases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// What was asked.
    pub capability: Capability,
    /// Task in snake case.
    pub task: String,
    /// Data set in snake case, with the half or protocol that it was measured by: `dbsherlock_single/test`.
    pub dataset: String,
    /// Id of the case; none where the figure exists over the whole data set only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub case: Option<String>,
    /// Cases behind it: one, but for a figure over a whole data set.
    pub cases: usize,
    /// SHA-256 of what was read: the recording with what is right about it; of a whole data set, all of them.
    pub input_sha256: String,
    /// What was reached, 0 to 1, higher is better.
    pub value: f64,
    /// What the simple method reaches on the same case.
    pub baseline: f64,
    /// What is reached where there is nothing to find; none where the task has no such control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placebo: Option<f64>,
    /// Shown beside the scores and not averaged with them: see [`Score::aside`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub aside: bool,
}

/// What the lines of one figure share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Figure<'a> {
    /// What was asked.
    pub capability: Capability,
    /// Task.
    pub task: &'a str,
    /// Data set with its half or protocol.
    pub dataset: &'a str,
}

impl Figure<'_> {
    /// The line of a case: what was reached, and what the simple method reaches.
    pub fn of_case(self, case: &str, input_sha256: &str, [value, baseline]: [f64; 2]) -> Measured {
        Measured {
            capability: self.capability,
            task: self.task.to_owned(),
            dataset: self.dataset.to_owned(),
            case: Some(case.to_owned()),
            cases: 1,
            input_sha256: input_sha256.to_owned(),
            value,
            baseline,
            placebo: None,
            aside: false,
        }
    }
}

impl Measured {
    /// The figure that it belongs to.
    pub fn figure(&self) -> Figure<'_> {
        Figure { capability: self.capability, task: &self.task, dataset: &self.dataset }
    }

    /// Where it belongs: its figure, and its case. No two lines of a run have the same.
    pub fn place(&self) -> (Figure<'_>, Option<&str>) {
        (self.figure(), self.case.as_deref())
    }

    /// How a person calls it: `top1 of dbsherlock_single/test, single/cpu_saturation/01`.
    pub fn name(&self) -> String {
        let case = self.case.as_ref().map(|case| format!(", {case}")).unwrap_or_default();
        format!("{} of {}{case}", self.task, self.dataset)
    }

    /// Checks what was read from a file.
    ///
    /// # Errors
    /// One line: a value that is not between 0 and 1.
    pub fn check(&self) -> Result<(), String> {
        let wrong = [Some(self.value), Some(self.baseline), self.placebo].into_iter().flatten().find(|v| !(0.0..=1.0).contains(v));
        wrong.map_or(Ok(()), |value| Err(format!("{}: {value} is not between 0 and 1", self.name())))
    }
}

/// What belongs to the same figure together, in the order in which the figures first appear.
pub fn by_figure<'a, T>(items: impl IntoIterator<Item = (Figure<'a>, T)>) -> Vec<(Figure<'a>, Vec<T>)> {
    let mut places: BTreeMap<Figure<'a>, usize> = BTreeMap::new();
    let mut groups: Vec<(Figure<'a>, Vec<T>)> = Vec::new();
    for (figure, item) in items {
        let place = *places.entry(figure).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((_, same)) => same.push(item),
            None => groups.push((figure, vec![item])),
        }
    }
    groups
}

/// The scores of lines, in the order in which their figures first appear: means over the lines of a figure. The placebo is a
/// mean where each line has one.
pub fn scores(lines: &[Measured]) -> Vec<Score> {
    let score = |(figure, lines): (Figure<'_>, Vec<&Measured>)| {
        let column = |value: fn(&Measured) -> f64| mean(&lines.iter().map(|l| value(l)).collect::<Vec<_>>());
        let placebos: Option<Vec<f64>> = lines.iter().map(|l| l.placebo).collect();
        Score {
            capability: figure.capability,
            task: figure.task.to_owned(),
            dataset: figure.dataset.to_owned(),
            value: column(|l| l.value),
            baseline: column(|l| l.baseline),
            cases: lines.iter().map(|l| l.cases).sum(),
            placebo: placebos.as_deref().map(mean),
            aside: lines.iter().any(|l| l.aside),
        }
    };
    by_figure(lines.iter().map(|line| (line.figure(), line))).into_iter().map(score).collect()
}

/// SHA-256 over parts, in hexadecimal; where one part ends and the next begins counts.
pub fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_the_mean_of_its_lines_and_figures_keep_their_order() {
        let top1 = Figure { capability: Capability::RootCause, task: "top1", dataset: "d/test" };
        let iou = Figure { capability: Capability::Detection, task: "iou", ..top1 };
        let lines = [
            Measured { placebo: Some(0.5), ..top1.of_case("a", "1", [1.0, 0.0]) },
            iou.of_case("a", "1", [0.3, 0.1]),
            Measured { placebo: Some(0.0), ..top1.of_case("b", "2", [0.0, 0.0]) },
            Measured { placebo: Some(0.1), aside: true, ..iou.of_case("b", "2", [0.4, 0.2]) },
        ];
        let told = scores(&lines);
        assert_eq!(told.iter().map(|s| (s.task.as_str(), s.cases)).collect::<Vec<_>>(), [("top1", 2), ("iou", 2)]);
        assert_eq!((told[0].value, told[0].baseline, told[0].placebo, told[0].aside), (0.5, 0.0, Some(0.25), false));
        assert_eq!((told[1].value, told[1].placebo, told[1].aside), ((0.3 + 0.4) / 2.0, None, true));
        // A figure over a whole data set stands for all of its cases.
        let whole = Measured { case: None, cases: 32, ..top1.of_case("", "3", [0.9, 0.8]) };
        assert_eq!(scores(&[whole]).first().map(|s| (s.value, s.cases)), Some((0.9, 32)));
    }

    #[test]
    fn a_digest_tells_where_parts_end() {
        let of = |parts: &[&str]| digest(parts.iter().map(|p| p.as_bytes()));
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
        assert_eq!(of(&[]), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
