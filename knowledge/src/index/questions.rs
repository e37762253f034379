//! Questions for measuring retrieval, and how a set of them is grown from a few written by hand.
//!
//! After QASnowball: answer phrases are extracted from sections, questions about them are made from templates, those are
//! kept whose answer is found again from the question, and what was kept seeds the next round: its templates are
//! preferred, and the sections that came near without being right are asked about next.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Index, Query, Weights, analysis};
use crate::chunk::KnowledgeChunk;

/// Questions about one section and one file at most.
const OF_SECTION: usize = 2;
const OF_FILE: usize = 5;
/// Hits among which the section must be, by any way of searching, and among which the answer must stand.
const FOUND_IN: usize = 10;
const ANSWER_IN: usize = 5;
/// Files of the manual that answer nothing: lists of names, of changes, of books.
const SKIPPED: &[&str] =
    &["release", "bookindex", "biblio", "acronyms", "features", "acknowledgments", "legalnotice", "index.html", "ecpg", "sql-keywords"];
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

/// A question and where its answer stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The question.
    pub q: String,
    /// File of the right section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Title of the right section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section: Option<String>,
    /// A name or a few words that the answer holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Cause whose runbook is right, instead of file and section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The template that it was made from; none for one written by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
}

impl Question {
    /// Questions from JSON lines.
    ///
    /// # Errors
    /// The first line that is none, with its number.
    pub fn parse(text: &str) -> Result<Vec<Self>, String> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines.map(|(at, line)| serde_json::from_str(line).map_err(|e| format!("line {}: {e}", at + 1))).collect()
    }

    /// True for the third that is never learnt from: by SHA-256 over the question alone, for ever.
    pub fn held_out(&self) -> bool {
        Sha256::digest(&self.q).first().is_some_and(|byte| byte % 3 == 0)
    }

    /// Ids of the chunks that are right: of the cause; else of the file and section; else, where documents were cut in
    /// another way, of the file with the answer in the text. Empty when there are none.
    pub fn right<'c>(&self, chunks: &'c [KnowledgeChunk]) -> BTreeSet<&'c str> {
        if let Some(cause) = &self.cause {
            return chunks.iter().filter(|c| c.causes.contains(cause)).map(|c| c.id.as_str()).collect();
        }
        let file = self.file.as_deref().unwrap_or_default();
        let of_file: Vec<&KnowledgeChunk> = chunks.iter().filter(|c| c.source.file.rsplit('/').next() == Some(file)).collect();
        let section = bare(self.section.as_deref().unwrap_or_default());
        let of_section: BTreeSet<&str> =
            of_file.iter().filter(|c| c.source.section.iter().any(|s| bare(s) == section)).map(|c| c.id.as_str()).collect();
        if !of_section.is_empty() {
            return of_section;
        }
        let answer = self.answer.as_deref().unwrap_or_default().to_lowercase();
        of_file.iter().filter(|c| !answer.is_empty() && c.content.to_lowercase().contains(&answer)).map(|c| c.id.as_str()).collect()
    }
}

/// A title without its number: `20.4.1. Memory` and `Memory` are one.
fn bare(title: &str) -> String {
    let title = title.replace('\u{a0}', " ");
    let rest = title.trim_start_matches("Chapter ").trim_start_matches("Appendix ");
    let numbered = rest
        .split_once(". ")
        .filter(|(head, _)| head.len() <= 9 && head.chars().all(|c| c.is_ascii_digit() || c == '.' || c.is_ascii_uppercase()));
    numbered.map_or(rest, |(_, tail)| tail).trim().to_lowercase()
}

/// What an answer is: it decides which templates ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Setting,
    Name,
    Topic,
}

/// Templates: a name, what they ask for, the question with two cues.
const TEMPLATES: &[(&str, Asked, &str)] = &[
    ("which-setting", Asked::Setting, "Which setting decides about {a} and {b}?"),
    ("what-to-set", Asked::Setting, "What do I set for {a} when it comes to {b}?"),
    ("is-there", Asked::Setting, "Is there a parameter for {a}, because of {b}?"),
    ("configure", Asked::Setting, "How is {a} configured with regard to {b}?"),
    ("look-up", Asked::Name, "Where can I look up {a} and {b}?"),
    ("what-shows", Asked::Name, "What tells me about {a}, next to {b}?"),
    ("what-for", Asked::Name, "What is there in PostgreSQL for {a} with {b}?"),
    ("how-relate", Asked::Topic, "How do {a} and {b} go together?"),
    ("explain", Asked::Topic, "What should I know about {a} before {b}?"),
    ("where-said", Asked::Topic, "Where is it said how {a} works with {b}?"),
    ("matters", Asked::Topic, "Does {a} matter for {b}?"),
];

/// Words that people say instead of the manual's.
const OTHER_WORDS: &[(&str, &str)] = &[
    ("rows", "records"),
    ("row", "record"),
    ("remove", "delete"),
    ("removed", "deleted"),
    ("disk", "storage"),
    ("maximum", "largest"),
    ("minimum", "smallest"),
    ("specified", "given"),
    ("specifies", "says"),
    ("amount", "quantity"),
    ("number", "count"),
    ("memory", "RAM"),
    ("statement", "command"),
    ("statements", "commands"),
    ("clients", "applications"),
    ("client", "application"),
    ("transaction", "unit of work"),
    ("allowed", "permitted"),
    ("automatically", "by itself"),
    ("performed", "done"),
    ("required", "needed"),
    ("obtain", "get"),
    ("database", "data base"),
    ("failure", "crash"),
    ("primary", "master"),
    ("standby", "replica"),
    ("delay", "wait"),
    ("enabled", "switched on"),
    ("disabled", "switched off"),
    ("determine", "find out"),
    ("concurrent", "simultaneous"),
    ("previous", "earlier"),
    ("additional", "more"),
    ("frequently", "often"),
    ("beginning", "start"),
];

/// An answer phrase and the phrases that lead to it.
struct Answer {
    chunk: usize,
    asked: Asked,
    phrase: String,
    cues: Vec<String>,
}

/// Grows a set of questions about chunks that speak of no cause. `seeds` stand first in what is returned.
pub fn grow(chunks: &[KnowledgeChunk], index: &Index, seeds: &[Question], count: usize) -> Vec<Question> {
    let usable = |c: &KnowledgeChunk| c.causes.is_empty() && !SKIPPED.iter().any(|s| c.source.file.starts_with(s));
    let place: HashMap<&str, usize> = chunks.iter().enumerate().map(|(at, c)| (c.id.as_str(), at)).collect();
    let holding = holding(chunks);
    let mut kept: Vec<Question> = seeds.to_vec();
    let mut asked: BTreeSet<usize> = BTreeSet::new();
    let mut of_section: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut of_file: BTreeMap<String, usize> = BTreeMap::new();
    let mut tries: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    // First the sections that seeds are about, then whatever came near, then the rest in an order of no meaning.
    let mut near: VecDeque<usize> = seeds.iter().flat_map(|s| s.right(chunks)).filter_map(|id| place.get(id).copied()).collect();
    let mut rest: Vec<usize> = (0..chunks.len()).filter(|at| usable(&chunks[*at])).collect();
    rest.sort_by_key(|at| std::cmp::Reverse(Sha256::digest(&chunks[*at].id).to_vec()));
    while kept.len() < count {
        let Some(at) = near.pop_front().or_else(|| rest.pop()) else { break };
        let chunk = &chunks[at];
        if !usable(chunk) || !asked.insert(at) {
            continue;
        }
        for answer in answers(at, chunk, &holding, chunks.len()) {
            let place_of = (chunk.source.file.clone(), bare(&chunk.title));
            let full = of_section.get(&place_of).is_some_and(|n| *n >= OF_SECTION)
                || of_file.get(&chunk.source.file).is_some_and(|n| *n >= OF_FILE);
            if full || kept.len() >= count {
                break;
            }
            let Some((template, q)) = ask(&answer, &tries) else { continue };
            let question = Question {
                q,
                file: Some(chunk.source.file.clone()),
                section: Some(chunk.title.clone()),
                answer: Some(answer.phrase.clone()),
                cause: None,
                template: Some(template.to_owned()),
            };
            let survived = !kept.iter().any(|k| k.q == question.q) && answerable(&question, chunks, &place, index, &mut near);
            let tally = tries.entry(template).or_default();
            tally.0 += usize::from(survived);
            tally.1 += 1;
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

/// The question of the template that has served best so far; none when the answer has too few cues.
fn ask(answer: &Answer, tries: &BTreeMap<&str, (usize, usize)>) -> Option<(&'static str, String)> {
    // Untried ones first; equal ones by the answer, so that all have their turn.
    let turn = Sha256::digest(&answer.phrase).first().copied().unwrap_or(0) as usize;
    let fitting: Vec<_> = TEMPLATES.iter().filter(|(_, asked, _)| *asked == answer.asked).collect();
    let worth = |name: &str| tries.get(name).map_or(1.0, |(kept, tried)| (*kept as f64 + 1.0) / (*tried as f64 + 1.0));
    let rotated = (0..fitting.len()).map(|at| fitting[(at + turn) % fitting.len()]);
    let (name, _, text) = rotated.reduce(|best, next| if worth(next.0) > worth(best.0) + 0.15 { next } else { best })?;
    let [a, b] = [answer.cues.first()?, answer.cues.get(1)?].map(|cue| reworded(cue));
    Some((name, text.replace("{a}", &a).replace("{b}", &b)))
}

fn reworded(cue: &str) -> String {
    let other = |word: &str| OTHER_WORDS.iter().find(|(from, _)| *from == word).map_or_else(|| word.to_owned(), |(_, to)| (*to).to_owned());
    cue.split(' ').map(other).collect::<Vec<_>>().join(" ")
}

/// How many chunks hold each term.
fn holding(chunks: &[KnowledgeChunk]) -> HashMap<String, usize> {
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
fn answers(at: usize, chunk: &KnowledgeChunk, holding: &HashMap<String, usize>, total: usize) -> Vec<Answer> {
    let mut out = Vec::new();
    for (phrase, text) in settings(&chunk.content) {
        out.push(Answer { chunk: at, asked: Asked::Setting, cues: cues(text, &phrase, holding, total), phrase });
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
        out.push(Answer { chunk: at, asked: Asked::Name, cues: cues(&chunk.content, &phrase, holding, total), phrase });
    }
    let title = bare(&chunk.title);
    if title.split(' ').count() >= 2 && title.len() < 60 && !COMMON.contains(&title.as_str()) && out.is_empty() {
        out.push(Answer { chunk: at, asked: Asked::Topic, cues: cues(&chunk.content, "", holding, total), phrase: title });
    }
    out.sort_by_key(|a| (Sha256::digest(format!("{}{}", a.chunk, a.phrase)).to_vec(), a.asked));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::chunk::Source;

    fn chunk(id: &str, section: &str, content: &str) -> KnowledgeChunk {
        KnowledgeChunk {
            id: id.into(),
            title: section.into(),
            content: content.into(),
            source: Source { file: "config.html".into(), section: vec!["Settings".into(), section.into()], ..Source::default() },
            ..KnowledgeChunk::default()
        }
    }

    #[test]
    fn the_shipped_questions_parse_and_a_third_is_held_out() {
        let questions = Question::parse(include_str!("../../questions/questions.jsonl")).unwrap();
        assert_eq!(questions.len(), 300);
        let held = questions.iter().filter(|q| q.held_out()).count();
        assert!((80..=120).contains(&held), "{held}");
        let distinct: BTreeSet<&str> = questions.iter().map(|q| q.q.as_str()).collect();
        assert_eq!(distinct.len(), 300);
        let catalog = Catalog::builtin().unwrap();
        for cause in catalog.iter() {
            assert!(questions.iter().any(|q| q.cause.as_deref() == Some(&cause.id)), "nobody asks about {}", cause.id);
        }
        for question in &questions {
            assert!(question.cause.as_ref().is_none_or(|c| catalog.get(c).is_some()), "{question:?}");
            assert!(question.cause.is_some() != question.file.is_some(), "{question:?}");
        }
    }

    #[test]
    fn titles_are_compared_without_their_numbers() {
        assert_eq!(bare("20.4.1.\u{a0}Memory"), bare("Memory"));
        assert_eq!(bare("E.1. Notes"), "notes");
        assert_eq!(bare("Use COPY"), "use copy");
        let chunks = [chunk("a", "20.4.1. Memory", "work_mem"), chunk("b", "Disk", "temp_file_limit")];
        let question = Question {
            file: Some("config.html".into()),
            section: Some("Memory".into()),
            answer: Some("work_mem".into()),
            ..Question::default()
        };
        assert_eq!(question.right(&chunks).into_iter().collect::<Vec<_>>(), ["a"]);
        let elsewhere = Question { section: Some("Gone".into()), answer: Some("temp_file_limit".into()), ..question };
        assert_eq!(elsewhere.right(&chunks).into_iter().collect::<Vec<_>>(), ["b"]);
    }

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
        let grown = grow(&chunks, &index, &[], 10);
        let memory: Vec<&Question> = grown.iter().filter(|q| q.answer.as_deref() == Some("work_mem")).collect();
        assert_eq!(memory.len(), 1, "{grown:?}");
        assert!(memory[0].q.contains("sorting operations") && !memory[0].q.contains("work_mem"), "{}", memory[0].q);
        assert_eq!(grown, grow(&chunks, &index, &[], 10));
    }
}
