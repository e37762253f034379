//! How much a model's vote counts: as much as it was measured to be right, and not at all before it was measured.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::LlmError;

/// One-sided 5 % quantile of the normal distribution.
const Z: f64 = 1.644_853_626_951_472_7;
/// A vote never counts for more than this, however well the model did.
const MOST: f64 = 4.0;

/// Measured skill of several models.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skills {
    /// One entry for each model.
    #[serde(default, rename = "model")]
    pub models: Vec<Skill>,
}

/// Measured skill of one model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skill {
    /// SHA-256 of the model's file.
    pub model_sha256: String,
    /// By kind of question.
    pub tasks: BTreeMap<String, SkillStat>,
}

/// How a model did on one kind of question.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkillStat {
    /// Questions asked.
    pub asked: u32,
    /// Of these answered right.
    pub right: u32,
    /// Options of each question.
    pub options: u32,
}

impl Skills {
    /// What this build knows.
    ///
    /// # Errors
    /// [`LlmError::Invalid`] when the embedded file does not parse, which a test rules out.
    pub fn builtin() -> Result<Self, LlmError> {
        Self::parse(include_str!("../../models/skill.toml"), "the embedded skill file")
    }

    /// Reads a skill file, as written by a calibration.
    ///
    /// # Errors
    /// [`LlmError::Invalid`] when it cannot be read or does not parse.
    pub fn load(path: &Path) -> Result<Self, LlmError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| LlmError::Invalid(format!("{name}: {e}")))?;
        Self::parse(&text, &name)
    }

    /// The likelihood ratio for a model's vote on a kind of question; 1 when it was not measured.
    pub fn ratio(&self, model_sha256: &str, task: &str) -> f64 {
        let model = self.models.iter().find(|m| m.model_sha256 == model_sha256);
        model.and_then(|m| m.tasks.get(task)).map_or(1.0, likelihood_ratio)
    }

    /// Takes over what another file measured, model by model and question by question.
    pub fn overlay(&mut self, newer: Self) {
        for entry in newer.models {
            match self.models.iter_mut().find(|m| m.model_sha256 == entry.model_sha256) {
                Some(known) => known.tasks.extend(entry.tasks),
                None => self.models.push(entry),
            }
        }
    }

    /// The file's text.
    ///
    /// # Errors
    /// [`LlmError::Invalid`] when it cannot be written as TOML.
    pub fn to_toml(&self) -> Result<String, LlmError> {
        toml::to_string(self).map_err(|e| LlmError::Invalid(e.to_string()))
    }

    fn parse(text: &str, name: &str) -> Result<Self, LlmError> {
        toml::from_str(text).map_err(|e| LlmError::Invalid(format!("{name}: {}", e.message())))
    }
}

/// How many times likelier a vote for an option is when the option is true than when it is not: `a (k - 1) / (1 - a)`
/// with `k` options and `a` the accuracy that the model reaches with 95 % confidence (Wilson's lower bound).
/// 1 when that is not above chance; 4 at most.
pub fn likelihood_ratio(stat: &SkillStat) -> f64 {
    if stat.options < 2 || stat.right > stat.asked {
        return 1.0;
    }
    let (accuracy, options) = (wilson_lower(stat.right, stat.asked), f64::from(stat.options));
    if accuracy <= 1.0 / options {
        return 1.0;
    }
    (accuracy * (options - 1.0) / (1.0 - accuracy)).clamp(1.0, MOST)
}

/// Removes the prior that a model shows when it is told nothing: the softmax of `scores - null_scores`.
/// Returns one probability for each score; all equal when the inputs do not fit together.
pub fn debias(scores: &[f64], null_scores: &[f64]) -> Vec<f64> {
    let differences: Vec<f64> = scores.iter().zip(null_scores).map(|(s, n)| s - n).collect();
    let usable = scores.len() == null_scores.len() && differences.iter().all(|d| d.is_finite());
    if usable { softmax(&differences) } else { vec![1.0 / scores.len().max(1) as f64; scores.len()] }
}

/// Probabilities in proportion to the exponentials.
pub(crate) fn softmax(logs: &[f64]) -> Vec<f64> {
    let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logs.iter().map(|l| (l - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).collect()
}

/// Wilson's lower confidence bound for a proportion.
fn wilson_lower(right: u32, asked: u32) -> f64 {
    if asked == 0 {
        return 0.0;
    }
    let n = f64::from(asked);
    let p = f64::from(right) / n;
    let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((p + Z * Z / (2.0 * n) - spread) / (1.0 + Z * Z / n)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(asked: u32, right: u32, options: u32) -> SkillStat {
        SkillStat { asked, right, options }
    }

    #[test]
    fn an_unmeasured_model_changes_nothing() {
        assert_eq!(Skills::builtin().unwrap().ratio("any", "verdict").to_bits(), 1.0_f64.to_bits());
        assert_eq!(likelihood_ratio(&stat(0, 0, 3)).to_bits(), 1.0_f64.to_bits());
    }

    #[test]
    fn luck_and_nonsense_count_for_nothing() {
        for s in [stat(3, 2, 3), stat(40, 12, 4), stat(100, 0, 2), stat(5, 9, 4), stat(50, 50, 1)] {
            assert_eq!(likelihood_ratio(&s).to_bits(), 1.0_f64.to_bits(), "{s:?}");
        }
    }

    #[test]
    fn skill_counts_in_proportion_and_is_capped() {
        let (some, more, all) = (stat(100, 50, 4), stat(1_000, 500, 4), stat(1_000, 1_000, 4));
        assert!(1.0 < likelihood_ratio(&some) && likelihood_ratio(&some) < likelihood_ratio(&more));
        assert!((likelihood_ratio(&all) - 4.0).abs() < 1e-12);
        // Wilson's one-sided bound of 50 in 100 is 0.4189: 0.4189 * 3 / 0.5811.
        assert!((likelihood_ratio(&some) - 2.1626).abs() < 0.002, "{}", likelihood_ratio(&some));
    }

    #[test]
    fn a_skill_file_is_read_and_unknown_keys_fail() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("skill.toml");
        std::fs::write(&path, "[[model]]\nmodel_sha256 = 'x'\n[model.tasks.verdict]\nasked = 100\nright = 90\noptions = 3\n").unwrap();
        let skills = Skills::load(&path).unwrap();
        assert!(skills.ratio("x", "verdict") > 3.0);
        assert_eq!(skills.ratio("x", "other").to_bits(), 1.0_f64.to_bits());
        std::fs::write(&path, "[[model]]\nmodel_sha256 = 'x'\ntaks = {}\n").unwrap();
        assert!(Skills::load(&path).unwrap_err().to_string().contains("taks"));
    }

    #[test]
    fn a_newer_measurement_replaces_its_own_question_only() {
        let one = |sha: &str, task: &str, s: SkillStat| Skill { model_sha256: sha.into(), tasks: [(task.to_owned(), s)].into() };
        let mut skills = Skills { models: vec![one("x", "a", stat(100, 90, 4))] };
        skills.overlay(Skills { models: vec![one("x", "b", stat(10, 1, 4)), one("y", "a", stat(50, 40, 4))] });
        skills.overlay(Skills { models: vec![one("y", "a", stat(60, 10, 4))] });
        let again = Skills::parse(&skills.to_toml().unwrap(), "written").unwrap();
        assert_eq!(again, skills);
        assert_eq!((again.models[0].tasks.len(), again.models[1].tasks["a"].asked), (2, 60));
    }

    #[test]
    fn debias_removes_the_prior_and_gives_probabilities() {
        let even = debias(&[-1.0, -2.0, -3.0], &[-1.0, -2.0, -3.0]);
        assert!(even.iter().all(|p| (p - 1.0 / 3.0).abs() < 1e-12));
        let moved = debias(&[-1.0, -1.5], &[-0.5, -2.0]);
        assert!(moved[1] > moved[0] && (moved.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(debias(&[-1.0, f64::NAN], &[-1.0, -1.0]), vec![0.5, 0.5]);
        assert_eq!(debias(&[-1.0, -2.0], &[-1.0]), vec![0.5, 0.5]);
        assert!(debias(&[], &[]).is_empty());
    }
}
