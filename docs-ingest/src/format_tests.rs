//! Every format from real files: what is read of them, and what is said of those that cannot be read.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::document::{Document, Kind};
use crate::error::ReadErrorKind;
use crate::read::{Reading, read};
use crate::samples::{archive, docx, epub, line, pages, paragraph, pdf, stream};

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    (folder, path)
}

fn texts(document: &Document) -> Vec<(Kind, &str)> {
    document.blocks.iter().map(|b| (b.kind, b.text.as_str())).collect()
}

fn refused(path: &Path) -> (ReadErrorKind, String) {
    let error = read(path, &Reading::default()).unwrap_err();
    assert!(!error.message.is_empty() && !error.message.contains('\n') && error.message.len() < 320, "{error}");
    (error.kind, error.message)
}

#[test]
fn word_files_have_headings_lists_and_tables() {
    let (_keep, root) = folder();
    let path = root.join("a.docx");
    let style = |name: &str| format!("<w:pStyle w:val=\"{name}\"/>");
    let list = |number: u8| format!("<w:numPr><w:ilvl w:val=\"0\"/><w:numId w:val=\"{number}\"/></w:numPr>");
    let cell = |text: &str| format!("<w:tc>{}</w:tc>", paragraph("", text));
    let body = [
        paragraph(&style("Titel"), "Runbook"),
        paragraph(&style("TOC1"), "Locks ... 3"),
        paragraph(&style("Mine"), "死锁 &amp; locks"),
        "<w:p><w:r><w:t>Kept </w:t></w:r><w:del><w:r><w:delText>deleted</w:delText></w:r></w:del><w:r><w:instrText>PAGE</w:instrText><w:t>text</w:t></w:r></w:p>".to_owned(),
        paragraph(&list(1), "look"),
        paragraph(&list(2), "or wait"),
        format!("<w:tbl><w:tr>{}{}</w:tr><w:tr>{}{}</w:tr></w:tbl>", cell("view"), cell("shows"), cell("pg_locks"), cell("who waits")),
    ];
    docx(&path, &body.concat());
    let document = read(&path, &Reading::default()).unwrap();
    let expected = [
        (Kind::Heading(1), "Runbook"),
        (Kind::Heading(1), "死锁 & locks"),
        (Kind::Paragraph, "Kept text"),
        (Kind::Item { depth: 1, ordered: true }, "look"),
        (Kind::Item { depth: 1, ordered: false }, "or wait"),
        (Kind::Row, "view | shows"),
        (Kind::Row, "pg_locks | who waits"),
    ];
    assert_eq!((texts(&document), document.title.as_deref()), (expected.to_vec(), Some("Runbook")));
}

#[test]
fn books_are_read_in_the_order_of_their_spine() {
    let (_keep, root) = folder();
    let path = root.join("a.epub");
    epub(&path, &["<html><body><h1>Second</h1><p>b</p></body></html>", "<html><body><h1>First</h1><p>a</p></body></html>"], &[]);
    let document = read(&path, &Reading::default()).unwrap();
    let expected = [(Kind::Heading(1), "First"), (Kind::Paragraph, "a"), (Kind::Heading(1), "Second"), (Kind::Paragraph, "b")];
    assert_eq!((texts(&document), document.title.as_deref()), (expected.to_vec(), Some("Locks & waits")));
    assert!(document.blocks[2].offset > document.blocks[1].offset);
    let locked = br#"<encryption><EncryptedData><CipherReference URI="OEBPS/text/ch 0.xhtml"/></EncryptedData></encryption>"#;
    epub(&path, &["<p>x</p>"], &[("META-INF/encryption.xml", locked)]);
    assert_eq!(refused(&path).0, ReadErrorKind::Encrypted);
}

/// Three pages with a running head and a page number each.
fn three_pages() -> Vec<String> {
    let page = |n: u32, body: String| line("F1", 9.0, 780.0, "(Operations manual)") + &body + &line("F1", 9.0, 20.0, &format!("(- {n} -)"));
    vec![
        page(
            1,
            line("F2", 20.0, 740.0, "(Locks and waits)")
                + &line("F1", 10.0, 700.0, "(Sessions that wait for a lock of another ses-)")
                + &line("F1", 10.0, 688.0, "(sion are blocked, and stay so.)")
                + &line("F1", 10.0, 660.0, "(A second paragraph in \\(running\\) text that is long enough to be the body.)"),
        ),
        page(
            2,
            line("F2", 14.0, 740.0, "(1.1 Deadlocks)")
                + "BT /F1 10 Tf 1 0 0 1 50 700 Tm [(One)-400(word)-400(after)] TJ 0 -12 Td (another, as typesetters do it.) Tj ET\n"
                + &line("F2", 10.0, 670.0, "(Resolution)")
                + &line("F1", 10.0, 650.0, "(1. End one session.)")
                + &line("F1", 10.0, 638.0, "(2. Take locks in one order.)"),
        ),
        page(
            3,
            line("F3", 20.0, 740.0, "<0001000200030004>")
                + &line("F1", 10.0, 700.0, "(Body text again, of the usual size, and some more of it.)"),
        ),
    ]
}

#[test]
fn a_pdf_has_headings_by_size_and_no_running_heads() {
    let (_keep, root) = folder();
    let path = root.join("a.pdf");
    fs::write(&path, pdf(&pages(&three_pages()), "")).unwrap();
    let document = read(&path, &Reading::default()).unwrap();
    let expected = [
        (Kind::Heading(1), "Locks and waits"),
        (Kind::Paragraph, "Sessions that wait for a lock of another session are blocked, and stay so."),
        (Kind::Paragraph, "A second paragraph in (running) text that is long enough to be the body."),
        (Kind::Heading(2), "1.1 Deadlocks"),
        (Kind::Paragraph, "One word after another, as typesetters do it."),
        (Kind::Heading(3), "Resolution"),
        (Kind::Item { depth: 1, ordered: true }, "End one session."),
        (Kind::Item { depth: 1, ordered: true }, "Take locks in one order."),
        (Kind::Heading(1), "死锁检测"),
        (Kind::Paragraph, "Body text again, of the usual size, and some more of it."),
    ];
    assert_eq!(texts(&document), expected);
    assert_eq!(document.blocks.iter().map(|b| b.page).collect::<Vec<_>>(), [1, 1, 1, 2, 2, 2, 2, 2, 3, 3].map(Some));
}

#[test]
fn a_pdf_that_cannot_be_read_says_why() {
    let (_keep, root) = folder();
    let path = root.join("a.pdf");
    let whole = pdf(&pages(&three_pages()), "");
    let encryption = "/Encrypt << /Filter /Standard /V 1 /R 2 /P -1 /O (aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa) /U (bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb) >> /ID [(x) (x)]";
    for (bytes, kind) in [
        (pdf(&pages(&three_pages()), encryption), ReadErrorKind::Encrypted),
        (pdf(&pages(&["0 0 100 100 re f".to_owned()]), ""), ReadErrorKind::Empty),
        (whole[..60].to_vec(), ReadErrorKind::Damaged),
        (b"%PDF-1.7\nnothing".to_vec(), ReadErrorKind::Damaged),
        (b"not a pdf".to_vec(), ReadErrorKind::Damaged),
    ] {
        fs::write(&path, bytes).unwrap();
        assert_eq!(refused(&path).0, kind, "{:?}", refused(&path));
    }
    // Cross references that lead nowhere are mended, as every viewer does.
    let mut broken = whole.clone();
    let table = broken.windows(9).rposition(|w| w == b"startxref").unwrap();
    broken.truncate(table);
    fs::write(&path, broken).unwrap();
    assert!(read(&path, &Reading::default()).is_ok_and(|d| d.blocks.len() > 5));
}

#[test]
fn bombs_are_not_unpacked() {
    let (_keep, root) = folder();
    let zeros = vec![b' '; 200 << 20];
    let path = root.join("a.docx");
    archive(&path, &[("word/document.xml", &zeros)]);
    assert!(fs::metadata(&path).unwrap().len() < 1 << 20);
    assert_eq!(refused(&path).0, ReadErrorKind::TooLarge);
    // Many entries, each of a size that is allowed.
    let path = root.join("a.epub");
    let chapter = format!("<html><body><p>{}</p></body></html>", " ".repeat(40 << 20));
    epub(&path, &[chapter.as_str(); 5], &[]);
    assert_eq!(refused(&path).0, ReadErrorKind::TooLarge);
    // A stream of a PDF.
    let path = root.join("a.pdf");
    let mut squeezed = zip_deflate(&zeros);
    squeezed.splice(0..0, [0x78, 0x9c]);
    squeezed.extend(adler(&zeros).to_be_bytes());
    let mut objects = pages(&["".to_owned()]);
    let last = objects.len() - 1;
    objects[last] = stream("/Filter /FlateDecode", &squeezed);
    fs::write(&path, pdf(&objects, "")).unwrap();
    assert_eq!(refused(&path).0, ReadErrorKind::TooLarge);
}

/// Deflated bytes, taken out of an archive.
fn zip_deflate(bytes: &[u8]) -> Vec<u8> {
    let (_keep, root) = folder();
    let path = root.join("z");
    archive(&path, &[("x", bytes)]);
    let mut zip = zip::ZipArchive::new(File::open(&path).unwrap()).unwrap();
    let mut out = Vec::new();
    std::io::Read::read_to_end(&mut zip.by_index_raw(0).unwrap(), &mut out).unwrap();
    out
}

fn adler(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    b << 16 | a
}

#[test]
fn what_is_no_document_is_told_in_a_line() {
    let (_keep, root) = folder();
    let huge = root.join("huge.txt");
    File::create(&huge).unwrap().set_len(2 << 30).unwrap();
    assert!(refused(&huge).1.contains("2048 MB"), "{:?}", refused(&huge));
    let compound = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1rest";
    let mut many = b"PK\x03\x04".to_vec();
    many.extend(b"PK\x01\x02".repeat(30_000));
    let cases: [(&str, &[u8], ReadErrorKind); 9] = [
        ("empty.md", b"", ReadErrorKind::Empty),
        ("blank.txt", b" \n\n ", ReadErrorKind::Empty),
        ("binary.txt", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0", ReadErrorKind::Encoding),
        ("cut.docx", b"PK\x03\x04 and then nothing", ReadErrorKind::Damaged),
        ("text.docx", b"just text", ReadErrorKind::Damaged),
        ("locked.docx", compound, ReadErrorKind::Encrypted),
        ("old.doc", compound, ReadErrorKind::Unsupported),
        ("any.zip", b"PK\x03\x04", ReadErrorKind::Unsupported),
        ("many.docx", &many, ReadErrorKind::TooLarge),
    ];
    for (name, bytes, kind) in cases {
        let path = root.join(name);
        fs::write(&path, bytes).unwrap();
        assert_eq!(refused(&path).0, kind, "{name}: {}", refused(&path).1);
    }
    assert_eq!(refused(&root.join("gone.md")).0, ReadErrorKind::Vanished);
    assert_eq!(refused(&root).0, ReadErrorKind::Unsupported);
}

#[test]
fn ten_thousand_levels_are_read_or_refused() {
    let (_keep, root) = folder();
    let deep = 10_000;
    let html = root.join("a.html");
    fs::write(&html, format!("{}<p>deep</p>", "<div><ul><li>".repeat(deep))).unwrap();
    assert!(read(&html, &Reading::default()).unwrap().blocks.iter().any(|b| b.text == "deep"));
    let word = root.join("a.docx");
    docx(&word, &format!("{}{}{}", "<w:tbl><w:tr><w:tc>".repeat(deep), paragraph("", "deep"), "</w:tc></w:tr></w:tbl>".repeat(deep)));
    assert_eq!(texts(&read(&word, &Reading::default()).unwrap()), [(Kind::Row, "deep")]);
    let path = root.join("a.pdf");
    let mut objects = pages(&[line("F1", 10.0, 700.0, "(Shallow text)")]);
    objects.push([b"[".repeat(deep), b"]".repeat(deep)].concat());
    objects.push(format!("{}{}", "<< /A ".repeat(deep), ">>".repeat(deep)).into_bytes());
    fs::write(&path, pdf(&objects, "")).unwrap();
    let _ = read(&path, &Reading::default()).map(|d| assert_eq!(texts(&d), [(Kind::Paragraph, "Shallow text")]));
    let operations = format!("{}{}", "[".repeat(deep), "q ".repeat(deep)) + &line("F1", 10.0, 700.0, "(Text)");
    fs::write(&path, pdf(&pages(&[operations]), "")).unwrap();
    let _ = read(&path, &Reading::default());
}

#[test]
fn entities_of_a_files_own_are_not_expanded() {
    let (_keep, root) = folder();
    let path = root.join("a.docx");
    let bomb = "<!DOCTYPE d [<!ENTITY a \"0123456789\"><!ENTITY b \"&a;&a;&a;&a;&a;\">]><w:document><w:body><w:p><w:r><w:t>x &b; y</w:t></w:r></w:p></w:body></w:document>";
    archive(&path, &[("word/document.xml", bomb.as_bytes())]);
    assert_eq!(texts(&read(&path, &Reading::default()).unwrap()), [(Kind::Paragraph, "x y")]);
}

#[test]
fn text_is_told_by_content_where_the_name_says_nothing() {
    let (_keep, root) = folder();
    let path = root.join("PAGE");
    fs::write(&path, "<!DOCTYPE html><h1>T</h1><p>x</p>").unwrap();
    assert_eq!(read(&path, &Reading::default()).unwrap().blocks.len(), 2);
    let path = root.join("zh.txt");
    let (bytes, _, _) = encoding_rs::GB18030.encode("第一章 死锁\n会话互相等待对方持有的锁。\n");
    File::create(&path).unwrap().write_all(&bytes).unwrap();
    let document = read(&path, &Reading::default()).unwrap();
    assert_eq!(texts(&document), [(Kind::Heading(1), "第一章 死锁"), (Kind::Paragraph, "会话互相等待对方持有的锁。")]);
}

mod any_bytes {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::default())]

        #[test]
        fn readers_never_panic_and_keep_their_bounds(text in "(<[a-z/!]{0,6}( [a-z]{1,5}=[\"']?[a-z]{0,6})?>?|[#>|*`\\-=\\[\\]()&;\\n ]{0,4}|[a-zé中。]{0,8}){0,80}") {
            for document in [crate::html::read(&text), crate::markdown::read(&text), crate::plain::read(&text)].into_iter().flatten() {
                for block in &document.blocks {
                    prop_assert!(block.offset <= text.len());
                }
                for piece in crate::section::cut(&document) {
                    prop_assert!(crate::section::tokens(&piece.text) <= crate::section::MOST_TOKENS);
                }
            }
        }

        #[test]
        fn whatever_a_page_draws_is_read_or_refused(drawn in "(BT|ET|q|Q|Tj|TJ|Td|TD|Tm|T\\*|Tf|'|cm|Do|BI|ID|EI|/F[0-9]|\\([a-z\\\\()]{0,6}\\)?|<[0-9a-fA-F]{0,9}>?|\\[|\\]|<<|>>|-?[0-9]{0,12}\\.?[0-9]{0,3}|[ \\n%]){0,60}") {
            let (_keep, root) = folder();
            let path = root.join("a.pdf");
            fs::write(&path, pdf(&pages(&[line("F1", 10.0, 700.0, "(Text)") + &drawn]), "")).unwrap();
            if let Err(error) = read(&path, &Reading::default()) {
                prop_assert_ne!(error.kind, ReadErrorKind::Fault, "{}", error);
            }
        }

        #[test]
        fn a_damaged_file_is_an_error_and_no_panic(at in 0usize..4000, byte: u8, cut in 0usize..4000, which in 0usize..3) {
            let (_keep, root) = folder();
            let path = root.join(["a.pdf", "a.docx", "a.epub"][which]);
            match which {
                0 => fs::write(&path, pdf(&pages(&three_pages()), "")).unwrap(),
                1 => docx(&path, &paragraph("", "text")),
                _ => epub(&path, &["<p>x</p>"], &[]),
            }
            let mut bytes = fs::read(&path).unwrap();
            let length = bytes.len();
            bytes[at % length] = byte;
            bytes.truncate((cut + length / 2).min(length));
            fs::write(&path, bytes).unwrap();
            if let Err(error) = read(&path, &Reading::default()) {
                prop_assert_ne!(error.kind, ReadErrorKind::Fault, "{}", error);
            }
        }
    }
}

/// Files that word processors wrote, of a text of our own. Made once:
///
/// ```sh
/// cd docs-ingest/testdata
/// pandoc handbook.md -o handbook.docx
/// pandoc handbook.md -o handbook.epub
/// sed '/^## 长/,$d' handbook.md | pandoc -f markdown -o en.docx
/// soffice --headless --convert-to pdf en.docx && mv en.pdf handbook.pdf && rm en.docx
/// soffice --headless --convert-to pdf columns.fodt
/// ```
mod real_tools {
    use super::*;

    fn sample(name: &str) -> Document {
        read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name), &Reading::default()).unwrap()
    }

    fn headings(document: &Document) -> Vec<&str> {
        document.blocks.iter().filter(|b| matches!(b.kind, Kind::Heading(_))).map(|b| b.text.as_str()).collect()
    }

    const HEADINGS: [&str; 6] = ["Locks", "Deadlocks", "Waiting for a lock", "Storage", "Temporary files", "长事务"];

    /// What every format keeps of the handbook. A PDF has no rows, and its code and lists are lines.
    fn keeps_the_handbook(document: &Document, rows: bool) {
        let has = |kind: fn(&Kind) -> bool, text: &str| document.blocks.iter().any(|b| kind(&b.kind) && b.text.contains(text));
        let item = |kind: &Kind| matches!(kind, Kind::Item { .. });
        assert!(has(|kind| matches!(kind, Kind::Item { ordered: true, .. }), "Read both statements in the log."), "{document:?}");
        assert!(has(item, "Ask who blocks it with pg_blocking_pids."), "{document:?}");
        assert!(has(|kind| *kind == Kind::Paragraph, "SQLSTATE 40P01 to its log."), "{document:?}");
        assert!(has(|_| true, "SELECT datname, temp_bytes FROM pg_stat_database;"), "{document:?}");
        let row = if rows { "pg_locks | every lock, granted or not" } else { "pg_locks every lock, granted or not" };
        assert!(document.blocks.iter().any(|b| (!rows || b.kind == Kind::Row) && b.text.contains(row)), "{document:?}");
    }

    #[test]
    fn a_word_file_of_pandocs() {
        let document = sample("handbook.docx");
        // The title stands at the head of the text, too.
        assert_eq!((&headings(&document)[1..], document.title.as_deref()), (&HEADINGS[..], Some("Handbook of the night shift")));
        keeps_the_handbook(&document, true);
    }

    #[test]
    fn a_book_of_pandocs() {
        let document = sample("handbook.epub");
        let found = headings(&document);
        assert!(HEADINGS.iter().all(|heading| found.contains(heading)), "{found:?}");
        assert_eq!(document.title.as_deref(), Some("Handbook of the night shift"));
        keeps_the_handbook(&document, true);
    }

    #[test]
    fn a_pdf_of_a_word_processor() {
        let document = sample("handbook.pdf");
        let found = headings(&document);
        assert!(HEADINGS[..5].iter().all(|heading| found.contains(heading)), "{found:?}");
        keeps_the_handbook(&document, false);
    }

    #[test]
    fn columns_of_a_pdf_are_read_one_after_the_other_and_a_table_in_rows() {
        let document = sample("columns.pdf");
        let last = "Settings that are worth a look before anything else is changed";
        assert_eq!(headings(&document), ["Two columns and a table", "Vacuum", "Checkpoints", last]);
        let text: Vec<&str> = document.blocks.iter().map(|b| b.text.as_str()).collect();
        let place = |part: &str| text.iter().position(|t| t.contains(part)).unwrap_or_else(|| panic!("{part} is not in {text:?}"));
        let order =
            ["few as they were before it began", "forgotten more easily", "log grows faster still", "at rest with itself", "max_wal_size"];
        assert!(order.windows(2).all(|pair| place(pair[0]) < place(pair[1])), "{text:?}");
        assert_eq!(place("max_wal_size"), place("4096"));
        assert!(text.contains(&"After the table the text goes on over the whole width of the page, as it did before the columns began."));
    }
}
