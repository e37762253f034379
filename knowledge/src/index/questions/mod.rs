//! Questions for measuring retrieval: what is asked, and which chunks are right. [`grow()`] makes many of a few.

mod answers;
mod grow;
mod templates;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::chunk::KnowledgeChunk;
pub use answers::{Answer, Asked};
pub use grow::{Asker, grow};
pub use templates::Templates;

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
    /// What made it: a template's name, or `model`; none for one written by hand.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::chunk::Source;

    /// A section of the settings' page.
    pub fn chunk(id: &str, section: &str, content: &str) -> KnowledgeChunk {
        let section = vec!["Settings".to_owned(), section.to_owned()];
        KnowledgeChunk {
            id: id.into(),
            title: section[1].clone(),
            content: content.into(),
            source: Source { file: "/usr/share/doc/config.html".into(), section, ..Source::default() },
            ..KnowledgeChunk::default()
        }
    }

    #[test]
    fn the_shipped_questions_parse_and_a_third_is_held_out() {
        let questions = Question::parse(include_str!("../../../questions/questions.jsonl")).unwrap();
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
}
