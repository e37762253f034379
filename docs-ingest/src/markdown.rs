//! Markdown by structure: a section runs from its heading to the next; its headings are its path.

use std::hash::{DefaultHasher, Hash, Hasher};

use pulldown_cmark::{Event, HeadingLevel, OffsetIter, Parser, Tag, TagEnd};

use galen_knowledge::chunk::{KnowledgeChunk, Language, Source};

/// Largest section kept whole, in bytes (about 4k tokens); a longer one is cut at paragraph ends.
const MOST_BYTES: usize = 12_000;
/// Largest file read.
const MOST_FILE_BYTES: usize = 64 << 20;

/// Cuts a Markdown text into chunks. A chunk's causes are those whose id stands in its headings in backquotes or
/// as the heading itself; its signals are those it names anywhere. Text before the first heading and empty
/// sections give no chunk. A text over 64 MB gives none.
pub fn chunks(file: &str, text: &str, causes: &[&str], signals: &[&str]) -> Vec<KnowledgeChunk> {
    if text.len() > MOST_FILE_BYTES {
        return Vec::new();
    }
    sections(text)
        .into_iter()
        .flat_map(|section| split(section, text))
        .filter(|(_, _, body)| !body.trim().is_empty())
        .map(|(path, offset, body)| {
            let headings = path.join(" ");
            KnowledgeChunk {
                id: id_of(file, &path, &body),
                title: path.last().cloned().unwrap_or_default(),
                causes: named(&headings, causes),
                signals: named(&body, signals),
                steps: Vec::new(),
                language: Language::of(&body),
                content: body,
                source: Source { file: file.to_owned(), section: path, page: None, offset },
            }
        })
        .collect()
}

struct Section {
    path: Vec<String>,
    start: usize,
    end: usize,
}

fn sections(text: &str) -> Vec<Section> {
    let mut out: Vec<Section> = Vec::new();
    let mut path: Vec<(HeadingLevel, String)> = Vec::new();
    let mut events = Parser::new(text).into_offset_iter();
    while let Some((event, range)) = events.next() {
        let Event::Start(Tag::Heading { level, .. }) = event else { continue };
        let (title, end) = heading(&mut events, range.end);
        if let Some(last) = out.last_mut() {
            last.end = range.start;
        }
        path.retain(|(above, _)| *above < level);
        path.push((level, title));
        out.push(Section { path: path.iter().map(|(_, t)| t.clone()).collect(), start: end, end: text.len() });
    }
    out
}

/// Plain text of a heading and the offset after it.
fn heading(events: &mut OffsetIter<'_>, end: usize) -> (String, usize) {
    let mut title = String::new();
    for (event, _) in events.by_ref() {
        match event {
            Event::Text(text) | Event::Code(text) => title.push_str(&text),
            Event::End(TagEnd::Heading(_)) => break,
            _ => {}
        }
    }
    (title.trim().to_owned(), end)
}

/// Cuts a long section at paragraph ends, so that no piece exceeds [`MOST_BYTES`] where paragraphs allow.
fn split(section: Section, text: &str) -> Vec<(Vec<String>, usize, String)> {
    let body = text.get(section.start..section.end).unwrap_or_default();
    let mut pieces = Vec::new();
    let (mut start, mut length) = (0, 0);
    for paragraph in body.split_inclusive("\n\n") {
        if length > 0 && length + paragraph.len() > MOST_BYTES {
            pieces.push((section.path.clone(), section.start + start, body[start..start + length].trim().to_owned()));
            start += length;
            length = 0;
        }
        length += paragraph.len();
    }
    pieces.push((section.path, section.start + start, body[start..].trim().to_owned()));
    pieces
}

/// Names that stand in a text as whole words.
fn named(text: &str, names: &[&str]) -> Vec<String> {
    let words: std::collections::BTreeSet<&str> = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    names.iter().filter(|n| words.contains(**n)).map(|n| (*n).to_owned()).collect()
}

fn id_of(file: &str, path: &[String], body: &str) -> String {
    let mut hasher = DefaultHasher::new();
    (file, path, body).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "preface\n# Runbook\n\n## Missing index (`missing_index`)\n\nRows read, see `tup_returned_per_s`.\n\n### Fix\n\nCreate it.\n\n## Empty\n";

    #[test]
    fn sections_keep_their_path_their_causes_and_their_place() {
        let chunks = chunks("r.md", TEXT, &["missing_index", "deadlocks"], &["tup_returned_per_s"]);
        assert_eq!(chunks.len(), 2);
        assert_eq!(chunks[0].causes, ["missing_index"]);
        assert_eq!(chunks[0].signals, ["tup_returned_per_s"]);
        assert_eq!(chunks[1].source.section, ["Runbook", "Missing index (missing_index)", "Fix"]);
        assert_eq!(chunks[1].causes, ["missing_index"], "a subsection belongs to the cause of its parent");
        assert!(TEXT[chunks[1].source.offset..].trim_start().starts_with("Create it."));
    }

    #[test]
    fn a_long_section_is_cut_at_paragraphs_and_nothing_is_lost() {
        let body = "word ".repeat(500);
        let text = format!("# T\n\n{}", format!("{body}\n\n").repeat(10));
        let chunks = chunks("t.md", &text, &[], &[]);
        assert!(chunks.len() > 1 && chunks.iter().all(|c| c.content.len() <= MOST_BYTES));
        assert_eq!(chunks.iter().map(|c| c.content.matches("word").count()).sum::<usize>(), 5000);
    }

    #[test]
    fn a_cause_that_only_the_text_mentions_is_not_the_sections_cause() {
        let text = "## Deadlocks (`deadlocks`)\n\nTell them from `missing_index`.\n";
        assert_eq!(chunks("r.md", text, &["missing_index", "deadlocks"], &[])[0].causes, ["deadlocks"]);
    }
}
