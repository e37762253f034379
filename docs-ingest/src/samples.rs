//! Documents for tests, made by the tests: archives by the ZIP writer, PDFs by hand.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use zip::write::SimpleFileOptions;

/// Writes an archive.
pub fn archive(path: &Path, entries: &[(&str, &[u8])]) {
    let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
    for (name, bytes) in entries {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

const STYLES: &str = r#"<w:styles xmlns:w="x"><w:style w:styleId="Titel"><w:name w:val="Title"/></w:style>
<w:style w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>
<w:style w:styleId="Mine"><w:name w:val="Our heading"/><w:basedOn w:val="berschrift1"/></w:style>
<w:style w:styleId="TOC1"><w:name w:val="toc 1"/></w:style></w:styles>"#;
const NUMBERING: &str = r#"<w:numbering xmlns:w="x"><w:abstractNum w:abstractNumId="7"><w:lvl w:ilvl="0"><w:numFmt w:val="decimal"/></w:lvl></w:abstractNum>
<w:abstractNum w:abstractNumId="8"><w:lvl w:ilvl="0"><w:numFmt w:val="bullet"/></w:lvl></w:abstractNum>
<w:num w:numId="1"><w:abstractNumId w:val="7"/></w:num><w:num w:numId="2"><w:abstractNumId w:val="8"/></w:num></w:numbering>"#;

/// A paragraph of WordprocessingML.
pub fn paragraph(properties: &str, text: &str) -> String {
    format!("<w:p><w:pPr>{properties}</w:pPr><w:r><w:t xml:space=\"preserve\">{text}</w:t></w:r></w:p>")
}

/// Writes a Word file with styles and lists of its own.
pub fn docx(path: &Path, body: &str) {
    let document = format!(r#"<?xml version="1.0" encoding="UTF-8"?><w:document xmlns:w="x"><w:body>{body}</w:body></w:document>"#);
    let entries: [(&str, &[u8]); 4] = [
        ("[Content_Types].xml", b"<Types/>"),
        ("word/document.xml", document.as_bytes()),
        ("word/styles.xml", STYLES.as_bytes()),
        ("word/numbering.xml", NUMBERING.as_bytes()),
    ];
    archive(path, &entries);
}

/// Writes a book of chapters; `extra` are further entries.
pub fn epub(path: &Path, chapters: &[&str], extra: &[(&str, &[u8])]) {
    let container = br#"<container><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>"#;
    let items: String = (0..chapters.len())
        .map(|n| format!(r#"<item id="c{n}" href="text/ch%20{n}.xhtml" media-type="application/xhtml+xml"/>"#))
        .collect();
    // The spine turns the order of the list around.
    let spine: String = (0..chapters.len()).rev().map(|n| format!(r#"<itemref idref="c{n}"/>"#)).collect();
    let package = format!(
        r#"<package><metadata><dc:title>Locks &amp; waits</dc:title></metadata><manifest>{items}
        <item id="nav" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/></manifest><spine><itemref idref="nav"/>{spine}</spine></package>"#
    );
    let names: Vec<String> = (0..chapters.len()).map(|n| format!("OEBPS/text/ch {n}.xhtml")).collect();
    let mut entries: Vec<(&str, &[u8])> = vec![
        ("mimetype", b"application/epub+zip"),
        ("META-INF/container.xml", container),
        ("OEBPS/book.opf", package.as_bytes()),
        ("OEBPS/nav.xhtml", b"<html><body><p>Contents</p></body></html>"),
    ];
    entries.extend(names.iter().map(String::as_str).zip(chapters.iter().map(|c| c.as_bytes())));
    entries.extend(extra);
    archive(path, &entries);
}

/// A PDF of objects, numbered from 1; the first is the catalogue.
pub fn pdf(objects: &[Vec<u8>], trailer: &str) -> Vec<u8> {
    let mut out = b"%PDF-1.5\n".to_vec();
    let mut places = Vec::new();
    for (at, object) in objects.iter().enumerate() {
        places.push(out.len());
        out.extend(format!("{} 0 obj\n", at + 1).bytes());
        out.extend(object);
        out.extend(b"\nendobj\n");
    }
    let table = out.len();
    out.extend(format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1).bytes());
    places.iter().for_each(|place| out.extend(format!("{place:010} 00000 n \n").bytes()));
    out.extend(format!("trailer\n<< /Size {} /Root 1 0 R {trailer} >>\nstartxref\n{table}\n%%EOF\n", objects.len() + 1).bytes());
    out
}

/// A stream object.
pub fn stream(dictionary: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = format!("<< {dictionary} /Length {} >>\nstream\n", bytes.len()).into_bytes();
    out.extend(bytes);
    out.extend(b"\nendstream");
    out
}

/// Objects of a document with these pages: one standard font in two weights, and one for Chinese with its own table.
pub fn pages(contents: &[String]) -> Vec<Vec<u8>> {
    let fonts = "<< /Font << /F1 3 0 R /F2 4 0 R /F3 5 0 R >> >>";
    let first = 8;
    let kids: String = (0..contents.len()).map(|n| format!("{} 0 R ", first + 2 * n)).collect();
    let map = b"/CIDInit /ProcSet findresource begin\n12 dict begin\nbegincmap\n/CIDSystemInfo\n<< /Registry (Adobe)\n/Ordering (UCS)\n\
        /Supplement 0\n>> def\n/CMapName /Adobe-Identity-UCS def\n/CMapType 2 def\n1 begincodespacerange\n<0000> <FFFF>\nendcodespacerange\n\
        4 beginbfchar\n<0001> <6B7B>\n<0002> <9501>\n<0003> <68C0>\n<0004> <6D4B>\nendbfchar\nendcmap\n\
        CMapName currentdict /CMap defineresource pop\nend\nend";
    let mut objects = vec![
        b"<< /Type /Catalog /Pages 2 0 R >>".to_vec(),
        format!("<< /Type /Pages /Kids [ {kids}] /Count {} /Resources {fonts} >>", contents.len()).into_bytes(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>".to_vec(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica-Bold /Encoding /WinAnsiEncoding >>".to_vec(),
        b"<< /Type /Font /Subtype /Type0 /BaseFont /Song /Encoding /Identity-H /DescendantFonts [6 0 R] /ToUnicode 7 0 R >>".to_vec(),
        b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Song /CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> /DW 1000 >>"
            .to_vec(),
        stream("", map),
    ];
    for (n, content) in contents.iter().enumerate() {
        objects.push(format!("<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {} 0 R >>", first + 2 * n + 1).into_bytes());
        objects.push(stream("", content.as_bytes()));
    }
    objects
}

/// One line of text on a page.
pub fn line(font: &str, size: f32, y: f32, text: &str) -> String {
    format!("BT /{font} {size} Tf 1 0 0 1 50 {y} Tm {text} Tj ET\n")
}
