//! EPUB: the chapters in the order of the spine, each read as a page of HTML; covers and contents are left out.

use std::collections::HashMap;
use std::path::Path;

use quick_xml::events::Event;

use crate::archive::Archive;
use crate::decode;
use crate::document::{Blocks, Document};
use crate::docx::{attribute, each, entity};
use crate::error::{ReadError, ReadErrorKind};
use crate::html;

/// Reads a book. Offsets are those in its chapters, one after another.
///
/// # Errors
/// As the archive; `Encrypted` where the publisher has locked it; `Damaged` where no chapter can be found.
pub fn read(path: &Path) -> Result<Document, ReadError> {
    let mut archive = Archive::open(path)?;
    let package = package_path(&archive.read("META-INF/container.xml")?)?;
    let package_text = archive.read(&package)?;
    let book = Package::read(&package_text, package.rsplit_once('/').map_or("", |(folder, _)| folder))?;
    if archive.has("META-INF/encryption.xml") {
        let locked = String::from_utf8_lossy(&archive.read("META-INF/encryption.xml")?).into_owned();
        // Fonts may be obscured in an open book; a locked chapter is a locked book.
        if book.chapters.iter().any(|chapter| locked.contains(chapter.as_str())) {
            return Err(ReadError::new(ReadErrorKind::Encrypted, "its chapters are encrypted (DRM)"));
        }
    }
    let mut out = Blocks::default();
    out.title(&book.title);
    let mut base = 0;
    for chapter in &book.chapters {
        let bytes = archive.read(chapter)?;
        let text = decode::text(&bytes, html::declared_charset(&bytes).as_deref())?;
        match html::read(&text) {
            Ok(part) => out.append(part, base),
            // A cover is a picture.
            Err(error) if error.kind == ReadErrorKind::Empty => {}
            Err(error) => return Err(error),
        }
        base += text.len();
        if out.overflowed() {
            break;
        }
    }
    out.finish()
}

fn package_path(container: &[u8]) -> Result<String, ReadError> {
    let mut found = None;
    each(container, |event| {
        if let Event::Start(tag) | Event::Empty(tag) = event
            && tag.local_name().as_ref() == "rootfile"
        {
            found = attribute(tag, "full-path");
        }
        found.is_none()
    })?;
    found.ok_or_else(|| ReadError::damaged("its container names no package"))
}

struct Package {
    title: String,
    chapters: Vec<String>,
}

impl Package {
    fn read(xml: &[u8], folder: &str) -> Result<Self, ReadError> {
        let mut pages: HashMap<String, String> = HashMap::new();
        let mut spine = Vec::new();
        let (mut title, mut in_title) = (String::new(), false);
        each(xml, |event| {
            match event {
                Event::Start(tag) | Event::Empty(tag) => match tag.local_name().as_ref() {
                    "title" => in_title = title.is_empty() && matches!(event, Event::Start(_)),
                    "item" => {
                        let value = |name| attribute(tag, name).unwrap_or_default();
                        let contents = value("properties").split(' ').any(|p| p == "nav" || p == "cover-image");
                        if value("media-type").contains("html") && !contents {
                            pages.insert(value("id"), join(folder, &value("href")));
                        }
                    }
                    "itemref" if spine.len() < 100_000 => spine.push(attribute(tag, "idref").unwrap_or_default()),
                    _ => {}
                },
                Event::End(_) => in_title = false,
                Event::Text(text) if in_title => title.push_str(&text.xml10_content()),
                Event::GeneralRef(name) if in_title => title.push_str(&entity(name)),
                _ => {}
            }
            true
        })?;
        let chapters: Vec<String> = spine.iter().filter_map(|id| pages.get(id).cloned()).collect();
        if chapters.is_empty() {
            return Err(ReadError::damaged("its package lists no chapters"));
        }
        Ok(Self { title, chapters })
    }
}

/// A reference of the package as a name in the archive: relative to its folder, `%20` and the like resolved.
fn join(folder: &str, reference: &str) -> String {
    let bytes = reference.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let code = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                plain.push(code);
                at += 3;
            }
            _ => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
    let plain = String::from_utf8_lossy(&plain);
    let mut parts: Vec<&str> = folder.split('/').filter(|p| !p.is_empty()).collect();
    for part in plain.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    #[test]
    fn references_are_resolved_inside_the_archive() {
        assert_eq!(super::join("OEBPS", "text/ch%201.xhtml"), "OEBPS/text/ch 1.xhtml");
        assert_eq!(super::join("OEBPS/p", "../x.xhtml"), "OEBPS/x.xhtml");
        assert_eq!(super::join("", "../../etc/passwd"), "etc/passwd");
    }
}
