//! A file to a document: its format told by content and name, its size checked first, its reader unable to harm the rest.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::document::Document;
use crate::error::{ReadError, ReadErrorKind};
use crate::{decode, docx, epub, html, markdown, pdf, plain};

/// Largest file of text.
const MOST_TEXT_FILE: u64 = 16 << 20;
/// Largest PDF: it is held in memory.
const MOST_PDF: u64 = 64 << 20;
/// Largest archive: most of it is pictures, which are passed over.
const MOST_ARCHIVE: u64 = 256 << 20;
/// Most bytes of a worker's answer: the bounds of a document, written as JSON.
const MOST_ANSWER: u64 = 96 << 20;

/// How files are read.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// Program and arguments that read one PDF, whose path comes last, and print what [`answer`] gives. Without it a
    /// PDF is read in this process, whose memory a hostile one may take.
    pub pdf_worker: Option<Vec<OsString>>,
}

/// Formats, told by the first bytes where these say it and else by the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Markdown.
    Markdown,
    /// HTML and XHTML.
    Html,
    /// Plain text.
    Plain,
    /// PDF.
    Pdf,
    /// Word.
    Docx,
    /// EPUB.
    Epub,
}

impl Format {
    /// The format that a name promises; none for names that no document has.
    pub fn of_name(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Some(match extension.as_str() {
            "md" | "markdown" | "mdown" => Self::Markdown,
            "html" | "htm" | "xhtml" => Self::Html,
            "txt" | "text" => Self::Plain,
            "pdf" => Self::Pdf,
            "docx" | "docm" => Self::Docx,
            "epub" => Self::Epub,
            _ => return None,
        })
    }

    fn of(path: &Path, head: &[u8]) -> Result<Self, ReadError> {
        let name = Self::of_name(path);
        if head.is_empty() {
            return Err(ReadError::new(ReadErrorKind::Empty, "the file is empty"));
        }
        // Some writers put a few bytes before a PDF; a text may speak of them.
        let somewhere = || matches!(name, None | Some(Self::Pdf)) && head.windows(5).any(|w| w == b"%PDF-");
        if head.starts_with(b"%PDF-") || somewhere() {
            return Ok(Self::Pdf);
        }
        if head.starts_with(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1") {
            let (kind, what) = match name {
                Some(Self::Docx) => (ReadErrorKind::Encrypted, "encrypted with a password, or an old Word file under a new name"),
                _ => (ReadErrorKind::Unsupported, "an old Office file: save it as .docx"),
            };
            return Err(ReadError::new(kind, what));
        }
        if head.starts_with(b"PK") {
            return match name {
                Some(Self::Epub) => Ok(Self::Epub),
                Some(Self::Docx) => Ok(Self::Docx),
                _ if head.windows(20).any(|w| w == b"application/epub+zip") => Ok(Self::Epub),
                _ => Err(ReadError::new(ReadErrorKind::Unsupported, "an archive, not a document that is read")),
            };
        }
        match name {
            Some(Self::Pdf) => Err(ReadError::damaged("not a PDF: it does not begin as one")),
            Some(Self::Docx | Self::Epub) => Err(ReadError::damaged("not an archive, as a document of this kind is")),
            Some(format) => Ok(format),
            None if looks_like_html(head) => Ok(Self::Html),
            None => Ok(Self::Plain),
        }
    }

    fn most(self) -> u64 {
        match self {
            Self::Markdown | Self::Html | Self::Plain => MOST_TEXT_FILE,
            Self::Pdf => MOST_PDF,
            Self::Docx | Self::Epub => MOST_ARCHIVE,
        }
    }
}

fn looks_like_html(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head).trim_start().to_ascii_lowercase();
    head.starts_with("<!doctype html") || head.starts_with("<html")
}

/// SHA-256 of a file's content.
///
/// # Errors
/// `TooLarge` for what no format may be, and what the system says.
pub fn hash(path: &Path) -> Result<String, ReadError> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let most = Format::of_name(path).map_or(MOST_ARCHIVE, Format::most);
    check(size, most)?;
    let mut reader = file.take(most + 1);
    let mut digest = Sha256::new();
    let mut block = vec![0; 1 << 16];
    loop {
        match reader.read(&mut block)? {
            0 => return Ok(crate::extract::hex(&digest.finalize())),
            read => digest.update(&block[..read]),
        }
    }
}

/// Reads a document.
///
/// # Errors
/// What is wrong with the file, in one line. A reader that panics is one of them.
pub fn read(path: &Path, reading: &Reading) -> Result<Document, ReadError> {
    std::panic::catch_unwind(AssertUnwindSafe(|| read_any(path, reading)))
        .unwrap_or_else(|_| Err(ReadError::new(ReadErrorKind::Fault, "the reader of its format failed on it: a fault of ours")))
}

fn read_any(path: &Path, reading: &Reading) -> Result<Document, ReadError> {
    let about = fs::metadata(path)?;
    if !about.is_file() {
        return Err(ReadError::new(ReadErrorKind::Unsupported, "not a plain file"));
    }
    let mut head = Vec::new();
    File::open(path)?.take(1024).read_to_end(&mut head)?;
    let format = Format::of(path, &head)?;
    check(about.len(), format.most())?;
    match format {
        Format::Docx => docx::read(path),
        Format::Epub => epub::read(path),
        Format::Pdf => match &reading.pdf_worker {
            Some(worker) => ask(worker, path),
            None => pdf::read(path),
        },
        Format::Html | Format::Markdown | Format::Plain => {
            let mut bytes = Vec::with_capacity(usize::try_from(about.len()).unwrap_or(0));
            // It may have grown since it was looked at.
            File::open(path)?.take(MOST_TEXT_FILE + 1).read_to_end(&mut bytes)?;
            check(bytes.len() as u64, MOST_TEXT_FILE)?;
            let declared = if format == Format::Html { html::declared_charset(&bytes) } else { None };
            let text = decode::text(&bytes, declared.as_deref())?;
            match format {
                Format::Html => html::read(&text),
                Format::Markdown => markdown::read(&text),
                _ => plain::read(&text),
            }
        }
    }
}

fn check(size: u64, most: u64) -> Result<(), ReadError> {
    if size <= most {
        return Ok(());
    }
    let mb = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(ReadError::new(ReadErrorKind::TooLarge, format!("{} MB, above the limit of {} MB", mb(size), mb(most))))
}

/// What a worker process prints: the document or the error, as JSON.
pub fn answer(path: &Path) -> String {
    serde_json::to_string(&read(path, &Reading::default())).unwrap_or_default()
}

fn ask(worker: &[OsString], path: &Path) -> Result<Document, ReadError> {
    let fault = |what: String| ReadError::new(ReadErrorKind::Fault, what);
    let (program, arguments) = worker.split_first().ok_or_else(|| fault("no reader is named for PDFs".to_owned()))?;
    let mut child = Command::new(program)
        .args(arguments)
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| fault(format!("the reader of PDFs cannot be started: {e}")))?;
    let answer = child.stdout.take().map(|out| serde_json::from_reader(BufReader::new(out.take(MOST_ANSWER))));
    // Whatever it still does is of no use.
    let _ = child.kill();
    let ended = child.wait()?;
    match answer {
        Some(Ok(answer)) => answer,
        _ => Err(ReadError::new(
            ReadErrorKind::TooLarge,
            format!("reading it takes more memory or time than a PDF may take, or the reader failed on it ({ended})"),
        )),
    }
}
