//! RDS scenarios scored by their own answer keys: a category, words that must or must not stand in the report, and the
//! sources that the evidence must come from.
//!
//! How our cause ids map to the keys' vocabulary is data: `agents/evaluation/rds.toml`. Required words must stand in what
//! the report says itself (headline, summary, root causes, consequences, what was ruled out), not in the evidence it
//! quotes; forbidden words may stand nowhere. A source counts when evidence that the report cites for its root causes or
//! in its summary comes from it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use galen_tools::capture::Capture;
use galen_tools::detect::stats::median;

use super::Capability;
use super::measured::{Figure, Measured};
use crate::report::{Report, markdown};

const TABLE: &str = include_str!("../../evaluation/rds.toml");
/// What its task measures, in a few words.
pub const ABOUT: &str =
    "a scenario's own key passes its report; simple: the signal with the largest robust z; placebo: the other scenarios' reports";
/// How a key's list without items is written beside its name.
const NO_ITEMS: [&str; 4] = ["", "[]", "null", "~"];
/// Robust z below which the trivial method calls an instance healthy.
const QUIET: f64 = 6.0;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    cause: Vec<Mapped>,
    sources: BTreeMap<String, String>,
    baseline: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mapped {
    id: String,
    category: String,
    mode: Option<String>,
}

fn table() -> Result<Table, String> {
    toml::from_str(TABLE).map_err(|e| e.to_string())
}

/// The answer key of a scenario (`answer.yml`): the rules a report is scored by. Prose in it is not read.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Rules {
    pub category: String,
    pub required: Vec<String>,
    pub forbidden: Vec<String>,
    pub forbidden_categories: Vec<String>,
    pub ruling_out: Vec<String>,
    pub sources: Vec<String>,
}

impl Rules {
    /// Reads the subset of YAML that answer keys are written in: `key: value`, lists of plain items, block texts, comments.
    ///
    /// # Errors
    /// The line that is none of these, rules that are no list of items on lines of their own, or a key without
    /// `root_cause_category`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rules = Self::default();
        let mut key = "";
        for (number, line) in text.lines().enumerate() {
            let content = line.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            // What would not be read would be a rule that nobody breaks.
            let unlisted = |key: &str| format!("line {}: what `{key}` holds is read as items on lines of their own, `- item`", number + 1);
            if line.starts_with(char::is_whitespace) || content.starts_with("- ") {
                match (content.strip_prefix("- "), rules.list(key)) {
                    (Some(item), Some(list)) => list.push(scalar(item)),
                    (None, Some(_)) => return Err(unlisted(key)),
                    (_, None) => {}
                }
                continue;
            }
            let (name, value) = content.split_once(':').ok_or_else(|| format!("line {} is neither a key nor an item", number + 1))?;
            key = name.trim();
            if key == "root_cause_category" {
                rules.category = scalar(value);
            } else if rules.list(key).is_some() && !value.trim().starts_with('#') && !NO_ITEMS.contains(&scalar(value).as_str()) {
                return Err(unlisted(key));
            }
        }
        if rules.category.is_empty() { Err("there is no root_cause_category".into()) } else { Ok(rules) }
    }

    /// The rules that stand under a key; none where it holds none.
    fn list(&mut self, key: &str) -> Option<&mut Vec<String>> {
        Some(match key {
            "required_keywords" => &mut self.required,
            "forbidden_keywords" => &mut self.forbidden,
            "forbidden_categories" => &mut self.forbidden_categories,
            "ruling_out_keywords" => &mut self.ruling_out,
            "required_evidence_sources" => &mut self.sources,
            _ => return None,
        })
    }
}

fn scalar(text: &str) -> String {
    let text = text.trim();
    let quoted = ['"', '\''].into_iter().find_map(|q| text.strip_prefix(q)?.strip_suffix(q));
    quoted.unwrap_or_else(|| text.split(" #").next().unwrap_or(text).trim()).to_owned()
}

/// What is scored: the causes named, what the report says itself, all of it, and where its evidence comes from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// Root causes, most probable first.
    pub causes: Vec<String>,
    said: String,
    all: String,
    sources: BTreeSet<String>,
}

impl Answer {
    /// The answer that a report gives.
    pub fn of(report: &Report) -> Self {
        let mut said = vec![report.headline.clone()];
        let mut cited: BTreeSet<&str> = BTreeSet::new();
        let claims = report.summary.iter().chain(report.root_causes.iter().flat_map(|c| c.claims.iter()));
        for claim in claims {
            said.push(claim.text.clone());
            cited.extend(claim.evidence.iter().map(String::as_str));
        }
        said.extend(report.root_causes.iter().flat_map(|c| [c.title.clone(), c.summary.clone()]));
        said.extend(report.consequences.iter().map(|c| c.reason.clone()));
        said.extend(report.ruled_out.iter().map(|r| r.reason.clone()));
        let source = |e: &&crate::report::Evidence| cited.contains(e.id.as_str());
        let sources = report.evidence.iter().filter(source);
        let sources = sources.filter_map(|e| e.observation.facts.get("source")?.as_str().map(str::to_owned)).collect();
        Self {
            causes: report.root_causes.iter().map(|c| c.cause.clone()).collect(),
            said: said.join("\n").to_lowercase(),
            all: markdown::render(report).to_lowercase(),
            sources,
        }
    }
}

/// What the trivial method answers: the cause that the signal stands for which strays most from its first tenth.
pub fn baseline(capture: &Capture) -> Answer {
    let names = table().map(|t| t.baseline).unwrap_or_default();
    let stray = |(signal, cause): (&String, &String)| {
        let values = &capture.series.get(signal)?.values;
        let first = &values[..(values.len() / 10).max(1).min(values.len())];
        let usual = median(&mut first.to_vec())?;
        let spread = median(&mut first.iter().map(|v| (v - usual).abs()).collect::<Vec<_>>())?;
        let last = median(&mut values[values.len() / 2..].to_vec())?;
        Some(((last - usual).abs() / (1.4826 * spread).max(0.05 * usual.abs()).max(1e-9), signal.clone(), cause.clone()))
    };
    let top = names.iter().filter_map(stray).max_by(|a, b| a.0.total_cmp(&b.0));
    let (cause, said) = match top.filter(|(z, ..)| *z >= QUIET) {
        Some((z, signal, cause)) => (cause.clone(), format!("{cause}: {signal} strays most from its usual level (robust z {z:.0})")),
        None => ("healthy".to_owned(), "healthy: no signal strays from its usual level".to_owned()),
    };
    Answer { causes: vec![cause], all: said.clone(), said, sources: BTreeSet::from(["CloudWatch".to_owned()]) }
}

/// The rules that an answer breaks, one line each; none when it passes.
pub fn broken(rules: &Rules, answer: &Answer) -> Vec<String> {
    let Ok(table) = table() else { return vec!["the table of categories does not parse".into()] };
    let mapped = |cause: &str| table.cause.iter().find(|m| m.id == cause);
    let category = |cause: &str| mapped(cause).map_or("code_defect", |m| m.category.as_str()).to_owned();
    let mut broken = Vec::new();
    let first = answer.causes.first().map_or_else(|| "unknown".to_owned(), |c| category(c));
    if first != rules.category {
        broken.push(format!("category is {first}, not {}", rules.category));
    }
    for cause in &answer.causes {
        let names = [Some(category(cause)), mapped(cause).and_then(|m| m.mode.clone()), Some(cause.clone())];
        for name in names.into_iter().flatten().filter(|n| rules.forbidden_categories.contains(n)) {
            broken.push(format!("forbidden category {name} ({cause})"));
        }
    }
    let lacks = |word: &&String| !answer.said.contains(&word.to_lowercase());
    broken.extend(rules.required.iter().filter(lacks).map(|w| format!("required word {w:?} is not said")));
    broken.extend(rules.ruling_out.iter().filter(lacks).map(|w| format!("ruling-out word {w:?} is not said")));
    broken.extend(rules.forbidden.iter().filter(|w| answer.all.contains(&w.to_lowercase())).map(|w| format!("forbidden word {w:?}")));
    let missing = |source: &&String| table.sources.get(*source).is_none_or(|s| !answer.sources.contains(s));
    broken.extend(rules.sources.iter().filter(missing).map(|s| format!("no cited evidence comes from {s}")));
    broken
}

/// A scenario with what was answered.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Case {
    /// Its folder, below the one that was given.
    pub scenario: String,
    /// SHA-256 of the answers and of the key.
    pub sha256: String,
    pub rules: Rules,
    pub answer: Answer,
    pub baseline: Answer,
}

/// How one scenario came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Verdict {
    pub scenario: String,
    pub pass: bool,
    pub causes: Vec<String>,
    pub broken: Vec<String>,
    /// Whether the trivial method passes, what it names, and whether at least its category is right.
    pub baseline_pass: bool,
    pub baseline_cause: String,
    pub baseline_category: bool,
    /// How many of the other scenarios' reports pass this scenario's rules: rules that anything passes show nothing.
    pub others_pass: usize,
}

/// Scores every scenario, beside the trivial method and with the reports of all others as a control.
pub fn verdicts(cases: &[Case]) -> Vec<Verdict> {
    let one = |(at, case): (usize, &Case)| {
        let others = cases.iter().enumerate().filter(|(other, c)| *other != at && broken(&case.rules, &c.answer).is_empty());
        let (own, trivial) = (broken(&case.rules, &case.answer), broken(&case.rules, &case.baseline));
        Verdict {
            scenario: case.scenario.clone(),
            pass: own.is_empty(),
            causes: case.answer.causes.clone(),
            broken: own,
            baseline_pass: trivial.is_empty(),
            baseline_cause: case.baseline.causes.first().cloned().unwrap_or_default(),
            baseline_category: !trivial.iter().any(|b| b.starts_with("category is")),
            others_pass: others.count(),
        }
    };
    cases.iter().enumerate().map(one).collect()
}

/// Whether each scenario was passed: incidents as root cause, healthy ones as abstention. The placebo is the share of the other
/// scenarios' reports that pass.
pub fn measured(cases: &[Case], verdicts: &[Verdict]) -> Vec<Measured> {
    let flag = |pass: bool| f64::from(u8::from(pass));
    let others = cases.len().saturating_sub(1);
    let mut lines = Vec::new();
    for (capability, healthy) in [(Capability::RootCause, false), (Capability::Abstention, true)] {
        let figure = Figure { capability, task: "own_rules", dataset: "rds" };
        let of = cases.iter().zip(verdicts).filter(|(case, _)| (case.rules.category == "healthy") == healthy);
        lines.extend(of.map(|(case, verdict)| Measured {
            placebo: (others > 0).then(|| verdict.others_pass as f64 / others as f64),
            ..figure.of_case(&case.scenario, &case.sha256, [flag(verdict.pass), flag(verdict.baseline_pass)])
        }));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Claim, RootCause};

    const KEY: &str = "root_cause_category: resource_exhaustion\nrequired_keywords:\n  - WAL\n  - \"replica\"\n# a comment\nforbidden_categories:\n  - cpu_saturation\nmodel_response: |\n  ROOT_CAUSE: x\n  - no item of ours\nforbidden_keywords:\n  - two root causes\nrequired_evidence_sources:\n  - aws_rds_events\n";

    fn answer(cause: &str, text: &str) -> Answer {
        Answer::of(&Report {
            root_causes: vec![RootCause {
                cause: cause.into(),
                claims: vec![Claim { text: text.into(), evidence: vec!["E1".into()] }],
                ..RootCause::default()
            }],
            evidence: vec![crate::report::Evidence {
                id: "E1".into(),
                lines: vec!["wal: replica".into()],
                observation: galen_tools::observe::Observation {
                    facts: BTreeMap::from([("source".to_owned(), "RDS events".into())]),
                    ..Default::default()
                },
            }],
            ..Report::default()
        })
    }

    #[test]
    fn each_rule_can_be_broken_and_a_good_answer_breaks_none() {
        let rules = Rules::parse(KEY).unwrap();
        assert_eq!((rules.required.len(), rules.forbidden.len(), rules.sources.len()), (2, 1, 1));
        let good = answer("replication_lag", "WAL comes faster than the replica replays it");
        assert_eq!(broken(&rules, &good), Vec::<String>::new());
        for (cause, text, part) in [
            ("failover", "WAL replica", "category is infrastructure"),
            ("cpu_contention", "WAL replica", "forbidden category cpu_saturation"),
            ("replication_lag", "the replica lags", "\"WAL\""),
            ("replication_lag", "WAL replica: two root causes", "forbidden word"),
            ("unheard_of", "WAL replica", "code_defect"),
        ] {
            let told = broken(&rules, &answer(cause, text)).join("; ");
            assert!(told.contains(part), "{cause}: {told}");
        }
        let quoted = answer("replication_lag", "nothing");
        assert!(!broken(&rules, &quoted).is_empty(), "words of quoted evidence do not count");
        assert!(broken(&rules, &Answer { sources: BTreeSet::new(), ..good }).join(";").contains("aws_rds_events"));
    }

    #[test]
    fn keys_that_cannot_be_read_say_why() {
        assert!(Rules::parse("required_keywords:\n  - x\n").unwrap_err().contains("root_cause_category"));
        assert!(Rules::parse("root_cause_category: x\n%%%\n").unwrap_err().contains("line 2"));
        assert!(table().is_ok());
        // Rules that were not read would be rules that every report passes.
        for rules in ["forbidden_keywords: [a, b]", "forbidden_keywords: a", "forbidden_keywords: |\n  a", "forbidden_keywords:\n  [a]"] {
            let failure = Rules::parse(&format!("root_cause_category: x\n{rules}\n")).unwrap_err();
            assert!(failure.contains("forbidden_keywords") && failure.starts_with("line "), "{rules}: {failure}");
        }
        let text = "root_cause_category: x # why\nforbidden_keywords: []\nrequired_keywords: # of these\n  # all\n  - a\nnotes: [b]\n";
        let rules = Rules::parse(text).unwrap();
        assert_eq!((rules.category.as_str(), rules.required, rules.forbidden), ("x", vec!["a".to_owned()], Vec::new()));
        let none = Rules::parse("root_cause_category: x\nforbidden_keywords: null\nruling_out_keywords: ~ # none\n").unwrap();
        assert_eq!((none.forbidden, none.ruling_out), (Vec::new(), Vec::new()));
    }

    #[test]
    fn each_scenario_is_a_line_beside_the_reports_of_the_others() {
        let case = |name: &str, category: &str, cause: &str| Case {
            scenario: name.into(),
            sha256: format!("sha of {name}"),
            rules: Rules { category: category.into(), ..Rules::default() },
            answer: answer(cause, "nothing else"),
            baseline: answer("healthy", "healthy"),
        };
        let cases = [
            case("quiet", "healthy", "healthy"),
            case("lag", "resource_exhaustion", "replication_lag"),
            case("twin", "resource_exhaustion", "replication_lag"),
            case("missed", "resource_exhaustion", "failover"),
        ];
        let lines = measured(&cases, &verdicts(&cases));
        let told: Vec<_> = lines.iter().map(|l| (l.case.as_deref().unwrap(), l.value, l.baseline, l.placebo)).collect();
        let third = Some(1.0 / 3.0);
        assert_eq!(
            told,
            [("lag", 1.0, 0.0, third), ("twin", 1.0, 0.0, third), ("missed", 0.0, 0.0, Some(2.0 / 3.0)), ("quiet", 1.0, 1.0, Some(0.0))]
        );
        assert_eq!((lines[0].capability, lines[3].capability), (Capability::RootCause, Capability::Abstention));
        assert_eq!(measured(&cases[..1], &verdicts(&cases[..1]))[0].placebo, None);
    }
}
