//! What is asked of a diagnosis, task by task: how a case is measured, and what a trivial method reaches on it.
//!
//! Every measure is 0 to 1 with 1 the best, and belongs to one case, so that runs can be compared case by case. A task
//! that a case says nothing about gives nothing, not 0.

use std::collections::BTreeMap;

use super::Capability;
use super::dbot::{self, MOST_NAMED};
use super::record::CaseLine;
use crate::report::Status;

/// A cause named with at least this probability is acted upon.
const SURE: f64 = 0.5;
/// What a diagnosis may cost before it is worth half: the budget of a report in milliseconds, of probes in milliseconds
/// on the target, and of prompt tokens.
const WALL_MS: f64 = 60_000.0;
const PROBE_MS: f64 = 2_000.0;
const TOKENS: f64 = 8_000.0;

/// What is known beside the case itself: the other cases of its data set.
pub struct Context<'a> {
    cases: BTreeMap<&'a str, &'a CaseLine>,
    majority: String,
}

impl<'a> Context<'a> {
    /// The cases of one data set.
    ///
    /// The trivial method for causes always names the data set's most frequent one, counted over the very cases that
    /// are scored: the best constant answer there is.
    pub fn new(cases: &[&'a CaseLine]) -> Self {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for cause in cases.iter().flat_map(|c| &c.answer.causes).filter(|c| *c != "healthy") {
            *counts.entry(cause).or_default() += 1;
        }
        let majority = counts.iter().max_by(|a, b| a.1.cmp(b.1).then(b.0.cmp(a.0))).map(|(c, _)| (*c).to_owned()).unwrap_or_default();
        Self { cases: cases.iter().map(|c| (c.case.as_str(), *c)).collect(), majority }
    }
}

/// A context for each data set of some cases: two data sets may have cases of one id, and each has its own most frequent cause.
pub struct Contexts<'a>(BTreeMap<&'a str, Context<'a>>);

impl<'a> Contexts<'a> {
    /// The cases of several data sets.
    pub fn new(cases: impl IntoIterator<Item = &'a CaseLine>) -> Self {
        let mut sets: BTreeMap<&'a str, Vec<&'a CaseLine>> = BTreeMap::new();
        for case in cases {
            sets.entry(case.dataset.as_str()).or_default().push(case);
        }
        Self(sets.into_iter().map(|(dataset, cases)| (dataset, Context::new(&cases))).collect())
    }

    /// What a task measures on one of the cases, beside what the trivial method reaches on it.
    pub fn measure(&self, task: &Task, case: &CaseLine) -> Option<(f64, f64)> {
        (task.measure)(case, self.0.get(case.dataset.as_str())?)
    }
}

/// A measure of a case: the value reached, and what the trivial method reaches.
pub type Measure = fn(&CaseLine, &Context<'_>) -> Option<(f64, f64)>;

/// A task of the benchmark.
pub struct Task {
    /// What it belongs to.
    pub capability: Capability,
    /// Name in snake case.
    pub name: &'static str,
    /// One line: what is measured, and what the trivial method does.
    pub about: &'static str,
    /// The measure.
    pub measure: Measure,
}

/// All tasks that are measured case by case.
pub const TASKS: &[Task] = &[
    Task {
        capability: Capability::Detection,
        name: "window_iou",
        about: "overlap of the reported and the known window (intersection over union); trivial: the whole capture",
        measure: window_iou,
    },
    Task {
        capability: Capability::Detection,
        name: "healthy_silence",
        about: "a healthy case in which no cause is named; trivial: always alarm",
        measure: |c, _| is_healthy(c).then(|| (flag(named_faults(c).is_empty()), 0.0)),
    },
    Task {
        capability: Capability::Localisation,
        name: "culprit_named",
        about: "share of the expected culprits among those of the named causes; trivial: names none",
        measure: culprit_named,
    },
    Task {
        capability: Capability::RootCause,
        name: "top1",
        about: "the first cause named is a right one; trivial: the most frequent cause",
        measure: |c, x| faulty(c).then(|| (flag(first_right(c)), flag(c.answer.causes.contains(&x.majority)))),
    },
    Task {
        capability: Capability::RootCause,
        name: "dbot_accuracy",
        about: "(right - 0.1 wrong) / labelled over at most four named, not below 0; trivial: the most frequent cause",
        measure: |c, x| faulty(c).then(|| (accuracy(c, &named_faults(c)), accuracy(c, &[&x.majority]))),
    },
    Task {
        capability: Capability::MultiCause,
        name: "recall_at_4",
        about: "share of several labelled causes among at most four named; trivial: the most frequent cause",
        measure: |c, x| (c.answer.causes.len() > 1).then(|| (recall(c, &named_faults(c)), recall(c, &[&x.majority]))),
    },
    Task {
        capability: Capability::Abstention,
        name: "wrong_or_nothing",
        about: "the first cause named with at least 0.5 is right, or none is; trivial: the most frequent cause",
        measure: |c, x| {
            let sure = c.named.iter().find(|n| n.cause != "healthy").filter(|n| n.probability >= SURE);
            let right = sure.is_none_or(|n| c.answer.causes.contains(&n.cause));
            Some((flag(right), flag(c.answer.causes.contains(&x.majority))))
        },
    },
    Task {
        capability: Capability::Abstention,
        name: "healthy_or_not",
        about: "a healthy case called healthy, another not; trivial: nothing is ever healthy",
        measure: |c, _| Some((flag((c.status == Status::Healthy) == is_healthy(c)), flag(!is_healthy(c)))),
    },
    Task {
        capability: Capability::Knowledge,
        name: "cited_is_right",
        about: "share of the cited knowledge that speaks of a right cause; trivial: chunks at random",
        measure: |c, _| {
            let k = c.knowledge;
            let share = |part: u32, whole: u32| f64::from(part) / f64::from(whole.max(1));
            (faulty(c) && k.library_right > 0).then(|| (share(k.right, k.chunks), share(k.library_right, k.library)))
        },
    },
    Task {
        capability: Capability::Faithfulness,
        name: "claims_grounded",
        about: "share of the sentences with numbers whose evidence exists and holds them; trivial: other evidence of the report",
        measure: |c, _| {
            let g = &c.grounding;
            let share = |part: u32| f64::from(part) / f64::from(g.with_numbers.max(1));
            (g.with_numbers > 0).then(|| (share(g.numbers_grounded), share(g.placebo)))
        },
    },
    Task {
        capability: Capability::Faithfulness,
        name: "claims_cited",
        about: "share of all sentences whose evidence exists, numbers included; trivial: none cites",
        measure: |c, _| (c.grounding.claims > 0).then(|| (f64::from(c.grounding.grounded) / f64::from(c.grounding.claims), 0.0)),
    },
    Task {
        capability: Capability::Remedy,
        name: "statement_names_culprit",
        about: "a right cause has a remedy whose statement parses and names the culprit; trivial: advice in words",
        measure: |c, _| {
            let right = || c.named.iter().filter(|n| c.answer.causes.contains(&n.cause));
            faulty(c).then(|| (flag(right().any(|n| n.remedies.name_culprit > 0)), 0.0))
        },
    },
    Task {
        capability: Capability::Robustness,
        name: "holds_without_metrics",
        about: "share of a case's accuracy that is kept where the collector sees less; trivial: the most frequent cause on the variant",
        measure: |c, x| variant_holds(c, x, "missing_metrics"),
    },
    Task {
        capability: Capability::Robustness,
        name: "holds_beside_red_herrings",
        about: "share of it that is kept beside a change that does no harm; trivial: as above",
        measure: |c, x| variant_holds(c, x, "red_herring"),
    },
    Task {
        capability: Capability::Robustness,
        name: "holds_in_noise",
        about: "share of it that is kept where the ordinary day is restless; trivial: as above",
        measure: |c, x| variant_holds(c, x, "noise"),
    },
    Task {
        capability: Capability::Calibration,
        name: "brier",
        about: "1 - (probability of the first cause - whether it is right) squared; trivial: probability 0.5",
        measure: |c, _| {
            let first = c.named.first()?;
            Some((1.0 - (first.probability - flag(c.answer.causes.contains(&first.cause))).powi(2), 0.75))
        },
    },
    Task {
        capability: Capability::Cost,
        name: "wall_time",
        about: "1 / (1 + milliseconds / 60,000); trivial: a minute",
        measure: |c, _| Some((worth(c.wall_ms, WALL_MS), 0.5)),
    },
    Task {
        capability: Capability::Cost,
        name: "probe_time",
        about: "1 / (1 + milliseconds on the target / 2,000); trivial: the probe budget",
        measure: |c, _| Some((worth(c.bill.probe_ms, PROBE_MS), 0.5)),
    },
    Task {
        capability: Capability::Cost,
        name: "tokens",
        about: "1 / (1 + prompt and generated tokens / 8,000); trivial: 8,000",
        measure: |c, _| Some((worth((c.bill.prompt_tokens + c.bill.generated_tokens) as f64, TOKENS), 0.5)),
    },
];

fn flag(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

fn worth(cost: f64, budget: f64) -> f64 {
    1.0 / (1.0 + cost.max(0.0) / budget)
}

fn is_healthy(case: &CaseLine) -> bool {
    case.answer.causes.iter().any(|c| c == "healthy")
}

fn faulty(case: &CaseLine) -> bool {
    !is_healthy(case)
}

/// Causes named, without `healthy`, at most as many as may be named.
pub fn named_faults(case: &CaseLine) -> Vec<&str> {
    case.named.iter().map(|n| n.cause.as_str()).filter(|c| *c != "healthy").take(MOST_NAMED).collect()
}

/// True when the first cause named is a right one.
pub fn first_right(case: &CaseLine) -> bool {
    case.named.first().is_some_and(|n| case.answer.causes.contains(&n.cause))
}

/// How right it is to name these causes of a case: D-Bot's accuracy; of a healthy case 1 for naming none.
pub fn accuracy(case: &CaseLine, named: &[&str]) -> f64 {
    if is_healthy(case) { flag(named.is_empty()) } else { dbot::accuracy(named, &case.answer.causes) }
}

fn recall(case: &CaseLine, named: &[&str]) -> f64 {
    let found = case.answer.causes.iter().filter(|c| named.contains(&c.as_str())).count();
    found as f64 / case.answer.causes.len().max(1) as f64
}

fn window_iou(case: &CaseLine, _: &Context<'_>) -> Option<(f64, f64)> {
    let truth = case.answer.window.filter(|_| faulty(case))?;
    let overlap = |start: i64, end: i64| {
        let both = (end.min(truth.end) - start.max(truth.start)).max(0) as f64;
        let either = (end.max(truth.end) - start.min(truth.start)) as f64;
        if either > 0.0 { both / either } else { 0.0 }
    };
    let said = case.window.filter(|_| case.status != Status::Healthy).map_or(0.0, |w| overlap(w.start, w.end));
    Some((said, case.span.map_or(0.0, |s| overlap(s.start, s.end))))
}

fn culprit_named(case: &CaseLine, _: &Context<'_>) -> Option<(f64, f64)> {
    let expected = &case.answer.culprits;
    let found = expected.iter().filter(|e| case.named.iter().flat_map(|n| &n.culprits).any(|c| e.fits(c))).count();
    (!expected.is_empty()).then(|| (found as f64 / expected.len() as f64, 0.0))
}

/// Share of the accuracy on the original that is kept on the variant, at most 1; none unless it is a variant of this kind. An answer
/// names the original by its file, which lies in the folder of the variant.
fn variant_holds(case: &CaseLine, context: &Context<'_>, tag: &str) -> Option<(f64, f64)> {
    let original = case.answer.variant_of.as_deref().filter(|_| case.answer.tags.iter().any(|t| t == tag))?;
    let folder = case.case.rfind('/').map_or("", |end| &case.case[..=end]);
    let base = context.cases.get(format!("{folder}{original}").as_str())?;
    let before = accuracy(base, &named_faults(base));
    let kept = |after: f64| (after / before).min(1.0);
    // A case that was wrong already has nothing to lose.
    (before > 0.0).then(|| (kept(accuracy(case, &named_faults(case))), kept(accuracy(case, &[&context.majority]))))
}
