//! `galen bench pass-until`: how often a weak model's sampled choice is right, down to rates that a fixed number of
//! samples calls zero; and what the smaller models foretell of the largest.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use galen_agents::evaluation::Capability;
use galen_agents::evaluation::numeric::Random;
use galen_agents::evaluation::pass_until::{PassRate, Rule, draw, estimate, pooled, shares};
use galen_agents::evaluation::question::{Question, digest};
use galen_agents::evaluation::scaling::{Point, fit, predict_largest};
use galen_agents::llm::registry::Registry;

use super::questions::{Asker, collect};
use super::suite::Which;
use crate::cli::Global;
use crate::failure::Failure;
use crate::{engine, output};

#[derive(Debug, Args)]
#[command(after_help = "Each case is the question which of four causes the evidence shows. The model's choice is sampled from the
probabilities that it gives the options (prior removed, order permuted), at a temperature, until enough samples are right
or the budget is spent. With three models of different size or more, the law of the smaller ones foretells the largest.

  galen bench pass-until captures/ --model smollm2-135m --passes 5 --budget 100000
  galen bench pass-until captures/ --model smollm2-135m --model qwen2.5-coder-0.5b --model qwen2.5-coder-1.5b")]
pub struct PassUntilArgs {
    /// Labelled captures
    #[arg(required = true, value_name = "CAPTURES")]
    paths: Vec<PathBuf>,
    /// Model to sample; several give the scaling law
    #[arg(long, default_value = "smollm2-135m")]
    model: Vec<String>,
    /// Right answers to wait for
    #[arg(long, default_value_t = 5)]
    passes: u64,
    /// Most samples a case
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    budget: u64,
    /// Temperature: 1 samples as the model would answer, less sharpens its choice
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    /// Seed of the samples
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Half to use
    #[arg(long, value_enum, default_value_t = Which::All)]
    half: Which,
    /// File names are the causes
    #[arg(long)]
    labels_from_names: bool,
}

/// One case of one model.
struct Sampled {
    case: String,
    pass: PassRate,
    samples: u64,
    /// Probability of the right option at the temperature: what the samples estimate.
    exact: f64,
}

/// Samples every model on every case.
pub async fn pass_until(global: &Global, args: PassUntilArgs) -> Result<(), Failure> {
    let rule = Rule { passes: args.passes, budget: args.budget }.check().map_err(Failure::usage)?;
    if !(args.temperature.is_finite() && args.temperature > 0.0) {
        return Err(Failure::usage(format!("a temperature is above 0, not {}", args.temperature)));
    }
    let registry = Registry::load(&global.models_dir()?).map_err(|e| Failure::model(e.to_string()))?;
    if let Some(twice) = args.model.iter().enumerate().find_map(|(at, name)| args.model[..at].contains(name).then_some(name)) {
        return Err(Failure::usage(format!("the model {twice} is named twice; the law needs models of different size")));
    }
    let mut collected = collect(global, &args.paths, args.labels_from_names, args.half).await?;
    let questions = &mut collected.questions;
    // Over all questions of the captures, as `model density` has it.
    let questions_sha256 = digest(questions);
    questions.retain(|q| q.capability == Capability::RootCause);
    let mut points: Vec<Point> = Vec::new();
    let mut by_case: Vec<Vec<Point>> = vec![Vec::new(); questions.len()];
    for name in &args.model {
        let parameters = registry.find(name).map_err(|e| Failure::model(e.to_string()))?.parameters as f64;
        let sampled = sample(global, name, questions, rule, &args).await?;
        let Some(pass) = pooled(&sampled.iter().map(|s| s.pass).collect::<Vec<_>>()) else { continue };
        tell(global, name, &sampled, &pass, &questions_sha256);
        for (case, s) in by_case.iter_mut().zip(&sampled) {
            case.push(Point { model: name.clone(), parameters, pass: s.pass });
        }
        points.push(Point { model: name.clone(), parameters, pass });
    }
    foretell(global, &points, &by_case);
    collected.end()
}

async fn sample(global: &Global, name: &str, questions: &[Question], rule: Rule, args: &PassUntilArgs) -> Result<Vec<Sampled>, Failure> {
    let provider = engine::chosen(&global.load()?, name, 2, 300).await?;
    let mut asker = Asker::new(provider.as_ref());
    let mut sampled = Vec::new();
    for (index, question) in questions.iter().enumerate() {
        let probabilities = asker.ask(question).await.map_err(|e| Failure::model(format!("{name}: {}: {e}", question.case)))?;
        let logs: Vec<f64> = probabilities.iter().map(|p| p.max(1e-300).ln()).collect();
        // A stream of its own for each case, by its place among them: what comes after it changes nothing for it.
        let mut random = Random::new(args.seed ^ ((index as u64 + 1) << 20));
        let tally = rule.run(|| draw(&logs, args.temperature, &mut random) == question.right);
        sampled.push(Sampled {
            case: question.case.clone(),
            pass: estimate(rule, tally),
            samples: tally.samples,
            exact: shares(&logs, args.temperature).get(question.right).copied().unwrap_or(0.0),
        });
    }
    Ok(sampled)
}

fn tell(global: &Global, name: &str, sampled: &[Sampled], pass: &PassRate, questions_sha256: &str) {
    let samples: u64 = sampled.iter().map(|s| s.samples).sum();
    let exact = sampled.iter().map(|s| s.exact).sum::<f64>() / sampled.len().max(1) as f64;
    let censored = sampled.iter().filter(|s| s.pass.censored).count();
    if global.json {
        for s in sampled {
            output::line(&json!({"model": name, "case": s.case, "pass": s.pass, "samples": s.samples, "exact": s.exact}).to_string());
        }
        let whole = json!({
            "model": name,
            "cases": sampled.len(),
            "pass": pass,
            "samples": samples,
            "exact": exact,
            "questions_sha256": questions_sha256,
            "release": env!("CARGO_PKG_VERSION"),
        });
        output::line(&whole.to_string());
        return;
    }
    for s in sampled {
        let ended = if s.pass.censored { "budget spent" } else { "passes reached" };
        output::line(&format!("{name} {:<28} {} after {} samples, {ended}; exact {:.3e}", s.case, rate(&s.pass), s.samples, s.exact));
    }
    output::line(&format!(
        "{name}: pass rate {} over {} cases, {samples} samples, {censored} censored; mean of the exact probabilities {exact:.4}",
        rate(pass),
        sampled.len()
    ));
}

fn rate(pass: &PassRate) -> String {
    if pass.rate > 0.0 {
        format!("{:.3e} [{:.1e}, {:.1e}]", pass.rate, pass.low, pass.high)
    } else {
        format!("below {:.1e} (95 %)", pass.high)
    }
}

/// The task-scaling law over the models' mean rates, and over each case's own (averaged afterwards).
fn foretell(global: &Global, points: &[Point], by_case: &[Vec<Point>]) {
    if points.len() < 2 {
        return;
    }
    let line = match predict_largest(points) {
        Ok(told) => {
            // A case whose rates have no place on a line keeps the mean of its smaller models.
            let of_case = |case: &Vec<Point>| predict_largest(case).ok().map(|p| p.predicted);
            let cases: Vec<f64> = by_case.iter().filter_map(of_case).collect();
            let mean = cases.iter().sum::<f64>() / cases.len().max(1) as f64;
            if global.json {
                json!({"scaling": told, "by_case": {"cases": cases.len(), "predicted": mean, "error": mean - told.measured}}).to_string()
            } else {
                format!(
                    "scaling: rate = exp(-{:.3} N^-{:.4}) fitted on the smaller models foretells {:.4} for {}, measured {:.4}: error {:+.4} ({:+.1} %); case by case {mean:.4}, error {:+.4} over {} cases",
                    told.law.c,
                    told.law.a,
                    told.predicted,
                    told.model,
                    told.measured,
                    told.error,
                    100.0 * told.error / told.measured.max(1e-12),
                    mean - told.measured,
                    cases.len()
                )
            }
        }
        Err(why) => match fit(points) {
            Ok(law) if global.json => json!({"scaling": {"law": law}, "no_prediction": why}).to_string(),
            Ok(law) => format!("scaling: rate = exp(-{:.3} N^-{:.4}); no prediction: {why}", law.c, law.a),
            Err(error) if global.json => json!({"no_scaling": error}).to_string(),
            Err(error) => format!("no scaling law: {error}"),
        },
    };
    output::line(&line);
}
