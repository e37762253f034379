//! The leaderboard: runs side by side as one page, no script, nothing from outside.

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use serde_json::{Value, json};

use super::bootstrap::interval;
use super::calibration::calibration;
use super::numeric::mean;
use super::record::{CaseLine, Run};
use super::score::{Level, gain, hierarchy, scores};
use super::tasks::{Context, TASKS, dbot, named_faults};
use super::{Score, plots};

const PAGE: &str = include_str!("../../templates/leaderboard.html");

/// Renders the page. `runs` are names and runs; with `reference` the run at that index takes the place of the trivial
/// methods as baseline.
///
/// # Errors
/// One line, when the template does not render.
pub fn render(runs: &[(String, Run)], reference: Option<usize>) -> Result<String, String> {
    let all: Vec<Vec<Score>> = runs.iter().map(|(_, run)| scores(run)).collect();
    let against = reference.and_then(|at| all.get(at)).map(Vec::as_slice);
    let trees: Vec<Level> = all.iter().map(|scores| hierarchy(scores, against)).collect();
    let mut order: Vec<usize> = (0..runs.len()).collect();
    order.sort_by(|a, b| trees[*b].gain.total_cmp(&trees[*a].gain));
    let capabilities = names(&trees);
    let rows: Vec<Value> = order.iter().map(|i| row(&runs[*i], &trees[*i], &capabilities, *i)).collect();
    let context = json!({
        "rows": rows,
        "capabilities": capabilities,
        "reference": reference.and_then(|at| runs.get(at)).map(|(name, _)| name),
        "bars": plots::bars("Gain over the baseline by capability", &bars(&capabilities, &trees)),
        "reliability": plots::reliability("Reliability of the first cause", &runs.iter().map(|(_, r)| calibration(r)).collect::<Vec<_>>()),
        "cost": plots::cost("Accuracy over time", &runs.iter().map(|(name, r)| (name.clone(), median_ms(r), accuracy(r))).collect::<Vec<_>>()),
        "tasks": tasks(&all),
        "about": TASKS.iter().map(|t| json!({"task": t.name, "about": t.about})).collect::<Vec<_>>(),
        "runs": runs.iter().enumerate().map(|(i, (name, run))| details(i, name, run)).collect::<Vec<_>>(),
    });
    let mut env = Environment::new();
    env.set_auto_escape_callback(|_| AutoEscape::Html);
    env.add_filter("fixed", |value: f64, digits: usize| format!("{value:.digits$}"));
    let page = env.template_from_str(PAGE).and_then(|t| t.render(Serde(&context)));
    page.map_err(|e| format!("the leaderboard does not render: {e}"))
}

fn names(trees: &[Level]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for part in trees.iter().flat_map(|t| &t.parts) {
        if !names.contains(&part.name) {
            names.push(part.name.clone());
        }
    }
    names
}

fn find<'a>(tree: &'a Level, name: &str) -> Option<&'a Level> {
    tree.parts.iter().find(|p| p.name == name)
}

fn hex(index: usize) -> String {
    let (r, g, b) = plots::COLOURS[index % plots::COLOURS.len()];
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn row((name, run): &(String, Run), tree: &Level, capabilities: &[String], index: usize) -> Value {
    let pins = &run.header.pins;
    json!({
        "name": name,
        "colour": hex(index),
        "model": pins.model.as_ref().map_or("none", |m| m.name.as_str()),
        "half": pins.half,
        "cases": run.cases.len(),
        "failed": run.failed.len(),
        "missing": run.header.cases.saturating_sub(run.cases.len() + run.failed.len()),
        "gain": tree.gain,
        "ratio": tree.ratio,
        "parts": capabilities.iter().map(|c| find(tree, c).map(|p| json!({"gain": p.gain, "value": p.value}))).collect::<Vec<_>>(),
    })
}

fn bars(capabilities: &[String], trees: &[Level]) -> Vec<(String, Vec<Option<f64>>)> {
    let of = |c: &String| (c.replace('_', " "), trees.iter().map(|t| find(t, c).map(|p| p.gain)).collect());
    capabilities.iter().map(of).collect()
}

/// Every task and data set with each run's value.
fn tasks(all: &[Vec<Score>]) -> Vec<Value> {
    let mut keys: Vec<&Score> = Vec::new();
    for score in all.iter().flatten() {
        if !keys.iter().any(|k| k.capability == score.capability && k.task == score.task && k.dataset == score.dataset) {
            keys.push(score);
        }
    }
    keys.sort_by(|a, b| (a.capability, &a.task, &a.dataset).cmp(&(b.capability, &b.task, &b.dataset)));
    let cell = |scores: &Vec<Score>, key: &Score| {
        let found = scores.iter().find(|s| s.capability == key.capability && s.task == key.task && s.dataset == key.dataset);
        found.map(|s| json!({"value": s.value, "baseline": s.baseline, "cases": s.cases, "gain": gain(s.value, s.baseline)}))
    };
    let line = |key: &&Score| {
        json!({
            "capability": key.capability.word().replace('_', " "),
            "task": key.task,
            "dataset": key.dataset,
            "cells": all.iter().map(|s| cell(s, key)).collect::<Vec<_>>(),
        })
    };
    keys.iter().map(line).collect()
}

fn accuracies(run: &Run) -> Vec<f64> {
    let right = |c: &CaseLine| match c.answer.causes.iter().any(|a| a == "healthy") {
        true => f64::from(u8::from(named_faults(c).is_empty())),
        false => dbot(c, &named_faults(c)),
    };
    run.cases.iter().map(right).collect()
}

fn accuracy(run: &Run) -> f64 {
    mean(&accuracies(run))
}

fn median_ms(run: &Run) -> f64 {
    let mut ms: Vec<f64> = run.cases.iter().map(|c| c.wall_ms).collect();
    ms.sort_by(f64::total_cmp);
    ms.get(ms.len() / 2).copied().unwrap_or(0.0)
}

fn details(index: usize, name: &str, run: &Run) -> Value {
    let told = calibration(run);
    let cases: Vec<&CaseLine> = run.cases.iter().collect();
    let context = Context::new(&cases);
    let top1 = TASKS.iter().find(|t| t.name == "top1");
    let wrong = run.cases.iter().filter(|c| {
        let missed = top1.and_then(|t| (t.measure)(c, &context)).is_some_and(|(value, _)| value < 1.0);
        missed || (c.answer.causes.iter().any(|a| a == "healthy") && !named_faults(c).is_empty())
    });
    let named = |c: &CaseLine| c.named.iter().map(|n| format!("{} ({:.0} %)", n.cause, n.probability * 100.0)).collect::<Vec<_>>();
    json!({
        "name": name,
        "colour": hex(index),
        "pins": run.header.pins,
        "machine": run.header.machine,
        "median_ms": median_ms(run),
        "accuracy": interval(&accuracies(run), 7),
        "calibration": told,
        "failed": run.failed,
        "wrong": wrong.map(|c| json!({"case": c.case, "answer": c.answer.causes, "named": named(c)})).collect::<Vec<_>>(),
        "faults": run.cases.iter().flat_map(|c| c.grounding.faults.iter().map(move |f| format!("{}: {f}", c.case))).take(20).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::record::FailedCase;
    use crate::evaluation::score_fixture::{case, run};

    fn two() -> Vec<(String, Run)> {
        let good = run(vec![case("a", &["missing_index"], &["missing_index"]), case("b", &["healthy"], &["healthy"])]);
        let mut bad = run(vec![case("a", &["missing_index"], &["table_bloat"]), case("b", &["healthy"], &["deadlocks"])]);
        bad.failed.push(FailedCase { dataset: "d".into(), case: "<c>".into(), why: "cut off".into() });
        vec![("bad<script>".into(), bad), ("good".into(), good)]
    }

    #[test]
    fn the_better_run_stands_first_and_nothing_comes_from_outside() {
        let page = render(&two(), None).unwrap();
        let table = page.find("<tbody>").unwrap();
        assert!(page[table..].find("good").unwrap() < page[table..].find("bad&lt;script&gt;").unwrap());
        assert!(!page.contains("<script") && !page.contains("<link") && !page.contains("@import") && !page.contains("src="));
        assert_eq!(page.matches("http").count(), page.matches("http://www.w3.org").count());
        assert!(page.matches("<svg").count() >= 3 && page.contains("table_bloat") && page.contains("cut off"));
    }

    #[test]
    fn against_itself_a_reference_gains_nothing() {
        let page = render(&two(), Some(1)).unwrap();
        assert!(page.contains("relative to the run <b>good</b>"), "the reference is named");
        assert!(page.contains(">100<") || page.contains(">100 "), "{page}");
    }
}
