//! What the leaderboard says of one run: its cases that went wrong, its pins, where it stands beside the simple method.

use serde_json::{Value, json};

use crate::evaluation::bootstrap::interval;
use crate::evaluation::calibration::calibration;
use crate::evaluation::measured::{Figure, Measured, by_figure};
use crate::evaluation::numeric::mean;
use crate::evaluation::record::{CaseLine, Run};
use crate::evaluation::tasks::{Contexts, TASKS, accuracy, named_faults};

/// Most cases that are named in a line.
const MOST_NAMED: usize = 10;

/// The section of a run.
pub(super) fn details(name: &str, colour: &str, run: &Run) -> Value {
    json!({
        "name": name,
        "colour": colour,
        "pins": run.header.pins,
        "machine": run.header.machine,
        "cases": run.case_count(),
        "diagnosed": diagnosed(run),
        "measured": beside(&run.measured),
        "failed": run.failed,
        "wrong": wrong(run),
        "faults": run.cases.iter().flat_map(|c| c.grounding.faults.iter().map(move |f| format!("{}: {f}", c.case))).take(20).collect::<Vec<_>>(),
    })
}

/// Median milliseconds a case and mean accuracy; none for a run without diagnosed cases.
pub(super) fn cost(run: &Run) -> Option<(f64, f64)> {
    let mut ms: Vec<f64> = run.cases.iter().map(|c| c.wall_ms).collect();
    ms.sort_by(f64::total_cmp);
    Some((*ms.get(ms.len() / 2)?, mean(&accuracies(run))))
}

fn accuracies(run: &Run) -> Vec<f64> {
    run.cases.iter().map(|c| accuracy(c, &named_faults(c))).collect()
}

fn diagnosed(run: &Run) -> Option<Value> {
    let (median_ms, _) = cost(run)?;
    Some(json!({"median_ms": median_ms, "accuracy": interval(&accuracies(run), (0.0, 1.0), 7), "calibration": calibration(run)}))
}

fn wrong(run: &Run) -> Vec<Value> {
    let contexts = Contexts::new(&run.cases);
    let top1 = TASKS.iter().find(|t| t.name == "top1");
    let wrong = run.cases.iter().filter(|c| {
        let missed = top1.and_then(|t| contexts.measure(t, c)).is_some_and(|(value, _)| value < 1.0);
        missed || (c.answer.causes.iter().any(|a| a == "healthy") && !named_faults(c).is_empty())
    });
    let named = |c: &CaseLine| c.named.iter().map(|n| format!("{} ({:.0} %)", n.cause, n.probability * 100.0)).collect::<Vec<_>>();
    wrong.map(|c| json!({"case": c.case, "answer": c.answer.causes, "named": named(c)})).collect()
}

/// For each figure of a public benchmark, on how many cases it stands above, at and below the simple method, and the last by name.
fn beside(measured: &[Measured]) -> Vec<Value> {
    let of_cases = measured.iter().filter(|line| line.case.is_some() && !line.aside).map(|line| (line.figure(), line));
    let row = |(figure, lines): (Figure<'_>, Vec<&Measured>)| {
        let count = |is: fn(&Measured) -> bool| lines.iter().filter(|line| is(line)).count();
        let below: Vec<&str> = lines.iter().filter(|line| line.value < line.baseline).filter_map(|line| line.case.as_deref()).collect();
        json!({
            "capability": figure.capability.word().replace('_', " "),
            "task": figure.task,
            "dataset": figure.dataset,
            "above": count(|line| line.value > line.baseline),
            "level": count(|line| line.value == line.baseline),
            "below": below.len(),
            "named": below.iter().take(MOST_NAMED).collect::<Vec<_>>(),
            "more": below.len().saturating_sub(MOST_NAMED),
        })
    };
    by_figure(of_cases).into_iter().map(row).collect()
}
