//! `galen model density`: what each model at hand is worth for its size, its memory and its speed, on this machine.

mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;

use galen_agents::evaluation::Capability;
use galen_agents::evaluation::density::{Density, LossLaw, Measured, ScoreLaw, density, density_by_score, fit_loss, fit_score};
use galen_agents::evaluation::numeric::mean;
use galen_agents::evaluation::question::{OPTIONS, Question, digest};
use galen_agents::llm::registry::{Kind, Model, Registry};
use galen_agents::llm::{GenerateRequest, LlmError, LocalProvider, Prompt, Provider, ScoreRequest};

use super::Global;
use super::bench::questions::{Asker, collect};
use super::bench::suite::Which;
use crate::config;
use crate::failure::{Failure, LeftOut};
use crate::{engine, output};

/// The capabilities that questions measure, with the scores by chance in them: one of the options, or one of two.
const CAPABILITIES: [(Capability, f64); 7] = [
    (Capability::RootCause, 1.0 / OPTIONS as f64),
    (Capability::Localisation, 1.0 / OPTIONS as f64),
    (Capability::Abstention, 0.5),
    (Capability::Knowledge, 1.0 / OPTIONS as f64),
    (Capability::Faithfulness, 0.5),
    (Capability::Remedy, 1.0 / OPTIONS as f64),
    (Capability::Robustness, 1.0 / OPTIONS as f64),
];

#[derive(Debug, Args)]
#[command(
    after_help = "Questions come from labelled captures. Which of four: causes the evidence shows (root_cause; the same among findings
about other causes: robustness), objects it points at (localisation, where an answer names the right one), descriptions
(knowledge) and remedies (remedy) fit it. Which of two: something is wrong or nothing (abstention), a finding speaks for
or against a cause (faithfulness). Detection, several causes and calibration are no questions for a model. The loss is the mean negative log-probability of the right option,
prior removed and order permuted. The registry's models are the references of the law; quantisations made with
`galen model quantize` are measured against it. Capabilities that these captures ask nothing about are left out. A capture or a model that cannot be used costs a line and the exit code.

  galen model density --captures examples/captures --labels-from-names"
)]
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
    /// Models measured before, on the same captures: what `--json` printed, each once. They are not measured again
    #[arg(long, value_name = "FILE.jsonl")]
    measured: Vec<PathBuf>,
}

/// This release.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// A capability that questions are asked about.
#[derive(Debug, Clone, Copy)]
struct Asked {
    capability: Capability,
    /// Score by chance.
    chance: f64,
    questions: usize,
}

impl Asked {
    /// Those of some questions, in the order of [`CAPABILITIES`].
    fn of(questions: &[Question]) -> Vec<Self> {
        let count = |capability| questions.iter().filter(|q| q.capability == capability).count();
        let all = CAPABILITIES.into_iter().map(|(capability, chance)| Self { capability, chance, questions: count(capability) });
        all.filter(|asked| asked.questions > 0).collect()
    }
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
    /// SHA-256 over the questions; none in files of early releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    questions_sha256: Option<String>,
    /// SHA-256 of the model's file; none in files of early releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model_sha256: Option<String>,
    /// Version of Galen that measured; none in files of early releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    release: Option<String>,
    /// By capability, in the order of [`CAPABILITIES`].
    results: Vec<Measured>,
    /// Standard errors of their losses over cases, nats; none in files of early releases.
    #[serde(default)]
    loss_errors: Vec<f64>,
}

/// Measures the ladder.
pub async fn measure(global: &Global, args: DensityArgs) -> Result<(), Failure> {
    let mut rows = earlier(&args.measured)?;
    let mut candidates = candidates(&global.models_dir()?, &args.models)?;
    candidates.retain(|c| !rows.iter().any(|r| r.model == c.name));
    let collected = collect(global, &args.captures, args.labels_from_names, args.half).await?;
    let questions = &collected.questions;
    output::tell(&format!("{} questions over {} captures, {} models", questions.len(), captures(questions), candidates.len()));
    let questions_sha256 = digest(questions);
    comparable(&rows, questions.len(), &questions_sha256)?;
    let asked = Asked::of(questions);
    if let Some(other) = rows.iter().find(|r| r.results.len() != asked.len()) {
        return Err(Failure::input(format!(
            "{} has results in {} capabilities, here are {}",
            other.model,
            other.results.len(),
            asked.len()
        )));
    }
    let mut failed = LeftOut::default();
    let configured = global.load()?;
    for candidate in &candidates {
        match one(candidate, questions, &asked, engine::named(&configured, &candidate.name, args.threads, 600)).await {
            Ok(row) => {
                let row = Row { questions_sha256: Some(questions_sha256.clone()), ..row };
                // At once: a ladder takes long, and what is measured is kept when it is interrupted.
                if global.json {
                    output::line(&json!(row).to_string());
                }
                rows.push(row);
            }
            Err(error) => {
                let failure = Failure::model(format!("{}: {error}", candidate.name));
                output::tell(&format!("galen: {failure}"));
                failed.add(&failure);
            }
        }
    }
    if rows.is_empty() {
        return Err(Failure::model("no model could be measured"));
    }
    rows.sort_by(|a, b| a.parameters.cmp(&b.parameters).then(b.file_bytes.cmp(&a.file_bytes)));
    let fitted: Vec<Fitted> = asked.into_iter().enumerate().map(|(at, asked)| Fitted::of(asked, &rows, at)).collect();
    show::show(global, &rows, &fitted, args.need);
    // Of a model that cannot be measured and a capture that cannot be used, the model is the graver.
    failed.end(candidates.len(), "models could not be measured").and(collected.end())
}

/// Checks that earlier rows answer the same questions; what cannot be checked is said on standard error.
///
/// # Errors
/// Input: a row of other questions.
fn comparable(rows: &[Row], questions: usize, sha256: &str) -> Result<(), Failure> {
    if let Some(other) = rows.iter().find(|r| r.questions != questions) {
        return Err(Failure::input(format!("{} was measured on {} questions, here are {questions}", other.model, other.questions)));
    }
    if let Some(other) = rows.iter().find(|r| r.questions_sha256.as_deref().is_some_and(|s| s != sha256)) {
        return Err(Failure::input(format!(
            "{} was measured on other questions than these; give the captures that it was measured on, or measure it again",
            other.model
        )));
    }
    for row in rows {
        match row.release.as_deref() {
            _ if row.questions_sha256.is_none() => {
                output::tell(&format!("galen: {}: which questions it answered was not kept, so not checked to be these", row.model));
            }
            Some(release) if release != RELEASE => {
                output::tell(&format!("galen: {}: the same questions, measured by release {release}; this is {RELEASE}", row.model));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Rows that earlier runs printed. A last line that was cut off costs a line: its model is measured again.
///
/// # Errors
/// Input: another line that is no row, a model that is there twice, or no row at all.
fn earlier(files: &[PathBuf]) -> Result<Vec<Row>, Failure> {
    let mut rows: Vec<Row> = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|e| Failure::input(format!("{}: {e}", file.display())))?;
        let count = text.lines().count();
        for (at, line) in text.lines().enumerate() {
            let fail = |what: &str| Failure::input(format!("{}: line {}: {what}", file.display(), at + 1));
            match serde_json::from_str::<Row>(line) {
                Ok(row) if rows.iter().any(|known| known.model == row.model) => {
                    return Err(fail(&format!("{} is measured twice; leave one of its lines out", row.model)));
                }
                Ok(row) => rows.push(row),
                Err(_) if line.trim().is_empty() || is_laws(line) => {}
                Err(why) if why.is_eof() && at + 1 == count && !text.ends_with('\n') => {
                    output::tell(&format!("galen: {}", fail("cut off; what it held is measured again")));
                }
                Err(why) => return Err(fail(&format!("no measured model: {why}"))),
            }
        }
    }
    if rows.is_empty() && !files.is_empty() {
        return Err(Failure::input("no measured model in these files; write them with `galen model density --json`"));
    }
    Ok(rows)
}

/// The last line of a run, which holds the laws and no model.
fn is_laws(line: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(line).is_ok_and(|value| value.get("laws").is_some())
}

fn captures(questions: &[Question]) -> usize {
    questions.iter().map(|q| q.case.as_str()).collect::<BTreeSet<_>>().len()
}

/// Files of the registry, and quantisations beside them: `NAME.TYPE.gguf`.
fn candidates(folder: &Path, wanted: &[String]) -> Result<Vec<Candidate>, Failure> {
    let mut registry = Registry::load(folder).map_err(|e| Failure::model(e.to_string()))?;
    registry.models.retain(|m| m.kind == Kind::Chat);
    let mut found = Vec::new();
    for model in &registry.models {
        let path = model.path(folder);
        if path.exists() {
            let quantisation = model.quantisation.clone();
            found.push(Candidate { name: model.name.clone(), quantisation, parameters: model.parameters, path, reference: true });
        }
        found.extend(quantised(folder, model));
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

async fn one(candidate: &Candidate, questions: &[Question], asked: &[Asked], model: config::Model) -> Result<Row, LlmError> {
    let provider = LocalProvider::start(engine::settings(&model, candidate.path.clone(), true).await?).await?;
    let (prefill_tps, decode_tps) = speed(&provider).await?;
    let mut asker = Asker::new(&provider);
    let mut answers: Vec<Answered<'_>> = Vec::new();
    for question in questions {
        let p = asker.ask(question).await?;
        let right = p.get(question.right).copied().unwrap_or(0.0);
        let hit = p.iter().enumerate().all(|(i, other)| i == question.right || *other < right);
        answers.push(Answered { question, loss: -right.max(1e-12).ln(), hit });
    }
    let of = |asked: &Asked| answers.iter().filter(|a| a.question.capability == asked.capability).collect::<Vec<_>>();
    let result = |asked: &Asked| {
        let answers = of(asked);
        let loss = mean(&answers.iter().map(|a| a.loss).collect::<Vec<_>>());
        let score = mean(&answers.iter().map(|a| f64::from(u8::from(a.hit))).collect::<Vec<_>>());
        Measured { model: candidate.name.clone(), parameters: candidate.parameters as f64, loss, score }
    };
    output::tell(&format!("{}: measured", candidate.name));
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
        questions_sha256: None,
        model_sha256: Some(provider.identity().sha256.clone()),
        release: Some(RELEASE.to_owned()),
        results: asked.iter().map(result).collect(),
        loss_errors: asked.iter().map(|asked| clustered_error(&of(asked))).collect(),
    })
}

/// A question and what a model made of it.
struct Answered<'q> {
    question: &'q Question,
    /// Negative log-probability of the right option, nats.
    loss: f64,
    hit: bool,
}

/// Standard error of a mean loss, nats, where the answers about one case are not independent: from the sums of the deviations by
/// case (Liang and Zeger 1986, with the correction for few clusters). 0 for a single case.
fn clustered_error(answers: &[&Answered<'_>]) -> f64 {
    let centre = mean(&answers.iter().map(|a| a.loss).collect::<Vec<_>>());
    let mut cases: BTreeMap<&str, f64> = BTreeMap::new();
    for answer in answers {
        *cases.entry(answer.question.case.as_str()).or_default() += answer.loss - centre;
    }
    let clusters = cases.len() as f64;
    let squares: f64 = cases.values().map(|sum| sum * sum).sum();
    if cases.len() < 2 { 0.0 } else { (squares * clusters / (clusters - 1.0)).sqrt() / answers.len() as f64 }
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

fn references(rows: &[Row], at: usize) -> Vec<Measured> {
    rows.iter().filter(|r| r.reference).filter_map(|r| r.results.get(at).cloned()).collect()
}

/// Parameters of the smallest and of the largest reference model.
fn span(rows: &[Row]) -> (f64, f64) {
    let sizes = || rows.iter().filter(|r| r.reference).map(|r| r.parameters as f64);
    (sizes().fold(f64::INFINITY, f64::min), sizes().fold(0.0, f64::max))
}

/// What the models' results in one capability come to.
#[derive(Debug)]
struct Fitted {
    asked: Asked,
    /// The law over sizes, or why there is none.
    law: Result<LossLaw, String>,
    /// Densities of all models by their losses; empty without a law.
    densities: Vec<Density>,
    by_score: Result<ByScore, String>,
}

/// Densities by the score in one capability.
#[derive(Debug)]
struct ByScore {
    law: ScoreLaw,
    densities: Vec<Density>,
}

impl Fitted {
    /// Fits the results of this place in each row.
    fn of(asked: Asked, rows: &[Row], at: usize) -> Self {
        let law = fit_loss(&references(rows, at));
        let by_score = law.as_ref().map_err(Clone::clone).and_then(|law| by_score(rows, law, asked.chance, at));
        let results = rows.iter().filter_map(|r| r.results.get(at));
        let densities = law.as_ref().map_or_else(|_| Vec::new(), |law| results.map(|m| density(law, span(rows), m)).collect());
        Self { asked, law, densities, by_score }
    }
}

/// Densities of all models by their scores.
///
/// # Errors
/// One line: there is no law over scores.
fn by_score(rows: &[Row], law: &LossLaw, chance: f64, at: usize) -> Result<ByScore, String> {
    let scores = fit_score(&references(rows, at), chance)?;
    let results = rows.iter().filter_map(|r| r.results.get(at));
    let densities = results.map(|m| density_by_score(law, &scores, span(rows), m)).collect();
    Ok(ByScore { law: scores, densities })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn row(model: &str, memory: u64, score: f64) -> Row {
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
            questions_sha256: Some("these".into()),
            model_sha256: None,
            release: Some(RELEASE.into()),
            results: vec![result.clone(), result],
            loss_errors: vec![0.1, 0.1],
        }
    }

    #[test]
    fn rows_of_other_questions_are_refused_and_old_ones_are_read() {
        let rows = [row("a", 1, 0.5)];
        assert!(comparable(&rows, 10, "these").is_ok());
        for failure in [comparable(&rows, 10, "others"), comparable(&rows, 9, "these")] {
            let failure = failure.unwrap_err();
            assert!(failure.code == 5 && failure.message.starts_with("a was measured on ") && !failure.message.contains('\n'), "{failure}");
        }
        let mut old = json!(rows[0]);
        for field in ["questions_sha256", "release"] {
            assert!(old.as_object_mut().unwrap().remove(field).is_some(), "{field} is written");
        }
        let old: Row = serde_json::from_value(old).unwrap();
        assert!(comparable(&[old], 10, "these").is_ok());
    }

    #[test]
    fn lines_of_earlier_runs_are_rows_or_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let read = |parts: &[&str]| {
            let files: Vec<PathBuf> = (0..parts.len()).map(|at| folder.path().join(format!("{at}.jsonl"))).collect();
            files.iter().zip(parts).for_each(|(file, text)| std::fs::write(file, text).unwrap());
            earlier(&files).map(|rows| rows.into_iter().map(|row| row.model).collect::<Vec<_>>())
        };
        let [a, b] = ["a", "b"].map(|model| json!(row(model, 1, 0.5)).to_string());
        let laws = r#"{"laws": [], "densities": []}"#;
        assert_eq!(read(&[&format!("{a}\n{laws}\n\n{b}\n"), &format!("{laws}\n")]), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(read(&[&format!("{a}\n{}", &b[..b.len() / 2])]), Ok(vec!["a".to_owned()]), "cut off where the run was");
        for (text, why) in [
            (format!("{a}\n{b}\n{a}\n"), "line 3: a is measured twice"),
            (format!("{a}\n{}\n{b}\n", &b[..b.len() / 2]), "line 2: no measured model"),
            (format!("{a}\n{{\"model\": \"b\"}}\n"), "line 2: no measured model"),
            (laws.to_owned(), "no measured model in these files"),
        ] {
            let failure = read(&[&text]).unwrap_err();
            assert!(failure.code == 5 && failure.message.contains(why), "{failure}");
        }
        assert!(read(&[&a, &a]).unwrap_err().message.contains("1.jsonl: line 1: a is measured twice"));
        assert_eq!(read(&[]), Ok(Vec::new()));
    }

    #[test]
    fn scores_give_a_density_where_references_are_above_chance() {
        let sized = |size: u64, loss: f64, score: f64| {
            let mut row = row("m", 1, score);
            row.parameters = size;
            for result in &mut row.results {
                (result.parameters, result.loss) = (size as f64, loss);
            }
            row
        };
        let rows = [sized(100_000_000, 1.3, 0.4), sized(1_000_000_000, 1.0, 0.8)];
        let asked = Asked { capability: Capability::RootCause, chance: 0.25, questions: 10 };
        let fitted = Fitted::of(asked, &rows, 0);
        let told = fitted.by_score.unwrap();
        let sizes: Vec<f64> = told.densities.iter().chain(&fitted.densities).filter_map(|d| d.density).collect();
        assert!(sizes.len() == 4 && sizes.iter().all(|d| (d - 1.0).abs() < 0.01), "{sizes:?}");
        let chance = [sized(100_000_000, 1.3, 0.2), sized(1_000_000_000, 1.0, 0.25)];
        assert!(Fitted::of(asked, &chance, 0).by_score.unwrap_err().contains("above chance"));
        let rising = [sized(100_000_000, 1.0, 0.8), sized(1_000_000_000, 1.3, 0.4)];
        let fitted = Fitted::of(asked, &rising, 0);
        assert!(fitted.densities.is_empty() && fitted.by_score.unwrap_err() == fitted.law.unwrap_err());
    }

    fn question(case: &str, capability: Capability) -> Question {
        let text = String::new;
        Question { case: case.into(), capability, shared: text(), text: text(), options: Vec::new(), right: 0 }
    }

    #[test]
    fn capabilities_without_a_question_are_left_out() {
        let questions = [Capability::Remedy, Capability::RootCause, Capability::Remedy].map(|c| question("a", c));
        let asked: Vec<_> = Asked::of(&questions).iter().map(|a| (a.capability.word(), a.questions)).collect();
        assert_eq!(asked, [("root_cause", 1), ("remedy", 2)]);
    }

    #[test]
    fn answers_of_one_case_count_as_one_in_the_error() {
        let questions = ["a", "b", "c", "d"].map(|case| question(case, Capability::Remedy));
        let answer = |at: usize, loss| Answered { question: &questions[at], loss, hit: true };
        let apart = [answer(0, 1.0), answer(1, 2.0), answer(2, 1.0), answer(3, 2.0)];
        // The plain standard error: a spread of 0.577 over the root of four.
        assert!((clustered_error(&apart.iter().collect::<Vec<_>>()) - 0.288_675).abs() < 1e-6);
        let twice: Vec<&Answered<'_>> = apart.iter().chain(&apart).collect();
        assert!((clustered_error(&twice) - 0.288_675).abs() < 1e-6, "asking twice makes nothing surer");
        assert!(clustered_error(&[&apart[0], &apart[0]]).abs() < 1e-12);
    }
}
