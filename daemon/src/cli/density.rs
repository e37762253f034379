//! `galen model density`: what each model at hand is worth for its size, its memory and its speed, on this machine.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;

use galen_agents::evaluation::Capability;
use galen_agents::evaluation::density::{Density, LossLaw, Measured, density, fit_loss};
use galen_agents::evaluation::numeric::mean;
use galen_agents::evaluation::question::Question;
use galen_agents::llm::registry::{Kind, Model, Registry, default_models_dir};
use galen_agents::llm::{GenerateRequest, LlmError, LocalConfig, LocalProvider, Prompt, Provider, ScoreRequest};

use super::Global;
use super::bench::questions::{Asker, collect};
use super::bench::suite::Which;
use crate::failure::Failure;
use crate::output;

/// The capabilities that questions measure.
const CAPABILITIES: [Capability; 2] = [Capability::RootCause, Capability::Faithfulness];

#[derive(Debug, Args)]
#[command(after_help = "Questions come from labelled captures: which of four causes the evidence shows (root_cause), and whether a
finding speaks for or against a cause (faithfulness). The loss is the mean negative log-probability of the right option,
prior removed and order permuted. The registry's models are the references of the law; quantisations made with
`galen model quantize` are measured against it.

  galen model density --captures examples/captures --labels-from-names")]
pub struct DensityArgs {
    /// Labelled captures
    #[arg(long, default_value = "examples/captures", value_name = "DIR")]
    captures: Vec<PathBuf>,
    /// File names are the causes
    #[arg(long)]
    labels_from_names: bool,
    /// Models to measure [default: all that are on this machine]
    #[arg(long, value_delimiter = ',')]
    models: Vec<String>,
    /// Score needed in root_cause, 0 to 1
    #[arg(long, default_value_t = 0.5)]
    need: f64,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: u16,
    /// Half to use
    #[arg(long, value_enum, default_value_t = Which::All)]
    half: Which,
    /// Models measured before, on the same captures: what `--json` printed. They are not measured again
    #[arg(long, value_name = "FILE.jsonl")]
    measured: Vec<PathBuf>,
}

/// A model file on this machine.
struct Candidate {
    name: String,
    quantisation: String,
    parameters: u64,
    path: PathBuf,
    /// In the registry, so that it is a reference of the law.
    reference: bool,
}

/// What was measured of a model.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    model: String,
    quantisation: String,
    parameters: u64,
    file_bytes: u64,
    /// Most memory that the model's process held, bytes; pages of the mapped file count.
    memory_bytes: u64,
    prefill_tps: f64,
    decode_tps: f64,
    reference: bool,
    questions: usize,
    results: Vec<Measured>,
    #[serde(skip)]
    densities: Vec<Option<Density>>,
}

/// Measures the ladder.
pub async fn measure(global: &Global, args: DensityArgs) -> Result<(), Failure> {
    let mut rows = earlier(&args.measured)?;
    let mut candidates = candidates(&args.models)?;
    candidates.retain(|c| !rows.iter().any(|r| r.model == c.name));
    let questions = collect(global, &args.captures, args.labels_from_names, args.half).await?;
    eprintln!("{} questions over {} captures, {} models", questions.len(), captures(&questions), candidates.len());
    if let Some(other) = rows.iter().find(|r| r.questions != questions.len()) {
        return Err(Failure::input(format!("{} was measured on {} questions, here are {}", other.model, other.questions, questions.len())));
    }
    for candidate in &candidates {
        match one(candidate, &questions, args.threads).await {
            Ok(row) => {
                // At once: a ladder takes long, and what is measured is kept when it is interrupted.
                if global.json {
                    output::line(&json!(row).to_string());
                }
                rows.push(row);
            }
            Err(error) => eprintln!("galen: {}: {error}", candidate.name),
        }
    }
    if rows.is_empty() {
        return Err(Failure::model("no model could be measured"));
    }
    rows.sort_by(|a, b| a.parameters.cmp(&b.parameters).then(b.file_bytes.cmp(&a.file_bytes)));
    let laws: Vec<Result<LossLaw, String>> = (0..CAPABILITIES.len()).map(|at| law(&rows, at)).collect();
    place(&mut rows, &laws);
    show(global, &rows, &laws, args.need);
    Ok(())
}

/// Rows that earlier runs printed.
fn earlier(files: &[PathBuf]) -> Result<Vec<Row>, Failure> {
    let mut rows: Vec<Row> = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|e| Failure::input(format!("{}: {e}", file.display())))?;
        // The last line holds the laws, not a model.
        rows.extend(text.lines().filter_map(|line| serde_json::from_str::<Row>(line).ok()));
    }
    if rows.is_empty() && !files.is_empty() {
        return Err(Failure::input("no measured model in these files; write them with `galen model density --json`"));
    }
    Ok(rows)
}

fn captures(questions: &[Question]) -> usize {
    questions.iter().map(|q| q.case.as_str()).collect::<std::collections::BTreeSet<_>>().len()
}

/// Files of the registry, and quantisations beside them: `NAME.TYPE.gguf`.
fn candidates(wanted: &[String]) -> Result<Vec<Candidate>, Failure> {
    let folder = default_models_dir();
    let mut registry = Registry::load(&folder).map_err(|e| Failure::model(e.to_string()))?;
    registry.models.retain(|m| m.kind == Kind::Chat);
    let mut found = Vec::new();
    for model in &registry.models {
        let path = model.path(&folder);
        if path.exists() {
            let quantisation = model.quantisation.clone();
            found.push(Candidate { name: model.name.clone(), quantisation, parameters: model.parameters, path, reference: true });
        }
        found.extend(quantised(&folder, model));
    }
    if !wanted.is_empty() {
        if let Some(unknown) = wanted.iter().find(|w| !found.iter().any(|c| c.name == **w)) {
            return Err(Failure::model(format!("{unknown} is not on this machine; fetch it with `make model MODEL={unknown}`")));
        }
        found.retain(|c| wanted.contains(&c.name));
    }
    if found.is_empty() {
        return Err(Failure::model("no model is on this machine; fetch one with `make model MODEL=smollm2-135m`"));
    }
    Ok(found)
}

fn quantised(folder: &Path, model: &Model) -> Vec<Candidate> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let prefix = format!("{}.", model.name);
    let candidate = |entry: std::fs::DirEntry| {
        let file = entry.file_name().to_string_lossy().into_owned();
        let quantisation = file.strip_prefix(&prefix)?.strip_suffix(".gguf")?.to_owned();
        let name = format!("{}.{quantisation}", model.name);
        Some(Candidate { name, quantisation, parameters: model.parameters, path: entry.path(), reference: false })
    };
    let mut found: Vec<Candidate> = entries.filter_map(candidate).collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

async fn one(candidate: &Candidate, questions: &[Question], threads: u16) -> Result<Row, LlmError> {
    let mut config = LocalConfig::new(candidate.path.clone())?;
    config.threads = threads.max(1);
    config.request_timeout = Duration::from_secs(600);
    let provider = LocalProvider::start(config).await?;
    let (prefill_tps, decode_tps) = speed(&provider).await?;
    let mut asker = Asker::new(&provider);
    let mut answers: Vec<(Capability, f64, bool)> = Vec::new();
    for question in questions {
        let p = asker.ask(question).await?;
        let right = p.get(question.right).copied().unwrap_or(0.0);
        let hit = p.iter().enumerate().all(|(i, other)| i == question.right || *other < right);
        answers.push((question.capability, -right.max(1e-12).ln(), hit));
    }
    let result = |capability: &Capability| {
        let of = |value: fn(&(Capability, f64, bool)) -> f64| {
            mean(&answers.iter().filter(|a| a.0 == *capability).map(value).collect::<Vec<_>>())
        };
        let (loss, score) = (of(|a| a.1), of(|a| f64::from(u8::from(a.2))));
        Measured { model: candidate.name.clone(), parameters: candidate.parameters as f64, loss, score }
    };
    eprintln!("{}: measured", candidate.name);
    Ok(Row {
        model: candidate.name.clone(),
        quantisation: candidate.quantisation.clone(),
        parameters: candidate.parameters,
        file_bytes: std::fs::metadata(&candidate.path).map_or(0, |m| m.len()),
        memory_bytes: provider.pid().map_or(0, peak_memory),
        prefill_tps,
        decode_tps,
        reference: candidate.reference,
        questions: questions.len(),
        results: CAPABILITIES.iter().map(result).collect(),
        densities: Vec::new(),
    })
}

/// Tokens a second read and written: medians of three, each with a prompt that was not seen before.
async fn speed(provider: &LocalProvider) -> Result<(f64, f64), LlmError> {
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for round in 0..3 {
        let shared: String =
            (0..24).map(|i| format!("E{i}: session {} waits on Lock:transactionid since {} s\n", i * 7 + round, i + 3)).collect();
        let options = vec!["A".to_owned(), "B".to_owned()];
        let own = "Question: is it locked?\nA. yes\nB. no".to_owned();
        let began = Instant::now();
        let scored = provider
            .score(ScoreRequest { agent: "bench".into(), prompt: Prompt::new(shared, own), options, ..ScoreRequest::default() })
            .await?;
        prefill.push(scored.usage.prompt_tokens as f64 / began.elapsed().as_secs_f64());
        let prompt = Prompt::new("", format!("Story {round}:"));
        let request = |max_tokens| GenerateRequest {
            agent: "bench".into(),
            prompt: prompt.clone(),
            grammar: Some("root ::= [a-z ]+".into()),
            max_tokens,
            ..GenerateRequest::default()
        };
        // The first token pays for the prompt: what further ones cost is the difference.
        let began = Instant::now();
        let first = provider.generate(request(1)).await?;
        let short = began.elapsed();
        let began = Instant::now();
        let text = provider.generate(request(25)).await?;
        let more = text.usage.generated_tokens.saturating_sub(first.usage.generated_tokens) as f64;
        decode.push(more / began.elapsed().saturating_sub(short).as_secs_f64().max(1e-6));
    }
    Ok((median(prefill), median(decode)))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The most memory that a process has held, bytes; 0 where the system does not tell.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn law(rows: &[Row], at: usize) -> Result<LossLaw, String> {
    let references: Vec<Measured> = rows.iter().filter(|r| r.reference).filter_map(|r| r.results.get(at).cloned()).collect();
    fit_loss(&references)
}

fn place(rows: &mut [Row], laws: &[Result<LossLaw, String>]) {
    let largest = rows.iter().filter(|r| r.reference).map(|r| r.parameters as f64).fold(0.0, f64::max);
    for row in rows {
        row.densities = laws.iter().zip(&row.results).map(|(law, m)| law.as_ref().ok().map(|law| density(law, largest, m))).collect();
    }
}

fn show(global: &Global, rows: &[Row], laws: &[Result<LossLaw, String>], need: f64) {
    let smallest = smallest(rows, need);
    if global.json {
        let told: Vec<_> = CAPABILITIES
            .iter()
            .zip(laws)
            .map(|(c, law)| match law {
                Ok(law) => json!({"capability": c, "law": law}),
                Err(why) => json!({"capability": c, "no_law": why}),
            })
            .collect();
        output::line(
            &json!({
                "laws": told,
                "capabilities": CAPABILITIES,
                "densities": rows.iter().map(|r| json!({"model": r.model, "densities": r.densities})).collect::<Vec<_>>(),
                "need": need,
                "smallest": smallest.map(|r| &r.model),
            })
            .to_string(),
        );
        return;
    }
    output::line(&format!(
        "{:<26} {:>9} {:>8} {:>9} {:>11} {:>10}  {:<30} {:<30}",
        "model",
        "params M",
        "file MB",
        "memory MB",
        "prompt t/s",
        "writes t/s",
        "root cause: loss score density",
        "faithfulness: loss score density"
    ));
    for row in rows {
        output::line(&format!(
            "{:<26} {:>9.0} {:>8.0} {:>9.0} {:>11.0} {:>10.1}  {:<30} {:<30}",
            row.model,
            row.parameters as f64 / 1e6,
            row.file_bytes as f64 / 1e6,
            row.memory_bytes as f64 / 1e6,
            row.prefill_tps,
            row.decode_tps,
            cell(row, 0),
            cell(row, 1)
        ));
    }
    for (capability, law) in CAPABILITIES.iter().zip(laws) {
        output::line(&match law {
            Ok(law) => format!(
                "{}: loss = {:.3} (N / {:.0} M)^-{:.3} + {:.3} over the registry's models, error {:.3} nats",
                capability.word(),
                law.a,
                law.unit / 1e6,
                law.b,
                law.c,
                law.error
            ),
            Err(why) => format!("{}: no density: {why}", capability.word()),
        });
    }
    output::line(&match smallest {
        Some(row) => format!(
            "smallest that scores {need} in root_cause here: {} ({:.0} MB of memory, {:.0} prompt and {:.1} written tokens/s)",
            row.model,
            row.memory_bytes as f64 / 1e6,
            row.prefill_tps,
            row.decode_tps
        ),
        None => format!("no model here scores {need} in root_cause: do without one, or fetch a larger one"),
    });
}

fn cell(row: &Row, at: usize) -> String {
    let Some(result) = row.results.get(at) else { return "-".to_owned() };
    let density = match row.densities.get(at).and_then(Option::as_ref) {
        Some(Density { density: Some(d), note, .. }) if note.is_empty() => format!("{d:.2}"),
        Some(Density { density: Some(d), .. }) => format!("{d:.2} (extrapolated)"),
        Some(_) => "beyond".to_owned(),
        None => "-".to_owned(),
    };
    format!("{:.3} {:.2} {density}", result.loss, result.score)
}

/// The model with the least memory that reaches the score.
fn smallest(rows: &[Row], need: f64) -> Option<&Row> {
    let serves = rows.iter().filter(|r| r.results.first().is_some_and(|m| m.score >= need));
    serves.min_by_key(|r| r.memory_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(model: &str, memory: u64, score: f64) -> Row {
        let result = Measured { model: model.into(), parameters: 1e8, loss: 1.0, score };
        Row {
            model: model.into(),
            quantisation: String::new(),
            parameters: 100_000_000,
            file_bytes: 0,
            memory_bytes: memory,
            prefill_tps: 1.0,
            decode_tps: 1.0,
            reference: true,
            questions: 10,
            results: vec![result.clone(), result],
            densities: Vec::new(),
        }
    }

    #[test]
    fn the_smallest_that_serves_is_chosen_by_memory() {
        let rows = [row("large", 900, 0.9), row("small", 300, 0.6), row("tiny", 100, 0.3)];
        assert_eq!(smallest(&rows, 0.5).unwrap().model, "small");
        assert!(smallest(&rows, 0.95).is_none());
    }
}
