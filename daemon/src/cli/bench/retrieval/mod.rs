//! `galen bench retrieval`: how well and how fast the right section is found, by each way of searching and all together.

mod causes;
mod export;
mod scale;
mod transformer;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::json;

use galen_knowledge::chunk::KnowledgeChunk;
use galen_knowledge::index::questions::Question;
use galen_knowledge::index::{Index, Query, Weights};

use super::suite::Which;
use crate::cli::Global;
use crate::failure::Failure;
use crate::shelf::embedder;
use crate::{engine, output};

/// Hits that are looked at for a rank.
const DEPTH: usize = 10;
/// Longest file of chunks or questions, bytes.
const MOST_FILE: u64 = 1 << 30;

/// Ways of searching that are compared.
const WAYS: [(&str, Weights); 4] = [
    ("bm25", Weights { words: 1.0, names: 0.0, meaning: 0.0 }),
    ("exact", Weights { words: 0.0, names: 1.0, meaning: 0.0 }),
    ("embeddings", Weights { words: 0.0, names: 0.0, meaning: 1.0 }),
    ("words+names", Weights { words: 1.0, names: 0.5, meaning: 0.0 }),
];

#[derive(Debug, Args)]
#[command(after_help = "Without --documents the questions about the shipped runbooks are asked. Chunks are JSON lines, one
chunk a line as `galen search --json` names its parts: id, title, causes, content, signals, source.

Examples:
  galen bench retrieval
  galen bench retrieval --documents manual.jsonl --captures labelled-captures/
  galen bench retrieval --documents manual.jsonl --synthetic 100000")]
pub struct RetrievalArgs {
    /// Chunks of more documents, as JSON lines
    #[arg(long, value_name = "FILE.jsonl")]
    documents: Vec<PathBuf>,
    /// Questions
    #[arg(long, value_name = "FILE.jsonl", default_value = "knowledge/questions/questions.jsonl")]
    questions: PathBuf,
    /// Part to ask: the held-out third is `test`
    #[arg(long, value_enum, default_value_t = Which::All)]
    half: Which,
    /// Labelled captures: is the right runbook among the first three, given only their signals?
    #[arg(long, value_name = "FILE|DIR")]
    captures: Vec<PathBuf>,
    /// File names are the causes (of captures without labels)
    #[arg(long)]
    labels_from_names: bool,
    /// Measure so many generated chunks, on disk
    #[arg(long, value_name = "CHUNKS", value_parser = clap::value_parser!(u32).range(1000..=2_000_000))]
    synthetic: Option<u32>,
    /// Search the weights of fusion on the questions that may be learnt from
    #[arg(long)]
    tune: bool,
    /// Compare with the sentence transformer itself, which takes minutes
    #[arg(long)]
    transformer: bool,
    /// Write chunks and questions with their right answers into this folder, for other programs
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
}

/// Ranks and times of one way of searching.
#[derive(Debug, Clone, Default)]
struct Score {
    ranks: Vec<Option<usize>>,
    micros: Vec<f64>,
}

impl Score {
    fn recall(&self, within: usize) -> f64 {
        self.ranks.iter().filter(|r| r.is_some_and(|at| at <= within)).count() as f64 / self.ranks.len().max(1) as f64
    }

    /// Mean of 1 / rank; 0 where nothing right was among the first ten.
    fn mrr(&self) -> f64 {
        self.ranks.iter().flatten().map(|at| 1.0 / *at as f64).sum::<f64>() / self.ranks.len().max(1) as f64
    }

    fn micros_at(&self, share: f64) -> f64 {
        let mut sorted = self.micros.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
    }
}

/// Runs what was asked for.
pub fn retrieval(global: &Global, args: &RetrievalArgs) -> Result<(), Failure> {
    if args.tune && args.half == Which::Test {
        return Err(Failure::usage("nothing is tuned on the held-out third; leave --half out, or say --half learn"));
    }
    let config = global.load()?;
    // The shipped runbooks and whatever was taken in, the manual for example.
    let library = engine::searchable(&config)?;
    let mut chunks = library.chunks.clone();
    for file in &args.documents {
        chunks.extend(read_chunks(file)?);
    }
    let embedder = embedder(&config.model.folder()).inspect_err(|why| output::tell(&format!("galen: {why}"))).ok();
    let started = Instant::now();
    let index = Index::in_memory(&chunks, &library.catalog, embedder.clone())?;
    let text: usize = chunks.iter().map(|c| c.content.len()).sum();
    output::tell(&format!(
        "{} chunks, {:.1} MB of text, indexed in {:.2} s",
        chunks.len(),
        text as f64 / 1e6,
        started.elapsed().as_secs_f64()
    ));
    let asked = questions(&args.questions, args.half, &chunks)?;
    // The first analysis loads the dictionary of Chinese words, which is no part of a search.
    ask(&index, &asked[..1], Weights::default());
    if let Some(folder) = &args.export {
        export::export(folder, &chunks, &asked)?;
    }
    if args.tune {
        return tune(global, &index, &asked);
    }
    let mut ways: Vec<(&str, Weights)> = WAYS.to_vec();
    ways.push(("fused", Weights::default()));
    for (name, weights) in ways.iter().filter(|(_, w)| index.has_embeddings() || w.words + w.names > 0.0) {
        tell(global, "retrieval", name, &ask(&index, &asked, *weights), &asked);
    }
    if args.transformer {
        transformer::compare(global, &chunks, &asked)?;
    }
    if !args.captures.is_empty() {
        causes::check(global, &library, &index, &args.captures, args.labels_from_names)?;
    }
    if let Some(count) = args.synthetic {
        scale::measure(global, &library.catalog, &chunks, &asked, embedder, count as usize)?;
    }
    Ok(())
}

/// A question and the ids of the chunks that are right.
type Asked<'c> = (Question, BTreeSet<&'c str>);

fn questions<'c>(file: &Path, part: Which, chunks: &'c [KnowledgeChunk]) -> Result<Vec<Asked<'c>>, Failure> {
    let wanted = |q: &Question| match part {
        Which::All => true,
        Which::Learn => !q.held_out(),
        Which::Test => q.held_out(),
    };
    let all: Vec<Question> = read_questions(file)?.into_iter().filter(wanted).collect();
    let total = all.len();
    let asked: Vec<Asked<'c>> =
        all.into_iter().map(|q| (q.right(chunks), q)).filter(|(right, _)| !right.is_empty()).map(|(r, q)| (q, r)).collect();
    if asked.is_empty() {
        return Err(Failure::input(format!("no question of {} is answered by these documents", file.display())));
    }
    if asked.len() < total {
        output::tell(&format!("{} of {total} questions are about other documents and are left out", total - asked.len()));
    }
    Ok(asked)
}

fn ask(index: &Index, asked: &[Asked<'_>], weights: Weights) -> Score {
    let mut score = Score::default();
    for (question, right) in asked {
        let started = Instant::now();
        let hits = index.search_with(&Query::of(&question.q), DEPTH, weights);
        score.micros.push(started.elapsed().as_secs_f64() * 1e6);
        score.ranks.push(hits.iter().position(|hit| right.contains(hit.id.as_str())).map(|at| at + 1));
    }
    score
}

/// Prints a score: over all questions, and over those written by hand and those made from templates.
fn tell(global: &Global, suite: &str, way: &str, score: &Score, asked: &[Asked<'_>]) {
    let part = |hand: bool| {
        let ranks: Vec<_> = asked.iter().zip(&score.ranks).filter(|((q, _), _)| q.template.is_none() == hand).map(|(_, r)| *r).collect();
        Score { ranks, micros: Vec::new() }
    };
    let (hand, made) = (part(true), part(false));
    if global.json {
        let figures = json!({
            "suite": suite, "way": way, "questions": score.ranks.len(), "recall@1": score.recall(1), "recall@5": score.recall(5),
            "recall@10": score.recall(10), "mrr": score.mrr(), "p50_us": score.micros_at(0.5), "p99_us": score.micros_at(0.99),
            "by_hand": {"questions": hand.ranks.len(), "recall@1": hand.recall(1), "recall@5": hand.recall(5), "recall@10": hand.recall(10), "mrr": hand.mrr()},
            "made": {"questions": made.ranks.len(), "recall@1": made.recall(1), "recall@5": made.recall(5), "recall@10": made.recall(10), "mrr": made.mrr()},
        });
        output::line(&figures.to_string());
        return;
    }
    output::line(&format!(
        "{way:<12} recall@1 {:.3}  @5 {:.3}  @10 {:.3}  MRR {:.3}  p50 {:>6.0} us  p99 {:>6.0} us  ({} questions; by hand: @1 {:.3}, @5 {:.3}, @10 {:.3} of {})",
        score.recall(1),
        score.recall(5),
        score.recall(10),
        score.mrr(),
        score.micros_at(0.5),
        score.micros_at(0.99),
        score.ranks.len(),
        hand.recall(1),
        hand.recall(5),
        hand.recall(10),
        hand.ranks.len(),
    ));
}

/// Tries weights on the questions that may be learnt from and prints the best ten by mean reciprocal rank.
fn tune(global: &Global, index: &Index, asked: &[Asked<'_>]) -> Result<(), Failure> {
    let learnable: Vec<Asked<'_>> = asked.iter().filter(|(q, _)| !q.held_out()).cloned().collect();
    let steps = [0.0, 0.1, 0.2, 0.35, 0.5, 1.0];
    let mut tried = Vec::new();
    for names in steps {
        for meaning in steps.iter().copied().filter(|m| index.has_embeddings() || *m == 0.0) {
            let weights = Weights { words: 1.0, names, meaning };
            let score = ask(index, &learnable, weights);
            tried.push((score.mrr(), score.recall(1), score.recall(5), weights));
        }
    }
    tried.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (mrr, first, five, weights) in tried.iter().take(10) {
        output::line(&if global.json {
            json!({"suite": "tune", "mrr": mrr, "recall@1": first, "recall@5": five, "weights": weights, "questions": learnable.len()})
                .to_string()
        } else {
            format!(
                "MRR {mrr:.4}  recall@1 {first:.3}  @5 {five:.3}  words {} names {} meaning {}",
                weights.words, weights.names, weights.meaning
            )
        });
    }
    Ok(())
}

fn read(file: &Path) -> Result<String, Failure> {
    let fail = |e: &dyn std::fmt::Display| Failure::input(format!("{}: {e}", file.display()));
    let about = std::fs::metadata(file).map_err(|e| fail(&e))?;
    if about.len() > MOST_FILE {
        return Err(fail(&"it is larger than 1 GB"));
    }
    std::fs::read_to_string(file).map_err(|e| fail(&e))
}

/// Questions of a file of JSON lines.
///
/// # Errors
/// Input: it cannot be read, or a line is none.
pub fn read_questions(file: &Path) -> Result<Vec<Question>, Failure> {
    Question::parse(&read(file)?).map_err(|e| Failure::input(format!("{}: {e}", file.display())))
}

fn read_chunks(file: &Path) -> Result<Vec<KnowledgeChunk>, Failure> {
    let text = read(file)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parsed =
        lines.map(|(at, line)| serde_json::from_str(line).map_err(|e| Failure::input(format!("{}: line {}: {e}", file.display(), at + 1))));
    parsed.collect()
}
