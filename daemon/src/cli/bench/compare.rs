//! `galen bench compare`: two runs task by task, and the cases that changed.

use std::path::PathBuf;

use clap::Args;

use galen_agents::evaluation::bootstrap::FEWEST_DIFFERING;
use galen_agents::evaluation::compare::{Comparison, Step, compare as decide};

use super::run::read;
use crate::cli::Global;
use crate::failure::Failure;
use crate::output;

#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Run before
    before: PathBuf,
    /// Run after
    after: PathBuf,
    /// Seed of the bootstrap
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

/// Compares two runs.
pub fn compare(global: &Global, args: &CompareArgs) -> Result<(), Failure> {
    let told = decide(&read(&args.before)?, &read(&args.after)?, args.seed);
    if told.cases == 0 {
        return Err(Failure::input(format!(
            "{} and {} share no case of the same capture and answer",
            args.before.display(),
            args.after.display()
        )));
    }
    if global.json {
        output::line(&serde_json::to_string(&told).map_err(|e| Failure::fault(e.to_string()))?);
    } else {
        show(&told);
    }
    Ok(())
}

fn show(told: &Comparison) {
    for pin in &told.pins {
        output::line(&format!("pin differs: {pin}"));
    }
    for line in &told.left_out {
        output::line(&format!("left out: {line}"));
    }
    output::line(&format!(
        "{} cases in both runs; differences with 95 % BCa bootstrap intervals, paired by case; * excludes 0 with {FEWEST_DIFFERING} pairs or more that differ",
        told.cases
    ));
    for t in &told.tasks {
        output::line(&format!(
            "{:<13} {} {:.3} -> {:.3}  {:+.3} [{:+.3}, {:+.3}]{}  {} cases{}",
            t.capability.word(),
            t.dataset.as_ref().map_or_else(|| format!("{:<24}", t.task), |dataset| figure(&t.task, dataset)),
            t.before,
            t.after,
            t.difference.mean,
            t.difference.low,
            t.difference.high,
            if t.significant { " *" } else { "" },
            t.cases,
            if t.aside { ", aside" } else { "" }
        ));
    }
    for w in &told.whole {
        let difference = w.after - w.before;
        let (word, name) = (w.capability.word(), figure(&w.task, &w.dataset));
        output::line(&format!("{word:<13} {name} {:.3} -> {:.3}  {difference:+.3}  over {} cases at once", w.before, w.after, w.cases));
    }
    if told.changed.is_empty() && told.tasks.iter().any(|t| t.dataset.is_none()) {
        output::line("no case names other causes");
    }
    if told.moved.is_empty() && told.tasks.iter().any(|t| t.dataset.is_some()) {
        output::line("no figure of a case is another");
    }
    let listed = |causes: &[String]| if causes.is_empty() { "nothing".to_owned() } else { causes.join(", ") };
    for c in &told.changed {
        output::line(&format!("{}: {} (right: {}): {} -> {}", c.verdict, c.case, c.answer.join(", "), listed(&c.before), listed(&c.after)));
    }
    for m in &told.moved {
        let step = |s: &Step| format!("{} of {} {:.3} -> {:.3}", s.task, s.dataset, s.before, s.after);
        output::line(&format!("{}: {}: {}", m.verdict, m.case, m.figures.iter().map(step).collect::<Vec<_>>().join(", ")));
    }
}

fn figure(task: &str, dataset: &str) -> String {
    format!("{task:<20} {dataset:<40}")
}
