//! DOCX: paragraphs with their styles, numbered and plain lists, tables; deleted text, fields and contents are left out.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use crate::archive::Archive;
use crate::document::{Blocks, Document, Kind};
use crate::error::ReadError;

/// Reads a file. Offsets are those of the text that was read.
///
/// # Errors
/// As the archive, and `Damaged` where the XML is.
pub fn read(path: &Path) -> Result<Document, ReadError> {
    let mut archive = Archive::open(path)?;
    let styles = if archive.has("word/styles.xml") { styles(&archive.read("word/styles.xml")?)? } else { Styles::default() };
    let numbered = if archive.has("word/numbering.xml") { numbered(&archive.read("word/numbering.xml")?)? } else { HashSet::new() };
    let text = archive.read("word/document.xml")?;
    drop(archive);
    let mut body = Body { styles, numbered, ..Body::default() };
    each(&text, |event| {
        match event {
            Event::Start(tag) => body.start(tag, false),
            Event::Empty(tag) => body.start(tag, true),
            Event::End(tag) => body.end(tag.local_name().as_ref()),
            Event::Text(text) => body.text(&text.xml10_content()),
            Event::CData(text) => body.text(&text.xml10_content()),
            Event::GeneralRef(name) => body.text(&entity(name)),
            _ => {}
        }
        !body.out.overflowed()
    })?;
    body.out.finish()
}

/// Runs through an XML text; entities that it declares itself are never expanded.
pub(crate) fn each(xml: &[u8], mut visit: impl FnMut(&Event<'_>) -> bool) -> Result<(), ReadError> {
    let text = crate::decode::text(xml, crate::html::declared_charset(xml).as_deref())?;
    let mut reader = Reader::from_str(&text);
    reader.config_mut().check_end_names = false;
    loop {
        match reader.read_event().map_err(|e| ReadError::damaged(format!("its XML is broken at byte {}: {e}", reader.error_position())))? {
            Event::Eof => return Ok(()),
            event => {
                if !visit(&event) {
                    return Ok(());
                }
            }
        }
    }
}

/// What an entity stands for: characters and the five that XML has; others are nothing.
pub(crate) fn entity(name: &quick_xml::events::BytesRef<'_>) -> String {
    if let Ok(Some(c)) = name.resolve_char_ref() {
        return c.to_string();
    }
    quick_xml::escape::resolve_predefined_entity(&name.xml10_content()).unwrap_or_default().to_owned()
}

/// An attribute by its local name.
pub(crate) fn attribute(tag: &BytesStart<'_>, name: &str) -> Option<String> {
    let found = tag.attributes().with_checks(false).flatten().find(|a| a.key.local_name().as_ref() == name)?;
    Some(found.value.to_string())
}

/// Styles by id: the level of those that are headings, and those of a table of contents.
#[derive(Default)]
struct Styles {
    level: HashMap<String, u8>,
    contents: HashSet<String>,
}

fn styles(xml: &[u8]) -> Result<Styles, ReadError> {
    let mut styles = Styles::default();
    let mut based: HashMap<String, String> = HashMap::new();
    let mut id = String::new();
    each(xml, |event| {
        let (Event::Start(tag) | Event::Empty(tag)) = event else { return true };
        let value = || attribute(tag, "val").unwrap_or_default();
        match tag.local_name().as_ref() {
            "style" => id = attribute(tag, "styleId").unwrap_or_default(),
            "name" => {
                let name = value().to_ascii_lowercase();
                let level = name.strip_prefix("heading ").or_else(|| name.strip_prefix("标题 ")).and_then(|n| n.trim().parse::<u8>().ok());
                if let Some(level) = level {
                    styles.level.insert(id.clone(), level);
                } else if name == "title" || name == "标题" {
                    styles.level.insert(id.clone(), 0);
                } else if name.starts_with("toc") || name.starts_with("table of") {
                    styles.contents.insert(id.clone());
                }
            }
            "basedOn" => drop(based.insert(id.clone(), value())),
            "outlineLvl" => {
                if let Ok(level) = value().parse::<u8>() {
                    styles.level.entry(id.clone()).or_insert(level.saturating_add(1));
                }
            }
            _ => {}
        }
        true
    })?;
    // A style of one's own, made from a heading, is a heading; ten steps are more than anybody takes.
    for start in based.keys() {
        let mut at = start;
        for _ in 0..10 {
            if let Some(level) = styles.level.get(at).copied() {
                styles.level.insert(start.clone(), level);
                break;
            }
            let Some(next) = based.get(at) else { break };
            at = next;
        }
    }
    Ok(styles)
}

/// Lists (their number and level) that count; the others have bullets.
fn numbered(xml: &[u8]) -> Result<HashSet<(String, String)>, ReadError> {
    let mut kinds: HashSet<(String, String)> = HashSet::new();
    let mut out = HashSet::new();
    let (mut definition, mut level, mut list) = (String::new(), String::new(), String::new());
    each(xml, |event| {
        let (Event::Start(tag) | Event::Empty(tag)) = event else { return true };
        let value = || attribute(tag, "val").unwrap_or_default();
        match tag.local_name().as_ref() {
            "abstractNum" => definition = attribute(tag, "abstractNumId").unwrap_or_default(),
            "lvl" => level = attribute(tag, "ilvl").unwrap_or_default(),
            "numFmt" if !matches!(value().as_str(), "bullet" | "none") => drop(kinds.insert((definition.clone(), level.clone()))),
            "num" => list = attribute(tag, "numId").unwrap_or_default(),
            "abstractNumId" => {
                let definition = value();
                out.extend(kinds.iter().filter(|(d, _)| *d == definition).map(|(_, level)| (list.clone(), level.clone())));
            }
            _ => {}
        }
        true
    })?;
    Ok(out)
}

#[derive(Default)]
struct Body {
    styles: Styles,
    numbered: HashSet<(String, String)>,
    out: Blocks,
    text: String,
    style: Option<String>,
    outline: Option<u8>,
    list: Option<(String, String)>,
    /// Open elements whose content is not read.
    skip: u32,
    in_text: bool,
    /// Open tables, and the cells of the outermost one's row.
    tables: u32,
    cells: Vec<String>,
}

/// Elements whose content is not part of the text as it reads.
fn skipped(name: &str) -> bool {
    matches!(name, "del" | "moveFrom" | "instrText" | "delText" | "Fallback" | "footnotePr" | "rPrChange" | "pPrChange")
}

impl Body {
    fn start(&mut self, tag: &BytesStart<'_>, empty: bool) {
        let name = tag.local_name();
        let name = name.as_ref();
        if skipped(name) {
            self.skip += u32::from(!empty);
            return;
        }
        let value = || attribute(tag, "val").unwrap_or_default();
        match name {
            "t" => self.in_text = !empty,
            "tab" | "br" | "cr" => self.text.push(' '),
            "noBreakHyphen" => self.text.push('-'),
            "pStyle" => self.style = Some(value()),
            "outlineLvl" => self.outline = value().parse::<u8>().ok().filter(|l| *l < 9).map(|l| l + 1),
            "ilvl" => self.list.get_or_insert_default().1 = value(),
            "numId" => self.list.get_or_insert_default().0 = value(),
            "tbl" if !empty => self.tables += 1,
            "tc" if self.tables == 1 && !empty => self.cells.push(String::new()),
            _ => {}
        }
    }

    fn end(&mut self, name: &str) {
        if skipped(name) {
            self.skip = self.skip.saturating_sub(1);
            return;
        }
        match name {
            "t" => self.in_text = false,
            "p" => self.paragraph(),
            "tbl" => self.tables = self.tables.saturating_sub(1),
            "tr" if self.tables == 1 => {
                let cells: Vec<String> = std::mem::take(&mut self.cells).iter().map(|cell| cell.trim().to_owned()).collect();
                if cells.iter().any(|cell| !cell.is_empty()) {
                    self.out.push(Kind::Row, &cells.join(" | "), self.out.bytes(), None);
                }
            }
            _ => {}
        }
    }

    fn text(&mut self, text: &str) {
        if self.in_text && self.skip == 0 && self.text.len() < crate::document::MOST_TEXT {
            self.text.push_str(text);
        }
    }

    fn paragraph(&mut self) {
        let text = std::mem::take(&mut self.text);
        let style = self.style.take().unwrap_or_default();
        let outline = self.outline.take();
        let list = self.list.take().filter(|(list, _)| list != "0");
        if self.styles.contents.contains(&style) {
            return;
        }
        if self.tables > 0 {
            if let Some(cell) = self.cells.last_mut() {
                cell.push_str(&text);
                cell.push(' ');
            }
            return;
        }
        let kind = match outline.or_else(|| self.styles.level.get(&style).copied()) {
            Some(0) => {
                self.out.title(&text);
                Kind::Heading(1)
            }
            Some(level) => Kind::Heading(level),
            None => match list {
                Some((list, level)) => {
                    let depth = level.parse::<u8>().unwrap_or(0).min(98) + 1;
                    Kind::Item { depth, ordered: self.numbered.contains(&(list, level)) }
                }
                None if style.starts_with("ListBullet") => Kind::Item { depth: 1, ordered: false },
                None if style.starts_with("ListNumber") => Kind::Item { depth: 1, ordered: true },
                None if style.to_ascii_lowercase().contains("code") => Kind::Code,
                None => Kind::Paragraph,
            },
        };
        self.out.push(kind, &text, self.out.bytes(), None);
    }
}
