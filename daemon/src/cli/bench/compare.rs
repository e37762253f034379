//! `galen bench compare`: two runs task by task, and the cases that changed.

use std::path::PathBuf;

use clap::Args;

use galen_agents::evaluation::compare::{Comparison, compare as decide};

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
    output::line(&format!("{} cases in both runs; differences with 95 % BCa bootstrap intervals, paired by case", told.cases));
    for t in &told.tasks {
        output::line(&format!(
            "{:<13} {:<24} {:.3} -> {:.3}  {:+.3} [{:+.3}, {:+.3}]{}  {} cases",
            t.capability.word(),
            t.task,
            t.before,
            t.after,
            t.difference.mean,
            t.difference.low,
            t.difference.high,
            if t.significant { " *" } else { "" },
            t.cases
        ));
    }
    if told.changed.is_empty() {
        output::line("no case names other causes");
    }
    let listed = |causes: &[String]| if causes.is_empty() { "nothing".to_owned() } else { causes.join(", ") };
    for c in &told.changed {
        output::line(&format!("{}: {} (right: {}): {} -> {}", c.verdict, c.case, c.answer.join(", "), listed(&c.before), listed(&c.after)));
    }
}
