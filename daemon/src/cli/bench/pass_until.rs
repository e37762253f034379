//! `galen bench pass-until`: how often a weak model's sampled choice is right, down to rates that a fixed number of
//! samples calls zero; and what the smaller models foretell of the largest.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use galen_agents::evaluation::Capability;
use galen_agents::evaluation::numeric::Random;
use galen_agents::evaluation::pass_until::{PassRate, Rule, draw, estimate, pooled, shares};
use galen_agents::evaluation::question::{Question, digest};
use galen_agents::evaluation::scaling::{Point, Prediction, fit, predict_largest};
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
        let (model_sha256, sampled) = sample(global, name, questions, rule, &args).await?;
        let Some(pass) = pooled(&sampled.iter().map(|s| s.pass).collect::<Vec<_>>()) else { continue };
        tell(
            global,
            name,
            &sampled,
            &pass,
            &json!({"questions_sha256": questions_sha256, "model_sha256": model_sha256, "release": env!("CARGO_PKG_VERSION"),
            "half": args.half.word(), "seed": args.seed, "passes": args.passes, "budget": args.budget, "temperature": args.temperature}),
        );
        for (case, s) in by_case.iter_mut().zip(&sampled) {
            case.push(Point { model: name.clone(), parameters, pass: s.pass });
        }
        points.push(Point { model: name.clone(), parameters, pass });
    }
    foretell(global, &points, &by_case);
    collected.end()
}

/// The digest of the model's file, and what was drawn on each question.
async fn sample(
    global: &Global,
    name: &str,
    questions: &[Question],
    rule: Rule,
    args: &PassUntilArgs,
) -> Result<(String, Vec<Sampled>), Failure> {
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
    Ok((provider.identity().sha256.clone(), sampled))
}

fn tell(global: &Global, name: &str, sampled: &[Sampled], pass: &PassRate, pins: &Value) {
    let samples: u64 = sampled.iter().map(|s| s.samples).sum();
    let exact = sampled.iter().map(|s| s.exact).sum::<f64>() / sampled.len().max(1) as f64;
    let censored = sampled.iter().filter(|s| s.pass.censored).count();
    if global.json {
        for s in sampled {
            output::line(&json!({"model": name, "case": s.case, "pass": s.pass, "samples": s.samples, "exact": s.exact}).to_string());
        }
        let mut whole = json!({"model": name, "cases": sampled.len(), "pass": pass, "samples": samples, "exact": exact});
        for (key, pin) in pins.as_object().into_iter().flatten() {
            whole[key] = pin.clone();
        }
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

/// What the laws of single cases foretell, on average.
#[derive(Debug, PartialEq)]
struct ByCases {
    /// Cases that have a law: rates of two smaller sizes between 0 and 1.
    cases: usize,
    predicted: f64,
    /// The largest model's mean rate on the same cases.
    measured: f64,
}

impl ByCases {
    fn error(&self) -> f64 {
        self.predicted - self.measured
    }
}

/// None where no case has a law of its own.
fn by_cases(by_case: &[Vec<Point>]) -> Option<ByCases> {
    let told: Vec<Prediction> = by_case.iter().filter_map(|case| predict_largest(case).ok()).collect();
    let mean = |value: fn(&Prediction) -> f64| told.iter().map(value).sum::<f64>() / told.len() as f64;
    (!told.is_empty()).then(|| ByCases { cases: told.len(), predicted: mean(|p| p.predicted), measured: mean(|p| p.measured) })
}

/// The task-scaling law over the models' mean rates, and over each case's own (averaged afterwards).
fn foretell(global: &Global, points: &[Point], by_case: &[Vec<Point>]) {
    if points.len() < 2 {
        return;
    }
    let line = match predict_largest(points) {
        Ok(told) => {
            let cases = by_cases(by_case);
            if global.json {
                let by_case =
                    cases.map(|c| json!({"cases": c.cases, "predicted": c.predicted, "measured": c.measured, "error": c.error()}));
                json!({"scaling": told, "by_case": by_case}).to_string()
            } else {
                let cases = cases.map_or_else(
                    || "case by case: none, no case has two smaller sizes with rates between 0 and 1".to_owned(),
                    |c| {
                        format!(
                            "case by case {:.4}, measured {:.4} on these {} cases: error {:+.4}",
                            c.predicted,
                            c.measured,
                            c.cases,
                            c.error()
                        )
                    },
                );
                format!(
                    "scaling: rate = exp(-{:.3} N^-{:.4}) fitted on the smaller models foretells {:.4} for {}, measured {:.4}: error {:+.4} ({:+.1} %); {cases}",
                    told.law.c,
                    told.law.a,
                    told.predicted,
                    told.model,
                    told.measured,
                    told.error,
                    100.0 * told.error / told.measured.max(1e-12)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_without_a_law_are_in_neither_mean() {
        let point = |parameters: f64, rate: f64| {
            let pass = PassRate { rate, variance: 0.0, low: rate, high: rate, censored: false };
            Point { model: parameters.to_string(), parameters, pass }
        };
        let flat = vec![point(1e8, 0.2), point(2e8, 0.2), point(1e9, 0.4)];
        let lost = vec![point(1e8, 0.0), point(2e8, 0.2), point(1e9, 0.9)];
        let told = by_cases(&[flat, lost.clone()]).unwrap();
        assert!(told.cases == 1 && (told.predicted - 0.2).abs() < 1e-9 && (told.measured - 0.4).abs() < 1e-9, "{told:?}");
        assert_eq!(by_cases(&[lost]), None);
    }
}
