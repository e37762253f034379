//! A root cause as data: what it means, what it predicts, which tests confirm or refute it, what to do.

use serde::{Deserialize, Serialize};

use crate::condition::Condition;
use crate::error::KnowledgeError;
use crate::template::Sentences;

/// An entry of the root-cause catalog, as its TOML file says it. Unknown keys fail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cause {
    /// Fixed id.
    pub id: String,
    /// Title for people.
    pub title: String,
    /// Domain of the expert that owns it: `queries`, `writes`, `locks`, `storage`, `memory`, `replication`, `host`.
    pub domain: String,
    /// Probability before any test that an incident has this cause (a stated prior unless learnt).
    pub prior: f64,
    /// What it means, one or two sentences.
    pub means: String,
    /// Signals that move with it.
    #[serde(default)]
    pub symptom: Vec<Symptom>,
    /// Tests, in no order: the search chooses.
    pub test: Vec<Test>,
    /// Causes that follow from this one.
    #[serde(default)]
    pub explains: Vec<Explains>,
    /// Condition over facts namespaced by tool under which the cause is named beside another that explains it: evidence of
    /// its own that mending the other would not end it.
    #[serde(default)]
    pub stands_alone: Option<String>,
    /// Look-alikes and how to tell them.
    #[serde(default)]
    pub confused_with: Vec<Confusion>,
    /// Sentences that name the culprit; facts are namespaced by tool (`table_scans.table`). The first whose
    /// facts are all there is used.
    pub summary: Vec<String>,
    /// What to do, best first; facts namespaced by tool. A remedy whose facts are missing is left out.
    #[serde(default)]
    pub remedy: Vec<Remedy>,
    /// Where it is explained (title of a manual's chapter, no links).
    #[serde(default)]
    pub references: Vec<String>,
}

/// A signal that moves with a cause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Symptom {
    /// Name of the signal, labels included or not.
    pub signal: String,
    /// `up` or `down`.
    pub direction: String,
}

/// A test: one tool call and how to judge its facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Test {
    /// Id, unique inside the cause.
    pub id: String,
    /// Observation tool to call; its facts stand at top level in conditions and sentences.
    pub tool: String,
    /// Further tools to call; their facts are namespaced (`host.disk_util`).
    #[serde(default)]
    pub with: Vec<String>,
    /// Condition under which the facts speak for the cause.
    pub supports: String,
    /// Condition under which they speak against it. Neither: inconclusive.
    #[serde(default)]
    pub refutes: Option<String>,
    /// Likelihood ratios, P(outcome | cause) / P(outcome | not cause): `[when supported, when refuted]`.
    pub ratio: [f64; 2],
    /// The cause cannot be named unless one of its essential tests supports it.
    #[serde(default)]
    pub essential: bool,
    /// Sentence when supported; facts of the tool at top level.
    pub says: String,
    /// Sentence when refuted.
    #[serde(default)]
    pub denies: Option<String>,
}

/// A cause that follows from this one, so that it is reported as a consequence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explains {
    /// Id of the consequence.
    pub cause: String,
    /// Only when this holds over facts namespaced by tool; always when absent.
    #[serde(default)]
    pub when: Option<String>,
}

/// A look-alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confusion {
    /// Id of the look-alike.
    pub cause: String,
    /// How to tell them apart.
    pub tell: String,
}

/// A remedy, as templates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Remedy {
    pub title: String,
    pub sql: String,
    pub lock: String,
    pub rollback: String,
    pub verify: String,
    pub effect: String,
    /// Said instead of `effect` where its facts are there: a measured effect.
    #[serde(default)]
    pub measured: Option<String>,
    /// Only when this condition holds over facts namespaced by tool.
    #[serde(default)]
    pub when: Option<String>,
}

/// Verdict of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Verdict {
    Supported,
    Refuted,
    Inconclusive,
}

impl Verdict {
    /// The word used in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Supported => "supported",
            Self::Refuted => "refuted",
            Self::Inconclusive => "inconclusive",
        }
    }
}

impl Cause {
    /// Parses a cause file and checks every condition and template in it.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn parse(file: &str, text: &str) -> Result<Self, KnowledgeError> {
        let fail = |message: String| KnowledgeError { file: file.to_owned(), message };
        let cause: Cause = toml::from_str(text).map_err(|e| fail(e.to_string().trim().replace('\n', " ")))?;
        cause.check().map_err(fail)?;
        Ok(cause)
    }

    fn check(&self) -> Result<(), String> {
        if self.id.is_empty() || !self.id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
            return Err(format!("id `{}` is not snake_case", self.id));
        }
        if !(self.prior > 0.0 && self.prior < 1.0) {
            return Err(format!("prior {} is not between 0 and 1", self.prior));
        }
        let sentences = Sentences::default();
        let mut templates: Vec<&str> = self.summary.iter().map(String::as_str).collect();
        let mut conditions: Vec<&str> = Vec::new();
        for test in &self.test {
            if !(test.ratio[0] >= 1.0 && test.ratio[0] <= 1e4 && test.ratio[1] > 0.0 && test.ratio[1] <= 1.0) {
                return Err(format!("test {}: ratio must be [at least 1, over 0 and at most 1]", test.id));
            }
            templates.push(&test.says);
            templates.extend(test.denies.as_deref());
            conditions.push(&test.supports);
            conditions.extend(test.refutes.as_deref());
        }
        for remedy in &self.remedy {
            templates.extend([&*remedy.title, &remedy.sql, &remedy.lock, &remedy.rollback, &remedy.verify, &remedy.effect]);
            templates.extend(remedy.measured.as_deref());
            conditions.extend(remedy.when.as_deref());
        }
        conditions.extend(self.stands_alone.as_deref());
        conditions.extend(self.explains.iter().filter_map(|e| e.when.as_deref()));
        templates.iter().try_for_each(|t| sentences.check(t))?;
        conditions.iter().try_for_each(|c| Condition::parse(c).map(|_| ()))
    }
}
