//! Many chunks on disk: time and memory to index them, the index's size against the text's, the time of a search.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use galen_knowledge::catalog::Catalog;
use galen_knowledge::chunk::{KnowledgeChunk, Source};
use galen_knowledge::index::distil::TokenVectors;
use galen_knowledge::index::{Index, Weights};

use super::{Asked, Score, WAYS, ask};
use crate::cli::Global;
use crate::failure::Failure;
use crate::output;

/// Chunks of one update.
const BATCH: usize = 10_000;
/// Sentences of a generated chunk.
const SENTENCES: usize = 12;
/// Times that all questions are asked.
const ROUNDS: usize = 5;

/// Generates, indexes, searches, prints.
pub fn measure(
    global: &Global,
    catalog: &Catalog,
    chunks: &[KnowledgeChunk],
    asked: &[Asked<'_>],
    embedder: Option<Arc<TokenVectors>>,
    count: usize,
) -> Result<(), Failure> {
    let sentences: Vec<&str> =
        chunks.iter().flat_map(|c| c.content.split(". ")).map(str::trim).filter(|s| s.len() > 40 && s.len() < 400).collect();
    if sentences.len() < 50 {
        return Err(Failure::input("too few sentences to generate chunks from; give --documents"));
    }
    let folder = tempfile::tempdir().map_err(|e| Failure::fault(e.to_string()))?;
    let index = Index::open(folder.path(), catalog, embedder.clone(), "")?;
    let started = Instant::now();
    let (mut text, mut seed) = (0usize, 42u64);
    for from in (0..count).step_by(BATCH) {
        let batch: Vec<KnowledgeChunk> = (from..(from + BATCH).min(count)).map(|n| generated(n, &sentences, &mut seed)).collect();
        text += batch.iter().map(|c| c.content.len() + c.title.len()).sum::<usize>();
        index.update(from as u64 + 1, &[], &batch)?;
    }
    let indexed = started.elapsed().as_secs_f64();
    let memory = peak_memory();
    let bytes = size_of(folder.path());
    drop(index);
    let reopened = Instant::now();
    let index = Index::open(folder.path(), catalog, embedder, "")?;
    let opened_ms = reopened.elapsed().as_secs_f64() * 1e3;
    ask(&index, asked, Weights::default());
    let mut ways = WAYS.to_vec();
    ways.push(("fused", Weights::default()));
    for (name, weights) in ways.into_iter().filter(|(_, w)| index.has_embeddings() || w.words + w.names > 0.0) {
        let mut score = ask(&index, asked, weights);
        let mut rounds: Vec<Vec<f64>> = score.micros.iter().map(|micros| vec![*micros]).collect();
        for _ in 1..ROUNDS {
            let again = ask(&index, asked, weights).micros;
            rounds.iter_mut().zip(&again).for_each(|(round, micros)| round.push(*micros));
            score.micros.extend(again);
        }
        // A busy machine interrupts any search; the same one hardly every time.
        rounds.iter_mut().for_each(|round| round.sort_by(f64::total_cmp));
        let usual = Score { micros: rounds.iter().filter_map(|round| round.get(ROUNDS / 2).copied()).collect(), ..Score::default() };
        output::line(&if global.json {
            json!({"suite": "scale", "chunks": count, "way": name, "p50_us": score.micros_at(0.5), "p99_us": score.micros_at(0.99), "p99_of_medians_us": usual.micros_at(0.99), "searches": score.micros.len()}).to_string()
        } else {
            format!(
                "{count} chunks: {name:<12} p50 {:>6.0} us, p99 {:>6.0} us, p99 of each question's median {:>6.0} us, {} searches",
                score.micros_at(0.5),
                score.micros_at(0.99),
                usual.micros_at(0.99),
                score.micros.len()
            )
        });
    }
    let share = bytes as f64 / text as f64;
    output::line(&if global.json {
        json!({
            "suite": "scale", "chunks": count, "text_bytes": text, "index_bytes": bytes, "index_share": share, "index_s": indexed,
            "open_ms": opened_ms, "peak_rss_bytes": memory,
        })
        .to_string()
    } else {
        format!(
            "{count} chunks, {:.0} MB of text: indexed in {indexed:.1} s, index {:.0} MB ({share:.2} of the text), opened in {opened_ms:.0} ms, peak memory {:.0} MB",
            text as f64 / 1e6,
            bytes as f64 / 1e6,
            memory as f64 / 1e6
        )
    });
    Ok(())
}

/// A chunk of sentences drawn from all over the documents: words as frequent as there, no two chunks alike.
fn generated(n: usize, sentences: &[&str], seed: &mut u64) -> KnowledgeChunk {
    let mut draw = || {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        sentences[(*seed >> 33) as usize % sentences.len()]
    };
    let content = (0..SENTENCES).map(|_| draw()).collect::<Vec<_>>().join(". ");
    let title: String = draw().chars().take(40).collect();
    let source = Source { file: format!("generated-{}.md", n / 50), section: vec![title.clone()], ..Source::default() };
    KnowledgeChunk { id: format!("{n:016x}"), title, content, source, ..KnowledgeChunk::default() }
}

fn size_of(folder: &Path) -> u64 {
    std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum()
}

/// Peak resident memory of this process, bytes; 0 where the system does not say.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}
