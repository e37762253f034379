//! Bytes to text: UTF-8, UTF-16 with or without a mark, GB18030 and what else people save texts in; binary data is told.

use std::borrow::Cow;

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, GB18030, GBK, UTF_8, UTF_16BE, UTF_16LE};

use crate::document::is_han;
use crate::error::{ReadError, ReadErrorKind};

/// Share of characters that may be unreadable, in a thousand: a stray byte spoils no document.
const MOST_BAD: usize = 5;

/// The text of a file. `declared` is what the file says of itself (a `charset`), believed where it fits.
///
/// # Errors
/// `Encoding` when the bytes are no text in any encoding that is tried.
pub fn text<'b>(bytes: &'b [u8], declared: Option<&str>) -> Result<Cow<'b, str>, ReadError> {
    if let Some((encoding, skip)) = Encoding::for_bom(bytes) {
        return checked(encoding, &bytes[skip..]);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && !text.contains('\0')
    {
        return plausible(Cow::Borrowed(text), UTF_8);
    }
    if let Some(encoding) = utf16_without_mark(bytes) {
        return checked(encoding, bytes);
    }
    if bytes.contains(&0) {
        return Err(ReadError::new(ReadErrorKind::Encoding, "binary data, not text"));
    }
    let said = declared.and_then(|label| Encoding::for_label(label.trim().as_bytes())).map(|e| if e == GBK { GB18030 } else { e });
    if let Some(encoding) = said.filter(|e| *e != UTF_8)
        && let Ok(text) = checked(encoding, bytes)
    {
        return Ok(text);
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(bytes, true);
    let guess = detector.guess(None, Utf8Detection::Allow);
    // GB18030 holds all of GBK, and characters beyond it.
    checked(if guess == GBK { GB18030 } else { guess }, bytes)
}

fn checked<'b>(encoding: &'static Encoding, bytes: &'b [u8]) -> Result<Cow<'b, str>, ReadError> {
    let (text, _) = encoding.decode_without_bom_handling(bytes);
    plausible(text, encoding)
}

/// Refuses a text with too many characters that could not be read, or that no text has.
fn plausible<'b>(text: Cow<'b, str>, encoding: &'static Encoding) -> Result<Cow<'b, str>, ReadError> {
    let odd = |c: char| matches!(c, '\u{fffd}' | '\0'..='\u{8}' | '\u{e}'..='\u{1a}' | '\u{1c}'..='\u{1f}' | '\u{7f}'..='\u{84}' | '\u{86}'..='\u{9f}');
    let (all, bad) = text.chars().fold((0usize, 0usize), |(all, bad), c| (all + 1, bad + usize::from(odd(c))));
    if bad * 1000 > all * MOST_BAD {
        let name = encoding.name();
        return Err(ReadError::new(
            ReadErrorKind::Encoding,
            format!("{bad} of {all} characters cannot be read as {name}, the likeliest encoding: damaged, or binary data"),
        ));
    }
    Ok(text)
}

/// UTF-16 shows by what its units are: letters and signs of known scripts one way round, and nonsense the other.
fn utf16_without_mark(bytes: &[u8]) -> Option<&'static Encoding> {
    let sample = &bytes[..bytes.len().min(4096) & !1];
    if sample.len() < 8 || !bytes.len().is_multiple_of(2) {
        return None;
    }
    let share = |of: fn([u8; 2]) -> u16| {
        let known = |unit: u16| {
            matches!(unit, 9 | 10 | 13 | 0x20..=0x7e | 0xa0..=0x24f | 0x2010..=0x2030) || char::from_u32(unit.into()).is_some_and(is_han)
        };
        let units = sample.chunks_exact(2).map(|p| of([p[0], p[1]]));
        let (all, good, plain) = units.fold((0u32, 0u32, 0u32), |(all, good, plain), unit| {
            (all + 1, good + u32::from(known(unit)), plain + u32::from(matches!(unit, 9 | 10 | 13 | 0x20..=0x7e)))
        });
        // Pairs of Latin letters read as Han characters too: some unit must be a plain sign, as a line end is.
        if plain == 0 { 0.0 } else { f64::from(good) / f64::from(all) }
    };
    let (little, big) = (share(u16::from_le_bytes), share(u16::from_be_bytes));
    match (little, big) {
        (l, b) if l > 0.95 && l > b => Some(UTF_16LE),
        (l, b) if b > 0.95 && b > l => Some(UTF_16BE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZH: &str =
        "当 work_mem 太小时，排序和哈希会写入临时文件。\n检查 temp_bytes 的增长，再给出问题语句所在的角色设置更大的 work_mem。\n";

    fn utf16(text: &str, big: bool) -> Vec<u8> {
        text.encode_utf16().flat_map(|u| if big { u.to_be_bytes() } else { u.to_le_bytes() }).collect()
    }

    #[test]
    fn a_chinese_text_is_read_however_it_was_saved() {
        let (gb, _, _) = GB18030.encode(ZH);
        let marked = [&[0xff, 0xfe][..], &utf16(ZH, false)].concat();
        for bytes in [ZH.as_bytes().to_vec(), gb.into_owned(), marked, utf16(ZH, false), utf16(ZH, true)] {
            assert_eq!(text(&bytes, None).unwrap(), ZH);
        }
    }

    #[test]
    fn a_wrong_declaration_is_not_believed() {
        let (gb, _, _) = GB18030.encode(ZH);
        assert_eq!(text(&gb, Some("utf-8")).unwrap(), ZH);
        assert_eq!(text(b"caf\xe9 au lait, d\xe9j\xe0 vu, tr\xe8s bien", None).unwrap(), "café au lait, déjà vu, très bien");
    }

    #[test]
    fn binary_data_is_told_from_text() {
        let noise: Vec<u8> = (0u32..5000).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for bytes in [&noise[..], b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0", &[0u8; 64][..]] {
            assert_eq!(text(bytes, None).unwrap_err().kind, ReadErrorKind::Encoding);
        }
    }
}
