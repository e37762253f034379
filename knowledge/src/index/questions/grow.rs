//! How a set of questions is grown from a few.
//!
//! After QASnowball: answer phrases are extracted from sections, questions about them are made by an [`Asker`], those are
//! kept whose answer is found again from the question, and what was kept seeds the next round: it is shown to the asker,
//! and the sections that came near without being right are asked about next.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use sha2::{Digest, Sha256};

use super::answers::{Answer, answers, holding};
use super::{Question, bare};
use crate::chunk::KnowledgeChunk;
use crate::index::{Index, Query, Weights};

/// Questions about one section and one file at most.
const OF_SECTION: usize = 2;
const OF_FILE: usize = 5;
/// Hits among which the section must be, by any way of searching, and among which the answer must stand.
const FOUND_IN: usize = 10;
const ANSWER_IN: usize = 5;
/// Files of the manual that answer nothing: lists of names, of changes, of books.
const SKIPPED: &[&str] =
    &["release", "bookindex", "biblio", "acronyms", "features", "acknowledgments", "legalnotice", "index.html", "ecpg", "sql-keywords"];

/// Name of a file without its folders: questions hold on every machine.
fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Makes questions about answers: templates do, and a language model.
pub trait Asker {
    /// The name of what made it, and a question whose answer is this; none where there is no good one. `kept` are the
    /// questions that have survived so far.
    fn ask(&mut self, chunk: &KnowledgeChunk, answer: &Answer, kept: &[Question]) -> Option<(String, String)>;

    /// Told whether a question survived.
    fn judged(&mut self, made_by: &str, survived: bool);

    /// True when it makes no more.
    fn done(&self) -> bool {
        false
    }
}

/// Grows a set of questions about chunks that speak of no cause. `seeds` stand first in what is returned.
pub fn grow(chunks: &[KnowledgeChunk], index: &Index, seeds: &[Question], count: usize, asker: &mut dyn Asker) -> Vec<Question> {
    let usable = |c: &KnowledgeChunk| c.causes.is_empty() && !SKIPPED.iter().any(|s| name_of(&c.source.file).starts_with(s));
    let place: HashMap<&str, usize> = chunks.iter().enumerate().map(|(at, c)| (c.id.as_str(), at)).collect();
    let holding = holding(chunks);
    let mut kept: Vec<Question> = seeds.to_vec();
    let mut asked: BTreeSet<usize> = BTreeSet::new();
    let mut of_section: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut of_file: BTreeMap<String, usize> = BTreeMap::new();
    // First the sections that seeds are about, then whatever came near, then the rest in an order of no meaning.
    let mut near: VecDeque<usize> = seeds.iter().flat_map(|s| s.right(chunks)).filter_map(|id| place.get(id).copied()).collect();
    let mut rest: Vec<usize> = (0..chunks.len()).filter(|at| usable(&chunks[*at])).collect();
    rest.sort_by_key(|at| std::cmp::Reverse(Sha256::digest(&chunks[*at].id).to_vec()));
    while kept.len() < count && !asker.done() {
        let Some(at) = near.pop_front().or_else(|| rest.pop()) else { break };
        let chunk = &chunks[at];
        if !usable(chunk) || !asked.insert(at) {
            continue;
        }
        for answer in answers(chunk, &holding, chunks.len()) {
            let place_of = (chunk.source.file.clone(), bare(&chunk.title));
            let full = of_section.get(&place_of).is_some_and(|n| *n >= OF_SECTION)
                || of_file.get(&chunk.source.file).is_some_and(|n| *n >= OF_FILE);
            if full || kept.len() >= count || asker.done() {
                break;
            }
            let Some((made_by, q)) = asker.ask(chunk, &answer, &kept) else { continue };
            let question = Question {
                q,
                file: Some(name_of(&chunk.source.file).to_owned()),
                section: Some(chunk.title.clone()),
                answer: Some(answer.phrase.clone()),
                cause: None,
                template: Some(made_by.clone()),
            };
            let survived = !kept.iter().any(|k| k.q == question.q) && answerable(&question, chunks, &place, index, &mut near);
            asker.judged(&made_by, survived);
            if survived {
                *of_section.entry(place_of).or_default() += 1;
                *of_file.entry(chunk.source.file.clone()).or_default() += 1;
                kept.push(question);
            }
        }
    }
    kept
}

/// True when the section is found again by some way of searching and the answer stands in what is found first. What was
/// found without being right is asked about later.
fn answerable(
    question: &Question,
    chunks: &[KnowledgeChunk],
    place: &HashMap<&str, usize>,
    index: &Index,
    near: &mut VecDeque<usize>,
) -> bool {
    let right = question.right(chunks);
    let query = Query::of(&question.q);
    let ways = [
        Weights { words: 1.0, names: 0.0, meaning: 0.0 },
        Weights { words: 0.0, names: 1.0, meaning: 0.0 },
        Weights { words: 0.0, names: 0.0, meaning: 1.0 },
    ];
    let found = ways.iter().any(|way| index.search_with(&query, FOUND_IN, *way).iter().any(|hit| right.contains(hit.id.as_str())));
    if !found {
        return false;
    }
    let hits = index.search(&query, FOUND_IN);
    let answer = question.answer.as_deref().unwrap_or_default().to_lowercase();
    let text = |id: &str| place.get(id).map(|at| format!("{} {}", chunks[*at].title, chunks[*at].content).to_lowercase());
    let again = hits.iter().take(ANSWER_IN).any(|hit| text(&hit.id).is_some_and(|t| t.contains(&answer)));
    if again {
        near.extend(hits.iter().take(3).filter(|hit| !right.contains(hit.id.as_str())).filter_map(|hit| place.get(hit.id.as_str())));
    }
    again
}

#[cfg(test)]
mod tests {
    use super::super::Templates;
    use super::*;
    use crate::catalog::Catalog;
    use crate::index::questions::tests::chunk;

    #[test]
    fn grown_questions_find_their_answer_again_without_naming_it() {
        let filler = |n: usize| {
            chunk(
                &format!("f{n}"),
                "Other things",
                &format!("sorting operations, temporary storage, frozen tuples and anti wraparound scans number {n}"),
            )
        };
        let mut chunks: Vec<KnowledgeChunk> =
            (0..60).map(|n| chunk(&format!("x{n}"), "Nothing here", &format!("entirely unrelated prose {n}"))).collect();
        chunks.extend((0..3).map(filler));
        chunks.push(chunk("m", "Memory", "work_mem (integer) Base memory of sorting operations before temporary storage gets used. vacuum_age (integer) When frozen tuples avoid wraparound scans."));
        let index = Index::in_memory(&chunks, &Catalog::builtin().unwrap(), None).unwrap();
        let grown = grow(&chunks, &index, &[], 10, &mut Templates::default());
        assert!(grown.iter().all(|q| q.file.as_deref() == Some("config.html")), "no folder of this machine: {grown:?}");
        let memory: Vec<&Question> = grown.iter().filter(|q| q.answer.as_deref() == Some("work_mem")).collect();
        assert_eq!(memory.len(), 1, "{grown:?}");
        assert!(memory[0].q.contains("sorting operations") && !memory[0].q.contains("work_mem"), "{}", memory[0].q);
        assert_eq!(grown, grow(&chunks, &index, &[], 10, &mut Templates::default()));
    }

    /// Says one thing about everything, so often, and remembers what it was told.
    struct Parrot {
        says: &'static str,
        left: usize,
        judged: Vec<bool>,
    }

    impl Asker for Parrot {
        fn ask(&mut self, _: &KnowledgeChunk, _: &Answer, _: &[Question]) -> Option<(String, String)> {
            self.left -= 1;
            Some(("parrot".into(), self.says.into()))
        }

        fn judged(&mut self, _: &str, survived: bool) {
            self.judged.push(survived);
        }

        fn done(&self) -> bool {
            self.left == 0
        }
    }

    #[test]
    fn a_question_survives_once_and_only_where_its_answer_is_found_again() {
        let mut chunks: Vec<KnowledgeChunk> =
            (0..20).map(|n| chunk(&format!("x{n}"), "Nothing here", &format!("other_thing other_thing prose {n}"))).collect();
        chunks.push(chunk("m", "Memory", "work_mem and work_mem: base memory of sorting operations."));
        let index = Index::in_memory(&chunks, &Catalog::builtin().unwrap(), None).unwrap();
        let mut asker = Parrot { says: "How much memory do sorting operations get?", left: 21, judged: Vec::new() };
        let grown = grow(&chunks, &index, &[], 10, &mut asker);
        assert_eq!(
            grown.iter().map(|q| (q.answer.as_deref(), q.template.as_deref())).collect::<Vec<_>>(),
            [(Some("work_mem"), Some("parrot"))]
        );
        assert_eq!(asker.judged.iter().filter(|survived| **survived).count(), 1);
        let mut asker = Parrot { says: "What about zebras?", left: 3, judged: Vec::new() };
        assert!(grow(&chunks, &index, &[], 10, &mut asker).is_empty());
        assert_eq!(asker.judged, [false; 3], "and it ends when the asker does");
    }
}
