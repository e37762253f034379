//! Blocks to sections by the document's own structure, cut so that none is above what a model reads at once.

use crate::document::{Block, Document, Kind, is_han};

/// Most tokens of a piece. A section never exceeds 4,000; pieces are smaller, since a search that finds a page-long
/// text has not found much.
pub const MOST_TOKENS: usize = 1_200;
/// A term whose explanation has so many tokens is a section of its own.
const LONG_TERM: usize = 90;
/// A piece shorter than this joins the one before it under the same heading.
const TINY: usize = 25;
/// Levels of terms come after all levels of headings.
const TERM_LEVEL: u8 = 10;

/// A piece of a section.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Headings from the outermost down.
    pub path: Vec<String>,
    /// Its text: paragraphs separated by blank lines.
    pub text: String,
    /// What numbered lists in it say to do, in order.
    pub steps: Vec<String>,
    /// Items of lists without numbers.
    pub items: Vec<String>,
    /// Where it begins.
    pub offset: usize,
    /// Page it begins on, in paged formats.
    pub page: Option<u32>,
}

/// An upper estimate of the tokens of a text for the models in use: a word counts by its letters, a sign as one, a
/// Chinese character as two.
pub fn tokens(text: &str) -> usize {
    let (mut count, mut letters) = (0, 0usize);
    for c in text.chars() {
        if c.is_ascii_alphabetic() {
            letters += 1;
            continue;
        }
        count += letters.div_ceil(4);
        letters = 0;
        count += if c.is_whitespace() {
            0
        } else if is_han(c) {
            2
        } else {
            1
        };
    }
    count + letters.div_ceil(4)
}

/// Cuts a document. Text before the first heading stands under the title.
pub fn cut(document: &Document) -> Vec<Piece> {
    let mut cutter = Cutter::default();
    let blocks = &document.blocks;
    for (at, block) in blocks.iter().enumerate() {
        match block.kind {
            Kind::Heading(level) => cutter.open(level, block),
            Kind::Term(depth) if explanation(&blocks[at + 1..], depth) >= LONG_TERM => {
                cutter.open(TERM_LEVEL.saturating_add(depth), block);
            }
            Kind::Term(depth) => {
                cutter.close(TERM_LEVEL.saturating_add(depth));
                cutter.add(block, &format!("{}: ", block.text.trim_end_matches(':')), "");
            }
            Kind::EndTerms(depth) => cutter.close(TERM_LEVEL.saturating_add(depth)),
            Kind::Paragraph => cutter.add(block, &block.text, "\n\n"),
            Kind::Code => cutter.add(block, &block.text, "\n\n"),
            Kind::Row => cutter.add(block, &block.text, "\n"),
            Kind::Item { depth, ordered } => cutter.item(block, depth, ordered),
        }
    }
    cutter.flush();
    let mut pieces = cutter.out;
    if let Some(title) = &document.title {
        let single = blocks.iter().find_map(|b| if let Kind::Heading(_) = b.kind { Some(b.text.as_str()) } else { None });
        // The title of a page often is its first heading.
        if single.is_none_or(|first| !title.contains(first) && !first.contains(title.as_str())) {
            pieces.iter_mut().for_each(|piece| piece.path.insert(0, title.clone()));
        }
        pieces.iter_mut().filter(|piece| piece.path.is_empty()).for_each(|piece| piece.path.push(title.clone()));
    }
    pieces
}

/// Tokens of what explains a term, up to the next term of its list.
fn explanation(after: &[Block], depth: u8) -> usize {
    let mut sum = 0;
    for block in after {
        match block.kind {
            Kind::Heading(_) => break,
            Kind::Term(other) | Kind::EndTerms(other) if other <= depth => break,
            _ => sum += tokens(&block.text),
        }
        if sum >= LONG_TERM {
            break;
        }
    }
    sum
}

#[derive(Default)]
struct Cutter {
    out: Vec<Piece>,
    path: Vec<(u8, String)>,
    text: String,
    size: usize,
    steps: Vec<String>,
    items: Vec<String>,
    place: Option<(usize, Option<u32>)>,
}

impl Cutter {
    /// Begins a section.
    fn open(&mut self, level: u8, block: &Block) {
        self.flush();
        self.path.retain(|(open, _)| *open < level);
        self.path.push((level, block.text.clone()));
    }

    /// Ends the sections of terms from a level on; a long list of short terms is cut between terms.
    fn close(&mut self, level: u8) {
        if self.size > MOST_TOKENS / 2 || self.path.iter().any(|(open, _)| *open >= level) {
            self.flush();
            self.path.retain(|(open, _)| *open < level);
        }
    }

    fn item(&mut self, block: &Block, depth: u8, ordered: bool) {
        let text = if ordered {
            self.steps.push(block.text.clone());
            format!("{}. {}", self.steps.len(), block.text)
        } else {
            self.items.push(block.text.clone());
            format!("- {}", block.text)
        };
        self.add(block, &format!("{}{text}", "  ".repeat(usize::from(depth.clamp(1, 8)) - 1)), "\n");
    }

    fn add(&mut self, block: &Block, text: &str, end: &str) {
        let size = tokens(text);
        if self.size > 0 && self.size + size > MOST_TOKENS {
            self.flush();
        }
        if size > MOST_TOKENS {
            for part in split(text) {
                self.begin(block);
                self.text.push_str(part);
                self.size = tokens(part);
                self.flush();
            }
            return;
        }
        self.begin(block);
        // A list after a paragraph, a paragraph after a list: a blank line between them.
        if end == "\n\n" && self.text.ends_with('\n') && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
        self.text.push_str(text);
        self.text.push_str(end);
        self.size += size;
    }

    fn begin(&mut self, block: &Block) {
        self.place.get_or_insert((block.offset, block.page));
    }

    fn flush(&mut self) {
        let text = std::mem::take(&mut self.text);
        let size = std::mem::take(&mut self.size);
        let (steps, items) = (std::mem::take(&mut self.steps), std::mem::take(&mut self.items));
        let Some((offset, page)) = self.place.take() else { return };
        let text = text.trim();
        if text.is_empty() {
            return;
        }
        let path: Vec<String> = self.path.iter().map(|(_, title)| title.clone()).collect();
        if size < TINY
            && let Some(last) = self.out.last_mut().filter(|last| last.path == path && tokens(&last.text) + size <= MOST_TOKENS)
        {
            last.text.push_str("\n\n");
            last.text.push_str(text);
            last.steps.extend(steps);
            last.items.extend(items);
            return;
        }
        self.out.push(Piece { path, text: text.to_owned(), steps, items, offset, page });
    }
}

/// Parts of a text that is too long for one piece: cut at ends of lines, else of sentences, else of words, else anywhere.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = room(rest);
        let cut = if end == rest.len() {
            end
        } else {
            let head = &rest[..end];
            let after = |at: Option<(usize, &str)>| at.map(|(at, found)| at + found.len()).filter(|at| *at > end / 2);
            after(head.rmatch_indices('\n').next())
                .or_else(|| after(head.rmatch_indices(['。', '！', '？', '；']).next()))
                .or_else(|| after(head.rmatch_indices(". ").next()))
                .or_else(|| after(head.rmatch_indices(' ').next()))
                .unwrap_or(end)
        };
        parts.push(&rest[..cut]);
        rest = &rest[cut..];
    }
    parts
}

/// How many bytes of a text fit into a piece.
fn room(text: &str) -> usize {
    let (mut quarters, mut end) = (0, 0);
    for (at, c) in text.char_indices() {
        quarters += if c.is_ascii_alphabetic() {
            1
        } else if is_han(c) {
            8
        } else {
            4
        };
        end = at + c.len_utf8();
        // A word of one letter is a token too: half is left for such.
        if quarters > MOST_TOKENS * 2 {
            break;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{html, markdown};

    #[test]
    fn sections_follow_headings_and_long_terms() {
        let long = "The amount of memory that sorts and hashes may take. ".repeat(12);
        let text = format!(
            "<h1>Memory</h1><p>Intro text that is long enough to stand alone as a piece, since short ones join the one before them, \
             or else come first in their section.</p><dl><dt>work_mem</dt><dd><p>{long}</p></dd><dt>off</dt><dd>Short.</dd></dl>\
             <p>{long}</p><h2>Disk</h2><ol><li>look</li><li>act</li></ol>"
        );
        let pieces = cut(&html::read(&text).unwrap());
        let paths: Vec<Vec<&str>> = pieces.iter().map(|p| p.path.iter().map(String::as_str).collect()).collect();
        assert_eq!(paths, [vec!["Memory"], vec!["Memory", "work_mem"], vec!["Memory"], vec!["Memory", "Disk"]]);
        assert!(pieces[2].text.starts_with("off: Short."), "{}", pieces[2].text);
        assert_eq!(pieces[3].steps, ["look", "act"]);
        assert_eq!(pieces[3].text, "1. look\n2. act");
    }

    #[test]
    fn no_piece_is_above_the_limit_and_nothing_is_lost() {
        for unit in ["word and more. ", "中文没有空格，", "x", "a b c d ", "SELECT 1;\n"] {
            let body = unit.repeat(60_000 / unit.len());
            let text = format!("# T\n\n{body}\n\n```\n{body}\n```\n");
            let pieces = cut(&markdown::read(&text).unwrap());
            assert!(pieces.iter().all(|p| tokens(&p.text) <= MOST_TOKENS), "{unit}");
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
            assert_eq!(pieces.iter().map(|p| letters(&p.text)).sum::<usize>(), 2 * letters(&body), "{unit}");
        }
    }
}
