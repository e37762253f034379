//! What every reader makes of a file: blocks in reading order, each with its place. Nothing after this knows formats.

use serde::{Deserialize, Serialize};

use crate::error::{ReadError, ReadErrorKind};

/// Most text of one document, in bytes.
pub const MOST_TEXT: usize = 16 << 20;
/// Most blocks of one document: a file of empty paragraphs must not cost more memory than one of text.
const MOST_BLOCKS: usize = 300_000;
/// Longest heading, in characters.
const MOST_HEADING: usize = 200;

/// A document as it reads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// Its title, where the format has a place for it.
    pub title: Option<String>,
    /// What stands in it, boilerplate left out.
    pub blocks: Vec<Block>,
}

/// A heading, a paragraph, a list item, a row of a table or a piece of code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// What it is.
    pub kind: Kind,
    /// Its text: one line, except in code.
    pub text: String,
    /// Byte offset in the file, or in the text that was read from it.
    pub offset: usize,
    /// Page, from 1, in paged formats.
    pub page: Option<u32>,
}

/// Kinds of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A heading, from 1 (the outermost) on.
    Heading(u8),
    /// Running text.
    Paragraph,
    /// An item of a list.
    Item {
        /// Lists around it.
        depth: u8,
        /// Whether its list is numbered: then it is a step.
        ordered: bool,
    },
    /// A term whose explanation follows, in lists nested this deep.
    Term(u8),
    /// The end of the explanations at this depth.
    EndTerms(u8),
    /// A row of a table, its cells joined by ` | `.
    Row,
    /// Code, output, or other text whose lines matter.
    Code,
}

/// Collects blocks within the bounds of a document.
#[derive(Debug, Default)]
pub struct Blocks {
    title: Option<String>,
    list: Vec<Block>,
    bytes: usize,
    overflow: bool,
}

impl Blocks {
    /// Adds a block; one without text is left out. Past the bounds nothing is kept, and [`Blocks::finish`] says so.
    pub fn push(&mut self, kind: Kind, text: &str, offset: usize, page: Option<u32>) {
        let text = match kind {
            Kind::Code => text.trim_matches('\n').to_owned(),
            Kind::Heading(_) | Kind::Term(_) => squeeze(text).chars().take(MOST_HEADING).collect(),
            _ => squeeze(text),
        };
        if text.trim().is_empty() && !matches!(kind, Kind::EndTerms(_)) {
            return;
        }
        if self.list.len() >= MOST_BLOCKS || self.bytes + text.len() > MOST_TEXT {
            self.overflow = true;
            return;
        }
        self.bytes += text.len();
        self.list.push(Block { kind, text, offset, page });
    }

    /// Sets the title, unless there is one.
    pub fn title(&mut self, text: &str) {
        let text: String = squeeze(text).chars().take(MOST_HEADING).collect();
        if self.title.is_none() && !text.is_empty() {
            self.title = Some(text);
        }
    }

    /// Bytes of text so far: the offset of the next block in the text that was read.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the bounds were passed: a reader may stop.
    pub fn overflowed(&self) -> bool {
        self.overflow
    }

    /// The blocks so far, for a reader that looks back.
    pub fn list_mut(&mut self) -> &mut Vec<Block> {
        &mut self.list
    }

    /// Appends a document read from a part of this one; its offsets are moved by `base`.
    pub fn append(&mut self, part: Document, base: usize) {
        for block in part.blocks {
            self.push(block.kind, &block.text, block.offset + base, block.page);
        }
    }

    /// The document.
    ///
    /// # Errors
    /// `TooLarge` past the bounds, `Empty` without any text.
    pub fn finish(self) -> Result<Document, ReadError> {
        if self.overflow {
            let most = MOST_TEXT >> 20;
            return Err(ReadError::new(
                ReadErrorKind::TooLarge,
                format!("its text is above the limit of {most} MB or {MOST_BLOCKS} paragraphs"),
            ));
        }
        if !self.list.iter().any(|b| !matches!(b.kind, Kind::EndTerms(_))) {
            return Err(ReadError::new(ReadErrorKind::Empty, "there is no text in it"));
        }
        Ok(Document { title: self.title, blocks: self.list })
    }
}

/// Text on one line, with single blanks; characters that steer a terminal or have no width are left out.
pub fn squeeze(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut blank = true;
    for c in text.chars() {
        if c.is_whitespace() || c.is_control() {
            if !blank {
                out.push(' ');
            }
            blank = true;
        } else if !matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{ad}') {
            out.push(c);
            blank = false;
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// Whether a character belongs to a script written without blanks between words.
pub fn is_han(c: char) -> bool {
    matches!(c, '\u{3000}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{ff00}'..='\u{ffef}' | '\u{20000}'..='\u{2fa1f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_and_are_told() {
        let mut blocks = Blocks::default();
        for _ in 0..=MOST_BLOCKS {
            blocks.push(Kind::Paragraph, "a", 0, None);
        }
        assert_eq!(blocks.finish().unwrap_err().kind, ReadErrorKind::TooLarge);
        assert_eq!(Blocks::default().finish().unwrap_err().kind, ReadErrorKind::Empty);
    }

    #[test]
    fn text_is_squeezed_and_cannot_steer_a_terminal() {
        assert_eq!(squeeze(" a\n\t b\u{202e}\u{1b}[31mc "), "a b [31mc");
        assert_eq!(squeeze("\u{feff}"), "");
    }
}
