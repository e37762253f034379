//! Fonts of a PDF, as far as text needs them: what a string says, and how wide it is.

use std::collections::HashMap;

use lopdf::{Dictionary, Document as Pdf, Encoding, Error, Object};

/// Most bytes of a font's table of characters.
const MOST_MAP: usize = 2 << 20;

/// A font on a page.
pub struct Font<'p> {
    encoding: Option<Encoding<'p>>,
    widths: HashMap<u32, f32>,
    default_width: f32,
    /// Bytes of a character's code.
    code: usize,
    /// Whether its name says that it is bold.
    pub bold: bool,
}

/// A string shown: its text, its width at size 1, and the blanks and characters that spacing applies to.
pub struct Shown {
    pub text: String,
    pub width: f32,
    pub characters: f32,
    pub blanks: f32,
}

impl<'p> Font<'p> {
    /// Reads a font's dictionary.
    ///
    /// # Errors
    /// Only where its table of characters is above the bounds; an unknown encoding is a font whose text is left out.
    pub fn new(pdf: &'p Pdf, font: &'p Dictionary) -> Result<Self, Error> {
        let composite = font.get(b"Subtype").and_then(Object::as_name).is_ok_and(|name| name == b"Type0");
        let encoding = match encoding(pdf, font) {
            Ok(encoding) => Some(encoding),
            Err(error @ Error::Decompress(_)) => return Err(error),
            Err(_) => None,
        };
        let name = font.get(b"BaseFont").and_then(Object::as_name).unwrap_or_default();
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let bold = ["bold", "black", "heavy", "semibold", "demi"].iter().any(|word| name.contains(word));
        let (widths, default_width) = if composite { composite_widths(pdf, font) } else { simple_widths(pdf, font) };
        Ok(Self { encoding, widths, default_width, code: if composite { 2 } else { 1 }, bold })
    }

    /// What a string says. Without a known encoding it says nothing, but takes its room.
    pub fn show(&self, bytes: &[u8]) -> Shown {
        let text = self.encoding.as_ref().and_then(|e| e.bytes_to_string(bytes).ok()).unwrap_or_default();
        let codes = bytes.chunks(self.code).map(|code| code.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte)));
        let (mut width, mut characters, mut blanks) = (0.0, 0.0, 0.0);
        for code in codes {
            width += self.widths.get(&code).copied().unwrap_or(self.default_width) / 1000.0;
            characters += 1.0;
            blanks += f32::from(u8::from(self.code == 1 && code == 32));
        }
        Shown { text, width, characters, blanks }
    }
}

/// How a font's codes are read: its own table of characters before the encoding, which may hold names of its own making.
fn encoding<'p>(pdf: &'p Pdf, font: &'p Dictionary) -> Result<Encoding<'p>, Error> {
    if font.has(b"ToUnicode") {
        let mut bare = font.clone();
        bare.remove(b"Encoding");
        if let Encoding::UnicodeMapEncoding(map) = bare.get_font_encoding_with_limit(pdf, MOST_MAP)? {
            return Ok(Encoding::UnicodeMapEncoding(map));
        }
    }
    font.get_font_encoding_with_limit(pdf, MOST_MAP)
}

fn simple_widths(pdf: &Pdf, font: &Dictionary) -> (HashMap<u32, f32>, f32) {
    let first = font.get(b"FirstChar").and_then(Object::as_i64).ok().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let list = font.get_deref(b"Widths", pdf).and_then(Object::as_array);
    let widths: HashMap<u32, f32> = list.map_or_else(
        |_| HashMap::new(),
        |list| (first..).zip(list.iter().take(256)).filter_map(|(code, w)| Some((code, number(pdf, w)?))).collect(),
    );
    // The fourteen standard fonts need not say their widths: half an em is about right.
    (widths, 500.0)
}

fn composite_widths(pdf: &Pdf, font: &Dictionary) -> (HashMap<u32, f32>, f32) {
    let mut widths = HashMap::new();
    let descendant = font.get_deref(b"DescendantFonts", pdf).and_then(Object::as_array).ok().and_then(|list| list.first());
    let Some(descendant) = descendant.and_then(|d| pdf.dereference(d).ok()).and_then(|(_, d)| d.as_dict().ok()) else {
        return (widths, 1000.0);
    };
    let default = descendant.get(b"DW").ok().and_then(|w| number(pdf, w)).unwrap_or(1000.0);
    let Ok(list) = descendant.get_deref(b"W", pdf).and_then(Object::as_array) else { return (widths, default) };
    let mut at = 0;
    while let Some(first) = list.get(at).and_then(|o| number(pdf, o)) {
        let first = first as u32;
        match list.get(at + 1).and_then(|o| pdf.dereference(o).ok()).map(|(_, o)| o) {
            Some(Object::Array(run)) => {
                widths.extend((first..).zip(run.iter().take(65_536)).filter_map(|(code, w)| Some((code, number(pdf, w)?))));
                at += 2;
            }
            Some(last) => {
                let (last, width) = (number(pdf, last), list.get(at + 2).and_then(|o| number(pdf, o)));
                if let (Some(last), Some(width)) = (last, width) {
                    widths.extend((first..=(last as u32).min(65_535)).map(|code| (code, width)));
                }
                at += 3;
            }
            None => break,
        }
        if widths.len() > 65_536 {
            break;
        }
    }
    (widths, default)
}

/// A number, wherever it stands.
pub fn number(pdf: &Pdf, object: &Object) -> Option<f32> {
    match pdf.dereference(object).ok()?.1 {
        Object::Integer(n) => Some(*n as f32),
        Object::Real(n) => Some(*n),
        _ => None,
    }
    .filter(|n| n.is_finite())
}
