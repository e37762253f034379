//! Markdown by its events: headings, paragraphs, items, tables and code; front matter and comments are left out.

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

use crate::document::{Blocks, Document, Kind};
use crate::error::ReadError;
use crate::html;

/// Reads a Markdown text. Offsets are those of the text.
///
/// # Errors
/// `Empty` without text, `TooLarge` past the bounds of a document.
pub fn read(text: &str) -> Result<Document, ReadError> {
    let options =
        Options::ENABLE_TABLES | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS | Options::ENABLE_TASKLISTS | Options::ENABLE_STRIKETHROUGH;
    let mut reader = Reader::default();
    for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
        reader.event(event, range.start);
        if reader.out.overflowed() {
            break;
        }
    }
    reader.flush();
    reader.out.finish()
}

#[derive(Default)]
struct Reader {
    out: Blocks,
    lists: Vec<bool>,
    kind: Option<Kind>,
    text: String,
    offset: usize,
    cells: Option<Vec<String>>,
    html: String,
    skip: bool,
}

impl Reader {
    fn event(&mut self, event: Event<'_>, offset: usize) {
        match event {
            Event::Start(tag) => self.start(&tag, offset),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => self.add(&text, offset),
            Event::Code(code) if matches!(self.kind, Some(Kind::Heading(_))) => self.add(&code, offset),
            // The ticks stay: they tell a name from a word.
            Event::Code(code) => self.add(&format!("`{code}`"), offset),
            Event::SoftBreak | Event::HardBreak => self.add(" ", offset),
            Event::Html(html) => self.html.push_str(&html),
            Event::Rule => self.flush(),
            _ => {}
        }
    }

    fn add(&mut self, text: &str, offset: usize) {
        if self.skip {
            return;
        }
        if self.text.is_empty() {
            self.offset = offset;
        }
        self.text.push_str(text);
    }

    fn start(&mut self, tag: &Tag<'_>, offset: usize) {
        match tag {
            Tag::Heading { level, .. } => self.open(Kind::Heading(level_of(*level)), offset),
            Tag::Paragraph if self.kind.is_none() => self.open(Kind::Paragraph, offset),
            Tag::CodeBlock(_) => self.open(Kind::Code, offset),
            Tag::List(first) => {
                self.flush();
                self.lists.push(first.is_some());
            }
            Tag::Item => {
                let ordered = self.lists.last().copied().unwrap_or(false);
                self.open(Kind::Item { depth: self.lists.len().min(99) as u8, ordered }, offset);
            }
            Tag::TableHead | Tag::TableRow => {
                self.flush();
                self.offset = offset;
                self.cells = Some(Vec::new());
            }
            Tag::MetadataBlock(_) => self.skip = true,
            Tag::HtmlBlock => self.flush(),
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(_) | TagEnd::Paragraph | TagEnd::CodeBlock | TagEnd::Item => self.flush(),
            TagEnd::List(_) => {
                self.flush();
                self.lists.pop();
            }
            TagEnd::TableCell => {
                let cell = std::mem::take(&mut self.text);
                if let Some(cells) = &mut self.cells {
                    cells.push(cell);
                }
            }
            TagEnd::TableHead | TagEnd::TableRow => {
                let cells = self.cells.take().unwrap_or_default();
                self.out.push(Kind::Row, &cells.join(" | "), self.offset, None);
            }
            TagEnd::MetadataBlock(_) => self.skip = false,
            TagEnd::HtmlBlock => {
                // What a page of HTML would show of it; a comment shows nothing.
                if let Ok(part) = html::read(&std::mem::take(&mut self.html)) {
                    part.blocks.iter().for_each(|block| self.out.push(block.kind, &block.text, self.offset, None));
                }
            }
            _ => {}
        }
    }

    fn open(&mut self, kind: Kind, offset: usize) {
        self.flush();
        self.kind = Some(kind);
        self.offset = offset;
    }

    fn flush(&mut self) {
        let text = std::mem::take(&mut self.text);
        let kind = self.kind.take().unwrap_or(Kind::Paragraph);
        self.out.push(kind, &text, self.offset, None);
    }
}

fn level_of(level: HeadingLevel) -> u8 {
    match level {
        HeadingLevel::H1 => 1,
        HeadingLevel::H2 => 2,
        HeadingLevel::H3 => 3,
        HeadingLevel::H4 => 4,
        HeadingLevel::H5 => 5,
        HeadingLevel::H6 => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_block_is_told_with_its_place() {
        let text = "---\na: b\n---\n# Runbook\n\nSee `pg_locks`\nnow.\n\n1. one\n2. two\n   - in\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```sql\nSELECT 1;\n\nSELECT 2;\n```\n<!-- hidden -->\n<p>shown</p>\n";
        let document = read(text).unwrap();
        let blocks: Vec<(Kind, &str)> = document.blocks.iter().map(|b| (b.kind, b.text.as_str())).collect();
        let expected = [
            (Kind::Heading(1), "Runbook"),
            (Kind::Paragraph, "See `pg_locks` now."),
            (Kind::Item { depth: 1, ordered: true }, "one"),
            (Kind::Item { depth: 1, ordered: true }, "two"),
            (Kind::Item { depth: 2, ordered: false }, "in"),
            (Kind::Row, "a | b"),
            (Kind::Row, "1 | 2"),
            (Kind::Code, "SELECT 1;\n\nSELECT 2;"),
            (Kind::Paragraph, "shown"),
        ];
        assert_eq!(blocks, expected);
        assert!(text[document.blocks[1].offset..].starts_with("See"));
        assert!(text[document.blocks[2].offset..].trim_start_matches("1. ").starts_with("one"));
    }

    #[test]
    fn ten_thousand_levels_cost_no_stack() {
        let text = format!("{} deep\n\n# After\n\nx\n", ">".repeat(10_000));
        assert!(read(&text).unwrap().blocks.iter().any(|b| b.text == "After"));
        let brackets = format!("{}x{}\n", "[".repeat(10_000), "](y)".repeat(10_000));
        assert!(read(&brackets).is_ok());
    }
}
