//! Pieces of text to lines, lines to headings and paragraphs: by size, weight and distance, over the whole document.

use std::collections::HashMap;

use super::content::Piece;
use crate::document::{Blocks, Document, Kind, is_han, squeeze};
use crate::error::ReadError;
use crate::plain;

/// Letters this much larger than those of running text make a heading.
const LARGER: f32 = 1.12;
/// Longest heading, in characters.
const MOST_HEADING: usize = 160;
/// Lines at the top and at the bottom of a page that may be its header and footer.
const EDGE: usize = 3;

struct Line {
    page: u32,
    text: String,
    left: f32,
    right: f32,
    base: f32,
    size: f32,
    bold: bool,
    /// Whether it stands among the first or last lines of its page.
    edge: bool,
}

/// All lines of a document.
#[derive(Default)]
pub struct Pages {
    lines: Vec<Line>,
    pages: u32,
    bytes: usize,
}

impl Pages {
    /// Adds a page.
    pub fn add(&mut self, page: u32, pieces: Vec<Piece>) {
        self.pages += 1;
        let first = self.lines.len();
        for piece in pieces {
            self.bytes += piece.text.len();
            match self.lines[first..].last_mut().filter(|line| continues(line, &piece)) {
                Some(line) => line.extend(&piece),
                None => self.lines.push(Line::new(page, piece)),
            }
        }
        let lines = &mut self.lines[first..];
        let mut order: Vec<usize> = (0..lines.len()).collect();
        order.sort_by(|a, b| lines[*b].base.total_cmp(&lines[*a].base));
        let edges: Vec<usize> = order.iter().take(EDGE).chain(order.iter().rev().take(EDGE)).copied().collect();
        for at in edges {
            lines[at].edge = true;
        }
    }

    /// Pages so far.
    pub fn count(&self) -> u32 {
        self.pages
    }

    /// Bytes of text so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The document.
    ///
    /// # Errors
    /// `Empty` and `TooLarge`.
    pub fn finish(mut self, title: Option<String>) -> Result<Document, ReadError> {
        self.drop_running_heads();
        let body = self.body_size();
        let levels = self.levels(body);
        let mut out = Blocks::default();
        if let Some(title) = &title {
            out.title(title);
        }
        let mut open: Option<(Kind, String, u32)> = None;
        let mut before: Option<&Line> = None;
        for line in &self.lines {
            let text = squeeze(&line.text);
            if text.is_empty() {
                continue;
            }
            let kind = line.kind(&text, body, &levels);
            let (kind, text) = match (kind, plain::item(&text)) {
                (Kind::Paragraph, Some((ordered, rest))) => (Kind::Item { depth: 1, ordered }, rest.to_owned()),
                (kind, _) => (kind, text),
            };
            match &mut open {
                Some((current, paragraph, _)) if before.is_some_and(|b| b.runs_on(line, *current, kind)) => append(paragraph, &text),
                _ => {
                    flush(&mut out, open.take());
                    open = Some((kind, text, line.page));
                }
            }
            before = Some(line);
        }
        flush(&mut out, open);
        out.finish()
    }

    /// Headers and footers: lines at the edge of a page that come again on other pages, their numbers aside.
    fn drop_running_heads(&mut self) {
        let shape = |line: &Line| squeeze(&line.text).chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
        let mut seen: HashMap<String, u32> = HashMap::new();
        for line in self.lines.iter().filter(|line| line.edge) {
            *seen.entry(shape(line)).or_default() += 1;
        }
        // Left and right pages may differ, and chapters change them: a quarter of the pages is enough.
        let often = (self.pages / 4).max(3);
        self.lines.retain(|line| {
            let text = shape(line);
            !line.edge || (!text.trim_matches(|c: char| !c.is_alphanumeric()).is_empty() && seen.get(&text).is_none_or(|n| *n < often))
        });
    }

    /// The size in which most characters stand, in half points.
    fn body_size(&self) -> f32 {
        let mut sizes: HashMap<u32, usize> = HashMap::new();
        for line in &self.lines {
            *sizes.entry(half_points(line.size)).or_default() += line.text.len();
        }
        sizes.into_iter().max_by_key(|(size, letters)| (*letters, *size)).map_or(10.0, |(size, _)| size as f32 / 2.0)
    }

    /// Sizes of headings, largest first: their place is their level.
    fn levels(&self, body: f32) -> Vec<u32> {
        let mut sizes: Vec<u32> =
            self.lines.iter().filter(|l| l.size >= body * LARGER && l.text.len() < MOST_HEADING).map(|l| half_points(l.size)).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        sizes.dedup();
        sizes
    }
}

impl Line {
    fn new(page: u32, piece: Piece) -> Self {
        let Piece { text, left, right, base, size, bold } = piece;
        Self { page, text, left, right, base, size, bold, edge: false }
    }

    fn extend(&mut self, piece: &Piece) {
        let gap = piece.left - self.right;
        let glued = self.text.chars().next_back().is_none_or(|c| c.is_whitespace() || is_han(c)) || piece.text.starts_with(' ');
        if gap > self.size * 0.15 && !glued {
            self.text.push(' ');
        }
        self.text.push_str(&piece.text);
        self.right = piece.right.max(self.right);
        if !piece.text.trim().is_empty() {
            self.size = self.size.max(piece.size);
            self.bold &= piece.bold;
        }
    }

    fn kind(&self, text: &str, body: f32, levels: &[u32]) -> Kind {
        let length = text.chars().count();
        let short = length < MOST_HEADING && text.chars().any(char::is_alphabetic);
        if short && self.size >= body * LARGER {
            let level = levels.iter().position(|size| *size <= half_points(self.size)).unwrap_or(0).min(5);
            return Kind::Heading(level as u8 + 1);
        }
        // A bold line of its own in running text: `Resolution`, `3.1 Locks`.
        let ends = text.ends_with(['.', ',', ';', ':', '。', '，', '：']);
        if short && self.bold && !ends && length < 80 && self.size >= body * 0.98 && plain::item(text).is_none() {
            return Kind::Heading((levels.len() + 1).min(6) as u8);
        }
        Kind::Paragraph
    }

    /// Whether the next line belongs to the same block.
    fn runs_on(&self, next: &Line, kind: Kind, next_kind: Kind) -> bool {
        let same = match (kind, next_kind) {
            (Kind::Heading(a), Kind::Heading(b)) => a == b && self.page == next.page,
            (Kind::Paragraph | Kind::Item { .. }, Kind::Paragraph) => (self.size - next.size).abs() < 0.8,
            _ => false,
        };
        if self.page != next.page {
            // A sentence that goes on over the page.
            return same && !self.text.trim_end().ends_with(['.', '。', ':', '：', '!', '?']);
        }
        let down = self.base - next.base;
        same && down >= -0.1 * self.size && down < self.size * 1.75
    }
}

/// Whether a piece stands on the same line, to the right of what is there.
fn continues(line: &Line, piece: &Piece) -> bool {
    let height = line.size.max(piece.size);
    (line.base - piece.base).abs() < height * 0.35 && piece.left > line.left && piece.left > line.right - height * 0.8
}

/// Adds a line to a paragraph; a word that was cut at the end of the line is made whole.
fn append(paragraph: &mut String, line: &str) {
    let cut = paragraph.ends_with('-') && line.starts_with(char::is_lowercase);
    let whole = paragraph.trim_end_matches('-').chars().next_back().is_some_and(char::is_lowercase);
    if cut && whole {
        paragraph.pop();
        paragraph.push_str(line);
    } else {
        plain::join(paragraph, line);
    }
}

fn flush(out: &mut Blocks, block: Option<(Kind, String, u32)>) {
    if let Some((kind, text, page)) = block {
        let offset = out.bytes();
        out.push(kind, &text, offset, Some(page));
    }
}

fn half_points(size: f32) -> u32 {
    (size.clamp(0.0, 1000.0) * 2.0).round() as u32
}
