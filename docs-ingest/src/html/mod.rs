//! HTML by its tokens, not by a tree of them: nesting costs one small entry of a stack, and nothing is recursive.
//!
//! Navigation, page headers and footers, scripts and forms are left out, and so are lists that are mostly links. `tag.rs`
//! says what an element does to what stands in it.

mod tag;

use std::collections::HashMap;
use std::convert::Infallible;

use html5gum::Span;
use html5gum::Tokenizer;
use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};

use crate::document::{Block, Blocks, Document, Kind};
use crate::error::{ReadError, ReadErrorKind};
use tag::{Role, Tag, is_block, role};

/// Items in a row that are mostly links: from so many on, a list is navigation.
const LINK_LIST: usize = 4;

/// Reads a page.
///
/// # Errors
/// `Empty` without any text, `TooLarge` past the bounds of a document. A page of nothing but navigation is a document
/// without blocks.
pub fn read(text: &str) -> Result<Document, ReadError> {
    let mut page = Page::default();
    let mut tag = Tag::default();
    let handle = |event: CallbackEvent<'_>, span: Span<usize>| -> Option<Infallible> {
        match event {
            CallbackEvent::OpenStartTag { name } => tag.open(name, span.start),
            CallbackEvent::AttributeName { name } => tag.attribute = name.to_ascii_lowercase(),
            CallbackEvent::AttributeValue { value } => tag.value(value),
            CallbackEvent::CloseStartTag { self_closing } => page.start(&tag, self_closing),
            CallbackEvent::EndTag { name } => page.end(name),
            CallbackEvent::String { value } => page.text(value, span.start),
            _ => {}
        }
        None
    };
    let mut emitter = CallbackEmitter::new(handle);
    emitter.naively_switch_states(true);
    let Ok(()) = Tokenizer::new_with_emitter(text, emitter).finish();
    page.finish()
}

/// The charset that a page or an XML text declares in its first kilobyte.
pub fn declared_charset(bytes: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]).to_ascii_lowercase();
    let at = head.find("charset=").map(|at| at + 8).or_else(|| head.find("encoding=").map(|at| at + 9))?;
    let label: String =
        head[at..].trim_start_matches(['"', '\'']).chars().take_while(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
    (!label.is_empty()).then_some(label)
}

#[derive(Default)]
struct Page {
    out: Blocks,
    /// Share of each block's text that stands in links, in percent; and whether it stands in the main part.
    about: Vec<(u8, bool)>,
    /// Open elements: number of the name, and role.
    open: Vec<(u16, Role)>,
    names: HashMap<Vec<u8>, u16>,
    /// How often each name is open: an end tag without a start costs nothing.
    opened: Vec<u32>,
    counts: Counts,
    lists: Vec<bool>,
    text: String,
    linked: usize,
    offset: usize,
    kind: Option<Kind>,
    title: Option<String>,
    in_title: bool,
    cells: Vec<String>,
    in_cell: bool,
    /// There was text that is left out.
    passed_over: bool,
}

#[derive(Default)]
struct Counts {
    skip: u32,
    header: u32,
    boxed: u32,
    main: u32,
    pre: u32,
    terms: u32,
    table: u32,
    link: u32,
}

impl Counts {
    fn of(&mut self, role: Role) -> Option<&mut u32> {
        Some(match role {
            Role::Skip => &mut self.skip,
            Role::HeaderOnly => &mut self.header,
            Role::Box => &mut self.boxed,
            Role::Main => &mut self.main,
            Role::Pre => &mut self.pre,
            Role::Terms => &mut self.terms,
            Role::Table => &mut self.table,
            Role::Link => &mut self.link,
            Role::Plain | Role::List(_) => return None,
        })
    }
}

impl Page {
    fn start(&mut self, tag: &Tag, self_closing: bool) {
        let name = tag.name.as_slice();
        match name {
            b"br" | b"wbr" => return self.line_break(name),
            b"hr" => return self.flush(),
            b"img" | b"input" | b"meta" | b"link" | b"area" | b"base" | b"col" | b"embed" | b"source" | b"track" | b"param" => return,
            b"title" => self.in_title = self.title.is_none(),
            _ => {}
        }
        // In XHTML `<a id="x"/>` is an empty element; in HTML the slash means nothing, but nobody writes it on a container.
        if self_closing {
            return;
        }
        let role = role(name, tag);
        self.begin(name, role, tag.offset);
        let number = self.number(name);
        self.open.push((number, role));
        if let Some(count) = self.opened.get_mut(usize::from(number)) {
            *count += 1;
        }
        if let Some(count) = self.counts.of(role) {
            *count += 1;
        }
        if let Role::List(ordered) = role {
            self.lists.push(ordered);
        }
    }

    /// What a start tag does to the text before it.
    fn begin(&mut self, name: &[u8], role: Role, offset: usize) {
        let kind = match name {
            b"h1" | b"h2" | b"h3" | b"h4" | b"h5" | b"h6" if self.counts.boxed == 0 => Kind::Heading(name[1] - b'0'),
            b"li" => Kind::Item { depth: self.lists.len().min(99) as u8, ordered: self.lists.last().copied().unwrap_or(false) },
            b"dt" => Kind::Term(self.counts.terms.min(99) as u8),
            b"pre" => Kind::Code,
            b"td" | b"th" => {
                self.flush();
                self.cell_end();
                self.in_cell = true;
                return;
            }
            b"tr" => {
                self.flush();
                return self.row(offset);
            }
            _ if role == Role::Skip || is_block(name) => Kind::Paragraph,
            _ => return,
        };
        // `<li><p>` and `<dt><p>` are one block: a paragraph right after the start keeps the kind.
        if kind == Kind::Paragraph && self.text.trim().is_empty() && matches!(self.kind, Some(Kind::Item { .. } | Kind::Term(_))) {
            return;
        }
        self.flush();
        self.kind = Some(kind);
    }

    fn end(&mut self, name: &[u8]) {
        let name = name.to_ascii_lowercase();
        if name == b"title" && self.in_title {
            self.in_title = false;
        }
        let number = self.number(&name);
        if self.opened.get(usize::from(number)).is_none_or(|count| *count == 0) {
            return;
        }
        if is_block(&name)
            || matches!(name.as_slice(), b"li" | b"dt" | b"dd" | b"td" | b"th" | b"tr" | b"pre")
            || name.first() == Some(&b'h')
        {
            self.flush();
        }
        match name.as_slice() {
            b"td" | b"th" => self.cell_end(),
            b"tr" | b"table" => self.row(self.offset),
            _ => {}
        }
        while let Some((top, role)) = self.open.pop() {
            if let Some(count) = self.opened.get_mut(usize::from(top)) {
                *count = count.saturating_sub(1);
            }
            let terms = self.counts.terms.min(99) as u8;
            if let Some(count) = self.counts.of(role) {
                *count = count.saturating_sub(1);
            }
            match role {
                Role::List(_) => drop(self.lists.pop()),
                Role::Terms => self.push(Kind::EndTerms(terms), "", self.offset, 0),
                _ => {}
            }
            if top == number {
                return;
            }
        }
    }

    fn text(&mut self, value: &[u8], offset: usize) {
        let text = String::from_utf8_lossy(value);
        if self.in_title {
            self.title.get_or_insert_default().push_str(&text);
            return;
        }
        if self.counts.skip > 0 || self.counts.header > 0 && !matches!(self.kind, Some(Kind::Heading(_))) {
            self.passed_over |= !text.trim().is_empty();
            return;
        }
        if self.text.is_empty() {
            if self.counts.pre == 0 && text.trim().is_empty() {
                return;
            }
            self.offset = offset;
        }
        if self.counts.link > 0 {
            self.linked += text.trim().len();
        }
        self.text.push_str(&text);
    }

    fn line_break(&mut self, name: &[u8]) {
        if name == b"br" && !self.text.is_empty() {
            self.text.push(if self.counts.pre > 0 { '\n' } else { ' ' });
        }
    }

    /// Ends the block that is being read.
    fn flush(&mut self) {
        let text = std::mem::take(&mut self.text);
        let linked = std::mem::take(&mut self.linked);
        let kind = self.kind.take().unwrap_or(Kind::Paragraph);
        if text.trim().is_empty() {
            return;
        }
        if self.in_cell {
            let text = crate::document::squeeze(&text);
            match self.cells.last_mut().filter(|_| self.counts.table > 0) {
                Some(cell) if cell.ends_with('\u{1}') => {
                    cell.insert_str(cell.len() - 1, &format!("{text} "));
                }
                _ => self.cells.push(format!("{text} \u{1}")),
            }
            return;
        }
        let kind = if self.counts.pre > 0 { Kind::Code } else { kind };
        let share = linked * 100 / text.trim().len().max(1);
        self.push(kind, &text, self.offset, share.min(100) as u8);
    }

    fn cell_end(&mut self) {
        match self.cells.last_mut() {
            Some(cell) if cell.ends_with('\u{1}') => cell.truncate(cell.trim_end_matches(['\u{1}', ' ']).len()),
            _ => {}
        }
        self.in_cell = false;
    }

    fn row(&mut self, offset: usize) {
        self.cell_end();
        let cells = std::mem::take(&mut self.cells);
        if !cells.is_empty() {
            self.push(Kind::Row, &cells.join(" | "), offset, 0);
        }
    }

    fn push(&mut self, kind: Kind, text: &str, offset: usize, link_share: u8) {
        let before = self.out.list_mut().len();
        self.out.push(kind, text, offset, None);
        if self.out.list_mut().len() > before {
            self.about.push((link_share, self.counts.main > 0));
        }
    }

    fn number(&mut self, name: &[u8]) -> u16 {
        if let Some(number) = self.names.get(name) {
            return *number;
        }
        // A page that invents names gets one number for all names past the bound.
        let number = self.opened.len().min(1000) as u16;
        if usize::from(number) == self.opened.len() {
            self.opened.push(0);
        }
        if self.names.len() < 1000 {
            self.names.insert(name.to_vec(), number);
        }
        number
    }

    fn finish(mut self) -> Result<Document, ReadError> {
        self.flush();
        self.row(self.offset);
        let about = std::mem::take(&mut self.about);
        let blocks = std::mem::take(self.out.list_mut());
        self.passed_over |= !blocks.is_empty();
        *self.out.list_mut() = content(blocks, &about);
        if let Some(title) = &self.title {
            self.out.title(title);
        }
        match self.out.finish() {
            // An index or a list of pages is no failure: there is nothing in it to learn.
            Err(error) if error.kind == ReadErrorKind::Empty && self.passed_over => Ok(Document { title: self.title, blocks: Vec::new() }),
            other => other,
        }
    }
}

/// What is left without navigation: the main part where the page marks one, and no runs of links.
fn content(blocks: Vec<Block>, about: &[(u8, bool)]) -> Vec<Block> {
    let main = about.iter().zip(&blocks).any(|((_, main), block)| *main && matches!(block.kind, Kind::Paragraph | Kind::Item { .. }));
    let link = |at: usize| about[at].0 >= 80 && matches!(blocks[at].kind, Kind::Item { .. } | Kind::Paragraph | Kind::Term(_) | Kind::Row);
    let mut keep: Vec<bool> = about.iter().map(|(_, inside)| !main || *inside).collect();
    let mut at = 0;
    while at < blocks.len() {
        let run = (at..blocks.len()).take_while(|i| link(*i) || matches!(blocks[*i].kind, Kind::EndTerms(_))).count();
        if run >= LINK_LIST {
            keep[at..at + run].iter_mut().zip(&blocks[at..at + run]).for_each(|(k, b)| *k &= matches!(b.kind, Kind::EndTerms(_)));
        }
        at += run.max(1);
    }
    blocks.into_iter().zip(keep).filter_map(|(block, keep)| keep.then_some(block)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(html: &str) -> Vec<(Kind, String)> {
        read(html).unwrap().blocks.into_iter().map(|b| (b.kind, b.text)).collect()
    }

    #[test]
    fn structure_is_kept_and_boilerplate_is_not() {
        let html = "<html><head><title>T &amp; t</title><script>if (a<b) {}</script></head><body>\
            <nav><ul><li><a href=x>Home</a></ul></nav><div class='navheader'><table><tr><td>Prev</td></tr></table></div>\
            <header><p>Company wiki</p><h1>Locks</h1></header>\
            <p>One <code>pg_locks</code> view.<p>Two<br>lines.\
            <ol><li><p>first</p><li>second <ul><li>inner</ul></ol>\
            <table><tr><th>a</th><th>b</th></tr><tr><td><p>1</p><p>x</p></td><td>2</td></tr></table>\
            <pre>SELECT 1;\n  -- x</pre><div class=note><h3>Note</h3><p>Beware.</p></div>\
            <dl><dt>work_mem</dt><dd>Memory.</dd></dl><footer>(c) us</footer></body></html>";
        let expected = [
            (Kind::Heading(1), "Locks"),
            (Kind::Paragraph, "One pg_locks view."),
            (Kind::Paragraph, "Two lines."),
            (Kind::Item { depth: 1, ordered: true }, "first"),
            (Kind::Item { depth: 1, ordered: true }, "second"),
            (Kind::Item { depth: 2, ordered: false }, "inner"),
            (Kind::Row, "a | b"),
            (Kind::Row, "1 x | 2"),
            (Kind::Code, "SELECT 1;\n  -- x"),
            (Kind::Paragraph, "Note"),
            (Kind::Paragraph, "Beware."),
            (Kind::Term(1), "work_mem"),
            (Kind::Paragraph, "Memory."),
            (Kind::EndTerms(1), ""),
        ];
        assert_eq!(texts(html), expected.map(|(k, t)| (k, t.to_owned())));
        assert_eq!(read(html).unwrap().title.as_deref(), Some("T & t"));
    }

    #[test]
    fn offsets_lead_into_the_file() {
        let html = "<body><h2>Größe</h2><p>Text &lt;here&gt;</p><h2>Next</h2></body>";
        let document = read(html).unwrap();
        assert!(html[document.blocks[0].offset..].starts_with("Größe"));
        assert!(html[document.blocks[1].offset..].starts_with("Text &lt;"), "{}", document.blocks[1].offset);
        assert!(html[document.blocks[2].offset..].starts_with("Next"));
    }

    #[test]
    fn a_list_of_links_and_what_is_outside_of_the_main_part_are_navigation() {
        let links = "<li><a href=1>Vacuum</a></li>".repeat(6);
        let html = format!("<div>Site name</div><main><h1>A</h1><p>Text.</p><ul>{links}</ul></main><div>Imprint</div>");
        assert_eq!(texts(&html), [(Kind::Heading(1), "A".into()), (Kind::Paragraph, "Text.".into())]);
        assert_eq!(texts(&format!("<ul>{links}</ul>")), []);
    }

    #[test]
    fn broken_and_deep_pages_are_read_in_linear_time() {
        let deep = format!("{}<p>found</p>{}", "<div><b>".repeat(200_000), "</i></section>".repeat(200_000));
        let began = std::time::Instant::now();
        assert_eq!(texts(&deep), [(Kind::Paragraph, "found".into())]);
        assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
        assert_eq!(read("<p></p><!-- only a comment").unwrap_err().kind, ReadErrorKind::Empty);
        assert_eq!(texts("</p></div>a<unclosed").len(), 1);
    }
}
