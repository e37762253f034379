//! `galen bench questions`: a set of questions for measuring retrieval, grown from a few by templates or by a model.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::runtime::Handle;

use galen_agents::llm::{GenerateRequest, Prompt, Provider};
use galen_knowledge::chunk::KnowledgeChunk;
use galen_knowledge::index::Index;
use galen_knowledge::index::analysis;
use galen_knowledge::index::questions::{Answer, Asker, Question, Templates, grow};

use super::retrieval::read_questions;
use crate::cli::Global;
use crate::failure::Failure;
use crate::shelf::embedder;
use crate::{engine, output};

/// Characters of a section that are shown to the model, around the answer.
const SHOWN: usize = 700;
/// Survivors that are shown to it as examples, the last ones.
const EXAMPLES: usize = 3;
/// Shortest and longest question, characters.
const LENGTH: std::ops::RangeInclusive<usize> = 25..=140;
/// First words that two questions may have in common: a model that has found one way to ask asks everything so.
const MOST_ALIKE: usize = 3;
/// Neighbouring words that a question may share with its section: more is a quotation.
const MOST_QUOTED: usize = 4;
/// What made a question, as its line says.
const MADE_BY: &str = "model";
const SHARED: &str = "You write the questions that people type into the search of a PostgreSQL handbook. You are given a passage and the answer \
    that it holds. Write one short question of a database administrator with a problem, in everyday words and not in those of the passage. \
    The question must be understood without the passage and must not contain the answer.";
/// One sentence without names: nothing with an underscore can be written.
const GRAMMAR: &str = "root ::= [A-Z] [a-zA-Z0-9 ,'()/-]+ \"?\"";

#[derive(Debug, Args)]
#[command(after_help = "Asks about what `galen ingest` took in. Survivors go first into the output, after the seeds, and seed a later run.

Examples:
  galen bench questions --seeds knowledge/questions/seeds.jsonl --count 300 --out questions.jsonl
  galen bench questions --seeds knowledge/questions/seeds.jsonl --count 200 --model qwen2.5-coder-1.5b --out more.jsonl")]
pub struct GrowArgs {
    /// Questions that the set grows from
    #[arg(long, value_name = "FILE.jsonl", default_value = "knowledge/questions/seeds.jsonl")]
    seeds: PathBuf,
    /// Questions in all
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// File for the set
    #[arg(long, value_name = "FILE.jsonl")]
    out: PathBuf,
    /// Language model that writes the questions, instead of templates
    #[arg(long)]
    model: Option<String>,
    /// Minutes after which the model writes no more
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,
}

/// Grows a set and writes it.
pub async fn questions(global: &Global, args: GrowArgs) -> Result<(), Failure> {
    let seeds = read_questions(&args.seeds)?;
    output::writable(&args.out)?;
    let config = global.load()?;
    let library = engine::searchable(&config)?;
    let embedder = embedder(&config.model.folder()).inspect_err(|why| output::tell(&format!("galen: {why}"))).ok();
    let index = Index::in_memory(&library.chunks, &library.catalog, embedder)?;
    let mut asker: Box<dyn Asker + Send> = match &args.model {
        Some(name) => Box::new(Writer {
            provider: engine::chosen(&global.load()?, name, 2, 600).await?,
            runtime: Handle::current(),
            until: Instant::now() + Duration::from_secs(args.minutes * 60),
            examples: VecDeque::new(),
            counts: Counts::default(),
        }),
        None => Box::<Templates>::default(),
    };
    let grown = tokio::task::spawn_blocking(move || {
        let grown = grow(&library.chunks, &index, &seeds, args.count as usize, asker.as_mut());
        let mut text = String::new();
        for question in &grown {
            let _ = writeln!(text, "{}", serde_json::to_string(question).map_err(|e| Failure::fault(e.to_string()))?);
        }
        let held = grown.iter().filter(|q| q.held_out()).count();
        write(&args.out, &text)?;
        let told = format!("{} questions, {} of them seeds, {held} held out, written to {}", grown.len(), seeds.len(), args.out.display());
        Ok::<_, Failure>(told)
    });
    output::line(&grown.await.map_err(|e| Failure::fault(e.to_string()))??);
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).map_err(|e| Failure::write(file, &e))
}

/// A model that writes questions.
struct Writer {
    provider: Arc<dyn Provider>,
    runtime: Handle,
    until: Instant,
    /// Its last questions that survived.
    examples: VecDeque<String>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    written: usize,
    fit: usize,
    survived: usize,
}

impl Asker for Writer {
    fn ask(&mut self, chunk: &KnowledgeChunk, answer: &Answer, kept: &[Question]) -> Option<(String, String)> {
        // Until it has survivors of its own, those written by hand show what is wanted.
        let by_hand = kept.iter().filter(|q| q.template.is_none() && q.q.is_ascii() && q.file.is_some()).take(EXAMPLES);
        let examples: Vec<&str> = match self.examples.len() {
            EXAMPLES.. => self.examples.iter().map(String::as_str).collect(),
            _ => by_hand.map(|q| q.q.as_str()).collect(),
        };
        let examples: String = examples.iter().map(|q| format!("- {q}\n")).collect();
        let passage = around(&chunk.content, &answer.phrase);
        let own = format!("Good questions:\n{examples}\nPassage ({}): \"{passage}\"\nAnswer: {}\nQuestion:", chunk.title, answer.phrase);
        let prompt = Prompt::new(SHARED, own);
        let request = GenerateRequest {
            agent: "questions".to_owned(),
            prompt,
            grammar: Some(GRAMMAR.to_owned()),
            max_tokens: 40,
            ..GenerateRequest::default()
        };
        self.counts.written += 1;
        let written = self.runtime.block_on(self.provider.generate(request));
        let question = match written {
            Ok(written) => written.text.trim().to_owned(),
            Err(error) => {
                tracing::warn!(%error, "the model wrote no question");
                return None;
            }
        };
        let begins = opening(&question);
        let again = kept.iter().any(|q| q.template.as_deref() == Some(MADE_BY) && begins == opening(&q.q));
        if again || !fits(&question, answer, chunk) {
            tracing::debug!(question, "left out");
            return None;
        }
        self.counts.fit += 1;
        self.examples.push_back(question.clone());
        Some((MADE_BY.to_owned(), question))
    }

    fn judged(&mut self, _: &str, survived: bool) {
        if !survived {
            self.examples.pop_back();
        }
        self.counts.survived += usize::from(survived);
        let Counts { written, fit, survived: found } = self.counts;
        let last = if survived { self.examples.back().map(String::as_str) } else { None };
        output::tell(&format!("{written} written, {fit} fit, {found} found their answer again; {}", last.unwrap_or("-")));
        if self.examples.len() > EXAMPLES {
            self.examples.pop_front();
        }
    }

    fn done(&self) -> bool {
        Instant::now() >= self.until
    }
}

/// The text around an answer on one line.
fn around(content: &str, answer: &str) -> String {
    let text: String = content.split_whitespace().collect::<Vec<_>>().join(" ").replace('"', "'");
    let at = text.find(answer).unwrap_or(0);
    let before = text[..at].chars().count().saturating_sub(SHOWN / 3);
    let shown: String = text.chars().skip(before).take(SHOWN).collect();
    // From the beginning of a word.
    if before == 0 { shown } else { shown.split_once(' ').map(|(_, rest)| rest.to_owned()).unwrap_or(shown) }
}

/// The first words of a question.
fn opening(question: &str) -> Vec<String> {
    question.split_whitespace().take(MOST_ALIKE + 1).map(str::to_lowercase).collect()
}

/// Whether a question may be asked: it ends, is of a fit length, gives away neither the answer nor the section's title, needs no
/// passage before one's eyes, does not ask for a default, which every setting has, and is no quotation.
fn fits(question: &str, answer: &Answer, chunk: &KnowledgeChunk) -> bool {
    let lower = question.to_lowercase();
    let talks = ["passage", "the text", "the answer", "the section", "this chapter", "the given", "described", "mentioned", "default"];
    // All words of the answer, in whichever form: `work_mem` is given away by `work mem`.
    let words = |text: &str| -> Vec<String> { analysis::tokens(text).into_iter().map(|t| t.term).filter(|t| !t.contains('_')).collect() };
    let said = words(question);
    let title = chunk.title.split(" (").next().unwrap_or_default();
    let given_away = [answer.phrase.as_str(), title]
        .iter()
        .map(|told| words(told))
        .any(|told| !told.is_empty() && told.iter().all(|w| said.contains(w)));
    let plain = |text: &str| {
        text.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let section = format!(" {} ", plain(&chunk.content).join(" "));
    let quoted = plain(question).windows(MOST_QUOTED + 1).any(|run| section.contains(&format!(" {} ", run.join(" "))));
    question.ends_with('?')
        && LENGTH.contains(&question.chars().count())
        && !given_away
        && !quoted
        && !talks.iter().any(|t| lower.contains(t))
}

#[cfg(test)]
mod tests {
    use super::*;
    use galen_knowledge::index::questions::Asked;

    #[test]
    fn only_questions_that_stand_alone_and_give_nothing_away_fit() {
        let answer = Answer { asked: Asked::Setting, phrase: "work_mem".into(), cues: Vec::new() };
        let content = "Sets the base maximum amount of memory to be used by a query operation before writing to temporary files.".into();
        let chunk = KnowledgeChunk { title: "Sort space (integer)".into(), content, ..KnowledgeChunk::default() };
        assert!(fits("Why do my large sorts end up on disk?", &answer, &chunk));
        for bad in [
            "Why do my large sorts end up on disk",
            "Why so slow?",
            "How do I set the work memory, work mem, for a report?",
            "What does the passage say about sorts on disk?",
            "What is the base maximum amount of memory for sorts?",
            "How much space does a sort get, and where?",
            "What is the default for large sorts on disk?",
        ] {
            assert!(!fits(bad, &answer, &chunk), "{bad}");
        }
    }

    #[test]
    fn the_model_sees_the_text_around_the_answer() {
        let text = format!("{} work_mem \"quoted\" {}", "before ".repeat(200), "after ".repeat(300));
        let shown = around(&text, "work_mem");
        assert!(
            shown.contains("work_mem 'quoted' after") && shown.starts_with("before") && (SHOWN - 10..=SHOWN).contains(&shown.len()),
            "{shown}"
        );
        assert_eq!(around("short", "elsewhere"), "short");
    }
}
