//! PDF: text in reading order, headings by the size of their letters, headers and footers of pages left out.
//!
//! `content.rs` runs a page's drawing operations and gives pieces of text with place and size, `columns.rs` puts those of
//! columns in order, `lines.rs` makes blocks
//! of them. Everything that can inflate is bounded; a caller that wants the memory bounded whatever the file does reads
//! it in a process of its own ([`crate::read::Reading::pdf_worker`]).

mod columns;
mod content;
mod font;
mod lines;

use std::path::Path;

use lopdf::{Document as Pdf, Error, LoadOptions};

use crate::document::Document;
use crate::error::{ReadError, ReadErrorKind};

/// Most bytes that one stream of a file may unpack to.
const MOST_STREAM: usize = 16 << 20;
/// Most pages.
const MOST_PAGES: usize = 20_000;

/// Reads a file. Offsets are those of the text that was read.
///
/// # Errors
/// `Encrypted` with a password, `Empty` for pictures of text, `TooLarge` past the bounds, `Damaged`.
pub fn read(path: &Path) -> Result<Document, ReadError> {
    let options = LoadOptions { max_decompressed_size: Some(MOST_STREAM), ..LoadOptions::default() };
    let pdf = Pdf::load_with_options(path, options).map_err(broken)?;
    if pdf.is_encrypted() {
        return Err(locked());
    }
    let mut pages = lines::Pages::default();
    for (number, page) in pdf.page_iter().enumerate() {
        if number >= MOST_PAGES {
            return Err(ReadError::new(ReadErrorKind::TooLarge, format!("more than {MOST_PAGES} pages")));
        }
        let pieces = content::pieces(&pdf, page).map_err(broken)?;
        pages.add(u32::try_from(number + 1).unwrap_or(u32::MAX), columns::in_reading_order(pieces));
        if pages.bytes() > crate::document::MOST_TEXT {
            break;
        }
    }
    if pages.count() == 0 {
        // What is encrypted in a way that the library does not know has no pages for it.
        if pdf.trailer.has(b"Encrypt") {
            return Err(locked());
        }
        return Err(ReadError::damaged("no pages can be found in it"));
    }
    pages.finish(title(&pdf)).map_err(|error| match error.kind {
        ReadErrorKind::Empty => ReadError::new(ReadErrorKind::Empty, "there is no text in it, only pictures: run text recognition first"),
        _ => error,
    })
}

fn locked() -> ReadError {
    ReadError::new(ReadErrorKind::Encrypted, "encrypted with a password")
}

fn broken(error: Error) -> ReadError {
    match error {
        Error::InvalidPassword | Error::Decryption(_) => locked(),
        Error::Decompress(why) if why.to_string().contains("limit") => {
            ReadError::new(ReadErrorKind::TooLarge, format!("a stream in it unpacks to more than {} MB", MOST_STREAM >> 20))
        }
        Error::IO(error) => error.into(),
        other => ReadError::damaged(format!("not a readable PDF: {other}")),
    }
}

/// The title in the file's information, unless it is a file name left by a word processor.
fn title(pdf: &Pdf) -> Option<String> {
    let information = pdf.trailer.get_deref(b"Info", pdf).and_then(lopdf::Object::as_dict).ok()?;
    let title = lopdf::decode_text_string(information.get(b"Title").ok()?).ok()?;
    let name = [".doc", ".docx", ".tex", ".dvi", ".indd", ".odt"].iter().any(|end| title.ends_with(end));
    (!name && title.trim().len() > 2).then(|| title.trim().to_owned())
}
