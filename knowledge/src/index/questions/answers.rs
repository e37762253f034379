//! Answer phrases of a section, and the words of it that lead to them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sha2::{Digest, Sha256};

use super::bare;
use crate::chunk::KnowledgeChunk;
use crate::index::analysis;

/// Titles that many sections have.
const COMMON: &[&str] = &[
    "description",
    "parameters",
    "notes",
    "examples",
    "synopsis",
    "compatibility",
    "options",
    "environment",
    "usage",
    "overview",
    "settings",
];

/// What an answer is: it decides which templates ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// A setting.
    Setting,
    /// Another name: a view, a column, a command.
    Name,
    /// What a section is about.
    Topic,
}

/// An answer phrase and the phrases that lead to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What it is.
    pub asked: Asked,
    /// The answer.
    pub phrase: String,
    /// Pairs of words that tell its text from others, the best first.
    pub cues: Vec<String>,
}

/// How many chunks hold each term.
pub fn holding(chunks: &[KnowledgeChunk]) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for chunk in chunks {
        let terms: BTreeSet<String> = analysis::tokens(&chunk.content).into_iter().map(|t| t.term).collect();
        for term in terms {
            *counts.entry(term).or_default() += 1;
        }
    }
    counts
}

/// Answer phrases of a chunk with their cues, at most four.
pub fn answers(chunk: &KnowledgeChunk, holding: &HashMap<String, usize>, total: usize) -> Vec<Answer> {
    let mut out = Vec::new();
    for (phrase, text) in settings(&chunk.content) {
        out.push(Answer { asked: Asked::Setting, cues: cues(text, &phrase, holding, total), phrase });
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in analysis::names(&chunk.content) {
        *counts.entry(name).or_default() += 1;
    }
    let rare = |name: &str| holding.get(name).copied().unwrap_or(1);
    let name = counts
        .into_iter()
        .filter(|(name, count)| *count > 1 && rare(name) < 30)
        .max_by_key(|(name, count)| (*count * 100 / rare(name), name.len()));
    if let Some((phrase, _)) = name.filter(|_| out.is_empty()) {
        out.push(Answer { asked: Asked::Name, cues: cues(&chunk.content, &phrase, holding, total), phrase });
    }
    let title = bare(&chunk.title);
    if title.split(' ').count() >= 2 && title.len() < 60 && !COMMON.contains(&title.as_str()) && out.is_empty() {
        out.push(Answer { asked: Asked::Topic, cues: cues(&chunk.content, "", holding, total), phrase: title });
    }
    out.sort_by_key(|a| (Sha256::digest(format!("{}{}", chunk.id, a.phrase)).to_vec(), a.asked));
    out.truncate(4);
    out
}

/// Entries such as `work_mem (integer)` with the text below each.
fn settings(text: &str) -> Vec<(String, &str)> {
    const KINDS: [&str; 5] = [" (integer)", " (boolean)", " (floating point)", " (enum)", " (string)"];
    let mut marks: Vec<(usize, usize, String)> = Vec::new();
    for kind in KINDS {
        for (at, _) in text.match_indices(kind) {
            let name = text[..at].rsplit(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.')).next().unwrap_or_default();
            if name.len() > 3 {
                marks.push((at - name.len(), at + kind.len(), name.to_owned()));
            }
        }
    }
    marks.sort();
    let ends: Vec<usize> = marks.iter().skip(1).map(|m| m.0).chain([text.len()]).collect();
    marks.into_iter().zip(ends).filter_map(|((_, from, name), end)| Some((name, text.get(from..end)?))).collect()
}

/// Pairs of neighbouring words that tell this text from others, best first, without a word of the answer.
fn cues(text: &str, answer: &str, holding: &HashMap<String, usize>, total: usize) -> Vec<String> {
    let words: Vec<&str> = text.split_whitespace().take(600).collect();
    let taken: BTreeSet<String> = analysis::tokens(answer).into_iter().map(|t| t.term).collect();
    let term = |word: &str| -> Option<String> {
        let plain = word.len() >= 4 && word.chars().all(|c| c.is_ascii_lowercase());
        let found = plain.then(|| analysis::tokens(word).pop()).flatten()?.term;
        (!taken.contains(&found)).then_some(found)
    };
    let weight = |term: &str| {
        let held = holding.get(term).copied().unwrap_or(0);
        // A word of one section alone would give the answer away; one of every tenth says nothing.
        if held < 3 || held * 10 > total { 0.0 } else { (total as f64 / held as f64).ln() }
    };
    let mut scores: BTreeMap<String, f64> = BTreeMap::new();
    for pair in words.windows(2) {
        // A sentence ends where its last word does.
        let second = pair[1].trim_end_matches([',', '.', ';', ':', ')']);
        let (Some(a), Some(b)) = (term(pair[0]), term(second)) else { continue };
        let both = weight(&a).min(weight(&b));
        if a != b && both > 0.0 {
            *scores.entry(format!("{} {second}", pair[0])).or_default() += both;
        }
    }
    let mut ranked: Vec<(String, f64)> = scores.into_iter().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut out: Vec<String> = Vec::new();
    for (cue, _) in ranked {
        let apart = |other: &String| !cue.split(' ').any(|word| other.split(' ').any(|o| o == word));
        if out.iter().all(apart) {
            out.push(cue);
        }
        if out.len() == 2 {
            break;
        }
    }
    out
}
