//! The figures of a public benchmark in two runs side by side, case by case.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::Capability;
use super::compare::{Difference, verdict};
use super::measured::{Figure, Measured, by_figure};

/// A figure that exists over a whole data set only.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Whole {
    /// What was asked.
    pub capability: Capability,
    /// Name of the task.
    pub task: String,
    /// Data set with its half or protocol.
    pub dataset: String,
    /// Cases behind it.
    pub cases: usize,
    /// In the first run.
    pub before: f64,
    /// In the second run.
    pub after: f64,
}

/// A case on which a figure changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Moved {
    /// Id of the case.
    pub case: String,
    /// `better`, `worse`, or `other` where some figures rose and others fell.
    pub verdict: &'static str,
    /// What changed.
    pub figures: Vec<Step>,
}

/// A figure of a case in both runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Name of the task.
    pub task: String,
    /// Data set with its half or protocol.
    pub dataset: String,
    /// In the first run.
    pub before: f64,
    /// In the second run.
    pub after: f64,
}

/// What differs.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// Cases of which both runs hold a figure, measured on the same recording.
    pub cases: usize,
    pub left_out: Vec<String>,
    pub tasks: Vec<Difference>,
    pub whole: Vec<Whole>,
    pub moved: Vec<Moved>,
}

type Pair<'a> = (&'a Measured, &'a Measured);

/// Compares the figures that two runs share, over the cases that they share.
pub(super) fn compare(before: &[Measured], after: &[Measured], seed: u64) -> Compared {
    let (pairs, left_out) = pair(before, after);
    let cases: BTreeSet<&str> = pairs.iter().filter_map(|(a, _)| a.case.as_deref()).collect();
    let mut told = Compared { cases: cases.len(), left_out, moved: moved(&pairs), ..Compared::default() };
    for (Figure { capability, task, dataset }, pairs) in by_figure(pairs.iter().map(|pair| (pair.0.figure(), *pair))) {
        let (by_case, whole): (Vec<Pair<'_>>, Vec<Pair<'_>>) = pairs.into_iter().partition(|(a, _)| a.case.is_some());
        let values: Vec<(f64, f64)> = by_case.iter().map(|(a, b)| (a.value, b.value)).collect();
        let aside = by_case.iter().any(|(a, b)| a.aside || b.aside);
        let difference = Difference::of((capability, task, Some(dataset)), &values, seed);
        told.tasks.extend(difference.map(|difference| Difference { aside, ..difference }));
        told.whole.extend(whole.iter().map(|(a, b)| Whole {
            capability,
            task: task.to_owned(),
            dataset: dataset.to_owned(),
            cases: a.cases,
            before: a.value,
            after: b.value,
        }));
    }
    told
}

/// Lines of the same figure, case and recording; and what is left out, each once.
fn pair<'a>(before: &'a [Measured], after: &'a [Measured]) -> (Vec<Pair<'a>>, Vec<String>) {
    let cases = |lines: &'a [Measured]| lines.iter().filter_map(|line| line.case.as_deref()).collect::<BTreeSet<&str>>();
    let (first, second) = (cases(before), cases(after));
    // Where the other run does not know the case at all, that is said once; else the figure is named.
    let only = |line: &Measured, others: &BTreeSet<&str>, which: &str| match line.case.as_deref() {
        Some(case) if !others.contains(case) => format!("{case}: in the {which} run only"),
        _ => format!("{}: in the {which} run only", line.name()),
    };
    let mut open: HashMap<_, &Measured> = after.iter().map(|line| (line.place(), line)).collect();
    let (mut pairs, mut left_out) = (Vec::new(), BTreeSet::new());
    for line in before {
        match open.remove(&line.place()) {
            Some(other) if other.input_sha256 == line.input_sha256 => pairs.push((line, other)),
            Some(_) => drop(left_out.insert(match &line.case {
                Some(case) => format!("{case}: another recording of this name, or another answer"),
                None => format!("{}: over other recordings", line.name()),
            })),
            None => drop(left_out.insert(only(line, &second, "first"))),
        }
    }
    left_out.extend(open.values().map(|line| only(line, &first, "second")));
    (pairs, left_out.into_iter().collect())
}

/// Cases with a figure that changed, in the order of the first run. What stands aside judges no case.
fn moved(pairs: &[Pair<'_>]) -> Vec<Moved> {
    let mut order: Vec<&str> = Vec::new();
    let mut steps: BTreeMap<&str, Vec<Step>> = BTreeMap::new();
    let changed = pairs.iter().filter(|(a, b)| a.value.to_bits() != b.value.to_bits() && !a.aside && !b.aside);
    for (a, b, case) in changed.filter_map(|(a, b)| Some((a, b, a.case.as_deref()?))) {
        let of_case = steps.entry(case).or_default();
        if of_case.is_empty() {
            order.push(case);
        }
        of_case.push(Step { task: a.task.clone(), dataset: a.dataset.clone(), before: a.value, after: b.value });
    }
    let judged = |case: &str| {
        let figures = steps.remove(case).unwrap_or_default();
        let mut verdicts = figures.iter().map(|step| verdict(step.before, step.after));
        let first = verdicts.next().unwrap_or("other");
        let verdict = if verdicts.all(|other| other == first) { first } else { "other" };
        Moved { case: case.to_owned(), verdict, figures }
    };
    order.into_iter().map(judged).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP1: Figure<'_> = Figure { capability: Capability::RootCause, task: "top1", dataset: "d/test" };

    fn lines(values: &[f64]) -> Vec<Measured> {
        let of = |(at, value): (usize, &f64)| TOP1.of_case(&format!("c{at}"), &format!("sha {at}"), [*value, 0.5]);
        values.iter().enumerate().map(of).collect()
    }

    #[test]
    fn equal_figures_differ_by_nothing() {
        let one = lines(&[1.0, 0.0, 0.25]);
        let told = compare(&one, &one, 7);
        assert_eq!((told.cases, told.left_out.len(), told.moved.len(), told.tasks.len()), (3, 0, 0, 1));
        assert!(!told.tasks[0].significant && told.tasks[0].dataset.as_deref() == Some("d/test"));
    }

    #[test]
    fn a_change_has_its_interval_and_its_cases_are_named_once() {
        let before = lines(&[1.0; 20]);
        let mut after = lines(&[[0.0; 12].as_slice(), &[1.0; 8]].concat());
        let top2 = Figure { task: "top2", ..TOP1 };
        let (mut low, mut high) = (before.clone(), after.clone());
        for (lines, value) in [(&mut low, 0.0), (&mut high, 1.0)] {
            lines.extend((0..20).map(|at| top2.of_case(&format!("c{at}"), &format!("sha {at}"), [if at < 2 { value } else { 1.0 }, 0.0])));
        }
        let told = compare(&low, &high, 7);
        let top1 = told.tasks.iter().find(|t| t.task == "top1").unwrap();
        assert!(top1.significant && (top1.difference.mean + 0.6).abs() < 1e-12 && top1.cases == 20, "{top1:?}");
        assert_eq!(told.moved.len(), 12);
        assert_eq!((told.moved[0].verdict, told.moved[0].figures.len(), told.moved[2].verdict), ("other", 2, "worse"));
        assert_eq!(compare(&high, &low, 7).moved[2].verdict, "better");
        // A control that rises makes no case better.
        let aside = |lines: &[Measured]| lines.iter().map(|line| Measured { aside: true, ..line.clone() }).collect::<Vec<_>>();
        let told = compare(&aside(&low), &aside(&high), 7);
        assert!(told.moved.is_empty() && told.tasks.iter().all(|t| t.aside) && told.tasks[0].significant);
        // Figures of a whole set have no interval.
        after.push(Measured { case: None, cases: 20, ..TOP1.of_case("", "all", [0.75, 0.5]) });
        let told = compare(&after, &after, 7);
        assert_eq!(told.whole.iter().map(|w| (w.before, w.cases)).collect::<Vec<_>>(), [(0.75, 20)]);
        assert_eq!(told.tasks.iter().map(|t| t.cases).collect::<Vec<_>>(), [20]);
    }

    #[test]
    fn only_the_same_recording_is_compared() {
        let before = lines(&[1.0, 1.0, 1.0]);
        let mut after = before.clone();
        after[0].input_sha256 = "another".into();
        after[1].case = Some("new".into());
        after.push(Figure { task: "top2", ..TOP1 }.of_case("c2", "sha 2", [1.0, 0.0]));
        let told = compare(&before, &after, 7);
        assert_eq!(told.cases, 1);
        assert_eq!(
            told.left_out,
            [
                "c0: another recording of this name, or another answer",
                "c1: in the first run only",
                "new: in the second run only",
                "top2 of d/test, c2: in the second run only"
            ]
        );
    }
}
