//! Two runs side by side: for each task the difference with its confidence interval, and the cases that changed.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Map, Value};

use super::bootstrap::{self, Interval};
pub use super::measured_pairs::{Moved, Step, Whole};
use super::{Capability, measured_pairs};

use super::numeric::mean;
use super::record::{CaseLine, Run};
use super::tasks::{Contexts, TASKS, accuracy, named_faults};

/// What differs between two runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// Cases in both runs, of the same capture or recording.
    pub cases: usize,
    /// Cases left out: in one run only, or of different captures or answers; one line each.
    pub left_out: Vec<String>,
    /// What the pins of the runs do not share.
    pub pins: Vec<String>,
    /// Task by task.
    pub tasks: Vec<Difference>,
    /// Cases whose diagnosis changed.
    pub changed: Vec<Changed>,
    /// Figures of a public benchmark that exist over a whole data set only: without an interval.
    pub whole: Vec<Whole>,
    /// Cases of a public benchmark on which a figure changed.
    pub moved: Vec<Moved>,
}

/// A task in both runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// What was asked.
    pub capability: Capability,
    /// Name of the task.
    pub task: String,
    /// Data set with its half or protocol, for a figure of a public benchmark; none for a task over all data sets of a suite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// Pairs of cases.
    pub cases: usize,
    /// Mean in the first run.
    pub before: f64,
    /// Mean in the second run.
    pub after: f64,
    /// Mean difference, second less first, with its 95 % interval.
    pub difference: Interval,
    /// The interval excludes 0, and enough pairs differ: see [`bootstrap::difference`].
    pub significant: bool,
    /// A figure that is shown only, see [`super::Score::aside`]: more of it is not better.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub aside: bool,
}

/// A case that the two runs see differently.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Changed {
    /// Id of the case.
    pub case: String,
    /// What is right.
    pub answer: Vec<String>,
    /// Causes named in the first run.
    pub before: Vec<String>,
    /// Causes named in the second run.
    pub after: Vec<String>,
    /// `better`, `worse`, or `other` where the accuracy is the same.
    pub verdict: &'static str,
}

impl Difference {
    /// The difference over pairs of values of the same cases; none without any.
    pub(super) fn of(figure: (Capability, &str, Option<&str>), values: &[(f64, f64)], seed: u64) -> Option<Self> {
        let (capability, task, dataset) = figure;
        let column = |of: fn(&(f64, f64)) -> f64| values.iter().map(of).collect::<Vec<_>>();
        let (difference, significant) = bootstrap::difference(&column(|v| v.1 - v.0), seed)?;
        Some(Self {
            capability,
            task: task.to_owned(),
            dataset: dataset.map(str::to_owned),
            cases: values.len(),
            before: mean(&column(|v| v.0)),
            after: mean(&column(|v| v.1)),
            difference,
            significant,
            aside: false,
        })
    }
}

/// Compares two runs over the cases that they share, each case beside those of its data set. The intervals are paired BCa
/// bootstrap intervals, seeded.
pub fn compare(before: &Run, after: &Run, seed: u64) -> Comparison {
    let (pairs, mut left_out) = pair(before, after);
    let contexts = (Contexts::new(pairs.iter().map(|pair| pair.0)), Contexts::new(pairs.iter().map(|pair| pair.1)));
    let mut tasks = Vec::new();
    for task in TASKS {
        let both = |(a, b): &(&CaseLine, &CaseLine)| Some((contexts.0.measure(task, a)?.0, contexts.1.measure(task, b)?.0));
        let values: Vec<(f64, f64)> = pairs.iter().filter_map(both).collect();
        tasks.extend(Difference::of((task.capability, task.name, None), &values, seed));
    }
    let measured = measured_pairs::compare(&before.measured, &after.measured, seed);
    left_out.extend(measured.left_out);
    tasks.extend(measured.tasks);
    Comparison {
        cases: pairs.len() + measured.cases,
        left_out,
        pins: differing_pins(before, after),
        tasks,
        changed: pairs.iter().filter_map(|(a, b)| changed(a, b)).collect(),
        whole: measured.whole,
        moved: measured.moved,
    }
}

type Pairs<'a> = Vec<(&'a CaseLine, &'a CaseLine)>;

fn pair<'a>(before: &'a Run, after: &'a Run) -> (Pairs<'a>, Vec<String>) {
    let key = |c: &'a CaseLine| (c.dataset.as_str(), c.case.as_str());
    let mut second: BTreeMap<_, _> = after.cases.iter().map(|c| (key(c), c)).collect();
    let (mut pairs, mut left_out) = (Vec::new(), Vec::new());
    for case in &before.cases {
        match second.remove(&key(case)) {
            Some(other) if other.capture_sha256 != case.capture_sha256 => {
                left_out.push(format!("{}: another capture of this name", case.case))
            }
            Some(other) if other.answer != case.answer => left_out.push(format!("{}: another answer", case.case)),
            Some(other) => pairs.push((case, other)),
            None => left_out.push(format!("{}: in the first run only", case.case)),
        }
    }
    left_out.extend(second.values().map(|c| format!("{}: in the second run only", c.case)));
    (pairs, left_out)
}

fn changed(before: &CaseLine, after: &CaseLine) -> Option<Changed> {
    let (old, new) = (named(before), named(after));
    if old == new {
        return None;
    }
    let verdict = verdict(accuracy(before, &named_faults(before)), accuracy(after, &named_faults(after)));
    Some(Changed { case: before.case.clone(), answer: before.answer.causes.clone(), before: old, after: new, verdict })
}

/// `better`, `worse` or `other`.
pub(super) fn verdict(before: f64, after: f64) -> &'static str {
    match after.total_cmp(&before) {
        std::cmp::Ordering::Greater => "better",
        std::cmp::Ordering::Less => "worse",
        std::cmp::Ordering::Equal => "other",
    }
}

fn named(case: &CaseLine) -> Vec<String> {
    case.named.iter().map(|n| n.cause.clone()).collect()
}

/// Pins that differ, by their path, with both values: `options.seed: 7 / 9`.
pub fn differing_pins(before: &Run, after: &Run) -> Vec<String> {
    let value = |run: &Run| serde_json::to_value(&run.header.pins).unwrap_or_default();
    differing(&value(before), &value(after))
}

/// What differs between two objects, by its path, with both values.
pub fn differing(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    differences("", old, new, &mut found);
    found
}

fn differences(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    if let (Value::Object(old), Value::Object(new)) = (old, new) {
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for name in names {
            let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let of = |map: &Map<String, Value>| map.get(name).cloned().unwrap_or_default();
            differences(&below, &of(old), &of(new), found);
        }
    } else if old != new {
        found.push(format!("{path}: {old} / {new}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::score_fixture::{case, run};

    #[test]
    fn equal_runs_differ_by_nothing() {
        let one = run(vec![case("a", &["missing_index"], &["missing_index"]), case("b", &["healthy"], &["healthy"])]);
        let told = compare(&one, &one, 7);
        assert_eq!((told.cases, told.left_out.len(), told.changed.len(), told.pins.len()), (2, 0, 0, 0));
        assert!(told.tasks.len() > 5 && told.tasks.iter().all(|t| !t.significant && t.difference.mean == 0.0 && t.difference.high == 0.0));
    }

    #[test]
    fn a_change_is_found_with_its_direction() {
        let good: Vec<_> = (0..20).map(|i| case(&format!("c{i}"), &["missing_index"], &["missing_index"])).collect();
        let mut bad = good.clone();
        for case in bad.iter_mut().take(12) {
            case.named[0].cause = "table_bloat".into();
        }
        bad[19].named.clear();
        let told = compare(&run(good.clone()), &run(bad.clone()), 7);
        let top1 = told.tasks.iter().find(|t| t.task == "top1").unwrap();
        assert!(top1.significant && (top1.difference.mean + 13.0 / 20.0).abs() < 1e-12, "{top1:?}");
        assert_eq!((told.changed.len(), told.changed[0].verdict), (13, "worse"));
        assert_eq!(compare(&run(bad), &run(good), 7).changed[0].verdict, "better");
    }

    #[test]
    fn a_single_case_that_changes_is_no_finding() {
        let cases = |named: &[&str]| run(vec![case("a", &["missing_index"], named)]);
        let told = compare(&cases(&["table_bloat"]), &cases(&["missing_index"]), 7);
        let top1 = told.tasks.iter().find(|t| t.task == "top1").unwrap();
        assert!(!top1.significant && top1.difference.low < 0.0 && top1.difference.mean == 1.0, "{top1:?}");
    }

    #[test]
    fn a_variant_is_compared_with_the_original_of_its_own_data_set() {
        let set = |dataset: &str, original: &[&str], changed: &[&str]| {
            let mut cases = [case("a", &["missing_index"], original), case("a-blind", &["missing_index"], changed)];
            cases[1].answer.variant_of = Some("a".into());
            cases[1].answer.tags = vec!["missing_metrics".into()];
            cases.map(|case| CaseLine { dataset: dataset.into(), ..case })
        };
        let good = set("robust-pg15", &["missing_index"], &["missing_index"]);
        let bad = set("robust-pg15", &["missing_index"], &[]);
        // The original of the other data set was missed: nothing can be said of its variant.
        let missed = set("robust-pg18", &[], &["missing_index"]);
        let told = compare(&run([bad, missed.clone()].concat()), &run([good, missed].concat()), 7);
        let holds = told.tasks.iter().find(|t| t.task == "holds_without_metrics").unwrap();
        assert_eq!((told.cases, holds.cases, holds.before, holds.after), (4, 1, 0.0, 1.0));
    }

    #[test]
    fn only_the_same_capture_is_compared() {
        let one = run(vec![case("a", &["missing_index"], &[]), case("b", &["missing_index"], &[])]);
        let mut other = one.clone();
        other.cases[0].capture_sha256 = "another".into();
        other.cases[1].case = "c".into();
        other.header.pins.galen_version = "9".into();
        let told = compare(&one, &other, 7);
        assert_eq!((told.cases, told.left_out.len()), (0, 3));
        assert_eq!(told.pins, ["galen_version: \"\" / \"9\""]);
        let mut seeded = one.clone();
        seeded.header.pins.options = Some(crate::driver::Options::default());
        let mut reseeded = seeded.clone();
        reseeded.header.pins.options.as_mut().unwrap().seed = 9;
        assert_eq!(differing_pins(&seeded, &reseeded), ["options.seed: 7 / 9"]);
    }
}
