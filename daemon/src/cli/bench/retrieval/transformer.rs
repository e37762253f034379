//! The sentence transformer itself instead of vectors distilled from it: what it would find, and what it costs.

use std::collections::BTreeMap;
use std::time::Instant;

use indicatif::ProgressBar;

use galen_knowledge::chunk::KnowledgeChunk;
use galen_knowledge::index::minilm::MiniLm;
use galen_knowledge::index::wordpiece::Vocabulary;

use super::{Asked, DEPTH, Score, tell};
use crate::cli::Global;
use crate::cli::distil::NAME;
use crate::failure::Failure;
use crate::output;

/// Tokens of a text that are read: what its tokenizer is set to.
const MOST_TOKENS: usize = 126;
/// Texts of one length that are embedded together.
const BATCH: usize = 16;

/// Embeds all chunks and questions, ranks by cosine, prints.
pub fn compare(global: &Global, chunks: &[KnowledgeChunk], asked: &[Asked<'_>]) -> Result<(), Failure> {
    let folder = global.models_dir()?.join(NAME);
    let model =
        MiniLm::load(&folder.join("model.safetensors")).map_err(|e| Failure::model(format!("{e}; fetch it with `make embedding`")))?;
    let words = std::fs::read_to_string(folder.join("vocab.txt")).map_err(|e| Failure::model(e.to_string()))?;
    let vocabulary = Vocabulary::new(words.lines());
    let (Some(first), Some(last)) = (vocabulary.id("[CLS]"), vocabulary.id("[SEP]")) else {
        return Err(Failure::model("its vocabulary has no [CLS] and [SEP]"));
    };
    let input = |text: &str| {
        let mut ids = vec![first];
        ids.extend(vocabulary.encode(text, MOST_TOKENS));
        ids.push(last);
        ids
    };
    let started = Instant::now();
    let mut by_length: BTreeMap<usize, Vec<(usize, Vec<u32>)>> = BTreeMap::new();
    for (at, chunk) in chunks.iter().enumerate() {
        let ids = input(&format!("{}. {}", chunk.source.section.join(". "), chunk.content));
        by_length.entry(ids.len()).or_default().push((at, ids));
    }
    let bar = ProgressBar::new(chunks.len() as u64);
    let mut vectors = vec![Vec::new(); chunks.len()];
    for batch in by_length.values().flat_map(|same| same.chunks(BATCH)) {
        let inputs: Vec<Vec<u32>> = batch.iter().map(|(_, ids)| ids.clone()).collect();
        for ((at, _), vector) in batch.iter().zip(model.embed(&inputs)) {
            vectors[*at] = vector;
        }
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    output::tell(&format!("the transformer embedded {} chunks in {:.0} s", chunks.len(), started.elapsed().as_secs_f64()));
    let mut score = Score::default();
    for (question, right) in asked {
        let started = Instant::now();
        let query = model.embed(&[input(&question.q)]).pop().unwrap_or_default();
        let mut ranked: Vec<(f32, usize)> =
            vectors.iter().enumerate().map(|(at, v)| (v.iter().zip(&query).map(|(a, b)| a * b).sum(), at)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        score.micros.push(started.elapsed().as_secs_f64() * 1e6);
        let rank = ranked.iter().take(DEPTH).position(|(_, at)| right.contains(chunks[*at].id.as_str()));
        score.ranks.push(rank.map(|at| at + 1));
    }
    tell(global, "retrieval", "transformer", &score, asked);
    Ok(())
}
